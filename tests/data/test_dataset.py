from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from modeling_ser_mtl.data.augmentation import WaveformAugmentation
from modeling_ser_mtl.data.dataset import LabelNames, SpeechDataset, encode_labels

LABELS = LabelNames(["anger", "sadness"], ["female", "male"], ["c/1", "c/2"])


@pytest.fixture
def make(tmp_path) -> Callable[..., SpeechDataset]:
    """A dataset of clips with the given numbers of samples, every sample another number."""

    def build(*lengths: int, **options: object) -> SpeechDataset:
        paths = []
        for index, length in enumerate(lengths):
            paths.append(str(tmp_path / f"{index}.wav"))
            ramp = np.arange(length, dtype="float32") / 2**20 + index
            soundfile.write(paths[-1], ramp, 16_000, subtype="FLOAT")
        rows = {"emotion": "sadness", "gender": "male", "speaker": "c/2", "text": "Hello, World!"}
        table = pd.DataFrame({"length": lengths}).assign(**rows)
        return SpeechDataset(table, paths, LABELS, **{"max_seconds": 0.1, **options})

    return build


def test_labels_are_positions_and_unknown_names_minus_100() -> None:
    assert encode_labels(["b", "", "a", "x"], ["a", "b"]).tolist() == [1, -100, 0, -100]


def test_an_item_holds_waveform_labels_and_normalised_text(make) -> None:
    item = make(1_000)[0]
    assert item["waveform"].dtype == np.float32 and item["waveform"].shape == (1_000,)
    assert (item["emotion_label"], item["gender_label"], item["speaker_label"]) == (1, 1, 1)
    assert (item["text"], item["clip_index"]) == ("hello world", 0)


@settings(max_examples=30, deadline=None)
@given(length=st.integers(400, 10_000_000), max_seconds=st.floats(0.1, 30))
def test_windows_cover_a_clip_without_overlap_and_none_is_too_short(length, max_seconds) -> None:
    columns = {name: "" for name in ("emotion", "gender", "speaker", "text")}
    table = pd.DataFrame({"length": [length]}).assign(**columns)
    dataset = SpeechDataset(table, [b""], LABELS, max_seconds=max_seconds)
    bounds = [(start, end) for _, start, end in dataset.items]
    assert bounds[0][0] == 0 and bounds[-1][1] == length
    assert all(end == start for (_, end), (start, _) in zip(bounds, bounds[1:], strict=False))
    assert all(400 <= end - start <= round(max_seconds * 16_000) + 1 for start, end in bounds)
    assert len(dataset) == -(-length // round(max_seconds * 16_000))


def test_a_clips_windows_share_its_index_and_have_no_transcript(make) -> None:
    dataset = make(1_000, 4_000)
    items = [dataset[index] for index in range(len(dataset))]
    assert [item["clip_index"] for item in items] == [0, 1, 1, 1]
    assert [item["text"] for item in items] == ["hello world", "", "", ""]
    joined = np.concatenate([item["waveform"] for item in items[1:]])
    np.testing.assert_array_equal(joined, np.arange(4_000, dtype="float32") / 2**20 + 1)


def test_training_takes_one_crop_of_a_long_clip_without_its_transcript(make) -> None:
    dataset = make(4_000, 1_000, training=True)
    assert len(dataset) == 2 and dataset.lengths == [1_600, 1_000]
    crop = dataset[0]
    assert len(crop["waveform"]) == 1_600 and crop["text"] == ""
    np.testing.assert_allclose(np.diff(crop["waveform"]), 2**-20)
    assert len(dataset[1]["waveform"]) == 1_000 and dataset[1]["text"] == "hello world"


def test_crops_depend_on_seed_epoch_and_clip_alone(make) -> None:
    dataset = make(16_000, 16_000, training=True)
    starts = {}
    for epoch in (0, 1, 2):
        dataset.set_epoch(epoch)
        starts[epoch] = [float(dataset[index]["waveform"][0]) - index for index in (0, 1)]
    dataset.set_epoch(1)
    assert [float(dataset[index]["waveform"][0]) - index for index in (1, 0)] == starts[1][::-1]
    assert len({start for pair in starts.values() for start in pair}) == 6
    other = make(16_000, 16_000, training=True, seed=7)
    assert float(other[0]["waveform"][0]) != starts[0][0]


def test_augmentation_follows_the_epoch(make) -> None:
    dataset = make(1_200, training=True, augmentation=WaveformAugmentation(("speed",), 1.0, seed=0))
    first = dataset[0]["waveform"]
    np.testing.assert_array_equal(dataset[0]["waveform"], first)
    dataset.set_epoch(1)
    assert len(dataset[0]["waveform"]) != len(first)


def test_workers_that_outlive_an_epoch_follow_it_too(make) -> None:
    dataset = make(16_000, training=True)
    options = {"batch_size": None, "num_workers": 1, "persistent_workers": True, "multiprocessing_context": "fork"}
    loader = DataLoader(dataset, **options)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        (item,) = list(loader)
        np.testing.assert_array_equal(item["waveform"], dataset[0]["waveform"])
