"""An exponential moving average of a model's weights, which is evaluated and saved in place of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

WEIGHTS_FILE = "training_weights.safetensors"
STATISTICS = ("running_mean", "running_var")  # of a batch norm


class WeightAverage:
    """
    An exponential moving average of the weights along a training (Polyak & Juditsky, SIAM J. Control Optim. 1992;
    Tarvainen & Valpola, NeurIPS 2017).

    After step t, from 1, the average moves towards the weights by `1 - d` with `d = min(decay, t / (9 + t))`, so that
    the first weights, which are random, are soon forgotten.

    Args:
        decay (`float`): in [0, 1); the average looks back over about `1 / (1 - decay)` steps.

    Attributes:
        weights (`dict[str, Tensor]`): the average of each trained parameter and of each statistic of a batch norm by
            name; empty outside a training, when `applied` changes nothing.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {}

    def start(self, model: nn.Module) -> None:
        """Begins with the present weights of `model`."""
        self.weights = {name: tensor.detach().clone() for name, tensor in _averaged(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves the average towards the weights of `model` after `step`, from 1."""
        decay = min(self.decay, step / (9 + step))
        tensors = _averaged(model)
        torch._foreach_lerp_(list(self.weights.values()), [tensors[name].detach() for name in self.weights], 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within the block `model` has the averaged weights."""
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    def finish(self, model: nn.Module, keep: bool) -> None:
        """Ends with the averaged weights in `model` if `keep`, and forgets them."""
        if keep:
            self._exchange(model)
        self.weights = {}

    def _exchange(self, model: nn.Module) -> None:
        tensors = _averaged(model)
        for name, average in self.weights.items():
            tensors[name].data, self.weights[name] = average, tensors[name].data


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    norms = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    }
    statistics = {f"{name}.{key}": getattr(norm, key) for name, norm in norms.items() for key in STATISTICS}
    return trained | statistics


class WeightAverageCallback(TrainerCallback):
    """
    Keeps an average along a training. A checkpoint's model is the average; the weights themselves, with which the
    training goes on, lie beside it.

    Args:
        average ([`WeightAverage`]): the same on every rank.
    """

    def __init__(self, average: WeightAverage) -> None:
        self.average = average
        self.checkpoint: str | None = None

    def save(self, model: nn.Module, checkpoint: Path) -> None:
        """Writes the weights of `model` themselves into the folder `checkpoint`, whose model is the average."""
        save_file({name: tensor.detach() for name, tensor in _averaged(model).items()}, checkpoint / WEIGHTS_FILE)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        """As in `TrainerCallback`: `model` comes with the average of `self.checkpoint`, or new where that is None."""
        self.average.start(model)
        # A training that had no average yet has no such file: its model is the weights themselves.
        if self.checkpoint is not None and (path := Path(self.checkpoint, WEIGHTS_FILE)).is_file():
            model.load_state_dict(load_file(path), strict=False)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        """As in `TrainerCallback`: takes up the new weights of `model`."""
        self.average.update(model, state.global_step)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        """As in `TrainerCallback`: `model` ends with the average, or with the best checkpoint's where it was loaded."""
        has_best = args.load_best_model_at_end and state.best_model_checkpoint is not None
        self.average.finish(model, keep=not has_best)
