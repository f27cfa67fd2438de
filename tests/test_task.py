"""The task: equal streams, loops that resume bit for bit, traces without repeats, sets with true cards."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ddbench import sets, store
from ddbench import task as task_module
from ddbench.contract import CodecSpec, ImageData, Space, Targets
from ddbench.task import DivergedError, RunTask, TimeBudget, parse_duration, pick_device, read_trace


def data(per_class: int = 6, classes: int = 3) -> ImageData:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat(per_class)
    images = torch.randint(0, 256, (len(labels), 1, 4, 4), generator=rng, dtype=torch.uint8)
    return ImageData("tiny", "train", images, labels, classes, (0.5,), (0.25,))


def task(tmp_path: Path | None = None, seed: int = 0, **more) -> RunTask:
    run = None if tmp_path is None else store.RunFolder(tmp_path)
    return RunTask(data(), 1, seed, run=run, **more)


@dataclass(frozen=True)
class Walk:
    """A momentum walk with noise in two loops, the second starting from a draw made between them."""

    steps: int = 20
    pause_s: float = 0.0

    def distill(self, t):
        x = torch.randn(3, 1, 4, 4, generator=t.rng("init")).requires_grad_()
        optimiser = torch.optim.Adam([x], lr=0.1)
        net = torch.nn.BatchNorm2d(1)
        counts = {"steps": 0}
        for _ in t.loop(self.steps, [x, optimiser, net, counts]):
            noise = torch.randn(x.shape, generator=t.rng("noise"))
            optimiser.zero_grad()
            loss = ((net(x) + x - noise) ** 2).mean()
            loss.backward()
            optimiser.step()
            counts["steps"] += 1
            t.log(loss=loss, steps=counts["steps"])
            time.sleep(self.pause_s)
        y = torch.randn(x.shape, generator=t.rng("noise"))
        for _ in t.loop(self.steps, [y]):
            y += x.detach() * torch.rand(1, generator=t.rng("noise"))
            time.sleep(self.pause_s)
        return t.distilled(images=x.detach() + y, ids=torch.arange(3))


class TestGenerators:
    def test_the_same_name_goes_on_with_its_stream_and_seeds_differ(self):
        a, b, other = task(), task(), task(seed=1)
        first, second = torch.rand(3, generator=a.rng("x")), torch.rand(3, generator=a.rng("x"))
        assert torch.equal(first, torch.rand(3, generator=b.rng("x")))
        assert torch.equal(second, torch.rand(3, generator=b.rng("x")))
        assert not torch.equal(first, second)
        assert not torch.equal(first, torch.rand(3, generator=other.rng("x")))


class TestHoldout:
    def test_each_class_is_split_and_nothing_is_lost(self):
        t = task()
        kept, held = t.holdout(0.3)
        assert [len(held.of_class(c)) for c in range(3)] == [2, 2, 2]
        assert len(kept) + len(held) == len(t.train)
        everything = torch.cat([kept.images, held.images]).flatten(1).tolist()
        assert sorted(everything) == sorted(t.train.images.flatten(1).tolist())
        assert torch.equal(t.holdout(0.3)[1].images, held.images), "the same split at each call"

    @pytest.mark.parametrize("fraction", [0.01, 0.99])
    def test_no_part_is_ever_empty(self, fraction):
        assert all(len(part.of_class(c)) for part in task().holdout(fraction) for c in range(3))

    def test_a_fraction_outside_0_to_1_and_a_class_of_one_image_are_refused(self):
        with pytest.raises(ValueError, match="fraction is 1.5; expected a number between 0 and 1"):
            task().holdout(1.5)
        with pytest.raises(ValueError, match="class 0 has 1 training images; expected at least 2"):
            RunTask(data(per_class=1), 1, 0).holdout(0.5)


class TestLoop:
    def test_it_counts_and_without_a_run_folder_keeps_nothing(self):
        assert list(task().loop(3)) == [0, 1, 2]
        assert list(task().loop(0)) == []

    def test_a_run_cut_by_the_budget_and_resumed_equals_one_in_one_go(self, tmp_path):
        whole = task().run_method(Walk())
        cuts = 0
        for _ in range(100):
            again = task(tmp_path)
            again.budget = StopAfter(7)
            result = again.run_method(Walk())
            if not again.partial:
                break
            cuts += 1
            assert (
                result.card.partial
                and "of 40 iterations when the time budget" in result.card.notes["partial"]
            )
        assert cuts >= 4
        assert torch.equal(whole.tensors["images"], result.tensors["images"])
        assert result.card.cost.iterations == whole.card.cost.iterations == 40
        assert [r["steps"] for r in read_trace(again.run.trace_path(again.key))] == list(range(1, 21))

    def test_kill_minus_9_and_resume_gives_the_same_bits(self, tmp_path):
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); import test_task as m, pathlib;"
            "m.task(pathlib.Path(sys.argv[2]), checkpoint_every_s=0.0).run_method(m.Walk(pause_s=0.02))"
        )
        here = Path(__file__).parent
        env = {**os.environ, "PYTHONPATH": str(here.parent)}
        for number in (0, 1):  # once inside each loop
            process = subprocess.Popen([sys.executable, "-c", code, str(here), str(tmp_path)], env=env)
            checkpoint = tmp_path / "checkpoints" / "distill" / f"loop-{number}.safetensors"
            deadline = time.monotonic() + 60
            while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert checkpoint.exists()
            assert store.load_state(checkpoint)["done"] < 20, "it was killed too late to show anything"
        resumed = task(tmp_path).run_method(Walk())
        assert torch.equal(resumed.tensors["images"], task().run_method(Walk()).tensors["images"])

    def test_a_truncated_checkpoint_is_named(self, tmp_path):
        list(task(tmp_path).loop(2, [torch.zeros(50)]))
        path = tmp_path / "checkpoints" / "distill" / "loop-0.safetensors"
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(
            store.DamagedError, match=r"loop-0\.safetensors is damaged or truncated .*remove it to start"
        ):
            list(task(tmp_path).loop(2, [torch.zeros(50)]))

    def test_a_checkpoint_of_something_else_is_refused(self, tmp_path):
        list(task(tmp_path).loop(2, [torch.zeros(5)]))
        with pytest.raises(
            store.DamagedError, match=r"does not fit .*state\[0\] is torch.float32 \(6,\) but .* \(5,\)"
        ):
            list(task(tmp_path).loop(2, [torch.zeros(6)]))
        with pytest.raises(
            store.DamagedError, match="1 things of a loop of 2, the method has 1 of a loop of 3"
        ):
            list(task(tmp_path).loop(3, [torch.zeros(5)]))

    def test_a_state_that_cannot_be_kept_is_refused_at_once(self):
        with pytest.raises(TypeError, match=r"state\[1\] of task.loop is a int; expected a tensor"):
            task().loop(2, [torch.zeros(1), 3])

    def test_a_loop_inside_a_loop_is_refused(self):
        t = task()
        with pytest.raises(RuntimeError, match=r"task.loop inside task.loop; use range\(\)"):
            for _ in t.loop(2):
                t.loop(2)

    def test_a_leaf_keeps_its_identity_and_its_gradient_flag(self, tmp_path):
        x = torch.zeros(2, requires_grad=True)
        for _ in task(tmp_path).loop(1, [x]):
            with torch.no_grad():
                x += 5
        y = torch.zeros(2, requires_grad=True)
        for _ in task(tmp_path).loop(1, [y]):
            raise AssertionError("it was done already")
        assert y.requires_grad and y.is_leaf and y.tolist() == [5, 5]


class StopAfter(TimeBudget):
    """A budget of so many looks at the clock."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def used_up(self) -> bool:
        self.looks -= 1
        return self.looks < 0


class TestTraces:
    def test_a_nan_in_the_trace_ends_the_distillation_with_the_iteration(self):
        t = task()
        with pytest.raises(
            DivergedError, match="^distil diverged: loss is nan at iteration 1 of 3; lower its learning"
        ):
            for it in t.loop(3):
                t.log(loss=torch.tensor(float("nan") if it == 1 else 0.0))

    def test_a_line_cut_off_by_a_kill_is_left_out(self, tmp_path):
        (tmp_path / "t").write_text('{"loop": 0, "iteration": 0}\n{"loop": 0, "it')
        assert read_trace(tmp_path / "t") == [{"loop": 0, "iteration": 0}]

    def test_a_snapshot_is_a_set_of_its_own(self, tmp_path):
        t = task(tmp_path)
        for _ in t.loop(2):
            t.snapshot(t.distilled(subset=torch.tensor([0, 1, 2])))
        names = sorted(p.name for p in (tmp_path / "snapshots" / "distill").glob("*.safetensors"))
        assert names == ["0000001.safetensors", "0000002.safetensors"]
        assert t.run.snapshots("distill")[-1] == (2, t.run.snapshot_path("distill", 2))
        assert sets.read(t.run.snapshot_path("distill", 1)).codec.name == "subset"


def traced(t: RunTask) -> list[dict]:
    return read_trace(t.run.trace_path(t.key))


class TestRows:
    def test_each_has_loop_iteration_seconds_and_values_and_seconds_do_not_fall(self, tmp_path):
        t = task(tmp_path)
        for number in range(2):
            for it in t.loop(3):
                t.log(loss=torch.tensor(it + 0.5, dtype=torch.float64), n=torch.tensor([number]))
                t.log(more=2)  # of the same iteration: the same row
        rows = traced(t)
        assert [(r["loop"], r["iteration"], r["loss"], r["n"], r["more"]) for r in rows] == [
            (n, i, i + 0.5, n, 2) for n in range(2) for i in range(3)
        ]
        seconds = [r["s"] for r in rows]
        assert seconds == sorted(seconds) and seconds[0] > 0

    def test_long_loops_are_thinned_evenly_and_keep_first_and_last(self, tmp_path, monkeypatch):
        monkeypatch.setattr(task_module, "_TRACE_ROWS", 10)
        t = task(tmp_path)
        for it in t.loop(95):
            t.log(x=it)
        assert [r["x"] for r in traced(t)] == [0, 10, 19, 29, 38, 48, 57, 67, 76, 86, 94]
        t = task(tmp_path, key="sparse")
        for it in t.loop(95):
            if it % 30 == 0:
                t.log(x=it)
        assert [r["x"] for r in traced(t)] == [0, 30, 60, 90]

    def test_thinned_rows_of_a_loop_that_was_cut_are_those_of_one_in_one_go(self, tmp_path, monkeypatch):
        monkeypatch.setattr(task_module, "_TRACE_ROWS", 7)

        def log(t: RunTask) -> RunTask:
            for it in t.loop(50):
                t.log(x=it)
            return t

        whole = [r["x"] for r in traced(log(task(tmp_path / "whole")))]
        for _ in range(20):
            t = task(tmp_path / "cut")
            t.budget = StopAfter(8)
            if not log(t).partial:
                break
        assert [r["x"] for r in traced(t)] == whole and whole[-1] == 49

    def test_rows_written_after_the_checkpoint_by_a_killed_process_are_logged_once(self, tmp_path):
        t = task(tmp_path, checkpoint_every_s=1e9)
        loop = t.loop(30, [torch.zeros(1)])
        for it in loop:
            t.log(x=it)
            if it == 9:
                t._save(0, 30, 10, [torch.zeros(1)], set())
            if it == 20:
                t._flush()  # as a full buffer does
                break
        loop.close()
        assert len(traced(t)) == 21
        again = task(tmp_path)
        begun = [it for it in again.loop(30, [torch.zeros(1)]) if again.log(x=it) is None]
        assert begun[0] == 10 and [r["x"] for r in traced(again)] == list(range(30))

    def test_what_is_logged_outside_of_a_loop_is_kept_too_and_not_repeated(self, tmp_path):
        def go(t: RunTask) -> RunTask:
            for _ in t.loop(2):
                t.log(a=1)
            t.log(between=2)
            for _ in t.loop(2):
                t.log(b=3)
            return t

        first = traced(go(task(tmp_path)))
        (tmp_path / "checkpoints" / "distill" / "loop-1.safetensors").unlink()
        strip = [{k: v for k, v in r.items() if k != "s"} for r in first]
        assert [{k: v for k, v in r.items() if k != "s"} for r in traced(go(task(tmp_path)))] == strip
        assert len(first) == 5

    def test_all_tensors_are_read_in_one_go_a_device_and_type(self, monkeypatch):
        stacks = []
        stack = torch.stack
        monkeypatch.setattr(torch, "stack", lambda ts, *a: stacks.append(len(ts)) or stack(ts, *a))
        t = task()
        for _ in t.loop(50):
            t.log(a=torch.zeros(()), b=torch.zeros(1), c=1.0)
        assert stacks == [100]

    def test_a_logged_tensor_is_as_it_was_then(self, tmp_path):
        t, x = task(tmp_path), torch.zeros((), requires_grad=True)
        for _ in t.loop(3):
            t.log(x=x)
            with torch.no_grad():
                x += 1
        assert [r["x"] for r in traced(t)] == [0, 1, 2]

    def test_names_of_every_row_and_tensors_of_several_numbers_are_refused(self):
        with pytest.raises(ValueError, match=r"task.log\(loop=...\) takes a name that every row has"):
            task().log(loop=1)
        with pytest.raises(
            ValueError, match=r"got a tensor of shape \(3,\); expected one number, such as its mean"
        ):
            task().log(loss=torch.zeros(3))

    def test_the_progress_bar_shows_the_last_values_without_reading_each(self, monkeypatch):
        reads = []
        read = task_module._read
        monkeypatch.setattr(task_module, "_read", lambda rows: reads.append(len(rows)) or read(rows))
        monkeypatch.setattr(task_module, "_TELL_EVERY_S", 0.0)
        real = task_module.tqdm
        terminal = {"disable": False, "file": io.StringIO()}
        monkeypatch.setattr(task_module, "tqdm", lambda **more: real(**{**more, **terminal}))
        t = task()
        for it in t.loop(4):
            t.log(loss=torch.tensor(it + 0.25))
            if it == 3:
                assert t._bar.postfix == "loss=2.25"
        assert reads == [1, 1, 1, 1, 4]
        reads.clear()
        monkeypatch.setattr(task_module, "_TELL_EVERY_S", 60.0)
        for _ in task().loop(4):
            pass
        assert reads == [0]


@dataclass(frozen=True)
class Falls:
    """Halves its images; can show them."""

    steps: int = 10
    image_lr: float = 0.5
    break_at: int = -1
    show_s: float = 0.0
    value: float = float("inf")
    shows: bool = True
    log: bool = True

    def distill(self, t):
        x = torch.full((3, 1, 4, 4), 8.0)
        best = torch.tensor(float("inf"))

        def show():
            time.sleep(self.show_s)
            return t.distilled(images=x, ids=torch.arange(3))

        for it in t.loop(self.steps, [x, {"best": best}], show=show if self.shows else None):
            x *= 1 - self.image_lr
            if it == self.break_at:
                x[1, 0, 2, 2] = self.value
            if self.log:
                t.log(loss=x.mean())
        return show()


class TestDivergence:
    def test_a_value_names_iteration_learning_rate_checkpoint_and_snapshot(self, tmp_path):
        t = task(tmp_path, name="falls ipc 1 seed 0", checkpoint_every_s=0.0, snapshot_every=4)
        with pytest.raises(DivergedError) as error:
            t.run_method(Falls(break_at=6))
        folder = tmp_path / "checkpoints" / "distill"
        assert str(error.value) == (
            "falls ipc 1 seed 0 diverged: loss is inf at iteration 6 of 10; lower its learning rate (image_lr=0.5); its last "
            f"good checkpoint, after 6 iterations, is {folder / 'loop-0.safetensors'}; its last snapshot is "
            f"{tmp_path / 'snapshots' / 'distill' / '0000004.safetensors'}"
        )
        kept = store.load_state(folder / "loop-0.safetensors")
        assert kept["done"] == 6 and torch.isfinite(kept["state"][0]).all()
        assert [r["iteration"] for r in traced(t)] == list(range(6)), "what was good is in the trace"
        with pytest.raises(DivergedError, match="loss is inf at iteration 6 of 10"):
            task(tmp_path).run_method(Falls(break_at=6))
        assert not task(tmp_path).run_method(Falls()).card.partial, "from the good checkpoint it goes on"

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_state_that_is_not_finite_is_found_without_any_trace_and_never_kept(self, tmp_path, value):
        t = task(tmp_path, checkpoint_every_s=0.0)
        text = (
            rf"state\[0\] of task.loop has 1 of 48 values that are not finite \(the first is {value}\) after 4 of 10 "
            r"iterations; lower its learning rate \(image_lr=0.5\); its last good checkpoint, after 3 iterations"
        )
        with pytest.raises(DivergedError, match=text):
            t.run_method(Falls(break_at=3, value=value, log=False))
        kept = store.load_state(tmp_path / "checkpoints" / "distill" / "loop-0.safetensors")
        assert kept["done"] == 3 and torch.isfinite(kept["state"][0]).all()

    def test_it_is_found_at_the_end_of_the_loop_at_the_latest_and_without_a_run_folder_too(self, tmp_path):
        for t, kept in (
            (task(), "without a run folder nothing was kept"),
            (task(tmp_path), "it had no checkpoint yet"),
        ):
            with pytest.raises(DivergedError, match=rf"after 10 of 10 iterations; .*; {kept}$"):
                t.run_method(Falls(break_at=3, value=float("nan"), log=False))
        assert not list(tmp_path.glob("checkpoints/*/*"))

    def test_a_value_that_the_trace_leaves_out_counts_at_a_flush(self, monkeypatch):
        monkeypatch.setattr(task_module, "_TRACE_ROWS", 2)
        t = task(checkpoint_every_s=0.0)
        with pytest.raises(DivergedError, match="loss is nan at iteration 3 of 10"):
            for it in t.loop(10):
                t.log(loss=float("nan") if it == 3 else 0.0)

    def test_a_nan_that_is_told_on_the_bar_or_logged_after_the_loop_counts(self):
        t = task()
        list(t.loop(2))
        t.log(final=torch.tensor(float("nan")))
        with pytest.raises(DivergedError, match="final is nan at iteration 1 of 2"):
            t._flush()

    def test_a_number_that_was_read_already_is_looked_at_at_once(self):
        t = task()
        for _ in t.loop(2):
            with pytest.raises(DivergedError, match="loss is inf at iteration 0 of 2"):
                t.log(loss=float("inf"))
            break

    def test_a_snapshot_of_a_broken_state_is_not_written(self, tmp_path):
        t = task(tmp_path, snapshot_every=2)
        with pytest.raises(
            DivergedError, match=r"after 4 of 10 iterations.*last snapshot is .*0000002.safetensors"
        ):
            t.run_method(Falls(break_at=3, log=False))
        assert [n for n, _ in t.run.snapshots("distill")] == [2]

    def test_an_infinity_that_the_state_began_with_is_no_divergence(self):
        task(checkpoint_every_s=0.0).run_method(Falls())  # its best loss so far begins there


class TestShowing:
    def test_snapshots_and_sheets_come_every_n_iterations_and_at_the_end(self, tmp_path):
        t = task(tmp_path, snapshot_every=4, card={"method": "falls", "notes": {"recipe": "another ipc"}})
        finished = t.run_method(Falls())
        assert [n for n, _ in t.run.snapshots("distill")] == [4, 8, 10]
        sheets = sorted(p.name for p in (tmp_path / "pictures" / "distill").iterdir())
        assert sheets == ["000004.png", "000008.png", "finished.png"]
        cards = []
        for iterations, path in t.run.snapshots("distill"):
            shot = sets.read(path)
            assert shot.tensors["images"][0, 0, 0, 0] == 8 * 0.5**iterations
            assert shot.card.method == "falls" and shot.card.cost.iterations == iterations
            cards.append(shot.card.cost.wall_s)
        assert cards == sorted(cards) and 0 < cards[0]
        assert sets.read(path).fingerprint() == finished.fingerprint()
        assert finished.card.notes == {"recipe": "another ipc"} and finished.card.method == "falls"
        assert {e.kind for e in t.run.entries()} >= {"snapshots", "pictures", "traces"}

    def test_without_them_nothing_is_shown_and_the_set_is_the_same(self, tmp_path):
        plain, shown = task(tmp_path / "a"), task(tmp_path / "b", snapshot_every=1)
        assert plain.run_method(Walk()).fingerprint() == shown.run_method(Walk()).fingerprint()
        assert not (tmp_path / "a" / "snapshots").exists() and not (tmp_path / "a" / "pictures").exists()

    def test_a_method_that_cannot_show_its_set_has_only_the_finished_sheet(self, tmp_path):
        task(tmp_path, snapshot_every=2).run_method(Falls(shows=False))
        assert [p.name for p in (tmp_path / "pictures" / "distill").iterdir()] == ["finished.png"]
        assert not (tmp_path / "snapshots").exists()

    def test_later_loops_count_on_and_resumes_do_not_repeat(self, tmp_path):
        class Two:
            def distill(self, t):
                x = torch.zeros(3, 1, 4, 4)

                def show():
                    shots.append(float(x[0, 0, 0, 0]))
                    return t.distilled(images=x, ids=torch.arange(3))

                for _ in range(2):
                    for _ in t.loop(6, [x], show=show):
                        x += 1
                return t.distilled(images=x, ids=torch.arange(3))

        shots: list[float] = []
        for _ in range(9):
            t = task(tmp_path, snapshot_every=4)
            t.budget = StopAfter(3)
            t.run_method(Two())
            if not t.partial:
                break
        assert shots == [4, 8, 12] and [n for n, _ in t.run.snapshots("distill")] == [4, 8, 12]
        assert float(sets.read(t.run.snapshot_path("distill", 8)).tensors["images"][0, 0, 0, 0]) == 8

    def test_mosaics_are_drawn_as_stored_and_decoded(self, tmp_path):
        class Mosaic:
            def distill(self, t):
                x = torch.rand(3, 1, 4, 4, generator=t.rng("x"))
                codec, space = CodecSpec("grid", {"factor": 2}), Space("unit", t.train.mean, t.train.std)

                def show():
                    return t.distilled(images=x, ids=torch.arange(3), codec=codec, space=space)

                list(t.loop(1, [x], show=show))
                return show()

        task(tmp_path, snapshot_every=1).run_method(Mosaic())
        names = sorted(p.name for p in (tmp_path / "pictures" / "distill").iterdir())
        assert names == ["000001-decoded.png", "000001.png", "finished-decoded.png", "finished.png"]

    def test_showing_takes_no_time_of_the_construction(self, tmp_path):
        t = task(tmp_path, snapshot_every=2)
        began = time.perf_counter()
        cost = t.run_method(Falls(show_s=0.15)).card.cost
        elapsed = time.perf_counter() - began
        for seconds in (cost.wall_s, 10 / cost.iterations_per_s, traced(t)[-1]["s"] + 0.15):
            assert elapsed - seconds > 0.7, "five snapshots of 0.15 s each are left out"
        assert sets.read(t.run.snapshot_path("distill", 8)).card.cost.wall_s < cost.wall_s

    def test_iterations_per_second_are_those_of_this_process_and_seconds_those_of_all(self, tmp_path):
        t = task(tmp_path)
        t.budget = StopAfter(31)  # 20 of the first loop, 11 of the second
        first = t.run_method(Walk(pause_s=0.01)).card.cost
        before = store.load_state(tmp_path / "checkpoints" / "distill" / "loop-1.safetensors")["spent_s"]
        second = task(tmp_path).run_method(Walk(pause_s=0.02)).card.cost
        assert first.iterations == 31 and second.iterations == 40 and 0.3 < before <= first.wall_s
        assert 9 / (second.wall_s - before) <= second.iterations_per_s < 50, (
            "9 iterations over their own seconds"
        )

    def test_event_files_have_values_and_sheets_once_after_a_resume(self, tmp_path):
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        for looks in (6, 100):
            t = task(tmp_path, snapshot_every=4, tensorboard=True)
            t.budget = StopAfter(looks)
            t.run_method(Falls())
        found = EventAccumulator(str(tmp_path / "tensorboard" / "distill")).Reload()
        assert [e.step for e in found.Scalars("loss")] == list(range(10))
        assert [e.value for e in found.Scalars("loss")] == [8 * 0.5 ** (i + 1) for i in range(10)]
        assert {e.step for e in found.Images("set")} >= {4, 8, 10}

    def test_notes_are_kept_over_a_resume(self, tmp_path, capsys):
        class Notes:
            def distill(self, t):
                x = torch.zeros(3, 1, 4, 4)
                for it in t.loop(4, [x]):
                    if it == 0:
                        t.note("batch", "made smaller")
                        t.note("batch", "made smaller")
                return t.distilled(images=x, ids=torch.arange(3))

        t = task(tmp_path, quiet=False, name="notes")
        t.budget = StopAfter(2)
        t.run_method(Notes())
        assert capsys.readouterr().err.count("notes: made smaller\n") == 1
        assert task(tmp_path).run_method(Notes()).card.notes["batch"] == "made smaller"


class TestDistilled:
    def test_a_subset_takes_its_labels_from_the_data(self):
        made = task().distilled(subset=torch.tensor([4, 2]))
        assert made.targets.ids.tolist() == [1, 2] and made.codec == CodecSpec("subset")
        card = made.card
        assert (card.dataset, card.ipc, card.classes, card.shape, card.seed) == ("tiny", 1, 3, (1, 4, 4), 0)
        assert card.data_fingerprint == data().fingerprint

    def test_images_are_copied_and_detached(self):
        x = torch.zeros(3, 1, 4, 4, requires_grad=True)
        made = task().distilled(images=x, targets=Targets(soft=torch.eye(3), kind="probabilities"))
        with torch.no_grad():
            x += 1
        assert not made.tensors["images"].any() and not made.tensors["images"].requires_grad
        assert made.space.stored == "input" and made.targets.kind == "probabilities"

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            (dict(images=torch.zeros(1, 1, 4, 4)), r"no labels; expected ids="),
            (dict(ids=torch.zeros(1, dtype=torch.int64)), "nothing to store; expected images="),
            (dict(images=torch.zeros(1, 1, 4, 4), subset=torch.zeros(1).long()), "images= and subset=; expected one"),
            (dict(subset=torch.zeros(1).long(), ids=torch.zeros(1).long(), targets=Targets(ids=torch.zeros(1).long())),
             "ids= and targets=; expected one"),
        ],
    )  # fmt: skip
    def test_what_does_not_go_together_is_refused(self, given, text):
        with pytest.raises(ValueError, match=text):
            task().distilled(**given)

    def test_labels_outside_the_classes_and_foreign_results_are_refused(self):
        class Wrong:
            def distill(self, t):
                return t.distilled(images=torch.zeros(1, 1, 4, 4), ids=torch.tensor([3]))

        class Foreign:
            def distill(self, t):
                return [1]

        with pytest.raises(ValueError, match="3"):
            task().run_method(Wrong())
        with pytest.raises(TypeError, match="distill of Foreign returned a list; expected a DistilledSet"):
            task().run_method(Foreign())

    def test_a_negative_ipc_is_refused(self):
        with pytest.raises(ValueError, match="ipc is -1; expected at least 1"):
            RunTask(data(), -1, 0)


class TestTimeAndDevice:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("90", 90),
            ("90s", 90),
            ("9m", 540),
            ("1h", 3600),
            ("1h30m", 5400),
            ("1.5m", 90),
            ("30d", 2_592_000),
        ],
    )
    def test_durations(self, text, seconds):
        assert parse_duration(text) == seconds

    @pytest.mark.parametrize("text", ["", "m", "9 minutes", "-3m", "0s", "nan"])
    def test_other_durations_are_refused(self, text):
        with pytest.raises(ValueError, match=r"time budget is .*; expected a positive time such as 90s, 9m"):
            parse_duration(text)
        with pytest.raises(ValueError, match="^--older-than is "):
            parse_duration(text, "--older-than")

    def test_a_budget_travels_with_what_is_left(self):
        import pickle

        assert TimeBudget().left_s is None and not TimeBudget().used_up()
        assert TimeBudget(0).used_up()
        assert 0 < pickle.loads(pickle.dumps(TimeBudget(100))).left_s <= 100

    def test_unknown_and_missing_devices_are_refused(self):
        assert pick_device("cpu") == torch.device("cpu")
        with pytest.raises(ValueError, match="device is 'gpu'; expected auto, cpu, cuda"):
            pick_device("gpu")
        with pytest.raises(
            ValueError, match=r"device is 'cuda:99' but torch sees \d+ GPUs; use --device cpu"
        ):
            pick_device("cuda:99")


def test_distillation_is_in_plain_fp32_whatever_the_library_defaults_to(gauss2):
    seen = []

    class Looks:
        def distill(self, task):
            seen.append(torch.backends.cudnn.allow_tf32)
            chosen = torch.stack([task.train.of_class(c)[0] for c in range(task.train.classes)])
            return task.distilled(subset=chosen, ids=task.train.labels[chosen])

    RunTask(gauss2.train, 1, 0, torch.device("cpu")).run_method(Looks())
    assert seen == [False]


def test_items_is_the_budget_of_stored_images_in_all(gauss2):
    assert RunTask(gauss2.train, 3, 0, torch.device("cpu")).items == 3 * gauss2.train.classes
