import copy
import pickle

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


def adapted(order=3):
    """Two channels whose knots follow exp(N(0, 1)), far from uniform."""
    basis = BSpline(2, spline_order=order).double()
    basis.update_grid(torch.randn(2, 500, generator=torch.Generator().manual_seed(1)).exp())
    return basis


def scipy_values(basis, x):
    """(C, n) -> (C, K, n) of the basis's own knots."""
    k = basis.spline_order
    values = []
    for channel, points in zip(basis.knots.double().numpy(), x.numpy(), strict=True):
        parts = [channel[j : j + k + 2] for j in range(basis.num_functions)]
        splines = [SciPyBSpline.basis_element(part, extrapolate=False) for part in parts]
        values.append([np.nan_to_num(spline(points)) for spline in splines])
    return torch.tensor(np.array(values))


X = torch.linspace(0.01, 6, 80, dtype=torch.float64).expand(1, 2, 80)


def loaded():
    basis = BSpline(2).double()
    basis.load_state_dict(adapted().state_dict())
    return basis


def assigned():
    basis = BSpline(2).double()
    basis.load_state_dict(adapted().state_dict(), assign=True)
    return basis


def overwritten():
    basis = BSpline(2).double()
    basis.knots.data.copy_(adapted().knots)
    return basis


def materialized():
    with torch.device("meta"):
        basis = BSpline(2).double()
    basis.to_empty(device="cpu").load_state_dict(adapted().state_dict())
    return basis


def replaced():
    basis = BSpline(2).double()
    basis.knots = adapted().knots
    return basis


ADAPTED = {
    "updated": adapted,
    "loaded": loaded,
    "assigned": assigned,
    "overwritten": overwritten,
    "materialized": materialized,
    "replaced": replaced,
    "copied": lambda: copy.deepcopy(adapted()),
    "pickled": lambda: pickle.loads(pickle.dumps(adapted())),
    "overwritten, copied": lambda: copy.deepcopy(overwritten()),
}
FIRST_USES = {
    "eager": lambda basis: basis(X),
    "export": lambda basis: torch.export.export(basis, (X,)).module()(X),
    "strict export": lambda basis: torch.export.export(basis, (X,), strict=True).module()(X),
    "compile": lambda basis: torch.compile(basis, backend="eager")(X),
    "trace": lambda basis: torch.jit.trace(basis, (X,), check_trace=False)(X),
    "vmap": lambda basis: torch.func.vmap(lambda x: basis(x[None])[0])(X),
    "functional_call": lambda basis: torch.func.functional_call(
        BSpline(2).double(), basis.state_dict(), (X,)
    ),
}


# A trace takes seconds; how the knots were adapted matters to "updated" and "loaded" alone.
ADAPTED_AND_USED = [
    pytest.param(how, first, marks=[pytest.mark.slow] * is_slow)
    for first in FIRST_USES
    for how in ADAPTED
    for is_slow in ["export" in first and how not in ("updated", "loaded")]
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("how", "first"), ADAPTED_AND_USED)
@pytest.mark.slow_except("updated-compile", "-trace", "-vmap", "-eager")
def test_adapted_knots_are_adapted_whatever_uses_them_first(how, first):
    torch._dynamo.reset()
    if how == "overwritten" and "export" in first:
        pytest.skip("an exporter hides values that nothing has counted or run")
    basis = ADAPTED[how]()
    torch.testing.assert_close(
        FIRST_USES[first](basis)[0], scipy_values(adapted(), X[0]), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize(
    "order", [1, 3, *[pytest.param(k, marks=pytest.mark.slow) for k in (2, 4, 5)]]
)
def test_a_compiled_basis_follows_knots_that_change(order):
    basis = BSpline(2, spline_order=order).double()
    torch._dynamo.reset()
    compiled = torch.compile(basis, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(X)[0], scipy_values(basis, X[0]), atol=1e-6, rtol=0)
    basis.update_grid(torch.randn(2, 500).exp())
    torch.testing.assert_close(compiled(X)[0], scipy_values(basis, X[0]), atol=1e-12, rtol=0)
    basis.load_state_dict(BSpline(2, spline_order=order, grid_range=(0, 3)).state_dict())
    torch.testing.assert_close(compiled(X)[0], scipy_values(basis, X[0]), atol=1e-6, rtol=0)
    basis.load_state_dict(adapted(order).state_dict())
    torch.testing.assert_close(compiled(X)[0], scipy_values(basis, X[0]), atol=1e-12, rtol=0)


def test_a_compiled_basis_fails_where_its_knots_were_overwritten_unseen():
    """As an average of weights does, which copies buffers in place."""
    basis = BSpline(2)
    torch._dynamo.reset()
    compiled = torch.compile(basis, backend="eager", fullgraph=True)
    compiled(X.float())
    with torch.no_grad():
        basis.knots.copy_(adapted(3).knots)
    with pytest.raises(RuntimeError, match="knots .* overwritten"):
        compiled(X.float())


def test_an_exported_basis_called_with_the_knots_of_another_computes_with_those():
    class Borrowing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.basis, self.lender = BSpline(2).double(), adapted()

        def forward(self, x):
            return torch.func.functional_call(self.basis, {"knots": self.lender.knots}, (x,))

    exported = torch.export.export(Borrowing(), (X,)).module()
    torch.testing.assert_close(exported(X)[0], scipy_values(adapted(), X[0]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("base", [0, 1])
def test_stacked_members_of_both_kinds_are_right_under_vmap(base):
    members = [BSpline(2).double(), adapted()]
    state = torch.func.stack_module_state(members)[1]
    skeleton = copy.deepcopy(members[base]).to("meta")
    values = torch.func.vmap(lambda b: torch.func.functional_call(skeleton, b, (X,)))(state)
    for member, value in zip(members, values, strict=True):
        torch.testing.assert_close(value[0], scipy_values(member, X[0]), atol=1e-12, rtol=0)


def test_derivatives_under_vmap_are_those_of_scipy():
    basis = loaded()
    points = torch.tensor([0.3, 1.1, 2.5], dtype=torch.float64)
    derivatives = torch.func.vmap(torch.func.jacrev(lambda x: basis(x.expand(1, 2))[0, 0]))(points)
    k, knots = 3, basis.knots[0].numpy()
    for j in range(basis.num_functions):
        spline = SciPyBSpline.basis_element(knots[j : j + k + 2], extrapolate=False).derivative()
        expected = torch.tensor(np.nan_to_num(spline(points.numpy())))
        torch.testing.assert_close(derivatives[:, j], expected, atol=1e-9, rtol=0)


def test_the_knots_are_all_that_is_stored():
    """Checkpoints of before and after are the same, and load strictly into each other."""
    assert list(BSpline(2).state_dict()) == list(adapted().state_dict()) == ["knots"]


def test_a_uniform_grid_keeps_the_closed_form_through_moves_and_copies():
    basis = BSpline(3, grid_range=(-7, 2))
    for same in (basis, copy.deepcopy(basis), pickle.loads(pickle.dumps(basis)), basis.double()):
        assert same.uniform
    twin = BSpline(3)
    twin.load_state_dict(basis.state_dict())
    assert twin.uniform
    assert basis.half().uniform


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize("make", [lambda order: BSpline(2, spline_order=order), adapted])
def test_infinity_gives_zero_and_nan_gives_nan(order, make):
    basis = make(order)
    far = torch.tensor([torch.inf, -torch.inf, 1e30, -1e30], dtype=torch.float64)
    x = far.expand(1, 2, 4).clone().requires_grad_()
    y = basis(x)
    assert (y == 0).all()
    if order > 0:
        assert (torch.autograd.grad(y.sum(), x)[0] == 0).all()
        derivatives = [
            slope for _, slope in basis.values_and_derivatives(x.detach(), derivatives=True)
        ]
        assert (torch.stack(derivatives) == 0).all()
    assert basis(torch.full((1, 2, 1), torch.nan, dtype=torch.float64)).isnan().all()


def test_built_and_loaded_in_inference_mode_it_works_within_and_without():
    state = adapted().state_dict()
    with torch.inference_mode():
        basis = BSpline(2).double()
        uniform = basis(X)
        basis.load_state_dict(state)
        inside = basis(X)
    torch.testing.assert_close(
        uniform[0], scipy_values(BSpline(2).double(), X[0]), atol=1e-6, rtol=0
    )
    for values in (inside, basis(X), copy.deepcopy(basis)(X)):
        torch.testing.assert_close(values[0], scipy_values(adapted(), X[0]), atol=1e-12, rtol=0)
    basis.reset_parameters()
    basis.update_grid(torch.rand(2, 50, dtype=torch.float64))
    torch.testing.assert_close(basis(X)[0], scipy_values(basis, X[0]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_knots_are_not_rounded_to_half_precision(dtype):
    exact = BSpline(2).knots
    torch.set_default_dtype(dtype)
    try:
        basis = BSpline(2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert basis.knots.dtype == torch.float32
    assert torch.equal(basis.knots, exact)


@pytest.mark.parametrize("keep_tails", [True, False])
def test_a_refined_grid_goes_back_to_equal_intervals_of_its_own_range(keep_tails):
    basis = BSpline(2, grid_size=4, grid_range=(-2, 2))
    basis.refine(8, keep_tails=keep_tails)
    refined = basis.knots.clone()
    basis.update_grid(torch.randn(2, 100).exp())
    basis.reset_parameters()
    torch.testing.assert_close(basis.knots, refined)
    assert basis.uniform


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_knots_that_are_trained_have_the_gradient_of_the_splines(float64, kind):
    """Uniform ones too, whose closed form reads the outermost two only."""
    basis, u = BSpline(1, grid_size=3, spline_order=2), torch.rand(1, 1, 9) * 1.8 - 0.9
    if kind == "parameter":
        knots = basis._buffers.pop("knots")
        basis.knots = torch.nn.Parameter(knots)
    basis.knots.requires_grad_()
    (found,) = torch.autograd.grad(basis(u).sin().sum(), basis.knots)
    knots, at, step = basis.knots.detach().numpy()[0], u.numpy().ravel(), 1e-6

    def total(knots):
        return np.sin(SciPyBSpline.design_matrix(at, knots, 2, extrapolate=True).toarray()).sum()

    for i, each in enumerate(np.eye(len(knots)) * step):
        slope = (total(knots + each) - total(knots - each)) / (2 * step)
        assert abs(float(found[0, i]) - slope) < 1e-7
