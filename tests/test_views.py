"""Views under a plan: reproducible from the seed alone, drawn by the laws of the papers, applied exactly."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ddbench.augment.views import Views, apply_views, batches, cutmix_box, draw_views, mix_rows, own_share
from ddbench.trainplan import ViewPlan

PLAN = ViewPlan(epochs=4, batch=4, seed=42, crop="resized", flip=0.5, mix="cutmix")
SHAPE = (3, 32, 32)


def draw(plan, n, epoch=0, batch=0, shape=SHAPE):
    return draw_views(plan, epoch, batch, torch.arange(n), shape)


def equal(a, b):
    same = torch.equal(a.boxes, b.boxes) and torch.equal(a.flips, b.flips) and torch.equal(a.perm, b.perm)
    return same and (a.lam, a.cut) == (b.lam, b.cut)


class TestOrder:
    def test_every_epoch_is_another_permutation_in_chunks(self):
        epochs = [batches(PLAN, 10, e) for e in range(4)]
        for chunks in epochs:
            assert [len(c) for c in chunks] == [4, 4, 2]  # the short one is kept
            assert sorted(torch.cat(chunks).tolist()) == list(range(10))
        assert len({tuple(torch.cat(c).tolist()) for c in epochs}) == 4

    def test_it_hangs_on_seed_and_epoch_only(self):
        a, b = batches(PLAN, 10, 2), batches(replace(PLAN, flip=0.0, mix="none"), 10, 2)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        assert not torch.equal(torch.cat(a), torch.cat(batches(replace(PLAN, seed=1), 10, 2)))

    def test_the_numbers_never_change(self):
        # labels on disk answer these very views: a change here voids them all
        assert torch.cat(batches(PLAN, 8, 0)).tolist() == [3, 0, 5, 1, 4, 6, 2, 7]
        views = draw(PLAN, 4)
        assert views.boxes.tolist() == [[5, 3, 26, 29], [13, 3, 18, 16], [0, 0, 15, 19], [8, 5, 20, 26]]
        assert views.flips.tolist() == [False, True, True, True] and views.perm.tolist() == [1, 0, 2, 3]
        assert views.cut == (7, 2, 32, 32) and views.lam == pytest.approx(0.08622724295420293, abs=1e-12)

    def test_sequential_keeps_the_order(self):
        assert torch.cat(batches(replace(PLAN, order="sequential"), 6, 1)).tolist() == list(range(6))

    @pytest.mark.parametrize("first", range(4))
    def test_each_item_comes_first_equally_often(self, first):
        plan = replace(PLAN, epochs=2000)
        count = sum(int(batches(plan, 4, e)[0][0]) == first for e in range(2000))
        assert count == pytest.approx(500, abs=100)

    def test_epochs_beyond_the_plan_are_refused(self):
        with pytest.raises(ValueError, match="the view plan has no epoch 4; it has 4"):
            batches(PLAN, 10, 4)
        with pytest.raises(ValueError, match="the view plan has no epoch 9"):
            draw(PLAN, 4, epoch=9)


class TestDraws:
    def test_crop_and_flip_hang_on_seed_epoch_and_item(self):
        whole = draw(PLAN, 8, epoch=1)
        part = draw_views(PLAN, 1, 5, torch.tensor([6, 2]), SHAPE)
        assert torch.equal(part.boxes, whole.boxes[[6, 2]]) and torch.equal(part.flips, whole.flips[[6, 2]])
        assert not torch.equal(draw(PLAN, 8, epoch=2).boxes, whole.boxes)
        assert not torch.equal(draw(replace(PLAN, seed=1), 8, epoch=1).boxes, whole.boxes)

    def test_the_mix_hangs_on_seed_epoch_and_batch(self):
        a, b = (
            draw_views(PLAN, 0, 3, torch.arange(4), SHAPE),
            draw_views(PLAN, 0, 3, torch.arange(4, 8), SHAPE),
        )
        assert a.lam == b.lam and a.cut == b.cut and torch.equal(a.perm, b.perm)
        others = [draw(PLAN, 4, batch=k).lam for k in range(3)] + [draw(PLAN, 4, epoch=1).lam]
        assert len({a.lam, *others}) == 5

    def test_equal_draws_at_every_call(self):
        assert equal(draw(PLAN, 8), draw(PLAN, 8))

    def test_flips_have_their_probability(self):
        for p in (0.0, 0.25, 1.0):
            share = draw(replace(PLAN, flip=p), 4000).flips.float().mean().item()
            assert share == pytest.approx(p, abs=0.03)

    def test_resized_crops_stay_inside_and_have_the_law_of_torchvision(self):
        top, left, h, w = draw(PLAN, 4000, shape=(3, 64, 64)).boxes.unbind(1)
        assert (top >= 0).all() and (left >= 0).all() and (top + h <= 64).all() and (left + w <= 64).all()
        area, ratio = h * w / 64**2, w / h
        assert 0.07 < area.min() and area.max() <= 1
        assert 0.7 < ratio.min() and ratio.max() < 1.45
        assert ratio.log().mean().item() == pytest.approx(0, abs=0.01)
        from torchvision.transforms import RandomResizedCrop

        with torch.random.fork_rng():
            torch.manual_seed(0)
            params = [
                RandomResizedCrop.get_params(torch.zeros(3, 64, 64), (0.08, 1), (0.75, 4 / 3))
                for _ in range(4000)
            ]
        theirs = torch.tensor(params).double()
        for ours, column in zip((top, left, h, w), theirs.unbind(1), strict=True):
            assert ours.double().mean() == pytest.approx(
                column.mean().item(), abs=0.05 * column.std().item() + 0.3
            )
            assert ours.double().std() == pytest.approx(column.std().item(), rel=0.05)

    @pytest.mark.parametrize("side", [32, 64])
    def test_scale_one_returns_the_whole_square(self, side):
        plan = replace(PLAN, crop_scale=(1.0, 1.0))
        boxes = draw(plan, 3000, shape=(3, side, side)).boxes
        assert boxes.unique(dim=0).tolist() == [[0, 0, side, side]]

    @pytest.mark.parametrize(
        ("shape", "box"), [((1, 40, 10), [13, 0, 13, 10]), ((1, 10, 40), [0, 13, 10, 13])]
    )
    def test_impossible_crops_fall_back_to_the_centre(self, shape, box):
        plan = replace(PLAN, crop_scale=(1.0, 1.0))
        assert draw(plan, 20, shape=shape).boxes.unique(dim=0).tolist() == [box]

    def test_padded_crops_move_by_at_most_the_padding(self):
        boxes = draw(replace(PLAN, crop="pad", crop_pad=2), 2000).boxes
        assert boxes[:, 2:].unique(dim=0).tolist() == [[32, 32]]
        for axis in (0, 1):
            counts = torch.bincount(boxes[:, axis] + 2, minlength=5)
            assert len(counts) == 5 and counts.min() > 320  # 400 each

    @pytest.mark.parametrize(("alpha", "variance"), [(1.0, 1 / 12), (0.8, 1 / 10.4), (2.0, 0.05)])
    def test_the_mixing_weight_follows_its_beta_law(self, alpha, variance):
        plan = replace(PLAN, mix="mixup", mix_alpha=alpha, epochs=1)
        lam = torch.tensor([draw(plan, 2, batch=b).lam for b in range(2000)])
        assert lam.mean().item() == pytest.approx(0.5, abs=0.03)
        assert lam.var().item() == pytest.approx(variance, rel=0.1)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (dict(crop="centre"), "view plan crop is 'centre'; expected none, pad or resized"),
            (dict(mix="blend"), "view plan mix is 'blend'; expected none, mixup or cutmix"),
        ],
    )
    def test_unknown_kinds_are_refused(self, change, message):
        with pytest.raises(ValueError, match=message):
            draw(replace(PLAN, **change), 2)

    def test_an_unknown_order_is_refused(self):
        with pytest.raises(ValueError, match="view plan order is 'sorted'; expected shuffled or sequential"):
            batches(replace(PLAN, order="sorted"), 4, 0)


class TestBoxes:
    @pytest.mark.parametrize(
        ("side", "lam", "centre", "box"),
        [(32, 0.75, (5, 20), (0, 12, 13, 28)), (224, 0.36, (112, 10), (23, 0, 201, 99))],
    )
    def test_cutmix_boxes_of_the_spec(self, side, lam, centre, box):
        assert cutmix_box(side, side, lam, *centre) == box


class TestApplying:
    def none(self, n, **other):
        return Views(None, torch.zeros(n, dtype=torch.bool), **other)

    def test_no_view_changes_nothing(self):
        x = torch.rand(2, 3, 8, 8)
        assert torch.equal(apply_views(x, self.none(2)), x)

    def test_a_resized_crop_is_the_interpolated_crop(self):
        x = torch.rand(3, 2, 9, 8, dtype=torch.float64)
        boxes = torch.tensor([[1, 2, 5, 3], [0, 0, 9, 8], [8, 7, 1, 1]])
        views = Views(boxes, torch.zeros(3, dtype=torch.bool), resized=True)
        for image, (top, left, h, w), seen in zip(x, boxes.tolist(), apply_views(x, views), strict=True):
            crop = image[None, :, top : top + h, left : left + w]
            expected = F.interpolate(crop, size=(9, 8), mode="bilinear", align_corners=False)[0]
            assert torch.allclose(seen, expected, atol=1e-12)

    def test_the_result_may_have_another_size(self):
        views = Views(torch.tensor([[0, 0, 2, 2]]), torch.zeros(1, dtype=torch.bool), resized=True)
        assert apply_views(torch.rand(1, 1, 4, 4), views, size=(8, 6)).shape == (1, 1, 8, 6)
        assert apply_views(torch.rand(1, 1, 4, 4), self.none(1), size=(8, 6)).shape == (1, 1, 8, 6)

    def test_a_padded_crop_is_the_crop_of_the_padded_image(self):
        x, fill = torch.rand(3, 2, 5, 6), torch.tensor([-1.0, 7.0])
        boxes = torch.tensor([[-2, 1, 5, 6], [0, 0, 5, 6], [2, -1, 5, 6]])
        views = Views(boxes, torch.zeros(3, dtype=torch.bool))
        for value in (None, fill):
            seen = apply_views(x, views, fill=value)
            outside = torch.zeros(2) if value is None else fill
            padded = outside.view(1, 2, 1, 1).repeat(3, 1, 9, 10)
            padded[..., 2:7, 2:8] = x
            for i, (top, left, h, w) in enumerate(boxes.tolist()):
                assert torch.equal(seen[i], padded[i, :, top + 2 : top + 2 + h, left + 2 : left + 2 + w])

    def test_flips_mirror_left_and_right(self):
        x = torch.arange(4.0).view(1, 1, 2, 2).repeat(2, 1, 1, 1)
        seen = apply_views(x, Views(None, torch.tensor([True, False])))
        assert seen[0, 0].tolist() == [[1, 0], [3, 2]] and torch.equal(seen[1], x[1])

    def test_cutmix_pastes_the_partner_into_the_box(self):
        x = torch.arange(2.0).view(2, 1, 1, 1).repeat(1, 1, 4, 4)
        views = self.none(2, mix="cutmix", perm=torch.tensor([1, 0]), lam=0.5, cut=(1, 0, 3, 2))
        seen = apply_views(x, views)
        assert seen[0, 0].tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
        assert torch.equal(seen[1], 1 - seen[0])
        assert own_share(views, (4, 4)) == 0.75

    def test_mixup_interpolates(self):
        x = torch.arange(2.0).view(2, 1, 1, 1)
        views = self.none(2, mix="mixup", perm=torch.tensor([1, 0]), lam=0.3)
        assert apply_views(x, views).flatten().tolist() == pytest.approx([0.7, 0.3])

    def test_static_labels_of_the_infer_spec_mix_like_the_images(self):
        views = self.none(2, mix="mixup", perm=torch.tensor([1, 0]), lam=0.3)
        mixed = mix_rows(torch.tensor([[2.0, 0.0], [0.0, 4.0]]), views, (4, 4))
        assert torch.allclose(mixed, torch.tensor([[0.6, 2.8], [1.4, 1.2]]))
        target = torch.softmax(mixed / 30, 1)
        assert torch.allclose(target, torch.tensor([[0.4817, 0.5183], [0.5017, 0.4983]]), atol=5e-5)
        assert torch.equal(mix_rows(mixed, self.none(2), (4, 4)), mixed)

    def test_views_are_differentiable(self):
        x = torch.rand(4, 3, 8, 8, requires_grad=True)
        apply_views(x, draw(PLAN, 4, shape=(3, 8, 8))).sum().backward()
        assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0


class TestExplicitViews:
    plan = ViewPlan(epochs=2, batch=2, crop="resized", flip=0.5, mix="cutmix", boxes="fkd")
    tensors = {
        "fkd.order": torch.tensor([[2, 0, 1], [0, 1, 2]]),
        "fkd.crops": torch.arange(24).view(2, 3, 4),
        "fkd.flips": torch.tensor([[True, False, True], [False, False, True]]),
        "fkd.perm": torch.tensor([[1, 0, 0], [0, 1, 0]]),
        "fkd.lam": torch.tensor([[0.25, 0.5], [0.75, 1.0]]),
        "fkd.cut": torch.arange(16).view(2, 2, 4),
    }

    def test_order_boxes_and_mixes_are_read_not_drawn(self):
        first, last = batches(self.plan, 3, 0, self.tensors)
        assert (first.tolist(), last.tolist()) == ([2, 0], [1])
        views = draw_views(self.plan, 0, 1, last, SHAPE, self.tensors)
        assert views.boxes.tolist() == [[8, 9, 10, 11]] and views.flips.tolist() == [True]
        assert views.perm.tolist() == [0] and views.lam == 0.5 and views.cut == (4, 5, 6, 7)

    def test_without_a_mix_only_boxes_and_flips_are_read(self):
        views = draw_views(replace(self.plan, mix="none"), 1, 0, torch.tensor([0, 1]), SHAPE, self.tensors)
        assert views.perm is None and views.boxes.tolist() == [[12, 13, 14, 15], [16, 17, 18, 19]]

    def test_missing_views_are_named(self):
        with pytest.raises(
            ValueError, match="reads explicit views 'fkd', but the set has no tensor 'fkd.order'"
        ):
            batches(self.plan, 3, 0)
        with pytest.raises(ValueError, match="fkd.order holds 2 epochs but the view plan says 3"):
            batches(replace(self.plan, epochs=3), 3, 2, self.tensors)
        with pytest.raises(ValueError, match="explicit views order 3 items but the set has 5"):
            batches(self.plan, 5, 0, self.tensors)


def test_a_batch_of_a_thousand_views_is_drawn_at_once():
    views = draw(replace(PLAN, batch=1024), 1024, shape=(3, 224, 224))
    assert views.boxes.shape == (1024, 4) and math.isfinite(views.lam)
