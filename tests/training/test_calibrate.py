import json
import re

import numpy as np
import pytest
import torch
from scipy.special import softmax

from modeling_ser_mtl import SerMtlModel
from modeling_ser_mtl.data.collator import SerMtlCollator
from modeling_ser_mtl.data.dataset import LabelNames, SpeechDataset
from modeling_ser_mtl.data.manifest import read_manifests
from modeling_ser_mtl.evaluation.calibration import fit_temperature
from modeling_ser_mtl.training.arguments import SerMtlTrainingArguments
from modeling_ser_mtl.training.calibrate import calibrate
from modeling_ser_mtl.training.trainer import SerMtlTrainer

EMOTIONS = ["anger", "joy", "sadness"]


@pytest.fixture
def make_dataset(manifest):
    """The clips of four speakers with these emotions in turn, in windows of at most .25 s."""

    def make(emotions: list[str]) -> SpeechDataset:
        table = read_manifests([str(manifest("v.csv", range(4), emotion=(emotions * 16)[:16]))], [])
        table["length"] = [4_800 + 200 * index for index in range(16)]
        labels = LabelNames(EMOTIONS, ["female", "male"])
        return SpeechDataset(table, table["audio_path"].tolist(), labels, max_seconds=0.25)

    return make


@pytest.fixture
def trainer(plain_config, make_processor, tmp_path) -> SerMtlTrainer:
    """The trainer of a model whose emotion logits are large."""
    torch.manual_seed(0)
    config = plain_config("wav2vec2-layer", id2label=dict(enumerate(EMOTIONS)), emotion_class_counts=[20, 2, 20])
    processor = make_processor(config)
    config.vocab_size = len(processor.tokenizer)
    model = SerMtlModel(config)
    torch.nn.init.normal_(model.emotion_classifier.weight, std=3.0)
    args = SerMtlTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True)
    return SerMtlTrainer(model, args, processor, data_collator=SerMtlCollator(processor))


def test_the_temperature_is_fitted_to_the_windows_of_the_set_and_moves_no_logit(trainer, make_dataset, capsys):
    guesses = trainer.predict(make_dataset(["anger"])).predictions.emotion_probabilities.argmax(1)
    # Three in four of the model's answers are right.
    dataset = make_dataset([EMOTIONS[(guess + (clip % 4 == 0)) % 3] for clip, guess in enumerate(guesses[:-1])] + [""])
    before = trainer.predict(dataset).predictions
    calibrate(trainer, dataset, chooses_prior_correction=False)
    after = trainer.predict(dataset)
    temperature = trainer.model.config.emotion_temperature
    assert temperature == fit_temperature(before.emotion_logits, before.clip_index, dataset.emotion_labels) != 1
    np.testing.assert_allclose(after.predictions.emotion_logits, before.emotion_logits, atol=1e-5)
    windows = softmax(before.emotion_logits.astype(float) / temperature, axis=1)
    for clip, found in enumerate(after.predictions.emotion_probabilities):
        np.testing.assert_allclose(found, windows[before.clip_index == clip].mean(0), atol=1e-5)
    assert after.metrics["test_emotion_ece"] != after.metrics["test_emotion_ece_uncalibrated"]
    assert f"fitted on 15 validation clips: temperature {temperature:.3f}" in capsys.readouterr().out
    assert trainer.model.config.emotion_prior_correction == 0


def test_the_loss_after_calibration_is_no_worse_on_the_clips_that_fitted_it(trainer, make_dataset):
    dataset = make_dataset(["anger", "sadness", "joy"])
    before = trainer.predict(dataset).metrics
    calibrate(trainer, dataset, chooses_prior_correction=False)
    after = trainer.predict(dataset).metrics
    assert after["test_emotion_nll"] < before["test_emotion_nll"]
    assert after["test_loss_emotion"] == pytest.approx(before["test_loss_emotion"], rel=1e-4)


def test_the_prior_correction_is_chosen_by_macro_f1_if_asked_for_and_saved(trainer, make_dataset, tmp_path):
    # Whatever is said is anger, the frequent emotion of training, unless that is corrected.
    torch.nn.init.zeros_(trainer.model.emotion_classifier.weight)
    with torch.no_grad():
        trainer.model.emotion_classifier.bias.copy_(torch.tensor([2.0, 0.7, 0.0]))
    dataset = make_dataset(["joy", "joy", "joy", "anger"])
    calibrate(trainer, dataset, chooses_prior_correction=True)
    config = trainer.model.config
    assert config.emotion_prior_correction > 0
    predictions = trainer.predict(dataset).predictions
    assert (predictions.emotion_probabilities.argmax(1) == 1).all()
    assert (predictions.emotion_logits.argmax(1) == 0).all()
    trainer.save_model(str(tmp_path / "saved"))
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert saved["emotion_temperature"] == config.emotion_temperature
    assert saved["emotion_prior_correction"] == config.emotion_prior_correction


@pytest.mark.parametrize(
    ("emotions", "message"),
    [
        ([""], "no validation clip has an emotion"),
        (["anger"], "lies outside 0.1 to 10"),
        (["joy"], "lies outside 0.1 to 10"),
    ],
)
def test_a_set_that_says_nothing_leaves_the_probabilities_with_a_warning(
    emotions, message, trainer, make_dataset, caplog
):
    torch.nn.init.zeros_(trainer.model.emotion_classifier.weight)
    with torch.no_grad():
        trainer.model.emotion_classifier.bias.copy_(torch.tensor([2.0, 0.0, 0.0]))
    calibrate(trainer, make_dataset(emotions), chooses_prior_correction=False)
    assert trainer.model.config.emotion_temperature == 1
    assert re.search(message, caplog.text)
