"""Contributions of channels add up to the logits, and each depends on its own channel only."""

import pytest
import torch
from torch import nn

import kanseg
from kanseg.explain.attribution import attribute
from kanseg.layers import KANConv2d
from kanseg.utils.errors import InputError


def network(head=None, classes=3, **options):
    """A U-Net of random weights and running statistics, with another head."""
    torch.manual_seed(0)
    found = kanseg.create_model("unet", 3, classes, basis="gram", width=4, depth=1, **options)
    if head is not None:
        found.segmentation_head = head
    for part in found.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
        if isinstance(part, kanseg.layers.KANActivation):
            nn.init.normal_(part.weight)
    return found


def kan(classes=3, kernel_size=1, **options):
    return KANConv2d(4, classes, kernel_size, **{"norm": None, "activation": None} | options)


HEADS = {
    "plain": None,
    "3x3": lambda: nn.Conv2d(4, 3, 3, padding=1),
    "gram": lambda: kan(basis="gram"),
    "bspline": lambda: kan(basis="bspline", base_activation=None),
    "fourier 3x3": lambda: kan(basis="fourier", kernel_size=3, padding=1),
    "shared before the convolution": lambda: kan(share="channel", position="before_conv"),
    "with a norm": lambda: kan(basis="rbf", norm="batch"),
    "upsampled": lambda: nn.Sequential(
        nn.MaxPool2d(2), kan(), nn.Upsample(scale_factor=2, mode="bilinear")
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_contributions_add_up_to_the_logits(name):
    head = HEADS[name] and HEADS[name]()
    net, images = network(head), torch.randn(2, 3, 12, 10)
    found = attribute(net, images)
    assert found.contributions.shape == (2, 3, 4, 12, 10)
    with torch.no_grad():
        expected = net.eval()(images)
    total = found.contributions.sum(dim=2) + found.bias[:, None, None]
    assert (total - expected).abs().max() < 1e-4
    assert torch.equal(found.logits, expected)


class HeadAlone(nn.Module):
    """A network whose features are the image."""

    def __init__(self, head):
        super().__init__()
        self.segmentation_head = head

    def forward(self, x):
        return self.segmentation_head(x)


@pytest.mark.parametrize("options", [{"basis": "chebyshev"}, {"basis": "rbf", "norm": "batch"}])
def test_a_contribution_depends_on_its_own_channel_only(options):
    net, images = HeadAlone(kan(**options)), torch.randn(1, 4, 6, 6)
    changed = images + torch.tensor([1.0, 2.0, 0.0, -1.0])[:, None, None]
    before, after = (attribute(net, x).contributions for x in (images, changed))
    torch.testing.assert_close(before[:, :, 2], after[:, :, 2])
    assert (before - after).abs().amax(dim=(0, 1, 3, 4))[[0, 1, 3]].min() > 0.01


def test_of_a_plain_head_it_is_the_weight_times_the_feature():
    net = network()
    features = []
    hook = net.segmentation_head.register_forward_pre_hook(lambda _, x: features.append(x[0]))
    found = attribute(net, torch.randn(1, 3, 8, 8))
    hook.remove()
    weight = net.segmentation_head.weight[:, :, 0, 0]
    expected = weight[None, :, :, None, None] * features[0][:, None]
    torch.testing.assert_close(found.contributions, expected)
    torch.testing.assert_close(found.bias, net.segmentation_head.bias)


def test_chosen_classes_only():
    net, images = network(kan(basis="gram")), torch.randn(1, 3, 8, 8)
    every, some = attribute(net, images), attribute(net, images, classes=[2, 0])
    torch.testing.assert_close(some.contributions, every.contributions[:, [2, 0]])
    torch.testing.assert_close(some.logits, every.logits[:, [2, 0]])


def test_the_network_stays_as_it_was():
    net = network(kan(basis="gram", norm="batch")).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    attribute(net, torch.randn(2, 3, 8, 8))
    assert net.training
    assert not net.segmentation_head._forward_pre_hooks
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (lambda: kan(activation="silu"), "activation follows"),
        (lambda: kan(norm="layer"), "follows the sum"),
        (lambda: kan(inner_channels=2), "bottleneck"),
        (lambda: nn.Sequential(nn.Conv2d(4, 3, 1), nn.Sigmoid()), "does not end with"),
        (lambda: nn.Conv2d(4, 4, 1, groups=2), "groups"),
        (lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"), "do not add up"),
    ],
)
def test_other_heads_are_refused_with_the_reason(head, reason):
    with pytest.raises(InputError, match=reason):
        attribute(network(head()), torch.randn(1, 3, 8, 8))


def test_networks_without_such_a_head_are_refused():
    with pytest.raises(InputError, match="no segmentation head"):
        attribute(kanseg.create_classifier("reskanet_18", width=2), torch.randn(1, 3, 32, 32))
    with pytest.raises(InputError, match="SideOutputs"):
        attribute(kanseg.create_model("u2kanet_small", width=2), torch.randn(1, 3, 32, 32))


def test_masks_beside_labels():
    net = network(aux_params={"classes": 2})
    found = attribute(net, torch.randn(1, 3, 8, 8))
    assert found.logits.shape == (1, 3, 8, 8)
