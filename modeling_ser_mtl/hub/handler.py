"""
The model behind an endpoint of Hugging Face Inference Endpoints, as `handler.py` beside its weights.

The toolkit that serves it makes one [`EndpointHandler`] and calls it for each request; what is raised becomes an HTTP
error with the message. This file goes to the top of the model's repository and imports nothing else from there.
"""

import base64
import binascii
import difflib
import threading
from typing import Any

from transformers import pipeline

TASKS = ("speech-emotion-mtl", "audio-classification")
PARAMETERS = ("task", "top_k", "window_seconds", "min_confidence")
MIN_WINDOW_SECONDS = 1.0  # shorter ones are many forwards, which other requests wait for


class EndpointHandler:
    """
    Answers requests with what the model says about a clip.

    Args:
        path (`str`): Folder of the model.
        max_bytes (`int`): Largest audio file that is accepted, 25 MiB by default.
        max_seconds (`float`): Longest clip that is accepted, in seconds.
    """

    def __init__(self, path: str = "", max_bytes: int = 25 * 2**20, max_seconds: float = 120.0) -> None:
        self.pipeline = pipeline("speech-emotion-mtl", model=path, trust_remote_code=True)  # type: ignore[call-overload]
        self.max_bytes = max_bytes
        self.max_seconds = max_seconds
        # The lengths of a batch lie with the model, so that two forwards at a time would mix them up.
        self.lock = threading.Lock()

    def __call__(self, data: dict[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
        """
        Args:
            data (`dict`): `inputs`, the content of an audio file as `bytes` (a request with an audio content type) or
                in base64, wrapped or not (a JSON request), never a path or URL; and optionally `parameters`, a dict of

                - **top_k** (`int`): only so many classes, by default all.
                - **window_seconds** (`float`): longest stretch the model hears at a time, 20 by default; at least 1.
                - **min_confidence** (`float`): adds `emotion_abstained` to the result of all tasks, whether the
                  likeliest emotion is less probable than that; 0 to 1.
                - **task** (`str`): `"speech-emotion-mtl"`, the default, for the result of all tasks, or
                  `"audio-classification"` for the list of emotions alone, as the widget and `InferenceClient` read it.

        Returns:
            The result of all tasks, a dict with `emotion`, `gender`, `text`, `speaker_embedding` and `task_gates`, or
            the list of `{"score", "label"}` of the emotions.

        Raises:
            ValueError: a request that breaks these rules or the limits, or audio that cannot be read; one line.
        """
        if not isinstance(data, dict):
            raise ValueError(f"body: found {type(data).__name__}; send an object with inputs and optionally parameters")
        parameters = _checked_parameters(data.get("parameters"))
        task = parameters.pop("task", TASKS[0])
        audio = self._audio(data.get("inputs"))
        with self.lock:
            result = self.pipeline(audio, max_seconds=self.max_seconds, **parameters)
        return result if task == TASKS[0] else result["emotion"]

    def _audio(self, inputs: Any) -> bytes:
        """The audio file of a request."""
        limit = f"inputs: over {self.max_bytes} bytes of audio; send a shorter clip or a compressed file"
        if isinstance(inputs, str):
            content = inputs.encode("ascii", "replace").translate(None, b" \t\r\n")  # `base64` wraps its lines
            if len(content) > 4 * (self.max_bytes // 3 + 1):  # base64 writes 3 bytes as 4 characters
                raise ValueError(limit)
            try:
                inputs = base64.b64decode(content, validate=True)
            except binascii.Error as error:
                raise ValueError(
                    "inputs: found a string that is not base64; send the audio file's bytes in it"
                ) from error
        if not isinstance(inputs, bytes):
            raise ValueError(
                f"inputs: found {type(inputs).__name__}; send an audio file as the body with its content type, or in "
                "base64 as JSON"
            )
        if len(inputs) > self.max_bytes:
            raise ValueError(limit)
        return inputs


def _checked_parameters(parameters: Any) -> dict[str, Any]:
    """The parameters of a request, all of them known, without those that are null."""
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise ValueError(f"parameters: found {type(parameters).__name__}; send an object with {', '.join(PARAMETERS)}")
    for name in parameters:
        if name not in PARAMETERS:
            near = difflib.get_close_matches(name, PARAMETERS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(PARAMETERS)}"
            raise ValueError(f"parameters: unknown name {name!r}; {hint}")
    parameters = {name: value for name, value in parameters.items() if value is not None}
    if parameters.get("task", TASKS[0]) not in TASKS:
        raise ValueError(f"parameters.task: found {parameters['task']!r}, allowed are {list(TASKS)}")
    if "min_confidence" in parameters and parameters.get("task", TASKS[0]) != TASKS[0]:
        raise ValueError(f"parameters.min_confidence: {parameters['task']} lists emotions only; ask for {TASKS[0]}")
    window = parameters.get("window_seconds", MIN_WINDOW_SECONDS)
    if type(window) not in (int, float) or not window >= MIN_WINDOW_SECONDS:
        raise ValueError(f"parameters.window_seconds: found {window!r}; give seconds, {MIN_WINDOW_SECONDS:g} or more")
    return parameters
