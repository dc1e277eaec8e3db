import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from kanseg.training.run import train
from kanseg.training.run_folder.clock import TIMES, RunClock, Times

EARLIER = Times(1000.0, 2000.0, 500.0)


def test_the_times_of_a_resumed_run_are_the_sum_over_its_sessions(config):
    config = replace(config, training=replace(config.training, epochs=1, report=False))
    first = train(config)
    times = Path(config.run_dir) / TIMES
    assert json.loads(times.read_text())["seconds"] >= first["seconds"] > 0
    times.write_text(json.dumps(asdict(EARLIER)))
    longer = replace(config, training=replace(config.training, epochs=2))
    second = train(longer, resume=True)
    for name, seconds in asdict(EARLIER).items():
        assert seconds < second[name] < seconds + 100


@pytest.mark.parametrize("content", [None, "", "{", '{"seconds": "x"}'])
def test_a_run_without_readable_times_starts_from_zero(tmp_path, content):
    if content is not None:
        (tmp_path / TIMES).write_text(content)
    clock = RunClock()
    clock.resume(tmp_path)
    assert clock.earlier == Times()
