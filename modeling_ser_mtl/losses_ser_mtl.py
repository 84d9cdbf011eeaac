"""Losses of the four tasks: pure functions of tensors, computed in float32.

Everywhere a label of -100 means that a clip has no label; such a clip contributes nothing.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORE_INDEX = -100
# SWFC holds a few matrices of that many pairs at once: 4 MiB each.
BLOCK_PAIRS = 1 << 20
# Up to that many pairs SWFC is computed in float64, which costs nothing there.
EXACT_PAIRS = 1 << 15
# Logit of a pair that doesn't count; finite, so that the row of a lone clip stays free of NaN.
EXCLUDED = -1e9
# A shorter embedding counts as zero: it has no direction to turn.
SMALLEST_NORM = 1e-6


def full_precision(tensor: Tensor) -> AbstractContextManager:
    """Switches autocast off on the device of `tensor`, of any shape; the meta device knows none."""
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)


def class_weights(class_counts: Tensor | Sequence[int], exponent: float, normalize: str = "mean") -> Tensor:
    r"""
    Weight of each class from the training clips per class, `w_c = (N / n_c) ** exponent` (MultiEMO, Shi & Huang, ACL
    2023).

    Args:
        class_counts (`Tensor` or `Sequence[int]` of shape `(C,)`): clips per class; one without clips weighs 0.
        exponent (`float`): at least 0; 0 gives equal weights, 1 inverse frequency.
        normalize (`str`): `"mean"`: mean weight 1 over the training clips; `"sum"`: the weights sum to 1 (the code
            published with MultiEMO); `"min"`: the smallest weight of a class with clips is 1; `"none"`.

    Returns:
        `Tensor` of shape `(C,)`, float64, on the CPU.

    Raises:
        ValueError: an unknown `normalize`.
    """
    counts = torch.as_tensor(class_counts, dtype=torch.float64, device="cpu")
    present = counts > 0
    if not present.any():
        return torch.zeros_like(counts)
    weights = torch.where(present, (counts.sum() / counts.clamp(min=1)) ** exponent, 0.0)
    if normalize == "mean":
        return weights * counts.sum() / (weights * counts).sum()
    if normalize == "sum":
        return weights / weights.sum()
    if normalize == "min":
        return weights / weights[present].min()
    if normalize == "none":
        return weights
    raise ValueError(f"normalize: found {normalize!r}, allowed are 'mean', 'sum', 'min' and 'none'")


def swfc_loss(
    embeddings: Tensor,
    labels: Tensor,
    class_counts: Tensor | Sequence[int],
    *,
    temperature: float = 0.1,
    focus: float = 2.0,
    class_weight_exponent: float = 0.5,
    normalize: str = "mean",
    reduction: str = "mean",
    bank_embeddings: Tensor | None = None,
    bank_labels: Tensor | None = None,
) -> Tensor:
    r"""
    Sample Weighted Focal Contrastive loss (MultiEMO, Shi & Huang, ACL 2023):

        z_i = f_i / ||f_i||
        s_ij = exp(z_i.z_j / tau) / sum_{a in A(i)} exp(z_i.z_a / tau)
        L = -(1/N) sum_i w_{y_i} (1/|P(i)|) sum_{j in P(i)} (1 - s_ij)^gamma log s_ij

    A(i) holds all other labelled clips of the batch (and of the bank), P(i) those of the same class. It is computed in
    blocks of anchors, so that memory grows with N and not with its square, and whatever the precision of the embeddings
    in float64 up to 181 clips, in float32 above.

    Args:
        embeddings (`Tensor` of shape `(N, D)`): unnormalised embeddings of the anchors.
        labels (`Tensor` of shape `(N,)`): classes; a clip labelled -100 is neither anchor nor positive nor negative.
        class_counts (`Tensor` or `Sequence[int]` of shape `(C,)`): training clips per class.
        temperature (`float`): tau, above 0.
        focus (`float`): gamma, at least 0.
        class_weight_exponent (`float`): alpha of the sample weights, see [`class_weights`].
        normalize (`str`): normalisation of the sample weights, see [`class_weights`].
        reduction (`str`): `"mean"` over the anchors that have a positive; `"published"` divides by all labelled clips
            of the batch, as the public code does.
        bank_embeddings (`Tensor` of shape `(M, D)`, *optional*): further candidates that are no anchors.
        bank_labels (`Tensor` of shape `(M,)`, *optional*): their classes.

    Returns:
        Scalar `Tensor` (float32, of float64 embeddings float64), connected to `embeddings`; 0 where no anchor has a
        positive. It has a first derivative only.

    Raises:
        ValueError: an unknown `normalize` or `reduction`.
    """
    if reduction not in ("mean", "published"):
        raise ValueError(f"reduction: found {reduction!r}, allowed are 'mean' and 'published'")
    dtype = torch.promote_types(embeddings.dtype, torch.float32)
    with full_precision(embeddings):
        candidates, candidate_labels = embeddings.to(dtype), labels
        if bank_embeddings is not None and bank_labels is not None:
            candidates = torch.cat([candidates, bank_embeddings.to(dtype)])
            candidate_labels = torch.cat([labels, bank_labels])
        if len(labels) * len(candidate_labels) <= EXACT_PAIRS and embeddings.device.type != "mps":
            candidates = candidates.double()
        weights = class_weights(class_counts, class_weight_exponent, normalize).to(candidates)
        clips_per_class = (candidate_labels[:, None] == torch.arange(len(weights), device=labels.device)).sum(0)
        labelled, classes = labels != IGNORE_INDEX, labels.clamp(min=0)
        num_positives = clips_per_class[classes] - 1
        has_positive = labelled & (num_positives > 0)
        num_averaged = (has_positive if reduction == "mean" else labelled).sum().clamp(min=1)
        coefficients = weights[classes] * has_positive / (num_positives.clamp(min=1) * num_averaged)
        loss = _FocalContrast.apply(candidates, candidate_labels, coefficients, temperature, focus)
        return loss.to(dtype)


class _FocalContrast(torch.autograd.Function):
    """
    `-sum_i c_i sum_{j in P(i)} (1 - s_ij)^gamma log s_ij` over the anchors i, the first of the candidates.

    The gradient is written out, since autograd would keep a dozen N x M matrices. With x_ia = z_i.z_a / tau and
    h(s) = (1 - s)^gamma (1 - gamma s log(s) / (1 - s)), finite for every s,

        dL / dx_ia = c_i (s_ia sum_{j in P(i)} h(s_ij) - h(s_ia) [a in P(i)])
    """

    @staticmethod
    def forward(
        ctx: Any, embeddings: Tensor, labels: Tensor, coefficients: Tensor, temperature: float, focus: float
    ) -> Tensor:
        norm = torch.linalg.vector_norm(embeddings, dim=-1, keepdim=True)
        norm.masked_fill_(norm < SMALLEST_NORM, 1.0)
        candidates = embeddings / norm
        loss, gradient = candidates.new_zeros(()), torch.zeros_like(candidates)
        bias = (labels == IGNORE_INDEX).to(candidates.dtype) * EXCLUDED
        num_rows = max(1, BLOCK_PAIRS // max(1, len(candidates)))
        for start in range(0, len(coefficients), num_rows):
            rows = slice(start, min(start + num_rows, len(coefficients)))
            anchors, coefficient = candidates[rows], coefficients[rows]
            positive = (labels[rows, None] == labels).to(candidates.dtype)
            positive.diagonal(start).zero_()

            log_s = torch.addmm(bias, anchors, candidates.T, alpha=1 / temperature)
            log_s.diagonal(start).fill_(EXCLUDED)
            log_s -= log_s.amax(1, keepdim=True)
            s = log_s.exp()
            total = s.sum(1, keepdim=True)
            log_s -= total.log()
            s /= total
            complement = 1 - s
            focal = complement.pow(focus).mul_(positive)
            loss -= (focal * log_s).sum(1).dot(coefficient)
            if ctx.needs_input_grad[0]:
                # Where s is 1, log s is 0: any divisor above 0 will do.
                ratio = log_s.div_(complement.clamp_(min=1e-30))
                h = focal.addcmul_(focal * s, ratio, value=-focus)
                slope = s.mul_(h.sum(1, keepdim=True)).sub_(h).mul_(coefficient[:, None] / temperature)
                if len(slope) == len(candidates):  # one block, no bank: one product instead of two
                    gradient = (slope + slope.T) @ candidates
                else:
                    gradient.addmm_(slope.T, anchors)
                    gradient[rows].addmm_(slope, candidates)
        # Through the normalisation: only what turns an embedding counts.
        gradient -= candidates * (candidates * gradient).sum(1, keepdim=True)
        ctx.save_for_backward(gradient.div_(norm))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        return grad_output * ctx.saved_tensors[0], None, None, None, None


def focal_factor(log_probability: Tensor, focus: float) -> Tensor:
    """
    Factor of the focal loss (Lin et al., ICCV 2017), `(1 - p) ** focus`; it and its gradient are finite where p is 1.

    Args:
        log_probability (`Tensor` of any shape): `log p`, at most 0.
        focus (`float`): focusing exponent, at least 0.

    Returns:
        `Tensor` of the same shape, in [0, 1].
    """
    return (-torch.expm1(log_probability)).clamp(min=1e-7) ** focus


def cross_entropy_weights(class_counts: Sequence[int] | None, exponent: float) -> Tensor | None:
    """
    [`class_weights`] where there is anything to weigh; a class that never trained weighs 1 in evaluation.

    Args:
        class_counts (`Sequence[int]` of length C, *optional*): training clips per class.
        exponent (`float`): as in [`class_weights`].

    Returns:
        `Tensor` of shape `(C,)`, float64, on the CPU; None without `class_counts` or with an `exponent` of 0.
    """
    if class_counts is None or exponent == 0:
        return None
    weights = class_weights(class_counts, exponent)
    return weights.masked_fill(weights == 0, 1.0)


def cross_entropy_per_clip(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    focus: float = 0.0,
) -> Tensor:
    r"""
    Cross-entropy of each clip, `w_y (1 - p_y)^focus CE(p, y)`.

    Args:
        logits (`Tensor` of shape `(B, C)`): class logits.
        labels (`Tensor` of shape `(B,)`): classes, -100 = unknown.
        weights (`Tensor` of shape `(C,)`, *optional*): weight of a clip by its class, see [`class_weights`].
        label_smoothing (`float`): share of the target that is spread over all classes, in [0, 1] (Szegedy et al., CVPR
            2016).
        focus (`float`): focusing exponent of the focal loss (Lin et al., ICCV 2017), at least 0; 0 is plain
            cross-entropy.

    Returns:
        `Tensor` of shape `(B,)`, float32, 0 where the label is -100.
    """
    with full_precision(logits):
        logits = logits.float()
        loss = F.cross_entropy(
            logits, labels, ignore_index=IGNORE_INDEX, reduction="none", label_smoothing=label_smoothing
        )
        classes = labels.clamp(min=0)
        if focus:
            loss = loss * focal_factor(logits.log_softmax(-1).gather(1, classes[:, None]).squeeze(1), focus)
        if weights is not None:
            loss = loss * weights.to(loss)[classes]
        return loss


def angular_margin_per_clip(cosines: Tensor, labels: Tensor, *, scale: float = 30.0, margin: float = 0.2) -> Tensor:
    r"""
    Additive angular margin softmax (ArcFace, Deng et al., CVPR 2019) of each clip:
    cross-entropy over `s cos(theta_c + m [c = y])`.

    Args:
        cosines (`Tensor` of shape `(B, num_speakers)`): cosine similarity of each clip to each training speaker,
            in [-1, 1].
        labels (`Tensor` of shape `(B,)`): training speakers, -100 = unknown.
        scale (`float`): s, above 0.
        margin (`float`): m, in radians, in [0, pi).

    Returns:
        `Tensor` of shape `(B,)`, float32, 0 where the label is -100.
    """
    with full_precision(cosines):
        cosines = cosines.float()
        sines = (1.0 - cosines.square()).clamp(min=1e-7).sqrt()
        shifted = cosines * math.cos(margin) - sines * math.sin(margin)
        # Beyond pi - m the shifted cosine would rise again; the usual linear continuation keeps it falling.
        shifted = torch.where(cosines > -math.cos(margin), shifted, cosines - margin * math.sin(margin))
        target = F.one_hot(labels.clamp(min=0), cosines.shape[1]).bool()
        return cross_entropy_per_clip(scale * torch.where(target, shifted, cosines), labels)


def ctc_feasible(logit_lengths: Tensor, labels: Tensor) -> Tensor:
    """
    Clips that CTC can align: at least one label, and a frame per label and per repeated label.

    Args:
        logit_lengths (`Tensor` of shape `(B,)`): frames that are not padding.
        labels (`Tensor` of shape `(B, L)`): characters, padded with -100.

    Returns:
        `Tensor` of shape `(B,)`, bool.
    """
    known = labels != IGNORE_INDEX
    repeats = ((labels[:, 1:] == labels[:, :-1]) & known[:, 1:]).sum(1)
    needed = known.sum(1) + repeats
    return (needed > 0) & (logit_lengths >= needed)


def ctc_per_clip(logits: Tensor, logit_lengths: Tensor, labels: Tensor, *, blank: int = 0) -> Tensor:
    r"""
    Connectionist temporal classification loss (Graves et al., ICML 2006) of each clip, per label.

    Args:
        logits (`Tensor` of shape `(B, T, V)`): frame logits.
        logit_lengths (`Tensor` of shape `(B,)`): frames that are not padding.
        labels (`Tensor` of shape `(B, L)`): characters, padded with -100; a row of -100 has no transcript.
        blank (`int`): index of the blank.

    Returns:
        `Tensor` of shape `(B,)`, float32, 0 where [`ctc_feasible`] is false.
    """
    feasible = ctc_feasible(logit_lengths, labels)
    label_lengths = (labels != IGNORE_INDEX).sum(1)
    with full_precision(logits), torch.backends.cudnn.flags(enabled=False):
        loss = F.ctc_loss(
            logits.float().log_softmax(-1).transpose(0, 1),
            labels.clamp(min=0),
            logit_lengths,
            label_lengths * feasible,
            blank=blank,
            reduction="none",
            zero_infinity=True,
        )
    return loss * feasible / label_lengths.clamp(min=1)


def mean_over_labelled(per_clip: Tensor, labelled: Tensor, num_labelled: Tensor | None = None) -> Tensor:
    """
    Mean of the clips that have a label; 0, still connected to the graph, where there is none.

    Args:
        per_clip (`Tensor` of shape `(B,)`): losses.
        labelled (`Tensor` of shape `(B,)`, bool): clips that have a label.
        num_labelled (`Tensor`, *optional*): scalar that divides the sum, by default the labelled clips of this batch.
            Given the labelled clips per batch on average over all batches of an optimiser step, the mean of the
            batches' losses is the loss of all their clips as one batch.

    Returns:
        Scalar `Tensor`.
    """
    count = labelled.sum() if num_labelled is None else num_labelled
    return (per_clip * labelled).sum() / torch.where(count > 0, count, 1)


def weighted_terms(
    losses: Mapping[str, Tensor], weights: Mapping[str, float], log_variances: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    r"""
    The terms of the multi-task loss, whose sum it is: `w_t L_t`, or with learned uncertainty
    `w_t (exp(-v_t) L_t + v_t / 2)` (Kendall et al., CVPR 2018, for classification; the fixed weights w_t outside are
    ours).

    Args:
        losses (`Mapping[str, Tensor]`): L, scalar losses by name.
        weights (`Mapping[str, float]`): w, fixed weights by name, of all `losses`.
        log_variances (`Mapping[str, Tensor]`, *optional*): v, scalar log variances by name, of all `losses`.

    Returns:
        `dict[str, Tensor]`: scalar terms by name.
    """
    if log_variances is None:
        return {name: weights[name] * loss for name, loss in losses.items()}
    return {
        name: weights[name] * ((-log_variances[name]).exp() * loss + log_variances[name] / 2)
        for name, loss in losses.items()
    }
