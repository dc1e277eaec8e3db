import torch
from torch import nn

from kanseg.models.segmentation import ClassificationHead, UNetDecoder


def test_decoder_upsamples_to_each_skip_and_concatenates_deep_first():
    seen = []

    def block(in_channels, out_channels):
        seen.append((in_channels, out_channels))
        return nn.Conv2d(in_channels, out_channels, 1)

    decoder = UNetDecoder([2, 4, 8], block=block)
    assert seen == [(12, 4), (6, 2)]
    assert decoder(
        [torch.randn(1, 2, 9, 7), torch.randn(1, 4, 5, 4), torch.randn(1, 8, 3, 2)]
    ).shape == (1, 2, 9, 7)


def test_classification_head_pools_the_whole_map():
    head = ClassificationHead(3, 4)
    x = torch.randn(2, 3, 5, 6)
    torch.testing.assert_close(head(x), head[3](x.mean(dim=(2, 3))))
    assert (ClassificationHead(3, 4, activation=nn.Sigmoid)(x) > 0).all()


def test_masks_do_not_depend_on_the_classification_head():
    import kanseg

    torch.manual_seed(1)
    plain = kanseg.create_model("unet", width=4, depth=2).eval()
    with_head = kanseg.create_model(
        "unet", width=4, depth=2, aux_params={"classes": 5, "dropout": 0.2}
    ).eval()
    with_head.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(1, 3, 20, 21)
    torch.testing.assert_close(with_head(x)[0], plain(x))


def test_activations_of_the_classification_head_have_names():
    probabilities = ClassificationHead(3, 4, activation="softmax")(torch.randn(2, 3, 5, 6))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))
