"""Where a model's configuration, processor and weights come from."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoProcessor,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
)

import run_ser_mtl
from modeling_ser_mtl import SerMtlConfig
from modeling_ser_mtl.data.dataset import LabelNames
from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.training.arguments import ModelArguments
from modeling_ser_mtl.training.builders import build_model, build_processor, load_config
from modeling_ser_mtl.training.labels import choose_best_metric
from modeling_ser_mtl.training.parser import parse_arguments

BACKBONES = Path(__file__).resolve().parents[2] / "examples" / "backbones"
LABELS = LabelNames(["anger", "sadness"], ["female", "male"], ["c/1", "c/2", "c/3"])
COUNTS = {"emotion": [3, 2], "gender": [4, 1]}


@pytest.fixture(params=["wav2vec2", "wav2vec2-bert"])
def published_encoder(request, tiny_config, tmp_path) -> str:
    """A folder like a published encoder's: its own weights and feature extractor, nothing of this project."""
    values = json.loads(tiny_config(request.param).read_text())["backbone_config"]
    folder = tmp_path / "encoder"
    AutoModel.from_config(AutoConfig.for_model(**values)).save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor() if request.param == "wav2vec2" else SeamlessM4TFeatureExtractor()
    extractor.save_pretrained(folder)
    return str(folder)


def test_a_run_starts_from_a_published_encoder_and_then_continues_its_own(
    published_encoder, command, manifest, tmp_path
) -> None:
    data = {"train_file": manifest("a.csv", [0, 1, 2, 3]), "do_train": True, "validation_speakers": 0.5}
    run_ser_mtl.run(*parse_arguments(command(model_name_or_path=published_encoder, **data)))
    first = tmp_path / "output"
    again = command(model_name_or_path=first, output_dir=tmp_path / "again", learning_rate=0, weight_decay=0, **data)
    run_ser_mtl.run(*parse_arguments(again))
    before, after = (AutoModel.from_pretrained(folder).state_dict() for folder in (first, tmp_path / "again"))
    encoder = [name for name in before if name.startswith("backbone.")]
    assert encoder and all(torch.equal(before[name], after[name]) for name in encoder)
    assert pd.Series(json.loads((first / "vocab.json").read_text())).equals(
        pd.Series(json.loads((tmp_path / "again" / "vocab.json").read_text()))
    )


def test_options_override_the_configuration_file(tiny_config) -> None:
    args = ModelArguments(
        config_name=str(tiny_config()),
        tasks=["gender", "emotion"],
        fusion="concat",
        task_weights=["gender=.5"],
        swfc_weight=0.0,
        layerdrop=0.25,
        spec_augment=False,
    )
    config = load_config(args)
    assert config.tasks == ["emotion", "gender"] and config.fusion == "concat" and config.swfc_weight == 0.0
    assert config.task_weights == {"emotion": 1.0, "gender": 0.5}
    assert config.backbone_config.layerdrop == 0.25 and config.backbone_config.apply_spec_augment is False
    assert config.fusion_hidden_size == 16  # the file's


def test_the_log_mel_statistics_come_from_the_training_clips(command, manifest, tmp_path, tiny_config) -> None:
    options = {"config_name": tiny_config("wav2vec2-bert"), "do_train": True, "validation_speakers": 0.5}
    run_ser_mtl.run(*parse_arguments(command(train_file=manifest("a.csv", [0, 1, 2, 3]), **options)))
    saved = json.loads((tmp_path / "output" / "processor_config.json").read_text())["feature_extractor"]
    assert len(saved["mean"]) == len(saved["std"]) == 79
    assert min(saved["std"]) > 0 and max(saved["std"]) > 0.5


@pytest.mark.parametrize(
    ("encoder", "do_normalize", "expected"),
    [
        ("wav2vec2", None, True),
        ("wav2vec2", False, False),
        ("wav2vec2-bert", None, False),
        ("wav2vec2-bert", True, True),
    ],
)
def test_clips_of_a_model_from_scratch_come_to_one_level_as_the_option_says(
    encoder, do_normalize, expected, tiny_config
) -> None:
    args = ModelArguments(config_name=str(tiny_config(encoder)), do_normalize=do_normalize)
    assert build_processor(args, load_config(args), None).feature_extractor.do_normalize is expected


def test_the_level_of_clips_is_not_changed_where_the_encoder_has_its_own_features(published_encoder) -> None:
    reads_waveforms = AutoConfig.from_pretrained(published_encoder).model_type == "wav2vec2"
    kept, other = (
        ModelArguments(model_name_or_path=published_encoder, do_normalize=do_normalize)
        for do_normalize in (reads_waveforms, not reads_waveforms)
    )
    build_processor(kept, load_config(kept), None)
    with pytest.raises(InputError, match="--do_normalize (True|False): the features that this encoder has learned"):
        build_processor(other, load_config(other), None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give --model_name_or_path .*, --config_name .*, or both"),
        ({"config_name": "nowhere.json"}, "no such file"),
        ({"model_name_or_path": "./nowhere"}, "could not be loaded"),
        ({"config_name": "TINY", "tasks": ["emotions"]}, "--tasks emotions: unknown; allowed: emotion, gender"),
        ({"config_name": "TINY", "task_weights": ["emotion"]}, "give task=number"),
    ],
)
def test_a_wrong_model_argument_is_one_line(settings, message, tiny_config) -> None:
    if settings.get("config_name") == "TINY":
        settings = settings | {"config_name": str(tiny_config())}
    with pytest.raises(InputError, match=message) as error:
        load_config(ModelArguments(**settings))
    assert "\n" not in str(error.value)


def test_a_log_mel_backbone_has_no_convolutions_to_freeze(tiny_config) -> None:
    args = ModelArguments(config_name=str(tiny_config("wav2vec2-bert")), freeze_feature_encoder=True)
    config = load_config(args)
    with pytest.raises(InputError, match="--freeze_feature_encoder"):
        build_model(args, config, build_processor(args, config, None), LABELS, COUNTS)


@pytest.mark.parametrize(
    ("tasks", "metric", "greater"),
    [(["emotion", "asr"], "emotion_macro_f1", True), (["gender"], "gender_uar", True), (["asr"], "asr_wer", False)],
)
def test_the_first_task_chooses_the_checkpoint(tasks, metric, greater) -> None:
    training = parse_arguments(["--output_dir", "o", "--do_train"])[2]
    validation = pd.DataFrame({"manifest": "m", "emotion": ["anger"], "gender": ["male"], "text": ["a"]})
    choose_best_metric(training, tasks, validation)
    assert (training.metric_for_best_model, training.greater_is_better) == (metric, greater)


def test_a_metric_that_the_validation_clips_cannot_give_is_an_error() -> None:
    training = parse_arguments(["--output_dir", "o", "--do_train", "--metric_for_best_model", "eval_asr_wer"])[2]
    assert training.greater_is_better is False
    validation = pd.DataFrame({"manifest": "m", "emotion": ["anger"], "text": [""]})
    with pytest.raises(InputError, match="no validation clip has a label for asr"):
        choose_best_metric(training, ["emotion", "asr"], validation)


def test_a_run_without_the_emotion_task_trains_and_keeps_its_best_checkpoint(command, manifest, tmp_path) -> None:
    options = {"train_file": manifest("a.csv", range(6)), "do_train": True, "validation_speakers": 0.5}
    metrics = run_ser_mtl.run(*parse_arguments(command(tasks=["speaker"], **options)))
    state = json.loads((tmp_path / "output" / "trainer_state.json").read_text())
    assert state["best_metric"] is not None and "train_loss" in metrics


def test_a_checkpoint_keeps_its_tasks(command, manifest, tmp_path) -> None:
    data = {"train_file": manifest("a.csv", range(4)), "do_train": True, "validation_speakers": 0.5}
    run_ser_mtl.run(*parse_arguments(command(tasks=["emotion", "gender"], **data)))
    args = ModelArguments(model_name_or_path=str(tmp_path / "output"), tasks=["emotion", "speaker"])
    with pytest.raises(InputError, match="the checkpoint has emotion gender.*add --config_name"):
        load_config(args)


# --config_name says what the model is, --model_name_or_path where its encoder comes from.


@pytest.fixture
def first_stage(command, manifest, tmp_path) -> Path:
    """A checkpoint of this project that knows everything but emotions, over log-mel features."""
    config = json.loads((BACKBONES / "small-logmel.json").read_text())
    config["backbone_config"] |= {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}
    path = tmp_path / "small.json"
    path.write_text(json.dumps(config | {"fusion_hidden_size": 24}))
    options = {"config_name": path, "output_dir": tmp_path / "first", "do_train": True, "max_steps": 2}
    data = {"train_file": manifest("first.csv", [0, 1], text="xyz"), "validation_file": manifest("v.csv", [2, 3])}
    run_ser_mtl.run(*parse_arguments(command(tasks=["gender", "speaker", "asr"], **options, **data)))
    return tmp_path / "first"


def test_a_second_stage_has_the_encoder_of_the_first_and_everything_else_new(
    first_stage, command, manifest, tmp_path
) -> None:
    data = {"train_file": manifest("second.csv", [3, 4, 5]), "validation_file": manifest("v.csv", [0, 1])}
    options = {"config_name": first_stage / "config.json", "model_name_or_path": first_stage, "max_steps": 1}
    # Nothing moves, so that what is saved is what training began with.
    options |= {"learning_rate": 0, "head_learning_rate": 0, "do_train": True, "output_dir": tmp_path / "second"}
    run_ser_mtl.run(*parse_arguments(command(tasks=["emotion", "gender", "speaker", "asr"], **options, **data)))
    first, second = (AutoModel.from_pretrained(tmp_path / name) for name in ("first", "second"))
    assert second.config.tasks == ["emotion", "gender", "speaker", "asr"] and second.config.fusion_hidden_size == 24
    assert second.config.emotion_labels == ["anger", "sadness"] and second.config.num_speakers == 3
    before, after = first.state_dict(), second.state_dict()
    encoder = [name for name in before if name.startswith("backbone.")]
    assert encoder and all(torch.equal(before[name], after[name]) for name in encoder)
    assert not torch.equal(before["gender_classifier.weight"], after["gender_classifier.weight"])

    first, second = (AutoProcessor.from_pretrained(tmp_path / name) for name in ("first", "second"))
    assert "x" in first.tokenizer.get_vocab() and set("abcd") <= set(second.tokenizer.get_vocab())
    assert "x" not in second.tokenizer.get_vocab()
    assert second.feature_extractor.to_dict() == first.feature_extractor.to_dict()
    assert set(second.feature_extractor.mean) != {0.0}


def test_a_configuration_file_says_what_stands_on_a_published_encoder(published_encoder, tiny_config) -> None:
    published = AutoModel.from_pretrained(published_encoder)
    path = tiny_config(published.config.model_type)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fusion_hidden_size": 32, "tasks": ["gender"]}))
    args = ModelArguments(config_name=str(path), model_name_or_path=published_encoder, tasks=["emotion", "asr"])
    config = load_config(args)
    model = build_model(args, config, build_processor(args, config, None), LABELS, COUNTS)
    assert config.tasks == ["emotion", "asr"] and config.fusion_hidden_size == 32
    weights, expected = model.backbone.state_dict(), published.state_dict()
    assert weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in weights)


@pytest.mark.parametrize("difference", [{"intermediate_size": 48}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}])
def test_an_encoder_of_other_shapes_than_the_configuration_files_is_one_line(
    difference, published_encoder, tiny_config
) -> None:
    model_type = json.loads(Path(published_encoder, "config.json").read_text())["model_type"]
    args = ModelArguments(config_name=str(tiny_config(model_type, **difference)), model_name_or_path=published_encoder)
    with pytest.raises(InputError, match="weights differ in shape, the first is encoder.layers") as error:
        load_config(args)
    assert "\n" not in str(error.value)


def test_an_encoder_of_another_type_than_the_configuration_files_is_one_line(published_encoder, tiny_config) -> None:
    model_type = json.loads(Path(published_encoder, "config.json").read_text())["model_type"]
    other = {"wav2vec2": "wav2vec2-bert", "wav2vec2-bert": "wav2vec2"}[model_type]
    args = ModelArguments(config_name=str(tiny_config(other)), model_name_or_path=published_encoder)
    with pytest.raises(InputError, match="the encoder is not that of --model_name_or_path") as error:
        load_config(args)
    assert "\n" not in str(error.value)


def test_settings_of_the_configuration_file_that_are_not_the_encoders_are_told(
    published_encoder, tiny_config, caplog
) -> None:
    model_type = json.loads(Path(published_encoder, "config.json").read_text())["model_type"]
    paths = [tiny_config(model_type), tiny_config(model_type, num_attention_heads=4, mask_time_prob=0.0)]
    same, other = (ModelArguments(config_name=str(path), model_name_or_path=published_encoder) for path in paths)
    load_config(same)
    assert caplog.text == ""
    config = load_config(other)
    assert "differs from" in caplog.text and "mask_time_prob 0.0 (0.2), num_attention_heads 4 (2)" in caplog.text
    assert config.backbone_config.num_attention_heads == 4


def test_without_training_new_heads_predict_nothing(first_stage) -> None:
    args = ModelArguments(config_name=str(first_stage / "config.json"), model_name_or_path=str(first_stage))
    config = load_config(args)
    with pytest.raises(InputError, match="no trained weights for .*gender_classifier"):
        build_model(args, config, build_processor(args, config, None), LABELS, None)


FLAGS = {
    "task_balancing": "uncertainty",
    "fusion": "concat",
    "emotion_class_weight": 0.7,
    "emotion_focus": 1.5,
    "label_smoothing": 0.2,
    "gender_class_weight": 0.3,
    "swfc_weight": 0.9,
    "swfc_temperature": 0.4,
    "swfc_focus": 1.0,
    "swfc_class_weight": 0.8,
    "swfc_normalize": "sum",
}


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_of_the_loss_reaches_the_configuration(name, tiny_config) -> None:
    config = load_config(ModelArguments(config_name=str(tiny_config()), **{name: FLAGS[name]}))
    assert (
        getattr(config, name)
        == FLAGS[name]
        != getattr(load_config(ModelArguments(config_name=str(tiny_config()))), name)
    )


def test_a_checkpoint_keeps_its_class_counts_without_training(command, manifest, tmp_path) -> None:
    train = manifest("train.csv", [0, 2, 1])  # two speakers are female, one male
    run_ser_mtl.run(
        *parse_arguments(command(train_file=train, validation_file=manifest("v.csv", [3]), do_train=True, do_eval=True))
    )
    folder = tmp_path / "output"
    config = load_config(ModelArguments(model_name_or_path=str(folder)))
    processor = build_processor(ModelArguments(model_name_or_path=str(folder)), config, None)
    labels = LabelNames(config.emotion_labels, config.gender_labels)
    model = build_model(ModelArguments(model_name_or_path=str(folder)), config, processor, labels, None)
    assert model.config.gender_class_counts == [8, 4] and model.config.emotion_class_counts == [6, 6]


@pytest.mark.parametrize(("flag", "during", "after"), [(None, 0.5, 0.5), ("1", 1.0, 1.0), ("auto", 0.5, 0.5)])
def test_training_forgets_the_temperature_of_a_checkpoint_and_prediction_keeps_it(
    flag, during, after, command, manifest, tmp_path
) -> None:
    data = {"train_file": manifest("train.csv", [0, 1]), "validation_file": manifest("v.csv", [2]), "do_train": True}
    run_ser_mtl.run(*parse_arguments(command(**data, calibrate=False)))
    folder = tmp_path / "calibrated"
    shutil.copytree(tmp_path / "output", folder)
    values = json.loads((folder / "config.json").read_text())
    assert (values["emotion_temperature"], values["emotion_prior_correction"]) == (1.0, 0.0)
    values |= {"emotion_temperature": 2.5, "emotion_prior_correction": 0.5}
    (folder / "config.json").write_text(json.dumps(values))

    args = ModelArguments(model_name_or_path=str(folder), prior_correction=flag)
    for counts, temperature, correction in ((None, 2.5, after), (COUNTS, 1.0, during)):
        config = load_config(args)
        processor = build_processor(args, config, None)
        labels = LabelNames(config.emotion_labels, config.gender_labels)
        config = build_model(args, config, processor, labels, counts).config
        assert (config.emotion_temperature, config.emotion_prior_correction) == (temperature, correction)


def test_the_calibration_in_the_file_of_a_trained_model_does_not_pass_to_a_new_one(tmp_path, tiny_config) -> None:
    values = json.loads(Path(tiny_config()).read_text())
    calibration = {"emotion_temperature": 2.0, "emotion_prior_correction": 0.5}
    config = SerMtlConfig(backbone_config=values["backbone_config"], **calibration)
    config.architectures = ["SerMtlModel"]
    config.save_pretrained(tmp_path)
    found = load_config(ModelArguments(config_name=str(tmp_path / "config.json")))
    assert (found.emotion_temperature, found.emotion_prior_correction) == (1.0, 0.0)
    found = load_config(ModelArguments(config_name=str(tmp_path / "config.json"), prior_correction="0.25"))
    assert found.emotion_prior_correction == 0.25
