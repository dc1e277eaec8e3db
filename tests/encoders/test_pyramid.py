import pytest
import torch

import kanseg


def test_another_number_of_channels_is_named():
    with pytest.raises(ValueError, match=r"shape \(B, 4, H, W\), got \(1, 3, 8, 8\)"):
        kanseg.create_encoder("unet", in_channels=4, width=2)(torch.randn(1, 3, 8, 8))


def test_features_are_those_of_the_stages_one_after_the_other():
    encoder = kanseg.create_encoder("ukanet_18", width=2, depth=2).eval()
    x = torch.randn(1, 3, 17, 20)
    for stage, feature in zip(encoder.stages, encoder(x), strict=True):
        x = stage(x)
        torch.testing.assert_close(x, feature)
