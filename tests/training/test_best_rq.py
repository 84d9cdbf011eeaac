"""BEST-RQ against slow loops: targets, masks, loss and what counts as right."""

import json
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel

from modeling_ser_mtl.training.best_rq import BestRqModel, RandomProjectionQuantizer, sum_per_clip

NUM_CODEBOOKS, CODEBOOK_SIZE = 3, 20


@pytest.fixture
def model(tiny_config) -> BestRqModel:
    """A small model in evaluation mode."""
    torch.manual_seed(0)
    backbone = json.loads(tiny_config("wav2vec2-bert").read_text())["backbone_config"]
    encoder = AutoModel.from_config(AutoConfig.for_model(**backbone))
    return BestRqModel(encoder, NUM_CODEBOOKS, CODEBOOK_SIZE).eval()


def some_batch(seed: int = 0) -> dict[str, torch.Tensor]:
    """Three clips of 30, 21 and 12 frames; of each some frames are masked."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([30, 21, 12])
    real = torch.arange(30) < lengths[:, None]
    mask = torch.zeros(3, 30, dtype=torch.bool)
    mask[:, 2:8], mask[0, 20:25] = True, True
    features = torch.randn(3, 30, 160, generator=generator) * real[..., None]
    return {"input_features": features, "attention_mask": real.long(), "mask_time_indices": mask}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 4), st.integers(1, 9))
def test_a_frames_ids_are_its_nearest_codewords(seed, num_channels, num_codebooks, codebook_size) -> None:
    torch.manual_seed(seed)
    quantizer = RandomProjectionQuantizer(num_channels, num_codebooks, codebook_size).double()
    frames = torch.randn(5, num_channels, dtype=torch.float64)
    for frame, ids in zip(frames, quantizer(frames), strict=True):
        for projection, codewords, found in zip(quantizer.projections, quantizer.codebooks, ids, strict=True):
            projected = [sum(float(frame[i]) * float(projection[i, j]) for i in range(num_channels)) for j in range(16)]
            length = math.sqrt(sum(x * x for x in projected))
            distances = [
                sum((x / length - float(y)) ** 2 for x, y in zip(projected, word, strict=True)) for word in codewords
            ]
            assert distances[int(found)] == pytest.approx(min(distances), abs=1e-12)


def test_a_frames_ids_do_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(160, NUM_CODEBOOKS, CODEBOOK_SIZE)
    frames = torch.randn(4, 7, 160)
    alone = torch.stack([quantizer(frame) for frame in frames.flatten(0, 1)])
    assert torch.equal(quantizer(frames).flatten(0, 1), alone)


def test_the_quantizer_never_learns_and_is_saved_with_the_model(model) -> None:
    assert not any(name.startswith("quantizer") for name, _ in model.named_parameters())
    assert {"quantizer.projections", "quantizer.codebooks", "most_common"} <= model.state_dict().keys()


def test_what_a_masked_frame_holds_reaches_the_loss_as_its_target_only(model) -> None:
    batch = some_batch()
    logits: list[torch.Tensor] = []
    model.head.register_forward_hook(lambda *call: logits.append(call[2]))
    model(**batch)
    other = {**batch, "input_features": batch["input_features"].clone()}
    other["input_features"][batch["mask_time_indices"]] = 5.0
    model(**other)
    assert torch.equal(logits[0], logits[1])


def test_the_loss_and_the_counts_are_those_of_a_loop_over_masked_frames(model) -> None:
    batch = some_batch()
    features, mask = batch["input_features"], batch["mask_time_indices"]
    model.find_most_common(features)
    with torch.no_grad():
        outputs = model(**batch)
        states = model.encoder(
            features, attention_mask=batch["attention_mask"], mask_time_indices=mask
        ).last_hidden_state
        losses, correct, guessed = [], [0.0] * 3, [0.0] * 3
        for clip in range(3):
            for frame in range(30):
                if not mask[clip, frame]:
                    continue
                ids = model.quantizer(features[clip, frame])
                for book, scores in enumerate(model.head(states[clip, frame]).split(CODEBOOK_SIZE)):
                    losses.append(-float(scores.log_softmax(-1)[ids[book]]))
                    correct[clip] += float(scores.argmax() == ids[book]) / NUM_CODEBOOKS
                    guessed[clip] += float(model.most_common[book] == ids[book]) / NUM_CODEBOOKS
    assert len(losses) == NUM_CODEBOOKS * mask.sum()
    assert float(outputs["loss"]) == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert outputs["num_masked"].tolist() == [11, 6, 6]
    assert outputs["num_correct"].tolist() == pytest.approx(correct, abs=1e-5)
    assert outputs["num_guessed"].tolist() == pytest.approx(guessed, abs=1e-5)


def test_the_most_common_ids_are_those_of_a_counter(model) -> None:
    clips = [torch.randn(length, 160, generator=torch.Generator().manual_seed(length)) for length in (50, 80)]
    model.find_most_common(clips)
    for book, found in enumerate(model.most_common.tolist()):
        counts = Counter(int(ids[book]) for clip in clips for ids in model.quantizer(clip))
        assert counts[found] == max(counts.values())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5))
def test_values_of_masked_frames_are_summed_by_clip(rows) -> None:
    mask = torch.tensor(rows)
    values = torch.arange(1.0, 1.0 + mask.sum())
    remaining = iter(values.tolist())
    assert sum_per_clip(values, mask).tolist() == [sum(next(remaining) for _ in range(sum(row))) for row in rows]


def test_masked_frames_are_learned_from_the_frames_around_them(model) -> None:
    # Clips that alternate between two frames: what is masked follows from its neighbours.
    generator = torch.Generator().manual_seed(1)
    pair = torch.randn(2, 160, generator=generator)
    clips = torch.stack([pair.roll(shift, 0).repeat(15, 1) for shift in (0, 1, 0, 1)])
    mask = torch.zeros(4, 30, dtype=torch.bool)
    mask[:, 8:12] = True
    batch = {"input_features": clips, "attention_mask": torch.ones(4, 30).long(), "mask_time_indices": mask}
    model.find_most_common(clips)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        model(**batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    outputs = model(**batch)
    assert outputs["num_correct"].sum() == outputs["num_masked"].sum() == 2 * outputs["num_guessed"].sum()
