"""Transformers as pyramids: strides, positions, images of any size."""

import pytest
import torch
from torch.nn import functional as F

from kanseg.encoders import external_encoder
from kanseg.encoders.external.tokens import TokenPyramid, token_stride

SMALL = {"embed_dim": 24, "num_heads": 2}
KINDS = [
    ("timm-test_vit", {}),
    ("timm-vit_small_patch14_dinov2", {**SMALL, "img_size": 56}),
    ("timm-samvit_base_patch16_224", {**SMALL, "img_size": 64}),
    ("timm-vit_tiny_patch16_dinov3_qkvb", {}),
    ("timm-hiera_tiny_224", {"embed_dim": 12, "img_size": 64}),
]
SLOW_KINDS = [
    ("timm-hieradet_small", {"embed_dim": 24}),
    ("timm-swin_tiny_patch4_window7_224", {"embed_dim": 24}),
    ("timm-swinv2_tiny_window8_256", {"embed_dim": 24}),
    ("timm-mvitv2_tiny", {}),
    ("timm-beit_base_patch16_224", SMALL),
    ("timm-test_vit_relpos", {}),
    ("timm-test_maxvit", {}),
    ("timm-vit_small_patch8_224", SMALL),
]


@pytest.mark.parametrize(
    ("name", "options"),
    [*KINDS, *(pytest.param(*kind, marks=pytest.mark.slow) for kind in SLOW_KINDS)],
)
def test_transformers_keep_the_contract_of_our_encoders(name, options):
    encoder = external_encoder(name, 2, **options).eval()
    for size in [(1, 1), (61, 83)]:
        with torch.no_grad():
            features = encoder(torch.randn(1, 2, *size))
        sizes = [tuple(-(-side // 2**i) for side in size) for i in range(6)]
        assert [tuple(f.shape) for f in features] == [
            (1, c, *s) for c, s in zip(encoder.out_channels, sizes, strict=True)
        ]


def test_tokens_are_those_of_evenly_spaced_blocks():
    import timm

    encoder = external_encoder("timm-test_vit").eval()
    theirs = timm.create_model("test_vit", dynamic_img_size=True).eval()
    theirs.load_state_dict({**theirs.state_dict(), **encoder.body.model.state_dict()})
    x = torch.randn(1, 3, 64, 96)  # not the size that it was made for
    with torch.no_grad():
        blocks = theirs.forward_intermediates(x, intermediates_only=True, norm=False)
        wanted = encoder.pyramid([blocks[i] for i in (0, 2, 3, 5)])  # of six
        torch.testing.assert_close(encoder(x)[2:], wanted)


def test_a_patch_of_14_pixels_stands_for_16_of_the_image():
    encoder = external_encoder("timm-vit_small_patch14_dinov2", **SMALL).eval()
    seen = []
    encoder.body.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    x = torch.randn(1, 3, 61, 83)
    with torch.no_grad():
        encoder(x)
    padded = F.pad(x, [0, 13, 0, 3], mode="replicate")  # to 64 x 96
    torch.testing.assert_close(seen[0], F.interpolate(padded, (56, 84), mode="bilinear"))


def test_a_model_for_one_size_gets_images_of_that_size():
    encoder = external_encoder("timm-hiera_tiny_224", depth=3, embed_dim=12, img_size=64).eval()
    assert encoder.image_size == (64, 64)
    x = torch.randn(1, 3, 50, 200)
    scaled = F.interpolate(x, (64, 64), mode="bilinear")
    with torch.no_grad():
        for feature, theirs in zip(encoder(x)[2:], encoder.body(scaled), strict=True):
            size = feature.shape[-2:]
            torch.testing.assert_close(feature, F.interpolate(theirs, size, mode="bilinear"))


def test_large_tokens_do_not_enlarge_the_features():
    pyramid = TokenPyramid(8, stride=16, depth=5)
    tokens = [torch.randn(1, 8, 4, 6) for _ in range(4)]
    large = pyramid([1000 * each for each in tokens])
    torch.testing.assert_close(large, pyramid(tokens), rtol=1e-3, atol=1e-3)


def test_a_token_reaches_only_its_place():
    """At the strides that are finer than the tokens."""
    pyramid = TokenPyramid(8, stride=16, depth=4)
    tokens = torch.randn(1, 8, 3, 3, requires_grad=True)
    features = pyramid([tokens, tokens, tokens])
    assert [f.shape[-1] for f in features] == [12, 6, 3]
    for feature in features:
        side = feature.shape[-1] // 3
        (gradient,) = torch.autograd.grad(
            feature[..., side : 2 * side, :side].square().sum(), tokens, retain_graph=True
        )
        reached = gradient.abs().sum(dim=(0, 1)) > 0
        assert reached.nonzero().tolist() == [[1, 0]]


@pytest.mark.parametrize(("patch", "stride"), [(4, 4), (8, 8), (14, 16), (16, 16), (32, 32)])
def test_patches_stand_for_powers_of_two(patch, stride):
    assert token_stride(patch) == stride
