"""A small synthetic emotional speech corpus, spoken offline by eSpeak NG: the default when no data is given."""

import csv
import ctypes
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import soxr
from huggingface_hub.constants import HF_HOME
from tqdm.auto import tqdm

from modeling_ser_mtl.data.errors import InputError

RECIPE_VERSION = "1"
SAMPLING_RATE = 16_000
STAMP = "recipe.json"
COLUMNS = ("audio", "emotion", "gender", "speaker_id", "text", "split")

NEUTRAL_RMS = 0.03  # -30 dBFS: the loudest anger stays below full scale
NOISE_RMS = 0.0003  # -70 dBFS of room noise, so that pauses are not digital zeros
SYNTHESIS_VOLUME = 30  # eSpeak clips some voices at its default of 100


@dataclass(frozen=True)
class Voice:
    """
    One speaker: an eSpeak language and variant, with the settings of its neutral speech.

    Args:
        language (`str`): eSpeak language name, i.e. the accent.
        variant (`str`): file under `voices/!v` in eSpeak's data; also the speaker id, in lower case.
        gender (`str`): `"female"` (median f0 of neutral speech at least 165 Hz) or `"male"` (at most 140 Hz).
        split (`str`): `"train"`, `"validation"` or `"test"`.
        pitch (`int`): eSpeak pitch, 0 to 99; 50 units are an octave.
        pitch_range (`int`): eSpeak pitch range, 0 to 99.
        rate (`int`): words per minute.
    """

    language: str
    variant: str
    gender: str
    split: str
    pitch: int
    pitch_range: int
    rate: int

    @property
    def speaker_id(self) -> str:
        """The variant in lower case."""
        return self.variant.lower()


# Pitch, range and rate were measured: each voice has a median f0 of its own, all speak about equally fast and lively.
VOICES = (
    Voice("en-us", "f1", "female", "train", 45, 48, 196),
    Voice("en-gb-scotland", "f3", "female", "train", 42, 33, 176),
    Voice("en-gb-x-rp", "f4", "female", "train", 53, 52, 192),
    Voice("en-us", "f5", "female", "train", 49, 48, 194),
    Voice("en-us", "Andrea", "female", "train", 40, 60, 137),
    Voice("en-gb-x-gbclan", "Annie", "female", "train", 47, 30, 186),
    Voice("en-us", "belinda", "female", "train", 39, 60, 189),
    Voice("en-us", "anika", "female", "train", 33, 43, 137),
    Voice("en-us-nyc", "steph", "female", "train", 53, 60, 183),
    Voice("en-us-nyc", "Alicia", "female", "validation", 34, 41, 208),
    Voice("en-us", "shelby", "female", "validation", 59, 30, 185),
    Voice("en-us", "f2", "female", "test", 54, 40, 194),
    Voice("en-gb-x-rp", "linda", "female", "test", 41, 60, 187),
    Voice("en-us", "aunty", "female", "test", 52, 60, 192),
    Voice("en-us", "marcelo", "male", "train", 87, 43, 186),
    Voice("en-us", "Denis", "male", "train", 58, 51, 187),
    Voice("en-us-nyc", "Gene", "male", "train", 64, 60, 183),
    Voice("en-gb-x-gbclan", "Michael", "male", "train", 71, 30, 188),
    Voice("en-us", "m1", "male", "train", 49, 49, 187),
    Voice("en-us", "m4", "male", "train", 44, 36, 200),
    Voice("en-gb-x-rp", "m5", "male", "train", 59, 60, 180),
    Voice("en-us", "miguel", "male", "train", 72, 47, 186),
    Voice("en-gb-scotland", "robert", "male", "train", 48, 30, 173),
    Voice("en-us", "m2", "male", "validation", 64, 60, 191),
    Voice("en-us-nyc", "victor", "male", "validation", 50, 56, 184),
    Voice("en-us", "m3", "male", "test", 48, 42, 177),
    Voice("en-us", "m7", "male", "test", 71, 45, 186),
    Voice("en-gb-x-rp", "max", "male", "test", 52, 51, 180),
)


@dataclass(frozen=True)
class Style:
    """
    How an emotion differs from a voice's neutral speech.

    Args:
        share (`float`): of the clips, in [0, 1]; those of all emotions sum to 1.
        semitones (`float`): shift of the pitch.
        pitch_range (`float`): factor on the pitch range, above 0.
        rate (`float`): factor on the speaking rate, above 0.
        decibels (`float`): change of the level.
        pause (`int`): added between words, in units of 10 ms, 0 or more.
    """

    share: float
    semitones: float
    pitch_range: float
    rate: float
    decibels: float
    pause: int


STYLES = {
    "neutral": Style(share=0.40, semitones=0, pitch_range=1.0, rate=1.0, decibels=0, pause=0),
    "anger": Style(share=0.25, semitones=-1, pitch_range=1.8, rate=1.25, decibels=6, pause=0),
    "happiness": Style(share=0.20, semitones=5, pitch_range=1.7, rate=1.1, decibels=2, pause=0),
    "sadness": Style(share=0.15, semitones=-3, pitch_range=0.5, rate=0.8, decibels=-6, pause=3),
}

WORDS = (
    ("the", "my", "our", "this"),
    ("", "red", "big", "old", "new", "small"),
    ("bird", "dog", "man", "girl", "boat", "child", "friend"),
    ("sings", "runs", "falls", "sleeps", "works", "moves"),
    ("", "now", "here", "today", "again", "alone"),
)
TRAIN_SENTENCES = 800


def default_folder() -> Path:
    """Where the corpus is kept between runs: below the Hugging Face home."""
    return Path(HF_HOME) / "ser_mtl" / f"espeak-{RECIPE_VERSION}"


def build_corpus(
    folder: Path, seed: int = 0, train_clips: int = 75, validation_clips: int = 40, test_clips: int = 40
) -> Path:
    """
    Speaks the corpus into a folder, unless it already holds the same one.

    The same arguments and the same eSpeak NG give the same files, byte for byte.

    Args:
        folder (`Path`): receives `audio/*.flac` (16 kHz, 16 bit, mono), `manifest.csv`, `README.txt` and, as stamp,
            `recipe.json`.
        seed (`int`, *optional*, defaults to 0): draws sentences, emotions and the clip-to-clip variation; 0 or more.
        train_clips, validation_clips, test_clips (`int`, *optional*, defaults to 75, 40 and 40): clips per voice of a
            split; from 7 on, each voice has all emotions.

    Returns:
        `Path`: `manifest.csv` (`audio`, `emotion`, `gender`, `speaker_id`, `text`, `split`). Splits share no voice.

    Raises:
        InputError: `folder` holds something else, or eSpeak NG is not installed.
    """
    folder = Path(folder)
    clips = {"train": train_clips, "validation": validation_clips, "test": test_clips}
    recipe = {"version": RECIPE_VERSION, "seed": seed, "clips_per_voice": clips}
    if _holds(folder, recipe):
        return folder / "manifest.csv"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder}: holds files, but not the eSpeak corpus {json.dumps(recipe)}; delete it or name another folder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        draft = Path(temporary) / folder.name
        (draft / "audio").mkdir(parents=True)
        _speak_corpus(draft, seed, clips)
        (draft / STAMP).write_text(json.dumps(recipe) + "\n", encoding="utf-8")
        try:
            draft.replace(folder)
        except OSError:  # another process was faster: its corpus is the same
            if not _holds(folder, recipe):
                raise
    return folder / "manifest.csv"


def _holds(folder: Path, recipe: dict[str, Any]) -> bool:
    """Whether a finished corpus of this recipe lies in `folder`: the stamp arrives with all the rest, or not at all."""
    stamp = folder / STAMP
    return stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == recipe


def _speak_corpus(folder: Path, seed: int, clips: dict[str, int]) -> None:
    """Write audio, manifest and README into `folder`."""
    known, unseen = split_sentences(seed)
    rows = []
    with _espeak() as espeak, tqdm(total=sum(clips[v.split] for v in VOICES), desc="eSpeak corpus", unit="clip") as bar:
        for index, voice in enumerate(VOICES):
            rng = np.random.default_rng([seed, index])
            gain = NEUTRAL_RMS / _rms(_render(espeak, voice, STYLES["neutral"], "the red bird sings now"))
            for number, emotion in enumerate(_emotions(clips[voice.split], rng)):
                pool = known if voice.split == "train" or number % 2 else unseen
                text = pool[rng.integers(len(pool))]
                style = vary(STYLES[emotion], rng)
                speech = gain * 10 ** (style.decibels / 20) * _render(espeak, voice, style, text)
                speech = speech + rng.normal(0, NOISE_RMS, len(speech))
                audio = f"audio/{voice.speaker_id}-{number:03d}.flac"
                sf.write(folder / audio, speech, SAMPLING_RATE, subtype="PCM_16")
                rows.append((audio, emotion, voice.gender, voice.speaker_id, text, voice.split))
                bar.update()
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    (folder / "README.txt").write_text(README.format(version=version("espeakng-loader"), seed=seed), encoding="utf-8")


def split_sentences(seed: int) -> tuple[list[str], list[str]]:
    """
    Disjoint sentences of the grammar, 3 to 5 words each.

    Args:
        seed (`int`): seed of the order, 0 or more.

    Returns:
        `tuple[list[str], list[str]]`: the 800 of training, and those it never speaks.
    """
    sentences = [" ".join(filter(None, words)) for words in itertools.product(*WORDS)]
    order = np.random.default_rng(seed).permutation(len(sentences))
    shuffled = [sentences[i] for i in order]
    return shuffled[:TRAIN_SENTENCES], shuffled[TRAIN_SENTENCES:]


def vary(style: Style, rng: np.random.Generator) -> Style:
    """
    One clip's own version of a style: everything but its share jitters, so that the emotions overlap a little.

    Args:
        style ([`Style`]): of the clip's emotion.
        rng (`np.random.Generator`): source of the jitter.
    """
    return Style(
        share=style.share,
        semitones=style.semitones + rng.normal(0, 0.8),
        pitch_range=style.pitch_range * np.exp(rng.normal(0, 0.15)),
        rate=style.rate * np.exp(rng.normal(0, 0.05)),
        decibels=style.decibels + rng.normal(0, 1.5),
        pause=style.pause + int(rng.integers(0, 3)),
    )


def _emotions(count: int, rng: np.random.Generator) -> list[str]:
    """`count` emotions in random order, as close to the shares as whole clips allow."""
    bounds = np.cumsum([style.share for style in STYLES.values()])
    picked = np.searchsorted(bounds, (np.arange(count) + 0.5) / count)
    return [list(STYLES)[i] for i in rng.permutation(picked)]


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(samples**2)))


class _Espeak:
    """A fresh instance of the eSpeak NG library in synchronous mode."""

    _RATE, _VOLUME, _PITCH, _RANGE, _WORD_GAP = 1, 2, 3, 4, 7  # espeak_PARAMETER
    _SYNCHRONOUS, _DONT_EXIT, _UTF8 = 2, 0x8000, 1

    def __init__(self, library: Path, data: Path) -> None:
        self._chunks: list[np.ndarray] = []
        self._library = ctypes.CDLL(str(library))
        self._library.espeak_Synth.argtypes = [
            *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int),
            *(ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p),
        ]
        self.sampling_rate: int = self._library.espeak_Initialize(
            self._SYNCHRONOUS, 0, str(data).encode(), self._DONT_EXIT
        )
        if self.sampling_rate <= 0:
            raise InputError(f"{data}: eSpeak NG cannot read its data there; reinstall espeakng-loader")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # eSpeak seeds itself by the clock
        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int16), ctypes.c_int, ctypes.c_void_p)
        self._callback = callback(self._collect)  # kept: C holds only the address
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: Any, count: int, events: Any) -> int:
        if samples and count:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(self, voice: str, text: str, rate: int, pitch: int, pitch_range: int, word_gap: int) -> np.ndarray:
        """Samples of `text`, int16 at `sampling_rate`."""
        self._chunks.clear()
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise InputError(f"voice {voice!r} is not in eSpeak NG's data; reinstall espeakng-loader")
        settings = {
            self._RATE: rate,
            self._VOLUME: SYNTHESIS_VOLUME,
            self._PITCH: pitch,
            self._RANGE: pitch_range,
            self._WORD_GAP: word_gap,
        }
        for parameter, value in settings.items():
            self._library.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode() + b"\0"
        self._library.espeak_Synth(encoded, len(encoded), 0, 1, 0, self._UTF8, None, None)
        return np.concatenate(self._chunks)

    def close(self) -> None:
        self._library.espeak_Terminate()


@contextmanager
def _espeak() -> Iterator[_Espeak]:
    """eSpeak NG as if just started, whatever this process did with it before.

    The library keeps oscillator phases across utterances and even across `espeak_Terminate`; loaded from a copy of its
    file it gets variables of its own, so the same calls in the same order give the same samples.
    """
    try:
        import espeakng_loader
    except ImportError as error:
        raise InputError("eSpeak corpus: espeakng-loader is not installed; pip install espeakng-loader") from error
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        library = shutil.copy(espeakng_loader.get_library_path(), temporary)
        espeak = _Espeak(Path(library), Path(espeakng_loader.get_data_path()))
        try:
            yield espeak
        finally:
            espeak.close()


def _render(espeak: _Espeak, voice: Voice, style: Style, text: str) -> np.ndarray:
    """Speech in `voice` and `style` at 16 kHz, float in [-1, 1]; the level is not yet the style's."""
    samples = espeak.speak(
        voice=f"{voice.language}+{voice.variant}",
        text=text,
        rate=round(voice.rate * style.rate),
        pitch=int(np.clip(round(voice.pitch + style.semitones * 50 / 12), 0, 99)),
        pitch_range=int(np.clip(round(voice.pitch_range * style.pitch_range), 0, 99)),
        word_gap=style.pause,
    )
    return soxr.resample(samples / 32768, espeak.sampling_rate, SAMPLING_RATE)


README = """\
Synthetic emotional speech, for trying things out. No person was recorded: results on it say nothing about real speech.

Spoken by eSpeak NG (espeakng-loader {version}), seed {seed}. Each speaker is one of its voice variants; the four
emotions are changes of pitch, pitch range, speaking rate, level and pauses relative to the voice's neutral speech, with
random variation per clip; the sentences come from a small grammar. Validation and test have voices of their own, and
half of their clips say sentences that training never says.

eSpeak NG is GPL-3.0 software: https://github.com/espeak-ng/espeak-ng
"""
