"""Data arguments -> the sets of a run: read, checked, split by speaker."""

import logging
from collections.abc import Sequence

import pandas as pd

from ..data.corpora.espeak import build_corpus, default_folder
from ..data.errors import InputError
from ..data.loading import Split, drop_unusable, load_dataset_splits, load_manifest_splits, split_by_speaker
from .arguments import DataArguments

logger = logging.getLogger(__name__)


def prepare_splits(
    args: DataArguments, *, required: Sequence[str], seed: int, do_train: bool, do_predict: bool
) -> tuple[dict[str, Split], pd.DataFrame]:
    """
    The training, validation and test set of a run, without clips that can't be used.

    Args:
        args ([`DataArguments`]): where the clips are and how they are split.
        required (`Sequence[str]`): label columns of the chosen tasks.
        seed (`int`): seed of the validation speakers.
        do_train (`bool`), do_predict (`bool`): which sets are needed.

    Returns:
        The sets by name, and a table `manifest,row,audio,reason` of the clips that were skipped.

    Raises:
        InputError: no source or several, data that can't be read, more unusable clips than `--max_skipped`, or speakers
            shared between sets.
    """
    files = {"train": args.train_file, "validation": args.validation_file, "test": args.test_file}
    sources = [any(files.values()), args.dataset_name is not None, args.synthetic_corpus]
    if sum(sources) != 1:
        raise InputError(
            "give one source of data: --train_file (and --validation_file, --test_file), --dataset_name or "
            "--synthetic_corpus"
        )
    if args.synthetic_corpus:
        files = {"train": [str(build_corpus(default_folder()))]}
    if args.dataset_name is not None:
        splits = load_dataset_splits(args.dataset_name, args.dataset_config_name, required)
    else:
        splits = load_manifest_splits(files, required)
    if do_train and "train" not in splits:
        raise InputError("--do_train: there are no training clips; give --train_file or --dataset_name")
    splits = split_by_speaker(
        splits,
        num_folds=args.num_folds,
        fold=args.fold,
        validation_speakers=args.validation_speakers,
        seed=seed,
        needs_validation=do_train,
    )
    wanted = {"train": do_train, "validation": True, "test": do_predict}
    splits = {name: split for name, split in splits.items() if wanted[name]}

    total, skipped = sum(map(len, splits.values())), []
    for name, split in splits.items():
        splits[name], unusable = drop_unusable(split, args.preprocessing_num_workers)
        skipped.append(unusable)
    skipped_table = pd.concat(skipped)
    if len(skipped_table) > args.max_skipped * total:
        first = skipped_table.iloc[0]
        raise InputError(
            f"{len(skipped_table)} of {total} clips can't be used, more than --max_skipped {args.max_skipped:g}; "
            f"the first: {first['manifest']} row {first['row']}, {first['reason']}"
        )
    if len(skipped_table):
        logger.warning("%d of %d clips can't be used and are skipped, see skipped.csv", len(skipped_table), total)
    for name, split in splits.items():
        if not len(split):
            raise InputError(f"the {name} set has no usable clip; check its manifest")
    return splits, skipped_table
