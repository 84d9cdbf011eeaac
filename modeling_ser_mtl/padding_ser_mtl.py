"""
Keeps padding out of a speech backbone: a clip gives the same hidden states alone, padded to any length and in any batch.

The backbones of transformers mask padding in their attention and zero the padded frames once, where the encoder begins.
Padding still reaches the real frames through the modules that mix time elsewhere:

| module | found in | how it leaks | what is done |
|---|---|---|---|
| `GroupNorm` in the feature encoder | wav2vec2, HuBERT, WavLM, UniSpeech, UniSpeech-SAT, SEW with `feat_extract_norm="group"`, wav2vec2-conformer likewise | its statistics run over the padded frames too | [`MaskedGroupNorm`]: statistics over the clip's own frames |
| `Conv1d` that pads its input itself | conformer modules, stacked positional convolutions (data2vec-audio) | what earlier layers wrote into padded frames joins the last real ones; alone there are zeros | [`Padding.zero_padded_frames`] before each |
| `BatchNorm1d` | conformer modules, HuBERT with `conv_pos_batch_norm` | in training its statistics run over the batch, padding included | [`FrozenBatchNorm`]: the checkpoint's statistics, in training too |
| squeezed attention mask | SEW | a clip with an odd number of frames keeps a last squeezed frame, half of it padding, that it lacks alone | [`Padding.mask_squeezed_frames`] before each layer |

Convolutions without padding of their own cannot leak: those of the feature encoder give real frames from real samples
only, and wav2vec2-bert pads to the left. The modules are found by what they are, not by the name of the model, and
keep their weights, the names of their weights, and their results for a clip without padding.

Everything reads the lengths of the current batch from one [`Padding`] object.
"""  # noqa: E501

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask


class Lengths(NamedTuple):
    """
    Lengths of the clips of a batch, without padding.

    Args:
        inputs (`Tensor` of shape `(B,)`): in samples, or in the frames of log-mel features.
        frames (`Tensor` of shape `(B,)`): in frames of the feature encoder.
    """

    inputs: Tensor
    frames: Tensor


class Padding:
    """
    The lengths of the batch that the backbone reads, for the modules that need them.

    They stay until the next forward, so that layers which are recomputed in the backward find them. Layers checkpointed
    by [`~Padding.checkpoint`] get those of their own forward, also if another one came in between.

    Args:
        config (`PretrainedConfig`): configuration of the backbone.

    Attributes:
        lengths ([`Lengths`]): those of the batch; None where nothing is padded.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        self.config = config
        self.lengths: Lengths | None = None  # None: nothing is padded

    def zero_padded_frames(self, _module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        """
        Forward pre-hook of a convolution over frames: zeros in place of the padded ones.

        Args:
            args (`tuple[Tensor]`): the convolution's input, of shape `(B, H, T)`.

        Returns:
            `tuple[Tensor]`: the input without what padded frames held, of the same shape; None leaves it as it is.
        """
        if self.lengths is None:
            return None
        (hidden_states,) = args
        mask = frame_mask(self.lengths.frames, hidden_states.shape[-1])
        return (hidden_states.masked_fill(~mask[:, None], 0.0),)

    def mask_squeezed_frames(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """
        Forward pre-hook of a layer on squeezed frames: attention to those only that hold no padding.

        Args:
            args (`tuple`): the layer's positional arguments, first the hidden states `(B, T // squeeze_factor, H)`.
            kwargs (`dict`): its keyword arguments.

        Returns:
            `tuple[tuple, dict]`: both, with another `attention_mask`; None leaves them as they are.
        """
        if self.lengths is None:
            return None
        hidden_states = args[0]
        # A clip shorter than one squeezed frame has nothing else to attend to.
        lengths = (self.lengths.frames // self.config.squeeze_factor).clamp(min=1)
        mask = create_bidirectional_mask(self.config, hidden_states, frame_mask(lengths, hidden_states.shape[1]))
        return args, kwargs | {"attention_mask": mask}

    def checkpoint(self, checkpoint: Callable[..., Any], function: Callable[..., Any], *args: Any) -> Any:
        """
        `checkpoint(function, *args)`, recomputed with the lengths of now.

        Args:
            checkpoint (`Callable`): `torch.utils.checkpoint.checkpoint` or one of its kind.
            function (`Callable`): forward of a layer, or a `functools.partial` of it.
            args (`Any`): positional arguments of `function`.

        Returns:
            What `function` returns.
        """
        lengths = self.lengths
        # Reentrant checkpoints cut the graph at positional arguments only; WavLM's layers hand their position bias on
        # by name, and the backward of each would run through all before it, again and again.
        keywords = function.keywords if isinstance(function, partial) else {}
        named = {name: value for name, value in keywords.items() if torch.is_tensor(value) and value.requires_grad}

        def with_lengths(*values: Any) -> Any:
            current, self.lengths = self.lengths, lengths
            try:
                return function(*values[: len(args)], **dict(zip(named, values[len(args) :], strict=True)))
            finally:
                self.lengths = current

        return checkpoint(with_lengths, *args, *named.values())


class MaskedGroupNorm(nn.GroupNorm):
    """
    Group norm with one channel per group whose statistics run over the real frames of each clip.

    A module becomes one by [`keep_padding_out`], which sets the two attributes.

    Attributes:
        padding ([`Padding`]): where the lengths come from.
        convolutions (`tuple[tuple[int, int], ...]`): kernel size and stride of the convolutions between the backbone's
            input and this norm.
    """

    padding: Padding
    convolutions: tuple[tuple[int, int], ...]

    def forward(self, hidden_states: Tensor) -> Tensor:
        """
        Normalises `hidden_states` `(B, C, T)`; padded frames come back as the bias. Without gradients the result may
        take the place of `hidden_states`.
        """
        if self.padding.lengths is None:
            return super().forward(hidden_states)
        lengths = self.padding.lengths.inputs
        for kernel_size, stride in self.convolutions:
            lengths = (lengths - kernel_size) // stride + 1
        hidden_states, dtype = hidden_states.float(), hidden_states.dtype
        # Without gradients nothing reads the convolution's output again, and fresh memory costs more than the sums.
        out = None if torch.is_grad_enabled() else hidden_states
        deviations, variance = masked_deviations(hidden_states, lengths.clamp(min=1), out)
        scale = (variance + self.eps).rsqrt() * self.weight[:, None]
        # Where no gradient needs the deviations, the result takes their place: they are large.
        out = None if deviations.requires_grad or scale.requires_grad else deviations
        return torch.addcmul(self.bias[:, None].float(), deviations, scale, out=out).to(dtype)


class FrozenBatchNorm(nn.BatchNorm1d):
    """Batch norm with its running statistics, also in training: a batch's own would tie each clip to all others."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalises `hidden_states` `(B, C, T)`."""
        return F.batch_norm(
            hidden_states, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


def frame_mask(lengths: Tensor, num_frames: int) -> Tensor:
    """True where a frame is no padding, `(B, num_frames)` bool, for clips of `lengths` `(B,)` frames."""
    return torch.arange(num_frames, device=lengths.device) < lengths[:, None]


def masked_deviations(hidden_states: Tensor, lengths: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """
    Differences from the mean over the real frames of each clip and channel, and their variance.

    Args:
        hidden_states (`Tensor` of shape `(B, C, T)`): frames of C channels, the real ones first.
        lengths (`Tensor` of shape `(B,)`): real frames of each clip, 1 to T.
        out (`Tensor` of shape `(B, C, T)`, *optional*): receives the differences; may be `hidden_states`.

    Returns:
        `tuple[Tensor, Tensor]`: the differences, `(B, C, T)`, 0 on padded frames, and the (biased) variance over the
        real frames, `(B, C, 1)`.
    """
    num_frames = hidden_states.shape[-1]
    mask = frame_mask(lengths, num_frames)[:, None].to(hidden_states.dtype)
    deviations = torch.mul(hidden_states, mask, out=out)
    mean = deviations.mean(-1, keepdim=True) * (num_frames / lengths)[:, None, None]
    deviations.addcmul_(mean, mask, value=-1)
    variance = torch.linalg.vector_norm(deviations, dim=-1, keepdim=True).square() / lengths[:, None, None]
    return deviations, variance


def repeat_frames(hidden_states: Tensor, factor: int, num_frames: int) -> Tensor:
    """
    Squeezed frames at the full rate again.

    Args:
        hidden_states (`Tensor` of shape `(B, num_frames // factor, H)`): squeezed frames.
        factor (`int`): how often each is repeated.
        num_frames (`int`): frames to return; those beyond the last squeezed one hold zeros.

    Returns:
        `Tensor` of shape `(B, num_frames, H)`.
    """
    hidden_states = hidden_states.repeat_interleave(factor, dim=1)
    return F.pad(hidden_states, (0, 0, 0, num_frames - hidden_states.shape[1]))


def keep_padding_out(backbone: PreTrainedModel, layers: nn.ModuleList) -> Padding:
    """
    Prepares a backbone in place; its weights and their names stay.

    Args:
        backbone (`PreTrainedModel`): a speech encoder that takes clips of any length.
        layers (`nn.ModuleList`): its transformer layers.

    Returns:
        [`Padding`]: whose `lengths` are to be set before each forward of the backbone.
    """
    padding = Padding(backbone.config)
    convolutions: list[tuple[int, int]] = []
    for module in backbone.modules():
        # A new class instead of a new module, so that parameters and whatever else holds on to it stay as they are.
        if isinstance(module, nn.GroupNorm) and module.num_groups == module.num_channels:
            module.__class__ = MaskedGroupNorm
            module.padding, module.convolutions = padding, tuple(convolutions)  # type: ignore[assignment]
        elif isinstance(module, nn.BatchNorm1d):
            module.__class__ = FrozenBatchNorm
        elif isinstance(module, nn.Conv1d):
            # Registered in the order in which they run, the first norm after the first convolution.
            convolutions.append((module.kernel_size[0], module.stride[0]))
            if module.kernel_size[0] > 1 and module.padding != (0,):
                module.register_forward_pre_hook(padding.zero_padded_frames)
    if getattr(backbone.config, "squeeze_factor", 1) > 1:
        for layer in layers:
            layer.register_forward_pre_hook(padding.mask_squeezed_frames, with_kwargs=True)
    return padding
