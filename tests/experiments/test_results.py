"""The table of finished runs, from folders as runs leave them."""

import json

import numpy as np
import pytest
import yaml
from commands import kanseg_command

from kanseg.config import ClassificationConfig, ModelConfig
from kanseg.experiments.results import results_page
from kanseg.utils.errors import InputError

PUBLISHED = [
    {"experiment": "first", "published": 98.5, "note": "of an article"},
    {"experiment": "second", "published": "59.27 (74.87 tuned)"},
    {"experiment": "third", "published": 70},
]


def finished(folder, top1, *, seed=0, basis="gram", seconds=10.0, **training):
    """A run folder with what the table reads."""
    folder.mkdir()
    config = ClassificationConfig(
        run_dir=str(folder), seed=seed, model=ModelConfig("simple_kan_4", basis)
    )
    for key, value in training.items():
        setattr(config.training, key, value)
    (folder / "config.yaml").write_text(config.to_yaml())
    metrics = {
        "test": {"top1": top1},
        "parameters": 12345,
        "multiply_adds": 6789000,
        "cpu_seconds": seconds,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return str(folder)


def page(folders, tmp_path):
    (tmp_path / "published.yaml").write_text(yaml.safe_dump(PUBLISHED))
    return results_page(
        folders, published=str(tmp_path / "published.yaml"), command="python tools/results.py"
    )


def rows(text):
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ][2:]


def test_runs_that_differ_in_their_seed_share_a_row(tmp_path):
    scores = [0.97, 0.98, 0.96]
    folders = [
        finished(tmp_path / f"first-{i}", score, seed=i, seconds=10.0 * (i + 1))
        for i, score in enumerate(scores)
    ]
    (row,) = [row for row in rows(page(folders, tmp_path)) if row[0] == "first"]
    mean, spread = np.mean(scores) * 100, np.std(scores, ddof=1) * 100
    assert row == [
        "first",
        "simple_kan_4",
        "gram",
        "12,345",
        "6,789,000",
        "20",
        "3",
        f"{mean:.2f} ± {spread:.2f}",
        "98.5",
    ]


def test_other_settings_and_the_plain_control_have_rows_of_their_own(tmp_path):
    folders = [
        finished(tmp_path / "first-0", 0.9),
        finished(tmp_path / "first-0-wide", 0.8, epochs=7),
        finished(tmp_path / "first-0-none", 0.7, basis="none"),
    ]
    mine = [row for row in rows(page(folders, tmp_path)) if row[0] == "first"]
    assert [row[6] for row in mine] == ["1", "1", "1"]
    assert mine[-1][2] == "none"
    assert mine[-1][8] == ""  # what others report is not of the control
    assert {row[7] for row in mine} == {"90.00", "80.00", "70.00"}  # one seed has no spread


def test_published_experiments_come_in_their_order_and_say_what_was_not_run(tmp_path):
    folders = [
        finished(tmp_path / "other-0", 0.5),
        finished(tmp_path / "second-0", 0.6),
        finished(tmp_path / "first-0", 0.9),
    ]
    text = page(folders, tmp_path)
    assert [row[0] for row in rows(text)] == ["first", "second", "other", "third"]
    assert rows(text)[-1] == ["third", "", "", "", "", "", "", "not run here", "70"]
    assert rows(text)[1][8] == "59.27 (74.87 tuned)"
    assert rows(text)[2][8] == ""
    assert "- `first`: of an article" in text
    assert "`python tools/results.py`" in text


def test_unfinished_runs_and_those_of_masks_are_left_out(tmp_path):
    folders = [
        finished(tmp_path / "first-0", 0.9),
        finished(tmp_path / "first-1", 0.1, seed=1),
        finished(tmp_path / "masks-0", 0.3),
    ]
    (tmp_path / "first-1" / "metrics.json").unlink()
    (tmp_path / "masks-0" / "metrics.json").write_text(json.dumps({"test": {"mean_iou": 0.5}}))
    (row,) = [
        row
        for row in rows(page([*folders, str(tmp_path / "nowhere")], tmp_path))
        if row[7] != "not run here"
    ]
    assert row[6:8] == ["1", "90.00"]


def test_faults_are_named(tmp_path):
    with pytest.raises(InputError, match="no finished run.*nowhere"):
        results_page(["nowhere"], published=None, command="")
    run = finished(tmp_path / "first-0", 0.9)
    with pytest.raises(InputError, match="missing.yaml"):
        results_page([run], published=str(tmp_path / "missing.yaml"), command="")
    for text in ("[", "experiment: a", "- {experiment: a}", "- a"):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(InputError, match=r"bad\.yaml"):
            results_page([run], published=str(tmp_path / "bad.yaml"), command="")


def test_the_tool_writes_the_page(tmp_path):
    run = finished(tmp_path / "first-0", 0.9)
    done = kanseg_command("results", run, "--output", tmp_path / "page.md")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.md").read_text().startswith("# Classification")
    assert "90.00" in kanseg_command("results", run).stdout
    bad = kanseg_command("results", "nowhere")
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)
