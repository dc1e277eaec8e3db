import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline as SciPyBSpline

from kanseg.bases.bspline import BSpline


def reference(x, grid_size, order, lo, hi):
    step = (hi - lo) / grid_size
    knots = lo + (np.arange(grid_size + 2 * order + 1) - order) * step
    return SciPyBSpline.design_matrix(x, knots, order).toarray()


def inside_intervals(x, grid_size, lo, hi):
    """Not on a knot, where order 0 jumps."""
    position = (x - lo) / (hi - lo) * grid_size
    return np.abs(position - np.round(position)) > 1e-6


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize(("grid_size", "lo", "hi"), [(5, -1, 1), (1, -1, 1), (8, -3, 2)])
def test_values_are_those_of_scipy(float64, order, grid_size, lo, hi):
    x = np.linspace(lo, hi, 203)[1:-1]
    x = x[inside_intervals(x, grid_size, lo, hi)]
    basis = BSpline(1, grid_size=grid_size, spline_order=order, grid_range=(lo, hi))
    u = torch.from_numpy(x).view(1, 1, -1)
    expected = reference(x, grid_size, order, lo, hi)
    np.testing.assert_allclose(basis(u)[0, 0].T.numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(basis.float()(u.float())[0, 0].T.numpy(), expected, atol=1e-5)


def test_functions_sum_to_one_on_the_grid_including_its_ends():
    x = torch.cat([torch.tensor([-1.0, 1.0]), torch.rand(50) * 2 - 1])
    for order in range(6):
        total = BSpline(1, spline_order=order)(x.view(1, 1, -1)).sum(dim=2)
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)


def test_functions_vanish_far_outside_the_grid():
    assert (BSpline(1)(torch.tensor([-5.0, 5.0, 1e4]).view(1, 1, -1)) == 0).all()


@pytest.mark.parametrize(
    "options",
    [
        {"spline_order": 6},
        {"spline_order": -1},
        {"grid_size": 0},
        {"grid_range": (1, 1)},
        {"domain": "tan"},
        {"grid_size": 2.5},
    ],
)
def test_options_out_of_range_say_what_is_allowed(options):
    with pytest.raises(ValueError, match="at least|from 0 to 5|lo < hi|known:"):
        BSpline(1, **options)
