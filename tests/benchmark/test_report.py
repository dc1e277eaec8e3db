from kanseg.benchmark.report import format_targets, is_met, yes_or_no


def test_figures_are_judged_as_they_are_printed():
    assert is_met([(1.4049, 1.4, 2), (4.04, 4.0, 1)])
    assert not is_met([(1.4051, 1.4, 2), (3.0, 4.0, 1)])
    assert is_met([(9.0, None, 2), (3.0, 4.0, 1)])
    assert is_met([(9.0, None, 2)]) is None
    assert not is_met([(float("nan"), 1.4, 2)])
    assert [yes_or_no(met) for met in (True, False, None)] == ["yes", "no", "-"]


def test_limits():
    assert format_targets([1.4, None, 4.0]) == "1.4 / - / 4"
    assert format_targets([0.5, 1 / 3]) == "0.5 / 0.33"
