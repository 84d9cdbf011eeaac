import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import Audio, ClassLabel, Dataset

from modeling_ser_mtl.data.audio import load_audio
from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.data.hub_dataset import load_dataset_splits
from modeling_ser_mtl.data.loading import Split, drop_unusable

MODES = pytest.mark.parametrize("streaming", [False, True], ids=["downloaded", "streamed"])


@pytest.fixture
def parquet(clips, tmp_path) -> Path:
    """A folder that `datasets` reads: audio as bytes, gender as a class, one emotion missing, a numeric speaker id."""
    rows = clips.iloc[:6]
    columns = {
        "audio": [{"bytes": Path(path).read_bytes(), "path": Path(path).name} for path in rows["audio"]],
        "emotion": [None, *rows["emotion"].iloc[1:]],
        "gender": rows["gender"].tolist(),
        "speaker_id": [1, 1, 1, 1, 2, 2],
    }
    dataset = Dataset.from_dict(columns).cast_column("gender", ClassLabel(names=["female", "male"]))
    folder = tmp_path / "speech"
    folder.mkdir()
    dataset.cast_column("audio", Audio(decode=False)).to_parquet(folder / "train-00000-of-00001.parquet")
    return folder


@pytest.fixture
def write(clips, tmp_path) -> Callable[..., Path]:
    """Writes clips as Parquet files `<split>-<part>` of a folder, with their audio in the column `clip`."""

    def make(splits: dict[str, list[range]], **columns: object) -> Path:
        folder = tmp_path / "corpus"
        (folder / "data").mkdir(parents=True)
        for name, parts in splits.items():
            for number, part in enumerate(parts):
                rows = clips.iloc[part].assign(**columns)
                clip = [{"bytes": Path(path).read_bytes(), "path": None} for path in rows.pop("audio")]
                dataset = Dataset.from_dict({"clip": clip, **rows.to_dict("list")})
                file = folder / "data" / f"{name}-{number:05d}-of-{len(parts):05d}.parquet"
                dataset.cast_column("clip", Audio(decode=False)).to_parquet(file)
        return folder

    return make


def waveforms(split: Split) -> list[np.ndarray]:
    if split.stream is None:
        return [load_audio(audio) for audio in split.audio]
    return [split.stream.load(item) for item in split.stream.read(split.table["row"].to_numpy())]


def assert_audio_of(split: Split, paths: pd.Series) -> None:
    for found, path in zip(waveforms(split), paths, strict=True):
        np.testing.assert_array_equal(found, load_audio(path))


@MODES
def test_a_column_split_marks_sets_as_in_a_manifest(write, streaming) -> None:
    folder = write({"train": [range(3), range(3, 6)]}, split=["test", "", "train"])
    splits = load_dataset_splits(str(folder), None, [], column_mapping={"audio": "clip"}, streaming=streaming)
    assert {name: split.table["row"].tolist() for name, split in splits.items()} == {
        "train": [1, 2, 4, 5],
        "test": [0, 3],
    }
    assert len(waveforms(splits["test"])) == 2


def test_a_column_split_with_another_name_of_a_set_is_one_line(write) -> None:
    folder = write({"train": [range(2)]}, split=["train", "fold 3"])
    with pytest.raises(InputError, match="row 1: split is 'fold 3'; allowed: train, validation, test"):
        load_dataset_splits(str(folder), None, [], column_mapping={"audio": "clip"})


@MODES
def test_nan_is_unknown_and_no_speaker(write, streaming) -> None:
    folder = write({"train": [range(3)]}, speaker_id=[3.0, float("nan"), 4.0])
    split = load_dataset_splits(str(folder), None, [], column_mapping={"audio": "clip"}, streaming=streaming)["train"]
    assert split.table["speaker"].tolist() == ["corpus/3", "", "corpus/4"]


@MODES
def test_a_dataset_gives_the_manifests_columns_as_strings_and_its_audio(parquet, clips, streaming) -> None:
    split = load_dataset_splits(str(parquet), None, ["emotion"], streaming=streaming)["train"]
    table = split.table
    assert table["emotion"].tolist() == ["", *clips["emotion"][1:6]]
    assert table["gender"].tolist() == clips["gender"][:6].tolist()
    assert table["speaker"].tolist() == ["speech/1"] * 4 + ["speech/2"] * 2
    assert table["text"].tolist() == [""] * 6
    # The names of embedded files lie beside their bytes, which a stream doesn't read here.
    names = [str(index) if streaming else f"{index:02d}.wav" for index in range(6)]
    assert table["audio"].tolist() == names
    assert_audio_of(split, clips["audio"][:6])


@MODES
def test_columns_of_other_names_are_mapped(write, clips, streaming) -> None:
    folder = write({"train": [range(0, 3), range(3, 8)]}, path="somewhere/else.wav", take=3)
    options = {"column_mapping": {"audio": "clip", "text": "emotion", "emotion": "text"}, "streaming": streaming}
    split = load_dataset_splits(str(folder), None, ["emotion", "text"], **options)["train"]
    assert split.table["text"].tolist() == clips["emotion"][:8].tolist()
    assert split.table["emotion"].tolist() == clips["text"][:8].tolist()
    assert set(split.table["path"]) == {"somewhere/else.wav"} and set(split.table["take"]) == {"3"}
    assert_audio_of(split, clips["audio"][:8])


@MODES
def test_splits_of_other_names_make_the_sets(write, streaming) -> None:
    folder = write({"train": [range(0, 4)], "more": [range(4, 8)], "dev": [range(8, 12)], "session5": [range(12, 24)]})
    options = {"column_mapping": {"audio": "clip"}, "streaming": streaming}
    splits = {"train": "train+more", "validation": "dev", "test": "session5"}
    loaded = load_dataset_splits(str(folder), None, [], dataset_splits=splits, **options)
    assert {name: set(split.table["speaker_id"]) for name, split in loaded.items()} == {
        "train": {"s0", "s1"},
        "validation": {"s2"},
        "test": {"s3", "s4", "s5"},
    }
    assert set(load_dataset_splits(str(folder), None, [], **options)) == {"train", "validation"}
    with pytest.raises(InputError, match="could not be loaded .*session6") as error:
        load_dataset_splits(str(folder), None, [], dataset_splits={"test": "session6"}, **options)
    assert "\n" not in str(error.value)


def test_a_slice_of_a_split_is_a_set(write) -> None:
    folder = write({"train": [range(0, 8)]})
    splits = {"train": "train[:50%]", "test": "train[50%:]"}
    loaded = load_dataset_splits(str(folder), None, [], column_mapping={"audio": "clip"}, dataset_splits=splits)
    assert {name: set(split.table["speaker_id"]) for name, split in loaded.items()} == {"train": {"s0"}, "test": {"s1"}}


@MODES
def test_a_folder_of_audio_with_metadata_needs_no_torchcodec(clips, tmp_path, streaming) -> None:
    folder = tmp_path / "folder" / "train"
    folder.mkdir(parents=True)
    for path in clips["audio"][:5]:
        (folder / Path(path).name).write_bytes(Path(path).read_bytes())
    names = [Path(path).name for path in clips["audio"][:5]]
    ids = [1, None, 3, 3, 4]  # which a CSV reader takes for 1.0, nan, 3.0
    pd.DataFrame({"file_name": names, "label": "anger", "speaker_id": ids}).to_csv(folder / "metadata.csv", index=False)
    options = {"column_mapping": {"emotion": "label"}, "streaming": streaming}
    split = load_dataset_splits(str(folder.parent), None, ["emotion"], **options)["train"]
    assert split.table["speaker_id"].tolist() == ["1", "", "3", "3", "4"]
    assert set(split.table["emotion"]) == {"anger"}
    assert_audio_of(split, clips["audio"][:5])


def test_a_web_dataset_is_streamed_with_its_texts(clips, tmp_path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(2):
        with tarfile.open(tmp_path / "data" / f"train-{number:05d}.tar", "w") as archive:
            for row in range(3 * number, 3 * number + 3):
                for suffix, content in (("wav", Path(clips["audio"][row]).read_bytes()), ("txt", b"Hello, %d" % row)):
                    member = tarfile.TarInfo(f"{row}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    mapping = {"audio": "wav", "text": "txt"}
    split = load_dataset_splits(str(tmp_path), None, ["text"], column_mapping=mapping, streaming=True)["train"]
    assert split.table["text"].tolist() == [f"Hello, {row}" for row in range(6)]
    assert_audio_of(split, clips["audio"][:6])


def test_columns_of_unknown_kind_cannot_be_streamed(clips, tmp_path) -> None:
    clips.to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(InputError, match="--streaming needs a format that tells its columns, such as Parquet"):
        load_dataset_splits(str(tmp_path), None, [], streaming=True)


def test_a_csv_with_relative_paths_is_read_from_its_folder(clips, tmp_path) -> None:
    folder = tmp_path / "csv"
    (folder / "clips").mkdir(parents=True)
    for path in clips["audio"][:4]:
        (folder / "clips" / Path(path).name).write_bytes(Path(path).read_bytes())
    rows = clips.iloc[:4].assign(file=[f"clips/{Path(path).name}" for path in clips["audio"][:4]])
    rows.drop(columns="audio").to_csv(folder / "train.csv", index=False)
    mapping = {"audio": "file"}
    split = load_dataset_splits(str(folder), None, ["emotion"], column_mapping=mapping)["train"]
    assert split.table["audio"].tolist() == [f"{index:02d}.wav" for index in range(4)]
    assert_audio_of(split, clips["audio"][:4])

    (folder / "clips" / "02.wav").unlink()
    with pytest.raises(InputError, match=r"train row 2: 'file' is 'clips/02.wav', and there is no such file"):
        load_dataset_splits(str(folder), None, ["emotion"], column_mapping=mapping)


@MODES
def test_hidden_class_labels_are_unknown(clips, tmp_path, streaming) -> None:
    clip = [{"bytes": Path(path).read_bytes(), "path": None} for path in clips["audio"][:3]]
    dataset = Dataset.from_dict({"audio": clip, "emotion": [1, -1, None]})
    dataset = dataset.cast_column("emotion", ClassLabel(names=["anger", "joy"]))
    dataset.cast_column("audio", Audio(decode=False)).to_parquet(tmp_path / "test.parquet")
    split = load_dataset_splits(str(tmp_path), None, [], streaming=streaming)["test"]
    assert split.table["emotion"].tolist() == ["joy", "", ""]


@MODES
def test_a_dataset_of_audio_alone_can_be_predicted(clips, tmp_path, streaming) -> None:
    clip = [{"bytes": Path(path).read_bytes(), "path": None} for path in clips["audio"][:3]]
    dataset = Dataset.from_dict({"audio": clip}).cast_column("audio", Audio(decode=False))
    dataset.to_parquet(tmp_path / "test.parquet")
    split = load_dataset_splits(str(tmp_path), None, [], streaming=streaming)["test"]
    assert split.table["emotion"].tolist() == [""] * 3 and split.table["audio"].tolist() == ["0", "1", "2"]
    assert_audio_of(split, clips["audio"][:3])


@MODES
@pytest.mark.parametrize(
    ("mapping", "required", "says"),
    [
        ({}, ["text"], "column 'text' is missing; found: audio, emotion"),
        (
            {"emotion": "emotions"},
            [],
            "column 'emotions' of --column_mapping emotion=emotions is missing, did you mean",
        ),
        ({"emotion": "gender"}, [], "there is a column 'emotion' already"),
        ({"text": "emotion"}, ["emotion"], "column 'emotion' is missing"),
        ({"audio": "speaker_id"}, [], "'audio' already"),
        ({"audio": "speaker_id", "text": "audio"}, [], "column 'speaker_id' holds Value.* not audio or paths"),
    ],
)
def test_columns_that_do_not_fit_are_one_line(parquet, streaming, mapping, required, says) -> None:
    with pytest.raises(InputError, match=says) as error:
        load_dataset_splits(str(parquet), None, required, column_mapping=mapping, streaming=streaming)
    assert "\n" not in str(error.value) and f"--dataset_name {parquet}" in str(error.value)


def test_a_dataset_that_cannot_be_loaded_is_one_line(tmp_path) -> None:
    with pytest.raises(InputError, match="--dataset_name .*nowhere: could not be loaded") as error:
        load_dataset_splits(str(tmp_path / "nowhere"), None, [])
    assert "\n" not in str(error.value)


def test_a_table_from_a_dataset_drops_unusable_clips_too(parquet) -> None:
    usable, skipped = drop_unusable(load_dataset_splits(str(parquet), None, [])["train"], 1)
    assert isinstance(usable.table, pd.DataFrame) and len(usable) == 6 and skipped.empty
