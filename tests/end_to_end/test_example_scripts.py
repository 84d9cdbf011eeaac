"""The scripts in examples/ give what they say; how fast anything is, no test asks."""

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.svm import SVC

import run_ser_mtl
from modeling_ser_mtl.data.audio import load_audio
from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.data.loading import Split

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
focal_factor = runpy.run_path(str(EXAMPLES / "plot_focal_factor.py"))["focal_factor"]
compare_runs = runpy.run_path(str(EXAMPLES / "compare_runs.py"))
ensemble = runpy.run_path(str(EXAMPLES / "ensemble.py"))
robustness = runpy.run_path(str(EXAMPLES / "robustness.py"))
svm_baseline = runpy.run_path(str(EXAMPLES / "svm_baseline.py"))
bench_swfc = runpy.run_path(str(EXAMPLES / "benchmarks" / "bench_swfc.py"))

EMOTIONS = ["anger", "fear", "joy", "sadness"]


def call(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_swfc_benchmark_prints_speed_and_memory() -> None:
    sizes = {"batch_size": 12, "large_batch_size": 64, "embedding_size": 8, "num_classes": 3}
    options = {**sizes, "repeats": 2, "num_threads": 1}
    result = call("benchmarks/bench_swfc.py", *(f"--{name}={value}" for name, value in options.items()))
    assert result.returncode == 0, result.stderr
    for row in (r"published loop +[\d.,]+ ms", r"times faster +\d+", r"peak additional memory +\d+ MiB", "B 64"):
        assert re.search(row, result.stdout)
    assert "1 threads" in result.stdout


@pytest.mark.parametrize("batch_size", [5, 9, 40])
def test_the_published_loop_and_swfc_loss_have_the_same_value_and_gradient(batch_size) -> None:
    batch = bench_swfc["random_batch"](batch_size, 6, 4)
    _, expected, expected_gradient = bench_swfc["step"](bench_swfc["loop_loss"], *batch)
    _, value, gradient = bench_swfc["step"](bench_swfc["block_loss"], *batch)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(st.floats(-1, 1), st.floats(0.01, 5), st.integers(1, 4), st.integers(2, 100))
def test_the_plotted_factor_is_that_of_a_softmax_over_the_batch(cosine, temperature, num_positives, num_others) -> None:
    similarity = np.array([cosine] * num_positives + [0.0] * (num_others - 1)) / temperature
    terms = np.exp(similarity - similarity.max())
    factor = focal_factor(cosine, temperature, num_positives + num_others, num_positives)
    assert factor == pytest.approx((1 - terms[0] / terms.sum()) ** 2, abs=1e-12)


def test_at_temperature_08_even_the_closest_pair_keeps_most_of_its_loss() -> None:
    assert focal_factor(1.0, 0.8, 32) == pytest.approx(0.80, abs=0.005)
    assert focal_factor(1.0, 0.8, 128) == pytest.approx(0.95, abs=0.005)


def test_the_figure_of_the_focal_factor_is_the_same_each_time(tmp_path) -> None:
    for name in ("first.svg", "second.svg"):
        assert call("plot_focal_factor.py", tmp_path / name).returncode == 0
    figure = (tmp_path / "first.svg").read_bytes()
    assert figure == (tmp_path / "second.svg").read_bytes()
    assert b"<svg" in figure
    assert len(figure) < 150_000


@pytest.fixture
def run(command, manifest, tmp_path) -> Callable[[int, float], Path]:
    """Makes a finished run with a seed and a weight of SWFC on clips of four emotions, and returns its folder."""

    def make(seed: int, swfc_weight: float) -> Path:
        files = {
            f"{name}_file": manifest(f"{name}.csv", speakers, emotion=EMOTIONS * len(speakers))
            for name, speakers in {"train": [0, 1], "validation": [2, 3], "test": [4, 5]}.items()
        }
        folder = tmp_path / f"swfc-{swfc_weight}-{seed}"
        options = {"tasks": "emotion", "output_dir": folder, "seed": seed, "swfc_weight": swfc_weight}
        run_ser_mtl.main(command(**files, **options, do_train=True, do_predict=True))
        return folder

    return make


def test_the_comparison_of_runs_shows_the_metrics_and_confusions_of_both_groups(run) -> None:
    baseline, other = [run(1, 0.0), run(2, 0.0)], run(1, 0.3)
    result = call("compare_runs.py", "--baseline", *baseline, "--other", other)
    assert result.returncode == 0, result.stderr
    # The name of a row, then mean and standard deviation of the baseline and of the others.
    rows = dict(re.findall(r"^(\S+|confused: \w+ / \w+) {2,}(.*)$", result.stdout, re.M))

    def shows(row: str, first: float, second: float, third: float) -> bool:
        *values, last = rows[row].split()
        expected = [(first + second) / 2, abs(first - second) / 2**0.5, third]
        return [float(value) for value in values] == pytest.approx(expected, abs=6e-4) and last == "-"

    results = [json.loads((folder / "predict_results.json").read_text()) for folder in (*baseline, other)]
    for metric in ("predict_emotion_macro_f1", "predict_emotion_uar"):
        assert shows(metric, *(scores[metric] for scores in results))

    tables = [pd.read_csv(folder / "predictions.csv") for folder in (*baseline, other)]
    pairs = [row.removeprefix("confused: ").split(" / ") for row in rows if row.startswith("confused: ")]
    assert len(pairs) == 3
    for pair in pairs:
        # Two test clips of each emotion.
        taken = [sum({p, t} == set(pair) for p, t in zip(x.emotion, x.true_emotion, strict=True)) for x in tables]
        assert shows(f"confused: {' / '.join(pair)}", *(number / 4 for number in taken))


clips = st.lists(st.tuples(st.sampled_from(EMOTIONS), st.sampled_from(EMOTIONS)), min_size=1, max_size=30)


@settings(max_examples=50, deadline=None)
@given(clips)
def test_the_rate_of_a_pair_is_the_share_of_its_clips_that_are_taken_for_one_another(clips) -> None:
    present = sorted({true for true, _ in clips})
    expected = {}
    for a in present:
        for b in present:
            if a < b:
                taken = sum((true, guess) in ((a, b), (b, a)) for true, guess in clips)
                expected[a, b] = taken / sum(true in (a, b) for true, _ in clips)
    table = pd.DataFrame(clips, columns=["true_emotion", "emotion"])
    assert compare_runs["pair_rates"](table) == pytest.approx(expected)


def test_a_folder_without_results_is_one_line_that_names_the_file(tmp_path) -> None:
    result = call("compare_runs.py", "--baseline", tmp_path / "none", "--other", tmp_path / "none")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert str(tmp_path / "none" / "predict_results.json") in result.stderr


def test_a_run_without_emotions_is_one_line_that_names_the_file(tmp_path) -> None:
    (tmp_path / "predict_results.json").write_text("{}")
    (tmp_path / "predictions.csv").write_text("audio,gender\na.wav,male\n")
    result = call("compare_runs.py", "--baseline", tmp_path, "--other", tmp_path)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "predictions.csv: no column 'emotion'" in result.stderr


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 5))
def test_the_svm_is_tested_on_the_speakers_of_each_fold_alone(seed, num_folds) -> None:
    """Against a loop over the clips, with scikit-learn's SVM on features that are scaled by hand."""
    random = np.random.default_rng(seed)
    table = pd.DataFrame({"speaker": [f"s{i}" for i in range(5) for _ in range(8)], "emotion": ["anger", "joy"] * 20})
    features = random.normal(size=(40, 3)) + 0.8 * (table[["emotion"]] == "joy").to_numpy()
    expected = []
    for speakers in np.array_split(np.array(sorted(set(table["speaker"]))), num_folds):
        test = table["speaker"].isin(speakers).to_numpy()
        scaled = (features - features[~test].mean(0)) / features[~test].std(0)
        svm = SVC(C=5, class_weight="balanced").fit(scaled[~test], table["emotion"][~test])
        found, true = svm.predict(scaled[test]), table["emotion"][test].to_numpy()
        expected.append(np.mean([(found[true == emotion] == emotion).mean() for emotion in ("anger", "joy")]))
    assert svm_baseline["fold_uars"](features, table, num_folds) == pytest.approx(expected)


def test_an_svm_without_open_smile_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(InputError, match="pip install opensmile"):
        svm_baseline["extract_features"](pd.DataFrame({"audio_path": ["a.wav"]}))


def test_an_emotion_that_the_svm_cannot_find_is_named(manifest) -> None:
    result = call("svm_baseline.py", manifest("m.csv", [0, 1]), "--num_folds", 2, "--emotion_labels", "angr")
    assert result.returncode == 2
    assert result.stderr.startswith("error: --emotion_labels angr: not in the manifest, which has ")


def test_the_data_benchmark_prints_speed_and_memory(manifest) -> None:
    result = call("benchmarks/bench_data.py", manifest("m.csv", [0, 1]), "--repeats", 1, "--copies", 2, "--rows", 30)
    assert result.returncode == 0, result.stderr
    figures = r" +[\d.]+ s +[\d.]+ s +[\d,.]+ (rows|hours)/s +\d+ MiB$"
    for line in ("read the manifest, 8 rows", r"scan, 2 thread\(s\)", "scan with a full cache", "training's clips"):
        assert re.search(f"^{line}{figures}", result.stdout, re.M), result.stdout
    assert "datasets with its own Audio" in result.stdout


def test_an_ensemble_of_one_run_is_that_run(run, tmp_path) -> None:
    folder = run(1, 0.3)
    result = call("ensemble.py", folder, "--output", tmp_path / "ensemble.csv")
    assert result.returncode == 0, result.stderr
    alone, together = (line.split()[-3:] for line in result.stdout.splitlines()[1:])
    assert alone == together
    metrics = json.loads((folder / "predict_results.json").read_text())
    names = ("predict_emotion_uar", "predict_emotion_macro_f1", "predict_emotion_ece")
    assert [float(value) for value in alone] == pytest.approx([metrics[name] for name in names], abs=6e-4)
    written, own = (pd.read_csv(path) for path in (tmp_path / "ensemble.csv", folder / "predictions.csv"))
    pd.testing.assert_frame_equal(written, own[written.columns])


def test_an_ensemble_averages_the_probabilities_of_its_runs(run, tmp_path) -> None:
    folders = [run(1, 0.3), run(2, 0.3)]
    scores = ensemble["main"](folders, tmp_path / "ensemble.csv")
    assert list(scores.index) == [*map(str, folders), "ensemble of 2"]
    written = pd.read_csv(tmp_path / "ensemble.csv")
    tables = [pd.read_csv(folder / "predictions.csv") for folder in folders]
    columns = [f"p_{name}" for name in EMOTIONS]
    expected = (tables[0][columns] + tables[1][columns]) / 2
    pd.testing.assert_frame_equal(written[columns], expected, atol=1e-6)
    assert written["emotion"].tolist() == expected.idxmax(axis=1).str.removeprefix("p_").tolist()
    recalls = (written["emotion"] == written["true_emotion"]).groupby(written["true_emotion"]).mean()
    assert scores.loc["ensemble of 2", "emotion_uar"] == pytest.approx(recalls.mean())


def test_runs_of_other_clips_are_no_ensemble(run, tmp_path) -> None:
    folder = run(1, 0.3)
    other = tmp_path / "other"
    other.mkdir()
    pd.read_csv(folder / "predictions.csv").iloc[1:].to_csv(other / "predictions.csv", index=False)
    with pytest.raises(InputError, match="run 2 of the ensemble: has other emotions or clips than the first"):
        ensemble["main"]([folder, other], None)


def test_the_figures_of_the_predictions_of_several_folds_are_drawn(run, tmp_path) -> None:
    result = call("plot_predictions.py", run(1, 0.3), run(2, 0.3), "--output_dir", tmp_path / "figures")
    assert result.returncode == 0, result.stderr
    for name in ("reliability.svg", "confusion.svg"):
        assert b"<svg" in (tmp_path / "figures" / name).read_bytes()


def test_a_folder_without_predictions_is_one_line_that_names_the_file(tmp_path) -> None:
    result = call("ensemble.py", tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert f"{tmp_path / 'predictions.csv'}: no such file" in result.stderr


def test_robustness_is_measured_on_the_clips_of_the_run_clean_and_degraded(command, manifest, tmp_path) -> None:
    path, folder = manifest("all.csv", range(6)), tmp_path / "output"
    # The run has other names of the emotions than the manifest.
    names = ["anger=cross", "sadness=sad"]
    run_ser_mtl.main(command(train_file=path, num_folds=3, do_train=True, do_predict=True, emotion_map=names))
    result = call("robustness.py", folder, "--test_file", path)
    assert result.returncode == 0, result.stderr
    header, *lines = result.stdout.splitlines()
    assert header.split() == ["emotion_uar", "emotion_macro_f1", "emotion_ece", "gender_uar", "asr_wer"]
    rows = {line[:26].strip(): [float(value) for value in line[26:].split()] for line in lines}
    noises = [f"{kind}, {level} dB" for kind in ("white noise", "babble") for level in (20, 10, 5)]
    rooms, levels = [f"reverberation, RT60 {rt60} s" for rt60 in (0.3, 0.8)], ["level, +12 dB", "level, -12 dB"]
    assert list(rows) == ["clean", *noises, *rooms, *levels]
    metrics = json.loads((folder / "predict_results.json").read_text())
    assert rows["clean"] == pytest.approx([metrics[f"predict_{name}"] for name in header.split()], abs=6e-4)
    assert len({tuple(row) for row in rows.values()}) > 1
    with pytest.raises(InputError, match="shares fewer than two clips"):
        robustness["measure"](folder, [str(manifest("other.csv", [5]))], 20.0, 8)
    twice = call("robustness.py", folder, folder, "--test_file", path)
    assert twice.stdout == result.stdout


def test_degraded_clips_have_the_ratio_that_their_condition_names(clips) -> None:
    split = Split(clips.assign(speaker=clips["speaker_id"]), clips["audio"].tolist())
    found = robustness["conditions"](split)
    for name, snr_db in (("white noise, 20 dB", 20), ("white noise, 5 dB", 5), ("babble, 10 dB", 10)):
        audio = robustness["DegradedAudio"](split.audio, found[name])
        for index in (0, 7):
            clean, degraded = load_audio(split.audio[index]).astype(float), load_audio(audio[index]).astype(float)
            ratio = 10 * np.log10(np.mean(clean**2) / np.mean((degraded - clean) ** 2))
            assert ratio == pytest.approx(snr_db, abs=0.05)
        # Decoded: the header of a float WAV file holds the second in which it was written.
        np.testing.assert_array_equal(load_audio(audio[0]), load_audio(audio[0]))


def test_clips_at_another_level_are_louder_by_what_their_condition_names(clips) -> None:
    split = Split(clips.assign(speaker=clips["speaker_id"]), clips["audio"].tolist())
    for name, gain_db in (("level, +12 dB", 12), ("level, -12 dB", -12)):
        audio = robustness["DegradedAudio"](split.audio, robustness["conditions"](split)[name])
        clean, changed = load_audio(split.audio[0]), load_audio(audio[0])
        loud = np.abs(clean) > 1e-3
        np.testing.assert_allclose(20 * np.log10(changed[loud] / clean[loud]), gain_db, atol=1e-3)


def test_a_split_by_sentence_and_speaker_shares_neither(clips, tmp_path) -> None:
    table = clips.assign(text=[f"sentence {index % 5}" for index in range(len(clips))])
    table.to_csv(tmp_path / "all.csv", index=False)
    result = call("split_unseen_text.py", tmp_path / "all.csv", tmp_path / "unseen.csv", "--test_speakers", 2)
    assert result.returncode == 0, result.stderr
    found = pd.read_csv(tmp_path / "unseen.csv", dtype=str)
    train, test = (found[found["split"] == name] for name in ("train", "test"))
    for column in ("speaker_id", "text"):
        assert set(train[column]) and set(test[column]) and not set(train[column]) & set(test[column])
    assert test["speaker_id"].nunique() <= 2
    assert set(found["audio"]) <= set(table["audio"])
    assert f"{len(train)} clips to train, {len(test)} to test" in result.stdout
    # Nothing that fits either set is missing.
    rest = table[~table["audio"].isin(found["audio"])]
    is_test_speaker, is_test_text = rest["speaker_id"].isin(test["speaker_id"]), rest["text"].isin(test["text"])
    assert (is_test_speaker != is_test_text).all()
