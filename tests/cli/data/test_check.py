import hashlib
import json

import numpy as np
import pytest
from commands import kanseg_command
from PIL import Image

from kanseg.cli.data.check import main
from kanseg.config import Config, DataConfig
from kanseg.data.checks import KINDS
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write_text


def test_faults_end_with_code_2_and_leave_a_report_for_programs_and_one_for_people(
    folder, tmp_path
):
    (folder / "images" / "p01.png").write_bytes(b"")
    Image.fromarray(np.full((32, 40), 3, np.uint8)).save(folder / "masks" / "p02.png")
    before = {
        p: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }
    settings = ["--mask_values", "{0: 0, 255: 1}", "--classes", "[background, disc]"]
    run = kanseg_command(
        "check",
        folder,
        *settings,
        "--json",
        tmp_path / "out" / "report.json",
        "--html",
        tmp_path / "out" / "report.html",
    )
    assert run.returncode == 2
    assert "images/p01.png: the file is empty" in run.stdout
    assert "masks/p02.png: value 3 at row 0, column 0" in run.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [(i["code"], i["file"]) for i in report["issues"] if i["severity"] == "error"] == [
        ("empty_file", "images/p01.png"),
        ("bad_value", "masks/p02.png"),
    ]
    assert report["classes"] == ["background", "disc"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/png;base64,") >= 5
    assert {
        p: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    } == before


def test_the_data_settings_of_an_experiment_are_read(folder, tmp_path):
    data = DataConfig(
        root=str(folder), classes=["nothing", "disc"], mask_values={0: 0, 255: 1}, test=[]
    )
    atomic_write_text(tmp_path / "experiment.yaml", Config(data=data).to_yaml())
    Image.fromarray(np.zeros((32, 40), np.uint8)).save(folder / "masks" / "p02.png")
    run = kanseg_command("check", "--config", tmp_path / "experiment.yaml")
    assert run.returncode == 0, run.stderr
    assert "disc" in run.stdout
    assert "empty_mask" in run.stdout
    assert run.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere"], "nowhere: no such folder"),
        ([], "give the folder of the data set"),
        (["x", "--clases", "[a, b]"], "unknown setting 'clases'; did you mean 'classes'"),
        (["x", "--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["x", "--config"], "--config needs a file"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, line):
    with pytest.raises(InputError) as caught:
        main(arguments)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["--channels", "--data.channels"])
def test_settings_have_the_names_that_they_have_in_training(folder, option, capsys):
    assert main([str(folder), option, "1"]) == 0
    assert main([str(folder), option, "5"]) == 2
    assert "channels" in capsys.readouterr().out


def test_a_report_is_not_written_into_the_data_folder(folder):
    with pytest.raises(InputError, match="report.json"):
        main([str(folder), "--json", str(folder / "report.json")])
    assert not (folder / "report.json").exists()


def test_with_strict_warnings_are_errors(folder):
    Image.fromarray(np.zeros((32, 40), np.uint8)).save(folder / "masks" / "p02.png")
    assert main([str(folder)]) == 0
    assert main([str(folder), "--strict"]) == 2


def test_every_code_is_listed(capsys):
    assert main(["--codes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        [code, kind.severity] for code, kind in KINDS.items()
    ]


def test_hyphens_are_accepted_for_underscores(folder):
    assert main([str(folder), "--skip-cache", "--mask-values", "{0: 0, 255: 1}"]) == 0
