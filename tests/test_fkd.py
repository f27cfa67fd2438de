"""The authors' label files: read without running anything, replayed in their batch order, checked before they are taken."""

import json
import pickle
import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import blobs
from torch.utils.data import RandomSampler
from torchvision.transforms.functional import pil_to_tensor, resized_crop, to_pil_image

from ddbench import api, cli, data, protocols, sets
from ddbench.augment.views import Views, apply_views, batches, draw_views
from ddbench.budget import LABEL_NOTE, byte_count
from ddbench.codecs import items
from ddbench.contract import Card, CodecSpec, DistilledSet, ImageData, Space, Targets, TeacherRecipe
from ddbench.protocols.train import RowProtocol
from ddbench.seeding import Generators
from ddbench.store import DamagedError
from ddbench.train import engine
from ddbench.train.engine import EngineOptions
from ddbench.train.fkd import import_fkd, pixel_boxes, read_record, sampler_orders, survey
from ddbench.train.labels import StoredAnswers, beside, look, stored
from ddbench.train.students import batch_inputs, losses
from ddbench.trainplan import ViewPlan

N, CLASSES, BATCH, EPOCHS = 10, 5, 4, 3
H, W = 12, 8
SPACE = Space("uint8", (0.5,) * 3, (0.25,) * 3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def a_set(n=N, height=H, width=W, classes=CLASSES):
    images = torch.randint(256, (n, 3, height, width), dtype=torch.uint8, generator=generator())
    card = Card(dataset="toy", classes=classes, shape=(3, height, width), notes={"own": "kept"})
    return DistilledSet({"images": images}, Targets(ids=torch.arange(n) % classes), SPACE, card=card)


def their_loader(permutations=2, n=N, epochs=EPOCHS, batch=BATCH):
    """Batches of item indices as the authors' code draws them."""
    generator_ = torch.Generator().manual_seed(42)
    if permutations == 1:
        return [torch.randperm(n, generator=generator_).split(batch) for _ in range(epochs)]
    sampler = RandomSampler(range(n), generator=generator_)
    return [torch.tensor(list(sampler)).split(batch) for _ in range(epochs)]


def their_rand_bbox(size, lam, numbers):
    """The authors' box, whose first axis is the rows."""
    w, h = size[2], size[3]
    cut = np.sqrt(1.0 - lam)
    cx, cy = numbers.integers(w), numbers.integers(h)
    half_w, half_h = int(w * cut) // 2, int(h * cut) // 2
    return [
        np.clip(cx - half_w, 0, w),
        np.clip(cy - half_h, 0, h),
        np.clip(cx + half_w, 0, w),
        np.clip(cy + half_h, 0, h),
    ]


def write_files(folder, mix="cutmix", permutations=2, dtype=torch.float16, distilled=None, batch=BATCH):
    """Label files in the authors' structure, as their code writes them; what it drew, by (epoch, batch)."""
    distilled = distilled or a_set()
    ids = distilled.targets.ids
    g, numbers = generator(1), np.random.default_rng(1)
    drawn = {}
    for epoch, chunks in enumerate(their_loader(permutations, len(ids), batch=batch)):
        (folder / f"epoch_{epoch}").mkdir(parents=True, exist_ok=True)
        for number, rows in enumerate(chunks):
            b = len(rows)
            top, left = torch.randint(0, 5, (b,), generator=g), torch.randint(0, 3, (b,), generator=g)
            h, w = torch.randint(3, 8, (b,), generator=g), torch.randint(2, 6, (b,), generator=g)
            crops = torch.stack([torch.FloatTensor([t / H, lt / W, a / H, c / W]) for t, lt, a, c in
                                 zip(top.tolist(), left.tolist(), h.tolist(), w.tolist(), strict=True)])  # fmt: skip
            flips = torch.rand(b, generator=g) < 0.5
            perm = lam = box = None
            if mix != "none":
                perm, lam = torch.randperm(b, generator=g), numbers.beta(0.8, 0.8)
            if mix == "cutmix":
                box = their_rand_bbox((b, 3, H, W), lam, numbers)
            logits = torch.randn(b, CLASSES, generator=g)
            logits[torch.arange(b), ids[rows]] += 8
            logits = logits.to(dtype)
            torch.save(
                [crops, flips, perm, lam, box, logits], folder / f"epoch_{epoch}" / f"batch_{number}.tar"
            )
            drawn[epoch, number] = (rows, torch.stack([top, left, h, w], 1), flips, perm, lam, box, logits)
    return drawn


class TestOrders:
    def test_two_permutations_an_epoch_are_those_of_the_spec(self):
        orders = sampler_orders(8)
        assert [next(orders).tolist() for _ in range(3)] == [
            [6, 3, 0, 7, 2, 1, 4, 5],
            [7, 3, 0, 1, 2, 6, 4, 5],
            [7, 3, 2, 1, 0, 6, 4, 5],
        ]

    def test_bare_permutations_are_those_of_the_spec(self):
        orders = sampler_orders(8, permutations=1)
        assert next(orders).tolist() == [6, 3, 0, 7, 2, 1, 4, 5]
        assert next(orders).tolist() == [4, 1, 7, 6, 3, 2, 0, 5]

    def test_they_are_what_torch_itself_draws(self):
        sampler = RandomSampler(range(57), generator=torch.Generator().manual_seed(7))
        orders = sampler_orders(57, seed=7)
        assert [next(orders).tolist() for _ in range(4)] == [list(sampler) for _ in range(4)]

    def test_another_number_is_refused(self):
        with pytest.raises(ValueError, match="permutations is 3; expected 1 or 2 an epoch"):
            next(sampler_orders(8, permutations=3))


class TestBoxes:
    def test_fractions_become_the_pixels_that_they_were(self):
        sides = torch.tensor([[17, 0, 207, 200], [0, 223, 224, 1], [100, 31, 3, 97]])
        for height, width in ((224, 224), (500, 375), (64, 64)):
            pixels = torch.minimum(sides, torch.tensor([height, width, height, width]) // 2).clamp(min=0)
            pixels[:, 2:] = pixels[:, 2:].clamp(min=1)
            fractions = (pixels.double() / torch.tensor([height, width, height, width])).float()
            assert torch.equal(pixel_boxes(fractions, height, width), pixels)

    def test_crops_of_images_of_another_size_are_refused(self):
        crops = torch.tensor([[10 / 224, 20 / 224, 100 / 224, 101 / 224]])
        with pytest.raises(
            ValueError, match="crops miss the pixels of 64x64 images by 0.43; .*images of another size"
        ):
            pixel_boxes(crops, 64, 64)
        with pytest.raises(ValueError, match="or lie outside of them"):
            pixel_boxes(torch.tensor([[0.5, 0.0, 1.0, 1.0]]), 64, 64)


class TestFiles:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
    @pytest.mark.parametrize("mix", ["none", "mixup", "cutmix"])
    def test_a_file_is_read_as_it_was_written(self, mix, dtype, tmp_path):
        drawn = write_files(tmp_path, mix, dtype=dtype)
        for (epoch, number), (_, _, flips, perm, lam, box, logits) in drawn.items():
            found = read_record(tmp_path / f"epoch_{epoch}" / f"batch_{number}.tar")
            assert found.mix == mix and found.logits.dtype == dtype
            assert torch.equal(found.logits, logits) and torch.equal(found.flips, flips)
            if mix != "none":
                assert torch.equal(found.perm, perm) and found.lam == lam
            if mix == "cutmix":  # theirs has rows first
                assert found.cut == (box[1], box[0], box[3], box[2])

    def test_a_file_that_names_anything_else_is_refused_by_name(self, tmp_path):
        path = tmp_path / "batch_0.tar"
        torch.save([1, 2, 3, 4, 5, slice(3)], path)
        with pytest.raises(ValueError, match=r"batch_0.tar names \S*slice, which no label file needs"):
            read_record(path)

        class Evil:
            def __reduce__(self):
                return (__import__("os").system, ("touch /nonexistent/x",))

        torch.save([*range(5), np.complex64(1)], path)
        with pytest.raises(ValueError, match="batch_0.tar .*which no label file needs"):
            read_record(path)
        torch.save([Evil()], path)
        with pytest.raises(
            ValueError, match=r"names \S*system, which no label file needs and which might run code"
        ):
            read_record(path)

    def test_a_plain_pickle_is_refused_with_what_to_do(self, tmp_path):
        (tmp_path / "a.tar").write_bytes(pickle.dumps([1, 2]))
        with pytest.raises(
            ValueError,
            match=r"is a plain pickle, .*pickle.load\(open\(file, \"rb\"\)\); torch.save\(what, \"converted.pt\"\)",
        ):
            read_record(tmp_path / "a.tar")

    def test_truncated_and_foreign_files_are_named(self, tmp_path):
        write_files(tmp_path)
        path = tmp_path / "epoch_0" / "batch_0.tar"
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DamagedError, match="batch_0.tar is truncated or no torch file"):
            read_record(path)
        path.write_bytes(b"ustar tar")
        with pytest.raises(DamagedError, match=r"is no torch file \(it begins with b'usta'\)"):
            read_record(path)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("../data.pkl", b"x")
        with pytest.raises(ValueError, match=r"has a member named '../data.pkl', outside of itself"):
            read_record(path)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/other", b"x")
        with pytest.raises(DamagedError, match="is truncated or no torch file"):
            read_record(path)
        with pytest.raises(FileNotFoundError, match="no label file"):
            read_record(tmp_path / "none.tar")

    def test_a_file_too_large_for_a_batch_is_refused(self, tmp_path):
        write_files(tmp_path)
        with pytest.raises(ValueError, match="holds 0 MiB, more than the 0 MiB of a label file"):
            read_record(tmp_path / "epoch_0" / "batch_0.tar", limit_mib=1e-4)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda r: r[:5], "holds a list of 5; expected FKD's list of 6"),
            (lambda r: {"a": 1}, "holds a dict of 1; expected FKD's list of 6"),
            (lambda r: [r[0][:, :3], *r[1:]], r"crops are torch.float32 \(4, 3\); expected floats \(4, 4\)"),
            (lambda r: [r[0], r[1][:2], *r[2:]], r"flips are torch.bool \(2,\); expected booleans \(4,\)"),
            (
                lambda r: [*r[:2], r[2] * 0, *r[3:]],
                r"partners are torch.int64 \(4,\); expected a permutation of 0 to 3",
            ),
            (lambda r: [*r[:3], 1.5, *r[4:]], "mixing weights are 1.5; expected a number from 0 to 1"),
            (lambda r: [*r[:4], [1, 2], r[5]], r"edges of the CutMix box are \[1, 2\]; expected 4 numbers"),
            (
                lambda r: [*r[:2], None, *r[3:]],
                "partners are None; expected a permutation, as there is a mixing weight",
            ),
            (lambda r: [*r[:5], r[5].long()], r"logits are torch.int64 \(4, 5\); expected floats \(B, K\)"),
        ],
    )
    def test_other_structures_are_refused(self, change, message, tmp_path):
        write_files(tmp_path)
        path = tmp_path / "epoch_0" / "batch_0.tar"
        with torch.serialization.safe_globals([(np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
                                               np.dtype, type(np.dtype(np.int64))]):  # fmt: skip
            found = torch.load(path, weights_only=False)
        found[4] = None if found[4] is None else [int(x) for x in found[4]]
        torch.save(change(found), path)
        with pytest.raises(ValueError, match=message):
            read_record(path)


class TestSurvey:
    def test_a_folder_says_what_it_holds(self, tmp_path):
        write_files(tmp_path)
        files = survey(tmp_path)
        assert (files.epochs, files.batches, files.batch, files.items, files.classes, files.mix) == (
            3,
            3,
            4,
            10,
            5,
            "cutmix",
        )
        assert survey(tmp_path, 2).epochs == 2 and files.size(2) == 2

    def test_what_is_missing_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no folder .*none; expected one with epoch_0"):
            survey(tmp_path / "none")
        with pytest.raises(FileNotFoundError, match="has no epoch_0"):
            survey(tmp_path)
        write_files(tmp_path)
        with pytest.raises(ValueError, match="has 3 epochs, 5 asked for; expected 1 to 3"):
            survey(tmp_path, 5)
        (tmp_path / "epoch_1" / "batch_1.tar").unlink()
        with pytest.raises(FileNotFoundError, match=r"epoch_1 lacks batch_1.tar; unpack the archive again"):
            survey(tmp_path)
        assert survey(tmp_path, 1).epochs == 1
        (tmp_path / "epoch_1").rename(tmp_path / "epoch_9")
        with pytest.raises(FileNotFoundError, match=r"lacks epoch_1, epoch_3, epoch_4, ... \(7 in all\)"):
            survey(tmp_path)

    def test_epochs_of_different_length_are_refused(self, tmp_path):
        write_files(tmp_path)
        whole = (tmp_path / "epoch_2" / "batch_2.tar").read_bytes()
        (tmp_path / "epoch_2" / "batch_3.tar").write_bytes(whole)
        with pytest.raises(
            ValueError, match="epoch_2 has 4 batches, epoch_0 has 3; expected as many in each"
        ):
            survey(tmp_path)


class TestImport:
    @pytest.mark.parametrize("mix", ["none", "mixup", "cutmix"])
    def test_every_view_is_what_the_authors_loader_made(self, mix, tmp_path):
        """Crop, flip and mix by hand, as their loader does, on the images in floats."""
        drawn = write_files(tmp_path / "files", mix)
        found = import_fkd(tmp_path / "files", a_set(), tmp_path / "labels", shard_mib=7 * 10 / 2**20)
        labeller = found.targets.labeller
        assert labeller.networks == () and labeller.views.mix == mix and labeller.views.boxes == "fkd"
        assert (labeller.views.epochs, labeller.views.batch) == (EPOCHS, BATCH)
        plan = replace(labeller.views, epochs=EPOCHS)
        answers, it = StoredAnswers(tmp_path / "labels", found, plan), items(found)
        for (epoch, number), (rows, crops, flips, perm, lam, box, logits) in drawn.items():
            own = batches(plan, N, epoch, found.tensors)[number]
            assert torch.equal(own, rows)
            assert torch.equal(answers.batch(epoch, number), logits)
            seen, _ = batch_inputs(it, plan, epoch, number, own, found.tensors)
            x = []
            for row, (top, left, h, w), flip in zip(rows, crops.tolist(), flips, strict=True):
                image = it.to_input(it.stored[row : row + 1])[:, :, top : top + h, left : left + w]
                image = torch.nn.functional.interpolate(
                    image, size=(H, W), mode="bilinear", align_corners=False
                )
                x.append(image.flip(3) if flip else image)
            x = torch.cat(x)
            if mix == "mixup":
                x = lam * x + (1 - lam) * x[perm]
            if mix == "cutmix":  # their line, rows first
                x1, y1, x2, y2 = box
                x[:, :, x1:x2, y1:y2] = x.clone()[perm, :, x1:x2, y1:y2]
            assert torch.allclose(seen, x, atol=1e-5)

    def test_crops_in_floats_are_pillows_to_one_grey_level(self):
        g = generator(5)
        worst = 0.0
        for _ in range(20):
            image = torch.randint(256, (3, 64, 64), dtype=torch.uint8, generator=g)
            h, w = (int(torch.randint(8, 64, (1,), generator=g)) for _ in range(2))
            top, left = (int(torch.randint(0, 65 - side, (1,), generator=g)) for side in (h, w))
            theirs = resized_crop(to_pil_image(image), top, left, h, w, [64, 64])
            views = Views(torch.tensor([[top, left, h, w]]), torch.tensor([False]), resized=True)
            ours = apply_views(image[None].float(), views)[0]
            worst = max(worst, float((ours - pil_to_tensor(theirs).float()).abs().max()))
        assert 0.5 < worst < 1.01, "two roundings, not one"

    def test_the_set_says_where_its_labels_come_from_and_what_they_take(self, tmp_path):
        write_files(tmp_path / "files")
        found = import_fkd(tmp_path / "files", a_set(), tmp_path / "labels")
        size = N * EPOCHS * CLASSES * 2
        assert found.card.notes[LABEL_NOTE] == size and found.card.notes["own"] == "kept"
        assert found.card.notes["labels_agree"] == 1.0
        assert "sampler seed 42, 2 permutations" in found.card.notes["labels"]
        assert found.card.notes["labels"].endswith("batch norm eval")
        views = EPOCHS * (
            N * (2 + 4 * 2 + 1 + 2) + 3 * (8 + 4 * 2)
        )  # order, crops, flips, perm; lam, cut a batch
        assert byte_count(found).labels == N + size + views
        (store,) = stored(tmp_path / "labels")
        assert store.whole and store.networks == () and store.source.startswith("FKD files, 3 epochs")
        sets.write(tmp_path / "a.safetensors", found)
        again = sets.read(tmp_path / "a.safetensors")
        plan = again.targets.labeller.views
        assert StoredAnswers(tmp_path / "labels", again, replace(plan, epochs=1)).batch(0, 2).shape == (
            2,
            CLASSES,
        )

    @pytest.mark.parametrize("permutations", [1, 2])
    def test_the_order_of_old_and_of_current_torch_is_told_by_the_labels(self, permutations, tmp_path):
        drawn = write_files(tmp_path / "files", permutations=permutations)
        found = import_fkd(tmp_path / "files", a_set(), tmp_path / "labels")
        assert torch.equal(
            found.tensors["fkd.order"][1].long(), torch.cat([drawn[1, b][0] for b in range(3)])
        )
        assert f"{permutations} permutations" in found.card.notes["labels"]
        bare = a_set().changed(
            targets=Targets(soft=torch.full((N, CLASSES), 1 / CLASSES), kind="probabilities")
        )
        blind = import_fkd(tmp_path / "files", bare, tmp_path / "labels", permutations=permutations)
        assert torch.equal(blind.tensors["fkd.order"], found.tensors["fkd.order"])
        assert "labels_agree" not in blind.card.notes and blind.targets.soft is None

    def test_items_in_another_order_show_in_the_agreement(self, tmp_path):
        write_files(tmp_path / "files")
        other = a_set()
        other = other.changed(targets=Targets(ids=(other.targets.ids + 1) % CLASSES))
        assert import_fkd(tmp_path / "files", other, tmp_path / "labels").card.notes["labels_agree"] == 0.0

    def test_fewer_epochs_are_the_first_of_them(self, tmp_path):
        write_files(tmp_path / "files")
        told = []
        found = import_fkd(
            tmp_path / "files", a_set(), tmp_path / "l", epochs=2, progress=lambda *n: told.append(n)
        )
        assert found.targets.labeller.views.epochs == 2 and told == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def test_an_import_goes_on_where_it_was_cut_short(self, tmp_path):
        write_files(tmp_path / "files")
        how = dict(shard_mib=7 * 10 / 2**20)
        found = import_fkd(tmp_path / "files", a_set(), tmp_path / "labels", **how)
        (store,) = stored(tmp_path / "labels")
        shards = sorted(store.path.glob("*.npy"))
        before = [s.read_bytes() for s in shards]
        times = shards[0].stat().st_mtime_ns
        shards[3].unlink()
        again = import_fkd(tmp_path / "files", a_set(), tmp_path / "labels", **how)
        assert [s.read_bytes() for s in shards] == before and shards[0].stat().st_mtime_ns == times
        assert again.fingerprint() == found.fingerprint() and look(store.path).whole

    def test_real_images_under_the_authors_labels(self, tmp_path):
        images = torch.randint(256, (20, 3, H, W), dtype=torch.uint8, generator=generator(3))
        data = ImageData("toy", "train", images, torch.arange(20) % CLASSES, CLASSES, (0.5,) * 3, (0.25,) * 3)
        d = a_set().changed(
            tensors={"indices": torch.arange(10, 20)}, codec=CodecSpec("subset"),
            card=dict(data_fingerprint=data.fingerprint),
        )  # fmt: skip
        write_files(tmp_path / "files", "none")
        found = import_fkd(tmp_path / "files", d, tmp_path / "labels")
        it, plan = items(found, data), found.targets.labeller.views
        rows = batches(plan, N, 0, found.tensors)[0]
        seen, views = batch_inputs(it, plan, 0, 0, rows, found.tensors)
        again = draw_views(plan, 0, 0, rows, (3, H, W), found.tensors)
        assert torch.allclose(seen, apply_views(data.space.real_to_input(images[rows + 10]), again))

    @pytest.mark.parametrize(
        ("distilled", "message"),
        [
            (a_set(n=8), "are of 10 images in batches of 4, but the set has 8 items"),
            (a_set(classes=10), "are of 5 classes but the set has 10"),
            (a_set(height=16, width=16), r"batch_0.tar: crops miss the pixels of 16x16 images by"),
        ],
    )
    def test_files_of_another_set_are_refused_and_nothing_is_written(self, distilled, message, tmp_path):
        write_files(tmp_path / "files")
        with pytest.raises(ValueError, match=message):
            import_fkd(tmp_path / "files", distilled, tmp_path / "labels")
        assert not (tmp_path / "labels").exists()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda r: [r[0][:3], r[1][:3], None, None, None, r[5][:3]],
                r"has \(3, 5\) logits of mix none, but the files",
            ),
            (
                lambda r: [*r[:4], None, r[5]],
                "of mix mixup, but the files are of batches of 4, 5 classes, mix cutmix",
            ),
            (lambda r: [*r[:5], r[5][:, :4]], r"has \(4, 4\) logits .* expected \(4, 5\)"),
            (lambda r: [*r[:5], r[5].float() * 1e6], r"batch_1.tar has logits that are not finite in fp16"),
        ],
    )
    def test_files_that_do_not_fit_each_other_are_named(self, change, message, tmp_path):
        write_files(tmp_path / "files")
        path = tmp_path / "files" / "epoch_1" / "batch_1.tar"
        torch.save(change(torch.load(path, weights_only=False)), path)
        with pytest.raises(ValueError, match=message):
            import_fkd(tmp_path / "files", a_set(), tmp_path / "labels")

    def test_a_protocol_finds_the_views_that_came_with_the_set(self, tmp_path):
        from ddbench.train.labels import plan_for

        write_files(tmp_path / "files")
        found = import_fkd(tmp_path / "files", a_set(), tmp_path / "labels")
        asked = ViewPlan(epochs=2, batch=BATCH, crop="resized", flip=0.5, mix="cutmix")
        plan = plan_for(found.targets.labeller, asked)
        assert plan.boxes == "fkd" and plan.epochs == 2
        StoredAnswers(tmp_path / "labels", found, plan)


class TestScoring:
    """The imported files as a protocol's students meet them."""

    def imported(self, ddbench, folder, *more):
        distilled = a_set(n=20)
        drawn = write_files(folder / "files", distilled=distilled, batch=16)
        sets.write(folder / "a.safetensors", distilled)
        how = ("--set", folder / "a.safetensors", "--out", folder / "out", "--quiet", "--json", *more)
        status, out, err = ddbench("labels", "import-fkd", folder / "files", *how)
        assert (status, err) == (0, "")
        return drawn, sets.read(json.loads(out)["set"]), json.loads(out)["labels"]

    def protocol(self, name):
        row = protocols.ROWS[name]
        return RowProtocol(replace(row, plan=row.plan.changed(epochs=EPOCHS, test_every=0), forms=()))

    def test_files_of_cvdd_are_scored_under_its_protocol(self, ddbench, tmp_path, monkeypatch):
        drawn, distilled, source = self.imported(ddbench, tmp_path, "--batch-norm", "train-halves")
        assert source.endswith("batch norm train-halves")
        real, protocol = blobs("toy", (3, H, W), CLASSES, (4, 8)), self.protocol("cvdd-bssl")
        assert protocol.accepts(distilled, "ConvNetD1W8BN", real.name, real.train) is None
        steps = []

        def spy(plan, logits, ids=None, soft=None, kind="none", weights=None):
            steps.append(soft.squeeze(0))
            return losses(plan, logits, ids, soft, kind, weights)

        monkeypatch.setattr(engine, "losses", spy)
        options = EngineOptions("cpu", path="plain", labels=tmp_path / "out" / "labels")
        found = protocol.evaluate(distilled, real, "ConvNetD1W8BN", [Generators(0)], options)
        assert len(found.scores) == 1 and found.notes["labels"] == "answers that came with the set"
        parts = [half for key in sorted(drawn) for half in drawn[key][6].split(8)]
        assert len(steps) == len(parts) == EPOCHS * 3, "8, 8 and 4 images an epoch"
        assert all(torch.equal(a, b.float()) for a, b in zip(steps, parts, strict=True))

    def test_the_mode_of_batch_norm_decides_which_protocol_takes_them(self, ddbench, tmp_path):
        _, other, _ = self.imported(ddbench, tmp_path)
        assert self.protocol("cvdd-bssl").accepts(other) == (
            "protocol cvdd-bssl: the set's stored answers were given otherwise: batch_norm is 'eval' there, 'train-halves' "
            "asked for"
        )
        with pytest.raises(
            ValueError, match="batch_norm is 'halves'; expected one of eval, train, train-halves"
        ):
            import_fkd(tmp_path / "files", a_set(n=20), tmp_path / "labels", batch_norm="halves")


@pytest.fixture
def ddbench(capfd):
    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(a) for a in arguments])
        return end.value.code, *capfd.readouterr()

    return run


class TestCommands:
    """``ddbench labels ...`` as a user meets it."""

    def imported(self, ddbench, folder, *more):
        distilled = a_set()
        write_files(folder / "files", distilled=distilled)
        sets.write(folder / "a.safetensors", distilled)
        how = ("--set", folder / "a.safetensors", "--out", folder / "out", "--quiet", *more)
        return ddbench("labels", "import-fkd", folder / "files", *how)

    def test_an_import_is_written_listed_and_checked(self, ddbench, tmp_path):
        status, out, err = self.imported(ddbench, tmp_path, "--json")
        said = json.loads(out)
        assert (status, err, said["labels_agree"], said["stored"]["nbytes"]) == (0, "", 1.0, 300)
        assert beside(tmp_path / "out" / "a-fkd.safetensors") == tmp_path / "out" / "labels"
        again = sets.read(said["set"])
        assert StoredAnswers(tmp_path / "out" / "labels", again, again.targets.labeller.views).nbytes == 300
        status, out, _ = ddbench("labels", "list", tmp_path)
        assert status == 0 and "300 B in 1 store\n" in out
        assert re.search(r"toy +10 +5 +3 +4 +resized flip cutmix +imported +300 B +whole", out)
        assert ddbench("labels", "check", tmp_path / "out", "-q")[:2] == (0, "1 store, 1 shard: 0 faults\n")

    def test_faults_are_said_one_by_one(self, ddbench, tmp_path):
        self.imported(ddbench, tmp_path)
        (shard,) = (tmp_path / "out").rglob("*.npy")
        whole = bytearray(shard.read_bytes())
        whole[-1] ^= 1
        shard.write_bytes(whole)
        status, out, err = ddbench("labels", "check", tmp_path / "out", "--json")
        assert status == 1 and len(json.loads(out)["faults"]) == 1
        assert "logits-00000.npy was changed after it was written" in err
        shard.unlink()
        (shard.parent / "shards.jsonl").write_text("")
        status, out, _ = ddbench("labels", "list", tmp_path, "--json")
        assert (status, json.loads(out)[0]["whole"], json.loads(out)[0]["there"]) == (0, False, 0)
        assert "0 of 1 shards" in ddbench("labels", "list", tmp_path)[1]
        (shard.parent / "answers.json").write_text("{")
        status, _, err = ddbench("labels", "list", tmp_path)
        assert status == 1 and "answers.json cannot be read" in err

    def test_nothing_there_is_said(self, ddbench, tmp_path):
        assert ddbench("labels", "list", tmp_path)[1].endswith("0 B in 0 stores\n(none)\n")
        status, _, err = ddbench("labels", "check", tmp_path)
        assert status == 2 and "no stored labels in" in err
        status, _, err = ddbench("labels", "import-fkd", tmp_path, "--set", __file__, "--out", tmp_path)
        assert status == 2 and "is no whole safetensors file" in err


class TestMaking:
    def test_labels_made_beforehand_are_those_that_an_evaluation_finds(self, ddbench, tmp_path, monkeypatch):
        real = data.load("digits")
        rows = torch.cat([(real.train.labels == c).nonzero()[:1, 0] for c in range(10)])
        card = Card(
            dataset="digits", data_fingerprint=real.train.fingerprint, classes=10, shape=(1, 8, 8), ipc=1
        )
        d = DistilledSet({"indices": rows}, Targets(ids=real.train.labels[rows]), real.train.space,
                         CodecSpec("subset"), card=card)  # fmt: skip
        sets.write(tmp_path / "sets" / "a.safetensors", d)
        with pytest.raises(ValueError, match="protocol dc-dsa has no teacher labels"):
            api.make_labels(tmp_path / "sets" / "a.safetensors", "dc-dsa", runs=tmp_path)
        with pytest.raises(
            ValueError, match="protocol rethink-soft has networks answer while students train on digits"
        ):
            api.make_labels(tmp_path / "sets" / "a.safetensors", "rethink-soft", runs=tmp_path)

        def one_epoch(name, network, dataset):
            return TeacherRecipe(network=network, epochs=1, lr=0.05)

        monkeypatch.setattr("ddbench.protocols.labelling.squeeze_recipe", one_epoch)
        plan = protocols.get("quick-kd").plan
        how = ("--protocol", "quick-kd", "--runs", tmp_path, "--device", "cpu", "--quiet")
        status, out, err = ddbench("labels", "make", tmp_path / "sets" / "a.safetensors", *how, "--json")
        said = json.loads(out)
        assert (status, said["whole"], said["nbytes"]) == (0, True, 10 * plan.epochs * 10 * 2), err
        assert [n["architecture"] for n in said["labeller"]["networks"]] == list(plan.labels.networks)
        (store,) = stored(tmp_path)
        before = (store.path / "logits-00000.npy").stat().st_mtime_ns
        options = EngineOptions("cpu", labels=tmp_path / "labels")
        found = protocols.get("quick-kd").evaluate(d, real, "MLP", [Generators(0)], options)
        assert found.label_bytes == store.nbytes and stored(tmp_path) == [store]
        assert (store.path / "logits-00000.npy").stat().st_mtime_ns == before
