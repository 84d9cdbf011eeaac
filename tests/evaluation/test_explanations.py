import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from modeling_ser_mtl import SerMtlModel
from modeling_ser_mtl.evaluation.explanations import draw_explanation, explain


@pytest.fixture
def make_model(plain_config):
    """A model whose layer mixtures and gates differ from task to task, as they do after training."""

    def make(**settings) -> SerMtlModel:
        torch.manual_seed(0)
        model = SerMtlModel(plain_config("wav2vec2-layer", fusion_num_layers=2, **settings)).eval()
        torch.nn.init.normal_(model.layer_mixture.weight)
        for layer in getattr(model, "co_attention", []):
            torch.nn.init.normal_(layer.gate.weight, std=0.5)
        return model

    return make


WAVEFORM = np.random.default_rng(0).standard_normal(9_000).astype(np.float32)


def test_an_explanation_holds_the_outputs_of_the_model(make_model, make_processor):
    model = make_model()
    processor = make_processor(model.config)
    found = explain(model, processor, WAVEFORM, 16_000)
    output = model(**processor(WAVEFORM, sampling_rate=16_000), output_co_attentions=True)
    probabilities = output.logits[0].softmax(-1).tolist()
    assert found.emotions == dict(zip(model.config.emotion_labels, probabilities, strict=True))
    for index, task in enumerate(("gender", "speaker", "asr")):
        # The mean over the clip's frames is the documented gate of the task.
        assert found.gates[task].mean() == pytest.approx(output.task_gates[0, index].item(), abs=1e-5)
        received = output.co_attentions[index][0].mean((0, 1)).detach().numpy()
        np.testing.assert_allclose(found.attention[task], received / received.mean(), rtol=1e-4)
    assert found.seconds[0] > 0 and np.ptp(np.diff(found.seconds)) < 1e-6
    assert found.seconds[-1] + found.seconds[0] == pytest.approx(9_000 / 16_000)


def test_layer_weights_of_each_task_sum_to_1_and_follow_the_mixture(make_model, make_processor):
    model = make_model()
    with torch.no_grad():
        model.layer_mixture.weight[2] = torch.tensor([0.0, 9.0, 0.0, 0.0])
    weights = explain(model, make_processor(model.config), WAVEFORM, 16_000).layer_weights
    assert list(weights) == ["emotion", "gender", "speaker", "asr"]
    assert all(values.sum() == pytest.approx(1.0) for values in weights.values())
    assert weights["speaker"].argmax() == 1 and weights["speaker"][1] > 0.99


@pytest.mark.parametrize("settings", [{}, {"fusion": "concat"}, {"tasks": ("emotion",)}])
def test_every_explanation_can_be_drawn(make_model, make_processor, settings, tmp_path):
    model = make_model(**settings)
    explanation = explain(model, make_processor(model.config), WAVEFORM, 16_000)
    figure = draw_explanation(explanation)
    assert isinstance(figure, Figure)
    # Two panels over time (with the waveform behind the first) where there is co-attention; a bar per emotion.
    assert len(figure.axes) == (6 if explanation.gates else 3)
    titles = {axes.get_title(): axes for axes in figure.axes}
    assert len(titles["Emotion"].patches) == 3
    figure.savefig(tmp_path / "figure.png")


def test_a_model_without_emotion_has_nothing_to_explain(make_model, make_processor):
    model = make_model(tasks=("gender",))
    with pytest.raises(ValueError, match="tasks: found .*only a decision of the emotion task"):
        explain(model, make_processor(model.config), WAVEFORM, 16_000)
