"""Visual Decision Interpreter (3.3): a run folder and a photo in, an explanation with its own check out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

from vrx.classifiers import Classifier, load_classifier
from vrx.concepts.candidates import CandidateExtractor
from vrx.concepts.importance import margins
from vrx.concepts.patches import PatchEncoder, Segmenter
from vrx.data.images import read_image
from vrx.edits import Editor
from vrx.explain.contributions import contributions
from vrx.graphs.masking import Variants, concept_variants
from vrx.graphs.matching import UNMATCHED
from vrx.graphs.scg import PhotoGraphs, SCGBuilder
from vrx.models.grn import GRN
from vrx.structures import ConceptBank, Explanation, VRXError, edges

SPEC = "explainer.json"


def shared_nodes(drop: Tensor, of_node: Tensor) -> Tensor:
    """Which nodes go together when a node's patch is edited away.

    Args:
        drop: nodes that lose their patch in each variant, bool ``[B, V, n, N]``.
        of_node: the variant of each node's own patch, int64 ``[B, n, N]``; -1 for dummies.

    Returns:
        bool ``[B, n, N, n, N]``: entry (g, k, h, l): node l of graph h goes when node k of graph g does.
    """
    size = drop.shape[0]
    picked = drop[torch.arange(size)[:, None, None], of_node.clamp(min=0)]
    return picked & (of_node >= 0)[..., None, None]


class Explainer:
    """Explains photos by the concepts and relations of one run.

    Args:
        classifier: F.
        builder: photos -> graphs, with the run's concept bank.
        grn: the distilled Graph Reasoning Network.
        editor: how a concept is edited away when F is asked again.
        method: how contributions are computed, ``gradient`` (Eq. 5-6) or ``knockout``.
        provenance: kept with every explanation.
    """

    def __init__(
        self,
        classifier: Classifier,
        builder: SCGBuilder,
        grn: GRN,
        editor: Editor,
        method: str = "knockout",
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.classifier, self.builder, self.grn, self.editor = classifier, builder, grn.eval(), editor
        self.method = method
        self.provenance = dict(provenance or {})

    @property
    def bank(self) -> ConceptBank:
        """The concepts that explanations speak of."""
        return self.builder.bank

    def save(self, run: Path, classifier_spec: Mapping[str, Any]) -> None:
        """Write all that :meth:`load` needs into a run folder.

        Args:
            run: the run folder; ``concepts/`` and ``checkpoints/`` beneath it are filled.
            classifier_spec: arguments of :func:`load_classifier`, without checkpoint and pretrained.
        """
        checkpoints = run / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        self.bank.save(run / "concepts")
        torch.save({"hparams": self.grn.hparams, "state": self.grn.state_dict()}, checkpoints / "grn.pt")
        self.classifier.save_weights(checkpoints / "classifier.safetensors")
        extractor = self.builder.extractor
        spec = {
            "classifier": dict(classifier_spec),
            "fingerprint": self.classifier.fingerprint,
            "segmenter": extractor.segmenter.settings(),
            "encoder": extractor.encoder.settings(),
            "tau": extractor.tau,
            "graph": {
                "sources": list(self.builder.sources),
                "layers": list(self.builder.layers),
                "rest": self.builder.rest,
                "baseline_layer": self.builder.baseline_layer,
            },
            "editor": self.editor.settings(),
            "method": self.method,
        }
        (run / f"{SPEC}.part").write_text(json.dumps(spec, indent=1))
        (run / f"{SPEC}.part").replace(run / SPEC)

    @classmethod
    def load(cls, run: str | Path, device: str | torch.device = "cpu", method: str | None = None) -> Explainer:
        """Open a finished run.

        Args:
            run: the folder that ``train.py`` left.
            device: where F and the GRN compute.
            method: other contributions than the run's own default.

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
        classifier = load_classifier(**spec["classifier"], checkpoint=str(weights), pretrained=False).to(device)
        bank = ConceptBank.load(run / "concepts")
        if {classifier.fingerprint, bank.settings.get("classifier")} != {spec["fingerprint"]}:
            raise VRXError(f"The classifier, concepts and graphs in {run} are of different runs: rerun train.py.")
        extractor = CandidateExtractor(Segmenter(**spec["segmenter"]), PatchEncoder(**spec["encoder"]), spec["tau"])
        editor = Editor(**spec["editor"])
        builder = SCGBuilder(classifier, bank, extractor, editor, **spec["graph"])
        grn = _load_grn(run / "checkpoints" / "grn.pt").to(device)
        return cls(classifier, builder, grn, editor, method or spec["method"], {"run": str(run.resolve())})

    def explain(self, image: str | Path | Image.Image, true_class: int | None = None) -> Explanation:
        """Explain one photo.

        Args:
            image: a file or a PIL image.
            true_class: index of its label, if known.

        Raises:
            VRXError: the file cannot be read.
        """
        picture = image if isinstance(image, Image.Image) else read_image(image)
        x = self.classifier.transform(picture).unsqueeze(0).to(self.classifier.device)
        pixels = self.classifier.pixels(x)[0]
        graphs = self.builder(x, [self.builder.extractor.segmenter(pixels)])
        variants = concept_variants(self.classifier, self.editor, x, graphs)
        name = str(image) if not isinstance(image, Image.Image) else "image"
        return self._explanation(pixels, graphs, variants, name, true_class)

    def _explanation(
        self, pixels: np.ndarray, graphs: PhotoGraphs, variants: Variants, name: str, true_class: int | None
    ) -> Explanation:
        shared = shared_nodes(variants.drop, variants.of_node)
        scg = graphs.scg.to(self.classifier.device)
        nodes, links = contributions(self.grn, scg, self.method, shared=shared.to(self.classifier.device))
        num = self.bank.num_concepts  # a node for the rest of the photo, and its edges, are not shown
        between = (edges(self.builder.num_nodes) < num).all(0)
        with torch.inference_mode():
            grn_logits = self.grn(scg)[0].float().cpu()
        measured = measured_effects(graphs.logits, variants)[0, :, :num].numpy()
        node_scores = nodes[0, :, :, :num].detach().float().cpu().numpy()
        detected = graphs.scg.detected[0, :, :num].numpy()
        predicted = int(graphs.logits[0].argmax())
        return Explanation(
            image=pixels,
            name=name,
            class_names=tuple(self.classifier.class_names),
            f_probabilities=graphs.logits[0].softmax(0).numpy(),
            grn_probabilities=grn_logits.softmax(0).numpy(),
            node_scores=node_scores,
            edge_scores=links[0][:, :, between].detach().float().cpu().numpy(),
            detected=detected,
            centroids=graphs.scg.centroids[0, :, :num].numpy(),
            masks=_masks(graphs, num),
            measured=measured,
            true_class=true_class,
            trust=rank_agreement(
                node_scores[predicted, predicted][detected[predicted]], measured[predicted][detected[predicted]]
            ),
            provenance={
                **self.provenance,
                "classifier": self.classifier.fingerprint,
                "contributions": self.method,
                "edit": self.editor.settings(),
            },
        )


def _load_grn(path: Path) -> GRN:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        grn = GRN(**saved["hparams"])
        grn.load_state_dict(saved["state"])
    except Exception as error:  # damage shows in many ways: zip, pickle, missing keys, other shapes
        raise VRXError(f"{path} holds no graph network ({str(error)[:120]}): rerun train.py.") from error
    return grn


def measured_effects(logits: Tensor, variants: Variants) -> Tensor:
    """Fall of F's margin of graph g's own class when the patch of its node k is edited away.

    Args:
        logits: of F on the clean photos, ``[B, n]``.
        variants: of the same photos.

    Returns:
        float32 ``[B, n, N]``; NaN for dummies.
    """
    size, n, _ = variants.of_node.shape
    before = margins(logits.double())[:, :, None]
    after = margins(variants.logits.double())  # [B, V, n]
    own = after[torch.arange(size)[:, None, None], variants.of_node.clamp(min=0), torch.arange(n)[None, :, None]]
    return (before - own).masked_fill(variants.of_node < 0, torch.nan).float()


def rank_agreement(scores: np.ndarray, measured: np.ndarray) -> float:
    """Spearman's correlation; NaN with fewer than three values, 0 when one side is constant."""
    if len(scores) < 3:
        return math.nan
    if np.ptp(scores) == 0 or np.ptp(measured) == 0:
        return 0.0
    return float(spearmanr(scores, measured).statistic)


def _masks(graphs: PhotoGraphs, num_concepts: int) -> np.ndarray:
    """Patch of each concept of the first photo, bool ``[n, N, H, W]``."""
    matched, patches = graphs.matched[0, :, :num_concepts], graphs.patches[0]
    masks = np.zeros((*matched.shape, *patches.shape), bool)
    for graph, concept in zip(*np.nonzero(matched != UNMATCHED), strict=True):
        masks[graph, concept] = patches.select(matched[graph, concept : concept + 1]).masks[0]
    return masks
