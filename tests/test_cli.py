"""The command line as a user meets it: what is printed where, files, exit statuses; digits and one MLP, in seconds."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import Ddbench, Said, program
from PIL import Image

from ddbench import cli, executors, registry, store
from ddbench.commands import common, evaluate
from ddbench.records import Bytes

ROOT = Path(__file__).resolve().parent.parent
RANDOM = ("--method", "random", "--network", "MLP", "--repeats", "1", "--device", "cpu")


@pytest.fixture
def ddbench(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ddbench]:
    """Runs a command in an empty folder.  Outputs are those of the process: what a library prints is seen, too."""
    monkeypatch.chdir(tmp_path)
    before = dict(registry._added)

    yield program(capfd)
    registry._added.clear()
    registry._added.update(before)


def plugin(folder: Path, name: str, body: str) -> Path:
    """A method of one's own whose ``distill`` has this body."""
    head = f'''
        """A method of the tests."""
        from dataclasses import dataclass
        import torch
        from ddbench.contract import DistilledSet, Task
        from ddbench.registry import method

        @method(family="made up", labels="hard")
        @dataclass(frozen=True)
        class M{name.title().replace("_", "")}:
            shift: int = 0
            """Where in each class to begin (count)."""

            def distill(self, task: Task) -> DistilledSet:
    '''
    path = folder / f"{name}.py"
    path.write_text(textwrap.dedent(head).rstrip() + "\n" + textwrap.indent(body, " " * 8))
    return path


FIRST = """\
keep = [task.train.of_class(c)[self.shift : self.shift + task.ipc] for c in range(task.train.classes)]
return task.distilled(subset=torch.cat(keep))
"""


# ------------------------------------------------------------------------------------------------ help


def commands(group: Any = cli.cli, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found = [(path, group)]
    for name, command in getattr(group, "commands", {}).items():
        found += commands(command, (*path, name))
    return found


def test_the_commands_are_those_of_the_documents():
    assert {" ".join(path) for path, _ in commands()} == {
        *("", "run", "distill", "evaluate", "board", "trace", "list", "show", "doctor", "new-method"),
        *("claims", "reproduce", "import", "export"),
        *("data", "data list", "data prepare", "data show", "cache", "cache list", "cache prune"),
        *("experts", "experts list", "experts make", "experts remove"),
        *("teachers", "teachers list", "teachers train", "teachers evaluate", "teachers remove"),
        *("labels", "labels list", "labels check", "labels make", "labels import-fkd"),
        *("verify", "compare", "leaks"),
        "report",
    }


@pytest.mark.parametrize(("path", "command"), commands(), ids=[" ".join(p) or "-" for p, _ in commands()])
class TestHelp:
    def test_it_ends_with_an_example_of_this_command_that_can_be_pasted(self, ddbench, path, command):
        said = ddbench(*path, "--help")
        assert said.status == 0 and not said.err
        head, _, examples = re.split(r"\n(examples?):\n", said.out)
        lines = examples.strip().splitlines()
        assert head.strip() and lines
        for line in lines:
            words = shlex.split(line)
            assert words[: 1 + len(path)] == ["ddbench", *path]
            called = command
            for word in words[1 + len(path) :]:
                called = getattr(called, "commands", {}).get(word, called)
            known = [name for p in called.params for name in (*p.opts, *p.secondary_opts)]
            assert not [w for w in words if w.startswith("--") and w not in known]

    def test_every_option_says_what_it_does(self, path, command):
        assert not [p.name for p in command.params if not getattr(p, "help", None)]

    def test_lists_of_commands_are_not_cut_off(self, ddbench, path, command):
        shown = ddbench(*path, "--help").out
        for repeated in ("SETS...", "[NAMES]...", "[ARGS]...", "[FINGERPRINTS]..."):
            shown = shown.replace(repeated, "")
        assert "..." not in shown


def test_a_wrong_command_or_option_gets_its_neighbour(ddbench):
    said = ddbench("runn")
    assert said.status == 2 and "No such command 'runn'" in said.err
    said = ddbench("run", "--metod", "random")
    assert said.status == 2 and "No such option" in said.err and "--method" in said.err
    said = ddbench("list", "method")
    assert said.status == 2 and "Invalid value for 'KIND': 'method' is not one of 'methods'," in said.err


def test_the_version_is_that_of_the_package(ddbench):
    import ddbench as package

    assert ddbench("--version").out.strip().endswith(package.__version__)


# ------------------------------------------------------------------------------------------------ list


class TestList:
    @pytest.mark.parametrize(
        ("kind", "name"),
        [
            ("methods", "random"),
            ("datasets", "digits"),
            ("networks", "ConvNet"),
            ("protocols", "dc-dsa"),
            ("recipes", "authors"),
            ("settings", "iterations"),
            ("suites", "embedded"),
        ],
    )
    def test_every_kind_is_listed_for_people_and_for_scripts(self, ddbench, kind, name):
        people, script = ddbench("list", kind), ddbench("list", kind, "--json")
        assert people.status == script.status == 0 and not people.err and not script.err
        assert name in people.out.split()
        assert any(name in row.values() for row in script.json)

    def test_recipes_and_settings_of_one_method(self, ddbench):
        for kind in ("recipes", "settings"):
            rows = ddbench("list", kind, "--method", "dm", "--json").json
            assert rows and {row["method"] for row in rows} == {"dm"}
        assert "SGD momentum" in ddbench("list", "settings", "--method", "dm").out
        assert ddbench("list", "recipes", "--method", "random").out.strip() == "(none)"

    def test_a_method_is_no_filter_of_other_listings(self, ddbench):
        said = ddbench("list", "networks", "--method", "dm")
        assert said.status == 2
        assert said.err == "error: --method dm goes with recipes and settings; expected none with networks\n"

    def test_a_plugin_of_ones_own_is_listed(self, ddbench, tmp_path):
        path = plugin(tmp_path, "cli_listed", FIRST)
        assert "cli_listed" in ddbench("list", "methods", "--plugin", path).out
        assert "Where in each class to begin" in ddbench(
            "list", "settings", "--method", "cli_listed", "--plugin", path
        ).out  # fmt: skip

    def test_listing_methods_imports_no_torch(self, tmp_path):
        code = (
            "import sys\nfrom ddbench.cli import main\n"
            "try:\n    main(['list', 'methods'])\nfinally:\n"
            "    print(sorted(m for m in ('torch', 'pandas', 'timm', 'kornia') if m in sys.modules), file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0 and done.stderr.strip() == "[]" and "herding" in done.stdout


# ------------------------------------------------------------------------------------------------ run


class TestRun:
    def test_boards_of_a_run_of_ones_own_stay_inside_its_run_folder(self, ddbench):
        said = ddbench("run", *RANDOM, "--seeds", 1)
        assert said.status == 0 and "boards in runs/leaderboards: " in said.out
        assert "sets and records go to runs, boards to runs/leaderboards\n" in said.err
        assert Path("runs/leaderboards/digits.csv").is_file() and not Path("leaderboards").exists()

    @pytest.mark.parametrize(
        ("flags", "target"),
        [
            ((), "leaderboards"),
            (("--suite", "embedded"), "leaderboards"),
            (("--seeds", 1), "runs/leaderboards"),
            (("--precision", "bf16"), "runs/leaderboards"),
            (("--runs", "mine"), "mine/leaderboards"),
            (("--seeds", 1, "--boards", "there"), "there"),
        ],
    )
    def test_only_the_embedded_suite_as_it_is_writes_leaderboards(self, ddbench, monkeypatch, flags, target):
        def stop(*_, **__):
            raise ValueError("far enough")

        monkeypatch.setattr("ddbench.commands.run.run_cells", stop)
        said = ddbench("run", *flags)
        assert f", boards to {target}\n" in said.err and "far enough" in said.err

    def test_it_records_scores_and_writes_boards(self, ddbench, tmp_path):
        said = ddbench("run", *RANDOM, "--ipc", 1, "--seeds", 2)
        assert said.status == 0
        assert "digits: quick 1.0, MLP (not comparable with published numbers)" in said.out
        assert "2 cells: 2 done" in said.out
        for name in (
            "digits.csv",
            "digits.md",
            "digits-ipc.png",
            "digits-bytes.png",
            "digits-cost.md",
            "README.md",
        ):
            assert (tmp_path / "runs/leaderboards" / name).is_file()
        assert re.search(r"^boards in runs/leaderboards: \d+ pages, \d tables and \d plots; begin with "
                         r"runs/leaderboards/README.md$", said.out, re.MULTILINE)  # fmt: skip
        assert "digits-ipc.png" not in said.out
        assert len(store.RunFolder("runs").records()) == len(store.RunFolder("runs").sets()) == 2
        assert not list(Path("runs/locks").glob("*"))  # nobody holds them any more

    def test_a_run_folder_of_ones_own_holds_its_boards(self, ddbench):
        said = ddbench("run", *RANDOM, "--seeds", 1, "--runs", "mine")
        assert said.status == 0 and "boards in mine/leaderboards: " in said.out
        assert not Path("leaderboards").exists()

    def test_progress_on_no_terminal_is_one_line_a_cell(self, ddbench):
        said = ddbench("run", *RANDOM, "--seeds", 2, "--no-boards")
        first, *lines = said.err.splitlines()
        assert first == "2 cells; sets and records go to runs"
        assert [re.sub(r"\d+\.\d %$", "N %", line) for line in lines] == [
            f"random digits ipc 1 seed {s} quick MLP: N %" for s in (0, 1)
        ]
        assert "\r" not in said.err and not Path("leaderboards").exists()

    def test_quiet_prints_results_only(self, ddbench):
        said = ddbench("run", *RANDOM, "--seeds", 1, "--quiet")
        assert said.err == "" and "1 cell: 1 done" in said.out

    def test_json_is_one_document_whatever_a_method_prints(self, ddbench, tmp_path):
        path = plugin(tmp_path, "cli_prints", 'print("look at me")\n' + FIRST)
        arguments = ("--plugin", path, "--network", "MLP", "--repeats", 1, "--seeds", 1, "--json")
        said = ddbench("run", "--method", "cli_prints", *arguments)
        assert said.status == 0 and said.err == "look at me\n"
        document = said.json
        assert document["exit_status"] == 0 and "runs/leaderboards/digits.csv" in document["boards"]
        (cell,) = document["cells"]
        assert cell["status"] == "ok" and cell["cell"]["distil"]["method"] == "cli_prints"
        assert 0 <= cell["record"]["scores"][0]["value"] <= 1

    def test_what_is_done_is_not_done_again_unless_forced(self, ddbench):
        arguments = ("run", *RANDOM, "--seeds", 1, "--json", "--no-boards")

        def statuses(*more: str) -> list[str]:
            return [c["status"] for c in ddbench(*arguments, *more).json["cells"]]

        assert statuses() == ["ok"]
        (record,) = Path("runs/records").glob("*.json")
        before = record.stat().st_mtime_ns
        assert statuses() == statuses("--only-missing") == ["cached"]
        assert record.stat().st_mtime_ns == before
        assert statuses("--force") == ["ok"] and record.stat().st_mtime_ns != before

    def test_seeds_may_be_named(self, ddbench):
        cells = ddbench("run", *RANDOM, "--seeds", "0,3", "--json", "--no-boards").json["cells"]
        assert [c["cell"]["distil"]["seed"] for c in cells] == [0, 3]

    def test_settings_reach_the_method(self, ddbench, tmp_path):
        path = plugin(tmp_path, "cli_settings", FIRST)
        arguments = ("--network", "MLP", "--repeats", 1, "--seeds", 1, "--set", "shift=2", "--json")
        (cell,) = ddbench("run", "--method", "cli_settings", "--plugin", path, *arguments).json["cells"]
        assert cell["record"]["settings"] == {"shift": 2}

    def test_several_networks_ipcs_and_methods_are_combined(self, ddbench, monkeypatch):
        cells = self.planned(
            ddbench,
            monkeypatch,
            *("--method", "random", "--method", "herding", "--ipc", 1, "--ipc", 10),
            *("--network", "MLP", "--network", "ConvNetD1", "--seeds", 3),
        )
        assert len(cells) == 2 * 2 * 2 * 3

    def planned(self, ddbench: Ddbench, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> list[Any]:
        seen: list[Any] = []

        def run(cells: Any, context: Any, **_: Any) -> executors.Summary:
            seen.extend(cells)
            return executors.Summary()

        monkeypatch.setattr(executors, "run", run)
        said = ddbench("run", *arguments) if arguments and arguments[0] != "bare" else ddbench(*arguments[1:])
        assert said.status == 0, said.err
        return seen

    @pytest.mark.parametrize(
        "arguments", [("bare",), ("bare", "--device", "cpu"), ("--suite", "embedded"), ()]
    )
    def test_no_arguments_mean_the_embedded_suite(self, ddbench, monkeypatch, arguments):
        cells = self.planned(ddbench, monkeypatch, *arguments)
        assert len(cells) == 93 and {c.distil.dataset for c in cells} == {"digits"}

    def test_a_suite_file_with_seeds_and_repeats_of_the_command(self, ddbench, monkeypatch, tmp_path):
        (tmp_path / "mine.yaml").write_text(
            "datasets: [digits]\nmethods: [random]\nipc: [1]\nprotocols: [quick]\n"
        )
        cells = self.planned(
            ddbench, monkeypatch, "--suite", tmp_path / "mine.yaml", "--seeds", "4,7", "--repeats", 2
        )
        assert [(c.distil.seed, c.repeats) for c in cells] == [(4, 2), (7, 2)]

    def test_a_failed_cell_is_status_1_and_the_others_are_done(self, ddbench, tmp_path):
        path = plugin(tmp_path, "cli_raises", "raise ZeroDivisionError('boom')\n")
        said = ddbench("run", *RANDOM, "--method", "cli_raises", "--plugin", path, "--seeds", 2)
        assert said.status == 1 and "4 cells: 2 done, 2 failed" in said.out
        place = r"ZeroDivisionError: boom \(cli_raises\.py:\d+ in distill\)"
        assert re.search(
            rf"^failed: {place}\n  cli_raises digits ipc 1 seed 0 quick MLP\n  cli_raises .* seed 1",
            said.out,
            re.M,
        )
        assert len(re.findall(place, said.err)) == 1  # a reason is told once
        assert "Traceback" not in said.err + said.out

    def test_a_used_up_time_budget_leaves_cells_for_the_next_run(self, ddbench):
        arguments = ("run", *RANDOM, "--seeds", 2, "--no-boards")
        said = ddbench(*arguments, "--time-budget", "0.001s")
        assert said.status == 0 and said.out == "2 cells: 2 left for the next run\n"
        assert not list(Path("runs").rglob("*.json"))
        assert ddbench(*arguments, "--time-budget", "9m").out == "2 cells: 2 done\n"

    def test_an_interruption_is_status_130_and_keeps_what_is_done(self, ddbench, tmp_path):
        path = plugin(tmp_path, "cli_stops", "raise KeyboardInterrupt\n")
        said = ddbench("run", *RANDOM, "--method", "cli_stops", "--plugin", path, "--seeds", 1)
        assert said.status == 130
        assert "2 cells: 1 done, 1 left for the next run; interrupted" in said.out
        assert [r.status for r in store.RunFolder("runs").records()] == ["ok"]

    def test_precisions_and_engines_are_those_of_the_engine(self):
        from ddbench.train import engine

        assert common.PRECISIONS == engine.PRECISIONS and common.ENGINES == ("auto", *engine.PATHS)


# ------------------------------------------------------------------------------------------------ sets and records


class TestOneSet:
    def test_distil_evaluate_and_show_by_path(self, ddbench, tmp_path):
        said = ddbench("distill", "--method", "random", "--ipc", 2, "--seed", 1, "--out", "r.safetensors")
        assert said.status == 0 and said.err == ""
        assert said.out.startswith(
            "set: r.safetensors\nmethod: random\nrecipe: defaults\ndataset: digits\nipc: 2\n"
        )
        said = ddbench(
            "evaluate", "r.safetensors", "--network", "MLP", "--network", "ConvNetD1W32", "--repeats", 2
        )
        assert said.status == 0 and said.err == ""
        head, *rows = said.out.splitlines()
        assert head.split()[:3] == ["set", "protocol", "network"]
        assert [row.split()[3] for row in rows] == ["MLP", "ConvNetD1W32"]
        records = ddbench("evaluate", "r.safetensors", "--network", "MLP", "--repeats", 2, "--json").json
        assert [len(r["scores"]) for r in records] == [2]
        assert [(r["labels"], r["labelled_by"]) for r in records] == [("hard", [])]
        assert "labels" in head.split() and "labels of" not in said.out
        said = ddbench("show", "r.safetensors", "--json")
        assert said.json[0] | {"distil_s": 0} == {
            "set": "r.safetensors",
            "picture": "r.png",
            "method": "random",
            "recipe": "defaults",
            "dataset": "digits",
            "ipc": 2,
            "seed": 1,
            "partial": False,
            "codec": "subset",
            "bytes": 20 * 64 + 20 + 8,
            "label_bytes": 20,
            "distil_s": 0,
            "teacher_s": 0.0,
            "step_sizes": None,
            "zca_eps": None,
            "settings": {
                "labels": "hard",
                "networks": [],
                "squeeze": "auto",
                "held_out": 0.1,
                "prior": "held-out",
            },
            "notes": {},
        }
        with Image.open("r.png") as picture:
            assert picture.size[1] > picture.size[0]  # ten rows of two images

    def test_distil_json_and_a_cut_that_goes_on(self, ddbench):
        arguments = ("distill", "--method", "dm", "--set", "iterations=8")
        said = ddbench(*arguments, "--time-budget", "0.001s")
        assert said.status == 1 and said.out == ""
        assert said.err == (
            "error: the time budget ended before the distillation; there is no set yet: run again, with more time\n"
        )
        facts = ddbench(*arguments, "--json").json
        assert facts["settings"]["iterations"] == 8 and not facts["partial"] and Path(facts["set"]).is_file()
        assert facts["cost"]["iterations"] == 8
        before = Path(facts["set"]).stat().st_mtime_ns
        assert ddbench(*arguments, "--json").json == facts and Path(facts["set"]).stat().st_mtime_ns == before
        ddbench(*arguments, "--force", "--quiet")
        assert Path(facts["set"]).stat().st_mtime_ns != before

    def test_a_method_that_raises_is_status_1_with_its_place(self, ddbench, tmp_path):
        path = plugin(tmp_path, "cli_divides", "return 1 / 0\n")
        said = ddbench("distill", "--method", "cli_divides", "--plugin", path)
        assert said.status == 1 and said.out == ""
        text = r"error: cli_divides failed: ZeroDivisionError: .* \(cli_divides\.py:\d+ in distill\)\n"
        assert re.fullmatch(text, said.err)

    def test_an_interrupted_distillation_is_status_130(self, ddbench, tmp_path):
        path = plugin(tmp_path, "cli_halts", "raise KeyboardInterrupt\n")
        said = ddbench("distill", "--method", "cli_halts", "--plugin", path)
        assert said.status == 130 and said.err.strip() == "interrupted"

    def test_who_labelled_stands_below_the_table_once_with_its_bytes(self):
        notes, distil = {"labels": "the protocol's own ConvNetBN 0a1b, 97.0 % held out"}, {"method": "dm"}
        beside = Bytes(images=640, labels=2_000, beside={"teacher ConvNetBN": 44_700_000})
        record = SimpleNamespace(
            notes=notes, bytes=beside, cell=SimpleNamespace(distil=SimpleNamespace(**distil))
        )
        plain = SimpleNamespace(notes={}, bytes=beside, cell=record.cell)
        assert evaluate.who_labelled([record, plain, record]) == [
            "labels of dm: the protocol's own ConvNetBN 0a1b, 97.0 % held out; 2.0 kB of labels, 44.7 MB beside"
        ]

    def test_a_bad_set_among_good_ones_loses_no_score(self, ddbench, tmp_path):
        ddbench("distill", "--method", "random", "--out", "good.safetensors")
        (tmp_path / "bad.safetensors").write_bytes(b"x")
        said = ddbench("evaluate", "bad.safetensors", "good.safetensors", "--network", "MLP", "--repeats", 1)
        assert said.status == 1 and "good.safetensors" in said.out
        assert said.err.startswith("error: bad.safetensors: bad.safetensors is no whole safetensors file")

    def test_a_set_that_is_not_there_and_names_that_are_not_are_told_first(self, ddbench):
        assert "Path 'no.safetensors' does not exist" in ddbench("evaluate", "no.safetensors").err
        ddbench("distill", "--method", "random", "--out", "r.safetensors")
        said = ddbench("evaluate", "r.safetensors", "r.safetensors", "--protocol", "quik")
        assert said.status == 2 and said.err.startswith("error: no protocol 'quik'; nearest: quick")
        said = ddbench("evaluate", "r.safetensors", "--network", "ConvNt")
        assert said.status == 2 and said.err.startswith("error: no network 'ConvNt'; nearest: ConvNet")


class TestRunFolder:
    @pytest.fixture
    def folder(self, ddbench: Ddbench) -> Path:
        ddbench("run", *RANDOM, "--seeds", 2, "--no-boards", "--quiet")
        return Path("runs")

    def test_show_lists_sets_and_draws_the_one_that_is_meant(self, ddbench, folder):
        listed = ddbench("show", folder, "--json").json
        assert [(row["method"], row["seed"]) for row in listed] == [("random", 0), ("random", 1)]
        assert ddbench("show", folder).out.count("random-digits-1-") == 2 and not list(Path().glob("*.png"))
        said = ddbench("show", folder, "--seed", 1, "--out", "one.png")
        assert said.status == 0 and "picture: one.png" in said.out and Path("one.png").is_file()
        made = ddbench("show", folder, "--out", "all.png", "--json").json
        assert [row["picture"] for row in made] == [f"all-random-ipc1-seed{s}.png" for s in (0, 1)]

    def test_show_says_where_nothing_fits(self, ddbench, folder):
        said = ddbench("show", folder, "--ipc", 7, "--method", "dm")
        assert said.status == 2
        assert said.err == "error: none of 2 sets in runs fits --method dm --ipc 7 (see: ddbench show runs)\n"
        Path("empty").mkdir()
        assert "error: no sets in empty; expected a run folder" in ddbench("show", "empty").err

    def test_boards_are_made_again_from_records_alone(self, ddbench, folder):
        said = ddbench("board", "--runs", folder, "--out", "tables", "--no-plots")
        assert said.status == 0 and "digits: quick 1.0, MLP" in said.out
        kinds = ("digits", "digits-cost", "digits-equal-bytes", "digits-uniform")
        files = sorted(f"{kind}.{end}" for kind in kinds for end in ("csv", "md"))
        assert sorted(p.name for p in Path("tables").iterdir()) == ["README.md", *files]
        document = ddbench("board", "--out", "tables", "--json").json
        assert [row["n"] for row in document["rows"]["digits"]] == [2]
        assert sorted(document["pages"]["digits"]) == ["cost", "equal-bytes", "uniform"]
        assert sorted(document["empty"]["digits"]) == ["as-published", "cross-architecture"]
        assert "tables/digits-ipc.png" in document["boards"]
        said = ddbench("board", "--quiet", "--no-plots", "--kind", "tables")
        assert said.out == "runs/leaderboards: 2 pages and 1 table; begin with runs/leaderboards/README.md\n"

    def test_one_kind_of_board_is_shown_and_written(self, ddbench, folder):
        said = ddbench(
            "board", "--kind", "equal-bytes", "--kind", "cross-architecture", "--no-plots", "--out", "one"
        )
        assert said.status == 0 and "# digits: equal-bytes board" in said.out and "| 10 KB " in said.out
        assert (
            said.err
            == "warning: digits: no cross-architecture board: no method has scores of two networks under one "
            "protocol\n"
        )
        assert sorted(p.name for p in Path("one").iterdir()) == [
            "README.md",
            "digits-equal-bytes.csv",
            "digits-equal-bytes.md",
        ]
        said = ddbench("board", "--uniform", "dc-dsa", "--no-plots")
        assert said.status == 2 and said.err.startswith(
            "error: no record is of protocol 'dc-dsa'; known: quick; expected a protocol that was measured"
        )

    def test_no_records_are_an_error(self, ddbench):
        said = ddbench("board")
        assert said.status == 2 and said.err.startswith("error: no records in runs; expected a run folder")


# ------------------------------------------------------------------------------------------------ everything else


WATCHED = """\
x = torch.randn(10, 1, 8, 8, generator=task.rng("x"))
show = lambda: task.distilled(images=x, ids=torch.arange(10))
task.note("shift", f"shifted by {self.shift}")
for it in task.loop(8, [x], show=show):
    x *= 0.9
    task.log(loss=x.square().mean(), shift=self.shift)
return show()
"""


class TestWatching:
    @pytest.fixture
    def watched(self, ddbench: Ddbench, tmp_path: Path) -> Callable[..., Said]:
        path = plugin(tmp_path, "cli_watched", WATCHED)
        more = ("--plugin", path, "--network", "MLP", "--repeats", 2, "--no-boards")
        return lambda *a: ddbench("run", "--method", "cli_watched", *more, *a)

    def test_a_run_with_snapshots_leaves_pictures_curves_and_a_plot(self, watched, ddbench):
        said = watched("--seeds", 2, "--snapshot-every", 4, "--json")
        assert said.status == 0 and said.json["plots"] == ["runs/curves/digits-ipc1.png"]
        assert Path("runs/curves/digits-ipc1.csv").is_file()
        for record in store.RunFolder("runs").records():
            assert [s.chosen_by for s in record.scores] == ["last", "last", "best-snapshot"]
            rows = store.read_rows(store.RunFolder("runs").curve_path(record.set_key, record.key))
            assert [(r["iteration"], r["students"]) for r in rows] == [(4, 1), (8, 1)]
            assert record.scores[2].value == max(r["top1"] for r in rows)
            pictures = sorted(p.name for p in Path("runs/pictures", record.set_key).iterdir())
            assert pictures == ["000004.png", "000008.png", "finished.png"]
        assert "over time: runs/curves/digits-ipc1.png" in watched("--seeds", 2, "--snapshot-every", 4).out

    def test_without_the_flag_there_is_a_trace_and_nothing_else(self, watched):
        assert watched("--seeds", 1).status == 0
        kinds = {p.name for p in Path("runs").iterdir()}
        assert "traces" in kinds and not kinds & {"snapshots", "pictures", "curves", "tensorboard"}

    def test_trace_prints_plots_and_writes_the_numbers(self, watched, ddbench):
        watched("--seeds", 2, "--snapshot-every", 4)
        said = ddbench("trace")
        assert said.status == 0 and said.err == "" and said.out.endswith("trace.png\ntrace.csv\n")
        head, first, second, *_ = said.out.splitlines()
        assert head.split() == ["run", "iterations", "seconds", "trace", "top-1", "%"]
        assert first.startswith("cli_watched digits ipc 1 seed 0  8 ") and "(quick MLP)" in first
        lines = Path("trace.csv").read_text().splitlines()
        assert len(lines) == 1 + 2 * (8 * 2 + 2)
        with Image.open("trace.png") as picture:
            assert picture.size[0] > 1000
        one = ddbench("trace", "cli_watched-digits-1-1", "--value", "shift", "--out", "b.png", "--json").json
        assert [r["run"] for r in one["runs"]] == ["cli_watched digits ipc 1 seed 1"]
        assert one["files"] == ["b.png", "b.csv"] and len(one["runs"][0]["accuracy"]) == 2
        (path,) = Path("runs/sets").glob("*-1-0-*")
        assert len(ddbench("trace", path, "--json").json["runs"]) == 1

    def test_trace_says_what_there_is_where_nothing_fits(self, watched, ddbench):
        said = ddbench("trace")
        assert said.status == 2 and said.err.startswith(
            "error: nothing was logged in runs; expected a run folder"
        )
        watched("--seeds", 1)
        said = ddbench("trace", "cli_wached")
        assert said.status == 2
        assert said.err.startswith(
            "error: nothing in runs is called 'cli_wached'; expected the beginning of a key"
        )
        said = ddbench("trace", "--value", "los")
        assert said.status == 2 and said.err == "error: no value 'los' in these traces; known: loss, shift\n"
        said = ddbench("trace", "--out", "t.pdf")
        assert said.status == 2 and "the plot t.pdf has the suffix '.pdf'; expected .png" in said.err

    def test_a_suite_may_ask_for_snapshots_and_the_flag_wins(self, ddbench, monkeypatch, tmp_path):
        seen: list[Any] = []

        def run(cells: Any, context: Any, **_: Any) -> executors.Summary:
            seen.append((context.snapshot_every, context.snapshot_students))
            return executors.Summary()

        monkeypatch.setattr(executors, "run", run)
        (tmp_path / "s.yaml").write_text(
            "datasets: [digits]\nmethods: [random]\nipc: [1]\nprotocols: [quick]\n"
            "snapshot_every: 50\nsnapshot_students: 2\n"
        )
        ddbench("run", "--suite", "s.yaml")
        ddbench("run", "--suite", "s.yaml", "--snapshot-every", 0, "--snapshot-students", 3)
        ddbench("run", *RANDOM)
        assert seen == [(50, 2), (0, 3), (0, 1)]
        (tmp_path / "s.yaml").write_text(
            "datasets: [digits]\nmethods: [random]\nipc: [1]\nprotocols: [quick]\nsnapshot_every: -1\n"
        )
        said = ddbench("run", "--suite", "s.yaml")
        assert (
            said.status == 2
            and "line 5, field snapshot_every: given -1 (int); expected at least 0" in said.err
        )

    def test_a_note_is_said_once_and_stands_in_record_and_set(self, watched, ddbench):
        said = watched("--seeds", 1, "--set", "shift=3")
        assert said.err.count("shifted by 3") == 1
        (record,) = store.RunFolder("runs").records()
        assert record.notes == {"shift": "shifted by 3"}
        assert "note (shift): shifted by 3\n" in ddbench("show", "runs", "--out", "x.png").out
        watched("--seeds", 2, "--set", "shift=3")
        assert "shifted by 3" in ddbench("show", "runs").out
        assert "shifted" not in watched("--seeds", 3, "--set", "shift=3", "--quiet").err

    def test_notes_of_worker_processes_reach_the_screen_once(self, watched):
        said = watched("--seeds", 2, "--jobs", 2)
        assert said.status == 0 and said.err.count("cli_watched digits ipc 1: shifted by 0\n") == 1

    def test_a_note_on_the_recipe_is_said_before_cells_run_and_recorded(self, ddbench, monkeypatch):
        made_for_another = registry.resolve_recipe

        class Noted:
            def __init__(self, recipe: Any) -> None:
                self.name, self.settings, self.source = recipe.name, recipe.settings, recipe.source
                self.note = "made for ipc 10"

        monkeypatch.setattr(registry, "resolve_recipe", lambda *a: Noted(made_for_another(*a)))
        said = ddbench("run", *RANDOM, "--seeds", 2, "--no-boards")
        assert said.err.splitlines()[:2] == [
            "2 cells; sets and records go to runs", "random digits ipc 1: made for ipc 10"
        ]  # fmt: skip
        assert said.err.count("made for ipc 10") == 1
        assert [r.notes for r in store.RunFolder("runs").records()] == [{"recipe": "made for ipc 10"}] * 2
        assert ddbench("distill", "--method", "random", "--json").json["notes"] == {
            "recipe": "made for ipc 10"
        }

    def test_event_files_without_their_package_are_refused_before_anything_runs(self, ddbench, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        said = ddbench("run", *RANDOM, "--seeds", 1, "--tensorboard")
        assert said.status == 2 and not Path("runs").exists()
        assert said.err.startswith("error: --tensorboard needs the package tensorboard, which is not here (")
        assert said.err.endswith("; pip install 'ddbench[tensorboard]'\n")

    def test_what_showed_a_run_can_be_pruned_and_sets_and_records_stay(self, watched, ddbench):
        watched("--seeds", 1, "--snapshot-every", 4)
        kinds = {e["kind"] for e in ddbench("cache", "list", "--runs", "runs", "--json").json["entries"]}
        assert kinds >= {"sets", "records", "traces", "snapshots", "pictures", "curves"}
        assert "quota" not in ddbench("cache", "list", "--runs", "runs").out
        gone = ddbench("cache", "prune", "--runs", "runs", "--quota", "0", "--json").json
        assert {e["kind"] for e in gone} == {"snapshots", "pictures", "curves"}
        left = {e["kind"] for e in ddbench("cache", "list", "--runs", "runs", "--json").json["entries"]}
        assert left == {"sets", "records", "traces"}


class TestData:
    def test_list_says_where_each_would_come_from(self, ddbench, tmp_path):
        rows = {r["data set"]: r["here"] for r in ddbench("data", "list", "--json").json}
        assert len(rows) == 14 and rows["digits"] == "built in"
        assert rows["mnist"] == "no: downloaded when needed"
        assert rows["imagenette"] == "no: put there by hand (ddbench data prepare imagenette says what)"
        for split in ("train", "test"):
            (tmp_path / "root" / "mnist" / split / "0").mkdir(parents=True)
        said = ddbench("data", "list", "--data-root", tmp_path / "root")
        assert said.out.startswith(f"data root: {tmp_path / 'root'}\n") and "image folder" in said.out

    def test_prepare_and_show_pictures_of_ones_own(self, ddbench, tmp_path):
        for split in ("train", "test"):
            for name, grey in (("dark", 20), ("light", 200)):
                folder = tmp_path / "pets" / split / name
                folder.mkdir(parents=True)
                for i in range(2):
                    Image.new("L", (8, 8), grey + i).save(folder / f"{i}.png")
        name, root = f"imagefolder:{tmp_path / 'pets'}", ("--data-root", tmp_path / "root")
        made = ddbench("data", "prepare", name, *root, "--json").json
        assert made["dataset"] == name and Path(made["folder"], "facts.json").is_file()
        facts = ddbench("data", "show", name, *root, "--json").json
        assert (facts["classes"], facts["train"], facts["shape"]) == (2, 4, [1, 8, 8])
        assert facts["picture"] == "pets.png" and Path("pets.png").is_file()

    def test_show_digits(self, ddbench):
        said = ddbench("data", "show", "digits", "--out", "d.png", "--per-class", 4)
        assert said.status == 0 and "train: 1437\ntest: 360\n" in said.out and Path("d.png").is_file()
        assert ddbench("data", "prepare", "digits").out == "digits: built in, nothing to prepare\n"

    def test_other_suffixes_than_png_are_refused(self, ddbench):
        said = ddbench("data", "show", "digits", "--out", "d.jpg")
        assert (
            said.status == 2 and said.err == "error: the sheet d.jpg has the suffix '.jpg'; expected .png\n"
        )


class TestCache:
    @pytest.fixture
    def two(self, fresh_cache: Path) -> Path:
        for name, size, age_s in (("old", 3000, 40 * 86400), ("new", 1000, 10)):
            path = fresh_cache / "teachers" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * size)
            then = path.stat().st_mtime - age_s
            os.utime(path, (then, then))
        return fresh_cache / "teachers"

    def test_list_has_sizes_and_the_quota(self, ddbench, two, monkeypatch):
        monkeypatch.setenv("DDBENCH_CACHE_QUOTA", "5G")
        document = ddbench("cache", "list", "--json").json
        assert document["bytes"] == 4000 and document["quota"] == 5 << 30
        assert [e["size"] for e in document["entries"]] == ["3.0 kB", "1.0 kB"]
        said = ddbench("cache", "list")
        assert "4.0 kB in 2 entries, quota 5.4 GB" in said.out and "40.0 days" in said.out

    def test_prune_by_age_and_by_size(self, ddbench, two):
        said = ddbench("cache", "prune", "--older-than", "30d", "--dry-run")
        assert said.out.startswith("would remove 1 entry, 3.0 kB\n") and (two / "old").exists()
        assert [
            Path(r["path"]).name for r in ddbench("cache", "prune", "--older-than", "30d", "--json").json
        ] == ["old"]
        assert not (two / "old").exists() and (two / "new").exists()
        assert ddbench("cache", "prune", "--quota", "0").out.startswith("removed 1 entry, 1.0 kB\n")
        assert not (two / "new").exists()

    def test_prune_needs_something_to_go_by(self, ddbench, two):
        said = ddbench("cache", "prune")
        assert said.status == 2 and said.err.startswith(
            "error: nothing to go by; give --quota SIZE or --older-than"
        )
        said = ddbench("cache", "prune", "--older-than", "a month")
        assert said.err == (
            "error: --older-than is 'a month'; expected a positive time such as 90s, 9m, 1h30m or 30d\n"
        )
        said = ddbench("cache", "prune", "--quota", "much")
        assert said.status == 2 and said.err.startswith("error: --quota: size is 'much'; expected a number")


class TestExperts:
    TINY = (
        *("--dataset", "digits", "--ipc", 1, "--device", "cpu"),
        *("--set", "network=ConvNetD1W4", "--set", "train_epochs=2", "--set", "train_per_class=4"),
        *("--set", "max_start_epoch=1"),
    )

    def test_what_is_made_is_listed_and_counted_in_the_cache(self, ddbench, fresh_cache):
        assert ddbench("experts", "list").out.endswith("0 B in 0 entries\n(none)\n")
        said = ddbench("experts", "make", "mtt", *self.TINY, "--count", 2)
        assert said.status == 0, said.err
        assert (
            "network: ConvNetD1W4\n" in said.out
            and "experts: 2 (2 trained now, 0 found; 2 in all)\n" in said.out
        )
        (row,) = ddbench("experts", "list", "--json").json
        assert (row["dataset"], row["experts"], row["under_way"]) == ("digits", 2, "")
        assert row["recipe"]["epochs"] == 2
        assert len(row["accuracies"]) == 2 and row["recipe"]["per_class"] == 4
        listed = ddbench("experts", "list").out
        for word in (row["fingerprint"], "digits", "ConvNetD1W4", "per_class=4", "augment=dsa"):
            assert word in listed
        assert "batch=64" in listed and "alpha" not in listed  # what differs from the defaults, no more
        assert "milestones" not in listed and "early_factors" not in listed
        (entry,) = (e for e in ddbench("cache", "list", "--json").json["entries"] if e["kind"] == "experts")
        assert Path(entry["path"]).name == row["fingerprint"]

    def test_more_are_added_and_what_is_there_is_not_made_again(self, ddbench, fresh_cache):
        made = [ddbench("experts", "make", "mtt", *self.TINY, "--count", n, "--json").json for n in (2, 3, 1)]
        assert [(m["experts"], m["trained_now"], m["in_all"]) for m in made] == [
            (2, 2, 2), (3, 1, 3), (1, 0, 3),
        ]  # fmt: skip
        assert (
            made[0]["accuracies"] == made[1]["accuracies"][:2]
            and made[2]["accuracies"] == made[0]["accuracies"][:1]
        )
        assert made[2]["size_bytes"] * 3 == pytest.approx(made[1]["size_bytes"], rel=0.01)
        assert made[2]["train_s"] < made[0]["train_s"] < made[1]["train_s"]
        said = ddbench("experts", "make", "mtt", *self.TINY, "--count", 1)
        assert "experts: 1 (0 trained now, 1 found; 3 in all)\n" in said.out
        assert f"accuracy %: {100 * made[2]['accuracies'][0]:.1f}\n" in said.out

    def test_a_recipe_is_told_by_what_differs_and_long_factors_are_shortened(self, ddbench, fresh_cache):
        said = ddbench("experts", "make", "ast", *self.TINY, "--count", 1)
        assert said.status == 0, said.err
        (line,) = (x for x in ddbench("experts", "list").out.splitlines() if "digits" in x)
        assert re.search(r"early_factors=[\d.]+\.\.[\d.]+ \(\d+\)", line) and "milestones=[]" not in line

    def test_a_damaged_entry_is_listed_and_removed_and_hides_no_others(self, ddbench, fresh_cache):
        made = [
            ddbench(
                "experts", "make", "mtt", *self.TINY, "--count", 1, "--set", f"train_lr={lr}", "--json"
            ).json
            for lr in (0.1, 0.2)
        ]
        Path(made[0]["path"], "experts.json").write_text("{")
        assert (
            ddbench("experts", "make", "mtt", *self.TINY, "--count", 1, "--set", "train_lr=0.2").status == 0
        )
        (line,) = (x for x in ddbench("experts", "list").out.splitlines() if made[0]["fingerprint"] in x)
        assert "damaged" in line and "experts.json cannot be read" in line
        assert ddbench("experts", "remove", made[0]["fingerprint"]).out.startswith("removed 1 entry, ")
        assert [e["fingerprint"] for e in ddbench("experts", "list", "--json").json] == [
            made[1]["fingerprint"]
        ]

    def test_all_but_those_under_training_are_removed_and_that_is_said(self, ddbench, fresh_cache):
        made = [
            ddbench(
                "experts", "make", "mtt", *self.TINY, "--count", 1, "--set", f"train_lr={lr}", "--json"
            ).json
            for lr in (0.1, 0.2)
        ]
        busy = made[0]["fingerprint"]
        with store.Lock(Path(made[0]["path"]) / "training"):
            said = ddbench("experts", "remove", busy)
            assert said.status == 2 and f"experts {busy} are being trained by another process" in said.err
            said = ddbench("experts", "remove", "--all")
        assert said.status == 0 and said.out.startswith("removed 1 entry, ")
        assert said.err == f"left {busy}: a process is training its experts just now\n"
        assert [e["fingerprint"] for e in ddbench("experts", "list", "--json").json] == [busy]

    def test_an_interruption_says_that_the_next_call_goes_on(self, ddbench, fresh_cache, monkeypatch):
        import signal

        from ddbench.train import networks

        real = networks.find_direction

        def interrupted(*arguments):
            os.kill(os.getpid(), signal.SIGINT)
            monkeypatch.setattr(networks, "find_direction", real)
            return real(*arguments)

        monkeypatch.setattr(networks, "find_direction", interrupted)
        said = ddbench("experts", "make", "mtt", *self.TINY, "--count", 1)
        assert said.status == 130
        assert said.err.endswith("interrupted: the epochs of the experts are kept; run again to go on\n")
        assert "0-0 at epoch 1" in ddbench("experts", "list").out

    def test_a_method_finds_them(self, ddbench, fresh_cache):
        tiny = ("--set", "iterations=1", "--set", "experts=2")
        made = ddbench(
            "experts", "make", "mtt", *self.TINY, "--set", "experts=2", "--set", "expert_epochs=1", "--json"
        )
        before = [p.stat().st_mtime_ns for p in sorted(fresh_cache.rglob("expert-*"))]
        said = ddbench(
            *("distill", "--method", "mtt", *self.TINY, *tiny, "--set", "expert_epochs=1", "--json")
        )
        assert said.status == 0, said.err
        assert said.json["notes"]["experts"] == [made.json["fingerprint"]]
        assert said.json["cost"]["teacher_s"] == pytest.approx(made.json["train_s"])
        assert [p.stat().st_mtime_ns for p in sorted(fresh_cache.rglob("expert-*"))] == before
        for out in (
            ddbench("distill", "--method", "mtt", *self.TINY, *tiny, "--set", "expert_epochs=1").out,
            ddbench("show", said.json["set"], "--out", "x.png").out,
        ):
            assert f"note (experts): {made.json['fingerprint']}\n" in out
            assert re.search(r"^learned step size: 0\.0\d+$", out, re.MULTILINE)
            assert f"seconds of networks on real data: {made.json['train_s']:.1f}\n" in out
            assert "space: " not in out  # these are standardised

    def test_a_whitened_space_is_shown(self, ddbench, fresh_cache):
        tiny = (
            "--set",
            "iterations=1",
            "--set",
            "experts=1",
            "--set",
            "step_size_lr=0",
        )
        out = ddbench(
            "distill", "--method", "mtt", *self.TINY, *tiny, "--set", "expert_epochs=1", "--set", "zca=true"
        ).out
        assert "space: whitened (zca eps 0.1)\n" in out

    def test_a_wrapped_method_has_those_of_its_base_as_the_wrapper_changes_it(self, ddbench, fresh_cache):
        arguments = (*self.TINY, "--count", 1, "--json")
        base = ddbench("experts", "make", "mtt", *arguments).json
        wrapped = ddbench("experts", "make", "fyi+mtt", *arguments).json
        plain = ddbench("experts", "make", "fyi+mtt", *arguments, "--set", "always_flip=false").json
        assert [x["recipe"]["augment"] for x in (base, wrapped)] == ["dsa", "dsa-flip"]
        assert plain["fingerprint"] == base["fingerprint"] != wrapped["fingerprint"]

    def test_a_method_without_experts_is_refused(self, ddbench, fresh_cache):
        said = ddbench("experts", "make", "random", "--device", "cpu")
        assert said.status == 2
        assert re.match("error: method random uses no experts; those that do: .*mtt", said.err)
        said = ddbench("experts", "make", "mt", "--device", "cpu")
        assert said.status == 2 and said.err.startswith("error: no method 'mt'; nearest: mtt")

    def test_a_budget_of_bytes_is_checked_first(self, ddbench, fresh_cache):
        said = ddbench("experts", "make", "mtt", *self.TINY, "--count", 2, "--budget", "1K")
        assert said.status == 2 and "but the budget of a recipe is 1,024 bytes: not one fits" in said.err
        said = ddbench("experts", "make", "mtt", *self.TINY, "--budget", "much")
        assert said.status == 2 and said.err.startswith("error: --budget: size is 'much'; expected a number")

    def test_a_time_budget_stops_between_epochs_and_the_next_call_goes_on(self, ddbench, fresh_cache):
        arguments = ("experts", "make", "mtt", *self.TINY, "--count", 2)
        said = ddbench(*arguments, "--time-budget", "0.001s")
        assert said.status == 1
        assert said.err.splitlines()[-1] == (
            "error: the time budget ended at epoch 2 of 4 of the experts; run again to go on"
        )
        assert "0-1 at epoch 1" in ddbench("experts", "list").out
        assert ddbench(*arguments).status == 0
        assert ddbench("experts", "list", "--json").json[0]["under_way"] == ""

    def test_remove_by_fingerprint_or_all(self, ddbench, fresh_cache):
        made = [
            ddbench("experts", "make", "mtt", *self.TINY, "--count", 1, "--set", f"train_lr={lr}", "--json")
            for lr in (0.1, 0.2)
        ]
        one, two = (m.json["fingerprint"] for m in made)
        said = ddbench("experts", "remove", one[:-1])
        assert said.status == 2 and f"error: no experts {one[:-1]} in " in said.err
        assert f"nearest: {one} (see: ddbench experts list)" in said.err
        for wrong in ((), ("--all", one)):
            said = ddbench("experts", "remove", *wrong)
            assert said.status == 2 and "expected fingerprints, or --all" in said.err
        said = ddbench("experts", "remove", one, "--dry-run")
        assert said.out.startswith("would remove 1 entry, ") and len(list(fresh_cache.glob("experts/*"))) == 2
        assert [e["fingerprint"] for e in ddbench("experts", "remove", one, "--json").json] == [one]
        assert ddbench("experts", "remove", "--all").out.startswith("removed 1 entry, ")
        assert not list(fresh_cache.glob("experts/*")) and two != one

    def test_they_can_be_pruned_like_all_that_is_cached(self, ddbench, fresh_cache):
        ddbench("experts", "make", "mtt", *self.TINY, "--count", 1)
        gone = ddbench("cache", "prune", "--quota", "0", "--json").json
        assert "experts" in [g["kind"] for g in gone] and ddbench("experts", "list", "--json").json == []


class TestDoctor:
    def test_it_says_what_is_there_and_what_to_do(self, ddbench):
        said = ddbench("doctor")
        assert said.status == 0
        for name in (
            "python",
            "packages",
            "device",
            "threads",
            "C++ compiler",
            "data root",
            "cache",
            "free disk",
        ):
            assert re.search(rf"^(ok|warn) +{re.escape(name)} ", said.out, re.M), name
        assert "-> name the folder of your data sets in DDBENCH_DATA" in said.out
        assert {c["status"] for c in ddbench("doctor", "--json").json} <= {"ok", "warn"}

    def test_a_failed_check_is_status_1(self, ddbench, monkeypatch):
        monkeypatch.setenv("DDBENCH_CACHE_QUOTA", "much")
        said = ddbench("doctor")
        assert said.status == 1 and "-> DDBENCH_CACHE_QUOTA: size is 'much'" in said.out


class TestNewMethod:
    def test_the_starter_runs_at_once_as_the_command_says(self, ddbench, tmp_path):
        said = ddbench("new-method", "cli_starter", "--folder", tmp_path)
        assert said.status == 0 and f"wrote {tmp_path / 'cli_starter.py'}\n" in said.out
        (line,) = (x for x in said.out.splitlines() if x.startswith("run:"))
        words = shlex.split(line.removeprefix("run:"))
        assert words[:2] == ["ddbench", "run"] and words[-2:] == [
            "--plugin",
            str(tmp_path / "cli_starter.py"),
        ]
        fast = ("--set", "iterations=2", "--network", "MLP", "--repeats", 1)
        assert ddbench(*words[1:], *fast).status == 0

    def test_json_names_both_files(self, ddbench, tmp_path):
        document = ddbench("new-method", "cli_other", "--folder", tmp_path, "--json").json
        assert [Path(document[k]).name for k in ("method", "test")] == ["cli_other.py", "test_cli_other.py"]

    def test_a_taken_name_is_refused(self, ddbench, tmp_path):
        said = ddbench("new-method", "random", "--folder", tmp_path)
        assert said.status == 2 and said.err.startswith("error: method 'random' exists already (")


# ------------------------------------------------------------------------------------------------ the program


def test_run_bench_is_the_same_program_and_names_no_traceback(tmp_path):
    """In a process of its own, as people start it; its exit status too."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_bench.py"), "run", "--method", "randm"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: --method: no method 'randm'; nearest: random (see: ddbench list methods)\n"


def test_a_fault_of_ours_says_its_kind_and_place(ddbench, monkeypatch):
    def broken(_: str) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(registry, "listing", broken)
    said = ddbench("list", "methods")
    assert said.status == 1
    text = (
        r"error: KeyError: 'lost' \(test_cli\.py:\d+ in broken\); DDBENCH_DEBUG=1 shows the whole traceback\n"
    )
    assert re.fullmatch(text, said.err)
    monkeypatch.setenv("DDBENCH_DEBUG", "1")
    with pytest.raises(KeyError):
        cli.main(["list", "methods"])
