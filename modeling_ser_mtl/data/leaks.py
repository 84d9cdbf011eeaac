"""Leaks between the sets of a run: a speaker, an audio file or a copy of one that is in two of them."""

import hashlib
import logging
import os
from collections.abc import Callable, Hashable
from itertools import combinations

from .errors import InputError
from .loading import SPLITS, Split

logger = logging.getLogger(__name__)

PROBE_BYTES = 4096
MAX_NAMED = 3


def check_leaks(splits: dict[str, Split], allow_shared_speakers: bool = False) -> None:
    """
    Checks that no two sets share a speaker, an audio file or a copy of one.

    A copy has the same bytes. Bytes are compared rather than samples, since decoding a large corpus takes hours and
    copies are rarely encoded anew. Few of them are read: of files whose size occurs in two sets 4 KiB in the middle,
    and where these are equal the whole.

    Args:
        splits (`dict[str, Split]`): The sets, of `train`, `validation` and `test`.
        allow_shared_speakers (`bool`): Whether shared speakers are only warned of, as published splits may have them.

    Raises:
        InputError: Something is shared: one line with the counts and the first pairs.
    """
    clips = [
        _Clip(splits[name], name, index) for name in SPLITS if name in splits for index in range(len(splits[name]))
    ]
    speakers = _shared_speakers(splits)
    if speakers and allow_shared_speakers:
        logger.warning(
            "the sets share %d speaker(s): %s; results will not be those of unseen speakers (--allow_shared_speakers)",
            len(speakers),
            _tell_first(speakers),
        )
        speakers = []
    shared = {
        "speaker(s)": speakers,
        "audio file(s)": [_tell_pair(group) for group in _groups(clips, lambda clip: clip.file, min_files=1)],
        "copied audio file(s)": [_tell_pair(group) for group in _copies(clips)],
    }
    found = [f"{len(items)} {what}: {_tell_first(items)}" for what, items in shared.items() if items]
    if found:
        raise InputError(
            f"the sets share {'; '.join(found)}; what trains must not be evaluated: keep each in one set only"
        )


class _Clip:
    """One clip of a set; `file` is equal for those that are one file, also through links."""

    def __init__(self, split: Split, name: str, index: int) -> None:
        self.split, self.name, self.index = split, name, index
        source = split.audio[index]
        self.file: Hashable = (name, index)
        if isinstance(source, bytes):
            self.size = len(source)
        else:
            status = os.stat(source)
            self.file, self.size = (status.st_dev, status.st_ino), status.st_size

    def read(self, start: int = 0, size: int = -1) -> bytes:
        """Some of the encoded audio, which is not kept."""
        source = self.split.audio[self.index]
        if isinstance(source, bytes):
            return source[start:] if size < 0 else source[start : start + size]
        with open(source, "rb") as file:
            file.seek(start)
            return file.read(size)

    def __str__(self) -> str:
        row = self.split.table.iloc[self.index]
        return f"{row['manifest']} row {row['row']} ({self.name})"


def _shared_speakers(splits: dict[str, Split]) -> list[str]:
    """Speakers of several sets, with the names of these."""
    sets: dict[str, list[str]] = {}
    for name in SPLITS:
        if name in splits:
            for speaker in set(splits[name].table["speaker"]) - {""}:
                sets.setdefault(speaker, []).append(name)
    return [f"{speaker} ({', '.join(names)})" for speaker, names in sorted(sets.items()) if len(names) > 1]


def _copies(clips: list[_Clip]) -> list[list[_Clip]]:
    """Groups of clips of two sets that are several files with the same content."""
    keys: tuple[Callable[[_Clip], Hashable], ...] = (
        lambda clip: clip.size,
        lambda clip: clip.read(clip.size // 2, PROBE_BYTES),
        lambda clip: hashlib.blake2b(clip.read()).digest(),
    )
    groups = [clips]
    for key in keys:
        groups = [part for group in groups for part in _groups(group, key, min_files=2)]
    return groups


def _groups(clips: list[_Clip], key: Callable[[_Clip], Hashable], min_files: int) -> list[list[_Clip]]:
    """Clips with equal keys, where they come from two sets or more and are `min_files` files or more."""
    groups: dict[Hashable, list[_Clip]] = {}
    for clip in clips:
        groups.setdefault(key(clip), []).append(clip)
    return [
        group
        for group in groups.values()
        if len({clip.name for clip in group}) > 1 and len({clip.file for clip in group}) >= min_files
    ]


def _tell_pair(group: list[_Clip]) -> str:
    """Two clips of different sets, and of different files where the group has several."""
    several = len({clip.file for clip in group}) > 1
    return next(
        f"{first} and {second}"
        for first, second in combinations(group, 2)
        if first.name != second.name and not (several and first.file == second.file)
    )


def _tell_first(items: list[str]) -> str:
    more = f" and {len(items) - MAX_NAMED} more" if len(items) > MAX_NAMED else ""
    return ", ".join(items[:MAX_NAMED]) + more
