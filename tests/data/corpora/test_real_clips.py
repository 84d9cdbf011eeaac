"""Real corpora, laid out as they are released, give the manifests that came with them."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from modeling_ser_mtl.data.corpora.prepare import prepare
from modeling_ser_mtl.data.manifest import read_manifest

LABELS = ["emotion", "gender", "speaker_id", "text"]


def ravdess(stem: str) -> str:
    return f"Actor_{stem[-2:]}/{stem}"


def emodb(stem: str) -> str:
    return f"wav/{stem}"


def nemo(stem: str) -> str:
    return f"samples/{stem}"


def librispeech(stem: str) -> str:
    speaker, chapter, _ = stem.split("-")
    return f"LibriSpeech/test-other/{speaker}/{chapter}/{stem}"


def write_no_list(folder: Path, manifest: pd.DataFrame) -> None:
    pass


def write_nemo_list(folder: Path, manifest: pd.DataFrame) -> None:
    table = pd.DataFrame(
        {
            "file_id": manifest["stem"] + ".wav",
            "emotion": manifest["stem"].str.split("_").str[1],
            "raw_text": manifest["text"],
            "normalized_text": manifest["text"].str.lower(),
            "speaker_id": "        " + manifest["speaker_id"],
            "gender": manifest["gender"],
            "age": "25",
        }
    )
    table.to_csv(folder / "data.tsv", sep="\t", index=False)


def write_librispeech_lists(folder: Path, manifest: pd.DataFrame) -> None:
    root = folder / "LibriSpeech"
    speakers = manifest.drop_duplicates("speaker_id")
    lines = [
        f"{clip.speaker_id:<4} | {clip.gender[0].upper()} | test-other | 8.0 | A Reader"
        for clip in speakers.itertuples()
    ]
    (root / "SPEAKERS.TXT").write_text("\n".join([";ID  |SEX| SUBSET | MINUTES| NAME", *lines]))
    for chapter, clips in manifest.groupby(manifest["stem"].str.rsplit("-", n=1).str[0]):
        path = root / "test-other" / chapter.replace("-", "/") / f"{chapter}.trans.txt"
        path.write_text("".join(f"{clip.stem} {clip.text}\n" for clip in clips.itertuples()))


RELEASES: dict[str, tuple[Callable[[str], str], Callable[[Path, pd.DataFrame], None]]] = {
    "ravdess": (ravdess, write_no_list),
    "emodb": (emodb, write_no_list),
    "nemo": (nemo, write_nemo_list),
    "librispeech": (librispeech, write_librispeech_lists),
}


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_gives_the_labels_of_its_manifest(name, corpora, tmp_path):
    official, write_lists = RELEASES[name]
    expected = read_manifest(corpora / name / "manifest.csv")
    expected["stem"] = expected["audio"].map(lambda audio: Path(audio).stem)
    for clip in expected.itertuples():
        path = tmp_path / name / f"{official(clip.stem)}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(clip.audio_path)
    write_lists(tmp_path / name, expected)

    reading = prepare(name, tmp_path / name, tmp_path / "manifest.csv")
    found = read_manifest(tmp_path / "manifest.csv")
    found["stem"] = found["audio"].map(lambda audio: Path(audio).stem)
    assert found.set_index("stem")[LABELS].sort_index().equals(expected.set_index("stem")[LABELS].sort_index())
    assert set(found["corpus"]) == {name}
    assert reading.missing == reading.unexpected == []
