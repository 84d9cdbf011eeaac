import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_ser_mtl.data.collator import SerMtlCollator
from modeling_ser_mtl.training.arguments import ModelArguments
from modeling_ser_mtl.training.builders import build_processor, load_config


@pytest.fixture(scope="module", params=["wav2vec2", "wav2vec2-bert"])
def collator(request, tiny_config) -> SerMtlCollator:
    arguments = ModelArguments(config_name=str(tiny_config(request.param)))
    return SerMtlCollator(build_processor(arguments, load_config(arguments), None))


def item(num_samples: int, text: str = "", label: int = -100, clip: int = 0) -> dict[str, object]:
    waveform = np.random.default_rng(num_samples).uniform(-1, 1, num_samples).astype("float32")
    labels = {f"{name}_label": label for name in ("emotion", "gender", "speaker")}
    return {"waveform": waveform, "text": text, "clip_index": clip, **labels}


def test_every_label_tensor_is_there_and_unknown_is_minus_100(collator) -> None:
    batch = collator([item(900), item(700)])
    for name in ("emotion_labels", "gender_labels", "speaker_labels"):
        assert batch[name].tolist() == [-100, -100]
    assert batch["ctc_labels"].shape[0] == 2 and (batch["ctc_labels"] == -100).all()


def test_labels_and_clips_keep_their_order(collator) -> None:
    batch = collator([item(900, label=1, clip=7), item(700, label=0, clip=3)])
    assert batch["clip_index"].tolist() == [7, 3]
    assert batch["emotion_labels"].tolist() == batch["speaker_labels"].tolist() == [1, 0]


def test_transcripts_are_character_indices_without_the_blank(collator) -> None:
    batch = collator([item(900, "ab a"), item(700), item(800, "b")])
    vocabulary = collator.processor.tokenizer.get_vocab()
    a, b, space = vocabulary["a"], vocabulary["b"], vocabulary["|"]
    assert batch["ctc_labels"].tolist() == [[a, b, space, a], [-100] * 4, [b, -100, -100, -100]]
    assert not (batch["ctc_labels"] == collator.processor.tokenizer.pad_token_id).any()


@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(800, 9_000), min_size=1, max_size=4))
def test_a_clips_inputs_do_not_depend_on_the_batch(collator, lengths) -> None:
    items = [item(length) for length in lengths]
    batch, name = collator(items), collator.processor.model_input_names[0]
    for row, mask, alone in zip(batch[name], batch["attention_mask"].bool(), items, strict=True):
        expected = collator([alone])
        torch.testing.assert_close(row[mask], expected[name][0][expected["attention_mask"][0].bool()])


@pytest.mark.parametrize("collator", ["wav2vec2"], indirect=True)
def test_waveforms_are_normalised_clip_by_clip_and_padded_with_zeros(collator) -> None:
    items = [item(900), item(700)]
    batch = collator(items)
    for row, mask, clip in zip(batch["input_values"], batch["attention_mask"].bool(), items, strict=True):
        waveform = clip["waveform"].astype("float64")
        expected = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
        np.testing.assert_allclose(row[mask].numpy(), expected, atol=1e-5)
        assert mask.sum() == len(waveform) and not row[~mask].any()
