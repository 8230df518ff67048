"""Relations and what is missing: which are shown, in which words, with which marks; expectations made by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from tests.report.synthetic import make_bank, make_explanation, make_gain, make_relations
from tests.report.test_figures import check_inside, marks, texts
from vrx.explain.structure import confirmed
from vrx.explanation import Explanation
from vrx.reasons import (
    MOST_ARROWS,
    contrary_relations,
    gains_if_there,
    opponents,
    shown_relations,
    wanted,
    welcome_absences,
)
from vrx.report.drawing import ColourScale, draw_relation, page
from vrx.report.figures import class_figure, photo_figure
from vrx.report.trust import trust
from vrx.report.words import panel_text, sentence, trust_line

PLACES = [(0.2, 0.2), (0.8, 0.2), (0.2, 0.8), (0.75, 0.75)]  # 1 top left, 2 top right, 3 bottom left, 4 bottom right
OWN = (1, 2, 3, 4)  # labels of the patches of the first class's concepts; the second class has 5 to 8
NAMED = (("ladder", "cab", "wheels", ""), ("cross", "", "lights", ""), ("",) * 4)


def make(**change: Any) -> Explanation:
    """Three classes x four concepts at PLACES, the first predicted, its relations those of ``change``."""
    relations = {k: change.pop(k) for k in ("together", "placed", "together_measured", "placed_measured", "noise")
                 if k in change}  # fmt: skip
    nodes = np.zeros((3, 3, 4))
    nodes[0, 0], nodes[1, 1] = [2.0, 0, 0, 0], [-1.0, 0, 0, 0]
    values: dict[str, Any] = {
        "logits": np.array([3.0, 1.0, 0.0]),
        "node_scores": nodes,
        "measured": np.full((3, 4), np.nan, np.float32),
        "detected": np.ones((3, 4), bool),
        "centroids": np.tile(np.array(PLACES, np.float32), (3, 1, 1)),
        "relations": make_relations(range(1, 9), **relations),
        "true_class": None,
    }
    return make_explanation(3, 4, size=64, **{**values, **change})


def found(explanation: Explanation, index: int = 0) -> list[tuple[int, int, bool, float]]:
    return [(r.source + 1, r.target + 1, r.arranged, r.predicted) for r in shown_relations(explanation, index)]


def only(value: float, index: int = 0) -> list[float]:
    return [value if c == index else 0.0 for c in range(3)]


def test_shown_is_what_stands_clear_of_the_noise_strongest_first() -> None:
    explanation = make(
        together={(1, 2): only(0.56), (3, 4): only(0.37), (1, 4): only(-0.55)}, placed={(2, 1): only(0.8)}, noise=0.15
    )  # 2.5 times the noise is .375; the other fill measures .15 more: -.4 of the last
    assert found(explanation) == [(1, 2, True, 0.8), (1, 2, False, 0.56), (1, 4, False, -0.55)]
    assert found(explanation, 1) == []


def test_nothing_below_a_tenth_of_a_logit_is_shown() -> None:
    assert found(make(together={(1, 2): only(0.09), (1, 3): only(0.11)})) == [(1, 3, False, 0.11)]


def test_an_arrangement_starts_at_the_one_whose_place_counts_more() -> None:
    explanation = make(placed={(1, 2): only(-0.9), (2, 1): only(0.8), (4, 3): only(math.nan), (3, 4): only(0.4)})
    assert found(explanation) == [(2, 1, True, -0.9), (4, 3, True, 0.4)]


def test_relations_to_patches_of_other_classes_or_of_none_are_not_shown() -> None:
    matched = np.array([[1, 2, -1, 9], [5, 6, 7, 8], [1, 2, 3, 4]])  # of the first class: 3 missing, 4 no player
    together = {(1, 2): only(0.3), (1, 3): only(5.0), (1, 5): only(6.0)}
    assert found(make(together=together, matched=matched)) == [(1, 2, False, 0.3)]


def test_at_most_five_are_shown_and_none_where_nobody_asked() -> None:
    together = {(a, b): only(a + b / 10) for a in OWN for b in OWN if a < b}
    assert len(together) == 6
    shown = found(make(together=together))
    assert len(shown) == MOST_ARROWS and shown[0] == (3, 4, False, 3.4) and (1, 2, False, 1.2) not in shown
    unasked = make(relations=None)
    assert found(unasked) == [] and "relation" not in sentence(unasked) and "elation" not in trust_line(unasked)


def test_the_sentence_names_the_two_strongest_pairs_with_their_kind() -> None:
    """1 and 3 count together as well; how they lie says more."""
    explanation = make(
        placed={(3, 1): only(3.0)},
        placed_measured={(3, 1): only(3.1)},
        together={(1, 3): only(0.8), (1, 2): only(0.5)},
    )
    assert sentence(explanation, [0]).endswith(
        "Supported by its concept 1. 1 counts because it lies above 3: −3.1 when it is moved; "
        "1 and 2 count together (+0.5)."
    )
    named = replace(explanation, names=NAMED)
    assert sentence(named, [0]).endswith(
        "The ladder (1) counts because it lies above the wheels (3): −3.1 when it is moved; "
        "the ladder (1) and the cab (2) count together (+0.5)."
    )


def test_relations_against_the_class_and_several_things() -> None:
    explanation = make(placed={(2, 3): only(-1.2)}, together={(1, 2): only(-0.7)}, names=NAMED)
    assert sentence(explanation, [0]).endswith(
        "The wheels (3) count against it because they lie below the cab (2): +1.2 when they are moved; "
        "the ladder (1) and the cab (2) count less together (−0.7)."
    )


def test_what_the_classifier_does_not_confirm_is_not_said() -> None:
    opposite = make(together={(1, 2): only(0.8)}, together_measured={(1, 2): only(-0.8)})
    assert sentence(opposite, [0]).endswith(
        "The classifier confirms none of the relations that the graph network expects."
    )
    within = make(together={(1, 2): only(0.8), (3, 4): only(0.5)}, together_measured={(1, 2): only(0.2)}, noise=0.15)
    assert sentence(within, [0]).endswith("3 and 4 count together (+0.5).")


def test_that_no_relation_matters_is_said() -> None:
    text = "No relation between concepts stands clear of the noise."
    assert sentence(make(), [0, 1]).count(text) == 1
    assert text not in sentence(make(together={(5, 6): only(1.0, 1)}), [0, 1])
    assert text in texts(panel(make(), 0)) and text not in texts(panel(make(relations=None), 0))


def panel(explanation: Explanation, index: int = 0) -> Any:
    return class_figure(explanation, make_bank(3, 4), index, ColourScale.of(explanation, range(3)))


@pytest.mark.parametrize(("source", "target", "score"), [(1, 2, 2.0), (2, 1, 2.0), (3, 4, -1.0)])
def test_an_arrow_points_from_the_one_whose_place_counts(source: int, target: int, score: float) -> None:
    figure = panel(make(placed={(target, source): only(score)}))
    photo = figure.axes[1]
    heads, lines = ([p for p in photo.patches if p.get_gid() == gid] for gid in ("head", "arrow"))
    (head,), (line,) = heads, lines
    start, tip = line.get_path().vertices[0], head.get_path().vertices
    at = np.array(PLACES) * 64
    reach = 0.1 * 64
    assert np.hypot(*(start - at[source - 1])) < reach
    assert np.hypot(*(tip - at[target - 1]).T).min() < reach < np.hypot(*(tip - at[source - 1]).T).min()
    assert (line.get_linestyle() == "-") == (score > 0)  # dashed: opposes
    colour = to_rgb(head.get_facecolor())
    assert (colour[2] > colour[0]) == (score > 0)
    assert not [p for p in photo.patches if p.get_gid() == "line"]


def test_what_counts_together_is_a_line_without_a_head() -> None:
    photo = panel(make(together={(1, 4): only(0.8)})).axes[1]
    assert [p.get_gid() for p in photo.patches if p.get_gid() in ("line", "arrow", "head")] == ["line"]


def test_short_arrows_keep_their_head() -> None:
    figure, ax = page(2, 2)
    draw_relation(ax, (0.5, 0.5), (0.7, 0.5), 0.05, 4, -1, ColourScale(1, 1))
    assert marks(figure, "head") and not marks(figure, "arrow")


def test_each_relation_has_a_row_with_both_numbers_in_the_unit_of_the_concepts() -> None:
    explanation = make(
        together={(1, 3): only(1.0)},
        together_measured={(1, 3): only(1.2)},
        placed={(4, 2): only(-0.5)},
        placed_measured={(4, 2): only(-0.4)},
        measured=np.full((3, 4), 0.5, np.float32),
    )
    figure = panel(explanation)
    shown = texts(figure)
    rows = shown[shown.index("Relations between them:") + 1 :][:8]
    assert rows == ["1 + 3", "count together", "+1.0", "+1.2", "2 above 4", "its place counts against", "−0.5",
                    "−0.4"]  # fmt: skip
    lengths = np.array([bar.get_width() for bar in marks(figure, "bar")])
    np.testing.assert_allclose(lengths[[0, -3, -2, -1]] / lengths[0], [1, 0.6, -0.25, -0.2])
    assert panel_text(explanation, 0).endswith(
        "1 + 3: count together (contribution +1.0, measured +1.2). "
        "2 above 4: its place counts against (contribution −0.5, measured −0.4)."
    )


def test_the_key_explains_relations_where_they_were_asked_for() -> None:
    scale = ColourScale(1, 1)
    asked, unasked = (photo_figure(explanation, scale) for explanation in (make(), make(relations=None)))
    assert len(marks(asked, "head")) == 2 == len(marks(asked, "line")) and not marks(unasked, "head")
    assert any("count together" in t for t in texts(asked)) and not any("together" in t for t in texts(unasked))
    check_inside(asked)
    check_inside(unasked)


def test_the_largest_relation_is_on_the_scale() -> None:
    together = {(1, 2): only(4.0)}
    scale = ColourScale.of(make(together=together, together_measured={(1, 2): only(5.0)}), [0, 1])
    assert (scale.limit, scale.effect) == (4.0, 5.0)


GAINS = (
    make_gain(1, 3, [-0.2, 0.5, 0], [-0.05, 1.5, 0]),
    make_gain(1, 2, [-0.2, 0.6, 0], [-1.2, 2.4, 0], 0.3),
    make_gain(1, 1, [0, 0.6, 0], [0, 0.29, 0], 0.3),  # within the noise
    make_gain(1, 1, [0, -0.1, 0], [0, 2.0, 0]),  # the network expects the opposite
    make_gain(2, 0, [0.1, 0.2, 0.3], [-0.6, 0, 0.3]),
)


def lacking(**change: Any) -> Explanation:
    found = np.ones((3, 4), bool)
    found[1, 1:], found[2, 0] = False, False
    return make(detected=found, counterfactuals=GAINS, **change)


def test_what_is_missing_comes_by_measured_gain() -> None:
    assert [(c.concept, c.measured[1]) for c in wanted(lacking(), 1)] == [(2, 2.4), (3, 1.5)]
    mirrored = [make_gain(1, 0, only(0.4, 1), anchor=2), make_gain(1, 2, only(0.9, 1), anchor=0)]
    (reason,) = wanted(make(counterfactuals=mirrored), 1)
    assert reason.concept == 2, "that 1 lies above 3 and 3 below 1 is one reason: the one with the larger gain"
    alike = [make_gain(1, 0, only(0.4, 1)), make_gain(1, 2, only(0.9, 1)), make_gain(1, 3, only(0.5, 1))]
    names = (("",) * 4, ("ball", "", "ball", ""), ("",) * 4)
    assert [c.concept for c in wanted(make(counterfactuals=alike, names=names), 1)] == [2, 3], "one ball is missing"
    many = make(counterfactuals=[make_gain(1, k, only(k + 1.0, 1)) for k in range(4)])
    assert [c.concept for c in wanted(many, 1)] == [3, 2, 1]


def test_why_not_says_what_is_missing() -> None:
    assert sentence(lacking(), [1]).endswith(
        "Why not ambulance? Opposed by its concept 1. Its concepts 3 and 4 are missing (+2.4 and +1.5 if they were "
        "there)."
    )
    both = "No lights (+2.4 if there were any); its concept 4 is missing (+1.5 if it were there)."
    assert both in sentence(lacking(names=NAMED), [1])
    one = make(counterfactuals=[make_gain(1, 0, only(2.4, 1))], names=NAMED)
    assert "No cross (+2.4 if there were one)." in sentence(one, [1])


def test_why_not_with_nothing_against_it_but_what_is_missing() -> None:
    scores = np.zeros((3, 3, 4))
    gains = [make_gain(1, 3, only(0.5, 1))]
    assert sentence(make(node_scores=scores, counterfactuals=gains), [1]).endswith(
        "Why not ambulance? Its concept 4 is missing (+0.5 if it were there)."
    )
    scores[1, 1, 0] = 1.0
    assert sentence(make(node_scores=scores, counterfactuals=gains), [1]).endswith(
        "Why not ambulance? Supported by its concept 1, but its concept 4 is missing (+0.5 if it were there)."
    )
    none = np.ones((3, 4), bool)
    none[1] = False
    assert sentence(make(detected=none, counterfactuals=gains), [1]).endswith(
        "Why not ambulance? None of its concepts was found. Its concept 4 is missing (+0.5 if it were there)."
    )


@pytest.mark.parametrize(
    ("concept", "at", "anchor", "by", "place", "text"),
    [
        (1, (0.2, 0.2), 2, (0.8, 0.3), (0.8, 0.05), "The cross (1) lies left of 2, not above it (+1.2 if it did)."),
        (
            2, (0.8, 0.3), 3, (0.2, 0.3), (0.2, 0.3),
            "2 lies right of the lights (3), not at the place of them (+1.2 if it did).",
        ),
        (
            3, (0.2, 0.8), 1, (0.2, 0.2), (0.6, 0.2),
            "The lights (3) lie below the cross (1), not right of it (+1.2 if they did).",
        ),
        (
            3, (0.2, 0.8), 1, (0.2, 0.2), (0.2, 0.4),
            "The lights (3) lie too far below the cross (1) (+1.2 if they were nearer).",
        ),
        (
            1, (0.2, 0.25), 3, (0.2, 0.35), (0.2, 0.05),
            "The cross (1) lies too close above the lights (3) (+1.2 if it were farther).",
        ),
        (
            1, (0.2, 0.2), 2, (0.8, 0.3), (0.2, 0.3),
            "The cross (1) lies left of 2, but not where it should (+1.2 if it did).",
        ),
    ],
)  # fmt: skip
def test_why_not_says_what_lies_elsewhere(
    concept: int, at: tuple[float, float], anchor: int, by: tuple[float, float], place: tuple[float, float], text: str
) -> None:
    moved = make_gain(1, concept - 1, only(0.9, 1), only(1.2, 1), 0.1, anchor - 1, place)
    places = np.full((3, 4, 2), 0.5, np.float32)
    places[1, concept - 1], places[1, anchor - 1] = at, by
    explanation = make(counterfactuals=[moved], names=NAMED, centroids=places)
    assert sentence(explanation, [1]).endswith(f"Opposed by its concept cross (1). {text}")


def test_why_not_names_a_relation_against_it_where_nothing_is_missing() -> None:
    explanation = make(placed={(6, 5): only(-0.9, 1)})
    assert sentence(explanation, [1]).endswith(
        "Opposed by its concept 1. 1 counts against it because it lies left of 2: +0.9 when it is moved."
    )
    assert "moved" not in sentence(replace(explanation, counterfactuals=GAINS), [1])


def test_absences_that_speak_for_the_prediction() -> None:
    assert [(c.graph, c.concept) for c in welcome_absences(lacking())] == [(1, 2)]
    assert sentence(lacking(names=NAMED), [0]).endswith(
        "No relation between concepts stands clear of the noise. The photo shows no lights (ambulance): −1.2 if it did."
    )
    two = (*GAINS, make_gain(2, 1, [-0.1, 0, 0.3], [-2.0, 0, 0.3]))
    assert sentence(replace(lacking(), counterfactuals=two), [0]).endswith(
        "The photo shows no concept 2 of school bus and no concept 3 of ambulance: −2.0 and −1.2 if it did."
    )


def test_each_missing_concept_shows_what_it_would_gain() -> None:
    assert gains_if_there(lacking(), 2) == {0: (0.3, True)}
    figure = panel(lacking(), 1)
    shown = texts(figure)
    below = shown[shown.index("Not found in this photo:") + 1 :]
    assert below[:6] == ["2", "+2.0 if there", "3", "+2.4 if there", "4", "+1.5 if there"]
    check_inside(figure)


@pytest.mark.parametrize(
    ("measured", "level", "text"),
    [
        ([3.0, 2.0, 1.0, 0.5], "high", "ranked like the measured interactions (Spearman 0.82 over 6 pairs)"),
        ([-3.0, -2.0, -1.0, 0.5], "low", "ranked unlike the measured interactions"),
    ],
)
def test_trust_in_relations_is_apart(measured: list[float], level: str, text: str) -> None:
    ends = [(1, 2), (1, 3), (1, 4), (2, 3)]
    together = {end: only(value) for end, value in zip(ends, [3.0, 2.0, 1.0, -0.5], strict=True)}
    after = {end: only(value) for end, value in zip(ends, measured, strict=True)}
    explanation = make(relations=make_relations(OWN, together=together, together_measured=after))
    result = trust(explanation)
    assert result.relations_level == level and text in result.relations
    assert result.level == trust(replace(explanation, relations=None)).level
    assert f" Relations: {level}. Pairs of concepts are {text}" in trust_line(explanation)


def test_two_players_are_too_few_to_rank() -> None:
    assert trust(make(relations=make_relations((1, 2), together={(1, 2): only(1.0)}))).relations == ""


def test_a_relation_that_one_fill_alone_confirms_is_not_shown() -> None:
    both = make(together={(1, 2): only(0.6)}, placed={(2, 1): only(0.7)})
    assert found(both) == [(1, 2, True, 0.7), (1, 2, False, 0.6)]
    nothing = np.zeros_like(both.relations.pairs_second)  # by the other fill; over 56 pairs that is little noise
    assert found(replace(both, relations=replace(both.relations, pairs_second=nothing))) == [(1, 2, True, 0.7)]
    assert found(replace(both, relations=replace(both.relations, placed_second=nothing))) == [(1, 2, False, 0.6)]


@pytest.mark.parametrize("which", ["moved", "moved_second"])
@pytest.mark.parametrize("cost", [0.0, -0.7, np.nan])
def test_a_place_counts_only_where_moving_costs(which: str, cost: float) -> None:
    """One of two that stand in for each other costs nothing when it is moved, and more where the other is gone."""
    both = make(together={(1, 2): only(0.6)}, placed={(2, 1): only(0.7)})
    for_free = np.full_like(both.relations.moved, cost)
    assert found(replace(both, relations=replace(both.relations, **{which: for_free}))) == [(1, 2, False, 0.6)]
    against = make(placed={(2, 1): only(-0.7)})  # the class gains when it is moved
    assert found(against) == [(1, 2, True, -0.7)]
    assert not found(replace(against, relations=replace(against.relations, **{which: for_free + 0.7})))


def test_a_concept_of_another_class_that_speaks_against_a_class_is_a_reason() -> None:
    """Concept 2 of the predicted class (patch 2) costs the second class 2.2; that of patch 3 alone by prediction."""
    main, measured = np.zeros((8, 3)), np.zeros((8, 3))
    main[1, 1], measured[1, 1] = -2.0, -2.2
    main[2, 1], measured[2, 1] = -3.0, 0.4
    main[4, 1], measured[4, 1] = -4.0, -4.0  # patch 5: a concept of the class itself, which its own bar says
    both = make_relations(range(1, 9), main=main, main_measured=measured)
    explanation = make(relations=both)
    assert opponents(explanation, 1) == [(0, 1, -2.2)] and opponents(explanation, 2) == []
    assert (
        "Why not ambulance? Opposed by its concept 1. Concept 2 of fire engine speaks against it (−2.2)."
        in sentence(explanation)
    )
    named = replace(explanation, names=NAMED, node_scores=np.abs(explanation.node_scores))
    assert sentence(named, [1]).endswith(
        "Supported by its concept cross (1), but the cab (2 of fire engine) speaks against it (−2.2)."
    )
    noisy = make(relations=make_relations(range(1, 9), noise=1.0, main=main, main_measured=measured))
    assert opponents(noisy, 1) == [], "two fills differ by 1: nothing below 2.5 is clear of that"
    assert opponents(make(relations=None), 1) == []


def test_a_relation_of_the_predicted_class_that_speaks_against_another_one_is_a_reason() -> None:
    """Concepts 1 and 2 of the fire engine count against an ambulance, and so does it that 3 lies below 1."""
    explanation = make(
        together={(1, 2): only(-1.5, 1), (2, 4): only(2.0, 1)},
        placed={(1, 3): only(-1.0, 1)},
        node_scores=np.zeros((3, 3, 4)),
    )
    against = contrary_relations(explanation, 1)
    assert [(r.source, r.target, r.arranged, r.predicted) for r in against] == [(0, 1, False, -1.5), (2, 0, True, -1.0)]
    assert contrary_relations(explanation, 2) == [] and confirmed(explanation, 1) and not confirmed(explanation, 2)
    assert "Concept 1 and concept 2 of fire engine speak against it together (−1.5)." in sentence(explanation, [1])
    assert "The ladder and the cab (1 and 2 of fire engine) speak against it together (−1.5)." in sentence(
        replace(explanation, names=NAMED), [1]
    )
    arranged = make(placed={(1, 3): only(-1.0, 1)}, node_scores=np.zeros((3, 3, 4)))
    assert "That concept 3 lies below concept 1 of fire engine speaks against it (+1.0 when it is moved)." in sentence(
        arranged, [1]
    )
    assert (
        "That the wheels lie below the ladder (3 and 1 of fire engine) speaks against it (+1.0 when they are moved)."
        in sentence(replace(arranged, names=NAMED), [1])
    )
    first = make_relations(
        range(1, 9), together={(1, 2): only(-1.5, 1)}, main=_of_patch_2(-2.0), main_measured=_of_patch_2(-2.0)
    )
    stronger = make(relations=first, node_scores=np.zeros((3, 3, 4)))
    assert "Concept 2 of fire engine speaks against it (−2.0)." in sentence(stronger, [1]), "what does most is named"


def _of_patch_2(value: float) -> np.ndarray:
    main = np.zeros((8, 3))
    main[1, 1] = value
    return main
