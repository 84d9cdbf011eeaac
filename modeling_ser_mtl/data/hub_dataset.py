"""Data sets of the Hub, and folders that `datasets` reads -> tables like those of manifests, and their audio."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Audio, ClassLabel, Dataset, Features, IterableDataset, Value, load_dataset_builder
from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder
from datasets.packaged_modules.parquet.parquet import Parquet

from .columns import LABEL_COLUMNS, check_column_mapping
from .errors import InputError, one_line
from .loading import Split, split_by_marks
from .manifest import add_speakers
from .streaming import Stream

SETS = {"train": "train", "validation": "validation", "dev": "validation", "test": "test"}
BATCH_ROWS = 1_000
MAX_PARTS = 1_000  # of a stream: a folder of audio has as many shards as files


@dataclass
class EncodedAudio(Audio):
    """`datasets.Audio` without torchcodec, which that one asks for even where a path or bytes stay as they are."""

    def encode_example(self, value: Any) -> dict[str, Any]:
        """`value` (a path, bytes, or a dict with `path` and `bytes`) as a dict with `path` and `bytes`."""
        if isinstance(value, dict):
            return {"bytes": value.get("bytes"), "path": value.get("path")}
        return {"bytes": value, "path": None} if isinstance(value, bytes) else {"bytes": None, "path": value}


class _DatasetAudio(Sequence):
    """Audio of a `datasets.Dataset`, read when asked for: a path, or bytes where the dataset holds them."""

    def __init__(self, dataset: Dataset, column: str, folder: str) -> None:
        self.column = dataset[column]
        self.folder = folder

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: int) -> str | bytes:
        item = self.column[int(index)]
        if isinstance(item, str):
            return os.path.join(self.folder, item)
        return item["bytes"] if item["bytes"] is not None else os.path.join(self.folder, item["path"])


def load_dataset_splits(
    name: str,
    config: str | None,
    required: Sequence[str],
    *,
    column_mapping: Mapping[str, str] | None = None,
    dataset_splits: Mapping[str, str] | None = None,
    streaming: bool = False,
) -> dict[str, Split]:
    """
    Loads a data set with the columns of a manifest: labels as strings, class labels as their names, and audio
    undecoded, so that torchcodec is not needed.

    Args:
        name (`str`): repository on the Hub, or a folder; its last part is the corpus where there is no such column.
        config (`str`, *optional*): configuration of the data set.
        required (`Sequence[str]`): label columns that every set must have.
        column_mapping (`Mapping[str, str]`, *optional*): the data's column by ours, see
            [`~data.columns.parse_column_mapping`].
        dataset_splits (`Mapping[str, str]`, *optional*): split by set (train, validation, test), any expression that
            `datasets` takes, e.g. `train+validation`. None: the splits of these names, and `dev` for validation.
        streaming (`bool`): audio is neither downloaded nor read but when a clip's turn comes; of Parquet files, only
            the columns of labels are read here.

    Returns:
        `dict[str, Split]`: the sets `train`, `validation` and `test` that it has.

    Raises:
        InputError: the data set can't be loaded, lacks a set or a column, or an audio file is not there.
    """
    mapping, option = column_mapping or {}, f"--dataset_name {name}"
    source = mapping.get("audio", "audio")
    folder = name if os.path.isdir(name) else ""
    loaded = _load(name, config, dataset_splits, streaming)
    # Our names of the sets that were asked for are taken as they are.
    sets = {key if dataset_splits else SETS[key]: key for key in loaded if key in SETS}
    if not sets:
        raise InputError(
            f"{option}: found the splits {', '.join(loaded)}; needed is train, validation or test: name them, as in "
            "--dataset_splits validation=dev"
        )
    # All splits of a configuration have the same columns.
    features = _checked_features(option, loaded[next(iter(sets.values()))], required, mapping)
    labels = [column for column, feature in features.items() if _is_label(feature) and column != source]
    is_audio = isinstance(features[source], Audio)
    if streaming:
        # Rows are counted by their labels rather than by the audio, which would then be read.
        tables = _load(name, config, dataset_splits, True, labels or [source])
        streams = _load(name, config, dataset_splits, True, [source])
    splits = {}
    for set_name, key in sets.items():
        if streaming:
            stream = streams[key].cast_column(source, EncodedAudio(decode=False)) if is_audio else streams[key]
            parts = [_read_labels(part, labels, features) for part in _parts(tables[key])]
            audio = Stream(_parts(stream), [len(part) for part in parts], source, folder)
            split = Split(pd.concat(parts, ignore_index=True), (), audio)
            names = [str(row) for row in range(len(split))]
        else:
            dataset = loaded[key].cast_column(source, Audio(decode=False)) if is_audio else loaded[key]
            names = _audio_names(f"{option}: {key}", dataset, source, folder)
            split = Split(_read_labels(dataset, labels, features), _DatasetAudio(dataset, source, folder))
        split.table = _as_manifest(split.table, mapping, names)
        split.table["manifest"], split.table["row"] = f"{name} ({key})", range(len(split.table))
        add_speakers(split.table, Path(name).name)
        splits[set_name] = split
    # Sets of their own names replace rows of a column `split`.
    marked = split_by_marks(splits.pop("train")) if "train" in splits else {}
    return marked | splits


def _load(
    name: str,
    config: str | None,
    splits: Mapping[str, str] | None,
    streaming: bool,
    columns: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The splits by our name where `splits` gives them, else all by theirs, with some columns or all."""
    try:
        builder = load_dataset_builder(name, config)
        if columns is not None and isinstance(builder, Parquet):
            builder = load_dataset_builder(name, config, columns=list(columns))  # the others are not even read
        if isinstance(builder, AudioFolder):
            builder.BASE_FEATURE = EncodedAudio
        if not streaming:
            builder.download_and_prepare()
        load = builder.as_streaming_dataset if streaming else builder.as_dataset
        loaded = {key: load(split=split) for key, split in splits.items()} if splits else dict(load())
    except Exception as error:  # datasets raises many types; the user needs the one line
        reason = one_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
        raise InputError(f"--dataset_name {name}: could not be loaded ({reason})") from error
    return {key: split if columns is None else split.select_columns(list(columns)) for key, split in loaded.items()}


def _checked_features(
    option: str, dataset: Dataset | IterableDataset, required: Sequence[str], mapping: Mapping[str, str]
) -> Features:
    """The features of a data set that has the columns asked for."""
    features = dataset.features
    if features is None:
        raise InputError(
            f"{option}: --streaming needs a format that tells its columns, such as Parquet, Arrow, WebDataset or a "
            "folder of audio; drop --streaming"
        )
    found = list(features)
    for _, message in check_column_mapping(found, mapping).values():
        raise InputError(f"{option}: {message}")
    for column in ("audio", *required):
        if mapping.get(column, column) not in found or (column in mapping.values() and column not in mapping):
            raise InputError(
                f"{option}: column {column!r} is missing; found: {', '.join(found)}; name it, as in "
                f"--column_mapping {column}=NAME"
            )
    audio = features[mapping.get("audio", "audio")]
    if not isinstance(audio, Audio) and not (isinstance(audio, Value) and audio.dtype in ("string", "large_string")):
        raise InputError(f"{option}: column {mapping.get('audio', 'audio')!r} holds {audio}, not audio or paths")
    return features


def _is_label(feature: Any) -> bool:
    """Whether a column holds words or numbers, no audio or lists."""
    return isinstance(feature, ClassLabel) or (isinstance(feature, Value) and "binary" not in feature.dtype)


def _parts(stream: IterableDataset) -> list[IterableDataset]:
    """The files of a stream, or runs of them, in order."""
    number = min(stream.num_shards, MAX_PARTS)
    return [stream.shard(number, index) for index in range(number)]


def _read_labels(dataset: Dataset | IterableDataset, labels: Sequence[str], features: Features) -> pd.DataFrame:
    """The columns of labels as strings, one row per clip."""
    parts = [pd.DataFrame(columns=list(labels), dtype=str)]
    for batch in dataset.select_columns(list(labels) or dataset.column_names[:1]).iter(batch_size=BATCH_ROWS):
        cells = {column: _as_strings(batch[column], features[column]) for column in labels}
        parts.append(pd.DataFrame(cells, index=range(len(next(iter(batch.values())))), dtype=str))
    return pd.concat(parts, ignore_index=True)


def _as_strings(values: Iterable[Any], feature: Any) -> list[str]:
    if isinstance(feature, ClassLabel):
        # Hidden labels of test sets are -1 by convention.
        return ["" if value is None or value < 0 else feature.names[value] for value in values]
    # Integers of a column that lacks some are read as 1.0 from CSV, and those that it lacks may be NaN.
    known = ["" if value is None or value != value else value for value in values]
    return [str(int(value)) if isinstance(value, float) and value.is_integer() else str(value) for value in known]


def _audio_names(place: str, dataset: Dataset, column: str, folder: str) -> list[str]:
    """Names of the audio files, or numbers of rows where they have none; all of them exist."""
    if isinstance(dataset.features[column], Audio):
        files = dataset.select_columns(column).flatten()  # which gives the names without the bytes
        paths, embedded = list(files[f"{column}.path"]), files.data.column(f"{column}.bytes").is_valid().to_pylist()
    else:
        paths, embedded = list(dataset[column]), [False] * len(dataset)
    for row, (path, is_there) in enumerate(zip(paths, embedded, strict=True)):
        if not is_there and not (path and os.path.isfile(os.path.join(folder, path))):
            raise InputError(
                f"{place} row {row}: {column!r} is {path!r}, and there is no such file; paths are absolute or relative "
                "to the folder of the data set"
            )
    return [Path(path).name if path else str(row) for row, path in enumerate(paths)]


def _as_manifest(table: pd.DataFrame, mapping: Mapping[str, str], names: Sequence[str]) -> pd.DataFrame:
    """The table under our names, with the columns that every manifest has."""
    table = table.rename(columns={source: column for column, source in mapping.items()})
    table = table.drop(columns=["audio", "length"], errors="ignore")  # lengths are measured
    table.insert(0, "audio", pd.Series(names, dtype=str))
    for column in LABEL_COLUMNS:
        table[column] = table[column].str.strip() if column in table else ""
    return table
