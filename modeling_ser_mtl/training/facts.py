"""Gathers what a run's model card tells."""

import itertools
import json
import os
import platform
import re
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .. import __version__
from ..data.audio import SAMPLING_RATE
from ..hub.card_data import RESULT_SPLITS
from ..hub.run_facts import RunFacts, SplitFacts, simplified
from ..hub.widget import WidgetSample
from .arguments import DataArguments, ModelArguments, SerMtlTrainingArguments
from .labels import LABEL_COLUMN
from .parser import FILE_SUFFIXES

# Settings whose slash may belong to a name of the Hub, or to a label or column.
HUB_NAMES = ("model_name_or_path", "dataset_name", "dataset_names", "hub_model_id")
LABEL_SETTINGS = ("emotion_labels", "gender_labels", "column_mapping")
HYPERPARAMETERS = (
    "learning_rate",
    "head_learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "weight_decay",
    "max_grad_norm",
    "bf16",
    "fp16",
    "seed",
    "ema_decay",
    "class_aware_batches",
    "swfc_memory_size",
    "speaker_margin_warmup_steps",
    "load_best_model_at_end",
    "metric_for_best_model",
    "early_stopping_patience",
)
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "huggingface_hub", "numpy", "soundfile", "soxr")


def gather_facts(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: SerMtlTrainingArguments,
    tables: Mapping[str, pd.DataFrame],
    tasks: Sequence[str],
    settings: Mapping[str, Any],
    metrics: Mapping[str, float],
    widget: Sequence[WidgetSample],
) -> RunFacts:
    """
    The facts of a run that has finished, without the names of its folders.

    Args:
        model_args ([`ModelArguments`]), data_args ([`DataArguments`]), args ([`SerMtlTrainingArguments`]): its
            arguments.
        tables (`Mapping[str, pd.DataFrame]`): its sets, see [`split_facts`].
        tasks (`Sequence[str]`): tasks of the model.
        settings (`Mapping[str, Any]`): see [`given_settings`].
        metrics (`Mapping[str, float]`): what it measured, with prefixes.
        widget (`Sequence[WidgetSample]`): see [`~hub.widget.write_widget`].
    """
    source, dataset = model_args.model_name_or_path, data_args.dataset_name
    datasets = list(data_args.dataset_names or [])
    if dataset is not None and _is_on_hub(dataset) and dataset not in datasets:
        datasets.append(dataset)
    if not data_args.synthetic_corpus:  # the name of its folder is ours
        names = {name: corpus_names(table) for name, table in tables.items()}
        for prefix, name in RESULT_SPLITS.items():
            if name in tables:
                metrics = rename_corpora(metrics, prefix, names[name], set(tables[name]["gender"]))
        tables = {name: table.assign(corpus=table["corpus"].map(names[name])) for name, table in tables.items()}
    given, trained = args.to_dict(), set(tables["train"]["speaker"])
    return RunFacts(
        name=re.sub(r"[^\w.-]+", "-", Path(str(args.output_dir)).resolve().name),
        splits={name: split_facts(table, tasks, trained if name != "train" else ()) for name, table in tables.items()},
        metrics=dict(metrics),
        license=data_args.license,
        # The sentences of the synthetic corpus are English.
        languages=list(data_args.language or (["en"] if data_args.synthetic_corpus else [])),
        datasets=datasets,
        base_model=source if source is not None and _is_on_hub(source) else None,
        from_scratch=source is None,
        synthetic=data_args.synthetic_corpus,
        settings=dict(settings),
        hyperparameters={
            **{name: given[name] for name in HYPERPARAMETERS},
            "max_steps": args.max_steps if args.max_steps > 0 else None,
            "num_processes": args.world_size,
            "freeze_feature_encoder": model_args.freeze_feature_encoder,
            "max_seconds": data_args.max_seconds,
            "augment": data_args.augment,
        },
        environment=environment(args.device),
        widget=list(widget),
    )


def split_facts(table: pd.DataFrame, tasks: Sequence[str], trained: Collection[str] = ()) -> SplitFacts:
    """
    Counts the clips of a set.

    Args:
        table (`pd.DataFrame`): its clips, with `length` in samples at 16 kHz unless they are streamed; a label that is
            "" is unknown.
        tasks (`Sequence[str]`): tasks of the model.
        trained (`Collection[str]`): speakers of the training set, for another set.
    """

    def counts(column: str) -> dict[str, int]:
        return {str(name): int(n) for name, n in table[column].value_counts().sort_index().items() if name != ""}

    return SplitFacts(
        clips=len(table),
        hours=round(float(table["length"].astype(int).sum()) / SAMPLING_RATE / 3600, 4) if "length" in table else None,
        speakers=len(counts("speaker")),
        labelled={task: int((table[LABEL_COLUMN[task]] != "").sum()) for task in tasks},
        corpora=counts("corpus"),
        emotions=counts("emotion"),
        genders=counts("gender"),
        unknown_speakers=int((table["speaker"] == "").sum()),
        trained_speakers=len(set(counts("speaker")) & set(trained)),
    )


def corpus_names(table: pd.DataFrame) -> dict[str, str]:
    """
    What the corpora of a set are called in public: a name of the manifest's column `corpus` stays; that of the
    manifest's folder, which stands in where there is none and may be a person's, gives way to the manifest's own.

    Args:
        table (`pd.DataFrame`): the set, with `corpus`, `manifest` and `gender`.

    Returns:
        `dict[str, str]`: public name by corpus. What metrics tell apart has names that they tell apart, too.
    """
    manifests = {str(name): list(files.unique()) for name, files in table.groupby("corpus")["manifest"]}
    given = [name for name, files in manifests.items() if any(_folder_name(file) != name for file in files)]
    # By the name in metrics, which two corpora may share, and of which those of the genders are taken.
    public = {simplified(name): name for name in given}
    taken = {*public, *table["gender"]}
    for name in manifests:
        if simplified(name) not in public:
            stem = ", ".join(dict.fromkeys(Path(file).stem for file in manifests[name]))
            numbered = (f"{stem} {number}" for number in itertools.count(2))
            free = next(name for name in itertools.chain([stem], numbered) if simplified(name) not in taken)
            public[simplified(name)] = free
            taken.add(simplified(free))
    return {name: name if name in given else public[simplified(name)] for name in manifests}


def rename_corpora(
    metrics: Mapping[str, float], prefix: str, names: Mapping[str, str], genders: Collection[str]
) -> dict[str, float]:
    """
    Metrics where each corpus has its public name.

    Args:
        metrics (`Mapping[str, float]`): metrics with prefixes.
        prefix (`str`): that of the set.
        names (`Mapping[str, str]`): see [`corpus_names`].
        genders (`Collection[str]`): genders of the set, whose metrics hide those of a corpus of the same name.
    """
    start = f"{prefix}_emotion_uar_"
    renamed = {
        start + simplified(old): start + simplified(new) for old, new in names.items() if simplified(old) not in genders
    }
    return {renamed.get(name, name): value for name, value in metrics.items()}


def environment(device: torch.device) -> dict[str, str]:
    """
    Versions of Python and the packages that results depend on, and the kind of device, never the machine's name.

    Args:
        device (`torch.device`): where the model trained.
    """
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "modeling_ser_mtl": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "device": kind,
    }


def given_settings(argv: Sequence[str]) -> dict[str, Any]:
    """
    The options that a command line gives, those of its settings file included, in a form that may be published: paths
    are reduced to file names, and tokens are left out.

    Args:
        argv (`Sequence[str]`): a command line that [`~training.parser.parse_arguments`] accepts.

    Returns:
        `dict[str, Any]`: values by option; strings, or a list of them, from the command line (an empty list for a flag
        without value), and what the file holds.
    """
    argv, settings = list(argv), {}
    if argv and argv[0].endswith(FILE_SUFFIXES):
        path = argv.pop(0)
        text = Path(path).read_text(encoding="utf-8")
        settings = json.loads(text) if path.endswith(".json") else yaml.safe_load(text)
    flags: dict[str, list[str]] = {}
    name = ""
    for item in argv:
        if item.startswith("--"):
            name, equals, value = item.removeprefix("--").partition("=")
            name = name.replace("-", "_")  # an option has both spellings
            flags[name] = [value] if equals else []
        else:
            flags[name].append(item)
    settings |= {name: values[0] if len(values) == 1 else values for name, values in flags.items()}
    return {name: _public(name, value) for name, value in settings.items() if not name.endswith("token")}


def _public(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_public(name, item) for item in value]
    if isinstance(value, dict):
        return {key: _public(name, item) for key, item in value.items()}
    if not isinstance(value, str) or name in LABEL_SETTINGS or (name in HUB_NAMES and _is_on_hub(value)):
        return value
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1]


def _folder_name(file: str) -> str:
    return os.path.basename(os.path.dirname(os.path.abspath(file)))


def _is_on_hub(name: str) -> bool:
    """Whether a model or data set that was loaded by `name` came from the Hub: folders of this machine come first."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()
