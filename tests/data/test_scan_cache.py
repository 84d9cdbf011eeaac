"""A scan with a cache gives what a scan without one gives, whatever happened to the files or to the cache."""

import multiprocessing
import os
import re
import shutil
import sqlite3
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from huggingface_hub.constants import HF_HOME
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_ser_mtl.data.audio import scan_audio
from modeling_ser_mtl.data.scan_cache import SETTLED_NANOSECONDS, ScanCache, default_folder

SUFFIXES = ("wav", "flac", "ogg", "mp3")


def write_clip(path: Path, num_samples: int, seed: int = 0, sampling_rate: int = 16_000) -> Path:
    """Noise, so that clips of one length differ in content."""
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, num_samples)
    soundfile.write(path, noise, sampling_rate)
    return path


def assert_same(cached, uncached) -> None:
    np.testing.assert_array_equal(cached[0], uncached[0])
    # The name of bytes has their address.
    assert [re.sub("0x[0-9a-f]+", "", reason) for reason in cached[1]] == [
        re.sub("0x[0-9a-f]+", "", reason) for reason in uncached[1]
    ]


def unexpected(source: object) -> tuple[int, str]:
    raise AssertionError(f"{source} is decoded again")


def scan_known(cache: ScanCache, sources) -> list[int]:
    """Lengths of clips that the cache has: none may be decoded."""
    with ThreadPoolExecutor(1) as pool:
        return [length for length, _ in cache.scan(sources, unexpected, pool)]


def count(cache: ScanCache, table: str) -> int:
    with closing(sqlite3.connect(cache.path)) as database:
        return database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def wait_until_settled() -> None:
    time.sleep(SETTLED_NANOSECONDS / 1e9 + 0.1)


@pytest.fixture
def cache(tmp_path) -> ScanCache:
    return ScanCache(tmp_path / "cache")


@pytest.mark.parametrize("num_workers", [1, 3])
def test_the_first_and_the_second_cached_scan_equal_an_uncached_one(tmp_path, cache, num_workers) -> None:
    sources = [write_clip(tmp_path / f"{i}.{SUFFIXES[i % 4]}", 8_000 + i, seed=i) for i in range(10)]
    sources.append(write_clip(tmp_path / "44k.wav", 22_050, sampling_rate=44_100))
    sources.append(write_clip(tmp_path / "short.wav", 399))
    sources.append(sources[0].read_bytes())
    (tmp_path / "text.wav").write_text("no audio")
    sources += [tmp_path / "text.wav", str(tmp_path / "absent.wav"), b"no audio", tmp_path]
    uncached = scan_audio(sources, num_workers)
    assert sum(map(bool, uncached[1])) == 5
    for _ in range(2):
        assert_same(scan_audio(sources, num_workers, cache=cache), uncached)
    assert scan_known(cache, sources[:11]) == uncached[0][:11].tolist()


def test_a_scan_of_many_batches_keeps_the_order(tmp_path, cache) -> None:
    paths = [write_clip(tmp_path / f"{i}.wav", 500 + i, seed=i) for i in range(7)]
    sources = [paths[i] for i in np.random.default_rng(0).integers(0, 7, 200)]
    expected = [500 + int(path.stem) for path in sources]
    for _ in range(2):
        assert scan_audio(sources, 2, cache=cache)[0].tolist() == expected
    assert scan_audio([], cache=cache)[0].shape == (0,)


def test_a_clip_that_was_moved_or_copied_is_not_decoded_again(tmp_path, cache) -> None:
    path = write_clip(tmp_path / "a.wav", 1000)
    content = path.read_bytes()
    scan_audio([path, content], cache=cache)
    copy, moved = tmp_path / "copy.wav", tmp_path / "moved.wav"
    shutil.copy(path, copy)
    path.rename(moved)
    assert scan_known(cache, [copy, moved, content]) == [1000] * 3


def test_an_unchanged_file_is_not_even_read_once_its_times_are_settled(tmp_path, cache) -> None:
    path = write_clip(tmp_path / "a.wav", 1000)
    scan_audio([path], cache=cache)
    assert count(cache, "files") == 0  # its next change might leave no trace in its times
    wait_until_settled()
    scan_audio([path], cache=cache)
    assert count(cache, "files") == 1
    # Were it read, the hash of its content would be looked up in vain.
    with closing(sqlite3.connect(cache.path)) as database, database:
        database.execute("UPDATE files SET content = x'00'")
        database.execute("INSERT INTO clips VALUES (x'00', 12345)")
    assert scan_known(cache, [path]) == [12_345]


def overwrite(path: Path) -> None:
    write_clip(path, 3000, seed=1)


def truncate(path: Path) -> None:
    os.truncate(path, 1044)  # 500 samples behind the header


def damage(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def shorten_within_the_same_size(path: Path) -> None:
    size = path.stat().st_size
    write_clip(path, 700, seed=1)
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))


def replace_with_the_times_of_the_old(path: Path) -> None:
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    shorten_within_the_same_size(path)
    os.utime(path, ns=times)


def replace_by_renaming(path: Path) -> None:
    other = path.with_name("other.wav")
    shutil.copy2(path, other)
    replace_with_the_times_of_the_old(other)
    other.replace(path)


def delete(path: Path) -> None:
    path.unlink()


CHANGES = [
    overwrite,
    truncate,
    damage,
    shorten_within_the_same_size,
    replace_with_the_times_of_the_old,
    replace_by_renaming,
    delete,
]


def test_a_settled_file_that_changed_is_measured_anew(tmp_path, cache) -> None:
    paths = [write_clip(tmp_path / f"{i}.wav", 1000, seed=i) for i in range(len(CHANGES) + 1)]
    wait_until_settled()
    scan_audio(paths, cache=cache)
    assert count(cache, "files") == len(paths)
    for change, path in zip(CHANGES, paths, strict=False):
        change(path)
    uncached = scan_audio(paths)
    assert uncached[0][:2].tolist() == [3000, 500] and uncached[0][-1] == 1000
    for _ in range(2):
        assert_same(scan_audio(paths, cache=cache), uncached)
    wait_until_settled()
    scan_audio(paths, cache=cache)
    with closing(sqlite3.connect(cache.path)) as database:
        sizes = dict(database.execute("SELECT path, size FROM files"))
    assert all(sizes[str(path)] == path.stat().st_size for path in paths if path.exists())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(CHANGES[:5])), max_size=3), max_size=4))
def test_scans_between_any_changes_in_quick_succession_equal_uncached_ones(tmp_path_factory, rounds) -> None:
    folder = tmp_path_factory.mktemp("changes")
    paths, cache = [write_clip(folder / f"{i}.wav", 1000, seed=i) for i in range(4)], ScanCache(folder / "cache")
    scan_audio(paths, cache=cache)
    for changes in rounds:
        for index, change in changes:
            change(paths[index])
        assert_same(scan_audio(paths, cache=cache), scan_audio(paths))


def test_what_changes_while_it_is_measured_is_not_kept(tmp_path, cache) -> None:
    path = write_clip(tmp_path / "a.wav", 1000)

    def measure(source) -> tuple[int, str]:
        overwrite(path)
        return 1000, ""

    with ThreadPoolExecutor(1) as pool:
        assert cache.scan([path], measure, pool) == [(1000, "")]
    assert count(cache, "clips") == 0
    assert scan_audio([path], cache=cache)[0].tolist() == [3000]


def test_a_clip_that_could_not_be_used_is_tried_again(tmp_path, cache) -> None:
    path = write_clip(tmp_path / "a.wav", 1000)
    with ThreadPoolExecutor(1) as pool:
        assert cache.scan([path], lambda _: (0, "too many open files"), pool) == [(0, "too many open files")]
    assert_same(scan_audio([path], cache=cache), (np.array([1000]), [""]))


@pytest.fixture(scope="module")
def processes() -> BaseContext:
    """Starts processes that have imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([scan_audio.__module__])
    return context


@pytest.fixture(scope="module")
def many_clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for i in range(400):
        write_clip(folder / f"{i:03d}.ogg", 10_000 + i, seed=i, sampling_rate=22_050)
    return folder


def test_a_killed_scan_goes_on_where_it_was_and_equals_an_uncached_one(many_clips, cache, processes) -> None:
    paths = sorted(many_clips.iterdir())
    process = processes.Process(target=scan_audio, args=(paths, 1, "killed", cache))
    process.start()
    while process.is_alive() and not (cache.path.exists() and cache.path.stat().st_size > 20_000):
        time.sleep(0.001)
    process.kill()
    process.join()
    known = count(cache, "clips")
    assert 0 < known < len(paths)
    assert len(scan_known(cache, paths[:known])) == known
    assert_same(scan_audio(paths, cache=cache), scan_audio(paths))


def test_processes_at_once_share_a_cache(many_clips, cache, processes) -> None:
    paths = sorted(many_clips.iterdir())
    with ProcessPoolExecutor(3, mp_context=processes) as pool:
        results = [pool.submit(scan_audio, paths, 1, "shared", cache) for _ in range(3)]
    expected = scan_audio(paths)
    for result in results:
        assert_same(result.result(), expected)
    assert scan_known(cache, paths) == expected[0].tolist()
    assert count(cache, "clips") == len(paths)


def test_a_cache_that_cannot_be_used_is_warned_of_once_and_the_scan_goes_on(tmp_path, caplog) -> None:
    (tmp_path / "file").write_text("")
    blocked, broken = ScanCache(tmp_path / "file"), ScanCache(tmp_path / "broken")
    broken.folder.mkdir()
    broken.path.write_text("no database at all, but something else" * 100)
    sources = [write_clip(tmp_path / "a.wav", 1000)] * 100
    for cache in (blocked, broken):
        caplog.clear()
        assert scan_audio(sources, 1, cache=cache)[0].tolist() == [1000] * 100
        [record] = caplog.records
        assert str(cache.path) in record.getMessage() and "HF_HOME" in record.getMessage()


def test_other_versions_of_the_libraries_have_a_database_of_their_own(cache) -> None:
    for module in (soundfile, soxr):
        assert module.__version__ in cache.path.name


def test_the_default_folder_is_below_the_hugging_face_home() -> None:
    assert default_folder().is_relative_to(HF_HOME)
