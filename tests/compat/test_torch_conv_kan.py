"""The layers, nets and weights of torch-conv-kan: numbers from running the original at commit
7a0e83c (see make_torch_conv_kan.py), and its signatures.
"""

import json
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import kanseg
from kanseg.compat import torch_conv_kan as tck
from tests.compat.make_torch_conv_kan import STORED, fill, parameters_of, wave

HERE = Path(__file__).parent
CASES = json.loads(HERE.joinpath("torch_conv_kan.json").read_text())
NETS = [
    "KAN",
    "FastKAN",
    "KALN",
    "KACN",
    "KAGN",
    "KAJN",
    "KABN",
    "ReLUKAN",
    "WavKAN",
    "BottleNeckKAGN",
]
FAMILIES = [*NETS, "BottleNeckReLUKAN"]
# name -> parameters, from the original's inspect.signature; {n} is the number of axes.
SIGNATURES = dict(
    line.split(": ", 1)
    for line in HERE.joinpath("torch_conv_kan_signatures.txt").read_text().splitlines()
)
families = pytest.mark.parametrize("family", FAMILIES)
everything = pytest.mark.parametrize(
    "name", [f"{f}Conv{n}DLayer" for f in FAMILIES for n in (1, 2, 3)] + NETS
)


def theirs(case):
    """The state dict that gave a case's output."""
    state = {}
    for seed, (key, entry) in enumerate(sorted(case["state"].items())):
        state[key] = torch.tensor(entry) if key.endswith(STORED) else fill(key, entry, seed)
    return state


def build(name, **options):
    """A layer of 4 -> 4 channels or a net 4 -> 6 -> 4, and an input for it."""
    kind = getattr(tck, name)
    if "Conv" in name:
        return kind(4, 4, 3, padding=1, **options), torch.randn(2, 4, *[5] * int(name[-7]))
    return kind([4, 6, 4], **options), torch.randn(3, 4)


def case_of(name, index=0):
    return [case for case in CASES if case["callable"] == name][index]


def converted(case, **options):
    module = getattr(tck, case["callable"])(*case["args"], **case["kwargs"] | options).eval()
    module.load_state_dict(tck.convert_state_dict(theirs(case), module))
    return module


@pytest.mark.parametrize(
    "case",
    CASES,
    ids=lambda c: "-".join([c["callable"], *(f"{k}={v}" for k, v in c["kwargs"].items())]),
)
def test_converted_weights_give_the_output_of_the_original(case):
    expected = torch.tensor(case["output"])
    output = converted(case)(1.5 * wave(case["input"], -1)).flatten()
    assert (output - expected).abs().max() <= 1e-4 * max(1, expected.abs().max())
    assert expected.std() > 0.1


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_of_the_original(name):
    for n in (1, 2, 3) if "{n}" in name else (0,):
        assert parameters_of(getattr(tck, name.replace("{n}", str(n)))) == SIGNATURES[name].replace(
            "{n}", str(n)
        )


def test_every_name_is_in_the_table():
    names = {name.replace("{n}", str(n)) for name in SIGNATURES for n in (1, 2, 3)}
    names |= {
        name
        for line in HERE.joinpath("networks_signatures.txt").read_text().splitlines()
        for name in line.split(": ")[0].split()
    }
    assert names == set(tck.__all__) - {
        "L1",
        "NoiseInjection",
        "convert_layer",
        "convert_state_dict",
        "use_original_rounding",
    }


@pytest.mark.parametrize(
    ("family", "option"),
    [("KAN", "spline_order"), ("KALN", "degree"), ("KACN", "degree"), ("ReLUKAN", "g")],
)
def test_readme_call_reads_the_third_argument_as_meant(family, option):
    layer = getattr(tck, f"{family}Conv2DLayer")(
        3, 8, 2, kernel_size=5, groups=1, padding=2, stride=1, dilation=1
    )
    assert layer.options[option] == 2
    assert layer.basis_conv.kernel_size == (5, 5)
    assert layer(torch.randn(2, 3, 9, 9)).shape == (2, 8, 9, 9)


def test_calls_that_do_not_fit_are_type_errors():
    with pytest.raises(TypeError, match="kernel_size"):
        tck.KANConv2DLayer(3, 8)
    with pytest.raises(TypeError, match="kernel_size"):
        tck.FastKANConv2DLayer(3, 8, 3, kernel_size=3)
    with pytest.raises(TypeError, match="spline_order"):
        tck.KANConv2DLayer(3, 8, 3, kernel_size=3, spline_order=2)
    with pytest.raises(TypeError, match="afine"):
        tck.KANConv2DLayer(3, 8, 3, afine=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: tck.KANConv2DLayer(3, 4, 3, groups=2),
            "input channels must be positive and divisible by groups, got 3 channels and groups=2",
        ),
        (lambda: tck.KANConv2DLayer(4, 4, 3, groups=0), "groups=0"),
        (
            lambda: tck.WavKANConv2DLayer(4, 4, 3, wavelet_type="haar"),
            "unknown wavelet_type 'haar'",
        ),
        (lambda: tck.WavKANConv2DLayer(4, 4, 3, wav_version="slow"), "unknown wav_version 'slow'"),
        (
            lambda: tck.KANConv2DLayer(4, 4, 3)(torch.randn(2, 3, 5, 5)),
            r"expects a tensor \(B, 4, H, W\), got shape \(2, 3, 5, 5\)",
        ),
        (lambda: tck.KANLayer(4, 4)(torch.randn(2, 3)), r"expects a tensor \(\.\.\., 4\)"),
        (lambda: tck.L1(nn.Linear(2, 2), -1.0), "weight_decay must be at least 0"),
    ],
)
def test_wrong_options_are_value_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c["callable"].startswith(("KAN", "FastKAN", "KACN"))],
    ids=lambda c: c["callable"],
)
def test_original_rounding_is_the_same_function(case):
    module, x = converted(case), 1.5 * wave(case["input"], -1)
    keys, plain = list(module.state_dict()), module(x)
    assert tck.use_original_rounding(module) is module
    assert any(getattr(m, "original_basis", None) is not None for m in module.modules())
    exact = module(x)
    assert list(module.state_dict()) == keys
    assert (exact.flatten() - torch.tensor(case["output"])).abs().max() <= 2e-6
    torch.testing.assert_close(exact, plain, rtol=1e-5, atol=1e-5)
    exact.sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


@everything
def test_gradients_reach_every_parameter_and_the_input(name):
    module, x = build(name)
    module(x.requires_grad_()).square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0
    dead = [
        k for k, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ]
    assert not dead


@everything
def test_a_sample_depends_on_its_batch_mates_only_in_kaln(name):
    module, x = build(name)
    module.eval()
    mates = torch.cat([x[:1], 5 * x[1:]])
    with torch.no_grad():
        same = torch.allclose(module(mates)[0], module(x)[0], atol=1e-5)
    assert same == ("KALN" not in name)


def test_kaln_says_so_and_is_finite_on_a_blank_image():
    layer = tck.KALNConv2DLayer(2, 2, 3)
    assert "depends on the other samples of the batch" in " ".join(type(layer).__doc__.split())
    assert layer(torch.zeros(1, 2, 6, 6)).isfinite().all()


@everything
def test_builds_and_runs_on_the_device(name):
    with FakeTensorMode(), torch.device("cuda"):
        module, x = build(name, dropout=0.5)
        assert module(x).device.type == "cuda"


@everything
def test_pickles_and_round_trips(name):
    module, x = build(name)
    module.eval()
    again = pickle.loads(pickle.dumps(module))
    assert type(again) is getattr(tck, name)
    fresh = build(name)[0].eval()
    fresh.load_state_dict(module.state_dict())
    torch.testing.assert_close(again(x), module(x), rtol=0, atol=0)
    torch.testing.assert_close(fresh(x), module(x), rtol=0, atol=0)


@families
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.Identity])
def test_each_group_reads_its_own_channels(family, norm):
    layer, x = build(f"{family}Conv2DLayer", groups=2, norm_layer=norm)
    x = x[:1].requires_grad_()
    layer.eval()(x)[:, 2:].sum().backward()
    assert x.grad[:, :2].abs().max() == 0
    assert x.grad[:, 2:].abs().max() > 0


@families
def test_dropout_acts_in_training_only(family):
    layer, x = build(f"{family}Conv2DLayer", dropout=0.5)
    torch.testing.assert_close(layer.eval()(x), layer(x), rtol=0, atol=0)
    layer.train()
    assert not torch.equal(layer(x), layer(x))


def test_bernstein_functions_are_not_constant_here():
    layer = tck.KABNConv2DLayer(2, 2, 1)
    values = layer.basis(torch.linspace(0, 1, 5).reshape(1, 1, 5, 1).expand(1, 2, 5, 1))
    torch.testing.assert_close(values.sum(2), torch.ones(1, 2, 5, 1))
    assert values.std(dim=3).shape == (1, 2, 4, 1) and values.std(dim=3).min() > 0.1


@pytest.mark.parametrize(
    "module", [tck.KABNConv2DLayer(2, 2, 1), tck.KABN([2, 2])], ids=["layer", "net"]
)
def test_weights_of_kabn_are_refused(module):
    with pytest.raises(ValueError, match="KABN.*constant 1.*bug"):
        tck.convert_state_dict({}, module)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("base_conv.0.weight"), "no entry for 'base_conv.weight'"),
        (lambda s: s.pop("beta_weights"), "no entry for 'basis.beta_weights'"),
        (lambda s: s.update(extra=torch.ones(1)), "unknown key 'extra'"),
        (
            lambda s: s.update({"layer_norm.0.weight": torch.ones(2)}),
            "unknown key 'layer_norm.0.weight'",
        ),
        (
            lambda s: s.update({"base_conv.0.weight": torch.ones(2, 2, 3, 3)}),
            "'base_conv.0.weight' does not fit",
        ),
        (
            lambda s: s.update(poly_weights=torch.ones(1, 2, 12, 2, 2)),
            "'poly_weights' has 6 functions .* degree",
        ),
        (
            lambda s: s.update(poly_weights=torch.ones(1, 2, 9, 2, 2)),
            "'poly_weights' .* 2 channels",
        ),
    ],
)
def test_state_dicts_that_do_not_fit_are_named(change, message):
    case = case_of("KAGNConv2DLayer")
    state = theirs(case)
    change(state)
    with pytest.raises(ValueError, match=message):
        tck.convert_state_dict(state, tck.KAGNConv2DLayer(2, 2, 2, degree=4))


def test_a_grid_that_the_layer_does_not_have_is_named():
    state = theirs(case_of("FastKANConv2DLayer"))
    state["rbf.grid"] = state["rbf.grid"] * 2
    with pytest.raises(ValueError, match="'rbf.grid' is not the grid"):
        tck.convert_state_dict(state, tck.FastKANConv2DLayer(2, 2, 2))
    with pytest.raises(ValueError, match="but the layer has 12"):
        tck.convert_state_dict(
            theirs(case_of("KANConv2DLayer")), tck.KANConv2DLayer(2, 2, 2, grid_size=9)
        )


def test_a_module_without_these_layers_is_refused():
    with pytest.raises(
        ValueError, match="KANConv2d holds no layer of kanseg.compat.torch_conv_kan"
    ):
        tck.convert_state_dict({}, kanseg.layers.KANConv2d(2, 2, 3))


@pytest.mark.parametrize(
    "name",
    [
        "KALNConv2DLayer",
        "KACNConv2DLayer",
        "KAGNConv2DLayer",
        "KAJNConv2DLayer",
        "KALN",
        "KACN",
        "KAGN",
        "KAJN",
    ],
)
def test_a_higher_degree_and_an_affine_norm_keep_the_function(name):
    case = case_of(name)
    more = {"degree": 6} | ({"affine": True} if "Conv" in name else {})
    x = 1.5 * wave(case["input"], -1)
    torch.testing.assert_close(converted(case, **more)(x), converted(case)(x), rtol=1e-5, atol=1e-5)


class Net(nn.Module):
    """A user's own net of these layers."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            tck.KANConv2DLayer(2, 2, 2),
            nn.BatchNorm2d(2),
            tck.L1(tck.KAGNConv2DLayer(2, 2, 2, degree=4), 0.1),
        )
        self.head = nn.Linear(2, 3)


def test_a_whole_net_converts_in_one_call():
    net = Net()
    first, second = case_of("KANConv2DLayer"), case_of("KAGNConv2DLayer")
    state = {k: v for k, v in net.state_dict().items() if k.startswith(("head", "features.1"))}
    state |= {f"features.0.{k}": v for k, v in theirs(first).items()} | {
        f"features.2.module.{k}": v for k, v in theirs(second).items()
    }
    net.load_state_dict(tck.convert_state_dict(state, net))
    x = 1.5 * wave(first["input"], -1)
    torch.testing.assert_close(
        net.features[0](x).flatten(), torch.tensor(first["output"]), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        net.features[2].eval()(x).flatten(), torch.tensor(second["output"]), rtol=1e-4, atol=1e-4
    )
    with pytest.raises(ValueError, match="unknown key 'tail.weight'"):
        tck.convert_state_dict(state | {"tail.weight": torch.ones(1)}, net)


def test_l1_adds_the_sign_to_the_gradient():
    torch.manual_seed(0)
    plain, regular = tck.KAN([3, 4, 2]), tck.KAN([3, 4, 2], l1_decay=0.5)
    regular.layers[0].module.load_state_dict(plain.layers[0].state_dict())
    regular.layers[1].load_state_dict(plain.layers[1].state_dict())
    x = torch.randn(5, 3)
    for _ in range(2):  # the second pass adds to gradients that are there
        plain(x).sum().backward()
        regular(x).sum().backward()
    for a, b in zip(plain.layers[0].parameters(), regular.layers[0].parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad + 2 * 0.5 * a.sign())
    torch.testing.assert_close(
        regular.layers[1].base_conv.weight.grad, plain.layers[1].base_conv.weight.grad
    )


def test_keywords_that_the_original_ignores_are_warned_of():
    with pytest.warns(UserWarning, match="KAGN ignores grid_size"):
        tck.KAGN([2, 2], grid_size=3)
    with pytest.warns(UserWarning, match="ReLUKAN ignores a"):
        tck.mlp_relukan([2, 2], a=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tck.mlp_relukan([2, 2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@families
def test_runs_under_autocast(family, dtype):
    layer, x = build(f"{family}Conv2DLayer")
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x)
    assert y.isfinite().all()
    assert (y.float() - layer(x)).abs().max() < 0.2
