"""CREMA-D: crowd-sourced emotional multimodal actors dataset."""

from functools import partial
from pathlib import Path

import pandas as pd

from .definition import Corpus, find_file, read_clips, read_table

EMOTIONS = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happiness",
    "NEU": "neutral",
    "SAD": "sadness",
}
SENTENCES = {
    "DFA": "Don't forget a jacket",
    "IEO": "It's eleven o'clock",
    "IOM": "I'm on my way to the meeting",
    "ITH": "I think I have a doctor's appointment",
    "ITS": "I think I've seen this before",
    "IWL": "I would like a new alarm clock",
    "IWW": "I wonder what this is about",
    "MTI": "Maybe tomorrow it will be cold",
    "TAI": "The airplane is almost full",
    "TIE": "That is exactly what happened",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
INTENSITIES = {"LO": "low", "MD": "medium", "HI": "high", "X": ""}
# As VideoDemographics.csv of the release tells.
FEMALE = (
    *(2, 3, 4, 6, 7, 8, 9, 10, 12, 13, 18, 20, 21, 24, 25, 28, 29, 30, 37, 43, 46, 47, 49, 52, 53, 54, 55, 56, 58),
    *(60, 61, 63, 72, 73, 74, 75, 76, 78, 79, 82, 84, 89, 91),
)
GENDERS = {f"{1000 + actor}": "female" if actor in FEMALE else "male" for actor in range(1, 92)}
# One clip is called 1040_ITH_SAD_X in some copies.
PATTERN = r"(?P<speaker_id>\d{4})_(?P<_sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<intensity>LO|MD|HI|X)X?"


def _listed(folder: Path) -> pd.DataFrame | None:
    """The clips that SentenceFilenames.csv names; many copies of the corpus hold nothing but the audio."""
    try:
        path = find_file(folder, "SentenceFilenames.csv")
    except FileNotFoundError:
        return None
    clips = read_table(path, {"Filename": "clip"})["clip"]
    return clips.str.extract(PATTERN).set_index("AudioWAV/" + clips + ".wav")


CREMA_D = Corpus(
    name="crema-d",
    title="CREMA-D",
    license="Open Database License 1.0, contents under the Database Contents License 1.0",
    url="https://github.com/CheyneyComputerScience/CREMA-D",
    citation="Cao, Cooper, Keutmann, Gur, Nenkova & Verma: CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset, "
    "IEEE Transactions on Affective Computing 5(4), 2014",
    languages=("en",),
    # The repository of the release, where AudioMP3 holds the same clips again. Emotions are those that were acted.
    layout="AudioWAV/1001_DFA_ANG_XX.wav, ... and, to see what is missing, SentenceFilenames.csv",
    emotions=EMOTIONS,
    num_clips=7442,
    read=partial(
        read_clips,
        pattern=PATTERN,
        columns={
            "emotion": ("emotion", EMOTIONS),
            "gender": ("speaker_id", GENDERS),
            "text": ("_sentence", SENTENCES),
            "intensity": ("intensity", INTENSITIES),
        },
        listed=_listed,
        ignore=r"AudioMP3/[^/]+",
    ),
)
