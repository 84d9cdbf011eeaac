"""Manifests: a table on disk with one clip per row -> a checked table of strings."""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from .errors import InputError

LABEL_COLUMNS = ("emotion", "gender", "speaker_id", "text")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def read_manifest(path: str | os.PathLike, required: Sequence[str] = ()) -> pd.DataFrame:
    """
    Reads a manifest: CSV, TSV, JSONL or Parquet, by suffix, in UTF-8.

    Every cell is a plain string ("01" stays "01", "NA" is not missing, a missing cell is ""). Other columns are kept,
    but one under a name that is added here is replaced (`corpus` only where it is empty).

    Args:
        path (`str` or `os.PathLike`): The manifest.
        required (`Sequence[str]`): Columns it must have besides `audio`, of `emotion`, `gender`, `speaker_id`, `text`.
            The others of these four are added empty where they are absent.

    Returns:
        `pd.DataFrame`: One clip per row, with these columns added: `audio_path` (absolute; a relative `audio` counts
        from the manifest's folder), `corpus` (the cell, else the name of the manifest's folder), `speaker`
        ("<corpus>/<speaker_id>", "" without a speaker id), `manifest` (the path as given) and `row` (`int`: line of
        the record in a CSV or TSV, whose header is 1, or in a JSONL; number of the record from 1 in a Parquet).

    Raises:
        InputError: The file is missing, of another format, broken or without rows; a column is missing or there twice;
            an `audio` cell is empty or names a file that does not exist.
    """
    path = os.fspath(path)
    table, rows = _read_table(path)
    table.columns = [str(column).strip() for column in table.columns]
    _check_columns(table, path, required)
    if table.empty:
        raise InputError(f"{path}: the manifest has no rows; give one clip per row")
    if not isinstance(table["audio"].iloc[0], str):
        found = type(table["audio"].iloc[0]).__name__
        raise InputError(f"{path}: column 'audio' holds values of type {found}; it must hold paths of audio files")

    table = table.astype(object).where(table.notna(), "").map(str)
    for column in LABEL_COLUMNS:
        table[column] = table[column].str.strip() if column in table else ""
    empty = table["audio"].str.strip() == ""
    if empty.any():
        raise InputError(f"{path} row {rows[empty.argmax()]}: 'audio' is empty; give the clip's path or drop the row")

    folder = os.path.dirname(os.path.abspath(path))
    table["audio_path"] = [os.path.normpath(os.path.join(folder, audio)) for audio in table["audio"]]
    add_speakers(table, os.path.basename(folder))
    table["manifest"] = path
    table["row"] = rows
    _check_files(table, path)
    return table


def add_speakers(table: pd.DataFrame, default_corpus: str) -> None:
    """
    Adds `corpus` and `speaker` ("<corpus>/<speaker_id>", "" without a speaker id) to a table: ids of two corpora
    collide, so a speaker is the pair.

    Args:
        table (`pd.DataFrame`): Rows with `speaker_id`, changed in place.
        default_corpus (`str`): The corpus where the column `corpus` is missing or empty.
    """
    corpus = table["corpus"].str.strip() if "corpus" in table else pd.Series("", index=table.index)
    table["corpus"] = corpus.where(corpus != "", default_corpus)
    table["speaker"] = (table["corpus"] + "/" + table["speaker_id"]).where(table["speaker_id"] != "", "")


def read_manifests(paths: Sequence[str | os.PathLike], required: Sequence[str] = ()) -> pd.DataFrame:
    """
    Reads several manifests into one table, in their order; a column that one of them lacks is empty there.

    Args:
        paths (`Sequence[str | os.PathLike]`): The manifests, one or more.
        required (`Sequence[str]`): Columns that each must have, see [`read_manifest`].

    Returns:
        `pd.DataFrame`: As of [`read_manifest`].

    Raises:
        InputError: As in [`read_manifest`].
    """
    return pd.concat([read_manifest(path, required) for path in paths], ignore_index=True).fillna("")


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


def _read_table(path: str) -> tuple[pd.DataFrame, list[int]]:
    """Returns the cells as the format gives them and each record's row number."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: a manifest ends in {suffix or 'no suffix'}; allowed: {', '.join(SUFFIXES)}")
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file; give the path of a manifest ({', '.join(SUFFIXES)})")
    try:
        if suffix == ".parquet":
            # Nullable types, since a missing integer would turn a whole column of ids into "1.0".
            table = pd.read_parquet(path, dtype_backend="numpy_nullable")
            return table.reset_index(drop=True), list(range(1, len(table) + 1))
        if suffix == ".jsonl":
            return _read_jsonl(path)
        return _read_delimited(path, "\t" if suffix == ".tsv" else ",")
    except (UnicodeDecodeError, pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: could not be read as {suffix[1:].upper()} ({reason}); save it again") from error


def _read_delimited(path: str, delimiter: str) -> tuple[pd.DataFrame, list[int]]:
    # Not pandas.read_csv: it takes the first column for an index when rows are longer than the header, and loses the
    # line numbers over blank lines and line breaks in cells.
    records, rows = [], []
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        row = 1
        try:
            columns = next(reader, [])
            row = reader.line_num + 1
            for cells in reader:
                if len(cells) > len(columns):
                    raise csv.Error(f"{len(cells)} cells where the header has {len(columns)}")
                if cells:
                    records.append(cells + [""] * (len(columns) - len(cells)))
                    rows.append(row)
                row = reader.line_num + 1
        except csv.Error as error:
            raise InputError(
                f'{path} row {row}: {error}; put cells that hold the delimiter in "quotes", and double those inside'
            ) from error
    return pd.DataFrame(records, columns=columns, dtype=object), rows


def _read_jsonl(path: str) -> tuple[pd.DataFrame, list[int]]:
    records, rows = [], []
    with open(path, encoding="utf-8-sig") as file:
        for row, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                # Numbers keep their spelling, as in a CSV.
                record = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
            except json.JSONDecodeError as error:
                raise InputError(f"{path} row {row}: not valid JSON ({error.msg}); give one object per line") from error
            if not isinstance(record, dict):
                raise InputError(f"{path} row {row}: found a JSON {type(record).__name__}; give one object per line")
            records.append(record)
            rows.append(row)
    return pd.DataFrame(records, dtype=object), rows


def _check_columns(table: pd.DataFrame, path: str, required: Sequence[str]) -> None:
    found = ", ".join(table.columns) or "none"
    for column in ("audio", *required):
        if column not in table:
            raise InputError(f"{path}: column {column!r} is missing; found: {found}; add it or rename one of these")
    if not table.columns.is_unique:
        column = table.columns[table.columns.duplicated()][0]
        raise InputError(f"{path}: column {column!r} is there more than once; found: {found}; rename or drop one")


def _check_files(table: pd.DataFrame, path: str) -> None:
    missing = ~table["audio_path"].map(os.path.isfile).astype(bool)
    if missing.any():
        clip = table.loc[missing].iloc[0]
        raise InputError(
            f"{path}: {missing.sum()} of {len(table)} audio files do not exist, the first in row {clip['row']}: "
            f"{clip['audio']}; paths are absolute or relative to the manifest's folder"
        )
