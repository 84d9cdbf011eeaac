"""
What the four tasks cost on top of their encoder: `python examples/benchmarks/bench_overhead.py`.

Forward: the model against its bare encoder. Training step (forward and backward): against the same encoder with one
linear emotion head on its pooled last layer. The stock model with a weighted sum over layers stands beside them. Times
are medians of interleaved runs; each peak of memory is measured in a process of its own.
"""

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, Wav2Vec2ForSequenceClassification

from modeling_ser_mtl import EMOTIONS, SerMtlConfig, SerMtlModel

SAMPLING_RATE = 16_000


class LinearHead(nn.Module):
    """The encoder, a mean over time and one linear layer: the least that learns emotion."""

    def __init__(self, backbone_config) -> None:
        super().__init__()
        self.backbone = AutoModel.from_config(backbone_config)
        self.classifier = nn.Linear(backbone_config.hidden_size, len(EMOTIONS))

    def forward(self, input_values: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of emotion, a scalar."""
        states = self.backbone(input_values, attention_mask=attention_mask).last_hidden_state
        return nn.functional.cross_entropy(self.classifier(states.mean(1)), labels)


def backbone_config(args: argparse.Namespace):
    """wav2vec2-base, or another published size of it, without anything that is random in training."""
    off = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0)
    return AutoConfig.for_model(
        "wav2vec2", num_hidden_layers=args.num_hidden_layers, layerdrop=0.0, mask_time_prob=0.0, **off
    )


def batch(args: argparse.Namespace) -> dict[str, Tensor]:
    """Clips of noise, all of the same length, and labels of all four tasks."""
    torch.manual_seed(0)
    size, samples = args.batch_size, round(args.seconds * SAMPLING_RATE)
    return {
        "input_values": torch.randn(size, samples),
        "attention_mask": torch.ones(size, samples, dtype=torch.long),
        "emotion_labels": torch.arange(size) % len(EMOTIONS),
        "gender_labels": torch.arange(size) % 2,
        "speaker_labels": torch.arange(size),
        "ctc_labels": torch.randint(1, 32, (size, 40)),
    }


def build(name: str, args: argparse.Namespace) -> Callable[[bool], None]:
    """A forward (False) or training step (True) of the named model."""
    torch.manual_seed(0)
    config, inputs = backbone_config(args), batch(args)
    audio = {key: inputs[key] for key in ("input_values", "attention_mask")}
    if name == "encoder":
        model = AutoModel.from_config(config)
        forward = lambda: model(**audio)  # noqa: E731
    elif name == "four tasks":
        model = SerMtlModel(SerMtlConfig(backbone_config=config, num_speakers=args.batch_size, fusion_dropout=0.0))
        forward = lambda: model(**inputs).loss if model.training else model(**audio)  # noqa: E731
    elif name == "linear head":
        model = LinearHead(config)
        forward = lambda: model(**audio, labels=inputs["emotion_labels"])  # noqa: E731
    else:
        config.use_weighted_layer_sum, config.num_labels = True, len(EMOTIONS)
        model = Wav2Vec2ForSequenceClassification(config)
        forward = lambda: model(**audio, labels=inputs["emotion_labels"]).loss  # noqa: E731

    def run(training: bool) -> None:
        model.train(training)
        with torch.set_grad_enabled(training):
            loss = forward()
        if training:
            loss.backward()
            model.zero_grad()

    return run


def peak_mib(name: str, training: bool, args: argparse.Namespace) -> float:
    """Peak resident MiB of a process that builds the model and runs it twice."""
    torch.set_num_threads(args.num_threads)
    run = build(name, args)
    for _ in range(2):
        run(training)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def median_seconds(names: list[str], training: bool, args: argparse.Namespace) -> dict[str, float]:
    """Median seconds of each model, run in turn."""
    runs = {name: build(name, args) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(args.repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run(training)
            if repeat:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each clip")
    parser.add_argument("--num_hidden_layers", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--num_threads", type=int, default=2)
    args = parser.parse_args()

    print(
        f"wav2vec2, {args.num_hidden_layers} layers, {args.batch_size} x {args.seconds:g} s, float32, "
        f"{args.num_threads} threads, PyTorch {torch.__version__}"
    )
    for title, training, names in (
        ("forward", False, ["encoder", "four tasks", "stock weighted sum"]),
        ("training step", True, ["linear head", "four tasks", "stock weighted sum"]),
    ):
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            memory = {name: pool.apply(peak_mib, (name, training, args)) for name in names}
        torch.set_num_threads(args.num_threads)
        seconds = median_seconds(names, training, args)
        print(f"\n{title:<22}{'seconds':>10}{'ratio':>8}{'peak MiB':>12}{'ratio':>8}")
        for name in names:
            print(
                f"  {name:<20}{seconds[name]:>10.3f}{seconds[name] / seconds[names[0]]:>8.3f}"
                f"{memory[name]:>12,.0f}{memory[name] / memory[names[0]]:>8.3f}"
            )


if __name__ == "__main__":
    main()
