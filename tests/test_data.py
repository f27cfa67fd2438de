"""Real data: found in the stated order, prepared once, the same by every road; and a clear message for all that is wrong."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import os
import pickle
import re
import shutil
import struct
import tempfile
import threading
import urllib.error
import urllib.request
import zipfile
from dataclasses import replace
from pathlib import Path

import kornia.enhance
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ddbench import data, store
from ddbench.contract import ZCA

few = settings(max_examples=25, deadline=None)


def picture(seed: int, size: tuple[int, int] = (6, 6), mode: str = "L") -> Image.Image:
    """Noise of (height, width)."""
    shape = size if mode == "L" else (*size, len(mode))
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode=None)


def tree(
    root: Path,
    classes: tuple[str, ...] = ("cat", "dog"),
    splits: tuple[str, ...] = ("train", "test"),
    count: int = 2,
    size: tuple[int, int] = (6, 6),
    mode: str = "L",
) -> Path:
    for s, split in enumerate(splits):
        for c, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                picture(100 * s + 10 * c + i, size, mode).save(root / split / name / f"{i}.png")
    return root


def idx_files(root: Path, train: int = 20, test: int = 10, labels: np.ndarray | None = None) -> Path:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for stem, count in (("train", train), ("t10k", test)):
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        classes = (
            (np.arange(count) % 10).astype(np.uint8) if labels is None else labels[:count].astype(np.uint8)
        )
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(
            struct.pack(">4I", 0x803, count, 28, 28) + pixels.tobytes()
        )
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + classes.tobytes())
    return raw


@pytest.fixture
def loosened(monkeypatch):
    """Registered data sets may be small: their counts are not checked."""
    real = data.spec_of
    monkeypatch.setattr(data, "spec_of", lambda instance: replace(real(instance), counts=(None, None)))


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


# ------------------------------------------------------------------------------------------------ found and loaded


def test_an_image_folder_becomes_uint8_with_sorted_classes_and_its_own_statistics(tmp_path):
    folder = tree(tmp_path / "pets", mode="RGB")
    real = data.load(f"imagefolder:{folder}", tmp_path / "root")
    assert real.train.shape == (3, 6, 6) and len(real.train) == 4 and len(real.test) == 4
    assert real.train.class_names == ("cat", "dog") and real.train.labels.tolist() == [0, 0, 1, 1]
    seen = np.asarray(Image.open(folder / "train" / "dog" / "1.png"))
    assert torch.equal(real.train.images[3], torch.from_numpy(seen.copy()).permute(2, 0, 1))
    unit = real.train.images.double() / 255
    assert real.train.mean == pytest.approx(unit.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert real.train.std == pytest.approx(unit.std((0, 2, 3), correction=0).tolist(), abs=1e-12)
    assert real.test.mean == real.train.mean and real.train.flip


def test_val_is_the_test_part_where_there_is_no_test_folder(tmp_path):
    folder = tree(tmp_path / "pets", splits=("train", "val"))
    assert len(data.load(f"imagefolder:{folder}", tmp_path / "root").test) == 4


def test_settings_behind_the_question_mark_resize_convert_and_stop_flips(tmp_path):
    folder = tree(tmp_path / "pets", size=(8, 12), mode="RGB")
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 200  # the central square
    Image.fromarray(wide).save(folder / "train" / "cat" / "0.png")
    name = f"imagefolder:{folder}?size=8&mode=grey&flip=no"
    real = data.load(name, tmp_path / "root")
    assert real.train.shape == (1, 8, 8) and not real.train.flip
    assert real.train.images[0].min() == 200  # crop keeps the middle
    squashed = data.load(f"imagefolder:{folder}?size=8&mode=grey&fit=squash", tmp_path / "root")
    assert squashed.train.images[0].min() == 0
    assert real.train.fingerprint != squashed.train.fingerprint


def test_the_prepared_cache_has_the_fingerprint_of_the_files_and_of_the_bytes(tmp_path, loosened):
    idx_files(tmp_path)
    assert data.available("mnist", tmp_path) == f"torchvision files in {tmp_path / 'MNIST' / 'raw'}"
    first = data.load("mnist", tmp_path)
    assert data.available("mnist", tmp_path) == f"prepared cache {tmp_path / 'prepared' / 'mnist'}"
    shutil.rmtree(tmp_path / "MNIST")
    second = data.load("mnist", tmp_path)
    assert first.fingerprint == second.fingerprint
    assert torch.equal(first.train.images, second.train.images)
    recounted = replace(second.train, fingerprint="")
    assert recounted.fingerprint == second.train.fingerprint
    assert first.train.mean == (0.1307,) and first.train.std == (0.3081,) and not first.train.flip


def test_torchvision_files_come_before_the_image_folder_and_the_cache_before_both(tmp_path, loosened):
    tree(tmp_path / "mnist", tuple("0123456789"), count=1, size=(28, 28))
    assert data.available("mnist", tmp_path) == f"image folder {tmp_path / 'mnist'}"
    idx_files(tmp_path)
    assert data.available("mnist", tmp_path).startswith("torchvision files")
    data.prepare("mnist", tmp_path)
    assert data.available("mnist", tmp_path).startswith("prepared cache")


def test_the_same_pictures_as_tree_and_as_idx_in_the_same_order_have_one_fingerprint(tmp_path, loosened):
    raw = idx_files(tmp_path / "a", train=10)
    pixels = np.frombuffer((raw / "train-images-idx3-ubyte").read_bytes(), np.uint8, offset=16).reshape(
        -1, 28, 28
    )
    tested = np.frombuffer((raw / "t10k-images-idx3-ubyte").read_bytes(), np.uint8, offset=16).reshape(
        -1, 28, 28
    )
    for split, images in (("train", pixels), ("test", tested)):
        for i, image in enumerate(images):
            (tmp_path / "b" / "mnist" / split / str(i)).mkdir(parents=True)
            Image.fromarray(image).save(tmp_path / "b" / "mnist" / split / str(i) / "0.png")
    assert data.load("mnist", tmp_path / "a").fingerprint == data.load("mnist", tmp_path / "b").fingerprint


def test_sets_over_the_memory_limit_stay_on_disk_and_smaller_ones_are_copied(tmp_path):
    folder = tree(tmp_path / "pets")
    mapped = data.load(f"imagefolder:{folder}", tmp_path, memory_limit_mib=1e-6)
    copied = data.load(f"imagefolder:{folder}", tmp_path)
    assert torch.equal(mapped.train.images, copied.train.images)
    files = Path("/proc/self/maps")
    if files.exists():
        assert "train-images.npy" in files.read_text()
        del mapped
        assert "train-images.npy" not in files.read_text()  # the copy holds no map
    copied.train.images.add_(1)
    assert not torch.equal(copied.train.images, data.load(f"imagefolder:{folder}", tmp_path).train.images)


def test_a_changed_image_folder_is_read_again(tmp_path):
    folder = tree(tmp_path / "pets")
    before = data.load(f"imagefolder:{folder}", tmp_path)
    picture(77).save(folder / "train" / "cat" / "new.png")
    after = data.load(f"imagefolder:{folder}", tmp_path)
    assert len(before.train) == 4 and len(after.train) == 5


def test_the_data_root_is_the_flag_then_the_variable_then_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DDBENCH_DATA", str(tmp_path))
    assert data.data_root("there") == Path("there") and data.data_root() == tmp_path
    monkeypatch.delenv("DDBENCH_DATA")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.data_root() == tmp_path / ".local" / "share" / "ddbench" / "data"


def test_two_at_once_prepare_one_cache(tmp_path):
    folder = tree(tmp_path / "pets", count=20)
    made: list[object] = []

    def work() -> None:
        made.append(data.load(f"imagefolder:{folder}", tmp_path / "root").fingerprint)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(made) == 4 and len(set(made)) == 1
    assert not [p for p in (tmp_path / "root" / "prepared").iterdir() if p.name.endswith(".tmp")]


def test_what_a_killed_preparation_left_is_cleared_and_not_read(tmp_path):
    folder = tree(tmp_path / "pets")
    name, root = f"imagefolder:{folder}", tmp_path / "root"
    made = data.prepare(name, root)
    half = made.with_name(f".{made.name}.0123.tmp")
    os.replace(made, half)
    assert data.available(name, root) == f"image folder {folder}"
    assert len(data.load(name, root).train) == 4
    assert not half.exists()


def test_a_read_only_data_root_is_prepared_in_the_cache_folder(tmp_path, fresh_cache, monkeypatch, loosened):
    idx_files(tmp_path)
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: real(path, mode) and Path(path) != tmp_path)
    first = data.load("mnist", tmp_path)
    assert not (tmp_path / "prepared").exists()
    assert str(fresh_cache) in data.available("mnist", tmp_path)
    assert data.load("mnist", tmp_path).fingerprint == first.fingerprint


def test_prepare_returns_the_folder_and_none_for_built_in_data(tmp_path, loosened):
    idx_files(tmp_path)
    assert data.prepare("mnist", tmp_path, workers=1) == tmp_path / "prepared" / "mnist"
    assert data.prepare("digits", tmp_path) is None and data.available("digits", tmp_path) == "built in"


def test_cifar_batches_and_svhn_files_come_out_with_channels_first(tmp_path, monkeypatch, loosened):
    import scipy.io
    import torchvision

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    listed = {}
    for file, content in (
        ("data_batch_1", {"data": images.reshape(10, -1), "labels": list(range(10))}),
        ("test_batch", {"data": images[::-1].reshape(10, -1), "labels": list(range(10))}),
        ("batches.meta", {"label_names": list("abcdefghij")}),
    ):
        (folder / file).write_bytes(pickle.dumps(content))
        listed[file] = [file, hashlib.md5((folder / file).read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", [listed["data_batch_1"]])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", [listed["test_batch"]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": listed["batches.meta"][1]}
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "meta", meta)
    real = data.load("cifar10", tmp_path)
    assert np.array_equal(real.train.images.numpy(), images) and real.train.class_names[9] == "truck"
    assert np.array_equal(real.test.images.numpy(), images[::-1])

    splits = {}
    for split in ("train", "test"):
        file = tmp_path / f"{split}_32x32.mat"
        scipy.io.savemat(file, {"X": images.transpose(2, 3, 1, 0), "y": np.arange(1, 11)[:, None]})
        splits[split] = ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", splits)
    real = data.load("svhn", tmp_path)
    assert np.array_equal(real.train.images.numpy(), images)
    assert real.train.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]  # 10 stands for the digit 0


# ------------------------------------------------------------------------------------------------ names


def test_an_unknown_data_set_gets_its_nearest_names():
    with pytest.raises(LookupError, match="no data set 'cifar11'; nearest: cifar10"):
        data.load("cifar11")


def test_unknown_and_bad_settings_name_the_field(tmp_path):
    with pytest.raises(LookupError, match="data set 'imagenette' has no setting 'resise'; nearest: resize"):
        data.load("imagenette?resise=crop", tmp_path)
    with pytest.raises(LookupError, match="data set 'mnist' has no setting 'size'; it has no settings"):
        data.load("mnist?size=3", tmp_path)
    with pytest.raises(
        ValueError, match="setting 'resize' of data set 'imagenette' is 'big'; Input should be 'crop' or"
    ):
        data.load("imagenette?resize=big", tmp_path)
    with pytest.raises(ValueError, match="setting 'resize' has no value; expected NAME\\?KEY=VALUE"):
        data.load("imagenette?resize", tmp_path)
    with pytest.raises(ValueError, match="setting 'size' of imagefolder:.* is 0; expected at least 1"):
        data.load(f"imagefolder:{tmp_path}?size=0", tmp_path)
    with pytest.raises(ValueError, match="'imagefolder:' names no folder; expected imagefolder:PATH"):
        data.load("imagefolder:", tmp_path)


# ------------------------------------------------------------------------------------------------ bad folders


def refused(folder: Path, text: str, settings: str = "", kind: type[Exception] = data.DataError) -> None:
    with pytest.raises(kind, match=text):
        data.load(f"imagefolder:{folder}{settings}", folder.parent / "root")
    left = folder.parent / "root" / "prepared"
    assert not left.exists() or not [p for p in left.iterdir() if p.suffix != ".lock"]


def test_a_missing_folder_says_what_is_expected(tmp_path):
    refused(
        tmp_path / "none", "no folder .*/none; expected .*/none/train/<class>/ and", kind=FileNotFoundError
    )


def test_a_folder_without_train_or_without_test_says_which_is_missing(tmp_path):
    refused(
        tree(tmp_path / "a", splits=("train",)), "a has no test/ or val/ folder; expected .*/a/train/<class>/"
    )
    refused(tree(tmp_path / "b", splits=("val",)), "b has no train/ folder; expected")
    (tmp_path / "c").mkdir()
    refused(tmp_path / "c", "c has no train/ folder; expected")
    (tmp_path / "d" / "train").mkdir(parents=True)
    refused(tmp_path / "d", "d/train has no class folders; expected one folder of pictures a class")


def test_images_of_mixed_sizes_name_two_files_and_both_sizes(tmp_path):
    folder = tree(tmp_path / "pets")
    picture(1, (7, 5)).save(folder / "train" / "dog" / "1.png")
    text = (
        r"images of mixed sizes: .*/train/cat/0\.png is 6x6 pixels \(width x height\), .*/train/dog/1\.png is 5x7; "
        r"bring them to one size, here with imagefolder:.*/pets\?size=6"
    )
    refused(folder, text)
    assert data.load(f"imagefolder:{folder}?size=6", tmp_path).train.shape == (1, 6, 6)


def test_a_test_part_of_another_size_or_mode_than_the_train_part_is_refused(tmp_path):
    folder = tree(tmp_path / "pets", splits=("train",))
    tree(folder, splits=("test",), size=(5, 4))
    refused(
        folder, r"mixed sizes: the training images are 6x6 pixels .*, .*/test/cat/0\.png is 4x5; .*\?size=6"
    )
    shutil.rmtree(folder / "test")
    tree(folder, splits=("test",), mode="RGB")
    refused(folder, r"test/cat/0\.png is colour \(RGB\), expected grey \(L\); convert with .*\?mode=rgb")


def test_grey_among_colour_names_both_files_and_the_way_out(tmp_path):
    folder = tree(tmp_path / "pets", mode="RGB")
    picture(1).save(folder / "test" / "dog" / "1.png")
    text = (
        r"images of mixed modes: .*/test/dog/1\.png is grey \(L\), expected colour \(RGB\) like .*/test/cat/0\.png; "
        r"convert with imagefolder:.*\?mode=grey"
    )
    refused(folder, text)
    assert data.load(f"imagefolder:{folder}?mode=rgb", tmp_path).test.shape == (3, 6, 6)
    assert data.load(f"imagefolder:{folder}?mode=grey", tmp_path).test.shape == (1, 6, 6)


def test_transparent_and_deep_images_are_refused_by_name(tmp_path):
    folder = tree(tmp_path / "pets", mode="RGB")
    picture(1, mode="RGBA").save(folder / "train" / "dog" / "0.png")
    refused(folder, r"dog/0\.png is colour with transparency \(RGBA\), expected colour \(RGB\) like")
    Image.fromarray(np.zeros((6, 6), np.uint16)).save(folder / "train" / "dog" / "0.png")
    refused(folder, r"dog/0\.png has mode I.* \(more than 8 bits a value\); save it with 8 bits a channel")


def test_an_unreadable_image_file_is_named(tmp_path):
    folder = tree(tmp_path / "pets")
    whole = (folder / "train" / "dog" / "0.png").read_bytes()
    (folder / "train" / "dog" / "0.png").write_bytes(whole[: len(whole) // 2])
    refused(
        folder, r"cannot read the image .*/train/dog/0\.png \(.+\); replace it or remove it from the folder"
    )
    (folder / "train" / "dog" / "0.png").write_text("no picture")
    refused(folder, r"cannot read the image .*/train/dog/0\.png \(cannot identify image file")


def test_a_class_with_no_images_is_named(tmp_path):
    folder = tree(tmp_path / "pets")
    for file in (folder / "train" / "dog").iterdir():
        file.rename(file.with_suffix(".txt"))
    refused(
        folder,
        r"class 'dog' has no images: .*/train/dog holds none of \.png, \.jpg, \.jpeg, \.bmp, \.\.\.; add some",
    )


def test_classes_that_differ_between_train_and_test_are_named(tmp_path):
    folder = tree(tmp_path / "pets", splits=("train",))
    tree(folder, ("cat", "fox"), splits=("test",))
    refused(folder, r"the classes of train and test differ: dog, fox in one of them only")


def test_a_constant_channel_is_refused(tmp_path):
    folder = tree(tmp_path / "pets")
    for file in (folder / "train").rglob("*.png"):
        Image.fromarray(np.full((6, 6), 9, np.uint8)).save(file)
    refused(folder, "channel 0 is the same value in every training image; such images cannot be standardised")


# ------------------------------------------------------------------------------------------------ bad named data


def test_a_tree_of_a_named_set_has_its_classes_and_its_size_and_its_count(tmp_path):
    ten = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    folder = tree(tmp_path / "cifar10", (*ten[:-1], "lorry"), size=(32, 32), mode="RGB", count=1)
    text = r"cifar10/train lacks truck and has lorry, which are no classes of it; expected one folder for each of: airplane"
    with pytest.raises(data.DataError, match=text):
        data.load("cifar10", tmp_path)
    for split in ("train", "test"):
        (folder / split / "lorry").rename(folder / split / "truck")
    with pytest.raises(
        data.DataError, match=r"cifar10/train \(image folder .*\): 10 images; expected 50000. For a part"
    ):
        data.load("cifar10", tmp_path)
    picture(0, (31, 32), "RGB").save(folder / "train" / "cat" / "0.png")
    with pytest.raises(
        data.DataError, match=r"cat/0\.png is 32x31 pixels \(width x height\) but cifar10 is 32x32"
    ):
        data.load("cifar10", tmp_path)
    picture(0, (32, 32)).save(folder / "train" / "cat" / "0.png")
    with pytest.raises(
        data.DataError, match=r"cat/0\.png is grey \(L\), expected colour \(RGB\) like .*airplane/0\.png$"
    ):
        data.load("cifar10", tmp_path)


def test_labels_outside_the_classes_say_their_range(tmp_path, loosened):
    idx_files(tmp_path, train=11, labels=np.arange(20))
    with pytest.raises(data.DataError, match=r"mnist/train .*: labels run from 0 to 10; expected 0 to 9"):
        data.load("mnist", tmp_path)


def test_a_class_that_no_label_names_is_told(tmp_path, loosened):
    idx_files(tmp_path, train=9)
    with pytest.raises(
        data.DataError, match=r"mnist/train .*: 9: a class with no images; expected at least one each"
    ):
        data.load("mnist", tmp_path)


def test_truncated_torchvision_files_are_named(tmp_path, loosened):
    raw = idx_files(tmp_path)
    file = raw / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    text = r"mnist: torchvision files in .*/MNIST/raw are incomplete or damaged \(.+\); remove them to download them again"
    with pytest.raises(data.DataError, match=text):
        data.load("mnist", tmp_path)


def test_fewer_labels_than_images_are_told(tmp_path, loosened):
    raw = idx_files(tmp_path)
    (raw / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 19) + bytes(19))
    with pytest.raises(data.DataError, match="20 images but 19 labels; expected one label an image"):
        data.load("mnist", tmp_path)


# ------------------------------------------------------------------------------------------------ downloads


def test_no_network_says_which_file_goes_where(tmp_path, offline):
    text = (
        rf"mnist is not under {tmp_path} and could not be downloaded \(RuntimeError: Error downloading.*: put "
        rf"train-images-idx3-ubyte\.gz, .* \(from https://.*\) into {tmp_path}/MNIST/raw; or put the pictures into "
        rf"{tmp_path}/mnist/\{{train,val\}}/<class>/"
    )
    with pytest.raises(FileNotFoundError, match=text):
        data.load("mnist", tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"put cifar-10-python\.tar\.gz \(from https://www\.cs\.toronto"
    ):
        data.load("cifar10", tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"no route to host.*tiny-imagenet-200\.zip \(from .*, md5 90528d7c"
    ):
        data.load("tiny_imagenet", tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"put train_32x32\.mat, test_32x32\.mat \(from .*housenumbers/\) into"
    ):
        data.load("svhn", tmp_path)


def test_imagenet_cannot_be_downloaded_and_says_where_the_tree_belongs(tmp_path):
    text = (
        rf"imagenet1k is not under {tmp_path} and cannot be downloaded without an account: put the pictures into "
        rf"{tmp_path}/imagenet1k/\{{train,val\}}/<class>/ or .*ILSVRC2012_img_train\.tar"
    )
    with pytest.raises(FileNotFoundError, match=text):
        data.load("imagenet1k", tmp_path)
    with pytest.raises(
        FileNotFoundError, match=rf"put the pictures into {tmp_path}/imagemeow/.* or {tmp_path}/imagenet1k/"
    ):
        data.load("imagemeow", tmp_path)


def test_archives_put_there_by_hand_are_unpacked_without_a_network(tmp_path, offline, monkeypatch, loosened):
    import torchvision

    raw = idx_files(tmp_path)
    listed = []
    for file in sorted(raw.iterdir()):
        packed = gzip.compress(file.read_bytes())
        (raw / f"{file.name}.gz").write_bytes(packed)
        file.unlink()
        listed.append((f"{file.name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", listed)
    assert data.available("mnist", tmp_path) == f"archives in {raw}"
    assert len(data.load("mnist", tmp_path).train) == 20


def zipped(tmp_path: Path) -> Path:
    source = tree(tmp_path / "source", ("n01", "n02"), splits=("train",), size=(64, 64), mode="RGB")
    (source / "val" / "images").mkdir(parents=True)
    for i, wnid in enumerate(("n02", "n01", "n02")):
        picture(50 + i, (64, 64)).save(source / "val" / "images" / f"val_{i}.JPEG")
        with (source / "val" / "val_annotations.txt").open("a") as file:
            file.write(f"val_{i}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    archive = tmp_path / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in source.rglob("*"):
            file.write(path, Path("tiny-imagenet-200") / path.relative_to(source))
    return archive


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def small_tiny(tmp_path, monkeypatch):
    """tiny_imagenet with two classes, its archive on a server of this process."""
    archive = zipped(tmp_path)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{archive.name}"
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    real = data.spec_of

    def spec_of(instance):
        spec = real(instance)
        forms = (*spec.forms[:2], data.Download(url, md5, "tiny-imagenet-200"))
        return replace(spec, counts=(None, None), classes=2, forms=forms)

    monkeypatch.setattr(data, "spec_of", spec_of)
    yield archive
    server.shutdown()
    server.server_close()


def test_a_download_is_checked_unpacked_and_read_with_its_own_val_labels(tmp_path, small_tiny, capfd):
    root = tmp_path / "root"
    real = data.load("tiny_imagenet", root)
    assert real.train.class_names == ("n01", "n02") and real.train.labels.tolist() == [0, 0, 1, 1]
    assert real.test.labels.tolist() == [0, 1, 1] and real.test.shape == (3, 64, 64)
    expected = np.asarray(
        Image.open(root / "tiny-imagenet-200" / "val" / "images" / "val_1.JPEG").convert("RGB")
    )
    assert np.array_equal(real.test.images[0].permute(1, 2, 0).numpy(), expected)
    assert "100%" in capfd.readouterr().err


def test_a_download_with_a_wrong_checksum_is_refused_and_not_unpacked(tmp_path, small_tiny):
    with small_tiny.open("ab") as file:
        file.write(b"more")
    with pytest.raises(
        FileNotFoundError, match=r"could not be downloaded \(RuntimeError: File not found or corrupted"
    ):
        data.load("tiny_imagenet", tmp_path / "root")
    assert not (tmp_path / "root" / "tiny-imagenet-200").exists()


def test_val_annotations_with_an_unknown_class_name_the_line(tmp_path, small_tiny):
    root = tmp_path / "root"
    data.load("tiny_imagenet", root)
    table = root / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    table.write_text(table.read_text().replace("val_1.JPEG\tn01", "val_1.JPEG\tn99"))
    with pytest.raises(
        data.DataError, match=r"val_annotations\.txt line 2 names the class 'n99'; expected the name of a"
    ):
        data.prepare("tiny_imagenet", root, force=True)
    table.unlink()
    with pytest.raises(data.DataError, match=r"val_annotations\.txt is missing"):
        data.prepare("tiny_imagenet", root, force=True)
    assert len(data.load("tiny_imagenet", root).test) == 3  # the failed preparation lost nothing


def test_a_subset_is_cut_from_an_imagenet_tree_in_the_order_of_its_list(tmp_path, loosened):
    from ddbench.registry import get

    listed = get("datasets", "imagewoof").class_names
    tree(
        tmp_path / "imagenet1k",
        (*listed, "n99999999"),
        ("train", "val"),
        count=1,
        size=(130, 150),
        mode="RGB",
    )
    real = data.load("imagewoof", tmp_path)
    assert real.train.class_names == listed and real.train.shape == (3, 128, 128) and len(real.train) == 10
    assert listed[0] == "n02096294" and sorted(listed) != list(listed)
    with Image.open(tmp_path / "imagenet1k" / "train" / listed[0] / "0.png") as image:
        short = image.resize((147, 128), Image.Resampling.BILINEAR)  # torchvision: int(128 * 150 / 130) = 147
        expected = np.asarray(short)[:, 10:138]  # round((147 - 128) / 2) = 10
    assert np.array_equal(real.train.images[0].permute(1, 2, 0).numpy(), expected)
    squashed = data.load("imagewoof?resize=squash", tmp_path)
    assert squashed.name == "imagewoof?resize=squash" and squashed.fingerprint != real.fingerprint
    shutil.rmtree(tmp_path / "imagenet1k" / "train" / listed[3])
    with pytest.raises(
        data.DataError, match=f"imagenet1k/train lacks {listed[3]}; expected one folder for each of"
    ):
        data.prepare("imagewoof", tmp_path, force=True)


# ------------------------------------------------------------------------------------------------ damaged cache, full disk


def test_a_truncated_cache_says_how_to_make_it_anew_and_force_does_so(tmp_path):
    name = f"imagefolder:{tree(tmp_path / 'pets')}"
    folder = data.prepare(name, tmp_path)
    for stem in ("train-images", "test-labels"):
        file = folder / f"{stem}.npy"
        file.write_bytes(file.read_bytes()[:-3])
        text = (
            rf"the prepared cache {folder} is damaged or half written \({stem}\.npy has \d+ bytes, expected \d+\); "
            rf"remove the folder, or make it anew: ddbench data prepare {re.escape(name)} --force"
        )
        with pytest.raises(store.DamagedError, match=text):
            data.load(name, tmp_path)
        with pytest.raises(store.DamagedError, match="half written"):
            data.prepare(name, tmp_path)
        data.prepare(name, tmp_path, force=True)
        assert len(data.load(name, tmp_path).train) == 4


def test_changed_and_missing_parts_of_a_cache_are_told_apart(tmp_path):
    name = f"imagefolder:{tree(tmp_path / 'pets')}"
    folder = data.prepare(name, tmp_path)
    whole = (folder / "train-images.npy").read_bytes()
    (folder / "train-images.npy").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(store.DamagedError, match=r"the checksum of train-images\.npy differs"):
        data.load(name, tmp_path)
    (folder / "train-images.npy").unlink()
    with pytest.raises(store.DamagedError, match=r"train-images\.npy is missing"):
        data.load(name, tmp_path)
    (folder / "facts.json").write_text((folder / "facts.json").read_text().replace("cat", "cow"))
    with pytest.raises(store.DamagedError, match=r"the checksum of facts\.json differs"):
        data.load(name, tmp_path)
    (folder / "facts.json").write_text("{")
    with pytest.raises(store.DamagedError, match=r"facts\.json: .*prepare .* --force"):
        data.load(name, tmp_path)


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    folder = tree(tmp_path / "pets")
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(
        store.WriteError, match=r"cannot write .*train-images\.npy: the disk is full; free some space"
    ):
        data.load(f"imagefolder:{folder}", tmp_path / "root")
    assert not [p for p in (tmp_path / "root" / "prepared").iterdir() if p.suffix != ".lock"]


def test_a_file_in_the_place_of_the_prepared_folder_is_told(tmp_path, loosened):
    idx_files(tmp_path)
    (tmp_path / "prepared").write_text("")
    with pytest.raises(store.WriteError, match="a file and a folder stand in each other's place"):
        data.load("mnist", tmp_path)


# ------------------------------------------------------------------------------------------------ any bytes


@few
@given(st.data())
def test_any_folder_of_pictures_comes_back_as_it_was_written(draw):
    classes = draw.draw(
        st.lists(st.text("abcXYZ09_-", min_size=1, max_size=6), min_size=1, max_size=4, unique=True)
    )
    h, w = draw.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    channels = draw.draw(st.sampled_from([1, 3]))
    rng = np.random.default_rng(draw.draw(st.integers(0, 999)))
    with tempfile.TemporaryDirectory() as scratch:
        written: dict[str, list[np.ndarray]] = {"train": [], "test": []}
        for split in written:
            for name in sorted(classes):
                (Path(scratch) / "d" / split / name).mkdir(parents=True)
                for i in range(draw.draw(st.integers(1, 3))):
                    image = rng.integers(0, 256, (h, w, channels), dtype=np.uint8)
                    image.flat[:2] = (0, 255) if image.size > 1 else image.flat[:2]
                    Image.fromarray(image.squeeze(2) if channels == 1 else image).save(
                        Path(scratch) / "d" / split / name / f"{i}.png"
                    )
                    written[split].append(image.transpose(2, 0, 1))
        try:
            real = data.load(f"imagefolder:{scratch}/d", scratch)
        except data.DataError as error:
            assert "same value in every training image" in str(error)
            return
        assert real.train.class_names == tuple(sorted(classes))
        for split, images in written.items():
            assert np.array_equal(getattr(real, split).images.numpy(), np.stack(images))


@few
@given(st.binary(min_size=0, max_size=8), st.integers(0, 10**6), st.booleans())
def test_damaged_idx_files_give_the_clear_error_or_load(patch, where, cut):
    real = data.spec_of
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patched:
        patched.setattr(data, "spec_of", lambda instance: replace(real(instance), counts=(None, None)))
        raw = idx_files(Path(scratch))
        file = sorted(raw.iterdir())[where % 4]
        whole = file.read_bytes()
        at = where % (len(whole) if where % 3 else 20)
        file.write_bytes(whole[:at] + patch + (b"" if cut else whole[at + len(patch) :]))
        try:
            loaded = data.load("mnist", scratch)
            assert loaded.train.shape == (1, 28, 28)
        except data.DataError as error:
            assert str(error).startswith("mnist")


@few
@given(st.binary(min_size=0, max_size=8), st.integers(0, 10**6), st.booleans())
def test_damaged_pictures_give_the_clear_error_or_load(patch, where, cut):
    with tempfile.TemporaryDirectory() as scratch:
        folder = tree(Path(scratch) / "pets", mode="RGB")
        file = folder / "train" / "dog" / "1.png"
        whole = file.read_bytes()
        at = where % len(whole)
        file.write_bytes(whole[:at] + patch + (b"" if cut else whole[at + len(patch) :]))
        try:
            assert data.load(f"imagefolder:{folder}", scratch).train.shape == (3, 6, 6)
        except data.DataError as error:
            assert "dog/1.png" in str(error)


@few
@given(st.binary(min_size=1, max_size=8), st.integers(0, 10**6), st.booleans())
def test_a_damaged_cache_never_loads(patch, where, cut):
    with tempfile.TemporaryDirectory() as scratch:
        folder = tree(Path(scratch) / "pets")
        name = f"imagefolder:{folder}"
        made = data.prepare(name, scratch)
        before = data.load(name, scratch)
        file = sorted(made.iterdir())[where % 5]
        whole = file.read_bytes()
        at = where % len(whole)
        file.write_bytes(whole[:at] + patch + (b"" if cut else whole[at + len(patch) :]))
        try:
            again = data.load(
                name, scratch
            )  # harmless where the patch changed nothing that counts (JSON has spaces)
            assert (
                torch.equal(again.train.images, before.train.images)
                and again.fingerprint == before.fingerprint
            )
            assert file.read_bytes() == whole or file.name == "facts.json"
        except store.DamagedError as error:
            assert str(made) in str(error)


# ------------------------------------------------------------------------------------------------ statistics, whitening


def test_statistics_are_exact_over_several_chunks():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5000, 3, 2, 2), dtype=np.uint8)
    mean, std = data.statistics(images)
    assert mean == pytest.approx((images / 255).mean((0, 2, 3)), abs=1e-12)
    assert std == pytest.approx((images / 255).std((0, 2, 3)), abs=1e-12)


def test_kornia_has_the_formula_of_the_spec_and_the_contract_applies_it():
    x = torch.tensor([[0, 1], [1, 0], [-1, 0], [0, -1]], dtype=torch.float64)
    fitted = kornia.enhance.ZCAWhitening(eps=0.1).fit(x)
    assert torch.allclose(fitted.transform_matrix, 1.142080 * torch.eye(2, dtype=torch.float64), atol=1e-6)
    y = torch.tensor([[1, 2], [3, 1], [0, 0], [4, 5]], dtype=torch.float64)
    fitted = kornia.enhance.ZCAWhitening(eps=0.1).fit(y)
    expected = torch.tensor([[0.746656, -0.299436], [-0.299436, 0.613573]], dtype=torch.float64)
    assert torch.allclose(fitted.transform_matrix, expected, atol=1e-6)
    zca = ZCA(fitted.mean_vector.flatten(), fitted.transform_matrix, 0.1, "")
    white = [[-0.746656, 0.299436], [1.046091, -0.913009], [-0.894439, -0.628274], [0.595004, 1.241847]]
    images = y.view(4, 1, 1, 2)
    assert torch.allclose(zca(images).view(4, 2), torch.tensor(white, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(zca.inverse(zca(images)), images)


@pytest.mark.parametrize("on", ["unit", "standardised"])
def test_zca_of_a_data_set_follows_the_formula_and_comes_from_the_cache_the_second_time(
    on, gauss3, fresh_cache, monkeypatch
):
    train = gauss3.train
    zca = data.fit_zca(train, 0.1, on)
    x = (train.images.double() / 255).flatten(1)
    if on == "standardised":
        x = train.space.real_to_input(train.images).double().flatten(1)
    centred = x - x.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / (len(x) - 1))
    expected = vectors @ torch.diag((values.clamp(min=0) + 0.1).rsqrt()) @ vectors.T
    assert torch.allclose(zca.transform.double(), expected, atol=2e-4)
    assert torch.allclose(zca.mean.double(), x.mean(0), atol=1e-6)
    space = data.zca_space(train, zca, on)
    white = space.real_to_input(train.images).double().flatten(1)
    assert torch.allclose(white, centred @ expected, atol=2e-3)
    back = space.to_unit(space.real_to_input(train.images))
    assert torch.allclose(back, train.images.float() / 255, atol=2e-3)
    monkeypatch.setattr(kornia.enhance, "ZCAWhitening", None)
    again = data.fit_zca(train, 0.1, on)
    assert again.hash == zca.hash and again.fitted_on == train.fingerprint
    with pytest.raises(TypeError):
        data.fit_zca(train, 0.2, on)  # another eps is another fit


def test_bad_zca_settings_are_named(gauss2):
    with pytest.raises(ValueError, match="ZCA is to be fitted on 'raw'; expected unit or standardised"):
        data.fit_zca(gauss2.train, on="raw")
    with pytest.raises(
        ValueError, match="ZCA of 40 images with eps -1; expected at least 2 images and eps >= 0"
    ):
        data.fit_zca(gauss2.train, eps=-1)


# ------------------------------------------------------------------------------------------------ the real thing


@pytest.mark.data
def test_the_real_mnist_has_its_published_statistics(tmp_path, real_data_root):
    (tmp_path / "MNIST").symlink_to(real_data_root / "MNIST")
    real = data.load("mnist", tmp_path)
    assert len(real.train) == 60_000 and len(real.test) == 10_000
    mean, std = data.statistics(real.train.images.numpy())
    assert (
        (round(mean[0], 4), round(std[0], 4)) == (real.train.mean[0], real.train.std[0]) == (0.1307, 0.3081)
    )
    assert real.train.labels[:5].tolist() == [5, 0, 4, 1, 9]


@pytest.mark.data
@pytest.mark.slow
def test_the_real_cifar10_has_its_published_mean_and_loads_fast_the_second_time(tmp_path, real_data_root):
    import time

    (tmp_path / "cifar10").symlink_to(real_data_root / "cifar10")
    real = data.load("cifar10", tmp_path)
    assert (
        real.train.labels.bincount().tolist() == [5000] * 10
        and real.test.labels.bincount().tolist() == [1000] * 10
    )
    mean, _ = data.statistics(real.train.images.numpy())
    assert mean == pytest.approx((0.491400, 0.482158, 0.446531), abs=1e-6)
    start = time.perf_counter()
    data.load("cifar10", tmp_path)
    assert time.perf_counter() - start < 1.0
