"""Labellers: loading their networks, answering in both batch-norm modes, and answers stored for every view."""

import json
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import nn

from ddbench import sets
from ddbench.augment.views import apply_views, batches, draw_views
from ddbench.budget import LABEL_NOTE, byte_count
from ddbench.codecs import items
from ddbench.contract import Card, CodecSpec, DistilledSet, ImageData, Labeller, NetworkRef, Space, Targets
from ddbench.nets.build import build
from ddbench.store import DamagedError
from ddbench.train.labels import (
    StoredAnswers,
    answer,
    answer_items,
    check_plan,
    load_networks,
    logit_bytes,
    store_answers,
)
from ddbench.train.students import batch_inputs
from ddbench.trainplan import ViewPlan

SPACE = Space("unit", (0.5,), (0.25,))
SHAPE = (1, 8, 8)
NETWORK = "ConvNetD1W4BN"
INLINE = NetworkRef(NETWORK, "inline", "t.")
PLAN = ViewPlan(epochs=3, batch=4, seed=1, crop="resized", crop_scale=(0.25, 1.0), flip=0.5, mix="cutmix")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(seed=0):
    net = build(NETWORK, SHAPE, 3, generator(seed)).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1, generator=generator(seed))
    return net


def inline(prefix="t.", seed=0):
    return {prefix + name: t for name, t in network(seed).state_dict().items()}


def a_set(n=10, plan=PLAN, refs=(INLINE,), tensors=None, **how):
    images = torch.rand(n, *SHAPE, generator=generator())
    labeller = Labeller(tuple(refs), **{**dict(space=SPACE, views=plan), **how})
    return DistilledSet(
        {"images": images, **(inline() if tensors is None else tensors)},
        Targets(ids=torch.arange(n) % 3, labeller=labeller),
        SPACE,
        card=Card(dataset="toy", classes=3, shape=SHAPE),
    )


def ready(distilled, **how):
    return load_networks(distilled.targets.labeller, distilled, SHAPE, 3, **how)


class OneNorm(nn.Module):
    """Batch norm alone: channel 0 of the answer is the normalised input."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1, eps=1e-5)

    def forward(self, x):
        return self.norm(x).flatten(1)


class Fixed(nn.Module):
    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x):
        return self.logits.expand(len(x), -1)


def fixed_labeller(count, **how):
    weights = how.pop("weights", (1.0,) * count)
    refs = tuple(NetworkRef("fixed", "cache", f"n{i}", weight=w) for i, w in enumerate(weights))
    return Labeller(refs, SPACE, **how)


class TestBatchNorm:
    x = torch.tensor([0.0, 2.0, 4.0, 6.0]).view(4, 1, 1, 1).expand(4, 1, 2, 1)

    def answers(self, mode, x):
        net = OneNorm().eval()
        before = {name: t.clone() for name, t in net.state_dict().items()}
        got = answer(fixed_labeller(1, batch_norm=mode), [net], x)
        assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
        assert not net.norm.training and net.norm.track_running_stats
        return got[:, 0].tolist()

    def test_the_three_modes_of_the_spec_differ(self):
        whole = [-1.34164, -0.447213, 0.447213, 1.34164]
        halves = [-0.999995, 0.999995, -0.999995, 0.999995]
        running = [0, 1.99999, 3.99998, 5.99997]
        assert self.answers("eval", self.x) == pytest.approx(running, abs=1e-5)
        assert self.answers("train-halves", self.x) == pytest.approx(halves, abs=1e-6)
        net = OneNorm().train()
        assert net(self.x)[:, 0].tolist() == pytest.approx(whole, abs=1e-5)

    def test_an_odd_batch_is_cut_at_the_floor_of_its_half(self):
        x = torch.tensor([0.0, 1.0, 3.0]).view(3, 1, 1, 1).expand(3, 1, 2, 1)
        assert self.answers("train-halves", x) == pytest.approx([0, -1, 1], abs=1e-4)

    def test_a_batch_of_one_is_one_half(self):
        assert self.answers("train-halves", torch.ones(1, 1, 2, 1)) == [0]

    def test_flags_return_after_an_error(self):
        net = OneNorm().eval()
        with pytest.raises(ValueError, match="expected 4D input"):
            answer(fixed_labeller(1, batch_norm="train-halves"), [net], torch.zeros(2, 1))
        assert not net.norm.training and net.norm.track_running_stats


class TestAnswers:
    def test_plain_mean_of_logits(self):
        got = answer(fixed_labeller(2), [Fixed(4.0, 0.0), Fixed(0.0, 2.0)], torch.zeros(1, *SHAPE))
        assert got.tolist() == [[2, 1]]

    def test_committee_weights_of_the_cvdd_spec(self):
        labeller = fixed_labeller(2, weights=(0.584191, 0.415809))
        got = answer(labeller, [Fixed(4.0, 0.0), Fixed(0.0, 2.0)], torch.zeros(1, *SHAPE))
        assert got[0].tolist() == pytest.approx([2.336762, 0.831619], abs=1e-5)
        assert torch.softmax(got / 20, 1)[0].tolist() == pytest.approx([0.518805, 0.481195], abs=1e-6)

    def test_only_ratios_of_weights_count(self):
        nets, x = [Fixed(4.0, 0.0), Fixed(0.0, 2.0)], torch.zeros(1, *SHAPE)
        one, other = (answer(fixed_labeller(2, weights=w), nets, x) for w in ((1.0, 3.0), (0.25, 0.75)))
        assert torch.allclose(one, other)

    def test_norm_mean_gives_every_batch_the_mean_norm(self):
        labeller = fixed_labeller(2, combine="norm-mean")
        got = answer(labeller, [Fixed(3.0, 4.0), Fixed(0.0, 1.0)], torch.zeros(4, *SHAPE))
        # batch norms 10 and 2, mean 6: (1.8, 2.4) and (0, 3)
        assert torch.allclose(got, torch.tensor([0.9, 2.7]).expand(4, 2))

    def test_inputs_are_mapped_to_the_labellers_space(self):
        class Mean(nn.Module):
            def forward(self, x):
                return x.mean((2, 3))

        student = Space("input", (0.4,), (0.2,))
        inputs = student.unit_to_input(torch.full((2, *SHAPE), 0.75))
        assert answer(fixed_labeller(1), [Mean()], inputs, student).flatten().tolist() == pytest.approx(
            [1, 1]
        )
        assert answer(fixed_labeller(1), [Mean()], inputs).flatten().tolist() == pytest.approx([1.75, 1.75])

    def test_inputs_are_resized_to_the_networks_side(self):
        class Sides(nn.Module):
            def forward(self, x):
                return torch.tensor([float(s) for s in x.shape[2:]]).expand(len(x), 2)

        labeller = Labeller((NetworkRef("a", "public", "timm:a", size=16, outputs=(1,)),), SPACE)
        assert answer(labeller, [Sides()], torch.zeros(2, *SHAPE)).tolist() == [[16], [16]]

    @pytest.mark.parametrize(
        ("nets", "message"),
        [
            ([Fixed(1.0)], "1 networks for a labeller of 2; expected them all"),
            ([Fixed(1.0), Fixed(1.0, 2.0)], "expected the same classes"),
        ],
    )
    def test_networks_that_do_not_fit_are_refused(self, nets, message):
        with pytest.raises(ValueError, match=message):
            answer(fixed_labeller(2), nets, torch.zeros(1, *SHAPE))

    def test_static_labels_are_one_row_an_item(self):
        d = a_set(sees="clean", plan=None)
        it = items(d)
        got = answer_items(it, d.targets.labeller, ready(d), batch=4)
        assert got.dtype == torch.float16 and got.shape == (10, 3)
        assert torch.equal(got, network()(it.stored).half())


class TestLoading:
    x = torch.rand(5, *SHAPE, generator=generator(3))

    def test_inline_tensors_become_the_network_through_the_disk(self, tmp_path):
        d = a_set()
        sets.write(tmp_path / "a.safetensors", d)
        read = sets.read(tmp_path / "a.safetensors")
        (net,) = ready(read)
        assert not net.training and not any(p.requires_grad for p in net.parameters())
        assert torch.equal(net(self.x), network()(self.x))
        assert byte_count(read).labels == 10 + sum(t.nbytes for t in inline().values())

    def test_the_cache_is_asked_by_fingerprint(self):
        d = a_set(refs=(NetworkRef(NETWORK, "cache", "abc"),), tensors={})
        (net,) = ready(d, cache={"abc": network(5).state_dict()}.__getitem__)
        assert torch.equal(net(self.x), network(5)(self.x))
        with pytest.raises(LookupError, match="no teacher abc in the cache"):
            ready(d)

    def test_low_rank_parts_are_added_to_linear_and_convolution_weights(self):
        named = {n: p for n, p in network().named_parameters() if p.dim() in (2, 4)}
        parts, expected = {}, network()
        for name, p in named.items():
            a, b = torch.randn(len(p), 2), torch.randn(2, p[0].numel())
            parts[f"d.{name}.A"], parts[f"d.{name}.B"] = a, b
            with torch.no_grad():
                expected.get_parameter(name).add_((a @ b).view_as(p))
        ref = NetworkRef(NETWORK, "inline", "t.", low_rank="d.")
        (net,) = ready(a_set(refs=(ref,), tensors={**inline(), **parts}))
        assert len(named) == 2 and torch.allclose(net(self.x), expected(self.x))
        for name, p in named.items():
            delta = (net.get_parameter(name) - p).flatten(1)
            assert torch.linalg.matrix_rank(delta, tol=1e-4) == 2

    def test_low_rank_parts_of_zeros_change_nothing(self):
        name, p = next((n, p) for n, p in network().named_parameters() if p.dim() == 2)
        parts = {f"t.d.{name}.A": torch.randn(len(p), 2), f"t.d.{name}.B": torch.zeros(2, p.shape[1])}
        ref = NetworkRef(NETWORK, "inline", "t.", low_rank="t.d.")  # a prefix inside the network's own
        (net,) = ready(a_set(refs=(ref,), tensors={**inline(), **parts}))
        assert torch.equal(net(self.x), network()(self.x))

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ({}, r"the set has no tensors d.<parameter>.A and .B"),
            ({"d.x.A": torch.zeros(1, 1)}, "low-rank part d.x: one of A and B is missing"),
            (
                {"d.x.A": torch.zeros(1, 1), "d.x.B": torch.zeros(1, 1)},
                "low-rank part d.x: no such parameter",
            ),
        ],
    )
    def test_low_rank_parts_that_do_not_fit_are_named(self, parts, message):
        ref = NetworkRef(NETWORK, "inline", "t.", low_rank="d.")
        with pytest.raises(ValueError, match=message):
            ready(a_set(refs=(ref,), tensors={**inline(), **parts}))

    def test_low_rank_parts_of_the_wrong_shape_are_named(self):
        name = next(n for n, p in network().named_parameters() if p.dim() == 2)
        parts = {f"d.{name}.A": torch.zeros(3, 2), f"d.{name}.B": torch.zeros(2, 7)}
        ref = NetworkRef(NETWORK, "inline", "t.", low_rank="d.")
        with pytest.raises(
            ValueError, match=r"\(3, 2\) @ \(2, 7\) for a parameter of \(3, .*expected \(out, r\)"
        ):
            ready(a_set(refs=(ref,), tensors={**inline(), **parts}))

    def test_tensors_of_another_architecture_are_named(self):
        with pytest.raises(
            ValueError, match=r"tensors u.\* do not fit a ConvNetD1W4BN for \(1, 8, 8\) images and 3"
        ):
            ready(a_set(refs=(NetworkRef(NETWORK, "inline", "u."),)))

    @pytest.mark.parametrize("key", ["torchvision:resnet18/IMAGENET1K_V1", "timm:resnet18.a1_in1k"])
    def test_public_weights_come_from_their_library(self, key, monkeypatch):
        asked = {}

        def get_model(name, **how):
            asked.update(name=name, **how)
            return Fixed(1.0, 2.0, 3.0)

        monkeypatch.setattr("torchvision.models.get_model", get_model)
        monkeypatch.setattr("timm.create_model", get_model)
        d = a_set(refs=(NetworkRef("resnet18", "public", key, outputs=(2, 0)),), tensors={})
        nets = ready(d)
        assert answer(d.targets.labeller, nets, self.x)[0].tolist() == [3, 1]
        if key.startswith("timm"):
            assert asked == dict(name="resnet18.a1_in1k", pretrained=True)
        else:
            assert asked == dict(name="resnet18", weights="IMAGENET1K_V1")

    def test_without_a_network_the_message_says_where_the_file_goes(self, monkeypatch):
        def get_model(*_, **__):
            raise URLError("no route")

        monkeypatch.setattr("torchvision.models.get_model", get_model)
        d = a_set(refs=(NetworkRef("a", "public", "torchvision:resnet18/IMAGENET1K_V1"),), tensors={})
        with pytest.raises(
            RuntimeError, match=r"cannot be downloaded .*no route.* put the file into .*checkpoints"
        ):
            ready(d)

    def test_an_unknown_library_is_named(self):
        d = a_set(refs=(NetworkRef("a", "public", "keras:resnet"),), tensors={})
        with pytest.raises(LookupError, match="'keras:resnet' is of no known library; expected torchvision"):
            ready(d)


class TestStoredAnswers:
    def test_every_view_has_the_answer_that_the_network_gives_online(self, tmp_path):
        d = a_set()
        it, nets = items(d), ready(d)
        stored = store_answers(tmp_path, d, it, nets, shard_mib=50 * 6 / 2**20)  # 50 views would fit, 30 are
        assert stored.nbytes == 3 * 10 * 3 * 2 == logit_bytes(10, 3, 3)
        for epoch in range(3):
            for number, indices in enumerate(batches(PLAN, 10, epoch)):
                inputs, views = batch_inputs(it, PLAN, epoch, number, indices)
                again = draw_views(PLAN, epoch, number, indices, SHAPE)
                assert torch.equal(inputs, apply_views(it.stored[indices], again)) and views.cut == again.cut
                assert torch.equal(
                    stored.batch(epoch, number), answer(d.targets.labeller, nets, inputs).half()
                )

    @pytest.mark.parametrize("mode", ["eval", "train-halves"])
    def test_shards_are_bounded_and_cross_batches(self, mode, tmp_path):
        d = a_set(batch_norm=mode)
        it, nets = items(d), ready(d)
        stored = store_answers(tmp_path / "one", d, it, nets)
        small = store_answers(tmp_path / "many", d, it, nets, shard_mib=7 * 6 / 2**20)  # 7 views a shard
        files = sorted((tmp_path / "many").rglob("*.npy"))
        assert [len(np.load(f)) for f in files] == [7, 7, 7, 7, 2]
        for epoch in range(3):
            for number in range(3):
                assert torch.equal(small.batch(epoch, number), stored.batch(epoch, number))
        assert small.batch(2, 2).shape == (2, 3)

    def test_labelling_goes_on_where_it_was_cut_short(self, tmp_path):
        d = a_set(batch_norm="train-halves")
        it, nets = items(d), ready(d)
        store_answers(tmp_path, d, it, nets, shard_mib=7 * 6 / 2**20)
        files = sorted(tmp_path.rglob("*.npy"))
        before = [f.read_bytes() for f in files]
        for f in files[2:]:
            f.unlink()
        files[2].write_bytes(before[2][:100])  # a truncated one is made again
        times = files[0].stat().st_mtime_ns
        seen = []
        store_answers(
            tmp_path, d, it, nets, shard_mib=7 * 6 / 2**20, progress=lambda i, n: seen.append((i, n))
        )
        assert [f.read_bytes() for f in files] == before and files[0].stat().st_mtime_ns == times
        assert seen[0] == (18, 30) and seen[-1] == (30, 30)

    def test_a_random_form_is_the_same_for_labeller_and_student(self):
        d = a_set().changed(codec=CodecSpec("grid", {"kind": "whole", "visit": "patch-shuffle", "factor": 4}))
        it = items(d)
        one, _ = batch_inputs(it, PLAN, 1, 0, torch.arange(4))
        two, _ = batch_inputs(it, PLAN, 1, 0, torch.arange(4))
        other, _ = batch_inputs(it, PLAN, 1, 1, torch.arange(4))
        assert torch.equal(one, two) and not torch.equal(one, other)

    def test_crops_inside_a_random_tile_come_out_at_full_size(self):
        how = {"kind": "whole", "visit": "random-tile", "factor": 2, "upsample": False}
        tiles = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat_interleave(4, 0).repeat_interleave(4, 1) / 4
        d = a_set().changed(codec=CodecSpec("grid", how))
        d = d.changed(tensors={**d.tensors, "images": tiles.expand(10, 1, 8, 8)})
        inputs, _ = batch_inputs(items(d), replace(PLAN, mix="none"), 0, 0, torch.arange(4))
        assert inputs.shape == (4, 1, 8, 8)
        assert torch.allclose(inputs.amax((1, 2, 3)), inputs.amin((1, 2, 3)), atol=1e-6)

    def test_padding_is_black_in_every_space(self):
        plan = replace(PLAN, crop="pad", crop_pad=8, mix="none")
        white = a_set().changed(tensors={"images": torch.ones(10, *SHAPE)})
        inputs, views = batch_inputs(items(white), plan, 0, 0, torch.arange(10))
        assert (views.boxes[:, :2] != 0).any()
        assert set(inputs.flatten().tolist()) == {-2.0, 2.0}

    def test_items_decoded_batch_by_batch_give_the_same_views(self):
        d = a_set()
        whole, lazy = items(d), items(d, memory_limit_mib=1e-6)
        rows = torch.tensor([3, 7])
        assert torch.equal(batch_inputs(whole, PLAN, 0, 0, rows)[0], batch_inputs(lazy, PLAN, 0, 0, rows)[0])

    def test_real_images_under_a_teacher(self):
        images = torch.randint(256, (6, *SHAPE), dtype=torch.uint8, generator=generator())
        data = ImageData("toy", "train", images, torch.arange(6) % 3, 3, (0.5,), (0.25,))
        d = a_set().changed(
            tensors={"indices": torch.tensor([1, 4]), **inline()},
            codec=CodecSpec("subset"),
            targets=replace(a_set().targets, ids=torch.tensor([1, 1])),
            card=dict(data_fingerprint=data.fingerprint),
        )
        inputs, views = batch_inputs(items(d, data), PLAN, 0, 0, torch.tensor([1, 0]))
        assert torch.allclose(inputs, apply_views(data.space.real_to_input(images[[4, 1]]), views))

    def test_another_plan_is_an_error_that_names_the_difference(self, tmp_path):
        d = a_set()
        store_answers(tmp_path, d, items(d), ready(d))
        with pytest.raises(
            ValueError, match="views of another plan: batch is 4 there, 2 asked for; flip is 0.5 there"
        ):
            StoredAnswers(tmp_path, d, replace(PLAN, batch=2, flip=0.0))
        with pytest.raises(ValueError, match="epochs is 3 there, 4 asked for"):
            StoredAnswers(tmp_path, d, replace(PLAN, epochs=4))

    def test_fewer_epochs_are_the_first_of_them(self, tmp_path):
        d = a_set()
        stored = store_answers(tmp_path, d, items(d), ready(d))
        fewer = StoredAnswers(tmp_path, d, replace(PLAN, epochs=1))
        assert torch.equal(fewer.batch(0, 1), stored.batch(0, 1))
        with pytest.raises(ValueError, match="no batch 0 in epoch 1; the plan has 1 epochs of 3 batches"):
            fewer.batch(1, 0)

    def test_answers_belong_to_one_set(self, tmp_path):
        d = a_set()
        store_answers(tmp_path, d, items(d), ready(d))
        other = d.changed(tensors={**d.tensors, "images": d.tensors["images"] + 1})
        with pytest.raises(FileNotFoundError, match="no stored answers for this set in"):
            StoredAnswers(tmp_path, other, PLAN)

    def test_answers_survive_the_disk_round_of_their_set(self, tmp_path):
        d = a_set()
        stored = store_answers(tmp_path / "answers", d, items(d), ready(d))
        sets.write(tmp_path / "a.safetensors", d.changed(card=dict(notes={LABEL_NOTE: stored.nbytes})))
        read = sets.read(tmp_path / "a.safetensors")
        again = StoredAnswers(tmp_path / "answers", read, read.targets.labeller.views)
        assert torch.equal(again.batch(1, 0), stored.batch(1, 0))
        assert byte_count(read).labels == byte_count(d).labels + 180

    def test_damage_is_named(self, tmp_path):
        d = a_set()
        folder = store_answers(tmp_path, d, items(d), ready(d)).folder
        shard, index = folder / "logits-00000.npy", folder / "answers.json"
        whole = shard.read_bytes()
        for broken, message in (
            (whole[:150], "logits-00000.npy is truncated or no shard"),
            (whole[:4], "logits-00000.npy is truncated or no shard"),
        ):
            shard.write_bytes(broken)
            with pytest.raises(DamagedError, match=message):
                StoredAnswers(tmp_path, d, PLAN).batch(0, 0)
        np.save(shard, np.zeros((2, 3), dtype=np.float16))
        with pytest.raises(DamagedError, match=r"holds float16 \(2, 3\); expected float16 \(30, 3\)"):
            StoredAnswers(tmp_path, d, PLAN).batch(0, 0)
        shard.unlink()
        with pytest.raises(FileNotFoundError, match="stored answers lack .*logits-00000.npy"):
            StoredAnswers(tmp_path, d, PLAN).batch(0, 0)
        index.write_text(json.dumps({"schema": 9}))
        with pytest.raises(DamagedError, match="answers.json has schema 9, this ddbench knows up to 1"):
            StoredAnswers(tmp_path, d, PLAN)
        index.write_text("{")
        with pytest.raises(DamagedError, match="answers.json cannot be read"):
            StoredAnswers(tmp_path, d, PLAN)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (dict(plan=None), "the set has no labeller with a view plan"),
            (dict(sees="clean"), "sees clean items; store its answers once an item"),
        ],
    )
    def test_labellers_without_views_are_refused(self, change, message, tmp_path):
        d = a_set(**change)
        with pytest.raises(ValueError, match=message):
            store_answers(tmp_path, d, items(d), ready(d))

    def test_logits_that_fp16_cannot_hold_are_refused(self, tmp_path):
        d = a_set()
        with pytest.raises(
            ValueError, match=r"epoch 0, batch 0 with \(4, 3\) logits of which 4 are not finite in fp16"
        ):
            store_answers(tmp_path, d, items(d), [Fixed(1e6, 0.0, 0.0)])
        assert list(tmp_path.rglob("*.npy")) == []

    def test_a_plan_needs_a_labeller_with_views(self):
        with pytest.raises(ValueError, match="the labeller has no stored views"):
            check_plan(fixed_labeller(1), PLAN)
        plain = replace(a_set(), targets=Targets(ids=torch.zeros(10, dtype=torch.long)))
        with pytest.raises(ValueError, match="the set has no labeller"):
            StoredAnswers(Path("."), plain, PLAN)


@pytest.mark.parametrize(
    ("n", "classes", "size"),
    [
        (500, 10, 3.0e6),
        (5_000, 100, 3.0e8),
        (10_000, 200, 1.2e9),
        (10_000, 1000, 6.0e9),
        (50_000, 1000, 30_000_000_000),
        (209_000, 10_450, 1.31e12),
    ],
)
def test_logit_bytes_of_the_spec(n, classes, size):
    assert logit_bytes(n, classes, 300) == pytest.approx(size, rel=2e-3)
    if classes == 1000 and n == 50_000:
        assert logit_bytes(n, classes, 300) == size


def test_a_student_equal_to_its_teacher_has_no_loss():
    d = a_set(batch_norm="train-halves")
    (net,) = ready(d)
    x = torch.rand(6, *SHAPE, generator=generator())
    teacher, student = answer(d.targets.labeller, [net], x), answer(d.targets.labeller, [network()], x)
    p, q = torch.softmax(teacher / 20, 1), torch.log_softmax(student / 20, 1)
    assert torch.nn.functional.kl_div(q, p, reduction="batchmean").item() == pytest.approx(0, abs=1e-7)
