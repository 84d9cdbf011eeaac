"""The `ser-mtl export-stock` command: a stock twin of a checkpoint, its card and its figures."""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import ModelCard, ModelCardData, metadata_load
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import (
    set_seed,
)

from ..configuration_ser_mtl import SerMtlConfig
from ..data.dataset import LabelNames, encode_labels
from ..data.errors import InputError
from ..data.manifest import SUFFIXES, read_manifest
from ..modeling_ser_mtl import SerMtlModel
from ..processing_ser_mtl import SerMtlProcessor
from .arguments import ModelArguments
from .builders import build_model, build_processor, is_checkpoint, load_config
from .stock_twin import (
    MIN_SECONDS,
    compare,
    cut_clips,
    fit_head,
    kl_divergence,
    run_clips,
    stock_feature_extractor,
    stock_twin,
)

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff")
TASK_NAMES = {"emotion": "emotion", "gender": "gender", "speaker": "speaker embedding", "asr": "transcript"}
# What a twin's card has in common with its full model's: both were made of the same data.
INHERITED_METADATA = ("license", "license_name", "license_link", "language", "datasets")


def gather_clips(sources: Sequence[str]) -> pd.DataFrame:
    """
    Lists the clips of audio files, folders (searched with all below) and manifests.

    Args:
        sources (`Sequence[str]`): paths; a manifest is told by its suffix.

    Returns:
        `pd.DataFrame`: one clip per row, each file once: `audio_path` (absolute) and `emotion` ("" where unknown).

    Raises:
        InputError: a path that doesn't exist, a folder without audio files, or a manifest that can't be read.
    """
    tables = []
    for source in sources:
        path = Path(source)
        if path.suffix.lower() in SUFFIXES:
            tables.append(read_manifest(path)[["audio_path", "emotion"]])
            continue
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES)
        else:
            files = [path] if path.is_file() else []
        if not files:
            raise InputError(
                f"--clips {source}: found no audio; give audio files, folders of {', '.join(AUDIO_SUFFIXES)} or "
                f"manifests ({', '.join(SUFFIXES)})"
            )
        tables.append(pd.DataFrame({"audio_path": [str(file.resolve()) for file in files], "emotion": ""}))
    # A clip that is there twice would be fitted and held out at once.
    return pd.concat(tables).drop_duplicates("audio_path", ignore_index=True)


def stock_card(
    name: str, class_name: str, full: SerMtlConfig, figures: dict[str, float], metadata: dict[str, Any]
) -> ModelCard:
    """
    The twin's model card.

    Args:
        name (`str`): repository of the twin, or a path to fill in.
        class_name (`str`): the twin's class.
        full ([`SerMtlConfig`]): configuration of the full model.
        figures (`dict[str, float]`): what [`export_stock`] returns.
        metadata (`dict[str, Any]`): further metadata; a `base_model` is the repository of the full model.
    """
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=["speech-emotion-recognition", "distillation"],
        **metadata,
    )
    full_model = "the full model"
    if data.base_model is not None:
        full_model = f"[{data.base_model}](https://huggingface.co/{data.base_model})"
    rows = [
        ("same emotion as the full model", "agreement", "num_held_out"),
        ("KL divergence from its probabilities (nats)", "kl", "num_held_out"),
        ("KL divergence of a constant answer (nats)", "kl_constant", "num_held_out"),
        ("Macro-F1 of the full model", "emotion_macro_f1_full", "num_labelled"),
        ("Macro-F1 of this model", "emotion_macro_f1_stock", "num_labelled"),
    ]
    lines = [f"| {text} | {figures[key]:.3f} | {figures[count]:.0f} |" for text, key, count in rows if key in figures]
    tasks = [TASK_NAMES[task] for task in full.tasks]
    return ModelCard(f"""---
{data.to_yaml()}
---

# {name.split("/")[-1]}

Emotion from speech in a stock `{class_name}`, which needs no remote code. It stands in for
{full_model} where `trust_remote_code=True` is not possible. The full model does
{len(tasks)} {"tasks" if len(tasks) > 1 else "task"} in one pass: {", ".join(tasks)}.

```python
from transformers import pipeline

classifier = pipeline("audio-classification", model="{name}")
classifier(waveform)  # float32, mono, 16 kHz
```

Emotions: {", ".join(full.emotion_labels)}.

## How close it is

On clips that were held out of the distillation:

| figure | value | clips |
|---|---|---|
{chr(10).join(lines)}

If the full model saw these clips in its training, both Macro-F1 are better than on new speakers.

## How it was made

The encoder has the weights of the full model, bit for bit. A weighted sum over its layers, a projector and a classifier
were fitted to the full model's emotion probabilities on {figures["num_fitted"]:.0f} clips, whose labels were not used;
{figures["num_stopping"]:.0f} more decided when to stop. Give clips one at a time: padding may change scores in a batch.

Emotion inferred from a voice is uncertain. The limits and risks of the full model hold here too.
""")


def load_checkpoint(model_dir: str) -> tuple[SerMtlModel, SerMtlProcessor]:
    """
    Model and processor of `model_dir` (`str`), a checkpoint of this project, in single precision and `eval()`.

    Raises:
        InputError: another model, or one that can't be read.
    """
    if not Path(model_dir).is_dir():
        raise InputError(f"{model_dir}: no such folder; give the one that a training wrote")
    args = ModelArguments(model_name_or_path=model_dir)
    config = load_config(args)
    if not is_checkpoint(args, config):
        raise InputError(f"{model_dir}: is no checkpoint of this project; give the folder that a training wrote")
    processor = build_processor(args, config, None)
    model = build_model(args, config, processor, LabelNames(config.emotion_labels, config.gender_labels), None)
    return model.eval(), processor


def export_stock(
    model_dir: str,
    output_dir: str,
    clips: Sequence[str],
    *,
    full_model: str | None = None,
    hub_model_id: str | None = None,
    held_out: float = 0.2,
    max_seconds: float = 20.0,
    seed: int = 42,
) -> dict[str, float]:
    """
    Writes the stock twin of a checkpoint: weights, configuration, feature extractor, `README.md` and
    `export_results.json`.

    Args:
        model_dir (`str`): checkpoint of this project.
        output_dir (`str`): folder to write, new or empty.
        clips (`Sequence[str]`): audio files, folders or manifests, see [`gather_clips`].
        full_model (`str`, *optional*): Hub repository of the full model, which the card links.
        hub_model_id (`str`, *optional*): Hub repository that the twin will have, for the code in its card.
        held_out (`float`): share of the clips, in (0, .5], that give the figures.
        max_seconds (`float`): time that is read of each clip, from its start; .1 or more.
        seed (`int`): seed of the draw of the clips and of the new weights.

    Returns:
        `dict[str, float]`: the figures of [`compare`], `kl_constant` (divergence of the mean probabilities, which don't
        depend on the clip), and how many clips were fitted, stopped the fit and were held out: `num_fitted`,
        `num_stopping` and `num_held_out`.

    Raises:
        InputError: a setting out of its range, a folder that isn't empty, a model without a twin, or too few clips.
    """
    if not 0 < held_out <= 0.5:
        raise InputError(f"--held_out {held_out:g}: must lie above 0 and at most at .5")
    if not MIN_SECONDS <= max_seconds < float("inf"):
        raise InputError(f"--max_seconds {max_seconds:g}: give {MIN_SECONDS} or more")
    for option, repository in (("full_model", full_model), ("hub_model_id", hub_model_id)):
        if repository is not None:
            try:
                validate_repo_id(repository)
            except HFValidationError as error:
                raise InputError(f"--{option} {repository}: no name of a Hub repository; give user/name") from error
    output = Path(output_dir)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise InputError(f"{output_dir}: exists and is no empty folder; choose another or delete it")
    table = gather_clips(clips)
    set_seed(seed)
    model, processor = load_checkpoint(model_dir)
    twin, feature_extractor = stock_twin(model), stock_feature_extractor(processor)

    emotions = model.config.emotion_labels
    unknown = sorted(set(table["emotion"]) - {"", *emotions})
    if unknown:
        logger.warning("emotions that the model doesn't know count as unknown: %s", ", ".join(unknown))
    states, probabilities, usable = run_clips(
        model, processor, twin, feature_extractor, table["audio_path"].tolist(), max_seconds
    )
    labels = encode_labels(table["emotion"], emotions)[usable]
    fitted, stopping, tested = cut_clips(len(usable), held_out, seed)
    fit_head(twin, states, probabilities, fitted, stopping)
    constant = probabilities[fitted].mean(0).clamp(min=1e-6).log().expand(len(tested), -1)
    figures = {
        "num_fitted": len(fitted),
        "num_stopping": len(stopping),
        "num_held_out": len(tested),
        **compare(twin, states, probabilities, labels, tested, emotions),
        "kl_constant": float(kl_divergence(probabilities[tested], constant)),
    }

    twin.save_pretrained(output)
    feature_extractor.save_pretrained(output)
    own_card = Path(model_dir) / "README.md"
    metadata = (metadata_load(own_card) or {}) if own_card.is_file() else {}
    metadata = {name: metadata[name] for name in INHERITED_METADATA if name in metadata}
    if full_model is not None:
        metadata["base_model"] = full_model
    name = hub_model_id or f"path/to/{output.resolve().name}"
    stock_card(name, type(twin).__name__, model.config, figures, metadata).save(output / "README.md")
    (output / "export_results.json").write_text(json.dumps(figures, indent=4) + "\n", encoding="utf-8")
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """
    Command line of `ser-mtl export-stock`; `argv` in place of the command line's. Raises an [`InputError`] as
    [`export_stock`].
    """
    parser = argparse.ArgumentParser(
        prog="ser-mtl export-stock",
        description="Writes a stock twin of a checkpoint, which needs no remote code: the same encoder, and an emotion "
        "head distilled from the full model on clips that need no labels.",
    )
    parser.add_argument("model_dir", metavar="DIR", help="checkpoint of this project")
    parser.add_argument("output_dir", metavar="OUT", help="folder to write, new or empty")
    parser.add_argument(
        "--clips",
        nargs="+",
        required=True,
        help=f"audio files, folders or manifests ({', '.join(SUFFIXES)}) of speech like that the twin will hear; at "
        "least 10 clips, better some hundreds; a manifest's column `emotion` adds the Macro-F1 of both models",
    )
    parser.add_argument("--full_model", metavar="REPO", help="Hub repository of the full model, which the card links")
    parser.add_argument("--hub_model_id", metavar="REPO", help="Hub repository of the twin, for the code in its card")
    parser.add_argument(
        "--held_out", type=float, default=0.2, help="share of the clips that give the figures; default: %(default)s"
    )
    parser.add_argument(
        "--max_seconds", type=float, default=20.0, help="time that is read of each clip; default: %(default)s"
    )
    parser.add_argument(
        "--seed", type=int, default=42, help="seed of the draw of the clips and of new weights; default: %(default)s"
    )
    args = parser.parse_args(argv)
    figures = export_stock(**vars(args))
    for name, value in figures.items():
        print(f"{name:<22}  {value:.3f}" if isinstance(value, float) else f"{name:<22}  {value}")
    print(f"stock twin in {args.output_dir}")
