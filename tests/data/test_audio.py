import io
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
import soundfile
import soxr

from modeling_ser_mtl.data.audio import MIN_SAMPLES, load_audio, scan_audio
from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.data.scan_cache import ScanCache


def error_of(source):
    with pytest.raises(InputError) as caught:
        load_audio(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_16_khz_mono_file_comes_back_sample_for_sample(tmp_path):
    waveform = np.random.default_rng(0).uniform(-1, 1, 1000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", waveform, 16_000, subtype="FLOAT")
    loaded = load_audio(tmp_path / "a.wav")
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, waveform)


def test_channels_are_averaged(tmp_path):
    channels = np.random.default_rng(0).uniform(-1, 1, (1000, 3)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", channels, 16_000, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav"), channels.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize("sampling_rate", [8_000, 22_050, 44_100, 48_000])
def test_a_tone_keeps_its_frequency_and_level_through_resampling(tmp_path, make_wav, sampling_rate):
    loaded = load_audio(make_wav(tmp_path / "a.wav", seconds=1.0, sampling_rate=sampling_rate, frequency=1000))
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    assert loaded.shape == tone.shape
    np.testing.assert_allclose(loaded[500:-500], tone[500:-500], atol=1e-3)


def test_another_target_rate_can_be_asked_for(tmp_path, make_wav):
    assert load_audio(make_wav(tmp_path / "a.wav", seconds=1.0), sampling_rate=8_000).shape == (8_000,)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_bytes_decode_like_the_file_they_came_from(tmp_path, make_wav, suffix):
    path = make_wav(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(load_audio(path.read_bytes()), load_audio(str(path)))


@pytest.mark.parametrize("name", ["a.wav", "a.raw", "a"])
def test_a_file_that_is_no_audio_is_named(tmp_path, name):
    (tmp_path / name).write_text("no audio")
    assert error_of(tmp_path / name).startswith(f"{tmp_path / name}: cannot be decoded as audio")


def test_a_missing_file_and_bytes_that_are_no_audio_are_named(tmp_path):
    assert str(tmp_path / "absent.wav") in error_of(tmp_path / "absent.wav")
    assert error_of(b"no audio").startswith("<bytes>: cannot be decoded as audio")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("sampling_rate", [16_000, 44_100])
def test_a_sample_that_is_not_finite_is_an_error(tmp_path, value, sampling_rate):
    waveform = np.zeros(3000, dtype=np.float32)
    waveform[100] = value
    soundfile.write(tmp_path / "a.wav", waveform, sampling_rate, subtype="FLOAT")
    assert "NaN or infinite" in error_of(tmp_path / "a.wav")


def test_a_clip_under_400_samples_after_resampling_is_an_error(tmp_path):
    for num_samples in (0, 2 * MIN_SAMPLES - 2):
        soundfile.write(tmp_path / "a.wav", np.zeros(num_samples), 32_000)
        assert f"{num_samples // 2} samples at 16000 Hz; at least 400" in error_of(tmp_path / "a.wav")
    soundfile.write(tmp_path / "a.wav", np.zeros(2 * MIN_SAMPLES), 32_000)
    assert load_audio(tmp_path / "a.wav").shape == (MIN_SAMPLES,)


def test_a_scan_gives_lengths_at_16_khz_and_the_reasons_of_unusable_clips_in_order(tmp_path, make_wav):
    (tmp_path / "bad.wav").write_text("no audio")
    sources = [
        make_wav(tmp_path / "a.wav", seconds=0.5),
        tmp_path / "bad.wav",
        make_wav(tmp_path / "b.wav", seconds=0.25, sampling_rate=44_100, channels=2),
        make_wav(tmp_path / "c.wav").read_bytes(),
    ]
    lengths, reasons = scan_audio(sources)
    assert lengths.dtype == np.int64
    assert lengths.tolist() == [8_000, 0, 4_000, 16_000]
    assert [bool(reason) for reason in reasons] == [False, True, False, False]
    assert str(tmp_path / "bad.wav") in reasons[1]


class _Clips(Sequence):
    """Contents of a quarter of a megabyte each, made when asked for."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> bytes:
        file = io.BytesIO()
        soundfile.write(file, np.full(2**17, index / self.number), 16_000, format="WAV")
        return file.getvalue()


@pytest.mark.parametrize("with_cache", [False, True])
def test_the_memory_of_a_scan_does_not_grow_with_the_number_of_clips(tmp_path, with_cache) -> None:
    def peak(number: int) -> int:
        tracemalloc.start()
        lengths, _ = scan_audio(_Clips(number), num_workers=1, cache=ScanCache(tmp_path) if with_cache else None)
        assert lengths.tolist() == [2**17] * number
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    assert peak(224) < 1.1 * peak(96)


def test_a_real_clip_decodes_as_soxr_resamples_it(corpora):
    path = next((corpora / "ravdess" / "audio").iterdir())
    channels, sampling_rate = soundfile.read(path, always_2d=True)
    reference = soxr.resample(channels.mean(axis=1), sampling_rate, 16_000)
    np.testing.assert_allclose(load_audio(path), reference, atol=1e-5)
