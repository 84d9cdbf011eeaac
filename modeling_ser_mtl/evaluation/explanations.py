"""What moved a decision: which auxiliary task, which moment, which layer; as numbers and as a figure."""

from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from ..modeling_ser_mtl import SerMtlModel
from ..processing_ser_mtl import SerMtlProcessor

STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "explanation"}
# The waveform is drawn as the lowest and highest sample of so many stretches.
WAVEFORM_COLUMNS = 600
COLORS = {"emotion": "tab:red", "gender": "tab:blue", "speaker": "tab:orange", "asr": "tab:green"}


@dataclass
class Explanation:
    """
    The evidence behind the emotion of one clip.

    Args:
        waveform (`np.ndarray` of shape `(num_samples,)`): the clip, without the silence that the processor cuts.
        seconds (`np.ndarray` of shape `(T,)`): middle of each frame, in seconds from the start of `waveform`.
        emotions (`dict[str, float]`): probability of each emotion, sum 1.
        layer_weights (`dict[str, np.ndarray]`): by task, the weight of the encoder's input embedding and of each of its
            layers, `(num_hidden_layers + 1,)`, sum 1.
        gates (`dict[str, np.ndarray]`): by auxiliary task, how far its context enters the emotion stream at each frame,
            `(T,)`, in (0, 1); mean over the co-attention layers. Empty without co-attention.
        attention (`dict[str, np.ndarray]`): by auxiliary task, the attention that each of its frames gets from the
            emotion stream, `(T,)`, mean 1 over the clip; last co-attention layer. Empty without co-attention.
    """

    waveform: np.ndarray
    seconds: np.ndarray
    emotions: dict[str, float]
    layer_weights: dict[str, np.ndarray]
    gates: dict[str, np.ndarray]
    attention: dict[str, np.ndarray]


@torch.no_grad()
def explain(model: SerMtlModel, processor: SerMtlProcessor, waveform: np.ndarray, sampling_rate: int) -> Explanation:
    """
    Runs the model on one clip and keeps what its outputs say about the decision.

    Args:
        model ([`SerMtlModel`]): a model with the emotion task.
        processor ([`SerMtlProcessor`]): its processor.
        waveform (`np.ndarray` of shape `(num_samples,)`): a mono clip.
        sampling_rate (`int`): of the clip, in Hz; the processor's.

    Returns:
        [`Explanation`]

    Raises:
        ValueError: the model has no emotion task, or as in the processor.
    """
    config = model.config
    if "emotion" not in config.tasks:
        raise ValueError(f"tasks: found {config.tasks}; only a decision of the emotion task is explained")
    waveform = processor.trim(waveform)
    inputs = processor(waveform, sampling_rate=sampling_rate).to(model.device)
    output = model(**inputs, output_co_attentions=True)
    frames = int(output.frame_mask[0].sum())
    duration = len(waveform) / sampling_rate
    gates, attention = {}, {}
    if output.co_attentions is not None:
        for index, (task, maps) in enumerate(zip(config.auxiliary_tasks, output.co_attentions, strict=True)):
            gates[task] = output.frame_gates[0, :frames, index].float().cpu().numpy()
            received = maps[0, :, :frames, :frames].float().mean((0, 1))
            attention[task] = (received * frames).cpu().numpy()
    probabilities = model.emotion_probabilities(output.logits)[0]
    weights = model.layer_mixture.weight.float().softmax(-1).cpu().numpy()
    return Explanation(
        waveform=waveform,
        seconds=(np.arange(frames) + 0.5) * duration / frames,
        emotions=dict(zip(config.emotion_labels, probabilities.tolist(), strict=True)),
        layer_weights=dict(zip(config.tasks, weights, strict=True)),
        gates=gates,
        attention=attention,
    )


def draw_explanation(explanation: Explanation) -> Figure:
    """
    One page: the waveform with the attention that each moment gets, the gates over time, the probabilities and the
    layer weights. The panels over time are left out for a model without co-attention.

    Args:
        explanation ([`Explanation`]): of one clip.

    Returns:
        `matplotlib.figure.Figure`: not yet drawn or saved.
    """
    over_time = bool(explanation.gates)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 7 if over_time else 3), layout="constrained", facecolor="white")
        rows = figure.add_gridspec(3 if over_time else 1, 2, height_ratios=[1.2, 0.8, 1] if over_time else None)
        if over_time:
            _draw_attention(figure.add_subplot(rows[0, :]), explanation)
            _draw_gates(figure.add_subplot(rows[1, :]), explanation)
        _draw_emotions(figure.add_subplot(rows[-1, 0]), explanation)
        _draw_layers(figure, figure.add_subplot(rows[-1, 1]), explanation)
    return figure


def _draw_attention(axes: matplotlib.axes.Axes, explanation: Explanation) -> None:
    end = explanation.seconds[-1] + explanation.seconds[0]
    columns = np.array_split(explanation.waveform, min(len(explanation.waveform), WAVEFORM_COLUMNS))
    lowest, highest = (np.array([pick(column) for column in columns]) for pick in (np.min, np.max))
    peak = max(-lowest.min(), highest.max()) or 1.0
    behind = axes.twinx()
    moments = (np.arange(len(columns)) + 0.5) / len(columns) * end
    behind.fill_between(moments, lowest / peak, highest / peak, color="0.85", linewidth=0)
    behind.set(ylim=(-1.05, 1.05), yticks=[])
    behind.spines["right"].set_visible(False)
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    for task, attention in explanation.attention.items():
        axes.plot(explanation.seconds, attention, color=COLORS[task], label=task)
    axes.set(xlim=(0, end), ylim=(0, None), ylabel="attention (mean 1)")
    axes.set_title("Which moment of each auxiliary stream the emotion stream looks at (grey: waveform)")
    axes.legend(loc="upper right", ncols=3, frameon=False)


def _draw_gates(axes: matplotlib.axes.Axes, explanation: Explanation) -> None:
    for task, gates in explanation.gates.items():
        axes.plot(explanation.seconds, gates, color=COLORS[task], label=f"{task}, mean {gates.mean():.2f}")
    end = explanation.seconds[-1] + explanation.seconds[0]
    top = max(gates.max() for gates in explanation.gates.values())
    axes.set(xlim=(0, end), ylim=(0, 1.3 * top), ylabel="gate", xlabel="seconds")
    axes.set_title("How far each auxiliary task enters the decision")
    axes.legend(loc="upper right", ncols=3, frameon=False)


def _draw_emotions(axes: matplotlib.axes.Axes, explanation: Explanation) -> None:
    names, values = list(explanation.emotions), list(explanation.emotions.values())
    bars = axes.barh(names, values, color="tab:red")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlim=(0, 1.12 * max(values)), xlabel="probability")
    axes.invert_yaxis()
    axes.set_title("Emotion")


def _draw_layers(figure: Figure, axes: matplotlib.axes.Axes, explanation: Explanation) -> None:
    tasks, weights = list(explanation.layer_weights), np.stack(list(explanation.layer_weights.values()))
    image = axes.imshow(weights, cmap="Blues", vmin=0, aspect="auto")
    axes.set_xticks(range(weights.shape[1]), ["input", *map(str, range(1, weights.shape[1]))])
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set(xlabel="layer of the encoder")
    axes.set_title("Which layer each task reads")
    figure.colorbar(image, ax=axes, label="weight")
