"""Every backbone trains a step, saves, reloads, runs in a padded batch and gives what the stock backbone gives."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from modeling_ser_mtl import SerMtlModel

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "benchmarks" / "batch_invariance.py"))
BACKBONES: dict[str, dict[str, Any]] = SCRIPT["BACKBONES"]
BACKBONES["whisper"] = {
    "model_type": "whisper",
    "d_model": 32,
    "encoder_layers": 3,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "num_mel_bins": 8,
    "max_source_positions": 30,  # 1,500 in published checkpoints
    "dropout": 0.0,
}
# In milliseconds: 30, 21 and 15 frames, of which SEW squeezes two into one.
LENGTHS = (610, 430, 310)
LABELS = {
    "emotion_labels": torch.tensor([0, 1, 2]),
    "gender_labels": torch.tensor([0, 1, 0]),
    "speaker_labels": torch.tensor([0, 1, 3]),
    "ctc_labels": torch.tensor([[1, 2], [3, -100], [4, 5]]),
}
# Weights that transformers registers but never uses.
UNUSED = {"wav2vec2-conformer": "backbone.encoder.pos_conv_embed."}


small_model = SCRIPT["small_model"]
# The new name is not there yet in the oldest transformers.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")


def inputs_of(model: SerMtlModel, lengths: tuple[int, ...] = LENGTHS) -> dict[str, torch.Tensor]:
    """Noise and its mask; of Whisper always 60 frames of 20 ms, of which the mask takes those of the clip."""
    if not model.has_fixed_length:
        return SCRIPT["padded_batch"](model, SCRIPT["random_clips"](model, lengths))
    features = torch.randn(len(lengths), 8, 60, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(60) < torch.tensor(lengths)[:, None] // 20
    return {"input_features": features, "attention_mask": mask.long()}


def stock_backbone(model: SerMtlModel) -> torch.nn.Module:
    """The same weights in the class of transformers."""
    config = model.config.backbone_config
    stock = WhisperEncoder(config) if model.has_fixed_length else AutoModel.from_config(config)
    stock.load_state_dict(model.backbone.state_dict())
    return stock.eval()


@pytest.mark.parametrize("name", BACKBONES)
def test_a_training_step_moves_every_weight(name) -> None:
    model = small_model(name, mask_time_prob=0.3, mask_time_length=2).train()
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    loss = model(**inputs_of(model), **LABELS).loss
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    unused = UNUSED.get(model.config.backbone_config.model_type, "-")
    for key, value in model.named_parameters():
        expected = value.requires_grad and not key.startswith(unused)
        assert torch.equal(value, before[key]) != expected, key
        assert value.isfinite().all(), key


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", BACKBONES)
def test_layerdrop_leaves_one_state_per_layer_in_training(name, checkpointing) -> None:
    model = small_model(name, **{"encoder_layerdrop" if name == "whisper" else "layerdrop": 0.3}).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    dropped = 0
    for seed in range(6):
        torch.manual_seed(seed)
        output = model(**inputs_of(model), **LABELS, output_hidden_states=True)
        output.loss.backward()
        assert output.loss.isfinite()
        assert len({state.shape for state in output.hidden_states}) == 1 and len(output.hidden_states) == 4
        dropped += sum(a is b for a, b in zip(output.hidden_states, output.hidden_states[1:], strict=False))
    assert dropped > 0


@pytest.mark.parametrize("name", BACKBONES)
def test_a_saved_model_gives_identical_outputs(name, tmp_path) -> None:
    model = small_model(name)
    model.save_pretrained(tmp_path)
    loaded = SerMtlModel.from_pretrained(tmp_path)
    with torch.no_grad():
        output, expected = loaded(**inputs_of(model)), model(**inputs_of(model))
    for key, value in expected.items():
        assert torch.equal(output[key], value), key


@pytest.mark.parametrize("name", BACKBONES)
def test_the_weights_keep_the_names_of_the_stock_backbone(name) -> None:
    model = small_model(name)
    assert list(model.backbone.state_dict()) == list(stock_backbone(model).state_dict())


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", BACKBONES)
def test_hidden_states_of_one_clip_equal_the_stock_backbones(name, length) -> None:
    model = small_model(name)
    inputs = inputs_of(model, (length,))
    stock = stock_backbone(model)
    with torch.no_grad():
        expected = stock(inputs[model.main_input_name], output_hidden_states=True)
        states = model(**inputs, output_hidden_states=True).hidden_states
    # The last one is the encoder's output, after the final norm where there is one.
    torch.testing.assert_close(states[-1], expected.last_hidden_state, rtol=0, atol=1e-5)
    for state, other in zip(states[:-1], expected.hidden_states, strict=False):
        squeezed = state[:, : other.shape[1] * model.squeeze_factor : model.squeeze_factor]
        torch.testing.assert_close(squeezed, other, rtol=0, atol=1e-5)


def test_states_of_squeezed_frames_repeat_at_the_full_rate() -> None:
    model = small_model("sew")
    with torch.no_grad():
        output = model(**inputs_of(model, (430,)), output_hidden_states=True)
    assert output.frame_mask.tolist() == [[True] * 20 + [False]]  # the odd frame is in no squeezed one
    for state in output.hidden_states[:-1]:
        assert torch.equal(state[:, 0:20:2], state[:, 1:20:2])


@pytest.mark.parametrize("milliseconds", [25, 40])
@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "whisper"])
def test_clips_of_a_frame_or_two_train_beside_long_ones(name, milliseconds) -> None:
    model = small_model(name).train()
    loss = model(**inputs_of(model, (610, milliseconds, 310)), **LABELS).loss
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_whisper_backbone_has_no_decoder() -> None:
    assert isinstance(small_model("whisper").backbone, WhisperEncoder)


def test_whisper_clips_do_not_depend_on_their_batch_nor_on_frames_after_their_end_in_the_heads() -> None:
    model = small_model("whisper")
    inputs = inputs_of(model)
    with torch.no_grad():
        batch = model(**inputs)
        assert batch.frame_mask.sum(1).tolist() == [15, 11, 8]  # two frames make one
        for row in range(3):
            alone = model(**{key: value[row : row + 1] for key, value in inputs.items()})
            for key in ("logits", "gender_logits", "speaker_embeddings", "ctc_logits"):
                torch.testing.assert_close(batch[key][row], alone[key][0], rtol=0, atol=1e-5)
        full = model(**inputs | {"attention_mask": torch.ones_like(inputs["attention_mask"])})
    assert (batch.logits - full.logits).abs().max() > 1e-5
