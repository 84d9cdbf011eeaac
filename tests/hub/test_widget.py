"""Samples of the model page are checked before training, copied as they are, and scored by the model."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from modeling_ser_mtl import SerMtlModel
from modeling_ser_mtl.data.audio import load_audio
from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.hub.widget import (
    MAX_BYTES,
    check_widget_samples,
    join_widget,
    synthetic_samples,
    write_widget,
)


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


def test_a_run_takes_the_samples_of_an_earlier_one_away_and_a_push_joins_them(model, make_wav, tmp_path):
    folder = tmp_path / "model"
    old, new, last = (str(make_wav(tmp_path / name, 0.2)) for name in ("old.wav", "new.wav", "last.wav"))

    def published() -> list[str]:
        return sorted(path.name for path in (folder / "widget").iterdir())

    write_widget(folder, {"old": old}, replace=True)
    write_widget(folder, {"new": new}, replace=True)
    assert published() == ["new.wav"]
    write_widget(folder, {"last": last})
    assert published() == ["last.wav", "new.wav"]
    # A sample may be one of those that are there.
    write_widget(folder, {"new": str(folder / "widget" / "new.wav")}, replace=True)
    assert published() == ["new.wav"]
    write_widget(folder, {}, replace=True)
    assert not (folder / "widget").exists()


def test_two_samples_of_one_call_never_share_a_file(model, make_wav, tmp_path):
    samples = {name: str(make_wav(tmp_path / name / "a.wav", 0.2 + 0.1 * i)) for i, name in enumerate("xyz")}
    entries = write_widget(tmp_path / "model", samples)
    assert [entry.src for entry in entries] == ["widget/a.wav", "widget/a-2.wav", "widget/a-3.wav"]
    for entry, path in zip(entries, samples.values(), strict=True):
        assert (tmp_path / "model" / entry.src).read_bytes() == Path(path).read_bytes()


def test_good_samples_are_titled_by_their_published_names(make_wav, tmp_path):
    paths = [str(make_wav(tmp_path / name, 0.2)) for name in ("angry man.wav", "b.flac", "b.wav")]
    expected = {"angry-man.wav": paths[0], "b.flac": paths[1], "b.wav": paths[2]}
    assert check_widget_samples(paths, ["emotion"], 20) == expected


def test_samples_join_those_that_the_model_has_and_all_are_limited_together(model, make_wav, tmp_path):
    folder = tmp_path / "model"
    paths = [str(make_wav(tmp_path / f"{index}.wav", 0.1 + 0.01 * index)) for index in range(11)]
    own = write_widget(folder, {f"own {index}": path for index, path in enumerate(paths[:7])})
    assert join_widget(folder, own, {}) == own
    joined = join_widget(folder, own, {"more": paths[7]})
    assert joined[:7] == own and [entry.src for entry in joined[7:]] == ["widget/7.wav"]
    with pytest.raises(InputError, match="found 3 files beside 7 others that the model has; give 1 or fewer"):
        join_widget(folder, own, {path: path for path in paths[8:]})


def test_a_sample_takes_the_place_of_one_with_its_content_or_its_name(model, make_wav, tmp_path):
    folder = tmp_path / "model"
    paths = [str(make_wav(tmp_path / f"{index}.wav", 0.1 + 0.01 * index)) for index in range(8)]
    own = write_widget(folder, {f"own {index}": path for index, path in enumerate(paths)})
    copy, namesake = tmp_path / "copy.wav", str(make_wav(tmp_path / "other" / "1.wav", 0.5))
    copy.write_bytes(Path(paths[0]).read_bytes())
    joined = join_widget(folder, own, {"copy": str(copy), "namesake": namesake, "again": paths[2]})
    assert joined[:5] == own[3:]
    assert [(entry.example_title, entry.src) for entry in joined[5:]] == [
        ("copy", "widget/copy.wav"),
        ("namesake", "widget/1.wav"),
        ("again", "widget/2.wav"),
    ]
    assert sorted(f"widget/{path.name}" for path in (folder / "widget").iterdir()) == sorted(x.src for x in joined)
    assert (folder / "widget" / "1.wav").read_bytes() == Path(namesake).read_bytes()


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
        ([long], ["emotion"], "3.0 s; at most 2 s are allowed"),
        ([good, other], ["emotion"], "rename one"),
        ([f"{index}.wav" for index in range(9)], ["emotion"], "found 9 files; give 8 or fewer"),
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
    assert len(synthetic_samples(table, already=6)) == 2 and synthetic_samples(table, already=8) == {}
