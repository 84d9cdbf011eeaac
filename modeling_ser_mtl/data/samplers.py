"""Order of the training clips."""

from collections.abc import Iterator
from itertools import chain, pairwise

import numpy as np
import torch
from transformers.trainer_pt_utils import LengthGroupedSampler

from .dataset import IGNORE_INDEX, SpeechDataset


class SeededLengthGroupedSampler(LengthGroupedSampler):
    """
    Clips of similar length together, in an order that depends on (seed, epoch) alone: the same on every rank and after
    a resume. The epoch is the dataset's, since launchers wrap samplers so that an epoch set there may not arrive.

    Args:
        batch_size (`int`): clips per optimiser step and rank, 1 or more.
        dataset ([`SpeechDataset`]): the clips.
        seed (`int`): seed of the order.
    """

    def __init__(self, batch_size: int, dataset: SpeechDataset, seed: int) -> None:
        super().__init__(batch_size, lengths=dataset.lengths, generator=torch.Generator())
        self.dataset = dataset
        self.seed = seed

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.seed * 100_003 + self.dataset.epoch)
        return super().__iter__()


class ClassAwareSampler(torch.utils.data.Sampler[int]):
    """
    Every clip once an epoch, ordered so that a clip finds another of its emotion in its batch, as contrastive losses
    need. The order is to be cut into consecutive batches of `batch_size`; `BatchSampler` does that, and accelerate
    hands whole batches to the ranks. It depends on (seed, epoch of the dataset) alone.

    Rare classes therefore come in fewer batches, but never alone: two clips of a class share one batch. Clips without
    emotion label, and the only clip of a class, fill up any batch.

    No other clip is alone in its batch, as long as there are at least as many full batches as classes of an odd count
    (3, 5, ...), and

    - `batch_size` is even and 6 or more;
    - or it is 4, and there are at least as many filling clips as classes of an odd count;
    - or it is 2, and no class has an odd count;
    - or it is odd and 3 or more, and there is a filling clip or a triple for every batch of odd size. n clips of a
      class hold `n // 3` triples, one less where `n - n // 3` is odd: enough if `batch_size` is 5 or more and every
      class has 20 clips.

    Otherwise some pairs are parted. A last batch of a single clip takes a filling clip if there is one. With
    `even_batches` (its default) accelerate repeats clips from the start of the epoch at its end, until all ranks have
    equally many full batches: those completed batches may hold parted pairs.

    Args:
        batch_size (`int`): clips per batch and rank, 1 or more.
        dataset ([`SpeechDataset`]): the clips, for training.
        seed (`int`): seed of the order, 0 or more.
        group_by_length (`bool`): batches hold clips of similar length, and of the full ones the one with the longest
            clip comes first, so that a lack of memory shows at once.
    """

    def __init__(self, batch_size: int, dataset: SpeechDataset, seed: int, *, group_by_length: bool = False) -> None:
        self.batch_size = batch_size
        self.dataset = dataset
        self.seed = seed
        self.lengths = np.array(dataset.lengths) if group_by_length else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.dataset.epoch))
        yield from class_aware_order(self.dataset.emotion_labels, self.batch_size, random, self.lengths)


def class_aware_order(
    labels: np.ndarray, batch_size: int, random: np.random.Generator, lengths: np.ndarray | None = None
) -> list[int]:
    """
    The order of [`ClassAwareSampler`].

    Args:
        labels (`np.ndarray` of shape `(N,)`): classes; -100 where a clip has none.
        batch_size (`int`): clips per batch, 1 or more.
        random (`np.random.Generator`): source of the order.
        lengths (`np.ndarray` of shape `(N,)`, *optional*): lengths to group by.

    Returns:
        `list[int]`: each of 0 to N - 1 once.
    """
    order = random.permutation(len(labels))
    if lengths is not None:
        # Each megabatch is sorted, in turn up and down, so that neighbours across its ends are similar as well.
        megabatch = np.arange(len(order)) // (batch_size * max(1, min(len(order) // (batch_size * 4), 50)))
        order = order[np.lexsort((lengths[order] * (-1) ** megabatch, megabatch))][::-1]
    # From here on a clip is its position in `order`. A clip without label is a class of its own.
    labels = np.where(labels == IGNORE_INDEX, -1 - np.arange(len(labels)), labels)[order]
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    clips, last = np.arange(len(order)), []
    if len(order) % batch_size == 1:
        # A batch of one takes a clip that has no partner anyway, or else one that evens out its class.
        count = counts[classes]
        last = np.lexsort((count, count % 2, count == 1))[-1:].tolist()
        clips = np.delete(clips, last)
    num_full, rest = divmod(len(clips), batch_size)
    sizes = [batch_size] * num_full + [rest] * (rest > 0)
    values = list(range(len(order))) if lengths is None else lengths[order].tolist()
    batches = _pack(_cut(clips, classes, sizes, random), sizes, values, random)
    full = [batches[i] for i in random.permutation(num_full)]
    if lengths is not None and full:
        longest = max(range(num_full), key=lambda i: max(values[clip] for clip in full[i]))
        full.insert(0, full.pop(longest))
    order = order.tolist()
    return [order[clip] for clip in chain(*full, *batches[num_full:], last)]


def _cut(clips: np.ndarray, classes: np.ndarray, sizes: list[int], random: np.random.Generator) -> list[list[int]]:
    """
    Cuts the clips of each class, in their order, into pairs, triples and singles, at least as many triples and singles
    together as there are batches of odd size.
    """
    counts = np.bincount(classes[clips])
    triples_fit = max(sizes, default=0) >= 3
    triples = counts % 2 * (counts >= 3) * triples_fit
    singles = counts % 2 - triples
    pairs = (counts - 3 * triples) // 2
    # Two more odd units at a time: of three pairs two triples, and only then of a pair two singles. The parity fits,
    # since odd units and odd batches are both as odd in number as the clips.
    missing = max(0, sum(size % 2 for size in sizes) - (triples + singles).sum()) // 2
    regrouped = _draw(pairs // 3 * triples_fit, missing, random)
    triples, pairs = triples + 2 * regrouped, pairs - 3 * regrouped
    parted = _draw(pairs, missing - regrouped.sum(), random)
    singles, pairs = singles + 2 * parted, pairs - parted

    number = np.stack([singles, pairs, triples], axis=1).ravel()
    owner = np.repeat(np.arange(len(number)) // 3, number)
    length = np.repeat(np.arange(len(number)) % 3 + 1, number)
    length = length[np.lexsort((random.random(len(length)), owner))]  # triples anywhere among the pairs of their class
    flat = clips[np.argsort(classes[clips], kind="stable")].tolist()
    return [flat[start:end] for start, end in pairwise([0, *np.cumsum(length).tolist()])]


def _draw(available: np.ndarray, number: int, random: np.random.Generator) -> np.ndarray:
    """How many of `number` draws without replacement, all of them if there are fewer, fall on each class."""
    return random.multivariate_hypergeometric(available, min(number, available.sum()))


def _join(odd: list[list[int]]) -> list[list[int]]:
    """Joins triples and singles, even in number, in twos: triples with singles first, as 4 fit more easily than 6."""
    triples, singles = (sorted(unit for unit in odd if len(unit) == size) for size in (3, 1))
    mixed = min(len(triples), len(singles))
    alike = triples[mixed:] + singles[mixed:]
    twos = [*zip(triples, singles, strict=False), *zip(alike[::2], alike[1::2], strict=True)]
    return [first + second for first, second in twos]


def _pack(units: list[list[int]], sizes: list[int], values: list[int], random: np.random.Generator) -> list[list[int]]:
    """
    Fills batches of these sizes with the units in order, and parts only what fits nowhere. The odd unit of a batch of
    odd size is the one that suits it by the `values` of the clips.
    """
    # A batch of odd size gets one odd unit, a triple rather than a single, which leaves an even number of slots.
    odd = sorted(unit for unit in units if len(unit) % 2)
    ranking = np.lexsort((random.random(len(odd)), np.array([-len(unit) for unit in odd])))
    odd_batches = [i for i, size in enumerate(sizes) if size % 2]
    leading, others = ([odd[i] for i in part] for part in np.split(ranking, [len(odd_batches)]))
    slots = dict(zip(random.permutation(odd_batches).tolist(), map(len, leading), strict=True))
    room = [size - slots.get(i, 0) for i, size in enumerate(sizes)]

    # The large ones first, each into the nearest batch from its place on; then what has 2 clips always fits.
    even = [unit for unit in units if len(unit) == 2] + _join(others)
    small, large = [unit for unit in even if len(unit) == 2], [unit for unit in even if len(unit) > 2]
    batches: list[list[int]] = [[] for _ in sizes]
    for unit in large:
        start = unit[0] // max(sizes)
        candidates = chain(range(start, len(sizes)), range(start))
        home = next((i for i in candidates if room[i] - len(batches[i]) >= len(unit)), None)
        if home is None:
            small += [unit[i : i + 2] for i in range(0, len(unit), 2)]
        else:
            batches[home] += unit
    filling = iter(sorted(small))
    for batch, size in zip(batches, room, strict=True):
        while len(batch) < size:
            batch += next(filling)

    def value(clips: list[int]) -> int:
        return max((values[clip] for clip in clips), default=0)

    for size in (1, 3):
        takers = sorted((batches[i] for i, slot in slots.items() if slot == size), key=value)
        fitting = sorted((unit for unit in leading if len(unit) == size), key=value)
        for batch, unit in zip(takers, fitting, strict=True):
            batch += unit
    return batches
