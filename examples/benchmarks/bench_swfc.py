"""Speed and memory of the SWFC loss on the CPU: `python examples/benchmarks/bench_swfc.py`."""

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_ser_mtl.losses_ser_mtl import swfc_loss

# The settings published for IEMOCAP, but for a whole exponent of the focal factor.
TEMPERATURE, FOCUS, CLASS_WEIGHT_EXPONENT = 0.8, 2.0, 1.1
# Steps of ours for each of the published loop.
SHORT_PER_LONG = 20
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def loop_loss(embeddings: Tensor, labels: Tensor, class_counts: Tensor) -> Tensor:
    """
    The loss as MultiEMO's public code computes it (Shi & Huang, ACL 2023), in our words: a softmax for each anchor.

    Args:
        embeddings (`Tensor` of shape `(B, D)`): unnormalised embeddings.
        labels (`Tensor` of shape `(B,)`): classes.
        class_counts (`Tensor` of shape `(C,)`): training clips per class, none 0.
    """
    weights = F.normalize((class_counts.sum() / class_counts) ** CLASS_WEIGHT_EXPONENT, p=1.0, dim=0)
    features = F.normalize(embeddings, dim=-1)
    total = features.new_zeros(())
    for index in range(len(features)):
        candidates = torch.cat([features[:index], features[index + 1 :]])
        candidate_labels = torch.cat([labels[:index], labels[index + 1 :]])
        similarity = (features[index].expand_as(candidates) * candidates).sum(-1)
        probabilities = torch.softmax(similarity / TEMPERATURE, dim=0)
        positives = probabilities[candidate_labels == labels[index]]
        if len(positives):
            total = total - weights[labels[index]] * (positives.log() * (1 - positives) ** FOCUS).mean()
    return total / len(features)


def block_loss(embeddings: Tensor, labels: Tensor, class_counts: Tensor) -> Tensor:
    """[`swfc_loss`] with the same settings."""
    return swfc_loss(
        embeddings,
        labels,
        class_counts,
        temperature=TEMPERATURE,
        focus=FOCUS,
        class_weight_exponent=CLASS_WEIGHT_EXPONENT,
        normalize="sum",
        reduction="published",
    )


def random_batch(batch_size: int, embedding_size: int, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings `(B, D)`, labels `(B,)` of which class c is drawn in proportion to 1 / (c + 1), and class counts."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(batch_size, embedding_size, generator=generator).requires_grad_()
    class_counts = 10_000 / torch.arange(1, num_classes + 1)
    labels = torch.multinomial(class_counts, batch_size, replacement=True, generator=generator)
    return embeddings, labels, class_counts


def step(loss: Loss, embeddings: Tensor, labels: Tensor, class_counts: Tensor) -> tuple[float, Tensor, Tensor]:
    """Seconds of forward and backward, the loss and its gradient."""
    start = time.perf_counter()
    value = loss(embeddings, labels, class_counts)
    (gradient,) = torch.autograd.grad(value, embeddings)
    return time.perf_counter() - start, value.detach(), gradient


def large_batch(batch_size: int, embedding_size: int, num_classes: int, num_threads: int) -> tuple[float, float]:
    """Seconds of one forward and backward of [`swfc_loss`], and the MiB that the process grew by at its peak."""
    torch.set_num_threads(num_threads)
    step(block_loss, *random_batch(16, embedding_size, num_classes))
    batch = random_batch(batch_size, embedding_size, num_classes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, *_ = step(block_loss, *batch)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return seconds, growth / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB on Linux


def products(embeddings: Tensor) -> float:
    """Seconds of the similarities of all pairs and of one product for their gradient: less no such loss can take."""
    start = time.perf_counter()
    (embeddings @ embeddings.T) @ embeddings
    return time.perf_counter() - start


def compare(batch: tuple[Tensor, Tensor, Tensor], repeats: int) -> tuple[float, float, float, float, float]:
    """
    Relative differences between the two losses' values and gradients, and the median seconds of the loop's and of
    [`swfc_loss`]'s steps and of the two [`products`], taken in turn: several of the short ones for each long one.
    """
    _, expected, expected_gradient = step(loop_loss, *batch)
    _, value, gradient = step(block_loss, *batch)
    value_difference = ((value - expected).abs() / expected.abs()).item()
    gradient_difference = ((gradient - expected_gradient).norm() / expected_gradient.norm()).item()
    embeddings = batch[0].detach()
    seconds: tuple[list[float], ...] = ([], [], [])
    for _ in range(repeats):
        seconds[0].append(step(loop_loss, *batch)[0])
        seconds[1].extend(step(block_loss, *batch)[0] for _ in range(SHORT_PER_LONG))
        seconds[2].extend(products(embeddings) for _ in range(SHORT_PER_LONG))
    return value_difference, gradient_difference, *map(statistics.median, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch_size", type=int, default=256, help="clips of the comparison with the published loop")
    parser.add_argument("--large_batch_size", type=int, default=8192, help="clips of the measurement of memory")
    parser.add_argument("--embedding_size", type=int, default=256)
    parser.add_argument("--num_classes", type=int, default=8)
    parser.add_argument(
        "--repeats", type=int, default=9, help=f"runs of the published loop; {SHORT_PER_LONG} of ours for each"
    )
    parser.add_argument("--num_threads", type=int, default=2)
    args = parser.parse_args()

    # First, while this process is small: a new process starts with its parent's peak.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        sizes = (args.large_batch_size, args.embedding_size, args.num_classes, args.num_threads)
        large_seconds, large_mib = pool.apply(large_batch, sizes)

    torch.set_num_threads(args.num_threads)
    batch = random_batch(args.batch_size, args.embedding_size, args.num_classes)
    value_difference, gradient_difference, loop_seconds, block_seconds, least_seconds = compare(batch, args.repeats)
    if max(value_difference, gradient_difference) > 1e-4:
        sys.exit(f"the two losses differ: value by {value_difference:.1e}, gradient by {gradient_difference:.1e}")

    print(
        f"SWFC, forward and backward: float32, D {args.embedding_size}, {args.num_classes} classes, "
        f"{args.num_threads} threads, PyTorch {torch.__version__}"
    )
    print(f"\nB {args.batch_size}")
    print(f"  published loop         {1e3 * loop_seconds:>10,.2f} ms   median of {args.repeats}")
    print(f"  swfc_loss              {1e3 * block_seconds:>10,.2f} ms   median of {SHORT_PER_LONG * args.repeats}")
    print(f"  times faster           {loop_seconds / block_seconds:>10,.0f}")
    print(
        f"  two products alone     {1e3 * least_seconds:>10,.2f} ms   {loop_seconds / least_seconds:,.0f} times faster"
    )
    print(f"  difference of values   {value_difference:>10.0e}      relative")
    print(f"  of gradients           {gradient_difference:>10.0e}      relative")
    print(f"\nB {args.large_batch_size}")
    print(f"  swfc_loss              {large_seconds:>10,.2f} s    once")
    print(f"  peak additional memory {large_mib:>10,.0f} MiB")
    print(f"  one B x B matrix       {args.large_batch_size**2 * 4 / 2**20:>10,.0f} MiB  for comparison")


if __name__ == "__main__":
    main()
