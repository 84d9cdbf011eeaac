import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.training.parser import parse_arguments, parse_prior_correction, parse_task_weights

SETTINGS = {
    "config_name": "tiny.json",
    "train_file": ["a.csv", "b.csv"],
    "tasks": ["emotion", "asr"],
    "task_weights": {"emotion": 1, "asr": 0.25},
    "do_train": True,
    "freeze_feature_encoder": True,
    "num_train_epochs": 3,
    "learning_rate": 0.002,
    "emotion_labels": ["anger", "01"],
    "column_mapping": {"audio": "file", "emotion": "label"},
    "max_seconds": 7.5,
    "report_to": "tensorboard",
    "use_cpu": True,
}


def as_flags(values: dict[str, object]) -> list[str]:
    argv = []
    for name, value in values.items():
        if isinstance(value, dict):
            value = [f"{key}={item}" for key, item in value.items()]
        argv += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return argv


def comparable(groups: tuple) -> list[dict[str, object]]:
    """The parsed groups as dicts, without the folder of logs, whose name holds the time."""
    model, data, training = groups
    return [vars(model), vars(data), training.to_dict() | {"logging_dir": None}]


def write(folder: Path, suffix: str, values: dict[str, object]) -> str:
    path = folder / f"settings.{suffix}"
    path.write_text(json.dumps(values) if suffix == "json" else yaml.safe_dump(values, sort_keys=False))
    return str(path)


@pytest.mark.parametrize("suffix", ["yaml", "yml", "json"])
def test_flags_and_file_give_the_same_settings(tmp_path, suffix) -> None:
    settings = SETTINGS | {"output_dir": str(tmp_path)}
    path = write(tmp_path, suffix, settings)
    assert comparable(parse_arguments([path])) == comparable(parse_arguments(as_flags(settings)))


@settings(max_examples=6, deadline=None)
@given(names=st.sets(st.sampled_from(sorted(SETTINGS))))
def test_a_file_followed_by_flags_gives_the_same_settings_as_flags(tmp_path_factory, names) -> None:
    folder = tmp_path_factory.mktemp("settings")
    values = SETTINGS | {"output_dir": "output"}
    overridden = {name: "other.json" for name in names if name == "config_name"}
    file = {name: value for name, value in values.items() if name not in names} | overridden
    flags = {name: values[name] for name in names}
    argv = [write(folder, "yaml", file), *as_flags(flags)]
    assert comparable(parse_arguments(argv)) == comparable(parse_arguments(as_flags(values)))


def test_flags_override_the_file(tmp_path) -> None:
    path = write(tmp_path, "yaml", SETTINGS | {"output_dir": "output"})
    argv = [path, "--num_train_epochs", "9", "--tasks", "gender", "--do_train", "False", "--train_file", "c.csv"]
    model, data, training = parse_arguments(argv)
    assert (model.tasks, data.train_file) == (["gender"], ["c.csv"])
    assert (training.num_train_epochs, training.do_train, training.learning_rate) == (9, False, 0.002)


def test_a_dict_for_an_option_of_the_trainer_stays_a_dict(tmp_path) -> None:
    values = {"output_dir": "output", "lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0.1}}
    training = parse_arguments([write(tmp_path, "yaml", values)])[2]
    assert training.lr_scheduler_kwargs == {"min_lr": 0.1}


def test_a_single_name_in_a_file_may_stand_for_a_list(tmp_path) -> None:
    data = parse_arguments([write(tmp_path, "yaml", {"output_dir": "o", "train_file": "a.csv"})])[1]
    assert data.train_file == ["a.csv"]


def test_training_from_scratch_and_fine_tuning_have_defaults_of_their_own() -> None:
    scratch = parse_arguments(["--output_dir", "o", "--config_name", "c.json"])[2]
    tuned = parse_arguments(["--output_dir", "o", "--model_name_or_path", "org/encoder"])[2]
    assert (scratch.learning_rate, scratch.head_learning_rate, scratch.lr_scheduler_type) == (1e-3, None, "cosine")
    assert (tuned.learning_rate, tuned.head_learning_rate, tuned.lr_scheduler_type) == (3e-5, 1e-3, "linear")
    chosen = parse_arguments(["--output_dir", "o", "--config_name", "c.json", "--learning_rate", ".5"])[2]
    assert chosen.learning_rate == 0.5


def test_training_evaluates_and_keeps_the_best_epoch_and_prediction_alone_does_neither() -> None:
    training = parse_arguments(["--output_dir", "o", "--do_train"])[2]
    assert (training.eval_strategy, training.save_strategy, training.load_best_model_at_end) == ("epoch", "epoch", True)
    assert (training.metric_for_best_model, training.greater_is_better) == (None, None)  # the tasks choose
    predicting = parse_arguments(["--output_dir", "o", "--do_predict"])[2]
    assert (predicting.eval_strategy, predicting.do_eval, predicting.load_best_model_at_end) == ("no", False, False)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--num_epochs", "3"], "--num_train_epochs"),
        (["--trainfile=a.csv"], "--train_file"),
        (["--num_train_epochs", "three"], "'three'"),
        (["--do_train", "perhaps"], "perhaps"),
        (["--fusion", "attention"], "co_attention"),
        (["--eval_strategy", "sometimes"], "epoch"),
        (["--save_strategy", "steps"], "save"),
        (["notes.txt"], ".yaml"),
        (["nowhere.yaml"], "no such file"),
    ],
)
def test_a_wrong_command_line_is_one_line_that_says_what_is_right(argv, says) -> None:
    extra = [] if argv[0].endswith(("txt", "yaml")) else ["--output_dir", "o", "--do_train"]
    with pytest.raises(InputError) as error:
        parse_arguments([*argv, *extra] if argv[0] != "--do_train" else [*argv, "--output_dir", "o"])
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("num_train_epoch: 3", "num_train_epochs"),
        ("zzz: 3", "--help"),
        ("do_train: true\neval_strategy: no", "'no'"),  # YAML reads a bare no as false
        ("num_train_epochs: many", "'many'"),
        ("just words", "maps option names"),
        ("a: [1", "could not be read"),
        ("", "maps option names"),
    ],
)
def test_a_wrong_settings_file_is_named(tmp_path, text, says) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        parse_arguments([str(path), "--output_dir", "o"])
    assert says in str(error.value) and "\n" not in str(error.value)
    assert text.startswith(("num_train_epochs", "do_train")) or str(path) in str(error.value)


def test_a_settings_file_that_is_no_text_is_named(tmp_path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(b"\xff\xfe\x00\xff")
    with pytest.raises(InputError, match="settings.yaml: could not be read"):
        parse_arguments([str(path)])


def test_task_weights_are_read_as_numbers() -> None:
    assert parse_task_weights(["emotion=1", "asr=.25"]) == {"emotion": 1.0, "asr": 0.25}
    assert parse_task_weights(None) is None


@pytest.mark.parametrize("item", ["emotion", "emotion=", "emotion=much", "mood=1", "=1"])
def test_a_task_weight_that_is_none_is_named(item) -> None:
    with pytest.raises(InputError, match=f"--task_weights {item}"):
        parse_task_weights([item])


@pytest.mark.parametrize(("value", "exponent"), [(None, None), ("auto", None), ("0", 0.0), (".5", 0.5), ("2", 2.0)])
def test_a_prior_correction_is_a_number_or_chosen_later(value, exponent) -> None:
    assert parse_prior_correction(value) == exponent


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "full", ""])
def test_another_prior_correction_is_named_with_what_is_allowed(value) -> None:
    with pytest.raises(InputError, match=f"--prior_correction {value}: give a number, 0 .off. or more"):
        parse_prior_correction(value)
