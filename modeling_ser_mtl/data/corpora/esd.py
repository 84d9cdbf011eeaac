"""ESD: emotional speech dataset, in Mandarin and English."""

import codecs
import re
from functools import partial
from pathlib import Path

import pandas as pd

from .definition import Corpus, find_files, read_clips

EMOTIONS = {
    "Angry": "anger",
    "Happy": "happiness",
    "Neutral": "neutral",
    "Sad": "sadness",
    "Surprise": "surprise",
}
# As ReadMe.txt of the release tells.
LANGUAGES = {f"{speaker:04d}": "zh" if speaker <= 10 else "en" for speaker in range(1, 21)}
MALE = (4, 5, 6, 8, 10, 11, 12, 13, 14, 20)
GENDERS = {speaker: "male" if int(speaker) in MALE else "female" for speaker in LANGUAGES}
SPLITS = {"train": "train", "evaluation": "validation", "test": "test", "": ""}

# Utterance, text, emotion: some lines have spaces in place of the second tab.
LINE = re.compile(rf"(\d{{4}}_\d{{6}})\s+(.+?)(?:\t.*|\s+(?:{'|'.join(EMOTIONS)}))?\s*")


def _decode(path: Path) -> str:
    """A speaker's transcripts, which are in UTF-16, UTF-8 or the encoding of their language."""
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("gb18030" if LANGUAGES.get(path.stem) == "zh" else "cp1252", errors="replace")


def _listed(folder: Path) -> pd.DataFrame:
    lines = [line for path in find_files(folder, "[0-9][0-9][0-9][0-9].txt") for line in _decode(path).splitlines()]
    matches = [match for match in map(LINE.fullmatch, lines) if match]
    names = [f"{match[1]}.wav" for match in matches]
    return pd.DataFrame([match.groups() for match in matches], index=names, columns=["_utterance", "text"])


ESD = Corpus(
    name="esd",
    title="ESD, Emotional Speech Dataset",
    license="on request, for research (National University of Singapore and SUTD)",
    url="https://github.com/HLTSingapore/Emotional-Speech-Data",
    citation="Zhou, Sisman, Liu & Li: Emotional Voice Conversion: Theory, Databases and ESD, Speech Communication 137, "
    "2022",
    languages=("zh", "en"),
    # The folder "Emotion Speech Dataset" of the release; later copies lack the innermost folders.
    layout="0001/0001.txt and 0001/Angry/train/0001_000351.wav (or 0001/Angry/0001_000351.wav), ...",
    emotions=EMOTIONS,
    num_clips=35000,
    read=partial(
        read_clips,
        pattern=r"(?P<speaker_id>\d{4})/(?P<emotion>\w+)/(?:(?P<published_split>train|evaluation|test)/)?"
        r"(?P<_utterance>\d{4}_\d{6})",
        columns={
            "emotion": ("emotion", EMOTIONS),
            "gender": ("speaker_id", GENDERS),
            "language": ("speaker_id", LANGUAGES),
            # Not `split`: every speaker is in all three.
            "published_split": ("published_split", SPLITS),
        },
        listed=_listed,
    ),
)
