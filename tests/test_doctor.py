"""``ddbench doctor`` finds what is there, says what is missing and what to do, and changes nothing."""

from __future__ import annotations

import builtins
import importlib.metadata
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ddbench import data, doctor, registry


def test_every_check_is_there_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "cache"))
    found = {c.name: c for c in doctor.checks()}
    assert list(found) == [
        *(
            "python",
            "packages",
            "device",
            "threads",
            "C++ compiler",
            "data root",
            "data sets",
            "cache",
            "free disk",
        ),
        *("methods", "datasets"),
    ]
    assert {c.status for c in found.values()} <= {"ok", "warn", "fail"}
    assert all(c.advice for c in found.values() if c.status != "ok")
    assert f"torch {importlib.metadata.version('torch')}" in found["packages"].value
    assert "digits" in found["data sets"].value
    assert list(tmp_path.iterdir()) == []


def test_the_packages_are_those_of_setup_cfg() -> None:
    lowest = doctor._requirements()
    assert lowest["torch"] == "2.6"
    assert len(lowest) >= 15


def test_missing_and_old_packages_come_with_a_line_to_paste(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "timm":
            raise importlib.metadata.PackageNotFoundError(name)
        return "2.5.1+cu121" if name == "torch" else "99"

    monkeypatch.setattr(importlib.metadata, "version", version)
    (check,) = doctor._packages()
    assert check.status == "fail"
    assert check.value == "missing: timm; too old: torch 2.5.1+cu121 (needs 2.6)"
    assert check.advice.endswith(" -m pip install 'timm>=1.0' 'torch>=2.6'")


def test_a_package_that_cannot_be_imported_does_not_stop_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_torch(name: str, *rest: Any) -> Any:
        if name == "torch":
            raise ImportError("No module named 'torch'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    found = {c.name: c for c in doctor.checks()}
    assert found["device"] == doctor.Check("device", "fail", "cannot be checked: No module named 'torch'")
    assert found["C++ compiler"].status in ("ok", "warn")


def test_no_compiler_is_a_warning_that_says_what_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    check = doctor._compiler()
    assert (check.status, check.value) == (
        "warn",
        "none: students are trained without compilation, slower and with the same protocol",
    )
    assert "g++" in check.advice


def test_more_threads_than_cores_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 10_000)
    check = doctor._threads()
    assert check.status == "warn"
    assert "set OMP_NUM_THREADS=" in check.advice


def test_a_gpu_is_named_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    card = SimpleNamespace(name="A GPU", total_memory=16 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: card)
    assert doctor._device().value.startswith("cuda:0 A GPU (16 GiB); CUDA")


def test_a_driver_without_a_usable_gpu_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "12.4")
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    check = doctor._device()
    assert check.status == "warn"
    assert "CUDA_VISIBLE_DEVICES" in check.advice


def test_the_data_root_says_who_chose_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDBENCH_DATA", str(tmp_path))
    assert doctor._data_root() == doctor.Check("data root", "ok", f"{tmp_path} (DDBENCH_DATA)")
    monkeypatch.setenv("DDBENCH_DATA", str(tmp_path / "none"))
    check = doctor._data_root()
    assert check.status == "warn"
    assert check.value == f"{tmp_path / 'none'} (DDBENCH_DATA) does not exist; digits needs none"


def test_a_damaged_data_set_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def available(name: str) -> str | None:
        if name == "mnist":
            raise ValueError("prepared/mnist is half written")
        return "built in" if name == "digits" else None

    monkeypatch.setattr(data, "available", available)
    check = doctor._data_sets()
    assert check.status == "fail"
    assert check.value.startswith("there: digits; not there: ")
    assert check.advice == "mnist: prepared/mnist is half written"


def test_the_cache_is_held_against_its_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path))
    (tmp_path / "teachers").mkdir()
    (tmp_path / "teachers/one.safetensors").write_bytes(bytes(3 << 20))
    monkeypatch.setenv("DDBENCH_CACHE_QUOTA", "1G")
    assert doctor._cache() == doctor.Check("cache", "ok", f"{tmp_path}: 0.00 GiB of 1.00 GiB")
    monkeypatch.setenv("DDBENCH_CACHE_QUOTA", "1M")
    assert (doctor._cache().status, doctor._cache().advice) == ("warn", "run: ddbench cache prune")
    monkeypatch.setenv("DDBENCH_CACHE_QUOTA", "much")
    assert doctor._cache().status == "fail"
    assert "DDBENCH_CACHE_QUOTA: size is 'much'" in doctor._cache().advice


def test_little_free_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**30))
    check = doctor._disk()
    assert (check.status, check.value) == ("warn", "cache 1.0 GiB, current folder 1.0 GiB")
    assert "DDBENCH_CACHE" in check.advice


def test_broken_plugins_are_counted_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [registry.Facts("methods", "good"), registry.Facts("methods", "bad", problem="line 3: torn")]
    monkeypatch.setattr(registry, "listing", lambda kind: listed if kind == "methods" else listed[:1])
    methods, datasets = doctor._plugins()
    assert methods == doctor.Check("methods", "fail", "1 usable, 1 broken", "bad: line 3: torn")
    assert datasets == doctor.Check("datasets", "ok", "1 usable")
