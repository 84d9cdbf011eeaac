import shutil
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_ser_mtl.data.corpora import CORPORA
from modeling_ser_mtl.data.corpora.prepare import main, prepare, write_manifest
from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.data.manifest import SUFFIXES, read_manifest

LABELS = ["emotion", "gender", "speaker_id", "text"]
CLIPS = ["wav/03a01Fa.wav", "wav/08b01Wb.wav"]


@pytest.fixture
def emodb(lay_out):
    """Two clips of EmoDB."""
    return lay_out(CLIPS)


def error_of(*arguments):
    with pytest.raises(InputError) as caught:
        prepare(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_manifest_is_read_back_with_audio_and_labels(emodb, suffix):
    prepare("emodb", emodb, emodb / f"manifest{suffix}")
    table = read_manifest(emodb / f"manifest{suffix}", required=LABELS)
    assert table["audio"].tolist() == CLIPS
    assert table["speaker"].tolist() == ["emodb/03", "emodb/08"]
    assert table[LABELS].values.tolist() == [
        ["happiness", "male", "03", "Der Lappen liegt auf dem Eisschrank."],
        ["anger", "female", "08", "Was sind denn das für Tüten, die da unter dem Tisch stehen?"],
    ]


cells = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8).map(str.strip)


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(cells, min_size=1, max_size=4), suffix=st.sampled_from(SUFFIXES))
def test_any_text_survives_any_format(texts, suffix):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.wav").touch()
        rows = pd.DataFrame({"audio": "a.wav", "text": texts, "speaker_id": "01"})
        write_manifest(rows, Path(folder) / f"manifest{suffix}")
        table = read_manifest(Path(folder) / f"manifest{suffix}")
    assert table["text"].tolist() == texts
    assert set(table["speaker_id"]) == {"01"}


def test_audio_paths_are_relative_to_a_manifest_above_the_corpus_and_move_with_it(emodb, tmp_path):
    prepare("emodb", emodb, emodb.parent / "manifest.csv")
    moved = shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    table = read_manifest(moved / "manifest.csv")
    assert table["audio"].tolist() == [f"corpus/{clip}" for clip in CLIPS]


def test_audio_paths_are_absolute_for_a_manifest_elsewhere(emodb, tmp_path, monkeypatch):
    monkeypatch.chdir(emodb.parent)
    prepare("emodb", "corpus", tmp_path / "new" / "folder" / "manifest.csv")
    table = read_manifest(tmp_path / "new" / "folder" / "manifest.csv")
    assert table["audio"].tolist() == [str(emodb / clip) for clip in CLIPS]


def test_licence_citation_counts_and_names_of_files_are_printed(lay_out, capsys):
    unexpected = [f"wav/extra{number}.wav" for number in range(8)]
    folder = lay_out([*CLIPS, *unexpected])
    main(["emodb", str(folder), "--output", str(folder / "manifest.csv")])
    printed = capsys.readouterr().out
    corpus = CORPORA["emodb"]
    for text in (corpus.title, corpus.license, corpus.citation, corpus.url, "2 of 535", "female 1", "anger 1"):
        assert text in printed, text
    assert f"8 there but no clips of the corpus: {', '.join(unexpected[:5])} and 3 more" in printed
    assert "missing     none" in printed


def test_missing_files_are_counted_and_the_first_are_named(lay_out, capsys):
    folder = lay_out(["Actor_01/03-01-01-01-01-01-01.wav"])
    prepare("ravdess", folder, folder / "manifest.csv")
    first = "Actor_01/03-01-01-01-01-02-01.wav"
    assert f"1,439 on the corpus' lists but not there: {first}, " in capsys.readouterr().out


def test_speakers_of_iemocap_are_the_same_whatever_the_classes(lay_out):
    lists = {
        "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt": "[6.2 - 8.2]\tSes01F_impro01_F000\tneu\t[2.5, 2.5, 2.5]\n",
        "Session1/dialog/transcriptions/Ses01F_impro01.txt": "",
    }
    folder = lay_out(["Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"], lists)
    speakers = set()
    for name in ("iemocap", "iemocap-4", "iemocap-5", "iemocap-6"):
        prepare(name, folder, folder / f"{name}.csv")
        speakers |= set(read_manifest(folder / f"{name}.csv")["speaker"])
    assert speakers == {"iemocap/Ses01F"}


def esd(lay_out, *sets):
    """A clip of each of two speakers of ESD in each of the published sets named ("" for none)."""
    clips, lists = [], {}
    for speaker in ("0001", "0011"):
        names = [f"{speaker}_{number:06d}" for number in range(len(sets))]
        clips += [f"{speaker}/Angry/{name and name + '/'}{clip}.wav" for name, clip in zip(sets, names, strict=True)]
        lists[f"{speaker}/{speaker}.txt"] = "".join(f"{clip}\tHe said so.\tAngry\n" for clip in names)
    return lay_out(clips, lists)


def test_a_published_split_that_shares_speakers_is_the_split_on_request(lay_out, caplog):
    folder = esd(lay_out, "train", "evaluation", "test")
    main(["esd", str(folder), "--output", str(folder / "kept.csv")])
    assert "split" not in read_manifest(folder / "kept.csv") and not caplog.records
    main(["esd", str(folder), "--output", str(folder / "used.csv"), "--published_split"])
    table = read_manifest(folder / "used.csv").sort_values("audio")
    assert table["split"].tolist() == ["validation", "test", "train"] * 2 == table["published_split"].tolist()
    assert [record.getMessage() for record in caplog.records] == [
        "train and test share 2 speakers: train with --allow_shared_speakers True, and compare with figures on this "
        "split only"
    ]


def test_a_published_split_that_some_clips_lack_is_an_error(lay_out):
    folder = esd(lay_out, "train", "")
    message = error_of("esd", folder, folder / "m.csv", True)
    assert "2 of 4 clips" in message and "0001/Angry/0001_000001.wav" in message
    assert not (folder / "m.csv").exists()


def test_a_corpus_without_such_a_split_says_so(emodb):
    assert "--published_split: " in error_of("emodb", emodb, emodb / "m.csv", True)


def test_an_unknown_name_is_answered_with_the_nearest(emodb):
    assert error_of("emo-db", emodb, emodb / "m.csv") == "unknown corpus 'emo-db'; did you mean emodb?"
    assert "known are msp-podcast, ravdess, " in error_of("switchboard", emodb, emodb / "m.csv")


def test_a_file_that_is_there_is_not_overwritten(emodb):
    (emodb / "m.csv").write_text("mine")
    assert "exists already" in error_of("emodb", emodb, emodb / "m.csv")
    assert (emodb / "m.csv").read_text() == "mine"


def test_a_manifest_of_another_format_is_refused(emodb):
    assert "m.xlsx: ends in .xlsx; a manifest ends in .csv, .tsv" in error_of("emodb", emodb, emodb / "m.xlsx")


@pytest.mark.parametrize("name", ["ravdess", "nemo"])
def test_nothing_is_written_for_the_folder_of_another_corpus(emodb, tmp_path, name):
    message = error_of(name, emodb, tmp_path / "new" / "m.csv")
    assert f"expected is {CORPORA[name].layout}" in message
    assert not (tmp_path / "new").exists()


def test_a_folder_that_does_not_exist_is_told_with_what_it_should_hold(tmp_path):
    assert error_of("emodb", tmp_path / "nowhere", tmp_path / "m.csv") == (
        f"{tmp_path / 'nowhere'}: no such folder; give the one that holds {CORPORA['emodb'].layout}"
    )
