import pytest
import torch

from kanseg.benchmark.measure import Setting, interleaved, ratio
from kanseg.utils.errors import InputError


def test_a_ratio_is_the_median_of_the_rounds_not_that_of_the_medians():
    assert ratio([1.0, 20.0, 6.0], [1.0, 10.0, 2.0]) == (2.0, 0.5 * (2.5 - 1.5))
    assert ratio([3.0], [2.0]) == (1.5, 0.0)
    assert str(ratio([3.0, 1.0], [2.0, 0.0])) == "nan ± nan"


def test_steps_are_warmed_up_and_measured_in_turns():
    calls = []
    times = interleaved(
        {name: lambda name=name: calls.append(name) for name in "ab"},
        Setting(rounds=3, shortest=0.0),
        lambda: calls.append("-"),
    )
    assert "".join(calls) == "a-a-b-b-" + "a-b-" * 3
    assert {name: len(rounds) for name, rounds in times.items()} == {"a": 3, "b": 3}


def test_a_step_that_is_too_short_for_the_clock_is_repeated():
    calls = []
    interleaved({"short": lambda: calls.append(None)}, Setting(rounds=1, shortest=5.0))
    assert len(calls) > 2 + 10  # two to warm up


def test_a_step_in_half_precision():
    with Setting(dtype="bfloat16").autocast():
        assert (torch.randn(2, 2) @ torch.randn(2, 2)).dtype == torch.bfloat16
    with Setting().autocast():
        assert (torch.randn(2, 2) @ torch.randn(2, 2)).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "cpu or cuda"),
        ({"dtype": "float8"}, "bfloat16"),
        ({"rounds": 0}, "at least 1"),
    ],
)
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
