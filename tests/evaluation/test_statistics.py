"""Statistics over speakers against slow formulas and known cases."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from modeling_ser_mtl.evaluation.statistics import (
    bootstrap_interval,
    confusion_by_speaker,
    pair_confusion,
    paired_p_value,
    recalls,
    unweighted_average_recall,
)

CLASSES = ["anger", "calm", "joy"]
clips = st.lists(
    st.tuples(st.sampled_from(["1", "2", "3"]), st.sampled_from([*CLASSES, ""]), st.sampled_from(CLASSES)), min_size=1
)


@given(clips)
@settings(max_examples=60, deadline=None)
def test_confusions_of_the_speakers_are_those_of_scikit_learn(rows) -> None:
    speakers, references, predictions = zip(*rows, strict=True)
    found = confusion_by_speaker(speakers, references, predictions, CLASSES)
    known = [row for row in rows if row[1]]
    assert list(found) == sorted({speaker for speaker, _, _ in known})
    for speaker, matrix in found.items():
        own = [(true, predicted) for name, true, predicted in known if name == speaker]
        np.testing.assert_array_equal(matrix, confusion_matrix(*zip(*own, strict=True), labels=CLASSES))


@given(clips.filter(lambda rows: any(true for _, true, _ in rows)))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_uar_is_the_balanced_accuracy_over_the_classes_that_occur(rows) -> None:
    known = [(true, predicted) for _, true, predicted in rows if true]
    matrix = confusion_matrix(*zip(*known, strict=True), labels=CLASSES)
    assert unweighted_average_recall(matrix) == pytest.approx(balanced_accuracy_score(*zip(*known, strict=True)))
    assert np.isnan(recalls(matrix)).tolist() == [name not in dict(known) for name in CLASSES]


def test_pairs_are_confused_as_counted_by_hand() -> None:
    rates = pair_confusion(np.array([[6, 3, 1], [2, 8, 0], [0, 0, 5]]))
    assert rates[0, 1] == rates[1, 0] == pytest.approx((3 + 2) / 20)
    assert rates[0, 2] == pytest.approx(1 / 15)
    assert rates[1, 2] == 0
    assert np.diag(rates).tolist() == [0, 0, 0]


def test_a_95_percent_interval_covers_the_mean_in_about_95_percent_of_samples() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(150):
        low, high = bootstrap_interval(random.normal(0.5, 0.1, 24))
        covered += low <= 0.5 <= high
    assert 0.87 <= covered / 150 <= 0.99


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert bootstrap_interval([0.4, 0.4, 0.4]) == (0.4, 0.4)


@given(st.lists(st.floats(-1, 1).map(lambda value: round(value, 3)), min_size=2, max_size=7))
@settings(max_examples=30, deadline=None)
def test_the_p_value_counts_all_exchanges(differences) -> None:
    values = {str(index): difference for index, difference in enumerate(differences)}
    mean = abs(np.mean(differences))
    flipped = [abs(np.mean(np.multiply(differences, signs))) for signs in product((1, -1), repeat=len(differences))]
    expected = np.mean([value >= mean - 1e-12 for value in flipped])
    assert paired_p_value(values, dict.fromkeys(values, 0.0)) == pytest.approx(expected, abs=1e-9)


def test_other_speakers_can_not_be_compared() -> None:
    with pytest.raises(ValueError, match="compare the same test speakers"):
        paired_p_value({"1": 0.5, "2": 0.5}, {"1": 0.5, "3": 0.5})
