"""Two processes share a streamed corpus: each reads its own part in training, and together they predict every clip."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from datasets import Audio, Dataset

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(clips, tmp_path) -> Path:
    """The 24 clips as four Parquet files; that of row 5 is damaged."""
    folder = tmp_path / "speech"
    folder.mkdir()
    audio = [{"bytes": Path(path).read_bytes(), "path": None} for path in clips["audio"]]
    audio[5]["bytes"] = b"no audio"
    dataset = Dataset.from_dict({**clips.drop(columns="audio").to_dict("list"), "audio": audio})
    for number in range(4):
        part = dataset.cast_column("audio", Audio(decode=False)).select(range(6 * number, 6 * number + 6))
        part.to_parquet(folder / f"train-{number:05d}-of-00004.parquet")
    return folder


def test_two_processes_with_workers_train_and_predict_a_stream(command, folder, unused_port, tmp_path) -> None:
    data = {"dataset_name": folder, "num_folds": 3, "max_skipped": 0.05, "max_seconds": 0.3, "use_cpu": True}
    options = data | {
        "streaming": True,
        "fold": 2,
        "do_train": True,
        "do_predict": True,
        "per_device_train_batch_size": 3,
        "per_device_eval_batch_size": 3,
        "num_train_epochs": 2,
        "dataloader_num_workers": 2,
    }
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--main_process_port", str(unused_port), str(ROOT / "run_ser_mtl.py")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = {"env": environment, "capture_output": True, "text": True, "timeout": 300}
    result = subprocess.run([sys.executable, *launcher, *command(**options)], **run)
    assert result.returncode == 0, result.stderr[-3000:]
    output = tmp_path / "output"
    # Two speakers train; their 8 clips are 4 for each process, in batches of 3 two steps an epoch.
    state = json.loads((output / "trainer_state.json").read_text())
    assert (state["global_step"], state["epoch"]) == (4, 2)
    assert pd.read_csv(output / "skipped.csv")["row"].tolist() == [5]
    assert result.stdout.count("test set: 8 clips") == 1

    # One process that has the corpus on its disk predicts the same with the same weights.
    alone = {"model_name_or_path": output, "output_dir": tmp_path / "alone", "fold": 2, "do_predict": True}
    argv = [sys.executable, str(ROOT / "run_ser_mtl.py"), *command(**data | alone)]
    subprocess.run(argv, **run, check=True)
    found, expected = (pd.read_csv(path / "predictions.csv") for path in (output, tmp_path / "alone"))
    numbers = ["emotion_score", "p_anger", "p_sadness"]
    pd.testing.assert_frame_equal(found[numbers], expected[numbers], atol=2e-6)
    assert found["text"].equals(expected["text"]) and found["audio"].tolist() == list(range(16, 24))
