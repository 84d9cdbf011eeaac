"""How far a probability can be trusted, and what makes it more so: pure functions of arrays."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from modeling_ser_mtl.evaluation.evaluate_modules import ClassificationMetric
from modeling_ser_mtl.modeling_ser_mtl import calibrated_probabilities

NUM_BINS = 15  # as in Guo et al.
# Temperatures that are looked at: from probabilities of 1 to those of chance.
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.1, 10.0
PRIOR_CORRECTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
SMALLEST_PROBABILITY = np.finfo(np.float64).tiny


def clip_probabilities(
    logits: np.ndarray,
    clip_index: np.ndarray,
    temperature: float = 1.0,
    class_counts: Sequence[int] | None = None,
    prior_correction: float = 0.0,
) -> np.ndarray:
    """
    Probabilities of whole clips: the mean over the windows of each. The last three arguments are those of
    [`~modeling_ser_mtl.calibrated_probabilities`]; the defaults give the plain softmax.

    Args:
        logits (`np.ndarray` of shape `(W, C)`): logits of all windows.
        clip_index (`np.ndarray` of shape `(W,)`, int): the clip of each window, from 0; every clip has one.
        temperature (`float`): above 0.
        class_counts (`Sequence[int]` of length C, *optional*): training clips per class.
        prior_correction (`float`): 0 or more.

    Returns:
        `np.ndarray` of shape `(N, C)`, float64: rows of sum 1.
    """
    windows = calibrated_probabilities(
        torch.from_numpy(logits.astype(np.float64)), temperature, class_counts, prior_correction
    ).numpy()
    num_windows = np.bincount(clip_index)
    total = np.zeros((len(num_windows), logits.shape[1]))
    np.add.at(total, clip_index, windows)
    return total / num_windows[:, None]


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """
    Mean of -log p of the true class, at least 0; a p of 0 counts as the smallest float64.

    Args:
        probabilities (`np.ndarray` of shape `(N, C)`): one row per clip, N is 1 or more.
        labels (`np.ndarray` of shape `(N,)`, int): true classes, all known.
    """
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(true, SMALLEST_PROBABILITY)).mean())


def fit_temperature(logits: np.ndarray, clip_index: np.ndarray, labels: np.ndarray) -> float:
    """
    The temperature with the lowest [`negative_log_likelihood`] of the clips (Guo et al., ICML 2017), whose windows'
    probabilities are averaged at each temperature.

    Args:
        logits (`np.ndarray` of shape `(W, C)`), clip_index (`np.ndarray` of shape `(W,)`, int): as in
            [`clip_probabilities`], of clips that did not train.
        labels (`np.ndarray` of shape `(N,)`, int): true class of each clip, -100 where unknown; one or more are known.

    Returns:
        `float`: between .1 and 10. At either end the clips determine none: at .1 all are recognised, at 10 none is
        better than by chance.
    """
    known = labels >= 0

    def objective(log_temperature: float) -> float:
        probabilities = clip_probabilities(logits, clip_index, float(np.exp(log_temperature)))
        return negative_log_likelihood(probabilities[known], labels[known])

    # Of windows that are averaged the objective may have several minima: the best of a grid, then the one beside it.
    grid = np.linspace(np.log(LOWEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE), 41)
    best = int(np.argmin([objective(point) for point in grid]))
    if best in (0, len(grid) - 1):
        return LOWEST_TEMPERATURE if best == 0 else HIGHEST_TEMPERATURE
    found = minimize_scalar(objective, bounds=(grid[best - 1], grid[best + 1]), method="bounded")
    return float(np.exp(found.x))


def choose_prior_correction(
    logits: np.ndarray, clip_index: np.ndarray, labels: np.ndarray, temperature: float, class_counts: Sequence[int]
) -> float:
    """
    The exponent among 0, .25, .5, .75 and 1 with the highest Macro-F1 of the clips, the smallest of equal ones.

    Args:
        logits (`np.ndarray` of shape `(W, C)`), clip_index (`np.ndarray` of shape `(W,)`, int), labels (`np.ndarray` of
            shape `(N,)`, int): as in [`fit_temperature`].
        temperature (`float`): above 0.
        class_counts (`Sequence[int]` of length C): training clips per class.
    """
    known = labels >= 0

    def macro_f1(exponent: float) -> float:
        probabilities = clip_probabilities(logits, clip_index, temperature, class_counts, exponent)[known]
        scores = ClassificationMetric().compute(
            predictions=probabilities.argmax(1), references=labels[known], class_names=range(logits.shape[1])
        )
        return scores["macro_f1"]

    return max(PRIOR_CORRECTIONS, key=macro_f1)


def reliability(
    probabilities: np.ndarray, labels: np.ndarray, num_bins: int = NUM_BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Clips by the probability of their likeliest class, their confidence, in bins of equal width: ((m - 1) / M, m / M].

    Args:
        probabilities (`np.ndarray` of shape `(N, C)`): one row per clip, N is 1 or more.
        labels (`np.ndarray` of shape `(N,)`, int): true classes, all known.
        num_bins (`int`, *optional*, defaults to 15): M.

    Returns:
        `tuple[np.ndarray, np.ndarray, np.ndarray]`: of each bin, all `(M,)`, the number of clips, their mean confidence
        and their accuracy; the last two are NaN for a bin without clips.
    """
    confidence, right = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == labels
    bins = np.digitize(confidence, np.arange(1, num_bins) / num_bins, right=True)
    counts = np.bincount(bins, minlength=num_bins)
    sums = (np.bincount(bins, weights=values, minlength=num_bins) for values in (confidence, right))
    means = [np.divide(total, counts, out=np.full(num_bins, np.nan), where=counts > 0) for total in sums]
    return counts, means[0], means[1]


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """
    Expected calibration error: mean over the clips of |accuracy - mean confidence| of their bin, in [0, 1].

    Args:
        probabilities (`np.ndarray` of shape `(N, C)`), labels (`np.ndarray` of shape `(N,)`, int), num_bins (`int`,
            *optional*, defaults to 15): as in [`reliability`].
    """
    counts, confidence, accuracy = reliability(probabilities, labels, num_bins)
    return float(np.nansum(counts * np.abs(accuracy - confidence)) / counts.sum())


def abstains(probabilities: np.ndarray, min_confidence: float) -> np.ndarray:
    """
    Clips whose likeliest class is less probable than `min_confidence`, bool `(N,)`.

    Args:
        probabilities (`np.ndarray` of shape `(N, C)`): one row per clip.
        min_confidence (`float`): in [0, 1].
    """
    return probabilities.max(1) < min_confidence


def risk_coverage(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Share of wrong answers if only the clips with the highest confidence are answered, for every number of them (Geifman
    & El-Yaniv, NeurIPS 2017). Clips of equal confidence are answered together.

    Args:
        probabilities (`np.ndarray` of shape `(N, C)`): one row per clip, N is 1 or more.
        labels (`np.ndarray` of shape `(N,)`, int): true classes, all known.

    Returns:
        `tuple[np.ndarray, np.ndarray, np.ndarray]`: the K different confidences, the highest first, and at each as
        `min_confidence` the coverage (share of clips answered, up to 1) and the risk (share of these that is wrong);
        all `(K,)`.
    """
    confidence, wrong = probabilities.max(1), probabilities.argmax(1) != labels
    levels, place, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    answered = counts.cumsum()
    return -levels, answered / len(labels), np.bincount(place, weights=wrong).cumsum() / answered
