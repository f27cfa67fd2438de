"""The engine under SRe2L, CDA, CV-DD and INFER: views as matrices, cells side by side, checkpoints."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_recovery import CLASSES, SHAPE, plain_cell, toy_data, toy_teacher

from ddbench import store
from ddbench.contract import DistilledSet
from ddbench.matching import recovery
from ddbench.matching.recovery import (
    Recovery,
    check_batch_norm,
    compensate,
    least_area,
    observed,
    recover,
    resampling,
    seen,
    to_bytes,
)
from ddbench.task import RunTask, TimeBudget

TOY = Recovery(iterations=6, lr=0.1, bn_weight=0.3, classes_at_once=CLASSES, roll=(-2, 2))


def task(ipc=2, seed=5, **more):
    return RunTask(toy_data(), ipc, seed, **more)


def one_vote(ids):
    return torch.ones(ids, 1)


class TestViews:
    @settings(max_examples=60, deadline=None)
    @given(st.data(), st.integers(2, 12), st.integers(2, 12))
    def test_two_matrices_crop_resize_mirror_and_shift_as_the_plain_operations_do(self, data, height, width):
        h, w = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
        top, left = data.draw(st.integers(0, height - h)), data.draw(st.integers(0, width - w))
        flip, up = data.draw(st.booleans()), data.draw(st.integers(-15, 15))
        right = data.draw(st.integers(-15, 15))
        x = torch.randn(
            1, 2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        no = torch.tensor([False])
        rows = resampling(torch.tensor([top]), torch.tensor([h]), height, no, torch.tensor([up]))
        columns = resampling(
            torch.tensor([left]), torch.tensor([w]), width, torch.tensor([flip]), torch.tensor([right])
        )
        crop = x[0, :, :, top : top + h, left : left + w]
        want = F.interpolate(crop, size=(height, width), mode="bilinear", align_corners=False)
        want = torch.roll(want.flip(3) if flip else want, (up, right), (2, 3))
        torch.testing.assert_close(seen(x, rows, columns)[0], want, rtol=1e-12, atol=1e-12)

    def test_every_step_takes_as_many_random_numbers_whatever_it_uses(self):
        streams = []
        for crop, flip in ((True, True), (False, False)):
            chance = torch.Generator().manual_seed(3)
            made = Recovery(iterations=4, crop=crop, flip=flip, roll=(0, 4))
            views = [made.draw(it, (8, 8), [chance]) for it in range(3)]
            streams.append(chance.get_state())
        assert torch.equal(*streams)
        assert {tuple(m.shape) for pair in views for m in pair} == {(1, 8, 8)}

    def test_without_crop_and_mirror_a_view_is_a_shift_within_its_bounds(self):
        made, chance = (
            Recovery(iterations=1, crop=False, flip=False, roll=(-1, 3)),
            torch.Generator().manual_seed(0),
        )
        x = torch.arange(64.0, dtype=torch.float64).view(1, 1, 1, 8, 8)
        found = set()
        for _ in range(200):
            rows, columns = made.draw(0, (8, 8), [chance])
            view = seen(x, rows, columns)[0, 0, 0]
            shifts = [
                (a, b)
                for a in range(-1, 4)
                for b in range(-1, 4)
                if torch.equal(view, x[0, 0, 0].roll((a, b), (0, 1)))
            ]
            assert len(shifts) == 1
            found.add(shifts[0])
        assert found == {(a, b) for a in range(-1, 4) for b in range(-1, 4)}


class TestCells:
    def test_statistics_are_those_of_each_cell_alone(self):
        net = toy_teacher().network
        x = torch.randn(3, CLASSES, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        logits, distance = observed(net, x)
        for g in range(3):
            alone = observed(net, x[g : g + 1])
            torch.testing.assert_close(logits[g : g + 1], alone[0], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(distance[g : g + 1], alone[1], rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("together", [1, 3, 64])
    def test_how_many_run_side_by_side_changes_nothing(self, monkeypatch, together):
        monkeypatch.setattr(recovery, "_cells_together", lambda *_: together)
        made = recover(task(3), [toy_teacher()], one_vote(3), TOY, toy_data().space)
        monkeypatch.setattr(recovery, "_cells_together", lambda *_: 2)
        assert torch.equal(made, recover(task(3), [toy_teacher()], one_vote(3), TOY, toy_data().space))

    def test_runs_of_classes_have_statistics_of_their_own_and_the_last_may_be_short(self):
        few = replace(TOY, classes_at_once=3)
        made = recover(task(2), [toy_teacher()], one_vote(2), few, toy_data().space)
        assert made.shape == (2, CLASSES, *SHAPE) and made.dtype == torch.uint8
        for number in range(2):
            for run in (torch.tensor([0, 1, 2]), torch.tensor([3])):
                chance = task(2).rng(f"recover-{number}-{int(run[0])}")
                start = torch.randn(len(run), *SHAPE, generator=chance)
                want = plain_cell(
                    [toy_teacher()], [1.0], start, run, chance, few, [0.08] * 6, toy_data().space
                )
                assert torch.equal(made[number, run], to_bytes(want, toy_data().space))

    def test_compiled_gradients_are_the_plain_ones(self, monkeypatch):
        plain = recover(task(2), [toy_teacher()], one_vote(2), TOY, toy_data().space)
        monkeypatch.setattr(recovery, "_compiles", lambda *_: True)
        compiled = recover(task(2), [toy_teacher()], one_vote(2), TOY, toy_data().space)
        assert (plain.int() - compiled.int()).abs().max() <= 1

    def test_the_first_images_may_be_given_and_a_vote_of_zero_asks_nobody(self):
        class Deaf(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.norm = torch.nn.BatchNorm2d(3)

            def forward(self, x):
                if len(x) > 1:
                    raise AssertionError("asked")
                return x.flatten(1)[:, :CLASSES]

        real = toy_data()
        teachers = [toy_teacher(), toy_teacher(1)]
        teachers[1] = type(teachers[1])(
            Deaf().double().eval(), "deaf", 0.0, 0.0, name="ConvNetD2W4BN", space=real.space
        )
        first = real.space.real_to_input(real.images[:CLASSES])
        made = recover(
            task(1),
            teachers,
            torch.tensor([[1.0, 0.0]]),
            TOY,
            real.space,
            lambda _id, classes: first[classes],
        )
        chance = task(1).rng("recover-0-0")
        want = plain_cell(teachers, [1.0, 0.0], first, torch.arange(4), chance, TOY, [0.08] * 6, real.space)
        assert torch.equal(made[0], to_bytes(want, real.space))


class TestPerturbations:
    def test_one_for_all_classes_is_what_a_plain_loop_makes(self):
        real = toy_data()
        naturals = real.images[: 2 * CLASSES].view(2, CLASSES, *SHAPE)
        teachers = [toy_teacher(), toy_teacher(1)]
        made = compensate(task(), teachers, naturals, TOY, real.space)
        assert made.shape == (2, 2, *SHAPE)
        for m in range(2):
            for j in range(2):
                chance = task().rng(f"compensate-{2 * m + j}")
                base = real.space.real_to_input(naturals[j]).double()
                want = plain_cell(
                    [teachers[m]], [1.0], torch.zeros(1, *SHAPE), torch.arange(CLASSES), chance, TOY, [0.08] * 6,
                    real.space, base,
                )  # fmt: skip
                torch.testing.assert_close(made[m, j].double(), want[0], rtol=1e-6, atol=1e-6)

    def test_no_iterations_leave_them_at_zero(self):
        naturals = toy_data().images[:CLASSES][None]
        made = compensate(task(), [toy_teacher()], naturals, replace(TOY, iterations=0), toy_data().space)
        assert made.shape == (1, 1, *SHAPE) and not made.any()


class TestRuns:
    def test_a_stopped_recovery_goes_on_to_the_same_bits(self, tmp_path, monkeypatch):
        monkeypatch.setattr(recovery, "_cells_together", lambda *_: 2)
        whole = recover(task(3), [toy_teacher()], one_vote(3), TOY, toy_data().space)

        class After(TimeBudget):
            left = 8

            def used_up(self):
                self.left -= 1
                return self.left < 0

        run = store.RunFolder(tmp_path)
        first = task(3, run=run, budget=After(), checkpoint_every_s=0.0)
        part = recover(first, [toy_teacher()], one_vote(3), TOY, toy_data().space)
        assert first.partial and not torch.equal(part, whole)
        again = recover(task(3, run=run), [toy_teacher()], one_vote(3), TOY, toy_data().space)
        assert torch.equal(again, whole)

    @pytest.mark.parametrize("left", [3, 8])
    def test_another_number_of_cells_side_by_side_cannot_go_on_and_says_why(
        self, tmp_path, monkeypatch, left
    ):
        class After(TimeBudget):
            def used_up(self):
                nonlocal left
                left -= 1
                return left < 0

        run = store.RunFolder(tmp_path)
        monkeypatch.setattr(recovery, "_cells_together", lambda *_: 1)
        recover(task(3, run=run, budget=After()), [toy_teacher()], one_vote(3), TOY, toy_data().space)
        monkeypatch.setattr(recovery, "_cells_together", lambda *_: 3)
        with pytest.raises(
            store.DamagedError, match="holds 1 cells side by side, 3 are asked for.*memory limit"
        ):
            recover(task(3, run=run), [toy_teacher()], one_vote(3), TOY, toy_data().space)

    def test_finished_cells_keep_their_bytes_in_a_checkpoint_and_nothing_else(self, tmp_path):
        run = store.RunFolder(tmp_path)
        recover(task(2, run=run), [toy_teacher()], one_vote(2), TOY, toy_data().space)
        (file,) = run.checkpoint_path("distill").glob("*.safetensors")
        (state,) = store.load_state(file)["state"]
        assert set(state) == {"result"} and state["result"].dtype == torch.uint8

    def test_snapshots_show_grey_where_nothing_has_begun(self, tmp_path, monkeypatch):
        monkeypatch.setattr(recovery, "_cells_together", lambda *_: 1)
        shown = []

        def show(images):
            shown.append(images.clone())
            t = task(2)
            space = replace(toy_data().space, stored="uint8")
            return t.distilled(images=images.flatten(0, 1), ids=torch.arange(CLASSES).repeat(2), space=space)

        made = task(2, run=store.RunFolder(tmp_path), snapshot_every=6)
        last = recover(made, [toy_teacher()], one_vote(2), TOY, toy_data().space, show=show)
        grey = to_bytes(torch.zeros(1, *SHAPE), toy_data().space)[0]
        assert len(shown) == 2 and bool((shown[0][1] == grey).all())
        assert torch.equal(shown[0][0], last[0]) and isinstance(show(last), DistilledSet)


class TestWrongThings:
    def test_a_network_without_batch_norm_is_refused_by_name(self):
        with pytest.raises(ValueError, match=r"ConvNetD2 has no batch norm.*such as ResNet18BN or ConvNetBN"):
            check_batch_norm("ConvNetD2", (3, 8, 8), 4)
        check_batch_norm("ConvNetD2BN", (3, 8, 8), 4)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (dict(iterations=-1), "iterations is -1"),
            (dict(classes_at_once=0), "classes_at_once is 0; expected at least 1"),
            (dict(lr=0.0), "lr is 0.0; expected a step above 0"),
            (dict(bn_weight=-1.0), "bn_weight is -1.0"),
            (dict(roll=(4, 0)), r"roll is \(4, 0\); expected the least and the greatest"),
            (dict(curriculum="sine"), "curriculum is 'sine'; expected one of step, linear, cosine"),
            (dict(milestone=1.5), "milestone is 1.5; expected a share"),
        ],
    )
    def test_settings_out_of_range_are_named(self, wrong, message):
        with pytest.raises(ValueError, match=message):
            Recovery(**wrong)

    def test_votes_must_fit_the_networks_and_name_one_for_every_id(self):
        for votes in (torch.ones(2, 2), torch.zeros(2, 1), torch.ones(2)):
            with pytest.raises(ValueError, match=r"votes are .* for 1 networks; expected \(ids, networks\)"):
                recover(task(), [toy_teacher()], votes, TOY, toy_data().space)

    def test_least_area_names_what_is_wrong(self):
        with pytest.raises(ValueError, match="curriculum is 'none'"):
            least_area(0, 10, "none", 1.0)


@pytest.mark.gpu
def test_a_gpu_recovers_what_a_cpu_does():
    cpu = recover(task(2), [toy_teacher()], one_vote(2), TOY, toy_data().space)
    there = toy_teacher()
    there.network.to("cuda")
    gpu = recover(task(2, device=torch.device("cuda")), [there], one_vote(2), TOY, toy_data().space)
    assert (cpu.int() - gpu.int()).abs().max() <= 1  # float64: a rounded byte at most
