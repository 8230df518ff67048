"""What is on the pictures: every concept with its sign, colours, arrows, names, and nothing cut off."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text

from tests.report.synthetic import NAMES, make_bank, make_explanation
from vrx.explanation import Explanation
from vrx.report import figures
from vrx.report.drawing import ColourScale, fit, spread
from vrx.report.figures import class_figure, explanation_figures, photo_figure, sheet, words_figure
from vrx.report.galleries import WEAK, gallery_figure
from vrx.report.html import draw


def written(figure: Figure) -> list[Text]:
    return [t for ax in figure.axes for t in ax.texts if t.get_text()]


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in written(figure)]


def marks(figure: Figure, gid: str) -> list[Patch]:
    return [p for ax in figure.axes for p in ax.patches if str(p.get_gid()).startswith(gid)]


def check_inside(figure: Figure) -> None:
    """No text leaves the page."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    for text in written(figure):
        box = text.get_window_extent(canvas.get_renderer())
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text.get_text()


def panel(explanation: Explanation, index: int = 0, **bank: Any) -> Figure:
    n, num = explanation.detected.shape
    scale = ColourScale.of(explanation, range(n))
    return class_figure(explanation, make_bank(n, num, **bank), index, scale)


def only(scores: list[float], **change: Any) -> Explanation:
    """Three classes, all four concepts found, class 0 with the given contributions and no relations."""
    nodes = np.zeros((3, 3, 4), np.float32)
    nodes[0, 0] = scores
    places = np.random.default_rng(0).uniform(0, 1, (3, 4, 2)).astype(np.float32)
    values: dict[str, Any] = {
        "node_scores": nodes,
        "edge_scores": np.full((3, 3, 12), 5.0, np.float32),  # of which nothing is drawn
        "detected": np.ones((3, 4), bool),
        "centroids": places,
        "measured": np.ones((3, 4), np.float32),
    }
    return make_explanation(3, 4, seed=3, **{**values, **change})


def test_disc_colours_follow_the_sign_on_one_scale_around_zero() -> None:
    figure = panel(only([3.0, -3.0, 0.0, 1.5]))
    colours = {p.get_gid(): np.array(to_rgb(p.get_facecolor())) for p in marks(figure, "disc")}
    blue, red, none, weak = (colours[f"disc {k}"] for k in (1, 2, 3, 4))
    assert blue[2] > blue[0] + 0.2 and red[0] > red[2] + 0.2
    assert np.ptp(none) < 0.02  # grey: neither
    assert weak[2] > weak[0] and weak.mean() > blue.mean()
    in_table = [to_rgb(p.get_facecolor()) for p in marks(figure, "row")]
    np.testing.assert_allclose(in_table, [blue, red, none, weak])


def test_every_concept_carries_its_number_and_sign() -> None:
    signs = {t.get_gid(): t.get_text() for t in written(panel(only([3.0, -3.0, 0.0, 1.5]))) if t.get_gid()}
    assert signs == {"sign 1": "+", "sign 2": "−", "sign 3": "0", "sign 4": "+"}


def test_a_concept_that_was_not_found_is_listed_apart() -> None:
    found = np.ones((3, 4), bool)
    found[0, 1] = False
    figure = panel(only([1, 0, 2, 3], detected=found))
    assert {p.get_gid() for p in marks(figure, "disc")} == {"disc 1", "disc 3", "disc 4"}
    below = next(t for t in written(figure) if t.get_text() == "Not found in this photo:")
    after = [
        t.get_text() for t in written(figure) if t.axes is below.axes and t.get_position()[1] > below.get_position()[1]
    ]
    assert after == ["2"]
    assert "Not found in this photo:" not in texts(panel(only([1, 0, 2, 3])))


def test_a_place_without_a_concept_is_not_listed_as_missing() -> None:
    found = np.ones((3, 4), bool)
    found[0, 3] = False  # make_bank(missing=True) has no fourth concept of the first class
    assert "Not found in this photo:" not in texts(panel(only([1, 2, 3, 0], detected=found), missing=True))


def test_one_scale_for_all_panels() -> None:
    explanation = make_explanation(3, 4, edge_scores=np.zeros((3, 3, 12), np.float32))
    scale = ColourScale.of(explanation, [0, 1, 2])
    own = explanation.node_scores[np.arange(3), np.arange(3)]
    assert scale.limit == pytest.approx(np.abs(own).max())
    assert scale.effect == pytest.approx(max(own.max(), np.nanmax(explanation.measured)))
    assert scale.lowest == pytest.approx(min(own.min(), np.nanmin(explanation.measured)))
    zero = np.zeros((3, 3, 4), np.float32)
    assert ColourScale.of(only([0, 0, 0, 0], node_scores=zero), [0]).limit == 1.0


def test_contribution_and_measured_effect_stand_side_by_side() -> None:
    measured = np.full((3, 4), np.nan, np.float32)
    measured[0] = [2.1, np.nan, -0.7, 0.0]
    shown = texts(panel(only([1.8, -0.9, 0.33, 5.0], measured=measured)))
    assert [t for t in shown if t in ("+1.8", "−0.9", "+0.3", "+5.0")] == ["+1.8", "−0.9", "+0.3", "+5.0"]
    assert [t for t in shown if t in ("+2.1", "not measured", "−0.7", "0.0")] == ["+2.1", "not measured", "−0.7", "0.0"]


def test_bars_are_as_long_as_their_numbers_on_both_sides_of_zero() -> None:
    measured = np.full((3, 4), 0.5, np.float32)
    measured[0] = [2.0, -1.0, 4.0, 1.0]
    figure = panel(only([4.0, -2.0, 1.0, 3.0], measured=measured))
    bars = marks(figure, "bar")
    lengths = np.array([bar.get_width() for bar in bars])
    np.testing.assert_allclose(lengths / lengths[0], np.array([4, 2, -2, -1, 1, 4, 3, 1]) / 4, rtol=1e-5)
    assert len({round(bar.get_x(), 6) for bar in bars}) == 1


def test_titles_and_the_label() -> None:
    explanation = make_explanation(6, 6, 299, true_class=5)
    assert "Why fire engine?" in texts(panel(explanation))
    assert f"Why not {NAMES[5]}?" in texts(panel(explanation, 5))
    assert any("(the label)" in t for t in texts(panel(explanation, 5)))
    assert f"label: {NAMES[5]} ✗" in texts(photo_figure(explanation, ColourScale(1, 1)))


def test_probabilities_of_both_networks_and_always_the_label(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.array([5.0, 4, 3, 2, 1, 0])
    explanation = make_explanation(6, 4, logits=logits, grn_logits=logits[::-1].copy(), true_class=5)
    figure = photo_figure(explanation, ColourScale(1, 1))
    bars = np.array([bar.get_width() for bar in marks(figure, "bar")]).reshape(6, 2).T
    shares = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(bars / bars[0, 0], [shares / shares[0], shares[::-1] / shares[0]])
    monkeypatch.setattr(figures, "MOST_BARS", 3)
    names = [t for t in texts(photo_figure(explanation, ColourScale(1, 1))) if t in NAMES]
    assert names == [NAMES[0], NAMES[1], NAMES[5]]


@pytest.mark.parametrize("size", [(128, 128), (90, 160)])
@pytest.mark.parametrize("scores", [[3.0, 2.0, 1.0, 0.5], [-123.4, 99.2, 0.01, -0.3]])
def test_no_text_leaves_the_page(size: tuple[int, int], scores: list[float]) -> None:
    names = (
        "a remarkably long class name, longer than a panel",
        "trailer truck, tractor trailer, trucking rig, articulated lorry, semi",
        "$c_{^",
    )
    masks = np.zeros((3, 4, *size), bool)
    masks[:, :, 20:50, 30:60] = True
    image = np.full((*size, 3), 99, np.uint8)
    photo: dict[str, Any] = {"image": image, "masks": masks, "name": "x" * 200}
    explanation = only(scores, class_names=names, **photo)
    scale = ColourScale.of(explanation, [0, 1, 2])
    drawn = [photo_figure(explanation, scale), panel(explanation), words_figure(explanation, [0, 1, 2], 15)]
    for figure in [*drawn, gallery_figure(make_bank(), 0)]:
        check_inside(figure)


def test_names_stay_text() -> None:
    """Neither mathematics nor an error of its parser."""
    explanation = only([1, 2, 3, 4], class_names=("a$b", "$c$", "d_^{"))
    assert "Why not $c$?" in texts(panel(explanation, 1))
    for part in map(draw, explanation_figures(explanation, make_bank(), [0, 1, 2])):
        assert part.dtype == np.uint8
    assert not any(t.get_parse_math() for t in written(panel(explanation, 1)) if "$" in t.get_text())


def test_discs_are_pushed_apart_inside_the_photo() -> None:
    moved = spread(np.array([[64.0, 64.0]] * 4 + [[0.0, 0.0], [128, 128]]), 20, (128, 128), 8)
    distance = np.hypot(*(moved[:, None] - moved[None]).T) + np.eye(6) * 99
    assert distance.min() >= 20 * 0.99
    assert moved.min() >= 8 and moved.max() <= 120
    apart = np.array([[30.0, 30.0], [90.0, 90.0]])
    np.testing.assert_allclose(spread(apart, 20, (128, 128), 8), apart, atol=0.01)


def test_the_photo_is_drawn_upright_in_its_place() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    image[:50, :50] = (255, 0, 0)  # upper left
    explanation = only([1, 1, 1, 1], image=image, masks=np.ones((3, 4, 100, 100), bool))
    pixels = draw(photo_figure(explanation, ColourScale(1, 1)))
    top, left, side = (round(140 * inches) for inches in (0.12 + figures.TITLE, 0.12, figures.WIDTH))
    photo = pixels[top : top + side, left : left + side]
    quarter = side // 4
    assert photo[quarter, quarter].tolist() == [255, 0, 0]
    assert photo[quarter, 3 * quarter].tolist() == photo[3 * quarter, quarter].tolist() == [0, 0, 0]


def test_outlines_follow_the_mask_to_the_edge_of_the_photo() -> None:
    masks = np.zeros((3, 4, 128, 128), bool)
    masks[0, 0, 30:60, 40:90], masks[0, 1], masks[0, 2, 5, 5] = True, True, True
    masks[0, 3, 9, 9] = True
    figure = panel(only([1, 2, 3, 4], masks=masks))
    outlines = [c for ax in figure.axes for c in ax.collections if c.get_gid() == "outline"]
    corners = [np.concatenate([p.vertices for p in c.get_paths()]) for c in outlines]  # the weakest first
    assert len(corners) == 4
    np.testing.assert_allclose(corners[0].min(0), [40, 30], atol=0.6)
    np.testing.assert_allclose(corners[0].max(0), [90, 60], atol=0.6)
    np.testing.assert_allclose([corners[1].min(), corners[1].max()], [0, 128], atol=0.6)


def test_odd_input_draws() -> None:
    """Nothing found, NaN scores, no exemplars: no warning (they are errors)."""
    unknown = only([np.nan, 1, 2, 3], measured=np.full((3, 4), np.nan, np.float32))
    nothing = make_explanation(3, 4, detected=np.zeros((3, 4), bool))
    for explanation, bank in ((unknown, make_bank(missing=True)), (nothing, make_bank(exemplars=0))):
        for figure in explanation_figures(explanation, bank, [0, 1, 2]):
            draw(figure)
    assert "none of its concepts was found" in texts(panel(nothing))


def test_the_sheet_holds_every_part_unchanged_side_by_side() -> None:
    explanation = make_explanation(3, 4)
    parts = [draw(figure) for figure in explanation_figures(explanation, make_bank(), [0, 1])]
    page_pixels = sheet(explanation, [0, 1], parts)
    head = len(page_pixels) - max(len(part) for part in parts)
    left = 0
    for part in parts:
        np.testing.assert_array_equal(page_pixels[head : head + len(part), left : left + part.shape[1]], part)
        left += part.shape[1] + round(0.15 * 140)
    assert page_pixels.shape[1] == left and (page_pixels[:head] < 128).any()


def test_gallery_marks_what_is_not_significant_or_missing() -> None:
    bank = make_bank(missing=True)
    bank.p_value[0] = [0.0004, 0.049, 0.05, 1.0]
    shown = texts(gallery_figure(bank, 0))
    assert "p < 0.001" in shown and "p = 0.049" in shown
    assert "p = 0.050: not significant" in shown
    assert "4" not in shown and "3 of 4 concepts: 1 more could not be found." in shown
    bank.p_value[1, 0] = np.nan
    assert "p not measured" in texts(gallery_figure(bank, 1))


LONG = "a <b>remarkably</b> long $name$ of a concept, longer than a panel"
NAMED = [["ladder", "", LONG, "x"], ["", "cross", "", LONG], [""] * 4]


def named(explanation: Explanation, index: int) -> Figure:
    """The panel of a class with the concepts called ``NAMED``."""
    bank = replace(make_bank(), names=NAMED)
    return class_figure(explanation, bank, index, ColourScale.of(explanation, range(3)))


def test_names_stand_with_their_concepts() -> None:
    found = np.ones((3, 4), bool)
    found[1, 1:] = False
    explanation = only([4.0, -2.0, 1.0, 3.0], detected=found)
    own = {t.get_gid(): t.get_text() for t in written(named(explanation, 0)) if str(t.get_gid()).startswith("name")}
    head, _, tail = own.pop("name 3").partition("…")
    assert len(head) > 5 and LONG.startswith(head) and LONG.endswith(tail)
    assert own == {"name 1": "ladder", "name 4": "x"}
    assert texts(named(explanation, 1)).count("cross") == 1  # below its patch, among those not found
    assert not any("ladder" in t for t in texts(named(explanation, 1)))
    assert "ladder" in texts(gallery_figure(replace(make_bank(), names=NAMED), 0))


def test_names_leave_the_lengths_of_the_bars_alone() -> None:
    explanation = only([4.0, -2.0, 1.0, 3.0])
    plain, with_names = (marks(figure, "bar") for figure in (panel(explanation), named(explanation, 0)))
    for before, after in zip(plain, with_names, strict=True):
        assert before.get_bbox().width == after.get_bbox().width and before.get_x() == after.get_x()


def test_a_text_that_fits_is_as_long_as_can_be() -> None:
    assert fit("wheels", 1, 9) == "wheels" and fit("", 1, 9) == ""
    narrow, wide = fit("i" * 60, 1, 9), fit("W" * 60, 1, 9)
    assert len(narrow) > 2 * len(wide) > 10 and "…" in wide
    assert fit("W" * 60, 0.01, 9) == "W"


@pytest.mark.parametrize("scores", [[3.0, 2.0, 1.0, 0.5], [-123.4, 99.2, 0.01, -0.3]])
def test_no_name_leaves_the_page(scores: list[float]) -> None:
    found = np.ones((3, 4), bool)
    found[1] = False
    names = [[LONG.upper()] * 4] * 3
    bank = replace(make_bank(), names=names, notes={NAMES[0]: LONG * 4}, featureless={"blur": [0.9, 0.1, 0]})
    bank.radius[0, 2:] = -1
    explanation = only(scores, detected=found, presence=np.full((3, 4), 0.3, np.float32), names=tuple(names))
    scale = ColourScale.of(explanation, [0, 1, 2])
    drawn = [class_figure(explanation, bank, c, scale) for c in (0, 1)]
    for figure in [*drawn, gallery_figure(bank, 0), words_figure(explanation, [0, 1, 2], 15)]:
        check_inside(figure)


def test_what_may_be_there_is_marked_and_the_key_says_so() -> None:
    found = np.ones((3, 4), bool)
    found[0, 1:] = False
    presence = np.array([[0.9, 0.25, 0.24, 0.49]] * 3, np.float32)
    explanation = only([1, 0, 0, 0], detected=found, presence=presence)
    figure = panel(explanation)
    dashed = {p.get_gid(): p.get_linestyle() not in ("-", "solid") for p in marks(figure, "missing")}
    assert dashed == {"missing 2": True, "missing 3": False, "missing 4": True}
    assert texts(figure).count("perhaps") == 2
    scale = ColourScale(1, 1)
    assert any("0.25 to 0.5" in t for t in texts(photo_figure(explanation, scale)))
    assert not any("perhaps" in t for t in texts(photo_figure(only([1, 0, 0, 0]), scale)))


def test_a_class_without_concepts_of_its_own() -> None:
    exists = np.ones((3, 4), bool)
    exists[0] = False
    bank = make_bank()
    bank.radius[0] = -1
    explanation = only([0] * 4, detected=np.zeros((3, 4), bool), exists=exists, fallback=0)
    shown = texts(class_figure(explanation, bank, 0, ColourScale(1, 1)))
    assert "it has no concepts of its own" in shown and "Not found in this photo:" not in shown
    assert any("is called fire engine, too" in t.replace("\n", " ") for t in shown)
    assert "none of its concepts was found" in texts(class_figure(explanation, bank, 1, ColourScale(1, 1)))
    check_inside(class_figure(explanation, bank, 0, ColourScale(1, 1)))
    blank = replace(bank, featureless={"grey": [0.9, 0.1, 0.0]}, notes={NAMES[0]: "nothing in common"})
    gallery = gallery_figure(blank, 0)
    said = "No concepts of its own: nothing in common. A photo without any detail is called fire engine."
    assert texts(gallery) == ["Concepts of fire engine", said]


def test_a_gallery_is_red_only_where_a_test_failed() -> None:
    bank = make_bank()
    bank.p_value[0] = [0.01, np.nan, 0.2, 0.0004]
    red = [t.get_text() for t in written(gallery_figure(bank, 0)) if t.get_color() == WEAK]
    assert red == ["p = 0.20: not significant"]
