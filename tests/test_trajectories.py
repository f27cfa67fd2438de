"""The gradient of trajectory matching, three ways: against the numbers of the specs, each other, and by properties."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_trajectories import Toy, linear, two_layers
from torch import Tensor

from ddbench import compute
from ddbench.augment.dsa import DSA, OPERATIONS
from ddbench.matching import trajectories
from ddbench.matching.trajectories import WAYS, Goal, Matched, Student, matched
from ddbench.nets.build import init_parameters
from ddbench.nets.flat import Flat

EXACT = ("adjoint", "unroll")


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(found: Tensor | float, expected: Sequence[float] | float) -> bool:
    """To the six decimals that are printed."""
    given = torch.as_tensor(found, dtype=torch.float64).flatten()
    return torch.allclose(
        given, numbers(*([expected] if isinstance(expected, float) else expected)), rtol=0, atol=6e-7
    )


def whole(i: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return images, labels


MINI = ((2, 0, 1), (3,), (1, 3), (0, 2, 3))


def mini(i: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    chosen = torch.tensor(MINI[i])
    return images.index_select(0, chosen), labels.index_select(0, chosen)


# ------------------------------------------------------------------------------------------------ the specs' numbers

X = torch.stack([numbers(1, 0.5), numbers(-0.5, 1)])
Y = torch.tensor([0, 1])
START, END = numbers(0.1, -0.2, 0, 0.3), numbers(0.5, -0.1, -0.4, 0.6)
TOY: dict[int, dict[str, Any]] = {
    1: dict(
        loss=0.448060,
        exact=(-0.270619, 0.043003, 0.181308, -0.014672),
        tesla=(-0.270619, 0.043003, 0.181308, -0.014672),
        beta=(-0.789380, -0.789380),
        end=(0.280091, -0.224287, -0.180091, 0.324287),
    ),
    2: dict(
        loss=0.225727,
        exact=(-0.133132, 0.094905, 0.075561, -0.035607),
        tesla=(-0.145176, 0.101915, 0.083361, -0.038385),
        beta=(-0.436693, -0.473173),
        half=(-0.072588, 0.050958, 0.041681, -0.019193),
    ),
    3: dict(
        loss=0.214839,
        exact=(0.117963, 0.158018, -0.122328, -0.062814),
        tesla=(0.146241, 0.185671, -0.144872, -0.074408),
        beta=(0.433960, 0.515707),
        half=(0.073121, 0.092835, -0.072436, -0.037204),
        end=(0.563247, -0.266595, -0.463247, 0.366595),
    ),
}


def toy(way: str, steps: int, **more: Any) -> Matched:
    goals = [Goal(steps, END)]
    return matched(
        way, Toy(linear), START, goals, X, Y, torch.tensor(0.5, dtype=torch.float64), whole, **more
    )


@pytest.mark.parametrize("steps", TOY)
@pytest.mark.parametrize("way", WAYS)
def test_the_linear_toy_has_the_numbers_of_the_papers_code(way: str, steps: int) -> None:
    found, row = toy(way, steps), TOY[steps]
    assert close(found.loss, row["loss"]) and close(found.parts[0], row["loss"])
    assert close(found.images, row["exact" if way in EXACT else "tesla"])
    assert close(found.step_size, row["beta"][way == "tesla"])
    assert found.labels is None
    if "end" in row:
        assert close(found.end, row["end"])


@pytest.mark.parametrize("steps", [2, 3])
def test_teslas_released_code_has_half_of_the_pixel_gradient(steps: int) -> None:
    assert close(toy("tesla", steps).images / 2, TOY[steps]["half"])


@pytest.mark.parametrize("end, loss", [((3, 0), 0.64), ((0, 0), 1.0), ((3, 4), 0.0)])
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_the_loss_is_the_distance_left_as_a_share_of_the_experts_way(
    end: tuple[float, float], loss: float, scale: float
) -> None:
    """A student whose step goes where we say: its loss is linear in its parameters."""

    class Told(Toy):
        def loss(self, state: Tensor, x: Tensor, labels: Tensor) -> Tensor:
            return -(state * x).sum()

    x = scale * numbers(*end)[None]
    beta = torch.tensor(1.0, dtype=torch.float64)
    for way in WAYS:
        found = matched(
            way, Told(linear), numbers(0, 0), [Goal(1, scale * numbers(3, 4))], x, Y[:1], beta, whole
        )
        assert float(found.loss) == pytest.approx(loss, abs=1e-15)
        assert torch.equal(found.end, x[0])


@given(scale=st.floats(1e-3, 1e3), end=st.tuples(*[st.floats(-3, 3)] * 4))
@settings(max_examples=30, deadline=None)
def test_scaling_start_way_and_goal_leaves_the_loss(scale: float, end: tuple[float, ...]) -> None:
    def loss(c: float) -> float:
        goals = [Goal(2, c * (END + numbers(*end) / 10))]
        # logits and so gradients are scaled with the parameters by 1/c and c
        student = Toy(lambda state, x: linear(state / c, x))
        beta = torch.tensor(0.5 * c * c, dtype=torch.float64)
        return float(matched("adjoint", student, c * START, goals, X, Y, beta, whole).loss)

    assert loss(scale) == pytest.approx(loss(1.0), rel=1e-9)


START_2 = numbers(0.3, -0.2, 0.1, 0.4, -0.5, 0.2, 0.05, -0.1, 0, 0.2, -0.3, 0.4, -0.1, 0.5, 0.3, 0, 0.1)
END_2 = numbers(0.5, -0.3, -0.3, 0.5, -0.6, 0.3, 0, -0.1, 0.1, 0.5, -0.5, 0.1, -0.4, 0.7, 0.5, 0.1, 0)
MIDDLE_2 = numbers(
    0.45, -0.3, -0.05, 0.4, -0.5, 0.2, 0.075, -0.15, 0.1, 0.3, -0.35, 0.2, -0.2, 0.55, 0.45, 0, 0.1
)
X_2 = numbers(1, 0.5, -0.5, 1, 0.8, -1.2, -1, -0.4).view(4, 2)
LABELS = {
    "ids": torch.tensor([0, 1, 0, 1]),
    "logits": numbers(2, 0, 0, 1, 0.5, -0.5, -1, 1.5).view(4, 2),
    "probabilities": numbers(0.9, 0.1, 0.25, 0.75, 0.7, 0.3, 0.05, 0.95).view(4, 2),
}
CASES: dict[str, dict[str, Any]] = {
    "A": dict(
        batch=whole,
        kind="ids",
        loss=0.157620,
        exact=(0.052619, 0.089011, -0.048288, -0.057052, 0.051906, 0.014246, -0.022359, -0.127758),
        tesla=(0.089387, 0.103751, -0.070042, -0.084103, 0.074700, 0.018203, -0.046303, -0.157380),
        beta=(0.368615, 0.552966),
    ),
    "B": dict(
        batch=mini,
        kind="ids",
        loss=0.496749,
        exact=(0.054560, 0.097397, -0.004447, -0.058497, 0.091154, 0.009945, 0.019349, -0.403174),
        tesla=(0.121579, 0.117079, -0.048633, -0.127557, 0.130701, 0.007238, -0.006063, -0.518717),
        beta=(0.925148, 1.662136),
    ),
    "C": dict(
        batch=mini,
        kind="logits",
        loss=0.615943,
        exact=(-0.095219, 0.134988, 0.019496, -0.006235, 0.018703, -0.020323, 0.224818, -0.455482),
        tesla=(-0.046482, 0.152925, 0.006559, -0.043110, 0.030365, -0.030922, 0.226098, -0.567080),
        beta=(0.026846, 0.523798),
        exact_labels=(-0.047099, 0.047099, 0.037051, -0.037051, -0.188000, 0.188000, -0.076437, 0.076437),
        tesla_labels=(-0.057648, 0.057648, -0.027709, 0.027709, -0.231269, 0.231269, -0.123056, 0.123056),
    ),
    "D": dict(
        batch=mini,
        kind="probabilities",
        loss=0.664073,
        exact=(-0.094755, 0.143341, 0.025251, -0.013591, 0.030132, -0.027658, 0.225844, -0.480678),
        tesla=(-0.040005, 0.163548, 0.008972, -0.055370, 0.039558, -0.040384, 0.223758, -0.601843),
        beta=(0.163792, 0.759966),
    ),
}
END_A = (
    *(0.578126, -0.241492, -0.400273, 0.456880, -0.581910, 0.211347, 0.030315, -0.075729, 0.004217),
    *(0.472110, -0.401907, 0.059464, -0.372110, 0.601907, 0.640536, -0.004689, 0.104689),
)


def two_layer(way: str, case: str, beta: float = 0.5, **more: Any) -> Matched:
    row = CASES[case]
    student = Toy(two_layers, row["kind"])
    goals = more.pop("goals", [Goal(4, END_2)])
    size = torch.tensor(beta, dtype=torch.float64)
    return matched(way, student, START_2, goals, X_2, LABELS[row["kind"]], size, row["batch"], **more)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", WAYS)
def test_the_two_layer_network_has_the_specs_numbers(way: str, case: str) -> None:
    found, row, kind = two_layer(way, case), CASES[case], "exact" if way in EXACT else "tesla"
    assert close(found.loss, row["loss"])
    assert close(found.images, row[kind])
    assert close(found.step_size, row["beta"][way == "tesla"])
    assert (found.labels is None) == (row["kind"] == "ids")
    if f"{kind}_labels" in row:
        assert found.labels is not None and close(found.labels, row[f"{kind}_labels"])
    if case == "A":
        assert close(found.end, END_A)


@pytest.mark.parametrize("case", CASES)
def test_the_adjoint_is_the_unroll_to_rounding_on_the_two_layer_network(case: str) -> None:
    same(two_layer("adjoint", case), two_layer("unroll", case), 1e-13)


def test_the_gradient_of_label_logits_agrees_with_central_differences() -> None:
    student, eps, labels = Toy(two_layers, "logits"), 1e-5, LABELS["logits"]

    def loss(z: Tensor) -> float:
        beta = torch.tensor(0.5, dtype=torch.float64)
        return float(matched("adjoint", student, START_2, [Goal(4, END_2)], X_2, z, beta, mini).loss)

    found = two_layer("adjoint", "C").labels
    assert found is not None
    for i, j in ((0, 0), (2, 1), (3, 0)):
        step = torch.zeros_like(labels)
        step[i, j] = eps
        assert (loss(labels + step) - loss(labels - step)) / (2 * eps) == pytest.approx(
            float(found[i, j]), abs=1e-9
        )


@pytest.mark.parametrize("way", WAYS)
def test_teslas_closed_form_is_a_difference_of_ends(way: str) -> None:
    """beta (goal - start) + beta^2 G == -beta (end - goal), with G the sum of gradients."""
    found = two_layer(way, "B")
    beta, total = 0.5, (START_2 - found.end) / 0.5
    assert torch.allclose(beta * (END_2 - START_2) + beta**2 * total, -beta * (found.end - END_2), atol=1e-15)


def test_tesla_holds_the_sum_of_gradients_fixed_for_the_step_size() -> None:
    found = two_layer("tesla", "B")
    total = (START_2 - found.end) / 0.5
    beta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    loss = (START_2 - beta * total - END_2).square().sum() / (START_2 - END_2).square().sum()
    loss.backward()
    assert beta.grad is not None and float(found.step_size) == pytest.approx(float(beta.grad), rel=1e-12)


# ------------------------------------------------------------------------------------------------ AST's extensions


def test_a_momentum_of_nine_tenths_goes_on_with_former_steps() -> None:
    class Constant(Toy):
        def loss(self, state: Tensor, x: Tensor, labels: Tensor) -> Tensor:
            return state.sum() + 0 * state.square().sum() * x.sum()

    for way in WAYS:
        beta = torch.tensor(1.0, dtype=torch.float64)
        goals = [Goal(3, numbers(1))]
        found = matched(way, Constant(linear), numbers(0), goals, X, Y, beta, whole, momentum=0.9)
        assert float(found.end) == pytest.approx(-5.61)


@pytest.mark.parametrize("way", WAYS)
def test_the_linear_toy_with_momentum(way: str) -> None:
    found = toy(way, 2, momentum=0.9)
    assert close(found.end, (0.594913, -0.268090, -0.494913, 0.368090))
    assert close(found.loss, 0.238222)
    if way == "adjoint":
        same(found, toy("unroll", 2, momentum=0.9), 1e-13)


@pytest.mark.parametrize("way", EXACT)
def test_momentum_with_a_goal_on_the_way(way: str) -> None:
    goals = [Goal(2, MIDDLE_2), Goal(4, END_2)]
    found = two_layer(way, "B", 0.25, goals=goals, momentum=0.9)
    assert close(torch.stack(found.parts), (0.353824, 1.115702)) and close(found.loss, 1.469526)
    assert close(found.step_size, 8.375855)
    pixels = (0.183913, 0.088738, -0.117989, -0.286771, 0.141917, -0.016419, -0.259469, -0.768623)
    assert close(found.images, pixels)


@pytest.mark.parametrize("way", EXACT)
def test_a_factor_on_every_inner_loss(way: str) -> None:
    goals = [Goal(2, MIDDLE_2), Goal(4, END_2)]
    factor = float(torch.log(numbers(5)) / torch.log(numbers(18)))
    found = two_layer(way, "B", 0.25, goals=goals, momentum=0.9, factor=factor)
    assert close(torch.stack(found.parts), (0.431675, 0.609280)) and close(found.loss, 1.040955)
    assert close(found.step_size, -0.411332)
    pixels = (-0.137909, 0.125646, 0.117630, -0.168833, -0.074962, -0.001274, 0.288002, -0.476711)
    assert close(found.images, pixels)


@pytest.mark.parametrize("way", WAYS)
def test_goals_add_up_by_their_weights(way: str) -> None:
    two = two_layer(way, "B", goals=[Goal(2, MIDDLE_2, 0.5), Goal(4, END_2, 2.0)])
    assert float(two.loss) == pytest.approx(0.5 * float(two.parts[0]) + 2.0 * float(two.parts[1]), rel=1e-12)
    unchanged = two_layer(way, "B", goals=[Goal(2, MIDDLE_2, 0.0), Goal(4, END_2)])
    assert torch.allclose(unchanged.images, two_layer(way, "B").images, rtol=1e-12)


def test_without_its_extensions_ast_is_mtt() -> None:
    plain = two_layer("adjoint", "B", momentum=0.0, factor=1.0)
    assert close(plain.loss, 0.496749) and close(plain.images, CASES["B"]["exact"])


# ------------------------------------------------------------------------------------------------ networks


def same(one: Matched, two: Matched, tolerance: float) -> None:
    """Equal in all that comes back, relative to the largest value of each tensor."""
    pairs = [
        (one.loss, two.loss),
        (one.images, two.images),
        (one.step_size, two.step_size),
        (one.end, two.end),
    ]
    pairs += list(zip(one.parts, two.parts, strict=True))
    assert (one.labels is None) == (two.labels is None)
    if one.labels is not None and two.labels is not None:
        pairs.append((one.labels, two.labels))
    for a, b in pairs:
        assert float((a - b).abs().max()) <= tolerance * max(float(b.abs().max()), 1e-30)


SHAPE, CLASSES, NETWORK = (3, 8, 8), 3, "ConvNetD2W4"


def problem(
    kind: str,
    steps: int,
    seed: int = 0,
    augment: DSA | None = None,
    sizes: Sequence[int] = (),
    dtype: Any = torch.float64,
) -> dict[str, Any]:
    """A student of a small ConvNet, six images, and batches that repeat images, inside a batch too."""
    rng = torch.Generator().manual_seed(seed)
    flat = Flat(NETWORK, SHAPE, CLASSES)
    start, *ends = (flat.vector(init_parameters(NETWORK, SHAPE, CLASSES, rng)).to(dtype) for _ in range(3))
    images = torch.randn(6, *SHAPE, generator=rng, dtype=dtype)
    labels: Tensor = torch.arange(6) % CLASSES
    if kind != "ids":
        labels = torch.randn(6, CLASSES, generator=rng, dtype=dtype)
        labels = labels if kind == "logits" else labels.softmax(1)
    counts = list(sizes) or [int(torch.randint(1, 6, (), generator=rng)) for _ in range(steps)]
    chosen = [torch.randint(0, 6, (n,), generator=rng) for n in counts]
    draws = [augment.draw(n, SHAPE, rng) if augment else None for n in counts]

    def batch(i: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        seen = x.index_select(0, chosen[i])
        return augment.apply(seen, draws[i]) if augment and draws[i] else seen, y.index_select(0, chosen[i])

    goals = [Goal(steps, start + 0.3 * (ends[0] - start))]
    if steps > 1:
        goals.insert(0, Goal(steps // 2, start + 0.2 * (ends[1] - start), 0.7))
    beta = torch.tensor(0.1, dtype=dtype)
    return dict(start=start, goals=goals, images=images, labels=labels, step_size=beta, batch=batch)


@pytest.mark.parametrize("kind", trajectories.LABELS)
@pytest.mark.parametrize(
    "augment",
    [None, *map(DSA, OPERATIONS), DSA.diffaug("flip_color_crop_cutout")],
    ids=lambda a: a.strategy if a else "none",
)
def test_adjoint_equals_unroll_in_a_network_with_everything(kind: str, augment: DSA | None) -> None:
    given, student = problem(kind, 4, augment=augment), Student(NETWORK, SHAPE, CLASSES, kind)
    for extras in ({}, dict(momentum=0.9, factor=0.6)):
        found = [matched(way, student, **given, **extras) for way in EXACT]
        same(*found, 1e-10)
        assert float(found[0].images.abs().max()) > 0


@given(
    steps=st.integers(1, 6),
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(trajectories.LABELS),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    factor=st.floats(0.2, 3.0),
)
@settings(max_examples=25, deadline=None)
def test_adjoint_equals_unroll_for_any_steps_and_batches(
    steps: int, seed: int, kind: str, momentum: float, factor: float
) -> None:
    given_, student = problem(kind, steps, seed, DSA.classic()), Student(NETWORK, SHAPE, CLASSES, kind)
    extras = dict(momentum=momentum, factor=factor)
    same(*(matched(way, student, **given_, **extras) for way in EXACT), 1e-9)


@given(steps=st.integers(1, 6), seed=st.integers(0, 10**6), factor=st.floats(0.2, 3.0))
@settings(max_examples=15, deadline=None)
def test_tesla_is_exact_for_one_step_and_for_the_images_of_the_last(
    steps: int, seed: int, factor: float
) -> None:
    student = Student(NETWORK, SHAPE, CLASSES)
    given_ = problem("ids", steps, seed, DSA.classic())
    given_["goals"] = given_["goals"][-1:]
    seen: list[set[int]] = []
    for i in range(steps):
        marks = torch.arange(6.0).view(6, 1, 1, 1)
        x, _ = problem("ids", steps, seed)["batch"](i, marks, given_["labels"])
        seen.append({int(v) for v in x.flatten()})
    only_last = sorted(seen[-1].difference(*seen[:-1]))
    exact, rough = (matched(way, student, **given_, factor=factor) for way in ("adjoint", "tesla"))
    assert torch.equal(exact.loss, rough.loss) and torch.equal(exact.end, rough.end)
    assert torch.allclose(exact.images[only_last], rough.images[only_last], rtol=1e-9, atol=1e-14)
    if steps == 1:
        same(exact, rough, 1e-10)


def test_a_batch_is_asked_for_twice_by_the_sweep_and_must_be_the_same() -> None:
    given_, student, asked = problem("ids", 3), Student(NETWORK, SHAPE, CLASSES), []
    batch = given_["batch"]

    def told(i: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(i)
        return batch(i, x, y)

    matched("adjoint", student, **{**given_, "batch": told})
    assert asked == [0, 1, 2, 2, 1, 0]
    asked.clear()
    matched("unroll", student, **{**given_, "batch": told})
    assert asked == [0, 1, 2]


@pytest.mark.parametrize("kind", trajectories.LABELS)
@pytest.mark.parametrize("chunk", [1, 2, 4, 6])
def test_a_step_in_chunks_is_the_same_step(chunk: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given_ = problem(kind, 3, augment=DSA.classic(), sizes=(5, 3, 4))
    whole_, parts = (Student(NETWORK, SHAPE, CLASSES, kind, chunk=size) for size in (None, chunk))
    for way in ("adjoint", "tesla"):
        expected = matched(way, whole_, **given_, momentum=0.5, factor=0.7)
        sizes: list[int] = []
        loss = parts.loss

        def counted(state: Tensor, x: Tensor, labels: Tensor, sizes: Any = sizes, loss: Any = loss) -> Tensor:
            sizes.append(len(x))
            return loss(state, x, labels)

        monkeypatch.setattr(parts, "loss", counted)
        same(matched(way, parts, **given_, momentum=0.5, factor=0.7), expected, 1e-12)
        assert max(sizes) <= chunk and sum(sizes) == 2 * (5 + 3 + 4)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_given_is_left_alone(way: str) -> None:
    given_, student = problem("logits", 3), Student(NETWORK, SHAPE, CLASSES, "logits")
    for name in ("images", "labels", "step_size"):
        given_[name].requires_grad_()
    before = {k: v.detach().clone() for k, v in given_.items() if isinstance(v, Tensor)}
    found = matched(way, student, **given_)
    for name, value in before.items():
        assert torch.equal(given_[name].detach(), value) and given_[name].grad is None
    for tensor in (found.loss, found.images, found.labels, found.step_size, found.end, *found.parts):
        assert tensor is not None and not tensor.requires_grad
    with torch.no_grad():  # nor does it matter where it is called
        same(found, matched(way, student, **given_), 0)


# ------------------------------------------------------------------------------------------------ errors


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(
        ValueError, match="gradient of a trajectory is 'exact'; expected one of adjoint, unroll, tesla"
    ):
        toy("exact", 2)


@pytest.mark.parametrize("after", [[], [0], [2, 2], [3, 2], [0, 2]])
def test_goals_out_of_order_are_refused(after: list[int]) -> None:
    beta = torch.tensor(0.5, dtype=torch.float64)
    with pytest.raises(
        ValueError, match=r"goals are after steps \[.*\]; expected increasing counts, the first at least 1"
    ):
        matched("adjoint", Toy(linear), START, [Goal(n, END) for n in after], X, Y, beta, whole)


@pytest.mark.parametrize("way", WAYS)
def test_an_expert_that_stood_still_is_refused(way: str) -> None:
    beta = torch.tensor(0.5, dtype=torch.float64)
    goals = [Goal(1, END), Goal(2, START.clone())]
    with pytest.raises(
        ValueError, match=r"the expert stands still: .* is 0.0; expected an expert that was trained"
    ):
        matched(way, Toy(linear), START, goals, X, Y, beta, whole)


def test_unknown_labels_are_refused() -> None:
    with pytest.raises(
        ValueError, match="labels of a student are 'soft'; expected one of ids, logits, probabilities"
    ):
        Student(NETWORK, SHAPE, CLASSES, "soft")


# ------------------------------------------------------------------------------------------------ traced


@pytest.fixture
def nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "COMPILED", {})
    monkeypatch.setattr(compute, "TRACED", {})
    monkeypatch.setattr(compute, "_broken", False)


TRACED_STEPS, COMPILED_STEPS = 4_000, 200_000
"""Steps by whose estimate a tiny network's student is traced, and compiled."""


def student_of(steps: int, kind: str = "ids") -> Student:
    return Student(NETWORK, SHAPE, CLASSES, kind, steps=steps, batch=4)


def test_only_long_runs_are_traced_and_only_longer_ones_compiled(
    nothing_compiled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not isinstance(student_of(0)._second, compute.Traced)
    assert not isinstance(student_of(100)._second, compute.Traced)
    for steps, compiled in ((TRACED_STEPS, False), (COMPILED_STEPS, True)):
        second = student_of(steps)._second
        assert isinstance(second, compute.Traced) and second._compiled is compiled
    monkeypatch.setattr(compute, "_broken", True)
    second = student_of(COMPILED_STEPS)._second
    assert isinstance(second, compute.Traced) and not second._compiled


@pytest.mark.parametrize("kind", trajectories.LABELS)
def test_traced_students_take_the_steps_of_plain_ones(kind: str, nothing_compiled: None) -> None:
    given_ = problem(kind, 3, augment=DSA.classic(), sizes=(4, 2, 4))
    traced = student_of(TRACED_STEPS, kind)
    for way in ("adjoint", "tesla"):
        same(matched(way, traced, **given_), matched(way, student_of(0, kind), **given_), 1e-12)
    again = student_of(TRACED_STEPS, kind)  # shares what was traced
    assert again._second._graphs is traced._second._graphs  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ids", "logits"])
def test_compiled_students_take_the_steps_of_plain_ones(kind: str, nothing_compiled: None) -> None:
    given_ = problem(kind, 3, augment=DSA.classic(), sizes=(4, 4, 4), dtype=torch.float32)
    compiled = matched("adjoint", student_of(COMPILED_STEPS, kind), **given_)
    if not compute.compiler_works():
        pytest.skip("no compiler here")
    same(compiled, matched("adjoint", student_of(0, kind), **given_), 1e-4)


class TestTraced:
    """ddbench.compute.Traced."""

    @staticmethod
    def second(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (g,) = torch.autograd.grad((leaf**3).sum(), leaf, create_graph=True)
            (h,) = torch.autograd.grad(torch.dot(g, v), leaf)
        return g.detach(), h

    def test_derivatives_of_derivatives_come_back_without_a_graph(self, nothing_compiled: None) -> None:
        call = compute.Traced("cubes", self.second, compiled=False)
        x, v = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0, -1.0])
        for scale in (1.0, 2.0):  # the second call does not trace
            g, h = call(scale * x, v)
            assert torch.allclose(g, 3 * (scale * x.detach()) ** 2)
            assert torch.allclose(h, 6 * scale * x.detach() * v)
            assert not g.requires_grad and not h.requires_grad

    def test_every_shape_and_type_has_a_graph_of_its_own(self, nothing_compiled: None) -> None:
        count = 0

        def counted(x: Tensor) -> Tensor:
            nonlocal count
            count += 1
            return 2 * x

        call = compute.Traced("counted", counted, compiled=False)
        for x in (torch.ones(2), torch.ones(2), torch.ones(3), torch.ones(2, dtype=torch.float64)):
            assert torch.equal(call(x), 2 * x)
        assert count == 3
        assert torch.equal(compute.Traced("counted", counted, compiled=False)(torch.zeros(3)), torch.zeros(3))
        assert count == 3, "equal keys share"
        compute.Traced("other", counted, compiled=False)(torch.zeros(3))
        assert count == 4

    def test_what_cannot_be_traced_runs_as_it_is_with_a_warning(
        self, nothing_compiled: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        def by_value(x: Tensor) -> Tensor:
            return x + 1 if float(x.sum()) > 0 else x - 1

        call = compute.Traced("by value", by_value, compiled=False)
        with caplog.at_level(logging.WARNING, logger="ddbench"):
            assert call(torch.ones(2)).tolist() == [2, 2]
            assert call(-torch.ones(2)).tolist() == [-2, -2]
        assert len(caplog.records) == 1
        assert (
            "a function could not be traced" in caplog.text and "it runs as it is, only slower" in caplog.text
        )

    @pytest.mark.parametrize("error", [TypeError, AssertionError, RuntimeError, ValueError])
    def test_an_error_of_the_function_is_not_taken_for_one_of_tracing(
        self, error: type[Exception], nothing_compiled: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        def wrong(x: Tensor) -> Tensor:
            raise error("a mistake in the function")

        with pytest.raises(error, match="a mistake in the function"):
            compute.Traced("wrong", wrong, compiled=False)(torch.ones(2))
        assert "could not be traced" not in caplog.text

    def test_functions_that_were_not_used_for_long_are_dropped(self, nothing_compiled: None) -> None:
        for key in range(20):
            compute.Traced(key, torch.neg, compiled=False)(torch.ones(2))
        assert len(compute.TRACED) == 8 and not compute.COMPILED

    def test_without_a_compiler_what_was_traced_is_used(
        self, nothing_compiled: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(*_: Tensor) -> Tensor:
            raise RuntimeError("no C++ compiler found")

        monkeypatch.setattr(compute, "compile_", lambda _: broken)
        call = compute.Traced("cubes", self.second, compiled=True)
        with caplog.at_level(logging.WARNING, logger="ddbench"):
            g, _ = call(torch.tensor([2.0]), torch.tensor([1.0]))
        assert g.tolist() == [12.0]
        assert not compute.compiler_works() and "torch.compile does not work here" in caplog.text
