from pathlib import Path

import numpy as np
import pytest
import soundfile

from modeling_ser_mtl.data.audio import load_audio
from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.data.loading import (
    drop_unusable,
    load_manifest_splits,
    split_by_speaker,
)

HOLD_OUT = {"num_folds": None, "fold": 0, "validation_speakers": 0.2, "seed": 0}


def speakers(split) -> set[str]:
    return set(split.table["speaker_id"])


def test_each_file_makes_its_set(manifest) -> None:
    files = {"train": [str(manifest("a.csv", [0])), str(manifest("b.csv", [1]))], "test": [str(manifest("c.csv", [2]))]}
    splits = load_manifest_splits({**files, "validation": None}, ["emotion"])
    assert {name: speakers(split) for name, split in splits.items()} == {"train": {"s0", "s1"}, "test": {"s2"}}


def test_rows_go_to_the_set_of_their_split_cell_and_an_empty_one_trains(manifest) -> None:
    marks = ["train", "", "validation", "test"] * 6
    splits = load_manifest_splits({"train": [str(manifest("a.csv", range(6), split=marks))]}, [])
    assert {name: len(split) for name, split in splits.items()} == {"train": 12, "validation": 6, "test": 6}
    assert all(len(split.audio) == len(split.table) for split in splits.values())


def test_a_file_for_a_set_replaces_the_rows_that_name_it(manifest) -> None:
    train = manifest("a.csv", [0, 1], split=["train", "test"] * 4)
    files = {"train": [str(train)], "validation": None, "test": [str(manifest("b.csv", [5]))]}
    assert speakers(load_manifest_splits(files, [])["test"]) == {"s5"}


def test_a_split_cell_that_names_no_set_is_named_with_its_row(manifest) -> None:
    path = manifest("a.csv", [0], split=["train", "dev", "test", "train"])
    with pytest.raises(InputError, match="a.csv row 3: split is 'dev'; allowed: train, validation, test"):
        load_manifest_splits({"train": [str(path)]}, [])


def test_unusable_clips_are_dropped_and_told_and_the_others_measured(clips, tmp_path) -> None:
    rows = clips.iloc[:4].copy()
    soundfile.write(tmp_path / "short.wav", np.zeros(399), 16_000)
    (tmp_path / "text.wav").write_text("no audio")
    rows.loc[1, "audio"], rows.loc[2, "audio"] = str(tmp_path / "short.wav"), str(tmp_path / "text.wav")
    rows.to_csv(tmp_path / "m.csv", index=False)
    split = load_manifest_splits({"train": [str(tmp_path / "m.csv")]}, [])["train"]
    usable, skipped = drop_unusable(split, num_workers=2)
    assert usable.table["audio"].tolist() == [clips["audio"][0], clips["audio"][3]]
    assert usable.table["length"].tolist() == [len(load_audio(path)) for path in usable.audio] == [4_800, 5_400]
    assert skipped["row"].tolist() == [3, 4]
    assert "399 samples" in skipped["reason"].iloc[0] and "decoded" in skipped["reason"].iloc[1]


def test_held_out_speakers_do_not_train(manifest) -> None:
    splits = load_manifest_splits({"train": [str(manifest("a.csv", range(6)))]}, [])
    made = split_by_speaker(splits, **HOLD_OUT)
    assert speakers(made["train"]) | speakers(made["validation"]) == {f"s{index}" for index in range(6)}
    assert not speakers(made["train"]) & speakers(made["validation"])
    for split in made.values():
        assert [Path(path).name for path in split.audio] == [Path(path).name for path in split.table["audio"]]


def test_a_folds_test_speakers_neither_train_nor_validate(manifest) -> None:
    splits = load_manifest_splits({"train": [str(manifest("a.csv", range(6)))]}, [])
    made = split_by_speaker(splits, **HOLD_OUT | {"num_folds": 3, "fold": 1})
    assert speakers(made["test"]) == {"s2", "s3"}
    assert not speakers(made["test"]) & (speakers(made["train"]) | speakers(made["validation"]))


def test_nobody_is_held_out_where_no_validation_speakers_are_wanted(manifest) -> None:
    splits = load_manifest_splits({"train": [str(manifest("a.csv", range(6)))]}, [])
    made = split_by_speaker(splits, **HOLD_OUT | {"num_folds": 3, "fold": 1, "validation_speakers": 0.0})
    assert made.keys() == {"train", "test"}
    assert speakers(made["train"]) == {"s0", "s1", "s4", "s5"}


def test_a_given_validation_set_is_kept(manifest) -> None:
    files = {"train": [str(manifest("a.csv", [0, 1]))], "validation": [str(manifest("b.csv", [2]))]}
    made = split_by_speaker(load_manifest_splits(files, []), **HOLD_OUT)
    assert speakers(made["train"]) == {"s0", "s1"} and speakers(made["validation"]) == {"s2"}


@pytest.mark.parametrize(
    ("train", "validation", "test", "shared"),
    [([0, 1, 2, 3], None, [3], "s3"), ([0, 1], [1, 2], None, "s1"), ([0, 1], [2], [2, 3], "s2")],
)
def test_no_speaker_is_in_two_sets(manifest, train, validation, test, shared) -> None:
    numbers = {"train": train, "validation": validation, "test": test}
    files = {name: [str(manifest(f"{name}.csv", some))] for name, some in numbers.items() if some}
    for seed in range(5):  # whichever speakers are held out
        with pytest.raises(InputError, match=f"1 speaker.*{shared}"):
            split_by_speaker(load_manifest_splits(files, []), **HOLD_OUT | {"seed": seed})


def test_given_sets_may_share_speakers_where_that_is_allowed(manifest) -> None:
    files = {"train": [str(manifest("a.csv", [0, 1, 2]))], "test": [str(manifest("b.csv", [2]))]}
    made = split_by_speaker(load_manifest_splits(files, []), **HOLD_OUT, allow_shared_speakers=True)
    assert speakers(made["test"]) == {"s2"}
    assert speakers(made["train"]) | speakers(made["validation"]) == {"s0", "s1", "s2"}
    assert not speakers(made["train"]) & speakers(made["validation"])


def test_folds_beside_a_given_test_set_are_an_error(manifest) -> None:
    files = {"train": [str(manifest("a.csv", [0, 1]))], "test": [str(manifest("b.csv", [2]))]}
    with pytest.raises(InputError, match="--num_folds 2: the data names its own test set"):
        split_by_speaker(load_manifest_splits(files, []), **HOLD_OUT | {"num_folds": 2})
