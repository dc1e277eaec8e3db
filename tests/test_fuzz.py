"""Damaged and hostile files: whatever stands in one, a reader ends with its own error or a value.

Each reader gets inputs made from a good one by random changes, the same in every run. `-m slow`
runs them, 500 in all; KANSEG_FUZZ=10000 asks for more, and KANSEG_FUZZ_SEED for others.
"""

import base64
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import struct
import traceback
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import yaml
from PIL import Image

from conftest import make_folder
from kanseg.config import Config, DataConfig, ModelConfig, parse_config
from kanseg.data import LabelSpec, Preprocess, open_data
from kanseg.data.io.images import image_mode, read_image, read_mask_values
from kanseg.data.labels import read_label
from kanseg.inference.checkpoint import find_fault, save_checkpoint
from kanseg.inference.description import describe
from kanseg.inference.loading import load_checkpoint
from kanseg.models import create_model
from kanseg.training.run_folder.stored_state import check_tensors, read_training
from kanseg.training.state import Progress
from kanseg.utils.errors import InputError
from kanseg.utils.hub import from_pretrained

pytestmark = pytest.mark.slow

TOTAL = int(os.environ.get("KANSEG_FUZZ", "500"))
SEED = os.environ.get("KANSEG_FUZZ_SEED", "0")
SECONDS = 60  # no input may take as long
MEMORY = 6 * 2**30  # bytes that a reader may ask for in all

TOKENS = [
    *(b"-1", b"0", b"1e999", b".nan", b".inf", b"NaN", b"Infinity", b"null", b"~", b"true", b"no"),
    *(b"[]", b"{}", b'""', b"[" * 3000, b"{a: " * 60, b"9" * 400, b"9" * 5000, b"2001-99-99"),
    *(b"!!int x", b"!!python/object:os.x {}", b"!!binary x", b"!!set {a}", b"!!timestamp y"),
    *(
        b"&a [*a]",
        b"*a",
        b"<<: ",
        b"\xff\xfe",
        b"\x00",
        b"\xed\xa0\x80",
        b'"\\ud800"',
        b"\r",
        b"\t",
    ),
    *(b"%YAML 1.3\n", b"---\n", b"...", b"? ", b"../", b"/", b"\\", b"\x1b[31m", b'"' * 3, b","),
    *(b"18446744073709551616", b"0x" + b"f" * 9000, b"x" * 200_000, b"class_path: os.system"),
]
VALUES = [
    *(None, True, False, 0, 1, -1, 255, 256, 65536, 2**31, 2**63, 2**64, 10**400, -(10**30), 1.5),
    *(float("nan"), float("inf"), -0.0, 1e308, "", "a", "é", "../x", "\x00", "x" * 10_000, "1"),
    *(
        [],
        {},
        [[]],
        [None],
        ["a", "a"],
        [1, 2],
        {"a": 1},
        [[0, 0, 0]],
        "voc",
        "inf",
        "timm-resnet18",
    ),
]


def changed_bytes(data, rng, tokens=True):
    """Flipped bits, cut, moved and inserted parts."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        place = rng.randrange(len(data) + 1)
        end = place + rng.choice((1, 1, 2, 4, 8, 32))
        kind = rng.randrange(7 if tokens else 5)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[place:end]
        elif kind == 2:
            other = rng.randrange(len(data) + 1)
            data[place:place] = data[other : other + rng.randrange(40)]
        elif kind == 3:
            data[place:end] = rng.randbytes(min(end, len(data)) - place)
        elif kind == 4 and rng.random() < 0.3:
            del data[place:]
        elif kind == 5:
            data[place:place] = rng.choice(TOKENS)
        elif kind == 6:
            data[place:end] = rng.choice(TOKENS)
    return bytes(data)


def places_in(tree):
    """(container, key) of every value in nested dicts and lists."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    found = [(tree, key) for key in keys]
    for key in keys:
        if isinstance(tree[key], (dict, list)):
            found += places_in(tree[key])
    return found


def changed_tree(tree, rng, values=VALUES):
    """Values of other types and sizes, keys that are missing, new or renamed."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = places_in(tree)
        if not places:
            return tree
        container, key = rng.choice(places)
        kind = rng.random()
        if kind < 0.7:
            container[key] = deepcopy(rng.choice(values))
        elif kind < 0.85:
            del container[key]
        elif isinstance(container, dict):
            name = str(key)
            new = rng.choice(["", "x", "class_path", "__class__", name + "x", chr(ord("a") + 1)])
            container[new] = container.pop(key)
        else:
            container.append(deepcopy(rng.choice(values)))
    return tree


def changed_json(data, rng):
    """A JSON text with another byte, or another value, in it."""
    if rng.random() < 0.4:
        return changed_bytes(data, rng)
    return json.dumps(changed_tree(json.loads(data), rng)).encode()


def changed_yaml(data, rng):
    if rng.random() < 0.5:
        return changed_bytes(data, rng)
    return yaml.safe_dump(changed_tree(yaml.safe_load(data), rng)).encode("utf-8", "replace")


def seal(folder):
    """A manifest that fits the files, as someone who means harm would write it."""
    files = {}
    for path in folder.iterdir():
        if path.name != "manifest.json":
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            files[path.name] = {"size": path.stat().st_size, "sha256": digest}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))


@contextlib.contextmanager
def bounds():
    """An input that hangs ends in a TimeoutError, one that wants much memory in a MemoryError."""

    def ring(*_):
        raise TimeoutError(f"not done after {SECONDS} s")

    import resource

    with Path("/proc/self/statm").open() as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limit = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, ring)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
        signal.signal(signal.SIGALRM, before)


def fuzz(name, count, make, read):
    """Read `count` inputs; an error that is neither an InputError nor the file system's fails."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux, for the bounds on time and memory")
    accepted, others = 0, {}
    with bounds():
        for i in range(count):
            data = make(random.Random(f"{name} {SEED} {i}"))
            signal.alarm(SECONDS)
            try:
                read(data)
                accepted += 1
            except InputError:
                pass
            except Exception as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}"
                others.setdefault(place, []).append(f"input {i}: {str(error)[:100]!r}")
            finally:
                signal.alarm(0)
    failed = sum(len(inputs) for inputs in others.values())
    report = f"fuzz {name}: {count} inputs, {accepted} accepted, {failed} other errors"
    print(report, flush=True)
    lines = [f"{len(inputs)} x {place}, first {inputs[0]}" for place, inputs in others.items()]
    assert not others, "\n".join(lines)


def opened(**data):
    return open_data(DataConfig(**data), log=lambda line: None)


def share(part):
    """So many of all inputs; `part` in thousandths."""
    return max(1, TOTAL * part // 1000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("fuzz") / "set", scale=255)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small checkpoint with everything in it, and the optimizer of its network."""
    torch.manual_seed(0)
    config = Config(
        data=DataConfig(resize=[32, 32]),
        model=ModelConfig("unet", "bspline", options={"width": 2, "depth": 1}),
    )
    label_spec = LabelSpec("binary", ("background", "gland"), palette=((0, 0, 0), (255, 0, 0)))
    preprocess = Preprocess(3, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5), resize=(32, 32))
    description = describe(config, label_spec, preprocess)
    model = create_model(**description["model"])
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    tensors = {
        "optimizer": optimizer.state_dict(),
        "average": {},
        "scaler": {},
        "generators": [{"cpu": torch.get_rng_state(), "cuda": [], "loss_sum": 0.5}],
    }
    state = asdict(Progress(epoch=1, step=3, best=0.5, best_epoch=1, layout=[6, 2, 1, 1]))
    path = tmp_path_factory.mktemp("run") / "checkpoints" / "step_00000003"
    save_checkpoint(path, model, description, config, state=state, tensors=tensors)
    return path, optimizer


def writer(path, read):
    """Writes an input to the path, and reads it."""

    def write_and_read(data):
        path.write_bytes(data)
        return read()

    return write_and_read


def test_configs(tmp_path):
    small = (
        b"run_dir: runs/a\nseed: 3\ndata:\n  root: x\n  classes: [a, no]\n  mask_values: {0: 0,"
        b" 255: 1}\n  resize: [32, 32]\n  augment:\n  - HorizontalFlip: {p: 0.5}\n  - Affine\n"
        b"model:\n  options: {width: 8}\n  like: {basis: gram}\ntraining:\n  lr: 1e-3\n  loss:"
        b" {ce: 1.0}\n  lr_factors: {'a.*': 0.1}\n  class_weights: balanced\n"
    )
    path = tmp_path / "config.yaml"

    def read(data):
        path.write_bytes(data)
        parse_config(["--config", str(path)])

    fuzz("config", share(20), lambda rng: changed_yaml(small, rng), read)
    whole = Config().to_yaml().encode()

    def from_text(data):
        Config.from_yaml(data.decode("utf-8", "replace"))

    fuzz("config.yaml", share(10), lambda rng: changed_yaml(whole, rng), from_text)


def test_dataset_yaml(folder, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(folder, root)
    good = (
        b"task: binary\nclasses: [background, gland]\nmask_values: {0: 0, 255: 1}\nignore_index:"
        b" 254\npalette: [[0, 0, 0], [255, 0, 0]]\n"
    )

    def read():
        label_spec = opened(root=str(root)).label_spec
        return label_spec.tables, label_spec.colors, label_spec.num_logits

    fuzz(
        "dataset.yaml",
        share(100),
        lambda rng: changed_yaml(good, rng),
        writer(root / "dataset.yaml", read),
    )


def test_split_lists_and_groups(folder, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(folder, root)
    given = {"classes": ["a", "b"], "mask_values": {0: 0, 255: 1}}

    def read():
        return opened(root=str(root), **given).samples("train")

    good = (root / "train.txt").read_bytes()
    path = root / "train.txt"
    fuzz("split list", share(80), lambda rng: changed_bytes(good, rng), writer(path, read))
    for path in root.glob("*.txt"):
        path.unlink()
    groups = b"NAME,GROUP\n" + b"".join(b"p%02d,g%d\n" % (i, i % 4) for i in range(6))
    path = root / "groups.csv"
    fuzz("groups.csv", share(80), lambda rng: changed_bytes(groups, rng), writer(path, read))


def read_all(root, layout):
    data = opened(root=str(root), format=layout)
    for sample in {sample for split in data.splits.values() for sample in split}:
        with contextlib.suppress(InputError):
            read_label(sample, data.label_spec)


def test_labelme(folder, tmp_path):
    shutil.copytree(folder / "images", tmp_path, dirs_exist_ok=True)
    stream = io.BytesIO()
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(stream, format="PNG")
    mask = base64.b64encode(stream.getvalue()).decode()
    shapes = [
        {"shape_type": kind, "points": points, "label": label, "group_id": group, "mask": mask}
        for kind, points, label, group in (
            ("polygon", [[1, 1], [20, 1], [20, 20]], "a", 1),
            ("mask", [[2, 2], [9, 9]], "b", None),
            ("circle", [[9, 9], [9, 14]], "a", 1),
            ("linestrip", [[0, 0], [9, 9], [20, 5]], "__ignore__", None),
        )
    ]
    content = {"version": "5.7.0", "flags": {}, "shapes": shapes, "imageData": None}
    size = {"imageHeight": 32, "imageWidth": 40}
    for number in range(6):
        text = json.dumps(content | size | {"imagePath": f"p{number:02d}.png"})
        (tmp_path / f"p{number:02d}.json").write_text(text)
    path = tmp_path / "p03.json"
    good = path.read_bytes()
    read = writer(path, lambda: read_all(tmp_path, "labelme"))
    fuzz("labelme", share(80), lambda rng: changed_json(good, rng), read)


def test_yolo(folder, tmp_path):
    shutil.copytree(folder / "images", tmp_path / "images" / "train")
    good = b"0 0.1 0.1 0.5 0.1 0.5 0.5\n1 0.2 0.2 0.9 0.2 0.9 0.9 0.2 0.9\n"
    (tmp_path / "labels" / "train").mkdir(parents=True)
    for number in range(6):
        (tmp_path / "labels" / "train" / f"p{number:02d}.txt").write_bytes(good)
    path = tmp_path / "data.yaml"
    table = b"path: ../x\ntrain: images/train\nval: [images/train]\nnames: {0: a, 1: b}\n"
    path.write_bytes(table)
    read = writer(tmp_path / "labels/train/p03.txt", lambda: read_all(tmp_path, "yolo"))
    fuzz("YOLO labels", share(60), lambda rng: changed_bytes(good, rng), read)
    read = writer(path, lambda: read_all(tmp_path, "yolo"))
    fuzz("data.yaml", share(60), lambda rng: changed_yaml(table, rng), read)


def test_label_studio(folder, tmp_path):
    shutil.copytree(folder / "images", tmp_path / "images")
    size = {"original_width": 40, "original_height": 32, "image_rotation": 0}
    # 5120 zeros: the head (values of 8 bits; widths 3, 4, 8 and 16), then one run
    bits = f"{5120:032b}" + "00111" + "0010" + "0011" + "0111" + "1111"
    bits += "111" + f"{5119:016b}" + f"{0:08b}"
    bits += "0" * (-len(bits) % 8)
    rle = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    values = [
        {"points": [[1, 1], [50, 1], [50, 50]], "polygonlabels": ["a"]},
        {"rle": rle, "format": "rle", "brushlabels": ["b"]},
        {"x": 5, "y": 5, "width": 9, "height": 9, "rotation": 3, "rectanglelabels": ["a"]},
        {"x": 5, "y": 5, "radiusX": 9, "radiusY": 9, "ellipselabels": ["a"]},
    ]
    results = [{"id": str(k), "type": "x", "value": each} | size for k, each in enumerate(values)]
    done = {"id": 1, "result": results, "updated_at": "2024", "was_cancelled": False}
    tasks = [
        {"id": i, "data": {"image": f"/data/upload/1/0a1b2c3d-p{i:02d}.png"}, "annotations": [done]}
        for i in range(6)
    ]
    good = json.dumps(tasks).encode()
    read = writer(tmp_path / "export.json", lambda: read_all(tmp_path, "label_studio"))
    fuzz("Label Studio", share(80), lambda rng: changed_json(good, rng), read)


def test_coco(folder, tmp_path):
    shutil.copytree(folder / "images", tmp_path / "images")
    polygon = {"segmentation": [[1, 1, 20, 1, 20, 20.5, 1, 20]], "area": 100, "iscrowd": 0}
    runs = {"segmentation": {"size": [32, 40], "counts": [0, 1280]}, "iscrowd": 1}
    text = {"segmentation": {"size": [32, 40], "counts": "0Pj1"}, "iscrowd": 0}
    content = {
        "images": [
            {"id": i, "file_name": f"p{i:02d}.png", "width": 40, "height": 32} for i in range(6)
        ],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": k, "image_id": k % 6, "category_id": 1 + k % 2, **shape}
            for k, shape in enumerate([polygon, runs, text] * 4)
        ],
    }
    good = json.dumps(content).encode()

    path = tmp_path / "annotations.json"
    read = writer(path, lambda: read_all(tmp_path, "coco"))
    fuzz("coco", share(120), lambda rng: changed_json(good, rng), read)


def test_voc(folder, tmp_path):
    shutil.copytree(folder / "images", tmp_path / "JPEGImages")
    shutil.copytree(folder / "masks", tmp_path / "SegmentationClass")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    good = (folder / "train.txt").read_bytes()

    def read():
        return opened(root=str(tmp_path), format="voc").samples("train")

    fuzz("voc", share(40), lambda rng: changed_bytes(good, rng), writer(lists / "train.txt", read))


def test_manifests(checkpoint, tmp_path):
    shutil.copytree(checkpoint[0], tmp_path / "step")
    path = tmp_path / "step" / "manifest.json"
    good = path.read_bytes()

    def read():
        fault = find_fault(tmp_path / "step")
        assert fault is None or isinstance(fault, str)

    fuzz("manifest", share(120), lambda rng: changed_json(good, rng), writer(path, read))


def test_states(checkpoint, tmp_path):
    step = tmp_path / "step"
    shutil.copytree(checkpoint[0], step)
    path = step / "state.json"
    good = path.read_bytes()

    def read():
        return Progress.from_json(read_training(step)[0])

    fuzz("state.json", share(80), lambda rng: changed_json(good, rng), writer(path, read))


def test_training_states(checkpoint, tmp_path):
    """Damaged bytes, and whole files that hold something else."""
    step = tmp_path / "step"
    shutil.copytree(checkpoint[0], step)
    path = step / "training.pt"
    good = path.read_bytes()
    values = [*VALUES, torch.zeros(3), torch.zeros(2, 2, dtype=torch.int8), torch.zeros(0)]

    def make(rng):
        if rng.random() < 0.5:
            return changed_bytes(good[:4000], rng, tokens=False) + good[4000:]
        content = torch.load(io.BytesIO(good), weights_only=True)
        buffer = io.BytesIO()
        torch.save(changed_tree(content, rng, values), buffer)
        return buffer.getvalue()

    def read():
        check_tensors(read_training(step)[1], checkpoint[1])

    fuzz("training.pt", share(80), make, writer(path, read))


def test_descriptions(checkpoint, tmp_path):
    step = tmp_path / "step"
    shutil.copytree(checkpoint[0], step)
    good = (step / "model.json").read_bytes()

    def read(data):
        (step / "model.json").write_bytes(data)
        seal(step)
        load_checkpoint(step)

    fuzz("model.json", share(40), lambda rng: changed_json(good, rng), read)
    stored = tmp_path / "stored"
    stored.mkdir()
    shutil.copy(step / "model.safetensors", stored)
    path = stored / "config.json"
    fuzz(
        "config.json",
        share(20),
        lambda rng: changed_json(good, rng),
        writer(path, lambda: from_pretrained(stored)),
    )


def test_safetensors(checkpoint, tmp_path):
    step = tmp_path / "step"
    shutil.copytree(checkpoint[0], step)
    good = (step / "model.safetensors").read_bytes()
    end = 8 + struct.unpack("<Q", good[:8])[0]

    def make(rng):
        if rng.random() < 0.5:
            return changed_bytes(good[:end], rng, tokens=rng.random() < 0.5) + good[end:]
        header = json.dumps(changed_tree(json.loads(good[8:end]), rng)).encode()
        return struct.pack("<Q", len(header)) + header + good[end:]

    def read(data):
        (step / "model.safetensors").write_bytes(data)
        seal(step)
        load_checkpoint(step)

    fuzz("safetensors", share(60), make, read)


def test_exported_files(checkpoint, tmp_path):
    """The description in an ONNX file, and the file itself."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    sides = ["B", 3, "H", "W"]
    tensors = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sides)
        for name in ("images", "logits")
    ]
    node = onnx.helper.make_node("Identity", ["images"], ["logits"])
    graph = onnx.helper.make_graph([node], "network", tensors[:1], tensors[1:])
    opset = [onnx.helper.make_opsetid("", 17)]
    description = json.loads((checkpoint[0] / "model.json").read_text())
    description |= {"preprocessing": "inside", "output": "logits", "batch": None}
    good = json.dumps(description).encode()

    def file(text):
        model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
        entry = model.metadata_props.add()
        entry.key, entry.value = "kanseg", text.decode("utf-8", "replace")
        return model.SerializeToString()

    def make(rng):
        if rng.random() < 0.7:
            return file(changed_json(good, rng))
        return changed_bytes(file(good), rng, tokens=False)

    path = tmp_path / "network.onnx"
    fuzz("onnx", share(60), make, writer(path, lambda: load_checkpoint(path)))


def encoded(array, kind, **options):
    buffer = io.BytesIO()
    if kind == "TIFF":
        tifffile.imwrite(buffer, array, **options)
    else:
        Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def test_images_and_masks(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (16, 20, 3)).astype(np.uint8)
    images = [
        (".png", encoded(values, "PNG")),
        (".png", encoded(values[..., 0].astype(np.uint16) * 257, "PNG")),
        (".jpg", encoded(values, "JPEG")),
        (".bmp", encoded(values, "BMP")),
        (".webp", encoded(values, "WEBP")),
    ]
    tiffs = [
        encoded(values, "TIFF"),
        encoded(values[..., 0].astype(np.uint16), "TIFF", compression="zlib"),
        encoded(values.astype(np.float32), "TIFF", photometric="rgb", tile=(16, 16)),
        encoded(values, "TIFF", compression="lzw", rowsperstrip=4),
    ]
    reads = [image_mode, read_image, read_mask_values]

    def make_image(rng):
        suffix, good = rng.choice(images)
        return suffix, rng.choice(reads), changed_bytes(good, rng, tokens=False)

    def make_tiff(rng):
        data = bytearray(rng.choice(tiffs))
        # the header lies at the beginning, the table of tags somewhere behind
        table = struct.unpack("<I", data[4:8])[0]
        place = rng.choice((rng.randrange(8), table + rng.randrange(200)))
        if place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        return ".tif", rng.choice(reads), bytes(data)

    def read(given):
        suffix, reader, data = given
        path = tmp_path / f"file{suffix}"
        path.write_bytes(data)
        reader(path, max_pixels=2**24)

    fuzz("images and masks", share(60), make_image, read)
    fuzz("tiff", share(80), make_tiff, read)
