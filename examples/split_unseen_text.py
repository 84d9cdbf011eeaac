"""
A copy of a manifest whose test clips have speakers and sentences that the training clips lack:
`python examples/split_unseen_text.py nEMO/manifest.csv nEMO/unseen.csv --test_speakers 2 --test_texts .2`.

Where all speakers read the same sentences, a split by speaker alone measures how well the sentences were learnt by
heart. Clips of a test speaker with a training sentence, or the reverse, are in neither set and are left out.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from modeling_ser_mtl.data.errors import InputError


def split_unseen(table: pd.DataFrame, test_speakers: int, test_texts: float, seed: int) -> pd.DataFrame:
    """
    The rows of `table`, which has the columns `speaker_id` and `text`, that are in a set, with a column `split`.

    `test_speakers` speakers and the share `test_texts` of the sentences are drawn for testing.
    """
    known = table[(table["speaker_id"] != "") & (table["text"] != "")]
    random = np.random.default_rng(seed)
    drawn = {}
    for column, wanted in (("speaker_id", test_speakers), ("text", test_texts)):
        values = sorted(known[column].unique())
        size = round(wanted * len(values)) if wanted < 1 else int(wanted)
        if not 0 < size < len(values):
            raise InputError(f"{column}: {size} of {len(values)} for testing; both sets need at least one")
        drawn[column] = known[column].isin(random.choice(values, size, replace=False))
    is_test, is_train = drawn["speaker_id"] & drawn["text"], ~drawn["speaker_id"] & ~drawn["text"]
    return known.assign(split=np.where(is_test, "test", "train"))[is_test | is_train]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="CSV with audio, speaker_id and text")
    parser.add_argument("output", type=Path, help="CSV to write, in the folder of the manifest: paths stay as they are")
    parser.add_argument("--test_speakers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--test_texts", type=float, default=0.2, help="share of the sentences; default: %(default)s")
    parser.add_argument("--seed", type=int, default=42, help="default: %(default)s")
    args = parser.parse_args()
    try:
        if args.output.resolve().parent != args.manifest.resolve().parent:
            raise InputError(f"{args.output}: must lie in {args.manifest.parent}, since audio is found from there")
        table = pd.read_csv(args.manifest, dtype=str, keep_default_na=False)
        found = split_unseen(table, args.test_speakers, args.test_texts, args.seed)
        found.to_csv(args.output, index=False)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    counts = found["split"].value_counts()
    print(f"{counts['train']} clips to train, {counts['test']} to test, {len(table) - len(found)} left out")
