import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kanseg.inference.tta import View, ViewAverage, views
from kanseg.utils.errors import InputError

IMAGE = torch.arange(2 * 3 * 4.0).reshape(1, 2, 3, 4)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_views_are_different_symmetries_of_a_square_and_are_undone(count):
    transformed = [view.apply(IMAGE) for view in views(count)]
    assert len({tuple(x.flatten().tolist()) + tuple(x.shape) for x in transformed}) == count
    for view, x in zip(views(count), transformed, strict=True):
        assert torch.equal(view.undo(x, (3, 4)), IMAGE)


def test_the_eight_are_the_turns_and_their_mirror_images():
    square = np.arange(9.0).reshape(3, 3)
    expected = {tuple(np.rot90(s, k).ravel()) for s in (square, square.T) for k in range(4)}
    assert {
        tuple(view.apply(torch.from_numpy(square)[None, None]).flatten().tolist())
        for view in views(8)
    } == expected


def test_every_scale_comes_with_every_flip_once():
    assert [(v.axes, v.scale) for v in views(2, (1.0, 0.5, 1.0))] == [
        ((), 1.0),
        ((-1,), 1.0),
        ((), 0.5),
        ((-1,), 0.5),
    ]


def test_a_scaled_view_is_a_scaled_image_and_its_map_scaled_back():
    image = torch.rand(1, 1, 8, 12)
    transformed = View(scale=1.5).apply(image)
    assert torch.equal(transformed, F.interpolate(image, size=(12, 18), mode="bilinear"))
    assert torch.equal(
        View(scale=1.5).undo(transformed, (8, 12)),
        F.interpolate(transformed, size=(8, 12), mode="bilinear"),
    )


def test_a_constant_stays_constant_at_any_scale():
    for scale in (0.1, 0.75, 1.25):
        view = View((-1,), True, scale)
        torch.testing.assert_close(
            view.undo(view.apply(torch.full((1, 1, 7, 9), 0.3)), (7, 9)),
            torch.full((1, 1, 7, 9), 0.3),
        )


def test_mean_and_variance_over_the_views_are_those_of_numpy():
    each = torch.rand(4, 1, 2, 5, 6)
    average = ViewAverage(variance=True)
    for values in each:
        average.update(values)
    result = average.result()
    each = each.numpy()
    np.testing.assert_allclose(result[:, :-1], each.mean(0), rtol=1e-5)
    np.testing.assert_allclose(result[:, -1], each.var(0).mean(1), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "options", [{"flips": 3}, {"scales": ()}, {"scales": (0.0,)}, {"scales": (-1.0,)}]
)
def test_other_views_are_refused(options):
    with pytest.raises(InputError, match="flips must be|scales must be"):
        views(**options)
