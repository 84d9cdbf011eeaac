"""How much each task pulls at the shared encoder, and whether it pulls where emotion does."""

from collections.abc import Mapping, Sequence

import torch
from accelerate.utils import reduce
from torch import Tensor, nn


def task_gradients(losses: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> dict[str, float]:
    r"""
    Norm of each task's gradient, and its cosine similarity with the gradient of emotion: below 0 the two are in
    conflict (Yu et al., NeurIPS 2020). The gradients are means over all ranks, each of which must call this.

    Args:
        losses (`Mapping[str, Tensor]`): weighted scalar losses by task; their graph is kept.
        parameters (`Sequence[nn.Parameter]`): shared parameters, of any shapes; the gradient is one vector over all.

    Returns:
        `dict[str, float]`: `encoder_grad_norm_<task>` (Euclidean), and `encoder_grad_cosine_<task>` in [-1, 1] of the
        other tasks; a cosine with a zero gradient is left out.
    """
    values: dict[str, float] = {}
    emotion = None
    for task in sorted(losses, key=lambda name: name != "emotion"):
        gradients = torch.autograd.grad(
            losses[task], parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        gradient = reduce(torch.cat([part.flatten().float() for part in gradients]), "mean")
        values[f"encoder_grad_norm_{task}"] = gradient.norm().item()
        if task == "emotion":
            emotion = gradient
        elif emotion is not None and gradient.any() and emotion.any():
            values[f"encoder_grad_cosine_{task}"] = torch.cosine_similarity(emotion, gradient, dim=0).item()
    return values
