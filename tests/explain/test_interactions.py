"""Interactions against hand-computed games, shapiq and a slow second implementation; placements against loops."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from numpy.typing import NDArray

from vrx.explain.interactions import STAYS, coalitions, explained_shares, interactions, placements, together


def game_of(values: NDArray[np.float64], players: int) -> dict[tuple[int, ...], float]:
    return {tuple(np.flatnonzero(row).tolist()): float(v) for row, v in zip(coalitions(players), values, strict=True)}


def test_coalitions_are_all_sets_in_the_order_of_their_bits() -> None:
    assert coalitions(2).tolist() == [[False, False], [True, False], [False, True], [True, True]]
    assert coalitions(0).shape == (1, 0) and len({tuple(r) for r in coalitions(4).tolist()}) == 16


def test_both_or_nothing_is_a_pair_alone() -> None:
    members = coalitions(3)
    both = 4.0 * (members[:, 0] & members[:, 2]) + 1.5 * members[:, 1]
    main, pairs = interactions(both)
    np.testing.assert_allclose(main, [0, 1.5, 0], atol=1e-12)
    np.testing.assert_allclose(pairs, [[0, 0, 4], [0, 0, 0], [4, 0, 0]], atol=1e-12)
    order_1, order_2 = explained_shares(both)
    assert order_1 < 0.9 and order_2 == pytest.approx(1)
    assert explained_shares(members @ np.array([1.0, -2, 3])) == pytest.approx((1, 1))
    assert explained_shares(np.full(8, 3.0)) == (1.0, 1.0)


@pytest.mark.parametrize("players", [1, 2, 3, 5])
def test_everything_adds_up_to_what_all_players_add(players: int) -> None:
    values = np.random.default_rng(players).normal(size=(2**players, 3))
    main, pairs = interactions(values)
    total = main.sum(0) + pairs[np.triu_indices(players, 1)].sum(0)
    np.testing.assert_allclose(total, values[-1] - values[0])
    np.testing.assert_allclose(pairs, pairs.transpose(1, 0, 2))


def test_pairs_against_all_orders_of_the_players() -> None:
    """The Shapley interaction index as the mean over all orders in which the pair comes as one."""
    players = 4
    values = np.random.default_rng(1).normal(size=2**players)
    game = game_of(values, players)
    _, pairs = interactions(values)
    for i, j in combinations(range(players), 2):
        rest = [k for k in range(players) if k not in (i, j)]
        found = []
        for order in {p for p in product([*rest, "pair"], repeat=players - 1) if len(set(p)) == players - 1}:
            before = [k for k in order[: order.index("pair")] if isinstance(k, int)]

            def worth(*more: int, before: list[int] = before) -> float:
                return game[tuple(sorted([*before, *more]))]

            found.append(worth(i, j) - worth(i) - worth(j) + worth())
        assert pairs[i, j] == pytest.approx(np.mean(found))


def test_against_shapiq() -> None:
    shapiq = pytest.importorskip("shapiq", reason="shapiq is no dependency of vrx itself")
    players = 5
    values = np.random.default_rng(2).normal(size=2**players)

    def ask(sets: NDArray[np.bool_]) -> NDArray[np.float64]:
        return values[(sets.astype(int) * 2 ** np.arange(players)).sum(1)]

    computer = shapiq.ExactComputer(n_players=players, game=ask)
    theirs = computer("k-SII", order=2)
    main, pairs = interactions(values)
    for k in range(players):
        assert main[k] == pytest.approx(theirs[(k,)], abs=1e-9)
    for i, j in combinations(range(players), 2):
        assert pairs[i, j] == pytest.approx(theirs[(i, j)], abs=1e-9)


class Toy:
    """Worth 3 when players 0 and 1 are there at their places, and 1 for player 2 wherever it is."""

    def __call__(self, gone: NDArray[np.bool_], moved: NDArray[np.int64]) -> NDArray[np.float64]:
        there = ~gone
        lie_right = there[:, 0] & there[:, 1] & ~np.isin(moved, (0, 1))
        return np.stack([3.0 * lie_right + there[:, 2], -3.0 * lie_right], axis=1)


def test_placements_say_whose_place_counts_because_of_whom() -> None:
    moved, found = placements(Toy(), np.array([True, False, True]), together(Toy(), 3)[0])
    assert found.shape == (3, 3, 2)
    np.testing.assert_allclose(moved, [[3, -3], [np.nan] * 2, [0, 0]])
    assert np.isnan(found[:, 1]).all(), "player 1 cannot be moved"
    assert np.isnan(found[0, 0]).all() and np.isnan(found[2, 2]).all()
    np.testing.assert_allclose(found[1, 0], [3, -3])  # the place of 0 counts because of 1
    np.testing.assert_allclose(found[2, 0], [0, 0])  # and not because of 2
    np.testing.assert_allclose(found[:2, 2], 0)  # 2 counts wherever it is


def test_placements_against_a_loop_over_pairs() -> None:
    """Every photo with a player moved is asked about once, none without."""
    asked: list[tuple[tuple[bool, ...], int]] = []

    def game(gone: NDArray[np.bool_], moved: NDArray[np.int64]) -> NDArray[np.float64]:
        asked.extend(zip(map(tuple, gone.tolist()), moved.tolist(), strict=True))
        return np.array([worth(row, k) for row, k in zip(gone, moved, strict=True)])

    def worth(gone: NDArray[np.bool_], moved: int) -> list[float]:
        there = np.arange(1, 5) * ~gone
        return [there.sum() ** 2 + there @ np.roll(there, 1) * (moved + 2), np.sin(there).sum() * (moved + 3)]

    movable = np.array([True, True, False, True])
    values = game(~coalitions(4), np.full(16, STAYS))
    asked.clear()
    moved, found = placements(game, movable, values)
    assert len(asked) == len(set(asked)) == 3 * 4 and all(k != STAYS for _, k in asked)
    nobody = np.zeros(4, bool)
    for i, j in product(range(4), repeat=2):
        if i == j or not movable[j]:
            assert np.isnan(found[i, j]).all()
            continue
        only_i = np.arange(4) == i
        for c in range(2):
            with_i = worth(nobody, STAYS)[c] - worth(nobody, j)[c]
            without_i = worth(only_i, STAYS)[c] - worth(only_i, j)[c]
            assert moved[j, c] == pytest.approx(with_i)
            assert found[i, j, c] == pytest.approx(with_i - without_i)


def test_together_asks_every_coalition_without_moving_anybody() -> None:
    values, main, pairs = together(Toy(), 3)
    assert values.shape == (8, 2) and values[0].tolist() == [0, 0] and values[7].tolist() == [4, -3]
    np.testing.assert_allclose(pairs[0, 1], [3, -3])
    np.testing.assert_allclose(main[:, 0], [0, 0, 1], atol=1e-12)
    assert STAYS == -1


def test_against_the_two_contexts_of_archdetect() -> None:
    """ArchDetect (Tsang et al., NeurIPS 2020) asks a pair with all others there and with none: where no third player
    changes a pair, both contexts and the mean over all of them are the same number.
    """
    count, rng = 5, np.random.default_rng(3)
    alone, both = rng.normal(size=count), np.triu(rng.normal(size=(count, count)), 1)
    members = coalitions(count).astype(float)
    values = members @ alone + np.einsum("si,ij,sj->s", members, both, members)
    _, pairs = interactions(values)
    whole = 2**count - 1
    for i, j in combinations(range(count), 2):
        a, b = 1 << i, 1 << j
        with_others = values[whole] - values[whole ^ a] - values[whole ^ b] + values[whole ^ a ^ b]
        with_none = values[a | b] - values[a] - values[b] + values[0]
        assert pairs[i, j] == pytest.approx(with_others) == pytest.approx(with_none)
        assert pairs[i, j] == pytest.approx(both[i, j])
