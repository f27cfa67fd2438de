"""DSA and DC's older augmentation against the classic evaluation protocol's description and test vectors."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ddbench.augment import classic, dsa
from ddbench.augment.classic import ClassicDC
from ddbench.augment.dsa import DSA, OPERATIONS, Draw

X3 = torch.arange(12.0).reshape(1, 3, 2, 2) / 12
X4 = torch.arange(16.0).reshape(1, 1, 4, 4) / 16
X8 = torch.arange(64.0).reshape(1, 1, 8, 8)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64).to(dtype)


def only(name: str) -> DSA:
    return DSA(name)


def near(got: torch.Tensor, rows: list[list[float]]) -> None:
    torch.testing.assert_close(got.flatten(0, 2), torch.tensor(rows), atol=6e-7, rtol=0)


class TestVectorsOfTheProtocol:
    def test_brightness(self):
        torch.testing.assert_close(dsa.brightness(X3, 0.8), X3 + 0.3)

    def test_saturation(self):
        near(
            dsa.saturation(X3, 0.75),
            [
                [-0.166667, -0.083333],
                [0, 0.083333],
                [0.333333, 0.416667],
                [0.5, 0.583333],
                [0.833333, 0.916667],
            ]
            + [[1, 1.083333]],
        )

    def test_contrast(self):
        near(
            dsa.contrast(X3, 0.25),
            [[0.114583, 0.177083], [0.239583, 0.302083], [0.364583, 0.427083], [0.489583, 0.552083]]
            + [[0.614583, 0.677083], [0.739583, 0.802083]],
        )

    def test_color(self):
        near(
            dsa.color(X3, torch.tensor([[0.8, 0.75, 0.25]])),
            [[0.289583, 0.352083], [0.414583, 0.477083], [0.664583, 0.727083], [0.789583, 0.852083]]
            + [[1.039583, 1.102083], [1.164583, 1.227083]],
        )

    @pytest.mark.parametrize("copies", [1, 2])  # one row is cut by padding, several by gathering
    def test_crop(self, copies):
        out = dsa.crop(X8.expand(copies, -1, -1, -1), torch.tensor([[1, -1]] * copies))
        assert out[-1, 0, 0].tolist() == [0, 8, 9, 10, 11, 12, 13, 14]
        assert not out[-1, 0, -1].any() and not out[-1, 0, :, 0].any()
        assert torch.equal(out[-1, 0, :-1, 1:], X8[0, 0, 1:, :-1])

    @pytest.mark.parametrize(
        "centre, rows, columns", [((2, 3), slice(1, 3), slice(2, 4)), ((0, 4), slice(0, 1), slice(3, 4))]
    )
    def test_cutout(self, centre, rows, columns):
        expected = X4 + 1
        expected[:, :, rows, columns] = 0
        assert torch.equal(dsa.cutout(X4 + 1, torch.tensor([centre])), expected)

    def test_flip(self):
        assert torch.equal(dsa.flip(X4, 0.4), X4.flip(3))
        assert torch.equal(dsa.flip(X4, 0.5), X4)
        both = dsa.flip(X4.expand(2, -1, -1, -1), torch.tensor([0.4, 0.5]))
        assert torch.equal(both, torch.cat((X4.flip(3), X4)))

    def test_scale(self):
        near(
            dsa.scale(X4, torch.tensor([[1.0, 0.0]])),
            [[0.04375, 0.11875, 0.19375, 0.175], [0.189583, 0.327083, 0.402083, 0.320833]]
            + [[0.335417, 0.535417, 0.610417, 0.466667], [0.48125, 0.74375, 0.81875, 0.6125]],
        )

    def test_rotate(self):
        near(
            dsa.rotate(X4, 1.0),
            [[0.018202, 0.080952, 0.19333, 0.197098], [0.168485, 0.29356, 0.418635, 0.496628]]
            + [[0.367467, 0.518865, 0.64394, 0.769015], [0.424354, 0.74417, 0.783143, 0.603251]],
        )

    def test_the_operation_is_the_first_number_of_the_generator(self):
        chosen = [DSA.classic().draw(3, (3, 32, 32), rng(seed)).operations for seed in range(10)]
        listed = "cutout crop color scale scale rotate cutout flip flip scale".split()
        assert chosen == [(name,) for name in listed]


class TestOperations:
    def test_color_is_the_chain_of_its_three_functions(self):
        x, u = noise(7, 3, 5, 6), torch.rand(7, 3, generator=rng())
        chain = dsa.contrast(dsa.saturation(dsa.brightness(x, u[:, 0]), u[:, 1]), u[:, 2])
        torch.testing.assert_close(dsa.color(x, u), chain, atol=2e-6, rtol=0)

    def test_scale_and_rotate_sample_where_torch_s_affine_grid_does(self):
        x, u = noise(5, 2, 9, 9), torch.rand(5, 2, generator=rng())
        theta = torch.zeros(5, 2, 3)
        theta[:, 0, 0], theta[:, 1, 1] = (u * (1.2 - 1 / 1.2) + 1 / 1.2).unbind(1)
        angle = (u[:, 0] - 0.5) * 2 * 15 * torch.pi / 180
        turn = torch.zeros(5, 2, 3)
        turn[:, 0, 0] = turn[:, 1, 1] = angle.cos()
        turn[:, 0, 1], turn[:, 1, 0] = -angle.sin(), angle.sin()
        for corners in (False, True):  # the same pixels for square images
            for got, matrix in ((dsa.scale(x, u), theta), (dsa.rotate(x, u[:, 0]), turn)):
                grid = F.affine_grid(matrix, list(x.shape), align_corners=corners)
                torch.testing.assert_close(
                    got, F.grid_sample(x, grid, align_corners=corners), atol=1e-5, rtol=0
                )

    @pytest.mark.parametrize("name", OPERATIONS)
    @pytest.mark.parametrize("shared", [False, True])
    def test_gradients_are_those_of_finite_differences(self, name, shared):
        augmentation = DSA(name, prob_flip=1.0 if shared else 0.5)
        x = noise(3, 2, 4, 4, dtype=torch.float64).requires_grad_()
        draw = augmentation.draw(3, x.shape[1:], rng(4), shared)
        assert torch.autograd.gradcheck(lambda x: augmentation.apply(x, draw), x)

    @pytest.mark.parametrize("name", OPERATIONS)
    def test_double_and_bfloat16_follow_single_precision(self, name):
        x = noise(4, 3, 16, 16)
        augmentation = only(name)
        draw = augmentation.draw(4, x.shape[1:], rng(1))
        single = augmentation.apply(x, draw)
        double = augmentation.apply(x.double(), draw)
        half = augmentation.apply(x.bfloat16(), draw)
        assert double.dtype == torch.float64 and half.dtype == torch.bfloat16
        torch.testing.assert_close(double.float(), single, atol=1e-5, rtol=0)
        torch.testing.assert_close(half.float(), single, atol=0.06, rtol=0.02)

    @pytest.mark.parametrize("name", OPERATIONS)
    def test_one_row_and_equal_rows_agree(self, name):
        x, augmentation = noise(5, 3, 9, 9), only(name)
        for seed in range(4):
            draw = augmentation.draw(5, x.shape[1:], rng(seed), shared=True)
            rows = Draw(tuple((n, p.repeat(5, 1)) for n, p in draw.steps))
            torch.testing.assert_close(augmentation.apply(x, rows), augmentation.apply(x, draw))

    @pytest.mark.parametrize("side, reach", [(3, 0), (7, 1), (8, 1), (28, 4), (32, 4), (64, 8)])
    def test_crop_reaches_every_shift_and_no_other(self, side, reach):
        (_, shifts), *_ = only("crop").draw(4000, (1, side, side), rng()).steps
        expected = set(product(range(-reach, reach + 1), repeat=2))
        assert {tuple(s) for s in shifts.tolist()} == expected

    @pytest.mark.parametrize("side, size, last", [(1, 1, 0), (3, 2, 3), (5, 3, 4), (8, 4, 8), (28, 14, 28)])
    def test_cutout_reaches_every_centre_and_cuts_the_clipped_square(self, side, size, last):
        (_, centres), *_ = only("cutout").draw(20_000, (1, side, side), rng()).steps
        assert {tuple(c) for c in centres.tolist()} == set(product(range(last + 1), repeat=2))
        out = dsa.cutout(torch.ones(1, 1, side, side).expand(500, -1, -1, -1), centres[:500])
        for image, (row, column) in zip(out, centres[:500].tolist(), strict=True):
            rows = {min(max(row - size // 2 + k, 0), side - 1) for k in range(size)}
            columns = {min(max(column - size // 2 + k, 0), side - 1) for k in range(size)}
            zeros = {(i, j) for _, i, j in (image == 0).nonzero().tolist()}
            assert zeros == set(product(rows, columns)) and zeros

    @pytest.mark.parametrize("side, last", [(32, 32), (64, 64)])
    def test_cutout_centres_of_the_larger_sides_end_at_the_side(self, side, last):
        (_, centres), *_ = only("cutout").draw(20_000, (3, side, side), rng()).steps
        assert (int(centres.min()), int(centres.max())) == (0, last)

    def test_sides_of_different_length_have_ranges_of_their_own(self):
        (_, shifts), *_ = only("crop").draw(2000, (1, 8, 32), rng()).steps
        assert shifts.abs().amax(0).tolist() == [1, 4]
        (_, centres), *_ = only("cutout").draw(2000, (1, 6, 8), rng()).steps
        assert centres.amax(0).tolist() == [5, 8]


class TestDraws:
    def test_every_operation_is_equally_likely(self):
        g = rng(0)
        seen = Counter(DSA.classic().draw(1, (3, 8, 8), g).operations[0] for _ in range(6000))
        assert set(seen) == set(OPERATIONS) and all(880 < n < 1120 for n in seen.values())

    def test_digits_are_never_mirrored(self):
        g = rng(0)
        seen = Counter(DSA.classic(flip=False).draw(1, (1, 8, 8), g).operations[0] for _ in range(1000))
        assert set(seen) == set(OPERATIONS) - {"flip"}

    @pytest.mark.parametrize("name", OPERATIONS)
    def test_a_single_draw_gives_each_image_a_parameter_of_its_own(self, name):
        ((_, parameters),) = only(name).draw(40, (3, 32, 32), rng()).steps
        assert len(parameters) == 40 and len(parameters.unique(dim=0)) > 20

    @pytest.mark.parametrize("form", [DSA.classic(), DSA.fyi(), DSA.diffaug("_".join(OPERATIONS))])
    def test_a_shared_draw_treats_batches_of_any_size_alike(self, form):
        x = noise(40, 3, 16, 16)
        seen = set()
        for seed in range(30):
            few = form.draw(3, x.shape[1:], rng(seed), shared=True)
            many = form.draw(40, x.shape[1:], rng(seed), shared=True)
            assert few.operations == many.operations
            assert torch.equal(form.apply(x[:3], few), form.apply(x, many)[:3])
            assert torch.equal(form.apply(x, few), form.apply(x, many))
            seen.update(few.operations)
        assert seen == set(OPERATIONS)

    def test_equal_generators_give_equal_draws(self):
        form = DSA.diffaug("color_crop_cutout")
        a, b = (form.draw(5, (3, 8, 8), rng(3)) for _ in range(2))
        assert a.operations == b.operations
        assert all(torch.equal(p, q) for (_, p), (_, q) in zip(a.steps, b.steps, strict=True))

    def test_fyi_flips_first_and_then_draws_one_of_the_others(self):
        g = rng(0)
        seen = Counter(DSA.fyi().draw(2, (3, 8, 8), g).operations for _ in range(1000))
        assert set(seen) == {("flip", name) for name in OPERATIONS if name != "flip"}
        assert all(150 < n < 250 for n in seen.values())
        assert DSA.fyi(flip=False) == DSA.classic(flip=False)

    @pytest.mark.parametrize(
        "names, orders",
        [
            ("color_crop_cutout", {("color", "crop", "cutout")}),
            ("color_crop", {("color", "crop")}),
            ("color_crop_flip_scale_rotate", {("flip", "color", n) for n in ("crop", "scale", "rotate")}),
            ("cutout_flip", {("flip", "cutout")}),
        ],
    )
    def test_diffaug_keeps_its_order(self, names, orders):
        g = rng(0)
        form = DSA.diffaug(names)
        assert {form.draw(2, (3, 8, 8), g).operations for _ in range(100)} == orders

    def test_operations_are_applied_in_their_order(self):
        form, x = DSA.diffaug("color_crop_cutout"), noise(4, 3, 8, 8)
        draw = form.draw(4, x.shape[1:], rng(2))
        (_, color), (_, crop), (_, cutout) = draw.steps
        expected = dsa.cutout(dsa.crop(dsa.color(x, color), crop), cutout)
        assert torch.equal(form.apply(x, draw), expected)


class TestGroups:
    @pytest.mark.parametrize("form", [DSA.classic(), DSA.fyi(), DSA.diffaug("_".join(OPERATIONS))])
    @pytest.mark.parametrize("shared", [False, True])
    @pytest.mark.parametrize("groups", [1, 2, 12])
    def test_groups_are_a_loop_over_groups(self, form, shared, groups):
        x = noise(groups, 5, 3, 8, 8, dtype=torch.float64).requires_grad_()
        weight = noise(*x.shape, seed=1, dtype=torch.float64)
        draws = form.draw_groups(groups, 5, x.shape[2:], rng(9), shared)
        together = form.apply_groups(x, draws)
        loop = torch.stack([form.apply(part, draw) for part, draw in zip(x, draws, strict=True)])
        torch.testing.assert_close(together, loop, atol=1e-12, rtol=0)
        gradients = [torch.autograd.grad((out * weight).sum(), x)[0] for out in (together, loop)]
        torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)

    def test_a_generator_each_makes_a_group_independent_of_its_neighbours(self):
        form = DSA.classic()
        alone = form.draw(4, (3, 8, 8), rng(5))
        stacked = form.draw_groups(3, 4, (3, 8, 8), [rng(6), rng(5), rng(7)])[1]
        assert alone.operations == stacked.operations
        assert torch.equal(alone.steps[0][1], stacked.steps[0][1])

    def test_one_draw_serves_real_and_synthetic_batches_of_all_classes(self):
        form, real = DSA.classic(), noise(10, 6, 3, 8, 8)
        draws = form.draw_groups(10, 6, real.shape[2:], rng(1), shared=True)
        torch.testing.assert_close(
            form.apply_groups(real, draws)[:, :2], form.apply_groups(real[:, :2], draws)
        )

    def test_counts_that_do_not_fit_are_refused(self):
        form = DSA.classic()
        with pytest.raises(ValueError, match="2 generators for 3 groups; pass one, or one for each group"):
            form.draw_groups(3, 4, (3, 8, 8), [rng(), rng()])
        draws = form.draw_groups(2, 4, (3, 8, 8), rng())
        with pytest.raises(ValueError, match="2 draws for 3 groups of images; pass one draw a group"):
            form.apply_groups(noise(3, 4, 3, 8, 8), draws)
        with pytest.raises(ValueError, match=r"groups of floating-point images .* of shape \(4, 3, 8, 8\)"):
            form.apply_groups(noise(4, 3, 8, 8), draws)


@settings(max_examples=60, deadline=None)
@given(
    names=st.sets(st.sampled_from(OPERATIONS), min_size=1),
    form=st.sampled_from(["lottery", "diffaug"]),
    shape=st.tuples(st.integers(1, 6), st.sampled_from([1, 3]), st.integers(1, 12), st.integers(1, 12)),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    shared=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_shape_type_and_finiteness_survive_any_augmentation(names, form, shape, dtype, shared, seed):
    strategy = "_".join(sorted(names))
    augmentation = DSA(strategy) if form == "lottery" else DSA.diffaug(strategy)
    x = noise(*shape, seed=seed, dtype=dtype)
    before = x.clone()
    out = augmentation.apply(x, augmentation.draw(len(x), shape[1:], rng(seed), shared))
    assert out.shape == x.shape and out.dtype == dtype and out.isfinite().all()
    assert torch.equal(x, before)


class TestBadSettings:
    def test_an_unknown_operation_lists_the_valid_ones(self):
        with pytest.raises(
            ValueError, match="DSA.strategy names 'colour'; expected operations out of color, crop, cut"
        ):
            DSA("colour_crop")
        with pytest.raises(ValueError, match="DSA.always names 'mirror'; expected operations out of color"):
            DSA(always=("mirror",))
        with pytest.raises(
            ValueError, match="DSA.strategy names 'none'; .* leave the augmentation out to use none"
        ):
            DSA("none")

    def test_an_operation_is_named_once(self):
        with pytest.raises(ValueError, match="DSA names 'crop' twice; name every operation once"):
            DSA("crop_crop")
        with pytest.raises(ValueError, match="DSA names 'flip' twice"):
            DSA(always=("flip",), after=("flip",))

    def test_what_is_always_applied_belongs_to_the_strategy(self):
        with pytest.raises(
            ValueError, match="always applies 'flip', which strategy 'color_crop' lacks; add it there"
        ):
            DSA("color_crop", always=("flip",))

    def test_constants_have_ranges(self):
        with pytest.raises(ValueError, match=r"DSA.prob_flip is 1.5; expected a number from 0.0 to 1.0"):
            DSA(prob_flip=1.5)
        with pytest.raises(ValueError, match=r"DSA.ratio_scale is nan; expected a number from 1.0"):
            DSA(ratio_scale=float("nan"))

    def test_integer_images_are_refused(self):
        form = DSA.classic()
        with pytest.raises(
            ValueError, match=r"got torch.uint8 of shape \(2, 1, 4, 4\); standardise the images"
        ):
            form.apply(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), form.draw(2, (1, 4, 4), rng()))

    def test_a_draw_for_another_batch_size_is_refused(self):
        form = DSA.classic()
        with pytest.raises(
            ValueError, match="parameters for 3 images but the batch has 4; draw for this batch size"
        ):
            form.apply(noise(4, 3, 8, 8), form.draw(3, (3, 8, 8), rng()))


class TestClassicDC:
    def test_the_protocol_augments_mnist_and_batch_norm_only(self):
        assert ClassicDC.in_protocol("mnist", "ConvNet") == ClassicDC("crop_scale_rotate")
        assert ClassicDC.in_protocol("cifar10", "ConvNetBN") == ClassicDC("crop_noise")
        assert ClassicDC.in_protocol("mnist", "ConvNetBN") == ClassicDC("crop_noise")
        assert ClassicDC.in_protocol("cifar10", "ConvNet") is None

    def test_crop_shifts_and_fills_with_the_given_colour(self):
        x = X8[0].repeat(2, 1, 1)
        out = classic.crop(x, (5, 3), torch.tensor([-1.0, -2.0]))
        assert torch.equal(out[:, :-1, 1:], x[:, 1:, :-1])
        assert (out[0, -1] == -1).all() and (out[1, :, 0] == -2).all()
        assert torch.equal(classic.crop(x, (4, 4), torch.zeros(2)), x)

    def test_scale_centres_by_nearest_neighbour(self):
        x = X8[0] + 1
        small = classic.scale(x, (6, 8))
        assert not small[:, 0].any() and not small[:, -1].any()
        assert torch.equal(small[0, 1:-1], x[0, torch.arange(6) * 8 // 6])
        large = classic.scale(x, (10, 8))
        assert torch.equal(large[0], x[0, (torch.arange(10) * 8 // 10)[1:9]])

    def test_scale_centres_on_one_square_canvas_whichever_axis_grows(self):
        out = classic.scale(torch.ones(1, 32, 32), (35, 25))[0]
        # canvas 35: the columns begin at (35 - 25) // 2, the cut at (35 - 32) // 2
        assert out[0].nonzero().flatten().tolist() == list(range(4, 29))

    def test_rotate_turns_quarters_exactly_and_fills_the_corners(self):
        x = X8[0]
        torch.testing.assert_close(classic.rotate(x, 90, 0.0), x.rot90(1, (1, 2)), atol=1e-4, rtol=0)
        corners = classic.rotate(torch.ones(1, 8, 8), 45, -3.0)[0, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert (corners == -3).all()

    @pytest.mark.parametrize("name", classic.OPERATIONS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_shape_type_and_images_survive(self, name, dtype):
        x = noise(4, 3, 8, 8, dtype=dtype)
        before, augmentation = x.clone(), ClassicDC(name)
        out = augmentation.apply(x, augmentation.draw(4, x.shape[1:], rng()))
        assert out.shape == x.shape and out.dtype == dtype and out.isfinite().all()
        assert torch.equal(x, before) and not torch.equal(out, x)

    def test_every_image_gets_one_operation_uniformly(self):
        draw = ClassicDC().draw(3000, (1, 28, 28), rng())
        seen = Counter(draw.operations)
        assert set(seen) == {"crop", "scale", "rotate"} and all(900 < n < 1100 for n in seen.values())
        assert ClassicDC("crop_noise").draw(50, (1, 8, 8), rng()).noise

    def test_crops_shift_from_four_up_to_three_down(self):
        x = torch.zeros(1, 1, 28, 28)
        x[0, 0, 14, 14] = 1000
        augmentation, seen = ClassicDC("crop"), set()
        for seed in range(400):
            out = augmentation.apply(x, augmentation.draw(1, (1, 28, 28), rng(seed)))[0, 0]
            seen.add(tuple(14 - at for at in divmod(int(out.argmax()), 28)))
        assert {row for row, _ in seen} == {column for _, column in seen} == set(range(-4, 4))

    def test_noise_is_small(self):
        x = noise(200, 1, 8, 8)
        augmentation = ClassicDC("noise")
        out = augmentation.apply(x, augmentation.draw(200, (1, 8, 8), rng()))
        assert (out - x).std().item() == pytest.approx(0.001, rel=0.05)

    def test_groups_are_a_loop_over_groups(self):
        x, augmentation = noise(3, 4, 1, 8, 8), ClassicDC()
        draws = augmentation.draw_groups(3, 4, (1, 8, 8), [rng(i) for i in range(3)])
        alone = augmentation.apply(x[1], augmentation.draw(4, (1, 8, 8), rng(1)))
        assert torch.equal(augmentation.apply_groups(x, draws)[1], alone)

    def test_what_it_cannot_do_is_said(self):
        with pytest.raises(
            ValueError, match="names 'flip'; expected operations out of crop, scale, rotate, noise"
        ):
            ClassicDC("crop_flip")
        with pytest.raises(ValueError, match="names 'crop' twice"):
            ClassicDC("crop_crop")
        with pytest.raises(ValueError, match="no siamese form: call draw with shared=False, or use DSA"):
            ClassicDC().draw(2, (1, 8, 8), rng(), shared=True)
        with pytest.raises(ValueError, match="rotates square images only; got 8 x 9 pixels"):
            ClassicDC().draw(2, (1, 8, 9), rng())
        augmentation = ClassicDC()
        with pytest.raises(ValueError, match="parameters for 2 images but the batch has 3"):
            augmentation.apply(noise(3, 1, 8, 8), augmentation.draw(2, (1, 8, 8), rng()))
        with pytest.raises(ValueError, match="2 generators for 3 groups"):
            augmentation.draw_groups(3, 2, (1, 8, 8), [rng(), rng()])
        with pytest.raises(ValueError, match="1 draws for 3 groups"):
            augmentation.apply_groups(noise(3, 1, 1, 8, 8), augmentation.draw_groups(1, 1, (1, 8, 8), rng()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("form", [DSA.classic(), DSA.diffaug("_".join(OPERATIONS))])
@pytest.mark.parametrize("shared", [False, True])
def test_a_gpu_gives_the_cpu_s_images_and_never_makes_the_host_wait(form, shared):
    x = noise(12, 5, 3, 32, 32)
    draws = form.draw_groups(12, 5, x.shape[2:], rng(3), shared)
    there = x.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        together = form.apply_groups(there, draws)
        alone = [form.apply(part, draw) for part, draw in zip(there, draws, strict=True)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(together.cpu(), form.apply_groups(x, draws), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.stack(alone), together, atol=1e-5, rtol=0)
