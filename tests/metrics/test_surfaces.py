import math

import numpy as np
import pytest
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from kanseg.metrics import SurfaceOptions, boundary_counts, surface_scores
from kanseg.utils.errors import InputError

SQUARE = np.zeros((20, 30), bool)
SQUARE[5:12, 6:15] = True


def blobs(seed, shape=(24, 31), threshold=0.5):
    """Random masks with outlines of some length."""
    values = np.random.default_rng(seed).random((shape[0] // 4 + 1, shape[1] // 4 + 1))
    return np.kron(values, np.ones((4, 4)))[: shape[0], : shape[1]] > threshold


def by_hand(predicted, truth, spacing, tolerance):
    """All distances of all pairs of surface pixels."""
    ours, theirs = (
        np.argwhere(mask & ~binary_erosion(mask)) * np.array(spacing) for mask in (predicted, truth)
    )
    distances = cdist(ours, theirs)
    forth, back = distances.min(axis=1), distances.min(axis=0)
    both = np.concatenate([forth, back])
    return {
        "hd95": max(np.percentile(forth, 95), np.percentile(back, 95)),
        "hd": max(forth.max(), back.max()),
        "assd": (forth.sum() + back.sum()) / len(both),
        "nsd": (both <= tolerance).mean(),
    }


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 0.5), (2.0, 0.7)])
@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_all_pairs_of_surface_pixels(seed, spacing):
    predicted, truth = blobs(seed, threshold=0.6), blobs(seed + 100, threshold=0.7)
    found = surface_scores(predicted, truth, spacing=spacing, tolerance=1.3)
    assert found == pytest.approx(by_hand(predicted, truth, spacing, 1.3), rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (2, 3)])
def test_thin_images_are_measured_too(shape):
    predicted, truth = (np.random.default_rng(seed).random(shape) < 0.5 for seed in (1, 2))
    assert surface_scores(predicted, truth, spacing=(1.0, 3.0)) == pytest.approx(
        by_hand(predicted, truth, (1.0, 3.0), 2.0)
    )


def test_a_moved_square_by_hand():
    """Three columns further: no place of the surface is farther than that, and the ends are."""
    found = surface_scores(np.roll(SQUARE, 3, axis=1), SQUARE, spacing=(1.0, 0.5), tolerance=0.0)
    assert found["hd"] == 1.5
    assert found["nsd"] == 2 * 12 / (
        2 * 28
    )  # of 28 surface pixels each, six columns of both long sides coincide


def test_equal_masks_are_perfect():
    assert surface_scores(SQUARE, SQUARE, tolerance=0.0) == {
        "hd95": 0.0,
        "hd": 0.0,
        "assd": 0.0,
        "nsd": 1.0,
    }


def test_target_and_prediction_can_change_places():
    predicted, truth = blobs(1), blobs(2)
    assert surface_scores(predicted, truth) == pytest.approx(surface_scores(truth, predicted))


@pytest.mark.parametrize(
    ("predicted", "truth"), [(SQUARE, ~SQUARE & False), (SQUARE & False, SQUARE)]
)
def test_a_class_in_one_mask_only_is_as_far_as_can_be(predicted, truth):
    diagonal = math.hypot(20 * 2.0, 30 * 0.5)
    assert surface_scores(predicted, truth, spacing=(2.0, 0.5)) == {
        "hd95": diagonal,
        "hd": diagonal,
        "assd": diagonal,
        "nsd": 0.0,
    }


def test_a_class_in_neither_mask_is_undefined():
    assert all(
        math.isnan(value) for value in surface_scores(SQUARE & False, SQUARE & False).values()
    )


class TestIgnoredPixels:
    counted = np.ones(SQUARE.shape, bool)
    counted[:, 12:] = False  # the right part of the square and all beyond

    def test_what_is_predicted_there_does_not_matter(self):
        changed = SQUARE.copy()
        changed[:, 14:] ^= True
        assert surface_scores(changed, np.roll(SQUARE, 1, 0), self.counted) == surface_scores(
            SQUARE, np.roll(SQUARE, 1, 0), self.counted
        )

    def test_a_mask_has_no_surface_where_it_touches_them(self):
        """One row lower, two of the 3 sides that are left differ; the cut at column 12, where both
        agree, is none.
        """
        found = surface_scores(np.roll(SQUARE, 1, axis=0), SQUARE, self.counted, tolerance=0.0)
        # 6 + 6 pixels of the rows and 5 more of the left side, each: the left side has 6 places in
        # common
        assert found["nsd"] == pytest.approx(2 * 6 / (2 * 17))

    def test_masks_without_a_surface_are_undefined(self):
        counted = SQUARE.copy()
        assert all(math.isnan(value) for value in surface_scores(SQUARE, SQUARE, counted).values())


@pytest.mark.parametrize(
    "options",
    [
        {"tolerance": -1.0},
        {"tolerance": math.nan},
        {"spacing": (1.0, 0.0)},
        {"spacing": (1.0,)},
        {"spacing": (1.0, math.inf)},
    ],
)
def test_options_out_of_range_are_told(options):
    with pytest.raises(InputError, match="must be"):
        SurfaceOptions(**options)


def boundary_by_hand(mask, pixels):
    """The pixels that have one outside the mask, or outside the image, within a square around
    them.
    """
    padded = np.pad(mask, pixels)
    rows, columns = mask.shape
    return np.array(
        [
            [
                mask[y, x] and not padded[y : y + 2 * pixels + 1, x : x + 2 * pixels + 1].all()
                for x in range(columns)
            ]
            for y in range(rows)
        ]
    )


@pytest.mark.parametrize(("width", "pixels"), [(0.02, 1), (0.1, 4)])
def test_boundary_iou_is_its_definition(width, pixels):
    predicted, truth = blobs(3, threshold=0.2), blobs(4, threshold=0.2)
    assert round(width * math.hypot(24, 31)) == pixels
    ours, theirs = boundary_by_hand(predicted, pixels), boundary_by_hand(truth, pixels)
    assert boundary_counts(predicted, truth, width=width) == (
        (ours & theirs).sum(),
        (ours | theirs).sum(),
    )


def test_a_wide_boundary_is_the_mask_itself():
    predicted, truth = blobs(5), blobs(6)
    assert boundary_counts(predicted, truth, width=1.0) == (
        (predicted & truth).sum(),
        (predicted | truth).sum(),
    )


def test_ignored_pixels_make_no_boundary():
    counted = np.ones(SQUARE.shape, bool)
    counted[:, 12:] = False
    full = boundary_by_hand(SQUARE, 1)
    expected = (full & counted).sum()
    assert boundary_counts(SQUARE, SQUARE, counted) == (expected, expected)
