"""SWFC over the clips of several processes is SWFC of one process; run as a script, this file starts the processes."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from modeling_ser_mtl.losses_ser_mtl import swfc_loss
from modeling_ser_mtl.training.gather import gather_with_gradient

ROOT = Path(__file__).resolve().parents[2]
# The softmax enlarges float32's rounding by 1 / temperature.
SETTINGS = {"class_counts": [40, 25, 5, 1], "temperature": 0.5}
WORLD_SIZES = (2, 3)
# Labels of the clips of each rank; two processes take the first two.
BATCHES = {
    "even": [[0, 1, 0], [1, 2, 2], [0, 1, 3]],
    "uneven": [[0, 1, 0], [1], [2, 0, 1, 2]],
    "a rank without positives": [[0, 1, 1, 0], [2, 3], [0, 1]],
    "positives on other ranks only": [[0, 1, 2], [2, 0], [1, 3]],
    "a rank without labels": [[0, 1, 0, 1], [-100, -100], [1, 0, 0]],
    "a rank without clips": [[0, 1, -100, 0], [], [1, 1]],
    "no label anywhere": [[-100], [-100, -100], [-100]],
}
REDUCTIONS = ("mean", "published")


def linear_layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(6, 5)


def batches(name: str, num_processes: int) -> list[tuple[Tensor, Tensor]]:
    """Inputs `(N, 6)` and labels `(N,)` of each rank."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(len(labels), 6, generator=generator), torch.tensor(labels, dtype=torch.long))
        for labels in BATCHES[name][:num_processes]
    ]


def numbers(rank: int) -> Tensor:
    """Integers `(3 - rank, 2)` that float32 does not hold and that are not contiguous in memory."""
    return (2**40 + 100 * rank + torch.arange(6 - 2 * rank)).view(2, 3 - rank).T


def loss_and_gradients(inputs: Tensor, labels: Tensor, reduction: str) -> dict[str, Tensor]:
    """SWFC over the clips of all ranks, and the gradients of this rank."""
    model = DistributedDataParallel(linear_layer())
    embeddings = model(inputs)
    embeddings.retain_grad()
    labels = gather_with_gradient(labels, pad_value=-100)
    loss = swfc_loss(gather_with_gradient(embeddings), labels, reduction=reduction, **SETTINGS)
    loss.backward()
    return {
        "loss": loss.detach(),
        "embeddings": embeddings.grad / PartialState().num_processes,
        "weight": model.module.weight.grad,
        "bias": model.module.bias.grad,
    }


def run_rank(rank: int, num_processes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    for name, value in {"RANK": rank, "WORLD_SIZE": num_processes}.items():
        os.environ |= {name: str(value), f"LOCAL_{name}": str(value)}
    state = PartialState(cpu=True, backend="gloo", init_method=f"file://{folder}/rendezvous")
    found = {
        (name, reduction): loss_and_gradients(*batches(name, num_processes)[rank], reduction)
        for name in BATCHES
        for reduction in REDUCTIONS
    }
    found["integers"] = gather_with_gradient(numbers(rank), pad_value=-100)
    found["no rows"] = gather_with_gradient(torch.zeros(0, 5, requires_grad=True))
    torch.save(found, folder / f"{rank}.pt")
    # Before the group goes: a DistributedDataParallel that is its last holder waits for its threads, with the GIL.
    gc.collect()
    state.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What 2 processes and 3 processes found, in `<world size>/<rank>.pt`."""
    folder = tmp_path_factory.mktemp("ranks")
    result = subprocess.run(
        [sys.executable, __file__, str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


@pytest.fixture(params=WORLD_SIZES, ids="{} processes".format)
def ranks(request: pytest.FixtureRequest, folder: Path) -> list[dict]:
    """What each of 2 or 3 processes found."""
    return [torch.load(folder / str(request.param) / f"{rank}.pt", weights_only=True) for rank in range(request.param)]


def one_process(name: str, reduction: str, num_processes: int) -> dict[str, Tensor]:
    """Loss and gradients of the clips of all ranks as one batch."""
    inputs, labels = (torch.cat(parts) for parts in zip(*batches(name, num_processes), strict=True))
    model = linear_layer()
    embeddings = model(inputs)
    embeddings.retain_grad()
    loss = swfc_loss(embeddings, labels, reduction=reduction, **SETTINGS)
    loss.backward()
    gradients = {"embeddings": embeddings.grad, "weight": model.weight.grad, "bias": model.bias.grad}
    return {"loss": loss.detach()} | gradients


def assert_equal(found: Tensor, expected: Tensor) -> None:
    """To 1e-6 of the largest entry."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", BATCHES)
def test_every_rank_has_the_loss_of_one_process(ranks, name, reduction) -> None:
    expected = one_process(name, reduction, len(ranks))
    assert (expected["loss"] > 0) == (name != "no label anywhere")
    for found in ranks:
        assert_equal(found[name, reduction]["loss"], expected["loss"])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", BATCHES)
def test_the_gradients_of_the_embeddings_of_all_ranks_are_those_of_one_process(ranks, name, reduction) -> None:
    found = [rank[name, reduction]["embeddings"] for rank in ranks]
    assert [len(rows) for rows in found] == [len(labels) for labels in BATCHES[name][: len(ranks)]]
    assert_equal(torch.cat(found), one_process(name, reduction, len(ranks))["embeddings"])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", BATCHES)
def test_distributed_training_gives_the_weights_the_gradient_of_one_process(ranks, name, reduction) -> None:
    expected = one_process(name, reduction, len(ranks))
    for found in ranks:
        assert_equal(found[name, reduction]["weight"], expected["weight"])
        assert_equal(found[name, reduction]["bias"], expected["bias"])


def test_rows_come_in_the_order_of_the_ranks_and_each_rank_is_filled_up_at_its_end(ranks) -> None:
    expected = torch.cat([torch.cat([numbers(r), torch.full((r, 2), -100)]) for r in range(len(ranks))])
    for found in ranks:
        torch.testing.assert_close(found["integers"], expected, rtol=0, atol=0)


def test_ranks_without_any_row_gather_no_row(ranks) -> None:
    assert all(found["no rows"].shape == (0, 5) for found in ranks)


def test_a_single_process_keeps_its_tensor() -> None:
    embeddings = torch.randn(3, 5, requires_grad=True)
    assert gather_with_gradient(embeddings) is embeddings


if __name__ == "__main__":
    for world_size in WORLD_SIZES:
        subfolder = Path(sys.argv[1], str(world_size))
        subfolder.mkdir()
        # Forked, the processes share one import of torch and transformers.
        torch.multiprocessing.start_processes(run_rank, (world_size, subfolder), world_size, start_method="fork")
