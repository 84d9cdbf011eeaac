"""What a run reports: a table of results for the terminal and the file of predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from modeling_ser_mtl.data.dataset import encode_labels
from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.evaluation.calibration import abstains, expected_calibration_error
from modeling_ser_mtl.evaluation.metrics import Predictions, emotion_metrics

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


def set_title(name: str, table: pd.DataFrame, train: pd.DataFrame | None) -> str:
    """
    What a set is, in one line: its clips, its speakers, and how many of these were trained on where that is known.

    Args:
        name (`str`): `validation` or `test`.
        table (`pd.DataFrame`): the set, with `speaker`.
        train (`pd.DataFrame`, *optional*): the training set; None where the run doesn't train.
    """
    speakers = set(table["speaker"])
    title = f"{name} set: {len(table)} clips of {len(speakers - {''})} known speakers"
    trained = set() if train is None else set(train["speaker"])
    if shared := (speakers & trained) - {""}:
        return f"{title}, {len(shared)} of them in training"
    # A clip of nobody known may be of any of them.
    return title if train is None or "" in speakers | trained else f"{title}, none of them in training"


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
    min_confidence: float = 0.0,
) -> pd.DataFrame:
    """
    Writes one CSV row per clip: `audio`; `emotion`, `emotion_score` and `p_<class>` (probabilities); `gender`; `text`
    (decoded); then the manifest's other columns as `true_<name>`. Columns of tasks that the model lacks are left out.
    Above a `min_confidence` of 0, `emotion_abstained` says (True or False) where no emotion should be read from the
    clip. Returns what it wrote.

    Args:
        path (`str` or `Path`): the CSV file to write.
        table (`pd.DataFrame`): the split's manifest, N rows of strings in clip order.
        predictions ([`Predictions`]): the model's predictions for the same N clips.
        emotion_labels (`Sequence[str]`): emotion names in the order of the model's classes.
        gender_labels (`Sequence[str]`): gender names in the order of the model's classes.
        min_confidence (`float`, *optional*, defaults to 0): probability of the likeliest emotion below which the model
            abstains.

    Raises:
        `ValueError`: when table and predictions are not about the same clips in the same order.
    """
    if table["audio"].tolist() != predictions.audio:
        raise ValueError("the manifest's rows and the predictions are not the same clips in the same order")
    columns: dict[str, Sequence | np.ndarray] = {"audio": predictions.audio}
    if (probabilities := predictions.emotion_probabilities) is not None:
        columns["emotion"] = [emotion_labels[index] for index in probabilities.argmax(axis=1)]
        columns["emotion_score"] = probabilities.max(axis=1)
        if min_confidence > 0:
            columns["emotion_abstained"] = abstains(probabilities, min_confidence)
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


@dataclass(frozen=True)
class EmotionPredictions:
    """
    The emotions of a file of predictions.

    Args:
        table (`pd.DataFrame`): its N rows of strings.
        names (`list[str]`): the model's C emotions.
        probabilities (`np.ndarray` of shape `(N, C)`): probability of each, rounded as in the file.
        labels (`np.ndarray` of shape `(N,)`, int): true emotions, -100 where unknown.
    """

    table: pd.DataFrame
    names: list[str]
    probabilities: np.ndarray
    labels: np.ndarray


def read_emotion_predictions(path: str | Path) -> EmotionPredictions:
    """
    Reads what [`write_predictions`] wrote of the emotions.

    Args:
        path (`str` or `Path`): `predictions.csv` of a run.

    Raises:
        InputError: there is no such file, or it has no emotions.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; give the folder of a finished run with --do_predict")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    names = [column.removeprefix("p_") for column in table.columns if column.startswith("p_")]
    if not names or "true_emotion" not in table:
        raise InputError(f"{path}: has no columns p_<emotion> and true_emotion; give a run that predicts emotions")
    probabilities = table[[f"p_{name}" for name in names]].astype(float).to_numpy()
    return EmotionPredictions(table, names, probabilities, encode_labels(table["true_emotion"], names))


def average_predictions(runs: Sequence[EmotionPredictions]) -> EmotionPredictions:
    """
    An ensemble: the mean of the probabilities of several runs.

    Args:
        runs (`Sequence[EmotionPredictions]`): one or more, of the same clips and emotions in the same order.

    Returns:
        `EmotionPredictions`: its table has the columns `audio`, `emotion`, `emotion_score` and `p_<emotion>`, and those
        of the manifest.

    Raises:
        InputError: the runs have other clips or emotions; names the position of the first such run, from 1.
    """
    first = runs[0]
    for position, run in enumerate(runs, start=1):
        if run.names != first.names or list(run.table["audio"]) != list(first.table["audio"]):
            raise InputError(
                f"run {position} of the ensemble: has other emotions or clips than the first; give runs of one test "
                "set and the same emotions"
            )
    probabilities = np.mean([run.probabilities for run in runs], axis=0)
    emotions = [first.names[index] for index in probabilities.argmax(axis=1)]
    columns = {"audio": first.table["audio"], "emotion": emotions, "emotion_score": probabilities.max(axis=1)}
    columns |= {f"p_{name}": probabilities[:, index] for index, name in enumerate(first.names)}
    own = first.table[[name for name in first.table if name.startswith("true_")]]
    return EmotionPredictions(pd.DataFrame(columns).join(own), first.names, probabilities, first.labels)


def known_emotion_metrics(predictions: EmotionPredictions) -> dict[str, float]:
    """
    What an ensemble or a run is worth over the clips whose emotion is known.

    Args:
        predictions (`EmotionPredictions`): of N clips.

    Returns:
        `dict[str, float]`: the metrics of [`~metrics.emotion_metrics`] and `emotion_ece`, all in [0, 1]; empty without
        a label.
    """
    known = predictions.labels >= 0
    if not known.any():
        return {}
    metrics = emotion_metrics(predictions.probabilities, predictions.labels, {}, predictions.names)
    ece = expected_calibration_error(predictions.probabilities[known], predictions.labels[known])
    return metrics | {"emotion_ece": ece}
