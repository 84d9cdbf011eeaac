"""What a scan of audio found out, kept between runs: the length of each clip, by the content of its file."""

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import soundfile
import soxr
from huggingface_hub.constants import HF_HOME

AudioSource = str | os.PathLike | bytes
Measurement = tuple[int, str]

# Within the resolution of its file system's clock (FAT: 2 s) a file may change and keep its times.
SETTLED_NANOSECONDS = 2 * 10**9
LOCK_TIMEOUT = 60.0
SCHEMA = """
    CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, ctime INTEGER, content BLOB)
        WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS clips (content BLOB PRIMARY KEY, length INTEGER) WITHOUT ROWID;
"""


def default_folder() -> Path:
    """Where lengths are kept between runs: below the Hugging Face home."""
    return Path(HF_HOME) / "ser_mtl" / "audio_lengths"


@dataclass(frozen=True)
class ScanCache:
    """
    Lengths of clips in an SQLite database, one for each version of the libraries that decode and resample.

    A clip is found by the hash of its content, so that it may move or be copied; a file whose path, size and times are
    those of an earlier scan is not even read. Only usable clips are kept: the others are few, and what hindered them (a
    missing decoder, a full memory) may be gone next time. Each batch of a scan is one transaction: an interrupted scan
    goes on from there, and several processes may share the cache.

    Args:
        folder (`Path`): receives the database; made when first written to.
    """

    folder: Path

    @property
    def path(self) -> Path:
        """The database of the installed versions."""
        versions = f"soundfile-{soundfile.__version__}-{soundfile.__libsndfile_version__}-soxr-{soxr.__version__}"
        return self.folder / f"{versions}.sqlite"

    def scan(
        self, sources: Sequence[AudioSource], measure: Callable[[AudioSource], Measurement], pool: Executor
    ) -> list[Measurement]:
        """
        Measures clips that are not in the cache and adds them.

        Args:
            sources (`Sequence[AudioSource]`): paths or bytes of N clips, all in memory at once.
            measure (`Callable`): gives a clip's length, and the reason why it can't be used or "".
            pool (`Executor`): threads that read, hash and measure.

        Returns:
            `list[tuple[int, str]]`: as `measure` gives them, N of them in order.

        Raises:
            OSError: the folder can't be made.
            sqlite3.Error: the database can't be read or written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # The default journal rather than WAL, which network file systems do not support.
        with closing(sqlite3.connect(self.path, timeout=LOCK_TIMEOUT)) as database:
            database.executescript(SCHEMA)
            latest = time.time_ns() - SETTLED_NANOSECONDS
            stamps = [_stamp(source) for source in sources]
            contents = [_indexed(database, source, stamp) for source, stamp in zip(sources, stamps, strict=True)]
            unread = [i for i, content in enumerate(contents) if content is None]
            for i, content in zip(unread, pool.map(_hash, [sources[i] for i in unread]), strict=True):
                contents[i] = content

            lengths = [_length(database, content) for content in contents]
            unknown = [i for i, length in enumerate(lengths) if length is None]
            results = [(length or 0, "") for length in lengths]
            for i, result in zip(unknown, pool.map(measure, [sources[i] for i in unknown]), strict=True):
                results[i] = result

            # What changed while it was read is neither the old content nor surely the new.
            kept = {i for i in {*unread, *unknown} if contents[i] is not None and _stamp(sources[i]) == stamps[i]}
            clips = [(contents[i], results[i][0]) for i in unknown if i in kept and not results[i][1]]
            files = [
                (_path(sources[i]), *stamp, contents[i])
                for i in unread
                if i in kept and (stamp := stamps[i]) is not None and max(stamp[1:]) < latest
            ]
            with database:
                database.executemany("INSERT OR REPLACE INTO clips VALUES (?, ?)", clips)
                database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", files)
        return results


def _path(source: AudioSource) -> str:
    return os.path.abspath(os.fsdecode(source))


def _stamp(source: AudioSource) -> tuple[int, int, int] | None:
    """Size and times of a file, which change with its content; None for bytes and for what can't be looked up."""
    if isinstance(source, bytes):
        return None
    try:
        status = os.stat(source)
    except OSError:
        return None
    # The time of the last change of the inode too: copying and unpacking restore the time of modification.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _hash(source: AudioSource) -> bytes | None:
    """Hash of a clip's content; None for a file that can't be read, whose reason is then the measurement's."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).digest()
    try:
        with open(source, "rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    except OSError:
        return None
    digest.update(Path(source).suffix.lower().encode())  # by which headerless files are decoded
    return digest.digest()


def _indexed(database: sqlite3.Connection, source: AudioSource, stamp: tuple[int, int, int] | None) -> bytes | None:
    """The content's hash of a file that is as it was when it was hashed."""
    if stamp is None or isinstance(source, bytes):
        return None
    row = database.execute("SELECT size, mtime, ctime, content FROM files WHERE path = ?", (_path(source),)).fetchone()
    return row[3] if row is not None and row[:3] == stamp else None


def _length(database: sqlite3.Connection, content: bytes | None) -> int | None:
    row = database.execute("SELECT length FROM clips WHERE content = ?", (content,)).fetchone()
    return None if row is None else row[0]
