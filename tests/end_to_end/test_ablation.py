"""The ablation: runs are made once, choosing never touches a test clip, and its tables say what the runs found."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from argparse import Namespace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from modeling_ser_mtl.training.parser import parse_arguments

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ablation = runpy.run_path(str(EXAMPLES / "ablation.py"))
SHORT = ["--max_steps", "2", "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "False"]


@pytest.fixture
def small_corpora(corpora, tmp_path) -> Path:
    """A folder with a few clips of each speaker of EmoDB."""
    folder = tmp_path / "corpora" / "emodb"
    folder.mkdir(parents=True)
    table = pd.read_csv(corpora / "emodb" / "manifest.csv", dtype=str, keep_default_na=False)
    table = table[table["emotion"].isin(["anger", "neutral"])].groupby("speaker_id").head(4)
    for audio in table["audio"]:
        (folder / audio).parent.mkdir(exist_ok=True)
        shutil.copy(corpora / "emodb" / audio, folder / audio)
    table.to_csv(folder / "manifest.csv", index=False)
    return folder.parent


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "ablation.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_run_is_a_line_of_the_results_and_is_not_made_twice(small_corpora, tmp_path) -> None:
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump({"ce": ["--tasks", "emotion", *SHORT]}))
    results = tmp_path / "results.jsonl"
    options = ["--protocols", "emodb", "--folds", "2", "--rows_file", tmp_path / "rows.yaml", "--results", results]
    options += ["--output_dir", tmp_path / "outputs"]
    first = call("run", small_corpora, *options)
    assert first.returncode == 0, first.stderr
    (line,) = [json.loads(line) for line in results.read_text().splitlines()]
    (path,) = tmp_path.glob("outputs/run/emodb/ce/seed-1/fold-2/*/predictions.csv")
    predictions = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert list(line["confusions"]) == predictions["true_speaker_id"].unique().tolist()
    assert np.sum(list(line["confusions"].values())) == len(predictions)
    assert {"emotion_uar", "emotion_macro_f1"} <= set(line["metrics"])
    shutil.rmtree(tmp_path / "outputs")
    assert call("run", small_corpora, *options).returncode == 0
    assert len(results.read_text().splitlines()) == 1
    assert not (tmp_path / "outputs").exists()

    results.write_text(json.dumps(line | {"recipe": line["recipe"] | {"num_train_epochs": 1}}) + "\n")
    changed = call("run", small_corpora, *options)
    assert changed.returncode == 2 and "the recipe of emodb has changed" in changed.stderr

    results.write_text(json.dumps(line) + "\n")
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump({"ce": ["--tasks", "emotion", "--swfc_weight", 0.9]}))
    other = call("run", small_corpora, *options)
    assert other.returncode == 2
    assert "the runs of ce there had the options --tasks emotion --max_steps 2" in other.stderr


def test_a_row_may_train_on_other_corpora_of_the_folder(small_corpora, corpora, tmp_path) -> None:
    others = pd.read_csv(corpora / "emodb/manifest.csv", dtype=str).query("emotion == 'sadness'").head(3)
    (small_corpora / "more").mkdir()
    more = others.assign(audio=str(corpora / "emodb") + "/" + others["audio"], speaker_id=["x", "y", "z"])
    more.to_csv(small_corpora / "more/manifest.csv", index=False)
    extra = ["--extra_train_file", "{corpora}/more/manifest.csv"]
    rows = {"alone": ["--tasks", "emotion", *SHORT], "more": ["--tasks", "emotion", *SHORT, *extra]}
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump(rows))
    options = ["--protocols", "emodb", "--folds", "2", "--rows_file", tmp_path / "rows.yaml"]
    made = call(
        "run", tmp_path / "corpora", *options, "--output_dir", tmp_path, "--results", tmp_path / "results.jsonl"
    )
    assert made.returncode == 0, made.stderr
    facts = {path.parts[-5]: json.loads(path.read_text()) for path in tmp_path.glob("run/emodb/*/*/*/*/run_facts.json")}
    alone, more = ([facts[row]["splits"][name]["clips"] for name in ("train", "test")] for row in rows)
    assert more == [alone[0] + 3, alone[1]]


def test_an_ensemble_is_a_row_with_the_mean_of_the_probabilities_of_its_seeds(small_corpora, tmp_path) -> None:
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump({"ce": ["--tasks", "emotion", *SHORT]}))
    options = ["--protocols", "emodb", "--folds", "2", "--rows_file", tmp_path / "rows.yaml", "--seeds", "1", "2"]
    options += ["--results", tmp_path / "results.jsonl", "--output_dir", tmp_path / "outputs"]
    options += ["--rows", "ce"]
    for mode in (["run", small_corpora], ["ensemble"], ["ensemble"]):
        result = call(*mode, *options)
        assert result.returncode == 0, result.stderr
    *alone, together = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(alone) == 2
    assert (together["row"], together["seed"], together["fold"]) == ("ce, seeds 1 2 averaged", 0, 2)
    tables = [pd.read_csv(path) for path in tmp_path.glob("outputs/run/emodb/ce/seed-*/fold-2/*/predictions.csv")]
    probabilities = sum(table.filter(like="p_") for table in tables)
    predicted = probabilities.idxmax(axis=1).str.removeprefix("p_")
    correct = predicted == tables[0]["true_emotion"]
    assert together["metrics"]["emotion_uar"] == pytest.approx(correct.groupby(tables[0]["true_emotion"]).mean().mean())
    assert np.trace(sum(np.array(matrix) for matrix in together["confusions"].values())) == correct.sum()

    shutil.rmtree(tmp_path / "outputs")
    (tmp_path / "results.jsonl").unlink()
    missing = call("ensemble", *options)
    assert missing.returncode == 2
    assert "predictions.csv: no such file" in missing.stderr


def test_choosing_never_opens_a_clip_of_a_test_speaker(small_corpora, tmp_path) -> None:
    table = pd.read_csv(small_corpora / "emodb" / "manifest.csv", dtype=str)
    tested = sorted(table["speaker_id"].unique())[2]
    for audio in table.loc[table["speaker_id"] == tested, "audio"]:
        (small_corpora / "emodb" / audio).write_text("no audio")
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump({"short": [*SHORT, "--validation_speakers", "0.2"]}))
    options = ["--protocols", "emodb", "--folds", "2", "--rows_file", tmp_path / "rows.yaml"]
    options += ["--results", tmp_path / "choices.jsonl", "--output_dir", tmp_path / "outputs"]
    result = call("choose", small_corpora, *options)
    assert result.returncode == 0, result.stderr
    (line,) = [json.loads(line) for line in (tmp_path / "choices.jsonl").read_text().splitlines()]
    assert tested not in line["confusions"]
    assert "emotion_uar" in line["metrics"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "corpora", "--rows", "fulll"], "--rows fulll: not in"),
        (["run"], "give the folder of the corpora"),
        (["report", "--results", "none.jsonl"], "none.jsonl: no finished runs of these"),
        (["report", "--results", EXAMPLES.parent / "docs" / "results.jsonl", "--baseline", "fulll"], "fulll: not in"),
        (
            ["report", "--results", EXAMPLES.parent / "docs" / "results.jsonl", "--rows", "fulll"],
            "rows fulll: .* heavier_tasks",
        ),
        (["ensemble", "--rows", "ce"], "two or more --seeds"),
        (["run", "corpora", "--protocols", "nemo", "--rows", "full_from_auxiliary"], "not for nemo"),
        (["run", "corpora", "--folds", "10"], "--folds 10: .* have 0 to 9"),
        (["run", "corpora", "--rows_file", "none.yaml"], "none.yaml: no such file"),
    ],
)
def test_a_mistake_is_one_line(arguments, message) -> None:
    result = call(*arguments)
    assert result.returncode == 2
    assert re.search(message, result.stderr) and len(result.stderr.splitlines()) == 1


def make_line(row: str, seed: int, fold: int, right: int) -> dict:
    """A run on two speakers with ten clips of either of two emotions, of which `right` are recognised."""
    matrix = [[right, 10 - right], [10 - right, right]]
    return {
        "protocol": "ravdess",
        "row": row,
        "seed": seed,
        "fold": fold,
        "classes": ["anger", "joy"],
        "confusions": {f"{fold}a": matrix, f"{fold}b": matrix},
        "metrics": {"emotion_uar": right / 10},
        "train_seconds": 60.0,
    }


def read_cells(header: str, row: str) -> dict[str, str]:
    """The cells of a row of a Markdown table by the names of its columns."""
    names, values = ([cell.strip() for cell in line.split("|")[1:-1]] for line in (header, row))
    return dict(zip(names, values, strict=True))


def test_the_table_has_means_over_folds_and_seeds_and_the_gain_over_cross_entropy() -> None:
    lines = [make_line("ce", seed, fold, 5) for seed in (1, 2) for fold in range(6)]
    lines += [make_line("full", seed, fold, 6 + (fold > 2) + (seed == 2)) for seed in (1, 2) for fold in range(6)]
    header, _, ce, full, *_ = ablation["report"](lines).splitlines()[2:]
    cells = read_cells(header, full)
    assert cells["UAR"] == f"{np.mean([line['metrics']['emotion_uar'] for line in lines[12:]]):.3f}" == "0.700"
    assert cells["std of seeds"] == f"{np.std([0.65, 0.75], ddof=1):.3f}"
    assert cells["against ce"] == "+0.200"
    assert float(cells["p"]) < 0.01
    low, _, high = cells["95 % interval"].split()
    assert float(low) < 0.7 < float(high)
    assert "ce" in ce and "some folds" not in ce
    assert "| full | 0.300 |" in ablation["report"](lines)  # anger and joy taken for each other


def test_the_report_can_be_of_some_seeds_and_folds(tmp_path) -> None:
    lines = [make_line("ce", seed, fold, 4 + seed) for seed in (1, 2) for fold in range(6)]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = call("report", "--results", tmp_path / "results.jsonl", "--seeds", 2)
    assert "| ce | 1 | 6 | 0.600 |" in result.stdout
    result = call("report", "--results", tmp_path / "results.jsonl", "--seeds", 1, "--folds", 0, 3)
    assert "| ce (some folds) | 1 | 2 | 0.500 |" in result.stdout


def test_the_report_can_be_of_some_rows_beside_the_baseline_on_one_protocol(tmp_path) -> None:
    lines = [make_line(row, 1, fold, 5) for row in ("ce", "full", "swfc") for fold in range(6)]
    lines += [line | {"protocol": "ravdess_short"} for line in lines]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = call("report", "--results", tmp_path / "results.jsonl", "--protocols", "ravdess_short", "--rows", "swfc")
    assert re.findall("^## (.*)", result.stdout, re.MULTILINE) == ["ravdess_short"]
    assert "| ce |" in result.stdout and "| swfc |" in result.stdout and "| full |" not in result.stdout


def test_a_row_with_missing_folds_is_marked() -> None:
    lines = [make_line("ce", 1, fold, 5) for fold in range(6)] + [make_line("swfc", 1, 0, 6)]
    assert "| swfc (some folds) |" in ablation["report"](lines)


def test_a_second_seed_on_one_fold_is_marked_and_has_no_mean_of_its_own() -> None:
    lines = [make_line("full", 1, fold, 5) for fold in range(6)] + [make_line("full", 2, 5, 9)]
    header, _, row = ablation["report"](lines).splitlines()[2:5]
    cells = read_cells(header, row)
    assert cells["row"] == "full (some folds)" and cells["std of seeds"] == ""


def test_a_row_is_compared_on_its_own_folds_with_any_baseline() -> None:
    """Validation speakers may be those of several folds."""
    lines = [make_line("full", 1, 0, 5), make_line("full", 1, 1, 9), make_line("swfc", 1, 0, 6)]
    for line in lines:
        line["confusions"] = {name[1:]: matrix for name, matrix in line["confusions"].items()}
    header, _, _, row = ablation["report"](lines, "full").splitlines()[2:6]
    cells = read_cells(header, row)
    assert cells["row"] == "swfc (some folds)" and cells["against full"] == "+0.100"


def test_a_row_is_compared_on_the_folds_of_a_baseline_that_has_fewer() -> None:
    """A speaker who validates in several folds is recognised differently in each."""
    lines = [make_line("full", 1, 0, 5), make_line("swfc", 1, 0, 6), make_line("swfc", 1, 1, 9)]
    for line in lines:
        line["confusions"] = {name[1:]: matrix for name, matrix in line["confusions"].items()}
    header, _, _, row = ablation["report"](lines, "full").splitlines()[2:6]
    cells = read_cells(header, row)
    assert cells["UAR"] == "0.750" and cells["against full"] == "+0.100"


def test_another_metric_is_compared_fold_by_fold_in_the_rows_that_have_it() -> None:
    found = {"full": [0.2, 0.3, 0.4, 0.3, 0.2, 0.1], "speaker_alone": [0.1, 0.2, 0.2, 0.2, 0.1, 0.2]}
    lines = [make_line(row, 1, fold, 5) for row in found for fold in range(6)]
    for line in lines:
        line["metrics"]["speaker_eer"] = found[line["row"]][line["fold"]]
    for line in lines[6:]:
        del line["metrics"]["emotion_uar"], line["classes"], line["confusions"]
    table = ablation["report"]([make_line("ce", 1, 0, 5), *lines], "speaker_alone", "speaker_eer")
    header, _, full, alone, *_ = table.splitlines()[2:]
    assert "| ce" not in table and "Recall" not in table
    cells = read_cells(header, full)
    gains = np.subtract(found["full"], found["speaker_alone"])
    assert (cells["speaker_eer"], cells["against speaker_alone"]) == ("0.250", f"{gains.mean():+.3f}")
    # Of the 64 ways to exchange the two, these are as far apart or more.
    signs = np.array(list(product([1, -1], repeat=6)))
    assert float(cells["p"]) == pytest.approx((np.abs(signs @ gains) >= abs(gains.sum()) - 1e-9).mean(), abs=6e-4)
    assert read_cells(header, alone)["against speaker_alone"] == ""


def test_a_row_of_other_emotions_has_no_recalls_beside_the_first() -> None:
    other = make_line("joyless", 1, 0, 5) | {"classes": ["anger"], "confusions": {"0a": [[1]], "0b": [[1]]}}
    table = ablation["report"]([make_line("ce", 1, 0, 5), other])
    assert table.count("joyless") == 1 and "that ce confuses most" in table


def test_an_interrupted_run_does_not_go_on_with_another_recipe(monkeypatch) -> None:
    run = ablation["Run"]("emodb", "ce", 1, 0)
    before = run.folder(Path("outputs"), "run", ["--tasks", "emotion"])
    assert run.folder(Path("outputs"), "run", ["--tasks", "emotion"]) == before
    recipe = ablation["read_recipe"]("emodb") | {"num_train_epochs": 1}
    monkeypatch.setitem(ablation["Run"].folder.__globals__, "read_recipe", lambda protocol: recipe)
    assert run.folder(Path("outputs"), "run", ["--tasks", "emotion"]) != before


def test_the_figure_has_the_mean_of_every_row() -> None:
    lines = [make_line(row, 1, fold, right) for row, right in (("ce", 5), ("full", 7)) for fold in range(6)]
    (axes,) = ablation["draw"](lines).axes
    means = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert means == pytest.approx([0.5, 0.7])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ce", "full"]
    (axes,) = ablation["draw"]([*lines, make_line("swfc", 1, 0, 6)]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ce", "full", "swfc (some folds)"]


@pytest.mark.parametrize("name", ["ablation_rows", "choice_rows"])
def test_every_row_of_the_file_is_made_of_options_that_exist(name: str) -> None:
    rows = ablation["read_rows"](Namespace(rows_file=EXAMPLES / f"{name}.yaml", rows=None))
    for name, row in rows.items():
        for protocol in row.protocols:
            argv = ablation["Run"](protocol, name, 1, 0).command_line(Path("corpora"), row.options, "run")
            parse_arguments([*argv, "--output_dir", "unused"])
            assert not any("{" in argument for argument in argv)
