"""The task: equal streams, loops that resume bit for bit, traces without repeats, sets with true cards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ddbench import store
from ddbench.contract import CodecSpec, ImageData, Targets
from ddbench.task import RunTask, TimeBudget, parse_duration, pick_device, read_trace


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
        with pytest.raises(ValueError, match="loss is NaN at iteration 1; the distillation diverged"):
            for it in t.loop(3):
                t.log(loss=torch.tensor(float("nan") if it == 1 else 0.0))

    def test_a_line_cut_off_by_a_kill_is_left_out(self, tmp_path):
        (tmp_path / "t").write_text('{"loop": 0, "iteration": 0}\n{"loop": 0, "it')
        assert read_trace(tmp_path / "t") == [{"loop": 0, "iteration": 0}]

    def test_a_snapshot_is_a_set_of_its_own(self, tmp_path):
        from ddbench import sets

        t = task(tmp_path)
        for _ in t.loop(2):
            t.snapshot(t.distilled(subset=torch.tensor([0, 1, 2])))
        names = sorted(p.name for p in (tmp_path / "snapshots" / "distill").glob("*.safetensors"))
        assert names == ["0000000.safetensors", "0000001.safetensors"]
        assert sets.read(t.run.snapshot_path("distill", 1)).codec.name == "subset"


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
