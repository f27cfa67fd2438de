"""Sets on disk: what is read is what was written, for a small example of every kind; damage is found and explained."""

import json
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ddbench import sets
from ddbench.budget import byte_count
from ddbench.codecs import count, graphs, items
from ddbench.contract import (
    ZCA,
    Card,
    CodecSpec,
    Cost,
    DistilledSet,
    ImageData,
    Labeller,
    NetworkRef,
    Program,
    Space,
    Targets,
)
from ddbench.store import DamagedError
from ddbench.trainplan import ViewPlan

SPACE = Space("input", (0.1, 0.2), (0.3, 0.7))
UNIT = Space("unit", (0.1, 0.2), (0.3, 0.7))


def generator():
    return torch.Generator().manual_seed(0)


def data():
    images = torch.randint(256, (10, 2, 4, 4), dtype=torch.uint8, generator=generator())
    return ImageData("toy", "train", images, torch.arange(10) % 2, 2, (0.1, 0.2), (0.3, 0.7))


def card(**other):
    return Card(**{**dict(method="dm", dataset="toy", classes=2, shape=(2, 4, 4), ipc=1), **other})


def plain(**other):
    images = torch.randn(2, 2, 4, 4, generator=generator())
    made = dict(
        tensors={"images": images}, targets=Targets(ids=torch.tensor([0, 1])), space=SPACE, card=card()
    )
    return DistilledSet(**{**made, **other})


def labeller(**other):
    network = NetworkRef("ConvNetD1", "inline", "teacher.", low_rank="delta.", weight=0.25)
    public = NetworkRef("resnet18", "public", "torchvision:resnet18/IMAGENET1K_V1", size=224, outputs=(3, 7))
    made = dict(networks=(network, public), space=UNIT, batch_norm="train-halves", combine="norm-mean")
    return Labeller(**{**made, **other})


def whitened():
    transform = torch.randn(32, 32, generator=generator())
    return Space(
        "input", (0.1, 0.2), (0.3, 0.7), ZCA(torch.randn(32, generator=generator()), transform, 0.1, "abc")
    )


def example(kind):
    """(set, items) with one small made-up set of each kind; the second is the number of items."""
    half = torch.rand(2, 2, 4, 4, generator=generator()).half()
    bytes_ = torch.randint(256, (2, 2, 4, 4), dtype=torch.uint8, generator=generator())
    uint8 = Space("uint8", (0.1, 0.2), (0.3, 0.7))
    named = card(data_fingerprint=data().fingerprint)
    chosen = {"indices": torch.tensor([3, 8])}
    if kind == "identity":
        return plain(), 2
    if kind == "bytes":
        return plain(tensors={"images": bytes_}, space=uint8), 2
    if kind == "grid":
        return plain(tensors={"images": half}, space=UNIT, codec=CodecSpec("grid", {"factor": 2})), 8
    if kind == "mosaic":
        codec = CodecSpec("grid", {"kind": "whole", "visit": "patch-shuffle"})
        return plain(tensors={"images": bytes_}, space=uint8, codec=codec), 2
    if kind == "compensated":
        tensors = {"naturals": bytes_, "compensators": half}
        return plain(tensors=tensors, space=UNIT, codec=CodecSpec("compensated")), 6
    if kind == "subset":
        return plain(tensors=chosen, codec=CodecSpec("subset"), card=named), 2
    if kind == "resampled":
        pool = {"indices": torch.arange(10, dtype=torch.int16)}
        codec = CodecSpec("resampled", {"ratio": 0.2, "variant": "stratified"})
        return plain(tensors=pool, codec=codec, card=named, targets=Targets(ids=data().labels)), 10
    if kind == "whitened":
        return plain(space=whitened()), 2
    if kind == "soft":
        soft = torch.tensor([[0.9, 0.1], [0.3, 0.7]]).half()
        targets = Targets(soft=soft, kind="probabilities", weights=torch.tensor([1.0, 3.0]))
        return plain(targets=targets), 2
    if kind == "values":
        return plain(targets=Targets(soft=torch.randn(2, 5, generator=generator()), kind="values")), 2
    if kind == "labeller":
        tensors = {
            "images": torch.rand(2, 2, 4, 4, generator=generator()),
            "teacher.weight": torch.randn(3, 2, generator=generator()),
            "delta.weight.A": torch.randn(3, 1, generator=generator()).half(),
            "delta.weight.B": torch.randn(1, 2, generator=generator()).half(),
        }
        plan = ViewPlan(3, 2, seed=7, crop="resized", crop_scale=(0.25, 1.0), flip=0.5, mix="cutmix")
        targets = Targets(ids=torch.tensor([0, 1]), labeller=labeller(views=plan))
        return plain(tensors=tensors, targets=targets), 2
    if kind == "rate":
        return plain(program=Program(torch.tensor([0.01]))), 2
    if kind == "program":
        order = ((0,), (1, 0), (0,))
        tensors = {"images": torch.rand(2, 2, 4, 4, generator=generator()), "w0.weight": torch.randn(3, 2)}
        return plain(tensors=tensors, program=Program(torch.tensor([0.1, 0.2, 0.3]), order, "inline:w0.")), 2
    assert kind == "trees"
    tensors = {
        "size": torch.tensor([3, 1], dtype=torch.uint8),
        "parent": torch.tensor([0, 0, 0, 0], dtype=torch.uint8),
        "node": torch.tensor([0, 1, 1, 0], dtype=torch.uint8),
        "node_table": torch.tensor([[1.0], [2.0]]),
    }
    targets = Targets(ids=torch.tensor([0, 1]), weights=torch.tensor([5.0, 2.0]))
    return plain(tensors=tensors, targets=targets, space=None, codec=CodecSpec("trees"), kind="graph"), 2


KINDS = "identity bytes grid mosaic compensated subset resampled whitened soft values labeller rate program trees".split()


def same(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape
    return torch.equal(a.view(torch.uint8) if a.numel() else a, b.view(torch.uint8) if b.numel() else b)


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKindOfSet:
    def test_what_is_read_is_what_was_written(self, kind, tmp_path):
        written, _ = example(kind)
        sets.write(tmp_path / "a.safetensors", written)
        read = sets.read(tmp_path / "a.safetensors")
        assert list(read.tensors) == sorted(written.tensors)
        assert all(same(read.tensors[name], t.contiguous()) for name, t in written.tensors.items())
        for name, t in written.targets.rows().items():
            assert same(read.targets.rows()[name], t)
        assert read.fingerprint() == written.fingerprint()
        assert read.card == written.card and read.kind == written.kind
        assert (read.codec.name, dict(read.codec.settings)) == (
            written.codec.name,
            dict(written.codec.settings),
        )
        assert byte_count(read) == byte_count(written)

    def test_items_of_a_set_are_those_before_it_was_written(self, kind, tmp_path):
        written, n = example(kind)
        sets.write(tmp_path / "a.safetensors", written)
        read = sets.read(tmp_path / "a.safetensors")
        assert count(read) == n
        if kind == "trees":
            assert [str(g) for g in graphs(read)] == [str(g) for g in graphs(written)]
            return
        before, after = items(written, data()), items(read, data())
        assert len(after) == n
        assert torch.equal(before.to_input(before.stored), after.to_input(after.stored))
        assert before.to_input(before.stored).shape == (n, 2, 4, 4)

    def test_writing_twice_gives_the_same_bytes(self, kind, tmp_path):
        for name in ("a", "b"):
            sets.write(tmp_path / f"{name}.safetensors", example(kind)[0].changed(card=dict(seed=1)))
        if kind != "program":  # its frozen weights are drawn anew
            assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


class TestParts:
    def round_trip(self, tmp_path, written):
        sets.write(tmp_path / "a.safetensors", written)
        return sets.read(tmp_path / "a.safetensors")

    def test_a_labeller_comes_back_whole(self, tmp_path):
        read = self.round_trip(tmp_path, example("labeller")[0]).targets.labeller
        written = example("labeller")[0].targets.labeller
        assert read.networks == written.networks and read.views == written.views
        assert read.describe() == written.describe()

    def test_a_program_comes_back_whole(self, tmp_path):
        read = self.round_trip(tmp_path, example("program")[0]).program
        assert read.order == ((0,), (1, 0), (0,)) and read.init == "inline:w0."
        assert same(read.step_sizes, torch.tensor([0.1, 0.2, 0.3]))

    def test_the_card_comes_back_whole(self, tmp_path):
        full = card(
            recipe="authors",
            settings={"lr": 0.1, "layers": [1, 2]},
            seed=4,
            partial=True,
            cost=Cost(1.5, 2.5, "cpu", 10, 6.0, 3.0),
            needs={"teacher": 10},
            notes={"note": "x"},
        )
        assert self.round_trip(tmp_path, plain(card=full)).card == full

    @pytest.mark.parametrize(("classes", "dtype"), [(10, "U8"), (256, "U8"), (257, "I16"), (40_000, "I32")])
    def test_ids_take_the_smallest_integer_that_holds_the_classes(self, classes, dtype, tmp_path):
        ids = Targets(ids=torch.tensor([0, classes - 1]))
        sets.write(tmp_path / "a.safetensors", plain(targets=ids, card=card(classes=classes)))
        raw = (tmp_path / "a.safetensors").read_bytes()
        header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
        assert header["targets.ids"]["dtype"] == dtype
        assert sets.read(tmp_path / "a.safetensors").targets.ids.tolist() == [0, classes - 1]

    def test_views_and_shared_memory_are_written_as_their_values(self, tmp_path):
        base = torch.rand(4, 2, 4, 4)
        tensors = {"images": base[::2], "extra": base[1:3], "more": base[1:3]}
        read = self.round_trip(tmp_path, plain(tensors=tensors))
        assert torch.equal(read.tensors["images"], base[::2]) and torch.equal(read.tensors["more"], base[1:3])

    def test_one_whitening_map_serves_all_sets_of_a_folder(self, tmp_path):
        space = whitened()
        for name in ("a", "b"):
            sets.write(tmp_path / f"{name}.safetensors", plain(space=space))
        assert [f.name for f in (tmp_path / "spaces").iterdir()] == [f"{space.zca.hash}.safetensors"]
        zca = sets.read(tmp_path / "b.safetensors").space.zca
        assert zca.hash == space.zca.hash and (zca.eps, zca.fitted_on) == (0.1, "abc")
        assert (tmp_path / "a.safetensors").stat().st_size < 32 * 32 * 4

    def test_a_missing_whitening_map_says_what_to_do_and_may_be_given(self, tmp_path):
        space = whitened()
        sets.write(tmp_path / "a.safetensors", plain(space=space))
        (tmp_path / "spaces" / f"{space.zca.hash}.safetensors").unlink()
        with pytest.raises(
            FileNotFoundError, match=r"a whitened space, but .* copy it .* eps 0.1 .* fingerprint abc"
        ):
            sets.read(tmp_path / "a.safetensors")
        assert sets.read(tmp_path / "a.safetensors", zca=space.zca).space.zca is space.zca

    def test_what_does_not_fit_is_not_written(self, tmp_path):
        wrong = plain(targets=Targets(soft=torch.zeros(2, 3), kind="logits"))
        with pytest.raises(
            ValueError, match=r"soft labels have shape \(2, 3\) but toy has 2 classes; expected \(2, 2\)"
        ):
            sets.write(tmp_path / "a.safetensors", wrong)
        with pytest.raises(ValueError, match="the card or the settings .* cannot be stored as JSON"):
            sets.write(tmp_path / "a.safetensors", plain(card=card(notes={"x": object()})))
        assert list(tmp_path.iterdir()) == []


class TestDamage:
    def file(self, tmp_path):
        path = tmp_path / "set.safetensors"
        sets.write(path, plain())
        return path

    @pytest.mark.parametrize("keep", [0, 5, 100, -1])
    def test_a_truncated_file_is_named(self, keep, tmp_path):
        path = self.file(tmp_path)
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(
            DamagedError, match=r"set.safetensors is no whole safetensors file .* distil again"
        ):
            sets.read(path)

    def test_a_changed_value_is_found(self, tmp_path):
        path = self.file(tmp_path)
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
        with pytest.raises(DamagedError, match="set.safetensors was changed after it was written"):
            sets.read(path)

    def test_a_torch_file_says_how_it_can_be_used(self, tmp_path):
        path = tmp_path / "images_best.safetensors"
        torch.save(torch.zeros(2), path)
        with pytest.raises(
            DamagedError, match=r"is a PyTorch or pickle file, .* ddbench.evaluate\(images, labels"
        ):
            sets.read(path)

    def test_a_foreign_safetensors_file(self, tmp_path):
        path = tmp_path / "model.safetensors"
        save_file({"weight": torch.zeros(2)}, path)
        with pytest.raises(
            DamagedError, match="model.safetensors is a safetensors file without a ddbench card"
        ):
            sets.read(path)

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no distilled set .*none.safetensors"):
            sets.read(tmp_path / "none.safetensors")

    def test_a_newer_schema(self, tmp_path):
        path = tmp_path / "a.safetensors"
        save_file({"x": torch.zeros(1)}, path, metadata={"ddbench": json.dumps({"schema": 99})})
        with pytest.raises(DamagedError, match="schema 99, this ddbench knows up to 1; update ddbench"):
            sets.read(path)

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            ("{", "has a card that cannot be read"),
            ('{"schema": "x"}', "has a card that cannot be read"),
            ('{"schema": 1}', r"is damaged \('targets'\); delete it and distil again"),
        ],
    )
    def test_a_card_that_makes_no_sense(self, header, message, tmp_path):
        path = tmp_path / "a.safetensors"
        save_file({"x": torch.zeros(1)}, path, metadata={"ddbench": header})
        with pytest.raises(DamagedError, match=message):
            sets.read(path)

    def test_a_changed_whitening_map(self, tmp_path):
        space = whitened()
        path = tmp_path / "a.safetensors"
        sets.write(path, plain(space=space))
        beside = tmp_path / "spaces" / f"{space.zca.hash}.safetensors"
        save_file({"mean": space.zca.mean + 1, "transform": space.zca.transform}, beside)
        with pytest.raises(DamagedError, match=f"{space.zca.hash}.safetensors was changed"):
            sets.read(path)

    def test_a_failed_write_leaves_the_old_set(self, tmp_path, monkeypatch):
        path = self.file(tmp_path)
        before = path.read_bytes()

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(sets, "save_file", full)
        with pytest.raises(OSError, match=r"cannot write .*set.safetensors: the disk is full"):
            sets.write(path, plain(targets=Targets(ids=torch.tensor([1, 0]))))
        assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@given(
    n=st.integers(1, 5),
    channels=st.integers(1, 3),
    side=st.integers(1, 6),
    dtype=st.sampled_from([torch.float16, torch.float32, torch.float64, torch.uint8, torch.bfloat16]),
    seed=st.integers(0, 2**31),
    weights=st.booleans(),
    soft=st.sampled_from([None, torch.float16, torch.float32]),
)
@settings(max_examples=40, deadline=None)
def test_any_set_of_images_survives_the_disk_bit_by_bit(
    tmp_path_factory, n, channels, side, dtype, seed, weights, soft
):
    g = torch.Generator().manual_seed(seed)
    raw = torch.randn(n, channels, side, side, generator=g) * 100
    images = raw.to(dtype) if dtype.is_floating_point else raw.abs().clamp(max=255).to(dtype)
    stored = "unit" if dtype.is_floating_point else "uint8"
    targets = Targets(
        ids=torch.randint(7, (n,), generator=g),
        soft=None if soft is None else torch.randn(n, 7, generator=g).to(soft),
        kind="none" if soft is None else "logits",
        weights=torch.rand(n, generator=g) if weights else None,
    )
    space = Space(stored, (0.1,) * channels, (0.3,) * channels)
    written = DistilledSet(
        {"images": images}, targets, space, card=Card(classes=7, shape=tuple(images.shape[1:]))
    )
    path = tmp_path_factory.mktemp("sets") / "a.safetensors"
    sets.write(path, written)
    read = sets.read(path)
    assert same(read.tensors["images"], images) and read.space == read.space
    assert all(same(read.targets.rows()[name], t) for name, t in targets.rows().items())
    assert read.fingerprint() == written.fingerprint() and byte_count(read) == byte_count(written)
