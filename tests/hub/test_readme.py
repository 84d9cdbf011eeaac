"""What the README says about published models runs as written, in a process that can't import the package."""

import ast
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from modeling_ser_mtl import cli
from modeling_ser_mtl.hub.push import publish

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
NAME, REPO = "your-name/your-model", "tester/model"
SNIPPETS = [block for block in re.findall(r"```python\n(.*?)```", README, re.S) if NAME in block]
# What each snippet must have left behind, by a name that only it has.
CHECKS = {
    "emotions": "assert len(emotions) == 2 and set(emotions[0]) == {'score', 'label'}",
    "result": "assert set(result) == {'emotion', 'gender', 'text', 'speaker_embedding', 'task_gates'}",
    "similarity": "assert -1 <= similarity < 0.999999 and abs(np.linalg.norm(first['speaker_embedding']) - 1) < 1e-5",
    "outputs": "assert outputs.logits.shape == (1, 2) and outputs.speaker_embeddings.shape == (1, 192)",
}


def test_there_is_a_snippet_for_each_use() -> None:
    assert len(SNIPPETS) == len(CHECKS)


@pytest.mark.parametrize("name", ["emotions", "result", "similarity"])
def test_a_pipeline_takes_at_most_three_statements(name) -> None:
    (snippet,) = (block for block in SNIPPETS if re.search(rf"^{name} = ", block, re.M))
    assert sum(not isinstance(line, ast.Import | ast.ImportFrom) for line in ast.parse(snippet).body) <= 3


@pytest.mark.parametrize("name", CHECKS)
def test_a_snippet_runs_on_a_published_model(hub, run_folder, make_wav, without_package, tmp_path, name) -> None:
    publish(run_folder, REPO, api=hub.api)
    for index, clip in enumerate(("clip.wav", "a.wav", "b.wav")):
        make_wav(tmp_path / clip, frequency=150 + 100 * index)
    (snippet,) = (block for block in SNIPPETS if re.search(rf"^{name} = ", block, re.M))
    process = subprocess.run(
        without_package(snippet.replace(NAME, REPO) + CHECKS[name]),
        cwd=tmp_path,
        env=hub.environment(tmp_path / "home"),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]


def test_the_push_command_runs(hub, logged_in, run_folder) -> None:
    command = re.search(r"ser-mtl (push .*)", README).group(1)
    argv = [{"outputs/mine": str(run_folder), NAME: REPO}.get(word, word) for word in shlex.split(command)]
    cli.main(argv)
    assert hub.files(REPO, "v1.0") == hub.files(REPO)
