"""Items of a dataset -> one padded batch with every label tensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..processing_ser_mtl import SerMtlProcessor
from .audio import SAMPLING_RATE


@dataclass
class SerMtlCollator:
    """
    Batches items of [`~data.dataset.Clips`].

    Every label tensor is always there, -100 where unknown: `emotion_labels`, `gender_labels`, `speaker_labels` `(B,)`
    and `ctc_labels` `(B, L)`; beside them the model's inputs and `clip_index` `(B,)`, the clip's row in its table.

    Args:
        processor ([`SerMtlProcessor`]): makes the inputs, at 16 kHz.
    """

    processor: SerMtlProcessor

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """
        Pads and stacks.

        Args:
            items (`Sequence[dict]` of length B): items of [`~data.dataset.Clips`].

        Returns:
            `dict[str, Any]`: the model's inputs, the labels (int64) and `clip_index`, tensors with B rows each; and
            `skipped`, a list, where items have it, see [`~data.streaming.StreamedDataset`].
        """
        batch = self.processor(
            [item["waveform"] for item in items],
            text=[item["text"] for item in items],
            sampling_rate=SAMPLING_RATE,
        )
        for name in ("emotion_label", "gender_label", "speaker_label"):
            batch[f"{name}s"] = torch.tensor([item[name] for item in items])
        batch["clip_index"] = torch.tensor([item["clip_index"] for item in items])
        skipped = [item["skipped"] for item in items if "skipped" in item]
        return dict(batch) | ({"skipped": skipped} if skipped else {})
