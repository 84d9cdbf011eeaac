"""Splits by speaker: held-out validation speakers and cross-validation folds, as positions of rows."""

import logging

import numpy as np
import pandas as pd

from .errors import InputError
from .manifest import require_speakers

logger = logging.getLogger(__name__)


def hold_out_speakers(table: pd.DataFrame, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Holds out whole speakers for validation, stratified by gender and by having any emotion label.

    About `fraction` of each stratum's speakers are drawn under the seed, whatever the order of the rows; at least one
    speaker, never all, of each gender, of those with and those without emotion labels, and of each combination that has
    two speakers or more. Clips without a speaker always train.

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
    speakers = speakers.iloc[np.random.default_rng(seed).permutation(len(speakers))]
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

    is_validation = table["speaker"].isin(held_out).to_numpy()
    return np.flatnonzero(~is_validation), np.flatnonzero(is_validation)


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
    is_test = table["speaker"].isin(np.array_split(np.array(speakers, dtype=object), num_folds)[fold]).to_numpy()
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
