"""What every registered basis, layer and model has to keep, with no list of exceptions."""

import copy
import io
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import kanseg
from kanseg.bases import BASES, create_basis
from kanseg.layers import FAMILIES, PENALTIES, KANConv1d, KANConv2d, KANConv3d, KANLinear, Penalty
from kanseg.layers.activation import default_options
from kanseg.layers.regularization import kan_layers
from kanseg.models import CLASSIFIERS

EXTREMES = [0.0, 1e-8, -1e-8, 1.0, -1.0, 1e2, -1e2, 1e4, -1e4]
CONVS = {1: KANConv1d, 2: KANConv2d, 3: KANConv3d}
VARIANTS = [(name, {}) for name in BASES]
VARIANTS += [("wavelet", {"wavelet": w}) for w in ("morlet", "dog", "meyer", "shannon")]
VARIANTS += [("rbf", {"domain": d}) for d in ("instance_norm", "layer_norm")]
VARIANTS += [
    ("gram", {"learnable": True}),
    ("gram", {"num_points": 9}),
    ("jacobi", {"alpha": -0.5, "beta": -0.5}),
    ("bspline", {"spline_order": 2}),
]
VARIANTS += [
    ("hermite", {"kind": "probabilist"}),
    ("rational", {"degree": 2, "denominator_degree": 3, "num_groups": 1}),
]
BOTTLENECK = [None, 0.5]
variants = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda v: str(v))
bases = pytest.mark.parametrize("name", list(BASES))
bases_and_none = pytest.mark.parametrize("name", kanseg.list_bases())


def every_pair(models, bases, model, basis="gram"):
    """All pairs; those of another model with another basis are slow ones.

    Models receive layers and do not ask for their basis, so that a row and a column say nearly all.
    """
    slow = pytest.mark.slow
    return pytest.mark.parametrize(
        ("model", "basis"),
        [
            pytest.param(m, b, marks=() if m == model or b == basis else slow)
            for m in models
            for b in bases
        ],
    )


def classifier(model, size, **options):
    """A network for images of that size, which some have to be told."""
    return kanseg.create_model(
        model, **({"image_size": size} if model in CLASSIFIERS else {}), **options
    )


@variants
def test_basis_gradient_is_the_derivative(name, options):
    basis = create_basis(name, 2, **options).double()
    x = (torch.rand(2, 2, 5, dtype=torch.float64) * 3 - 1.5 + 0.0137).requires_grad_()
    assert torch.autograd.gradcheck(basis, (x,))


@variants
def test_basis_parameters_have_the_right_gradient(name, options):
    basis = create_basis(name, 2, **options).double()
    parameters = list(basis.parameters())
    x = torch.rand(2, 2, 3, dtype=torch.float64) + 0.0137
    if parameters:
        assert torch.autograd.gradcheck(lambda *_: basis(x), parameters)


@variants
def test_all_functions_but_the_constant_one_vary_and_no_two_coincide(name, options):
    basis = create_basis(name, 1, **options)
    values = basis(torch.linspace(-2, 2, 401).view(1, 1, -1))[0, 0]
    varies = values.std(dim=-1) > 1e-3
    expected = torch.ones(basis.num_functions, dtype=torch.bool)
    if basis.constant_function is not None:
        expected[basis.constant_function] = False
    assert torch.equal(varies, expected)
    distance = torch.cdist(values, values) + torch.eye(len(values)) * 99
    assert distance.min() > 1e-2


@bases_and_none
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_inputs_give_finite_values_and_gradients(name, dtype):
    layer = KANConv2d(2, 4, 3, padding=1, basis=name)
    x = torch.tensor(EXTREMES).repeat(2, 2, 2, 1).requires_grad_()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        y = layer(x)
    y.float().sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


@variants
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_input_is_computed_in_float32(name, options, dtype):
    basis = create_basis(name, 2, **options)
    x = torch.randn(2, 2, 7, dtype=dtype)
    torch.testing.assert_close(basis(x), basis(x.float()).to(dtype), rtol=0, atol=0)


@variants
@pytest.mark.parametrize("inner", BOTTLENECK)
def test_a_sample_does_not_depend_on_its_batch_mates(name, options, inner):
    layer = KANConv2d(4, 4, 3, padding=1, basis=name, inner_channels=inner, **options).eval()
    a, b = torch.randn(1, 4, 6, 6), 50 * torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(layer(torch.cat([a, b]))[:1], layer(a), rtol=1e-5, atol=1e-5)


@variants
def test_constant_inputs_give_finite_output_and_gradients(name, options):
    layer = KANConv2d(2, 4, 3, padding=1, basis=name, **options)
    for value in (0.0, 3.0):
        x = torch.full((1, 2, 5, 5), value, requires_grad=True)
        layer(x).sum().backward()
        assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("inner", BOTTLENECK)
@bases_and_none
def test_output_deviation_of_a_fresh_layer_is_near_one(name, inner, ndim):
    for width, kernel in ((3, 3), (16, 1), (48, 3)):
        layer = CONVS[ndim](
            width,
            64,
            kernel,
            padding=kernel // 2,
            basis=name,
            inner_channels=None if name == "none" else inner,
        )
        side = {1: 512, 2: 24, 3: 8}[ndim]
        with torch.no_grad():
            y = layer.convolve(torch.randn(2, width, *[side] * ndim))
        assert 0.5 < y.std() < 2
        assert y.flatten(2).std(dim=-1).median() > 0.4  # within a channel: not by its mean alone


@pytest.mark.parametrize("share", ["channel", "layer", 2])
@pytest.mark.parametrize("position", ["before_conv", "after_norm"])
@pytest.mark.parametrize("base", [None, "silu"])
@bases
@pytest.mark.slow_except("gram", "bspline", "rational")
def test_shared_functions_start_near_one_too_and_train(name, share, position, base):
    before = position == "before_conv"
    options = {"base_activation" if before else "activation": base, "position": position}
    for width, kernel in ((3, 3), (48, 3)):
        layer = KANConv2d(
            width, 64, kernel, padding=kernel // 2, basis=name, share=share, **options
        )
        functions = layer.base_activation if before else layer.activation
        x = torch.randn(2, width, 24, 24)
        assert 0.5 < layer.convolve(x).std() < 2
        rows = {"channel": width if before else 64, "layer": 1, 2: 2}[share]
        assert functions.weight.shape == (rows, functions.basis.num_functions)
    layer(x).square().mean().backward()
    assert functions.weight.grad.abs().max() > 0
    assert layer.base_conv.weight.grad.abs().max() > 0


@bases
def test_a_function_for_all_edges_is_every_edge_with_that_function(name):
    options = default_options(name)
    shared = KANConv2d(
        3, 4, 3, padding=1, basis=name, share="layer", position="before_conv", norm=None
    )
    edges = KANConv2d(3, 4, 3, padding=1, basis=name, norm=None, **options)
    functions = shared.base_activation
    nn.init.normal_(functions.weight)
    edges.base_conv.load_state_dict(shared.base_conv.state_dict())
    edges.basis.load_state_dict(functions.basis.state_dict())
    with torch.no_grad():
        each = shared.base_conv.weight.unsqueeze(2) * functions.weight.view(1, 1, -1, 1, 1)
        edges.basis_conv.weight.copy_(each.flatten(1, 2))
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(shared(x), edges(x), rtol=1e-4, atol=1e-4)


@variants
def test_state_dict_copy_and_pickle_keep_the_function(name, options):
    layer = KANConv2d(2, 4, 3, basis=name, inner_channels=0.5, **options).eval()
    x = torch.randn(1, 2, 6, 6)
    other = KANConv2d(2, 4, 3, basis=name, inner_channels=0.5, **options).eval()
    other.load_state_dict(layer.state_dict())
    stream = io.BytesIO()
    pickle.dump(layer, stream)
    stream.seek(0)
    for twin in (other, copy.deepcopy(layer), pickle.load(stream)):
        assert torch.equal(twin(x), layer(x))


@variants
def test_a_layer_built_in_double_precision_has_exact_constants(float64, name, options):
    exact = create_basis(name, 2, **options)
    torch.set_default_dtype(torch.float32)
    layer = KANConv2d(2, 4, 3, basis=name, dtype=torch.float64, **options)
    x = torch.rand(1, 2, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(layer.basis(x), exact(x), atol=1e-14, rtol=0)


@variants
def test_casting_to_half_and_back_does_not_bend_the_functions(name, options):
    layer = KANConv2d(2, 4, 3, basis=name, **options)
    constants = {k: v.clone() for k, v in layer.named_buffers() if k.startswith("basis.")}
    layer.bfloat16().float()
    assert all(torch.equal(v, constants[k]) for k, v in layer.named_buffers() if k in constants)


@variants
def test_all_tensors_follow_to_dtype(name, options):
    layer = KANConv2d(2, 4, 3, basis=name, dtype=torch.float64, **options).eval()
    assert layer(torch.randn(1, 2, 5, 5, dtype=torch.float64)).dtype == torch.float64
    half = KANConv2d(2, 4, 3, basis=name, **options).eval().bfloat16()
    assert half(torch.randn(1, 2, 5, 5).bfloat16()).dtype == torch.bfloat16


@variants
@pytest.mark.parametrize("inner", BOTTLENECK)
def test_forward_stays_on_the_device(name, options, inner):
    with FakeTensorMode(), torch.device("cuda"):
        layer = KANConv2d(4, 4, 3, basis=name, inner_channels=inner, **options)
        assert layer(torch.randn(1, 4, 6, 6)).device.type == "cuda"


@variants
def test_no_tensor_is_kept_alive(name, options):
    layer = KANConv2d(2, 4, 3, basis=name, **options)
    x = torch.randn(1, 2, 6, 6)
    layer(x).sum().backward()
    watch = weakref.ref(x)
    del x
    assert watch() is None  # at once: not even a reference cycle that waits for the collector


@bases_and_none
def test_one_optimizer_step_moves_every_parameter(name):
    layer = KANConv2d(4, 4, 3, basis=name, inner_channels=None if name == "none" else 0.5)
    before = {k: v.clone() for k, v in layer.named_parameters()}
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    (layer(torch.randn(4, 4, 9, 9)) * torch.randn(4, 4, 7, 7)).sum().backward()
    optimizer.step()
    assert all(not torch.equal(before[k], v) for k, v in layer.named_parameters())


@bases_and_none
@pytest.mark.parametrize("inner", BOTTLENECK)
def test_groups_read_their_own_channels_only(name, inner):
    layer = KANConv2d(
        6, 4, 1, groups=2, basis=name, inner_channels=None if name == "none" else inner, norm=None
    ).eval()
    jacobian = torch.autograd.functional.jacobian(
        lambda x: layer(x.view(1, 6, 1, 1)).flatten(), torch.randn(6)
    )
    assert (jacobian[:2, 3:] == 0).all()
    assert (jacobian[2:, :3] == 0).all()
    assert (jacobian[:2, :3] != 0).all()


@pytest.mark.parametrize(
    "name", [n for n in BASES if "degree" in create_basis(n, 1).__init__.__code__.co_varnames]
)
def test_degrees_from_zero_on_work(name):
    for degree in (0, 1, 6):
        assert create_basis(name, 2, degree=degree)(torch.randn(1, 2, 3)).shape == (
            1,
            2,
            degree + 1,
            3,
        )
    with pytest.raises(ValueError, match="degree must be an integer at least 0"):
        create_basis(name, 2, degree=-1)


@bases
def test_basis_takes_zero_to_three_spatial_axes(name):
    basis = create_basis(name, 3)
    for shape in ((2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5, 6)):
        x = torch.randn(shape)
        flat = basis(x.flatten(2)) if x.dim() > 2 else basis(x)
        torch.testing.assert_close(basis(x), flat.reshape(2, 3, basis.num_functions, *shape[2:]))


@bases_and_none
def test_linear_layer_is_the_convolution_of_one_pixel(name):
    linear = KANLinear(5, 3, basis=name)
    conv = KANConv1d(5, 3, 1, basis=name, norm=None, activation=None)
    state = {
        k.replace("linear", "conv"): v.unsqueeze(-1) if "linear.weight" in k else v
        for k, v in linear.state_dict().items()
    }
    conv.load_state_dict(state)
    x = torch.randn(2, 4, 5)
    torch.testing.assert_close(linear(x), conv(x.transpose(1, 2)).transpose(1, 2))


@pytest.mark.parametrize("name", FAMILIES)
def test_family_names_build_layers_of_their_dimension(name):
    ndim = int(name[-2])
    layer = getattr(kanseg.layers, name)(4, 6, 3, padding=1)
    assert isinstance(layer, CONVS[ndim])
    basis = {
        "KALN": "legendre",
        "Fast": "rbf",
        "KACN": "chebyshev",
        "KAGN": "gram",
        "WavK": "wavelet",
        "KAJN": "jacobi",
        "KABN": "bernstein",
        "ReLU": "relu",
    }
    assert isinstance(layer.basis, BASES[basis[name.removeprefix("Bottleneck")[:4]]])
    assert isinstance(layer.squeeze, nn.Identity) != name.startswith("Bottleneck")


@every_pair(kanseg.list_models("segmentation"), kanseg.list_bases(), "unet")
def test_models_run_on_any_size_with_every_basis(model, basis):
    net = kanseg.create_model(model, in_channels=2, classes=3, basis=basis, width=2, depth=2).eval()
    for height, width in ((61, 83), (33, 7), (1, 1)):
        logits = net(torch.randn(1, 2, height, width))
        assert logits.shape == (1, 3, height, width)
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    "model", [name for name in kanseg.list_models() if name not in CLASSIFIERS]
)
def test_options_reach_every_layer_of_a_model(model):
    net = kanseg.create_model(
        model, basis="legendre", degree=5, width=4, norm="instance", inner_channels=0.5, stem=None
    )
    layers = [m for m in net.modules() if isinstance(m, KANConv2d)]
    functions = [m for m in layers if m.basis is not None]
    assert (
        len(functions) == len(layers) or model == "ukan" or model.startswith("densekanet")
    )  # these have plain convolutions by design
    assert len(functions) > 3
    assert all(m.basis.degree == 5 and isinstance(m.expand, nn.Conv2d) for m in functions)
    assert all(isinstance(m.norm, nn.InstanceNorm2d) or model == "ukan" for m in layers)


@pytest.mark.parametrize("model", list(CLASSIFIERS))
@pytest.mark.parametrize("options", [{}, {"hidden": [3, 3]}], ids=str)
def test_options_reach_every_flat_layer_of_a_classifier(model, options):
    options = options | ({"head": "kan"} if model == "local_kan" else {})
    net = classifier(
        model, (16, 12), basis="legendre", degree=5, dropout=0.25, base_activation="tanh", **options
    )
    layers = list(kan_layers(net))
    assert len(layers) >= 1 + len(options.get("hidden", []))
    assert all(
        m.basis.degree == 5 and m.feature_noise.p == 0.25 and isinstance(m.base_activation, nn.Tanh)
        for m in layers
    )


@pytest.mark.parametrize("model", kanseg.list_models())
def test_the_plain_baseline_has_no_univariate_functions(model):
    net = classifier(model, (32, 32), basis="none", width=4)
    assert not any(isinstance(m, kanseg.bases.Basis) for m in net.modules())


@pytest.mark.parametrize("model", kanseg.list_models("segmentation"))
def test_a_step_of_a_model_reaches_every_parameter(model):
    net = kanseg.create_model(model, width=2, depth=2, aux_params={"classes": 3})
    masks, labels = net(torch.randn(2, 3, 33, 20))
    masks = masks if isinstance(masks, list) else [masks]  # deep supervision
    assert all(each.shape == (2, 2, 33, 20) for each in masks)
    assert labels.shape == (2, 3)
    (sum(each.square().sum() for each in masks) + labels.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("model", kanseg.list_models("segmentation"))
def test_an_images_mask_does_not_depend_on_its_neighbors(model):
    net = kanseg.create_model(model, width=4, depth=2).eval()
    a, b = torch.randn(1, 3, 20, 20), torch.zeros(1, 3, 20, 20)
    torch.testing.assert_close(net(torch.cat([a, b]))[:1], net(a), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", kanseg.list_encoders())
def test_encoders_keep_the_pyramid_contract(name):
    deepest = (
        5
        if name in kanseg.list_models("segmentation")
        else kanseg.create_encoder(name, width=2).depth
    )
    for depth in {1, 3, deepest} - set(range(deepest + 1, 4)):
        encoder = kanseg.create_encoder(name, in_channels=4, depth=depth, width=2).eval()
        features = encoder(torch.randn(1, 4, 45, 64))
        assert len(features) == depth + 1 == len(encoder.out_channels)
        assert encoder.output_stride == 2**depth
        for i, feature in enumerate(features):
            assert feature.shape == (1, encoder.out_channels[i], -(-45 // 2**i), -(-64 // 2**i))


@pytest.mark.parametrize("model", kanseg.list_models("segmentation"))
def test_models_stay_on_the_device(model):
    with FakeTensorMode(), torch.device("cuda"):
        net = kanseg.create_model(model, width=2, depth=2).eval()
        assert net(torch.randn(2, 3, 33, 20)).device.type == "cuda"


ALL_CLASSIFIERS = kanseg.list_models("classification")
ONE_OF_EACH = ["densekanet_tiny", "reskanet_18", "reskanet_50", "simple_kan_4", "vggkan11"]


@every_pair(
    [m for m in ALL_CLASSIFIERS if m not in CLASSIFIERS], kanseg.list_bases(), "simple_kan_4"
)
def test_encoders_with_a_head_run_on_any_size(model, basis):
    net = kanseg.create_classifier(model, in_channels=2, classes=3, basis=basis, width=2).eval()
    for height, width in ((61, 83), (33, 7), (1, 1)):
        logits = net(torch.randn(1, 2, height, width))
        assert logits.shape == (1, 3)
        assert torch.isfinite(logits).all()


@every_pair(list(CLASSIFIERS), kanseg.list_bases(), next(iter(CLASSIFIERS)))
@pytest.mark.slow_except("kan-gram", "kan-bspline")
def test_classifiers_of_one_size_run_on_that_size_with_every_basis(model, basis):
    for size in ((28, 28), (33, 7), (7, 7)):
        net = classifier(model, size, in_channels=2, classes=3, basis=basis, width=2).eval()
        x = torch.randn(2, 2, *size)
        features = net.features(x)
        assert torch.isfinite(features[-1]).all()
        torch.testing.assert_close(features[-1], net(x), rtol=0, atol=0)
        with pytest.raises(ValueError, match="the network was built for images"):
            net(torch.randn(2, 2, size[0] + 1, size[1]))


@pytest.mark.parametrize("model", ALL_CLASSIFIERS)
@pytest.mark.slow_except("reskanet_18", "vggkan11", "simple_kan_4", "conv_kan", "vae_kan")
def test_a_step_of_a_classifier_reaches_every_parameter(model):
    net = classifier(model, (65, 70), classes=3, width=4)
    penalty = Penalty(
        net, {"elbo": 1.0} if any(PENALTIES["elbo"].layers(net)) else {}
    )  # what an autoencoder learns from
    (net(torch.randn(4, 3, 65, 70)).square().sum() + penalty()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("model", ALL_CLASSIFIERS)
@pytest.mark.slow_except("reskanet_18", "vggkan11", "simple_kan_4")
def test_an_images_logits_do_not_depend_on_its_neighbors(model):
    net = classifier(model, (40, 40), width=4).eval()
    a, b = torch.randn(1, 3, 40, 40), torch.zeros(1, 3, 40, 40)
    torch.testing.assert_close(net(torch.cat([a, b]))[:1], net(a), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [*ONE_OF_EACH, *CLASSIFIERS])
def test_classifiers_stay_on_the_device(model):
    with FakeTensorMode(), torch.device("cuda"):
        assert (
            classifier(model, (33, 20), width=2).eval()(torch.randn(2, 3, 33, 20)).device.type
            == "cuda"
        )


@pytest.mark.parametrize("model", kanseg.list_models())
@pytest.mark.slow_except("unet", "ukan", "simple_kan_4", "reskanet_18")
def test_on_the_device_meta_a_network_gives_the_shapes_of_its_outputs(model):
    """Tools that count or lay out networks run them without values."""
    size = (64, 64)
    shape = (2, 3, *size) if model in kanseg.list_models("segmentation") else (2, 3)
    with torch.device("meta"):
        net = classifier(model, size, width=2, classes=3)
        x = torch.randn(2, 3, *size)
    y = net(x)
    y = y if isinstance(y, torch.Tensor) else y[0]
    assert y.is_meta
    assert y.shape == shape
    y.sum().backward()
    assert any(p.grad is not None for p in net.parameters())
    assert net.eval()(x).shape == shape


@pytest.mark.gpu
@variants
@pytest.mark.parametrize("share", ["edge", "channel"])
def test_cuda_equals_cpu_in_values_and_gradients(name, options, share):
    layer = KANConv2d(4, 6, 3, padding=1, basis=name, share=share, **options).double().eval()
    x = torch.randn(2, 4, 9, 9).double()
    results = []
    for device in ("cpu", "cuda"):
        layer.to(device).zero_grad()
        here = x.detach().to(device).requires_grad_()
        y = layer(here)
        y.square().sum().backward()
        results.append(
            [y.detach().cpu(), here.grad.cpu(), *(p.grad.cpu().clone() for p in layer.parameters())]
        )
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.gpu
@bases
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cuda_autocast_is_close_and_finite(name, dtype):
    layer = KANConv2d(4, 6, 3, padding=1, basis=name, norm=None, activation=None).cuda()
    x = torch.randn(2, 4, 9, 9, device="cuda", requires_grad=True)
    with torch.autocast("cuda", dtype=dtype):
        y = layer(x)
    y.float().sum().backward()
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.1)
    assert torch.isfinite(x.grad).all()
