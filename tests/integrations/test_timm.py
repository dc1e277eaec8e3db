import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2

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


@pytest.mark.parametrize("how", [{}, {"features_only": True}])
def test_checkpointing_gives_the_same_gradients_and_keeps_less(how):
    net = timm.create_model(NAME, width=2, norm="layer", **how).train()
    x = torch.randn(2, 3, 32, 32)
    results = []
    for enable in (False, True):
        net.set_grad_checkpointing(enable)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: None):
            net(x)
        y = net(x)
        loss = sum(each.square().sum() for each in (y if how else [y]))
        results.append((len(kept), torch.autograd.grad(loss, list(net.parameters()))))
    assert results[1][0] < results[0][0]
    for plain, anew in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(anew, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoder", kanseg.list_encoders())
@pytest.mark.parametrize("coarse", [False, True])
def test_parameters_are_grouped_from_the_image_to_the_head(encoder, coarse):
    with torch.device("meta"):
        net = timm.create_model(f"kanseg_{encoder}_none", num_classes=3)
    groups = list(group_parameters(net, net.group_matcher(coarse)).values())
    assert sorted(groups[-1]) == ["head.fc.bias", "head.fc.weight"]
    stages = [sorted({int(name.split(".")[1]) for name in group}) for group in groups[:-1]]
    assert all(len(group) == 1 for group in stages)
    assert stages == sorted(stages)
    assert not coarse or len(groups) == 1 + len({group[0] for group in stages})


def test_learning_rates_decay_by_layer():
    net = timm.create_model(NAME, width=2, num_classes=3)
    optimizer = create_optimizer_v2(net, opt="sgd", lr=1.0, weight_decay=0.0, layer_decay=0.5)
    scales = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    assert scales[id(net.head.fc.weight)] == 1
    for last, first in (
        (net.stages[5][1].body[0].base_conv, net.stages[0][0].base_conv),
        (net.stages[5][1].body[0].activation, net.stages[0][0].activation),
    ):
        assert scales[id(last.weight)] == 0.5
        assert scales[id(first.weight)] == min(scales.values())
