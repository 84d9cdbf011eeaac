import csv
import json
import os
import re
import subprocess
import sys

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.data.manifest import (
    check_labels,
    clear_labels_outside,
    read_manifest,
    read_manifests,
    require_speakers,
)

# What reading a manifest adds to the peak of a process, in MiB.
MEASURE = """
import re, sys
from pathlib import Path
from modeling_ser_mtl.data.manifest import examine_manifest

def peak():  # not that of getrusage, which a new program inherits from the one that starts it
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**10

before = peak()
clips, faults = examine_manifest(sys.argv[1])
added = peak() - before
assert clips["audio_path"].nunique() == 100_000 and not faults, faults
print(added)
"""

LABELS = ["emotion", "gender", "speaker_id", "text"]
HEADER = "audio,emotion,gender,speaker_id,text\n"


@pytest.fixture
def folder(tmp_path):
    """A corpus folder with two audio files; manifests only look whether they exist."""
    folder = tmp_path / "mycorpus"
    (folder / "audio").mkdir(parents=True)
    for name in ("a.wav", "b.wav"):
        (folder / "audio" / name).touch()
    return folder


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


def error_of(path, required=()):
    with pytest.raises(InputError) as caught:
        read_manifest(path, required)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_formats_read_the_same(folder):
    records = [
        {"audio": "audio/a.wav", "emotion": "anger", "gender": "", "speaker_id": "01", "text": "Ja, gut"},
        {"audio": "audio/b.wav", "emotion": "NA", "gender": "female", "speaker_id": "1e5", "text": "null"},
    ]
    frame = pd.DataFrame(records)
    frame.to_csv(folder / "m.csv", index=False)
    frame.to_csv(folder / "m.tsv", index=False, sep="\t")
    frame.to_json(folder / "m.jsonl", orient="records", lines=True)
    frame.to_parquet(folder / "m.parquet")
    for suffix in ("csv", "tsv", "jsonl", "parquet"):
        table = read_manifest(folder / f"m.{suffix}")
        assert table[list(records[0])].to_dict("records") == records, suffix


@given(
    cells=st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["Cs", "Cc"]))] * 2), min_size=1, max_size=4)
)
@settings(max_examples=25, deadline=None)
def test_any_cell_a_csv_can_hold_comes_back_as_it_was(tmp_path_factory, cells):
    folder = tmp_path_factory.mktemp("cells")
    (folder / "a.wav").touch()
    with open(folder / "m.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["audio", "emotion", "note"], *[["a.wav", *pair] for pair in cells]])
    table = read_manifest(folder / "m.csv")
    assert list(zip(table["emotion"], table["note"], strict=True)) == [(label.strip(), note) for label, note in cells]


def test_numbers_and_gaps_of_a_parquet_become_their_spelling_and_empty(folder):
    frame = pd.DataFrame({"audio": ["audio/a.wav", "audio/b.wav"], "speaker_id": pd.array([7, None], dtype="Int64")})
    frame.to_parquet(folder / "m.parquet")
    assert read_manifest(folder / "m.parquet")["speaker_id"].tolist() == ["7", ""]


def test_numbers_gaps_and_absent_keys_of_a_jsonl_become_their_spelling_and_empty(folder):
    lines = ['{"audio": "audio/a.wav", "speaker_id": 7, "score": 1.50}', '{"audio": "audio/b.wav", "speaker_id": null}']
    table = read_manifest(write(folder / "m.jsonl", "\n".join(lines)))
    assert table["speaker_id"].tolist() == ["7", ""]
    assert table["score"].tolist() == ["1.50", ""]


def test_a_byte_order_mark_and_spaces_around_columns_and_labels_are_ignored(folder):
    path = write(folder / "m.csv", "\ufeffaudio, emotion ,text\naudio/a.wav, anger , Hi there \n")
    clip = read_manifest(path, ["emotion", "text"]).iloc[0]
    assert (clip["emotion"], clip["text"]) == ("anger", "Hi there")


def test_absent_labels_are_added_empty_and_own_columns_kept(folder):
    table = read_manifest(write(folder / "m.csv", "audio,split\naudio/a.wav,dev\n"))
    assert table.loc[0, [*LABELS, "split"]].tolist() == ["", "", "", "", "dev"]


def test_short_rows_end_in_empty_cells(folder):
    table = read_manifest(write(folder / "m.csv", HEADER + "audio/a.wav,anger\n"))
    assert table.loc[0, ["audio", *LABELS]].tolist() == ["audio/a.wav", "anger", "", "", ""]


def test_audio_paths_count_from_the_manifests_folder_whatever_the_working_folder(folder, tmp_path, monkeypatch):
    write(folder / "m.csv", f"audio\naudio/a.wav\n../mycorpus/audio/b.wav\n{folder / 'audio' / 'b.wav'}\n")
    monkeypatch.chdir(tmp_path)
    table = read_manifest("mycorpus/m.csv")
    assert table["audio_path"].tolist() == [str(folder / "audio" / name) for name in ("a.wav", "b.wav", "b.wav")]
    assert table["manifest"].unique().tolist() == ["mycorpus/m.csv"]


def test_a_speaker_is_the_pair_of_corpus_and_id(folder, monkeypatch):
    write(folder / "m.csv", "audio,corpus,speaker_id\naudio/a.wav,emodb,03\naudio/a.wav,,03\naudio/b.wav,emodb,\n")
    monkeypatch.chdir(folder)
    table = read_manifest("m.csv")
    assert table["speaker"].tolist() == ["emodb/03", "mycorpus/03", ""]
    assert table["corpus"].tolist() == ["emodb", "mycorpus", "emodb"]


def test_rows_are_the_lines_of_the_file_over_blank_lines_and_line_breaks_in_cells(folder):
    path = write(folder / "m.csv", 'audio,text\n\naudio/a.wav,"two\nlines"\naudio/b.wav,one\n')
    assert read_manifest(path)["row"].tolist() == [3, 5]
    path = write(folder / "m.jsonl", '{"audio": "audio/a.wav"}\n\n{"audio": "audio/b.wav"}\n')
    assert read_manifest(path)["row"].tolist() == [1, 3]


def test_a_missing_column_is_named_with_those_found(folder):
    path = write(folder / "m.csv", "file,Emotion\naudio/a.wav,anger\n")
    assert re.search(r"m\.csv row 1: column 'audio' is missing; found: file, Emotion;", error_of(path))
    path = write(folder / "m.csv", "audio,Emotion\naudio/a.wav,anger\n")
    assert re.search(r"m\.csv row 1: column 'emotion' is missing; found: audio, Emotion;", error_of(path, ["emotion"]))


def test_a_manifest_without_rows_is_an_error(folder):
    assert "has no rows" in error_of(write(folder / "m.csv", HEADER))


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_an_empty_file_is_an_error(folder, suffix):
    assert "column 'audio' is missing; found: none" in error_of(write(folder / f"m.{suffix}", ""))


def test_a_column_that_is_there_twice_is_an_error(folder):
    assert "'emotion' is there more than once" in error_of(
        write(folder / "m.csv", "audio,emotion,emotion \naudio/a.wav,b,c\n")
    )


def test_a_missing_file_and_an_unknown_suffix_are_errors(folder):
    assert "no such file" in error_of(folder / "absent.csv")
    assert ".csv, .tsv, .jsonl, .parquet" in error_of(write(folder / "m.xlsx", ""))


def test_an_empty_audio_cell_is_an_error_with_its_row(folder):
    assert "row 3: 'audio' is empty" in error_of(write(folder / "m.csv", "audio,text\naudio/a.wav,x\n ,y\n"))


def test_missing_audio_files_are_counted_and_the_first_is_named(folder):
    path = write(folder / "m.csv", "audio\naudio/a.wav\naudio/x.wav\naudio/b.wav\naudio/y.wav\n")
    assert "2 of 4 audio files do not exist, the first in row 3: audio/x.wav" in error_of(path)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("m.csv", b"audio,text\na.wav,\xff\xfe\n", "could not be read as CSV"),
        ("m.csv", b"audio,text\na.wav,ok\na.wav,Yes, sir\n", "row 3: 3 cells where the header has 2"),
        ("m.csv", b'audio,text\na.wav,ok\na.wav,"never closed\nb.wav,x\n', "row 3: unexpected end of data"),
        ("m.jsonl", b'{"audio": "a.wav"}\n{"audio": \n', "row 2: not valid JSON"),
        ("m.jsonl", b'["a.wav"]\n', "row 1: found a JSON list"),
        ("m.jsonl", b'{"audio": {"path": "a.wav"}}\n', "'audio' holds values of type dict"),
        ("m.parquet", b"not a parquet file at all", "could not be read as PARQUET"),
    ],
)
def test_a_broken_file_is_one_line_that_says_what_was_found(tmp_path, name, content, found):
    for audio in ("a.wav", "b.wav"):
        (tmp_path / audio).touch()
    (tmp_path / name).write_bytes(content)
    assert found in error_of(tmp_path / name)


def test_several_manifests_become_one_table_that_remembers_where_each_clip_came_from(folder):
    first = write(folder / "first.csv", "audio,split\naudio/a.wav,dev\n")
    second = write(folder / "second.jsonl", json.dumps({"audio": "audio/b.wav", "emotion": "fear"}))
    table = read_manifests([first, second])
    assert table.index.tolist() == [0, 1]
    assert table["manifest"].tolist() == [str(first), str(second)]
    assert table["emotion"].tolist() == ["", "fear"] and table["split"].tolist() == ["dev", ""]


def test_clearing_an_emotion_keeps_the_clips_other_labels_and_the_given_table(folder):
    lines = "audio/a.wav,anger,male,1,hi\naudio/b.wav,calm,female,2,ho\n"
    table = read_manifest(write(folder / "m.csv", HEADER + lines))
    cleared = clear_labels_outside(table, "emotion", ["anger"])
    assert cleared["emotion"].tolist() == ["anger", ""]
    assert table["emotion"].tolist() == ["anger", "calm"]
    pd.testing.assert_frame_equal(cleared.drop(columns="emotion"), table.drop(columns="emotion"))


def test_a_label_outside_the_allowed_ones_is_named_with_its_row_and_flag(folder):
    path = write(folder / "m.csv", "audio,emotion\naudio/a.wav,\naudio/b.wav,joy\n")
    with pytest.raises(InputError, match=r"m\.csv row 3: emotion is 'joy'; allowed: anger, fear; .*--emotion_labels"):
        check_labels(read_manifest(path), "emotion", ["anger", "fear"], "--emotion_labels")


def test_unknown_labels_are_always_allowed(folder):
    check_labels(
        read_manifest(write(folder / "m.csv", "audio\naudio/a.wav\n")), "emotion", ["anger"], "--emotion_labels"
    )


def test_the_first_clip_without_a_speaker_is_named(folder):
    table = read_manifest(write(folder / "m.csv", "audio,speaker_id\naudio/a.wav,1\naudio/b.wav,\n"))
    with pytest.raises(
        InputError, match=r"m\.csv row 3: 'speaker_id' of audio/b\.wav is empty .*--num_folds needs one"
    ):
        require_speakers(table, "--num_folds")


def test_a_hundred_thousand_rows_are_all_read(folder):
    lines = "".join(f"audio/a.wav,anger,male,{i % 100:03},some words here\n" for i in range(100_000))
    path = write(folder / "m.csv", HEADER + lines)
    table = read_manifest(path, LABELS)
    assert len(table) == 100_000 and table["row"].iloc[-1] == 100_001


def test_real_corpora_read(corpora):
    table = read_manifests(sorted(corpora.glob("*/manifest.csv")))
    emodb = table[table["corpus"] == "emodb"]
    assert set(emodb["speaker"]) == {f"emodb/{i}" for i in ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_manifest_of_100_000_rows_is_read_and_checked_in_little_memory(tmp_path, make_wav):
    make_wav(tmp_path / "clip.wav", seconds=2)
    with open(tmp_path / "m.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["audio", "emotion", "gender", "speaker_id", "text", "split"])
        for row in range(100_000):
            name = f"MSP-PODCAST_{row // 100:04d}_{row % 100:04d}.wav"
            os.symlink(tmp_path / "clip.wav", tmp_path / name)
            gender = ("female", "male")[row // 70 % 2]
            text = f"sentence {row} of a hundred thousand, each of sixty characters".ljust(60)[:60]
            writer.writerow([name, ("anger", "joy")[row % 2], gender, f"{row // 70:04d}", text, "train"])
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}  # as the command line has it
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "m.csv")]
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    assert 0 < float(result.stdout) < 80
