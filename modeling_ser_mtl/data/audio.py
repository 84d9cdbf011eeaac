"""Audio files -> 16 kHz mono waveforms, and one scan that finds the clips that cannot be used."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm.auto import tqdm

from ..audio_ser_mtl import decode_audio
from ..processing_ser_mtl import MIN_SAMPLES as MIN_SAMPLES
from .errors import InputError

SAMPLING_RATE = 16_000


def load_audio(source: str | os.PathLike | bytes, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """
    Decodes one clip.

    Args:
        source (`str`, `os.PathLike` or `bytes`), sampling_rate (`int`): As in [`~audio_ser_mtl.decode_audio`].

    Returns:
        `np.ndarray` of shape `(num_samples,)`: `float32` waveform, full scale is [-1, 1].

    Raises:
        InputError: The clip cannot be decoded, has NaN or infinite samples, or is under 400 samples long.
    """
    try:
        return decode_audio(source, sampling_rate)
    except ValueError as error:
        raise InputError(str(error)) from error


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
