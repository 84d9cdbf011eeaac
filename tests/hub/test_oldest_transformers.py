"""The oldest supported transformers, with the huggingface_hub that goes with it, publishes and loads too."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
REQUIREMENTS = Path(__file__).with_name("requirements-oldest.txt")
# What travels with a model, and its way over the Hub and back.
SUITE = ("hub/test_push.py", "hub/test_readme.py", "hub/test_handler.py", "hub/test_hub_double.py")
SUITE += ("test_pipeline_ser_mtl.py", "test_modeling_ser_mtl.py", "end_to_end/test_remote_code.py")


@pytest.mark.slow
def test_models_are_published_and_loaded_by_the_oldest_transformers(tmp_path) -> None:
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path)]
    installed = subprocess.run([*install, "-r", str(REQUIREMENTS)], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"the oldest transformers can't be had: {installed.stderr.splitlines()[-1]}")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    versions = "import transformers, huggingface_hub; print(transformers.__version__, huggingface_hub.__version__)"
    found = subprocess.run([sys.executable, "-P", "-c", versions], env=environment, capture_output=True, text=True)
    wanted = re.findall(r"^(?:transformers|huggingface_hub)==(.*)$", REQUIREMENTS.read_text(), re.M)
    assert found.stdout.split() == wanted, found.stderr[-2000:]
    suite = [str(TESTS / name) for name in SUITE]
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *suite]
    result = subprocess.run(run, env=environment, cwd=TESTS.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-5000:]
