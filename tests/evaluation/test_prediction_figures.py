import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from modeling_ser_mtl.evaluation.calibration import expected_calibration_error
from modeling_ser_mtl.evaluation.description_figure import save_figure
from modeling_ser_mtl.evaluation.prediction_figures import draw_confusion, draw_reliability

RNG = np.random.default_rng(0)
PROBABILITIES = RNG.dirichlet(np.full(3, 0.6), 200)
LABELS = np.array([RNG.choice(3, p=row) for row in PROBABILITIES])


def test_the_bars_of_the_diagram_are_the_accuracies_of_the_bins():
    figure = draw_reliability(PROBABILITIES, LABELS)
    assert isinstance(figure, Figure)
    diagram, histogram, abstention = figure.axes
    confidence, right = PROBABILITIES.max(1), PROBABILITIES.argmax(1) == LABELS
    for bar in diagram.patches:
        inside = (confidence > bar.get_x()) & (confidence <= bar.get_x() + bar.get_width())
        assert bar.get_height() == pytest.approx(right[inside].mean())
    assert sum(bar.get_height() for bar in histogram.patches) == 200
    assert f"{expected_calibration_error(PROBABILITIES, LABELS):.3f}" in diagram.get_title()
    answered, accuracy = abstention.lines[0].get_data()
    assert (answered[-1], accuracy[-1]) == (1, pytest.approx(right.mean()))


def test_the_cells_of_the_confusion_are_shares_and_numbers_of_the_true_class():
    predicted = PROBABILITIES.argmax(1)
    figure = draw_confusion(LABELS, predicted, ["anger", "joy", "fear"])
    axes = figure.axes[0]
    counts = confusion_matrix(LABELS, predicted, labels=range(3))
    shares = confusion_matrix(LABELS, predicted, labels=range(3), normalize="true")
    cells = {tuple(map(int, text.get_position()[::-1])): text.get_text() for text in axes.texts}
    expected = {
        (row, column): f"{shares[row, column]:.2f}\n{counts[row, column]}"
        for row, column in np.ndindex(3, 3)
        if counts[row, column]
    }
    assert cells == expected
    assert f"{balanced_accuracy_score(LABELS, predicted):.3f}" in axes.get_title()
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        f"{name} ({total})" for name, total in zip(("anger", "joy", "fear"), counts.sum(1), strict=True)
    ]


def test_a_class_without_clips_is_an_empty_row():
    figure = draw_confusion(np.array([0, 0, 1]), np.array([0, 2, 1]), ["anger", "joy", "fear"])
    rows = {round(text.get_position()[1]) for text in figure.axes[0].texts}
    assert rows == {0, 1}
    assert "UAR 0.750" in figure.axes[0].get_title()


def test_the_figures_are_the_same_bytes_each_time(tmp_path):
    for draw in (
        lambda: draw_reliability(PROBABILITIES, LABELS),
        lambda: draw_confusion(LABELS, PROBABILITIES.argmax(1), ["anger", "joy", "fear"]),
    ):
        for name in ("first.svg", "second.svg"):
            save_figure(draw(), tmp_path / name)
        assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()
