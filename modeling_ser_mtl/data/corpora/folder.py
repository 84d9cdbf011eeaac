"""Any folder of audio with one directory per class."""

from pathlib import Path

from .definition import Corpus, Reading, read_clips

SPLITS = {
    "": "",
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


def _read(folder: Path) -> Reading:
    reading = read_clips(
        folder,
        pattern=rf"(?:(?P<split>{'|'.join(filter(None, SPLITS))})/)?(?P<emotion>[^/]+)/(?P<_file>.+)",
        columns={"split": ("split", SPLITS), "corpus": ("_file", lambda _: folder.resolve().name)},
    )
    has_split = bool((reading.rows["split"] != "").any())
    rows = reading.rows if has_split else reading.rows.drop(columns="split")
    return Reading(rows, reading.missing, reading.unexpected)


FOLDER = Corpus(
    name="folder",
    title="a folder with one directory per class",
    license="that of your recordings",
    url="your own",
    citation="your own",
    languages=(),
    layout="anger/a.wav, sadness/b.wav, ... or train/anger/a.wav, test/sadness/b.wav, ...",
    emotions={},  # the directories' names, as they are
    read=_read,
)
