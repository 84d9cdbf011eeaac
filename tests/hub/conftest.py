from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

import run_ser_mtl

from .hub_double import HubDouble


@pytest.fixture(scope="package")
def run_folder(clips, tiny_config, tmp_path_factory) -> Path:
    """The output folder of a short training on all four tasks."""
    folder = tmp_path_factory.mktemp("run")
    clips.to_csv(folder / "all.csv", index=False)
    run_ser_mtl.main(
        ["--config_name", str(tiny_config()), "--train_file", str(folder / "all.csv"), "--output_dir"]
        + [str(folder / "model"), "--do_train", "--num_train_epochs", "1", "--use_cpu", "--disable_tqdm", "True"]
    )
    return folder / "model"


@pytest.fixture
def hub() -> Iterator[HubDouble]:
    """A Hub of this test, which must know all that it is asked for."""
    with HubDouble() as double:
        yield double
        assert double.unknown_requests == []


@pytest.fixture
def logged_in(hub: HubDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is made without saying so talks to `hub` and may write."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", hub.token)
