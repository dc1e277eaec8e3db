"""The command `kanseg`: verbs, built-in configs, the doctor, and what an installed wheel does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import kanseg
from kanseg.cli.main import VERBS, run
from kanseg.config import Config, parse_config
from kanseg.config.builtin import find_config, list_configs, with_config_files
from kanseg.data.classification.formats import FORMATS
from kanseg.data.opening import READERS
from kanseg.utils.command import SCRIPTS, command, with_command
from kanseg.utils.errors import InputError
from kanseg.utils.installation import Dependency, dependencies

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "numpy", "cv2", "jsonargparse", "yaml")


def start(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "kanseg", *words], capture_output=True, text=True, **options
    )


def test_every_verb_is_listed_and_has_a_function():
    shown = start("--help").stdout
    assert all(f"\n  {verb} " in shown for verb in VERBS)
    assert set(VERBS) == set(SCRIPTS)


def test_every_script_of_tools_is_a_verb_and_is_two_lines_long():
    scripts = {path.name for path in (ROOT / "tools").glob("*.py")}
    assert scripts <= {script for script in SCRIPTS.values() if script}


def test_help_and_version_load_nothing_heavy():
    code = (
        "import sys; from kanseg.cli.main import usage; usage('kanseg');"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    assert start("--version").stdout == f"kanseg {kanseg.__version__}\n"


@pytest.mark.parametrize("verb", ["train", "predict", "evaluate", "export", "check"])
def test_a_wrong_option_is_answered_without_torch(verb):
    code = (
        "import sys\n"
        "from kanseg.cli.main import run\n"
        f"try: run({verb!r}, ['--chekpoint', 'x'])\n"
        "except ValueError: print('torch' in sys.modules)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_an_unknown_verb_is_answered_with_the_nearest():
    answer = start("pedict")
    assert answer.returncode == 2
    assert "'predict'" in answer.stderr
    with pytest.raises(InputError, match="'evaluate'"):
        run("evalute", [])


@pytest.mark.parametrize(
    ("started", "expected"),
    [
        ("/usr/bin/kanseg", "kanseg check"),
        ("kanseg train", "kanseg check"),
        ("python -m kanseg train", "python -m kanseg check"),
        ("tools/train_seg.py", "python tools/check_data.py"),
        ("/home/me/repo/tools/predict.py", "python /home/me/repo/tools/check_data.py"),
        ("/home/me/notebook.py", "kanseg check"),
    ],
)
def test_messages_name_the_command_of_this_user(monkeypatch, started, expected):
    monkeypatch.setattr(sys, "argv", [started])
    assert command("check") == expected
    assert with_command("see `kanseg check ROOT`") == f"see `{expected} ROOT`"


def test_built_in_configs_are_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {"quickstart", "glas_ukanet", "drive_unet"} <= set(list_configs())
    assert yaml.safe_load(find_config("glas_ukanet").read_text())["model"]["name"] == "ukanet_18"
    assert find_config("configs/glas_ukanet.yaml") == find_config("glas_ukanet")
    (tmp_path / "glas_ukanet").write_text("seed: 3\n")
    assert find_config("glas_ukanet") == Path("glas_ukanet")  # a file of the user comes first
    with pytest.raises(InputError, match="'glas_unet'"):
        find_config("glas_unett")


def test_the_first_word_is_a_config():
    file = str(find_config("quickstart"))
    assert with_config_files(["quickstart", "--seed", "1"]) == ["--config", file, "--seed", "1"]
    assert with_config_files(["--seed", "1", "--config=quickstart"])[-1] == f"--config={file}"
    assert with_config_files(["--run_dir", "x"]) == ["--run_dir", "x"]


def test_the_doctor_finds_everything_of_this_environment(tmp_path):
    answer = start("doctor", "--json", str(tmp_path / "doctor.json"))
    assert answer.returncode == 0, answer.stdout
    report = json.loads((tmp_path / "doctor.json").read_text())
    assert report["problems"] == []
    assert report["packages"]["torch"]["found"].startswith("2.")
    assert 0 < report["memory_gib"]["free"] <= report["memory_gib"]["all"]


def test_the_doctor_names_the_extra_that_brings_what_is_missing(tmp_path, monkeypatch, capsys):
    info = tmp_path / "kanseg-0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: kanseg\nVersion: 0.0\nRequires-Dist: numpy>=1\n"
        'Requires-Dist: kanseg_nowhere>=1; extra == "tiff"\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert run("doctor", []) == 0
    text = capsys.readouterr().out
    assert "TIFF files compressed by LZW" in text
    assert 'missing kanseg_nowhere: python -m pip install "kanseg[tiff]"' in text


def test_what_is_missing_or_too_old_is_no_satisfied_dependency():
    assert Dependency("a", ">=2.5", "2.14.1+cu130").is_satisfied
    assert Dependency("a", ">=2.5", "2.6.0rc1").is_satisfied
    assert not Dependency("a", ">=2.5", "2.4").is_satisfied
    assert not Dependency("a", "<2.1,>=2.0.8", "2.1.0").is_satisfied
    assert not Dependency("a", "", None).is_satisfied


def test_the_extras_of_users_are_told_apart_from_needs():
    extras = {each.name: each.extra for each in dependencies()}
    assert extras["torch"] == ""
    assert extras["onnx"] == "export"
    assert "pytest" not in extras


@pytest.mark.parametrize(
    "words",
    [
        ["--data.resize", "256", "256"],
        ["--data.resize", "256"],
        ["--data.resize=256"],
        ["--data.resize", "[256, 256]"],
    ],
)
def test_a_size_is_one_number_or_two(words):
    config, _ = parse_config([*words, "--seed", "3"], kind=Config)
    assert config.data.resize == [256, 256]
    assert config.seed == 3


def test_a_size_in_a_file_is_one_number_or_two():
    for text in ("data: {crop: 96, spacing: 0.5}", "data: {crop: [96, 96], spacing: [0.5, 0.5]}"):
        data = Config.from_yaml(text).data
        assert (data.crop, data.spacing) == ([96, 96], [0.5, 0.5])


def test_statistics_of_channels_are_numbers_in_a_row():
    words = ["--data.mean", "0.1", "0.2", "0.3", "--data.std", "[1, 1, 1]"]
    data = parse_config(words, kind=Config)[0].data
    assert (data.mean, data.std) == ([0.1, 0.2, 0.3], [1, 1, 1])


def test_formats_lists_every_layout_and_config():
    shown = start("formats").stdout.split()
    assert {*READERS, *list_configs()} <= set(shown)
    assert {name for text in shown for name in text.split(",")} >= set(FORMATS)
