"""The classes of a run and the metric that chooses its checkpoint, from the labels that the data has."""

import logging
from collections.abc import Sequence

import pandas as pd

from ..configuration_ser_mtl import SerMtlConfig
from ..data.dataset import LabelNames
from ..data.errors import InputError
from ..data.manifest import check_labels
from .arguments import ModelArguments, SerMtlTrainingArguments
from .builders import is_checkpoint

logger = logging.getLogger(__name__)

LABEL_COLUMN = {"emotion": "emotion", "gender": "gender", "speaker": "speaker_id", "asr": "text"}
# The metric of each task that chooses the checkpoint, and whether higher is better.
BEST_METRIC = {
    "emotion": ("emotion_macro_f1", True),
    "gender": ("gender_uar", True),
    "speaker": ("speaker_eer", False),
    "asr": ("asr_wer", False),
}


def label_names(args: ModelArguments, config: SerMtlConfig, tables: dict[str, pd.DataFrame]) -> LabelNames:
    """
    The classes of a run.

    Emotions are those named, those of the checkpoint, or those in the data, sorted; speakers are those that train.

    Args:
        args ([`ModelArguments`]): name the emotions and genders.
        config ([`SerMtlConfig`]): tasks, and the labels of a checkpoint.
        tables (`dict[str, pd.DataFrame]`): rows of [`~data.manifest.read_manifest`] by set: train, validation, test.

    Raises:
        InputError: a label outside the checkpoint's or `--gender_labels`, or fewer than two emotions to train.
    """
    tasks = config.tasks
    continues = is_checkpoint(args, config)
    genders = config.gender_labels if continues else args.gender_labels
    emotions = config.emotion_labels
    if "emotion" in tasks and not continues:
        emotions = args.emotion_labels or sorted(set().union(*(table["emotion"] for table in tables.values())) - {""})
    for table in tables.values():
        if "emotion" in tasks:
            option = (
                f"--emotion_labels {' '.join(emotions)}, which empties all others" if continues else "--emotion_labels"
            )
            check_labels(table, "emotion", emotions, option)
        if "gender" in tasks:
            check_labels(table, "gender", genders, "--gender_labels")
    speakers: list[str] = []
    if "train" in tables:
        speakers = sorted(set(tables["train"]["speaker"]) - {""})
        trained = sorted(set(tables["train"]["emotion"]) & set(emotions))
        if "emotion" in tasks and len(trained) < 2:
            found = f"only {trained[0]!r}" if trained else "none"
            raise InputError(
                f"{tables['train']['manifest'].iloc[0]}: training needs clips of at least two emotions, found {found}; "
                "check the `emotion` column and --emotion_labels, or leave the task out with --tasks"
            )
    return LabelNames(list(emotions), list(genders), speakers)


def warn_about_labels(tables: dict[str, pd.DataFrame], tasks: Sequence[str], labels: LabelNames) -> None:
    """
    Warns of tasks without training labels, and of emotions that train but don't validate, or the reverse.

    Args:
        tables (`dict[str, pd.DataFrame]`): rows by set; `train`, and `validation` if there is one.
        tasks (`Sequence[str]`): the model's tasks.
        labels ([`LabelNames`]): its classes.
    """
    train = tables["train"]
    for task in tasks:
        if (train[LABEL_COLUMN[task]] == "").all():
            logger.warning("no training clip has a label for the task %s: its head stays untrained", task)
    if "emotion" not in tasks or "validation" not in tables:
        return
    counts = {name: tables[name]["emotion"].value_counts() for name in ("train", "validation")}
    for emotion in labels.emotion:
        trained, validated = (int(counts[name].get(emotion, 0)) for name in ("train", "validation"))
        if (trained == 0) != (validated == 0):
            logger.warning("emotion %s: %d training clips, %d validation clips", emotion, trained, validated)


def choose_best_metric(args: SerMtlTrainingArguments, tasks: Sequence[str], validation: pd.DataFrame) -> None:
    """
    Sets the metric that chooses the checkpoint, unless `--metric_for_best_model` did: that of the first task.

    Args:
        args ([`SerMtlTrainingArguments`]): changed in place.
        tasks (`Sequence[str]`): the model's tasks, one or more.
        validation (`pd.DataFrame`): rows of the validation set, one or more.

    Raises:
        InputError: no validation clip has a label of the metric's task.
    """
    if args.metric_for_best_model is None:
        args.metric_for_best_model, args.greater_is_better = BEST_METRIC[tasks[0]]
    task = args.metric_for_best_model.removeprefix("eval_").split("_")[0]
    if args.load_best_model_at_end and task in tasks and (validation[LABEL_COLUMN[task]] == "").all():
        raise InputError(
            f"{validation['manifest'].iloc[0]}: no validation clip has a label for {task}, so "
            f"{args.metric_for_best_model} can't choose the checkpoint; give other validation clips or another "
            "--metric_for_best_model"
        )
