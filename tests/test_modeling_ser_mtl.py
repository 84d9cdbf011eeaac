import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel

from modeling_ser_mtl import FUSIONS, TASKS, SerMtlConfig, SerMtlModel
from modeling_ser_mtl.losses_ser_mtl import swfc_loss
from modeling_ser_mtl.modeling_ser_mtl import calibrated_probabilities

STOCK_BACKBONES = ("wav2vec2-group", "wav2vec2-layer", "wav2vec2-bert")
BACKBONES = (*STOCK_BACKBONES, "ser_mtl_spectrogram")
# A batch of 4 with every kind of missing label.
LABELS = {
    "emotion_labels": torch.tensor([0, 1, 0, -100]),
    "gender_labels": torch.tensor([1, -100, 0, 1]),
    "speaker_labels": torch.tensor([3, 0, -100, 2]),
    "ctc_labels": torch.tensor([[1, 2, 2], [4, -100, -100], [-100, -100, -100], [7, 8, -100]]),
}
OUTPUTS = {
    "emotion": ("logits", "emotion_embeddings"),
    "gender": ("gender_logits",),
    "speaker": ("speaker_embeddings", "speaker_logits"),
    "asr": ("ctc_logits",),
}
PARAMETERS = {
    "emotion": ("emotion_pooling", "emotion_embedding", "emotion_classifier", "streams.emotion"),
    "gender": ("gender_classifier", "streams.gender"),
    "speaker": ("speaker_pooling", "speaker_embedding", "speaker_prototypes", "streams.speaker"),
    "asr": ("ctc_head",),
}

few = settings(max_examples=15, deadline=None)
# The new name is not there yet in the oldest transformers.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")


def new_model(config, seed=0) -> SerMtlModel:
    """A model in eval() whose layer mixtures differ from task to task, as they do after training."""
    torch.manual_seed(seed)
    model = SerMtlModel(config).eval()
    torch.nn.init.normal_(model.layer_mixture.weight)
    return model


def inputs_of(model, lengths=(40, 33, 25, 40), seed=0) -> dict[str, torch.Tensor]:
    """Random clips of so many frames, padded with zeros, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    if model.main_input_name == "input_values":
        shape, lengths = (), [325 + 320 * (frames - 1) for frames in lengths]
    else:
        shape = (160,)
    inputs = torch.zeros(len(lengths), max(lengths), *shape)
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        inputs[row, :length] = torch.randn(length, *shape, generator=generator)
        mask[row, :length] = 1
    return {model.main_input_name: inputs, "attention_mask": mask}


def gradients_of(model, **inputs) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**inputs).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# Heads and switches


@given(tasks=st.lists(st.sampled_from(TASKS), min_size=1, unique=True), fusion=st.sampled_from(FUSIONS))
@few
def test_a_task_that_is_left_out_has_no_parameters_no_outputs_and_no_loss(plain_config, tasks, fusion):
    model = new_model(plain_config("wav2vec2-layer", tasks=tasks, fusion=fusion))
    output, names = model(**inputs_of(model), **LABELS), [name for name, _ in model.named_parameters()]
    for task in TASKS:
        assert all((getattr(output, name) is not None) == (task in tasks) for name in OUTPUTS[task])
        assert all(any(name.startswith(prefix) for name in names) == (task in tasks) for prefix in PARAMETERS[task])
    assert set(output.task_losses) == set(tasks)
    assert model.layer_mixture.weight.shape == (len(tasks), 4)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_only_the_chosen_fusion_has_parameters_and_only_co_attention_has_maps_and_gates(plain_config, fusion):
    model = new_model(plain_config("wav2vec2-layer", fusion=fusion))
    names = [name for name, _ in model.named_parameters()]
    assert any(name.startswith("co_attention.") for name in names) == (fusion == "co_attention")
    assert any(name.startswith("concat_fusion.") for name in names) == (fusion == "concat")
    assert any(name.startswith("streams.asr.") for name in names) == (fusion != "none")
    output = model(**inputs_of(model), output_co_attentions=True)
    assert (output.co_attentions is not None) == (output.task_gates is not None) == (fusion == "co_attention")


def test_every_parameter_gets_a_gradient_with_all_tasks(plain_config):
    for name in BACKBONES:
        model = new_model(plain_config(name)).train()
        gradients = gradients_of(model, **inputs_of(model), **LABELS)
        assert set(gradients) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(("weight", "present"), [(0.0, False), (0.3, True)])
def test_swfc_is_there_in_training_unless_its_weight_is_0(plain_config, weight, present):
    model = new_model(plain_config("wav2vec2-layer", swfc_weight=weight)).train()
    assert ("swfc" in model(**inputs_of(model), **LABELS).task_losses) == present


def test_without_training_speakers_there_are_no_prototypes_but_embeddings(plain_config):
    model = new_model(plain_config("wav2vec2-layer", num_speakers=0))
    output = model(**inputs_of(model), **LABELS)
    assert model.speaker_prototypes is None and "speaker_prototypes" not in model.state_dict()
    assert output.speaker_embeddings.shape == (4, 12) and "speaker" not in output.task_losses


def test_without_labels_there_is_no_loss(plain_config):
    model = new_model(plain_config("wav2vec2-layer"))
    output = model(**inputs_of(model))
    assert output.loss is None and output.task_losses is None


def test_the_shapes_are_those_of_the_documentation(plain_config):
    for name in STOCK_BACKBONES:
        model = new_model(plain_config(name, vocab_size=9))
        output = model(**inputs_of(model), output_hidden_states=True, output_co_attentions=True)
        shapes = {name: tuple(getattr(output, name).shape) for names in OUTPUTS.values() for name in names}
        assert shapes == {
            "logits": (4, 3),
            "emotion_embeddings": (4, 12),
            "gender_logits": (4, 2),
            "speaker_embeddings": (4, 12),
            "speaker_logits": (4, 4),
            "ctc_logits": (4, 40, 9),
        }
        assert output.frame_mask.sum(1).tolist() == [40, 33, 25, 40]
        assert [tuple(state.shape) for state in output.hidden_states] == [(4, 40, 32)] * 4


def test_input_of_the_wrong_kind_is_named(plain_config):
    model = new_model(plain_config("wav2vec2-bert"))
    with pytest.raises(ValueError, match="input_features: found None; a wav2vec2-bert backbone reads it"):
        model(input_values=torch.randn(1, 4000))


# Hidden states


@pytest.mark.parametrize("name", ["wav2vec2-layer", "wav2vec2-bert"])  # padding leaks into the stock group norm
def test_hidden_states_equal_the_stock_backbones(plain_config, name):
    model = new_model(plain_config(name))
    stock = AutoModel.from_config(model.config.backbone_config).eval()
    stock.load_state_dict(model.backbone.state_dict())
    inputs = inputs_of(model)
    expected = stock(**inputs, output_hidden_states=True)
    states = model(**inputs, output_hidden_states=True).hidden_states
    # The last one is the encoder's output, after the final norm where there is one.
    for state, other in zip(states, [*expected.hidden_states[:-1], expected.last_hidden_state], strict=True):
        torch.testing.assert_close(state, other, rtol=0, atol=0)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_dropped_layer_repeats_the_state_before_it(plain_config, name, checkpointing):
    model = new_model(plain_config(name, backbone={"layerdrop": 0.5})).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    ran: set[int] = set()
    for index, layer in enumerate(model.encoder_layers):
        layer.register_forward_pre_hook(lambda *_, index=index: ran.add(index))
    seen = set()
    for seed in range(12):
        ran.clear()
        torch.manual_seed(seed)
        output = model(**inputs_of(model), **LABELS, output_hidden_states=True)
        assert len(output.hidden_states) == 4 and output.loss.isfinite()
        for index, (before, after) in enumerate(zip(output.hidden_states, output.hidden_states[1:], strict=False)):
            assert torch.equal(before, after) == (index not in ran)
        seen.add(frozenset(ran))
        output.loss.backward()
    assert len(seen) > 2


def test_layers_are_those_of_the_encoder_even_if_there_are_as_many_convolutions(plain_config):
    model = new_model(plain_config("wav2vec2-layer"))
    assert len(model.backbone.feature_extractor.conv_layers) == model.config.num_hidden_layers
    assert model.encoder_layers is model.backbone.encoder.layers


@pytest.mark.parametrize("layers", [1, 2])
def test_co_attention_maps_sum_to_1_over_real_frames_and_are_0_on_padding(plain_config, layers):
    model = new_model(plain_config("wav2vec2-bert", fusion_num_layers=layers))
    output = model(**inputs_of(model), output_co_attentions=True)
    assert len(output.co_attentions) == 3
    for maps in output.co_attentions:
        assert maps.shape == (4, 4, 40, 40)
        real = maps.masked_fill(~output.frame_mask[:, None, None], 0.0)
        torch.testing.assert_close(real.sum(-1), torch.ones(4, 4, 40))
        torch.testing.assert_close(real, maps, rtol=0, atol=0)


def test_asking_for_co_attentions_does_not_change_the_outputs(plain_config):
    model = new_model(plain_config("wav2vec2-bert"))
    for attention in model.co_attention[0].attentions:  # sharp attention, unlike that of new weights
        torch.nn.init.normal_(attention.query.weight)
        torch.nn.init.normal_(attention.key.weight)
    inputs = inputs_of(model)
    with_maps, without = model(**inputs, output_co_attentions=True), model(**inputs)
    assert without.co_attentions is None and without.task_gates is None
    torch.testing.assert_close(with_maps.logits, without.logits)
    torch.testing.assert_close(with_maps.emotion_embeddings, without.emotion_embeddings)


@pytest.mark.parametrize("tasks", [TASKS, ("emotion", "asr")])
def test_gates_lie_between_0_and_1_for_each_auxiliary_task(plain_config, tasks):
    model = new_model(plain_config("wav2vec2-layer", tasks=tasks))
    gates = model(**inputs_of(model), output_co_attentions=True).task_gates
    assert gates.shape == (4, len(tasks) - 1)
    assert ((gates > 0) & (gates < 1)).all()


def test_an_auxiliary_stream_moves_the_emotion_only_where_it_is_fused(plain_config):
    for fusion in FUSIONS:
        model = new_model(plain_config("wav2vec2-layer", fusion=fusion))
        before = model(**inputs_of(model)).logits
        torch.nn.init.normal_(model.streams["gender"][0].weight)
        assert torch.equal(model(**inputs_of(model)).logits, before) == (fusion == "none")


def test_speaker_embeddings_have_unit_length(plain_config):
    for name in BACKBONES:
        model = new_model(plain_config(name))
        torch.testing.assert_close(model(**inputs_of(model)).speaker_embeddings.norm(dim=-1), torch.ones(4))


# Losses


@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_the_weighted_sum_of_the_task_losses(plain_config, training):
    weights = {"emotion": 2.0, "gender": 0.5, "speaker": 0.25, "asr": 0.125}
    model = new_model(plain_config("wav2vec2-layer", task_weights=weights, swfc_weight=0.7)).train(training)
    output = model(**inputs_of(model), **LABELS)
    losses = {task: loss.item() for task, loss in output.task_losses.items()}
    assert set(losses) == {*TASKS, "swfc"} if training else set(TASKS)
    expected = sum(weights[task] * losses[task] for task in TASKS) + 2.0 * 0.7 * losses.get("swfc", 0.0)
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)


def test_swfc_acts_on_the_emotion_embeddings_with_the_settings_of_the_configuration(plain_config):
    settings_ = {"swfc_temperature": 0.3, "swfc_focus": 1.5, "swfc_class_weight": 1.0, "swfc_normalize": "sum"}
    model = new_model(plain_config("wav2vec2-layer", emotion_class_counts=[9, 2, 4], **settings_)).train()
    output = model(**inputs_of(model), **LABELS)
    expected = swfc_loss(
        output.emotion_embeddings,
        LABELS["emotion_labels"],
        [9, 2, 4],
        temperature=0.3,
        focus=1.5,
        class_weight_exponent=1.0,
        normalize="sum",
    )
    torch.testing.assert_close(output.task_losses["swfc"], expected)


def test_task_losses_equal_those_of_torch_over_the_labelled_clips(plain_config):
    model = new_model(plain_config("wav2vec2-bert", label_smoothing=0.1))
    output = model(**inputs_of(model), **LABELS)
    losses, entropy = output.task_losses, torch.nn.functional.cross_entropy
    expected = entropy(output.logits, LABELS["emotion_labels"], label_smoothing=0.1)
    torch.testing.assert_close(losses["emotion"], expected)
    torch.testing.assert_close(losses["gender"], entropy(output.gender_logits, LABELS["gender_labels"]))
    clips = []
    for row, labels in enumerate(LABELS["ctc_labels"]):
        labels, length = labels[labels >= 0], output.frame_mask[row].sum()
        if len(labels):
            log_probabilities = output.ctc_logits[row, :length].log_softmax(-1)
            clips.append(torch.nn.CTCLoss()(log_probabilities, labels, length, torch.tensor(len(labels))))
    torch.testing.assert_close(losses["asr"], torch.stack(clips).mean())


def test_the_emotion_loss_can_weigh_classes_by_their_counts(plain_config):
    model = new_model(plain_config("wav2vec2-layer", emotion_class_counts=[6, 3, 1], emotion_class_weight=1.0))
    output = model(**inputs_of(model), **LABELS)
    # (N / n_c), scaled to mean 1 over the 10 training clips.
    weights = torch.tensor([10 / 6, 10 / 3, 10.0]) / 3
    per_clip = torch.nn.functional.cross_entropy(
        output.logits[:3], LABELS["emotion_labels"][:3], weight=weights, reduction="none"
    )
    torch.testing.assert_close(output.task_losses["emotion"], per_clip.mean())


def test_the_gender_loss_weighs_genders_by_their_counts(plain_config):
    model = new_model(plain_config("wav2vec2-layer", gender_class_counts=[8, 2]))
    output = model(**inputs_of(model), **LABELS)
    # N / n_c, scaled to mean 1 over the 10 training clips.
    weights = torch.tensor([10 / 8, 10 / 2]) / 2
    known = torch.tensor([0, 2, 3])
    per_clip = torch.nn.functional.cross_entropy(
        output.gender_logits[known], LABELS["gender_labels"][known], weight=weights, reduction="none"
    )
    torch.testing.assert_close(output.task_losses["gender"], per_clip.mean())


def test_clips_of_a_class_that_never_trained_count_in_the_evaluation_loss(plain_config):
    counts = {"emotion_class_counts": [5, 0, 5], "gender_class_counts": [0, 0]}
    outputs = [new_model(plain_config("wav2vec2-layer", **more)) for more in ({}, counts)]
    losses = [model(**inputs_of(model), **LABELS).task_losses for model in outputs]
    assert losses[0]["emotion"] == losses[1]["emotion"] and losses[0]["gender"] == losses[1]["gender"] > 0


def test_the_emotion_loss_can_be_focal(plain_config):
    model = new_model(plain_config("wav2vec2-layer", emotion_focus=1.5))
    output = model(**inputs_of(model), **LABELS)
    probabilities = output.logits[:3].softmax(-1)[range(3), LABELS["emotion_labels"][:3]]
    expected = -((1 - probabilities) ** 1.5 * probabilities.log()).mean()
    torch.testing.assert_close(output.task_losses["emotion"], expected)


def test_speaker_logits_are_cosines_to_the_prototypes(plain_config):
    model = new_model(plain_config("wav2vec2-layer"))
    output = model(**inputs_of(model))
    expected = torch.cosine_similarity(output.speaker_embeddings[:, None], model.speaker_prototypes, dim=-1)
    torch.testing.assert_close(output.speaker_logits, expected)


def test_learned_uncertainty_scales_each_task_inside_its_weight(plain_config):
    weights = {"emotion": 1.0, "gender": 0.4, "speaker": 0.2, "asr": 0.3}
    model = new_model(plain_config("wav2vec2-layer", task_weights=weights, task_balancing="uncertainty")).train()
    with torch.no_grad():
        model.task_log_variances.copy_(torch.tensor([0.5, -1.0, 2.0, 0.3]))
    output = model(**inputs_of(model), **LABELS)
    losses = {task: loss.item() for task, loss in output.task_losses.items()}
    losses["emotion"] += model.config.swfc_weight * losses["swfc"]
    expected = sum(
        weights[task] * (math.exp(-variance) * losses[task] + variance / 2)
        for task, variance in zip(TASKS, (0.5, -1.0, 2.0, 0.3), strict=True)
    )
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_task_without_labels_leaves_its_uncertainty_alone(plain_config):
    model = new_model(plain_config("wav2vec2-layer", task_balancing="uncertainty")).train()
    model(**inputs_of(model), **LABELS | {"gender_labels": torch.full((4,), -100)}).loss.backward()
    gradient = dict(zip(TASKS, model.task_log_variances.grad, strict=True))
    assert gradient["gender"] == 0 and gradient["emotion"] != 0 and gradient["asr"] != 0


@pytest.mark.parametrize("name", BACKBONES)
def test_the_counted_labels_are_those_that_the_losses_count(plain_config, name):
    model = new_model(plain_config(name, num_speakers=3))  # no prototype for the label 3
    labels = LABELS | {"ctc_labels": torch.tensor([[1, 2, 2], [1, 2, 1], [-100, -100, -100], [7, 7, -100]])}
    inputs = inputs_of(model, lengths=(40, 2, 25, 2))  # too short for three characters, and for two equal ones
    output = model(**inputs, **labels)
    labels = dict(zip(TASKS, labels.values(), strict=True))
    counted = {task: labelled.sum() for task, (_, labelled) in model.clip_losses(output, labels).items()}
    assert model.num_labelled(labels, inputs["attention_mask"]) == counted
    assert counted == {"emotion": 3, "gender": 3, "speaker": 2, "asr": 1}


# The batch norm of ser_mtl_spectrogram looks at the whole batch.
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", STOCK_BACKBONES)
def test_a_clip_without_labels_gets_no_gradient_and_changes_no_loss(plain_config, name, training):
    model = new_model(plain_config(name)).train(training)
    inputs = inputs_of(model, lengths=(30, 30, 30, 30))
    labels = {key: value.clone() for key, value in LABELS.items()}
    for value in labels.values():
        value[1] = -100
    output = model(**inputs, **labels, output_hidden_states=True)
    loss = output.loss
    (gradient,) = torch.autograd.grad(loss, output.hidden_states[0])
    assert (gradient[1] == 0).all()
    assert all(gradient[row].abs().sum() > 0 for row in (0, 2, 3))
    rest = [0, 2, 3]
    fewer = model(**{k: v[rest] for k, v in inputs.items()}, **{k: v[rest] for k, v in labels.items()}).loss
    torch.testing.assert_close(loss, fewer, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_labels_of_one_task_leave_the_other_losses_as_they_are(plain_config, task):
    model = new_model(plain_config("wav2vec2-layer")).train()
    inputs, name = inputs_of(model), {"asr": "ctc_labels"}.get(task, f"{task}_labels")
    full = model(**inputs, **LABELS).task_losses
    without = model(**inputs, **LABELS | {name: torch.full_like(LABELS[name], -100)}).task_losses
    missing = {"emotion", "swfc"} if task == "emotion" else {task}
    assert set(full) == set(without)
    for other in full:
        assert without[other].item() == (0.0 if other in missing else pytest.approx(full[other].item()))


def test_a_batch_without_any_label_has_loss_0_and_zero_gradients_for_every_parameter(plain_config):
    model = new_model(plain_config("wav2vec2-layer")).train()
    nothing = {name: torch.full_like(labels, -100) for name, labels in LABELS.items()}
    assert model(**inputs_of(model), **nothing).loss.item() == 0.0
    gradients = gradients_of(model, **inputs_of(model), **nothing)
    assert set(gradients) == {name for name, _ in model.named_parameters()}
    assert all((gradient == 0).all() for gradient in gradients.values())


# Batches


@pytest.mark.parametrize("name", ["wav2vec2-layer", "wav2vec2-bert"])
@given(lengths=st.lists(st.integers(3, 50), min_size=2, max_size=4), seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_a_clip_gives_the_same_outputs_alone_and_in_a_padded_batch(plain_config, name, lengths, seed):
    model = new_model(plain_config(name))
    inputs = inputs_of(model, lengths, seed)
    batch = model(**inputs, output_co_attentions=True)
    for row, frames in enumerate(lengths):
        size = int(inputs["attention_mask"][row].sum())
        alone = model(**{key: value[row : row + 1, :size] for key, value in inputs.items()}, output_co_attentions=True)
        for output in ("logits", "emotion_embeddings", "gender_logits", "speaker_embeddings", "task_gates"):
            torch.testing.assert_close(batch[output][row], alone[output][0], rtol=0, atol=1e-4)
        torch.testing.assert_close(batch.ctc_logits[row, :frames], alone.ctc_logits[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_full_mask_equals_no_mask(plain_config, name):
    model = new_model(plain_config(name))
    inputs = inputs_of(model, lengths=(20, 20))
    masked, unmasked = model(**inputs), model(inputs.get("input_values"), input_features=inputs.get("input_features"))
    torch.testing.assert_close(masked.logits, unmasked.logits)
    assert unmasked.frame_mask.all()


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("mask_time_prob", [0.0, 0.3])
def test_clips_shorter_than_a_spec_augment_mask_train(plain_config, name, mask_time_prob):
    model = new_model(plain_config(name, backbone={"mask_time_prob": mask_time_prob, "mask_time_length": 10})).train()
    for lengths in [(1, 2, 9, 3), (10, 2, 9, 3), (30, 2, 9, 3)]:
        gradients = gradients_of(model, **inputs_of(model, lengths), **LABELS)
        assert all(gradient.isfinite().all() for gradient in gradients.values())


# Saving, tuples, checkpointing


@pytest.mark.parametrize("name", BACKBONES)
def test_a_saved_model_comes_back_bit_by_bit(plain_config, name, tmp_path):
    model = new_model(plain_config(name, emotion_class_counts=[5, 1, 2]))
    model.save_pretrained(tmp_path)
    loaded = SerMtlModel.from_pretrained(tmp_path)
    assert loaded.config.emotion_class_counts == [5, 1, 2]
    weights, expected = loaded.state_dict(), model.state_dict()
    assert set(weights) == set(expected) and all(torch.equal(weights[key], expected[key]) for key in expected)
    output, other = model(**inputs_of(model), **LABELS), loaded(**inputs_of(model), **LABELS)
    assert torch.equal(output.logits, other.logits) and torch.equal(output.loss, other.loss)


def test_a_new_head_beside_loaded_weights_starts_random_and_mixtures_start_equal(plain_config, tmp_path):
    new_model(plain_config("wav2vec2-layer", tasks=("emotion",))).save_pretrained(tmp_path)
    model = SerMtlModel.from_pretrained(tmp_path, config=plain_config("wav2vec2-layer"), ignore_mismatched_sizes=True)
    assert (model.layer_mixture.weight == 0).all()
    assert model.speaker_prototypes.std() > 0.5 and model.gender_classifier.weight.std() > 0


def test_return_dict_false_gives_the_same_as_a_tuple(plain_config):
    model = new_model(plain_config("wav2vec2-layer"))
    output, values = model(**inputs_of(model), **LABELS), model(**inputs_of(model), **LABELS, return_dict=False)
    assert isinstance(values, tuple) and len(values) == len(output)
    for value, (name, expected) in zip(values, output.items(), strict=True):
        torch.testing.assert_close(value, expected, msg=name)
    assert list(output)[:2] == ["loss", "logits"]


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("layerdrop", [0.0, 0.5])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(plain_config, name, layerdrop, reentrant):
    model = new_model(plain_config(name, backbone={"layerdrop": layerdrop})).train()
    inputs = inputs_of(model) | LABELS

    def run():
        torch.manual_seed(1)
        gradients = gradients_of(model, **inputs)
        torch.manual_seed(1)
        return model(**inputs).loss, gradients

    loss, gradients = run()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert model.encoder_layers[0].gradient_checkpointing
    other_loss, other_gradients = run()
    torch.testing.assert_close(other_loss, loss)
    assert set(other_gradients) == set(gradients)
    for key in gradients:
        torch.testing.assert_close(other_gradients[key], gradients[key], rtol=1e-4, atol=1e-6)


def test_a_speaker_without_a_prototype_counts_as_unknown(plain_config):
    model = new_model(plain_config("wav2vec2-bert", num_speakers=4))
    inputs = inputs_of(model)
    known, other = torch.tensor([0, 1, -100, 2]), torch.tensor([0, 1, 4, 2])
    assert torch.equal(model(**inputs, speaker_labels=known).loss, model(**inputs, speaker_labels=other).loss)


def test_counts_that_do_not_belong_to_new_classes_are_refused_and_none_weighs_them_alike(plain_config, tmp_path):
    new_model(plain_config("wav2vec2-layer", emotion_class_counts=[5, 1, 2])).save_pretrained(tmp_path)
    classes = {"id2label": {0: "calm", 1: "angry"}, "label2id": {"calm": 0, "angry": 1}}
    with pytest.raises(ValueError, match="emotion_class_counts: found 3 counts for 2 classes"):
        SerMtlModel.from_pretrained(tmp_path, **classes, ignore_mismatched_sizes=True)
    model = SerMtlModel.from_pretrained(
        tmp_path, **classes, emotion_class_counts=None, ignore_mismatched_sizes=True
    ).train()
    output = model(**inputs_of(model), emotion_labels=torch.tensor([0, 1, 0, 1]))
    expected = swfc_loss(output.emotion_embeddings, torch.tensor([0, 1, 0, 1]), [1, 1])
    torch.testing.assert_close(output.task_losses["swfc"], expected)


@pytest.mark.parametrize("model_type", ["bert", "vit", "audio-spectrogram-transformer", "encodec"])
def test_a_backbone_that_is_no_encoder_of_speech_is_refused_by_name(model_type):
    with pytest.raises(ValueError, match=f"backbone_config.model_type: found '{model_type}'.*wav2vec2"):
        SerMtlModel(SerMtlConfig(backbone_config={"model_type": model_type}))


def test_a_second_forward_during_the_first_is_refused_and_a_later_one_runs(plain_config):
    model = new_model(plain_config("wav2vec2-layer"))
    with model.layer_inputs.record(), pytest.raises(RuntimeError, match="running already"):
        model(**inputs_of(model))
    assert model(**inputs_of(model)).logits.isfinite().all()


@few
@given(
    seed=st.integers(0, 1_000),
    temperature=st.floats(0.1, 10),
    exponent=st.floats(0, 2),
    counts=st.none() | st.lists(st.integers(1, 500), min_size=3, max_size=3),
)
def test_calibrated_probabilities_are_a_softmax_over_the_temperature_without_the_prior(
    seed, temperature, exponent, counts
):
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = []
    for row in logits.tolist():
        terms = [math.exp(value / temperature) for value in row]
        if counts is not None:
            terms = [term / (n / sum(counts)) ** exponent for term, n in zip(terms, counts, strict=True)]
        expected.append([term / sum(terms) for term in terms])
    found = calibrated_probabilities(logits, temperature, counts, exponent)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_probabilities_are_in_single_precision_at_least(dtype):
    logits = torch.tensor([[3.0, -1.0, 0.5]], dtype=dtype)
    assert calibrated_probabilities(logits, 1.0, None, 0.0).dtype == torch.float32
    torch.testing.assert_close(calibrated_probabilities(logits, 2.0, [1, 2, 3], 1.0).sum(), torch.tensor(1.0))


def test_calibration_moves_neither_logits_nor_loss_and_the_temperature_no_decision(plain_config):
    outputs = []
    for settings_ in ({}, {"emotion_temperature": 3.0, "emotion_prior_correction": 1.0}):
        model = new_model(plain_config("wav2vec2-layer", emotion_class_counts=[9, 3, 1], **settings_))
        outputs.append(model(**inputs_of(model), emotion_labels=torch.tensor([0, 1, 2, -100])))
    plain, calibrated = outputs
    assert torch.equal(plain.logits, calibrated.logits) and torch.equal(plain.loss, calibrated.loss)
    model.config.emotion_prior_correction = 0.0
    probabilities = model.emotion_probabilities(plain.logits)
    assert torch.equal(probabilities.argmax(-1), plain.logits.argmax(-1))
    torch.testing.assert_close(probabilities, (plain.logits / 3).softmax(-1))
