"""Runs that began when functions of each edge were the default, and their checkpoints did not tell
it.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import kanseg
from kanseg.inference.checkpoint import read_weights
from kanseg.layers.regularization import kan_layers
from kanseg.training.run import train
from kanseg.training.run_folder.resume import step_folders
from kanseg.utils.errors import InputError


def shares(net):
    return {layer.share for layer in kan_layers(net)}


def without(text, name):
    """JSON or YAML settings without the setting of a model that has this name, and without those of
    functions in training.
    """
    settings = yaml.safe_load(text)
    model = settings["model"]
    (model if name in model else model["options"]).pop(name)
    for key in ("function_lr", "function_decay"):
        settings.get("training", {}).pop(key, None)
    return settings


def as_before(folder):
    """Take `share` out of a checkpoint, and seal it anew."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, dump in (("model.json", json.dumps), ("config.yaml", yaml.safe_dump)):
        data = dump(without((folder / name).read_text(), "share")).encode()
        (folder / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        manifest["files"][name] = {"size": len(data), "sha256": digest}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def options():
    return {"width": 4, "depth": 1}


@pytest.fixture
def before(config, options):
    """The settings of a run of one epoch, of two, that began then."""
    training = replace(config.training, epochs=2, report=False)
    edges = replace(config.model, options=options | {"share": "edge"})
    train(replace(config, model=edges, training=replace(training, epochs=1)))
    run = Path(config.run_dir)
    for folder in (*step_folders(run), run / "best"):
        as_before(folder)
    settings = without((run / "config.yaml").read_text(), "share")
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    return replace(config, model=replace(config.model, options=options), training=training)


def test_a_checkpoint_loads_with_functions_of_each_edge(before):
    run = Path(before.run_dir)
    net = kanseg.from_pretrained(run)
    assert shares(net) == {"edge"}
    assert net.description["model"]["share"] == "edge"
    for name, value in read_weights(run / "best").items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=0, atol=0)
    assert shares(kanseg.load(str(run)).model) == {"edge"}


def test_a_resumed_run_keeps_functions_of_each_edge_and_stores_that_from_then_on(before):
    train(before, resume=True)
    newest = max(step_folders(Path(before.run_dir)))
    assert json.loads((newest / "model.json").read_text())["model"]["share"] == "edge"
    assert shares(kanseg.from_pretrained(newest)) == {"edge"}


def test_a_new_run_of_the_same_settings_shares_functions(before):
    train(before, overwrite=True)
    assert shares(kanseg.from_pretrained(before.run_dir)) == {"channel"}
    description = json.loads((Path(before.run_dir) / "best" / "model.json").read_text())
    assert description["model"]["share"] == "channel"


def test_functions_cannot_change_in_the_middle_of_a_run(before):
    other = replace(before.model, options=before.model.options | {"share": "channel"})
    with pytest.raises(InputError, match="share"):
        train(replace(before, model=other), resume=True)
