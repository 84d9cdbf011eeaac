"""Figures of the predictions of a run: how far its confidence can be trusted, and what it takes for what."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from .calibration import NUM_BINS, expected_calibration_error, reliability, risk_coverage

STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "predictions"}


def draw_reliability(probabilities: np.ndarray, labels: np.ndarray) -> Figure:
    """
    Accuracy against confidence in bins of equal width, with the number of clips in each, beside the accuracy that
    remains if the clips of low confidence are not answered.

    Args:
        probabilities (`np.ndarray` of shape `(N, C)`): one row per clip, N is 1 or more.
        labels (`np.ndarray` of shape `(N,)`, int): true classes, all known.

    Returns:
        `matplotlib.figure.Figure`: not yet drawn or saved.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 5), layout="constrained", facecolor="white")
        rows = figure.add_gridspec(2, 2, height_ratios=[3, 1])
        diagram = figure.add_subplot(rows[0, 0])
        _draw_bins(diagram, figure.add_subplot(rows[1, 0], sharex=diagram), probabilities, labels)
        _draw_coverage(figure.add_subplot(rows[:, 1]), probabilities, labels)
    return figure


def draw_confusion(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> Figure:
    """
    The confusion matrix: of the clips of each true class (row), the share that is taken for each class (column), with
    the number of clips.

    Args:
        labels (`np.ndarray` of shape `(N,)`, int): true classes, all known.
        predicted (`np.ndarray` of shape `(N,)`, int): predicted classes.
        names (`Sequence[str]` of length C): names of the classes.

    Returns:
        `matplotlib.figure.Figure`: not yet drawn or saved.
    """
    size = len(names)
    counts = np.zeros((size, size), dtype=int)
    np.add.at(counts, (labels, predicted), 1)
    totals = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3 + 0.7 * size, 2.2 + 0.6 * size), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(size, size):
            if counts[row, column]:
                color = "white" if shares[row, column] > 0.5 else "black"
                text = f"{shares[row, column]:.2f}\n{counts[row, column]}"
                axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
        axes.set_xticks(range(size), names, rotation=45, ha="right")
        axes.set_yticks(range(size), [f"{name} ({total})" for name, total in zip(names, totals[:, 0], strict=True)])
        axes.set(xlabel="predicted", ylabel="true (clips)")
        recalls = shares.diagonal()[totals[:, 0] > 0]
        axes.set_title(f"Confusion, UAR {recalls.mean():.3f}")
        figure.colorbar(image, ax=axes, label="share of the true class")
    return figure


def _draw_bins(
    diagram: matplotlib.axes.Axes, histogram: matplotlib.axes.Axes, probabilities: np.ndarray, labels: np.ndarray
) -> None:
    counts, confidence, accuracy = reliability(probabilities, labels)
    left, found = np.arange(NUM_BINS) / NUM_BINS, counts > 0
    width = 1 / NUM_BINS
    diagram.bar(left[found], accuracy[found], width, align="edge", color="tab:blue", edgecolor="white")
    diagram.plot([0, 1], [0, 1], color="0.4", linestyle=":", label="as confident as right")
    diagram.plot(
        confidence[found], accuracy[found], "o", color="tab:red", markersize=4, label="mean confidence of a bin"
    )
    diagram.set(xlim=(0, 1), ylim=(0, 1.3), yticks=np.linspace(0, 1, 6), ylabel="accuracy")  # room for a legend
    diagram.tick_params(labelbottom=False)
    error = expected_calibration_error(probabilities, labels)
    diagram.set_title(f"Reliability, expected calibration error {error:.3f}")
    diagram.legend(loc="upper left", frameon=False)
    histogram.bar(left, counts, width, align="edge", color="0.7", edgecolor="white")
    histogram.set(xlabel="confidence: probability of the likeliest class", ylabel="clips")


def _draw_coverage(axes: matplotlib.axes.Axes, probabilities: np.ndarray, labels: np.ndarray) -> None:
    levels, coverage, risk = risk_coverage(probabilities, labels)
    axes.plot(coverage, 1 - risk, color="tab:blue", label="accuracy of the answers")
    axes.plot(coverage, levels, color="tab:orange", linestyle="--", label="least confidence that is answered")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="share of the clips that are answered")
    axes.set_title("Answers to the most confident clips alone")
    axes.legend(loc="lower left", frameon=False)
