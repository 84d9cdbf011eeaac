"""Emotion embeddings of past batches, so that SWFC has something to compare a small batch with."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..data.errors import InputError
from ..losses_ser_mtl import IGNORE_INDEX


class EmbeddingMemory:
    """
    The latest emotion embeddings of every class, as further candidates of SWFC:
    `swfc_loss(..., bank_embeddings=memory.embeddings, bank_labels=memory.labels)` before the batch itself is pushed.

    Each class keeps its own `size // num_classes` embeddings, so a frequent class can't push out a rare one. Ranks that
    push the same gathered batches hold the same memory.

    A clip that comes again while its last embedding is still stored meets its own older self as a positive. In a large
    corpus that is too rare to matter; `size` should therefore be far below the number of training clips.

    Args:
        size (`int`): embeddings in all, at least `num_classes`.
        num_classes (`int`): emotion classes.

    Attributes:
        embeddings (`Tensor` of shape `(M, D)`, float32): stored embeddings, sorted by class and then from old to new;
            `None` before the first push. They stay on the device of the batches.
        labels (`Tensor` of shape `(M,)`): their classes; `None` before the first push.

    Raises:
        InputError: `size` has no room for every class.
    """

    def __init__(self, size: int, num_classes: int) -> None:
        if size < num_classes:
            raise InputError(f"--swfc_memory_size {size}: give 0 or at least {num_classes}, the number of emotions")
        self.quota = size // num_classes
        self.embeddings: Tensor | None = None
        self.labels: Tensor | None = None

    def push(self, embeddings: Tensor, labels: Tensor) -> None:
        """
        Stores detached copies of the labelled clips; each class then forgets its oldest ones beyond the quota.

        Args:
            embeddings (`Tensor` of shape `(N, D)`): embeddings, the latest last.
            labels (`Tensor` of shape `(N,)`): their classes; -100 = not labelled, and not stored.
        """
        labelled = labels != IGNORE_INDEX
        embeddings, labels = embeddings.detach().float()[labelled], labels[labelled]
        if self.embeddings is not None and self.labels is not None:
            embeddings, labels = torch.cat([self.embeddings, embeddings]), torch.cat([self.labels, labels])
        labels, order = labels.sort(stable=True)
        end_of_class = torch.searchsorted(labels, labels, right=True)
        latest = end_of_class - torch.arange(len(labels), device=labels.device) <= self.quota
        self.embeddings, self.labels = embeddings[order[latest]], labels[latest]

    def state_dict(self) -> dict[str, Tensor]:
        """`embeddings` `(M, D)` and `labels` `(M,)` as stored, for `safetensors`; no entries before the first push."""
        if self.embeddings is None or self.labels is None:
            return {}
        return {"embeddings": self.embeddings, "labels": self.labels}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """
        Takes up what [`EmbeddingMemory.state_dict`] gave, exactly, and the latest of it where the size is smaller now.

        Args:
            state_dict (`Mapping[str, Tensor]`): `embeddings` `(M, D)` and `labels` `(M,)` on the device of the batches
                to come, or nothing.
        """
        self.embeddings = self.labels = None
        if state_dict:
            self.push(state_dict["embeddings"], state_dict["labels"])
