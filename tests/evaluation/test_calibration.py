import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import norm
from sklearn.metrics import f1_score, log_loss

from modeling_ser_mtl.evaluation.calibration import (
    abstains,
    choose_prior_correction,
    clip_probabilities,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    risk_coverage,
)

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 10_000)


def random_clips(seed: int, num_clips: int = 40, num_classes: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of one to three windows a clip, the clip of each window, and labels that follow them, some unknown."""
    rng = np.random.default_rng(seed)
    clip_index = np.repeat(np.arange(num_clips), rng.integers(1, 4, num_clips))
    logits = 2 * rng.standard_normal((len(clip_index), num_classes))
    labels = np.array([rng.choice(num_classes, p=row) for row in slow_probabilities(logits, clip_index, 2.0)])
    labels[rng.random(num_clips) < 0.2] = -100
    return logits, clip_index, labels


def slow_probabilities(logits: np.ndarray, clip_index: np.ndarray, temperature: float) -> np.ndarray:
    rows = []
    for clip in range(clip_index.max() + 1):
        windows = [softmax(row / temperature) for row, owner in zip(logits, clip_index, strict=True) if owner == clip]
        rows.append(sum(windows) / len(windows))
    return np.array(rows)


def slow_ece(probabilities: np.ndarray, labels: np.ndarray, num_bins: int) -> float:
    total = 0.0
    for m in range(1, num_bins + 1):
        bin_ = [
            (max(row), int(np.argmax(row) == label))
            for row, label in zip(probabilities.tolist(), labels, strict=True)
            if (m - 1) / num_bins < max(row) <= m / num_bins
        ]
        if bin_:
            confidence, right = (sum(values) / len(bin_) for values in zip(*bin_, strict=True))
            total += len(bin_) / len(labels) * abs(right - confidence)
    return total


@few
@given(seed=seeds, temperature=st.floats(0.3, 5))
def test_probabilities_of_a_clip_are_the_mean_over_its_windows_of_the_softmax_at_the_temperature(seed, temperature):
    logits, clip_index, _ = random_clips(seed)
    expected = slow_probabilities(logits, clip_index, temperature)
    np.testing.assert_allclose(clip_probabilities(logits, clip_index, temperature), expected, atol=1e-12)


@few
@given(seed=seeds, num_bins=st.integers(1, 20), size=st.integers(1, 60))
def test_the_calibration_error_equals_a_loop_over_bins_and_clips(seed, num_bins, size):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(3, 0.5), size)
    labels = rng.integers(0, 3, size)
    expected = slow_ece(probabilities, labels, num_bins)
    assert expected_calibration_error(probabilities, labels, num_bins) == pytest.approx(expected, abs=1e-12)


def test_a_confidence_on_the_edge_of_two_bins_belongs_to_the_lower_and_certainty_to_the_last():
    probabilities = np.array([[0.6, 0.4], [0.61, 0.39], [1.0, 0.0]])
    counts, confidence, accuracy = reliability(probabilities, np.array([0, 1, 0]), num_bins=5)
    np.testing.assert_array_equal(counts, [0, 0, 1, 1, 1])
    np.testing.assert_allclose(confidence, [np.nan, np.nan, 0.6, 0.61, 1.0])
    np.testing.assert_allclose(accuracy, [np.nan, np.nan, 1.0, 0.0, 1.0])


def test_the_calibration_error_is_0_where_confidence_is_accuracy_and_large_where_it_is_not():
    right = np.arange(100) < 80
    probabilities = np.tile([0.8, 0.2], (100, 1))
    assert expected_calibration_error(probabilities, np.where(right, 0, 1)) == pytest.approx(0)
    assert expected_calibration_error(probabilities, np.where(right, 1, 0)) == pytest.approx(0.6)


@few
@given(seed=seeds)
def test_the_likelihood_equals_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    probabilities, labels = rng.dirichlet(np.ones(4), 30), rng.integers(0, 4, 30)
    expected = log_loss(labels, probabilities, labels=range(4))
    assert negative_log_likelihood(probabilities, labels) == pytest.approx(expected)


def test_a_probability_of_0_for_the_true_class_is_a_finite_loss():
    assert 700 < negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1])) < 710


@few
@given(seed=seeds)
def test_no_temperature_of_a_fine_grid_has_a_lower_loss_than_the_fitted_one(seed):
    logits, clip_index, labels = random_clips(seed)
    known = labels >= 0

    def loss(temperature: float) -> float:
        return log_loss(labels[known], slow_probabilities(logits, clip_index, temperature)[known], labels=range(4))

    grid = np.geomspace(0.1, 10, 60)
    fitted = fit_temperature(logits, clip_index, labels)
    assert 0.1 <= fitted <= 10
    assert loss(fitted) <= min(map(loss, grid)) + 1e-6


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_at_is_found_again(temperature):
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((20_000, 4))
    probabilities = softmax(logits / temperature, axis=1)
    labels = (probabilities.cumsum(1) < rng.random((len(logits), 1))).sum(1)
    clips = np.arange(len(logits))
    assert fit_temperature(logits, clips, labels) == pytest.approx(temperature, rel=0.04)
    calibrated = clip_probabilities(logits, clips, temperature)
    assert expected_calibration_error(calibrated, labels) < 0.01
    if temperature != 1:
        assert expected_calibration_error(clip_probabilities(logits, clips), labels) > 0.05


def test_clips_that_are_all_recognised_or_none_determine_no_temperature():
    logits, clips = np.tile([2.0, 0.0], (10, 1)), np.arange(10)
    assert fit_temperature(logits, clips, np.zeros(10, dtype=int)) == 0.1
    assert fit_temperature(logits, clips, np.ones(10, dtype=int)) == 10.0


@few
@given(seed=seeds, exponent=st.floats(0, 2), temperature=st.floats(0.3, 5))
def test_the_prior_correction_divides_by_a_power_of_the_class_counts(seed, exponent, temperature):
    rng = np.random.default_rng(seed)
    logits, counts = rng.standard_normal((9, 4)), rng.integers(1, 200, 4).tolist()
    corrected = clip_probabilities(logits, np.arange(9), temperature, counts, exponent)
    for row, found in zip(logits, corrected, strict=True):
        quotients = [p / n**exponent for p, n in zip(softmax(row / temperature), counts, strict=True)]
        np.testing.assert_allclose(found, np.array(quotients) / sum(quotients), rtol=1e-9)


def test_fully_corrected_probabilities_are_those_of_bayes_for_equally_frequent_classes():
    counts = np.array([90, 9, 1])
    x = np.linspace(-3, 5, 50)
    likelihood = norm.pdf(x[:, None], loc=[0.0, 1.0, 3.0])
    joint = likelihood * counts  # what a classifier of such training clips learns, up to a factor
    corrected = clip_probabilities(np.log(joint), np.arange(50), 1.0, counts.tolist(), 1.0)
    np.testing.assert_allclose(corrected, likelihood / likelihood.sum(1, keepdims=True), rtol=1e-9)


def test_a_class_without_training_clips_stays_possible():
    corrected = clip_probabilities(np.zeros((1, 3)), np.zeros(1, dtype=int), 1.0, [10, 0, 20], 1.0)[0]
    assert np.isfinite(corrected).all() and corrected[1] > 0
    assert corrected[0] / corrected[2] == pytest.approx(2)


@few
@given(seed=seeds)
def test_the_chosen_prior_correction_has_the_best_macro_f1_of_the_five_and_is_the_smallest_such(seed):
    logits, clip_index, labels = random_clips(seed)
    counts = [60, 25, 10, 5]
    logits = logits + np.log(counts)
    known = labels >= 0
    scores = {}
    for exponent in (0, 0.25, 0.5, 0.75, 1):
        predicted = clip_probabilities(logits, clip_index, 1.3, counts, exponent).argmax(1)
        present = np.unique(labels[known])
        scores[exponent] = f1_score(labels[known], predicted[known], labels=present, average="macro", zero_division=0)
    best = min(exponent for exponent, score in scores.items() if score == max(scores.values()))
    assert choose_prior_correction(logits, clip_index, labels, 1.3, counts) == best


@few
@given(seed=seeds, size=st.integers(1, 30))
def test_the_risk_at_each_confidence_is_that_of_abstaining_below_it(seed, size):
    rng = np.random.default_rng(seed)
    probabilities = np.round(rng.dirichlet(np.ones(3), size), 1)  # so that some are equal
    labels = rng.integers(0, 3, size)
    levels, coverage, risk = risk_coverage(probabilities, labels)
    assert sorted(set(probabilities.max(1)), reverse=True) == levels.tolist()
    for level, share, wrong in zip(levels, coverage, risk, strict=True):
        answered = ~abstains(probabilities, level)
        assert share == pytest.approx(answered.mean())
        assert wrong == pytest.approx((probabilities.argmax(1) != labels)[answered].mean())
    assert coverage[-1] == 1
