"""A run with shared functions trains them at their own rate, and says so."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from kanseg.training.run import train
from kanseg.training.run_folder.stored_state import read_training
from kanseg.utils.errors import InputError


@pytest.fixture
def shared(config):
    """A run with a function of each channel."""
    options = {"width": 4, "depth": 1, "share": "channel", "degree": 3}
    model = replace(config.model, options=options)
    training = replace(config.training, epochs=1, weight_decay=0.01, lr=1e-3)
    return replace(config, model=model, training=training)


def groups(run_dir):
    """(lr, weight decay) of each group of the optimizer that the newest checkpoint holds."""
    _, tensors = read_training(Path(run_dir) / "last")
    return [(g["initial_lr"], g["weight_decay"]) for g in tensors["optimizer"]["param_groups"]]


def test_functions_learn_ten_times_as_fast_and_the_log_says_so(shared, capsys):
    train(shared)
    (line,) = (each for each in capsys.readouterr().out.splitlines() if "function_lr" in each)
    assert "10 times" in line
    assert "no weight decay" in line
    (lr, decay), (own_lr, own_decay) = sorted(groups(shared.run_dir))
    assert own_lr == pytest.approx(10 * lr)
    assert (decay, own_decay) == (0.01, 0.0)


def test_functions_of_edges_have_no_line_of_their_own(config, capsys):
    train(replace(config, training=replace(config.training, epochs=1)))
    assert "function_lr" not in capsys.readouterr().out
    assert len(groups(config.run_dir)) == 1


def test_a_resumed_run_keeps_the_rates_of_its_functions(shared):
    train(shared)
    before = groups(shared.run_dir)
    training = replace(shared.training, epochs=2, weight_decay=0.3)
    train(replace(shared, training=training), resume=True)
    after = groups(shared.run_dir)
    assert [decay for _, decay in after] == [0.3 if decay else 0.0 for _, decay in before]
    (lr, _), (own_lr, _) = sorted(after)
    assert own_lr == pytest.approx(10 * lr)


@pytest.mark.parametrize("given", [{"function_lr": 2.0}, {"function_decay": True}], ids=str)
def test_a_run_does_not_go_on_at_other_rates(shared, given):
    train(shared)
    training = replace(shared.training, epochs=2, **given)
    with pytest.raises(InputError, match=next(iter(given))):
        train(replace(shared, training=training), resume=True)


def test_a_factor_of_zero_leaves_the_functions_as_they_are(shared):
    train(replace(shared, training=replace(shared.training, function_lr=0.0)))
    state = load_file(Path(shared.run_dir) / "last" / "model.safetensors")
    coefficients = [value for name, value in state.items() if name.endswith("activation.weight")]
    assert coefficients
    assert not any(value.any() for value in coefficients)
