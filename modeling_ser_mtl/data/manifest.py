"""Manifests: a table on disk with one clip per row -> a checked table of strings."""

import csv
import json
import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd
import pyarrow as pa

from .checks import Fault, find_audio_faults, find_faults, raise_or_warn
from .columns import LABEL_COLUMNS, check_column_mapping
from .errors import InputError, one_line

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
PART_ROWS = 1_000
DELIMITERS = (",", ";", "\t", "|")
QUOTING_ADVICE = 'put cells that hold the delimiter in "quotes", and double those inside'


def read_manifest(
    path: str | os.PathLike, required: Sequence[str] = (), allowed: Mapping[str, Sequence[str]] | None = None
) -> pd.DataFrame:
    """
    Reads a manifest: CSV, TSV, JSONL or Parquet, by suffix, in UTF-8.

    Every cell is a plain string ("01" stays "01", "NA" is not missing, a missing cell is ""). Other columns are kept,
    but one under a name that is added here is replaced (`corpus` only where it is empty). Damage that doesn't stop a
    run is logged as warnings.

    Args:
        path (`str` or `os.PathLike`): The manifest.
        required (`Sequence[str]`): Columns it must have besides `audio`. Those of `emotion`, `gender`, `speaker_id` and
            `text` that are neither there nor required are added empty.
        allowed (`Mapping[str, Sequence[str]]`, *optional*): Labels that `emotion`, `gender` or `split` may hold beside
            "", by column; a column that is not named may hold any.

    Returns:
        `pd.DataFrame`: One clip per row, with these columns added: `audio_path` (absolute; a relative `audio` counts
        from the manifest's folder), `corpus` (the cell, else the name of the manifest's folder), `speaker`
        ("<corpus>/<speaker_id>", "" without a speaker id), `manifest` (the path as given) and `row` (`int`: line of
        the record in a CSV or TSV, whose header is 1, or in a JSONL; number of the record from 1 in a Parquet).

    Raises:
        InputError: The file is missing, of another format or damaged, with all its damage in one error; the kinds are
            in [`~data.checks.KINDS`].
    """
    return read_manifests([path], required, allowed)


def read_manifests(
    paths: Sequence[str | os.PathLike],
    required: Sequence[str] = (),
    allowed: Mapping[str, Sequence[str]] | None = None,
    header_workers: int | None = None,
    column_mapping: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """
    Reads several manifests into one table, in their order; a column that one of them lacks is empty there.

    Args:
        paths (`Sequence[str | os.PathLike]`): The manifests, one or more.
        required (`Sequence[str]`), allowed (`Mapping[str, Sequence[str]]`, *optional*): What each must have, see
            [`read_manifest`].
        header_workers (`int`, *optional*): Threads that read the headers of the audio files once damage stops the run,
            so that the error names the clips that would be skipped, too. None: no audio file is opened.
        column_mapping (`Mapping[str, str]`, *optional*): Names of columns in the manifests by ours, see
            [`~data.columns.parse_column_mapping`].

    Returns:
        `pd.DataFrame`: As of [`read_manifest`].

    Raises:
        InputError: As in [`read_manifest`], with the damage of all manifests in one error.
    """
    tables, faults = [], []
    for path in paths:
        table, found = examine_manifest(path, required, allowed, column_mapping)
        tables.append(table)
        faults += found
    if header_workers is not None and any(fault.stops for fault in faults):
        for clips in tables:
            faults += find_audio_faults(clips, header_workers)
    raise_or_warn(faults)
    return pd.concat(tables, ignore_index=True).fillna("")


def examine_manifest(
    path: str | os.PathLike,
    required: Sequence[str] = (),
    allowed: Mapping[str, Sequence[str]] | None = None,
    column_mapping: Mapping[str, str] | None = None,
) -> tuple[pd.DataFrame, list[Fault]]:
    """
    Reads what can be read of a manifest and finds all its damage, in one pass and without opening an audio file.

    Args:
        path (`str` or `os.PathLike`), required (`Sequence[str]`), allowed (`Mapping[str, Sequence[str]]`, *optional*):
            As in [`read_manifest`].
        column_mapping (`Mapping[str, str]`, *optional*): As in [`read_manifests`].

    Returns:
        `tuple[pd.DataFrame, list[Fault]]`: The rows that can be read and whose audio file exists, as of
        [`read_manifest`], and the damage. That of the audio files is found by [`~data.checks.find_audio_faults`].

    Raises:
        InputError: There is no such file, or its suffix is none of the four.
    """
    path = os.fspath(path)
    table, rows, faults = _read_table(path)
    numbers = np.array(rows, dtype=np.int64)
    table.columns = [str(column).strip() for column in table.columns]
    if not faults or not table.columns.empty:
        faults += _column_faults(table, path, required, column_mapping or {})
    table = table.loc[:, ~table.columns.duplicated()].rename(columns=_renamed(table, column_mapping or {}))
    if "audio" not in table:
        return pd.DataFrame(), faults
    is_text = np.array([isinstance(audio, str) for audio in table["audio"]], dtype=bool)
    no_path = table["audio"].notna().to_numpy(dtype=bool) & ~is_text
    if no_path.any():
        found = type(table["audio"].iloc[no_path.argmax()]).__name__
        message = f"'audio' holds values of type {found}; it must hold paths of audio files"
        faults.append(Fault(path, "not-a-path", numbers[no_path].tolist(), message))
        table, numbers = table[~no_path], numbers[~no_path]
    if table.empty:
        if not faults:
            faults.append(Fault(path, "no-rows", [], "the manifest has no rows; give one clip per row"))
        return pd.DataFrame(), faults

    if Path(path).suffix.lower() in (".jsonl", ".parquet"):
        table = table.astype(object).where(table.notna(), "").map(str).reset_index(drop=True)
    blank = np.zeros(len(table), dtype=bool)
    for column in LABEL_COLUMNS:
        if column in table:
            blank |= [label.isspace() for label in table[column]]
            table[column] = table[column].str.strip()
        else:
            table[column] = ""
    folder = os.path.dirname(os.path.abspath(path))
    table["audio_path"] = map_strings(lambda audio: os.path.normpath(os.path.join(folder, audio)), table["audio"])
    add_speakers(table, os.path.basename(folder))
    table["manifest"], table["row"] = path, numbers
    damage, exists = find_faults(table, allowed or {})
    if blank.any():
        message = "a label of white space counts as empty; empty the cell or fill it in"
        damage.append(Fault(path, "blank-label", numbers[blank].tolist(), message))
    return table if exists.all() else table[exists].reset_index(drop=True), faults + damage


def map_strings(function: Callable[[str], str], column: pd.Series) -> pd.Series:
    """
    A column of strings made of another, in parts: a list of Python strings takes several times the memory of a column.

    Args:
        function (`Callable[[str], str]`): Gives the new string.
        column (`pd.Series`): N strings.
    """
    parts = [column.iloc[start : start + PART_ROWS] for start in range(0, max(len(column), 1), PART_ROWS)]
    return pd.concat([pd.Series([function(cell) for cell in part], part.index, dtype=str) for part in parts])


def add_speakers(table: pd.DataFrame, default_corpus: str) -> None:
    """
    Adds `corpus` and `speaker` ("<corpus>/<speaker_id>", "" without a speaker id) to a table: ids of two corpora
    collide, so a speaker is the pair.

    Args:
        table (`pd.DataFrame`): Rows with `speaker_id`, changed in place.
        default_corpus (`str`): The corpus where the column `corpus` is missing or empty.
    """
    if "corpus" in table:
        corpus = table["corpus"].str.strip()
        table["corpus"] = corpus.where(corpus != "", default_corpus)
    else:
        table["corpus"] = default_corpus
    table["speaker"] = (table["corpus"] + "/" + table["speaker_id"]).where(table["speaker_id"] != "", "")


def clear_labels_outside(table: pd.DataFrame, column: str, allowed: Sequence[str]) -> pd.DataFrame:
    """A copy of `table` where the cells of `column` that are not in `allowed` are ""; a clip keeps its other labels."""
    return table.assign(**{column: table[column].where(table[column].isin(list(allowed)), "")})


def check_labels(table: pd.DataFrame, column: str, allowed: Sequence[str], option: str) -> None:
    """
    Checks that every label that is there is one of those allowed.

    Args:
        table (`pd.DataFrame`): A table of [`read_manifest`].
        column (`str`): The label column.
        allowed (`Sequence[str]`): The labels it may hold; "" (unknown) is always fine.
        option (`str`): The flag that sets the allowed labels, for the message, e.g. `--emotion_labels`.

    Raises:
        InputError: A label is none of `allowed`; names the first such row.
    """
    bad = ~table[column].isin(["", *allowed])
    if bad.any():
        clip = table.loc[bad].iloc[0]
        raise InputError(
            f"{clip['manifest']} row {clip['row']}: {column} is {clip[column]!r}; allowed: {', '.join(allowed)}; "
            f"correct or empty the cell, or name the label in {option}"
        )


def require_speakers(table: pd.DataFrame, why: str) -> None:
    """
    Checks that every clip has a speaker.

    Args:
        table (`pd.DataFrame`): A table of [`read_manifest`].
        why (`str`): What needs the speakers, for the message.

    Raises:
        InputError: A clip has none; names the first one.
    """
    missing = table["speaker"] == ""
    if missing.any():
        clip = table.loc[missing].iloc[0]
        raise InputError(
            f"{clip['manifest']} row {clip['row']}: 'speaker_id' of {clip['audio']} is empty "
            f"({missing.sum()} of {len(table)} clips have none); {why} needs one: fill it in or drop the row"
        )


def _read_table(path: str) -> tuple[pd.DataFrame, Sequence[int], list[Fault]]:
    """Returns the cells as the format gives them, each record's row number, and why others can't be read."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: a manifest ends in {suffix or 'no suffix'}; allowed: {', '.join(SUFFIXES)}")
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file; give the path of a manifest ({', '.join(SUFFIXES)})")
    try:
        if suffix == ".parquet":
            # Nullable types, since a missing integer would turn a whole column of ids into "1.0".
            table = pd.read_parquet(path, dtype_backend="numpy_nullable")
            return table.reset_index(drop=True), list(range(1, len(table) + 1)), []
        # Bytes that are not UTF-8 become lone surrogates, which tell the rows that have them.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            if suffix == ".jsonl":
                return _read_jsonl(path, file)
            return _read_delimited(path, file, "\t" if suffix == ".tsv" else ",")
    except (pa.ArrowException, OSError) as error:
        reason = one_line(error)
        message = f"could not be read as {suffix[1:].upper()} ({reason}); save it again"
        return pd.DataFrame(), [], [Fault(path, "unreadable-file", [], message)]


def _read_delimited(path: str, file: TextIO, delimiter: str) -> tuple[pd.DataFrame, Sequence[int], list[Fault]]:
    # Not pandas.read_csv: it takes the first column for an index when rows are longer than the header, and loses the
    # line numbers over blank lines and line breaks in cells.
    found = _csv_records(file, delimiter)
    _, columns, reason = next(found, (1, [], ""))
    if reason:
        return pd.DataFrame(), [], [Fault(path, "bad-quoting", [1], f"{reason}; {QUOTING_ADVICE}")]
    if wrong := _bad_byte("".join(columns)):
        return pd.DataFrame(), [], [Fault(path, "bad-encoding", [1], _encoding_message(path, wrong))]
    others = [other for other in DELIMITERS if other != delimiter]
    if len(columns) == 1:
        for other in others:
            if other in columns[0] and "audio" in [name.strip() for name in columns[0].split(other)]:
                message = (
                    f"columns are separated by {other!r}, in a {Path(path).suffix} by {delimiter!r}; save it again"
                )
                file.seek(0)
                table, rows, faults = _read_delimited(path, file, other)
                return table, rows, [Fault(path, "wrong-delimiter", [1], message), *faults]

    # In parts, since a list of Python strings takes several times the memory of a column.
    parts, records, broken = [pd.DataFrame(columns=columns, dtype=str)], [], []
    rows = array("q")
    for row, cells, reason in found:
        if reason:
            broken.append(("bad-quoting", row, f"{reason}; {QUOTING_ADVICE}"))
        elif wrong := _bad_byte("".join(cells)):
            broken.append(("bad-encoding", row, _encoding_message(path, wrong)))
        elif len(cells) > len(columns):
            message = f"{len(cells)} cells where the header has {len(columns)}; {QUOTING_ADVICE}"
            broken.append(("ragged-row", row, message))
        elif len(cells) == 1 < len(columns) - 1 and any(cells[0].count(other) == len(columns) - 1 for other in others):
            broken.append(("wrong-delimiter", row, f"cells are not separated by {delimiter!r}; write it as the header"))
        elif cells:
            records.append(cells + [""] * (len(columns) - len(cells)))
            rows.append(row)
            if len(records) == PART_ROWS:
                parts.append(pd.DataFrame(records, columns=columns, dtype=str))
                records = []
    parts.append(pd.DataFrame(records, columns=columns, dtype=str))
    return pd.concat(parts, ignore_index=True), rows, _group(path, broken)


def _csv_records(file: TextIO, delimiter: str) -> Iterator[tuple[int, list[str], str]]:
    """Row, cells and "" of each record; or, where it is broken, the reason, and reading goes on in the next line."""
    record: list[str] = []  # its lines, since an open quote may have taken in all to the end, which are read again
    again: list[str] = []

    def lines() -> Iterator[str]:
        while line := again.pop() if again else file.readline():
            record.append(line)
            yield line

    row, reader = 1, csv.reader(lines(), delimiter=delimiter, strict=True)
    while True:
        cells, reason = [], ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = str(error)
            again += reversed(record[1:])
            del record[1:]
            reader = csv.reader(lines(), delimiter=delimiter, strict=True)
        yield row, cells, reason
        row += len(record)
        record.clear()


def _read_jsonl(path: str, file: TextIO) -> tuple[pd.DataFrame, list[int], list[Fault]]:
    records, rows, broken = [], [], []
    for row, line in enumerate(file, 1):
        if not line.strip():
            continue
        if wrong := _bad_byte(line):
            broken.append(("bad-encoding", row, _encoding_message(path, wrong)))
            continue
        try:
            # Numbers keep their spelling, as in a CSV.
            record = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
        except json.JSONDecodeError as error:
            broken.append(("bad-json", row, f"not valid JSON ({error.msg}); give one object per line"))
            continue
        if not isinstance(record, dict):
            broken.append(("bad-json", row, f"found a JSON {type(record).__name__}; give one object per line"))
            continue
        records.append(record)
        rows.append(row)
    return pd.DataFrame(records, dtype=object), rows, _group(path, broken)


def _group(path: str, broken: list[tuple[str, int, str]]) -> list[Fault]:
    """One fault for each kind of broken rows, with the message about the first."""
    rows: dict[str, list[int]] = {}
    messages: dict[str, str] = {}
    for kind, row, message in broken:
        rows.setdefault(kind, []).append(row)
        messages.setdefault(kind, message)
    return [Fault(path, kind, rows[kind], messages[kind]) for kind in rows]


def _bad_byte(text: str) -> str:
    """The first byte of `text` that is not UTF-8, such as "0xff"; "" if all are."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return hex(ord(text[error.start]) & 0xFF)
    return ""


def _encoding_message(path: str, byte: str) -> str:
    return f"could not be read as {Path(path).suffix[1:].upper()} in UTF-8 (byte {byte}); save it again in UTF-8"


def _column_faults(table: pd.DataFrame, path: str, required: Sequence[str], mapping: Mapping[str, str]) -> list[Fault]:
    header = [1] if Path(path).suffix.lower() in (".csv", ".tsv") else []
    found = ", ".join(table.columns) or "none"
    unmapped = check_column_mapping(list(table.columns), mapping)
    faults = [Fault(path, kind, header, message) for kind, message in unmapped.values()]
    there = {*table.rename(columns=_renamed(table, mapping)), *unmapped}
    for column in dict.fromkeys(["audio", *required]):
        if column not in there:
            message = f"column {column!r} is missing; found: {found}; add it, rename one of these or give it in "
            faults.append(Fault(path, "missing-column", header, f"{message}--column_mapping"))
    for column in table.columns[table.columns.duplicated()].unique():
        message = f"column {column!r} is there more than once; found: {found}; rename or drop one"
        faults.append(Fault(path, "duplicate-column", header, message))
    return faults


def _renamed(table: pd.DataFrame, mapping: Mapping[str, str]) -> dict[str, str]:
    """Our names by those of the table, where a mapping can be followed."""
    unmapped = check_column_mapping(list(table.columns), mapping)
    return {source: column for column, source in mapping.items() if column not in unmapped}
