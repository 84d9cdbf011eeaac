"""Two groups of finished runs: `python examples/compare_runs.py --baseline outputs/ce-* --other outputs/swfc-*`."""

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pandas as pd
from sklearn.metrics import confusion_matrix

from modeling_ser_mtl.evaluation.statistics import pair_confusion

METRICS = (
    "predict_emotion_macro_f1",
    "predict_emotion_uar",
    "predict_emotion_similarity_within",
    "predict_emotion_similarity_between",
)
NUM_PAIRS = 3
Pair = tuple[str, str]


def read_run(folder: Path) -> tuple[dict[str, float], pd.DataFrame]:
    """
    Test metrics of a run, and the columns `emotion` (predicted) and `true_emotion` of its test clips with an emotion.

    Raises:
        ValueError: a file or a column is missing; names it.
    """
    for name in ("predict_results.json", "predictions.csv"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: not found; give folders of finished runs with --do_predict")
    metrics = json.loads((folder / "predict_results.json").read_text())
    predictions = pd.read_csv(folder / "predictions.csv", dtype=str, keep_default_na=False)
    for column in ("emotion", "true_emotion"):
        if column not in predictions:
            raise ValueError(f"{folder / 'predictions.csv'}: no column {column!r}; give runs that predict emotions")
    return metrics, predictions.loc[predictions["true_emotion"] != "", ["emotion", "true_emotion"]]


def pair_rates(predictions: pd.DataFrame) -> dict[Pair, float]:
    """By pair of true emotions, in order of names: the share of their clips that are taken for the other."""
    present = sorted(predictions["true_emotion"].unique())
    others = sorted(set(predictions["emotion"]) - set(present))
    truth, found = predictions["true_emotion"], predictions["emotion"]
    rates = pair_confusion(confusion_matrix(truth, found, labels=present + others))
    return {(present[i], present[j]): float(rates[i, j]) for i, j in combinations(range(len(present)), 2)}


def compare(baseline: Sequence[Path], other: Sequence[Path]) -> pd.DataFrame:
    """
    Mean and standard deviation over the runs of each group: one row per metric and per pair of emotions that the
    baseline's runs, taken together, confuse most.
    """
    groups = {"baseline": [read_run(folder) for folder in baseline], "other": [read_run(folder) for folder in other]}
    rates = pair_rates(pd.concat([predictions for _, predictions in groups["baseline"]]))
    pairs = sorted(rates, key=lambda pair: -rates[pair])[:NUM_PAIRS]
    columns = {}
    for name, runs in groups.items():
        rows = [
            {metric: metrics.get(metric) for metric in METRICS}
            | {f"confused: {' / '.join(pair)}": pair_rates(predictions).get(pair) for pair in pairs}
            for metrics, predictions in runs
        ]
        table = pd.DataFrame(rows, dtype=float)
        columns[name, "mean"], columns[name, "std"] = table.mean(), table.std()
    return pd.DataFrame(columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--baseline", type=Path, nargs="+", required=True, help="output folders of the first group")
    parser.add_argument("--other", type=Path, nargs="+", required=True, help="output folders of the second group")
    args = parser.parse_args()
    try:
        table = compare(args.baseline, args.other)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{len(args.baseline)} runs against {len(args.other)}")
    print(table.to_string(float_format="{:.3f}".format, na_rep="-"))


if __name__ == "__main__":
    main()
