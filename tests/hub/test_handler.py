"""The handler of Inference Endpoints answers what the serving toolkit hands it, from the model's folder alone."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

from modeling_ser_mtl import SerMtlModel
from modeling_ser_mtl.hub import handler
from modeling_ser_mtl.pipeline_ser_mtl import SpeechEmotionPipeline

# The toolkit's contract: the handler's file is imported from the model's folder and made with its path; an audio
# content type gives {"inputs": bytes}, JSON gives its dict, parameters may come with the address, what is raised
# becomes a 400 with the message.
SERVER = """
import importlib.util
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import torch

torch.set_num_threads(1)
folder = Path("model").resolve()
spec = importlib.util.spec_from_file_location("handler", folder / "handler.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
handler = module.EndpointHandler(str(folder))

class Service(BaseHTTPRequestHandler):
    def do_POST(self):
        try:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kind = self.headers["Content-Type"]
            data = {"inputs": body} if kind.startswith("audio/") else json.loads(body)
            if "inputs" not in data:
                raise ValueError("Body needs to provide a inputs key")
            query = dict(parse_qsl(urlsplit(self.path).query))
            if query and "parameters" not in data:
                data["parameters"] = {name: int(value) if value.isdigit() else value for name, value in query.items()}
            status, answer = 200, handler(data)
        except Exception as error:
            status, answer = 400, {"error": str(error)}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
print(server.server_port, flush=True)
server.serve_forever()
"""
Ask = Callable[..., tuple[int, Any]]


def wav(seconds: float, sampling_rate: int = 16_000, seed: int = 0, format: str = "WAV") -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * sampling_rate))
    soundfile.write(file, noise, sampling_rate, format=format)
    return file.getvalue()


@pytest.fixture(scope="module")
def listener(plain_config, make_processor) -> SpeechEmotionPipeline:
    config = plain_config("wav2vec2-layer")
    torch.manual_seed(0)
    return SpeechEmotionPipeline(model=SerMtlModel(config).eval(), processor=make_processor(config))


@pytest.fixture(scope="module")
def folder(listener, tmp_path_factory) -> Path:
    """A published model with the handler beside it, where the package is not installed."""
    folder = tmp_path_factory.mktemp("endpoint") / "model"
    listener.model.save_pretrained(folder)
    listener.processor.save_pretrained(folder)
    shutil.copy(handler.__file__, folder)
    return folder


@pytest.fixture(scope="module")
def ask(folder, without_package) -> Iterator[Ask]:
    """Posts a request to the served model and gives status and answer."""
    process = subprocess.Popen(
        without_package(SERVER),
        cwd=folder.parent,
        env=os.environ | {"HF_HOME": str(folder.parent / "home"), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    port = int(process.stdout.readline())

    def post(body: bytes | dict[str, Any], content_type: str = "audio/wav", query: str = "") -> tuple[int, Any]:
        if isinstance(body, dict):
            body, content_type = json.dumps(body).encode(), "application/json"
        url = f"http://127.0.0.1:{port}/{query}"
        request = urllib.request.Request(url, data=body, headers={"Content-Type": content_type})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    yield post
    process.kill()
    process.wait()


def close(result: Any) -> Any:
    """Equal to what it holds but for rounding, which depends on where the weights lie in memory."""
    if isinstance(result, dict):
        return {name: close(value) for name, value in result.items()}
    if isinstance(result, list):
        return [close(value) for value in result]
    return pytest.approx(result, abs=1e-6) if isinstance(result, float) else result


def error_of(answer: tuple[int, Any]) -> str:
    status, content = answer
    assert status == 400
    assert "\n" not in content["error"]
    return content["error"]


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_audio_bytes_and_base64_get_what_the_pipeline_says(ask, listener) -> None:
    for format, content_type in (("WAV", "audio/wav"), ("FLAC", "audio/x-flac"), ("OGG", "audio/ogg")):
        clip = wav(0.5, 44_100, format=format)
        expected = close(listener(clip))
        assert ask(clip, content_type) == (200, expected)
        assert ask({"inputs": base64_of(clip)}) == (200, expected)
    assert expected.keys() == {"emotion", "gender", "text", "speaker_embedding", "task_gates"}


def test_base64_may_be_wrapped(ask, listener) -> None:
    clip = wav(0.3)
    wrapped = base64.encodebytes(clip).decode()  # at 76 characters, as the command `base64` does
    assert wrapped.count("\n") > 100
    for inputs in (wrapped, wrapped.replace("\n", "\r\n"), f" {base64_of(clip)}\t"):
        assert ask({"inputs": inputs}) == (200, close(listener(clip)))


def test_parameters_come_in_the_body_or_in_the_address(ask, listener) -> None:
    clip = wav(2.5)
    expected = close(listener(clip, top_k=2, window_seconds=1))
    assert ask({"inputs": base64_of(clip), "parameters": {"top_k": 2, "window_seconds": 1}}) == (200, expected)
    assert ask(clip, query="?top_k=2&window_seconds=1") == (200, expected)
    assert ask(clip, query="?task=speech-emotion-mtl&top_k=2&window_seconds=1") == (200, expected)
    assert ask(clip, query="?task=audio-classification&top_k=1&window_seconds=1") == (200, expected["emotion"][:1])


def test_an_endpoint_says_that_it_abstains_where_a_least_confidence_is_asked_for(ask, listener) -> None:
    clip = wav(0.5)
    for min_confidence in (0, 1):
        answer = ask({"inputs": base64_of(clip), "parameters": {"min_confidence": min_confidence}})
        assert answer == (200, close(listener(clip, min_confidence=min_confidence)))
        assert answer[1]["emotion_abstained"] == bool(min_confidence)


def test_a_parameter_of_null_counts_as_left_out(ask, listener) -> None:
    clip = wav(2.5)
    for parameters in (None, {"task": None, "top_k": None, "window_seconds": None}):
        assert ask({"inputs": base64_of(clip), "parameters": parameters}) == (200, close(listener(clip)))


def test_a_window_may_be_longer_than_any_clip(ask, listener) -> None:
    clip = wav(0.5)
    answer = ask({"inputs": base64_of(clip), "parameters": {"window_seconds": 1e308}})
    assert answer == (200, close(listener(clip)))


def test_a_body_that_is_no_object_is_refused(ask) -> None:
    for body, found in ((b'["inputs"]', "list"), (b'"inputs"', "str")):
        assert error_of(ask(body, "application/json")) == (
            f"body: found {found}; send an object with inputs and optionally parameters"
        )


def test_requests_at_the_same_time_get_their_own_answers(ask, listener) -> None:
    clips = [wav(0.3 + 0.1 * number, seed=number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, clips))
    assert answers == [(200, close(listener(clip))) for clip in clips]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"topk": 2}, "parameters: unknown name 'topk'; did you mean top_k?"),
        ({"zzz": 2}, "parameters: unknown name 'zzz'; known are task, top_k, window_seconds, min_confidence"),
        ({"max_seconds": 9_999}, "parameters: unknown name 'max_seconds'"),
        ({"top_k": 0}, "top_k: found 0"),
        ({"top_k": "2"}, "top_k: found '2'"),
        ({"top_k": True}, "top_k: found True"),
        ({"window_seconds": -1}, "parameters.window_seconds: found -1; give seconds, 1 or more"),
        ({"window_seconds": 0.99}, "parameters.window_seconds: found 0.99"),
        ({"window_seconds": float("nan")}, "parameters.window_seconds: found nan"),
        ({"window_seconds": True}, "parameters.window_seconds: found True"),
        ({"window_seconds": "2"}, "parameters.window_seconds: found '2'"),
        (
            {"task": "automatic-speech-recognition"},
            "parameters.task: found 'automatic-speech-recognition', allowed are",
        ),
        ({"min_confidence": 2}, "min_confidence: found 2; give a probability, 0 to 1"),
        (
            {"min_confidence": 0.5, "task": "audio-classification"},
            "parameters.min_confidence: audio-classification lists emotions only; ask for speech-emotion-mtl",
        ),
        ([1], "parameters: found list"),
    ],
)
def test_a_wrong_parameter_is_named(ask, parameters, message) -> None:
    assert message in error_of(ask({"inputs": base64_of(wav(0.3)), "parameters": parameters}))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("/etc/hostname", "not base64"),
        ("http://127.0.0.1/a.wav", "not base64"),
        ("Ärger", "not base64"),
        (base64_of(b"no audio"), "<bytes>: cannot be decoded as audio (Format not recognised.)"),
        (base64_of(b"file:///etc/hostname"), "<bytes>: cannot be decoded as audio"),
        ({"path": "/etc/hostname"}, "inputs: found dict; send an audio file"),
        ([0.1, 0.2], "inputs: found list"),
        (None, "inputs: found NoneType"),
    ],
)
def test_inputs_are_audio_itself_never_a_place_to_read_it_from(ask, inputs, message) -> None:
    assert message in error_of(ask({"inputs": inputs}))


def test_a_clip_of_the_longest_duration_is_heard_and_one_over_it_is_not(ask) -> None:
    assert ask(wav(120, 8_000, format="FLAC"), "audio/flac")[0] == 200
    assert "<bytes>: longer than 120 s" in error_of(ask(wav(121, 8_000, format="FLAC"), "audio/flac"))


def test_a_file_over_25_mib_is_refused_as_bytes_and_as_base64(ask) -> None:
    content = bytes(25 * 2**20 + 1)
    assert "over 26214400 bytes" in error_of(ask(content))
    for encode in (base64_of, lambda content: base64.encodebytes(content).decode()):
        assert "over 26214400 bytes" in error_of(ask({"inputs": encode(content)}))
        assert "cannot be decoded" in error_of(ask({"inputs": encode(content[:-1])}))


def test_the_limits_can_be_set(folder) -> None:
    small = handler.EndpointHandler(str(folder), max_bytes=20_000, max_seconds=0.5)
    assert small({"inputs": wav(0.5)})["emotion"]
    with pytest.raises(ValueError, match="longer than 0.5 s"):
        small({"inputs": wav(0.6)})
    for inputs in (wav(1), base64_of(wav(1))):
        with pytest.raises(ValueError, match="over 20000 bytes"):
            small({"inputs": inputs})


def test_the_handler_needs_only_transformers_and_what_the_model_brings() -> None:
    assert set(get_imports(handler.__file__)) - sys.stdlib_module_names == {"transformers"}
    assert get_relative_import_files(handler.__file__) == []
