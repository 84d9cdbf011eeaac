"""What the validation set says about the emotion probabilities of a trained model, written into its configuration."""

import logging
from typing import cast

import numpy as np

from ..data.dataset import SpeechDataset
from ..data.streaming import StreamedDataset
from ..evaluation.calibration import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    choose_prior_correction,
    clip_probabilities,
    expected_calibration_error,
    fit_temperature,
)
from ..evaluation.metrics import Predictions
from .trainer import SerMtlTrainer

logger = logging.getLogger(__name__)


def calibrate(trainer: SerMtlTrainer, dataset: SpeechDataset | StreamedDataset, chooses_prior_correction: bool) -> None:
    """
    Sets `emotion_temperature` of the trained model and, where it is to be chosen, `emotion_prior_correction`. A set
    without emotion labels, or whose best temperature lies at an end of the range, leaves it at 1 with a warning.

    Args:
        trainer ([`SerMtlTrainer`]): holds the model, of the task emotion.
        dataset ([`SpeechDataset`] or [`StreamedDataset`]): clips of speakers that don't train, never of the test set.
        chooses_prior_correction (`bool`): whether Macro-F1 chooses the prior correction too.
    """
    config = trainer.model.config
    predictions = cast(Predictions, trainer.predict(dataset, metric_key_prefix="calibration").predictions)
    labels = predictions.emotion_labels
    if (labels < 0).all():
        logger.warning("no validation clip has an emotion: the probabilities stay uncalibrated")
        return
    logits, clip_index = cast(tuple[np.ndarray, np.ndarray], (predictions.emotion_logits, predictions.clip_index))
    temperature = fit_temperature(logits, clip_index, labels)
    if temperature in (LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE):
        # At the one end all clips are recognised and every answer would become certain, at the other none are.
        logger.warning(
            "the best temperature of the validation clips lies outside %g to %g, so they determine none: it stays 1",
            LOWEST_TEMPERATURE,
            HIGHEST_TEMPERATURE,
        )
        temperature = 1.0
    config.emotion_temperature = temperature
    if chooses_prior_correction:
        counts = config.emotion_class_counts or [1] * len(config.emotion_labels)
        config.emotion_prior_correction = choose_prior_correction(logits, clip_index, labels, temperature, counts)
    if trainer.is_world_process_zero():
        known = labels >= 0
        before, after = (
            expected_calibration_error(clip_probabilities(logits, clip_index, value)[known], labels[known])
            for value in (1.0, temperature)
        )
        print(
            f"\nemotion probabilities, fitted on {known.sum()} validation clips: temperature {temperature:.3f} "
            f"(calibration error {before:.3f}, now {after:.3f}), prior correction {config.emotion_prior_correction:g}"
        )
