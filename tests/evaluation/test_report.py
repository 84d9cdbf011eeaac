import numpy as np
import pandas as pd
import pytest

from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.evaluation.metrics import Predictions
from modeling_ser_mtl.evaluation.report import read_emotion_predictions, results_table, set_title, write_predictions

METRICS = {
    "predict_emotion_macro_f1": 0.61249,
    "predict_emotion_f1_anger": 0.5,
    "predict_speaker_eer": 0.1,
    "predict_loss": 2.0,
    "eval_gender_uar": 0.9,
}


@pytest.mark.parametrize(
    ("test", "train", "expected"),
    [
        (["a", "a", "b"], ["c"], "test set: 3 clips of 2 known speakers, none of them in training"),
        (["a", "a", "b"], ["a", "c"], "test set: 3 clips of 2 known speakers, 1 of them in training"),
        (["a", "", "b"], ["a", ""], "test set: 3 clips of 2 known speakers, 1 of them in training"),
        (["a", "", "b"], ["c"], "test set: 3 clips of 2 known speakers"),
        (["a", "b", "b"], ["c", ""], "test set: 3 clips of 2 known speakers"),
        (["a", "b", "b"], None, "test set: 3 clips of 2 known speakers"),
    ],
)
def test_the_title_claims_of_the_speakers_what_is_known(test, train, expected):
    train = None if train is None else pd.DataFrame({"speaker": train})
    assert set_title("test", pd.DataFrame({"speaker": test}), train) == expected


def cells(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines()]


def test_the_table_has_a_row_for_each_main_metric_present_under_the_prefix():
    assert cells(results_table(METRICS, title="Test")) == [
        ["Test"],
        ["task", "metric", "value", "better"],
        ["-------", "------------------------", "-----", "------"],
        ["emotion", "predict_emotion_macro_f1", "0.612", "higher"],
        ["speaker", "predict_speaker_eer", "0.100", "lower"],
    ]


def test_the_prefix_chooses_the_split():
    assert cells(results_table(METRICS, prefix="eval"))[3:] == [["gender", "eval_gender_uar", "0.900", "higher"]]


def test_counts_add_the_number_of_labelled_clips_of_each_task():
    table = results_table(METRICS, counts={"emotion": 535, "speaker": 7})
    assert [row[-1] for row in cells(table)[3:]] == ["535", "7"]


def test_columns_are_aligned():
    _, *lines = results_table(METRICS, counts={"emotion": 535, "speaker": 7}).splitlines()
    assert len({line.index(metric) for line, metric in zip(lines[2:], ["predict", "predict"], strict=True)}) == 1
    assert len({len(line) for line in lines}) == 1


def make_table() -> pd.DataFrame:
    # As a split of a larger manifest: its index does not start at 0.
    return pd.DataFrame(
        {
            "audio": ["a.wav", "b.wav"],
            "emotion": ["joy", ""],
            "gender": ["female", "NA"],
            "speaker_id": ["01", "02"],
            "text": ["it, is", ""],
            "take": ["7", "007"],
            "audio_path": ["folder/a.wav", "folder/b.wav"],
            "speaker": ["x/01", "x/02"],
            "manifest": ["m.csv", "m.csv"],
            "row": ["2", "3"],
        },
        index=[5, 3],
    )


def make_predictions(**fields) -> Predictions:
    everything = dict(
        emotion_probabilities=np.array([[0.25, 0.75], [0.875, 0.125]], dtype=np.float32),
        emotion_labels=np.array([1, -100]),
        gender_probabilities=np.array([[0.9, 0.1], [0.4, 0.6]]),
        gender_labels=np.array([0, 1]),
        speaker_embeddings=None,
        speakers=["x/01", "x/02"],
        corpora=["x", "x"],
        genders=["female", "male"],
        audio=["a.wav", "b.wav"],
        transcripts=["it is", "so\ncold"],
        references=["it is", ""],
    )
    return Predictions(**(everything | fields))


def write_and_read(path, predictions: Predictions) -> pd.DataFrame:
    write_predictions(path, make_table(), predictions, ["anger", "joy"], ["female", "male"])
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def test_the_file_has_predictions_and_then_the_manifests_own_columns(tmp_path):
    written = write_and_read(tmp_path / "predictions.csv", make_predictions())
    assert written.to_dict("list") == {
        "audio": ["a.wav", "b.wav"],
        "emotion": ["joy", "anger"],
        "emotion_score": ["0.750000", "0.875000"],
        "p_anger": ["0.250000", "0.875000"],
        "p_joy": ["0.750000", "0.125000"],
        "gender": ["female", "male"],
        "text": ["it is", "so\ncold"],
        "true_emotion": ["joy", ""],
        "true_gender": ["female", "NA"],
        "true_speaker_id": ["01", "02"],
        "true_text": ["it, is", ""],
        "true_take": ["7", "007"],
    }
    assert written.columns.tolist()[:7] == ["audio", "emotion", "emotion_score", "p_anger", "p_joy", "gender", "text"]


def test_tasks_that_the_model_lacks_have_no_columns(tmp_path):
    predictions = make_predictions(emotion_probabilities=None, gender_probabilities=None, transcripts=None)
    written = write_and_read(tmp_path / "predictions.csv", predictions)
    assert written.columns.tolist() == [
        "audio",
        "true_emotion",
        "true_gender",
        "true_speaker_id",
        "true_text",
        "true_take",
    ]


def test_predictions_for_other_clips_than_the_manifests_are_refused(tmp_path):
    with pytest.raises(ValueError, match="same clips in the same order"):
        write_and_read(tmp_path / "predictions.csv", make_predictions(audio=["b.wav", "a.wav"]))


def test_clips_below_the_least_confidence_are_marked_only_where_one_is_asked_for(tmp_path):
    for min_confidence, marks in ((0.75, [False, False]), (0.8, [True, False]), (1.0, [True, True])):
        arguments = tmp_path / "a.csv", make_table(), make_predictions(), ["anger", "joy"], ["female", "male"]
        written = write_predictions(*arguments, min_confidence=min_confidence)
        assert written["emotion_abstained"].tolist() == marks
        assert written["emotion"].tolist() == ["joy", "anger"]
    assert "emotion_abstained" not in write_and_read(tmp_path / "b.csv", make_predictions())


def test_the_emotions_of_a_file_come_back(tmp_path):
    write_and_read(tmp_path / "predictions.csv", make_predictions())
    read = read_emotion_predictions(tmp_path / "predictions.csv")
    assert read.names == ["anger", "joy"]
    np.testing.assert_array_equal(read.probabilities, [[0.25, 0.75], [0.875, 0.125]])
    assert read.labels.tolist() == [1, -100]
    assert read.table["true_take"].tolist() == ["7", "007"]


def test_a_file_that_is_missing_or_has_no_emotions_is_named(tmp_path):
    with pytest.raises(InputError, match="none.csv: no such file"):
        read_emotion_predictions(tmp_path / "none.csv")
    write_and_read(tmp_path / "predictions.csv", make_predictions(emotion_probabilities=None))
    with pytest.raises(InputError, match="predictions.csv: has no columns p_<emotion>"):
        read_emotion_predictions(tmp_path / "predictions.csv")
