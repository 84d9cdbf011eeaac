"""What a run reports: a table of results for the terminal and the file of predictions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from modeling_ser_mtl.evaluation.metrics import Predictions

# Task, metric, and which values are better.
HEADLINE_METRICS = (
    ("emotion", "macro_f1", "higher"),
    ("emotion", "uar", "higher"),
    ("emotion", "accuracy", "higher"),
    ("gender", "uar", "higher"),
    ("gender", "accuracy", "higher"),
    ("speaker", "eer", "lower"),
    ("speaker", "min_dcf", "lower"),
    ("asr", "wer", "lower"),
    ("asr", "cer", "lower"),
)

# Columns that the data room adds to a manifest's own.
INTERNAL_COLUMNS = ("audio_path", "speaker", "manifest", "row")


def results_table(
    metrics: Mapping[str, float],
    prefix: str = "predict",
    title: str = "Results",
    counts: Mapping[str, int] | None = None,
) -> str:
    """
    A plain-text table of the tasks' main metrics; a metric that is absent has no row.

    Args:
        metrics (`Mapping[str, float]`): metrics with their prefix, e.g. `predict_emotion_macro_f1`.
        prefix (`str`, *optional*, defaults to `"predict"`): the prefix of the metrics to show.
        title (`str`, *optional*, defaults to `"Results"`): first line.
        counts (`Mapping[str, int]`, *optional*): number of labelled clips by task name; adds the column `clips`.

    Returns:
        `str`: lines of aligned columns, without a final newline.
    """
    rows = [["task", "metric", "value", "better"]]
    for task, metric, better in HEADLINE_METRICS:
        key = f"{prefix}_{task}_{metric}"
        if key in metrics:
            rows.append([task, key, f"{metrics[key]:.3f}", better])
    if counts is not None:
        rows = [[*row, "clips" if row is rows[0] else str(counts[row[0]])] for row in rows]

    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    # Numbers to the right, words to the left.
    alignments = ("<", "<", ">", "<", ">")
    lines = [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, alignments, widths, strict=False)).rstrip()
        for row in rows
    ]
    return "\n".join([title, *lines])


def write_predictions(
    path: str | Path,
    table: pd.DataFrame,
    predictions: Predictions,
    emotion_labels: Sequence[str],
    gender_labels: Sequence[str],
) -> pd.DataFrame:
    """
    Writes one CSV row per clip: `audio`; `emotion`, `emotion_score` and `p_<class>` (probabilities); `gender`; `text`
    (decoded); then the manifest's other columns as `true_<name>`. Columns of tasks that the model lacks are left out.
    Returns what it wrote.

    Args:
        path (`str` or `Path`): the CSV file to write.
        table (`pd.DataFrame`): the split's manifest, N rows of strings in clip order.
        predictions ([`Predictions`]): the model's predictions for the same N clips.
        emotion_labels (`Sequence[str]`): emotion names in the order of the model's classes.
        gender_labels (`Sequence[str]`): gender names in the order of the model's classes.

    Raises:
        `ValueError`: when table and predictions are not about the same clips in the same order.
    """
    if table["audio"].tolist() != predictions.audio:
        raise ValueError("the manifest's rows and the predictions are not the same clips in the same order")
    columns: dict[str, Sequence | np.ndarray] = {"audio": predictions.audio}
    if (probabilities := predictions.emotion_probabilities) is not None:
        columns["emotion"] = [emotion_labels[index] for index in probabilities.argmax(axis=1)]
        columns["emotion_score"] = probabilities.max(axis=1)
        columns |= {f"p_{name}": probabilities[:, index] for index, name in enumerate(emotion_labels)}
    if (probabilities := predictions.gender_probabilities) is not None:
        columns["gender"] = [gender_labels[index] for index in probabilities.argmax(axis=1)]
    if predictions.transcripts is not None:
        columns["text"] = predictions.transcripts
    own = [name for name in table.columns if name != "audio" and name not in INTERNAL_COLUMNS]
    columns |= {f"true_{name}": table[name].to_numpy() for name in own}
    written = pd.DataFrame(columns)
    written.to_csv(path, index=False, float_format="%.6f")
    return written
