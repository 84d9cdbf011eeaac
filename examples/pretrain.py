"""
Pre-trains a speech encoder on unlabelled speech, and writes a folder for `--model_name_or_path`:

    python examples/pretrain.py --config_name examples/backbones/small-logmel.json \
        --train_file RAVDESS/manifest.csv --num_folds 6 --fold 5 --extra_file nEMO/manifest.csv \
        --output_dir outputs/pretrained --num_train_epochs 50
    python run_ser_mtl.py examples/recipes/ravdess.yaml --config_name examples/backbones/small-logmel.json \
        --train_file RAVDESS/manifest.csv --fold 5 \
        --model_name_or_path outputs/pretrained --output_dir outputs/ravdess-5

An encoder of log-mel features learns by BEST-RQ, wav2vec 2.0 by its own contrastive objective. With the folds of the
run that follows, no audio of its test speakers is heard: not in the weights, not in the statistics of the features.
"""

import json
import logging
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    HfArgumentParser,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from modeling_ser_mtl import SerMtlConfig
from modeling_ser_mtl.data.audio import SAMPLING_RATE, load_evenly
from modeling_ser_mtl.data.errors import InputError, one_line
from modeling_ser_mtl.data.leaks import check_leaks
from modeling_ser_mtl.data.loading import Split, drop_unusable, load_manifest_splits, split_by_speaker
from modeling_ser_mtl.data.manifest import LABEL_COLUMNS, add_speakers, read_manifests
from modeling_ser_mtl.data.scan_cache import ScanCache, default_folder
from modeling_ser_mtl.processing_ser_mtl import trim_silence
from modeling_ser_mtl.training.arguments import ModelArguments
from modeling_ser_mtl.training.best_rq import BestRqModel
from modeling_ser_mtl.training.builders import STATISTICS_CLIPS, build_feature_extractor, load_config
from modeling_ser_mtl.training.checkpoints import starting_checkpoint
from modeling_ser_mtl.training.pretraining import (
    ContrastiveModel,
    PretrainingArguments,
    PretrainingCollator,
    PretrainingTrainer,
    load_inputs,
    masked_accuracy,
)

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = (".flac", ".mp3", ".ogg", ".opus", ".wav")
# Encoders of waveforms whose pre-training model in transformers has the objective of wav2vec 2.0.
CONTRASTIVE = ("wav2vec2", "wav2vec2-conformer")


@dataclass
class ScriptArguments:
    """What is pre-trained, and on which clips."""

    config_name: str = field(metadata={"help": "JSON of a backbone or of a full SerMtlConfig."})
    train_file: list[str] = field(
        default_factory=list,
        metadata={"help": "Manifests of the run that follows; no label is read. Its test speakers are left out."},
    )
    extra_file: list[str] = field(default_factory=list, metadata={"help": "Further manifests, taken whole."})
    audio_folders: list[str] = field(
        default_factory=list, metadata={"help": f"Folders of audio ({', '.join(AUDIO_SUFFIXES)}), taken whole."}
    )
    num_folds: int | None = field(default=None, metadata={"help": "As in run_ser_mtl.py: folds by speaker."})
    fold_column: str | None = field(default=None, metadata={"help": "As in run_ser_mtl.py: folds by a column."})
    fold: int | None = field(default=None, metadata={"help": "The fold whose speakers are left out, from 0."})
    validation_clips: float = field(default=0.05, metadata={"help": "Share of the clips that only evaluate."})
    max_seconds: float = field(default=20.0, metadata={"help": "Longer clips are cut."})
    trim_db: float | None = field(
        default=None, metadata={"help": "As in run_ser_mtl.py: cut the silence at both ends of clips."}
    )
    mask_time_prob: float = field(default=0.5, metadata={"help": "Share of the frames to mask; overlaps make it less."})
    mask_time_length: int = field(default=10, metadata={"help": "Frames of a masked span."})
    num_codebooks: int = field(default=4, metadata={"help": "Random codebooks of BEST-RQ."})
    codebook_size: int = field(default=512, metadata={"help": "Codewords of each."})
    preprocessing_num_workers: int = field(default=2, metadata={"help": "Threads that check the audio."})


class GumbelTemperature(TrainerCallback):
    """The temperature of wav2vec 2.0's quantizer falls from 2 to .5, as it was published, over the whole training."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.model.set_gumbel_temperature(2.0 * 0.25 ** (state.global_step / state.max_steps))


def choose_clips(args: ScriptArguments) -> tuple[Split, list[str]]:
    """The clips to pre-train on, and the speakers who are left out since the run that follows tests them."""
    cut = args.num_folds is not None or args.fold_column is not None
    if cut != (args.fold is not None):
        raise InputError("give --fold together with --num_folds or --fold_column, as in the run that follows")
    splits = load_manifest_splits({"train": args.train_file}, required=[])
    splits = split_by_speaker(
        splits,
        num_folds=args.num_folds,
        fold=args.fold or 0,
        fold_column=args.fold_column,
        validation_speakers=0.0,
        seed=0,
    )
    tables = [splits[name].table for name in ("train", "validation") if name in splits]
    if args.extra_file:
        tables.append(read_manifests(args.extra_file))
    tables += [list_folder(folder) for folder in args.audio_folders]
    if not tables:
        raise InputError("no clips; give --train_file, --extra_file or --audio_folders")
    table = pd.concat(tables, ignore_index=True).fillna("")
    chosen = Split(table, table["audio_path"].tolist())
    if "test" not in splits:
        return chosen, []
    unknown = int((table["speaker"] == "").sum())
    if unknown:
        logger.warning("%d clips have no speaker_id: whether their speakers are tested can't be checked", unknown)
    check_leaks({"train": chosen, "test": splits["test"]})
    return chosen, sorted(set(splits["test"].table["speaker"]))


def list_folder(folder: str) -> pd.DataFrame:
    """A table as of a manifest, without labels, of the audio files in a folder and those below it."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not paths:
        raise InputError(f"--audio_folders {folder}: no audio found; a file's name ends in {', '.join(AUDIO_SUFFIXES)}")
    names = [path.relative_to(folder).as_posix() for path in paths]
    table = pd.DataFrame({"audio": names, "audio_path": [str(path.resolve()) for path in paths]})
    table[list(LABEL_COLUMNS)] = ""
    table["manifest"], table["row"] = folder, range(1, len(table) + 1)
    add_speakers(table, Path(folder).resolve().name)
    return table


def build_model(args: ScriptArguments, config: SerMtlConfig) -> BestRqModel | ContrastiveModel:
    """The model to pre-train, with random weights."""
    backbone = config.backbone_config
    if backbone.model_type in CONTRASTIVE:
        return ContrastiveModel(AutoModelForPreTraining.from_config(backbone))
    if backbone.model_type != "wav2vec2-bert":
        raise InputError(
            f"--config_name {args.config_name}: found an encoder of the type {backbone.model_type!r}; this script "
            f"pre-trains wav2vec2-bert, {', '.join(CONTRASTIVE)}"
        )
    encoder = AutoModel.from_config(backbone)
    if not (backbone.apply_spec_augment and hasattr(encoder, "masked_spec_embed")):
        raise InputError(
            f"--config_name {args.config_name}: SpecAugment is off, so the encoder can't mask frames; set "
            "apply_spec_augment to true and mask_time_prob above 0, e.g. .05"
        )
    return BestRqModel(encoder, args.num_codebooks, args.codebook_size)


def pretrain(args: ScriptArguments, training: PretrainingArguments) -> dict[str, float]:
    """One pre-training, from arguments to files in `training.output_dir`; returns the metrics."""
    output_dir, checkpoint = Path(str(training.output_dir)), starting_checkpoint(training)
    set_seed(training.seed)
    model_args = ModelArguments(config_name=args.config_name)
    config = load_config(model_args)
    model = build_model(args, config)

    # Clips, without those of test speakers.
    clips, left_out = choose_clips(args)
    clips, skipped = drop_unusable(clips, args.preprocessing_num_workers, ScanCache(default_folder()))
    for _, row in skipped.iterrows():
        logger.warning("%s row %s is skipped: %s", row["manifest"], row["row"], row["reason"])
    if not len(clips):
        raise InputError("no clip can be used; check the manifests and folders")
    waveforms: Iterable[np.ndarray] = load_evenly(clips.audio, STATISTICS_CLIPS)
    if args.trim_db is not None:
        waveforms = (trim_silence(waveform, args.trim_db) for waveform in waveforms)
    feature_extractor = build_feature_extractor(model_args, config, waveforms)
    items = load_inputs(
        clips.audio,
        feature_extractor,
        args.max_seconds,
        lambda length: model.encoder._get_feat_extract_output_lengths(length) >= args.mask_time_length,
        args.trim_db,
    )
    order = np.random.default_rng(training.seed).permutation(len(items))
    num_validation = max(1, round(args.validation_clips * len(items)))
    if len(items) <= num_validation:
        raise InputError(f"{len(items)} clips of {args.mask_time_length} frames or more: too few to train and evaluate")
    validation, train = ([items[i] for i in part] for part in np.split(order, [num_validation]))
    validation.sort(key=lambda item: len(item[feature_extractor.model_input_names[0]]))  # less padding
    hours = clips.table["length"].sum() / SAMPLING_RATE / 3600
    print(f"{len(train)} clips train, {len(validation)} validate, {hours:.2f} h; speakers left out: {len(left_out)}")

    num_negatives = None
    callbacks: list[TrainerCallback] = []
    if isinstance(model, ContrastiveModel):
        num_negatives = config.backbone_config.num_negatives
        callbacks.append(GumbelTemperature(model.model))
    else:
        model.find_most_common(torch.from_numpy(item["input_features"]).float() for item in train)
    trainer = PretrainingTrainer(
        model=model,
        args=training,
        processing_class=feature_extractor,
        data_collator=PretrainingCollator(model.encoder, args.mask_time_prob, args.mask_time_length, num_negatives),
        train_dataset=train,
        eval_dataset=validation,
        compute_metrics=masked_accuracy,
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    metrics = trainer.evaluate()
    print(
        f"masked frames of validation clips: loss {metrics['eval_loss']:.3f}, accuracy {metrics['eval_accuracy']:.3f} "
        f"(a guess that looks at nothing: {metrics['eval_guess_accuracy']:.3f})"
    )
    if trainer.is_world_process_zero():
        model.encoder.save_pretrained(output_dir)
        feature_extractor.save_pretrained(output_dir)
        facts = {
            "objective": "wav2vec 2.0" if isinstance(model, ContrastiveModel) else "BEST-RQ",
            "hours": round(float(hours), 3),
            "clips_by_corpus": {name: int(n) for name, n in clips.table["corpus"].value_counts().items()},
            "speakers_left_out": left_out,
            "skipped": len(skipped),
            "settings": {name: getattr(args, name) for name in ("num_folds", "fold_column", "fold")}
            | {name: getattr(args, name) for name in ("mask_time_prob", "mask_time_length")},
            "metrics": metrics,
        }
        (output_dir / "pretraining.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return metrics


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; a user's mistake is one line on standard error and exit code 2."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    transformers.logging.set_verbosity_warning()
    try:
        groups: Any = (ScriptArguments, PretrainingArguments)
        parser = HfArgumentParser(groups, description=__doc__)
        pretrain(*parser.parse_args_into_dataclasses(argv, look_for_args_file=False))
    except ValueError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
