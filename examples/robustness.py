"""
The test clips of finished runs as they are, with noise, in rooms and at other levels, the mean of several folds:
`python examples/robustness.py outputs/fold-* --test_file data/manifest.csv`.
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from tqdm.auto import tqdm

from modeling_ser_mtl.data.audio import SAMPLING_RATE, load_audio
from modeling_ser_mtl.data.collator import SerMtlCollator
from modeling_ser_mtl.data.dataset import LabelNames, SpeechDataset
from modeling_ser_mtl.data.degradation import add_noise, babble, reverberate, room_response
from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.data.loading import Split, drop_unusable, load_manifest_splits
from modeling_ser_mtl.training.arguments import SerMtlTrainingArguments
from modeling_ser_mtl.training.builders import check_max_seconds
from modeling_ser_mtl.training.export_stock import load_checkpoint
from modeling_ser_mtl.training.trainer import SerMtlTrainer

METRICS = ("emotion_uar", "emotion_macro_f1", "emotion_ece", "gender_uar", "asr_wer")
NUM_VOICES = 6
# From a clip, its position in the test set and the draws of that clip alone.
Degradation = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


class DegradedAudio(Sequence):
    """The test set's audio, each clip changed in memory when it is asked for, and the same at each time."""

    def __init__(self, audio: Sequence[str | bytes], degrade: Degradation) -> None:
        self.audio, self.degrade = audio, degrade

    def __len__(self) -> int:
        return len(self.audio)

    def __getitem__(self, index: int) -> bytes:
        waveform = self.degrade(load_audio(self.audio[index]), index, np.random.default_rng(index))
        file = io.BytesIO()
        soundfile.write(file, waveform, SAMPLING_RATE, format="WAV", subtype="FLOAT")
        return file.getvalue()


def white_noise(waveform: np.ndarray, index: int, rng: np.random.Generator, *, snr_db: float) -> np.ndarray:
    """White Gaussian noise at `snr_db` dB."""
    return add_noise(waveform, rng.standard_normal(len(waveform)), snr_db)


def babble_noise(
    waveform: np.ndarray, index: int, rng: np.random.Generator, *, snr_db: float, split: Split
) -> np.ndarray:
    """Six clips of other speakers of the test set at `snr_db` dB; of all other clips where it has one speaker only."""
    speakers = split.table["speaker"]
    others = np.flatnonzero(speakers != speakers[index])
    others = others if len(others) else np.delete(np.arange(len(split)), index)
    drawn = rng.choice(others, min(NUM_VOICES, len(others)), replace=False)
    return add_noise(waveform, babble([load_audio(split.audio[other]) for other in drawn], len(waveform)), snr_db)


def in_a_room(waveform: np.ndarray, index: int, rng: np.random.Generator, *, rt60: float) -> np.ndarray:
    """A room of its own for each clip, whose reverberation falls by 60 dB in `rt60` seconds."""
    return reverberate(waveform, room_response(rt60, rng))


def at_another_level(waveform: np.ndarray, index: int, rng: np.random.Generator, *, gain_db: float) -> np.ndarray:
    """Louder by `gain_db` dB, as a closer microphone would be; nothing is clipped."""
    return waveform * np.float32(10 ** (gain_db / 20))


def conditions(split: Split) -> dict[str, Degradation]:
    """The degradations by name."""
    levels = (20, 10, 5)
    return {
        **{f"white noise, {level} dB": partial(white_noise, snr_db=level) for level in levels},
        **{f"babble, {level} dB": partial(babble_noise, snr_db=level, split=split) for level in levels},
        **{f"reverberation, RT60 {rt60:g} s": partial(in_a_room, rt60=rt60) for rt60 in (0.3, 0.8)},
        **{f"level, {gain_db:+d} dB": partial(at_another_level, gain_db=gain_db) for gain_db in (12, -12)},
    }


def read_test_set(folder: Path, manifests: Sequence[str]) -> Split:
    """The usable clips of the manifests that the run in `folder` predicted, by their column `audio`."""
    path = folder / "predictions.csv"
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the folder of a finished run with --do_predict")
    predicted = pd.read_csv(path, dtype=str, keep_default_na=False).drop_duplicates("audio").set_index("audio")
    split = load_manifest_splits({"test": list(manifests)}, [])["test"]
    split = split.take(np.flatnonzero(split.table["audio"].isin(predicted.index)))
    # Labels as the run had them, which may have renamed some.
    for column in ("emotion", "gender", "text"):
        split.table[column] = predicted.loc[split.table["audio"], f"true_{column}"].to_numpy()
    if len(split) < 2:
        raise InputError(
            f"{path}: shares fewer than two clips with {', '.join(manifests)}; give the run's own manifest"
        )
    return drop_unusable(split, num_workers=1)[0]


def measure(folder: Path, manifests: Sequence[str], max_seconds: float, batch_size: int) -> pd.DataFrame:
    """One row of metrics per condition, the clean clips first."""
    split = read_test_set(folder, manifests)
    model, processor = load_checkpoint(str(folder))
    check_max_seconds(processor, max_seconds)
    labels = LabelNames(model.config.emotion_labels, model.config.gender_labels)
    rows = {}
    with tempfile.TemporaryDirectory() as scratch:
        quiet: dict[str, Any] = {"report_to": "none", "disable_tqdm": True}
        args = SerMtlTrainingArguments(scratch, per_device_eval_batch_size=batch_size, **quiet)
        trainer = SerMtlTrainer(model, args, processor, data_collator=SerMtlCollator(processor))
        for name, degrade in {"clean": None, **conditions(split)}.items():
            audio = split.audio if degrade is None else DegradedAudio(split.audio, degrade)
            metrics = trainer.predict(SpeechDataset(split.table, audio, labels, max_seconds=max_seconds)).metrics or {}
            rows[name] = {metric: metrics[f"test_{metric}"] for metric in METRICS if f"test_{metric}" in metrics}
    return pd.DataFrame(rows).T


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN_FOLDER", help="finished runs with --do_predict")
    parser.add_argument("--test_file", nargs="+", required=True, help="manifests that hold the runs' test clips")
    parser.add_argument("--max_seconds", type=float, default=20.0, help="as in the run; default: %(default)s")
    parser.add_argument("--batch_size", type=int, default=32, help="clips at a time; default: %(default)s")
    arguments = parser.parse_args()
    try:
        tables = [
            measure(folder, arguments.test_file, arguments.max_seconds, arguments.batch_size)
            for folder in tqdm(arguments.folders, desc="Runs", unit="run")
        ]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    # Groups by condition; a metric that one fold lacks is the mean of the others.
    print(pd.concat(tables).groupby(level=0, sort=False).mean().to_string(float_format="{:.3f}".format))
