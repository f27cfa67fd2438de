"""Reproducing a published number: which claim, which cells, what is said, and the table of all; digits, in seconds."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Ddbench, program

from ddbench import claims as claims_
from ddbench import registry, reproduce, store
from ddbench.claims import Claim
from ddbench.records import Cell, DistilCell, Provenance, Record, Score, Spent
from ddbench.verdicts import VERDICTS, standings


def claim(**what: Any) -> Claim:
    fields = dict(
        id="dm-1", paper="dm", method="dm", dataset="cifar10", network="ConvNet", protocol="dc-dsa", ipc=10,
        value=48.9, chosen="last", source="arXiv:2110.04181, Table 1",
    )  # fmt: skip
    return Claim(**(fields | what))


def record(values: tuple[float, ...] = (0.489, 0.499), seed: int = 0, **what: Any) -> Record:
    distil = DistilCell(method="dm", recipe="authors", dataset="cifar10", ipc=10, seed=seed)
    fields = dict(
        key=f"k{seed}",
        set_key=f"s{seed}",
        cell=Cell(distil=distil, protocol="dc-dsa", network="ConvNet", repeats=len(values)),
        status="ok",
        protocol_version="1.0",
        recipe="authors",
        recipe_source="their code",
        scores=[Score(value=v, network="ConvNet", seed=i) for i, v in enumerate(values)],
        spent=Spent(distil_s=1000, teacher_s=20, evaluate_s=3, distil_peak_mib=100, evaluate_peak_mib=2300.4),
        provenance=Provenance(ddbench="0", revision="0123456789ab+", device="cuda", device_name="GPU of 9"),
        created=f"2026-01-01T00:00:0{seed}+00:00",
    )
    return Record(**(fields | what))


# ------------------------------------------------------------------------------------------------ which claim


class TestChoice:
    def first(self, *claims: Claim, **cell: Any) -> str:
        asked = dict(method="dm", dataset="cifar10", ipc=10) | cell
        return reproduce.choose(claims, **asked).id

    def test_the_papers_own_number_comes_before_quoted_ones_and_other_papers(self):
        quoted = claim(id="q", quoted=True)
        other = claim(id="o", paper="ncfm")
        external = claim(id="x", external=("protocol",), protocol="theirs")
        assert self.first(external, quoted, other, claim(id="own")) == "own"
        assert self.first(external, quoted, other) == "o"
        assert self.first(external, quoted) == "q"

    def test_of_the_papers_own_the_one_that_can_be_compared_comes_first(self):
        assert self.first(claim(id="z", zca=True), claim(id="plain", zca=False)) == "plain"
        assert self.first(claim(id="b", chosen="best-epoch"), claim(id="l", chosen="last")) == "l"
        assert self.first(claim(id="n", network="MLP"), claim(id="net")) == "net"
        assert self.first(claim(id="bare"), claim(id="std", std=0.5)) == "std"
        assert self.first(claim(id="one"), claim(id="two")) == "one"

    def test_a_protocol_that_tests_on_the_way_fits_numbers_of_the_best_epoch(self):
        fields = dict(paper="ncfm", method="ncfm")
        tested = claim(id="t", protocol="ncfm", chosen="best-epoch", **fields)
        assert self.first(claim(id="s", chosen="best-snapshot", **fields), tested, method="ncfm") == "t"

    def test_a_wrapped_method_has_its_numbers_in_the_wrappers_paper(self):
        assert self.first(
            claim(id="a", method="fyi+dm", paper="dm"), claim(id="b", method="fyi+dm", paper="fyi"), method="fyi+dm"
        ) == "b"  # fmt: skip

    def test_a_form_of_a_data_set_is_asked_for_by_its_full_name_or_the_plain_one(self):
        squashed = claim(dataset="imagenette?resize=squash", ipc=1)
        for name in ("imagenette", "imagenette?resize=squash"):
            assert self.first(squashed, dataset=name, ipc=1) == "dm-1"
        plain = claim(id="plain", dataset="imagenette", ipc=1, quoted=True)
        assert self.first(squashed, plain, dataset="imagenette", ipc=1) == "plain"
        with pytest.raises(LookupError):
            self.first(squashed, dataset="imagenette?resize=crop", ipc=1)

    def test_one_may_be_named(self):
        both = [claim(id="a"), claim(id="b", quoted=True)]
        assert reproduce.choose(both, "dm", "cifar10", 10, "b").id == "b"

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            (
                ("dm", "cifar10", 7),
                "nothing is published of dm on cifar10 at ipc 7; on cifar10 there is ipc 1, 10",
            ),
            (
                ("dm", "mnist", 1),
                "nothing is published of dm on mnist at ipc 1; dm has numbers on cifar10, fashion_mnist, svhn",
            ),
            (
                ("dm", "fashion_mnist", 5),
                "nothing is published of dm on fashion_mnist at ipc 5; "
                "those on fashion_mnist are not counted in images a class",
            ),
            (("dmm", "mnist", 1), "nothing is published of dmm on mnist at ipc 1; nearest: dm"),
            (
                ("dm", "svhn", 1),
                "no published number of dm on svhn at ipc 1 can be measured here: e (not in ddbench: network GCN)",
            ),
            (
                ("dm", "cifar10", 10, "z"),
                "no claim 'z'; those of dm on cifar10 at ipc 10: a (see: ddbench claims)",
            ),
            (
                ("dm", "cifar10", 10, "o"),
                "claim o is of dm on cifar10 at ipc 1, not of dm on cifar10 at ipc 10",
            ),
            (("dm", "svhn", 1, "e"), "claim e can't be measured here: not in ddbench: network GCN"),
        ],
    )
    def test_what_is_not_there_is_said_with_what_is(self, asked, said):
        claims = [
            claim(id="a"),
            claim(id="o", ipc=1),
            claim(id="e", ipc=1, dataset="svhn", network="GCN", external=("network",)),
            claim(id="k", ipc=None, keep=0.1, dataset="fashion_mnist", external=("ipc",)),
        ]
        with pytest.raises(LookupError) as error:
            reproduce.choose(claims, *asked)
        assert str(error.value) == said

    def test_without_claims_it_says_so(self):
        with pytest.raises(LookupError, match="there are no claims"):
            reproduce.choose([], "dm", "cifar10", 1)

    def test_many_external_ones_are_counted(self):
        many = [claim(id=f"e{i}", protocol="x", external=("protocol",)) for i in range(7)]
        with pytest.raises(LookupError, match=r"e4 \(not in ddbench: protocol x\); and 2 more$"):
            reproduce.choose(many, "dm", "cifar10", 10)


# ------------------------------------------------------------------------------------------------ what to run


class TestCells:
    def test_they_are_the_authors_recipe_under_the_claims_protocol_and_network(self):
        cells = reproduce.cells(claim(network="ConvNetD3"))
        assert [c.distil.seed for c in cells] == [0, 1, 2]
        for cell in cells:
            assert (cell.protocol, cell.network, cell.repeats) == ("dc-dsa", "ConvNet", 5)
            assert cell.distil.model_dump(exclude={"seed"}) == dict(
                method="dm", recipe="authors", settings={}, dataset="cifar10", ipc=10
            )

    def test_seeds_and_repeats_may_be_others(self):
        cells = reproduce.cells(claim(), seeds=[4, 9], repeats=2)
        assert [(c.distil.seed, c.repeats) for c in cells] == [(4, 2), (9, 2)]

    def test_a_method_without_recipes_has_its_defaults(self):
        assert reproduce.recipe_of(claim(method="random")).name == "defaults"
        (cell,) = reproduce.cells(claim(method="random"), seeds=1)
        assert cell.distil.recipe == "defaults"

    def test_of_the_authors_recipes_the_one_of_the_claims_network_is_taken(self):
        of = dict(method="datadam", protocol="datadam", network="ConvNetBN")
        assert reproduce.recipe_of(claim(**of)).name == "authors"
        assert reproduce.recipe_of(claim(**of, distill_network="ConvNetD3")).name == "paper"
        assert reproduce.recipe_of(claim(**of, distill_network="ConvNetBN")).name == "authors"

    def test_a_cell_without_a_recipe_of_the_authors_is_refused_with_the_way_out(self):
        with pytest.raises(LookupError) as error:
            reproduce.cells(claim(method="tesla", protocol="mtt"))
        assert str(error.value) == (
            "the authors of tesla give no recipe for cifar10 at ipc 10; --recipe auto takes the nearest, and its verdict is "
            "then 'not comparable'"
        )
        (cell,) = reproduce.cells(claim(method="tesla", protocol="mtt"), seeds=1, recipe="auto")
        assert cell.distil.recipe == "auto"

    def test_residual_networks_are_those_that_the_field_uses_for_large_images(self):
        of = dict(method="sre2l", dataset="imagenet1k", protocol="sre2l-kd", network="ResNet18BN", ipc=50)
        assert reproduce.cells(claim(**of), seeds=1)[0].network == "torchvision:resnet18"

    def test_external_numbers_and_those_of_all_data_are_refused(self):
        with pytest.raises(
            LookupError, match="claim dm-1 can't be measured here: not in ddbench: protocol x"
        ):
            reproduce.cells(claim(protocol="x", external=("protocol",)))
        with pytest.raises(LookupError, match="claim dm-1 is of all of cifar10"):
            reproduce.cells(claim(method="full", ipc=0))

    def test_a_wrong_setting_is_said_with_its_flag(self):
        with pytest.raises(
            ValueError, match="--set: method 'dm' has no setting 'iteration'; nearest: iterations"
        ):
            reproduce.cells(claim(), settings={"iteration": "1"})


# ------------------------------------------------------------------------------------------------ what came out


class TestWatch:
    def test_a_number_of_the_best_snapshot_is_looked_for_as_its_authors_did(self):
        of = lambda method, **what: reproduce.watch_of(claim(method=method, chosen="best-snapshot", **what))  # noqa: E731
        assert reproduce.watch_of(claim(method="mtt")) is None
        assert of("mtt") == of("fyi+ftd") == of("somebodys") == reproduce.Watch(100, 5)
        assert of("tesla") == reproduce.Watch(100, 3)
        assert of("datm") == reproduce.Watch(500, 1)
        assert of("datm", ipc=500) == reproduce.Watch(1000, 1)
        assert of("datm", ipc=500, dataset="cifar100") == reproduce.Watch(500, 1)


class TestReport:
    def test_every_line_is_of_a_record_or_the_source(self):
        one = claim(std=0.6, note="read from a figure")
        made = reproduce.report(one, [one], [record(), record((0.499, 0.509), seed=1)])
        assert reproduce.facts(made) == {
            "claim": "dm-1: dm on cifar10, ipc 10, ConvNet under dc-dsa",
            "published": "48.9 ± 0.6 % (5 runs, as the protocol has it; not stated)",
            "source": "arXiv:2110.04181, Table 1",
            "note on it": "read from a figure",
            "measured": "49.9 ± 0.7 % (4 students of 2 sets; standard error 0.50)",
            "gap": "+1.0 points, 1.8 combined standard errors (published standard error 0.27)",
            "verdict": "reproduced",
            "recipe": "authors (their code)",
            "cost": "distillation 2,000.0 s, teachers 40.0 s, evaluation 6.0 s; peak 2,300 MiB; GPU of 9",
            "records": "k0 k1 (revision 012345678+)",
        }

    def test_without_a_record_there_is_no_number(self):
        made = reproduce.report(claim(n=3, quoted=True), [], [])
        assert reproduce.facts(made) == {
            "claim": "dm-1: dm on cifar10, ipc 10, ConvNet under dc-dsa",
            "published": "48.9 % (3 runs)",
            "source": "arXiv:2110.04181, Table 1 (quotes another paper)",
            "verdict": "not run",
        }
        assert reproduce.document(made)["measured"] is None and reproduce.document(made)["cost"] is None

    def test_a_run_that_was_cut_before_any_score_is_partial_and_says_how_far_it_came(self):
        made = reproduce.report(claim(), [], [], left=["stopped after 3 of 9 iterations", "no time"], asked=2)
        assert (made.standing.verdict, made.standing.mean) == ("not comparable", None)
        assert made.standing.reason == (
            "partial run: stopped after 3 of 9 iterations; 0 of 2 sets have a score; run again to go on"
        )

    def test_a_run_that_was_cut_later_stands_on_what_is_done_and_says_so(self):
        failed = record(seed=1, status="failed", reason="no", scores=[])
        made = reproduce.report(claim(), [], [record(), failed], left=["no time"], asked=3)
        assert made.standing.verdict == "reproduced"
        assert made.standing.note.endswith("; 1 of 3 sets so far (no time); run again to go on")

    def test_other_claims_of_the_cell_have_verdicts_of_their_own(self):
        claims = [
            claim(),
            claim(id="far", value=60.0, quoted=True, paper="x", source="there"),
            claim(id="un", network="MLP"),
        ]
        claims += [claim(id="elsewhere", ipc=1)]
        mlp = record(
            cell=record().cell.model_copy(update={"network": "MLP"}),
            key="m",
            scores=[],
            status="failed",
            reason="no",
        )
        made = reproduce.report(claims[0], claims, [record()], stored=[mlp, record()])
        assert reproduce.other_rows(made.others) == [
            {
                "claim": "un",
                "published": "48.9",
                "under": "dc-dsa, MLP",
                "verdict": "not run",
                "why": "failed: no",
                "source": "arXiv:2110.04181, Table 1",
            },
            {
                "claim": "far",
                "published": "60.0",
                "under": "dc-dsa, ConvNet",
                "verdict": "below (-10.6)",
                "why": "",
                "source": "quoted: there",
            },
        ]
        assert [o["claim"] for o in reproduce.document(made)["others"]] == ["un", "far"]

    def test_numbers_keep_the_digits_that_they_were_published_with(self):
        assert [reproduce.number(v) for v in (26.0, 44.19, 8.1)] == ["26.0", "44.19", "8.1"]


# ------------------------------------------------------------------------------------------------ the table


class TestTable:
    CLAIMS = (
        claim(),
        claim(id="dm-2", ipc=1, std=0.3),
        claim(id="dm-3", ipc=1, quoted=True, value=27.0, paper="ncfm"),
        claim(id="no-1", method="kip", external=("method",), paper="kip", source="a | b"),
        claim(id="t-1", task="cross-arch", paper="dm", network="MLP"),
    )

    def test_the_csv_has_every_claim_and_an_empty_cell_for_what_is_not_known(self):
        text = reproduce.csv_text(standings(self.CLAIMS, [record()]))
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [r["claim"] for r in rows] == ["dm-1", "dm-2", "dm-3", "no-1", "t-1"]
        assert [r["verdict"] for r in rows] == ["reproduced", *["not run"] * 4]
        assert (rows[0]["measured"], rows[0]["gap_points"], rows[0]["records"]) == ("49.4", "0.5", "k0")
        numbers = (
            "measured",
            "measured_std",
            "students",
            "sets",
            "gap_points",
            "gap_errors",
            "seconds",
            "peak_mib",
        )
        assert all(r[name] == "" for r in rows[1:] for name in numbers)
        assert rows[3]["source"] == "a | b" and rows[3]["external"] == "method"
        assert set(Claim.model_fields) - {"id", "value", "std", "n", "note", "recipe"} <= set(rows[0])

    def test_the_page_counts_every_claim_once_and_shows_measured_waiting_and_external_ones(self):
        page = reproduce.markdown(standings(self.CLAIMS, [record()]))
        lines = page.splitlines()
        assert "5 published numbers; 1 of them have a measurement beside them." in page
        first = [line.removeprefix("| ").split(" | ") for line in lines if line.startswith("| ")]
        counts = {name: count for name, count, *_ in first[2:9]}
        assert [counts[v] for v in (*VERDICTS, "external")] == ["1", "0", "0", "0", "2", "0", "2"]
        assert "| dm | 1 |  |  |  | 2 |  | 1 |" in lines
        assert "| 1 more, none of it measurable |  |  |  |  |  |  | 1 |" in lines
        measured = next(line for line in lines if line.startswith("| reproduced | dm | cifar10 | 10"))
        assert "48.9 | 49.4 ± 0.5 | 2 (1) | +0.5 | 1.0 |" in measured and measured.endswith("| `dm-1` |")
        assert "| dm | cifar10 | dc-dsa, ConvNet | 1: 48.9 ± 0.3, 27.0 (quoted) |  |" in lines
        assert "| [kip](published/kip.csv) | 1 | method kip | kip | cifar10 |" in lines
        assert "| [dm](published/dm.csv) | 1 | cross-arch | dm | cifar10 |" in lines

    def test_numbers_without_a_recipe_are_apart_from_those_that_wait(self):
        none = claim(id="dc-9", method="dc", ipc=500, paper="dc")
        page = reproduce.markdown(standings([none, claim()], []))
        waiting, _, rest = page.partition("## No recipe")
        assert "| dc | cifar10 | dc-dsa" not in waiting and "| dm | cifar10 | dc-dsa" in waiting
        assert "500: the authors of dc give no recipe for cifar10 at ipc 500 |" in rest
        assert "| no recipe | 1 |" in waiting

    def test_a_caveat_and_the_notes_stand_beside_the_values(self):
        doubtful = claim(caveat="its test images are others", chosen="unstated")
        page = reproduce.markdown(standings([doubtful], [record()]))
        row = next(line for line in page.splitlines() if line.startswith("| not comparable | dm"))
        assert "| 49.4 ± 0.5 |" in row and "| +0.5 |" in row
        assert "its test images are others; which epoch the source reports is not stated" in row
        (line,) = csv.DictReader(io.StringIO(reproduce.csv_text(standings([doubtful], [record()]))))
        assert line["caveat"] == doubtful.caveat and line["claim_recipe"] == ""

    def test_claims_that_say_the_same_share_a_row_and_who_quotes_a_number_adds_nothing(self):
        twice = [claim(), claim(id="dm-9", paper="dm2")]
        page = reproduce.markdown(standings(twice, [record()]))
        assert page.count("| reproduced | dm ") == 1 and "| `dm-1` `dm-9` |" in page
        page = reproduce.markdown(
            standings([*twice, claim(id="q", quoted=True), claim(id="r", quoted=True, value=1)], [])
        )
        assert "| 10: 48.9, 1.0 (quoted) |" in page

    def test_training_on_all_data_is_counted_apart(self):
        page = reproduce.markdown(
            standings([claim(method="full", ipc=0, protocol="x", external=("protocol",))], [])
        )
        assert "1 numbers are of training on all data (`full`)" in page and page.endswith("None.\n")

    def test_names_of_a_long_list_are_counted(self):
        many = [claim(id=f"m{i}", method=f"m{i}", external=("method",)) for i in range(6)]
        page = reproduce.markdown(standings(many, []))
        assert "| 6 | method m0, m1, m2, m3 and 2 more | m0, m1, m2, m3 and 2 more | cifar10 |" in page

    def test_the_table_in_leaderboards_is_made_from_its_claims_and_records(self):
        """Made again by: ddbench reproduce --table --runs leaderboards --out leaderboards."""
        folder = Path(__file__).resolve().parent.parent / "leaderboards"
        found = standings(claims_.published(), store.RunFolder(folder).records())
        assert (folder / "reproduction.csv").read_text(encoding="utf-8") == reproduce.csv_text(found)
        assert (folder / "reproduction.md").read_text(encoding="utf-8") == reproduce.markdown(found)

    def test_bars_in_texts_do_not_break_the_table(self):
        assert reproduce._table([{"a": "x | y\nz"}]) == "| a |\n| --- |\n| x \\| y z |\n"

    def test_a_page_without_records_or_claims_is_whole(self):
        for page in (reproduce.markdown([]), reproduce.markdown(standings(self.CLAIMS[3:], []))):
            assert "No record fits a published number yet." in page
            assert "Every number that ddbench can measure has a measurement." in page
        assert reproduce.csv_text([]) == ""


# ------------------------------------------------------------------------------------------------ the command


TINY = [
    claim(
        id="toy-1", paper="toy", method="random", dataset="digits", network="MLP", protocol="ncfm-40", ipc=1,
        value=45.0, std=9.0, source="a page of the tests",
    ),
    claim(
        id="toy-2", paper="toy", method="random", dataset="digits", network="MLP", protocol="ncfm-40", ipc=1,
        value=5.0, std=0.1, source="another page", quoted=True,
    ),
    claim(
        id="toy-3", paper="toy", method="dm", dataset="digits", network="MLP", protocol="ncfm-40", ipc=1, value=5.0,
        source="a third page",
    ),
]  # fmt: skip
RANDOM = (
    "reproduce",
    "random",
    "--dataset",
    "digits",
    "--ipc",
    1,
    "--repeats",
    2,
    "--seeds",
    2,
    "--device",
    "cpu",
)


@pytest.fixture
def ddbench(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ddbench]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(claims_, "published", lambda *a, **k: TINY)
    before = dict(registry._added)

    yield program(capfd)
    registry._added.clear()
    registry._added.update(before)


class TestCommand:
    def test_it_runs_the_cells_and_ends_with_published_measured_gap_verdict_and_cost(self, ddbench, tmp_path):
        said = ddbench(*RANDOM)
        assert said.status == 0, said.err
        lines = dict(line.split(": ", 1) for line in said.out.splitlines() if ": " in line)
        records = store.RunFolder(tmp_path / "runs").records()
        assert len(records) == 2 and {r.recipe for r in records} == {"defaults"}
        mean = 100 * sum(s.value for r in records for s in r.scores if s.chosen_by == "last") / 4
        assert lines["claim"] == "toy-1: random on digits, ipc 1, MLP under ncfm-40"
        assert (
            lines["measured"].startswith(f"{mean:.1f} ± ") and "(4 students of 2 sets; " in lines["measured"]
        )
        assert lines["gap"].startswith(f"{mean - 45:+.1f} points, ")
        assert lines["verdict"] == "reproduced"
        assert lines["cost"].startswith("distillation ") and lines["cost"].endswith("MiB; cpu")
        assert set(lines["records"].split(" (")[0].split()) == {r.key for r in records}
        assert "other claims of this cell:" in said.out and "quoted: another page" in said.out
        assert "above (" in said.out and said.out.endswith("2 cells: 2 done\n")
        assert "there are other claims of this cell (--claim): toy-2" in said.err

        again = ddbench(*RANDOM, "--json")
        assert again.status == 0
        assert again.json["verdict"] == "reproduced" and again.json["measured"] == pytest.approx(mean)
        assert [c["status"] for c in again.json["cells"]] == ["cached", "cached"]
        assert again.json["cost"]["device"] == "cpu" and again.json["claim"] == "toy-1"
        assert [(o["claim"], o["verdict"]) for o in again.json["others"]] == [("toy-2", "above")]

        quoted = ddbench(*RANDOM, "--claim", "toy-2", "--quiet")
        assert "verdict: above" in quoted.out and not quoted.err

        made = ddbench("reproduce", "--table", "--runs", "runs", "--out", "boards")
        assert made.status == 0
        assert made.out.splitlines() == [
            "3 published numbers: 1 reproduced, 1 above, 1 no recipe",
            *(str(Path("boards") / name) for name in ("reproduction.md", "reproduction.csv")),
        ]
        assert f"{mean:.1f} ± " in Path("boards/reproduction.md").read_text(encoding="utf-8")
        as_json = ddbench("reproduce", "--table", "--json").json
        assert (
            as_json["counts"] == {"reproduced": 1, "above": 1, "no recipe": 1} and len(as_json["rows"]) == 2
        )

    def test_a_setting_or_recipe_of_ones_own_is_not_comparable(self, ddbench):
        mine = (
            "reproduce",
            "dm",
            "--dataset",
            "digits",
            "--ipc",
            1,
            "--repeats",
            1,
            "--seeds",
            1,
            "--device",
            "cpu",
        )
        refused = ddbench(*mine)
        assert refused.status == 2
        assert "error: the authors of dm give no recipe for digits at ipc 1; --recipe auto" in refused.err
        small = ("--set", "iterations=2", "--set", "network=MLP", "--set", "batch_real=8")
        said = ddbench(*mine, "--recipe", "digits", *small)
        assert said.status == 0, said.err
        assert "verdict: not comparable: other recipe: digits with settings of one's own (" in said.out
        assert "gap: " in said.out

    def test_a_run_that_the_time_cut_is_partial_and_goes_on_in_the_next(self, ddbench, tmp_path):
        slow = tmp_path / "slow.py"
        slow.write_text(
            '''
"""A method of the tests that loops."""
import time
from dataclasses import dataclass
from ddbench.registry import method

@method(family="made up", labels="hard")
@dataclass(frozen=True)
class Slow:
    def distill(self, task):
        images, ids = task.train.images[: task.ipc * 10].float() / 255, task.train.labels[: task.ipc * 10]
        keep = [task.train.of_class(c)[: task.ipc] for c in range(task.train.classes)]
        import torch
        state = {}
        for it in task.loop(200, state=[state]):
            time.sleep(0.01)
        return task.distilled(subset=torch.cat(keep))
''',
            encoding="utf-8",
        )
        TINY.append(claim(**TINY[0].model_dump() | dict(id="slow-1", method="slow", paper="slow")))
        try:
            call = (
                "reproduce", "slow", "--dataset", "digits", "--ipc", 1, "--repeats", 1, "--seeds", 1, "--device", "cpu",
                "--plugin", slow,
            )  # fmt: skip
            cut = ddbench(*call, "--time-budget", "1s")
            assert cut.status == 0, cut.err
            assert "verdict: not comparable: partial run: " in cut.out and " of 200 iterations" in cut.out
            assert "0 of 1 sets have a score; run again to go on" in cut.out
            assert "measured: " not in cut.out and "gap: " not in cut.out
            whole = ddbench(*call)
            assert whole.status == 0 and "verdict: " in whole.out and "partial" not in whole.out
            (made,) = store.RunFolder(tmp_path / "runs").records()
            assert made.spent.iterations == 200
        finally:
            TINY.pop()

    def test_a_failed_cell_says_why_and_ends_with_1(self, ddbench, tmp_path):
        bad = tmp_path / "bad.py"
        bad.write_text(
            '"""A method of the tests that fails."""\nfrom dataclasses import dataclass\n'
            'from ddbench.registry import method\n\n@method(family="made up")\n@dataclass(frozen=True)\nclass Bad:\n'
            '    def distill(self, task):\n        raise ValueError("no luck")\n',
            encoding="utf-8",
        )
        TINY.append(claim(**TINY[0].model_dump() | dict(id="bad-1", method="bad", paper="bad")))
        try:
            said = ddbench(
                "reproduce",
                "bad",
                "--dataset",
                "digits",
                "--ipc",
                1,
                "--seeds",
                1,
                "--plugin",
                bad,
                "--device",
                "cpu",
            )
        finally:
            TINY.pop()
        assert said.status == 1
        assert "verdict: not run: failed: ValueError: no luck" in said.out and "1 cell: 1 failed" in said.out

    def test_a_dry_run_runs_nothing(self, ddbench, tmp_path):
        said = ddbench(*RANDOM, "--dry-run")
        assert said.status == 0 and not (tmp_path / "runs").exists()
        assert said.out.splitlines() == [
            "claim: toy-1: random on digits, ipc 1",
            "published: 45.0 ± 9.0 %",
            "source: a page of the tests",
            "would run: 2 sets (seeds 0, 1), 2 students each: MLP under ncfm-40",
            "recipe: defaults",
            "settings: none",
            "",
            "other claims of this cell (--claim):",
            "claim  published  under         why  source",
            "toy-2  5.0 ± 0.1  ncfm-40, MLP       quoted: another page",
        ]
        plan = ddbench(*RANDOM, "--dry-run", "--json").json
        assert len(plan["cells"]) == 2 and plan["others"][0]["id"] == "toy-2"

    def test_the_id_of_a_claim_says_all_that_is_to_be_run(self, ddbench):
        whole = ddbench(*RANDOM, "--claim", "toy-2", "--dry-run", "--json").json
        alone = ddbench(
            "reproduce", "--claim", "toy-2", "--seeds", 2, "--repeats", 2, "--dry-run", "--json"
        ).json
        assert alone == whole and alone["claim"]["id"] == "toy-2"
        half = ddbench("reproduce", "random", "--claim", "toy-2", "--dry-run")
        assert half.status == 0 and half.out.startswith("claim: toy-2: random on digits, ipc 1\n")

    def test_tables_are_narrow_and_the_document_is_whole(self, ddbench):
        long = "a page of many words, " * 10
        TINY.append(TINY[1].model_copy(update={"id": "toy-long", "source": long}))
        try:
            said = ddbench(*RANDOM, "--dry-run").out
            document = ddbench(*RANDOM, "--dry-run", "--json").json
        finally:
            TINY.pop()
        (row,) = [line for line in said.splitlines() if line.startswith("toy-long ")]
        assert row.endswith("...") and len(row) < 120
        assert long in [other["source"] for other in document["others"]]

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (("--claim", "toy-9"), "no claim 'toy-9'; nearest: toy-"),
            (("dm", "--claim", "unheard of"), "no claim 'unheard of'; known: toy-1, toy-2"),
            (("dm", "--claim", "toy-2"), "claim toy-2 is of random on digits at ipc 1, not of dm on digits at ipc 1"),
            ((), "METHOD, --dataset, --ipc missing; expected: ddbench reproduce METHOD --dataset NAME --ipc N"),
            (("dm",), "--dataset, --ipc missing"),
            (("dm", "--table"), "--table is of all claims, and METHOD was given"),
            (("--table", "--runs", "none"), "no run folder none; expected one (see: ddbench run --runs DIR)"),
            ((*RANDOM[1:], "--runs", "a", "--runs", "b"), "--runs was given 2 times; expected one run folder"),
            (("rundom", "--dataset", "digits", "--ipc", "1"), "nearest: random"),
            (("random", "--dataset", "digits", "--ipc", "5"), "on digits there is ipc 1"),
            ((*RANDOM[1:], "--claim", "toy-9"), "no claim 'toy-9'; those of random on digits at ipc 1: toy-1, toy-2"),
            ((*RANDOM[1:], "--seeds", "x"), "--seeds is 'x'"),
            ((*RANDOM[1:], "--set", "a=1"), "method 'random' has no setting 'a'"),
        ],
    )  # fmt: skip
    def test_what_makes_no_sense_is_refused_with_the_way_out(self, ddbench, given, said):
        found = ddbench("reproduce", *given)
        assert found.status == 2 and found.err.startswith("error: ") and said in found.err
        assert not found.out
