"""A Trainer that logs every task's loss and evaluates whole clips on all four tasks."""

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from ..configuration_ser_mtl import SerMtlConfig
from ..data.dataset import SpeechDataset
from ..data.samplers import SeededLengthGroupedSampler
from ..evaluation.metrics import UNKNOWN, Predictions, compute_metrics
from ..evaluation.verification import Trials
from ..modeling_ser_mtl import SerMtlModel, config_swfc_loss
from ..processing_ser_mtl import SerMtlProcessor
from .arguments import SerMtlTrainingArguments

SWFC_BLOCK = 4096
LABELS = {"emotion": "emotion_labels", "gender": "gender_labels", "speaker": "speaker_labels", "asr": "ctc_labels"}
LOGGED_LOSSES = (*((task, task) for task in LABELS), ("swfc", "emotion"))


class SerMtlTrainer(Trainer):
    """
    Trains a [`SerMtlModel`]: two learning rates, the loss of every task in the log, metrics over whole clips.

    Args:
        model ([`SerMtlModel`]): the model.
        args ([`SerMtlTrainingArguments`]): how it is trained.
        processing_class ([`SerMtlProcessor`]): saved with every checkpoint; decodes transcripts.
        test_trials (`tuple[np.ndarray, np.ndarray]`, *optional*): verification trials of the set that is predicted, see
            [`~evaluation.verification.read_trials`]; elsewhere they are drawn.
        **kwargs: as in `Trainer`; datasets are [`~data.dataset.SpeechDataset`].
    """

    def __init__(
        self,
        model: SerMtlModel,
        args: SerMtlTrainingArguments,
        processing_class: SerMtlProcessor,
        test_trials: Trials | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, args=args, processing_class=processing_class, **kwargs)
        self.test_trials = test_trials
        # Sum of each logged loss over the batches that had labels for it, and the number of those batches.
        self._task_losses = torch.zeros(len(LOGGED_LOSSES), 2, device=self.args.device)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """`args.learning_rate` for the encoder and, where given, `args.head_learning_rate` for the rest."""
        if self.optimizer is None and self.args.head_learning_rate is not None:
            model = self.model if model is None else model
            decay = set(self.get_decay_parameter_names(model))
            groups: dict[tuple[bool, bool], list[nn.Parameter]] = defaultdict(list)
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    groups[name.startswith("backbone."), name in decay].append(parameter)
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(
                [
                    {
                        "params": parameters,
                        "lr": self.args.learning_rate if is_encoder else self.args.head_learning_rate,
                        "weight_decay": self.args.weight_decay if decays else 0.0,
                    }
                    for (is_encoder, decays), parameters in groups.items()
                ],
                **kwargs,
            )
        return super().create_optimizer(model)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The model's multi-task loss; every task's own loss is kept for the log."""
        outputs = model(**{name: value for name, value in inputs.items() if name != "clip_index"})
        for row, (name, task) in zip(self._task_losses, LOGGED_LOSSES, strict=True):
            if name in outputs.task_losses and (inputs[LABELS[task]] != UNKNOWN).any():
                row += torch.stack([outputs.task_losses[name].detach().float(), row.new_ones(())])
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds every task's mean loss since the last log, over the batches with labels; NaN is shown, not filtered."""
        if "loss" in logs:
            sums, counts = self.accelerator.reduce(self._task_losses, reduction="sum").T.tolist()
            for (name, _), total, count in zip(LOGGED_LOSSES, sums, counts, strict=True):
                if count:
                    logs[f"loss_{name}"] = round(total / count, 4)
            self._task_losses.zero_()
        super().log(logs, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run writes its own card, which `Trainer` would replace when it pushes."""

    def _get_train_sampler(self, train_dataset: SpeechDataset | None = None) -> Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy == "group_by_length":
            batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps
            return SeededLengthGroupedSampler(batch_size, dataset, self.args.seed)
        return super()._get_train_sampler(dataset)

    def _get_eval_sampler(self, eval_dataset: SpeechDataset) -> Sampler | None:
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def _get_dataloader(self, dataset: SpeechDataset, description: str, *args: Any, **kwargs: Any) -> DataLoader:
        drop_last = self.args.dataloader_drop_last
        # `dataloader_drop_last` is for training: every clip is evaluated.
        self.args.dataloader_drop_last = drop_last and kwargs.get("is_training", False)
        try:
            return super()._get_dataloader(dataset, description, *args, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, dict[str, Tensor], Tensor]:
        """What is kept of a batch: probabilities, embeddings, characters and losses per clip; never frame logits."""
        inputs = self._prepare_inputs(inputs)
        clip_index = inputs.pop("clip_index")
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**{name: value for name, value in inputs.items() if name not in LABELS.values()})
        kept = {}
        if outputs.logits is not None:
            kept["emotion"] = outputs.logits.float().softmax(-1)
            kept["emotion_embeddings"] = outputs.emotion_embeddings.float()
        if outputs.gender_logits is not None:
            kept["gender"] = outputs.gender_logits.float().softmax(-1)
        if outputs.speaker_embeddings is not None:
            kept["speaker"] = outputs.speaker_embeddings
        if outputs.ctc_logits is not None:
            kept["asr"] = outputs.ctc_logits.argmax(-1).masked_fill(~outputs.frame_mask, -100)
        labels = {task: inputs[name] for task, name in LABELS.items()}
        with torch.no_grad():
            losses = self.accelerator.unwrap_model(model).clip_losses(outputs, labels)
        for task, (loss, labelled) in losses.items():
            kept[f"loss_{task}"] = loss.masked_fill(~labelled, torch.nan)
        return None, kept, clip_index

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As in `Trainer`; `predictions` is a [`~evaluation.metrics.Predictions`] and the metrics are all of ours."""
        output = super().evaluation_loop(dataloader, description, False, ignore_keys, metric_key_prefix)
        config, dataset = self.accelerator.unwrap_model(self.model).config, dataloader.dataset
        predictions = whole_clips(output.predictions, output.label_ids, dataset, self.processing_class)
        metrics = compute_metrics(
            predictions,
            emotion_labels=config.emotion_labels,
            gender_labels=config.gender_labels,
            seed=self.args.seed,
            trials=self.test_trials if metric_key_prefix == "predict" else None,
        )
        if "emotion" in config.tasks and config.swfc_weight:
            metrics |= swfc_metric(
                output.predictions["emotion_embeddings"], dataset.emotion_labels[output.label_ids], config
            )
        losses = {task: metrics[f"loss_{task}"] for task in config.tasks if f"loss_{task}" in metrics}
        if losses:
            metrics["loss"] = sum(config.task_weights[task] * loss for task, loss in losses.items())
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output._replace(predictions=predictions)


def swfc_metric(embeddings: np.ndarray, labels: np.ndarray, config: SerMtlConfig) -> dict[str, float]:
    """`loss_swfc` of a split over blocks of `SWFC_BLOCK` clips in manifest order, so that it ignores the batch size."""
    losses = [
        config_swfc_loss(
            torch.tensor(embeddings[start : start + SWFC_BLOCK]),
            torch.tensor(labels[start : start + SWFC_BLOCK]),
            config,
        )
        for start in range(0, len(labels), SWFC_BLOCK)
    ]
    return {"loss_swfc": torch.stack(losses).mean().item()} if (labels >= 0).any() else {}


def whole_clips(
    kept: dict[str, np.ndarray], clip_index: np.ndarray, dataset: SpeechDataset, processor: SerMtlProcessor
) -> Predictions:
    """
    Joins the windows of each clip: probabilities, embeddings and losses are averaged, texts joined in order.

    Args:
        kept (`dict[str, np.ndarray]`): what [`SerMtlTrainer.prediction_step`] keeps, one row per window.
        clip_index (`np.ndarray` of shape `(num_windows,)`): the clip of each window, in ascending order of start.
        dataset ([`SpeechDataset`]): the split.
        processor ([`SerMtlProcessor`]): decodes.
    """
    table, num_clips = dataset.table, len(dataset.table)
    windows = np.bincount(clip_index, minlength=num_clips)

    def average(values: np.ndarray) -> np.ndarray:
        total = np.zeros((num_clips, *values.shape[1:]))
        np.add.at(total, clip_index, values)
        return total / windows.reshape(-1, *[1] * (values.ndim - 1))

    transcripts = None
    if "asr" in kept:
        texts: list[list[str]] = [[] for _ in range(num_clips)]
        for clip, text in zip(clip_index, processor.decode_ctc(kept["asr"]), strict=True):
            texts[clip].append(text)
        transcripts = [" ".join(filter(None, parts)) for parts in texts]
    return Predictions(
        emotion_probabilities=average(kept["emotion"]) if "emotion" in kept else None,
        emotion_labels=dataset.emotion_labels,
        gender_probabilities=average(kept["gender"]) if "gender" in kept else None,
        gender_labels=dataset.gender_labels,
        speaker_embeddings=average(kept["speaker"]) if "speaker" in kept else None,
        speakers=table["speaker"].tolist(),
        corpora=table["corpus"].tolist(),
        genders=table["gender"].tolist(),
        audio=table["audio"].tolist(),
        transcripts=transcripts,
        references=dataset.transcripts,
        losses={name[5:]: average(values) for name, values in kept.items() if name.startswith("loss_")},
    )
