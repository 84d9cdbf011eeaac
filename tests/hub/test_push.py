"""A push is one commit with all that a user of the model needs, and nothing that should stay at home."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import CommitOperationAdd
from safetensors.torch import load_file, save_file
from transformers import AutoModel, Wav2Vec2FeatureExtractor

import run_ser_mtl
from modeling_ser_mtl import SerMtlModel, SerMtlProcessor, cli
from modeling_ser_mtl.data.audio import load_audio
from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.hub.push import publish
from modeling_ser_mtl.hub.run_facts import RunFacts
from modeling_ser_mtl.hub.widget import write_widget
from modeling_ser_mtl.training.arguments import SerMtlTrainingArguments
from modeling_ser_mtl.training.trainer import SerMtlTrainer

from .hub_double import FOREVER, INITIAL_FILES, HubDouble

REPO = "tester/model"
# Loads everything by the name of the repository, in a process that can't import the package.
SCRIPT = """
import sys

import json
import logging
import soundfile
import torch
from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification, AutoProcessor, pipeline

torch.set_num_threads(1)
repo, clip, revision = sys.argv[1:]
trusted = {"trust_remote_code": True, "revision": revision, "code_revision": revision}
warnings = []

class Keep(logging.Handler):
    def emit(self, record):
        warnings.append(record.getMessage())

logging.getLogger("transformers").addHandler(Keep())
processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True, revision=revision)
waveform, _ = soundfile.read(clip, dtype="float32")
inputs = processor(waveform, sampling_rate=16_000)
found = {"labels": list(AutoConfig.from_pretrained(repo, **trusted).id2label.values())}
for auto_class in (AutoModel, AutoModelForAudioClassification):
    with torch.no_grad():
        outputs = auto_class.from_pretrained(repo, **trusted).eval()(**inputs)
    found[auto_class.__name__] = {name: outputs[name][0].tolist() for name in ("logits", "speaker_embeddings")}
for task in ("audio-classification", "speech-emotion-mtl"):
    found[task] = pipeline(task, model=repo, revision=revision, code_revision=revision, trust_remote_code=True)(clip)
found["warnings"] = [line for line in warnings if "weights" in line or "initialized" in line or "speaker" in line]
found["modules"] = [name for name in sys.modules if name.startswith(("modeling_ser_mtl", "run_ser_mtl"))]
print(json.dumps(found))
"""


def load_elsewhere(command: list[str], hub: HubDouble, home: Path, clip: str, **environment: str) -> dict:
    """What a process without the package finds under the name of the repository, at the tag v1."""
    process = subprocess.run(
        [*command, REPO, clip, "v1"],
        cwd=home,
        env=hub.environment(home) | environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def test_a_push_is_one_commit_of_weights_code_processor_card_handler_and_results(hub, run_folder) -> None:
    commit = publish(run_folder, REPO, api=hub.api)
    files = hub.files(REPO)
    assert [entry.oid for entry in hub.commits(REPO)][1:] == [commit.oid]
    modules = ("audio", "configuration", "losses", "modeling", "padding", "pipeline", "spectrogram")
    code = {f"{name}_ser_mtl.py" for name in modules}
    processor = {"processor_config.json", "tokenizer_config.json", "vocab.json", "processing_ser_mtl.py"}
    results = {"run_facts.json", "all_results.json"}
    model = {"model.safetensors", "config.json", "README.md", "handler.py", "requirements.txt"}
    assert files.keys() == code | processor | results | model | INITIAL_FILES.keys()
    config = json.loads(files["config.json"])
    assert config["auto_map"].keys() == {"AutoConfig", "AutoModel", "AutoModelForAudioClassification", "AutoProcessor"}
    assert config["custom_pipelines"].keys() == {"audio-classification", "speech-emotion-mtl"}
    assert f'"{REPO}"' in files["README.md"].decode()
    metrics = json.loads(files["all_results.json"])
    trained = json.loads((run_folder / "all_results.json").read_text())
    assert metrics["eval_emotion_uar"] == trained["eval_emotion_uar"] and metrics["train_loss"] == trained["train_loss"]


def test_a_process_without_the_package_predicts_the_same_online_and_from_its_cache(
    hub, run_folder, clips, without_package, tmp_path
) -> None:
    publish(run_folder, REPO, api=hub.api, tag="v1")
    clip = clips["audio"][0]
    found = load_elsewhere(without_package(SCRIPT), hub, tmp_path, clip)
    assert found["modules"] == [] and found["warnings"] == []

    model = SerMtlModel.from_pretrained(run_folder).eval()
    processor = SerMtlProcessor.from_pretrained(run_folder)
    with torch.no_grad():
        expected = model(**processor(load_audio(clip), sampling_rate=16_000))
    for auto_class in ("AutoModel", "AutoModelForAudioClassification"):
        assert found[auto_class]["logits"] == expected.logits[0].tolist()
        assert found[auto_class]["speaker_embeddings"] == expected.speaker_embeddings[0].tolist()
    probabilities = (expected.logits[0] / model.config.emotion_temperature).softmax(-1).tolist()
    scores = dict(zip(model.config.emotion_labels, probabilities, strict=True))
    for emotions in (found["audio-classification"], found["speech-emotion-mtl"]["emotion"]):
        assert {entry["label"]: entry["score"] for entry in emotions} == pytest.approx(scores, abs=1e-5)

    requests = len(hub.requests)
    assert load_elsewhere(without_package(SCRIPT), hub, tmp_path, clip, HF_HUB_OFFLINE="1") == found
    assert len(hub.requests) == requests


@pytest.mark.parametrize(
    "stage",
    ["create", "validate", "preupload", "lfs_batch", "lfs_upload", "lfs_verify", "commit_before", "commit_after"],
)
def test_a_push_that_breaks_off_leaves_the_old_commit_or_the_new_one_and_can_be_repeated(
    hub, run_folder, tmp_path, stage
) -> None:
    publish(run_folder, REPO, api=hub.api)
    old = hub.files(REPO)
    again = shutil.copytree(run_folder, tmp_path / "again")
    model = SerMtlModel.from_pretrained(again)
    torch.nn.init.ones_(model.emotion_classifier.weight)
    model.save_pretrained(again)
    publish(again, "tester/whole", api=hub.api)
    new = {path: text.replace(b"tester/whole", REPO.encode()) for path, text in hub.files("tester/whole").items()}
    new["README.md"] = new["README.md"].replace(b"# whole", b"# model").replace(b"name: whole", b"name: model")
    assert new["model.safetensors"] != old["model.safetensors"]

    hub.drop_connection_at(stage, FOREVER)
    with pytest.raises(InputError, match=f"{REPO}: not published .*repeated"):
        publish(again, REPO, api=hub.api)
    hub.keep_connections()
    assert hub.files(REPO) == (new if stage == "commit_after" else old)
    publish(again, REPO, api=hub.api)
    assert hub.files(REPO) == new


def test_the_class_vectors_of_training_speakers_stay_at_home_unless_asked_for(hub, run_folder, tmp_path) -> None:
    for keep in (False, True):
        publish(run_folder, REPO, drop_speaker_prototypes=not keep, api=hub.api)
        (tmp_path / "weights").write_bytes(hub.files(REPO)["model.safetensors"])
        weights, source = load_file(tmp_path / "weights"), load_file(run_folder / "model.safetensors")
        assert ("speaker_prototypes" in weights) is keep and "speaker_prototypes" in source
        assert all(torch.equal(value, source[name]) for name, value in weights.items())
        assert weights.keys() | {"speaker_prototypes"} == source.keys()
        assert (json.loads(hub.files(REPO)["config.json"])["num_speakers"] > 0) is keep


def test_a_second_push_takes_away_what_the_first_one_had_and_leaves_the_users_own_files(
    hub, run_folder, clips, tmp_path
) -> None:
    publish(run_folder, REPO, api=hub.api, widget_samples=[clips["audio"][0]])
    assert "widget/00.wav" in hub.files(REPO)
    own = {
        "notes.md": b"1",
        "experiments/old.safetensors": b"2",
        "experiments/x_ser_mtl.py": b"3",
        "widget/my.png": b"4",
    }
    stale = {"model-00001-of-00002.safetensors": b"5", "predict_results.json": b"{}"}
    add = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=text) for name, text in (own | stale).items()]
    hub.api.create_commit(REPO, add, commit_message="mine")
    publish(run_folder, REPO, api=hub.api)
    files = hub.files(REPO)
    assert {name: files.get(name) for name in own} == own
    assert files.keys().isdisjoint({*stale, "widget/00.wav"})


def test_only_the_samples_of_the_facts_are_published(hub, run_folder, clips, tmp_path) -> None:
    folder = shutil.copytree(run_folder, tmp_path / "run")
    (folder / "widget").mkdir()
    shutil.copy(clips["audio"][1], folder / "widget" / "private.wav")
    publish(folder, REPO, api=hub.api)
    assert not [name for name in hub.files(REPO) if name.startswith("widget/")]


def test_no_private_path_is_published_of_a_run_from_a_local_encoder(hub, clips, plain_config, tmp_path) -> None:
    home = tmp_path / "jane.doe"
    home.mkdir()
    clips.to_csv(home / "all.csv", index=False)
    config = plain_config("wav2vec2-layer")
    AutoModel.from_config(config.backbone_config).save_pretrained(home / "encoder")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(home / "encoder")
    argv = ["--model_name_or_path", home / "encoder", "--train_file", home / "all.csv", "--output_dir", home / "out"]
    argv += ["--do_train", "--num_train_epochs", "1", "--use_cpu", "--disable_tqdm", "True"]
    run_ser_mtl.main([str(word) for word in argv])
    publish(home / "out", REPO, api=hub.api)
    for name, content in hub.files(REPO).items():
        assert b"jane.doe" not in content and str(tmp_path).encode() not in content, name


def test_a_push_to_a_branch_leaves_the_main_one(hub, run_folder) -> None:
    publish(run_folder, REPO, api=hub.api)
    before = hub.files(REPO)
    for _ in range(2):
        publish(run_folder, REPO, revision="trial", drop_speaker_prototypes=False, api=hub.api)
    assert hub.files(REPO) == before and hub.files(REPO, "trial")["model.safetensors"] != before["model.safetensors"]


def test_a_tag_that_names_another_commit_is_told_after_the_commit_and_the_same_command_may_be_repeated(
    hub, run_folder
) -> None:
    for _ in range(2):
        publish(run_folder, REPO, tag="v1", api=hub.api)
    with pytest.raises(InputError, match=f"{REPO}: published as commit .* without the tag v1 .*choose"):
        publish(run_folder, REPO, tag="v1", license="mit", api=hub.api)
    assert b"license: mit" in hub.files(REPO)["README.md"] and b"license: mit" not in hub.files(REPO, "v1")["README.md"]


def damaged(folder: Path, kind: str) -> None:
    weights = folder / "model.safetensors"
    if kind == "head":
        save_file({name: value for name, value in load_file(weights).items() if "classifier" not in name}, weights)
    elif kind == "weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif kind == "vocabulary":
        (folder / "vocab.json").unlink()
    elif kind == "other":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config["backbone_config"]))
    else:
        (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("head", "no weights for emotion_classifier"),
        ("weights", "SafetensorError"),
        ("vocabulary", "TypeError"),
        ("other", "wav2vec2 model"),
        ("nothing", "config.json"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line_before_the_hub_is_asked(hub, run_folder, tmp_path, kind, says) -> None:
    folder = shutil.copytree(run_folder, tmp_path / "run")
    damaged(folder, kind)
    with pytest.raises(InputError, match=f"{folder}: holds no whole model of this project .*{says}") as caught:
        publish(folder, REPO, api=hub.api)
    assert "\n" not in str(caught.value) and hub.requests == []


def test_the_method_of_the_trainer_takes_what_the_card_needs(hub, logged_in, run_folder, tmp_path) -> None:
    folder = shutil.copytree(run_folder, tmp_path / "run")
    args = SerMtlTrainingArguments(output_dir=str(folder), use_cpu=True, hub_model_id=REPO)
    trainer = SerMtlTrainer(SerMtlModel.from_pretrained(folder), args, SerMtlProcessor.from_pretrained(folder))
    with pytest.raises(TypeError, match="finetuned_from"):
        trainer.push_to_hub(finetuned_from="x")
    trainer.push_to_hub("mine", license="mit", language=["de"], tag="v2")
    assert hub.commits(REPO)[-1].title == "mine"
    assert b"license: mit" in hub.files(REPO, "v2")["README.md"]


def test_a_commit_by_someone_else_in_between_is_not_overwritten(hub, run_folder) -> None:
    class SlowClient(huggingface_hub.HfApi):
        def model_info(self, *args, **kwargs) -> huggingface_hub.ModelInfo:
            info = super().model_info(*args, **kwargs)
            notes = CommitOperationAdd(path_in_repo="notes.md", path_or_fileobj=b"theirs")
            hub.api.create_commit(REPO, [notes], commit_message="theirs")
            return info

    publish(run_folder, REPO, api=hub.api)
    client = SlowClient(endpoint=hub.endpoint, token=hub.token)
    with pytest.raises(InputError, match=f"{REPO}: not published .*412"):
        publish(run_folder, REPO, drop_speaker_prototypes=False, api=client)
    assert hub.files(REPO)["notes.md"] == b"theirs"


def test_a_model_that_no_run_wrote_is_pushed_with_a_card_of_what_is_known(hub, run_folder, tmp_path) -> None:
    SerMtlModel.from_pretrained(run_folder).save_pretrained(tmp_path / "bare")
    SerMtlProcessor.from_pretrained(run_folder).save_pretrained(tmp_path / "bare")
    publish(tmp_path / "bare", REPO, api=hub.api)
    card = hub.files(REPO)["README.md"].decode()
    assert "## Use" in card and "## Limits and risks" in card
    assert "## Training" not in card and "## Environment" not in card and "started from" not in card


def test_a_checkpoint_is_pushed_with_how_its_run_trained_and_without_the_results_of_the_run(hub, run_folder) -> None:
    (checkpoint,) = run_folder.glob("checkpoint-*")
    publish(checkpoint, REPO, api=hub.api)
    files = hub.files(REPO)
    card = files["README.md"].decode()
    assert "## Training" in card and f"| `checkpoint` | {checkpoint.name} |" in card and "## How to reproduce" in card
    assert "## Results" not in card and "model-index" not in card and "all_results.json" not in files
    publish(run_folder, REPO, api=hub.api)
    assert b"## Results" in hub.files(REPO)["README.md"]


def test_a_sample_that_is_given_again_counts_once_also_under_another_name(hub, run_folder, clips, tmp_path) -> None:
    folder = shutil.copytree(run_folder, tmp_path / "run")
    facts = replace(RunFacts.load(folder), widget=write_widget(folder, {str(i): clips["audio"][i] for i in range(8)}))
    facts.save(folder)
    renamed = shutil.copy(clips["audio"][3], tmp_path / "renamed.wav")
    publish(folder, REPO, widget_samples=[clips["audio"][0], renamed], api=hub.api)
    files = hub.files(REPO)
    expected = [f"widget/{name}.wav" for name in ("01", "02", "04", "05", "06", "07", "00", "renamed")]
    assert [sample["src"] for sample in json.loads(files["run_facts.json"])["widget"]] == expected
    assert sorted(name for name in files if name.startswith("widget/")) == sorted(expected)
    with pytest.raises(InputError, match="found 1 files beside 8 others that the model has; give 0 or fewer"):
        publish(folder, REPO, widget_samples=[clips["audio"][8]], api=hub.api)


def test_a_run_pushes_itself_at_its_end_in_one_commit(hub, clips, tiny_config, tmp_path) -> None:
    clips.to_csv(tmp_path / "all.csv", index=False)
    argv = ["--config_name", str(tiny_config()), "--train_file", "all.csv", "--output_dir", "out", "--do_train"]
    argv += ["--num_train_epochs", "2", "--use_cpu", "--push_to_hub", "--hub_model_id", REPO, "--license", "cc0-1.0"]
    code = "import sys, run_ser_mtl; run_ser_mtl.main(sys.argv[1:])"
    process = subprocess.run(
        [sys.executable, "-c", code, *argv],
        cwd=tmp_path,
        env=hub.environment(tmp_path / "home") | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert len(hub.commits(REPO)) == 2
    files = hub.files(REPO)
    assert {"handler.py", "model.safetensors", "pipeline_ser_mtl.py"} <= files.keys()
    assert b"license: cc0-1.0" in files["README.md"] and json.loads(files["config.json"])["num_speakers"] == 0


def test_the_command_pushes_a_folder_and_fails_in_one_line(hub, logged_in, run_folder, clips, capsys, tmp_path) -> None:
    argv = ["--tag", "v1.0", "--license", "cc-by-4.0", "--language", "en", "--widget_samples", clips["audio"][0]]
    cli.main(["push", str(run_folder), REPO, *argv])
    card = huggingface_hub.ModelCard(hub.files(REPO)["README.md"].decode())
    assert card.data.license == "cc-by-4.0" and card.data.language == ["en"]
    assert [sample["src"] for sample in card.data.widget] == ["widget/00.wav"]
    assert hub.files(REPO)["widget/00.wav"] == Path(clips["audio"][0]).read_bytes()
    assert hub.files(REPO, "v1.0") == hub.files(REPO)
    assert f"{hub.endpoint}/{REPO}" in capsys.readouterr().out
    for folder, repo, says in (
        (tmp_path, REPO, "config.json"),
        (run_folder, "not/a/name", "not/a/name"),
        (run_folder, "someone/model", "hf auth login"),
    ):
        with pytest.raises(SystemExit) as exit_info:
            cli.main(["push", str(folder), repo])
        lines = capsys.readouterr().err.splitlines()
        assert exit_info.value.code == 2 and lines[-1].startswith("error: ") and says in lines[-1]
