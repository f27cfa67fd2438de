"""Sweeps: settings are chosen on held-out training images; test images have no part in it, and the record says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_cli import ddbench  # noqa: F401

from ddbench import api, board, data, executors, plan, registry, runner, store, sweep
from ddbench.contract import ImageData, RealData
from ddbench.records import Score
from ddbench.task import BudgetUsedUp, TimeBudget

NOISY = '''
"""Real images under noise: more noise makes a worse set."""
from dataclasses import dataclass
import torch
from ddbench.contract import DistilledSet, Task
from ddbench.registry import method

@method(family="made up", labels="hard")
@dataclass(frozen=True)
class Noisy:
    noise: float = 0.0
    """Deviation, in that of the data."""
    log: str = ""
    """A file that gets a line for each distillation."""

    def distill(self, task: Task) -> DistilledSet:
        if self.log:
            with open(self.log, "a") as f:
                f.write(f"{self.noise} {len(task.train)}\\n")
        if self.noise < 0:
            raise ValueError("noise below 0")
        keep = torch.cat([task.train.of_class(c)[: task.ipc] for c in range(task.train.classes)])
        images = task.train.space.real_to_input(task.train.images[keep])
        images = images + self.noise * torch.randn(images.shape, generator=task.rng("noise"))
        return task.distilled(images=images, ids=task.train.labels[keep])
'''
QUICK = dict(network="ConvNetD1W8", repeats=2, device="cpu", quiet=True)


@pytest.fixture
def noisy(tmp_path):
    (tmp_path / "sweep_noisy.py").write_text(NOISY)
    before = dict(registry._added)
    registry.add_file(tmp_path / "sweep_noisy.py")
    yield "sweep_noisy"
    registry._added.clear()
    registry._added.update(before)


def untouchable(real: RealData) -> RealData:
    """The data with a test split that raises when its images or labels are read."""
    test = replace(real.test)

    class Locked(ImageData):
        def __getattribute__(self, name):
            if name in ("images", "labels", "of_class", "subset", "to", "__len__"):
                raise AssertionError(f"test data were read: {name}")
            return object.__getattribute__(self, name)

    object.__setattr__(test, "__class__", Locked)
    return _pair(real.train, test)


def _pair(train: ImageData, test: ImageData) -> RealData:
    made = object.__new__(RealData)  # whose own check reads shapes
    object.__setattr__(made, "train", train)
    object.__setattr__(made, "test", test)
    return made


# ------------------------------------------------------------------------------------------------ the choice


def test_the_best_on_held_out_images_is_chosen_and_test_images_are_not_read(noisy, gauss3, tmp_path):
    locked = untouchable(gauss3)
    with pytest.raises(AssertionError, match="test data were read: images"):
        _ = locked.test.images
    best = api.sweep(noisy, locked, 2, {"noise": [8.0, 0.1, 30.0]}, holdout=0.5, **QUICK)
    assert best.settings == {"noise": 0.1} and best.index == 1
    assert [dict(c) for c in best.candidates] == [{"noise": 8.0}, {"noise": 0.1}, {"noise": 30.0}]
    assert best.accuracies[1] == max(best.accuracies) and (best.kept, best.held) == (18, 18)
    assert str(best).startswith(
        "noise=0.1 chosen on 18 held-out training images (50 % of a class), distilled from the other 18, under quick "
        "with ConvNetD1W8, students 2: noise=8.0 "
    )
    assert not list(tmp_path.glob("*runs*")), "nothing is kept without a run folder"


def test_the_split_has_a_share_of_every_class_and_depends_on_the_seed_alone(gauss3):
    locked = untouchable(gauss3)
    one, again, other = (
        sweep.split(locked, 0.25, 0),
        sweep.split(locked, 0.25, 0),
        sweep.split(locked, 0.25, 1),
    )
    assert [(one.test.labels == c).sum().item() for c in range(3)] == [3, 3, 3]
    assert len(one.train) == 27 and one.train.classes == 3
    assert torch.equal(one.test.images, again.test.images) and not torch.equal(
        one.test.images, other.test.images
    )
    everything = torch.cat([one.train.images, one.test.images]).flatten(1)
    assert len(everything.unique(dim=0)) == len(gauss3.train.images.flatten(1).unique(dim=0))
    with pytest.raises(plan.PlanError, match="--holdout is 1; expected a share"):
        sweep.split(gauss3, 1.0, 0)


def test_of_equal_ones_the_first_is_chosen_and_failed_ones_never():
    def made(*accuracies) -> sweep.Choice:
        candidates = tuple({"a": i} for i in range(len(accuracies)))
        return sweep.Choice(
            candidates, accuracies, ("",) * len(accuracies), 0.1, 9, 1, "quick", "MLP", 1, 0.0
        )

    assert made(0.5, 0.7, 0.7).settings == {"a": 1}
    assert made(None, 0.1, None).settings == {"a": 1}
    assert "a=0 failed, a=1 10.0 %" in str(made(None, 0.1, None))


def test_values_that_fail_are_said_and_where_all_fail_there_is_no_choice(noisy, gauss3):
    best = api.sweep(noisy, gauss3, 1, {"noise": [-1.0, 0.5]}, **QUICK)
    assert best.settings == {"noise": 0.5} and best.accuracies[0] is None
    assert "noise below 0" in best.reasons[0] and best.reasons[1] == ""
    assert sweep.document(best)["candidates"][0]["reason"] == best.reasons[0]
    with pytest.raises(
        sweep.SweepError, match=r"(?s)sweep_noisy gauss3 ipc 1: no value could be scored:.*noise below 0"
    ):
        api.sweep(noisy, gauss3, 1, {"noise": [-1.0, -2.0]}, **QUICK)


def test_several_settings_make_a_grid(noisy, gauss3, tmp_path):
    logs = [str(tmp_path / "a"), str(tmp_path / "b")]
    best = api.sweep(noisy, gauss3, 1, {"noise": [0.1, 5.0], "log": logs}, **QUICK)
    assert [dict(c) for c in best.candidates] == [{"noise": n, "log": f} for n in (0.1, 5.0) for f in logs]
    assert best.settings == {"noise": 0.1, "log": logs[0]}, "equal in accuracy: the first"


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (dict(values={}), ValueError, "values are {}; expected settings with values to compare"),
        (dict(values={"noise": []}), ValueError, "values are .*; expected settings with values to compare"),
        (dict(values={"nois": [1, 2]}), LookupError, "no field 'nois'; nearest: noise"),
        (dict(values={"noise": ["lots", 1]}), ValueError, "setting 'noise' of method 'sweep_noisy' is 'lots'; expected float"),
        (dict(values={"noise": [1, 2]}, protocol="quik"), LookupError, "no protocol 'quik'; nearest: quick"),
        (dict(values={"noise": [1, 2]}, protocol="quick-full"), ValueError, "cannot be chosen under protocol quick-full"),
        (dict(values={"noise": [1, 2]}, holdout=0.0), ValueError, "--holdout is 0; expected a share between 0 and 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_said_first(noisy, gauss3, given, error, text):
    with pytest.raises(error, match=text):
        api.sweep(noisy, gauss3, 1, **{**QUICK, **given})


# ------------------------------------------------------------------------------------------------ cells and records


def planned(noisy: str, seeds: int = 2, protocols=("quick",), **values):
    suite = plan.from_flags(
        methods=[noisy], seeds=seeds, networks=["ConvNetD1W8"], repeats=2, protocols=protocols,
        settings={k: v[0] for k, v in values.items()},
    )  # fmt: skip
    return plan.swept(plan.cells(suite), values)


def context(tmp_path: Path, **more) -> runner.Context:
    return runner.Context(run=tmp_path / "runs", device="cpu", **more)


def test_cells_run_with_the_choice_and_their_records_say_so(noisy, tmp_path, monkeypatch):
    loaded = data.load("digits")
    log = tmp_path / "log"
    groups = planned(noisy, noise=[9.0, 0.1], log=[str(log)])
    cells, choices, failures = sweep.decide(groups, context(tmp_path), 0.2)
    assert not failures and [c.distil.settings["noise"] for c in cells] == [0.1, 0.1]
    assert [c.distil.seed for c in cells] == [0, 1], "one choice for all seeds"
    kept = len(loaded.train) - len(sweep.split(loaded, 0.2, 0).test)
    assert log.read_text().split() == ["9.0", str(kept), "0.1", str(kept)]
    summary = executors.run(cells, context(tmp_path))
    outcomes = sweep.mark(summary.outcomes, choices, store.RunFolder(tmp_path / "runs"))
    assert log.read_text().splitlines()[2:] == [f"0.1 {len(loaded.train)}"] * 2, "then on all training images"
    records = store.RunFolder(tmp_path / "runs").records()
    assert sorted(o.record.key for o in outcomes) == [r.key for r in records] and len(records) == 2
    for record in records:
        assert {(s.chosen_by, s.chosen_on) for s in record.scores} == {("last", "holdout")}
        assert record.notes["sweep"] == str(choices[record.cell.model_dump_json()])
        assert "noise=9.0" in record.notes["sweep"] and record.status == "ok"
    inner = store.RunFolder(tmp_path / "runs" / sweep.FOLDER).records()
    assert len(inner) == 2 and {r.cell.distil.seed for r in inner}.isdisjoint({0, 1})
    assert not any(r.set_key in {x.set_key for x in records} for r in inner)
    # boards rank the row as any other, and name that it was swept
    (made,) = board.make(records)
    (row,) = made.table.to_dict("records")
    assert row["n"] == 4 and row["overrides"].endswith(", swept") and "noise=0.1" in row["overrides"]


def test_what_was_compared_is_found_again_and_a_killed_comparison_goes_on(noisy, tmp_path):
    log = tmp_path / "log"
    groups = planned(noisy, noise=[9.0, 0.1], log=[str(log)])
    told: list[str] = []

    def stop(outcome):
        told.append(outcome.status)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.decide(groups, context(tmp_path), 0.2, told=stop)
    assert len(log.read_text().splitlines()) == 1
    told.clear()
    first = sweep.decide(groups, context(tmp_path), 0.2, told=lambda o: told.append(o.status))
    assert told == ["cached", "ok"] and len(log.read_text().splitlines()) == 2
    told.clear()
    again = sweep.decide(groups, context(tmp_path), 0.2, told=lambda o: told.append(o.status))
    assert told == ["cached", "cached"] and len(log.read_text().splitlines()) == 2
    assert [str(c) for c in first[1].values()] == [str(c) for c in again[1].values()], "seconds included"
    sweep.decide(groups, context(tmp_path), 0.3)
    assert len(log.read_text().splitlines()) == 4, "another share is another comparison"


def test_a_time_budget_that_ends_leaves_it_to_the_next_run(noisy, tmp_path):
    with pytest.raises(BudgetUsedUp, match="while settings were compared; run again to go on"):
        sweep.decide(planned(noisy, noise=[9.0, 0.1]), context(tmp_path, budget=TimeBudget(1e-9)), 0.2)


def test_every_protocol_chooses_for_itself_and_a_group_that_cannot_is_left_out(noisy, tmp_path):
    groups = planned(noisy, 1, ("quick", "rethink-hard"), noise=["-1", "-2"])
    assert [g.cells[0].protocol for g in groups] == ["quick", "rethink-hard"]
    cells, choices, failures = sweep.decide(groups, context(tmp_path), 0.2)
    assert cells == [] and choices == {} and len(failures) == 2 and "noise below 0" in failures[0]


def test_scores_that_were_chosen_on_test_data_stay_what_they_are():
    record = next(iter(store.RunFolder(Path(__file__).parent.parent / "leaderboards").records()))
    best = Score(value=0.9, network="ConvNetD1W8", seed=0, chosen_by="best-epoch", chosen_on="test")
    choice = sweep.Choice(({"a": 1},), (0.5,), ("",), 0.1, 9, 1, "quick", "MLP", 1, 1.0)
    marked = sweep.marked(record.model_copy(update={"scores": [*record.scores, best]}), choice)
    assert marked.scores[-1] == best and {s.chosen_on for s in marked.scores[:-1]} == {"holdout"}
    assert sweep.marked(marked, choice) == marked, "once is enough"


# ------------------------------------------------------------------------------------------------ as a command


class TestCommand:
    def arguments(self, tmp_path: Path) -> tuple[object, ...]:
        path = tmp_path / "cli_noisy.py"
        path.write_text(NOISY)
        return (
            "run",
            "--method",
            "cli_noisy",
            "--plugin",
            path,
            "--network",
            "ConvNetD1W8",
            "--repeats",
            2,
            "--device",
            "cpu",
        )

    def test_it_chooses_runs_and_says_what_it_chose(self, ddbench, tmp_path):  # noqa: F811
        arguments = (*self.arguments(tmp_path), "--seeds", 2, "--set", "noise=9,0.1", "--holdout", 0.2)
        said = ddbench(*arguments)
        assert said.status == 0 and "2 cells: 2 done" in said.out
        assert "noise=0.1 chosen on " in said.err and "noise=9 " in said.err
        assert "noise=0.1, swept" in said.out
        again = ddbench(*arguments, "--json", "--no-boards").json
        assert [c["status"] for c in again["cells"]] == ["cached", "cached"]
        (choice,) = again["sweeps"]
        assert choice["settings"] == {"noise": "0.1"} and choice["holdout"] == 0.2
        assert [c["settings"] for c in choice["candidates"]] == [{"noise": "9"}, {"noise": "0.1"}]
        assert all("sweep" in c["record"]["notes"] for c in again["cells"])
        on_disk = [json.loads(p.read_text()) for p in Path("runs/records").glob("*.json")]
        assert len(on_disk) == 2 and all(s["chosen_on"] == "holdout" for r in on_disk for s in r["scores"])
        assert not list(Path("runs/sweeps/locks").glob("*")), "nobody holds them any more"

    def test_a_dry_run_takes_the_choice_that_was_made(self, ddbench, tmp_path):  # noqa: F811
        arguments = (*self.arguments(tmp_path), "--seeds", 2, "--set", "noise=9,0.1", "--holdout", 0.2)
        asked = (*arguments, "--dry-run", "--json")
        before = ddbench(*asked).json
        assert [g["settings"] for g in before["groups"]] == [{"noise": "9"}] and before["done"] == 0
        assert before["notes"] == [
            "cli_noisy digits ipc 1 quick: settings are not chosen yet; counted with noise=9"
        ]
        ddbench(*arguments, "--no-boards")
        after = ddbench(*asked).json
        assert [g["settings"] for g in after["groups"]] == [{"noise": "0.1"}]
        assert after["done"] == after["cells"] == 4, "two comparisons, two cells"
        said = ddbench(*arguments, "--dry-run").out
        assert "cli_noisy digits ipc 1 quick: noise=0.1 was chosen before" in said
        at = asked.index("--seeds")
        more = ddbench(*asked[: at + 1], 3, *asked[at + 2 :]).json
        assert [(g["cells"], g["done"]) for g in more["groups"]] == [(3, 2)], "more seeds choose nothing anew"
        other_share = ddbench(*(a if a != 0.2 else 0.3 for a in asked)).json
        assert other_share["groups"][0]["settings"] == {"noise": "9"}, "not chosen on that share"
        for path in Path("runs/sweeps/choices").iterdir():
            path.write_text("{")
        assert ddbench(*asked).json["groups"][0]["settings"] == {"noise": "9"}, "the run will say it again"

    def test_where_no_value_works_the_status_is_1_with_the_reasons(self, ddbench, tmp_path):  # noqa: F811
        said = ddbench(*self.arguments(tmp_path), "--seeds", 1, "--set", "noise=-1,-2", "--no-boards")
        assert said.status == 1 and "no value could be scored" in said.out and "noise below 0" in said.out

    @pytest.mark.parametrize(
        ("more", "text"),
        [
            (("--holdout", "0.2"), "--holdout 0.2 without values to compare; expected --set KEY=A,B"),
            (("--set", "noise=1,2", "--holdout", "2"), "--holdout is 2; expected a share between 0 and 1"),
            (("--set", "noise=1,1"), "--set: noise is 1 twice"),
            (("--set", "noise=1,many"), "setting 'noise' of method 'cli_noisy' is 'many'; expected float"),
            (("--set", "nois=1|2"), "method 'cli_noisy' has no setting 'nois'; nearest: noise"),
            (("--set", "noise=1,2", "--protocol", "quick-full"), "cannot be chosen under protocol quick-full"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_compared_is_said_before_anything_is_done(self, ddbench, tmp_path, more, text):  # noqa: F811
        said = ddbench(*self.arguments(tmp_path), *more)
        assert said.status == 2 and text in said.err and not Path("runs").exists()

    def test_distil_compares_nothing(self, ddbench):  # noqa: F811
        said = ddbench("distill", "--method", "dm", "--set", "image_lr=1", "--set", "image_lr=3")
        assert said.status == 2 and "--set: image_lr is given twice, 1 and 3; expected one value" in said.err
