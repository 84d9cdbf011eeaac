"""What a run writes works where this package is not installed and no network is there."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import torch

import run_ser_mtl
from modeling_ser_mtl import SerMtlModel, SerMtlProcessor

SCRIPT = """
import sys

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification, AutoProcessor

torch.set_num_threads(1)  # as in the tests: another number adds in another order
folder, data = sys.argv[1:]
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
clips = np.load(data + "/clips.npz")
inputs = processor([clips["long"], clips["short"]], sampling_rate=16_000)
outputs = {}
for auto_class in (AutoModel, AutoModelForAudioClassification):
    model = auto_class.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        output = model(**inputs)
    outputs[auto_class.__name__] = {name: output[name] for name in ("logits", "speaker_embeddings", "ctc_logits")}
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
outputs["labels"] = [config.id2label[index] for index in range(config.num_labels)]
outputs["text"] = processor.decode_ctc(output.ctc_logits.argmax(-1))
outputs["modules"] = [name for name in sys.modules if name.startswith(("modeling_ser_mtl", "run_ser_mtl"))]
torch.save(outputs, data + "/outputs.pt")
"""


@pytest.mark.parametrize("model_type", ["wav2vec2", "wav2vec2-bert", "ser_mtl_spectrogram"])
def test_auto_classes_load_a_run_where_the_package_cannot_be_imported(
    command, manifest, tiny_config, without_package, tmp_path, model_type
) -> None:
    options = {"config_name": tiny_config(model_type), "do_train": True, "train_file": manifest("all.csv", range(6))}
    run_ser_mtl.main(command(**options))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(tmp_path / "output", elsewhere / "model", ignore=shutil.ignore_patterns("checkpoint-*"))
    random = np.random.default_rng(0)
    sizes = {"long": 9_000, "short": 800}
    clips = {name: random.uniform(-0.5, 0.5, size).astype("float32") for name, size in sizes.items()}
    np.savez(elsewhere / "clips.npz", **clips)

    processor = SerMtlProcessor.from_pretrained(tmp_path / "output")
    model = SerMtlModel.from_pretrained(tmp_path / "output").eval()
    with torch.no_grad():
        expected = model(**processor([clips["long"], clips["short"]], sampling_rate=16_000))

    process = subprocess.run(
        [*without_package(SCRIPT), "model", "."],
        cwd=elsewhere,
        env=os.environ | {"HF_HOME": str(elsewhere / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    outputs = torch.load(elsewhere / "outputs.pt", weights_only=True)
    assert outputs["modules"] == []
    for auto_class in ("AutoModel", "AutoModelForAudioClassification"):
        for name, value in outputs[auto_class].items():
            assert torch.equal(value, expected[name]), (auto_class, name)
    assert outputs["labels"] == ["anger", "sadness"]
    assert outputs["text"] == processor.decode_ctc(expected.ctc_logits.argmax(-1))


def test_a_checkpoint_of_the_training_loads_like_the_final_model(command, manifest, tmp_path) -> None:
    run_ser_mtl.main(command(do_train=True, train_file=manifest("all.csv", range(6))))
    final, checkpoint = tmp_path / "output", next((tmp_path / "output").glob("checkpoint-*"))
    needed = {path.name for path in final.iterdir() if path.suffix in (".py", ".json", ".safetensors")}
    assert {name for name in needed if not name.endswith(("_results.json", "_facts.json"))} <= {
        p.name for p in checkpoint.iterdir()
    }
