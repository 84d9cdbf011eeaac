"""
Memory and hours of a recipe on one 80 GB GPU: `python examples/benchmarks/estimate_recipe.py RECIPE.yaml`.

An estimate, not a measurement on a GPU. The recipe's model, at its full size and with random weights, takes a real
training step on the CPU: one clip of noise, forward, backward and AdamW. The step's floating point operations are
counted, and so are the bytes that a forward of one and of two clips keeps for its backward, from which those of a whole
batch follow. Hours are given for clips as long as the recipe allows and for clips of the corpus's mean length: since a
batch is padded to its longest clip, a training lies between. No layer is dropped. Temporary buffers, evaluation and the
reading of audio are not in the figures.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_backward_flop_count, sdpa_flop_count

from modeling_ser_mtl import EMOTIONS, SerMtlModel, SerMtlProcessor
from modeling_ser_mtl.data.audio import SAMPLING_RATE
from modeling_ser_mtl.data.collator import SerMtlCollator
from modeling_ser_mtl.data.dataset import LabelNames
from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.training.arguments import ModelArguments, SerMtlTrainingArguments
from modeling_ser_mtl.training.builders import build_model, build_processor, load_config
from modeling_ser_mtl.training.parser import parse_arguments

BACKBONES = Path(__file__).resolve().parents[1] / "backbones"
GPU_BYTES = 80e9
# Dense peaks of the data sheets (A100 and H100 SXM, both with 80 GB), in TFLOP/s.
PEAKS = {
    "A100": {"float32": 19.5, "TF32": 156.0, "bf16": 312.0},
    "H100": {"float32": 67.0, "TF32": 495.0, "bf16": 989.0},
}


@dataclass
class Step:
    """
    A training step.

    Args:
        flops (`int`): floating point operations, a multiplication and an addition being two.
        seconds (`float`): how long it took here.
    """

    flops: int
    seconds: float


@dataclass
class Training:
    """
    What a training takes.

    Args:
        steps (`dict[float, Step]`): a step of one clip, by the clip's length in seconds.
        memory (`dict[str, int]`): bytes of a batch, by what they hold.
        bytes_per_clip (`int`): what one more clip in the batch adds.
    """

    steps: dict[float, Step]
    memory: dict[str, int]
    bytes_per_clip: int


def convolution_backward(
    grad: list[int], input: list[int], weight: list[int], *args: Any, out_shape: Any, **kwargs: Any
) -> int:
    """Operations of a convolution's backward from shapes: each gradient takes as many as the forward."""
    *_, transposed, _, _, output_mask = args
    return sum(output_mask[:2]) * conv_flop_count(input, weight, grad, transposed)


def attention(query: list[int], key: list[int], value: list[int], *args: Any, **kwargs: Any) -> int:
    """Operations of an attention from shapes."""
    return sdpa_flop_count(query, key, value)


def attention_backward(
    grad: list[int], query: list[int], key: list[int], value: list[int], *args: Any, **kwargs: Any
) -> int:
    """Operations of an attention's backward from shapes."""
    return sdpa_backward_flop_count(grad, query, key, value)


# PyTorch's counter takes grouped convolutions for whole ones in the backward, and knows the attention of GPUs only.
FORMULAS = {
    torch.ops.aten.convolution_backward: convolution_backward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
}


def measure(step: Callable[[], object]) -> Step:
    """Runs `step` once and counts what its matrix products, convolutions and attentions compute."""
    start = time.perf_counter()
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        step()
    return Step(counter.get_total_flops(), time.perf_counter() - start)


def saved_bytes(forward: Callable[[], object], model: nn.Module) -> int:
    """
    Bytes that a GPU would keep of `forward` for its backward, each storage once, without parameters and buffers of the
    `model`. Nothing is kept here, so that there is no backward, and large batches fit into little memory.
    """
    own = {StorageWeakRef(tensor.untyped_storage()) for tensor in (*model.parameters(), *model.buffers())}
    sizes: dict[StorageWeakRef, int] = {}

    def count(tensor: Tensor) -> Any:
        sizes[StorageWeakRef(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()

    with as_on_a_gpu(), torch.autograd.graph.saved_tensors_hooks(count, lambda nothing: nothing):
        forward()
    return sum(size for storage, size in sizes.items() if storage not in own)


def as_on_a_gpu() -> Any:
    """
    A context in which three functions keep what they keep on a GPU: the mask of dropout takes a byte a value, and
    softmax and layer norm run in float32 under autocast too.
    """
    softmax, layer_norm = F.softmax, F.layer_norm

    def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return torch.native_dropout(input, p, True)[0] if training and p else input

    return patch.multiple(
        F,
        dropout=dropout,
        softmax=lambda input, *args, **kwargs: softmax(input.float(), *args, **kwargs),
        layer_norm=lambda input, *args, **kwargs: layer_norm(input.float(), *args, **kwargs),
    )


def build(model_args: ModelArguments, num_speakers: int) -> tuple[SerMtlModel, SerMtlProcessor]:
    """The model to train, with random weights, and its processor. Raises an [`InputError`] as the training does."""
    config = load_config(model_args)
    labels = LabelNames(
        model_args.emotion_labels or EMOTIONS, model_args.gender_labels, [*map(str, range(num_speakers))]
    )
    counts = {"emotion": [1] * len(labels.emotion), "gender": [1] * len(labels.gender)}
    processor = build_processor(model_args, config, None)
    return build_model(model_args, config, processor, labels, counts).train(), processor


def noise(processor: SerMtlProcessor, batch_size: int, seconds: float) -> dict[str, Tensor]:
    """A batch of clips of noise, all of this length, with the labels of every task and 14 characters a second."""
    random = np.random.default_rng(0)
    items = [
        {
            "waveform": random.standard_normal(round(seconds * SAMPLING_RATE), dtype=np.float32),
            "emotion_label": 0,
            "gender_label": 0,
            "speaker_label": 0,
            "text": " ".join(["speech"] * max(1, round(2 * seconds))),
            "clip_index": 0,
        }
        for _ in range(batch_size)
    ]
    batch = SerMtlCollator(processor)(items)
    del batch["clip_index"]
    return batch


def measure_training(
    model: SerMtlModel, processor: SerMtlProcessor, args: SerMtlTrainingArguments, lengths: tuple[float, float]
) -> Training:
    """Measures the training of clips of the first of two `lengths`, in seconds; the operations for both."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate)

    def forward(batch_size: int, seconds: float) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            return model(**noise(processor, batch_size, seconds)).loss

    def step(seconds: float) -> None:
        forward(1, seconds).backward()
        optimizer.step()
        optimizer.zero_grad()

    one, two = (saved_bytes(partial(forward, size, lengths[0]), model) for size in (1, 2))
    steps = {seconds: measure(partial(step, seconds)) for seconds in lengths}
    memory = {
        "weights": sum(parameter.nbytes for parameter in model.parameters()),
        "gradients": sum(parameter.nbytes for parameter in trained),
        "AdamW": sum(tensor.nbytes for state in optimizer.state.values() for tensor in state.values()),
        "activations": one + (args.per_device_train_batch_size - 1) * (two - one),
    }
    return Training(steps, memory, two - one)


def print_memory(training: Training, args: SerMtlTrainingArguments, longest: float) -> None:
    """Prints the bytes of a step, whose clips are `longest` seconds long."""
    total = sum(training.memory.values())
    print(f"\nmemory of a batch of {args.per_device_train_batch_size} clips of {longest:g} s")
    for part, value in training.memory.items():
        print(f"  {part:<12}{value / 1e9:>8.3g} GB")
    print(f"  {'together':<12}{total / 1e9:>8.3g} GB, {total / GPU_BYTES:.0%} of {GPU_BYTES / 1e9:g} GB")
    print(f"  a clip more adds {training.bytes_per_clip / 1e9:.3g} GB")


def print_hours(training: Training, args: SerMtlTrainingArguments, num_clips: int, utilisation: float) -> None:
    """Prints the operations of all epochs over `num_clips` and their hours at a `utilisation`, in (0, 1]."""
    size, accumulated = args.per_device_train_batch_size, args.gradient_accumulation_steps
    updates = math.ceil(math.ceil(num_clips / size) / accumulated)
    print(
        f"\ntraining: {num_clips:,} clips, {updates:,} steps of {size} x {accumulated} an epoch, "
        f"{args.num_train_epochs:g} epochs; hours at {utilisation:.0%} of a GPU's peak"
    )
    precisions = ["bf16"] if args.bf16 else ["float32", "TF32"]
    peaks = {f"{gpu} {precision}": PEAKS[gpu][precision] for precision in precisions for gpu in PEAKS}
    names = "".join(f"{name:>14}" for name in peaks)
    print(f"  {'if every clip is of':<24}{'TFLOP/step':>12}{'PFLOP':>9}{names}")
    for seconds, step in training.steps.items():
        flops = step.flops * num_clips * args.num_train_epochs
        hours = "".join(f"{flops / (peak * 1e12 * utilisation) / 3600:>12.1f} h" for peak in peaks.values())
        print(f"  {f'{seconds:g} s':<24}{step.flops * size * accumulated / 1e12:>12.3g}{flops / 1e15:>9,.4g}{hours}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="settings of run_ser_mtl.py, YAML or JSON")
    parser.add_argument(
        "--config_name", help="JSON of the backbone; default: the recipe's, or that of its model in examples/backbones"
    )
    parser.add_argument("--num_clips", type=int, default=84_260, help="training clips; default: MSP-Podcast's")
    parser.add_argument("--num_speakers", type=int, default=2_114, help="their speakers; default: MSP-Podcast's")
    parser.add_argument(
        "--mean_seconds", type=float, default=5.7, help="their mean length; default: about that of MSP-Podcast"
    )
    parser.add_argument("--utilisation", type=float, default=0.35, help="share of a GPU's peak that training reaches")
    parser.add_argument("--num_threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.num_threads)
    torch.manual_seed(0)
    try:
        model_args, data_args, args = parse_arguments([options.recipe, "--use_cpu", "True"])
        if args.gradient_checkpointing or args.fp16:
            raise InputError(f"{options.recipe}: gradient_checkpointing and fp16 are not counted here; drop them")
        config_name = options.config_name or model_args.config_name
        if config_name is None:
            config_name = str(BACKBONES / f"{Path(str(model_args.model_name_or_path)).name}.json")
        model_args = replace(model_args, model_name_or_path=None, config_name=config_name, layerdrop=0.0)
        model, processor = build(model_args, options.num_speakers)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    longest = data_args.max_seconds
    training = measure_training(model, processor, args, (longest, min(options.mean_seconds, longest)))

    print(f"{options.recipe}: an estimate from a step on a CPU, not a measurement on a GPU")
    print(f"model: {Path(config_name).name}, {'bf16' if args.bf16 else 'float32'}")
    print(f"parameters: {model.num_parameters():,}, {model.num_parameters(only_trainable=True):,} of them trained")
    for seconds, step in training.steps.items():
        print(
            f"step of 1 clip of {seconds:g} s: {step.flops / 1e12:.3g} TFLOP; {step.seconds:.1f} s on "
            f"{options.num_threads} threads of this CPU"
        )
    print_memory(training, args, longest)
    print_hours(training, args, options.num_clips, options.utilisation)


if __name__ == "__main__":
    main()
