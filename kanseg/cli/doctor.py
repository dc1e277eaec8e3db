"""Report what kanseg runs on, and what is missing:

kanseg doctor [--cost] [--json FILE]

Versions, processor, GPUs, threads, free memory and disk, the packages that are missing or too old,
and the extras that bring them; with --cost also what each package takes. Exit code 1 if a package
that kanseg cannot do without is missing or does not fit.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import kanseg
from kanseg.config.arguments import ToolParser, output_file

GIB = 2**30
LARGEST = 3  # packages that are named beside the one that brings them


def _parser() -> ToolParser:
    parser = ToolParser(description=__doc__)
    parser.add_argument(
        "--cost",
        action="store_true",
        help="measure the size of each package on disk and the time of its import",
    )
    parser.add_argument("--json", type=str, metavar="FILE", help="file for the same, as JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; 1 if a needed package is missing or does not fit."""
    given = _parser().parse_args(arguments)
    target = output_file(given.json, "--json")
    facts, problems = _packages()
    report: dict[str, Any] = {
        "kanseg": {"version": kanseg.__version__, "folder": str(Path(kanseg.__file__).parent)},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "system": {"name": platform.platform(), "machine": platform.machine()},
        "packages": facts,
    }
    report |= _hardware(problems)
    report["extras"] = _missing_extras(facts)
    report["problems"] = problems
    print(_text(report))
    if given.cost:
        report["cost"] = _costs()
    if target is not None:
        from kanseg.utils.io import atomic_write_text

        atomic_write_text(target, json.dumps(report, indent=1) + "\n")
        print(f"json: {target}")
    return 1 if problems else 0


def _packages() -> tuple[dict[str, Any], list[str]]:
    """Return (name -> what is installed and needed, what is wrong)."""
    from kanseg.utils.installation import clashing_cv2, dependencies

    facts: dict[str, Any] = {}
    problems = []
    for each in dependencies():
        facts[each.name] = {"found": each.found, "needed": each.needed, "extra": each.extra}
        if each.is_satisfied or (each.extra and each.found is None):
            continue
        found = "is not installed" if each.found is None else f"is {each.found}"
        problems.append(
            f"{each.name} {found}; kanseg needs {each.needed}:"
            f' python -m pip install "{each.name}{each.needed}"'
        )
    builds = clashing_cv2()
    if builds:
        problems.append(
            f"{' and '.join(builds)} overwrite each other's files: python -m pip uninstall -y"
            f" {' '.join(builds)}; python -m pip install opencv-python-headless"
        )
    return facts, problems


def _missing_extras(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return extra -> what it brings, its packages that are missing, and how to install them."""
    from kanseg.utils.installation import USER_EXTRAS, install

    missing = {}
    for extra, purpose in USER_EXTRAS.items():
        names = [name for name, fact in facts.items() if fact["extra"] == extra]
        names = [name for name in names if facts[name]["found"] is None]
        if names:
            missing[extra] = {"brings": purpose, "missing": names, "install": install(extra)}
    return missing


def _costs() -> list[dict[str, Any]]:
    """Measure what the installed packages cost, and print it."""
    from kanseg.utils.installation import costs
    from kanseg.utils.tables import plain_table

    found = costs()
    rows = []
    for cost in found:
        seconds = "-" if cost.import_seconds is None else f"{cost.import_seconds:.2f}"
        name = cost.name
        if cost.extra:
            name += f" [{cost.extra}]"
        brings = ", ".join(cost.brings[:LARGEST])
        if len(cost.brings) > LARGEST:
            brings += f" and {len(cost.brings) - LARGEST} more"
        rows.append((name, brings, f"{cost.megabytes:.1f}", seconds))
    total = sum(cost.megabytes for cost in found)
    print(
        f"\n{total:.0f} MB in all; import: CPU seconds beside those of the packages that it needs"
    )
    header = ("package", "with the packages that only it brings", "MB", "import")
    print(plain_table(header, rows, text_columns=2))
    return [asdict(cost) for cost in found]


def _hardware(problems: list[str]) -> dict[str, Any]:
    """Return processor, GPUs, memory and disk; {} with a problem if torch cannot be imported."""
    import psutil  # Accelerate needs it too

    memory = psutil.virtual_memory()
    report: dict[str, Any] = {
        "memory_gib": {"free": memory.available / GIB, "all": memory.total / GIB},
        "disk_gib": {"free": shutil.disk_usage(Path.cwd()).free / GIB, "folder": str(Path.cwd())},
    }
    try:
        import torch

        from kanseg.utils.environment import environment_line
    except (ImportError, OSError) as error:
        problems.append(f"torch cannot be imported: {error}")
        return report
    report["processor"] = {
        "name": environment_line().partition(",")[0],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }
    report["gpus"] = _gpus(torch)
    report["cuda_of_torch"] = torch.version.cuda
    return report


def _gpus(torch: Any) -> list[dict[str, Any]]:
    if torch.backends.mps.is_available():
        return [{"name": "Apple GPU (mps)", "free_gib": None, "all_gib": None}]
    gpus = []
    for number in range(torch.cuda.device_count()):
        free, everything = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        gpus.append({"name": name, "free_gib": free / GIB, "all_gib": everything / GIB})
    return gpus


def _text(report: dict[str, Any]) -> str:
    """The report for people."""
    memory, disk = report["memory_gib"], report["disk_gib"]
    rows = [
        ("kanseg", f"{report['kanseg']['version']} in {report['kanseg']['folder']}"),
        ("Python", f"{report['python']['version']}, {report['python']['executable']}"),
        ("system", report["system"]["name"]),
    ]
    if "processor" in report:
        rows += _device_rows(report)
    rows += [
        ("memory", f"{memory['free']:.1f} of {memory['all']:.1f} GiB free"),
        ("disk", f"{disk['free']:.1f} GiB free in {disk['folder']}"),
    ]
    lines = [f"{name:10} {value}" for name, value in rows]
    lines += ["", f"{'package':30} {'found':18} needed"]
    for name, package in report["packages"].items():
        needed = package["needed"]
        if package["extra"]:
            needed += f" for kanseg[{package['extra']}]"
        lines.append(f"{name:30} {package['found'] or '-':18} {needed}")
    lines.append("")
    for extra in report["extras"].values():
        missing = ", ".join(extra["missing"])
        lines.append(f"{extra['brings']}: missing {missing}: {extra['install']}")
    lines += ["", *(f"problem: {problem}" for problem in report["problems"])]
    if not report["problems"]:
        lines.append("Everything that kanseg needs is there.")
    return "\n".join(lines)


def _device_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    processor = report["processor"]
    threads = f"{processor['threads']} threads"
    if processor["OMP_NUM_THREADS"]:
        threads += f" (OMP_NUM_THREADS={processor['OMP_NUM_THREADS']})"
    rows = [("processor", f"{processor['name']}, {processor['cores']} cores, {threads}")]
    for gpu in report["gpus"]:
        memory = ""
        if gpu["all_gib"] is not None:
            memory = f", {gpu['free_gib']:.1f} of {gpu['all_gib']:.1f} GiB free"
        rows.append(("GPU", gpu["name"] + memory))
    if not report["gpus"]:
        built = f"torch is built for CUDA {report['cuda_of_torch']}"
        if report["cuda_of_torch"] is None:
            built = "torch is built for the CPU only"
        rows.append(("GPU", f"none found ({built})"))
    return rows
