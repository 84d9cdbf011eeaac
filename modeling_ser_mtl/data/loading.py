"""Arguments -> checked tables of the training, validation and test set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import cast

import numpy as np
import pandas as pd

from .audio import scan_audio
from .errors import InputError
from .manifest import read_manifests
from .scan_cache import ScanCache
from .splits import check_disjoint_speakers, group_folds, hold_out_speakers, speaker_folds, stratified_speaker_folds
from .streaming import Stream

SPLITS = ("train", "validation", "test")


class _Subset(Sequence):
    """Some items of a sequence, none of them copied."""

    def __init__(self, items: Sequence[str | bytes], positions: Sequence[int] | np.ndarray) -> None:
        self.items, self.positions = items, list(positions)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> str | bytes:
        return self.items[self.positions[index]]


@dataclass
class Split:
    """
    One set of clips.

    Args:
        table (`pd.DataFrame`): N rows of [`~data.manifest.read_manifest`]; `length` in samples at 16 kHz comes with
            [`drop_unusable`].
        audio (`Sequence[str | bytes]` of length N): path or bytes of each row's audio file; empty for a streamed set.
        stream ([`~data.streaming.Stream`], *optional*): of a streamed set, where the column `row` tells the clips.
    """

    table: pd.DataFrame
    audio: Sequence[str | bytes]
    stream: Stream | None = None

    def __len__(self) -> int:
        return len(self.table)

    def take(self, positions: Sequence[int] | np.ndarray) -> "Split":
        """The rows at `positions` (of shape `(M,)`, from 0), in that order; their audio is not copied."""
        audio = _Subset(self.audio, positions) if self.stream is None else self.audio
        return Split(self.table.iloc[positions].reset_index(drop=True), audio, self.stream)


def load_manifest_splits(
    files: dict[str, list[str] | None],
    required: Sequence[str],
    header_workers: int | None = None,
    column_mapping: Mapping[str, str] | None = None,
) -> dict[str, Split]:
    """
    Reads the manifests of each set.

    A `split` column in the training manifests sends rows marked validation or test to those sets; the manifests of
    other sets are taken whole.

    Args:
        files (`dict[str, list[str] | None]`): manifests by set, `train` first.
        required (`Sequence[str]`): label columns that every manifest must have.
        header_workers (`int`, *optional*): threads that read the audio files' headers, so that the report of a damaged
            manifest names them too; None leaves them out.
        column_mapping (`Mapping[str, str]`, *optional*): see [`~data.manifest.read_manifests`].

    Returns:
        `dict[str, Split]`: the sets that have clips.

    Raises:
        InputError: as in [`~data.manifest.read_manifest`], or a `split` cell names no set.
    """
    splits: dict[str, Split] = {}
    for name, paths in files.items():
        if not paths:
            continue
        allowed = {"split": SPLITS} if name == "train" else None
        table = read_manifests(paths, required, allowed, header_workers, column_mapping)
        split = Split(table, table["audio_path"].tolist())
        # A file given for a set comes after the rows of the `split` column and replaces them.
        splits |= split_by_marks(split) if name == "train" else {name: split}
    return splits


def concatenate_splits(splits: Sequence[Split]) -> Split:
    """
    Several sets as one, in their order; a column that one of them lacks is empty there.

    Args:
        splits (`Sequence[Split]`): one or more, none of them streamed.

    Returns:
        `Split`: all their clips.
    """
    table = pd.concat([split.table for split in splits], ignore_index=True).fillna("")
    return Split(table, [clip for split in splits for clip in split.audio])


def split_by_marks(train: Split) -> dict[str, Split]:
    """
    The sets that the column `split` of the training clips names, `train` where it is empty; all train without it.

    Args:
        train ([`Split`]): the clips.

    Returns:
        `dict[str, Split]`: those of `train`, `validation` and `test` that have clips.

    Raises:
        InputError: a cell names no set.
    """
    if "split" not in train.table:
        return {"train": train}
    marks = train.table["split"].str.strip().replace("", "train")
    if not marks.isin(SPLITS).all():
        clip = train.table.loc[~marks.isin(SPLITS)].iloc[0]
        raise InputError(
            f"{clip['manifest']} row {clip['row']}: split is {clip['split']!r}; allowed: {', '.join(SPLITS)}; "
            "correct it or rename the column"
        )
    return {mark: train.take(np.flatnonzero(marks == mark)) for mark in SPLITS if (marks == mark).any()}


def drop_unusable(split: Split, num_workers: int, cache: ScanCache | None = None) -> tuple[Split, pd.DataFrame]:
    """
    Decodes every clip once, measures it and drops what can't be used.

    Args:
        split ([`Split`]): the clips.
        num_workers (`int`): threads that decode, 1 or more.
        cache ([`~data.scan_cache.ScanCache`], *optional*): where lengths are kept from run to run.

    Returns:
        `tuple[Split, pd.DataFrame]`: the usable clips, with `length` in samples at 16 kHz, and a table
        `manifest,row,audio,reason` of the others.
    """
    lengths, reasons = scan_audio(split.audio, num_workers, cache=cache)
    table = split.table.assign(length=lengths)
    usable = [index for index, reason in enumerate(reasons) if not reason]
    unusable = [index for index, reason in enumerate(reasons) if reason]
    skipped = table.iloc[unusable][["manifest", "row", "audio"]].assign(reason=[reasons[index] for index in unusable])
    return Split(table.iloc[usable].reset_index(drop=True), _Subset(split.audio, usable)), skipped


def split_by_speaker(
    splits: dict[str, Split],
    *,
    num_folds: int | None,
    fold: int,
    validation_speakers: float,
    seed: int,
    stratify_folds: bool = False,
    fold_column: str | None = None,
    allow_shared_speakers: bool = False,
) -> dict[str, Split]:
    """
    Makes the sets that were not given: the fold's test speakers, then held-out validation speakers of the rest.

    Args:
        splits (`dict[str, Split]`): the sets that were given.
        num_folds (`int`, *optional*), fold (`int`): cross-validation, see [`~data.splits.speaker_folds`].
        stratify_folds (`bool`): folds of speakers with alike emotions, see [`~data.splits.stratified_speaker_folds`].
        fold_column (`str`, *optional*): folds by a column in place of `num_folds`, see [`~data.splits.group_folds`].
        validation_speakers (`float`): share of the training speakers to hold out where no validation set is given, in
            [0, 1), 0 for nobody, see [`~data.splits.hold_out_speakers`].
        seed (`int`): seed of the hold-out.
        allow_shared_speakers (`bool`): whether the given sets may share speakers.

    Returns:
        `dict[str, Split]`: the given sets and those made of them.

    Raises:
        InputError: folds beside a given validation or test set or without a training set, speakers shared between two
            sets without `allow_shared_speakers`, or as in the two functions named.
    """
    splits = dict(splits)
    if num_folds is not None and fold_column is not None:
        raise InputError(f"--num_folds {num_folds}, --fold_column {fold_column}: give only one of the two")
    if num_folds is not None or fold_column is not None:
        option = f"--num_folds {num_folds}" if fold_column is None else f"--fold_column {fold_column}"
        given = [name for name in ("validation", "test") if name in splits]
        if given:
            raise InputError(f"{option}: the data names its own {given[0]} set; give only one of the two")
        if "train" not in splits:
            raise InputError(f"{option}: no training clips; give --train_file or --dataset_name")
        table = splits["train"].table
        if fold_column is not None:
            rest, test = group_folds(table, fold_column, fold)
        elif stratify_folds:
            rest, test = stratified_speaker_folds(table, cast(int, num_folds), fold, seed)
        else:
            rest, test = speaker_folds(table, cast(int, num_folds), fold)
        splits["train"], splits["test"] = splits["train"].take(rest), splits["train"].take(test)
    # Before speakers are held out, since those must not be tested either.
    if not allow_shared_speakers:
        for first, second in combinations([name for name in SPLITS if name in splits], 2):
            check_disjoint_speakers(splits[first].table, splits[second].table, second)
    if validation_speakers != 0 and "validation" not in splits and "train" in splits:
        train, held_out = hold_out_speakers(splits["train"].table, validation_speakers, seed)
        splits["validation"], splits["train"] = splits["train"].take(held_out), splits["train"].take(train)
    return splits
