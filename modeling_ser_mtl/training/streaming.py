"""Training on streamed sets: who reads what, and which clips turn out to be unusable."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from ..data.errors import InputError
from ..data.streaming import Skipped, StreamedDataset
from .trainer import SerMtlTrainer

logger = logging.getLogger(__name__)


class StreamingTrainer(SerMtlTrainer):
    """
    A [`SerMtlTrainer`] of [`~data.streaming.StreamedDataset`]s, which learns on its way which clips can't be used.

    Args:
        *args, **kwargs: as in [`SerMtlTrainer`].
        num_clips (`int`): clips of all sets.
        max_skipped (`float`): share of them, in [0, 1], above which unusable clips stop the run.

    Attributes:
        skipped (`set[Skipped]`): the unusable clips that all ranks know of.
    """

    def __init__(self, *args: Any, num_clips: int, max_skipped: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_skipped = max_skipped
        self.num_clips = num_clips
        self.skipped: set[Skipped] = set()
        self._found: set[Skipped] = set()  # by this rank alone
        self.add_callback(_EpochEndCallback(self.gather_skipped))

    def gather_skipped(self) -> None:
        """
        Tells all ranks the unusable clips that each has found, and warns of new ones; to be called on every rank.

        Raises:
            InputError: there are more than `max_skipped`.
        """
        found = set(gather_object(sorted(self._found))) - self.skipped
        self._found.clear()
        if not found:
            return
        self.skipped |= found
        first = min(found)
        told = f"{first.manifest} row {first.row}, {first.reason}"
        if len(self.skipped) > self.max_skipped * self.num_clips:
            raise InputError(
                f"{len(self.skipped)} of {self.num_clips} clips can't be used so far, more than --max_skipped "
                f"{self.max_skipped:g}; one of them: {told}"
            )
        logger.warning("%d clips can't be used and are skipped, see skipped.csv; one of them: %s", len(found), told)

    def skipped_table(self) -> pd.DataFrame:
        """The table `manifest,row,audio,reason` of the unusable clips, in order."""
        return pd.DataFrame(sorted(self.skipped), columns=list(Skipped._fields))

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], None]:
        """As in [`SerMtlTrainer`]; too many unusable clips stop all ranks at once."""
        batches, nothing = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches:
            self._note_skipped(batch)
        number = self.accelerator.reduce(torch.tensor(len(self._found), device=device), "sum")
        if len(self.skipped) + int(number) > self.max_skipped * self.num_clips:
            self.gather_skipped()
        return batches, nothing

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[None, dict[str, Tensor], Tensor]:
        """As in [`SerMtlTrainer`]."""
        self._note_skipped(inputs)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As in [`SerMtlTrainer`]; unusable clips have no prediction."""
        output = super().evaluation_loop(*args, **kwargs)
        self.gather_skipped()
        return output

    def num_examples(self, dataloader: DataLoader) -> int:
        """Clips of the set behind `dataloader`, of which this rank reads a part."""
        dataset: Any = dataloader.dataset
        return len(dataset.table)

    def _note_skipped(self, batch: dict[str, Any]) -> None:
        self._found |= {clip for clip in batch.pop("skipped", ()) if clip not in self.skipped}

    def _get_dataloader(
        self, dataset: StreamedDataset, description: str, batch_size: int, is_training: bool = False, **kwargs: Any
    ) -> DataLoader:
        args = self.args
        dataset.set_rank(args.process_index, args.world_size, batch_size)
        loader = DataLoader(
            dataset,
            batch_size=batch_size,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            persistent_workers=args.dataloader_persistent_workers,
            pin_memory=args.dataloader_pin_memory,
            drop_last=is_training and args.dataloader_drop_last,
        )
        # One process as far as accelerate knows: the data set itself reads for this rank only.
        device = self.accelerator.device
        return prepare_data_loader(
            loader, device, num_processes=1, process_index=0, put_on_device=True, dispatch_batches=False
        )


class _EpochEndCallback(TrainerCallback):
    def __init__(self, action: Callable[[], None]) -> None:
        self.action = action

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self.action()
