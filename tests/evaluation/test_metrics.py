import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_ser_mtl.evaluation.evaluate_modules import ClassificationMetric, TranscriptMetric
from modeling_ser_mtl.evaluation.metrics import Predictions, compute_metrics, embedding_similarity
from modeling_ser_mtl.evaluation.verification import draw_trials, verification_metrics

EMOTIONS = ["anger", "joy", "neutral"]
GENDERS = ["female", "male"]

few = settings(max_examples=25, deadline=None)


def make_predictions(size: int, **fields) -> Predictions:
    """Predictions of a model without tasks for clips without labels, but for the given fields."""
    unknown = np.full(size, -100)
    nothing = dict(
        emotion_probabilities=None,
        emotion_labels=unknown,
        gender_probabilities=None,
        gender_labels=unknown,
        speaker_embeddings=None,
        speakers=[""] * size,
        corpora=["x"] * size,
        genders=[""] * size,
        audio=[f"{index}.wav" for index in range(size)],
        transcripts=None,
        references=[""] * size,
    )
    return Predictions(**(nothing | fields))


def metrics_of(predictions: Predictions, **options) -> dict[str, float]:
    return compute_metrics(predictions, emotion_labels=EMOTIONS, gender_labels=GENDERS, **options)


def one_hot(classes, num_classes: int = 3) -> np.ndarray:
    return np.eye(num_classes)[list(classes)]


def slow_f1(label: int, predicted: list[int], true: list[int]) -> float:
    hits = sum(p == t == label for p, t in zip(predicted, true, strict=True))
    return 2 * hits / (predicted.count(label) + true.count(label))


def slow_uar(predicted: list[int], true: list[int]) -> float:
    recalls = [np.mean([p == label for p, t in zip(predicted, true, strict=True) if t == label]) for label in set(true)]
    return float(np.mean(recalls))


def slow_edit_distance(hypothesis, reference) -> int:
    row = list(range(len(reference) + 1))
    for i, h in enumerate(hypothesis, start=1):
        previous, row[0] = row[0], i
        for j, r in enumerate(reference, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (h != r))
    return row[-1]


@few
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=20))
def test_emotion_scores_equal_their_formulas_over_the_classes_in_the_labels(clips):
    predicted, true = [p for p, _ in clips], [t for _, t in clips]
    metrics = metrics_of(
        make_predictions(len(clips), emotion_probabilities=one_hot(predicted), emotion_labels=np.array(true))
    )
    f1 = {label: slow_f1(label, predicted, true) for label in set(true)}
    expected = {f"emotion_f1_{EMOTIONS[label]}": score for label, score in f1.items()}
    expected["emotion_macro_f1"] = np.mean(list(f1.values()))
    expected["emotion_uar"] = slow_uar(predicted, true)
    expected["emotion_accuracy"] = np.mean(np.equal(predicted, true))
    found = {name: value for name, value in metrics.items() if name not in ("emotion_ece", "emotion_nll")}
    assert found == pytest.approx(expected)


def test_clips_of_unknown_emotion_do_not_count():
    metrics = metrics_of(
        make_predictions(4, emotion_probabilities=one_hot([0, 1, 2, 2]), emotion_labels=np.array([0, 1, -100, 1]))
    )
    assert metrics["emotion_accuracy"] == pytest.approx(2 / 3)
    assert "emotion_f1_neutral" not in metrics


def test_gender_is_scored_by_uar_and_accuracy():
    metrics = metrics_of(
        make_predictions(
            4, gender_probabilities=one_hot([0, 0, 0, 1], 2), gender_labels=np.array([0, 0, 1, 1], dtype=np.int32)
        )
    )
    assert metrics == {"gender_uar": 0.75, "gender_accuracy": 0.75}


def test_emotion_uar_is_told_apart_by_gender_and_by_corpus():
    predicted, true = [0, 1, 1, 0, 2, 0], [0, 1, 0, 1, 2, -100]
    metrics = metrics_of(
        make_predictions(
            6,
            emotion_probabilities=one_hot(predicted),
            emotion_labels=np.array(true),
            genders=["female", "female", "male", "", "male", "other"],
            corpora=["EMO-DB", "EMO-DB", "EMO-DB", "nEMO 2", "nEMO 2", "nEMO 2"],
        )
    )
    assert metrics["emotion_uar_female"] == 1
    assert metrics["emotion_uar_male"] == slow_uar([1, 2], [0, 2])
    assert metrics["emotion_uar_emo_db"] == slow_uar(predicted[:3], true[:3])
    assert metrics["emotion_uar_nemo_2"] == slow_uar(predicted[3:5], true[3:5])
    assert "emotion_uar_other" not in metrics


def test_a_single_corpus_has_no_score_of_its_own():
    metrics = metrics_of(
        make_predictions(2, emotion_probabilities=one_hot([0, 1]), emotion_labels=np.array([0, 1]), corpora=["x", "x"])
    )
    assert "emotion_uar_x" not in metrics


def test_speakers_are_verified_over_pairs_within_a_corpus():
    embeddings = np.random.default_rng(0).normal(size=(12, 4))
    speakers, corpora = list("aabbccddaabb"), list("xxxxxxyyyyyy")
    metrics = metrics_of(make_predictions(12, speaker_embeddings=embeddings, speakers=speakers, corpora=corpora))
    assert metrics == verification_metrics(embeddings, *draw_trials(speakers, corpora))


def test_given_trials_replace_the_drawn_ones():
    embeddings = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    trials = np.array([[0, 1], [0, 2]]), np.array([False, True])
    metrics = metrics_of(make_predictions(3, speaker_embeddings=embeddings), trials=trials)
    assert metrics["speaker_eer"] == 1


def slow_similarity(embeddings: np.ndarray, labels: list[int], same: bool) -> float:
    """Mean cosine similarity in a double loop over the pairs of the same class, or of different classes."""
    cosines = []
    for i, first in enumerate(embeddings):
        for j, second in enumerate(embeddings):
            if i != j and -100 not in (labels[i], labels[j]) and (labels[i] == labels[j]) == same:
                length = np.linalg.norm(first) * np.linalg.norm(second)
                cosines.append(first @ second / length if length else 0.0)
    return float(np.mean(cosines)) if cosines else float("nan")


@few
@given(st.lists(st.sampled_from([-100, 0, 1, 5]), max_size=12), st.integers(0, 99), st.booleans())
def test_embedding_similarity_is_the_mean_cosine_over_pairs_within_and_between_classes(labels, seed, with_zeros):
    embeddings = np.random.default_rng(seed).normal(1, 2, size=(len(labels), 3))
    embeddings[: int(with_zeros)] = 0
    within, between = embedding_similarity(embeddings, np.array(labels, dtype=int))
    assert within == pytest.approx(slow_similarity(embeddings, labels, same=True), abs=1e-12, nan_ok=True)
    assert between == pytest.approx(slow_similarity(embeddings, labels, same=False), abs=1e-12, nan_ok=True)


def test_embedding_similarity_is_exact_for_many_clips_in_single_precision():
    embeddings = np.full((20_000, 8), 3.0, dtype=np.float32)
    embeddings[::2] *= -1
    similarity = embedding_similarity(embeddings, np.arange(20_000) % 2)
    assert similarity == pytest.approx((1, -1), abs=1e-12)


@pytest.mark.parametrize(("labels", "missing"), [([0, 1, 2], 0), ([4, 4, 4], 1)])
def test_embedding_similarity_is_nan_for_a_kind_of_pair_that_does_not_occur(labels, missing):
    similarity = embedding_similarity(np.ones((3, 2)), np.array(labels))
    assert np.isnan(similarity[missing])
    assert similarity[1 - missing] == pytest.approx(1)


words = st.lists(st.sampled_from(["ab", "b", "cab", "a"]), max_size=5).map(" ".join)


@few
@given(st.lists(st.tuples(words, words), min_size=1, max_size=6))
def test_transcripts_are_scored_over_the_whole_set_of_clips_with_a_reference(clips):
    metrics = metrics_of(
        make_predictions(len(clips), transcripts=[h for h, _ in clips], references=[r for _, r in clips])
    )
    known = [(h, r) for h, r in clips if r]
    if known:
        wer = sum(slow_edit_distance(h.split(), r.split()) for h, r in known) / sum(len(r.split()) for _, r in known)
        cer = sum(slow_edit_distance(h, r) for h, r in known) / sum(len(r) for _, r in known)
        assert metrics == pytest.approx({"asr_wer": wer, "asr_cer": cer})
    else:
        assert metrics == {}


def test_a_task_loss_is_the_mean_over_its_labelled_clips():
    losses = {
        "emotion": np.array([1.0, np.nan, 3.0], dtype=np.float32),
        "asr": np.full(3, np.nan),
    }
    assert metrics_of(make_predictions(3, losses=losses)) == {"loss_emotion": 2.0}


def test_a_model_with_all_tasks_has_no_metric_where_no_clip_has_a_label():
    predictions = make_predictions(
        3,
        emotion_probabilities=one_hot([0, 1, 2]),
        gender_probabilities=one_hot([0, 1, 1], 2),
        speaker_embeddings=np.eye(3),
        transcripts=["a", "b", ""],
        corpora=["x", "y", "y"],
        genders=["female", "male", ""],
    )
    assert metrics_of(predictions) == {}


def test_an_empty_split_has_no_metrics():
    predictions = make_predictions(
        0, emotion_probabilities=np.empty((0, 3)), speaker_embeddings=np.empty((0, 4)), transcripts=[]
    )
    assert metrics_of(predictions) == {}


def test_metrics_are_plain_floats_that_json_can_hold():
    metrics = metrics_of(
        make_predictions(
            2,
            emotion_probabilities=one_hot([0, 1]).astype(np.float32),
            emotion_labels=np.array([0, 1]),
            transcripts=["a", "b"],
            references=["a", "c"],
            losses={"asr": np.ones(2, dtype=np.float32)},
        )
    )
    assert {type(value) for value in metrics.values()} == {float}


def test_metrics_that_collect_at_the_same_time_do_not_mix():
    first, second = TranscriptMetric(), TranscriptMetric()
    first.add_batch(predictions=["a b"], references=["a b"])
    second.add_batch(predictions=["c"], references=["d"])
    assert first.compute() == {"wer": 0.0, "cer": 0.0}
    assert second.compute() == {"wer": 1.0, "cer": 1.0}


def test_computing_a_metric_leaves_no_cache_or_lock_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    metric = ClassificationMetric()
    metric.add_batch(predictions=[0, 1], references=[0, 0])
    metric.compute(class_names=EMOTIONS)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_calibration_is_measured_on_labelled_clips_before_and_after():
    logits = np.array([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [9.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
    clip_index, labels = np.array([0, 1, 1, 2]), np.array([0, 1, -100])
    calibrated = np.array([[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [1.0, 0.0, 0.0]])
    values = {"emotion_probabilities": calibrated, "emotion_labels": labels}
    metrics = metrics_of(make_predictions(3, **values, emotion_logits=logits, clip_index=clip_index))
    assert metrics["emotion_ece"] == pytest.approx(0.4)
    assert metrics["emotion_nll"] == pytest.approx(-np.log(0.6))
    # The second clip is the mean of its two windows, which takes it for the first emotion.
    first = np.exp(4) / (np.exp(4) + 2)
    second = (1 / (np.exp(4) + 2) + np.exp(9) / (np.exp(9) + 2)) / 2
    assert metrics["emotion_ece_uncalibrated"] == pytest.approx((1 - first + second) / 2)
    assert "emotion_ece_uncalibrated" not in metrics_of(make_predictions(3, **values))


def test_a_model_that_abstains_is_scored_on_what_it_answers():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0], [0.8, 0.1, 0.1], [0.1, 0.9, 0.0], [0.9, 0.1, 0.0]])
    values = {"emotion_probabilities": probabilities, "emotion_labels": np.array([0, 1, 1, 1, -100])}
    metrics = metrics_of(make_predictions(5, **values), min_confidence=0.8)
    assert metrics["emotion_coverage"] == 0.75
    assert metrics["emotion_uar_answered"] == slow_uar([0, 0, 1], [0, 1, 1])
    assert metrics["emotion_accuracy_answered"] == pytest.approx(2 / 3)
    assert metrics["emotion_macro_f1_answered"] == pytest.approx(2 / 3)
    assert metrics["emotion_accuracy"] == 0.5
    nothing = metrics_of(make_predictions(5, **values), min_confidence=1.0)
    assert nothing["emotion_coverage"] == 0
    assert not [name for name in nothing if name.endswith("_answered")]
    assert "emotion_coverage" not in metrics_of(make_predictions(5, **values))
