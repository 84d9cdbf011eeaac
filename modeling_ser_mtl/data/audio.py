"""Audio files -> 16 kHz mono waveforms, and one scan that finds the clips that cannot be used."""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import soundfile
import soxr
from tqdm.auto import tqdm

from .errors import InputError

SAMPLING_RATE = 16_000
MIN_SAMPLES = 400  # the receptive field of a wav2vec 2.0 feature encoder: less gives no frame


def load_audio(source: str | os.PathLike | bytes, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """
    Decodes one clip with soundfile, averages its channels and resamples it with soxr.

    Args:
        source (`str`, `os.PathLike` or `bytes`): An audio file (WAV, FLAC, OGG, MP3, ...) or its content.
        sampling_rate (`int`): Sampling rate of the result in Hz.

    Returns:
        `np.ndarray` of shape `(num_samples,)`: `float32` waveform, full scale is [-1, 1].

    Raises:
        InputError: The clip cannot be decoded, has NaN or infinite samples, or is under 400 samples long.
    """
    name = "<bytes>" if isinstance(source, bytes) else os.fspath(source)
    try:
        channels, file_rate = soundfile.read(
            io.BytesIO(source) if isinstance(source, bytes) else name, dtype="float32", always_2d=True
        )
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a headerless .raw file
        reason = " ".join(str(error).split())
        raise InputError(f"{name}: cannot be decoded as audio ({reason}); convert it to WAV or FLAC") from error
    waveform = channels.mean(axis=1)
    if not np.isfinite(waveform).all():
        raise InputError(f"{name}: has NaN or infinite samples; export it again or drop it")
    if file_rate != sampling_rate:
        waveform = soxr.resample(waveform, file_rate, sampling_rate)
    if len(waveform) < MIN_SAMPLES:
        raise InputError(
            f"{name}: {len(waveform)} samples at {sampling_rate} Hz; at least {MIN_SAMPLES} are needed, drop it"
        )
    return waveform


def scan_audio(
    sources: Sequence[str | os.PathLike | bytes], num_workers: int = 2, description: str = "Checking audio"
) -> tuple[np.ndarray, list[str]]:
    """
    Decodes every clip once, in threads and under a progress bar.

    Args:
        sources (`Sequence`): What [`load_audio`] takes, N of them.
        num_workers (`int`): Number of threads.
        description (`str`): Label of the progress bar.

    Returns:
        `tuple[np.ndarray, list[str]]`: Lengths in samples at 16 kHz, `int64` of shape `(N,)`, 0 where a clip cannot be
        used; and the N reasons, "" where it can.
    """

    def scan(source: str | os.PathLike | bytes) -> tuple[int, str]:
        try:
            return len(load_audio(source)), ""
        except InputError as error:
            return 0, str(error)

    with ThreadPoolExecutor(num_workers) as pool:
        results = list(tqdm(pool.map(scan, sources), total=len(sources), desc=description))
    return np.array([length for length, _ in results], dtype=np.int64), [reason for _, reason in results]
