"""
Which part of the method helps, on real speech: every row of `ablation_rows.yaml` on every fold and seed.

    python examples/ablation.py run CORPORA --protocols ravdess --rows ce full --seeds 1 2 3 --processes 2
    python examples/ablation.py ensemble --protocols ravdess --rows full --seeds 1 2 3
    python examples/ablation.py choose CORPORA --protocols ravdess --folds 0 1 3 4
    python examples/ablation.py report --figures figures
    python examples/ablation.py report --results docs/results.jsonl --metric speaker_eer --baseline speaker_alone

A finished run is a line of the results file and never runs again; an interrupted one goes on from its last checkpoint:
give the same command again. `ensemble` adds the mean of the seeds' probabilities as a row, from the folders that `run`
left. `choose` compares the settings of `choice_rows.yaml` on validation speakers: its runs never read a test clip.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.evaluation.report import average_predictions, known_emotion_metrics, read_emotion_predictions
from modeling_ser_mtl.evaluation.statistics import (
    bootstrap_interval,
    confusion_by_speaker,
    pair_confusion,
    paired_p_value,
    recalls,
    unweighted_average_recall,
)
from modeling_ser_mtl.training.cross_validation import RESULTS, finish_runs

HERE = Path(__file__).resolve().parent
RECIPES = HERE / "recipes"


@dataclass(frozen=True)
class Protocol:
    """
    A recipe and what it changes there, the clips it trains on and its folds; the test clips are a fold's, the
    manifest's own or a file's.
    """

    recipe: str
    manifest: str
    num_folds: int = 1
    test_manifest: str | None = None
    options: tuple[str, ...] = ()


EMOTION_PROTOCOLS = {
    "ravdess": Protocol("ravdess", "ravdess/manifest.csv", 6),
    "emodb": Protocol("emodb", "emodb/manifest.csv", 10),
    "nemo": Protocol("nemo", "nemo/manifest.csv", 6),
}
PROTOCOLS = EMOTION_PROTOCOLS | {
    # Half the epochs and the last weights themselves: what the longer schedule gives.
    "ravdess_short": Protocol(
        "ravdess", "ravdess/manifest.csv", 6, options=("--num_train_epochs", "30", "--ema_decay", "0")
    ),
    # The four emotions that both corpora have.
    "ravdess_to_emodb": Protocol("cross_corpus", "ravdess/manifest.csv", test_manifest="emodb/manifest.csv"),
    "emodb_to_ravdess": Protocol("cross_corpus", "emodb/manifest.csv", test_manifest="ravdess/manifest.csv"),
    # Sentences that nobody has read in training; unseen.csv is what split_unseen_text.py makes of nEMO's manifest.
    "nemo_text": Protocol("nemo_text", "nemo/unseen.csv"),
    "librispeech": Protocol("librispeech", "librispeech/manifest.csv", 5),
}
OTHER_METRICS = (
    "emotion_macro_f1",
    "emotion_ece_uncalibrated",
    "emotion_ece",
    "gender_uar",
    "speaker_eer",
    "speaker_min_dcf",
    "asr_wer",
    "asr_cer",
)
UAR = "emotion_uar"
STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "ablation"}
SET = {"run": "predict", "choose": "eval"}


@dataclass(frozen=True)
class Row:
    """
    A row of the table: the options that it adds to the recipe, in which `{fold}` is the fold and `{corpora}` the folder
    of the corpora, and the protocols that it is for, e.g. those whose test speakers its encoder has not heard.
    """

    options: list[str]
    protocols: list[str]


@dataclass(frozen=True)
class Run:
    """One training: a row of the table, on a fold of a protocol, under a seed."""

    protocol: str
    row: str
    seed: int
    fold: int

    def folder(self, output_dir: Path, mode: str, options: Sequence[str]) -> Path:
        """Its folder, named after recipe and options, too, so that an interrupted run does not go on with others."""
        settings = [read_recipe(self.protocol), PROTOCOLS[self.protocol].options, options]
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        return output_dir / mode / self.protocol / self.row / f"seed-{self.seed}" / f"fold-{self.fold}" / key

    def command_line(self, corpora: Path, options: Sequence[str], mode: str) -> list[str]:
        """Its options for run_ser_mtl.py, but the output folder; `choose` leaves the test speakers alone."""
        protocol = PROTOCOLS[self.protocol]
        argv = [str(RECIPES / f"{protocol.recipe}.yaml"), "--train_file", str(corpora / protocol.manifest)]
        if protocol.test_manifest is not None:
            argv += ["--test_file", str(corpora / protocol.test_manifest)]
        argv += ["--seed", str(self.seed), "--fold", str(self.fold), "--save_total_limit", "1"]
        filled = (option.replace("{fold}", str(self.fold)).replace("{corpora}", str(corpora)) for option in options)
        argv += [*protocol.options, *filled]
        return argv + (["--do_eval", "True", "--do_predict", "False"] if mode == "choose" else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["run", "ensemble", "choose", "report"])
    parser.add_argument("corpora", type=Path, nargs="?", help="folder with ravdess/manifest.csv and so on")
    parser.add_argument(
        "--protocols", nargs="+", choices=PROTOCOLS, help=f"default: {' '.join(EMOTION_PROTOCOLS)}, of report all"
    )
    parser.add_argument("--rows", nargs="+", help="default: all of the file; report has the baseline beside them")
    parser.add_argument("--rows_file", type=Path, help="default: ablation_rows.yaml, of choose choice_rows.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 1, of report all")
    parser.add_argument("--folds", type=int, nargs="+", help="default: all")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/ablation"))
    parser.add_argument("--results", type=Path, help="default: results.jsonl there, of choose choices.jsonl")
    parser.add_argument("--baseline", default="ce", help="with report: row that the others are compared with (ce)")
    parser.add_argument("--metric", choices=[UAR, *OTHER_METRICS], default=UAR, help="with report: what is compared")
    parser.add_argument("--figures", type=Path, help="with report: folder that receives ablation-<protocol>.svg")
    args = parser.parse_args()
    results, rows = ("choices", "choice_rows") if args.mode == "choose" else ("results", "ablation_rows")
    args.results = args.results or args.output_dir / f"{results}.jsonl"
    args.rows_file = args.rows_file or HERE / f"{rows}.yaml"
    try:
        if args.mode == "report":
            lines = [line for line in read_results(args.results) if asked_for(line, args)]
            if not lines:
                raise InputError(f"--results {args.results}: no finished runs of these; `run` makes them")
            there = dict.fromkeys(line["row"] for line in lines)
            for option, row in [("--baseline", args.baseline), *(("--rows", row) for row in args.rows or [])]:
                if row not in {"ce", *there}:
                    raise InputError(f"{option} {row}: not in {args.results}; there are {', '.join(there)}")
            lines = [x for x in lines if args.rows is None or x["row"] in {*args.rows, args.baseline}]
            print(report(lines, args.baseline, args.metric))
            for protocol in EMOTION_PROTOCOLS if args.figures else ():
                args.figures.mkdir(parents=True, exist_ok=True)
                of_protocol = [line for line in lines if line["protocol"] == protocol and "confusions" in line]
                if of_protocol:
                    draw(of_protocol).savefig(args.figures / f"ablation-{protocol}.svg", metadata={"Date": None})
        else:
            args.protocols, args.seeds = args.protocols or list(EMOTION_PROTOCOLS), args.seeds or [1]
            (add_ensembles if args.mode == "ensemble" else run_all)(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")


def asked_for(line: dict[str, Any], args: argparse.Namespace) -> bool:
    """Whether a finished run is of the protocols, seeds and folds that `report` is asked for."""
    asked = {"protocol": args.protocols, "seed": args.seeds, "fold": args.folds}
    return all(wanted is None or line[key] in wanted for key, wanted in asked.items())


def run_all(args: argparse.Namespace) -> None:
    """Trains what the results file lacks, and adds a line for each run as it ends."""
    rows = read_rows(args)
    most = max(PROTOCOLS[protocol].num_folds for protocol in args.protocols)
    if any(not 0 <= fold < most for fold in args.folds or []):
        raise InputError(f"--folds {' '.join(map(str, args.folds))}: {', '.join(args.protocols)} have 0 to {most - 1}")
    if args.corpora is None:
        raise InputError("give the folder of the corpora")
    for row, protocol in product(args.rows or [], args.protocols):
        if protocol not in rows[row].protocols:
            raise InputError(f"--rows {row}: not for {protocol}; {args.rows_file} says why")
    # Seed by seed and fold by fold, so that the rows can be compared early.
    wanted = [
        Run(protocol, row, seed, fold)
        for protocol, seed in product(args.protocols, args.seeds)
        for fold in range(PROTOCOLS[protocol].num_folds)
        if args.folds is None or fold in args.folds
        for row in args.rows or rows
        if protocol in rows[row].protocols
    ]
    done, code = finished(args.results, wanted, rows), commit()
    runs = {run.folder(args.output_dir, args.mode, rows[run.row].options): run for run in wanted if run not in done}
    commands = {path: run.command_line(args.corpora, rows[run.row].options, args.mode) for path, run in runs.items()}
    args.results.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(wanted), initial=len(wanted) - len(runs), desc="Runs", unit="run") as progress:
        for path in finish_runs(commands, args.processes):
            append(args.results, start_line(runs[path], rows, code) | read_run(path, args.mode))
            progress.update()


def add_ensembles(args: argparse.Namespace) -> None:
    """Adds a line for each fold whose runs of all seeds left predictions; its seed is 0."""
    if args.rows is None or len(args.seeds) < 2:
        raise InputError("ensemble: give --rows of emotions, and two or more --seeds")
    rows = read_rows(args)
    name = f"{{}}, seeds {' '.join(map(str, args.seeds))} averaged"
    rows |= {name.format(row): rows[row] for row in args.rows}
    wanted = {
        Run(protocol, name.format(row), 0, fold): [Run(protocol, row, seed, fold) for seed in args.seeds]
        for protocol, row in product(args.protocols, args.rows)
        for fold in (range(PROTOCOLS[protocol].num_folds) if args.folds is None else args.folds)
    }
    done = finished(args.results, list(wanted), rows)
    for together, runs in wanted.items():
        if together not in done:
            folders = [run.folder(args.output_dir, "run", rows[run.row].options) for run in runs]
            average = average_predictions([read_emotion_predictions(path / "predictions.csv") for path in folders])
            seconds = sum(read_metrics(path)["train_runtime"] for path in folders)
            found = {"metrics": known_emotion_metrics(average), "train_seconds": seconds}
            append(args.results, start_line(together, rows, commit()) | found | confusions_of(average.table))


def read_rows(args: argparse.Namespace) -> dict[str, Row]:
    """The rows by name; an InputError where `--rows` asks for others."""
    if not args.rows_file.is_file():
        raise InputError(f"--rows_file {args.rows_file}: no such file; give a YAML file of options by row")
    rows = {}
    for name, row in yaml.safe_load(args.rows_file.read_text(encoding="utf-8")).items():
        values = row if isinstance(row, dict) else {"options": row}
        rows[name] = Row([str(option) for option in values["options"]], values.get("protocols", list(PROTOCOLS)))
    unknown = [row for row in args.rows or [] if row not in rows]
    if unknown:
        raise InputError(f"--rows {unknown[0]}: not in {args.rows_file}; there are {', '.join(rows)}")
    return rows


def read_recipe(protocol: str) -> dict[str, Any]:
    """The settings of a protocol's recipe."""
    return yaml.safe_load((RECIPES / f"{PROTOCOLS[protocol].recipe}.yaml").read_text(encoding="utf-8"))


def finished(results: Path, wanted: Sequence[Run], rows: dict[str, Row]) -> set[Run]:
    """The runs in a results file; an InputError where one that is wanted ran with other options or another recipe."""
    done = set()
    for line in read_results(results):
        run = Run(*(line[name] for name in ("protocol", "row", "seed", "fold")))
        if run in wanted and line["options"] != rows[run.row].options:
            raise InputError(
                f"{results}: the runs of {run.row} there had the options {' '.join(line['options'])}; give this row "
                "another name or the results another file"
            )
        # The first results did not keep their recipe.
        if run in wanted and line.get("recipe", read_recipe(run.protocol)) != read_recipe(run.protocol):
            raise InputError(f"{results}: the recipe of {run.protocol} has changed; give the results another file")
        done.add(run)
    return done


def start_line(run: Run, rows: dict[str, Row], code: str) -> dict[str, Any]:
    """What a line of the results file says about how the run was made; `code` is the commit."""
    return vars(run) | {"options": rows[run.row].options, "recipe": read_recipe(run.protocol), "commit": code}


def read_metrics(folder: Path) -> dict[str, float]:
    """All metrics of a finished run."""
    return json.loads((folder / RESULTS).read_text(encoding="utf-8"))


def read_run(folder: Path, mode: str) -> dict[str, Any]:
    """What the results file keeps of what a run found: metrics of its set, seconds, confusions by speaker."""
    metrics = read_metrics(folder)
    prefix = SET[mode] + "_"
    kept = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
    found: dict[str, Any] = {"metrics": kept, "train_seconds": metrics["train_runtime"]}
    return found | confusions_of(pd.read_csv(folder / "predictions.csv", dtype=str, keep_default_na=False))


def confusions_of(predictions: pd.DataFrame) -> dict[str, Any]:
    """Classes, and a confusion matrix for each test speaker; nothing of predictions without emotions."""
    if "emotion" not in predictions:
        return {}
    classes = [name.removeprefix("p_") for name in predictions if name.startswith("p_")]
    speakers, truth, found = (predictions[name].tolist() for name in ("true_speaker_id", "true_emotion", "emotion"))
    confusions = confusion_by_speaker(speakers, truth, found, classes)
    return {"classes": classes, "confusions": {name: matrix.tolist() for name, matrix in confusions.items()}}


def commit() -> str:
    """Short hash of the code's commit, with a + where it was changed since; "" outside git."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty=+"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def read_results(path: Path) -> list[dict[str, Any]]:
    """The lines of a results file; none where there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def append(path: Path, line: dict[str, Any]) -> None:
    """Adds a line to a results file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def speaker_uars(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """UAR of each test speaker, mean over the seeds."""
    found: dict[str, list[float]] = {}
    for line in lines:
        for speaker, matrix in line["confusions"].items():
            found.setdefault(speaker, []).append(unweighted_average_recall(np.array(matrix)))
    return {speaker: float(np.mean(values)) for speaker, values in sorted(found.items())}


def unit_values(lines: Sequence[dict[str, Any]], metric: str) -> dict[str, float]:
    """What the statistics are over, mean over the seeds: UAR of each test speaker, any other metric of each fold."""
    if metric == UAR:
        return speaker_uars(lines)
    by_fold = pd.DataFrame([{"fold": str(line["fold"]), metric: line["metrics"][metric]} for line in lines])
    return by_fold.groupby("fold")[metric].mean().to_dict()


def report(lines: Sequence[dict[str, Any]], baseline: str = "ce", metric: str = UAR) -> str:
    """
    All tables, in Markdown; the rows are compared with the baseline on the folds of both: their UAR speaker by speaker,
    another metric fold by fold, in the rows that have it.
    """
    parts = []
    for protocol in PROTOCOLS:
        of_protocol = [x for x in lines if x["protocol"] == protocol and (metric == UAR or metric in x["metrics"])]
        if of_protocol:
            parts += [f"## {protocol}", *_tables(of_protocol, PROTOCOLS[protocol].num_folds, baseline, metric)]
    return "\n\n".join(parts)


def _tables(lines: Sequence[dict[str, Any]], num_folds: int, baseline: str, metric: str) -> Iterator[str]:
    rows = {row: [line for line in lines if line["row"] == row] for row in dict.fromkeys(line["row"] for line in lines)}
    compared = [line for line in rows.get(baseline, []) if metric in line["metrics"]]
    yield _markdown(pd.DataFrame([_row(found, compared, num_folds, metric) for found in rows.values()]))
    if metric != UAR:
        yield "Mean, interval, difference and p are of the folds; these are few, so the interval is too narrow."
        return
    emotional = {row: found for row, found in rows.items() if "confusions" in found[0]}
    classes: list[str] = next((found[0]["classes"] for found in emotional.values()), [])
    totals = {
        row: np.sum([matrix for line in found for matrix in line["confusions"].values()], axis=0)
        for row, found in emotional.items()
        if found[0]["classes"] == classes
    }
    if totals:
        yield (
            "UAR: mean of the folds. Interval, difference and p: of the mean over speakers; of fewer than ten or "
            "so the interval is too narrow."
        )
        by_class = pd.DataFrame({row: recalls(total) for row, total in totals.items()}, index=classes).T
        yield "Recall of each emotion:"
        yield _markdown(by_class.reset_index(names="row"))
        first = baseline if baseline in totals else next(iter(totals))
        rates = pair_confusion(totals[first])
        upper = np.stack(np.triu_indices(len(classes), k=1), axis=1)
        pairs = sorted(upper.tolist(), key=lambda pair: -rates[tuple(pair)])[:3]
        table = {
            row: {f"{classes[i]} / {classes[j]}": pair_confusion(total)[i, j] for i, j in pairs}
            for row, total in totals.items()
        }
        yield f"Clips of two emotions taken for each other, of the three pairs that {first} confuses most:"
        yield _markdown(pd.DataFrame(table).T.reset_index(names="row"))


def _row(
    lines: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]], num_folds: int, metric: str
) -> dict[str, Any]:
    row, folds = lines[0]["row"], {line["fold"] for line in lines}
    seeds = sorted({line["seed"] for line in lines})
    cells: dict[str, Any] = {"row": row, "seeds": len(seeds), "folds": len(folds)}
    metrics = pd.DataFrame([line["metrics"] for line in lines])
    if metric in metrics:
        cells["UAR" if metric == UAR else metric] = metrics[metric].mean()
        by_seed = [[x["metrics"][metric] for x in lines if x["seed"] == seed] for seed in seeds]
        means = [np.mean(values) for values in by_seed if len(values) == num_folds]
        cells["std of seeds"] = np.std(means, ddof=1) if len(means) > 1 else np.nan
        values = unit_values(lines, metric)
        cells["speakers" if metric == UAR else "folds"] = len(values)
        if len(values) > 1:
            cells["95 % interval"] = "{:.3f} to {:.3f}".format(*bootstrap_interval(list(values.values())))
        # The folds and speakers of both: where speakers validate, one may be in several folds, and the seed draws them.
        shared = folds & {line["fold"] for line in baseline if line["row"] != row}
        after, before = (
            unit_values([x for x in found if x["fold"] in shared], metric) if shared else {}
            for found in (lines, baseline)
        )
        both = sorted(after.keys() & before.keys())
        if baseline:
            cells |= dict.fromkeys((f"against {baseline[0]['row']}", "interval of it", "p"), "")
        if len(both) > 1:
            after, before = ({unit: values[unit] for unit in both} for values in (after, before))
            gains = [after[unit] - before[unit] for unit in both]
            cells[f"against {baseline[0]['row']}"] = f"{np.mean(gains):+.3f}"
            cells["interval of it"] = "{:+.3f} to {:+.3f}".format(*bootstrap_interval(gains))
            cells["p"] = paired_p_value(after, before)
    cells |= {name: metrics[name].mean() for name in OTHER_METRICS if name in metrics and name != metric}
    # Of a run that was interrupted, those since it went on.
    cells["minutes a fold"] = f"{np.mean([line['train_seconds'] for line in lines]) / 60:.1f}"
    return cells | {"row": row_title(lines)}


def row_title(lines: Sequence[dict[str, Any]]) -> str:
    """Name of the row of which these are the runs, with a mark where folds of a seed are missing."""
    complete = len(lines) == len({line["seed"] for line in lines}) * PROTOCOLS[lines[0]["protocol"]].num_folds
    return lines[0]["row"] if complete else f"{lines[0]['row']} (some folds)"


def draw(lines: Sequence[dict[str, Any]]) -> Figure:
    """UAR of each row with its interval over speakers, in the order of the file; the runs must be of one protocol."""
    by_row = [[x for x in lines if x["row"] == row] for row in dict.fromkeys(line["row"] for line in lines)]
    rows = {row_title(found): speaker_uars(found) for found in by_row}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 1.2 + 0.35 * len(rows)), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        for height, uars in enumerate(rows.values()):
            values = list(uars.values())
            axes.plot(values, [height] * len(values), ".", color="0.8", zorder=1)
            axes.plot(np.mean(values), height, "o", color="tab:blue")
            if len(values) > 1:
                axes.hlines(height, *bootstrap_interval(values), color="tab:blue")
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("UAR: mean and 95 % interval over test speakers, each a grey dot")
        axes.set_title(lines[0]["protocol"])
    return figure


def _markdown(table: pd.DataFrame) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, float):
            return "" if np.isnan(value) else f"{value:.3f}"
        return str(value)

    rows = [list(table.columns), ["---"] * table.shape[1], *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(cell(value) for value in row) + " |" for row in rows)


if __name__ == "__main__":
    main()
