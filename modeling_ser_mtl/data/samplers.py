"""Order of the training clips."""

from collections.abc import Iterator

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler

from .dataset import SpeechDataset


class SeededLengthGroupedSampler(LengthGroupedSampler):
    """
    Clips of similar length together, in an order that depends on (seed, epoch) alone: the same on every rank and after
    a resume. The epoch is the dataset's, since launchers wrap samplers so that an epoch set there may not arrive.

    Args:
        batch_size (`int`): clips per optimiser step and rank.
        dataset ([`SpeechDataset`]): the clips.
        seed (`int`): seed of the order.
    """

    def __init__(self, batch_size: int, dataset: SpeechDataset, seed: int) -> None:
        super().__init__(batch_size, lengths=dataset.lengths, generator=torch.Generator())
        self.dataset = dataset
        self.seed = seed

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.seed * 100_003 + self.dataset.epoch)
        return super().__iter__()
