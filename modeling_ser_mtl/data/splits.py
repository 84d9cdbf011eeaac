"""Splits by speaker: held-out validation speakers and cross-validation folds, as positions of rows."""

import logging
import math
import warnings

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from .errors import InputError
from .manifest import require_speakers

logger = logging.getLogger(__name__)

MAX_DRAWS = 30


def hold_out_speakers(table: pd.DataFrame, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Holds out whole speakers for validation, stratified by gender and by having any emotion label, and by emotion as far
    as speakers allow.

    About `fraction` of each stratum's speakers are drawn under the seed, whatever the order of the rows; at least one
    speaker, never all, of each gender, of those with and those without emotion labels, and of each combination that has
    two speakers or more. Where an emotion does not train, or has two speakers or more and does not validate, up to 30
    draws are made, and the one with the fewest such emotions counts. Clips without a speaker always train.

    Args:
        table (`pd.DataFrame`): A table of [`~data.manifest.read_manifest`].
        fraction (`float`): Share of the speakers to hold out, in (0, 1).
        seed (`int`): Seed of the draw.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Positions (for `iloc`, ascending) of the training and of the validation rows.

    Raises:
        InputError: `fraction` is outside (0, 1), or there are fewer than two speakers.
    """
    if not 0 < fraction < 1:
        raise InputError(
            f"--validation_speakers {fraction}: the share of speakers to hold out must lie between 0 and 1"
        )
    named = table[table["speaker"] != ""]
    # max is any label of the speaker there is ("" sorts first), and the index comes out sorted.
    speakers = named.groupby("speaker").agg({"gender": "max", "emotion": "max"})
    if len(speakers) < 2:
        raise InputError(
            f"--validation_speakers {fraction}: found {len(speakers)} speaker(s), holding one out takes 2 or more; "
            "fill in 'speaker_id' or give --validation_file"
        )
    speakers["has_emotion"] = speakers.pop("emotion") != ""
    # Speakers by emotions: who has clips of which.
    emotions = pd.crosstab(named["speaker"], named["emotion"]).drop(columns="", errors="ignore") > 0
    random = np.random.default_rng(seed)
    draws = (_draw_speakers(speakers.iloc[random.permutation(len(speakers))], fraction) for _ in range(MAX_DRAWS))
    held_out, fewest = set[str](), math.inf
    while fewest and (drawn := next(draws, None)):
        is_drawn = emotions.index.isin(drawn)
        untrained = ~emotions[~is_drawn].any()
        unvalidated = ~emotions[is_drawn].any() & (emotions.sum() > 1)
        if (missing := untrained.sum() + unvalidated.sum()) < fewest:
            held_out, fewest = drawn, missing
    return _split_where(table["speaker"].isin(held_out))


def _draw_speakers(speakers: pd.DataFrame, fraction: float) -> set[str]:
    """The first speakers of each stratum; `speakers` has `gender` and `has_emotion` by speaker, in the draw's order."""
    # Where a single speaker is wanted below, one with emotion labels comes first.
    speakers = speakers.sort_values("has_emotion", ascending=False, kind="stable")

    held_out: set[str] = set()
    strata = speakers.groupby(["gender", "has_emotion"])
    for _, stratum in strata:
        held_out.update(stratum.index[: min(round(fraction * len(stratum)), len(stratum) - 1)])
    for groups in (strata, speakers.groupby("has_emotion"), speakers.groupby("gender"), [("all", speakers)]):
        for _, group in groups:
            if len(group) > 1 and held_out.isdisjoint(group.index):
                # Not the last one to train with emotions, or without, unless nothing else is left; a second one
                # held out may be the only one without.
                training = speakers.drop(index=list(held_out))["has_emotion"].value_counts()
                spare = [speaker for speaker in group.index if training[speakers.at[speaker, "has_emotion"]] > 1]
                if held_out and not spare and (~speakers["has_emotion"]).sum() == 1:
                    spare = group.index[~group["has_emotion"]].tolist()
                if spare or not held_out:
                    held_out.add((spare or group.index)[0])
    return held_out


def speaker_folds(table: pd.DataFrame, num_folds: int, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """
    One fold of speaker-independent cross-validation: speakers sorted as strings, cut by `numpy.array_split`.

    Args:
        table (`pd.DataFrame`): A table of [`~data.manifest.read_manifest`].
        num_folds (`int`): Number of groups, from 2 to the number of speakers.
        fold (`int`): The group that is the test set, from 0.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Positions (for `iloc`, ascending) of the rest and of the test rows.

    Raises:
        InputError: `num_folds` or `fold` is out of range, or a clip has no speaker.
    """
    speakers = _speakers_to_cut(table, num_folds, fold)
    return _split_where(table["speaker"].isin(np.array_split(np.array(speakers, dtype=object), num_folds)[fold]))


def stratified_speaker_folds(
    table: pd.DataFrame, num_folds: int, fold: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """
    One fold of speaker-independent cross-validation where each fold has about the same share of every emotion, as far
    as whole speakers allow: `StratifiedGroupKFold` of scikit-learn, whatever the order of the rows. A fold that it
    leaves empty, as it may with speakers of very different sizes, gets a speaker of the one with the most.

    Args:
        table (`pd.DataFrame`), num_folds (`int`), fold (`int`): As in [`speaker_folds`].
        seed (`int`): Seed of the order of speakers with equal emotions.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: As of [`speaker_folds`].

    Raises:
        InputError: As in [`speaker_folds`].
    """
    _speakers_to_cut(table, num_folds, fold)
    clips = table[["speaker", "emotion"]].sort_values(["speaker", "emotion"])
    if clips["emotion"].value_counts().max() < num_folds:
        # scikit-learn refuses; with so few clips nothing is left to stratify.
        clips = clips.assign(emotion="")
    cut = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # That some emotion has fewer clips than there are folds is "as far as speakers allow".
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        folds = [
            sorted(clips["speaker"].iloc[test].unique())
            for _, test in cut.split(clips, clips["emotion"], clips["speaker"])
        ]
    for empty in [speakers for speakers in folds if not speakers]:
        empty.append(max(folds, key=len).pop())
    return _split_where(table["speaker"].isin(folds[fold]))


def group_folds(table: pd.DataFrame, column: str, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """
    One fold of cross-validation that leaves out one value of a column: `session` gives session folds, `speaker` leaves
    one speaker out, `corpus` one corpus.

    Args:
        table (`pd.DataFrame`): A table of [`~data.manifest.read_manifest`].
        column (`str`): The column; its values are sorted as strings.
        fold (`int`): The value that is the test set, from 0.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Positions (for `iloc`, ascending) of the rest and of the test rows.

    Raises:
        InputError: There is no such column, it is empty in a row or has a single value, `fold` is out of range, or a
            speaker has clips of several values.
    """
    if column not in table:
        raise InputError(f"column {column!r}: not in the data; found: {', '.join(table.columns)}; name one of these")
    values = table[column].str.strip()
    if (values == "").any():
        clip = table.loc[values == ""].iloc[0]
        raise InputError(
            f"{clip['manifest']} row {clip['row']}: {column!r} of {clip['audio']} is empty ({(values == '').sum()} of "
            f"{len(table)} clips have none); folds by {column} need one: fill it in or drop the row"
        )
    groups = sorted(values.unique())
    if len(groups) < 2:
        raise InputError(f"column {column!r}: found {groups[0]!r} only; leaving one out takes 2 or more")
    if not 0 <= fold < len(groups):
        raise InputError(
            f"--fold {fold}: folds count from 0, so with the {len(groups)} values of {column!r} give 0 to "
            f"{len(groups) - 1}"
        )
    is_test = values == groups[fold]
    shared = sorted((set(table["speaker"][is_test]) & set(table["speaker"][~is_test])) - {""})
    if shared:
        raise InputError(
            f"column {column!r}: {len(shared)} speaker(s) of {groups[fold]!r} have other clips, too, the first is "
            f"{shared[0]}; folds must not share speakers: choose another column, or --num_folds"
        )
    return _split_where(is_test)


def _speakers_to_cut(table: pd.DataFrame, num_folds: int, fold: int) -> list[str]:
    """The speakers, sorted as strings, where they can be cut into that many folds."""
    require_speakers(table, "cross-validation by speaker (--num_folds)")
    speakers = sorted(table["speaker"].unique())
    if not 2 <= num_folds <= len(speakers):
        raise InputError(
            f"--num_folds {num_folds}: must lie between 2 and the number of speakers, here {len(speakers)}"
        )
    if not 0 <= fold < num_folds:
        raise InputError(
            f"--fold {fold}: folds count from 0, so with --num_folds {num_folds} give 0 to {num_folds - 1}"
        )
    return speakers


def _split_where(is_test: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def check_disjoint_speakers(train: pd.DataFrame, other: pd.DataFrame, name: str) -> None:
    """
    Checks that no speaker is in both tables.

    Args:
        train (`pd.DataFrame`): The training table.
        other (`pd.DataFrame`): The table that must not share a speaker with it.
        name (`str`): What `other` is, for the message, e.g. "test".

    Raises:
        InputError: Speakers are shared; names up to three.
    """
    unknown = int((other["speaker"] == "").sum())
    if unknown and (train["speaker"] != "").any():
        logger.warning("%d %s clips have no speaker_id: whether their speakers train can't be checked", unknown, name)
    shared = sorted((set(train["speaker"]) & set(other["speaker"])) - {""})
    if shared:
        more = f" and {len(shared) - 3} more" if len(shared) > 3 else ""
        raise InputError(
            f"{other['manifest'].iloc[0]}: {len(shared)} speaker(s) of the {name} set also train or validate: "
            f"{', '.join(shared[:3])}{more}; speakers must not be shared: drop their clips from one of the two"
        )
