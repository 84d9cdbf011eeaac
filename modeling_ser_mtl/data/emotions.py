"""One emotion vocabulary for several corpora: their label names and codes -> the names of `--emotion_map`."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from .errors import InputError, one_line

STANDARD = "standard"
MAP_SUFFIXES = (".yaml", ".yml", ".json")
MAX_MAP_BYTES = 2**20

# What corpora write for an emotion. Letters are those of the MSP corpora, since EmoDB's and SAVEE's mean others.
SYNONYMS = {
    "anger": ("angry", "ang", "A"),
    "sadness": ("sad", "S"),
    "happiness": ("happy", "hap", "joy", "joyful", "H"),
    "surprise": ("surprised", "sur", "ps", "pleasant_surprise", "pleasant_surprised", "U"),
    "fear": ("fearful", "fea", "afraid", "F"),
    "disgust": ("disgusted", "dis", "D"),
    "contempt": ("contemptuous", "C"),
    "neutral": ("neu", "N"),
    "calm": ("calmness",),
    "boredom": ("bored", "bor"),
    "excitement": ("excited", "exc"),
    "frustration": ("frustrated", "fru"),
    "other": ("oth", "O"),
    # No agreement between the raters.
    "": ("xxx", "no_agreement", "X"),
}
STANDARD_MAP = {old.casefold(): new for new, names in SYNONYMS.items() for old in (new, *names) if old}


def parse_emotion_map(items: Sequence[str]) -> dict[str, str]:
    """
    The map that `--emotion_map` gives.

    Args:
        items (`Sequence[str]`): Each an `old=new` pair, several old names separated by commas (`ang,angry=anger`, and
            `calm=` takes the label away), a YAML or JSON file that maps old names to new ones, or `standard` for the
            common synonyms of [`SYNONYMS`]. Pairs and files apply to what `standard` gives, wherever they stand.

    Returns:
        `dict[str, str]`: Old name, in lower case (case is ignored), to new name; "" takes the label away. New names
        that are no old ones stand for themselves.

    Raises:
        InputError: An item is none of these, a file can't be read or holds anything but names, or an old name is given
            two new ones.
    """
    renamed: dict[str, str] = {}
    for item in items:
        if item == STANDARD:
            continue
        for old, new in _read_item(item):
            if renamed.setdefault(old.casefold(), new) != new:
                raise InputError(
                    f"--emotion_map {item}: {old!r} becomes {new!r} here and {renamed[old.casefold()]!r} elsewhere; "
                    "give it one name"
                )
    standard = STANDARD_MAP if STANDARD in items else {}
    mapping = {old: renamed.get(new.casefold(), new) for old, new in standard.items()} | renamed
    return {new.casefold(): new for new in mapping.values() if new} | mapping


def map_emotions(table: pd.DataFrame, mapping: dict[str, str]) -> tuple[pd.DataFrame, np.ndarray]:
    """
    Renames emotions; those outside the map are emptied, so that their clips keep their other labels.

    Args:
        table (`pd.DataFrame`): N rows of [`~data.manifest.read_manifest`].
        mapping (`dict[str, str]`): As of [`parse_emotion_map`].

    Returns:
        `tuple[pd.DataFrame, np.ndarray]`: A copy of the table with new emotions, and the positions (for `iloc`,
        ascending) of the M rows whose label the map does not have, for those who drop these clips.
    """
    labels = table["emotion"]
    new = {label: mapping.get(label.casefold(), "") for label in labels.unique()}
    outside = [label for label in new if label and label.casefold() not in mapping]
    return table.assign(emotion=labels.map(new)), np.flatnonzero(labels.isin(outside))


def count_emotions(table: pd.DataFrame, positions: np.ndarray) -> str:
    """
    How often each emotion occurs, e.g. "calm 12, bored 3", the most frequent first.

    Args:
        table (`pd.DataFrame`): Rows of [`~data.manifest.read_manifest`], before [`map_emotions`].
        positions (`np.ndarray` of shape `(M,)`): The rows to count.
    """
    counts = table["emotion"].iloc[positions].value_counts().sort_index().sort_values(ascending=False, kind="stable")
    return ", ".join(f"{label} {count}" for label, count in counts.items())


def _read_item(item: str) -> list[tuple[str, str]]:
    """The pairs of old and new name in a file or in `old,old=new`."""
    if Path(item).suffix.lower() in MAP_SUFFIXES and "=" not in item:
        return _read_file(item)
    olds, equals, new = item.partition("=")
    pairs = [(old.strip(), new.strip()) for old in olds.split(",")]
    if not equals or "=" in new or not all(old for old, _ in pairs):
        raise InputError(
            f"--emotion_map {item}: give old=new (old= takes the label away), a file "
            f"({', '.join(MAP_SUFFIXES)}) or {STANDARD}"
        )
    return pairs


def _read_file(path: str) -> list[tuple[str, str]]:
    if not os.path.isfile(path):
        raise InputError(f"--emotion_map {path}: no such file; give old=new, a file or {STANDARD}")
    if os.path.getsize(path) > MAX_MAP_BYTES:
        raise InputError(f"--emotion_map {path}: over {MAX_MAP_BYTES} bytes; a map has one short line per name")
    try:
        # Every scalar is a string to this loader: "no", 1 and 01 are names; and JSON is YAML.
        content = yaml.load(Path(path).read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError) as error:
        reason = one_line(error)
        raise InputError(f"--emotion_map {path}: could not be read as YAML or JSON ({reason})") from error
    if not isinstance(content, dict) or not content:
        raise InputError(f"--emotion_map {path}: found no names; give lines such as `angry: anger`")
    for old, new in content.items():
        if not (isinstance(old, str) and isinstance(new, str)):
            raise InputError(f"--emotion_map {path}: {old!r} becomes {new!r}; give one name, as in `angry: anger`")
    return [(old.strip(), new.strip()) for old, new in content.items()]
