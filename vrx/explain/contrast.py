"""Relations and counterfactuals of one photo, each predicted by the GRN and measured on F (3.3: "why", "why not")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrx.bank import ConceptBank
from vrx.classifier.classifier import Classifier
from vrx.edits import Editor, placed
from vrx.explain.absence import Addition, Typical
from vrx.explain.interactions import BATCH, ClassifierGame, GRNGame, Players, explained_shares, placements, together
from vrx.explanation import Counterfactual, Relations
from vrx.graphs.scg import PhotoGraphs
from vrx.models.graph_network import GraphNetwork
from vrx.scores import margins
from vrx.structures import SCG, UNMATCHED

MOST_PLAYERS = 6  # 64 coalitions: all are asked
MOST_MOVES = 3  # concepts of a class that are put right, those with the largest predicted gain


def second_editor(editor: Editor) -> Editor:
    """The same edits with another fill."""
    return Editor("blur" if editor.fill == "inpaint" else "inpaint", editor.margin)


def relations_of(
    classifier: Classifier,
    editor: Editor,
    grn: GraphNetwork,
    x: Tensor,
    graphs: PhotoGraphs,
    measure: bool = True,
    first: int | None = None,
) -> Relations | None:
    """What pairs of found concepts count for; None with fewer than two.

    Args:
        grn: in eval mode.
        x: the photo, normalised ``[3, H, W]``.
        graphs: of this photo alone.
        measure: False: the classifier is not asked, what it says is NaN.
        first: the class whose concepts are players first; None: the predicted one.
    """
    players = Players.of(graphs, 0, MOST_PLAYERS, first=first)
    count = len(players)
    if count < 2:
        return None
    predicted = GRNGame(grn, graphs.scg.to(x.device), players)
    values, main, pairs = together(predicted, count)
    _, placed = placements(predicted, players.movable, values)
    fills = (editor, second_editor(editor)) if measure else ()
    games = [ClassifierGame(classifier, fill, x, players) for fill in fills]
    unknown = [tuple(np.full_like(found, np.nan) for found in (values, main, pairs, main, placed))] * 2
    measured = [(*(asked := together(game, count)), *placements(game, players.movable, asked[0])) for game in games]
    f_values, f_main, f_pairs, f_moved, f_placed = zip(*(measured or unknown), strict=True)
    return Relations(
        graphs.patches[0].ids[players.patches].astype(np.int64),
        main,
        f_main[0],
        pairs,
        f_pairs[0],
        placed,
        f_placed[0],
        f_moved[0],
        f_pairs[1],
        f_placed[1],
        f_moved[1],
        values[0],
        explained_shares(f_values[0][:, int(graphs.logits[0].argmax())]) if measure else (np.nan, np.nan),
        len(np.unique(graphs.matched[0][graphs.matched[0] != UNMATCHED])) - count,
    )


@dataclass(frozen=True)
class Contrast:
    """Asks what is missing for a class, and what lies elsewhere."""

    classifier: Classifier  # F
    editor: Editor  # how concepts are pasted and moved
    grn: GraphNetwork  # in eval mode
    typical: Typical  # what is normal for the classes
    bank: ConceptBank  # with cut-outs of typical patches
    measure: bool = True  # False: the classifier is not asked, what it says is NaN

    def __call__(self, x: Tensor, graphs: PhotoGraphs, classes: Sequence[int]) -> tuple[Counterfactual, ...]:
        """Counterfactuals of one photo.

        Args:
            x: normalised ``[3, H, W]``.
            graphs: of this photo alone.
        """
        scg = graphs.scg[0]
        found = self._added(x, graphs, [(index, k) for index in classes for k in self.missing(scg, index)])
        for index in classes:
            found += self._put_right(x, graphs, scg, index)
        return tuple(found)

    def _gains(self, before: Tensor, after: Tensor) -> NDArray[np.float64]:
        """Of every class's margin: logits ``[n]`` and ``[K, n]`` -> ``[K, n]``."""
        return np.asarray((margins(after.double()) - margins(before.double())).cpu().numpy())

    def _predicted(self, scg: SCG, changed: Sequence[SCG]) -> NDArray[np.float64]:
        device = self.classifier.device
        with torch.inference_mode():
            logits = self.grn(SCG.stack([scg, *changed]).to(device))
        return self._gains(logits[0], logits[1:])

    def _measured(self, logits: Tensor, edited: Tensor) -> NDArray[np.float64]:
        with torch.inference_mode():
            after = torch.cat([self.classifier(part).cpu() for part in edited.split(BATCH)])
        return self._gains(logits, after)

    def missing(self, scg: SCG, index: int) -> list[int]:
        """Concepts of a class that the photo lacks and that can be added: with cut-outs, and known to the GRN."""
        there = {int(name.split(".")[1]) for name in self.bank.cutouts if name.startswith(f"{index}.")}
        return [k for k in sorted(there) if not scg.detected[index, k] and self.typical.known[index, index, k]]

    def addition(self, scg: SCG, logits: Tensor, index: int, concept: int, measured: Tensor) -> Addition:
        """A missing concept of a class added to a photo, with the gain that the GRN expects of a typical example.

        Graphs ``[n, N, ...]``, the classifier's logits ``[n]``, and the measured gain of each class's margin, ``[n]``.
        """
        place = self.typical.place(scg, index, concept)
        predicted = self._predicted(scg, [self.typical.added(scg, index, concept, place)])[0]
        return Addition(index, concept, margins(logits.double()).cpu(), torch.from_numpy(predicted), measured)

    def measured_gains(self, x: Tensor, scg: SCG, logits: Tensor, wanted: Sequence[tuple[int, int]]) -> Tensor:
        """What adding each of K concepts (class, number) gains each class's margin by the classifier, ``[K, n]``: the
        median over its cut-outs.
        """
        return self._median_gains(logits, [self._pastes(x, scg, *one)[0] for one in wanted])

    def _median_gains(self, logits: Tensor, edited: Sequence[Tensor]) -> Tensor:
        """Of each set of edited photos ``[E, 3, H, W]``: ``[K, n]``."""
        gains = torch.from_numpy(self._measured(logits, torch.cat(list(edited))))
        return torch.stack([part.quantile(0.5, dim=0) for part in gains.split([len(one) for one in edited])])

    def _added(self, x: Tensor, graphs: PhotoGraphs, wanted: Sequence[tuple[int, int]]) -> list[Counterfactual]:
        """Missing concepts (class, number), each put where it belongs."""
        scg, logits = graphs.scg[0], graphs.logits[0]
        gains = covered = torch.full((len(wanted), len(logits)), torch.nan, dtype=torch.float64)
        if self.measure and wanted:
            pastes = [self._pastes(x, scg, *one) for one in wanted]
            deleted = [self.editor.delete(x[None], masks) for _, masks in pastes]
            both = self._median_gains(logits, [*(pasted for pasted, _ in pastes), *deleted])
            gains, covered = both[: len(wanted)], both[len(wanted) :].abs()
        found = []
        for (index, k), gain, noise in zip(wanted, gains, covered, strict=True):
            addition = self.addition(scg, logits, index, k, gain)
            predicted, measured = self.typical.expected(addition).double().numpy(), gain.double().numpy()
            right, down = self.typical.place(scg, index, k).tolist()
            found.append(
                Counterfactual(index, k, UNMATCHED, (right, down), predicted, measured, noise.double().numpy())
            )
        return found

    def _pastes(self, x: Tensor, scg: SCG, index: int, concept: int) -> tuple[Tensor, Tensor]:
        """The photo with each typical cut-out of a concept where it belongs, and which pixels were replaced."""
        place = self.typical.place(scg, index, concept)
        names = [name for name in self.bank.cutouts if name.startswith(f"{index}.{concept}.")]
        pasted, masks = zip(*(self._pasted(x, self.bank.cutouts[name], place) for name in names), strict=True)
        return torch.stack(pasted), torch.stack(masks)

    def _pasted(self, x: Tensor, cutout: NDArray[np.uint8], place: Tensor) -> tuple[Tensor, Tensor]:
        """The photo with a cut-out in the middle of a place (x, y), and which pixels were replaced."""
        donor = self.classifier.normalize(cutout[None, ..., :3])[0]
        at = torch.zeros(x.shape[1:], dtype=torch.bool)
        row, column = (int(min(float(p) * s, s - 1)) for p, s in zip(place.flip(0), x.shape[1:], strict=True))
        at[row, column] = True
        layer, changed = placed(donor, torch.from_numpy(cutout[..., 3] > 0), at)
        return self.editor.paste(x[None], changed[None], layer[None])[0], changed

    def _put_right(self, x: Tensor, graphs: PhotoGraphs, scg: SCG, index: int) -> list[Counterfactual]:
        """Found concepts of a class that lie elsewhere than they should, moved: those that the GRN expects most of."""
        there = scg.detected[index, : self.bank.num_concepts].nonzero()[:, 0].tolist()
        put = [(k, anchor, self.typical.elsewhere(scg, index, k, anchor)) for k, anchor in permutations(there, 2)]
        pairs = [(k, anchor, place) for k, anchor, place in put if place is not None]
        if not pairs:
            return []
        predicted = self._predicted(scg, [self.typical.put_right(scg, index, k, place) for k, _, place in pairs])
        best = np.argsort(-predicted[:, index])[:MOST_MOVES]
        found = []
        height, width = x.shape[1:]
        for choice in best.tolist():
            k, anchor, place = pairs[choice]
            point, unknown = (float(place[0]), float(place[1])), np.full_like(predicted[choice], np.nan)
            if not self.measure:
                found.append(Counterfactual(index, k, anchor, point, predicted[choice], unknown, unknown))
                continue
            way = ((place - scg.centroids[index, k]) * torch.tensor([width, height])).round().long()[None]
            mask = torch.from_numpy(graphs.patches[0].select(graphs.matched[0][index, k : k + 1]).masks)
            editors = self.editor, second_editor(self.editor)
            gains = self._measured(
                graphs.logits[0], torch.cat([editor.move(x[None], mask, way)[0] for editor in editors])
            )
            mean, noise = (gains[0] + gains[1]) / 2, np.abs(gains[0] - gains[1]) / 2
            found.append(Counterfactual(index, k, anchor, point, predicted[choice], mean, noise))
        return found
