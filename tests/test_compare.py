"""Paired tests: the numbers are those of scipy, pairs are what they should be, and what does not pair is said."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ddbench import api, board, cli, compare, data, sets, store, verdicts, verify
from ddbench.records import Cell, DistilCell, Provenance, Record, Score


def record(
    method: str = "dm",
    value: float | tuple[float, ...] = 0.5,
    seed: int = 0,
    *,
    dataset: str = "digits",
    ipc: int = 10,
    protocol: str = "quick",
    version: str = "1.0",
    network: str = "MLP",
    recipe: str = "cpu",
    created: str = "2026-01-01T00:00:00+00:00",
    precision: str = "fp32",
    status: str = "ok",
    data: str = "d1",
    students: int | None = None,
    own: dict | None = None,
    **fields,
) -> Record:
    values = value if isinstance(value, tuple) else (value,)
    distil = DistilCell(method=method, recipe="auto", settings=own or {}, dataset=dataset, ipc=ipc, seed=seed)
    scores = [
        Score(value=v, network=network, seed=100 * (students or seed) + i) for i, v in enumerate(values)
    ]
    return Record(
        key=f"{method}-{dataset}-{ipc}-{seed}-{recipe}-{created}",
        set_key="s",
        cell=Cell(distil=distil, protocol=protocol, network=network, repeats=len(values)),
        status=status,
        recipe=recipe,
        protocol_version=version,
        data_fingerprint=data,
        scores=scores,
        provenance=Provenance(ddbench="0", precision=precision),
        created=created,
        **fields,
    )


def pairs(values: list[tuple[float, float]], **what) -> list[Record]:
    return [
        r
        for s, (a, b) in enumerate(values)
        for r in (record("dm", a, s, **what), record("mtt", b, s, **what))
    ]


FIVE = [(0.51, 0.45), (0.53, 0.50), (0.49, 0.48), (0.55, 0.49), (0.52, 0.47)]


class TestNumbers:
    def test_are_those_of_scipys_paired_t_test(self):
        (found,) = compare.methods(pairs(FIVE), "dm", "mtt").lines
        a, b = ([100 * pair[i] for pair in FIVE] for i in (0, 1))
        expected = stats.ttest_rel(a, b)
        interval = expected.confidence_interval(0.95)
        assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
        assert (found.n, found.a, found.b) == (5, pytest.approx(52.0), pytest.approx(47.8))
        assert found.difference == pytest.approx(4.2) and found.verdict == "A is better"
        assert found.p_wilcoxon is None

    def test_from_six_pairs_on_there_is_wilcoxons_test(self):
        six = [*FIVE, (0.40, 0.47)]
        (found,) = compare.methods(pairs(six), "dm", "mtt").lines
        expected = stats.wilcoxon([round(100 * (a - b), 9) for a, b in six]).pvalue
        assert found.p_wilcoxon == pytest.approx(expected) and found.verdict == "no difference shown"

    def test_the_other_way_round_has_the_same_p_and_the_opposite_sign(self):
        (ab,), (ba,) = (
            compare.methods(pairs(FIVE), *names).lines for names in (("dm", "mtt"), ("mtt", "dm"))
        )
        assert (ab.difference, ab.low, ab.p) == (-ba.difference, -ba.high, pytest.approx(ba.p))
        assert ba.verdict == "B is better"

    def test_a_single_pair_has_neither_interval_nor_p(self):
        (found,) = compare.methods(pairs(FIVE[:1]), "dm", "mtt").lines
        assert (found.low, found.high, found.p, found.p_wilcoxon) == (None,) * 4
        assert found.verdict == "one pair, no test"

    def test_equal_differences_give_the_limits_and_no_warning(self):
        assert compare.t_test([0.0] * 3) == 1.0 and compare.t_test([0.1, 0.1, 0.1]) == 0.0
        assert compare.t_test([0.3 - 0.2, 0.2 - 0.1, 0.1]) == pytest.approx(0.0, abs=1e-20)
        assert compare.signed_rank([0.0] * 6) == 1.0 and compare.signed_rank([1.0] * 5) is None

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.floats(-50, 50), min_size=2, max_size=20))
    def test_p_values_are_probabilities(self, differences):
        p, w = compare.t_test(differences), compare.signed_rank(differences)
        assert p is not None and 0 <= p <= 1
        assert (w is None) == (len(differences) < 6) and (w is None or 0 <= w <= 1)

    def test_there_is_one_standard_error_of_a_mean_for_all(self):
        values = [1.0, 3.0, 5.0]
        assert compare.standard_error(values) == pytest.approx(stats.sem(values))
        assert compare.standard_error([1.0]) is None and compare.standard_error([]) is None
        assert verdicts.error_of_mean([values]) == compare.standard_error(values)
        assert verify._mean_error(values) == (3.0, compare.standard_error(values))

    def test_boards_take_their_intervals_from_here(self):
        assert board.mean_interval is compare.mean_interval
        low, high = compare.mean_interval([1.0, 2.0, 3.0])
        half = 4.302653 / math.sqrt(3)
        assert (low, high) == (pytest.approx(2 - half, abs=1e-6), pytest.approx(2 + half, abs=1e-6))
        assert compare.mean_interval([1.0]) is None


class TestPairs:
    def test_students_are_averaged_before_sets_are_paired(self):
        records = [record("dm", (0.5, 0.7)), record("mtt", (0.4, 0.4, 0.4))]
        (found,) = compare.methods(records, "dm", "mtt").lines
        assert (found.n, found.difference) == (1, pytest.approx(20))

    def test_only_equal_seeds_of_equal_cells_pair(self):
        apart = [
            {"protocol": "dc-dsa"},
            {"version": "2.0"},
            {"network": "LeNet"},
            {"ipc": 1},
            {"precision": "bf16"},
            {"data": "d2"},
            {"dataset": "mnist"},
            {"seed": 1},
        ]
        for what in apart:
            with pytest.raises(ValueError, match="nothing pairs dm with mtt: "):
                compare.methods([record("dm"), record("mtt", **what)], "dm", "mtt")
        spelt = [record("dm", network="ConvNet"), record("mtt", network="ConvNetD3W128", version="1.0.3")]
        assert compare.methods(spelt, "dm", "mtt").lines[0].n == 1

    def test_what_keeps_them_apart_is_said(self):
        cases = [
            (
                {"protocol": "dc-dsa"},
                "dm seed 0 of digits ipc 10, quick 1.0, MLP: mtt has protocol dc-dsa instead",
            ),
            ({"data": "d2"}, "mtt has data fingerprint d2 instead"),
            ({"seed": 3}, "dm seed 0 of digits ipc 10, quick 1.0, MLP: mtt has seed 3"),
            ({"dataset": "mnist", "data": "m", "protocol": "dc"}, "mtt was not scored there"),
            ({"labelled_by": ["x"]}, "mtt learned from labels of other networks"),
        ]
        for what, said in cases:
            with pytest.raises(ValueError) as error:
                compare.methods([record("dm"), record("mtt", **what)], "dm", "mtt")
            assert said in str(error.value)

    def test_labels_of_the_same_networks_pair_and_a_floor_may_have_them_by_a_setting(self):
        records = [
            record("cvdd", 0.6, labelled_by=["a", "b"]),
            record("random", 0.5, labelled_by=["a"]),
            record("random", 0.4, labelled_by=["a", "b"], own={"labels": "committee"}),
            record("random", 0.1, labelled_by=["a", "b"], own={"per_class": 3}),
        ]
        (found,) = compare.methods(records, "cvdd", "random").lines
        assert (found.n, found.b) == (1, pytest.approx(40))

    def test_of_a_cell_that_was_measured_again_the_newest_stands(self):
        later = record("dm", 0.9, created="2026-02-01T00:00:00+00:00")
        (found,) = compare.methods([later, record("dm", 0.1), record("mtt", 0.5)], "dm", "mtt").lines
        assert found.a == pytest.approx(90)

    def test_partial_failed_and_other_scores_do_not_count(self):
        snapshot = Score(value=0.99, network="MLP", seed=1, chosen_by="best-snapshot", chosen_on="test")
        best = record("dm", 0.5).model_copy(update={"scores": [*record("dm", 0.5).scores, snapshot]})
        records = [best, record("mtt", 0.4), *pairs([(0.9, 0.1)], status="failed")]
        done = compare.methods([*records, record("dm", 0.8, 7, status="partial")], "dm", "mtt")
        assert [(x.n, x.a) for x in done.lines] == [(1, pytest.approx(50))]
        assert done.left_out == ("1 of dm cut short by a time budget",)

    def test_seeds_without_a_partner_are_named_where_others_pair(self):
        done = compare.methods([*pairs(FIVE[:2]), record("dm", 0.6, 8)], "dm", "mtt")
        assert done.lines[0].n == 2
        assert done.left_out == ("dm seed 8 of digits ipc 10, quick 1.0, MLP: mtt has seeds 0, 1",)


class TestGroups:
    def test_each_cell_has_a_line_and_counts_once_in_the_combined_one(self):
        records = pairs(FIVE) + pairs([(0.6, 0.5)], ipc=1) + pairs([(0.7, 0.5)], dataset="mnist", data="m")
        done = compare.methods(records, "dm", "mtt")
        assert [(x.where["dataset"], x.where["ipc"], x.n) for x in done.lines] == [
            ("digits", 1, 1),
            ("digits", 10, 5),
            ("mnist", 10, 1),
        ]
        assert done.combined.n == 3 and done.combined.difference == pytest.approx((10 + 4.2 + 20) / 3)
        assert done.combined.p == pytest.approx(stats.ttest_1samp([10, 4.2, 20], 0).pvalue)

    def test_may_be_narrowed(self):
        records = pairs(FIVE) + pairs(FIVE, ipc=1) + pairs(FIVE, network="LeNet")
        for what in ({"ipc": 1}, {"networks": ["LeNet"]}):
            done = compare.methods(records, "dm", "mtt", **what)
            assert len(done.lines) == 1 and done.combined is None
        for what, said in (
            (
                {"dataset": "svhn", "networks": ["LeNet"]},
                "of dataset svhn, LeNet; expected what there is: dataset digits",
            ),
            ({"protocol": "nope"}, "of protocol nope; expected what there is: protocol quick"),
            ({"ipc": 3, "protocol": "x"}, "expected what there is: ipc 1, 10; protocol quick"),
            (
                {"ipc": 1, "networks": ["LeNet"]},
                "of ipc 1, LeNet; expected one of these cells: digits ipc 1, quick 1.0, MLP; digits ipc 10, quick 1.0, LeNet; "
                "digits ipc 10, quick 1.0, MLP",
            ),
        ):
            with pytest.raises(LookupError) as error:
                compare.methods(records, "dm", "mtt", **what)
            assert str(error.value).startswith("no record with a score of ") and str(error.value).endswith(
                said
            )
        with pytest.raises(
            LookupError, match=r"no record with a score; expected a run folder with some \(see: ddbench run"
        ):
            compare.methods([], "dm", "mtt")


class TestNames:
    def test_a_recipe_and_settings_may_be_named_and_must_be_where_several_fit(self):
        records = [
            record("dm", 0.5),
            record("dm", 0.6, recipe="authors"),
            record("dm", 0.7, own={"lr": 3}),
            record("mtt", 0.4),
        ]
        with pytest.raises(LookupError, match="dm was run under the recipes authors, cpu for digits ipc 10"):
            compare.methods(records, "dm", "mtt")
        for name, a in (("dm:cpu", 50), ("dm:authors", 60), ("dm:cpu:lr=3", 70)):
            assert compare.methods(records, name, "mtt").lines[0].a == pytest.approx(a)
        assert compare.methods(records, "dm:cpu:lr=3", "dm:cpu").lines[0].difference == pytest.approx(20)

    def test_several_settings_without_a_plain_one_must_be_told_apart(self):
        records = [record("dm", 0.5, own={"lr": lr}) for lr in (1, 3)] + [record("mtt")]
        with pytest.raises(LookupError, match=r"several settings .*: lr=1; lr=3; name one: dm:cpu:lr=1"):
            compare.methods(records, "dm", "mtt")
        assert compare.methods(records[1:], "dm", "mtt").lines[0].n == 1

    def test_the_plain_one_is_taken_where_others_have_settings_and_that_is_said(self):
        swept = [record("dm", 0.9, own={"lr": lr}) for lr in (1, 3)]
        there = "digits ipc 10, quick 1.0, MLP"
        done = compare.methods([*swept, *pairs(FIVE[:1])], "dm", "mtt")
        assert done.lines[0].a == pytest.approx(51)
        assert done.taken == (f"dm is dm:cpu:none, without dm:cpu:lr=1, dm:cpu:lr=3 ({there})",)
        done = compare.methods([*swept, *pairs(FIVE[:1])], "mtt", "dm:cpu")
        assert done.taken == (f"dm:cpu is dm:cpu:none, without dm:cpu:lr=1, dm:cpu:lr=3 ({there})",)
        done = compare.methods([*swept, *pairs(FIVE[:1])], "dm:cpu:none", "dm:cpu:lr=3")
        assert done.lines[0].difference == pytest.approx(51 - 90) and done.taken == ()

    def test_the_only_settings_of_a_cell_are_taken_and_named_by_cell(self):
        records = [
            *pairs(FIVE[:1], own={"lr": 3}),
            *pairs(FIVE[:1], ipc=1),
            record("dm", ipc=50, own={"lr": 9}),
        ]
        done = compare.methods(records, "dm", "mtt")
        assert done.taken == (
            "dm is dm:cpu:lr=3 (digits ipc 10, quick 1.0, MLP)",
            "mtt is mtt:cpu:lr=3 (digits ipc 10, quick 1.0, MLP)",
        )
        assert compare.methods(pairs(FIVE), "dm", "mtt").taken == ()

    def test_what_a_floor_leaves_out_is_said(self):
        records = [record("dm"), record("random", 0.5), record("random", 0.1, own={"per_class": 3})]
        done = compare.methods(records, "dm", "random")
        assert done.lines[0].b == pytest.approx(50) and done.taken == (
            "random is random:cpu:none, without random:cpu:per_class=3 (digits ipc 10, quick 1.0, MLP)",
        )

    def test_recipes_of_different_cells_do_not_clash(self):
        records = pairs(FIVE) + pairs(FIVE, dataset="mnist", recipe="authors")
        assert len(compare.methods(records, "dm", "mtt").lines) == 2

    def test_unknown_ones_are_answered_with_what_there_is(self):
        records = pairs(FIVE)
        with pytest.raises(
            LookupError, match="no scored record of method 'dc' here; there are some of: dm, mtt"
        ):
            compare.methods(records, "dc", "mtt")
        with pytest.raises(LookupError, match="dm with recipe 'x'; there are: cpu"):
            compare.methods(records, "dm:x", "mtt")
        with pytest.raises(LookupError, match="dm with settings 'lr=3'; there are: none"):
            compare.methods(records, "dm:cpu:lr=3", "mtt")
        with pytest.raises(ValueError, match="'dm' is compared with itself"):
            compare.methods(records, "dm", "dm")


class TestSets:
    def test_are_paired_student_by_student(self):
        a, b = record("dm", (0.5, 0.6, 0.7), students=1), record("mtt", (0.4, 0.55, 0.6), students=1)
        done = compare.sets("a", "b", [a], [b])
        expected = stats.ttest_rel([50, 60, 70], [40, 55, 60])
        assert done.lines[0].n == 3 and done.lines[0].p == pytest.approx(expected.pvalue)
        assert done.combined is None and done.pairs_of == "students of one seed"
        assert done.scope.startswith("the verdict is of these two sets only: ")
        assert "of the methods it says nothing" in done.scope
        assert compare.methods(pairs(FIVE), "dm", "mtt").scope == ""

    def test_of_other_data_or_students_are_refused(self):
        one = record("dm", (0.5, 0.6), students=1)
        with pytest.raises(ValueError, match="a and b were not scored by the same students of MLP"):
            compare.sets("a", "b", [one], [record("mtt", (0.5, 0.6), students=2)])
        with pytest.raises(
            ValueError, match="a and b cannot be compared: dataset digits and mnist; expected"
        ):
            compare.sets("a", "b", [one], [record("mtt", (0.5, 0.6), students=1, dataset="mnist")])
        with pytest.raises(ValueError, match="b was not scored with MLP"):
            compare.sets("a", "b", [one], [record("mtt", (0.5, 0.6), students=1, network="LeNet")])

    def test_of_unequal_size_may_be_compared_and_the_line_says_both(self):
        a, b = record("dm", 0.5, students=1), record("mtt", 0.4, students=1, ipc=1)
        assert compare.place(compare.sets("a", "b", [a], [b]).lines[0].where).startswith(
            "digits ipc 1 and 10"
        )


class TestCommand:
    @pytest.fixture
    def runs(self, tmp_path):
        folder = store.RunFolder(tmp_path / "runs")
        for r in [*pairs(FIVE), *pairs(FIVE, ipc=1), record("dm", 0.5, 9)]:
            folder.write_record(r)
        return folder.path

    def said(self, capsys, *arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return end.value.code, out, err

    def test_shows_a_line_a_cell_and_the_combined_one(self, runs, capsys):
        status, out, err = self.said(capsys, "compare", "dm", "mtt", "--runs", runs)
        assert status == 0 and "A is better" in out and "over these 2 cells, each counted once:" in out
        assert "+4.20" in out and "0.0" in out
        assert err.splitlines() == [
            "warning: not compared: dm seed 9 of digits ipc 10, quick 1.0, MLP: mtt has seeds 0, 1, 2, 3, 4"
        ]

    def test_says_what_an_open_name_was_taken_for_in_text_and_json(self, runs, capsys):
        store.RunFolder(runs).write_record(
            record("dm", 0.9, own={"lr": 3}).model_copy(update={"key": "swept"})
        )
        arguments = ("compare", "dm", "mtt", "--runs", runs, "--ipc", 10)
        said = "dm is dm:cpu:none, without dm:cpu:lr=3 (digits ipc 10, quick 1.0, MLP)"
        assert f"\ntaken: {said}\n" in self.said(capsys, *arguments)[1]
        document = json.loads(self.said(capsys, *arguments, "--json")[1])
        assert document["taken"] == [said] and document["scope"] == ""
        status, _, err = self.said(capsys, "compare", "dm", "mtt", "--runs", runs, "--protocol", "nope")
        assert status == 2 and err.endswith("of protocol nope; expected what there is: protocol quick\n")

    def test_gives_everything_as_json(self, runs, capsys):
        status, out, _ = self.said(capsys, "compare", "dm", "mtt", "--runs", runs, "--ipc", 10, "--json")
        document = json.loads(out)
        assert (
            status == 0 and document["lines"][0]["verdict"] == "A is better" and document["combined"] is None
        )
        assert len(document["lines"][0]["differences"]) == 5

    def test_refuses_a_set_beside_a_method_and_options_that_do_not_belong(self, runs, capsys):
        status, _, err = self.said(capsys, "compare", "dm", "x.safetensors", "--runs", runs)
        assert status == 2 and "one of dm and x.safetensors is a set and the other a method" in err
        status, _, err = self.said(capsys, "compare", "a.safetensors", "b.safetensors", "--ipc", 1)
        assert status == 2 and "--ipc and --runs choose records of methods" in err
        status, _, err = self.said(capsys, "compare", "dm", "mtt", "--runs", runs, "--network", "MPL")
        assert status == 2 and "MPL" in err

    def test_two_sets_are_evaluated_with_the_same_students(self, tmp_path, capsys):
        real = data.load("digits")
        paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
        for path, ipc in zip(paths, (5, 2), strict=True):
            keep = torch.cat([real.train.of_class(c)[:ipc] for c in range(10)])
            sets.write(path, api.as_set(real.train.images[keep], real.train.labels[keep], real))
        arguments = ("--network", "MLP", "--repeats", 3, "--device", "cpu")
        status, out, _ = self.said(capsys, "compare", *paths, *arguments, "--json")
        document = json.loads(out)
        assert document["scope"] == compare.OF_TWO_SETS
        (line,) = document["lines"]
        assert status == 0 and line["n"] == 3 and line["difference"] > 0
        assert line["where"]["ipc"] == "2 and 5"
        assert self.said(capsys, "compare", *paths, *arguments)[1].endswith(f"\n\n{compare.OF_TWO_SETS}\n")
