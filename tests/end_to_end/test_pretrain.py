"""examples/pretrain.py: from unlabelled audio to a folder that training starts from."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModel

import run_ser_mtl
from modeling_ser_mtl.training.parser import parse_arguments

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
pretrain = runpy.run_path(str(EXAMPLES / "pretrain.py"))["main"]
BACKBONES = ["wav2vec2", "wav2vec2-bert"]


@pytest.fixture
def options(tiny_config, tmp_path) -> Callable[..., list[str]]:
    """A command line of pretrain.py with quick settings and `values` on top; one that is None is left out."""

    def make(model_type: str = "wav2vec2-bert", **values: object) -> list[str]:
        backbone = {"codevector_dim": 16, "proj_codevector_dim": 16, "num_codevectors_per_group": 8}
        settings = {
            "config_name": tiny_config(model_type, **(backbone if model_type == "wav2vec2" else {})),
            "output_dir": tmp_path / "pretrained",
            "num_train_epochs": 1,
            "per_device_train_batch_size": 8,
            "mask_time_length": 3,
            "codebook_size": 16,
            "validation_clips": 0.2,
            "use_cpu": True,
            "disable_tqdm": True,
        }
        argv = []
        for name, value in (settings | values).items():
            if value is not None:
                argv += [f"--{name}", *map(str, value if isinstance(value, list | tuple) else [value])]
        return argv

    return make


def facts_of(folder: Path) -> dict:
    return json.loads((folder / "pretraining.json").read_text())


@pytest.mark.parametrize("model_type", BACKBONES)
def test_training_starts_from_the_folder_bit_by_bit(model_type, options, command, manifest, tiny_config, tmp_path):
    pretrain(options(model_type, train_file=manifest("all.csv", range(6))))
    folder = tmp_path / "pretrained"
    data = {"train_file": manifest("a.csv", [0, 1]), "validation_file": manifest("v.csv", [2, 3])}
    frozen = {"learning_rate": 0, "do_train": True, "max_steps": 1}  # nothing moves the encoder
    run_ser_mtl.run(*parse_arguments(command(model_name_or_path=folder, **frozen, **data)))
    published, model = load_file(folder / "model.safetensors"), AutoModel.from_pretrained(tmp_path / "output")
    assert published.keys() == model.backbone.state_dict().keys()
    assert all(torch.equal(published[name], weight) for name, weight in model.backbone.state_dict().items())
    extractors = [AutoFeatureExtractor.from_pretrained(tmp_path / name) for name in ("pretrained", "output")]
    before, after = ({**extractor.to_dict(), "auto_map": None} for extractor in extractors)
    assert before == after


def test_the_recipes_small_encoder_takes_its_pretrained_weights(options, command, manifest, tmp_path) -> None:
    backbone = EXAMPLES / "backbones" / "small-logmel.json"
    pretrain(options(config_name=backbone, train_file=manifest("all.csv", range(6)), max_steps=1))
    data = {"train_file": manifest("a.csv", [0, 1]), "validation_file": manifest("v.csv", [2, 3])}
    data |= {"config_name": backbone, "model_name_or_path": tmp_path / "pretrained"}
    run_ser_mtl.run(*parse_arguments(command(**data, learning_rate=0, do_train=True, max_steps=1)))
    model = AutoModel.from_pretrained(tmp_path / "output")
    weights = load_file(tmp_path / "pretrained" / "model.safetensors")
    assert all(torch.equal(weights[name], weight) for name, weight in model.backbone.state_dict().items())
    assert model.config.fusion_hidden_size == 128
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "output")
    assert extractor.mean == AutoFeatureExtractor.from_pretrained(tmp_path / "pretrained").mean
    assert len(set(extractor.mean)) > 1


def test_the_loss_falls(options, manifest, tmp_path) -> None:
    train = manifest("all.csv", range(6))
    steps = {"num_train_epochs": 8, "learning_rate": 3e-3, "eval_strategy": "epoch", "logging_steps": 3}
    pretrain(options(train_file=train, **steps))
    states = sorted((tmp_path / "pretrained").glob("checkpoint-*/trainer_state.json"))
    history = json.loads(states[-1].read_text())["log_history"]
    losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    assert len(losses) == 8 and losses[-1] < 0.95 * losses[0]
    metrics = facts_of(tmp_path / "pretrained")["metrics"]
    assert metrics["eval_loss"] == pytest.approx(losses[-1]) and 0 < metrics["eval_guess_accuracy"] < 1


def test_audio_of_the_folds_test_speakers_is_never_decoded(options, manifest, clips, tmp_path, capsys) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no audio")
    audio = [
        str(broken) if speaker in ("s2", "s3") else path for path, speaker in clips[["audio", "speaker_id"]].values
    ]
    folds = {"train_file": manifest("folds.csv", range(6), audio=audio), "num_folds": 3, "max_steps": 1}
    pretrain(options(**folds, fold=1))
    facts = facts_of(tmp_path / "pretrained")
    corpus = tmp_path.name
    assert facts["speakers_left_out"] == [f"{corpus}/s2", f"{corpus}/s3"] and facts["skipped"] == 0
    assert facts["clips_by_corpus"] == {corpus: 16}
    capsys.readouterr()
    # The check that this test can fail: another fold does read them.
    pretrain(options(**folds, fold=0, output_dir=tmp_path / "other"))
    assert facts_of(tmp_path / "other")["skipped"] == 8


def test_the_statistics_of_the_features_do_not_know_the_test_speakers(options, manifest, tmp_path) -> None:
    pretrain(options(train_file=manifest("all.csv", range(6)), num_folds=3, fold=2, max_steps=1))
    rest = manifest("rest.csv", range(4))
    pretrain(options(train_file=rest, output_dir=tmp_path / "rest", max_steps=1))
    means = [AutoFeatureExtractor.from_pretrained(tmp_path / name).mean for name in ("pretrained", "rest")]
    assert means[0] == means[1]


def test_clips_marked_as_test_are_left_out(options, manifest, tmp_path) -> None:
    split = ["test"] * 4 + [""] * 20
    pretrain(options(train_file=manifest("all.csv", range(6), split=split), max_steps=1))
    assert facts_of(tmp_path / "pretrained")["speakers_left_out"] == [f"{tmp_path.name}/s0"]


def test_the_speakers_left_out_are_those_that_training_tests(options, command, manifest, tmp_path) -> None:
    folds = {"train_file": manifest("all.csv", range(6)), "num_folds": 3, "fold": 1}
    pretrain(options(**folds, max_steps=1))
    flags = {"do_train": True, "do_predict": True, "max_steps": 1, "model_name_or_path": tmp_path / "pretrained"}
    run_ser_mtl.run(*parse_arguments(command(**folds, **flags)))
    tested = pd.read_csv(tmp_path / "output" / "predictions.csv")["true_speaker_id"].unique()
    left_out = facts_of(tmp_path / "pretrained")["speakers_left_out"]
    assert left_out == [f"{tmp_path.name}/{name}" for name in sorted(tested)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fold": 1}, "give --fold together with --num_folds"),
        ({"num_folds": 3}, "give --fold together with --num_folds"),
        ({"dataloader_num_workers": 1}, "--dataloader_num_workers: all clips are in memory"),
    ],
)
def test_settings_that_would_mislead_are_one_line(options, manifest, settings, message, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        pretrain(options(train_file=manifest("all.csv", range(6)), **settings))
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_copy_of_a_test_speakers_clip_in_a_folder_is_one_line(options, manifest, clips, tmp_path, capsys) -> None:
    folder = tmp_path / "found"
    folder.mkdir()
    (folder / "copy.wav").write_bytes(Path(clips["audio"][0]).read_bytes())
    folds = {"train_file": manifest("all.csv", range(6)), "num_folds": 3, "fold": 0}
    with pytest.raises(SystemExit, match="2"):
        pretrain(options(**folds, audio_folders=folder))
    error = capsys.readouterr().err.splitlines()[-1]
    assert "1 copied audio file(s)" in error and "what trains must not be evaluated" in error


def test_folders_of_audio_need_no_manifest(options, make_wav, tmp_path) -> None:
    for number in range(6):
        make_wav(tmp_path / "wild" / f"part{number % 2}" / f"{number}.wav", frequency=100 + 50 * number)
    pretrain(options(audio_folders=tmp_path / "wild", max_steps=1))
    assert facts_of(tmp_path / "pretrained")["clips_by_corpus"] == {"wild": 6}


@pytest.mark.parametrize("model_type", BACKBONES)
def test_a_resumed_pretraining_ends_like_one_without_a_break(model_type, options, manifest, tmp_path) -> None:
    settings = {"train_file": manifest("all.csv", range(6)), "num_train_epochs": 3, "save_total_limit": 5}
    pretrain(options(model_type, **settings))
    whole = load_file(tmp_path / "pretrained" / "model.safetensors")
    first = min((tmp_path / "pretrained").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    again = {"output_dir": tmp_path / "again", "resume_from_checkpoint": first}
    pretrain(options(model_type, **settings, **again))
    resumed = load_file(tmp_path / "again" / "model.safetensors")
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no clips; give --train_file"),
        ({"audio_folders": "EMPTY"}, "no audio found"),
        ({"num_folds": 2, "fold": 0}, "no training clips"),
        ({"config_name": "nowhere.json"}, "no such file"),
        ({"config_name": "HUBERT"}, "found an encoder of the type 'hubert'"),
        ({"config_name": "NO_MASK"}, "SpecAugment is off"),
    ],
)
def test_a_mistake_is_one_line(values, message, options, tiny_config, tmp_path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "hubert.json").write_text('{"model_type": "hubert"}')
    places = {
        "EMPTY": tmp_path / "empty",
        "HUBERT": tmp_path / "hubert.json",
        "NO_MASK": tiny_config("wav2vec2-bert", apply_spec_augment=False),
    }
    with pytest.raises(SystemExit, match="2"):
        pretrain(options(**{name: places.get(str(value), value) for name, value in values.items()}))
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
