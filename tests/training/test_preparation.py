import pandas as pd
import pytest

from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.training.arguments import DataArguments
from modeling_ser_mtl.training.labels import LABEL_COLUMN
from modeling_ser_mtl.training.preparation import prepare_splits


@pytest.fixture
def prepare(clips, tmp_path):
    """
    The sets of a training run for some tasks: training clips have, in order, all labels, an emotion, a gender, a
    speaker, a text, a text of signs alone and no label; so have those of validation.
    """
    given = [("emotion", "gender", "speaker_id", "text"), ("emotion",), ("gender",), ("speaker_id",), ("text",), (), ()]
    for name, start in (("train", 0), ("validation", 12)):
        rows = clips.iloc[start : start + len(given)].copy()
        for index, labels in zip(rows.index, given, strict=True):
            rows.loc[index, [label for label in LABEL_COLUMN.values() if label not in labels]] = ""
        rows.loc[rows.index[5], "text"] = "?!"
        rows.to_csv(tmp_path / f"{name}.csv", index=False)

    def call(tasks, **options):
        files = {f"{name}_file": [str(tmp_path / f"{name}.csv")] for name in ("train", "validation")}
        splits, _ = prepare_splits(
            DataArguments(**files),
            required=[LABEL_COLUMN[task] for task in tasks],
            seed=0,
            do_train=True,
            do_eval=False,
            do_predict=False,
            **options,
        )
        return splits

    return call


@pytest.mark.parametrize(
    ("tasks", "rows"),
    [
        (["emotion"], [2, 3]),
        (["gender"], [2, 4]),
        (["speaker"], [2, 5]),
        (["asr"], [2, 6]),
        (["emotion", "asr"], [2, 3, 6]),
        (["emotion", "gender", "speaker", "asr"], [2, 3, 4, 5, 6]),
    ],
)
def test_a_clip_without_a_label_of_the_tasks_does_not_train_and_still_validates(prepare, caplog, tasks, rows) -> None:
    splits = prepare(tasks)
    train = splits["train"]
    assert train.table["row"].tolist() == rows
    assert [train.audio[index] for index in range(len(train))] == train.table["audio"].tolist()
    assert len(splits["validation"]) == 7
    columns = ", ".join(LABEL_COLUMN[task] for task in tasks)
    assert f"{7 - len(rows)} of 7 training clips have no label of the chosen tasks ({columns})" in caplog.text


def test_an_emotion_outside_those_named_is_no_label(prepare) -> None:
    assert prepare(["emotion"], emotion_labels=["anger"])["train"].table["row"].tolist() == [2]


def test_training_clips_that_all_have_no_label_are_an_error(prepare) -> None:
    with pytest.raises(
        InputError, match="train.csv: no training clip has a label of the chosen tasks; fill in emotion"
    ):
        prepare(["emotion"], emotion_labels=["joy"])


def test_clips_that_all_have_a_label_are_all_kept_without_a_word(prepare, tmp_path, caplog) -> None:
    rows = pd.read_csv(tmp_path / "train.csv", dtype=str, keep_default_na=False).assign(emotion="anger")
    rows.to_csv(tmp_path / "train.csv", index=False)
    assert len(prepare(["emotion"])["train"]) == 7
    assert "label of the chosen tasks" not in caplog.text


@pytest.fixture
def prepare_folds(manifest):
    """The sets of each of three folds over speakers 0 to 3, with or without extra manifests."""

    def call(*extra_train_file):
        arguments = {
            "train_file": [str(manifest("mine/m.csv", range(4)))],
            "extra_train_file": [str(path) for path in extra_train_file],
            "num_folds": 3,
            "validation_speakers": 0.3,
        }
        for fold in range(3):
            yield prepare_splits(
                DataArguments(**arguments, fold=fold),
                required=["emotion"],
                seed=0,
                do_train=True,
                do_eval=True,
                do_predict=True,
            )[0]

    return call


def test_further_corpora_train_whole_and_leave_all_else_as_it_is(prepare_folds, manifest) -> None:
    extra = manifest("other/m.csv", [4, 5], split="test", session="a")
    for without, splits in zip(prepare_folds(), prepare_folds(extra), strict=True):
        train = splits["train"]
        mine = train.table["corpus"] == "mine"
        assert set(train.table.loc[~mine, "speaker"]) == {"other/s4", "other/s5"} and sum(~mine) == 8
        assert [train.audio[index] for index in range(len(train))] == train.table["audio_path"].tolist()
        assert train.table.loc[mine, "audio"].tolist() == without["train"].table["audio"].tolist()
        for name in ("validation", "test"):
            pd.testing.assert_frame_equal(splits[name].table, without[name].table)


def test_further_corpora_hold_no_clip_that_is_tested(prepare_folds, manifest) -> None:
    with pytest.raises(InputError, match="the sets share 4 audio file"):
        list(prepare_folds(manifest("other/m.csv", [3, 4])))


def test_further_corpora_come_beside_a_training_file_only() -> None:
    wants = {"do_train": True, "do_eval": False, "do_predict": False}
    with pytest.raises(InputError, match="--extra_train_file: only beside --train_file"):
        arguments = DataArguments(extra_train_file=["m.csv"], dataset_name="org/corpus")
        prepare_splits(arguments, required=["emotion"], seed=0, **wants)
