"""Speaker verification: trials (pairs of clips), equal error rate and minimum detection cost."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_curve

from modeling_ser_mtl.data.errors import InputError

Trials = tuple[np.ndarray, np.ndarray]


def _error_rates(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False acceptance and rejection rates, from the threshold that accepts no trial to the one that accepts all."""
    targets = np.asarray(targets, dtype=bool)
    if targets.all() or not targets.any():
        raise ValueError("error rates need at least one target and one non-target trial")
    false_acceptance, true_acceptance, _ = roc_curve(targets, scores)
    return false_acceptance, 1 - true_acceptance


def equal_error_rate(scores: np.ndarray, targets: np.ndarray) -> float:
    """
    The rate at which false acceptances and false rejections are equal, by linear interpolation between the two
    operating points around the crossing.

    Args:
        scores (`np.ndarray` of shape `(N,)`): similarity of each trial, higher means the same speaker.
        targets (`np.ndarray` of shape `(N,)`, bool): whether a trial's two clips are of the same speaker.

    Returns:
        `float` in [0, 1]; 0 is perfect, 0.5 is chance.

    Raises:
        `ValueError`: without a target or without a non-target trial.
    """
    false_acceptance, false_rejection = _error_rates(scores, targets)
    # Falls strictly from 1 to -1 along the curve, so there is always a point before the crossing.
    gap = false_rejection - false_acceptance
    after = int(np.argmax(gap <= 0))
    fraction = gap[after - 1] / (gap[after - 1] - gap[after])
    return float((1 - fraction) * false_acceptance[after - 1] + fraction * false_acceptance[after])


def min_dcf(
    scores: np.ndarray, targets: np.ndarray, p_target: float = 0.05, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """
    Minimum of the normalised detection cost function over all thresholds (NIST speaker recognition evaluation plan):
    `min_t (c_miss * p_target * P_miss(t) + c_fa * (1 - p_target) * P_fa(t))`, divided by
    `min(c_miss * p_target, c_fa * (1 - p_target))`.

    Args:
        scores (`np.ndarray` of shape `(N,)`): similarity of each trial, higher means the same speaker.
        targets (`np.ndarray` of shape `(N,)`, bool): whether a trial's two clips are of the same speaker.
        p_target (`float`, *optional*, defaults to 0.05): prior probability of a target trial, in (0, 1).
        c_miss (`float`, *optional*, defaults to 1.0): cost of a false rejection.
        c_fa (`float`, *optional*, defaults to 1.0): cost of a false acceptance.

    Returns:
        `float` in [0, 1]; 1 is the cost of the better of accepting every trial and accepting none.

    Raises:
        `ValueError`: without a target or without a non-target trial.
    """
    false_acceptance, false_rejection = _error_rates(scores, targets)
    cost = c_miss * p_target * false_rejection + c_fa * (1 - p_target) * false_acceptance
    return float(cost.min() / min(c_miss * p_target, c_fa * (1 - p_target)))


def draw_trials(speakers: Sequence[str], corpora: Sequence[str], max_trials: int = 200_000, seed: int = 42) -> Trials:
    """
    All pairs of clips within a corpus, or `max_trials` of them drawn evenly without replacement when there are more.

    Args:
        speakers (`Sequence[str]` of length N): speaker of each clip, "" where unknown; such a clip is in no pair.
        corpora (`Sequence[str]` of length N): corpus of each clip.
        max_trials (`int`, *optional*, defaults to 200000): most pairs returned.
        seed (`int`, *optional*, defaults to 42): seed of the draw.

    Returns:
        `tuple(np.ndarray, np.ndarray)`: indices `(i, j)` of the two clips with `i < j`, of shape `(M, 2)`, and whether
        they are of the same speaker, bool of shape `(M,)`.
    """
    names = np.asarray(speakers, dtype=str)
    corpus_ids = np.unique(np.asarray(corpora, dtype=str), return_inverse=True)[1]
    known = np.flatnonzero(names != "")
    # Clips corpus by corpus, in clip order: each one is paired with all clips of its corpus that come before it, so a
    # pair is a number below `total` that decodes to (clip, earlier clip) without any list of pairs.
    clips = known[np.argsort(corpus_ids[known], kind="stable")]
    starts = np.searchsorted(corpus_ids[clips], corpus_ids[clips])
    num_earlier = np.arange(len(clips)) - starts
    ends = np.cumsum(num_earlier)
    total = int(num_earlier.sum())

    if total > max_trials:
        numbers = np.sort(np.random.default_rng(seed).choice(total, size=max_trials, replace=False, shuffle=False))
    else:
        numbers = np.arange(total)
    later = np.searchsorted(ends, numbers, side="right")
    earlier = starts[later] + numbers - (ends[later] - num_earlier[later])
    pairs = np.stack([clips[earlier], clips[later]], axis=1)
    return pairs, names[pairs[:, 0]] == names[pairs[:, 1]]


def read_trials(path: str | Path, audio: Sequence[str]) -> Trials:
    """
    Reads a list of trials in VoxCeleb's format: a line `1 file_a file_b` (same speaker) or `0 file_a file_b` per trial.

    Args:
        path (`str` or `Path`): the trials file, UTF-8; blank lines are skipped.
        audio (`Sequence[str]` of length N): the manifest's `audio` column, which the file names are looked up in.

    Returns:
        `tuple(np.ndarray, np.ndarray)`: clip indices of shape `(M, 2)` and targets, bool of shape `(M,)`.

    Raises:
        `InputError`: an unreadable file, a line in another format, or a file name that is not exactly one clip's; names
        the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"trials file {path}: cannot be read ({error}); give a UTF-8 text file") from None

    clips = {name: index for index, name in enumerate(audio)}
    occurrences = Counter(audio)
    pairs: list[tuple[int, int]] = []
    targets: list[bool] = []
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        where = f"trials file {path}, line {number}"
        if len(fields) != 3 or fields[0] not in ("0", "1"):
            raise InputError(f"{where}: found {line.strip()!r}; write '1 file_a file_b' or '0 file_a file_b'")
        for name in fields[1:]:
            if name not in clips:
                raise InputError(
                    f"{where}: no clip is named {name!r}; write file names as in the manifest's audio column"
                )
            if occurrences[name] > 1:
                raise InputError(f"{where}: {occurrences[name]} clips are named {name!r}; give each a name of its own")
        pairs.append((clips[fields[1]], clips[fields[2]]))
        targets.append(fields[0] == "1")
    if not pairs:
        raise InputError(
            f"trials file {path}: found no trial; write a line '1 file_a file_b' or '0 file_a file_b' each"
        )
    return np.array(pairs), np.array(targets)


def verification_metrics(embeddings: np.ndarray, pairs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """
    Verification metrics of the cosine similarity between speaker embeddings.

    Args:
        embeddings (`np.ndarray` of shape `(N, D)`): one speaker embedding per clip, of any length.
        pairs (`np.ndarray` of shape `(M, 2)`): clip indices of each trial.
        targets (`np.ndarray` of shape `(M,)`, bool): whether a trial's two clips are of the same speaker.

    Returns:
        `dict[str, float]`: `speaker_eer` and `speaker_min_dcf`; empty without a target or without a non-target trial.
    """
    if targets.all() or not targets.any():
        return {}
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    embeddings = embeddings / np.maximum(norms, np.finfo(norms.dtype).tiny)
    # In chunks, since 200,000 trials gathered at once would be 200,000 x D numbers twice.
    chunks = np.array_split(pairs, len(pairs) // 16_384 + 1)
    scores = np.concatenate([np.einsum("td,td->t", embeddings[a], embeddings[b]) for a, b in (c.T for c in chunks)])
    return {"speaker_eer": equal_error_rate(scores, targets), "speaker_min_dcf": min_dcf(scores, targets)}
