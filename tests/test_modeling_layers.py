"""The layer mixture and the pooling, against plain loops."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_ser_mtl.modeling_ser_mtl import AttentiveStatisticsPooling, LayerMixture

few = settings(max_examples=15, deadline=None)


@given(seed=st.integers(0, 1000), tasks=st.integers(1, 4), states=st.integers(1, 6))
@few
def test_the_layer_mixture_is_a_softmax_weighted_sum(seed, tasks, states):
    torch.manual_seed(seed)
    mixture = LayerMixture(tasks, states)
    torch.nn.init.normal_(mixture.weight)
    hidden_states = tuple(torch.randn(2, 3, 4) for _ in range(states))
    for row, mixed in zip(mixture.weight.tolist(), mixture(hidden_states), strict=True):
        total = sum(math.exp(w) for w in row)
        expected = torch.zeros(2, 3, 4)
        for weight, state in zip(row, hidden_states, strict=True):
            expected += math.exp(weight) / total * state
        torch.testing.assert_close(mixed, expected)


@given(seed=st.integers(0, 1000), tasks=st.integers(1, 4), states=st.integers(1, 6))
@few
def test_the_gradient_of_the_layer_mixture_is_that_of_the_sum(seed, tasks, states):
    torch.manual_seed(seed)
    mixture = LayerMixture(tasks, states).double()
    torch.nn.init.normal_(mixture.weight)
    hidden_states = tuple(torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(states))
    targets = torch.randn(tasks, 2, 3, 4, dtype=torch.float64)

    def gradients(mixed):
        loss = sum((target * stream).sum() for target, stream in zip(targets, mixed, strict=True))
        return torch.autograd.grad(loss, (mixture.weight, *hidden_states))

    weights = mixture.weight.softmax(-1)
    expected = [sum(w * state for w, state in zip(row, hidden_states, strict=True)) for row in weights]
    torch.testing.assert_close(gradients(mixture(hidden_states)), gradients(expected))


@given(seed=st.integers(0, 1000), lengths=st.lists(st.integers(1, 7), min_size=1, max_size=3))
@few
def test_attentive_pooling_equals_a_loop_over_the_real_frames(seed, lengths):
    torch.manual_seed(seed)
    pooling = AttentiveStatisticsPooling(5, 4).eval()
    stream = torch.randn(len(lengths), 7, 5)
    mask = torch.arange(7)[None] < torch.tensor(lengths)[:, None]
    pooled = pooling(stream, mask)
    for clip, length, result in zip(stream, lengths, pooled, strict=True):
        scores = [pooling.score(torch.tanh(pooling.attention(frame))).item() for frame in clip[:length]]
        weights = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
        mean = sum(w * frame for w, frame in zip(weights, clip, strict=False))
        variance = sum(w * (frame - mean) ** 2 for w, frame in zip(weights, clip, strict=False))
        torch.testing.assert_close(result, torch.cat([mean, variance.clamp(min=1e-6).sqrt()]), rtol=1e-3, atol=2e-3)


def test_attentive_pooling_ignores_what_padding_holds():
    pooling, stream = AttentiveStatisticsPooling(5, 4), torch.randn(2, 6, 5)
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    other = stream.clone()
    other[0, 4:] = torch.nan
    torch.testing.assert_close(pooling(stream, mask), pooling(other, mask), rtol=0, atol=0)
