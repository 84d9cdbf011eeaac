"""The `ser-mtl describe` command: what a manifest holds, and what to know before training on it."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from ..data.audio import SAMPLING_RATE, scan_audio
from ..data.columns import parse_column_mapping
from ..data.errors import InputError
from ..data.manifest import map_strings, read_manifests
from ..data.scan_cache import ScanCache, default_folder
from ..data.text import normalize_transcript
from ..processing_ser_mtl import MIN_SAMPLES
from .description_warnings import find_warnings

FIGURE_SUFFIXES = (".svg", ".png", ".pdf")
TASK_COLUMNS = {"emotion": "emotion", "gender": "gender", "speaker": "speaker", "asr": "transcript"}
HOP = 320  # samples of a frame of wav2vec 2.0 and its kin: 20 ms

MAX_GENDERS = 4  # columns of a table


@dataclass(frozen=True)
class Description:
    """
    Tables about the usable clips of a data set; a count is of clips unless it says otherwise.

    Args:
        sets (`pd.DataFrame`): by corpus, and by split where the manifest has that column: `clips`, `hours`, `speakers`,
            and their number for each gender in the data (`female_speakers`, ...); several sets are followed by their
            `total`.
        tasks (`pd.DataFrame`): by task: `labelled`, `share` of the clips in [0, 1], `hours`, and `classes`, the number
            of different labels (of characters for `asr`).
        emotions (`pd.DataFrame`): by emotion, the most frequent first: `clips`, `share` of the labelled clips, `hours`,
            `speakers`, and a count for each gender in the data. Empty without labels.
        seconds (`pd.Series`): lengths in seconds: `shortest`, `5 %`, `median`, `mean`, `95 %`, `longest`.
        warnings (`list[str]`): a line each.
    """

    sets: pd.DataFrame
    tasks: pd.DataFrame
    emotions: pd.DataFrame
    seconds: pd.Series
    warnings: list[str]


def measure_clips(table: pd.DataFrame, num_workers: int = 2, cache: ScanCache | None = None) -> pd.DataFrame:
    """
    What the audio and the transcripts say, in their place.

    Args:
        table (`pd.DataFrame`): N rows of [`~data.manifest.read_manifest`].
        num_workers (`int`): threads that decode, 1 or more.
        cache ([`ScanCache`], *optional*): spares decoding clips that it knows.

    Returns:
        `pd.DataFrame`: the rows without `audio`, `audio_path` and `text`, and with `seconds` (`float`), `reason` (why
        the clip can't be used, "" where it can), `transcript` (normalised), and the `frames` of 20 ms that the clip has
        and `needed_frames` that CTC needs for the transcript (`int`).
    """
    lengths, reasons = scan_audio(table["audio_path"].array, num_workers, cache=cache)
    table = table.drop(columns=["audio", "audio_path"])  # most of the memory
    transcripts = map_strings(normalize_transcript, table.pop("text"))
    return table.assign(
        seconds=lengths / SAMPLING_RATE,
        reason=reasons,
        transcript=transcripts,
        frames=(lengths - MIN_SAMPLES) // HOP + 1,
        needed_frames=np.fromiter(map(needed_frames, transcripts), np.int64, len(transcripts)),
    )


def needed_frames(transcript: str) -> int:
    """Frames that CTC needs for a normalised `transcript`: one per character, and a blank between equal neighbours."""
    return len(transcript) + sum(a == b for a, b in zip(transcript, transcript[1:], strict=False))


def describe(table: pd.DataFrame) -> Description:
    """
    Counts and judges a data set.

    Args:
        table (`pd.DataFrame`): N rows of [`measure_clips`], at least one of them usable.
    """
    is_usable = table["reason"] == ""
    clips = table if is_usable.all() else table[is_usable]
    warnings = find_warnings(clips, table.loc[~is_usable, ["manifest", "row", "reason"]])
    return Description(_sets(clips), _tasks(clips), _emotions(clips), _seconds(clips), warnings)


def genders_of(clips: pd.DataFrame) -> list[str]:
    """The genders in `clips` (rows of a manifest), the most frequent ones, sorted."""
    named = clips.loc[clips["gender"] != "", "gender"]
    return sorted(named.value_counts().index[:MAX_GENDERS])


def format_description(description: Description) -> str:
    """
    A description as aligned plain text.

    Args:
        description ([`Description`]): of [`describe`].

    Returns:
        `str`: lines, without a final newline.
    """
    parts = [_aligned("data", description.sets), _aligned("task", description.tasks)]
    if len(description.emotions):
        parts.append(_aligned("emotion", description.emotions))
    parts.append(_aligned("length", description.seconds.to_frame("seconds").T))
    heading = f"{len(description.warnings)} warning{'s' * (len(description.warnings) != 1)}"
    parts.append("\n".join([heading, *(f"- {warning}" for warning in description.warnings)]))
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    """
    Entry point of `ser-mtl describe`.

    Args:
        argv (`Sequence[str]`, *optional*): arguments in place of the command line's.

    Raises:
        InputError: a manifest that can't be read, no usable clip, or a figure that can't be drawn or written.
    """
    parser = argparse.ArgumentParser(
        prog="ser-mtl describe",
        description="Counts, hours, class balance, speakers, lengths and label coverage of manifests, with warnings.",
    )
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST", help="CSV, TSV, JSONL or Parquet")
    parser.add_argument("--figure", type=Path, metavar="FILE", help=f"draw it too: {', '.join(FIGURE_SUFFIXES)}")
    parser.add_argument(
        "--column_mapping",
        nargs="+",
        default=[],
        metavar="OURS=THEIRS",
        help="columns under other names, emotion=label",
    )
    parser.add_argument("--preprocessing_num_workers", type=int, default=2, help="threads that measure the audio")
    args = parser.parse_args(argv)
    if args.preprocessing_num_workers < 1:
        raise InputError(f"--preprocessing_num_workers {args.preprocessing_num_workers}: give 1 or more")
    if args.figure is not None:
        _check_figure(args.figure)

    clips = read_manifests(args.manifests, column_mapping=parse_column_mapping(args.column_mapping))
    table = measure_clips(clips, args.preprocessing_num_workers, ScanCache(default_folder()))
    if (table["reason"] != "").all():
        raise InputError(f"{args.manifests[0]}: no clip can be used; the first: {table['reason'].iloc[0]}")
    print(format_description(describe(table)))
    if args.figure is not None:
        from .description_figure import draw_description, save_figure

        try:
            save_figure(draw_description(table[table["reason"] == ""]), args.figure)
        except OSError as error:
            raise InputError(f"--figure {args.figure}: cannot be written ({error.strerror})") from error


def _check_figure(path: Path) -> None:
    """Before minutes are spent on the audio."""
    if path.suffix not in FIGURE_SUFFIXES:
        raise InputError(f"--figure {path}: give a name that ends with {', '.join(FIGURE_SUFFIXES)}")
    if not path.parent.is_dir():
        raise InputError(f"--figure {path}: the folder {path.parent} does not exist; make it")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError("--figure: drawing needs matplotlib; pip install matplotlib") from error


def _sets(clips: pd.DataFrame) -> pd.DataFrame:
    names = clips["corpus"]
    if "split" in clips:
        names = names + ", " + clips["split"].str.strip().replace("", "train")
    genders = genders_of(clips)

    def counts(group: pd.DataFrame) -> dict[str, float]:
        by_gender = {f"{gender}_speakers": _speakers(group[group["gender"] == gender]) for gender in genders}
        return {"clips": len(group), "hours": _hours(group), "speakers": _speakers(group), **by_gender}

    clips = clips[["seconds", "speaker", "gender"]]
    sets = {name: counts(group) for name, group in clips.groupby(names, sort=False)}
    if len(sets) > 1:
        sets["total"] = counts(clips)
    return pd.DataFrame.from_dict(sets, orient="index")


def _tasks(clips: pd.DataFrame) -> pd.DataFrame:
    tasks = {}
    for task, column in TASK_COLUMNS.items():
        labelled = clips.loc[clips[column] != "", [column, "seconds"]]
        labels = labelled[column]
        tasks[task] = {
            "labelled": len(labels),
            "share": len(labels) / len(clips),
            "hours": _hours(labelled),
            "classes": len(set(chain.from_iterable(labels))) if task == "asr" else labels.nunique(),
        }
    return pd.DataFrame.from_dict(tasks, orient="index")


def _emotions(clips: pd.DataFrame) -> pd.DataFrame:
    labelled = clips.loc[clips["emotion"] != "", ["emotion", "gender", "speaker", "seconds"]]
    genders = genders_of(clips)
    return pd.DataFrame.from_dict(
        {
            emotion: {
                "clips": count,
                "share": count / len(labelled),
                "hours": _hours(group := labelled[labelled["emotion"] == emotion]),
                "speakers": _speakers(group),
                **{gender: int((group["gender"] == gender).sum()) for gender in genders},
            }
            for emotion, count in labelled["emotion"].value_counts().items()
        },
        orient="index",
    )


def _seconds(clips: pd.DataFrame) -> pd.Series:
    seconds = clips["seconds"]
    return pd.Series(
        {
            "shortest": seconds.min(),
            "5 %": seconds.quantile(0.05),
            "median": seconds.median(),
            "mean": seconds.mean(),
            "95 %": seconds.quantile(0.95),
            "longest": seconds.max(),
        }
    )


def _hours(clips: pd.DataFrame) -> float:
    return clips["seconds"].sum() / 3600


def _speakers(clips: pd.DataFrame) -> int:
    return clips.loc[clips["speaker"] != "", "speaker"].nunique()


def _aligned(corner: str, table: pd.DataFrame) -> str:
    """Names to the left, numbers to the right."""
    columns = {str(name).replace("_", " "): [_cell(name, value) for value in table[name]] for name in table}
    rows = [[corner, *columns], *map(list, zip(table.index, *columns.values(), strict=True))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def _cell(column: str, value: float) -> str:
    if column == "share":
        return f"{value:.1%}"
    return f"{value:,}" if pd.api.types.is_integer(value) else f"{value:,.2f}"
