import pytest
import torch

from kanseg.bases import BASES, create_basis


def test_second_moments_are_those_of_a_standard_normal_sample():
    x = torch.randn(1, 1, 400000)
    for name in BASES:
        basis = create_basis(name, 1)
        sampled = basis(x).square().mean(dim=(0, 1, 3)).double()
        torch.testing.assert_close(basis.second_moments(), sampled, rtol=0.05, atol=2e-3)


def test_misspelt_option_names_the_nearest():
    with pytest.raises(ValueError, match="no option 'degre'; did you mean 'degree'"):
        create_basis("gram", 2, degre=3)


def test_misspelt_basis_names_the_nearest():
    with pytest.raises(ValueError, match="unknown basis 'bsplines'; did you mean 'bspline'"):
        create_basis("bsplines", 2)


def test_moments_of_many_channels_are_taken_a_few_points_at_a_time(monkeypatch):
    basis = create_basis("wavelet", 7)
    whole = basis.second_moments()
    torch.testing.assert_close(whole, basis.normal_values().square().mean(dim=(0, 2)))
    monkeypatch.setattr("kanseg.bases.base.MAX_VALUES", 7 * basis.num_functions * 100)
    torch.testing.assert_close(basis.second_moments(), whole)


RESETTABLE = [
    ("bspline", {}),
    ("bspline", {"grid_size": 3, "spline_order": 2, "grid_range": (0, 7)}),
    ("rbf", {}),
    ("rbf", {"grid_size": 4, "grid_range": (-3, 5)}),
    ("wavelet", {}),
    ("wavelet", {"num_wavelets": 1}),
    ("relu", {}),
    ("relu", {"trainable": False}),
    ("rational", {}),
    ("rational", {"num_groups": 2, "degree": 2, "denominator_degree": 5}),
    ("gram", {"learnable": True, "degree": 5}),
    ("gram", {"learnable": True, "degree": 1}),
    ("gram", {}),
    ("fourier", {}),
    ("hermite", {}),
    ("bernstein", {}),
    ("jacobi", {}),
]


@pytest.mark.parametrize(("name", "options"), RESETTABLE)
def test_reset_parameters_gives_what_a_new_basis_holds(name, options):
    fresh, used = (create_basis(name, 4, **options) for _ in range(2))
    with torch.no_grad():
        for value in used.state_dict().values():
            value.mul_(3).add_(0.7)
    used.reset_parameters()
    x = torch.randn(2, 4, 9)
    for key, value in fresh.state_dict().items():
        assert torch.equal(used.state_dict()[key], value)
    assert torch.equal(used(x), fresh(x))


@pytest.mark.parametrize(("name", "options"), RESETTABLE)
def test_a_basis_built_on_meta_works_after_to_empty_and_reset(name, options):
    with torch.device("meta"):
        basis = create_basis(name, 4, **options)
    basis.to_empty(device="cpu")
    basis.reset_parameters()
    x = torch.randn(2, 4, 9)
    assert torch.equal(basis(x), create_basis(name, 4, **options)(x))


@pytest.mark.parametrize(
    ("name", "options"),
    [("rbf", {}), ("hermite", {})]
    + [("wavelet", {"wavelet": w}) for w in ("mexican_hat", "morlet", "dog", "meyer", "shannon")],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_functions_that_vanish_are_zero_at_infinity(name, options, dtype):
    """Values and gradients, also of huge finite inputs; NaN stays NaN."""
    basis = create_basis(name, 2, **options).to(dtype)
    far = torch.tensor([torch.inf, -torch.inf, 3e38, -1e20], dtype=dtype)
    x = far.expand(1, 2, 4).clone().requires_grad_()
    y = basis(x)
    torch.testing.assert_close(y, torch.zeros_like(y), atol=1e-11, rtol=0)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-11, rtol=0)
    stated = torch.stack(
        [s.expand_as(x) for _, s in basis.values_and_derivatives(x.detach(), derivatives=True)]
    )
    torch.testing.assert_close(stated, torch.zeros_like(stated), atol=1e-11, rtol=0)
    assert basis(torch.full((1, 2, 1), torch.nan, dtype=dtype)).isnan().all()


def test_rational_functions_have_their_limits_at_infinity():
    """u^j / (1 + |u|^4) -> 0 for j < 4, 1 for j = 4."""
    y = create_basis("rational", 1)(torch.tensor([[[torch.inf, -torch.inf]]]))
    torch.testing.assert_close(y[0, 0], torch.tensor([[0.0, 0.0]] * 4 + [[1.0, 1.0]]))


@pytest.mark.parametrize(
    ("domain", "shape"),
    [("layer_norm", (3, 1)), ("layer_norm", (3, 1, 1, 1)), ("instance_norm", (3, 8, 1, 1))],
)
@pytest.mark.parametrize("name", ["rbf", "gram"])
def test_a_norm_over_one_value_is_an_error(name, domain, shape):
    """It would make 0 of every input."""
    basis = create_basis(name, shape[1], domain=domain)
    with pytest.raises(ValueError, match="use domain='identity'"):
        basis(torch.randn(shape))


@pytest.mark.parametrize("name", ["rbf", "wavelet", "rational", "gram", "relu", "hermite"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_basis_built_under_half_precision_has_exact_constants(name, dtype):
    exact = create_basis(name, 3)
    torch.set_default_dtype(dtype)
    try:
        basis = create_basis(name, 3)
        moments = basis.second_moments()
    finally:
        torch.set_default_dtype(torch.float32)
    for key, value in basis.named_buffers():
        assert torch.equal(value, dict(exact.named_buffers())[key])
    torch.testing.assert_close(moments, exact.second_moments(), atol=0.02, rtol=0.02)
