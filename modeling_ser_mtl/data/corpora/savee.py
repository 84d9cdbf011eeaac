"""SAVEE: Surrey audio-visual expressed emotion."""

from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd

from .definition import Corpus, read_clips

EMOTIONS = {
    "a": "anger",
    "d": "disgust",
    "f": "fear",
    "h": "happiness",
    "n": "neutral",
    "sa": "sadness",
    "su": "surprise",
}
SPEAKERS = ("DC", "JE", "JK", "KL")


def _listed(folder: Path) -> pd.DataFrame:
    """The release's 480 clips: 15 sentences per emotion, and 30 neutral ones."""
    codes = [
        (speaker, emotion, f"{sentence:02d}")
        for speaker, emotion in product(SPEAKERS, EMOTIONS)
        for sentence in range(1, 31 if emotion == "n" else 16)
    ]
    names = [f"{speaker}/{emotion}{sentence}.wav" for speaker, emotion, sentence in codes]
    return pd.DataFrame(codes, index=names, columns=["speaker_id", "emotion", "_sentence"])


SAVEE = Corpus(
    name="savee",
    title="SAVEE, Surrey Audio-Visual Expressed Emotion",
    license="on registration, for research",
    url="http://kahlan.eps.surrey.ac.uk/savee",
    citation="Haq & Jackson: Multimodal Emotion Recognition, in: Machine Audition, IGI Global 2010",
    languages=("en",),
    # AudioData as its Info.txt describes it; copies that put all clips into one folder prepend the speaker.
    layout="DC/a01.wav, ... or DC_a01.wav, ...",
    emotions=EMOTIONS,
    num_clips=480,
    read=partial(
        read_clips,
        pattern=r"(?P<speaker_id>[A-Z]{2})[/_](?P<emotion>[a-z]+)(?P<_sentence>\d\d)",
        columns={"emotion": ("emotion", EMOTIONS), "gender": ("speaker_id", dict.fromkeys(SPEAKERS, "male"))},
        listed=_listed,
    ),
)
