"""The rules of the house that can be read off the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "kanseg"
ORDER = ["errors", "registry", "bases", "layers", "encoders", "models", "config", "data", "losses", "metrics", "checkpoint", "inference", "training"]
FILES = sorted(PACKAGE.rglob("*.py"))


def imported_parts(path):
    """Names of the parts of kanseg that a file imports at its top level."""
    for node in ast.parse(path.read_text()).body:
        names = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name and name.startswith("kanseg."):
                yield name.split(".")[1]


@pytest.mark.parametrize("path", [f for f in FILES if f.parent != PACKAGE or f.stem != "__init__"], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in imported_parts(path):
        assert ORDER.index(other) <= ORDER.index(part), f"{part} imports {other}"


def test_importing_kanseg_loads_nothing_heavy():
    heavy = "albumentations segmentation_models_pytorch timm cv2 accelerate matplotlib torchvision tensorboard jsonargparse"
    code = f"import sys, kanseg; kanseg.create_model('unet', width=2); print([m for m in {heavy.split()} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 300


def test_no_class_inherits_from_a_concrete_class_of_ours():
    from kanseg.bases import BASES

    kinds = set(map(id, BASES._objects.values()))
    assert not any(id(base) in kinds for kind in BASES._objects.values() for base in kind.__mro__[1:])
