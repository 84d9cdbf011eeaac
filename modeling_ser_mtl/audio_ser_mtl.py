"""Audio of any kind that users have -> one mono waveform at the model's sampling rate, without ffmpeg or torchaudio."""

import io
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from http.client import HTTPException
from typing import Any
from urllib import request

import numpy as np
import torch

from .processing_ser_mtl import MIN_SAMPLES

MAX_URL_BYTES = 100 * 2**20
URL_TIMEOUT = 60.0
MAX_SAMPLING_RATE = 384_000  # of a file whose duration is bounded: the highest that audio interfaces record at
BLOCK_SAMPLES = 2**20  # of all channels together, decoded at a time

Audio = str | os.PathLike | bytes | np.ndarray | torch.Tensor | Mapping[str, Any]


def to_waveform(audio: Audio, sampling_rate: int, max_seconds: float | None = None) -> np.ndarray:
    """
    Turns a clip of any kind into what the processor reads.

    Args:
        audio (`Audio`): A file by its path, its content as `bytes` or its http(s) URL; a waveform `(num_samples,)` at
            `sampling_rate`, as array or tensor, floating point with full scale [-1, 1] or signed integers; or a dict
            with `"array"` or `"raw"` and `"sampling_rate"`, or with `"bytes"` or `"path"` as `datasets` gives under
            `Audio(decode=False)`.
        sampling_rate (`int`): Sampling rate of the result in Hz.
        max_seconds (`float`, *optional*): Longest clip that is accepted, by default any.

    Returns:
        `np.ndarray` of shape `(num_samples,)`: `float32` waveform.

    Raises:
        ValueError: Another kind of input, a URL that cannot be fetched, or as in [`decode_audio`].
    """
    if isinstance(audio, Mapping):
        array = audio.get("array", audio.get("raw"))
        if array is not None and "sampling_rate" in audio:
            return _from_array(array, audio["sampling_rate"], sampling_rate, max_seconds)
        audio = next((audio[key] for key in ("bytes", "path") if audio.get(key) is not None), audio)
    if isinstance(audio, np.ndarray | torch.Tensor):
        return _from_array(audio, sampling_rate, sampling_rate, max_seconds)
    if isinstance(audio, str) and audio.lower().startswith(("http://", "https://")):
        return decode_audio(fetch(audio), sampling_rate, max_seconds, name=audio)
    if isinstance(audio, str | os.PathLike | bytes):
        return decode_audio(audio, sampling_rate, max_seconds)
    found = f"a dict with {sorted(map(str, audio))}" if isinstance(audio, Mapping) else type(audio).__name__
    raise ValueError(
        f"audio: found {found}; give a path, a URL, bytes, a waveform, or a dict with 'array' and 'sampling_rate' or "
        "with 'bytes' or 'path' (columns of datasets: cast_column(name, Audio(decode=False)))"
    )


def decode_audio(
    source: str | os.PathLike | bytes, sampling_rate: int, max_seconds: float | None = None, name: str | None = None
) -> np.ndarray:
    """
    Decodes one clip with soundfile, averages its channels and resamples it with soxr.

    Memory goes with the clip's frames, whatever the number of channels.

    Args:
        source (`str`, `os.PathLike` or `bytes`): An audio file (WAV, FLAC, OGG, MP3, ...) or its content.
        sampling_rate (`int`): Sampling rate of the result in Hz.
        max_seconds (`float`, *optional*): Longest clip that is accepted; no more than that is decoded. With it, the
            file's own sampling rate may be 384 kHz at most, so that a short file cannot fill the memory.
        name (`str`, *optional*): What errors call the clip, by default its path.

    Returns:
        `np.ndarray` of shape `(num_samples,)`: `float32` waveform, full scale is [-1, 1].

    Raises:
        ValueError: The clip cannot be decoded, is longer than `max_seconds` or above 384 kHz with it, has NaN or
            infinite samples, or is under 400 samples long.
        ImportError: soundfile or soxr is not installed.
    """
    # transformers refuses to load remote code that imports, even in a function, what is not installed; it looks past
    # `try`. The model itself needs neither library, so that it loads without them.
    try:
        import soundfile
    except ImportError as error:
        raise ImportError("decoding audio needs soundfile: pip install soundfile") from error

    class Stream(soundfile.SoundFile):
        """A file that is only read on: `SoundFile` seeks after each read, and Opus is not the same from there."""

        def seekable(self) -> bool:
            return False

    if name is None:
        name = "<bytes>" if isinstance(source, bytes) else os.fspath(source)
    try:
        with Stream(io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source)) as file:
            rate, max_frames = file.samplerate, float("inf")
            if max_seconds is not None:
                if rate > MAX_SAMPLING_RATE:
                    raise ValueError(
                        f"{name}: found {rate} Hz, at most {MAX_SAMPLING_RATE} Hz are read; convert it to "
                        f"{sampling_rate} Hz"
                    )
                max_frames = max_seconds * rate + 1  # the header's own length may be wrong
            waveform = _read_mono(file, max_frames)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a headerless .raw file
        # The message of libsndfile alone: soundfile puts the file before it, for bytes an object with its address.
        found = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
        reason = " ".join(found.split())
        raise ValueError(f"{name}: cannot be decoded as audio ({reason}); convert it to WAV or FLAC") from error
    return _checked(waveform, rate, sampling_rate, max_seconds, name)


def fetch(url: str, max_bytes: int = MAX_URL_BYTES, timeout: float = URL_TIMEOUT) -> bytes:
    """
    Downloads a file over http or https; redirects stay within the two.

    Args:
        url (`str`): Where the file is.
        max_bytes (`int`): Largest file that is accepted; no more than that is read.
        timeout (`float`): Longest time that all of it may take, in seconds.

    Returns:
        `bytes`: the file.

    Raises:
        ValueError: The server cannot be reached or answers with an error, or the file is larger or takes longer.
    """
    # Sockets bound each wait alone, and nothing bounds the look-up of the name: a server that drips its headers would
    # hold the caller. A thread that is still at them when time is up ends with the connection, or with the program.
    download: Future[bytes] = Future()

    def run() -> None:
        try:
            download.set_result(_download(url, max_bytes, timeout))
        except Exception as error:
            download.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return download.result(timeout)
    except TimeoutError as error:
        raise ValueError(f"{url}: not complete after {timeout:g} s; download it and give its path") from error
    except (OSError, HTTPException, UnicodeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{url}: cannot be fetched ({reason}); check the address") from error


def window_bounds(num_samples: int, max_samples: int) -> list[tuple[int, int]]:
    """Starts and ends of the fewest equal consecutive windows of at most `max_samples` that make up `num_samples`."""
    bounds = np.linspace(0, num_samples, -(-num_samples // max_samples) + 1).round().astype(int)
    return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))


def _from_array(array: Any, rate: float, sampling_rate: int, max_seconds: float | None) -> np.ndarray:
    """[`_checked`] of an array, a tensor or a list of numbers at `rate` Hz."""
    waveform = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
    if waveform.ndim != 1:
        raise ValueError(f"audio: found an array of shape {waveform.shape}; give one channel, shape (num_samples,)")
    if np.issubdtype(waveform.dtype, np.signedinteger):
        waveform = waveform / -float(np.iinfo(waveform.dtype).min)
    elif not np.issubdtype(waveform.dtype, np.floating):
        raise ValueError(f"audio: found an array of {waveform.dtype}; give floating point in [-1, 1], or int16")
    if not isinstance(rate, int | float | np.number) or not 0 < rate < float("inf"):
        raise ValueError(f"sampling_rate: found {rate!r}; give the array's samples per second")
    return _checked(waveform.astype(np.float32, copy=False), rate, sampling_rate, max_seconds, "<array>")


def _checked(waveform: np.ndarray, rate: float, sampling_rate: int, max_seconds: float | None, name: str) -> np.ndarray:
    """The waveform at `sampling_rate` once it is found to be usable."""
    if max_seconds is not None and len(waveform) > max_seconds * rate:
        raise ValueError(f"{name}: longer than {max_seconds:g} s; cut it")
    if not np.isfinite(waveform).all():
        raise ValueError(f"{name}: has NaN or infinite samples; export it again or drop it")
    if rate != sampling_rate:
        try:  # as with soundfile
            import soxr
        except ImportError as error:
            raise ImportError(f"resampling from {rate} to {sampling_rate} Hz needs soxr: pip install soxr") from error
        waveform = soxr.resample(waveform, rate, sampling_rate)
    if len(waveform) < MIN_SAMPLES:
        raise ValueError(
            f"{name}: {len(waveform)} samples at {sampling_rate} Hz; at least {MIN_SAMPLES} are needed, drop it"
        )
    return waveform


def _read_mono(file: Any, max_frames: float) -> np.ndarray:
    """The first `max_frames` frames of an open `SoundFile`, channels averaged; all channels are held of one block."""
    block_size, waveform = max(1, BLOCK_SAMPLES // file.channels), []
    while max_frames >= 1:
        num_frames = int(min(block_size, max_frames))
        block = file.read(num_frames, dtype="float32", always_2d=True)
        waveform.append(block.mean(axis=1))
        if len(block) < num_frames:
            break
        max_frames -= num_frames
    return np.concatenate(waveform)


def _download(url: str, max_bytes: int, timeout: float) -> bytes:
    """[`fetch`] but for the time that name, connection and headers take."""
    deadline, content = time.monotonic() + timeout, bytearray()
    with _http_opener().open(url, timeout=timeout) as response:
        while chunk := response.read1(2**16):
            content += chunk
            if len(content) > max_bytes:
                raise ValueError(f"{url}: over {max_bytes} bytes; download it and give its path")
            if time.monotonic() > deadline:
                raise TimeoutError
        if response.length:
            raise ValueError(f"{url}: the connection closed {response.length} bytes before the end; try again")
    return bytes(content)


def _http_opener() -> request.OpenerDirector:
    """Opens http and https alone: the default opener would follow a redirect to ftp."""
    proxies = {scheme: proxy for scheme, proxy in request.getproxies().items() if scheme in ("http", "https")}
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(proxies),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPRedirectHandler(),
        request.HTTPErrorProcessor(),
        request.HTTPDefaultErrorHandler(),
        request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener
