"""Waveforms and transcripts in, model inputs out; frame logits in, text out."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin, SeamlessM4TFeatureExtractor, WhisperFeatureExtractor

IGNORE_INDEX = -100
MIN_SAMPLES = 400  # the receptive field of a wav2vec 2.0 feature encoder
TWO_FRAMES = 400 + 160  # samples of two log-mel frames: 25 ms every 10 ms at 16 kHz
SMALLEST_LEVEL = 1e-6  # root mean square of a clip, full scale 1, below which it is not made louder
TRIM_FRAMES = 5  # frames of 10 ms that trimming leaves before and after what is heard


def trim_silence(waveform: np.ndarray, trim_db: float) -> np.ndarray:
    """
    A clip without the silence at its ends, as `librosa.effects.trim` finds it: frames of 25 ms every 10 ms whose energy
    is more than `trim_db` below that of the loudest one. 50 ms of it stay.

    Args:
        waveform (`np.ndarray` of shape `(num_samples,)`): 400 samples or more, at 16 kHz.
        trim_db (`float`): above 0, in dB.

    Returns:
        `np.ndarray`: a view of `waveform`.
    """
    energy = np.square(np.lib.stride_tricks.sliding_window_view(waveform, 400)[::160]).mean(axis=1)
    heard = np.flatnonzero(energy >= energy.max() * 10 ** (-trim_db / 10))
    start, end = heard[0] - TRIM_FRAMES, heard[-1] + TRIM_FRAMES
    return waveform[max(0, start * 160) : end * 160 + 400]


class LogMelFeatureExtractor(SeamlessM4TFeatureExtractor):
    """
    The log-mel features of `SeamlessM4TFeatureExtractor`, standardised by statistics of the training clips instead of
    each clip's own, so that loudness and spectral tilt, which carry emotion, reach the encoder.

    A channel of zeros follows the mel bins of each frame: the encoder's first LayerNorm subtracts a frame's mean, and
    the zeros are what it can then be told from.

    Args:
        num_mel_bins (`int`, *optional*, defaults to 79): mel bins of a frame, which has one channel more.
        stride (`int`, *optional*, defaults to 2): frames of 10 ms that are stacked into one.
        mean, std (`Sequence[float]` of length `num_mel_bins`, *optional*): of the log-mel energies, see
            [`~LogMelFeatureExtractor.fit`]; by default 0 and 1.
        do_normalize (`bool`, *optional*, defaults to `False`): divides each clip by its root mean square first, for
            where its level says more about the recording than about the speaker.
        **kwargs: as in `SeamlessM4TFeatureExtractor`.
    """

    def __init__(
        self,
        num_mel_bins: int = 79,
        stride: int = 2,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        do_normalize: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs["feature_size"] = num_mel_bins + 1
        super().__init__(num_mel_bins=num_mel_bins, stride=stride, **kwargs)
        self.mean = [0.0] * num_mel_bins if mean is None else list(mean)
        self.std = [1.0] * num_mel_bins if std is None else list(std)
        self.do_normalize = do_normalize

    def fit(self, waveforms: Iterable[np.ndarray]) -> None:
        """Sets `mean` and `std` to those of all frames of `waveforms`: float32, mono, at 16 kHz."""
        log_mel = np.concatenate([self._log_mel(waveform) for waveform in waveforms])
        self.mean = log_mel.mean(axis=0).round(4).tolist()
        self.std = log_mel.std(axis=0).clip(min=1e-2).round(4).tolist()

    def __call__(self, raw_speech: Any, **kwargs: Any) -> BatchFeature:
        """As in `SeamlessM4TFeatureExtractor`."""
        kwargs["do_normalize_per_mel_bins"] = False
        # Whole stacks, so that a clip's last one does not depend on the batch.
        kwargs.setdefault("pad_to_multiple_of", self.stride)
        return super().__call__(raw_speech, **kwargs)

    def _extract_fbank_features(self, waveform: np.ndarray) -> np.ndarray:
        mean, std = (np.asarray(values, dtype=np.float32) for values in (self.mean, self.std))
        standardised = (self._log_mel(waveform) - mean) / std
        return np.pad(standardised, ((0, 0), (0, 1)))

    def _log_mel(self, waveform: np.ndarray) -> np.ndarray:
        waveform = np.squeeze(waveform)
        if self.do_normalize:
            waveform = waveform / max(float(np.sqrt(np.mean(np.square(waveform)))), SMALLEST_LEVEL)
        # Kaldi's filter bank: 25 ms every 10 ms, mean removed, pre-emphasis .97, Povey window, power, mel, log.
        frames = np.lib.stride_tricks.sliding_window_view(waveform * 2.0**15, 400)[::160]
        frames = frames - frames.mean(axis=1, keepdims=True)
        frames = np.concatenate([frames[:, :1] * 0.03, frames[:, 1:] - 0.97 * frames[:, :-1]], axis=1) * self.window
        power = np.abs(np.fft.rfft(frames, 512)) ** 2
        return np.log(np.maximum(power @ self.mel_filters, 1.192092955078125e-07)).astype(np.float32)


class SerMtlProcessor(ProcessorMixin):
    """
    Feature extractor and CTC tokenizer of a [`SerMtlModel`].

    Each clip is normalised on its own before padding, and the attention mask is always there, so that a clip's inputs
    do not depend on the batch.

    Args:
        feature_extractor (`SequenceFeatureExtractor`): the backbone's: waveforms (`input_values`) or log-mel
            (`input_features`). Whisper's pads each clip to the time that its encoder reads, 30 s.
        tokenizer (`Wav2Vec2CTCTokenizer`): characters; its pad token is the CTC blank.
        trim_db (`float`, *optional*): cuts the silence at both ends of each clip, see [`trim_silence`]; by default
            clips stay whole.
    """

    def __init__(self, feature_extractor: Any, tokenizer: Any, trim_db: float | None = None) -> None:
        super().__init__(feature_extractor, tokenizer)
        self.trim_db = trim_db

    def trim(self, waveform: np.ndarray) -> np.ndarray:
        """
        What is read of a clip: all of it, or without the silence at its ends.

        Args:
            waveform (`np.ndarray` of shape `(num_samples,)`): 400 samples or more.
        """
        return waveform if self.trim_db is None else trim_silence(waveform, self.trim_db)

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that the model reads."""
        return list(dict.fromkeys([*self.feature_extractor.model_input_names, "attention_mask"]))

    @property
    def max_samples(self) -> int | None:
        """Length of the longest clip that the encoder reads; None without such a limit."""
        is_whisper = isinstance(self.feature_extractor, WhisperFeatureExtractor)
        return self.feature_extractor.n_samples if is_whisper else None

    def __call__(
        self,
        audio: np.ndarray | Sequence[np.ndarray],
        text: Sequence[str] | None = None,
        sampling_rate: int | None = None,
        return_tensors: str = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Args:
            audio (`np.ndarray` or `Sequence[np.ndarray]`): one mono waveform `(num_samples,)` or several, float32.
            text (`Sequence[str]`, *optional*): normalised transcripts, one per waveform; "" = unknown.
            sampling_rate (`int`): of the waveforms, in Hz; must be the feature extractor's.
            return_tensors (`str`): as in transformers.
            **kwargs: further arguments of the feature extractor.

        Returns:
            `BatchFeature` with `input_values` `(B, num_samples)` or `input_features` `(B, num_frames, num_features)`
            (of Whisper `(B, num_features, num_frames)`), `attention_mask`, and with `text` also `ctc_labels` `(B, L)`,
            padded with -100.

        Raises:
            ValueError: another sampling rate than the feature extractor's, or a clip that isn't mono, too short, or
                longer than `max_samples`.
        """
        single = np.ndim(audio[0]) == 0
        clips = [np.asarray(clip, dtype=np.float32) for clip in ([audio] if single else audio)]
        for clip in clips:
            if clip.ndim != 1 or len(clip) < MIN_SAMPLES:
                raise ValueError(f"audio: found shape {clip.shape}; give mono clips of {MIN_SAMPLES} samples or more")
            # The feature extractor would crop it without a word.
            if self.max_samples is not None and len(clip) > self.max_samples:
                raise ValueError(f"audio: found {len(clip)} samples; this encoder reads {self.max_samples} at a time")
        clips = [self.trim(clip) for clip in clips]
        if isinstance(self.feature_extractor, SeamlessM4TFeatureExtractor):
            # Its mask marks a stack by the second frame: a clip of one frame would have none.
            clips = [np.pad(clip, (0, max(0, TWO_FRAMES - len(clip)))) for clip in clips]
        inputs = self.feature_extractor(
            clips,
            sampling_rate=sampling_rate,
            padding=True if self.max_samples is None else "max_length",
            return_attention_mask=True,
            return_tensors=return_tensors,
            **kwargs,
        )
        if text is not None:
            inputs["ctc_labels"] = self.encode_transcripts(text)
        return inputs

    def encode_transcripts(self, transcripts: Sequence[str]) -> Tensor:
        """Character indices of normalised `transcripts`, `(B, L)`, padded with -100; a row of -100 for ""."""
        encoded = [self.tokenizer(text).input_ids if text else [] for text in transcripts]
        labels = torch.full((len(encoded), max(1, *map(len, encoded))), IGNORE_INDEX)
        for row, ids in zip(labels, encoded, strict=True):
            row[: len(ids)] = torch.tensor(ids, dtype=torch.long)
        return labels

    def decode_ctc(self, token_ids: Tensor | np.ndarray) -> list[str]:
        """
        Greedy CTC decoding: repeats and blanks collapse.

        Args:
            token_ids (`Tensor` of shape `(B, T)`): the likeliest character of each frame; below 0 where padded.

        Returns:
            `list[str]`: one transcript per row.
        """
        token_ids = np.where(np.asarray(token_ids) < 0, self.tokenizer.pad_token_id, np.asarray(token_ids))
        return self.tokenizer.batch_decode(token_ids)


LogMelFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
SerMtlProcessor.register_for_auto_class("AutoProcessor")
