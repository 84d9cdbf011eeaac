"""Draws what moved a model's decision: `python examples/explain_clip.py outputs/mine clip.wav explanation.svg`."""

import sys
from pathlib import Path

from modeling_ser_mtl import SerMtlModel, SerMtlProcessor
from modeling_ser_mtl.data.audio import SAMPLING_RATE, load_audio
from modeling_ser_mtl.evaluation.explanations import draw_explanation, explain


def main(folder: str, clip: str, output: Path) -> None:
    """Writes the figure of one clip; any format that matplotlib knows by its ending."""
    model, processor = SerMtlModel.from_pretrained(folder), SerMtlProcessor.from_pretrained(folder)
    figure = draw_explanation(explain(model, processor, load_audio(clip), SAMPLING_RATE))
    figure.savefig(output, metadata={"Date": None, "Creator": None} if output.suffix == ".svg" else None)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python examples/explain_clip.py MODEL CLIP OUTPUT.svg")
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
