"""Every attention implementation gives the same logits, and half precision what float32 gives, within its precision."""

import copy
import importlib.util
import runpy
from pathlib import Path

import pytest
import torch
from transformers import Wav2Vec2Config

from modeling_ser_mtl import SerMtlConfig, SerMtlModel

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "benchmarks" / "batch_invariance.py"))
small_model, random_clips, padded_batch = SCRIPT["small_model"], SCRIPT["random_clips"], SCRIPT["padded_batch"]
BACKBONES = list(SCRIPT["BACKBONES"])
WITHOUT_SDPA = [name for name in BACKBONES if name.startswith("wavlm")]
WITH_SDPA = [name for name in BACKBONES if name not in WITHOUT_SDPA]
HALF = [
    "wav2vec2, group norm",
    "wav2vec2, layer norm",
    "wavlm, group norm",
    "wav2vec2-conformer",
    "sew",
    "wav2vec2-bert",
]
OUTPUTS = ("logits", "gender_logits", "speaker_embeddings", "emotion_embeddings")
# About twice the largest relative difference from float32 that was measured: .028 and .004.
TOLERANCES = {torch.bfloat16: 6e-2, torch.float16: 1e-2}
LABELS = {
    "emotion_labels": torch.tensor([0, 1, 2]),
    "gender_labels": torch.tensor([0, 1, 0]),
    "speaker_labels": torch.tensor([0, 1, 3]),
    "ctc_labels": torch.tensor([[1, 2], [3, -100], [4, 5]]),
}


def batch_of(model: SerMtlModel, milliseconds: tuple[int, ...] = (610, 430, 310)) -> dict[str, torch.Tensor]:
    """Noise padded to one length, in the precision of the model, and its mask."""
    batch = padded_batch(model, random_clips(model, milliseconds))
    return batch | {model.main_input_name: batch[model.main_input_name].to(model.dtype)}


def relative_difference(tensor: torch.Tensor, expected: torch.Tensor) -> float:
    return float((tensor.float() - expected.float()).norm() / expected.float().norm())


def half_model(name: str, dtype: torch.dtype, folder: Path) -> tuple[SerMtlModel, SerMtlModel]:
    """The model read in half precision, and in float32."""
    model = small_model(name)
    model.save_pretrained(folder)
    return SerMtlModel.from_pretrained(folder, dtype=dtype), model


@pytest.mark.parametrize("name", WITH_SDPA)
def test_eager_and_sdpa_give_the_same_logits_however_they_are_chosen(name, tmp_path) -> None:
    model = small_model(name)
    model.save_pretrained(tmp_path)
    assert model.backbone.config._attn_implementation == "sdpa"
    chosen = {
        "sdpa": SerMtlModel.from_pretrained(tmp_path, attn_implementation="sdpa"),
        "eager": SerMtlModel.from_pretrained(tmp_path, attn_implementation="eager"),
        "eager in the backbone": SerMtlModel.from_pretrained(
            tmp_path, attn_implementation={"backbone_config": "eager"}
        ),
        "eager, set later": copy.deepcopy(model),
    }
    chosen["eager, set later"].set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(**batch_of(model))
        for how, other in chosen.items():
            assert other.backbone.config._attn_implementation == how[:5].rstrip(), how
            output = other(**batch_of(model))
            torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=1e-5, msg=how)
            torch.testing.assert_close(output.ctc_logits, expected.ctc_logits, rtol=0, atol=1e-5, msg=how)


def test_the_backbone_configuration_can_choose_the_attention() -> None:
    backbone = {"model_type": "wav2vec2", "num_hidden_layers": 1, "attn_implementation": "eager"}
    for config in (backbone, Wav2Vec2Config(num_hidden_layers=1, attn_implementation="eager")):
        model = SerMtlModel(SerMtlConfig(backbone_config=config))
        assert model.backbone.config._attn_implementation == "eager"


def test_sdpa_gives_no_attention_maps() -> None:
    model = small_model("wav2vec2, layer norm")
    assert model(**batch_of(model), output_attentions=True).attentions is None


@pytest.mark.parametrize("name", WITHOUT_SDPA)
def test_a_backbone_without_sdpa_loads_by_default_and_says_so_where_it_is_asked_for(name, tmp_path) -> None:
    model = small_model(name)
    model.save_pretrained(tmp_path)
    assert SerMtlModel.from_pretrained(tmp_path).backbone.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="WavLMModel does not support .*scaled_dot_product_attention"):
        SerMtlModel.from_pretrained(tmp_path, attn_implementation="sdpa")


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="flash_attn is installed")
def test_flash_attention_without_its_package_is_the_error_of_transformers(tmp_path) -> None:
    small_model("wav2vec2, layer norm").save_pretrained(tmp_path)
    with pytest.raises(ImportError, match="FlashAttention2"):
        SerMtlModel.from_pretrained(tmp_path, attn_implementation="flash_attention_2")


@pytest.mark.parametrize("name", BACKBONES)
def test_eager_attention_gives_a_map_per_layer_whose_rows_sum_to_1(name) -> None:
    model = small_model(name)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(**batch_of(model), output_attentions=True).attentions
    assert len(maps) == 3
    for attention in maps:
        torch.testing.assert_close(attention.sum(-1)[0], torch.ones_like(attention[0, ..., 0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", HALF)
def test_a_model_read_in_half_precision_predicts_what_float32_predicts(name, dtype, tmp_path) -> None:
    half, model = half_model(name, dtype, tmp_path)
    with torch.no_grad():
        output, expected = half(**batch_of(half)), model(**batch_of(model))
    assert output.logits.dtype == dtype
    mask = expected.frame_mask
    assert relative_difference(output.ctc_logits[mask], expected.ctc_logits[mask]) < TOLERANCES[dtype]
    for key in OUTPUTS:
        assert relative_difference(output[key], expected[key]) < TOLERANCES[dtype], key


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", HALF)
def test_half_precision_has_float32_losses_and_finite_gradients(name, dtype, tmp_path) -> None:
    half, model = half_model(name, dtype, tmp_path)
    output, expected = half.train()(**batch_of(half), **LABELS), model.train()(**batch_of(model), **LABELS)
    output.loss.backward()
    expected.loss.backward()
    assert {loss.dtype for loss in (output.loss, *output.task_losses.values())} == {torch.float32}
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-2, atol=0)
    for (key, parameter), other in zip(half.named_parameters(), model.parameters(), strict=True):
        assert (parameter.grad is None) == (other.grad is None), key
        assert parameter.grad is None or parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", HALF)
def test_a_step_under_autocast_has_the_loss_of_float32_and_float32_gradients(name) -> None:
    model = small_model(name).train()
    expected = model(**batch_of(model), **LABELS).loss.detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**batch_of(model), **LABELS).loss
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-2, atol=0)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", HALF)
def test_in_bfloat16_a_clip_predicts_the_same_alone_and_in_a_padded_batch(name, tmp_path) -> None:
    half, _ = half_model(name, torch.bfloat16, tmp_path)
    clips = [clip.to(torch.bfloat16) for clip in random_clips(half, (610, 430, 310))]
    with torch.no_grad():
        batch = half(**padded_batch(half, clips))
        for row, clip in enumerate(clips):
            alone = half(**padded_batch(half, [clip]))
            for key in OUTPUTS:
                assert relative_difference(batch[key][row], alone[key][0]) < TOLERANCES[torch.bfloat16], key


@pytest.mark.parametrize("name", HALF)
def test_one_backward_after_two_forwards_adds_their_gradients(name) -> None:
    model = small_model(name).train()
    batches = [batch_of(model), batch_of(model, (210, 470, 330))]
    for batch in batches:
        model(**batch, **LABELS).loss.backward()
    expected = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    sum(model(**batch, **LABELS).loss for batch in batches).backward()
    for key, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(key).grad, gradient, rtol=1e-3, atol=1e-5)
