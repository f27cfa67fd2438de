"""Published sets: read safely, diagnosed, never guessed; what is read scores as our own copy does, bit by bit."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import random
import re
import shlex
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fuzz_readers
import numpy as np
import pytest
import torch
from conftest import blobs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from test_cli import Ddbench, Said

import ddbench
from ddbench import cli, codecs, data, foreign, sets
from ddbench.contract import CodecSpec, DistilledSet, Program, RealData, Space, Targets
from ddbench.formats import (
    FORMATS,
    FormatError,
    as_set,
    look,
    parse_stats,
    read_published,
    write_folder,
    write_mtt,
    write_safetensors,
)
from ddbench.formats.found import labels_of, likely_space, seams, values_of

CLASSES, IPC, SIDE = 4, 2, 16
NAMES = ("zebra", "ant", "cat", "dog")  # not sorted: folders are, and labels must not follow them
STATS = "0.5,0.4,0.6/0.2,0.25,0.3"
NORM = Space("input", (0.5, 0.4, 0.6), (0.2, 0.25, 0.3))
IDS = torch.arange(CLASSES).repeat_interleave(IPC)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def real() -> RealData:
    made = blobs("toy", (3, SIDE, SIDE), CLASSES, (12, 10))
    return RealData(replace(made.train, class_names=NAMES), replace(made.test, class_names=NAMES))


@pytest.fixture(scope="module")
def unit(real: RealData) -> torch.Tensor:
    """Images on the [0, 1] scale, near real ones, class by class."""
    keep = torch.cat([real.train.of_class(c)[:IPC] for c in range(CLASSES)])
    noise = torch.randn((CLASSES * IPC, 3, SIDE, SIDE), generator=generator(3))
    return (real.train.images[keep].float() / 255 + 0.02 * noise).clamp(0, 1)


@pytest.fixture(scope="module")
def norm(unit: torch.Tensor) -> torch.Tensor:
    return NORM.unit_to_input(unit)


@pytest.fixture(scope="module")
def pixels(unit: torch.Tensor) -> torch.Tensor:
    return (unit * 255).round().to(torch.uint8)


def scores(
    distilled: DistilledSet, real: RealData, protocol: str = "quick", network: str = "ConvNetD1W8"
) -> list[float]:
    (record,) = ddbench.evaluate(
        distilled, dataset=real, protocol=protocol, networks=network, repeats=1, device="cpu", quiet=True
    )
    return [s.value for s in record.scores]


def same(
    path: Path, ours: DistilledSet, real: RealData, tmp: Path, protocol: str = "quick", **flags: Any
) -> DistilledSet:
    """Read, write as one of ours, read again: the tensors of our own copy, and its accuracy to the last bit."""
    made = read_published(path, real, **flags)
    sets.write(tmp / "made" / "set.safetensors", made)
    made = sets.read(tmp / "made" / "set.safetensors")
    assert made.fingerprint() == ours.fingerprint()
    for name, t in ours.tensors.items():
        assert made.tensors[name].dtype == t.dtype and torch.equal(made.tensors[name], t)
    found = scores(made, real, protocol)
    assert found == scores(ours, real, protocol) and len(found) >= 1
    notes = made.card.notes
    assert notes["source_file"] == path.name and notes["source_format"] and notes["source_said"]
    return made


def save(value: Any, path: Path, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path, **how)
    return path


def refused(path: Path, real: RealData | None, *texts: str, **flags: Any) -> str:
    """The refusal names the file and has all the texts."""
    with pytest.raises(FormatError) as error:
        look(path) if real is None else read_published(path, real, **flags)
    for text in texts:
        assert text in str(error.value), str(error.value)
    assert path.name in str(error.value)
    return str(error.value)


def dc_file(folder: Path, images: torch.Tensor, experiments: int = 2, flat: bool = False) -> Path:
    """As DC's, DM's and DataDAM's scripts save: accuracies are numpy scalars."""
    every = [[images + (e - experiments + 1), IDS.clone()] for e in range(experiments)]
    accuracies = {"ConvNet": [np.float64(0.5), np.float64(0.6)], "MLP": [np.float32(0.4), np.int64(1)]}
    return save(
        {"data": every[-1] if flat else every, "accs_all_exps": accuracies},
        folder / "res_DM_TOY_ConvNet_2ipc.pt",
    )


def jpeg(array: torch.Tensor, path: Path) -> torch.Tensor:
    """Write (3, H, W) uint8 as JPEG; what a reader gets back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.permute(1, 2, 0).numpy()).save(path)
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


# ------------------------------------------------------------------------------------------------ every format


class TestEveryFormatScoresAsOurOwnCopy:
    @pytest.mark.parametrize("flat", [False, True])
    def test_dc(self, flat: bool, norm: torch.Tensor, real: RealData, tmp_path: Path) -> None:
        path = dc_file(tmp_path, norm, flat=flat)
        made = same(
            path, as_set(norm, IDS, real, space=NORM), real, tmp_path, space="norm", stats=STATS, format="dm"
        )
        found = look(path)
        assert found.format == "dc" and found.experiments == (1 if flat else 2)
        assert found.facts["accuracies that the authors saved"] == "ConvNet 55.00 % of 2, MLP 70.00 % of 2"
        assert made.card.notes["source_said"] == f"format=dm space=norm stats={STATS}"
        assert len(made.card.notes["source_sha256"]) == 64

    def test_dc_of_old_numpy(self, norm: torch.Tensor, real: RealData, tmp_path: Path) -> None:
        new = dc_file(tmp_path / "new", norm)
        old = tmp_path / "old.pt"
        with zipfile.ZipFile(new) as source, zipfile.ZipFile(old, "w") as target:
            for member in source.namelist():
                text = source.read(member)
                if member.endswith("data.pkl"):
                    current = f"c{np.float64(0).__reduce__()[0].__module__}\n".encode()
                    other = (
                        b"cnumpy.core.multiarray\n" if b"_core" in current else b"cnumpy._core.multiarray\n"
                    )
                    assert current in text
                    text = text.replace(current, other)
                target.writestr(member, text)
        same(old, as_set(norm, IDS, real, space=NORM), real, tmp_path, space="norm", stats=STATS)

    def test_dc_in_the_legacy_form(self, norm: torch.Tensor, real: RealData, tmp_path: Path) -> None:
        value = {"data": [[norm, IDS]], "accs_all_exps": {"ConvNet": [np.float64(0.5)]}}
        path = save(value, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
        assert look(path).container == "legacy torch"
        same(path, as_set(norm, IDS, real, space=NORM), real, tmp_path, space="norm", stats=STATS)

    def test_bacon_is_a_dict_of_mosaics(self, norm: torch.Tensor, real: RealData, tmp_path: Path) -> None:
        path = save({"data": [[norm, IDS]]}, tmp_path / "BACON_toy_ipc2_conv.pt")
        refused(
            path,
            real,
            "--factor N: BACON's pictures are cut in 2x2",
            space="norm",
            stats=STATS,
            format="bacon",
        )
        ours = as_set(norm, IDS, real, space=NORM, codec=CodecSpec("grid", {"factor": 2, "kind": "single"}))
        same(path, ours, real, tmp_path, space="norm", stats=STATS, factor=2)
        assert codecs.count(ours) == 4 * len(norm)

    def test_k_means_pairs_with_float_labels(
        self, norm: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        path = save(norm, tmp_path / "CIFAR10_IPC2_images.pt")
        save(IDS.float(), tmp_path / "CIFAR10_IPC2_labels.pt")
        found = look(path)
        assert found.labels is not None and (found.labels.kind, found.labels.dtype) == ("ids", "float32")
        same(path, as_set(norm, IDS, real, space=NORM), real, tmp_path, space="norm", stats=STATS)

    def test_mtt(self, norm: torch.Tensor, real: RealData, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        for prefix, shift in (("", 0.0), ("ema_", 1.0)):
            save(norm + shift, folder / f"{prefix}images_best.pt")
            save(IDS, folder / f"{prefix}labels_best.pt")
        save(norm + 2, folder / "images_500.pt")
        save(IDS, folder / "labels_500.pt")
        flags = {"space": "norm", "stats": STATS}
        same(folder, as_set(norm, IDS, real, space=NORM), real, tmp_path, **flags)
        for name, shift in (("ema_images_best.pt", 1.0), ("images_500.pt", 2.0)):
            same(folder / name, as_set(norm + shift, IDS, real, space=NORM), real, tmp_path, **flags)

    def test_mtt_in_parts(self, norm: torch.Tensor, real: RealData, tmp_path: Path) -> None:
        for part in range(4):
            save(norm[2 * part : 2 * part + 2], tmp_path / f"images_best_{part}.pt")
            save(IDS[2 * part : 2 * part + 2], tmp_path / f"labels_best_{part}.pt")
        flags = {"space": "norm", "stats": STATS}
        made = same(
            tmp_path / "images_best_0.pt", as_set(norm, IDS, real, space=NORM), real, tmp_path, **flags
        )
        assert look(tmp_path / "images_best_2.pt").facts["parts"] == "4"
        assert made.card.ipc == IPC
        (tmp_path / "images_best_1.pt").unlink()
        refused(
            tmp_path / "images_best_2.pt",
            real,
            "a part of a set whose part 0 to 2 are not all there",
            **flags,
        )

    def test_mtt_whitened(self, unit: torch.Tensor, real: RealData, tmp_path: Path) -> None:
        zca = data.fit_zca(real.train, 0.1)
        space = data.zca_space(real.train, zca)
        whitened = space.unit_to_input(unit)
        path = save(whitened, tmp_path / "images_best.pt")
        save(IDS, tmp_path / "labels_best.pt")
        made = same(path, as_set(whitened, IDS, real, space=space), real, tmp_path, space="zca")
        assert made.space is not None and made.space.zca is not None
        assert (made.space.zca.eps, made.space.zca.hash) == (0.1, zca.hash)
        given = read_published(path, real, space="zca", zca=zca)
        assert given.fingerprint() == made.fingerprint()

    def test_datadam_whitens_standardised_pixels(
        self, unit: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        zca = data.fit_zca(real.train, 0.1, "standardised")
        space = data.zca_space(real.train, zca, "standardised")
        whitened = space.unit_to_input(unit)
        path = dc_file(tmp_path, whitened, 1)
        refused(path, real, "--zca-on unit|standardised: which pixels were whitened: DataDAM", space="zca")
        ours = as_set(whitened, IDS, real, space=space)
        same(path, ours, real, tmp_path, space="zca", zca_on="standardised", stats="own")

    def test_datm_has_logits_and_a_step_size(
        self, norm: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        noise = torch.randn((len(norm), CLASSES), generator=generator(6))
        logits = 4 * torch.nn.functional.one_hot(IDS, CLASSES).float() - 1 + 0.1 * noise
        folder = tmp_path / "Normal"
        save(norm, folder / "images_best.pt")
        save(logits, folder / "labels_best.pt")
        save(torch.tensor(0.0123), folder / "lr_best.pt")
        ours = as_set(norm, logits, real, space=NORM, label_kind="logits").changed(
            program=Program(torch.tensor([0.0123]))
        )
        made = same(folder, ours, real, tmp_path, space="norm", stats=STATS, format="datm")
        assert made.program is not None and made.program.step_sizes.tolist() == [pytest.approx(0.0123)]
        assert made.targets.kind == "logits" and look(folder).rates == (pytest.approx(0.0123),)

    def test_dd_ranking(self, norm: torch.Tensor, real: RealData, tmp_path: Path) -> None:
        logits = torch.randn((len(norm), CLASSES), generator=generator(5)) - 2
        folder = tmp_path / "submission"
        for name, value in (("images", norm), ("labels", logits), ("lr", torch.tensor([0.02]))):
            save(value, folder / f"{name}.pt")
        ours = as_set(norm, logits, real, space=NORM, label_kind="logits").changed(
            program=Program(torch.tensor([0.02]))
        )
        same(folder, ours, real, tmp_path, space="norm", stats=STATS, format="dd-ranking")

    @pytest.mark.parametrize("decode", ["single", "multi", "bound"])
    def test_idc_dream_and_ncfm_are_mosaics_of_pixels(
        self, decode: str, unit: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        path = save([unit, IDS], tmp_path / "data.pt")
        settings = {"factor": 2, "kind": decode}
        if decode == "bound":
            settings |= {"bound": 6, "groups": CLASSES}
        ours = as_set(unit, IDS, real, space="unit", codec=CodecSpec("grid", settings))
        made = same(path, ours, real, tmp_path, factor=2, decode=decode, bound=6, format="idc")
        assert made.space is not None and made.space.stored == "unit"
        assert made.card.ipc == IPC and codecs.count(made) == {"single": 32, "multi": 40, "bound": 20}[decode]

    def test_ncfm_by_rank_keeps_its_order_of_labels(
        self, unit: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        order = torch.randperm(len(unit), generator=generator(1))
        path = save([unit[order], IDS[order]], tmp_path / "data_20000.pt")
        found = look(path)
        assert found.labels is not None and not found.labels.sorted
        ours = as_set(
            unit[order],
            IDS[order],
            real,
            space="unit",
            codec=CodecSpec("grid", {"factor": 2, "kind": "single"}),
        )
        same(path, ours, real, tmp_path, factor=2, format="ncfm")
        refused(
            path, real, "not class by class; decode bound cuts each class apart", factor=2, decode="bound"
        )

    def test_steps_of_wang_et_al_are_a_program(
        self, norm: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        batches = [(norm[::2], IDS[::2]), (norm[1::2], IDS[1::2])]
        sizes = torch.tensor([0.02, 0.03, 0.01, 0.005])
        steps = [(*batches[t % 2], sizes[t]) for t in range(4)]
        path = save(steps, tmp_path / "results.pth")
        program = Program(sizes, ((0, 1, 2, 3), (4, 5, 6, 7)) * 2, "xavier-normal")
        images, labels = torch.cat([norm[::2], norm[1::2]]), torch.cat([IDS[::2], IDS[1::2]])
        ours = as_set(images, labels, real, space=NORM).changed(program=program)
        made = same(path, ours, real, tmp_path, "native", space="norm", stats=STATS)
        assert made.program is not None and made.program.order == program.order
        assert look(path).experiments == 4 and look(path).format == "dd"
        last = as_set(*batches[1], real, space=NORM)
        same(path, last, real, tmp_path, space="norm", stats=STATS, experiment=-1)

    def test_steps_without_sizes_are_asked_for(
        self, norm: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        path = save([(norm, IDS), (norm + 1, IDS)], tmp_path / "results.pth")
        refused(path, real, "2 steps and 0 step sizes", "--experiment N", space="norm", stats=STATS)
        same(
            path, as_set(norm, IDS, real, space=NORM), real, tmp_path, space="norm", stats=STATS, experiment=0
        )

    def test_kip(self, norm: torch.Tensor, real: RealData, tmp_path: Path) -> None:
        labels = torch.nn.functional.one_hot(IDS, CLASSES).double() - 1 / CLASSES
        path = tmp_path / "kip_toy_ConvNet_ssize8_zca_nol_noaug_ckpt1000.npz"
        np.savez(path, images=norm.permute(0, 2, 3, 1).double().numpy(), labels=labels.numpy())
        found = look(path)
        assert found.format == "kip" and found.labels is not None and found.labels.kind == "centred"
        refused(path, real, "KIP whitens in a way of its own", "say zca (the nearest", format="kip")
        ours = as_set(norm, IDS, real, space=NORM)
        made = same(path, ours, real, tmp_path, space="norm", stats=STATS, format="kip")
        assert "KIP's own whitening" in made.card.notes["source_whitening"]

    def test_kips_learned_labels_are_asked_for(
        self, norm: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        labels = torch.randn((len(norm), CLASSES), generator=generator())
        path = tmp_path / "kip.npz"
        np.savez_compressed(path, images=norm.permute(0, 2, 3, 1).numpy(), labels=labels.numpy())
        text = "--labels ids|values: labels are float32 (8, 4), from"
        refused(path, real, text, "values of a regression, not logits", space="norm", stats=STATS)
        ours = as_set(norm, labels.argmax(1), real, space=NORM)
        same(path, ours, real, tmp_path, space="norm", stats=STATS, label_kind="ids")

    def test_sre2l_folders(self, pixels: torch.Tensor, real: RealData, tmp_path: Path) -> None:
        folder = tmp_path / "sre2l"
        stored = [
            jpeg(x, folder / f"new{c:03d}" / f"class{c:03d}_id{i % IPC:03d}.jpg")
            for i, (x, c) in enumerate(zip(pixels, IDS.tolist(), strict=True))
        ]
        ours = as_set(torch.stack(stored), IDS, real)
        made = same(folder, ours, real, tmp_path, format="sre2l")
        assert made.tensors["images"].dtype == torch.uint8
        assert look(folder).groups == ("new000", "new001", "new002", "new003")

    def test_rded_folders_have_an_order_of_their_own(
        self, pixels: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        folder, order = tmp_path / "rded", ("cat", "zebra", "dog", "ant")  # the observers' order
        labels = torch.tensor([NAMES.index(order[c]) for c in IDS.tolist()])
        stored = [
            jpeg(x, folder / f"{c:05d}" / f"class{c:05d}_id{i % IPC:05d}.jpg")
            for i, (x, c) in enumerate(zip(pixels, IDS.tolist(), strict=True))
        ]
        refused(
            folder,
            real,
            "--classes FILE: the folders are numbers",
            "orders of their own (RDED: losses of 8 to 40",
        )
        (tmp_path / "order.txt").write_text("\n".join(order) + "\n")
        ours = as_set(torch.stack(stored), labels, real)
        same(folder, ours, real, tmp_path, classes=tmp_path / "order.txt", format="rded")
        numbers = [str(NAMES.index(name)) for name in order]
        assert read_published(folder, real, classes=numbers).fingerprint() == ours.fingerprint()
        mosaics = ours.changed(
            codec=CodecSpec("grid", {"factor": 2, "kind": "whole", "visit": "patch-shuffle"})
        )
        same(folder, mosaics, real, tmp_path, classes=list(order), factor=2, decode="shuffle")

    def test_folders_named_as_the_classes_are_matched_by_name(
        self, pixels: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        folder = tmp_path / "plain"
        for i, (x, c) in enumerate(zip(pixels, IDS.tolist(), strict=True)):
            path = folder / NAMES[c] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x.permute(1, 2, 0).numpy()).save(path)
        by_name = torch.cat([(IDS == NAMES.index(name)).nonzero().squeeze(1) for name in sorted(NAMES)])
        same(folder, as_set(pixels[by_name], IDS[by_name], real), real, tmp_path)

    def test_indices_of_dataset_quantization(self, real: RealData, tmp_path: Path) -> None:
        chosen = torch.randperm(len(real.train), generator=generator())[:9]
        path = tmp_path / "select_indices_toy_0.2.npy"
        np.save(path, chosen.numpy().astype(np.int32))
        ours = DistilledSet(
            {"indices": chosen},
            Targets(ids=real.train.labels[chosen]),
            real.train.space,
            CodecSpec("subset"),
            card=as_set(real.train.images[:4], real.train.labels[:4], real).card,
        )
        same(path, ours, real, tmp_path)
        np.save(path, np.array([0, len(real.train)]))
        refused(path, real, "2 indices from 0 to 48; toy has 48 training images (0 to 47)")

    @pytest.mark.parametrize("struct_", [True, False])
    def test_parquet_folders(
        self, struct_: bool, pixels: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        import pyarrow
        import pyarrow.parquet

        folder = tmp_path / "hub" / "data"
        folder.mkdir(parents=True)
        order = torch.randperm(len(pixels), generator=generator(2))
        for shard, rows in enumerate(order.split(5)):
            images = []
            for x in pixels[rows]:
                file = io.BytesIO()
                Image.fromarray(x.permute(1, 2, 0).numpy()).save(file, "PNG")
                images.append({"bytes": file.getvalue(), "path": None} if struct_ else file.getvalue())
            table = pyarrow.table({"image": images, "class_id": IDS[rows].tolist()})
            pyarrow.parquet.write_table(table, folder / f"train-{shard:05d}-of-00002.parquet")
        ours = as_set(pixels[order], IDS[order], real)
        same(tmp_path / "hub", ours, real, tmp_path)
        assert look(tmp_path / "hub").format == "parquet"

    @pytest.mark.parametrize("kind", ["zip", "tar.gz"])
    def test_releases_as_archives(
        self, kind: str, pixels: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        folder = tmp_path / "sre2l_toy_rn18_ipc2"
        stored = [
            jpeg(x, folder / f"new{c:03d}" / f"class{c:03d}_id{i % IPC:03d}.jpg")
            for i, (x, c) in enumerate(zip(pixels, IDS.tolist(), strict=True))
        ]
        path = tmp_path / f"release.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted(folder.rglob("*.jpg")):
                    archive.write(file, file.relative_to(tmp_path))
        else:
            with tarfile.open(path, "w:gz") as archive:
                archive.add(folder, folder.name)
        same(path, as_set(torch.stack(stored), IDS, real), real, tmp_path, format="sre2l")

    def test_an_archive_of_torch_files(self, norm: torch.Tensor, real: RealData, tmp_path: Path) -> None:
        save(norm, tmp_path / "in" / "images_best.pt")
        save(IDS, tmp_path / "in" / "labels_best.pt")
        with zipfile.ZipFile(tmp_path / "mtt.zip", "w") as archive:
            for name in ("images_best.pt", "labels_best.pt"):
                archive.write(tmp_path / "in" / name, name)
        ours = as_set(norm, IDS, real, space=NORM)
        same(tmp_path / "mtt.zip", ours, real, tmp_path, space="norm", stats=STATS)

    def test_label_files_of_fkd(self, tmp_path: Path) -> None:
        from test_fkd import CLASSES as K
        from test_fkd import EPOCHS, H, W, a_set, write_files

        from ddbench import protocols
        from ddbench.protocols.train import RowProtocol
        from ddbench.seeding import Generators
        from ddbench.train.engine import EngineOptions
        from ddbench.train.fkd import import_fkd
        from ddbench.train.labels import beside

        toy = blobs("toy", (3, H, W), K, (4, 8))
        folder = tmp_path / "FKD"
        images = a_set(32)
        write_files(folder, "cutmix", distilled=images, batch=16)
        found = look(folder)
        assert found.format == "fkd" and found.facts["answers"] == "5 classes, mix cutmix"
        refused(folder, toy, "has the label files of a set; say which: --set FILE")
        row = protocols.ROWS["cvdd-bssl"]
        protocol = RowProtocol(replace(row, plan=row.plan.changed(epochs=EPOCHS, test_every=0), forms=()))
        values, prints = [], []
        for name in ("ours", "read"):
            place = tmp_path / name
            if name == "ours":
                made = import_fkd(folder, images, place / "labels", batch_norm="train-halves")
            else:
                made = read_published(
                    folder, toy, labelled=images, labels_out=place / "labels", batch_norm="train-halves"
                )
                assert made.card.notes["source_format"] == "fkd (folder)"
            sets.write(place / "set.safetensors", made)
            made = sets.read(place / "set.safetensors")
            options = EngineOptions(
                torch.device("cpu"), "fp32", "auto", None, beside(place / "set.safetensors")
            )
            result = protocol.evaluate(made, toy, "ConvNetD1W8BN", [Generators(0)], options)
            values.append([s.value for s in result.scores])
            prints.append(made.fingerprint())
        assert prints[0] == prints[1] and values[0] == values[1]

    @pytest.mark.parametrize("kind", ["list of names", "npz", "safetensors"])
    def test_images_and_labels_by_name(
        self, kind: str, norm: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        named = {"images": norm.contiguous(), "labels": IDS}
        path = tmp_path / "mine.bin"
        if kind == "npz":
            with path.open("wb") as file:
                np.savez(file, **{k: v.numpy() for k, v in named.items()})
        elif kind == "safetensors":
            save_file(named, path)
        else:
            save(named, path)
        same(path, as_set(norm, IDS, real, space=NORM), real, tmp_path, space="norm", stats=STATS)

    def test_our_own_file(self, norm: torch.Tensor, real: RealData, tmp_path: Path) -> None:
        ours = as_set(norm, IDS, real, space=NORM, method="mine")
        sets.write(tmp_path / "own.safetensors", ours)
        assert look(tmp_path / "own.safetensors").format == "safetensors"
        made = same(tmp_path / "own.safetensors", ours, real, tmp_path)
        assert made.card.method == "mine"

    def test_the_list_of_formats_is_the_one_that_is_tested(self) -> None:
        assert sorted(FORMATS) == [
            "dc", "dd", "dq", "fkd", "folder", "kip", "mtt", "pair", "parquet", "safetensors",
        ]  # fmt: skip


# ------------------------------------------------------------------------------------------------ traps


class TestNothingIsGuessed:
    def test_statistics_of_cifar100_differ_by_code(self, tmp_path: Path) -> None:
        """Spec 2.1: DC's family has CIFAR-100's own, MTT's takes those of CIFAR-10."""
        base = blobs("cifar100", (3, 8, 8), 4, (5, 3))
        own = ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))
        c100 = RealData(
            replace(base.train, mean=own[0], std=own[1]), replace(base.test, mean=own[0], std=own[1])
        )
        images, ids = torch.randn((4, 3, 8, 8), generator=generator()), torch.arange(4)
        path = save({"data": [[images, ids]]}, tmp_path / "res.pt")
        text = refused(path, c100, "--stats dc|mtt|own|M,../S,..: by which mean", space="norm")
        assert (
            "dc 0.5071,0.4866,0.4409/0.2673,0.2564,0.2762; mtt 0.4914,0.4822,0.4465/0.2023,0.1994,0.201"
            in text
        )
        spaces = {
            stats: read_published(path, c100, space="norm", stats=stats).space
            for stats in ("dc", "mtt", "own")
        }
        means = {stats: space.mean for stats, space in spaces.items() if space is not None}
        assert means == {"dc": own[0], "mtt": (0.4914, 0.4822, 0.4465), "own": own[0]}
        c10 = RealData(replace(c100.train, name="cifar10", mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.201)),
                       replace(c100.test, name="cifar10"))  # fmt: skip
        found = read_published(path, c10, space="norm").space  # every code has the same
        assert found is not None and found.std == (0.2023, 0.1994, 0.201)

    def test_whitening_is_not_in_the_file(
        self, unit: torch.Tensor, norm: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        """Spec 2.2: the hint says what it rests on, and the space is asked for all the same."""
        space = data.zca_space(real.train, data.fit_zca(real.train, 0.1))
        for name, values, hint in (
            ("raw", unit, "raw"),
            ("norm", norm, "norm"),
            ("zca", 0.25 * torch.randn((8, 3, 16, 16), generator=generator()), "zca"),
        ):
            path = save({"data": [[values, IDS]]}, tmp_path / f"{name}.pt")
            found = look(path)
            assert (found.space, bool(found.evidence)) == (hint, True)
            refused(
                path,
                real,
                "--space raw|norm|zca: the file does not say; a hint: " + hint,
                "likely space (a hint)",
            )
        assert space.zca is not None

    def test_a_space_against_the_values_is_taken_and_doubted(
        self, norm: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        path = save({"data": [[norm.clamp(-1.9, 1.9), IDS]]}, tmp_path / "x.pt")
        made = read_published(path, real, space="raw")
        assert made.card.notes["source_doubt"].startswith("said raw, but by its values norm: values from")

    @pytest.mark.parametrize("kind", ["255", "norm"])
    def test_raw_values_far_beyond_one_are_refused_with_advice(
        self, kind: str, unit: torch.Tensor, norm: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        path = save({"data": [[unit * 255 if kind == "255" else norm, IDS]]}, tmp_path / "x.pt")
        refused(
            path,
            real,
            "which are no pixels on the [0, 1] scale (raw)",
            "pixels from 0 to 255 need images.round().to(torch.uint8) or images / 255",
            space="raw",
        )

    def test_lists_of_pixels_are_asked_about_unless_a_method_is_named(
        self, unit: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        path = save([unit, IDS], tmp_path / "data.pt")
        for flags in ({}, {"format": "pair"}, {"format": "idm"}):
            refused(
                path, real, "--space raw|norm|zca", "--format idc, dream or ncfm says so", factor=2, **flags
            )
        prints = set()
        for flags in ({"format": "idc"}, {"format": "dream"}, {"format": "ncfm"}, {"space": "raw"}):
            made = read_published(path, real, factor=2, **flags)
            assert made.space is not None and made.space.stored == "unit"
            prints.add(made.fingerprint())
        assert len(prints) == 1

    def test_statistics_that_were_assumed_are_said(self, tmp_path: Path) -> None:
        """Spec 2.1: others are about."""
        usual = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
        base = blobs("cifar10", (3, 8, 8), 4, (5, 3))
        c10 = RealData(replace(base.train, **usual), replace(base.test, **usual))
        images = torch.randn((4, 3, 8, 8), generator=generator())
        path = save({"data": [[images, torch.arange(4)]]}, tmp_path / "res.pt")
        said = read_published(path, c10, space="norm").card.notes["source_statistics"]
        assert said.startswith(
            "assumed: 0.4914,0.4822,0.4465/0.2023,0.1994,0.201, which the codes of DC and MTT share"
        )
        assert "0.2471,0.2435,0.2616" in said and "--stats" in said
        assert "source_statistics" not in read_published(path, c10, space="norm", stats="dc").card.notes
        assert "source_statistics" not in read_published(path, c10, space=NORM).card.notes

    @pytest.mark.parametrize(
        ("flags", "text"),
        [
            ({"factor": 17}, "factor is 17; expected 1 (no mosaics) or 2 to 16 tiles a side"),
            ({"factor": 0}, "factor is 0; expected 1 (no mosaics) or 2 to 16"),
            ({"factor": 1, "decode": "multi"}, "decode multi cuts mosaics, and"),
            ({"factor": 1, "decode": "shuffle"}, "expected a factor of at least 2"),
            ({"factor": 2, "decode": "bound", "bound": 0}, "bound is 0; expected at least 1 item a class"),
        ],
    )
    def test_mosaics_that_cannot_be(
        self, flags: dict[str, Any], text: str, norm: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        path = save({"data": [[norm, IDS]]}, tmp_path / "x.pt")
        with pytest.raises(FormatError) as error:
            read_published(path, real, space="norm", stats=STATS, **flags)
        assert text in str(error.value)

    def test_hints_of_spaces(self) -> None:
        def hint(x: torch.Tensor) -> str:
            return likely_space(values_of(x))[0]

        wave = torch.randn((10, 3, 8, 8), generator=generator())
        assert hint(wave) == "norm" and hint(0.25 * wave) == "zca"
        assert hint((0.5 + 0.2 * wave).clamp(-0.05, 1.05)) == "raw"
        assert hint((wave * 40 + 128).clamp(0, 255)) == "" and hint(wave + 3) == ""
        assert hint(torch.zeros((1, 1, 8, 8), dtype=torch.uint8)) == "raw"

    def test_which_experiment(self, norm: torch.Tensor, real: RealData, tmp_path: Path) -> None:
        """Spec 2.3: DC-BENCH reads the last, BEARD the first: all are offered, the last is taken and recorded."""
        path = dc_file(tmp_path, norm, 3)
        flags = {"space": "norm", "stats": STATS}
        for number, shift, said in ((None, 0.0, "2 of 3"), (0, -2.0, "0 of 3"), (-2, -1.0, "1 of 3")):
            made = read_published(path, real, experiment=number, **flags)
            assert torch.equal(made.tensors["images"], norm + shift)
            assert made.card.notes["source_experiment"] == said
        refused(path, real, "has 3 experiments; 3 is none of them (0 to 2, or -1)", experiment=3, **flags)

    def test_label_kinds(self) -> None:
        """Spec 2.4."""
        assert labels_of(torch.tensor([0.0, 1.0, 1.0])).kind == "ids"
        assert labels_of(torch.tensor([0, 1, 1], dtype=torch.int32)).kind == "ids"
        assert labels_of(torch.tensor([0.5, 1.0])).kind == ""
        assert labels_of(torch.full((3, 4), 0.25, dtype=torch.float16)).kind == "probabilities"
        assert labels_of(torch.randn((3, 4), generator=generator())).kind == "logits"
        assert labels_of(torch.eye(4) - 0.25).kind == "centred"
        assert labels_of(torch.full((3, 4), 2.0)).kind == ""
        assert labels_of(2 * torch.eye(4) - 1).kind == "" and labels_of(3 * torch.eye(4) - 0.75).kind == ""
        assert labels_of(torch.tensor([[1.0, -1.0], [-1.0, 1.0]])).kind == ""
        assert labels_of(torch.tensor([[1.0, -1.0], [-2.0, 1.5]])).kind == "logits"

    @pytest.mark.parametrize(("scale", "shift"), [(2.0, -1.0), (1.0, -1 / CLASSES), (3.0, -0.5)])
    def test_one_hot_rows_in_disguise_are_asked_for(
        self, scale: float, shift: float, norm: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        rows = scale * torch.nn.functional.one_hot(IDS, CLASSES).float() + shift
        path = save({"data": [[norm, rows]]}, tmp_path / "x.pt")
        flags = {"space": "norm", "stats": STATS}
        refused(path, real, "--labels ids|probabilities|logits|values: labels are float32 (8, 4), ", **flags)
        made = read_published(path, real, label_kind="ids", **flags)
        assert made.targets.ids is not None and torch.equal(made.targets.ids, IDS)
        assert read_published(path, real, label_kind="logits", **flags).targets.kind == "logits"

    def test_labels_without_class_zero_are_doubted(
        self, norm: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        path = save({"data": [[norm, IDS.clamp(min=1)]]}, tmp_path / "x.pt")
        made = read_published(path, real, space="norm", stats=STATS)
        assert made.card.notes["source_doubt"] == (
            "labels run from 1 to 3 and none is 0 of 4 classes: where they count from 1, subtract 1"
        )

    def test_labels_that_decide_nothing_are_asked_for(
        self, norm: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        path = save([norm, torch.rand((8, CLASSES), generator=generator()) * 5], tmp_path / "x.pt")
        flags = {"space": "norm", "stats": STATS, "factor": 1}
        refused(
            path,
            real,
            "--labels ids|probabilities|logits|values: labels are float32 (8, 4), none negative",
            **flags,
        )
        assert read_published(path, real, label_kind="logits", **flags).targets.kind == "logits"

    def test_labels_are_never_made_up_from_positions(self, norm: torch.Tensor, tmp_path: Path) -> None:
        """Spec 2.5."""
        path = save(norm, tmp_path / "images_best.pt")
        refused(path, None, "has no labels_best.pt beside it", "never made up from the order of images")

    def test_packed_pictures_are_asked_for(
        self, unit: torch.Tensor, norm: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        """Spec 2.6: a list of IDC's form always; other forms where seams show."""
        refused(
            save([unit, IDS], tmp_path / "a.pt"),
            real,
            "--factor N: lists of images and labels are IDC's form",
        )
        smooth = torch.nn.functional.interpolate(
            torch.rand((40, 3, 4, 4), generator=generator()), size=16, mode="bilinear"
        )
        mosaic = codecs.decode_grid(smooth, 1).view(10, 2, 2, 3, 16, 16)[..., ::2, ::2]
        mosaic = mosaic.permute(0, 3, 1, 4, 2, 5).reshape(10, 3, 16, 16)
        factor, why = seams(mosaic)
        assert factor == 2 and why.startswith("neighbouring lines differ ")
        assert seams(smooth)[0] == 1 and seams(unit)[0] == 1
        path = save({"data": [[mosaic, torch.arange(10) % 4]]}, tmp_path / "b.pt")
        refused(path, real, "--factor N: the pictures look like mosaics of 2x2", space="raw")
        assert codecs.count(read_published(path, real, space="raw", factor=1)) == 10

    def test_class_lists_are_checked(self, pixels: torch.Tensor, real: RealData, tmp_path: Path) -> None:
        """Spec 2.7."""
        folder = tmp_path / "rded"
        for c in range(CLASSES):
            jpeg(pixels[c], folder / f"{c:05d}" / f"class{c:05d}_id00000.jpg")
        refused_ = [
            (["cat", "zebrra", "dog", "ant"], "'zebrra', which is no class of toy", "nearest: zebra"),
            (["cat", "cat", "dog", "ant"], "names 'cat' twice", "each class once"),
            (["cat", "dog"], "has class 3 but the class list has 2 names (0 to 1)", ""),
            (["0", "1", "2", "7"], "'0', which is no class of toy", "its label numbers"),
        ]
        for classes, *texts in refused_:
            with pytest.raises(FormatError) as error:
                read_published(folder, real, classes=classes)
            assert all(text in str(error.value) for text in texts), str(error.value)
        with pytest.raises(
            FileNotFoundError, match="no class list .*none.txt; expected a file with one class name"
        ):
            read_published(folder, real, classes=tmp_path / "none.txt")
        jpeg(pixels[0], folder / "00001" / "class00002_id00001.jpg")
        refused(folder, real, "the folder says class 1 and the file class 2")

    def test_folders_of_unknown_names_are_asked_for(
        self, pixels: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        jpeg(pixels[0], tmp_path / "wolves" / "a.jpg")
        refused(tmp_path, real, "the folders are not named as the classes of toy are")

    def test_pictures_are_eight_bit(self, pixels: torch.Tensor, real: RealData, tmp_path: Path) -> None:
        """Spec 2.8."""
        jpeg(pixels[0], tmp_path / "zebra" / "a.jpg")
        refused(
            tmp_path, real, "has 8-bit pixels, which are raw; they cannot be in space 'norm'", space="norm"
        )

    def test_names_do_not_matter_but_content_does(
        self, norm: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        """Spec 2.11."""
        path = dc_file(tmp_path, norm).rename(tmp_path / "labels.tar")
        assert look(path).format == "dc"
        refused(path, real, "is not of format mtt but dc", format="mtt")
        with pytest.raises(FormatError, match="no format 'mttt'; nearest: mtt; expected one of dc, mtt"):
            read_published(path, real, format="mttt")

    def test_several_questions_are_asked_at_once(
        self, norm: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        path = save([norm, torch.rand((8, CLASSES), generator=generator())], tmp_path / "x.pt")
        text = refused(path, real, "nothing is guessed.  Seen:", "To be said:")
        assert all(f"\n  --{flag}" in text for flag in ("space", "labels", "factor"))

    def test_viewing_pictures_of_a_whitened_run_are_refused(self, unit: torch.Tensor, tmp_path: Path) -> None:
        path = save(unit, tmp_path / "images_zca_500.pt")
        save(IDS, tmp_path / "labels_zca_500.pt")
        refused(path, None, "un-whitened pictures, for viewing; the set itself is images_500.pt")

    def test_sizes_and_classes_that_do_not_fit_are_named(
        self, norm: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        flags = {"space": "norm", "stats": STATS}
        path = save({"data": [[norm[..., :8], IDS]]}, tmp_path / "a.pt")
        refused(path, real, "images have shape (8, 3, 16, 8) but toy has images of (3, 16, 16)", **flags)
        path = save({"data": [[norm, IDS + 1]]}, tmp_path / "b.pt")
        refused(path, real, "labels run from 1 to 4 but toy has 4 classes", **flags)
        path = save({"data": [[norm, IDS[:5]]]}, tmp_path / "c.pt")
        refused(path, None, "labels have shape (5,) for 8 images")
        path = save({"data": [[norm * float("nan"), IDS]]}, tmp_path / "d.pt")
        refused(path, real, "not finite", **flags)

    @pytest.mark.parametrize(
        ("stats", "text"),
        [
            ("0.5/0.2", "are of 1 channels, toy has 3"),
            ("a,b", "statistics are 'a,b'; expected dc, mtt, own or means"),
            ("1,2/0,1", "statistics are '1,2/0,1'"),
            ("dc", "statistics 'dc' are not known for toy; expected own ("),
        ],
    )
    def test_statistics_that_cannot_be(
        self, stats: str, text: str, norm: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        path = save({"data": [[norm, IDS]]}, tmp_path / "x.pt")
        with pytest.raises(FormatError) as error:
            read_published(path, real, space="norm", stats=stats)
        assert text in str(error.value)

    def test_statistics_are_parsed(self) -> None:
        assert parse_stats("0.5,0.4/0.1,0.2") == ((0.5, 0.4), (0.1, 0.2)) and parse_stats("mtt") == "mtt"


# ------------------------------------------------------------------------------------------------ what is no set


class TestOtherThingsAreRefusedByWhatTheyAre:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ([[[torch.zeros(3), torch.zeros(2)]] * 2] * 2, "expert trajectories (a replay buffer)"),
            ({"weight": torch.zeros(3), "bias": torch.zeros(1)}, "the weights of a network, not a distilled set"),
            ({"subset": {"indices": torch.arange(3)}}, "a checkpoint of DeepCore: a selection, not pictures"),
            ([torch.zeros(2, 4), torch.zeros(2), None, None, None, torch.zeros(2, 5)], "one label file of FKD"),
            (torch.arange(4), "name the file of the images (N, C, H, W)"),
            (torch.zeros(2, 3, 4, 4), "one tensor (2, 3, 4, 4) and no labels"),
            ({"data": 3}, "its data are a int; expected [images, labels]"),
            ({"data": [[1, 2]]}, "images of experiment 0 are a int; expected a tensor (N, C, H, W)"),
            ([1, 2, 3], "holds a list of 3, the first a int; expected images and labels in one of the forms"),
        ],
    )  # fmt: skip
    def test_torch_files(self, value: Any, text: str, tmp_path: Path) -> None:
        refused(save(value, tmp_path / "x.pt"), None, text)

    def test_deepcore_is_told_the_two_lines(self, tmp_path: Path) -> None:
        path = save({"subset": {"indices": torch.arange(3)}}, tmp_path / "x.ckpt")
        refused(path, None, "['subset']['indices']; numpy.save('indices.npy', s)")

    def test_files_and_folders(self, pixels: torch.Tensor, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("hello world")
        refused(tmp_path / "a.txt", None, "is of no known kind")
        jpeg(pixels[0], tmp_path / "flat" / "a.jpg")
        refused(tmp_path / "flat" / "a.jpg", None, "is one picture; name the folder")
        refused(tmp_path / "flat", None, "pictures that are in no folder of a class")
        (tmp_path / "empty").mkdir()
        refused(tmp_path / "empty", None, "has nothing; expected pictures in a folder a class")
        np.save(tmp_path / "x.npy", np.zeros((2, 2)))
        refused(tmp_path / "x.npy", None, "an array float64 (2, 2); expected indices into the training split")
        np.savez(tmp_path / "x.npz", a=np.zeros(2))
        refused(tmp_path / "x.npz", None, "has the arrays a; expected images and labels")
        with pytest.raises(FileNotFoundError, match="there is no .*gone.pt"):
            look(tmp_path / "gone.pt")


# ------------------------------------------------------------------------------------------------ hostile files


class Evil:
    """Runs a program when it is unpickled without care."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


def with_pickle(path: Path, text: bytes, source: Path) -> Path:
    """A torch file with another pickle inside."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, text if name.endswith("data.pkl") else old.read(name))
    return path


class TestHostileFiles:
    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize(
        ("call", "name"),
        [
            (os.system, "system"),
            (eval, "eval"),
            (exec, "exec"),
            (__import__, "__import__"),
            (getattr, "getattr"),
        ],
    )
    def test_calls_are_refused_by_name_and_not_made(
        self, call: Any, name: str, legacy: bool, tmp_path: Path
    ) -> None:
        mark = tmp_path / "mark"
        text = f"touch {mark}" if name == "system" else f"open({str(mark)!r}, 'w')"
        path = tmp_path / "evil.pt"
        torch.save([Evil(call, text)], path, _use_new_zipfile_serialization=not legacy)
        with fuzz_readers.nothing_executed():
            refused(
                path, None, f"{name}, which no distilled set needs and which might run code; it is not read"
            )
        assert not mark.exists()

    @pytest.mark.parametrize("protocol", [0, 2, 4])
    def test_plain_pickles_are_refused_with_the_two_lines(self, protocol: int, tmp_path: Path) -> None:
        path = tmp_path / "idm.pkl"
        path.write_bytes(pickle.dumps((np.zeros(3), Evil(os.system, "true")), protocol=protocol))
        with fuzz_readers.nothing_executed():
            refused(
                path, None, "is a plain pickle, which can run code when it is read, and is refused",
                'what = pickle.load(open(file, "rb")); torch.save(what, "converted.pt")',
            )  # fmt: skip

    def test_arrays_of_objects_are_refused(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.array([Evil(os.system, "true")], dtype=object), allow_pickle=True)
        np.savez(
            tmp_path / "x.npz", images=np.array([Evil(os.system, "true")], dtype=object), labels=np.zeros(1)
        )
        with fuzz_readers.nothing_executed():
            for name in ("x.npy", "x.npz"):
                refused(tmp_path / name, None, "values of type object, and objects are pickles")

    def test_numpy_arrays_in_torch_files_are_refused_by_name(self, tmp_path: Path) -> None:
        path = save({"data": [np.zeros((1, 3, 4, 4)), np.zeros(1)]}, tmp_path / "x.pt")
        refused(path, None, "multiarray._reconstruct, which no distilled set needs")

    @pytest.mark.parametrize(
        "name", ["../evil.jpg", "/etc/evil.jpg", "a/../../b.jpg", "..\\evil.jpg", "C:evil.jpg"]
    )
    @pytest.mark.parametrize("kind", ["zip", "tar"])
    def test_members_outside_of_an_archive_are_refused(self, kind: str, name: str, tmp_path: Path) -> None:
        place = tmp_path / "in"
        place.mkdir()
        path = place / f"x.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr(name, b"x")
        else:
            with tarfile.open(path, "w") as tar:
                entry = tarfile.TarInfo(name)
                entry.size = 1
                tar.addfile(entry, io.BytesIO(b"x"))
        refused(path, None, f"has a member named {name!r}, outside of itself")
        assert [p.name for p in tmp_path.rglob("*")] == ["in", path.name]

    def test_members_outside_of_a_torch_file_are_refused(self, norm: torch.Tensor, tmp_path: Path) -> None:
        path = save({"data": [[norm, IDS]]}, tmp_path / "x.pt")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("../x", b"y")
        refused(path, None, "has a member named '../x', outside of itself")

    def test_links_are_refused(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
            entry = tarfile.TarInfo("images_best.pt")
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(entry)
        refused(tmp_path / "x.tar.gz", None, "a link, a device or a sparse file in it, 'images_best.pt'")
        member = zipfile.ZipInfo("images_best.pt")
        member.external_attr = 0o120777 << 16
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr(member, "/etc/passwd")
        refused(tmp_path / "x.zip", None, "has a link in it, 'images_best.pt'")

    def test_archives_that_unpack_to_too_much_are_refused(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/x.jpg", bytes(3 << 20))
        with pytest.raises(
            FormatError, match="holds 3 MiB, more than the 1 MiB of a distilled set; .*--limit"
        ):
            look(tmp_path / "bomb.zip", limit_mib=1)
        with tarfile.open(tmp_path / "bomb.tgz", "w:gz") as tar:
            entry = tarfile.TarInfo("a/x.jpg")
            entry.size = 3 << 20
            tar.addfile(entry, io.BytesIO(bytes(3 << 20)))
        with pytest.raises(FormatError, match="holds 3 MiB, more than the 1 MiB"):
            look(tmp_path / "bomb.tgz", limit_mib=1)

    def test_a_member_that_says_less_than_it_holds_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "lies.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/x.jpg", bytes(1 << 20))
        text = bytearray(path.read_bytes())
        at = text.find(b"PK\x01\x02") + 24
        text[at : at + 4] = struct.pack("<I", 100)
        path.write_bytes(text)
        refused(path, None)
        text[at : at + 4] = struct.pack("<I", 1 << 31)
        path.write_bytes(text)
        refused(path, None, "more than packing can")

    def test_a_header_of_a_tar_that_wants_memory_is_refused(self, tmp_path: Path) -> None:
        header = tarfile.TarInfo("x")
        header.type, header.size = tarfile.GNUTYPE_LONGNAME, 7 << 30
        with gzip.open(tmp_path / "x.tar.gz", "wb") as file:
            file.write(header.tobuf(tarfile.GNU_FORMAT))
        refused(tmp_path / "x.tar.gz", None)

    @pytest.mark.parametrize("name", ["x.npy", "x.npz"])
    def test_arrays_that_declare_more_than_they_hold_are_refused(self, name: str, tmp_path: Path) -> None:
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 3, 32, 32)}
        )
        if name == "x.npy":
            (tmp_path / name).write_bytes(file.getvalue())
        else:
            with zipfile.ZipFile(tmp_path / name, "w") as archive:
                archive.writestr("images.npy", file.getvalue())
        refused(tmp_path / name, None, "declares (1099511627776, 3, 32, 32) values of float32", "and has 0")

    def test_tensors_that_declare_more_than_they_hold_are_refused(self, tmp_path: Path) -> None:
        path = save(torch.zeros(1).expand(1 << 33, 3, 1, 1), tmp_path / "images.pt")
        assert path.stat().st_size < 4096
        refused(path, None, "holds 98,304 MiB, more than the 4,096 MiB")
        path = save(torch.zeros(1).expand(1 << 24, 3, 1, 1), tmp_path / "images.pt")
        refused(path, None, "declares 201,326,592 bytes of tensors and stores", "tensor.clone()")

    @pytest.mark.parametrize("legacy", [False, True])
    def test_storages_that_are_not_there_are_refused(self, legacy: bool, tmp_path: Path) -> None:
        how = {"_use_new_zipfile_serialization": not legacy}
        path = save(torch.zeros(70_000, 1, 1, 1), tmp_path / "images.pt", **how)
        number, other = b"J" + struct.pack("<i", 70_000), b"J" + struct.pack("<i", 1 << 28)
        if legacy:
            text = path.read_bytes()
            assert number in text
            path.write_bytes(text.replace(number, other))
        else:
            with zipfile.ZipFile(path) as archive:
                text = archive.read("images/data.pkl")
            assert number in text
            path = with_pickle(tmp_path / "changed.pt", text.replace(number, other), path)
        refused(path, None)

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00utf-8\x86R.", "in an unusual way"),
            (b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "names builtins.bytearray"),
            (b"\x80\x02ctorch\nFloatTensor\nJ\xff\xff\xff\x7f\x85R.", "names torch.FloatTensor"),
            (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "pickle opcode NEWOBJ"),
            (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "pickle opcode SHORT_BINUNICODE"),
            (b"\x80\x02}((K\x01tK\x01s.", "truncated"),
            (b"\x80\x02}K\x01\x85K\x02s.", "keys of type tuple"),
            (b"\x80\x02]r\xff\xff\xff\x7f.", "holds a list"),
            (b"\x80\x02X\xff\xff\xff\x7fabc.", "truncated"),
            (b"\x80\x02K\x01Q.", "refers to something outside of it"),
            (b"\x80\x02]", "truncated"),
        ],
    )  # fmt: skip
    def test_pickles_that_want_memory_or_objects_are_refused(
        self, text: bytes, why: str, tmp_path: Path
    ) -> None:
        source = save(torch.zeros(2), tmp_path / "x.pt")
        refused(with_pickle(tmp_path / "y.pt", text, source), None, why)

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            (b"\x80\x02]q\x00h\x00a.", "has a list that holds itself"),
            (b"\x80\x02}q\x00K\x01h\x00s.", "has a list that holds itself"),
            (b"\x80\x02](]q\x00h\x00\x85ah\x00e.", "has a list that holds itself"),
            (b"\x80\x02" + 70 * b"](" + 70 * b"e" + b".", "has lists more than 64 deep"),
            (b"\x80\x02" + (5 << 20) * b"]" + b".", "has a structure of more than 4 MiB or 1,000,000 steps"),
            (b"\x80\x02" + 1_000_001 * b"N" + b".", "has a structure of more than 4 MiB or 1,000,000 steps"),
        ],
        ids=["list", "mapping", "inside", "deep", "large", "long"],
    )
    def test_structures_without_an_end_are_refused(self, text: bytes, why: str, tmp_path: Path) -> None:
        source = save(torch.zeros(2), tmp_path / "x.pt")
        refused(with_pickle(tmp_path / "y.pt", text, source), None, why)

    def test_a_legacy_file_of_pickle_alone_is_refused(self, tmp_path: Path) -> None:
        path = save([torch.zeros(2)], tmp_path / "x.pt", _use_new_zipfile_serialization=False)
        at = path.read_bytes().index(b"ctorch._utils")
        path.write_bytes(path.read_bytes()[:at] + (5 << 20) * b"N")
        refused(path, None, "has a structure of more than 4 MiB or 1,000,000 steps beside its tensors")

    def test_lists_that_are_named_twice_are_read_once(self, tmp_path: Path) -> None:
        shared: list[Any] = [torch.zeros(2)]
        for _ in range(40):
            shared = [shared, shared]  # 2 ** 40 paths, 41 lists
        refused(save({"a": shared}, tmp_path / "x.pt"), None, "holds a mapping of 1 (a)")

    @pytest.mark.parametrize("kind", ["zip", "tar"])
    @pytest.mark.parametrize("names", [("a/x.jpg", "a/x.jpg"), ("a", "a/x.jpg"), ("a/x.jpg", "a")])
    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_members_of_one_name_are_refused_as_what_they_are(
        self, names: tuple[str, str], kind: str, tmp_path: Path
    ) -> None:
        path = tmp_path / f"x.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                for name in names:
                    archive.writestr(name, b"x")
        else:
            with tarfile.open(path, "w") as tar:
                for name in names:
                    entry = tarfile.TarInfo(name)
                    entry.size = 1
                    tar.addfile(entry, io.BytesIO(b"x"))
        text = refused(path, None, "twice, or one name for a file and a folder; it is refused: pack it again")
        assert "truncated" not in text

    def test_a_parquet_value_in_many_rows_is_bounded(self, tmp_path: Path) -> None:
        """A dictionary is declared once and stands in any number of rows."""
        import pyarrow
        import pyarrow.parquet

        path, file = tmp_path / "bomb.parquet", io.BytesIO()
        Image.new("L", (8, 8)).save(file, "PNG")
        value = pyarrow.array([file.getvalue() + bytes(24 << 20)])
        images = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 64, pyarrow.int32()), value)
        table = pyarrow.table({"image": images, "class_id": [0] * 64})
        pyarrow.parquet.write_table(
            table, path, compression="zstd", use_dictionary=["image"], store_schema=False
        )
        assert path.stat().st_size < 1 << 16
        script = (
            "import resource, sys, pyarrow.parquet, ddbench.formats as f\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "for limit in (8, 30, 100):\n"
            "    try:\n        f.look(sys.argv[1], limit_mib=limit)\n"
            "    except f.FormatError as error:\n        print(error)\n"
            "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(path)], check=True, capture_output=True, text=True
        )
        *errors, grown = done.stdout.splitlines()
        assert len(errors) == 3, done.stdout
        assert "holds 24 MiB, more than the 8 MiB" in errors[0], errors
        assert "holds 48 MiB, more than the 30 MiB" in errors[1], errors
        assert "holds 120 MiB, more than the 100 MiB" in errors[2], errors
        assert int(grown) < 150, done.stdout

    @pytest.mark.parametrize("case", ["large", "lists", "text labels", "dotted", "rows"])
    def test_parquet_columns_of_other_forms_are_refused(
        self, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import pyarrow
        import pyarrow.parquet

        monkeypatch.setattr(foreign, "_VALUE_MIB", 1)
        monkeypatch.setattr(foreign, "_MEMBERS", 5)
        columns: dict[str, Any] = {"image": [b"x" * 10], "class_id": [0]}
        why = {
            "large": "has a row of 2 MiB; expected pictures of at most 1 MiB each",
            "lists": "as column image; expected one value a row, of type BYTE_ARRAY",
            "text labels": "has class_id of BYTE_ARRAY as column class_id; expected one value a row, of type INT32 or INT64",
            "dotted": "as column image.bytes; expected one value a row",
            "rows": "has 6 rows; expected at most 5",
        }[case]
        columns |= {
            "large": {"image": [b"x" * (2 << 20)]},
            "lists": {"image": [[b"x", b"x"]]},
            "text labels": {"class_id": ["0"]},
            "dotted": {"image": [{"bytes": b"x"}], "image.bytes": [[b"x"]]},
            "rows": {"image": [b"x"] * 6, "class_id": [0] * 6},
        }[case]
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
        refused(tmp_path / "x.parquet", None, why)

    def test_packed_torch_files_are_refused(self, tmp_path: Path) -> None:
        source = save(torch.zeros(1000), tmp_path / "x.pt")
        with (
            zipfile.ZipFile(source) as old,
            zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for name in old.namelist():
                new.writestr(name, old.read(name))
        refused(tmp_path / "y.pt", None, "has a packed member", "which torch never writes")

    def test_huge_pictures_are_refused_before_they_are_decoded(self, tmp_path: Path) -> None:
        path = tmp_path / "new000" / "class000_id000.png"
        path.parent.mkdir()
        Image.new("1", (14_000, 14_000)).save(path)
        assert path.stat().st_size < 1 << 20
        with pytest.raises(FormatError, match="is a picture that is too large to read"):
            look(tmp_path)

    def test_broken_pictures_are_named(self, pixels: torch.Tensor, tmp_path: Path) -> None:
        jpeg(pixels[0], tmp_path / "new000" / "a.jpg")
        (tmp_path / "new000" / "b.jpg").write_bytes(b"\xff\xd8\xff nothing")
        with pytest.raises(FormatError, match=r"b\.jpg is truncated or no picture"):
            look(tmp_path)
        Image.new("RGB", (8, 8)).save(tmp_path / "new000" / "b.jpg")
        refused(tmp_path, None, "pictures of different sizes or modes (8x8x3, 16x16x3)")

    def test_a_list_read_as_a_picture_format_that_is_not_taken(self, tmp_path: Path) -> None:
        path = tmp_path / "new000" / "a.png"
        path.parent.mkdir()
        Image.new("RGB", (8, 8)).save(path, "TIFF")
        with pytest.raises(FormatError, match="truncated or no picture"):
            look(tmp_path)


class TestFuzz:
    """Whatever the bytes are: a set, a FormatError or a missing file; nothing else, nothing executed."""

    QUIET = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))

    @staticmethod
    def attempt(path: Path, real: RealData, **flags: Any) -> bool:
        try:
            with fuzz_readers.nothing_executed():
                look(path)
                read_published(path, real, **{"space": "norm", "stats": STATS, "factor": 1, **flags})
        except (FormatError, FileNotFoundError) as error:
            assert str(error)
            return False
        return True

    @QUIET
    @given(
        text=st.binary(max_size=400),
        start=st.sampled_from(["", "PK", "npy", "torch", "safetensors", "par", "pickle"]),
    )
    def test_noise(self, text: bytes, start: str, real: RealData, tmp_path: Path) -> None:
        heads = {
            "PK": b"PK\x03\x04", "npy": b"\x93NUMPY\x01\x00", "torch": b"\x80\x02" + foreign._LEGACY,
            "safetensors": b"\x20\0\0\0\0\0\0\0{", "par": b"PAR1", "pickle": b"\x80\x04",
        }  # fmt: skip
        path = tmp_path / "images.pt"
        path.write_bytes(heads.get(start, b"") + text)
        assert not self.attempt(path, real)

    def seeds(self, folder: Path, norm: torch.Tensor, pixels: torch.Tensor) -> list[bytes]:
        """Whole files of the kinds that are one file."""
        import pyarrow
        import pyarrow.parquet

        dc_file(folder, norm).rename(folder / "a")
        save([norm[:4], IDS[:4]], folder / "b")
        save({"data": [[norm[:4], IDS[:4]]]}, folder / "c", _use_new_zipfile_serialization=False)
        save([(norm[:4], IDS[:4], torch.tensor(0.1))], folder / "d")
        with (folder / "e").open("wb") as file:
            np.savez_compressed(file, images=norm[:4].numpy(), labels=IDS[:4].numpy())
        with (folder / "f").open("wb") as file:
            np.save(file, np.arange(4))
        save_file({"images": norm[:4].contiguous(), "labels": IDS[:4].clone()}, folder / "g")
        png = io.BytesIO()
        Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).save(png, "PNG")
        with zipfile.ZipFile(folder / "h", "w") as archive:
            archive.writestr("zebra/a.png", png.getvalue())
        with tarfile.open(folder / "i", "w:gz") as tar:
            entry = tarfile.TarInfo("zebra/a.png")
            entry.size = len(png.getvalue())
            tar.addfile(entry, io.BytesIO(png.getvalue()))
        table = pyarrow.table({"image": [{"bytes": png.getvalue()}], "class_id": [0]})
        pyarrow.parquet.write_table(table, folder / "j")
        return [(folder / name).read_bytes() for name in "abcdefghij"]

    def test_mutated_files(
        self, norm: torch.Tensor, pixels: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        rng, taken = random.Random(0), 0
        whole = self.seeds(tmp_path, norm, pixels)
        for seed in whole:
            path = tmp_path / "whole"
            path.write_bytes(seed)
            plain = (
                {}
                if len(seed) and not seed.startswith((b"\x1f\x8b", b"PAR1"))
                else {"space": None, "stats": None}
            )
            if b"zebra/a.png" in seed[:64]:
                plain = {"space": None, "stats": None}
            assert self.attempt(path, real, **plain), seed[:20]
            for number in range(40):
                text = bytearray(seed)
                for _ in range(rng.choice((1, 1, 2, 8))):
                    at = (
                        rng.randrange(len(text))
                        if rng.random() < 0.5
                        else rng.randrange(min(1200, len(text)))
                    )
                    how = rng.random()
                    if how < 0.5:
                        text[at] = rng.randrange(256)
                    elif how < 0.7:
                        text[at : at + 4] = struct.pack("<i", rng.choice((-1, 0, 1 << 30, (1 << 31) - 1)))
                    elif how < 0.85:
                        del text[at : at + rng.randrange(1, 40)]
                    else:
                        text[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
                    if not text:
                        break
                if number % 10 == 9:
                    text = text[: rng.randrange(len(text) + 1)]
                path = tmp_path / "mutated"
                path.write_bytes(bytes(text))
                taken += self.attempt(path, real, **plain)
        assert taken < 40 * len(whole)


# ------------------------------------------------------------------------------------------------ export


class TestExport:
    def test_a_folder_of_eight_bit_pictures_comes_back_bit_by_bit(
        self, pixels: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        ours = as_set(pixels, IDS, real, method="mine")
        done = write_folder(ours, tmp_path / "out")
        assert done.lost == () and (tmp_path / "out/00003/class00003_id00001.png").is_file()
        same(tmp_path / "out", ours, real, tmp_path)
        assert "ddbench import" in (tmp_path / "out/card.md").read_text()
        other = blobs("other", (3, SIDE, SIDE), CLASSES, (12, 10))
        refused(tmp_path / "out", other, "--classes FILE: the folders are numbers")

    def test_a_folder_says_how_far_values_moved(
        self, norm: torch.Tensor, unit: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        ours = as_set(norm, IDS, real, space=NORM).changed(program=Program(torch.tensor([0.1])))
        done = write_folder(ours, tmp_path / "out")
        assert done.lost[0] == "the learned step size 0.1"
        assert done.lost[1].startswith(
            "values between and beyond 256 levels: the largest change is 0.5 levels, the mean 0.2"
        )
        assert "clamped" not in done.lost[1] and not done.warnings, "rounding alone"
        made = read_published(tmp_path / "out", real)
        assert made.tensors["images"].dtype == torch.uint8
        assert float((made.tensors["images"].float() / 255 - unit).abs().max()) <= 0.5 / 255 + 1e-6
        assert torch.equal(made.targets.ids, IDS)  # type: ignore[arg-type]
        card = json.loads((tmp_path / "out/card.json").read_text())
        assert card["lost"] == list(done.lost) and card["exported"]["stats"].startswith("0.5,0.4,0.6/")

    def test_a_folder_warns_of_values_that_are_clamped(
        self, unit: torch.Tensor, real: RealData, tmp_path: Path, ddbench_command: Ddbench
    ) -> None:
        images = unit.clone()
        images[0] = 1.5  # one of the pictures: 127.5 levels above the brightest
        ours = as_set(images, IDS, real, space=Space("unit", NORM.mean, NORM.std))
        done = write_folder(ours, tmp_path / "out")
        share = f"{100 / len(images):.3g} % of the values are clamped"
        assert done.lost[0].startswith(
            "values between and beyond 256 levels: the largest change is 128 levels, the mean "
        )
        assert done.lost[0].endswith(f"; {share}")
        assert done.warnings[0].startswith(
            "the pictures are not what students learned from: the largest change"
        )
        mean = float(re.search(r"the mean ([\d.]+)", done.lost[0])[1])  # type: ignore[index]
        assert mean == pytest.approx(127.5 / len(images) + 0.25 * (1 - 1 / len(images)), rel=0.2)

        sets.write(tmp_path / "s.safetensors", ours)
        said = ddbench_command(
            "export", tmp_path / "s.safetensors", "--to", "folder", "--out", tmp_path / "a b"
        )
        assert (
            f"warning: {done.warnings[0]}" in said.err
            and f"next: ddbench import '{tmp_path}/a b' " in said.out
        )

    def test_commands_of_cards_can_be_pasted(
        self, pixels: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        place = tmp_path / "it's a folder; really"
        for form in (write_folder, write_mtt, write_safetensors):
            out = place / form.__name__
            said = shlex.split(form(as_set(pixels, IDS, real), out).read_with)
            assert said[:2] in (["ddbench", "import"], ["ddbench", "evaluate"])
            assert said[2] in (str(out), str(out / "set.safetensors"))

    def test_mosaics_are_written_as_they_are_stored(
        self, pixels: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        ours = as_set(pixels, IDS, real, codec=CodecSpec("grid", {"factor": 2, "kind": "single"}))
        write_folder(ours, tmp_path / "out")
        same(tmp_path / "out", ours, real, tmp_path)

    def test_mtts_files_come_back_equal(self, norm: torch.Tensor, real: RealData, tmp_path: Path) -> None:
        ours = as_set(norm, IDS, real, space=NORM).changed(program=Program(torch.tensor([0.1])))
        done = write_mtt(ours, tmp_path / "out")
        assert done.lost == ()
        assert [p.name for p in done.files] == [
            "images_best.pt",
            "labels_best.pt",
            "lr_best.pt",
            "card.json",
            "card.md",
        ]
        same(tmp_path / "out", ours, real, tmp_path)
        loaded = torch.load(tmp_path / "out/images_best.pt", weights_only=True)
        assert torch.equal(loaded, norm) and loaded.dtype == torch.float32
        same(tmp_path / "out", ours, real, tmp_path, space="norm", stats=STATS)

    def test_what_students_see_is_what_mtts_files_have(
        self, pixels: torch.Tensor, unit: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        mosaic = as_set(
            unit, IDS, real, space="unit", codec=CodecSpec("grid", {"factor": 2, "kind": "single"})
        )
        for number, ours in enumerate((as_set(pixels, IDS, real), mosaic)):
            write_mtt(ours, tmp_path / str(number))
            made = read_published(tmp_path / str(number), real)
            items = codecs.items(ours, real.train)
            assert torch.equal(made.tensors["images"], items.to_input(items.stored))
            assert scores(made, real) == scores(ours, real)

    def test_soft_labels_are_written_as_logits(
        self, norm: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        raw = torch.randn((len(norm), CLASSES), generator=generator())
        write_mtt(as_set(norm, raw, real, space=NORM, label_kind="logits"), tmp_path / "a")
        assert torch.equal(read_published(tmp_path / "a", real).targets.soft, raw)  # type: ignore[arg-type]
        write_mtt(as_set(norm, raw.softmax(1), real, space=NORM), tmp_path / "b")
        made = read_published(tmp_path / "b", real).targets
        assert made.kind == "logits" and made.soft is not None
        assert torch.allclose(made.soft.softmax(1), raw.softmax(1), atol=1e-6)

    @pytest.mark.parametrize("on", ["unit", "standardised"])
    def test_whitened_sets_come_back_in_their_space(
        self, on: Any, unit: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        space = data.zca_space(real.train, data.fit_zca(real.train, 0.1, on), on)
        ours = as_set(space.unit_to_input(unit), IDS, real, space=space)
        write_mtt(ours, tmp_path / "out")
        made = same(tmp_path / "out", ours, real, tmp_path)
        assert "source_doubt" not in made.card.notes
        write_folder(ours, tmp_path / "pictures")
        seen = read_published(tmp_path / "pictures", real).tensors["images"].float() / 255
        assert float((seen - unit).abs().max()) < 1 / 255

    def test_safetensors_lose_nothing(self, unit: torch.Tensor, real: RealData, tmp_path: Path) -> None:
        space = data.zca_space(real.train, data.fit_zca(real.train, 0.1))
        ours = as_set(space.unit_to_input(unit), IDS, real, space=space, method="mine")
        done = write_safetensors(ours, tmp_path / "out")
        assert done.lost == () and (tmp_path / "out/card.json").is_file()
        assert sets.read(tmp_path / "out/set.safetensors").fingerprint() == ours.fingerprint()
        same(tmp_path / "out" / "set.safetensors", ours, real, tmp_path)

    def test_subsets_are_written_with_their_data(self, real: RealData, tmp_path: Path) -> None:
        chosen = torch.tensor([3, 1, 20])
        ours = as_set(real.train.images[:3], real.train.labels[:3], real).changed(
            tensors={"indices": chosen},
            targets=Targets(ids=real.train.labels[chosen]),
            codec=CodecSpec("subset"),
            space=real.train.space,
        )
        with pytest.raises(FormatError, match="to write them as a folder its real data are needed"):
            write_folder(ours, tmp_path / "a")
        done = write_folder(ours, tmp_path / "a", real.train)
        order = torch.argsort(real.train.labels[chosen], stable=True)
        made = read_published(tmp_path / "a", real)
        assert torch.equal(made.tensors["images"], real.train.images[chosen[order]])
        assert ("the order of the items: they stand class by class" in done.lost) != bool(
            (order[1:] > order[:-1]).all()
        )
        write_mtt(ours, tmp_path / "b", real.train)
        made = read_published(tmp_path / "b", real)
        assert torch.equal(made.tensors["images"], real.train.space.real_to_input(real.train.images[chosen]))
        assert scores(read_published(tmp_path / "b", real), real) == scores(ours, real)

    def test_what_a_form_cannot_hold_is_refused(
        self, norm: torch.Tensor, real: RealData, tmp_path: Path
    ) -> None:
        soft = as_set(
            norm, torch.randn((8, CLASSES), generator=generator()), real, space=NORM, label_kind="logits"
        )
        with pytest.raises(FormatError, match="a folder of pictures holds one class id a picture"):
            write_folder(soft, tmp_path / "a")
        values = as_set(
            norm, torch.randn((8, 3), generator=generator()), real, space=NORM, label_kind="values"
        )
        with pytest.raises(FormatError, match="MTT's files hold class ids or logits, which this set has not"):
            write_mtt(values, tmp_path / "a")
        hard = as_set(norm, IDS, real, space=NORM)
        shuffled = hard.changed(
            codec=CodecSpec("grid", {"factor": 2, "kind": "whole", "visit": "patch-shuffle"})
        )
        with pytest.raises(FormatError, match="codec 'grid' changes items at every visit"):
            write_mtt(shuffled, tmp_path / "a")
        assert not (tmp_path / "a").exists()
        write_mtt(hard, tmp_path / "a")
        with pytest.raises(FileExistsError, match="is there already; name a new or empty folder"):
            write_mtt(hard, tmp_path / "a")


# ------------------------------------------------------------------------------------------------ commands


@pytest.fixture
def ddbench_command(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Ddbench:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Said:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return Said(int(end.value.code or 0), out, err)

    return run


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """MTT's files of digits."""
    images = torch.randn((10, 1, 8, 8), generator=generator())
    save(images, tmp_path / "mtt" / "images_best.pt")
    save(torch.arange(10), tmp_path / "mtt" / "labels_best.pt")
    return tmp_path / "mtt" / "images_best.pt"


class TestCommands:
    def test_look_only_says_what_is_there(self, ddbench_command: Ddbench, published: Path) -> None:
        said = ddbench_command("import", published, "--look")
        assert said.status == 0 and not Path("imported").exists()
        assert "images: 10 x 1 x 8 x 8 float32" in said.out and "likely space (a hint): norm" in said.out
        document = ddbench_command("import", published, "--look", "--json").json
        assert document["format"] == "mtt" and document["labels"]["kind"] == "ids"

    def test_import_export_and_evaluate(self, ddbench_command: Ddbench, published: Path) -> None:
        said = ddbench_command("import", published, "--dataset", "digits", "--space", "norm", "--stats", "own",
                               "--method", "mtt", "--source", "a page")  # fmt: skip
        assert said.status == 0, said.err
        assert said.out.endswith(
            "next: ddbench evaluate imported/mtt-images_best.safetensors --protocol quick\n"
        )
        made = sets.read("imported/mtt-images_best.safetensors")
        assert (made.card.method, made.card.ipc) == ("mtt", 1)
        assert made.card.notes["source_said"] == "space=norm stats=own source=a page"
        scored = ddbench_command("evaluate", "imported/mtt-images_best.safetensors", "--network", "MLP", "--repeats",
                                 "1", "--device", "cpu", "--json")  # fmt: skip
        assert scored.status == 0 and scored.json[0]["notes"]["source_file"] == "images_best.pt"
        again = ddbench_command(
            "import", published, "--dataset", "digits", "--space", "norm", "--stats", "own"
        )
        assert again.status == 2 and "is there already; name the file to write with --out" in again.err
        for form in ("folder", "mtt", "safetensors"):
            done = ddbench_command(
                "export", "imported/mtt-images_best.safetensors", "--to", form, "--out", f"out-{form}"
            )
            assert done.status == 0 and Path(f"out-{form}", "card.json").is_file(), done.err
        document = ddbench_command(
            "import", "out-folder", "--dataset", "digits", "--out", "x.safetensors", "--json"
        ).json
        assert document["set"] == "x.safetensors" and document["next"].startswith(
            "ddbench evaluate x.safetensors"
        )

    def test_what_is_unclear_is_asked_for(self, ddbench_command: Ddbench, published: Path) -> None:
        said = ddbench_command("import", published, "--dataset", "digits")
        assert said.status == 2 and "To be said:\n  --space raw|norm|zca" in said.err
        save(torch.arange(10).clamp(min=1), published.parent / "labels_best.pt")
        said = ddbench_command(
            "import", published, "--dataset", "digits", "--space", "norm", "--stats", "own"
        )
        assert said.status == 0 and "labels run from 1 to 9 and none is 0 of 10 classes" in said.out
        said = ddbench_command("import", published)
        assert said.status == 2 and "is of format mtt; expected --dataset NAME" in said.err
        said = ddbench_command("import", published, "--dataset", "digits", "--limit", "lots")
        assert said.status == 2 and "--limit: size is 'lots'" in said.err
