"""What is installed here, on which devices a model can run, and what is missing for what."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import Requirement

import depthlm
from depthlm.models.locate import NANO_FOLDER
from depthlm.training.shipped import shipped_recipes

# What each extra of pyproject.toml is for.
EXTRAS = {
    "app": "depthlm app, the web page",
    "bench": "benchmarks/",
    "data": "curating NYUv2 and Hypersim",
    "dev": "working on depthlm",
    "docs": "building the documents",
    "notebooks": "running the notebooks",
    "qlora": "LoRA over 4-bit weights (lora.quantize in recipes)",
    "ray": "curate and eval on a cluster",
    "server": "--backend openai",
    "test": "the test suite",
    "train": "LoRA, and the training log",
}

# Packages that run on a GPU alone and are no part of any extra.
GPU_ONLY = {"flash-attn": "vision_attention=flash_attention_2 in recipes"}


def examine() -> dict[str, Any]:
    """Versions, devices and what is missing, as plain values; `problems` is empty where all of the core works."""
    packages, extras = _requirements()
    problems = [
        f"{name} is {row['version'] or 'not installed'}, depthlm needs {name}{row['wanted']}"
        for name, row in packages.items()
        if not row["ok"]
    ]
    devices, trouble = _devices()
    if not (NANO_FOLDER / "model.safetensors").is_file():
        problems.append("nano is not in this copy; install a wheel, or train it: depthlm train nano")
    return {
        "depthlm": depthlm.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "installed": str(Path(depthlm.__file__).parent),
        "packages": packages,
        "extras": extras,
        "devices": devices,
        "gpu_only": {name: _version(name) for name in GPU_ONLY},
        "recipes": sorted(shipped_recipes()),
        "hub_offline": os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"),
        "problems": problems + trouble,
    }


def _requirements() -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The packages of the core, and by extra what of it is not here."""
    packages: dict[str, dict[str, Any]] = {}
    missing: dict[str, dict[str, str]] = {}
    try:
        about = metadata.metadata("depthlm")
    except metadata.PackageNotFoundError:  # a checkout on the path: nothing says what it needs
        return packages, {}
    for line in about.get_all("Requires-Dist") or ():
        wanted = Requirement(line)
        row = _installed(wanted)
        extra = next((name for name in about.get_all("Provides-Extra") or () if _of(wanted, name)), None)
        if extra is None:
            packages[wanted.name] = row
        else:
            lacks = missing.setdefault(extra, {})
            if not row["ok"] and wanted.name != "depthlm":
                lacks[wanted.name] = row["version"] or "not installed"
    extras = {
        name: {"for": EXTRAS.get(name, ""), "missing": lacks, "install": f"pip install 'depthlm[{name}]'"}
        for name, lacks in sorted(missing.items())
    }
    return packages, extras


def _of(wanted: Requirement, extra: str) -> bool:
    """Whether a requirement belongs to an extra, and not to the core."""
    if wanted.marker is None:
        return False
    plain: dict[str, str] = {**{key: str(value) for key, value in default_environment().items()}, "extra": ""}
    return wanted.marker.evaluate({**plain, "extra": extra}) and not wanted.marker.evaluate(plain)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _installed(wanted: Requirement) -> dict[str, Any]:
    version = _version(wanted.name)
    if version is None:
        return {"version": None, "wanted": str(wanted.specifier), "ok": False}
    return {
        "version": version,
        "wanted": str(wanted.specifier),
        "ok": wanted.specifier.contains(version, prereleases=True),
    }


def _devices() -> tuple[list[dict[str, Any]], list[str]]:
    """Where a model can run, and what keeps it from that."""
    found: list[dict[str, Any]] = [{"device": "cpu", "cores": _cores(), "memory_gb": _memory_gb()}]
    try:
        import torch
    except Exception as error:  # a torch that does not fit its libraries fails in many ways
        return found, [f"torch cannot be imported ({type(error).__name__}: {error})"]
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        memory = round(facts.total_memory / 2**30, 1)
        found.append({"device": f"cuda:{number}", "name": facts.name, "memory_gb": memory})
    if torch.backends.mps.is_available():
        found.append({"device": "mps"})
    return found, []


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gb() -> float | None:
    """Of the machine; None where the system does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def format_report(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = [
        f"depthlm {found['depthlm']}  Python {found['python']}  {found['platform']}",
        f"  installed  {found['installed']}",
    ]
    for device in found["devices"]:
        more = [
            f"{device[key]} {unit}".rstrip()
            for key, unit in (("name", ""), ("cores", "cores"), ("memory_gb", "GB"))
            if device.get(key)
        ]
        lines.append(f"  {device['device']:<9}  {', '.join(more)}".rstrip())
    versions = ", ".join(f"{name} {row['version']}" for name, row in found["packages"].items() if row["ok"])
    lines += [f"  packages   {versions}", f"  recipes    {', '.join(found['recipes'])}"]
    if found["hub_offline"]:
        lines.append("  hub        off (HF_HUB_OFFLINE): models are folders here, nothing is downloaded")
    here = [f"{name} {version or 'not installed'} ({GPU_ONLY[name]})" for name, version in found["gpu_only"].items()]
    lines.append(f"  GPU only   {', '.join(here)}")
    for name, row in found["extras"].items():
        lacks = ", ".join(row["missing"])
        state = f"missing {lacks}: {row['install']}" if lacks else "ready"
        lines.append(f"  [{name}]{' ' * max(1, 9 - len(name))}{state}{'  (' + row['for'] + ')' if row['for'] else ''}")
    lines += [f"problem: {line}" for line in found["problems"]] or [
        "nothing is missing for demo, predict, map, synth, train and eval"
    ]
    return "\n".join(lines)
