"""Runs of the same test clips, and the mean of their probabilities: `python examples/ensemble.py outputs/seed-*`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.evaluation.calibration import expected_calibration_error
from modeling_ser_mtl.evaluation.metrics import emotion_metrics
from modeling_ser_mtl.evaluation.report import EmotionPredictions, read_emotion_predictions


def average(runs: Sequence[EmotionPredictions]) -> EmotionPredictions:
    """
    The ensemble: the mean of the probabilities of all runs. Its table has the columns `audio`, `emotion`,
    `emotion_score` and `p_<emotion>`, and those of the manifest.
    """
    first = runs[0]
    probabilities = np.mean([run.probabilities for run in runs], axis=0)
    emotions = [first.names[index] for index in probabilities.argmax(1)]
    columns = {"audio": first.table["audio"], "emotion": emotions, "emotion_score": probabilities.max(1)}
    columns |= {f"p_{name}": probabilities[:, index] for index, name in enumerate(first.names)}
    own = first.table[[name for name in first.table if name.startswith("true_")]]
    return EmotionPredictions(pd.DataFrame(columns).join(own), first.names, probabilities, first.labels)


def scores(run: EmotionPredictions) -> dict[str, float]:
    """UAR, Macro-F1 and calibration error over the clips whose emotion is known; nothing where none is."""
    known = run.labels >= 0
    if not known.any():
        return {}
    metrics = emotion_metrics(run.probabilities, run.labels, {}, run.names)
    return {
        "emotion_uar": metrics["emotion_uar"],
        "emotion_macro_f1": metrics["emotion_macro_f1"],
        "emotion_ece": expected_calibration_error(run.probabilities[known], run.labels[known]),
    }


def main(folders: Sequence[Path], output: Path | None) -> pd.DataFrame:
    """One row of scores per run, then the ensemble's, which is also written to `output`."""
    runs = []
    for folder in folders:
        run = read_emotion_predictions(folder / "predictions.csv")
        if runs and (run.names != runs[0].names or list(run.table["audio"]) != list(runs[0].table["audio"])):
            raise InputError(
                f"{folder / 'predictions.csv'}: has other emotions or clips than that of {folders[0]}; give runs of "
                "one test set and the same emotions"
            )
        runs.append(run)
    ensemble = average(runs)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        ensemble.table.to_csv(output, index=False, float_format="%.6f")
    rows = {str(folder): scores(run) for folder, run in zip(folders, runs, strict=True)}
    return pd.DataFrame(rows | {f"ensemble of {len(runs)}": scores(ensemble)}).T


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
