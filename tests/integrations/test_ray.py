"""Prediction by actors of Ray Data. Ray takes half a minute to start: slow, but for what needs none
of it.
"""

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from conftest import write_segmenter
from kanseg.inference import Outputs, find_jobs, open_predictor, predict_files
from kanseg.inference.files.record import journal_path, read_journal
from kanseg.integrations import ray as integration
from kanseg.utils.errors import InputError
from kanseg.utils.io import temporary_beside

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_segmenter(tmp_path_factory.mktemp("ray") / "best")


def make_images(folder, count):
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:04d}.png")
    return folder


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")
    }


def test_a_batch_of_rows_is_predicted_as_one_process_predicts_it(checkpoint, tmp_path):
    folder = make_images(tmp_path / "in", 5)
    (folder / "0003.png").write_bytes(b"no image")
    jobs, _ = find_jobs(str(folder))
    predict_files(open_predictor(checkpoint), jobs, tmp_path / "one", log=lambda line: None)
    predict = integration.FilePredictor([str(checkpoint)], str(tmp_path / "ray"))
    batch = {"path": [str(job.path) for job in jobs], "name": [job.name for job in jobs]}
    lines = [json.loads(line) for line in predict(batch)["result"]]
    assert files(tmp_path / "ray") == files(tmp_path / "one")
    expected = list(read_journal(journal_path(tmp_path / "one")))
    for line in (*lines, *expected):
        line.pop("time")
        line.pop("seconds", None)
    assert sorted(lines, key=str) == sorted(expected, key=str)
    keep = integration.FilePredictor([str(checkpoint)], str(tmp_path / "ray"), skip_existing=True)
    again = [json.loads(line) for line in keep(batch)["result"]]
    assert sorted(line["skipped"] for line in again if "skipped" in line) == [
        "0000.png",
        "0001.png",
        "0002.png",
        "0004.png",
    ]


def test_annotations_of_all_images_are_refused(checkpoint, tmp_path):
    with pytest.raises(InputError, match="--skip_existing"):
        integration.predict_files(
            checkpoint, [tmp_path / "a.png"], tmp_path / "out", outputs=Outputs(polygons="coco")
        )


@pytest.fixture(scope="module")
def cluster():
    """A local Ray of two processors, whose actors find this checkout."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    yield ray
    ray.shutdown()


def kill_an_actor(output, count):
    """Kill one of the actors when `count` masks are written; returns its process number."""
    while len(list(output.glob("*.png"))) < count:
        time.sleep(0.05)
    for process in psutil.Process().children(recursive=True):
        if "MapWorker" in " ".join(process.cmdline()) or "MapWorker" in process.name():
            process.send_signal(signal.SIGKILL)
            # What it may have been writing.
            temporary_beside(output / "0000.png", ".png").write_bytes(b"half")
            return process.pid
    return None


@pytest.mark.slow
def test_actors_write_what_one_process_writes_also_if_one_is_killed(checkpoint, cluster, tmp_path):
    count = 1000
    jobs, _ = find_jobs(str(make_images(tmp_path / "in", count)))
    predict_files(open_predictor(checkpoint), jobs, tmp_path / "one")
    killed = []
    killer = threading.Thread(
        target=lambda: killed.append(kill_an_actor(tmp_path / "ray", count // 4))
    )
    killer.start()
    summary = integration.predict_files(checkpoint, jobs, tmp_path / "ray", actors=2)
    killer.join()
    assert killed[0] is not None
    assert (len(summary.written), summary.failed) == (count, [])
    assert files(tmp_path / "ray") == files(tmp_path / "one")
    lines = list(read_journal(journal_path(tmp_path / "ray")))
    assert sorted(line["input"] for line in lines) == [str(job.path) for job in jobs]
    records = [(tmp_path / name / "prediction.json").read_text() for name in ("one", "ray")]
    assert records[0] == records[1]


@pytest.mark.slow
def test_the_block_of_the_guide_runs(checkpoint, cluster, tmp_path, monkeypatch):
    text = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    code = text.partition("## Ray")[2].partition("```python\n")[2].partition("```")[0]
    make_images(tmp_path / "my_set" / "images", 5)
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    (tmp_path / "runs" / "quickstart" / "best").symlink_to(checkpoint)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "integrations.md", "exec"), {})
    assert len(list((tmp_path / "masks").glob("*.png"))) == 5
