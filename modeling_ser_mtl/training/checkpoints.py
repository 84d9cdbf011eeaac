"""Where a training goes on."""

import re
from pathlib import Path

from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.errors import InputError


def last_checkpoint(output_dir: Path) -> str | None:
    """
    The last complete checkpoint in `output_dir` (`Path`), None without one. A checkpoint is complete with the state of
    the trainer, which is written last: one in whose saving the run was killed is passed over.
    """
    steps = {
        int(name[1]): path
        for path in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if (name := re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name))
        and (path / TRAINER_STATE_NAME).is_file()
    }
    return str(steps[max(steps)]) if steps else None


def starting_checkpoint(args: TrainingArguments) -> str | None:
    """
    The checkpoint that `--resume_from_checkpoint` names (`True`: the last one in the output folder); None starts anew.

    Args:
        args (`TrainingArguments`): name the output folder and the checkpoint.

    Raises:
        InputError: there is no such checkpoint, or a new training would write into a folder that has files.
    """
    output_dir, source = Path(str(args.output_dir)), str(args.resume_from_checkpoint or False)
    has_files = output_dir.is_dir() and any(output_dir.iterdir())
    if source.lower() == "false":
        if args.do_train and has_files:
            resume = "continue with --resume_from_checkpoint True"
            if last_checkpoint(output_dir) is None:
                resume = "it has no checkpoint for --resume_from_checkpoint, so delete it"
            raise InputError(f"{output_dir}: the output folder is not empty; {resume} or choose another --output_dir")
        return None
    if source.lower() == "true":
        checkpoint = last_checkpoint(output_dir)
        if checkpoint is None:
            raise InputError(f"--resume_from_checkpoint True: {output_dir} has no checkpoint; drop the option")
        return checkpoint
    if not (Path(source) / TRAINER_STATE_NAME).is_file():
        raise InputError(f"--resume_from_checkpoint {source}: no checkpoint; give a folder checkpoint-<step>, or True")
    return source
