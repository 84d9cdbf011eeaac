"""
What a classical system reaches on the folds of `--num_folds`: 88 eGeMAPS functionals of openSMILE (Eyben et al. 2016)
and a support vector machine, `pip install opensmile` and then

    python examples/svm_baseline.py RAVDESS/manifest.csv --num_folds 6
    python examples/svm_baseline.py EMODB/manifest.csv --num_folds 10 --emotion_labels anger happiness neutral sadness
"""

import argparse
import sys

import numpy as np
import pandas as pd
from sklearn.metrics import recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from tqdm.auto import tqdm

from modeling_ser_mtl.data.audio import SAMPLING_RATE, load_audio
from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.data.manifest import read_manifest
from modeling_ser_mtl.data.splits import speaker_folds


def extract_features(table: pd.DataFrame) -> np.ndarray:
    """
    The eGeMAPS v02 functionals of each clip, `(N, 88)`.

    Raises:
        InputError: openSMILE is not installed.
    """
    try:
        import opensmile
    except ImportError as error:
        raise InputError("the features need openSMILE; pip install opensmile") from error
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    clips = tqdm(table["audio_path"], desc="Features")
    return np.stack([smile(load_audio(path), SAMPLING_RATE).ravel() for path in clips])


def fold_uars(features: np.ndarray, table: pd.DataFrame, num_folds: int) -> list[float]:
    """UAR of each fold's test speakers; the features' mean and deviation come from its training speakers."""
    uars = []
    for fold in range(num_folds):
        train, test = speaker_folds(table, num_folds, fold)
        classifier = make_pipeline(StandardScaler(), SVC(C=5, class_weight="balanced"))
        classifier.fit(features[train], table["emotion"].iloc[train])
        labels = table["emotion"].iloc[test]
        uars.append(recall_score(labels, classifier.predict(features[test]), labels=labels.unique(), average="macro"))
    return uars


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", help="with audio, emotion and speaker_id")
    parser.add_argument("--num_folds", type=int, required=True)
    parser.add_argument("--emotion_labels", nargs="+", help="default: all of the manifest")
    args = parser.parse_args()
    try:
        table = read_manifest(args.manifest, required=["emotion", "speaker_id"])
        found = sorted(set(table["emotion"]) - {""})
        labels = args.emotion_labels or found
        if unknown := sorted(set(labels) - set(found)):
            raise InputError(f"--emotion_labels {' '.join(unknown)}: not in the manifest, which has {', '.join(found)}")
        table = table[table["emotion"].isin(labels)].reset_index(drop=True)
        speaker_folds(table, args.num_folds, 0)
        uars = fold_uars(extract_features(table), table, args.num_folds)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print("UAR of the folds:", *(f"{uar:.3f}" for uar in uars))
    print(f"mean: {np.mean(uars):.3f}")
