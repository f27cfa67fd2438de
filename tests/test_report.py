"""The report page: what stands in it, that nothing in it can run or fetch, and how it behaves in a browser."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browsing
import cloup
import pytest
import torch
from browsing import keep, many, record

from ddbench import cli, data, plan, report, sets, store
from ddbench.board import make as make_boards
from ddbench.commands.common import parse_seeds
from ddbench.contract import Card, DistilledSet, Space, Targets
from ddbench.records import Cell, Score

ROOT = Path(__file__).resolve().parent.parent
EVIL = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=2>"
DIGITS = Space("input", (0.3,), (0.37,))


def shown(text: str) -> Any:
    """The document inside a page."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def a_set(
    folder: Path,
    key: str,
    *,
    method: str = "dm",
    ipc: int = 1,
    seed: int = 0,
    dataset: str = "digits",
    shape: tuple[int, int, int] = (1, 8, 8),
    classes: int = 10,
    **card: Any,
) -> None:
    rng = torch.Generator().manual_seed(seed + 7 * ipc)
    images = torch.rand((classes * ipc, *shape), generator=rng) * 2 - 1
    space = Space("input", (0.3,) * shape[0], (0.37,) * shape[0])
    card |= dict(dataset=dataset, ipc=ipc, seed=seed, classes=classes, shape=shape)
    about = Card(method=method, recipe="digits", **card)
    ids = torch.arange(classes).repeat_interleave(ipc)
    made = DistilledSet({"images": images}, Targets(ids=ids), space=space, card=about)
    sets.write(folder / "sets" / f"{key}.safetensors", made)


def with_sets(folder: Path, ipcs: tuple[int, ...] = (1, 10), seeds: int = 2) -> store.RunFolder:
    """Two methods on digits with sets, records and a trace."""
    found = []
    for method in ("dm", "random"):
        for ipc in ipcs:
            for seed in range(seeds):
                score = 0.6 + 0.01 * ipc + (method == "dm") / 10
                r = record(method, ipc=ipc, seed=seed, values=(score, score + 0.02))
                found.append(r)
                a_set(folder, r.set_key, method=method, ipc=ipc, seed=seed)
                if method == "dm":
                    rows = [
                        {"loop": 0, "iteration": i, "s": i / 10, "loss": 3 / (1 + i) + seed}
                        for i in range(400)
                    ]
                    store.write_rows(store.RunFolder(folder).trace_path(r.set_key), rows)
    return keep(folder, found)


# ------------------------------------------------------------------------------------------------ what stands in it


def test_the_page_holds_its_document_and_no_text_of_a_user_can_end_the_script(tmp_path):
    r = record(EVIL, settings={EVIL: EVIL}, notes={"a": EVIL}, protocol="quick", labels=EVIL, recipe="<!--")
    made = report.make([keep(tmp_path, [r])])
    assert shown(made.text) == made.document
    assert made.text.lower().count("</script") == 2
    inside = made.text.split('id="data">')[1].split("</script>")[0]
    assert not set("<>&") & set(inside) and inside.isascii()
    assert shown(made.text)["boards"][0]["rows"][0][2] == EVIL
    assert EVIL not in made.text and "<!--" not in made.text


def test_a_placeholder_in_a_name_is_not_filled(tmp_path):
    made = report.make([keep(tmp_path, [record("{{script}} {{data}}")])])
    assert made.text.count('"use strict"') == 1
    assert "{{script}} {{data}}" in made.text


def test_every_row_of_the_boards_stands_there_with_the_records_behind_it():
    folder = store.RunFolder(ROOT / "leaderboards")
    made = report.make([folder], images=False)
    tables = {
        (b.dataset, metric): table
        for b in make_boards(folder.records(), kinds=())
        for metric, table in {"top1": b.table, **b.others}.items()
    }
    rows = 0
    for board in made.document["boards"]:
        table = tables.pop((board["dataset"], board["metric"]))
        assert board["columns"] == list(table.columns) and len(board["rows"]) == len(table)
        for row, details in zip(board["rows"], board["details"], strict=True):
            named = dict(zip(board["columns"], row, strict=True))
            values = [v for r in details["records"] for v in r["values"]]
            assert len(details["records"]) == named["distillations"] and len(values) == named["n"]
            assert sum(values) / len(values) == pytest.approx(named["top1_pct_mean"], abs=1e-3)
            rows += 1
        for page in board.get("pages", []):
            for row, main in zip(page["rows"], page["main"], strict=True):
                if "network" in page["columns"]:
                    at = page["columns"].index("method"), board["columns"].index("method")
                    assert row[at[0]] == board["rows"][main][at[1]]
    assert rows >= 57 and not tables
    assert {p["kind"] for b in made.document["boards"] for p in b.get("pages", [])} >= {
        "uniform",
        "equal-bytes",
        "cost",
    }


def test_what_is_missing_is_null_and_a_number_is_as_recorded(tmp_path):
    one = record("dm", values=(0.123456789,), bytes=None)
    made = report.make([keep(tmp_path, [one])])
    board = shown(made.text)["boards"][0]
    row = dict(zip(board["columns"], board["rows"][0], strict=True))
    assert row["top1_pct_std"] is row["ci95_low_pct"] is row["bytes_total"] is None
    assert row["top1_pct_mean"] == 12.34568
    assert (row["rank"], row["partial"], row["comparable"]) == (1, False, False)


def test_failed_partial_and_repeated_cells_are_told(tmp_path):
    records = [
        record("dm", values=(), status="failed", reason="no memory"),
        record("dsa", status="partial", reason="time budget after 10 of 20 iterations"),
        record("random", key="old", created="2025-01-01T00:00:00+00:00", values=(0.1,)),
        record("random", key="new", created="2026-01-01T00:00:00+00:00", values=(0.9,)),
    ]
    document = report.make([keep(tmp_path, records)]).document
    board = document["boards"][0]
    assert document["overview"]["status"] == {"ok": 2, "partial": 1, "failed": 1}
    assert ["failed: no memory" in line for line in board["without_score"]] == [True]
    assert board["superseded"] == 1
    named = {row[board["columns"].index("method")]: i for i, row in enumerate(board["rows"])}
    assert board["rows"][named["dsa"]][board["columns"].index("partial")] is True
    (note,) = board["details"][named["dsa"]]["notes"]
    assert document["notes"][note] == "partial: time budget after 10 of 20 iterations"
    assert [r["key"] for r in board["details"][named["random"]]["records"]] == ["new"]


def test_other_metrics_have_boards_of_their_own(tmp_path):
    lrs = dict(
        metric="lrs", protocol="lrs", scores=[Score(metric="lrs", value=0.4, network="ConvNet", seed=0)]
    )
    document = report.make([keep(tmp_path, [record(), record(values=(0.4,), **lrs)])]).document
    assert [(b["metric"], len(b["rows"])) for b in document["boards"]] == [("top1", 1), ("lrs", 1)]
    assert document["boards"][1]["details"][0]["records"][0]["values"] == [40.0]


def test_claims_stand_beside_what_was_measured():
    rows = report.make([store.RunFolder(ROOT / "leaderboards")], images=False).document["claims"]["rows"]
    measured = [r for r in rows if "mean" in r]
    assert len(measured) >= 4 and len(rows) > len(measured)
    for r in measured:
        assert r["gap"] == pytest.approx(r["mean"] - r["claim"]["value"], abs=1e-4)
        assert r["records"] and r["verdict"] != "not run" and r["claim"]["source"]
    assert all(r["claim"]["dataset"] in ("cifar10", "digits", "mnist") for r in rows)


def test_no_records_are_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no records in .*; expected a run folder \(see: ddbench run"
    ):
        report.make([store.RunFolder(tmp_path)])


# ------------------------------------------------------------------------------------------------ the command of a row


def asked(cell: Cell) -> tuple[Any, ...]:
    d = cell.distil
    return d.method, d.dataset, d.ipc, d.seed, cell.protocol, cell.network, cell.repeats


def test_the_command_of_a_row_plans_the_very_cells_of_its_records():
    records = store.RunFolder(ROOT / "leaderboards").records()
    groups: dict[Any, list[Any]] = {}
    for r in records:
        groups.setdefault(report._key(r), []).append(r)
    assert len(groups) >= 57
    for group in groups.values():
        words = shlex.split(report.command(group))
        assert words[:2] == ["ddbench", "run"]
        command = cli.cli.commands["run"]
        given = command.make_context("run", words[2:]).params
        cells = plan.cells(
            plan.from_flags(
                methods=given["methods"],
                datasets=given["datasets"],
                ipc=given["ipcs"] or (1,),
                seeds=parse_seeds(given["seeds"]),
                protocols=given["protocols"],
                networks=given["networks"],
                repeats=given["repeats"],
                recipe=given["recipe"],
                settings=plan.parse_settings(given["settings"]),
            )
        )
        wanted = {asked(r.cell) for r in group}
        planned = {asked(c) for c in cells}
        assert planned == wanted


@pytest.mark.parametrize(
    ("seeds", "said"), [([0, 1, 2], "3"), ([0], "1"), ([7], "7,"), ([3, 7], "3,7"), ([1, 0], "2")]
)
def test_the_seeds_of_a_command_are_the_seeds_of_the_records(seeds, said):
    line = report.command([record("dm", seed=s) for s in seeds])
    assert f"--seeds {said} " in line
    asked = parse_seeds(said)
    assert sorted(range(asked) if isinstance(asked, int) else asked) == sorted(seeds)


def test_the_command_quotes_what_a_shell_would_read():
    made = {"ddbench": "0", "precision": "bf16"}
    r = record("dm", settings={"a": "x; rm -rf $HOME", "b": True}, provenance=made)
    words = shlex.split(report.command([r]))
    assert words[-6:] == ["--set", "a=x; rm -rf $HOME", "--set", "b=True", "--precision", "bf16"]


# ------------------------------------------------------------------------------------------------ traces


def test_a_long_trace_is_shown_by_means_and_extremes_of_equal_stretches():
    y = [float(i % 10) for i in range(1000)]
    line = report._stretches(list(range(1000)), [i / 2 for i in range(1000)], y, points=100)
    assert (line["n"], line["each"], len(line["y"])) == (1000, 10, 100)
    assert set(line["y"]) == {4.5} and set(line["low"]) == {0.0} and set(line["high"]) == {9.0}
    assert (line["x"][0], line["s"][0]) == (4.5, 2.25)


def test_a_short_trace_is_shown_as_it_is_without_what_is_not_finite():
    line = report._stretches([0, 1, 2], [0.1, 0.2, math.nan], [1.0, math.nan, 3.0])
    assert (line["x"], line["s"], line["y"]) == ([0, 2], [0.1, None], [1.0, 3.0])
    assert line["not_finite"] == 1 and "each" not in line and "low" not in line


def test_traces_name_their_distillation(tmp_path):
    document = report.make([with_sets(tmp_path)], images=False).document
    assert len(document["traces"]) == 4
    first = document["traces"][0]
    assert (first["method"], first["dataset"], first["lines"][0]["quantity"]) == ("dm", "digits", "loss")
    assert {(t["ipc"], t["seed"]) for t in document["traces"]} == {(1, 0), (1, 1), (10, 0), (10, 1)}


# ------------------------------------------------------------------------------------------------ images and sizes


def picture(entry: dict[str, Any]) -> Any:
    import base64
    import io

    import numpy as np
    from PIL import Image

    head, _, body = entry["png"].partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


def test_a_sheet_has_the_pixels_of_its_set_class_by_class(tmp_path):
    document = report.make([with_sets(tmp_path)]).document
    assert len(document["sets"]) == 8 and document["left_out"] == []
    sheet = next(s for s in document["sets"] if (s["method"], s["ipc"], s["seed"]) == ("dm", 10, 1))
    assert (sheet["width"], sheet["height"], sheet["columns"], sheet["total"]) == (8, 8, 10, 100)
    assert sheet["counts"] == [10] * 10 and sheet["titles"] == list("0123456789")
    stored = sets.read(tmp_path / "sets" / f"{sheet['set']}.safetensors")
    pixels = picture(sheet)
    expected = (DIGITS.to_unit(stored.tensors["images"][43]) * 255).round().to(torch.uint8)[0].numpy()
    assert (pixels[4 * 8 : 5 * 8, 3 * 8 : 4 * 8] == expected).all()
    assert sheet["scores"][0]["mean"] == pytest.approx(81.0)


def test_real_images_stand_beside_where_they_are_on_this_machine(tmp_path):
    real = report.make([with_sets(tmp_path)]).document["real"]["digits"]
    train = data.load("digits").train
    first = train.images[train.of_class(5)[2]][0].numpy()
    assert (picture(real)[5 * 8 : 6 * 8, 2 * 8 : 3 * 8] == first).all()
    assert real["total"] == 1437


def test_data_that_are_not_here_are_not_downloaded_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_: pytest.fail("loaded"))
    a_set(tmp_path, "dm-cifar10-1-0-aa", dataset="cifar10", shape=(3, 32, 32))
    a_set(tmp_path, "dm-nowhere-1-0-aa", dataset="nowhere")
    document = report.make([keep(tmp_path, [record()])]).document
    assert document["real"]["cifar10"]["reason"].startswith("cifar10 is not on this machine")
    assert document["real"]["nowhere"]["reason"].startswith("nowhere cannot be read: no data set 'nowhere'")
    assert len(document["sets"]) == 2


def test_a_set_that_cannot_be_drawn_is_left_out_with_the_reason(tmp_path):
    run = with_sets(tmp_path, ipcs=(1,), seeds=1)
    first, second = run.sets()
    first.write_bytes(second.read_bytes()[:-100])
    a_set(tmp_path, "full", method="full")
    made = report.make([run])
    assert len(made.document["sets"]) == 1
    assert len(made.left_out) == 2
    (line,) = (line for line in made.left_out if line.startswith(f"images of {first.stem}: "))
    assert "is no whole safetensors file" in line
    assert "images of full: is the whole data set" in made.left_out


def test_large_images_are_made_smaller_and_a_sheet_stays_in_its_bounds(tmp_path):
    a_set(tmp_path, "big", dataset="nowhere", shape=(3, 224, 192), ipc=2, classes=30)
    (sheet,) = report.make([keep(tmp_path, [record()])]).document["sets"]
    assert (sheet["height"], sheet["width"]) == (96, 82)
    height, width, _ = picture(sheet).shape
    assert height * width <= report.SHEET_PIXELS
    assert sheet["counts"] == [1] * 30 and sheet["total"] == 60
    for side in (1, 8, 28, 32, 64, 224, 1024):
        per_class, classes = report._shape_of_sheet(side, side)
        assert 1 <= per_class <= report.COLUMNS and 1 <= classes <= report.CLASSES
        assert per_class * classes * min(side, report.SIDE) ** 2 <= report.SHEET_PIXELS


def test_a_page_keeps_its_size_and_first_seeds_come_first(tmp_path):
    run = with_sets(tmp_path)
    bare = len(report.make([run], images=False).text)
    room = (len(report.make([run]).text) - bare) // 2 + 4096
    made = report.make([run], max_bytes=bare + room)
    assert bare < len(made.text) <= bare + room
    drawn = [s["seed"] for s in made.document["sets"]]
    assert 0 < len(drawn) < 8 and drawn.count(0) > drawn.count(1)
    (line,) = made.left_out
    assert line.endswith("did not fit into the page")
    few = report.make([run], max_bytes=bare - 500)
    assert few.document["traces"] == [] and few.left_out[0].startswith(
        "traces of 4 distillations: they did not"
    )


def test_a_page_that_cannot_hold_its_tables_is_an_error(tmp_path):
    with pytest.raises(
        report.TooLargeError, match=r"tables of 1 records take .* kB .* 10.0 kB; raise --max-size"
    ):
        report.make([keep(tmp_path, [record()])], max_bytes=10_000)


def test_without_images_torch_is_not_imported(tmp_path):
    code = (
        "import sys; from ddbench import report, store\n"
        "made = report.make([store.RunFolder(sys.argv[1])], images=False)\n"
        "assert made.left_out == ['images of all sets: they were not asked for'], made.left_out\n"
        "assert 'torch' not in sys.modules\n"
    )
    with_sets(tmp_path, ipcs=(1,), seeds=1)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------ the files of the page


def test_the_page_names_nothing_outside_itself_and_its_policy_allows_nothing_else(tmp_path):
    made = report.make([keep(tmp_path, [record()])])
    template = (report.PAGE / "page.html").read_text(encoding="utf-8")
    assert [
        a for a in re.findall(r'(?:src|href)="([^"]*)"', template) if not a.startswith(("#", "data:"))
    ] == []
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', made.text)
    assert (
        policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-") and "unsafe" not in policy
    )
    for name in ("page.css", "page.js"):
        text = (report.PAGE / name).read_text(encoding="utf-8")
        assert f"'{report._policy_hash(text)}'" in policy and text in made.text
        assert not re.search(r"https?://(?!www\.w3\.org)|url\(|@import", text)


def test_the_script_only_ever_sets_text():
    script = (report.PAGE / "page.js").read_text(encoding="utf-8")
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "fetch(",
        "XMLHttpRequest",
        "import(",
        "DOMParser",
        "</script",
        "<!--",
    ):
        assert word not in script, word


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_marks_stand_out_from_the_paper_in_both_themes(theme):
    style = (report.PAGE / "page.css").read_text(encoding="utf-8")
    pairs = re.findall(r"--([a-z0-9]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", style)
    colours = {name: both[theme] for name, *both in pairs}
    for name in ("ink", "quiet", "accent", "good", "bad", "odd"):
        assert min(contrast(colours[name], colours[b]) for b in ("paper", "sheet", "wash")) >= 4.5, name
    marks = [name for name in colours if re.fullmatch(r"m\d", name)]
    assert len(marks) == 9
    for name in [*marks, "floor"]:
        assert contrast(colours[name], colours["paper"]) >= 3, name


# ------------------------------------------------------------------------------------------------ the command


def test_the_command_writes_the_page_and_says_what_is_in_it(tmp_path, capfd):
    with_sets(tmp_path / "runs", ipcs=(1,))
    words = ["report", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--json"]
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 0
    said = json.loads(capfd.readouterr().out)
    page = tmp_path / "out" / "index.html"
    assert said["page"] == str(page) and said["bytes"] == page.stat().st_size
    assert (said["records"], said["rows"], said["sets"], said["traces"]) == (4, 2, 4, 2)
    assert said["left_out"] == [] and [p.name for p in page.parent.iterdir()] == ["index.html"]


def test_the_command_says_what_was_left_out(tmp_path, capfd):
    with_sets(tmp_path, ipcs=(1,))
    with pytest.raises(SystemExit) as end:
        cli.main(["report", "--runs", str(tmp_path), "--out", str(tmp_path / "out"), "--no-images"])
    out = capfd.readouterr().out
    assert end.value.code == 0
    assert out.startswith("left out: images of all sets: they were not asked for\n4 records, 2 rows, 0 sets")


def test_records_without_set_files_say_so_and_show_no_images(tmp_path):
    made = report.make([keep(tmp_path / "bare", [record()])])
    assert made.document["overview"]["set_files"] == 0 and made.document["sets"] == []
    assert made.left_out == [f"images: no set files in {tmp_path / 'bare'}"]
    whole = report.make([with_sets(tmp_path / "whole", ipcs=(1,))])
    assert whole.document["overview"]["set_files"] == 4 and whole.left_out == []


def test_a_size_that_is_none_is_refused(tmp_path, capfd):
    keep(tmp_path, [record()])
    with pytest.raises(SystemExit) as end:
        cli.main(["report", "--runs", str(tmp_path), "--max-size", "big"])
    assert end.value.code == 2
    assert "--max-size: size is 'big'; expected a number" in capfd.readouterr().err


def test_the_command_stands_in_the_program():
    command = cli.cli.commands["report"]
    assert isinstance(command, cloup.Command) and "ddbench report --runs runs" in (command.epilog or "")


# ------------------------------------------------------------------------------------------------ in a browser


class Browser:
    """A page in Chromium, with what its tests do to it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path) -> None:
        browsing.requests(self.driver)
        self.driver.get_log("browser")
        self.driver.get(path.as_uri())

    def js(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def one(self, css: str) -> Any:
        return self.driver.find_element("css selector", css)

    def all(self, css: str) -> list[Any]:
        return self.driver.find_elements("css selector", css)

    def click(self, css: str) -> None:
        element = self.one(css)
        self.js("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        element.click()

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def focus(self, css: str) -> None:
        self.js("document.querySelector(arguments[0]).focus()", css)

    def focused(self) -> str:
        return self.js(
            "const a = document.activeElement; return a.id || a.getAttribute('data-set') || a.textContent"
        )

    def column(self, title: str, section: str = "#digits") -> list[str]:
        """The texts of one column of the board, as shown."""
        self.wait("return !document.querySelector('table[aria-busy]')")
        return self.js(
            "const t = document.querySelector(arguments[0] + ' .box table');"
            "const at = [...t.tHead.rows[0].cells].findIndex((c) => c.textContent === arguments[1]);"
            "const rows = [...t.tBodies[0].rows].filter((r) => !r.classList.contains('more'));"
            "return rows.map((r) => r.cells[at].textContent.trim())",
            section,
            title,
        )

    def header(self, title: str, section: str = "#digits") -> Any:
        return next(e for e in self.all(f"{section} .box thead th") if e.text.lstrip("▲▼\xa0") == title)

    def sort(self, title: str, section: str = "#digits") -> None:
        button = self.header(title, section).find_element("css selector", "button")
        self.js("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button)
        button.click()

    def press_choice(self, text: str, section: str = "#digits") -> None:
        button = next(b for b in self.all(f"{section} .choice button") if b.text == text)
        self.js("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button)
        button.click()

    def choose(self, label: str, value: str, section: str = "#digits") -> None:
        """An option of a drop-down list."""
        self.js(
            "const labels = [...document.querySelectorAll(arguments[0] + ' label')];"
            "const s = labels.find((l) => l.textContent.startsWith(arguments[1])).querySelector('select');"
            "s.value = arguments[2]; s.dispatchEvent(new Event('change'))",
            section,
            label,
            value,
        )

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def wait(self, code: str) -> Any:
        for _ in range(100):
            if found := self.js(code):
                return found
            time.sleep(0.05)
        raise AssertionError(f"never true: {code}")


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with browsing.chromium() as made:
        yield made


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods with sets and traces, others under two protocols, a data set of one row, evil names."""
    folder = tmp_path_factory.mktemp("report")
    with_sets(folder / "runs")
    more = [
        record(m, ipc=ipc, seed=s, protocol=p, values=(0.3 + i / 20 + s / 50 + ipc / 200,) * 2)
        for i, m in enumerate(("dsa", "mtt", "idc"))
        for ipc in (1, 10)
        for s in range(3)
        for p in ("quick", "dc-dsa")
    ]
    more += [
        record(EVIL, ipc=1, values=(0.2,), protocol=f"z{EVIL}", settings={EVIL: EVIL}, notes={"n": EVIL})
    ]
    more += [record("dm", dataset="mnist", protocol="dc-dsa", values=(0.88, 0.89))]
    keep(folder / "more", more)
    made = report.make([store.RunFolder(folder / "runs"), store.RunFolder(folder / "more")])
    return report.write(made, folder / "out")


@pytest.fixture
def browser(driver: Any, page: Path) -> Iterator[Browser]:
    made = Browser(driver)
    browsing.window(driver, 1280)
    browsing.scheme(driver, "light")
    made.open(page)
    made.js("localStorage.clear()")
    yield made
    assert made.errors() == []
    asked = browsing.requests(driver)
    assert [a for a in asked if not a.startswith(("file:", "data:"))] == []
    assert [a for a in asked if a.startswith("file:") and not a.startswith(page.as_uri())] == []


@pytest.mark.browser
class TestInABrowser:
    def test_a_click_on_a_column_sorts_it_and_says_so(self, browser):
        before = browser.column("Method")
        assert browser.header("Top-1, %").get_attribute("aria-sort") == "none"
        browser.sort("Top-1, %")
        assert browser.header("Top-1, %").get_attribute("aria-sort") == "descending"
        numbers = [float(t.split()[0]) for t in browser.column("Top-1, %")]
        assert numbers == sorted(numbers, reverse=True) and len(set(numbers)) > 4
        browser.sort("Top-1, %")
        assert browser.header("Top-1, %").get_attribute("aria-sort") == "ascending"
        assert [float(t.split()[0]) for t in browser.column("Top-1, %")] == sorted(numbers)
        browser.sort("Top-1, %")  # the third time: the order of the board
        assert browser.header("Top-1, %").get_attribute("aria-sort") == "none"
        assert browser.column("Method") == before
        browser.sort("Method")
        assert browser.column("Method") == sorted(before, key=str.lower)

    def test_a_column_is_sorted_by_the_keyboard_and_what_is_missing_stays_last(self, browser):
        from selenium.webdriver.common.keys import Keys

        button = browser.header("vs random").find_element("css selector", "button")
        browser.js("arguments[0].focus()", button)
        browser.press(Keys.ENTER)
        assert browser.header("vs random").get_attribute("aria-sort") == "descending"
        found = browser.column("vs random")
        assert found[-1] == "–" and found[0].startswith("+")
        browser.press(Keys.SPACE)
        assert browser.header("vs random").get_attribute("aria-sort") == "ascending"
        again = browser.column("vs random")
        assert again[-1] == "–" and again[0].startswith("−")

    def test_rows_are_filtered_by_text_and_by_protocol(self, browser):
        everything = len(browser.column("Method"))
        browser.one("#digits input[type=search]").send_keys("dsa")
        # the names of protocols count, too: dc-dsa
        assert set(browser.column("Method")) == {"dsa", "mtt", "idc"}
        n = len(browser.column("Method"))
        assert browser.one("#digits output.said").text == f"{n} of {everything} rows" and n < everything
        browser.one("#digits input[type=search]").send_keys(" idc")
        assert set(browser.column("Method")) == {"idc"}
        from selenium.webdriver.common.keys import Keys

        browser.one("#digits input[type=search]").send_keys(Keys.ESCAPE)
        assert len(browser.column("Method")) == everything
        browser.choose("Protocol", "dc-dsa")
        assert {t.split()[0] for t in browser.column("Protocol")} == {"dc-dsa"}
        assert len(browser.column("Protocol")) == 6

    def test_protocols_of_our_own_are_flagged_in_plots_and_rows(self, browser):
        captions = [e.text for e in browser.all("#digits .panels figcaption")]
        assert any("quick 1.0" in c and "not comparable with published numbers" in c for c in captions)
        assert not any("dc-dsa" in c and "not comparable" in c for c in captions)
        marked = {t.split()[0] for t in browser.column("Protocol") if "†" in t}
        assert "quick" in marked and "dc-dsa" not in marked

    def test_details_show_provenance_and_a_command_that_is_copied(self, browser):
        opener = browser.one("#digits .open")
        assert opener.get_attribute("aria-expanded") == "false"
        browser.click("#digits .open")
        assert opener.get_attribute("aria-expanded") == "true"
        detail = browser.one("#digits .detail").text
        words = (
            "ddbench run --method",
            "revision",
            "a" * 40,
            "threads",
            "precision",
            "fp32",
            "engine",
            "d" * 16,
        )
        for word in words:
            assert word in detail, word
        copy = browser.one("#digits .command button")
        copy.click()
        browser.wait("return document.querySelector('#digits .command button').textContent !== 'Copy'")
        assert copy.text in ("Copied", "Select it and copy")
        browser.sort("Method")  # an open row keeps its details with it
        assert len(browser.all("#digits .detail")) == 1
        browser.click("#digits .open[aria-expanded=true]")
        assert browser.all("#digits .detail") == []

    def test_the_other_boards_are_shown_instead(self, browser):
        browser.press_choice("Equal bytes")
        within = browser.column("Within")
        assert set(within) <= {"10 kB", "100 kB", "1 MB", "10 MB"} and "10 kB" in within
        browser.press_choice("Cost")
        assert len(browser.column("Unbeaten in")) > 4
        browser.press_choice("Every column")
        assert len(browser.column("top1_pct_mean")) == len(browser.column("data_fingerprint")) > 10
        browser.press_choice("All")
        assert len(browser.column("95 % interval")) > 10

    def test_the_images_of_a_set_open_by_mouse_and_escape_brings_the_focus_back(self, browser):
        from selenium.webdriver.common.keys import Keys

        button = browser.all("#digits .gallery button")[1]
        key = button.get_attribute("data-set")
        browser.js("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button)
        button.click()
        assert browser.js("return document.getElementById('viewer').open")
        assert browser.one("#viewer-title").text == "dm, digits, ipc 1, seed 1"
        assert [e.text.split("\n")[0] for e in browser.all("#viewer figcaption")] == ["Distilled", "Real"]
        drawn = (
            "const c = document.querySelector('#viewer canvas');"
            "const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
            "return data.some((v, i) => i % 4 < 3 && v > 100)"
        )
        browser.wait(drawn)
        assert browser.one("#viewer canvas").get_attribute("aria-label") == "Distilled. all 10 images"
        browser.press(Keys.ESCAPE)
        assert not browser.js("return document.getElementById('viewer').open")
        assert browser.focused() == key

    def test_the_viewer_is_walked_through_by_the_keyboard(self, browser):
        from selenium.webdriver.common.keys import Keys

        browser.focus("#digits .gallery button")
        first = browser.focused()
        browser.press(Keys.ENTER)
        title = browser.one("#viewer-title")
        assert title.text == "dm, digits, ipc 1, seed 0"
        assert browser.one("#viewer-place").text == "1 of 8"
        browser.press(Keys.ARROW_RIGHT)
        assert title.text == "dm, digits, ipc 1, seed 1"
        browser.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
        assert browser.one("#viewer-place").text == "8 of 8"
        browser.press(Keys.HOME, Keys.ARROW_DOWN)
        assert title.text == "dm, digits, ipc 10, seed 0"
        browser.press(Keys.ARROW_DOWN)  # there is no larger ipc
        assert title.text == "dm, digits, ipc 10, seed 0"
        for _ in range(8):
            browser.press(Keys.TAB)
            inside = browser.js(
                "const a = document.activeElement;"
                "return a === document.body || document.getElementById('viewer').contains(a)"
            )
            assert inside, "the focus stays in the dialog"
        browser.press(Keys.ESCAPE)
        assert browser.focused() == first

    def test_a_row_opens_the_images_of_its_sets(self, browser):
        from selenium.webdriver.common.keys import Keys

        browser.click("#digits .box td button.link")
        assert browser.js("return document.getElementById('viewer').open")
        browser.press(Keys.ESCAPE)
        assert browser.focused() == "view"

    def test_the_theme_follows_the_system_until_it_is_chosen_and_is_kept(self, browser, page):
        paper = "return getComputedStyle(document.body).backgroundColor"
        light = browser.js(paper)
        browsing.scheme(browser.driver, "dark")
        dark = browser.wait(f"{paper} !== '{light}' && getComputedStyle(document.body).backgroundColor")
        browser.wait("return document.querySelector('#theme').textContent.trim() === 'Light'")
        browser.click("#theme")
        assert browser.js(paper) == light and browser.one("#theme").text == "Dark"
        browser.open(page)
        assert browser.js(paper) == light
        browser.click("#theme")
        assert browser.js(paper) == dark

    def test_plots_say_their_values_to_mouse_and_keyboard_and_methods_are_toggled(self, browser):
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        browser.wait("return document.querySelector('#digits svg.plot path[transform]')")
        browser.focus("#digits svg.plot")
        browser.press(Keys.ARROW_RIGHT)
        first = browser.one("#tip").text
        assert re.search(r"\d+\.\d %", first) and (
            "95 % interval" in first or "no interval: one set" in first
        )
        browser.press(Keys.ARROW_RIGHT)
        assert browser.one("#tip").text != first
        browser.press(Keys.ESCAPE)
        assert not browser.one("#tip").is_displayed()
        mark = browser.one("#digits svg.plot path[transform]")
        browser.js("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", mark)
        time.sleep(0.1)
        ActionChains(browser.driver).move_to_element(mark).perform()
        assert browser.one("#tip").is_displayed()
        count = "return document.querySelectorAll('#digits svg.plot path[transform]').length"
        before = browser.js(count)
        toggle = next(b for b in browser.all("#digits .legend button") if b.text == "dsa")
        browser.js("arguments[0].click()", toggle)
        assert toggle.get_attribute("aria-pressed") == "false"
        assert browser.js(count) < before
        browser.js("arguments[0].click()", toggle)
        assert browser.js(count) == before
        for text in ("by ipc", "by bytes", "by time"):
            browser.press_choice(text)
            assert browser.js(count) > 8, text

    def test_labels_beside_lines_do_not_overlap_and_no_text_leaves_its_plot(self, browser):
        for text in ("by method", "by ipc", "by bytes", "by time"):
            browser.press_choice(text)
            overlapping = browser.js("""
                const found = [];
                for (const svg of document.querySelectorAll('svg.plot')) {
                  const all = svg.getBoundingClientRect();
                  const boxes = [...svg.querySelectorAll('text')].map((t) => [t.textContent, t.getBoundingClientRect()]);
                  for (const [name, b] of boxes)
                    if (b.left < all.left - 2 || b.right > all.right + 2) found.push(`${name} leaves`);
                  for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
                    const [a, b] = [boxes[i][1], boxes[j][1]];
                    const w = Math.min(a.right, b.right) - Math.max(a.left, b.left);
                    const h = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
                    if (w > 1 && h > 4) found.push(`${boxes[i][0]} on ${boxes[j][0]}`);
                  }
                }
                return found;""")
            assert overlapping == [], (text, overlapping)

    def test_thirty_methods_are_thirty_pairs_of_colour_and_shape(self, driver, tmp_path):
        made = report.make([keep(tmp_path, [record(f"m{i:02d}", values=(0.1 + i / 50,)) for i in range(30)])])
        driver.get(report.write(made, tmp_path / "out").as_uri())
        looks = driver.execute_script(
            "const paths = [...document.querySelectorAll('#digits .legend path')];"
            "return paths.map((p) => p.getAttribute('fill') + p.getAttribute('d'))"
        )
        assert len(looks) == len(set(looks)) == 30

    @pytest.mark.parametrize("width", [375, 320])
    def test_a_phone_scrolls_tables_in_their_box_and_never_the_page(self, browser, page, width):
        browsing.window(browser.driver, width, 812)
        browser.open(page)
        overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert browser.js(overflow) <= 0
        for css in ("#digits .open", "#claims .open"):
            if browser.all(css):
                browser.click(css)
                assert browser.js(overflow) <= 0, css
        assert browser.js(
            "const b = document.querySelector('#digits .box');"
            "return b.scrollWidth > b.clientWidth && getComputedStyle(b).overflowX !== 'visible'"
        )
        browser.wait("return document.querySelector('#digits .edge.more-right') !== null")
        browser.js("document.querySelector('#digits .box').scrollLeft = 1e6")
        browser.wait("return document.querySelector('#digits .edge').className === 'edge more-left'")
        assert (
            browser.js("const n = document.querySelector('nav'); return n.scrollWidth - n.clientWidth") <= 0
        )
        browser.click("#digits .gallery button")
        assert (
            browser.js(
                "const s = document.getElementById('viewer-sheets'); return s.scrollWidth - s.clientWidth"
            )
            <= 0
        )

    def test_names_are_text_wherever_they_stand(self, browser):
        assert EVIL in browser.column("Method")
        for opener in browser.all("#digits .open"):
            browser.js("arguments[0].click()", opener)
        browser.press_choice("Every column")
        for opener in browser.all("#digits .open"):
            browser.js("arguments[0].click()", opener)
        assert EVIL in browser.one("#digits").text
        assert browser.js("return window.hacked") is None
        assert browser.js("return document.querySelectorAll('img').length") == 0

    def test_the_page_has_captions_landmarks_names_and_a_skip_link(self, browser):
        from selenium.webdriver.common.keys import Keys

        nameless = browser.js("""
            return [...document.querySelectorAll('button, select, input, a, [tabindex="0"]')].filter((e) => {
              const label = e.closest('label');
              return !(e.getAttribute('aria-label') || e.textContent.trim() || (label && label.textContent.trim()));
            }).map((e) => e.outerHTML.slice(0, 120));""")
        assert nameless == []
        assert browser.js(
            "const all = [...document.querySelectorAll('main .box table')];"
            "return all.every((t) => t.caption && t.caption.textContent)"
        )
        ids = browser.js("return [...document.querySelectorAll('[id]')].map((e) => e.id)")
        assert len(ids) == len(set(ids))
        browser.press(Keys.TAB)
        assert browser.focused() == "Skip to the content"
        browser.press(Keys.ENTER)
        assert browser.focused() == "main"
        ring = browser.js(
            "const b = document.querySelector('#theme'); b.focus({focusVisible: true});"
            "return getComputedStyle(b).outlineStyle"
        )
        assert ring == "solid"

    def test_claims_are_filtered_by_verdict(self, browser):
        rows = "return document.querySelectorAll('#claims tbody tr').length"
        browser.wait("return !document.querySelector('table[aria-busy]')")
        browser.choose("Verdict", "not run", "#claims")
        assert browser.js(rows) > 3
        assert {t.split(maxsplit=1)[1] for t in browser.column("Verdict", "#claims")} == {"not run"}
        browser.choose("Verdict", "reproduced", "#claims")
        assert browser.js(rows) == 0

    def test_five_hundred_rows_sort(self, driver, tmp_path):
        made = report.make([keep(tmp_path, many(500, seeds=2))], images=False)
        browser = Browser(driver)
        browsing.window(driver, 1280)
        browser.open(report.write(made, tmp_path / "out"))
        assert len(browser.column("Method")) == 500
        browser.sort("Top-1, %")
        numbers = [float(t.split()[0]) for t in browser.column("Top-1, %")]
        assert numbers == sorted(numbers, reverse=True)
        assert browser.errors() == []
