"""MSP-Podcast, releases 1.x and 2.0 and the package of the naturalistic-conditions challenge."""

import logging
from pathlib import Path

import pandas as pd

from ..errors import InputError
from .definition import Corpus, Reading, find_audio, find_file, read_table, read_text

logger = logging.getLogger(__name__)

# Consensus codes of the eight classes; a submission writes the same letters.
CODES = {
    "A": "anger",
    "S": "sadness",
    "H": "happiness",
    "U": "surprise",
    "F": "fear",
    "D": "disgust",
    "C": "contempt",
    "N": "neutral",
}
# Another emotion and no agreement: clips for the other tasks alone.
EMOTIONS = CODES | {"O": "", "X": ""}
# What a rater calls the eight; any other word of theirs ("Other-Curious", ...) counts as `other`.
RATINGS = {
    "angry": "anger",
    "sad": "sadness",
    "happy": "happiness",
    "surprise": "surprise",
    "fear": "fear",
    "disgust": "disgust",
    "contempt": "contempt",
    "neutral": "neutral",
}
GENDERS = {"Female": "female", "Male": "male", "Unknown": "", "": ""}
SPLITS = {"Train": "train", "Development": "validation", "Validation": "validation"}
TEST_SETS = ("Test1", "Test2", "Test3")
HIDDEN = "Test3"  # its labels are not released
CONSENSUS_FILE = "labels_con[sc]ensus.csv"  # releases up to 1.10 spell it with a c
AUDIO_FOLDERS = ("Audios", "Audio")


def read_msp_podcast(folder: Path) -> Reading:
    """
    Reads a release or the challenge's package.

    The sets follow the challenge, which trains on Train, chooses on Development and predicts Test3: that is the test
    set wherever its audio is there, in files named `...test3...` that the label file need not list. Test1 and Test2 are
    then left out, with a warning. Without Test3 the two are the test set. `split_set` keeps the official name.

    Beside the manifest's columns a row has `activation`, `valence` and `dominance` (means over the raters, 1 to 7) and
    `p_<emotion>`, the share of the raters whose primary emotion it is (`p_other`: none of the eight). Clips whose
    raters agree on another emotion (`O`) or on none (`X`) have no emotion; those of a speaker `Unknown` no
    `speaker_id`.

    Args:
        folder (`Path`): The unpacked release.

    Returns:
        [`~data.corpora.definition.Reading`]: The clips whose audio is there.

    Raises:
        FileNotFoundError: There is no consensus file or no folder of audio.
        InputError: A file is listed twice, a cell holds none of the official values, or as in
            [`~data.corpora.definition.read_table`].
    """
    table = _read_consensus(find_file(folder, CONSENSUS_FILE))
    paths = _find_clips(folder)
    listed = set(table["name"])
    hidden = sorted(name for name in paths.keys() - listed if "test3" in name.lower())
    table = pd.DataFrame([*table.to_dict("records"), *({"name": name, "set": HIDDEN} for name in hidden)]).fillna("")
    there = table["name"].isin(paths.keys())
    missing = table.loc[~there, "name"].tolist()

    table = _leave_out_unused_tests(table[there])
    tested = dict.fromkeys(TEST_SETS, "test")
    rows = pd.DataFrame(
        {
            "audio": table["name"].map(paths),
            "emotion": table["emotion"].map(EMOTIONS).fillna(""),
            "gender": table["gender"].map(GENDERS),
            "speaker_id": table["speaker_id"].replace("Unknown", ""),
            "text": _read_transcripts(folder / "Transcripts", table["name"]),
            "split": table["set"].map(SPLITS | tested),
            "split_set": table["set"],
            **{name: table[name] for name in ("activation", "valence", "dominance")},
        }
    )
    shares = _read_distributions(folder)
    if shares is not None:
        rows = rows.join(shares.reindex(table["name"]).fillna("").set_axis(table.index))
    unexpected = sorted(paths[name] for name in paths.keys() - listed - set(hidden))
    return Reading(rows.reset_index(drop=True), missing, unexpected)


def _find_clips(folder: Path) -> dict[str, str]:
    """File name -> path relative to `folder`; audio outside the folder of clips (of older releases) is no clip."""
    for name in AUDIO_FOLDERS:
        if (folder / name).is_dir():
            return {path.rsplit("/", 1)[-1]: f"{name}/{path}" for path in find_audio(folder / name)}
    raise FileNotFoundError(AUDIO_FOLDERS[0])


def _read_consensus(path: Path) -> pd.DataFrame:
    columns = {
        "FileName": "name",
        "EmoClass": "emotion",
        "EmoAct": "activation",
        "EmoVal": "valence",
        "EmoDom": "dominance",
        "SpkrID": "speaker_id",
        "Gender": "gender",
        "Split_Set": "set",
    }
    table = read_table(path, columns)
    doubled = table.loc[table["name"].duplicated(), "name"]
    if len(doubled):
        raise InputError(f"{path}: {doubled.iloc[0]} is listed twice; keep one of its rows")
    hidden = (table["set"] == HIDDEN) & (table["emotion"] == "")
    for column, allowed, exempt in (
        ("EmoClass", EMOTIONS, hidden),
        ("Gender", GENDERS, False),
        ("Split_Set", [*SPLITS, *TEST_SETS], False),
    ):
        wrong = table[~(table[columns[column]].isin(list(allowed)) | exempt)]
        if len(wrong):
            clip = wrong.iloc[0]
            raise InputError(
                f"{path}: {column} of {clip['name']} is {clip[columns[column]]!r}; "
                f"allowed: {', '.join(value for value in allowed if value)}"
            )
    return table


def _leave_out_unused_tests(table: pd.DataFrame) -> pd.DataFrame:
    unused = table["set"].isin(TEST_SETS) & (table["set"] != HIDDEN)
    if not unused.any() or not (table["set"] == HIDDEN).any():
        return table
    logger.warning(
        "%d clips of %s are left out, since %s is the test set; without its audio files they are",
        unused.sum(),
        " and ".join(sorted(set(table.loc[unused, "set"]))),
        HIDDEN,
    )
    return table[~unused]


def _read_distributions(folder: Path) -> pd.DataFrame | None:
    """Shares of the raters' primary emotions as text, a row per file (its name is the index); None without ratings."""
    try:
        path = find_file(folder, "labels_detailed.csv")
    except FileNotFoundError:
        return None
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline().strip().split(",")
    if len(header) == 2:  # all answers in one cell: `WORKER00000001; Neutral; Neutral,Concerned; A:3; V:4; D:4;`
        votes = read_table(path, {header[0].strip(): "name", header[1].strip(): "word"})
        votes["word"] = votes["word"].str.split(";").str[1].fillna("").str.strip()
    else:
        votes = read_table(path, {"FileName": "name", "EmoClass_Major": "word"})
    votes = votes[votes["word"] != ""]
    emotions = votes["word"].str.lower().map(RATINGS).fillna("other")
    shares = pd.crosstab(votes["name"], emotions, normalize="index")
    shares = shares.reindex(columns=[*RATINGS.values(), "other"], fill_value=0.0).add_prefix("p_")
    return shares.map("{:.6g}".format)


def _read_transcripts(folder: Path, names: pd.Series) -> list[str]:
    """The transcript of each file, "" where there is none; only files in the folder are read, whatever a name says."""
    paths = {path.stem: path for path in folder.rglob("*.txt")}
    found = (paths.get(Path(name).stem) for name in names)
    return ["" if path is None else " ".join(read_text(path).split()) for path in found]


MSP_PODCAST = Corpus(
    name="msp-podcast",
    title="MSP-Podcast",
    license="academic licence of The University of Texas at Dallas, signed by the institution; no redistribution",
    url="https://www.lab-msp.com/MSP/MSP-Podcast.html",
    citation=(
        "R. Lotfian and C. Busso, Building Naturalistic Emotionally Balanced Speech Corpus by Retrieving Emotional "
        "Speech From Existing Podcast Recordings, IEEE Transactions on Affective Computing 10(4), 2019"
    ),
    languages=("en",),
    layout="Audios/*.wav, Labels/labels_consensus.csv, Labels/labels_detailed.csv, Transcripts/*.txt",
    emotions=EMOTIONS,
    read=read_msp_podcast,
)
