"""LibriSpeech: read English without emotion labels, for the tasks gender, speaker and ASR."""

import re
from functools import partial
from pathlib import Path

import pandas as pd

from .definition import Corpus, find_file, find_files, read_clips, read_text

SPLITS = {
    "train-clean-100": "train",
    "train-clean-360": "train",
    "train-other-500": "train",
    "dev-clean": "validation",
    "dev-other": "validation",
    "test-clean": "test",
    "test-other": "test",
}
GENDERS = {"F": "female", "M": "male"}
SPEAKER = re.compile(r"^(\d+) *\| *([FM]) *\|", re.MULTILINE)


def _listed(folder: Path) -> pd.DataFrame:
    """The utterances of all transcripts that are there, with the speakers' gender."""
    genders = {match[1]: GENDERS[match[2]] for match in SPEAKER.finditer(read_text(find_file(folder, "SPEAKERS.TXT")))}
    names, rows = [], []
    for path in find_files(folder, "*.trans.txt"):
        subset, speaker, chapter = path.parent.parts[-3:]
        for line in read_text(path).splitlines():
            utterance, _, text = line.partition(" ")
            names.append(f"{subset}/{speaker}/{chapter}/{utterance}.flac")
            rows.append((subset, utterance, genders.get(speaker, ""), text))
    return pd.DataFrame(rows, index=names, columns=["subset", "_utterance", "gender", "text"])


LIBRISPEECH = Corpus(
    name="librispeech",
    title="LibriSpeech",
    license="CC BY 4.0",
    url="https://www.openslr.org/12",
    citation="Panayotov, Chen, Povey & Khudanpur: Librispeech: an ASR corpus based on public domain audio books, "
    "ICASSP 2015",
    languages=("en",),
    # As README.TXT of the release describes it; any of its subsets may be absent.
    layout="SPEAKERS.TXT and dev-clean/1272/128104/1272-128104-0000.flac, ... with 1272-128104.trans.txt",
    emotions={},
    read=partial(
        read_clips,
        pattern=r"(?P<subset>[a-z]+-[a-z]+(?:-\d+)?)/(?P<speaker_id>\d+)/\d+/(?P<_utterance>\d+-\d+-\d+)",
        columns={"split": ("subset", SPLITS)},
        listed=_listed,
    ),
)
