import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest


@pytest.fixture
def lay_out(tmp_path: Path, make_wav: Callable[..., Path]) -> Callable[..., Path]:
    """Writes a corpus in miniature: `lay_out(audio files, {list: content})` returns its folder."""

    def make(audio: Iterable[str], lists: Mapping[str, str | bytes] | None = None) -> Path:
        folder = tmp_path / "corpus"
        folder.mkdir()
        samples = {suffix: make_wav(tmp_path / f"sample{suffix}", seconds=0.05) for suffix in (".wav", ".flac", ".mp3")}
        for name in audio:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(samples[Path(name).suffix.lower()], folder / name)
        for name, content in (lists or {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    return make
