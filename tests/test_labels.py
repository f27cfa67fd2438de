"""Labellers: loading their networks, answering in both batch-norm modes, and answers stored for every view."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
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
from ddbench.store import DamagedError, WriteError
from ddbench.train.labels import (
    ShardWriter,
    StoredAnswers,
    answer,
    answer_items,
    check_plan,
    drop_changed,
    load_networks,
    logit_bytes,
    look,
    plan_for,
    set_fingerprint,
    store_answers,
    store_path,
    stored,
    verify,
)
from ddbench.train.students import batch_inputs
from ddbench.trainplan import ViewPlan

SPACE = Space("unit", (0.5,), (0.25,))
IMAGENET = Space("uint8", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
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
        assert self.answers("train", self.x) == pytest.approx(whole, abs=1e-5)
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
        cure = "Distil the set again .* copy the folder teachers/abc .* score the set under rethink-soft"
        with pytest.raises(LookupError, match=f"no teacher abc in the cache .*{cure}"):
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
            return Fixed(*(float(i) for i in range(1000)))

        monkeypatch.setattr("torchvision.models.get_model", get_model)
        monkeypatch.setattr("timm.create_model", get_model)
        ref = NetworkRef("resnet18", "public", key, outputs=(2, 0, 999))
        d = a_set(refs=(ref,), tensors={}, space=IMAGENET)
        nets = load_networks(d.targets.labeller, d, (3, 224, 224), 3)
        assert answer(d.targets.labeller, nets, self.x)[0].tolist() == [2, 0, 999]
        if key.startswith("timm"):
            assert asked == dict(name="resnet18.a1_in1k", pretrained=True)
        else:
            assert asked == dict(name="resnet18", weights="IMAGENET1K_V1")

    def test_without_a_network_the_message_says_where_the_file_goes(self, monkeypatch):
        def get_model(*_, **__):
            raise URLError("no route")

        monkeypatch.setattr("torchvision.models.get_model", get_model)
        d = a_set(
            refs=(NetworkRef("a", "public", "torchvision:resnet18/IMAGENET1K_V1"),),
            tensors={},
            space=IMAGENET,
        )
        with pytest.raises(
            RuntimeError, match=r"cannot be downloaded .*no route.* put the file into .*checkpoints"
        ):
            load_networks(d.targets.labeller, d, (3, 224, 224), 1000)

    @pytest.mark.parametrize("key", ["torchvision:resnet18/IMAGENET1K_V1", "timm:resnet18.a1_in1k"])
    @pytest.mark.parametrize(
        ("classes", "outputs", "how", "shape", "message"),
        [
            (10, None, {}, (3, 64, 64), "has 1000 classes, but the data set has 10; .*name the logits of its classes"),
            (10, (1, 2), {}, (3, 64, 64), "2 outputs of the public network .* are chosen, but the set has 10 classes"),
            (2, (1, 1000), {}, (3, 64, 64), "output 1000 of the public network .* is chosen; expected 0 to 999"),
            (2, (-1, 0), {}, (3, 64, 64), "output -1 of the public network"),
            (2, (1, 2), {}, (1, 64, 64), "is for 3 channels, but the images have 1"),
            (
                2, (1, 2), dict(space=Space("uint8", (0.5,) * 3, (0.25,) * 3)), (3, 64, 64),
                r"wants inputs of mean \(0.485.* \(0.5, 0.5, 0.5\) and .*; give the labeller the space of its networks",
            ),
        ],
    )  # fmt: skip
    def test_public_weights_that_do_not_fit_are_refused_before_anything_is_loaded(
        self, key, classes, outputs, how, shape, message, monkeypatch
    ):
        monkeypatch.setattr("ddbench.nets.public.load", lambda _: pytest.fail("would be downloaded"))
        ref = NetworkRef("resnet18", "public", key, outputs=outputs)
        d = a_set(refs=(ref,), tensors={}, **{**dict(space=IMAGENET), **how})
        with pytest.raises(ValueError, match=message):
            load_networks(d.targets.labeller, d, shape, classes)

    @pytest.mark.parametrize(
        ("known", "message"),
        [
            (dict(classes=5), r"teacher abc \(ConvNetD1W4BN\) answers for 5 classes but the set has 3"),
            (dict(shape=(3, 32, 32)), r"trained on images of \(3, 32, 32\) but would see \(1, 8, 8\)"),
            (
                dict(space=Space("input", (0.1,), (0.3,)).describe()),
                r"inputs of mean \(0.1\) and deviation \(0.3\), but the labeller says mean \(0.5\) and deviation \(0.25\)",
            ),
        ],
    )
    def test_a_teacher_that_does_not_fit_is_refused_before_it_is_loaded(self, known, message):
        d = a_set(refs=(INLINE, NetworkRef(NETWORK, "cache", "abc")))
        with pytest.raises(ValueError, match=message):
            ready(d, cache={}.__getitem__, about={"abc": known}.__getitem__)

    def test_the_cache_says_what_its_teachers_are(self, monkeypatch):
        monkeypatch.setattr("ddbench.train.labels.about_cached", {"abc": dict(classes=7)}.__getitem__)
        with pytest.raises(ValueError, match="answers for 7 classes but the set has 3"):
            ready(a_set(refs=(NetworkRef(NETWORK, "cache", "abc"),)))

    def test_what_is_not_known_of_a_teacher_is_not_compared(self):
        d = a_set(refs=(NetworkRef(NETWORK, "cache", "abc"),), tensors={})
        cache = {"abc": network().state_dict()}.__getitem__
        for known in (
            None,
            {},
            dict(classes=None, shape=None, space=None),
            dict(classes=3, shape=[1, 8, 8], space=SPACE.describe()),
        ):
            assert len(ready(d, cache=cache, about=lambda _, known=known: known)) == 1

    @pytest.mark.parametrize("mode", ["train", "train-halves"])
    def test_batch_statistics_need_a_network_with_batch_norm(self, mode):
        state = {"t." + n: t for n, t in build("MLP", SHAPE, 3, generator()).state_dict().items()}
        d = a_set(refs=(NetworkRef("MLP", "inline", "t."),), tensors=state, batch_norm=mode)
        with pytest.raises(
            ValueError, match=rf"MLP has no batch norm, .*\(batch_norm '{mode}'\); label with batch_norm"
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

    @pytest.mark.parametrize("mode", ["eval", "train", "train-halves"])
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
        with pytest.raises(
            FileNotFoundError, match="no stored answers for this set in .*holds those of other sets: "
        ):
            StoredAnswers(tmp_path, other, PLAN)

    def test_another_plan_or_labeller_of_the_same_set_is_named(self, tmp_path):
        store_answers(tmp_path, a_set(), items(a_set()), ready(a_set()))
        plan = replace(PLAN, batch=5)
        message = (
            r"for this very set it holds those of another plan or labeller, .*: batch is 4 there, 5 asked for"
        )
        with pytest.raises(FileNotFoundError, match=message):
            StoredAnswers(tmp_path, a_set(plan=plan), plan)
        with pytest.raises(FileNotFoundError, match="batch_norm is 'eval' there, 'train' asked for"):
            StoredAnswers(tmp_path, a_set(batch_norm="train"), PLAN)
        with pytest.raises(FileNotFoundError, match=r"networks is \[.*ConvNetD1W4BN.*\] there, \[.*'MLP'"):
            StoredAnswers(tmp_path, a_set(refs=(NetworkRef("MLP", "inline", "t."),)), PLAN)

    def test_stores_of_many_protocols_lie_side_by_side(self, tmp_path):
        d, other = a_set(), a_set(plan=replace(PLAN, epochs=2, mix="none"), batch_norm="train")
        first = store_answers(tmp_path, d, items(d), ready(d))
        second = store_answers(tmp_path, other, items(other), ready(other), shard_mib=7 * 6 / 2**20)
        (second.folder / "logits-00001.npy").unlink()
        (tmp_path / "odd").mkdir()
        (tmp_path / "odd" / "answers.json").write_text("{")
        damaged = []
        found = {store.path: store for store in stored(tmp_path, damaged)}
        assert set(found) == {first.folder, second.folder} and "odd" in damaged[0]
        assert {store.set for store in found.values()} == {set_fingerprint(d)} == {set_fingerprint(other)}
        one, two = found[first.folder], found[second.folder]
        assert (one.plan["mix"], two.plan["mix"], two.labeller["batch_norm"]) == ("cutmix", "none", "train")
        assert one.networks == (NETWORK,) and one.dataset == "toy" and one.whole
        assert (one.nbytes, one.there, two.nbytes) == (180, 180, 120)
        assert [two.fault(n) for n in range(two.shards)] == [None, "missing", None]
        assert stored(first.folder) == [one]
        with pytest.raises(DamagedError, match="answers.json cannot be read"):
            stored(tmp_path)

    def test_bit_rot_is_found_when_a_shard_is_opened(self, tmp_path):
        d = a_set()
        it, nets = items(d), ready(d)
        folder = store_answers(tmp_path, d, it, nets, shard_mib=7 * 6 / 2**20).folder
        shard = folder / "logits-00002.npy"
        rotten = bytearray(whole := shard.read_bytes())
        rotten[-5] ^= 4
        shard.write_bytes(rotten)
        answers = StoredAnswers(tmp_path, d, PLAN)  # quick: no shard is read
        answers.batch(0, 0)
        with pytest.raises(DamagedError, match="logits-00002.npy was changed after it was written"):
            answers.batch(1, 2)
        (fault,) = verify(look(folder))
        assert "logits-00002.npy was changed" in fault
        shard.unlink()
        asked = []
        store_answers(tmp_path, d, it, nets, shard_mib=7 * 6 / 2**20, progress=lambda *n: asked.append(n))
        assert shard.read_bytes() == whole and verify(look(folder)) == []
        assert asked == [
            (18, 30),
            (20, 30),
            (24, 30),
        ]  # the batches that have rows of it (14 to 20), and no other

    @pytest.mark.parametrize("how", ["gone", "cut"])
    def test_a_store_with_lost_or_cut_shards_is_not_whole(self, tmp_path, how):
        d = a_set()
        folder = store_answers(tmp_path, d, items(d), ready(d), shard_mib=7 * 6 / 2**20).folder
        shard = folder / "logits-00002.npy"
        assert look(folder).whole and look(folder).there == look(folder).nbytes == 180
        if how == "gone":
            shard.unlink()
        else:
            shard.write_bytes(shard.read_bytes()[:-1])
        found = look(folder)
        assert not found.whole and found.intact == (0, 1, 3, 4) and found.there == 180 - 7 * 6

    def test_shards_that_changed_are_removed_to_be_made_again(self, tmp_path):
        d = a_set()
        it, nets = items(d), ready(d)
        folder = store_answers(tmp_path, d, it, nets, shard_mib=7 * 6 / 2**20).folder
        assert drop_changed(look(folder)) == []
        shard = folder / "logits-00002.npy"
        rotten = bytearray(whole := shard.read_bytes())
        rotten[-5] ^= 4
        shard.write_bytes(rotten)
        assert look(folder).whole  # its size says nothing
        assert drop_changed(look(folder)) == ["logits-00002.npy"] and not shard.exists()
        store_answers(tmp_path, d, it, nets, shard_mib=7 * 6 / 2**20)
        assert shard.read_bytes() == whole and drop_changed(look(folder)) == []

    def test_a_line_cut_off_by_a_kill_costs_one_shard(self, tmp_path):
        d = a_set()
        it, nets = items(d), ready(d)
        folder = store_answers(tmp_path, d, it, nets, shard_mib=7 * 6 / 2**20).folder
        lines = (folder / "shards.jsonl").read_text()
        (folder / "shards.jsonl").write_text(lines[:-9])
        assert not look(folder).whole and look(folder).there == 28 * 6
        with pytest.raises(FileNotFoundError, match=r"1 of 5 shards are missing \(logits-00004.npy\)"):
            StoredAnswers(tmp_path, d, PLAN)
        store_answers(tmp_path, d, it, nets, shard_mib=7 * 6 / 2**20)
        assert (folder / "shards.jsonl").read_text() == lines

    def test_what_is_whole_is_only_opened(self, tmp_path):
        d = a_set()
        store_answers(tmp_path, d, items(d), ready(d))
        again = store_answers(tmp_path, d, items(d), [], shard_mib=1e-4, progress=lambda *_: 1 / 0)
        assert again.batch(2, 1).shape == (4, 3)

    def test_a_labeller_without_networks_has_its_stored_answers(self, tmp_path):
        d = a_set(refs=())
        assert ready(d) == []
        with pytest.raises(ValueError, match="has no networks, so only its stored answers can be had"):
            store_answers(tmp_path, d, items(d), [])
        writer = ShardWriter(store_path(tmp_path, d), d, 10, 3, source="made up")
        rows = np.arange(90, dtype=np.float16).reshape(30, 3)
        writer.add(rows[:4], 0)
        writer.add(rows[4:], 4)
        answers = StoredAnswers(tmp_path, d, PLAN)
        assert answers.batch(1, 2).tolist() == rows[18:20].tolist() and answers.store.networks == ()
        assert torch.equal(answers(1, 0, torch.arange(4), torch.zeros(4, *SHAPE)), answers.batch(1, 0))

    def test_a_set_without_label_ids_can_be_labelled(self, tmp_path):
        d = a_set()
        d = d.changed(targets=replace(d.targets, ids=None))
        assert store_answers(tmp_path, d, items(d), ready(d)).batch(0, 0).shape == (4, 3)
        assert set_fingerprint(d) != set_fingerprint(a_set())

    def test_items_that_are_not_those_of_the_set_are_refused(self, tmp_path):
        d = a_set()
        folder = store_answers(tmp_path, d, items(d), ready(d)).folder
        index = json.loads((folder / "answers.json").read_text())
        (folder / "answers.json").write_text(json.dumps({**index, "items": 8, "classes": 4}))
        with pytest.raises(
            ValueError, match="are of 8 items and 4 classes, but the set has 10 items and 3 classes"
        ):
            StoredAnswers(tmp_path, d, PLAN)

    def test_a_full_disk_is_told_before_anything_is_labelled(self, tmp_path, monkeypatch):
        monkeypatch.setattr("ddbench.train.labels.shutil.disk_usage", lambda _: SimpleNamespace(free=100))
        with pytest.raises(
            WriteError, match="labels still missing take 1.8e-07 GB but the disk of .* has 1e-07 GB free"
        ):
            store_answers(tmp_path, a_set(), items(a_set()), ready(a_set()))

    @pytest.mark.parametrize(
        ("mode", "batch", "rest"), [("train", 3, 1), ("train-halves", 4, 2), ("train-halves", 7, 3)]
    )
    def test_statistics_of_a_single_image_are_refused_before_labelling(self, mode, batch, rest, tmp_path):
        class Last(nn.Module):  # its last maps have one pixel
            def __init__(self):
                super().__init__()
                self.norm = nn.BatchNorm1d(3)

            def forward(self, x):
                return self.norm(x.flatten(1)[:, :3])

        d = a_set(plan=replace(PLAN, batch=batch), batch_norm=mode)
        with pytest.raises(
            ValueError, match=f"last batch of an epoch has {rest} of 10 items .*statistics .* of a single"
        ):
            store_answers(tmp_path, d, items(d), [Last().eval()])
        store_answers(tmp_path, d, items(d), ready(d))  # maps of 4x4 pixels have statistics

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
        for broken in (whole[:150], whole[:4]):
            shard.write_bytes(broken)
            with pytest.raises(
                DamagedError, match=r"1 of 1 shards are truncated \(logits-00000.npy\); label"
            ):
                StoredAnswers(tmp_path, d, PLAN)
        np.save(shard, np.zeros((15, 6), dtype=np.float16))  # of the same size
        with pytest.raises(DamagedError, match=r"holds float16 \(15, 6\); expected float16 \(30, 3\)"):
            StoredAnswers(tmp_path, d, PLAN).batch(0, 0)
        shard.write_bytes(b"no numpy file" + whole[13:])
        with pytest.raises(DamagedError, match="logits-00000.npy is truncated or no shard"):
            StoredAnswers(tmp_path, d, PLAN).batch(0, 0)
        shard.unlink()
        with pytest.raises(FileNotFoundError, match=r"1 of 1 shards are missing \(logits-00000.npy\); label"):
            StoredAnswers(tmp_path, d, PLAN)
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

    def test_views_that_came_with_the_set_stand_for_the_protocols(self):
        own = replace(PLAN, boxes="fkd", seed=42, order="sequential")
        labeller = a_set(plan=own).targets.labeller
        asked = replace(PLAN, epochs=2)
        assert plan_for(labeller, asked) == replace(own, epochs=2)
        assert plan_for(a_set().targets.labeller, asked) == asked
        with pytest.raises(ValueError, match="epochs is 3 there, 9 asked for; batch is 4 there, 8 asked for"):
            plan_for(labeller, replace(asked, epochs=9, batch=8))
        with pytest.raises(ValueError, match="seed is 1 there, 2 asked for"):
            plan_for(a_set().targets.labeller, replace(asked, seed=2))

    def test_a_plan_needs_a_labeller_with_views(self):
        with pytest.raises(ValueError, match="the labeller has no stored views"):
            check_plan(fixed_labeller(1), PLAN)
        plain = replace(a_set(), targets=Targets(ids=torch.zeros(10, dtype=torch.long)))
        with pytest.raises(ValueError, match="the set has no labeller"):
            StoredAnswers(Path("."), plain, PLAN)


@pytest.mark.parametrize(
    ("n", "classes", "size", "metadata"),
    [
        (500, 10, 3_000_000, 3.75e6),
        (5_000, 100, 300_000_000, 3.75e7),
        (10_000, 200, 1_200_000_000, 7.5e7),
        (10_000, 1000, 6_000_000_000, 7.5e7),
        (50_000, 1000, 30_000_000_000, 3.75e8),
        (200_000, 1000, 120_000_000_000, 1.5e9),
        (209_000, 10_450, 1_310_430_000_000, 1.5675e9),
    ],
)
def test_label_bytes_of_the_spec(n, classes, size, metadata):
    assert logit_bytes(n, classes, 300) == size
    assert 25 * n * 300 == metadata  # what FKD keeps beside them, and plans drawn from a seed need not


def test_static_labels_of_the_spec():
    assert logit_bytes(50_000, 1000) == 100_000_000


def test_a_student_equal_to_its_teacher_has_no_loss():
    d = a_set(batch_norm="train-halves")
    (net,) = ready(d)
    x = torch.rand(6, *SHAPE, generator=generator())
    teacher, student = answer(d.targets.labeller, [net], x), answer(d.targets.labeller, [network()], x)
    p, q = torch.softmax(teacher / 20, 1), torch.log_softmax(student / 20, 1)
    assert torch.nn.functional.kl_div(q, p, reduction="batchmean").item() == pytest.approx(0, abs=1e-7)


VIEWS, LIMIT_MIB = 100_000, 300

_AT_SCALE = """
import json, sys
from pathlib import Path
import torch
from ddbench.augment.views import batches
from ddbench.budget import Meter
from ddbench.codecs import items
from ddbench.contract import Card, DistilledSet, Labeller, NetworkRef, Space, Targets
from ddbench.train.labels import StoredAnswers, store_answers, verify
from ddbench.train.students import batch_inputs
from ddbench.trainplan import ViewPlan

folder, n, epochs, classes = Path(sys.argv[1]), *map(int, sys.argv[2:])
torch.set_num_threads(1)
space = Space("uint8", (0.5,), (0.25,))
plan = ViewPlan(epochs, 1000, crop="resized", flip=0.5, mix="cutmix")
network = torch.nn.Sequential(torch.nn.AvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(4, classes)).eval()
torch.zeros(1, 1, 4, 4, requires_grad=True).sum().backward()  # what torch itself loads late
with Meter() as meter:
    distilled = DistilledSet(
        {"images": torch.randint(256, (n, 1, 4, 4), dtype=torch.uint8)},
        Targets(torch.arange(n) % classes, labeller=Labeller((NetworkRef("a", "cache", "a"),), space, views=plan)),
        space, card=Card(classes=classes, shape=(1, 4, 4)),
    )
    it = items(distilled)
    store_answers(folder, distilled, it, [network])
    answers, views, same = StoredAnswers(folder, distilled, plan), 0, True
    for epoch in range(epochs):
        for number, rows in enumerate(batches(plan, n, epoch)):
            logits = answers.batch(epoch, number)
            views += len(logits)
            if number % 5 == epoch % 5:
                seen, _ = batch_inputs(it, plan, epoch, number, rows)
                same &= torch.allclose(logits.float(), network(seen), atol=0.01)
    faults = verify(answers.store)
print(json.dumps(dict(views=views, same=same, faults=faults, bytes=answers.nbytes, shards=answers.store.shards,
                      rise_mib=meter.rise_mib)))
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="this system does not say the peak of memory"
)
def test_a_store_larger_than_the_limit_is_written_and_replayed_below_it(tmp_path):
    """100,000 views of 2,000 classes: 400 MB of logits, in a process of its own that may grow by 300 MB."""
    done = subprocess.run(
        [sys.executable, "-c", _AT_SCALE, str(tmp_path), str(VIEWS // 10), "10", "2000"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["views"], found["bytes"], found["faults"]) == (VIEWS, 400_000_000, []) and found["same"]
    assert found["bytes"] / 2**20 > LIMIT_MIB and found["shards"] == 6
    assert 0 < found["rise_mib"] < LIMIT_MIB
