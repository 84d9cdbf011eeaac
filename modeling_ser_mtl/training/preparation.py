"""Data arguments -> the sets of a run: read, checked, split by speaker."""

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..data import scan_cache
from ..data.augmentation import WaveformAugmentation
from ..data.columns import parse_column_mapping, parse_names
from ..data.corpora.espeak import build_corpus, default_folder
from ..data.dataset import LabelNames, SpeechDataset
from ..data.emotions import count_emotions, map_emotions, parse_emotion_map
from ..data.errors import InputError
from ..data.hub_dataset import load_dataset_splits
from ..data.leaks import check_leaks
from ..data.loading import SPLITS, Split, concatenate_splits, drop_unusable, load_manifest_splits, split_by_speaker
from ..data.manifest import clear_labels_outside, map_strings
from ..data.streaming import Skipped, StreamedDataset
from ..data.text import normalize_transcript
from .arguments import DataArguments, SerMtlTrainingArguments

logger = logging.getLogger(__name__)

MIN_SECONDS = 0.1
# What else makes a set that is missing, or does without it.
OTHERWISE = {
    "train": "",
    "validation": " or --validation_speakers above 0 (or --eval_strategy no and --load_best_model_at_end False)",
    "test": " or --num_folds",
}


def prepare_splits(
    args: DataArguments,
    *,
    required: Sequence[str],
    seed: int,
    do_train: bool,
    do_eval: bool,
    do_predict: bool,
    emotion_labels: Sequence[str] | None = None,
) -> tuple[dict[str, Split], pd.DataFrame]:
    """
    The training, validation and test set of a run, without clips that can't be used unless they are streamed.

    Args:
        args ([`DataArguments`]): where the clips are and how they are split.
        required (`Sequence[str]`): label columns of the chosen tasks, one or more in training.
        seed (`int`): seed of the validation speakers.
        do_train (`bool`), do_eval (`bool`), do_predict (`bool`): which sets are needed.
        emotion_labels (`Sequence[str]`, *optional*): the emotions that count; other clips lose their emotion label.

    Returns:
        `tuple[dict[str, Split], pd.DataFrame]`: the sets by name, that of training without clips that have no label of
            the chosen tasks, and a table `manifest,row,audio,reason,split` of the clips that were skipped.

    Raises:
        InputError: nothing to do, no source or several, `--extra_train_file` without `--train_file`, data that can't be
            read, a set that is needed and not there, more unusable clips than `--max_skipped`, no labelled clip to
            train, or speakers shared between sets without `--allow_shared_speakers`.
    """
    if not (do_train or do_eval or do_predict):
        raise InputError("nothing to do; give --do_train, --do_eval or --do_predict")
    if args.max_seconds < MIN_SECONDS:
        raise InputError(f"--max_seconds {args.max_seconds:g}: give {MIN_SECONDS} or more")
    files = {"train": args.train_file, "validation": args.validation_file, "test": args.test_file}
    sources = [any(files.values()), args.dataset_name is not None, args.synthetic_corpus]
    if sum(sources) != 1:
        raise InputError(
            "give one source of data: --train_file (and --validation_file, --test_file), --dataset_name or "
            "--synthetic_corpus"
        )
    if args.dataset_name is None and (args.streaming or args.dataset_splits is not None):
        raise InputError(f"--{'streaming' if args.streaming else 'dataset_splits'}: only with --dataset_name")
    if args.extra_train_file and not args.train_file:
        raise InputError("--extra_train_file: only beside --train_file")
    mapping = parse_column_mapping(args.column_mapping or [])
    if args.synthetic_corpus:
        files = {"train": [str(build_corpus(default_folder()))]}
    if args.dataset_name is not None:
        splits = load_dataset_splits(
            args.dataset_name,
            args.dataset_config_name,
            required,
            column_mapping=mapping,
            dataset_splits=parse_names(args.dataset_splits or [], "--dataset_splits", SPLITS),
            streaming=args.streaming,
        )
    else:
        files["extra"] = args.extra_train_file
        splits = load_manifest_splits(files, required, args.preprocessing_num_workers, mapping)
    if args.emotion_map is not None:
        emotions = parse_emotion_map(args.emotion_map)
        splits = {name: _map_emotions(name, split, emotions, args.drop_unmapped) for name, split in splits.items()}
    if emotion_labels is not None:  # before the split, which is stratified by emotion
        for split in splits.values():
            split.table = clear_labels_outside(split.table, "emotion", emotion_labels)
    splits = split_by_speaker(
        splits,
        num_folds=args.num_folds,
        fold=args.fold,
        validation_speakers=args.validation_speakers if do_train or do_eval else 0.0,
        seed=seed,
        stratify_folds=args.stratify_folds,
        fold_column=args.fold_column,
        allow_shared_speakers=args.allow_shared_speakers,
    )
    if "extra" in splits:  # after the split, so that it is the same without them
        extra = splits.pop("extra")
        splits["train"] = concatenate_splits([splits["train"], extra]) if "train" in splits else extra
    if not args.streaming:  # files are compared by their content
        check_leaks(splits, args.allow_shared_speakers)
    validates = do_eval or (do_train and "validation" in splits)
    wanted = {"train": do_train, "validation": validates, "test": do_predict}
    for name, flag in wanted.items():
        if flag and name not in splits:
            raise InputError(f"the data has no {name} set; give --{name}_file{OTHERWISE[name]}")
    splits = {name: split for name, split in splits.items() if wanted[name]}
    if do_train:
        splits["train"] = _drop_unlabelled(splits["train"], required)
    if args.streaming:
        return splits, pd.DataFrame(columns=[*Skipped._fields, "split"])

    total, skipped, cache = sum(map(len, splits.values())), [], scan_cache.ScanCache(scan_cache.default_folder())
    for name, split in splits.items():
        splits[name], unusable = drop_unusable(split, args.preprocessing_num_workers, cache)
        skipped.append(unusable.assign(split=name))
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


def check_streaming(data_args: DataArguments, args: SerMtlTrainingArguments) -> None:
    """
    Refuses options beside `--streaming` that need any clip at any time.

    Args:
        data_args ([`DataArguments`]), args ([`SerMtlTrainingArguments`]): the run's options.

    Raises:
        InputError: there is one of them.
    """
    if not data_args.streaming:
        return
    strategy = str(args.train_sampling_strategy)
    options = {
        "class_aware_batches": args.class_aware_batches,
        f"train_sampling_strategy {strategy}": strategy != "random",
        "submission_file": data_args.submission_file is not None,
        "trials_file": data_args.trials_file is not None,
    }
    for option, is_given in options.items():
        if is_given:
            raise InputError(f"--{option}: needs clips in any order and under their names; drop it or --streaming")
    if data_args.shuffle_buffer_size < 1:
        raise InputError(f"--shuffle_buffer_size {data_args.shuffle_buffer_size}: give 1 or more")


def build_dataset(
    args: DataArguments, split: Split, labels: LabelNames, *, training: bool, seed: int
) -> SpeechDataset | StreamedDataset:
    """
    The clips of a set, on disk or streamed.

    Args:
        args ([`DataArguments`]): longest item, augmentation and size of the shuffle buffer.
        split ([`Split`]): the set.
        labels ([`LabelNames`]): classes of the model.
        training (`bool`): whether it trains.
        seed (`int`): seed of crops, augmentation and a stream's order.

    Raises:
        InputError: an augmentation that is unknown or can't be had.
    """
    augmentation = WaveformAugmentation(tuple(args.augment or ()), args.augment_probability, seed) if training else None
    options = {"max_seconds": args.max_seconds, "augmentation": augmentation, "training": training, "seed": seed}
    if split.stream is None:
        return SpeechDataset(split.table, split.audio, labels, **options)
    return StreamedDataset(split.table, split.stream, labels, shuffle_buffer_size=args.shuffle_buffer_size, **options)


def _drop_unlabelled(train: Split, columns: Sequence[str]) -> Split:
    """The training set without clips that have no label in `columns`, which would fill batches and add nothing."""
    labels = train.table[list(columns)]
    if "text" in labels:
        labels = labels.assign(text=map_strings(normalize_transcript, labels["text"]))
    labelled = np.flatnonzero((labels != "").any(axis=1))
    if not len(labelled):
        raise InputError(
            f"{train.table['manifest'].iloc[0]}: no training clip has a label of the chosen tasks; fill in "
            f"{', '.join(columns)}, or choose other --tasks"
        )
    if len(labelled) < len(train):
        logger.warning(
            "%d of %d training clips have no label of the chosen tasks (%s) and are dropped",
            len(train) - len(labelled),
            len(train),
            ", ".join(columns),
        )
    return train.take(labelled)


def _map_emotions(name: str, split: Split, mapping: dict[str, str], drop: bool) -> Split:
    """A set with its emotions renamed; clips outside the map are counted, and dropped if `drop`."""
    table, outside = map_emotions(split.table, mapping)
    if len(outside):
        done = "dropped" if drop else "kept without an emotion"
        logger.warning("%s set: clips outside --emotion_map %s: %s", name, done, count_emotions(split.table, outside))
    mapped = Split(table, split.audio, split.stream)
    return mapped.take(np.delete(np.arange(len(table)), outside)) if drop else mapped
