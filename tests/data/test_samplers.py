import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_ser_mtl.data.dataset import LabelNames, SpeechDataset
from modeling_ser_mtl.data.samplers import SeededLengthGroupedSampler


def make_dataset(lengths: list[int]) -> SpeechDataset:
    columns = {name: "" for name in ("emotion", "gender", "speaker", "text")}
    table = pd.DataFrame({"length": lengths}).assign(**columns)
    return SpeechDataset(table, [b""] * len(lengths), LabelNames([], []), max_seconds=20, training=True)


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(400, 100_000), min_size=1, max_size=50), epoch=st.integers(0, 5))
def test_every_clip_comes_once_an_epoch(lengths, epoch) -> None:
    dataset = make_dataset(lengths)
    dataset.set_epoch(epoch)
    assert sorted(SeededLengthGroupedSampler(4, dataset, seed=1)) == list(range(len(lengths)))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = np.random.default_rng(0).integers(400, 100_000, 40).tolist()
    orders = {}
    for seed in (1, 2):
        for epoch in (1, 0):  # backwards: the past of a sampler does not matter
            dataset = make_dataset(lengths)
            sampler = SeededLengthGroupedSampler(4, dataset, seed)
            dataset.set_epoch(epoch)
            orders[seed, epoch] = list(sampler)
            assert list(sampler) == orders[seed, epoch]
    assert len({tuple(order) for order in orders.values()}) == 4


def test_batches_hold_clips_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(400, 100_000, 800).tolist()
    grouped = np.array(lengths)[list(SeededLengthGroupedSampler(8, make_dataset(lengths), seed=0))].reshape(-1, 8)
    shuffled = np.array(lengths).reshape(-1, 8)
    assert np.ptp(grouped, axis=1).mean() < 0.2 * np.ptp(shuffled, axis=1).mean()


def test_other_random_draws_do_not_move_the_order() -> None:
    torch = pytest.importorskip("torch")
    sampler = SeededLengthGroupedSampler(4, make_dataset([400 + i for i in range(20)]), seed=3)
    torch.manual_seed(0)
    first, state = list(sampler), torch.get_rng_state()
    torch.manual_seed(1)
    assert list(sampler) == first
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)
