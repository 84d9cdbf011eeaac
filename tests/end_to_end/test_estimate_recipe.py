"""What a recipe is said to take is counted right, and printed as an estimate."""

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from transformers import AutoConfig, AutoModel

from modeling_ser_mtl.training.parser import parse_arguments

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPT = EXAMPLES / "benchmarks" / "estimate_recipe.py"
estimate_recipe = runpy.run_path(str(SCRIPT))


@pytest.fixture
def recipe(tiny_config, tmp_path) -> Callable[..., Path]:
    """Writes a recipe of a tiny model with `settings` on top."""

    def write(**settings: object) -> Path:
        small = {"config_name": str(tiny_config()), "max_seconds": 1.5, "do_train": True, "num_train_epochs": 4}
        batches = {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 2}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(small | batches | settings))
        return path

    return write


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True)


def test_the_operations_of_a_step_are_those_of_its_layers() -> None:
    def flops(step: Callable[[], object]) -> int:
        return estimate_recipe["measure"](step).flops

    linear, convolution = nn.Linear(6, 10), nn.Conv1d(8, 12, 5, padding=2, groups=4)
    frames, signal = torch.randn(3, 6), torch.randn(2, 8, 30)
    # Two for a product and its sum; a gradient takes as many as the forward, and inputs have none.
    assert flops(lambda: linear(frames).sum().backward()) == 2 * (2 * 3 * 6 * 10)
    assert flops(lambda: convolution(signal).sum().backward()) == 2 * (2 * 2 * 30 * 12 * (8 // 4) * 5)
    query, key, value = (torch.randn(2, 4, 7, 5, requires_grad=True) for _ in range(3))
    product = 2 * 2 * 4 * 7 * 7 * 5
    attention = nn.functional.scaled_dot_product_attention
    assert flops(lambda: attention(query, key, value)) == 2 * product
    # The backward computes the scores once more, and four gradients.
    assert flops(lambda: attention(query, key, value).sum().backward()) == (2 + 5) * product


@pytest.mark.parametrize("autocast", [False, True])
def test_the_memory_of_a_forward_is_what_a_gpu_keeps_for_the_backward(autocast) -> None:
    model = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 10), nn.GELU(), nn.Dropout(0.5), nn.Linear(10, 6))
    batch = torch.randn(3, 5, 6)

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return model(batch)

    frames, size = 3 * 5, 2 if autocast else 4
    norm = frames * 4 * (6 + 2)  # input, mean and deviation
    layers = frames * size * (6 + 10 + 10)  # inputs of the first linear layer, of GELU and of the last linear layer
    mask = frames * 10
    copies = 2 * (6 * 10 + 10 * 6) if autocast else 0  # the weights in half precision
    assert estimate_recipe["saved_bytes"](forward, model) == norm + layers + mask + copies


def test_the_memory_of_a_model_grows_in_a_straight_line_with_its_batch(recipe) -> None:
    model_args, _, _ = parse_arguments([str(recipe())])
    model, processor = estimate_recipe["build"](model_args, 5)

    def memory(batch_size: int) -> int:
        return estimate_recipe["saved_bytes"](
            lambda: model(**estimate_recipe["noise"](processor, batch_size, 1.0)).loss, model
        )

    one, two, five = memory(1), memory(2), memory(5)
    assert two > 1.5 * one
    assert five == pytest.approx(one + 4 * (two - one), rel=1e-3)


@pytest.mark.parametrize("bf16", [False, True])
def test_the_estimate_says_what_it_is_and_its_figures_fit_together(recipe, bf16) -> None:
    result = call(recipe(bf16=bf16), "--num_clips", 10**9, "--mean_seconds", 0.7, "--utilisation", 0.5)
    assert result.returncode == 0, result.stderr
    assert "an estimate from a step on a CPU, not a measurement on a GPU" in result.stdout

    def figure(pattern: str) -> float:
        return float(re.search(pattern, result.stdout, re.M)[1].replace(",", ""))

    parts = {part: figure(rf"^  {part} +(\S+) GB") for part in ("weights", "gradients", "AdamW", "activations")}
    assert parts["weights"] == pytest.approx(4e-9 * figure(r"^parameters: (\S+),"), rel=5e-3)
    assert parts["gradients"] == parts["weights"] and parts["AdamW"] == pytest.approx(2 * parts["weights"], rel=2e-2)
    assert figure(r"^  together +(\S+) GB") == pytest.approx(sum(parts.values()), rel=1e-2)
    # Beside what grows with the batch a little that doesn't.
    assert 1 <= parts["activations"] / (6 * figure(r"^  a clip more adds (\S+) GB")) < 1.2
    assert "83,333,334 steps of 6 x 2 an epoch" in result.stdout

    peaks = (312, 989) if bf16 else (19.5, 67, 156, 495)
    for seconds in ("1.5", "0.7"):
        step = figure(rf"^step of 1 clip of {seconds} s: (\S+) TFLOP; [\d.]+ s on 1 threads")
        row = re.search(rf"^  {seconds} s +(\S+) +(\S+)((?: +[\d.]+ h)+)$", result.stdout, re.M)
        assert float(row[1]) == pytest.approx(12 * step, rel=1e-2)
        operations = float(row[2].replace(",", ""))  # in PFLOP
        assert operations == pytest.approx(step * 4e9 / 1e3, rel=1e-2)
        expected = [operations / (0.5 * peak / 1e3) / 3600 for peak in peaks]
        assert [float(hours) for hours in row[3].replace("h", "").split()] == pytest.approx(expected, abs=0.06)


def test_a_recipe_whose_backbone_is_not_described_here_is_one_line(recipe) -> None:
    result = call(recipe(config_name=None, model_name_or_path="org/unknown"))
    assert result.returncode == 2 and result.stderr.startswith("error: --config_name ")
    assert result.stderr.endswith("unknown.json: no such file; give a JSON file of a backbone or a SerMtlConfig\n")


def test_the_described_wavlm_is_as_large_as_the_published_one() -> None:
    values = json.loads((EXAMPLES / "backbones" / "wavlm-large.json").read_text())
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(**values))
    assert model.num_parameters() == 315_453_120
