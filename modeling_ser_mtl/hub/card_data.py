"""Metadata of the model card: what the Hub searches and shows beside the text."""

from dataclasses import asdict

from huggingface_hub import EvalResult, ModelCardData

from ..configuration_ser_mtl import SerMtlConfig
from ..evaluation.report import HEADLINE_METRICS
from .run_facts import RunFacts

# Prefix of the metrics, and name of the set; the one that matters most first.
RESULT_SPLITS = {"predict": "test", "eval": "validation"}
# Task of the Hub and its name. Results of one task and set share both there.
HUB_TASKS = {
    "emotion": ("audio-classification", "Audio classification"),
    "gender": ("audio-classification", "Audio classification"),
    "speaker": ("speaker-verification", "Speaker verification"),
    "asr": ("automatic-speech-recognition", "Automatic speech recognition"),
}
# Name, type on the Hub (of our own where it has none) and arguments.
METRICS: dict[str, tuple[str, str, dict[str, str] | None]] = {
    "macro_f1": ("macro-F1", "f1", {"average": "macro"}),
    "uar": ("unweighted average recall", "recall", {"average": "macro"}),
    "accuracy": ("accuracy", "accuracy", None),
    "eer": ("equal error rate", "eer", None),
    "min_dcf": ("minimum detection cost (target prior .05)", "min_dcf", None),
    "wer": ("word error rate", "wer", None),
    "cer": ("character error rate", "cer", None),
}
HUB_METRICS = ("f1", "recall", "accuracy", "wer", "cer")
TASK_TAGS = {
    "emotion": "speech-emotion-recognition",
    "gender": "gender-recognition",
    "speaker": "speaker-verification",
    "asr": "automatic-speech-recognition",
}


def card_data(facts: RunFacts, config: SerMtlConfig, name: str) -> ModelCardData:
    """
    The metadata of a card.

    Args:
        facts ([`~hub.run_facts.RunFacts`]): how the model came about.
        config ([`SerMtlConfig`]): what it is.
        name (`str`): what the `model-index` calls the model.
    """
    tasks, results = facts.trained(config.tasks), eval_results(facts)
    types = {result.metric_type for result in results}
    return ModelCardData(
        language=facts.languages or None,
        license=facts.license or "other",
        license_name=None if facts.license else "not-given",
        library_name="transformers",
        # Of the Hub's tasks the model's pipelines know one only.
        pipeline_tag="audio-classification" if "emotion" in tasks else None,
        tags=[
            *(TASK_TAGS[task] for task in tasks),
            "multi-task",
            "ser_mtl",
            *(["synthetic-speech"] if facts.synthetic else []),
        ],
        base_model=facts.base_model,
        datasets=facts.datasets or None,
        metrics=[metric for metric in HUB_METRICS if metric in types] or None,
        model_name=name if results else None,  # part of the `model-index`
        eval_results=results or None,
        widget=[asdict(sample) for sample in facts.widget] or None,
    )


def eval_results(facts: RunFacts) -> list[EvalResult]:
    """
    The main metrics of every task and set, for the `model-index`; values as measured, neither rounded nor scaled.

    Args:
        facts ([`~hub.run_facts.RunFacts`]): how the model came about. Metrics of a set that they don't know are left
            out.

    Returns:
        `list[EvalResult]`: the test set first.
    """
    results = []
    for prefix, split in RESULT_SPLITS.items():
        for task, metric, _ in HEADLINE_METRICS:
            if split not in facts.splits or f"{prefix}_{task}_{metric}" not in facts.metrics:
                continue
            task_type, task_name = HUB_TASKS[task]
            metric_name, metric_type, metric_args = METRICS[metric]
            results.append(
                EvalResult(
                    task_type=task_type,
                    task_name=task_name,
                    # An id of the Hub where the data is one data set from there.
                    dataset_type=facts.datasets[0] if len(facts.datasets) == 1 else "custom",
                    dataset_name=", ".join(facts.splits[split].corpora),
                    dataset_split=split,
                    metric_type=metric_type,
                    metric_name=f"{_task_name(task)} {metric_name}",
                    metric_value=facts.metrics[f"{prefix}_{task}_{metric}"],
                    metric_args=metric_args,
                )
            )
    return results


def _task_name(task: str) -> str:
    return "ASR" if task == "asr" else task.capitalize()
