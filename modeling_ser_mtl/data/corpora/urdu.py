"""URDU: utterances of Urdu talk shows."""

from functools import partial

from .definition import Corpus, read_clips

EMOTIONS = {"Angry": "anger", "Happy": "happiness", "Neutral": "neutral", "Sad": "sadness"}
GENDERS = {"SF": "female", "SM": "male"}

URDU = Corpus(
    name="urdu",
    title="URDU",
    license="for research only",
    url="https://github.com/siddiquelatif/URDU-Dataset",
    citation="Latif, Qayyum, Usman & Qadir: Cross Lingual Speech Emotion Recognition: Urdu vs. Western Languages, "
    "FIT 2018",
    languages=("ur",),
    # The repository of the release: speaker, number among the speaker's clips, number among the emotion's clips.
    layout="Angry/SM1_F1_A01.wav, ...",
    emotions=EMOTIONS,
    num_clips=400,
    read=partial(
        read_clips,
        pattern=r"(?P<emotion>[^/]+)/(?P<speaker_id>S[FM]\d+)_F\d+_(?P<_number>[A-Z]\d+)",
        columns={"emotion": ("emotion", EMOTIONS), "gender": ("speaker_id", lambda speaker: GENDERS[speaker[:2]])},
    ),
)
