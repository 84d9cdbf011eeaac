"""What a run can be told: arguments of the model, the data and the training."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from ..configuration_ser_mtl import FUSIONS, NORMALIZATIONS, TASK_BALANCINGS, TASKS
from ..data.augmentation import AUGMENTATIONS
from ..data.columns import COLUMNS
from ..hub.run_facts import check_card_options

# A published encoder wants small steps, new weights large ones.
FINE_TUNING_DEFAULTS = {"learning_rate": 3e-5, "head_learning_rate": 1e-3, "num_train_epochs": 20.0}
FROM_SCRATCH_DEFAULTS = {"learning_rate": 1e-3, "num_train_epochs": 60.0, "lr_scheduler_type": "cosine"}
LOWER_IS_BETTER = ("loss", "eer", "min_dcf", "wer", "cer")


@dataclass
class ModelArguments:
    """What the model is and what its loss weighs."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "A speech encoder to start from, or a checkpoint of this project to continue from; with "
            "config_name only its encoder is taken."
        },
    )
    config_name: str | None = field(
        default=None,
        metadata={
            "help": "JSON of a backbone or of a full SerMtlConfig: the model is trained from scratch, or from the "
            "encoder of model_name_or_path."
        },
    )
    revision: str = field(default="main", metadata={"help": "Revision of model_name_or_path on the Hub."})
    trim_db: float | None = field(
        default=None,
        metadata={
            "help": "Cut the silence at both ends of each clip, in training and wherever the model is used: what is "
            "this many dB below the clip's loudest moment. 30 suits clean recordings; default: as the checkpoint, else "
            "not."
        },
    )
    do_normalize: bool | None = field(
        default=None,
        metadata={
            "help": "Bring each clip to the same level, for corpora recorded at others than those the model will hear. "
            "Of a model from scratch; default: waveforms yes, log-mel features no, as their loudness carries emotion."
        },
    )
    tasks: list[str] | None = field(
        default=None, metadata={"help": f"Tasks, of {', '.join(TASKS)}; default: all, or those of the configuration."}
    )
    task_weights: list[str] | None = field(
        default=None,
        metadata={"help": "Weights in the loss, e.g. emotion=1 gender=.1 speaker=.1 asr=.1 (the default)."},
    )
    task_balancing: str | None = field(
        default=None,
        metadata={"help": "Task weights alone, or learned uncertainty too.", "choices": list(TASK_BALANCINGS)},
    )
    fusion: str | None = field(default=None, metadata={"help": "How the tasks are fused.", "choices": list(FUSIONS)})
    emotion_labels: list[str] | None = field(
        default=None,
        metadata={"help": "Emotion classes; clips with another label lose it. Default: those in the data."},
    )
    gender_labels: list[str] = field(default_factory=lambda: ["female", "male"], metadata={"help": "Gender classes."})
    emotion_class_weight: float | None = field(
        default=None, metadata={"help": "Exponent of the class weights of the emotion cross-entropy; 0 = unweighted."}
    )
    emotion_focus: float | None = field(
        default=None, metadata={"help": "Focusing exponent of the emotion cross-entropy; 0 = plain."}
    )
    gender_class_weight: float | None = field(
        default=None, metadata={"help": "Exponent of the class weights of the gender cross-entropy; 0 = unweighted."}
    )
    prior_correction: str | None = field(
        default=None,
        metadata={
            "help": "Exponent by which emotion probabilities are freed from the training frequencies, 0 (off) to 1 "
            "(full), for Macro-F1 and UAR on imbalanced data; auto: the best one on the validation set after training."
        },
    )
    label_smoothing: float | None = field(default=None, metadata={"help": "Label smoothing of the emotion task."})
    swfc_weight: float | None = field(default=None, metadata={"help": "Weight of SWFC beside the cross-entropy."})
    swfc_temperature: float | None = field(default=None, metadata={"help": "Temperature tau of SWFC."})
    swfc_focus: float | None = field(default=None, metadata={"help": "Focusing exponent gamma of SWFC."})
    swfc_class_weight: float | None = field(default=None, metadata={"help": "Class weight exponent alpha of SWFC."})
    swfc_normalize: str | None = field(
        default=None, metadata={"help": "Normalisation of SWFC's class weights.", "choices": list(NORMALIZATIONS)}
    )
    freeze_feature_encoder: bool = field(
        default=False, metadata={"help": "Freeze the convolutional feature encoder of a backbone that reads waveforms."}
    )
    spec_augment: bool | None = field(default=None, metadata={"help": "SpecAugment on the backbone's hidden states."})
    layerdrop: float | None = field(default=None, metadata={"help": "Chance that training skips an encoder layer."})


@dataclass
class DataArguments:
    """Where the clips are and how they are split."""

    train_file: list[str] | None = field(
        default=None,
        metadata={
            "help": "Manifests (CSV, TSV, JSONL, Parquet). A `split` column (train, validation, test) is respected."
        },
    )
    extra_train_file: list[str] | None = field(
        default=None,
        metadata={
            "help": "Manifests of further corpora, which train whole and in every fold beside train_file; nobody of "
            "them is validated or tested."
        },
    )
    validation_file: list[str] | None = field(default=None, metadata={"help": "Manifests that choose the checkpoint."})
    test_file: list[str] | None = field(default=None, metadata={"help": "Manifests to predict."})
    dataset_name: str | None = field(
        default=None, metadata={"help": "A dataset of the Hub, or a folder, with the manifest's columns."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of dataset_name."})
    dataset_splits: list[str] | None = field(
        default=None,
        metadata={
            "help": "Splits of dataset_name under other names, e.g. train=train validation=dev test=session5; a split "
            "may be any that datasets takes, such as train+validation."
        },
    )
    column_mapping: list[str] | None = field(
        default=None,
        metadata={
            "help": "Columns of the manifests or the dataset under other names, e.g. audio=file emotion=label; ours "
            f"are {', '.join(COLUMNS)}."
        },
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "Never download dataset_name as a whole: read its labels, then the audio in order."},
    )
    shuffle_buffer_size: int = field(
        default=1_000,
        metadata={"help": "With streaming: encoded clips in memory to draw from, per worker; 1 keeps the order."},
    )
    synthetic_corpus: bool = field(
        default=False,
        metadata={"help": "Train on the small synthetic corpus, spoken by eSpeak NG (needs the extra `quickstart`)."},
    )
    validation_speakers: float = field(
        default=0.15,
        metadata={"help": "Share of the training speakers held out where no validation set is given; 0 for nobody."},
    )
    num_folds: int | None = field(default=None, metadata={"help": "Cross-validation by speaker: number of folds."})
    fold: int = field(default=0, metadata={"help": "The fold that is the test set, from 0."})
    stratify_folds: bool = field(
        default=False, metadata={"help": "With num_folds: folds of speakers with about the same share of each emotion."}
    )
    fold_column: str | None = field(
        default=None,
        metadata={"help": "Folds that leave out one value of a column, e.g. session, speaker or corpus."},
    )
    allow_shared_speakers: bool = field(
        default=False,
        metadata={"help": "Only warn where sets share speakers, as some published splits do, in place of stopping."},
    )
    emotion_map: list[str] | None = field(
        default=None,
        metadata={
            "help": "Renames emotions: old=new (angry,ang=anger; calm= takes the label away), a YAML or JSON file, or "
            "standard for common synonyms. What is outside loses its label."
        },
    )
    drop_unmapped: bool = field(
        default=False, metadata={"help": "Drop clips whose emotion is outside emotion_map, in place of keeping them."}
    )
    trials_file: str | None = field(
        default=None,
        metadata={"help": "Verification trials of the test set: lines `1 file_a file_b` or `0 file_a file_b`."},
    )
    submission_file: str | None = field(
        default=None,
        metadata={"help": "With --do_predict: the challenge's CSV FileName,EmoClass of the test set to write."},
    )
    max_seconds: float = field(
        default=20.0, metadata={"help": "Longer clips are cropped in training and windowed in prediction."}
    )
    max_skipped: float = field(default=0.01, metadata={"help": "Share of unusable clips above which the run stops."})
    augment: list[str] | None = field(
        default=None, metadata={"help": f"Augmentation of training clips, of {', '.join(AUGMENTATIONS)}."}
    )
    augment_probability: float = field(default=0.5, metadata={"help": "Chance of each augmentation per clip."})
    preprocessing_num_workers: int = field(default=2, metadata={"help": "Threads that check the audio."})
    license: str | None = field(
        default=None,
        metadata={
            "help": "Licence of the model, an id of the Hub, e.g. cc-by-nc-4.0, for its card. No default: that of the "
            "training data decides."
        },
    )
    language: list[str] | None = field(
        default=None, metadata={"help": "Languages of the data for the card, as ISO 639 codes, e.g. de en."}
    )
    dataset_names: list[str] | None = field(
        default=None,
        metadata={"help": "Data sets of the Hub that the manifests were made of, for the card, e.g. org/name."},
    )
    widget_samples: list[str] | None = field(
        default=None,
        metadata={"help": "WAV or FLAC files that may be published with the model, as samples on its page."},
    )

    def __post_init__(self) -> None:
        check_card_options(self.license, self.language, self.dataset_names)


@dataclass
class SerMtlTrainingArguments(TrainingArguments):
    """
    `TrainingArguments` with the defaults of this project.

    Args:
        head_learning_rate (`float`, *optional*): learning rate of everything but the backbone; `learning_rate` then
            belongs to the backbone. None: one learning rate for all.
        early_stopping_patience (`int`, *optional*): evaluations without a better metric after which training stops.
        ema_decay (`float`): evaluate and save an exponential moving average of the weights, over about
            `1 / (1 - ema_decay)` steps; in [0, 1), 0 keeps none. See [`~training.weight_average.WeightAverage`].
        class_aware_batches (`bool`): batches that hold two or more clips of every emotion in them, for SWFC; see
            [`~data.samplers.ClassAwareSampler`].
        swfc_memory_size (`int`): past embeddings that SWFC compares with beside the batch; 0 keeps none.
        speaker_margin_warmup_steps (`float`): steps over which the angular margin grows from 0; below 1 a share of all.
        task_gradient_steps (`int`): every so many steps the log gets the norm of each task's gradient on the encoder
            and its cosine with emotion's, at the cost of one more backward pass a task; 0 never.
        calibrate (`bool`): after training, fits the temperature of the emotion probabilities on the validation set.
        min_confidence (`float`): probability in [0, 1] below which an emotion counts as not recognised: it is marked in
            `predictions.csv`, and the metrics say how many clips are answered and how well.
        drop_speaker_prototypes (`bool`): publish without the class vectors of the training speakers.
    """

    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of everything but the backbone; default: learning_rate."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after that many evaluations without a better metric."}
    )
    ema_decay: float = field(
        default=0.0,
        metadata={"help": "Evaluate and save a moving average of the weights, e.g. .998; 0 keeps none."},
    )
    class_aware_batches: bool = field(
        default=False, metadata={"help": "Give every emotion in a batch at least two clips, for SWFC."}
    )
    swfc_memory_size: int = field(
        default=0, metadata={"help": "Past embeddings that SWFC compares with beside the batch; 0 keeps none."}
    )
    speaker_margin_warmup_steps: float = field(
        default=0.1, metadata={"help": "Steps over which the speaker margin grows from 0; below 1 a share of all."}
    )
    task_gradient_steps: int = field(
        default=0, metadata={"help": "Log each task's gradient on the encoder every so many steps; 0 never."}
    )
    calibrate: bool = field(
        default=True,
        metadata={"help": "After training, fit the temperature of the emotion probabilities on the validation set."},
    )
    min_confidence: float = field(
        default=0.0, metadata={"help": "Probability below which an emotion is marked as not recognised; 0 to 1."}
    )
    drop_speaker_prototypes: bool = field(
        default=True,
        metadata={"help": "Publish without the class vectors of the training speakers, which are biometric data."},
    )
    hub_strategy: str = field(default="end", metadata={"help": "When to push: only the end is known here."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best checkpoint."})
    metric_for_best_model: str | None = field(
        default=None,
        metadata={"help": "Metric that chooses the checkpoint; default: emotion_macro_f1, else the first task's."},
    )
    warmup_steps: float = field(default=0.1, metadata={"help": "Warm-up steps; below 1 a share of all steps."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Largest gradient norm."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Clips per device and step."})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Clips per device in evaluation."})
    logging_steps: float = field(default=20, metadata={"help": "Steps between logs; below 1 a share of all steps."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Leave False: the collator reads every field."}
    )

    def __post_init__(self) -> None:
        for name in ("swfc_memory_size", "speaker_margin_warmup_steps", "task_gradient_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} {getattr(self, name)}: give 0 or more")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"--ema_decay {self.ema_decay}: give 0, or a number below 1 such as .998")
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"--min_confidence {self.min_confidence}: give a probability, 0 to 1")
        if self.hub_strategy != "end":
            raise ValueError(f"--hub_strategy {self.hub_strategy}: only end, a whole model in one commit, is possible")
        if not self.do_train:  # no evaluation during training either, which would set do_eval and ask for its data
            self.eval_strategy, self.save_strategy, self.load_best_model_at_end = "no", "no", False
        metric = self.metric_for_best_model
        if metric is not None and self.greater_is_better is None:
            self.greater_is_better = not any(word in metric for word in LOWER_IS_BETTER)
        super().__post_init__()
        if metric is None:  # Trainer's default would be the loss; the tasks choose later
            self.metric_for_best_model = self.greater_is_better = None
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.cuda.is_available()
