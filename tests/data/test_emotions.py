import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_ser_mtl.data.corpora import CORPORA
from modeling_ser_mtl.data.emotions import STANDARD_MAP, count_emotions, map_emotions, parse_emotion_map
from modeling_ser_mtl.data.errors import InputError

names = st.text("abcdefg", min_size=1, max_size=3)


def table_of(*labels):
    return pd.DataFrame({"audio": [f"{i}.wav" for i in range(len(labels))], "emotion": labels, "gender": "female"})


@given(pairs=st.dictionaries(names, names | st.just(""), min_size=1, max_size=5), labels=st.lists(names, min_size=1))
@settings(max_examples=50, deadline=None)
def test_each_label_is_renamed_once_and_those_outside_lose_it(pairs, labels) -> None:
    mapping = parse_emotion_map([f"{old}={new}" for old, new in pairs.items()])
    mapped, outside = map_emotions(table_of(*labels), mapping)
    known = pairs | {new: new for new in pairs.values() if new not in pairs}
    assert mapped["emotion"].tolist() == [known.get(label, "") for label in labels]
    assert outside.tolist() == [index for index, label in enumerate(labels) if label not in known]


def test_a_file_says_the_same_as_pairs(tmp_path) -> None:
    pairs = {"ang": "anger", "01": "neutral", "no": "neutral", "calm": ""}
    (tmp_path / "map.json").write_text(json.dumps(pairs))
    (tmp_path / "map.yaml").write_text("ang: anger\n01: neutral\nno: neutral\ncalm:\n")
    expected = parse_emotion_map(["ang=anger", "01,no=neutral", "calm="])
    assert parse_emotion_map([str(tmp_path / "map.json")]) == expected
    assert parse_emotion_map([str(tmp_path / "map.yaml")]) == expected
    assert expected == {**pairs, "anger": "anger", "neutral": "neutral"}


def test_a_clip_whose_label_is_taken_away_is_not_outside_the_map_and_keeps_its_other_labels() -> None:
    table = table_of("calm", "anger", "", "bored")
    mapped, outside = map_emotions(table, parse_emotion_map(["calm=", "ang=anger"]))
    assert mapped["emotion"].tolist() == ["", "anger", "", ""]
    assert outside.tolist() == [3]
    assert mapped["gender"].tolist() == table["gender"].tolist()
    assert table["emotion"].tolist() == ["calm", "anger", "", "bored"]


def test_case_does_not_matter() -> None:
    mapped, _ = map_emotions(table_of("ANG", "Anger", "ang"), parse_emotion_map(["Ang=anger"]))
    assert mapped["emotion"].tolist() == ["anger"] * 3


def test_synonyms_are_mapped_only_when_asked_for() -> None:
    labels = ["A", "ang", "Angry", "joy", "Fearful", "neu", "X"]
    mapped, outside = map_emotions(table_of(*labels), parse_emotion_map(["standard"]))
    assert mapped["emotion"].tolist() == ["anger", "anger", "anger", "happiness", "fear", "neutral", ""]
    assert outside.tolist() == []
    _, outside = map_emotions(table_of(*labels), parse_emotion_map(["angry=anger"]))
    assert outside.tolist() == [0, 1, 3, 4, 5, 6]


@pytest.mark.parametrize("items", [["standard", "excitement=happiness"], ["excitement=happiness", "standard"]])
def test_pairs_apply_to_what_the_synonyms_give(items) -> None:
    mapped, _ = map_emotions(table_of("exc", "excited", "excitement", "hap", "sad"), parse_emotion_map(items))
    assert mapped["emotion"].tolist() == ["happiness"] * 4 + ["sadness"]


def test_no_synonym_stands_for_two_emotions_and_every_emotion_for_itself() -> None:
    assert all(STANDARD_MAP[new.casefold()] == new for new in STANDARD_MAP.values() if new)


@pytest.mark.parametrize("name", CORPORA)
def test_the_synonyms_keep_the_emotions_of_the_known_corpora(name) -> None:
    emotions = [emotion for emotion in CORPORA[name].emotions.values() if emotion]
    mapped, outside = map_emotions(table_of(*emotions), parse_emotion_map(["standard"]))
    assert mapped["emotion"].tolist() == emotions and not len(outside)


def test_labels_outside_are_counted_the_most_frequent_first() -> None:
    table = table_of("bored", "calm", "anger", "calm", "awe")
    _, outside = map_emotions(table, parse_emotion_map(["anger=anger"]))
    assert count_emotions(table, outside) == "calm 2, awe 1, bored 1"


@pytest.mark.parametrize(
    ("item", "found"),
    [
        ("anger", "--emotion_map anger: give old=new"),
        ("=anger", "give old=new"),
        ("a=b=c", "give old=new"),
        ("ang,=anger", "give old=new"),
        ("nowhere.yaml", "nowhere.yaml: no such file"),
    ],
)
def test_an_item_that_is_no_map_is_told_what_is_allowed(item, found) -> None:
    with pytest.raises(InputError, match=found):
        parse_emotion_map([item])


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"- anger", "found no names"),
        (b"", "found no names"),
        (b"anger: [ang, angry]", "'anger' becomes .*give one name"),
        (b"anger: {", "could not be read as YAML or JSON"),
        (b"\xff\xfe", "could not be read as YAML or JSON"),
    ],
)
def test_a_file_that_holds_no_map_is_one_line(tmp_path, content, found) -> None:
    (tmp_path / "map.yaml").write_bytes(content)
    with pytest.raises(InputError, match=f"map.yaml: {found}") as error:
        parse_emotion_map([str(tmp_path / "map.yaml")])
    assert "\n" not in str(error.value)


def test_a_label_that_becomes_two_names_is_an_error() -> None:
    with pytest.raises(InputError, match="'Exc' becomes 'excitement' here and 'happiness' elsewhere"):
        parse_emotion_map(["exc=happiness", "Exc=excitement"])
