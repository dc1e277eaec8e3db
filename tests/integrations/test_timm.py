import pytest
import segmentation_models_pytorch as smp
import timm
import torch

import kanseg
import kanseg.integrations.timm  # noqa: F401 - it registers the models

NAME = "kanseg_ukanet_18_gram"


def test_every_encoder_is_there_with_every_basis():
    names = {
        f"kanseg_{name}{suffix}"
        for name in kanseg.list_encoders()
        for suffix in ["", *(f"_{b}" for b in kanseg.list_bases())]
    }
    assert set(timm.list_models("kanseg_*")) == names


def test_features_are_those_of_our_encoder():
    net = timm.create_model(NAME, features_only=True, width=2, degree=4, in_chans=4).eval()
    ours = kanseg.create_encoder("ukanet_18", 4, depth=5, width=2, degree=4).eval()
    ours.load_state_dict({k.replace("stages_", "stages."): v for k, v in net.state_dict().items()})
    x = torch.randn(1, 4, 61, 83)
    torch.testing.assert_close(net(x), ours(x))
    assert net.feature_info.channels() == ours.out_channels
    assert net.feature_info.reduction() == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize("how", [{}, {"feature_cls": "getter"}])
def test_single_features_and_dilation(how):
    net = timm.create_model(
        NAME, features_only=True, width=2, out_indices=(1, 5), output_stride=8, **how
    ).eval()
    assert net.feature_info.reduction() == [2, 8]
    assert [tuple(f.shape) for f in net(torch.randn(1, 3, 64, 64))] == [
        (1, 4, 32, 32),
        (1, 64, 8, 8),
    ]


def test_a_classifier_with_timms_head():
    net = timm.create_model(NAME, width=2, num_classes=7, drop_rate=0.1).eval()
    x = torch.randn(2, 3, 61, 83)
    deepest = net.forward_features(x)
    torch.testing.assert_close(net(x), net.get_classifier()(deepest.mean((2, 3))))
    net.reset_classifier(0)
    torch.testing.assert_close(net(x), deepest.mean((2, 3)))
    assert net.num_features == 64
    final, features = net.forward_intermediates(x, indices=[0, 2])
    torch.testing.assert_close(final, deepest)
    torch.testing.assert_close(features, [net.stages[:1](x), net.stages[:3](x)])
    torch.testing.assert_close(
        net.forward_intermediates(x, indices=[2], stop_early=True)[0], features[1]
    )


def test_unknown_options_and_weights_are_refused():
    with pytest.raises(ValueError, match="did you mean 'width'"):
        timm.create_model(NAME, widht=2)
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        timm.create_model(NAME, pretrained=True, width=2)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("model", ["unet", "fpn", "deeplabv3plus", "pan", "dpt"])
def test_smp_takes_them_with_options(model, channels):
    own = {"decoder_readout": "ignore"} if model == "dpt" else {}
    net = smp.create_model(
        model, f"tu-{NAME}", encoder_weights=None, in_channels=channels, width=2, degree=5, **own
    ).eval()
    assert {
        m.basis.degree for m in net.modules() if type(getattr(m, "basis", None)).__name__ == "Gram"
    } == {5}
    with torch.no_grad():
        assert net(torch.randn(1, channels, 128, 128)).shape == (1, 1, 128, 128)
