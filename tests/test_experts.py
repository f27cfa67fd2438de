"""Expert trajectories: where they lie, what is read of them, what a killed training loses, what a damaged shard says."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import conftest
import pytest
import torch
from safetensors import safe_open

from ddbench import store
from ddbench import task as task_module
from ddbench.contract import ImageData, RealData, TeacherRecipe
from ddbench.nets.flat import Flat
from ddbench.runner import code_files
from ddbench.task import BudgetUsedUp, RunTask, TimeBudget
from ddbench.train import experts, networks
from ddbench.train.experts import (
    StoredExperts,
    fingerprint,
    make_experts,
    recipe_of,
    remove,
    remove_all,
    stored,
)
from ddbench.train.networks import Job, input_space, train_group

RECIPE = TeacherRecipe(network="ConvNetD1W4", epochs=3, batch=8, lr=0.05, held_out=0.0, count=2)
SIZE = Flat("ConvNetD1W4", (3, 16, 16), 3).size
ONE = 4 * SIZE * 4
"""Bytes of an expert of RECIPE."""


@pytest.fixture
def train(gauss3: RealData, fresh_cache: Path) -> ImageData:
    return gauss3.train


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Groups that were really trained."""
    seen: list[list[int]] = []
    real = experts.train_group

    def counted(job, indices, *rest):
        seen.append(list(indices))
        return real(job, indices, *rest)

    monkeypatch.setattr(experts, "train_group", counted)
    return seen


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every epoch is written at once."""
    monkeypatch.setattr(experts, "_WRITE_EVERY_S", -1.0)


def states(found: StoredExperts) -> torch.Tensor:
    """(experts, epochs + 1, P)."""
    epochs = range(found.recipe.epochs + 1)
    return torch.stack([torch.stack([found.state(e, t) for t in epochs]) for e in range(len(found))])


def stop_after(epochs: int) -> Callable[[int, int], None]:
    def stop(done: int, total: int) -> None:
        if done >= epochs:
            raise KeyboardInterrupt

    return stop


def shard(cache: Path, expert: int = 0) -> Path:
    (path,) = cache.glob(f"experts/*/expert-{expert:04d}.safetensors")
    return path


# ------------------------------------------------------------------------------------------------ what is stored


def test_snapshots_are_the_networks_at_the_start_and_after_every_epoch(train: ImageData) -> None:
    found = make_experts(train, RECIPE, "cpu")
    seen: list[torch.Tensor] = []
    outcomes = train_group(Job(train, RECIPE, "cpu"), [0, 1], lambda n, v, p: seen.append(v()))
    assert len(found) == 2 and states(found).shape == (2, 4, SIZE)
    assert torch.equal(states(found), torch.stack(seen, dim=1))
    flat = Flat(RECIPE.network, train.shape, train.classes)
    for g, outcome in enumerate(outcomes):
        assert torch.equal(found.state(g, 0), flat.vector(outcome.initial))
        assert torch.equal(found.state(g, -1), flat.vector(outcome.state))
        assert found.accuracies[g] == outcome.accuracy
    assert found.state(0, 1).dtype == torch.float32 and found.space.describe() == train.space.describe()
    assert found.train_s > 0 and not torch.equal(found.state(0, 0), found.state(1, 0))


def test_the_second_time_comes_from_the_cache_with_the_cost_of_the_first(
    train: ImageData, trained: list[list[int]]
) -> None:
    first, second = (make_experts(train, RECIPE, "cpu") for _ in range(2))
    assert trained == [[0, 1]]
    assert torch.equal(states(first), states(second))
    assert (first.train_s, first.accuracies, first.fingerprint) == (
        second.train_s,
        second.accuracies,
        second.fingerprint,
    )


def test_more_experts_train_only_those_that_are_missing_and_fewer_are_the_first(
    train: ImageData, trained: list[list[int]]
) -> None:
    two = make_experts(train, RECIPE, "cpu")
    five = make_experts(train, replace(RECIPE, count=5), "cpu")
    assert trained == [[0, 1], [2, 3, 4]] and five.fingerprint == two.fingerprint and len(five) == 5
    one = make_experts(train, replace(RECIPE, count=1), "cpu")
    assert len(trained) == 2 and len(one) == 1
    assert torch.equal(states(five)[:2], states(two)) and torch.equal(states(one)[0], states(two)[0])
    assert one.train_s < two.train_s < five.train_s


def test_a_state_is_a_copy_and_one_row_of_the_mapped_file(train: ImageData, fresh_cache: Path) -> None:
    found = make_experts(train, RECIPE, "cpu")
    with safe_open(shard(fresh_cache, 1), framework="pt") as file:
        whole = file.get_tensor("snapshots")
    assert whole.shape == (4, SIZE) and whole.dtype == torch.float32
    assert torch.equal(states(found)[1], whole)
    found.state(1, 2).zero_()
    assert torch.equal(found.state(1, 2), whole[2])


def test_half_precision_halves_the_file_and_rounds_each_number_by_less_than_2_to_the_minus_11(
    train: ImageData, fresh_cache: Path, tmp_path: Path
) -> None:
    exact = make_experts(train, RECIPE, "cpu")
    half = make_experts(train, replace(RECIPE, storage="fp16"), "cpu", cache=tmp_path / "half")
    assert half.fingerprint != exact.fingerprint and half.state(0, 0).dtype == torch.float32
    x, y = states(exact), states(half)
    assert bool(((x - y).abs() <= x.abs() * 2**-11 + 2**-25).all()) and not torch.equal(x, y)
    assert half.accuracies == exact.accuracies
    sizes = [shard(p).stat().st_size for p in (fresh_cache, tmp_path / "half")]
    assert ONE <= sizes[0] < ONE + 3000 and ONE / 2 <= sizes[1] < ONE / 2 + 3000


def test_numbers_that_half_precision_cannot_hold_are_said(
    train: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(job, indices, hook, resume):
        return train_group(job, indices, lambda n, v, p: hook(n, lambda: v() * 1e6, p), resume)

    monkeypatch.setattr(experts, "train_group", large)
    with pytest.raises(ValueError, match=r"expert 0 .* which storage fp16 cannot hold; store them as fp32"):
        make_experts(train, replace(RECIPE, storage="fp16"), "cpu")


def test_whitened_experts_say_so_in_their_space(train: ImageData) -> None:
    found = make_experts(train, replace(RECIPE, zca=0.1), "cpu")
    assert found.space.zca is not None and found.space.zca.eps == 0.1
    assert found.space.same_inputs(input_space(train, replace(RECIPE, zca=0.1)))


def test_global_chance_is_left_alone(train: ImageData) -> None:
    before = torch.get_rng_state()
    make_experts(train, RECIPE, "cpu")
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize(
    "change",
    [
        dict(epochs=2),
        dict(lr=0.02),
        dict(seed=1),
        dict(augment="dsa"),
        dict(network="ConvNetD1W8"),
        dict(rho=0.01),
        dict(gradient_penalty=2.0),
        dict(early_factors=(0.5,)),
        dict(per_class=5),
        dict(zca=0.1),
        dict(storage="fp16"),
        dict(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
    ],
)
def test_every_field_of_the_recipe_is_part_of_the_address(train: ImageData, change: dict) -> None:
    assert fingerprint(train, replace(RECIPE, **change), "cpu") != fingerprint(train, RECIPE, "cpu")


def test_data_preprocessing_and_device_are_part_of_the_address(train: ImageData, gauss2: RealData) -> None:
    addresses = {
        fingerprint(train, RECIPE, "cpu"),
        fingerprint(gauss2.train, RECIPE, "cpu"),
        fingerprint(train, RECIPE, "cuda"),
        fingerprint(replace(train, flip=False), RECIPE, "cpu"),
        fingerprint(replace(train, std=(1.0, 1.0, 1.0)), RECIPE, "cpu"),
    }
    assert len(addresses) == 5


def test_flat_experts_of_radius_zero_are_the_plain_ones(train: ImageData, trained: list) -> None:
    plain = make_experts(train, RECIPE, "cpu")
    same = make_experts(train, replace(RECIPE, alpha=1.0, adaptive=False), "cpu")
    assert plain.fingerprint == same.fingerprint and (plain.trained, same.trained) == (2, 0)
    assert stored()[0].recipe["alpha"] == TeacherRecipe().alpha


def test_the_count_the_spelling_and_the_place_of_the_images_are_not(train: ImageData) -> None:
    own = fingerprint(train, RECIPE, "cpu")
    same = replace(RECIPE, mean=tuple(train.mean), std=tuple(train.std))
    assert own == fingerprint(train, replace(RECIPE, count=9), "cpu")
    assert own == fingerprint(train, replace(RECIPE, network="ConvNetD1W4IN"), "cpu")
    assert own == fingerprint(train, same, "cpu") == fingerprint(train.to("cpu"), RECIPE, "cpu")


# ------------------------------------------------------------------------------------------------ going on


def test_kill_minus_9_and_going_on_gives_the_same_bits(train: ImageData, tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib; sys.path.insert(0, sys.argv[1]); import conftest, test_experts as m\n"
        "m.experts._WRITE_EVERY_S = -1.0\n"
        "data = conftest.blobs('gauss3', (3, 16, 16), 3, (12, 6)).train\n"
        "m.make_experts(data, m.LONG, 'cpu', cache=pathlib.Path(sys.argv[2]), progress=lambda *_: time.sleep(0.1))"
    )
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(killed)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "TMPDIR": str(tmp_path)},
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if list(killed.glob("experts/*/parts/*/epoch-0004.safetensors")):
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(killed.rglob("newest.safetensors")) and not list(killed.rglob("expert-*.safetensors"))
    (entry,) = stored(killed)
    assert entry.accuracies == () and entry.under_way.startswith("0-1 at epoch ")
    told: list[int] = []
    went_on = make_experts(train, LONG, "cpu", cache=killed, progress=lambda done, total: told.append(done))
    assert 2 * 4 <= told[0] <= 2 * LONG.epochs and told[-1] == 2 * LONG.epochs
    assert torch.equal(states(went_on), states(make_experts(train, LONG, "cpu", cache=tmp_path / "whole")))
    assert not list(killed.rglob("parts"))


LONG = replace(RECIPE, epochs=30, augment="dsa", momentum=0.9)


@pytest.mark.parametrize("change", [{}, dict(rho=0.01, momentum=0.5), dict(gradient_penalty=2.0)])
def test_a_training_that_is_stopped_goes_on_to_the_same_bits(
    train: ImageData, tmp_path: Path, change: dict
) -> None:
    recipe = replace(RECIPE, **change)
    told: list[tuple[int, int]] = []
    with pytest.raises(KeyboardInterrupt):
        make_experts(train, recipe, "cpu", progress=stop_after(2))
    went_on = make_experts(train, recipe, "cpu", progress=lambda *x: told.append(x))
    assert told == [(4, 6), (6, 6)]
    whole = make_experts(train, recipe, "cpu", cache=tmp_path / "whole")
    assert torch.equal(states(went_on), states(whole)) and went_on.accuracies == whole.accuracies


@pytest.mark.parametrize("at", [2, 3])
def test_ctrl_c_waits_for_the_end_of_the_epoch_and_the_next_call_goes_on(
    train: ImageData, tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    before = signal.getsignal(signal.SIGINT)
    real, steps = networks.find_direction, itertools.count(1)

    def interrupted(*arguments):
        if next(steps) == 5 * (at - 1) + 2:  # within an epoch of 5 steps
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(networks, "find_direction", interrupted)
    with pytest.raises(KeyboardInterrupt, match="the epochs of the experts are kept; run again to go on"):
        make_experts(train, RECIPE, "cpu")
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopping at the end of this epoch; Ctrl-C again stops at once" in capfd.readouterr().err
    assert next(steps) == 5 * at + 1
    found = make_experts(train, RECIPE, "cpu")
    assert next(steps) == 5 * 3 + 2
    assert torch.equal(states(found), states(make_experts(train, RECIPE, "cpu", cache=tmp_path / "whole")))


def test_a_second_ctrl_c_does_not_wait(train: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = itertools.count(1)

    def interrupted(*arguments):
        next(steps)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return torch.zeros(2)

    monkeypatch.setattr(networks, "find_direction", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_experts(train, RECIPE, "cpu")
    assert next(steps) == 2


def test_a_group_that_is_stopped_at_its_last_epoch_is_only_measured_and_stored(
    train: ImageData, trained: list[list[int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(networks, "_TOGETHER", 1)
    with pytest.raises(KeyboardInterrupt):
        make_experts(train, RECIPE, "cpu", progress=stop_after(3))
    told: list[int] = []
    found = make_experts(train, RECIPE, "cpu", progress=lambda done, total: told.append(done))
    assert trained == [[0], [0], [1]] and told == [4, 5, 6]
    assert torch.equal(states(found), states(make_experts(train, RECIPE, "cpu", cache=tmp_path / "whole")))


def test_groups_that_are_done_stay_done_and_the_others_stay_as_they_were(
    train: ImageData, trained: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "_TOGETHER", 3)
    seven = replace(RECIPE, count=7)
    with pytest.raises(KeyboardInterrupt):
        make_experts(train, seven, "cpu", progress=stop_after(11))
    make_experts(train, seven, "cpu")
    assert trained == [[0, 1, 2], [3, 4, 5], [3, 4, 5], [6]]


def test_each_epoch_is_one_file_and_only_the_newest_says_how_to_go_on(
    train: ImageData, fresh_cache: Path, written: None
) -> None:
    seen: list[list[str]] = []

    def look(done: int, total: int) -> None:
        seen.append(sorted(p.name for p in fresh_cache.glob("experts/*/parts/0000-0001/*")))

    make_experts(train, RECIPE, "cpu", progress=look)
    names = [f"epoch-000{i}.safetensors" for i in range(3)]
    newest = "newest.safetensors"
    assert seen == [
        [*names[:2], newest],
        [*names, newest],
        [*names, newest],
    ]  # the last one goes into the shards
    assert not list(fresh_cache.rglob("parts"))


def test_quick_epochs_are_not_written_one_by_one(train: ImageData, fresh_cache: Path) -> None:
    def look(done: int, total: int) -> None:
        assert not list(fresh_cache.rglob("parts"))

    make_experts(train, RECIPE, "cpu", progress=look)
    with pytest.raises(KeyboardInterrupt):
        make_experts(train, replace(RECIPE, seed=1), "cpu", progress=stop_after(4))
    assert [p.name for p in fresh_cache.rglob("epoch-*")] == ["epoch-0002.safetensors"]


def test_more_snapshots_than_memory_may_hold_are_written(
    train: ImageData, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experts, "_WAITING_BYTES", 2 * SIZE * 4 * 2)
    with pytest.raises(KeyboardInterrupt):
        make_experts(train, RECIPE, "cpu", progress=stop_after(6))
    names = sorted(p.name for p in fresh_cache.rglob("epoch-*"))
    assert names == ["epoch-0002.safetensors", "epoch-0003.safetensors"]


def test_an_epoch_that_was_written_without_how_to_go_on_is_done_again(
    train: ImageData, fresh_cache: Path, written: None, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_experts(train, RECIPE, "cpu", progress=stop_after(2))
    (newest,) = fresh_cache.rglob("newest.safetensors")
    newest.with_name("epoch-0002.safetensors").write_bytes(b"half")
    found = make_experts(train, RECIPE, "cpu")
    assert torch.equal(states(found), states(make_experts(train, RECIPE, "cpu", cache=tmp_path / "whole")))


def test_parts_with_a_gap_are_dropped_and_damaged_ones_are_named(
    train: ImageData, fresh_cache: Path, written: None, trained: list[list[int]]
) -> None:
    told: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        make_experts(train, RECIPE, "cpu", progress=stop_after(4))
    (first,) = fresh_cache.rglob("epoch-0001.safetensors")
    whole = first.read_bytes()
    first.write_bytes(whole[:-50])
    with pytest.raises(store.DamagedError, match=r"experts under way .*epoch-0001.* is damaged or truncated"):
        make_experts(train, RECIPE, "cpu")
    first.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(
        store.DamagedError, match=r"epoch-0001.* \(the checksum of snapshot 0 differs\); remove"
    ):
        make_experts(train, RECIPE, "cpu")
    first.unlink()
    make_experts(train, RECIPE, "cpu", progress=lambda done, total: told.append(done))
    assert told == [2, 4, 6]


def test_parts_of_a_group_that_is_done_or_asked_for_in_part_are_not_gone_on_with(
    train: ImageData, trained: list[list[int]]
) -> None:
    five = replace(RECIPE, count=5)
    with pytest.raises(KeyboardInterrupt):
        make_experts(train, five, "cpu", progress=stop_after(5))
    make_experts(train, RECIPE, "cpu")  # the first two of them
    assert stored()[0].under_way == ""
    found = make_experts(train, five, "cpu")
    assert trained == [[0, 1, 2, 3, 4], [0, 1], [2, 3, 4]] and len(found) == 5
    with pytest.raises(KeyboardInterrupt):
        make_experts(train, replace(RECIPE, count=8), "cpu", progress=stop_after(3))
    make_experts(train, replace(RECIPE, count=10), "cpu")
    assert trained[3:] == [[5, 6, 7], [5, 6, 7], [8, 9]]  # as it was


def test_two_that_ask_at_once_train_once(train: ImageData, trained: list[list[int]]) -> None:
    found: list[StoredExperts] = []
    both = [threading.Thread(target=lambda: found.append(make_experts(train, RECIPE, "cpu"))) for _ in "ab"]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert trained == [[0, 1]] and torch.equal(states(found[0]), states(found[1]))


# ------------------------------------------------------------------------------------------------ budgets


class TestBudget:
    def test_bytes_are_checked_before_anything_is_trained(self, train: ImageData, trained: list) -> None:
        text = (
            rf"2 experts ConvNetD1W4 of 3 epochs need {2 * ONE:,} bytes \({ONE:,} each\), but the budget of a recipe is "
            rf"{2 * ONE - 1:,} bytes: train fewer experts \(1 fit\), storage fp16 halves it, or raise the budget "
            r"\(DDBENCH_EXPERTS_BUDGET, such as 8G\)$"
        )
        with pytest.raises(ValueError, match=text):
            make_experts(train, RECIPE, "cpu", budget_bytes=2 * ONE - 1)
        assert trained == [] and stored() == []
        half = replace(RECIPE, storage="fp16")
        assert len(make_experts(train, half, "cpu", budget_bytes=ONE)) == 2
        with pytest.raises(ValueError, match=r"\(1 fit\), or raise the budget"):
            make_experts(train, replace(half, seed=1), "cpu", budget_bytes=ONE - 1)

    def test_what_is_there_already_counts_and_is_read_under_any_budget(self, train: ImageData) -> None:
        make_experts(train, RECIPE, "cpu", budget_bytes=2 * ONE)
        assert len(make_experts(train, RECIPE, "cpu", budget_bytes=1)) == 2
        with pytest.raises(ValueError, match=rf"3 experts .* need {3 * ONE:,} bytes"):
            make_experts(train, replace(RECIPE, count=3), "cpu", budget_bytes=2 * ONE)

    def test_the_environment_sets_it(self, train: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DDBENCH_EXPERTS_BUDGET", "1K")
        with pytest.raises(
            ValueError, match=r"but the budget of a recipe is 1,024 bytes: not one fits, storage"
        ):
            make_experts(train, RECIPE, "cpu")
        monkeypatch.setenv("DDBENCH_EXPERTS_BUDGET", "much")
        with pytest.raises(ValueError, match="DDBENCH_EXPERTS_BUDGET: size is 'much'; expected a number"):
            make_experts(train, RECIPE, "cpu")
        assert len(make_experts(train, RECIPE, "cpu", budget_bytes=2 * ONE)) == 2  # what is given comes first

    def test_without_one_the_disk_has_to_have_room_for_what_is_missing(
        self, train: ImageData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = experts.shutil.disk_usage("/")
        monkeypatch.setattr(experts.shutil, "disk_usage", lambda _: usage._replace(free=2 * ONE))
        make_experts(train, RECIPE, "cpu")
        with pytest.raises(
            ValueError,
            match=rf"3 experts .* the free space of the disk of .* is {2 * ONE:,} bytes: train fewer experts \(2 fit\), "
            r"storage fp16 halves it, or make room \(ddbench experts remove\)$",
        ):
            make_experts(train, replace(RECIPE, count=5), "cpu")
        assert len(make_experts(train, replace(RECIPE, count=4), "cpu")) == 4


# ------------------------------------------------------------------------------------------------ guards


class TestGuards:
    def test_an_epoch_or_an_expert_that_is_not_there(self, train: ImageData) -> None:
        found = make_experts(train, RECIPE, "cpu")
        text = "an expert trajectory has 3 epochs, epoch 4 was asked for; train the experts longer, or lower max_start"
        with pytest.raises(IndexError, match=text):
            found.state(0, 4)
        with pytest.raises(IndexError, match="epoch -2 was asked for"):
            found.state(0, -2)
        for expert in (2, -1):
            with pytest.raises(
                IndexError, match=f"2 experts, number {expert} was asked for; expected 0 to 1"
            ):
                found.state(expert, 0)

    def test_a_truncated_shard_is_named_and_trained_again_once_removed(
        self, train: ImageData, fresh_cache: Path, trained: list[list[int]]
    ) -> None:
        before = states(make_experts(train, RECIPE, "cpu"))
        path = shard(fresh_cache, 1)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(
            store.DamagedError, match=r"expert .*expert-0001\.safetensors is damaged .*remove it"
        ):
            make_experts(train, RECIPE, "cpu")
        assert stored()[0].accuracies.__len__() == 1
        path.unlink()
        again = make_experts(train, RECIPE, "cpu")
        assert trained == [[0, 1], [1]] and torch.allclose(states(again), before, atol=1e-4)

    def test_changed_bytes_are_found_when_they_are_read(self, train: ImageData, fresh_cache: Path) -> None:
        make_experts(train, RECIPE, "cpu")
        path = shard(fresh_cache)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        found = make_experts(train, RECIPE, "cpu")
        found.state(0, 2)
        with pytest.raises(store.DamagedError, match=r"expert-0000.*the checksum of snapshot 3 differs"):
            found.state(0, 3)

    @pytest.mark.parametrize(
        ("change", "name"),
        [
            (dict(zca=0.1), "preprocessing"),
            (dict(network="ConvNetD1W8"), "network"),
            (dict(lr=0.1), "fingerprint"),
        ],
    )
    def test_a_shard_in_the_place_of_another_is_refused(
        self, train: ImageData, fresh_cache: Path, tmp_path: Path, change: dict, name: str
    ) -> None:
        make_experts(train, RECIPE, "cpu")
        make_experts(train, replace(RECIPE, **change), "cpu", cache=tmp_path / "other")
        wanted, other = shard(fresh_cache), shard(tmp_path / "other")
        wanted.write_bytes(other.read_bytes())
        with pytest.raises(
            store.DamagedError, match=rf"expert-0000.* was made with {name} .* is asked for; put it back"
        ):
            make_experts(train, RECIPE, "cpu")

    def test_a_shard_of_the_same_recipe_in_the_place_of_another_is_refused(
        self, train: ImageData, fresh_cache: Path
    ) -> None:
        make_experts(train, replace(RECIPE, count=3), "cpu")
        shard(fresh_cache, 2).write_bytes(shard(fresh_cache, 1).read_bytes())
        with pytest.raises(
            store.DamagedError,
            match=r"expert-0002.* is number 1 of its recipe, but 2 is asked for; put it back",
        ):
            make_experts(train, replace(RECIPE, count=3), "cpu")
        assert len(make_experts(train, RECIPE, "cpu")) == 2  # the others are in their places

    def test_a_shard_of_other_data_is_refused(
        self, train: ImageData, fresh_cache: Path, tmp_path: Path
    ) -> None:
        make_experts(train, RECIPE, "cpu")
        other = conftest.blobs("other", (3, 16, 16), 3, (12, 6), seed=1).train
        make_experts(other, RECIPE, "cpu", cache=tmp_path / "other")
        shard(fresh_cache).write_bytes(shard(tmp_path / "other").read_bytes())
        with pytest.raises(store.DamagedError, match=rf"was made with data {other.fingerprint}, but"):
            make_experts(train, RECIPE, "cpu")

    def test_a_diverging_training_says_so_and_is_not_kept(self, train: ImageData, fresh_cache: Path) -> None:
        recipe = replace(RECIPE, network="ConvNetD1W4NN", lr=1e30)
        with pytest.raises(
            ValueError,
            match=r"an expert ConvNetD1W4NN on gauss3 diverged .* at a learning rate of 1e\+30; "
            r"lower the learning rate of the experts \(train_lr\)",
        ):
            make_experts(train, recipe, "cpu")
        assert list(fresh_cache.glob("experts/*")) == [] and stored() == []

    def test_networks_with_running_statistics_and_wrong_numbers_are_refused(self, train: ImageData) -> None:
        with pytest.raises(ValueError, match=r"ConvNetD1W4BN has running statistics"):
            make_experts(train, replace(RECIPE, network="ConvNetD1W4BN"), "cpu")
        with pytest.raises(ValueError, match=r"storage is 'fp8'; expected fp32 or fp16"):
            make_experts(train, replace(RECIPE, storage="fp8"), "cpu")
        with pytest.raises(ValueError, match=r"count is 0; expected at least 1"):
            make_experts(train, replace(RECIPE, count=0), "cpu")


# ------------------------------------------------------------------------------------------------ listing and removing


class TestStored:
    def test_a_listing_says_what_is_done_and_what_is_under_way(
        self, train: ImageData, fresh_cache: Path
    ) -> None:
        assert stored() == []
        found = make_experts(train, RECIPE, "cpu")
        with pytest.raises(KeyboardInterrupt):
            make_experts(train, replace(RECIPE, count=5), "cpu", progress=stop_after(6))
        (entry,) = stored()
        assert (entry.fingerprint, entry.dataset, entry.recipe["network"]) == (
            found.fingerprint,
            "gauss3",
            "ConvNetD1W4",
        )
        assert entry.accuracies == found.accuracies and entry.train_s == pytest.approx(found.train_s)
        assert (entry.recipe["epochs"], entry.under_way) == (3, "2-4 at epoch 2") and entry.recipe[
            "lr"
        ] == 0.05
        assert entry.size_bytes == sum(p.stat().st_size for p in entry.path.rglob("*") if p.is_file())
        (cached,) = (e for e in store.entries() if e.kind == "experts")
        assert cached.path == entry.path and cached.size_bytes == entry.size_bytes

    def test_the_file_for_people_has_every_expert(self, train: ImageData, fresh_cache: Path) -> None:
        found = make_experts(train, RECIPE, "cpu")
        (path,) = fresh_cache.rglob("experts.json")
        about = experts.json.loads(path.read_text())
        assert [row["accuracy"] for row in about["experts"]] == list(found.accuracies)
        assert about["data"] == train.fingerprint and about["shape"] == [3, 16, 16]
        assert about["parameters"] == SIZE and "count" not in about["recipe"]

    @pytest.mark.parametrize("content", ["{", "[]", "{}", None])
    def test_a_damaged_file_for_people_hides_no_others_and_is_mended_or_removed(
        self, train: ImageData, fresh_cache: Path, content: str | None
    ) -> None:
        broken, whole = (make_experts(train, replace(RECIPE, seed=s), "cpu") for s in (0, 1))
        path = broken.folder / "experts.json"
        before = path.read_text()
        path.unlink() if content is None else path.write_text(content)
        first, second = stored()
        assert (first.fingerprint, first.recipe) == (broken.fingerprint, {}) and first.damaged
        assert first.accuracies == broken.accuracies
        assert second.fingerprint == whole.fingerprint and not second.damaged
        assert make_experts(train, RECIPE, "cpu").trained == 0 and path.read_text() == before
        path.write_text("{")
        assert [e.fingerprint for e in remove([broken.fingerprint])] == [broken.fingerprint]
        assert [e.fingerprint for e in stored()] == [whole.fingerprint]

    def test_all_are_removed_but_those_under_training(self, train: ImageData) -> None:
        busy, idle = (make_experts(train, replace(RECIPE, seed=s), "cpu") for s in (0, 1))
        with store.Lock(busy.folder / "training"):
            for dry_run in (True, False):
                gone, left = remove_all(dry_run=dry_run)
                assert [e.fingerprint for e in gone] == [idle.fingerprint]
                assert [e.fingerprint for e in left] == [busy.fingerprint]
        assert [e.fingerprint for e in stored()] == [busy.fingerprint]

    def test_removing_names_the_nearest_and_removes_all_or_nothing(
        self, train: ImageData, fresh_cache: Path
    ) -> None:
        keys = [make_experts(train, replace(RECIPE, seed=s), "cpu").fingerprint for s in (0, 1)]
        wrong = keys[0][:-1] + ("0" if keys[0][-1] != "0" else "1")
        with pytest.raises(LookupError, match=rf"no experts {wrong} in .*nearest: {keys[0]}"):
            remove([keys[1], wrong])
        assert len(remove(keys, dry_run=True)) == len(stored()) == 2
        assert [e.fingerprint for e in remove(keys[:1])] == keys[:1]
        assert [e.fingerprint for e in stored()] == keys[1:]
        with store.Lock(stored()[0].path / "training"):
            text = (
                f"experts {keys[1]} are being trained by another process; wait for it to finish, or stop it"
            )
            with pytest.raises(ValueError, match=text):
                remove(keys[1:])
        opened = make_experts(train, replace(RECIPE, seed=1), "cpu")
        remove(keys[1:])
        assert bool(torch.isfinite(opened.state(1, 3)).all())  # who has them open goes on
        with pytest.raises(LookupError, match="there are none at all"):
            remove(keys[1:])

    def test_what_was_used_last_is_pruned_last(self, train: ImageData) -> None:
        for seed in (0, 1):
            make_experts(train, replace(RECIPE, seed=seed), "cpu")
        for file in itertools.chain.from_iterable(e.path.rglob("*") for e in stored()):
            os.utime(file, (1e9, 1e9))
        for entry in stored():
            os.utime(entry.path, (1e9, 1e9))
        used = make_experts(train, RECIPE, "cpu").fingerprint
        assert len(stored()) == 2  # looking reads the files of both
        (gone,) = store.prune(quota=stored()[0].size_bytes + 5000)
        assert gone.kind == "experts" and [e.fingerprint for e in stored()] == [used]


# ------------------------------------------------------------------------------------------------ the task


class TestTask:
    def test_their_cost_enters_the_card_once_and_more_of_them_pay_for_what_they_add(
        self, train: ImageData
    ) -> None:
        class Uses:
            def distill(self, task):
                for count in (2, 2, 4, 1):
                    self.found = task.experts(replace(RECIPE, count=count))
                    self.seconds = max(getattr(self, "seconds", 0.0), self.found.train_s)
                return task.distilled(subset=torch.arange(3))

        made = Uses()
        card = RunTask(train, 1, 0).run_method(made).card
        assert card.cost.teacher_s == pytest.approx(made.seconds) and len(made.found) == 1
        assert "teachers" not in card.notes and card.notes["experts"] == [made.found.fingerprint]
        assert card.cost.wall_s < made.seconds + 5

    def test_the_progress_bar_names_them(self, train: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
        named: list[str] = []
        real = task_module.tqdm
        monkeypatch.setattr(task_module, "tqdm", lambda **k: named.append(k["desc"]) or real(**k))
        RunTask(train, 1, 0).experts(RECIPE)
        assert named == ["experts"]

    def test_the_time_budget_stops_them_between_epochs_and_the_next_run_goes_on(
        self, train: ImageData, tmp_path: Path
    ) -> None:
        for done in (2, 4):
            with pytest.raises(
                BudgetUsedUp, match=f"the time budget ended at epoch {done} of 6 of the experts"
            ):
                RunTask(train, 1, 0, budget=TimeBudget(0)).experts(RECIPE)
        found = RunTask(train, 1, 0, budget=TimeBudget(0)).experts(RECIPE)  # the last epoch needs no stop
        assert torch.equal(
            states(found), states(make_experts(train, RECIPE, "cpu", cache=tmp_path / "whole"))
        )


def test_the_recipe_is_the_methods_own(train: ImageData) -> None:
    class Has:
        def expert_recipe(self) -> TeacherRecipe:
            return RECIPE

    assert recipe_of("has", Has()) is RECIPE
    with pytest.raises(ValueError, match=r"method random uses no experts; those that do: .*mtt"):
        recipe_of("random", object())


def test_their_code_is_part_of_the_key_of_a_set() -> None:
    names = {path.name for path in code_files("mtt")}
    assert {"mtt.py", "trajectory_matching.py", "experts.py", "networks.py", "flat.py"} <= names
    assert "experts.py" not in {path.name for path in code_files("herding")}


@pytest.mark.gpu
def test_on_a_gpu_states_come_to_it_and_a_stopped_training_goes_on(train: ImageData) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_experts(train, RECIPE, "cuda", progress=stop_after(1))
    told: list[int] = []
    found = make_experts(train, RECIPE, "cuda", progress=lambda done, total: told.append(done))
    assert told[-1] == 6 and len(told) < 6
    assert found.state(0, 0).device.type == "cuda"
    cpu = make_experts(train, RECIPE, "cpu")
    assert found.fingerprint != cpu.fingerprint
    assert torch.equal(found.state(1, 0).cpu(), cpu.state(1, 0))
