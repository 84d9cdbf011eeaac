import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from datasets import Audio, Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from modeling_ser_mtl.data.audio import load_audio
from modeling_ser_mtl.data.augmentation import WaveformAugmentation
from modeling_ser_mtl.data.dataset import LabelNames, SpeechDataset
from modeling_ser_mtl.data.hub_dataset import load_dataset_splits
from modeling_ser_mtl.data.streaming import Stream, StreamedDataset, shuffle_in_buffer

LABELS = LabelNames(["anger", "sadness"], ["female", "male"], ["c/s0", "c/s1"])
OPTIONS = {"max_seconds": 0.3, "seed": 5}


def encode(num_samples: int, value: float = 0.0) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.full(num_samples, value), 16_000, format="wav")
    return file.getvalue()


def make_stream(sizes: list[int], audio: list[bytes]) -> Stream:
    """A stream in memory with parts of these sizes."""
    starts = np.cumsum([0, *sizes])
    parts = []
    for start, size in zip(starts, sizes, strict=False):
        clips = [{"bytes": content, "path": None} for content in audio[start : start + size]]
        part = Dataset.from_dict({"clip": clips}).cast_column("clip", Audio(decode=False))
        parts.append(part.to_iterable_dataset() if size else None)  # an empty one is not opened
    return Stream(parts, sizes, "clip", "")


def make_table(rows: list[int], **columns: object) -> pd.DataFrame:
    labels = {name: "" for name in ("emotion", "gender", "speaker", "text")}
    return pd.DataFrame({"row": rows, "audio": [str(row) for row in rows], "manifest": "m"}).assign(**labels | columns)


@pytest.fixture(scope="module")
def folder(clips, tmp_path_factory) -> Path:
    """The 24 clips as three Parquet files of 10, 10 and 4 rows."""
    folder = tmp_path_factory.mktemp("speech")
    for number, start in enumerate((0, 10, 20)):
        rows = clips.iloc[start : start + 10].drop(columns="audio")
        clip = [{"bytes": Path(path).read_bytes(), "path": None} for path in clips["audio"][start : start + 10]]
        dataset = Dataset.from_dict({"audio": clip, **rows.to_dict("list")}).cast_column("audio", Audio(decode=False))
        dataset.to_parquet(folder / f"train-{number:05d}-of-00003.parquet")
    return folder


@pytest.fixture
def both(folder, clips) -> Callable[..., tuple[StreamedDataset, SpeechDataset]]:
    """Some clips as a streamed set, and as one on disk."""

    def make(positions: np.ndarray, shuffle_buffer_size: int = 1, **options: object):
        split = load_dataset_splits(str(folder), None, [], streaming=True)["train"].take(positions)
        paths = clips["audio"].iloc[positions].tolist()
        table = split.table.assign(length=[len(load_audio(path)) for path in paths])
        options = OPTIONS | options
        streamed = StreamedDataset(
            split.table, split.stream, LABELS, shuffle_buffer_size=shuffle_buffer_size, **options
        )
        return streamed, SpeechDataset(table, paths, LABELS, **options)

    return make


def assert_equal_items(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        np.testing.assert_array_equal(one["waveform"], other["waveform"])
        assert {k: v for k, v in one.items() if k != "waveform"} == {k: v for k, v in other.items() if k != "waveform"}


@pytest.mark.parametrize("training", [True, False], ids=["training", "windows"])
def test_a_stream_in_order_gives_the_items_of_the_set_on_disk(both, training) -> None:
    augmentation = WaveformAugmentation(("speed",), 0.5, seed=1) if training else None
    streamed, on_disk = both(np.arange(1, 24, 2), training=training, augmentation=augmentation)
    for epoch in (0, 1):
        streamed.set_epoch(epoch)
        on_disk.set_epoch(epoch)
        assert_equal_items(list(streamed), [on_disk[index] for index in range(len(on_disk))])
    assert streamed.class_counts == on_disk.class_counts and streamed.transcripts == on_disk.transcripts


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_clip_comes_once_an_epoch_over_all_ranks(data) -> None:
    sizes = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=4).filter(sum))
    rows = sorted(data.draw(st.sets(st.integers(0, sum(sizes) - 1), min_size=1)))
    buffer, batch_size, num_ranks = (data.draw(st.integers(1, n)) for n in (20, 4, 3))
    damaged = data.draw(st.sets(st.sampled_from(rows), max_size=2))
    audio = [b"damaged" if row in damaged else encode(400 + row) for row in range(sum(sizes))]
    dataset = StreamedDataset(
        make_table(rows),
        make_stream(sizes, audio),
        LABELS,
        max_seconds=1,
        training=True,
        seed=data.draw(st.integers(0, 9)),
        shuffle_buffer_size=buffer,
    )
    dataset.set_epoch(data.draw(st.integers(0, 9)))
    found: list[int] = []
    for rank in range(num_ranks):
        dataset.set_rank(rank, num_ranks, batch_size)
        items = list(dataset)
        assert len(items) == len(dataset) == -(-len(rows) // num_ranks)
        for item in items:
            assert ("skipped" in item) == (item["clip_index"] == -1)
            row = item["skipped"].row if "skipped" in item else rows[item["clip_index"]]
            assert len(item["waveform"]) == (400 if row in damaged else 400 + row)
            found.append(row)
    counts = Counter(found)
    assert set(counts) == set(rows)
    # Only what makes the ranks even comes again.
    assert sum(counts.values()) - len(rows) == -len(rows) % num_ranks


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_workers_of_a_loader_share_the_clips_in_as_many_batches_as_one(both, num_workers, num_ranks) -> None:
    dataset, _ = both(np.arange(23), 5, training=True)
    found = []
    for rank in range(num_ranks):
        dataset.set_rank(rank, num_ranks, 4)
        options = {"collate_fn": list, "num_workers": num_workers, "multiprocessing_context": "fork"}
        batches = list(DataLoader(dataset, batch_size=4, **options))
        assert [len(batch) for batch in batches].count(4) >= len(dataset) // 4
        assert len(batches) == -(-len(dataset) // 4)
        found += [item["clip_index"] for batch in batches for item in batch]
    assert set(found) == set(range(23)) and len(found) == num_ranks * len(dataset)


def test_ranks_evaluate_all_windows_in_equally_many_full_batches(both) -> None:
    dataset, on_disk = both(np.arange(23))
    ranks = []
    for rank in range(3):
        dataset.set_rank(rank, 3, 4)
        ranks.append(list(dataset))
    assert len({len(items) for items in ranks}) == 1 and len(ranks[0]) % 4 == 0
    # In the order in which the ranks' batches are gathered.
    gathered = [item for start in range(0, len(ranks[0]), 4) for items in ranks for item in items[start : start + 4]]
    windows = [item for item in gathered if item["clip_index"] >= 0]
    assert_equal_items(windows, [on_disk[index] for index in range(len(on_disk))])
    assert all(item["emotion_label"] == -100 and not item["text"] for item in gathered if item["clip_index"] < 0)


def test_the_order_depends_on_seed_and_epoch_alone(both) -> None:
    def order(dataset: StreamedDataset, epoch: int) -> list[int]:
        dataset.set_epoch(epoch)
        return [item["clip_index"] for item in dataset]

    (one, _), (same, _), (other, _) = (both(np.arange(24), 6, training=True, seed=seed) for seed in (1, 1, 2))
    orders = [order(one, 0), order(one, 1), order(other, 0)]
    assert len({tuple(found) for found in orders}) == 3
    assert [order(same, 1), order(same, 0)] == [orders[1], orders[0]]
    assert all(sorted(found) == list(range(24)) != found for found in orders)


@settings(max_examples=50, deadline=None)
@given(count=st.integers(0, 40), size=st.integers(1, 50), seed=st.integers(0, 99))
def test_a_buffer_gives_each_item_once_and_none_much_too_early(count, size, seed) -> None:
    order = list(shuffle_in_buffer(range(count), size, np.random.default_rng(seed)))
    assert sorted(order) == list(range(count))
    assert all(item < place + size for place, item in enumerate(order))
    assert size > 1 or order == list(range(count))


def test_a_damaged_clip_is_silence_without_labels_and_told(folder) -> None:
    audio = [encode(500), b"no audio", encode(100), encode(600)]
    table = make_table([0, 1, 2, 3], emotion="anger", gender="male", text="hello", speaker="c/s0")
    dataset = StreamedDataset(table, make_stream([4], audio), LABELS, training=True, **OPTIONS)
    items = list(dataset)
    assert [item["clip_index"] for item in items] == [0, -1, -1, 3]
    assert all(items[1][f"{name}_label"] == -100 for name in ("emotion", "gender", "speaker")) and not items[1]["text"]
    assert not items[1]["waveform"].any()
    assert items[1]["skipped"][:3] == ("m", 1, "1") and "cannot be decoded" in items[1]["skipped"].reason
    assert "100 samples" in items[2]["skipped"].reason


def test_a_row_without_audio_is_told(tmp_path) -> None:
    stream = Stream(
        [Dataset.from_dict({"clip": [None, "nowhere.wav"]}).to_iterable_dataset()], [2], "clip", str(tmp_path)
    )
    items = list(StreamedDataset(make_table([0, 1]), stream, LABELS, training=True, **OPTIONS))
    assert "neither a path nor audio" in items[0]["skipped"].reason
    assert str(tmp_path / "nowhere.wav") in items[1]["skipped"].reason


def test_statistics_take_the_first_clips_that_can_be_used() -> None:
    audio = [encode(400), b"no audio", *(encode(400 + row, 0.5) for row in range(2, 9))]
    dataset = StreamedDataset(make_table(list(range(9))), make_stream([4, 5], audio), LABELS, training=True, **OPTIONS)
    assert [len(waveform) for waveform in dataset.waveforms(4)] == [400, 402, 403]


def read_bytes() -> int:
    """What this process has read so far, from files and elsewhere."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux tells what a process reads")
def test_labels_are_read_without_the_audio(folder, tmp_path) -> None:
    big = tmp_path / "big"
    big.mkdir()
    random = np.random.default_rng(0)
    clip = [{"bytes": random.bytes(2**18), "path": f"{row}.wav"} for row in range(64)]  # 16 MiB that don't compress
    dataset = Dataset.from_dict({"audio": clip, "emotion": ["joy", None] * 32, "speaker_id": list(range(64))})
    dataset.cast_column("audio", Audio(decode=False)).to_parquet(big / "train.parquet", batch_size=16)
    load_dataset_splits(str(folder), None, [], streaming=True)  # modules are imported

    before = read_bytes()
    split = load_dataset_splits(str(big), None, ["emotion"], streaming=True)["train"]
    labels = read_bytes() - before
    assert split.table["emotion"].tolist() == ["joy", ""] * 32
    next(split.stream.read(np.array([60])))
    assert labels < 2**20
    assert read_bytes() - before - labels > 2**24 * 0.9  # the reading of audio would have been seen


def test_a_stream_of_several_splits_is_read_as_one(folder) -> None:
    split = load_dataset_splits(str(folder), None, [], dataset_splits={"train": "train+train"}, streaming=True)["train"]
    assert len(split) == 48 and len(split.stream.parts) == 6
    rows = np.array([3, 23, 24, 47, 0])
    items = list(split.stream.read(rows))
    files = sorted(folder.iterdir())
    once = pd.concat([pd.read_parquet(file, columns=["audio"]) for file in files])["audio"].tolist()
    assert [item["bytes"] for item in items] == [once[row % 24]["bytes"] for row in rows]
