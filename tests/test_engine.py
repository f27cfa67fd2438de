"""The engine against its readable twin, and every promise of its paths."""

from __future__ import annotations

import functools
import logging
from dataclasses import replace

import plain
import pytest
import torch
from torch import Tensor

from ddbench import compute
from ddbench.augment.mix import CutMix, mixed_images, mixed_targets
from ddbench.augment.views import batches
from ddbench.contract import Items, Labeller, NetworkRef, RealData, Space
from ddbench.nets.build import build, skeleton
from ddbench.nets.stacked import Stacked
from ddbench.protocols.rows import ROWS
from ddbench.seeding import Generators
from ddbench.train import engine, students
from ddbench.train.engine import EngineOptions, choose_path, test_accuracy, train_students
from ddbench.train.students import Feed, losses, total_steps
from ddbench.trainplan import LabelPlan, TrainPlan, ViewPlan

DOUBLE = EngineOptions(precision="float64")
PLAN = TrainPlan(
    epochs=5, batch=8, lr=0.05, schedule="steps", milestones=(3,), reset_optimiser=True, augment="dsa"
)
NET = "ConvNetD1W32"


def made(
    n: int = 21, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 3, seed: int = 0, **more
) -> Items:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *shape, generator=rng, dtype=torch.float64)
    more = {"ids": torch.arange(n) % classes, "flip": False, **more}
    return Items(x, lambda t: t, classes, **more)


def crew(*seeds: int) -> list[Generators]:
    return [Generators(seed) for seed in seeds]


def twin_losses(items: Items, plan: TrainPlan, network: str, *seeds: int) -> Tensor:
    told = [plain.train(items, plan, network, Generators(s))[1] for s in seeds]
    return torch.tensor(told, dtype=torch.float64)


class TestTwin:
    @pytest.mark.parametrize(
        "network", ["ConvNetD2W32", "MLP", "ConvNetD1W32BN", "ConvNetD1W32LN", "ConvNetD1W32GNMP"]
    )
    @pytest.mark.parametrize("path", ["plain", "stacked"])
    def test_losses_are_the_twins_step_by_step(self, network, path):
        items = made()
        got = train_students(items, PLAN, network, crew(1, 2), replace(DOUBLE, path=path))
        assert got.path == path
        assert got.losses.shape == (2, 5 * 3)  # the last batch of 5 items is kept
        assert torch.allclose(got.losses, twin_losses(items, PLAN, network, 1, 2), rtol=0, atol=1e-10)

    def test_losses_are_the_twins_when_compiled(self):
        items, plan = made(n=16), PLAN.changed(epochs=4)
        want = twin_losses(items, plan, NET, 1, 2)
        for path in ("compiled", "stacked-compiled"):
            got = train_students(items, plan, NET, crew(1, 2), replace(DOUBLE, path=path))
            assert got.path == path
            assert got.compile_s > 0
            assert torch.allclose(got.losses, want, rtol=0, atol=1e-10)
            again = train_students(items, plan, NET, crew(2, 1), replace(DOUBLE, path=path))
            assert again.compile_s == 0, "other students of the same shapes compile nothing anew"
            assert torch.allclose(again.losses, want.flip(0), rtol=0, atol=1e-10)

    def test_colour_images_with_flips_and_a_residual_network(self):
        items, plan = made(n=4, shape=(3, 8, 8), flip=True), PLAN.changed(epochs=2)
        got = train_students(items, plan, "ResNet18BN", crew(3), DOUBLE)
        assert torch.allclose(got.losses, twin_losses(items, plan, "ResNet18BN", 3), rtol=0, atol=1e-9)

    def test_trained_weights_and_accuracy_are_the_twins(self, gauss2: RealData):
        train = gauss2.train
        items = Items(train.space.real_to_input(train.images), lambda t: t, 2, ids=train.labels, flip=False)
        plan = PLAN.changed(epochs=4)
        net, _ = plain.train(items, plan, NET, Generators(5))
        for path in ("plain", "stacked"):
            options = replace(DOUBLE, path=path)
            got = train_students(items, plan, NET, crew(5, 6), options)
            for name, tensor in net.state_dict().items():
                assert torch.allclose(got.states[0][name].double(), tensor.double(), rtol=0, atol=1e-10), name
            inputs = train.space.real_to_input(gauss2.test.images).double()
            want = plain.accuracy(net, inputs, gauss2.test.labels)
            assert test_accuracy(got, gauss2.test, train.space, options)[0] == want

    def test_running_statistics_of_stacked_students_are_those_of_single_ones(self):
        items = made()
        one, many = (
            train_students(items, PLAN, "ConvNetD1W32BN", crew(1, 2), replace(DOUBLE, path=p))
            for p in ("plain", "stacked")
        )
        for a, b in zip(one.states, many.states, strict=True):
            assert a.keys() == b.keys()
            assert all(torch.allclose(a[n].double(), b[n].double(), atol=1e-10) for n in a)

    @pytest.mark.parametrize("optimiser", ["adam", "adamw"])
    @pytest.mark.parametrize("decay_on", ["all", "matrices"])
    def test_stacked_adam_is_one_adam_a_student(self, optimiser, decay_on):
        plan = PLAN.changed(optimiser=optimiser, decay_on=decay_on, lr=1e-2, weight_decay=0.1)
        one, many = (
            train_students(made(), plan, NET, crew(1, 2), replace(DOUBLE, path=p)).losses
            for p in ("plain", "stacked")
        )
        assert torch.allclose(one, many, rtol=0, atol=1e-9)

    def test_decay_on_matrices_spares_biases_and_norms_even_when_stacked(self):
        named = [
            ("conv.weight", torch.zeros(2, 3, 1, 3, 3)),
            ("norm.weight", torch.zeros(2, 3)),
            ("conv.bias", torch.zeros(2, 3)),
        ]
        groups = engine.optimiser(PLAN.changed(decay_on="matrices"), named, 0.1, stacked=True).param_groups
        assert [[tuple(p.shape) for p in g["params"]] for g in groups] == [
            [(2, 3, 1, 3, 3)],
            [(2, 3), (2, 3)],
        ]
        assert [g["weight_decay"] for g in groups] == [5e-4, 0.0]


LATER = {
    "fyi": dict(augment="dsa-flip"),
    "diffaug": dict(augment="diffaug:color_crop_cutout_flip_scale_rotate"),
    "idc": dict(
        augment="diffaug:color_crop_flip_scale_rotate", mix="cutmix", gamma=0.2, reset_optimiser=False
    ),
    "ncfm": dict(
        augment="diffaug:color_crop_flip_scale_rotate",
        mix="cutmix",
        optimiser="adamw",
        lr=1e-2,
        weight_decay=0.01,
        gamma=0.5,
        reset_optimiser=False,
    ),
}


class TestLaterProtocols:
    """FYI's flip, IDC's augmentation, CutMix, AdamW and rates that fall without a new optimiser."""

    @pytest.mark.parametrize("name", LATER)
    @pytest.mark.parametrize("path", ["plain", "stacked"])
    def test_losses_are_the_twins_step_by_step(self, name, path):
        items, plan = made(shape=(3, 8, 8), flip=True), PLAN.changed(**LATER[name])
        got = train_students(items, plan, NET, crew(1, 2), replace(DOUBLE, path=path))
        assert torch.allclose(got.losses, twin_losses(items, plan, NET, 1, 2), rtol=0, atol=1e-9)

    def test_losses_are_the_twins_when_compiled_and_nothing_compiles_anew_for_batches_left_unmixed(self):
        items, plan = made(n=21, shape=(3, 8, 8), flip=True), PLAN.changed(**LATER["ncfm"])
        want = twin_losses(items, plan, NET, 1, 2)
        for path in ("compiled", "stacked-compiled"):
            got = train_students(items, plan, NET, crew(1, 2), replace(DOUBLE, path=path))
            assert got.path == path and got.compile_s > 0
            assert torch.allclose(got.losses, want, rtol=0, atol=1e-9)
            before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            again = train_students(items, plan, NET, crew(2, 1), replace(DOUBLE, path=path))
            assert again.compile_s == 0
            assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before
            assert torch.allclose(again.losses, want.flip(0), rtol=0, atol=1e-9)

    def test_a_program_compiled_for_ids_is_not_used_for_mixed_targets(self):
        items, options = made(n=16), replace(DOUBLE, path="compiled")
        plain_, mixed = PLAN.changed(epochs=3), PLAN.changed(epochs=3, mix="cutmix", mix_probability=1.0)
        for plan in (plain_, mixed, plain_):
            got = train_students(items, plan, NET, crew(1), options)
            assert got.path == "compiled"
            assert torch.allclose(got.losses, twin_losses(items, plan, NET, 1), rtol=0, atol=1e-10)

    def test_every_step_of_a_mixed_plan_has_probabilities_and_no_ids(self):
        plan = PLAN.changed(mix="cutmix")
        steps = list(Feed(made(), plan, crew(1, 2), torch.device("cpu"), torch.float64))
        assert {(s.ids is None, s.kind) for s in steps} == {(True, "probabilities")}
        sharp = [bool(((s.soft == 0) | (s.soft == 1)).all()) for s in steps]
        assert set(sharp) == {True, False}, "some batches are mixed, some are not"
        assert all(torch.allclose(s.soft.sum(-1), torch.ones_like(s.soft[..., 0])) for s in steps)

    def test_mixing_draws_its_own_numbers_after_the_augmentation(self):
        items = made()
        plans = [PLAN.changed(mix=mix, mix_probability=1.0) for mix in ("none", "cutmix")]
        pure, mixed = (list(Feed(items, p, crew(1), torch.device("cpu"), torch.float64)) for p in plans)
        source = Generators(1)("mix")
        for a, b in zip(pure, mixed, strict=True):
            drawn = CutMix(1.0).draw(a.inputs.shape[1], (1, 8, 8), source)
            assert torch.equal(mixed_images(a.inputs[0], drawn), b.inputs[0])
            want = mixed_targets(a.ids[0], None, 3, drawn, torch.float64)
            assert torch.allclose(want, b.soft[0], rtol=0, atol=1e-15)

    @pytest.mark.parametrize("kind", ["probabilities", "logits"])
    def test_soft_labels_and_weights_are_mixed_too(self, kind):
        source = torch.Generator().manual_seed(3)
        soft = torch.randn(21, 3, generator=source, dtype=torch.float64)
        p = torch.softmax(soft, 1)
        weights = torch.rand(21, generator=source, dtype=torch.float64) + 0.5
        items = made(ids=None, soft=p if kind == "probabilities" else soft, kind=kind, weights=weights)
        plan = PLAN.changed(mix="cutmix", mix_probability=1.0, augment="none", epochs=1)
        step = next(iter(Feed(items, plan, crew(4), torch.device("cpu"), torch.float64)))
        rows = torch.randperm(21, generator=Generators(4)("order"))[:8]
        drawn = CutMix(1.0).draw(8, (1, 8, 8), Generators(4)("mix"))
        assert torch.allclose(step.soft[0], mixed_targets(None, p[rows], 3, drawn), rtol=0, atol=1e-12)
        own, other = weights[rows], weights[rows][drawn.partners]
        assert torch.allclose(step.weights[0], drawn.share * own + (1 - drawn.share) * other)
        both = [
            train_students(items, plan, NET, crew(4, 5), replace(DOUBLE, path=path)).losses
            for path in ("plain", "stacked")
        ]
        assert torch.allclose(*both, rtol=0, atol=1e-10)

    def test_how_far_batches_are_drawn_ahead_changes_nothing(self, monkeypatch):
        plan = PLAN.changed(**LATER["ncfm"])
        far = train_students(made(), plan, NET, crew(1, 2), DOUBLE).losses
        monkeypatch.setitem(students._WINDOW_MIB, "cpu", 0)
        assert torch.allclose(far, train_students(made(), plan, NET, crew(1, 2), DOUBLE).losses, atol=1e-12)

    def test_dcs_own_augmentation_goes_by_data_set_and_network(self):
        items, plan = made(), PLAN.changed(augment="dc")
        for dataset, network in (("mnist", NET), ("mnist?width=8", NET), ("svhn", "ConvNetBN")):
            got = train_students(items, plan, network, crew(1), DOUBLE, dataset=dataset).losses
            twin = plain.train(items, plan, network, Generators(1), dataset=dataset.partition("?")[0])[1]
            assert torch.allclose(got[0], torch.tensor(twin, dtype=torch.float64), rtol=0, atol=1e-9)
        bare = train_students(items, plan, NET, crew(1), DOUBLE, dataset="svhn").losses
        assert torch.allclose(bare, twin_losses(items, PLAN.changed(augment="none"), NET, 1), atol=1e-10)

    def test_mixing_the_answers_of_a_labeller_is_refused(self):
        items = made(
            labeller=Labeller((NetworkRef(NET, "inline", "teacher."),), Space("input", (0.5,), (0.5,)))
        )
        with pytest.raises(ValueError, match=r"mix 'cutmix' mixes a set's own labels, .* use none"):
            train_students(
                items, PLAN.changed(mix="cutmix"), NET, crew(9), DOUBLE, answers=lambda *_: torch.zeros(1)
            )

    def test_plans_that_cannot_mix_are_named(self):
        with pytest.raises(
            ValueError, match=r"mix is 'cutmix' with loss 'kl'; expected loss 'ce' without views"
        ):
            TrainPlan(epochs=1, mix="cutmix", loss="kl")
        with pytest.raises(
            ValueError, match=r"with a view plan, which has a mix of its own; expected loss 'ce'"
        ):
            TrainPlan(epochs=1, mix="cutmix", views=ViewPlan(epochs=1, batch=4))
        with pytest.raises(ValueError, match=r"mix_probability is 0.0; expected above 0, at most 1"):
            TrainPlan(epochs=1, mix="cutmix", mix_probability=0.0)
        with pytest.raises(ValueError, match=r"TrainPlan.mix is 'mixup'; expected one of none, cutmix"):
            TrainPlan(epochs=1, mix="mixup")
        with pytest.raises(ValueError, match=r"test_every is -1; expected 0 or a number of epochs"):
            TrainPlan(epochs=1, test_every=-1)


class TestOnTheWay:
    """Tests every ``test_every`` epochs."""

    @pytest.mark.parametrize("path", ["plain", "stacked"])
    def test_students_are_tested_as_they_stand_after_so_many_epochs(self, path):
        items, plan = made(), PLAN.changed(epochs=6, test_every=2, milestones=(4,))
        options, seen = replace(DOUBLE, path=path), []

        def tester(now):
            seen.append(now)
            return engine.Tested([float(len(seen) + k) for k in range(len(now.states))], (), (), 0.25)

        got = train_students(items, plan, NET, crew(1, 2), options, tester=tester)
        assert [list(t) for t in got.tests] == [[2, 4], [2, 4]], "the end is the caller's to test"
        short = [
            train_students(items, plan.changed(epochs=e, test_every=0), NET, crew(1, 2), options)
            for e in (2, 4)
        ]
        for k in range(2):
            now = [s for s in seen for s in s.states][k::2] if path == "stacked" else [
                s.states[0] for s in seen[2 * k : 2 * k + 2]
            ]  # fmt: skip
            for state, want in zip(now, short, strict=True):
                assert all(torch.equal(state[n], want.states[k][n]) for n in state)
        assert got.compile_s == pytest.approx(0.25 * len(seen))
        plainly = train_students(items, plan.changed(test_every=0), NET, crew(1, 2), options)
        assert torch.equal(got.losses, plainly.losses), "testing changes nothing"
        assert plainly.tests == ()

    def test_epochs_with_a_test_count_from_one_and_leave_out_the_last(self):
        plan = TrainPlan(epochs=10, test_every=3)
        assert [e for e in range(10) if plan.tested_after(e)] == [2, 5, 8]
        assert [e for e in range(10) if plan.changed(test_every=5).tested_after(e)] == [4]
        assert not any(plan.changed(test_every=0).tested_after(e) for e in range(10))

    def test_a_real_test_of_compiled_students_leaves_their_training_alone(
        self, gauss2: RealData, monkeypatch
    ):
        items, plan = made(n=16, classes=2), PLAN.changed(epochs=4, test_every=1, mix="cutmix")
        monkeypatch.setattr(engine, "COMPILE_ABOVE_S", 0.0)
        for path in ("compiled", "stacked-compiled"):
            options = replace(DOUBLE, path=path)
            tester = functools.partial(
                engine.tested, test=gauss2.test, space=gauss2.train.space, options=options
            )
            got = train_students(items, plan, NET, crew(1, 2), options, tester=tester)
            assert torch.allclose(got.losses, twin_losses(items, plan, NET, 1, 2), rtol=0, atol=1e-10)
            assert [list(t) for t in got.tests] == [[1, 2, 3]] * 2
            for e in (1, 3):
                short = train_students(items, plan.changed(epochs=e), NET, crew(1, 2), options)
                want = test_accuracy(short, gauss2.test, gauss2.train.space, options)
                assert [t[e] for t in got.tests] == want


class TestIndependence:
    def test_a_student_does_not_depend_on_those_beside_it(self):
        items = made()
        alone = train_students(items, PLAN, NET, crew(7), replace(DOUBLE, path="plain")).losses[0]
        beside = train_students(items, PLAN, NET, crew(3, 7, 9), replace(DOUBLE, path="stacked")).losses[1]
        assert torch.allclose(alone, beside, rtol=0, atol=1e-10)

    def test_how_far_batches_are_drawn_ahead_changes_nothing(self, monkeypatch):
        items = made()
        far = train_students(items, PLAN, NET, crew(1), DOUBLE).losses
        monkeypatch.setitem(students._WINDOW_MIB, "cpu", 0)
        near = train_students(items, PLAN, NET, crew(1), DOUBLE).losses
        assert torch.allclose(far, near, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("path", ["plain", "stacked"])
    def test_same_seed_same_bits(self, path):
        runs = [train_students(made(), PLAN, NET, crew(1, 2), EngineOptions(path=path)) for _ in range(2)]
        assert torch.equal(runs[0].losses, runs[1].losses)
        assert all(
            torch.equal(a[n], b[n]) for a, b in zip(runs[0].states, runs[1].states, strict=True) for n in a
        )

    def test_the_global_generator_is_left_alone(self):
        before = torch.get_rng_state()
        train_students(made(), PLAN, NET, crew(1, 2))
        assert torch.equal(before, torch.get_rng_state())


class TestPlans:
    def test_a_cap_on_steps_ends_inside_an_epoch_and_compresses_the_schedule(self):
        items = made(n=24)  # 3 steps an epoch
        plan = PLAN.changed(epochs=100, milestones=(51,), max_steps=8)
        rates = []
        wrapped = engine.optimiser

        def spy(plan, named, lr, stacked=False):
            rates.append(round(lr, 6))
            return wrapped(plan, named, lr, stacked)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "optimiser", spy)
            got = train_students(items, plan, NET, crew(1), DOUBLE)
        assert got.losses.shape == (1, 8)
        assert rates == [0.05, 0.005], "a new optimiser at the drop"
        assert [engine._virtual_epoch(plan, 0, t, 8, 300) for t in range(8)] == [
            0,
            12,
            25,
            37,
            50,
            62,
            75,
            87,
        ]

    def test_steps_are_counted_with_short_batches_dropped_batches_and_caps(self):
        assert total_steps(21, PLAN) == 15
        assert total_steps(21, PLAN.changed(drop_last=True)) == 10
        assert total_steps(5, PLAN.changed(drop_last=True)) == 5
        assert total_steps(21, PLAN.changed(max_steps=4)) == 4

    def test_dropped_batches_are_not_trained_on(self):
        got = train_students(made(), PLAN.changed(drop_last=True), NET, crew(1), DOUBLE)
        assert got.losses.shape == (1, 10)

    def test_a_law_gives_the_items_of_each_epoch_and_a_visit_their_form(self):
        seen: list[list[int]] = []

        def visit(batch: Tensor, generator: torch.Generator) -> Tensor:
            return batch + torch.rand((), generator=generator, dtype=batch.dtype)

        def law(epoch: int, generators: Generators) -> Tensor:
            seen.append([epoch])
            return torch.tensor([epoch, epoch + 1, epoch + 2])

        items = made(law=law, visit=visit)
        plan = PLAN.changed(batch=2, augment="none")
        stream = Feed(items, plan, crew(1), torch.device("cpu"), torch.float64)
        seen.clear()  # the length of an epoch was asked for
        feed = list(stream)
        assert [s.inputs.shape[1] for s in feed] == [2, 1] * 5
        assert [e[0] for e in seen] == [0, 1, 2, 3, 4]
        shift = feed[0].inputs[0] - items.stored[:2]
        assert (
            torch.allclose(shift, shift.flatten()[0].expand_as(shift)) and 0 < float(shift.flatten()[0]) < 1
        )
        stacked = train_students(items, plan, NET, crew(1, 2), replace(DOUBLE, path="stacked")).losses
        single = train_students(items, plan, NET, crew(1, 2), replace(DOUBLE, path="plain")).losses
        assert torch.allclose(stacked, single, rtol=0, atol=1e-10)

    def test_view_plans_make_the_batches(self):
        views = ViewPlan(epochs=3, batch=4, crop="resized", flip=0.5, mix="cutmix")
        soft = torch.softmax(
            torch.randn(10, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64), 1
        )
        items = made(n=10, soft=soft, kind="probabilities")
        plan = PLAN.changed(epochs=3, views=views, augment="none", loss="kl", temperature=4.0)
        got = train_students(items, plan, NET, crew(1, 2), DOUBLE)
        assert got.path == "plain"
        assert got.losses.shape == (2, 9)
        again = train_students(items, plan, NET, crew(2), DOUBLE)
        assert torch.equal(again.losses[0], got.losses[1])

    def test_a_labeller_answers_what_the_student_sees(self):
        teacher = build(NET, (1, 8, 8), 3, torch.Generator().manual_seed(9)).double().eval()
        asked: list[tuple[int, int, int]] = []

        def answers(epoch: int, batch: int, rows: Tensor, inputs: Tensor) -> Tensor:
            asked.append((epoch, batch, len(rows)))
            with torch.no_grad():
                return teacher(inputs)

        space = Space("input", (0.5,), (0.5,))
        items = made(labeller=Labeller((NetworkRef(NET, "inline", "teacher."),), space))
        plan = PLAN.changed(epochs=2, loss="kl", temperature=20.0)
        got = train_students(items, plan, NET, crew(9), DOUBLE, answers=answers)
        assert asked == [(0, 0, 8), (0, 1, 8), (0, 2, 5), (1, 0, 8), (1, 1, 8), (1, 2, 5)]
        assert bool((got.losses >= 0).all())
        with pytest.raises(ValueError, match=r"have a labeller but no answers .* pass answers="):
            train_students(items, plan, NET, crew(9), DOUBLE)

    def test_progress_is_told_in_epochs_of_all_students(self):
        told = []
        train_students(
            made(), PLAN, NET, crew(1, 2), replace(DOUBLE, path="plain"), lambda *a: told.append(a)
        )
        assert [(done, total) for done, total, _ in told] == [(i, 10) for i in range(1, 11)]
        assert all(isinstance(loss, float) for *_, loss in told)


class TestLosses:
    S = torch.tensor([[1.0, 2, 3], [0, 0, 0]], dtype=torch.float64)
    T = torch.tensor([[3, 1, 0], [2, -2, 0.5]], dtype=torch.float64)

    def loss(self, **plan) -> float:
        ids = torch.tensor([0, 2])
        return float(losses(TrainPlan(epochs=1, **plan), self.S, ids, self.T, "logits"))

    @pytest.mark.parametrize(
        ("temperature", "squared", "want"),
        [
            (1, False, 1.119422),
            (20, False, 0.004331),
            (30, False, 0.001927),
            (20, True, 1.732594),
            (30, True, 1.734397),
        ],
    )
    def test_kl_of_the_first_check_of_the_spec(self, temperature, squared, want):
        got = self.loss(loss="kl", temperature=float(temperature), temperature_squared=squared)
        assert got == pytest.approx(
            want, abs=4e-5 if squared else 1e-6
        )  # 400 and 900 times a float32 rounding

    def test_mse_and_mse_gt_of_the_second_check_of_the_spec(self):
        assert self.loss(loss="mse") == pytest.approx(3.708333, abs=1e-6)
        assert self.loss(loss="mse-gt", hard_weight=0.025) == pytest.approx(3.752161, abs=1e-6)
        hard = losses(TrainPlan(epochs=1), self.S, torch.tensor([0, 2]))
        assert float(hard) == pytest.approx(1.753109, abs=1e-6)

    def test_kl_is_zero_between_equals_and_probabilities_are_logits_in_another_form(self):
        plan = TrainPlan(epochs=1, loss="kl", temperature=4.0)
        assert float(losses(plan, self.T, None, self.T, "logits")) == pytest.approx(0, abs=1e-12)
        p = torch.softmax(self.T, -1)
        assert float(losses(plan, self.S, None, p, "probabilities")) == pytest.approx(
            self.loss(loss="kl", temperature=4.0)
        )

    def test_weights_make_a_weighted_mean(self):
        ids, w = torch.tensor([0, 2]), torch.tensor([3.0, 1.0], dtype=torch.float64)
        rows = torch.nn.functional.cross_entropy(self.S, ids, reduction="none")
        got = losses(TrainPlan(epochs=1), self.S, ids, weights=w)
        assert float(got) == pytest.approx(float((3 * rows[0] + rows[1]) / 4))

    def test_students_side_by_side_have_a_loss_each(self):
        ids = torch.tensor([[0, 2], [1, 1]])
        both = losses(TrainPlan(epochs=1), torch.stack([self.S, self.T]), ids)
        apart = [losses(TrainPlan(epochs=1), x, y) for x, y in zip((self.S, self.T), ids, strict=True)]
        assert torch.allclose(both, torch.stack(apart))

    @pytest.mark.parametrize("path", ["plain", "stacked"])
    def test_soft_targets_and_weights_train_on_both_kinds_of_path(self, path):
        rng = torch.Generator().manual_seed(3)
        soft, weights = torch.randn(21, 3, generator=rng), torch.rand(21, generator=rng) + 0.5
        items = made(soft=soft, kind="logits", weights=weights)
        plan = PLAN.changed(loss="mse-gt", hard_weight=0.1)
        got = train_students(items, plan, NET, crew(1, 2), replace(DOUBLE, path=path)).losses
        want = train_students(items, plan, NET, crew(1, 2), replace(DOUBLE, path="plain")).losses
        assert torch.allclose(got, want, rtol=0, atol=1e-10)

    def test_absent_targets_are_named(self):
        with pytest.raises(ValueError, match=r"loss 'kl' needs soft targets or a labeller"):
            losses(TrainPlan(epochs=1, loss="kl"), self.S, torch.tensor([0, 2]))
        with pytest.raises(ValueError, match=r"loss 'ce' needs label ids"):
            losses(TrainPlan(epochs=1), self.S)


class TestChoice:
    CLASSIC = TrainPlan(epochs=1001)

    @pytest.mark.parametrize(
        ("network", "shape", "items", "students", "plan", "want"),
        [
            ("ConvNetD2W32", (1, 8, 8), 10, 5, TrainPlan(epochs=100), "stacked"),
            ("ConvNetD2W32", (1, 8, 8), 100, 5, TrainPlan(epochs=100), "stacked"),
            ("ConvNetD2W32", (1, 8, 8), 100, 5, CLASSIC, "stacked-compiled"),
            ("ConvNetD2W32", (1, 8, 8), 100, 1, TrainPlan(epochs=100), "plain"),
            ("ConvNet", (3, 32, 32), 10, 5, CLASSIC, "compiled"),
            ("ConvNet", (3, 32, 32), 100, 5, CLASSIC, "compiled"),
            ("ConvNet", (3, 32, 32), 100, 5, TrainPlan(epochs=2), "plain"),
            ("ResNet18", (3, 32, 32), 10, 5, CLASSIC, "compiled"),
            ("ConvNet", (3, 32, 32), 400, 10, ROWS["ncfm"].plan, "compiled"),
            ("ConvNet", (3, 32, 32), 40, 5, ROWS["idc"].plan, "compiled"),
            ("ConvNetD2W32", (1, 8, 8), 40, 10, ROWS["ncfm"].plan, "stacked-compiled"),
            ("ConvNetD2W32", (1, 8, 8), 40, 5, ROWS["idc"].plan, "stacked"),
        ],
    )
    def test_shapes_and_counts_choose_the_path(self, network, shape, items, students, plan, want):
        assert choose_path(network, shape, 10, items, plan, students) == want

    def test_cuda_stacks_chains_and_never_compiles_by_itself(self):
        assert choose_path("ConvNet", (3, 32, 32), 10, 100, self.CLASSIC, 5, "cuda") == "stacked"
        assert choose_path("ResNet18", (3, 32, 32), 10, 100, self.CLASSIC, 5, "cuda") == "plain"

    def test_labellers_and_view_plans_run_plain(self):
        assert choose_path("ConvNet", (3, 32, 32), 10, 100, self.CLASSIC, 5, alone=True) == "plain"
        plan = PLAN.changed(views=ViewPlan(epochs=5, batch=8), augment="none")
        with pytest.raises(
            ValueError, match=r"path 'stacked' cannot train under view plans .* auto or plain"
        ):
            train_students(made(), plan, NET, crew(1, 2), replace(DOUBLE, path="stacked"))

    def test_multiply_adds_of_convnet_are_as_counted_by_hand(self):
        by_hand = 128 * 27 * 1024 + 128 * 1152 * 256 + 128 * 1152 * 64 + 2048 * 10
        assert engine.multiply_adds("ConvNet", (3, 32, 32), 10) == by_hand

    def test_networks_that_are_no_chain_are_not_stacked(self):
        assert not Stacked.fits(skeleton("ResNet18", (3, 32, 32), 10))
        items = made(n=4, shape=(3, 16, 16))
        with pytest.raises(ValueError, match=r"ResNet18 cannot be stacked: .* use path plain or compiled"):
            train_students(items, PLAN, "ResNet18", crew(1, 2), EngineOptions(path="stacked"))

    def test_unknown_settings_are_named(self):
        with pytest.raises(
            ValueError, match=r"engine precision is 'half'; expected one of fp32, tf32, bf16, float64"
        ):
            EngineOptions(precision="half")
        with pytest.raises(ValueError, match=r"engine path is 'fast'; expected one of auto, plain"):
            EngineOptions(path="fast")


class TestTrouble:
    @pytest.fixture
    def no_compiler(self, monkeypatch):
        def fails(function):
            def call(*_):
                raise RuntimeError("InvalidCxxCompiler: no working C++ compiler found\nmore lines")

            return call

        monkeypatch.setattr(compute, "compile_", fails)
        monkeypatch.setattr(compute, "COMPILED", {})
        monkeypatch.setattr(compute, "_broken", False)

    @pytest.mark.parametrize(("asked", "ran"), [("compiled", "plain"), ("stacked-compiled", "stacked")])
    def test_without_a_compiler_training_goes_on_eagerly_and_says_so_once(
        self, no_compiler, caplog, asked, ran
    ):
        caplog.set_level(logging.WARNING, "ddbench")
        runs = [train_students(made(), PLAN, NET, crew(1, 2), replace(DOUBLE, path=asked)) for _ in range(2)]
        assert [r.path for r in runs] == [ran, ran]
        assert torch.allclose(runs[0].losses, twin_losses(made(), PLAN, NET, 1, 2), rtol=0, atol=1e-10)
        assert len(caplog.records) == 1
        assert (
            "torch.compile does not work here (InvalidCxxCompiler: no working C++ compiler found)"
            in caplog.text
        )

    def test_without_a_compiler_students_are_tested_eagerly(
        self, no_compiler, monkeypatch, caplog, gauss2: RealData
    ):
        got = train_students(made(classes=2), PLAN, NET, crew(1, 2), DOUBLE)
        want = test_accuracy(got, gauss2.test, gauss2.train.space, DOUBLE)
        monkeypatch.setattr(engine, "COMPILE_ABOVE_S", 0.0)
        assert test_accuracy(got, gauss2.test, gauss2.train.space, DOUBLE) == want
        assert "torch.compile does not work here" in caplog.text

    @pytest.mark.parametrize("path", ["plain", "stacked"])
    def test_divergence_names_epoch_and_rate(self, path):
        plan = PLAN.changed(lr=1e30)
        with pytest.raises(
            FloatingPointError,
            match=r"ConvNetD1W32 diverged: its loss is not finite in epoch 0 of 5 at lr 1e\+30",
        ):
            train_students(made(), plan, NET, crew(1, 2), EngineOptions(path=path))

    def test_nothing_to_train_is_refused(self):
        with pytest.raises(ValueError, match=r"0 students on 21 items; expected at least one of each"):
            train_students(made(), PLAN, NET, [])

    def test_progress_may_stop_the_training(self):
        def stop(*_):
            raise InterruptedError("enough")

        with pytest.raises(InterruptedError, match="enough"):
            train_students(made(), PLAN, NET, crew(1), DOUBLE, stop)

    def test_keeping_freed_memory_does_no_harm_elsewhere(self, monkeypatch):
        compute.keep_freed_memory.cache_clear()
        monkeypatch.setattr(compute.platform, "libc_ver", lambda: ("musl", "1.2"))
        assert compute.keep_freed_memory() is False
        compute.keep_freed_memory.cache_clear()


class TestAccuracy:
    def test_compiled_inference_gives_the_same(self, gauss2: RealData, monkeypatch):
        got = train_students(made(classes=2), PLAN, NET, crew(1, 2, 3), EngineOptions())
        want = test_accuracy(got, gauss2.test, gauss2.train.space)
        monkeypatch.setattr(engine, "COMPILE_ABOVE_S", 0.0)
        monkeypatch.setitem(engine._TEST_BATCH, "cpu", 8)  # 20 images: the last batch is padded
        again = engine.tested(got, gauss2.test, gauss2.train.space)
        assert again.accuracies == want
        assert again.compile_s > 0

    def test_one_pass_gives_calibration_and_accuracy_a_class(self, gauss3: RealData):
        items, space, test = made(shape=(3, 16, 16), classes=3), gauss3.train.space, gauss3.test
        got = train_students(items, PLAN, NET, crew(1, 2), DOUBLE)
        found = engine.tested(got, test, space, DOUBLE)
        hits = []
        for k, state in enumerate(got.states):
            net = build(NET, (3, 16, 16), 3).double().eval()
            net.load_state_dict(state)
            with torch.no_grad():
                probabilities = net(space.real_to_input(test.images).double()).softmax(1)
            sure, predicted = probabilities.max(1)
            right = (predicted == test.labels).double()
            error = 0.0
            for low in range(15):
                inside = (sure * 15).floor() == low
                if inside.any():
                    error += float(
                        inside.double().mean() * (right[inside].mean() - sure[inside].mean()).abs()
                    )
            assert found.ece[k] == pytest.approx(error, abs=1e-12)
            assert found.accuracies[k] == pytest.approx(float(right.mean()))
            hits.append([float(right[test.labels == c].mean()) for c in range(3)])
        assert found.class_accuracy == pytest.approx(torch.tensor(hits).double().mean(0).tolist(), abs=1e-7)

    def test_the_calibration_error_is_that_of_torchmetrics(self):
        functional = pytest.importorskip("torchmetrics.functional", reason="needs torchmetrics")
        rng = torch.Generator().manual_seed(0)
        probabilities = (3 * torch.randn((500, 10), generator=rng)).softmax(1)
        labels = torch.randint(10, (500,), generator=rng)
        sure, predicted = probabilities.max(1)
        want = functional.calibration_error(
            probabilities, labels, task="multiclass", num_classes=10, n_bins=engine.ECE_BINS, norm="l1"
        )
        got = engine.calibration_error(sure, predicted == labels)
        assert got == pytest.approx(float(want), abs=1e-6)

    def test_edges_of_bins_belong_to_the_bin_above_and_full_confidence_to_the_last(self):
        sure, right = torch.tensor([1.0, 0.95, 0.5]), torch.tensor([True, False, True])
        # bins of a half: the edge 0.5 falls into the second with the two others
        assert engine.calibration_error(sure, right, bins=2) == pytest.approx(abs(2 - 2.45) / 3)
        assert engine.calibration_error(torch.ones(4), torch.ones(4, dtype=torch.bool)) == 0

    def test_a_class_without_test_images_has_no_accuracy(self, gauss3: RealData):
        got = train_students(made(shape=(3, 16, 16), classes=3), PLAN, NET, crew(1))
        some = gauss3.test.subset((gauss3.test.labels < 2).nonzero().squeeze(1))
        found = engine.tested(got, some, gauss3.train.space)
        assert found.class_accuracy == () and len(found.ece) == 1

    def test_students_are_not_mixed_up(self, gauss2: RealData):
        items, space = made(classes=2), gauss2.train.space
        three = train_students(items, PLAN, NET, crew(1, 2, 3))
        alone = [train_students(items, PLAN, NET, crew(s)) for s in (1, 2, 3)]
        want = [test_accuracy(one, gauss2.test, space)[0] for one in alone]
        assert test_accuracy(three, gauss2.test, space) == want


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["classic", *LATER])
@pytest.mark.parametrize("path", ["plain", "stacked"])
def test_cuda_gives_the_losses_of_the_cpu(path, name):
    items, plan = made(), PLAN.changed(**LATER.get(name, {}))
    want = train_students(items, plan, NET, crew(1, 2), replace(DOUBLE, path="plain")).losses
    on_gpu = replace(items, stored=items.stored.cuda(), ids=items.ids.cuda())
    got = train_students(on_gpu, plan, NET, crew(1, 2), EngineOptions("cuda", "float64", path)).losses
    assert torch.allclose(got, want, rtol=0, atol=1e-8)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["classic", *LATER])
def test_cuda_makes_the_host_wait_for_nothing_inside_an_epoch(name):
    items, plan = made(), PLAN.changed(**LATER.get(name, {}))
    on_gpu = replace(items, stored=items.stored.cuda(), ids=items.ids.cuda())
    train_students(on_gpu, plan, NET, crew(1, 2), EngineOptions("cuda"))  # libraries set themselves up
    feed = Feed(on_gpu, plan, crew(1, 2), torch.device("cuda"), torch.float32)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert sum(1 for _ in feed) == 15
    finally:
        torch.cuda.set_sync_debug_mode("default")


class TestStepsInAll:
    def test_a_cap_on_steps_holds_under_view_plans(self):
        plan = PLAN.changed(views=ViewPlan(epochs=5, batch=8), augment="none", max_steps=4)
        steps = list(Feed(made(), plan, crew(1), torch.device("cpu"), torch.float64))
        assert len(steps) == total_steps(21, plan) == 4
        assert steps[-1].last

    def test_a_resampled_epoch_counts_what_its_law_draws_not_the_pool(self):
        items = made(law=lambda epoch, g: torch.randperm(21, generator=g("law"))[:5])
        plan = PLAN.changed(max_steps=3, milestones=(3,))
        got = train_students(items, plan, NET, crew(1), DOUBLE)
        assert got.losses.shape == (1, 3)
        feed = Feed(items, plan.changed(max_steps=None), crew(1), torch.device("cpu"), torch.float64)
        assert len(list(feed)) == 5 * feed.steps_an_epoch == 5


class TestMicroBatches:
    VIEWS = ViewPlan(epochs=3, batch=8, crop="resized", flip=0.5, mix="cutmix")

    def plan(self, **more) -> TrainPlan:
        plan = PLAN.changed(epochs=3, augment="none", loss="kl", temperature=4.0, views=self.VIEWS)
        return plan.changed(labels=LabelPlan(store=True), **more)

    @staticmethod
    def told(epoch: int, batch: int, rows: Tensor, inputs: Tensor) -> Tensor:
        rng = torch.Generator().manual_seed(100 * epoch + batch)
        return torch.randn(len(rows), 3, generator=rng, dtype=torch.float64)

    def test_two_halves_are_one_step_where_no_norm_sees_the_batch(self):
        items = made(n=16)
        whole, halves = (
            train_students(items, self.plan(micro_batches=n), NET, crew(1), DOUBLE, answers=self.told)
            for n in (1, 2)
        )
        assert torch.allclose(whole.losses, halves.losses, rtol=0, atol=1e-12)
        assert whole.losses.shape == halves.losses.shape == (1, 6)

    def test_a_short_batch_has_fewer_parts_and_is_divided_by_as_many_all_the_same(self):
        items = made(n=11)  # 8 and 3: two parts of 4, one of 3
        whole, halves = (
            train_students(items, self.plan(micro_batches=n), NET, crew(1), DOUBLE, answers=self.told).losses[
                0
            ]
            for n in (1, 2)
        )
        assert float(halves[0]) == pytest.approx(float(whole[0]), abs=1e-12)
        start = self.plan(micro_batches=2, max_steps=2, lr=1e-12, weight_decay=0.0)
        still = train_students(items, start, NET, crew(1), DOUBLE, answers=self.told).losses[0]
        assert float(still[1]) == pytest.approx(float(self.first_short(items)) / 2, rel=1e-6)

    def first_short(self, items: Items) -> Tensor:
        plan = self.plan(max_steps=2, lr=1e-12, weight_decay=0.0)
        return train_students(items, plan, NET, crew(1), DOUBLE, answers=self.told).losses[0, 1]

    @pytest.mark.parametrize("network", [NET, "ConvNetD1W32BN"])
    def test_every_path_cuts_alike(self, network):
        items, plan = made(n=21), self.plan(micro_batches=3)
        paths = (
            ("plain", "stacked", "compiled", "stacked-compiled") if network == NET else ("plain", "stacked")
        )
        plain_, *others = (
            train_students(items, plan, network, crew(1, 2), replace(DOUBLE, path=path), answers=self.told)
            for path in paths
        )
        for other in others:
            assert torch.allclose(other.losses, plain_.losses, rtol=0, atol=1e-10), other.path
            assert other.path != "plain"

    def test_nothing_compiles_anew_while_students_train(self):
        items, plan = made(n=21), self.plan(micro_batches=3)
        for path in ("compiled", "stacked-compiled"):
            options = replace(DOUBLE, path=path)
            train_students(items, plan, NET, crew(1, 2), options, answers=self.told)
            before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            again = train_students(items, plan, NET, crew(3, 4), options, answers=self.told)
            assert again.compile_s == 0
            assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (dict(micro_batches=0), r"micro_batches is 0 for batches of 8; expected 1 to 8"),
            (dict(micro_batches=9), r"micro_batches is 9 for batches of 8"),
            (dict(loss="ce"), r"labels gives logits, but loss is 'ce'; expected kl, mse or mse-gt"),
            (
                dict(views=None),
                r"labels says how views are labelled, but there are none; expected views=ViewPlan",
            ),
            (dict(hard=True), r"hard trains towards label ids, but has loss 'kl'; expected loss 'ce' alone"),
            (dict(hard=True, loss="ce"), r"labels gives logits|hard trains towards label ids"),
            (dict(warmup=2), r"warmup is 2 with schedule 'steps' over 3 epochs; expected a cosine"),
            (dict(warmup=3, schedule="cosine"), r"warmup is 3 with schedule 'cosine' over 3 epochs"),
            (dict(temperature=0.0), r"temperature is 0.0; expected above 0"),
            (
                dict(test_first=5),
                r"test_first is 5 with test_every 0; expected a number of epochs, and tests",
            ),
        ],
    )
    def test_plans_that_cannot_be_are_named(self, more, message):
        with pytest.raises(ValueError, match=message):
            self.plan(**more)


class TestViews:
    HARD = PLAN.changed(
        epochs=3, augment="none", hard=True, views=ViewPlan(epochs=3, batch=8, crop="resized", flip=0.5)
    )

    def steps(self, items: Items, plan: TrainPlan, *seeds: int) -> list[students.Step]:
        return list(Feed(items, plan, crew(*seeds), torch.device("cpu"), torch.float64))

    def test_views_without_stored_answers_are_each_students_own(self):
        own = self.steps(made(), self.HARD, 1, 2)
        assert all(not torch.equal(*s.inputs) for s in own)
        alone = self.steps(made(), self.HARD, 2)
        assert all(torch.equal(a.inputs[1], b.inputs[0]) and torch.equal(a.ids[1], b.ids[0])
                   for a, b in zip(own, alone, strict=True))  # fmt: skip
        other = self.HARD.changed(views=replace(self.HARD.views, seed=7))
        again = self.steps(made(), other, 1, 2)
        assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(own, again, strict=True)), (
            "the student's seed"
        )

    def test_views_with_stored_answers_are_shared(self):
        plan = self.HARD.changed(hard=False, loss="kl", labels=LabelPlan(store=True))
        items = made(
            soft=torch.randn(21, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
            kind="logits",
        )
        shared = self.steps(items, plan, 1, 2)
        assert all(torch.equal(*s.inputs) and s.inputs.is_contiguous() for s in shared)
        clean = plan.changed(labels=LabelPlan(store=True, sees="clean"))
        assert all(not torch.equal(*s.inputs) for s in self.steps(items, clean, 1, 2)), (
            "labels of items, not views"
        )

    def test_many_batches_at_once_are_bit_by_bit_those_one_by_one(self, monkeypatch):
        for more in (
            dict(crop="resized"),
            dict(crop="pad", crop_pad=1, mix="mixup"),
            dict(mix="cutmix", crop="resized"),
        ):
            views = ViewPlan(epochs=3, batch=8, flip=0.5, **more)
            items = made(space=Space("input", (0.5,), (0.5,)))
            parts = list(enumerate(batches(views, 21, 1)))
            many = students.view_batches(items, views, 1, parts)
            for (number, rows), (inputs, drawn) in zip(parts, many, strict=True):
                want, one = students.batch_inputs(items, views, 1, number, rows)
                assert torch.equal(inputs, want) and torch.equal(drawn.flips, one.flips)
                assert (drawn.mix, drawn.lam, drawn.cut, drawn.resized) == (
                    one.mix,
                    one.lam,
                    one.cut,
                    one.resized,
                )
                assert torch.equal(drawn.boxes, one.boxes)

    @pytest.mark.parametrize("path", ["plain", "stacked", "compiled", "stacked-compiled"])
    def test_hard_labels_under_own_views_take_every_path(self, path):
        got = train_students(made(), self.HARD, NET, crew(1, 2), replace(DOUBLE, path=path))
        want = train_students(made(), self.HARD, NET, crew(1, 2), replace(DOUBLE, path="plain"))
        assert got.path == path and torch.allclose(got.losses, want.losses, rtol=0, atol=1e-10)
        alone = train_students(made(), self.HARD, NET, crew(2), DOUBLE)
        assert torch.allclose(alone.losses[0], got.losses[1], rtol=0, atol=1e-10)

    def test_a_resampled_epoch_is_the_laws_under_views_too(self):
        items = made(law=lambda epoch, g: torch.randperm(21, generator=g("law"))[:11])
        own = self.steps(items, self.HARD, 1, 2)
        assert [s.inputs.shape[1] for s in own] == [8, 3] * 3
        drawn = torch.randperm(21, generator=Generators(1)("law"))[:8]
        assert torch.equal(own[0].ids[0], items.ids[drawn])

    def test_a_mix_of_hard_labels_is_no_mix_of_logits(self):
        plan = self.HARD.changed(hard=False, views=replace(self.HARD.views, mix="mixup"))
        got = train_students(made(), plan, NET, crew(1), DOUBLE)
        step = self.steps(made(), plan, 1)[0]
        assert step.kind == "probabilities" and torch.allclose(step.soft.sum(-1), torch.ones(1, 8).double())
        net = build(NET, (1, 8, 8), 3, Generators(1)("weights")).double().train()
        want = torch.nn.functional.cross_entropy(net(step.inputs[0]), step.soft[0])
        assert float(got.losses[0, 0]) == pytest.approx(want.item(), abs=1e-12)


class TestArithmetic:
    def test_fp32_switches_tf32_off_and_gives_it_back(self):
        before = torch.backends.cudnn.allow_tf32
        with compute.arithmetic():
            assert not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cuda.matmul.allow_tf32
        with compute.arithmetic("tf32"):
            assert torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.allow_tf32 == before


class TestSgd:
    @pytest.mark.parametrize("nesterov", [False, True])
    def test_it_is_torchs_own_step_by_step(self, nesterov):
        plan = PLAN.changed(nesterov=nesterov)
        rng = torch.Generator().manual_seed(0)
        shapes = ((4, 3), (3,), (2,))
        start = [torch.randn(s, dtype=torch.float64, generator=rng) for s in shapes]
        ours, theirs = ([t.clone().requires_grad_() for t in start] for _ in range(2))
        mine = engine.optimiser(plan, [(f"p{i}", p) for i, p in enumerate(ours)], 0.1)
        other = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=nesterov)
        for step in range(4):
            for group in (ours, theirs):  # the last parameter is not used by the network
                (group[0].sin().sum() * (step + 1) + group[1].exp().sum()).backward()
            for updates in (mine, other):
                updates.step()
                updates.zero_grad()
        for a, b, first in zip(ours, theirs, start, strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-12)
            assert torch.equal(a, first) == (first is start[2])
