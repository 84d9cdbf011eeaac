"""The `ser-mtl cross-validate` command: every fold of a run, several at a time, then their mean."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
from tqdm.auto import tqdm
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.columns import parse_column_mapping
from ..data.errors import InputError
from ..data.manifest import read_manifests
from .arguments import DataArguments
from .checkpoints import last_checkpoint
from .facts import given_settings
from .parser import parse_arguments

RESULTS = "all_results.json"
# The last file that a run writes, its model card: with it the run is finished.
LAST_FILE = "README.md"
SETTINGS = "settings.json"
SUMMARY = "cross_validation.json"
POLL_SECONDS = 0.5
# A run that stopped before its first checkpoint has left no more than this.
BEGUN = {"skipped.csv", "runs"}
# What the table shows of each fold, where the run has it.
SHOWN = (
    "predict_emotion_uar",
    "predict_emotion_macro_f1",
    "predict_gender_uar",
    "predict_speaker_eer",
    "predict_asr_wer",
    "train_runtime",
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; ser-mtl cross-validate --help lists the options")


def main(argv: Sequence[str]) -> None:
    """
    Runs `ser-mtl cross-validate` with `argv`, the command line after that name.

    Raises:
        InputError: options that make no cross-validation, folds of other settings in the output folder, or a fold that
            failed.
    """
    parser = _Parser(
        prog="ser-mtl cross-validate",
        usage="ser-mtl cross-validate [SETTINGS] --output_dir DIR [--processes N] [--folds K ...] [options of train]",
        allow_abbrev=False,
        description="Trains and tests every fold, and prints the mean. All options of ser-mtl train apply; --num_folds "
        "or --fold_column, or a settings file with one of them, says what the folds are. Finished folds are kept and "
        "interrupted ones go on: give the same command again.",
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="receives fold-0, fold-1, ... and the summary")
    parser.add_argument("--processes", type=int, default=1, help="folds that train at a time (default: 1)")
    parser.add_argument("--folds", type=int, nargs="+", help="only these folds (default: all)")
    options, settings = parser.parse_known_args(argv)
    if options.processes < 1:
        raise InputError(f"--processes {options.processes}: give 1 or more")
    folds = options.folds or range(count_folds(settings))
    _keep_settings(options.output_dir, settings)

    runs = {options.output_dir / f"fold-{fold}": [*settings, "--fold", str(fold)] for fold in folds}
    try:
        with tqdm(total=len(runs), desc="Folds", unit="fold") as progress:
            for _ in finish_runs(runs, options.processes):
                progress.update()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
    table = summarize(list(runs))
    (options.output_dir / SUMMARY).write_text(table.to_json(orient="columns", indent=2), encoding="utf-8")
    print(table[[name for name in SHOWN if name in table]].round(3).to_string())


def count_folds(settings: Sequence[str]) -> int:
    """
    The number of folds that a run's command line, `settings`, asks for.

    Raises:
        InputError: the command line is no run's, or asks for no folds.
    """
    data_args: DataArguments = parse_arguments([*settings, "--output_dir", "unused"])[1]
    if data_args.num_folds is not None:
        return data_args.num_folds
    if data_args.fold_column is None:
        raise InputError("cross-validation needs --num_folds or --fold_column, or a settings file with one of them")
    if not data_args.train_file:
        raise InputError(f"--fold_column {data_args.fold_column}: without --train_file, list the folds with --folds")
    table = read_manifests(data_args.train_file, column_mapping=parse_column_mapping(data_args.column_mapping or []))
    # Without such a column the first fold's run says what is there.
    return table[data_args.fold_column].str.strip().nunique() if data_args.fold_column in table else 1


def _keep_settings(output_dir: Path, settings: Sequence[str]) -> None:
    """Notes the settings in the folder; an error where its folds belong to others."""
    given, path = given_settings(settings), output_dir / SETTINGS
    if path.is_file() and any(folder.is_dir() for folder in output_dir.glob("fold-*")):
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(name for name in {*before, *given} if before.get(name) != given.get(name))
        if changed:
            raise InputError(
                f"{path}: the folds there were made with other settings ({', '.join(changed)}); give the same ones or "
                "choose another --output_dir"
            )
    output_dir.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(given, indent=2), encoding="utf-8")


def finish_runs(runs: Mapping[Path, Sequence[str]], processes: int) -> Iterator[Path]:
    """
    Brings runs to their end, each in a process of its own with its share of the processor's cores, or as many threads
    as the caller's OMP_NUM_THREADS says; finished ones are left alone, and interrupted ones go on from their last
    checkpoint. What a run prints is kept beside its folder, in `<folder>.log`.

    Args:
        runs (`Mapping[Path, Sequence[str]]`): the command line of each run, without the output folder, by that folder.
        processes (`int`): runs at a time, 1 or more.

    Yields:
        `Path`: the folder of each run as it ends.

    Raises:
        InputError: a run failed, which interrupts the others.
    """
    threads = max(1, (os.cpu_count() or 1) // processes)
    environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"} | os.environ
    waiting, running = list(runs.items()), dict[Path, subprocess.Popen]()
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                folder, argv = waiting.pop(0)
                if (folder / LAST_FILE).is_file():
                    yield folder
                else:
                    running[folder] = _start_run(folder, argv, environment)
            ended = [folder for folder, process in running.items() if process.poll() is not None]
            for folder in ended:
                code = running.pop(folder).returncode
                if code:
                    last = "".join(_log(folder).read_text(encoding="utf-8").rstrip().splitlines()[-1:])
                    raise InputError(f"{folder}: the run ended with code {code} ({last}); see {_log(folder)}")
                yield folder
            if running and not ended:
                time.sleep(POLL_SECONDS)
    finally:
        for process in running.values():
            process.terminate()
            process.wait()


def _log(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.log")


def _is_begun(name: str) -> bool:
    # A checkpoint here is one that was not finished.
    return name in BEGUN or name.startswith(PREFIX_CHECKPOINT_DIR)


def _start_run(folder: Path, argv: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen:
    resume = []
    if last_checkpoint(folder) is not None:
        resume = ["--resume_from_checkpoint", "True"]
    elif folder.is_dir() and all(_is_begun(path.name) for path in folder.iterdir()):
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "run_ser_mtl", *argv, *resume, "--output_dir", str(folder)]
    with _log(folder).open("a", encoding="utf-8") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


def summarize(folders: Sequence[Path]) -> pd.DataFrame:
    """
    The metrics of finished runs.

    Args:
        folders (`Sequence[Path]`): their output folders.

    Returns:
        `pd.DataFrame`: one row per folder, named after it, then `mean` and `std` (over runs, sample standard
        deviation) of each metric; a metric that a run lacks is NaN there.
    """
    results = {folder.name: json.loads((folder / RESULTS).read_text(encoding="utf-8")) for folder in folders}
    table = pd.DataFrame(results).T
    return pd.concat([table, table.agg(["mean", "std"])])
