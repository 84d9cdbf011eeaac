from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from modeling_ser_mtl.losses_ser_mtl import swfc_loss
from modeling_ser_mtl.training.memory import EmbeddingMemory

CLASSES = 3

batches_of_labels = st.lists(st.lists(st.sampled_from([-100, *range(CLASSES), 0]), max_size=8), max_size=6)
sizes = st.integers(CLASSES, 14)
few = settings(max_examples=60, deadline=None)


def batch(labels, seed=0, **kwargs):
    """Embeddings `(N, 4)` that are all different, and their labels."""
    embeddings = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(seed))
    return embeddings.to(**kwargs), torch.tensor(labels, dtype=torch.long)


def filled(size, batches):
    memory = EmbeddingMemory(size, CLASSES)
    for seed, labels in enumerate(batches):
        memory.push(*batch(labels, seed))
    return memory


def assert_same(found, expected):
    assert (found.embeddings is None) == (expected.embeddings is None)
    if found.embeddings is not None:
        torch.testing.assert_close(found.embeddings, expected.embeddings, rtol=0, atol=0)
        torch.testing.assert_close(found.labels, expected.labels, rtol=0, atol=0)


@given(size=sizes, batches=batches_of_labels.filter(len))
@few
def test_the_memory_equals_a_list_for_each_class_that_drops_its_oldest_entry_when_full(size, batches):
    queues = [deque(maxlen=size // CLASSES) for _ in range(CLASSES)]
    for seed, labels in enumerate(batches):
        for embedding, label in zip(batch(labels, seed)[0].tolist(), labels, strict=True):
            if label >= 0:
                queues[label].append(embedding)

    memory = filled(size, batches)
    assert memory.embeddings.tolist() == [embedding for queue in queues for embedding in queue]
    assert memory.labels.tolist() == [label for label, queue in enumerate(queues) for _ in queue]


@given(size=sizes, batches=batches_of_labels.filter(len))
@few
def test_the_memory_never_holds_more_than_its_size(size, batches):
    assert len(filled(size, batches).labels) <= size


def test_a_frequent_class_does_not_push_out_a_rare_one():
    rare = batch([1], seed=1)
    memory = EmbeddingMemory(6, CLASSES)
    memory.push(*rare)
    for seed in range(2, 50):
        memory.push(*batch([0, 2, 2], seed))
    torch.testing.assert_close(memory.embeddings[memory.labels == 1], rare[0])


def test_a_clip_without_label_is_not_stored():
    embeddings, labels = batch([-100, 2, -100])
    memory = EmbeddingMemory(CLASSES, CLASSES)
    memory.push(embeddings, labels)
    assert memory.labels.tolist() == [2]
    torch.testing.assert_close(memory.embeddings, embeddings[1:2])


def test_stored_embeddings_have_no_gradient_and_no_share_in_the_batch():
    embeddings, labels = batch([0, 1])
    expected = embeddings.clone()
    memory = EmbeddingMemory(6, CLASSES)
    memory.push(embeddings.requires_grad_(), labels)
    with torch.no_grad():
        embeddings.zero_()
        labels.zero_()
    assert not memory.embeddings.requires_grad
    torch.testing.assert_close(memory.embeddings, expected)
    assert memory.labels.tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_embeddings_are_stored_in_float32(dtype):
    embeddings, labels = batch([0, 1], dtype=dtype)
    memory = EmbeddingMemory(6, CLASSES)
    memory.push(embeddings, labels)
    torch.testing.assert_close(memory.embeddings, embeddings.float(), rtol=0, atol=0)


def test_swfc_compares_the_batch_with_the_memory():
    past, now = batch([0, 1, 1], seed=1), batch([0, 1], seed=2)
    memory = EmbeddingMemory(6, CLASSES)

    def loss():
        return swfc_loss(*now, [2, 3, 0], bank_embeddings=memory.embeddings, bank_labels=memory.labels)

    assert loss().item() == 0  # no two clips of a class in this batch
    memory.push(*past)
    assert loss().item() > 0


@given(size=sizes, batches=batches_of_labels, more=batches_of_labels)
@few
def test_a_memory_that_was_saved_and_loaded_goes_on_as_if_it_never_was(size, batches, more):
    memory = filled(size, batches)
    resumed = filled(size, [[0, 1, 2]])  # is replaced altogether
    resumed.load_state_dict(load(save(memory.state_dict())))
    assert_same(resumed, memory)
    for seed, labels in enumerate(more):
        for each in (memory, resumed):
            each.push(*batch(labels, 100 + seed))
    assert_same(resumed, memory)


@given(batches=batches_of_labels, size=sizes, smaller=sizes)
@few
def test_a_memory_that_is_smaller_after_loading_keeps_the_latest(batches, size, smaller):
    size, smaller = max(size, smaller), min(size, smaller)
    memory = EmbeddingMemory(smaller, CLASSES)
    memory.load_state_dict(filled(size, batches).state_dict())
    assert_same(memory, filled(smaller, batches))


@pytest.mark.parametrize("size", [-1, 0, 5, 7])
def test_a_size_without_room_for_every_class_is_named(size):
    with pytest.raises(ValueError, match=f"^--swfc_memory_size {size}: give 0 or at least 8, the number of emotions$"):
        EmbeddingMemory(size, num_classes=8)
    assert EmbeddingMemory(8, num_classes=8).quota == 1
