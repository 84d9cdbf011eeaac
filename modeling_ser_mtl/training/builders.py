"""Arguments and training data -> processor and model."""

import json
import logging
import pickle
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoProcessor,
    PretrainedConfig,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ..configuration_ser_mtl import FUSIONS, TASKS, SerMtlConfig, SpectrogramEncoderConfig
from ..data.audio import SAMPLING_RATE
from ..data.dataset import LabelNames, SpeechDataset
from ..data.errors import InputError, one_line
from ..data.streaming import StreamedDataset
from ..data.text import build_vocabulary
from ..modeling_ser_mtl import SerMtlModel, backbone_class
from ..processing_ser_mtl import LogMelFeatureExtractor, SerMtlProcessor, trim_silence
from .arguments import ModelArguments
from .parser import parse_prior_correction, parse_task_weights

logger = logging.getLogger(__name__)

# Characters of a model whose training data has no transcripts.
DEFAULT_CHARACTERS = "abcdefghijklmnopqrstuvwxyz'"
# Log-mel channels of a 10 ms frame; an encoder's input stacks a whole number of frames.
FRAME_SIZE = 80
# Whisper's encoder positions of a second: every other log-mel frame of 10 ms.
WHISPER_RATE = 50
# Weights that only the loss reads; those of a checkpoint may lack or belong to other speakers.
LOSS_WEIGHTS = ("speaker_prototypes", "task_log_variances")
# The vector that SpecAugment writes over masked frames.
SPEC_AUGMENT_MASK = "masked_spec_embed"
# What a configuration says of its file rather than of the encoder.
BOOKKEEPING = ("_name_or_path", "architectures", "auto_map", "dtype", "transformers_version")
# Names of weights or settings that a message spells out.
NAMES_SHOWN = 8
# Training clips that give the mean and standard deviation of log-mel features.
STATISTICS_CLIPS = 200


def load_config(args: ModelArguments) -> SerMtlConfig:
    """
    The configuration before the data is known: from a JSON file, else of a checkpoint of this project or around a
    published speech encoder.

    `--config_name` says what the model is, `--model_name_or_path` where weights come from. With both, only the encoder
    is taken from there, of a checkpoint of this project as well; heads, labels and characters are new.

    Args:
        args ([`ModelArguments`]): where from, and the settings that override its own; those left None don't.

    Raises:
        InputError: neither `--model_name_or_path` nor `--config_name`, a source that can't be read, a setting that is
            not allowed, or two encoders whose weights differ in shape.
    """
    if args.model_name_or_path is None and args.config_name is None:
        raise InputError(
            "give --model_name_or_path (start from a checkpoint), --config_name (train from scratch), or both (start "
            "from a checkpoint's encoder)"
        )
    weights = parse_task_weights(args.task_weights)
    for name, value, allowed in (("tasks", args.tasks, TASKS), ("fusion", args.fusion and [args.fusion], FUSIONS)):
        unknown = [item for item in value or [] if item not in allowed]
        if unknown:
            raise InputError(f"--{name} {unknown[0]}: unknown; allowed: {', '.join(allowed)}")
    overrides: dict[str, Any] = {
        name: getattr(args, name)
        for name in (
            "task_balancing",
            "fusion",
            "emotion_class_weight",
            "emotion_focus",
            "label_smoothing",
            "gender_class_weight",
            "swfc_weight",
            "swfc_temperature",
            "swfc_focus",
            "swfc_class_weight",
            "swfc_normalize",
        )
        if getattr(args, name) is not None
    }
    prior_correction = parse_prior_correction(args.prior_correction)
    if prior_correction is not None:
        overrides["emotion_prior_correction"] = prior_correction
    source = _load_source(args)
    values: dict[str, Any] = source.to_dict() if isinstance(source, SerMtlConfig) else {"backbone_config": source}
    if source.architectures == [SerMtlModel.__name__] and not is_checkpoint(args, source):
        # The file of a trained model, whose calibration belongs to its weights.
        values |= {"emotion_temperature": 1.0, "emotion_prior_correction": 0.0}
    if args.tasks is not None:
        values["tasks"] = args.tasks
        if is_checkpoint(args, source) and set(args.tasks) != set(source.tasks):
            raise InputError(
                f"--tasks {' '.join(args.tasks)}: the checkpoint has {' '.join(source.tasks)}, and its fusion belongs "
                "to them; drop --tasks, or start from its encoder alone: add --config_name with the JSON of the new "
                "model, e.g. the checkpoint's config.json"
            )
    tasks = values.get("tasks", TASKS)
    values["task_weights"] = {
        task: weight for task, weight in {**values.get("task_weights", {}), **(weights or {})}.items() if task in tasks
    }
    try:
        config = SerMtlConfig(**(values | overrides))
        backbone_class(config)
    except (ValueError, TypeError) as error:
        raise InputError(one_line(error)) from error
    if args.config_name is not None and args.model_name_or_path is not None:
        _check_encoder(args, config)
    backbone = config.backbone_config
    is_whisper = backbone.model_type == "whisper"
    if args.layerdrop is not None:
        setattr(backbone, "encoder_layerdrop" if is_whisper else "layerdrop", args.layerdrop)
    if args.spec_augment and is_whisper:
        raise InputError("--spec_augment True: the Whisper encoder has no SpecAugment of its own; drop it")
    if args.spec_augment is not None:
        backbone.apply_spec_augment = args.spec_augment
    return config


def _load_source(args: ModelArguments) -> PretrainedConfig:
    if args.config_name is None:
        return _from_pretrained(AutoConfig, args)
    path = Path(args.config_name)
    if not path.is_file():
        raise InputError(f"--config_name {path}: no such file; give a JSON file of a backbone or a SerMtlConfig")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"--config_name {path}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"--config_name {path}: found a JSON {type(values).__name__}, must be an object of settings")
    model_type = values.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        raise InputError(
            f"--config_name {path}: model_type is {model_type!r}; give ser_mtl or a speech encoder's, e.g. wav2vec2"
        )
    try:
        return CONFIG_MAPPING[model_type](**values)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise InputError(f"--config_name {path}: {one_line(error)}") from error


def _check_encoder(args: ModelArguments, config: SerMtlConfig) -> None:
    """Refuses an encoder at `--model_name_or_path` that isn't the one of `config`; other settings are warned of."""
    source = _from_pretrained(AutoConfig, args)
    try:
        source = source if isinstance(source, SerMtlConfig) else SerMtlConfig(source)
        here, there = _encoder_shapes(config), _encoder_shapes(source)
    except ValueError as error:
        raise InputError(f"{_source(args)}: {one_line(error)}") from error
    differing = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    if differing:
        name = differing[0]
        raise InputError(
            f"--config_name {args.config_name}: the encoder is not that of {_source(args)}: {len(differing)} weights "
            f"differ in shape, the first is {name}, {here.get(name, 'none')} here and {there.get(name, 'none')} there; "
            "give its configuration"
        )
    values, others = config.backbone_config.to_dict(), source.backbone_config.to_dict()
    settings = sorted(name for name in values if name not in BOOKKEEPING and values[name] != others.get(name))
    if settings:
        told = ", ".join(f"{name} {values[name]} ({others.get(name)})" for name in settings[:NAMES_SHOWN])
        more = f" and {len(settings) - NAMES_SHOWN} more" if len(settings) > NAMES_SHOWN else ""
        logger.warning("--config_name %s: differs from %s in %s%s", args.config_name, _source(args), told, more)


def _encoder_shapes(config: SerMtlConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the encoder's weights by name, without the mask of SpecAugment, which is there only where it is on."""
    with torch.device("meta"):
        encoder = backbone_class(config)(config.backbone_config)
    return {name: tuple(weight.shape) for name, weight in encoder.state_dict().items() if name != SPEC_AUGMENT_MASK}


def _from_pretrained(auto_class: Any, args: ModelArguments, **kwargs: Any) -> Any:
    """`auto_class.from_pretrained` of `--model_name_or_path`, whose errors become one line."""
    try:
        return auto_class.from_pretrained(args.model_name_or_path, revision=args.revision, **kwargs)
    except pickle.UnpicklingError as error:
        reason = "its weights are no plain pickle of tensors (code in one is never run); give safetensors"
        raise InputError(f"--model_name_or_path {args.model_name_or_path}: {reason}") from error
    except (OSError, ValueError, RuntimeError, StrictDataclassError, SafetensorError) as error:
        reason = one_line(error)
        raise InputError(f"--model_name_or_path {args.model_name_or_path}: could not be loaded ({reason})") from error


def _source(args: ModelArguments) -> str:
    """The option that names the encoder, and what it names."""
    if args.model_name_or_path is not None:
        return f"--model_name_or_path {args.model_name_or_path}"
    return f"--config_name {args.config_name}"


def is_checkpoint(args: ModelArguments, config: PretrainedConfig) -> bool:
    """
    Whether `args` continue from a whole checkpoint of this project, whose labels and characters then stay; `config` is
    what was read there, or a [`SerMtlConfig`] made of it.
    """
    takes_all = args.model_name_or_path is not None and args.config_name is None
    return takes_all and config.architectures == [SerMtlModel.__name__]


def build_processor(
    args: ModelArguments, config: SerMtlConfig, train: SpeechDataset | StreamedDataset | None
) -> SerMtlProcessor:
    """
    The checkpoint's processor, or the backbone's feature extractor beside a tokenizer with the characters of the
    training transcripts.

    Args:
        args ([`ModelArguments`]): where the checkpoint or the encoder comes from.
        config ([`SerMtlConfig`]): of the model.
        train ([`SpeechDataset`] or [`StreamedDataset`], *optional*): the training clips. Without them log-mel features
            stay as they are; without transcripts the characters are a to z and the apostrophe.

    Raises:
        InputError: a processor that can't be read, a Whisper encoder of no whole number of seconds, `--trim_db` not
            above 0, or `--do_normalize` other than that of the encoder's own features.
    """
    if args.trim_db is not None and not 0 < args.trim_db < float("inf"):
        raise InputError(f"--trim_db {args.trim_db:g}: must be above 0; 30 cuts what is 30 dB below the loudest moment")
    if is_checkpoint(args, config):
        processor = _from_pretrained(AutoProcessor, args)
    else:
        transcripts = [text for text in train.transcripts if text] if train is not None else []
        waveforms = train.waveforms(STATISTICS_CLIPS) if train is not None else None
        if waveforms is not None and args.trim_db is not None:
            waveforms = (trim_silence(waveform, args.trim_db) for waveform in waveforms)
        processor = SerMtlProcessor(build_feature_extractor(args, config, waveforms), _build_tokenizer(transcripts))
    if args.trim_db is not None:
        processor.trim_db = args.trim_db
    normalizes = processor.feature_extractor.to_dict().get("do_normalize", False)
    if args.do_normalize not in (None, normalizes):
        raise InputError(
            f"--do_normalize {args.do_normalize}: the features that this encoder has learned from say {normalizes}; "
            "drop the option"
        )
    return processor


def check_max_seconds(processor: SerMtlProcessor, max_seconds: float) -> None:
    """
    Refuses clips of `max_seconds`, a number of seconds, where the encoder behind `processor` reads a fixed time.

    Raises:
        InputError: `max_seconds` above that time.
    """
    limit = processor.max_samples
    if limit is not None and max_seconds * SAMPLING_RATE > limit:
        raise InputError(
            f"--max_seconds {max_seconds:g}: this encoder reads {limit / SAMPLING_RATE:g} s at a time; give that or "
            "less, longer clips are then cropped in training and cut into windows in prediction"
        )


def build_feature_extractor(args: ModelArguments, config: SerMtlConfig, waveforms: Iterable[np.ndarray] | None) -> Any:
    """
    The feature extractor of the encoder at `--model_name_or_path`, with its statistics, or else a new one. New log-mel
    features are standardised by training clips; those of Whisper need no statistics.

    Args:
        args ([`ModelArguments`]): where the encoder comes from.
        config ([`SerMtlConfig`]): of the model.
        waveforms (`Iterable[np.ndarray]`, *optional*): some training clips, float32 at 16 kHz; read only where they are
            needed. Without them log-mel features stay as they are.

    Raises:
        InputError: a feature extractor that can't be read, or a Whisper encoder of no whole number of seconds.
    """
    backbone = config.backbone_config
    if args.model_name_or_path is not None:
        return _from_pretrained(AutoFeatureExtractor, args)
    if backbone.model_type == "whisper":
        seconds, rest = divmod(backbone.max_source_positions, WHISPER_RATE)
        if rest or not seconds:
            raise InputError(
                f"max_source_positions: found {backbone.max_source_positions}, must be a multiple of {WHISPER_RATE}, "
                "the encoder's positions of a second; 1500 in published checkpoints"
            )
        return WhisperFeatureExtractor(backbone.num_mel_bins, chunk_length=seconds, return_attention_mask=True)
    if backbone_class(config).main_input_name == "input_values":
        return Wav2Vec2FeatureExtractor(do_normalize=args.do_normalize is not False, return_attention_mask=True)
    if isinstance(backbone, SpectrogramEncoderConfig):
        stride = backbone.num_stacked_frames
    else:
        stride = backbone.feature_projection_input_dim // FRAME_SIZE
    feature_extractor = LogMelFeatureExtractor(FRAME_SIZE - 1, stride, do_normalize=bool(args.do_normalize))
    if waveforms is not None:
        feature_extractor.fit(waveforms)
    return feature_extractor


def _build_tokenizer(transcripts: Sequence[str]) -> Wav2Vec2CTCTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.json"
        vocabulary.write_text(json.dumps(build_vocabulary(transcripts or [DEFAULT_CHARACTERS])), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(
            str(vocabulary),
            bos_token=None,
            eos_token=None,
            unk_token="<unk>",
            pad_token="<pad>",
            word_delimiter_token="|",
        )


def build_model(
    args: ModelArguments,
    config: SerMtlConfig,
    processor: SerMtlProcessor,
    labels: LabelNames,
    class_counts: Mapping[str, Sequence[int]] | None,
) -> SerMtlModel:
    """
    The model for these labels: weights of the checkpoint, of an encoder, or new ones.

    Weights are in single precision, whatever they were saved in: mixed precision is up to the training.

    Args:
        args ([`ModelArguments`]): where the weights come from, and whether the feature encoder is frozen.
        config ([`SerMtlConfig`]): of the model; labels, counts and vocabulary are set in place.
        processor ([`SerMtlProcessor`]): its tokenizer gives the characters.
        labels ([`LabelNames`]): classes and training speakers.
        class_counts (`Mapping[str, Sequence[int]]`, *optional*): training clips per class, of `emotion` and `gender`;
            None without training.

    Raises:
        InputError: weights that can't be read or, without training, that a prediction needs and the source lacks; a
            backbone that doesn't fit; or a log-mel backbone with `--freeze_feature_encoder`.
    """
    continues = is_checkpoint(args, config)
    config.id2label = dict(enumerate(labels.emotion))
    config.label2id = {name: index for index, name in config.id2label.items()}
    config.gender_labels = list(labels.gender)
    config.vocab_size = len(processor.tokenizer)
    config.pad_token_id = processor.tokenizer.pad_token_id
    if not continues:
        config.emotion_class_counts, config.gender_class_counts = None, None
    if class_counts is not None:
        config.emotion_temperature = 1.0  # a checkpoint's belongs to its own weights
        config.num_speakers = len(labels.speaker) if "speaker" in config.tasks else 0
        config.emotion_class_counts = list(class_counts["emotion"])
        config.gender_class_counts = list(class_counts["gender"])
    config.backbone_config.dtype = torch.float32
    if continues:
        model, info = _from_pretrained(
            SerMtlModel,
            args,
            config=config,
            dtype=torch.float32,
            weights_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        missing = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}.difference(LOSS_WEIGHTS)
        _report_missing(args, sorted(missing), trains=class_counts is not None)
        if model.speaker_prototypes is not None:
            torch.nn.init.normal_(model.speaker_prototypes)  # the training speakers may be others than before
    else:
        try:
            model = SerMtlModel(config)
        except ValueError as error:
            raise InputError(f"{_source(args)}: {one_line(error)}") from error
        if class_counts is None:
            heads = {name.split(".")[0] for name, _ in model.named_parameters()} - {"backbone", *LOSS_WEIGHTS}
            _report_missing(args, sorted(heads), trains=False)
        if args.model_name_or_path is not None:
            # Copied, since a new module would come without what the model attached to its own.
            model.backbone.load_state_dict(_load_encoder(args, config).state_dict())
    if args.freeze_feature_encoder:
        if model.main_input_name != "input_values":
            raise InputError(
                "--freeze_feature_encoder: a log-mel backbone has no convolutional feature encoder; drop it"
            )
        model.freeze_feature_encoder()
    return model


def _load_encoder(args: ModelArguments, config: SerMtlConfig) -> torch.nn.Module:
    """The encoder at `--model_name_or_path`, published or part of a checkpoint of this project."""
    options = {"dtype": torch.float32, "weights_only": True, "output_loading_info": True}
    checkpoint = _from_pretrained(AutoConfig, args)
    if isinstance(checkpoint, SerMtlConfig):
        checkpoint.backbone_config = config.backbone_config
        model, info = _from_pretrained(SerMtlModel, args, config=checkpoint, **options)
        encoder, prefix = model.backbone, "backbone."
    else:
        model, info = _from_pretrained(AutoModel, args, config=config.backbone_config, **options)
        encoder, prefix = model.encoder if config.backbone_config.model_type == "whisper" else model, ""
    missing = [name.removeprefix(prefix) for name in info["missing_keys"] if name.startswith(prefix)]
    _report_missing(args, sorted(missing), trains=True)
    return encoder


def _report_missing(args: ModelArguments, missing: Sequence[str], *, trains: bool) -> None:
    """Warns of weights that start at random, or raises an [`InputError`] where nothing will train them."""
    if not missing:
        return
    names = ", ".join(missing[:NAMES_SHOWN])
    if len(missing) > NAMES_SHOWN:
        names += f" and {len(missing) - NAMES_SHOWN} more"
    if not trains:
        raise InputError(
            f"{_source(args)}: has no trained weights for {names}, so predictions would be random; add --do_train, or "
            "give a whole checkpoint of this project"
        )
    logger.warning("%s: has no trained weights for %s: they start at random", _source(args), names)
