"""What is on the pictures: colours by sign, labels, no overlaps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from tests.explain.synthetic import NAMES, make_bank, make_explanation
from vrx.report.drawing import ColourScale, spread, strongest_edges
from vrx.report.figures import (
    confusion_figure,
    explanation_figure,
    faithfulness_figure,
    gallery_figure,
    scatter_figure,
)
from vrx.structures import Explanation, edges


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.texts] + [t.get_text() for ax in figure.axes for t in ax.texts]


def discs(figure: Figure) -> list[Circle]:
    """Numbered discs, without those of the key."""
    found = [p for ax in figure.axes for p in ax.patches if str(p.get_gid()).startswith("disc")]
    return [p for p in found if p.get_radius() != 0.12]


def pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def only(classes: int, concepts: int, scores: list[float], **change: Any) -> Explanation:
    """All concepts found, class 0 with the given contributions."""
    explanation = make_explanation(classes, concepts, seed=3)
    nodes = np.zeros_like(explanation.node_scores)
    nodes[0, 0] = scores
    rng = np.random.default_rng(0)
    values = {
        "node_scores": nodes,
        "detected": np.ones((classes, concepts), bool),
        "centroids": rng.uniform(0, 1, (classes, concepts, 2)).astype(np.float32),
        "measured": np.ones((classes, concepts), np.float32),
    }
    return make_explanation(classes, concepts, seed=3, **{**values, **change})


def test_disc_colours_follow_the_sign_on_one_scale_around_zero() -> None:
    links = np.zeros((3, 3, 12), np.float32)
    figure = explanation_figure(only(3, 4, [3.0, -3.0, 0.0, 1.5], edge_scores=links), make_bank(), [0])
    colours = {d.get_gid(): np.array(d.get_facecolor()[:3]) for d in discs(figure)}
    assert len(discs(figure)) == 8  # on the photo and in the table
    blue, red, none, weak = (colours[f"disc {k}"] for k in (1, 2, 3, 4))
    assert blue[2] > blue[0] + 0.2 and red[0] > red[2] + 0.2
    assert np.ptp(none) < 0.02  # grey: neither
    assert weak[2] > weak[0] and weak.mean() > blue.mean()


def test_sign_is_also_written_for_grey_prints() -> None:
    explanation = only(3, 4, [3.0, -3.0, 0.0, 1.5])
    ax = explanation_figure(explanation, make_bank(), [0]).axes
    photo = next(a for a in ax if sum(str(p.get_gid()).startswith("disc") for p in a.patches) == 4 and a.images)
    written = [t.get_text() for t in photo.texts]
    assert written.count("+") == 2 and written.count("−") == 1 and written.count("0") == 1


def test_negative_relations_are_dashed_and_at_most_five_arrows() -> None:
    links = np.random.default_rng(1).normal(0, 1, (3, 3, 12)).astype(np.float32)
    explanation = only(3, 4, [1, 1, 1, 1], edge_scores=links)
    drawn = strongest_edges(explanation, 0)
    by_hand = sorted(zip(links[0, 0].tolist(), edges(4).T.tolist(), strict=True), key=lambda e: -abs(e[0]))[:5]
    assert [[j, i] for j, i, _ in drawn] == [pair for _, pair in by_hand]
    lines = [
        line
        for ax in explanation_figure(explanation, make_bank(), [0]).axes
        if ax.get_xlim() == (0, 128)
        for line in ax.lines
        if line.get_gid() == "arrow"
    ]
    assert len(lines) == 5
    assert sum(line.get_linestyle() == "--" for line in lines) == sum(s < 0 for _, _, s in drawn)


def test_arrows_need_two_detected_ends() -> None:
    found = np.ones((3, 4), bool)
    found[0, 1] = False
    links = np.ones((3, 3, 12), np.float32)
    assert all(
        1 not in (j, i) for j, i, _ in strongest_edges(only(3, 4, [1, 0, 1, 1], detected=found, edge_scores=links), 0)
    )


def test_one_scale_for_all_panels() -> None:
    explanation = make_explanation(3, 4, edge_scores=np.zeros((3, 3, 12), np.float32))
    scale = ColourScale.of(explanation, [0, 1, 2])
    own = np.abs(explanation.node_scores[np.arange(3), np.arange(3)])
    assert scale.limit == pytest.approx(own.max())
    assert scale(0.7)[2] == pytest.approx(ColourScale(scale.limit, 9)(0.7)[2])
    zero = make_explanation(
        3, 4, node_scores=np.zeros((3, 3, 4), np.float32), edge_scores=np.zeros((3, 3, 12), np.float32)
    )
    assert ColourScale.of(zero, [0]).limit == 1.0


@pytest.mark.parametrize(("classes", "concepts", "size"), [(3, 4, 128), (6, 6, 299)])
def test_labels(classes: int, concepts: int, size: int) -> None:
    explanation = make_explanation(classes, concepts, size, true_class=classes - 1)
    figure = explanation_figure(explanation, make_bank(classes, concepts))
    written = texts(figure)
    assert "Why fire engine?" in written
    assert f"Why not {NAMES[classes - 1]}?" in written  # the label gets a panel
    assert sum(t.startswith("Why") for t in written) == (3 if classes == 3 else 4)
    shown = [0, 1, 2] if classes == 3 else [0, 1, 2, 5]
    assert written.count("not found") == int((~explanation.detected[shown]).sum())
    assert pixels(figure).std() > 10


def test_contribution_and_measured_effect_stand_side_by_side() -> None:
    measured = np.full((3, 4), np.nan, np.float32)
    measured[0] = [2.1, np.nan, -0.7, 0.0]
    figure = explanation_figure(only(3, 4, [1.8, -0.9, 0.33, 5.0], measured=measured), make_bank(), [0])
    table = next(ax for ax in figure.axes if "typical" in [t.get_text() for t in ax.texts])
    values = [t.get_text() for t in table.texts if t.get_ha() != "center"][2:]  # without the two headings
    assert values == ["+1.8", "+2.1", "−0.9", "not measured", "+0.3", "−0.7", "+5.0", "0.0"]


def test_no_text_leaves_the_page_and_no_titles_overlap() -> None:
    names = ("a remarkably long class name, longer than a panel", *NAMES[1:4])
    explanation = make_explanation(4, 6, 128, class_names=names, true_class=3)
    figure = explanation_figure(explanation, make_bank(4, 6))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [t.get_window_extent(canvas.get_renderer()) for t in figure.texts]
    width, height = canvas.get_width_height()
    assert all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= width and b.y1 <= height for b in boxes)
    overlapping = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.shrunk(0.98, 0.8).overlaps(b)]
    assert not overlapping


def test_discs_are_pushed_apart_inside_the_photo() -> None:
    moved = spread(np.array([[64.0, 64.0]] * 4 + [[0.0, 0.0], [128, 128]]), 20, (128, 128), 8)
    distance = np.hypot(*(moved[:, None] - moved[None]).T) + np.eye(6) * 99
    assert distance.min() >= 20 * 0.99
    assert moved.min() >= 8 and moved.max() <= 120
    apart = np.array([[30.0, 30.0], [90.0, 90.0]])
    np.testing.assert_allclose(spread(apart, 20, (128, 128), 8), apart, atol=0.01)


def test_odd_input_draws() -> None:
    """Nothing found, all NaN, masks that fill the photo or one pixel, dollar signs: no warning (they are errors)."""
    masks = np.zeros((3, 4, 128, 128), bool)
    masks[0, 0], masks[0, 1, 5, 5] = True, True
    explanation = only(3, 4, [np.nan, 1, 2, 3], masks=masks, measured=np.full((3, 4), np.nan, np.float32))
    pixels(explanation_figure(explanation, make_bank(missing=True)))
    nothing = make_explanation(3, 4, detected=np.zeros((3, 4), bool), class_names=("a$b", "$c$", "d_^{"))
    figure = explanation_figure(nothing, make_bank(exemplars=0))
    assert texts(figure).count("none of its concepts was found") == 3
    pixels(figure)


def test_gallery_marks_what_is_not_significant_or_missing() -> None:
    bank = make_bank(missing=True)
    bank.p_value[0] = [0.0004, 0.049, 0.05, 1.0]
    written = texts(gallery_figure(bank, 0))
    assert "p < 0.001" in written and "p = 0.049" in written
    assert "p = 0.050: not significant" in written
    assert written.count("no such concept") == 1
    bank.p_value[1, 0] = np.nan
    assert "p not measured" in texts(gallery_figure(bank, 1))
    pixels(gallery_figure(bank, 0))


def test_scatter_leaves_out_what_was_not_measured() -> None:
    figure = scatter_figure([1.0, 2.0, -1.0, 5.0], [2.0, 3.0, 1.0, math.nan])
    assert any(t.startswith("3 concepts, same sign 67%, Spearman over all 1.00") for t in texts(figure))
    pixels(scatter_figure([], []))


def test_confusion_counts_by_hand() -> None:
    figure = confusion_figure(np.array([[3, 1], [0, 4]]), ("tank", "jeep"))
    assert "the same answer for 87.5% of 8" in texts(figure)
    assert [t.get_text() for t in figure.axes[0].texts] == ["3", "1", "0", "4"]


def test_faithfulness_bars_show_what_was_measured() -> None:
    metrics = {"faithfulness/spearman": 0.5, "faithfulness/spearman_area": 0.32, "faithfulness/ceiling": 0.65}
    figure = faithfulness_figure({**metrics, "faithfulness/spearman_random": math.nan})
    assert figure is not None
    written = texts(figure)
    assert "VRX contributions" in written and "patch area" in written and "ceiling 0.65" in written
    assert "random" not in written
    assert [round(p.get_width(), 2) for p in figure.axes[0].patches] == [0.5, 0.32]
    assert faithfulness_figure({"fidelity/l1": 0.1}) is None
