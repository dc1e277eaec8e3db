import json

import pytest
from commands import kanseg_command

from kanseg.benchmark import PredictCase, Setting, predict_rows, predict_table
from kanseg.utils.errors import InputError


def test_a_row_counts_the_tiles_and_compares_the_same_pixels():
    (row,) = predict_rows(
        ["unet"],
        ["none"],
        PredictCase(size=64, tile=32, overlap=0.5, batch=4),
        Setting(rounds=1),
        {"width": 2},
    )
    assert row["tiles"] == 9
    assert row["ratio"] == pytest.approx(row["predictor_mpx"] / row["network_mpx"])
    assert "| unet" in predict_table([row])


def test_the_limit_is_met_at_nine_tenths():
    row = {
        "model": "unet",
        "basis": "none",
        "tiles": 9,
        "network_mpx": 1.0,
        "predictor_mpx": 0.9,
        "spread": 0.0,
    }
    answers = [
        predict_table([row | {"ratio": value}]).splitlines()[2].split("|")[-2].strip()
        for value in (0.9, 0.89)
    ]
    assert answers == ["yes", "no"]


@pytest.mark.parametrize("options", [{"size": 0}, {"tile": 0}, {"overlap": 1.0}, {"batch": 0}])
def test_impossible_cases_are_refused(options):
    with pytest.raises(InputError, match="at least 1"):
        PredictCase(**options)


def test_the_command_writes_its_figures(tmp_path):
    small = ["--size", "48", "--tile", "32", "--bases", "none", "--rounds", "1", "--width", "2"]
    done = kanseg_command("benchmark", "predict", *small, "--json", tmp_path / "a.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "a.json").read_text())["rows"][0]["tiles"] == 4
