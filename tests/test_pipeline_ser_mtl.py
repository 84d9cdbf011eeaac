"""Pipelines give the model's own results for clips of any kind, in any batch, from a folder alone."""

import json
import os
import shutil
import subprocess
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AudioClassificationPipeline, WhisperFeatureExtractor, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from modeling_ser_mtl import SerMtlConfig, SerMtlModel, SerMtlProcessor
from modeling_ser_mtl.pipeline_ser_mtl import (
    CUSTOM_PIPELINES,
    SerMtlAudioClassificationPipeline,
    SpeechEmotionPipeline,
)

RATE = 16_000
TASKS = tuple(CUSTOM_PIPELINES)
BACKBONES = ("wav2vec2-group", "wav2vec2-layer", "wav2vec2-bert", "ser_mtl_spectrogram", "whisper")
WHISPER = {
    "model_type": "whisper",
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "num_mel_bins": 8,
    "max_source_positions": 100,  # 2 s
}


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, num_samples).astype(np.float32)


def numbers(result: Any) -> list[float]:
    """
    All numbers of a result in the order of their names, scores by label. They are compared but for rounding, which
    depends on where inputs and weights lie in memory.
    """
    if isinstance(result, list) and result and isinstance(result[0], dict):
        return [score for _, score in sorted((entry["label"], entry["score"]) for entry in result)]
    if isinstance(result, dict):
        return [number for name in sorted(result) if name != "text" for number in numbers(result[name])]
    return result if isinstance(result, list) else [result]


def assert_same(result: Any, expected: Any) -> None:
    """The same classes, scores, embeddings and gates, and the same text if there is one."""
    if isinstance(expected, dict):
        assert result.keys() == expected.keys()
        assert result.get("text") == expected.get("text")
    np.testing.assert_allclose(numbers(result), numbers(expected), atol=1e-6)


@pytest.fixture(scope="module")
def build(plain_config, make_processor) -> Callable[..., tuple[SerMtlModel, SerMtlProcessor]]:
    """A small random model whose scores depend on the clip, and its processor."""

    @cache
    def make(name: str, **fields: Any) -> tuple[SerMtlModel, SerMtlProcessor]:
        if name == "whisper":
            config = SerMtlConfig(WHISPER, fusion_hidden_size=16, attention_pooling_size=8, **fields)
            tokenizer = make_processor(plain_config("wav2vec2-layer")).tokenizer
            features = WhisperFeatureExtractor(feature_size=8, chunk_length=2, return_attention_mask=True)
            processor = SerMtlProcessor(features, tokenizer)
        else:
            config = plain_config(name, **fields)
            processor = make_processor(config)
        torch.manual_seed(0)
        model = SerMtlModel(config).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.xavier_uniform_(parameter)
        return model, processor

    return make


@pytest.fixture(scope="module")
def folder(build, tmp_path_factory) -> Path:
    """What a run leaves of a model: weights, processor and code."""
    folder = tmp_path_factory.mktemp("published") / "model"
    for part in build("wav2vec2-layer"):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def load(folder) -> Callable[[str], Any]:
    return cache(lambda task: pipeline(task, model=str(folder), trust_remote_code=True))


@pytest.mark.parametrize("parameters", [{}, {"top_k": 2}, {"top_k": 50}, {"top_k": 1, "function_to_apply": "none"}])
@pytest.mark.parametrize("function_to_apply", [None, "softmax", "sigmoid", "none"])
def test_emotions_are_those_of_the_stock_pipeline(build, load, parameters, function_to_apply) -> None:
    model, processor = build("wav2vec2-layer")
    stock = AudioClassificationPipeline(model=model, feature_extractor=processor.feature_extractor)
    parameters = {"function_to_apply": function_to_apply, **parameters}
    clips = [noise(5_000), noise(9_000, seed=1)]
    for ours, theirs in zip(load("audio-classification")(clips, **parameters), stock(clips, **parameters), strict=True):
        assert [entry["label"] for entry in ours] == [entry["label"] for entry in theirs]
        np.testing.assert_allclose([entry["score"] for entry in ours], [entry["score"] for entry in theirs], atol=1e-6)
    assert stock(clips[0])[0].keys() == {"score", "label"}


def test_all_tasks_say_what_the_model_says(build, load) -> None:
    model, processor = build("wav2vec2-layer")
    clip = noise(8_000)
    result = load("speech-emotion-mtl")(clip)
    with torch.no_grad():
        outputs = model(**processor(clip, sampling_rate=RATE), output_co_attentions=True)
    for name, labels, logits in (
        ("emotion", model.config.emotion_labels, outputs.logits),
        ("gender", model.config.gender_labels, outputs.gender_logits),
    ):
        probabilities = dict(zip(labels, logits[0].softmax(-1).tolist(), strict=True))
        assert {entry["label"]: pytest.approx(entry["score"], abs=1e-6) for entry in result[name]} == probabilities
        assert [entry["score"] for entry in result[name]] == sorted(probabilities.values(), reverse=True)
    assert result["text"] == processor.decode_ctc(outputs.ctc_logits.argmax(-1))[0] != ""
    np.testing.assert_allclose(result["speaker_embedding"], outputs.speaker_embeddings[0], atol=1e-6)
    assert list(result["task_gates"]) == ["gender", "speaker", "asr"]
    np.testing.assert_allclose(list(result["task_gates"].values()), outputs.task_gates[0], atol=1e-6)
    assert result.keys() == {"emotion", "gender", "text", "speaker_embedding", "task_gates"}


@pytest.mark.parametrize("task", TASKS)
def test_a_clip_may_come_in_any_form(load, tmp_path, task) -> None:
    listener, clip, path = load(task), noise(8_000), tmp_path / "a.wav"
    soundfile.write(path, clip, RATE, subtype="FLOAT")
    expected = listener(clip)
    for form in (
        path,
        str(path),
        path.read_bytes(),
        torch.from_numpy(clip),
        {"array": clip, "sampling_rate": RATE},
        {"raw": clip, "sampling_rate": RATE},
        {"bytes": path.read_bytes(), "path": None},
    ):
        assert_same(listener(form), expected)
    high = np.repeat(clip, 2)
    resampled = listener({"array": high, "sampling_rate": 2 * RATE})
    soundfile.write(path, high, 2 * RATE, subtype="FLOAT")
    assert_same(listener(path), resampled)
    assert numbers(resampled) != numbers(expected)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_several_clips_may_come_as_list_tuple_generator_dataset_or_column(load, task, batch_size) -> None:
    listener, clips = load(task), [noise(n, seed=n) for n in (4_000, 8_000, 6_000)]
    expected = listener(clips, batch_size=batch_size)
    assert len(expected) == 3
    table = datasets.Dataset.from_list([{"clip": {"array": clip, "sampling_rate": RATE}} for clip in clips])
    for several in (
        tuple(clips),
        (clip for clip in clips),
        KeyDataset(table, "clip"),
        table["clip"],
        table.to_iterable_dataset()["clip"],
    ):
        results = listener(several, batch_size=batch_size)
        assert isinstance(results, list) == isinstance(several, tuple | type(table["clip"]))
        for result, single in zip(results, expected, strict=True):
            assert_same(result, single)
    assert listener([]) == []


@pytest.mark.parametrize("name", BACKBONES)
@given(lengths=st.lists(st.integers(400, 40_000), min_size=2, max_size=5), batch_size=st.integers(2, 4))
@settings(max_examples=6, deadline=None)
def test_results_do_not_depend_on_the_batch(build, name, lengths, batch_size) -> None:
    model, processor = build(name)
    clips = [noise(length, seed=length) for length in lengths]
    for pipeline_class in (SerMtlAudioClassificationPipeline, SpeechEmotionPipeline):
        listener = pipeline_class(model=model, processor=processor, window_seconds=1, device="cpu")
        for clip, together in zip(clips, listener(clips, batch_size=batch_size), strict=True):
            alone = listener(clip)
            np.testing.assert_allclose(numbers(together), numbers(alone), atol=1e-5)
            if pipeline_class is SpeechEmotionPipeline:
                assert together["text"] == alone["text"]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_long_clip_is_the_mean_of_equal_windows_with_their_texts_joined(load, batch_size) -> None:
    clip = noise(50_000)  # in 4 windows of 12,500 samples
    listener, classifier = load("speech-emotion-mtl"), load("audio-classification")
    windows = listener(np.split(clip, 4))
    result = listener([clip], window_seconds=1, batch_size=batch_size)[0]
    for name in ("emotion", "gender", "task_gates"):
        expected = np.mean([numbers(window[name]) for window in windows], axis=0)
        np.testing.assert_allclose(numbers(result[name]), expected, atol=1e-6)
    mean = np.mean([window["speaker_embedding"] for window in windows], axis=0)
    np.testing.assert_allclose(result["speaker_embedding"], mean / np.linalg.norm(mean), atol=1e-6)
    assert result["text"] == " ".join(window["text"] for window in windows if window["text"])
    scores = classifier([clip], window_seconds=1, batch_size=batch_size)[0]
    np.testing.assert_allclose(numbers(scores), numbers(result["emotion"]), atol=1e-6)


def test_by_default_a_window_has_20_seconds(build) -> None:
    model, processor = build("wav2vec2-layer")
    listener = SpeechEmotionPipeline(model=model, processor=processor)
    for seconds, windows in ((20, 1), (20.1, 2), (60, 3)):
        assert len(list(listener.preprocess(noise(round(seconds * RATE))))) == windows


def test_a_window_may_be_longer_than_any_clip(build) -> None:
    model, processor = build("wav2vec2-layer")
    listener = SpeechEmotionPipeline(model=model, processor=processor)
    assert_same(listener(noise(RATE), window_seconds=1e308, max_seconds=1e308), listener(noise(RATE)))


def test_a_clip_longer_than_the_encoder_reads_is_cut_to_what_it_reads(build) -> None:
    model, processor = build("whisper")
    listener = SpeechEmotionPipeline(model=model, processor=processor)
    clip = noise(6 * RATE)
    windows = listener(np.split(clip, 3))
    expected = np.mean([numbers(window["emotion"]) for window in windows], axis=0)
    np.testing.assert_allclose(numbers(listener(clip)["emotion"]), expected, atol=1e-6)


def test_a_list_is_read_without_a_warning(load) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for task in TASKS:
            assert len(load(task)([noise(30_000), noise(4_000)], window_seconds=0.5, batch_size=3)) == 2


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"tasks": ("emotion",)}, {"emotion"}),
        ({"tasks": ("emotion", "asr"), "fusion": "concat"}, {"emotion", "text"}),
        ({"tasks": ("emotion", "gender")}, {"emotion", "gender", "task_gates"}),
        ({"tasks": ("speaker", "asr")}, {"speaker_embedding", "text"}),
    ],
)
def test_what_the_model_has_no_task_for_is_absent(build, fields, names) -> None:
    model, processor = build("wav2vec2-layer", **fields)
    assert SpeechEmotionPipeline(model=model, processor=processor)(noise(8_000)).keys() == names


def test_a_model_without_emotions_is_refused_as_a_classifier(build) -> None:
    model, processor = build("wav2vec2-layer", tasks=("gender",))
    with pytest.raises(ValueError, match=r"found \['gender'\]; audio-classification needs emotion"):
        SerMtlAudioClassificationPipeline(model=model, processor=processor)


@pytest.mark.parametrize("pipeline_class", [SerMtlAudioClassificationPipeline, SpeechEmotionPipeline])
def test_parameters_hold_for_all_calls_unless_a_call_has_its_own(build, pipeline_class) -> None:
    model, processor = build("wav2vec2-layer")
    listener = pipeline_class(model=model, processor=processor, top_k=1, max_seconds=1)

    def classes(**parameters: Any) -> int:
        result = listener(noise(8_000), **parameters)
        return len(result if isinstance(result, list) else result["emotion"])

    assert (classes(), classes(top_k=2), classes()) == (1, 2, 1)
    with pytest.raises(ValueError, match="longer than 1 s"):
        listener(noise(RATE + 1))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"top_k": 0}, "top_k: found 0"),
        ({"top_k": 1.5}, "top_k: found 1.5"),
        ({"top_k": True}, "top_k: found True"),
        ({"window_seconds": True}, "window_seconds: found True"),
        ({"window_seconds": 0.05}, "window_seconds: found 0.05; give seconds, 0.1 or more"),
        ({"window_seconds": float("nan")}, "window_seconds: found nan"),
        ({"max_seconds": "9"}, "max_seconds: found '9'"),
    ],
)
@pytest.mark.parametrize("task", TASKS)
def test_a_parameter_outside_its_range_is_named(load, task, parameters, message) -> None:
    with pytest.raises(ValueError, match=message):
        load(task)(noise(8_000), **parameters)


def test_an_unknown_function_or_parameter_is_named(load) -> None:
    with pytest.raises(ValueError, match="function_to_apply: found 'tanh'"):
        load("audio-classification")(noise(8_000), function_to_apply="tanh")
    for task in TASKS:
        with pytest.raises(TypeError, match="topk"):
            load(task)(noise(8_000), topk=1)


@pytest.mark.parametrize("task", TASKS)
def test_a_model_in_half_precision_runs(folder, task) -> None:
    listener = pipeline(task, model=str(folder), trust_remote_code=True, dtype=torch.bfloat16)
    assert listener.dtype == torch.bfloat16
    assert np.isfinite(numbers(listener([noise(8_000), noise(4_000)], batch_size=2)[0])).all()


@pytest.mark.parametrize("task", TASKS)
def test_a_saved_pipeline_can_be_loaded_again(load, tmp_path, task) -> None:
    listener = load(task)
    listener.save_pretrained(tmp_path / "saved")
    again = pipeline(task, model=str(tmp_path / "saved"), trust_remote_code=True)
    assert_same(again(noise(8_000)), listener(noise(8_000)))


SCRIPT = """
import sys
from importlib.machinery import PathFinder

class WithoutAudio(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        missing = name.split(".")[0] in ("soundfile", "_soundfile", "soxr", "torchaudio", "librosa")
        return None if missing else super().find_spec(name, path, target)

sys.meta_path[:] = [WithoutAudio if finder is PathFinder else finder for finder in sys.meta_path]

import json

import numpy as np
import torch
from transformers import AutoModel, pipeline

torch.set_num_threads(1)
AutoModel.from_pretrained("model", trust_remote_code=True)
for task in ("audio-classification", "speech-emotion-mtl"):
    listener = pipeline(task, model="model", trust_remote_code=True)
    print(json.dumps(listener(np.load("clip.npy"))))
    for clip in (b"RIFF", {"array": np.zeros(8_000), "sampling_rate": 8_000}):
        try:
            listener(clip)
        except ImportError as error:
            print(error)
"""


def test_a_model_loads_and_hears_arrays_where_no_audio_library_is(load, folder, without_package, tmp_path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    np.save(tmp_path / "clip.npy", noise(8_000))
    process = subprocess.run(
        without_package(SCRIPT),
        cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    lines = process.stdout.splitlines()
    assert len(lines) == 6
    for task, (result, *errors) in zip(TASKS, (lines[:3], lines[3:]), strict=True):
        assert_same(json.loads(result), load(task)(noise(8_000)))
        assert errors == [
            "decoding audio needs soundfile: pip install soundfile",
            "resampling from 8000 to 16000 Hz needs soxr: pip install soxr",
        ]


@pytest.fixture
def calibrated(plain_config, make_processor) -> tuple[SerMtlModel, SerMtlProcessor]:
    """A model with a temperature of 2 whose training clips were of unequal emotions."""
    config = plain_config("wav2vec2-layer", emotion_temperature=2.0, emotion_class_counts=[8, 2, 1])
    torch.manual_seed(0)
    model = SerMtlModel(config).eval()
    torch.nn.init.normal_(model.emotion_classifier.weight)
    return model, make_processor(config)


@pytest.mark.parametrize("prior_correction", [0.0, 1.0])
@pytest.mark.parametrize("window_seconds", [20, 0.25])
def test_both_pipelines_give_calibrated_probabilities(calibrated, prior_correction, window_seconds) -> None:
    model, processor = calibrated
    model.config.emotion_prior_correction = prior_correction
    clip = noise(8_000)
    windows = [clip] if window_seconds == 20 else np.split(clip, 2)
    rows = []
    for window in windows:
        with torch.no_grad():
            logits = model(**processor(window, sampling_rate=RATE)).logits[0].double().numpy()
        row = np.exp(logits / 2) / np.array([8, 2, 1]) ** prior_correction
        rows.append(row / row.sum())
    expected = dict(zip(model.config.emotion_labels, np.mean(rows, axis=0), strict=True))
    for pipeline_class in (SerMtlAudioClassificationPipeline, SpeechEmotionPipeline):
        result = pipeline_class(model=model, processor=processor)(clip, window_seconds=window_seconds)
        found = result if isinstance(result, list) else result["emotion"]
        assert {entry["label"]: entry["score"] for entry in found} == pytest.approx(expected, abs=1e-5)


def test_the_other_functions_are_of_the_logits_themselves(calibrated) -> None:
    model, processor = calibrated
    classifier = SerMtlAudioClassificationPipeline(model=model, processor=processor)
    with torch.no_grad():
        logits = model(**processor(noise(8_000), sampling_rate=RATE)).logits[0]
    for function, expected in (("none", logits), ("sigmoid", logits.sigmoid())):
        scores = {entry["label"]: entry["score"] for entry in classifier(noise(8_000), function_to_apply=function)}
        assert list(map(scores.get, model.config.emotion_labels)) == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_clip_below_the_least_confidence_is_marked_where_one_is_asked_for(load) -> None:
    listener, clip = load("speech-emotion-mtl"), noise(8_000)
    confidence = listener(clip)["emotion"][0]["score"]
    assert "emotion_abstained" not in listener(clip)
    for min_confidence, abstained in ((0, False), (confidence - 1e-3, False), (confidence + 1e-3, True), (1, True)):
        result = listener(clip, min_confidence=min_confidence)
        assert result["emotion_abstained"] is abstained
        assert result["emotion"][0]["score"] == pytest.approx(confidence, abs=1e-6)
    for wrong in (-0.1, 1.1, float("nan"), "0.5", True):
        with pytest.raises(ValueError, match="min_confidence: found .*; give a probability, 0 to 1"):
            listener(clip, min_confidence=wrong)
