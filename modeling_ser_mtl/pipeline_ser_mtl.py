"""
Pipelines from a clip of any kind to its emotions, or to what all tasks say.

A checkpoint names them in `config.custom_pipelines`, so that `pipeline(task, model=..., trust_remote_code=True)` finds
them where this package is not installed.
"""

from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from transformers.pipelines.audio_classification import AudioClassificationPipeline
from transformers.pipelines.base import ChunkPipeline

from .audio_ser_mtl import Audio, to_waveform, window_bounds
from .processing_ser_mtl import SerMtlProcessor

SPEECH_EMOTION_TASK = "speech-emotion-mtl"
# What `config.custom_pipelines` holds: the class beside the checkpoint, and the auto class that loads the model.
CUSTOM_PIPELINES = {
    "audio-classification": {
        "impl": "pipeline_ser_mtl.SerMtlAudioClassificationPipeline",
        "pt": ["AutoModelForAudioClassification"],
    },
    SPEECH_EMOTION_TASK: {"impl": "pipeline_ser_mtl.SpeechEmotionPipeline", "pt": ["AutoModel"]},
}
WINDOW_SECONDS = 20.0  # the default of --max_seconds: training shows nothing longer
MIN_WINDOW_SECONDS = 0.1
FUNCTIONS = ("softmax", "sigmoid", "none")

Parameters = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
Scores = list[dict[str, float | str]]


class WindowedAudioPipeline(ChunkPipeline):
    """
    Reads clips of any kind and cuts the long ones into equal windows, as evaluation in training does.

    Args:
        model ([`SerMtlModel`]): the model.
        processor ([`SerMtlProcessor`]): its processor.
        **kwargs: as in `Pipeline`, and the parameters of a call.
    """

    model: Any  # a `SerMtlModel`, whose file imports this one
    processor: SerMtlProcessor
    # Of a processor alone, `Pipeline` takes feature extractor and tokenizer by itself: they say how batches are padded.
    _load_processor: Any = True
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = False

    def __call__(self, inputs: Audio | Iterable[Audio], **kwargs: Any) -> Any:
        """
        Args:
            inputs (`Audio` or `Iterable`): one clip, or several as list, generator, torch dataset or column of
                `datasets`. A clip is whatever [`~audio_ser_mtl.to_waveform`] takes; a bare array is at the processor's
                sampling rate.
            top_k (`int`, *optional*): only so many classes, by default all.
            window_seconds (`float`, *optional*, defaults to 20): a longer clip is cut into equal windows of at most
                that, or of what the encoder reads at a time (Whisper's: 30 s), whose results are joined. .1 or more.
            max_seconds (`float`, *optional*): longest clip that is accepted, by default any.
            batch_size, num_workers (`int`, *optional*): as in `Pipeline`; a batch holds windows.

        Returns:
            The result of one clip; a list of them for inputs with a length; else, and for torch datasets, an iterator.

        Raises:
            ValueError: a clip that cannot be read, or a parameter outside its range.
        """
        single = isinstance(inputs, str | bytes | PathLike | np.ndarray | Tensor | Mapping)
        if single or isinstance(inputs, Dataset) or not isinstance(inputs, Iterable):
            return super().__call__(inputs, **kwargs)
        # `Pipeline` would take a column for one clip, and the length of a list for the number of windows.
        results = super().__call__((clip for clip in inputs), **kwargs)
        return list(results) if hasattr(inputs, "__len__") else results

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """As in `Pipeline`, and the processor."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def check_model_type(self, supported_models: list[str] | dict[str, Any]) -> None:
        """Nothing: `supported_models` are transformers' own."""

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        window_seconds: float | None = None,
        max_seconds: float | None = None,
        local_files_only: bool | None = None,  # `pipeline` hands it on
    ) -> Parameters:
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k: found {top_k!r}; give a whole number, 1 or more")
        reading = {"window_seconds": window_seconds, "max_seconds": max_seconds}
        # What a call leaves out stays as it was when the pipeline was made.
        reading = {name: value for name, value in reading.items() if value is not None}
        for name, value in reading.items():
            # `True` is an `int`.
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not MIN_WINDOW_SECONDS <= value < float("inf")
            ):
                raise ValueError(f"{name}: found {value!r}; give seconds, {MIN_WINDOW_SECONDS} or more")
        return reading, {}, {} if top_k is None else {"top_k": top_k}

    def preprocess(
        self, inputs: Audio, window_seconds: float = WINDOW_SECONDS, max_seconds: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """
        Args:
            inputs (`Audio`): one clip.
            window_seconds, max_seconds (`float`, *optional*): as in a call.

        Yields:
            `dict`: the model's inputs for each window, and `is_last`.
        """
        sampling_rate = self.processor.feature_extractor.sampling_rate
        waveform = to_waveform(inputs, sampling_rate, max_seconds)
        max_samples = round(min(window_seconds * sampling_rate, len(waveform)))
        if self.processor.max_samples is not None:
            max_samples = min(max_samples, self.processor.max_samples)
        for start, end in window_bounds(len(waveform), max_samples):
            window = self.processor(waveform[start:end], sampling_rate=sampling_rate).to(dtype=self.dtype)
            yield {**window, "is_last": end == len(waveform)}


class SerMtlAudioClassificationPipeline(WindowedAudioPipeline, AudioClassificationPipeline):
    """
    Emotions of a clip: transformers' pipeline of this name, for clips of any kind, sampling rate and length.

    A call takes the parameters of [`WindowedAudioPipeline`] and `function_to_apply` (`"softmax"`, the default,
    `"sigmoid"` or `"none"`), and gives a list of `{"score": float, "label": str}` for each clip, the likeliest first.
    Softmax stands for the calibrated probabilities of [`SerMtlModel.emotion_probabilities`].

    Args:
        model ([`SerMtlModel`]): a model with the emotion task.
        processor ([`SerMtlProcessor`]): its processor.
        **kwargs: as in `Pipeline`, and the parameters of a call.

    Raises:
        ValueError: the model has no emotion task.

    Example:

    ```python
    >>> from transformers import pipeline

    >>> classifier = pipeline("audio-classification", model="outputs/quickstart", trust_remote_code=True)
    >>> emotions = classifier("clip.wav", top_k=3)
    ```
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The parent would set 5 here, and forget it at each call.
        super().__init__(*args, **{"top_k": None, **kwargs})
        if "emotion" not in self.model.config.tasks:
            raise ValueError(f"tasks: found {self.model.config.tasks}; audio-classification needs emotion")

    def _sanitize_parameters(self, function_to_apply: str | None = None, **parameters: Any) -> Parameters:
        reading, forwarding, scoring = super()._sanitize_parameters(**parameters)
        if function_to_apply is not None:
            if function_to_apply not in FUNCTIONS:
                raise ValueError(f"function_to_apply: found {function_to_apply!r}, allowed are {list(FUNCTIONS)}")
            scoring["function_to_apply"] = function_to_apply
        return reading, forwarding, scoring

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        is_last = model_inputs.pop("is_last")
        return {"logits": self.model(**model_inputs).logits.float(), "is_last": is_last}

    def postprocess(
        self, model_outputs: list[dict[str, Tensor]], top_k: int | None = None, function_to_apply: str = "softmax"
    ) -> Scores:
        """Scores averaged over the windows, `model_outputs`; `top_k` and `function_to_apply` as in a call."""
        logits = torch.cat([window["logits"] for window in model_outputs])
        if function_to_apply == "softmax":
            logits = self.model.emotion_probabilities(logits)
        elif function_to_apply == "sigmoid":
            logits = logits.sigmoid()
        return ranked(logits.mean(0), self.model.config.emotion_labels, top_k)


class SpeechEmotionPipeline(WindowedAudioPipeline):
    """
    What every task of the model says about a clip.

    A call takes the parameters of [`WindowedAudioPipeline`] and `min_confidence`, and gives a dict for each clip, ready
    for JSON; what the model has no task for is absent:

    - **emotion**, **gender**: list of `{"score": float, "label": str}`, the likeliest first, at most `top_k`.
    - **emotion_abstained**: with `min_confidence` (`float` in [0, 1]), whether the likeliest emotion is less probable
      than that, so that no emotion should be read from the clip.
    - **text**: the transcript.
    - **speaker_embedding**: list of floats, of unit length: two clips compare by their dot product.
    - **task_gates**: how far each auxiliary task entered the emotion, by name, in (0, 1); with co-attention.

    Of a clip in several windows, probabilities, embeddings and gates are averaged and texts are joined.

    Args:
        model ([`SerMtlModel`]): the model.
        processor ([`SerMtlProcessor`]): its processor.
        **kwargs: as in `Pipeline`, and the parameters of a call.

    Example:

    ```python
    >>> from transformers import pipeline

    >>> listener = pipeline("speech-emotion-mtl", model="outputs/quickstart", trust_remote_code=True)
    >>> text = listener("clip.wav")["text"]
    ```
    """

    def _sanitize_parameters(self, min_confidence: float | None = None, **parameters: Any) -> Parameters:
        reading, forwarding, scoring = super()._sanitize_parameters(**parameters)
        if min_confidence is not None:
            if type(min_confidence) not in (int, float) or not 0 <= min_confidence <= 1:
                raise ValueError(f"min_confidence: found {min_confidence!r}; give a probability, 0 to 1")
            scoring["min_confidence"] = min_confidence
        return reading, forwarding, scoring

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        is_last = model_inputs.pop("is_last")
        outputs = self.model(**model_inputs, output_co_attentions=True)  # the gates come with the maps
        kept: dict[str, Any] = {}
        if outputs.logits is not None:
            kept["emotion"] = self.model.emotion_probabilities(outputs.logits)
        if outputs.gender_logits is not None:
            kept["gender"] = outputs.gender_logits.float().softmax(-1)
        if outputs.ctc_logits is not None:
            kept["asr"] = self.model.likeliest_characters(outputs)
        if outputs.speaker_embeddings is not None:
            kept["speaker"] = outputs.speaker_embeddings
        if outputs.task_gates is not None:
            kept["task_gates"] = outputs.task_gates.float()
        return {**kept, "is_last": is_last}

    def postprocess(
        self, model_outputs: list[dict[str, Tensor]], top_k: int | None = None, min_confidence: float | None = None
    ) -> dict[str, Any]:
        """The result of a clip from those of its windows, `model_outputs`; `top_k`, `min_confidence` as in a call."""
        config, kept = self.model.config, model_outputs[0].keys()

        def average(name: str) -> Tensor:
            return torch.cat([window[name] for window in model_outputs]).mean(0)

        result: dict[str, Any] = {}
        if "emotion" in kept:
            result["emotion"] = ranked(average("emotion"), config.emotion_labels, top_k)
            if min_confidence is not None:
                result["emotion_abstained"] = result["emotion"][0]["score"] < min_confidence
        if "gender" in kept:
            result["gender"] = ranked(average("gender"), config.gender_labels, top_k)
        if "asr" in kept:
            texts = [self.processor.decode_ctc(window["asr"])[0] for window in model_outputs]
            result["text"] = " ".join(filter(None, texts))
        if "speaker" in kept:
            result["speaker_embedding"] = F.normalize(average("speaker"), dim=0).tolist()
        if "task_gates" in kept:
            result["task_gates"] = dict(zip(config.auxiliary_tasks, average("task_gates").tolist(), strict=True))
        return result


def ranked(scores: Tensor, names: list[str], top_k: int | None) -> Scores:
    """The classes `names` with their `scores`, `(num_classes,)`; the highest first, at most `top_k`."""
    values, indices = scores.topk(min(top_k or len(names), len(names)))
    return [
        {"score": score, "label": names[index]} for score, index in zip(values.tolist(), indices.tolist(), strict=True)
    ]
