"""nEMO: emotional speech in Polish."""

from functools import partial
from pathlib import Path

import pandas as pd

from .definition import Corpus, find_file, read_clips, read_table

EMOTIONS = {
    "anger": "anger",
    "fear": "fear",
    "happiness": "happiness",
    "neutral": "neutral",
    "sadness": "sadness",
    "surprised": "surprise",
}
COLUMNS = {
    "file_id": "file_id",
    "emotion": "emotion",
    "raw_text": "text",
    "speaker_id": "speaker_id",
    "gender": "gender",
    "age": "age",
}


def _listed(folder: Path) -> pd.DataFrame:
    table = read_table(find_file(folder, "data.tsv"), COLUMNS, delimiter="\t")
    table["_clip"] = table["file_id"].str.removesuffix(".wav")
    return table.set_index("samples/" + table.pop("file_id"))


NEMO = Corpus(
    name="nemo",
    title="nEMO",
    license="CC BY-NC-SA 4.0",
    url="https://github.com/amu-cai/nEMO",
    citation="Christop: nEMO: Dataset of Emotional Speech in Polish, LREC-COLING 2024",
    languages=("pl",),
    # The repository of the release.
    layout="data.tsv and samples/EB0_anger_1.wav, ...",
    emotions=EMOTIONS,
    num_clips=4481,
    read=partial(
        read_clips,
        pattern=r"(?P<_clip>[A-Z]+\d+_[a-z]+_\d+)",
        columns={"emotion": ("emotion", EMOTIONS)},
        listed=_listed,
    ),
)
