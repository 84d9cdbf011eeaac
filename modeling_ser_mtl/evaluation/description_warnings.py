"""What a practitioner would say about a data set before training on it."""

from collections.abc import Iterable, Iterator
from itertools import combinations

import numpy as np
import pandas as pd

FEW_CLIPS = 50  # a recall of one half is known to 7 points (standard error) from so many, worse from fewer
FEW_SPEAKERS = 3  # training, validation and test each need one
IMBALANCE = 10
ONE_SIDED = 0.95
LONG_SECONDS = 20  # the default of --max_seconds
FEW_TEXTS = 0.1
NAMED = 5
EACH_SET = "training, validation and test can't each have one"


def find_warnings(clips: pd.DataFrame, unusable: pd.DataFrame) -> list[str]:
    """
    Judges a data set; damage that reading its manifests tells of is left to that.

    Args:
        clips (`pd.DataFrame`): usable rows of [`~evaluation.describe.measure_clips`], one or more.
        unusable (`pd.DataFrame`): its other rows.

    Returns:
        `list[str]`: one line each: what was found, what follows from it or what to do.
    """
    return [
        *_about_audio(clips, unusable),
        *_about_emotions(clips),
        *_about_genders(clips),
        *_about_speakers(clips),
        *_about_transcripts(clips),
        *_about_splits(clips),
    ]


def _about_audio(clips: pd.DataFrame, unusable: pd.DataFrame) -> Iterator[str]:
    if len(unusable):
        yield f"clips that can't be used: {_clips(unusable)}: {unusable['reason'].iloc[0]}"
    long = clips.loc[clips["seconds"] > LONG_SECONDS, ["manifest", "row"]]
    if len(long):
        yield (
            f"clips over {LONG_SECONDS} s: {_clips(long)}; training takes random crops of them, without their "
            "transcripts; cut them at pauses or raise --max_seconds"
        )


def _about_emotions(clips: pd.DataFrame) -> Iterator[str]:
    labelled = clips.loc[clips["emotion"] != "", ["corpus", "emotion", "speaker"]]
    counts = labelled["emotion"].value_counts()
    if len(counts) == 1:
        yield f"only one emotion: {counts.index[0]}; there is nothing to tell it from, so leave the task out"
    spellings = counts.index.to_series().groupby(counts.index.str.casefold()).agg(sorted)
    for names in spellings[spellings.map(len) > 1]:
        yield f"emotions that differ in case alone: {_names(names)}; they are classes of their own, so write them alike"
    small = counts[counts < FEW_CLIPS]
    if len(small):
        found = _names(f"{name} ({count})" for name, count in small.items())
        yield f"emotions with fewer than {FEW_CLIPS} clips: {found}; their recall can hardly be measured"
    if len(counts) and counts.iloc[0] > IMBALANCE * counts.iloc[-1]:
        yield (
            f"imbalance: {counts.index[0]} has {counts.iloc[0] / counts.iloc[-1]:.0f} times the clips of "
            f"{counts.index[-1]}; judge by UAR or macro F1, not by accuracy"
        )
    speakers = labelled[labelled["speaker"] != ""].groupby("emotion")["speaker"].nunique()
    narrow = speakers[speakers < FEW_SPEAKERS]
    if len(narrow):
        found = _names(f"{name} ({count})" for name, count in narrow.items())
        yield f"emotions of fewer than {FEW_SPEAKERS} speakers: {found}; {EACH_SET}"
    if labelled["corpus"].nunique() > 1:
        corpora = labelled.groupby("emotion")["corpus"].agg(["nunique", "first"])
        for corpus, emotions in corpora[corpora["nunique"] == 1].groupby("first"):
            yield f"emotions of {corpus} alone: {_names(emotions.index)}; a model may learn to tell the corpora apart"


def _about_genders(clips: pd.DataFrame) -> Iterator[str]:
    labelled = clips.loc[clips["gender"] != "", ["emotion", "gender"]]
    shares = labelled["gender"].value_counts(normalize=True)
    other = [name for name in shares.index if name not in ("female", "male")]
    if other:
        yield f"genders beside female and male: {_names(other)}; rename them, or name all in --gender_labels"
    if len(shares) and shares.iloc[0] >= ONE_SIDED:
        yield f"one gender: {shares.iloc[0]:.0%} of the clips are {shares.index[0]}; it may fail on others"
        return
    found = []
    for emotion, genders in labelled[labelled["emotion"] != ""].groupby("emotion")["gender"]:
        share = genders.value_counts(normalize=True)
        if share.iloc[0] >= ONE_SIDED:
            found.append(f"{emotion} ({share.iloc[0]:.0%} {share.index[0]})")
    if found:
        yield f"emotions of one gender: {_names(found)}; a model may learn to tell the genders apart"


def _about_speakers(clips: pd.DataFrame) -> Iterator[str]:
    unnamed = clips.loc[clips["speaker"] == "", ["manifest", "row"]]
    if len(unnamed):
        yield f"clips without a speaker_id: {_clips(unnamed)}; their voices may be anyone's, so they only train"
    counts = clips["speaker"].value_counts().drop("", errors="ignore")
    if 0 < len(counts) < FEW_SPEAKERS:
        yield f"fewer than {FEW_SPEAKERS} speakers: {_names(counts.index)}; {EACH_SET}"
    single = sorted(counts[counts == 1].index)
    if single:
        yield f"speakers with one clip: {_counted(single)}; there is no other of theirs to compare it with"


def _about_transcripts(clips: pd.DataFrame) -> Iterator[str]:
    is_long = (clips["transcript"] != "") & (clips["needed_frames"] > clips["frames"])
    long = clips.loc[is_long, ["manifest", "row", "frames", "needed_frames"]]
    if len(long):
        clip = long.iloc[0]
        yield (
            f"transcripts too long for their audio: {_clips(long)}, needs {clip['needed_frames']} frames of 20 ms "
            f"and has {clip['frames']}; the ASR task skips them, so see whether text and audio belong together"
        )
    spoken = clips.loc[clips["transcript"] != "", "transcript"]
    # By hash, since `nunique` builds a list of all.
    texts = len(np.unique(np.fromiter(map(hash, spoken), np.int64, len(spoken))))
    if len(spoken) and texts < FEW_TEXTS * len(spoken):
        yield (
            f"few sentences: {texts:,} in {len(spoken):,} transcripts; the word error rate will measure memory "
            "unless the sets differ in what is said"
        )


def _about_splits(clips: pd.DataFrame) -> Iterator[str]:
    if "split" not in clips:
        return
    names = clips["split"].str.strip().replace("", "train")
    sets = dict(list(clips[["emotion", "speaker"]].groupby(names, sort=False)))
    for (name, first), (other, second) in combinations(sets.items(), 2):
        shared = sorted({*first["speaker"]} & {*second["speaker"]} - {""})
        if shared:
            yield f"speakers in both {name} and {other}: {_counted(shared)}; it takes --allow_shared_speakers"
    emotions = sorted({*clips["emotion"]} - {""})
    for name, group in sets.items():
        absent = [emotion for emotion in emotions if emotion not in set(group["emotion"])]
        if absent and (group["emotion"] != "").any():
            yield f"emotions without a clip in {name}: {_names(absent)}; they can't be learned or measured there"


def _clips(clips: pd.DataFrame) -> str:
    first = clips.iloc[0]
    return f"{len(clips):,}, the first ({first['manifest']} row {first['row']})"


def _counted(names: list[str]) -> str:
    return f"{len(names):,} ({_names(names)})"


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - NAMED:,} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more
