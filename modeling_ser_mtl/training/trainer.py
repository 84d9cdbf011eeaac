"""A Trainer whose loss doesn't depend on how a batch is cut, and that evaluates whole clips on all four tasks."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from huggingface_hub import CommitInfo
from huggingface_hub.errors import HTTPError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput, TrainOutput
from transformers.training_args import ParallelMode

from ..configuration_ser_mtl import SerMtlConfig
from ..data.dataset import Clips, SpeechDataset
from ..data.errors import InputError, one_line
from ..data.samplers import ClassAwareSampler, SeededLengthGroupedSampler
from ..evaluation.metrics import compute_metrics
from ..evaluation.verification import Trials
from ..hub.push import publish
from ..losses_ser_mtl import IGNORE_INDEX
from ..modeling_ser_mtl import SerMtlModel, SerMtlOutput, config_swfc_loss
from ..processing_ser_mtl import SerMtlProcessor
from .arguments import SerMtlTrainingArguments
from .checkpoints import last_checkpoint
from .gather import gather_with_gradient
from .memory import EmbeddingMemory
from .task_gradients import task_gradients
from .weight_average import WeightAverage, WeightAverageCallback
from .whole_clips import embedding_metrics, whole_clips

MEMORY_FILE = "embedding_memory.safetensors"
LABELS = {"emotion": "emotion_labels", "gender": "gender_labels", "speaker": "speaker_labels", "asr": "ctc_labels"}
LOGGED_LOSSES = (*((task, task) for task in LABELS), ("swfc", "emotion"))


class SerMtlTrainer(Trainer):
    """
    Trains a [`SerMtlModel`]: two learning rates, the loss of every task in the log, metrics over whole clips.

    Each task's loss is the mean over the labelled clips of an optimiser step, however they are spread over ranks and
    accumulated batches. SWFC compares the clips of all ranks, and with `args.swfc_memory_size` past ones, but not those
    of other accumulated batches.

    Args:
        model ([`SerMtlModel`]): the model.
        args ([`SerMtlTrainingArguments`]): how it is trained.
        processing_class ([`SerMtlProcessor`]): saved with every checkpoint; decodes transcripts.
        test_trials (`tuple[np.ndarray, np.ndarray]`, *optional*): verification trials of the set that is predicted, see
            [`~evaluation.verification.read_trials`]; elsewhere they are drawn.
        **kwargs: as in `Trainer`; datasets are [`~data.dataset.SpeechDataset`].

    Raises:
        InputError: several GPUs in one process.
    """

    model: SerMtlModel
    args: SerMtlTrainingArguments
    processing_class: SerMtlProcessor

    def __init__(
        self,
        model: SerMtlModel,
        args: SerMtlTrainingArguments,
        processing_class: SerMtlProcessor,
        test_trials: Trials | None = None,
        **kwargs: Any,
    ) -> None:
        if args.parallel_mode == ParallelMode.NOT_DISTRIBUTED:
            raise InputError(
                f"found {args.n_gpu} GPUs and one process, whose threads would share one model; start with `accelerate "
                "launch`, or set CUDA_VISIBLE_DEVICES to one of them"
            )
        super().__init__(model=model, args=args, processing_class=processing_class, **kwargs)
        self.test_trials = test_trials
        self.memory = None
        if args.swfc_memory_size and "emotion" in model.config.tasks:
            self.memory = EmbeddingMemory(args.swfc_memory_size, len(model.config.emotion_labels))
        self._average = WeightAverageCallback(WeightAverage(args.ema_decay))
        if args.ema_decay:
            self.add_callback(self._average)
        # Of the current optimiser step: labelled clips a batch, and whether its gradients are to be logged.
        self._num_labelled: dict[str, Tensor] = {}
        self._logs_gradients = False
        # Since the last log: gradients, and transcripts that are too long for their clip.
        self._gradients: dict[str, float] = {}
        self._infeasible = torch.zeros((), device=self.args.device)
        # Sum of each logged loss over the batches that had labels for it, and the number of those batches.
        self._task_losses = torch.zeros(len(LOGGED_LOSSES), 2, device=self.args.device)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """As in `Trainer`, without the log variances of the tasks, whose 0 means nothing."""
        return [name for name in super().get_decay_parameter_names(model) if name != "task_log_variances"]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in `Trainer`; `args.learning_rate` is the encoder's, `args.head_learning_rate`, if given, the rest's."""
        if self.optimizer is None and self.args.head_learning_rate is not None:
            module = self.model if model is None else model
            decay = set(self.get_decay_parameter_names(module))
            groups: dict[tuple[bool, bool], list[nn.Parameter]] = defaultdict(list)
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    groups[name.startswith("backbone."), name in decay].append(parameter)
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, self.model)
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

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """
        As in `Trainer`; a checkpoint's embedding memory goes on too. With `args.ema_decay` the model ends with averaged
        weights, which are also those that are evaluated and saved.
        """
        self._task_losses.zero_()
        self._infeasible.zero_()
        checkpoint = resume_from_checkpoint or None
        if checkpoint is True:
            checkpoint = last_checkpoint(Path(str(self.args.output_dir)))
        self._average.checkpoint = cast(str | None, checkpoint)
        if self.memory is not None:
            path = Path(checkpoint or "", MEMORY_FILE)
            saved = load_file(path, device=str(self.args.device)) if checkpoint and path.is_file() else {}
            self.memory.load_state_dict(saved)
        try:
            return super().train(checkpoint or resume_from_checkpoint, **kwargs)
        finally:
            self._num_labelled = {}

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Tensor]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], None]:
        """As in `Trainer`; the labelled clips of the optimiser step are counted over all ranks."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        model, tasks = self.accelerator.unwrap_model(self.model), self.model.config.tasks
        counts = torch.zeros(len(tasks), device=device)
        for batch in batches:
            num_labelled = model.num_labelled(batch_labels(batch), batch["attention_mask"])
            counts += torch.stack(list(num_labelled.values())).to(device)
            if "asr" in tasks:
                transcripts = (batch["ctc_labels"] != IGNORE_INDEX).any(1).sum()
                self._infeasible += (transcripts - num_labelled["asr"]).to(device)
        counts = self.accelerator.reduce(counts, "mean") / len(batches)
        self._num_labelled = dict(zip(tasks, counts, strict=True))
        every = self.args.task_gradient_steps
        self._logs_gradients = every > 0 and self.state.global_step % every == 0
        return batches, None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, SerMtlOutput]:
        """As in `Trainer`: the multi-task loss of a training batch; every task's own is kept for the log."""
        outputs, labels = model(**model_inputs(inputs)), batch_labels(inputs)
        inner = self.accelerator.unwrap_model(model)
        num_labelled = self._num_labelled or inner.num_labelled(labels, inputs["attention_mask"])
        loss, losses = inner.multi_task_loss(
            outputs,
            labels,
            swfc=self._swfc_loss(outputs, labels["emotion"], inner.config),
            num_labelled=num_labelled,
            speaker_margin=self._speaker_margin(),
        )
        for row, (name, task) in zip(self._task_losses, LOGGED_LOSSES, strict=True):
            if name in losses:
                row += torch.stack([losses[name].detach().float(), (num_labelled[task] > 0).float()])
        if self._logs_gradients:
            self._logs_gradients = False  # the first batch of a step speaks for it
            shared = [parameter for parameter in inner.backbone.parameters() if parameter.requires_grad]
            if shared:
                self._gradients = task_gradients(inner.task_terms(outputs, losses, num_labelled), shared)
        return (loss, outputs) if return_outputs else loss

    def _swfc_loss(self, outputs: SerMtlOutput, labels: Tensor, config: SerMtlConfig) -> Tensor | None:
        """SWFC over the clips of all ranks and the memory; the same value on every rank."""
        if outputs.emotion_embeddings is None or not config.swfc_weight:
            return None
        embeddings = gather_with_gradient(outputs.emotion_embeddings)
        labels = gather_with_gradient(labels, pad_value=IGNORE_INDEX)
        if self.memory is None:
            return config_swfc_loss(embeddings, labels, config)
        loss = config_swfc_loss(embeddings, labels, config, self.memory.embeddings, self.memory.labels)
        self.memory.push(embeddings, labels)
        return loss

    def _speaker_margin(self) -> float:
        """The margin of the angular margin softmax grows in a straight line from 0."""
        margin, steps = self.model.config.speaker_margin, self.args.speaker_margin_warmup_steps
        if steps < 1:
            steps *= self.state.max_steps
        return margin * min(1.0, self.state.global_step / steps) if steps else margin

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in `Trainer`; in training with `args.ema_decay` the averaged weights."""
        with self._average.average.applied(self.model):
            super().save_model(output_dir, _internal_call)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """
        As in `Trainer`; adds every task's mean loss since the last log, over the batches with labels; NaN is shown, not
        filtered. With ASR, `asr_infeasible` counts transcripts that are too long for their clip; they are left out of
        the loss.
        """
        if "loss" in logs:
            sums, counts = self.accelerator.reduce(self._task_losses, reduction="sum").T.tolist()
            for (name, _), total, count in zip(LOGGED_LOSSES, sums, counts, strict=True):
                if count:
                    logs[f"loss_{name}"] = round(total / count, 4)
            self._task_losses.zero_()
            if "asr" in self.model.config.tasks:
                logs["asr_infeasible"] = int(self.accelerator.reduce(self._infeasible, reduction="sum"))
                self._infeasible.zero_()
            logs |= self._gradients
            self._gradients = {}
        super().log(logs, start_time)

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """As in `Trainer`; an [`InputError`] where the Hub refuses, before anything is trained."""
        try:
            super().init_hf_repo(*args, **kwargs)
        except (HTTPError, OSError, ValueError) as error:
            raise InputError(f"--push_to_hub: {one_line(error)}") from error

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        license: str | None = None,
        language: Sequence[str] = (),
        dataset_names: Sequence[str] = (),
        tag: str | None = None,
    ) -> CommitInfo | None:
        """
        As in `Trainer`, but one commit with all that [`~hub.push.publish`] names, whose arguments the last four are,
        and `blocking` always. None on other ranks than the first.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        output_dir = Path(str(self.args.output_dir))
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        return publish(
            output_dir,
            self.hub_model_id or self.args.hub_model_id or output_dir.resolve().name,
            drop_speaker_prototypes=self.args.drop_speaker_prototypes,
            private=self.args.hub_private_repo if private is None else private,
            revision=revision or self.args.hub_revision,
            tag=tag,
            commit_message=commit_message or "End of training",
            license=license,
            language=language,
            dataset_names=dataset_names,
            token=token or self.args.hub_token,
        )

    def _save_rng_state(self, output_dir: str) -> None:
        # Before the state of the Trainer, with which a checkpoint is complete.
        super()._save_rng_state(output_dir)
        if self.is_world_process_zero():
            if self.memory is not None:
                save_file(self.memory.state_dict(), Path(output_dir, MEMORY_FILE))
            if self.args.ema_decay:
                self._average.save(self.model, Path(output_dir))

    def _get_train_sampler(self, train_dataset: SpeechDataset | None = None) -> Sampler | None:
        dataset = cast(SpeechDataset, self.train_dataset) if train_dataset is None else train_dataset
        by_length = self.args.train_sampling_strategy == "group_by_length"
        if self.args.class_aware_batches:
            return ClassAwareSampler(self.args.train_batch_size, dataset, self.args.seed, group_by_length=by_length)
        if by_length:
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
        """As in `Trainer`; keeps emotion logits, gender probabilities, embeddings, characters and losses per window."""
        inputs = self._prepare_inputs(inputs)
        inner = self.accelerator.unwrap_model(model)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**model_inputs(inputs))
        kept = {}
        if outputs.logits is not None:
            kept["emotion"] = outputs.logits.float()
            kept["emotion_embeddings"] = outputs.emotion_embeddings.float()
        if outputs.gender_logits is not None:
            kept["gender"] = outputs.gender_logits.float().softmax(-1)
        if outputs.speaker_embeddings is not None:
            kept["speaker"] = outputs.speaker_embeddings
        if outputs.ctc_logits is not None:
            kept["asr"] = inner.likeliest_characters(outputs)
        with torch.no_grad():
            losses = inner.clip_losses(outputs, batch_labels(inputs))
        for task, (loss, labelled) in losses.items():
            kept[f"loss_{task}"] = loss.masked_fill(~labelled, torch.nan)
        return None, kept, inputs["clip_index"]

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As in `Trainer`; `predictions` is a [`~evaluation.metrics.Predictions`] and the metrics are all of ours."""
        with self._average.average.applied(self.model):
            output = super().evaluation_loop(dataloader, description, False, ignore_keys, metric_key_prefix)
        config, dataset = self.accelerator.unwrap_model(self.model).config, cast(Clips, dataloader.dataset)
        kept, clip_index = cast(tuple[dict[str, np.ndarray], np.ndarray], (output.predictions, output.label_ids))
        predictions = whole_clips(kept, clip_index, dataset, self.processing_class, config)
        metrics = compute_metrics(
            predictions,
            emotion_labels=config.emotion_labels,
            gender_labels=config.gender_labels,
            seed=self.args.seed,
            trials=self.test_trials if metric_key_prefix == "predict" else None,
            min_confidence=self.args.min_confidence,
        )
        if predictions.emotion_embeddings is not None:
            metrics |= embedding_metrics(predictions.emotion_embeddings, predictions.emotion_labels, config)
        losses = {task: metrics[f"loss_{task}"] for task in config.tasks if f"loss_{task}" in metrics}
        if losses:
            metrics["loss"] = sum(config.task_weights[task] * loss for task, loss in losses.items())
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return output._replace(predictions=cast(Any, predictions), metrics=(output.metrics or {}) | metrics)


def batch_labels(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The labels of a collated `batch` by task name, `(B,)`, of asr `(B, L)`."""
    return {task: batch[name] for task, name in LABELS.items()}


def model_inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What of a collated `batch` the encoder reads: inputs and mask."""
    return {name: value for name, value in batch.items() if name != "clip_index" and name not in LABELS.values()}
