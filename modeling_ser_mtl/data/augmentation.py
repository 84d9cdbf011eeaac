"""Augmentation of training waveforms, reproducible per clip and epoch."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import soxr

from .audio import MIN_SAMPLES, SAMPLING_RATE
from .errors import InputError

AUGMENTATIONS = ("noise", "gain", "speed", "time_mask")


@dataclass(frozen=True)
class WaveformAugmentation:
    """
    Random changes of a 16 kHz waveform, each of those chosen applied with `probability`, in the order given.

    `noise`: Gaussian, 5 to 30 dB SNR. `gain`: -12 to 6 dB. `speed`: factor .9 to 1.1, pitch and tempo together
    (Ko et al. 2015, "Audio Augmentation for Speech Recognition"). `time_mask`: one stretch of up to 10 % of the clip
    silenced. All but `speed` come from audiomentations.

    Args:
        names (`tuple[str, ...]`): Those chosen, of `AUGMENTATIONS`.
        probability (`float`): Chance of each one per clip, in [0, 1].
        seed (`int`): Seed, 0 or more.

    Raises:
        InputError: An unknown name, a probability outside [0, 1], or audiomentations is needed and not installed.
    """

    names: tuple[str, ...]
    probability: float = 0.5
    seed: int = 42

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in AUGMENTATIONS:
                raise InputError(f"augmentation {name!r} is unknown; choose from {', '.join(AUGMENTATIONS)}")
        if not 0 <= self.probability <= 1:
            raise InputError(f"augmentation probability {self.probability}: must lie between 0 and 1")
        self._transforms()  # says before training that audiomentations is missing

    def __call__(self, waveform: np.ndarray, epoch: int, index: int) -> np.ndarray:
        """
        Augments one clip. The same (seed, epoch, index) gives the same result in any process and order.

        Args:
            waveform (`np.ndarray` of shape `(num_samples,)`): `float32`, at 16 kHz; it is left as it is.
            epoch (`int`): The epoch, from 0.
            index (`int`): The clip's position in the training set, from 0.

        Returns:
            `np.ndarray`: `float32`, of another length (at least 400 samples) if the speed was changed.
        """
        with _seeded_global_state(self.seed, epoch, index):
            for transform in self._transforms():
                if random.random() < self.probability:
                    waveform = transform(waveform, SAMPLING_RATE)
        return waveform

    def _transforms(self) -> list[Callable[[np.ndarray, int], np.ndarray]]:
        return [_change_speed if name == "speed" else _audiomentations_transform(name) for name in self.names]


def _audiomentations_transform(name: str) -> Callable[[np.ndarray, int], np.ndarray]:
    try:
        from audiomentations import AddGaussianSNR, Gain, TimeMask
    except ImportError as error:
        raise InputError(
            f'augmentation {name!r} needs audiomentations: pip install "modeling_ser_mtl[augment]", or choose speed'
        ) from error
    if name == "noise":
        return AddGaussianSNR(min_snr_db=5.0, max_snr_db=30.0, p=1.0)
    if name == "gain":
        return Gain(min_gain_db=-12.0, max_gain_db=6.0, p=1.0)
    return TimeMask(min_band_part=0.0, max_band_part=0.1, p=1.0)


def _change_speed(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    # The factor stops where the clip would become too short for the feature encoder.
    factor = min(random.uniform(0.9, 1.1), len(waveform) / MIN_SAMPLES)
    return soxr.resample(waveform, factor * sampling_rate, sampling_rate)


@contextmanager
def _seeded_global_state(*key: int) -> Iterator[None]:
    """Seeds `random` and `numpy.random`, which audiomentations draws from, and puts their states back at the end."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(words.tobytes())
    np.random.seed(words)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
