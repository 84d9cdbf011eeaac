"""Order of the training clips."""

from collections.abc import Iterator, Sequence

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler


class SeededLengthGroupedSampler(LengthGroupedSampler):
    """
    Clips of similar length together, in an order that depends on (seed, epoch) alone: the same on every rank and after
    a resume.

    Args:
        batch_size (`int`): clips per optimiser step and rank.
        lengths (`Sequence[int]`): length of every item, in any unit.
        seed (`int`): seed of the order.
    """

    def __init__(self, batch_size: int, lengths: Sequence[int], seed: int) -> None:
        super().__init__(batch_size, lengths=list(lengths), generator=torch.Generator())
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Moves the order to `epoch`."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.seed * 100_003 + self.epoch)
        return super().__iter__()
