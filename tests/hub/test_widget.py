"""Samples of the model page are checked before training, copied as they are, and scored by the model."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from modeling_ser_mtl import SerMtlModel
from modeling_ser_mtl.data.audio import load_audio
from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.hub.widget import MAX_BYTES, check_widget_samples, synthetic_samples, write_widget


@pytest.fixture
def model(tmp_path, plain_config, make_processor) -> SerMtlModel:
    """A model that is saved with its processor in `tmp_path / "model"`."""
    torch.manual_seed(0)
    config = plain_config("wav2vec2-layer", id2label={0: "anger", 1: "joy", 2: "fear"}, num_labels=3)
    processor = make_processor(config)
    config.vocab_size = len(processor.tokenizer)
    model = SerMtlModel(config).eval()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return model


def test_each_sample_is_copied_and_scored_alone(model, make_processor, make_wav, tmp_path):
    samples = {
        "A title: with | signs": str(make_wav(tmp_path / "ä b (1).wav", 0.5, frequency=300)),
        "44.1 kHz, stereo": str(make_wav(tmp_path / "long.FLAC", 1.0, 44_100, channels=2)),
    }
    entries = write_widget(tmp_path / "model", samples)
    assert [entry.example_title for entry in entries] == list(samples)
    assert [entry.src for entry in entries] == ["widget/-b-1-.wav", "widget/long.flac"]
    for entry, path in zip(entries, samples.values(), strict=True):
        assert (tmp_path / "model" / entry.src).read_bytes() == Path(path).read_bytes()
        with torch.no_grad():
            logits = model(**make_processor(model.config)(load_audio(path), sampling_rate=16_000)).logits[0].double()
        expected = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum()
        names = ["anger", "joy", "fear"]
        assert [row["label"] for row in entry.output] == [names[index] for index in np.argsort(-expected)]
        np.testing.assert_allclose([row["score"] for row in entry.output], np.sort(expected)[::-1], atol=1e-4)


def test_without_samples_there_is_no_folder(model, tmp_path):
    assert write_widget(tmp_path / "model", {}) == []
    assert not (tmp_path / "model" / "widget").exists()


def test_good_samples_are_titled_by_their_names(make_wav, tmp_path):
    paths = [str(make_wav(tmp_path / name, 0.2)) for name in ("angry man.wav", "b.flac")]
    assert check_widget_samples(paths, ["emotion"], 20) == {"angry man": paths[0], "b": paths[1]}


def test_a_wrong_sample_is_one_line_that_names_it(make_wav, tmp_path):
    good, long = str(make_wav(tmp_path / "a.wav", 0.2)), str(make_wav(tmp_path / "long.wav", 3))
    other = str(make_wav(tmp_path / "sub" / "a.wav", 0.2))
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "notes.txt").write_text("no audio")
    with open(tmp_path / "large.wav", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    for paths, tasks, says in (
        ([str(tmp_path / "missing.wav")], ["emotion"], "no such file"),
        ([str(tmp_path / "notes.txt")], ["emotion"], ".wav or .flac"),
        ([str(tmp_path / "text.wav")], ["emotion"], "cannot be decoded"),
        ([str(tmp_path / "large.wav")], ["emotion"], "bytes"),
        ([long], ["emotion"], "--max_seconds 2"),
        ([good, other], ["emotion"], "rename one"),
        ([good] * 9, ["emotion"], "8 or fewer"),
        ([good], ["gender"], "no emotions"),
    ):
        with pytest.raises(InputError) as error:
            check_widget_samples(paths, tasks, 2)
        assert says in str(error.value) and "\n" not in str(error.value)
        assert paths[-1] in str(error.value) or len(paths) > 8 or tasks == ["gender"]


def test_the_synthetic_corpus_gives_one_clip_of_each_of_four_emotions():
    table = pd.DataFrame(
        {
            "emotion": ["joy", "", "anger", "joy", "fear", "calm", "disgust"],
            "speaker_id": list("vvvwwww"),
            "audio_path": [f"/corpus/{index}.flac" for index in range(7)],
        }
    )
    assert synthetic_samples(table) == {
        "anger, synthetic voice v": "/corpus/2.flac",
        "calm, synthetic voice w": "/corpus/5.flac",
        "disgust, synthetic voice w": "/corpus/6.flac",
        "fear, synthetic voice w": "/corpus/4.flac",
    }
