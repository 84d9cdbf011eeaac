"""The encoder with 2D convolutions: padding reaches neither its statistics nor its results."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler
from torch import nn

from modeling_ser_mtl import SerMtlConfig, SerMtlModel, SpectrogramEncoderConfig
from modeling_ser_mtl.padding_ser_mtl import frame_mask
from modeling_ser_mtl.spectrogram_ser_mtl import MaskedBatchNorm, SpectrogramEncoder, SpectrogramStem

NAME = "ser_mtl_spectrogram"
SMALL = {"stem_channels": [4, 6], "stem_time_strides": [2], "num_hidden_layers": 1, "intermediate_size": 16}
OTHERS = ("emotion", "gender", "speaker")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 999))
def test_batch_norm_in_training_is_that_of_the_real_frames_alone(lengths, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(len(lengths), 3, 9, 4, generator=generator) * 2 + 1
    mask = frame_mask(torch.tensor(lengths), 9)
    ours, stock = MaskedBatchNorm(3), nn.BatchNorm1d(3)
    # All real positions one after the other, as PyTorch's own norm reads them.
    real = maps.permute(0, 2, 3, 1)[mask].flatten(0, 1)
    normalised = ours(maps, mask[:, None, :, None].float()).permute(0, 2, 3, 1)[mask].flatten(0, 1)
    torch.testing.assert_close(normalised, stock(real), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.running_mean, stock.running_mean, rtol=1e-4, atol=1e-5)
    # PyTorch keeps the unbiased variance.
    biased = 0.9 + 0.1 * real.var(0, correction=0)
    torch.testing.assert_close(ours.running_var, biased, rtol=1e-4, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 30), st.integers(0, 20), st.sampled_from([(1, 1), (2, 1), (2, 2)]))
def test_the_stem_gives_a_clip_the_same_frames_alone_and_padded_also_in_training(length, padding, strides) -> None:
    torch.manual_seed(0)
    config = SpectrogramEncoderConfig(stem_channels=[3, 4, 5], stem_time_strides=strides)
    stem = SpectrogramStem(config)
    features = torch.randn(1, length + padding, 160)
    alone = stem(features[:, :length], None)
    padded = stem(features, torch.tensor([length]))
    assert alone.shape[1] == math.ceil(math.ceil(length / strides[0]) / strides[1])
    torch.testing.assert_close(padded[:, : alone.shape[1]], alone, rtol=1e-4, atol=1e-4)


def test_the_stem_reads_a_clip_as_it_is_and_standardised_over_its_own_frames() -> None:
    torch.manual_seed(0)
    stem = SpectrogramStem(SpectrogramEncoderConfig(stem_channels=[3, 4], stem_time_strides=[1]))
    seen: list[torch.Tensor] = []
    stem.conv.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    # Two clips of 6 and 3 stacks of two frames, the shorter one louder.
    features = torch.randn(2, 6, 160) * 3
    features[1] += 2
    stem(features, torch.tensor([6, 3]))
    for clip, (as_it_is, standardised), num_frames in zip(features.reshape(2, 12, 80), seen[0], (12, 6), strict=True):
        assert torch.equal(as_it_is[:num_frames], clip[:num_frames])
        scaled = StandardScaler().fit_transform(clip[:num_frames].numpy())
        torch.testing.assert_close(standardised[:num_frames], torch.from_numpy(scaled), rtol=0.02, atol=0.02)
        assert not as_it_is[num_frames:].any() and not standardised[num_frames:].any()


def test_a_clip_has_the_same_output_alone_and_in_a_batch(plain_config) -> None:
    torch.manual_seed(0)
    model = SerMtlModel(plain_config(NAME))
    features = torch.randn(3, 41, 160)
    lengths = torch.tensor([41, 17, 5])
    mask = frame_mask(lengths, 41).long()
    model.train()
    model(input_features=features, attention_mask=mask)
    model.eval()
    batch = model(input_features=features, attention_mask=mask)
    for row, length in enumerate(lengths.tolist()):
        alone = model(input_features=features[row : row + 1, :length])
        torch.testing.assert_close(batch.logits[row], alone.logits[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            batch.ctc_logits[row, : alone.ctc_logits.shape[1]], alone.ctc_logits[0], rtol=1e-4, atol=1e-5
        )
    assert batch.frame_mask.sum(1).tolist() == [21, 9, 3]


def test_a_configuration_read_back_is_the_one_that_was_written(plain_config) -> None:
    config = plain_config(NAME)
    again = SerMtlConfig.from_dict(config.to_dict())
    assert isinstance(again.backbone_config, SpectrogramEncoderConfig)
    assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize("strides", [[2], [2, 3], [2, 2, 1]])
def test_strides_that_do_not_fit_the_blocks_are_an_error(strides) -> None:
    with pytest.raises(ValueError, match="stem_time_strides: found"):
        SpectrogramEncoderConfig(stem_channels=[4, 6, 8], stem_time_strides=strides)


def test_spec_augment_masks_frames_and_mel_bins_of_the_spectrogram_in_training_alone() -> None:
    torch.manual_seed(0)
    masks = {"mask_time_prob": 0.2, "mask_time_length": 2, "mask_feature_prob": 0.2, "mask_feature_length": 4}
    encoder = SpectrogramEncoder(SpectrogramEncoderConfig(hidden_size=16, num_attention_heads=2, **SMALL, **masks))
    seen: list[torch.Tensor] = []
    encoder.stem.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    features = torch.rand(2, 40, 160) + 1
    encoder.eval()(features)
    assert torch.equal(seen[0], features)
    encoder.train()(features)
    masked = seen[1] == 0
    assert torch.equal(seen[1][~masked], features[~masked])
    frames = masked.all(2)
    mel_bins = masked.all(1)
    assert torch.equal(masked, frames[:, :, None] | mel_bins[:, None])
    # Both stacks of a frame, and two frames or more one after the other.
    assert torch.equal(frames[:, ::2], frames[:, 1::2])
    assert frames.sum(1).min() >= 4 and frames.sum(1).max() < 20
    # A mel bin is masked in both frames of every stack.
    assert torch.equal(mel_bins[:, :80], mel_bins[:, 80:])
    assert mel_bins[:, :80].sum(1).min() >= 4 and mel_bins[:, :80].sum(1).max() < 40


def test_an_encoder_of_long_frames_writes_several_characters_in_each(plain_config) -> None:
    torch.manual_seed(0)
    labels = torch.tensor([[1, 2, 3, 1, 2, 3, 1, 2], [1, 2, -100, -100, -100, -100, -100, -100]])
    features, mask = torch.randn(2, 10, 160), frame_mask(torch.tensor([10, 4]), 10).long()
    # 5 and 2 frames.
    counted = {}
    for subframes in (1, 4):
        model = SerMtlModel(plain_config(NAME, ctc_subframes=subframes, vocab_size=5)).eval()
        output = model(input_features=features, attention_mask=mask, ctc_labels=labels)
        assert output.ctc_logits.shape == (2, 5 * subframes, 5)
        characters = model.likeliest_characters(output)
        assert (characters >= 0).sum(1).tolist() == [5 * subframes, 2 * subframes]
        counted[subframes] = int(model.num_labelled({"asr": labels} | dict.fromkeys(OTHERS, labels[:, 0]), mask)["asr"])
        expected = F.ctc_loss(
            output.ctc_logits[1].log_softmax(-1), labels[1, :2], torch.tensor(2 * subframes), torch.tensor(2)
        )
        loss, labelled = model.clip_losses(output, {"asr": labels})["asr"]
        assert labelled.tolist() == [subframes == 4, True]
        torch.testing.assert_close(loss[1], expected)
    assert counted == {1: 1, 4: 2}


def test_training_in_bfloat16_is_that_in_float32_but_for_rounding(plain_config) -> None:
    torch.manual_seed(0)
    model = SerMtlModel(plain_config(NAME)).train()
    features, mask = torch.randn(4, 41, 160), frame_mask(torch.tensor([41, 30, 17, 9]), 41).long()
    expected = model(input_features=features, attention_mask=mask).emotion_embeddings
    with torch.autocast("cpu", torch.bfloat16):
        found = model(input_features=features, attention_mask=mask).emotion_embeddings
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.03)
