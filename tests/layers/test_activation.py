"""A learned activation phi(x) = base(x) + sum_k w_k B_k(x), one for each channel or for several."""

import copy
import io
import pickle
import threading
from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.utils import prune

import kanseg
from kanseg.bases import BASES
from kanseg.layers import (
    KANConv1d,
    KANConv2d,
    KANConv3d,
    KANLinear,
    Penalty,
    finetune,
    fuse,
    off_grid_shares,
    update_grids,
)
from kanseg.layers.activation import KANActivation
from kanseg.layers.regularization import FeatureNoise, kan_layers
from kanseg.models.operations import saved_bytes

C = 5
SHARES = ["channel", "layer", 2]
RANKS = [(4, C), (2, C, 9), (2, C, 7, 6), (2, C, 3, 4, 5)]
FUNCTIONS = [(name, {}) for name in BASES]
FUNCTIONS += [
    ("gram", {"learnable": True}),
    ("gram", {"degree": 0}),
    ("legendre", {"degree": 12}),
    ("chebyshev", {"domain": "identity"}),
    ("jacobi", {"domain": "tanh", "degree": 6}),
    ("legendre", {"domain": "sigmoid"}),
    ("gram", {"domain": "layer_norm"}),
    ("bspline", {"domain": "layer_norm"}),
    ("bspline", {"domain": "tanh"}),
    ("bspline", {"spline_order": 0}),
    ("bspline", {"spline_order": 1}),
    ("rbf", {"domain": "layer_norm"}),
    ("hermite", {"kind": "probabilist"}),
    ("wavelet", {"wavelet": "shannon"}),
    ("rational", {"degree": 2, "denominator_degree": 3, "num_groups": 1}),
]
# One basis of each kind of kernel; the values of all are tested by default, the rest as slow tests.
KINDS = ("gram", "bspline", "fourier", "wavelet", "rational")


def marked(name, *others, options=()):
    """A case, which is slow unless it is the plain form of one kind of kernel."""
    is_quick = name in KINDS and not options
    return pytest.param(name, *others, marks=[] if is_quick else [pytest.mark.slow])


every_function = pytest.mark.parametrize(("name", "options"), FUNCTIONS, ids=str)
functions = pytest.mark.parametrize(
    ("name", "options"),
    [marked(name, options, options=options) for name, options in FUNCTIONS],
    ids=str,
)
bases = pytest.mark.parametrize("name", [marked(name) for name in BASES])
shares = pytest.mark.parametrize("share", SHARES)
# All functions of each channel, and one family of each kind of kernel in the other forms.
OTHERS = [(name, {}, share) for name in ("gram", "bspline", "wavelet") for share in ("layer", 2)]
cases = pytest.mark.parametrize(
    ("name", "options", "share"),
    [marked(name, options, "channel", options=options) for name, options in FUNCTIONS] + OTHERS,
    ids=str,
)
# Compilers and exporters need seconds for each: one of each kind of kernel by default.
QUICK = [("gram", {}, "channel"), ("bspline", {}, "layer"), ("wavelet", {}, 2)]
traced = pytest.mark.parametrize(
    ("name", "options", "share"),
    [
        pytest.param(*each, marks=[] if each in QUICK else [pytest.mark.slow])
        for each in [(*each, "channel") for each in FUNCTIONS] + OTHERS
    ],
    ids=str,
)
families = pytest.mark.parametrize(
    ("name", "share"),
    [marked(name, "channel") for name in BASES] + [(name, share) for name, _, share in OTHERS],
)


def make(name="gram", channels=C, **options):
    """One whose functions are not at their start."""
    layer = KANActivation(channels, basis=name, **options)
    nn.init.normal_(layer.weight)
    return layer


def curve_of_channel(layer):
    """Runs of about equally many channels have one function."""
    return np.arange(layer.channels) * len(layer.weight) // layer.channels


def reference(layer, x):
    """In double precision, from the values of the functions."""
    layer, x = copy.deepcopy(layer).double(), x.double()
    weight = layer.weight.detach().numpy()[curve_of_channel(layer)]
    values = layer.basis(x).detach().numpy()
    y = np.einsum("bck...,ck->bc...", values, weight)
    if layer.base is not None:
        y = y + layer.base(x).detach().numpy()
    return torch.from_numpy(y)


@every_function
@shares
@pytest.mark.parametrize("shape", RANKS, ids=lambda shape: f"rank {len(shape)}")
@pytest.mark.slow_except("rank 4-channel", "gram-{}", "bspline-{}")
def test_values_are_the_base_plus_the_sum_of_the_functions(name, options, share, shape):
    x = torch.randn(shape) * 1.5
    layer = make(name, share=share, **options)
    torch.testing.assert_close(layer(x).double(), reference(layer, x), rtol=1e-4, atol=5e-4)
    exact = layer.double()
    torch.testing.assert_close(exact(x.double()), reference(exact, x), rtol=1e-9, atol=1e-9)


@bases
@pytest.mark.parametrize("base", ["relu", "gelu", "prelu", "tanh", "identity", nn.Softplus, None])
def test_any_base(name, base):
    x = torch.randn(3, C, 8)
    layer = make(name, base=base, dtype=torch.float64)
    torch.testing.assert_close(layer(x.double()), reference(layer, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("share", ["channel", "layer", 1, 2, 3, 7])
@pytest.mark.parametrize("channels", [1, 5, 6])
def test_as_many_functions_as_asked_for_in_runs_of_equal_length(share, channels):
    layer = make("gram", channels, share=share, base=None)
    number = {"channel": channels, "layer": 1}.get(share, share)
    assert layer.weight.shape == (min(number, channels), 4)
    y = layer(torch.linspace(-2, 2, 9).expand(1, channels, -1))[0]
    new = [bool((y[c] != y[c - 1]).any()) for c in range(1, channels)]
    assert sum(new) + 1 == len(layer.weight)
    starts = [0, *(c for c, is_new in enumerate(new, 1) if is_new), channels]
    lengths = np.diff(starts)
    assert lengths.max() - lengths.min() <= 1


@pytest.mark.parametrize("base", ["relu", "gelu", "prelu", "silu"])
@pytest.mark.parametrize("position", ["after_norm", "before_conv"])
@families
@pytest.mark.slow_except("gram", "bspline", "rational")
def test_a_new_layer_is_the_plain_one(base, position, name, share):
    """To the last bit, but for SiLU, which shares its sigmoid with the functions."""
    for conv in (KANConv1d, KANConv2d, KANConv3d) if name == "gram" else (KANConv2d,):
        check_start(conv, base, position, name, share)


def check_start(conv, base, position, name, share):
    before = position == "before_conv"
    layer = conv(
        3,
        4,
        3,
        basis=name,
        share=share,
        position=position,
        **{"base_activation" if before else "activation": base},
    )
    plain = conv(3, 4, 3, basis="none", **({} if before else {"activation": base}))
    if before:
        activation = nn.PReLU() if base == "prelu" else getattr(nn, NAMES[base])()
        plain = nn.Sequential(activation, plain)
        own = {
            key: value
            for key, value in layer.state_dict().items()
            if not key.startswith("base_activation")
        }
        plain[1].load_state_dict(own)
    else:
        plain.load_state_dict(
            {
                key.replace("activation.base.", "activation."): value
                for key, value in layer.state_dict().items()
                if not key.startswith(("activation.weight", "activation.basis"))
            }
        )
    x = torch.randn(2, 3, *[5] * layer.ndim)
    for _ in range(2):
        y, expected = layer(x), plain(x)
        if base == "silu":
            torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(y, expected)
        layer.eval()
        plain.eval()


NAMES = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU"}


@bases
def test_a_new_flat_layer_is_the_plain_one(name):
    layer = KANLinear(4, 3, basis=name, share="channel", base_activation="relu")
    x = torch.randn(2, 5, 4)
    assert torch.equal(layer(x), layer.base_linear(x.relu()))


@cases
def test_without_a_base_it_starts_as_the_least_squares_fit_of_silu(name, options, share):
    layer = KANActivation(C, basis=name, share=share, base=None, dtype=torch.float64, **options)
    masses = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096
    points = torch.special.ndtri(masses)
    x = points.expand(1, C, -1).contiguous()
    target = nn.functional.silu(points).numpy()
    found = layer(x)[0].detach().numpy()
    values = layer.basis(x)[0].detach().numpy()
    for c in range(C):
        weight, *_ = np.linalg.lstsq(values[c].T, target, rcond=None)
        best = np.square(values[c].T @ weight - target).mean()
        assert np.square(found[c] - target).mean() <= best * 1.001 + 1e-6


@families
@pytest.mark.slow_except("gram", "bspline", "relu-channel")
def test_first_and_second_derivatives(name, share):
    layer = make(name, share=share, dtype=torch.float64)
    names, values = zip(*layer.named_parameters(), strict=True)

    def function(x, *parameters):
        return functional_call(layer, dict(zip(names, parameters, strict=True)), x)

    x = (torch.rand(1, C, 2, dtype=torch.float64) * 4 - 2 + 0.0137).requires_grad_()
    assert torch.autograd.gradcheck(function, (x, *values))
    assert torch.autograd.gradgradcheck(function, (x, *values), atol=1e-4)


@cases
def test_gradients_in_single_precision_are_those_in_double(name, options, share):
    layer = make(name, share=share, **options)
    x = torch.randn(3, C, 7, 6, requires_grad=True)
    exact, wide = copy.deepcopy(layer).double(), x.detach().double().requires_grad_()
    upstream = torch.randn(3, C, 7, 6)
    ours = torch.autograd.grad(layer(x), (x, layer.weight), upstream)
    theirs = torch.autograd.grad(exact(wide), (wide, exact.weight), upstream.double())
    for a, b in zip(ours, theirs, strict=True):
        scale = float(b.abs().max())
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-2 * scale)


@families
def test_the_gradient_of_the_input_is_exactly_that_of_the_output(name, share):
    """y is linear in w: sum of w times its gradient is y's share of the functions, and a step along
    the gradient lowers a loss as it says.
    """
    layer = make(name, share=share, base=None)
    x = torch.randn(3, C, 7, 6)
    upstream = torch.randn(3, C, 7, 6)
    y = layer(x)
    (found,) = torch.autograd.grad((y * upstream).sum(), layer.weight)
    torch.testing.assert_close(
        (found.double() * layer.weight.double()).sum(),
        (y.double() * upstream.double()).sum(),
        rtol=1e-4,
        atol=1e-3,
    )


@functions
@pytest.mark.parametrize("rank", [4, 5])
@pytest.mark.slow_except("4-")
def test_channels_last_stays_and_computes_the_same(name, options, rank):
    layer = make(name, **options)
    shape, layout = RANKS[rank - 2], {4: torch.channels_last, 5: torch.channels_last_3d}[rank]
    x = torch.randn(shape, requires_grad=True)
    twin = x.detach().to(memory_format=layout).requires_grad_()
    y, other = layer(x), layer(twin)
    if layer.basis.is_pointwise:  # a normalization has its own layout
        assert other.is_contiguous(memory_format=layout)
    torch.testing.assert_close(other, y, rtol=1e-5, atol=1e-5)
    upstream = torch.randn(shape)
    ours = torch.autograd.grad(other, (twin, layer.weight), upstream)
    theirs = torch.autograd.grad(y, (x, layer.weight), upstream)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


STRIDED = {
    "every second": lambda x: x[..., ::2],
    "transposed": lambda x: x.transpose(-1, -2),
    "expanded": lambda x: x[:, :, :1].expand(-1, -1, 6, -1),
    "some channels": lambda x: torch.cat([x, x], 1)[:, C - 2 : 2 * C - 2],
    "batch last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
}


@bases
@pytest.mark.parametrize("view", STRIDED.values(), ids=list(STRIDED))
def test_views_are_seen_as_what_they_are(name, view):
    layer = make(name)
    x = torch.randn(2, C, 6, 8, requires_grad=True)
    dense = view(x).detach().contiguous().requires_grad_()
    y, expected = layer(view(x)), layer(dense)
    torch.testing.assert_close(y, expected)
    upstream = torch.randn_like(expected)
    (ours,) = torch.autograd.grad(y, x, upstream)
    (inner,) = torch.autograd.grad(expected, dense, upstream)
    (theirs,) = torch.autograd.grad(view(x), x, inner)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@bases
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_input_is_computed_in_float32(name, dtype):
    layer = make(name)
    x = torch.randn(3, C, 9).to(dtype).requires_grad_()
    y = layer(x)
    assert y.dtype == dtype
    expected = layer(x.detach().float())
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(y.float(), expected, rtol=2 * step, atol=8 * step)
    (found,) = torch.autograd.grad(y.float().square().sum(), x)
    wide = x.detach().float().requires_grad_()
    (theirs,) = torch.autograd.grad(layer(wide).square().sum(), wide)
    torch.testing.assert_close(found.float(), theirs, rtol=16 * step, atol=64 * step)


@bases
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_leaves_the_functions_in_float32(name, dtype):
    layer, x = make(name), torch.randn(3, C, 9)
    expected = layer(x)
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x)
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(y.float(), expected, rtol=step, atol=8 * step)


@bases
def test_its_curves_are_the_same_under_autocast(name):
    layer, x = make(name), torch.linspace(-2, 2, 9)
    expected = layer.curves(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer.curves(x)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@functions
def test_what_follows_may_work_in_place(name, options, dtype):
    layer, x = make(name, dtype=dtype, **options), torch.randn(2, C, 7, 6, dtype=dtype)
    expected = torch.relu(layer(x) + x)
    y = layer(x.requires_grad_())
    y += x.detach()
    found = nn.functional.relu(y, inplace=True)
    assert torch.equal(found, expected)
    found.sum().backward()


@pytest.mark.parametrize("name", ["legendre", "chebyshev", "gram", "jacobi", "bernstein"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_polynomials_are_the_same_under_autocast(name, dtype):
    """Its large coefficients would not survive being rounded."""
    layer, x = make(name, degree=8), torch.randn(3, C, 9)
    expected = layer(x)
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x)
    torch.testing.assert_close(y.float(), expected, rtol=1e-4, atol=1e-4)


@bases
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_layer_in_half_precision_is_off_by_its_rounding_only(name, dtype):
    layer, x = make(name), torch.randn(3, C, 9).to(dtype)
    half = copy.deepcopy(layer).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(half.weight)
    for ours, theirs in zip(half.basis.parameters(), layer.basis.parameters(), strict=True):
        theirs.data.copy_(ours.data)
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(half(x).float(), layer(x.float()), rtol=4 * step, atol=16 * step)


@families
def test_no_more_is_kept_for_backward_than_by_a_plain_layer(name, share):
    """But for tables of the size of the weights, which do not grow with the input."""
    layer = KANConv2d(8, 16, 3, padding=1, basis=name, share=share)
    plain = KANConv2d(8, 16, 3, padding=1, basis="none")
    kept = []
    for size in (64, 160):
        x = torch.randn(2, 8, size, size)
        kept.append(
            [
                saved_bytes(lambda: each(x), chain(each.parameters(), each.buffers()))  # noqa: B023
                for each in (layer, plain)
            ]
        )
    (ours, theirs), (our_large, their_large) = kept
    assert our_large - ours <= their_large - theirs
    assert our_large <= 1.05 * their_large


@functions
def test_a_sample_does_not_depend_on_its_batch_mates(name, options):
    layer = make(name, **options)
    a, b = torch.randn(1, C, 6, 6), 50 * torch.randn(1, C, 6, 6)
    torch.testing.assert_close(layer(torch.cat([a, b]))[:1], layer(a), rtol=1e-5, atol=1e-5)


@families
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_large_inputs_give_finite_values_and_gradients(name, share, dtype):
    layer = make(name, share=share)
    extremes = [0.0, 1e-8, -1e-8, 1.0, -1.0, 88.0, -88.0, 104.0, -104.0, 1e4, -1e4]
    x = torch.tensor(extremes).expand(2, C, -1).to(dtype).requires_grad_()
    y = layer(x)
    y.float().sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(layer.weight.grad).all()


@bases
def test_far_away_it_is_its_base_plus_what_the_functions_are_there(name):
    layer = make(name, domain="tanh") if name in POLYNOMIAL else make(name)
    x = torch.tensor([-1e4, 1e4, -3e38, 3e38]).expand(1, C, -1)
    y = layer(x)
    if name == "fourier":
        return  # the sine of such numbers is noise
    expected = reference(layer, x)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-2)


POLYNOMIAL = ("legendre", "chebyshev", "gram", "jacobi")


@bases
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_pixel_that_is_not_finite_spoils_itself_alone(name, bad):
    layer, x = make(name), torch.randn(2, C, 5, 4)
    expected = layer(x)
    spoiled = x.clone()
    spoiled[1, 2, 3, 1] = bad
    y = layer(spoiled)
    others = torch.ones(x.shape, dtype=torch.bool)
    others[1, 2, 3, 1] = False
    torch.testing.assert_close(y[others], expected[others])
    if bad != bad:
        assert y[1, 2, 3, 1].isnan()
    else:
        assert not y[1, 2, 3, 1].isfinite() or bad < 0


@families
@pytest.mark.parametrize(
    "shape", [(3, C, 190, 150), (420, C, 9, 11), (60_001, C), (1, C, 200_003)], ids=str
)
@pytest.mark.slow_except("gram", "wavelet", "rational")
def test_large_tensors_are_computed_in_pieces_of_one_function(name, share, shape):
    """Values and gradients are those of a few samples, channels or pixels at a time."""
    layer = make(name, share=share)
    x = torch.randn(shape, requires_grad=True)
    y = layer(x)
    upstream = torch.randn(shape)
    grad_x, grad_weight = torch.autograd.grad(y, (x, layer.weight), upstream)
    axis = 0 if shape[0] > 1 else 2
    parts = [each.split(-(-shape[axis] // 3), axis) for each in (x.detach(), upstream, y, grad_x)]
    total = torch.zeros_like(grad_weight)
    for part, g, expected, expected_grad in zip(*parts, strict=True):
        part = part.clone().requires_grad_()
        found = layer(part)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        ours, weight = torch.autograd.grad(found, (part, layer.weight), g)
        torch.testing.assert_close(ours, expected_grad, rtol=1e-4, atol=1e-4)
        total += weight
    torch.testing.assert_close(total, grad_weight, rtol=1e-3, atol=1e-3 * x.numel() ** 0.5)


@bases
@shares
@pytest.mark.parametrize("shape", [(0, C), (0, C, 4, 4), (2, C, 0, 3)], ids=str)
def test_empty_tensors_stay_empty(name, share, shape):
    layer = make(name, share=share)
    y = layer(torch.randn(shape))
    assert y.shape == shape
    y.sum().backward()
    assert layer.weight.grad is None or not layer.weight.grad.any()


@functions
def test_after_inference_mode_it_trains(name, options):
    layer, x = make(name, **options), torch.randn(2, C, 6, 6)
    twin = copy.deepcopy(layer)
    with torch.inference_mode():
        layer(x)
        layer(x.half())
    for each in (layer, twin):
        each(x).square().mean().backward()
    for ours, theirs in zip(layer.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@bases
def test_a_new_weight_counts_at_once(name):
    """Whatever a call has found once for the weights of then."""
    layer, x = make(name), torch.randn(2, C, 6, 6)
    with torch.no_grad():
        for _ in range(2):
            layer.weight.mul_(-2)
            torch.testing.assert_close(layer(x).double(), reference(layer, x), rtol=1e-3, atol=2e-3)


@bases
def test_threads_do_not_share_their_memory(name):
    layer = make(name)
    inputs = [torch.randn(4, C, 40, 40 + 3 * i) for i in range(3)]
    expected = [torch.autograd.grad(layer(x).square().mean(), layer.weight)[0] for x in inputs]
    errors = []

    def train(x, wanted):
        torch.set_num_threads(1)
        for _ in range(10):
            (found,) = torch.autograd.grad(layer(x).square().mean(), layer.weight)
            errors.append(float((found - wanted).abs().max() / wanted.abs().max()))

    threads = [
        threading.Thread(target=train, args=each) for each in zip(inputs, expected, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 30
    assert max(errors) < 1e-5


@cases
def test_copy_pickle_and_state_dict_keep_the_function(name, options, share):
    layer, x = make(name, share=share, **options), torch.randn(2, C, 6)
    expected = layer(x)  # before the copies: what it remembers of a call goes along or is made anew
    other = KANActivation(C, basis=name, share=share, **options)
    other.load_state_dict(layer.state_dict())
    stream = io.BytesIO()
    torch.save(layer, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=False)
    for twin in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        assert torch.equal(twin(x), expected)
        with torch.no_grad():
            twin.weight.add_(1)
    assert torch.equal(layer(x), expected)


@functions
def test_called_with_other_weights_it_has_them(name, options):
    layer, other = make(name, **options), make(name, **options)
    x = torch.randn(2, C, 6)
    found = functional_call(layer, dict(other.named_parameters()), x)
    torch.testing.assert_close(found, other(x), rtol=1e-4, atol=5e-4)


@families
def test_transforms_of_torch_func(name, share):
    layer = make(name, share=share, dtype=torch.float64)
    x = torch.rand(3, 2, C, 4, dtype=torch.float64) * 4 - 2 + 0.0137
    torch.testing.assert_close(vmap(layer)(x), torch.stack([layer(each) for each in x]))
    parameters = dict(layer.named_parameters())

    def loss(parameters, x):
        return functional_call(layer, parameters, x).square().sum()

    ours = grad(loss)(parameters, x[0])
    theirs = torch.autograd.grad(layer(x[0]).square().sum(), tuple(parameters.values()))
    for a, b in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(a, b)
    each = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    torch.testing.assert_close(each["weight"][0], ours["weight"])
    direction = torch.randn_like(x[0])
    _, forward = jvp(layer, (x[0],), (direction,))
    at = x[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(layer(at).sum(), at)
    torch.testing.assert_close(forward, slope * direction)


@bases
def test_many_gradients_at_a_time_are_those_one_by_one(name):
    layer = make(name, dtype=torch.float64)
    x = torch.randn(2, C, 5, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    many = torch.randn(3, *y.shape, dtype=torch.float64)
    inputs = (x, layer.weight)
    at_a_time = torch.autograd.grad(y, inputs, many, is_grads_batched=True, retain_graph=True)
    for i, upstream in enumerate(many):
        one = torch.autograd.grad(y, inputs, upstream, retain_graph=True)
        for ours, theirs in zip(at_a_time, one, strict=True):
            torch.testing.assert_close(ours[i], theirs)


@traced
@pytest.mark.slow_except("gram")
def test_compiled_it_computes_the_same(name, options, share):
    layer = make(name, share=share, **options)
    x = torch.randn(2, C, 6, 4, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y, expected = compiled(x), layer(x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=5e-4)
    upstream = torch.randn_like(y)
    inputs = (x, *layer.parameters())
    ours = torch.autograd.grad(y, inputs, upstream)
    theirs = torch.autograd.grad(expected, inputs, upstream)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-2 * float(b.abs().max()) + 1e-6)
    torch.compiler.reset()


@traced
@pytest.mark.slow_except("gram", "wavelet")
def test_exported_it_computes_the_same_at_other_sizes(name, options, share):
    layer = make(name, share=share, **options).eval()
    dynamic = {"x": dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)}
    x = torch.randn(2, C, 8, 8)
    layer(x)
    program = torch.export.export(layer, (x,), dynamic_shapes=dynamic)
    other = torch.randn(3, C, 10, 6)
    torch.testing.assert_close(program.module()(other), layer(other), rtol=1e-4, atol=5e-4)


@cases
def test_on_the_device_meta_it_gives_shapes(name, options, share):
    with torch.device("meta"):
        layer = KANActivation(C, basis=name, share=share, **options)
        y = layer(torch.randn(2, C, 6, 4, requires_grad=True))
    assert y.is_meta
    assert y.shape == (2, C, 6, 4)
    y.sum().backward()
    assert layer.weight.grad.shape == layer.weight.shape


@bases
@shares
@pytest.mark.parametrize("channels", [1, 3, 8])
def test_other_channels_have_the_functions_of_the_old_ones_in_turn(name, share, channels):
    layer = make(name, share=share)
    x = torch.randn(2, C, 7)
    expected = layer(x)
    layer.set_channels(channels)
    chosen = torch.arange(channels) % C
    found = layer(x[:, chosen])
    if share == 2:  # as many functions as there were, in runs of the new channels
        assert len(layer.weight) == min(2, channels)
        torch.testing.assert_close(
            found.double(), reference(layer, x[:, chosen]), rtol=1e-4, atol=5e-4
        )
        return
    torch.testing.assert_close(found, expected[:, chosen], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["bspline", "rbf"])
@shares
def test_a_grid_follows_all_channels_of_a_function(name, share):
    layer = KANActivation(4, basis=name, share=share)
    scales = torch.tensor([1.0, 8.0, 2.0, 20.0]).view(4, 1, 1)
    x = torch.randn(40, 4, 8, 8) * scales
    assert layer.off_grid_share(x) > 0.2
    layer.update_grid(x)
    low, high = layer.basis.grid_limits()
    runs = {"channel": [[0], [1], [2], [3]], "layer": [[0, 1, 2, 3]], 2: [[0, 1], [2, 3]]}[share]
    for run in runs:
        assert len(set(low[run].tolist())) == len(set(high[run].tolist())) == 1
        widest = max(float(scales[c]) for c in run)
        assert 2 * widest < high[run[0]] - low[run[0]] < 12 * widest
    assert len(set(low.tolist())) == len(runs)
    assert layer.off_grid_share(x) < 0.03


@pytest.mark.parametrize("name", ["bspline", "rbf"])
@shares
def test_a_grid_that_follows_the_data_keeps_the_function_there(name, share):
    layer = KANActivation(
        4, basis=name, share=share, grid_size=12, grid_range=(-4.0, 4.0), base=None
    )
    x = torch.randn(100, 4, 8, 8).clamp(-3, 3)
    before = layer(x)  # a fit of SiLU
    layer.update_grid(x)
    assert (layer(x) - before).abs().mean() < 0.05


@pytest.mark.parametrize("name", ["legendre", "chebyshev", "gram", "jacobi", "bernstein"])
@pytest.mark.parametrize("degree", [4, 8, 10])
@shares
def test_a_higher_degree_computes_the_same_function(name, degree, share):
    layer = make(name, share=share, degree=3, dtype=torch.float64)
    x = torch.randn(2, C, 30, dtype=torch.float64)
    before = layer(x).detach()
    layer.raise_degree(degree)
    assert layer.weight.shape[1] == degree + 1
    torch.testing.assert_close(layer(x), before, rtol=1e-9, atol=1e-9)
    layer(x).sum().backward()
    assert layer.weight.grad.shape == layer.weight.shape


@shares
@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_finer_grid_computes_the_same_function(share, order):
    layer = make("bspline", share=share, spline_order=order, dtype=torch.float64)
    x = torch.rand(2, C, 200, dtype=torch.float64) * 12 - 6
    before = layer(x)
    layer.refine(12)
    torch.testing.assert_close(layer(x), before, rtol=1e-9, atol=1e-9)
    layer.float()
    torch.testing.assert_close(layer(x.float()).double(), before, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("position", ["after_norm", "before_conv"])
@shares
def test_chosen_degrees_are_tuned_alone(position, share):
    layer = KANConv2d(3, 4, 3, basis="legendre", share=share, position=position).eval()
    part = layer.activation if position == "after_norm" else layer.base_activation
    nn.init.normal_(part.weight)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = torch.randn(2, 3, 8, 8)
    was = layer(x)
    finetune(layer, trainable_degrees=[1, 3])
    torch.testing.assert_close(layer(x), was)
    (free,) = (p for p in layer.parameters() if p.requires_grad)
    layer(x).square().sum().backward()
    torch.optim.SGD([free], 0.1).step()
    tuned = layer(x)
    fuse(layer)
    torch.testing.assert_close(layer(x), tuned, rtol=1e-5, atol=1e-5)
    key = "activation.weight" if position == "after_norm" else "base_activation.weight"
    changed = (layer.state_dict()[key] != before[key]).any(0)
    assert changed.tolist() == [False, True, False, True]
    others = {name: value for name, value in layer.state_dict().items() if name != key}
    assert all(torch.equal(value, before[name]) for name, value in others.items())


@pytest.mark.parametrize("options", [{"extra_degrees": 2}, {"rank": 1}], ids=str)
@shares
def test_a_network_of_shared_functions_is_fine_tuned(options, share):
    net = kanseg.create_model("unet", width=4, depth=2, basis="gram", share=share).eval()
    for part in kan_layers(net):
        nn.init.normal_(part.functions_weight, std=0.3)
    x = torch.randn(1, 3, 16, 16)
    before = net(x)
    finetune(net, **options)
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-4)
    net(x).square().sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in net.parameters())
    torch.testing.assert_close(fuse(net)(x), before, rtol=1e-4, atol=1e-4)


@families
def test_a_pruned_coefficient_is_zero(name, share):
    layer, x = make(name, share=share), torch.randn(2, C, 6)
    twin = copy.deepcopy(layer)
    prune.l1_unstructured(layer, "weight", 0.5)
    with torch.no_grad():
        twin.weight.mul_(layer.weight_mask)
    torch.testing.assert_close(layer(x), twin(x), rtol=1e-4, atol=5e-4)
    layer(x).sum().backward()
    assert not layer.weight_orig.grad[layer.weight_mask == 0].any()
    prune.remove(layer, "weight")
    torch.testing.assert_close(layer(x), twin(x))


@bases
def test_dropped_functions_leave_the_base(name):
    gone = FeatureNoise(1.0, 0.0, "functions", ndim=1)
    layer, x = make(name, feature_noise=gone, base="relu"), torch.randn(2, C, 6)
    torch.testing.assert_close(layer(x), x.relu())
    layer.eval()
    assert (layer(x) - x.relu()).abs().max() > 0.1


@bases
def test_dropout_of_what_the_functions_read_leaves_the_base_its_input(name):
    gone = FeatureNoise(1.0, 0.0, "branch", ndim=1)
    layer, x = make(name, feature_noise=gone, base="relu"), torch.randn(2, C, 6)
    y = layer(x) - x.relu()
    at_zero = layer.eval()(torch.zeros(2, C, 6))
    torch.testing.assert_close(y, at_zero, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("position", ["after_norm", "before_conv"])
@shares
def test_a_network_knows_its_shared_functions(position, share):
    net = kanseg.create_model(
        "unet", width=4, depth=2, basis="bspline", share=share, position=position
    )
    parts = list(kan_layers(net))
    assert parts
    assert all(type(part) is KANActivation for part in parts)
    x = torch.randn(4, 3, 32, 32) * 9
    update_grids(net, x)
    found = off_grid_shares(net.eval(), x)
    assert len(found) == len(parts)
    assert max(found.values()) < 0.05
    for part in parts:
        nn.init.constant_(part.functions_weight, -0.5)
    penalty = Penalty(net.train(), {"weights_l1": 2.0})
    net(x)
    assert float(penalty()) == pytest.approx(2.0 * 0.5 * len(parts))


def test_a_network_of_shared_functions_costs_hardly_more_parameters():
    plain, shared = (
        sum(p.numel() for p in kanseg.create_model("unet", width=16, **options).parameters())
        for options in ({"basis": "none"}, {"basis": "gram", "share": "channel"})
    )
    assert plain < shared < 1.01 * plain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": "edge"}, "KANConv"),
        ({"share": "pixel"}, "share"),
        ({"share": 0}, "share"),
        ({"share": True}, "share"),
        ({"channels": 0}, "channels"),
        ({"basis": "gramm"}, "gram"),
        ({"base": "sliu"}, "silu"),
        ({"grid_size": 5}, "grid_size"),
    ],
    ids=str,
)
def test_wrong_options_are_named(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        KANActivation(**{"channels": 3, **options})


@pytest.mark.parametrize("position", ["after_norm", "before_conv"])
def test_a_wrong_base_activation_is_named_where_it_is_not_used_too(position):
    with pytest.raises(ValueError, match="silu"):
        KANConv2d(2, 3, 3, share="channel", position=position, base_activation="sliu")


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 4, 3)], ids=str)
def test_another_number_of_channels_is_named(shape):
    with pytest.raises(ValueError, match="3"):
        KANActivation(3)(torch.randn(shape))


@pytest.mark.parametrize("layer", [KANConv2d(3, 4, 3, share=2), KANLinear(3, 4, share="layer")])
@pytest.mark.parametrize("change", ["update_grid", "refine", "raise_degree", "off_grid_share"])
def test_a_layer_of_shared_functions_says_where_they_are(layer, change):
    argument = {"refine": 12, "raise_degree": 4}.get(change, torch.randn(2, 3, 6, 6))
    with pytest.raises(ValueError, match="KANActivation"):
        getattr(layer, change)(argument)


@pytest.mark.parametrize("basis", ["gram", "none"])
def test_an_unknown_share_is_named_for_every_basis(basis):
    with pytest.raises(ValueError, match="nobody"):
        KANConv2d(3, 4, 3, basis=basis, share="nobody")
