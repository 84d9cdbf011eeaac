"""Corpora that are never whole on this machine: rows read in order, shuffled in a buffer, as a set of clips."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

import fsspec
import numpy as np
import pandas as pd
import torch
from datasets import IterableDataset

from ..audio_ser_mtl import window_bounds
from .audio import MIN_SAMPLES, load_audio
from .dataset import IGNORE_INDEX, Clips, LabelNames
from .errors import InputError

READ_ROWS = 16  # encoded clips in memory beside the buffer
NO_CLIP = -1  # `clip_index` of an item that stands for no clip
Item = TypeVar("Item")


class Skipped(NamedTuple):
    """A clip that can't be used, as a row of skipped.csv."""

    manifest: str
    row: int
    audio: str
    reason: str


class Stream:
    """
    The audio of a data set, which can only be read on.

    Args:
        parts (`Sequence[datasets.IterableDataset]`): consecutive rows each, usually a file; reading can start at any.
        sizes (`Sequence[int]`): rows of each part.
        column (`str`): the column of the audio: paths, or dicts with `path` and `bytes`.
        folder (`str`): where relative paths begin.
    """

    def __init__(self, parts: Sequence[IterableDataset], sizes: Sequence[int], column: str, folder: str) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *sizes])
        self.column = column
        self.folder = folder

    def part_of(self, rows: np.ndarray) -> np.ndarray:
        """The part of each of the `rows`, both `(N,)` int64 from 0."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def read(self, rows: np.ndarray) -> Iterator[Any]:
        """
        Reads the audio of some rows as it is stored; those between them in a part are read over.

        Args:
            rows (`np.ndarray` of shape `(N,)`): the rows; where one is not behind the one before, or in another part,
                that part is opened anew.

        Returns:
            `Iterator`: N items for [`load`], in that order.
        """
        if not len(rows):
            return
        parts = self.part_of(rows)
        for run in np.split(np.arange(len(rows)), np.flatnonzero((np.diff(parts) != 0) | (np.diff(rows) <= 0)) + 1):
            part = parts[run[0]]
            # Not `iter(part)`, which in a worker of a data loader would leave out what it takes for other workers'.
            items = chain.from_iterable(batch[self.column] for batch in self.parts[part].iter(batch_size=READ_ROWS))
            for skipped in np.diff(rows[run] - self.starts[part], prepend=-1) - 1:
                yield next(islice(items, skipped, None))

    def load(self, item: Any) -> np.ndarray:
        """
        Decodes what [`read`] gives.

        Args:
            item (`str` or `dict`, *optional*): a path (remote ones as `datasets` has them), or `path` and `bytes`.

        Returns:
            `np.ndarray` of shape `(num_samples,)`: as of [`~data.audio.load_audio`].

        Raises:
            InputError: as in [`~data.audio.load_audio`], or there is no audio.
        """
        stored = {"path": item, "bytes": None} if isinstance(item, str) else item or {"path": None, "bytes": None}
        if stored["bytes"] is not None:
            return load_audio(stored["bytes"])
        if stored["path"] is None:
            raise InputError("there is neither a path nor audio")
        if "://" not in stored["path"]:
            return load_audio(os.path.join(self.folder, stored["path"]))
        try:
            with fsspec.open(stored["path"]) as file:
                content = file.read()
        except FileNotFoundError as error:
            raise InputError(f"{stored['path']}: no such file") from error
        return load_audio(content)


class StreamedDataset(Clips, torch.utils.data.IterableDataset):
    """
    Clips of a stream; see [`Clips`] for what they give.

    In training every clip comes once an epoch: the stream's parts in an order that depends on (seed, epoch) alone,
    their clips in a buffer of encoded audio from which they are drawn. Each rank, and each worker of its data loader,
    reads a run of its own of that order; the last rank's is filled up from the start, so that all have equally many.

    Otherwise the clips come in order. Each rank reads all of them, since only then it is known how many windows there
    are, and gives those of its batches; what the last batches lack is filled up with items that stand for no clip.

    A clip that can't be used gives an item of silence without labels, which no loss counts, with `skipped`, a
    [`Skipped`]; its `clip_index` is -1. So an epoch has as many items as the table rows, whatever is damaged.

    Args:
        table (`pd.DataFrame`): N rows with `row`, the row in the stream, ascending.
        stream ([`Stream`]): their audio.
        labels ([`LabelNames`]): classes of the model.
        shuffle_buffer_size (`int`): encoded clips to draw from in training, per worker; 1 keeps the stream's order.
        **kwargs: as in [`Clips`].
    """

    def __init__(
        self, table: pd.DataFrame, stream: Stream, labels: LabelNames, *, shuffle_buffer_size: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(table, labels, **kwargs)
        self.stream = stream
        self.rows = table["row"].to_numpy(dtype=np.int64)
        self.shuffle_buffer_size = shuffle_buffer_size
        self.set_rank(0, 1, 1)

    def set_rank(self, rank: int, num_ranks: int, batch_size: int) -> None:
        """
        Chooses what is read.

        Args:
            rank (`int`): the process, from 0.
            num_ranks (`int`): number of processes, which must all read equally many batches.
            batch_size (`int`): clips per batch and rank.
        """
        self.rank, self.num_ranks, self.batch_size = rank, num_ranks, batch_size

    def waveforms(self, count: int) -> Iterator[np.ndarray]:
        """The first `count` whole clips of shape `(num_samples,)`, fewer where some can't be used, for statistics."""
        for item in self.stream.read(self.rows[:count]):
            try:
                yield self.stream.load(item)
            except InputError:
                continue

    def __len__(self) -> int:
        if not self.training:
            raise TypeError("how many windows there are is known only after they have been read")
        return -(-len(self.table) // self.num_ranks)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        return self._training_items(number, count) if self.training else self._own_windows(number, count)

    def _training_items(self, worker: int, num_workers: int) -> Iterator[dict[str, Any]]:
        clips = np.arange(len(self.rows))
        shuffles = self.shuffle_buffer_size > 1
        if shuffles:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.stream.parts))
            clips = np.argsort(order[self.stream.part_of(self.rows)], kind="stable")
        clips = clips[np.arange(self.rank * len(self), (self.rank + 1) * len(self)) % len(clips)]
        # Whole batches for each worker, so that there are as many as with one.
        num_batches = -(-len(clips) // self.batch_size)
        start, end = (num_batches * np.arange(worker, worker + 2) // num_workers * self.batch_size).tolist()
        clips = clips[start:end]
        encoded = zip(clips.tolist(), self.stream.read(self.rows[clips]), strict=True)
        random = np.random.default_rng((self.seed, self.epoch, self.rank, worker))
        for clip, item in shuffle_in_buffer(encoded, self.shuffle_buffer_size, random):
            try:
                waveform = self.stream.load(item)
            except InputError as error:
                yield self._silence() | {"skipped": self._skipped(clip, error)}
                continue
            yield self.training_item(clip, waveform)

    def _windows(self, worker: int, num_workers: int) -> Iterator[dict[str, Any]]:
        clips = np.array_split(np.arange(len(self.rows)), num_workers)[worker]
        for clip, item in zip(clips.tolist(), self.stream.read(self.rows[clips]), strict=True):
            try:
                waveform = self.stream.load(item)
            except InputError as error:
                yield self._silence() | {"skipped": self._skipped(clip, error)}
                continue
            for start, end in window_bounds(len(waveform), self.max_samples):
                yield self.window_item(clip, waveform, start, end)

    def _own_windows(self, worker: int, num_workers: int) -> Iterator[dict[str, Any]]:
        """Those of this rank's batches, of which all ranks have equally many."""
        number = 0
        for item in self._windows(worker, num_workers):
            if number // self.batch_size % self.num_ranks == self.rank:
                yield item
            number += 1
        while self.num_ranks > 1 and number % (self.batch_size * self.num_ranks):
            if number // self.batch_size % self.num_ranks == self.rank:
                yield self._silence()
            number += 1

    def _silence(self) -> dict[str, Any]:
        labels = dict.fromkeys(("emotion_label", "gender_label", "speaker_label"), IGNORE_INDEX)
        return {"waveform": np.zeros(MIN_SAMPLES, dtype=np.float32), "text": "", "clip_index": NO_CLIP, **labels}

    def _skipped(self, clip: int, error: InputError) -> Skipped:
        clip_row = self.table.iloc[clip]
        return Skipped(clip_row["manifest"], int(clip_row["row"]), clip_row["audio"], str(error))


def shuffle_in_buffer(items: Iterable[Item], size: int, random: np.random.Generator) -> Iterator[Item]:
    """
    Shuffles what is too much for the memory: each item is drawn from a buffer that is then filled up with the next.

    Args:
        items (`Iterable`): the items.
        size (`int`): items of the buffer, 1 or more; 1 keeps the order.
        random (`np.random.Generator`): source of the order.

    Returns:
        `Iterator`: each item once.
    """
    buffer: list[Item] = []
    for item in items:
        if len(buffer) < size:
            buffer.append(item)
        else:
            place = int(random.integers(size))
            yield buffer[place]
            buffer[place] = item
    for place in random.permutation(len(buffer)):
        yield buffer[place]
