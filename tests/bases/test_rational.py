import numpy as np
import pytest
import torch

from kanseg.bases.rational import Rational


def reference(u, degree, q):
    """u (N,), q (n,) -> (N, degree + 1)"""
    denominator = 1 + np.abs(sum(each * u ** (k + 1) for k, each in enumerate(q)))
    return np.stack([u**j / denominator for j in range(degree + 1)], axis=1)


def with_denominator(basis, q):
    with torch.no_grad():
        basis.denominator.copy_(torch.as_tensor(np.asarray(q)))
    return basis


@pytest.mark.parametrize(
    ("degree", "denominator_degree"), [(4, 4), (0, 1), (1, 1), (2, 5), (3, 3), (5, 8)]
)
def test_values_are_those_of_the_formula(degree, denominator_degree):
    q = np.random.default_rng(0).normal(size=denominator_degree).astype(np.float32)
    basis = with_denominator(Rational(1, degree=degree, denominator_degree=denominator_degree), q)
    u = np.concatenate([np.linspace(-3, 3, 241), [-1e3, 37.5]]).astype(np.float32)
    single = basis(torch.from_numpy(u).view(1, 1, -1))[0, 0].T.detach().numpy()
    double = basis.double()(torch.from_numpy(u).double().view(1, 1, -1))[0, 0].T.detach().numpy()
    expected = reference(u.astype(np.float64), degree, q.astype(np.float64))
    np.testing.assert_allclose(double, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-5)


def test_without_a_denominator_they_are_powers():
    basis = with_denominator(Rational(1), np.zeros(4))
    torch.testing.assert_close(
        basis(torch.tensor([[3.0, -20.0]]).view(1, 1, 2))[0, 0, :, 0].detach(),
        torch.tensor([1.0, 3, 9, 27, 81]),
    )


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 7])
def test_fresh_functions_lie_within_one_and_reach_a_half(degree):
    values = Rational(1, degree=degree)(torch.linspace(-50, 50, 20001).view(1, 1, -1))[0, 0]
    assert values.abs().max() <= 1
    assert values.amax(dim=1).min() > 0.49


@pytest.mark.parametrize("u", [1e6, -1e12, 1e30])
def test_where_powers_overflow_values_and_gradients_are_at_their_limits(u):
    basis = Rational(1)
    x = torch.tensor([[u]], requires_grad=True)
    values = basis(x)[0, 0]
    torch.testing.assert_close(
        values.detach(), torch.tensor([0.0, 0, 0, 1 / u, 1]), rtol=1e-5, atol=1e-11
    )
    by_x, by_q = torch.autograd.grad(values[4], [x, basis.denominator])
    torch.testing.assert_close(by_x, torch.zeros(1, 1), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        by_q[0], torch.tensor([0.0, 0, -1 / u, -1]), rtol=1e-5, atol=1e-11
    )  # -u^(4 + k) / (1 + u^4)^2


@pytest.mark.parametrize(
    ("channels", "groups", "expected"),
    [(16, 8, 8), (3, 8, 3), (1, 8, 1), (10, 4, 4), (6, 1, 1), (9, 8, 5)],
)
def test_runs_of_channels_share_a_denominator(channels, groups, expected):
    basis = Rational(channels, num_groups=groups)
    assert basis.denominator.shape == (expected, 4)
    size = -(-channels // groups)
    x = torch.rand(1, channels) + 0.5
    before = basis(x)
    for group in range(expected):
        with torch.no_grad():
            basis.denominator[group] += 0.5
        after = basis(x)
        changed = (after != before).all(dim=2)[0]
        assert torch.equal(changed, torch.arange(channels) // size == group)
        before = after


def test_every_coefficient_is_trained_from_the_start():
    basis = Rational(4, num_groups=2)
    (basis(torch.randn(8, 4, 9)) * torch.randn(5, 1)).square().sum().backward()
    assert (basis.denominator.grad != 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"denominator_degree": 3},
            "denominator_degree .* must be an integer at least 4, got 3",
        ),
        ({"degree": 0, "denominator_degree": 0}, "at least 1, got 0"),
        ({"num_groups": 0}, "num_groups must be an integer at least 1, got 0"),
    ],
)
def test_options_out_of_range_say_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        Rational(2, **options)
