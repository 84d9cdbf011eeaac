import multiprocessing
import pickle
import random
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_ser_mtl.data.augmentation import AUGMENTATIONS, WaveformAugmentation
from modeling_ser_mtl.data.errors import InputError

WAVEFORM = (0.1 * np.random.default_rng(0).standard_normal(8_000)).astype(np.float32)
indices = st.integers(0, 10_000)


def augment(name, index, waveform=WAVEFORM):
    return WaveformAugmentation((name,), probability=1.0)(waveform, 0, index)


@given(epoch=indices, index=indices, seed=indices)
@settings(max_examples=20, deadline=None)
def test_the_same_seed_epoch_and_index_give_the_same_waveform_whatever_was_drawn_before(epoch, index, seed):
    augmentation = WaveformAugmentation(AUGMENTATIONS, seed=seed)
    expected = augmentation(WAVEFORM, epoch, index)
    random.seed(epoch)
    np.random.seed(index)
    augmentation(WAVEFORM, epoch + 1, index)
    np.testing.assert_array_equal(augmentation(WAVEFORM, epoch, index), expected)


def test_a_worker_process_gives_the_same_waveforms():
    augmentation = WaveformAugmentation(AUGMENTATIONS, probability=1.0)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        there = pool.starmap(augmentation, [(WAVEFORM, 3, index) for index in (1, 0)])
    for waveform, index in zip(there, (1, 0), strict=True):
        np.testing.assert_array_equal(waveform, augmentation(WAVEFORM, 3, index))


def test_seed_epoch_and_index_each_change_the_result():
    def draw(seed, epoch, index):
        return WaveformAugmentation(("noise",), probability=1.0, seed=seed)(WAVEFORM, epoch, index).tobytes()

    assert len({draw(*key) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}) == 4


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_global_random_state_and_the_given_waveform_are_left_untouched(name):
    given_waveform = WAVEFORM.copy()
    before = pickle.dumps((random.getstate(), np.random.get_state()))
    augment(name, 0, given_waveform)
    assert pickle.dumps((random.getstate(), np.random.get_state())) == before
    np.testing.assert_array_equal(given_waveform, WAVEFORM)


@given(index=indices)
@settings(max_examples=30, deadline=None)
def test_noise_lies_between_5_and_30_db_snr(index):
    noise = augment("noise", index).astype(np.float64) - WAVEFORM
    snr = 10 * np.log10(np.mean(WAVEFORM.astype(np.float64) ** 2) / np.mean(noise**2))
    assert 4.7 < snr < 30.3  # the noise's own level varies by about .1 dB over 8,000 samples


@given(index=indices)
@settings(max_examples=30, deadline=None)
def test_gain_is_one_factor_between_minus_12_and_6_db(index):
    ratio = augment("gain", index) / WAVEFORM
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
    assert -12.01 < 20 * np.log10(ratio[0]) < 6.01


@given(index=indices)
@settings(max_examples=30, deadline=None)
def test_speed_changes_length_and_pitch_together_by_10_percent_at_most(index):
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    faster = augment("speed", index, tone)
    factor = len(tone) / len(faster)
    assert 0.899 < factor < 1.101
    spectrum = np.abs(np.fft.rfft(faster * np.hanning(len(faster))))
    assert np.argmax(spectrum) * 16_000 / len(faster) == pytest.approx(1000 * factor, abs=2)


def test_speed_covers_its_range_evenly():
    factors = [len(WAVEFORM) / len(augment("speed", index)) for index in range(200)]
    assert np.histogram(factors, bins=4, range=(0.9, 1.1))[0].min() > 30


@given(num_samples=st.integers(400, 450), index=indices)
@settings(max_examples=30, deadline=None)
def test_speed_leaves_a_clip_that_the_feature_encoder_takes(num_samples, index):
    assert len(augment("speed", index, WAVEFORM[:num_samples])) >= 400


@given(index=indices)
@settings(max_examples=30, deadline=None)
def test_a_time_mask_is_one_stretch_of_at_most_10_percent(index):
    masked = augment("time_mask", index)
    assert masked.shape == WAVEFORM.shape
    changed = np.flatnonzero(masked != WAVEFORM)
    assert len(changed) == 0 or changed[-1] - changed[0] < 0.1 * len(WAVEFORM)
    assert np.all(np.abs(masked) <= np.abs(WAVEFORM))


def test_each_augmentation_applies_with_its_probability():
    augmentation = WaveformAugmentation(("gain",), probability=0.3)
    applied = [augmentation(WAVEFORM, 0, index)[0] != WAVEFORM[0] for index in range(400)]
    assert 0.2 < np.mean(applied) < 0.4
    never = WaveformAugmentation(AUGMENTATIONS, probability=0.0)
    np.testing.assert_array_equal(never(WAVEFORM, 0, 0), WAVEFORM)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_result_stays_float32_and_finite_for_a_silent_clip(name):
    augmented = augment(name, 0, np.zeros(8_000, dtype=np.float32))
    assert augmented.dtype == np.float32
    assert np.isfinite(augmented).all()


def test_speed_works_without_audiomentations(monkeypatch):
    expected = augment("speed", 7)
    monkeypatch.setitem(sys.modules, "audiomentations", None)
    np.testing.assert_array_equal(augment("speed", 7), expected)


@pytest.mark.parametrize("name", ["noise", "gain", "time_mask"])
def test_without_audiomentations_the_others_name_the_extra_to_install(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "audiomentations", None)
    with pytest.raises(InputError, match=r'pip install "modeling_ser_mtl\[augment\]"'):
        WaveformAugmentation(("speed", name))


def test_an_unknown_name_and_an_impossible_probability_are_errors():
    with pytest.raises(InputError, match="'pitch' is unknown; choose from noise, gain, speed, time_mask"):
        WaveformAugmentation(("pitch",))
    with pytest.raises(InputError, match="between 0 and 1"):
        WaveformAugmentation(("gain",), probability=1.5)
