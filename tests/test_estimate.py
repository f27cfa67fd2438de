"""Estimates: the arithmetic beside what torch counts and what records measured; sums, ranges, and what a dry run prints."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import FIRST, ddbench, plugin  # noqa: F401
from torch.utils.flop_counter import FlopCounterMode

from ddbench import estimate, host, plan, registry, store
from ddbench.estimate import NOTHING, UNKNOWN, Amount
from ddbench.nets import names
from ddbench.nets.build import build
from ddbench.records import Cell, DistilCell
from ddbench.train import priors, squeeze

ROOT = Path(__file__).resolve().parent.parent
RECORDS = store.RunFolder(ROOT / "leaderboards").records()
SMALL = (
    "ConvNet",
    "ConvNetD2W32",
    "ConvNetW32",
    "ConvNetD4",
    "ConvNetBN",
    "ConvNetNN",
    "ConvNetNP",
    "ConvNetMP",
    "MLP",
)


def cell(
    method="dm",
    dataset="digits",
    ipc=1,
    protocol="quick",
    network="ConvNetD2W32",
    repeats=5,
    recipe="auto",
    seed=0,
    **more,
):
    distil = DistilCell(method=method, recipe=recipe, settings=more, dataset=dataset, ipc=ipc, seed=seed)
    return Cell(distil=distil, protocol=protocol, network=network, repeats=repeats)


def cpu(records=(), threads=2) -> estimate.Estimator:
    return estimate.Estimator(estimate.reference("cpu", threads), records)


# ------------------------------------------------------------------------------------------------ networks


def real_count(name: str, shape: tuple[int, int, int], classes: int) -> tuple[int, int]:
    network = build(name, shape, classes, torch.Generator().manual_seed(0)).eval()
    with FlopCounterMode(display=False) as count, torch.no_grad():
        network(torch.zeros(1, *shape))
    return count.get_total_flops() // 2, sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", [*SMALL, *names._FIXED])
def test_the_cost_of_a_network_is_what_torch_counts(name):
    sizes = ((1, 8, 8), 10), ((1, 28, 28), 10), ((3, 32, 32), 100), ((3, 64, 64), 200)
    fitting = [(s, k) for s, k in sizes if names.why_not(name, s) is None]
    assert fitting
    if name in names._FIXED and name != "MLP":
        fitting = fitting[-1:]  # they take a second to build
    for shape, classes in fitting:
        macs, parameters = real_count(name, shape, classes)
        cost = estimate.network_cost(name, shape, classes)
        assert cost is not None
        assert cost.macs == pytest.approx(macs, rel=0.02), (name, shape)
        assert cost.parameters == pytest.approx(parameters, rel=0.02), (name, shape)


def test_networks_of_libraries_have_a_cost_where_the_table_has_them():
    large = [n for n in estimate._FIXED if n.startswith("torchvision:")]
    assert sorted(large) == sorted(set(names._LARGE.values()))
    macs, parameters = real_count("torchvision:resnet18", (3, 64, 64), 1000)
    cost = estimate.network_cost("torchvision:resnet18", (3, 64, 64), 1000)
    assert cost is not None and cost.parameters == pytest.approx(parameters, rel=0.02)
    assert cost.macs == pytest.approx(macs, rel=0.05)
    assert estimate.network_cost("timm:vit_tiny_patch16_224", (3, 224, 224), 1000) is None
    with pytest.raises(LookupError, match="no network 'ConvNt'; nearest: ConvNet"):
        estimate.network_cost("ConvNt", (3, 32, 32), 10)


# ------------------------------------------------------------------------------------------------ copies without torch


def test_epochs_of_teachers_are_those_of_their_recipes():
    found = {
        name: {d: 0 if row.fields.get("weights") else row.fields["epochs"] for d, row in rows.items()}
        for name, rows in squeeze.SQUEEZES.items()
    }
    assert {k: dict(v) for k, v in estimate.SQUEEZE_EPOCHS.items()} == found


def test_committees_are_those_that_train():
    for dataset in ("digits", "mnist", "cifar10", "imagenette"):
        asked = estimate._asked(cell("cvdd", dataset, 10).distil)
        assert asked is not None
        expected = priors.members_of(squeeze.squeeze_name("auto", "cvdd", dataset), asked.data.shape)
        if asked.settings["squeeze"] == "auto":
            assert tuple(estimate._members(asked)) == tuple(expected)


def test_settings_are_those_of_the_method_as_it_runs():
    for d, own in {
        (r.cell.distil.model_dump_json(), r.key): r for r in RECORDS if r.cell.distil.seed == 0
    }.items():
        made = registry.make(
            own.cell.distil.method,
            {
                **registry.resolve_recipe(
                    own.cell.distil.method,
                    own.cell.distil.recipe,
                    own.cell.distil.dataset,
                    own.cell.distil.ipc,
                ).settings,
                **own.cell.distil.settings,
            },
        )
        running = json.loads(json.dumps(registry.settings_of(made)))
        read = json.loads(json.dumps(estimate.settings_of(own.cell.distil)))
        assert read == running, d


# ------------------------------------------------------------------------------------------------ amounts


def amounts() -> st.SearchStrategy[Amount]:
    values = st.floats(0, 1e9)
    known = st.builds(
        lambda v, s, how, n: Amount(v, v / s, v * s, how, n),
        values, st.floats(1, 10), st.sampled_from(("measured", "scaled", "guessed")), st.integers(0, 50),
    )  # fmt: skip
    return st.one_of(known, st.just(NOTHING), st.just(UNKNOWN))


@given(st.lists(amounts(), max_size=8))
@settings(max_examples=50, deadline=None)
def test_a_sum_is_as_uncertain_as_its_worst_part_and_counts_what_is_unknown(parts):
    found = estimate.total(parts)
    assert found.unknown == sum(p.how == "unknown" for p in parts)
    assert found.low <= found.value * (1 + 1e-9) and found.value <= found.high * (1 + 1e-9)
    assert found.value == pytest.approx(sum(p.value for p in parts))
    order = ("none", "measured", "scaled", "guessed")
    assert found.how == max((p.how for p in parts if p.how != "unknown"), key=order.index, default="none")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "<1s"), (4.26, "4.3s"), (45, "45s"), (89, "89s"), (91, "1.5m"), (600, "10m"), (5399, "90m"), (7200, "2h"),
     (86400, "24h"), (200_000, "2.3d"), (6e7, "690d"), (1e8, "3.2y"), (1.6e9, "51y")],
)  # fmt: skip
def test_a_duration_has_two_figures(seconds, text):
    assert estimate.duration(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (NOTHING, "-"),
        (UNKNOWN, "unknown"),
        (Amount(45, 40, 50, "measured", 3), "~45s [3]"),
        (Amount(0.2, 0.1, 0.4, "measured", 3), "<1s [3]"),
        (Amount(240, 120, 480, "scaled", 5), "2m to 8m* [5]"),
        (Amount(240, 80, 720, "guessed"), "80s to 12m?"),
        (Amount(240, 80, 720, "guessed") + UNKNOWN, "80s to 12m? + 1 unknown"),
    ],
)
def test_every_number_says_where_it_comes_from(amount, text):
    assert estimate.seconds_text(amount) == text


def test_bytes_are_told_with_what_is_unknown():
    assert estimate.bytes_text(NOTHING) == "-" and estimate.bytes_text(UNKNOWN) == "unknown"
    assert estimate.bytes_text(Amount(1.2e6, 1, 1, "guessed")) == "~1.2 MB"
    assert estimate.bytes_text(Amount(1.2e6, 1, 1, "guessed") + UNKNOWN) == "~1.2 MB + 1 unknown"


# ------------------------------------------------------------------------------------------------ more is never less

METHODS = (
    "dm",
    "dc",
    "dsa",
    "idc",
    "ncfm",
    "mtt",
    "tesla",
    "ftd",
    "datm",
    "ast",
    "sre2l",
    "cda",
    "infer",
    "rded",
    "cvdd",
)


def expected(work: estimate.Work | None) -> float:
    assert work is not None
    return estimate.reference("cpu").seconds(work)


@pytest.mark.parametrize("method", METHODS)
@given(n=st.integers(1, 1000), ipc=st.integers(1, 50))
@settings(max_examples=4, deadline=None)
def test_more_iterations_images_and_width_take_no_less_time(method, n, ipc):
    def seconds(ipc: int, **more) -> float:
        named = {} if method == "rded" else {"iterations": n}
        distil = DistilCell(
            method=method, recipe="defaults", settings={**named, **more}, dataset="cifar10", ipc=ipc, seed=0
        )
        return expected(estimate.distil_work(distil))

    base = seconds(ipc)
    assert base > 0 and base <= seconds(ipc + 1)
    if method != "rded":
        assert base < seconds(ipc, iterations=n + 1)
    if method not in ("infer", "cvdd"):  # which have networks
        assert seconds(ipc, network="ConvNetW32BN") < seconds(ipc, network="ConvNetBN")


@given(ipc=st.integers(1, 100), repeats=st.integers(1, 9))
@settings(max_examples=10, deadline=None)
def test_more_items_students_and_pixels_take_no_less_time_to_evaluate(ipc, repeats):
    def seconds(**more) -> float:
        asked = dict(dataset="mnist", ipc=ipc, repeats=repeats, protocol="dc-dsa", network="ConvNet")
        return expected(estimate.evaluate_work(cell("random", **{**asked, **more})))

    base = seconds()
    assert base <= seconds(ipc=ipc + 1) and base <= seconds(repeats=repeats + 1)
    assert base <= seconds(dataset="tiny_imagenet") and seconds(protocol="dc-none") <= base
    assert seconds(network="ConvNetW32") <= base <= seconds(network="ResNet18")


@given(ipc=st.integers(1, 100))
@settings(max_examples=4, deadline=None)
def test_more_images_take_more_bytes(ipc):
    for method in ("random", "dm", "datm", "cda"):
        sizes = [
            estimate.set_bytes(cell(method, "cifar10", n, recipe="defaults").distil) for n in (ipc, ipc + 1)
        ]
        assert None not in sizes and sizes[0] < sizes[1]
    few, more = (estimate.label_bytes(cell("random", "digits", n, "quick-kd")) for n in (ipc, ipc + 1))
    assert 0 < few < more


# ------------------------------------------------------------------------------------------------ beside what was measured


@lru_cache(maxsize=64)
def knowing(but: str, threads: int) -> estimate.Estimator:
    """An estimator from all records but those of a data set, from none with ``*``."""
    known = [r for r in RECORDS if but not in ("*", r.cell.distil.dataset)]
    return cpu(known, threads)


def factors(what: str, how: str, known: Callable[[object], str]) -> list[float]:
    """By which factor estimates miss what records measured, one a record whose seconds are worth a comparison."""
    found = []
    for r in RECORDS[::3]:
        d = r.cell.distil
        estimator = knowing(known(r), r.provenance.threads)
        if what == "distil":
            amount, seconds = estimator.distil(d), r.spent.distil_s
        elif what == "evaluate":
            amount, seconds = estimator.evaluate(r.cell), r.spent.evaluate_s
        else:
            group = estimate.trainings(d) or estimate.label_trainings(r.cell)
            amount, seconds = estimator.training(group), r.spent.teacher_s
        if seconds > 0.5 and amount.known and amount.value and amount.how == how:
            found.append(max(amount.value / seconds, seconds / amount.value))
    return sorted(found)


def none(_: object) -> str:
    return "*"


def of_other_data(r) -> str:
    return r.cell.distil.dataset


@pytest.mark.parametrize("what", ["distil", "teachers", "evaluate"])
@pytest.mark.parametrize(("how", "known"), [("guessed", none), ("scaled", of_other_data)])
def test_estimates_are_within_a_factor_of_two_to_three_of_the_records(what, how, known):
    found = factors(what, how, known)
    assert len(found) > 10
    assert statistics.median(found) < 2, found
    assert found[int(0.85 * (len(found) - 1))] < 3, found


def test_what_was_measured_is_given_back():
    for r in [r for r in RECORDS if r.spent.distil_s > 0.5][:10]:
        found = cpu([r], r.provenance.threads).distil(r.cell.distil)
        assert found.how == "measured" and found.records == 1
        assert found.value == pytest.approx(r.spent.distil_s)
        assert found.low <= r.spent.distil_s <= found.high
        doubled = cpu([r], 2 * r.provenance.threads).distil(r.cell.distil)
        assert doubled.value <= found.value, "twice the threads take no longer"


def test_seconds_of_a_cpu_say_nothing_of_a_gpu():
    gpu = estimate.Estimator(estimate.reference("cuda"), RECORDS)
    r = next(r for r in RECORDS if r.cell.distil.method == "dm" and r.cell.distil.dataset == "cifar10")
    found = gpu.distil(r.cell.distil)
    assert found.how == "guessed" and found.high / found.low == pytest.approx(36)
    assert gpu.evaluate(r.cell).how == "guessed"


def test_bytes_of_sets_and_labels_are_those_of_the_records():
    seen = 0
    for r in RECORDS:
        if r.bytes is None or r.cell.distil.method in ("random", "herding", "k_center", "full"):
            continue  # of a choice the file has numbers only, and a board counts the images
        size, labels = estimate.set_bytes(r.cell.distil), estimate.label_bytes(r.cell)
        assert size is not None and labels is not None
        own = r.bytes.total - (labels if labels else 0)
        assert size == pytest.approx(own, rel=0.25, abs=5000), (r.key, size, own)
        if labels:
            assert r.bytes.labels == pytest.approx(labels, rel=0.2, abs=4000), r.key
        seen += 1
    assert seen > 50


# ------------------------------------------------------------------------------------------------ unknown things


def test_what_nobody_can_know_is_unknown():
    folder = cell("dm", "imagefolder:/nowhere")
    assert cpu(RECORDS).distil(folder.distil) == UNKNOWN == cpu(RECORDS).evaluate(folder)
    assert estimate.set_bytes(folder.distil) is None and estimate.label_bytes(folder) is None
    assert cpu(RECORDS).evaluate(cell("dm", network="timm:vit_tiny_patch16_224")) == UNKNOWN
    (group,) = estimate.groups([folder], cpu())
    assert group.seconds.unknown == 2 and group.bytes.unknown == 2 and not group.seconds.value


def test_an_unknown_machine_is_refused():
    with pytest.raises(ValueError, match="device is 'tpu'; expected auto, cpu, cuda"):
        estimate.machine("tpu")
    assert estimate.machine("cuda:3").device == "cuda" and estimate.machine("cpu").device == "cpu"


# ------------------------------------------------------------------------------------------------ plans


def test_sets_and_experts_are_counted_once_and_what_is_done_not_at_all():
    suite = plan.from_flags(methods=["mtt", "tesla"], seeds=2, protocols=["quick", "dc-dsa"])
    cells = plan.cells(suite)
    groups = estimate.groups(cells, cpu())
    assert [(g.method, g.protocol, g.cells, g.done) for g in groups] == [
        ("mtt", "quick", 2, 0), ("mtt", "dc-dsa", 2, 0), ("tesla", "quick", 2, 0), ("tesla", "dc-dsa", 2, 0)
    ]  # fmt: skip
    first, second, third, _ = groups
    assert first.distil.value > 0 and first.teachers.value > 0 and first.network_bytes.value > 0
    assert second.distil == NOTHING == second.teachers and second.evaluate.value > 0
    assert third.teachers == NOTHING, "both methods use the same experts"
    one = next(r for r in RECORDS if r.cell.distil.method == "mtt" and r.cell.distil.dataset == "digits")
    done = [
        one.model_copy(update={"cell": c})
        for c in cells
        if c.distil.method == "mtt" and c.protocol == "quick"
    ]
    after = estimate.groups(cells, cpu(), done)
    assert [g.done for g in after] == [2, 0, 0, 0]
    assert after[0].seconds == NOTHING and after[0].bytes == NOTHING
    assert after[1].distil == NOTHING and after[2].teachers == NOTHING, "the set and the experts are there"


def test_teachers_of_a_protocol_are_counted_for_sets_that_bring_none():
    suite = plan.from_flags(methods=["random", "cda"], datasets=["cifar10"], protocols=["cda-kd"])
    random, cda = estimate.groups(plan.cells(suite), cpu())
    assert random.teachers.value > 1000, "200 epochs of a ResNet-18"
    assert cda.teachers == NOTHING, "the very teacher"
    alone = estimate.groups(
        plan.cells(plan.from_flags(methods=["cda"], datasets=["cifar10"], protocols=["cda-kd"])), cpu()
    )
    assert alone[0].teachers.value == pytest.approx(random.teachers.value)


CELLS = plan.cells


@lru_cache
def cells_of(name: str) -> list[Cell]:
    """Of a suite: that of all published numbers takes seconds to plan."""
    return CELLS(plan.load(name))


@pytest.mark.parametrize("name", sorted(plan.suites()))
def test_every_suite_has_an_estimate_of_every_cell(name):
    cells = cells_of(name)
    groups = estimate.groups(cells, knowing("", 2))
    assert sum(g.cells for g in groups) == len(cells)
    total = estimate.total(g.seconds for g in groups)
    assert total.known and 0 < total.low < total.value < total.high < math.inf
    assert estimate.total(g.bytes for g in groups).known


def test_calibration_measures_this_device():
    found = estimate.calibrated("cpu", seconds=0.2)
    assert (
        found.device == "cpu"
        and found.macs_per_s > 0
        and found.step_s > 0
        and "measured just now" in found.source
    )
    twice = estimate.Estimator(
        replace(found, macs_per_s=found.macs_per_s / 2, output_s=2 * found.output_s, step_s=2 * found.step_s)
    )
    c = cell("dm", "cifar10")
    assert twice.distil(c.distil).value == pytest.approx(2 * estimate.Estimator(found).distil(c.distil).value)


# ------------------------------------------------------------------------------------------------ as a command


class TestDryRun:
    def test_it_prints_cells_costs_and_where_the_numbers_are_from(self, ddbench, tmp_path):  # noqa: F811
        said = ddbench("run", "--suite", "small", "--dry-run", "--all", "--device", "cpu")
        assert said.status == 0 and not list(tmp_path.iterdir()), "nothing is run or written"
        head, *lines = said.out.splitlines()
        assert head.split() == [
            "data", "set", "method", "ipc", "protocol", "network", "cells", "done", "distil", "networks", "evaluate", "disk"
        ]  # fmt: skip
        rows = [line for line in lines if line.startswith(("mnist ", "cifar10 ")) and "ConvNet" in line]
        assert len(rows) == 246 / 3 and all(" 3      0 " in row for row in rows)
        assert sum(row.split()[1] == "mtt" for row in rows) == 2 * 2 * 2
        (total,) = [line for line in lines if line.startswith("total ")]
        assert total.split()[1:3] == ["246", "0"] and "?" in total and "unknown" not in total
        assert "disk: sets ~" in said.out and "in the cache" in said.out
        assert "machine: cpu, by the records of leaderboards/records" in said.out
        assert lines[-1] == "246 cells of suite small, 0 done in runs as its records say; nothing was run"
        legend = lines[lines.index(estimate.LEGEND[0]) :]
        assert legend[: len(estimate.LEGEND)] == list(estimate.LEGEND) and max(map(len, legend)) < 100

    def test_a_large_plan_is_told_by_data_set_and_method(self, ddbench):  # noqa: F811
        said = ddbench("run", "--suite", "small", "--dry-run", "--device", "cpu")
        head, *lines = said.out.splitlines()
        assert head.split()[:8] == ["data", "set", "method", "ipc", "protocols", "students", "cells", "done"]
        rows = [
            line.split() for line in lines if line.startswith(("mnist ", "cifar10 ")) and "ConvNet" in line
        ]
        assert len(rows) < 40 and len({tuple(r[:2]) for r in rows}) == len(rows)
        (mtt,) = (" ".join(r) for r in rows if r[:2] == ["mnist", "mtt"])
        assert mtt.startswith("mnist mtt 1, 10 dc-dsa, mtt ConvNet 12 0 ")
        assert f"82 lines in {len(rows)}, one a data set and method; each of them: --all, or --json" in lines
        assert lines[-1] == "246 cells of suite small, 0 done in runs as its records say; nothing was run"
        refused = ddbench("run", "--method", "random", "--all")
        assert (
            refused.status == 2
            and "--all is of the lines that a dry run prints; expected --dry-run too" in refused.err
        )

    def test_threads_are_those_that_the_run_will_have(self, ddbench, monkeypatch):  # noqa: F811
        arguments = ("run", "--method", "random", "--dry-run", "--device", "cpu")
        for asked, shown in (("1", "1 thread"), ("3", "3 threads"), ("4,2", "4 threads")):
            monkeypatch.setenv("OMP_NUM_THREADS", asked)
            assert ddbench(*arguments).out.splitlines()[-2].endswith(f", {shown}")
        monkeypatch.setattr(host, "cores", lambda: 7)
        for asked in ("", "0", "many"):
            monkeypatch.setenv("OMP_NUM_THREADS", asked)
            assert host.threads() == 7 and estimate.machine("cpu") == estimate.reference("cpu", 7)

    def test_cores_are_those_that_the_process_may_use(self, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
        assert host.cores() == 2
        monkeypatch.delattr(os, "sched_getaffinity")
        monkeypatch.setattr(os, "cpu_count", lambda: None)
        assert host.cores() == 1

    def test_what_is_done_is_not_counted_again(self, ddbench):  # noqa: F811
        arguments = ("run", "--method", "random", "--network", "MLP", "--repeats", 1, "--device", "cpu")
        ddbench(*arguments, "--seeds", 1, "--no-boards")
        said = ddbench(*arguments, "--seeds", 2, "--dry-run", "--json")
        (group,) = said.json["groups"]
        assert (group["cells"], group["done"], said.json["done"]) == (2, 1, 1)
        assert group["evaluate"]["how"] == "measured" and group["evaluate"]["records"] == 1
        done = ddbench(*arguments, "--seeds", 1, "--dry-run")
        assert "1 cell, 1 done in runs" in done.out and "-" in done.out

    def test_values_to_compare_are_counted(self, ddbench):  # noqa: F811
        said = ddbench(
            "run", "--method", "dm", "--seeds", 2, "--set", "image_lr=1,3,10", "--dry-run", "--json"
        )
        assert said.json["cells"] == 5 and len(said.json["compared"]) == 3
        assert [g["settings"]["image_lr"] for g in said.json["compared"]] == ["1", "3", "10"]
        text = ddbench("run", "--method", "dm", "--seeds", 2, "--set", "image_lr=1,3,10", "--dry-run").out
        assert "before that, to compare settings on held-out training images:" in text

    def test_a_plug_in_whose_work_nobody_knows_is_unknown(self, ddbench, tmp_path):  # noqa: F811
        path = plugin(tmp_path, "cli_unheard_of", FIRST)
        arguments = ("run", "--method", "cli_unheard_of", "--plugin", path, "--seeds", 1, "--network", "MLP")
        (group,) = ddbench(*arguments, "--dry-run", "--json").json["groups"]
        assert group["distil"]["unknown_parts"] == 1 and group["evaluate"]["unknown_parts"] == 0
        assert "unknown" in ddbench(*arguments, "--dry-run").out

    def test_calibration_goes_with_a_dry_run(self, ddbench):  # noqa: F811
        said = ddbench("run", "--method", "random", "--calibrate")
        assert (
            said.status == 2
            and "--calibrate says how long cells would take; expected --dry-run too" in said.err
        )

    def test_it_needs_neither_torch_nor_data(self, tmp_path):
        code = (
            "import sys; from ddbench import cli\n"
            "try: cli.main(['run', '--suite', 'large', '--dry-run', '--device', 'cpu'])\n"
            "except SystemExit as end: sys.exit(end.code or ('torch' in sys.modules))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True, text=True, check=False, cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "DDBENCH_DATA": str(tmp_path / "none")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "187 cells of suite large" in done.stdout

    def test_every_suite_is_listed_with_its_cells(self, ddbench, monkeypatch):  # noqa: F811
        monkeypatch.setattr(plan, "cells", lambda suite: cells_of(suite.name))
        rows = {row["suite"]: row["cells"] for row in ddbench("list", "suites", "--json").json}
        assert rows["embedded"] == 93 and set(rows) == set(plan.suites()) and all(rows.values())
