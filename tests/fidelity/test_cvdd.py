"""CV-DD against its paper and code (arXiv:2501.07575): weights, pairs, start images, the loop written out, labels, priors."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import blobs
from torch import Tensor, nn

from ddbench import registry
from ddbench.augment.views import resized_boxes
from ddbench.contract import DistilledSet, ImageData, Labeller, NetworkRef, Space, TeacherRecipe, Trained
from ddbench.matching.committee import (
    RELEASED,
    around_the_middle,
    medium_images,
    pairs,
    released_priors,
    softmax_weights,
    true_class_probability,
    voters,
    votes,
)
from ddbench.matching.recovery import Recovery, recover
from ddbench.nets.build import build
from ddbench.seeding import Generators
from ddbench.store import RunFolder
from ddbench.task import RunTask, TimeBudget
from ddbench.train.labels import answer
from ddbench.train.networks import split
from ddbench.train.priors import Committee, PriorRun, members_of
from ddbench.train.squeeze import squeeze_recipe

TRAIN = blobs("four", (3, 8, 8), 4, (20, 2)).train
NAMES = ("ConvNetD1W4BN", "ConvNetD2W4BN", "ConvNetD1W8BN")
R18, R50, SHUFFLE, MOBILE, DENSE = range(5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize(
    ("dataset", "pair", "expected"),
    [
        ("cifar100", (R18, R50), (0.663739, 0.336261)),
        ("cifar100", (SHUFFLE, MOBILE), (0.173647, 0.826353)),
        ("cifar10", (MOBILE, DENSE), (0.509999, 0.490001)),
        ("imagenette", (MOBILE, DENSE), (0.204240, 0.795760)),
        ("tiny_imagenet", (R18, MOBILE), (0.584191, 0.415809)),
        ("imagenet1k", (R18, SHUFFLE), (0.685680, 0.314320)),
    ],
)
def test_votes_of_the_released_priors(
    dataset: str, pair: tuple[int, int], expected: tuple[float, float]
) -> None:
    (row,) = votes([pair], RELEASED[dataset], generator())
    assert [float(row[m]) for m in pair] == pytest.approx(expected, abs=1e-6)
    assert sorted(row.nonzero().flatten().tolist()) == list(pair) and float(row.sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("cifar100", (0.322570, 0.229596, 0.093347, 0.203633, 0.150855)),
        ("cifar10", (0.140279, 0.176556, 0.243140, 0.222213, 0.217813)),
        ("imagenet1k", (0.412813, 0.100785, 0.279498, 0.121875, 0.085029)),
        ("imagenette", (0.309422, 0.109367, 0.183958, 0.133581, 0.263672)),
        ("tiny_imagenet", (0.297576, 0.048215, 0.222665, 0.251054, 0.180489)),
    ],
)
def test_label_weights_of_the_released_priors(dataset: str, expected: tuple[float, ...]) -> None:
    assert softmax_weights(RELEASED[dataset], 10) == pytest.approx(expected, abs=1e-6)


def test_equal_priors_give_equal_weights_and_a_constant_changes_nothing() -> None:
    assert softmax_weights([40.0] * 5, 5) == pytest.approx([0.2] * 5)
    priors = RELEASED["cifar10"]
    assert softmax_weights([p + 17 for p in priors], 5) == pytest.approx(softmax_weights(priors, 5))


def test_other_votings_are_equal_or_random() -> None:
    priors, chosen = RELEASED["tiny_imagenet"], pairs(5)
    equal = votes(chosen, priors, generator(), "equal")
    assert equal.unique().tolist() == [0, 0.5]
    drawn, again = (votes(chosen, priors, generator(3), "random") for _ in range(2))
    assert torch.equal(drawn, again) and torch.equal(drawn > 0, equal > 0)
    assert torch.allclose(drawn.sum(1), torch.ones(10, dtype=torch.float64))
    assert len(drawn.unique()) == 21
    with pytest.raises(ValueError, match="voting is 'loud'; expected one of prior, equal, random"):
        votes(chosen, priors, generator(), "loud")
    with pytest.raises(ValueError, match="temperature is 0; expected a number above 0"):
        softmax_weights(priors, 0)


def test_votes_are_a_softmax_over_the_chosen_pair_alone() -> None:
    near, far = ([50.0, 45.0, last] for last in (0.0, 99.0))
    assert torch.equal(votes([(0, 1)], near, generator()), votes([(0, 1)], far, generator()))


# ------------------------------------------------------------------------------------------------ pairs


def test_the_ten_pairs_stand_in_the_order_of_the_code_and_cover_each_model_four_times() -> None:
    found = voters(10, RELEASED["cifar10"], generator())
    assert found == [
        *((R18, R50), (R18, SHUFFLE), (R18, MOBILE), (R18, DENSE), (R50, SHUFFLE), (R50, MOBILE), (R50, DENSE)),
        *((SHUFFLE, MOBILE), (SHUFFLE, DENSE), (MOBILE, DENSE)),
    ]  # fmt: skip
    assert Counter(m for pair in found for m in pair) == dict.fromkeys(range(5), 4)


@pytest.mark.parametrize(
    ("dataset", "pair"), [("tiny_imagenet", (R18, MOBILE)), ("imagenet1k", (R18, SHUFFLE))]
)
def test_one_id_takes_the_two_highest_priors(dataset: str, pair: tuple[int, int]) -> None:
    assert voters(1, RELEASED[dataset], generator()) == [pair]


def test_one_id_takes_the_pair_that_is_named() -> None:
    assert voters(1, RELEASED["cifar10"], generator(), (MOBILE, DENSE)) == [(MOBILE, DENSE)]
    with pytest.raises(ValueError, match=r"the only pair is \(1, 1\) of 5 members; expected two different"):
        voters(1, RELEASED["cifar10"], generator(), (1, 1))


@pytest.mark.parametrize(
    ("dataset", "pair"),
    [
        ("cifar10", ("MobileNetV2", "DenseNet121")),
        ("cifar100", ("ShuffleNetV2", "MobileNetV2")),
        ("imagenette", ("torchvision:mobilenet_v2", "torchvision:densenet121")),
    ],
)
def test_recipes_name_the_pairs_of_ipc_1(dataset: str, pair: tuple[str, str]) -> None:
    for recipe in ("authors", "released"):
        settings = registry.resolve_recipe("cvdd", recipe, dataset, 1).settings
        assert settings["pair"] == pair
        assert set(pair) < set(members_of("cvdd", (3, 224, 224) if dataset == "imagenette" else (3, 32, 32)))
        assert "pair" not in registry.resolve_recipe("cvdd", recipe, dataset, 10).settings


def test_fifty_ids_take_random_pairs_of_different_members() -> None:
    found = voters(50, RELEASED["cifar10"], generator(1))
    assert (
        found
        == voters(50, RELEASED["cifar10"], generator(1))
        != voters(50, RELEASED["cifar10"], generator(2))
    )
    assert len(found) == 50 and set(found) <= set(pairs(5)) and len(set(found)) > 6


def test_a_committee_of_one_recovers_everything_with_weight_one() -> None:
    for ids in (1, 10, 50):
        assert votes(voters(ids, [0.0], generator()), [0.0], generator()).tolist() == [[1.0]] * ids


# ------------------------------------------------------------------------------------------------ released constants


def test_released_priors_are_found_by_network_in_any_order_and_form() -> None:
    assert released_priors("cifar100", members_of("cvdd", (3, 32, 32))) == RELEASED["cifar100"]
    assert released_priors("imagenet1k", members_of("cvdd", (3, 224, 224))) == RELEASED["imagenet1k"]
    assert released_priors("cifar10", ["DenseNet121", "ResNet18BN"]) == (67.4, 63.0)
    assert released_priors("imagenette?resize=squash", ["torchvision:resnet50"]) == (52.0,)


def test_what_has_no_released_prior_is_told_with_what_has() -> None:
    with pytest.raises(
        LookupError, match="no released priors for 'mnist'; there are for cifar10, cifar100, tiny"
    ):
        released_priors("mnist", ["ResNet18BN"])
    with pytest.raises(
        LookupError,
        match="no released prior for 'ConvNetBN'; there are for ResNet18BN, torchvision:resnet18, ResNet50",
    ):
        released_priors("cifar10", ["ResNet18BN", "ConvNetBN"])


@pytest.mark.parametrize(
    "network",
    [
        "ShuffleNetG2", "ResNet18", "torchvision:mobilenet_v3_small", "torchvision:shufflenet_v2_x0_5", "timm:resnet18d",
        "torchvision:resnet101", "MobileNetV2W2",
    ],
)  # fmt: skip
def test_a_network_of_a_members_family_is_no_member(network: str) -> None:
    with pytest.raises(LookupError, match=f"no released prior for '{network}'"):
        released_priors("imagenet1k", [network])


def test_every_member_has_its_prior_under_both_of_its_names() -> None:
    small = ["ResNet18BN", "ResNet50BN", "ShuffleNetV2", "MobileNetV2", "DenseNet121"]
    large = ["resnet18", "resnet50", "shufflenet_v2_x1_0", "mobilenet_v2", "densenet121"]
    assert released_priors("imagenet1k", small) == RELEASED["imagenet1k"]
    assert released_priors("imagenet1k", [f"torchvision:{n}" for n in large]) == RELEASED["imagenet1k"]


# ------------------------------------------------------------------------------------------------ start images


def test_medium_positions_of_the_spec() -> None:
    assert around_the_middle(10, 6) == [5, 6, 4, 7, 3, 8]
    assert around_the_middle(500, 5) == [250, 251, 249, 252, 248]


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_medium_positions_of_a_whole_class_are_all_of_it(n: int) -> None:
    assert sorted(around_the_middle(n, n)) == list(range(n))
    with pytest.raises(ValueError, match=f"{n + 1} positions out of {n}"):
        around_the_middle(n, n + 1)


def test_medium_images_are_ranked_inside_their_class_by_the_probability_of_the_true_class() -> None:
    probability = torch.rand(len(TRAIN), generator=generator())
    found = medium_images(TRAIN, probability, 3)
    for c in range(4):
        ranked = sorted(TRAIN.of_class(c).tolist(), key=lambda i: float(probability[i]))
        assert found[c].tolist() == [ranked[10], ranked[11], ranked[9]]
    among = torch.arange(0, len(TRAIN), 2)
    assert set(medium_images(TRAIN, probability, 3, among).flatten().tolist()) <= set(among.tolist())


def test_probabilities_are_those_of_the_network_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = teacher(NAMES[0])
    space = TRAIN.space
    logits = trained.network(space.real_to_input(TRAIN.images))
    expected = logits.softmax(1)[torch.arange(len(TRAIN)), TRAIN.labels]
    monkeypatch.setattr("ddbench.matching.committee._BATCH", 7)
    found = true_class_probability(trained, TRAIN, space, torch.device("cpu"))
    assert torch.allclose(found, expected, atol=1e-6)


# ------------------------------------------------------------------------------------------------ the loop


def teacher(name: str, seed: int = 0) -> Trained:
    """A network with running statistics of its own."""
    network = build(name, TRAIN.shape, TRAIN.classes, generator(seed))
    with torch.no_grad():
        network.train()
        for _ in range(3):
            network(torch.randn(32, *TRAIN.shape, generator=generator(seed + 1)))
    network.eval().requires_grad_(False)
    return Trained(network, f"{name}-{seed}", 0.5, 0.0, name=name, space=TRAIN.space)


def test_the_loss_of_the_spec() -> None:
    weights = votes([(R18, R50)], RELEASED["cifar100"], generator())[0]
    entropy, distance = torch.tensor([2.3, 2.1]).double(), torch.tensor([150.0, 300.0]).double()
    loss = (weights[:2] * (entropy + Recovery().bn_weight * distance)).sum()
    assert float(loss) == pytest.approx(4.237140, abs=1e-6)


def distance_of(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and batch-norm loss, spelled out: norms not squared, the first of the network ten times."""
    terms: list[Tensor] = []

    def hook(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        (inputs,) = given
        flat = inputs.transpose(0, 1).flatten(1)
        mean = flat.mean(1)
        var = (flat - mean[:, None]).square().mean(1)
        assert (
            isinstance(norm, nn.BatchNorm2d)
            and norm.running_mean is not None
            and norm.running_var is not None
        )
        own = (mean - norm.running_mean).square().sum().sqrt() + (
            var - norm.running_var
        ).square().sum().sqrt()
        terms.append((10 if not terms else 1) * own)

    handles = [m.register_forward_pre_hook(hook) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    logits = network(x)
    for handle in handles:
        handle.remove()
    return logits, torch.stack(terms).sum()


def plain_loop(
    teachers: list[Trained], weights: list[float], x: Tensor, settings: Recovery, chance: torch.Generator
) -> list[float]:
    """CV-DD's loop for one image id, x (K, C, H, W) changed in place; the losses."""
    mean = torch.tensor(TRAIN.mean).view(-1, 1, 1)
    std = torch.tensor(TRAIN.std).view(-1, 1, 1)
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    labels, size = torch.arange(len(x)), (x.shape[2], x.shape[3])
    losses = []
    for it in range(settings.iterations):
        draws = torch.rand(43, dtype=torch.float64, generator=chance)
        top, left, h, w = resized_boxes(draws[:40].view(1, 10, 4).numpy(), size, (0.08, 1.0))[0].tolist()
        y = x.clone().requires_grad_()
        view = F.interpolate(
            y[:, :, top : top + h, left : left + w], size=size, mode="bilinear", align_corners=False
        )
        if draws[40] < 0.5:
            view = view.flip(3)
        shifts = [int(d * (settings.roll[1] + 1)) for d in draws[41:]]
        view = torch.roll(view, shifts, (2, 3))
        loss = torch.zeros(())
        for trained, weight in zip(teachers, weights, strict=True):
            logits, distance = distance_of(trained.network, view)
            loss = loss + weight * (F.cross_entropy(logits, labels) + settings.bn_weight * distance)
        (g,) = torch.autograd.grad(loss, y)
        first = 0.5 * first + 0.5 * g
        second = 0.9 * second + 0.1 * g.square()
        step = settings.lr * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * it / settings.iterations)))
        x -= step * (first / (1 - 0.5 ** (it + 1))) / ((second / (1 - 0.9 ** (it + 1))).sqrt() + 1e-8)
        x.copy_(torch.maximum(torch.minimum(x, (1 - mean) / std), -mean / std))
        losses.append(float(loss.detach()))
    return losses


class Logged(RunTask):
    """Keeps what is logged."""

    def log(self, **values: float | Tensor) -> None:
        super().log(**values)
        row = {name: float(torch.as_tensor(value).detach()) for name, value in values.items()}
        self.rows: list[dict[str, float]] = [*getattr(self, "rows", []), row]


def test_two_voting_teachers_recover_as_the_loop_written_out() -> None:
    teachers = [teacher(name, seed) for seed, name in enumerate(NAMES)]
    priors = [60.0, 52.0, 57.0]
    weights = votes([(0, 1), (1, 2)], priors, generator())
    settings = Recovery(iterations=5, lr=0.25, bn_weight=0.01, roll=(0, 2))
    starts = TRAIN.space.real_to_input(
        TRAIN.images[medium_images(TRAIN, torch.rand(80, generator=generator()), 2)].flatten(0, 1)
    )
    starts = starts.view(4, 2, *TRAIN.shape).transpose(0, 1)
    task = Logged(TRAIN, 2, 5)
    found = recover(task, teachers, weights, settings, TRAIN.space, lambda id, classes: starts[id][classes])
    expected, losses = [], []
    for id, pair in enumerate([(0, 1), (1, 2)]):
        chance = Generators(5, "distil")(f"recover-{id}-0")
        x = starts[id].clone()
        own = softmax_weights([priors[m] for m in pair], 5)
        losses.append(plain_loop([teachers[m] for m in pair], list(own), x, settings, chance))
        unit = x * torch.tensor(TRAIN.std).view(-1, 1, 1) + torch.tensor(TRAIN.mean).view(-1, 1, 1)
        expected.append((unit.clamp(0, 1) * 255).to(torch.uint8))
    both = torch.stack(expected)
    assert found.shape == both.shape == (2, 4, 3, 8, 8)
    apart = (found.int() - both.int()).abs()
    assert int(apart.max()) <= 1 and float((apart > 0).float().mean()) < 0.01
    told = [row["loss"] for row in task.rows]
    if len(told) == 10:  # one id after the other
        told = [(a + b) / 2 for a, b in zip(told[:5], told[5:], strict=True)]
    assert told == pytest.approx([(a + b) / 2 for a, b in zip(*losses, strict=True)], rel=1e-4)
    assert float((found.int() - TRAIN.space.to_unit(starts).mul(255).int()).abs().float().mean()) > 5


# ------------------------------------------------------------------------------------------------ labels


class Constant(nn.Module):
    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor([logits])

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def test_the_committee_averages_logits_and_not_probabilities() -> None:
    weights = softmax_weights(RELEASED["cifar100"][:2], 10)
    assert weights == pytest.approx((0.584191, 0.415809), abs=1e-6)
    refs = tuple(NetworkRef("toy", "cache", str(i), weight=w) for i, w in enumerate(weights))
    labeller = Labeller(refs, TRAIN.space)
    logits = answer(labeller, [Constant(4, 0), Constant(0, 2)], torch.zeros(3, *TRAIN.shape))
    assert logits[0].tolist() == pytest.approx((2.336762, 0.831619), abs=1e-6)
    assert (logits[0] / 20).softmax(0).tolist() == pytest.approx((0.518805, 0.481195), abs=1e-6)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("eval", [0, 1.99999, 3.99998, 5.99997]),
        ("train", [-1.34164, -0.447213, 0.447213, 1.34164]),
        ("train-halves", [-0.999995, 0.999995, -0.999995, 0.999995]),
    ],
)
def test_batch_norm_of_a_labeller_has_three_modes(mode: str, expected: list[float]) -> None:
    norm = nn.BatchNorm2d(1).eval()
    labeller = Labeller((NetworkRef("toy", "cache", "0"),), Space("input", (0.0,), (1.0,)), batch_norm=mode)
    x = torch.tensor([0.0, 2.0, 4.0, 6.0]).view(4, 1, 1, 1)
    found = answer(labeller, [norm], x).flatten().tolist()
    assert found == pytest.approx(expected, abs=2e-5)


# ------------------------------------------------------------------------------------------------ the method

SMALL: dict[str, Any] = dict(
    networks=NAMES,
    squeeze="quick",
    iterations=3,
    lr=0.1,
    roll=(0, 1),
    prior_ipc=2,
    prior_iterations=2,
    prior_epochs=2,
)


def distill(seed: int = 0, ipc: int = 3, task: RunTask | None = None, **settings: Any) -> DistilledSet:
    made = registry.get("methods", "cvdd")(**{**SMALL, **settings})
    return (task or RunTask(TRAIN, ipc, seed)).run_method(made)


def test_a_set_holds_bytes_sorted_by_class_and_all_members_label() -> None:
    made = distill()
    assert made.tensors["images"].dtype == torch.uint8 and made.tensors["images"].shape == (12, 3, 8, 8)
    assert made.targets.ids is not None and made.targets.ids.tolist() == [
        c for c in range(4) for _ in range(3)
    ]
    labeller = made.targets.labeller
    assert labeller is not None and made.space is not None
    assert [ref.architecture for ref in labeller.networks] == list(NAMES)
    assert {ref.source for ref in labeller.networks} == {"cache"}
    assert made.space.stored == "uint8" and made.space.same_inputs(TRAIN.space)
    notes = made.card.notes
    assert notes["priors"].startswith(
        "prior performance in percent, accuracy on 8 held-out training images of a ConvNetD1W4BN"
    )
    priors = [float(part.rpartition(" ")[2]) for part in notes["priors"].rpartition(": ")[2].split(", ")]
    assert [ref.weight for ref in labeller.networks] == pytest.approx(softmax_weights(priors, 10), abs=1e-4)
    assert sorted(ref.key for ref in labeller.networks) == notes["teachers"]
    assert notes["voters"].endswith(": 0+1 0+2 1+2")
    assert notes["label_weights"].startswith("label weights: ConvNetD1W4BN 0.")


def test_priors_belong_to_the_seed_and_not_to_the_ipc() -> None:
    one, two, other = distill(1, 1), distill(1, 4), distill(2, 1)
    assert one.card.notes["priors"] == two.card.notes["priors"]
    assert torch.equal(one.tensors["images"], distill(1, 1).tensors["images"])
    assert not torch.equal(one.tensors["images"], other.tensors["images"])


def test_no_member_was_trained_on_what_measures_the_priors(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[TeacherRecipe] = []
    drawn: list[Tensor] = []
    plain, medium = RunTask.teachers, medium_images

    def teachers(self: RunTask, recipe: TeacherRecipe) -> list[Trained]:
        asked.append(recipe)
        return plain(self, recipe)

    def watched(train: ImageData, probability: Tensor, count: int, among: Tensor | None = None) -> Tensor:
        found = medium(train, probability, count, among)
        drawn.append(found)
        return found

    monkeypatch.setattr(RunTask, "teachers", teachers)
    monkeypatch.setattr("ddbench.train.priors.medium_images", watched)
    distill(held_out=0.25)
    assert [recipe.held_out for recipe in asked] == [0.25] * 3
    _, held = split(TRAIN, asked[0].seed, 0.25)
    assert len(held) == 20 and len(drawn) == 1
    assert set(drawn[0].flatten().tolist()).isdisjoint(held.tolist())


def test_a_better_member_alone_gets_a_better_prior() -> None:
    """A member whose network is scrambled recovers and labels nothing that helps."""
    task = RunTask(TRAIN, 2, 0)
    good, bad = task.teachers(TeacherRecipe(NAMES[0], epochs=60, lr=0.1, batch=16))[0], teacher(NAMES[0], 7)
    committee = Committee(task, [good, bad], TRAIN.space, "quick", 0.1)
    priors = committee.priors("held-out", PriorRun(8, 2, 30, "ConvNetD1W16BN"))
    assert priors[0] > priors[1] + 20, priors


def test_sre2l_plus_plus_is_the_committee_of_one() -> None:
    made = distill(networks=NAMES[:1])
    labeller = made.targets.labeller
    assert labeller is not None and [(r.architecture, r.weight) for r in labeller.networks] == [
        (NAMES[0], 1.0)
    ]
    assert not {"priors", "voters", "label_weights"} & set(made.card.notes)
    settings = registry.resolve_recipe("cvdd", "sre2l++", "cifar10", 10).settings
    assert settings["networks"] == ("ResNet18BN",)


def test_smaller_sets_of_sre2l_plus_plus_are_the_first_images_of_larger_ones_and_those_of_cvdd_are_not() -> (
    None
):
    for networks, nested in ((NAMES[:1], True), (NAMES, False)):
        small, large = (distill(ipc=ipc, networks=networks).tensors["images"] for ipc in (1, 4))
        apart = (small.int() - large.view(4, 4, 3, 8, 8)[:, 0].int()).abs()
        assert (int(apart.max()) <= 1) == nested


def test_tiny_imagenet_is_standardised_by_imagenet_s_statistics() -> None:
    recipe = squeeze_recipe("cvdd", "ResNet18BN", "tiny_imagenet")
    assert recipe.mean == (0.485, 0.456, 0.406) and recipe.std == (0.229, 0.224, 0.225)


def test_start_images_are_choices_and_zero_iterations_keep_them() -> None:
    made = distill(iterations=0, ipc=2)
    members = Committee(
        RunTask(TRAIN, 2, 0),
        RunTask(TRAIN, 2, 0).teachers(squeeze_recipe("quick", NAMES[0], "four")),
        TRAIN.space,
        "quick",
        0.1,
    )
    chosen = medium_images(TRAIN, members.certainty, 2).flatten()
    apart = (made.tensors["images"].int() - TRAIN.images[chosen].int()).abs()
    assert int(apart.max()) <= 1  # truncation of what was standardised
    other = distill(iterations=0, ipc=2, init="real")
    assert not torch.equal(other.tensors["images"], made.tensors["images"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(prior="test"), "prior is 'test'; expected one of held-out, released, equal"),
        (dict(voting="loud"), "voting is 'loud'; expected one of prior, equal, random"),
        (dict(init="noise"), "init is 'noise'; expected one of medium, real"),
        (dict(stored="png"), "stored is 'png'; expected one of uint8, jpeg75"),
        (dict(networks=("ConvNetD1W4BN", "ConvNetD1W4BN")), "networks are ConvNetD1W4BN, ConvNetD1W4BN; expected each"),
        (dict(prior_epochs=0), "prior_epochs is 0; expected at least 1"),
        (dict(vote_temperature=0.0), "temperature is 0.0; expected a number above 0"),
        (dict(held_out=0.0), "held_out is 0, so that no training image is new to the committee"),
        (dict(pair=("ResNet18BN", NAMES[0])), "pair is ResNet18BN, ConvNetD1W4BN; expected two different ones of "),
        (dict(networks=("ConvNetD1W4", NAMES[0])), "ConvNetD1W4 has no batch norm"),
    ],
)  # fmt: skip
def test_bad_settings_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distill(**settings)


def test_released_priors_of_other_data_are_told() -> None:
    with pytest.raises(LookupError, match="there are no released priors for 'four'"):
        distill(prior="released")


class Untrained(RunTask):
    """In which nothing may be trained."""

    def teachers(self, recipe: TeacherRecipe) -> list[Trained]:
        raise AssertionError(f"{recipe.network} would be trained")


@pytest.mark.parametrize("method", ["cvdd", "random"])
@pytest.mark.parametrize(
    ("dataset", "settings", "error", "message"),
    [
        ("four", dict(prior="released"), LookupError, "there are no released priors for 'four'"),
        ("cifar10", dict(prior="released"), LookupError, "there is no released prior for 'ConvNetD1W4BN'"),
        ("four", dict(held_out=0.0), ValueError, "held_out is 0, so that no training image is new to the committee"),
        (
            "imagenet1k",
            dict(squeeze="cvdd", networks=("torchvision:resnet18", "torchvision:resnet50")),
            ValueError,
            "torchvision:resnet18 has public weights, so that no training image is new",
        ),
        (
            "imagenet1k",
            dict(squeeze="cvdd", networks=("torchvision:resnet18", "ResNet18BN"), prior="released"),
            ValueError,
            "networks are torchvision:resnet18, torchvision:resnet18; expected each once",
        ),
    ],
)  # fmt: skip
def test_priors_that_cannot_be_had_are_told_before_anything_is_trained(
    method: str, dataset: str, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    own = (
        SMALL
        if method == "cvdd"
        else dict(labels="committee", **{k: SMALL[k] for k in ("networks", "squeeze")})
    )
    made = registry.get("methods", method)(**{**own, **settings})
    with pytest.raises(error, match=message):
        Untrained(replace(TRAIN, name=dataset), 3, 0).run_method(made)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(pair=("ResNet18BN", NAMES[0])), "pair is ResNet18BN, ConvNetD1W4BN; expected two different ones of"),
        (dict(pair=(NAMES[0], NAMES[0])), "pair is ConvNetD1W4BN, ConvNetD1W4BN; expected two different ones of"),
        (dict(pair=(NAMES[0],)), "pair is ConvNetD1W4BN; expected two different ones of"),
        (dict(prior_network="VGG11"), "prior_network: "),
    ],
)  # fmt: skip
def test_pairs_and_students_that_cannot_be_are_told_before_anything_is_trained(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        distill(task=Untrained(TRAIN, 1, 0), **settings)


@pytest.mark.parametrize("cut", [1, 3])
def test_priors_that_the_time_budget_cuts_short_are_equal_and_said_not_to_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """``cut`` steps are done: in the recovery of two, or after it and one student."""
    whole = distill(5)
    students: list[str] = []
    plain = Committee._student

    def student(self: Committee, member: Trained, *rest: Any) -> nn.Module:
        students.append(member.name)
        return plain(self, member, *rest)

    class Ends(TimeBudget):
        asked = 0

        def used_up(self) -> bool:
            self.asked += 1
            return self.asked > cut

    monkeypatch.setattr(Committee, "_student", student)
    place: dict[str, Any] = dict(run=RunFolder(tmp_path), key="cell")
    made = distill(task=RunTask(TRAIN, 3, 5, budget=Ends(None), **place))
    assert made.card.partial and students == list(NAMES[: cut - 2] if cut > 2 else [])
    assert made.card.notes["priors"] == "prior performance: not measured, the time budget ended; all equal"
    labeller = made.targets.labeller
    assert labeller is not None and len({ref.weight for ref in labeller.networks}) == 1
    again = distill(task=RunTask(TRAIN, 3, 5, **place))  # goes on to the very set
    assert sorted(students) == sorted(NAMES)  # none was trained twice
    assert torch.equal(again.tensors["images"], whole.tensors["images"]) and not again.card.partial
    assert again.card.notes["priors"] == whole.card.notes["priors"]


def test_authors_rows_have_the_settings_of_the_spec() -> None:
    cvdd = registry.get("methods", "cvdd")
    seen = 0
    for dataset in RELEASED:
        for ipc in (1, 10, 50):
            for recipe in ("authors", "released"):
                made = cvdd(**registry.resolve_recipe("cvdd", recipe, dataset, ipc).settings)
                assert (made.iterations, made.lr, made.bn_weight, made.crop) == (4000, 0.25, 0.01, True)
                assert (made.vote_temperature, made.label_temperature) == (5, 10)
                assert made.roll == ((0, 32) if dataset.startswith("imagenet") else (0, 4))
                assert made.classes_at_once == (10 if dataset in ("cifar10", "imagenette") else 100)
                public = dataset == "imagenet1k" or recipe == "released"
                assert (made.prior, made.held_out) == (("released", 0.0) if public else ("held-out", 0.1))
                seen += 1
    assert seen == 30


def test_a_killed_distillation_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    class Fragile(RunTask):
        """Dies in its third loop, at iteration 2: after the priors."""

        loops = 0

        def loop(self, total: int, state: Any = (), show: Any = None) -> Any:
            self.loops += 1
            for it in super().loop(total, state, show):
                if self.loops == 3 and it == 2:
                    raise Killed
                yield it

    whole = distill(5)
    place: dict[str, Any] = dict(run=RunFolder(tmp_path), key="cell", checkpoint_every_s=0.0)
    with pytest.raises(Killed):
        distill(task=Fragile(TRAIN, 3, 5, **place))
    made = distill(task=RunTask(TRAIN, 3, 5, **place))
    assert torch.equal(made.tensors["images"], whole.tensors["images"])
    assert made.card.notes["priors"] == whole.card.notes["priors"]
