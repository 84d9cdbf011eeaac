"""A published split whose sets share speakers: an error unless it is asked for, and then nothing claims otherwise."""

import pytest

import run_ser_mtl


@pytest.fixture
def shared(clips, tmp_path) -> dict[str, object]:
    """Options of a run on a manifest whose six speakers have two training clips, one of validation and one of test."""
    clips.assign(split=["train", "train", "validation", "test"] * 6).to_csv(tmp_path / "m.csv", index=False)
    return {"train_file": tmp_path / "m.csv", "do_train": True, "do_predict": True, "tasks": ["gender", "speaker"]}


def test_shared_speakers_stop_a_run(command, shared, capsys) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run_ser_mtl.main(command(**shared))
    assert exit_info.value.code == 2
    assert "6 speaker(s)" in capsys.readouterr().err


def test_shared_speakers_that_are_allowed_are_told_by_warning_table_and_card(
    command, shared, capsys, caplog, tmp_path
) -> None:
    run_ser_mtl.main(command(**shared, allow_shared_speakers=True))
    assert "the sets share 6 speaker(s): " in caplog.text
    printed, card = capsys.readouterr().out, (tmp_path / "output" / "README.md").read_text()
    assert "test set: 6 clips of 6 known speakers, 6 of them in training\n" in printed
    assert "6 clips of 6 known speakers, 6 of whom also train: this does not measure unseen speakers." in card
    for claim in ("none of them in training", "none of whom trains"):
        assert claim not in printed + card
