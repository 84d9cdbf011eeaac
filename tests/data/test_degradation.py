import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_ser_mtl.data.degradation import add_noise, babble, reverberate, room_response

RATE = 16_000
seeds = st.integers(0, 10_000)


def power(values: np.ndarray) -> float:
    return float(np.mean(np.square(values, dtype=np.float64)))


@pytest.fixture(scope="module")
def speech(corpora) -> np.ndarray:
    """A clip of a RAVDESS actor."""
    path = sorted((corpora / "ravdess" / "audio").rglob("*.flac"))[0]
    return soundfile.read(path, dtype="float32")[0]


@given(seed=seeds, snr_db=st.floats(-10, 40), size=st.integers(400, 4_000), level=st.floats(1e-3, 1))
@settings(max_examples=30, deadline=None)
def test_the_measured_ratio_of_signal_to_noise_is_the_one_that_was_asked_for(seed, snr_db, size, level):
    rng = np.random.default_rng(seed)
    waveform = (level * rng.standard_normal(size)).astype(np.float32)
    noisy = add_noise(waveform, rng.uniform(-3, 3, size), snr_db)
    added = noisy.astype(np.float64) - waveform
    assert 10 * np.log10(power(waveform) / power(added)) == pytest.approx(snr_db, abs=0.05)
    assert noisy.dtype == np.float32


def test_noise_on_real_speech_has_the_ratio_that_was_asked_for(speech):
    for snr_db in (20, 10, 5):
        noise = babble([speech[::-1], speech[1_000:3_000]], len(speech))
        added = add_noise(speech, noise, snr_db).astype(np.float64) - speech
        assert 10 * np.log10(power(speech) / power(added)) == pytest.approx(snr_db, abs=0.01)
        np.testing.assert_allclose(np.corrcoef(added, noise)[0, 1], 1, atol=1e-6)


def test_silence_is_left_as_it_is():
    silence, noise = np.zeros(800, dtype=np.float32), np.ones(800)
    np.testing.assert_array_equal(add_noise(silence, noise, 5), silence)
    np.testing.assert_array_equal(add_noise(noise, silence, 5), noise)
    np.testing.assert_array_equal(reverberate(silence, room_response(0.3, np.random.default_rng(0))), silence)
    np.testing.assert_array_equal(babble([silence], 900), np.zeros(900))


def test_every_voice_of_the_babble_is_as_loud_as_the_others():
    rng = np.random.default_rng(0)
    loud, soft = rng.standard_normal(500), 0.01 * rng.standard_normal(500)
    both = babble([loud, soft], 500)
    np.testing.assert_allclose(both, loud / np.sqrt(power(loud)) + soft / np.sqrt(power(soft)))


@given(length=st.integers(1, 50), num_samples=st.integers(1, 200))
@settings(max_examples=30, deadline=None)
def test_a_short_voice_is_repeated_and_a_long_one_cut(length, num_samples):
    voice = np.arange(1.0, length + 1)
    found = babble([voice], num_samples)
    expected = [voice[sample % length] for sample in range(num_samples)] / np.sqrt(power(voice))
    np.testing.assert_allclose(found, expected)


@given(seed=seeds, rt60=st.floats(0.15, 1.5))
@settings(max_examples=20, deadline=None)
def test_the_reverberation_time_measured_by_schroeder_integration_is_the_one_that_was_asked_for(seed, rt60):
    tail = room_response(rt60, np.random.default_rng(seed))[1:]  # without the direct sound
    remaining = 10 * np.log10(np.square(tail)[::-1].cumsum()[::-1] / np.square(tail).sum())
    # The slope between -5 and -35 dB, T30 of ISO 3382.
    span = np.flatnonzero((remaining <= -5) & (remaining >= -35))
    slope = np.polyfit(span / RATE, remaining[span], 1)[0]
    assert -60 / slope == pytest.approx(rt60, rel=0.1)


def test_direct_sound_and_tail_have_the_same_energy():
    response = room_response(0.3, np.random.default_rng(0))
    assert len(response) == round(0.3 * RATE)
    assert response[0] == 1 and np.square(response[1:]).sum() == pytest.approx(1)


@given(seed=seeds, num_samples=st.integers(2, 300), num_taps=st.integers(1, 400))
@settings(max_examples=30, deadline=None)
def test_reverberation_is_a_convolution_of_the_same_length_and_level(seed, num_samples, num_taps):
    rng = np.random.default_rng(seed)
    waveform, response = rng.standard_normal(num_samples).astype(np.float32), rng.standard_normal(num_taps)
    wet = reverberate(waveform, response)
    expected = np.array(
        [
            sum(response[tap] * waveform[sample - tap] for tap in range(min(sample + 1, num_taps)))
            for sample in range(num_samples)
        ]
    )
    expected *= np.sqrt(power(waveform) / power(expected))
    assert wet.dtype == np.float32
    np.testing.assert_allclose(wet, expected, atol=1e-4 * np.abs(expected).max())


def test_real_speech_in_a_room_keeps_its_length_and_level(speech):
    wet = reverberate(speech, room_response(0.8, np.random.default_rng(0)))
    assert len(wet) == len(speech)
    assert power(wet) == pytest.approx(power(speech), rel=1e-4)
    assert abs(np.corrcoef(wet, speech)[0, 1]) < 0.95
