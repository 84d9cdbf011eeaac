"""EmoDB: Berlin database of emotional speech."""

from functools import partial

from .definition import Corpus, read_clips

EMOTIONS = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
GENDERS = dict.fromkeys(("08", "09", "13", "14", "16"), "female") | dict.fromkeys(
    ("03", "10", "11", "12", "15"), "male"
)
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}

EMODB = Corpus(
    name="emodb",
    title="EmoDB, Berlin Database of Emotional Speech",
    license="free to download and use",
    url="http://emodb.bilderbar.info",
    citation="Burkhardt, Paeschke, Rolfes, Sendlmeier & Weiss: A Database of German Emotional Speech, Interspeech 2005",
    languages=("de",),
    # File names as explained on the corpus' pages: speaker, sentence, emotion (first letter of its German name), take.
    layout="wav/03a01Fa.wav, ...",
    emotions=EMOTIONS,
    num_clips=535,
    read=partial(
        read_clips,
        pattern=r"(?P<speaker_id>\d\d)(?P<_sentence>[ab]\d\d)(?P<emotion>[A-Z])(?P<_take>[a-z])",
        columns={
            "emotion": ("emotion", EMOTIONS),
            "gender": ("speaker_id", GENDERS),
            "text": ("_sentence", SENTENCES),
        },
    ),
)
