"""Trains, evaluates and saves a four-task speech emotion model: `run_ser_mtl.py settings.yaml --option value`."""

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import transformers
from accelerate import PartialState
from transformers import EarlyStoppingCallback, TrainerCallback, set_seed

from modeling_ser_mtl.data.collator import SerMtlCollator
from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.data.submission import check_submittable, write_submission
from modeling_ser_mtl.evaluation.metrics import Predictions
from modeling_ser_mtl.evaluation.report import results_table, set_title, write_predictions
from modeling_ser_mtl.evaluation.verification import read_trials
from modeling_ser_mtl.hub.model_card import write_model_card
from modeling_ser_mtl.hub.widget import check_widget_samples, synthetic_samples, write_widget
from modeling_ser_mtl.training.arguments import DataArguments, ModelArguments, SerMtlTrainingArguments
from modeling_ser_mtl.training.builders import build_model, build_processor, check_max_seconds, load_config
from modeling_ser_mtl.training.calibrate import calibrate
from modeling_ser_mtl.training.callbacks import EpochCallback
from modeling_ser_mtl.training.checkpoints import starting_checkpoint
from modeling_ser_mtl.training.facts import gather_facts, given_settings
from modeling_ser_mtl.training.labels import LABEL_COLUMN, choose_best_metric, label_names, warn_about_labels
from modeling_ser_mtl.training.parser import parse_arguments
from modeling_ser_mtl.training.preparation import build_dataset, check_streaming, prepare_splits
from modeling_ser_mtl.training.streaming import StreamingTrainer
from modeling_ser_mtl.training.trainer import SerMtlTrainer


def run(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: SerMtlTrainingArguments,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """
    One run, from arguments to files in `args.output_dir`; returns all metrics. `settings` are the options that were
    given, for the model card.
    """
    output_dir, checkpoint = Path(str(args.output_dir)), starting_checkpoint(args)
    set_seed(args.seed)
    check_streaming(data_args, args)
    config = load_config(model_args)
    chooses_prior_correction = model_args.prior_correction == "auto"
    if chooses_prior_correction and not (args.do_train and args.calibrate and "emotion" in config.tasks):
        raise InputError(
            "--prior_correction auto: is chosen after the training of emotions; give a number, or add --do_train and "
            "leave out --calibrate False"
        )
    samples = check_widget_samples(data_args.widget_samples or [], config.tasks, data_args.max_seconds)

    # Data: tables without unusable clips, disjoint in speakers.
    with PartialState().main_process_first():
        splits, skipped = prepare_splits(
            data_args,
            required=[LABEL_COLUMN[task] for task in config.tasks] if args.do_train else [],
            seed=args.seed,
            do_train=args.do_train,
            do_eval=args.do_eval,
            do_predict=args.do_predict,
            emotion_labels=model_args.emotion_labels,
        )
    tables = {name: split.table for name, split in splits.items()}
    labels = label_names(model_args, config, tables)
    if data_args.submission_file is not None:
        if not args.do_predict or "emotion" not in config.tasks:
            raise InputError("--submission_file: needs --do_predict and a model of the task emotion")
        check_submittable(labels.emotion, skipped.loc[skipped["split"] == "test", "audio"].tolist())
    datasets = {
        name: build_dataset(data_args, split, labels, training=name == "train", seed=args.seed)
        for name, split in splits.items()
    }

    trials = None
    if data_args.trials_file is not None and args.do_predict:
        trials = read_trials(data_args.trials_file, tables["test"]["audio"].tolist())

    # Model.
    counts = None
    if args.do_train:
        warn_about_labels(tables, config.tasks, labels)
        if "validation" in tables:
            choose_best_metric(args, config.tasks, tables["validation"])
        elif chooses_prior_correction:
            raise InputError("--prior_correction auto: validation speakers choose it; give a number or hold some out")
        counts = datasets["train"].class_counts
    processor = build_processor(model_args, config, datasets.get("train"))
    check_max_seconds(processor, data_args.max_seconds)
    model = build_model(model_args, config, processor, labels, counts)

    # Training, evaluation, prediction.
    callbacks: list[TrainerCallback] = [EpochCallback()]
    if args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
    trainer_class: Callable[..., SerMtlTrainer] = SerMtlTrainer
    if data_args.streaming:
        num_clips = sum(map(len, tables.values()))
        trainer_class = partial(StreamingTrainer, num_clips=num_clips, max_skipped=data_args.max_skipped)
    trainer = trainer_class(
        model=model,
        args=args,
        processing_class=processor,
        test_trials=trials,
        data_collator=SerMtlCollator(processor),
        train_dataset=datasets.get("train") if args.do_train else None,
        eval_dataset=datasets.get("validation"),
        callbacks=callbacks,
    )
    metrics: dict[str, float] = {}
    if trainer.is_world_process_zero():
        output_dir.mkdir(parents=True, exist_ok=True)
        skipped.drop(columns="split").to_csv(output_dir / "skipped.csv", index=False)
    if args.do_train:
        result = trainer.train(resume_from_checkpoint=checkpoint)
        if args.calibrate and "emotion" in config.tasks and "validation" in datasets:
            calibrate(trainer, datasets["validation"], chooses_prior_correction)
        trainer.save_model(_internal_call=True)  # without a push: that comes last, with the results
        trainer.save_metrics("train", result.metrics)
        trainer.save_state()
        metrics |= result.metrics
    for name, prefix, wanted in (
        ("validation", "eval", args.do_eval),
        ("test", "predict", args.do_predict),
    ):
        if not wanted:
            continue
        output = trainer.predict(datasets[name], metric_key_prefix=prefix)
        found, predictions = output.metrics or {}, cast(Predictions, output.predictions)
        trainer.save_metrics(prefix, found)
        metrics |= found
        if trainer.is_world_process_zero():
            # Of a stream, some clips may have turned out to be unusable.
            table = tables[name][tables[name]["audio"].isin(predictions.audio)]
            if name == "test" or not args.do_predict:
                path = output_dir / "predictions.csv"
                written = write_predictions(
                    path, table, predictions, labels.emotion, labels.gender, args.min_confidence
                )
                if name == "test" and data_args.submission_file is not None:
                    write_submission(data_args.submission_file, written)
            title = set_title(name, table, tables.get("train"))
            if data_args.synthetic_corpus:
                title += " (synthetic speech)"
            print(f"\n{results_table(found, prefix, title)}\n")

    if isinstance(trainer, StreamingTrainer) and trainer.is_world_process_zero():
        trainer.skipped_table().to_csv(output_dir / "skipped.csv", index=False)
    if args.do_train and trainer.is_world_process_zero():
        if data_args.synthetic_corpus and "emotion" in config.tasks:
            samples |= synthetic_samples(tables["test" if args.do_predict else "validation"], len(samples))
        widget = write_widget(output_dir, samples, replace=True)
        facts = gather_facts(model_args, data_args, args, tables, config.tasks, settings or {}, metrics, widget)
        facts.save(output_dir)
        write_model_card(output_dir, args.hub_model_id)
    if args.push_to_hub:
        trainer.push_to_hub()
    return metrics


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; a user's mistake is one line on standard error and exit code 2."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    transformers.logging.set_verbosity_warning()
    try:
        argv = sys.argv[1:] if argv is None else argv
        run(*parse_arguments(argv), given_settings(argv))
    except InputError as error:
        if PartialState().is_main_process:
            print(f"error: {error}", file=sys.stderr, flush=True)
        else:
            time.sleep(2)  # a launcher ends all ranks at the first exit: rank 0 speaks first
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("interrupted; --resume_from_checkpoint True continues from the last checkpoint")


if __name__ == "__main__":
    main()
