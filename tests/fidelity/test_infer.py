"""INFER against the numbers and the text of its paper and code (arXiv:2408.06927)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import blobs
from torch import Tensor, nn

from ddbench import registry
from ddbench.augment.views import Views, mix_rows
from ddbench.budget import byte_count
from ddbench.codecs import items
from ddbench.contract import DistilledSet, ImageData, TeacherRecipe, Trained
from ddbench.matching.recovery import compensate, observed
from ddbench.methods.infer import INFER
from ddbench.nets.build import build
from ddbench.task import RunTask
from ddbench.train.squeeze import squeeze_name, squeeze_recipe

TRAIN = blobs("four", (3, 8, 8), 4, (12, 2)).train
NETWORKS = ("ConvNetD1W4BN", "ConvNetD2W4BN")
SMALL: dict[str, Any] = dict(networks=NETWORKS, squeeze="quick", iterations=3, roll=(0, 2))


def teacher(name: str, train: ImageData = TRAIN) -> Trained:
    """A network with some running statistics, as if it were trained."""
    rng = torch.Generator().manual_seed(len(name) + ord(name[8]))
    net = build(name, train.shape, train.classes, rng)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.copy_(0.3 * torch.randn(module.running_mean.shape, generator=rng))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=rng))
    net.eval().requires_grad_(False)
    return Trained(net, f"{ord(name[8]):016x}", 0.9, 1.0, name=name, space=train.space)


@dataclass
class Toy(RunTask):
    """A task with teachers that take no training."""

    asked: list[str] = field(default_factory=list)

    def teachers(self, recipe: TeacherRecipe) -> list[Trained]:
        self.asked.append(recipe.network)
        return [teacher(recipe.network, self.train)]


def distill(ipc: int = 3, seed: int = 0, train: ImageData = TRAIN, **settings: Any) -> DistilledSet:
    return Toy(train, ipc, seed).run_method(INFER(**{**SMALL, **settings}))


def inputs_of_naturals(made: DistilledSet) -> Tensor:
    """(J, K, C, H, W), network inputs."""
    j = made.codec.settings["per_class"]
    return TRAIN.space.real_to_input(made.tensors["naturals"]).view(j, -1, *TRAIN.shape)


TABLE = [
    # classes, networks, ipc, naturals a class, training images a class, images stored
    (10, 4, 10, 7, 35, 98),
    (10, 4, 50, 35, 175, 490),
    (100, 4, 10, 9, 45, 936),
    (100, 4, 50, 48, 240, 4992),
    (100, 4, 100, 96, 480, 9984),
    (200, 4, 10, 9, 45, 1836),
    (200, 4, 50, 49, 245, 9996),
    (1000, 3, 10, 9, 36, 9027),
    (1000, 3, 50, 49, 196, 49147),
]


class TestBudget:
    @pytest.mark.parametrize(("classes", "networks", "ipc", "naturals", "a_class", "stored"), TABLE)
    def test_every_row_of_the_table_is_exact(
        self, classes: int, networks: int, ipc: int, naturals: int, a_class: int, stored: int
    ) -> None:
        found = INFER(networks=tuple("ABCD"[:networks])).naturals(ipc, classes)
        assert found == naturals
        assert found * (networks + 1) == a_class
        assert found * (classes + networks) == stored <= ipc * classes

    @pytest.mark.parametrize(("classes", "networks", "ipc"), [row[:3] for row in TABLE])
    def test_in_bytes_a_compensator_counts_twice_and_the_set_stays_below(
        self, classes: int, networks: int, ipc: int
    ) -> None:
        found = INFER(networks=tuple("ABCD"[:networks]), budget="bytes").naturals(ipc, classes)
        assert found * (classes + 2 * networks) <= ipc * classes < (found + 1) * (classes + 2 * networks)

    def test_192_compensators_of_3072_values(self) -> None:
        assert 4 * INFER().naturals(50, 100) == 192

    @pytest.mark.parametrize("budget", ["images", "bytes"])
    def test_the_bytes_of_a_set_are_what_its_budget_says(self, budget: str) -> None:
        made = distill(ipc=4, budget=budget)
        images, allowed = byte_count(made).images, 4 * 4 * 3 * 8 * 8
        j, values = made.codec.settings["per_class"], 3 * 8 * 8
        assert images == (4 * j + 2 * 2 * j) * values
        assert made.tensors["compensators"].dtype == torch.float16
        assert made.tensors["naturals"].dtype == torch.uint8
        if budget == "bytes":
            assert j == 2 and images <= allowed and "bytes" not in made.card.notes
        else:
            assert j == 2 and images <= allowed

    def test_more_bytes_than_the_budget_are_noted(self) -> None:
        made = distill(ipc=3)
        assert byte_count(made).images == 16 * 192 > 12 * 192
        assert made.card.notes["bytes"] == (
            "compensators in fp16 take two bytes a value: the images take 3072 bytes, those of ipc 3 as uint8 2304 "
            "(budget=bytes stays below)"
        )

    @pytest.mark.parametrize(
        ("budget", "price", "counted", "least"), [("images", "an image", 2, 2), ("bytes", "two images", 4, 2)]
    )
    def test_no_natural_image_left_is_said_before_a_teacher_is_trained(
        self, budget: str, price: str, counted: int, least: int
    ) -> None:
        task = Toy(TRAIN, 1, 0)
        message = (
            rf"ipc 1 leaves INFER no image of 4 classes: .* floor\(ipc / \(1 \+ {counted} / 4\)\) .* count as {price} "
            rf"each; expected ipc {least} or more, or fewer networks"
        )
        with pytest.raises(ValueError, match=message):
            task.run_method(INFER(**SMALL, budget=budget))
        assert task.asked == []
        assert INFER(**SMALL, budget=budget).naturals(least, 4) == 1

    @pytest.mark.parametrize("classes", [10, 100])
    def test_one_image_a_class_leaves_none_on_ten_or_a_hundred_classes(self, classes: int) -> None:
        with pytest.raises(ValueError, match="expected ipc 2 or more"):
            INFER().naturals(1, classes)


class TestCompensators:
    def test_without_updates_the_items_are_the_naturals(self) -> None:
        made = distill(ipc=6, iterations=0)
        assert not made.tensors["compensators"].any()
        found = items(made, TRAIN)
        j = made.codec.settings["per_class"]
        naturals = inputs_of_naturals(made).flatten(0, 1)
        assert j == 4 and len(found) == 3 * j * 4
        for part in found.to_input(found.stored).split(j * 4):
            assert torch.allclose(part, naturals, atol=1e-6)

    def test_a_compensator_is_one_image_however_many_classes_there_are(self) -> None:
        for classes in (2, 5):
            train = blobs("some", (3, 8, 8), classes, (12, 2)).train
            made = distill(ipc=4, train=train)
            j = made.codec.settings["per_class"]
            assert tuple(made.tensors["compensators"].shape) == (2 * j, 3, 8, 8)
            assert tuple(made.tensors["naturals"].shape) == (classes * j, 3, 8, 8)

    def test_the_gradient_is_the_sum_over_the_classes(self) -> None:
        net = teacher("ConvNetD2W4BN").network.double()
        rng = torch.Generator().manual_seed(0)
        x = torch.randn(4, 3, 8, 8, generator=rng, dtype=torch.float64)
        labels, u = torch.arange(4), torch.zeros(1, 3, 8, 8, dtype=torch.float64)

        def loss(seen: Tensor) -> Tensor:
            logits, distance = observed(net, seen[None])
            return F.cross_entropy(logits[0], labels) + distance.sum()

        per_class, shared = x.clone().requires_grad_(), u.requires_grad_()
        (by_class,) = torch.autograd.grad(loss(per_class), per_class)
        (total,) = torch.autograd.grad(loss(x + shared), shared)
        assert total.numel() == 3 * 8 * 8
        assert torch.allclose(total[0], by_class.sum(0), atol=1e-12)

    def test_the_first_update_is_a_full_step_against_that_sum(self) -> None:
        made = distill(ipc=2, iterations=2, roll=(0, 0), networks=NETWORKS[1:])  # the second is left out
        x = inputs_of_naturals(made)[0].requires_grad_()
        logits, distance = observed(teacher(NETWORKS[1]).network, x[None])
        loss = F.cross_entropy(logits[0], torch.arange(4)) + distance.sum()
        gradient = torch.autograd.grad(loss, x)[0].sum(0)
        std = torch.tensor(TRAIN.std).view(3, 1, 1)
        expected = -0.25 * gradient / (gradient.abs() + 1e-8) * std
        assert torch.allclose(made.tensors["compensators"][0].float(), expected, rtol=2e-3, atol=1e-6)

    def test_the_loop_is_the_plain_one(self) -> None:
        """Every network and natural number by itself, with torch.roll, torch.optim.Adam and hooks."""
        n, ipc, seed = 6, 4, 3
        settings = INFER(**{**SMALL, "iterations": n, "bn_weight": 0.7})
        made = Toy(TRAIN, ipc, seed).run_method(settings)
        naturals = inputs_of_naturals(made)
        j = len(naturals)
        assert j == 2
        labels, chances = torch.arange(4), Toy(TRAIN, ipc, seed)
        found = compensate(
            Toy(TRAIN, ipc, seed),
            [teacher(name) for name in NETWORKS],
            made.tensors["naturals"].view(j, 4, *TRAIN.shape),
            settings.recovery(flip=False),
            TRAIN.space,
        )
        std = torch.tensor(TRAIN.std).view(3, 1, 1)
        assert torch.equal((found * std).half().flatten(0, 1), made.tensors["compensators"])
        for m, name in enumerate(NETWORKS):
            net = teacher(name).network
            norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
            assert len(norms) == m + 1
            for number in range(j):
                rng = chances.rng(f"compensate-{m * j + number}")
                u = torch.zeros(1, 3, 8, 8, requires_grad=True)
                adam = torch.optim.Adam([u], lr=0.25, betas=(0.5, 0.9), eps=1e-8)
                for it in range(n - 1):  # u is kept as it is before the last update
                    shifts = (torch.rand(43, dtype=torch.float64, generator=rng)[-2:] * 3).floor().int()
                    view = torch.roll(naturals[number] + u, shifts.tolist(), (2, 3))
                    given: list[Tensor] = []
                    handles = [
                        norm.register_forward_pre_hook(lambda _m, x, given=given: given.append(x[0]))
                        for norm in norms
                    ]
                    loss = F.cross_entropy(net(view), labels)
                    for i, (norm, x) in enumerate(zip(norms, given, strict=True)):
                        handles[i].remove()
                        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
                        far = (mean - norm.running_mean).norm() + (var - norm.running_var).norm()
                        loss = loss + 0.7 * (10 if i == 0 else 1) * far
                    adam.zero_grad()
                    loss.backward()
                    adam.param_groups[0]["lr"] = 0.5 * (1 + math.cos(math.pi * it / n)) * 0.25
                    adam.step()
                assert torch.allclose(found[m, number], u.detach()[0], rtol=0, atol=1e-5), (name, number)

    def test_merged_images_differ_between_classes_as_the_naturals_do(self) -> None:
        grey = ImageData(  # away from black and white, where sums are clamped
            "grey", "train", TRAIN.images // 16 + 120, TRAIN.labels, 4, TRAIN.mean, TRAIN.std
        )
        made = distill(ipc=3, train=grey, lr=0.01)
        found = items(made, grey)
        unit = grey.space.input_to_unit(found.to_input(found.stored)).view(3, -1, 4, 3, 8, 8)
        assert unit.shape[1] == made.codec.settings["per_class"] == 2
        for merged in unit[1:]:
            assert not torch.allclose(merged, unit[0], atol=1e-4)
            assert torch.allclose(merged[:, 0] - merged[:, 1], unit[0][:, 0] - unit[0][:, 1], atol=1e-6)

    def test_runs_of_compensators_belong_to_the_networks_in_their_order(self) -> None:
        both = distill(ipc=3, roll=(0, 0)).tensors
        swapped = distill(ipc=3, roll=(0, 0), networks=NETWORKS[::-1]).tensors
        assert torch.equal(both["naturals"], swapped["naturals"])
        for one, two in zip(
            both["compensators"].split(2), swapped["compensators"].split(2)[::-1], strict=True
        ):
            assert torch.allclose(one.float(), two.float(), atol=1e-4)
        assert not torch.allclose(
            both["compensators"][:2].float(), both["compensators"][2:].float(), atol=1e-2
        )

    def test_naturals_are_random_images_of_their_class_untouched(self) -> None:
        made = distill(ipc=6)
        naturals, ids = made.tensors["naturals"], made.targets.ids
        assert ids is not None and ids.tolist() == [0, 1, 2, 3] * 4
        real = {image.numpy().tobytes(): int(c) for image, c in zip(TRAIN.images, TRAIN.labels, strict=True)}
        assert [real[image.numpy().tobytes()] for image in naturals] == ids.tolist()
        assert len({image.numpy().tobytes() for image in naturals}) == 16
        assert not torch.equal(naturals, distill(ipc=6, seed=1).tensors["naturals"])


class TestLabels:
    def test_the_networks_label_together_and_count_alike(self) -> None:
        made = distill()
        labeller = made.targets.labeller
        assert labeller is not None and made.targets.soft is None
        assert [ref.architecture for ref in labeller.networks] == list(NETWORKS)
        assert [ref.weight for ref in labeller.networks] == [1.0, 1.0]
        assert labeller.space.same_inputs(TRAIN.space) and made.space is not None
        assert made.space.stored == "unit" and made.space.same_inputs(TRAIN.space)

    def test_static_logits_are_mixed_as_in_the_spec(self) -> None:
        logits = torch.tensor([[2.0, 0], [0, 4]])
        views = Views(None, torch.zeros(2, dtype=torch.bool), "mixup", torch.tensor([1, 0]), 0.3)
        mixed = mix_rows(logits, views, (8, 8))
        assert torch.allclose(mixed, torch.tensor([[0.6, 2.8], [1.4, 1.2]]))
        expected = torch.tensor([[0.4817, 0.5183], [0.5017, 0.4983]])
        assert torch.allclose((mixed / 30).softmax(1), expected, atol=5e-5)


class TestBadInput:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"networks": ()}, "networks is empty; expected at least one"),
            ({"budget": "pixels"}, "budget is 'pixels'; expected images or bytes"),
            ({"iterations": -1}, "iterations is -1; expected at least 0"),
            ({"roll": (4, 0)}, r"roll is \(4, 0\); expected the least and the greatest shift"),
        ],
    )
    def test_settings_out_of_range_are_named(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            INFER(**{**SMALL, **settings})

    def test_a_network_without_batch_norm_is_refused_before_a_teacher_is_trained(self) -> None:
        task = Toy(TRAIN, 3, 0)
        with pytest.raises(ValueError, match="ConvNetD1W4 has no batch norm"):
            task.run_method(INFER(**{**SMALL, "networks": ("ConvNetD1W4BN", "ConvNetD1W4")}))
        assert task.asked == []

    def test_teachers_of_different_normalisation_are_refused(self) -> None:
        @dataclass
        class Mixed(Toy):
            def teachers(self, recipe: TeacherRecipe) -> list[Trained]:
                found = teacher(recipe.network)
                if recipe.network == NETWORKS[0]:
                    return [found]
                other = blobs("other", TRAIN.shape, 4, (4, 2), seed=9).train
                return [teacher(recipe.network, other)]

        with pytest.raises(ValueError, match="see inputs of different normalisation"):
            Mixed(TRAIN, 3, 0).run_method(INFER(**SMALL))


class TestRecipes:
    def test_rows_are_the_authors(self) -> None:
        for dataset in ("cifar10", "cifar100"):
            row = registry.resolve_recipe("infer", "authors", dataset, 10).settings
            assert row["networks"] == ("ResNet18BN", "MobileNetV2", "EfficientNetB0", "ShuffleNetG2")
            assert (row["iterations"], row["lr"], row["bn_weight"]) == (1000, 0.25, 1.0)
            assert (row["crop"], row["flip"], row["roll"]) == (False, False, (0, 4))
        row = registry.resolve_recipe("infer", "authors", "imagenet1k", 10).settings
        assert len(row["networks"]) == 3
        assert (row["iterations"], row["lr"], row["bn_weight"]) == (2000, 0.25, 0.01)
        assert (row["crop"], row["flip"], row["roll"]) == (True, True, (0, 32))

    def test_every_row_has_networks_that_its_squeeze_recipe_knows(self) -> None:
        rows = registry.recipes("infer")
        assert len(rows) >= 6
        for name, dataset, _ in rows:
            assert dataset is not None
            made = registry.make("infer", registry.resolve_recipe("infer", name, dataset, 10).settings)
            recipes = [
                squeeze_recipe(squeeze_name(made.squeeze, "infer", dataset), network, dataset)
                for network in made.networks
            ]
            assert len({(r.mean, r.std) for r in recipes}) == 1
