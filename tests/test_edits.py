"""Edits of photos against scipy, hand-made cases and pixels that must not change."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from vrx.edits import Editor, Fill, gaussian_blur, inpaint, soften
from vrx.errors import VRXError


def photos(count: int = 2, height: int = 48, width: int = 40) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def masks(count: int = 2, height: int = 48, width: int = 40) -> Tensor:
    mask = torch.zeros(count, height, width, dtype=torch.bool)
    for k in range(count):
        mask[k, 14 + k : 32 + k, 11 : 27 + k] = True
    return mask


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 4.5])
def test_small_blur_against_scipy(sigma: float) -> None:
    x = photos()
    radius = max(1, round(3 * sigma))
    expected = ndimage.gaussian_filter(x.numpy(), sigma, mode="nearest", axes=(2, 3), radius=radius)
    np.testing.assert_allclose(gaussian_blur(x, sigma), expected, atol=2e-6)


def test_wide_blur_is_near_scipys_and_keeps_a_constant() -> None:
    x = gaussian_blur(photos(1, 224, 200), 2)
    expected = ndimage.gaussian_filter(x.numpy(), 12, mode="nearest", axes=(2, 3))
    inner = (..., slice(40, -40), slice(40, -40))  # at the borders the smaller copy repeats an average, not a pixel
    assert np.abs(gaussian_blur(x, 12).numpy() - expected)[inner].max() < 0.2 * expected.std()
    torch.testing.assert_close(gaussian_blur(torch.full((1, 3, 224, 200), 0.7), 12), torch.full((1, 3, 224, 200), 0.7))


def test_inpaint_keeps_what_is_known_and_fills_a_constant_photo_with_its_colour() -> None:
    hole = masks().unsqueeze(1).float()
    x = photos()
    filled = inpaint(x, hole)
    outside = ~masks().unsqueeze(1).expand_as(x)
    assert torch.equal(filled[outside], x[outside])
    assert not torch.isclose(filled[~outside], x[~outside]).any(dim=0).all()
    torch.testing.assert_close(inpaint(torch.full_like(x, -0.3), hole), torch.full_like(x, -0.3))


def test_inpaint_reads_the_surroundings_of_the_hole_alone() -> None:
    """Left half dark, right half bright, a hole in each: each takes its own half's colour."""
    x = torch.full((1, 3, 48, 40), -1.0)
    x[..., 20:] = 1
    hole = torch.zeros(1, 1, 48, 40)
    hole[..., 20:24, 6:10] = 1
    hole[..., 20:24, 30:34] = 1
    torch.testing.assert_close(inpaint(torch.where(hole > 0, 9.0, x), hole), x, atol=0.02, rtol=0)


def test_inpaint_stays_within_the_range_of_the_known_pixels() -> None:
    x, hole = photos(), masks().unsqueeze(1).float()
    filled = inpaint(torch.where(hole > 0, 1e3, x), hole)
    assert filled.abs().max() <= x.abs().max() + 1e-5


def slow_dilation(mask: Tensor, radius: int) -> np.ndarray:
    square = np.ones((2 * radius + 1, 2 * radius + 1), bool)
    return np.stack([ndimage.binary_dilation(m, square) for m in mask.numpy()])


@pytest.mark.parametrize("margin", [0.03, 0.1])
def test_soften_grows_by_the_margin_and_feathers_no_further_than_documented(margin: float) -> None:
    radius = round(margin * 48)
    grown, weight = soften(masks(), margin)
    np.testing.assert_array_equal(grown[:, 0].bool(), slow_dilation(masks(), radius))
    far = ~slow_dilation(masks(), 2 * radius + -(-radius // 2))
    assert (weight[:, 0].numpy()[far] == 0).all()
    assert (weight[:, 0][masks()] > 0.85).all() and weight.max() <= 1 + 1e-6
    assert ((weight > 0.05) & (weight < 0.95)).any()


def test_no_margin_is_a_hard_edge() -> None:
    for made in soften(masks(), 0.0):
        assert torch.equal(made[:, 0].bool(), masks()) and set(made.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("fill", get_args(Fill))
def test_delete_changes_the_concept_and_nothing_beyond_its_feather(fill: Fill) -> None:
    x = photos()
    edited = Editor(fill, 0.05).delete(x, masks())
    radius = round(0.05 * 48)
    far = torch.from_numpy(~slow_dilation(masks(), 2 * radius + -(-radius // 2)))[:, None].expand_as(x)
    assert torch.equal(edited[far], x[far])
    inside = masks()[:, None].expand_as(x)
    assert ((edited - x).abs()[inside] > 1e-3).float().mean() > 0.98
    if fill == "inpaint":  # beyond the grown mask it is the photo's own pixels that are blended in
        outside = torch.from_numpy(~slow_dilation(masks(), radius))[:, None].expand_as(x)
        torch.testing.assert_close(edited[outside], x[outside])


@pytest.mark.parametrize("fill", get_args(Fill))
def test_one_photo_for_all_masks_equals_the_same_photo_repeated(fill: Fill) -> None:
    x, editor = photos(1), Editor(fill)
    torch.testing.assert_close(editor.delete(x, masks()), editor.delete(x.expand(2, -1, -1, -1), masks()))


def test_grey_and_mean_fill_with_their_colour() -> None:
    x = photos()
    mask = masks()[:, None].expand_as(x)
    assert (Editor("grey", 0).delete(x, masks())[mask] == 0).all()
    expected = x.mean((2, 3), keepdim=True).expand_as(x)[mask]
    torch.testing.assert_close(Editor("mean", 0).delete(x, masks())[mask], expected)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(VRXError, match="Unknown fill 'black'"):
        Editor("black")  # type: ignore[arg-type]
    with pytest.raises(VRXError, match=r"margin=0\.5"):
        Editor(margin=0.5)
    assert Editor("mean", 0.1).settings() == {"fill": "mean", "margin": 0.1}


@pytest.mark.parametrize("margin", [0.02, 0.1, 0.2])
@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
def test_growing_is_the_largest_value_around_each_pixel(margin: float, kind: torch.dtype) -> None:
    values = torch.rand(3, 48, 40, generator=torch.Generator().manual_seed(2))
    given = values > 0.97 if kind == torch.bool else values
    side = 2 * round(margin * 48) + 1
    expected = torch.nn.functional.max_pool2d(given.unsqueeze(1).float(), side, stride=1, padding=side // 2)
    assert torch.equal(soften(given, margin)[0], expected)
