"""The model card of a run, rendered from its facts, configuration and metrics."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from ..configuration_ser_mtl import SerMtlConfig
from ..evaluation.report import HEADLINE_METRICS
from .card_data import METRICS, RESULT_SPLITS, card_data
from .run_facts import RunFacts, SplitFacts, simplified

FUSION_TEXTS = {
    "co_attention": "the emotion stream attends to those of the other tasks (co-attention)",
    "concat": "the streams of the other tasks are concatenated to the emotion stream",
    "none": "the tasks share the encoder alone",
}
CITATION = """## Citation

The method follows, apart from this model's own choices, [arXiv 2508.17878](https://arxiv.org/abs/2508.17878):

```bibtex
@misc{wang2025enhancing,
  title = {Enhancing Speech Emotion Recognition with Multi-Task Learning and Dynamic Feature Fusion},
  author = {Wang, Honghong and Deng, Jing and Meng, Fanqin and Zheng, Rong},
  year = {2025},
  eprint = {2508.17878},
  archivePrefix = {arXiv},
  url = {https://arxiv.org/abs/2508.17878}
}
```"""


def write_model_card(folder: str | Path, repo_id: str | None = None) -> None:
    """
    Writes `README.md` of the run in `folder` from its `run_facts.json` and `config.json`.

    Args:
        folder (`str` or `Path`): output folder of a training run.
        repo_id (`str`, *optional*): the repository that the code in the card loads; else a path to fill in.

    Raises:
        InputError: `folder` has no `run_facts.json`.
    """
    folder = Path(folder)
    model_card(RunFacts.load(folder), SerMtlConfig.from_pretrained(folder), repo_id).save(folder / "README.md")


def model_card(facts: RunFacts, config: SerMtlConfig, repo_id: str | None = None) -> ModelCard:
    """
    The card of a model. A section without data is left out.

    Args:
        facts ([`RunFacts`]): how it came about.
        config ([`SerMtlConfig`]): what it is.
        repo_id (`str`, *optional*): its repository on the Hub, e.g. `org/name`.
    """
    name = repo_id.split("/")[-1] if repo_id else facts.name
    sections = [
        f"# {_text(name)}",
        _warning(facts),
        _purpose(facts, config),
        _usage(facts.trained(config.tasks), repo_id or f"path/to/{facts.name}"),
        _samples(facts),
        *(_results(facts, config, prefix) for prefix in RESULT_SPLITS),
        _training(facts),
        _loss(config),
        _limits(facts, config),
        _license(facts),
        _environment(facts),
        _reproduction(facts),
        CITATION,
    ]
    header = card_data(facts, config, name).to_yaml()
    return ModelCard(f"---\n{header}\n---\n\n" + "\n\n".join(filter(None, sections)) + "\n")


def _warning(facts: RunFacts) -> str:
    if not facts.synthetic:
        return ""
    return (
        "> **Trained on synthetic speech** (eSpeak NG): it shows that the software works. It does not recognise the "
        "emotions of people, and its results say nothing about real speech."
    )


def _purpose(facts: RunFacts, config: SerMtlConfig) -> str:
    predictions = {
        "emotion": ("Emotion", f"{_names(config.emotion_labels)}, with a probability each."),
        "gender": ("Gender", f"{_names(config.gender_labels)}, as the training data names it."),
        "speaker": (
            "Speaker",
            f"an embedding of {config.speaker_embedding_size} numbers and unit length; the dot product of two is the "
            "higher, the more alike the voices are.",
        ),
        "asr": ("Transcript", "lower case, without punctuation."),
    }
    trained = facts.trained(config.tasks)
    lines = []
    for task in config.tasks:
        name, text = predictions[task]
        lines.append(f"- **{name}**: {text if task in trained else 'not trained (no labels).'}")
    goal = "all tasks" if trained == list(config.tasks) else ", ".join(trained)
    encoder = config.backbone_config.model_type
    origin = ""
    if facts.from_scratch:
        origin = ", trained from scratch"
    elif facts.splits:
        origin = f" that started from {f'`{facts.base_model}`' if facts.base_model else 'a local checkpoint'}, trained"
    architecture = f"A {encoder} encoder{origin} on {goal} at once; every task weighs its hidden states"
    fusion = f", and {FUSION_TEXTS[config.fusion]}" if "emotion" in config.tasks and len(config.tasks) > 1 else ""
    return "\n".join(
        [
            "From a clip of speech (16 kHz, mono) this model predicts, in one pass:",
            "",
            *lines,
            "",
            f"{architecture}{fusion}.",
        ]
    )


def _usage(tasks: Sequence[str], source: str) -> str:
    model = json.dumps(source, ensure_ascii=False)
    start = "from transformers import pipeline\n\n"
    listener = f'{start}listener = pipeline("speech-emotion-mtl", model={model}, trust_remote_code=True)\n'
    snippets = {
        "emotion": (
            "Emotion:",
            f'{start}classifier = pipeline("audio-classification", model={model}, trust_remote_code=True)\n'
            'print(classifier("clip.wav"))',
        ),
        "gender": ("Gender:", f'{listener}print(listener("clip.wav")["gender"])'),
        "speaker": (
            "Verification, whether one person speaks two clips (1: the same voice; choose the threshold on speech like "
            "yours):",
            f'import numpy as np\n{listener}first, second = listener(["a.wav", "b.wav"])\n'
            'print(np.dot(first["speaker_embedding"], second["speaker_embedding"]))',
        ),
        "asr": ("Transcript:", f'{listener}print(listener("clip.wav")["text"])'),
    }
    parts = ["## Use", _fence('pip install "transformers>=5.17" torch soundfile soxr', "bash")]
    for title, code in (snippets[task] for task in tasks):
        parts += [title, _fence(code, "python")]
    if len(tasks) > 1:
        parts += [f"All at once ({', '.join(tasks)}):", _fence(f'{listener}print(listener("clip.wav"))', "python")]
    parts.append(
        "`trust_remote_code=True` runs the Python files of this repository. Read them, and pin the commit that you "
        'read, so that a later one can\'t run unseen: `revision="<commit>", code_revision="<commit>"`.'
    )
    return "\n\n".join(parts)


def _samples(facts: RunFacts) -> str:
    rows = [
        [f"[{_text(sample.example_title)}]({sample.src})", _text(best["label"]), f"{best['score']:.3f}"]
        for sample in facts.widget
        for best in sample.output[:1]
    ]
    note = (
        "The hosted inference of the Hub does not run custom code. The scores beside the samples on this page were "
        "computed by this model."
    )
    return _section("## Samples", note, _table(["sample", "likeliest emotion", "score"], rows)) if rows else ""


def _results(facts: RunFacts, config: SerMtlConfig, prefix: str) -> str:
    start = f"{prefix}_"
    found = {name.removeprefix(start): value for name, value in facts.metrics.items() if name.startswith(start)}
    rows = [
        [task, METRICS[metric][0], f"{found[f'{task}_{metric}']:.3f}", better]
        for task, metric, better in HEADLINE_METRICS
        if f"{task}_{metric}" in found
    ]
    split = RESULT_SPLITS[prefix]
    if not rows or split not in facts.splits:
        return ""
    clips = facts.splits[split]
    note = f"{clips.clips} clips of {clips.speakers} known speakers"
    # A training clip of nobody known may be of one of them.
    disjoint = clips.speakers and "train" in facts.splits and facts.splits["train"].unknown_speakers == 0
    if clips.trained_speakers:
        note += f", {clips.trained_speakers} of whom also train: this does not measure unseen speakers."
    else:
        note += ", none of whom trains." if disjoint else "."
    if split == "validation" and facts.hyperparameters["load_best_model_at_end"]:
        note += " These clips chose the checkpoint."
    corpora = _simplified(clips)
    groups = {
        name.removeprefix("emotion_uar_"): value for name, value in found.items() if name.startswith("emotion_uar_")
    }
    return _section(
        f"## Results on the {split} set",
        note,
        _table(["task", "metric", "value", "better"], rows),
        _calibration(found, config),
        _breakdown(
            "emotion",
            "F1",
            {name: found[f"emotion_f1_{name}"] for name in config.emotion_labels if f"emotion_f1_{name}" in found},
            clips.emotions,
        ),
        _breakdown(
            "gender", "emotion UAR", {name: groups[name] for name in clips.genders if name in groups}, clips.genders
        ),
        # Corpora have a metric of their own only where there are several, under a simplified name.
        _breakdown(
            "corpus",
            "emotion UAR",
            {name: groups[name] for name in groups if name in corpora and name not in clips.genders},
            corpora,
        ),
    )


def _calibration(found: Mapping[str, float], config: SerMtlConfig) -> str:
    if not {"emotion_ece", "emotion_ece_uncalibrated"} <= found.keys():
        return ""
    text = (
        f"Expected calibration error of the emotion probabilities (15 bins): {found['emotion_ece']:.3f} at the model's "
        f"temperature {config.emotion_temperature:.3f}, {found['emotion_ece_uncalibrated']:.3f} uncalibrated."
    )
    if config.emotion_prior_correction:
        text += f" Correction of the class frequencies of training: {config.emotion_prior_correction:g}."
    return text


def _breakdown(group: str, metric: str, scores: Mapping[str, float], clips: Mapping[str, int]) -> str:
    rows = [[_text(name), f"{score:.3f}", str(clips[name])] for name, score in scores.items()]
    return _table([group, metric, "clips"], rows) if rows else ""


def _simplified(split: SplitFacts) -> dict[str, int]:
    """Clips by the name that a corpus has in metrics."""
    clips: dict[str, int] = {}
    for corpus, count in split.corpora.items():
        name = simplified(corpus)
        clips[name] = clips.get(name, 0) + count
    return clips


def _training(facts: RunFacts) -> str:
    if not facts.splits:
        return ""
    tasks = list(next(iter(facts.splits.values())).labelled)
    rows = [
        [
            name,
            _names(split.corpora),
            str(split.clips),
            "unknown" if split.hours is None else f"{split.hours:.2f}",
            str(split.speakers),
            *(str(split.labelled[task]) for task in tasks),
        ]
        for name, split in facts.splits.items()
    ]
    hyperparameters = [
        [f"`{name}`", _text(" ".join(value) if isinstance(value, list) else value)]
        for name, value in facts.hyperparameters.items()
        if value is not None and value is not False
    ]
    note = "The columns of the tasks count the clips that have a label for it."
    if "train" in facts.splits and facts.splits["train"].emotions:
        counts = ", ".join(f"{_text(name)} {count}" for name, count in facts.splits["train"].emotions.items())
        note += f" Training clips per emotion: {counts}."
    time = (
        f"Training took {timedelta(seconds=round(facts.metrics['train_runtime']))} (hours, minutes, seconds)."
        if "train_runtime" in facts.metrics
        else ""
    )
    return _section(
        "## Training",
        note,
        _table(["set", "corpora", "clips", "hours", "known speakers", *tasks], rows),
        _table(["hyper-parameter", "value"], hyperparameters),
        time,
    )


def _loss(config: SerMtlConfig) -> str:
    rows = [[task, f"{weight:g}"] for task, weight in config.task_weights.items()]
    notes = ["The loss is the sum over the tasks of weight times loss."]
    if config.task_balancing == "uncertainty":
        notes.append("A learned log variance per task scales its loss inside its weight.")
    if "emotion" in config.tasks:
        notes.append(
            f"Emotion: cross-entropy (label smoothing {config.label_smoothing:g}, focus {config.emotion_focus:g}, "
            f"exponent of the class weights {config.emotion_class_weight:g})"
            + (f" + {config.swfc_weight:g} times SWFC." if config.swfc_weight else ".")
        )
        if config.swfc_weight:
            notes.append(
                f"SWFC: temperature {config.swfc_temperature:g}, focus {config.swfc_focus:g}, exponent of the class "
                f"weights {config.swfc_class_weight:g}, normalised by `{config.swfc_normalize}`."
            )
    if "gender" in config.tasks:
        notes.append(f"Gender: cross-entropy, exponent of the class weights {config.gender_class_weight:g}.")
    if "speaker" in config.tasks:
        notes.append(
            f"Speaker: angular margin softmax, scale {config.speaker_scale:g}, margin {config.speaker_margin:g}."
        )
    if "asr" in config.tasks:
        notes.append("ASR: CTC over characters.")
    return _section("## Loss", _table(["task", "weight"], rows), " ".join(notes))


def _limits(facts: RunFacts, config: SerMtlConfig) -> str:
    languages = (
        f"The training data is in: {', '.join(facts.languages)}."
        if facts.languages
        else ("The languages of the training data were not given.")
    )
    limits = [
        "**Acted speech.** Most public emotion corpora are acted. A model of acted speech recognises how actors render "
        "an emotion; on spontaneous speech it is worse than the results above.",
        f"**Languages.** {languages} How emotions sound differs between languages and cultures: elsewhere expect "
        "worse, and measure.",
        "**Emotion inferred from a voice is uncertain.** A score says what the voice sounds like to this model, not "
        "what a person feels. Make no decision about a person on it alone.",
        "**Law.** The EU AI Act (Regulation (EU) 2024/1689) bans systems that infer emotions of people at work and in "
        "education, except for medical or safety reasons (Article 5(1)(f)); other emotion recognition counts as "
        "high-risk (Annex III), and the people concerned must be told (Article 50(3)). Other laws may ask for more.",
    ]
    if "gender" in config.tasks:
        limits.append(
            "**Gender** is what annotators or speakers of the training data named, in the classes above; it says "
            "nothing about a person's identity."
        )
    if "speaker" in config.tasks:
        limits.append(
            "**Speaker embeddings are biometric data** where they can identify a person (in the EU: Article 9 GDPR). "
            "Compute and keep them only with a legal basis, such as explicit consent."
        )
    return _section("## Limits and risks", "\n".join(f"- {limit}" for limit in limits))


def _license(facts: RunFacts) -> str:
    given = (
        f"The model's licence is `{facts.license}`, chosen by whoever published it."
        if facts.license
        else "**No licence was given** for this model: ask whoever published it before you use it."
    )
    return _section(
        "## Licence",
        f"{given} The licences of the training data and of the base model bind too: non-commercial training data makes "
        "a non-commercial model. The Python files of this repository are Apache-2.0.",
    )


def _environment(facts: RunFacts) -> str:
    rows = [[name, _text(value)] for name, value in facts.environment.items()]
    return _section("## Environment", _table(["", ""], rows)) if rows else ""


def _reproduction(facts: RunFacts) -> str:
    if not facts.settings:
        return ""
    lines = ["python run_ser_mtl.py", *(f"    {_option(name, value)}" for name, value in facts.settings.items())]
    note = "The command of the training run; file names stand for paths on the machine where it ran."
    return _section("## How to reproduce", note, _fence(" \\\n".join(lines), "bash"))


def _option(name: str, value: Any) -> str:
    if name == "task_weights" and isinstance(value, dict):
        value = [f"{task}={weight}" for task, weight in value.items()]
    values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
    return " ".join([f"--{name}", *(shlex.quote(str(item)) for item in values)])


def _section(*paragraphs: str) -> str:
    return "\n\n".join(filter(None, paragraphs))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _fence(code: str, language: str) -> str:
    """A block of code, whatever backticks it holds."""
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{code}\n{ticks}"


def _text(value: Any) -> str:
    """A value as plain text of one line, whatever Markdown or HTML it holds."""
    return re.sub(r"([\\`*_\[\]<>|~&$#!])", r"\\\1", " ".join(str(value).split()))


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(_text, names))
