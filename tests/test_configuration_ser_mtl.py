import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification, HubertConfig

from modeling_ser_mtl import EMOTIONS, FUSIONS, TASKS, SerMtlConfig, SerMtlModel

few = settings(max_examples=25, deadline=None)

fields = st.fixed_dictionaries(
    {},
    optional={
        "backbone_config": st.sampled_from([{"model_type": "wavlm", "hidden_size": 48}, {"model_type": "hubert"}, {}]),
        "tasks": st.lists(st.sampled_from(TASKS), min_size=1, unique=True),
        "task_weights": st.dictionaries(st.sampled_from(TASKS), st.floats(0, 10)),
        "fusion": st.sampled_from(FUSIONS),
        "id2label": st.sampled_from([{0: "joy", 1: "grief"}, {0: "b", 1: "a", 2: "é"}]),
        "gender_labels": st.sampled_from([("f", "m"), ("f", "m", "x")]),
        "num_speakers": st.integers(0, 9),
        "vocab_size": st.integers(2, 40),
        "swfc_weight": st.floats(0, 1),
        "swfc_normalize": st.sampled_from(["mean", "sum", "min", "none"]),
        "label_smoothing": st.floats(0, 0.5),
        "emotion_temperature": st.floats(0.1, 10),
        "emotion_prior_correction": st.floats(0, 2),
    },
)


@given(values=fields)
@few
def test_a_configuration_comes_back_from_its_dictionary(values):
    config = SerMtlConfig(**values)
    assert SerMtlConfig(**config.to_dict()).to_dict() == config.to_dict()


@given(values=fields)
@settings(max_examples=5, deadline=None)
def test_a_configuration_comes_back_from_its_file(tmp_path_factory, values):
    config, folder = SerMtlConfig(**values), tmp_path_factory.mktemp("config")
    config.save_pretrained(folder)
    loaded = AutoConfig.from_pretrained(folder)
    assert isinstance(loaded, SerMtlConfig)
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert loaded.emotion_labels == config.emotion_labels


def test_every_argument_has_a_default_and_the_emotions_are_those_of_the_challenge():
    config = SerMtlConfig()
    assert config.emotion_labels == list(EMOTIONS)
    assert config.emotion_labels[0] == "anger" and config.emotion_labels[7] == "neutral"
    assert config.label2id["neutral"] == 7
    assert config.tasks == list(TASKS) and config.fusion == "co_attention"
    assert config.backbone_config.model_type == "wav2vec2"


def test_a_backbone_may_be_a_configuration_or_a_dictionary():
    dictionary = {"model_type": "hubert", "hidden_size": 24}
    assert (
        SerMtlConfig(dictionary).backbone_config.to_dict()
        == SerMtlConfig(HubertConfig(hidden_size=24)).backbone_config.to_dict()
    )
    assert dictionary == {"model_type": "hubert", "hidden_size": 24}


@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "num_attention_heads"])
def test_the_size_of_the_model_is_the_size_of_its_backbone(name):
    config = SerMtlConfig()
    setattr(config, name, 4)
    assert getattr(config, name) == getattr(config.backbone_config, name) == 4


def test_tasks_have_one_order_and_a_weight_each():
    config = SerMtlConfig(tasks=("asr", "emotion", "gender"), task_weights={"asr": 0.5, "speaker": 3.0})
    assert config.tasks == ["emotion", "gender", "asr"]
    assert config.task_weights == {"emotion": 1.0, "gender": 0.1, "asr": 0.5}


def test_class_counts_stay_as_given():
    assert SerMtlConfig(num_labels=3).emotion_class_counts is None
    assert SerMtlConfig(num_labels=3, emotion_class_counts=(5, 2, 1)).emotion_class_counts == [5, 2, 1]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_auxiliary_tasks_are_those_that_are_fused(fusion):
    config = SerMtlConfig(tasks=("emotion", "gender", "asr"), fusion=fusion)
    assert config.auxiliary_tasks == ([] if fusion == "none" else ["gender", "asr"])
    assert SerMtlConfig(tasks=("gender", "asr"), fusion=fusion).auxiliary_tasks == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tasks": ("emotion", "age")}, "tasks: found .*age.*, allowed is a non-empty subset of .*emotion"),
        ({"tasks": ()}, "tasks: found .*allowed is a non-empty subset"),
        ({"task_weights": {"age": 1.0}}, "task_weights: found .*age.*, allowed are .*emotion"),
        ({"fusion": "sum"}, "fusion: found 'sum', allowed are .*co_attention"),
    ],
)
def test_a_setting_that_is_not_allowed_is_named_with_what_is(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        SerMtlConfig(**values)
    assert "\n" not in str(caught.value)


def test_the_auto_classes_know_the_model(plain_config):
    config = plain_config("wav2vec2-layer")
    assert isinstance(AutoConfig.for_model("ser_mtl"), SerMtlConfig)
    assert isinstance(AutoModel.from_config(config), SerMtlModel)
    assert isinstance(AutoModelForAudioClassification.from_config(config), SerMtlModel)


def test_a_backbone_with_an_adapter_is_refused():
    with pytest.raises(ValueError, match="add_adapter"):
        SerMtlConfig(backbone_config={"model_type": "wav2vec2", "add_adapter": True})


@pytest.mark.parametrize(
    "values",
    [
        {"swfc_temperature": 0},
        {"emotion_temperature": 0},
        {"emotion_temperature": float("inf")},
        {"emotion_prior_correction": -0.5},
        {"swfc_temperature": float("nan")},
        {"label_smoothing": 1.5},
        {"swfc_normalize": "max"},
        {"speaker_scale": -1},
        {"task_weights": {"emotion": float("nan")}},
        {"emotion_class_counts": [1, 2, 3]},
        {"gender_class_counts": [1, 2, 3]},
        {"fusion_hidden_size": 30},
        {"backbone_config": {"model_type": "wav3vec"}},
        {"backbone_config": "wav2vec2"},
    ],
)
def test_a_setting_outside_its_range_is_named(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        SerMtlConfig(**values)
