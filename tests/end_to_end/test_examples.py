"""What lies in examples/ and stands in the README runs as written."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import run_ser_mtl
from modeling_ser_mtl.training.cross_validation import count_folds
from modeling_ser_mtl.training.parser import parse_arguments

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shortened(corpus: Path, path: Path, clips_per_speaker: int) -> Path:
    """A manifest of each speaker's clips, evenly spread, with absolute paths."""
    table = pd.read_csv(corpus / "manifest.csv", dtype=str, keep_default_na=False)
    table = pd.concat(
        group.iloc[np.linspace(0, len(group) - 1, clips_per_speaker).astype(int)]
        for _, group in table.groupby("speaker_id")
    )
    table["audio"] = [str(corpus / audio) for audio in table["audio"]]
    path.parent.mkdir(parents=True)
    table.to_csv(path, index=False)
    return path


@pytest.fixture
def run_recipe(monkeypatch, tmp_path):
    """Runs a recipe for two steps on a shortened manifest and returns its metrics."""

    def run(recipe: str, manifest: Path, *options: str) -> dict[str, float]:
        monkeypatch.chdir(ROOT)
        argv = [f"examples/recipes/{recipe}", "--train_file", str(manifest), "--output_dir", str(tmp_path / "output")]
        argv += ["--max_steps", "2", "--eval_steps", "2", "--save_steps", "2", "--disable_tqdm", "True"]
        return run_ser_mtl.run(*parse_arguments([*argv, *options]))

    return run


def test_the_ravdess_recipe_trains_and_tests_a_fold_on_real_speech(corpora, run_recipe, tmp_path) -> None:
    manifest = shortened(corpora / "ravdess", tmp_path / "ravdess" / "manifest.csv", 4)
    metrics = run_recipe("ravdess.yaml", manifest, "--fold", "5")
    predictions = pd.read_csv(tmp_path / "output" / "predictions.csv", dtype=str)
    assert set(predictions["true_speaker_id"]) == {"21", "22", "23", "24"}
    assert {"predict_emotion_uar", "predict_gender_uar", "predict_speaker_eer", "predict_asr_wer"} <= set(metrics)


def test_the_emodb_recipe_leaves_one_speaker_out_and_keeps_four_emotions(corpora, run_recipe, tmp_path) -> None:
    manifest = shortened(corpora / "emodb", tmp_path / "emodb" / "manifest.csv", 6)
    metrics = run_recipe("emodb.yaml", manifest, "--fold", "2")
    predictions = pd.read_csv(tmp_path / "output" / "predictions.csv", dtype=str)
    assert predictions["true_speaker_id"].nunique() == 1
    assert [name for name in predictions if name.startswith("p_")] == [
        "p_anger",
        "p_happiness",
        "p_neutral",
        "p_sadness",
    ]
    assert "predict_emotion_uar" in metrics


def test_the_tiny_wav2vec2_backbone_trains_from_waveforms(corpora, run_recipe, tmp_path) -> None:
    manifest = shortened(corpora / "ravdess", tmp_path / "ravdess" / "manifest.csv", 2)
    metrics = run_recipe("ravdess.yaml", manifest, "--config_name", "examples/backbones/tiny-wav2vec2.json")
    config = json.loads((tmp_path / "output" / "config.json").read_text())
    assert config["backbone_config"]["model_type"] == "wav2vec2"
    assert "predict_emotion_uar" in metrics


def test_the_nemo_recipe_leaves_one_speaker_out(corpora, run_recipe, tmp_path) -> None:
    manifest = shortened(corpora / "nemo", tmp_path / "nemo" / "manifest.csv", 6)
    metrics = run_recipe("nemo.yaml", manifest, "--fold", "3")
    predictions = pd.read_csv(tmp_path / "output" / "predictions.csv", dtype=str)
    assert predictions["true_speaker_id"].nunique() == 1
    assert "predict_emotion_uar" in metrics


def test_the_librispeech_recipe_tests_two_unseen_speakers_without_emotions(corpora, run_recipe, tmp_path) -> None:
    manifest = shortened(corpora / "librispeech", tmp_path / "librispeech" / "manifest.csv", 3)
    metrics = run_recipe("librispeech.yaml", manifest, "--fold", "1")
    assert pd.read_csv(tmp_path / "output" / "predictions.csv", dtype=str)["true_speaker_id"].nunique() == 2
    assert {"predict_gender_uar", "predict_speaker_eer", "predict_asr_wer", "predict_asr_cer"} <= set(metrics)
    assert "predict_emotion_uar" not in metrics


def test_the_nemo_text_recipe_tests_the_clips_that_the_manifest_names(corpora, run_recipe, tmp_path) -> None:
    manifest = shortened(corpora / "nemo", tmp_path / "nemo" / "manifest.csv", 6)
    table = pd.read_csv(manifest, dtype=str, keep_default_na=False)
    tested = table["speaker_id"].isin(sorted(set(table["speaker_id"]))[:2])
    table.assign(split=np.where(tested, "test", "train")).to_csv(manifest, index=False)
    metrics = run_recipe("nemo_text.yaml", manifest)
    assert len(pd.read_csv(tmp_path / "output" / "predictions.csv", dtype=str)) == tested.sum()
    assert {"predict_asr_wer", "predict_asr_cer", "predict_emotion_uar"} <= set(metrics)


def test_the_auxiliary_recipe_gives_an_encoder_to_the_ravdess_recipe(corpora, run_recipe, tmp_path) -> None:
    nemo = shortened(corpora / "nemo", tmp_path / "nemo" / "manifest.csv", 6)
    run_recipe("auxiliary.yaml", nemo, "--output_dir", str(tmp_path / "auxiliary"))
    ravdess = shortened(corpora / "ravdess", tmp_path / "ravdess" / "manifest.csv", 2)
    metrics = run_recipe("ravdess.yaml", ravdess, "--fold", "5", "--model_name_or_path", str(tmp_path / "auxiliary"))
    assert "predict_emotion_uar" in metrics


def test_every_command_of_the_readme_has_options_that_exist() -> None:
    commands = re.findall(
        r"run_ser_mtl\.py ((?:\\\n|[^\n])*)", "\n".join(re.findall(r"```bash\n(.*?)```", README, re.S))
    )
    assert len(commands) >= 3
    for command in commands:
        arguments = shlex.split(command.replace("\\\n", " "))
        if arguments[0].endswith(".yaml"):
            arguments[0] = str(ROOT / arguments[0])
        parse_arguments(arguments)


def test_the_three_protocols_of_the_readme_have_their_folds(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    commands = re.findall(r"ser-mtl cross-validate ([^\n]*)", "\n".join(re.findall(r"```bash\n(.*?)```", README, re.S)))
    own = ("--output_dir", "--processes", "--folds")
    settings = [shlex.split(command) for command in commands]
    settings = [line[: min(line.index(name) for name in own if name in line)] for line in settings]
    assert [count_folds(line) for line in settings] == [6, 10, 6]


@pytest.mark.slow
def test_the_quickstart_reaches_its_figures_and_its_model_predicts_as_the_readme_says(tmp_path, monkeypatch) -> None:
    pytest.importorskip("espeakng_loader")
    output = tmp_path / "outputs" / "quickstart"
    argv = ["run_ser_mtl.py", "examples/quickstart.yaml", "--output_dir", str(output)]
    subprocess.run([sys.executable, *argv], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = json.loads((output / "all_results.json").read_text())
    assert metrics["predict_emotion_macro_f1"] >= 0.70
    assert metrics["predict_gender_uar"] >= 0.95
    assert metrics["predict_asr_wer"] < 0.6
    assert metrics["predict_speaker_eer"] < 0.35

    monkeypatch.chdir(tmp_path)
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "AutoModel" in block)
    code = code.replace("your-name/your-model", "outputs/quickstart")
    soundfile.write("clip.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    names: dict[str, object] = {}
    with torch.no_grad():
        exec(code, names)  # the README's own text
    assert names["outputs"].logits.shape == (1, 4)
    assert names["outputs"].speaker_embeddings.shape == (1, 192)
