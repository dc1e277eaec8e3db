import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from kanseg.cli.compare import main
from kanseg.config import Config
from kanseg.experiments.compare.study import (
    final_jobs,
    recorded_settings,
    run_jobs,
    same_settings,
    settings_hash,
    tuning_jobs,
)
from kanseg.experiments.compare.study_file import read_study
from kanseg.experiments.compare.study_results import read_lines
from kanseg.experiments.compare.study_time import step_ratios, time_variants
from kanseg.experiments.settings import with_values
from kanseg.inference.description import build_model
from kanseg.training.run import TASKS
from kanseg.training.run_folder.resume import lock_run
from kanseg.training.segmentation import SegmentationTask
from kanseg.training.settings import check_settings
from kanseg.utils.errors import InputError

ROOT = Path(__file__).parents[3]
STUDY = {
    "baseline": "plain",
    "settings": {"model.basis": "none", "model.stem": None},
    "sets": {
        "discs": {"config": "tiny.yaml", "settings": {"data.root": "set", "training.epochs": 1}}
    },
    "variants": {"plain": None, "relu": {"model.options.activation": "relu"}},
    "tune": {"values": {"training.lr": [0.001, 0.01]}, "seed": 7},
    "final": {"seeds": [0, 1], "longer": {"plain_2": {"variant": "plain", "epochs": 2}}},
}


@pytest.fixture
def write(tmp_path, config):
    """Writes the study file, changed; the data set lies in tmp_path/set."""
    (tmp_path / "tiny.yaml").write_text(
        replace(config, training=replace(config.training, surface=False)).to_yaml()
    )

    def write_study(**changes):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(STUDY | changes))
        return path

    return write_study


def command(path, *words):
    folder = path.parent
    return main(
        [
            "--study",
            str(path),
            "--data-root",
            str(folder),
            "--output",
            str(folder / "out"),
            "--results",
            str(folder / "results"),
            *words,
        ]
    )


def lines_of(folder, stage):
    return read_lines(folder / "results" / stage / "discs.jsonl")


def test_settings_are_put_into_nested_ones():
    nested = {"model": {"name": "unet", "options": {"width": 4}, "stem": None}}
    changes = {"model.options.activation": "relu", "model.stem.basis": "rbf", "seed": 3}
    assert with_values(nested, changes) == {
        "model": {
            "name": "unet",
            "options": {"width": 4, "activation": "relu"},
            "stem": {"basis": "rbf"},
        },
        "seed": 3,
    }
    assert nested["model"]["options"] == {"width": 4}


def test_tuning_has_no_test_split_and_tries_all_values_for_all_variants(write, tmp_path):
    study = read_study(write())
    jobs = tuning_jobs(
        study, ["discs"], [*study.variants, *study.longer], data_root=tmp_path, output=tmp_path
    )
    assert [(job.variant, job.config.training.lr) for job in jobs] == [
        ("plain", 0.001),
        ("plain", 0.01),
        ("relu", 0.001),
        ("relu", 0.01),
    ]
    assert all(job.config.data.test == [] and job.config.seed == 7 for job in jobs)
    assert jobs[2].config.model.options["activation"] == "relu"
    assert jobs[0].config.data.root == str(tmp_path / "set")


def test_the_settings_of_a_line_hold_no_place(write, tmp_path):
    study = read_study(write())
    [job, *_] = tuning_jobs(study, ["discs"], ["plain"], data_root=tmp_path, output=tmp_path)
    assert "data.root" not in job.settings
    assert str(tmp_path) not in json.dumps(job.settings)


def test_a_setting_of_a_later_kanseg_leaves_older_lines_valid():
    now = recorded_settings(Config())
    older = {key: value for key, value in now.items() if key != "training.ema"}
    assert same_settings(older, now)
    assert settings_hash(older) == settings_hash(now)
    assert not same_settings(older, now | {"training.ema": 0.9})
    assert not same_settings(now | {"training.gone": 1}, now)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "plian"}, "baseline.*'plian'"),
        ({"variant": {}}, "'variant'.*'variants'"),
        ({"variants": {"plain": {}, "a/b": {}}}, "'a/b'"),
        ({"tune": {"values": {"training.lr": 0.1}}}, "tune.values"),
        ({"final": {"seeds": [1, 1]}}, "final.seeds"),
        (
            {"final": {"seeds": [0], "longer": {"l": {"variant": "x", "epochs": 2}}}},
            "final.longer.l",
        ),
        ({"sets": {"discs": {"config": "none.yaml"}}}, "sets.discs.config.*none.yaml"),
    ],
)
def test_a_study_file_that_cannot_be_used_is_refused(changes, message, write):
    with pytest.raises(InputError, match=message):
        read_study(write(**changes))


def test_an_unknown_setting_names_set_and_variant(write, tmp_path):
    study = read_study(write(variants={"plain": {"training.lrr": 1}}))
    with pytest.raises(InputError, match="discs, plain: .*lrr"):
        tuning_jobs(study, ["discs"], ["plain"], data_root=tmp_path, output=tmp_path)


def test_a_study_from_tuning_to_report(write, tmp_path, capsys):
    path = write()
    assert command(path, "--stage", "final") == 1  # nothing is tuned yet
    assert "discs, plain" in capsys.readouterr().out
    assert lines_of(tmp_path, "final") == []

    assert command(path, "--stage", "tune", "--discard-runs") == 0
    tuned = lines_of(tmp_path, "tune")
    assert len(tuned) == 4
    assert all(line["split"] == "val" and len(line["images"]) == 2 for line in tuned)
    assert not list((tmp_path / "out").rglob("scores_*.csv"))
    assert str(tmp_path) not in json.dumps(tuned)

    assert command(path, "--stage", "final") == 0
    final = lines_of(tmp_path, "final")
    assert sorted((line["variant"], line["seed"], line["epochs"]) for line in final) == [
        ("plain", 0, 1),
        ("plain", 1, 1),
        ("plain_2", 0, 2),
        ("plain_2", 1, 2),
        ("relu", 0, 1),
        ("relu", 1, 1),
    ]
    for variant in ("plain", "relu"):
        mine = [line for line in tuned if line["variant"] == variant]
        winner = max(mine, key=lambda line: line["mean"])["overrides"]["training.lr"]
        assert {
            line["settings"]["training.lr"] for line in final if line["variant"] == variant
        } == {winner}
    run = next((tmp_path / "out" / "final" / "discs" / "relu").glob("*_1/run"))
    metrics = json.loads((run / "metrics.json").read_text())
    [line] = [each for each in final if (each["variant"], each["seed"]) == ("relu", 1)]
    assert line["mean"] == pytest.approx(
        metrics["test"]["per_image"]["classes"]["foreground"]["iou"], abs=1e-5
    )
    assert line["cpu_seconds"] == metrics["training_cpu_seconds"] <= metrics["cpu_seconds"]

    shutil.rmtree(tmp_path / "out")  # lines are enough to know what is done
    assert command(path, "--stage", "final", "--report") == 0
    assert lines_of(tmp_path, "final") == final
    table = (tmp_path / "results" / "table.md").read_text()
    assert "## Equal parameters" in table and "## Equal CPU time" in table
    assert (tmp_path / "results" / "equal_parameters.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "configs/studies").glob("*.yaml")), ids=str)
def test_the_studies_that_come_with_kanseg_can_be_run(path, tmp_path):
    """Every set and variant has usable settings, and the baseline has one size on all sets."""
    study = read_study(path)
    jobs = tuning_jobs(
        study, list(study.sets), list(study.variants), data_root=tmp_path, output=tmp_path
    )
    assert len(jobs) == len(study.sets) * len(study.variants) * len(study.tuned[1])
    for job in jobs[:: len(study.tuned[1])]:  # settings that differ in more than a tuned value
        check_settings(TASKS[study.kind](job.config))
    for name in study.sets if study.kind is Config else ():
        [job, *_] = [each for each in jobs if (each.set_name, each.variant) == (name, "silu")]
        with torch.device("meta"):
            model = build_model(SegmentationTask(job.config).model_arguments())
        assert 250_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 500_000


def test_a_study_of_classifiers_compares_correct_images(write, tmp_path):
    path = write(
        task="classification",
        settings={
            "data.format": "digits",
            "model.name": "simple_kan_4",
            "model.basis": "none",
            "model.stem": None,
            "model.options": {"width": 1},
            "training.epochs": 1,
        },
        sets={"digits": {"settings": {}}},
        variants={"plain": None},
        tune={"values": {"training.lr": [0.01]}},
        final={"seeds": [0]},
    )
    assert command(path, "--stage", "all", "--report", "--seeds", "4") == 0
    [line] = read_lines(tmp_path / "results" / "final" / "digits.jsonl")
    assert (line["score"], line["seed"]) == ("correct", 4)
    assert set(line["images"]) == {0, 1}
    assert line["mean"] == pytest.approx(sum(line["images"]) / len(line["images"]), abs=1e-6)


def test_steps_of_the_variants_are_timed_in_turns(write, tmp_path):
    study = read_study(write())
    folders = {"data_root": tmp_path, "output": tmp_path / "out"}
    found = time_variants(study, "discs", ["relu", "plain_2"], tmp_path, **folders, rounds=3)
    assert found.keys() == {"plain", "relu"}
    assert found["plain"] == (1.0, 0.0)
    assert step_ratios(tmp_path, "discs", "plain") == found
    assert step_ratios(tmp_path, "rings", "plain") == {}


def test_a_run_of_another_process_is_left_to_it(write, tmp_path):
    study = read_study(write())
    folders = {"data_root": tmp_path, "output": tmp_path / "out"}
    jobs = tuning_jobs(study, ["discs"], ["plain"], **folders)
    folder = tmp_path / "out" / "tune" / "discs" / "plain" / f"{settings_hash(jobs[0].settings)}_7"
    with lock_run(folder):
        run_jobs(jobs, output=tmp_path / "out", results=tmp_path / "results", log=lambda _: None)
    assert [line["overrides"]["training.lr"] for line in lines_of(tmp_path, "tune")] == [0.01]


def test_a_variant_that_cannot_be_built_is_refused_before_any_trains(write, tmp_path):
    study = read_study(write())
    jobs = tuning_jobs(study, ["discs"], ["plain", "relu"], data_root=tmp_path, output=tmp_path)
    jobs[-1].config.model.options["activation"] = "reluu"
    with pytest.raises(InputError, match="discs, relu: .*reluu"):
        run_jobs(jobs, output=tmp_path / "out", results=tmp_path / "results", log=lambda _: None)
    assert not (tmp_path / "out").exists()


def test_a_run_that_diverges_is_recorded_and_does_not_win(write, tmp_path):
    values = {"training.lr": [1e20, 0.001]}
    settings = STUDY["settings"] | {"training.clip": None, "training.warmup": 0.0}
    path = write(tune={"values": values, "seed": 7}, settings=settings)
    command(path, "--stage", "tune", "--variants", "plain")
    study = read_study(path)
    first, second = lines_of(tmp_path, "tune")
    assert first["mean"] is None and "finite" in first["error"]
    jobs, untuned = final_jobs(
        study, ["discs"], ["plain"], tmp_path / "results", data_root=tmp_path, output=tmp_path
    )
    assert untuned == []
    assert {job.config.training.lr for job in jobs} == {0.001}


def test_a_set_that_is_not_in_the_study_is_refused(write):
    with pytest.raises(InputError, match="--sets.*'disc'.*'discs'"):
        command(write(), "--stage", "tune", "--sets", "disc")
