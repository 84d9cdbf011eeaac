"""Two processes train and predict as one run: every clip once, one voice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
# `--cpu --num_processes 2` starts one process (more need MPI); `--multi_gpu` starts two, which use gloo without a GPU.
LAUNCHERS = {
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"],
    "torchrun": ["torch.distributed.run", "--nproc-per-node", "2"],
}

pytestmark = pytest.mark.slow


@pytest.fixture
def launch(unused_port: int, tmp_path: Path):
    """Runs a command line under a launcher, two processes on the CPU."""

    def run(launcher: str, argv: list[str]) -> subprocess.CompletedProcess:
        module, *options = LAUNCHERS[launcher]
        port = "--main_process_port" if launcher == "accelerate" else "--master-port"
        return subprocess.run(
            [sys.executable, "-m", module, *options, port, str(unused_port), str(ROOT / "run_ser_mtl.py"), *argv],
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=540,
        )

    return run


@pytest.fixture
def train(manifest) -> dict[str, object]:
    """Options of a run whose training and test clips do not divide by two processes: 8 + 4 train, 7 are predicted."""
    test = manifest("test.csv", [4, 5])
    pd.read_csv(test).iloc[:7].to_csv(test, index=False)
    return {
        "train_file": manifest("train.csv", [0, 1, 2]),
        "validation_file": manifest("validation.csv", [3]),
        "test_file": test,
        "do_train": True,
        "do_predict": True,
        "per_device_train_batch_size": 5,
        "per_device_eval_batch_size": 2,
    }


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_predict_every_clip_once_in_manifest_order(command, launch, train, tmp_path, launcher) -> None:
    result = launch(launcher, command(**train))
    assert result.returncode == 0, result.stderr[-3000:]
    predictions = pd.read_csv(tmp_path / "output" / "predictions.csv")
    assert predictions["audio"].tolist() == pd.read_csv(train["test_file"])["audio"].tolist()
    assert result.stdout.count("test set: 7 clips") == 1
    # 12 clips in batches of 5 are 2 steps for two processes, 3 for one.
    assert json.loads((tmp_path / "output" / "trainer_state.json").read_text())["global_step"] == 2

    # One process gives the same predictions with the same weights.
    alone = {"model_name_or_path": tmp_path / "output", "output_dir": tmp_path / "alone", "do_predict": True}
    argv = command(**alone, test_file=train["test_file"])
    subprocess.run([sys.executable, str(ROOT / "run_ser_mtl.py"), *argv], check=True, capture_output=True, timeout=300)
    numbers = ["emotion_score", "p_anger", "p_sadness"]
    expected = pd.read_csv(tmp_path / "alone" / "predictions.csv")
    pd.testing.assert_frame_equal(predictions[numbers], expected[numbers], atol=2e-6)
    assert predictions["text"].equals(expected["text"])


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_mistake_is_said_once(command, launch, train, launcher) -> None:
    train["test_file"] = train["train_file"]
    result = launch(launcher, command(**train))
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if "error: " in line and "s0" in line]
    assert len(lines) == 1
    assert "speaker(s) of the test set" in lines[0]


@pytest.mark.parametrize("order", ["group_by_length", "random"])
def test_two_processes_resume_in_the_middle_of_a_later_epoch(
    command, launch, train, tiny_config, tmp_path, order
) -> None:
    train |= {
        "config_name": tiny_config("wav2vec2", layerdrop=0.3),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "train_sampling_strategy": order,
        "augment": ["speed"],
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 20,
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "do_predict": False,
        "test_file": None,
    }
    # 12 clips, 2 processes x 2 clips: 3 steps an epoch.
    again = {"output_dir": tmp_path / "resumed", "resume_from_checkpoint": tmp_path / "output" / "checkpoint-4"}
    for options in ({}, again):
        result = launch("torchrun", command(**train | options))
        assert result.returncode == 0, result.stderr[-3000:]
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("output", "resumed"))
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
