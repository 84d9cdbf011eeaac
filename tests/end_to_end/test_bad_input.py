"""A user's mistake is one line and exit code 2; what can be used is used."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import soundfile

import run_ser_mtl


@pytest.fixture
def error_of(capsys: pytest.CaptureFixture) -> Callable[[list[str]], str]:
    """Runs a command line that must fail, and returns the one line that it says."""

    def fail(argv: list[str]) -> str:
        with pytest.raises(SystemExit) as exit_info:
            run_ser_mtl.main(argv)
        assert exit_info.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        assert [line.startswith("error: ") for line in lines].count(True) == 1
        assert lines[-1].startswith("error: ")
        return lines[-1]

    return fail


def test_no_source_of_data_names_the_options(command, error_of) -> None:
    assert "--train_file" in error_of(command(do_train=True))


def test_nothing_to_do_is_an_error(command, error_of, manifest) -> None:
    assert "--do_train" in error_of(command(train_file=manifest("all.csv", range(6))))


def test_a_missing_manifest_is_named(command, error_of, tmp_path) -> None:
    line = error_of(command(do_train=True, train_file=tmp_path / "nowhere.csv"))
    assert "nowhere.csv" in line and "no such file" in line


def test_a_missing_clip_is_named_with_its_row(command, error_of, manifest) -> None:
    line = error_of(command(do_train=True, train_file=manifest("all.csv", range(6), audio="gone.wav")))
    assert "row 2" in line and "gone.wav" in line


@pytest.mark.parametrize(
    ("task", "column"), [("emotion", "emotion"), ("gender", "gender"), ("speaker", "speaker_id"), ("asr", "text")]
)
def test_the_column_of_a_chosen_task_must_be_there(command, error_of, manifest, task, column) -> None:
    path = manifest("all.csv", range(6))
    pd.read_csv(path).drop(columns=column).to_csv(path, index=False)
    line = error_of(command(do_train=True, train_file=path, tasks=[task]))
    assert repr(column) in line and "audio" in line


def test_a_manifest_without_rows_is_an_error(command, error_of, manifest) -> None:
    assert "no rows" in error_of(command(do_train=True, train_file=manifest("all.csv", [])))


def test_a_single_emotion_cannot_be_trained(command, error_of, manifest) -> None:
    line = error_of(command(do_train=True, train_file=manifest("all.csv", range(6), emotion="anger")))
    assert "two emotions" in line and "'anger'" in line


@pytest.mark.parametrize("name", ["validation", "test"])
def test_speakers_of_another_set_must_not_train(command, error_of, manifest, name) -> None:
    files = {"train_file": manifest("train.csv", range(4)), f"{name}_file": manifest("other.csv", [3, 4])}
    line = error_of(command(do_train=True, do_predict=name == "test", **files))
    assert "other.csv" in line and "s3" in line and "s4" not in line


def test_an_unknown_gender_is_named_with_its_row(command, error_of, manifest) -> None:
    line = error_of(command(do_train=True, train_file=manifest("all.csv", range(6), gender="f")))
    assert "row 2" in line and "'f'" in line and "female, male" in line


def test_a_validation_set_without_emotions_cannot_choose_a_checkpoint(command, error_of, manifest) -> None:
    files = {"train_file": manifest("train.csv", range(4)), "validation_file": manifest("v.csv", [4], emotion="")}
    line = error_of(command(do_train=True, **files))
    assert "v.csv" in line and "--metric_for_best_model" in line


def test_an_output_folder_with_files_is_not_written_to(command, error_of, manifest, tmp_path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    line = error_of(command(do_train=True, train_file=manifest("all.csv", range(6))))
    assert "--resume_from_checkpoint" in line and "--output_dir" in line
    assert [path.name for path in output.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("checkpoint", ["True", "nowhere"])
def test_resuming_needs_a_checkpoint(command, error_of, manifest, checkpoint) -> None:
    argv = command(do_train=True, train_file=manifest("all.csv", range(6)), resume_from_checkpoint=checkpoint)
    assert "--resume_from_checkpoint" in error_of(argv)


def test_a_model_that_does_not_exist_is_named(command, error_of, manifest, tmp_path) -> None:
    line = error_of(
        command(do_train=True, train_file=manifest("all.csv", range(6)), model_name_or_path=tmp_path / "nowhere")
    )
    assert "--model_name_or_path" in line and "nowhere" in line


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("num_epochs", 3, "--num_train_epochs"),
        ("tasks", ["emotions"], "emotion, gender, speaker, asr"),
        ("task_weights", ["gender"], "gender=.1"),
        ("fusion", "attention", "co_attention"),
        ("num_train_epochs", "many", "'many'"),
        ("eval_strategy", "sometimes", "epoch"),
        ("augment", ["echo"], "speed"),
        ("max_seconds", 0, "--max_seconds"),
        ("num_folds", 7, "6"),
        ("validation_speakers", 2, "--validation_speakers"),
    ],
)
def test_a_wrong_option_is_told_what_is_allowed(command, error_of, manifest, option, value, says) -> None:
    argv = command(**{"do_train": True, "train_file": manifest("all.csv", range(6)), option: value})
    line = error_of(argv)
    assert says in line


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model_type": "bert"}, "'bert'"),
        ({"model_type": "ser_mtl", "backbone_config": {"model_type": "wav3vec"}}, "'wav3vec'"),
        ({"model_type": "wav2vec2", "hidden_size": 33}, "divisible"),
        (["wav2vec2"], "list"),
    ],
)
def test_a_configuration_that_gives_no_model_is_one_line(command, error_of, manifest, tmp_path, settings, says) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings))
    line = error_of(command(do_train=True, train_file=manifest("all.csv", range(6)), config_name=path))
    assert says in line


def write_with_bad_clips(clips: pd.DataFrame, folder: Path, bad: int) -> Path:
    """All clips in a manifest, the first `bad` of them replaced by a text file, five samples, five samples, ..."""
    rows = clips.copy()
    for index in range(bad):
        path = folder / f"bad{index}.wav"
        if index == 0:
            path.write_text("no audio")
        else:
            soundfile.write(path, [0.0] * 5, 16_000)
        rows.loc[index, "audio"] = str(path)
    rows.to_csv(folder / "all.csv", index=False)
    return folder / "all.csv"


def test_clips_that_cannot_be_used_are_skipped_and_listed(command, clips, tmp_path) -> None:
    path = write_with_bad_clips(clips, tmp_path, bad=2)
    run_ser_mtl.main(command(do_train=True, train_file=path, max_skipped=0.1, eval_strategy="no", save_strategy="no"))
    skipped = pd.read_csv(tmp_path / "output" / "skipped.csv")
    assert list(skipped.columns) == ["manifest", "row", "audio", "reason"]
    assert sorted(skipped["row"]) == [2, 3]
    assert sorted(Path(audio).name for audio in skipped["audio"]) == ["bad0.wav", "bad1.wav"]
    assert skipped["reason"].str.contains("decoded|400").all()


def test_too_many_clips_that_cannot_be_used_stop_the_run_before_training(command, error_of, clips, tmp_path) -> None:
    line = error_of(command(do_train=True, train_file=write_with_bad_clips(clips, tmp_path, bad=2)))
    assert "2 of 24" in line and "--max_skipped 0.01" in line and "bad" in line
    assert not (tmp_path / "output").exists()
