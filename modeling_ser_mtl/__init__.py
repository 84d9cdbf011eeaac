"""Emotion, gender, speaker and transcript from one speech encoder."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoProcessor

from .configuration_ser_mtl import EMOTIONS, FUSIONS, TASKS, SerMtlConfig
from .losses_ser_mtl import swfc_loss
from .modeling_ser_mtl import SerMtlModel, SerMtlOutput
from .processing_ser_mtl import LogMelFeatureExtractor, SerMtlProcessor

__version__ = "0.1.0"
__all__ = [
    "EMOTIONS",
    "FUSIONS",
    "TASKS",
    "SerMtlConfig",
    "SerMtlModel",
    "SerMtlOutput",
    "SerMtlProcessor",
    "swfc_loss",
]

AutoConfig.register(SerMtlConfig.model_type, SerMtlConfig, exist_ok=True)
AutoFeatureExtractor.register(SerMtlConfig, LogMelFeatureExtractor, exist_ok=True)
AutoProcessor.register(SerMtlConfig, SerMtlProcessor, exist_ok=True)
