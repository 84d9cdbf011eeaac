"""BEST-RQ: an encoder learns which random codeword lies nearest to the input frames that it does not see."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel


class RandomProjectionQuantizer(nn.Module):
    """
    Frames to the ids of their nearest codewords, by projections and codebooks that are drawn once and never learned
    (Chiu et al., "Self-supervised learning with random-projection quantizer for speech recognition", ICML 2022).

    A frame's ids depend on nothing but the frame. They are spread over the codebook only where the channels have about
    mean 0 and standard deviation 1.

    Args:
        input_size (`int`): channels D of a frame.
        num_codebooks (`int`): projections C, each with a codebook of its own.
        codebook_size (`int`): codewords K of a codebook.
        codeword_size (`int`): width of the projected frames and the codewords.
    """

    projections: Tensor
    codebooks: Tensor

    def __init__(self, input_size: int, num_codebooks: int, codebook_size: int, codeword_size: int = 16) -> None:
        super().__init__()
        # Buffers, so that a resumed training goes on with the same targets.
        projections = torch.empty(num_codebooks, input_size, codeword_size)
        for projection in projections:
            nn.init.xavier_uniform_(projection)
        self.register_buffer("projections", projections)
        codewords = torch.randn(num_codebooks, codebook_size, codeword_size)
        self.register_buffer("codebooks", F.normalize(codewords, dim=-1))

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        """The id, from 0, of each of the `frames` `(..., D)` in every codebook, `(..., C)`."""
        ids = []
        for projection, codewords in zip(self.projections, self.codebooks, strict=True):
            # Of unit vectors the nearest is the one with the largest product.
            ids.append((F.normalize(frames @ projection, dim=-1) @ codewords.T).argmax(-1))
        return torch.stack(ids, dim=-1)


class BestRqModel(nn.Module):
    """
    An encoder of feature frames, and per codebook a softmax over the ids of the frames that are masked.

    The paper writes noise over masked frames. Here it is the encoder's own mask vector, which SpecAugment then uses in
    fine-tuning; what precedes it looks at single frames, so nothing of a masked one gets past.

    Args:
        encoder (`PreTrainedModel`): reads `input_features` `(B, T, D)` and writes its learned mask vector over the
            frames of `mask_time_indices`, as wav2vec2-bert does.
        num_codebooks (`int`), codebook_size (`int`): as in [`RandomProjectionQuantizer`].
    """

    encoder: Any
    most_common: Tensor

    def __init__(self, encoder: PreTrainedModel, num_codebooks: int = 4, codebook_size: int = 512) -> None:
        super().__init__()
        self.encoder = encoder
        size = encoder.config.feature_projection_input_dim
        self.quantizer = RandomProjectionQuantizer(size, num_codebooks, codebook_size)
        self.head = nn.Linear(encoder.config.hidden_size, num_codebooks * codebook_size)
        self.register_buffer("most_common", torch.zeros(num_codebooks, dtype=torch.long))

    def find_most_common(self, clips: Iterable[Tensor]) -> None:
        """Finds the most common id of each codebook in `clips`, `(T, D)` each: what a guess without looking says."""
        num_codebooks, codebook_size, _ = self.quantizer.codebooks.shape
        counts = torch.zeros(num_codebooks, codebook_size, dtype=torch.long)
        for clip in clips:
            for count, ids in zip(counts, self.quantizer(clip).T, strict=True):
                count += torch.bincount(ids, minlength=codebook_size)
        self.most_common = counts.argmax(-1)

    def forward(self, input_features: Tensor, attention_mask: Tensor, mask_time_indices: Tensor) -> dict[str, Tensor]:
        """
        Args:
            input_features (`Tensor` of shape `(B, T, D)`): standardised log-mel frames.
            attention_mask (`Tensor` of shape `(B, T)`): 1 where a frame is no padding.
            mask_time_indices (`Tensor` of shape `(B, T)`, bool): the frames to mask, at least one and none of padding.

        Returns:
            `dict[str, Tensor]`: `loss`, a scalar, mean over masked frames and codebooks; and per clip, `(B,)`, its
            masked frames `num_masked` and how many of them were right, as a mean over codebooks: `num_correct`, and
            `num_guessed` by the most common ids.
        """
        targets = self.quantizer(input_features[mask_time_indices])
        outputs = self.encoder(input_features, attention_mask=attention_mask, mask_time_indices=mask_time_indices)
        logits = self.head(outputs.last_hidden_state[mask_time_indices]).unflatten(-1, (targets.shape[-1], -1))
        correct = (logits.argmax(-1) == targets).float().mean(-1)
        guessed = (self.most_common == targets).float().mean(-1)
        return {
            "loss": F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten()),
            "num_masked": mask_time_indices.sum(1),
            "num_correct": sum_per_clip(correct, mask_time_indices),
            "num_guessed": sum_per_clip(guessed, mask_time_indices),
        }


def sum_per_clip(values: Tensor, mask: Tensor) -> Tensor:
    """Sums over each clip `(B,)` of `values` `(M,)`, one for each True of `mask` `(B, T)`, row by row."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values).sum(1)
