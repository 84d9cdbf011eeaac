"""What a model keeps of the windows of a split -> predictions and metrics of whole clips."""

import numpy as np
import torch

from ..configuration_ser_mtl import SerMtlConfig
from ..data.dataset import Clips
from ..data.errors import InputError
from ..evaluation.calibration import clip_probabilities
from ..evaluation.metrics import Predictions, embedding_similarity
from ..modeling_ser_mtl import config_swfc_loss
from ..processing_ser_mtl import SerMtlProcessor


def embedding_metrics(embeddings: np.ndarray, labels: np.ndarray, config: SerMtlConfig) -> dict[str, float]:
    """
    `emotion_similarity_within` and `_between` classes, and `loss_swfc` over all clips at once, so that it ignores the
    batch size. What has no pair of clips is left out.

    Args:
        embeddings (`np.ndarray` of shape `(N, D)`): emotion embeddings.
        labels (`np.ndarray` of shape `(N,)`): emotions, -100 = unknown.
        config ([`SerMtlConfig`]): settings of SWFC.
    """
    within, between = embedding_similarity(embeddings, labels)
    metrics = {"emotion_similarity_within": within, "emotion_similarity_between": between}
    if config.swfc_weight and (labels >= 0).any():
        metrics["loss_swfc"] = config_swfc_loss(torch.tensor(embeddings).float(), torch.tensor(labels), config).item()
    return {name: value for name, value in metrics.items() if not np.isnan(value)}


def whole_clips(
    kept: dict[str, np.ndarray],
    clip_index: np.ndarray,
    dataset: Clips,
    processor: SerMtlProcessor,
    config: SerMtlConfig,
) -> Predictions:
    """
    Joins the windows of each clip: probabilities, embeddings and losses are averaged, texts joined in order. A clip
    without windows, which a streamed set finds unusable, is left out.

    Args:
        kept (`dict[str, np.ndarray]`): what [`~training.trainer.SerMtlTrainer.prediction_step`] keeps, one row per
            window.
        clip_index (`np.ndarray` of shape `(num_windows,)`): the clip of each window, in ascending order of start; -1
            where a window is of none.
        dataset ([`Clips`]): the split.
        processor ([`SerMtlProcessor`]): decodes.
        config ([`SerMtlConfig`]): calibration of the emotion probabilities.
    """
    kept, clip_index = {name: values[clip_index >= 0] for name, values in kept.items()}, clip_index[clip_index >= 0]
    clips, clip_index, windows = np.unique(clip_index, return_inverse=True, return_counts=True)
    table, num_clips = dataset.table.iloc[clips], len(clips)
    if not num_clips:
        raise InputError(f"{dataset.table['manifest'].iloc[0]}: no clip can be used; check their audio")

    def average(values: np.ndarray) -> np.ndarray:
        total = np.zeros((num_clips, *values.shape[1:]))
        np.add.at(total, clip_index, values)
        return total / windows.reshape(-1, *[1] * (values.ndim - 1))

    transcripts = None
    if "asr" in kept:
        texts: list[list[str]] = [[] for _ in range(num_clips)]
        for clip, text in zip(clip_index, processor.decode_ctc(kept["asr"]), strict=True):
            texts[clip].append(text)
        transcripts = [" ".join(filter(None, parts)) for parts in texts]
    probabilities = None
    if "emotion" in kept:
        settings = config.emotion_temperature, config.emotion_class_counts, config.emotion_prior_correction
        probabilities = clip_probabilities(kept["emotion"], clip_index, *settings)
    return Predictions(
        emotion_probabilities=probabilities,
        emotion_labels=dataset.emotion_labels[clips],
        emotion_embeddings=average(kept["emotion_embeddings"]) if "emotion_embeddings" in kept else None,
        gender_probabilities=average(kept["gender"]) if "gender" in kept else None,
        gender_labels=dataset.gender_labels[clips],
        speaker_embeddings=average(kept["speaker"]) if "speaker" in kept else None,
        speakers=table["speaker"].tolist(),
        corpora=table["corpus"].tolist(),
        genders=table["gender"].tolist(),
        audio=table["audio"].tolist(),
        transcripts=transcripts,
        references=[dataset.transcripts[clip] for clip in clips],
        losses={name[5:]: average(values) for name, values in kept.items() if name.startswith("loss_")},
        emotion_logits=kept.get("emotion"),
        clip_index=clip_index,
    )
