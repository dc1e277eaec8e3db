import pytest
import torch
from torch import nn

from kanseg.benchmark.measure import Setting, interleaved, ratio, saved_bytes
from kanseg.errors import InputError


def kept(module, x):
    return saved_bytes(lambda: module(x), module.parameters())


@pytest.mark.parametrize(("module", "times"), [(nn.SiLU(), 1), (nn.Identity(), 0), (nn.ReLU(), 1), (nn.Conv2d(4, 4, 3), 1)], ids=str)
def test_saved_bytes_of_known_modules(module, times):
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    output = module(x).numel() if isinstance(module, nn.ReLU) else x.numel()  # ReLU keeps its output
    assert kept(module, x) == times * output * 4


def test_a_storage_is_counted_once_and_whole():
    whole = torch.randn(8, 100, requires_grad=True)
    assert saved_bytes(lambda: (torch.sin(whole), torch.exp(whole[:1]).sum(), whole[2:] * whole[2:])) == whole.numel() * 4 + 100 * 4  # and the output of exp
    first, second = nn.SiLU(), nn.SiLU()
    assert saved_bytes(lambda: first(whole) + second(whole)) == whole.numel() * 4


def test_parameters_and_views_of_them_are_left_out():
    module = nn.Linear(16, 16)
    x = torch.randn(2, 16)
    assert saved_bytes(lambda: x @ module.weight.t()[:, :4], module.parameters()) == x.numel() * 4
    x.requires_grad_()
    assert saved_bytes(lambda: x @ module.weight.t()[:, :4], module.parameters()) == x.numel() * 4
    assert saved_bytes(lambda: x @ module.weight.t()[:, :4]) == (x.numel() + module.weight.numel()) * 4


def test_nothing_is_kept_without_gradients():
    assert kept(nn.SiLU(), torch.randn(4)) == 0


def test_a_ratio_is_the_median_of_the_rounds_not_that_of_the_medians():
    assert ratio([1.0, 20.0, 6.0], [1.0, 10.0, 2.0]) == (2.0, 0.5 * (2.5 - 1.5))
    assert ratio([3.0], [2.0]) == (1.5, 0.0)
    assert str(ratio([3.0, 1.0], [2.0, 0.0])) == "nan ± nan"


def test_steps_take_turns(monkeypatch):
    calls = []
    monkeypatch.setattr(Setting, "milliseconds", lambda self, step, count: step() or float(count))
    monkeypatch.setattr("kanseg.benchmark.measure.SHORTEST_MS", 3.0)
    times = interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, Setting(rounds=3), lambda: calls.append("-"))
    assert "".join(calls) == "a-a-b-b-" + "a-b-" * 3
    assert times == {"a": [3.0] * 3, "b": [3.0] * 3}  # warmed up at 1 ms, so three steps last long enough


def test_a_step_in_half_precision():
    with Setting(dtype="bfloat16").autocast():
        assert (torch.randn(2, 2) @ torch.randn(2, 2)).dtype == torch.bfloat16
    with Setting().autocast():
        assert (torch.randn(2, 2) @ torch.randn(2, 2)).dtype == torch.float32


@pytest.mark.parametrize(("options", "message"), [({"device": "tpu"}, "cpu or cuda"), ({"dtype": "float8"}, "bfloat16"), ({"rounds": 0}, "at least 1")])
def test_a_wrong_setting_is_an_input_error(options, message):
    with pytest.raises(InputError, match=message):
        Setting(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_input_error():
    with pytest.raises(InputError, match="sees no CUDA device"):
        Setting(device="cuda")


@pytest.mark.gpu
def test_cuda_events_time_what_runs_there():
    x = torch.randn(2000, 2000, device="cuda")
    assert Setting(device="cuda").milliseconds(lambda: x @ x, 3) > 0
