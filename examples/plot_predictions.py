"""Draws what a run predicted: `python examples/plot_predictions.py outputs/mine` (reliability.svg, confusion.svg)."""

import sys
from pathlib import Path

from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.evaluation.description_figure import save_figure
from modeling_ser_mtl.evaluation.prediction_figures import draw_confusion, draw_reliability
from modeling_ser_mtl.evaluation.report import read_emotion_predictions


def main(folder: Path) -> None:
    """Writes both figures into the folder of the run, from the clips whose emotion is known."""
    path = folder / "predictions.csv"
    predictions = read_emotion_predictions(path)
    known = predictions.labels >= 0
    if not known.any():
        raise InputError(f"{path}: no clip has an emotion to compare with; give a labelled test set")
    probabilities, labels = predictions.probabilities[known], predictions.labels[known]
    save_figure(draw_reliability(probabilities, labels), folder / "reliability.svg")
    save_figure(draw_confusion(labels, probabilities.argmax(1), predictions.names), folder / "confusion.svg")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/plot_predictions.py RUN_FOLDER")
    try:
        main(Path(sys.argv[1]))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
