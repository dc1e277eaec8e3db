"""The lowest versions that pyproject.toml names exist, and are enough to train and predict."""

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from conftest import make_folder

ROOT = Path(__file__).parents[1]
SMOKE = """
import torch, kanseg
x = torch.rand(1, 3, 33, 50)
for basis in kanseg.list_bases():
    model = kanseg.create_model("unet", basis=basis, width=4, depth=2)
    assert model(x).shape == (1, 2, 33, 50), basis
for encoder in ("smp-resnet18", "timm-test_resnet"):
    assert kanseg.create_model("unet", encoder=encoder)(x).shape == (1, 2, 33, 50), encoder
model.save_pretrained("stored")
assert torch.equal(kanseg.from_pretrained("stored")(x), model.eval()(x))
"""


EXTRAS = ("tiff", "tensorboard")  # that a training uses where they are installed


def lowest():
    """NAME==VERSION of each lower bound among the dependencies of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text()
    listed = text.split("\ndependencies = [\n")[1].split("\n]\n")[0].splitlines()
    listed = [line for line in listed if not line.lstrip().startswith("#")]
    listed += re.findall(rf"(?m)^(?:{'|'.join(EXTRAS)}) = \[(.*)\]", text)
    found = [re.match(r'\s*"([\w.-]+)(?:\[\w+\])?>=([\d.]+)[,";]', line) for line in listed]
    assert all(found), "a dependency without a lower bound"
    return [f"{match[1]}=={match[2]}" for match in found]


def test_every_dependency_has_a_lower_bound():
    pins = lowest()
    assert len(pins) > 15
    assert {"timm==1.0.26", "albucore==0.0.24", "imagecodecs==2023.7.10"} <= set(pins)


@pytest.mark.slow
def test_the_lowest_versions_are_enough(tmp_path):
    """Several GB from the package index: torch of that age comes with CUDA."""
    if shutil.disk_usage(tmp_path).free < 12 * 2**30:
        pytest.skip("needs 12 GB of disk")
    if sys.version_info >= (3, 12):
        pytest.skip("packages of that age have no wheels for this Python")
    pins = tmp_path / "lowest.txt"
    pins.write_text("\n".join(lowest()) + "\n")
    venv.create(tmp_path / "venv", with_pip=True)
    place = "Scripts" if os.name == "nt" else "bin"
    python = str(tmp_path / "venv" / place / "python")
    install = [python, "-m", "pip", "install", "-q", "--no-cache-dir", "-c", str(pins)]
    try:
        # of a copy: building leaves files in the folder
        for name in ("kanseg", "configs"):
            shutil.copytree(ROOT / name, tmp_path / "source" / name)
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, tmp_path / "source")
        source = f"{tmp_path / 'source'}[{','.join(EXTRAS)}]"
        subprocess.run([*install, source], check=True)
        check(python, tmp_path)
    finally:
        shutil.rmtree(tmp_path / "venv")


def check(python, folder):
    """Build networks, train, resume, predict, check and evaluate with that Python."""
    data = make_folder(folder / "set", scale=255)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "KANSEG_CACHE": str(folder / "cache")}
    environment.pop("PYTHONPATH", None)

    def call(*words):
        done = subprocess.run(
            [python, *words], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"

    def tool(name, *words):
        call(str(ROOT / "tools" / f"{name}.py"), *words)

    call("-c", SMOKE)
    run = ["--run_dir", "run", "--data.root", str(data), "--data.resize", "[32, 32]"]
    run += ["--model.options", "{width: 4, depth: 2}", "--training.batch_size", "2"]
    tool("train_seg", *run, "--training.epochs", "1")
    tool("train_seg", *run, "--training.epochs", "2", "--resume")
    tool("predict", "--checkpoint", "run", "--input", str(data / "images"), "--output", "out")
    assert len(list((folder / "out").glob("*.png"))) == 6
    tool("check_data", str(data))
    tool("evaluate", "--checkpoint", "run", "--split", "test")
