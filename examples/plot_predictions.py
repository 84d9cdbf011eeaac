"""
Draws what a run predicted, or the folds of one protocol together:
`python examples/plot_predictions.py outputs/fold-* --output_dir figures` (reliability.svg, confusion.svg).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.evaluation.description_figure import save_figure
from modeling_ser_mtl.evaluation.prediction_figures import draw_confusion, draw_reliability
from modeling_ser_mtl.evaluation.report import read_emotion_predictions


def main(folders: Sequence[Path], output_dir: Path) -> None:
    """Writes both figures into `output_dir`, from the clips whose emotion is known."""
    runs = [read_emotion_predictions(folder / "predictions.csv") for folder in folders]
    names = runs[0].names
    for folder, run in zip(folders, runs, strict=True):
        if run.names != names:
            raise InputError(f"{folder}: predicts other emotions than {folders[0]}; give runs of the same emotions")
    probabilities = np.concatenate([run.probabilities for run in runs])
    labels = np.concatenate([run.labels for run in runs])
    known = labels >= 0
    if not known.any():
        raise InputError(f"{folders[0]}: no clip has an emotion to compare with; give a labelled test set")
    output_dir.mkdir(parents=True, exist_ok=True)
    save_figure(draw_reliability(probabilities[known], labels[known]), output_dir / "reliability.svg")
    save_figure(draw_confusion(labels[known], probabilities[known].argmax(1), names), output_dir / "confusion.svg")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN_FOLDER", help="finished runs with --do_predict")
    parser.add_argument("--output_dir", type=Path, help="folder of the figures; default: the first run's")
    args = parser.parse_args()
    try:
        main(args.folders, args.output_dir or args.folders[0])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
