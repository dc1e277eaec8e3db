from functools import partial

import pytest
import torch
from torch import nn

import kanseg
from kanseg.encoders import Encoder
from kanseg.layers import BasicBlock, KANConv2d, conv_stack


def test_another_number_of_channels_is_named():
    with pytest.raises(ValueError, match=r"shape \(B, 4, H, W\), got \(1, 3, 8, 8\)"):
        kanseg.create_encoder("unet", in_channels=4, width=2)(torch.randn(1, 3, 8, 8))


def test_features_are_those_of_the_stages_one_after_the_other():
    encoder = kanseg.create_encoder("ukanet_18", width=2, depth=2).eval()
    x = torch.randn(1, 3, 17, 20)
    for stage, feature in zip(encoder.stages, encoder(x), strict=True):
        x = stage(x)
        torch.testing.assert_close(x, feature)


def test_another_number_of_channels_keeps_what_was_learned():
    encoder = kanseg.create_encoder("ukanet_18", width=2, depth=2).double().eval()
    gray = torch.randn(1, 1, 17, 20, dtype=torch.float64)
    expected = encoder(gray.expand(-1, 3, -1, -1))
    encoder.set_in_channels(1)
    torch.testing.assert_close(encoder(gray), expected)
    assert encoder.in_channels == 1
    assert encoder.out_channels == [2, 4, 8]


def residual_on_the_image():
    """The image itself is feature 0; two layers, the two paths of a block, read it."""
    conv = partial(KANConv2d, basis="gram", dtype=torch.float64)
    stages = [
        nn.Identity(),
        nn.Sequential(BasicBlock(3, 4, 2, conv=conv)),
        conv_stack(conv, [4, 8], stride=2),
    ]
    return Encoder(stages, in_channels=3, out_channels=[3, 4, 8])


def test_every_layer_that_reads_the_image_is_found():
    encoder = residual_on_the_image().eval()
    assert encoder.begins_with_image
    gray = torch.randn(1, 1, 17, 20, dtype=torch.float64)
    expected = encoder(gray.expand(-1, 3, -1, -1))
    encoder.set_in_channels(1)
    assert encoder.out_channels == [1, 4, 8]
    features = encoder(gray)
    assert features[0] is gray
    torch.testing.assert_close(features[1:], expected[1:])


def test_plain_convolutions_read_other_channels_too():
    encoder = Encoder(
        [nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())], in_channels=3, out_channels=[4]
    )
    gray = torch.randn(1, 1, 8, 8)
    expected = encoder(gray.expand(-1, 3, -1, -1))
    encoder.set_in_channels(1)
    torch.testing.assert_close(encoder(gray), expected)


def test_finding_the_first_layer_leaves_no_trace():
    encoder = kanseg.create_encoder("unet", width=2, depth=1).train()
    before = {
        k: v.clone() for k, v in encoder.state_dict().items() if "running" in k or "tracked" in k
    }
    encoder.set_in_channels(4)
    assert all(m.training and not m._forward_pre_hooks for m in encoder.modules())
    assert all(torch.equal(encoder.state_dict()[k], v) for k, v in before.items())


def test_without_pretrained_weights_the_first_layer_is_drawn_anew():
    encoder = kanseg.create_encoder("unet", width=2, depth=1, basis="none")
    before = encoder.stages[1][1].base_conv.weight.clone()
    encoder.set_in_channels(6, pretrained=False)
    first = encoder.stages[0][0].base_conv.weight
    assert not torch.equal(first[:, :3], first[:, 3:])
    assert torch.equal(encoder.stages[1][1].base_conv.weight, before)


def test_an_encoder_whose_image_no_convolution_reads_is_refused():
    encoder = Encoder([nn.MaxPool2d(1)], in_channels=3, out_channels=[3])
    with pytest.raises(ValueError, match="no convolution"):
        encoder.set_in_channels(1)


DILATABLE = [
    ("ukanet_18", {}),
    ("ukanet_50", {}),
    ("unet", {"downsample": "stride"}),
    ("ukanet_18", {"basis": "none"}),
]


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize(("name", "options"), DILATABLE)
def test_a_dilated_feature_has_the_old_one_at_every_second_pixel(name, options, output_stride):
    encoder = kanseg.create_encoder(name, depth=5, width=2, **options).double().eval()
    x = torch.randn(1, 3, 70, 93, dtype=torch.float64)
    with torch.no_grad():
        before = encoder(x)
        encoder.make_dilated(output_stride)
        after = encoder(x)
    assert encoder.output_stride == output_stride
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        step = max(2**i // output_stride, 1)
        torch.testing.assert_close(new[..., ::step, ::step], old)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_pool_at_the_head_of_a_stage_goes(output_stride):
    encoder = kanseg.create_encoder("unet", depth=5, width=2).eval()
    encoder.make_dilated(output_stride)
    assert [isinstance(s[0], nn.MaxPool2d) for s in encoder.stages] == [False] + [
        2**i <= output_stride for i in range(1, 6)
    ]
    with torch.no_grad():
        sizes = [tuple(f.shape[-2:]) for f in encoder(torch.randn(1, 3, 61, 83))]
    assert sizes == [
        (-(-61 // s), -(-83 // s)) for s in (min(2**i, output_stride) for i in range(6))
    ]
    dilations = {
        m.dilation
        for m in encoder.stages[5].modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
    }
    assert dilations == {(32 // output_stride,) * 2}


def test_pools_inside_a_block_stay():
    class UpAndDown(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.conv = nn.MaxPool2d(2, ceil_mode=True), nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x):
            return nn.functional.interpolate(self.conv(self.pool(x)), size=x.shape[-2:])

    stages = [nn.Identity(), *(nn.Sequential(nn.AvgPool2d(2), UpAndDown()) for _ in range(4))]
    encoder = Encoder(stages, in_channels=2, out_channels=[2] * 5)
    encoder.make_dilated(8)
    assert isinstance(encoder.stages[4][0], nn.Identity)
    assert isinstance(encoder.stages[4][1].pool, nn.MaxPool2d)
    assert encoder.stages[4][1].conv.dilation == (2, 2)
    assert [f.shape[-1] for f in encoder(torch.randn(1, 2, 32, 32))] == [32, 16, 8, 4, 4]


def test_dilating_is_done_once_and_to_8_or_16():
    encoder = kanseg.create_encoder("unet", depth=5, width=2)
    with pytest.raises(ValueError, match="8 or 16, got 4"):
        encoder.make_dilated(4)
    encoder.make_dilated(16)
    encoder.make_dilated(16)
    with pytest.raises(ValueError, match="output stride 16"):
        encoder.make_dilated(8)
    with pytest.raises(ValueError, match="one pool"):
        Encoder([nn.Identity()] * 5, in_channels=1, out_channels=[1] * 5).make_dilated(8)
