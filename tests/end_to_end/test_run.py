"""One run writes what the contract names, and says the same whichever way it is told."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from datasets import Audio, ClassLabel, Dataset
from sklearn.metrics import log_loss
from transformers import AutoModelForAudioClassification

import run_ser_mtl
from modeling_ser_mtl import SerMtlModel, SerMtlProcessor
from modeling_ser_mtl.data.audio import load_audio
from modeling_ser_mtl.training.parser import parse_arguments

TASK_METRICS = {
    "emotion_macro_f1",
    "emotion_uar",
    "emotion_accuracy",
    "emotion_f1_anger",
    "emotion_f1_sadness",
    "emotion_uar_female",
    "emotion_uar_male",
    "emotion_ece",
    "emotion_ece_uncalibrated",
    "emotion_nll",
    "gender_uar",
    "gender_accuracy",
    "speaker_eer",
    "speaker_min_dcf",
    "asr_wer",
    "asr_cer",
    "emotion_similarity_within",
    "emotion_similarity_between",
    "loss",
    "loss_emotion",
    "loss_gender",
    "loss_asr",
    "loss_swfc",
}
SPEED_METRICS = {"runtime", "samples_per_second", "steps_per_second", "model_preparation_time"}


def names(metrics: dict[str, float], prefix: str) -> set[str]:
    """Names of the metrics with a prefix, without it and without those of speed."""
    return {name.removeprefix(prefix) for name in metrics if name.startswith(prefix)} - SPEED_METRICS


PARTS = {"train": [0, 1], "validation": [2, 3]}


@pytest.fixture
def train(command, manifest) -> dict[str, object]:
    """Options of a run that trains on speakers 0 and 1, validates on 2 and 3 and tests on 4 and 5."""
    return {
        "train_file": manifest("train.csv", [0, 1]),
        "validation_file": manifest("validation.csv", [2, 3]),
        "test_file": manifest("test.csv", [4, 5]),
        "do_train": True,
        "do_eval": True,
        "do_predict": True,
    }


def test_a_run_writes_everything_of_the_contract(command, train, tmp_path) -> None:
    metrics = run_ser_mtl.run(*parse_arguments(command(**train, num_train_epochs=2, report_to="tensorboard")))
    output = tmp_path / "output"

    model_files = {"config.json", "model.safetensors", "processor_config.json", "tokenizer_config.json", "vocab.json"}
    code = {f"{name}_ser_mtl.py" for name in ("configuration", "modeling", "processing", "losses")}
    results = {f"{name}_results.json" for name in ("train", "eval", "predict", "all")}
    written = {path.name for path in output.iterdir()}
    assert written >= model_files | code | results | {"README.md", "predictions.csv", "skipped.csv"}
    assert list(output.parent.rglob("events.out.tfevents.*"))

    assert names(metrics, "eval_") == names(metrics, "predict_") == TASK_METRICS
    stored = json.loads((output / "all_results.json").read_text())
    assert stored == pytest.approx(metrics)
    assert all(np.isfinite(value) for value in stored.values())
    assert stored.items() >= json.loads((output / "predict_results.json").read_text()).items()
    assert f"{metrics['predict_emotion_macro_f1']:.3f}" in (output / "README.md").read_text()


def test_predictions_hold_one_row_per_clip_with_probabilities_and_the_manifests_columns(
    command, train, clips, tmp_path
) -> None:
    run_ser_mtl.main(command(**train))
    table = pd.read_csv(tmp_path / "output" / "predictions.csv", dtype=str, keep_default_na=False)
    own = ["audio", "emotion", "emotion_score", "p_anger", "p_sadness", "gender", "text"]
    assert list(table.columns[: len(own)]) == own
    assert set(table.columns[len(own) :]) == {
        *(f"true_{name}" for name in ("emotion", "gender", "speaker_id", "text", "corpus", "length"))
    }
    expected = clips[clips["speaker_id"].isin(["s4", "s5"])]
    for column in ("audio", "emotion", "speaker_id", "text"):
        name = column if column == "audio" else f"true_{column}"
        assert table[name].tolist() == expected[column].tolist()
    probabilities = table[["p_anger", "p_sadness"]].astype(float)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=2e-6)
    assert (probabilities.idxmax(axis=1).str.removeprefix("p_") == table["emotion"]).all()


@pytest.fixture
def train_on_anger(train, manifest) -> dict[str, object]:
    """Three in four training and validation clips are angry, so that the model expects anger, more or less surely."""
    emotion = ["anger", "anger", "anger", "sadness"] * 2
    files = {f"{name}_file": manifest(f"{name}.csv", part, emotion=emotion) for name, part in PARTS.items()}
    return train | files | {"num_train_epochs": 10, "learning_rate": 1e-2, "per_device_train_batch_size": 2}


def test_the_predictions_are_the_softmax_of_the_logits_at_the_temperature_of_the_validation_set(
    command, train_on_anger, tmp_path
) -> None:
    metrics = run_ser_mtl.run(*parse_arguments(command(**train_on_anger)))
    output = tmp_path / "output"
    model, processor = SerMtlModel.from_pretrained(output), SerMtlProcessor.from_pretrained(output)
    temperature = model.config.emotion_temperature
    assert temperature != 1 and model.config.emotion_prior_correction == 0
    table = pd.read_csv(output / "predictions.csv")
    for audio, *probabilities in table[["audio", "p_anger", "p_sadness"]].itertuples(index=False):
        logits = model(**processor(load_audio(audio), sampling_rate=16_000)).logits[0]
        assert probabilities == pytest.approx((logits / temperature).softmax(-1).tolist(), abs=2e-5)
    probabilities, labels = table[["p_anger", "p_sadness"]].to_numpy(), (table["true_emotion"] == "sadness").to_numpy()
    assert metrics["predict_emotion_nll"] == pytest.approx(log_loss(labels, probabilities, labels=[0, 1]), abs=1e-5)
    assert f"at the model's temperature {temperature:.3f}" in (output / "README.md").read_text()


def test_no_test_clip_has_a_part_in_the_calibration(command, train_on_anger, manifest, tmp_path) -> None:
    configs = []
    for name, emotion in (("a", "anger"), ("b", "sadness")):
        test = {"test_file": manifest("test.csv", [4, 5], emotion=emotion)}
        run_ser_mtl.main(command(**train_on_anger | test, prior_correction="auto", output_dir=tmp_path / name))
        configs.append(json.loads((tmp_path / name / "config.json").read_text()))
    for field in ("emotion_temperature", "emotion_prior_correction"):
        assert configs[0][field] == configs[1][field]
    assert configs[0]["emotion_temperature"] != 1


def test_calibration_can_be_left_out_and_a_prior_correction_given(command, train, tmp_path) -> None:
    metrics = run_ser_mtl.run(*parse_arguments(command(**train, calibrate=False, prior_correction=0.5)))
    config = json.loads((tmp_path / "output" / "config.json").read_text())
    assert (config["emotion_temperature"], config["emotion_prior_correction"]) == (1.0, 0.5)
    assert config["emotion_class_counts"] == [4, 4]  # nothing to correct
    assert metrics["predict_emotion_ece"] == pytest.approx(metrics["predict_emotion_ece_uncalibrated"])


def test_everybody_trains_where_no_speaker_is_held_out(command, manifest, tmp_path) -> None:
    data = {"train_file": manifest("all.csv", range(6)), "num_folds": 3, "validation_speakers": 0}
    options = {"do_train": True, "do_predict": True, "eval_strategy": "no", "load_best_model_at_end": False}
    metrics = run_ser_mtl.run(*parse_arguments(command(**data, **options)))
    assert names(metrics, "predict_") and not names(metrics, "eval_")
    sets = json.loads((tmp_path / "output" / "run_facts.json").read_text())["splits"]
    assert {name: facts["speakers"] for name, facts in sets.items()} == {"train": 4, "test": 2}
    assert json.loads((tmp_path / "output" / "config.json").read_text())["emotion_temperature"] == 1.0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "--validation_speakers above 0"),
        ({"eval_strategy": "no", "load_best_model_at_end": False, "prior_correction": "auto"}, "--prior_correction"),
    ],
)
def test_what_validation_speakers_are_for_is_told_where_there_are_none(
    command, manifest, capsys, options, says
) -> None:
    data = {"train_file": manifest("all.csv", range(6)), "validation_speakers": 0, "do_train": True}
    with pytest.raises(SystemExit, match="2"):
        run_ser_mtl.main(command(**data, **options))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and says in last


def test_a_correction_cannot_be_chosen_without_training(command, train, tmp_path, capsys) -> None:
    for options in ({"do_train": False}, {"calibrate": False}, {"tasks": "gender"}):
        with pytest.raises(SystemExit, match="2"):
            run_ser_mtl.main(command(**(train | options), prior_correction="auto"))
        assert "--prior_correction auto: is chosen after the training of emotions" in capsys.readouterr().err
    assert not (tmp_path / "output").exists()


def test_emotions_below_the_least_confidence_are_marked_and_the_rest_is_scored(command, train, tmp_path) -> None:
    run_ser_mtl.main(command(**train, num_train_epochs=4, learning_rate=0.01, calibrate=False))
    trained = pd.read_csv(tmp_path / "output" / "predictions.csv")
    threshold = float(trained["emotion_score"].median())
    options = {"model_name_or_path": tmp_path / "output", "test_file": train["test_file"], "do_predict": True}
    options |= {"min_confidence": threshold, "output_dir": tmp_path / "again"}
    metrics = run_ser_mtl.run(*parse_arguments(command(**options)))
    table = pd.read_csv(tmp_path / "again" / "predictions.csv")
    assert table["emotion"].tolist() == trained["emotion"].tolist()
    answered = table[~table["emotion_abstained"]]
    assert 0 < len(answered) < len(table)
    abstained = table.loc[table["emotion_abstained"], "emotion_score"]
    assert answered["emotion_score"].min() >= threshold - 1e-6 > abstained.max() - 2e-6
    assert metrics["predict_emotion_coverage"] == len(answered) / len(table)
    right = answered["emotion"] == answered["true_emotion"]
    assert metrics["predict_emotion_uar_answered"] == pytest.approx(
        right.groupby(answered["true_emotion"]).mean().mean()
    )
    with pytest.raises(SystemExit, match="2"):
        run_ser_mtl.main(command(**(options | {"min_confidence": 1.5})))


def test_several_corpora_are_also_scored_one_by_one(command, train, manifest) -> None:
    train["test_file"] = [manifest("Corpus-A/test.csv", [4]), manifest("corpus_b/test.csv", [5])]
    metrics = run_ser_mtl.run(*parse_arguments(command(**train)))
    assert names(metrics, "predict_") >= {"emotion_uar_corpus_a", "emotion_uar_corpus_b"}
    # One speaker each: every corpus has target pairs only, so there is no error rate.
    assert "predict_speaker_eer" not in metrics


def test_the_checkpoint_with_the_best_macro_f1_stays(command, train, tmp_path) -> None:
    run_ser_mtl.main(command(**train, num_train_epochs=4, learning_rate=0.01))
    output = tmp_path / "output"
    state = json.loads((output / "trainer_state.json").read_text())
    scores = [entry["eval_emotion_macro_f1"] for entry in state["log_history"] if "eval_emotion_macro_f1" in entry]
    assert len(scores) == 4
    assert state["best_metric"] == max(scores)
    results = json.loads((output / "eval_results.json").read_text())
    assert results["eval_emotion_macro_f1"] == max(scores)


def test_every_task_has_its_own_loss_in_the_training_log(command, train, tmp_path) -> None:
    run_ser_mtl.main(command(**train))
    state = json.loads((tmp_path / "output" / "trainer_state.json").read_text())
    logged = [entry for entry in state["log_history"] if "loss_emotion" in entry]
    assert len(logged) == state["global_step"]
    for entry in logged:
        weighted = entry["loss_emotion"] + 0.3 * entry["loss_swfc"]
        weighted += 0.1 * (entry["loss_gender"] + entry["loss_speaker"] + entry["loss_asr"])
        assert entry["loss"] == pytest.approx(weighted, abs=1e-3)


def test_training_stops_early_when_nothing_gets_better(command, train, tmp_path) -> None:
    options = {"num_train_epochs": 20, "learning_rate": 0, "early_stopping_patience": 2, "seed": 1}
    run_ser_mtl.main(command(**train, **options))
    state = json.loads((tmp_path / "output" / "trainer_state.json").read_text())
    assert state["epoch"] == 3


def test_heads_take_their_own_learning_rate_and_a_frozen_feature_encoder_none(
    command, train, tiny_config, tmp_path
) -> None:
    before = run_ser_mtl_weights(command, train, tmp_path / "before", learning_rate=0)
    options = {"learning_rate": 0, "head_learning_rate": 1e-2, "warmup_steps": 0}
    after = run_ser_mtl_weights(command, train, tmp_path / "heads", **options)
    changed = {name for name in before if not (before[name] == after[name]).all()}
    assert changed and not any(name.startswith("backbone.") for name in changed)

    after = run_ser_mtl_weights(
        command, train, tmp_path / "frozen", learning_rate=1e-2, freeze_feature_encoder=True, warmup_steps=0
    )
    changed = {name for name in before if not (before[name] == after[name]).all()}
    assert any(name.startswith("backbone.encoder.") for name in changed)
    assert not any(name.startswith("backbone.feature_extractor.") for name in changed)


def run_ser_mtl_weights(command, train, output: Path, **options: object) -> dict[str, np.ndarray]:
    """The weights at the end of a run."""
    fast = {"eval_strategy": "no", "save_strategy": "no", "do_eval": False, "do_predict": False}
    run_ser_mtl.main(command(**(train | fast | options), output_dir=output))
    model = AutoModelForAudioClassification.from_pretrained(output)
    return {name: value.numpy() for name, value in model.state_dict().items()}


def test_a_checkpoint_predicts_as_the_run_that_wrote_it(command, train, tmp_path) -> None:
    expected = run_ser_mtl.run(*parse_arguments(command(**train)))
    options = {"model_name_or_path": tmp_path / "output", "test_file": train["test_file"], "do_predict": True}
    metrics = run_ser_mtl.run(*parse_arguments(command(**options, output_dir=tmp_path / "again")))
    for name in names(metrics, "predict_"):
        assert metrics[f"predict_{name}"] == pytest.approx(expected[f"predict_{name}"], abs=1e-6), name
    again, first = (tmp_path / folder / "predictions.csv" for folder in ("again", "output"))
    assert again.read_text() == first.read_text()
    assert not (tmp_path / "again" / "model.safetensors").exists()


@pytest.mark.parametrize("model_type", ["wav2vec2", "wav2vec2-bert"])
def test_training_continues_from_a_checkpoint_with_its_classes_and_characters(
    command, train, manifest, tiny_config, tmp_path, capsys, model_type
) -> None:
    run_ser_mtl.main(command(**train, config_name=tiny_config(model_type)))
    options = {"model_name_or_path": tmp_path / "output", "output_dir": tmp_path / "next", "do_train": True}
    run_ser_mtl.main(command(**options, train_file=manifest("more.csv", [0, 1, 2, 3], text="ab")))
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("output", "next"))
    assert second["id2label"] == first["id2label"]
    assert second["vocab_size"] == first["vocab_size"]
    assert second["backbone_config"]["model_type"] == model_type

    # A label that the checkpoint does not have is named.
    options |= {"output_dir": tmp_path / "third", "train_file": manifest("joy.csv", range(6), emotion="joy")}
    with pytest.raises(SystemExit, match="2"):
        run_ser_mtl.main(command(**options))
    line = capsys.readouterr().err.splitlines()[-1]
    assert "joy.csv row 2" in line and "'joy'" in line and "anger, sadness" in line


def test_only_the_chosen_tasks_are_trained_and_scored(command, train) -> None:
    train |= {"tasks": ["gender"], "fusion": "none"}
    metrics = run_ser_mtl.run(*parse_arguments(command(**train)))
    assert names(metrics, "predict_") == {"gender_uar", "gender_accuracy", "loss", "loss_gender"}


def test_emotions_that_are_not_named_lose_their_label(command, train, manifest, clips, tmp_path) -> None:
    emotions = ["anger", "sadness", "calm", "calm"] * 6
    path = tmp_path / "train.csv"
    clips.assign(emotion=emotions).iloc[:8].to_csv(path, index=False)
    run_ser_mtl.main(command(**train, emotion_labels=["sadness", "anger"]))
    config = json.loads((tmp_path / "output" / "config.json").read_text())
    assert config["id2label"] == {"0": "sadness", "1": "anger"}
    assert config["emotion_class_counts"] == [2, 2]


def test_a_bare_backbone_configuration_trains_too(command, train, tiny_config, tmp_path) -> None:
    backbone = json.loads(tiny_config("wav2vec2-bert").read_text())["backbone_config"]
    path = tmp_path / "backbone.json"
    path.write_text(json.dumps(backbone))
    run_ser_mtl.main(command(**train, config_name=path))
    assert (tmp_path / "output" / "predictions.csv").exists()


@pytest.mark.parametrize("suffix", ["tsv", "jsonl", "parquet"])
def test_manifests_of_every_format_with_a_split_column(command, clips, tmp_path, suffix) -> None:
    marks = {"s0": "train", "s1": "", "s2": "validation", "s3": "validation", "s4": "test", "s5": "test"}
    table = clips.assign(split=clips["speaker_id"].map(marks))
    path = tmp_path / f"all.{suffix}"
    if suffix == "tsv":
        table.to_csv(path, sep="\t", index=False)
    elif suffix == "jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_parquet(path)
    run_ser_mtl.main(command(train_file=path, do_train=True, do_predict=True))
    predictions = pd.read_csv(tmp_path / "output" / "predictions.csv")
    assert predictions["true_speaker_id"].unique().tolist() == ["s4", "s5"]


def test_folds_test_on_every_speaker_exactly_once(command, manifest, tmp_path) -> None:
    path, tested = manifest("all.csv", range(6)), []
    for fold in range(3):
        options = {"num_folds": 3, "fold": fold, "output_dir": tmp_path / str(fold), "save_strategy": "no"}
        options |= {"eval_strategy": "no", "train_file": path, "do_train": True, "do_predict": True}
        run_ser_mtl.main(command(**options))
        tested += pd.read_csv(tmp_path / str(fold) / "predictions.csv")["true_speaker_id"].unique().tolist()
    assert tested == ["s0", "s1", "s2", "s3", "s4", "s5"]


def test_a_folder_of_parquet_with_audio_trains_without_torchcodec(command, clips, tmp_path) -> None:
    folder = tmp_path / "dataset"
    folder.mkdir()
    for split, speakers in (("train", ["s0", "s1"]), ("validation", ["s2", "s3"]), ("test", ["s4", "s5"])):
        rows = clips[clips["speaker_id"].isin(speakers)].reset_index(drop=True)
        audio = [{"bytes": Path(path).read_bytes(), "path": Path(path).name} for path in rows["audio"]]
        columns = {**rows.drop(columns="audio").to_dict("list"), "audio": audio}
        dataset = Dataset.from_dict(columns).cast_column("audio", Audio(decode=False))
        dataset = dataset.cast_column("audio", Audio()).cast_column("gender", ClassLabel(names=["female", "male"]))
        dataset.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    metrics = run_ser_mtl.run(*parse_arguments(command(dataset_name=folder, do_train=True, do_predict=True)))
    assert names(metrics, "predict_") == TASK_METRICS
    table = pd.read_csv(tmp_path / "output" / "predictions.csv")
    assert table["audio"].tolist() == [f"{index:02d}.wav" for index in range(16, 24)]


def test_manifests_with_other_column_names_are_mapped(command, train, tiny_config, tmp_path) -> None:
    for name in ("train", "validation", "test"):
        path = tmp_path / f"{name}.csv"
        path.write_text(path.read_text().replace("audio,emotion", "file,label", 1))
    mapping = {"audio": "file", "emotion": "label"}
    path = tmp_path / "settings.yaml"
    path.write_text(json.dumps({"column_mapping": mapping, "tasks": "emotion"}))
    run_ser_mtl.main([str(path), *command(**train)])
    predictions = pd.read_csv(tmp_path / "output" / "predictions.csv")
    assert "true_emotion" in predictions and "true_label" not in predictions


def test_a_long_clip_is_cropped_in_training_and_averaged_over_windows_in_prediction(
    command, train, tiny_config, tmp_path
) -> None:
    for name, frequency in (("train.csv", 200), ("test.csv", 201)):
        long = tmp_path / f"long{frequency}.flac"
        soundfile.write(long, np.tile(np.sin(np.arange(16_000) * frequency / 2546).astype(np.float32), 600), 16_000)
        rows = pd.read_csv(tmp_path / name)
        rows.loc[0, "audio"] = str(long)
        rows.to_csv(tmp_path / name, index=False)
    run_ser_mtl.main(command(**train, config_name=tiny_config("wav2vec2-bert"), max_seconds=10))
    table = pd.read_csv(tmp_path / "output" / "predictions.csv")
    assert len(table) == 8
    assert (table["audio"] == str(long)).sum() == 1
    row = table.loc[0]
    assert row["true_length"] == 600 * 16_000
    assert row["p_anger"] + row["p_sadness"] == pytest.approx(1, abs=2e-6)


@pytest.mark.parametrize("model_type", ["wav2vec2", "wav2vec2-bert"])
def test_the_shortest_clip_that_is_allowed_trains(command, train, tiny_config, tmp_path, model_type) -> None:
    random = np.random.default_rng(0)
    for name in ("train.csv", "test.csv"):
        short = tmp_path / f"short-{name}.wav"
        soundfile.write(short, random.uniform(-0.5, 0.5, 400), 16_000)
        rows = pd.read_csv(tmp_path / name)
        rows.loc[0, "audio"] = str(short)
        rows.to_csv(tmp_path / name, index=False)
    metrics = run_ser_mtl.run(
        *parse_arguments(command(**train, config_name=tiny_config(model_type), per_device_train_batch_size=1))
    )
    assert all(np.isfinite(value) for value in metrics.values())
    predictions = pd.read_csv(tmp_path / "output" / "predictions.csv")
    assert predictions["emotion_score"].notna().all()


def test_the_same_seed_gives_the_same_metrics(command, train, tmp_path) -> None:
    first, second = (
        run_ser_mtl.run(*parse_arguments(command(**train, augment=["speed", "noise"], output_dir=tmp_path / name)))
        for name in ("a", "b")
    )
    assert {f"predict_{name}": first[f"predict_{name}"] for name in names(first, "predict_")} == {
        f"predict_{name}": second[f"predict_{name}"] for name in names(second, "predict_")
    }


def test_given_trials_score_the_test_set_only(command, train, clips, tmp_path) -> None:
    audio = clips.loc[clips["speaker_id"].isin(["s4", "s5"]), ["audio", "speaker_id"]].values.tolist()
    trials = [f"{int(a[1] == b[1])} {a[0]} {b[0]}" for a, b in zip(audio, audio[1:] + audio[:1], strict=True)]
    (tmp_path / "trials.txt").write_text("\n".join(trials))
    metrics = run_ser_mtl.run(*parse_arguments(command(**train, trials_file=tmp_path / "trials.txt")))
    assert "predict_speaker_eer" in metrics and "eval_speaker_eer" in metrics


def test_dropping_the_last_training_batch_drops_no_clip_from_evaluation(command, train, tmp_path) -> None:
    options = {"dataloader_drop_last": True, "per_device_eval_batch_size": 3}
    run_ser_mtl.run(*parse_arguments(command(**train, **options)))
    predictions = pd.read_csv(tmp_path / "output" / "predictions.csv")
    assert len(predictions) == 8 and predictions["p_anger"].notna().all()
