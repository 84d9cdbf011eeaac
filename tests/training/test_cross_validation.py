"""Every fold from one command, to be given again until all are finished."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.training.cross_validation import count_folds, finish_runs, main, summarize

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["--num_train_epochs", "1", "--max_seconds", ".5", "--per_device_train_batch_size", "8"]


@pytest.fixture
def command(clips, tmp_path, monkeypatch) -> list[str]:
    """Two folds of six speakers, a short training each, below `outputs`."""
    monkeypatch.chdir(tmp_path)
    clips.to_csv("manifest.csv", index=False)
    backbone = {
        "model_type": "wav2vec2-bert",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "feature_projection_input_dim": 160,
        "position_embeddings_type": "rotary",
        "mask_time_prob": 0.0,
    }
    Path("model.json").write_text(json.dumps({"model_type": "ser_mtl", "backbone_config": backbone}))
    settings = ["--config_name", "model.json", "--train_file", "manifest.csv", "--num_folds", "2", *SHORT]
    settings += ["--validation_speakers", ".5", "--do_train", "True", "--do_predict", "True", "--report_to", "none"]
    return [*settings, "--output_dir", "outputs"]


@pytest.fixture(autouse=True)
def run_ser_mtl_is_importable(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_every_fold_is_tested_once_and_the_mean_is_theirs(command, capsys) -> None:
    main([*command, "--processes", "2"])
    results = [json.loads(Path(f"outputs/fold-{fold}/all_results.json").read_text()) for fold in range(2)]
    tested = [pd.read_csv(f"outputs/fold-{fold}/predictions.csv")["audio"] for fold in range(2)]
    assert sorted(pd.concat(tested)) == sorted(pd.read_csv("manifest.csv")["audio"])
    summary = json.loads(Path("outputs/cross_validation.json").read_text())["predict_emotion_uar"]
    uar = [result["predict_emotion_uar"] for result in results]
    assert summary["mean"] == pytest.approx(np.mean(uar))
    assert summary["std"] == pytest.approx(np.std(uar, ddof=1))
    printed = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("mean"))
    assert float(printed.split()[1]) == pytest.approx(np.mean(uar), abs=6e-4)


def test_the_same_command_again_finishes_what_is_missing_and_leaves_the_rest(command) -> None:
    # Fold 0 stopped between its training and its test, fold 1 while it saved its first checkpoint.
    main([*command, "--folds", "0"])
    for name in ("README.md", "run_facts.json", "predictions.csv", "predict_results.json"):
        Path("outputs/fold-0", name).unlink()
    shutil.copy("outputs/fold-0/train_results.json", "outputs/fold-0/all_results.json")
    Path("outputs/fold-1/runs/events").mkdir(parents=True)
    Path("outputs/fold-1/skipped.csv").write_text("audio\n")
    Path("outputs/fold-1/checkpoint-1").mkdir()
    main(command)
    results = [Path(f"outputs/fold-{fold}/all_results.json") for fold in range(2)]
    assert all("predict_emotion_uar" in json.loads(path.read_text()) for path in results)
    log = Path("outputs/fold-0.log").read_text()
    kept = [path.stat().st_mtime_ns for path in results]
    main(command)
    assert [path.stat().st_mtime_ns for path in results] == kept
    assert Path("outputs/fold-0.log").read_text() == log


def test_folds_of_other_settings_are_not_mixed(command) -> None:
    Path("outputs/fold-0").mkdir(parents=True)
    Path("outputs/settings.json").write_text(json.dumps({"num_folds": "2", "seed": "1"}))
    with pytest.raises(InputError, match=r"other settings \(.*seed.*\); give the same ones"):
        main(command)


def test_a_failed_fold_is_one_line_with_its_reason(command) -> None:
    wrong = ["nosuch.csv" if item == "manifest.csv" else item for item in command]
    with pytest.raises(InputError, match=r"fold-0: the run ended with code 2 \(error: .*nosuch.csv.*fold-0.log"):
        main(wrong)
    # It has spoiled nothing: the corrected command is not refused for its settings.
    with pytest.raises(InputError, match="--max_steps"):
        main([*command, "--max_steps", "none"])


def test_an_interrupt_says_how_to_go_on_and_leaves_no_run_behind(command) -> None:
    arguments = [sys.executable, "-m", "modeling_ser_mtl.cli", "cross-validate", *command, "--num_train_epochs", "9999"]
    # Whoever runs the tests in the background of a shell ignores SIGINT, and children inherit that.
    process = subprocess.Popen(
        arguments, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    log = Path("outputs/fold-0.log")
    while not (log.is_file() and "epoch" in log.read_text()):
        assert process.poll() is None
        time.sleep(0.2)
    runs = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert printed.splitlines()[-1] == "interrupted; the same command goes on"
    assert [run.is_running() for run in runs] == [False]


def test_a_folder_with_other_files_is_not_touched(command) -> None:
    Path("outputs/fold-0").mkdir(parents=True)
    Path("outputs/fold-0/notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        main(command)
    assert Path("outputs/fold-0/notes.txt").read_text() == "mine"


def test_finished_runs_start_no_process(tmp_path) -> None:
    folder = tmp_path / "fold-0"
    folder.mkdir()
    (folder / "README.md").write_text("# a model card")
    assert list(finish_runs({folder: ["--no_such_option"]}, processes=1)) == [folder]


@pytest.mark.parametrize(("given", "threads"), [(None, max(1, os.cpu_count() // 2)), ("7", 7)])
def test_a_run_has_its_share_of_the_cores_or_the_threads_that_are_asked_for(
    given, threads, tmp_path, monkeypatch
) -> None:
    (tmp_path / "run_ser_mtl.py").write_text("import os; print(os.environ['OMP_NUM_THREADS'])")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    list(finish_runs({tmp_path / "run": []}, processes=2))
    assert int((tmp_path / "run.log").read_text()) == threads


def test_a_column_has_as_many_folds_as_values(clips, tmp_path) -> None:
    table = clips.assign(block=["1", "2", " 2", "5"] * 6).rename(columns={"audio": "file"})
    table.to_csv(tmp_path / "m.csv", index=False)
    settings = ["--train_file", str(tmp_path / "m.csv"), "--column_mapping", "audio=file", "corpus=block"]
    assert count_folds([*settings, "--fold_column", "corpus"]) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--processes", "0"], "--processes 0: give 1 or more"),
        (["--train_file", "m.csv"], "needs --num_folds or --fold_column"),
        (["--dataset_name", "a/b", "--fold_column", "session"], "list the folds with --folds"),
        (["--processes", "two"], "invalid int value"),
        (["--num_fold", "3"], "unknown option --num_fold; did you mean --num_folds"),
    ],
)
def test_options_that_make_no_cross_validation_are_told_in_one_line(options, message, tmp_path) -> None:
    with pytest.raises(InputError, match=message):
        main(["--output_dir", str(tmp_path / "outputs"), *options])
    assert not (tmp_path / "outputs").exists()


def test_a_metric_that_a_run_lacks_does_not_count_in_the_mean(tmp_path) -> None:
    for name, results in (("a", {"uar": 0.4, "wer": 1.0}), ("b", {"uar": 0.6})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "all_results.json").write_text(json.dumps(results))
    table = summarize([tmp_path / "a", tmp_path / "b"])
    assert table.loc["mean"].to_dict() == {"uar": 0.5, "wer": 1.0}
    assert np.isnan(table.at["b", "wer"])
