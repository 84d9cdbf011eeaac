"""The four-task speech model: encoder, hidden-state softmax per task, co-attention and heads."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from transformers import MODEL_MAPPING, AutoModel, AutoModelForAudioClassification, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_ser_mtl import SerMtlConfig, SpectrogramEncoderConfig
from .losses_ser_mtl import (
    IGNORE_INDEX,
    angular_margin_per_clip,
    cross_entropy_per_clip,
    cross_entropy_weights,
    ctc_feasible,
    ctc_per_clip,
    full_precision,
    mean_over_labelled,
    swfc_loss,
    weighted_terms,
)
from .padding_ser_mtl import Lengths, Padding, frame_mask, keep_padding_out, repeat_frames
from .pipeline_ser_mtl import CUSTOM_PIPELINES
from .processing_ser_mtl import SerMtlProcessor
from .spectrogram_ser_mtl import SpectrogramEncoder


@dataclass
class SerMtlOutput(ModelOutput):
    """
    Output of [`SerMtlModel`]. What the configuration leaves out is None.

    Args:
        loss (`Tensor`, *optional*): scalar, where labels were given: the sum over tasks of weight times loss.
        logits (`Tensor` of shape `(B, num_labels)`): emotion logits.
        gender_logits (`Tensor` of shape `(B, len(gender_labels))`): gender logits.
        speaker_embeddings (`Tensor` of shape `(B, 192)`): speaker embeddings of unit length.
        ctc_logits (`Tensor` of shape `(B, T * ctc_subframes, vocab_size)`): character logits per frame.
        emotion_embeddings (`Tensor` of shape `(B, 256)`): fused embedding before the emotion classifier.
        frame_mask (`Tensor` of shape `(B, T)`, bool): frames that are not padding.
        task_losses (`dict[str, Tensor]`, *optional*): unweighted loss per task, and `swfc`; scalars.
        co_attentions (`tuple[Tensor]`, *optional*): per auxiliary task, in the order of `config.auxiliary_tasks`, the
            attention of emotion frames to its frames in the last layer, `(B, heads, T, T)`.
        task_gates (`Tensor` of shape `(B, len(config.auxiliary_tasks))`, *optional*): mean gate of each auxiliary task
            over frames and layers, in (0, 1).
        hidden_states (`tuple[Tensor]`, *optional*): `num_hidden_layers + 1` tensors of shape `(B, T, hidden_size)`.
        attentions (`tuple[Tensor]`, *optional*): the backbone's attention maps, `(B, heads, T, T)` each; only eager
            attention gives any.
        speaker_logits (`Tensor` of shape `(B, num_speakers)`, *optional*): cosine similarities of the speaker
            embeddings to the training speakers' prototypes, where the model has any.
        task_log_variances (`Tensor` of shape `(len(config.tasks),)`, *optional*): learned log variance of each task,
            with `task_balancing="uncertainty"`.
        frame_gates (`Tensor` of shape `(B, T, len(config.auxiliary_tasks))`, *optional*): the gates of every frame,
            mean over layers.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    gender_logits: Tensor | None = None
    speaker_embeddings: Tensor | None = None
    ctc_logits: Tensor | None = None
    emotion_embeddings: Tensor | None = None
    frame_mask: Tensor | None = None
    task_losses: dict[str, Tensor] | None = None
    co_attentions: tuple[Tensor, ...] | None = None
    task_gates: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    speaker_logits: Tensor | None = None
    task_log_variances: Tensor | None = None
    frame_gates: Tensor | None = None


class LayerInputs:
    """
    Records the input of every layer that runs; layerdrop skips some in training.

    Args:
        layers (`nn.ModuleList`): layers of the encoder, whose calls it watches.
    """

    def __init__(self, layers: nn.ModuleList) -> None:
        self.inputs: dict[int, Tensor] | None = None  # None: not recording
        for index, layer in enumerate(layers):
            layer.register_forward_pre_hook(partial(self._record, index), with_kwargs=True)

    def _record(self, index: int, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.inputs is not None:
            self.inputs[index] = args[0] if args else kwargs["hidden_states"]

    @contextmanager
    def record(self) -> Iterator[dict[int, Tensor]]:
        """The inputs by layer, filled until the end of the block. Raises a RuntimeError inside another such block."""
        if self.inputs is not None:
            raise RuntimeError("a forward of this model is running already; give each thread a copy of its own")
        inputs: dict[int, Tensor] = {}
        self.inputs = inputs
        try:
            yield inputs
        finally:
            self.inputs = None


class LayerMixture(nn.Module):
    """
    A learned softmax over all hidden states for each task (SUPERB, Yang et al., Interspeech 2021, weighs them for one
    task, here each has its own).

    Args:
        num_tasks (`int`): mixtures.
        num_hidden_states (`int`): the encoder's layers and one.
    """

    def __init__(self, num_tasks: int, num_hidden_states: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_tasks, num_hidden_states))

    def forward(self, hidden_states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Mixtures of `hidden_states`, `(B, T, H)` each: one `(B, T, H)` per task."""
        weights = self.weight.softmax(-1).to(hidden_states[0].dtype)
        return _WeightedSums.apply(weights, *hidden_states).unbind()


class _WeightedSums(torch.autograd.Function):
    """
    `(tasks, layers)` weights and a `(B, T, H)` state per layer to `(tasks, B, T, H)`: every state is read once for all
    tasks, forward and backward, and none is copied.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, *states: Tensor) -> Tensor:
        ctx.save_for_backward(weights, *states)
        mixtures = states[0].new_zeros(len(weights), states[0].numel())
        for weight, state in zip(weights.T, states, strict=True):
            mixtures.addr_(weight, state.flatten())
        return mixtures.unflatten(1, states[0].shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, ...]:
        weights, *states = ctx.saved_tensors
        grad_output = grad_output.flatten(1)
        grad_weights = torch.stack([grad_output @ state.flatten() for state in states], dim=1)
        return grad_weights, *((weight @ grad_output).view_as(states[0]) for weight in weights.T)


class AttentiveStatisticsPooling(nn.Module):
    """
    Attention-weighted mean and standard deviation over time (Okabe et al., Interspeech 2018).

    Args:
        hidden_size (`int`): width H of the stream.
        attention_size (`int`): hidden width of the attention.
    """

    def __init__(self, hidden_size: int, attention_size: int) -> None:
        super().__init__()
        self.attention = nn.Linear(hidden_size, attention_size)
        self.score = nn.Linear(attention_size, 1, bias=False)

    def forward(self, stream: Tensor, frame_mask: Tensor) -> Tensor:
        """Pools `stream` `(B, T, H)` over the frames of `frame_mask` `(B, T)`, bool, to `(B, 2 H)`."""
        score = self.score(torch.tanh(self.attention(stream))).float()
        weights = score.masked_fill(~frame_mask[..., None], torch.finfo(score.dtype).min).softmax(1)
        stream = stream.float().masked_fill(~frame_mask[..., None], 0.0)
        mean = (weights * stream).sum(1)
        variance = (weights * (stream - mean[:, None]).square()).sum(1)
        return torch.cat([mean, variance.clamp(min=1e-6).sqrt()], dim=-1).to(self.score.weight.dtype)


class CrossAttention(nn.Module):
    """
    Multi-head attention of one stream's frames to another's (Vaswani et al., NeurIPS 2017).

    Args:
        hidden_size (`int`): width H of both streams, a multiple of `num_heads`.
        num_heads (`int`): attention heads.
    """

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)  # a key bias cancels in the softmax
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, stream: Tensor, memory: Tensor, frame_mask: Tensor, output_attentions: bool
    ) -> tuple[Tensor, Tensor | None]:
        """
        Context `(B, T, H)` for `stream` from the frames of `memory`, both `(B, T, H)`, that `frame_mask` `(B, T)` has;
        with `output_attentions` also the maps `(B, heads, T, T)`, whose rows sum to 1.
        """

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        query, key, value = split(self.query(stream)), split(self.key(memory)), split(self.value(memory))
        mask = frame_mask[:, None, None, :]
        maps = None
        if output_attentions:
            scores = (query @ key.transpose(-1, -2)).float() / query.shape[-1] ** 0.5
            maps = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1).to(value.dtype)
            context = maps @ value
        else:
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.output(context.transpose(1, 2).flatten(2)), maps


class CoAttentionLayer(nn.Module):
    """
    The emotion stream attends to every auxiliary stream; a gate per frame and task decides how much of each context
    joins the residual; a feed-forward block follows (after MultiEMO's cross-attention, Shi & Huang, ACL 2023; the gates
    are ours).

    Args:
        config ([`SerMtlConfig`]): `fusion_*` and the auxiliary tasks.
    """

    def __init__(self, config: SerMtlConfig) -> None:
        super().__init__()
        size, num_auxiliary = config.fusion_hidden_size, len(config.auxiliary_tasks)
        self.attentions = nn.ModuleList(
            CrossAttention(size, config.fusion_num_attention_heads) for _ in config.auxiliary_tasks
        )
        self.gate = nn.Linear(size * (1 + num_auxiliary), num_auxiliary)
        self.attention_norm = nn.LayerNorm(size)
        self.feed_forward = nn.Sequential(
            nn.Linear(size, 2 * size), nn.GELU(), nn.Dropout(config.fusion_dropout), nn.Linear(2 * size, size)
        )
        self.feed_forward_norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(config.fusion_dropout)

    def forward(
        self, emotion: Tensor, auxiliary: list[Tensor], frame_mask: Tensor, output_attentions: bool
    ) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
        """
        The new `emotion` stream `(B, T, H)`, the gates `(B, T, A)`, in (0, 1), of the A `auxiliary` streams,
        `(B, T, H)` each, and with `output_attentions` their maps `(B, heads, T, T)`, else None. `frame_mask` `(B, T)`.
        """
        attended = [
            attention(emotion, memory, frame_mask, output_attentions)
            for attention, memory in zip(self.attentions, auxiliary, strict=True)
        ]
        contexts = [context for context, _ in attended]
        gates = self.gate(torch.cat([emotion, *contexts], dim=-1)).sigmoid()
        context = (gates.unsqueeze(-2) @ torch.stack(contexts, dim=-2)).squeeze(-2)
        emotion = self.attention_norm(emotion + self.dropout(context))
        emotion = self.feed_forward_norm(emotion + self.dropout(self.feed_forward(emotion)))
        return emotion, gates, tuple(maps for _, maps in attended)


class ConcatFusion(nn.Module):
    """
    All streams side by side through one linear layer onto the emotion stream: the baseline of co-attention.

    Args:
        config ([`SerMtlConfig`]): `fusion_hidden_size`, `fusion_dropout` and the auxiliary tasks.
    """

    def __init__(self, config: SerMtlConfig) -> None:
        super().__init__()
        size = config.fusion_hidden_size
        self.projection = nn.Linear(size * (1 + len(config.auxiliary_tasks)), size)
        self.norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(config.fusion_dropout)

    def forward(self, emotion: Tensor, auxiliary: list[Tensor]) -> Tensor:
        """The new stream `(B, T, H)` from `emotion` and the `auxiliary` ones, `(B, T, H)` each."""
        return self.norm(emotion + self.dropout(F.gelu(self.projection(torch.cat([emotion, *auxiliary], dim=-1)))))


def config_swfc_loss(
    embeddings: Tensor,
    labels: Tensor,
    config: SerMtlConfig,
    bank_embeddings: Tensor | None = None,
    bank_labels: Tensor | None = None,
) -> Tensor:
    """
    [`~losses_ser_mtl.swfc_loss`] of emotion `embeddings` `(N, D)` and `labels` `(N,)`, -100 = unknown, with the
    settings of `config`; further candidates are `bank_embeddings` `(M, D)` of `bank_labels` `(M,)`. Scalar.
    """
    return swfc_loss(
        embeddings,
        labels,
        config.emotion_class_counts or [1] * len(config.emotion_labels),
        temperature=config.swfc_temperature,
        focus=config.swfc_focus,
        class_weight_exponent=config.swfc_class_weight,
        normalize=config.swfc_normalize,
        bank_embeddings=bank_embeddings,
        bank_labels=bank_labels,
    )


def calibrated_probabilities(
    logits: Tensor, temperature: float, class_counts: Sequence[int] | None, prior_correction: float
) -> Tensor:
    r"""
    Probabilities of the classes, with the confidence of the clips that `temperature` was fitted on (Guo et al., ICML
    2017) and without some of the class frequencies of training (Saerens et al., Neural Computation 2002):

        p_c ~ softmax(logits / temperature)_c / n_c ** prior_correction

    Args:
        logits (`Tensor` of shape `(N, C)`): logits of any precision.
        temperature (`float`): above 0; 1 changes nothing, more makes all classes more alike. It moves no argmax.
        class_counts (`Sequence[int]` of length C, *optional*): training clips per class, n; None takes them as equal.
            A class without any counts as one of about mean frequency.
        prior_correction (`float`): 0 or more; 0 changes nothing, 1 takes the classes to be equally frequent.

    Returns:
        `Tensor` of shape `(N, C)`: rows of sum 1, in float32, of float64 logits in float64.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    weights = cross_entropy_weights(class_counts, prior_correction)
    if weights is not None:
        logits = logits + weights.log().to(logits)
    return logits.softmax(-1)


def backbone_class(config: SerMtlConfig) -> type[PreTrainedModel]:
    """The encoder's class for `config`; a ValueError for one that doesn't make frames of audio as wav2vec 2.0 does."""
    backbone = config.backbone_config
    own: dict[str, Any] = {"whisper": WhisperEncoder, SpectrogramEncoderConfig.model_type: SpectrogramEncoder}
    model_class: Any = own.get(backbone.model_type) or MODEL_MAPPING.get(type(backbone), None)
    if not hasattr(model_class, "_get_feat_extract_output_lengths"):
        raise ValueError(
            f"backbone_config.model_type: found {backbone.model_type!r}, which is no encoder of speech; give e.g. "
            "wav2vec2, hubert or wavlm"
        )
    return model_class


class SerMtlPreTrainedModel(PreTrainedModel):
    """Weight initialisation and what the class supports."""

    config_class = SerMtlConfig
    config: SerMtlConfig
    base_model_prefix = "ser_mtl"
    main_input_name = "input_values"
    input_modalities = "audio"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # each loss is a mean over its own labelled clips, not over the items of a step
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # The backbone's; transformers would guess from the attention classes in this file, which have one of their own.
        return True

    @classmethod
    def is_custom_code(cls) -> bool:
        """As in transformers, but for the initialisation."""
        # For code outside of transformers, the initialisation of missing weights skips modules without parameters of
        # their own, among them the backbone's feature projection. `_init_weights` here needs no such care.
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LayerMixture):
            init.zeros_(module.weight)
        elif isinstance(module, SerMtlModel):
            if module.speaker_prototypes is not None:
                init.normal_(module.speaker_prototypes)
            if module.task_log_variances is not None:
                init.zeros_(module.task_log_variances)


class SerMtlModel(SerMtlPreTrainedModel):
    """
    Emotion, gender, speaker embedding and characters from one speech encoder.

    Args:
        config ([`SerMtlConfig`]): what the model is. The encoder is that of `AutoModel` for its `backbone_config`; of
            Whisper it is the encoder alone.

    Raises:
        ValueError: the backbone is no speech encoder, or class counts don't belong to the classes.
    """

    def __init__(self, config: SerMtlConfig) -> None:
        super().__init__(config)
        config.check_class_counts()
        # Whisper reads 30 s whatever the clip's length, and takes no mask.
        self.has_fixed_length = config.backbone_config.model_type == "whisper"
        self.backbone = backbone_class(config)._from_config(config.backbone_config)
        self.main_input_name = self.backbone.main_input_name
        if self.has_fixed_length:
            self.padding = Padding(self.backbone.config)
        else:
            self.padding = keep_padding_out(self.backbone, self.encoder_layers)
        self.layer_inputs = LayerInputs(self.encoder_layers)
        # SEW's layers see one frame where the feature encoder gives several.
        self.squeeze_factor = getattr(self.backbone.config, "squeeze_factor", 1)
        width, size = config.hidden_size, config.fusion_hidden_size
        self.layer_mixture = LayerMixture(len(config.tasks), config.num_hidden_layers + 1)
        # The CTC head reads the mixture itself, so ASR needs a stream only where it is fused.
        self.streams = nn.ModuleDict(
            {
                task: nn.Sequential(nn.Linear(width, size), nn.GELU(), nn.LayerNorm(size))
                for task in config.tasks
                if task != "asr" or task in config.auxiliary_tasks
            }
        )
        self.dropout = nn.Dropout(config.fusion_dropout)
        self.speaker_prototypes = None
        self.task_log_variances = None
        if config.task_balancing == "uncertainty":
            self.task_log_variances = nn.Parameter(torch.zeros(len(config.tasks)))

        if "emotion" in config.tasks:
            if config.auxiliary_tasks and config.fusion == "co_attention":
                self.co_attention = nn.ModuleList(CoAttentionLayer(config) for _ in range(config.fusion_num_layers))
            elif config.auxiliary_tasks:
                self.concat_fusion = ConcatFusion(config)
            self.emotion_pooling = AttentiveStatisticsPooling(size, config.attention_pooling_size)
            self.emotion_embedding = nn.Linear(2 * size, config.emotion_embedding_size)
            self.emotion_classifier = nn.Linear(config.emotion_embedding_size, len(config.emotion_labels))
        if "gender" in config.tasks:
            self.gender_classifier = nn.Linear(size, len(config.gender_labels))
        if "speaker" in config.tasks:
            self.speaker_pooling = AttentiveStatisticsPooling(size, config.attention_pooling_size)
            self.speaker_embedding = nn.Linear(2 * size, config.speaker_embedding_size)
            if config.num_speakers:
                self.speaker_prototypes = nn.Parameter(torch.empty(config.num_speakers, config.speaker_embedding_size))
        if "asr" in config.tasks:
            self.ctc_head = nn.Linear(width, config.ctc_subframes * config.vocab_size)
        self.post_init()

    @property
    def encoder_layers(self) -> nn.ModuleList:
        """The transformer layers of the backbone."""
        # Only inside the encoder: a convolutional feature encoder may have as many layers.
        for module in self.backbone.get_encoder().modules():
            is_layers = isinstance(module, nn.ModuleList) and len(module) == self.config.num_hidden_layers
            if is_layers and all(isinstance(layer, GradientCheckpointingLayer) for layer in module):
                return module
        raise ValueError(f"{type(self.backbone).__name__} has no list of {self.config.num_hidden_layers} layers")

    def freeze_feature_encoder(self) -> None:
        """Freezes the convolutional feature encoder of a backbone that reads waveforms."""
        self.backbone.feature_extractor._freeze_parameters()

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable[..., Any] = checkpoint, **kwargs: Any
    ) -> None:
        """As in transformers; a layer that is recomputed sees the padding of its own batch."""
        checkpoint_with_padding = partial(self.padding.checkpoint, gradient_checkpointing_func)
        super()._set_gradient_checkpointing(enable, checkpoint_with_padding, **kwargs)

    def _encode(
        self, inputs: Tensor, attention_mask: Tensor | None, output_attentions: bool | None
    ) -> tuple[tuple[Tensor, ...], Tensor, tuple[Tensor, ...] | None]:
        """Hidden states (the input of every layer and the final output), frame mask and attentions."""
        num_inputs = inputs.shape[2] if self.has_fixed_length else inputs.shape[1]
        input_lengths = inputs.new_full((len(inputs),), num_inputs, dtype=torch.long)
        self.padding.lengths = None
        if attention_mask is not None:
            input_lengths = attention_mask.sum(1)
            frame_lengths = self.backbone._get_feat_extract_output_lengths(input_lengths)
            self.padding.lengths = Lengths(input_lengths, frame_lengths)
        kwargs: dict[str, Any] = {self.main_input_name: inputs, "attention_mask": attention_mask}
        if self.training and self.backbone.config.mask_time_prob > 0:
            num_frames = int(self.backbone._get_feat_extract_output_lengths(num_inputs))
            if num_frames < self.backbone.config.mask_time_length:
                # SpecAugment raises on a batch shorter than one of its masks.
                kwargs["mask_time_indices"] = inputs.new_zeros(len(inputs), num_frames, dtype=torch.bool)
        with self.layer_inputs.record() as layer_inputs:
            outputs = self.backbone(**kwargs, output_attentions=output_attentions, return_dict=True)
        num_frames = outputs.last_hidden_state.shape[1]
        if self.squeeze_factor > 1:
            layer_inputs = {
                index: repeat_frames(state, self.squeeze_factor, num_frames) for index, state in layer_inputs.items()
            }

        # A dropped layer leaves its input as it was: that is the input of the next layer that ran.
        hidden_states = [outputs.last_hidden_state]
        for index in reversed(range(self.config.num_hidden_layers)):
            hidden_states.append(layer_inputs.get(index, hidden_states[-1]))
        mask = frame_mask(self._frame_lengths(input_lengths), num_frames)
        return tuple(reversed(hidden_states)), mask, outputs.attentions

    def _fuse(
        self, streams: dict[str, Tensor], frame_mask: Tensor, output_co_attentions: bool
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...] | None]:
        """The fused emotion stream, the gates of every frame and the maps of the last layer."""
        emotion = streams["emotion"]
        auxiliary = [streams[task] for task in self.config.auxiliary_tasks]
        if not auxiliary:
            return emotion, None, None
        if self.config.fusion == "concat":
            return self.concat_fusion(emotion, auxiliary), None, None
        gates = []
        for layer in self.co_attention:
            emotion, gate, maps = layer(emotion, auxiliary, frame_mask, output_co_attentions)
            gates.append(gate)
        if not output_co_attentions:
            return emotion, None, None
        return emotion, torch.stack(gates).mean(0), maps

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        emotion_labels: Tensor | None = None,
        gender_labels: Tensor | None = None,
        speaker_labels: Tensor | None = None,
        ctc_labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | list[int] | None = None,
        output_co_attentions: bool | None = None,
        **kwargs: Any,
    ) -> SerMtlOutput:
        r"""
        Args:
            input_values (`Tensor` of shape `(B, num_samples)`): waveforms at 16 kHz, for backbones that read them.
            attention_mask (`Tensor` of shape `(B, num_samples)` or `(B, num_frames)`): 1 where the input is no padding.
            input_features (`Tensor` of shape `(B, num_frames, num_features)`): log-mel, for backbones that read it.
            emotion_labels (`Tensor` of shape `(B,)`): -100 = unknown, in this and the following.
            gender_labels (`Tensor` of shape `(B,)`): indices into `config.gender_labels`.
            speaker_labels (`Tensor` of shape `(B,)`): training speakers.
            ctc_labels (`Tensor` of shape `(B, L)`): characters, padded with -100.
            output_attentions (`bool`): also the backbone's attention maps; by default as in the configuration.
            output_hidden_states (`bool` or `list[int]`): also the hidden states, or those of these indices (None in
                place of the others); by default as in the configuration.
            output_co_attentions (`bool`): also the co-attention maps and gates.
        """
        inputs = input_values if self.main_input_name == "input_values" else input_features
        if inputs is None:
            raise ValueError(
                f"{self.main_input_name}: found None; a {self.backbone.config.model_type} backbone reads it"
            )
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_states, frame_mask, attentions = self._encode(inputs, attention_mask, output_attentions)
        mixtures = dict(zip(self.config.tasks, self.layer_mixture(hidden_states), strict=True))
        streams = {task: self.dropout(stream(mixtures[task])) for task, stream in self.streams.items()}

        output = SerMtlOutput(frame_mask=frame_mask)
        if "emotion" in self.config.tasks:
            fused, gates, output.co_attentions = self._fuse(streams, frame_mask, bool(output_co_attentions))
            if gates is not None:
                output.frame_gates, weights = gates, frame_mask / frame_mask.sum(1, keepdim=True)
                output.task_gates = (gates * weights[..., None]).sum(1)
            output.emotion_embeddings = self.emotion_embedding(self.emotion_pooling(fused, frame_mask))
            output.logits = self.emotion_classifier(self.dropout(F.gelu(output.emotion_embeddings)))
        if "gender" in self.config.tasks:
            weights = (frame_mask / frame_mask.sum(1, keepdim=True)).to(streams["gender"].dtype)
            output.gender_logits = self.gender_classifier((weights[..., None] * streams["gender"]).sum(1))
        if "speaker" in self.config.tasks:
            pooled = self.speaker_pooling(streams["speaker"], frame_mask)
            output.speaker_embeddings = F.normalize(self.speaker_embedding(pooled).float(), dim=-1)
            if self.speaker_prototypes is not None:
                prototypes = F.normalize(self.speaker_prototypes.float(), dim=-1)
                with full_precision(inputs):
                    output.speaker_logits = F.linear(output.speaker_embeddings, prototypes)
        if "asr" in self.config.tasks:
            characters = self.ctc_head(self.dropout(mixtures["asr"]))
            output.ctc_logits = characters.unflatten(-1, (self.config.ctc_subframes, -1)).flatten(1, 2)
        # All parameters are read in here, none by the loss: DDP and FSDP see their use only in a forward.
        output.task_log_variances = self.task_log_variances
        if isinstance(output_hidden_states, list):
            kept = {index % len(hidden_states) for index in output_hidden_states}
            hidden_states = tuple(state if index in kept else None for index, state in enumerate(hidden_states))
        output.hidden_states = hidden_states if output_hidden_states else None
        # Implementations without maps give an empty tuple, and transformers' warning.
        output.attentions = attentions or None if output_attentions else None

        labels = {
            "emotion": emotion_labels,
            "gender": gender_labels,
            "speaker": speaker_labels,
            "asr": ctc_labels,
        }
        if any(label is not None for label in labels.values()):
            output.loss, output.task_losses = self.multi_task_loss(output, labels)
        # Once more, since the keys and the tuple keep the order in which the fields were set.
        return SerMtlOutput(**vars(output))

    def frame_lengths(self, attention_mask: Tensor) -> Tensor:
        """Frames of each clip that are not padding, `(B,)`, from the `attention_mask` of `forward`."""
        return self._frame_lengths(attention_mask.sum(1))

    def likeliest_characters(self, output: SerMtlOutput) -> Tensor:
        """
        What [`~SerMtlProcessor.decode_ctc`] reads.

        Args:
            output ([`SerMtlOutput`]): of a model with the ASR task.

        Returns:
            `Tensor` of shape `(B, T * ctc_subframes)`: indices of characters, -100 where padded.
        """
        mask = output.frame_mask.repeat_interleave(self.config.ctc_subframes, dim=1)
        return output.ctc_logits.argmax(-1).masked_fill(~mask, IGNORE_INDEX)

    def _frame_lengths(self, input_lengths: Tensor) -> Tensor:
        """Frames that heads and losses read, `(B,)`: at least one, and of SEW those that its squeezed frames cover."""
        lengths = self.backbone._get_feat_extract_output_lengths(input_lengths)
        return (lengths // self.squeeze_factor * self.squeeze_factor).clamp(min=1)

    def num_labelled(self, labels: dict[str, Tensor], attention_mask: Tensor) -> dict[str, Tensor]:
        """
        Clips of a batch that count in each task's loss, scalars by task name.

        Args:
            labels (`dict[str, Tensor]`): labels by task name, as in `forward`.
            attention_mask (`Tensor`): mask of the inputs, as in `forward`.
        """
        lengths = self.frame_lengths(attention_mask)
        return {task: self._labelled(task, labels[task], lengths).sum() for task in self.config.tasks}

    def _labelled(self, task: str, label: Tensor, frame_lengths: Tensor) -> Tensor:
        """Clips whose label counts in the task's loss, `(B,)`, bool."""
        if task == "asr":
            return ctc_feasible(frame_lengths * self.config.ctc_subframes, label)
        if task == "speaker":  # a speaker without a prototype counts for metrics only
            return (label != IGNORE_INDEX) & (label < self.config.num_speakers)
        return label != IGNORE_INDEX

    def clip_losses(
        self, output: SerMtlOutput, labels: dict[str, Tensor | None], speaker_margin: float | None = None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """
        The loss of every clip for each task of the configuration that has labels.

        Args:
            output ([`SerMtlOutput`]): a forward's output.
            labels (`dict[str, Tensor]`): labels by task name, as in `forward`.
            speaker_margin (`float`, *optional*): margin of the angular margin softmax, by default the configuration's.

        Returns:
            `dict[str, tuple[Tensor, Tensor]]`: per task the losses `(B,)` and which clips have a label `(B,)`, bool.
        """
        config, losses = self.config, {}
        frame_lengths = output.frame_mask.sum(1)
        for task in config.tasks:
            label = labels.get(task)
            if label is None or (task == "speaker" and output.speaker_logits is None):
                continue
            labelled = self._labelled(task, label, frame_lengths)
            if task == "emotion":
                loss = cross_entropy_per_clip(
                    output.logits,
                    label,
                    cross_entropy_weights(config.emotion_class_counts, config.emotion_class_weight),
                    label_smoothing=config.label_smoothing,
                    focus=config.emotion_focus,
                )
            elif task == "gender":
                weights = cross_entropy_weights(config.gender_class_counts, config.gender_class_weight)
                loss = cross_entropy_per_clip(output.gender_logits, label, weights)
            elif task == "speaker":
                margin = config.speaker_margin if speaker_margin is None else speaker_margin
                label = label.masked_fill(~labelled, IGNORE_INDEX)
                loss = angular_margin_per_clip(output.speaker_logits, label, scale=config.speaker_scale, margin=margin)
            else:
                lengths = frame_lengths * config.ctc_subframes
                loss = ctc_per_clip(output.ctc_logits, lengths, label, blank=config.pad_token_id)
            losses[task] = loss, labelled
        return losses

    def multi_task_loss(
        self,
        output: SerMtlOutput,
        labels: dict[str, Tensor | None],
        *,
        swfc: Tensor | None = None,
        num_labelled: dict[str, Tensor] | None = None,
        speaker_margin: float | None = None,
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """
        The weighted sum over tasks and each task's own loss. SWFC belongs to training: in evaluation it is left out,
        since its value depends on the batch.

        Args:
            output ([`SerMtlOutput`]), labels (`dict[str, Tensor]`), speaker_margin (`float`, *optional*): as in
                [`~SerMtlModel.clip_losses`].
            swfc (`Tensor`, *optional*): scalar, SWFC over more clips than this batch's; by default over this batch.
            num_labelled (`dict[str, Tensor]`, *optional*): what divides the sum of each task's losses, see
                [`~losses_ser_mtl.mean_over_labelled`]; by default the labelled clips of this batch.

        Returns:
            The loss (None without any label) and the losses by name, of the tasks and `swfc`; all scalars.
        """
        config = self.config
        clip_losses = self.clip_losses(output, labels, speaker_margin)
        if not clip_losses:
            return None, {}
        if num_labelled is None:
            num_labelled = {task: labelled.sum() for task, (_, labelled) in clip_losses.items()}
        losses = {task: mean_over_labelled(*pair, num_labelled[task]) for task, pair in clip_losses.items()}
        if "emotion" in losses and config.swfc_weight and self.training:
            if swfc is None:
                swfc = config_swfc_loss(output.emotion_embeddings, labels["emotion"], config)
            losses["swfc"] = swfc
        return torch.stack(list(self.task_terms(output, losses, num_labelled).values())).sum(), losses

    def task_terms(
        self, output: SerMtlOutput, losses: dict[str, Tensor], num_labelled: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """
        What each task adds to the loss, scalars by task name; SWFC belongs to emotion.

        Args:
            output ([`SerMtlOutput`]): a forward's output.
            losses (`dict[str, Tensor]`): scalars by task, and `swfc`, as [`~SerMtlModel.multi_task_loss`] returns them.
            num_labelled (`dict[str, Tensor]`): labelled clips by task; a task without any doesn't move its uncertainty.
        """
        config = self.config
        totals = {task: loss for task, loss in losses.items() if task != "swfc"}
        if "swfc" in losses:
            totals["emotion"] = losses["emotion"] + config.swfc_weight * losses["swfc"]
        log_variances = None
        if output.task_log_variances is not None:
            # Without labels a task's uncertainty would only shrink.
            log_variances = {
                task: variance * (num_labelled[task] > 0)
                for task, variance in zip(config.tasks, output.task_log_variances, strict=True)
                if task in totals
            }
        return weighted_terms(totals, config.task_weights, log_variances)

    def emotion_probabilities(self, logits: Tensor) -> Tensor:
        """
        Probabilities `(B, num_labels)` of the emotions from the `logits` `(B, num_labels)` of an output: see
        [`calibrated_probabilities`], whose settings are `emotion_temperature`, `emotion_class_counts` and
        `emotion_prior_correction` of the configuration.
        """
        config = self.config
        return calibrated_probabilities(
            logits, config.emotion_temperature, config.emotion_class_counts, config.emotion_prior_correction
        )

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """As in transformers, and names the classes and pipelines by which the folder loads without this package."""
        model = f"modeling_ser_mtl.{SerMtlModel.__name__}"
        processor = f"processing_ser_mtl.{SerMtlProcessor.__name__}"
        self.config.auto_map = {
            "AutoModel": model,
            "AutoModelForAudioClassification": model,
            "AutoProcessor": processor,
        }
        self.config.custom_pipelines = copy.deepcopy(CUSTOM_PIPELINES)  # transformers writes into it
        super().save_pretrained(save_directory, **kwargs)


SerMtlModel.register_for_auto_class("AutoModel")
AutoModel.register(SerMtlConfig, SerMtlModel, exist_ok=True)
AutoModelForAudioClassification.register(SerMtlConfig, SerMtlModel, exist_ok=True)
