import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from modeling_ser_mtl.data.dataset import LabelNames, SpeechDataset
from modeling_ser_mtl.data.samplers import ClassAwareSampler, SeededLengthGroupedSampler


def make_dataset(lengths: Sequence[int], emotions: Sequence[str] | str = "") -> SpeechDataset:
    columns = {name: "" for name in ("gender", "speaker", "text")}
    table = pd.DataFrame({"length": lengths}).assign(emotion=emotions, **columns)
    names = LabelNames(sorted(set(emotions) - {""}), [])
    return SpeechDataset(table, [b""] * len(lengths), names, max_seconds=20, training=True)


def dataset_of(counts: Sequence[int], num_unlabelled: int = 0) -> SpeechDataset:
    """Clips of random lengths: so many of each emotion, and without one."""
    emotions = np.repeat([f"emotion{i:02d}" for i in range(len(counts))] + [""], [*counts, num_unlabelled]).tolist()
    lengths = np.random.default_rng(0).lognormal(10.5, 0.6, len(emotions)).astype(int) + 400
    return make_dataset(lengths, emotions)


def cut(order: Sequence[int], batch_size: int) -> list[list[int]]:
    return [list(order[start : start + batch_size]) for start in range(0, len(order), batch_size)]


def num_lone(dataset: SpeechDataset, batches: Sequence[Sequence[int]]) -> int:
    """Labelled clips whose class occurs once in their batch."""
    counts = [Counter(dataset.emotion_labels[clip] for clip in batch) for batch in batches]
    return sum(label != -100 and count == 1 for counter in counts for label, count in counter.items())


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
    sampler = SeededLengthGroupedSampler(4, make_dataset([400 + i for i in range(20)]), seed=3)
    torch.manual_seed(0)
    first, state = list(sampler), torch.get_rng_state()
    torch.manual_seed(1)
    assert list(sampler) == first
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


def is_promised(counts: Sequence[int], num_unlabelled: int, batch_size: int) -> bool:
    """Whether no clip of these classes of two or more clips has to be alone, by the docstring."""
    num_full, rest = divmod(sum(counts) + num_unlabelled, batch_size)
    num_odd_classes = sum(count % 2 for count in counts)
    if num_full < num_odd_classes:
        return False
    if batch_size % 2 == 0:
        return batch_size >= 6 or num_odd_classes <= (num_unlabelled if batch_size == 4 else 0)
    num_triples = sum(count // 3 - (count - count // 3) % 2 for count in counts)
    return batch_size >= 3 and num_unlabelled + num_triples >= num_full + rest % 2


emotion_counts = st.lists(st.integers(1, 40), max_size=6)


@settings(max_examples=200, deadline=None)
@given(
    counts=emotion_counts,
    num_unlabelled=st.just(0) | st.integers(1, 20),
    batch_size=st.integers(1, 20),
    group_by_length=st.booleans(),
    epoch=st.integers(0, 5),
)
@example(counts=[3, 3, 2], num_unlabelled=0, batch_size=4, group_by_length=False, epoch=0)  # triples don't fit
def test_every_clip_comes_once_an_epoch_for_any_classes(
    counts, num_unlabelled, batch_size, group_by_length, epoch
) -> None:
    assume(counts or num_unlabelled)
    dataset = dataset_of(counts, num_unlabelled)
    dataset.set_epoch(epoch)
    sampler = ClassAwareSampler(batch_size, dataset, seed=1, group_by_length=group_by_length)
    assert sorted(sampler) == list(range(len(dataset)))
    assert len(sampler) == len(dataset)


@settings(max_examples=300, deadline=None)
@given(
    counts=st.lists(st.integers(2, 40), min_size=1, max_size=6),
    num_unlabelled=st.just(0) | st.integers(1, 40),
    batch_size=st.integers(2, 20),
    group_by_length=st.booleans(),
    seed=st.integers(0, 5),
)
@example(counts=[3, 5, 7], num_unlabelled=20, batch_size=3, group_by_length=False, seed=0)
@example(counts=[3] * 9, num_unlabelled=9, batch_size=4, group_by_length=False, seed=0)
def test_no_clip_is_alone_where_that_is_promised(counts, num_unlabelled, batch_size, group_by_length, seed) -> None:
    assume(is_promised(counts, num_unlabelled, batch_size))
    dataset = dataset_of(counts, num_unlabelled)
    batches = cut(list(ClassAwareSampler(batch_size, dataset, seed, group_by_length=group_by_length)), batch_size)
    last_is_a_labelled_clip = len(batches[-1]) == 1 and num_unlabelled == 0
    assert num_lone(dataset, batches[:-1]) == 0
    assert num_lone(dataset, batches[-1:]) == last_is_a_labelled_clip


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(20, 60), min_size=1, max_size=6), batch_size=st.sampled_from(range(5, 20, 2)))
def test_classes_of_twenty_clips_suffice_for_odd_batch_sizes(counts, batch_size) -> None:
    assume(sum(counts) // batch_size >= len(counts))
    dataset = dataset_of(counts)
    batches = cut(list(ClassAwareSampler(batch_size, dataset, seed=0)), batch_size)
    assert num_lone(dataset, batches) == (len(batches[-1]) == 1)


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(20, 60), max_size=5), num_single=st.integers(1, 4), seed=st.integers(0, 5))
def test_the_only_clip_of_a_class_leaves_no_other_alone(counts, num_single, seed) -> None:
    dataset = dataset_of(counts + [1] * num_single)
    assert num_lone(dataset, cut(list(ClassAwareSampler(8, dataset, seed)), 8)) == num_single


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(0, 9).map(lambda half: 2 * half + 3), min_size=9, max_size=12))
def test_more_odd_classes_than_full_batches_part_few_pairs(counts) -> None:
    dataset = dataset_of(counts)
    batches = cut(list(ClassAwareSampler(32, dataset, seed=0)), 32)
    assert num_lone(dataset, batches) <= len(counts)


def test_no_clip_is_alone_where_a_random_order_leaves_many() -> None:
    dataset = dataset_of([1200, 800, 500, 300, 150, 80, 40, 20], num_unlabelled=410)
    shuffled = np.random.default_rng(0).permutation(len(dataset)).tolist()
    assert num_lone(dataset, cut(shuffled, 16)) > 300
    assert num_lone(dataset, cut(list(ClassAwareSampler(16, dataset, seed=0)), 16)) == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), group_by_length=st.booleans(), batch_size=st.integers(6, 20))
def test_the_two_clips_of_a_rare_class_share_a_batch(seed, group_by_length, batch_size) -> None:
    dataset = dataset_of([698, 300, 2])
    order = list(ClassAwareSampler(batch_size, dataset, seed, group_by_length=group_by_length))
    assert order.index(998) // batch_size == order.index(999) // batch_size


def test_partners_change_from_epoch_to_epoch() -> None:
    dataset = dataset_of([500, 300])
    sampler, neighbours = ClassAwareSampler(2, dataset, seed=0), []
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        neighbours.append({frozenset(batch) for batch in cut(list(sampler), 2)})
    assert len(neighbours[0] & neighbours[1]) < 10


def test_the_class_aware_order_depends_on_seed_and_epoch_alone() -> None:
    orders = {}
    for group_by_length in (False, True):
        for seed in (1, 2):
            for epoch in (1, 0):  # backwards: the past of a sampler does not matter
                dataset = dataset_of([30, 20, 7], num_unlabelled=5)
                sampler = ClassAwareSampler(4, dataset, seed, group_by_length=group_by_length)
                dataset.set_epoch(epoch)
                orders[group_by_length, seed, epoch] = list(sampler)
                assert list(sampler) == orders[group_by_length, seed, epoch]
    assert len({tuple(order) for order in orders.values()}) == 8


def test_other_random_draws_do_not_move_the_class_aware_order() -> None:
    sampler, orders = ClassAwareSampler(5, dataset_of([30, 20, 7], num_unlabelled=5), seed=3), []
    for seed in (0, 1):
        np.random.seed(seed)
        torch.manual_seed(seed)
        orders.append(list(sampler))
        draws = np.random.random(), torch.rand(()).item()
        np.random.seed(seed)
        torch.manual_seed(seed)
        assert draws == (np.random.random(), torch.rand(()).item())
    assert orders[0] == orders[1]


@pytest.mark.parametrize("batch_size", [15, 16])
def test_class_aware_batches_can_hold_clips_of_similar_length(batch_size) -> None:
    dataset = dataset_of([3600, 2400, 1500, 900, 450, 240, 120, 60], num_unlabelled=2000)
    lengths, spread = np.array(dataset.lengths), {}
    for group_by_length in (False, True):
        batches = cut(list(ClassAwareSampler(batch_size, dataset, 0, group_by_length=group_by_length)), batch_size)
        assert num_lone(dataset, batches) == 0
        spread[group_by_length] = np.mean([np.ptp(lengths[batch]) for batch in batches])
    assert spread[True] < 0.12 * spread[False]


def test_grouped_by_length_the_longest_batch_comes_first_and_the_others_in_no_order() -> None:
    dataset = dataset_of([900, 600, 100])
    batches = cut(list(ClassAwareSampler(8, dataset, 0, group_by_length=True)), 8)
    longest = np.array(dataset.lengths)[batches].max(1)
    assert longest[0] == max(dataset.lengths)
    assert abs(np.corrcoef(longest[1:-1], longest[2:])[0, 1]) < 0.3


def test_accelerate_gives_each_rank_batches_without_a_lone_clip_and_all_ranks_every_clip() -> None:
    shards, dataset = [], dataset_of([420, 301, 150, 93, 35, 5])  # 125 batches of 8 and one of 4
    for rank in range(2):
        batches = BatchSampler(ClassAwareSampler(8, dataset, seed=0), batch_size=8, drop_last=False)
        shards.append(list(BatchSamplerShard(batches, num_processes=2, process_index=rank)))
    assert [len(shard) for shard in shards] == [63, 63]
    assert {clip for shard in shards for batch in shard for clip in batch} == set(range(len(dataset)))
    assert num_lone(dataset, shards[0]) == 0
    assert num_lone(dataset, shards[1][:-1]) == 0  # the last one is completed with clips from the start
    # Only those clips come twice.
    assert sum(len(batch) for shard in shards for batch in shard) == len(dataset) + 4


def test_a_hundred_thousand_clips_take_seconds() -> None:
    dataset = dataset_of([40_000, 25_000, 10_000, 4_000, 1_500, 501], num_unlabelled=18_999)
    start = time.process_time()
    list(ClassAwareSampler(17, dataset, seed=0, group_by_length=True))
    assert time.process_time() - start < 10
