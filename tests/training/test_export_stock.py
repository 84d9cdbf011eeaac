"""The stock twin holds the same encoder, learns the full model's emotions and needs nothing but transformers."""

import json
import os
import runpy
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.metrics import f1_score
from transformers import BatchFeature, SeamlessM4TFeatureExtractor

from modeling_ser_mtl import SerMtlModel, SerMtlProcessor, cli
from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.training import stock_twin as module
from modeling_ser_mtl.training.export_stock import export_stock, gather_clips, main
from modeling_ser_mtl.training.stock_twin import (
    STOCK_BACKBONES,
    cut_clips,
    head_logits,
    pooled_states,
    run_clips,
    stock_feature_extractor,
    stock_twin,
)

BATCHES = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "benchmarks" / "batch_invariance.py"))
EMOTIONS = ["anger", "joy", "sadness"]
# Name of the twin's backbone, configuration of the full model, settings of its backbone.
MODELS = {
    "wav2vec2-group": ("wav2vec2", "wav2vec2-group", {}),
    "wav2vec2-layer": ("wav2vec2", "wav2vec2-layer", {}),
    "hubert": ("hubert", "wav2vec2-group", {"model_type": "hubert"}),
    "wavlm": ("wavlm", "wav2vec2-layer", {"model_type": "wavlm"}),
    "wav2vec2-bert": ("wav2vec2_bert", "wav2vec2-bert", {}),
}
CLASSES = {
    "wav2vec2-group": "Wav2Vec2ForSequenceClassification",
    "wav2vec2-layer": "Wav2Vec2ForSequenceClassification",
    "hubert": "HubertForSequenceClassification",
    "wavlm": "WavLMForSequenceClassification",
    "wav2vec2-bert": "Wav2Vec2BertForSequenceClassification",
}
SCRIPT = """
import sys

import json
import numpy as np
import torch
from transformers import pipeline

torch.set_num_threads(1)
data, *folders = sys.argv[1:]
clips = np.load(data)
answers = {}
for folder in folders:
    classifier = pipeline("audio-classification", model=folder, top_k=None, device="cpu")
    scores = {name: {s["label"]: s["score"] for s in classifier(clips[name])} for name in clips.files}
    answers[folder] = {"class": type(classifier.model).__name__, "scores": scores}
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def voices(tmp_path_factory) -> SimpleNamespace:
    """80 clips of .2 to .5 s, noise of various loudness under a tone of various pitch, and their labelled manifest."""
    folder, random = tmp_path_factory.mktemp("voices"), np.random.default_rng(0)
    waveforms = {}
    for index in range(80):
        time = np.arange(random.integers(3_200, 8_000)) / 16_000
        tone = np.sin(2 * np.pi * random.uniform(100, 3_000) * time)
        noise = random.standard_normal(len(time)) * random.choice([0.01, 0.1, 1.0])
        name = f"{index:02d}.wav"
        waveforms[name] = (0.2 * tone + 0.1 * noise).astype("float32")
        soundfile.write(folder / name, waveforms[name], 16_000, subtype="FLOAT")
    labels = random.choice([*EMOTIONS, ""], len(waveforms))
    pd.DataFrame({"audio": list(waveforms), "emotion": labels}).to_csv(folder / "labelled.csv", index=False)
    return SimpleNamespace(folder=folder, waveforms=waveforms, labels=labels, manifest=str(folder / "labelled.csv"))


@torch.no_grad()
def full_probabilities(folder: Path, waveforms: list[np.ndarray]) -> np.ndarray:
    model, processor = SerMtlModel.from_pretrained(folder).eval(), SerMtlProcessor.from_pretrained(folder)
    logits = [model(**processor(waveform, sampling_rate=16_000)).logits[0] for waveform in waveforms]
    return torch.stack(logits).softmax(-1).double().numpy()


@pytest.fixture(scope="module")
def save_model(tmp_path_factory, voices, plain_config, make_processor):
    """Saves a small model whose emotions depend on the clip and occur about equally often; gives its folder."""

    def save(name: str, **fields: object) -> Path:
        _, config_name, backbone = MODELS[name]
        torch.manual_seed(0)
        id2label = dict(enumerate(EMOTIONS))
        config = plain_config(config_name, {"layerdrop": 0.1} | backbone, id2label=id2label, **fields)
        processor = make_processor(config)
        config.vocab_size = len(processor.tokenizer)
        model = SerMtlModel(config).eval()
        if name == "wav2vec2-bert":
            processor.feature_extractor = SeamlessM4TFeatureExtractor()
        torch.nn.init.normal_(model.layer_mixture.weight)
        if "emotion" in model.config.tasks:
            with torch.no_grad():
                inputs = [processor(waveform, sampling_rate=16_000) for waveform in voices.waveforms.values()]
                logits = torch.cat([model(**clip).logits for clip in inputs])
                model.emotion_classifier.weight.mul_(2 / logits.std(0)[:, None])
                model.emotion_classifier.bias.sub_(logits.mean(0)).mul_(2 / logits.std(0))
        folder = tmp_path_factory.mktemp("model")
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="module")
def exports(tmp_path_factory, save_model, voices) -> dict[str, SimpleNamespace]:
    """Of each of `MODELS`: the folder of the full model, that of its twin, and the figures."""
    folder, made = tmp_path_factory.mktemp("twins"), {}
    for name in MODELS:
        model = save_model(name)
        figures = export_stock(str(model), str(folder / name), [voices.manifest])
        made[name] = SimpleNamespace(model=model, twin=folder / name, figures=figures)
    return made


@pytest.fixture(scope="module")
def answers(exports, voices, without_package, tmp_path_factory) -> dict[str, dict]:
    """What a process that cannot import this package gets from plain pipelines, by model: class and scores."""
    folder = tmp_path_factory.mktemp("elsewhere")
    np.savez(folder / "clips.npz", **voices.waveforms)
    process = subprocess.run(
        [*without_package(SCRIPT), "clips.npz", *(str(export.twin) for export in exports.values())],
        cwd=folder,
        env=os.environ | {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    given_ = json.loads(process.stdout.splitlines()[-1])
    return {name: given_[str(export.twin)] for name, export in exports.items()}


@pytest.mark.parametrize("name", MODELS)
def test_the_backbone_of_the_twin_is_that_of_the_full_model_bit_for_bit(name, exports) -> None:
    full, twin = (load_file(path / "model.safetensors") for path in (exports[name].model, exports[name].twin))
    backbone = {key.removeprefix("backbone."): value for key, value in full.items() if key.startswith("backbone.")}
    prefix = MODELS[name][0] + "."
    assert {key.removeprefix(prefix) for key in twin if key.startswith(prefix)} == set(backbone)
    for key, value in backbone.items():
        assert torch.equal(twin[prefix + key], value), key


@pytest.mark.parametrize("name", MODELS)
def test_figures_are_those_of_a_plain_pipeline_without_this_package(name, exports, answers, voices) -> None:
    export = exports[name]
    assert answers[name]["class"] == CLASSES[name]
    _, _, tested = cut_clips(80, 0.2, 42)
    names = [list(voices.waveforms)[index] for index in tested]
    full = full_probabilities(export.model, [voices.waveforms[clip] for clip in names])
    twin = np.array([[answers[name]["scores"][clip][emotion] for emotion in EMOTIONS] for clip in names])
    assert export.figures["num_held_out"] == len(tested) == 16
    assert export.figures["agreement"] == (full.argmax(1) == twin.argmax(1)).mean()
    assert export.figures["kl"] == pytest.approx((full * np.log(full / twin)).sum(1).mean(), abs=1e-5)

    labelled = voices.labels[tested] != ""
    references = voices.labels[tested][labelled]
    assert export.figures["num_labelled"] == labelled.sum()
    for key, scores in (("full", full), ("stock", twin)):
        predicted = np.array(EMOTIONS)[scores[labelled].argmax(1)]
        expected = f1_score(references, predicted, labels=np.unique(references), average="macro", zero_division=0)
        assert export.figures[f"emotion_macro_f1_{key}"] == pytest.approx(expected)


@pytest.mark.parametrize("name", MODELS)
def test_nothing_in_the_folder_asks_for_other_code(name, exports) -> None:
    files = {path.name for path in exports[name].twin.iterdir()}
    expected = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "export_results.json"}
    assert files == expected
    for file in ("config.json", "preprocessor_config.json"):
        text = (exports[name].twin / file).read_text()
        for word in ("auto_map", "custom_pipelines", "processor_class", "SerMtl", "ser_mtl", str(exports[name].model)):
            assert word not in text, (file, word)


@pytest.mark.parametrize("name", MODELS)
def test_distillation_learns_the_full_models_decision(name, exports, voices) -> None:
    export = exports[name]
    _, _, tested = cut_clips(80, 0.2, 42)
    waveforms = [list(voices.waveforms.values())[index] for index in tested]
    decisions = full_probabilities(export.model, waveforms).argmax(1)
    model, processor = SerMtlModel.from_pretrained(export.model).eval(), SerMtlProcessor.from_pretrained(export.model)
    torch.manual_seed(0)
    untrained, extractor = module.stock_twin(model), module.stock_feature_extractor(processor)
    inputs = [extractor(waveform, sampling_rate=16_000, return_tensors="pt") for waveform in waveforms]
    with torch.no_grad():
        guesses = np.array([untrained(**clip).logits.argmax().item() for clip in inputs])
    assert export.figures["agreement"] >= (guesses == decisions).mean() + 0.2
    assert export.figures["kl"] < 0.6 * export.figures["kl_constant"]


@pytest.mark.parametrize("name", BATCHES["BACKBONES"])
@given(milliseconds=st.integers(100, 700), seed=st.integers(0, 3))
@settings(max_examples=4, deadline=None)
def test_the_head_on_pooled_states_is_the_stock_forward(name, milliseconds, seed) -> None:
    model = BATCHES["small_model"](name)
    twin = module.stock_twin(model)
    clips = BATCHES["random_clips"](model, (milliseconds,), seed)
    inputs = BatchFeature(BATCHES["padded_batch"](model, clips))
    with torch.no_grad():
        expected = twin(**inputs).logits
        logits = head_logits(twin, pooled_states(twin, inputs)[None])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)


def test_every_backbone_with_a_twin_is_tried_here() -> None:
    assert {backbone["model_type"] for backbone in BATCHES["BACKBONES"].values()} == set(STOCK_BACKBONES)


@pytest.mark.parametrize("name", BATCHES["BACKBONES"])
def test_a_twin_starts_from_the_emotion_mixture_and_trains_although_its_backbone_had_layerdrop(name) -> None:
    model = BATCHES["small_model"](name, layerdrop=0.9)
    twin = module.stock_twin(model).train()
    assert torch.equal(twin.layer_weights, model.layer_mixture.weight[0])
    inputs = BATCHES["padded_batch"](model, BATCHES["random_clips"](model, (430, 310)))
    loss = twin(**inputs, labels=torch.tensor([0, 1])).loss
    loss.backward()
    assert loss.isfinite()
    assert twin.layer_weights.grad.abs().sum() > 0
    assert model.config.backbone_config.layerdrop == 0.9


@given(num_clips=st.integers(10, 500), held_out=st.floats(0.01, 0.5), seed=st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_every_clip_fits_or_stops_or_is_held_out(num_clips, held_out, seed) -> None:
    parts = cut_clips(num_clips, held_out, seed)
    assert sorted(np.concatenate(parts)) == list(range(num_clips))
    assert all(len(part) > 0 for part in parts)
    assert len(parts[2]) == max(1, round(held_out * num_clips))


@given(classes=st.integers(2, 6), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_the_divergence_is_the_textbooks(classes, seed) -> None:
    random = np.random.default_rng(seed)
    p, q = random.dirichlet(np.ones(classes), 5), random.dirichlet(np.ones(classes), 5)
    p[0] = np.eye(classes)[0]
    expected = np.mean([sum(a * np.log(a / b) for a, b in zip(*pair, strict=True) if a > 0) for pair in zip(p, q)])  # noqa: B905
    found = module.kl_divergence(torch.tensor(p), torch.tensor(q).log() + 3)
    assert float(found) == pytest.approx(expected)


def test_a_seed_gives_the_same_twin_again_and_another_seed_another(exports, voices, tmp_path) -> None:
    export = exports["wav2vec2-group"]
    torch.manual_seed(7)
    figures = export_stock(str(export.model), str(tmp_path / "same"), [voices.manifest])
    other = export_stock(str(export.model), str(tmp_path / "other"), [voices.manifest], seed=1)
    assert figures == export.figures != other
    expected = load_file(export.twin / "model.safetensors")
    same, changed = (load_file(tmp_path / name / "model.safetensors") for name in ("same", "other"))
    assert all(torch.equal(same[key], value) for key, value in expected.items())
    assert not torch.equal(changed["projector.weight"], expected["projector.weight"])


def test_held_out_clips_have_no_part_in_the_fit(exports, voices, tmp_path) -> None:
    _, _, tested = cut_clips(80, 0.2, 42)
    (tmp_path / "clips").mkdir()
    random = np.random.default_rng(1)
    for index, (name, waveform) in enumerate(voices.waveforms.items()):
        wave = random.standard_normal(6_000) if index in tested else waveform
        soundfile.write(tmp_path / "clips" / name, wave, 16_000, subtype="FLOAT")
    export = exports["wav2vec2-layer"]
    figures = export_stock(str(export.model), str(tmp_path / "twin"), [str(tmp_path / "clips")])
    assert figures["kl"] != export.figures["kl"]
    weights, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "twin", export.twin))
    assert all(torch.equal(weights[key], value) for key, value in expected.items())


def test_clips_without_labels_give_no_macro_f1_and_the_same_twin(exports, voices, tmp_path) -> None:
    export = exports["wav2vec2-group"]
    figures = export_stock(str(export.model), str(tmp_path / "twin"), [str(voices.folder)])
    labelled = {key: value for key, value in export.figures.items() if not key.startswith("emotion_")}
    assert figures == labelled | {"num_labelled": 0}
    assert "Macro-F1" not in (tmp_path / "twin" / "README.md").read_text().partition("## How close")[2].split("If")[0]


def test_only_the_first_seconds_of_a_clip_are_read(exports, voices, tmp_path) -> None:
    (tmp_path / "long").mkdir()
    (tmp_path / "short").mkdir()
    for name, waveform in list(voices.waveforms.items())[:20]:
        tail = np.random.default_rng(1).uniform(-1, 1, 9_000).astype("float32")
        soundfile.write(tmp_path / "short" / name, waveform[:3_200], 16_000, subtype="FLOAT")
        soundfile.write(tmp_path / "long" / name, np.r_[waveform[:3_200], tail], 16_000, subtype="FLOAT")
    model = str(exports["hubert"].model)
    figures = [
        export_stock(model, str(tmp_path / f"{name} twin"), [str(tmp_path / name)], max_seconds=0.2)
        for name in ("long", "short")
    ]
    assert figures[0] == figures[1]


def test_clips_are_files_folders_and_manifests_each_file_once(tmp_path, make_wav) -> None:
    make_wav(tmp_path / "a" / "deep" / "1.wav")
    make_wav(tmp_path / "a" / "2.flac")
    make_wav(tmp_path / "b" / "3.wav")
    (tmp_path / "a" / "notes.txt").write_text("no audio")
    manifest = tmp_path / "b" / "manifest.tsv"
    manifest.write_text("audio\temotion\n3.wav\tjoy\n../a/2.flac\tanger\n")
    sources = [tmp_path / "a", manifest, tmp_path / "b" / "3.wav"]
    table = gather_clips([str(source) for source in sources])
    assert [Path(path).name for path in table["audio_path"]] == ["2.flac", "1.wav", "3.wav"]
    assert table["emotion"].tolist() == ["", "", "joy"]


def test_clips_that_cannot_be_used_are_skipped_and_told(exports, voices, tmp_path, caplog, make_wav) -> None:
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    make_wav(tmp_path / "short.wav", seconds=0.05)
    clips = [str(tmp_path / "broken.wav"), str(tmp_path / "short.wav"), voices.manifest]
    figures = export_stock(str(exports["wav2vec2-group"].model), str(tmp_path / "twin"), clips)
    assert figures == exports["wav2vec2-group"].figures
    assert "2 of 82 clips can't be used" in caplog.text and "broken.wav" in caplog.text


def test_labels_that_the_model_does_not_know_count_as_unknown(exports, voices, tmp_path, caplog) -> None:
    table = pd.read_csv(voices.manifest, keep_default_na=False)
    table["audio"] = [str(voices.folder / name) for name in table["audio"]]
    table.assign(emotion="boredom").to_csv(tmp_path / "bored.csv", index=False)
    figures = export_stock(str(exports["wavlm"].model), str(tmp_path / "twin"), [str(tmp_path / "bored.csv")])
    assert figures["num_labelled"] == 0 and "emotion_macro_f1_full" not in figures
    assert "boredom" in caplog.text


def test_the_card_links_the_full_model_takes_its_licence_over_and_tells_the_figures(
    exports, voices, tmp_path, save_model, capsys
) -> None:
    model = save_model("wav2vec2-group", tasks=("emotion", "gender"))
    (model / "README.md").write_text("---\nlicense: cc-by-nc-4.0\nlanguage: de\nbase_model: x/y\n---\n\n# Full\n")
    options = ["--full_model", "me/full", "--hub_model_id", "me/twin", "--held_out", "0.3"]
    main([str(model), str(tmp_path / "twin"), "--clips", voices.manifest, *options])
    figures = json.loads((tmp_path / "twin" / "export_results.json").read_text())
    card = ModelCard.load(tmp_path / "twin" / "README.md")
    metadata = card.data.to_dict()
    assert metadata.pop("tags") == ["speech-emotion-recognition", "distillation"]
    assert metadata == {
        "base_model": "me/full",
        "language": "de",
        "library_name": "transformers",
        "license": "cc-by-nc-4.0",
        "pipeline_tag": "audio-classification",
    }
    assert "[me/full](https://huggingface.co/me/full)" in card.text
    assert 'pipeline("audio-classification", model="me/twin")' in card.text
    assert "2 tasks in one pass: emotion, gender." in card.text
    assert "Emotions: anger, joy, sadness." in card.text
    assert f"| same emotion as the full model | {figures['agreement']:.3f} | 24 |" in card.text
    assert (
        f"| Macro-F1 of this model | {figures['emotion_macro_f1_stock']:.3f} | {figures['num_labelled']} |" in card.text
    )
    printed = capsys.readouterr().out
    for key, value in figures.items():
        assert f"{key:<22}  {value:.3f}\n" in printed or f"{key:<22}  {value}\n" in printed


def test_results_in_the_folder_are_those_returned(exports) -> None:
    for export in exports.values():
        assert json.loads((export.twin / "export_results.json").read_text()) == export.figures


WHISPER = {
    "model_type": "whisper",
    "d_model": 32,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "num_mel_bins": 8,
    "max_source_positions": 50,
}


@pytest.mark.parametrize(
    ("config_name", "backbone", "tasks", "message"),
    [
        ("wav2vec2-group", {}, ("gender", "asr"), "tasks: found gender, asr; a stock twin needs a model with emotion"),
        ("wav2vec2-bert", {}, ("emotion",), "LogMelFeatureExtractor: is this project's own, which a stock model can't"),
        ("wav2vec2-bert", WHISPER, ("emotion",), "backbone whisper: has no stock twin; those that have one: wav2vec2,"),
    ],
)
def test_a_model_without_a_twin_is_one_line(
    config_name, backbone, tasks, message, plain_config, make_processor, voices, tmp_path, capsys
) -> None:
    config = plain_config(config_name, backbone, tasks=tasks, vocab_size=30)
    SerMtlModel(config).save_pretrained(tmp_path / "model")
    make_processor(config).save_pretrained(tmp_path / "model")
    argv = [str(tmp_path / "model"), str(tmp_path / "twin"), "--clips", voices.manifest]
    assert message in error_of(argv, capsys)
    assert not (tmp_path / "twin").exists()


def error_of(argv: list[str], capsys) -> str:
    """The one line on standard error of a command that fails with exit code 2."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["export-stock", *argv])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert caught.value.code == 2 and len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"--held_out": "0"}, "--held_out 0: must lie above 0 and at most at .5"),
        ({"--held_out": "0.6"}, "--held_out 0.6: must lie above 0 and at most at .5"),
        ({"--max_seconds": "0.01"}, "--max_seconds 0.01: give 0.1 or more"),
        ({"--max_seconds": "nan"}, "--max_seconds nan: give 0.1 or more"),
        ({"--full_model": "not a name"}, "--full_model not a name: no name of a Hub repository; give user/name"),
        ({"--clips": "nowhere"}, "--clips nowhere: found no audio; give audio files, folders of .wav"),
        ({"--clips": "nowhere.csv"}, "nowhere.csv: no such file"),
        ({"OUT": "full"}, "full: exists and is no empty folder; choose another or delete it"),
        ({"OUT": "file"}, "file: exists and is no empty folder; choose another or delete it"),
        ({"DIR": "nowhere"}, "nowhere: no such folder; give the one that a training wrote"),
        ({"DIR": "full"}, "--model_name_or_path full: could not be loaded"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    options, message, exports, voices, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full", "notes.txt").touch()
    Path("file").touch()
    given_ = {"DIR": str(exports["hubert"].model), "OUT": "twin", "--clips": voices.manifest} | options
    argv = [given_.pop("DIR"), given_.pop("OUT"), *(word for pair in given_.items() for word in pair)]
    assert message in error_of(argv, capsys)
    assert not Path("twin").exists() and len(list(Path("full").iterdir())) == 1


def test_another_model_than_the_projects_is_one_line(exports, voices, tmp_path) -> None:
    with pytest.raises(InputError, match="is no checkpoint of this project; give the folder that a training wrote"):
        export_stock(str(exports["hubert"].twin), str(tmp_path / "twin"), [voices.manifest])


def test_too_few_clips_are_one_line_with_the_reason(exports, tmp_path, make_wav) -> None:
    for index in range(9):
        make_wav(tmp_path / "clips" / f"{index}.wav")
    (tmp_path / "clips" / "broken.wav").write_bytes(b"no audio")
    with pytest.raises(
        InputError, match=r"9 clips can be used, at least 10 are needed; the first that can't: .*broken"
    ):
        export_stock(str(exports["hubert"].model), str(tmp_path / "twin"), [str(tmp_path / "clips")])


def test_the_twin_learns_the_calibrated_probabilities(exports, voices) -> None:
    export = exports["wav2vec2-layer"]
    model, processor = SerMtlModel.from_pretrained(export.model).eval(), SerMtlProcessor.from_pretrained(export.model)
    paths = [str(voices.folder / name) for name in list(voices.waveforms)[:12]]
    plain = full_probabilities(export.model, list(voices.waveforms.values())[:12])
    model.config.emotion_temperature = 2.0
    twin, feature_extractor = stock_twin(model), stock_feature_extractor(processor)
    _, probabilities, _ = run_clips(model, processor, twin, feature_extractor, paths, 20.0)
    # The softmax of half the logits.
    expected = np.sqrt(plain) / np.sqrt(plain).sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
