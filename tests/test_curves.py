"""Traces and accuracies over time: found by key, counted over all loops, drawn for several runs at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ddbench import curves, store

HASHES = [f"{i}" * 20 for i in range(1, 9)]


def written(
    folder: Path, method: str = "dm", seed: int = 0, h: str = HASHES[0], n: int = 5, loops: int = 1
) -> str:
    """A run with a trace of ``loops`` loops of ``n`` rows; returns its key."""
    run = store.RunFolder(folder)
    key = f"{method}-digits-10-{seed}-{h}"
    rows = [
        {"loop": loop, "iteration": i, "s": 0.5 * (loop * n + i), "loss": 2.0 / (1 + loop * n + i), "aux": float(seed)}
        for loop in range(loops)
        for i in range(n)
    ]  # fmt: skip
    store.write_rows(run.trace_path(key), rows)
    return key


def scored(folder: Path, key: str, network: str = "MLP", n: int = 3) -> str:
    run = store.RunFolder(folder)
    record = f"{key.rpartition('-')[0]}-quick-{network}-{HASHES[7]}"
    rows = [
        {"iteration": 2 * i, "seconds": i + 0.25, "top1": 0.5 + 0.1 * i, "students": 2, "protocol": "quick",
         "network": network, "set": "f" * 16}
        for i in range(1, n)
    ]  # fmt: skip
    store.write_rows(run.curve_path(key, record), rows)
    return record


class TestFind:
    def test_by_beginnings_of_keys_by_files_and_all(self, tmp_path):
        a, b = written(tmp_path, "dm", 0), written(tmp_path, "dm", 1, HASHES[1])
        c = written(tmp_path, "idc", 0, HASHES[2])
        record = scored(tmp_path, a)
        scored(tmp_path, a, "ConvNet")
        run = store.RunFolder(tmp_path)
        assert [r.key for r in curves.find(run)] == [a, b, c]
        assert [r.key for r in curves.find(run, ["dm"])] == [a, b]
        assert [r.key for r in curves.find(run, [str(run.set_path(c)), b])] == [b, c]
        (one,) = curves.find(run, [str(run.record_path(record))])
        assert one.key == a and list(one.accuracy) == [("quick", "MLP")], (
            "a record names its own accuracy only"
        )
        (both,) = curves.find(run, [a])
        assert sorted(both.accuracy) == [("quick", "ConvNet"), ("quick", "MLP")]
        assert both.name == "dm digits ipc 10 seed 0" and both.group == "dm digits ipc 10"

    def test_a_name_that_fits_nothing_gets_its_neighbour(self, tmp_path):
        key = written(tmp_path, "datadam")
        with pytest.raises(
            LookupError, match=rf"is called 'datadm-digits-10-0-{HASHES[0]}'; .*nearest: {key}"
        ):
            curves.find(store.RunFolder(tmp_path), [f"datadm-digits-10-0-{HASHES[0]}"])
        with pytest.raises(LookupError, match="nothing was logged there"):
            curves.find(store.RunFolder(tmp_path / "none"), ["x"])
        assert curves.find(store.RunFolder(tmp_path / "none")) == []

    def test_runs_that_differ_in_their_settings_alone_have_names_of_their_own(self, tmp_path):
        written(tmp_path, h=HASHES[0])
        written(tmp_path, h=HASHES[1])
        names = [r.name for r in curves.find(store.RunFolder(tmp_path))]
        assert names == [f"dm digits ipc 10 seed 0 ({d * 6})" for d in "12"]


class TestTable:
    def test_iterations_count_over_all_loops_and_accuracy_is_in_percent(self, tmp_path):
        scored(tmp_path, written(tmp_path, n=3, loops=2))
        table = curves.table(curves.find(store.RunFolder(tmp_path)))
        loss = table[table["quantity"] == "loss"]
        assert loss["iteration"].tolist() == list(range(6)) and loss["loop"].tolist() == [0] * 3 + [1] * 3
        assert loss["seconds"].tolist() == [0.5 * i for i in range(6)]
        top1 = table[table["quantity"] == "top1_pct"]
        assert top1["value"].tolist() == pytest.approx([60, 70]) and top1["students"].tolist() == [2, 2]
        assert top1[["protocol", "network", "iteration", "seconds"]].values.tolist() == [
            ["quick", "MLP", 2, 1.25],
            ["quick", "MLP", 4, 2.25],
        ]

    def test_a_plot_shows_loss_and_accuracy_unless_values_are_named(self, tmp_path):
        scored(tmp_path, written(tmp_path))
        runs = curves.find(store.RunFolder(tmp_path))
        assert curves.quantities(runs) == ["loss", "top1_pct"]
        assert curves.quantities(runs, ["aux"]) == ["aux"]
        with pytest.raises(LookupError, match="no value 'los' in these traces; known: loss, aux, top1_pct"):
            curves.quantities(runs, ["los"])
        other = curves.Run("k", "k", "k", [{"loop": 0, "iteration": 0, "s": 0.0, "mmd": 1.0, "x": 2.0}])
        assert curves.quantities([other]) == ["mmd"]

    def test_the_summary_has_first_and_last_values(self, tmp_path):
        scored(tmp_path, written(tmp_path))
        (row,) = curves.summary(curves.find(store.RunFolder(tmp_path)))
        assert row == {
            "run": "dm digits ipc 10 seed 0",
            "iterations": "4",
            "seconds": "2.2",
            "trace": "loss 2 -> 0.4",
            "top-1 %": "60.0 -> 70.0 (quick MLP)",
        }


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


class TestPlots:
    def test_a_row_a_quantity_and_a_colour_a_group(self, tmp_path):
        for seed in (0, 1):
            scored(tmp_path, written(tmp_path, "dm", seed, HASHES[seed]))
        one = written(tmp_path, "idc", 0, HASHES[2], n=200)
        run = store.RunFolder(tmp_path)
        png, csv = curves.write(curves.find(run), tmp_path / "a.png")
        assert pd.read_csv(csv)["set_key"].nunique() == 3
        tall = pixels(png)
        flat = pixels(curves.plot(curves.find(run, [one]), tmp_path / "b.png"))
        assert tall.shape[0] > 1.7 * flat.shape[0]

        def share(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
            return int((np.abs(picture - np.array(colour)).sum(2) < 12).sum())

        blue, orange = (31, 119, 180), (255, 127, 14)
        assert share(tall, blue) > 500 and share(tall, orange) > 200 and share(flat, orange) == 0

    def test_a_finished_run_is_drawn_a_data_set_and_ipc_apart(self, tmp_path):
        key = written(tmp_path)
        other = f"dm-mnist-1-0-{HASHES[3]}"
        store.RunFolder(tmp_path).trace_path(key).rename(store.RunFolder(tmp_path).trace_path(other))
        key = written(tmp_path)
        made = curves.write_all(store.RunFolder(tmp_path), [key, other, "nothing-digits-1-0-x"])
        assert sorted(p.name for p in made) == ["digits-ipc10.png", "mnist-ipc1.png"]
        assert all(p.with_suffix(".csv").is_file() for p in made)
        assert curves.write_all(store.RunFolder(tmp_path), []) == []

    def test_what_cannot_be_plotted_is_said(self, tmp_path):
        with pytest.raises(ValueError, match="nothing was logged and no snapshot was scored"):
            curves.plot([], tmp_path / "a.png")
        written(tmp_path)
        with pytest.raises(ValueError, match=r"t\.pdf has the suffix '\.pdf'; expected \.png"):
            curves.plot(curves.find(store.RunFolder(tmp_path)), tmp_path / "t.pdf")

    def test_one_row_and_rows_cut_off_by_a_kill_are_drawn_as_far_as_they_go(self, tmp_path):
        key = written(tmp_path, n=1)
        path = store.RunFolder(tmp_path).trace_path(key)
        with path.open("a") as file:
            file.write('{"loop": 0, "itera')
        (run,) = curves.find(store.RunFolder(tmp_path))
        assert len(run.trace) == 1 and curves.plot([run], tmp_path / "a.png").is_file()


class TestEvents:
    def test_numbers_and_pictures_are_read_back_and_a_fresh_start_clears_the_folder(self, tmp_path):
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        Image.new("L", (5, 4), 200).save(tmp_path / "p.png")
        for value in (1.0, 2.0):
            events = curves.Events(tmp_path / "tb")
            events.number("loss", value, 7)
            events.picture("set", tmp_path / "p.png", 7)
            events.close()
        found = EventAccumulator(str(tmp_path / "tb")).Reload()
        assert [(e.step, e.value) for e in found.Scalars("loss")] == [(7, 2.0)]
        assert [(e.step, e.width, e.height) for e in found.Images("set")] == [(7, 5, 4)]

    def test_without_the_package_the_message_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        with pytest.raises(
            ImportError, match=r"--tensorboard needs the package tensorboard, .*'ddbench\[tensorboard\]'"
        ):
            curves.check_tensorboard()


def test_plots_need_no_torch(tmp_path):
    written(tmp_path)
    code = (
        "import sys, pathlib; from ddbench import curves, store; p = pathlib.Path(sys.argv[1]);"
        "curves.write(curves.find(store.RunFolder(p)), p / 'a.png'); print('torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=root
    )
    assert done.stdout.strip() == "False", done.stderr
    assert (
        json.loads((tmp_path / "traces").glob("*.jsonl").__next__().read_text().splitlines()[0])["loop"] == 0
    )
