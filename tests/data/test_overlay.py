import numpy as np
import pytest

from kanseg.data.io.colors import IGNORE_INDEX_COLOR, default_palette
from kanseg.data.label_spec import LabelSpec
from kanseg.data.overlay import (
    MISSED,
    WRONG,
    colorize,
    error_map,
    ignored_color,
    overlay,
    viewable,
)

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
EYES = {
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
DIM = (70, 70, 70)  # 200 * 0.35


def seen(colors, eyes):
    """sRGB colors as CIELAB of what such eyes see."""
    values = np.asarray(colors, float) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    x, y, z = (np.clip(linear @ EYES[eyes].T, 0, 1) @ TO_XYZ.T / [0.95047, 1, 1.08883]).T
    fx, fy, fz = (np.where(v > 0.008856, np.cbrt(v), 7.787 * v + 16 / 116) for v in (x, y, z))
    return np.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], axis=1)


def nearest(colors, others, eyes):
    """The smallest distance between two different colors."""
    far = np.linalg.norm(seen(colors, eyes)[:, None] - seen(others, eyes)[None], axis=-1)
    return far[far > 0].min()


@pytest.mark.parametrize("eyes", EYES)
def test_the_default_colors_differ_for_everybody(eyes):
    palette = default_palette(21)
    assert nearest(palette[:12], palette[:12], eyes) > 23
    assert nearest(palette, palette, eyes) > 16
    assert nearest(palette, [IGNORE_INDEX_COLOR], eyes) > 15
    assert nearest(palette, [WRONG], eyes) > 18  # the binary legend shows them beside each other
    assert nearest([WRONG], [MISSED], eyes) > 60
    assert nearest([IGNORE_INDEX_COLOR], [WRONG, MISSED], eyes) > 23


def test_wrong_pixels_of_two_classes_are_made_up_or_missed():
    image = np.full((4, 4, 3), 200, np.uint8)
    target = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1], [255, 255, 0, 1]])
    predicted = np.array([[0, 1, 0, 1], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 1, 1]])
    d, w, m, i = DIM, WRONG, MISSED, IGNORE_INDEX_COLOR
    expected = [[d, w, d, w], [m, d, m, d], [w, m, w, m], [i, i, w, d]]
    assert error_map(image, target, predicted, sides=True).tolist() == np.array(expected).tolist()
    expected = [[w if color == m else color for color in row] for row in expected]
    assert error_map(image, target, predicted, sides=False).tolist() == np.array(expected).tolist()


def test_a_multilabel_pixel_is_wrong_where_any_class_is_and_ignored_where_all_are():
    image = np.full((1, 5, 3), 200, np.uint8)
    target = np.array([[[0, 1, 1, 255, 255]], [[0, 0, 1, 255, 1]]])
    predicted = np.array([[[0, 1, 0, 1, 1]], [[0, 1, 1, 1, 0]]])
    assert error_map(image, target, predicted, sides=False).tolist() == [
        [list(c) for c in (DIM, WRONG, WRONG, IGNORE_INDEX_COLOR, WRONG)]
    ]


def test_overlapping_classes_are_mixed_and_each_is_bordered_in_its_own_color():
    label = np.zeros((2, 9, 9), np.uint8)
    label[0, 1:8, 1:8] = 1
    label[1, 2:7, 2:7] = 1
    label[:, 8] = 255
    image = colorize(label, [(200, 0, 0), (0, 0, 100)])
    assert image[0, 0].tolist() == [0, 0, 0]
    assert image[1, 4].tolist() == [200, 0, 0]
    assert image[2, 4].tolist() == [0, 0, 100]  # the border of the inner one
    assert image[4, 4].tolist() == [100, 0, 50]
    assert image[8, 4].tolist() == list(IGNORE_INDEX_COLOR)


def test_multilabel_overlays_tint_every_class_and_leave_the_rest():
    label = np.zeros((1, 7, 7), np.uint8)
    label[0, 1:6, 1:6] = 1
    drawn = overlay(np.full((7, 7, 3), 100, np.uint8), label, [(255, 0, 0)])
    assert drawn[0, 0].tolist() == [100, 100, 100]
    assert drawn[3, 3].tolist() == [162, 60, 60]
    assert drawn[1, 3].tolist() == [255, 64, 64]


def test_overlays_leave_the_background_alone_and_draw_borders():
    image = np.full((5, 5, 3), 100, np.uint8)
    label = np.zeros((5, 5), np.uint8)
    label[2:, 2:] = 1
    drawn = overlay(image, label, [(0, 0, 0), (255, 0, 0)])
    assert drawn[0, 0].tolist() == [100, 100, 100]
    assert drawn[4, 4].tolist() == [162, 60, 60]
    assert drawn[2, 2].tolist() == [255, 64, 64]


def test_ignored_pixels_are_gray_unless_a_class_is():
    assert colorize(np.array([[255]]), [(0, 0, 0)]).tolist() == [[list(IGNORE_INDEX_COLOR)]]
    assert ignored_color([(120, 130, 128)]) == (255, 255, 255)
    assert ignored_color([(120, 130, 128), (250, 250, 250)]) == (255, 0, 255)
    assert all(
        ignored_color(LabelSpec("multilabel", tuple(map(str, range(n)))).colors)
        == IGNORE_INDEX_COLOR
        for n in (1, 254)
    )


def test_16_bit_and_multi_band_images_are_stretched_and_shown_by_their_first_bands():
    deep = np.linspace(1000, 3000, 100).astype(np.uint16).reshape(10, 10, 1)
    assert viewable(deep).min() == 0
    assert viewable(deep).max() == 255
    bands = np.arange(8, dtype=np.uint8)[None, None].repeat(2, axis=0)
    assert viewable(bands).tolist() == [[[0, 1, 2]], [[0, 1, 2]]]
    assert viewable(np.full((2, 2, 5), 700, np.uint16)).tolist() == np.zeros((2, 2, 3)).tolist()
