"""The model card of a run, generated from its configuration and metrics."""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from ..configuration_ser_mtl import SerMtlConfig
from ..evaluation.report import HEADLINE_METRICS

SPLIT_NAMES = {"eval": "validation speakers", "predict": "test speakers"}


def write_model_card(
    output_dir: str | Path,
    config: SerMtlConfig,
    metrics: Mapping[str, float],
    synthetic: bool = False,
    hub_model_id: str | None = None,
) -> None:
    """
    Writes `README.md` into `output_dir`.

    Args:
        output_dir (`str` or `Path`): folder of the model.
        config ([`SerMtlConfig`]): configuration of the model.
        metrics (`Mapping[str, float]`): metrics of the run with their prefixes.
        synthetic (`bool`): whether the training data is the synthetic corpus; the card then says so.
        hub_model_id (`str`, *optional*): the repository that the code in the card loads; else a path to fill in.
    """
    name = Path(output_dir).resolve().name
    source = hub_model_id or f"path/to/{name}"
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=["speech-emotion-recognition", "multi-task", "ser_mtl", *(["synthetic-speech"] if synthetic else [])],
    )
    lines = [f"---\n{data.to_yaml()}\n---", "", f"# {name}", ""]
    if synthetic:
        lines += [
            "**Trained on synthetic speech** (eSpeak NG): it shows that the software works and does not recognise the",
            "emotions of people.",
            "",
        ]
    lines += [
        f"A {config.backbone_config.model_type} encoder with heads for {', '.join(config.tasks)}; "
        f"fusion: {config.fusion}. Emotions: {', '.join(config.emotion_labels)}.",
        "",
        "```python",
        "from transformers import AutoModel, AutoProcessor",
        "",
        f'model = AutoModel.from_pretrained("{source}", trust_remote_code=True)',
        f'processor = AutoProcessor.from_pretrained("{source}", trust_remote_code=True)',
        "outputs = model(**processor(waveform, sampling_rate=16_000))  # waveform: float32, mono, 16 kHz",
        "```",
        "",
    ]
    for prefix, split in SPLIT_NAMES.items():
        rows = [
            f"| {task} | {metric} | {metrics[f'{prefix}_{task}_{metric}']:.3f} |"
            for task, metric, _ in HEADLINE_METRICS
            if f"{prefix}_{task}_{metric}" in metrics
        ]
        if rows:
            lines += [f"## Results on {split}", "", "| task | metric | value |", "|---|---|---|", *rows, ""]
    lines += [
        "Method: multi-task learning with co-attention and the SWFC loss, after",
        "[arXiv 2508.17878](https://arxiv.org/abs/2508.17878). Emotion inferred from a voice is uncertain, and speaker",
        "embeddings are biometric data.",
    ]
    ModelCard("\n".join(lines)).save(Path(output_dir) / "README.md")
