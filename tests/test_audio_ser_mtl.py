"""Clips of every kind that users have reach the model as the same waveform."""

import io
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.dynamic_module_utils import get_imports

import modeling_ser_mtl
from modeling_ser_mtl.audio_ser_mtl import decode_audio, fetch, to_waveform, window_bounds

RANDOM = np.random.default_rng(0)
WAVEFORM = RANDOM.uniform(-0.5, 0.5, 4_000).astype(np.float32)


def wav(waveform: np.ndarray, sampling_rate: int = 16_000) -> bytes:
    """A WAV file that loses nothing."""
    file = io.BytesIO()
    soundfile.write(file, waveform, sampling_rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def error_of(function: Callable[..., object], *args: object, **kwargs: object) -> str:
    with pytest.raises(ValueError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[BaseHTTPRequestHandler], None]], str]]:
    """Starts an HTTP server whose answers a function writes, and returns its address."""
    servers = []

    def start(answer: Callable[[BaseHTTPRequestHandler], None]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            def log_message(self, *args: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def reply(handler: BaseHTTPRequestHandler, content: bytes, declared: int | None = None) -> None:
    handler.send_response(200)
    if declared is not None:
        handler.send_header("Content-Length", str(declared))
    handler.end_headers()
    handler.wfile.write(content)


def redirect(handler: BaseHTTPRequestHandler, location: str) -> None:
    handler.send_response(302)
    handler.send_header("Location", location)
    handler.end_headers()


@pytest.mark.parametrize(
    "clip",
    [
        WAVEFORM,
        WAVEFORM.astype(np.float64),
        torch.from_numpy(WAVEFORM),
        wav(WAVEFORM),
        {"array": WAVEFORM, "sampling_rate": 16_000},
        {"raw": WAVEFORM, "sampling_rate": 16_000},
        {"array": WAVEFORM.tolist(), "sampling_rate": 16_000, "path": "elsewhere.wav"},
        {"bytes": wav(WAVEFORM), "path": "elsewhere.wav"},
    ],
    ids=["array", "float64", "tensor", "bytes", "dict", "raw", "list in a dict", "bytes in a dict"],
)
def test_a_16_khz_clip_comes_back_sample_for_sample_whatever_holds_it(clip) -> None:
    waveform = to_waveform(clip, 16_000)
    assert waveform.dtype == np.float32
    np.testing.assert_array_equal(waveform, WAVEFORM)


def test_a_clip_is_read_from_a_path_a_dict_with_a_path_and_a_url(tmp_path, serve) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(WAVEFORM))
    address = serve(lambda handler: reply(handler, path.read_bytes(), path.stat().st_size))
    for clip in (path, str(path), {"bytes": None, "path": str(path)}, f"{address}/a.wav", f"{address}/a".upper()):
        np.testing.assert_array_equal(to_waveform(clip, 16_000), WAVEFORM)


def test_a_column_of_datasets_is_read_without_its_own_decoder(tmp_path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(WAVEFORM))
    table = datasets.Dataset.from_dict({"audio": [str(tmp_path / "a.wav")]})
    for column in (
        table.cast_column("audio", datasets.Audio(decode=False)),
        datasets.Dataset.from_list([{"audio": {"bytes": wav(WAVEFORM), "path": None}}]),
    ):
        np.testing.assert_array_equal(to_waveform(column[0]["audio"], 16_000), WAVEFORM)


@pytest.mark.parametrize("sampling_rate", [8_000, 22_050, 44_100, 48_000])
def test_a_file_and_an_array_are_resampled_as_soxr_does(sampling_rate) -> None:
    expected = soxr.resample(WAVEFORM, sampling_rate, 16_000)
    for clip in (wav(WAVEFORM, sampling_rate), {"array": WAVEFORM, "sampling_rate": sampling_rate}):
        np.testing.assert_array_equal(to_waveform(clip, 16_000), expected)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
@given(data=st.data())
def test_integer_samples_become_shares_of_full_scale(dtype, data) -> None:
    samples = data.draw(st.lists(st.integers(np.iinfo(dtype).min, np.iinfo(dtype).max), min_size=1, max_size=20))
    samples += [0] * 400
    waveform = to_waveform(np.array(samples, dtype), 16_000)
    np.testing.assert_allclose(waveform, np.array(samples) / 2.0 ** (8 * np.dtype(dtype).itemsize - 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (np.zeros((2, 4_000)), r"shape \(2, 4000\); give one channel"),
        (np.zeros(4_000, np.uint8), "found an array of uint8"),
        (np.array(["a"] * 400), "found an array of <U1"),
        (np.full(4_000, np.nan), "<array>: has NaN"),
        (np.zeros(100), "<array>: 100 samples at 16000 Hz; at least 400"),
        ({"array": WAVEFORM, "sampling_rate": 0}, "sampling_rate: found 0"),
        ({"array": WAVEFORM, "sampling_rate": "16k"}, "sampling_rate: found '16k'"),
        ({"array": WAVEFORM}, r"found a dict with \['array'\]"),
        ({}, r"found a dict with \[\]"),
        (None, "found NoneType"),
        (7, "found int; give a path, a URL, bytes"),
        ("file:///etc/hostname", "file:///etc/hostname: cannot be decoded"),
        ("ftp://example.org/a.wav", "ftp://example.org/a.wav: cannot be decoded"),
    ],
)
def test_what_is_no_clip_is_named_with_what_to_give(clip, message) -> None:
    with pytest.raises(ValueError, match=message):
        to_waveform(clip, 16_000)


@pytest.mark.parametrize("clip", [wav(WAVEFORM, 8_000), {"array": WAVEFORM, "sampling_rate": 8_000}])
def test_a_clip_over_the_longest_is_refused_and_one_of_that_length_is_not(clip) -> None:
    assert len(to_waveform(clip, 16_000, max_seconds=0.5)) == 8_000
    assert "longer than 0.4999 s" in error_of(to_waveform, clip, 16_000, max_seconds=0.4999)


def test_no_more_than_the_longest_clip_is_decoded() -> None:
    hour = io.BytesIO()
    soundfile.write(hour, np.zeros(3_600 * 16_000, np.int16), 16_000, format="FLAC")
    assert len(hour.getvalue()) < 2**20
    tracemalloc.start()
    try:
        assert "longer than 2 s" in error_of(decode_audio, hour.getvalue(), 16_000, max_seconds=2)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_any_longest_clip_may_be_named() -> None:
    for max_seconds in (1e308, 10**400):
        np.testing.assert_array_equal(to_waveform(wav(WAVEFORM), 16_000, max_seconds), WAVEFORM)


def test_memory_goes_with_one_channel_however_many_a_file_has() -> None:
    minute = io.BytesIO()
    soundfile.write(minute, np.zeros((60 * 48_000, 8), np.int16), 48_000, format="FLAC")
    channel = 60 * 48_000 * np.dtype(np.float32).itemsize
    tracemalloc.start()
    try:
        assert len(decode_audio(minute.getvalue(), 16_000, max_seconds=60)) == 60 * 16_000
        assert tracemalloc.get_traced_memory()[1] < 4 * channel
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("format", "subtype"), [("WAV", "IMA_ADPCM"), ("FLAC", "PCM_24"), ("OGG", "OPUS"), ("MP3", None)]
)
def test_a_file_of_several_blocks_is_decoded_as_in_one_piece(format, subtype) -> None:
    file = io.BytesIO()
    channels = np.cumsum(RANDOM.uniform(-1, 1, (2**20 + 1, 2)), axis=0)  # two blocks and a frame
    soundfile.write(file, channels / np.abs(channels).max() / 2, 16_000, format=format, subtype=subtype)
    # `soundfile.read` would seek first, which changes how MP3 is rounded.
    expected = soundfile.SoundFile(io.BytesIO(file.getvalue())).read(dtype="float32").mean(axis=1)
    np.testing.assert_array_equal(decode_audio(file.getvalue(), 16_000), expected)
    np.testing.assert_array_equal(decode_audio(file.getvalue(), 16_000, max_seconds=100), expected)
    assert "longer than 65 s" in error_of(decode_audio, file.getvalue(), 16_000, max_seconds=65)


def test_a_codec_without_seeking_is_decoded() -> None:
    file = io.BytesIO()
    soundfile.write(file, WAVEFORM, 16_000, format="WAV", subtype="GSM610")
    assert np.corrcoef(decode_audio(file.getvalue(), 16_000)[: len(WAVEFORM)], WAVEFORM)[0, 1] > 0.3


def test_with_a_longest_clip_a_file_has_384_khz_at_most() -> None:
    highest, above = (wav(RANDOM.uniform(-0.5, 0.5, 20_000), rate) for rate in (384_000, 384_001))
    assert len(decode_audio(highest, 16_000, max_seconds=1)) == 833
    assert "found 384001 Hz, at most 384000 Hz are read" in error_of(decode_audio, above, 16_000, max_seconds=1)
    assert len(decode_audio(above, 16_000)) == 833


def test_bytes_that_are_no_audio_are_refused_for_a_reason_without_addresses_of_memory() -> None:
    assert error_of(decode_audio, b"no audio", 16_000) == (
        "<bytes>: cannot be decoded as audio (Format not recognised.); convert it to WAV or FLAC"
    )


def test_a_file_over_the_limit_is_not_read_to_its_end(serve) -> None:
    sent = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        reply(handler, b"")
        while len(sent) < 1_000:
            handler.wfile.write(bytes(2**16))
            sent.append(1)

    address = serve(answer)
    assert "over 100000 bytes" in error_of(fetch, address, max_bytes=100_000)
    time.sleep(0.2)
    assert len(sent) < 1_000


def test_a_file_of_the_limit_is_fetched(serve) -> None:
    assert fetch(serve(lambda handler: reply(handler, bytes(1_000))), max_bytes=1_000) == bytes(1_000)


@pytest.mark.parametrize("begin", ["", "HTTP/1.0 200 OK\r\nX-Long: ", "HTTP/1.0 200 OK\r\n\r\n"])
@pytest.mark.parametrize("drop", [b"", b"x"])
def test_a_download_ends_at_its_timeout_when_the_server_is_silent_and_when_it_drips(serve, begin, drop) -> None:
    closed = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(begin.encode())
        for _ in range(60):
            if closed.wait(0.05):
                break
            handler.wfile.write(drop)

    begun = time.monotonic()
    assert "not complete after 0.3 s; download it" in error_of(fetch, serve(drip), timeout=0.3)
    assert time.monotonic() - begun < 2
    closed.set()


def test_a_connection_that_breaks_gives_no_shorter_clip(serve) -> None:
    content = wav(WAVEFORM)
    address = serve(lambda handler: reply(handler, content[:-100], len(content)))
    assert "closed 100 bytes before the end" in error_of(fetch, address)


@pytest.mark.parametrize("scheme", ["file", "ftp", "data", "http-loop"])
def test_a_redirect_stays_within_http(serve, tmp_path, scheme) -> None:
    (tmp_path / "secret").write_text("secret")
    places = {
        "file": f"file://{tmp_path}/secret",
        "ftp": "ftp://127.0.0.1/secret",
        "data": "data:text/plain,secret",
        "http-loop": "/again",
    }
    message = error_of(fetch, serve(lambda handler: redirect(handler, places[scheme])), timeout=5)
    assert "cannot be fetched" in message


def test_a_redirect_to_http_is_followed(serve) -> None:
    target = serve(lambda handler: reply(handler, b"content"))
    assert fetch(serve(lambda handler: redirect(handler, f"{target}/a"))) == b"content"


def test_an_address_without_an_answer_is_named(serve, unused_port) -> None:
    address = serve(lambda handler: handler.send_error(404))
    assert f"{address}/a.wav: cannot be fetched (HTTP Error 404" in error_of(to_waveform, f"{address}/a.wav", 16_000)
    assert "cannot be fetched" in error_of(fetch, f"http://127.0.0.1:{unused_port}/a.wav")
    assert "cannot be fetched" in error_of(fetch, "http://127.0.0.1:port/ä b.wav")


@given(num_samples=st.integers(400, 10**7), max_samples=st.integers(800, 10**6))
def test_windows_are_few_equal_and_cover_the_clip(num_samples, max_samples) -> None:
    bounds = window_bounds(num_samples, max_samples)
    sizes = [end - start for start, end in bounds]
    assert [start for start, _ in bounds] == [0, *(end for _, end in bounds[:-1])]
    assert bounds[-1][1] == num_samples
    assert max(sizes) <= max_samples and max(sizes) - min(sizes) <= 1
    assert (len(bounds) - 1) * max_samples < num_samples


def test_the_files_that_travel_name_no_library_that_a_model_can_do_without() -> None:
    folder = Path(modeling_ser_mtl.__file__).parent
    for path in folder.glob("*_ser_mtl.py"):
        assert not {"soundfile", "soxr", "torchaudio"} & set(get_imports(path)), path
