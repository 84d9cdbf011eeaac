"""What is evaluated and saved is an exponential moving average of the weights; training goes on without it."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from modeling_ser_mtl import SerMtlModel
from modeling_ser_mtl.training.arguments import SerMtlTrainingArguments
from modeling_ser_mtl.training.weight_average import WeightAverage

from .noise_clips import make_dataset


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.floats(0, 0.999))
@settings(max_examples=50, deadline=None)
def test_the_average_follows_its_formula(path, decay) -> None:
    model = torch.nn.Linear(1, 1, bias=False).double()
    average, expected = WeightAverage(decay), 1.0
    model.weight.data.fill_(expected)
    average.start(model)
    for step, value in enumerate(path, 1):
        model.weight.data.fill_(value)
        average.update(model, step)
        kept = min(decay, step / (9 + step))
        expected = kept * expected + (1 - kept) * value
    assert average.weights["weight"].item() == pytest.approx(expected, abs=1e-12)


def test_the_model_has_the_average_within_the_block_only_even_if_it_fails() -> None:
    model = torch.nn.Linear(2, 2)
    average = WeightAverage(0.5)
    average.start(model)
    first = weights_of(model)
    model.weight.data += 1
    last = weights_of(model)
    with pytest.raises(ZeroDivisionError), average.applied(model):
        assert torch.equal(model.weight, first["weight"])
        raise ZeroDivisionError
    assert torch.equal(model.weight, last["weight"])


def test_frozen_weights_are_neither_averaged_nor_changed() -> None:
    model = torch.nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    average = WeightAverage(0.5)
    average.start(model)
    assert set(average.weights) == {"weight"}


@pytest.fixture
def train(plain_config, tmp_path, make_trainer):
    """A trainer after six steps of AdamW with `ema_decay`, saved every third step, and its weights after each step."""

    def run(decay: float, **options):
        trainer = make_trainer(
            plain_config("wav2vec2-layer"),
            make_dataset(training=True),
            optim="adamw_torch",
            learning_rate=1e-3,
            max_steps=6,
            per_device_train_batch_size=4,
            ema_decay=decay,
            do_train=True,
            save_strategy="steps",
            save_steps=3,
            output_dir=tmp_path / f"output-{decay}",
            **options,
        )
        seen = [weights_of(trainer.model)]
        step = trainer.training_step

        def training_step(model, *args, **kwargs):
            seen.append(weights_of(model))
            return step(model, *args, **kwargs)

        trainer.training_step = training_step
        trainer.train()
        return trainer, seen[1:]

    return run


def test_training_takes_the_same_path_and_ends_with_the_average_of_it(train) -> None:
    plain, path = train(0.0)
    averaged, other_path = train(0.8)
    for weights, others in zip(path, other_path, strict=True):
        assert all(torch.equal(weights[name], others[name]) for name in weights)
    model = copy.deepcopy(path[0])
    for step, weights in enumerate([*path[1:], weights_of(plain.model)], 1):
        kept = min(0.8, step / (9 + step))
        model = {name: kept * model[name] + (1 - kept) * weights[name] for name in model}
    for name, weight in averaged.model.named_parameters():
        torch.testing.assert_close(weight, model[name], rtol=1e-5, atol=1e-7)


def test_a_checkpoint_holds_the_average_as_its_model_and_the_weights_beside_it(train) -> None:
    trainer, path = train(0.8)
    folder = Path(trainer.args.output_dir) / "checkpoint-3"
    beside = load_file(folder / "training_weights.safetensors")
    assert all(torch.equal(beside[name], path[3][name]) for name in path[3])
    saved = SerMtlModel.from_pretrained(folder)
    assert any(not torch.equal(weight, path[3][name]) for name, weight in saved.named_parameters())


def test_the_evaluation_is_that_of_the_average(train) -> None:
    dataset = make_dataset()
    trainer, _ = train(0.8, eval_strategy="steps", eval_steps=6, eval_dataset=dataset)
    in_training = next(log for log in trainer.state.log_history if "eval_loss_emotion" in log)
    afterwards = trainer.evaluate(dataset)
    assert in_training["eval_loss_emotion"] == pytest.approx(afterwards["eval_loss_emotion"], rel=1e-6)
    assert in_training["step"] == 6


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_outside_its_range_is_refused(decay, tmp_path) -> None:
    with pytest.raises(ValueError, match="--ema_decay .*: give 0, or a number below 1"):
        SerMtlTrainingArguments(output_dir=tmp_path, ema_decay=decay)
