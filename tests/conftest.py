import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile


@pytest.fixture(scope="session")
def corpora() -> Path:
    """Folder of real speech corpora, each a folder with `manifest.csv` and `audio/`; skips where there is none."""
    default = Path(__file__).resolve().parents[2] / "shared" / "corpora"
    folder = Path(os.environ.get("SER_MTL_CORPORA", default))
    if not folder.is_dir():
        pytest.skip("no speech corpora: set SER_MTL_CORPORA to their folder")
    return folder


@pytest.fixture(scope="session")
def make_wav() -> Callable[..., Path]:
    """Writes a sine tone of amplitude .5 to `path` (folders made as needed) and returns the path."""

    def make(
        path: str | os.PathLike,
        seconds: float = 1.0,
        sampling_rate: int = 16_000,
        frequency: float = 200,
        channels: int = 1,
    ) -> Path:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(round(seconds * sampling_rate)) / sampling_rate
        tone = 0.5 * np.sin(2 * np.pi * frequency * time)
        soundfile.write(path, np.tile(tone[:, None], channels), sampling_rate)
        return path

    return make
