"""The facts of a run survive in their file."""

from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.hub.run_facts import RunFacts, SplitFacts, facts_of
from modeling_ser_mtl.hub.widget import WidgetSample

TEXTS = st.text(max_size=8)
COUNTS = st.dictionaries(TEXTS, st.integers(0, 9), max_size=3)
SPLITS = st.builds(
    SplitFacts,
    clips=st.integers(0),
    hours=st.floats(0, 1e3),
    speakers=st.integers(0),
    labelled=COUNTS,
    corpora=COUNTS,
    emotions=COUNTS,
    genders=COUNTS,
    unknown_speakers=st.none() | st.integers(0),
    trained_speakers=st.integers(0),
)
SAMPLES = st.builds(
    WidgetSample,
    src=TEXTS,
    example_title=TEXTS,
    output=st.lists(st.fixed_dictionaries({"label": TEXTS, "score": st.floats(0, 1)}), max_size=2),
)
FACTS = st.builds(
    RunFacts,
    name=TEXTS,
    splits=st.dictionaries(st.sampled_from(["train", "validation", "test"]), SPLITS),
    metrics=st.dictionaries(TEXTS, st.floats(0, 1), max_size=3),
    license=st.none() | TEXTS,
    languages=st.lists(TEXTS, max_size=2),
    datasets=st.lists(TEXTS, max_size=2),
    base_model=st.none() | TEXTS,
    from_scratch=st.booleans(),
    synthetic=st.booleans(),
    settings=st.dictionaries(TEXTS, TEXTS | st.lists(TEXTS) | st.booleans(), max_size=3),
    hyperparameters=st.dictionaries(TEXTS, st.none() | st.integers() | TEXTS, max_size=3),
    environment=st.dictionaries(TEXTS, TEXTS, max_size=3),
    widget=st.lists(SAMPLES, max_size=2),
)


@given(facts=FACTS)
@settings(max_examples=50, deadline=None)
def test_facts_are_the_same_after_json(facts):
    assert RunFacts.from_json(facts.to_json()) == facts


@given(facts=FACTS)
@settings(max_examples=20, deadline=None)
def test_a_checkpoint_has_the_set_up_of_its_run_and_neither_its_metrics_nor_its_samples(facts, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    facts.save(run)
    (run / "checkpoint-12").mkdir()
    (run / "twin").mkdir()
    assert facts_of(run) == facts
    found, expected = asdict(facts_of(run / "checkpoint-12")), asdict(facts)
    expected["hyperparameters"]["checkpoint"] = "checkpoint-12"
    assert found == expected | {"metrics": {}, "widget": []}
    assert facts_of(run / "twin") == RunFacts("twin")


def test_a_checkpoint_of_a_run_that_broke_off_has_a_name_alone(tmp_path):
    (tmp_path / "checkpoint-12").mkdir()
    assert facts_of(tmp_path / "checkpoint-12") == RunFacts("checkpoint-12")


def test_a_folder_without_facts_is_one_line_that_says_which_folder_to_give(tmp_path):
    with pytest.raises(InputError, match="output folder of a training run") as error:
        RunFacts.load(tmp_path)
    assert str(tmp_path / "run_facts.json") in str(error.value)


def test_a_task_trained_if_a_training_clip_has_a_label_for_it():
    split = SplitFacts(2, 1.0, 1, {"emotion": 2, "asr": 0}, {}, {}, {})
    assert RunFacts("model", {"train": split}).trained(["emotion", "asr"]) == ["emotion"]
    assert RunFacts("model", {"test": split}).trained(["emotion", "asr"]) == ["emotion", "asr"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"splits": {}, "widget": []}', '{"splits": {}, "widget": [{}]}'])
def test_a_file_of_something_else_is_one_line(tmp_path, content):
    (tmp_path / "run_facts.json").write_text(content)
    with pytest.raises(InputError, match=r"run_facts\.json: does not hold the facts of a run"):
        RunFacts.load(tmp_path)
