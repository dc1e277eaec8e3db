"""Structured pruning: the pruned network computes what masking would, is stored and trained."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import kanseg
from kanseg.config import ModelConfig
from kanseg.explain.pruning import find_units, masked, prune, rank, remove
from kanseg.explain.pruning.remove import exact_units
from kanseg.layers import KANActivation
from kanseg.models.operations import num_parameters
from kanseg.utils.errors import InputError

pytest.importorskip("torch_pruning")
NETWORKS = {
    "unet": ("unet", {"width": 4, "depth": 2}, (1, 3, 16, 16)),
    "per edge": ("unet", {"width": 4, "depth": 1, "share": "edge"}, (1, 3, 16, 16)),
    "number": ("unet", {"width": 6, "depth": 1, "share": 4}, (1, 3, 16, 16)),
    "layer": ("unet", {"width": 6, "depth": 1, "share": "layer"}, (1, 3, 16, 16)),
    "plain": ("unet", {"width": 4, "depth": 1, "basis": "none"}, (1, 3, 16, 16)),
    "group norm": ("unet", {"width": 6, "depth": 1, "norm": "group"}, (1, 3, 16, 16)),
    "flat": ("kan", {"in_channels": 1, "image_size": (6, 6), "basis": "bspline"}, (2, 1, 6, 6)),
    "classifier": ("simple_kan_4", {"basis": "none"}, (1, 3, 16, 16)),
}
LARGE = {
    "ukanet_18": ("ukanet_18", {"width": 2}, (1, 3, 32, 32)),
    "u2kanet": ("u2kanet_small", {"width": 8}, (1, 3, 32, 32)),
    "resnet18": ("unet", {"encoder": "resnet18"}, (1, 3, 32, 32)),
}
ALL = [*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]


def make(name):
    """A network with learned functions, its arguments and an image."""
    model, options, shape = (NETWORKS | LARGE)[name]
    torch.manual_seed(0)
    network = kanseg.create_model(model, **options).eval()
    for module in network.modules():
        if isinstance(module, KANActivation):
            nn.init.normal_(module.weight, std=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
    return network, (model, options), torch.randn(shape)


def output(network, images):
    with torch.no_grad():
        result = network(images)
    return result[0] if isinstance(result, (tuple, list)) else result


@pytest.mark.parametrize("name", ALL)
def test_removing_is_masking_and_the_sizes_build_the_network_again(name):
    network, (model, options), images = make(name)
    before = output(network, images)
    units, _ = exact_units(network, find_units(network, images), images)
    pruned = prune(network, rank(network, units, [images]), 0.4)
    assert 0.3 <= num_parameters(pruned.network) / num_parameters(network) <= 0.4
    got = output(pruned.network, images)
    expected = output(masked(network, pruned.removed), images)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(got, before, atol=1e-4)
    torch.testing.assert_close(output(network, images), before)

    sizes = json.loads(json.dumps(pruned.sizes))
    rebuilt = kanseg.create_model(model, **options, pruned=sizes).eval()
    rebuilt.load_state_dict(pruned.network.state_dict())
    torch.testing.assert_close(output(rebuilt, images), got)

    pruned.network.train()
    loss = pruned.network(torch.cat([images, images.flip(0) + 1]))
    loss = loss[0] if isinstance(loss, (tuple, list)) else loss
    loss.square().mean().backward()
    assert all(p.grad is not None for p in pruned.network.parameters() if p.requires_grad)


def features(encoder, images):
    with torch.no_grad():
        return [feature.shape[1] for feature in encoder(images)]


@pytest.mark.parametrize(
    "name", ["unet", *(pytest.param(n, marks=pytest.mark.slow) for n in LARGE)]
)
def test_a_pruned_encoder_tells_its_channels_and_serves_another_network(name):
    network, (model, options), images = make(name)
    units, _ = exact_units(network, find_units(network, images), images)
    pruned = prune(network, rank(network, units, [images]), 0.4)
    encoder = pruned.network.encoder
    assert encoder.out_channels == features(encoder, images) != features(network.encoder, images)
    assert network.encoder.out_channels == features(network.encoder, images)
    rebuilt = kanseg.create_model(model, **options, pruned=pruned.sizes)
    assert rebuilt.encoder.out_channels == encoder.out_channels
    assert rebuilt.decoder.out_channels == pruned.network.decoder.out_channels
    if name != "u2kanet":  # its head reads maps of all sizes
        assert rebuilt.decoder.out_channels == rebuilt.segmentation_head.in_channels
    other = kanseg.create_model("unet", classes=3, encoder=encoder)
    assert output(other.eval(), images).shape == (1, 3, *images.shape[2:])


def test_a_unit_that_contributes_nothing_is_removed_first_and_changes_nothing():
    network, _, images = make("unet")
    layer = network.encoder.stages[0][0]
    with torch.no_grad():  # channel 2 is zero, although its weights are large
        layer.norm.weight[2], layer.norm.bias[2] = 0, 0
        layer.activation.weight[2] = 0
        network.encoder.stages[0][1].base_conv.weight[:, 2] = 5
    name = "encoder.stages.0.0.base_conv"
    units = [u for u in sum(find_units(network, images).values(), []) if u.layer == name]
    first = rank(network, units, [images])[0]
    assert first.removes[name, "out"] == {2}
    assert rank(network, units, criterion="magnitude")[-1] == first
    torch.testing.assert_close(
        output(remove(network, [first]).network, images), output(network, images)
    )


def test_the_contribution_of_a_channel_is_its_share_in_the_variance():
    network, _, images = make("plain")
    name = "decoder.blocks.0.1.base_conv"  # its channels reach the head only
    units = [u for u in sum(find_units(network, images).values(), []) if u.layer == name]
    features = []
    network.segmentation_head.register_forward_pre_hook(lambda _, x: features.append(x[0]))
    output(network, images)
    energy = network.segmentation_head.weight.detach().square().sum((0, 2, 3))
    contribution = features[0].var((0, 2, 3), correction=0) * energy
    ranked = [min(u.removes[name, "out"]) for u in rank(network, units, [images])]
    assert ranked == contribution.argsort().tolist()


def test_a_layer_without_functions_becomes_its_base():
    network, _, images = make("unet")
    name = "encoder.stages.0.0.activation"
    groups = find_units(network, images)
    functions = groups[f"{name}: functions"]
    some = remove(network, functions[:2]).network.get_submodule(name)
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(some(x)[:, :2], nn.functional.silu(x[:, :2]))
    torch.testing.assert_close(some(x)[:, 2:], network.get_submodule(name)(x)[:, 2:])
    assert len(some.weight) == 2
    assert type(remove(network, functions).network.get_submodule(name)) is nn.SiLU


def test_a_basis_branch_is_removed_as_a_whole():
    network, _, images = make("per edge")
    branches = [u for u in sum(find_units(network, images).values(), []) if u.kind == "branch"]
    pruned = remove(network, branches)
    layers = [pruned.network.get_submodule(unit.layer) for unit in branches]
    assert layers and all(layer.basis is None for layer in layers)
    torch.testing.assert_close(
        output(pruned.network, images), output(masked(network, branches), images)
    )


def test_channels_under_a_norm_over_all_channels_stay():
    network = kanseg.create_model("unet", width=4, depth=1, norm="layer").eval()
    images = torch.randn(1, 3, 16, 16)
    units, fixed = exact_units(network, find_units(network, images), images)
    assert {unit.kind for unit in units} == {"function"}
    assert "encoder.stages.0.0.base_conv" in fixed
    with pytest.raises(ValueError, match="are left"):
        prune(network, rank(network, units, [images]), 0.5)


def test_a_network_can_be_pruned_twice_and_exported(tmp_path):
    from kanseg.models.pruned import merge_sizes

    network, (model, options), images = make("unet")
    first = _pruned(network, images, 0.6)
    second = _pruned(first.network, images, 0.5)
    sizes = merge_sizes(first.sizes, second.sizes)
    rebuilt = kanseg.create_model(model, **options, pruned=sizes).eval()
    rebuilt.load_state_dict(second.network.state_dict())
    rebuilt.save_pretrained(tmp_path / "stored")
    loaded = kanseg.from_pretrained(tmp_path / "stored")
    torch.testing.assert_close(output(loaded, images), output(second.network, images))


def _pruned(network, images, share):
    units, _ = exact_units(network, find_units(network, images), images)
    return prune(network, rank(network, units, [images]), share)


def test_sizes_that_do_not_fit_are_refused():
    network, (model, options), images = make("unet")
    sizes = _pruned(network, images, 0.5).sizes
    with pytest.raises(ValueError, match="do not fit"):
        kanseg.create_model(model, **options | {"depth": 1}, pruned=sizes)


def test_pretrained_encoder_and_start_are_not_set_together(config):
    from kanseg.training.run import train

    model = ModelConfig("unet", encoder_weights="a", start_from="b")
    with pytest.raises(ValueError, match=r"encoder_weights|start_from"):
        train(replace(config, model=model))


def test_channels_of_attention_stay():
    """Another number of channels changes the scale of the scores, however little they add."""
    torch.manual_seed(0)
    network = kanseg.create_model("unet", 3, 2, width=4, depth=1, mixer="attention").eval()
    images = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        for parameter in network.parameters():  # attention begins with a factor of 0
            parameter.add_(0.001 * torch.randn_like(parameter))
    units, fixed = exact_units(network, find_units(network, images), images)
    assert any(".value." in name for name in fixed)
    channels = [unit for unit in units if unit.kind == "channel"]
    assert not any(".key." in name for unit in channels for name, _ in unit.removes)


def test_networks_of_experts_are_refused():
    network = kanseg.create_model("unet", 3, 2, width=4, depth=1, experts=2, top_k=1)
    with pytest.raises(InputError, match="experts"):
        find_units(network, torch.randn(1, 3, 16, 16))
