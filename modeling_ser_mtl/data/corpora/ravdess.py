"""RAVDESS: Ryerson audio-visual database of emotional speech and song, the speech part."""

from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd

from .definition import Corpus, read_clips

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happiness",
    "04": "sadness",
    "05": "anger",
    "06": "fear",
    "07": "disgust",
    "08": "surprise",
}
INTENSITIES = {"01": "normal", "02": "strong"}
STATEMENTS = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
GENDERS = {f"{actor:02d}": "male" if actor % 2 else "female" for actor in range(1, 25)}


def _listed(folder: Path) -> pd.DataFrame:
    """The release's 1,440 clips: all combinations, but for a strong neutral."""
    names, codes = [], []
    for emotion, intensity, statement, take, actor in product(EMOTIONS, INTENSITIES, STATEMENTS, ("01", "02"), GENDERS):
        if (emotion, intensity) != ("01", "02"):
            names.append(f"Actor_{actor}/03-01-{emotion}-{intensity}-{statement}-{take}-{actor}.wav")
            codes.append((emotion, intensity, statement, take, actor))
    return pd.DataFrame(codes, index=names, columns=["emotion", "intensity", "_statement", "_take", "speaker_id"])


RAVDESS = Corpus(
    name="ravdess",
    title="RAVDESS, speech",
    license="CC BY-NC-SA 4.0",
    url="https://zenodo.org/records/1188976",
    citation="Livingstone & Russo: The Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS), PLoS ONE "
    "13(5), 2018",
    languages=("en",),
    # File names as explained on the page of the release; 03-01 is audio only, speech.
    layout="Actor_01/03-01-06-01-02-01-01.wav, ...",
    emotions=EMOTIONS,
    num_clips=1440,
    read=partial(
        read_clips,
        pattern=r"03-01-(?P<emotion>\d\d)-(?P<intensity>\d\d)-(?P<_statement>\d\d)-(?P<_take>\d\d)-(?P<speaker_id>\d\d)",
        columns={
            "emotion": ("emotion", EMOTIONS),
            "gender": ("speaker_id", GENDERS),
            "text": ("_statement", STATEMENTS),
            "intensity": ("intensity", INTENSITIES),
        },
        listed=_listed,
    ),
)
