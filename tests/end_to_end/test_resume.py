"""A run that stopped and was resumed ends with the weights of one that did not stop, bit by bit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import run_ser_mtl

# Every source of randomness; 16 clips in batches of 4: 4 steps an epoch.
RANDOM = {
    "augment": ["speed", "noise"],
    "augment_probability": 0.8,
    "train_sampling_strategy": "group_by_length",
    "per_device_train_batch_size": 4,
    "num_train_epochs": 3,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "save_total_limit": 10,
    "max_seconds": 0.4,
    "do_train": True,
}


@pytest.fixture
def options(manifest, tiny_config) -> dict[str, object]:
    """Options of a run with augmentation, crops, SpecAugment, layerdrop, dropout and grouping by length."""
    return RANDOM | {
        "config_name": tiny_config("wav2vec2", layerdrop=0.3, hidden_dropout=0.1),
        "train_file": manifest("train.csv", [0, 1, 2, 3]),
        "validation_file": manifest("validation.csv", [4, 5]),
    }


def assert_equal_weights(one: Path, other: Path) -> None:
    one, other = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


def truncate(output: Path, step: int) -> None:
    """Leaves of a run's folder what a run killed after the checkpoint of `step` leaves."""
    for path in output.iterdir():
        if path.is_file():
            path.unlink()
        elif int(path.name.removeprefix("checkpoint-")) > step:
            shutil.rmtree(path)


STATEFUL = {"ema_decay": 0.9, "class_aware_batches": True, "swfc_memory_size": 6, "task_balancing": "uncertainty"}


@pytest.mark.parametrize(
    ("step", "more"),
    [(2, {}), (6, {}), (8, {}), (6, STATEFUL)],
    ids=[
        "in the first epoch",
        "in a later epoch",
        "at an epoch's end",
        "with averaged weights and a memory",
    ],
)
def test_resuming_gives_the_weights_of_the_run_that_was_not_stopped(command, options, tmp_path, step, more) -> None:
    options |= more
    whole, resumed = tmp_path / "output", tmp_path / "whole"
    run_ser_mtl.main(command(**options))
    shutil.copytree(whole, resumed)
    whole, resumed = resumed, whole
    truncate(resumed, step)

    run_ser_mtl.main(command(**options, resume_from_checkpoint="True"))
    assert_equal_weights(whole / "checkpoint-12", resumed / "checkpoint-12")
    assert_equal_weights(whole, resumed)
    histories = [
        [
            {name: value for name, value in entry.items() if not name.endswith(("runtime", "per_second"))}
            for entry in json.loads((folder / "checkpoint-12" / "trainer_state.json").read_text())["log_history"]
        ]
        for folder in (whole, resumed)
    ]
    assert histories[0] == histories[1]


def test_a_checkpoint_is_complete_with_the_state_of_the_trainer(command, options, tmp_path) -> None:
    run_ser_mtl.main(command(**options | STATEFUL | {"num_train_epochs": 1}))
    files = list((tmp_path / "output" / "checkpoint-4").iterdir())
    assert {"training_weights.safetensors", "embedding_memory.safetensors"} <= {path.name for path in files}
    assert max(files, key=lambda path: path.stat().st_mtime_ns).name == "trainer_state.json"


def test_a_checkpoint_can_be_named(command, options, tmp_path) -> None:
    run_ser_mtl.main(command(**options | {"num_train_epochs": 1}))
    path = tmp_path / "output" / "checkpoint-2"
    again = options | {"num_train_epochs": 1, "output_dir": tmp_path / "again"}
    run_ser_mtl.main(command(**again, resume_from_checkpoint=path))
    assert_equal_weights(tmp_path / "output" / "checkpoint-4", tmp_path / "again" / "checkpoint-4")


def test_another_seed_gives_other_weights(command, options, tmp_path) -> None:
    for seed in (1, 2):
        run_ser_mtl.main(command(**options | {"num_train_epochs": 1, "seed": seed, "output_dir": tmp_path / str(seed)}))
    with pytest.raises(AssertionError):
        assert_equal_weights(tmp_path / "1", tmp_path / "2")
