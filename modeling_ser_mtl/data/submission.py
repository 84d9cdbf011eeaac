"""The challenge's submission (MSP-Podcast, categorical emotions): one letter per test file, written and checked."""

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from .corpora.msp_podcast import CODES
from .errors import InputError, one_line
from .manifest import read_manifest

HEADER = ["FileName", "EmoClass"]
LETTERS = {emotion: code for code, emotion in CODES.items()}
VALID_LETTERS = ", ".join(sorted(CODES))
# Problems that `check-submission` prints before it only counts.
PROBLEMS_SHOWN = 100


def check_submittable(emotions: Sequence[str], skipped: Sequence[str] = ()) -> None:
    """
    Checks, before hours of training, that a run can end in a valid submission.

    Args:
        emotions (`Sequence[str]`): the model's emotion names.
        skipped (`Sequence[str]`): test clips that can't be used and so get no prediction.

    Raises:
        InputError: an emotion has no letter in the challenge, or a test clip would be missing.
    """
    foreign = [emotion for emotion in emotions if emotion not in LETTERS]
    if foreign:
        raise InputError(
            f"--submission_file: the emotion {foreign[0]!r} has no letter in the challenge; "
            f"its classes are {', '.join(sorted(LETTERS))}: name them in --emotion_labels"
        )
    if skipped:
        raise InputError(
            f"--submission_file: {len(skipped)} test clip(s) can't be used, the first is {skipped[0]}, but each test "
            "file needs a letter; replace these files"
        )


def write_submission(path: str | os.PathLike, predictions: pd.DataFrame) -> None:
    """
    Writes the CSV `FileName,EmoClass` that the challenge takes, in the order of `predictions`.

    Args:
        path (`str` or `os.PathLike`): the file to write; its folder is made where it is missing.
        predictions (`pd.DataFrame`): one row per test file, with `audio` (a path, of which the file name counts) and
            `emotion` (the predicted name).

    Raises:
        InputError: an emotion has no letter in the challenge, or two clips have the same file name.
    """
    check_submittable(sorted(set(predictions["emotion"])))
    names = predictions["audio"].map(_file_name)
    doubled = names[names.duplicated()]
    if len(doubled):
        raise InputError(
            f"{path}: two test clips are named {doubled.iloc[0]}, and the challenge knows files by their names; "
            "keep one of them in the manifest"
        )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({"FileName": names, "EmoClass": predictions["emotion"].map(LETTERS)})
    table.to_csv(path, index=False, lineterminator="\n")


def check_submission(submission: str | os.PathLike, manifest: str | os.PathLike) -> list[str]:
    """
    Checks that a submission has exactly one valid letter for each test file, all in one pass.

    Args:
        submission (`str` or `os.PathLike`): the CSV to check.
        manifest (`str` or `os.PathLike`): names the test files: the rows whose `split` is test, or all rows where it
            has no such column.

    Returns:
        `list[str]`: the problems, a line each that names the file and row; none for a valid submission.

    Raises:
        InputError: one of the two can't be read, or the manifest has no test files.
    """
    table = read_manifest(manifest)
    if "split" in table:
        table = table[table["split"].str.strip() == "test"]
    expected = [_file_name(audio) for audio in table["audio"]]
    if not expected:
        raise InputError(f"{manifest}: no row has the split 'test'; give the manifest of the test files")

    records = _read_records(submission)
    first_row, first = records[0]
    problems = []
    if first != HEADER:
        problems.append(f"{submission} row {first_row}: the header is {','.join(first)}; must be {','.join(HEADER)}")
    if first == HEADER or first[0] not in expected:  # else the header is missing, and this is a file's row
        records = records[1:]

    seen: dict[str, int] = {}
    known = set(expected)
    for row, cells in records:
        where = f"{submission} row {row}"
        if len(cells) != len(HEADER):
            problems.append(f"{where}: {len(cells)} cells; must be {len(HEADER)}, a file name and a letter")
        name, letter = (*cells, "")[:2]
        if name not in known:
            problems.append(f"{where}: {name!r} is no test file of {manifest}")
        elif name in seen:
            problems.append(f"{where}: {name} is there again, first in row {seen[name]}; keep one row")
        seen.setdefault(name, row)
        if len(cells) >= len(HEADER) and letter not in CODES:
            problems.append(f"{where}: the letter of {name} is {letter!r}; allowed: {VALID_LETTERS}")
    problems += [f"{submission}: {name} is missing; add its row" for name in expected if name not in seen]
    return problems


def main(argv: Sequence[str] | None = None) -> None:
    """
    `ser-mtl check-submission FILE MANIFEST`, with `argv` (both paths) in place of the command line's: prints the
    problems, a line each, and then ends with exit code 2.
    """
    parser = argparse.ArgumentParser(
        prog="ser-mtl check-submission", description="Check a submission's files, letters."
    )
    parser.add_argument("submission", metavar="FILE", help="CSV FileName,EmoClass, as --submission_file writes it")
    parser.add_argument("manifest", metavar="MANIFEST", help="manifest whose split `test` names the test files")
    args = parser.parse_args(argv)
    problems = check_submission(args.submission, args.manifest)
    if not problems:
        print(f"{args.submission}: valid, one letter for each test file of {args.manifest}")
        return
    lines = problems[:PROBLEMS_SHOWN]
    if len(problems) > PROBLEMS_SHOWN:
        lines.append(f"{args.submission}: {len(problems) - PROBLEMS_SHOWN} more problems")
    print("\n".join(f"error: {line}" for line in lines), file=sys.stderr, flush=True)
    sys.exit(2)


def _file_name(audio: str) -> str:
    return audio.replace("\\", "/").rsplit("/", 1)[-1]


def _read_records(path: str | os.PathLike) -> list[tuple[int, list[str]]]:
    """The rows that aren't blank, each with its line number; one or more."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            records = [(reader.line_num, cells) for cells in reader if cells]
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give the CSV that --submission_file wrote") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: could not be read as CSV ({one_line(error)})") from error
    if not records:
        raise InputError(f"{path}: the submission is empty; it begins with {','.join(HEADER)}")
    return records
