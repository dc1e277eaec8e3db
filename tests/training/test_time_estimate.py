import pytest

from kanseg.training.time_estimate import TimeEstimate, duration


def lines_of(steps, seconds, *, steps_per_epoch=10, steps_left=1000, on_cpu=True):
    """What is logged in a run whose first two steps take a minute and all others `seconds`."""
    now, lines = [0.0], []
    estimate = TimeEstimate(
        steps_per_epoch, steps_left, on_cpu=on_cpu, log=lines.append, clock=lambda: now[0]
    )
    for step in range(steps):
        now[0] += 60 if step < 2 else seconds
        estimate.step()
    return lines


def test_the_first_steps_do_not_count_and_it_is_said_once():
    (line,) = lines_of(50, 2.0)
    assert "about 20 s per epoch" in line
    assert "33 min until the end" in line  # (1000 - 5) * 2 s


def test_a_slow_cpu_is_told_what_helps():
    (slow,) = lines_of(50, 20.0)
    assert "data.resize" in slow
    assert "data.resize" not in lines_of(50, 2.0)[0]
    assert "data.resize" not in lines_of(50, 20.0, on_cpu=False)[0]


def test_short_runs_are_not_estimated():
    assert lines_of(50, 0.01) == []
    assert lines_of(6, 2.0, steps_left=6) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(45.2, "45 s"), (720, "12 min"), (12_600, "3.5 h"), (99.4, "99 s")]
)
def test_durations_are_rounded(seconds, text):
    assert duration(seconds) == text
