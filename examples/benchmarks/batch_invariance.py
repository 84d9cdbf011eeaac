"""
What padding does to a clip, for every backbone: `python examples/benchmarks/batch_invariance.py`.

Largest difference between a clip alone and the same clip in a padded batch, attention mask given: in the last hidden
state of the stock model, in that of this project's model with the same weights, and in its outputs. Small random
weights, the published convolutions; hidden states are of the order of 1.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModel

from modeling_ser_mtl import SerMtlConfig, SerMtlModel

OUTPUTS = ("logits", "emotion_embeddings", "gender_logits", "speaker_embeddings")
# Small, and nothing random in training.
SMALL = {
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
WAVEFORM = SMALL | {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
BACKBONES: dict[str, dict[str, Any]] = {
    f"{model_type}, {norm} norm": WAVEFORM | {"model_type": model_type} | (LAYER_NORM if norm == "layer" else {})
    for model_type in ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")
    for norm in ("group", "layer")
}
BACKBONES |= {
    "data2vec-audio": WAVEFORM
    | {"model_type": "data2vec-audio", "num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 9},
    "wav2vec2-conformer": WAVEFORM | {"model_type": "wav2vec2-conformer", "conv_depthwise_kernel_size": 7},
    "wav2vec2-conformer, rotary": WAVEFORM
    | {
        "model_type": "wav2vec2-conformer",
        "conv_depthwise_kernel_size": 7,
        "position_embeddings_type": "rotary",
        "feat_extract_norm": "layer",
    },
    "sew": SMALL
    | {
        "model_type": "sew",
        "conv_dim": [8] + [16] * 12,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
    },
    "wav2vec2-bert": SMALL
    | {"model_type": "wav2vec2-bert", "feature_projection_input_dim": 160, "conv_depthwise_kernel_size": 7},
}


def small_model(name: str, **backbone: Any) -> SerMtlModel:
    """A small model in eval() with random weights and unequal layer mixtures on one of `BACKBONES`."""
    heads: dict[str, Any] = {
        "fusion_hidden_size": 16,
        "attention_pooling_size": 8,
        "fusion_dropout": 0.0,
        "num_speakers": 4,
    }
    torch.manual_seed(0)
    model = SerMtlModel(SerMtlConfig(BACKBONES[name] | backbone, **heads)).eval()
    torch.nn.init.normal_(model.layer_mixture.weight)
    return model


def random_clips(model: SerMtlModel, milliseconds: Sequence[int], seed: int = 0) -> list[Tensor]:
    """Noise, `(num_samples,)` or log-mel `(num_frames, 160)` of 20 ms each, as the model reads it."""
    generator = torch.Generator().manual_seed(seed)
    if model.main_input_name == "input_values":
        return [torch.randn(16 * length, generator=generator) for length in milliseconds]
    return [torch.randn(length // 20, 160, generator=generator) for length in milliseconds]


def padded_batch(model: SerMtlModel, clips: Sequence[Tensor], extra: int = 0) -> dict[str, Tensor]:
    """The clips padded with zeros to the longest and by `extra` more, and their mask."""
    inputs = torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
    inputs = torch.cat([inputs, inputs.new_zeros(len(clips), extra, *inputs.shape[2:])], dim=1)
    lengths = torch.tensor([len(clip) for clip in clips])
    return {model.main_input_name: inputs, "attention_mask": (torch.arange(inputs.shape[1]) < lengths[:, None]).long()}


@torch.no_grad()
def largest_differences(name: str, milliseconds: Sequence[int]) -> tuple[float, float, float]:
    """Of the stock model's last hidden states, of ours, and of our outputs: alone against in one padded batch."""
    model = small_model(name)
    stock = AutoModel.from_config(model.config.backbone_config).eval()
    stock.load_state_dict(model.backbone.state_dict())
    clips = random_clips(model, milliseconds)
    inputs = padded_batch(model, clips)
    batch, stock_batch = model(**inputs, output_hidden_states=True), stock(**inputs).last_hidden_state
    differences = torch.zeros(3)
    for row, clip in enumerate(clips):
        inputs = padded_batch(model, [clip])
        alone, stock_alone = model(**inputs, output_hidden_states=True), stock(**inputs).last_hidden_state
        frames = int(alone.frame_mask.sum())
        pairs = [
            [(stock_alone[0, :frames], stock_batch[row, :frames])],
            [(alone.hidden_states[-1][0, :frames], batch.hidden_states[-1][row, :frames])],
            [(alone[output][0], batch[output][row]) for output in OUTPUTS]
            + [(alone.ctc_logits[0, :frames], batch.ctc_logits[row, :frames])],
        ]
        largest = [max((one - other).abs().max() for one, other in group) for group in pairs]
        differences = torch.maximum(differences, torch.tensor(largest))
    return tuple(differences.tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES), metavar="BACKBONE")
    parser.add_argument(
        "--milliseconds",
        nargs="+",
        type=int,
        default=[3000, 2500, 2020, 1510, 1000, 750, 430, 210],
        help="lengths of the clips of the batch",
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"float32, {len(args.milliseconds)} clips, transformers {transformers.__version__}\n")
    print("| backbone | stock hidden states | hidden states | outputs |\n|---|---|---|---|")
    for name in args.backbones:
        print(
            f"| {name} | " + " | ".join(f"{value:.0e}" for value in largest_differences(name, args.milliseconds)) + " |"
        )


if __name__ == "__main__":
    main()
