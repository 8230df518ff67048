"""Relations and counterfactuals of a photo in a world whose classifier counts colours and knows no relations."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests import planted
from vrx.bank import ConceptBank
from vrx.classifier.classifier import Classifier
from vrx.data.images import PhotoFolder
from vrx.data.sources import DecidingRelation
from vrx.edits import Editor
from vrx.explain import structure
from vrx.explain.absence import Typical
from vrx.explain.additions import ask_additions, calibrated, calibration_rows
from vrx.explain.contrast import relations_of, second_editor
from vrx.explain.explainer import Explainer
from vrx.explain.interactions import ClassifierGame, Players, coalitions
from vrx.explain.structure import confirmed, deciding_first, structure_metrics
from vrx.explanation import NO_RELATION, Explanation
from vrx.graphs.scg import SCGBuilder
from vrx.models.additive import AdditiveGRN
from vrx.scores import centred, margins
from vrx.structures import UNMATCHED

EDITOR = Editor("blur", 0.03)


@pytest.fixture(scope="module")
def word_bank(colour_f: Classifier, source: PhotoFolder) -> ConceptBank:
    """With rims of the discs as concepts: nothing is narrower than an edge of no width. So photos show several."""
    discovery = planted.word_discovery()
    discovery.editor = Editor("blur", 0.0)
    return discovery(colour_f, planted.word_photos(colour_f, source))


@pytest.fixture(scope="module")
def explainer(colour_f: Classifier, word_bank: ConceptBank, source: PhotoFolder) -> Explainer:
    return explainer_by(EDITOR, colour_f, word_bank, source)


def explainer_by(editor: Editor, colour_f: Classifier, word_bank: ConceptBank, source: PhotoFolder) -> Explainer:
    extractor = planted.word_discovery().extractor
    builder = SCGBuilder(colour_f, word_bank, extractor, editor, ("head_area", "shape"), rest=True, relations=True)
    torch.manual_seed(0)
    n, num, width = 3, builder.num_nodes, builder.node_features
    grn = AdditiveGRN(n, num, width, link_features=builder.link_features)
    tables = planted.graphs_table(builder, source, "train")
    return Explainer(colour_f, builder, grn, editor, typical=Typical.of(tables, word_bank.num_concepts, 3))


@pytest.fixture(scope="module")
def explained(explainer: Explainer, source: PhotoFolder) -> list[Explanation]:
    return [explainer.explain(p.path, true_class=p.label) for p in source.photos("test")[:6]]


def test_measured_relations_are_those_of_photos_edited_by_hand(explainer: Explainer, source: PhotoFolder) -> None:
    x = explainer.read(source.read(source.photos("test")[0]))
    graphs = explainer.builder(x[None], [explainer.superpixels(x)])
    players = Players.of(graphs, 0, 6)
    game = ClassifierGame(explainer.classifier, EDITOR, x, players)
    members = coalitions(len(players))
    values = game(~members, np.full(len(members), -1))
    for row, some in zip(values, members, strict=True):
        gone = torch.from_numpy(players.masks[~some].any(0))
        expected = centred(explainer.classifier(EDITOR.delete(x[None], gone[None])).double())[0]
        np.testing.assert_allclose(row, expected.detach(), atol=1e-4)
    for k in np.flatnonzero(players.movable).tolist():
        mask, way = torch.from_numpy(players.masks[k : k + 1]), torch.from_numpy(players.offsets[k : k + 1])
        moved = EDITOR.move(x[None], mask, way)[0]
        got = game(np.zeros((1, len(players)), bool), np.array([k]))
        np.testing.assert_allclose(got, centred(explainer.classifier(moved).double()).detach(), atol=1e-4)


def test_a_classifier_that_counts_colours_has_no_relations(
    colour_f: Classifier, word_bank: ConceptBank, source: PhotoFolder
) -> None:
    """Holes are grey, with hard edges: a blurred hole holds the colour of the piece beside it, which is a relation."""
    explainer = explainer_by(Editor("grey", 0.0), colour_f, word_bank, source)
    explained = [explainer.explain(p.path, true_class=p.label) for p in source.photos("test")[:6]]
    seen = [e for e in explained if e.relations is not None]
    assert seen, "some photos show two concepts"
    for explanation in seen:
        relations = explanation.relations
        assert relations is not None and relations.shares[0] > 0.95
        assert set(relations.labels.tolist()) <= set(explanation.matched[explanation.detected].tolist())
        total = relations.main.sum(0) + relations.pairs.sum((0, 1)) / 2 + relations.empty
        np.testing.assert_allclose(total, explanation.grn_logits - explanation.grn_logits.mean(), atol=1e-4)


def test_the_disc_of_another_class_is_what_is_missing(explained: list[Explanation], word_bank: ConceptBank) -> None:
    """Pasting a red disc into a photo of a leaf makes it more of a berry; the noise is what covering the place does."""
    gains = [c for e in explained for c in e.counterfactuals if c.added and c.graph != e.predicted]
    assert gains and all(c.anchor == UNMATCHED for c in gains)
    strongest = [c for c in gains if c.concept == int(np.argmax(word_bank.importance[c.graph]))]
    assert strongest and all(c.measured[c.graph] > max(c.noise[c.graph], NO_RELATION) for c in strongest)
    for c in gains:
        assert min(c.place) >= 0 and max(c.place) <= 1 and np.isfinite(c.predicted).all()


def test_put_right_against_the_photo_moved_by_hand(explainer: Explainer, explained: list[Explanation]) -> None:
    moved = [(e, c) for e in explained for c in e.counterfactuals if not c.added]
    for explanation, found in moved:
        mask = torch.from_numpy(explanation.mask(found.graph, found.concept))[None]
        here = torch.from_numpy(explanation.centroids[found.graph, found.concept])
        way = ((torch.tensor(found.place) - here) * planted.SIDE).round().long()[None]
        before = margins(torch.from_numpy(explanation.logits))
        gains = []
        for editor in (EDITOR, second_editor(EDITOR)):
            after = explainer.classifier(editor.move(explanation.x[None], mask, way)[0])[0].double()
            gains.append((margins(after) - before).detach().numpy())
        np.testing.assert_allclose(found.measured, np.mean(gains, axis=0), atol=1e-4)
        np.testing.assert_allclose(found.noise, np.abs(gains[0] - gains[1]) / 2, atol=1e-4)


def test_one_concept_has_no_relations(explainer: Explainer, source: PhotoFolder) -> None:
    x = explainer.read(source.read(source.photos("test")[0]))
    graphs = explainer.builder(x[None], [explainer.superpixels(x)])
    only = np.full_like(graphs.matched, UNMATCHED)
    only[0, 0, 0] = 0
    lonely = replace(graphs, matched=only)
    assert relations_of(explainer.classifier, EDITOR, explainer.grn, x, lonely) is None


def test_what_is_predicted_does_not_depend_on_what_is_measured(
    explainer: Explainer, explained: list[Explanation], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the classifier was asked about an edit")

    monkeypatch.setattr(ClassifierGame, "__call__", never)
    for asked in (e for e in explained if e.true_class == e.predicted and e.relations is not None):
        alone = explainer.explain_input(asked.x, true_class=asked.true_class)
        assert alone.relations is not None and asked.relations is not None
        for name in ("main", "pairs", "placed", "empty"):
            np.testing.assert_allclose(getattr(alone.relations, name), getattr(asked.relations, name), atol=1e-5)
            if name != "empty":
                assert np.isnan(getattr(alone.relations, f"{name}_measured")).all()
        pairs = list(zip(alone.counterfactuals, asked.counterfactuals, strict=True))
        assert all((a.graph, a.concept, a.anchor) == (b.graph, b.concept, b.anchor) for a, b in pairs)
        assert all(np.isnan(a.measured).all() and np.allclose(a.predicted, b.predicted, atol=1e-5) for a, b in pairs)


def test_metrics_of_structure(explained: list[Explanation]) -> None:
    metrics = structure_metrics(explained)
    assert metrics["relations/photos"] == sum(e.relations is not None for e in explained)
    added = [c for e in explained for c in e.counterfactuals if c.added]
    assert metrics["absence/counted"] == len(added)
    panels = [confirmed(e, c) for e in explained for c in e.shown() if c != e.predicted and e.present[c].any()]
    assert metrics["absence/confirmed"] == pytest.approx(np.mean(panels))
    one = next(e for e in explained if e.relations is not None)
    c = next(c for c in one.shown() if c != one.predicted)
    plain = replace(one, counterfactuals=(), node_scores=np.abs(one.node_scores))
    nothing = replace(
        plain.relations, **{k: np.zeros_like(getattr(one.relations, k)) for k in ("main", "pairs", "placed")}
    )
    assert not confirmed(replace(plain, relations=nothing), c)
    against = np.zeros_like(nothing.main)
    against[0, c] = -100.0
    spoken = replace(nothing, main=against, main_measured=against)
    assert confirmed(replace(plain, relations=spoken), c)
    assert not confirmed(replace(plain, relations=replace(spoken, main_measured=-against)), c)
    perfect = [
        replace(e, relations=replace(e.relations, pairs=e.relations.pairs_measured, placed=e.relations.placed_measured))
        for e in explained
        if e.relations is not None
    ]
    best = structure_metrics(perfect)
    if np.isfinite(best["relations/spearman"]):
        assert best["relations/spearman"] == pytest.approx(1)
    assert structure_metrics([])["relations/photos"] == 0


class Told:
    """The photos of a folder with part masks, and what is known to decide the class."""

    def __init__(self, source: PhotoFolder, relation: DecidingRelation | None) -> None:
        self.source, self.relation = source, relation

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def deciding_relation(self, label: int) -> DecidingRelation | None:
        return self.relation


def test_the_deciding_relation_is_looked_for_in_all_photos(
    explainer: Explainer, photo_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(photo_tree, tmp_path / "photos")
    folder = planted.folder_with_parts(planted.with_labels(tmp_path / "photos"))
    photos = folder.photos("test")[:6]
    assert deciding_first(explainer, cast(Any, Told(folder, None)), photos) == {}
    told = Told(folder, DecidingRelation("disc", "away from", "square"))
    shown: list[tuple[list[str], bool]] = []

    def strength(best: bool) -> Callable[..., NDArray[np.float64]]:
        def of(game: Any, players: Players, index: int) -> NDArray[np.float64]:
            photo = photos[len(shown)]
            parts = folder.parts(photo)
            names = []
            for mask in players.masks:
                on = {name: int((mask & part).sum()) for name, part in parts.items()}
                names.append(max(on, key=lambda n: on[n]) if sum(on.values()) else "")
            both = np.array([[{a, b} == {"disc", "square"} for b in names] for a in names])
            shown.append((names, bool(both.any())))
            return (both if best else ~both).astype(float)

        return of

    for best in (True, False):
        shown.clear()
        monkeypatch.setattr(structure, "_strength", strength(best))
        found = deciding_first(explainer, cast(Any, told), photos)
        share = np.mean([there for _, there in shown])
        assert found["relations/deciding_found"] == pytest.approx(share)
        assert found["relations/deciding_first"] == pytest.approx(share if best else 0.0)


def test_additions_to_training_photos_are_what_an_explanation_measures(
    explainer: Explainer, source: PhotoFolder
) -> None:
    tables = planted.graphs_table(explainer.builder, source, "train")
    photos = source.photos("train")
    tables["index"] = torch.arange(len(photos))
    rows = calibration_rows(tables["label"], seed=1)
    assert len(rows) == len(set(rows)) and {int(tables["label"][row]) for row in rows[:3]} == {0, 1, 2}
    asked = ask_additions(explainer, tables, rows[:4], lambda index: explainer.read(source.read(photos[index])))
    assert set(asked["row"].tolist()) <= set(rows[:4]) and len(asked["row"])
    compared = 0
    for row in rows[:4]:
        explanation = explainer.explain(photos[int(tables["index"][row])].path)
        measured = {(c.graph, c.concept): c.measured for c in explanation.counterfactuals if c.added}
        for place in (asked["row"] == row).nonzero()[:, 0].tolist():
            key = (int(asked["graph"][place]), int(asked["concept"][place]))
            if key in measured:  # of the classes that the explanation shows
                np.testing.assert_allclose(asked["gains"][place], measured[key], atol=1e-5)
                compared += 1
    assert compared
    assert explainer.typical is not None
    found = calibrated(explainer, tables, asked)
    assert not torch.equal(found.gains, explainer.typical.gains)
    torch.testing.assert_close(found.nodes, explainer.typical.nodes)
