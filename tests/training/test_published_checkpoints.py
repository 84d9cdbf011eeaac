"""What is published goes into the model bit by bit; what a checkpoint lacks is named."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoProcessor,
    HubertForCTC,
    HubertModel,
    PreTrainedModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertForCTC,
    Wav2Vec2BertModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
    Wav2Vec2Model,
    WavLMForCTC,
    WavLMModel,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperModel,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

import run_ser_mtl
from modeling_ser_mtl import SerMtlModel, SerMtlProcessor
from modeling_ser_mtl.data.audio import load_audio
from modeling_ser_mtl.data.dataset import LabelNames
from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.training.arguments import ModelArguments
from modeling_ser_mtl.training.builders import build_model, build_processor, load_config
from modeling_ser_mtl.training.parser import parse_arguments

LABELS = LabelNames(["anger", "sadness"], ["female", "male"], ["c/1", "c/2", "c/3"])
COUNTS = {"emotion": [3, 2], "gender": [4, 1]}

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 12}
WAVEFORM = SMALL | {
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "codevector_dim": 16,
    "proj_codevector_dim": 16,
    "num_codevectors_per_group": 4,
}
LOG_MEL = SMALL | {"feature_projection_input_dim": 160, "conv_depthwise_kernel_size": 5}
WHISPER = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_mel_bins": 8,
    "vocab_size": 60,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
}
# Class that was published -> its settings and feature extractor.
PUBLISHED: dict[type[PreTrainedModel], tuple[dict[str, Any], type]] = {
    Wav2Vec2Model: (WAVEFORM, Wav2Vec2FeatureExtractor),
    Wav2Vec2ForPreTraining: (WAVEFORM | {"feat_extract_norm": "layer"}, Wav2Vec2FeatureExtractor),
    Wav2Vec2ForCTC: (WAVEFORM | {"do_stable_layer_norm": True}, Wav2Vec2FeatureExtractor),
    HubertModel: (WAVEFORM, Wav2Vec2FeatureExtractor),
    HubertForCTC: (WAVEFORM, Wav2Vec2FeatureExtractor),
    WavLMModel: (WAVEFORM, Wav2Vec2FeatureExtractor),
    WavLMForCTC: (WAVEFORM, Wav2Vec2FeatureExtractor),
    Wav2Vec2BertModel: (LOG_MEL, SeamlessM4TFeatureExtractor),
    Wav2Vec2BertForCTC: (LOG_MEL, SeamlessM4TFeatureExtractor),
    WhisperModel: (WHISPER, WhisperFeatureExtractor),
    WhisperForConditionalGeneration: (WHISPER, WhisperFeatureExtractor),
}
CLASSES = pytest.mark.parametrize("source_class", PUBLISHED, ids=lambda source_class: source_class.__name__)


def whole(source: PreTrainedModel, folder: Path) -> None:
    source.save_pretrained(folder)
    assert (folder / "model.safetensors").is_file()


def sharded(source: PreTrainedModel, folder: Path) -> None:
    source.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1


def pickled(source: PreTrainedModel, folder: Path) -> None:
    source.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(old_names(source.state_dict()), folder / "pytorch_model.bin")


def old_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weight norm of the positional convolution as PyTorch 1 named it, and as files of that time still do."""
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        weights = {name.replace(f"parametrizations.weight.{new}", old): value for name, value in weights.items()}
    return weights


def publish(
    source_class: type[PreTrainedModel], folder: Path, save: Callable[[PreTrainedModel, Path], None] = whole
) -> PreTrainedModel:
    """A new model with weights in `folder`, saved beside its feature extractor as published ones are."""
    torch.manual_seed(7)
    settings, feature_extractor = PUBLISHED[source_class]
    source = source_class(source_class.config_class(**settings)).eval()
    save(source, folder)
    bins = {"feature_size": settings["num_mel_bins"]} if "num_mel_bins" in settings else {}
    feature_extractor(**bins).save_pretrained(folder)
    return source


def start_from(folder: Path) -> tuple[SerMtlModel, SerMtlProcessor]:
    """Model and processor that a training from `folder` begins with."""
    args = ModelArguments(model_name_or_path=str(folder))
    config = load_config(args)
    processor = build_processor(args, config, None)
    return build_model(args, config, processor, LABELS, COUNTS).eval(), processor


def encoder_of(source: PreTrainedModel) -> PreTrainedModel:
    """The part of a published model that reads speech."""
    base = source.base_model
    return base.encoder if isinstance(base, WhisperModel) else base


def assert_same_weights(backbone: torch.nn.Module, expected: torch.nn.Module) -> None:
    weights, expected_weights = backbone.state_dict(), expected.state_dict()
    assert weights.keys() == expected_weights.keys()
    for name, value in expected_weights.items():
        assert torch.equal(weights[name], value), name


def some_clips(lengths: tuple[int, ...] = (4_000, 7_000)) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [0.1 * random.standard_normal(length).astype(np.float32) for length in lengths]


@pytest.mark.parametrize("save", [whole, sharded, pickled])
@CLASSES
def test_backbone_weights_are_bit_identical_to_the_published_ones(source_class, save, tmp_path) -> None:
    source = publish(source_class, tmp_path, save)
    assert_same_weights(start_from(tmp_path)[0].backbone, encoder_of(source))


@CLASSES
def test_configuration_and_feature_extractor_are_the_published_ones(source_class, tmp_path) -> None:
    source = publish(source_class, tmp_path)
    model, processor = start_from(tmp_path)
    backbone, published = model.config.backbone_config.to_dict(), source.config.to_dict()
    assert {name for name in published if backbone.get(name) != published[name]} <= {"_name_or_path", "dtype"}
    expected = PUBLISHED[source_class][1].from_pretrained(tmp_path)
    assert processor.feature_extractor.to_dict() == expected.to_dict()


@CLASSES
def test_a_started_models_hidden_states_are_those_of_the_published_encoder(source_class, tmp_path) -> None:
    source = encoder_of(publish(source_class, tmp_path))
    model, processor = start_from(tmp_path)
    inputs = processor(some_clips((7_000,)), sampling_rate=16_000)
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
        expected = source(inputs[model.main_input_name], output_hidden_states=True)
    assert len(states) == len(expected.hidden_states) == 3
    for state, other in zip(states[:-1], expected.hidden_states, strict=False):
        torch.testing.assert_close(state, other, rtol=0, atol=1e-5)
    torch.testing.assert_close(states[-1], expected.last_hidden_state, rtol=0, atol=1e-5)


@CLASSES
def test_a_started_model_gives_a_clip_the_same_logits_in_a_batch_and_alone(source_class, tmp_path) -> None:
    publish(source_class, tmp_path)
    model, processor = start_from(tmp_path)
    clips = some_clips()
    with torch.no_grad():
        batch = model(**processor(clips, sampling_rate=16_000)).logits
        alone = torch.cat([model(**processor([clip], sampling_rate=16_000)).logits for clip in clips])
    torch.testing.assert_close(batch, alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("source_class", [Wav2Vec2Model, WhisperForConditionalGeneration])
def test_weights_published_in_half_precision_train_in_single(source_class, tmp_path) -> None:
    half = publish(source_class, tmp_path, lambda source, folder: source.half().save_pretrained(folder))
    model = start_from(tmp_path)[0]
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert_same_weights(model.backbone, encoder_of(half.float()))


class Code:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path) -> None:
    source = publish(Wav2Vec2Model, tmp_path, pickled)
    trace = tmp_path / "trace"
    torch.save(source.state_dict() | {"code": Code(trace)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="code in one is never run") as error:
        start_from(tmp_path)
    assert "\n" not in str(error.value) and not trace.exists()


def test_broken_weights_are_one_line(tmp_path) -> None:
    publish(Wav2Vec2Model, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="could not be loaded") as error:
        start_from(tmp_path)
    assert "\n" not in str(error.value)


def test_an_encoder_without_feature_extractor_is_one_line(tmp_path) -> None:
    publish(Wav2Vec2Model, tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="could not be loaded") as error:
        start_from(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("start", ["model_name_or_path", "config_name"])
def test_nothing_is_predicted_before_the_heads_are_trained(start, command, manifest, tiny_config, tmp_path) -> None:
    publish(Wav2Vec2Model, tmp_path / "encoder")
    sources = {"model_name_or_path": tmp_path / "encoder", "config_name": tiny_config()}
    options = {"test_file": manifest("t.csv", [0, 1]), "do_predict": True, start: sources[start]}
    with pytest.raises(InputError, match=f"--{start}.*: has no trained weights for .*emotion_classifier"):
        run_ser_mtl.run(*parse_arguments(command(**options)))


def test_encoder_weights_that_the_source_lacks_are_named(tmp_path, caplog) -> None:
    publish(Wav2Vec2ForCTC, tmp_path)
    path = tmp_path / "model.safetensors"
    lacking = "feature_projection.projection.weight"
    weights = {name: value for name, value in load_file(path).items() if not name.endswith(lacking)}
    save_file(weights, path, metadata={"format": "pt"})
    start_from(tmp_path)
    assert f"has no trained weights for {lacking}: they start at random" in caplog.text


# Whisper


@pytest.fixture
def whisper_config(tmp_path) -> Path:
    """A backbone's JSON for --config_name, with the keys of a published Whisper's."""
    settings = AutoConfig.for_model("whisper", **WHISPER).to_dict()
    published = {"architectures": ["WhisperForConditionalGeneration"], "dtype": "float16", "forced_decoder_ids": None}
    path = tmp_path / "whisper.json"
    path.write_text(json.dumps(settings | published))
    return path


@pytest.mark.parametrize("source_class", [WhisperModel, WhisperForConditionalGeneration])
def test_of_whisper_only_the_encoder_is_there(source_class, tmp_path) -> None:
    publish(source_class, tmp_path)
    model = start_from(tmp_path)[0]
    assert type(model.backbone) is WhisperEncoder
    assert not any("decoder" in name for name in model.state_dict())


def test_a_run_from_a_whole_whisper_configuration_predicts_the_same_when_loaded(
    whisper_config, command, manifest, clips, tmp_path
) -> None:
    options = {"train_file": manifest("a.csv", [0, 1]), "validation_file": manifest("v.csv", [2, 3])}
    options |= {"test_file": manifest("t.csv", [4, 5]), "do_train": True, "do_predict": True}
    metrics = run_ser_mtl.run(
        *parse_arguments(command(config_name=whisper_config, tasks=["emotion", "asr"], max_steps=1, **options))
    )
    assert np.isfinite(metrics["train_loss"])
    output = tmp_path / "output"
    model = AutoModel.from_pretrained(output).eval()
    processor = AutoProcessor.from_pretrained(output)
    assert type(model.backbone) is WhisperEncoder and {p.dtype for p in model.parameters()} == {torch.float32}
    waveforms = [load_audio(path) for path in clips["audio"][16:]]
    inputs = processor(waveforms, sampling_rate=16_000)
    assert inputs["input_features"].shape == (8, 8, 3_000)
    with torch.no_grad():
        logits = model(**inputs).logits
    table = pd.read_csv(output / "predictions.csv")
    probabilities = (logits / model.config.emotion_temperature).softmax(-1)
    np.testing.assert_allclose(probabilities, table[["p_anger", "p_sadness"]], atol=2e-6)


def test_a_run_trains_a_published_whisper(command, manifest, tmp_path) -> None:
    publish(WhisperForConditionalGeneration, tmp_path / "encoder")
    options = {"train_file": manifest("a.csv", [0, 1]), "validation_file": manifest("v.csv", [2, 3])}
    options |= {"model_name_or_path": tmp_path / "encoder", "do_train": True, "max_steps": 1}
    run_ser_mtl.run(*parse_arguments(command(**options, tasks=["gender"])))
    again = command(**options | {"model_name_or_path": tmp_path / "output", "output_dir": tmp_path / "again"})
    metrics = run_ser_mtl.run(*parse_arguments(again))
    assert np.isfinite(metrics["train_loss"])


@pytest.mark.parametrize(("positions", "seconds"), [(1500, 30), (250, 5)])
def test_a_whisper_from_scratch_reads_as_long_as_it_has_positions(positions, seconds, whisper_config) -> None:
    whisper_config.write_text(json.dumps({"model_type": "whisper", **WHISPER, "max_source_positions": positions}))
    args = ModelArguments(config_name=str(whisper_config))
    config = load_config(args)
    processor = build_processor(args, config, None)
    assert processor.max_samples == seconds * 16_000
    model = build_model(args, config, processor, LABELS, COUNTS).eval()
    with torch.no_grad():
        output = model(**processor(some_clips((400, 16_000)), sampling_rate=16_000))
    # 3 and 100 frames of 10 ms, of which the encoder's second convolution takes every other one.
    assert output.frame_mask.sum(1).tolist() == [2, 50] and output.frame_mask.shape[1] == positions


def test_whisper_positions_of_a_broken_second_are_an_error(whisper_config) -> None:
    whisper_config.write_text(json.dumps({"model_type": "whisper", **WHISPER, "max_source_positions": 60}))
    args = ModelArguments(config_name=str(whisper_config))
    with pytest.raises(InputError, match="max_source_positions: found 60, must be a multiple of 50"):
        build_processor(args, load_config(args), None)


@pytest.mark.parametrize(
    ("values", "name"),
    [({"model_type": "whisper", "d_model": "wide"}, "d_model"), ({"model_type": "ser_mtl", "fusion": "sum"}, "fusion")],
)
def test_a_wrong_value_in_a_configuration_file_is_one_line(values, name, whisper_config) -> None:
    whisper_config.write_text(json.dumps(values))
    with pytest.raises(InputError, match=f"{whisper_config}: .*{name}") as error:
        load_config(ModelArguments(config_name=str(whisper_config)))
    assert "\n" not in str(error.value)


def test_training_clips_longer_than_whisper_reads_are_refused(whisper_config, command, manifest) -> None:
    options = {"config_name": whisper_config, "train_file": manifest("a.csv", range(4)), "do_train": True}
    options |= {"validation_speakers": 0.5, "max_seconds": 31}
    with pytest.raises(InputError, match="--max_seconds 31: this encoder reads 30 s at a time"):
        run_ser_mtl.run(*parse_arguments(command(**options)))


def test_layerdrop_reaches_the_whisper_encoder_and_spec_augment_is_refused(whisper_config) -> None:
    config = load_config(ModelArguments(config_name=str(whisper_config), layerdrop=0.25))
    assert config.backbone_config.encoder_layerdrop == 0.25
    with pytest.raises(InputError, match="--spec_augment True: the Whisper encoder"):
        load_config(ModelArguments(config_name=str(whisper_config), spec_augment=True))


# Checkpoints of this project


@pytest.fixture
def beheaded(command, manifest, tmp_path) -> Path:
    """A trained checkpoint without its emotion classifier."""
    options = {"train_file": manifest("a.csv", [0, 1]), "validation_file": manifest("v.csv", [2, 3]), "do_train": True}
    run_ser_mtl.run(*parse_arguments(command(**options, max_steps=1)))
    path = tmp_path / "output" / "model.safetensors"
    weights = {name: value for name, value in load_file(path).items() if not name.startswith("emotion_classifier.")}
    save_file(weights, path, metadata={"format": "pt"})
    return path.parent


@pytest.mark.parametrize("action", ["do_eval", "do_predict"])
def test_nothing_is_predicted_with_weights_that_a_checkpoint_lacks(beheaded, command, manifest, action) -> None:
    files = {"do_eval": "validation_file", "do_predict": "test_file"}
    options = {files[action]: manifest("t.csv", [4, 5]), action: True, "output_dir": beheaded.parent / "again"}
    message = (
        "no trained weights for emotion_classifier.bias, emotion_classifier.weight, so predictions would be random"
    )
    with pytest.raises(InputError, match=message) as error:
        run_ser_mtl.run(*parse_arguments(command(model_name_or_path=beheaded, **options)))
    assert "\n" not in str(error.value)


def test_training_names_the_weights_that_a_checkpoint_lacks(beheaded, command, manifest, caplog) -> None:
    options = {"train_file": manifest("a.csv", [0, 1]), "validation_file": manifest("v.csv", [2, 3]), "do_train": True}
    options |= {"model_name_or_path": beheaded, "output_dir": beheaded.parent / "again", "max_steps": 1}
    metrics = run_ser_mtl.run(*parse_arguments(command(**options)))
    assert np.isfinite(metrics["train_loss"])
    expected = "no trained weights for emotion_classifier.bias, emotion_classifier.weight: they start at random"
    assert expected in caplog.text


def test_training_with_other_speakers_and_learned_uncertainty_lacks_nothing(
    command, manifest, caplog, tmp_path
) -> None:
    options = {"validation_file": manifest("v.csv", [2, 3]), "do_train": True, "max_steps": 1}
    run_ser_mtl.run(*parse_arguments(command(train_file=manifest("a.csv", [0, 1]), **options)))
    options |= {"model_name_or_path": tmp_path / "output", "output_dir": tmp_path / "again"}
    options |= {"train_file": manifest("b.csv", [1, 4, 5]), "task_balancing": "uncertainty"}
    run_ser_mtl.run(*parse_arguments(command(**options)))
    assert "no trained weights" not in caplog.text
    assert AutoModel.from_pretrained(tmp_path / "again").config.num_speakers == 3
