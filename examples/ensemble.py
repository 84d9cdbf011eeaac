"""Runs of the same test clips, and the mean of their probabilities: `python examples/ensemble.py outputs/seed-*`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.evaluation.report import (
    average_predictions,
    known_emotion_metrics,
    read_emotion_predictions,
)

METRICS = ["emotion_uar", "emotion_macro_f1", "emotion_ece"]


def main(folders: Sequence[Path], output: Path | None) -> pd.DataFrame:
    """One row of scores per run, then the ensemble's, which is also written to `output`."""
    runs = [read_emotion_predictions(folder / "predictions.csv") for folder in folders]
    ensemble = average_predictions(runs)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        ensemble.table.to_csv(output, index=False, float_format="%.6f")
    rows = {str(folder): known_emotion_metrics(run) for folder, run in zip(folders, runs, strict=True)}
    table = pd.DataFrame(rows | {f"ensemble of {len(runs)}": known_emotion_metrics(ensemble)}).T
    return table.reindex(columns=METRICS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN_FOLDER", help="finished runs with --do_predict")
    parser.add_argument("--output", type=Path, help="CSV of the ensemble's predictions to write")
    args = parser.parse_args()
    try:
        print(main(args.folders, args.output).to_string(float_format="{:.3f}".format))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
