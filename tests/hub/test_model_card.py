"""The card of a run tells what the run did, in a form that the Hub reads, and nothing that is private."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from importlib.metadata import requires
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from hypothesis import example, given, settings
from hypothesis import strategies as st

import run_ser_mtl
from modeling_ser_mtl import SerMtlConfig, SerMtlModel, SerMtlProcessor
from modeling_ser_mtl.configuration_ser_mtl import TASKS
from modeling_ser_mtl.evaluation.report import HEADLINE_METRICS
from modeling_ser_mtl.hub.model_card import model_card, write_model_card
from modeling_ser_mtl.hub.run_facts import RunFacts, SplitFacts
from modeling_ser_mtl.hub.widget import WidgetSample

EXPECTED_CARD = (Path(__file__).parent / "expected_card.re").read_text(encoding="utf-8")
SETS = {"predict": "test", "eval": "validation"}


@pytest.fixture(scope="module")
def run(clips, tiny_config, tmp_path_factory) -> Path:
    """The output folder of a tiny run with two corpora in its test set, of which one has no name in the manifest."""
    folder = tmp_path_factory.mktemp("private")
    (folder / "jane.doe").mkdir()
    speakers = {"train": ["s0", "s1"], "validation": ["s2", "s3"], "test": ["s4", "s5"]}
    argv = ["--config_name", str(tiny_config()), "--output_dir", str(folder / "tiny-run"), "--num_train_epochs", "1"]
    for name, ids in speakers.items():
        rows = clips[clips["speaker_id"].isin(ids)]
        if name == "test":
            rows = rows.assign(corpus=["Corpus A", "Corpus A", "", ""] * 2)
        rows.to_csv(folder / "jane.doe" / f"{name}.csv", index=False)
        argv += [f"--{name}_file", str(folder / "jane.doe" / f"{name}.csv")]
    argv += ["--widget_samples", *clips["audio"].iloc[16:18], "--license", "cc-by-nc-4.0", "--language", "de", "en"]
    argv += ["--dataset_names", "org/speech", "--do_train", "--do_eval", "--do_predict", "--hub_token", "hf_secret"]
    run_ser_mtl.main([*argv, "--use_cpu", "True", "--disable_tqdm", "True"])
    return folder / "tiny-run"


@pytest.fixture(scope="module")
def metrics(run) -> dict[str, float]:
    return json.loads((run / "all_results.json").read_text())


def facts(**values: object) -> RunFacts:
    """Facts of a run on one clip per set."""
    split = SplitFacts(1, 0.5, 1, dict.fromkeys(TASKS, 1), {"corpus": 1}, {"anger": 1}, {"female": 1}, 0)
    defaults = RunFacts(
        name="model",
        splits={name: split for name in ("train", "validation", "test")},
        metrics={},
        license=None,
        languages=[],
        datasets=[],
        base_model=None,
        from_scratch=True,
        synthetic=False,
        settings={},
        hyperparameters={"learning_rate": 0.1, "load_best_model_at_end": True},
        environment={"python": "3"},
        widget=[],
    )
    return replace(defaults, **values)


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a Markdown text as rows of cells, without the line of dashes."""
    blocks = re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE)
    rows = [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]
    return [[[cell.strip() for cell in row] for row in (block[0], *block[2:])] for block in rows]


def test_the_whole_card_of_a_tiny_run_is_as_expected(run):
    card = (run / "README.md").read_text(encoding="utf-8")
    assert re.fullmatch(EXPECTED_CARD, card), card


def test_the_metadata_survives_the_parser_of_the_hub_client(run):
    data = ModelCard.load(run / "README.md").data
    assert data.to_dict()["model-index"]
    again = ModelCardData(**data.to_dict())
    assert again.to_dict() == data.to_dict() and again.eval_results == data.eval_results
    again = ModelCard((run / "README.md").read_text(encoding="utf-8"))
    assert again.content == (run / "README.md").read_text(encoding="utf-8")


def test_the_results_in_the_metadata_are_the_metrics_of_the_run(run, metrics):
    results = {
        (result.dataset_split, result.metric_name): result
        for result in ModelCard.load(run / "README.md").data.eval_results
    }
    expected = {f"{prefix}_{task}_{metric}" for prefix in SETS for task, metric, _ in HEADLINE_METRICS} & metrics.keys()
    assert len(results) == len(expected) == 18

    def shown(prefix: str, name: str) -> EvalResult:
        return results[SETS[prefix], name]

    for prefix in SETS:
        for name, key, metric_type, task in (
            ("Emotion macro-F1", "emotion_macro_f1", "f1", "audio-classification"),
            ("Emotion unweighted average recall", "emotion_uar", "recall", "audio-classification"),
            ("Gender accuracy", "gender_accuracy", "accuracy", "audio-classification"),
            ("Speaker equal error rate", "speaker_eer", "eer", "speaker-verification"),
            ("ASR word error rate", "asr_wer", "wer", "automatic-speech-recognition"),
            ("ASR character error rate", "asr_cer", "cer", "automatic-speech-recognition"),
        ):
            result = shown(prefix, name)
            assert (result.metric_type, result.task_type) == (metric_type, task)
            assert result.metric_value == metrics[f"{prefix}_{key}"]
            assert result.dataset_type == "org/speech"
    assert shown("predict", "Gender accuracy").dataset_name == "Corpus A, test"


def test_the_page_finds_its_samples_in_the_repository(run):
    entries = ModelCard.load(run / "README.md").data.to_dict()["widget"]
    assert len(entries) == 2
    for entry in entries:
        assert soundfile.info(run / entry["src"]).duration > 0
        assert {row["label"] for row in entry["output"]} == {"anger", "sadness"}
        assert sum(row["score"] for row in entry["output"]) == pytest.approx(1, abs=1e-3)


def test_neither_card_nor_facts_hold_a_path_or_a_token_of_the_run(run, clips):
    for name in ("README.md", "run_facts.json"):
        text = (run / name).read_text(encoding="utf-8")
        for private in (
            run.parent,
            run.parent.name,
            "jane",
            Path(clips["audio"].iloc[0]).parent,
            Path.home(),
            "hf_secret",
        ):
            assert str(private) not in text


def test_a_later_evaluation_into_the_folder_of_the_run_leaves_its_card_as_it_is(run, clips, tmp_path):
    folder = tmp_path / "tiny-run"
    shutil.copytree(run, folder)
    clips[clips["gender"] == "female"].assign(corpus="other").to_csv(tmp_path / "other.csv", index=False)
    argv = ["--model_name_or_path", str(folder), "--test_file", str(tmp_path / "other.csv"), "--do_predict"]
    run_ser_mtl.main([*argv, "--output_dir", str(folder), "--use_cpu", "True", "--disable_tqdm", "True"])
    assert (folder / "all_results.json").read_text() != (run / "all_results.json").read_text()
    write_model_card(folder)
    assert (folder / "README.md").read_text() == (run / "README.md").read_text()


def test_the_card_is_rendered_again_for_its_repository_without_the_model(run, tmp_path):
    for name in ("run_facts.json", "config.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    write_model_card(tmp_path, "org/published")
    card, before = ModelCard.load(tmp_path / "README.md"), ModelCard.load(run / "README.md")
    assert card.text == before.text.replace("path/to/tiny-run", "org/published").replace("# tiny-run", "# published")
    assert card.data.model_name == "published"
    assert card.data.eval_results == before.data.eval_results


def snippets(card: ModelCard) -> list[str]:
    """The Python code of a card, in its order."""
    return re.findall(r"```python\n(.*?)\n```", card.text, re.DOTALL)


def statements(snippet: str) -> int:
    """Statements of some code beside its imports."""
    return sum(not isinstance(line, ast.Import | ast.ImportFrom) for line in ast.parse(snippet).body)


def test_every_task_has_at_most_three_statements_that_print_what_the_model_says(run, clips, without_package, tmp_path):
    for name, path in zip(("clip", "a", "b"), clips["audio"].iloc[[4, 0, 9]], strict=True):
        shutil.copy(path, tmp_path / f"{name}.wav")
    code = snippets(model_card(RunFacts.load(run), SerMtlConfig.from_pretrained(run), str(run)))
    assert max(map(statements, code)) <= 3
    # Each with nothing but what it imports itself; before each a line that tells them apart.
    script = f"for snippet in {code!r}:\n    print('#')\n    exec(snippet, {{}})"
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(
        without_package(script), cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert process.returncode == 0, process.stderr[-3000:]
    emotion, gender, similarity, text, everything = (part.strip() for part in process.stdout.split("#\n")[1:])

    model, processor = SerMtlModel.from_pretrained(run), SerMtlProcessor.from_pretrained(run)
    with torch.no_grad():
        outputs, first, second = (
            model(**processor(soundfile.read(tmp_path / f"{name}.wav", dtype="float32")[0], sampling_rate=16_000))
            for name in ("clip", "a", "b")
        )

    def scores(printed: list[dict]) -> dict[str, float]:
        return {row["label"]: row["score"] for row in printed}

    expected = [
        (model.config.emotion_labels, outputs.logits / model.config.emotion_temperature, ast.literal_eval(emotion)),
        (model.config.gender_labels, outputs.gender_logits, ast.literal_eval(gender)),
    ]
    for names, logits, printed in expected:
        probabilities = dict(zip(names, logits[0].softmax(-1).tolist(), strict=True))
        assert scores(printed) == pytest.approx(probabilities, abs=1e-5)
    assert float(similarity) == pytest.approx(
        float(first.speaker_embeddings[0] @ second.speaker_embeddings[0]), abs=1e-5
    )
    assert text == processor.decode_ctc(outputs.ctc_logits.argmax(-1))[0]
    result = ast.literal_eval(everything)
    assert result.keys() == {"emotion", "gender", "text", "speaker_embedding", "task_gates"}
    assert scores(result["emotion"]) == pytest.approx(scores(ast.literal_eval(emotion)), abs=1e-5)
    assert result["text"] == text


METRIC_NAMES = [f"{prefix}_{task}_{metric}" for prefix in SETS for task, metric, _ in HEADLINE_METRICS]


@given(metrics=st.dictionaries(st.sampled_from(METRIC_NAMES), st.floats(0, 1)))
@settings(max_examples=20, deadline=None)
def test_every_metric_given_has_a_row_under_its_set_and_no_other_has(metrics):
    card = model_card(facts(metrics=metrics | {"predict_runtime": 7.0}), SerMtlConfig())
    for prefix, split in SETS.items():
        given_ = {name: value for name, value in metrics.items() if name.startswith(prefix)}
        section = re.search(rf"## Results on the {split} set\n(.*?)(?=\n## )", card.text, re.DOTALL)
        assert (section is not None) == bool(given_)
        if section is not None:
            rows = tables(section[1])[0][1:]
            expected = [
                (task, f"{given_[f'{prefix}_{task}_{metric}']:.3f}", better)
                for task, metric, better in HEADLINE_METRICS
                if f"{prefix}_{task}_{metric}" in given_
            ]
            assert [(task, value, better) for task, _, value, better in rows] == expected


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(str.strip)


@given(emotion=NAMES, corpus=NAMES, setting=NAMES, title=NAMES)
@example(emotion="<b>|*x*", corpus="- a: [1]", setting="`$(x)`", title="](x)\n# y")
@example(emotion="0\x85", corpus="no", setting="'", title="\u2028x")
@settings(max_examples=100, deadline=None)
def test_no_name_breaks_the_metadata_or_a_table(emotion, corpus, setting, title):
    split = SplitFacts(2, 1.0, 2, {"emotion": 2}, {corpus: 2}, {emotion: 2}, {"female": 2})
    sample = WidgetSample("widget/a.wav", title, [{"label": emotion, "score": 1.0}])
    config = SerMtlConfig(id2label={0: emotion, 1: "other emotion"}, tasks=["emotion"])
    metrics = {"predict_emotion_uar": 0.5, f"predict_emotion_f1_{emotion}": 0.25}
    without = facts(splits={"train": split, "test": split}, metrics=metrics)
    values = replace(without, settings={"run_name": setting}, widget=[sample])
    card = ModelCard(model_card(values, config).content)
    plain = model_card(without, config)

    # YAML may fold exotic line breaks into spaces.
    entry = card.data.to_dict()["widget"][0]
    found = [entry["example_title"], entry["output"][0]["label"], card.data.eval_results[0].dataset_name]
    assert [name.split() for name in found] == [name.split() for name in (title, emotion, corpus)]
    # Outside of code, where a name is what it is, it can open neither a heading nor a cell nor a tag.
    text = re.sub(r"^(`{3,})\w+\n.*?\n\1$", "", card.text, flags=re.DOTALL | re.MULTILINE)
    expected = re.sub(r"^(`{3,})\w+\n.*?\n\1$", "", plain.text, flags=re.DOTALL | re.MULTILINE)
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert [line for line in headings if line not in ("## Samples", "## How to reproduce")] == [
        line for line in expected.splitlines() if line.startswith("#")
    ]
    for table in tables(text):
        assert {len(row) for row in table} == {len(table[0])}
    assert not re.search(r"(?<!\\)<(?!commit>)", re.sub("`[^`\n]*`", "", text))


def test_code_ends_where_it_ends_whatever_it_holds():
    card = model_card(facts(settings={"run_name": "```\n# Owned"}), SerMtlConfig())
    block = re.search(r"^(`+)bash\n(python run_ser_mtl.*?)\n\1$", card.text, re.DOTALL | re.MULTILINE)
    assert "# Owned" in block[2] and len(block[1]) == 4


def test_without_a_licence_the_card_says_so_and_permits_nothing():
    card = model_card(facts(), SerMtlConfig())
    assert (card.data.license, card.data.license_name) == ("other", "not-given")
    assert "**No licence was given**" in card.text and "non-commercial" in card.text
    card = model_card(facts(license="cc-by-nc-4.0"), SerMtlConfig())
    assert (card.data.license, card.data.license_name) == ("cc-by-nc-4.0", None)
    assert "`cc-by-nc-4.0`" in card.text and "No licence was given" not in card.text


def test_a_model_of_synthetic_speech_says_so_and_another_does_not():
    card = model_card(facts(synthetic=True), SerMtlConfig())
    assert card.text.index("**Trained on synthetic speech**") < card.text.index("## ")
    assert "synthetic-speech" in card.data.tags
    assert "synthetic" not in model_card(facts(), SerMtlConfig()).content.lower()


def test_a_fine_tuned_model_names_its_base_model_and_its_data_sets():
    card = model_card(facts(base_model="org/encoder", from_scratch=False, datasets=["org/a", "org/b"]), SerMtlConfig())
    assert (card.data.base_model, card.data.datasets) == ("org/encoder", ["org/a", "org/b"])
    assert "started from `org/encoder`" in card.text


def test_what_a_model_lacks_is_not_in_its_card():
    config = SerMtlConfig(tasks=("gender",), task_weights={"gender": 1.0})
    card = model_card(facts(metrics={"predict_gender_uar": 0.5}), config)
    for absent in ("SWFC", "peaker embedding", "Verification", "Transcript", 'audio-classification", model'):
        assert absent not in card.text
    for section in ("Samples", "How to reproduce", "Results on the validation set"):
        assert section not in card.text
    assert {"widget", "datasets", "base_model", "language"}.isdisjoint(card.data.to_dict())


@given(trained=st.sets(st.sampled_from(TASKS), min_size=1))
@settings(max_examples=15, deadline=None)
def test_a_task_without_a_label_to_learn_from_is_claimed_nowhere(trained):
    names = {"emotion": "Emotion", "gender": "Gender", "speaker": "Speaker", "asr": "Transcript"}
    tags = {"emotion": "speech-emotion-recognition", "gender": "gender-recognition"}
    tags |= {"speaker": "speaker-verification", "asr": "automatic-speech-recognition"}
    labelled = {task: 5 * (task in trained) for task in TASKS}
    train = SplitFacts(5, 1.0, 2, labelled, {"a": 5}, {}, {}, 0)
    card = model_card(facts(splits={"train": train}), SerMtlConfig())
    for task in TASKS:
        assert (f"**{names[task]}**: not trained (no labels)." in card.text) == (task not in trained)
        assert (tags[task] in card.data.tags) == (task in trained)
    assert ("on all tasks at once" in card.text) == (len(trained) == 4)
    listed = ", ".join(task for task in TASKS if task in trained)
    assert (f"All at once ({listed}):" in card.text) == (len(trained) > 1)
    assert len(snippets(card)) == len(trained) + (len(trained) > 1)
    assert len(trained) == 4 or f"trained from scratch on {listed} at once;" in card.text
    assert ('pipeline("audio-classification"' in card.text) == ("emotion" in trained)
    titles = {"gender": "\nGender:\n", "speaker": "\nVerification, whether", "asr": "\nTranscript:\n"}
    for task, title in titles.items():
        assert (title in card.text) == (task in trained)


def test_a_model_whose_training_is_unknown_is_described_by_its_configuration_alone():
    card = ModelCard(model_card(RunFacts("model"), SerMtlConfig()).content)
    assert "not trained" not in card.text and "on all tasks at once" in card.text
    assert {"speech-emotion-recognition", "automatic-speech-recognition"} <= set(card.data.tags)
    assert {"model_name", "model-index", "metrics"}.isdisjoint(card.data.to_dict())
    assert "## Results" not in card.text and "## Training" not in card.text


def test_only_a_model_of_emotions_is_found_as_a_classifier_of_audio():
    assert model_card(facts(), SerMtlConfig()).data.pipeline_tag == "audio-classification"
    config = SerMtlConfig(tasks=("gender", "asr"), task_weights={"gender": 1.0, "asr": 1.0})
    card = ModelCard(model_card(facts(), config).content)
    assert "pipeline_tag" not in card.data.to_dict()
    assert re.findall(r'pipeline\("([\w-]+)"', card.text) == ["speech-emotion-mtl"] * 3


def test_the_card_installs_a_transformers_that_the_package_works_with():
    required = next(line for line in requires("modeling_ser_mtl") if line.startswith("transformers"))
    assert shlex.split(re.search("pip install .*", model_card(facts(), SerMtlConfig()).text)[0])[2] == required


@pytest.mark.parametrize(("unknown", "claimed"), [(0, True), (1, False), (None, False)])
def test_that_no_test_speaker_trains_is_said_only_where_every_training_speaker_is_known(unknown, claimed):
    train = replace(facts().splits["train"], unknown_speakers=unknown)
    test = replace(train, clips=4, speakers=2, unknown_speakers=1)
    values = facts(splits={"train": train, "test": test}, metrics={"predict_emotion_uar": 0.5})
    assert ("4 clips of 2 known speakers, none of whom trains." in model_card(values, SerMtlConfig()).text) == claimed


def test_the_card_of_a_run_that_shares_speakers_says_so():
    train = facts().splits["train"]
    test = replace(train, clips=4, speakers=2, trained_speakers=2)
    values = facts(splits={"train": train, "test": test}, metrics={"predict_emotion_uar": 0.5})
    text = model_card(values, SerMtlConfig()).text
    assert "4 clips of 2 known speakers, 2 of whom also train: this does not measure unseen speakers." in text
    assert "none of whom trains" not in text


def test_a_sample_is_said_to_be_scored_by_the_model_whenever_it_was_added():
    sample = WidgetSample("widget/a.wav", "a", [{"label": "anger", "score": 1.0}])
    text = model_card(facts(widget=[sample]), SerMtlConfig()).text
    assert "were computed by this model." in text and "training ended" not in text


def test_metrics_of_a_set_that_the_run_did_not_have_are_left_out():
    split = facts().splits["train"]
    metrics = {"predict_emotion_uar": 0.5, "eval_emotion_uar": 0.25}
    card = model_card(facts(splits={"train": split, "validation": split}, metrics=metrics), SerMtlConfig())
    assert [result.metric_value for result in card.data.eval_results] == [0.25]
    assert "Results on the test set" not in card.text


def test_the_language_no_is_norwegian_and_not_false():
    card = ModelCard(model_card(facts(languages=["no"]), SerMtlConfig()).content)
    assert card.data.language == ["no"]


def test_every_class_gender_and_corpus_has_its_row():
    split = SplitFacts(9, 1.0, 3, {}, {"My Corpus": 4, "b": 5}, {"anger": 2, "joy": 7}, {"female": 3, "male": 6})
    config = SerMtlConfig(id2label={0: "anger", 1: "joy"})
    scores = {"f1_anger": 0.1, "f1_joy": 0.2, "uar_female": 0.3, "uar_male": 0.4, "uar_my_corpus": 0.5, "uar_b": 0.6}
    metrics = {f"predict_emotion_{name}": value for name, value in scores.items()} | {"predict_emotion_uar": 0.7}
    card = model_card(facts(splits={"test": split}, metrics=metrics), config)
    found = [row for table in tables(card.text) for row in table]
    for row in (
        ["anger", "0.100", "2"],
        ["joy", "0.200", "7"],
        ["female", "0.300", "3"],
        ["male", "0.400", "6"],
        [r"my\_corpus", "0.500", "4"],
        ["b", "0.600", "5"],
    ):
        assert row in found


def test_scores_of_a_sample_come_from_its_own_clip(run, clips):
    entries = ModelCard.load(run / "README.md").data.to_dict()["widget"]
    predictions = np.genfromtxt(run / "predictions.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    for entry, row in zip(entries, predictions, strict=False):
        assert row["audio"] == clips["audio"].iloc[16 + entries.index(entry)]
        scores = {output["label"]: output["score"] for output in entry["output"]}
        assert scores["anger"] == pytest.approx(row["p_anger"], abs=1e-4)


def test_the_calibration_stands_beside_the_results_where_it_was_measured():
    metrics = {"predict_emotion_uar": 0.5, "predict_emotion_ece": 0.05, "predict_emotion_ece_uncalibrated": 0.25}
    text = "0.050 at the model's temperature 1.500, 0.250 uncalibrated."
    card = model_card(facts(metrics=metrics), SerMtlConfig(emotion_temperature=1.5)).text
    assert card.count("Expected calibration error") == 1 and text in card
    assert "class frequencies" not in card
    corrected = model_card(facts(metrics=metrics), SerMtlConfig(emotion_temperature=1.5, emotion_prior_correction=0.25))
    assert f"{text} Correction of the class frequencies of training: 0.25." in corrected.text
    without = model_card(facts(metrics={"predict_emotion_uar": 0.5}), SerMtlConfig(emotion_temperature=1.5)).text
    assert "calibration" not in without
