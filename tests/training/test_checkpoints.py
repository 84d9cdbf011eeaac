"""A training goes on from the last checkpoint that was saved whole."""

from pathlib import Path

import pytest
from transformers import TrainingArguments

from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.training.checkpoints import last_checkpoint, starting_checkpoint


def save(folder: Path, step: int, files: list[str]) -> Path:
    """A checkpoint folder with empty files."""
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    for name in files:
        (checkpoint / name).touch()
    return checkpoint


def test_a_checkpoint_whose_saving_was_interrupted_is_passed_over(tmp_path) -> None:
    whole = save(tmp_path, 9, ["model.safetensors", "trainer_state.json"])
    save(tmp_path, 5, ["model.safetensors", "trainer_state.json"])
    save(tmp_path, 10, ["model.safetensors"])
    arguments = TrainingArguments(str(tmp_path), resume_from_checkpoint="True", report_to="none")
    assert last_checkpoint(tmp_path) == starting_checkpoint(arguments) == str(whole)


def test_a_folder_without_a_whole_checkpoint_cannot_be_resumed(tmp_path) -> None:
    save(tmp_path, 10, ["model.safetensors"])
    assert last_checkpoint(tmp_path) is None and last_checkpoint(tmp_path / "none") is None
    arguments = TrainingArguments(str(tmp_path), resume_from_checkpoint="True", report_to="none")
    with pytest.raises(InputError, match="has no checkpoint"):
        starting_checkpoint(arguments)
