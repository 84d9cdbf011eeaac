"""Emotion, gender, speaker and transcript from one speech encoder."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_ser_mtl import EMOTIONS, FUSIONS, TASKS, SerMtlConfig, SpectrogramEncoderConfig
from .losses_ser_mtl import swfc_loss
from .modeling_ser_mtl import SerMtlModel, SerMtlOutput
from .pipeline_ser_mtl import SPEECH_EMOTION_TASK, SerMtlAudioClassificationPipeline, SpeechEmotionPipeline
from .processing_ser_mtl import LogMelFeatureExtractor, SerMtlProcessor

__version__ = "0.1.0"
__all__ = [
    "EMOTIONS",
    "FUSIONS",
    "TASKS",
    "SerMtlAudioClassificationPipeline",
    "SerMtlConfig",
    "SerMtlModel",
    "SerMtlOutput",
    "SerMtlProcessor",
    "SpectrogramEncoderConfig",
    "SpeechEmotionPipeline",
    "swfc_loss",
]

AutoConfig.register(SerMtlConfig.model_type, SerMtlConfig, exist_ok=True)
AutoConfig.register(SpectrogramEncoderConfig.model_type, SpectrogramEncoderConfig, exist_ok=True)
AutoFeatureExtractor.register(SerMtlConfig, LogMelFeatureExtractor, exist_ok=True)
AutoProcessor.register(SerMtlConfig, SerMtlProcessor, exist_ok=True)
# Not the emotions' task: the class would stand for every model's.
PIPELINE_REGISTRY.register_pipeline(SPEECH_EMOTION_TASK, SpeechEmotionPipeline, pt_model=AutoModel)
