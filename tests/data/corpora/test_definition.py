import tempfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_ser_mtl.data.corpora.definition import find_audio, find_file, read_clips, read_table, read_text
from modeling_ser_mtl.data.errors import InputError

EMOTIONS = {"a": "anger", "s": "sadness"}
COLUMNS = {"emotion": ("emotion", EMOTIONS)}


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_audio_is_found_at_any_depth_and_in_any_case_but_not_where_it_is_hidden(tmp_path):
    touch(tmp_path, "b.wav", "x/a.WAV", "x/y/c.flac", "x.mp3", "notes.txt", ".hidden/d.wav", "x/._a.wav")
    assert find_audio(tmp_path) == ["b.wav", "x.mp3", "x/a.WAV", "x/y/c.flac"]


def test_audio_is_found_behind_links_and_a_link_in_a_circle_ends(tmp_path):
    touch(tmp_path, "elsewhere/a.wav", "corpus/b.wav")
    (tmp_path / "corpus" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "corpus" / "circle").symlink_to(tmp_path / "corpus")
    assert find_audio(tmp_path / "corpus") == ["b.wav", "linked/a.wav"]


names = st.from_regex(r"(x/|y/)?(0[1-3]/[asz][1-2]|other)\.(wav|flac)", fullmatch=True)


@settings(max_examples=30, deadline=None)
@given(there=st.sets(names, max_size=12), lines=st.sets(st.from_regex(r"0[1-3]/[as][1-2]", fullmatch=True)))
def test_every_file_is_a_row_or_unexpected_and_every_line_a_row_or_missing(there, lines):
    codes = [(line[:2], line[3], line[4]) for line in sorted(lines)]
    table = pd.DataFrame(codes, index=sorted(lines), columns=["speaker_id", "emotion", "_take"], dtype=object)
    with tempfile.TemporaryDirectory() as folder:
        touch(Path(folder), *there)
        reading = read_clips(
            Path(folder), r"(?P<speaker_id>\d\d)/(?P<emotion>[a-z])(?P<_take>\d)", COLUMNS, listed=lambda _: table
        )
    rows = reading.rows.set_index("audio")
    clip_of = {name: name.removeprefix("x/").removeprefix("y/").rsplit(".", 1)[0] for name in there}

    assert sorted([*rows.index, *reading.unexpected]) == sorted(there)
    assert {clip_of[name] for name in rows.index} == lines & set(clip_of.values())
    assert len(rows) == len({clip_of[name] for name in rows.index})
    assert set(reading.missing) == lines - set(clip_of.values())
    for name, row in rows.iterrows():
        assert (row["speaker_id"], row["emotion"]) == (clip_of[name][:2], EMOTIONS[clip_of[name][3]])


def test_a_file_that_two_lines_name_is_one_row(tmp_path):
    touch(tmp_path, "01.wav")
    table = pd.DataFrame({"_number": ["01", "01"], "text": ["first", "second"]}, index=["01.wav", "01.wav"])
    reading = read_clips(tmp_path, r"(?P<_number>\d\d)", {}, listed=lambda _: table)
    assert reading.rows["text"].tolist() == ["first"]


def test_the_list_that_lies_least_deep_counts(tmp_path):
    touch(tmp_path, "a/copy/data.tsv", "b/data.tsv", ".data.tsv")
    assert find_file(tmp_path, "data.tsv") == tmp_path / "b" / "data.tsv"
    with pytest.raises(FileNotFoundError, match="^other.tsv$"):
        find_file(tmp_path, "other.tsv")


def test_cells_of_a_list_stay_as_they_are_written(tmp_path):
    (tmp_path / "list.csv").write_text("\ufeff id , text,more\n01, NA ,x\n1e5,,y\n", encoding="utf-8")
    table = read_table(tmp_path / "list.csv", {"id": "speaker_id", "text": "text"})
    assert table.to_dict("list") == {"speaker_id": ["01", "1e5"], "text": ["NA", ""]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"id,text\n1,caf\xe9\n", "could not be read"),
        (b"", "could not be read"),
        (b"id,text\n1,2,3\n1,2,3,4\n", "could not be read"),
        (b"id,words\n1,a\n", "column 'text' is missing; found: id, words"),
    ],
    ids=["not UTF-8", "empty", "ragged", "a column less"],
)
def test_a_broken_list_is_one_line_that_names_it(tmp_path, content, reason):
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_table(path, {"id": "id", "text": "text"})
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(caught.value)


def test_text_that_is_not_utf_8_is_one_line_that_names_the_file(tmp_path):
    (tmp_path / "trans.txt").write_bytes(b"1 caf\xe9")
    with pytest.raises(InputError, match=r"trans\.txt: is not UTF-8 \(byte 5\)"):
        read_text(tmp_path / "trans.txt")
