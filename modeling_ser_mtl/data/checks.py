"""Damage in a manifest: each kind has a name, and one pass finds them all."""

import itertools
import logging
import os
import re
from array import array
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PureWindowsPath
from unicodedata import normalize

import numpy as np
import pandas as pd
import soundfile
from tqdm.auto import tqdm

from .audio import MIN_SAMPLES, SAMPLING_RATE
from .errors import InputError, one_line
from .text import normalize_transcript

logger = logging.getLogger(__name__)

ERROR, SKIPPED, WARNING = "error", "skipped", "warning"
KINDS = {
    # The file: what keeps rows from being read.
    "unreadable-file": ERROR,
    "no-rows": ERROR,
    "missing-column": ERROR,
    "duplicate-column": ERROR,
    "wrong-delimiter": ERROR,
    "ragged-row": ERROR,
    "bad-quoting": ERROR,
    "bad-encoding": ERROR,
    "bad-json": ERROR,
    "not-a-path": ERROR,
    # Paths.
    "empty-audio": ERROR,
    "audio-is-url": ERROR,
    "audio-is-folder": ERROR,
    "misspelt-audio": ERROR,
    "absolute-path": ERROR,
    "missing-audio": ERROR,
    "not-audio-suffix": WARNING,
    # Labels.
    "control-characters": ERROR,
    "unknown-emotion": ERROR,
    "unknown-gender": ERROR,
    "unknown-split": ERROR,
    "blank-label": WARNING,
    "placeholder-label": WARNING,
    "two-spellings": WARNING,
    "two-genders": WARNING,
    "duplicate-row": WARNING,
    "conflicting-labels": WARNING,
    "bad-length": WARNING,
    "damaged-text": WARNING,
    # Audio, by its headers.
    "empty-file": SKIPPED,
    "undecodable": SKIPPED,
    "too-short": SKIPPED,
    "not-finite": SKIPPED,
    "text-too-long": WARNING,
}

PLACEHOLDERS = ("nan", "<na>", "na", "n/a", "none", "null", "unknown", "?", "-")
AUDIO_SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} | {".opus", ".oga", ".aif", ".sph", ""}
# An encoder gives CTC one frame every 20 ms, and each character takes one.
CHARACTERS_PER_SECOND = 50
BATCH_FILES = 100
CONTROL = r"[\x00-\x1f\x7f-\x9f]"
# Control characters but tab and line break, and what is left of letters that were decoded in another encoding.
DAMAGED_TEXT = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]|Ã[\x80-\xbf]|â€"


@dataclass(frozen=True)
class Fault:
    """
    One kind of damage in one manifest.

    Args:
        manifest (`str`): The manifest.
        kind (`str`): Its name, one of [`KINDS`], which says whether it stops a run.
        rows (`list[int]`): Rows that have it, as in the column `row`; the header of a CSV or TSV is 1, and none are
            given where the whole file has it.
        message (`str`): What was found in the first of them and what to do.
    """

    manifest: str
    kind: str
    rows: list[int]
    message: str

    @property
    def stops(self) -> bool:
        """Whether a run stops at it; else its clips are skipped or it is only told."""
        return KINDS[self.kind] == ERROR

    def __str__(self) -> str:
        rows = ", ".join(map(str, self.rows[:5])) + (f" and {len(self.rows) - 5} more" if len(self.rows) > 5 else "")
        place = f" row{'s' * (len(self.rows) > 1)} {rows}" if self.rows else ""
        effect = "" if self.stops else f": {KINDS[self.kind]}"
        return f"{self.manifest}{place}: {self.message} [{self.kind}{effect}]"


def raise_or_warn(faults: Sequence[Fault]) -> None:
    """
    Warns of faults that don't stop a run; with one that does, all of them are told in the error.

    Args:
        faults (`Sequence[Fault]`): All that was found.

    Raises:
        InputError: One of the faults stops a run: one line for a single fault, else a line each under their number.
    """
    stopping = sum(fault.stops for fault in faults)
    if not stopping:
        for fault in faults:
            logger.warning("%s", fault)
        return
    if len(faults) == 1:
        raise InputError(str(faults[0]))
    manifests = ", ".join(dict.fromkeys(fault.manifest for fault in faults))
    heading = f"{manifests}: {len(faults)} faults, of which {stopping} stop the run; nothing was written"
    raise InputError("\n".join([heading, *map(str, faults)]))


def find_faults(table: pd.DataFrame, allowed: Mapping[str, Sequence[str]]) -> tuple[list[Fault], np.ndarray]:
    """
    Checks the cells of one manifest, and that its audio files exist; none is opened.

    Args:
        table (`pd.DataFrame`): One manifest's N rows, as of [`~data.manifest.read_manifest`]; paths may be wrong.
        allowed (`Mapping[str, Sequence[str]]`): The labels that `emotion`, `gender` and `split` may hold beside "".

    Returns:
        `tuple[list[Fault], np.ndarray]`: What was found, and for each row whether its audio file exists, `bool` of
        shape `(N,)`.
    """
    faults, exists = _path_faults(table)
    found = table if exists.all() else table[exists]
    return [*faults, *_label_faults(table, allowed), *_repeated_faults(found)], exists


def find_audio_faults(table: pd.DataFrame, num_workers: int) -> list[Fault]:
    """
    Reads the header of each audio file; only floating point files, which alone can hold NaN, are decoded.

    Args:
        table (`pd.DataFrame`): Rows of one manifest whose audio files exist.
        num_workers (`int`): Threads that read, 1 or more.

    Returns:
        `list[Fault]`: What was found.
    """
    if table.empty:
        return []
    # In batches, since what a pool keeps for each call takes more memory than a clip's row.
    batches = [table["audio_path"].iloc[start : start + BATCH_FILES] for start in range(0, len(table), BATCH_FILES)]
    kinds, reasons, seconds = [], [], array("d")
    with ThreadPoolExecutor(num_workers) as pool:
        found = pool.map(lambda batch: [_inspect(path) for path in batch], batches)
        for kind, reason, length in itertools.chain.from_iterable(tqdm(found, "Reading headers", len(batches))):
            kinds.append(kind)
            reasons.append(reason)
            seconds.append(length)
    faults = []
    for kind in ("empty-file", "undecodable", "too-short", "not-finite"):
        faults += _fault(table, [kind == other for other in kinds], kind, "{audio} {found}", reasons)
    # Normalising, which never makes a transcript much longer, is left out for those that are short enough anyway.
    too_long = [
        not kind and 2 * len(text) > length * CHARACTERS_PER_SECOND < len(normalize_transcript(text))
        for kind, text, length in zip(kinds, table["text"], seconds, strict=True)
    ]
    message = (
        "{audio} lasts {found} s, too short for its text {text!r:.60}; ASR learns {limit} characters a second at most, "
        "check that the two belong together"
    )
    return faults + _fault(table, too_long, "text-too-long", message, np.round(seconds, 2), limit=CHARACTERS_PER_SECOND)


def _fault(
    table: pd.DataFrame,
    mask: Sequence[bool] | np.ndarray | pd.Series,
    kind: str,
    message: str,
    found: Sequence[str] | np.ndarray = (),
    **values: object,
) -> list[Fault]:
    """
    The fault of the rows in `mask`, if any. The message is about the first: `{column}` stands for its cell, `{found}`
    for its item of `found`.
    """
    positions = np.flatnonzero(np.asarray(mask, dtype=bool))
    if not len(positions):
        return []
    first = positions[0]
    cells = {**table.iloc[first], **values, "found": found[first] if len(found) else ""}
    # A cell may hold line breaks and what a terminal obeys.
    line = re.sub(CONTROL, lambda match: f"\\x{ord(match[0]):02x}", message.format_map(cells))
    return [Fault(cells["manifest"], kind, table["row"].iloc[positions].tolist(), line)]


def _path_faults(table: pd.DataFrame) -> tuple[list[Fault], np.ndarray]:
    folders = _Folders()
    empty = np.array([not audio.strip() for audio in table["audio"]], dtype=bool)
    exists = np.array([folders.has_file(path) for path in table["audio_path"]], dtype=bool) & ~empty
    kinds, hints = np.full((2, len(table)), "", dtype=object)
    is_absent = ~exists & ~empty
    for index, (audio, path) in enumerate(zip(table["audio"], table["audio_path"], strict=True)):
        if is_absent[index]:
            kinds[index], hints[index] = _why_missing(audio, path, folders)
    faults = _fault(table, empty, "empty-audio", "'audio' is empty; give the clip's path or drop the row")
    for kind in ("audio-is-url", "audio-is-folder", "misspelt-audio", "absolute-path"):
        faults += _fault(table, kinds == kind, kind, "{audio!r} {found}", hints)
    missing = kinds == "missing-audio"
    message = (
        "{missing} of {rows} audio files do not exist, the first in row {row}: {audio}; paths are absolute or relative "
        "to the manifest's folder"
    )
    faults += _fault(table, missing, "missing-audio", message, missing=missing.sum(), rows=len(table))
    is_known = np.array([os.path.splitext(audio)[1].lower() in AUDIO_SUFFIXES for audio in table["audio"]], dtype=bool)
    message = "{audio} has no suffix of audio; it will be skipped if it can't be decoded"
    return faults + _fault(table, exists & ~is_known, "not-audio-suffix", message), exists


def _why_missing(audio: str, path: str, folders: "_Folders") -> tuple[str, str]:
    """Kind and hint of a path under which there is no file."""
    if re.match(r"\w+://", audio):
        return "audio-is-url", "is an address; download the file and give its path"
    if os.path.isdir(path):
        return "audio-is-folder", "is a folder; name the file in it"
    if near := folders.nearest_file(path) or folders.nearest_file(path.replace("\\", "/")):
        return "misspelt-audio", f"does not exist, but {near!r} does; write it the same way, with / between folders"
    if os.path.isabs(audio) or PureWindowsPath(audio).is_absolute():
        return "absolute-path", "does not exist on this machine; give paths relative to the manifest's folder"
    return "missing-audio", ""


class _Folders:
    """Folders that are listed once, which takes far fewer calls than asking for each file."""

    def __init__(self) -> None:
        self.files: dict[str, set[str]] = {}
        self.by_normal_form: dict[str, dict[str, str]] = {}

    def has_file(self, path: str) -> bool:
        folder, name = os.path.split(path)
        # The second look is for folders that can't be listed and for file systems that ignore case.
        return name in self._list(folder) or os.path.isfile(path)

    def nearest_file(self, path: str) -> str:
        """The file that differs from `path` in case, white space or Unicode form only; "" if there is none."""
        folder, name = os.path.split(path)
        if folder not in self.by_normal_form:
            self.by_normal_form[folder] = {_normal_form(file): file for file in self._list(folder)}
        return self.by_normal_form[folder].get(_normal_form(name), "")

    def _list(self, folder: str) -> set[str]:
        if folder not in self.files:
            try:
                with os.scandir(folder) as entries:
                    self.files[folder] = {entry.name for entry in entries if entry.is_file()}
            except (OSError, ValueError):  # ValueError: a NUL in the path
                self.files[folder] = set()
        return self.files[folder]


def _normal_form(name: str) -> str:
    return normalize("NFKC", name).strip().casefold()


def _label_faults(table: pd.DataFrame, allowed: Mapping[str, Sequence[str]]) -> list[Fault]:
    faults = []
    for name in ("audio", "emotion", "gender", "speaker_id", "split"):
        if name in table:
            message = f"{name} is {{{name}!r}}, with control characters; delete them, or save it again as text in UTF-8"
            faults += _fault(table, table[name].str.contains(CONTROL), "control-characters", message)
    for name, labels in allowed.items():
        if name in table:
            option = "" if name == "split" else f", or name the label in --{name}_labels"
            message = f"{name} is {{{name}!r}}; allowed: {{allowed}}; correct or empty the cell{option}"
            wrong = ~(table[name].str.strip().isin(["", *labels]) | table[name].str.contains(CONTROL))
            faults += _fault(table, wrong, f"unknown-{name}", message, allowed=", ".join(labels))
    for name, meaning in (("emotion", "an emotion"), ("speaker_id", "one speaker")):
        message = f"{name} {{{name}!r}} counts as {meaning} of that name; empty the cell where it is unknown"
        placeholders = [label for label in table[name].unique() if label.casefold() in PLACEHOLDERS]
        faults += _fault(table, table[name].isin(placeholders), "placeholder-label", message)
    for name in ("emotion", "speaker"):
        usual = _usual_spellings(table[name])
        message = f"{name} {{{name}!r}} counts as another than {{found!r}}; write both the same way if they are one"
        faults += _fault(table, usual != table[name], "two-spellings", message, usual.to_numpy())
    is_known = table["gender"] != ""
    if "gender" in allowed:
        is_known &= table["gender"].isin(allowed["gender"])
    genders = table["gender"].where(is_known & (table["speaker"] != ""))
    first = genders.groupby(table["speaker"]).transform("first")
    message = "speaker {speaker} is {gender} here and {found} in an earlier row; correct one of them"
    faults += _fault(table, genders.notna() & (genders != first), "two-genders", message, first.to_numpy())
    if "length" in table:
        length = pd.to_numeric(table["length"].str.strip().replace("", "1"), errors="coerce")
        message = "length is {length!r}, not a number of samples above 0; it will be measured"
        faults += _fault(table, ~(length > 0), "bad-length", message)
    message = "text is {text!r:.60}, which looks decoded in a wrong encoding; save it again in UTF-8"
    return faults + _fault(table, table["text"].str.contains(DAMAGED_TEXT), "damaged-text", message)


def _usual_spellings(labels: pd.Series) -> pd.Series:
    """Each label in its most frequent spelling, where case and leading zeros are all that differs."""
    usual: dict[str, str] = {}
    for label in labels.value_counts().index:
        usual.setdefault(_spelling_key(label), label)
    return labels.map({label: usual[_spelling_key(label)] for label in labels.unique()})


def _spelling_key(label: str) -> str:
    return re.sub(r"(^|/)0+(?=\d)", r"\1", label.casefold())


def _repeated_faults(table: pd.DataFrame) -> list[Fault]:
    """Rows whose audio an earlier row has, too: with the same labels, or with others."""
    # Hashes first, since finding repeated strings builds a list of them all.
    hashes = pd.Series(np.fromiter(map(hash, table["audio_path"]), np.int64, len(table)))
    if hashes.is_unique:
        return []
    table = table[hashes.duplicated(keep=False).to_numpy()]
    repeated = table["audio_path"].duplicated().to_numpy()
    labels = [name for name in ("emotion", "gender", "speaker", "text", "split") if name in table]
    first = table[~repeated].set_index("audio_path").loc[table["audio_path"]]
    differs = first[labels].to_numpy() != table[labels].to_numpy()
    rows = first["row"].to_numpy()
    message = "{audio} is the clip of row {found}, with the same labels; drop one of the two rows"
    same = _fault(table, repeated & ~differs.any(axis=1), "duplicate-row", message, rows)
    message = "{audio} is the clip of row {found}, with other labels; keep the right one"
    return same + _fault(table, differs.any(axis=1), "conflicting-labels", message, rows)


def _inspect(path: str) -> tuple[str, str, float]:
    """Kind of damage ("" for none), what was found, and seconds of audio by the header."""
    if os.path.getsize(path) == 0:
        return "empty-file", "has 0 bytes; copy it again or drop the row", 0.0
    try:
        with soundfile.SoundFile(path) as file:
            seconds = file.frames / file.samplerate
            num_samples = round(seconds * SAMPLING_RATE)
            if num_samples < MIN_SAMPLES:
                reason = f"has {num_samples} samples at {SAMPLING_RATE} Hz; at least {MIN_SAMPLES} are needed, drop it"
                return "too-short", reason, seconds
            if file.subtype in ("FLOAT", "DOUBLE") and not all(np.isfinite(part).all() for part in file.blocks(65_536)):
                return "not-finite", "has NaN or infinite samples; export it again or drop it", seconds
            return "", "", seconds
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a headerless .raw file
        reason = one_line(error)
        return "undecodable", f"cannot be decoded as audio ({reason}); convert it to WAV or FLAC", 0.0
