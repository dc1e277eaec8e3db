import torch

from kanseg.utils.environment import machine_line


def test_the_machine_line_says_version_and_threads():
    line = machine_line()
    assert f"torch {torch.__version__}" in line
    assert line.endswith("1 thread")
    assert line.split(",")[0]
