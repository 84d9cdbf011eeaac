"""What a known corpus is, and the one reader behind those whose files are told by their names or by a list."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..errors import InputError, one_line
from ..manifest import LABEL_COLUMNS

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus")


@dataclass(frozen=True)
class Reading:
    """
    What was found in a corpus' folder.

    Args:
        rows (`pd.DataFrame`): One clip per row, cells of type `str`: `audio` (relative to the folder, with forward
            slashes), `emotion`, `gender` ("female", "male" or ""), `speaker_id`, `text`, and what else the corpus tells
            (`split`, of "train", "validation" and "test", `session`, `corpus`, `p_<class>`, ...).
        missing (`list[str]`): Files that the corpus' own lists name and that are not there.
        unexpected (`list[str]`): Audio files that are there and belong to no row.
    """

    rows: pd.DataFrame
    missing: list[str]
    unexpected: list[str]


@dataclass(frozen=True)
class Corpus:
    """
    A known corpus.

    Args:
        name (`str`): What the user types, lower case with dashes.
        title (`str`): Its full name.
        license (`str`): Terms under which it is released.
        url (`str`): Where it is to be had.
        citation (`str`): The publication, in one line.
        languages (`tuple[str, ...]`): ISO 639-1 codes.
        layout (`str`): What its folder is expected to hold, for the user to compare with.
        emotions (`Mapping[str, str]`): The corpus' code (or folder name) -> name of the emotion; "" for a clip that
            has no emotion label but may train the other tasks.
        read (`Callable[[Path], Reading]`): Reads the folder, without changing anything. Raises a `FileNotFoundError`
            with the name of a list that is not there.
        num_clips (`int`, *optional*): Clips of the complete release, where there is only one.
    """

    name: str
    title: str
    license: str
    url: str
    citation: str
    languages: tuple[str, ...]
    layout: str
    emotions: Mapping[str, str]
    read: Callable[[Path], Reading]
    num_clips: int | None = None


def read_clips(
    folder: Path,
    pattern: str,
    columns: Mapping[str, tuple[str, Mapping[str, str] | Callable[[str], str]]],
    listed: Callable[[Path], pd.DataFrame | None] | None = None,
    ignore: str | None = None,
) -> Reading:
    r"""
    Reads a corpus whose file names say what a clip is, with or without a list of its own.

    Args:
        folder (`Path`): The corpus' folder.
        pattern (`str`): Regular expression of the end of a clip's path, without suffix, e.g.
            `(?P<speaker_id>\d\d)/(?P<emotion>[a-z])\d\d`. What lies above may be anything. Its named groups tell clips
            apart and become columns; those that start with an underscore are not kept.
        columns (`Mapping`): Column -> the column it is made of, and a table or function from that one's codes. A code
            that is not in the table makes the file an unexpected one.
        listed (`Callable[[Path], pd.DataFrame | None]`, *optional*): Gives the corpus' list, or None where a copy lacks
            it: official file names as index, and columns of type `str`. A clip belongs to the line with which it agrees
            in all columns that both have.
        ignore (`str`, *optional*): Regular expression of the paths (without suffix) of official audio that is no clip.

    Returns:
        [`Reading`]: Rows sorted by path. Of several files for the same clip, and of several lines for the same file,
        only the first counts.
    """
    shape, ignored = re.compile(f"(?:.*?/)??{pattern}"), re.compile(f"(?:.*/)?{ignore or '(?!)'}")
    paths = [path for path in find_audio(folder) if not ignored.fullmatch(os.path.splitext(path)[0])]
    matches = [(path, shape.fullmatch(os.path.splitext(path)[0])) for path in paths]
    groups = list(shape.groupindex)
    clips = pd.DataFrame(
        [(path, *(match[group] or "" for group in groups)) for path, match in matches if match],
        columns=["audio", *groups],
        dtype=object,
    ).drop_duplicates(groups)

    missing: list[str] = []
    lines = listed(folder) if listed else None
    if lines is not None:
        keys = [column for column in lines if column in groups]
        joined = lines.rename_axis("_name").reset_index().merge(clips, how="outer", on=keys)
        missing = joined.loc[joined["audio"].isna(), "_name"].tolist()
        clips = joined.dropna(subset=["_name", "audio"]).drop_duplicates("audio")

    made = {column: clips[source].map(table) for column, (source, table) in columns.items()}
    rows = clips.assign(**made).dropna().sort_values("audio", ignore_index=True)
    extra = [column for column in rows if column not in ("audio", *LABEL_COLUMNS) and not column.startswith("_")]
    rows = rows.reindex(columns=["audio", *LABEL_COLUMNS, *extra], fill_value="")
    return Reading(rows, sorted(set(missing)), sorted(set(paths) - set(rows["audio"])))


def find_audio(folder: Path) -> list[str]:
    """
    All audio files below a folder, links followed, hidden files and folders left out.

    Args:
        folder (`Path`): Where to look.

    Returns:
        `list[str]`: Paths relative to the folder, with forward slashes, sorted.
    """
    found, seen = [], {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, followlinks=True):
        inner = [(name, os.path.realpath(os.path.join(parent, name))) for name in sorted(folders) if name[0] != "."]
        folders[:] = [name for name, real in inner if real not in seen]  # a link to a parent would never end
        seen.update(real for _, real in inner)
        prefix = Path(parent).relative_to(folder).as_posix()
        names = [name for name in files if name[0] != "." and name.lower().endswith(AUDIO_SUFFIXES)]
        found += names if prefix == "." else [f"{prefix}/{name}" for name in names]
    return sorted(found)


def find_file(folder: Path, name: str) -> Path:
    """
    The file of this name that lies least deep below a folder.

    Args:
        folder (`Path`): Where to look.
        name (`str`): Its name, or the end of its path; may hold the wildcards of `Path.glob`.

    Raises:
        FileNotFoundError: There is none; the error's text is `name`.
    """
    paths = find_files(folder, name)
    return min(paths, key=lambda path: (len(path.parts), path))


def find_files(folder: Path, name: str) -> list[Path]:
    """
    All files of this name below a folder, sorted.

    Args:
        folder (`Path`): Where to look.
        name (`str`): As in [`find_file`].

    Raises:
        FileNotFoundError: There is none; the error's text is `name`.
    """
    paths = sorted(path for path in folder.rglob(name) if path.is_file() and path.name[0] != ".")
    if not paths:
        raise FileNotFoundError(name)
    return paths


def read_text(path: Path) -> str:
    """
    The text of one of a corpus' own lists, in UTF-8, with or without byte order mark.

    Args:
        path (`Path`): The list.

    Raises:
        InputError: It is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.start}); take the file as released") from error


def read_table(path: Path, columns: Mapping[str, str], delimiter: str = ",") -> pd.DataFrame:
    """
    Columns of one of a corpus' own tables, each cell a `str` without spaces around it.

    Args:
        path (`Path`): The table, in UTF-8, with a header.
        columns (`Mapping[str, str]`): The column's name there -> its name here; others are left out.
        delimiter (`str`, *optional*, defaults to ","): What separates the cells.

    Raises:
        InputError: The file is broken, not UTF-8 or without one of the columns.
    """
    try:
        table = pd.read_csv(path, sep=delimiter, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        reason = one_line(error)
        raise InputError(f"{path}: could not be read ({reason}); take the file as released") from error
    table.columns = table.columns.str.strip()
    absent = [column for column in columns if column not in table]
    if absent:
        found = ", ".join(table.columns)
        raise InputError(f"{path}: column {absent[0]!r} is missing; found: {found}; take the file as released")
    return table[list(columns)].rename(columns=dict(columns)).apply(lambda cells: cells.str.strip())
