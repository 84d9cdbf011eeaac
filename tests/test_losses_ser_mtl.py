import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from modeling_ser_mtl import losses_ser_mtl
from modeling_ser_mtl.losses_ser_mtl import (
    angular_margin_per_clip,
    class_weights,
    cross_entropy_per_clip,
    cross_entropy_weights,
    ctc_feasible,
    ctc_per_clip,
    mean_over_labelled,
    swfc_loss,
    weighted_terms,
)

NORMALIZATIONS = ("mean", "sum", "min", "none")

few = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 10_000)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def slow_class_weights(counts, exponent, normalize):
    weights = [(sum(counts) / n) ** exponent if n else 0.0 for n in counts]
    if normalize == "mean":
        scale = sum(w * n for w, n in zip(weights, counts, strict=True)) / max(sum(counts), 1)
    else:
        scale = {"sum": sum(weights), "min": min((w for w in weights if w), default=1.0), "none": 1.0}[normalize]
    return [w / scale if w else 0.0 for w in weights]


def slow_swfc(embeddings, labels, weights, temperature, focus, reduction, bank, bank_labels):
    """The formula, one pair at a time, in float64."""
    candidates = [vector / vector.norm() for vector in torch.cat([embeddings, bank]).unbind()]
    classes = [*labels, *bank_labels]
    total, anchors = 0.0 * embeddings.sum(), 0
    for i, label in enumerate(labels):
        if label < 0:
            continue
        others = [a for a in range(len(classes)) if a != i and classes[a] >= 0]
        positives = [j for j in others if classes[j] == label]
        anchors += bool(positives) or reduction == "published"
        logits = {a: candidates[i].dot(candidates[a]) / temperature for a in others}
        for j in positives:
            log_s = -sum(torch.exp(logits[a] - logits[j]) for a in others).log()
            total = total - weights[label] / len(positives) * (1 - log_s.exp()) ** focus * log_s
    return total / max(anchors, 1)


def relative_error(found, expected):
    return ((found.double() - expected).norm() / expected.norm().clamp(min=1e-8)).item()


@st.composite
def swfc_cases(draw):
    size, bank, classes = draw(st.integers(1, 9)), draw(st.integers(0, 5)), draw(st.integers(1, 4))
    labels = st.sampled_from([-100, *range(classes), 0])
    generator = torch.Generator().manual_seed(draw(seeds))
    return dict(
        embeddings=3 * torch.randn(size, 5, generator=generator),
        labels=draw(st.lists(labels, min_size=size, max_size=size)),
        bank=torch.randn(bank, 5, generator=generator),
        bank_labels=draw(st.lists(labels, min_size=bank, max_size=bank)),
        counts=draw(st.lists(st.sampled_from([0, 1, 7, 300, 20_000]), min_size=classes, max_size=classes)),
        temperature=draw(st.sampled_from([0.005, 0.02, 0.07, 0.1, 0.3, 0.8, 1.4, 5.0])),
        focus=draw(st.sampled_from([0.0, 1.0, 2.0, 2.4])),
        exponent=draw(st.floats(0.0, 1.2)),
        normalize=draw(st.sampled_from(NORMALIZATIONS)),
        reduction=draw(st.sampled_from(["mean", "published"])),
    )


@given(case=swfc_cases())
@settings(max_examples=100, deadline=None)
def test_swfc_equals_the_formula_in_value_and_gradient(case):
    embeddings = case["embeddings"].requires_grad_()
    loss = swfc_loss(
        embeddings,
        torch.tensor(case["labels"]),
        case["counts"],
        temperature=case["temperature"],
        focus=case["focus"],
        class_weight_exponent=case["exponent"],
        normalize=case["normalize"],
        reduction=case["reduction"],
        bank_embeddings=case["bank"],
        bank_labels=torch.tensor(case["bank_labels"], dtype=torch.long),
    )
    (gradient,) = torch.autograd.grad(loss, embeddings)

    exact = embeddings.detach().double().requires_grad_()
    expected = slow_swfc(
        exact,
        case["labels"],
        slow_class_weights(case["counts"], case["exponent"], case["normalize"]),
        case["temperature"],
        case["focus"],
        case["reduction"],
        case["bank"].double(),
        case["bank_labels"],
    )
    (expected_gradient,) = torch.autograd.grad(expected, exact)
    tolerance = 1e-6 if case["temperature"] >= 0.1 else 2e-5
    assert relative_error(loss, expected) < tolerance
    assert relative_error(gradient, expected_gradient) < tolerance


def stock_swfc(embeddings, labels, weights, temperature):
    """The formula with gamma 2 in matrices, by torch's own functions."""
    z = normalize(embeddings, dim=-1)
    known = labels >= 0
    others = known & ~torch.eye(len(labels), dtype=torch.bool)
    positives = (labels[:, None] == labels) & others & known[:, None]
    log_s = (z @ z.T / temperature).masked_fill(~others, -1e30).log_softmax(1)
    pairs = torch.where(positives, (1 - log_s.exp()) ** 2 * log_s, 0.0)
    anchors = positives.any(1)
    return -(weights[labels[anchors]] * pairs[anchors].sum(1) / positives[anchors].sum(1)).mean()


@given(
    seed=seeds,
    size=st.integers(200, 400),
    width=st.integers(2, 64),
    classes=st.integers(1, 8),
    temperature=st.sampled_from([0.005, 0.02, 0.07, 0.1, 0.3, 0.8, 5.0]),
)
@few
def test_swfc_of_many_clips_in_float32_equals_the_formula_in_float64(seed, size, width, classes, temperature):
    generator = torch.Generator().manual_seed(seed)
    single = torch.randn(size, width, generator=generator).requires_grad_()
    double = single.detach().double().requires_grad_()
    labels = torch.randint(-1, classes, (size,), generator=generator)
    labels[labels < 0] = -100
    counts = torch.randint(1, 1000, (classes,), generator=generator).tolist()
    loss = swfc_loss(single, labels, counts, temperature=temperature)
    weights = torch.tensor(slow_class_weights(counts, 0.5, "mean"), dtype=torch.float64)
    expected = stock_swfc(double, labels, weights, temperature)
    assert loss.dtype == torch.float32
    tolerance = 1e-6 if temperature >= 0.1 else 2e-5
    assert relative_error(loss, expected) < tolerance
    if classes > 1:  # of one class the gradient is a small difference of large terms
        gradients = [torch.autograd.grad(*pair)[0] for pair in ((loss, single), (expected, double))]
        assert relative_error(*gradients) < 10 * tolerance


def test_swfc_is_the_same_in_one_block_and_in_many(monkeypatch):
    labels, bank_labels = torch.randint(-1, 4, (40,)), torch.randint(0, 4, (11,))
    labels[labels < 0] = -100
    bank = torch.randn(11, 6)
    results = []
    for pairs in (1 << 20, 7 * 51):
        monkeypatch.setattr(losses_ser_mtl, "BLOCK_PAIRS", pairs)
        embeddings = torch.randn(40, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
        loss = swfc_loss(embeddings, labels, [5, 3, 2, 1], bank_embeddings=bank, bank_labels=bank_labels)
        loss.backward()
        results.append((loss.detach(), embeddings.grad))
    torch.testing.assert_close(results[0], results[1])


def test_the_gradient_of_swfc_passes_the_numerical_check():
    embeddings = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    bank = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    labels, bank_labels = torch.tensor([0, 1, 0, -100, 2, 1, 0]), torch.tensor([1, 2, -100, 0])

    def loss(embeddings, bank):
        return swfc_loss(embeddings, labels, [3, 2, 1], temperature=0.3, bank_embeddings=bank, bank_labels=bank_labels)

    assert torch.autograd.gradcheck(loss, (embeddings, bank))


def test_swfc_holds_no_matrix_of_all_pairs():
    # 6,000 x 6,000 pairs take 137 MiB in float32.
    embeddings, labels = torch.randn(6_000, 4, requires_grad=True), torch.arange(6_000) % 3
    with torch.profiler.profile(profile_memory=True) as profile:
        swfc_loss(embeddings, labels, [1, 1, 1]).backward()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert 0 < peak < 100 * 2**20


@pytest.mark.parametrize("labels", [[-100, -100, -100], [0, 1, 2], [0, -100, 1], [0]])
def test_swfc_without_positives_is_exactly_0_and_still_has_a_gradient(labels):
    embeddings = torch.randn(len(labels), 4, requires_grad=True)
    loss = swfc_loss(embeddings, torch.tensor(labels), [5, 5, 5])
    loss.backward()
    assert loss.item() == 0.0
    torch.testing.assert_close(embeddings.grad, torch.zeros_like(embeddings), rtol=0, atol=0)


def test_swfc_of_a_single_class_is_finite_and_pulls_the_clips_together():
    embeddings = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = swfc_loss(embeddings, torch.zeros(6, dtype=torch.long), [6])
    loss.backward()
    assert loss.item() > 0
    assert embeddings.grad.isfinite().all() and embeddings.grad.abs().sum() > 0


DIFFICULT = {
    "identical": ([[1.0, 2.0]] * 4, [0, 0, 1, 1]),
    "opposite": ([[1.0, 2.0], [-1.0, -2.0], [1.0, 2.0], [-1.0, -2.0]], [0, 0, 1, 1]),
    "zero": ([[0.0, 0.0]] * 4, [0, 0, 1, 1]),
    "zero and not": ([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]], [0, 0, 1, 1]),
    "tiny": ([[1e-30, 0.0], [0.0, 1e-30], [1e-8, 0.0], [0.0, 1e-4]], [0, 0, 1, 1]),
    "no positives": ([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [0, 1, 2]),
    "one class": ([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [1, 1, 1]),
    "a class without training clips": ([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [3, 3, 0]),
    "a batch of 1": ([[1.0, 2.0]], [0]),
    "all unlabelled": ([[1.0, 2.0], [0.0, 0.0]], [-100, -100]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [0.005, 0.1, 5.0])
@pytest.mark.parametrize("focus", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("name", DIFFICULT)
def test_swfc_is_finite_with_an_ordinary_gradient_connected_to_the_graph(name, focus, temperature, dtype):
    values, labels = DIFFICULT[name]
    embeddings = torch.tensor(values, dtype=dtype, requires_grad=True)
    loss = swfc_loss(embeddings, torch.tensor(labels), [9, 3, 3, 0], temperature=temperature, focus=focus)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite() and loss >= 0
    assert embeddings.grad.isfinite().all()
    if "tiny" not in name:
        assert embeddings.grad.norm() <= 10 / temperature


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_swfc_in_full_precision(dtype):
    embeddings, labels = torch.randn(300, 16), torch.arange(300) % 5
    expected = swfc_loss(embeddings, labels, [1] * 5, temperature=0.01)
    with torch.autocast("cpu", dtype=dtype):
        torch.testing.assert_close(swfc_loss(embeddings, labels, [1] * 5, temperature=0.01), expected, rtol=0, atol=0)


def test_an_unlabelled_clip_changes_nothing_in_swfc():
    embeddings, labels = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 0])
    more = torch.cat([embeddings, torch.randn(2, 4)]), torch.cat([labels, torch.tensor([-100, -100])])
    for reduction in ("mean", "published"):
        torch.testing.assert_close(
            swfc_loss(*more, [3, 2, 1], reduction=reduction),
            swfc_loss(embeddings, labels, [3, 2, 1], reduction=reduction),
        )


def test_more_focus_leaves_an_easy_pair_a_smaller_share_of_swfc():
    # The first two are closest to each other, the last two are far apart.
    embeddings = torch.tensor([[1.0, 0.0], [0.99, 0.1], [-1.0, 0.0], [0.0, 1.0]])
    easy_pair, hard_pair = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 2, 2])

    def easy_share(focus):
        easy, hard = (
            swfc_loss(embeddings, labels, [1, 1, 1], focus=focus, temperature=0.5) for labels in (easy_pair, hard_pair)
        )
        return easy / (easy + hard)

    assert easy_share(4.0) < easy_share(2.0) < easy_share(0.0)


@pytest.mark.parametrize("name", ["normalize", "reduction"])
def test_an_unknown_option_of_swfc_is_named(name):
    with pytest.raises(ValueError, match=f"{name}: found 'max', allowed are 'mean'"):
        swfc_loss(torch.randn(2, 3), torch.tensor([0, 0]), [2], **{name: "max"})


@given(
    counts=st.lists(st.integers(0, 10_000), min_size=1, max_size=8),
    exponent=st.floats(0.0, 1.5),
    normalize=st.sampled_from(NORMALIZATIONS),
)
@few
def test_class_weights_equal_the_formula(counts, exponent, normalize):
    expected = torch.tensor(slow_class_weights(counts, exponent, normalize), dtype=torch.float64)
    torch.testing.assert_close(class_weights(counts, exponent, normalize), expected)


@given(counts=st.lists(st.integers(0, 10_000), min_size=1, max_size=8).filter(any), exponent=st.floats(0.0, 1.5))
@few
def test_each_normalisation_of_the_class_weights_keeps_what_it_says(counts, exponent):
    present = torch.tensor(counts) > 0
    mean = class_weights(counts, exponent, "mean")
    assert (mean * torch.tensor(counts)).sum().item() / sum(counts) == pytest.approx(1.0)
    assert class_weights(counts, exponent, "sum").sum().item() == pytest.approx(1.0)
    assert class_weights(counts, exponent, "min")[present].min().item() == pytest.approx(1.0)
    assert (mean[~present] == 0).all()


def test_cross_entropy_per_clip_equals_torch_and_is_0_without_a_label():
    logits, labels = torch.randn(4, 3), torch.tensor([2, -100, 0, 1])
    losses = cross_entropy_per_clip(logits, labels)
    expected = torch.nn.functional.cross_entropy(logits[[0, 2, 3]], labels[[0, 2, 3]], reduction="none")
    torch.testing.assert_close(losses[[0, 2, 3]], expected)
    assert losses[1] == 0


def test_class_weights_multiply_the_loss_of_each_clip():
    logits, labels = torch.randn(4, 3), torch.tensor([2, -100, 0, 1])
    plain = cross_entropy_per_clip(logits, labels, label_smoothing=0.1)
    weighted = cross_entropy_per_clip(logits, labels, torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.1)
    torch.testing.assert_close(weighted, plain * torch.tensor([0.5, 0.0, 1.0, 2.0]))


@given(seed=seeds, focus=st.floats(0.1, 5.0), size=st.integers(1, 6))
@few
def test_focal_cross_entropy_equals_the_formula(seed, focus, size):
    generator = torch.Generator().manual_seed(seed)
    logits, labels = 3 * torch.randn(size, 4, generator=generator), torch.randint(4, (size,), generator=generator)
    losses = cross_entropy_per_clip(logits, labels, focus=focus)
    for row, label, loss in zip(logits.double(), labels.tolist(), losses.tolist(), strict=True):
        probability = (row[label].exp() / row.exp().sum()).item()
        assert loss == pytest.approx(-((1 - probability) ** focus) * math.log(probability), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("focus", [0.5, 2.0])
def test_focal_cross_entropy_of_a_certain_clip_has_a_finite_gradient(focus):
    logits = torch.tensor([[200.0, 0.0], [-200.0, 0.0]], requires_grad=True)
    losses = cross_entropy_per_clip(logits, torch.tensor([0, 0]), focus=focus)
    losses.sum().backward()
    assert losses.isfinite().all() and logits.grad.isfinite().all() and losses[0] < 1e-3 < losses[1]


def cosines(embeddings, prototypes):
    return normalize(embeddings, dim=-1) @ normalize(prototypes, dim=-1).T


@given(seed=seeds, margin=st.floats(0.0, 0.6), scale=st.floats(1.0, 40.0), size=st.integers(1, 5))
@few
def test_angular_margin_equals_the_arc_cosine_formula(seed, margin, scale, size):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(size, 6, generator=generator)
    prototypes = torch.randn(4, 6, generator=generator)
    labels = torch.randint(4, (size,), generator=generator)
    losses = angular_margin_per_clip(cosines(embeddings, prototypes), labels, scale=scale, margin=margin)
    for embedding, label, loss in zip(embeddings, labels.tolist(), losses.tolist(), strict=True):
        angles = [math.acos(float(torch.cosine_similarity(embedding, p, dim=0))) for p in prototypes]
        if angles[label] + margin >= math.pi:
            continue
        angles[label] += margin
        logits = [scale * math.cos(angle) for angle in angles]
        expected = math.log(sum(math.exp(logit - logits[label]) for logit in logits))
        assert loss == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_angular_margin_grows_with_the_angle_up_to_pi():
    angles = torch.linspace(0.0, math.pi, 200)
    embeddings = torch.stack([angles.cos(), angles.sin(), torch.zeros(200)], dim=1)
    prototypes = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    losses = angular_margin_per_clip(cosines(embeddings, prototypes), torch.zeros(200, dtype=torch.long), scale=5.0)
    assert (losses.diff() >= -1e-4).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_angular_margin_has_a_finite_gradient_at_and_opposite_a_prototype(sign):
    prototypes = torch.randn(3, 4)
    embedding = (sign * prototypes[:1]).clone().requires_grad_()
    angular_margin_per_clip(cosines(embedding, prototypes), torch.tensor([0])).sum().backward()
    assert embedding.grad.isfinite().all()


def test_angular_margin_is_0_without_a_speaker():
    embeddings = torch.randn(2, 4, requires_grad=True)
    losses = angular_margin_per_clip(cosines(embeddings, torch.randn(3, 4)), torch.tensor([-100, 1]), scale=2.0)
    losses.sum().backward()
    assert losses[0] == 0 and (embeddings.grad[0] == 0).all() and losses[1] > 0


def collapse(path):
    """An alignment without its repeats and then without its blanks (0)."""
    return [symbol for symbol, _ in itertools.groupby(path) if symbol]


@given(seed=seeds, frames=st.integers(1, 5), labels=st.lists(st.integers(1, 2), min_size=1, max_size=4))
@few
def test_ctc_equals_the_sum_over_all_alignments(seed, frames, labels):
    logits = torch.randn(1, frames + 2, 3, generator=torch.Generator().manual_seed(seed))  # the last two are padding
    probabilities = logits[0, :frames].double().softmax(-1).tolist()
    total = sum(
        math.prod(frame[symbol] for frame, symbol in zip(probabilities, path, strict=True))
        for path in itertools.product(range(3), repeat=frames)
        if collapse(path) == labels
    )
    lengths, padded = torch.tensor([frames]), torch.tensor([[*labels, -100]])
    assert ctc_feasible(lengths, padded).item() == (total > 0)
    expected = -math.log(total) / len(labels) if total else 0.0
    assert ctc_per_clip(logits, lengths, padded).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_ctc_of_a_batch_equals_torch_clip_by_clip():
    generator = torch.Generator().manual_seed(1)
    logits, lengths = torch.randn(3, 12, 6, generator=generator), torch.tensor([12, 9, 5])
    labels = torch.tensor([[1, 2, 2, 5], [3, -100, -100, -100], [4, 1, -100, -100]])
    losses = ctc_per_clip(logits, lengths, labels)
    for row, (length, label) in enumerate(zip(lengths, labels, strict=True)):
        label = label[label >= 0]
        expected = torch.nn.CTCLoss()(logits[row, :length].log_softmax(-1), label, length, torch.tensor(len(label)))
        torch.testing.assert_close(losses[row], expected)


@pytest.mark.parametrize("labels", [[1, 2, 1], [1, 1, -100], [-100, -100, -100]])
def test_a_clip_that_ctc_cannot_align_has_loss_0_and_gradient_0(labels):
    logits = torch.randn(2, 8, 4, requires_grad=True)
    losses = ctc_per_clip(logits, torch.tensor([2, 8]), torch.tensor([labels, [1, 2, -100]]))
    losses.sum().backward()
    assert losses[0] == 0 and losses[1] > 0
    assert (logits.grad[0] == 0).all() and logits.grad[1].abs().sum() > 0


def test_the_mean_is_over_labelled_clips_only():
    losses, labelled = torch.tensor([1.0, 7.0, 3.0]), torch.tensor([True, False, True])
    assert mean_over_labelled(losses, labelled).item() == 2.0


def test_the_mean_over_no_labelled_clip_is_0_with_a_zero_gradient():
    losses = torch.tensor([1.0, 7.0], requires_grad=True)
    mean = mean_over_labelled(losses, torch.tensor([False, False]))
    mean.backward()
    assert mean.item() == 0.0 and losses.grad.tolist() == [0.0, 0.0]


def test_a_given_count_makes_the_mean_of_two_batches_that_of_all_their_clips():
    losses, labelled = torch.rand(9), torch.tensor([1, 0, 1, 1, 1, 0, 1, 1, 1]).bool()
    batches = [slice(0, 2), slice(2, 9)]
    count = labelled.sum() / len(batches)
    parts = [mean_over_labelled(losses[rows], labelled[rows], count) for rows in batches]
    torch.testing.assert_close(sum(parts) / len(parts), losses[labelled].mean())


def test_each_loss_is_multiplied_by_the_weight_of_its_name():
    losses = {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}
    assert weighted_terms(losses, {"b": 0.5, "a": 10.0, "unused": 7.0}) == {"a": 20.0, "b": 1.5}


def test_a_class_that_never_trained_weighs_1_in_the_cross_entropy_and_exponent_0_weighs_nothing():
    assert cross_entropy_weights([9, 0, 1], 1.0).tolist() == [*class_weights([9, 1], 1.0)[:1].tolist(), 1.0, 5.0]
    assert cross_entropy_weights([0, 0], 1.0).tolist() == [1.0, 1.0]
    assert cross_entropy_weights([9, 0, 1], 0.0) is None and cross_entropy_weights(None, 1.0) is None


@given(loss=st.floats(0.01, 50.0), weight=st.floats(0.1, 2.0))
@few
def test_the_learned_uncertainty_settles_where_it_equals_the_loss(loss, weight):
    # d/dv (exp(-v) L + v / 2) = 0 at exp(v) = 2 L, whatever the fixed weight.
    variance = torch.tensor(2 * loss, dtype=torch.float64).log().requires_grad_()
    total = weighted_terms({"a": torch.tensor(loss, dtype=torch.float64)}, {"a": weight}, {"a": variance})["a"]
    total.backward()
    assert total.item() == pytest.approx(weight * (0.5 + math.log(2 * loss) / 2))
    assert variance.grad.item() == pytest.approx(0.0, abs=1e-12)
