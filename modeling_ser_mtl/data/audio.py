"""Audio files -> 16 kHz mono waveforms, and one scan that finds the clips that cannot be used."""

import logging
import os
import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm.auto import tqdm

from ..audio_ser_mtl import decode_audio
from ..processing_ser_mtl import MIN_SAMPLES as MIN_SAMPLES
from .errors import InputError
from .scan_cache import AudioSource, ScanCache

logger = logging.getLogger(__name__)

SAMPLING_RATE = 16_000
CLIPS_PER_WORKER = 32  # scanned at a time: a transaction of the cache


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


def load_evenly(sources: Sequence[AudioSource], count: int) -> Iterator[np.ndarray]:
    """
    Decodes up to `count` clips, evenly spread over all, as for statistics.

    Args:
        sources (`Sequence`): What [`load_audio`] takes, one or more.
        count (`int`): 1 or more.

    Yields:
        `np.ndarray` of shape `(num_samples,)`: as of [`load_audio`].
    """
    for index in np.linspace(0, len(sources) - 1, min(len(sources), count)).astype(int):
        yield load_audio(sources[index])


def scan_audio(
    sources: Sequence[AudioSource],
    num_workers: int = 2,
    description: str = "Checking audio",
    cache: ScanCache | None = None,
) -> tuple[np.ndarray, list[str]]:
    """
    Decodes every clip once, in threads and under a progress bar.

    Clips are taken from `sources` as their turn comes: memory does not grow with their number.

    Args:
        sources (`Sequence`): What [`load_audio`] takes, N of them.
        num_workers (`int`): Number of threads.
        description (`str`): Label of the progress bar.
        cache ([`ScanCache`], *optional*): Clips that it knows are not decoded; what is found out goes into it. A cache
            that can't be used is warned of, and the clips are decoded.

    Returns:
        `tuple[np.ndarray, list[str]]`: Lengths in samples at 16 kHz, `int64` of shape `(N,)`, 0 where a clip cannot be
        used; and the N reasons, "" where it can.
    """
    lengths, reasons = array("q"), []
    step = CLIPS_PER_WORKER * num_workers
    with (
        ThreadPoolExecutor(num_workers) as pool,
        tqdm(total=len(sources), desc=description, unit="clip") as progress,
    ):
        for start in range(0, len(sources), step):
            batch = [sources[i] for i in range(start, min(start + step, len(sources)))]
            measured = None
            if cache is not None:
                try:
                    measured = cache.scan(batch, _measure, pool)
                except (OSError, sqlite3.Error) as error:
                    logger.warning(
                        "%s: the cache of audio lengths can't be used (%s), so every clip is decoded; delete the file "
                        "or set HF_HOME to a folder that can be written",
                        cache.path,
                        error,
                    )
                    cache = None
            for length, reason in pool.map(_measure, batch) if measured is None else measured:
                lengths.append(length)
                reasons.append(reason)
            progress.update(len(batch))
    return np.array(lengths, dtype=np.int64), reasons


def _measure(source: AudioSource) -> tuple[int, str]:
    try:
        return len(load_audio(source)), ""
    except InputError as error:
        return 0, str(error)
