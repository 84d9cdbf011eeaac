import itertools
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.data.leaks import check_leaks
from modeling_ser_mtl.data.loading import Split


def make_split(name, sources, speakers=None):
    """A set of clips, each of a speaker of its own unless they are named."""
    speakers = [f"{name}/{index}" for index in range(len(sources))] if speakers is None else speakers
    table = pd.DataFrame({"speaker": speakers, "manifest": f"{name}.csv", "row": range(2, len(sources) + 2)})
    return Split(table, sources)


def leak_of(**splits):
    with pytest.raises(InputError) as error:
        check_leaks(splits)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def files(tmp_path):
    """Six files of one size and different content."""
    paths = [tmp_path / f"{index}.wav" for index in range(6)]
    for index, path in enumerate(paths):
        path.write_bytes(np.random.default_rng(index).bytes(20_000))
    return [str(path) for path in paths]


def test_sets_that_share_nothing_pass(files) -> None:
    check_leaks(
        {
            "train": make_split("train", files[:3], ["a/1", "", ""]),
            "validation": make_split("validation", files[3:4]),
            "test": make_split("test", files[4:], ["a/2", ""]),
        }
    )


def test_clips_of_one_set_may_be_copies(files, tmp_path) -> None:
    copy = shutil.copy(files[0], tmp_path / "copy.wav")
    check_leaks({"train": make_split("train", [files[0], files[0], copy]), "test": make_split("test", files[1:])})


def test_shared_speakers_are_counted_and_the_first_named_with_their_sets(files) -> None:
    message = leak_of(
        train=make_split("train", files[:2], ["a/1", "a/2"]),
        validation=make_split("validation", files[2:4], ["a/2", "a/3"]),
        test=make_split("test", files[4:], ["a/1", "a/3"]),
    )
    assert "3 speaker(s): a/1 (train, test), a/2 (train, validation), a/3 (validation, test)" in message


def test_a_speaker_of_three_sets_counts_once(files) -> None:
    sets = zip(("train", "validation", "test"), range(0, 6, 2), strict=True)
    message = leak_of(**{name: make_split(name, files[start : start + 2], ["a/1", ""]) for name, start in sets})
    assert "1 speaker(s): a/1 (train, validation, test);" in message


def test_shared_speakers_that_are_allowed_are_a_warning_with_their_count(files, caplog) -> None:
    speakers = ["a/1", "a/2", "a/3"]
    splits = {"train": make_split("train", files[:3], speakers), "test": make_split("test", files[3:], speakers)}
    check_leaks(splits, allow_shared_speakers=True)
    assert "the sets share 3 speaker(s): a/1 (train, test), " in caplog.text


def test_a_shared_file_stays_an_error_where_speakers_may_be_shared(files, tmp_path) -> None:
    for shared in (files[0], shutil.copy(files[0], tmp_path / "copy.wav")):
        splits = {"train": make_split("train", files[:3], ["a"] * 3), "test": make_split("test", [shared], ["a"])}
        with pytest.raises(InputError, match="the sets share 1 (copied )?audio file") as error:
            check_leaks(splits, allow_shared_speakers=True)
        assert "speaker" not in str(error.value)


def test_a_shared_file_is_named_with_the_rows_of_both_manifests(files) -> None:
    message = leak_of(train=make_split("train", files[:3]), test=make_split("test", files[2:]))
    assert "1 audio file(s): train.csv row 4 (train) and test.csv row 2 (test)" in message
    assert "copied" not in message


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_is_the_file_that_it_names(files, tmp_path, link) -> None:
    link(files[1], tmp_path / "link.wav")
    message = leak_of(train=make_split("train", files), test=make_split("test", [str(tmp_path / "link.wav")]))
    assert "1 audio file(s): train.csv row 3 (train) and test.csv row 2 (test)" in message


def test_a_copy_under_another_name_is_found(files, tmp_path) -> None:
    copy = shutil.copy(files[1], tmp_path / "copy.wav")
    message = leak_of(train=make_split("train", files[:3]), validation=make_split("validation", [files[4], copy]))
    assert "1 copied audio file(s): train.csv row 3 (train) and validation.csv row 3 (validation)" in message


@pytest.mark.parametrize("position", [0, 10_000, 19_999])
def test_one_byte_makes_another_clip(files, tmp_path, position) -> None:
    content = bytearray((tmp_path / "0.wav").read_bytes())
    content[position] ^= 1
    (tmp_path / "changed.wav").write_bytes(content)
    check_leaks({"train": make_split("train", files), "test": make_split("test", [str(tmp_path / "changed.wav")])})


@given(contents=st.lists(st.tuples(st.sampled_from(["train", "validation", "test"]), st.integers(0, 5)), min_size=1))
@settings(max_examples=50, deadline=None)
def test_of_a_data_sets_bytes_each_content_of_two_sets_is_found(contents) -> None:
    sources = {name: [bytes([content]) * 9_000 for other, content in contents if other == name] for name, _ in contents}
    splits = {name: make_split(name, clips) for name, clips in sources.items()}
    shared = set().union(*(set(a) & set(b) for a, b in itertools.combinations(sources.values(), 2)))
    if shared:
        assert f"the sets share {len(shared)} copied audio file(s): " in leak_of(**splits)
    else:
        check_leaks(splits)


def test_three_pairs_are_named_and_the_others_counted(files) -> None:
    message = leak_of(train=make_split("train", files), test=make_split("test", files))
    assert "6 audio file(s)" in message and message.count("(test)") == 3 and "and 3 more" in message


def test_the_real_corpora_hold_no_clip_twice(corpora) -> None:
    folders = sorted(folder for folder in corpora.iterdir() if folder.is_dir())
    clips = [sorted(map(str, folder.glob("audio/*.flac"))) for folder in folders]
    check_leaks(
        {name: make_split(name, some) for name, some in zip(("train", "validation", "test"), clips, strict=False)}
    )
