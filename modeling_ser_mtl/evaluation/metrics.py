"""Metrics of the four tasks over the predictions for a whole split."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from modeling_ser_mtl.evaluation.calibration import (
    abstains,
    clip_probabilities,
    expected_calibration_error,
    negative_log_likelihood,
)
from modeling_ser_mtl.evaluation.evaluate_modules import ClassificationMetric, TranscriptMetric
from modeling_ser_mtl.evaluation.verification import Trials, draw_trials, verification_metrics

UNKNOWN = -100


@dataclass
class Predictions:
    """
    What the model says about the N clips of a split, with what is known about them, in clip order.

    Args:
        emotion_probabilities (`np.ndarray` of shape `(N, C)`, *optional*): probability of each emotion; None without
            the task, here and below.
        emotion_labels (`np.ndarray` of shape `(N,)`, int): -100 where unknown.
        gender_probabilities (`np.ndarray` of shape `(N, G)`, *optional*): probability of each gender.
        gender_labels (`np.ndarray` of shape `(N,)`, int): -100 where unknown.
        speaker_embeddings (`np.ndarray` of shape `(N, D)`, *optional*): embeddings that cosine similarity compares.
        speakers (`list[str]` of length N): the speaker, "" where unknown.
        corpora (`list[str]` of length N): the corpus.
        genders (`list[str]` of length N): the true gender's name, "" where unknown.
        audio (`list[str]` of length N): the manifest's `audio` column.
        transcripts (`list[str]` of length N, *optional*): decoded transcripts.
        references (`list[str]` of length N): true transcripts, "" where unknown.
        losses (`dict[str, np.ndarray]`): loss of each clip, of shape `(N,)`, by task; NaN where a clip has no label.
        emotion_embeddings (`np.ndarray` of shape `(N, D)`, *optional*): embeddings on which SWFC acts.
        emotion_logits (`np.ndarray` of shape `(W, C)`, *optional*): emotion logits of all windows of the clips.
        clip_index (`np.ndarray` of shape `(W,)`, int, *optional*): the clip of each window.
    """

    emotion_probabilities: np.ndarray | None
    emotion_labels: np.ndarray
    gender_probabilities: np.ndarray | None
    gender_labels: np.ndarray
    speaker_embeddings: np.ndarray | None
    speakers: list[str]
    corpora: list[str]
    genders: list[str]
    audio: list[str]
    transcripts: list[str] | None
    references: list[str]
    losses: dict[str, np.ndarray] = field(default_factory=dict)
    emotion_embeddings: np.ndarray | None = None
    emotion_logits: np.ndarray | None = None
    clip_index: np.ndarray | None = None


def compute_metrics(
    predictions: Predictions,
    *,
    emotion_labels: Sequence[str],
    gender_labels: Sequence[str],
    seed: int = 42,
    trials: Trials | None = None,
    min_confidence: float = 0.0,
) -> dict[str, float]:
    """
    Computes every metric that the split has data for; a metric without data is absent.

    Args:
        predictions ([`Predictions`]): the whole split.
        emotion_labels (`Sequence[str]` of length C): emotion names in the order of the model's classes.
        gender_labels (`Sequence[str]` of length G): gender names in the order of the model's classes.
        seed (`int`, *optional*, defaults to 42): seed of the drawn verification trials.
        min_confidence (`float`, *optional*, defaults to 0): see [`answered_metrics`]; 0 leaves them out.
        trials (`tuple(np.ndarray, np.ndarray)`, *optional*): given trials, see
            [`~evaluation.verification.read_trials`]; else pairs within a corpus are drawn.

    Returns:
        `dict[str, float]`, without prefix: `emotion_macro_f1`, `emotion_uar`, `emotion_accuracy`, `emotion_f1_<class>`,
        `emotion_uar_<gender>`, `emotion_uar_<corpus>` (several corpora only), `emotion_ece` and `emotion_nll`
        (calibration error and mean negative log-likelihood of the probabilities), `emotion_ece_uncalibrated` (of the
        softmax of the logits), those of [`answered_metrics`], `gender_uar`, `gender_accuracy`, `speaker_eer`,
        `speaker_min_dcf`, `asr_wer`, `asr_cer` and `loss_<task>`. Rates lie in [0, 1], but WER and CER may exceed 1.
        Macro averages run over the classes that occur in the labels.
    """
    metrics: dict[str, float] = {}
    if predictions.emotion_probabilities is not None:
        groups = _groups(predictions.corpora, predictions.genders)
        metrics |= emotion_metrics(
            predictions.emotion_probabilities, predictions.emotion_labels, groups, class_names=emotion_labels
        )
        metrics |= calibration_metrics(predictions)
        if min_confidence > 0:
            metrics |= answered_metrics(
                predictions.emotion_probabilities, predictions.emotion_labels, min_confidence, emotion_labels
            )
    if predictions.gender_probabilities is not None:
        scores = _classification(predictions.gender_probabilities, predictions.gender_labels, gender_labels)
        metrics |= {f"gender_{name}": scores[name] for name in ("uar", "accuracy") if name in scores}
    if predictions.speaker_embeddings is not None:
        pairs, targets = trials or draw_trials(predictions.speakers, predictions.corpora, seed=seed)
        metrics |= verification_metrics(predictions.speaker_embeddings, pairs, targets)
    if predictions.transcripts is not None:
        metrics |= asr_metrics(predictions.transcripts, predictions.references)
    for task, losses in predictions.losses.items():
        if not np.isnan(losses).all():
            metrics[f"loss_{task}"] = float(np.nanmean(losses, dtype=np.float64))
    return metrics


def emotion_metrics(
    probabilities: np.ndarray, labels: np.ndarray, groups: dict[str, np.ndarray], class_names: Sequence[str]
) -> dict[str, float]:
    """
    Metrics of the emotion task.

    Args:
        probabilities (`np.ndarray` of shape `(N, C)`): probability of each emotion.
        labels (`np.ndarray` of shape `(N,)`, int): emotions, -100 where unknown.
        groups (`dict[str, np.ndarray]`): by name, the mask of a group's clips, bool of shape `(N,)`.
        class_names (`Sequence[str]` of length C): emotion names in the order of the model's classes.

    Returns:
        `dict[str, float]`: `emotion_macro_f1`, `emotion_uar`, `emotion_accuracy` and `emotion_f1_<class>` of the whole
        split, `emotion_uar_<group>` of each group; all in [0, 1]. What has no labelled clip is absent.
    """
    metrics = _classification(probabilities, labels, class_names)
    for name, members in groups.items():
        scores = _classification(probabilities[members], labels[members], class_names)
        if scores:
            metrics[f"uar_{name}"] = scores["uar"]
    return {f"emotion_{name}": value for name, value in metrics.items()}


def calibration_metrics(predictions: Predictions) -> dict[str, float]:
    """
    What the emotion probabilities of `predictions` are worth over the clips whose emotion is known.

    Returns:
        `dict[str, float]`: `emotion_ece`, in [0, 1], and `emotion_nll`, at least 0, see [`~evaluation.calibration`];
        `emotion_ece_uncalibrated` where there are logits; empty without a label.
    """
    probabilities, labels = predictions.emotion_probabilities, predictions.emotion_labels
    known = labels != UNKNOWN
    if probabilities is None or not known.any():
        return {}
    metrics = {
        "emotion_ece": expected_calibration_error(probabilities[known], labels[known]),
        "emotion_nll": negative_log_likelihood(probabilities[known], labels[known]),
    }
    if predictions.emotion_logits is not None and predictions.clip_index is not None:
        uncalibrated = clip_probabilities(predictions.emotion_logits, predictions.clip_index)
        metrics["emotion_ece_uncalibrated"] = expected_calibration_error(uncalibrated[known], labels[known])
    return metrics


def answered_metrics(
    probabilities: np.ndarray, labels: np.ndarray, min_confidence: float, class_names: Sequence[str]
) -> dict[str, float]:
    """
    Metrics of a model that abstains where its likeliest emotion is less probable than `min_confidence`.

    Args:
        probabilities (`np.ndarray` of shape `(N, C)`), labels (`np.ndarray` of shape `(N,)`, int): as in
            [`emotion_metrics`].
        class_names (`Sequence[str]` of length C): emotion names in the order of the model's classes.
        min_confidence (`float`): in [0, 1].

    Returns:
        `dict[str, float]`: `emotion_coverage`, the share of the labelled clips that are answered, and over these
        `emotion_uar_answered`, `emotion_macro_f1_answered` and `emotion_accuracy_answered`; all in [0, 1]. What has no
        such clip is absent.
    """
    known = labels != UNKNOWN
    if not known.any():
        return {}
    answered = ~abstains(probabilities, min_confidence)
    scores = _classification(probabilities[answered], labels[answered], class_names)
    kept = {f"emotion_{name}_answered": scores[name] for name in ("uar", "macro_f1", "accuracy") if name in scores}
    return {"emotion_coverage": float(answered[known].mean()), **kept}


def embedding_similarity(embeddings: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    r"""
    Mean cosine similarity of the pairs of different clips of the same class, and of the pairs of different classes:

        within = (sum_c ||S_c||^2 - sum_i ||z_i||^2) / sum_c n_c (n_c - 1)
        between = (||sum_c S_c||^2 - sum_c ||S_c||^2) / (N^2 - sum_c n_c^2)

    with z_i = f_i / ||f_i|| and S_c the sum of z over the n_c clips of class c, so that no N x N matrix is needed.

    Args:
        embeddings (`np.ndarray` of shape `(N, D)`): one embedding f per clip, of any length; a zero one has similarity
            0 to every other.
        labels (`np.ndarray` of shape `(N,)`, int): classes; a clip labelled -100 does not count.

    Returns:
        `tuple(float, float)`: within and between classes, each in [-1, 1]; NaN where there is no such pair.
    """
    known = labels != UNKNOWN
    vectors = embeddings[known].astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.maximum(norms, np.finfo(norms.dtype).tiny)
    _, classes, sizes = np.unique(labels[known], return_inverse=True, return_counts=True)
    sums = np.zeros((len(sizes), vectors.shape[1]))
    np.add.at(sums, classes, vectors)

    of_all, of_classes = np.square(sums.sum(axis=0)).sum(), np.square(sums).sum()
    num_all, num_classes = sizes.sum() ** 2, np.square(sizes).sum()
    within, num_within = of_classes - np.square(vectors).sum(), num_classes - sizes.sum()
    between, num_between = of_all - of_classes, num_all - num_classes
    return (
        float(within / num_within) if num_within else float("nan"),
        float(between / num_between) if num_between else float("nan"),
    )


def asr_metrics(transcripts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """
    Error rates of the ASR task over the clips that have a reference transcript.

    Args:
        transcripts (`Sequence[str]` of length N): decoded transcripts.
        references (`Sequence[str]` of length N): true transcripts, "" where unknown.

    Returns:
        `dict[str, float]`: `asr_wer` and `asr_cer`, at least 0; empty without a reference.
    """
    known = [index for index, reference in enumerate(references) if reference.strip()]
    if not known:
        return {}
    rates = TranscriptMetric().compute(
        predictions=[transcripts[index] for index in known], references=[references[index] for index in known]
    )
    return {f"asr_{name}": value for name, value in rates.items()}


def _groups(corpora: Sequence[str], genders: Sequence[str]) -> dict[str, np.ndarray]:
    """Masks of the clips of each corpus, if there are several, and of each gender; corpus names in [a-z0-9_]."""
    slugs = np.array([re.sub("[^a-z0-9]+", "_", corpus.lower()) for corpus in corpora], dtype=str)
    by_corpus = {str(slug): slugs == slug for slug in np.unique(slugs)}
    names = np.array(genders, dtype=str)
    by_gender = {str(name): names == name for name in np.unique(names) if name}
    return by_gender if len(by_corpus) == 1 else by_corpus | by_gender


def _classification(probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    """Scores of the likeliest class over the clips whose label is known; empty without any."""
    known = labels != UNKNOWN
    if not known.any():
        return {}
    return ClassificationMetric().compute(
        predictions=probabilities[known].argmax(axis=1), references=labels[known], class_names=class_names
    )
