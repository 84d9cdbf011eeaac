"""
Transformers' own common tests of models and configurations, run against SerMtlModel.

They come from the source distribution of the installed transformers, which pip downloads once into the cache of
Hugging Face; `pytest -m slow tests/common -rs` lists what was skipped and why.
"""

import importlib
import os
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub.constants import HF_HOME
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from transformers.testing_utils import torch_device

from modeling_ser_mtl import SerMtlConfig, SerMtlModel, SerMtlOutput

pytestmark = pytest.mark.slow

# What the common tests import from folders that the distribution leaves out: tests of exporters and of generation,
# which this model has none of, and settings for configurations without sub-configurations.
STUBS = {
    "__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin: pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin: pass\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
}


def common_tests_folder(version: str) -> Path:
    """Folder with the package `transformers_common_tests` of a transformers version, downloaded if need be."""
    folder = Path(HF_HOME, "transformers_common_tests", version)
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary=transformers", "--dest", temporary]
        subprocess.run([*pip, f"transformers=={version}"], check=True, capture_output=True)
        package = Path(temporary, "new", "transformers_common_tests")
        with tarfile.open(next(Path(temporary).glob("*.tar.gz"))) as archive:
            for member in archive:
                _, *parts = Path(member.name).parts
                if parts[:1] == ["tests"] and member.isfile():
                    member.name = str(Path(*parts[1:]))
                    archive.extract(member, package, filter="data")
        for name, text in STUBS.items():
            Path(package, name).parent.mkdir(exist_ok=True)
            Path(package, name).write_text(text)
        os.rename(package.parent, folder)
    return folder


def import_common_tests() -> tuple[type, type]:
    """`ModelTesterMixin` and `ConfigTester` of the installed transformers; skips where they can't be had."""
    pytest.importorskip("parameterized", reason="the common tests import parameterized")
    try:
        folder = common_tests_folder(transformers.__version__)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no source distribution of transformers: {error}", allow_module_level=True)
    sys.path.insert(0, str(folder))
    modeling = importlib.import_module("transformers_common_tests.test_modeling_common")
    configuration = importlib.import_module("transformers_common_tests.test_configuration_common")
    return modeling.ModelTesterMixin, configuration.ConfigTester


ModelTesterMixin, ConfigTester = import_common_tests()

BACKBONE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "layerdrop": 0.0,
    "mask_time_prob": 0.5,  # so that the mask's embedding gets a gradient
    "mask_time_length": 2,
}
WAVEFORM_BACKBONE = BACKBONE | {
    "conv_dim": (32, 32, 32),
    "conv_kernel": (8, 8, 8),
    "conv_stride": (4, 4, 4),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
BACKBONES = {
    "wav2vec2-group": WAVEFORM_BACKBONE | {"model_type": "wav2vec2"},
    "wav2vec2-layer": WAVEFORM_BACKBONE
    | {"model_type": "wav2vec2", "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    "wavlm": WAVEFORM_BACKBONE | {"model_type": "wavlm"},
    "wav2vec2-bert": BACKBONE
    | {
        "model_type": "wav2vec2-bert",
        "feature_projection_input_dim": 24,
        "conv_depthwise_kernel_size": 7,
    },
    "spectrogram": BACKBONE
    | {
        "model_type": "ser_mtl_spectrogram",
        "stem_channels": [4, 16],
        "stem_time_strides": [1],
        "conv_depthwise_kernel_size": 7,
    },
}


class ModelTester:
    """A tiny model of four tasks and a batch for it, as the common tests want them."""

    batch_size = 4
    is_training = True

    def __init__(self, backbone: dict[str, Any]) -> None:
        self.backbone = backbone
        self.hidden_size = backbone["hidden_size"]
        self.num_hidden_layers = backbone["num_hidden_layers"]
        self.num_attention_heads = backbone["num_attention_heads"]
        self.reads_waveforms = "conv_dim" in backbone
        # Frames of the backbone: 1024 samples through three convolutions of width 8 and stride 4.
        self.seq_length = 14
        self.encoder_seq_length = 14

    def get_config(self) -> SerMtlConfig:
        return SerMtlConfig(
            self.backbone,
            fusion_hidden_size=16,
            attention_pooling_size=8,
            emotion_embedding_size=12,
            speaker_embedding_size=12,
            num_speakers=4,
            num_labels=3,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[SerMtlConfig, dict[str, torch.Tensor]]:
        config = self.get_config()
        if self.reads_waveforms:
            inputs = {"input_values": torch.rand(self.batch_size, 1024, device=torch_device)}
            mask = torch.ones(self.batch_size, 1024, dtype=torch.long, device=torch_device)
        else:
            features = config.backbone_config.feature_projection_input_dim
            inputs = {"input_features": torch.rand(self.batch_size, self.seq_length, features, device=torch_device)}
            mask = torch.ones(self.batch_size, self.seq_length, dtype=torch.long, device=torch_device)
        return config, inputs | {"attention_mask": mask}


SKIPPED = {
    "test_model_get_set_embeddings": "speech has no table of input embeddings",
}


class CommonTests(ModelTesterMixin):
    all_model_classes = (SerMtlModel,)
    test_resize_embeddings = False
    test_can_init_all_missing_weights_before_2023 = True
    _is_composite = True
    backbone: str

    def setUp(self) -> None:
        for name in (self._testMethodName, f"{type(self).__name__}.{self._testMethodName}"):
            if name in SKIPPED:
                self.skipTest(SKIPPED[name])
        super().setUp()
        self.model_tester = ModelTester(BACKBONES[self.backbone])

    def _prepare_for_class(
        self, inputs_dict: dict[str, Any], model_class: type, return_labels: bool = False
    ) -> dict[str, Any]:
        inputs = super()._prepare_for_class(inputs_dict, model_class)
        if return_labels:
            clips = torch.arange(self.model_tester.batch_size, device=torch_device)
            inputs |= {"emotion_labels": clips % 3, "gender_labels": clips % 2, "speaker_labels": clips}
            inputs["ctc_labels"] = 1 + clips[:, None] + torch.arange(3, device=torch_device)
        return inputs

    def test_config(self) -> None:
        settings = {"fusion_hidden_size": 16, "fusion": "concat", "num_speakers": 4, "speaker_margin": 0.1}
        properties = ["hidden_size", "num_hidden_layers", "num_attention_heads"]
        ConfigTester(
            self, SerMtlConfig, has_text_modality=False, common_properties=properties, **settings
        ).run_common_tests()

    def test_sdpa_can_dispatch_non_composite_models(self) -> None:
        # The same test for composite models looks for a vision and a language part.
        self._is_composite = False
        super().test_sdpa_can_dispatch_non_composite_models()

    def test_model_outputs_equivalence(self) -> None:
        # It subtracts outputs, which torch refuses for bools: the frame mask.
        def hook(module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
            if not isinstance(module, SerMtlModel):
                return output
            if isinstance(output, SerMtlOutput):
                output.frame_mask = output.frame_mask.int()
                return output
            return tuple(x.int() if isinstance(x, torch.Tensor) and x.dtype == torch.bool else x for x in output)

        with register_module_forward_hook(hook):
            super().test_model_outputs_equivalence()


class TestWav2Vec2GroupNorm(CommonTests, unittest.TestCase):
    backbone = "wav2vec2-group"


class TestWav2Vec2LayerNorm(CommonTests, unittest.TestCase):
    backbone = "wav2vec2-layer"


class TestWavLM(CommonTests, unittest.TestCase):
    backbone = "wavlm"

    def test_retain_grad_hidden_states_attentions(self) -> None:
        # Its attention maps are means over heads for the caller only: no gradient flows through them.
        self.has_attentions = False
        super().test_retain_grad_hidden_states_attentions()


class TestWav2Vec2Bert(CommonTests, unittest.TestCase):
    backbone = "wav2vec2-bert"


class TestSpectrogram(CommonTests, unittest.TestCase):
    backbone = "spectrogram"
