"""``ddbench doctor``: device, versions, compiler, data root, disk, plug-ins; what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import ddbench
from ddbench import host, registry, store

LOW_DISK_GIB = 5.0
"""Free disk (GiB) under which a warning is due: teachers, checkpoints and prepared data of a small suite need about this."""


@dataclass(frozen=True)
class Check:
    """One finding.  ``status``: ``ok``, ``warn`` (something works less well) or ``fail`` (a run would fail)."""

    name: str
    status: str
    value: str
    advice: str = ""
    """What to do; "" where all is well."""


def checks() -> list[Check]:
    """Every check, in the order of a report; none of them raises, downloads or writes."""
    found = [_python(), *_packages()]
    for check in (_device, _threads, _compiler, _data_root, _data_sets, _cache, _disk):
        try:
            found.append(check())
        except ImportError as e:  # a package is missing, which stands under "packages" with its cure
            found.append(
                Check(check.__name__.strip("_").replace("_", " "), "fail", f"cannot be checked: {e}")
            )
    return [*found, *_plugins()]


def _python() -> Check:
    value = f"{platform.python_version()} ({sys.executable}) on {platform.platform(terse=True)}"
    return Check("python", "ok", f"{value}; ddbench {ddbench.__version__}")


def _requirements() -> dict[str, str]:
    """Distribution -> lowest version, from the metadata of the installed package, else from the checkout's setup.cfg."""
    try:
        lines = [line for line in importlib.metadata.requires("ddbench") or [] if "extra ==" not in line]
    except importlib.metadata.PackageNotFoundError:
        from configparser import ConfigParser

        config = ConfigParser()
        config.read(Path(ddbench.__file__).parent.parent / "setup.cfg", encoding="utf-8")
        lines = config.get("options", "install_requires", fallback="").split()
    found = (re.match(r"([A-Za-z0-9._-]+)\s*(?:>=\s*([0-9.]+))?", line) for line in lines)
    return {m[1].lower(): m[2] or "0" for m in found if m}


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def _packages() -> list[Check]:
    lowest = _requirements()
    there, missing, old = {}, [], []
    for name, least in lowest.items():
        try:
            there[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if _release(there[name]) < _release(least):
            old.append(f"{name} {there[name]} (needs {least})")
    shown = ", ".join(
        f"{name} {there[name]}"
        for name in ("torch", "torchvision", "timm", "kornia", "numpy")
        if name in there
    )
    if missing or old:
        wanted = " ".join(f"'{name}>={lowest[name]}'" for name in (*missing, *(o.split()[0] for o in old)))
        value = "; ".join(
            filter(
                None,
                (f"missing: {', '.join(missing)}" * bool(missing), f"too old: {', '.join(old)}" * bool(old)),
            )
        )
        return [Check("packages", "fail", value, f"{sys.executable} -m pip install {wanted}")]
    return [Check("packages", "ok", shown)]


def _device() -> Check:
    import torch

    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        value = ", ".join(
            f"cuda:{i} {p.name} ({p.total_memory / 2**30:.0f} GiB)" for i, p in enumerate(found)
        )
        return Check("device", "ok", f"{value}; CUDA {torch.version.cuda}")
    if torch.version.cuda and shutil.which("nvidia-smi"):
        return Check(
            "device",
            "warn",
            "cpu; there is an NVIDIA driver, but torch sees no GPU",
            f"torch was built for CUDA {torch.version.cuda}: compare with nvidia-smi and CUDA_VISIBLE_DEVICES",
        )
    return Check("device", "ok", "cpu (no GPU; everything works, large suites take long)")


def _threads() -> Check:
    import torch

    cores = host.cores()
    threads = torch.get_num_threads()
    value = f"{threads} of {cores} usable cores"
    if threads > cores:
        return Check(
            "threads", "warn", value, f"more threads than cores are slow: set OMP_NUM_THREADS={cores}"
        )
    return Check("threads", "ok", value)


def _compiler() -> Check:
    wanted = os.environ.get("CXX", "")
    found = shutil.which(wanted) if wanted else None
    found = found or next(
        (path for name in ("g++", "c++", "clang++", "cl") if (path := shutil.which(name))), None
    )
    if found:
        return Check("C++ compiler", "ok", found)
    return Check(
        "C++ compiler",
        "warn",
        "none: students are trained without compilation, slower and with the same protocol",
        "install g++ or clang++ (Debian: apt install g++), or name one in CXX",
    )


def _data_root() -> Check:
    from ddbench import data

    root = data.data_root()
    how = (
        "DDBENCH_DATA"
        if os.environ.get("DDBENCH_DATA")
        else "the default; DDBENCH_DATA or --data-root changes it"
    )
    if root.is_dir():
        return Check("data root", "ok", f"{root} ({how})")
    return Check(
        "data root",
        "warn",
        f"{root} ({how}) does not exist; digits needs none",
        "name the folder of your data sets in DDBENCH_DATA, or run: ddbench data prepare NAME",
    )


def _data_sets() -> Check:
    from ddbench import data

    there: list[str] = []
    absent: list[str] = []
    damaged: list[str] = []
    for facts in registry.listing("datasets"):
        if facts.problem:
            continue  # told under "datasets"
        try:
            (there if data.available(facts.name) else absent).append(facts.name)
        except (ValueError, OSError, registry.PluginError) as e:
            damaged.append(f"{facts.name}: {e}")
    value = f"there: {', '.join(there) or 'none'}" + (f"; not there: {', '.join(absent)}" if absent else "")
    if damaged:
        return Check("data sets", "fail", value, "; ".join(damaged))
    advice = f"for one that is not there: ddbench data prepare {absent[0]}" if absent else ""
    return Check("data sets", "ok" if there else "warn", value, advice)


def _cache() -> Check:
    root = store.cache_root()
    used = sum(entry.size_bytes for entry in store.entries(root)) if root.is_dir() else 0
    value = f"{root}: {used / 2**30:.2f} GiB"
    try:
        quota = store.quota_bytes()
    except ValueError as e:
        return Check("cache", "fail", value, str(e))
    nearest_folder = next(p for p in (root, *root.parents) if p.exists())
    if not os.access(nearest_folder, os.W_OK):
        return Check(
            "cache",
            "fail",
            f"{value}; {nearest_folder} is not writable",
            "name another folder in DDBENCH_CACHE",
        )
    if quota is not None and used > quota:
        return Check(
            "cache", "warn", f"{value}, over its quota of {quota / 2**30:.2f} GiB", "run: ddbench cache prune"
        )
    return Check("cache", "ok", value if quota is None else f"{value} of {quota / 2**30:.2f} GiB")


def _disk() -> Check:
    places = {}
    for what, folder in (("cache", store.cache_root()), ("current folder", Path.cwd())):
        nearest_folder = next(p for p in (folder, *folder.parents) if p.exists())
        places[what] = shutil.disk_usage(nearest_folder).free / 2**30
    value = ", ".join(f"{what} {free:.1f} GiB" for what, free in places.items())
    if min(places.values()) < LOW_DISK_GIB:
        return Check(
            "free disk",
            "warn",
            value,
            f"under {LOW_DISK_GIB:.0f} GiB: free some, or move DDBENCH_CACHE and --runs",
        )
    return Check("free disk", "ok", value)


def _plugins() -> list[Check]:
    found = []
    for kind in ("methods", "datasets"):
        listed = registry.listing(kind)
        broken = [f for f in listed if f.problem]
        found.append(
            Check(
                kind,
                "fail" if broken or not listed else "ok",
                f"{len(listed) - len(broken)} usable" + (f", {len(broken)} broken" if broken else ""),
                "; ".join(f"{f.name}: {f.problem}" for f in broken)
                or ("" if listed else f"the folder {kind}/ is missing: install ddbench again"),
            )
        )
    return found
