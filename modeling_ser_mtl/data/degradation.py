"""Speech as bad rooms and noise make it, to measure what a model withstands: pure functions of waveforms."""

from collections.abc import Sequence

import numpy as np
from scipy.signal import fftconvolve

from .audio import SAMPLING_RATE

DECAY = 3 * np.log(10)  # of the amplitude until the power has fallen by 60 dB


def add_noise(waveform: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """
    Adds noise at a signal-to-noise ratio, of mean powers over the whole clip. A silent clip or noise adds nothing.

    Args:
        waveform (`np.ndarray` of shape `(num_samples,)`): the clip.
        noise (`np.ndarray` of shape `(num_samples,)`): of any level.
        snr_db (`float`): in dB; the lower, the louder the noise.

    Returns:
        `np.ndarray` of shape `(num_samples,)`, float32; it may exceed 1.
    """
    signal_power, noise_power = (np.mean(np.square(values, dtype=np.float64)) for values in (waveform, noise))
    gain = np.sqrt(signal_power / noise_power / 10 ** (snr_db / 10)) if noise_power > 0 else 0.0
    return (waveform + gain * noise).astype(np.float32)


def babble(voices: Sequence[np.ndarray], num_samples: int) -> np.ndarray:
    """
    Several clips at once, each as loud as the others in the mean, repeated until they are long enough.

    Args:
        voices (`Sequence[np.ndarray]`): one or more clips, `(samples,)` each, none empty.
        num_samples (`int`): length of the result.

    Returns:
        `np.ndarray` of shape `(num_samples,)`, float64.
    """
    total = np.zeros(num_samples)
    for voice in voices:
        level = np.sqrt(np.mean(np.square(voice, dtype=np.float64)))
        total += np.resize(voice, num_samples) / (level or 1.0)
    return total


def room_response(rt60: float, rng: np.random.Generator) -> np.ndarray:
    """
    A synthetic impulse response of a room at 16 kHz: the direct sound, and noise that decays exponentially (Polack
    1988), of the same energy together.

    Args:
        rt60 (`float`): seconds in which the reverberation falls by 60 dB, above 0.
        rng (`np.random.Generator`): draws the noise.

    Returns:
        `np.ndarray`, float64, of `rt60` seconds, at least one sample: 1, then the tail.
    """
    time = np.arange(1, max(2, round(rt60 * SAMPLING_RATE))) / SAMPLING_RATE
    tail = rng.standard_normal(len(time)) * np.exp(-DECAY * time / rt60)
    return np.concatenate([[1.0], tail / np.linalg.norm(tail)])


def reverberate(waveform: np.ndarray, response: np.ndarray) -> np.ndarray:
    """
    The clip as it sounds in a room, cut to its own length and as loud as before.

    Args:
        waveform (`np.ndarray` of shape `(num_samples,)`): the clip.
        response (`np.ndarray` of shape `(num_taps,)`): impulse response, see [`room_response`].

    Returns:
        `np.ndarray` of shape `(num_samples,)`, float32.
    """
    wet = fftconvolve(waveform.astype(np.float64), response)[: len(waveform)]
    before, after = np.linalg.norm(waveform), np.linalg.norm(wet)
    return (wet * (before / after if after > 0 else 1.0)).astype(np.float32)
