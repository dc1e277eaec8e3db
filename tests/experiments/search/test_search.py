"""A search over the settings of an experiment: it goes on where it stopped, names faults, and
leaves settings that train.
"""

import csv
import os
import signal
import subprocess
import sys
import textwrap
import time
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from kanseg.cli.search import kind_of_experiment, main
from kanseg.config import (
    ClassificationConfig,
    ClassificationData,
    ClassificationTraining,
    Config,
    ModelConfig,
)
from kanseg.experiments.search.space import read_space, with_settings
from kanseg.training.run import train
from kanseg.utils.errors import InputError

optuna = pytest.importorskip("optuna")

from kanseg.experiments.search import search as module  # noqa: E402
from kanseg.experiments.search.search import search  # noqa: E402

ROOT = Path(__file__).parents[3]
SPACE = {
    "training.lr": {"low": 1.0e-4, "high": 1.0e-1, "log": True},
    "model.options.width": {"low": 2, "high": 4},
    "model.options.norm": {"choices": ["batch", "layer"]},
    "data.augment": {"choices": [[], ["RandomHorizontalFlip"]]},
}


@pytest.fixture
def experiment(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = (rng.integers(0, 80, (40, 8, 8)) + 120 * y[:, None, None]).astype(np.uint8)
    np.savez(tmp_path / "set.npz", x_train=x[:32], y_train=y[:32], x_test=x[32:], y_test=y[32:])
    return ClassificationConfig(
        run_dir=str(tmp_path / "search"),
        data=ClassificationData(
            root=str(tmp_path / "set.npz"), channels=1, workers=0, val_share=0.25
        ),
        model=ModelConfig("simple_kan_4", "gram", stem=None, options={"width": 2, "depth": 1}),
        training=ClassificationTraining(epochs=2, batch_size=8, tensorboard=False, report=False),
    )


def written(path, space=SPACE):
    path.write_text(yaml.safe_dump(space))
    return path


def rows(run):
    return list(csv.DictReader((Path(run) / "trials.csv").open()))


@pytest.mark.slow
def test_a_search_goes_on_and_leaves_settings_that_train(experiment, tmp_path):
    space, run = written(tmp_path / "space.yaml"), Path(experiment.run_dir)
    search(experiment, space, trials=2)
    first = rows(run)
    best = search(experiment, space, trials=4)
    assert rows(run)[:2] == first
    assert [row["state"] for row in rows(run)] == ["complete"] * 4
    assert sorted(p.name for p in run.glob("trial_*")) == [f"trial_{i:04d}" for i in range(4)]
    assert Image.open(run / "scores.png").size[0] > 100
    top = max(rows(run), key=lambda row: float(row["top1"]))
    config = ClassificationConfig.from_yaml(best.read_text())
    assert config.training.lr == pytest.approx(float(top["training.lr"]))
    assert config.data.test == ["test"]  # which no trial has seen
    assert all(
        "test" not in yaml.safe_load((p / "metrics.json").read_text()) for p in run.glob("trial_*")
    )
    assert train(config)["val"]["top1"] == pytest.approx(float(top["top1"]))


@pytest.mark.slow
def test_an_interrupted_search_proposes_what_a_whole_one_does(experiment, tmp_path):
    space = written(tmp_path / "space.yaml")
    whole, broken = (
        replace(experiment, run_dir=str(tmp_path / name)) for name in ("whole", "broken")
    )
    search(whole, space, trials=3)
    for trials in (1, 2, 3):
        search(broken, space, trials=trials)
    drop = {"seconds"}
    assert [{k: v for k, v in row.items() if k not in drop} for row in rows(whole.run_dir)] == [
        {k: v for k, v in row.items() if k not in drop} for row in rows(broken.run_dir)
    ]


@pytest.mark.slow
def test_a_trial_that_dies_is_tried_once_more(experiment, tmp_path, monkeypatch):
    real, calls = module.train, []

    def dies(config, **options):
        calls.append(config.run_dir)
        if len(calls) == 1:
            raise RuntimeError("CUDA out of memory")
        if Path(config.run_dir).name == "trial_0002":
            raise RuntimeError("again")
        return real(config, **options)

    monkeypatch.setattr(module, "train", dies)
    search(experiment, written(tmp_path / "space.yaml"), trials=4)
    table = rows(experiment.run_dir)
    assert "out of memory" in table[0]["error"]
    assert (table[1]["attempt_of"], table[1]["state"], table[1]["training.lr"]) == (
        "0",
        "complete",
        table[0]["training.lr"],
    )
    assert [row["state"] for row in table].count("complete") == 3
    assert calls.count(str(Path(experiment.run_dir) / "trial_0002")) == 2  # and no third time


@pytest.mark.slow
def test_settings_that_cannot_be_used_together_fail_at_once(experiment, tmp_path):
    """Each value alone is usable: dropout of functions, and noise."""
    space = {
        "model.options.dropout_at": {"choices": ["input", "functions"]},
        "model.options.noise": {"choices": [0.0, 0.1]},
    }
    search(experiment, written(tmp_path / "space.yaml", space), trials=8)
    for row in rows(experiment.run_dir):
        refused = (
            row["model.options.dropout_at"] == "functions" and row["model.options.noise"] == "0.1"
        )
        assert row["state"] == ("fail" if refused else "complete")
        assert ("'functions'" in row["error"]) == refused
        assert row["attempt_of"] == ""


@pytest.mark.slow
def test_a_trial_interrupted_by_hand_goes_on_from_its_checkpoint(experiment, tmp_path, monkeypatch):
    from kanseg.training import loop

    real = loop.save

    def save_and_stop(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        search(experiment, written(tmp_path / "space.yaml"), trials=1)
    monkeypatch.undo()
    search(experiment, tmp_path / "space.yaml", trials=1)
    table = rows(experiment.run_dir)
    assert [(row["state"], row["attempt_of"]) for row in table] == [("fail", ""), ("complete", "0")]
    assert [p.name for p in Path(experiment.run_dir).glob("trial_*")] == ["trial_0000"]
    assert (Path(experiment.run_dir) / "trial_0000" / "log.jsonl").read_text().count('"train"') == 2


@pytest.mark.slow
def test_processes_share_a_search_and_a_killed_one_is_replaced(experiment, tmp_path):
    config, space = (
        tmp_path / "config.yaml",
        written(tmp_path / "space.yaml", {"training.lr": {"low": 1e-4, "high": 1e-1, "log": True}}),
    )
    config.write_text(
        replace(experiment, training=replace(experiment.training, epochs=60)).to_yaml()
    )
    command = [
        sys.executable,
        str(ROOT / "tools" / "search.py"),
        "--config",
        str(config),
        "--space",
        str(space),
        "--run_dir",
        experiment.run_dir,
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(
        [*command, "--trials", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env
    )
    deadline = time.monotonic() + 120
    while (
        not list(Path(experiment.run_dir).glob("trial_0000/checkpoints/step_*"))
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (trial,) = optuna.load_study(
        study_name="kanseg", storage=f"sqlite:///{experiment.run_dir}/study.db"
    ).trials
    assert trial.state.name == "RUNNING"
    search(
        replace(experiment, training=replace(experiment.training, epochs=60)),
        space,
        trials=1,
        log=lambda _: None,
    )
    table = rows(experiment.run_dir)
    assert [(row["state"], row["attempt_of"]) for row in table] == [("fail", ""), ("complete", "0")]


@pytest.mark.slow
def test_two_processes_make_as_many_trials_as_were_asked_for(experiment, tmp_path):
    config, space = tmp_path / "config.yaml", written(tmp_path / "space.yaml")
    config.write_text(experiment.to_yaml())
    command = [
        sys.executable,
        str(ROOT / "tools" / "search.py"),
        "--config",
        str(config),
        "--space",
        str(space),
        "--trials",
        "5",
    ]
    both = [
        subprocess.Popen(
            [*command, "--run_dir", experiment.run_dir],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert len(list(Path(experiment.run_dir).glob("trial_*"))) == 5
    pids = {
        trial.user_attrs["process"]["pid"]
        for trial in optuna.load_study(
            study_name="kanseg", storage=f"sqlite:///{experiment.run_dir}/study.db"
        ).trials
    }
    search(experiment, space, trials=5)  # nothing left to do
    assert (
        len({row["training.lr"] for row in rows(experiment.run_dir) if row["state"] == "complete"})
        == 5
    )
    assert 1 <= len(pids) <= 2


@pytest.mark.slow
def test_bad_trials_are_pruned(experiment, tmp_path):
    many = replace(
        experiment, training=replace(experiment.training, epochs=6, schedule="constant", warmup=0.0)
    )
    space = written(tmp_path / "space.yaml", {"training.lr": {"choices": [1.0e-9, 3.0e-2]}})
    search(many, space, trials=10, prune=True)
    table = rows(many.run_dir)
    pruned = [row for row in table if row["state"] == "pruned"]
    assert pruned
    assert {row["training.lr"] for row in pruned} == {"1e-09"}


@pytest.mark.slow
def test_segmentation_experiments_are_searched_too(config, tmp_path):
    space = written(
        tmp_path / "space.yaml",
        {"training.loss.dice": {"low": 0, "high": 1}, "training.lr": {"low": 1e-3, "high": 1e-2}},
    )
    best = search(replace(config, run_dir=str(tmp_path / "s")), space, trials=2)
    assert 0 < Config.from_yaml(best.read_text()).training.loss["dice"] < 1
    assert len(rows(tmp_path / "s")) == 2


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"training.lrr": {"low": 0.1, "high": 1}},
            "'training.lrr'.*'training.lr'",
        ),
        (
            {"model.options.widht": {"choices": [2]}},
            "model.options.widht = 2.*'width'",
        ),
        ({"model.options.norm": {"choices": ["bach"]}}, "model.options.norm = 'bach'.*'batch'"),
        ({"model.stem.degree": {"choices": [2]}}, "'model.stem.degree'"),
        ({"model": {"choices": [2]}}, "'model'"),
        ({"run_dir": {"choices": ["a"]}}, ": run_dir"),
        ({"training.lr": {"low": 1, "high": 0.1}}, "training.lr.*low=1, high=0.1"),
        ({"training.lr": {"low": 0, "high": 0.1, "log": True}}, "training.lr.*low=0"),
        ({"training.lr": {"low": 0, "high": 0.1, "stepp": 1}}, "'stepp'.*'step'"),
        ({"training.lr": {"low": 0.1, "high": 0.2, "step": 3}}, "training.lr: step.*3"),
        ({"training.lr": {"choices": []}}, "training.lr: choices"),
        ({"training.lr": {"choices": ["much"]}}, "training.lr"),
        ({"training.epochs": {"low": 0, "high": 3}}, "training.epochs = 0"),
        ({"training.lr": 3}, "training.lr.*3"),
        ([1], r"space.yaml.*\[1\]"),
    ],
)
def test_faults_in_the_space_are_named_before_anything_is_written(
    experiment, tmp_path, space, message
):
    with pytest.raises(InputError, match=message):
        search(experiment, written(tmp_path / "space.yaml", space), trials=1)
    assert not Path(experiment.run_dir).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: replace(c, data=replace(c.data, root="nowhere")), "nowhere"),
        (lambda c: replace(c, data=replace(c.data, val=[])), "data.val"),
        (
            lambda c: replace(c, training=replace(c.training, monitor="mean_iou")),
            "training.monitor",
        ),
    ],
)
def test_faults_in_the_experiment_are_named_before_anything_is_written(
    experiment, tmp_path, change, message
):
    with pytest.raises(InputError, match=message):
        search(change(experiment), written(tmp_path / "space.yaml"), trials=1)
    assert not Path(experiment.run_dir).exists()


@pytest.mark.slow
def test_another_search_is_not_continued(experiment, tmp_path):
    space = written(tmp_path / "space.yaml")
    search(experiment, space, trials=1)
    with pytest.raises(InputError, match="training.batch_size: 8 -> 4"):
        search(
            replace(experiment, training=replace(experiment.training, batch_size=4)),
            space,
            trials=2,
        )
    with pytest.raises(InputError, match="space"):
        search(experiment, written(space, {"training.lr": {"low": 1e-4, "high": 1e-3}}), trials=2)
    with pytest.raises(InputError, match="--storage nonsense"):
        search(experiment, written(space), trials=2, storage="nonsense")


def test_a_missing_space_is_answered_with_one_that_can_be_searched(experiment, tmp_path):
    with pytest.raises(InputError, match="--space") as caught:
        main(["--config", "experiment.yaml"])
    _, example = str(caught.value).split("\n", 1)
    (tmp_path / "space.yaml").write_text(textwrap.dedent(example))
    assert len(read_space(tmp_path / "space.yaml", experiment)) == 3


def test_numbers_are_what_they_look_like(experiment, tmp_path):
    text = (
        "training.lr: {low: 1e-6, high: 1}\nmodel.options.width: {low: 2, high:"
        " 4}\ntraining.penalty.weights_l1: {choices: [0, 1e-5]}\n"
    )
    (tmp_path / "space.yaml").write_text(text)
    space = read_space(tmp_path / "space.yaml", experiment)
    assert isinstance(space["training.lr"].high, float)
    assert isinstance(space["model.options.width"].high, int)
    assert space["training.penalty.weights_l1"].choices == (0, 1e-5)
    assert with_settings(experiment, {"training.penalty.weights_l1": 1e-5}).training.penalty == {
        "weights_l1": 1e-5
    }


def test_the_network_tells_the_kind_of_experiment(tmp_path):
    (tmp_path / "a.yaml").write_text("model: {name: vggkan11}\n")
    (tmp_path / "b.yaml").write_text("data: {root: x}\n")
    assert kind_of_experiment(str(tmp_path / "a.yaml"), []) is ClassificationConfig
    assert kind_of_experiment(str(tmp_path / "a.yaml"), ["--model.name", "unet"]) is Config
    assert (
        kind_of_experiment(str(tmp_path / "b.yaml"), ["--model.name=kan"]) is ClassificationConfig
    )
    assert kind_of_experiment(str(tmp_path / "b.yaml"), []) is Config
    assert kind_of_experiment("nowhere.yaml", []) is Config


@pytest.mark.parametrize("name", ["optuna", "ray"])
def test_a_missing_package_is_named_with_its_command(experiment, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "config.yaml").write_text(experiment.to_yaml())
    arguments = [
        "--config",
        str(tmp_path / "config.yaml"),
        "--space",
        str(written(tmp_path / "space.yaml")),
        "--ray",
        "2",
    ]
    with pytest.raises(InputError, match=f"needs {name}: python -m pip install "):
        main(arguments if name == "ray" else arguments[:-2])


@pytest.mark.slow
def test_workers_of_ray_get_the_search(experiment, tmp_path, monkeypatch):
    """Ray's interface as the search uses it; workers run one after the other here."""
    asked = []

    class Remote:
        def __init__(self, function):
            self.remote = function

    fake = types.SimpleNamespace(
        init=lambda **_: None,
        cluster_resources=lambda: {"GPU": 1.0},
        remote=lambda **options: asked.append(options) or Remote,
        get=list,
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    (tmp_path / "config.yaml").write_text(experiment.to_yaml())
    space = written(tmp_path / "space.yaml")
    arguments = [
        "--config",
        str(tmp_path / "config.yaml"),
        "--space",
        str(space),
        "--trials",
        "2",
        "--ray",
        "2",
        "--run_dir",
        experiment.run_dir,
    ]
    main(arguments)
    assert asked == [{"num_cpus": 1, "num_gpus": 0.5}]
    assert len(rows(experiment.run_dir)) == 2
