"""Visual Decision Interpreter (3.3): a run folder and a photo in, an explanation with its own check out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from vrx.bank import ConceptBank
from vrx.classifier.activations import most_probable
from vrx.classifier.classifier import Classifier
from vrx.classifier.loading import reopen_classifier
from vrx.concepts.names import load_bank, save_bank
from vrx.data.images import read_image
from vrx.edits import Editor
from vrx.errors import VRXError
from vrx.explain.absence import Typical
from vrx.explain.contrast import Contrast, relations_of
from vrx.explain.contributions import (
    ContributionMethod,
    GradientTimesEmbedding,
    Knockout,
    edge_contributions,
    evaluating,
)
from vrx.explanation import Explanation
from vrx.graphs.scg import PhotoGraphs, SCGBuilder, replaced
from vrx.graphs.variants import concept_variants, measured_effects, shared_nodes
from vrx.models.graph_network import GraphNetwork
from vrx.specs import describe, make
from vrx.storage import write_text
from vrx.structures import UNMATCHED, Patches, edges

SPEC = "explainer.json"
TYPICAL = Path("concepts") / "typical.safetensors"
METHODS: dict[str, ContributionMethod] = {"knockout": Knockout(), "gradient": GradientTimesEmbedding()}


class Explainer:
    """Explains photos by the concepts and relations of one run.

    Args:
        classifier: F.
        builder: photos -> graphs, with the run's concept bank.
        grn: the distilled Graph Reasoning Network.
        editor: how a concept is deleted when F is asked again.
        method: how contributions are computed, one of ``methods``.
        provenance: kept with every explanation.
        methods: name -> contribution method.
        typical: what is normal for the classes; None: nothing is said of what is missing.

    Raises:
        VRXError: an unknown method.
    """

    def __init__(
        self,
        classifier: Classifier,
        builder: SCGBuilder,
        grn: GraphNetwork,
        editor: Editor,
        method: str = "knockout",
        provenance: Mapping[str, Any] | None = None,
        methods: Mapping[str, ContributionMethod] | None = None,
        typical: Typical | None = None,
    ) -> None:
        self.classifier, self.builder, self.grn, self.editor = classifier, builder, grn.eval(), editor
        self.methods = dict(METHODS if methods is None else methods)
        if method not in self.methods:
            raise VRXError(f"method={method!r}: this run has {' and '.join(self.methods)}.")
        self.method = method
        self.provenance = dict(provenance or {})
        self.typical = typical

    @property
    def bank(self) -> ConceptBank:
        """The concepts that explanations speak of."""
        return self.builder.bank

    def of(self, class_names: Sequence[str]) -> Explainer:
        """The explainer of photos that have graphs of these classes alone, in this order."""
        if tuple(class_names) == self.bank.class_names:
            return self
        builder = self.builder.of(class_names)
        classes = [self.bank.class_names.index(name) for name in class_names]
        typical = None if self.typical is None else self.typical.at(classes)
        return replaced(self, classifier=builder.classifier, builder=builder, typical=typical)

    @torch.no_grad()
    def about(self, x: Tensor, true_class: int | None = None) -> tuple[Explainer, int | None]:
        """The explainer of a photo's hypotheses, and the label's place among them.

        A given label is always one of them, instead of the least probable: an error is explained against the truth.
        """
        if self.builder.hypotheses is None:
            return self, true_class
        logits = self.classifier(x[None])
        if true_class is not None and true_class not in most_probable(logits, self.builder.hypotheses):
            logits[0, true_class] = logits.max() + 1
        classes = most_probable(logits, self.builder.hypotheses)[0].tolist()
        local = self.of([self.bank.class_names[c] for c in classes])
        return local, None if true_class is None else classes.index(true_class)

    def save(self, run: str | Path) -> None:
        """Write all that :meth:`load` needs into a run folder: ``concepts/``, ``checkpoints/``, ``explainer.json``."""
        run = Path(run)
        checkpoints = run / "checkpoints"
        save_bank(run / "concepts", self.bank)
        self.grn.save(checkpoints / "grn.safetensors")
        if self.typical is not None:
            self.typical.save(run / TYPICAL)
        self.classifier.save_weights(checkpoints / "classifier.safetensors")
        builder = self.builder
        spec = {
            "classifier": self.classifier.spec,
            "fingerprint": self.classifier.fingerprint,
            "extractor": describe(builder.extractor),
            "graph": {
                "sources": list(builder.sources),
                "layers": list(builder.layers),
                "rest": builder.rest,
                "relations": builder.relations,
                "hypotheses": builder.hypotheses,
            },
            "editor": describe(self.editor),
            "method": self.method,
            "methods": describe(self.methods),
        }
        write_text(run / SPEC, json.dumps(spec, indent=1))

    @classmethod
    def load(
        cls,
        run: str | Path,
        device: str | torch.device = "cpu",
        method: str | None = None,
        network: nn.Module | None = None,
    ) -> Explainer:
        """Open a finished run.

        Args:
            run: the folder that ``train.py`` or :meth:`save` left.
            device: where F and the GRN compute.
            method: other contributions than the run's own default.
            network: your own network, where the run was made of one that cannot be built from its name.

        Raises:
            VRXError: not a finished run, or its parts do not belong together.
        """
        run = Path(run)
        try:
            spec = json.loads((run / SPEC).read_text())
        except FileNotFoundError as error:
            raise VRXError(
                f"{run} is not a finished run: it has no {SPEC}. Give a folder that train.py left."
            ) from error
        except (OSError, ValueError) as error:
            raise VRXError(f"{run / SPEC} cannot be read ({error}): rerun train.py.") from error
        weights = run / "checkpoints" / "classifier.safetensors"
        classifier = reopen_classifier(spec["classifier"], weights, network).to(device)
        bank = load_bank(run / "concepts")
        if {classifier.fingerprint, bank.settings.get("classifier")} != {spec["fingerprint"]}:
            raise VRXError(f"The classifier, concepts and graphs in {run} are of different runs: rerun train.py.")
        editor = make(spec["editor"])
        try:
            builder = SCGBuilder(classifier, bank, make(spec["extractor"]), editor, **spec["graph"])
        except TypeError as error:  # settings that there are no more
            raise VRXError(f"{run} is of another version of vrx ({error}): rerun train.py.") from error
        grn = GraphNetwork.load(run / "checkpoints" / "grn.safetensors").to(device)
        methods = make(spec["methods"])
        typical = Typical.load(run / TYPICAL) if (run / TYPICAL).exists() else None
        provenance = {"run": str(run.resolve())}
        return cls(classifier, builder, grn, editor, method or spec["method"], provenance, methods, typical)

    def explain(self, image: str | Path | Image.Image, true_class: int | None = None, name: str = "") -> Explanation:
        """Explain one photo, and measure each of its concepts by deleting it and asking F again.

        Args:
            image: a file or a PIL image.
            true_class: index of its label, if known.
            name: of the photo; default: its path.

        Raises:
            VRXError: the file cannot be read.
        """
        picture = image if isinstance(image, Image.Image) else read_image(image)
        x = self.read(picture)
        name = name or (str(image) if not isinstance(image, Image.Image) else "image")
        return self.explain_input(x, measure=True, name=name, true_class=true_class)

    def read(self, image: Image.Image) -> Tensor:
        """A photo as F reads it: preprocessed, normalised, ``[3, H, W]`` on F's device."""
        return self.classifier.transform(image).to(self.classifier.device)

    def pixels(self, x: Tensor) -> NDArray[np.uint8]:
        """A normalised photo ``[3, H, W]`` as it looks, uint8 ``[H, W, 3]``."""
        return self.classifier.pixels(x[None])[0]

    def superpixels(self, x: Tensor) -> Patches:
        """All superpixels of a normalised photo ``[3, H, W]``."""
        return self.builder.extractor.segmenter(self.pixels(x))

    def logits(self, x: Tensor) -> NDArray[np.float64]:
        """F's logits of interest of normalised photos ``[B, 3, H, W]``, ``[B, n]``."""
        with torch.inference_mode():
            return np.asarray(self.classifier(x).double().cpu().numpy())

    def explain_input(
        self,
        x: Tensor,
        superpixels: Patches | None = None,
        *,
        measure: bool = False,
        relations: bool = True,
        name: str = "image",
        true_class: int | None = None,
    ) -> Explanation:
        """Explain a photo that is read already.

        Args:
            x: normalised, ``[3, H, W]``.
            superpixels: None: made of the photo; those of the clean photo keep the patches of an edited one comparable.
            measure: whether F is asked about each concept; False leaves ``measured`` at NaN.
            relations: what pairs of concepts count for, and what is missing, too (it takes longer); measured where the
                concepts are.
            name: of the photo.
            true_class: index of its label among all classes of interest, if known.
        """
        if self.builder.hypotheses is not None:
            local, true_class = self.about(x, true_class)
            return local.explain_input(
                x, superpixels, measure=measure, relations=relations, name=name, true_class=true_class
            )
        superpixels = self.superpixels(x) if superpixels is None else superpixels
        graphs = self.builder(x[None], [superpixels])
        explanation = self._explanation(x, graphs.regions[0], graphs, measure)
        explanation = replace(explanation, name=name, true_class=true_class)
        first = None if measure else true_class
        return self._with_structure(explanation, graphs, measure, first) if relations else explanation

    def _with_structure(
        self, explanation: Explanation, graphs: PhotoGraphs, measure: bool, first: int | None = None
    ) -> Explanation:
        """The same explanation with what pairs of concepts count for, and what is missing."""
        x = explanation.x
        with evaluating(self.grn):
            pairs = relations_of(self.classifier, self.editor, self.grn, x, graphs, measure=measure, first=first)
            if self.typical is None:
                return replace(explanation, relations=pairs)
            contrast = Contrast(self.classifier, self.editor, self.grn, self.typical, self.bank, measure)
            return replace(explanation, relations=pairs, counterfactuals=contrast(x, graphs, explanation.shown()))

    def follow(
        self, before: Explanation, x: Tensor, moved: Mapping[int, NDArray[np.bool_]] | None = None
    ) -> Explanation:
        """Explain an edited photo with the same patches for the same concepts: only what they show may differ.

        Args:
            before: of the photo before the edit.
            x: after it, normalised ``[3, H, W]``.
            moved: superpixel label -> where its patch is now, bool ``[H, W]``.
        """
        explainer = self.of(before.class_names)
        patches = relocated(before, moved or {})
        matched = np.where(before.detected, np.searchsorted(patches.ids, before.matched), UNMATCHED)
        graphs = explainer.builder.rebuild(x[None], [patches], matched[None])
        after = explainer._explanation(x, patches, graphs, False)
        after = replace(after, name=before.name, true_class=before.true_class)
        return explainer._with_structure(after, graphs, False, before.predicted)

    def _explanation(self, x: Tensor, superpixels: Patches, graphs: PhotoGraphs, measure: bool) -> Explanation:
        device = self.classifier.device
        variants = concept_variants(self.classifier, self.editor, x[None], graphs, ask=measure)
        shared = shared_nodes(variants.drop, variants.of_node).to(device)
        scg = graphs.scg.to(device)
        num = self.bank.num_concepts  # a node for the rest of the photo, and its edges, are not shown
        between = (edges(self.builder.num_nodes) < num).all(0)
        nodes = self.methods[self.method](self.grn, scg, shared)
        links = edge_contributions(self.grn, scg)
        with torch.inference_mode():
            grn_logits = self.grn(scg)[0].double().cpu()
        patches, matched = graphs.patches[0], graphs.matched[0, :, :num]
        labels = patches.ids[matched.clip(0)] if len(patches) else matched
        return Explanation(
            image=self.pixels(x),
            x=x,
            name="image",
            class_names=tuple(self.classifier.class_names),
            logits=graphs.logits[0].double().numpy(),
            grn_logits=grn_logits.numpy(),
            node_scores=nodes[0, :, :, :num].detach().double().cpu().numpy(),
            edge_scores=links[0][:, :, between].detach().double().cpu().numpy(),
            matched=np.where(matched != UNMATCHED, labels, UNMATCHED).astype(np.int64),
            centroids=graphs.scg.centroids[0, :, :num].numpy(),
            superpixels=superpixels,
            attended=patches.ids.astype(np.int64),
            measured=measured_effects(graphs.logits, variants)[0, :, :num].numpy(),
            presence=graphs.presence[0],
            names=self.bank.all_names,
            gradcam=graphs.gradcam[0].numpy() if measure else np.zeros((0, 1, 1), np.float32),
            fallback=self.bank.fallback,
            exists=self.bank.present,
            provenance={
                **self.provenance,
                "classifier": self.classifier.fingerprint,
                "contributions": self.method,
                "edit": self.editor.settings(),
            },
        )


def relocated(explanation: Explanation, moved: Mapping[int, NDArray[np.bool_]]) -> Patches:
    """The patches of the found concepts alone, some of them at another place: each of those gets a layer of its own.

    Args:
        explanation: of the photo.
        moved: superpixel label -> where its patch is now, bool ``[H, W]``.
    """
    used = np.unique(explanation.matched[explanation.detected])
    layers = explanation.superpixels.labels
    nobody = int(layers.max()) + 1
    kept = [np.where(np.isin(layer, list(moved)), nobody, layer) for layer in layers]
    kept += [np.where(mask, label, nobody) for label, mask in moved.items()]
    return Patches(np.stack(kept).astype(np.int16), used.astype(np.int64))
