import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_ser_mtl import SerMtlConfig
from modeling_ser_mtl.evaluation.report import HEADLINE_METRICS
from modeling_ser_mtl.hub.model_card import SPLIT_NAMES, write_model_card

NAMES = [f"{prefix}_{task}_{metric}" for prefix in SPLIT_NAMES for task, metric, _ in HEADLINE_METRICS]


def write_and_load(folder, metrics=None, synthetic=False, **settings_) -> ModelCard:
    write_model_card(folder, SerMtlConfig(**settings_), metrics or {}, synthetic)
    return ModelCard.load(folder / "README.md")


@pytest.mark.parametrize("synthetic", [False, True])
def test_the_card_parses_and_finds_its_place_on_the_hub(tmp_path, synthetic):
    data = write_and_load(tmp_path, synthetic=synthetic).data.to_dict()
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "audio-classification"
    assert "speech-emotion-recognition" in data["tags"]
    assert ("synthetic-speech" in data["tags"]) == synthetic


@given(metrics=st.dictionaries(st.sampled_from(NAMES), st.floats(0, 1)))
@settings(max_examples=20, deadline=None)
def test_every_metric_given_has_a_row_under_its_split_and_no_other_has(tmp_path_factory, metrics):
    text = write_and_load(tmp_path_factory.mktemp("card"), metrics | {"predict_runtime": 7.0}).text
    for prefix, split in SPLIT_NAMES.items():
        given_ = {name: value for name, value in metrics.items() if name.startswith(prefix)}
        assert (f"## Results on {split}" in text) == bool(given_)
        section = text.partition(f"## Results on {split}")[2].partition("##")[0]
        rows = [line for line in section.splitlines() if line.startswith("|")][2:]
        expected = {
            f"| {task} | {metric} |" for task, metric, _ in HEADLINE_METRICS if f"{prefix}_{task}_{metric}" in given_
        }
        assert {row[: row.rindex("|", 0, -1) + 1] for row in rows} == expected
        for name, value in given_.items():
            task, _, metric = name.removeprefix(f"{prefix}_").partition("_")
            assert f"| {task} | {metric} | {value:.3f} |" in rows


def test_a_model_of_synthetic_speech_says_so_and_another_does_not(tmp_path):
    folder = tmp_path / "model"
    assert "Trained on synthetic speech" in write_and_load(folder, synthetic=True).text
    assert "synthetic" not in write_and_load(folder, synthetic=False).content.lower()


def test_the_card_says_what_the_model_is(tmp_path):
    card = write_and_load(tmp_path, tasks=("emotion", "gender"), fusion="concat", id2label={0: "joy", 1: "grief"})
    assert "wav2vec2 encoder with heads for emotion, gender; fusion: concat. Emotions: joy, grief." in card.text
    assert f"# {tmp_path.name}" in card.text


def test_the_example_of_the_card_is_python(tmp_path):
    code = write_and_load(tmp_path).text.partition("```python")[2].partition("```")[0]
    compile(code, "README.md", "exec")
    assert code.count(f'from_pretrained("path/to/{tmp_path.name}", trust_remote_code=True)') == 2


def test_a_card_for_the_current_folder_carries_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model_card(".", SerMtlConfig(), {})
    assert f"# {tmp_path.name}\n" in (tmp_path / "README.md").read_text()
