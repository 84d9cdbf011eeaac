"""Samples for the model page: audio files of the repository with this model's own scores."""

import itertools
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from ..data.audio import SAMPLING_RATE, load_audio
from ..data.errors import InputError
from ..modeling_ser_mtl import SerMtlModel
from ..processing_ser_mtl import SerMtlProcessor

FOLDER = "widget"
SUFFIXES = (".wav", ".flac")
MAX_SAMPLES = 8
MAX_BYTES = 10 * 2**20
# Clips of the synthetic corpus, each of another emotion.
SYNTHETIC_SAMPLES = 4


@dataclass(frozen=True)
class WidgetSample:
    """
    One example of the Hub's audio-classification widget, field by field as in the card's YAML.

    Args:
        src (`str`): path of the audio file in the repository.
        example_title (`str`): what the page calls it.
        output (`list[dict[str, str | float]]`): `label` and `score` of every emotion, the likeliest first; the scores
            are probabilities.
    """

    src: str
    example_title: str
    output: list[dict[str, str | float]]


def check_widget_samples(paths: Sequence[str], tasks: Sequence[str], max_seconds: float) -> dict[str, str]:
    """
    Checks audio files that are to be published, before a training pays for a typing error.

    Args:
        paths (`Sequence[str]`): WAV or FLAC files.
        tasks (`Sequence[str]`): tasks of the model; samples are shown with their emotions.
        max_seconds (`float`): longest clip, so that the model reads each in one piece.

    Returns:
        `dict[str, str]`: path by title, which is the name that the file will have in the repository.

    Raises:
        InputError: files for a model without emotions, too many of them, or one that is missing, of another format,
            too large, too long, undecodable, or of the same published name as another.
    """
    if paths and "emotion" not in tasks:
        raise InputError(
            f"--widget_samples: the model has no emotions to show, only {' '.join(tasks)}; drop the option"
        )
    if len(set(paths)) > MAX_SAMPLES:
        raise InputError(f"--widget_samples: found {len(set(paths))} files; give {MAX_SAMPLES} or fewer")
    names: dict[str, str] = {}
    for path in paths:
        file = Path(path)
        if file.suffix.lower() not in SUFFIXES or not file.is_file():
            raise InputError(f"--widget_samples {path}: no such file; give one that ends in {' or '.join(SUFFIXES)}")
        if file.stat().st_size > MAX_BYTES:
            raise InputError(f"--widget_samples {path}: {file.stat().st_size} bytes; {MAX_BYTES} or fewer are allowed")
        seconds = len(load_audio(path)) / SAMPLING_RATE
        if seconds > max_seconds:
            raise InputError(f"--widget_samples {path}: {seconds:.1f} s; at most {max_seconds:g} s are allowed, cut it")
        other = names.setdefault(_published_name(file), path)
        if other != path:
            raise InputError(f"--widget_samples {path}: would be published under the name of {other}; rename one")
    return names


def synthetic_samples(table: pd.DataFrame, already: int = 0) -> dict[str, str]:
    """
    The first clips of up to four emotions, which anyone may publish since no person was recorded.

    Args:
        table (`pd.DataFrame`): a set of the synthetic corpus, with `emotion`, `speaker_id` and `audio_path`.
        already (`int`): number of samples that the model has; theirs and these are limited together.

    Returns:
        `dict[str, str]`: path by title.
    """
    wanted = min(SYNTHETIC_SAMPLES, MAX_SAMPLES - already)
    clips = table[table["emotion"] != ""].drop_duplicates("emotion").sort_values("emotion")[:wanted]
    return {
        f"{emotion}, synthetic voice {voice}": path
        for emotion, voice, path in zip(clips["emotion"], clips["speaker_id"], clips["audio_path"], strict=True)
    }


def write_widget(folder: str | Path, samples: Mapping[str, str], replace: bool = False) -> list[WidgetSample]:
    """
    Copies samples into `folder`/widget and scores each alone with the model that is saved in `folder`. One under the
    name of another of `samples` gets a number; one under the name of a file that is there takes its place.

    Args:
        folder (`str` or `Path`): a saved model that recognises emotions, with its processor.
        samples (`Mapping[str, str]`): path by title, WAV or FLAC.
        replace (`bool`): whether the samples that are there go; by default these join them.

    Returns:
        `list[WidgetSample]`: an entry of the card per sample, in their order.
    """
    target = Path(folder) / FOLDER
    # Read before anything goes: a sample may be one of those that are there.
    contents = {title: Path(path).read_bytes() for title, path in samples.items()}
    waveforms = {title: load_audio(path) for title, path in samples.items()}
    if replace and target.is_dir():
        shutil.rmtree(target)
    if not samples:
        return []
    target.mkdir(exist_ok=True)
    model, processor = SerMtlModel.from_pretrained(folder), SerMtlProcessor.from_pretrained(folder)
    entries: list[WidgetSample] = []
    names: set[str] = set()
    for title, path in samples.items():
        name = _free_name(Path(path), names)
        names.add(name)
        (target / name).write_bytes(contents[title])
        with torch.no_grad():
            logits = model(**processor(waveforms[title], sampling_rate=SAMPLING_RATE)).logits
        scores, order = model.emotion_probabilities(logits)[0].sort(descending=True)
        output: list[dict[str, str | float]] = [
            {"label": model.config.id2label[int(label)], "score": round(float(score), 4)}
            for score, label in zip(scores, order, strict=True)
        ]
        entries.append(WidgetSample(f"{FOLDER}/{name}", title, output))
    return entries


def join_widget(folder: str | Path, own: Sequence[WidgetSample], samples: Mapping[str, str]) -> list[WidgetSample]:
    """
    Adds samples to those that a model has, as [`write_widget`]. One that has the content or the name of another takes
    its place.

    Args:
        folder (`str` or `Path`): a saved model that recognises emotions, with its processor and its own samples.
        own (`Sequence[WidgetSample]`): these.
        samples (`Mapping[str, str]`): path by title, of [`check_widget_samples`].

    Returns:
        `list[WidgetSample]`: the model's own that stay, and an entry per sample.

    Raises:
        InputError: together they are too many.
    """
    names = {_published_name(Path(path)) for path in samples.values()}
    contents = {Path(path).read_bytes() for path in samples.values()}

    def given_again(sample: WidgetSample) -> bool:
        file = Path(folder, sample.src)
        return file.name in names or file.read_bytes() in contents

    replaced = {sample.src for sample in own if given_again(sample)}
    kept = [sample for sample in own if sample.src not in replaced]
    if samples and len(kept) + len(samples) > MAX_SAMPLES:
        raise InputError(
            f"--widget_samples: found {len(samples)} files beside {len(kept)} others that the model has; give "
            f"{max(MAX_SAMPLES - len(kept), 0)} or fewer"
        )
    added = write_widget(folder, samples)
    for name in replaced.difference(sample.src for sample in added):
        Path(folder, name).unlink()
    return [*kept, *added]


def _free_name(path: Path, taken: Collection[str]) -> str:
    """The published name of `path`, with a number where it is `taken`."""
    name = _published_name(path)
    numbered = (f"{Path(name).stem}-{number}{Path(name).suffix}" for number in itertools.count(2))
    return next(free for free in itertools.chain([name], numbered) if free not in taken)


def _published_name(path: Path) -> str:
    """A name that needs no escape in an address."""
    return re.sub("[^A-Za-z0-9._-]+", "-", path.stem) + path.suffix.lower()
