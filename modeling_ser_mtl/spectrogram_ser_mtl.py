"""
A small encoder for training from scratch: 2D convolutions over the log-mel spectrogram, then the conformer layers of
wav2vec2-bert.

An encoder of a few clips can't learn by itself that a pattern means the same a semitone higher: convolutions over time
and frequency, of which the mean over frequencies is taken, know it from the start.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import (
    Wav2Vec2BertBaseModelOutput,
    Wav2Vec2BertFeatureProjection,
    Wav2Vec2BertModel,
    _compute_mask_indices,
)

from .configuration_ser_mtl import SpectrogramEncoderConfig
from .padding_ser_mtl import frame_mask


class MaskedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the real frames of a batch: padding counts neither in the statistics nor in the result."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, hidden_states: Tensor, mask: Tensor | None = None) -> Tensor:
        """
        Args:
            hidden_states (`Tensor` of shape `(B, C, T, F)`): feature maps.
            mask (`Tensor` of shape `(B, 1, T, 1)`, *optional*): 1 at real frames, 0 at padding.

        Returns:
            `Tensor` of shape `(B, C, T, F)`: the normalised maps; what it holds at padding has no meaning.
        """
        if mask is None or not self.training:
            return super().forward(hidden_states)
        # With zeros at padding, means over all positions are those over the real ones times their share. Clip by clip,
        # since a mean over dimensions that aren't neighbours is slow.
        real, share = (hidden_states * mask).float().flatten(2), mask.float().mean()
        mean = real.mean(2).mean(0) / share
        square = (real - mean[:, None]).square().mean(2).mean(0)
        variance = ((square - (1 - share) * mean.square()) / share).clamp(min=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_(variance.to(self.running_var), self.momentum)
            self.num_batches_tracked += 1
        scale = (variance + self.eps).rsqrt() * self.weight
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, None, None], hidden_states, scale[:, None, None]).to(hidden_states.dtype)


class ConvolutionBlock(nn.Module):
    """
    Two 3 x 3 convolutions over maps whose size max pooling has halved, and a way around them (He et al. 2016).

    Args:
        in_channels (`int`), out_channels (`int`): maps that come and go.
        time_stride (`int`): 1 leaves the number of frames as it is, 2 halves it.
    """

    def __init__(self, in_channels: int, out_channels: int, time_stride: int) -> None:
        super().__init__()
        self.stride = (time_stride, 2)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = MaskedBatchNorm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = MaskedBatchNorm(out_channels)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        """
        Args:
            hidden_states (`Tensor` of shape `(B, in_channels, T, F)`): maps of at least 0, which are 0 at padding.
            mask (`Tensor` of shape `(B, 1, ceil(T / time_stride), 1)`, *optional*): 1 at the real frames that come out.

        Returns:
            `Tensor` of shape `(B, out_channels, ceil(T / time_stride), ceil(F / 2))`: likewise.
        """
        hidden_states = F.max_pool2d(hidden_states, self.stride, ceil_mode=True)
        residual = _masked(F.relu(self.norm1(self.conv1(hidden_states), mask)), mask)
        residual = self.norm2(self.conv2(residual), mask)
        return _masked(F.relu(residual + self.shortcut(hidden_states)), mask)


class SpectrogramStem(nn.Module):
    """
    A residual network over the spectrogram, and the mean over its frequencies.

    It sees each clip twice: as it comes, and each mel bin standardised over the clip, where a speaker's voice and the
    channel weigh less.

    Args:
        config ([`SpectrogramEncoderConfig`]): its channels and strides.
    """

    def __init__(self, config: SpectrogramEncoderConfig) -> None:
        super().__init__()
        self.num_stacked_frames, self.time_strides = config.num_stacked_frames, config.stem_time_strides
        channels = config.stem_channels
        # One frame out of each stack that comes in.
        self.conv = nn.Conv2d(2, channels[0], 5, stride=(config.num_stacked_frames, 2), padding=2, bias=False)
        self.norm = MaskedBatchNorm(channels[0])
        self.blocks = nn.ModuleList(
            ConvolutionBlock(channels[index], channels[index + 1], time_stride)
            for index, time_stride in enumerate(config.stem_time_strides)
        )

    def forward(self, input_features: Tensor, lengths: Tensor | None) -> Tensor:
        """
        Args:
            input_features (`Tensor` of shape `(B, T, num_stacked_frames * num_mel_bins)`): stacked log-mel frames.
            lengths (`Tensor` of shape `(B,)`, *optional*): stacks of each clip that are no padding.

        Returns:
            `Tensor` of shape `(B, T', stem_channels[-1])`, where T' is T divided by each of the strides, rounded up.
        """
        mask = _mask(lengths, input_features)
        spectrogram = input_features.unflatten(-1, (self.num_stacked_frames, -1)).flatten(1, 2)[:, None]
        real = torch.ones_like(input_features[:, None, :, :1]) if mask is None else mask
        real = real.repeat_interleave(self.num_stacked_frames, dim=2)
        spectrogram = spectrogram * real
        hidden_states = self.conv(torch.cat([spectrogram, _standardised(spectrogram, real)], dim=1))
        hidden_states = _masked(F.relu(self.norm(hidden_states, mask)), mask)
        for block, time_stride in zip(self.blocks, self.time_strides, strict=True):
            if mask is not None:
                mask = mask[:, :, ::time_stride]
            hidden_states = block(hidden_states, mask)
        return hidden_states.mean(-1).transpose(1, 2)


class SpectrogramEncoder(Wav2Vec2BertModel):
    """
    A [`SpectrogramStem`], and conformer layers upon it.

    In training, its batch norm makes a clip's result depend on the others of its batch; in evaluation nothing does.
    SpecAugment (Park et al., Interspeech 2019) masks what comes in: `mask_time_prob` and `mask_time_length` are of the
    layers' frames, `mask_feature_prob` and `mask_feature_length` of mel bins.

    Args:
        config ([`SpectrogramEncoderConfig`]): what the encoder is.
    """

    config_class = SpectrogramEncoderConfig
    config: SpectrogramEncoderConfig

    def __init__(self, config: SpectrogramEncoderConfig) -> None:
        super().__init__(config)
        # The vector for masked hidden states, which are not masked here.
        self._parameters.pop("masked_spec_embed", None)
        self.stem = SpectrogramStem(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Wav2Vec2BertFeatureProjection):
            # Its layer begins with `initializer_range` as any other. Transformers comes here in from_pretrained only.
            return
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            # As PyTorch does: small weights, which the norms then scale, learn faster.
            init.kaiming_uniform_(module.weight, a=5**0.5)

    def forward(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        **kwargs: Any,
    ) -> Wav2Vec2BertBaseModelOutput:
        """
        Args:
            input_features (`Tensor` of shape `(B, T, num_stacked_frames * num_mel_bins)`): standardised log-mel frames.
            attention_mask (`Tensor` of shape `(B, T)`, *optional*): 1 where a stack of frames is no padding.
            mask_time_indices (`Tensor` of shape `(B, T')`, bool, *optional*): the layers' frames whose spectrogram
                SpecAugment masks in training; by default drawn.
            **kwargs: as in transformers.

        Returns:
            `Wav2Vec2BertBaseModelOutput`: hidden states `(B, T', hidden_size)`.
        """
        lengths = None if attention_mask is None else attention_mask.sum(1)
        if self.training and self.config.apply_spec_augment:
            input_features = self._mask_spectrogram(input_features, mask_time_indices)
        hidden_states = self.stem(input_features, lengths)
        if lengths is not None:
            attention_mask = frame_mask(self._get_feat_extract_output_lengths(lengths), hidden_states.shape[1]).long()
        return super().forward(hidden_states, attention_mask=attention_mask, **kwargs)

    def _mask_hidden_states(self, hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        # The spectrogram has been masked.
        return hidden_states

    def _mask_spectrogram(self, features: Tensor, mask_time_indices: Tensor | None) -> Tensor:
        config, (batch_size, num_stacks, size) = self.config, features.shape
        if mask_time_indices is None and config.mask_time_prob > 0:
            drawn = _compute_mask_indices(
                (batch_size, self._get_feat_extract_output_lengths(num_stacks)),
                config.mask_time_prob,
                config.mask_time_length,
                min_masks=config.mask_time_min_masks,
            )
            mask_time_indices = torch.from_numpy(drawn).to(features.device)
        # 0 is the mean of each mel bin.
        if mask_time_indices is not None:
            stacks = mask_time_indices.repeat_interleave(math.prod(config.stem_time_strides), dim=1)[:, :num_stacks]
            features = features.masked_fill(stacks[..., None], 0.0)
        if config.mask_feature_prob > 0:
            drawn = _compute_mask_indices(
                (batch_size, size // config.num_stacked_frames),
                config.mask_feature_prob,
                config.mask_feature_length,
                min_masks=config.mask_feature_min_masks,
            )
            mel_bins = torch.from_numpy(drawn).to(features.device).repeat(1, config.num_stacked_frames)
            features = features.masked_fill(mel_bins[:, None], 0.0)
        return features

    def _get_feat_extract_output_lengths(self, input_lengths: Any, add_adapter: bool | None = None) -> Any:
        for time_stride in self.config.stem_time_strides:
            input_lengths = -(-input_lengths // time_stride)
        return input_lengths


def _standardised(spectrogram: Tensor, mask: Tensor) -> Tensor:
    """Each mel bin's distance from its mean over the clip's real frames, in standard deviations; 0 at padding."""
    count = mask.float().sum(2, keepdim=True).clamp(min=1)
    centred = (spectrogram - spectrogram.float().sum(2, keepdim=True) / count) * mask
    # Silence stays silence: a bin that hardly moves is not blown up.
    variance = centred.square().sum(2, keepdim=True) / count + 0.01
    return (centred * variance.rsqrt()).to(spectrogram.dtype)


def _mask(lengths: Tensor | None, features: Tensor) -> Tensor | None:
    """1 at real frames, `(B, 1, T, 1)`; None where nothing is padded."""
    if lengths is None:
        return None
    return frame_mask(lengths, features.shape[1])[:, None, :, None].to(features.dtype)


def _masked(hidden_states: Tensor, mask: Tensor | None) -> Tensor:
    return hidden_states if mask is None else hidden_states * mask
