from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import det_curve, roc_curve

from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.evaluation.verification import (
    draw_trials,
    equal_error_rate,
    min_dcf,
    read_trials,
    verification_metrics,
)

few = settings(max_examples=40, deadline=None)


@st.composite
def scored_trials(draw):
    """Scores with many ties, at least one target and one non-target trial."""
    scores = draw(st.lists(st.integers(-5, 5), min_size=2, max_size=30))
    targets = draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    targets[:2] = [True, False]
    return np.array(scores, dtype=float), np.array(targets)


def slow_operating_points(scores, targets):
    """(false rejection rate, false acceptance rate) at every threshold, the one that accepts no trial included."""
    thresholds = [*sorted(set(scores)), np.inf]
    return [(np.mean(scores[targets] < t), np.mean(scores[~targets] >= t)) for t in thresholds]


@few
@given(scored_trials())
def test_eer_is_where_the_interpolated_roc_curve_meets_equal_errors(trials):
    scores, targets = trials
    fpr, tpr, _ = roc_curve(targets, scores, drop_intermediate=False)
    # Along the curve, parametrised by its points: a vertical step of the ROC has no unique height as a function of FPR.
    along = np.arange(len(fpr))
    crossing = brentq(lambda x: 1 - interp1d(along, tpr)(x) - interp1d(along, fpr)(x), 0, len(fpr) - 1)
    assert equal_error_rate(scores, targets) == pytest.approx(float(interp1d(along, fpr)(crossing)), abs=1e-9)


@few
@given(scored_trials(), st.floats(0.01, 0.99), st.floats(0.1, 10), st.floats(0.1, 10))
def test_min_dcf_is_the_least_cost_over_all_thresholds(trials, p_target, c_miss, c_fa):
    scores, targets = trials
    costs = [
        c_miss * p_target * miss + c_fa * (1 - p_target) * false_alarm
        for miss, false_alarm in slow_operating_points(scores, targets)
    ]
    expected = min(costs) / min(c_miss * p_target, c_fa * (1 - p_target))
    assert min_dcf(scores, targets, p_target, c_miss, c_fa) == pytest.approx(expected)


@few
@given(scored_trials())
def test_min_dcf_never_exceeds_the_cost_of_a_system_that_does_not_listen(trials):
    assert 0 <= min_dcf(*trials) <= 1


@few
@given(scored_trials())
def test_error_rates_depend_on_the_order_of_scores_only(trials):
    scores, targets = trials
    assert equal_error_rate(np.exp(scores), targets) == equal_error_rate(scores, targets)
    assert min_dcf(np.exp(scores), targets) == min_dcf(scores, targets)


@few
@given(scored_trials())
def test_eer_is_the_same_when_targets_and_non_targets_trade_places(trials):
    scores, targets = trials
    assert equal_error_rate(-scores, ~targets) == pytest.approx(equal_error_rate(scores, targets))


@pytest.mark.parametrize(
    ("scores", "eer", "dcf"),
    [([3.0, 2.0, 1.0, 0.0], 0.0, 0.0), ([0.0, 1.0, 2.0, 3.0], 1.0, 1.0), ([1.0] * 4, 0.5, 1.0)],
)
def test_perfect_reversed_and_constant_scores_give_the_known_values(scores, eer, dcf):
    targets = np.array([True, True, False, False])
    assert equal_error_rate(np.array(scores), targets) == eer
    assert min_dcf(np.array(scores), targets) == dcf


def test_eer_agrees_with_the_det_curve_of_many_overlapping_trials():
    rng = np.random.default_rng(0)
    targets = rng.random(20_000) < 0.3
    scores = rng.normal(size=20_000) + 2 * targets
    false_alarm, miss, _ = det_curve(targets, scores)
    nearest = np.argmin(np.abs(false_alarm - miss))
    assert equal_error_rate(scores, targets) == pytest.approx(false_alarm[nearest], abs=1e-3)


@pytest.mark.parametrize("only", [True, False])
def test_error_rates_of_one_kind_of_trial_are_refused(only):
    with pytest.raises(ValueError, match="one target and one non-target"):
        equal_error_rate(np.array([0.1, 0.2]), np.array([only, only]))


clip_lists = st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.sampled_from(["x", "y"])), max_size=12)


@few
@given(clip_lists)
def test_trials_are_all_pairs_of_known_speakers_within_a_corpus(clips):
    pairs, targets = draw_trials([speaker for speaker, _ in clips], [corpus for _, corpus in clips])
    expected = {
        (i, j): clips[i][0] == clips[j][0]
        for i, j in combinations(range(len(clips)), 2)
        if clips[i][0] and clips[j][0] and clips[i][1] == clips[j][1]
    }
    assert len(pairs) == len(expected)
    assert dict(zip(map(tuple, pairs.tolist()), targets.tolist(), strict=True)) == expected


@few
@given(clip_lists, st.integers(1, 40), st.integers(0, 5))
def test_drawn_trials_are_distinct_trials_out_of_all(clips, max_trials, seed):
    speakers, corpora = [speaker for speaker, _ in clips], [corpus for _, corpus in clips]
    every = set(map(tuple, draw_trials(speakers, corpora)[0].tolist()))
    pairs, targets = draw_trials(speakers, corpora, max_trials, seed)
    drawn = set(map(tuple, pairs.tolist()))
    assert len(pairs) == len(drawn) == len(targets) == min(max_trials, len(every))
    assert drawn <= every


def test_a_seed_decides_which_trials_are_drawn():
    speakers, corpora = list("abcdefgh") * 5, ["x"] * 40
    first, again, other = (draw_trials(speakers, corpora, 50, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_trial_is_equally_likely_to_be_drawn():
    speakers, corpora = list("abababababab"), list("xxxxxxxyyyyy")
    draws = [draw_trials(speakers, corpora, 10, seed)[0] for seed in range(600)]
    counts = Counter(tuple(pair) for pairs in draws for pair in pairs.tolist())
    expected = 600 * 10 / 31
    assert len(counts) == 21 + 10
    assert all(abs(count - expected) < 5 * np.sqrt(expected) for count in counts.values())


def test_a_hundred_thousand_clips_yield_trials_without_a_list_of_all_pairs():
    speakers = [f"speaker {index % 50}" for index in range(100_000)]
    pairs, targets = draw_trials(speakers, ["x"] * 100_000)
    assert pairs.shape == (200_000, 2)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert len(np.unique(pairs, axis=0)) == 200_000
    assert np.array_equal(targets, pairs[:, 0] % 50 == pairs[:, 1] % 50)


def test_a_trials_file_gives_pairs_of_clips_and_targets(tmp_path):
    path = tmp_path / "trials.txt"
    path.write_text("1 s1/a.wav s1/b.wav\n0 s2/c.wav s1/a.wav\n\n", encoding="utf-8")
    pairs, targets = read_trials(path, ["s1/a.wav", "s1/b.wav", "s2/c.wav"])
    assert pairs.tolist() == [[0, 1], [2, 0]]
    assert targets.tolist() == [True, False]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 a.wav b.wav\n1 a.wav z.wav\n", "line 2: no clip is named 'z.wav'"),
        ("2 a.wav b.wav\n", "line 1: found '2 a.wav b.wav'"),
        ("1 a.wav b.wav\n\n1 a.wav\n", "line 3: found '1 a.wav'"),
        ("1 a.wav twice.wav\n", "line 1: 2 clips are named 'twice.wav'"),
        ("\n", "found no trial"),
    ],
)
def test_a_mistake_in_a_trials_file_is_one_line_that_names_its_place(tmp_path, content, message):
    path = tmp_path / "trials.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_trials(path, ["a.wav", "b.wav", "twice.wav", "twice.wav"])
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_trials_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.txt"):
        read_trials(tmp_path / "nowhere.txt", ["a.wav"])


def test_verification_scores_are_cosines_over_all_chunks_of_trials():
    rng = np.random.default_rng(3)
    speakers = [f"{index % 8}" for index in range(250)]
    embeddings = (rng.normal(size=(250, 16)) + rng.normal(size=(8, 16))[np.arange(250) % 8]) * rng.random((250, 1))
    pairs, targets = draw_trials(speakers, ["x"] * 250)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    scores = (unit @ unit.T)[pairs[:, 0], pairs[:, 1]]
    metrics = verification_metrics(embeddings, pairs, targets)
    assert len(pairs) > 16_384
    assert metrics["speaker_eer"] == pytest.approx(equal_error_rate(scores, targets))
    assert metrics["speaker_min_dcf"] == pytest.approx(min_dcf(scores, targets))


def test_embeddings_of_length_zero_count_as_unrelated():
    pairs, targets = np.array([[0, 1], [0, 2]]), np.array([True, False])
    metrics = verification_metrics(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]), pairs, targets)
    assert metrics["speaker_eer"] == 0


@pytest.mark.parametrize("speakers", [["a", "a"], ["a", "b"], ["a", ""]])
def test_verification_is_absent_without_both_kinds_of_trials(speakers):
    assert verification_metrics(np.eye(2), *draw_trials(speakers, ["x", "x"])) == {}
