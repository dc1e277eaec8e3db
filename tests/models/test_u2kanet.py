import pytest
import torch

import kanseg
from kanseg.losses import WeightedLoss


@pytest.mark.parametrize(
    ("model", "published"), [("u2kanet", 44_009_869), ("u2kanet_small", 1_131_181)]
)
def test_plain_network_of_width_64_is_u2net(model, published):
    """U2-Net's and U2-Net-p's published sizes; their convolutions have a bias, of one number a
    channel, in front of a batch norm.
    """
    net = kanseg.create_model(model, classes=1, basis="none", width=64)
    biases = sum(m.num_features for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert sum(p.numel() for p in net.parameters()) + biases == published


@pytest.mark.parametrize("model", ["u2kanet", "u2kanet_small"])
def test_training_gives_the_fused_map_and_one_a_level_and_evaluation_the_fused_one(model):
    net = kanseg.create_model(model, classes=3, width=4)
    x = torch.randn(2, 3, 61, 83)
    fused, *sides = net(x)
    assert len(sides) == 6
    assert all(side.shape == (2, 3, 61, 83) for side in sides)
    torch.testing.assert_close(fused, net.segmentation_head.fuse(torch.cat(sides, dim=1)))
    for norm in (m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.momentum = None  # the statistics of this batch
        norm.reset_running_stats()
    net(x)
    assert isinstance(net.eval()(x), torch.Tensor)


def test_loss_of_deep_supervision_is_the_mean_over_the_outputs():
    loss = WeightedLoss({"ce": 1.0, "dice": 0.5}, "multiclass")
    outputs, target = [torch.randn(2, 3, 8, 8) for _ in range(3)], torch.randint(0, 3, (2, 8, 8))
    torch.testing.assert_close(
        loss(outputs, target), torch.stack([loss(each, target) for each in outputs]).mean()
    )


def test_depth_leaves_deep_levels_out():
    net = kanseg.create_model("u2kanet_small", width=4, depth=2)
    assert len(net(torch.randn(2, 3, 32, 32))) == 1 + 3
    with pytest.raises(ValueError, match="depth"):
        kanseg.create_model("u2kanet", depth=6)
