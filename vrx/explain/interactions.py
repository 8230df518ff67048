"""What pairs of concepts count for (3.3): that they are there together, and how they lie to each other.

The found concepts of a photo are the players of a game. A network, F or the GRN, says what the photo is worth when some
players are deleted and one is moved. Both are read by the same functions, so a prediction and its check mean the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrx.classifier.classifier import Classifier
from vrx.edits import Editor, far_offset, shifted
from vrx.graphs.scg import PhotoGraphs
from vrx.graphs.variants import covered, covered_by
from vrx.models.graph_network import GraphNetwork
from vrx.scores import centred
from vrx.structures import SCG, UNMATCHED

Values = NDArray[np.float64]
STAYS = -1  # in place of the player that is moved
BATCH = 64  # edited photos in one pass


@dataclass(frozen=True)
class Players:
    """The found concepts of one photo as players of a game."""

    patches: NDArray[np.int64]  # which of the photo's patches they are, int64 [P]
    masks: NDArray[np.bool_]  # their pixels, bool [P, H, W]
    drop: Tensor  # nodes that lose their patch with each, bool [P, n, N]
    offsets: NDArray[np.int64]  # way that each is moved, right and down in pixels; 0, 0: it cannot be, [P, 2]

    def __len__(self) -> int:
        return len(self.patches)

    @property
    def movable(self) -> NDArray[np.bool_]:
        """Which players can be moved, bool ``[P]``."""
        return np.asarray((self.offsets != 0).any(1))

    @classmethod
    def of(cls, graphs: PhotoGraphs, photo: int, most: int, seed: int = 0, first: int | None = None) -> Players:
        """The distinct patches of the found concepts of a photo of a batch: of one class first, large ones first.

        ``seed``: of the places that they are moved to; ``first``: the class, None: the predicted one.
        """
        patches, matched = graphs.patches[photo], graphs.matched[photo]
        used = np.unique(matched[matched != UNMATCHED])
        other = ~np.isin(used, matched[int(graphs.logits[photo].argmax()) if first is None else first])
        chosen = used[np.lexsort((-patches.areas[used], other))][:most] if len(used) else used
        masks, rng = patches.select(chosen).masks, np.random.default_rng([seed, *chosen])
        offsets = np.zeros((len(chosen), 2), np.int64)
        for k, mask in enumerate(masks):
            offsets[k] = far_offset(mask, np.asarray(np.delete(masks, k, 0).any(0)), rng) or (0, 0)
        return cls(chosen, masks, covered_by(chosen, matched, patches), offsets)


class Game(Protocol):
    """A network's verdict on one photo without some of the players, one of them moved."""

    def __call__(self, gone: NDArray[np.bool_], moved: NDArray[np.int64]) -> Values:
        """Centred logits of interest.

        Args:
            gone: which players are deleted in each variant, bool ``[Q, P]``.
            moved: which player is moved, ``STAYS``: none, int64 ``[Q]``.

        Returns:
            ``[Q, n]``.
        """
        ...


@dataclass(frozen=True)
class ClassifierGame:
    """F on the edited photo ``x``, normalised ``[3, H, W]``."""

    classifier: Classifier
    editor: Editor
    x: Tensor
    players: Players

    def __call__(self, gone: NDArray[np.bool_], moved: NDArray[np.int64]) -> Values:
        masks = torch.from_numpy(self.players.masks).float()
        order, edited = [], []
        for k in np.unique(moved).tolist():  # edits of one photo share what their holes are filled with
            photo = self.x[None] if k == STAYS else self._moved(k)
            order.append(np.flatnonzero(moved == k))
            union = torch.einsum("qp,phw->qhw", torch.from_numpy(gone[order[-1]]).float(), masks) > 0
            edited.append(self.editor.delete(photo, union))
        with torch.inference_mode():
            logits = torch.cat([self.classifier(part).cpu() for part in torch.cat(edited).split(BATCH)])
        values = np.zeros(logits.shape)
        values[np.concatenate(order)] = centred(logits.double()).numpy()
        return values

    def _moved(self, player: int) -> Tensor:
        """The photo with a player moved, ``[1, 3, H, W]``."""
        one = slice(player, player + 1)
        mask, offset = torch.from_numpy(self.players.masks[one]), torch.from_numpy(self.players.offsets[one])
        return self.editor.move(self.x[None], mask, offset)[0]


@dataclass(frozen=True)
class GRNGame:
    """The GRN, in eval mode, on the graphs of the clean photo, ``[1, n, N, ...]``."""

    grn: GraphNetwork
    scg: SCG
    players: Players

    def __call__(self, gone: NDArray[np.bool_], moved: NDArray[np.int64]) -> Values:
        logits = np.zeros((len(gone), self.grn.num_classes))
        for k in np.unique(moved):
            rows = np.flatnonzero(moved == k)
            scg, hidden = self._moved(int(k))
            lost = torch.einsum("qp,pgk->qgk", torch.from_numpy(gone[rows]).float(), self.players.drop.float()) > 0
            with torch.inference_mode():
                found = self.grn.masked(scg, (lost.to(hidden.device) | hidden)[None])[1][0]
            logits[rows] = centred(found.double()).cpu().numpy()
        return logits

    def _moved(self, player: int) -> tuple[SCG, Tensor]:
        """The graphs with a player moved (``STAYS``: none), and the nodes that it covers there, bool ``[n, N]``."""
        drop = self.players.drop.to(self.scg.nodes.device)
        if player == STAYS:
            return self.scg, torch.zeros_like(drop[0]) if len(drop) else torch.zeros_like(self.scg.detected[0])
        height, width = self.players.masks.shape[1:]
        way = torch.from_numpy(self.players.offsets[player] / (width, height)).to(self.scg.centroids)
        places = self.scg.centroids + drop[player][..., None] * way
        return self.scg.move(places), self._hidden(player).to(drop.device) & ~drop[player]

    def _hidden(self, player: int) -> Tensor:
        """Nodes whose patch a player covers where it is moved to, bool ``[n, N]``."""
        dx, dy = self.players.offsets[player].tolist()
        masks = torch.from_numpy(self.players.masks)
        over = covered(shifted(masks[player : player + 1], dx, dy).numpy(), self.players.masks)[0]
        return self.players.drop[torch.from_numpy(over)].any(0)


def together(game: Game, players: int) -> tuple[Values, Values, Values]:
    """What the game says of all coalitions, ``[2^P, n]``, and its :func:`interactions`, ``[P, n]``, ``[P, P, n]``."""
    members = coalitions(players)
    values = game(~members, np.full(len(members), STAYS))
    return values, *interactions(values)


def placements(game: Game, movable: NDArray[np.bool_], values: Values) -> tuple[Values, Values]:
    """What it costs to move each player, and what the place of player j counts for because of player i.

    ``[v(x) - v(x, j moved)] - [v(x without i) - v(x without i, j moved)]``: 0 where moving j costs the same with i and
    without it. Only photos with a player moved are asked about.

    Args:
        game: of P players.
        movable: which of them can be moved, bool ``[P]``.
        values: of all coalitions in the order of :func:`coalitions`, ``[2^P, n]``.

    Returns:
        ``[P, n]`` and ``[P (i), P (j), n]``; NaN where j cannot be moved, or is i.
    """
    count = len(movable)
    without = np.append(len(values) - 1, len(values) - 1 - 2 ** np.arange(count))  # nobody gone, then each
    gone, moved = np.meshgrid(np.arange(count + 1), np.flatnonzero(movable), indexing="ij")
    asked = gone - 1 != moved  # a player that is gone has no place
    alone = np.concatenate([np.zeros((1, count), bool), np.eye(count, dtype=bool)])
    cost = np.full((count + 1, count, values.shape[1]), np.nan)
    at = gone[asked], moved[asked]
    if asked.any():
        cost[at] = values[without[at[0]]] - game(alone[at[0]], at[1])
    return cost[0], cost[:1] - cost[1:]


def coalitions(players: int) -> NDArray[np.bool_]:
    """All coalitions of P players: row s holds player k where bit k of s is set, bool ``[2^P, P]``."""
    return np.asarray((np.arange(2**players)[:, None] >> np.arange(players)) & 1, bool)


def interactions(values: Values) -> tuple[Values, Values]:
    """Main effects and pair interactions that add up: k-Shapley values of order 2 (Bordt & von Luxburg, AISTATS 2023).

    A pair counts for its Shapley interaction index (Grabisch & Roubens 1999): what both give beyond what each gives
    alone, averaged over all contexts. Half of it is taken from the Shapley value of each of the two, so that all main
    effects and all pairs (each once) add up to the value of all players minus that of none.

    Args:
        values: of all coalitions in the order of :func:`coalitions`, ``[2^P, ...]``.

    Returns:
        Main effects ``[P, ...]`` and pairs, symmetric with a diagonal of 0, ``[P, P, ...]``.
    """
    count = len(values).bit_length() - 1
    members = coalitions(count)
    size, index = members.sum(1), np.arange(len(values))
    main, pairs = np.zeros((count, *values.shape[1:])), np.zeros((count, count, *values.shape[1:]))
    for i in range(count):
        without = index[~members[:, i]]
        weight = _weights(size[without], count, 1)
        main[i] = np.tensordot(weight, values[without | 1 << i] - values[without], 1)
        for j in range(i):
            neither = without[~members[without, j]]
            both = values[neither | 1 << i | 1 << j] - values[neither | 1 << i] - values[neither | 1 << j]
            weight = _weights(size[neither], count, 2)
            pairs[i, j] = pairs[j, i] = np.tensordot(weight, both + values[neither], 1)
    return main - pairs.sum(1) / 2, pairs


def _weights(sizes: NDArray[np.int64], players: int, order: int) -> Values:
    """Weight of a context of each size: every size counts alike, and so does every context of a size."""
    rest = players - order
    return np.array([1 / ((rest + 1) * comb(rest, size)) for size in sizes.tolist()])


def explained_shares(values: Values) -> tuple[float, float]:
    """How much of a game single players explain, and how much with pairs: R2 of the best sums over all coalitions.

    Of the values of :func:`coalitions`, ``[2^P]``: R2 of order 1 and 2, in [0, 1]; 1 where all are worth the same.
    """
    count = len(values).bit_length() - 1
    members = coalitions(count).astype(float)
    pairs = [members[:, i] * members[:, j] for i in range(count) for j in range(i)]
    centred = values - values.mean()
    whole = float(centred @ centred)
    shares = []
    for columns in (members, np.column_stack([members, *pairs])):
        design = columns - columns.mean(0)
        left = centred - design @ np.linalg.lstsq(design, centred, rcond=None)[0]
        shares.append(1 - float(left @ left) / whole if whole > 1e-12 else 1.0)
    return shares[0], shares[1]
