"""The loop of trajectory matching: experts, start epochs, batches, augmentation, guards, and the variants of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import plain_trajectories
import pytest
import torch
from conftest import blobs
from plain_trajectories import ExpertTask, MadeExperts
from torch import Tensor

from ddbench import registry, runner, sets
from ddbench.contract import DistilledSet, Task
from ddbench.matching import trajectory_matching
from ddbench.matching.sampling import class_labels, initial_images
from ddbench.matching.trajectories import LABELS, WAYS, Goal, Student, matched
from ddbench.matching.trajectory_matching import Variant, match_trajectories
from ddbench.records import DistilCell
from ddbench.store import RunFolder
from ddbench.task import DivergedError
from ddbench.train.networks import input_space

TRAIN = blobs("two", (1, 8, 8), 2, (12, 2), flip=False, seed=7).train
SMALL: dict[str, Any] = dict(
    network="ConvNetD1W4",
    iterations=4,
    syn_steps=3,
    expert_epochs=2,
    max_start_epoch=3,
    image_lr=5.0,
    step_size=0.05,
    step_size_lr=1e-4,
    experts=3,
    train_epochs=5,
    train_lr=0.05,
)
LOGITS = 3 * torch.eye(2).repeat_interleave(3, 0)
"""First labels of six images, where they are soft."""


def task(ipc: int = 3, seed: int = 5, **more: Any) -> ExpertTask:
    return ExpertTask(TRAIN, ipc, seed, **more)


def distill(given: ExpertTask | None = None, **settings: Any) -> DistilledSet:
    made = registry.get("methods", "mtt")(**{**SMALL, **settings})
    return (given or task()).run_method(made)


@dataclass(frozen=True)
class Varied:
    """A method that is nothing but the shared loop in a variant."""

    variant: Variant = field(default_factory=Variant)
    kind: str = "ids"
    settings: dict[str, Any] = field(default_factory=dict)

    def distill(self, t: Task) -> DistilledSet:
        made = registry.get("methods", "mtt")(**{**SMALL, **self.settings})
        experts = t.experts(made.expert_recipe())
        images = initial_images(t, "real", experts.space).flatten(0, 1)
        labels = class_labels(t).flatten()
        if self.kind != "ids":
            labels = LOGITS if self.kind == "logits" else LOGITS.softmax(1)
        return match_trajectories(t, experts, made, images, labels, self.kind, self.variant)


def varied(
    given: ExpertTask | None = None, kind: str = "ids", settings: Any = None, **variant: Any
) -> DistilledSet:
    return (given or task()).run_method(Varied(Variant(**variant), kind, settings or {}))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What the loop asks of :func:`matched`, call by call."""
    found: list[dict[str, Any]] = []

    def spy(
        way: str, student: Student, start: Tensor, goals: Any, images: Tensor, *rest: Any, **more: Any
    ) -> Any:
        found.append(dict(way=way, start=start, goals=list(goals), images=images.detach().clone(), **more))
        return matched(way, student, start, goals, images, *rest, **more)

    monkeypatch.setattr(trajectory_matching, "matched", spy)
    yield found


# ------------------------------------------------------------------------------------------------ experts and starts


def test_start_epochs_are_below_their_bound_and_every_one_comes() -> None:
    given = task()
    distill(given, iterations=40, syn_steps=1)
    assert given.made is not None
    read = given.made.read[1:]  # the first is asked for its length
    pairs = list(zip(read[::2], read[1::2], strict=True))
    assert len(pairs) == 40 and all(a[0] == b[0] and b[1] == a[1] + 2 for a, b in pairs)
    assert {a[1] for a, _ in pairs} == {0, 1, 2}


def test_every_expert_comes_once_in_each_pass_over_them_and_passes_differ() -> None:
    given = task()
    distill(given, iterations=30, syn_steps=1)
    assert given.made is not None
    order = [expert for expert, _ in given.made.read[1::2]]
    passes = [tuple(order[i : i + 3]) for i in range(0, 30, 3)]
    assert all(sorted(p) == [0, 1, 2] for p in passes)
    assert len(set(passes)) > 1


def test_the_expert_that_is_asked_for_is_where_the_student_starts_and_should_arrive(calls: list[Any]) -> None:
    given = task()
    distill(given)
    assert given.made is not None
    for call, a, b in zip(calls, given.made.read[1::2], given.made.read[2::2], strict=True):
        assert torch.equal(call["start"], given.made.states[a])
        (goal,) = call["goals"]
        assert goal.after == 3 and goal.weight == 1 and torch.equal(goal.state, given.made.states[b])
        assert call["way"] == "adjoint" and call["momentum"] == 0 and call["factor"] == 1


def test_without_iterations_the_set_is_the_first_images_with_the_first_step_size() -> None:
    given = task()
    made = distill(given, iterations=0)
    assert given.made is not None
    expected = initial_images(task(), "real", given.made.space).flatten(0, 1)
    assert torch.equal(made.tensors["images"], expected)
    assert made.program is not None and made.program.step_sizes.tolist() == [pytest.approx(0.05)]
    assert made.targets.ids is not None and made.targets.ids.tolist() == [0, 0, 0, 1, 1, 1]


def test_the_learned_step_size_travels_with_the_set(tmp_path: Path) -> None:
    logged: list[float] = []

    class Logged(ExpertTask):
        def log(self, **values: float | Tensor) -> None:
            logged.append(float(torch.as_tensor(values["step_size"]).detach()))

    made = distill(Logged(TRAIN, 3, 5))
    assert logged[0] == pytest.approx(0.05) and len(set(logged)) == 4, "logged before each update"
    sets.write(tmp_path / "set.safetensors", made)
    back = sets.read(tmp_path / "set.safetensors")
    assert back.program is not None and made.program is not None
    assert torch.equal(back.program.step_sizes, made.program.step_sizes)
    assert float(back.program.step_sizes) not in logged and float(back.program.step_sizes) > 0
    fixed = distill(step_size_lr=0.0).program
    assert fixed is not None and float(fixed.step_sizes) == pytest.approx(0.05)


# ------------------------------------------------------------------------------------------------ what a student sees


class Watched(ExpertTask):
    """Keeps the sizes of the batches that pass the view."""

    def view(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.sizes: list[int] = [*getattr(self, "sizes", []), len(images)]
        return images, labels


@pytest.mark.parametrize(
    "batch_syn, sizes", [(0, [6, 6, 6]), (100, [6, 6, 6]), (4, [2, 4, 2]), (1, [1, 1, 1]), (3, [3, 3, 3])]
)
def test_batches_are_chunks_of_a_permutation_taken_from_its_end(batch_syn: int, sizes: list[int]) -> None:
    given = Watched(TRAIN, 3, 5)
    distill(given, batch_syn=batch_syn, iterations=2)
    assert given.sizes == [1] + 2 * (sizes + sizes[::-1])  # one image, to ask what the view adds


def test_a_pass_over_the_chunks_sees_every_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []

    class Marked(ExpertTask):
        def view(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(images.detach().flatten(1).sum(1).tolist())
            return images, labels

    distill(Marked(TRAIN, 3, 5), batch_syn=2, syn_steps=6, iterations=1, augment="none")
    first, second = (sorted(sum(seen[i : i + 3], [])) for i in (1, 4))
    assert len(set(first)) == 6 and first == second


def test_each_step_has_an_augmentation_of_its_own_and_the_same_in_both_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Any] = []
    applied: list[Any] = []
    siamese = trajectory_matching.siamese

    class Recorded:
        def __init__(self, name: str, flip: bool) -> None:
            self.inner = siamese(name, flip)

        def draw(self, *given: Any, **more: Any) -> Any:
            assert self.inner is not None
            drawn.append((self.inner.draw(*given, **more), given[0]))
            return drawn[-1][0]

        def apply(self, x: Tensor, draw: Any) -> Tensor:
            applied.append(draw)
            assert self.inner is not None
            return self.inner.apply(x, draw)

    monkeypatch.setattr(trajectory_matching, "siamese", Recorded)
    distill(iterations=2, batch_syn=4)
    draws = [d for d, _ in drawn]
    assert len(draws) == 2 * 3 and [n for _, n in drawn] == [2, 4, 2] * 2
    expected = [*draws[:3], *draws[2::-1], *draws[3:], *draws[:2:-1]]
    assert len(applied) == 12 and all(a is b for a, b in zip(applied, expected, strict=True))
    assert all(len(parameters) in (2, 4) for d in draws for _, parameters in d.steps), "an image its own"


def test_the_three_ways_agree_in_the_loop_as_far_as_they_should() -> None:
    exact, whole, rough = (distill(gradient=way).tensors["images"] for way in ("adjoint", "unroll", "tesla"))
    assert torch.allclose(exact, whole, atol=1e-5)
    assert not torch.allclose(exact, rough, atol=1e-5)
    one = [distill(gradient=way, syn_steps=1).tensors["images"] for way in ("adjoint", "unroll", "tesla")]
    assert torch.allclose(one[0], one[1], atol=1e-5) and torch.allclose(one[0], one[2], atol=1e-5)


# ------------------------------------------------------------------------------------------------ spaces


def test_with_zca_images_live_in_the_whitened_space_and_the_set_carries_it(tmp_path: Path) -> None:
    given = task()
    first = distill(given, zca=True, iterations=0)
    assert given.asked[0].zca == 0.1 and first.space is not None and first.space.zca is not None
    # pixels on [0, 1], covariance with n - 1, eps added to the eigenvalues
    x = TRAIN.images.double().flatten(1) / 255
    centred = x - x.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / (len(x) - 1))
    transform = vectors @ torch.diag((values + 0.1).rsqrt()) @ vectors.T
    rng = task().rng("init")
    chosen = torch.cat([TRAIN.of_class(c)[torch.randperm(12, generator=rng)[:3]] for c in range(2)])
    whitened = (centred[chosen] @ transform).view(-1, 1, 8, 8)
    assert torch.allclose(first.tensors["images"].double(), whitened, atol=1e-4)

    made = distill(zca=True)
    sets.write(tmp_path / "set.safetensors", made)
    space = sets.read(tmp_path / "set.safetensors").space
    assert space is not None and space.zca is not None
    assert torch.allclose(space.real_to_input(TRAIN.images[chosen]).double(), whitened, atol=1e-4)
    plain = distill().space
    assert plain is not None and plain.zca is None


def test_other_statistics_standardise_experts_images_and_test_data() -> None:
    given = task()
    made = distill(given, mean=(0.25,), std=(0.5,), iterations=0)
    assert (given.asked[0].mean, given.asked[0].std) == ((0.25,), (0.5,))
    assert made.space is not None and (made.space.mean, made.space.std) == ((0.25,), (0.5,))
    own = distill(iterations=0).tensors["images"] * TRAIN.std[0] + TRAIN.mean[0]
    assert torch.allclose(made.tensors["images"] * 0.5 + 0.25, own, atol=1e-6)


# ------------------------------------------------------------------------------------------------ guards


def test_experts_shorter_than_start_plus_segment_are_refused() -> None:
    distill(max_start_epoch=4)  # starts 0 to 3, ends at 5 at most
    message = (
        r"experts of 5 epochs are too short: segments start at epoch 4 at the latest and are 2 long, which needs 6; "
        r"train them longer \(train_epochs\) or lower max_start_epoch"
    )
    with pytest.raises(ValueError, match=message):
        distill(max_start_epoch=5)


def test_what_can_be_refused_before_experts_are_trained_is() -> None:
    class Dear(ExpertTask):
        def experts(self, recipe: Any) -> Any:
            pytest.fail("experts were trained for nothing")

    for settings, message in (
        (dict(max_start_epoch=5), "experts of 5 epochs are too short"),
        (dict(network="ConvNetD1W4BN"), "has running statistics"),
        (dict(network="torchvision:resnet18"), "is another library's network"),
        (dict(init="smart"), "init is 'smart'; expected one of real, noise"),
        (dict(augment="blur"), "augment is 'blur'; expected one of none, dsa, dsa-flip, diffaug:NAMES$"),
        (dict(augment="dc"), "augment is 'dc'; expected one of none, dsa, dsa-flip, diffaug:NAMES$"),
        (dict(experts=0), "^experts is 0; expected at least 1"),
        (dict(train_epochs=0), "^train_epochs is 0; expected at least 1"),
        (dict(train_batch=0), "^train_batch is 0; expected at least 1"),
        (
            dict(train_per_class=-1),
            r"^train_per_class is -1; expected 0 \(all images\) or a number of images",
        ),
        (dict(gradient="exact"), "gradient is 'exact'; expected one of adjoint, unroll, tesla"),
        (dict(image_lr=-1.0), "image_lr is -1.0; expected 0 or more"),
        (dict(momentum=1.0), "momentum is 1.0; expected a number from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            distill(Dear(TRAIN, 3, 5), **settings)
    with pytest.raises(ValueError, match="class 0 has 12 training images but ipc is 13"):
        distill(Dear(TRAIN, 13, 5))


@pytest.mark.parametrize(
    "name, value",
    [("syn_steps", 0), ("expert_epochs", 0), ("max_start_epoch", 0), ("iterations", -1)],
)
def test_counts_out_of_range_are_refused(name: str, value: int) -> None:
    with pytest.raises(
        ValueError, match=f"{name} is {value}; expected at least {0 if name == 'iterations' else 1}"
    ):
        distill(**{name: value})


def test_step_sizes_and_batches_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="step_size is 0.0; expected a number above 0"):
        distill(step_size=0.0)
    with pytest.raises(ValueError, match="step_size_lr is -1.0; expected 0 or more"):
        distill(step_size_lr=-1.0)
    with pytest.raises(ValueError, match=r"batch_syn is -1; expected 0 \(all images\) or a number of images"):
        distill(batch_syn=-1)


def test_a_step_size_that_turns_negative_ends_the_run_with_its_cure() -> None:
    message = (
        r"the learned step size is -[\d.e+]+ after iteration 0 of 4; expected a positive number: lower step_size_lr "
        r"\(1000\), or start at another step_size \(1\)"
    )
    with pytest.raises(ValueError, match=message):
        distill(step_size=1.0, step_size_lr=1e3)


def test_a_loss_that_is_not_finite_ends_the_run_where_it_is() -> None:
    with pytest.raises(
        DivergedError, match=r"diverged: loss is (nan|inf) at iteration \d+ of 4; lower its learning rate"
    ):
        distill(image_lr=1e38)


def test_experts_of_another_network_are_refused() -> None:
    given = task()
    given.made = plain_trajectories.trained_experts(
        TRAIN, registry.get("methods", "mtt")(**{**SMALL, "network": "ConvNetD1W8"}).expert_recipe()
    )
    with pytest.raises(
        ValueError, match=r"an expert has \d+ parameters but ConvNetD1W4 has \d+; expected experts of that"
    ):
        distill(given)


def test_no_experts_are_refused() -> None:
    given = task()
    recipe = registry.get("methods", "mtt")(**SMALL).expert_recipe()
    given.made = MadeExperts(recipe, TRAIN.space, torch.zeros(0, 6, 1))
    with pytest.raises(ValueError, match="there are no experts; expected at least 1"):
        distill(given)


def test_experts_that_stand_still_are_refused() -> None:
    given = task()
    made = registry.get("methods", "mtt")(**SMALL)
    given.made = plain_trajectories.trained_experts(TRAIN, made.expert_recipe())
    given.made.states = given.made.states[:, :1].expand(-1, 6, -1).contiguous()
    with pytest.raises(ValueError, match="the expert stands still"):
        distill(given)


@pytest.mark.parametrize("network", ["ConvNetD1W4BN", "torchvision:resnet18"])
def test_networks_without_a_flat_form_are_refused_by_the_loop_too(network: str) -> None:
    given = task()
    given.made = plain_trajectories.trained_experts(
        TRAIN, registry.get("methods", "mtt")(**SMALL).expert_recipe()
    )
    with pytest.raises(
        ValueError,
        match=r"expected a network without, such as ConvNet|trajectories need one of ddbench's own",
    ):
        varied(given, settings=dict(network=network))


def cell(name: str, settings: dict[str, Any]) -> DistilCell:
    return DistilCell(method=name, dataset="digits", ipc=1, seed=0, settings=settings)


@pytest.mark.parametrize("name", ["mtt", "tesla", "ftd", "datm", "ast", "fyi+mtt"])
def test_experts_are_not_made_for_settings_that_a_run_would_refuse(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dear(ExpertTask):
        def experts(self, recipe: Any, budget_bytes: int | None = None) -> Any:
            asked.append(recipe.count)

    asked: list[int] = []
    monkeypatch.setattr(runner, "RunTask", Dear)
    session = runner.Session(runner.Context(run=tmp_path, device="cpu"))
    for settings, message in (
        (dict(max_start_epoch=40), "experts of 15 epochs are too short"),
        (dict(syn_steps=0), "syn_steps is 0; expected at least 1"),
        (dict(gradient="foo"), "gradient is 'foo'; expected one of adjoint"),
        (dict(init="foo"), "init is 'foo'; expected one of real"),
        (dict(experts=0), "experts is 0; expected at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            session.experts(cell(name, settings))
    assert asked == []
    session.experts(cell(name, {}), count=2)
    assert asked == [2]


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("datm", dict(label_lr=-1.0), "label_lr is -1.0; expected 0 or more"),
        ("ast", dict(middle="some"), "middle is 'some'; expected one of equal"),
        ("ftd", dict(decay=1.0), "decay is 1.0; expected a number from 0 to 1"),
    ],
)
def test_nor_for_a_methods_own_settings(
    name: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    session = runner.Session(runner.Context(run=tmp_path, device="cpu"))
    with pytest.raises(ValueError, match=message):
        session.experts(cell(name, settings))


def test_a_memory_limit_has_no_effect_on_the_unroll_which_says_so() -> None:
    limited = task(memory_limit_mib=64.0)
    made = distill(limited, gradient="unroll")
    assert made.card.notes["memory_limit"] == (
        "gradient=unroll keeps the graphs of all 3 steps, so the memory limit has no effect on them; gradient=adjoint gives "
        "the same numbers within it"
    )
    assert "memory_limit" not in distill(gradient="unroll").card.notes
    assert "memory_limit" not in distill(task(memory_limit_mib=64.0)).card.notes
    assert torch.equal(made.tensors["images"], distill(gradient="unroll").tensors["images"])


# ------------------------------------------------------------------------------------------------ resuming


class StopAfter:
    """A time budget that is used up when it was asked ``times`` times."""

    left_s = None

    def __init__(self, times: int) -> None:
        self.times = times

    def used_up(self) -> bool:
        self.times -= 1
        return self.times < 0


EVERYTHING: dict[str, Any] = dict(
    kind="logits", label_lr=0.5, threshold=100.0, average=0.9, student_momentum=0.5
)


@pytest.mark.parametrize("variant", [{}, EVERYTHING], ids=["mtt", "everything"])
def test_a_run_cut_by_its_budget_goes_on_to_the_same_bits(variant: dict[str, Any], tmp_path: Path) -> None:
    settings = dict(iterations=7, batch_syn=4)  # cut inside passes over the 3 experts, too
    whole = varied(settings=settings, **variant)
    cuts = 0
    while True:
        part = task(run=RunFolder(tmp_path), key="cell")
        part.budget = StopAfter(2)  # type: ignore[assignment]
        made = varied(part, settings=settings, **variant)
        if not part.partial:
            break
        cuts += 1
        assert made.card.partial and made.fingerprint() != whole.fingerprint()
    assert cuts == 3
    assert torch.equal(made.tensors["images"], whole.tensors["images"])
    assert made.program is not None and whole.program is not None
    assert torch.equal(made.program.step_sizes, whole.program.step_sizes)
    if whole.targets.soft is not None:
        assert made.targets.soft is not None and torch.equal(made.targets.soft, whole.targets.soft)
    assert made.fingerprint() == whole.fingerprint()


# ------------------------------------------------------------------------------------------------ sets under way


class Shown(ExpertTask):
    """Keeps the set that the loop shows before each iteration, with a copy of what it held then."""

    def loop(self, total: int, state: Any = (), show: Any = None) -> Iterator[int]:
        self.kept: list[tuple[DistilledSet, list[Tensor]]] = []
        for it in super().loop(total, state, show):
            made = show()
            self.kept.append((made, [t.clone() for t in held(made)]))
            yield it


def held(made: DistilledSet) -> list[Tensor]:
    assert made.program is not None
    labels = made.targets.ids if made.targets.soft is None else made.targets.soft
    assert labels is not None
    return [made.tensors["images"], made.program.step_sizes, labels]


def relabel(goal: Tensor, images: Tensor) -> Tensor:
    return torch.softmax(images.flatten(1)[:, :2], dim=1)


@pytest.mark.parametrize(
    "variant",
    [{}, EVERYTHING, dict(kind="probabilities", relabel=relabel)],
    ids=["mtt", "everything", "labels given anew"],
)
def test_a_set_that_was_shown_does_not_change_afterwards(variant: dict[str, Any]) -> None:
    given = Shown(TRAIN, 3, 5)
    last = varied(given, settings=dict(step_size_lr=1e-3), **variant)
    sets_ = [*(made for made, _ in given.kept), last]
    assert len(sets_) == 5
    for made, then in given.kept:
        assert all(map(torch.equal, held(made), then))
    for one, other in zip(sets_, sets_[1:], strict=False):
        changed = [not torch.equal(a, b) for a, b in zip(held(one), held(other), strict=True)]
        assert changed == [True, True, bool(variant)]
    assert len({made.fingerprint() for made in sets_}) == 5
    expected = varied(settings=dict(step_size_lr=1e-3, iterations=0), **variant)
    assert all(map(torch.equal, held(sets_[0]), held(expected)))


@pytest.mark.parametrize("variant", [{}, EVERYTHING], ids=["mtt", "everything"])
def test_snapshots_on_disk_are_the_sets_of_their_iterations(variant: dict[str, Any], tmp_path: Path) -> None:
    given = Shown(TRAIN, 3, 5, run=RunFolder(tmp_path), key="cell", snapshot_every=1)
    last = varied(given, **variant)
    found = RunFolder(tmp_path).snapshots("cell")
    assert [iteration for iteration, _ in found] == [1, 2, 3, 4]
    for (_, path), made in zip(found, [*(made for made, _ in given.kept[1:]), last], strict=True):
        assert all(map(torch.equal, held(sets.read(path)), held(made)))


# ------------------------------------------------------------------------------------------------ variants


def test_a_window_of_start_epochs_may_move() -> None:
    given = task()
    window: Callable[[int], tuple[int, int]] = lambda it: (it // 2, it // 2 + 1)  # noqa: E731
    varied(given, window=window)
    assert given.made is not None
    assert [epoch for _, epoch in given.made.read[1::2]] == [0, 0, 1, 1]
    with pytest.raises(
        ValueError, match="experts of 5 epochs are too short: segments start at epoch 4 at the latest"
    ):
        varied(window=lambda it: (it, it + 2))


def test_learned_labels_take_their_own_steps(calls: list[Any]) -> None:
    given = task()
    made = varied(given, "logits", dict(iterations=2, augment="none"), label_lr=2.0, label_momentum=0.9)
    assert given.made is not None and made.targets.kind == "logits" and made.targets.soft is not None
    student = Student("ConvNetD1W4", (1, 8, 8), 2, "logits")
    images, labels = calls[0]["images"], LOGITS
    size, pace = torch.tensor(0.05), torch.zeros(6, 2)
    first = matched(
        "unroll", student, calls[0]["start"], calls[0]["goals"], images, labels, size, lambda i, x, y: (x, y)
    )
    assert first.labels is not None
    pace, size = first.labels, size - 1e-4 * first.step_size
    after = labels - 2.0 * pace
    second = matched(
        "unroll", student, calls[1]["start"], calls[1]["goals"], calls[1]["images"], after, size, lambda i, x, y: (x, y)
    )  # fmt: skip
    assert second.labels is not None
    assert torch.allclose(made.targets.soft, after - 2.0 * (0.9 * pace + second.labels), atol=1e-5)
    assert torch.allclose(calls[1]["images"], images - 5.0 * first.images, atol=1e-5)


def test_labels_that_are_not_learned_stay() -> None:
    made = varied(kind="probabilities")
    assert made.targets.soft is not None and made.targets.kind == "probabilities"
    assert torch.equal(made.targets.soft, LOGITS.softmax(1))


def test_labels_may_be_given_anew_in_every_iteration(calls: list[Any]) -> None:
    said: list[tuple[Tensor, Tensor]] = []

    def relabel(goal: Tensor, images: Tensor) -> Tensor:
        said.append((goal, images.clone()))
        return torch.full((6, 2), 0.5) + 0.1 * len(said) * torch.tensor([1.0, -1.0])

    made = varied(kind="probabilities", relabel=relabel)
    assert len(said) == 4 and not any(images.requires_grad for _, images in said)
    for (goal, images), call in zip(said, calls, strict=True):
        assert torch.equal(goal, call["goals"][-1].state) and torch.equal(images, call["images"])
    assert made.targets.soft is not None and torch.allclose(made.targets.soft[0], torch.tensor([0.9, 0.1]))


@pytest.mark.parametrize("settings", [{}, dict(step_size=1e30)], ids=["too great", "not a number"])
def test_iterations_above_the_threshold_change_nothing_and_are_counted(settings: Any, tmp_path: Path) -> None:
    logged: list[dict[str, float]] = []

    class Logged(ExpertTask):
        def log(self, **values: float | Tensor) -> None:
            super().log(**values)
            logged.append({k: float(torch.as_tensor(v).detach()) for k, v in values.items()})

    made = varied(Logged(TRAIN, 3, 5), settings=settings, threshold=-1.0 if not settings else 1.0)
    first = distill(iterations=0)
    assert torch.equal(made.tensors["images"], first.tensors["images"])
    assert made.program is not None and float(made.program.step_sizes) == pytest.approx(
        settings.get("step_size", 0.05)
    )
    assert [row["skipped"] for row in logged] == [1, 2, 3, 4]
    assert "4 of 4 iterations had a loss above" in made.card.notes["skipped"]
    if settings:
        assert {row["loss"] for row in logged} == {1e9}


def test_what_was_skipped_is_told_right_by_a_run_that_finds_nothing_left_to_do(tmp_path: Path) -> None:
    notes = []
    for _ in range(2):
        made = varied(task(run=RunFolder(tmp_path), key="cell"), threshold=-1.0)
        notes.append(made.card.notes["skipped"])
    assert notes[0] == notes[1] and notes[0].startswith("4 of 4 iterations")


@pytest.mark.parametrize(("looks", "expected"), [((2,), 2), ((2, 0), 2), ((2, 1), 3), ((2, 9), 4)])
def test_what_was_skipped_is_a_share_of_the_iterations_that_were_done(
    looks: tuple[int, ...], expected: int, tmp_path: Path
) -> None:
    for times in looks:
        part = task(run=RunFolder(tmp_path), key="cell")
        part.budget = StopAfter(times)  # type: ignore[assignment]
        made = varied(part, threshold=-1.0)
    assert made.card.notes["skipped"] == (
        f"{expected} of {expected} iterations had a loss above -1 and changed nothing"
    )


def test_a_threshold_that_is_never_reached_changes_nothing() -> None:
    one, two = varied(), varied(threshold=1e6)
    assert torch.equal(one.tensors["images"], two.tensors["images"]) and "skipped" not in two.card.notes


def test_a_perturbed_start_is_the_start_for_all_distances(calls: list[Any]) -> None:
    given = task()
    varied(given, perturb=lambda start: start + 0.01, settings=dict(expert_epochs=2), middle=(1.0,))
    assert given.made is not None
    reads = given.made.read[1:]
    for i, call in enumerate(calls):
        assert torch.equal(call["start"], given.made.states[reads[3 * i]] + 0.01)
    loss = matched(
        "unroll",
        Student("ConvNetD1W4", (1, 8, 8), 2),
        calls[0]["start"],
        [Goal(1, calls[0]["goals"][-1].state)],
        calls[0]["images"],
        torch.tensor([0, 0, 0, 1, 1, 1]),
        torch.tensor(1e-12),
        lambda i, x, y: (x, y),
    ).loss
    assert float(loss) == pytest.approx(1.0, abs=1e-5), "who does not move is at distance 1"


def test_factor_and_momentum_reach_the_student_by_start_epoch(calls: list[Any]) -> None:
    given = task()
    varied(given, settings=dict(step_size_lr=0.0), factor=lambda t: 1.0 + t, student_momentum=0.9)
    assert given.made is not None
    starts = [epoch for _, epoch in given.made.read[1::2]]
    assert [call["factor"] for call in calls] == [1.0 + t for t in starts]
    assert {call["momentum"] for call in calls} == {0.9}


@pytest.mark.parametrize("epochs, steps, after", [(3, 20, [6, 12, 20]), (2, 30, [15, 30]), (1, 3, [3])])
def test_goals_on_the_way_come_after_their_share_of_the_steps(
    epochs: int, steps: int, after: list[int], calls: list[Any]
) -> None:
    given = task()
    middle = tuple(0.5 * j for j in range(1, epochs))
    settings = dict(expert_epochs=epochs, syn_steps=steps, max_start_epoch=1, iterations=1, step_size_lr=0.0)
    varied(given, settings=settings, middle=middle)
    goals = calls[0]["goals"]
    assert [g.after for g in goals] == after and [g.weight for g in goals] == [*middle, 1.0]
    assert given.made is not None
    expert = given.made.read[1][0]
    assert all(torch.equal(g.state, given.made.states[expert, j]) for j, g in enumerate(goals, 1))


def test_a_moving_average_is_stored_instead_of_the_images(calls: list[Any]) -> None:
    made = varied(average=0.9)
    raw = varied(task()).tensors["images"]
    paths = [call["images"] for call in calls[1:4]] + [raw]
    mean = calls[0]["images"]
    for images in paths:
        mean = 0.9 * mean + 0.1 * images
    assert torch.allclose(made.tensors["images"], mean, atol=1e-6)
    assert not torch.allclose(made.tensors["images"], raw, atol=1e-3)


# ------------------------------------------------------------------------------------------------ on a GPU

GPU = "cuda"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "mtt": ("mtt", dict(batch_syn=4)),
    "mtt on whitened images": ("mtt", dict(zca=True)),
    "ftd": ("ftd", dict(decay=0.5)),
    "tesla": ("tesla", {}),
    "tesla with soft labels": ("tesla", dict(soft_labels=True)),
    "datm": ("datm", dict(threshold=10.0, label_lr=0.5)),
    "ast": ("ast", dict(step_size=0.02)),
}


def placed(case: str, device: str, iterations: int = 3, **more: Any) -> tuple[ExpertTask, Any]:
    """A task on a device, with the same experts on every device, and the method."""
    name, settings = METHODS[case]
    method = registry.get("methods", name)(**{**SMALL, "iterations": iterations, **settings})
    recipe = method.expert_recipe()
    experts = plain_trajectories.trained_experts(TRAIN, recipe, input_space(TRAIN, recipe), 5)
    experts.states = experts.states.to(device)
    found = task(device=torch.device(device), **more)
    found.made = experts
    return found, method


def gap(one: DistilledSet, other: DistilledSet) -> float:
    """Greatest difference of what two sets hold."""
    pairs = zip(held(one), held(other), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


@pytest.mark.gpu
@pytest.mark.parametrize("case", list(METHODS))
def test_a_gpu_learns_what_the_cpu_learns_of_the_same_draws(case: str) -> None:
    results = []
    for device in ("cpu", GPU):
        found, method = placed(case, device)
        results.append(found.run_method(method))
        assert found.made is not None and len(found.made.read) > 6
    cpu, gpu = results
    assert all(t.device.type == "cpu" and bool(torch.isfinite(t).all()) for t in held(gpu))
    first, method = placed(case, "cpu", iterations=0)
    assert gap(cpu, first.run_method(method)) > 0.02, "what is learned is far above the tolerance"
    assert gap(cpu, gpu) < 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("case", ["ftd", "tesla with soft labels", "datm", "ast"])
@pytest.mark.parametrize("goes_on", ["cuda", "cpu"])
def test_a_checkpoint_of_a_gpu_is_gone_on_with(case: str, goes_on: str, tmp_path: Path) -> None:
    whole, method = placed(case, "cpu", iterations=4)
    expected = whole.run_method(method)
    place: dict[str, Any] = dict(run=RunFolder(tmp_path), key="cell")
    part, method = placed(case, GPU, iterations=4, **place)
    part.budget = StopAfter(2)  # type: ignore[assignment]
    cut = part.run_method(method)
    assert cut.card.partial and gap(cut, expected) > 0.01
    last, method = placed(case, GPU if goes_on == "cuda" else "cpu", iterations=4, **place)
    made = last.run_method(method)
    assert not made.card.partial and made.card.cost.iterations == 4
    assert gap(made, expected) < 1e-3


def steps_of_a_student(device: str, kind: str) -> dict[str, Any]:
    """What :func:`matched` is given, in float64, equal on every device."""
    rng = torch.Generator().manual_seed(3)
    size = Student("ConvNetD2W4", (3, 8, 8), 3, kind).flat.size

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, dtype=torch.float64, generator=rng).to(device)

    start = normal(size, scale=0.3)
    goals = [Goal(2, start + normal(size, scale=0.02), 0.5), Goal(3, start + normal(size, scale=0.02))]
    labels = torch.tensor([0, 1, 2, 0, 1]).to(device) if kind == "ids" else normal(5, 3)
    chosen = [torch.tensor(rows).to(device) for rows in ([4, 0, 1, 2, 3], [2, 0, 3], [1, 4, 3, 0])]
    return dict(
        start=start,
        goals=goals,
        images=normal(5, 3, 8, 8),
        labels=labels.softmax(1) if kind == "probabilities" else labels,
        step_size=torch.tensor(1.0, dtype=torch.float64).to(device),
        batch=lambda i, x, y: (x[chosen[i]], y[chosen[i]]),
    )


@pytest.mark.gpu
@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("way", WAYS)
def test_a_gpu_gives_the_gradients_of_the_cpu(way: str, kind: str, chunk: int | None) -> None:
    shape = (3, 8, 8)
    more = dict(factor=0.7, momentum=0.5)
    want = matched(way, Student("ConvNetD2W4", shape, 3, kind), **steps_of_a_student("cpu", kind), **more)
    student = Student("ConvNetD2W4", shape, 3, kind, steps=3, batch=5, device=GPU, chunk=chunk)
    got = matched(way, student, **steps_of_a_student(GPU, kind), **more)
    pairs = [(got.loss, want.loss), (got.images, want.images), (got.step_size, want.step_size)]
    pairs += [(got.end, want.end), *zip(got.parts, want.parts, strict=True)]
    assert (got.labels is None) == (want.labels is None) == (kind == "ids")
    if got.labels is not None and want.labels is not None:
        pairs.append((got.labels, want.labels))
    for mine, theirs in pairs:
        assert mine.device.type == GPU
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-9, atol=1e-11)
    assert float(want.images.abs().max()) > 1e-3
