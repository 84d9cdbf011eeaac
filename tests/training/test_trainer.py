import io

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from modeling_ser_mtl import TASKS, SerMtlModel
from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.evaluation.metrics import embedding_similarity
from modeling_ser_mtl.losses_ser_mtl import swfc_loss
from modeling_ser_mtl.modeling_ser_mtl import config_swfc_loss
from modeling_ser_mtl.training.arguments import SerMtlTrainingArguments
from modeling_ser_mtl.training.trainer import (
    SerMtlTrainer,
    batch_labels,
    model_inputs,
)
from modeling_ser_mtl.training.whole_clips import embedding_metrics, whole_clips

from .noise_clips import CLIPS, make_dataset

BACKBONES = ("wav2vec2-layer", "wav2vec2-bert")

# The new name is not there yet in the oldest transformers.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")


# Training


@pytest.mark.parametrize("name", ["wav2vec2-group", "wav2vec2-layer", "wav2vec2-bert"])
def test_training_moves_every_parameter_with_layerdrop_spec_augment_and_checkpointing(plain_config, make_trainer, name):
    backbone = {"layerdrop": 0.2, "mask_time_prob": 0.3, "mask_time_length": 2, "hidden_dropout": 0.1}
    config = plain_config(name, backbone=backbone, fusion_dropout=0.1)
    trainer = make_trainer(
        config,
        make_dataset(training=True),
        optim="adamw_torch",
        learning_rate=1e-3,
        max_steps=6,
        per_device_train_batch_size=4,
        gradient_checkpointing=True,
    )
    before = {key: value.detach().clone() for key, value in trainer.model.named_parameters()}
    trainer.train()
    unmoved = [key for key, value in trainer.model.named_parameters() if torch.equal(before[key], value)]
    assert unmoved == []
    assert all(value.isfinite().all() for value in trainer.model.parameters())


def test_the_log_has_the_loss_of_every_task_and_their_weighted_sum(plain_config, make_trainer):
    config = plain_config("wav2vec2-layer", task_weights={"emotion": 1.0, "gender": 0.5, "speaker": 0.2, "asr": 0.3})
    trainer = make_trainer(config, make_dataset(training=True), max_steps=2, per_device_train_batch_size=8)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 2
    for log in logs:
        total = sum(config.task_weights[task] * log[f"loss_{task}"] for task in TASKS)
        total += config.swfc_weight * log["loss_swfc"]
        assert log["loss"] == pytest.approx(total, abs=1e-3)


def test_the_logged_losses_are_means_since_the_last_log_over_the_batches_with_labels(plain_config, make_trainer):
    logs = []
    for steps in (1, 4):
        trainer = make_trainer(
            plain_config("wav2vec2-layer"),
            make_dataset(training=True),
            learning_rate=0.0,
            max_steps=4,
            per_device_train_batch_size=2,
            logging_steps=steps,
        )
        trainer.train()
        logs.append([log for log in trainer.state.log_history if "loss" in log])
    every, once = logs
    assert len(every) == 4 and len(once) == 1
    assert any("loss_gender" not in log for log in every)  # a batch without genders
    for task in TASKS:
        seen = [log[f"loss_{task}"] for log in every if f"loss_{task}" in log]
        assert once[0][f"loss_{task}"] == pytest.approx(np.mean(seen), abs=1e-3)


def test_a_loss_that_is_nan_shows_in_the_log(plain_config, make_trainer):
    trainer = make_trainer(plain_config("wav2vec2-layer"), make_dataset(training=True), max_steps=1)
    with torch.no_grad():
        trainer.model.gender_classifier.bias.fill_(torch.nan)
    trainer.train()
    log = next(log for log in trainer.state.log_history if "loss_gender" in log)
    assert np.isnan(log["loss_gender"]) and np.isfinite(log["loss_speaker"])


def test_the_logged_gradients_are_those_that_the_learned_uncertainty_scales(plain_config, make_trainer):
    norms = []
    for variance in (0.0, 2.0):
        trainer = make_trainer(
            plain_config("wav2vec2-layer", task_balancing="uncertainty"),
            make_dataset(training=True),
            learning_rate=0.0,
            max_steps=1,
            per_device_train_batch_size=8,
            task_gradient_steps=1,
        )
        torch.nn.init.constant_(trainer.model.task_log_variances, variance)
        trainer.train()
        norms.append(next(log for log in trainer.state.log_history if "loss" in log)["encoder_grad_norm_asr"])
    assert norms[1] == pytest.approx(norms[0] * np.exp(-2.0), rel=1e-4)


@pytest.fixture
def weights_of_both(make_trainer):
    """Weights after SGD in batches of 2, four of them accumulated, and in batches of 8; SWFC must be off."""

    def train(config, table, **options) -> list[dict[str, torch.Tensor]]:
        weights = []
        for accumulation, size in [(4, 2), (1, 8)]:
            trainer = make_trainer(
                config,
                make_dataset(table, training=True),
                learning_rate=0.1,
                max_grad_norm=0.0,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=accumulation,
                **options,
            )
            before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
            trainer.train()
            weights.append(trainer.model.state_dict())
            assert max((weights[-1][key] - before[key]).abs().max() for key in before) > 1e-3
        return weights

    return train


@pytest.mark.parametrize("tasks", [*((task,) for task in TASKS), TASKS])
def test_accumulated_small_batches_give_the_weights_of_one_large_batch(plain_config, weights_of_both, tasks):
    # Some of the small batches have no label of a task.
    config = plain_config("wav2vec2-layer", tasks=tasks, swfc_weight=0.0, task_balancing="uncertainty")
    torch.testing.assert_close(*weights_of_both(config, CLIPS, max_steps=2), rtol=1e-5, atol=1e-6)


def test_a_last_step_of_fewer_accumulated_batches_counts_its_own_clips(plain_config, weights_of_both):
    table = pd.concat([CLIPS, CLIPS.iloc[:3]], ignore_index=True)  # 11 clips: batches of 2, 2, 2, 2 and 2, 1
    config = plain_config("wav2vec2-layer", swfc_weight=0.0)
    torch.testing.assert_close(*weights_of_both(config, table, num_train_epochs=2), rtol=1e-5, atol=1e-6)


def test_a_second_training_starts_without_anything_of_the_first(plain_config, make_trainer):
    trainer = make_trainer(
        plain_config("wav2vec2-layer", swfc_weight=0.1),
        make_dataset(training=True),
        swfc_memory_size=9,
        learning_rate=0.0,
        max_steps=3,
        logging_steps=2,  # the third step is never logged
        per_device_train_batch_size=4,
        speaker_margin_warmup_steps=0,
    )
    histories = []
    for _ in range(2):
        trainer.train()
        histories.append([log for log in trainer.state.log_history if "loss" in log])
    assert histories[0] == histories[1]


def test_resuming_without_a_checkpoint_is_an_error(plain_config, make_trainer):
    trainer = make_trainer(plain_config("wav2vec2-layer"), make_dataset(training=True), swfc_memory_size=9)
    with pytest.raises(ValueError, match="No valid checkpoint"):
        trainer.train(resume_from_checkpoint=True)


def test_swfc_over_accumulated_batches_is_the_mean_of_each_batch_alone(plain_config, make_trainer):
    options = {"learning_rate": 0.0, "max_steps": 1, "per_device_train_batch_size": 4}
    config = plain_config("wav2vec2-layer", tasks=("emotion",), swfc_temperature=1.0)
    accumulated = make_trainer(config, make_dataset(training=True), gradient_accumulation_steps=2, **options)
    accumulated.train()
    # The same order, a step for each batch.
    alone = make_trainer(config, make_dataset(training=True), **options | {"max_steps": 2})
    alone.train()
    found = [log["loss_swfc"] for log in accumulated.state.log_history if "loss_swfc" in log]
    expected = [log["loss_swfc"] for log in alone.state.log_history if "loss_swfc" in log]
    assert len(found) == 1 and expected[0] != pytest.approx(expected[1], abs=5e-3)
    assert found[0] == pytest.approx(np.mean(expected), abs=2e-4)


def test_the_memory_gives_swfc_the_clips_of_past_batches(plain_config, make_trainer):
    config = plain_config("wav2vec2-layer", tasks=("emotion",), swfc_temperature=1.0)
    trainer = make_trainer(
        config,
        make_dataset(training=True),
        swfc_memory_size=9,
        learning_rate=0.0,
        max_steps=2,
        per_device_train_batch_size=4,
    )
    batches = list(trainer.get_train_dataloader())
    trainer.train()
    with torch.no_grad():
        first, second = (trainer.model(**model_inputs(batch)).emotion_embeddings for batch in batches)
    labels = [batch["emotion_labels"] for batch in batches]
    expected = [
        config_swfc_loss(first, labels[0], config).item(),
        config_swfc_loss(second, labels[1], config, first, labels[0]).item(),
    ]
    found = [log["loss_swfc"] for log in trainer.state.log_history if "loss_swfc" in log]
    assert found == pytest.approx(expected, abs=1e-3)
    assert len(trainer.memory.labels) == (CLIPS["emotion"] != "").sum()


def test_the_speaker_margin_grows_from_0_over_its_warm_up(plain_config, make_trainer):
    config = plain_config("wav2vec2-layer", tasks=("speaker",), speaker_margin=0.4)
    trainer = make_trainer(
        config,
        make_dataset(training=True),
        speaker_margin_warmup_steps=0.5,
        learning_rate=0.0,
        max_steps=4,
        per_device_train_batch_size=8,
    )
    trainer.train()
    found = [log["loss_speaker"] for log in trainer.state.log_history if "loss_speaker" in log]
    batch = next(iter(trainer.get_train_dataloader()))
    expected = []
    for margin in (0.0, 0.2, 0.4, 0.4):
        with torch.no_grad():
            output = trainer.model(**model_inputs(batch))
            losses, known = trainer.model.clip_losses(output, batch_labels(batch), margin)["speaker"]
        expected.append(losses[known].mean().item())
    assert found == pytest.approx(expected, abs=1e-3) and found[0] < found[1] < found[2]


def test_transcripts_too_long_for_their_clip_are_counted_and_left_out(plain_config, make_trainer):
    table = CLIPS.assign(text=["a" * 400, "ab", "", "b" * 300, "abc", "", "it's", "b"])
    logs = []
    for texts in (table, table.assign(text=["", "ab", "", "", "abc", "", "it's", "b"])):
        trainer = make_trainer(
            plain_config("wav2vec2-layer"),
            make_dataset(texts, training=True),
            learning_rate=0.0,
            max_steps=4,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            logging_steps=2,
        )
        trainer.train()
        logs.append([log for log in trainer.state.log_history if "loss_asr" in log])
    assert [log["asr_infeasible"] for log in logs[0]] == [2, 2]  # two epochs
    assert [log["asr_infeasible"] for log in logs[1]] == [0, 0]
    assert [log["loss_asr"] for log in logs[0]] == pytest.approx([log["loss_asr"] for log in logs[1]], abs=1e-3)


def test_the_log_has_each_task_s_gradient_on_the_encoder_and_its_cosine_with_emotion_s(plain_config, make_trainer):
    weights = {"emotion": 1.0, "gender": 0.5, "speaker": 0.2, "asr": 0.3}
    trainer = make_trainer(
        plain_config("wav2vec2-layer", task_weights=weights),
        make_dataset(training=True),
        learning_rate=0.0,
        max_steps=3,
        per_device_train_batch_size=8,
        task_gradient_steps=2,
        speaker_margin_warmup_steps=0,
    )
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert ["encoder_grad_norm_asr" in log for log in logs] == [True, False, True]

    batch = next(iter(trainer.get_train_dataloader()))
    gradients = {}
    for task in TASKS:
        model = trainer.model.train()
        model.zero_grad()
        labels = {name: label for name, label in batch_labels(batch).items() if name == task}
        model.multi_task_loss(model(**model_inputs(batch)), labels)[0].backward()
        gradients[task] = torch.cat([p.grad.flatten() for p in model.backbone.parameters() if p.grad is not None])
        assert logs[0][f"encoder_grad_norm_{task}"] == pytest.approx(gradients[task].norm().item(), rel=1e-4)
        if task != "emotion":
            expected = torch.cosine_similarity(gradients["emotion"], gradients[task], dim=0).item()
            assert logs[0][f"encoder_grad_cosine_{task}"] == pytest.approx(expected, abs=1e-4)


def test_logging_gradients_changes_no_weight(plain_config, make_trainer):
    weights = []
    for steps in (0, 1):
        trainer = make_trainer(
            plain_config("wav2vec2-layer"),
            make_dataset(training=True),
            max_steps=2,
            learning_rate=0.1,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            task_gradient_steps=steps,
            gradient_checkpointing=True,
        )
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_class_aware_batches_leave_no_emotion_alone(plain_config, make_trainer, strategy):
    dataset = make_dataset(pd.concat([CLIPS] * 6, ignore_index=True), training=True)
    trainer = make_trainer(
        plain_config("wav2vec2-layer"),
        dataset,
        class_aware_batches=True,
        per_device_train_batch_size=8,
        train_sampling_strategy=strategy,
    )
    seen = []
    for batch in trainer.get_train_dataloader():
        seen += batch["clip_index"].tolist()
        labels, counts = batch["emotion_labels"].unique(return_counts=True)
        assert (counts[labels >= 0] >= 2).all()
    assert sorted(seen) == list(range(48))


def test_the_backbone_and_the_heads_have_their_own_learning_rates(plain_config, make_trainer):
    trainer = make_trainer(
        plain_config("wav2vec2-layer"), learning_rate=1e-5, head_learning_rate=1e-3, weight_decay=0.1
    )
    groups = trainer.create_optimizer().param_groups
    rates = {id(parameter): (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    decayed = trainer.get_decay_parameter_names(trainer.model)
    for name, parameter in trainer.model.named_parameters():
        expected = 1e-5 if name.startswith("backbone.") else 1e-3, 0.1 if name in decayed else 0.0
        assert rates.pop(id(parameter)) == expected
    assert rates == {}


def test_the_log_variances_of_the_tasks_do_not_decay(plain_config, make_trainer):
    trainer = make_trainer(plain_config("wav2vec2-layer", task_balancing="uncertainty"), weight_decay=0.5)
    decay = {
        id(p) for group in trainer.create_optimizer().param_groups if group["weight_decay"] for p in group["params"]
    }
    assert decay and id(trainer.model.task_log_variances) not in decay


def test_frozen_parameters_are_not_optimised(plain_config, make_trainer):
    trainer = make_trainer(plain_config("wav2vec2-layer"), head_learning_rate=1e-3)
    trainer.model.freeze_feature_encoder()
    frozen = {id(parameter) for parameter in trainer.model.backbone.feature_extractor.parameters()}
    optimised = {id(p) for group in trainer.create_optimizer().param_groups for p in group["params"]}
    assert frozen and not frozen & optimised


def test_grouping_by_length_is_the_same_order_for_the_same_seed_and_epoch(plain_config, make_trainer):
    options = {"train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 2}
    table = pd.concat([CLIPS] * 4, ignore_index=True)
    orders = []
    for seed in (1, 1, 2):
        dataset = make_dataset(table, training=True)
        sampler = make_trainer(plain_config("wav2vec2-layer"), dataset, seed=seed, **options)._get_train_sampler()
        first = list(sampler)
        dataset.set_epoch(1)
        orders.append([first, list(sampler)])
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][0] != orders[0][1]
    assert sorted(orders[0][0]) == list(range(32))


# Evaluation


@pytest.mark.parametrize("name", BACKBONES)
def test_metrics_do_not_depend_on_the_batch_size(plain_config, make_trainer, name):
    results = []
    for size in (1, 3, 8):
        trainer = make_trainer(plain_config(name), per_device_eval_batch_size=size)
        metrics = trainer.evaluate(make_dataset(max_seconds=0.4))
        results.append({key: value for key, value in metrics.items() if not key.endswith(("time", "per_second"))})
    for result in results[1:]:
        assert result == pytest.approx(results[0], abs=1e-4)
    expected = {"emotion_macro_f1", "gender_uar", "speaker_eer", "asr_wer", "loss", "loss_swfc"}
    expected |= {"emotion_similarity_within", "emotion_similarity_between"}
    assert {f"eval_{metric}" for metric in expected | {f"loss_{task}" for task in TASKS}} <= set(results[0])


def test_the_evaluation_loss_is_the_weighted_sum_of_the_task_losses_without_swfc(plain_config, make_trainer):
    trainer = make_trainer(plain_config("wav2vec2-layer"))
    metrics = trainer.evaluate(make_dataset())
    weights = trainer.model.config.task_weights
    assert metrics["eval_loss"] == pytest.approx(sum(weights[task] * metrics[f"eval_loss_{task}"] for task in TASKS))


def test_clip_losses_are_nan_without_a_label_and_averaged_over_the_others(plain_config, make_trainer):
    trainer = make_trainer(plain_config("wav2vec2-layer"), per_device_eval_batch_size=3)
    dataset = make_dataset()
    output = trainer.predict(dataset)
    losses = output.predictions.losses
    for task, column in {"emotion": "emotion", "gender": "gender", "speaker": "speaker", "asr": "text"}.items():
        known = (CLIPS[column] != "").to_numpy()
        np.testing.assert_array_equal(~np.isnan(losses[task]), known)
        assert output.metrics[f"test_loss_{task}"] == pytest.approx(losses[task][known].mean(), rel=1e-5)
        # The same clips in one batch through the model alone.
        batch = trainer.data_collator([dataset[index] for index in known.nonzero()[0]])
        batch.pop("clip_index")
        with torch.no_grad():
            expected = trainer.model.eval()(**batch).task_losses[task].item()
        assert output.metrics[f"test_loss_{task}"] == pytest.approx(expected, rel=1e-4)


def test_a_split_without_labels_gives_predictions_and_no_metric_of_a_task(plain_config, make_trainer):
    trainer = make_trainer(plain_config("wav2vec2-layer"))
    output = trainer.predict(make_dataset(CLIPS.assign(emotion="", gender="", speaker="", text="")))
    assert output.predictions.emotion_probabilities.shape == (8, 3)
    np.testing.assert_allclose(output.predictions.emotion_probabilities.sum(1), 1.0, rtol=1e-5)
    assert not [name for name in output.metrics if "loss" in name or name.removeprefix("test_").startswith(TASKS)]


@pytest.mark.parametrize("tasks", [("emotion",), ("gender", "asr"), ("speaker",)])
def test_a_model_with_fewer_tasks_trains_and_has_their_metrics_only(plain_config, make_trainer, tasks):
    trainer = make_trainer(plain_config("wav2vec2-layer", tasks=tasks), make_dataset(training=True), max_steps=1)
    trainer.train()
    metrics = trainer.evaluate(make_dataset())
    found = {task for task in TASKS for name in metrics if name.startswith((f"eval_{task}_", f"eval_loss_{task}"))}
    assert found == set(tasks)


def test_the_windows_of_a_long_clip_are_averaged_and_their_texts_joined(plain_config, make_processor):
    processor = make_processor(plain_config("wav2vec2-layer"))
    dataset = make_dataset(CLIPS[:3])
    a, b, blank = *processor.tokenizer.convert_tokens_to_ids(["a", "b"]), processor.tokenizer.pad_token_id
    config = plain_config("wav2vec2-layer")
    kept = {
        "emotion": np.log([[0.5, 0.4, 0.1], [0.9, 0.05, 0.05], [0.1, 0.75, 0.15], [0.1, 0.1, 0.8]]),
        "gender": np.array([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0], [0.2, 0.8]]),
        "speaker": np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -1.0]]),
        "asr": np.array([[a, blank, a], [blank, -100, -100], [a, b, -100], [b, b, b]]),
        "loss_gender": np.array([0.5, 1.0, 3.0, np.nan]),
    }
    predictions = whole_clips(kept, np.array([0, 1, 1, 2]), dataset, processor, config)
    np.testing.assert_allclose(predictions.emotion_probabilities, [[0.5, 0.4, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8]])
    np.testing.assert_allclose(predictions.gender_probabilities, [[0.5, 0.5], [0.5, 0.5], [0.2, 0.8]])
    np.testing.assert_allclose(predictions.speaker_embeddings, [[1.0, 0.0], [0.5, 0.5], [0.0, -1.0]])
    assert predictions.transcripts == ["aa", "ab", "b"]
    np.testing.assert_allclose(predictions.losses["gender"], [0.5, 2.0, np.nan])
    assert predictions.references == ["ab", "b a", ""] and predictions.speakers == ["c/0", "c/1", "c/2"]


def test_a_long_clip_is_predicted_as_the_mean_of_its_windows(plain_config, make_trainer):
    trainer = make_trainer(plain_config("wav2vec2-layer"), per_device_eval_batch_size=3)
    dataset = make_dataset(max_seconds=0.2)
    assert len(dataset) > len(CLIPS)
    probabilities = trainer.predict(dataset).predictions.emotion_probabilities
    waveform = soundfile.read(io.BytesIO(dataset.audio[0]), dtype="float32")[0]
    with torch.no_grad():
        logits = [
            trainer.model(**trainer.processing_class(window, sampling_rate=16_000)).logits
            for window in np.array_split(waveform, 3)
        ]
    np.testing.assert_allclose(probabilities[0], torch.cat(logits).softmax(-1).mean(0), atol=1e-5)


def test_metrics_of_the_embeddings_are_over_all_clips_and_absent_without_pairs(plain_config):
    config = plain_config("wav2vec2-layer", emotion_class_counts=[4, 2, 1])
    embeddings = np.random.default_rng(0).standard_normal((9, 5))
    labels = np.array([0, 0, 1, 1, 2, -100, 0, 2, -100])
    metrics = embedding_metrics(embeddings, labels, config)
    expected = swfc_loss(torch.tensor(embeddings).float(), torch.tensor(labels), [4, 2, 1]).item()
    assert metrics["loss_swfc"] == pytest.approx(expected)
    within, between = embedding_similarity(embeddings, labels)
    assert metrics["emotion_similarity_within"] == within and metrics["emotion_similarity_between"] == between
    assert embedding_metrics(embeddings, np.full(9, -100), config) == {}


def test_the_windows_of_one_clip_are_no_pair_of_clips(plain_config, make_trainer):
    table = CLIPS[CLIPS["emotion"].isin(["anger", "joy"])].iloc[:2].reset_index(drop=True)  # one clip of each
    metrics = make_trainer(plain_config("wav2vec2-layer")).evaluate(make_dataset(table, max_seconds=0.2))
    assert "eval_emotion_similarity_between" in metrics and "eval_emotion_similarity_within" not in metrics
    assert metrics["eval_loss_swfc"] == 0.0


def test_several_gpus_in_one_process_are_refused(plain_config, make_processor, tmp_path):
    config = plain_config("wav2vec2-layer")
    args = SerMtlTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert args.n_gpu == 0  # asks for the devices, which must not overwrite the next line
    args._n_gpu = 2
    with pytest.raises(InputError, match="found 2 GPUs and one process.*accelerate launch"):
        SerMtlTrainer(SerMtlModel(config), args, make_processor(config))
