"""Attacks in pixel space: what is inside the network, how far pixels move, what the protocol says."""

from __future__ import annotations

import random
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_protocols import crew, made
from torch import nn

from ddbench import protocols
from ddbench.contract import ZCA, RealData
from ddbench.nets.build import build
from ddbench.protocols import attacks
from ddbench.protocols.attacks import (
    ATTACKS,
    AttackProtocol,
    InPixels,
    attacked,
    attacked_images,
    drawn_targets,
    right,
)
from ddbench.protocols.rows import ROWS
from ddbench.seeding import Generators
from ddbench.train.engine import enlarged

NET = "ConvNetD1W32"


def installed() -> bool:
    try:
        attacks.check_extra()
    except ImportError:
        return False
    return True


needs_extra = pytest.mark.skipif(not installed(), reason="needs the extra: pip install 'ddbench[attacks]'")


@pytest.fixture(scope="module")
def student(gauss3: RealData) -> InPixels:
    """Trained on the real images, so that there is something to lose."""
    train = gauss3.train
    net = build(NET, train.shape, train.classes, Generators(1)("weights"))
    wrapped = InPixels(net, train.space)
    unit, updates = train.images.float() / 255, torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    for _ in range(60):
        updates.zero_grad()
        nn.functional.cross_entropy(wrapped(unit), train.labels).backward()
        updates.step()
    return wrapped.eval().requires_grad_(False)


def pixels_of(real: RealData) -> tuple[torch.Tensor, torch.Tensor]:
    return real.test.images.float() / 255, real.test.labels


class TestInPixels:
    def test_standardisation_is_part_of_the_network(self, gauss3: RealData):
        seen = []

        class Watch(nn.Module):
            def forward(self, x):
                seen.append(x)
                return x.flatten(1)

        space = replace(gauss3.train.space, real_mean=(0.1, 0.2, 0.3), real_std=(0.5, 0.6, 0.7))
        unit = gauss3.test.images.float() / 255
        for s in (gauss3.train.space, space):
            InPixels(Watch(), s)(unit)
            assert torch.allclose(seen[-1], s.real_to_input(gauss3.test.images), atol=1e-6)

    def test_so_is_whitening_with_its_gradient(self, gauss3: RealData):
        d = 3 * 16 * 16
        rng = torch.Generator().manual_seed(0)
        zca = ZCA(torch.rand(d, generator=rng), torch.randn((d, d), generator=rng), 0.1, "x")
        space = replace(gauss3.train.space, zca=zca)
        unit = (gauss3.test.images.float() / 255).requires_grad_()
        out = InPixels(nn.Flatten(), space)(unit)
        assert torch.allclose(out, space.real_to_input(gauss3.test.images).flatten(1), atol=1e-3)
        out.sum().backward()
        assert unit.grad is not None and bool((unit.grad != 0).any())

    def test_and_the_resize_of_a_plan_that_has_one(self, gauss3: RealData):
        unit = torch.rand(2, 3, 64, 64)
        out = InPixels(nn.Identity(), gauss3.train.space, resize=True)(unit)
        assert torch.allclose(out, gauss3.train.space.unit_to_input(enlarged(unit)))

    def test_a_target_is_any_other_class(self):
        labels = torch.arange(7).repeat(200)
        targets = drawn_targets(labels, 7, torch.Generator().manual_seed(0))
        assert not bool((targets == labels).any()) and targets.min() == 0 and targets.max() == 6
        assert ((targets - labels) % 7).bincount(minlength=7)[1:].min() > 150, "uniform over the others"
        assert drawn_targets(torch.tensor([0, 1]), 2, torch.Generator()).tolist() == [1, 0]


@needs_extra
class TestAttacks:
    @pytest.mark.parametrize("name", [n for n in ATTACKS if n not in ("square",)])
    def test_every_attack_stays_within_its_bound_in_pixels_and_lowers_accuracy(
        self, name, student, gauss3: RealData
    ):
        pixels, labels = pixels_of(gauss3)
        moved = attacked(student, name, pixels, labels, 3, seed=1)
        assert moved.shape == pixels.shape and moved.dtype == torch.float32
        assert float(moved.min()) >= 0 and float(moved.max()) <= 1
        gap = (moved - pixels).flatten(1)
        attack = ATTACKS[name]
        if attack.bounded:
            far = gap.abs().amax(1) if attack.norm == "Linf" else gap.norm(dim=1)
            assert float(far.max()) <= attack.settings["eps"] + 1e-5
            assert float(far.max()) > 0.9 * attack.settings["eps"], "the budget is used"
        before, after = right(student, pixels, labels), right(student, moved, labels)
        margin = (
            student(moved).gather(1, labels[:, None]).mean()
            - student(pixels).gather(1, labels[:, None]).mean()
        )
        assert after.sum() <= before.sum() and float(margin) < 0

    def test_a_large_step_breaks_every_image(self, student, gauss3: RealData, monkeypatch):
        pixels, labels = pixels_of(gauss3)
        assert right(student, pixels, labels).double().mean() == 1
        wide = replace(ATTACKS["pgd"], settings=dict(eps=0.5, eps_step=0.1, max_iter=10))
        monkeypatch.setitem(ATTACKS, "pgd", wide)
        moved = attacked(student, "pgd", pixels, labels, 3, seed=1)
        assert right(student, moved, labels).double().mean() == 0

    def test_square_needs_no_gradient(self, student, gauss3: RealData, monkeypatch):
        few = replace(ATTACKS["square"], settings={**ATTACKS["square"].settings, "max_iter": 30})
        monkeypatch.setitem(ATTACKS, "square", few)
        pixels, labels = pixels_of(gauss3)
        with torch.no_grad():
            moved = attacked(student, "square", pixels, labels, 3, seed=1)
        assert float((moved - pixels).abs().max()) <= 8 / 255 + 1e-5

    @pytest.mark.parametrize("name", ["apgd-ce", "pgd-targeted"])
    def test_the_seed_decides_and_no_global_generator_is_left_changed(self, name, student, gauss3: RealData):
        pixels, labels = pixels_of(gauss3)
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        one, two = (attacked(student, name, pixels, labels, 3, seed=1) for _ in range(2))
        other = attacked(student, name, pixels, labels, 3, seed=2)
        assert torch.equal(one, two) and not torch.equal(one, other)
        assert (states[0], states[1]) == (random.getstate(), np.random.get_state()[1].tolist())
        assert torch.equal(states[2], torch.get_rng_state())

    def test_unknown_attacks_and_too_few_classes_are_named(self, student, gauss3: RealData):
        pixels, labels = pixels_of(gauss3)
        with pytest.raises(LookupError, match="no attack 'bim'; expected one of fgsm, pgd"):
            attacked(student, "bim", pixels, labels, 3, seed=1)
        with pytest.raises(ValueError, match="attack apgd-dlr needs 3 classes; expected more than 2"):
            attacked(student, "apgd-dlr", pixels, labels, 2, seed=1)


class TestProtocol:
    @pytest.fixture
    def tiny(self, monkeypatch: pytest.MonkeyPatch) -> AttackProtocol:
        plan = ROWS["quick"].plan.changed(epochs=20, milestones=(12,))
        monkeypatch.setitem(ROWS, "tiny", replace(ROWS["quick"], name="tiny", plan=plan))
        row = replace(ROWS["quick-pgd"], bases={"own": "tiny", "taught": "quick-kd"})
        return AttackProtocol(row)

    @needs_extra
    def test_the_headline_is_the_worst_case_and_each_attack_stands_beside_it(self, tiny, gauss3: RealData):
        told = []
        got = tiny.evaluate(
            made(gauss3), gauss3, NET, crew(1, 2), progress=lambda done, total, *_: told.append(done / total)
        )
        assert got.metric == "robust" and len(got.ece) == 2
        head = [s for s in got.scores if not s.task]
        assert [(s.metric, s.chosen_by, s.chosen_on) for s in head] == [("robust", "last", "none")] * 2
        for i, s in enumerate(head):
            beside = {x.task: x.value for x in got.scores if x.task and x.seed == s.seed}
            assert set(beside) == {"clean", "fgsm", "pgd", "pgd-targeted", "pgd-l2"}
            linf = [beside[n] for n in ("fgsm", "pgd", "pgd-targeted")]
            assert s.value <= min(linf) <= max(linf) <= beside["clean"], i
        assert (
            "worst case of fgsm, pgd, pgd-targeted (Linf 8/255 in pixels) on 18 of 18 test images"
            in (got.notes["attacks"])
        )
        assert told[-1] == 1 and all(0 <= t < 1 for t in told[:-1]) and told == sorted(told)
        plainly = protocols.train.RowProtocol(ROWS["tiny"]).evaluate(made(gauss3), gauss3, NET, crew(1, 2))
        assert [s.value for s in got.scores if s.task == "clean"] == [s.value for s in plainly.scores]
        again = tiny.evaluate(made(gauss3), gauss3, NET, crew(1, 2))
        assert again.scores == got.scores

    def test_a_missing_library_is_said_before_anything_is_trained(self, tiny, gauss3: RealData, monkeypatch):
        for name in [n for n in sys.modules if n == "art" or n.startswith("art.")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "art", None)
        monkeypatch.setattr(AttackProtocol, "base", lambda self, distilled: pytest.fail("it went on"))
        with pytest.raises(ImportError, match=r"pip install 'ddbench\[attacks\]'"):
            tiny.evaluate(made(gauss3), gauss3, NET, crew(1))

    def test_attacks_that_need_more_classes_are_left_out(self):
        autoattack = protocols.get("autoattack")
        assert isinstance(autoattack, AttackProtocol)
        assert autoattack.names(2) == [n for n in autoattack.row.attacks if n != "apgd-dlr"]
        assert autoattack.names(10) == list(autoattack.row.attacks)

    def test_the_attacked_images_are_the_same_for_all_sets(self, gauss3: RealData):
        one, two = (attacked_images(gauss3.test, 5) for _ in range(2))
        assert len(one) == 5 and torch.equal(one.images, two.images)
        assert attacked_images(gauss3.test, None) is attacked_images(gauss3.test, 99) is gauss3.test

    def test_settings_are_those_of_the_paper_in_pixels(self):
        assert ATTACKS["pgd"].settings == dict(eps=8 / 255, eps_step=2 / 255, max_iter=10)
        assert ATTACKS["fgsm"].settings == dict(eps=8 / 255)
        l2, square, cw = (ATTACKS[n].settings for n in ("pgd-l2", "square", "cw"))
        assert (l2["eps"], l2["eps_step"], l2["max_iter"], l2["norm"]) == (128 / 255, 15 / 255, 10, 2)
        assert (square["eps"], square["max_iter"], square["p_init"], square["nb_restarts"]) == (
            8 / 255, 5000, 0.8, 1,
        )  # fmt: skip
        assert (cw["initial_const"], cw["confidence"], cw["max_iter"], cw["learning_rate"]) == (
            1,
            0,
            100,
            0.01,
        )
        for name, row in ROWS.items():
            assert all(a in ATTACKS for a in row.attacks), name
