"""The networks of torch-conv-kan: numbers from running the original at commit 7a0e83c (see
make_networks.py), its signatures, its names.
"""

import inspect
import json
import pickle
import re
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kanseg.compat import torch_conv_kan as tck
from kanseg.compat.torch_conv_kan.layer import _LegacyLayer
from kanseg.models import ClassificationModel, SegmentationModel
from tests.compat.make_networks import arguments, samples, theirs
from tests.compat.make_torch_conv_kan import parameters_of, wave

HERE = Path(__file__).parent
CASES = json.loads(HERE.joinpath("networks.json").read_text())
SIGNATURES = {
    n: p
    for line in HERE.joinpath("networks_signatures.txt").read_text().splitlines()
    for names, p in [line.split(": ")]
    for n in names.split()
}
UKANETS = ["ukanet_18", "fast_ukanet_18", "ukalnet_18", "ukacnet_18", "ukagnet_18", "ukagnetnb_18"]
VGG = {"expected_feature_shape": (1, 1), "input_channels": 1, "num_classes": 3}


def deep_is_slow(name):
    """Networks of more than 100 layers, and nested ones, take seconds to build."""
    marks = [pytest.mark.slow] if re.search("101|121|152|161|169|201|u2", name) else []
    return pytest.param(name, marks=marks)


def case_of(name):
    return next(case for case in CASES if case["callable"] == name)


def converted(case, **changes):
    network = getattr(tck, case["callable"])(**arguments(case) | changes).eval()
    network.load_state_dict(tck.convert_state_dict(theirs(case), network))
    return network.double()


def outputs(network, x):
    with torch.no_grad():
        y = network(x.double())
    return list(y) if isinstance(y, tuple) else [y]


def small(name):
    """A network of the name, as small as it gets, without memory."""
    options = (
        {"layer_sizes": [4] * (8 if "Eight" in name else 4)}
        if "Simple" in name
        else {"input_channels": 3, "num_classes": 2}
    )
    if "dense" in name:
        options |= {"growth_rate": 4, "num_init_features": 8}
    with torch.device("meta"):
        return getattr(tck, name)(**options)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["callable"])
def test_converted_weights_give_the_outputs_of_the_original(case):
    got = outputs(converted(case), wave(case["input"], -1))
    assert len(got) == len(case["outputs"])
    for y, expected in zip(got, map(torch.tensor, case["outputs"]), strict=True):
        assert (samples(y) - expected).abs().max() <= 1e-4 * max(1, expected.abs().max())
        assert expected.std() > 1e-3


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_of_the_original(name):
    assert parameters_of(getattr(tck, name)) == SIGNATURES[name]
    assert getattr(tck, name).__name__ == name


@pytest.mark.parametrize("name", [deep_is_slow(name) for name in SIGNATURES])
def test_names_of_the_original_cover_every_entry_once(name):
    network = small(name)
    modules, table = dict(network.named_modules()), network.original_names
    targets = [
        ours for ours in table.values() if ours in modules
    ]  # a block without shortcut lacks one name
    assert len(targets) == len(set(targets))
    for key in network.state_dict():
        assert sum(key.startswith(f"{ours}.") for ours in targets) == 1, key
    assert isinstance(network.net, SegmentationModel | ClassificationModel)


@pytest.mark.parametrize("name", UKANETS)
@pytest.mark.parametrize(
    "options",
    [{}, {"affine": False, "norm_layer": nn.BatchNorm2d, "dropout": 0.1, "l1_decay": 0.1}],
)
def test_options_reach_every_layer_of_ukanet(name, options):
    with torch.device("meta"):
        network = getattr(tck, name)(
            1, 2, **options, **({"degree": 4} if "degree" in SIGNATURES[name] else {})
        )
    layers = [m for m in network.modules() if isinstance(m, _LegacyLayer)]
    assert len(layers) == 39
    assert {layer.options.get("degree", 4) for layer in layers} == {4}
    assert all(isinstance(layer.dropout, nn.Identity) == (not options) for layer in layers)
    norms = [norm for layer in layers for norm in layer.norm]
    if (
        name != "ukagnetnb_18"
    ):  # whose second blocks have BatchNorm2d with weights there, whatever is asked
        assert {norm.affine for norm in norms} == {options.get("affine", True)}
    assert sum(isinstance(m, tck.L1) for m in network.modules()) == (
        35 if options else 0
    )  # not the stem and the three merges, as there


def test_what_no_weights_can_make_up_for_is_as_there_in_second_blocks_of_ukanet():
    with torch.device("meta"):
        network = tck.fast_ukanet_18(1, 2, grid_size=8, norm_layer=nn.BatchNorm2d)
    first, second = network.net.encoder.stages[1]
    assert (first.body[0].options["grid_size"], type(first.body[0].norm[0])) == (8, nn.BatchNorm2d)
    assert (second.body[0].options["grid_size"], type(second.body[0].norm[0])) == (
        5,
        nn.InstanceNorm2d,
    )
    assert isinstance(second.body[0].base_activation, nn.SiLU)


def test_l1_here_and_not_there_and_the_other_way_round():
    case, x = case_of("tiny_densekacnet"), wave(case_of("tiny_densekacnet")["input"], -1)
    assert any(".module." in key for key in theirs(case))
    torch.testing.assert_close(
        outputs(converted(case, l1_decay=0.0), x), outputs(converted(case), x)
    )
    case, x = case_of("ukagnet_18"), wave(case_of("ukagnet_18")["input"], -1)
    torch.testing.assert_close(
        outputs(converted(case, l1_decay=0.1), x), outputs(converted(case), x)
    )


def test_a_higher_degree_keeps_the_function():
    case, x = case_of("ukagnet_18"), wave(case_of("ukagnet_18")["input"], -1)
    torch.testing.assert_close(
        outputs(converted(case, degree=6), x), outputs(converted(case), x), rtol=1e-7, atol=1e-7
    )


def test_u2kanet_returns_seven_maps_in_training_and_evaluation():
    network = tck.u2net_small(1, 2)
    x = torch.randn(2, 1, 64, 64)
    for mode in (True, False):
        maps = network.train(mode)(x)
        assert isinstance(maps, tuple)
        assert [tuple(y.shape) for y in maps] == [(2, 2, 64, 64)] * 7
        assert len({y[0, 0, 0, 0].item() for y in maps}) == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("layer2e.1.conv2.base_conv.0.weight"),
            "no entry for 'layer2e.1.conv2.base_conv.weight'",
        ),
        (lambda s: s.pop("output.bias"), "output.bias"),
        (
            lambda s: s.update({"layer5e.0.conv1.beta_weights": torch.ones(5)}),
            "unknown key 'layer5e.0.conv1.beta_weights'",
        ),
        (lambda s: s.update({"merge2.extra": torch.ones(1)}), "unknown key 'merge2.extra'"),
        (
            lambda s: s.update({"net.segmentation_head.weight": torch.ones(1)}),
            "'net.segmentation_head.weight' does not fit",
        ),
        (
            lambda s: s.update({"output.weight": torch.ones(3, 8, 1, 1)}),
            "'output.weight' does not fit",
        ),
        (
            lambda s: s.update({"merge1.base_conv.0.weight": torch.ones(8, 8, 3, 3)}),
            "'merge1.base_conv.0.weight' does not fit",
        ),
    ],
)
def test_state_dicts_that_do_not_fit_are_named(change, message):
    case = case_of("ukagnet_18")
    state = theirs(case)
    change(state)
    with pytest.raises(ValueError, match=message):
        tck.convert_state_dict(state, tck.ukagnet_18(**arguments(case)))


def test_a_network_inside_a_module_of_ones_own_converts():
    case, x = case_of("SimpleConv"), wave(case_of("SimpleConv")["input"], -1)
    whole = nn.ModuleDict(
        {"backbone": tck.SimpleConv(**arguments(case)), "extra": nn.Linear(2, 2)}
    ).eval()
    state = {f"backbone.{key}": value for key, value in theirs(case).items()} | {
        f"extra.{k}": v for k, v in whole["extra"].state_dict().items()
    }
    whole.load_state_dict(tck.convert_state_dict(state, whole))
    torch.testing.assert_close(outputs(whole["backbone"].double(), x), outputs(converted(case), x))


@pytest.fixture
def folder(tmp_path):
    """A folder as PyTorchModelHubMixin writes it: the class for the norm is missing in
    config.json.
    """
    case = case_of("VGGKAGN_BN")
    state = {key: value.clone() for key, value in theirs(case).items()}
    save_file(state, tmp_path / "model.safetensors")
    known = {
        name: p.default for name, p in inspect.signature(tck.VGGKAGN_BN).parameters.items()
    } | case["kwargs"]
    tmp_path.joinpath("config.json").write_text(
        json.dumps({k: v for k, v in known.items() if k != "norm_layer"})
    )
    return tmp_path


def test_a_folder_of_the_hub_loads(folder):
    case = case_of("VGGKAGN_BN")
    network = tck.VGGKAGN_BN.from_pretrained(folder)
    assert type(network) is tck.VGGKAGN_BN and not network.training
    (y,) = outputs(network.double(), wave(case["input"], -1))
    torch.testing.assert_close(
        samples(y).float(), torch.tensor(case["outputs"][0]), rtol=1e-4, atol=1e-4
    )


def test_a_folder_without_its_config_needs_the_arguments(folder):
    folder.joinpath("config.json").unlink()
    with pytest.raises(TypeError, match="input_channels"):
        tck.VGGKAGN_BN.from_pretrained(folder)
    with pytest.raises(ValueError, match="no entry for|does not fit|unknown key"):
        tck.VGGKAGN_BN.from_pretrained(folder, input_channels=1, num_classes=3, affine=True)
    tck.VGGKAGN_BN.from_pretrained(str(folder), vgg_type="VGG11v4", affine=True, **VGG)


def test_nothing_is_downloaded():
    with pytest.raises(ValueError, match="model.safetensors"):
        tck.VGGKAGN_BN.from_pretrained("brivangl/vgg_kagn_bn11_v4")


def test_the_published_form_of_vgg_11_v4_has_its_size():
    options = {
        "degree": 5,
        "dropout": 0.05,
        "width_scale": 2,
        "affine": True,
        "norm_layer": nn.BatchNorm2d,
        "expected_feature_shape": (1, 1),
    }
    with torch.device("meta"):
        network = tck.vggkagn_bn(3, 1000, vgg_type="VGG11v4", **options)
    assert type(network) is tck.VGGKAGN_BN
    assert sum(p.numel() for p in network.parameters()) == 7_252_115  # 7.25M in its model card


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tck.UKAGNet(mixer_type="self-att"), "mixer_type must be 'conv', got 'self-att'"),
        (lambda: tck.UKAGNet(mixer_type="focal"), "mixer_type must be 'conv', got 'focal'"),
        (lambda: tck.vggkagn(vgg_type="VGG11sa", **VGG), "attention layers are not part"),
        (lambda: tck.vggkagn_bn(last_attention=True, **VGG), "attention layers are not part"),
        (lambda: tck.vggkan(vgg_type="VGG12", **VGG), "vgg_type must be VGG11, .* got 'VGG12'"),
        (
            lambda: tck.vggkan(head_type="Matryoshka", **VGG),
            "head_type must be one of .* got 'Matryoshka'",
        ),
        (lambda: tck.vggkan(1, 3, expected_feature_shape=(2, 3)), "must be square"),
        (lambda: tck.reskagnet50(3, 10, groups=2), "groups must be 1 in reskanet_50, got 2"),
        (lambda: tck.SimpleConvKAN([4, 4, 4]), "layer_sizes must hold 4 numbers"),
    ],
)
def test_what_is_not_there_is_a_value_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_calls_that_do_not_fit_are_type_errors():
    with pytest.raises(TypeError, match="degre"):
        tck.ukagnet_18(3, 2, degre=3)
    with pytest.raises(TypeError, match="num_classes"):
        tck.vggkan(3)


def test_an_argument_without_effect_is_warned_of():
    with pytest.warns(UserWarning, match="hidden_layer_dim has no effect"):
        tck.reskagnet_18x32p(1, 2, hidden_layer_dim=32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tck.reskagnet_18x32p(1, 2)


@pytest.mark.parametrize("name", ["ukagnet_18", "vggkagn", "tiny_densekagnet_bn", "UKAGNet"])
def test_a_step_of_training_reaches_every_parameter(name):
    options = {"growth_rate": 4, "num_init_features": 8} if "dense" in name else {}
    network = getattr(tck, name)(1, 2, **options)
    network(torch.randn(2, 1, 64, 64)).square().mean().backward()
    assert [
        k for k, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ] == []


@pytest.mark.parametrize(
    "name", ["fast_ukanet_18", "u2kagnet_bn_small", "VGGKAGN_BN", "SimpleConvKAN"]
)
def test_pickles_with_its_names(name):
    options = (
        {"layer_sizes": [2, 4, 4, 6], "num_classes": 3}
        if name == "SimpleConvKAN"
        else {"input_channels": 1, "num_classes": 3}
    )
    network = getattr(tck, name)(**options).eval()
    again = pickle.loads(pickle.dumps(network))
    assert type(again) is type(network)
    assert again.original_names == network.original_names
    x = torch.randn(1, 1, 64, 64)
    torch.testing.assert_close(
        outputs(again.double(), x), outputs(network.double(), x), rtol=0, atol=0
    )
