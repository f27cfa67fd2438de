"""Plans: suites and flags become cells; faults are said with line, field and the nearest valid value."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ddbench import plan

GOOD = """\
name: mine
datasets: [digits]
methods:
  - random
  - name: dm
    settings: {iterations: 5}
ipc: [1, 10]
seeds: 2
protocols: [quick]
networks: [ConvNetD2W32, MLP]
repeats: 3
"""


def suite_of(tmp_path, text: str) -> plan.Suite:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return plan.load(path)


def test_a_suite_becomes_every_combination(tmp_path):
    cells = plan.cells(suite_of(tmp_path, GOOD))
    assert len(cells) == 2 * 2 * 2 * 2  # methods, ipc, seeds, networks
    assert {c.network for c in cells} == {"ConvNetD2W32", "MLP"} and {c.repeats for c in cells} == {3}
    assert {c.distil.method: c.distil.settings for c in cells} == {"random": {}, "dm": {"iterations": 5}}
    assert [c.distil.seed for c in cells] == [0] * 8 + [1] * 8, "seeds are outermost"
    assert len({c.model_dump_json() for c in cells}) == len(cells)


def test_a_method_may_be_scored_under_protocols_of_its_own(tmp_path):
    text = GOOD.replace("random", "{name: random, protocols: [dc-dsa, quick-kd]}", 1)
    cells = plan.cells(suite_of(tmp_path, text))
    asked = {c.protocol for c in cells if c.distil.method == "random"}
    assert asked == {"dc-dsa", "quick-kd"} and {c.protocol for c in cells} > asked
    with pytest.raises(plan.PlanError, match=r"line \d+.*protocol.*quick-kb.*nearest: quick-kd"):
        suite_of(tmp_path, text.replace("quick-kd", "quick-kb"))


def test_full_stands_once_a_seed_and_last_under_the_protocol_that_the_suite_names(tmp_path):
    cells = plan.cells(
        suite_of(tmp_path, GOOD + "upper_bound: {method: full, protocol: quick-full, repeats: 1}\n")
    )
    full = [c for c in cells if c.distil.method == "full"]
    assert [(c.distil.ipc, c.distil.seed, c.protocol, c.repeats) for c in full[::2]] == [
        (0, 0, "quick-full", 1), (0, 1, "quick-full", 1)
    ]  # fmt: skip
    assert cells[-len(full) :] == full


def test_full_among_the_flags_takes_the_capped_twin_and_no_ipc():
    cells = plan.cells(plan.from_flags(methods=["full", "random"], ipc=[1, 2], networks=["MLP"]))
    assert [(c.distil.method, c.distil.ipc, c.protocol) for c in cells] == [
        ("random", 1, "quick"), ("random", 2, "quick"), ("full", 0, "quick-full")
    ]  # fmt: skip
    assert plan.full_protocol("quick-full") == "quick-full"


def test_the_embedded_suite_is_the_one_of_the_readme():
    cells = plan.cells(plan.load("embedded"))
    matching = {"dm", "datadam", "dsa", "idc", "ncfm", "mtt", "datm"}
    labelled = {"random", "dm", "cda", "cvdd"}
    chosen = {"full", "random", "herding", "k_center"}
    assert {c.distil.method for c in cells} == {*chosen, *matching, *labelled}
    assert {c.distil.method for c in cells if c.protocol == "quick-kd"} == labelled
    assert {c.distil.method for c in cells if c.protocol == "quick"} == {*chosen, *matching} - {"full"}
    randoms = {
        (c.protocol, c.distil.settings.get("labels", "")) for c in cells if c.distil.method == "random"
    }
    assert randoms == {("quick", ""), ("quick-kd", ""), ("quick-kd", "committee")}, (
        "under both teachers' labels"
    )
    assert {c.distil.dataset for c in cells} == {"digits"} and {c.distil.seed for c in cells} == {0, 1, 2}
    assert {c.network for c in cells} == {"ConvNetD2W32"} and {c.protocol for c in cells} == {
        "quick",
        "quick-kd",
        "quick-full",
    }
    assert len(cells) == (10 + 5) * 2 * 3 + 3


def test_networks_and_repeats_come_from_the_protocol_where_the_suite_has_none():
    cells = plan.cells(plan.from_flags(methods=["random"], protocols=["quick"]))
    from ddbench.protocols.rows import ROWS

    assert [c.network for c in cells] == list(ROWS["quick"].plan.networks)
    assert cells[0].repeats == ROWS["quick"].plan.repeats


def test_a_pool_stands_for_its_networks_and_doubles_fall_together():
    cells = plan.cells(plan.from_flags(methods=["random"], networks=["M", "ConvNetD3"]))
    assert [c.network for c in cells] == ["MLP", "ConvNet", "LeNet", "AlexNet", "VGG11", "ResNet18"]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("seeds: 2", "seeds: two", r"mine.yaml line 8, field seeds: given 'two' \(str\); expected a list"),
        ("seeds: 2", "seeds: 0", r"line 8, field seeds: given 0 \(int\); expected a list"),
        ("ipc: [1, 10]", "ipc: [1, ten]", r"line 7, field ipc\[1\]: given 'ten' \(str\); expected a whole number"),
        ("ipc: [1, 10]", "ipc: 1", r"line 7, field ipc: given 1 \(int\); expected a list, such as \[1, 10\]"),
        ("ipc: [1, 10]", "ipc: [0, 10]", r"line 7, field ipc\[0\]: ipc is 0; expected at least 1 .*method 'full'"),
        ("ipc: [1, 10]", "ipc: [-3]", r"line 7, field ipc\[0\]: ipc is -3; expected at least 1"),
        ("ipc: [1, 10]", "ipc: []", r"line 7, field ipc: no number; expected at least one"),
        ("ipc: [1, 10]", "ipc: [1, 1]", r"line 7, field ipc\[1\]: 1 stands there twice"),
        ("  - random", "  - randm", r"line 4, field methods\[0\].name: no method 'randm'; nearest: random"),
        ("    settings: {iterations: 5}", "    settings: {iteratons: 5}",
         r"line 6, field methods\[1\].settings: method 'dm' has no setting 'iteratons'; nearest: iterations"),
        ("    settings: {iterations: 5}", "    setings: {iterations: 5}",
         r"line 6, field methods\[1\].setings: no such field; nearest: settings"),
        ("    settings: {iterations: 5}", "    recipe: authrs",
         r"line 6, field methods\[1\].recipe: method 'dm' has no recipe 'authrs' for digits"),
        ("datasets: [digits]", "datasets: [digit]", r"line 2, field datasets\[0\]: no data set 'digit'; nearest: digits"),
        ("datasets: [digits]", "", r"line 1, field datasets: given nothing; expected this field"),
        ("protocols: [quick]", "protocols: [quik]", r"field protocols\[0\]: no protocol 'quik'; nearest: quick"),
        ("networks: [ConvNetD2W32, MLP]", "networks: [ConvNt]", r"field networks\[0\]: no network 'ConvNt'; nearest: ConvNet"),
        ("networks: [ConvNetD2W32, MLP]", "networks: [ConvNet, ConvNetD3]", r"field networks\[1\]: 'ConvNet' .* twice"),
        ("repeats: 3", "repeats: 0", r"line 11, field repeats: given 0 \(int\); expected at least 1"),
        ("repeats: 3", "repeat: 3", r"line 11, field repeat: no such field; nearest: repeats"),
        ("repeats: 3", "name: again", r"line 11: field name stands on line 1 already; keep one"),
        ("repeats: 3", "repeats: [3", r"line 12: not valid YAML: "),
        ("seeds: 2", "seeds: [-1]", r"field seeds\[0\]: seed is -1; expected 0 or more"),
        ("repeats: 3", "upper_bound: {method: full, protocol: quck}", r"field upper_bound.protocol: no protocol 'quck'"),
    ],
)  # fmt: skip
def test_a_fault_in_a_suite_is_said_with_line_and_field(tmp_path, old, new, text):
    assert old in GOOD
    with pytest.raises(plan.PlanError, match=text):
        suite_of(tmp_path, GOOD.replace(old, new))


def test_all_faults_are_said_at_once(tmp_path):
    with pytest.raises(plan.PlanError) as caught:
        suite_of(tmp_path, GOOD.replace("random", "randm").replace("[1, 10]", "[0]"))
    assert len(str(caught.value).splitlines()) == 2


def test_no_suite_and_no_mapping_are_said(tmp_path):
    with pytest.raises(
        plan.PlanError, match=r"no suite 'embeded'; nearest: embedded \(or a file: FILE.yaml\)"
    ):
        plan.load("embeded")
    with pytest.raises(plan.PlanError, match=r"no suite file .*nothing.yaml"):
        plan.load(tmp_path / "nothing.yaml")
    with pytest.raises(plan.PlanError, match=r"mine.yaml line 1: given list; expected fields such as"):
        suite_of(tmp_path, "- digits\n")
    (tmp_path / "bad.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(plan.PlanError, match=r"bad.yaml: byte 6 is not UTF-8"):
        plan.load(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (dict(methods=["randm"]), r"--method: no method 'randm'; nearest: random"),
        (dict(methods=["random"], ipc=[0]), r"--ipc: ipc is 0; expected at least 1"),
        (dict(methods=["random"], datasets=["cifar"]), r"--dataset: no data set 'cifar'; nearest: cifar10"),
        (
            dict(methods=["full"], settings={"lr": "1"}),
            r"--set: method 'full' has no setting 'lr'; it has no settings",
        ),
        (dict(methods=["dm"], recipe="nobody"), r"--recipe: method 'dm' has no recipe 'nobody' for digits"),
        (dict(methods=["random"], seeds=0), r"--seeds: given 0 \(int\)"),
        (dict(methods=["random"], repeats=0), r"--repeats: given 0 \(int\); expected at least 1"),
        (dict(methods=["random"], protocols=["x"]), r"--protocol: no protocol 'x'"),
        (dict(methods=["random"], networks=["x"]), r"--network: no network 'x'"),
        (dict(methods=[]), r"--method: no method; expected at least one"),
    ],
)
def test_a_fault_in_the_flags_names_the_flag(flags, text):
    with pytest.raises(plan.PlanError, match=text):
        plan.from_flags(**flags)


def test_a_recipe_for_all_leaves_methods_without_recipes_alone():
    from ddbench import registry

    assert not registry.recipes("random"), "this test needs a method without recipes"
    name = next(key[0] for key in registry.recipes("dm") if key[1] in ("digits", None))
    cells = plan.cells(plan.from_flags(methods=["random", "dm"], recipe=name, ipc=[1]))
    assert [c.distil.recipe for c in cells] == ["auto", name]


def test_settings_are_read_as_pairs():
    assert plan.parse_settings(["a=1", "b=x=y"]) == {"a": "1", "b": "x=y"}
    with pytest.raises(plan.PlanError, match="--set: given 'a'; expected KEY=VALUE"):
        plan.parse_settings(["a"])


def test_planning_does_not_import_torch():
    code = "import sys; from ddbench import plan; plan.cells(plan.load('embedded')); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_default_students_of_larger_images_are_deeper():
    suite = plan.from_flags(methods=["random"], datasets=["tiny_imagenet"], protocols=["dc-dsa"])
    assert [c.network for c in plan.cells(suite)] == ["ConvNetD4"]
