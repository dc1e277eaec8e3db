"""A part of a KAN layer that does more than torch's own class is called: what it does counts."""

import copy

import pytest
import torch
import torch.distributed as dist
from accelerate import cpu_offload, disk_offload
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import kanseg
from kanseg.bases import create_basis
from kanseg.compat.torch_conv_kan import KAGNConv2DLayer, KANConv2DLayer
from kanseg.layers import KANConv1d, KANConv2d, KANConv3d, KANLinear, KANLocal2d
from kanseg.layers.activation import KANActivation
from kanseg.layers.fused.functional import activation_convolution, basis_convolution, basis_mixture


def with_bottleneck(options):
    """The options of a layer with a bottleneck, which shared functions do not have."""
    return options if "share" in options else {"inner_channels": 2, **options}


LAYERS = {
    "conv1d": (lambda **o: KANConv1d(2, 3, 3, padding=1, norm=None, **o), (2, 2, 9)),
    "conv2d": (
        lambda **o: KANConv2d(2, 4, 3, padding=1, groups=2, norm=None, **with_bottleneck(o)),
        (2, 2, 7, 6),
    ),
    "conv3d": (lambda **o: KANConv3d(2, 3, 3, padding=1, norm=None, **o), (2, 2, 5, 4, 3)),
    "linear": (lambda **o: KANLinear(2, 3, **o), (5, 2)),
    "local": (lambda **o: KANLocal2d(2, 3, 2, image_size=(4, 6), **o), (2, 2, 4, 6)),
}
layers = pytest.mark.parametrize("kind", list(LAYERS))
bases = pytest.mark.parametrize("basis", ["gram", "wavelet", "bspline"])
MAPS = ("squeeze", "basis_conv", "base_conv", "expand", "basis_linear", "base_linear")


def called(layer, x):
    """What a layer computes when each of its parts is called."""
    if isinstance(layer, KANLocal2d):
        inner = called(layer.functions, layer.patches(x).flatten(1).unsqueeze(2))
        shape = (len(x), *layer.output_size, layer.out_channels)
        return inner.reshape(shape).permute(0, 3, 1, 2)
    if isinstance(layer, KANActivation):
        weight = layer.weight.reshape(1, *layer.weight.shape, *[1] * (x.dim() - 2))
        return layer.base(x) + (layer.basis(x) * weight).sum(2)
    if isinstance(layer, KANLinear):
        base = layer.base_linear(_activated(layer.base_activation, x))
        if layer.basis is None:
            return base
        return layer.basis_linear(layer.basis(x).flatten(1, 2)) + base
    y = layer.base_conv(_activated(layer.base_activation, x))
    if layer.basis is not None:
        y = y + layer.expand(layer.basis_conv(layer.basis(layer.squeeze(x)).flatten(1, 2)))
    return _activated(layer.activation, layer.norm(y))


def _activated(activation, x):
    return called(activation, x) if isinstance(activation, KANActivation) else activation(x)


def maps(layer):
    """Name of each convolution or matrix, and the module that holds it."""
    owner = layer.functions if isinstance(layer, KANLocal2d) else layer
    found = [name for name in MAPS if isinstance(getattr(owner, name, None), nn.Module)]
    return owner, [name for name in found if not isinstance(getattr(owner, name), nn.Identity)]


def check(layer, x):
    """Output and all gradients are those of the called parts."""
    x = x.requires_grad_()
    y, expected = layer(x), called(layer, x)
    torch.testing.assert_close(y, expected)
    inputs = [x, *(p for p in layer.parameters() if p.requires_grad)]
    upstream = torch.randn_like(y)
    ours = torch.autograd.grad(y, inputs, upstream, materialize_grads=True)
    theirs = torch.autograd.grad(expected, inputs, upstream, materialize_grads=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


class LowRankMap(nn.Module):
    """LoRA as PEFT does it: a wrapper around the frozen map."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner.requires_grad_(False)
        self.delta = nn.Parameter(torch.randn(()))

    @property
    def weight(self):
        return self.inner.weight

    @property
    def bias(self):
        return self.inner.bias

    def forward(self, x):
        return self.inner(x) * (1 + self.delta)


def subclassed(module):
    """A weight-standardized subclass."""

    class Standardized(type(module)):
        def forward(self, x):
            weight = (self.weight - self.weight.mean()) / self.weight.std()
            if isinstance(self, nn.Linear):
                return F.linear(x, weight)
            return self._conv_forward(x, weight, self.bias)

    copied = copy.copy(module)
    copied.__class__ = Standardized
    return copied


def patched(module):
    inner = module.forward
    module.forward = lambda x: inner(x) * 10
    return module


def hooked(module):
    module.register_forward_hook(lambda module, arguments, output: output * 10)
    return module


def hooked_before(module):
    module.register_forward_pre_hook(lambda module, arguments: (arguments[0] * 10,))
    return module


def accelerated(module):
    class Ten(ModelHook):
        def post_forward(self, module, output):
            return output * 10

    return add_hook_to_module(module, Ten())


def doubled_weight(module):
    class Double(nn.Module):
        def forward(self, weight):
            return weight * 2

    parametrize.register_parametrization(module, "weight", Double())
    return module


class DoubledTensor(torch.Tensor):
    """A weight with a behavior of its own, as quantized and sharded tensors have."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        plain = [a.as_subclass(torch.Tensor) if isinstance(a, cls) else a for a in args]
        y = function(*plain, **(kwargs or {}))
        named = getattr(function, "__name__", "")
        return y * 2 if named in ("linear", "conv1d", "conv2d", "conv3d") else y


def subclassed_weight(module):
    weight = module.weight.detach().clone().as_subclass(DoubledTensor)
    del module.weight
    module.weight = weight
    return module


REPLACED = [
    LowRankMap,
    subclassed,
    patched,
    hooked,
    hooked_before,
    accelerated,
    doubled_weight,
    subclassed_weight,
]


@layers
@pytest.mark.parametrize("replace", REPLACED, ids=lambda f: f.__name__)
def test_what_a_replaced_map_does_counts(kind, replace):
    make, shape = LAYERS[kind]
    for name in maps(make(basis="gram"))[1]:
        layer = make(basis="gram")
        x = torch.randn(shape)
        before = layer(x)
        owner, _ = maps(layer)
        setattr(owner, name, replace(getattr(owner, name)))
        assert (layer(x) - before).abs().max() > 1e-3
        check(layer, x)


@pytest.mark.parametrize("basis", ["gram", "wavelet"])
@pytest.mark.parametrize("share", ["channel", "layer"])
@pytest.mark.parametrize("replace", [patched, hooked, accelerated], ids=lambda f: f.__name__)
def test_what_a_replaced_basis_does_counts(basis, share, replace):
    conv = KANConv2d(2, 3, 3, basis=basis, share=share, norm=None)
    linear = KANLinear(2, 3, basis=basis, share=share)
    for layer, functions, x in (
        (conv, conv.activation, torch.randn(2, 2, 5, 5)),
        (linear, linear.base_activation, torch.randn(5, 2)),
    ):
        nn.init.normal_(functions.weight)
        before = layer(x)
        replace(functions.basis)
        assert (layer(x) - before).abs().max() > 1e-3
        check(layer, x)


@pytest.mark.parametrize("basis", ["gram", "wavelet"])
@pytest.mark.parametrize("replace", [patched, hooked, accelerated], ids=lambda f: f.__name__)
def test_what_a_replaced_base_of_shared_functions_does_counts(basis, replace):
    layer = KANActivation(2, basis=basis)
    nn.init.normal_(layer.weight)
    x = torch.randn(2, 2, 5, 5)
    before = layer(x)
    replace(layer.base)
    assert (layer(x) - before).abs().max() > 1e-3
    check(layer, x)


def test_a_basis_with_a_forward_or_functions_of_its_own():
    for method in ("forward", "functions"):
        layer = KANConv2d(2, 3, 3, basis="wavelet", norm=None)
        kind = type(layer.basis)
        inner = getattr(kind, method)
        own = type("Own", (kind,), {method: lambda self, x, inner=inner: 3 * inner(self, x)})
        layer.basis.__class__ = own
        check(layer, torch.randn(2, 2, 5, 5))


@pytest.mark.parametrize("replace", [patched, hooked, accelerated], ids=lambda f: f.__name__)
def test_what_a_replaced_activation_does_counts(replace):
    layer = KANConv2d(2, 3, 3, basis="gram", base_activation="prelu", norm=None)
    replace(layer.base_activation)
    check(layer, torch.randn(2, 2, 5, 5))


class Shifted(nn.SiLU):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize("activation", [Shifted, nn.Softplus, nn.Hardtanh, nn.Softsign])
def test_any_activation_counts(activation):
    layer = KANConv2d(2, 3, 3, basis="gram", base_activation=activation, norm=None)
    check(layer, torch.randn(2, 2, 5, 5))


def test_an_activation_made_inplace_later():
    function, conv = nn.ReLU(inplace=True), nn.Conv2d(2, 3, 3, bias=False)
    x = torch.randn(2, 2, 5, 5, requires_grad=True)
    (ours,) = torch.autograd.grad(activation_convolution(x * 2, function, conv).sum(), x)
    (theirs,) = torch.autograd.grad(conv((x * 2).relu()).sum(), x)
    torch.testing.assert_close(ours, theirs)


def test_random_slopes_inside_a_basis_are_those_of_forward():
    """torch-conv-kan's Gram layer has an activation around its polynomials."""
    layer = KAGNConv2DLayer(1, 1, 1, base_activation=nn.RReLU, norm_layer=nn.Identity).train()
    layer.activation = nn.ModuleList()
    layer.base_conv = None
    x = -torch.rand(1, 1, 40, 40, dtype=torch.float64) - 0.1
    layer = layer.double()
    weight = layer.basis_conv.weight
    y = layer(x)
    (found,) = torch.autograd.grad(y.sum(), weight)
    # y is linear in the weight
    torch.testing.assert_close((found * weight).sum(), y.sum())


def test_a_forward_patched_on_the_class(monkeypatch):
    layer, x = KANLinear(2, 3, basis="gram"), torch.randn(5, 2)
    expected = 10 * layer(x)
    inner = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: 10 * inner(self, x))
    torch.testing.assert_close(layer(x), expected)


def test_global_hooks_see_the_parts():
    layer, seen = KANConv2d(2, 3, 3, basis="gram"), []
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, arguments, output: seen.append(module)
    )
    layer(torch.randn(1, 2, 6, 6))
    handle.remove()
    parts = (layer.basis, layer.basis_conv, layer.base_activation, layer.base_conv)
    assert all(any(part is each for each in seen) for part in parts)


def test_global_hooks_see_the_parts_of_shared_functions():
    layer, seen = KANConv2d(2, 3, 3, basis="gram", share="channel"), []
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, arguments, output: seen.append(module)
    )
    layer(torch.randn(1, 2, 6, 6))
    handle.remove()
    parts = (layer.base_conv, layer.activation, layer.activation.base, layer.activation.basis)
    assert all(any(part is each for each in seen) for part in parts)


def test_a_forward_patched_after_compiling():
    layer, x = KANLinear(2, 3, basis="gram", base_activation=None), torch.randn(5, 2)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    before = compiled(x)
    torch.testing.assert_close(before, layer(x))
    patched(layer.basis_linear)
    torch.testing.assert_close(compiled(x), 10 * before)
    torch.compiler.reset()


@pytest.mark.parametrize("gated", [False, True])
def test_a_gate_reaches_called_parts_in_any_precision(gated):
    basis, conv = create_basis("gram", 3), hooked(nn.Conv2d(12, 5, 3, bias=False)).bfloat16()
    dropout_mask = torch.randint(0, 3, (2, 3, 4)).float() if gated else None
    x = torch.randn(2, 3, 6, 6).bfloat16()
    values = (
        basis(x) if dropout_mask is None else basis(x) * dropout_mask.bfloat16()[..., None, None]
    )
    torch.testing.assert_close(
        basis_convolution(x, basis, conv, dropout_mask), conv(values.flatten(1, 2))
    )


def test_a_mixture_of_a_called_basis():
    basis = create_basis("gram", 3).double()
    weight = torch.randn(3, 4, dtype=torch.float64)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    expected = basis_mixture(x, basis, weight)
    torch.testing.assert_close(basis_mixture(x, hooked(basis), weight), 10 * expected)


OFFLOADED = [
    (lambda: KANConv2d(3, 4, 3, basis="gram"), (2, 3, 8, 8)),
    (lambda: KANConv2d(4, 4, 3, basis="wavelet", inner_channels=2, groups=2), (2, 4, 8, 8)),
    (lambda: KANConv2d(3, 4, 3, basis="bspline", share="channel"), (2, 3, 8, 8)),
    (lambda: KANLinear(3, 4, basis="rbf", bias=True, base_activation="prelu"), (5, 3)),
    (lambda: KANLocal2d(3, 4, 2, image_size=(4, 4), bias=True), (2, 3, 4, 4)),
    (lambda: kanseg.create_model("unet", width=4, depth=2, experts=2, top_k=1), (2, 3, 16, 16)),
    (lambda: kanseg.create_model("ukan"), (1, 3, 64, 64)),
    (lambda: KANConv2DLayer(3, 4, 3), (2, 3, 8, 8)),
]


@pytest.mark.parametrize(("make", "shape"), OFFLOADED)
@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_offloaded_weights_give_the_same(make, shape, place, tmp_path):
    layer, x = make().eval(), torch.randn(shape)
    with torch.no_grad():
        expected = layer(x)
        if place == "cpu":
            cpu_offload(layer, execution_device=torch.device("cpu"))
        else:
            disk_offload(layer, tmp_path, execution_device=torch.device("cpu"))
        assert any(p.is_meta for p in layer.parameters())
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-6)


@layers
def test_weights_without_values_are_an_error(kind):
    make, shape = LAYERS[kind]
    with torch.device("meta"):
        layer = make(basis="gram")
    with pytest.raises((ValueError, RuntimeError), match="meta"):
        layer(torch.randn(shape))


@bases
@layers
def test_on_the_device_meta_a_layer_gives_the_shape(kind, basis):
    make, shape = LAYERS[kind]
    expected = make(basis=basis)(torch.randn(shape)).shape
    with torch.device("meta"):
        layer = make(basis=basis)
        x = torch.randn(shape, requires_grad=True)
    y = layer(x)
    assert y.is_meta
    assert y.shape == expected
    y.sum().backward()
    assert x.grad.shape == x.shape


class Bounded(nn.Module):
    def forward(self, value):
        return 0.5 * torch.tanh(value)


PARAMETERS = [
    ("wavelet", "location", {}),
    ("wavelet", "log_scale", {"wavelet": "meyer"}),
    ("relu", "location", {}),
    ("relu", "log_scale", {}),
    ("rational", "denominator", {}),
    ("gram", "beta", {"learnable": True, "degree": 4}),
]


@pytest.mark.parametrize(("basis", "name", "options"), PARAMETERS)
@pytest.mark.parametrize("kind", ["conv1d", "linear"])
def test_the_gradient_of_a_parametrized_parameter_of_a_basis(kind, basis, name, options):
    make, shape = LAYERS[kind]
    layer = make(basis=basis, dtype=torch.float64, **options)
    x = torch.randn(shape, dtype=torch.float64)
    parametrize.register_parametrization(layer.basis, name, Bounded())
    check(layer, x)
    original = layer.basis.parametrizations[name].original
    if basis != "rational":  # |Q| has kinks, which finite differences step over
        assert torch.autograd.gradcheck(lambda *_: layer(x), (original,))


@pytest.mark.parametrize("name", ["location", "log_scale"])
def test_the_gradient_of_one_parameter_where_the_other_is_frozen(name):
    layer = KANConv2d(2, 3, 3, basis="wavelet", norm=None, dtype=torch.float64)
    layer.requires_grad_(False)
    getattr(layer.basis, name).requires_grad_(True)
    check(layer, torch.randn(2, 2, 5, 5, dtype=torch.float64))


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def two_layers(basis):
    torch.manual_seed(0)
    return nn.Sequential(
        KANConv2d(3, 4, 3, basis=basis, norm="layer"), KANConv2d(4, 2, 3, basis=basis, norm="layer")
    )


@pytest.mark.parametrize("basis", ["bspline", "wavelet", "rational"])
@pytest.mark.parametrize("sharded", [KANConv2d, nn.Conv2d, nn.Sequential])
def test_fsdp2_gives_the_same_gradients(one_process, basis, sharded):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("FSDP2 is elsewhere in this torch")
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    plain, net, x = two_layers(basis), two_layers(basis), torch.randn(2, 3, 8, 8)
    for module in list(net.modules()):
        if isinstance(module, sharded) and module is not net:
            fsdp.fully_shard(module, mesh=mesh)
    fsdp.fully_shard(net, mesh=mesh)
    y, expected = net(x), plain(x)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.full_tensor(), theirs.grad)


@pytest.mark.parametrize(
    "make",
    [
        lambda: KANLinear(2, 2),
        lambda: KANLocal2d(2, 2, 2, image_size=(4, 4)),
        lambda: kanseg.kan([2, 2]),
        lambda: kanseg.create_model("unet", width=4, depth=2),
        lambda: kanseg.create_encoder("ukanet_18", width=4),
        lambda: kanseg.create_classifier("unet", width=4, classes=3),
        lambda: KANConv2d(2, 2, 3, basis="wavelet").basis,
        lambda: KANConv2DLayer(2, 2, 3),
    ],
)
def test_fsdp2_takes_every_class(one_process, make):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("FSDP2 is elsewhere in this torch")
    module = fsdp.fully_shard(make(), mesh=dist.device_mesh.init_device_mesh("cpu", (1,)))
    assert isinstance(module, fsdp.FSDPModule)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("basis", ["gram", "wavelet"])
@pytest.mark.parametrize("wrapped", [None, KANConv2d, nn.Conv2d])
@pytest.mark.parametrize("use_orig_params", [False, True])
def test_fsdp1_gives_the_same_gradients(one_process, basis, wrapped, use_orig_params):
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    plain, net, x = two_layers(basis), two_layers(basis), torch.randn(2, 3, 8, 8)
    policy = None if wrapped is None else ModuleWrapPolicy({wrapped})
    net = FullyShardedDataParallel(
        net,
        auto_wrap_policy=policy,
        use_orig_params=use_orig_params,
        device_id=torch.device("cpu"),
    )
    y, expected = net(x), plain(x)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    ours, theirs = (
        sum(p.grad.square().sum() for p in each.parameters() if p.grad is not None)
        for each in (net, plain)
    )
    torch.testing.assert_close(ours, theirs)


INTEGERS = [torch.uint8, torch.int16, torch.int64, torch.bool, torch.complex64]


@layers
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"base_activation": None},
        {"base_activation": "relu"},
        {"share": "channel"},
        {"basis": "none"},
    ],
    ids=str,
)
def test_integers_are_an_error(kind, dtype, options):
    make, shape = LAYERS[kind]
    layer = make(**{"basis": "bernstein", **options}).eval()
    x = (torch.rand(shape) * 255).to(dtype)
    with pytest.raises(ValueError, match="floating-point"):
        layer(x)


@pytest.mark.parametrize("family", ["KALN", "KACN", "KAGN", "KABN", "ReLUKAN", "WavKAN", "FastKAN"])
def test_integers_are_an_error_in_the_legacy_layers(family):
    from kanseg.compat import torch_conv_kan

    layer = getattr(torch_conv_kan, f"{family}Conv2DLayer")(2, 3, 3).eval()
    with pytest.raises(ValueError, match="floating-point"):
        layer(torch.randint(0, 255, (1, 2, 6, 6)))


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_are_an_error_in_a_basis(dtype):
    with pytest.raises(ValueError, match="floating-point"):
        create_basis("gram", 2)(torch.ones(1, 2, 5, dtype=dtype))
