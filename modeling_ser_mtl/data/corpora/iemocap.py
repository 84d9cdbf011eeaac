"""IEMOCAP: interactive emotional dyadic motion capture database; four, five and six classes, or all."""

import re
from functools import partial
from pathlib import Path

import pandas as pd

from .definition import Corpus, find_files, read_clips, read_text

# "xxx": the raters did not agree.
EMOTIONS = {
    "ang": "anger",
    "dis": "disgust",
    "exc": "excitement",
    "fea": "fear",
    "fru": "frustration",
    "hap": "happiness",
    "neu": "neutral",
    "oth": "other",
    "sad": "sadness",
    "sur": "surprise",
    "xxx": "",
}
# The classes of the literature; the other clips keep their other labels and train the other tasks.
CLASSES = {
    # 5,531 labelled clips; excitement counts as happiness.
    "iemocap-4": {"ang": "anger", "exc": "happiness", "hap": "happiness", "neu": "neutral", "sad": "sadness"},
    # 7,380 labelled clips, as with six classes.
    "iemocap-5": {
        "ang": "anger",
        "exc": "happiness",
        "fru": "frustration",
        "hap": "happiness",
        "neu": "neutral",
        "sad": "sadness",
    },
    "iemocap-6": {code: EMOTIONS[code] for code in ("ang", "exc", "fru", "hap", "neu", "sad")},
    "iemocap": EMOTIONS,
}
GENDERS = {"F": "female", "M": "male"}

# Time, clip, consensus; then valence, activation and dominance from 1 to 5.
RATING = re.compile(r"\[[\d. -]+\]\s+(Ses0\d[FM]_\w+_[FM]\d+)\s+([a-z]+)\s+\[([\d.]+), *([\d.]+), *([\d.]+)\]")
TRANSCRIPT = re.compile(r"^(\S+) \[[\d. -]+\]:? *(.*?) *$", re.MULTILINE)
COLUMNS = ["_clip", "session", "speaker_id", "gender", "emotion", "text", "valence", "activation", "dominance"]


def _listed(folder: Path) -> pd.DataFrame:
    """The utterances of dialog/EmoEvaluation, each with its session, its consensus and its transcript."""
    texts: dict[str, str] = {}
    for path in find_files(folder, "dialog/transcriptions/Ses*.txt"):
        texts |= {match[1]: match[2] for match in TRANSCRIPT.finditer(read_text(path))}
    names, rows = [], []
    for path in find_files(folder, "dialog/EmoEvaluation/Ses*.txt"):
        for clip, emotion, *ratings in RATING.findall(read_text(path)):
            session, gender = clip[4], clip.split("_")[-1][0]
            names.append(f"Session{session}/sentences/wav/{path.stem}/{clip}.wav")
            rows.append(
                (clip, session, f"Ses0{session}{gender}", GENDERS[gender], emotion, texts.get(clip, ""), *ratings)
            )
    return pd.DataFrame(rows, index=names, columns=COLUMNS)


def _corpus(name: str) -> Corpus:
    emotions = dict.fromkeys(EMOTIONS, "") | CLASSES[name]
    number = len(set(emotions.values()) - {""})
    return Corpus(
        name=name,
        title=f"IEMOCAP, {number} emotions",
        license="on request, for research (University of Southern California, SAIL)",
        url="https://sail.usc.edu/iemocap",
        citation="Busso et al.: IEMOCAP: interactive emotional dyadic motion capture database, Language Resources and "
        "Evaluation 42, 2008",
        languages=("en",),
        # IEMOCAP_full_release as its README describes it. A clip's name tells the dialogue and, last, the speaker: in
        # Ses01F_impro01_M000 it is the man of session 1 who speaks.
        layout="Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav, ... with "
        "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt and Session1/dialog/transcriptions/Ses01F_impro01.txt",
        emotions=emotions,
        num_clips=10039,
        read=partial(
            read_clips,
            pattern=r"(?P<_clip>Ses0\d[FM]_\w+_[FM]\d+)",
            columns={"emotion": ("emotion", emotions), "corpus": ("session", lambda _: "iemocap")},
            listed=_listed,
            ignore=r"dialog/wav/[^/]+",
        ),
    )


IEMOCAP = tuple(_corpus(name) for name in CLASSES)
