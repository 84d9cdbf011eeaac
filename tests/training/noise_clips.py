"""Eight clips of noise with partial labels, and a dataset of them."""

import io

import numpy as np
import pandas as pd
import soundfile

from modeling_ser_mtl.data.dataset import LabelNames, SpeechDataset

LABELS = LabelNames(["anger", "joy", "neutral"], ["female", "male"], ["c/0", "c/1", "c/2", "c/3"])
# One clip per row; "" is unknown.
CLIPS = pd.DataFrame(
    [
        ("anger", "female", "c/0", "ab", 9_000),
        ("joy", "male", "c/1", "b a", 6_000),
        ("", "female", "c/2", "", 7_500),
        ("neutral", "", "c/3", "cab", 5_000),
        ("anger", "male", "", "abc", 8_000),
        ("joy", "female", "c/0", "", 4_000),
        ("", "", "c/1", "it's", 9_500),
        ("neutral", "male", "c/3", "b", 6_500),
    ],
    columns=["emotion", "gender", "speaker", "text", "length"],
).assign(corpus="c", audio=[f"{index}.wav" for index in range(8)])


def make_dataset(table: pd.DataFrame = CLIPS, max_seconds: float = 20.0, training: bool = False) -> SpeechDataset:
    """Noise of the table's lengths, decoded from memory."""
    audio = []
    for index, length in enumerate(table["length"]):
        file = io.BytesIO()
        wave = 0.1 * np.random.default_rng(index).standard_normal(length)
        soundfile.write(file, wave, 16_000, format="WAV", subtype="FLOAT")
        audio.append(file.getvalue())
    return SpeechDataset(table, audio, LABELS, max_seconds=max_seconds, training=training)
