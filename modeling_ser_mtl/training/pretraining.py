"""Self-supervised pre-training: clips to inputs, inputs to masked batches, the wav2vec 2.0 objective, the trainer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainingArguments
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

from ..audio_ser_mtl import window_bounds
from ..data.audio import SAMPLING_RATE, load_audio
from ..data.errors import InputError
from ..processing_ser_mtl import trim_silence
from .best_rq import sum_per_clip


@dataclass
class PretrainingArguments(TrainingArguments):
    """`TrainingArguments` with the defaults of pre-training."""

    learning_rate: float = field(default=1e-3, metadata={"help": "Largest learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "How the learning rate falls."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Warm-up steps; below 1 a share of all steps."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    num_train_epochs: float = field(default=50.0, metadata={"help": "Passes over the clips."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Clips per device and step."})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Clips per device in evaluation."})
    train_sampling_strategy: str = field(default="group_by_length", metadata={"help": "Order of the clips."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps or epoch."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints to keep."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between logs; below 1 a share of all steps."})
    do_train: bool = field(default=True, metadata={"help": "Leave True."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Leave False: the collator reads all."})
    # Trainer computes a loss in evaluation only where it finds labels.
    label_names: list[str] = field(
        default_factory=lambda: ["mask_time_indices"], metadata={"help": "Leave as it is: what is to be predicted."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.cuda.is_available()


def load_inputs(
    audio: Sequence[str | bytes],
    feature_extractor: Any,
    max_seconds: float,
    is_long_enough: Callable[[int], bool],
    trim_db: float | None = None,
) -> list[dict[str, np.ndarray]]:
    """
    The encoder's input of every clip, made once, under a progress bar, and kept in half precision: 58 MB an hour of
    log-mel, 115 MB of waveform.

    Args:
        audio (`Sequence[str | bytes]`): clips that [`~data.audio.load_audio`] can read.
        feature_extractor (`SequenceFeatureExtractor`): makes the inputs.
        max_seconds (`float`): longer clips become several items, see [`~audio_ser_mtl.window_bounds`].
        is_long_enough (`Callable`): whether an item of this length, in steps of the input, is kept.
        trim_db (`float`, *optional*): cuts the silence at both ends first, see [`~processing_ser_mtl.trim_silence`].

    Returns:
        `list[dict[str, np.ndarray]]`: items with `input_features` `(num_frames, num_features)` or `input_values`
        `(num_samples,)`, float16.
    """
    name, items = feature_extractor.model_input_names[0], []
    for source in tqdm(audio, desc="Making inputs", unit="clip"):
        waveform = load_audio(source)
        if trim_db is not None:
            waveform = trim_silence(waveform, trim_db)
        for start, end in window_bounds(len(waveform), round(max_seconds * SAMPLING_RATE)):
            inputs = feature_extractor(waveform[start:end], sampling_rate=SAMPLING_RATE, return_attention_mask=False)
            item = np.asarray(inputs[name][0], dtype=np.float16)
            if is_long_enough(len(item)):
                items.append({name: item})
    return items


@dataclass
class PretrainingCollator:
    """
    Pads items of [`load_inputs`] to a batch and masks spans of the encoder's frames, with the utilities of transformers
    and their random numbers, NumPy's own.

    Args:
        encoder (`PreTrainedModel`): tells how many frames it makes of an input.
        mask_time_prob (`float`): share of a clip's frames that are masked, if no two spans overlapped.
        mask_time_length (`int`): frames of a span; no clip may be shorter.
        num_negatives (`int`, *optional*): also other masked frames of the same clip for each masked one, as wav2vec 2.0
            compares them.
    """

    encoder: Any
    mask_time_prob: float
    mask_time_length: int
    num_negatives: int | None = None

    def __call__(self, items: Sequence[dict[str, np.ndarray]]) -> dict[str, Tensor]:
        """
        Args:
            items (`Sequence[dict]` of length B): of [`load_inputs`].

        Returns:
            `dict[str, Tensor]`: the padded inputs, `attention_mask` of the same length, `mask_time_indices` `(B, T)`,
            bool, and with negatives `sampled_negative_indices` `(B, T, num_negatives)`.
        """
        (name,) = items[0]
        inputs = [torch.from_numpy(item[name]).float() for item in items]
        lengths = torch.tensor([len(item) for item in inputs])
        frames = self.encoder._get_feat_extract_output_lengths(lengths)
        shape = len(items), int(frames.max())
        frame_mask: Any = _prefix_mask(frames)
        mask = _compute_mask_indices(
            shape, self.mask_time_prob, self.mask_time_length, attention_mask=frame_mask, min_masks=1
        )
        batch = {
            name: pad_sequence(inputs, batch_first=True),
            "attention_mask": _prefix_mask(lengths),
            "mask_time_indices": torch.from_numpy(mask),
        }
        if self.num_negatives is not None:
            negatives = _sample_negative_indices(shape, self.num_negatives, mask)
            batch["sampled_negative_indices"] = torch.from_numpy(negatives).long()
        return batch


def _prefix_mask(lengths: Tensor) -> Tensor:
    return (torch.arange(int(lengths.max())) < lengths[:, None]).long()


class ContrastiveModel(nn.Module):
    """
    The pre-training model of transformers with the wav2vec 2.0 objective, its loss as a mean over masked frames.

    Args:
        model (`PreTrainedModel`): e.g. a `Wav2Vec2ForPreTraining`.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    @property
    def encoder(self) -> Any:
        """The encoder in the model, which is what pre-training is for."""
        return self.model.base_model

    def forward(
        self, input_values: Tensor, attention_mask: Tensor, mask_time_indices: Tensor, sampled_negative_indices: Tensor
    ) -> dict[str, Tensor]:
        """
        Args:
            input_values (`Tensor` of shape `(B, num_samples)`), attention_mask (`Tensor` of the same shape),
                mask_time_indices (`Tensor` of shape `(B, T)`, bool), sampled_negative_indices (`Tensor` of shape
                `(B, T, num_negatives)`): as [`PretrainingCollator`] makes them.

        Returns:
            `dict[str, Tensor]`: `loss`, a scalar; and per clip, `(B,)`, its masked frames `num_masked`, those whose
            prediction is nearer to their own vector than to all negatives, `num_correct`, and those of which the mean
            prediction of the batch is, `num_guessed`.
        """
        outputs = self.model(
            input_values,
            attention_mask=attention_mask,
            mask_time_indices=mask_time_indices,
            sampled_negative_indices=sampled_negative_indices,
        )
        num_masked = mask_time_indices.sum(1)
        predicted, targets = outputs.projected_states, outputs.projected_quantized_states
        negatives = targets.flatten(0, 1)[sampled_negative_indices[mask_time_indices]]  # (masked, negatives, D)
        predicted, targets = predicted[mask_time_indices], targets[mask_time_indices]
        correct = _are_nearest(predicted, targets, negatives)
        guessed = _are_nearest(predicted.mean(0).expand_as(predicted), targets, negatives)
        return {
            "loss": outputs.loss / num_masked.sum(),
            "num_masked": num_masked,
            "num_correct": sum_per_clip(correct, mask_time_indices),
            "num_guessed": sum_per_clip(guessed, mask_time_indices),
        }


def _are_nearest(predicted: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """
    1.0 for each of `predicted` `(M, D)` that is nearer to its own of `targets` `(M, D)` than to all of its `negatives`
    `(M, N, D)`, else 0.0.
    """
    similarity = torch.cosine_similarity(predicted[:, None], negatives, dim=-1)
    # A negative of the same codeword is no wrong answer; where all are, there is no right one either.
    similarity = similarity.masked_fill((negatives == targets[:, None]).all(-1), -torch.inf)
    best = similarity.max(-1).values
    return ((torch.cosine_similarity(predicted, targets, dim=-1) > best) & best.isfinite()).float()


class PretrainingTrainer(Trainer):
    """
    Trains a [`~training.best_rq.BestRqModel`] or a [`ContrastiveModel`]; every evaluation masks the same frames.

    Raises:
        InputError: workers of the data loader, in which the masks would differ each time.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.args.dataloader_num_workers:
            raise InputError("--dataloader_num_workers: all clips are in memory, so there is no work for them; drop it")

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As in `Trainer`."""
        state = np.random.get_state()
        np.random.seed(self.args.seed)
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            np.random.set_state(state)


def masked_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """
    Shares of the masked frames: `accuracy` of the model, `guess_accuracy` of a guess that looks at nothing.

    Args:
        prediction (`EvalPrediction`): `num_masked`, `num_correct` and `num_guessed` of N clips, `(N,)` each.
    """
    num_masked, num_correct, num_guessed = (np.sum(values) for values in prediction.predictions)
    return {"accuracy": float(num_correct / num_masked), "guess_accuracy": float(num_guessed / num_masked)}
