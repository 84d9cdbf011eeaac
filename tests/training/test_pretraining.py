"""Masked batches, and the wav2vec 2.0 objective against the one of transformers and a slow loop."""

import json

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel, EvalPrediction, Wav2Vec2ForPreTraining

from modeling_ser_mtl.data.audio import load_audio
from modeling_ser_mtl.processing_ser_mtl import LogMelFeatureExtractor
from modeling_ser_mtl.training.pretraining import (
    ContrastiveModel,
    PretrainingCollator,
    load_inputs,
    masked_accuracy,
)


@pytest.fixture(scope="module")
def configs(tiny_config) -> dict[str, AutoConfig]:
    """Configurations of a small encoder of each kind."""
    values = {
        name: json.loads(tiny_config(name).read_text())["backbone_config"] for name in ("wav2vec2", "wav2vec2-bert")
    }
    values["wav2vec2"] |= {"codevector_dim": 16, "proj_codevector_dim": 16, "num_codevectors_per_group": 8}
    return {name: AutoConfig.for_model(**settings) for name, settings in values.items()}


@pytest.fixture(scope="module")
def encoders(configs) -> dict[str, torch.nn.Module]:
    return {name: AutoModel.from_config(config).eval() for name, config in configs.items()}


@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec2-bert"])
@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(5, 40), min_size=1, max_size=4), seed=st.integers(0, 99), prob=st.floats(0.05, 0.9))
def test_a_batch_is_padded_with_zeros_and_masks_frames_of_every_clip_and_none_of_padding(
    name, encoders, lengths, seed, prob
) -> None:
    random = np.random.default_rng(seed)
    key, shape = ("input_features", (1, 160)) if name == "wav2vec2-bert" else ("input_values", (320,))
    # 400 samples make the first frame of a waveform, 320 each of the others.
    sizes = [(length, 160) if key == "input_features" else (320 * length + 80,) for length in lengths]
    items = [{key: random.standard_normal(size).astype(np.float16)} for size in sizes]
    np.random.seed(seed)
    batch = PretrainingCollator(encoders[name], prob, 4, num_negatives=3)(items)
    for row, item in enumerate(items):
        length = len(item[key])
        assert torch.equal(batch[key][row, :length], torch.tensor(item[key]).float())
        assert not batch[key][row, length:].any()
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (batch[key].shape[1] - length)
    mask, negatives = batch["mask_time_indices"], batch["sampled_negative_indices"]
    for row, frames in enumerate(lengths):
        masked = mask[row].nonzero().flatten().tolist()
        assert len(masked) >= 4 and max(masked) < frames
        for frame in masked:
            drawn = (negatives[row, frame] - row * mask.shape[1]).tolist()
            assert set(drawn) <= set(masked) - {frame}


def test_the_inputs_of_a_clip_are_the_feature_extractors_in_half_precision(clips) -> None:
    extractor = LogMelFeatureExtractor(stride=2)
    extractor.fit([load_audio(clips["audio"][0])])
    items = load_inputs(clips["audio"].tolist()[:3], extractor, 20.0, lambda length: True)
    for source, item in zip(clips["audio"], items, strict=False):
        expected = extractor(load_audio(source), sampling_rate=16_000, return_tensors="np")["input_features"][0]
        np.testing.assert_allclose(item["input_features"], expected, rtol=1e-3, atol=1e-3)


def test_long_clips_are_cut_and_short_ones_left_out(clips, make_wav, tmp_path) -> None:
    extractor = LogMelFeatureExtractor(stride=2)
    audio = [str(make_wav(tmp_path / "long.wav", seconds=5)), str(make_wav(tmp_path / "short.wav", seconds=0.2))]
    items = load_inputs(audio, extractor, 2.0, lambda length: length >= 20)
    assert len(items) == 3 and sum(len(item["input_features"]) for item in items) == pytest.approx(250, abs=5)


def test_the_silence_around_a_clip_is_cut_where_that_is_wanted(make_wav, tmp_path) -> None:
    waveform = load_audio(str(make_wav(tmp_path / "speech.wav", seconds=1)))
    soundfile.write(tmp_path / "silence.wav", np.pad(waveform, 16_000), 16_000)
    extractor = LogMelFeatureExtractor(stride=2)
    trimmed, whole = (
        load_inputs([str(tmp_path / "silence.wav")], extractor, 20.0, lambda length: True, trim_db)[0]["input_features"]
        for trim_db in (30.0, None)
    )
    assert len(whole) == pytest.approx(150, abs=2) and len(trimmed) <= 56


def test_the_contrastive_loss_and_what_is_right_are_those_of_transformers_and_of_a_loop(configs) -> None:
    torch.manual_seed(0)
    stock = Wav2Vec2ForPreTraining(configs["wav2vec2"]).eval()
    model = ContrastiveModel(stock).eval()
    np.random.seed(0)
    waveforms = np.random.default_rng(0).standard_normal((2, 9_000)).astype(np.float16)
    items = [{"input_values": waveforms[0]}, {"input_values": waveforms[1, :7_000]}]
    batch = PretrainingCollator(model.encoder, 0.5, 3, num_negatives=5)(items)
    with torch.no_grad():
        outputs, expected = model(**batch), stock(**batch)
    mask, negatives = batch["mask_time_indices"], batch["sampled_negative_indices"]
    assert float(outputs["loss"]) == pytest.approx(float(expected.loss) / int(mask.sum()), rel=1e-5)
    states, targets = expected.projected_states, expected.projected_quantized_states
    constant = states[mask].mean(0)
    correct, guessed = [0, 0], [0, 0]
    for row, frame in mask.nonzero().tolist():
        target = targets[row, frame]
        others = [targets.flatten(0, 1)[i] for i in negatives[row, frame].tolist()]
        others = [other for other in others if not torch.equal(other, target)]
        for counts, predicted in ((correct, states[row, frame]), (guessed, constant)):
            own = torch.cosine_similarity(predicted, target, dim=0)
            similarities = [torch.cosine_similarity(predicted, other, dim=0) for other in others]
            counts[row] += bool(others) and bool(own > max(similarities))
    assert outputs["num_correct"].tolist() == correct
    assert outputs["num_guessed"].tolist() == guessed
    assert outputs["num_masked"].tolist() == mask.sum(1).tolist()


def test_the_contrastive_loss_of_a_batch_falls_as_it_is_learned(configs) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    model = ContrastiveModel(Wav2Vec2ForPreTraining(configs["wav2vec2"])).train()
    waveforms = np.random.default_rng(0).standard_normal((4, 12_000)).astype(np.float16)
    batch = PretrainingCollator(model.encoder, 0.5, 3, num_negatives=10)([{"input_values": row} for row in waveforms])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        losses.append(model(**batch)["loss"])
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_the_accuracy_counts_frames_rather_than_clips() -> None:
    counts = (np.array([10, 30]), np.array([10.0, 0.0]), np.array([1.0, 3.0]))
    assert masked_accuracy(EvalPrediction(counts, None)) == {"accuracy": 0.25, "guess_accuracy": 0.1}
