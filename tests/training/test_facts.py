"""The facts of a run are the user's words and the data's counts, fit to be published."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.hub.run_facts import SplitFacts, simplified
from modeling_ser_mtl.training.facts import corpus_names, given_settings, rename_corpora, split_facts
from modeling_ser_mtl.training.parser import parse_arguments


def test_a_set_is_counted_by_label_and_length():
    table = pd.DataFrame(
        {
            "emotion": ["joy", "", "anger", "joy"],
            "gender": ["female", "female", "", "male"],
            "speaker_id": ["1", "1", "", "2"],
            "speaker": ["a/1", "a/1", "", "b/2"],
            "corpus": ["a", "a", "a", "b"],
            "text": ["", "", "", "hello"],
            "length": [16_000 * 900] * 4,
        }
    )
    assert split_facts(table, ["emotion", "speaker", "asr"]) == SplitFacts(
        clips=4,
        hours=1.0,
        speakers=2,
        labelled={"emotion": 3, "speaker": 3, "asr": 1},
        corpora={"a": 3, "b": 1},
        emotions={"anger": 1, "joy": 2},
        genders={"female": 2, "male": 1},
        unknown_speakers=1,
    )
    assert split_facts(table, ["emotion"], trained={"a/1", "c/3", ""}).trained_speakers == 1


def set_of(*manifests: tuple[str, str, str]) -> pd.DataFrame:
    """One clip per manifest, corpus in its column ("" for none) and gender, as the reader of manifests fills it."""
    rows = [(path, corpus or Path(path).parent.name, gender) for path, corpus, gender in manifests]
    return pd.DataFrame(rows, columns=["manifest", "corpus", "gender"])


FOLDER_NAMES = st.sampled_from(["jane.doe", "Jane-Doe", "jane doe", "Kim"])
MANIFESTS = st.tuples(
    FOLDER_NAMES, st.sampled_from(["train", "test", "female"]), st.sampled_from(["", "A", "a", "train"])
)


@given(manifests=st.lists(MANIFESTS, min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_no_folder_gives_a_corpus_its_name_and_corpora_stay_apart(manifests):
    table = set_of(*((f"/data/{folder}/{stem}.csv", corpus, "female") for folder, stem, corpus in manifests))
    names = corpus_names(table)
    assert names.keys() == set(table["corpus"])
    for old, new in names.items():
        assert (new == old) if old in ("A", "a", "train") else not {"jane", "doe", "kim"} & set(re.findall(r"\w+", new))
    # Metrics tell the same corpora apart as before, and none has the name of a gender.
    slugs = {(simplified(old), simplified(new)) for old, new in names.items()}
    assert len(slugs) == len({old for old, _ in slugs}) == len({new for _, new in slugs})
    assert "female" not in {new for _, new in slugs}


def test_a_corpus_without_a_name_has_that_of_its_manifest(monkeypatch, tmp_path):
    table = set_of(
        ("/d/x/train.csv", "", "f"), ("/d/y/train.csv", "", "f"), ("/d/z/b.csv", "", "f"), ("m.csv", "C", "f")
    )
    assert corpus_names(table) == {"x": "train", "y": "train 2", "z": "b", "C": "C"}
    # A path as given may be relative to the folder.
    (tmp_path / "jane.doe").mkdir()
    monkeypatch.chdir(tmp_path / "jane.doe")
    assert corpus_names(set_of(("train.csv", "jane.doe", "f"))) == {"jane.doe": "train"}
    # Manifests of one folder are one corpus.
    assert corpus_names(set_of(("/d/x/a.csv", "", "f"), ("/d/x/b.csv", "", "f"))) == {"x": "a, b"}


def test_metrics_by_corpus_have_its_public_name_and_those_by_gender_keep_theirs():
    metrics = {"predict_emotion_uar_jane_doe": 0.1, "predict_emotion_uar_female": 0.2, "eval_emotion_uar_jane_doe": 0.3}
    names = {"jane.doe": "test", "female": "b"}
    assert rename_corpora(metrics, "predict", names, {"female", "male"}) == {
        "predict_emotion_uar_test": 0.1,
        "predict_emotion_uar_female": 0.2,
        "eval_emotion_uar_jane_doe": 0.3,
    }


def test_settings_are_those_of_the_file_and_the_flags_that_override_it(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("train_file: [/data/me/a.csv, b.csv]\nseed: 1\ntask_weights: {emotion: 1}\nfp16: false\n")
    argv = [str(path), "--seed=2", "--do_train", "--learning_rate", "1e-3", "--tasks", "emotion", "asr"]
    assert given_settings(argv) == {
        "train_file": ["a.csv", "b.csv"],
        "seed": "2",
        "task_weights": {"emotion": 1},
        "fp16": False,
        "do_train": [],
        "learning_rate": "1e-3",
        "tasks": ["emotion", "asr"],
    }


def test_a_flag_with_hyphens_is_the_option_with_underscores(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("run_name: old\n")
    argv = [
        str(path),
        "--run-name",
        "a-b",
        "--model-name-or-path=org/encoder",
        "--hub-token",
        "hf_secret",
        "--do-train",
    ]
    assert given_settings(argv) == {"run_name": "a-b", "model_name_or_path": "org/encoder", "do_train": []}


def test_a_json_file_gives_the_same_settings_as_flags(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"train_file": "in/a.csv", "seed": "1"}, indent="\t"))
    assert given_settings([str(path)]) == given_settings(["--train_file", "in/a.csv", "--seed", "1"])


FOLDERS = st.lists(st.sampled_from(["me", "..", ".", "~", "secret-project"]), min_size=1, max_size=4)


@given(folders=FOLDERS, absolute=st.booleans(), separator=st.sampled_from(["/", "\\"]))
@settings(max_examples=50, deadline=None)
def test_no_folder_of_a_path_is_published(folders, absolute, separator):
    path = separator * absolute + separator.join([*folders, "deeper", "a.csv"])
    for name in ("train_file", "trials_file", "output_dir", "model_name_or_path", "dataset_name", "config_name"):
        assert given_settings([f"--{name}", path]) == {name: "a.csv"}


def test_names_of_the_hub_stay_whole_unless_a_folder_has_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["--model_name_or_path", "org/encoder", "--dataset_name", "org/speech"]
    assert given_settings(argv) == {"model_name_or_path": "org/encoder", "dataset_name": "org/speech"}
    Path("org/encoder").mkdir(parents=True)
    assert given_settings(argv) == {"model_name_or_path": "encoder", "dataset_name": "org/speech"}


def test_labels_may_hold_a_slash_and_tokens_are_left_out():
    argv = ["--emotion_labels", "calm/neutral", "anger", "--hub_token", "hf_secret"]
    assert given_settings(argv) == {"emotion_labels": ["calm/neutral", "anger"]}


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--license", "Apache 2.0"], "apache-2.0"),
        (["--language", "de", "German"], "ISO 639"),
        (["--dataset_names", "org/a/b"], "org/name"),
        (["--dataset_names", "/data/speech"], "org/name"),
    ],
)
def test_a_wrong_option_of_the_card_is_one_line_that_says_what_is_right(argv, says):
    with pytest.raises(InputError, match=says) as error:
        parse_arguments(["--output_dir", "o", *argv])
    assert argv[0] in str(error.value) and "\n" not in str(error.value)
