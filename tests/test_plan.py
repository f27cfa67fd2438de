"""Plans: suites and flags become cells; faults are said with line, field and the nearest valid value."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ddbench import claims, plan, registry
from ddbench.claims import Claim
from ddbench.nets import names
from ddbench.protocols.rows import ROWS

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


# ------------------------------------------------------------------------------------------------ parts, entries of their own

PARTS = """\
name: parted
seeds: 2
ipc: [1, 10]
protocols: [quick]
networks: [MLP]
parts:
  - datasets: [digits]
    methods: [random, {name: dm, ipc: [10], networks: [ConvNetD1]}]
  - datasets: [mnist]
    methods: [{name: idc, ipc: [5]}, full]
    seeds: [7]
    protocols: [dc-dsa]
"""


def test_parts_take_from_the_top_what_they_leave_out(tmp_path):
    cells = plan.cells(suite_of(tmp_path, PARTS))
    digits = [c for c in cells if c.distil.dataset == "digits"]
    assert [(c.distil.seed, c.distil.ipc, c.distil.method, c.network) for c in digits] == [
        (seed, *rest)
        for seed in (0, 1)
        for rest in ((1, "random", "MLP"), (10, "random", "MLP"), (10, "dm", "ConvNetD1"))
    ]
    mnist = [c for c in cells if c.distil.dataset == "mnist"]
    assert [(c.distil.method, c.distil.ipc, c.distil.seed, c.protocol) for c in mnist] == [
        ("idc", 5, 7, "dc-dsa"), ("full", 0, 7, "dc-dsa-full")
    ]  # fmt: skip
    assert cells[-1].distil.method == "full", "all of the data comes last, whatever its part"


def test_seeds_repeats_and_recipe_of_a_command_reach_all_parts(tmp_path):
    suite = plan.changed(suite_of(tmp_path, PARTS), seeds=[3], repeats=4, recipe="cpu")
    cells = plan.cells(suite)
    assert {c.distil.seed for c in cells} == {3} and {c.repeats for c in cells} == {4}
    assert {c.distil.method: c.distil.recipe for c in cells} == {
        "random": "auto", "dm": "cpu", "idc": "cpu", "full": "auto"
    }, "methods without such a recipe keep the one that fits"  # fmt: skip
    with pytest.raises(plan.PlanError, match=r"--recipe: method 'dm' has no recipe 'cpuu' for digits"):
        plan.changed(suite, recipe="cpuu")


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("ipc: [1, 10]\n", "", r"line 6, field parts\[0\].ipc: given nothing; expected this field"),
        ("  - datasets: [mnist]\n    methods", "  - methods",
         r"line 9, field parts\[1\].datasets: given nothing; expected this field"),
        ("[mnist]", "[mnst]", r"line 9, field parts\[1\].datasets\[0\]: no data set 'mnst'; nearest: mnist"),
        ("protocols: [quick]", "protocols: [quik]", r"line 4, field protocols\[0\]: no protocol 'quik'; nearest: quick"),
        ("ipc: [5]", "ipc: [0]", r"line 10, field parts\[1\].methods\[0\].ipc\[0\]: ipc is 0; expected at least 1"),
        ("ipc: [5]", "ipx: [5]", r"line 10, field parts\[1\].methods\[0\].ipx: no such field; nearest: ipc"),
        ("networks: [ConvNetD1]", "networks: [ConvNt]",
         r"line 8, field parts\[0\].methods\[1\].networks\[0\]: no network 'ConvNt'; nearest: ConvNet"),
        ("seeds: [7]", "sseds: [7]", r"line 11, field parts\[1\].sseds: no such field; nearest: seeds"),
        ("seeds: [7]", "seeds: [-7]", r"line 11, field parts\[1\].seeds\[0\]: seed is -7; expected 0 or more"),
        ("name: parted", "claims: all", r"line 1, field claims: stands beside parts; expected it in one of the parts"),
        ("seeds: [7]", "name: x", r"line 11, field parts\[1\].name: no such field"),
        ("parts:", "parts: []\nother:", r"field parts: given \[\] \(list\); expected at least one entry"),
    ],
)  # fmt: skip
def test_a_fault_in_a_part_is_said_with_its_line(tmp_path, old, new, text):
    assert old in PARTS
    with pytest.raises(plan.PlanError, match=text):
        suite_of(tmp_path, PARTS.replace(old, new))


# ------------------------------------------------------------------------------------------------ cells of published numbers


def claim(method="dm", dataset="cifar10", ipc=1, **more):
    fields = dict(
        id="x-1", paper="x", method=method, dataset=dataset, network="ConvNet", protocol="dc-dsa",
        ipc=ipc, value=26.0, source="a table",
    )  # fmt: skip
    return Claim(**{**fields, **more})


@pytest.fixture
def published(monkeypatch):
    made = [
        claim(),
        claim(ipc=10, network="AlexNet", quoted=True),
        claim("random", "mnist", 10),
        claim("mtt", "cifar10", 1, protocol="mtt", paper="y"),
        claim("somebodys", external=("method",)),
        claim("dm", ipc=None, keep=0.1, external=("ipc",)),
        claim("dm", task="cl-5"),
        claim("full", ipc=0),
    ]
    monkeypatch.setattr(claims, "published", lambda: made)
    return made


def claimed_cells(tmp_path, filters: str):
    cells = plan.cells(suite_of(tmp_path, f"claims: {filters}\n"))
    return [
        (c.distil.method, c.distil.recipe, c.distil.dataset, c.distil.ipc, c.protocol, c.network)
        for c in cells
    ]


def test_claims_become_cells_under_their_own_protocols_and_their_authors_recipes(tmp_path, published):
    assert claimed_cells(tmp_path, "all") == [
        ("random", "defaults", "mnist", 10, "dc-dsa", "ConvNet"),
        ("dm", "authors", "cifar10", 1, "dc-dsa", "ConvNet"),
        ("mtt", "authors", "cifar10", 1, "mtt", "ConvNet"),
        ("dm", "authors", "cifar10", 10, "dc-dsa", "AlexNet"),
    ], "small images and sets first; what ddbench cannot measure is left out"


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ("{methods: [dm]}", 2),
        ("{methods: [dm], quoted: false}", 1),
        ("{papers: [y]}", 1),
        ("{ipc: [10]}", 2),
        ("{datasets: [mnist]}", 1),
        ("{protocols: [mtt]}", 1),
    ],
)
def test_claims_are_filtered(tmp_path, published, filters, count):
    assert len(claimed_cells(tmp_path, filters)) == count


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("claims: some", r"line 1, field claims: given 'some' \(str\); expected a mapping"),
        ("claims: {method: [dm]}", r"line 1, field claims.method: no such field; nearest: methods"),
        (
            "claims: {methods: [radom]}",
            r"line 1, field claims.methods\[0\]: no method 'radom'; nearest: random",
        ),
        ("claims: {ipc: [77]}", r"line 1, field claims: no published number .* is of these.* ddbench claims"),
        ("claims: all\nipc: [1]", r"line 2, field ipc: stands beside claims, .*expected it inside claims"),
    ],
)
def test_a_fault_of_claims_is_said_with_its_line(tmp_path, published, text, message):
    with pytest.raises(plan.PlanError, match=message):
        suite_of(tmp_path, text + "\n")


def test_the_recipe_of_a_claim_is_the_authors_that_fits():
    assert plan.authors_recipe(claim("dm", ipc=10)) == "authors"
    assert plan.authors_recipe(claim("dm", ipc=7)) == "auto", "which takes the nearest row"
    assert plan.authors_recipe(claim("dm", "mnist", recipe="cpu")) == "cpu", "the claim names it"
    assert plan.authors_recipe(claim("random")) == "defaults", "its authors have none"


# ------------------------------------------------------------------------------------------------ suites that come along


def test_every_suite_plans_and_names_what_it_is_about():
    assert list(plan.suites()) == ["cifar", "embedded", "large", "reproduce", "small"]
    cells = {name: plan.cells(plan.load(name)) for name in plan.suites()}
    assert {name: len(found) for name, found in cells.items() if name != "reproduce"} == {
        "embedded": 93, "small": 246, "cifar": 678, "large": 187
    }  # fmt: skip

    def seen(suite: str, field: str) -> set:
        return {getattr(c.distil, field) for c in cells[suite]}

    assert seen("small", "dataset") == {"mnist", "cifar10"} and seen("small", "ipc") == {0, 1, 10}
    assert seen("cifar", "dataset") == {"cifar10", "cifar100"} and seen("cifar", "ipc") == {0, 1, 10, 50}
    imagenet = {
        "imagenet1k",
        "tiny_imagenet",
        "imagenette",
        "imagewoof",
        "imagefruit",
        "imagemeow",
        "imagesquawk",
    }
    assert seen("large", "dataset") == imagenet | {"imageyellow"}
    # every cell of the first three is accepted as far as the names say: networks fit the images
    for suite in ("small", "cifar", "large"):
        for c in cells[suite]:
            shape = registry.facts("datasets", c.distil.dataset).keywords["shape"]
            assert names.why_not(c.network, shape) is None


def test_every_claim_of_ours_is_a_cell_of_the_suite_reproduce():
    cells = plan.cells(plan.load("reproduce"))
    found = {
        (c.distil.method, c.distil.dataset, c.distil.ipc, c.protocol, names.canonical(c.network))
        for c in cells
    }
    asked = {
        (c.method, c.dataset, c.ipc, c.protocol, names.canonical(c.network))
        for c in claims.published()
        if c.ours and c.ipc and c.method != "full"
    }
    assert found == asked and len(asked) > 100
    assert not any(c.distil.settings for c in cells)


@pytest.mark.parametrize("name", ["small", "reproduce"])
def test_suites_plan_without_torch(name):
    code = f"import sys; from ddbench import plan; plan.cells(plan.load({name!r})); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------------------------------------ several values of a setting


@pytest.mark.parametrize(
    ("pairs", "methods", "single", "several"),
    [
        (["image_lr=1,3,10"], ["dm"], {}, {"image_lr": ["1", "3", "10"]}),
        (["image_lr=1|3"], ["dm"], {}, {"image_lr": ["1", "3"]}),
        (["image_lr=1", "image_lr=3"], ["dm"], {}, {"image_lr": ["1", "3"]}),
        (["init=real|noise", "iterations=5"], ["dm"], {"iterations": "5"}, {"init": ["real", "noise"]}),
        # a comma in a text or a list is a part of it
        (["init=real,noise"], ["dm"], {"init": "real,noise"}, {}),
        (["roll=0,4"], ["cda"], {"roll": "0,4"}, {}),
        (["roll=0,4|0,8"], ["cda"], {}, {"roll": ["0,4", "0,8"]}),
        (["networks=MLP,ConvNet"], ["cvdd"], {"networks": "MLP,ConvNet"}, {}),
        (["mean=0.1,0.2,0.3"], ["mtt"], {"mean": "0.1,0.2,0.3"}, {}),
        # "int | None" is one number
        (["first_max_start_epoch=1,none"], ["datm"], {}, {"first_max_start_epoch": ["1", "none"]}),
        (["zca=true,false"], ["mtt"], {}, {"zca": ["true", "false"]}),
        (["always_flip=true,false"], ["fyi+dm"], {}, {"always_flip": ["true", "false"]}),
        (["fyi.always_flip=true,false"], ["fyi+dm"], {}, {"fyi.always_flip": ["true", "false"]}),
        # nobody has it: said where settings are checked
        (["imge_lr=1,3"], ["dm"], {"imge_lr": "1,3"}, {}),
    ],
)  # fmt: skip
def test_several_values_are_told_from_one_that_has_commas(pairs, methods, single, several):
    assert plan.parse_sweeps(pairs, methods) == (single, several)


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        (["image_lr=1,"], r"--set: image_lr has an empty value among 2"),
        (["image_lr=1,1"], r"--set: image_lr is 1 twice; expected different values"),
        (["image_lr"], r"--set: given 'image_lr'; expected KEY=VALUE"),
    ],
)
def test_values_that_cannot_be_compared_are_said(pairs, text):
    with pytest.raises(plan.PlanError, match=text):
        plan.parse_sweeps(pairs, ["dm"])


def test_one_setting_twice_is_an_error_where_nothing_is_compared():
    with pytest.raises(plan.PlanError, match=r"--set: a is given twice, 1 and 2; expected one value"):
        plan.parse_settings(["a=1", "a=2"])


def test_cells_that_differ_in_seed_and_network_choose_together():
    suite = plan.from_flags(
        methods=["dm", "dc"], ipc=[1, 10], seeds=3, networks=["MLP", "ConvNetD1"], settings={"image_lr": "1"}
    )
    values = {"image_lr": ["1", "3"], "batch_real": ["16", "32"]}
    groups = plan.swept(plan.cells(suite), values)
    assert [(len(g.cells), g.cells[0].distil.method, g.cells[0].distil.ipc) for g in groups] == [
        (6, "dm", 1), (6, "dc", 1), (6, "dm", 10), (6, "dc", 10)
    ]  # fmt: skip
    assert groups[0].candidates == tuple(
        {"image_lr": a, "batch_real": b} for a in ("1", "3") for b in ("16", "32")
    )
    trials = groups[0].trials(99)
    assert [t.distil.settings for t in trials] == list(groups[0].candidates)
    assert {(t.distil.seed, t.network) for t in trials} == {(99, "MLP")}
    chosen = groups[0].chosen(groups[0].candidates[2])
    assert {c.distil.settings["image_lr"] for c in chosen} == {"3"}
    assert [(c.distil.seed, c.network) for c in chosen] == [
        (c.distil.seed, c.network) for c in groups[0].cells
    ]


@pytest.mark.parametrize("protocol", ["dc-dsa-full", "quick-full"])
def test_protocols_of_all_the_data_have_nothing_to_choose_by(protocol):
    cells = plan.cells(plan.from_flags(methods=["dm"], protocols=[protocol]))
    with pytest.raises(plan.PlanError, match=f"--set: image_lr cannot be chosen under protocol {protocol}"):
        plan.swept(cells, {"image_lr": ["1", "3"]})


def test_protocols_that_score_something_else_than_accuracy_are_refused():
    other = [n for n, row in ROWS.items() if row.kind not in ("train", "native")]
    for protocol in other:
        cells = plan.cells(plan.from_flags(methods=["dm"], protocols=[protocol]))
        with pytest.raises(plan.PlanError, match=f"cannot be chosen under protocol {protocol}"):
            plan.swept(cells, {"image_lr": ["1", "3"]})


@pytest.mark.parametrize("share", [0, 1, -0.5, 2, float("nan")])
def test_a_share_to_hold_out_is_between_0_and_1(share):
    with pytest.raises(plan.PlanError, match=r"--holdout is .*; expected a share between 0 and 1"):
        plan.check_holdout(share)


def test_the_suites_of_the_page_plan(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "suites.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        assert len(plan.cells(suite_of(tmp_path, block))) > 5
