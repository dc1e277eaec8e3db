import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from accelerate import cpu_offload
from torch import nn

import kanseg
from kanseg.bases.wavelet import Wavelet
from kanseg.layers import KANConv2d, finetune, fuse, update_grids
from kanseg.layers.activation import KANActivation
from kanseg.models import ClassificationModel, SegmentationModel
from kanseg.training.processes import make_accelerator
from kanseg.utils.errors import InputError


def unet(**options):
    return kanseg.create_model("unet", classes=3, width=3, depth=1, **options)


@pytest.mark.parametrize(
    "model",
    [
        unet(basis="bspline", grid_size=7, stem=None),
        unet(aux_params={"classes": 4}),
        unet(basis="bspline", grid_size=2, share="edge", refined={"grid_size": 4}, stem=None),
        unet(basis="gram", degree=2, refined={"degree": 4}),
        kanseg.create_classifier("vggkan11", width=2, basis="gram", refined={"degree": 4}),
        kanseg.create_classifier(
            "vggkan11", in_channels=1, width=2, head="kan", basis="chebyshev", degree=2
        ),
        kanseg.create_encoder("ukanet_18", in_channels=4, width=2, depth=2),
    ],
    ids=lambda m: type(m).__name__,
)
def test_a_folder_gives_the_same_network_back(tmp_path, model):
    channels = model.description[next(k for k in model.description if k != "kanseg")]["in_channels"]
    model.save_pretrained(tmp_path / "net")
    assert {f.name for f in (tmp_path / "net").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    loaded = kanseg.from_pretrained(tmp_path / "net")
    assert type(loaded) is type(model)
    assert not loaded.training
    x = torch.randn(2, channels, 20, 21)
    torch.testing.assert_close(loaded(x), model.eval()(x), rtol=0, atol=0)


def test_class_names_go_along(tmp_path):
    model = unet()
    model.class_names = ("sea", "land", "lake")
    model.save_pretrained(tmp_path)
    assert kanseg.from_pretrained(tmp_path).class_names == ("sea", "land", "lake")


def test_the_class_checks_what_it_loads(tmp_path):
    unet().save_pretrained(tmp_path)
    assert isinstance(SegmentationModel.from_pretrained(tmp_path), SegmentationModel)
    with pytest.raises(TypeError, match="holds a SegmentationModel, not a ClassificationModel"):
        ClassificationModel.from_pretrained(tmp_path)


def test_saving_again_what_was_loaded_loses_nothing(tmp_path):
    unet(degree=5).save_pretrained(tmp_path / "a")
    kanseg.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert (tmp_path / "a" / "config.json").read_text() == (
        tmp_path / "b" / "config.json"
    ).read_text()


@pytest.mark.parametrize(
    "build",
    [
        lambda **options: unet(**options),
        lambda **options: kanseg.create_classifier("simple_kan_4", width=2, head="kan", **options),
        lambda **options: kanseg.create_encoder("ukanet_18", width=2, depth=2, **options),
        lambda **options: kanseg.create_model(
            "unet", encoder="ukanet_18", encoder_depth=2, encoder_options={"width": 2}, **options
        ),
    ],
)
def test_a_network_stored_before_functions_were_shared_has_those_of_each_edge(tmp_path, build):
    """Its description does not tell whose functions they are."""
    net = build(share="edge").eval()
    net.save_pretrained(tmp_path)
    description = json.loads((tmp_path / "config.json").read_text())
    arguments = next(value for value in description.values() if isinstance(value, dict))
    assert arguments.pop("share") == "edge"
    (tmp_path / "config.json").write_text(json.dumps(description))
    loaded = kanseg.from_pretrained(tmp_path)
    x = torch.randn(2, 3, 20, 21)
    torch.testing.assert_close(loaded(x), net(x), rtol=0, atol=0)
    assert loaded.description == net.description
    loaded.save_pretrained(tmp_path / "again")
    torch.testing.assert_close(kanseg.from_pretrained(tmp_path / "again")(x), net(x))


def test_a_plain_network_is_stored_without_a_word_on_functions(tmp_path):
    net = unet(basis="none")
    net.save_pretrained(tmp_path)
    assert "share" not in kanseg.from_pretrained(tmp_path).description["model"]


def test_nothing_is_downloaded_unless_asked(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "kanseg.utils.hub.snapshot_download",
        lambda name, **options: asked.append(options) or str(tmp_path),
    )
    unet().save_pretrained(tmp_path)
    kanseg.from_pretrained("some/net")
    kanseg.from_pretrained("some/net", download=True)
    assert [options["local_files_only"] for options in asked] == [True, False]


def test_a_network_in_the_hubs_cache_is_found_without_the_hub(tmp_path):
    """The cache's own layout, as a download leaves it."""
    commit = "0" * 40
    root = tmp_path / "models--some--net"
    unet().save_pretrained(root / "snapshots" / commit)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    assert isinstance(kanseg.from_pretrained("some/net", cache_dir=tmp_path), SegmentationModel)


def test_push_to_hub_uploads_what_save_pretrained_writes(tmp_path, monkeypatch):
    uploaded = []
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "create_repo",
        lambda self, repo_id, **_: type("Repo", (), {"repo_id": repo_id}),
    )
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "upload_folder",
        lambda self, folder_path, **_: uploaded.extend(f.name for f in Path(folder_path).iterdir()),
    )
    unet().push_to_hub("some/net")
    assert set(uploaded) == {"config.json", "model.safetensors", "README.md"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"short"), "cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{"), "damaged"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
            "config.json does not describe",
        ),
        (lambda folder: change(folder, width=4), "does not fit the network"),
        (lambda folder: change(folder, widht=4), "did you mean 'width'"),
    ],
)
def test_faults_are_named(tmp_path, spoil, message):
    unet().save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        kanseg.from_pretrained(tmp_path)


def change(folder, **options):
    description = json.loads((folder / "config.json").read_text())
    description["model"] |= options
    (folder / "config.json").write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("name", "message"), [("nobody/nothing", "download=True"), ("a/b/c/d", "not a name on the hub")]
)
def test_a_name_that_is_nowhere_is_an_error(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        kanseg.from_pretrained(name, cache_dir=tmp_path)


def test_only_what_the_factory_made_can_be_stored(tmp_path):
    with pytest.raises(ValueError, match="not a plain value"):
        unet(norm=torch.nn.BatchNorm2d).save_pretrained(tmp_path)
    net = unet()
    with pytest.raises(ValueError, match="kanseg.create_model"):
        ClassificationModel(net.encoder, classes=2, linear=None).save_pretrained(tmp_path)


def test_loading_runs_no_code(tmp_path):
    """A description can name networks and plain values only."""
    unet().save_pretrained(tmp_path)
    trace = tmp_path / "trace"
    change(tmp_path, norm=f"__import__('pathlib').Path({str(trace)!r}).touch()")
    with pytest.raises(InputError, match="unknown norm"):
        kanseg.from_pretrained(tmp_path)
    assert not trace.exists()


def test_an_encoder_of_other_channels_is_stored_as_such(tmp_path):
    encoder = kanseg.create_encoder("ukanet_18", width=2, depth=1)
    encoder.set_in_channels(4)
    encoder.save_pretrained(tmp_path)
    assert kanseg.from_pretrained(tmp_path)(torch.randn(1, 4, 8, 8))[0].shape[1] == 2


def dilate(net):
    net.encoder.make_dilated(8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dilate, "make_dilated"),
        (lambda net: finetune(net, rank=2), "fine-tuned"),
        (lambda net: fuse(finetune(net, extra_degrees=1)), "built as"),
        (lambda net: net.encoder.set_in_channels(1), "built as"),
        (lambda net: setattr(net, "class_names", ("a", "b")), "3 classes, but 2 names"),
    ],
)
def test_what_a_description_cannot_tell_is_refused_and_the_folder_left_as_it_was(
    tmp_path, change, message
):
    options = {"classes": 3, "width": 2, "depth": 4}
    kanseg.create_model("unet", **options).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    net = kanseg.create_model("unet", **options)
    change(net)
    with pytest.raises(InputError, match=message):
        net.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_options_changed_after_building_are_not_stored(tmp_path):
    options = {"heads": 2}
    net = kanseg.create_model("unet", width=8, depth=1, mixer="attention", mixer_options=options)
    options["heads"] = 4
    net.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model"]["mixer_options"] == {
        "heads": 2
    }


def test_another_format_is_refused(tmp_path):
    unet().save_pretrained(tmp_path)
    description = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(description | {"kanseg": 2}))
    with pytest.raises(InputError, match="format 2"):
        kanseg.from_pretrained(tmp_path)


def first(net, kind):
    return next(m for m in net.modules() if isinstance(m, kind))


def replace_activations(net):
    for module in net.modules():
        if isinstance(module, KANConv2d):
            module.activation = nn.ReLU()


def replace_forward(net):
    inner = net.segmentation_head.forward
    net.segmentation_head.forward = lambda *x: inner(*x) * 2


CHANGED = [
    (lambda net: setattr(first(net, KANConv2d).base_activation, "__class__", nn.GELU), "GELU"),
    (lambda net: setattr(first(net, nn.BatchNorm2d), "eps", 0.1), "eps=0.1"),
    (lambda net: setattr(first(net, Wavelet), "wavelet", "morlet"), "wavelet='morlet'"),
    (lambda net: setattr(first(net, Wavelet), "domain", "tanh"), "domain='tanh'"),
    (lambda net: setattr(first(net, nn.Conv2d), "dilation", (2, 2)), "dilation"),
    (lambda net: setattr(first(net, nn.Conv2d), "padding_mode", "reflect"), "padding_mode"),
    (lambda net: setattr(first(net, KANConv2d), "norm", nn.Identity()), "built as"),
    (replace_forward, "forward was replaced"),
]


def remove_activation(net):
    first(net, KANConv2d).activation = nn.Identity()


OF_EDGES = [(replace_activations, "ReLU"), (remove_activation, "Identity")]
SHARED = [
    (replace_activations, "activation.weight: None"),
    (remove_activation, "activation.weight: None"),
    (lambda net: setattr(first(net, KANActivation), "base", nn.ReLU()), "ReLU"),
    (lambda net: setattr(first(net, KANActivation), "base", None), "SiLU"),
    (lambda net: setattr(first(net, KANActivation), "share", "layer"), "share='layer'"),
]


@pytest.mark.parametrize(
    ("share", "change", "message"),
    [
        *(("edge", *case) for case in (*CHANGED, *OF_EDGES)),
        *(("channel", *case) for case in (*CHANGED, *SHARED)),
    ],
)
def test_a_network_that_computes_another_function_than_its_description_is_refused(
    tmp_path, share, change, message
):
    net = kanseg.create_model("unet", width=2, depth=2, basis="wavelet", share=share)
    change(net)
    with pytest.raises(InputError, match=message):
        net.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.train(),
        lambda net: setattr(first(net, nn.BatchNorm2d), "momentum", 0.01),
        lambda net: setattr(net, "epoch", 3),
        nn.SyncBatchNorm.convert_sync_batchnorm,
        lambda net: make_accelerator("bf16").prepare(net),
        lambda net: first(net, KANConv2d).register_forward_hook(lambda *_: None),
    ],
)
def test_what_does_not_change_the_function_is_stored(tmp_path, change):
    net = unet(basis="wavelet")
    change(net)
    net.save_pretrained(tmp_path)
    x = torch.randn(1, 3, 12, 12)
    loaded = kanseg.from_pretrained(tmp_path)
    for module in (net, loaded):
        module.eval()
    torch.testing.assert_close(loaded(x), net(x).float(), rtol=0.1, atol=0.1)


def test_offloaded_weights_are_refused(tmp_path):
    net = unet(basis="gram")
    cpu_offload(net, execution_device=torch.device("cpu"))
    with pytest.raises(InputError, match="built|meta"):
        net.save_pretrained(tmp_path)


def test_an_adapted_grid_is_stored(tmp_path):
    net = unet(basis="bspline").eval()
    x = torch.randn(2, 3, 12, 12)
    update_grids(net, 3 * x)
    net.save_pretrained(tmp_path)
    torch.testing.assert_close(kanseg.from_pretrained(tmp_path)(x), net(x), rtol=0, atol=0)
