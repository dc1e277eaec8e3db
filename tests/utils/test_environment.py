import torch

from kanseg.utils.environment import environment_line


def test_the_machine_line_says_version_and_threads():
    line = environment_line()
    assert f"torch {torch.__version__}" in line
    assert line.endswith("1 thread")
    assert line.split(",")[0]
