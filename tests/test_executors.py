"""Executors: workers give what one process gives, outcomes come as they are made, Ctrl-C keeps checkpoints."""

from __future__ import annotations

import pytest
from test_runner import cell, context, plugins, statuses  # noqa: F401  (plugins is a fixture)

from ddbench import executors, runner, store


def test_cells_of_one_set_stay_together():
    cells = [cell(), cell(seed=1), cell(network="ConvNetD1W32")]
    assert executors.groups(cells) == [[cells[0], cells[2]], [cells[1]]]


def test_workers_give_the_records_of_one_process(tmp_path, plugins):  # noqa: F811
    cells = [cell("slow"), cell("raises"), cell(seed=1)]
    told: list[runner.Outcome] = []
    inline = executors.run(cells, context(tmp_path / "a", plugins))
    spread = executors.run(cells, context(tmp_path / "b", plugins), jobs=2, told=told.append)
    assert sorted(statuses(spread)) == sorted(statuses(inline)) == ["failed", "ok", "ok"]
    assert told == spread.outcomes and spread.exit_status == 1
    one, two = (store.RunFolder(tmp_path / x).records() for x in "ab")
    assert [(r.key, r.scores) for r in one] == [(r.key, r.scores) for r in two]
    assert "run_raises.py" in next(r.reason for r in two if r.status == "failed")


def test_an_interruption_leaves_the_rest_for_the_next_run(tmp_path, plugins):  # noqa: F811
    def stop(_: runner.Outcome) -> None:
        raise KeyboardInterrupt

    summary = executors.run([cell(), cell(seed=1)], context(tmp_path, plugins), told=stop)
    assert statuses(summary) == ["ok", "left"] and summary.interrupted and summary.exit_status == 130
    assert str(summary) == "2 cells: 1 done, 1 left for the next run; interrupted"


def test_an_interruption_stops_workers_at_a_checkpoint(tmp_path, plugins):  # noqa: F811
    def stop(_: runner.Outcome) -> None:
        raise KeyboardInterrupt

    slow = cell("slow", steps=100_000, pause_s=0.01)
    summary = executors.run([slow, cell()], context(tmp_path, plugins), jobs=2, told=stop)
    assert summary.exit_status == 130 and summary.count("left") == 1
    assert list(tmp_path.glob("checkpoints/*/loop-0.safetensors"))


def test_no_jobs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--jobs is 0; expected at least 1"):
        executors.run([], runner.Context(run=tmp_path), jobs=0)


@pytest.mark.parametrize("jobs", [1, 2])
def test_settings_that_cannot_be_are_refused_before_anything_runs(tmp_path, jobs):
    for more, text in (
        ({"precision": "fp99"}, "engine precision is 'fp99'; expected one of fp32"),
        ({"engine": "fast"}, "engine path is 'fast'; expected one of auto"),
        ({"device": "tpu"}, "device is 'tpu'; expected auto"),
    ):
        with pytest.raises(ValueError, match=text):
            executors.run([cell()], runner.Context(run=tmp_path, **more), jobs=jobs)
    assert not list(tmp_path.iterdir())


def test_the_quota_of_the_cache_is_kept_after_a_run(tmp_path, plugins, monkeypatch, fresh_cache):  # noqa: F811
    import os
    import time

    old = fresh_cache / "teachers" / "old.bin"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"x" * 5000)
    os.utime(old, (time.time() - 5000,) * 2)
    monkeypatch.setenv("DDBENCH_CACHE_QUOTA", "1K")
    assert (
        executors.run([cell()], context(tmp_path / "run", plugins)).pruned_bytes == 5000 and not old.exists()
    )


def test_an_outcome_is_said_in_one_line(tmp_path, plugins):  # noqa: F811
    summary = executors.run([cell(), cell("raises")], context(tmp_path, plugins))
    lines = [executors.brief(o) for o in summary.outcomes]
    assert lines[0].startswith("run_first run_blobs ipc 1 seed 0 quick MLP: ") and lines[0].endswith(" %")
    assert lines[1].startswith("run_raises run_blobs ipc 1 seed 0 quick MLP: failed (KeyError: 'lost key'")
