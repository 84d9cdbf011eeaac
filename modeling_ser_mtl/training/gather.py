"""Batches of all ranks as one, with a gradient, for losses that compare clips with each other."""

from typing import Any

import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import gather
from torch import Tensor


def gather_with_gradient(tensor: Tensor, pad_value: float = 0.0) -> Tensor:
    r"""
    Joins the rows of all ranks, in the order of the ranks. It is a collective: every rank has to call it, also one
    whose clips have no label and one without clips.

    The gradient is right for a loss that every rank computes alike from gathered tensors and under
    `DistributedDataParallel`. Each rank then holds the same gradient of all rows, so that each takes its own rows
    without asking the others, times the number of ranks, by which DDP's mean over the ranks divides again: parameters
    get the gradient that one process would have computed from all clips.

    Args:
        tensor (`Tensor` of shape `(N, ...)`): rows of this rank; N may differ between ranks and may be 0, the other
            dimensions and the type may not. Integers are gathered too, without a gradient.
        pad_value (`float`): fills up the ranks with fewer rows, at their end. Labels want -100, so that SWFC ignores
            what was filled up.

    Returns:
        `Tensor` of shape `(num_processes * N_max, ...)`, the same on every rank; with one process the tensor itself.
    """
    return tensor if PartialState().num_processes == 1 else _Gather.apply(tensor, pad_value)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, pad_value: float) -> Tensor:
        state = PartialState()
        num_rows = int(gather(torch.tensor([len(tensor)], device=tensor.device)).max())
        start = state.process_index * num_rows
        ctx.num_processes, ctx.own_rows = state.num_processes, slice(start, start + len(tensor))
        # accelerate's pad_across_processes would turn the integers of the shorter ranks into floats.
        missing = num_rows - len(tensor)
        return gather(F.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, missing), value=pad_value))

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        return ctx.num_processes * grad_output[ctx.own_rows], None
