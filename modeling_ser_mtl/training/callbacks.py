"""Callbacks of the trainer."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .memory import EmbeddingMemory

MEMORY_FILE = "embedding_memory.safetensors"


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


class EmbeddingMemoryCallback(TrainerCallback):
    """
    Saves SWFC's memory of past embeddings with every checkpoint.

    Args:
        memory ([`EmbeddingMemory`]): the same on every rank; rank 0 writes it.
    """

    def __init__(self, memory: EmbeddingMemory) -> None:
        self.memory = memory

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """As in `TrainerCallback`: rank 0 writes the memory as safetensors into the checkpoint's folder."""
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            save_file(self.memory.state_dict(), folder / MEMORY_FILE)
