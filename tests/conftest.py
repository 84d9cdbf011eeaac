import json
import os
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from modeling_ser_mtl import SerMtlConfig, SerMtlProcessor
from modeling_ser_mtl.training.arguments import ModelArguments
from modeling_ser_mtl.training.builders import build_processor

BLOCK_THE_PACKAGE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_ser_mtl", "run_ser_mtl"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
"""

torch.set_num_threads(1)  # tiny models only wait for each other's threads


@pytest.fixture(scope="session")
def corpora() -> Path:
    """Folder of real speech corpora, each a folder with `manifest.csv` and `audio/`; skips where there is none."""
    default = Path(__file__).resolve().parents[2] / "shared" / "corpora"
    folder = Path(os.environ.get("SER_MTL_CORPORA", default))
    if not folder.is_dir():
        pytest.skip("no speech corpora: set SER_MTL_CORPORA to their folder")
    return folder


@pytest.fixture(scope="session")
def make_wav() -> Callable[..., Path]:
    """Writes a sine tone of amplitude .5 to `path` (folders made as needed) and returns the path."""

    def make(
        path: str | os.PathLike,
        seconds: float = 1.0,
        sampling_rate: int = 16_000,
        frequency: float = 200,
        channels: int = 1,
    ) -> Path:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(round(seconds * sampling_rate)) / sampling_rate
        tone = 0.5 * np.sin(2 * np.pi * frequency * time)
        soundfile.write(path, np.tile(tone[:, None], channels), sampling_rate)
        return path

    return make


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """
    24 clips of .3 to .6 s with absolute paths: speakers s0 to s5 (even: female, odd: male) with a tone each, twice
    `anger` (tone and noise) and `sadness` (tone) in turn, all with a transcript.
    """
    folder = tmp_path_factory.mktemp("clips")
    random = np.random.default_rng(0)
    rows = []
    for index in range(24):
        speaker, emotion = index // 4, ("anger", "sadness")[index % 2]
        time = np.arange(4_800 + 200 * index) / 16_000
        wave = 0.3 * np.sin(2 * np.pi * (150 + 60 * speaker) * time)
        wave = wave + 0.2 * random.standard_normal(len(time)) * (emotion == "anger")
        soundfile.write(folder / f"{index:02d}.wav", wave, 16_000)
        rows.append(
            {
                "audio": str(folder / f"{index:02d}.wav"),
                "emotion": emotion,
                "gender": ("female", "male")[speaker % 2],
                "speaker_id": f"s{speaker}",
                "text": ("ab", "c d")[index % 2],
            }
        )
    return pd.DataFrame(rows)


@pytest.fixture
def manifest(clips: pd.DataFrame, tmp_path: Path) -> Callable[..., Path]:
    """Writes the clips of some speakers (by number), with columns replaced, as the CSV manifest `name`."""

    def write(name: str, speakers: Iterable[int], **columns: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = clips[clips["speaker_id"].isin([f"s{number}" for number in speakers])]
        rows.assign(**columns).to_csv(path, index=False)
        return path

    return write


TINY_BACKBONES = {
    "wav2vec2": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": [16] * 7,
        "feat_extract_norm": "layer",
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
        "mask_time_length": 2,
        "mask_time_prob": 0.2,
        "layerdrop": 0.0,
    },
    "wav2vec2-bert": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "feature_projection_input_dim": 160,
        "position_embeddings_type": "rotary",
        "conv_depthwise_kernel_size": 5,
        "mask_time_length": 2,
        "mask_time_prob": 0.2,
        "layerdrop": 0.0,
    },
    "ser_mtl_spectrogram": {
        "stem_channels": [4, 6, 8],
        "stem_time_strides": [2, 1],
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "position_embeddings_type": "rotary",
        "conv_depthwise_kernel_size": 5,
        "mask_time_length": 2,
        "mask_time_prob": 0.2,
        "layerdrop": 0.0,
    },
}


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes the JSON of a tiny model: `tiny_config(one of TINY_BACKBONES, **settings of the backbone)`."""
    folder = tmp_path_factory.mktemp("configs")

    def write(model_type: str = "wav2vec2", **backbone: object) -> Path:
        values = {
            "model_type": "ser_mtl",
            "backbone_config": {"model_type": model_type, **TINY_BACKBONES[model_type], **backbone},
            "fusion_hidden_size": 16,
            "attention_pooling_size": 8,
        }
        path = folder / f"{len(list(folder.iterdir()))}.json"
        path.write_text(json.dumps(values))
        return path

    return write


@pytest.fixture
def command(tiny_config: Callable[..., Path], tmp_path: Path) -> Callable[..., list[str]]:
    """A command line of run_ser_mtl.py with quick settings and `options` on top; an option that is None is left out."""

    def make(**options: object) -> list[str]:
        settings = {
            "config_name": tiny_config() if "model_name_or_path" not in options else None,
            "output_dir": tmp_path / "output",
            "num_train_epochs": 1,
            "per_device_train_batch_size": 8,
            "logging_steps": 1,
            "use_cpu": True,
            "disable_tqdm": True,
        }
        argv = []
        for name, value in (settings | options).items():
            if value is not None:
                argv += [f"--{name}", *map(str, value if isinstance(value, list | tuple) else [value])]
        return argv

    return make


# Without dropout, layerdrop and SpecAugment.
_PLAIN = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "conformer_conv_dropout": 0.0,
    "layerdrop": 0.0,
    "mask_time_prob": 0.0,
}
_PLAIN_WAV2VEC2 = _PLAIN | {
    "model_type": "wav2vec2",
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 8, 8),
    "conv_stride": (5, 8, 8),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
PLAIN_BACKBONES = {
    "wav2vec2-group": _PLAIN_WAV2VEC2,
    "wav2vec2-layer": _PLAIN_WAV2VEC2 | {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    "wav2vec2-bert": _PLAIN
    | {
        "model_type": "wav2vec2-bert",
        "feature_projection_input_dim": 160,
        "position_embeddings_type": "rotary",
        "conv_depthwise_kernel_size": 7,
    },
    "ser_mtl_spectrogram": _PLAIN
    | {
        "model_type": "ser_mtl_spectrogram",
        "stem_channels": [4, 6, 8],
        "stem_time_strides": [2, 1],
        "position_embeddings_type": "rotary",
        "conv_depthwise_kernel_size": 7,
    },
}


@pytest.fixture(scope="session")
def plain_config() -> Callable[..., SerMtlConfig]:
    """
    A small model without anything random: `plain_config(one of PLAIN_BACKBONES, backbone={settings of the backbone},
    **settings)`; group and layer are the norms of wav2vec2's convolutions.
    """

    def make(name: str, backbone: dict[str, object] | None = None, **fields: object) -> SerMtlConfig:
        small = {"fusion_hidden_size": 16, "attention_pooling_size": 8, "emotion_embedding_size": 12}
        small |= {"speaker_embedding_size": 12, "num_speakers": 4, "num_labels": 3, "fusion_dropout": 0.0}
        return SerMtlConfig(PLAIN_BACKBONES[name] | (backbone or {}), **(small | fields))

    return make


@pytest.fixture(scope="session")
def make_processor() -> Callable[[SerMtlConfig], SerMtlProcessor]:
    """The processor that a new model of this configuration gets, with the characters a to z and the apostrophe."""
    return lambda config: build_processor(ModelArguments(), config, None)


@pytest.fixture(scope="session")
def without_package() -> Callable[[str], list[str]]:
    """The command that runs Python code in a process which can import neither this package nor its script."""
    return lambda code: [sys.executable, "-P", "-c", BLOCK_THE_PACKAGE + code]


@pytest.fixture
def unused_port() -> int:
    """A TCP port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
