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
