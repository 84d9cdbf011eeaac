"""Two processes learn what one process learns from the same global batches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from modeling_ser_mtl import SerMtlModel

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture
def options(manifest, tiny_config, tmp_path) -> dict[str, object]:
    """20 steps on 16 clips without anything random; labels are missing here and there, so ranks have different many."""
    config = json.loads(tiny_config("wav2vec2", mask_time_prob=0.0).read_text()) | {"fusion_dropout": 0.0}
    for name in ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"):
        config["backbone_config"][name] = 0.0
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    train = manifest("train.csv", [0, 1, 2, 3])
    table = pd.read_csv(train, dtype=str, keep_default_na=False)
    for number, column in enumerate(("emotion", "gender", "speaker_id", "text")):
        missing = [row for row in range(16) if (row * 7 + number * 3) % 5 < number + 1 and column != "speaker_id"]
        table.loc[missing, column] = ""
    table.loc[4, "text"] = "far too long " * 20
    table.to_csv(train, index=False)
    return {
        "config_name": path,
        "train_file": train,
        "validation_file": manifest("validation.csv", [4, 5]),
        "do_train": True,
        "max_steps": 20,
        "num_train_epochs": None,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "task_gradient_steps": 5,
        "swfc_memory_size": 6,
    }


OPTIMIZERS = {
    "sgd": {"optim": "sgd", "learning_rate": 0.05, "weight_decay": 0, "max_grad_norm": 0},
    "adamw": {"optim": "adamw_torch", "learning_rate": 1e-3},
}


@pytest.fixture
def train(command, options, unused_port, tmp_path):
    """Trains with `processes` processes and returns the output folder; the global batch is 8 clips."""

    def run(processes: int, **more: object) -> Path:
        output = tmp_path / f"{processes}"
        argv = command(**options, **more, per_device_train_batch_size=8 // processes, output_dir=output)
        launcher = []
        if processes > 1:
            launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
            launcher += ["--num_machines", "1", "--main_process_port", str(unused_port)]
        result = subprocess.run(
            [sys.executable, *launcher, str(ROOT / "run_ser_mtl.py"), *argv],
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=540,
        )
        assert result.returncode == 0, result.stderr[-3000:]
        return output

    return run


def training_log(output: Path) -> list[dict[str, float]]:
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


def test_under_sgd_the_weights_agree(train) -> None:
    one, two = train(1, **OPTIMIZERS["sgd"]), train(2, **OPTIMIZERS["sgd"])
    weights = [load_file(output / "model.safetensors") for output in (one, two)]
    torch.manual_seed(0)
    assert weights[0].keys() == weights[1].keys()
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=0, atol=1e-5)
    # Both log the same: losses, skipped transcripts, gradients on the encoder.
    for entry, other in zip(training_log(one), training_log(two), strict=True):
        assert entry.keys() == other.keys() and {"loss_swfc", "asr_infeasible"} <= entry.keys()
        for name in entry:
            assert other[name] == pytest.approx(entry[name], rel=1e-3, abs=2e-4), name
    assert any("encoder_grad_cosine_speaker" in entry for entry in training_log(two))
    losses = [entry["loss"] for entry in training_log(one)]
    assert losses[-1] < 0.9 * losses[0]


def test_under_adamw_the_logits_agree(train) -> None:
    models = [SerMtlModel.from_pretrained(train(n, **OPTIMIZERS["adamw"])).eval() for n in (1, 2)]
    waveforms = torch.randn(4, 8_000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, two = (model(waveforms) for model in models)
    for name in ("logits", "gender_logits", "ctc_logits", "speaker_embeddings", "emotion_embeddings"):
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-5)
