"""Runs: done cells are not done again, failures are recorded and the rest goes on, two processes do no harm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from ddbench import executors, registry, runner, sets, store
from ddbench.records import Cell, DistilCell
from ddbench.task import TimeBudget

DATA = '''
    """Two blobs of 1x8x8, made on the fly."""
    from dataclasses import dataclass
    import torch
    from ddbench.contract import ImageData
    from ddbench.registry import dataset

    @dataset(shape=(1, 8, 8), classes=2, train=20, test=10)
    @dataclass(frozen=True)
    class Blobs:
        def load(self, split, root):
            rng = torch.Generator().manual_seed(len(split))
            labels = torch.arange(2).repeat(10 if split == "train" else 5)
            noise = torch.randint(0, 60, (len(labels), 1, 8, 8), generator=rng)
            images = (labels.view(-1, 1, 1, 1) * 120 + noise).to(torch.uint8)
            return ImageData("run_blobs", split, images, labels, 2, (0.35,), (0.25,), flip=False)
'''
HEAD = '''
    """A method of the tests."""
    import time
    from dataclasses import dataclass
    from pathlib import Path
    import torch
    from ddbench.contract import DistilledSet, Targets
    from ddbench.registry import method

    @method(family="made up", labels="hard")
    @dataclass(frozen=True)
    class M:
'''
FIRST = '''
        note: str = ""
        """A file that gets a line for each distillation."""

        def distill(self, task):
            if self.note:
                with open(self.note, "a") as f:
                    f.write("x\\n")
            keep = torch.cat([task.train.of_class(c)[: task.ipc or None] for c in range(2)])
            return task.distilled(subset=keep)
'''
RAISES = """
        def distill(self, task):
            raise KeyError("lost key")
"""
NAN = """
        def distill(self, task):
            return task.distilled(images=torch.full((2, 1, 8, 8), float("nan")), ids=torch.arange(2))
"""
MEMORY = """
        def distill(self, task):
            raise MemoryError("1 TiB wanted")
"""
VALUES = """
        def distill(self, task):
            targets = Targets(soft=torch.eye(2), kind="values")
            return task.distilled(images=torch.zeros(2, 1, 8, 8), targets=targets)
"""
SLOW = """
        steps: int = 20
        pause_s: float = 0.0

        def distill(self, task):
            x = torch.arange(2.0).view(2, 1, 1, 1) - 0.5 + 0.1 * torch.rand(2, 1, 8, 8, generator=task.rng("init"))
            for _ in task.loop(self.steps, [x]):
                x += 0.01 * torch.randn(x.shape, generator=task.rng("step"))
                time.sleep(self.pause_s)
            return task.distilled(images=x, ids=torch.arange(2))
"""
SHOWS = """
        steps: int = 6
        lr: float = 0.2
        nan_at: int = -1

        def distill(self, task):
            x = torch.arange(2.0).view(2, 1, 1, 1) - 0.5 + 0.1 * torch.rand(2, 1, 8, 8, generator=task.rng("init"))
            task.note("batch", "made smaller")

            def show():
                return task.distilled(images=x, ids=torch.arange(2))

            for it in task.loop(self.steps, [x], show=show):
                x *= float("nan") if it == self.nan_at else 1 - self.lr
                task.log(size=x.abs().mean())
            return show()
"""
UNDEFINED = """
        def distill(self, task):
            from ddbench.contract import NotApplicable
            raise NotApplicable(f"ipc {task.ipc} leaves no image; expected ipc 2 or more")
"""
CHEATS = """
        def distill(self, task):
            from ddbench import data
            test = data.load("run_blobs").test
            return task.distilled(images=test.space.real_to_input(test.images[:2]), ids=test.labels[:2])
"""
BROKEN = """
        import no_such_module_at_all
        def distill(self, task):
            pass
"""
METHODS = {
    "first": FIRST,
    "raises": RAISES,
    "nan": NAN,
    "memory": MEMORY,
    "values": VALUES,
    "slow": SLOW,
    "shows": SHOWS,
    "broken": BROKEN,
    "undefined": UNDEFINED,
    "cheats": CHEATS,
}


def write_plugins(folder: Path) -> tuple[Path, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    files = {"run_blobs": DATA, **{f"run_{name}": HEAD + body for name, body in METHODS.items()}}
    for name, text in files.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return tuple(folder / f"{name}.py" for name in files)


@pytest.fixture(scope="module")
def plugins(tmp_path_factory) -> tuple[Path, ...]:
    """Registered once: a name has one owner."""
    paths = write_plugins(tmp_path_factory.mktemp("plugins"))
    before = dict(registry._added)
    for path in paths:
        registry.add_file(path)
    yield paths
    registry._added.clear()
    registry._added.update(before)


def context(run: Path, plugins: tuple[Path, ...], **more) -> runner.Context:
    return runner.Context(run=run, device="cpu", plugins=plugins, **more)


def cell(method: str = "first", ipc: int = 1, seed: int = 0, network: str = "MLP", **settings) -> Cell:
    distil = DistilCell(method=f"run_{method}", dataset="run_blobs", ipc=ipc, seed=seed, settings=settings)
    return Cell(distil=distil, protocol="quick", network=network, repeats=1)


def statuses(summary: executors.Summary) -> list[str]:
    return [o.status for o in summary.outcomes]


class TestRecords:
    def test_a_record_has_all_that_is_needed_to_repeat_it(self, tmp_path, plugins):
        outcome = runner.evaluate(cell(), context(tmp_path, plugins))
        record = outcome.record
        assert outcome.status == "ok" and store.RunFolder(tmp_path).records() == [record]
        assert record.cell == cell() and record.family == "made up" and record.settings == {"note": ""}
        assert record.items == 2 and record.classes == 2 and record.bytes.images == 2 * 64
        assert record.recipe == "defaults" and record.protocol_version and record.created.endswith("+00:00")
        assert len(record.scores) == 1 and 0 <= record.scores[0].value <= 1
        assert record.rate == 0.1  # of the protocol quick
        assert (record.labels, record.labelled_by) == ("hard", [])
        p = record.provenance
        assert (
            p.ddbench and p.torch == torch.__version__ and p.device == "cpu" and p.threads >= 1 and p.engine
        )
        assert record.spent.distil_s > 0 and record.spent.evaluate_s > 0
        path = store.RunFolder(tmp_path).set_path(record.set_key)
        card = sets.read(path).card
        assert (card.method, card.recipe, card.dataset, card.seed) == (
            "run_first",
            "defaults",
            "run_blobs",
            0,
        )
        assert record.set_fingerprint == sets.read(path).fingerprint()

    def test_the_same_cell_gives_the_same_scores_anywhere(self, tmp_path, plugins):
        a = runner.evaluate(cell("slow"), context(tmp_path / "a", plugins)).record
        b = runner.evaluate(cell("slow"), context(tmp_path / "b", plugins)).record
        assert a.scores and a.scores == b.scores and a.key == b.key and a.set_fingerprint == b.set_fingerprint

    def test_all_methods_meet_the_same_students(self):
        seeds = [[g.seed for g in runner.student_generators(seed, 3)] for seed in (0, 0, 1)]
        assert seeds[0] == seeds[1] and not set(seeds[0]) & set(seeds[2]) and len(set(seeds[0])) == 3

    def test_two_networks_share_one_set(self, tmp_path, plugins):
        note = tmp_path / "note"
        both = [cell(note=str(note)), cell(note=str(note), network="ConvNetD1W32")]
        summary = executors.run(both, context(tmp_path / "run", plugins))
        assert statuses(summary) == ["ok", "ok"] and note.read_text() == "x\n"
        assert len(store.RunFolder(tmp_path / "run").sets()) == 1


class TestLeaks:
    def test_test_images_in_a_set_are_noted_in_its_records_and_said_once(self, tmp_path, plugins, capsys):
        both = [cell("cheats"), cell("cheats", network="ConvNetD1W32")]
        summary = executors.run(both, context(tmp_path, plugins, quiet=False))
        assert statuses(summary) == ["ok", "ok"], "a leak blocks nothing"
        said = "copies of test images in the set (image 0 = test 0; image 1 = test 1)"
        assert [r.notes["leak"] for r in store.RunFolder(tmp_path).records()] == [f"2 {said}"] * 2
        err = capsys.readouterr().err
        assert err.count("warning: ") == 1 and f"warning: run_cheats ipc 1 seed 0: 2 {said}" in err

    def test_an_honest_set_has_no_note_and_the_check_is_no_part_of_the_evaluation(
        self, tmp_path, plugins, monkeypatch
    ):
        looked = []

        def note(distilled, real):
            assert not runner.Meter._open, "nothing is timed now"
            looked.append(distilled.fingerprint())
            return ""

        monkeypatch.setattr(runner.leaks, "note", note)
        session = runner.Session(context(tmp_path, plugins))
        records = [session.evaluate(c).record for c in (cell(), cell(network="ConvNetD1W32"))]
        assert len(looked) == 1, "once a set"
        assert all(r.status == "ok" and "leak" not in r.notes for r in records)


class TestDoneCells:
    def test_they_are_not_done_again_unless_forced(self, tmp_path, plugins):
        note = tmp_path / "note"
        cells, where = [cell(note=str(note))], context(tmp_path / "run", plugins)
        assert statuses(executors.run(cells, where)) == ["ok"]
        assert statuses(executors.run(cells, where)) == ["cached"] and note.read_text() == "x\n"
        forced = context(tmp_path / "run", plugins, force=True)
        both = [*cells, cell(note=str(note), network="ConvNetD1W32")]
        assert statuses(executors.run(both, forced)) == ["ok", "ok"]
        assert note.read_text() == "x\nx\n", "one set was forced once, not once a network"

    def test_whatever_may_change_the_result_changes_the_key(self, tmp_path, plugins):
        session = runner.Session(context(tmp_path, plugins))
        base = session.keys(cell())
        for other in (cell(ipc=2), cell(seed=1), cell(note="x"), cell("slow")):
            assert session.keys(other)[0] != base[0] and session.keys(other)[1] != base[1]
        for change in ({"network": "ConvNetD1W32"}, {"repeats": 2}):
            other = cell().model_copy(update=change)
            assert session.keys(other)[0] == base[0] and session.keys(other)[1] != base[1]
        bf16 = runner.Session(context(tmp_path, plugins, precision="bf16"))
        assert bf16.keys(cell())[0] == base[0] and bf16.keys(cell())[1] != base[1]
        spelt = cell(network="ConvNetD3W128"), cell(network="ConvNet")
        assert session.keys(spelt[0]) == session.keys(spelt[1])

    def test_code_counts_but_comments_docstrings_and_recipes_do_not(self, tmp_path):
        path = tmp_path / "run_code.py"

        def hash_of(text: str) -> str:
            path.write_text(textwrap.dedent(HEAD + text))
            return runner.code_hash("run_code")

        path.write_text(textwrap.dedent(HEAD + FIRST))
        registry.add_file(path)
        try:
            first = hash_of(FIRST)
            assert hash_of(FIRST.replace("A file that", "Some file that") + "        # a comment\n") == first
            assert hash_of(FIRST + '\n    RECIPES = {("cpu", None, 1): dict(note="y")}\n') == first
            assert hash_of(FIRST.replace("[: task.ipc or None]", "[-task.ipc :]")) != first
        finally:
            del registry._added["methods", "run_code"]

    def test_shared_modules_count_and_plumbing_does_not(self):
        files = {p.name for p in runner.code_files("dm")}
        assert {"dm.py", "dsa.py", "contract.py", "seeding.py"} <= files
        assert not {"registry.py", "store.py", "records.py", "datadam.py"} & files

    def test_a_damaged_record_is_made_anew_and_that_is_said(self, tmp_path, plugins):
        where = context(tmp_path, plugins)
        record = runner.evaluate(cell(), where).record
        path = store.RunFolder(tmp_path).record_path(record.key)
        path.write_text(path.read_text()[:40])
        outcome = runner.evaluate(cell(), where)
        assert outcome.status == "ok" and "made anew, since record" in outcome.reason
        assert store.read_record(path).scores == record.scores

    def test_a_truncated_set_fails_by_name_and_force_mends_it(self, tmp_path, plugins):
        where = context(tmp_path, plugins)
        record = runner.evaluate(cell(), where).record
        run = store.RunFolder(tmp_path)
        path = run.set_path(record.set_key)
        path.write_bytes(path.read_bytes()[:-3])
        run.record_path(record.key).unlink()
        outcome = runner.evaluate(cell(), where)
        assert outcome.status == "failed" and path.name in outcome.reason and "DamagedError" in outcome.reason
        assert runner.evaluate(cell(), context(tmp_path, plugins, force=True)).status == "ok"


class TestFailures:
    def test_they_are_recorded_with_their_reason_and_the_rest_goes_on(self, tmp_path, plugins):
        names = ["raises", "nan", "memory", "broken", "values", "first"]
        summary = executors.run([cell(n) for n in names], context(tmp_path, plugins))
        assert statuses(summary) == ["failed"] * 4 + ["skipped", "ok"] and summary.exit_status == 1
        reasons = {
            r.cell.distil.method.removeprefix("run_"): r.reason for r in store.RunFolder(tmp_path).records()
        }
        assert (
            "KeyError: 'lost key' (run_raises.py:" in reasons["raises"] and "in distill)" in reasons["raises"]
        )
        assert "tensor 'images' of the distilled set has 128 values that are not finite" in reasons["nan"]
        assert "MemoryError: out of memory; lower --memory-limit" in reasons["memory"]
        assert "PluginError: " in reasons["broken"] and "no_such_module_at_all" in reasons["broken"]
        assert "free values" in reasons["values"] and reasons["first"] == ""
        assert str(summary) == "6 cells: 1 done, 1 skipped, 4 failed"

    def test_a_failed_cell_is_tried_again_and_a_skipped_one_is_not(self, tmp_path, plugins):
        cells = [cell("raises"), cell("values")]
        executors.run(cells, context(tmp_path, plugins))
        assert statuses(executors.run(cells, context(tmp_path, plugins))) == ["failed", "cached"]

    def test_a_method_that_is_not_defined_for_an_ipc_is_skipped_with_its_reason(self, tmp_path, plugins):
        summary = executors.run([cell("undefined"), cell("first")], context(tmp_path, plugins))
        assert statuses(summary) == ["skipped", "ok"] and summary.exit_status == 0
        assert summary.outcomes[0].reason == "ipc 1 leaves no image; expected ipc 2 or more"
        assert summary.outcomes[0].record.recipe == "defaults"
        again = executors.run([cell("undefined")], context(tmp_path, plugins))
        assert statuses(again) == ["cached"]

    def test_a_distillation_that_failed_is_not_repeated_for_the_next_network(self, tmp_path, plugins):
        session = runner.Session(context(tmp_path, plugins))
        first = session.evaluate(cell("raises"))
        session._distil = None  # it must not be called
        second = session.evaluate(cell("raises", network="ConvNetD1W32"))
        assert second.status == "failed" and second.reason == first.reason

    def test_a_record_of_a_plug_in_that_did_not_load_goes_when_it_does(self, tmp_path, plugins, monkeypatch):
        session = runner.Session(context(tmp_path, plugins))
        monkeypatch.setattr(
            runner.data, "load", lambda *a, **k: (_ for _ in ()).throw(FileNotFoundError("put it there"))
        )
        failed = session.evaluate(cell())
        assert failed.status == "failed" and "FileNotFoundError: put it there" in failed.reason
        monkeypatch.undo()
        assert session.evaluate(cell(seed=1)).reason == failed.reason  # it does not wait for the data again
        assert [runner.evaluate(cell(seed=s), session.context).status for s in (0, 1)] == ["ok", "ok"]
        assert [r.status for r in store.RunFolder(tmp_path).records()] == ["ok", "ok"]

    def test_a_network_that_does_not_fit_the_images_is_skipped_with_the_reason(self, tmp_path, plugins):
        outcome = runner.evaluate(cell(network="LeNet"), context(tmp_path, plugins))
        assert outcome.status == "skipped" and "LeNet accepts 32x32 images" in outcome.reason

    def test_an_ipc_larger_than_the_class_fails_with_the_number_to_choose(self, tmp_path, plugins):
        distil = DistilCell(method="random", dataset="run_blobs", ipc=11, seed=0)
        outcome = runner.evaluate(
            Cell(distil=distil, protocol="quick", network="MLP", repeats=1), context(tmp_path, plugins)
        )
        assert outcome.status == "failed" and "lower --ipc to 10" in outcome.reason

    def test_settings_of_a_wrong_type_are_refused_before_anything_runs(self, plugins):
        with pytest.raises(ValueError, match="setting 'steps' of method 'run_slow' is 'many'; expected int"):
            runner.validate([cell("slow", steps="many")])
        runner.validate([cell("broken")])  # fails as a cell

    def test_a_folder_that_cannot_be_written_stops_the_run_with_its_name(self, tmp_path, plugins):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "records").write_text("in the way")
        with pytest.raises(store.WriteError, match="cannot write .*records.*in each other's place"):
            executors.run([cell()], context(tmp_path / "run", plugins))

    def test_a_distillation_that_diverges_says_so_and_its_checkpoint_stays(self, tmp_path, plugins):
        where = context(tmp_path, plugins, checkpoint_every_s=0.0, snapshot_every=2)
        outcome = runner.evaluate(cell("shows", nan_at=4), where)
        assert outcome.status == "failed" and outcome.record.reason == outcome.reason
        assert outcome.reason.startswith(
            "DivergedError: run_shows ipc 1 seed 0 diverged: size is nan at iteration 4 of 6; lower its learning rate "
            "(lr=0.2); its last good checkpoint, after 4 iterations, is "
        )
        assert "its last snapshot is " in outcome.reason and "0000004.safetensors" in outcome.reason
        (kept,) = tmp_path.glob("checkpoints/*/loop-0.safetensors")
        assert store.load_state(kept)["done"] == 4 and not store.RunFolder(tmp_path).sets()


class TestSnapshots:
    def curve(self, record) -> list[dict]:
        return store.read_rows(self.run.curve_path(record.set_key, record.key))

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.run = store.RunFolder(tmp_path)

    def test_each_is_scored_as_the_cell_is_beside_its_record(self, tmp_path, plugins):
        plain = runner.evaluate(cell("shows"), context(tmp_path / "plain", plugins)).record
        record = runner.evaluate(cell("shows"), context(tmp_path, plugins, snapshot_every=2)).record
        assert [s for s in record.scores if s.chosen_by == "last"] == plain.scores
        assert len(plain.scores) == 1 and record.key == plain.key
        rows = self.curve(record)
        assert [row["iteration"] for row in rows] == [2, 4, 6]
        assert all(row["students"] == 1 and row["network"] == "MLP" for row in rows)
        assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
        assert rows[-1]["top1"] == record.scores[0].value, (
            "the last snapshot is the set, its student the cell's first"
        )
        assert rows[-1]["set"] == record.set_fingerprint
        assert record.notes == {"batch": "made smaller"}

    def test_a_second_run_scores_none_again_and_missing_ones_only(self, tmp_path, plugins, monkeypatch):
        record = runner.evaluate(cell("shows"), context(tmp_path, plugins, snapshot_every=2)).record
        rows = self.curve(record)
        calls = []
        score = runner.score
        monkeypatch.setattr(runner, "score", lambda *a, **k: calls.append(1) or score(*a, **k))
        where = context(tmp_path, plugins, snapshot_every=2)
        assert runner.evaluate(cell("shows"), where).status == "cached" and not calls
        store.write_rows(self.run.curve_path(record.set_key, record.key), rows[:1])
        runner.evaluate(cell("shows"), where)
        assert len(calls) == 2 and self.curve(record) == rows
        more = context(tmp_path, plugins, snapshot_every=2, snapshot_students=2)
        runner.evaluate(cell("shows"), more)
        assert len(calls) == 5 and [row["students"] for row in self.curve(record)] == [2, 2, 2]
        self.run.snapshot_path(record.set_key, 4).unlink()
        runner.evaluate(cell("shows"), more)
        assert [row["iteration"] for row in self.curve(record)] == [2, 4, 6], (
            "pruned snapshots keep their scores"
        )

    def best(self, record) -> list[tuple]:
        found = [s for s in record.scores if s.chosen_by == "best-snapshot"]
        assert all((s.chosen_on, s.network, s.metric, s.task) == ("test", "MLP", "top1", "") for s in found)
        return [(s.value, s.iteration, s.students, s.seed) for s in found]

    @staticmethod
    def told(monkeypatch, *accuracies: float):
        """Sets have these accuracies from now on, whatever their students say: one a call of :func:`runner.score`."""
        left, score = list(accuracies), runner.score

        def scored(distilled, real, cell, options, **more):
            found = score(distilled, real, cell, options, **more)
            value = left.pop(0)
            return found.model_copy(
                update={"scores": [s.model_copy(update={"value": value}) for s in found.scores]}
            )

        monkeypatch.setattr(runner, "score", scored)

    def test_the_best_of_them_is_a_score_of_its_own_in_the_record_on_disk(
        self, tmp_path, plugins, monkeypatch
    ):
        record = runner.evaluate(cell("shows", seed=3), context(tmp_path, plugins)).record
        assert self.best(record) == [], "none was asked for"
        where = context(tmp_path, plugins, snapshot_every=2, snapshot_students=2, force=True)
        self.told(monkeypatch, 0.25, 0.5, 0.75, 0.5)  # the record's own students, then 2, 4 and 6 iterations
        record = runner.evaluate(cell("shows", seed=3), where).record
        assert self.best(record) == [(0.75, 4, 2, 3)]
        assert [s.value for s in record.scores if s.chosen_by == "last"] == [0.25]
        assert self.run.record(record.key) == record
        assert runner.evaluate(cell("shows", seed=3), context(tmp_path, plugins)).record == record, "it stays"

    def test_of_equal_ones_it_is_the_earliest_and_the_finished_set_is_among_them(
        self, tmp_path, plugins, monkeypatch
    ):
        where = context(tmp_path, plugins, snapshot_every=2)
        self.told(monkeypatch, 0.1, 0.5, 0.75, 0.75)
        assert self.best(runner.evaluate(cell("shows"), where).record) == [(0.75, 4, 1, 0)]
        monkeypatch.undo()
        self.told(monkeypatch, 0.1, 0.5, 0.75, 0.875)
        where = context(tmp_path / "other", plugins, snapshot_every=2)
        assert self.best(runner.evaluate(cell("shows"), where).record) == [(0.875, 6, 1, 0)]

    def test_a_curve_that_changes_changes_it_in_a_cached_record_too(self, tmp_path, plugins, monkeypatch):
        where = context(tmp_path, plugins, snapshot_every=2)
        self.told(monkeypatch, 0.1, 0.5, 0.75, 0.5)
        record = runner.evaluate(cell("shows"), where).record
        monkeypatch.undo()
        written = []
        write = store.RunFolder.write_record
        monkeypatch.setattr(store.RunFolder, "write_record", lambda *a: written.append(1) or write(*a))
        assert runner.evaluate(cell("shows"), where).record == record and not written, "nothing changed"
        self.told(monkeypatch, 0.25, 0.375, 0.5)
        more = context(tmp_path, plugins, snapshot_every=2, snapshot_students=2)
        outcome = runner.evaluate(cell("shows"), more)
        assert outcome.status == "cached" and self.best(outcome.record) == [(0.5, 6, 2, 0)]
        assert self.run.record(record.key) == outcome.record and len(written) == 1
        last = [s for s in outcome.record.scores if s.chosen_by == "last"]
        assert last == [s for s in record.scores if s.chosen_by == "last"]

    def test_only_all_of_them_have_a_best(self, tmp_path, plugins, monkeypatch):
        score, where = runner.score, context(tmp_path, plugins, snapshot_every=2)

        def scored(distilled, *a, **k):
            if distilled.card.cost.iterations == 4:  # the second of three
                raise runner.BudgetUsedUp("the time is up")
            return score(distilled, *a, **k)

        monkeypatch.setattr(runner, "score", scored)
        record = runner.evaluate(cell("shows"), where).record
        assert self.best(record) == [] and self.best(self.run.record(record.key)) == []
        monkeypatch.undo()
        assert len(self.best(runner.evaluate(cell("shows"), where).record)) == 1

    def test_a_record_of_another_set_or_one_that_is_gone_is_left_alone(self, tmp_path, plugins):
        where = context(tmp_path, plugins, snapshot_every=2)
        record = runner.evaluate(cell("shows"), where).record
        session = runner.Session(where)
        row = {"iteration": 2, "top1": 0.0625, "students": 1, "network": "MLP"}
        other = record.model_copy(update={"set_fingerprint": "another"})
        self.run.write_record(other)
        assert session._with_best_snapshot(record, [row]) == record
        assert self.run.record(record.key) == other
        self.run.record_path(record.key).unlink()
        assert session._with_best_snapshot(record, [row]) == record
        assert self.run.record(record.key) is None
        newer = record.model_copy(update={"created": "later", "scores": record.scores[:1]})
        self.run.write_record(newer)
        changed = session._with_best_snapshot(record, [row])
        assert changed == self.run.record(record.key) and changed.created == "later"
        assert self.best(changed) == [(0.0625, 2, 1, 0)]

    def test_while_another_process_writes_the_record_it_waits_for_it(self, tmp_path, plugins):
        where = context(tmp_path, plugins, snapshot_every=2, budget=runner.TimeBudget(0.2))
        record = runner.evaluate(cell("shows"), context(tmp_path, plugins, snapshot_every=2)).record
        row = {"iteration": 2, "top1": 0.0625, "students": 1, "network": "MLP"}
        with (
            self.run.lock(f"record-{record.key}"),
            pytest.raises(runner.BudgetUsedUp, match="while another process was at this cell"),
        ):
            runner.Session(where)._with_best_snapshot(record, [row])
        assert self.run.record(record.key) == record

    def test_records_from_before_these_scores_read_as_they_are(self, tmp_path, plugins):
        record = runner.evaluate(cell("shows"), context(tmp_path, plugins)).record
        path = self.run.record_path(record.key)
        stored = json.loads(path.read_text())
        for score in stored["scores"]:
            assert score.pop("iteration") is None and score.pop("students") is None
        path.write_text(json.dumps(stored))
        assert self.run.record(record.key) == record

    def test_a_set_without_snapshots_says_how_to_get_them(self, tmp_path, plugins, capsys):
        record = runner.evaluate(cell("shows"), context(tmp_path, plugins)).record
        capsys.readouterr()
        session = runner.Session(context(tmp_path, plugins, snapshot_every=2, quiet=False))
        assert [session.evaluate(cell("shows")).status for _ in range(2)] == ["cached", "cached"]
        said = capsys.readouterr().err
        assert said.count("run_shows ipc 1 seed 0: no snapshots (its set was made without them") == 1
        assert "--force makes the set again" in said and self.curve(record) == []
        forced = runner.evaluate(
            cell("shows"), context(tmp_path, plugins, snapshot_every=3, force=True)
        ).record
        assert [row["iteration"] for row in self.curve(forced)] == [3, 6]
        assert runner.evaluate(cell("slow"), context(tmp_path, plugins, snapshot_every=2)).status == "ok"

    def test_a_time_budget_that_ends_among_them_keeps_the_record_and_what_was_scored(
        self, tmp_path, plugins, monkeypatch
    ):
        score = runner.score

        def scored(distilled, *a, **k):
            if distilled.card.cost.iterations == 4 and k["base"].keywords["distilled"].card.notes == {}:
                raise runner.BudgetUsedUp("the time is up")
            return score(distilled, *a, **k)

        monkeypatch.setattr(runner, "score", scored)
        where = context(tmp_path, plugins, snapshot_every=2)
        outcome = runner.evaluate(cell("shows"), where)
        assert outcome.status == "ok" and [r["iteration"] for r in self.curve(outcome.record)] == [2]
        monkeypatch.undo()
        assert runner.evaluate(cell("shows"), where).status == "cached"
        assert [r["iteration"] for r in self.curve(outcome.record)] == [2, 4, 6]

    def test_a_snapshot_that_cannot_be_read_fails_no_cell(self, tmp_path, plugins, capsys):
        record = runner.evaluate(cell("shows"), context(tmp_path, plugins, snapshot_every=2)).record
        self.run.curve_path(record.set_key, record.key).unlink()
        self.run.snapshot_path(record.set_key, 4).write_bytes(b"x")
        outcome = runner.evaluate(cell("shows"), context(tmp_path, plugins, snapshot_every=2, quiet=False))
        assert (
            outcome.status == "cached"
            and "its snapshots have no scores: DamagedError" in capsys.readouterr().err
        )

    def test_a_finished_run_draws_its_cells(self, tmp_path, plugins):
        cells = [cell("shows", seed=s) for s in (0, 1)] + [cell("first")]
        summary = executors.run(cells, context(tmp_path, plugins, snapshot_every=3))
        assert [p.name for p in summary.plots] == ["run_blobs-ipc1.png"] and summary.plots[0].is_file()
        assert executors.run(cells, context(tmp_path, plugins)).plots == []
        assert executors.notes(summary.outcomes[0]) == ["run_shows run_blobs ipc 1: made smaller"]

    def test_event_files_have_the_accuracy_under_the_key_of_the_record(self, tmp_path, plugins):
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        where = context(tmp_path, plugins, snapshot_every=2, tensorboard=True)
        for _ in range(2):
            record = runner.evaluate(cell("shows"), where).record
        found = EventAccumulator(str(self.run.tensorboard_path(record.key))).Reload()
        values = [(e.step, pytest.approx(e.value, rel=1e-6)) for e in found.Scalars("top1_pct")]
        assert values == [(row["iteration"], 100 * row["top1"]) for row in self.curve(record)]
        own = EventAccumulator(str(self.run.tensorboard_path(record.set_key))).Reload()
        assert len(own.Scalars("size")) == 6 and own.Images("set")

    @pytest.mark.parametrize(
        ("more", "text"),
        [
            ({"snapshot_every": -1}, "--snapshot-every is -1; expected a number of iterations, or 0"),
            ({"snapshot_students": 0}, "--snapshot-students is 0; expected at least 1"),
        ],
    )
    def test_wrong_numbers_are_refused_before_anything_runs(self, tmp_path, plugins, more, text):
        with pytest.raises(ValueError, match=text):
            executors.run([cell("shows")], context(tmp_path, plugins, **more))

    def test_from_python_they_need_a_run_folder(self, tmp_path, plugins):
        import ddbench

        arguments = dict(method="run_shows", dataset="run_blobs", ipc=1, device="cpu", quiet=True)
        with pytest.raises(ValueError, match=r"snapshots and event files go to a run folder; expected run="):
            ddbench.distill(**arguments, snapshot_every=2)
        made = ddbench.distill(**arguments, snapshot_every=2, run=tmp_path)
        assert made.card.notes == {"batch": "made smaller"} and len(list(tmp_path.glob("snapshots/*/*"))) == 3


class TestTimeBudget:
    def test_cells_that_do_not_fit_are_left_and_not_recorded(self, tmp_path, plugins):
        summary = executors.run([cell(), cell(seed=1)], context(tmp_path, plugins, budget=TimeBudget(0)))
        assert statuses(summary) == ["left", "left"] and summary.exit_status == 0
        assert "2 left for the next run" in str(summary) and store.RunFolder(tmp_path).records() == []

    def test_a_distillation_stops_at_a_checkpoint_and_the_next_run_ends_it_with_the_same_bits(
        self, tmp_path, plugins
    ):
        one = cell("slow", steps=40, pause_s=0.02)
        summary = executors.run([one], context(tmp_path / "a", plugins, budget=TimeBudget(0.4)))
        assert (
            statuses(summary) == ["left"]
            and "of 40 iterations when the time budget" in summary.outcomes[0].reason
        )
        run = store.RunFolder(tmp_path / "a")
        assert sets.read(run.sets()[0]).card.partial, "what there was is stored, marked"
        assert list((tmp_path / "a" / "checkpoints").glob("*/*"))
        assert statuses(executors.run([one], context(tmp_path / "a", plugins))) == ["ok"]
        assert not list((tmp_path / "a" / "checkpoints").glob("*")), (
            "the checkpoint goes when the set is stored"
        )
        whole = runner.evaluate(one, context(tmp_path / "b", plugins)).record
        assert run.records()[0].set_fingerprint == whole.set_fingerprint
        assert run.records()[0].spent.iterations == 40

    def test_students_that_are_not_ready_in_time_are_left_and_the_set_is_kept(self, tmp_path, plugins):
        class Looks(TimeBudget):
            looks = 2  # one before the cell, one before the distillation, the next among the students

            def used_up(self) -> bool:
                self.looks -= 1
                return self.looks < 0

        outcome = runner.evaluate(cell(), context(tmp_path, plugins, budget=Looks()))
        assert outcome.status == "left" and "while students were training" in outcome.reason
        run = store.RunFolder(tmp_path)
        assert run.records() == [] and not sets.read(run.sets()[0]).card.partial

    def test_a_forced_repeat_that_is_cut_short_does_not_replace_a_whole_set(self, tmp_path, plugins):
        one = cell("slow", steps=10, pause_s=0.02)
        record = runner.evaluate(one, context(tmp_path, plugins)).record
        executors.run([one], context(tmp_path, plugins, force=True, budget=TimeBudget(0.1)))
        run = store.RunFolder(tmp_path)
        assert not sets.read(run.set_path(record.set_key)).card.partial and run.records() == [record]


CHILD = """
import sys, json
from pathlib import Path
from ddbench import executors, runner
from ddbench.records import Cell
run, cells, plugins = json.loads(sys.argv[1])
summary = executors.run(
    [Cell.model_validate(c) for c in cells],
    runner.Context(run=Path(run), device="cpu", plugins=tuple(map(Path, plugins)), checkpoint_every_s=0.0),
)
print(json.dumps([o.status for o in summary.outcomes]))
"""


def child(run: Path, cells: list[Cell], plugins: tuple[Path, ...]) -> subprocess.Popen[str]:
    import json

    argument = json.dumps([str(run), [c.model_dump(mode="json") for c in cells], [str(p) for p in plugins]])
    root = str(Path(__file__).parent.parent)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, argument],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


class TestProcesses:
    def test_two_processes_on_one_run_folder_share_the_work_and_do_none_twice(self, tmp_path, plugins):
        import json

        note = tmp_path / "note"
        cells = [cell(seed=s, note=str(note)) for s in range(6)]
        both = [child(tmp_path / "run", cells, plugins) for _ in range(2)]
        answers = [p.communicate(timeout=120) for p in both]
        assert [p.returncode for p in both] == [0, 0], answers
        found = [json.loads(out) for out, _ in answers]
        assert sorted(s for f in found for s in f) == ["cached"] * 6 + ["ok"] * 6
        assert note.read_text() == "x\n" * 6
        assert len(store.RunFolder(tmp_path / "run").records()) == 6

    def test_kill_minus_9_in_a_run_loses_nothing(self, tmp_path, plugins):
        one = cell("slow", steps=60, pause_s=0.03)
        process = child(tmp_path / "run", [one], plugins)
        deadline = time.monotonic() + 60
        while (
            not list((tmp_path / "run").glob("checkpoints/*/loop-0.safetensors"))
            and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        left = list((tmp_path / "run").glob("checkpoints/*/loop-0.safetensors"))
        assert left and 0 < store.load_state(left[0])["done"] < 60
        resumed = runner.evaluate(one, context(tmp_path / "run", plugins)).record
        whole = runner.evaluate(one, context(tmp_path / "whole", plugins)).record
        assert resumed.set_fingerprint == whole.set_fingerprint and resumed.scores == whole.scores != []
