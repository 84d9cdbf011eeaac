"""A release of MSP-Podcast or the challenge's package becomes manifest rows, whatever layout it comes in."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modeling_ser_mtl.data.corpora.msp_podcast import CODES, MSP_PODCAST, RATINGS, read_msp_podcast
from modeling_ser_mtl.data.errors import InputError

HEADER = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"
ROWS = [
    "MSP-PODCAST_0001_0001.wav,A,5.2,2.0,5.6,30,Male,Train",
    "MSP-PODCAST_0001_0002.wav,S,2.2,2.4,2.6,30,Male,Train",
    "MSP-PODCAST_0001_0003.wav,X,4.0,4.0,4.0,31,Female,Train",
    "MSP-PODCAST_0001_0004.wav,O,4.0,4.0,4.0,31,Female,Train",
    "MSP-PODCAST_0001_0005.wav,N,3.8,4.0,4.0,Unknown,Unknown,Train",
    "MSP-PODCAST_0002_0001.wav,H,4.4,6.0,4.0,7,Female,Development",
    "MSP-PODCAST_0003_0001.wav,U,4.4,5.0,4.0,9,Female,Test1",
    "MSP-PODCAST_0004_0001.wav,C,4.4,3.0,4.0,12,Male,Test2",
]
NAMES = [row.split(",")[0] for row in ROWS]
TEST3 = ["MSP-PODCAST_test3_0001.wav", "MSP-PODCAST_test3_0002.wav"]
RATINGS_HEADER = "FileName,WorkerID,EmoClass_Major,EmoClass_Second,EmoAct,EmoVal,EmoDom"


def release(
    folder: Path,
    rows: list[str] = ROWS,
    *,
    files: list[str] = NAMES + TEST3,
    labels: str = "Labels/labels_consensus.csv",
    audio: str = "Audios",
    header: str = HEADER,
    encoding: str = "utf-8",
) -> Path:
    """Writes a release whose audio files are empty, since reading one opens none of them."""
    for place in (folder / audio, folder / "Transcripts", (folder / labels).parent):
        place.mkdir(parents=True, exist_ok=True)
    (folder / labels).write_text("\n".join([header, *rows]) + "\n", encoding=encoding)
    for name in files:
        (folder / audio / name).touch()
        if "test3" not in name:
            (folder / "Transcripts" / name).with_suffix(".txt").write_text(f"Said in {name}.\n", encoding="utf-8")
    return folder


@pytest.fixture
def write_ratings(tmp_path) -> Callable[..., Path]:
    """Writes `labels_detailed.csv`, with a column for each answer or with a rater's answers in one cell."""

    def write(votes: list[tuple[str, str]], one_cell: bool = False) -> Path:
        folder = release(tmp_path)
        lines = [RATINGS_HEADER]
        for number, (name, word) in enumerate(votes):
            answers = [f"WORKER{number:08d}", word, '"Neutral,Concerned"', "3", "4", "4"]
            lines.append(",".join([name, *answers]))
        if one_cell:
            lines = ["FileName,Annotation"]
            lines += [f'{name},"WORKER00000001; {word}; Neutral,Concerned; A:3; V:4; D:4;"' for name, word in votes]
        (folder / "Labels" / "labels_detailed.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return folder

    return write


def read(folder: Path) -> pd.DataFrame:
    """The rows, by file name."""
    rows = read_msp_podcast(folder).rows
    return rows.set_index(rows["audio"].str.rsplit("/").str[-1])


def test_each_code_becomes_the_name_of_its_emotion(tmp_path) -> None:
    rows = [f"MSP-PODCAST_0001_{i:04d}.wav,{code},4,4,4,30,Male,Train" for i, code in enumerate(CODES)]
    names = [row.split(",")[0] for row in rows]
    found = read(release(tmp_path, rows, files=names))["emotion"]
    expected = ["anger", "sadness", "happiness", "surprise", "fear", "disgust", "contempt", "neutral"]
    assert found.loc[names].tolist() == expected


def test_a_row_carries_every_label_of_its_clip(tmp_path) -> None:
    row = read(release(tmp_path)).loc["MSP-PODCAST_0001_0002.wav"].to_dict()
    assert row == {
        "audio": "Audios/MSP-PODCAST_0001_0002.wav",
        "emotion": "sadness",
        "gender": "male",
        "speaker_id": "30",
        "text": "Said in MSP-PODCAST_0001_0002.wav.",
        "split": "train",
        "split_set": "Train",
        "activation": "2.2",
        "valence": "2.4",
        "dominance": "2.6",
    }


def test_clips_without_agreement_or_with_another_emotion_keep_their_other_labels(tmp_path) -> None:
    found = read(release(tmp_path)).loc[["MSP-PODCAST_0001_0003.wav", "MSP-PODCAST_0001_0004.wav"]]
    assert found["emotion"].tolist() == ["", ""]
    assert found["gender"].tolist() == ["female", "female"]
    assert found["speaker_id"].tolist() == ["31", "31"]
    assert (found["text"] != "").all()


def test_an_unknown_speaker_has_no_speaker_id_and_keeps_the_emotion(tmp_path) -> None:
    row = read(release(tmp_path)).loc["MSP-PODCAST_0001_0005.wav"]
    assert (row["speaker_id"], row["gender"], row["emotion"]) == ("", "", "neutral")


def test_test3_is_the_test_set_though_no_label_file_lists_it(tmp_path, caplog) -> None:
    found = read(release(tmp_path))
    assert found.index[found["split"] == "test"].tolist() == TEST3
    assert (found.loc[TEST3, ["emotion", "gender", "speaker_id", "text"]] == "").all(axis=None)
    assert set(found.index[found["split"] == "validation"]) == {"MSP-PODCAST_0002_0001.wav"}
    assert set(found["split_set"]) == {"Train", "Development", "Test3"}
    assert "2 clips of Test1 and Test2 are left out" in caplog.text


def test_rows_of_test3_in_the_label_file_need_no_emotion(tmp_path) -> None:
    rows = [*ROWS, *(f"{name},,,,,Unknown,Unknown,Test3" for name in TEST3)]
    found = read(release(tmp_path, rows)).loc[TEST3]
    assert found["emotion"].tolist() == ["", ""]
    assert set(found["split"]) == {"test"}


def test_without_test3_the_other_test_sets_are_tested(tmp_path) -> None:
    found = read(release(tmp_path, files=NAMES))
    tested = found[found["split"] == "test"]
    assert dict(zip(tested["split_set"], tested["emotion"], strict=True)) == {"Test1": "surprise", "Test2": "contempt"}


def test_missing_and_unexpected_audio_is_named(tmp_path) -> None:
    reading = read_msp_podcast(release(tmp_path, files=[*NAMES[2:], *TEST3, "MSP-PODCAST_9999_0001.wav"]))
    assert reading.missing == NAMES[:2]
    assert reading.unexpected == ["Audios/MSP-PODCAST_9999_0001.wav"]
    assert not reading.rows["audio"].str.contains("0001_0001|0001_0002|9999").any()


@pytest.mark.parametrize(
    "layout",
    [
        {"labels": "labels_consensus.csv"},
        {"labels": "Labels/labels_concensus.csv"},
        {"encoding": "utf-8-sig"},
        {"rows": [row.replace(",", " , ") + "  " for row in ROWS], "header": HEADER.replace(",", " ,") + " "},
        {"rows": [row.replace("Development", "Validation") for row in ROWS]},
    ],
    ids=["labels at the top", "older spelling", "byte order mark", "spaces", "older split name"],
)
def test_every_layout_gives_the_same_rows(tmp_path, layout) -> None:
    expected = read(release(tmp_path / "plain")).drop(columns="split_set")
    pd.testing.assert_frame_equal(read(release(tmp_path / "other", **layout)).drop(columns="split_set"), expected)


@pytest.mark.parametrize("audio", ["Audio", "Audios/Audios"])
def test_audio_is_found_in_other_folders(tmp_path, audio) -> None:
    assert read(release(tmp_path, audio=audio))["audio"].str.startswith(f"{audio}/MSP").all()


def test_clips_that_a_release_has_dropped_are_none_of_its_own(tmp_path) -> None:
    """Release 1.12 carries them in a folder beside its own audio."""
    dropped = release(tmp_path) / "Previous_releases_information" / "files_removed" / "MSP-PODCAST_0001_0009.wav"
    dropped.parent.mkdir(parents=True)
    dropped.touch()
    reading = read_msp_podcast(tmp_path)
    assert reading.unexpected == []
    assert not reading.rows["audio"].str.contains("0009").any()


words = st.sampled_from(
    ["Angry", "Sad", "Happy", "Surprise", "Fear", "Disgust", "Contempt", "Neutral", "Other-Curious"]
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(votes=st.lists(st.tuples(st.sampled_from(NAMES[:3]), words), min_size=1, max_size=15), one_cell=st.booleans())
def test_distributions_are_the_shares_of_the_raters(write_ratings, votes, one_cell) -> None:
    found = read(write_ratings(votes, one_cell))
    names = {**RATINGS, "other-curious": "other"}
    for clip in NAMES[:3]:
        counts = Counter(names[word.lower()] for name, word in votes if name == clip)
        for emotion in [*CODES.values(), "other"]:
            cell = found.at[clip, f"p_{emotion}"]
            if counts:
                assert float(cell) == pytest.approx(counts[emotion] / counts.total(), abs=1e-5)
            else:
                assert cell == ""


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROWS[0].replace(",A,", ",Q,")], "EmoClass of .*_0001.wav is 'Q'; allowed: A, S, H, U, F, D, C, N, O, X"),
        ([ROWS[0].replace(",A,", ",,")], "EmoClass of .*_0001.wav is ''"),
        ([ROWS[0].replace("Train", "Dev")], "Split_Set of .*_0001.wav is 'Dev'; allowed: Train, Development"),
        ([ROWS[0].replace("Male", "M")], "Gender of .*_0001.wav is 'M'; allowed: Female, Male, Unknown"),
        ([ROWS[0], ROWS[1], ROWS[0]], "MSP-PODCAST_0001_0001.wav is listed twice"),
    ],
)
def test_a_wrong_cell_is_named_with_its_file(tmp_path, rows, message) -> None:
    with pytest.raises(InputError, match=message):
        read_msp_podcast(release(tmp_path, rows))


def test_a_missing_column_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match="column 'Split_Set' is missing; found: FileName, EmoClass"):
        read_msp_podcast(release(tmp_path, header=HEADER.replace("Split_Set", "Set")))


@pytest.mark.parametrize("lost", ["Labels/labels_consensus.csv", "Audios"])
def test_a_folder_that_is_no_release_is_told_by_what_it_lacks(tmp_path, lost) -> None:
    release(tmp_path)
    (tmp_path / lost).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="labels_con.*ensus.csv|Audios"):
        read_msp_podcast(tmp_path)


def test_a_file_name_reads_nothing_outside_the_release(tmp_path) -> None:
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    (tmp_path / "secret.wav").touch()
    name = "../../secret.wav"
    reading = read_msp_podcast(release(tmp_path / "release", [*ROWS, f"{name},N,4,4,4,30,Male,Train"]))
    assert reading.missing == [name]
    assert "secret" not in reading.rows.to_string()


def test_the_corpus_is_known_under_its_name() -> None:
    assert MSP_PODCAST.name == "msp-podcast"
    assert MSP_PODCAST.read is read_msp_podcast
