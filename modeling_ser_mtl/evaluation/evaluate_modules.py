"""Local `evaluate` metrics over scikit-learn and jiwer: unlike `evaluate.load`, they need no network."""

import tempfile
from collections.abc import Sequence

import evaluate
import jiwer
import numpy as np
from datasets import Features, Value
from sklearn.metrics import accuracy_score, f1_score, recall_score


class LocalMetric(evaluate.Metric):
    """An `evaluate.Metric` that keeps its data in memory: processes on one machine share no cache file and no lock."""

    def __init__(self) -> None:
        # `evaluate` creates its (here unused) cache folder in any case, and the user's cache may be read-only.
        super().__init__(keep_in_memory=True, cache_dir=tempfile.gettempdir())


class ClassificationMetric(LocalMetric):
    """
    Macro-F1, unweighted average recall (UAR), accuracy and F1 per class.

    Averages run over the classes that occur in the references: a class without clips counts neither as 0 nor as 1.

    Args of `compute`:
        predictions (`Sequence[int]` of length N): predicted classes.
        references (`Sequence[int]` of length N): true classes, all known; N is 1 or more.
        class_names (`Sequence[str]` of length C): name of every class.

    Returns of `compute`:
        `dict[str, float]`: `macro_f1`, `uar`, `accuracy` and, for every class in the references, `f1_<class>`; all in
        [0, 1].

    Examples:
        >>> ClassificationMetric().compute(predictions=[0, 1, 1], references=[0, 0, 1], class_names=["calm", "angry"])
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Macro-F1, unweighted average recall, accuracy and F1 per class.",
            citation="",
            inputs_description="predictions, references: class ids (N,); class_names: name of every class id.",
            features=Features({"predictions": Value("int64"), "references": Value("int64")}),
        )

    def _compute(self, predictions: list[int], references: list[int], class_names: Sequence[str]) -> dict[str, float]:
        present = np.unique(references)
        f1 = f1_score(references, predictions, labels=present, average=None, zero_division=0)
        uar = recall_score(references, predictions, labels=present, average="macro", zero_division=0)
        return {
            "macro_f1": float(f1.mean()),
            "uar": float(uar),
            "accuracy": float(accuracy_score(references, predictions)),
            **{f"f1_{class_names[class_id]}": float(score) for class_id, score in zip(present, f1, strict=True)},
        }


class TranscriptMetric(LocalMetric):
    """
    Word and character error rate (WER, CER): edits over the whole set divided by its reference words or characters.

    Args of `compute`:
        predictions (`Sequence[str]` of length N): decoded transcripts.
        references (`Sequence[str]` of length N): true transcripts, none empty.

    Returns of `compute`:
        `dict[str, float]`: `wer` and `cer`, each at least 0, and above 1 when insertions prevail.

    Examples:
        >>> TranscriptMetric().compute(predictions=["it is cold"], references=["it was cold"])
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Word error rate and character error rate.",
            citation="",
            inputs_description="predictions: decoded transcripts (N,); references: true transcripts (N,), none empty.",
            features=Features({"predictions": Value("string"), "references": Value("string")}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"wer": float(jiwer.wer(references, predictions)), "cer": float(jiwer.cer(references, predictions))}
