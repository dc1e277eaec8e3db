import pytest
import torch
from torch import nn

import kanseg
from kanseg.encoders import scaled
from kanseg.layers.regularization import kan_layers
from kanseg.models.matching import matched, solve_width
from kanseg.models.operations import multiply_adds, num_parameters

SIZE = (64, 64)
SIZES = {"params": num_parameters, "macs": lambda model: multiply_adds(model, (1, 3, *SIZE))}


@pytest.mark.parametrize("name", [pytest.param("ukanet_18", marks=pytest.mark.slow), "unet"])
@pytest.mark.parametrize("basis", ["gram", "bspline"])
@pytest.mark.parametrize("share", ["channel", "edge"])
@pytest.mark.slow_except("channel-gram")
def test_the_baseline_is_as_large_and_has_no_functions(name, basis, share):
    """Shared functions hardly make a network larger."""
    functions = {"basis": basis, "share": share}
    like = kanseg.create_model(name, depth=2, **functions)
    for match, size in SIZES.items():
        model = kanseg.create_model(
            name, basis="none", depth=2, match=match, like=functions, match_size=SIZE
        )
        assert size(model) == pytest.approx(size(like), rel=0.02)
        assert not list(kan_layers(model))
        assert (model.encoder.out_channels[0] > 17) == (share == "edge")


def test_multiply_adds_at_256_pixels_by_default():
    model = kanseg.create_model("unet", basis="none", depth=1, match="macs", like={"basis": "gram"})
    like = kanseg.create_model("unet", basis="gram", depth=1)
    assert multiply_adds(model, (1, 3, 256, 256)) == pytest.approx(
        multiply_adds(like, (1, 3, 256, 256)), rel=0.02
    )


@pytest.mark.parametrize("match", SIZES)
def test_like_a_network_of_any_origin(match):
    like = nn.Sequential(
        nn.Conv2d(3, 40, 3, padding=1), nn.BatchNorm2d(40), nn.Conv2d(40, 30, 3, padding=1)
    )
    model = kanseg.create_model(
        "unet", basis="none", depth=1, match=match, like=like, match_size=SIZE
    )
    assert SIZES[match](model) == pytest.approx(SIZES[match](like), rel=0.02)


def test_a_network_of_functions_like_plain_ones():
    model = kanseg.create_model(
        "unet", basis="rbf", grid_size=4, depth=2, match="params", like={"basis": "none"}
    )
    assert num_parameters(model) == pytest.approx(
        num_parameters(kanseg.create_model("unet", basis="none", depth=2)), rel=0.02
    )
    assert all(layer.basis.num_functions == 4 for layer in list(kan_layers(model))[1:])


def test_the_width_is_that_of_the_network_to_be_like_and_an_option_of_one_basis_goes_there():
    like = kanseg.create_model("unet", basis="gram", degree=5, width=9, depth=2)
    model = kanseg.create_model(
        "unet", basis="none", degree=5, width=9, depth=2, match="params", like={"basis": "gram"}
    )
    assert num_parameters(model) == pytest.approx(num_parameters(like), rel=0.02)
    wider = kanseg.create_model(
        "unet", basis="none", width=9, depth=2, match="params", like={"width": 12}
    )
    assert num_parameters(wider) == num_parameters(
        kanseg.create_model("unet", basis="none", width=12, depth=2)
    )


def test_like_a_network_of_other_images():
    like = kanseg.create_model("unet", 1, basis="none", depth=1, width=9)
    model = kanseg.create_model(
        "unet",
        basis="none",
        depth=1,
        width=9,
        match="macs",
        like={"in_channels": 1},
        match_size=SIZE,
    )
    assert SIZES["macs"](model) == pytest.approx(multiply_adds(like, (1, 1, *SIZE)), rel=0.02)


def test_encoders_too():
    like = kanseg.create_encoder("ukanet_18", basis="gram", depth=2)
    encoder = kanseg.create_encoder(
        "ukanet_18", basis="none", depth=2, match="params", like={"basis": "gram"}
    )
    assert num_parameters(encoder) == pytest.approx(num_parameters(like), rel=0.02)


def test_solving_draws_no_random_numbers():
    arguments = {
        "name": "unet",
        "in_channels": 3,
        "basis": "none",
        "depth": 1,
        "match": "macs",
        "like": {"basis": "gram"},
        "match_size": SIZE,
    }
    torch.manual_seed(3)
    model = kanseg.create_model(**arguments)
    torch.manual_seed(3)
    solved = matched(kanseg.create_model, arguments)
    assert solved.keys() == {"name", "in_channels", "basis", "depth", "width"}
    again = kanseg.create_model(**solved)
    torch.testing.assert_close(model.state_dict(), again.state_dict(), rtol=0, atol=0)


def test_counting_a_network_without_memory_leaves_others_as_they_were():
    net = kanseg.create_model("unet", basis="gram", width=4, depth=1).eval()
    for layer in kan_layers(net):
        nn.init.normal_(layer.functions_weight)
    x = torch.randn(1, 3, *SIZE)
    before = net(x)
    like = {"basis": "gram"}
    kanseg.create_model("unet", basis="none", depth=1, match="macs", like=like, match_size=SIZE)
    torch.testing.assert_close(net(x), before, rtol=0, atol=0)


def test_a_width_is_a_real_number():
    assert kanseg.create_encoder("unet", width=10.3, depth=3).out_channels == [10, 21, 41, 82]
    assert kanseg.create_encoder("ukanet_50", width=2.6, depth=1).out_channels == [10, 21]
    assert kanseg.create_model("ukanet_34", width=1.5, depth=2).eval()(
        torch.randn(1, 3, 9, 9)
    ).shape == (1, 2, 9, 9)
    assert (scaled(0.2, 1), scaled(3, 4)) == (1, 12)
    for width in (0.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="width"):
            kanseg.create_encoder("unet", width=width)


@pytest.mark.parametrize("start", [1, 2.5, 16, 1000])
def test_solved_by_few_evaluations(start):
    widths = []

    def size(width):
        widths.append(width)
        return round(width) * round(3 * width) + 100

    width = solve_width(size, 30_000, start)
    assert size(width) == pytest.approx(30_000, rel=0.02)
    assert len(widths) < 20


def test_what_cannot_be_reached_names_the_nearest_sizes():
    with pytest.raises(ValueError, match=r"5 parameters .* 40 \(width 1\)$"):
        solve_width(lambda width: 40 * int(width) ** 2, 5, what="parameters")
    with pytest.raises(ValueError, match=r"100 .*: 40 \(width 1.*\) and 160 \(width 2.*\)$"):
        solve_width(lambda width: 40 * int(width) ** 2, 100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"match": "params"}, "match.* like"),
        ({"like": {"basis": "gram"}}, "match=None"),
        ({"match": "size", "like": {"basis": "gram"}}, "match='size'"),
        ({"match": "params", "like": nn.Linear(2, 2), "width": 3}, "`width`"),
        ({"match": "params", "like": {"basis": "gramm"}}, "'gramm'.* 'gram'"),
        ({"match": "params", "like": {"basis": "gram"}, "widht": 3}, "'widht'.* 'width'"),
        ({"match": "params", "like": nn.Linear(2, 2)}, "6 parameters"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        kanseg.create_model("unet", basis="none", **options)


def test_mixtures_of_experts_and_classifiers_are_matched_too():
    net = kanseg.create_model(
        "unet", width=32, depth=1, match="macs", like={"experts": 3}, match_size=(16, 16)
    )
    assert net.description["model"]["width"] > 32  # two of three experts are run
    like = kanseg.create_classifier("vggkan11", width=4, classes=100, head="kan")
    control = kanseg.create_classifier(
        "vggkan11", classes=100, head="kan", basis="none", match="params", like=like
    )
    assert num_parameters(control) == pytest.approx(num_parameters(like), rel=0.02)
