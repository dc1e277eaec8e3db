from dataclasses import replace
from pathlib import Path

import pytest

from kanseg.config import Config, TrainingConfig
from kanseg.experiments.settings import is_finished, options_to_finish
from kanseg.utils.errors import InputError


def stored(tmp_path, **training):
    """The settings of a run of which nothing but its config.yaml is there."""
    config = Config(run_dir=str(tmp_path), training=TrainingConfig(**training))
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    return config


def test_a_run_is_finished_when_its_metrics_are_there(tmp_path):
    config = stored(tmp_path)
    assert options_to_finish(config, hint="") == {"overwrite": True}  # nothing is saved yet
    (tmp_path / "metrics.json").touch()
    assert options_to_finish(config, hint="") is None


def test_a_batch_size_that_was_found_is_no_other_setting(tmp_path):
    config = stored(tmp_path, find_batch_size=True, batch_size=2, accumulate=4)
    asked = replace(config, training=TrainingConfig(find_batch_size=True, batch_size=8))
    assert not is_finished(asked, hint="")


def test_another_setting_is_refused_with_the_hint_and_paths_are_not(tmp_path):
    config = stored(tmp_path)
    config.data.root = str(Path("elsewhere"))
    assert not is_finished(config, hint="")
    config.training.lr = 0.5
    with pytest.raises(InputError, match="training.lr: 0.001 -> 0.5.*do this"):
        is_finished(config, hint="do this")
