"""Nothing asks the network: not at import, and not in training, prediction or the checks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import make_folder

ROOT = Path(__file__).parents[1]
CUT = """
import socket

def refuse(*arguments, **named):
    raise SystemExit(f"reached for the network: {arguments}")

connect = socket.socket.connect

def connect_here(self, address):
    if self.family != socket.AF_UNIX:
        refuse(address)
    return connect(self, address)

socket.socket.connect = socket.socket.connect_ex = connect_here
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
"""
WORK = """
import runpy
import sys

import kanseg
import kanseg.benchmark, kanseg.export, kanseg.inference, kanseg.training.run
import kanseg.integrations.smp, kanseg.integrations.timm, kanseg.integrations.torchvision

def tool(name, *words):
    sys.argv = [name, *words]
    try:
        runpy.run_path(f"{sys.path[0]}/tools/{name}.py", run_name="__main__")
    except SystemExit as end:
        assert not end.code, (name, end.code)

sys.path.insert(0, sys.argv[1])
data = sys.argv[2]
tool("check_data", data)
tool(
    "train_seg", "--data.root", data, "--data.resize", "[32, 32]", "--data.workers", "0",
    "--model.options", "{width: 4, depth: 2}", "--training.epochs", "1", "--run_dir", "run",
)
tool("predict", "--checkpoint", "run", "--input", f"{data}/images", "--output", "out")
tool("evaluate", "--checkpoint", "run", "--split", "test")
kanseg.create_model("unet", encoder="smp-resnet18")
kanseg.create_model("unet", encoder="timm-test_resnet").save_pretrained("stored")
kanseg.from_pretrained("stored")
print("all done")
"""


def work(folder, script, *before):
    data = make_folder(folder / "set", scale=255)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "KANSEG_CACHE": str(folder / "cache")}
    environment |= {"HOME": str(folder), "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*before, sys.executable, "-c", script, str(ROOT), str(data)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "all done" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_nothing_reaches_for_the_network(tmp_path):
    work(tmp_path, CUT + WORK)


@pytest.mark.slow
def test_everything_works_with_the_network_cut(tmp_path):
    """In a network namespace of its own, which has no way out."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"]).returncode:
        pytest.skip("unshare -rn is not allowed here")
    work(tmp_path, WORK, unshare, "-rn")
