"""The rules of the house that can be read off the source."""

import ast
import importlib
import inspect
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "kanseg"
ORDER = [
    "utils",
    "config",
    "bases",
    "layers",
    "encoders",
    "models",
    "compat",
    "data",
    "losses",
    "metrics",
    "inference",
    "integrations",
    "evaluation",
    "visualization",
    "training",
    "benchmark",
    "experiments",
    "export",
    "explain",
    "cli",
    "__main__",
]
FILES = sorted(PACKAGE.rglob("*.py"))


def imported_parts(path):
    """Names of the parts of kanseg that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = (
                [node.module]
                if node.module != "kanseg"
                else [f"kanseg.{alias.name}" for alias in node.names]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("kanseg."):
                yield name.split(".")[1]


@pytest.mark.parametrize(
    "path",
    [f for f in FILES if f.parent != PACKAGE or f.stem != "__init__"],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_imports_go_one_way(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in imported_parts(path):
        assert ORDER.index(other) <= ORDER.index(part), f"{part} imports {other}"


def test_compat_stands_on_the_networks_and_what_they_stand_on():
    used = {other for path in (PACKAGE / "compat").rglob("*.py") for other in imported_parts(path)}
    assert used <= {"bases", "layers", "encoders", "models", "compat"}


@pytest.mark.parametrize("part", ["integrations", "compat"])
def test_nothing_stands_on(part):
    users = [f for f in FILES if part in imported_parts(f)]
    assert not [f for f in users if part not in f.relative_to(PACKAGE).parts]


def test_folders_are_small():
    """At most 16 modules beside an `__init__`, and `__init__` says what lives there."""
    for folder in {f.parent for f in FILES}:
        modules = [f for f in FILES if f.parent == folder]
        assert len(modules) <= 17, f"{folder.relative_to(PACKAGE)}: {len(modules)} files"
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))


def test_importing_kanseg_loads_nothing_heavy():
    heavy = (
        "albumentations segmentation_models_pytorch timm cv2 accelerate matplotlib torchvision"
        " tensorboard jsonargparse torch._dynamo kanseg.compat"
    )
    code = f"""
import sys, kanseg
kanseg.create_model('unet', width=2)
print([name for name in {heavy.split()} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_class_is_abstract_or_final():
    modules = [
        importlib.import_module(f"kanseg.{'.'.join(f.relative_to(PACKAGE).with_suffix('').parts)}")
        for f in FILES
        if f.stem != "__init__" and (f.stem != "horner_triton" or find_spec("triton"))
    ]
    classes = {
        c
        for m in modules
        for c in vars(m).values()
        if inspect.isclass(c) and c.__module__.startswith("kanseg")
    }
    assert len(classes) > 20
    for kind in classes:
        for base in kind.__mro__[1:]:
            if base.__module__.startswith("kanseg") and not issubclass(
                base, Exception
            ):  # errors are a hierarchy, for who catches them
                assert inspect.isabstract(base) or base.__name__.startswith("_"), (
                    f"{kind} inherits from the concrete {base}"
                )
