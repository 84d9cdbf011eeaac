"""A streamed corpus trains and predicts as one on disk, and what is damaged in it is found on the way."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from datasets import Audio, Dataset
from safetensors.torch import load_file

import run_ser_mtl
from modeling_ser_mtl.data.audio import load_audio
from modeling_ser_mtl.processing_ser_mtl import LogMelFeatureExtractor
from modeling_ser_mtl.training.builders import STATISTICS_CLIPS
from modeling_ser_mtl.training.parser import parse_arguments

SPEAKERS = {"train": ["s0", "s1", "s2"], "validation": ["s3"], "test": ["s4", "s5"]}
RUN = {"streaming": True, "do_train": True, "do_eval": True, "do_predict": True, "per_device_train_batch_size": 4}


@pytest.fixture
def corpus(clips, tmp_path) -> Callable[..., Path]:
    """Writes the clips as Parquet files of 5 rows with embedded audio; `damaged` ones, by their number, hold none."""

    def write(damaged: tuple[int, ...] = ()) -> Path:
        folder = tmp_path / "corpus"
        folder.mkdir()
        for split, speakers in SPEAKERS.items():
            rows = clips[clips["speaker_id"].isin(speakers)]
            audio = [
                {"bytes": b"no audio" if index in damaged else Path(path).read_bytes(), "path": f"{index}.wav"}
                for index, path in rows["audio"].items()
            ]
            dataset = Dataset.from_dict({**rows.drop(columns="audio").to_dict("list"), "audio": audio})
            dataset = dataset.cast_column("audio", Audio(decode=False))
            num_files = -(-len(rows) // 5)
            for number in range(num_files):
                part = dataset.select(range(5 * number, min(5 * number + 5, len(rows))))
                part.to_parquet(folder / f"{split}-{number:05d}-of-{num_files:05d}.parquet")
        return folder

    return write


def run(argv: list[str]) -> dict[str, float]:
    return run_ser_mtl.run(*parse_arguments(argv))


def training_log(output: Path) -> list[dict[str, float]]:
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    slow = ("runtime", "per_second", "preparation_time")
    return [{name: value for name, value in entry.items() if not name.endswith(slow)} for entry in history]


def assert_equal_weights(one: Path, other: Path) -> None:
    weights, others = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert weights.keys() == others.keys()
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []


def test_a_streamed_run_writes_the_usual_files(command, corpus, clips, tmp_path) -> None:
    metrics = run(command(dataset_name=corpus(), **RUN, dataloader_num_workers=1))
    output = tmp_path / "output"
    results = {f"{name}_results.json" for name in ("train", "eval", "predict", "all")}
    files = {"model.safetensors", "config.json", "README.md", "run_facts.json", "predictions.csv", "skipped.csv"}
    assert {path.name for path in output.iterdir()} >= results | files
    assert "predict_emotion_macro_f1" in metrics and "eval_speaker_eer" not in metrics  # one validation speaker
    predictions = pd.read_csv(output / "predictions.csv")
    assert predictions["true_emotion"].tolist() == clips["emotion"][16:].tolist()
    assert predictions["audio"].tolist() == list(range(8))
    assert (output / "skipped.csv").read_text() == "manifest,row,audio,reason\n"
    assert "| train | corpus | 12 | unknown |" in (output / "README.md").read_text()


def test_in_the_same_order_a_stream_trains_as_the_corpus_on_disk(command, corpus, tiny_config, tmp_path) -> None:
    options = {
        "dataset_name": corpus(),
        "config_name": tiny_config(),
        "num_train_epochs": 2,
        "max_seconds": 0.4,
        "augment": "speed",
    }
    run(command(**options | RUN | {"shuffle_buffer_size": 1, "output_dir": tmp_path / "streamed"}))
    on_disk = {"streaming": False, "train_sampling_strategy": "sequential", "output_dir": tmp_path / "disk"}
    run(command(**options | RUN | on_disk))
    assert training_log(tmp_path / "streamed") == training_log(tmp_path / "disk")
    assert_equal_weights(tmp_path / "streamed", tmp_path / "disk")
    streamed, disk = (pd.read_csv(tmp_path / name / "predictions.csv") for name in ("streamed", "disk"))
    shared = [column for column in streamed if column != "audio"]
    pd.testing.assert_frame_equal(streamed[shared], disk[shared])


@pytest.mark.parametrize("step", [2, 3, 5], ids=["in the first epoch", "at its end", "in the second epoch"])
def test_a_resumed_stream_gives_the_weights_of_the_run_that_was_not_stopped(command, corpus, tmp_path, step) -> None:
    options = RUN | {
        "dataset_name": corpus(damaged=(4,)),
        "max_skipped": 0.1,
        "shuffle_buffer_size": 4,
        "num_train_epochs": 2,
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 10,
        "do_eval": False,
        "do_predict": False,
    }
    run(command(**options))
    again = {"output_dir": tmp_path / "again", "resume_from_checkpoint": tmp_path / "output" / f"checkpoint-{step}"}
    run(command(**options | again))
    assert_equal_weights(tmp_path / "output" / "checkpoint-6", tmp_path / "again" / "checkpoint-6")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_damaged_clips_are_skipped_and_listed(command, corpus, tmp_path, num_workers, caplog) -> None:
    folder = corpus(damaged=(3, 14, 20))
    options = {"max_skipped": 0.13, "dataloader_num_workers": num_workers}
    metrics = run(command(dataset_name=folder, **RUN, **options))
    skipped = pd.read_csv(tmp_path / "output" / "skipped.csv")
    assert list(zip(skipped["manifest"], skipped["row"], strict=True)) == [
        (f"{folder} (test)", 4),
        (f"{folder} (train)", 3),
        (f"{folder} (validation)", 2),
    ]
    assert skipped["reason"].str.contains("cannot be decoded as audio").all()
    assert sum("clips can't be used and are skipped" in message for message in caplog.messages) == 3  # one a set
    predictions = pd.read_csv(tmp_path / "output" / "predictions.csv")
    assert predictions["audio"].tolist() == [0, 1, 2, 3, 5, 6, 7]
    assert all(value == value for value in metrics.values())


@pytest.mark.parametrize("damaged", [(3, 9), (13, 14), (17, 22)], ids=["training", "validation", "test"])
def test_too_many_damaged_clips_stop_the_run(command, corpus, capsys, damaged) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_ser_mtl.main(command(dataset_name=corpus(damaged), **RUN, max_skipped=0.05))
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: 2 of 24 clips can't be used so far, more than --max_skipped 0.05; one of them: ")
    assert "cannot be decoded" in line


def test_a_set_without_a_usable_clip_is_named(command, corpus, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_ser_mtl.main(command(dataset_name=corpus((12, 13, 14, 15)), **RUN, max_skipped=1))
    assert "(validation): no clip can be used" in capsys.readouterr().err.splitlines()[-1]


def test_log_mel_statistics_come_from_the_first_clips(command, corpus, clips, tiny_config, tmp_path) -> None:
    assert STATISTICS_CLIPS > 12
    options = {"config_name": tiny_config("wav2vec2-bert"), "max_skipped": 0.1, "tasks": ["emotion"]}
    run(command(dataset_name=corpus(damaged=(2,)), **RUN, **options))
    saved = json.loads((tmp_path / "output" / "processor_config.json").read_text())["feature_extractor"]
    expected = LogMelFeatureExtractor(num_mel_bins=saved["num_mel_bins"], stride=saved["stride"])
    expected.fit([load_audio(path) for path in clips["audio"][:12].drop(2)])
    assert saved["mean"] == pytest.approx(list(expected.mean)) and saved["std"] == pytest.approx(list(expected.std))


def test_held_out_speakers_and_folds_are_those_of_the_corpus_on_disk(command, corpus, tmp_path) -> None:
    folder = corpus()
    for file in folder.glob("*.parquet"):
        if not file.name.startswith("train"):
            file.unlink()
    options = {"dataset_name": folder, "num_folds": 3, "fold": 1, "validation_speakers": 0.5} | RUN
    facts = []
    for streaming in (True, False):
        run(command(**options | {"streaming": streaming, "output_dir": tmp_path / str(streaming)}))
        splits = json.loads((tmp_path / str(streaming) / "run_facts.json").read_text())["splits"]
        facts.append({name: {**split, "hours": None} for name, split in splits.items()})
        shutil.rmtree(tmp_path / str(streaming))
    assert facts[0] == facts[1] and facts[0].keys() == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"class_aware_batches": True}, "--class_aware_batches: needs clips in any order"),
        (
            {"train_sampling_strategy": "group_by_length"},
            "--train_sampling_strategy group_by_length: needs clips in any",
        ),
        ({"trials_file": "trials.txt"}, "--trials_file: needs clips"),
        ({"submission_file": "submission.csv"}, "--submission_file: needs clips"),
        ({"shuffle_buffer_size": 0}, "--shuffle_buffer_size 0: give 1 or more"),
        ({"dataset_name": None, "train_file": "m.csv"}, "--streaming: only with --dataset_name"),
        ({"dataset_splits": ["test=train[:5]"]}, "could not be loaded (Bad split: train[:5]."),
    ],
)
def test_what_a_stream_cannot_do_is_one_line(command, corpus, capsys, options, says) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_ser_mtl.main(command(**{"dataset_name": corpus()} | RUN | options))
    lines = capsys.readouterr().err.splitlines()
    assert says in lines[-1] and lines[-1].startswith("error: ")
