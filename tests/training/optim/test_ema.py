import pytest
import torch
from torch import nn

from kanseg.training.optim.ema import create_ema, decay_at


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.norm = nn.BatchNorm1d(1)
        self.register_buffer("constant", torch.tensor([7]))
        self.register_buffer("flag", torch.tensor([True]))


def averaged(values, decay):
    model = Net()
    average = create_ema(model, decay)
    for value in values:
        with torch.no_grad():
            model.weight.fill_(value)
            model.norm.running_mean.fill_(10 * value)
            model.norm.num_batches_tracked += 1
        average.update_parameters(model)
    return average.module


def test_the_average_is_the_closed_formula():
    """a0 = w0, a_t = d_t a_(t-1) + (1 - d_t) w_t, with d = 2/11, 3/12 and then 0.3, by hand."""
    a1 = 2 / 11 * 1 + 9 / 11 * 3
    a2 = 3 / 12 * a1 + 9 / 12 * -2
    a3 = 0.3 * a2 + 0.7 * 5
    assert averaged([1.0, 3.0, -2.0, 5.0], 0.3).weight.item() == pytest.approx(a3, abs=1e-6)


def test_the_decay_rises_to_the_one_asked_for():
    assert [decay_at(t, 0.999) for t in (1, 10, 90)] == [2 / 11, 11 / 20, 91 / 100]
    assert decay_at(10**6, 0.999) == 0.999


def test_initial_weights_leave_no_trace():
    """However large the decay is: the first update copies."""
    assert averaged([1.0], 0.9999).weight.item() == 1.0
    assert averaged([5.0] * 3, 0.9999).weight.item() == 5.0


def test_running_statistics_are_averaged_as_the_weights_and_whole_numbers_copied():
    net = averaged([1.0, 3.0, -2.0, 5.0], 0.3)
    assert net.norm.running_mean.item() == pytest.approx(10 * net.weight.item(), rel=1e-6)
    assert (net.norm.num_batches_tracked.item(), net.constant.item(), net.flag.item()) == (
        4,
        7,
        True,
    )


def test_the_model_and_its_average_share_nothing():
    model = Net()
    average = create_ema(model, 0.5)
    assert not {p.data_ptr() for p in model.parameters()} & {
        p.data_ptr() for p in average.parameters()
    }
    assert not average.module.training
    assert all(p.requires_grad for p in model.parameters())
    assert average.module.state_dict().keys() == model.state_dict().keys()
