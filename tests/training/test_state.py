import io
import json
import pickle
import zipfile
from dataclasses import asdict

import pytest
import torch

from kanseg.training.optim.lr_scheduler import PlateauState
from kanseg.training.run_folder.stored_state import check_tensors, read_training
from kanseg.training.state import Progress
from kanseg.utils.errors import InputError


@pytest.fixture
def optimizer():
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer


@pytest.fixture
def content(optimizer):
    return {
        "optimizer": optimizer.state_dict(),
        "average": {},
        "scaler": {},
        "generators": [{"cpu": torch.get_rng_state(), "cuda": [], "loss_sum": 0.5}],
    }


def write(folder, content, state=None):
    (folder / "state.json").write_text(json.dumps(asdict(state or Progress())))
    torch.save(content, folder / "training.pt")
    return folder


def test_what_was_saved_comes_back(tmp_path, content, optimizer):
    progress = Progress(epoch=2, batch=3, step=9, best=0.5, layout=[12, 2, 1, 1])
    progress.lr_scheduler.scale = 0.5
    state, tensors = read_training(write(tmp_path, content, progress))
    assert Progress.from_json(state) == progress
    check_tensors(tensors, optimizer)
    stored = tensors["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(stored, content["optimizer"]["state"][0]["exp_avg"])


def test_the_state_of_an_older_run_is_read():
    stored = asdict(Progress(step=3))
    del stored["lr_scheduler"]
    stored["stand"] = {"scale": 0.25, "stale": 2}
    assert Progress.from_json(stored) == Progress(step=3, lr_scheduler=PlateauState(0.25, 2))
    with pytest.raises(InputError, match="scale"):
        Progress.from_json(stored | {"stand": {"scale": None}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": "x"}, "step: expected int"),
        ({"step": 2**70}, "step: expected int"),
        ({"epoch": True}, "epoch: expected int"),
        ({"log_bytes": -5}, "below 0"),
        ({"best": "good"}, "best: expected"),
        ({"lr_scheduler": 5}, "lr_scheduler"),
        ({"lr_scheduler": {"scale": None}}, "scale"),
        ({"layout": [1, 2]}, "layout"),
        ({"layout": [8, 2, 1, 1], "batch": 10**9}, "beyond the end"),
        ({"other": 1}, "unknown entry"),
    ],
)
def test_numbers_that_no_run_comes_to_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        Progress.from_json(asdict(Progress()) | change)


class Evil:
    def __reduce__(self):
        return eval, ("1 / 0",)


def damaged(good):
    """Name -> bytes that stand in training.pt."""
    compressed, entries = io.BytesIO(), zipfile.ZipFile(io.BytesIO(good))
    with zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in entries.namelist():
            archive.writestr(name, entries.read(name))
    evil, old = io.BytesIO(), io.BytesIO()
    torch.save(Evil(), evil)
    torch.save({"a": torch.ones(1)}, old, _use_new_zipfile_serialization=False)
    return {
        "empty": b"",
        "half": good[: len(good) // 2],
        "text": b"hello" * 99,
        "a pickle": pickle.dumps(Evil()),
        "a pickle in a zip": evil.getvalue(),
        "torch's old form": old.getvalue(),
        "compressed": compressed.getvalue(),
    }


@pytest.mark.parametrize(
    "kind",
    ["empty", "half", "text", "a pickle", "a pickle in a zip", "torch's old form", "compressed"],
)
def test_damaged_tensors_are_refused(tmp_path, content, kind):
    write(tmp_path, content)
    path = tmp_path / "training.pt"
    path.write_bytes(damaged(path.read_bytes())[kind])
    with pytest.raises(InputError, match="training.pt is damaged"):
        read_training(tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content.pop("optimizer"),
        lambda content: content.update(optimizer=5),
        lambda content: content["optimizer"].pop("state"),
        lambda content: content["optimizer"]["param_groups"].clear(),
        lambda content: content["optimizer"]["param_groups"][0].pop("params"),
        lambda content: content["optimizer"]["param_groups"][0].pop("betas"),
        lambda content: content["optimizer"]["param_groups"][0]["params"].append(2),
        lambda content: content["optimizer"]["state"][0].update(exp_avg=torch.zeros(7)),
        lambda content: content["optimizer"]["state"].update({"x": {}}),
        lambda content: content.update(average=[1]),
        lambda content: content["generators"].clear(),
        lambda content: content["generators"][0].update(cpu=torch.zeros(3)),
        lambda content: content["generators"][0].update(cuda=[torch.zeros(3)]),
        lambda content: content["generators"][0].update(loss_sum="x"),
    ],
)
def test_the_state_of_another_optimizer_is_refused(content, optimizer, spoil):
    """torch would take most of these, and fail at the next step."""
    check_tensors(content, optimizer)
    spoil(content)
    with pytest.raises(InputError):
        check_tensors(content, optimizer)
