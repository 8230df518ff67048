"""The explainer: what it says of planted photos, and run folders that are whole, foreign, damaged or missing."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests import planted
from vrx.classifier.classifier import Classifier
from vrx.classifier.loading import load_classifier
from vrx.data.images import PhotoFolder
from vrx.edits import Editor
from vrx.errors import VRXError
from vrx.explain.explainer import Explainer
from vrx.explanation import Explanation
from vrx.graphs.scg import SCGBuilder
from vrx.models.grn import GRN
from vrx.scores import margins
from vrx.storage import json_safe
from vrx.structures import UNMATCHED, edges

SETTINGS = {
    "_target_": "vrx.classifier.networks.named_network",
    "name": "timm/test_resnet",
    "pretrained": False,
    "input_size": 64,
}


def make_explainer(builder: SCGBuilder, method: str = "knockout") -> Explainer:
    torch.manual_seed(0)
    grn = GRN(3, builder.num_nodes, builder.node_features)
    return Explainer(builder.classifier, builder, grn, builder.editor, method, {"run": "here"})


def same(a: Explanation, b: Explanation, provenance: bool = False) -> bool:
    apart = ("superpixels", "x", "relations", "counterfactuals")
    names = [n for n in vars(a) if n not in apart and (n != "provenance" or provenance)]
    structure = [[asdict(e.relations) if e.relations else None, *map(asdict, e.counterfactuals)] for e in (a, b)]
    if json_safe(structure[0]) != json_safe(structure[1]):
        return False
    if not np.array_equal(a.superpixels.labels, b.superpixels.labels):
        return False
    return all(np.array_equal(getattr(a, n), getattr(b, n), equal_nan=_numeric(getattr(a, n))) for n in names)


def _numeric(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, np.ndarray) and value.dtype.kind == "f")


@pytest.fixture(scope="module")
def explained(builder: SCGBuilder, source: PhotoFolder) -> tuple[Explainer, Explanation, str]:
    explainer = make_explainer(builder)
    photo = source.photos("test")[0]
    return explainer, explainer.explain(photo.path, true_class=photo.label), photo.path


def test_an_explanation_shows_concepts_alone_and_f_as_it_is(
    explained: tuple[Explainer, Explanation, str], colour_f: Classifier, bank: Any
) -> None:
    explainer, explanation, path = explained
    x = colour_f.transform(Image.open(path).convert("RGB"))[None]
    np.testing.assert_allclose(explanation.probabilities, colour_f(x)[0].softmax(0), atol=1e-5)
    assert explanation.predicted == explanation.true_class == 0
    np.testing.assert_allclose(explanation.gradcam, colour_f.gradcam(x)[0], atol=1e-6)
    assert explainer.explain_input(x[0]).gradcam.size == 0, "only where the classifier is asked"
    assert explanation.detected.shape == (3, bank.num_concepts), "the rest of the photo is no concept"
    assert explanation.edge_scores.shape[2] == bank.num_concepts * (bank.num_concepts - 1)
    assert (explanation.node_scores[:, ~explanation.detected] == 0).all()
    for c, k in np.ndindex(*explanation.detected.shape):
        assert explanation.mask(c, k).any() == explanation.detected[c, k]
    assert explanation.provenance["contributions"] == "knockout" and explanation.provenance["run"] == "here"
    graphs = explainer.builder(x, [explainer.builder.extractor.segmenter(explanation.image)])
    num, total = bank.num_concepts, explainer.builder.num_nodes
    kept = [e for e, (j, i) in enumerate(edges(total).T.tolist()) if j < num and i < num]
    assert [edges(total).T.tolist()[e] for e in kept] == edges(num).T.tolist(), "in the order of the shown edges"
    for c, k in zip(*np.nonzero(graphs.matched[0, :, :num] != UNMATCHED), strict=True):
        np.testing.assert_array_equal(explanation.mask(c, k), graphs.patches[0].masks[graphs.matched[0, c, k]])


def test_measured_effects_are_those_of_photos_edited_by_hand(
    explained: tuple[Explainer, Explanation, str], colour_f: Classifier
) -> None:
    explainer, explanation, _ = explained
    x = colour_f.normalize(explanation.image[None])
    clean = margins(colour_f(x).double())[0]
    for c, k in np.ndindex(*explanation.detected.shape):
        if not explanation.detected[c, k]:
            assert np.isnan(explanation.measured[c, k])
            continue
        mask = torch.from_numpy(explanation.mask(c, k))[None]
        after = margins(colour_f(explainer.editor.delete(x, mask)).double())[0]
        assert explanation.measured[c, k] == pytest.approx(float(clean[c] - after[c]), abs=0.02)
    assert explanation.detected[0, 0] and explanation.measured[0, 0] > 0.5, "the red disc makes it a berry"


def test_files_and_pictures_are_explained_alike(explained: tuple[Explainer, Explanation, str]) -> None:
    explainer, explanation, path = explained
    from_picture = explainer.explain(Image.open(path).convert("RGB"), true_class=0)
    assert from_picture.name == "image" and explanation.name == path
    assert same(replace(from_picture, name=path), explanation, provenance=True)


def test_a_photo_without_any_concept_is_explained_too(
    explained: tuple[Explainer, Explanation, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    explainer, _, path = explained
    segment = explainer.builder.extractor.segmenter.__call__
    monkeypatch.setattr(
        explainer.builder.extractor, "segmenter", lambda image: segment(image).select(np.zeros(0, np.int64))
    )
    for method in ("knockout", "gradient"):
        monkeypatch.setattr(explainer, "method", method)
        explanation = explainer.explain(path)
        assert not explanation.detected.any() and np.isnan(explanation.measured).all() and np.isnan(explanation.trust)
        assert (explanation.node_scores == 0).all() and (explanation.edge_scores == 0).all()
        assert np.isfinite(explanation.grn_probabilities).all()


def test_unreadable_photos_are_named(explained: tuple[Explainer, Explanation, str], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    for name in ("bad.jpg", "none.jpg"):
        with pytest.raises(VRXError, match=name):
            explained[0].explain(tmp_path / name)


@pytest.fixture(scope="module")
def run(source: PhotoFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Explainer]:
    """A run folder of a network that is loaded by its name."""
    torch.manual_seed(1)
    f = load_classifier(SETTINGS, planted.CLASSES)
    extractor = planted.make_extractor()
    photos = planted.discovery_photos(f, source, extractor.segmenter)
    bank = planted.make_discovery(extractor, min_patches=2, clusters=8, num_concepts=2)(f, photos)
    explainer = make_explainer(SCGBuilder(f, bank, extractor, Editor("grey", 0.05), ["head", "shape"], rest=True))
    folder = tmp_path_factory.mktemp("run")
    explainer.save(folder)
    return folder, explainer


@pytest.fixture
def copied(run: tuple[Path, Explainer], tmp_path: Path) -> Path:
    return Path(shutil.copytree(run[0], tmp_path / "copy"))


def test_a_saved_run_gives_the_identical_explanation(
    run: tuple[Path, Explainer], copied: Path, source: PhotoFolder
) -> None:
    """From a copy of the folder: a run needs nothing else."""
    loaded = Explainer.load(copied)
    assert loaded.method == "knockout" and loaded.editor.settings() == {"fill": "grey", "margin": 0.05}
    for photo in source.photos("test")[::5]:
        before, after = run[1].explain(photo.path), loaded.explain(photo.path)
        assert same(before, after)
    assert after.provenance["run"] == str(copied.resolve())
    assert Explainer.load(copied, method="gradient").method == "gradient"
    assert not list(copied.rglob("*.part"))


def test_a_saved_copy_of_a_run_has_the_names_that_people_gave(copied: Path, tmp_path: Path) -> None:
    name = Explainer.load(copied).bank.class_names[0]
    (copied / "concepts" / "names.yaml").write_text(f"{name}: {{1: lid}}")
    Explainer.load(copied).save(tmp_path / "again")
    assert Explainer.load(tmp_path / "again").bank.names[0][0] == "lid"


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(VRXError, match="not a finished run"):
            Explainer.load(folder)


def test_a_run_of_another_version_is_named(copied: Path) -> None:
    spec = json.loads((copied / "explainer.json").read_text())
    spec["graph"]["baseline_layer"] = None  # a setting until 0.6.0
    (copied / "explainer.json").write_text(json.dumps(spec))
    with pytest.raises(VRXError, match=r"another version of vrx .*baseline_layer.*rerun train\.py"):
        Explainer.load(copied)


def test_weights_of_another_f(copied: Path) -> None:
    weights = load_file(copied / "checkpoints" / "classifier.safetensors")
    name = next(k for k, v in weights.items() if v.is_floating_point())
    save_file({**weights, name: weights[name] + 0.01}, copied / "checkpoints" / "classifier.safetensors")
    with pytest.raises(VRXError, match="of different runs"):
        Explainer.load(copied)


def test_concepts_of_another_f(copied: Path) -> None:
    text = json.loads((copied / "concepts" / "bank.json").read_text())
    text["settings"]["classifier"] = "another"
    (copied / "concepts" / "bank.json").write_text(json.dumps(text))
    with pytest.raises(VRXError, match="of different runs"):
        Explainer.load(copied)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("explainer.json", "cannot be read"),
        ("checkpoints/grn.safetensors", "holds no graph network"),
        ("checkpoints/classifier.safetensors", "classifier.safetensors"),
        ("concepts/bank.safetensors", "damaged"),
        ("concepts/bank.json", "damaged"),
    ],
)
def test_damaged_parts_are_named(copied: Path, name: str, message: str) -> None:
    whole = (copied / name).read_bytes()
    (copied / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VRXError, match=message):
        Explainer.load(copied)
