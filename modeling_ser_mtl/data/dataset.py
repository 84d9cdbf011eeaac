"""Table rows and their audio -> the items a collator batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..audio_ser_mtl import window_bounds
from .audio import SAMPLING_RATE, load_audio, load_evenly
from .augmentation import WaveformAugmentation
from .text import normalize_transcript

IGNORE_INDEX = -100


@dataclass(frozen=True)
class LabelNames:
    """
    Names in the order of the model's classes.

    Args:
        emotion (`Sequence[str]`): emotions.
        gender (`Sequence[str]`): genders.
        speaker (`Sequence[str]`): training speakers, "<corpus>/<speaker_id>"; none without training.
    """

    emotion: Sequence[str]
    gender: Sequence[str]
    speaker: Sequence[str] = ()


def encode_labels(names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Positions of the N `names` in `classes`, `(N,)` int64; -100 where a name is no class (or is empty)."""
    index = {name: position for position, name in enumerate(classes)}
    return np.array([index.get(name, IGNORE_INDEX) for name in names], dtype=np.int64)


class Clips:
    """
    Labels of a set of clips, and the items that their waveforms make: what a set on disk and a streamed one share.

    In training a clip longer than `max_seconds` gives a random crop without its transcript; otherwise it gives
    consecutive windows of at most that length, which share their `clip_index`. Random draws depend on (seed, epoch,
    clip) alone.

    An item is a dict: `waveform` (float32 of shape `(num_samples,)`, 16 kHz), `emotion_label`, `gender_label`,
    `speaker_label` (int, -100 where unknown), `text` (normalised, "" where unknown) and `clip_index` (row in `table`).

    Args:
        table (`pd.DataFrame`): N rows of [`~data.manifest.read_manifest`].
        labels ([`LabelNames`]): classes of the model.
        max_seconds (`float`): longest item; .1 or more, so that no window is too short for the encoder.
        augmentation ([`WaveformAugmentation`], *optional*): for training.
        training (`bool`): random crops and augmentation, or windows.
        seed (`int`): seed of the crops, 0 or more.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        labels: LabelNames,
        *,
        max_seconds: float,
        augmentation: WaveformAugmentation | None = None,
        training: bool = False,
        seed: int = 42,
    ) -> None:
        self.table = table
        self.labels = labels
        self.max_samples = round(max_seconds * SAMPLING_RATE)
        self.augmentation = augmentation
        self.training = training
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers see it move
        self.emotion_labels = encode_labels(table["emotion"], labels.emotion)
        self.gender_labels = encode_labels(table["gender"], labels.gender)
        self.speaker_labels = encode_labels(table["speaker"], labels.speaker)
        self.transcripts = [normalize_transcript(text) for text in table["text"]]

    @property
    def class_counts(self) -> dict[str, list[int]]:
        """Clips per class in the order of the model's classes, for `emotion` and `gender`."""
        return {
            task: [int((labels == index).sum()) for index in range(len(classes))]
            for task, labels, classes in (
                ("emotion", self.emotion_labels, self.labels.emotion),
                ("gender", self.gender_labels, self.labels.gender),
            )
        }

    def set_epoch(self, epoch: int) -> None:
        """Moves the random draws to `epoch` (`int`, from 0), in the data loader's workers as well."""
        self._epoch.fill_(epoch)

    @property
    def epoch(self) -> int:
        """The epoch of the random draws."""
        return int(self._epoch)

    def training_item(self, clip: int, waveform: np.ndarray) -> dict[str, Any]:
        """
        The item of a clip in the current epoch: augmented, and cropped where it is too long.

        Args:
            clip (`int`): row in `table`.
            waveform (`np.ndarray` of shape `(num_samples,)`): the whole clip, at 16 kHz.
        """
        if self.augmentation is not None:
            waveform = self.augmentation(waveform, self.epoch, clip)
        if len(waveform) <= self.max_samples:
            return self._item(clip, waveform, self.transcripts[clip])
        random = np.random.default_rng((self.seed, self.epoch, clip))
        start = int(random.integers(len(waveform) - self.max_samples + 1))
        return self._item(clip, waveform[start : start + self.max_samples], "")

    def window_item(self, clip: int, waveform: np.ndarray, start: int, end: int) -> dict[str, Any]:
        """
        The item of one window. It has no transcript of its own; the clip's is compared with the windows' joined texts.

        Args:
            clip (`int`): row in `table`.
            waveform (`np.ndarray` of shape `(num_samples,)`): the whole clip, at 16 kHz.
            start (`int`), end (`int`): the window's samples, as of [`~audio_ser_mtl.window_bounds`].
        """
        text = self.transcripts[clip] if end - start == len(waveform) else ""
        return self._item(clip, waveform[start:end], text)

    def _item(self, clip: int, waveform: np.ndarray, text: str) -> dict[str, Any]:
        return {
            "waveform": waveform,
            "emotion_label": int(self.emotion_labels[clip]),
            "gender_label": int(self.gender_labels[clip]),
            "speaker_label": int(self.speaker_labels[clip]),
            "text": text,
            "clip_index": clip,
        }


class SpeechDataset(Clips, torch.utils.data.Dataset):
    """
    Clips of a manifest, decoded when asked for; see [`Clips`] for what they give.

    Args:
        table (`pd.DataFrame`): N rows of [`~data.manifest.read_manifest`] with a column `length` in samples at 16 kHz.
        audio (`Sequence[str | bytes]` of length N): what [`~data.audio.load_audio`] reads, one per row.
        labels ([`LabelNames`]): classes of the model.
        **kwargs: as in [`Clips`].
    """

    def __init__(self, table: pd.DataFrame, audio: Sequence[str | bytes], labels: LabelNames, **kwargs: Any) -> None:
        super().__init__(table, labels, **kwargs)
        self.audio = audio
        self._loaded: tuple[int, np.ndarray] | None = None
        lengths = table["length"].astype(int).to_numpy()
        if self.training:
            self.items = [(clip, 0, length) for clip, length in enumerate(lengths)]
        else:
            self.items = [
                (clip, start, end)
                for clip, length in enumerate(lengths)
                for start, end in window_bounds(length, self.max_samples)
            ]

    def _load(self, clip: int) -> np.ndarray:
        # The windows of a long clip come one after another: it is decoded once for all.
        if self._loaded is None or self._loaded[0] != clip:
            self._loaded = clip, load_audio(self.audio[clip])
        return self._loaded[1]

    @property
    def lengths(self) -> list[int]:
        """Length of every item in samples at 16 kHz, before augmentation, for batches of similar length."""
        return [min(end - start, self.max_samples) for _, start, end in self.items]

    def waveforms(self, count: int) -> Iterator[np.ndarray]:
        """Up to `count` whole clips of shape `(num_samples,)`, evenly spread over the table, for statistics."""
        return load_evenly(self.audio, count)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        clip, start, end = self.items[index]
        if self.training:
            return self.training_item(clip, self._load(clip))
        return self.window_item(clip, self._load(clip), start, end)
