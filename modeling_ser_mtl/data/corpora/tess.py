"""TESS: Toronto emotional speech set."""

from functools import partial

from .definition import Corpus, read_clips

EMOTIONS = {
    "angry": "anger",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happiness",
    "neutral": "neutral",
    "ps": "surprise",  # pleasant surprise
    "sad": "sadness",
}
# An older and a younger woman; one clip of the release is called OA_bite_neutral.
SPEAKERS = {"OAF": "OAF", "OA": "OAF", "YAF": "YAF"}

TESS = Corpus(
    name="tess",
    title="TESS, Toronto Emotional Speech Set",
    license="CC BY-NC-ND 4.0",
    url="https://doi.org/10.5683/SP2/E8H2MF",
    citation="Pichora-Fuller & Dupuis: Toronto emotional speech set (TESS), Scholars Portal Dataverse 2020",
    languages=("en",),
    # The folders of the release spell the emotions differently (OAF_Fear, YAF_fear, ...), the files don't.
    layout="OAF_angry/OAF_back_angry.wav, ...",
    emotions=EMOTIONS,
    num_clips=2800,
    read=partial(
        read_clips,
        pattern=r"(?P<speaker_id>[A-Z]+)_(?P<_word>[a-z]+)_(?P<emotion>[a-z]+)",
        columns={
            "emotion": ("emotion", EMOTIONS),
            "gender": ("speaker_id", dict.fromkeys(SPEAKERS, "female")),
            "speaker_id": ("speaker_id", SPEAKERS),
            "text": ("_word", "Say the word {}".format),
        },
    ),
)
