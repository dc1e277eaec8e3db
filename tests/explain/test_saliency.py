"""Grad-CAM against its formula, and occlusion against hiding parts by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kanseg
from kanseg.explain.saliency import ClassScore, default_layers, grad_cam, map_layers, occlusion
from kanseg.utils.errors import InputError

pytest.importorskip("pytorch_grad_cam")


def segmenter(classes=3, **options):
    torch.manual_seed(0)
    return kanseg.create_model("unet", 3, classes, basis="gram", width=4, depth=2, **options).eval()


def by_hand(network, images, layer, scores):
    """Grad-CAM, as its paper defines it, at the size of the layer."""
    kept = []
    hook = network.get_submodule(layer).register_forward_hook(lambda *given: kept.append(given[2]))
    output = network(images)
    hook.remove()
    total = sum(score(logits) for score, logits in zip(scores, output, strict=True))
    gradient = torch.autograd.grad(total, kept[0])[0]
    return F.relu((gradient.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1)).detach()


def scaled(maps):
    """Each map from 0 to 1."""
    low = maps.amin(dim=(1, 2), keepdim=True)
    return (maps - low) / (maps.amax(dim=(1, 2), keepdim=True) - low + 1e-7)


@pytest.mark.parametrize("layer", ["decoder.blocks.1.1", "encoder.stages.0", "decoder"])
def test_grad_cam_of_masks_is_that_of_the_paper(layer):
    network, images = segmenter(), torch.randn(2, 3, 16, 16)
    scores = [ClassScore(1, logits).sum for logits in network(images).detach()]
    expected = scaled(by_hand(network, images, layer, scores))
    found = grad_cam(network, images, layer, 1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_grad_cam_of_a_classifier_is_that_of_the_paper():
    network = kanseg.create_classifier("simple_kan_4", 3, 4, width=2).eval()
    images = torch.randn(1, 3, 32, 32)
    layer = default_layers(network, images)[0]
    scores = [ClassScore(2, logits) for logits in network(images).detach()]
    expected = by_hand(network, images, layer, scores)
    found = grad_cam(network, images, layer, 2)
    small = F.interpolate(found[None], size=expected.shape[1:], mode="area")[0]
    if expected.max() > 0:
        assert torch.corrcoef(torch.stack([small.flatten(), expected.flatten()]))[0, 1] > 0.9
    assert 0 <= found.min() <= found.max() <= 1


def test_classes_of_a_binary_network_are_opposites():
    logits = torch.tensor([[[1.0, -2.0, 3.0]]])
    foreground, background = ClassScore(1, logits), ClassScore(0, logits)
    assert foreground(logits) == 2  # mean of 1 and 3
    assert background(logits) == 2  # the pixel of -2
    with pytest.raises(InputError, match="no class 2"):
        ClassScore(2, logits)


def test_a_class_that_is_predicted_nowhere_is_scored_over_all_pixels():
    logits = torch.stack([torch.ones(2, 2), torch.tensor([[0.0, 0.5], [-1.0, 0.5]])])
    assert ClassScore(1, logits)(logits) == 0


class Sum(nn.Module):
    """A classifier of which each logit is a sum over the image."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Identity()
        self.factors = nn.Parameter(torch.randn(2, 1, 8, 8))

    def forward(self, x):
        return (self.layer(x)[:, None] * self.factors).sum(dim=(2, 3, 4))


@pytest.mark.parametrize("layer", [None, "layer"])
def test_occlusion_is_the_fall_of_the_score(layer):
    network, image = Sum(), torch.randn(1, 1, 8, 8)
    found = occlusion(network, image, 1, layer=layer, patches=4)
    change = (image - image.mean())[0, 0] * network.factors[1, 0].detach()
    expected = F.avg_pool2d(change[None], 2)[0] * 4
    torch.testing.assert_close(found[0, ::2, ::2], expected, atol=1e-5, rtol=1e-4)


def test_occlusion_of_masks_runs_in_any_layer():
    network, images = segmenter(1), torch.randn(2, 3, 16, 12)
    images[:, :, :8, :6] += 3
    for layer in (None, "encoder.stages.2"):
        found = occlusion(network, images, 1, layer=layer, patches=2)
        assert found.shape == (2, 16, 12)
        assert found.abs().max() > 0


def test_layers_with_maps_in_the_order_in_which_they_run():
    network, images = segmenter(), torch.randn(1, 3, 16, 12)
    shapes = map_layers(network, images)
    assert list(shapes)[-1] == "segmentation_head"
    assert shapes["encoder.stages.2"] == (16, 4, 3)
    deepest, last = default_layers(network, images)
    assert shapes[deepest][1:] == (4, 3)
    assert shapes[last] == (4, 16, 12)


def test_the_network_stays_as_it_was():
    network, images = segmenter().train(), torch.randn(2, 3, 16, 16)
    network.segmentation_head.weight.grad = torch.ones(3, 4, 1, 1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    grad_cam(network, images, "encoder.stages.1", 0)
    occlusion(network, images, 0, layer="encoder.stages.1", patches=2)
    assert network.training
    assert network.segmentation_head.weight.grad.sum() == 12
    assert network.encoder.stages[0][0].base_conv.weight.grad is None
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_unknown_layers_are_refused():
    network, images = segmenter(), torch.randn(1, 3, 16, 16)
    with pytest.raises(InputError, match="did you mean 'encoder.stages.1'"):
        grad_cam(network, images, "encoder.stage.1", 0)
    with pytest.raises(InputError, match="not a map"):
        occlusion(network, images, 0, layer="encoder")


class WithReconstruction(nn.Module):
    """A classifier with a branch that its logits do not depend on."""

    def __init__(self):
        super().__init__()
        self.front, self.branch = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x):
        x = self.front(x)
        return x.mean(dim=(2, 3)), self.branch(x)


def test_a_layer_beside_the_logits_has_no_grad_cam():
    network, images = WithReconstruction(), torch.randn(1, 1, 8, 8)
    assert default_layers(network, images) == ["front"]
    with pytest.raises(InputError, match="do not depend .* 'branch'"):
        grad_cam(network, images, "branch", 0)
