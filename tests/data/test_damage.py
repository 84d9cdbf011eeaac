"""A manifest with every kind of damage that a CSV can have is told of all of it in one pass."""

import json
import logging
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

import run_ser_mtl
from modeling_ser_mtl.data.checks import KINDS, Fault, find_audio_faults, raise_or_warn
from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.data.manifest import examine_manifest, read_manifest, read_manifests

HEADER = "audio,emotion,gender,speaker_id,text,split,length,corpus,corpus"
REQUIRED = ["emotion", "gender", "speaker_id", "text", "session"]
ALLOWED = {
    "emotion": ["anger", "sadness"],
    "gender": ["female", "male"],
    "split": ["train", "validation", "test"],
}
# Each row with the kinds of damage that it has; rows count from 2, below the header.
ROWS = [
    ("good0.wav,anger,female,s1,hello,train,4800", []),
    ("good1.wav;sadness;female;s1;hello;train;4800;;", ["wrong-delimiter"]),
    ("good1.wav,sadness,female,s1,Well, yes, no, but, maybe,train", ["ragged-row"]),
    ('good1.wav,"sad"ness,female,s1,hello', ["bad-quoting"]),
    ("good1.wav,sadness,female,s1,gr\udcfc\udcdfe", ["bad-encoding"]),
    (" ,sadness,female,s1,hello", ["empty-audio"]),
    ("https://example.org/a.wav,sadness,female,s1,hello", ["audio-is-url"]),
    ("clips,sadness,female,s1,hello", ["audio-is-folder"]),
    ("GOOD1.wav,sadness,female,s1,hello", ["misspelt-audio"]),
    ("clips\\inner.wav,sadness,female,s1,hello", ["misspelt-audio"]),
    ("C:\\corpus\\a.wav,sadness,female,s1,hello", ["absolute-path"]),
    ("/nowhere/a.wav,sadness,female,s1,hello", ["absolute-path"]),
    ("gone.wav,sadness,female,s1,hello", ["missing-audio"]),
    ("good1.wav,sad\x00ness,female,s1,hello", ["control-characters"]),
    ("good2.wav,joy,female,s1,hello", ["unknown-emotion"]),
    ("good3.wav,anger,f,s1,hello", ["unknown-gender"]),
    ("good4.wav,anger,female,s1,hello,dev", ["unknown-split"]),
    ("notes.txt,anger,female,s1,hello", ["not-audio-suffix", "undecodable"]),
    ("good5.wav,\t ,female,s1,hello", ["blank-label"]),
    ("good6.wav,anger,female,nan,hello", ["placeholder-label"]),
    ("good7.wav,anger,female,S1,hello", ["two-spellings"]),
    ("good8.wav,anger,male,s1,hello", ["two-genders"]),
    ("good0.wav,anger,female,s1,hello,train,4800", ["duplicate-row"]),
    ("good0.wav,sadness,female,s1,hello,train,4800", ["conflicting-labels"]),
    ("good9.wav,anger,female,s1,hello,train,long", ["bad-length"]),
    ("good10.wav,anger,female,s1,grÃ¼ÃŸe,train", ["damaged-text"]),
    ("zero.wav,anger,female,s1,hello", ["empty-file"]),
    ("short.wav,anger,female,s1,hello", ["too-short"]),
    ("nan.wav,anger,female,s1,hello", ["not-finite"]),
    ("good11.wav,anger,female,s1," + "far too much " * 9, ["text-too-long"]),
    ("good12.wav,anger,female,s1,hello,train,4800", []),
    ('good13.wav,anger,female,s1,"hello', ["bad-quoting"]),
    ("good14.wav,anger,female,s1,hello", []),
]
EXPECTED = {(kind, row) for row, (_, kinds) in enumerate(ROWS, 2) for kind in kinds}
EXPECTED |= {("duplicate-column", 1), ("missing-column", 1)}


@pytest.fixture
def damaged(tmp_path: Path, make_wav) -> Path:
    """A folder with the manifest above and the clips that it names."""
    for index in range(15):
        make_wav(tmp_path / f"good{index}.wav", seconds=1.0)
    make_wav(tmp_path / "clips" / "inner.wav")
    make_wav(tmp_path / "short.wav", seconds=0.01)
    (tmp_path / "zero.wav").touch()
    (tmp_path / "notes.txt").write_text("no audio")
    wave = np.zeros(16_000, dtype=np.float32)
    wave[12_345] = np.nan
    soundfile.write(tmp_path / "nan.wav", wave, 16_000, subtype="FLOAT")
    text = "\n".join([HEADER, *(row for row, _ in ROWS)])
    (tmp_path / "m.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    return tmp_path / "m.csv"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_kind_of_damage_is_named_with_its_rows_in_one_pass(damaged) -> None:
    table, faults = examine_manifest(damaged, REQUIRED, ALLOWED)
    faults += find_audio_faults(table, num_workers=2)
    assert {(fault.kind, row) for fault in faults for row in fault.rows} == EXPECTED
    assert len({fault.kind for fault in faults}) >= 25
    # What only the other formats can have, or a manifest that has nothing else.
    assert set(KINDS) - {kind for kind, _ in EXPECTED} == {"unreadable-file", "no-rows", "bad-json", "not-a-path"}


def test_the_error_gives_their_number_and_then_each_in_a_line_and_nothing_is_written(damaged) -> None:
    before = contents(damaged.parent)
    with pytest.raises(InputError) as error:
        read_manifests([damaged], REQUIRED, ALLOWED, header_workers=2)
    heading, *lines = str(error.value).splitlines()
    stopping = [line for line in lines if not re.search(r": (skipped|warning)\]$", line)]
    assert f"m.csv: {len(lines)} faults, of which {len(stopping)} stop the run" in heading
    reported = {re.search(r"\[([a-z-]+)(: \w+)?\]$", line).group(1) for line in lines}
    assert reported == {kind for kind, _ in EXPECTED}
    assert all(re.match(rf"{re.escape(str(damaged))} rows? \d+", line) for line in lines)
    assert contents(damaged.parent) == before


def test_a_run_over_a_damaged_manifest_prints_the_reports_and_writes_nothing(damaged, command, capsys) -> None:
    argv = command(do_train=True, train_file=damaged)
    before = contents(damaged.parent)
    with pytest.raises(SystemExit) as exit_info:
        run_ser_mtl.main(argv)
    assert exit_info.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("error: "))
    kinds = {match.group(1) for line in lines[start:] if (match := re.search(r"\[([a-z-]+)(?:: \w+)?\]$", line))}
    assert {"missing-audio", "ragged-row", "bad-encoding", "duplicate-row"} <= kinds
    assert contents(damaged.parent) == before


def test_the_rows_that_are_left_are_those_without_damage_that_stops_reading(damaged) -> None:
    table, _ = examine_manifest(damaged, REQUIRED, ALLOWED)
    unread = {"ragged-row", "bad-quoting", "bad-encoding", "wrong-delimiter"}
    lost = {kind for kind in KINDS if "audio" in kind and kind != "not-audio-suffix"} | {"absolute-path"} | unread
    assert table["row"].tolist() == [row for row, (_, kinds) in enumerate(ROWS, 2) if not lost & set(kinds)]


def test_damage_that_stops_no_run_is_a_warning_each(tmp_path, make_wav, caplog) -> None:
    make_wav(tmp_path / "a.wav")
    rows = ["a.wav,anger,female,s1", "a.wav,anger,female,s1", "a.wav,anger,male,s1"]
    (tmp_path / "m.csv").write_text("\n".join(["audio,emotion,gender,speaker_id", *rows]))
    with caplog.at_level(logging.WARNING):
        assert len(read_manifest(tmp_path / "m.csv")) == 3
    found = [(record.levelname, re.search(r"\[(.+)\]", record.getMessage()).group(1)) for record in caplog.records]
    kinds = ["two-genders", "duplicate-row", "conflicting-labels"]
    assert found == [("WARNING", f"{kind}: warning") for kind in kinds]


def test_a_sound_manifest_has_no_faults(manifest) -> None:
    table, faults = examine_manifest(manifest("a.csv", range(6)), REQUIRED[:-1], ALLOWED)
    assert faults == [] and find_audio_faults(table, 2) == [] and len(table) == 24


def test_the_real_corpora_have_no_faults(corpora) -> None:
    for path in sorted(corpora.glob("*/manifest.csv")):
        table, faults = examine_manifest(path, REQUIRED[:-1], {"gender": ["female", "male"]})
        assert [str(fault) for fault in faults + find_audio_faults(table, 2)] == [], path


def test_damaged_lines_of_a_jsonl_are_told_together(tmp_path, make_wav) -> None:
    make_wav(tmp_path / "a.wav")
    good = json.dumps({"audio": "a.wav"}).encode()
    lines = [
        good,
        b'{"audio": ',
        b"[1]",
        b'{"audio": "\xff"}',
        b'{"audio": {"path": "a.wav"}}',
        b'{"text": "hi"}',
        good,
    ]
    (tmp_path / "m.jsonl").write_bytes(b"\n".join(lines))
    _, faults = examine_manifest(tmp_path / "m.jsonl")
    rows = {fault.kind: fault.rows for fault in faults}
    expected = {"bad-json": [2, 3], "bad-encoding": [4], "not-a-path": [5], "empty-audio": [6], "duplicate-row": [7]}
    assert rows == expected


def test_audio_in_a_parquet_is_no_path(tmp_path) -> None:
    pd.DataFrame({"audio": [{"bytes": b"RIFF"}, {"bytes": b"RIFF"}]}).to_parquet(tmp_path / "m.parquet")
    _, (fault,) = examine_manifest(tmp_path / "m.parquet")
    assert (fault.kind, fault.rows) == ("not-a-path", [1, 2])


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_csv_with_another_delimiter_is_read_on_with_it(tmp_path, make_wav, delimiter) -> None:
    make_wav(tmp_path / "a.wav")
    rows = [("audio", "gender"), ("a.wav", "f"), ("b.wav", "male")]
    (tmp_path / "m.csv").write_text("\n".join(delimiter.join(row) for row in rows))
    _, faults = examine_manifest(tmp_path / "m.csv", allowed=ALLOWED)
    assert {fault.kind: fault.rows for fault in faults} == {
        "wrong-delimiter": [1],
        "unknown-gender": [2],
        "missing-audio": [3],
    }


@pytest.mark.parametrize(
    ("content", "kind"),
    [("audio,text\na.wav,ä\n".encode("utf-16"), "bad-encoding"), (b'"audio"s,text\na.wav,x\n', "bad-quoting")],
)
def test_a_header_that_cannot_be_read_is_the_only_fault(tmp_path, content, kind) -> None:
    (tmp_path / "m.csv").write_bytes(content)
    _, faults = examine_manifest(tmp_path / "m.csv", REQUIRED)
    assert [(fault.kind, fault.rows) for fault in faults] == [(kind, [1])]


def test_a_line_break_in_a_cell_does_not_break_the_line(tmp_path) -> None:
    (tmp_path / "m.csv").write_text('audio\n"gone\nerror: \x1b[2J.wav"\n')
    _, faults = examine_manifest(tmp_path / "m.csv")
    assert [fault.kind for fault in faults] == ["missing-audio", "control-characters"]
    assert all(str(fault).isprintable() for fault in faults)


def test_faults_of_several_manifests_are_told_together(tmp_path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(f"audio\n{name}.wav\n")
    with pytest.raises(InputError, match="2 faults, of which 2 stop") as error:
        read_manifests([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert "a.csv row 2: 1 of 1 audio files" in str(error.value) and "b.csv row 2" in str(error.value)


def test_a_fault_names_five_rows_and_counts_the_others() -> None:
    fault = Fault("m.csv", "missing-audio", list(range(2, 100)), "gone")
    assert str(fault) == "m.csv rows 2, 3, 4, 5, 6 and 93 more: gone [missing-audio]"
    with pytest.raises(InputError) as error:
        raise_or_warn([fault])
    assert str(error.value) == str(fault)


@pytest.mark.skipif(os.geteuid() == 0, reason="root lists any folder")
def test_files_in_a_folder_that_cannot_be_listed_are_found(tmp_path, make_wav) -> None:
    make_wav(tmp_path / "locked" / "a.wav")
    (tmp_path / "m.csv").write_text("audio\nlocked/a.wav\n")
    (tmp_path / "locked").chmod(0o111)
    try:
        assert len(read_manifest(tmp_path / "m.csv")) == 1
    finally:
        (tmp_path / "locked").chmod(0o755)
