"""Bad input gets a clear message and loses nothing.

Where each kind is tested, message included; what stands here is what no module's own tests cover, as a user meets it.

- unknown names: test_registry.py::test_an_unknown_name_gets_its_nearest_neighbours, test_plan.py::
  test_a_fault_in_a_suite_is_said_with_line_and_field and test_a_fault_in_the_flags_names_the_flag, test_nets.py::
  test_an_unknown_network_gets_the_nearest_names, test_data.py::test_an_unknown_data_set_gets_its_nearest_names, and the
  command line: TestNames here, test_cli.py::TestOneSet::test_a_set_that_is_not_there_and_names_that_are_not_are_told_first
- unknown fields: test_registry.py::test_an_unknown_setting_gets_the_nearest_field, test_plan.py (the same two), test_data.py::
  test_unknown_and_bad_settings_name_the_field
- ipc 0, negative, larger than the class: TestIpc here (commands, Python), test_plan.py (suites), test_methods.py::
  test_ipc_beyond_the_class_says_how_far_it_may_go (every method), test_runner.py (the record)
- a class with no images: test_data.py::test_a_class_with_no_images_is_named, test_methods.py::
  test_a_class_without_images_is_named; in a run: TestPictures here
- mixed sizes or modes: test_data.py::test_images_of_mixed_sizes_name_two_files_and_both_sizes,
  test_grey_among_colour_names_both_files_and_the_way_out, test_transparent_and_deep_images_are_refused_by_name; TestPictures
- an unreadable image: test_data.py::test_an_unreadable_image_file_is_named; in a run: TestPictures here
- half-written or truncated: set test_sets.py::TestDamage, test_runner.py, TestDamage here; record test_store.py::
  test_a_truncated_record_is_named_and_may_be_listed_instead_of_raised, TestDamage here; cache test_data.py::
  test_a_truncated_cache_says_how_to_make_it_anew_and_force_does_so, test_teachers.py::
  test_a_damaged_cache_names_the_file_and_says_what_to_do, TestDamage here; checkpoint test_task.py::
  test_a_truncated_checkpoint_is_named, TestDamage here; stored answers test_labels.py::test_damage_is_named
- labels outside the classes: test_contract.py::test_labels_outside_the_classes_are_named, test_data.py::
  test_labels_outside_the_classes_say_their_range, test_codecs.py::test_ids_outside_the_classes, test_api.py::
  test_unclear_labels_are_refused
- NaN pixels: test_api.py::test_nan_pixels_are_refused_with_their_row, test_contract.py::
  test_pixels_that_are_not_finite_are_counted, test_runner.py (a method that makes them)
- a suite file with a wrong type: test_plan.py::test_a_fault_in_a_suite_is_said_with_line_and_field; TestSuiteFile here
- a read-only or full disk: test_store.py (the writer), test_sets.py::test_a_failed_write_leaves_the_old_set, test_data.py::
  test_a_full_disk_is_told_before_anything_is_written, test_a_read_only_data_root_is_prepared_in_the_cache_folder; commands:
  TestDisk here
- no network: test_data.py::test_no_network_says_which_file_goes_where, test_datasets.py (every data set), test_labels.py::
  test_without_a_network_the_message_says_where_the_file_goes; commands: TestNoNetwork here
"""

from __future__ import annotations

import errno
import os
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from test_cli import RANDOM, Ddbench, ddbench  # noqa: F401  (ddbench is a fixture)

import ddbench as package
from ddbench import store


def pictures(folder: Path, **changed: Image.Image | bytes | None) -> str:
    """A small image folder of two classes; ``dark_1``: what stands in the place of train/dark/1.png (None: no class at all)."""
    for split in ("train", "test"):
        for name, grey in (("dark", 20), ("light", 200)):
            (folder / split / name).mkdir(parents=True)
            for i in range(2):
                Image.new("L", (8, 8), grey + i).save(folder / split / name / f"{i}.png")
    for where, what in changed.items():
        name, _, number = where.partition("_")
        path = folder / "train" / name / f"{number}.png"
        if isinstance(what, Image.Image):
            what.save(path)
        elif what is not None:
            path.write_bytes(what)
        else:
            for left in path.parent.iterdir():
                left.unlink()
    return f"imagefolder:{folder}"


class TestNames:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (("--method", "randm"), "--method: no method 'randm'; nearest: random"),
            (("--method", "random", "--dataset", "digit"), "--dataset: no data set 'digit'; nearest: digits"),
            (("--method", "random", "--protocol", "quik"), "--protocol: no protocol 'quik'; nearest: quick"),
            (("--method", "random", "--network", "ConvNt"), "--network: no network 'ConvNt'; nearest: ConvNet"),
            (("--method", "dm", "--recipe", "authrs"), "--recipe: method 'dm' has no recipe 'authrs' for digits"),
            (("--method", "dm", "--set", "iteratons=3"), "--set: method 'dm' has no setting 'iteratons'; nearest: it"),
            (("--method", "dm", "--set", "iterations=many"), "setting 'iterations' of method 'dm' is 'many'; expected int"),
            (("--method", "dm", "--set", "iterations"), "--set: given 'iterations'; expected KEY=VALUE"),
            (("--method", "random", "--suite", "embedded"), "--suite embedded and --method were both given"),
            (("--dataset", "digits", "--recipe", "cpu"), "--dataset, --recipe without --method; expected --method NAME"),
            (("--suite", "embeded"), "no suite 'embeded'; nearest: embedded (or a file: FILE.yaml)"),
            (("--suite", "no.yaml"), "no suite file no.yaml; expected a YAML file"),
            (("--plugin", "no.py"), "no plug-in file "),
            (("--method", "random", "--seeds", "few"), "--seeds is 'few'; expected a count such as 5, or seeds such as"),
            (("--seeds", "0"), "--seeds is 0; expected at least 1"),
            (("--seeds", "1,1"), "--seeds: 1 stands there twice"),
            (("--seeds", "-1,2"), "--seeds: seed is -1; expected 0 or more"),
            (("--device", "tpu"), "device is 'tpu'; expected auto, cpu, cuda or cuda:0"),
            (("--device", "cuda:99"), "device is 'cuda:99' but torch sees"),
            (("--memory-limit", "lots"), "--memory-limit: size is 'lots'; expected a number with an optional unit"),
            (("--time-budget", "soon"), "--time-budget is 'soon'; expected a positive time such as 90s, 9m"),
            (("--precision", "fp99"), "Invalid value for '--precision': 'fp99' is not one of 'fp32', 'tf32', 'bf16'"),
            (("--engine", "fast"), "Invalid value for '--engine': 'fast' is not one of 'auto', 'plain', 'compiled'"),
            (("--jobs", "0"), "Invalid value for '--jobs': 0 is not in the range x>=1"),
        ],
    )  # fmt: skip
    def test_what_a_run_cannot_understand_is_said_before_anything_is_done(self, ddbench, arguments, text):  # noqa: F811
        said = ddbench("run", *arguments)
        assert said.status == 2 and text in said.err and said.out == "", said.err
        assert not list(Path().iterdir())

    def test_distil_takes_no_other_suffix(self, ddbench):  # noqa: F811
        said = ddbench("distill", "--method", "random", "--out", "set.pt")
        assert said.status == 2
        assert said.err == "error: --out is set.pt; expected a file name that ends in .safetensors\n"

    def test_the_engine_is_checked_from_python_too(self):
        images, labels = torch.zeros(10, 1, 8, 8), torch.arange(10)
        with pytest.raises(ValueError, match="engine precision is 'fp99'; expected one of fp32, tf32, bf16"):
            package.evaluate(images, labels, dataset="digits", space="unit", precision="fp99")


class TestIpc:
    @pytest.mark.parametrize("ipc", [0, -3])
    def test_none_and_fewer_are_refused(self, ddbench, ipc):  # noqa: F811
        text = f"ipc is {ipc}; expected at least 1 image a class (all of the data: method 'full')"
        for command in ("run", "distill"):
            said = ddbench(command, "--method", "random", "--ipc", ipc)
            assert said.status == 2 and said.err == f"error: --ipc: {text}\n"
        with pytest.raises(ValueError) as error:
            package.distill("random", "digits", ipc)
        assert str(error.value) == text

    def test_more_than_the_class_has_fails_as_a_cell_and_says_how_far_it_may_go(self, ddbench):  # noqa: F811
        said = ddbench("run", *RANDOM, "--ipc", 500, "--ipc", 1, "--seeds", 1)
        assert said.status == 1 and "2 cells: 1 done, 1 failed" in said.out
        assert (
            "failed: ValueError: class 0 has 136 training images but ipc is 500; lower --ipc to 136"
            in said.out
        )
        said = ddbench("distill", "--method", "random", "--ipc", 500)
        assert said.status == 1 and "random failed: ValueError: class 0 has 136 training images" in said.err


class TestPictures:
    """An image folder with a fault fails as a cell, is named with its file, and the other data sets go on."""

    @pytest.mark.parametrize(
        ("changed", "text"),
        [
            ({"light_0": None}, "class 'light' has no images: "),
            ({"light_1": Image.new("L", (9, 8))}, "images of mixed sizes: "),
            ({"light_1": Image.new("RGB", (8, 8))}, "images of mixed modes: "),
            ({"light_1": b"no picture"}, "cannot read the image "),
        ],
        ids=["no images", "sizes", "modes", "unreadable"],
    )
    def test_faults_are_recorded_with_the_file(self, ddbench, tmp_path, changed, text):  # noqa: F811
        name = pictures(tmp_path / "pets", **changed)
        root = ("--data-root", tmp_path / "root")
        said = ddbench("run", *RANDOM, "--dataset", name, "--dataset", "digits", "--seeds", 2, *root)
        assert said.status == 1 and "4 cells: 2 done, 2 failed" in said.out
        (line,) = (x for x in said.out.splitlines() if x.startswith("failed: "))
        assert text in line and str(tmp_path / "pets" / "train" / "light") in line
        said = ddbench("data", "show", name, *root)
        assert said.status == 2 and text in said.err and "Traceback" not in said.err


class TestDamage:
    def cut(self, folder: str, pattern: str) -> Path:
        """The one file that fits, half of it."""
        (path,) = Path(folder).rglob(pattern)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path

    def test_a_truncated_set_is_named_by_every_command_and_force_mends_it(self, ddbench):  # noqa: F811
        arguments = ("run", *RANDOM, "--seeds", 2, "--no-boards")
        ddbench(*arguments)
        path = self.cut("runs/sets", "random-digits-1-0-*")
        for path_record in Path("runs/records").iterdir():
            path_record.unlink()
        text = f"{path} is no whole safetensors file"
        said = ddbench(*arguments)
        assert said.status == 1 and "2 cells: 1 done, 1 failed" in said.out and text in said.out
        for command in (("show", path), ("show", "runs"), ("evaluate", path)):
            said = ddbench(*command)
            assert said.status == 2 and text in said.err and "distil again" in said.err
        assert ddbench(*arguments, "--force").out == "2 cells: 2 done\n"

    def test_a_truncated_record_is_warned_of_and_made_anew(self, ddbench):  # noqa: F811
        arguments = ("run", *RANDOM, "--seeds", 2, "--no-boards")
        ddbench(*arguments)
        path = self.cut("runs/records", "random-digits-1-0-*")
        said = ddbench("board", "--json")
        assert said.status == 0 and [r["distillations"] for r in said.json["rows"]["digits"]] == [1]
        assert said.err.startswith(f"warning: record {path} can't be read (")
        assert said.err.endswith("remove it and run again to make it anew\n")
        assert ddbench(*arguments).out == "2 cells: 1 done, 1 done before\n"
        assert ddbench("board").err == ""

    def test_a_truncated_checkpoint_is_named_and_may_be_removed(self, ddbench, monkeypatch):  # noqa: F811
        arguments = ("distill", "--method", "dm", "--set", "iterations=5000", "--set", "network=ConvNetD1W32")
        said = ddbench(*arguments, "--time-budget", "0.3s")
        assert said.status == 0 and "run again to go on" in said.err and "partial: True" in said.out
        path = self.cut("runs/checkpoints", "*.safetensors")
        said = ddbench(*arguments, "--time-budget", "0.3s")
        assert said.status == 1 and f"checkpoint {path} is damaged or truncated" in said.err
        assert "remove it to start this part again" in said.err
        path.unlink()
        assert ddbench(*arguments, "--time-budget", "0.3s").status == 0

    def test_a_truncated_data_cache_fails_its_cells_and_says_how_it_is_made_anew(self, ddbench, tmp_path):  # noqa: F811
        name, root = pictures(tmp_path / "pets"), ("--data-root", tmp_path / "root")
        arguments = (
            "run",
            *RANDOM,
            "--dataset",
            name,
            "--dataset",
            "digits",
            "--seeds",
            1,
            "--no-boards",
            *root,
        )
        assert ddbench("data", "prepare", name, *root).status == 0
        self.cut(str(tmp_path / "root"), "train-images.npy")
        said = ddbench(*arguments)
        assert said.status == 1 and "2 cells: 1 done, 1 failed" in said.out
        assert "is damaged or half written (train-images.npy has " in said.out
        mend = f"ddbench data prepare {name} --force"
        assert mend in said.out
        assert ddbench(*mend.split()[1:], *root).status == 0
        assert ddbench(*arguments).out == "2 cells: 1 done, 1 done before\n"

    def test_a_truncated_teacher_fails_its_cell_by_name(self, ddbench, fresh_cache):  # noqa: F811
        settings = ("--set", "features=teacher", "--set", "network=ConvNetD1W32", "--set", "epochs=1")
        arguments = (
            "run",
            "--method",
            "herding",
            "--network",
            "MLP",
            "--repeats",
            1,
            "--seeds",
            1,
            *settings,
        )
        assert ddbench(*arguments).status == 0
        path = self.cut(str(fresh_cache), "network.safetensors")
        said = ddbench(*arguments, "--force")
        assert said.status == 1 and f"{path} is damaged or truncated" in said.out and "remove it" in said.out


class TestSuiteFile:
    def test_a_wrong_type_is_said_with_line_and_field(self, ddbench, tmp_path):  # noqa: F811
        text = "datasets: [digits]\nmethods: [random]\nipc: ten\nprotocols: [quick]\nseeds: [0, 1.5]\n"
        (tmp_path / "mine.yaml").write_text(text)
        said = ddbench("run", "--suite", "mine.yaml")
        assert said.status == 2 and said.out == ""
        assert said.err == (
            "error: mine.yaml line 3, field ipc: given 'ten' (str); expected a list, such as [1, 10]\n"
            "mine.yaml line 5, field seeds[1]: given 1.5 (float); expected a whole number\n"
        )
        assert [p.name for p in tmp_path.iterdir()] == ["mine.yaml"]


class TestDisk:
    """As root nothing is read-only, so the system call that would fail is made to."""

    def fails(self, monkeypatch: pytest.MonkeyPatch, code: int, part: str) -> None:
        """``os.replace`` to a path with this part fails as the disk would make it."""
        real = os.replace

        def replace(source: Any, target: Any) -> None:
            if part in str(target):
                raise OSError(code, os.strerror(code), str(target))
            real(source, target)

        monkeypatch.setattr(store.os, "replace", replace)

    @pytest.mark.parametrize(
        ("code", "text"),
        [
            (errno.ENOSPC, "the disk is full; free some space there"),
            (errno.EROFS, "the folder is read-only for this user; choose a folder that you may write to"),
        ],
    )
    def test_a_run_stops_with_the_path_and_keeps_what_was_recorded(self, ddbench, monkeypatch, code, text):  # noqa: F811
        arguments = ("run", *RANDOM, "--no-boards")
        ddbench(*arguments, "--seeds", 1)
        (record,) = Path("runs/records").iterdir()
        before = record.read_bytes()
        self.fails(monkeypatch, code, "records")
        said = ddbench(*arguments, "--seeds", 2, "--force")
        assert said.status == 1 and f"error: cannot write runs/records/{record.name}: {text}" in said.err
        assert "nothing that was there before is changed" in said.err
        assert record.read_bytes() == before and list(Path("runs/records").iterdir()) == [record]

    def test_a_folder_that_takes_nothing_is_told_before_anything_is_computed(self, ddbench, monkeypatch):  # noqa: F811
        self.fails(monkeypatch, errno.EROFS, ".writable")
        said = ddbench("run", *RANDOM, "--runs", "elsewhere")
        assert (
            said.status == 1
            and "error: cannot write elsewhere/.writable: the folder is read-only" in said.err
        )
        assert not list(Path("elsewhere").rglob("*.*"))

    def test_a_run_folder_that_is_a_file_is_refused(self, ddbench):  # noqa: F811
        Path("runs").write_text("mine")
        said = ddbench("run", *RANDOM)
        assert said.status == 2 and "run folder runs is a file; expected a folder" in said.err
        assert Path("runs").read_text() == "mine"

    def test_boards_that_cannot_be_written_lose_no_result(self, ddbench, monkeypatch):  # noqa: F811
        self.fails(monkeypatch, errno.ENOSPC, "leaderboards")
        said = ddbench("run", *RANDOM, "--seeds", 1)
        assert said.status == 1 and "1 cell: 1 done" in said.out
        assert "error: no boards: cannot write runs/leaderboards/digits.csv: the disk is full" in said.err
        assert "make them later: ddbench board --runs runs" in said.err
        assert len(store.RunFolder("runs").records()) == 1

    def test_a_set_that_cannot_be_copied_is_told(self, ddbench):  # noqa: F811
        Path("place").write_text("a file")
        said = ddbench("distill", "--method", "random", "--out", "place/set.safetensors")
        assert (
            said.status == 1
            and "cannot write place/set.safetensors: a file and a folder stand in each" in said.err
        )
        assert len(store.RunFolder("runs").sets()) == 1

    def test_a_picture_that_cannot_be_written_is_told(self, ddbench, monkeypatch):  # noqa: F811
        self.fails(monkeypatch, errno.ENOSPC, "digits.png")
        said = ddbench("data", "show", "digits")
        assert said.status == 1 and "error: cannot write digits.png: the disk is full" in said.err


class TestNoNetwork:
    @pytest.fixture(autouse=True)
    def tries(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """URLs that were asked for, in vain."""
        asked: list[str] = []

        def urlopen(request: Any, *_: Any, **__: Any) -> None:
            asked.append(getattr(request, "full_url", request))
            raise urllib.error.URLError("no route to host")

        monkeypatch.setattr("urllib.request.urlopen", urlopen)
        return asked

    def test_a_data_set_that_is_missing_is_recorded_and_the_others_go_on(self, ddbench, tmp_path, tries):  # noqa: F811
        root = tmp_path / "root"
        arguments = ("--dataset", "cifar10", "--dataset", "digits", "--seeds", 2, "--data-root", root)
        said = ddbench("run", *RANDOM, *arguments)
        assert said.status == 1 and "4 cells: 2 done, 2 failed" in said.out
        (line,) = (x for x in said.out.splitlines() if x.startswith("failed: "))
        assert f"cifar10 is not under {root} and could not be downloaded" in line
        assert f"put cifar-10-python.tar.gz (from https://www.cs.toronto.edu/~kriz/) into {root}" in line
        assert f"or put the pictures into {root}/cifar10/{{train,val}}/<class>/" in line
        assert len(tries) == 1  # not again for every cell
        assert "No cell of this data set has a score yet." in Path("runs/leaderboards/cifar10.md").read_text()

    def test_commands_on_data_say_which_file_goes_where(self, ddbench, tmp_path):  # noqa: F811
        for command in ("prepare", "show"):
            said = ddbench("data", command, "cifar10", "--data-root", tmp_path)
            assert said.status == 2 and "put cifar-10-python.tar.gz (from https://www.cs" in said.err
        said = ddbench("data", "prepare", "imagenette", "--data-root", tmp_path)
        assert "cannot be downloaded without an account: put the pictures into" in said.err
