import pytest
import torch
from torch import nn

from kanseg.layers.parts import (
    NORMS,
    activation_module,
    activation_second_moment,
    init_to_variance,
    norm_module,
)


@pytest.mark.parametrize("norm", list(NORMS))
def test_norms_leave_zero_mean_and_unit_variance(norm):
    y = norm_module(norm, 6, 2).train()(torch.randn(8, 6, 16, 16) * 5 + 3)
    assert abs(y.mean()) < 1e-3
    assert abs(y.std() - 1) < 1e-2


def test_norm_and_activation_take_callables_and_none():
    assert isinstance(norm_module(nn.BatchNorm2d, 3, 2), nn.BatchNorm2d)
    assert isinstance(norm_module(None, 3, 2), nn.Identity)
    assert isinstance(activation_module(nn.ELU), nn.ELU)


def test_relu_keeps_half_of_the_second_moment():
    assert abs(activation_second_moment(nn.ReLU()) - 0.5) < 1e-2


def test_weights_give_the_asked_variance():
    weight = torch.empty(512, 30 * 2)
    init_to_variance(weight, 0.5, torch.tensor([4.0, 0.25]))
    x = torch.randn(2000, 30, 2) * torch.tensor([2.0, 0.5])
    assert abs((x.flatten(1) @ weight.T).square().mean() - 0.5) < 0.05


def test_a_dead_function_gets_no_weight_and_no_nan():
    weight = torch.empty(8, 4)
    init_to_variance(weight, 1.0, torch.tensor([0.0, 1.0]))
    assert (weight[:, 0::2] == 0).all()
    assert torch.isfinite(weight).all()
