"""Configuration of the four-task speech model."""

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PretrainedConfig, Wav2Vec2BertConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

TASKS = ("emotion", "gender", "speaker", "asr")
NORMALIZATIONS = ("mean", "sum", "min", "none")
TASK_BALANCINGS = ("fixed", "uncertainty")
FUSIONS = ("co_attention", "concat", "none")
# The eight classes of the Speech Emotion Recognition in Naturalistic Conditions challenge.
EMOTIONS = ("anger", "sadness", "happiness", "surprise", "fear", "disgust", "contempt", "neutral")


class SpectrogramEncoderConfig(Wav2Vec2BertConfig):
    r"""
    Configuration of a [`~spectrogram_ser_mtl.SpectrogramEncoder`], an encoder for training from scratch.

    Args:
        stem_channels (`Sequence[int]`, *optional*, defaults to `(16, 24, 48, 96)`):
            Maps that the first convolution and each block of two make. The first one halves the frequencies, each
            block halves them again.
        stem_time_strides (`Sequence[int]`, *optional*, defaults to `(2, 2, 1)`):
            By what each block divides the number of frames, 1 or 2: one for each block.
        num_stacked_frames (`int`, *optional*, defaults to 2):
            Log-mel frames of 10 ms that arrive as one: the first convolution reads them apart and gives one frame.
        **kwargs:
            As in `Wav2Vec2BertConfig`; `feature_projection_input_dim` is that of the last block.
    """

    model_type = "ser_mtl_spectrogram"

    def __init__(
        self,
        stem_channels: Sequence[int] = (16, 24, 48, 96),
        stem_time_strides: Sequence[int] = (2, 2, 1),
        num_stacked_frames: int = 2,
        **kwargs: Any,
    ) -> None:
        if len(stem_time_strides) != len(stem_channels) - 1 or not set(stem_time_strides) <= {1, 2}:
            raise ValueError(
                f"stem_time_strides: found {list(stem_time_strides)}, must be a 1 or a 2 for each of stem_channels but "
                "the first"
            )
        self.stem_channels = list(stem_channels)
        self.stem_time_strides = list(stem_time_strides)
        self.num_stacked_frames = num_stacked_frames
        kwargs["feature_projection_input_dim"] = self.stem_channels[-1]
        super().__init__(**kwargs)


class SerMtlConfig(PretrainedConfig):
    r"""
    Configuration of a [`SerMtlModel`]: a speech encoder, a softmax over its hidden states per task, the fusion of the
    tasks' streams and one head per task. What a configuration leaves out has no parameters and costs nothing.

    Args:
        backbone_config (`dict` or `PretrainedConfig`, *optional*, defaults to a `Wav2Vec2Config`):
            Configuration of the speech encoder. A dict names its `model_type`.
        tasks (`Sequence[str]`, *optional*, defaults to `("emotion", "gender", "speaker", "asr")`):
            The heads that exist. Any non-empty subset.
        task_weights (`dict[str, float]`, *optional*):
            Weight of each task in the loss; a task that is not named weighs 1 (emotion) or .1 (the others).
        task_balancing (`str`, *optional*, defaults to `"fixed"`):
            `"fixed"`: the loss is the sum of weight times loss. `"uncertainty"`: a learned log variance per task scales
            its loss inside its weight (Kendall et al., CVPR 2018).
        fusion (`str`, *optional*, defaults to `"co_attention"`):
            How the auxiliary streams reach the emotion stream: `"co_attention"`, `"concat"` or `"none"`.
        fusion_hidden_size (`int`, *optional*, defaults to 256):
            Width of every task's stream.
        fusion_num_attention_heads (`int`, *optional*, defaults to 4):
            Attention heads of the co-attention; divides `fusion_hidden_size`.
        fusion_num_layers (`int`, *optional*, defaults to 1):
            Stacked co-attention layers.
        fusion_dropout (`float`, *optional*, defaults to 0.1):
            Dropout in streams, co-attention and the emotion classifier.
        attention_pooling_size (`int`, *optional*, defaults to 128):
            Hidden width of the attentive statistics pooling.
        emotion_embedding_size (`int`, *optional*, defaults to 256):
            Width of the emotion embedding on which SWFC acts (256 in MultiEMO).
        speaker_embedding_size (`int`, *optional*, defaults to 192):
            Width of the speaker embedding (192 in ECAPA-TDNN).
        id2label, label2id (`dict`, *optional*):
            Emotion classes; by default the eight of the challenge.
        gender_labels (`Sequence[str]`, *optional*, defaults to `("female", "male")`):
            Gender classes.
        num_speakers (`int`, *optional*, defaults to 0):
            Training speakers with a prototype; 0 has no prototypes, embeddings still work.
        vocab_size (`int`, *optional*, defaults to 32):
            Characters of the CTC head, blank included.
        pad_token_id (`int`, *optional*, defaults to 0):
            The CTC blank.
        ctc_subframes (`int`, *optional*, defaults to 1):
            Characters that the CTC head writes per frame, for encoders whose frames are longer than a character.
        emotion_class_counts (`Sequence[int]`, *optional*):
            Training clips per emotion: the source of SWFC's sample weights and of the weighted cross-entropy; by
            default equal for all.
        emotion_class_weight (`float`, *optional*, defaults to 0.0):
            Exponent of the class weights `(N / n_c) ** exponent` (mean 1 over the training clips) in the emotion
            cross-entropy; 0 leaves it unweighted.
        emotion_focus (`float`, *optional*, defaults to 0.0):
            Focusing exponent of the emotion cross-entropy, `(1 - p) ** focus` times the loss (Lin et al., ICCV 2017);
            0 is plain cross-entropy.
        label_smoothing (`float`, *optional*, defaults to 0.0):
            Label smoothing of the emotion cross-entropy, in [0, 1).
        emotion_temperature (`float`, *optional*, defaults to 1.0):
            Temperature of the emotion probabilities, above 0, fitted after training; see
            [`~modeling_ser_mtl.calibrated_probabilities`]. The logits stay as they are.
        emotion_prior_correction (`float`, *optional*, defaults to 0.0):
            Exponent by which the emotion probabilities are freed from the class counts of the training clips; 0 leaves
            them as they are, 1 takes all emotions to be equally frequent.
        gender_class_counts (`Sequence[int]`, *optional*):
            Training clips per gender; by default equal for all.
        gender_class_weight (`float`, *optional*, defaults to 1.0):
            Exponent of the class weights of the gender cross-entropy; 1 weighs every gender alike in all, as the UAR
            does, 0 leaves it unweighted.
        swfc_weight (`float`, *optional*, defaults to 0.3):
            Weight of SWFC beside the emotion cross-entropy; 0 switches it off.
        swfc_temperature (`float`, *optional*, defaults to 0.1):
            Temperature tau of SWFC, above 0.
        swfc_focus (`float`, *optional*, defaults to 2.0):
            Focusing exponent gamma of SWFC.
        swfc_class_weight (`float`, *optional*, defaults to 0.5):
            Exponent alpha of SWFC's sample weights `(N / n_c) ** alpha`.
        swfc_normalize (`str`, *optional*, defaults to `"mean"`):
            Normalisation of the sample weights: `"mean"`, `"sum"`, `"min"` or `"none"`.
        speaker_scale (`float`, *optional*, defaults to 30.0):
            Scale s of the additive angular margin softmax.
        speaker_margin (`float`, *optional*, defaults to 0.2):
            Margin m of the additive angular margin softmax, in radians.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of new linear weights.

    Example:

    ```python
    >>> from modeling_ser_mtl import SerMtlConfig, SerMtlModel

    >>> config = SerMtlConfig(backbone_config={"model_type": "wavlm"}, tasks=("emotion", "gender"))
    >>> model = SerMtlModel(config)
    ```
    """

    model_type = "ser_mtl"
    sub_configs = {"backbone_config": AutoConfig}
    id2label: dict[int, str]
    keys_to_ignore_at_inference = [
        "task_log_variances",
        "task_losses",
        "co_attentions",
        "task_gates",
        "hidden_states",
        "attentions",
    ]

    def __init__(
        self,
        backbone_config: dict[str, Any] | PretrainedConfig | None = None,
        tasks: Sequence[str] = TASKS,
        task_weights: dict[str, float] | None = None,
        task_balancing: str = "fixed",
        fusion: str = "co_attention",
        fusion_hidden_size: int = 256,
        fusion_num_attention_heads: int = 4,
        fusion_num_layers: int = 1,
        fusion_dropout: float = 0.1,
        attention_pooling_size: int = 128,
        emotion_embedding_size: int = 256,
        speaker_embedding_size: int = 192,
        gender_labels: Sequence[str] = ("female", "male"),
        num_speakers: int = 0,
        vocab_size: int = 32,
        pad_token_id: int = 0,
        ctc_subframes: int = 1,
        emotion_class_counts: Sequence[int] | None = None,
        emotion_class_weight: float = 0.0,
        emotion_focus: float = 0.0,
        label_smoothing: float = 0.0,
        emotion_temperature: float = 1.0,
        emotion_prior_correction: float = 0.0,
        gender_class_counts: Sequence[int] | None = None,
        gender_class_weight: float = 1.0,
        swfc_weight: float = 0.3,
        swfc_temperature: float = 0.1,
        swfc_focus: float = 2.0,
        swfc_class_weight: float = 0.5,
        swfc_normalize: str = "mean",
        speaker_scale: float = 30.0,
        speaker_margin: float = 0.2,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        backbone = dict(backbone_config) if isinstance(backbone_config, dict) else backbone_config
        if backbone is None:
            backbone = {"model_type": "wav2vec2"}
        if isinstance(backbone, dict):
            model_type = backbone.pop("model_type", "wav2vec2")
            if model_type == SpectrogramEncoderConfig.model_type:
                config_class: type[PretrainedConfig] = SpectrogramEncoderConfig
            elif model_type in CONFIG_MAPPING:
                config_class = CONFIG_MAPPING[model_type]
            else:
                raise ValueError(
                    f"backbone_config.model_type: found {model_type!r}, which this transformers does not know; give a "
                    "speech encoder's, e.g. wav2vec2, hubert or wavlm"
                )
            backbone = config_class(**backbone)
        if not isinstance(backbone, PretrainedConfig):
            raise ValueError(f"backbone_config: found {backbone!r}, must be a configuration or a dict of its settings")
        if backbone.to_dict().get("add_adapter"):
            raise ValueError(
                "backbone_config.add_adapter: found True; an adapter's frames don't match the hidden states"
            )
        self.backbone_config = backbone
        # A list and a fixed order, so that a configuration read back from JSON equals the one written.
        unknown = [task for task in tasks if task not in TASKS]
        if unknown or not tasks:
            raise ValueError(f"tasks: found {list(tasks)}, allowed is a non-empty subset of {list(TASKS)}")
        self.tasks = [task for task in TASKS if task in tasks]
        weights = task_weights or {}
        unknown = [task for task in weights if task not in TASKS]
        if unknown:
            raise ValueError(f"task_weights: found {unknown}, allowed are {list(TASKS)}")
        self.task_weights = {task: float(weights.get(task, 1.0 if task == "emotion" else 0.1)) for task in self.tasks}
        if task_balancing not in TASK_BALANCINGS:
            raise ValueError(f"task_balancing: found {task_balancing!r}, allowed are {list(TASK_BALANCINGS)}")
        self.task_balancing = task_balancing
        if fusion not in FUSIONS:
            raise ValueError(f"fusion: found {fusion!r}, allowed are {list(FUSIONS)}")
        self.fusion = fusion
        self.fusion_hidden_size = fusion_hidden_size
        self.fusion_num_attention_heads = fusion_num_attention_heads
        self.fusion_num_layers = fusion_num_layers
        self.fusion_dropout = fusion_dropout
        self.attention_pooling_size = attention_pooling_size
        self.emotion_embedding_size = emotion_embedding_size
        self.speaker_embedding_size = speaker_embedding_size
        self.gender_labels = list(gender_labels)
        self.num_speakers = num_speakers
        self.vocab_size = vocab_size
        self.ctc_subframes = ctc_subframes
        self.emotion_class_counts = None if emotion_class_counts is None else [int(n) for n in emotion_class_counts]
        self.emotion_class_weight = emotion_class_weight
        self.emotion_focus = emotion_focus
        self.label_smoothing = label_smoothing
        self.emotion_temperature = emotion_temperature
        self.emotion_prior_correction = emotion_prior_correction
        self.gender_class_counts = None if gender_class_counts is None else [int(n) for n in gender_class_counts]
        self.gender_class_weight = gender_class_weight
        self.swfc_weight = swfc_weight
        self.swfc_temperature = swfc_temperature
        self.swfc_focus = swfc_focus
        self.swfc_class_weight = swfc_class_weight
        self.swfc_normalize = swfc_normalize
        self.speaker_scale = speaker_scale
        self.speaker_margin = speaker_margin
        self.initializer_range = initializer_range
        _check_ranges(self)
        if "id2label" not in kwargs and "num_labels" not in kwargs:
            kwargs["id2label"] = dict(enumerate(EMOTIONS))
        if kwargs.get("id2label") and not kwargs.get("label2id"):
            kwargs["label2id"] = {name: int(index) for index, name in kwargs["id2label"].items()}
        if kwargs.get("attn_implementation") is None:
            # transformers hands it on to the backbone, whose own choice None would undo.
            kwargs["attn_implementation"] = backbone._attn_implementation
        super().__init__(pad_token_id=pad_token_id, **kwargs)  # type: ignore[call-arg]
        self.check_class_counts()

    def check_class_counts(self) -> None:
        """Raises a ValueError where counts don't belong to the classes, as after a change of `id2label`."""
        for name, counts, classes in (
            ("emotion_class_counts", self.emotion_class_counts, self.id2label),
            ("gender_class_counts", self.gender_class_counts, self.gender_labels),
        ):
            if counts is not None and len(counts) != len(classes):
                raise ValueError(f"{name}: found {len(counts)} counts for {len(classes)} classes; give others or None")

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, without the place that the encoder was loaded from: it may be a private path."""
        values = super().to_dict()
        values["backbone_config"]["_name_or_path"] = ""
        return values

    @property
    def emotion_labels(self) -> list[str]:
        """Emotion names in the order of the logits."""
        names: dict[int, str] = self.id2label
        return [names[index] for index in range(len(names))]

    @property
    def auxiliary_tasks(self) -> list[str]:
        """Tasks whose streams are fused into the emotion stream."""
        fused = self.fusion != "none" and "emotion" in self.tasks
        return [task for task in self.tasks if task != "emotion"] if fused else []

    @property
    def hidden_size(self) -> int:
        """Width of the backbone's hidden states."""
        return self.backbone_config.hidden_size

    @hidden_size.setter
    def hidden_size(self, value: int) -> None:
        self.backbone_config.hidden_size = value

    @property
    def num_hidden_layers(self) -> int:
        """Transformer layers of the backbone."""
        return self.backbone_config.num_hidden_layers

    @num_hidden_layers.setter
    def num_hidden_layers(self, value: int) -> None:
        self.backbone_config.num_hidden_layers = value

    @property
    def num_attention_heads(self) -> int:
        """Attention heads of the backbone."""
        return self.backbone_config.num_attention_heads

    @num_attention_heads.setter
    def num_attention_heads(self, value: int) -> None:
        self.backbone_config.num_attention_heads = value


def _check_ranges(config: SerMtlConfig) -> None:
    """Raises a ValueError for the first setting outside its range."""
    positive = {
        "emotion_temperature": config.emotion_temperature,
        "swfc_temperature": config.swfc_temperature,
        "speaker_scale": config.speaker_scale,
    }
    non_negative = {
        **{f"task_weights.{task}": weight for task, weight in config.task_weights.items()},
        "swfc_weight": config.swfc_weight,
        "swfc_focus": config.swfc_focus,
        "emotion_focus": config.emotion_focus,
        "emotion_class_weight": config.emotion_class_weight,
        "emotion_prior_correction": config.emotion_prior_correction,
        "gender_class_weight": config.gender_class_weight,
        "speaker_margin": config.speaker_margin,
        "num_speakers": config.num_speakers,
    }
    for name, value in positive.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}: found {value}, must be above 0")
    for name, value in non_negative.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name}: found {value}, must be 0 or more")
    if config.ctc_subframes < 1:
        raise ValueError(f"ctc_subframes: found {config.ctc_subframes}, must be 1 or more")
    if not 0 <= config.label_smoothing < 1:
        raise ValueError(f"label_smoothing: found {config.label_smoothing}, must lie in [0, 1)")
    if config.swfc_normalize not in NORMALIZATIONS:
        raise ValueError(f"swfc_normalize: found {config.swfc_normalize!r}, allowed are {list(NORMALIZATIONS)}")
    if config.fusion_hidden_size % config.fusion_num_attention_heads:
        raise ValueError(
            f"fusion_hidden_size {config.fusion_hidden_size} is no multiple of the "
            f"{config.fusion_num_attention_heads} fusion_num_attention_heads"
        )


SerMtlConfig.register_for_auto_class()
