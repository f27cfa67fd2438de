"""The registry: names, facts read without importing, loading on demand, settings, recipes, wrappers."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddbench import registry
from ddbench.registry import PluginError

METHOD = '''\
"""Nothing at all: keeps no image.

Source: none.  Departures: none.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ddbench.registry import method

STEPS = 20 * 1_000
COMMON = dict(lr=1e-2, source="readme, table 2")


@method(family="coreset", paper="arXiv:2006.05929")
@dataclass(frozen=True)
class Nothing:
    iterations: int = 300
    """Steps of the
    outer loop (count)."""
    lr: float = 1.0
    """SGD step (dimensionless)."""
    where: Literal["pixels", "features"] = "pixels"
    layers: tuple[int, ...] = (1, 2)
    limit: float | None = None
    note: str = ""
    shuffle: bool = True
    kind: ClassVar[str] = "not a setting"

    def distill(self, task):
        return task.view(self.iterations, self.lr)


RECIPES = {
    ("cpu", "mnist", None): dict(iterations=300, source="ours"),
    ("authors", None, None): dict(iterations=5),
    ("authors", "cifar10", None): dict(iterations=STEPS // 2, **COMMON),
    ("authors", "cifar10", 1): dict(iterations=STEPS, lr=-(1 / 2), source="readme, table 1"),
    ("released", "cifar10", 10): {"iterations": 7, "source": "code"},
}
'''

WRAPPER = '''\
"""Sees every image twice."""
from dataclasses import dataclass, replace

from ddbench.registry import method


@method(family="wrapper", wrapper=True)
@dataclass(frozen=True)
class Twice:
    factor: int = 2
    """How often (count)."""
    lr: float = 0.5

    def wrap(self, base):
        return replace(base, iterations=base.iterations * self.factor)

    def view(self, images, labels):
        return [images, labels] * self.factor
'''

DATASET = '''\
"""Two blobs."""
from dataclasses import dataclass

from ddbench.registry import dataset

SIDE = 8


@dataset(shape=(1, SIDE, SIDE), classes=2, train=200, test=100, sha256=None)
@dataclass(frozen=True)
class Blobs:
    def load(self, split, root):
        return split
'''

Plugin = Callable[[str, str], Path]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugin]:
    """Write a plug-in file and add it; all is forgotten after the test."""
    monkeypatch.setattr(registry, "_added", {})
    monkeypatch.setattr(registry, "_codecs", dict(registry._codecs))
    before = set(sys.modules)

    def write(name: str, text: str) -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        registry.add_file(path)
        return path

    yield write
    for module in set(sys.modules) - before:
        if module.startswith(("ddbench.methods.", "ddbench.datasets.")):
            del sys.modules[module]


# ------------------------------------------------------------------------------------------------ names


def test_listing_every_kind_imports_no_torch() -> None:
    code = (
        "import sys, ddbench.registry as r\n"
        "for kind in ('methods', 'datasets', 'networks', 'codecs'): r.names(kind); r.listing(kind)\n"
        "heavy = [m for m in ('torch', 'pandas', 'pydantic', 'sklearn') if m in sys.modules]\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def test_every_method_and_data_set_file_is_listed_without_a_problem() -> None:
    for kind in ("methods", "datasets"):
        files = {p.stem for p in (Path(__file__).parent.parent / kind).glob("*.py")}
        listed = {f.name: f for f in registry.listing(kind)}
        assert files <= set(listed)
        assert {name: f.problem for name, f in listed.items() if f.problem and name in files} == {}


def test_an_unknown_kind_says_which_exist() -> None:
    with pytest.raises(
        LookupError,
        match="no kind of plug-in 'method'; expected one of methods, datasets, networks, protocols, codecs",
    ):
        registry.names("method")


@pytest.mark.parametrize("call", [registry.get, registry.facts, registry.origin])
def test_an_unknown_name_gets_its_nearest_neighbours(plugin: Plugin, call: Callable[[str, str], Any]) -> None:
    plugin("nothing", METHOD)
    with pytest.raises(
        LookupError, match=r"^no method 'nothin'; nearest: nothing.* \(see: ddbench list methods\)$"
    ):
        call("methods", "nothin")
    plugin("blobs", DATASET)
    with pytest.raises(
        LookupError, match=r"^no data set 'blops'; nearest: blobs.* \(see: ddbench list datasets\)$"
    ):
        call("datasets", "blops")


def test_nearest_ignores_case_and_lists_a_few_names_where_none_is_near() -> None:
    assert registry.nearest("RANDM", ["random", "dm"]) == "nearest: random"
    assert registry.nearest("xyz", ["random", "dm"]) == "known: random, dm"
    assert registry.nearest("xyz", []) == ""
    assert registry.nearest("xyz", [f"method{i}" for i in range(13)]) == ""


def test_networks_are_made_by_name_and_unknown_ones_are_refused() -> None:
    assert "ConvNet" in registry.names("networks")
    assert registry.facts("networks", "ConvNetW16").name == "ConvNetW16"
    with pytest.raises(LookupError, match="no network 'ConvNetX'"):
        registry.get("networks", "ConvNetX")


# ------------------------------------------------------------------------------------------------ facts


def test_facts_are_read_from_the_source_without_running_it(plugin: Plugin) -> None:
    plugin("nothing", METHOD + "\nraise RuntimeError('was run')\n")
    facts = registry.facts("methods", "nothing")
    assert facts.summary == "Nothing at all: keeps no image."
    assert facts.doc.endswith("Source: none.  Departures: none.")
    assert facts.class_name == "Nothing"
    assert facts.keywords == {
        "family": "coreset",
        "paper": "arXiv:2006.05929",
        "labels": "hard",
        "wrapper": False,
        "matches": True,
    }
    assert [f.name for f in facts.fields] == [
        "iterations",
        "lr",
        "where",
        "layers",
        "limit",
        "note",
        "shuffle",
    ]
    assert facts.fields[0] == registry.Field("iterations", "int", "300", "Steps of the outer loop (count).")
    assert (facts.fields[2].type, facts.fields[2].default, facts.fields[2].help) == (
        "Literal['pixels', 'features']",
        "'pixels'",
        "",
    )
    assert "nothing" in registry.names("methods")


def test_facts_of_a_data_set_are_its_decorators_keywords(plugin: Plugin) -> None:
    plugin("blobs", DATASET)
    facts = registry.facts("datasets", "blobs")
    assert facts.keywords == {"shape": (1, 8, 8), "classes": 2, "train": 200, "test": 100, "sha256": None}
    assert registry.get("datasets", "blobs")().load("train", None) == "train"


def test_facts_follow_a_changed_file(plugin: Plugin) -> None:
    path = plugin("nothing", METHOD)
    assert registry.facts("methods", "nothing").fields[0].default == "300"
    path.write_text(METHOD.replace("iterations: int = 300", "iterations: int = 4_000"))
    assert registry.facts("methods", "nothing").fields[0].default == "4000"


def test_recipes_that_need_running_are_refused_with_their_line(plugin: Plugin) -> None:
    plugin("nothing", METHOD.replace("iterations=STEPS,", "iterations=max(3, 4),"))
    with pytest.raises(
        PluginError,
        match=r"nothing.py line \d+: 'max\(3, 4\)' in RECIPES cannot be read without running the file; expected literals",
    ):
        registry.facts("methods", "nothing")
    assert "max(3, 4)" in {f.name: f.problem for f in registry.listing("methods")}["nothing"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('("authors", None, None)', '("authors", None)', r"RECIPES has the row \('authors', None\)"),
        (
            '("authors", None, None)',
            '("auto", None, None)',
            r"RECIPES names a row 'auto', a word with a meaning of its",
        ),
        ('("authors", None, None)', '("authors", 3, None)', r"RECIPES has the row \('authors', 3, None\)"),
        ("RECIPES = {", "RECIPES = 3\n_ = {", "RECIPES is a int; expected"),
        ("iterations=5)", "iteration=5)", "sets 'iteration', which is no field; nearest: iterations"),
        ("STEPS = 20", "STEPS = STEPS", "line 12: 'STEPS' in RECIPES cannot be read"),
    ],
)
def test_recipes_of_a_wrong_shape_are_refused(plugin: Plugin, old: str, new: str, message: str) -> None:
    assert old in METHOD
    plugin("nothing", METHOD.replace(old, new))
    with pytest.raises(PluginError, match=message):
        registry.recipes("nothing")


# ------------------------------------------------------------------------------------------------ owners


def test_a_second_owner_of_a_name_is_refused_and_both_are_named(plugin: Plugin, tmp_path: Path) -> None:
    first = plugin("nothing", METHOD)
    registry.add_file(first)  # the same file again is no second owner
    second = tmp_path / "elsewhere" / "nothing.py"
    second.parent.mkdir()
    second.write_text(METHOD)
    with pytest.raises(PluginError) as refused:
        registry.add_file(second)
    assert str(refused.value) == f"two owners of the method 'nothing': {first} and {second}; rename one"
    assert registry.added_files() == [first]


def install(folder: Path, package: str, entry_points: str, modules: dict[str, str]) -> None:
    """An installed package with entry points, as pip leaves it."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    for name, text in modules.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def installed(plugin: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    registry._entry_points.cache_clear()
    registry._find_source.cache_clear()
    yield folder
    registry._entry_points.cache_clear()
    registry._find_source.cache_clear()


def test_an_installed_package_brings_methods_and_data_sets(installed: Path) -> None:
    install(
        installed,
        "theirs",
        "[ddbench.methods]\nnil = their_package.nil:Nothing\n[ddbench.datasets]\nblobs = their_package.blobs\n",
        {
            "their_package/__init__": "raise SystemExit('imported too early')\n",
            "their_package/nil": METHOD,
            "their_package/blobs": DATASET,
        },
    )
    assert "nil" in registry.names("methods")
    assert registry.facts("methods", "nil").fields[0].default == "300"
    assert registry.origin("methods", "nil") == "entry point nil = their_package.nil:Nothing of theirs"
    with pytest.raises(PluginError, match="method 'nil' .* failed to load: SystemExit: imported too early"):
        registry.get("methods", "nil")
    (installed / "their_package/__init__.py").write_text("")
    assert registry.get("methods", "nil")().iterations == 300
    assert registry.get("datasets", "blobs").__module__ == "their_package.blobs"


def test_two_installed_owners_are_told_when_asked_for_and_sink_nobody_else(
    installed: Path, plugin: Plugin
) -> None:
    install(installed, "one", "[ddbench.methods]\nnil = one_nil\n", {"one_nil": METHOD})
    install(
        installed, "two", "[ddbench.methods]\nnil = two_nil\ngone = nowhere.at_all\n", {"two_nil": METHOD}
    )
    plugin("nothing", METHOD)
    assert {"nil", "gone", "nothing"} <= set(registry.names("methods"))
    with pytest.raises(
        PluginError, match="two owners of the method 'nil': .*one_nil of one and .*two_nil of two"
    ):
        registry.get("methods", "nil")
    with pytest.raises(PluginError, match="the source of method 'gone' .* cannot be found; is it installed"):
        registry.get("methods", "gone")
    assert registry.get("methods", "nothing")().iterations == 300
    with pytest.raises(PluginError, match="two owners of the method 'nil'"):
        plugin("nil", METHOD)


# ------------------------------------------------------------------------------------------------ bad plug-ins


def test_a_plugin_that_fails_to_load_says_why_and_sinks_nobody_else(plugin: Plugin) -> None:
    plugin("broken", METHOD + "\nimport no_such_library\n")
    plugin("nothing", METHOD)
    assert {"broken", "nothing"} <= set(registry.names("methods"))
    for _ in range(2):  # a failed load leaves nothing behind
        with pytest.raises(
            PluginError,
            match=r"^method 'broken' \(.*broken.py\) failed to load: ModuleNotFoundError: No module named 'no_such_library'",
        ):
            registry.get("methods", "broken")
    assert registry.get("methods", "nothing")().iterations == 300


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "@dataclass(frozen=True)\n",
            "",
            "Nothing is no dataclass; write @method(...) above @dataclass(frozen=True)",
        ),
        ("(frozen=True)", "", "Nothing is a dataclass that can change; write @dataclass(frozen=True)"),
        ("def distill", "def distil", "Nothing has no function 'distill'; a method needs distill"),
        ("arXiv:2006.05929", "x", ""),
        ('family="coreset", ', "", "missing 1 required keyword-only argument: 'family'"),
        ("from ddbench.registry import method", "def method(**k): return lambda c: c", "did not come out of"),
    ],
)
def test_the_shape_of_a_method_is_checked(plugin: Plugin, old: str, new: str, message: str) -> None:
    assert old in METHOD
    plugin("nothing", METHOD.replace(old, new))
    if not message:
        registry.get("methods", "nothing")
        return
    with pytest.raises(PluginError) as refused:
        registry.get("methods", "nothing")
    assert message in str(refused.value)


def test_a_data_set_without_load_is_refused(plugin: Plugin) -> None:
    plugin("blobs", DATASET.replace("def load", "def lood"))
    with pytest.raises(PluginError, match="Blobs has no function 'load'; a data set needs load"):
        registry.get("datasets", "blobs")


def test_a_file_that_is_no_plugin_is_refused(plugin: Plugin, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no plug-in file .*none.py; expected a Python file with one class under"
    ):
        registry.add_file(tmp_path / "none.py")
    with pytest.raises(
        PluginError, match=r"empty.py: classes under @method or @dataset: none; expected exactly one"
    ):
        plugin("empty", "x = 3\n")
    with pytest.raises(PluginError, match=r"@dataset: Nothing, Blobs; expected exactly one"):
        plugin("both", METHOD + DATASET)
    with pytest.raises(PluginError, match=r"torn.py line 1: not valid Python: "):
        plugin("torn", "def torn(:\n")
    with pytest.raises(
        PluginError, match=r"my-method.py: the file's stem is the method's name; expected NAME.py"
    ):
        plugin("my-method", METHOD)
    assert registry.added_files() == []


# ------------------------------------------------------------------------------------------------ loading


def test_a_plugin_is_imported_once_under_the_package_of_its_kind(plugin: Plugin) -> None:
    plugin("nothing", METHOD)
    cls = registry.get("methods", "nothing")
    assert cls.__module__ == "ddbench.methods.nothing"
    assert registry.get("methods", "nothing") is cls
    assert pickle.loads(pickle.dumps(cls(iterations=3))) == cls(iterations=3)


def _in_worker(files: list[Path]) -> tuple[str, int]:
    for file in files:
        registry.add_file(file)
    made = registry.make("nothing", {"iterations": "3"})
    return type(made).__module__, made.iterations


def test_a_spawned_worker_knows_the_users_files_once_they_are_added_there(plugin: Plugin) -> None:
    plugin("nothing", METHOD)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_in_worker, (registry.added_files(),)) == ("ddbench.methods.nothing", 3)


def test_codecs_are_found_in_plugin_files_and_have_one_owner(plugin: Plugin) -> None:
    plugin(
        "nothing", METHOD + "\nfrom ddbench.registry import codec\n\n@codec('void')\ndef void(): return 0\n"
    )
    assert "void" in registry.names("codecs")
    assert registry.get("codecs", "void")() == 0
    with pytest.raises(
        PluginError, match="two owners of the codec 'void': ddbench.methods.nothing.void and "
    ):
        registry.codec("void")(len)
    with pytest.raises(LookupError, match="no codec 'vod'; nearest: void"):
        registry.get("codecs", "vod")


# ------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("iterations", "3", 3),
        ("iterations", 3, 3),
        ("lr", "1e-3", 1e-3),
        ("lr", 2, 2.0),
        ("where", "features", "features"),
        ("layers", "4,5", (4, 5)),
        ("layers", [4], (4,)),
        ("limit", "none", None),
        ("limit", "2.5", 2.5),
        ("note", "3", "3"),
        ("shuffle", "false", False),
        ("shuffle", "no", False),
    ],
)
def test_settings_take_the_type_of_their_field(plugin: Plugin, key: str, value: Any, expected: Any) -> None:
    plugin("nothing", METHOD)
    made = getattr(registry.make("nothing", {key: value}), key)
    assert made == expected
    assert type(made) is type(expected)


@pytest.mark.parametrize(
    ("value", "wanted", "expected"),
    [
        ("A,B", tuple[str, ...], ("A", "B")),
        (" A , B,", tuple[str, ...], ("A", "B")),
        ("ResNet18BN", tuple[str, ...], ("ResNet18BN",)),
        ("torchvision:resnet18,torchvision:resnet50", tuple[str, ...], ("torchvision:resnet18", "torchvision:resnet50")),
        ("('A', 'B')", tuple[str, ...], ("A", "B")),
        ("['A']", tuple[str, ...], ("A",)),
        (["A"], tuple[str, ...], ("A",)),
        ("1,2", tuple[str, ...], ("1", "2")),
        ("", tuple[str, ...], ()),
        ("4", tuple[int, ...], (4,)),
        ("0,4", tuple[int, int], (0, 4)),
        ("-4, 4", tuple[int, int], (-4, 4)),
    ],
)  # fmt: skip
def test_lists_of_names_and_numbers_are_read_from_plain_commas(
    value: Any, wanted: Any, expected: Any
) -> None:
    assert registry.coerce("it", value, wanted, "docs") == expected


@pytest.mark.parametrize(
    ("value", "wanted"), [("4", tuple[int, int]), ("1,x", tuple[int, ...]), ("('A'", tuple[str, ...])]
)
def test_other_lists_are_refused(value: str, wanted: Any) -> None:
    with pytest.raises(ValueError, match="it is .*; expected tuple"):
        registry.coerce("it", value, wanted, "docs")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("iterations", "many", "setting 'iterations' of method 'nothing' is 'many'; expected int"),
        ("iterations", 2.5, "setting 'iterations' of method 'nothing' is 2.5; expected int"),
        ("iterations", True, "setting 'iterations' of method 'nothing' is True; expected int"),
        ("lr", "nan", "setting 'lr' of method 'nothing' is 'nan'; expected float"),
        (
            "where",
            "pixel",
            "setting 'where' of method 'nothing' is 'pixel'; expected Literal['pixels', 'features']",
        ),
        ("layers", "a", "setting 'layers' of method 'nothing' is 'a'; expected tuple[int, ...]"),
        ("limit", "x", "setting 'limit' of method 'nothing' is 'x'; expected float | None"),
        ("note", 3, "setting 'note' of method 'nothing' is 3; expected str"),
    ],
)
def test_a_setting_of_a_wrong_type_says_field_given_and_expected(
    plugin: Plugin, key: str, value: Any, message: str
) -> None:
    plugin("nothing", METHOD)
    with pytest.raises(ValueError) as refused:
        registry.make("nothing", {key: value})
    assert message in str(refused.value)


def test_an_unknown_setting_gets_the_nearest_field(plugin: Plugin) -> None:
    plugin("nothing", METHOD)
    with pytest.raises(LookupError, match="method 'nothing' has no field 'iteration'; nearest: iterations"):
        registry.make("nothing", {"iteration": 3})
    with pytest.raises(LookupError, match="method 'nothing' has no field 'kind'"):
        registry.make("nothing", {"kind": "x"})
    plugin("bare", METHOD.partition("    iterations: int")[0] + "    def distill(self, task): pass\n")
    with pytest.raises(LookupError, match="method 'bare' has no field 'x'; it has no settings"):
        registry.make("bare", {"x": 3})


def test_settings_of_an_instance_make_it_again(plugin: Plugin) -> None:
    plugin("nothing", METHOD)
    made = registry.make("nothing", {"iterations": 9, "layers": "3,"})
    assert registry.settings_of(made) == {
        "iterations": 9,
        "lr": 1.0,
        "where": "pixels",
        "layers": (3,),
        "limit": None,
        "note": "",
        "shuffle": True,
    }
    assert registry.make("nothing", registry.settings_of(made)) == made


# ------------------------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize(
    ("recipe", "dataset", "ipc", "name", "settings", "source"),
    [
        ("auto", "cifar10", 1, "authors", {"iterations": 20_000, "lr": -0.5}, "readme, table 1"),
        ("auto", "cifar10", 50, "authors", {"iterations": 10_000, "lr": 0.01}, "readme, table 2"),
        ("auto", "mnist", 1, "authors", {"iterations": 5}, ""),
        ("cpu", "mnist", 10, "cpu", {"iterations": 300}, "ours"),
        ("released", "cifar10", 10, "released", {"iterations": 7}, "code"),
        ("defaults", "cifar10", 1, "defaults", {}, ""),
    ],
)
def test_the_closest_recipe_is_taken(
    plugin: Plugin, recipe: str, dataset: str, ipc: int, name: str, settings: dict[str, Any], source: str
) -> None:
    plugin("nothing", METHOD)
    assert registry.resolve_recipe("nothing", recipe, dataset, ipc) == registry.Recipe(name, settings, source)


def test_auto_falls_back_to_the_first_row_that_fits_and_then_to_the_defaults(plugin: Plugin) -> None:
    plugin("nothing", METHOD.replace('("authors", None, None)', '("other", "svhn", 2)'))
    assert registry.resolve_recipe("nothing", "auto", "mnist", 1).name == "cpu"
    plugin("little", METHOD.partition("RECIPES = {")[0])
    assert registry.resolve_recipe("little", "auto", "svhn", 1) == registry.Recipe("defaults", {}, "", "")
    found = registry.resolve_recipe("nothing", "auto", "imagefolder", 1)
    note = "no recipe of nothing fits imagefolder; its defaults are used"
    assert found == registry.Recipe("defaults", {}, "", note)


TABLE = """
RECIPES = {
    ("authors", "cifar10", 1): dict(iterations=1),
    ("authors", "cifar10", 10): dict(iterations=10),
    ("authors", "cifar10", 50): dict(iterations=50),
    ("authors", "tiny_imagenet", 5): dict(iterations=5),
    ("authors", "mnist", 100): dict(iterations=100),
    ("released", "cifar10", 10): dict(iterations=7, source="code"),
    ("digits", "digits", None): dict(iterations=3),
    ("cpu", "mnist", 1): dict(iterations=2),
    ("small", "cifar10", 4): dict(iterations=4),
    ("small", "cifar10", 9): dict(iterations=9),
}
"""


@pytest.mark.parametrize(
    ("recipe", "dataset", "ipc", "name", "iterations", "note"),
    [
        ("auto", "cifar10", 10, "authors", 10, ""),
        ("auto", "cifar10", 20, "authors", 10, "recipe authors of cifar10 ipc 10, the nearest to cifar10 ipc 20"),
        ("auto", "cifar10", 23, "authors", 50, "recipe authors of cifar10 ipc 50, the nearest to cifar10 ipc 23"),
        ("auto", "cifar10", 500, "authors", 50, "recipe authors of cifar10 ipc 50, the nearest to cifar10 ipc 500"),
        ("auto", "digits", 20, "digits", 3, ""),  # fits, so it comes before the authors' nearest
        ("auto", "mnist", 1, "cpu", 2, ""),
        ("auto", "mnist", 2, "authors", 100, "recipe authors of mnist ipc 100, the nearest to mnist ipc 2"),
        ("auto", "fashion_mnist", 1, "authors", 100, "recipe authors of mnist ipc 100, the nearest to fashion_mnist ipc 1"),
        ("auto", "svhn", 1, "authors", 1, "recipe authors of cifar10 ipc 1, the nearest to svhn ipc 1"),
        ("auto", "cifar100", 3, "authors", 1, "recipe authors of cifar10 ipc 1, the nearest to cifar100 ipc 3"),
        ("auto", "imagenette", 1, "authors", 5, "recipe authors of tiny_imagenet ipc 5, the nearest to imagenette ipc 1"),
        ("released", "cifar10", 3, "released", 7, "recipe released of cifar10 ipc 10, the nearest to cifar10 ipc 3"),
        ("released", "svhn", 10, "released", 7, "recipe released of cifar10 ipc 10, the nearest to svhn ipc 10"),
        ("small", "cifar10", 6, "small", 4, "recipe small of cifar10 ipc 4, the nearest to cifar10 ipc 6"),  # a tie
        ("digits", "mnist", 10, "digits", 3, "recipe digits of digits (any ipc), the nearest to mnist ipc 10"),
    ],
)  # fmt: skip
def test_a_recipe_that_does_not_exist_falls_back_to_the_nearest_and_says_so(
    plugin: Plugin, recipe: str, dataset: str, ipc: int, name: str, iterations: int, note: str
) -> None:
    plugin("nothing", METHOD.partition("RECIPES = {")[0] + TABLE)
    found = registry.resolve_recipe("nothing", recipe, dataset, ipc)
    assert (found.name, found.settings, found.note) == (name, {"iterations": iterations}, note)


def test_a_row_for_any_data_set_comes_before_that_of_another_data_set(plugin: Plugin) -> None:
    table = TABLE.replace('("authors", "tiny_imagenet", 5)', '("authors", None, 5)')
    plugin("nothing", METHOD.partition("RECIPES = {")[0] + table)
    found = registry.resolve_recipe("nothing", "auto", "svhn", 1)
    assert found.note == "recipe authors of any data set ipc 5, the nearest to svhn ipc 1"
    assert registry.resolve_recipe("nothing", "auto", "svhn", 5).note == ""
    own = registry.resolve_recipe("nothing", "auto", "cifar10", 6)
    assert own.note == "recipe authors of cifar10 ipc 10, the nearest to cifar10 ipc 6"


FORMS = """
RECIPES = {
    ("authors", "imagenette", 1): dict(iterations=1),
    ("authors", "imagenette", 10): dict(iterations=10),
    ("authors", "imagenette?resize=squash", 10): dict(iterations=11),
    ("authors", "tiny_imagenet", 100): dict(iterations=100),
    ("any", None, 10): dict(iterations=4),
    ("any", "imagenette", None): dict(iterations=5),
    ("cpu", "imagenette", None): dict(iterations=2),
}
"""


@pytest.mark.parametrize(
    ("recipe", "dataset", "ipc", "name", "iterations", "note"),
    [
        ("authors", "imagenette?resize=squash", 1, "authors", 1, ""),
        ("auto", "imagenette?resize=squash", 1, "authors", 1, ""),
        ("auto", "imagenette?resize=squash", 10, "authors", 11, ""),  # an exact row for the form
        ("auto", "imagenette", 10, "authors", 10, ""),
        ("auto", "imagenette?resize=crop", 10, "authors", 10, ""),
        ("any", "imagenette?resize=squash", 10, "any", 5, ""),  # any ipc of it comes before any data set
        ("cpu", "imagenette?resize=squash", 7, "cpu", 2, ""),
        ("authors", "imagenette?resize=squash", 2, "authors", 1,
         "recipe authors of imagenette ipc 1, the nearest to imagenette?resize=squash ipc 2"),
        ("authors", "imagenette?resize=squash", 20, "authors", 11,
         "recipe authors of imagenette?resize=squash ipc 10, the nearest to imagenette?resize=squash ipc 20"),
        ("authors", "imagenette?resize=crop", 20, "authors", 10,
         "recipe authors of imagenette ipc 10, the nearest to imagenette?resize=crop ipc 20"),
        ("auto", "imagewoof?resize=squash", 1, "authors", 1,
         "recipe authors of imagenette ipc 1, the nearest to imagewoof?resize=squash ipc 1"),
        ("auto", "mnist?side=9", 1, "defaults", None, "no recipe of nothing fits mnist?side=9; its defaults are used"),
    ],
)  # fmt: skip
def test_a_form_of_a_data_set_takes_its_own_row_or_those_of_the_data_set(
    plugin: Plugin, recipe: str, dataset: str, ipc: int, name: str, iterations: int | None, note: str
) -> None:
    plugin("nothing", METHOD.partition("RECIPES = {")[0] + FORMS)
    found = registry.resolve_recipe("nothing", recipe, dataset, ipc)
    settings = {} if iterations is None else {"iterations": iterations}
    assert (found.name, found.settings, found.note) == (name, settings, note)


def test_the_recipes_that_a_form_of_a_data_set_has_are_listed(plugin: Plugin) -> None:
    plugin("nothing", METHOD.partition("RECIPES = {")[0] + FORMS)
    with pytest.raises(LookupError) as refused:
        registry.resolve_recipe("nothing", "autors", "imagenette?resize=squash", 1)
    assert str(refused.value) == (
        "method 'nothing' has no recipe 'autors' for imagenette?resize=squash at ipc 1; for imagenette?resize=squash it "
        "has: authors (ipc 1, 10), any (any ipc), cpu (any ipc) (always: auto, defaults)"
    )


@pytest.mark.parametrize("recipe", ["authors", "auto"])
def test_the_form_that_mtt_names_has_the_settings_of_its_authors(recipe: str) -> None:
    form = registry.resolve_recipe("mtt", recipe, "imagenette?resize=squash", 1)
    assert form == registry.resolve_recipe("mtt", "authors", "imagenette", 1)
    assert form.note == "" and form.settings["syn_steps"] == 20


DATASETS = ["digits", "mnist", "cifar10", "cifar100", "svhn", "tiny_imagenet", "imagenette"]
SQUASHED = "imagenette?resize=squash"


@given(
    st.dictionaries(
        st.tuples(
            st.sampled_from(["authors", "released", "cpu"]),
            st.sampled_from([None, *DATASETS, SQUASHED, "gone"]),
            st.none() | st.integers(0, 200),
        ),
        st.builds(dict, iterations=st.integers(1, 9)),
    ),
    st.sampled_from([*DATASETS, SQUASHED, "imagefolder:/somewhere", "imagefolder:/somewhere?size=64", ""]),
    st.integers(0, 2000),
)
def test_auto_always_finds_the_same_recipe_and_an_exact_row_wins(
    rows: dict[Any, Any], dataset: str, ipc: int
) -> None:
    with mock.patch.object(registry, "recipes", lambda name: rows):
        found = registry.resolve_recipe("random", "auto", dataset, ipc)
        assert found == registry.resolve_recipe("random", "auto", dataset, ipc)
        fits = [k for k in rows if k[1] in (dataset, dataset.partition("?")[0], None) and k[2] in (ipc, None)]
        exact = rows.get(("authors", dataset, ipc))
        assert exact is None or (found.name, found.settings, found.note) == ("authors", exact, "")
        assert bool(found.note) == (bool(rows) and not fits)
        for name, own, count in rows:  # a name resolves to itself wherever it has a row of its own
            if own == dataset:
                assert registry.resolve_recipe("random", name, dataset, ipc).name == name
                own_ipc = ipc if count is None else count  # a row may be for ipc 0 (whole data)
                assert registry.resolve_recipe("random", name, dataset, own_ipc).note == ""


def test_a_data_set_whose_facts_cannot_be_read_has_no_near_ones(plugin: Plugin) -> None:
    plugin("nothing", METHOD.partition("RECIPES = {")[0] + TABLE)
    plugin("blobs", DATASET.replace("shape=(1, SIDE, SIDE), ", ""))
    assert registry.resolve_recipe("nothing", "auto", "blobs", 1).name == "defaults"


def test_a_recipe_that_does_not_exist_lists_those_that_do(plugin: Plugin) -> None:
    plugin("nothing", METHOD)
    with pytest.raises(LookupError) as refused:
        registry.resolve_recipe("nothing", "releasd", "cifar10", 1)
    assert str(refused.value) == (
        "method 'nothing' has no recipe 'releasd' for cifar10 at ipc 1; for cifar10 it has: "
        "authors (any ipc), released (ipc 10) (always: auto, defaults)"
    )
    with pytest.raises(LookupError) as refused:  # greyscale and colour are not near each other
        registry.resolve_recipe("nothing", "released", "mnist", 1)
    assert str(refused.value) == (
        "method 'nothing' has no recipe 'released' for mnist at ipc 1 (it has it for cifar10); for mnist it has: "
        "cpu (any ipc), authors (any ipc) (always: auto, defaults)"
    )


# ------------------------------------------------------------------------------------------------ wrappers


def test_a_wrapper_changes_the_base_and_what_it_sees(plugin: Plugin) -> None:
    plugin("nothing", METHOD)
    plugin("twice", WRAPPER)
    assert registry.parts("twice+nothing") == ("twice", "nothing")
    assert registry.parts("nothing") == (None, "nothing")
    made = registry.make("twice+nothing", {"iterations": "5", "factor": 3, "nothing.lr": 2, "twice.lr": 0.25})
    task = SimpleNamespace(view=lambda images, labels: "not seen", ipc=1)
    assert made.distill(task) == [15, 2.0] * 3
    assert registry.make("twice+nothing", registry.settings_of(made)) == made
    assert registry.settings_of(made)["twice.lr"] == 0.25
    facts = registry.facts("methods", "twice+nothing")
    assert facts.summary == "Sees every image twice. Around: Nothing at all: keeps no image."
    assert [f.name for f in facts.fields][-2:] == ["twice.factor", "twice.lr"]
    assert [p.stem for p in registry.sources("methods", "twice+nothing")] == ["twice", "nothing"]
    recipe = registry.resolve_recipe("twice+nothing", "auto", "cifar10", 1)
    assert recipe.settings == {"iterations": 20_000, "nothing.lr": -0.5}  # both have a field lr
    assert registry.make("twice+nothing", {**recipe.settings, "twice.factor": 4}).base.lr == -0.5
    assert registry.resolve_recipe("twice+nothing", "cpu", "fashion_mnist", 1).note == (
        "recipe cpu of mnist (any ipc), the nearest to fashion_mnist ipc 1"
    )
    assert registry.recipes("twice+nothing") == registry.recipes("nothing")


def test_a_wrapper_around_a_method_without_a_matching_step_is_refused(plugin: Plugin) -> None:
    plugin("nothing", METHOD.replace('paper="arXiv:2006.05929"', "matches=False"))
    plugin("twice", WRAPPER)
    for call in (registry.parts, registry.make, lambda n: registry.facts("methods", n)):
        with pytest.raises(LookupError) as refused:
            call("twice+nothing")
        assert str(refused.value) == (
            "method 'nothing' has no matching step, so twice would change nothing of it; write nothing alone, "
            "or wrap a method that matches, for example twice+dm"
        )
    assert registry.parts("nothing") == (None, "nothing")


def test_methods_that_only_choose_or_recover_images_say_that_they_do_not_match() -> None:
    for facts in registry.listing("methods"):
        chooses = facts.keywords["family"] in ("coreset", "upper bound", "recovery", "selection")
        assert facts.keywords["matches"] is not chooses, facts.name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("twic+nothing", "no method 'twic'; nearest: twice"),
        ("twice+nothin", "no method 'nothin'; nearest: nothing"),
        (
            "nothing+nothing",
            "method 'nothing' is no wrapper, so 'nothing.nothing' means nothing; write nothing alone",
        ),
        ("twice", r"'twice' wraps other methods; write twice\+METHOD, for example twice\+dm"),
        ("twice+twice", r"'twice' wraps other methods; write twice\+METHOD"),
        ("twice+", r"no method 'twice\+'; expected METHOD or WRAPPER\+METHOD"),
        ("+nothing", r"no method '\+nothing'; expected METHOD or WRAPPER\+METHOD"),
        (
            "twice+twice+nothing",
            r"no method 'twice\+twice\+nothing'; expected METHOD or WRAPPER\+METHOD",
        ),
    ],
)
def test_both_sides_of_a_plus_are_checked(plugin: Plugin, name: str, message: str) -> None:
    plugin("nothing", METHOD)
    plugin("twice", WRAPPER)
    for call in (registry.parts, registry.make, lambda n: registry.facts("methods", n)):
        with pytest.raises(LookupError, match=message):
            call(name)


def test_a_field_that_both_sides_have_needs_its_owners_name(plugin: Plugin) -> None:
    plugin("nothing", METHOD)
    plugin("twice", WRAPPER)
    with pytest.raises(
        LookupError, match=r"field 'lr' belongs to both twice and nothing; write twice.lr or nothing.lr"
    ):
        registry.make("twice+nothing", {"lr": 1})
    with pytest.raises(LookupError, match=r"method 'twice\+nothing' has no field 'facto'; nearest: .*factor"):
        registry.make("twice+nothing", {"facto": 1})


def test_a_wrapper_without_view_is_refused(plugin: Plugin) -> None:
    plugin("nothing", METHOD)
    plugin("twice", WRAPPER.replace("def view", "def see"))
    with pytest.raises(PluginError, match="Twice has no function 'view'; a method needs wrap, view"):
        registry.make("twice+nothing")
