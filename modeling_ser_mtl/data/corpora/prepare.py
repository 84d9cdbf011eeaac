"""A folder of a known corpus -> a manifest that `--train_file` takes."""

import argparse
import difflib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..errors import InputError
from ..manifest import SUFFIXES
from . import CORPORA
from .definition import Corpus, Reading

logger = logging.getLogger(__name__)

SHOWN = 5  # names of missing or unexpected files that are printed


def prepare(name: str, folder: str | os.PathLike, output: str | os.PathLike, published_split: bool = False) -> Reading:
    """
    Writes the manifest of a corpus, and prints its licence, its citation and what was found.

    Args:
        name (`str`): One of [`CORPORA`].
        folder (`str` or `os.PathLike`): Where the corpus lies.
        output (`str` or `os.PathLike`): The manifest to write (`.csv`, `.tsv`, `.jsonl` or `.parquet`). Its audio paths
            are relative to its folder where they lie below that, else absolute.
        published_split (`bool`): Whether the column `published_split`, whose sets share speakers, is the column `split`
            as well.

    Returns:
        [`~definition.Reading`]: What was found, with the rows as written.

    Raises:
        InputError: There is no such corpus or folder, the folder holds something else or lacks the published split that
            is asked for, or `output` exists already or has another suffix. Nothing is written.
    """
    folder, output = Path(folder), Path(output)
    if name not in CORPORA:
        near = difflib.get_close_matches(name, CORPORA, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(CORPORA)}"
        raise InputError(f"unknown corpus {name!r}; {hint}")
    if output.suffix.lower() not in SUFFIXES:
        raise InputError(f"{output}: ends in {output.suffix or 'no suffix'}; a manifest ends in {', '.join(SUFFIXES)}")
    if output.exists():
        raise InputError(f"{output}: exists already; delete it or name another file")
    corpus = CORPORA[name]
    reading = read_corpus(corpus, folder)
    rows = reading.rows.assign(audio=locate(reading.rows["audio"], folder, output.parent))
    if "corpus" not in rows:
        rows["corpus"] = corpus.name
    if published_split:
        rows["split"] = _published_split(rows, corpus, folder)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(rows, output)
    reading = Reading(rows, reading.missing, reading.unexpected)
    print(report(corpus, reading))
    print(f"wrote       {output}")
    return reading


def read_corpus(corpus: Corpus, folder: Path) -> Reading:
    """
    Reads a corpus' folder.

    Args:
        corpus ([`~definition.Corpus`]): Which corpus.
        folder (`Path`): Where it lies.

    Raises:
        InputError: There is no such folder, it lacks one of the corpus' lists or holds no clip; says what was expected.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the one that holds {corpus.layout}")
    expected = f"expected is {corpus.layout}"
    try:
        reading = corpus.read(folder)
    except FileNotFoundError as error:
        raise InputError(f"{folder}: holds no {error} of {corpus.title}; {expected}") from error
    if reading.rows.empty:
        example = "".join(f", such as {path}" for path in reading.unexpected[:1])
        found = f"{len(reading.unexpected):,} other audio files{example}"
        raise InputError(f"{folder}: holds no clip of {corpus.title}, but {found}; {expected}")
    return reading


def locate(audio: pd.Series, folder: Path, base: Path) -> list[str]:
    """
    Paths as a manifest holds them.

    Args:
        audio (`pd.Series`): Paths relative to `folder`, with forward slashes.
        folder (`Path`): The corpus' folder.
        base (`Path`): The manifest's folder.

    Returns:
        `list[str]`: Relative to `base`, with forward slashes, where `folder` lies below that or is the same; else
        absolute.
    """
    folder, base = Path(os.path.abspath(folder)), Path(os.path.abspath(base))
    prefix = folder.relative_to(base) if folder.is_relative_to(base) else folder
    return [(prefix / path).as_posix() for path in audio]


def _published_split(rows: pd.DataFrame, corpus: Corpus, folder: Path) -> pd.Series:
    if "published_split" not in rows:
        raise InputError(
            f"--published_split: {corpus.title} has no published split whose sets share speakers; drop the option"
        )
    splits = rows["published_split"]
    if (splits == "").any():
        clip = rows.loc[splits == "", "audio"].iloc[0]
        raise InputError(
            f"--published_split: {(splits == '').sum()} of {len(rows)} clips in {folder} are of none of its sets, the "
            f"first is {clip}; take the release whose folders name them, or drop the option"
        )
    speakers = [set(rows["speaker_id"][splits == name]) for name in ("train", "test")]
    logger.warning(
        "train and test share %d speakers: train with --allow_shared_speakers True, and compare with figures on this "
        "split only",
        len(set.intersection(*speakers) - {""}),
    )
    return splits


def write_manifest(rows: pd.DataFrame, path: Path) -> None:
    """
    Writes a manifest in the format of its suffix, in UTF-8.

    Args:
        rows (`pd.DataFrame`): One clip per row, cells of type `str`.
        path (`Path`): Ends in `.csv`, `.tsv`, `.jsonl` or `.parquet`.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        rows.to_parquet(path, index=False)
    elif suffix == ".jsonl":
        rows.to_json(path, orient="records", lines=True, force_ascii=False)
    else:
        rows.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",", lineterminator="\n")


def report(corpus: Corpus, reading: Reading) -> str:
    """
    What a user should know of a corpus and of what was found of it.

    Args:
        corpus ([`~definition.Corpus`]): Which corpus.
        reading ([`~definition.Reading`]): What was found.

    Returns:
        `str`: A few lines: title, licence, citation, counts, missing and unexpected files.
    """
    rows = reading.rows
    speakers = rows[rows["speaker_id"] != ""].drop_duplicates("speaker_id")
    genders = speakers["gender"].replace("", "unknown").value_counts()
    lines = {
        "corpus": corpus.title,
        "licence": corpus.license,
        "source": corpus.url,
        "cite": corpus.citation,
        "clips": f"{len(rows):,}" + (f" of {corpus.num_clips:,}" if corpus.num_clips else ""),
        "speakers": f"{len(speakers):,}" + (f" ({_counts(genders)})" if len(speakers) else ""),
        "emotions": _counts(rows["emotion"].replace("", "none").value_counts()),
        "with text": f"{(rows['text'] != '').sum():,}",
    }
    if "split" in rows:
        lines["splits"] = _counts(rows["split"].replace("", "none").value_counts())
    lines["missing"] = _names(reading.missing, "on the corpus' lists but not there")
    lines["unexpected"] = _names(reading.unexpected, "there but no clips of the corpus")
    return "\n".join(f"{title:<10}  {text}" for title, text in lines.items() if text)


def _counts(counts: pd.Series) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _names(names: list[str], what: str) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"{len(names):,} {what}: {', '.join(names[:SHOWN])}{more}"


def main(argv: Sequence[str] | None = None) -> None:
    """
    Command line of `ser-mtl prepare`; `argv` in place of the command line's. Raises an [`InputError`] as [`prepare`].
    """
    width = max(map(len, CORPORA))
    listing = "\n".join(f"  {name:<{width}}  {corpus.layout}" for name, corpus in CORPORA.items())
    parser = argparse.ArgumentParser(
        prog="ser-mtl prepare",
        description="Writes the manifest of a known corpus, for --train_file.",
        epilog=f"corpora, and what their folder holds:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="name of the corpus")
    parser.add_argument("folder", metavar="FOLDER", help="where it lies")
    parser.add_argument("--output", required=True, metavar="FILE", help=f"manifest to write ({', '.join(SUFFIXES)})")
    parser.add_argument(
        "--published_split",
        action="store_true",
        help="write the published split as `split` although its sets share speakers (meld, esd)",
    )
    args = parser.parse_args(argv)
    prepare(args.name, args.folder, args.output, args.published_split)
