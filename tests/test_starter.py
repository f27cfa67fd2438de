"""``ddbench new-method NAME`` writes a method and a test that run at once, and spoils nothing that exists."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddbench import registry, starter
from ddbench.registry import PluginError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _forget_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_added", {})


def test_outside_a_checkout_the_two_files_lie_side_by_side_and_their_tests_pass(tmp_path: Path) -> None:
    paths = starter.write_method("my_means", tmp_path)
    assert paths == [tmp_path / "my_means.py", tmp_path / "test_my_means.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_my_means.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "4 passed" in done.stdout


def test_the_starter_is_listed_with_its_help_and_has_a_recipe_for_digits(tmp_path: Path) -> None:
    method, _ = starter.write_method("my_means", tmp_path)
    assert registry.add_file(method) == "my_means"
    facts = registry.facts("methods", "my_means")
    assert facts.class_name == "MyMeans"
    assert [(f.name, f.help) for f in facts.fields][0] == ("iterations", "Gradient steps (count).")
    assert all(f.help for f in facts.fields)
    recipe = registry.resolve_recipe("my_means", "auto", "digits", 1)
    assert recipe == registry.Recipe("cpu", {"iterations": 50, "batch": 32}, "ours")
    assert registry.make("my_means", recipe.settings).batch == 32


def test_inside_a_checkout_the_files_go_to_methods_and_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "tests").mkdir()
    monkeypatch.setattr(starter, "checkout", lambda: tmp_path)
    paths = starter.write_method("my_means")
    assert paths == [tmp_path / "methods/my_means.py", tmp_path / "tests/test_my_means.py"]
    assert "add_file" not in paths[1].read_text()


def test_this_checkout_is_recognised() -> None:
    assert starter.checkout() == ROOT


def test_the_files_need_no_formatting(tmp_path: Path) -> None:
    pytest.importorskip("ruff", reason="needs the dev tools")
    starter.write_method("my_means", tmp_path)
    for command in (["check"], ["format", "--check", "--diff"]):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "ruff",
                *command,
                "--no-cache",
                "--config",
                str(ROOT / "pyproject.toml"),
                ".",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("My-Method", "my_method"),
        ("3d", "my_3d"),
        ("a b", "a_b"),
        ("lambda", "my_lambda"),
        ("fyi+dm", "fyi_dm"),
        ("../x", "x"),
        ("", "my"),
    ],
)
def test_a_name_that_is_no_identifier_is_refused_with_a_better_one(
    tmp_path: Path, name: str, suggestion: str
) -> None:
    with pytest.raises(ValueError) as refused:
        starter.write_method(name, tmp_path)
    assert str(refused.value) == (
        f"method name {name!r} cannot be a file's stem and a Python name; "
        f"expected lower-case letters, digits and underscores, such as {suggestion}"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_existing_method_is_refused_and_its_place_named(tmp_path: Path) -> None:
    method, _ = starter.write_method("my_means", tmp_path)
    registry.add_file(method)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(
        FileExistsError, match=r"method 'my_means' exists already \(.*my_means.py\); choose another name"
    ):
        starter.write_method("my_means", elsewhere)
    assert list(elsewhere.iterdir()) == []


def test_an_existing_file_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "test_my_means.py").write_text("mine")
    with pytest.raises(
        FileExistsError, match=r"test_my_means.py exists already and is left as it is; choose another"
    ):
        starter.write_method("my_means", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["test_my_means.py"]
    assert (tmp_path / "test_my_means.py").read_text() == "mine"


def test_a_missing_folder_and_a_name_of_pythons_own_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*none; make it first, or leave it out"):
        starter.write_method("my_means", tmp_path / "none")
    with pytest.raises(
        ValueError, match="a file json.py would hide Python's own module 'json' from its neighbours"
    ):
        starter.write_method("json", tmp_path)


def test_a_name_with_two_owners_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def two(kind: str, name: str) -> str:
        raise PluginError("two owners of the method 'my_means': a and b; rename or uninstall one")

    monkeypatch.setattr(registry, "names", lambda kind: ["my_means"])
    monkeypatch.setattr(registry, "origin", two)
    with pytest.raises(PluginError, match="two owners"):
        starter.write_method("my_means", tmp_path)
