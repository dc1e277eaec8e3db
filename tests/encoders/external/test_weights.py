"""Pretrained weights: found, read, loaded; nothing is downloaded here."""

import json
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import kanseg
from kanseg.encoders import (
    external_encoder,
    find_encoder_weights,
    full_encoder_name,
    stored_statistics,
)
from kanseg.utils.errors import InputError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    def refuse(*arguments, **named):
        raise AssertionError("a test reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def theirs():
    """A classifier of timm, with running statistics as no new one has them."""
    import timm

    model = timm.create_model("test_resnet")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return model.eval()


@pytest.fixture
def file(tmp_path, theirs):
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def in_cache(tmp_path, repo, files, revision="0" * 40):
    """Files of a repository as the hub's cache has them."""
    folder = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    (folder / "snapshots" / revision).mkdir(parents=True)
    for name, write in files.items():
        write(folder / "snapshots" / revision / name)


def features(model, x):
    with torch.no_grad():
        return model.eval()(x)


def their_features(theirs, x):
    with torch.no_grad():
        return theirs.forward_intermediates(x, intermediates_only=True)


# -- loading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["file", "folder", "torch", "nested"])
def test_a_local_file_of_timm_gives_its_features(tmp_path, file, theirs, form):
    weights = {"file": file, "folder": tmp_path}.get(form, tmp_path / "their.pth")
    if form == "torch":
        torch.save(theirs.state_dict(), weights)
    elif form == "nested":  # as training code saves it
        state = {f"module.{name}": value for name, value in theirs.state_dict().items()}
        torch.save({"epoch": 3, "state_dict": state}, weights)
    x = torch.randn(1, 3, 64, 64)
    encoder = external_encoder("timm-test_resnet", weights=weights)
    torch.testing.assert_close(features(encoder, x)[1:], their_features(theirs, x))


def test_a_local_file_of_smp_gives_its_features(tmp_path):
    import segmentation_models_pytorch as smp

    theirs = smp.encoders.get_encoder("mobileone_s0", weights=None).eval()
    state = {f"encoder.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({**state, "segmentation_head.0.weight": torch.ones(1)}, tmp_path / "smp.pth")
    encoder = external_encoder("smp-mobileone_s0", weights=str(tmp_path / "smp.pth"))
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(features(encoder, x), features(theirs, x))


def test_a_transformer_is_loaded_by_the_rules_of_timm(tmp_path):
    """Position embeddings of another size are resampled."""
    import timm

    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    encoder = external_encoder("timm-test_vit", weights=tmp_path / "vit.pth", img_size=64)
    small = timm.create_model(
        "test_vit",
        img_size=64,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "vit.pth")},
    )
    own = encoder.body.model.state_dict()
    assert own["pos_embed"].shape[1] == 1 + 16
    for name, value in own.items():
        assert torch.equal(value, small.state_dict()[name]), name


@pytest.mark.parametrize("name", ["timm-test_resnet", "smp-mobileone_s0"])
def test_a_gray_image_gives_the_features_of_the_same_image_in_colors(tmp_path, name):
    color = external_encoder(name, depth=2).eval()
    body = {f"encoder.{key}": value for key, value in color.body.state_dict().items()}
    torch.save(body, tmp_path / "color.pth")
    x = torch.randn(1, 1, 32, 32)
    gray = external_encoder(name, 1, depth=2, weights=tmp_path / "color.pth")
    expected = features(color, x.expand(-1, 3, -1, -1))[1:]
    torch.testing.assert_close(features(gray, x)[1:], expected, rtol=1e-3, atol=1e-4)


def test_a_trained_network_passes_on_its_encoder(tmp_path):
    """With what stands between a transformer and the decoder."""
    options = {"encoder": "tu-test_vit", "encoder_depth": 3, "basis": "none"}
    first = kanseg.create_model("unet", classes=3, **options)
    first.save_pretrained(tmp_path)
    second = kanseg.create_model("unet", encoder_weights=tmp_path, **options)
    for name, value in first.encoder.state_dict().items():
        assert torch.equal(second.encoder.state_dict()[name], value), name
    with pytest.raises(InputError, match="does not fit"):
        external_encoder("timm-test_resnet", weights=tmp_path)


@pytest.mark.parametrize("name", ["timm-test_resnet", "smp-mobileone_s0"])
def test_what_a_file_lacks_is_named(tmp_path, file, theirs, name):
    state = dict(theirs.state_dict())
    del state["layer2.0.conv1.weight"]
    torch.save(state, tmp_path / "their.pth")
    match = "layer2.0.conv1.*missing" if name.startswith("timm") else "not fit"
    with pytest.raises(InputError, match=match):
        external_encoder(name, weights=tmp_path / "their.pth")
    # layers behind the last feature are not needed
    behind = {key: value for key, value in theirs.state_dict().items() if "layer4" not in key}
    torch.save(behind, tmp_path / "their.pth")
    external_encoder("timm-test_resnet", depth=4, weights=tmp_path / "their.pth")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("timm-resnet10t", r"'resnet10t': it has \d+ tensors"),
        ("timm-test_convnext", r"expected \d+ tensors.*stem.*missing"),
        ("smp-resnet18", r"conv1\.weight of shape \(64, 3, 7, 7\), which is missing"),
    ],
)
def test_weights_of_another_encoder_are_described_in_three_lines(file, caplog, name, expected):
    """Found, expected, how to fix it; without lists of tensors, also in the log of timm."""
    with pytest.raises(InputError, match=expected) as error:
        external_encoder(name, weights=file)
    found, _, fix = str(error.value).splitlines()
    assert str(file) in found
    assert name.partition("-")[2] in fix
    assert len(str(error.value)) < 600 + len(str(file))
    assert not caplog.records


def test_a_tensor_of_another_shape_is_named_with_both(tmp_path, theirs):
    state = dict(theirs.state_dict())
    state["layer1.0.conv1.weight"] = torch.zeros(5, 4, 3, 3)
    torch.save(state, tmp_path / "their.pth")
    shape = tuple(theirs.state_dict()["layer1.0.conv1.weight"].shape)
    with pytest.raises(InputError, match=r"layer1\.0\.conv1") as error:
        external_encoder("timm-test_resnet", weights=tmp_path / "their.pth")
    assert str(shape) in str(error.value)
    assert "(5, 4, 3, 3) there" in str(error.value)


def test_files_that_hold_no_weights_are_refused(tmp_path, theirs):
    broken = {"weight": torch.full((2,), torch.nan)}
    save_file(broken, tmp_path / "nan.safetensors")
    torch.save(theirs, tmp_path / "module.pth")  # a pickle of objects
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "folder").mkdir()
    for name, reason in [
        ("nan.safetensors", "NaN"),
        ("module.pth", "state dict"),
        ("empty.pth", "no tensors"),
        ("text.pth", "cannot be read"),
        ("folder", "model.safetensors"),
        ("absent.pth", "no file or folder"),
    ]:
        with pytest.raises(InputError, match=reason):
            external_encoder("timm-test_resnet", weights=tmp_path / name)


# -- the hub and names --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "weights", "repo"),
    [
        ("smp-resnet18", "imagenet", "smp-hub/resnet18.imagenet"),
        ("timm-resnet18", True, "timm/resnet18.a1_in1k"),
        ("timm-resnet18", "imagenet", "timm/resnet18.a1_in1k"),
        ("timm-resnet18", "fb_ssl_yfcc100m_ft_in1k", "timm/resnet18.fb_ssl_yfcc100m_ft_in1k"),
        ("timm-vit_small_patch16_dinov3.lvd1689m", True, "timm/vit_small_patch16_dinov3.lvd1689m"),
        ("smp-tu-resnet18.a1_in1k", True, "timm/resnet18.a1_in1k"),
        ("timm-resnet18", "someone/weights", "someone/weights"),
    ],
)
def test_what_cannot_be_reached_is_named_with_the_way_to_bring_it(name, weights, repo):
    with pytest.raises(InputError, match=rf"huggingface.co/{repo} .*hf download {repo} ") as error:
        find_encoder_weights(name, weights)
    assert "--local-dir FOLDER" in str(error.value)


def test_a_file_at_an_address_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: (_ for _ in ()).throw(OSError("x")))
    with pytest.raises(InputError, match=r"IN1K-vit.*https://dl\.fbaipublicfiles.*elsewhere"):
        find_encoder_weights("timm-vit_huge_patch14_gap_224", "in1k_ijepa")


def test_the_cache_of_the_hub_is_enough(tmp_path, theirs):
    def write_config(path):
        cfg = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.5, 1.0], "input_size": [3, 9, 9]}
        path.write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": cfg}))

    files = {"pytorch_model.bin": lambda path: torch.save(theirs.state_dict(), path)}
    in_cache(tmp_path, "some/weights", files | {"config.json": write_config})
    found = find_encoder_weights("timm-test_resnet", "some/weights")
    assert (found.statistics.mean, found.statistics.std) == ((0.5, 0.5, 0.5), (0.25, 0.5, 1.0))
    x = torch.randn(1, 3, 32, 32)
    encoder = external_encoder("timm-test_resnet", weights="some/weights")
    torch.testing.assert_close(features(encoder, x)[1:], their_features(theirs, x))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("r160_in1", "did you mean 'r160_in1k'"),
        (False, "no weights False"),
        ("hf-hub:some/weights", "no weights"),
        ("./absent", "no file or folder"),
    ],
)
def test_unknown_weights_are_answered_with_the_known_ones(weights, message):
    with pytest.raises(InputError, match=message):
        find_encoder_weights("timm-test_resnet", weights)


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("unet", "unet"),
        ("resnet18", "smp-resnet18"),
        ("mit_b0", "smp-mit_b0"),
        ("tu-resnet18", "timm-resnet18"),
        ("tu-resnet18.a1_in1k", "timm-resnet18.a1_in1k"),
        ("test_vit", "timm-test_vit"),
        ("smp-resnet18", "smp-resnet18"),
        ("timm-resnet18", "timm-resnet18"),
    ],
)
def test_names_are_those_that_people_know(name, full):
    assert full_encoder_name(name) == full


@pytest.mark.parametrize(
    ("name", "guess"),
    [("rsnet18", "resnet18"), ("ukanet18", "ukanet_18"), ("tu-convnext_atoo", "convnext_atto")],
)
def test_the_nearest_name_is_suggested(name, guess):
    with pytest.raises(ValueError, match=f"did you mean '{guess}'"):
        kanseg.create_model("unet", encoder=name)


def test_networks_that_take_no_other_encoder_name_those_that_do():
    with pytest.raises(ValueError, match="unet.*ukanet_50|ukanet_50.*unet"):
        kanseg.create_model("u2kanet", encoder="test_vit")


# -- statistics -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"mean": [0.5], "std": [2]}, ((0.5,), (2.0,))),
        ({"preprocess": {"mean": [0.1, 0.2], "std": [1, 1]}}, ((0.1, 0.2), (1.0, 1.0))),
        ({"mean": [51.0], "std": [255], "input_range": [0, 255]}, ((0.2,), (1.0,))),
        ({"mean": [0.5], "std": [0]}, None),
        ({"mean": [0.5], "std": [1, 1]}, None),
        ({"mean": "0.5", "std": [1]}, None),
        ({"mean": [float("nan")], "std": [1]}, None),
        ({}, None),
        ([], None),
    ],
)
def test_statistics_are_read_from_what_lies_beside_the_weights(content, expected):
    found = stored_statistics(content, "config.json")
    assert (found and (found.mean, found.std)) == expected


def test_images_in_bgr_are_not_fed():
    with pytest.raises(InputError, match="BGR"):
        stored_statistics({"mean": [0.5], "std": [1], "input_space": "BGR"}, Path("config.json"))


def test_a_file_alone_has_the_statistics_of_its_library(file, tmp_path):
    found = find_encoder_weights("timm-test_resnet", file)
    assert found.statistics.mean == (0.5, 0.5, 0.5)
    found = find_encoder_weights("smp-resnet18", file)
    assert (found.statistics.mean, found.statistics.std) == IMAGENET
