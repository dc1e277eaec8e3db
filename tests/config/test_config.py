import contextlib
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import kanseg
from kanseg.bases import BASES
from kanseg.cli.train import FLAGS
from kanseg.config import ClassificationConfig, Config, parse_config
from kanseg.experiments.results import read_published
from kanseg.experiments.search.space import read_space
from kanseg.inference.description import build_model
from kanseg.layers.regularization import kan_layers
from kanseg.training.run import TASKS
from kanseg.training.settings import check_settings
from kanseg.utils.errors import InputError

ROOT = Path(__file__).parents[2]
CONFIGS = [
    path for path in sorted((ROOT / "configs").glob("*.yaml")) if path.name != "published.yaml"
]


def kind_of(path):
    """Of experiment, by the tool that its command names."""
    return ClassificationConfig if "tools/train_cls.py" in path.read_text() else Config


def test_yaml_round_trip_is_exact(config):
    assert Config.from_yaml(config.to_yaml()) == config


def test_command_line_overrides_the_file(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "training: {epochs: 7, lr: 0.5}\nmodel: {options: {width: 4}}\n"
    )
    config, flags = parse_config(
        [
            "--config",
            str(tmp_path / "c.yaml"),
            "--training.epochs",
            "9",
            "--model.options.depth",
            "2",
        ],
        flags={"resume": "go on"},
    )
    assert (config.training.epochs, config.training.lr) == (9, 0.5)
    assert config.model.options == {"width": 4, "depth": 2}
    assert flags == {"resume": False}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {epochz: 3}", "unknown setting .*epochz'; did you mean 'training.epochs'"),
        ("trainig: {epochs: 3}", "did you mean 'training'|did you mean 'training.epochs'"),
        ("training: {epochs: many}", "training.epochs.*many"),
        ("training: {precision: fp8}", "fp8"),
        ("data: {resize: small}", "data.resize"),
        ("training: [", "not valid YAML"),
    ],
)
def test_mistakes_are_one_line_that_names_them(text, message):
    with pytest.raises(InputError, match=message) as caught:
        Config.from_yaml(text)
    assert "\n" not in str(caught.value)


PLACES = [
    "model: {options: {x: EVIL}}",
    "model: {options: {x: [EVIL]}}",
    "model: {stem: EVIL}",
    "data: {augment: [{A: {x: EVIL}}]}",
    "data: EVIL",
]


@pytest.mark.parametrize("place", PLACES)
def test_settings_cannot_run_code(place, tmp_path):
    evil = (
        f"{{class_path: subprocess.Popen, init_args: {{args: 'touch {tmp_path / 'made'}', shell:"
        " true}}"
    )
    with contextlib.suppress(InputError):
        Config.from_yaml(place.replace("EVIL", evil))
    time.sleep(0.05)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("text", ["- a", "just text", "model: 3", "data: null"])
def test_yaml_of_another_form_is_one_line(text):
    with pytest.raises(InputError, match="key: value|model|data"):
        Config.from_yaml(text)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data.resize", "small"], "data.resize: .*a list of integers.* got small"),
        (["--training.epochs", "two"], "training.epochs: expected an integer, got two"),
        (["--training.precision", "fp8"], "training.precision: .*'bf16'.* got fp8"),
    ],
)
def test_a_wrong_value_is_explained_in_words(words, expected):
    with pytest.raises(InputError, match=expected):
        parse_config(words)


def test_misspelt_option_on_the_command_line_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'training.epochs'"):
        parse_config(["--training.epoch", "3"])


def test_missing_config_file_is_named():
    with pytest.raises(InputError, match=r"nowhere\.yaml"):
        parse_config(["--config", "nowhere.yaml"])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_shipped_config_is_valid_and_names_its_command(path):
    config = kind_of(path).from_yaml(path.read_text())
    assert f"--config configs/{path.name}" in path.read_text().split("\n\n")[0]
    assert Path(config.run_dir).parent == Path("runs")
    assert config.training.monitor in TASKS[type(config)](config).monitors


ANY_BASIS = [path for path in CONFIGS if "any other basis" in path.read_text()]


# DenseKANet is built in seconds.
WITH_ANY_BASIS = [
    pytest.param(path, basis, id=f"{path.name}-{basis}", marks=[pytest.mark.slow] * is_slow)
    for path in ANY_BASIS
    for basis in kanseg.list_bases()
    for is_slow in ["densekanet" in path.name and basis not in ("bspline", "gram")]
]


@pytest.mark.parametrize(("path", "basis"), WITH_ANY_BASIS)
@pytest.mark.slow_except("reskanet_18.yaml-bspline", "vggkan11.yaml-bspline")
def test_configs_that_promise_any_basis_build_it_by_one_option(path, basis):
    """Or where they set options of another basis, by the options in their comment."""
    line = next(line for line in path.read_text().splitlines() if "any other basis" in line)
    options = re.search(r"--model\.options '(.*)'", path.read_text())
    words = [
        "--config",
        str(path),
        "--model.basis",
        basis,
        *(["--model.options", options[1]] if options and "bspline" in line else []),
    ]
    config, _ = parse_config(words, kind=kind_of(path))
    task = TASKS[type(config)](config)
    check_settings(task)
    with torch.device("meta"):
        model = build_model(task.model_arguments())
    expected = {BASES[basis]} if basis != "none" else set()
    assert {type(layer.basis) for layer in kan_layers(model)} == expected


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "search").glob("*.yaml")), ids=lambda p: p.name
)
@pytest.mark.slow
def test_every_shipped_space_suits_its_experiment(path):
    config = re.search(r"--config (configs/\S+)", path.read_text())[1]
    assert f"--space configs/search/{path.name}" in path.read_text()
    assert len(read_space(path, kind_of(ROOT / config).from_yaml((ROOT / config).read_text()))) > 3


def test_every_published_experiment_has_a_config():
    for row in read_published(str(ROOT / "configs" / "published.yaml")):
        assert (ROOT / "configs" / f"{row['experiment']}.yaml").is_file()


def test_help_documents_every_setting_with_type_and_default():
    text = subprocess.run(
        [sys.executable, ROOT / "tools" / "train_seg.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "PATH": ""},
    ).stdout
    for line in (
        "--training.epochs EPOCHS",
        "passes over the training images. (type: int, default: 50)",
        "--data.root ROOT",
        "--model.basis BASIS",
        "--resume",
    ):
        assert line in text
    options = [line.strip() for line in text.splitlines() if line.strip().startswith("--")]
    assert len(options) > 45


@pytest.mark.parametrize(
    ("name", "tool"), [("quickstart", "train_seg.py"), ("mnist_hybrid", "train_cls.py")]
)
def test_a_printed_config_reads_back_equal(name, tool, tmp_path):
    path = ROOT / "configs" / f"{name}.yaml"
    command = [sys.executable, ROOT / "tools" / tool, "--config", path, "--print_config"]
    (tmp_path / "printed.yaml").write_text(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )
    kind = kind_of(path)
    assert parse_config(["--config", str(tmp_path / "printed.yaml")], flags=FLAGS, kind=kind)[
        0
    ] == kind.from_yaml(path.read_text())


def test_words_of_yaml_stay_words():
    text = "data: {classes: [background, no, yes], skip_bad: yes}\ntraining: {wandb: no}"
    config = Config.from_yaml(text)
    assert config.data.classes == ["background", "no", "yes"]
    assert config.data.skip_bad is True
    assert config.training.wandb == "no"
    words = ["--data.classes", "[no, on]", "--training.wandb", "no", "--data.skip_bad", "yes"]
    config, _ = parse_config([*words, "--data.root", "sets:"])
    assert (config.data.classes, config.data.root) == (["no", "on"], "sets:")
    assert (config.data.skip_bad, config.training.wandb) == (True, "no")


@pytest.mark.parametrize(
    "text",
    [
        *("seed: !!int x", "seed: " + "9" * 5000, "run_dir: " + "[" * 3000, "seed: 1\nseed: 2"),
        *("run_dir: !!timestamp 2001-99-99", "run_dir: a\x00b", "? [a]\n: b", "data: [", "1: 2"),
        "a: &a [x]\n" + "\n".join(f"b{i}: &a [{', '.join(['*a'] * 9)}]" for i in range(30)),
        *("data: {resize: .nan}", "model: {options: !!set {a}}", "training: !!binary aGk="),
    ],
)
def test_a_damaged_or_hostile_config_is_an_input_error(tmp_path, text):
    with pytest.raises(InputError):
        Config.from_yaml(text)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError):
        parse_config(["--config", str(tmp_path / "config.yaml")])


@pytest.mark.parametrize(
    "text",
    [
        *("model:\n  options:", "training: {loss: }", "data: {train: }", "training: {lr: }"),
        *("seed:", "run_dir: ~", "data: {augment: null}", "training: {optimizer: }"),
    ],
)
def test_a_setting_without_a_value_is_named(text):
    """As the last line of a file that was cut off."""
    name = text.replace("{", "").split(":")[-2].split()[-1]
    with pytest.raises(InputError, match=f"{name}' has no value"):
        Config.from_yaml(text)
    assert Config.from_yaml("data: {resize: null, classes: }").data.classes is None
