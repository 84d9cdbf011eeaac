"""Callbacks of the trainer."""

from typing import Any

from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class EpochCallback(TrainerCallback):
    """Tells the training set which epoch it is in, so that crops and augmentation differ and a resume repeats them."""

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: DataLoader,
        **kwargs: Any,
    ) -> None:
        """As in `TrainerCallback`: hands the epoch, from 0, to the dataset of `train_dataloader`."""
        dataset: Any = train_dataloader.dataset
        dataset.set_epoch(int(state.epoch or 0))
