"""The offline default corpus: spoken by eSpeak NG, the same on every build, fit for the four tasks."""

import csv
import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

pytest.importorskip("espeakng_loader")

from modeling_ser_mtl.data.corpora.espeak import (
    STYLES,
    VOICES,
    WORDS,
    build_corpus,
    default_folder,
    split_sentences,
)
from modeling_ser_mtl.data.errors import InputError

CLIPS = {"train_clips": 8, "validation_clips": 8, "test_clips": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_corpus(tmp_path_factory.mktemp("corpus") / "espeak", **CLIPS).parent


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "manifest.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def clips(folder: Path, rows: list[dict[str, str]]) -> list[np.ndarray]:
    return [sf.read(folder / row["audio"])[0] for row in rows]


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def median_f0(samples: np.ndarray, sampling_rate: int = 16_000) -> float:
    """Median over loud frames of the first high peak of the unbiased autocorrelation between 60 and 400 Hz."""
    size = 640
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[:: size // 2]
    frames = frames[np.sqrt((frames**2).mean(axis=1)) > 0.3 * samples.std()]
    estimates = []
    for frame in frames:
        correlation = np.correlate(frame, frame, "full")[size - 1 :] / np.arange(size, 0, -1)
        lags = np.arange(sampling_rate // 400, sampling_rate // 60)
        around = correlation[lags]
        peaks = lags[
            (around >= correlation[lags - 1]) & (around >= correlation[lags + 1]) & (around > 0.9 * around.max())
        ]
        if len(peaks) and around.max() > 0.5 * correlation[0]:
            estimates.append(sampling_rate / peaks[0])
    return float(np.median(estimates))


def mean_by_emotion(rows: list[dict[str, str]], values: list[float]) -> dict[str, float]:
    return {
        emotion: float(np.mean([value for row, value in zip(rows, values, strict=True) if row["emotion"] == emotion]))
        for emotion in STYLES
    }


def test_manifest_has_the_columns_of_the_contract_and_names_every_file(
    folder: Path, rows: list[dict[str, str]]
) -> None:
    assert list(rows[0]) == ["audio", "emotion", "gender", "speaker_id", "text", "split"]
    assert {row["audio"] for row in rows} == {f"audio/{path.name}" for path in (folder / "audio").iterdir()}
    assert len(rows) == 8 * len(VOICES)


def test_clips_are_16_khz_16_bit_mono_flac(folder: Path, rows: list[dict[str, str]]) -> None:
    for row in rows[::20]:
        info = sf.info(folder / row["audio"])
        assert (info.format, info.subtype, info.samplerate, info.channels) == ("FLAC", "PCM_16", 16_000, 1)


def test_no_clip_reaches_full_scale_or_is_too_short_or_long(clips: list[np.ndarray]) -> None:
    assert max(np.abs(clip).max() for clip in clips) < 0.99
    assert all(0.4 < len(clip) / 16_000 < 4 for clip in clips)


def test_splits_share_no_speaker_and_each_has_both_genders(rows: list[dict[str, str]]) -> None:
    splits = {
        row["speaker_id"]: {other["split"] for other in rows if other["speaker_id"] == row["speaker_id"]}
        for row in rows
    }
    assert all(len(names) == 1 for names in splits.values())
    assert {(row["split"], row["gender"]) for row in rows} == {
        (split, gender) for split in ("train", "validation", "test") for gender in ("female", "male")
    }


def test_at_least_half_of_the_validation_and_test_clips_say_sentences_unknown_to_training(
    rows: list[dict[str, str]],
) -> None:
    known = set(split_sentences(seed=0)[0])
    assert {row["text"] for row in rows if row["split"] == "train"} <= known
    for split in ("validation", "test"):
        texts = [row["text"] for row in rows if row["split"] == split]
        assert sum(text not in known for text in texts) >= len(texts) / 2


def test_sentences_have_three_to_five_words_of_a_small_vocabulary(rows: list[dict[str, str]]) -> None:
    assert {len(row["text"].split()) for row in rows} <= {3, 4, 5}
    assert {word for row in rows for word in row["text"].split()} <= {word for slot in WORDS for word in slot}


def test_each_voice_has_all_emotions_and_neutral_is_the_most_frequent(rows: list[dict[str, str]]) -> None:
    for voice in VOICES:
        counts = Counter(row["emotion"] for row in rows if row["speaker_id"] == voice.speaker_id)
        assert set(counts) == set(STYLES)
        assert counts.most_common(1)[0][0] == "neutral"


def test_neutral_female_voices_are_clearly_higher_than_male_ones(
    rows: list[dict[str, str]], clips: list[np.ndarray]
) -> None:
    for voice in VOICES:
        speech = [
            clip
            for row, clip in zip(rows, clips, strict=True)
            if row["speaker_id"] == voice.speaker_id and row["emotion"] == "neutral"
        ]
        pitch = np.median([median_f0(clip) for clip in speech])
        assert pitch >= 160 if voice.gender == "female" else pitch <= 145, f"{voice.speaker_id}: {pitch:.0f} Hz"


def test_anger_is_loudest_and_sadness_softest(rows: list[dict[str, str]], clips: list[np.ndarray]) -> None:
    level = mean_by_emotion(rows, [20 * np.log10(clip.std()) for clip in clips])
    assert sorted(level, key=level.__getitem__) == ["sadness", "neutral", "happiness", "anger"]
    assert level["anger"] - level["sadness"] > 8


def test_anger_is_fastest_and_sadness_slowest(rows: list[dict[str, str]], clips: list[np.ndarray]) -> None:
    words = [len(row["text"].split()) * 16_000 / len(clip) for row, clip in zip(rows, clips, strict=True)]
    rate = mean_by_emotion(rows, words)
    assert sorted(rate, key=rate.__getitem__) == ["sadness", "neutral", "happiness", "anger"]


def test_happiness_is_highest_and_sadness_lowest(rows: list[dict[str, str]], clips: list[np.ndarray]) -> None:
    pitch = mean_by_emotion(rows, [float(np.log2(median_f0(clip))) for clip in clips])
    assert max(pitch, key=pitch.__getitem__) == "happiness"
    assert min(pitch, key=pitch.__getitem__) == "sadness"


def test_another_process_builds_the_same_bytes(tmp_path: Path) -> None:
    here, there = build_corpus(tmp_path / "here", 5, 1, 1, 1).parent, tmp_path / "there"
    code = "import sys; from modeling_ser_mtl.data.corpora.espeak import build_corpus as b; b(sys.argv[1], 5, 1, 1, 1)"
    subprocess.run([sys.executable, "-c", code, str(there)], check=True, capture_output=True)
    assert hashes(there) == hashes(here)


def test_the_same_process_builds_the_same_bytes_again_and_others_for_another_seed(tmp_path: Path) -> None:
    first, second, other = (
        hashes(build_corpus(tmp_path / name, seed, 1, 1, 1).parent) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == second
    assert first != other


def test_a_finished_corpus_is_reused_untouched(folder: Path) -> None:
    before = (folder / "manifest.csv").stat()
    assert build_corpus(folder, **CLIPS) == folder / "manifest.csv"
    assert (folder / "manifest.csv").stat() == before


def test_an_interrupted_build_leaves_no_folder_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        build_corpus(tmp_path / "espeak", seed=-1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_an_error_and_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds files.*delete it or name another folder") as error:
        build_corpus(tmp_path)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_readme_says_synthetic_and_names_the_licence_of_espeak(folder: Path) -> None:
    text = (folder / "README.txt").read_text(encoding="utf-8")
    assert "Synthetic" in text
    assert "GPL-3.0" in text


def test_default_folder_lies_below_the_hugging_face_home() -> None:
    from huggingface_hub.constants import HF_HOME

    assert default_folder().parent == Path(HF_HOME) / "ser_mtl"
    assert default_folder().name.startswith("espeak-")
