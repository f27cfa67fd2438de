"""Bytes of sets, counted by hand; wall time and peak memory."""

import mmap
import time

import numpy as np
import pytest
import torch

from ddbench.budget import LABEL_NOTE, Meter, byte_count, smallest_int, stored_ids
from ddbench.contract import (
    ZCA,
    ByteCount,
    Card,
    CodecSpec,
    DistilledSet,
    Labeller,
    NetworkRef,
    Program,
    Space,
    Targets,
)
from ddbench.trainplan import ViewPlan

RGB = ((0.5,) * 3, (0.25,) * 3)
INPUT = Space("input", *RGB)
CARD = Card(dataset="cifar10", classes=10, shape=(3, 32, 32), needs={"teacher": 1000})


def images(n, dtype=torch.float32):
    return torch.zeros(n, 3, 32, 32, dtype=dtype)


def hard(n):
    return Targets(ids=torch.arange(n) % 10)


def counted(tensors, targets, space=INPUT, codec="identity", settings=None, card=CARD, **other):
    return byte_count(
        DistilledSet(tensors, targets, space, CodecSpec(codec, settings or {}), card=card, **other)
    )


class TestBytes:
    def test_cifar10_ipc_10_in_float32(self):
        got = counted({"images": images(100)}, hard(100))
        assert got == ByteCount(images=1_228_800, labels=100, space=24, beside={"teacher": 1000})
        assert got.total == 1_228_924  # what lies beside is not summed

    def test_cifar10_ipc_10_in_bytes(self):
        got = counted({"images": images(100, torch.uint8)}, hard(100), Space("uint8", *RGB))
        assert got.images == 307_200

    def test_a_grid_counts_what_is_stored_not_what_it_decodes_to(self):
        got = counted({"images": images(10, torch.float16)}, hard(10), Space("unit", *RGB), "grid")
        assert (got.images, got.labels) == (10 * 3072 * 2, 10)

    def test_a_subset_counts_the_images_that_it_names_once(self):
        got = counted({"indices": torch.tensor([5, 7, 5])}, hard(3), codec="subset")
        assert (got.images, got.labels, got.codec) == (2 * 3072, 3, 0)

    def test_a_subset_needs_the_shape(self):
        with pytest.raises(ValueError, match=r"the card's shape is \(\); a subset needs \(C, H, W\)"):
            counted({"indices": torch.tensor([5])}, hard(1), codec="subset", card=Card())

    def test_a_resampled_pool_counts_all_that_may_be_drawn(self):
        got = counted({"indices": torch.arange(50)}, hard(50), codec="resampled", settings={"ratio": 0.1})
        assert got.images == 50 * 3072

    def test_compensators_of_the_infer_spec(self):
        # CIFAR-100, IPC 50, 4 networks: 4,800 naturals and 192 compensators of 3,072 values
        tensors = {"naturals": images(4800, torch.uint8), "compensators": images(192, torch.float16)}
        soft = Targets(soft=torch.zeros(24_000, 100, dtype=torch.float16), kind="logits")
        got = counted(tensors, soft, Space("unit", *RGB), "compensated", {"per_class": 48})
        assert got.images == 4800 * 3072 + 192 * 3072 * 2
        assert got.labels == 4_800_000

    def test_a_graph_of_trees(self):
        tensors = {
            "size": torch.zeros(2, dtype=torch.uint8),
            "parent": torch.zeros(9, dtype=torch.uint8),
            "node": torch.zeros(9, dtype=torch.uint8),
            "edge": torch.zeros(9, dtype=torch.uint8),
            "node_table": torch.zeros(3, 4),
            "edge_table": torch.zeros(2, 1),
        }
        targets = Targets(ids=torch.tensor([0, 1]), weights=torch.ones(2))
        got = counted(tensors, targets, None, "trees", kind="graph", card=Card(classes=2))
        assert (got.images, got.labels, got.codec, got.space) == (2 + 27, 2 + 8, 3 * 4 * 4 + 2 * 4, 0)

    def test_soft_labels_and_weights_count_as_stored(self):
        targets = Targets(
            ids=torch.arange(10),
            soft=torch.zeros(10, 10).half(),
            kind="logits",
            weights=torch.ones(10).double(),
        )
        assert counted({"images": images(10)}, targets).labels == 10 + 200 + 80

    @pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.float16, 2)])
    def test_representations_of_the_krr_st_spec(self, dtype, size):
        targets = Targets(soft=torch.zeros(10, 512, dtype=dtype), kind="values")
        assert counted({"images": images(10)}, targets).labels == 10 * 512 * size

    def test_an_inline_labeller_and_its_low_rank_parts_are_labels(self):
        tensors = {
            "images": images(1),
            "head.weight": torch.zeros(1000, 64),
            "lora.fc.weight.A": torch.zeros(1000, 8),
            "lora.fc.weight.B": torch.zeros(8, 1024),
            "decoder": torch.zeros(5),
        }
        networks = (
            NetworkRef("linear", "inline", "head."),
            NetworkRef("clip", "public", "timm:resnet50_clip", low_rank="lora."),
        )
        got = counted(tensors, Targets(ids=torch.tensor([0]), labeller=Labeller(networks, INPUT)))
        assert (1000 + 1024) * 8 == 16_192  # the count of the HeLlO spec
        assert got.labels == 1 + 64_000 * 4 + 16_192 * 4
        assert got.codec == 20 and got.space == 24

    @pytest.mark.parametrize(
        ("out", "rest", "rank", "parameters"),
        [
            (1000, 1024, 8, 16_192),
            (1000, 1024, 128, 259_072),
            (768, 768, 8, 12_288),
            (512, 512 * 3 * 3, 8, 40_960),
        ],
    )
    def test_low_rank_parts_of_the_hello_spec(self, out, rest, rank, parameters):
        tensors = {"images": images(1), "d.w.A": torch.zeros(out, rank), "d.w.B": torch.zeros(rank, rest)}
        network = NetworkRef("clip", "public", "timm:resnet50_clip", low_rank="d.")
        got = counted(tensors, Targets(ids=torch.tensor([0]), labeller=Labeller((network,), INPUT)))
        assert got.labels == 1 + 4 * parameters

    def test_explicit_boxes_and_stored_answers_are_labels(self, tmp_path):
        plan = ViewPlan(3, 2, boxes="fkd")
        labeller = Labeller((NetworkRef("ResNet18", "cache", "abc"),), INPUT, views=plan)
        tensors = {"images": images(2), "fkd.crops": torch.zeros(3, 2, 4, dtype=torch.int16)}
        targets = Targets(ids=torch.tensor([0, 1]), labeller=labeller)
        card = Card(classes=10, shape=(3, 32, 32), notes={LABEL_NOTE: 3 * 2 * 10 * 2})
        assert counted(tensors, targets, card=card).labels == 2 + 48 + 120
        for number, rows in enumerate((4, 2)):
            np.save(tmp_path / f"logits-0000{number}.npy", np.zeros((rows, 10), dtype=np.float16))
        d = DistilledSet(tensors, targets, INPUT, card=card)
        assert byte_count(d, tmp_path).labels == 2 + 48 + 120  # the logits, without the heads of the files

    def test_whitening_counts_once(self):
        zca = ZCA(torch.zeros(3072), torch.zeros(3072, 3072), 0.1, "")
        space = Space("input", *RGB, zca)
        labeller = Labeller((NetworkRef("ConvNet", "cache", "a"),), space)
        got = counted({"images": images(1)}, Targets(ids=torch.tensor([0]), labeller=labeller), space)
        assert got.space == 24 + 3072 * 4 + 3072 * 3072 * 4

    def test_another_space_of_the_labeller_counts_too(self):
        labeller = Labeller((NetworkRef("ConvNet", "cache", "a"),), Space("input", (0.4,) * 3, (0.2,) * 3))
        assert counted({"images": images(1)}, Targets(ids=torch.tensor([0]), labeller=labeller)).space == 48

    def test_a_program_of_three_passes_over_two_batches(self):
        order = tuple(((0, 1), (2, 3))[t % 2] for t in range(6))
        program = Program(torch.ones(6), order)
        got = counted({"images": images(4)}, hard(4), program=program)
        assert got.program == 6 * 4 + 12 + 6

    def test_frozen_initial_weights_of_the_dd_spec(self):
        tensors = {"images": images(10), "w0.weight": torch.zeros(61_706)}
        program = Program(torch.ones(1), init="inline:w0.")
        assert counted(tensors, hard(10), program=program).program == 4 + 246_824

    def test_a_learned_learning_rate_is_four_bytes(self):
        assert counted({"images": images(1)}, hard(1), program=Program(torch.tensor([0.1]))).program == 4


@pytest.mark.parametrize(
    ("values", "dtype"),
    [(2, torch.uint8), (256, torch.uint8), (257, torch.int16), (32_768, torch.int16), (32_769, torch.int32)],
)
def test_the_smallest_integer_holds_all_values(values, dtype):
    assert smallest_int(values) == dtype
    assert int(torch.tensor(values - 1).to(dtype)) == values - 1


def test_ids_are_sized_by_the_classes_not_by_those_that_occur():
    d = DistilledSet({"images": images(1)}, hard(1), INPUT, card=Card(classes=1000))
    assert stored_ids(d).dtype == torch.int16


def touch(mib: int) -> None:
    """Take so much memory from the system and give it back; an allocator may serve from what it kept."""
    with mmap.mmap(-1, mib << 20) as pages:
        for at in range(0, mib << 20, mmap.PAGESIZE):
            pages[at] = 1


class TestMeter:
    def test_wall_time_grows_inside_and_stands_still_after(self):
        with Meter() as meter:
            time.sleep(0.02)
            inside = meter.wall_s
        assert 0.02 <= inside <= meter.wall_s < 5
        assert meter.wall_s == meter.wall_s

    def test_peak_on_cpu_sees_what_was_freed_again(self):
        with Meter() as meter:
            touch(64)
        assert 50 < meter.rise_mib < 300
        assert meter.peak_mib > 100 + meter.rise_mib, "the interpreter and torch stand in the peak"

    def test_an_inner_meter_takes_nothing_from_the_outer_one(self):
        with Meter() as outer:
            touch(96)
            with Meter() as inner:
                touch(32)
        assert outer.rise_mib > 80 > inner.rise_mib > 20

    def test_it_closes_after_an_error(self):
        meter = Meter()
        with pytest.raises(RuntimeError, match="inside"), meter:
            raise RuntimeError("inside")
        assert meter.wall_s >= 0 and Meter._open == []

    def test_it_counts_the_images_that_pass_through_a_network(self):
        network = torch.nn.Linear(2, 2)
        with Meter() as meter:
            meter.watch(network)
            network(torch.zeros(5, 2))
            network(torch.zeros(3, 2))
        network(torch.zeros(3, 2))
        assert meter.passes == 8

    @pytest.mark.gpu
    def test_peak_on_cuda_is_that_of_tensors(self):
        with Meter("cuda") as outer:
            torch.ones(96 << 18, device="cuda").sum()
            with Meter("cuda") as inner:
                torch.ones(32 << 18, device="cuda").sum()
        assert 96 <= outer.peak_mib < 200 and 32 <= inner.peak_mib < 96
