"""Graphs of a photo's most probable classes alone: what a classifier and a bank of nothing else would give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import planted
from vrx.bank import ConceptBank
from vrx.classifier.activations import most_probable
from vrx.classifier.classifier import Classifier
from vrx.data.images import PhotoFolder
from vrx.data.scg_datamodule import SCGDataModule, batch_of, predicted_classes
from vrx.edits import Editor
from vrx.errors import VRXError
from vrx.explain.absence import Addition, Typical
from vrx.explain.explainer import Explainer
from vrx.graphs.scg import SCGBuilder
from vrx.models.additive import AdditiveGRN
from vrx.models.graph_network import GraphNetwork
from vrx.models.grn import GRN
from vrx.structures import SCG

SOURCES = ("head", "head_area", "gradact", "grad_diff", "shape")
SETTINGS: dict[str, Any] = {"sources": SOURCES, "rest": True, "relations": True}


def make_builder(f: Classifier, bank: ConceptBank, hypotheses: int | None = 2) -> SCGBuilder:
    extractor = planted.word_discovery().extractor if "word" in bank.state else planted.make_extractor()
    return SCGBuilder(f, bank, extractor, Editor("blur", 0.03), **SETTINGS, hypotheses=hypotheses)


def pair_bank(bank: ConceptBank, classes: list[int]) -> ConceptBank:
    """The concepts of two classes, cut out by hand."""
    arrays = {n: getattr(bank, n)[classes] for n in ("centroids", "radius", "importance", "p_value", "exemplars")}
    state = {n: v[classes] if n == "word" else v for n, v in bank.state.items()}
    return replace(bank, class_names=tuple(planted.CLASSES[c] for c in classes), **arrays, state=state, names=[],
                   parts=[], exemplar_paths=[], cutouts={}, featureless={}, notes={})  # fmt: skip


@pytest.mark.parametrize("words", [False, True])
def test_graphs_are_those_of_a_classifier_and_a_bank_of_these_classes(
    colour_f: Classifier, bank: ConceptBank, word_bank: ConceptBank, source: PhotoFolder, words: bool
) -> None:
    concepts = word_bank if words else bank
    made = make_builder(colour_f, concepts)
    x, regions = planted.inputs(colour_f, source, made.extractor.segmenter, "val")
    seen = []
    for rows, local in made.problems(x):
        ours = local(x[rows], [regions[row] for row in rows], baselines=True)
        for place, row in enumerate(rows):
            with torch.no_grad():
                classes = sorted(colour_f(x[row : row + 1])[0].argsort(descending=True)[:2].tolist())
            assert ours.scg.classes is not None and ours.scg.classes[place].tolist() == classes
            names = [planted.CLASSES[c] for c in classes]
            alone = Classifier(planted.ColourNet(), names, classes, colour_f.transform)
            theirs = make_builder(alone, pair_bank(concepts, classes), None)(x[row : row + 1], [regions[row]], True)
            for at in np.argwhere(ours.matched[place] >= 0).tolist():
                mine, other = (g.patches[b].masks[g.matched[b][tuple(at)]] for g, b in ((ours, place), (theirs, 0)))
                assert (mine == other).mean() > 0.99
            for name in ("nodes", "centroids", "detected", "links"):
                a, b = getattr(ours.scg, name)[place], getattr(theirs.scg, name)[0]
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(ours.logits[place], theirs.logits[0])
            torch.testing.assert_close(ours.baselines[place], theirs.baselines[0], atol=1e-4, rtol=1e-3)
        seen += rows
    assert sorted(seen) == list(range(len(x)))


def test_words_of_few_classes_are_found_as_among_all(
    colour_f: Classifier, word_bank: ConceptBank, source: PhotoFolder
) -> None:
    """The other words still compete for the cells: fewer hypotheses do not make more detections."""
    made = make_builder(colour_f, word_bank)
    x, regions = planted.inputs(colour_f, source, made.extractor.segmenter, "val")
    activations = colour_f.inspect(x, gradients=made.extractor.attention.gradients(colour_f))
    every = made.finder.found(colour_f, x, regions, activations)
    classes = [0, 2]
    few = made.finder.of(word_bank.of([planted.CLASSES[c] for c in classes])).found(colour_f, x, regions, activations)
    found = few.matched >= 0
    assert found.any() and (found == (every.matched[:, classes] >= 0)).mean() > 0.95
    np.testing.assert_allclose(few.presence[found], every.presence[:, classes][found], atol=0.05)


def test_gradients_of_the_most_probable_classes_alone(colour_f: Classifier, source: PhotoFolder) -> None:
    x, _ = planted.inputs(colour_f, source, planted.make_extractor().segmenter, "val")
    few, layer = colour_f.inspect(x, gradients=True, most=2), colour_f.layers[0].name
    assert few.logits.shape == (len(x), 3) and few.gradcam.shape[1] == 2
    for b, classes in enumerate(most_probable(few.logits, 2).tolist()):
        alone = Classifier(planted.ColourNet(), [planted.CLASSES[c] for c in classes], classes, colour_f.transform)
        theirs = alone.inspect(x[b : b + 1], gradients=True)
        torch.testing.assert_close(few.gradcam[b], theirs.gradcam[0])
        torch.testing.assert_close(few.grad_act_positive[layer][b], theirs.grad_act_positive[layer][0])
    local = colour_f.of([2, 0])
    assert local.class_names == ("sky", "berry") and local.fingerprint == colour_f.fingerprint
    assert torch.equal(local(x), colour_f(x)[:, [2, 0]])
    assert torch.equal(local.head_values(torch.eye(5)), colour_f.head_values(torch.eye(5))[:, [2, 0]])
    assert colour_f.class_names == planted.CLASSES, "the classifier itself is as it was"


def test_the_order_of_the_hypotheses_tells_nothing_of_the_logits() -> None:
    logits = torch.tensor([[1.0, 9.0, 3.0, 4.0], [8.0, 1.0, 2.0, 9.0]])
    assert most_probable(logits, 2).tolist() == [[1, 3], [0, 3]]
    assert most_probable(logits, 9).tolist() == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize("kind", [AdditiveGRN, GRN])
def test_a_network_takes_what_it_keeps_for_the_classes_of_each_photo(kind: type[GraphNetwork]) -> None:
    """Against a plain network of two classes that holds the parameters of these two."""
    torch.manual_seed(0)
    big = kind(2, 3, 4, link_features=2, all_classes=7).eval()
    with torch.no_grad():
        for parameter in big.parameters():
            parameter.copy_(torch.randn_like(parameter))
    lead, g = (6, 2, 3), torch.Generator().manual_seed(1)
    classes = torch.tensor([[0, 1], [1, 4], [2, 3], [0, 6], [1, 2], [3, 5]])
    parts = torch.randn(*lead, 4, generator=g), torch.rand(*lead, 2, generator=g), torch.rand(lead, generator=g) < 0.8
    scg = SCG(*parts, torch.randn(6, 2, 6, 2, generator=g), classes)
    drop = torch.rand(6, 4, 2, 3, generator=g) < 0.3
    clean, masked = big.masked(scg, drop)
    for b in range(6):
        small = kind(2, 3, 4, link_features=2).eval()
        state = {k: v[classes[b]] if v.shape[:1] == (7,) else v for k, v in big.state_dict().items()}
        assert any(v.shape[:1] == (7,) for v in big.state_dict().values())
        small.load_state_dict(state)
        one = replace(scg[b : b + 1], classes=None)
        torch.testing.assert_close(clean[b], small(one)[0])
        torch.testing.assert_close(masked[b], small.masked(one, drop[b : b + 1])[1][0])
    with pytest.raises(VRXError, match=r"graphs of 2 of 7 classes: give SCG\.classes"):
        big(replace(scg, classes=None))


def tables(source: PhotoFolder, bank: ConceptBank, cache: Path, **kwargs: Any) -> SCGDataModule:
    settings = {"coalitions": 2, "second_editor": Editor("inpaint"), **kwargs}
    data = planted.make_data(source, bank, cache, **settings)
    data.setup()
    return data


def test_all_classes_as_hypotheses_change_nothing(source: PhotoFolder, bank: ConceptBank, tmp_path: Path) -> None:
    plain, every = (tables(source, bank, tmp_path / str(k), hypotheses=k) for k in (None, 3))
    for split, table in plain.tables.items():
        assert table.keys() == every.tables[split].keys()
        assert all(torch.equal(value, every.tables[split][name]) for name, value in table.items())
    assert plain.cache("val").key == every.cache("val").key


def test_tables_of_two_hypotheses(colour_f: Classifier, source: PhotoFolder, bank: ConceptBank, tmp_path: Path) -> None:
    data = tables(source, bank, tmp_path, hypotheses=2)
    table = data.tables["train"]
    assert table["nodes"].shape[1:3] == (2, data.builder.num_nodes) and table["masked_logits"].shape[2] == 2
    x, _ = planted.inputs(colour_f, source, planted.make_extractor().segmenter, "train")
    with torch.no_grad():
        logits = colour_f(x)
    torch.testing.assert_close(table["logits"], logits.gather(1, table["classes"]))
    assert torch.equal(predicted_classes(table), logits.argmax(1))
    batch = batch_of({name: value[:4] for name, value in table.items()})
    assert torch.equal(batch["scg"].classes, table["classes"][:4])
    typical = Typical.of(table, bank.num_concepts, 3)
    for c in range(3):
        rows = [p for p in range(15) if table["label"][p] == c and c in table["classes"][p]]
        graph = [table["classes"][p].tolist().index(c) for p in rows]
        seen = [table["nodes"][p, g, 0] for p, g in zip(rows, graph, strict=True) if table["detected"][p, g, 0]]
        torch.testing.assert_close(typical.nodes[c, 0, 0], torch.stack(seen).mean(0))
    local = typical.at([0, 2])
    assert torch.equal(local.nodes[1, 1], typical.nodes[2, 0]) and not local.known[0, 1].any()
    g = torch.Generator().manual_seed(0)
    added = []  # of photos with graphs of classes 0 and 2; a planted truth, linear
    for row in range(60):
        margins, predicted = torch.randn(2, generator=g).double(), torch.randn(2, generator=g).double()
        graph, own = row % 2, torch.arange(2) == row % 2
        measured = torch.where(own, 1.5 + 0.5 * predicted, -0.25 - 0.1 * margins)
        added.append(Addition(graph, 0, margins, predicted, measured))
    known = typical.calibrated([one.of_class([0, 2][one.graph]) for one in added])
    torch.testing.assert_close(known.slopes, torch.tensor([[0.0, 0.5], [-0.1, 0.0]]), atol=1e-3, rtol=0)
    for one in added[:4]:
        torch.testing.assert_close(known.at([0, 2]).expected(one), one.measured.float(), atol=0.01, rtol=0)


def test_an_explanation_speaks_of_the_hypotheses_and_the_label(
    colour_f: Classifier, word_bank: ConceptBank, source: PhotoFolder, tmp_path: Path
) -> None:
    made = make_builder(colour_f, word_bank)
    grn = AdditiveGRN(2, made.num_nodes, made.node_features, link_features=made.link_features, all_classes=3)
    explainer = Explainer(colour_f, made, grn, Editor("blur", 0.03))
    photo = source.photos("test")[0]
    x = explainer.read(source.read(photo))
    order = colour_f(x[None])[0].argsort(descending=True).tolist()
    plain = explainer.explain_input(x, measure=True)
    assert plain.class_names == tuple(planted.CLASSES[c] for c in sorted(order[:2])) and plain.true_class is None
    for label in range(3):  # also the least probable one
        told = explainer.explain_input(x, measure=True, true_class=label)
        assert told.true_class is not None and told.class_names[told.true_class] == planted.CLASSES[label]
        assert told.class_names[told.predicted] == planted.CLASSES[order[0]]
    np.testing.assert_allclose(plain.logits, colour_f(x[None])[0][sorted(order[:2])].numpy(), rtol=1e-5)
    edited = explainer.follow(told, x)
    assert edited.class_names == told.class_names
    np.testing.assert_allclose(edited.logits, told.logits, rtol=1e-5)
    explainer.save(tmp_path)
    again = Explainer.load(tmp_path, network=planted.ColourNet()).explain_input(x, measure=True)
    assert again.to_json() == replace(plain, provenance=again.provenance).to_json()


def test_one_hypothesis_is_no_explanation(colour_f: Classifier, bank: ConceptBank) -> None:
    with pytest.raises(VRXError, match=r"graph\.hypotheses=1: use 2 or more, or null"):
        make_builder(colour_f, bank, 1)
