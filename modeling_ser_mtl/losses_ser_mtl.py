"""Losses of the four tasks: pure functions of tensors, computed in float32.

Everywhere a label of -100 means that a clip has no label; such a clip contributes nothing.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_INDEX = -100


def class_weights(class_counts: Tensor | Sequence[int], exponent: float, normalize: str = "mean") -> Tensor:
    r"""
    Weight of each class from the training clips per class, `w_c = (N / n_c) ** exponent` (MultiEMO, Shi & Huang, ACL
    2023).

    Args:
        class_counts (`Tensor` or `Sequence[int]` of shape `(C,)`): clips per class; one without clips weighs 0.
        exponent (`float`): 0 gives equal weights, 1 inverse frequency.
        normalize (`str`): `"mean"`: mean weight 1 over the training clips; `"sum"`: the weights sum to 1 (the code
            published with MultiEMO); `"min"`: the smallest weight of a class with clips is 1; `"none"`.

    Returns:
        `Tensor` of shape `(C,)`, float32.
    """
    counts = torch.as_tensor(class_counts, dtype=torch.float32)
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

    A(i) holds all other labelled clips of the batch (and of the bank), P(i) those of the same class.

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
        Scalar `Tensor`, float32, connected to `embeddings`; 0 where no anchor has a positive.
    """
    if reduction not in ("mean", "published"):
        raise ValueError(f"reduction: found {reduction!r}, allowed are 'mean' and 'published'")
    with torch.autocast(embeddings.device.type, enabled=False):
        anchors = F.normalize(embeddings.float(), dim=-1, eps=1e-8)
        candidates, candidate_labels = anchors, labels
        if bank_embeddings is not None:
            candidates = torch.cat([anchors, F.normalize(bank_embeddings.float(), dim=-1, eps=1e-8)])
            candidate_labels = torch.cat([labels, bank_labels])
        itself = torch.eye(len(labels), len(candidate_labels), dtype=torch.bool, device=labels.device)
        others = (candidate_labels != IGNORE_INDEX)[None, :] & ~itself
        positives = (labels[:, None] == candidate_labels[None, :]) & others
        num_positives = positives.sum(1)
        labelled = labels != IGNORE_INDEX
        has_positive = num_positives > 0

        # A finite fill keeps rows without any candidate free of NaN, in the value and in the gradient.
        log_s = (anchors @ candidates.T / temperature).masked_fill(~others, -1e9).log_softmax(1)
        log_s = log_s.masked_fill(~positives, 0.0)
        focal = focal_factor(log_s.masked_fill(~positives, -1.0), focus)
        per_anchor = -(focal * log_s).sum(1) / num_positives.clamp(min=1)
        weights = class_weights(class_counts, class_weight_exponent, normalize).to(embeddings.device)
        per_anchor = per_anchor * weights[labels.clamp(min=0)] * has_positive
        count = has_positive.sum() if reduction == "mean" else labelled.sum()
        return per_anchor.sum() / count.clamp(min=1)


def focal_factor(log_probability: Tensor, focus: float) -> Tensor:
    """`(1 - p) ** focus` from `log p`, finite with a finite gradient where p reaches 1."""
    return (-torch.expm1(log_probability)).clamp(min=1e-7) ** focus


def cross_entropy_per_clip(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of each clip, `(B,)`, 0 where the label is -100. `logits` are `(B, C)`, `weights` `(C,)`."""
    with torch.autocast(logits.device.type, enabled=False):
        return F.cross_entropy(
            logits.float(),
            labels,
            weight=weights,
            ignore_index=IGNORE_INDEX,
            reduction="none",
            label_smoothing=label_smoothing,
        )


def angular_margin_per_clip(
    embeddings: Tensor, prototypes: Tensor, labels: Tensor, *, scale: float = 30.0, margin: float = 0.2
) -> Tensor:
    r"""
    Additive angular margin softmax (ArcFace, Deng et al., CVPR 2019) of each clip:
    cross-entropy over `s cos(theta_c + m [c = y])`.

    Args:
        embeddings (`Tensor` of shape `(B, D)`): speaker embeddings.
        prototypes (`Tensor` of shape `(num_speakers, D)`): one vector per training speaker.
        labels (`Tensor` of shape `(B,)`): training speakers, -100 = unknown.
        scale (`float`): s.
        margin (`float`): m, in radians.

    Returns:
        `Tensor` of shape `(B,)`, 0 where the label is -100.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        cosine = F.linear(F.normalize(embeddings.float(), dim=-1), F.normalize(prototypes.float(), dim=-1))
        sine = (1.0 - cosine.square()).clamp(min=1e-7).sqrt()
        shifted = cosine * math.cos(margin) - sine * math.sin(margin)
        # Beyond pi - m the shifted cosine would rise again; the usual linear continuation keeps it falling.
        shifted = torch.where(cosine > -math.cos(margin), shifted, cosine - margin * math.sin(margin))
        target = F.one_hot(labels.clamp(min=0), len(prototypes)).bool()
        return cross_entropy_per_clip(scale * torch.where(target, shifted, cosine), labels)


def ctc_feasible(logit_lengths: Tensor, labels: Tensor) -> Tensor:
    """Clips that CTC can align, `(B,)` bool: at least one label, and a frame per label and per repeated label."""
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
        `Tensor` of shape `(B,)`, 0 where [`ctc_feasible`] is false.
    """
    feasible = ctc_feasible(logit_lengths, labels)
    label_lengths = (labels != IGNORE_INDEX).sum(1)
    with torch.autocast(logits.device.type, enabled=False), torch.backends.cudnn.flags(enabled=False):
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


def mean_over_labelled(per_clip: Tensor, labelled: Tensor) -> Tensor:
    """Mean of `per_clip` `(B,)` over `labelled` `(B,)` bool; 0, still connected to the graph, where there is none."""
    return (per_clip * labelled).sum() / labelled.sum().clamp(min=1)


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The multi-task loss: sum over `losses` of weight times loss."""
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
