"""Whether a difference between runs is more than chance: statistics over speakers, the independent units of a test."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

RESAMPLES = 9_999


def confusion_by_speaker(
    speakers: Sequence[str], references: Sequence[str], predictions: Sequence[str], classes: Sequence[str]
) -> dict[str, np.ndarray]:
    """
    Confusion matrices of the clips of each speaker.

    Args:
        speakers (`Sequence[str]` of length N): whose clip it is.
        references (`Sequence[str]` of length N): true class; a clip with another name than those in `classes` doesn't
            count.
        predictions (`Sequence[str]` of length N): predicted class.
        classes (`Sequence[str]` of length C): names in the order of the matrices.

    Returns:
        `dict[str, np.ndarray]`: by speaker, sorted, clips of true class i taken for class j, int of shape `(C, C)`.
    """
    index = {name: position for position, name in enumerate(classes)}
    matrices: dict[str, np.ndarray] = {}
    for speaker, reference, prediction in zip(speakers, references, predictions, strict=True):
        if reference in index:
            matrix = matrices.setdefault(speaker, np.zeros((len(classes), len(classes)), dtype=int))
            matrix[index[reference], index[prediction]] += 1
    return dict(sorted(matrices.items()))


def recalls(confusion: np.ndarray) -> np.ndarray:
    """Recall of each class, `(C,)`, NaN for a class without clips, from a matrix `confusion` `(C, C)`, rows true."""
    totals = confusion.sum(axis=1)
    return np.where(totals > 0, np.diag(confusion) / np.maximum(totals, 1), np.nan)


def unweighted_average_recall(confusion: np.ndarray) -> float:
    """Mean recall over the classes that have clips in `confusion` `(C, C)`, rows true."""
    return float(np.nanmean(recalls(confusion)))


def pair_confusion(confusion: np.ndarray) -> np.ndarray:
    """
    How often two classes are taken for each other.

    Args:
        confusion (`np.ndarray` of shape `(C, C)`): rows true, columns predicted.

    Returns:
        `np.ndarray` of shape `(C, C)`, symmetric: clips of either class that are taken for the other, as a share of the
        clips of both; 0 on the diagonal and where neither has clips.
    """
    totals = confusion.sum(axis=1)
    either = totals[:, None] + totals[None, :]
    rate = (confusion + confusion.T) / np.maximum(either, 1)
    np.fill_diagonal(rate, 0.0)
    return rate


def bootstrap_interval(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """
    Interval of the mean over speakers, by the bias-corrected and accelerated bootstrap (Efron, JASA 1987). Of
    fewer than ten or so it is too narrow.

    Args:
        values (`Sequence[float]`): one value per speaker, two or more.
        confidence (`float`): in (0, 1).
        seed (`int`): seed of the resampling.

    Returns:
        `tuple[float, float]`: lower and upper end; both the mean where all values are equal.
    """
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = stats.bootstrap(
        (np.asarray(values),), np.mean, confidence_level=confidence, n_resamples=RESAMPLES, rng=seed
    ).confidence_interval
    return float(found.low), float(found.high)


def paired_p_value(values: Mapping[str, float], others: Mapping[str, float], seed: int = 0) -> float:
    """
    Two-sided permutation test of two systems on the same speakers: how often exchanging them at random, speaker by
    speaker, makes the mean difference at least as large as it is.

    Args:
        values (`Mapping[str, float]`), others (`Mapping[str, float]`): value of each system by speaker, with the same
            speakers, two or more.
        seed (`int`): seed of the exchanges where there are more than 9,999 ways.

    Returns:
        `float`: in (0, 1].

    Raises:
        ValueError: the two have different speakers.
    """
    if values.keys() != others.keys():
        raise ValueError(f"speakers: {len(values)} against {len(others)}, or others; compare the same test speakers")
    found = stats.permutation_test(
        ([values[speaker] for speaker in values], [others[speaker] for speaker in values]),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=seed,
    )
    return float(found.pvalue)
