"""The protocols of teacher labels against their authors' code as known.

Sources: SRe2L (arXiv:2306.13092), CDA (2311.18838), RDED (2312.03526), CV-DD (2501.07575), INFER (2408.06927), G-VBSM
(2311.17950) and "Rethinking" (2502.06434), with their released code.  The loops below are written from the descriptions: they
share initial weights and random numbers with the engine, nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import blobs

from ddbench import protocols, registry
from ddbench.augment.views import Views, batches, cutmix_box, draw_views
from ddbench.budget import byte_count
from ddbench.contract import Card, CodecSpec, DistilledSet, Labeller, NetworkRef, RealData, Space, Targets
from ddbench.nets.build import build
from ddbench.protocols import train
from ddbench.protocols.rows import ROWS, Case
from ddbench.protocols.train import RowProtocol, case_of
from ddbench.seeding import Generators, derive
from ddbench.train import squeeze
from ddbench.train.engine import EngineOptions, enlarged, optimiser, train_students
from ddbench.train.labels import answer, logit_bytes
from ddbench.train.students import losses
from ddbench.trainplan import TrainPlan, ViewPlan

KD = (
    "sre2l-kd", "cda-kd", "rded", "cvdd-bssl", "infer-static", "infer-dyn", "g-vbsm", "rethink-hard", "rethink-soft",
)  # fmt: skip
DATA = {  # data set: classes, side
    "cifar10": (10, 32), "cifar100": (100, 32), "tiny_imagenet": (200, 64), "imagenette": (10, 128),
    "imagenet1k": (1000, 224), "mnist": (10, 28), "digits": (10, 8),
}  # fmt: skip


def plan_of(
    name: str,
    dataset: str = "imagenet1k",
    ipc: float = 10,
    network: str = "ResNet18BN",
    factor: int = 1,
    teacher: str = "",
):
    classes, side = DATA[dataset]
    return ROWS[name].plan_for(Case(dataset, network, ipc, classes, side, factor, teacher))


# ------------------------------------------------------------------------------------------------ losses


class TestLosses:
    """specs of the KD protocols, section 6, checks 1, 2 and 7; of arXiv:2502.06434, section 7."""

    s = torch.tensor([[1.0, 2, 3], [0, 0, 0]], dtype=torch.float64)
    t = torch.tensor([[3, 1, 0], [2, -2, 0.5]], dtype=torch.float64)
    y = torch.tensor([0, 2])

    def of(self, plan: TrainPlan, **more) -> float:
        return float(losses(plan.changed(**more), self.s, self.y, self.t, "logits"))

    def test_kl_without_temperature_squared_at_the_temperatures_of_the_rows(self) -> None:
        for name in ("sre2l-kd", "cda-kd", "rded", "cvdd-bssl", "rethink-soft"):
            assert self.of(plan_of(name)) == pytest.approx(0.004331, abs=1e-6), name
        for name in ("sre2l-kd", "infer-static", "infer-dyn"):
            assert self.of(plan_of(name, "cifar100")) == pytest.approx(0.001927, abs=1e-6), name
        assert self.of(plan_of("rded"), temperature=1.0) == pytest.approx(1.119422, abs=1e-6)

    def test_kl_with_temperature_squared_is_for_the_form_of_64_pixels_alone(self) -> None:
        for name in ("sre2l-kd", "cda-kd"):
            squared = plan_of(name, "tiny_imagenet")
            for temperature, exact, of_spec in ((20.0, 1.7326234, 1.732594), (30.0, 1.7344015, 1.734397)):
                got = self.of(squared, temperature=temperature)
                assert got == pytest.approx(exact, abs=1e-7)
                assert got == pytest.approx(of_spec, abs=4e-5), "400 and 900 times a rounding of float32"
        found = {(n, d) for n in KD for d in DATA if plan_of(n, d).temperature_squared}
        assert found == {("sre2l-kd", "tiny_imagenet"), ("cda-kd", "tiny_imagenet")}

    def test_squared_distance_and_a_little_cross_entropy(self) -> None:
        plan = plan_of("g-vbsm")
        assert self.of(plan, hard_weight=0.0) == pytest.approx(3.708333, abs=1e-6)
        assert self.of(plan, hard_weight=0.025) == pytest.approx(3.752161, abs=1e-6)
        assert F.cross_entropy(self.s, self.y).item() == pytest.approx(1.753109, abs=1e-6)
        assert plan.hard_weight == plan_of("g-vbsm", "tiny_imagenet").hard_weight == 0.1
        assert plan_of("g-vbsm", "cifar10").hard_weight == plan_of("g-vbsm", "cifar100").hard_weight == 0.15

    def test_rethink_losses_have_the_values_of_the_paper(self) -> None:
        s = torch.tensor([[2.0, 1, 0], [0, 1, 3]], dtype=torch.float64)
        t = torch.tensor([[4.0, 0, 0], [1, 2, 2]], dtype=torch.float64)
        soft = plan_of("rethink-soft")
        for temperature, want in ((20.0, 0.00157722), (3.0, 0.07236844), (1.0, 0.37325059)):
            got = losses(soft.changed(temperature=temperature), s, None, t, "logits").item()
            assert got == pytest.approx(want, abs=1e-8)
        assert losses(soft, s, None, s, "logits").item() == 0
        hard = losses(plan_of("rethink-hard"), s, torch.tensor([0, 2])).item()
        assert hard == pytest.approx(0.288726, abs=1e-6)

    @pytest.mark.parametrize("mode", ["eval", "train", "train-halves"])
    def test_a_student_equal_to_its_teacher_in_the_same_mode_has_no_loss(self, mode: str) -> None:
        space = Space("input", (0.5,) * 3, (0.5,) * 3)
        net = build("ConvNetD1W8BN", (3, 8, 8), 3, torch.Generator().manual_seed(1)).double().eval()
        x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        labeller = Labeller((NetworkRef("ConvNetD1W8BN", "cache", "k"),), space, mode)
        told = answer(labeller, [net], x)
        with torch.no_grad():
            own = net(x) if mode == "eval" else None
            if own is None:
                net.train()
                own = net(x) if mode == "train" else torch.cat([net(x[:3]), net(x[3:])])
        assert losses(plan_of("rded"), own, None, told, "logits").abs().item() < 1e-15


def test_the_three_modes_of_batch_norm_are_those_of_the_spec() -> None:
    """specs of the KD protocols, section 6, check 6."""
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(1), torch.nn.Flatten()).double().eval()
    x = torch.tensor([0.0, 2, 4, 6], dtype=torch.float64).view(4, 1, 1, 1)
    space = Space("input", (0.5,), (0.5,))
    want = {
        "train": [-1.34164, -0.447213, 0.447213, 1.34164],
        "train-halves": [-0.999995, 0.999995, -0.999995, 0.999995],
        "eval": [0, 1.99999, 3.99998, 5.99997],
    }
    for mode, values in want.items():
        got = answer(Labeller((NetworkRef("x", "cache", "k"),), space, mode), [net], x)
        assert got.flatten().tolist() == pytest.approx(values, abs=1e-5)
    modes = {name: plan_of(name, "cifar100").labels.batch_norm for name in KD if name != "rethink-hard"}
    assert {n for n, mode in modes.items() if mode == "train"} == {"sre2l-kd", "cda-kd"}
    assert {n for n, mode in modes.items() if mode == "train-halves"} == {"cvdd-bssl"}
    large = {name: plan_of(name).labels.batch_norm for name in modes}
    assert {n for n, mode in large.items() if mode != "eval"} == {"cvdd-bssl"}


# ------------------------------------------------------------------------------------------------ rates, boxes, bytes


def test_cosine_factors_are_those_of_the_spec() -> None:
    """specs of the KD protocols, section 6, check 4; of arXiv:2502.06434, section 7; of RDED, check 6."""
    one, two = plan_of("sre2l-kd"), plan_of("rded")
    for plan, factors in (
        (one, (1, 0.853553, 0.5, 0.146447, 0.000027)),
        (two, (1, 0.961940, 0.853553, 0.691342, 0.502618)),
    ):
        got = [plan.lr_at(e) / 1e-3 for e in (0, 75, 150, 225, 299)]
        assert got == pytest.approx(factors, abs=1e-6)
    for name in ("rethink-soft", "rethink-hard"):
        got = [plan_of(name).lr_at(e) for e in (0, 150, 299)]
        assert got[:2] == pytest.approx([1e-3, 5e-4], rel=1e-12) and got[2] == pytest.approx(
            2.74e-8, rel=1e-3
        )


def test_the_schedule_of_64_pixels_warms_up_for_five_epochs() -> None:
    """specs of the KD protocols, section 6, check 5."""
    plan = plan_of("sre2l-kd", "tiny_imagenet")
    got = [plan.lr_at(e) for e in (0, 1, 2, 3, 4, 5, 6, 99)]
    want = [0.002, 0.0416, 0.0812, 0.1208, 0.1604, 0.2, 0.199945, 0.000055]
    assert got == pytest.approx(want, abs=5e-7)


def test_cutmix_boxes_are_those_of_the_spec() -> None:
    """specs of the KD protocols, section 6, check 3."""
    assert cutmix_box(32, 32, 0.75, 5, 20) == (0, 12, 13, 28)
    assert cutmix_box(224, 224, 0.36, 112, 10) == (23, 0, 201, 99)


def test_bytes_of_stored_labels_are_those_of_the_spec() -> None:
    """specs of the KD protocols, section 6, check 8, and the tables of sections 3 and 4 of INFER."""
    assert logit_bytes(50_000, 1000, 300) == 30_000_000_000
    epochs = {
        d: plan_of("cvdd-bssl", d, 50).epochs for d in ("cifar10", "cifar100", "tiny_imagenet", "imagenet1k")
    }
    assert set(epochs.values()) == {300}
    assert logit_bytes(500, 10, 300) == 3_000_000 and logit_bytes(10_000, 200, 300) == 1_200_000_000
    assert logit_bytes(24_000, 100) == 4_800_000 and logit_bytes(196_000, 1000) == 392_000_000


# ------------------------------------------------------------------------------------------------ the table


TABLE = {
    # row, data set              epochs batch parts optimiser lr decay  on          T   crop       mix      store  eta
    ("sre2l-kd", "imagenet1k"):    (300, 1024, 2, "adamw", 1e-3, 0.01, "matrices", 20, "resized", "cutmix", True, 1),
    ("sre2l-kd", "tiny_imagenet"): (100, 256, 1, "sgd", 0.2, 1e-4, "all", 20, "resized", "none", False, 1),
    ("sre2l-kd", "cifar100"):      (400, 128, 1, "adamw", 1e-3, 0.01, "all", 30, "pad", "mixup", False, 1),
    ("cda-kd", "imagenet1k"):      (300, 128, 1, "adamw", 1e-3, 0.01, "matrices", 20, "resized", "cutmix", True, 1),
    ("cda-kd", "cifar100"):        (800, 128, 1, "adamw", 1e-3, 0.01, "all", 30, "pad", "mixup", False, 1),
    ("rded", "imagenet1k"):        (300, 100, 1, "adamw", 1e-3, 0.01, "matrices", 20, "resized", "cutmix", False, 2),
    ("cvdd-bssl", "cifar10"):      (300, 16, 2, "adamw", 1e-3, 0.01, "matrices", 20, "resized", "cutmix", True, 1),
    ("infer-static", "cifar100"):  (400, 64, 1, "adamw", 1e-3, 0.01, "all", 30, "pad", "mixup", True, 1),
    ("infer-dyn", "cifar100"):     (80, 64, 1, "adamw", 1e-3, 0.01, "all", 30, "pad", "mixup", False, 1),
    ("infer-dyn", "imagenet1k"):   (75, 128, 1, "adamw", 1e-3, 0.01, "all", 20, "resized", "cutmix", False, 1),
    ("g-vbsm", "cifar10"):         (1000, 100, 1, "adamw", 1e-3, 0.0, "matrices", None, "resized", "cutmix", True, 1),
    ("g-vbsm", "cifar100"):        (1000, 64, 1, "sgd", 0.1, 5e-4, "matrices", None, "resized", "cutmix", True, 1),
    ("g-vbsm", "tiny_imagenet"):   (100, 100, 1, "sgd", 0.1, 5e-4, "matrices", None, "resized", "cutmix", True, 1),
    ("g-vbsm", "imagenet1k"):      (300, 1024, 1, "adamw", 1e-3, 0.01, "matrices", None, "resized", "cutmix", True, 1),
    ("rethink-soft", "imagenet1k"): (300, 128, 1, "adamw", 1e-3, 0.01, "matrices", 20, "resized", "cutmix", False, 1),
    ("rethink-hard", "imagenet1k"): (300, 128, 1, "adamw", 1e-3, 0.01, "matrices", None, "resized", "none", None, 1),
}  # fmt: skip


@pytest.mark.parametrize(("name", "dataset"), TABLE)
def test_settings_of_a_form_are_those_of_the_table(name: str, dataset: str) -> None:
    epochs, batch, parts, kind, lr, decay, on, temperature, crop, mix, store, eta = TABLE[name, dataset]
    plan = plan_of(name, dataset)
    views = plan.views
    assert (plan.epochs, plan.batch, plan.micro_batches, plan.optimiser) == (epochs, batch, parts, kind)
    assert (plan.lr, plan.weight_decay, plan.decay_on, plan.eta, plan.schedule) == (
        lr,
        decay,
        on,
        eta,
        "cosine",
    )
    assert (views.epochs, views.batch, views.crop, views.mix, views.flip) == (epochs, batch, crop, mix, 0.5)
    assert (plan.labels and plan.labels.store) == store and plan.hard is (store is None)
    assert plan.loss == ("ce" if plan.hard else "kl" if temperature else "mse-gt")
    if temperature:
        assert plan.temperature == temperature
    if mix == "mixup":
        assert views.mix_alpha == 0.8 and views.crop_pad == 4
    if mix == "cutmix":
        assert views.mix_alpha == 1
    if crop == "resized" and name != "rded":
        assert views.crop_scale == (0.08, 1.0) and views.crop_ratio == pytest.approx((3 / 4, 4 / 3))
    if kind == "sgd":
        assert (plan.momentum, plan.nesterov) == (0.9, False)
    assert plan.repeats == 3 and plan.networks == ("ResNet18BN",) and ROWS[name].comparable


def test_the_rows_of_teacher_labels_are_all_here() -> None:
    assert {name for name, row in ROWS.items() if row.comparable and row.plan.views is not None} == set(KD)
    assert {name for name, _ in TABLE} == set(KD)


def test_teachers_answer_as_each_paper_has_them() -> None:
    assert plan_of("infer-static", "cifar10").labels.sees == "clean"
    assert all(
        plan_of(n, "cifar10").labels.sees == "augmented"
        for n in KD
        if n not in ("infer-static", "rethink-hard")
    )
    assert {d: plan_of("g-vbsm", d).labels.combine for d in ("cifar10", "tiny_imagenet", "imagenet1k")} == {
        "cifar10": "mean", "tiny_imagenet": "mean", "imagenet1k": "norm-mean",
    }  # fmt: skip
    assert [n for n in KD if n != "rethink-hard" and plan_of(n).labels.always] == ["rethink-soft"]


def test_every_form_names_teachers_whose_recipe_there_is() -> None:
    seen = 0
    for name in KD:
        for dataset in registry.names("datasets"):
            facts = registry.facts("datasets", dataset).keywords
            plan = ROWS[name].plan_for(Case(dataset, "ResNet18BN", 10, facts["classes"], facts["shape"][-1]))
            for network in plan.labels.networks if plan.labels else ():
                recipe = squeeze.squeeze_recipe(plan.labels.squeeze, network, dataset)
                assert bool(recipe.weights) is (dataset == "imagenet1k")
                seen += 1
    assert seen > 200


def test_adamw_decays_the_matrices_of_resnet18_alone() -> None:
    """specs of the KD protocols, section 1: 21 tensors of 11,678,912 values, 41 of 10,600."""
    net = build("torchvision:resnet18", (3, 64, 64), 1000, torch.Generator().manual_seed(0))
    groups = optimiser(plan_of("sre2l-kd"), list(net.named_parameters()), 1e-3).param_groups
    assert [len(g["params"]) for g in groups] == [21, 41]
    assert [sum(p.numel() for p in g["params"]) for g in groups] == [11_678_912, 10_600]
    assert [(g["weight_decay"], g["betas"], g["eps"]) for g in groups] == [
        (0.01, (0.9, 0.999), 1e-8),
        (0.0, (0.9, 0.999), 1e-8),
    ]


def test_the_teacher_of_imagenet_has_the_parameters_of_the_spec() -> None:
    """specs of the KD protocols, section 3: what an online protocol needs beside the set."""
    net = build("torchvision:resnet18", (3, 224, 224), 1000, torch.Generator().manual_seed(0))
    assert sum(p.numel() for p in net.parameters()) == 11_689_512


class TestRded:
    @pytest.mark.parametrize(
        ("dataset", "batches_"),
        [
            ("cifar10", (10, 50, 100)), ("imagenette", (10, 50, 100)), ("cifar100", (20, 100, 200)),
            ("imagenet1k", (20, 100, 200)), ("tiny_imagenet", (100, 100, 100)),
        ],
    )  # fmt: skip
    def test_batches_by_images_a_class(self, dataset: str, batches_: tuple[int, ...]) -> None:
        assert tuple(plan_of("rded", dataset, ipc).batch for ipc in (1, 10, 50)) == batches_

    def test_rates_by_network(self) -> None:
        want = {
            "ResNet18BN": 1e-3, "ConvNetBN": 1e-3, "ConvNetD4BN": 1e-3, "torchvision:resnet101": 1e-3,
            "EfficientNetB0": 2e-3, "torchvision:efficientnet_b0": 2e-3, "MobileNetV2": 2.5e-3,
            "torchvision:mobilenet_v2": 2.5e-3, "VGG11BN": 5e-4, "torchvision:vgg11": 5e-4, "AlexNet": 1e-4,
            "torchvision:vit_b_16": 1e-4, "torchvision:swin_v2_t": 1e-4,
        }  # fmt: skip
        assert {network: plan_of("rded", "cifar10", 10, network).lr for network in want} == want

    def test_the_exception_of_cifar100_is_for_a_convnet_under_a_convnet(self) -> None:
        def of(network: str, teacher: str) -> tuple[float, int]:
            plan = plan_of("rded", "cifar100", 10, network, teacher=teacher)
            return plan.lr, plan.batch

        assert of("ConvNetBN", "ConvNetBN") == (2e-3, 25)
        assert (
            of("ConvNetBN", "ResNet18BN")
            == of("ResNet18BN", "ConvNetBN")
            == of("ConvNetBN", "")
            == (1e-3, 100)
        )

    def test_the_observer_of_a_set_decides_its_form(self) -> None:
        images = {"images": torch.zeros(4, 3, 32, 32, dtype=torch.uint8)}
        space, card = Space("uint8", (0.5,) * 3, (0.5,) * 3), Card(dataset="cifar100", ipc=10)

        def of(name: str, *networks: str) -> float:
            refs = tuple(NetworkRef(n, "cache", "k") for n in networks)
            labeller = Labeller(refs, space) if networks else None
            made = DistilledSet(images, Targets(ids=torch.arange(4), labeller=labeller), space, card=card)
            return protocols.get(name).plan_for(made, "ConvNetBN").lr

        assert of("rded", "ConvNetBN") == 2e-3
        assert of("rded", "ResNet18BN") == of("rded") == of("rded", "ConvNetBN", "ConvNetBN") == 1e-3

    def test_crops_by_the_mosaic(self) -> None:
        got = {f: plan_of("rded", "imagenet1k", 10, factor=f).views.crop_scale[0] for f in (1, 2, 3, 4)}
        assert got == pytest.approx({1: 1, 2: 1 / 2, 3: 1 / 3, 4: 1 / 4})
        whole = DistilledSet(
            {"images": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)},
            Targets(ids=torch.arange(4)),
            Space("uint8", (0.5,) * 3, (0.5,) * 3),
            CodecSpec("grid", {"factor": 2, "kind": "whole", "visit": "patch-shuffle"}),
            card=Card(dataset="cifar10", ipc=1),
        )
        assert case_of(whole, "N") == Case("cifar10", "N", 1, 10, 32, 2)
        tiles = whole.changed(codec=CodecSpec("grid", {"factor": 2, "kind": "single"}))
        assert case_of(tiles).factor == 1

    @pytest.mark.parametrize("side", [32, 64])
    def test_crops_of_the_whole_area_are_the_whole_image(self, side: int) -> None:
        """specs of RDED, section 6, check 5."""
        views = plan_of("rded", "cifar10").views
        drawn = draw_views(replace(views, epochs=1), 0, 0, torch.arange(3000), (3, side, side))
        assert torch.equal(drawn.boxes, torch.tensor([0, 0, side, side]).expand(3000, 4))

    def test_tests_are_in_the_last_fifth_and_at_the_end(self) -> None:
        plan = plan_of("rded")
        assert [e for e in range(300) if plan.tested_after(e)] == [249, 259, 269, 279, 289]

    def test_test_images_are_enlarged_and_cut(self) -> None:
        from torchvision.transforms import v2

        for name in KD:  # specs of the KD protocols, section 2, of "Rethinking", section 2
            resized = {d for d in DATA if plan_of(name, d).test_resize}
            assert resized == (set(DATA) if name == "rded" else {"imagenette", "imagenet1k"}), name
        g = torch.Generator().manual_seed(0)
        for side, grown in ((32, 32), (64, 72), (128, 144), (224, 256)):
            x = torch.randint(0, 256, (2, 3, side, side), generator=g, dtype=torch.uint8)
            want = v2.CenterCrop(side)(v2.Resize(grown, antialias=True)(x.float()))
            assert torch.allclose(enlarged(x).float(), want, rtol=0, atol=1e-3)
        assert torch.equal(enlarged(x[..., :32, :32]), x[..., :32, :32])


CVDD = {
    # data set, ipc:      R18            R50            R101
    ("cifar10", 1):      ((1e-3, 1), (1e-3, 1), (5e-4, 1)),
    ("cifar10", 10):     ((1e-3, 1), (1e-3, 1), (5e-4, 1)),
    ("cifar10", 50):     ((1e-3, 1), (1e-3, 1), (5e-4, 1)),
    ("cifar100", 1):     ((1e-3, 1), (1e-3, 1), (5e-4, 1)),
    ("cifar100", 10):    ((1e-3, 2), (1e-3, 2), (5e-4, 1)),
    ("cifar100", 50):    ((1e-3, 1), (1e-3, 1), (5e-4, 1)),
    ("tiny_imagenet", 1):  ((1e-3, 2), (1e-3, 1), (5e-4, 2)),
    ("tiny_imagenet", 10): ((1e-3, 1), (1e-3, 1), (5e-4, 2)),
    ("tiny_imagenet", 50): ((1e-3, 2), (1e-3, 1), (5e-4, 2)),
    ("imagenette", 1):   ((5e-4, 2), (5e-4, 2), (5e-4, 2)),
    ("imagenette", 10):  ((5e-4, 1), (1e-3, 1), (5e-4, 2)),
    ("imagenette", 50):  ((5e-4, 2), (5e-4, 1), (1e-3, 2)),
    ("imagenet1k", 1):   ((1e-3, 2), (1e-3, 2), (1e-3, 2)),
    ("imagenet1k", 10):  ((1e-3, 2), (1e-3, 2), (1e-3, 2)),
    ("imagenet1k", 50):  ((1e-3, 1), (1e-3, 1), (5e-4, 2)),
}  # fmt: skip


@pytest.mark.parametrize(("dataset", "ipc"), CVDD)
def test_cvdds_rates_and_stretches_are_those_of_its_table(dataset: str, ipc: int) -> None:
    networks = ("ResNet18BN", "ResNet50BN", "ResNet101BN")
    if DATA[dataset][1] > 64:
        networks = tuple(f"torchvision:resnet{n}" for n in (18, 50, 101))
    plans = [plan_of("cvdd-bssl", dataset, ipc, network) for network in networks]
    assert tuple((p.lr, p.eta) for p in plans) == CVDD[dataset, ipc]
    small = dataset == "imagenette" or (dataset, ipc) == ("cifar10", 1)
    assert {(p.batch, p.part) for p in plans} == {(10, 5) if small else (16, 8)}


def test_rethink_is_tested_seven_times_and_crops_less_of_small_images() -> None:
    for name in ("rethink-soft", "rethink-hard"):
        plan = plan_of(name)
        assert [e for e in range(300) if plan.tested_after(e)] == [0, 50, 100, 150, 200, 250], (
            "and at the end"
        )
        scales = {d: plan_of(name, d).views.crop_scale[0] for d in DATA}
        assert {d for d, low in scales.items() if low == 0.25} == {
            "cifar10",
            "cifar100",
            "tiny_imagenet",
            "mnist",
            "digits",
        }
        assert set(scales.values()) == {0.25, 0.08}


def test_data_sets_without_a_form_of_the_authors_take_that_of_their_size() -> None:
    for name in KD:
        small = plan_of(name, "mnist", 10)
        like = plan_of(name, "cifar10", 10)
        labels = like.labels and replace(like.labels, squeeze="quick")
        assert small.changed(labels=labels) == like.changed(labels=labels), name
    assert plan_of("sre2l-kd", "digits").views.crop_pad == 1, "4 pixels would push half of the image out"


# ------------------------------------------------------------------------------------------------ the loops


@pytest.fixture(scope="module")
def real() -> RealData:
    return blobs("kd", (3, 8, 8), 3, (20, 40))


NETS = ("ConvNetD2W8BN", "ConvNetD1W8BN")
STUDENT = "ConvNetD2W8BN"


def teachers(classes: int = 3) -> list[torch.nn.Module]:
    """Two networks with running statistics of their own, in double precision."""
    found = []
    for i, name in enumerate(NETS):
        rng = torch.Generator().manual_seed(40 + i)
        net = build(name, (3, 8, 8), classes, rng)
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(2)
            net.train()
            for _ in range(5):
                net(torch.randn(32, 3, 8, 8, generator=rng) * 1.5 + 0.2)
        found.append(net.double().eval())
    return found


def labelled_set(real: RealData, n: int = 21, weights: Sequence[float] = (0.7, 0.3), **card) -> DistilledSet:
    """n real images whose labellers' weights travel in the set."""
    nets = teachers()
    train_ = real.train
    tensors = {"images": train_.images[:n]}
    for i, net in enumerate(nets):
        tensors |= {
            f"t{i}.{k}": v.float() if v.is_floating_point() else v for k, v in net.state_dict().items()
        }
    refs = tuple(NetworkRef(NETS[i], "inline", f"t{i}.", weight=weights[i]) for i in range(2))
    space = Space("uint8", train_.mean, train_.std)
    return DistilledSet(
        tensors,
        Targets(ids=train_.labels[:n], labeller=Labeller(refs, space)),
        space,
        card=Card(dataset="kd", ipc=7, classes=3, shape=train_.shape, **card),
    )


def seen(x: torch.Tensor, views: Views) -> torch.Tensor:
    """Crop, flip and mix by hand, one image after the other."""
    out = []
    for i, image in enumerate(x):
        if views.boxes is not None:
            top, left, h, w = views.boxes[i].tolist()
            cut = image[:, top : top + h, left : left + w]
            image = F.interpolate(cut[None], size=x.shape[2:], mode="bilinear", align_corners=False)[0]
        out.append(image.flip(2) if views.flips[i] else image)
    stacked = torch.stack(out)
    if views.mix == "mixup":
        return views.lam * stacked + (1 - views.lam) * stacked[views.perm]
    if views.mix == "cutmix":
        x1, y1, x2, y2 = views.cut
        mixed = stacked.clone()
        mixed[:, :, y1:y2, x1:x2] = stacked[views.perm][:, :, y1:y2, x1:x2]
        return mixed
    return stacked


def described(
    x: torch.Tensor,
    views: ViewPlan,
    told: Callable[[torch.Tensor, torch.Tensor, Views], torch.Tensor],
    seed: int,
    *,
    part: int,
    parts: int,
    eta: float,
    temperature: float,
    grouped: bool,
) -> tuple[torch.nn.Module, list[float]]:
    """A student as the papers describe it: AdamW, a cosine by epochs, batchmean KL, micro-batches after the mix."""
    net = build(STUDENT, (3, 8, 8), 3, Generators(seed)("weights")).double().train()
    matrices = [p for n, p in net.named_parameters() if "weight" in n and p.dim() > 1]
    rest = [p for n, p in net.named_parameters() if not ("weight" in n and p.dim() > 1)]
    groups = [
        {"params": matrices, "weight_decay": 0.01},
        {"params": rest, "weight_decay": 0.0 if grouped else 0.01},
    ]
    adam = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    history = []
    for epoch in range(views.epochs):
        for group in adam.param_groups:
            group["lr"] = 0.5 * (1 + math.cos(math.pi * epoch / (views.epochs * eta))) * 1e-3
        for number, rows in enumerate(batches(views, len(x), epoch)):
            drawn = draw_views(views, epoch, number, rows, (3, 8, 8))
            mixed = seen(x[rows], drawn)
            target = told(mixed, rows, drawn)
            adam.zero_grad()
            total = 0.0
            for xs, ts in zip(mixed.split(part), target.split(part), strict=True):
                loss = F.kl_div(
                    F.log_softmax(net(xs) / temperature, 1),
                    F.softmax(ts / temperature, 1),
                    reduction="batchmean",
                )
                (loss / parts).backward()
                total += loss.item() / parts
            adam.step()
            history.append(total)
    return net.eval(), history


def watched(monkeypatch: pytest.MonkeyPatch) -> list:
    trained: list = []
    monkeypatch.setattr(
        train, "train_students", lambda *a, **k: trained.append(train_students(*a, **k)) or trained[-1]
    )
    return trained


def short(name: str, dataset: str, ipc: float, **changes) -> RowProtocol:
    """A row in the form of a data set, with fewer epochs and smaller batches, and without tests on the way."""
    plan = plan_of(name, dataset, ipc).changed(test_every=0, test_first=0, **changes)
    plan = plan.changed(views=replace(plan.views, epochs=plan.epochs, batch=plan.batch))
    return RowProtocol(replace(ROWS[name], plan=plan, forms=()))


def compared(found, trained, real: RealData, student: Callable[[int], tuple[torch.nn.Module, list[float]]]):
    inputs = real.train.space.real_to_input(real.test.images).double()
    for k, seed in enumerate((3, 4)):
        net, want = student(seed)
        want = torch.tensor(want, dtype=torch.float64)
        assert torch.allclose(trained.losses[k], want, rtol=1e-8, atol=1e-12), "at T 20 a loss is near 1e-4"
        assert bool((want > 1e-7).all())
        for key, tensor in net.state_dict().items():
            assert torch.allclose(trained.states[k][key].double(), tensor.double(), rtol=0, atol=1e-8), key
        with torch.no_grad():
            right = int((net(inputs).argmax(1) == real.test.labels).sum()) / len(real.test)
        assert found.scores[k].value == right


@pytest.mark.parametrize("path", ["plain", "stacked"])
def test_a_student_of_cvdd_is_the_one_of_the_description(
    real: RealData, path: str, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    """Stored labels of a committee in train mode over halves of the mixed batch, replayed in micro-batches; 8, 8 and 5."""
    protocol = short("cvdd-bssl", "cifar100", 10, epochs=5, batch=8)
    assert (protocol.plan.eta, protocol.plan.part) == (2, 4)
    distilled, trained = labelled_set(real), watched(monkeypatch)
    options = EngineOptions(precision="float64", path=path, labels=tmp_path)
    found = protocol.evaluate(distilled, real, STUDENT, [Generators(3), Generators(4)], options)
    assert found.engine == path and found.beside == {}
    assert found.label_bytes == 5 * 21 * 3 * 2
    nets = teachers()
    for net in nets:
        net.train()

    def told(mixed: torch.Tensor, rows: torch.Tensor, drawn: Views) -> torch.Tensor:
        half = len(mixed) // 2
        with torch.no_grad():
            a, b = (torch.cat([net(mixed[:half]), net(mixed[half:])]) for net in nets)
        return (0.7 * a + 0.3 * b).half().double()

    x = distilled.space.to_input(distilled.tensors["images"]).double()
    views = replace(protocol.plan.views, seed=42)
    compared(found, trained[0], real, lambda seed: described(
        x, views, told, seed, part=4, parts=2, eta=2, temperature=20, grouped=True
    ))  # fmt: skip


@pytest.mark.parametrize("path", ["plain", "stacked"])
def test_a_student_of_rded_is_the_one_of_the_description(
    real: RealData, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Online labels: every student has views of its own, the observer in eval mode labels the mixed batch."""
    protocol = short("rded", "cifar10", 10, epochs=6, batch=8)
    plan = protocol.plan.changed(views=replace(protocol.plan.views, crop_scale=(0.5, 1.0)))
    protocol = RowProtocol(replace(protocol.row, plan=plan))
    distilled, trained = labelled_set(real), watched(monkeypatch)
    options = EngineOptions(precision="float64", path=path)
    found = protocol.evaluate(distilled, real, STUDENT, [Generators(3), Generators(4)], options)
    assert found.engine == path and found.label_bytes == 0
    nets = teachers()

    def told(mixed: torch.Tensor, rows: torch.Tensor, drawn: Views) -> torch.Tensor:
        with torch.no_grad():
            return 0.7 * nets[0](mixed) + 0.3 * nets[1](mixed)

    x = distilled.space.to_input(distilled.tensors["images"]).double()
    compared(found, trained[0], real, lambda seed: described(
        x, replace(plan.views, seed=derive(seed, "views")), told, seed, part=8, parts=1, eta=2, temperature=20, grouped=True
    ))  # fmt: skip


def test_a_student_of_static_infer_is_the_one_of_the_description(
    real: RealData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One label an image, without augmentation; Mixup mixes images and logits by the same share."""
    protocol = short("infer-static", "cifar10", 10, epochs=6, batch=8)
    views = replace(protocol.plan.views, crop="none")
    protocol = RowProtocol(replace(protocol.row, plan=protocol.plan.changed(views=views)))
    distilled, trained = labelled_set(real, weights=(0.5, 0.5)), watched(monkeypatch)
    options = EngineOptions(precision="float64")
    found = protocol.evaluate(distilled, real, STUDENT, [Generators(3), Generators(4)], options)
    assert found.label_bytes == 21 * 3 * 2 and found.beside == {}
    x = distilled.space.to_input(distilled.tensors["images"]).double()
    with torch.no_grad():
        static = torch.stack([net(x) for net in teachers()]).mean(0).half().double()

    def told(mixed: torch.Tensor, rows: torch.Tensor, drawn: Views) -> torch.Tensor:
        return drawn.lam * static[rows] + (1 - drawn.lam) * static[rows][drawn.perm]

    compared(found, trained[0], real, lambda seed: described(
        x, replace(views, seed=derive(seed, "views")), told, seed, part=8, parts=1, eta=1, temperature=30, grouped=False
    ))  # fmt: skip


def test_static_labels_are_mixed_as_in_the_check_of_the_spec() -> None:
    """specs of INFER, section 6, check 2."""
    from ddbench.augment.views import mix_rows

    rows = torch.tensor([[2.0, 0], [0, 4]])
    views = Views(None, torch.zeros(2, dtype=torch.bool), "mixup", torch.tensor([1, 0]), 0.3)
    mixed = mix_rows(rows, views, (8, 8))
    assert torch.allclose(mixed, torch.tensor([[0.6, 2.8], [1.4, 1.2]]))
    want = torch.tensor([[0.4817, 0.5183], [0.5017, 0.4983]])
    assert torch.allclose((mixed / 30).softmax(1), want, atol=1e-4)


def test_g_vbsm_trains_towards_the_images_own_class_in_a_mixed_batch(
    real: RealData, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = short("g-vbsm", "imagenet1k", 10, epochs=2, batch=8)
    steps = []
    real_losses = losses

    def spy(plan, logits, ids=None, soft=None, kind="none", weights=None):
        steps.append((ids, soft, kind))
        return real_losses(plan, logits, ids, soft, kind, weights)

    from ddbench.train import engine

    monkeypatch.setattr(engine, "losses", spy)
    distilled = labelled_set(real)
    found = protocol.evaluate(distilled, real, STUDENT, [Generators(3)], EngineOptions(precision="float64"))
    assert len(found.scores) == 1
    views = replace(protocol.plan.views, seed=42)
    rows = batches(views, 21, 0)[0]
    ids, soft, kind = steps[0]
    assert kind == "logits" and torch.equal(ids.flatten(), distilled.targets.ids[rows])
    x = distilled.space.to_input(distilled.tensors["images"]).double()[rows]
    mixed = seen(x, draw_views(views, 0, 0, rows, (3, 8, 8)))
    with torch.no_grad():
        answers = [net(mixed) for net in teachers()]
    norms = [a.norm() for a in answers]
    mean = sum(norms) / 2
    want = 0.7 * answers[0] * mean / norms[0] + 0.3 * answers[1] * mean / norms[1]
    assert torch.allclose(soft.squeeze(0), want.half().double(), rtol=0, atol=2e-3)


def test_bytes_of_a_set_and_of_what_its_labels_take(real: RealData) -> None:
    distilled = labelled_set(real)
    own = byte_count(distilled)
    network_bytes = sum(t.nbytes for name, t in distilled.tensors.items() if name != "images")
    assert own.labels == network_bytes + 21, "inline networks are labels, with one byte an id"
    assert protocols.get("rethink-soft").accepts(distilled) is None
