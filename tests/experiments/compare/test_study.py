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
    fitting_lines,
    recorded_settings,
    run_jobs,
    same_settings,
    settings_hash,
    tuning_jobs,
)
from kanseg.experiments.compare.study_file import read_study
from kanseg.experiments.compare.study_report import write_study
from kanseg.experiments.compare.study_results import append_line, read_lines, results_file
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

    def write_file(**changes):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(STUDY | changes))
        return path

    return write_file


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
        ({"final": {"seeds": ["a"]}}, "final.seeds"),
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
    assert "skipped: discs, plain: its tuning is not complete" in capsys.readouterr().out
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
    assert step_ratios(study, "discs", tmp_path) == found
    assert step_ratios(study, "rings", tmp_path) == {}
    log = []
    variants = {"plain": {}, "relu": {"model.options.activation": "prelu"}}
    assert step_ratios(replace(study, variants=variants), "discs", tmp_path, log=log.append) == {
        "plain": (1.0, 0.0)
    }
    assert "relu was timed with other settings" in log[0]


def test_two_processes_do_not_time_at_once(write, tmp_path):
    study = read_study(write())
    log = []
    with lock_run(tmp_path / "out" / "time" / "discs"):
        folders = {"data_root": tmp_path, "output": tmp_path / "out"}
        assert time_variants(study, "discs", ["relu"], tmp_path, **folders, log=log.append) == {}
    assert "another process" in log[0]


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
    jobs, skipped = final_jobs(
        study, ["discs"], ["plain"], tmp_path / "results", data_root=tmp_path, output=tmp_path
    )
    assert skipped == []
    assert {job.config.training.lr for job in jobs} == {0.001}


def write_lines(study, folder, jobs, score=0.5):
    """Lines as if the jobs had been run: one image, its score growing with the seed."""
    for job in jobs:
        value = None if score is None else score + job.config.seed / 50
        line = {
            "set": job.set_name,
            "variant": job.variant,
            "seed": job.config.seed,
            "overrides": dict(job.overrides),
            "settings": job.settings,
            "settings_hash": job.hash,
            "split": "test",
            "score": "disc/iou",
            "mean": value,
            "error": "NaN",
            "parameters": 1000,
            "multiply_adds": 2000,
            "cpu_seconds": 1.0,
            "epochs": job.config.training.epochs,
            "images": {"x": value, "y": value},
        }
        append_line(results_file(folder, job.stage, job.set_name), line)


def write_tuning(study, folder, variants, score=0.5):
    jobs = tuning_jobs(study, list(study.sets), variants, data_root=folder, output=folder)
    write_lines(study, folder, jobs, score)


def write_final(study, folder, variants, seeds=(0, 1)):
    asked = replace(study, seeds=seeds)
    jobs, _ = final_jobs(asked, list(study.sets), variants, folder, data_root=folder, output=folder)
    write_lines(study, folder, jobs)


def test_a_variant_whose_tuning_diverges_does_not_stop_the_others(write, tmp_path):
    study = read_study(write())
    write_tuning(study, tmp_path, ["plain"])
    write_tuning(study, tmp_path, ["relu"], score=None)
    jobs, skipped = final_jobs(
        study, ["discs"], ["plain", "relu"], tmp_path, data_root=tmp_path, output=tmp_path
    )
    assert skipped == ["discs, relu: all its tuning runs diverged"]
    assert {job.variant for job in jobs} == {"plain"}


def test_values_to_tune_may_be_mappings(write, tmp_path):
    values = [{"ce": 1.0}, {"ce": 0.5, "dice": 1.0}]
    study = read_study(write(tune={"values": {"training.loss": values}}))
    write_tuning(study, tmp_path, ["plain"])
    jobs, _ = final_jobs(study, ["discs"], ["plain"], tmp_path, data_root=tmp_path, output=tmp_path)
    assert {str(job.overrides["training.loss"]) for job in jobs} == {str(values[0])}


def test_only_lines_that_fit_the_study_are_reported(write, tmp_path):
    """Not those from before a change of its file, nor other seeds, nor a run for a second time."""
    study = read_study(write())
    variants = ["plain", "relu"]
    write_tuning(study, tmp_path, variants)
    write_final(study, tmp_path, variants)
    assert fitting_lines(study, ["discs"], variants, tmp_path).left_out == []
    write_final(study, tmp_path, ["plain"], seeds=(0, 77))
    found = fitting_lines(study, ["discs"], variants, tmp_path)
    assert list(found.final["discs"]["plain"]) == [0, 1]
    [sentence] = found.left_out
    assert "2 of 6 lines are left out" in sentence and "discs.jsonl" in sentence

    longer = read_study(write(settings={**STUDY["settings"], "training.batch_size": 3}))
    log = []
    with pytest.raises(InputError, match="no lines of these"):
        write_study(longer, ["discs"], variants, tmp_path, log=log.append)
    assert ["of 4 lines" in log[0], "of 6 lines" in log[1]] == [True, True]


def test_the_report_is_of_the_seeds_that_are_asked_for(write, tmp_path):
    study = read_study(write(final={"seeds": [0, 1, 2]}))
    write_tuning(study, tmp_path, ["plain", "relu"])
    write_final(study, tmp_path, ["plain", "relu"], seeds=(0, 1, 2))
    some = replace(study, seeds=(1,))
    log = []
    write_study(some, ["discs"], ["plain", "relu"], tmp_path, log=log.append)
    assert "One seed (discs): nothing" in log[-2]
    write_study(study, ["discs"], ["plain", "relu"], tmp_path, log=log.append)
    assert "One seed" not in log[-2]


def test_the_report_names_the_variants_of_too_few_seeds(write, tmp_path):
    study = read_study(write(final={"seeds": [0, 1, 2]}, variants={**STUDY["variants"], "elu": {}}))
    variants = ["plain", "relu", "elu"]
    write_tuning(study, tmp_path, variants)
    write_final(study, tmp_path, ["plain", "relu"], seeds=(0, 1, 2))
    write_final(study, tmp_path, ["elu"], seeds=(1,))
    write_study(study, ["discs"], variants, tmp_path, log=lambda _: None)
    assert "One seed (elu on discs): nothing" in (tmp_path / "table.md").read_text()


def test_a_folder_of_data_that_is_missing_is_named_before_the_first_run(write):
    sets = STUDY["sets"] | {"rings": {"config": "tiny.yaml", "settings": {"data.root": "gone"}}}
    with pytest.raises(InputError, match="rings: no such folder: .*gone"):
        command(write(sets=sets), "--stage", "tune")


def test_a_set_that_is_not_in_the_study_is_refused(write):
    with pytest.raises(InputError, match="--sets.*'disc'.*'discs'"):
        command(write(), "--stage", "tune", "--sets", "disc")
