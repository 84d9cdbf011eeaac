"""A clip gives the same predictions alone, padded to any length, and in any batch and order, with every backbone."""

import copy
import runpy
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_ser_mtl import SerMtlModel
from modeling_ser_mtl.padding_ser_mtl import FrozenBatchNorm, masked_deviations

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "benchmarks" / "batch_invariance.py"))
BACKBONES, OUTPUTS = SCRIPT["BACKBONES"], SCRIPT["OUTPUTS"]
small_model, random_clips, padded_batch = SCRIPT["small_model"], SCRIPT["random_clips"], SCRIPT["padded_batch"]
LEAKING = ("wav2vec2, group norm", "wavlm, group norm", "data2vec-audio", "wav2vec2-conformer", "sew")
LABELS = {
    "emotion_labels": torch.tensor([0, 1, 2]),
    "gender_labels": torch.tensor([0, 1, 0]),
    "speaker_labels": torch.tensor([0, 1, 3]),
    "ctc_labels": torch.tensor([[1, 2], [3, -100], [4, 5]]),
}
# From three frames on; a frame is 20 ms, so that clips have odd and even numbers of them.
milliseconds = st.lists(st.integers(70, 500), min_size=2, max_size=4)
model_of = cache(small_model)
# The new name is not there yet in the oldest transformers.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")


def transcript(output, row: int) -> list[int]:
    """Greedy CTC over the real frames: repeats and blanks (0) collapse."""
    ids = output.ctc_logits[row, output.frame_mask[row]].argmax(-1).unique_consecutive()
    return ids[ids != 0].tolist()


def gradients(model: SerMtlModel) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", BACKBONES)
@given(lengths=milliseconds, extra=st.integers(0, 3000), order=st.randoms(use_true_random=False))
@settings(max_examples=6, deadline=None)
def test_predictions_do_not_depend_on_the_batch(name, training, lengths, extra, order) -> None:
    model = model_of(name).train(training)
    clips = random_clips(model, lengths, seed=len(lengths))
    shuffled = order.sample(range(len(clips)), len(clips))
    extra = extra if model.main_input_name == "input_values" else extra // 100
    with torch.no_grad():
        batch = model(**padded_batch(model, [clips[index] for index in shuffled], extra), output_hidden_states=True)
        for row, index in enumerate(shuffled):
            alone = model(**padded_batch(model, [clips[index]]), output_hidden_states=True)
            frames = int(alone.frame_mask.sum())
            assert batch.frame_mask[row].sum() == frames
            for output in OUTPUTS:
                torch.testing.assert_close(batch[output][row], alone[output][0], rtol=0, atol=1e-4)
            torch.testing.assert_close(batch.ctc_logits[row, :frames], alone.ctc_logits[0, :frames], rtol=0, atol=1e-4)
            for ours, other in zip(batch.hidden_states, alone.hidden_states, strict=True):
                torch.testing.assert_close(ours[row, :frames], other[0, :frames], rtol=0, atol=1e-4)
            assert batch.logits[row].argmax() == alone.logits[0].argmax()
            assert transcript(batch, row) == transcript(alone, 0)


@pytest.mark.parametrize("name", LEAKING)
def test_gradients_do_not_depend_on_the_padding(name) -> None:
    model = small_model(name).train()
    clips, results = random_clips(model, [400, 310, 230]), []
    for extra in (0, 5000):
        model.zero_grad()
        model(**padded_batch(model, clips, extra), **LABELS).loss.backward()
        results.append(gradients(model))
    assert set(results[0]) == set(results[1])
    for key, gradient in results[0].items():
        torch.testing.assert_close(results[1][key], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", BACKBONES)
def test_recomputed_layers_see_the_padding_of_their_own_batch(name, reentrant) -> None:
    model = small_model(name).train()
    batches = [padded_batch(model, random_clips(model, lengths)) for lengths in ([400, 310, 230], [90, 350, 420])]

    def two_forwards_before_one_backward() -> dict[str, torch.Tensor]:
        model.zero_grad()
        sum(model(**batch, **LABELS).loss for batch in batches).backward()
        return gradients(model)

    expected = two_forwards_before_one_backward()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    checkpointed = two_forwards_before_one_backward()
    assert set(checkpointed) == set(expected)
    for key, gradient in expected.items():
        torch.testing.assert_close(checkpointed[key], gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LEAKING)
def test_a_copy_sees_its_own_batches(name) -> None:
    model = small_model(name)
    clips = random_clips(model, [400, 310, 230])
    with torch.no_grad():
        expected = model(**padded_batch(model, clips)).logits
        copied = copy.deepcopy(model)
        model(**padded_batch(model, clips[::-1]))
        torch.testing.assert_close(copied(**padded_batch(model, clips)).logits, expected, rtol=0, atol=0)


@given(seed=st.integers(0, 1000), lengths=st.lists(st.integers(1, 9), min_size=1, max_size=3), offset=st.floats(-9, 9))
@settings(max_examples=30, deadline=None)
def test_masked_statistics_equal_those_of_each_clip_alone(seed, lengths, offset) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(len(lengths), 4, 9, generator=generator) + offset
    deviations, variance = masked_deviations(states, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        clip = states[row, :, :length].double()
        expected = torch.nn.functional.pad(clip - clip.mean(-1, keepdim=True), (0, 9 - length))
        torch.testing.assert_close(deviations[row].double(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(variance[row, :, 0].double(), clip.var(-1, correction=0), rtol=1e-4, atol=1e-5)


def test_training_keeps_the_batch_norm_of_the_checkpoint() -> None:
    model = small_model("wav2vec2-conformer").train()
    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm)]
    assert len(norms) == 3
    before = [norm.running_mean.clone() for norm in norms]
    model(**padded_batch(model, random_clips(model, [400, 310, 230])), **LABELS).loss.backward()
    for norm, mean in zip(norms, before, strict=True):
        assert torch.equal(norm.running_mean, mean) and norm.weight.grad.abs().sum() > 0


def test_the_script_prints_a_row_for_each_backbone(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["batch_invariance.py", "--backbones", *LEAKING, "--milliseconds", "310", "130"])
    SCRIPT["main"]()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == list(LEAKING)
    for _, stock, states, outputs in rows[1:]:
        assert float(stock) > 1e-3 and float(states) < 1e-4 and float(outputs) < 1e-4
