"""Draws when SWFC's focal factor acts: `python examples/plot_focal_factor.py docs/focal_factor.svg`."""

import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

FOCUS = 2.0
BATCH_SIZES = (8, 16, 32, 64, 128, 512)
TEMPERATURES = (0.05, 0.1, 0.2, 0.8)
DEFAULT, PUBLISHED = 0.1, (0.8, 1.4)
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "focal_factor",
    "font.size": 12,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 2,
}


def focal_factor(
    cosine: float | np.ndarray, temperature: float | np.ndarray, batch_size: int, num_positives: int = 1
) -> np.ndarray:
    """
    The factor `(1 - s) ** 2` of a pair of clips of the same class in a simple batch: the anchor has the same cosine
    similarity to each of its positives, and cosine 0, as random embeddings of many dimensions have, to all others.

    Args:
        cosine (`float` or `np.ndarray`): cosine similarity of the anchor to its positives, in [-1, 1].
        temperature (`float` or `np.ndarray`): tau, above .002.
        batch_size (`int`): clips in the batch, the anchor among them.
        num_positives (`int`, *optional*, defaults to 1): clips of the anchor's class, itself apart.
    """
    num_negatives = batch_size - 1 - num_positives
    s = 1 / (num_positives + num_negatives * np.exp(-np.asarray(cosine) / temperature))
    return (1 - s) ** FOCUS


def colors(name: str, number: int) -> np.ndarray:
    """That many colours from dark to light, short of the palest, which fade on white; `(number, 4)`."""
    return matplotlib.colormaps[name](np.linspace(0, 0.85, number))


def draw(path: Path) -> None:
    """Writes the figure; an SVG has the same bytes each time."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 5), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2, sharey=True)

        temperatures = np.geomspace(0.01, 5, 200)
        for batch_size, color in zip(BATCH_SIZES, colors("viridis", len(BATCH_SIZES)), strict=True):
            left.plot(temperatures, focal_factor(0.5, temperatures, batch_size), color=color, label=f"B {batch_size}")
        for temperature in (DEFAULT, *PUBLISHED):
            left.axvline(temperature, color="0.4", linewidth=1.5, linestyle=":")
        left.set(xscale="log", ylabel="focal factor (1 - s)²", ylim=(0, 1.02))
        left.set_xticks([0.01, 0.1, 0.8, 1.4, 5], ["0.01", "0.1", "0.8", "1.4", "5"])
        left.set_xlabel("temperature (dotted: default 0.1, published 0.8 and 1.4)")
        left.set_title("One positive at cosine 0.5, all others at 0")
        left.legend(loc="upper left", fontsize=11)

        cosines = np.linspace(-0.5, 1, 200)
        for temperature, color in zip(TEMPERATURES, colors("plasma", len(TEMPERATURES)), strict=True):
            right.plot(cosines, focal_factor(cosines, temperature, 32), color=color, label=f"temperature {temperature}")
            right.plot(cosines, focal_factor(cosines, temperature, 32, num_positives=3), color=color, linestyle="--")
        right.set_xlabel("cosine of the positive pair")
        right.set_title("B 32: one positive (solid), three alike (dashed)")
        right.legend(loc="lower left", fontsize=11)
        figure.savefig(path, metadata={"Date": None, "Creator": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/plot_focal_factor.py OUTPUT.svg")
    draw(Path(sys.argv[1]))
