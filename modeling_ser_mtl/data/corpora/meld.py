"""MELD: multimodal EmotionLines dataset, dialogues of the series Friends."""

from functools import partial
from pathlib import Path

import pandas as pd

from .definition import Corpus, find_file, read_clips, read_table

EMOTIONS = {
    "anger": "anger",
    "disgust": "disgust",
    "fear": "fear",
    "joy": "happiness",
    "neutral": "neutral",
    "sadness": "sadness",
    "surprise": "surprise",
}
# The main cast, five of six clips; the corpus doesn't tell the gender of anyone.
FEMALE, MALE = ("Monica", "Phoebe", "Rachel"), ("Chandler", "Joey", "Ross")
GENDERS = dict.fromkeys(FEMALE, "female") | dict.fromkeys(MALE, "male")
SPLITS = {"train": "train", "dev": "validation", "test": "test"}
COLUMNS = {
    "Utterance": "text",
    "Speaker": "speaker_id",
    "Emotion": "emotion",
    "Dialogue_ID": "_dialogue",
    "Utterance_ID": "_utterance",
}


def _listed(folder: Path) -> pd.DataFrame:
    tables = []
    for split in SPLITS:
        table = read_table(find_file(folder, f"{split}_sent_emo.csv"), COLUMNS).assign(published_split=split)
        names = f"{split}/dia" + table["_dialogue"] + "_utt" + table["_utterance"] + ".wav"
        tables.append(table.set_index(names))
    return pd.concat(tables)


MELD = Corpus(
    name="meld",
    title="MELD, Multimodal EmotionLines Dataset",
    license="GPL-3.0 for the annotations; the clips are of a television series, whose owners hold the rights",
    url="https://github.com/declare-lab/MELD",
    citation="Poria, Hazarika, Majumder, Naik, Cambria & Mihalcea: MELD: A Multimodal Multi-Party Dataset for Emotion "
    "Recognition in Conversations, ACL 2019",
    languages=("en",),
    # MELD.Raw as its README describes it, but for the audio; between the split's folder and the file there may be the
    # release's own (train_splits, dev_splits_complete, output_repeated_splits_test).
    layout="train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv and train/dia0_utt0.wav, dev/..., test/... (the "
    "release holds MP4: extract the audio first, e.g. ffmpeg -i dia0_utt0.mp4 -ac 1 -ar 16000 dia0_utt0.wav)",
    emotions=EMOTIONS,
    num_clips=13708,
    read=partial(
        read_clips,
        pattern=r"(?P<published_split>train|dev|test)/(?:.*/)?dia(?P<_dialogue>\d+)_utt(?P<_utterance>\d+)",
        columns={
            "emotion": ("emotion", EMOTIONS),
            "gender": ("speaker_id", lambda speaker: GENDERS.get(speaker, "")),
            # Not `split`: the same actors speak in all three.
            "published_split": ("published_split", SPLITS),
        },
        listed=_listed,
    ),
)
