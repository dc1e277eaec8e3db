import json

import pytest
import torch
from torch import nn

import kanseg
from kanseg.layers import KANLinear, KANLocal2d
from kanseg.layers.regularization import kan_layers
from kanseg.models import CLASSIFIERS, FlatClassifier
from kanseg.models.operations import multiply_adds, num_parameters

SIZE = [12, 10]
NAMES = ["kan", "hybrid", "conv_kan", "local_kan", "vae_kan"]


def create(name, **options):
    return kanseg.create_model(
        name, **({"in_channels": 1, "classes": 4, "image_size": SIZE} | options)
    )


def test_they_are_listed_as_classifiers():
    assert list(CLASSIFIERS) == NAMES
    assert kanseg.list_models("classification")[-5:] == NAMES
    assert not set(NAMES) & {*kanseg.list_models("segmentation"), *kanseg.list_encoders()}


@pytest.mark.parametrize("hidden", [[], [10], [5, 5]])
def test_the_flat_net_is_that_of_its_widths(hidden):
    for basis, each in (("bspline", 8 + 1), ("none", 1)):
        net = kanseg.create_model("kan", 1, 10, basis=basis, image_size=(7, 7), hidden=hidden)
        widths = [49, *hidden, 10]
        assert net.head.width == tuple(widths)
        edges = sum(a * b for a, b in zip(widths[:-1], widths[1:], strict=True))
        assert num_parameters(net) == edges * each + (sum(widths[1:]) if basis == "none" else 0)
    x = torch.randn(3, 1, 7, 7)
    torch.testing.assert_close(net(x), net.head(x.flatten(1)))


def test_the_hybrid_has_plain_layers_then_functions():
    net = create("hybrid", basis="gram", linear_widths=[9, 8], hidden=[6], activation="relu")
    x = torch.randn(3, 1, *SIZE)
    first, second = (layer for layer in net.front if isinstance(layer, nn.Linear))
    hidden = second(first(x.flatten(1)).relu()).relu()
    torch.testing.assert_close(net.features(x)[0], hidden)
    torch.testing.assert_close(net(x), net.head(hidden))
    assert [(m.in_features, m.out_features) for m in kan_layers(net)] == [(8, 6), (6, 4)]


def test_the_front_of_conv_kan_is_plain_and_takes_its_options():
    net = create("conv_kan", width=6, norm="instance", activation="gelu", hidden=[3])
    assert not list(kan_layers(net.front))
    assert [
        (m.in_channels, m.out_channels) for m in net.front.modules() if isinstance(m, nn.Conv2d)
    ] == [(1, 6), (6, 12)]
    assert sum(isinstance(m, nn.InstanceNorm2d) for m in net.modules()) == 2
    assert sum(isinstance(m, nn.GELU) for m in net.modules()) == 2
    assert net.head.width == (12 * 3 * 3, 3, 4)


def test_local_kan_reads_patches_that_share_nothing():
    net = create("local_kan", kernel_size=3, stride=2, width=5)
    assert isinstance(net.front[0], KANLocal2d)
    assert net.front[0].output_size == (5, 4)
    assert isinstance(net.head, nn.Linear)
    x = torch.randn(1, 1, *SIZE, requires_grad=True)
    (gradient,) = torch.autograd.grad(net.front[0](x)[0, 0, 1, 2], x)
    assert gradient[0, 0, 2:5, 4:7].abs().min() > 0
    assert gradient.count_nonzero() == 9
    kan = create("local_kan", head="kan", hidden=[7])
    assert kan.head.width == (24, 7, 4)
    assert kanseg.create_classifier("local_kan", 1, 4, image_size=SIZE, head="kan").head.width == (
        24,
        4,
    )


@pytest.mark.parametrize("name", NAMES)
def test_without_functions_it_is_no_linear_map(name):
    options = {"head": "kan", "hidden": [6]} if name == "local_kan" else {"hidden": [6]}
    net = create(name, basis="none", **options).eval()
    assert not list(kan_layers(net))
    x = torch.randn(5, 1, *SIZE)
    assert not torch.allclose(net(2 * x) - net(0 * x), 2 * (net(x) - net(0 * x)), atol=1e-3)
    assert all(m.bias is not None for m in net.modules() if isinstance(m, (KANLinear, KANLocal2d)))


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_gives_the_same_network_back(tmp_path, name):
    options = {
        "kan": {"hidden": [5, 5]},
        "hybrid": {"linear_widths": [7]},
        "local_kan": {"head": "kan"},
        "vae_kan": {"latent_dim": 3},
    }.get(name, {})
    net = create(name, basis="chebyshev", degree=2, image_size=(12, 10), **options).eval()
    net.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["classifier"]["image_size"] == SIZE
    loaded = kanseg.from_pretrained(tmp_path)
    assert isinstance(loaded, FlatClassifier)
    x = torch.randn(2, 1, *SIZE)
    torch.testing.assert_close(loaded(x), net(x), rtol=0, atol=0)
    twin = create(name, basis="chebyshev", degree=2, **options).eval()
    twin.load_state_dict(net.state_dict())
    torch.testing.assert_close(twin(x), net(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("match", ["params", "macs"])
@pytest.mark.slow_except("params-")
def test_the_width_is_solved_for_the_size_of_the_other_arm(name, match):
    size = {"params": num_parameters, "macs": lambda net: multiply_adds(net, (1, 1, 28, 28))}[match]
    arguments = {"image_size": [28, 28], "classes": 10} | (
        {"hidden": [5, 5]} if name == "kan" else {}
    )
    like = create(name, basis="bspline", **arguments)
    net = create(name, basis="none", match=match, like={"basis": "bspline"}, **arguments)
    assert size(net) == pytest.approx(size(like), rel=0.02)
    assert net.description["classifier"]["width"] > 1


def test_the_articles_flat_net_and_its_perceptron():
    kan = kanseg.create_model("kan", 1, 10, basis="bspline", image_size=[28, 28], hidden=[5, 5])
    perceptron = kanseg.create_model(
        "kan", 1, 10, basis="none", image_size=[28, 28], hidden=[5, 5], match="params", like=kan
    )
    assert kan.head.width == (784, 5, 5, 10)
    assert perceptron.head.width == (784, 43, 43, 10)


@pytest.mark.parametrize("name", NAMES)
def test_a_few_steps_learn_where_a_bright_square_is(name):
    x = torch.randn(64, 1, *SIZE) * 0.1
    y = torch.arange(64) % 4
    for image, label in zip(x, y, strict=True):
        image[:, 6 * (label // 2) :, 5 * (label % 2) :][:, :5, :4] += 1
    net = create(name, **({"detach": False} if name == "vae_kan" else {}))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert (net.eval()(x).argmax(1) == y).float().mean() > 0.95


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "kan", "image_size": None},
            "image_size.* None",
        ),
        ({"name": "vae_kan", "image_size": [28]}, "image_size"),
        ({"name": "conv_kan", "image_size": 28}, "image_size"),
        ({"name": "kan", "classes": 0}, "classes"),
        ({"name": "kan", "hidden": [5, 0]}, "hidden .* got"),
        ({"name": "kan", "hidden": 5}, "hidden .* got"),
        ({"name": "hybrid", "linear_widths": [2.5]}, "linear_widths"),
        ({"name": "kan", "width": 0}, "width"),
        ({"name": "kan", "hiden": [5]}, "'hiden'.* 'hidden'"),
        ({"name": "kan", "norm": "batch"}, "'norm'"),
        ({"name": "kan", "inner_channels": 0.5}, "'inner_channels'"),
        ({"name": "conv_kan", "experts": 4}, "'experts'"),
        ({"name": "kan", "head": "kan"}, "'head'"),
        ({"name": "local_kan", "head": "mlp"}, "head .*'mlp'"),
        ({"name": "local_kan", "hidden": [4]}, r"hidden=.* head='kan'"),
        ({"name": "local_kan", "kernel_size": 11}, "kernel_size=11"),
        ({"name": "kan", "degree": 3, "basis": "none"}, "'degree'.*'none'"),
        ({"name": "kan", "stem": {"basis": "rbf"}}, "stem .*'auto'"),
        ({"name": "kan", "features_only": True}, "'kan' .*`features`"),
        ({"name": "kan", "aux_params": {"classes": 2}}, "aux_params"),
        ({"name": "kann"}, "'kann'.* 'kan"),
        ({"name": "unet"}, "'image_size'"),
        ({"name": "vae_kan", "likelihood": "poisson"}, "likelihood .*gaussian, bernoulli"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        create(**arguments)
