"""A data set of the Hub is read by its labels first, and streamed without being downloaded."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Audio, Dataset

LOAD = """
import json, sys
import numpy as np
from modeling_ser_mtl.data.hub_dataset import load_dataset_splits

streaming = sys.argv[1] == "streamed"
mapping = {"audio": "clip", "speaker_id": "actor"}
split = load_dataset_splits("tester/speech", None, ["emotion"], column_mapping=mapping, streaming=streaming)["train"]
clips = split.audio
if streaming and len(sys.argv) > 2:
    clips = [item["bytes"] for item in split.stream.read(np.arange(4))]
print(json.dumps({"speakers": split.table["speaker"].tolist(), "sizes": [len(clip) for clip in clips]}))
"""
CLIP_BYTES = 2**20


@pytest.fixture
def dataset(hub, tmp_path):
    """`tester/speech` on the Hub: two Parquet files of two clips of 1 MiB."""
    random = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for number in range(2):
        clips = [{"bytes": random.bytes(CLIP_BYTES), "path": None} for _ in range(2)]
        rows = Dataset.from_dict({"clip": clips, "emotion": ["joy", None], "actor": [number, 7]})
        file = tmp_path / "data" / f"train-{number:05d}-of-00002.parquet"
        rows.cast_column("clip", Audio(decode=False)).to_parquet(file)
    hub.api.create_repo("tester/speech", repo_type="dataset")
    hub.api.upload_folder(
        repo_id="tester/speech", repo_type="dataset", folder_path=tmp_path / "data", path_in_repo="data"
    )


@pytest.fixture
def load(hub, dataset, tmp_path):
    """Loads it in a process of its own; gives what that says and how many bytes of the files it asked for."""

    def run(*options: str) -> tuple[dict[str, list], int]:
        start = len(hub.requests)
        environment = hub.environment(tmp_path / "home") | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        result = subprocess.run(
            [sys.executable, "-c", LOAD, *options], env=environment, capture_output=True, text=True, timeout=120
        )
        assert result.returncode == 0, result.stderr[-3000:]
        asked = 0
        for request in hub.requests[start:]:
            if request.method == "GET" and request.path.endswith(".parquet"):
                span = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
                asked += int(span[2]) - int(span[1]) + 1 if span else 2 * CLIP_BYTES
        return json.loads(result.stdout.splitlines()[-1]), asked

    return run


def test_a_dataset_of_the_hub_is_downloaded_under_our_names(load) -> None:
    found, asked = load("downloaded")
    assert found == {"speakers": ["speech/0", "speech/7", "speech/1", "speech/7"], "sizes": [CLIP_BYTES] * 4}
    assert asked >= 4 * CLIP_BYTES


def test_a_stream_asks_the_hub_for_labels_first_and_for_audio_when_it_is_read(load, tmp_path) -> None:
    found, asked = load("streamed")
    assert found["speakers"] == ["speech/0", "speech/7", "speech/1", "speech/7"] and asked < CLIP_BYTES
    found, asked = load("streamed", "and read")
    assert found["sizes"] == [CLIP_BYTES] * 4 and asked >= 4 * CLIP_BYTES
    # Nothing of it stays on the disk.
    assert sum(path.stat().st_size for path in (tmp_path / "home").rglob("*") if path.is_file()) < CLIP_BYTES
