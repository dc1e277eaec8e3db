import pytest
import torch
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.segmentation import FCN, DeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from kanseg.integrations.torchvision import detection_backbone, segmentation_backbone

TARGET = [{"boxes": torch.tensor([[3.0, 4.0, 20.0, 30.0]]), "labels": torch.tensor([1])}]


def test_the_pyramid_reads_the_features_that_it_names():
    backbone = detection_backbone("ukanet_18", width=2, out_channels=16).eval()
    x = torch.randn(1, 3, 64, 96)
    features = backbone(x)
    assert {name: tuple(f.shape[1:]) for name, f in features.items()} == {
        "0": (16, 16, 24),
        "1": (16, 8, 12),
        "2": (16, 4, 6),
        "3": (16, 2, 3),
        "pool": (16, 1, 2),
    }
    torch.testing.assert_close(
        features["3"],
        backbone.fpn.layer_blocks[3](backbone.fpn.inner_blocks[3](backbone.encoder(x)[5])),
    )


@pytest.mark.parametrize("detector", [FasterRCNN, RetinaNet])
@pytest.mark.parametrize("channels", [3, 4])
def test_detectors_train_and_predict(detector, channels):
    more = {} if channels == 3 else {"image_mean": [0.5] * channels, "image_std": [0.25] * channels}
    net = detector(
        detection_backbone("ukanet_18", channels, width=2, out_channels=8),
        num_classes=2,
        min_size=64,
        max_size=64,
        **more,
    )
    image = torch.rand(channels, 64, 64)
    sum(net([image], TARGET).values()).backward()
    assert all(p.grad is not None for p in net.backbone.encoder.stages[1].parameters())
    assert set(net.eval()([image])[0]) == {"boxes", "labels", "scores"}


def test_other_levels_and_blocks():
    backbone = detection_backbone(
        "unet", width=2, levels=[3, 4, 5], out_channels=8, extra_blocks=LastLevelP6P7(8, 8)
    )
    assert list(backbone(torch.randn(1, 3, 64, 64))) == ["0", "1", "2", "p6", "p7"]
    for levels in ([], [3, 2], [2, 6], [-1, 2]):
        with pytest.raises(ValueError, match="from 0 to 5"):
            detection_backbone("unet", width=2, levels=levels)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_segmentation_networks(output_stride):
    backbone = segmentation_backbone("ukanet_18", 4, width=2, output_stride=output_stride).eval()
    x = torch.randn(1, 4, 64, 64)
    assert backbone(x)["out"].shape == (1, 64, 64 // output_stride, 64 // output_stride)
    fcn = FCN(backbone, FCNHead(backbone.out_channels, 3), FCNHead(backbone.aux_channels, 3)).eval()
    assert [tuple(m.shape) for m in fcn(x).values()] == [(1, 3, 64, 64)] * 2
    deeplab = DeepLabV3(backbone, DeepLabHead(backbone.out_channels, 3)).eval()
    assert deeplab(x)["out"].shape == (1, 3, 64, 64)
