"""One page about a data set."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from .describe import TASK_COLUMNS, genders_of

STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "description"}
COLORS = ("tab:orange", "tab:blue", "tab:green", "tab:purple")
UNKNOWN = "0.75"
MAX_EMOTIONS = 16
MAX_CORPORA = 4
BINS = 40
BELOW_ONE = 0.7  # the foot of a logarithmic axis of counts


def draw_description(clips: pd.DataFrame) -> Figure:
    """
    Emotions by gender, label coverage, lengths, and clips per speaker.

    Args:
        clips (`pd.DataFrame`): one or more usable rows of [`~evaluation.describe.measure_clips`].

    Returns:
        `matplotlib.figure.Figure`: not yet drawn or saved.
    """
    genders = genders_of(clips)
    groups = {gender: clips[clips["gender"] == gender] for gender in genders}
    rest = clips[~clips["gender"].isin(genders)]
    colors = [*COLORS[: len(genders)]]
    if len(rest):
        groups["no gender" if (rest["gender"] == "").all() else "other"] = rest
        colors.append(UNKNOWN)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 7), layout="constrained", facecolor="white")
        panels = figure.subplots(2, 2, width_ratios=[1.5, 1])
        _draw_emotions(panels[0, 0], groups, colors)
        _draw_coverage(panels[0, 1], clips)
        _draw_lengths(panels[1, 0], groups, colors)
        _draw_speakers(panels[1, 1], groups, colors)
        hours, speakers = clips["seconds"].sum() / 3600, clips.loc[clips["speaker"] != "", "speaker"].nunique()
        corpora = clips["corpus"].unique()
        name = ", ".join(corpora) if len(corpora) <= MAX_CORPORA else f"{len(corpora)} corpora"
        figure.suptitle(f"{name}: {len(clips):,} clips, {hours:,.2f} hours, {speakers:,} speakers")
        if groups:
            figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """
    Writes a figure, the same bytes each time.

    Args:
        figure (`matplotlib.figure.Figure`): any.
        path (`Path`): the file, by its suffix SVG, PNG or PDF.

    Raises:
        OSError: it can't be written.
    """
    undated = {".svg": {"Date": None, "Creator": None}, ".pdf": {"CreationDate": None}}
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, metadata=undated.get(path.suffix))


def _draw_emotions(axes: matplotlib.axes.Axes, groups: dict[str, pd.DataFrame], colors: list[str]) -> None:
    counts = pd.DataFrame({name: group["emotion"].value_counts() for name, group in groups.items()}).fillna(0)
    order = counts.drop(index="", errors="ignore").sum(axis=1).sort_values(ascending=False, kind="stable").index
    counts = counts.reindex([*order[:MAX_EMOTIONS], *counts.index.intersection([""])]).rename(index={"": "(no label)"})
    left = np.zeros(len(counts))
    for (name, column), color in zip(counts.items(), colors, strict=True):
        bars = axes.barh(counts.index, column, left=left, color=color, label=name)
        left = left + column.to_numpy()
    axes.bar_label(bars, [f"{total:,.0f}" for total in left], padding=3)
    axes.set(xlim=(0, 1.12 * left.max()), xlabel="clips")
    axes.invert_yaxis()
    axes.set_title("Emotions")


def _draw_coverage(axes: matplotlib.axes.Axes, clips: pd.DataFrame) -> None:
    shares = [100 * (clips[column] != "").mean() for column in TASK_COLUMNS.values()]
    axes.barh(list(TASK_COLUMNS), [100] * len(shares), height=0.5, color="0.93")
    bars = axes.barh(list(TASK_COLUMNS), shares, height=0.5, color="0.45")
    axes.bar_label(bars, [f"{share:.3g} %" for share in shares], padding=3)
    axes.set(xlim=(0, 125), xticks=range(0, 101, 25), xlabel="% of the clips")
    axes.invert_yaxis()
    axes.set_title("Labels of each task")


def _draw_lengths(axes: matplotlib.axes.Axes, groups: dict[str, pd.DataFrame], colors: list[str]) -> None:
    seconds = [group["seconds"] for group in groups.values()]
    everything = pd.concat(seconds)
    # A few long clips shall not squeeze all others into one bar.
    end = min(everything.max(), 1.5 * everything.quantile(0.99))
    clipped = [values.clip(upper=end) for values in seconds]
    axes.hist(clipped, bins=BINS, range=(0, end), stacked=True, color=colors)
    axes.axvline(everything.median(), color="black", linestyle=":", linewidth=1)
    label = f" median {everything.median():.1f} s"
    axes.text(everything.median(), 1, label, va="top", transform=axes.get_xaxis_transform())
    beyond = int((everything > end).sum())
    axes.margins(y=0.15)
    axes.set(xlim=(0, end), ylabel="clips", xlabel="seconds" + f" (last bar: {beyond:,} longer)" * (beyond > 0))
    axes.set_title("Lengths")


def _draw_speakers(axes: matplotlib.axes.Axes, groups: dict[str, pd.DataFrame], colors: list[str]) -> None:
    start = 0
    for group, color in zip(groups.values(), colors, strict=True):
        counts = group.loc[group["speaker"] != "", "speaker"].value_counts().to_numpy()
        edges = np.arange(len(counts) + 1) + start
        axes.fill_between(edges, BELOW_ONE, np.append(counts, BELOW_ONE), step="post", color=color)
        start += len(counts)
    # A few clips and many thousand are both common, and one is a warning.
    axes.set(xlim=(0, max(start, 1)), yscale="log", xlabel="speakers, by gender", ylabel="clips")
    axes.set_ylim(BELOW_ONE, None if start else 1)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title("Clips per speaker")
