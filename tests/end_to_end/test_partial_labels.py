"""Corpora that lack labels train together: each task learns from the clips that have its label, and only from them."""

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import run_ser_mtl
from modeling_ser_mtl.data.collator import SerMtlCollator
from modeling_ser_mtl.data.dataset import LabelNames, SpeechDataset
from modeling_ser_mtl.data.loading import drop_unusable, load_manifest_splits
from modeling_ser_mtl.training.arguments import ModelArguments
from modeling_ser_mtl.training.builders import build_model, build_processor, load_config
from modeling_ser_mtl.training.parser import parse_arguments

HEADS = {
    "emotion": ("emotion_classifier.", "emotion_embedding.", "emotion_pooling."),
    "gender": ("gender_classifier.",),
    "speaker": ("speaker_prototypes", "speaker_embedding.", "speaker_pooling."),
    "asr": ("ctc_head.",),
}
COLUMNS = {"emotion": "emotion", "gender": "gender", "speaker": "speaker_id", "asr": "text"}


@pytest.fixture
def gradients(tiny_config, tmp_path) -> Callable[[pd.DataFrame], dict[str, dict[str, torch.Tensor]]]:
    """The gradients of each task's own weights for one batch of all clips of a table (fixed model, no dropout)."""
    dropouts = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout")
    path = tiny_config("wav2vec2", apply_spec_augment=False, **dict.fromkeys(dropouts, 0.0))
    labels = LabelNames(["anger", "sadness"], ["female", "male"], [f"{tmp_path.name}/s{i}" for i in range(6)])
    arguments = ModelArguments(config_name=str(path))
    config = load_config(arguments)
    config.fusion_dropout = 0.0
    processor = build_processor(arguments, config, None)
    torch.manual_seed(0)
    model = build_model(arguments, config, processor, labels, {"emotion": [12, 12], "gender": [12, 12]}).train()

    def compute(table: pd.DataFrame) -> dict[str, dict[str, torch.Tensor]]:
        table.to_csv(tmp_path / "batch.csv", index=False)
        splits = load_manifest_splits({"train": [str(tmp_path / "batch.csv")]}, ["emotion"])
        split, _ = drop_unusable(splits["train"], num_workers=1)
        dataset = SpeechDataset(split.table, split.audio, labels, max_seconds=20, training=True)
        batch = SerMtlCollator(processor)([dataset[index] for index in range(len(dataset))])
        model.zero_grad(set_to_none=False)
        batch.pop("clip_index")
        output = model(**batch)
        assert torch.isfinite(output.loss)
        output.loss.backward()
        gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
        assert all(torch.isfinite(value).all() for value in gradients.values())
        return {task: {n: g for n, g in gradients.items() if n.startswith(heads)} for task, heads in HEADS.items()}

    return compute


@pytest.mark.parametrize("task", HEADS)
def test_a_batch_without_labels_of_a_task_gives_its_weights_exactly_zero_gradient(clips, gradients, task) -> None:
    found = gradients(clips.iloc[8:16].assign(**{COLUMNS[task]: ""}))
    for other, values in found.items():
        assert values
        nonzero = any(value.any() for value in values.values())
        assert nonzero == (other != task), other


@pytest.mark.parametrize("task", HEADS)
def test_a_tasks_gradient_does_not_depend_on_other_tasks_labels(clips, gradients, task) -> None:
    labelled, unlabelled = clips.iloc[[0, 5, 8]], clips.iloc[[13, 18]].assign(**{COLUMNS[task]: ""})
    before = gradients(pd.concat([labelled, unlabelled]))[task]
    changed = {
        "emotion": ["sadness", "anger"],
        "gender": ["male", "female"],
        "speaker_id": ["s1", "s0"],
        "text": ["dd", ""],
    }
    del changed[COLUMNS[task]]
    after = gradients(pd.concat([labelled, unlabelled.assign(**changed)]))[task]
    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("task", ["emotion", "gender", "speaker"])
def test_a_tasks_gradient_is_that_of_the_labelled_clips_alone(clips, gradients, task) -> None:
    labelled, unlabelled = clips.iloc[[0, 5, 8]], clips.iloc[[13, 18]].assign(**{COLUMNS[task]: ""})
    alone, together = gradients(labelled)[task], gradients(pd.concat([labelled, unlabelled]))[task]
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], atol=2e-5, rtol=1e-3)


@pytest.fixture
def two_corpora(manifest) -> dict[str, object]:
    """A run over corpus A without text and corpus B without emotion, both in every set."""
    files = {}
    for name, speakers in (("train", (0, 1)), ("validation", (2, 3)), ("test", (4, 5))):
        files[f"{name}_file"] = [
            manifest(f"A/{name}.csv", [speakers[0]], text=""),
            manifest(f"B/{name}.csv", [speakers[1]], emotion=""),
        ]
    return {**files, "do_train": True, "do_predict": True}


def test_metrics_count_the_labelled_clips_only(command, two_corpora, tmp_path) -> None:
    metrics = run_ser_mtl.run(*parse_arguments(command(**two_corpora, calibrate=False)))
    table = pd.read_csv(tmp_path / "output" / "predictions.csv", dtype=str, keep_default_na=False)
    assert len(table) == 8
    known = table[table["true_emotion"] != ""]
    assert len(known) == 4
    assert metrics["predict_emotion_accuracy"] == (known["emotion"] == known["true_emotion"]).mean()
    assert metrics["predict_gender_accuracy"] == (table["gender"] == table["true_gender"]).mean()
    assert metrics["predict_emotion_uar_a"] == metrics["predict_emotion_uar"]
    assert "predict_emotion_uar_b" not in metrics
    probability = np.where(known["true_emotion"] == "anger", known["p_anger"], known["p_sadness"]).astype(float)
    for name in ("loss_emotion", "emotion_nll"):
        assert metrics[f"predict_{name}"] == pytest.approx(-np.log(probability).mean(), abs=1e-4)


def test_a_run_without_any_transcript_trains_the_other_tasks_and_says_so(command, manifest, caplog) -> None:
    options = {"train_file": manifest("all.csv", range(6), text=""), "do_train": True}
    metrics = run_ser_mtl.run(*parse_arguments(command(**options)))
    assert "no training clip has a label for the task asr" in caplog.text
    assert "eval_asr_wer" not in metrics and "eval_emotion_uar" in metrics
    assert all(np.isfinite(value) for value in metrics.values())


def test_clips_without_a_label_of_the_tasks_change_nothing_that_is_learned(command, clips, manifest, tmp_path) -> None:
    labelled = clips.iloc[:8]
    others = clips.iloc[8:16].assign(emotion=["", "calm"] * 4)
    pd.concat([others[:3], labelled, others[3:]]).to_csv(tmp_path / "more.csv", index=False)
    labelled.to_csv(tmp_path / "labelled.csv", index=False)
    options = {
        "validation_file": manifest("validation.csv", [4, 5]),
        "do_train": True,
        "tasks": ["emotion"],
        "emotion_labels": ["anger", "sadness"],
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "augment": ["gain", "noise"],
        "load_best_model_at_end": False,
    }
    weights, steps = [], []
    for name in ("labelled", "more"):
        output = tmp_path / f"trained on {name}"
        run_ser_mtl.run(*parse_arguments(command(**options, train_file=tmp_path / f"{name}.csv", output_dir=output)))
        weights.append(load_file(output / "model.safetensors"))
        steps.append(json.loads((output / "trainer_state.json").read_text())["global_step"])
    assert steps == [4, 4]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_acted_emotions_and_read_speech_train_together(command, corpora, tmp_path) -> None:
    """Eight clips of RAVDESS and eight of LibriSpeech, which has no emotions and other sentences."""
    for name in ("ravdess", "librispeech"):
        rows = pd.read_csv(corpora / name / "manifest.csv", dtype=str, keep_default_na=False)
        speakers = sorted(rows["speaker_id"].unique())[:4]
        rows = rows[rows["speaker_id"].isin(speakers)].groupby("speaker_id").sample(2, random_state=0)
        rows["audio"] = [str((corpora / name / audio).resolve()) for audio in rows["audio"]]
        rows["corpus"] = name
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
    options = {
        "train_file": [tmp_path / "ravdess.csv", tmp_path / "librispeech.csv"],
        "do_train": True,
        "max_seconds": 4,
        "validation_speakers": 0.5,
    }
    metrics = run_ser_mtl.run(*parse_arguments(command(**options)))
    assert metrics["eval_emotion_accuracy"] >= 0
    assert np.isfinite(metrics["eval_loss"]) and np.isfinite(metrics["train_loss"])
