"""What an installed ddbench has: every plug-in file, every package, the embedded suite, a version without torch."""

from __future__ import annotations

import ast
import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import ddbench

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("setup.cfg", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "run_bench.py")
CLAIMS = "leaderboards/published"
IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info")


def config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def source_files() -> set[str]:
    """Files of the package as a wheel names them: methods/ and datasets/ lie inside ddbench/."""
    ours = {p.relative_to(ROOT).as_posix() for p in (ROOT / "ddbench").rglob("*.py")}
    suites = {p.relative_to(ROOT).as_posix() for p in (ROOT / "ddbench/suites").glob("*.yaml")}
    plugins = {f"ddbench/{d}/{p.name}" for d in ("methods", "datasets") for p in (ROOT / d).glob("*.py")}
    claims = {f"ddbench/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / CLAIMS).glob("*.csv")}
    page = {p.relative_to(ROOT).as_posix() for p in (ROOT / "ddbench/page").iterdir()}
    return ours | suites | plugins | claims | page


@pytest.mark.parametrize("folder", ["methods", "datasets"])
def test_a_plugin_folder_is_flat_and_has_no_init(folder: str) -> None:
    entries = [p for p in (ROOT / folder).iterdir() if p.name != "__pycache__"]
    assert len([p for p in entries if p.suffix == ".py"]) >= 6
    assert [p.name for p in entries if p.is_dir() or p.name == "__init__.py"] == []


def test_setup_cfg_lists_exactly_the_packages_that_exist() -> None:
    listed = config()["options"]["packages"].split()
    folders = {
        p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in (ROOT / "ddbench").rglob("*.py")
    }
    mapped = {"ddbench.methods", "ddbench.datasets", "ddbench.leaderboards.published"}
    assert sorted(listed) == sorted(folders | mapped)
    for name in folders:
        assert (ROOT / name.replace(".", "/") / "__init__.py").is_file(), f"{name} has no __init__.py"


def test_dependencies_are_lower_bounds_and_cover_every_import() -> None:
    requirements = config()["options"]["install_requires"].split()
    assert [r for r in requirements if not re.fullmatch(r"[A-Za-z0-9-]+>=[0-9.]+", r)] == []
    names = {r.partition(">=")[0].lower() for r in requirements}
    imported: set[str] = set()
    for path in (p for d in ("ddbench", "methods", "datasets") for p in (ROOT / d).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    spelled = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn"}
    foreign = {spelled.get(m, m) for m in imported if m not in sys.stdlib_module_names and m != "ddbench"}
    assert len(foreign) >= 8, foreign
    assert foreign <= names


def test_the_embedded_suite_lies_in_the_package() -> None:
    assert (ROOT / "ddbench/suites/embedded.yaml").is_file()


def test_the_wheel_holds_exactly_the_files_of_the_folders(tmp_path: Path) -> None:
    copy = tmp_path / "with a space"
    for folder in ("ddbench", "methods", "datasets", CLAIMS):
        shutil.copytree(ROOT / folder, copy / folder, ignore=IGNORED)
    for name in SHIPPED:
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, copy / name)
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=copy, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"ddbench-{ddbench.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert inside == source_files()
    assert len(inside) >= 40

    listed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import ddbench, ddbench.registry as r, sys; print(ddbench.__file__); print(r.names('methods'));"
            "print(r.names('datasets')); import ddbench.claims as c; assert len(c.published()) == 1468;"
            "assert 'torch' not in sys.modules; r.get('methods', 'random')",
        ],
        cwd=tmp_path / "site",
        capture_output=True,
        text=True,
    )
    assert listed.returncode == 0, listed.stderr
    where, *found = listed.stdout.splitlines()
    assert Path(where).is_relative_to(tmp_path)
    for line, folder in zip(found, ("methods", "datasets"), strict=True):
        assert line == str(sorted(p.stem for p in (ROOT / folder).glob("*.py") if not p.name.startswith("_")))


def test_the_bare_checkout_runs_from_any_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_bench.py"), "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert ddbench.__version__ in done.stdout


def test_the_make_targets_quote_paths_and_need_no_console_script() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "/bin/pip" not in text and "/bin/ddbench" not in text and "/bin/pytest" not in text
    for target in ("bench", "test", "lint"):
        assert re.search(rf"^{target}:", text, re.MULTILINE)
    run = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert "make test" in run
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
