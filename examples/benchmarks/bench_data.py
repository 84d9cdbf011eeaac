"""
How fast data is read: `python examples/benchmarks/bench_data.py manifest.csv`.

Reading and checking the manifest; the scan that a run begins with: uncached, filling a cache, and from a full one;
training's own reading, clip by clip; and the same files through `datasets`, decoded by its Audio feature (which needs
torchcodec and FFmpeg) or by this package. Each line runs in processes of its own; memory is what its peak lies above
that of a process that has only imported the libraries. Files are read once before, so that all find them in memory.
At the end a manifest of 100,000 rows, whose memory is the whole process's, with the allocator that `ser-mtl` chooses.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import datasets
import pandas as pd

from modeling_ser_mtl.data.audio import SAMPLING_RATE, load_audio, scan_audio
from modeling_ser_mtl.data.dataset import LabelNames, SpeechDataset
from modeling_ser_mtl.data.manifest import read_manifest
from modeling_ser_mtl.data.scan_cache import ScanCache

Step = Callable[[Path, pd.DataFrame, int, Path], int]

# In a process that imports nothing else; the second argument is the number of threads that read headers, 0 for none.
# Not the peak of getrusage, which a new program inherits from the one that starts it.
VALIDATION = """
import re, sys, time
from pathlib import Path
from modeling_ser_mtl.data.checks import find_audio_faults
from modeling_ser_mtl.data.manifest import examine_manifest

start, start_processor, workers = time.perf_counter(), time.process_time(), int(sys.argv[2])
clips, faults = examine_manifest(sys.argv[1])
if workers:
    faults += find_audio_faults(clips, workers)
assert len(clips) and not faults, faults
seconds, processor = time.perf_counter() - start, time.process_time() - start_processor
print(seconds, processor, int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**10)
"""


def read_rows(manifest: Path, table: pd.DataFrame, num_threads: int, folder: Path) -> int:
    """Reads and checks the manifest, for existing files too; the number of rows."""
    return len(read_manifest(manifest))


def scan(manifest: Path, table: pd.DataFrame, num_threads: int, folder: Path) -> int:
    """Decodes, resamples and measures every clip; the number of samples at 16 kHz, as in all that follow."""
    return int(scan_audio(table["audio_path"], num_threads)[0].sum())


def cached_scan(manifest: Path, table: pd.DataFrame, num_threads: int, folder: Path) -> int:
    """The same with a cache, which the first time fills and the second time answers."""
    return int(scan_audio(table["audio_path"], num_threads, cache=ScanCache(folder))[0].sum())


def training_clips(manifest: Path, table: pd.DataFrame, num_threads: int, folder: Path) -> int:
    """Every clip of the training set once, one after another, as a worker of its data loader does."""
    table = table.assign(length=1)
    dataset = SpeechDataset(table, table["audio_path"], LabelNames((), ()), max_seconds=3600, training=True)
    return sum(len(dataset[index]["waveform"]) for index in range(len(dataset)))


def datasets_audio(manifest: Path, table: pd.DataFrame, num_threads: int, folder: Path) -> int:
    """Through `datasets` and its own decoding to 16 kHz."""
    data = datasets.Dataset.from_dict({"audio": table["audio_path"].tolist()})
    data = data.cast_column("audio", datasets.Audio(SAMPLING_RATE))
    return sum(item["audio"].get_all_samples().data.shape[-1] for item in data)


def datasets_undecoded(manifest: Path, table: pd.DataFrame, num_threads: int, folder: Path) -> int:
    """Through `datasets` under `Audio(decode=False)`, decoded by this package."""
    data = datasets.Dataset.from_dict({"audio": table["audio_path"].tolist()})
    data = data.cast_column("audio", datasets.Audio(decode=False))
    return sum(len(load_audio(item["audio"]["path"])) for item in data)


def larger_corpus(table: pd.DataFrame, rows: int, folder: Path) -> Path:
    """A manifest of more clips, each a link to one of `table`, with texts of 60 characters and a column `split`."""
    folder.mkdir()
    large = pd.concat([table] * -(-rows // len(table)), ignore_index=True)[:rows]
    links = [folder / f"clip_{index:06d}{Path(path).suffix}" for index, path in enumerate(large["audio_path"])]
    for link, path in zip(links, large["audio_path"], strict=True):
        link.symlink_to(path)
    large = large.assign(audio=[link.name for link in links], split="train", text=large["text"].str.ljust(60, "."))
    columns = ["audio", "emotion", "gender", "speaker_id", "text", "split"]
    large[columns].to_csv(folder / "large.csv", index=False)
    return folder / "large.csv"


def validate(manifest: Path, num_threads: int) -> tuple[float, float, float]:
    """Seconds and processor seconds that reading and checking a manifest takes, and the whole process's peak MiB."""
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}
    command = [sys.executable, "-c", VALIDATION, str(manifest), str(num_threads)]
    process = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    seconds, processor, mib = map(float, process.stdout.split())
    return seconds, processor, mib


def measure(step: Step, manifest: Path, num_threads: int, folder: Path) -> tuple[float, float, int, float]:
    """Seconds, processor seconds and result of one step, and the MiB that it and its table add to the peak."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    table = read_manifest(manifest)
    start, start_cpu = time.perf_counter(), time.process_time()
    amount = step(manifest, table, num_threads, folder)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    return seconds, cpu, amount, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def describe(name: str, unit: str, results: list[tuple[float, float, int, float]]) -> str:
    """A line of the table: the medians of a step's repeats."""
    seconds, cpu, amounts, mib = (statistics.median(values) for values in zip(*results, strict=True))
    speed = f"{amounts / seconds:,.0f}" if unit == "rows/s" else f"{amounts / SAMPLING_RATE / 3600 / seconds:,.2f}"
    return f"{name:<46}{seconds:>9.2f} s{cpu:>9.2f} s{speed:>12} {unit:<8}{mib:>8,.0f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--num_threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--copies", type=int, default=10, help="how often the larger corpus has each clip")
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the manifest that is only checked")
    args = parser.parse_args()

    table = read_manifest(args.manifest)
    for path in table["audio_path"]:
        Path(path).read_bytes()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["modeling_ser_mtl.data.dataset", "datasets"])

    with tempfile.TemporaryDirectory() as temporary:
        large = larger_corpus(table, len(table) * args.copies, Path(temporary) / "large")

        def line(name: str, step: Step, manifest: Path = args.manifest, num_threads: int = 1, cache: str = "") -> None:
            folders = [Path(temporary) / (cache or f"{name} {repeat}") for repeat in range(args.repeats)]
            # A new process each time: its peak of memory is that of this step alone.
            with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
                results = [pool.submit(measure, step, manifest, num_threads, folder).result() for folder in folders]
            print(describe(name, "rows/s" if step is read_rows else "hours/s", results), flush=True)

        print(f"{'':<46}{'time':>11}{'processor':>11}{'speed':>13}{'peak memory':>19}")
        line(f"read the manifest, {len(table):,} rows", read_rows)
        line(f"read a manifest, {len(table) * args.copies:,} rows", read_rows, large)
        for number in args.num_threads:
            line(f"scan, {number} thread(s)", scan, num_threads=number)
        line(
            f"scan that fills a cache, {args.num_threads[-1]} thread(s)", cached_scan, num_threads=args.num_threads[-1]
        )
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            pool.submit(measure, cached_scan, args.manifest, 1, Path(temporary) / "full").result()
        line("scan with a full cache", cached_scan, cache="full")
        line("training's clips", training_clips)
        line("datasets, Audio(decode=False) and this package", datasets_undecoded)
        try:
            import torchcodec  # noqa: F401
        except (ImportError, OSError, RuntimeError) as error:
            print(f"datasets with its own Audio: not measured, torchcodec can't be used ({str(error).splitlines()[0]})")
        else:
            line("datasets with its own Audio (torchcodec)", datasets_audio)
        print(f"\nEach clip {args.copies} times, {len(table) * args.copies:,} rows:")
        line(f"scan, {args.num_threads[-1]} thread(s)", scan, large, args.num_threads[-1])
        line("training's clips", training_clips, large)

        print(f"\n{args.rows:,} rows, the whole process:")
        large = larger_corpus(table, args.rows, Path(temporary) / "rows")
        for name, number in (("validation", 0), ("validation with audio headers, 2 threads", 2)):
            results = [validate(large, number) for _ in range(args.repeats)]
            seconds, cpu, mib = (statistics.median(values) for values in zip(*results, strict=True))
            speed = f"{args.rows / seconds:,.0f}"
            print(f"{name:<46}{seconds:>9.2f} s{cpu:>9.2f} s{speed:>12} {'rows/s':<8}{mib:>8,.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
