"""Photos as the studies see them: graphs and contributions alone. F is never asked about an edit here.

An explanation for people carries measured effects; a study that chooses its edits by the contributions must not have
them, so the view of a photo is made without.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax
from torch import Tensor
from tqdm import tqdm

from vrx.data.images import Photo
from vrx.data.scg_datamodule import PhotoSource
from vrx.errors import VRXError
from vrx.explain.contributions import contributions
from vrx.explain.explainer import Explainer, shared_nodes
from vrx.graphs.scg import PhotoGraphs
from vrx.graphs.variants import covered_by
from vrx.scores import margins
from vrx.structures import UNMATCHED, Patches, edges
from vrx.studies.core.records import Records

T = TypeVar("T")


@dataclass(frozen=True)
class View:
    """One photo, its graphs, and what they say of it.

    Args:
        x: the normalised photo ``[3, H, W]``.
        superpixels: of all resolutions, before attention.
        attended: labels of those that F attends to: the concept candidates, int64 ``[K]``.
        matched: superpixel label that shows each concept, int64 ``[n, N]``; -1 where it was not detected.
        logits: of F, float64 ``[n]``.
        grn_logits: of the GRN, float64 ``[n]``.
        nodes: contribution of node k of graph g to the margin of class c, float64 ``[n (c), n (g), N]``; 0: undetected.
        links: the same of the edges, ``[n, n, N(N-1)]``; zeros when they were not asked for.
        centroids: (x, y) of the nodes in [0, 1], ``[n, N, 2]``.
    """

    x: Tensor
    superpixels: Patches
    attended: NDArray[np.int64]
    matched: NDArray[np.int64]
    logits: NDArray[np.float64]
    grn_logits: NDArray[np.float64]
    nodes: NDArray[np.float64]
    links: NDArray[np.float64]
    centroids: NDArray[np.float32]

    @property
    def predicted(self) -> int:
        """The class of interest that F answers."""
        return int(self.logits.argmax())

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Of F over the classes of interest, ``[n]``."""
        return np.asarray(softmax(self.logits))

    @property
    def detected(self) -> NDArray[np.bool_]:
        """Which concepts were found, ``[n, N]``."""
        return self.matched != UNMATCHED

    def mask(self, graph: int, concept: int) -> NDArray[np.bool_]:
        """The pixels of a detected concept, ``[H, W]``."""
        return self.label_mask(int(self.matched[graph, concept]))

    def label_mask(self, label: int) -> NDArray[np.bool_]:
        """The pixels of a superpixel, ``[H, W]``."""
        return np.asarray((self.superpixels.labels == label).any(0))

    def margin(self, index: int) -> float:
        """F's log-odds of a class."""
        return margin(self.logits, index)

    def at_edges(self, index: int) -> NDArray[np.float64]:
        """Contribution to the class of all relations, in and out, of each concept of its graph, ``[N]``."""
        num = self.matched.shape[1]
        j, i = edges(num).numpy()
        links = self.links[index, index]
        return np.asarray(np.bincount(j, links, num) + np.bincount(i, links, num))


def relocated(view: View, moved: Mapping[int, NDArray[np.bool_]]) -> Patches:
    """The patches of a view's concepts alone, some of them at another place: each of those gets a layer of its own."""
    used = np.unique(view.matched[view.detected])
    nobody = int(view.superpixels.labels.max()) + 1
    layers = [np.where(np.isin(layer, list(moved)), nobody, layer) for layer in view.superpixels.labels]
    layers += [np.where(mask, label, nobody) for label, mask in moved.items()]
    return Patches(np.stack(layers).astype(np.int16), used.astype(np.int64))


def margin(logits: NDArray[np.float64], index: int) -> float:
    """Log-odds of one class; :func:`vrx.concepts.importance.margins` has them all."""
    return float(margins(torch.from_numpy(logits))[index])


class Viewer:
    """Makes views with the parts of a run.

    Args:
        explainer: of the run.
    """

    def __init__(self, explainer: Explainer) -> None:
        self.explainer = explainer
        self.classifier, self.builder = explainer.classifier, explainer.builder

    def normalised(self, image: Image.Image) -> Tensor:
        """The photo as F sees it, ``[3, H, W]`` on F's device."""
        return self.classifier.transform(image).to(self.classifier.device)

    def pixels(self, x: Tensor) -> NDArray[np.uint8]:
        """A normalised photo as it looks, uint8 ``[H, W, 3]``."""
        return self.classifier.pixels(x[None])[0]

    def superpixels(self, x: Tensor) -> Patches:
        """All superpixels of a normalised photo."""
        return self.builder.extractor.segmenter(self.pixels(x))

    def answers(self, x: Tensor) -> NDArray[np.float64]:
        """F's logits for normalised photos ``[B, 3, H, W]``, ``[B, n]``."""
        with torch.inference_mode():
            return self.classifier(x).double().cpu().numpy()

    def __call__(self, x: Tensor, superpixels: Patches | None = None, links: bool = False) -> View:
        """Look at a photo.

        Args:
            x: normalised, ``[3, H, W]``.
            superpixels: None: made of the photo; those of the clean photo keep the patches of an edited one comparable.
            links: contributions of the edges too (they take longer).
        """
        superpixels = self.superpixels(x) if superpixels is None else superpixels
        graphs = self.builder(x[None], [superpixels])
        return self._view(x, superpixels, graphs, links)

    def follow(
        self, view: View, x: Tensor, moved: Mapping[int, NDArray[np.bool_]] | None = None, links: bool = True
    ) -> View:
        """Look at an edited photo with the same patches for the same concepts: only what they show may differ.

        Args:
            view: of the photo before the edit.
            x: after it, ``[3, H, W]``.
            moved: superpixel label -> where its patch is now, bool ``[H, W]``.
            links: contributions of the edges too.
        """
        patches = relocated(view, moved or {})
        matched = np.where(view.detected, np.searchsorted(patches.ids, view.matched), UNMATCHED)
        graphs = self.builder.rebuild(x[None], [patches], matched[None])
        return self._view(x, patches, graphs, links)

    def _view(self, x: Tensor, superpixels: Patches, graphs: PhotoGraphs, links: bool) -> View:
        patches, every = graphs.patches[0], graphs.matched[0]
        used = np.unique(every[every != UNMATCHED])
        drop = covered_by(used, every, patches)[None]
        place = np.searchsorted(used, every).clip(max=max(len(used) - 1, 0))
        of_node = torch.from_numpy(np.where(every != UNMATCHED, place, UNMATCHED))[None]
        shared = shared_nodes(drop, of_node) if len(used) else None
        scg = graphs.scg.to(self.classifier.device)
        shared = None if shared is None else shared.to(self.classifier.device)
        nodes, relations = contributions(self.explainer.grn, scg, self.explainer.method, shared=shared, edges=links)
        num = self.explainer.bank.num_concepts
        between = (edges(self.builder.num_nodes) < num).all(0)
        with torch.inference_mode():
            grn_logits = self.explainer.grn(scg)[0].double().cpu().numpy()
        matched = every[:, :num]
        labels = np.where(matched != UNMATCHED, patches.ids[matched.clip(0)] if len(patches) else matched, UNMATCHED)
        return View(
            x=x,
            superpixels=superpixels,
            attended=patches.ids.astype(np.int64),
            matched=labels.astype(np.int64),
            logits=graphs.logits[0].double().numpy(),
            grn_logits=grn_logits,
            nodes=nodes[0, :, :, :num].detach().double().cpu().numpy(),
            links=relations[0][:, :, between].detach().double().cpu().numpy(),
            centroids=graphs.scg.centroids[0, :, :num].numpy(),
        )


def answered(
    viewer: Viewer,
    source: PhotoSource,
    photos: Sequence[Photo],
    records: Records,
    batch_size: int = 32,
) -> list[tuple[Photo, NDArray[np.float64]]]:
    """F's logits of the photos that can be read, with a progress bar.

    Args:
        viewer: of the run.
        source: reads the photos.
        photos: to ask about.
        records: of the study: no photo is asked about twice.
        batch_size: photos F is asked about at once.
    """
    known: dict[Photo, list[float] | None] = {
        photo: records[name]["logits"] for photo in photos if (name := f"F {photo.path}") in records
    }
    missing = [photo for photo in photos if photo not in known]
    with tqdm(total=len(missing), desc="asking F", unit="photo", disable=not missing) as bar:
        for start in range(0, len(missing), batch_size):
            for photo, logits in _asked(viewer, source, missing[start : start + batch_size]).items():
                known[photo] = logits
                records.add(f"F {photo.path}", {"logits": logits})
                bar.update()
    return [(photo, np.array(logits)) for photo in photos if (logits := known[photo]) is not None]


def _asked(viewer: Viewer, source: PhotoSource, photos: Sequence[Photo]) -> dict[Photo, list[float] | None]:
    """F's logits; None for a photo that cannot be read."""
    ready: dict[Photo, Tensor] = {}
    for photo in photos:
        with contextlib.suppress(VRXError, OSError):
            ready[photo] = viewer.normalised(source.read(photo))
    logits = viewer.answers(torch.stack(list(ready.values()))).tolist() if ready else []
    return dict.fromkeys(photos) | dict(zip(ready, logits, strict=True))


def spaced(items: Sequence[T], count: int) -> list[T]:
    """``count`` of the items, evenly spaced, so that no class of a sorted list is left out; all if they are fewer."""
    return [items[i * len(items) // count] for i in range(count)] if count < len(items) else list(items)
