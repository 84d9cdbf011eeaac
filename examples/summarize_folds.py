"""Mean and standard deviation over folds: `python examples/summarize_folds.py outputs/ravdess-*`."""

import json
import sys
from pathlib import Path

import pandas as pd

METRICS = (
    "predict_emotion_uar",
    "predict_emotion_macro_f1",
    "predict_gender_uar",
    "predict_speaker_eer",
    "predict_asr_wer",
    "train_runtime",
)


def summarize(folders: list[Path]) -> pd.DataFrame:
    """One row per run folder with its test metrics and training seconds, then the mean and standard deviation."""
    results = {folder.name: json.loads((folder / "all_results.json").read_text()) for folder in folders}
    table = pd.DataFrame(results).T.reindex(columns=METRICS)
    return pd.concat([table, table.agg(["mean", "std"])])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/summarize_folds.py RUN_FOLDER ...")
    print(summarize([Path(argument) for argument in sys.argv[1:]]).round(3).to_string())
