import pytest

from kanseg.utils.registry import Registry


def test_unknown_name_lists_the_known_and_the_nearest():
    registry = Registry("thing")
    registry.register("alpha")(1)
    registry.register("beta")(2)
    with pytest.raises(
        ValueError, match=r"unknown thing 'alhpa'; did you mean 'alpha'\? \(known: alpha, beta\)"
    ):
        registry["alhpa"]
    assert list(registry) == ["alpha", "beta"]


def test_a_name_is_taken_once():
    registry = Registry("thing")
    registry.register("a")(1)
    with pytest.raises(ValueError, match="registered already"):
        registry.register("a")(2)
