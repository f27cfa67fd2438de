import math
import subprocess
import sys

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddbench import board
from ddbench.board import human_bytes, kinds, plots, ranks, text
from ddbench.claims import Claim
from ddbench.commands.board import KINDS
from ddbench.records import Bytes, Cell, DistilCell, Provenance, Record, Score, Spent


def record(
    method="random", seed=0, values=(0.5,), ipc=1, protocol="quick", status="ok", network="ConvNet", **what
):
    distil = DistilCell(
        method=method, dataset="digits", ipc=ipc, seed=seed, settings=what.pop("settings", {})
    )
    fields = dict(
        key=f"{method}-{ipc}-{seed}-{protocol}-{network}-{status}",
        set_key="s",
        cell=Cell(distil=distil, protocol=protocol, network=network, repeats=max(len(values), 1)),
        status=status,
        protocol_version="1.0.3",
        recipe="defaults",
        family="coreset",
        data_fingerprint="d",
        scores=[Score(value=v, network=network, seed=i) for i, v in enumerate(values)],
        bytes=Bytes(images=640, labels=10),
        spent=Spent(distil_s=1.0),
        provenance=Provenance(ddbench="0", device="cpu"),
        created=f"2026-01-01T00:00:0{seed}Z",
    )
    return Record(**(fields | what))


def row(records, **where):
    table = board.make(records)[0].table
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_accuracy_is_pooled_over_students_and_the_deviation_is_the_population_one():
    r = row([record(seed=0, values=(0.1, 0.3)), record(seed=1, values=(0.5, 0.7))], method="random")
    assert r["top1_pct_mean"] == pytest.approx(40)
    assert r["top1_pct_std"] == pytest.approx(math.sqrt(500))
    assert (r["n"], r["distillations"]) == (4, 2)


def test_interval_counts_distillations_with_students_averaged_first():
    r = row([record(seed=s, values=(v, v + 0.1)) for s, v in enumerate((0.1, 0.2, 0.3))], method="random")
    # means 15, 25, 35: deviation 10, t(0.975, 2) = 4.302653
    assert r["ci95_high_pct"] - 25 == pytest.approx(4.302653 * 10 / math.sqrt(3), abs=1e-4)
    assert pd.isna(row([record()], method="random")["ci95_low_pct"])


def test_difference_from_random_is_paired_by_seed_and_uses_only_shared_seeds():
    records = [record(seed=s, values=(v,)) for s, v in enumerate((0.10, 0.30, 0.50))]
    records += [record("dm", seed=s, values=(v,)) for s, v in ((0, 0.20), (1, 0.42), (7, 0.9))]
    r = row(records, method="dm")
    assert r["vs_random_pct"] == pytest.approx(11)
    assert r["vs_random_n"] == 2
    assert r["vs_random_high_pct"] - 11 == pytest.approx(12.7062 * math.sqrt(2) / math.sqrt(2), abs=1e-3)


def labelled(method, value, by, seed=0, labels="teacher, stored", **what):
    said = "; ".join(f"ConvNetBN {key}, 97.0 % held out" for key in by)
    notes = {"labels": f"the set's own {said}; every view of 9 epochs stored"}
    fields = dict(protocol="quick-kd", labels=labels, labelled_by=list(by), notes=notes)
    return record(method, seed=seed, values=(value,), **(fields | what))


ONE, TWO = "0123456789abcdef", "fedcba9876543210"


def test_under_teacher_labels_a_method_is_paired_with_random_images_of_the_same_labels_only():
    records = [
        labelled("random", 0.50, [ONE]),
        labelled("random", 0.70, [ONE, TWO], settings={"labels": "committee"}),
        labelled("cvdd", 0.75, [ONE, TWO]),
        labelled("cda", 0.55, [ONE]),
        labelled("rded", 0.90, [TWO]),
    ]
    gains = {m: row(records, method=m)["vs_random_pct"] for m in ("cvdd", "cda", "rded")}
    assert gains == {
        "cvdd": pytest.approx(5),
        "cda": pytest.approx(5),
        "rded": pytest.approx(math.nan, nan_ok=True),
    }
    assert pd.isna(row(records, method="rded")["vs_random_n"])
    text = board.markdown(board.make(records)[0])
    assert "| +5.0 n=1" in text and "and the same networks labelled both" in text


def test_labels_are_paired_seed_by_seed_and_a_random_without_settings_stands_before_others():
    records = [
        labelled("random", 0.5, [ONE]),
        labelled("random", 0.1, [ONE], settings={"labels": "teacher"}),
        labelled("random", 0.6, [TWO], seed=1),
        labelled("random", 0.0, [TWO], seed=2, settings={"per_class": 3}),  # of other images
        *(
            labelled("cda", v, [key], seed=s)
            for s, (v, key) in enumerate(((0.6, ONE), (0.9, ONE), (0.9, TWO)))
        ),
    ]
    r = row(records, method="cda")
    assert (r["vs_random_pct"], r["vs_random_n"]) == (pytest.approx(10), 1)


def test_hard_labels_pair_whatever_is_said_of_labels_and_old_records_go_by_their_note():
    assert row([record(values=(0.5,)), record("dm", values=(0.6,))], method="dm")["vs_random_n"] == 1
    old = [labelled(m, v, [ONE], labelled_by=[]) for m, v in (("random", 0.5), ("cda", 0.6))]
    other = labelled("cvdd", 0.9, [ONE, TWO], labelled_by=[])
    assert row([*old, other], method="cda")["vs_random_pct"] == pytest.approx(10)
    assert pd.isna(row([*old, other], method="cvdd")["vs_random_pct"])


def test_the_page_says_what_students_learned_from_who_labelled_and_what_stands_beside(tmp_path):
    beside = Bytes(images=640, labels=10, beside={"teacher a": 40_000_000, "teacher b": 4_700_000})
    records = [
        labelled("random", 0.5, [ONE]),
        labelled("dm", 0.6, [ONE]),
        labelled("cvdd", 0.7, [ONE, TWO], labels="committee of 2, online", bytes=beside),
    ]
    made = board.make(records)
    text = board.markdown(made[0])
    assert "| teacher, stored " in text and "| committee of 2, online |" in text
    assert "| 650 B + 44.7 MB beside |" in text and "| 650 B " in text
    assert (
        "Who labelled:\n\n- cvdd (defaults): the set's own ConvNetBN 01234567, 97.0 % held out; ConvNetBN fedcba98, 97.0 % "
        "held out; every view of 9 epochs stored.\n- dm (defaults), random (defaults): the set's own ConvNetBN 01234567"
    ) in text
    board.write(made, tmp_path, plots=False)
    table = pd.read_csv(tmp_path / "digits.csv").set_index("method")
    assert list(table.columns[-2:]) == ["labelled_by", "teachers"]
    assert table.loc["cvdd", "labelled_by"] == f"{ONE} + {TWO}"
    assert "Who labelled" not in board.markdown(board.make([record()])[0])


def test_full_has_no_rank_and_gives_the_share_under_its_own_protocol():
    records = [record(values=(0.45,)), record("full", values=(0.9,), ipc=0, protocol="quick-full")]
    assert pd.isna(row(records, method="full")["rank"])
    r = row(records, method="random")
    assert r["share_of_full_pct"] == pytest.approx(50)
    assert r["full_protocol"] == "quick-full"
    assert r["rank"] == 1


def test_the_share_of_full_is_that_of_the_protocols_own_twin():
    full = [
        record("full", values=(v,), ipc=0, protocol=p) for p, v in (("quick-full", 0.8), ("dc-dsa-full", 1.0))
    ]
    for protocol, share in (("quick", 50), ("dc-dsa", 40)):
        r = row([record(values=(0.4,), protocol=protocol), *full], method="random")
        assert (r["share_of_full_pct"], r["full_protocol"]) == (pytest.approx(share), f"{protocol}-full")


def test_ranks_are_inside_one_ipc_protocol_and_network():
    def students(method, low, ipc=1):
        return record(method, values=(low, low + 0.01, low + 0.02), ipc=ipc)

    records = [students("a", 0.2), students("b", 0.4), students("a", 0.9, ipc=10)]
    places = {
        (m, i): tuple(row(records, method=m, ipc=i)[["rank", "rank_last"]])
        for m, i in (("b", 1), ("a", 1), ("a", 10))
    }
    assert places == {("b", 1): (1, 1), ("a", 1): (2, 2), ("a", 10): (1, 1)}


def test_only_last_epoch_scores_count():
    scores = [
        Score(value=0.2, network="ConvNet", seed=0),
        Score(value=0.9, network="ConvNet", seed=0, chosen_by="best-epoch", chosen_on="test"),
    ]
    assert row([record(scores=scores)], method="random")["top1_pct_mean"] == pytest.approx(20)


def test_best_epochs_have_columns_of_their_own_and_rank_nothing():
    def both(method, last, best):
        scores = [Score(value=v, network="ConvNet", seed=i) for i, v in enumerate(last)]
        scores += [
            Score(value=v, network="ConvNet", seed=i, chosen_by="best-epoch", chosen_on="test")
            for i, v in enumerate(best)
        ]
        return record(method, scores=scores, protocol="ncfm")

    records = [both("ncfm", (0.2, 0.4), (0.5, 0.9)), both("idc", (0.5, 0.5), (0.5, 0.5)), record("dm")]
    r = row(records, method="ncfm")
    assert (r["top1_pct_mean"], r["n"]) == (pytest.approx(30), 2)
    assert (r["best_epoch_pct_mean"], r["best_epoch_pct_std"]) == (pytest.approx(70), pytest.approx(20))
    assert board.make(records)[0].table["method"].tolist() == ["idc", "ncfm", "dm"], (
        "ordered by the last epoch"
    )
    assert pd.isna(row(records, method="dm")["best_epoch_pct_mean"])
    text = board.markdown(board.make(records)[0])
    assert (
        "Best epoch, chosen on the test set, as some papers report it (not ranked): idc (defaults) ipc 1 50.0 ± 0.0; "
        "ncfm (defaults) ipc 1 70.0 ± 20.0.\n"
    ) in text
    assert text.count("Best epoch") == 1, "only where a protocol has them"
    assert "70.0" not in board.plain(board.make(records)[0])


def test_best_snapshots_have_columns_of_their_own_and_rank_nothing(tmp_path):
    def shown(method, last, best, seed=0, students=1, iteration=3400):
        scores = [Score(value=v, network="ConvNet", seed=i) for i, v in enumerate(last)]
        picked = dict(chosen_by="best-snapshot", chosen_on="test", iteration=iteration, students=students)
        scores.append(Score(value=best, network="ConvNet", seed=seed, **picked))
        return record(method, seed=seed, scores=scores, protocol="mtt")

    records = [
        shown("mtt", (0.2, 0.4), 0.9, students=5),
        shown("datm", (0.3, 0.5), 0.5, seed=0),
        shown("datm", (0.3, 0.5), 0.75, seed=1),
        record("datm", seed=2, values=(0.6,), protocol="mtt"),
        record("random", values=(0.8,), protocol="mtt"),
    ]
    r = row(records, method="mtt")
    assert (r["top1_pct_mean"], r["n"]) == (pytest.approx(30), 2)
    assert r["best_snapshot_pct_mean"] == pytest.approx(90)
    assert (r["best_snapshot_n"], r["best_snapshot_students"], r["best_snapshot_iteration"]) == (1, "5", 3400)
    several = row(records, method="datm")
    assert (several["n"], several["distillations"]) == (5, 3)
    assert several["best_snapshot_pct_mean"] == pytest.approx(62.5)
    assert several["best_snapshot_n"] == 2 and pd.isna(several["best_snapshot_iteration"])
    without = row(records, method="random")
    assert pd.isna(without["best_snapshot_pct_mean"]) and pd.isna(without["best_snapshot_n"])
    made = board.make(records)
    assert made[0].table["method"].tolist() == ["random", "datm", "mtt"], "ordered by the finished set"
    text = board.markdown(made[0])
    assert (
        "Best snapshot, chosen on the test set, as the papers of trajectory matching report it (not ranked): "
        "datm (defaults) ipc 1 62.5 (1 student a snapshot, 2 sets); "
        "mtt (defaults) ipc 1 90.0 (5 students, after 3,400 iterations).\n"
    ) in text
    assert "90.0" not in board.plain(made[0])
    assert "Best snapshot" not in board.markdown(board.make([record()])[0])
    board.write(made, tmp_path, plots=False)
    line = pd.read_csv(tmp_path / "digits.csv").set_index("method").loc["mtt"]
    assert (line["best_snapshot_pct_mean"], line["best_snapshot_iteration"]) == (90, 3400)


def test_records_of_other_protocol_minor_versions_are_not_pooled():
    table = board.make([record(seed=0), record(seed=1, protocol_version="1.1.0")])[0].table
    assert sorted(table["protocol_version"]) == ["1.0", "1.1"]


def test_newest_record_of_a_cell_stands_and_the_older_ones_are_counted():
    made = board.make(
        [record(values=(0.1,), created="2026-01-01"), record(values=(0.9,), created="2026-01-02")]
    )[0]
    assert made.table["top1_pct_mean"].tolist() == [pytest.approx(90)]
    assert "1 older records" in board.markdown(made)


def test_failed_and_skipped_cells_are_listed_with_their_reason():
    made = board.make([record(status="failed", reason="ValueError: too small", values=())])[0]
    text = board.markdown(made)
    assert "failed: ValueError: too small" in text
    assert "No cell of this data set has a score yet" in text


def test_partial_sets_are_marked():
    assert "random (partial)" in board.markdown(board.make([record(status="partial", reason="3 of 9")])[0])


def test_settings_that_differ_make_rows_of_their_own():
    table = board.make([record("dm"), record("dm", settings={"iterations": 5})])[0].table
    assert sorted(table["overrides"]) == ["", "iterations=5"]


def test_quick_boards_say_that_they_are_not_comparable():
    assert "not comparable with published numbers" in board.markdown(
        board.make([record(comparable=False)])[0]
    )


def test_writing_makes_tables_and_plots(tmp_path):
    records = [record("dm", seed=s, values=(0.2 + s / 10,), ipc=i) for s in range(3) for i in (1, 10)]
    records += [record(seed=s, ipc=i) for s in range(3) for i in (1, 10)]
    paths = board.write(board.make(records), tmp_path)
    tables = ["digits.csv", "digits.md", "digits-ipc.png", "digits-bytes.png"]
    others = [f"digits-{kind}.{end}" for kind in ("uniform", "equal-bytes") for end in ("csv", "md")]
    assert [p.name for p in paths] == [
        *tables, *others, "digits-cost.csv", "digits-cost.png", "digits-cost.md", "README.md"
    ]  # fmt: skip
    assert all(p.stat().st_size > 0 for p in paths)
    assert list(pd.read_csv(paths[0])["method"]) == ["random", "dm", "random", "dm"]
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_boards_are_the_same_whatever_the_order_of_the_records(tmp_path):
    records = [record(m, seed=s, values=(0.1 * s + 0.2,)) for m in ("dm", "random") for s in range(3)]
    records += [record("dm", seed=s, values=(0.1,), network="MLP") for s in range(3)]
    records += [record("dm", values=(v,), key=k, created="2026-02-01") for k, v in (("x", 0.3), ("y", 0.7))]
    files = []
    for i, order in enumerate((records, records[::-1], records[5:] + records[:5])):
        paths = board.write(board.make(order), tmp_path / str(i), plots=False)
        files.append({p.name: p.read_text() for p in paths})
    assert files[0] == files[1] == files[2]
    assert "digits-cross-architecture.md" in files[0]


def test_no_records_make_no_boards():
    assert board.make([]) == []


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_interval_holds_the_mean(values):
    low, high = board.mean_interval(values)
    assert low <= sum(values) / len(values) + 1e-9
    assert high >= sum(values) / len(values) - 1e-9


def test_bytes_read_well():
    assert [board.human_bytes(n) for n in (12, 1230, 4_500_000, 6e9)] == [
        "12 B",
        "1.2 kB",
        "4.5 MB",
        "6.0 GB",
    ]


def test_boards_need_no_torch():
    code = "import sys, ddbench.board; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_precisions_are_rows_of_their_own():
    tf32 = Provenance(ddbench="0", device="cuda:0", precision="tf32")
    table = board.make([record(seed=0), record(seed=1, provenance=tf32)])[0].table
    assert sorted(table["precision"]) == ["fp32", "tf32"]
    assert table["rank"].tolist() == [1, 1]


def test_a_single_student_has_no_deviation():
    made = board.make([record(values=(0.5,))])[0]
    assert pd.isna(made.table.iloc[0]["top1_pct_std"])
    assert "| 50.0 " in board.markdown(made) and "50.0 ±" not in board.markdown(made)


# ------------------------------------------------------------------------------------------------ ranks


def sets(*values, seeds=None):
    return ranks.sample(dict(zip(seeds or range(len(values)), values, strict=True)), ())


def means(samples):
    return [sum(s.values) / len(s.values) for s in samples]


def places(*samples):
    return ranks.places(means(samples), samples)


def test_rows_of_the_same_seeds_are_tested_seed_by_seed():
    # differences 2, 3, 4: t = 3 / (1 / sqrt 3) = 5.20, above 4.303; 1, 2, 3: t = 3.46, below
    base = sets(50, 60, 40)
    assert places(sets(52, 63, 44), base) == [(1, 1), (2, 2)]
    assert places(sets(51, 62, 43), base) == [(1, 2), (1, 2)]


def test_rows_of_other_seeds_are_tested_by_welch():
    # both lists have variance 4: t = gap / sqrt(8 / 3), 4 degrees of freedom, so that 2.776 is a gap of 4.53
    base = sets(10, 12, 14)
    assert places(base, sets(5.4, 7.4, 9.4, seeds=(3, 4, 5))) == [(1, 1), (2, 2)]
    assert places(base, sets(5.6, 7.6, 9.6, seeds=(3, 4, 5))) == [(1, 2), (1, 2)]
    # paired, as they would be with equal seeds, both gaps are certain
    assert places(base, sets(5.6, 7.6, 9.6)) == [(1, 1), (2, 2)]


def test_welch_takes_unequal_variances_and_counts():
    # a: 10, 14 (variance 8, mean 12); b: 0, 1, 2, 3 (variance 5/3, mean 1.5): error sqrt(4 + 5/12) = 2.1016, t = 4.996,
    # degrees of freedom (53/12)^2 / (16 + (5/12)^2 / 3) = 1.215, t(0.975) of it = 8.5
    a = sets(10, 14)
    assert places(a, sets(0, 1, 2, 3)) == [(1, 2), (1, 2)]
    # with variance 0.08 the error is 0.6758 and the degrees of freedom 3.22: t = 15.5, far above 3.07
    assert places(sets(11.8, 12.2), sets(0, 1, 2, 3)) == [(1, 1), (2, 2)]


def test_a_single_distillation_is_tested_by_its_students_and_a_single_student_never():
    def one(*students, seed=0):
        return ranks.sample({seed: sum(students) / len(students)}, students)

    assert places(one(10, 12, 14), one(5.4, 7.4, 9.4)) == [(1, 1), (2, 2)]
    assert places(one(10, 12, 14), sets(5.4, 7.4, 9.4)) == [(1, 1), (2, 2)]
    assert places(one(99), one(1), sets(0, 0.1, 0.2)) == [(1, 3)] * 3


def test_no_spread_and_rounding_noise():
    assert places(sets(50, 50), sets(40, 40)) == [(1, 1), (2, 2)]
    assert places(sets(50, 50), sets(40, 40, seeds=(5, 6))) == [(1, 1), (2, 2)]
    assert places(sets(0.1 + 0.2, 0.4), sets(0.3, 0.4)) == [(1, 2), (1, 2)]
    assert places() == [] and places(sets(1, 2)) == [(1, 1)]


def test_an_unsure_row_does_not_pass_a_better_one():
    # sure is significantly worse than best; scattered, worse still, is not told apart from either
    best, sure, scattered = sets(90, 90.2, 90.1), sets(85, 85.2, 85.1), sets(40, 120, 80)
    assert ranks.better([best, sure, scattered]).tolist() == [[False, True, False], [False] * 3, [False] * 3]
    assert places(best, sure, scattered) == [(1, 2), (2, 3), (2, 3)]


samples_ = st.lists(
    st.builds(
        lambda first, values: sets(*values, seeds=range(first, first + len(values))),
        st.integers(0, 1),
        st.lists(st.sampled_from([10.0, 10.5, 11.0, 20.0, 20.5, 60.0, 61.0]), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=7,
)


@given(samples_, st.randoms())
def test_ranks_follow_the_rows_and_a_worse_row_never_has_a_better_rank(samples, chance):
    mean, found = means(samples), places(*samples)
    order = list(range(len(samples)))
    chance.shuffle(order)
    assert places(*(samples[i] for i in order)) == [found[i] for i in order]
    better = ranks.better(samples)
    for i, (first, last) in enumerate(found):
        assert 1 <= first <= last <= len(samples)
        assert first >= 1 + better[:, i].sum()
        for j, (other, _) in enumerate(found):
            if mean[j] <= mean[i]:
                assert first <= other
            if better[i, j]:
                assert first < other or mean[i] == mean[j]
    assert min(first for first, _ in found) == 1


def test_the_table_and_the_page_show_the_places():
    def method(name, *values):
        return [record(name, seed=s, values=(v,)) for s, v in enumerate(values)]

    records = [*method("a", 0.80, 0.82, 0.78), *method("b", 0.70, 0.95, 0.72), *method("c", 0.20, 0.22, 0.18)]
    made = board.make([*records, record("d", values=(0.1, 0.1))])[0]
    table = made.table.set_index("method")
    # b is above c by 50, 73 and 54 points, t = 8.3; d, of one set whose two students agree, has no spread: t against b is 8.6
    assert table[["rank", "rank_last"]].values.tolist() == [[1, 2], [1, 2], [3, 3], [4, 4]]
    text = board.markdown(made)
    assert "| 1     | 1-2    | a        |" in text and "| 1     | 3      | c        |" in text
    assert "| 1     | 4*     | d        |" in text, "a row of one set is marked"


# ------------------------------------------------------------------------------------------------ other metrics


def test_other_metrics_have_tables_of_their_own_and_leave_those_of_top1_alone(tmp_path):
    def robust(method, value):
        scores = [
            Score(value=value, network="ConvNet", seed=0, metric="robust accuracy"),
            Score(value=0.99, network="ConvNet", seed=0),
            Score(value=0.98, network="ConvNet", seed=0, metric="robust accuracy", task="clean"),
        ]
        return record(method, scores=scores, metric="robust accuracy")

    made = board.make([record("dm", values=(0.5,), seed=1), robust("dm", 0.25), robust("random", 0.125)])
    assert made[0].table["top1_pct_mean"].tolist() == [50]
    assert made[0].others["robust accuracy"]["top1_pct_mean"].tolist() == [25, 12.5]
    assert row([record()], method="random")["top1_pct_mean"] == 50
    text = board.markdown(made[0])
    assert "## quick 1.0, ConvNet: robust accuracy" in text and "| robust accuracy %" in text
    paths = {p.name: p for p in board.write(made, tmp_path, plots=False)}
    table = pd.read_csv(paths["digits-robust_accuracy.csv"])
    assert table["robust_accuracy_pct_mean"].tolist() == [25, 12.5] and "top1_pct_mean" not in table


def test_a_data_set_that_only_has_another_metric_has_a_board():
    scores = [Score(value=0.25, network="ConvNet", seed=0, metric="lrs")]
    (made,) = board.make([record(scores=scores, metric="lrs")])
    assert made.table.empty and list(made.others) == ["lrs"] and not made.pages
    assert "No cell" not in board.markdown(made) and board.plain(made) == ""


def test_calibration_errors_are_averaged_over_students_and_shown_where_there_are_some():
    records = [record("dm", ece=[0.1, 0.2]), record("dm", seed=1, ece=[0.3, 0.6]), record()]
    assert row(records, method="dm")["ece_pct_mean"] == pytest.approx(30)
    assert pd.isna(row(records, method="random")["ece_pct_mean"])
    assert "| ECE %   |" in board.markdown(board.make(records)[0])
    assert "ECE" not in board.markdown(board.make([record()])[0])


# ------------------------------------------------------------------------------------------------ uniform


def page(records, kind, **more):
    return board.make(records, **more)[0].pages[kind]


def test_the_uniform_board_takes_the_protocol_of_most_methods():
    records = [
        record("dm", protocol="dc-dsa"),
        record("dsa", protocol="dc-dsa"),
        *(record("dm", protocol="mtt", seed=s, ipc=i) for s in range(4) for i in (1, 10)),
        *(record(m, protocol="quick", comparable=False) for m in ("dm", "mtt")),
        record("full", protocol="dc-dsa", ipc=0),
    ]
    made = page(records, "uniform")
    assert made.table["method"].tolist() == ["dm", "dsa"] and set(made.table["protocol"]) == {"dc-dsa"}
    assert "**dc-dsa 1.0, ConvNet**" in made.body and "2 of 3" in made.body
    assert "Without a score under it: mtt." in made.body
    asked = page(records, "uniform", uniform="mtt")
    assert set(asked.table["protocol"]) == {"mtt"} and "asked for" in asked.body


def test_the_uniform_board_has_a_column_an_ipc_and_complete_methods_first():
    records = [record("dm", values=(0.3,)), record("dm", ipc=10, values=(0.4,)), record("idc", values=(0.9,))]
    lines = page(records, "uniform").body.splitlines()
    head = next(line for line in lines if line.startswith("| method"))
    assert "ipc 1 top-1 %" in head and "ipc 10 rank" in head
    assert [
        line.split("|")[1].strip() for line in lines if line.startswith("| dm") or line.startswith("| idc")
    ] == ["dm", "idc"]


def test_a_uniform_protocol_that_nothing_is_of_is_named():
    with pytest.raises(LookupError, match=r"no record is of protocol 'quik'; nearest: quick.*uniform board"):
        board.make([record()], uniform="quik")
    mnist_only = Cell(
        distil=DistilCell(method="dm", dataset="mnist", ipc=1, seed=0),
        protocol="mtt",
        network="ConvNet",
        repeats=1,
    )
    digits, mnist = board.make([record(), record(cell=mnist_only)], uniform="mtt")
    assert digits.empty["uniform"] == "no method has a score under 'mtt'" and "uniform" in mnist.pages


# ------------------------------------------------------------------------------------------------ as published


def claim(method="dm", value=60.0, ipc=1, **more):
    fields = dict(
        id=f"{method}-{ipc}-{value}", paper=method, method=method, dataset="digits", network="ConvNet",
        protocol="quick", ipc=ipc, value=value, chosen="last", source="Table 1",
    )  # fmt: skip
    return Claim(**(fields | more))


def test_claims_stand_beside_what_was_measured_and_only_measured_ones_are_on_the_page():
    records = [record("dm", seed=s, values=(0.5,), protocol="dc-dsa", recipe="authors") for s in range(2)]
    claims = [
        claim(value=50.5, protocol="dc-dsa", network="ConvNet"),
        claim(value=70.0, ipc=10, protocol="dc-dsa"),
        claim(value=10.0, protocol="dc-dsa", dataset="mnist"),
        claim(value=33.0, protocol="dc-dsa", external=("protocol",)),
    ]
    made = page(records, "as-published", claims=claims)
    assert "## Under other protocols" not in made.body and made.table["own_protocol"].all()
    assert made.table["published_pct"].tolist() == [50.5, 70.0]
    first, second = made.table.to_dict("records")
    assert (first["measured_pct"], first["gap_pct"], first["verdict"]) == (50, -0.5, "reproduced")
    assert pd.isna(second["measured_pct"]) and second["verdict"] == "no recipe"
    assert "50.5" in made.body and "70.0" not in made.body and "1 no recipe, 1 reproduced" in made.body


def test_numbers_under_protocols_of_others_have_a_part_of_their_own():
    records = [record("dm", values=(0.5,), protocol=p, recipe="authors") for p in ("dc-dsa", "dc")]
    claims = [
        claim(value=50.5, protocol="dc-dsa"), claim(value=50.6, protocol="dc-dsa", ipc=10),
        claim(value=44.4, protocol="dc", paper="pca"),
    ]  # fmt: skip
    made = page(records, "as-published", claims=claims)
    own, _, others = made.body.partition("## Under other protocols")
    assert "50.5" in own and "44.4" not in own and "44.4" in others and "50.5" not in others
    assert made.table.set_index("claim")["own_protocol"].to_dict() == {
        "dm-1-44.4": False, "dm-1-50.5": True, "dm-10-50.6": True
    }  # fmt: skip


def test_a_quoted_number_stands_only_where_no_paper_prints_its_own():
    own, quoted = claim(value=50.0, protocol="dc-dsa"), claim(value=51.0, protocol="dc-dsa", quoted=True)
    assert kinds.of_own_papers("digits", [quoted, own]) == [own]
    twice = claim(value=51.0, protocol="dc-dsa", quoted=True, id="other", paper="mtt")
    assert kinds.of_own_papers("digits", [twice, quoted]) == [quoted]
    assert kinds.of_own_papers("digits?size=16", [own]) == [own]


def test_a_data_set_without_measured_claims_says_so():
    (made,) = board.make([record()], [claim(protocol="dc-dsa")])
    assert made.empty["as-published"] == "none of 1 published numbers has a record under its paper's protocol"
    assert "no published number" in board.make([record()])[0].empty["as-published"]


# ------------------------------------------------------------------------------------------------ equal bytes


def of_bytes(method, images, value, labels=0, ipc=1, **more):
    size = Bytes(images=images, labels=labels, beside={"teacher": 10**9})
    return record(method, values=(value, value + 0.01), ipc=ipc, bytes=size, **more)


def test_each_method_enters_a_budget_with_its_best_set_that_fits_labels_included():
    records = [
        of_bytes("dm", 9_000, 0.3),
        of_bytes("dm", 90_000, 0.6, ipc=10),
        of_bytes("mtt", 9_000, 0.5, labels=1_001),  # one byte too many for 10 KB
        of_bytes("idc", 10_000, 0.2),  # exactly 10 KB
        of_bytes("idc", 9_000, 0.1, settings={"factor": 1}),
        of_bytes("rded", 20_000_000, 0.9),
        of_bytes("full", 5_000, 0.99, protocol="quick", ipc=0),
    ]
    made = page(records, "equal-bytes")
    found = {b: part["method"].tolist() for b, part in made.table.groupby("budget_bytes")}
    assert found == {
        10_000: ["dm", "idc"],
        100_000: ["dm", "mtt", "idc"],
        1_000_000: ["dm", "mtt", "idc"],
        10_000_000: ["dm", "mtt", "idc"],
    }
    idc = made.table[made.table["method"] == "idc"].iloc[0]
    assert (idc["bytes_total"], idc["top1_pct_mean"], idc["of"]) == (10_000, pytest.approx(20.5), 2)
    assert made.table[made.table["budget_bytes"] == 10_000]["rank"].tolist() == [1, 2]
    assert "1.0 GB beside" in made.body, "shown, never summed in"
    assert "\nWithin 1 MB and 10 MB: nothing better fits than within 100 KB.\n" in made.body
    assert "All training data are 5.0 kB" in made.body


def test_protocols_and_networks_are_never_mixed_in_one_ranking():
    records = [
        of_bytes("dm", 900, 0.3),
        of_bytes("dm", 900, 0.9, network="MLP"),
        of_bytes("dm", 900, 0.9, protocol="mtt"),
        of_bytes("dm", 900, 0.9, protocol_version="2.0"),
    ]
    made = page(records, "equal-bytes")
    assert made.table["rank"].tolist() == [1] * 16 and made.body.count("\n## ") == 4


def test_sets_above_the_largest_budget_make_no_board():
    (made,) = board.make([of_bytes("dm", 20_000_000, 0.5)])
    assert made.empty["equal-bytes"] == "no set is known to have 10 MB or less"


# ------------------------------------------------------------------------------------------------ cost


def test_the_front_is_what_nothing_beats():
    assert kinds.front([(50, 1), (60, 2), (55, 3), (60, 2), (60, 5), (40, 1)]) == [
        True,
        True,
        False,
        True,
        False,
        False,
    ]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_front_agrees_with_its_definition(rows):
    def beaten(a, b):
        return b[0] >= a[0] and b[1] <= a[1] and b != a

    assert kinds.front(rows) == [not any(beaten(a, b) for b in rows) for a in rows]


def costly(method, value, distil, teacher, peak, device="cpu", **more):
    spent = Spent(distil_s=distil, teacher_s=teacher, distil_peak_mib=peak, distil_device=device)
    made = Provenance(
        ddbench="0", device=device, device_name="H100" if device != "cpu" else "x86_64", threads=2
    )
    return record(method, values=(value,), spent=spent, provenance=made, **more)


def test_teacher_seconds_are_apart_and_summed_and_fronts_are_of_one_machine():
    records = [
        costly("random", 0.3, 0.0, 0.0, 400),
        costly("dm", 0.6, 10.0, 0.0, 900),
        costly("mtt", 0.7, 5.0, 100.0, 800),
        costly("dsa", 0.5, 20.0, 0.0, 500),
        costly("idc", 0.4, 1.0, 0.0, 300, device="cuda:0"),
    ]
    made = page(records, "cost")
    table = made.table.set_index("method")
    assert table["cost_s"].to_dict() == {"mtt": 105, "dm": 10, "dsa": 20, "idc": 1, "random": 0}
    assert table["front_seconds"].to_dict() == {
        "mtt": True,
        "dm": True,
        "dsa": False,
        "idc": True,
        "random": True,
    }
    memory = table["front_memory"].to_dict()
    assert memory.pop("idc") is True
    assert set(memory.values()) == {None}, "on CPU the peak is that of the process, not of the method"
    assert (
        table.loc["idc", "machine"] == "cuda:0 H100" and table.loc["dm", "machine"] == "cpu x86_64, 2 threads"
    )
    assert "| seconds and memory |" in made.body and "| 100.0       | 105.0   |" in made.body


def test_a_cost_that_nobody_measured_is_a_dash_and_on_no_front():
    made = page(
        [record("mtt", values=(0.9,), spent=Spent(teacher_s=1.0)), costly("dm", 0.6, 10.0, 0.0, 9)], "cost"
    )
    table = made.table.set_index("method")
    assert pd.isna(table.loc["mtt", "cost_s"]) and pd.isna(table.loc["mtt", "distil_peak_mib"])
    assert table["front_seconds"].to_dict() == {"mtt": False, "dm": True}
    line = next(line for line in made.body.splitlines() if line.startswith("| 1") and " mtt " in line)
    assert [c.strip() for c in line.split("|")].count("–") == 4


def test_the_memory_front_on_a_gpu_is_what_nothing_beats():
    peaks = {"random": (0.3, 400), "dm": (0.6, 900), "mtt": (0.7, 800), "dsa": (0.5, 500)}
    made = page([costly(m, v, 1.0, 0.0, peak, device="cuda:0") for m, (v, peak) in peaks.items()], "cost")
    found = made.table.set_index("method")["front_memory"].to_dict()
    assert found == {"mtt": True, "dm": False, "dsa": True, "random": True}


def test_seconds_below_a_tenth_do_not_read_as_nothing():
    assert [text.seconds(s) for s in (0.0, 0.0042, 0.01, 0.0449, 0.1, 12.34)] == [
        "0.0",
        "<0.01",
        "0.01",
        "0.04",
        "0.1",
        "12.3",
    ]
    assert "| <0.01 " in page([costly("random", 0.3, 0.0042, 0.0, 400)], "cost").body


def test_the_share_of_full_is_a_column_only_where_a_row_has_it():
    (made,) = board.make([record("dm", values=(0.5,))])
    assert "% of full" not in board.markdown(made)
    assert "\nFingerprint of the data: " in board.markdown(made)
    assert "leaderboards/PROTOCOLS.md of ddbench" in board.markdown(made)


def test_ticks_over_bytes_are_round():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fig, ax = plt.subplots()
    ax.set_xscale("log")
    ax.set_xlim(2_570, 29_600)
    plots._round_ticks(ax, 2_570, 29_600, lambda v: human_bytes(v).replace(".0", ""))
    fig.canvas.draw()
    said = [t.get_text() for t in ax.get_xticklabels() if 2_570 <= t.get_position()[0] <= 29_600]
    plt.close(fig)
    assert said == ["5 kB", "10 kB", "20 kB"]


# ------------------------------------------------------------------------------------------------ cross-architecture


def across(method, values, seeds=(0, 1), network=""):
    settings = {"network": network} if network else {}
    return [
        record(method, seed=s, values=(v + s / 100,), network=n).model_copy(update={"settings": settings})
        for n, v in values.items()
        for s in seeds
    ]


def test_networks_are_those_that_give_most_rows_and_columns():
    three, two = frozenset("ABC"), frozenset("AB")
    assert kinds.compared_networks([three, two, two]) == two  # 2 networks x 3 rows against 3 x 1
    assert (
        kinds.compared_networks([three, three, two]) == three
    )  # 3 x 2 against 2 x 3: as many, so more networks
    assert kinds.compared_networks([frozenset("A")]) == frozenset() == kinds.compared_networks([])


def test_transfer_is_the_mean_over_networks_that_are_nobodys_own():
    records = [
        *across("dm", {"ConvNet": 0.5, "MLP": 0.2, "VGG11": 0.4, "AlexNet": 0.3}, network="ConvNetD3"),
        *across("mtt", {"ConvNet": 0.4, "MLP": 0.3, "VGG11": 0.5, "AlexNet": 0.5}, network="AlexNet"),
        *across("random", {"ConvNet": 0.3, "MLP": 0.1, "VGG11": 0.2, "AlexNet": 0.2}),
        *across("idc", {"ConvNet": 0.9, "MLP": 0.8}),
    ]
    made = page(records, "cross-architecture")
    table = made.table.set_index("method")
    assert set(table["transfer_networks"]) == {"MLP VGG11"} and list(table.index) == ["mtt", "dm", "random"]
    assert table["own_network"].to_dict() == {"mtt": "AlexNet", "dm": "ConvNet", "random": "ConvNet"}
    # seeds add 0 and 1 point, on every network alike
    assert table["transfer_pct"].tolist() == pytest.approx([40.5, 30.5, 15.5])
    assert table["drop_pct"].tolist() == pytest.approx([10, 20, 15])
    assert table["rank"].tolist() == [1, 2, 3]
    assert "Over AlexNet, ConvNet, MLP, VGG11; transfer networks: MLP, VGG11." in made.body
    assert "- idc (defaults): ConvNet 90.5, MLP 80.5 (without AlexNet, VGG11)" in made.body
    assert "(ConvNet)" in made.body, "random was distilled with none"


def test_only_seeds_that_all_networks_have_count():
    records = [
        *across("dm", {"ConvNet": 0.5, "MLP": 0.2}),
        record("dm", seed=7, values=(0.99,), network="MLP"),
        *across("idc", {"ConvNet": 0.5}, seeds=(0,)),
        *across("idc", {"MLP": 0.5}, seeds=(1,)),
    ]
    made = page(records, "cross-architecture")
    (line,) = made.table.to_dict("records")
    assert (line["method"], line["distillations"]) == ("dm", 2)
    # `quick` names ConvNetD2W32, which is not here: the reference is the network of most rows, of equals the first
    assert (line["own_network"], line["transfer_pct"]) == ("ConvNet", pytest.approx(20.5))
    assert "idc (defaults): ConvNet 50.0, MLP 51.0 (no seed on all of the networks)" in made.body


def test_where_every_network_is_somebodys_own_the_reference_is_that_of_all():
    both = {"ConvNet": 0.5, "MLP": 0.2}
    records = [*across("dm", both, network="ConvNet"), *across("mtt", both, network="MLP")]
    table = page(records, "cross-architecture").table
    assert set(table["own_network"]) == {"ConvNet"} and set(table["transfer_networks"]) == {"MLP"}


def test_one_network_makes_no_cross_architecture_board():
    assert board.make([record()])[0].empty["cross-architecture"] == (
        "no method has scores of two networks under one protocol"
    )


# ------------------------------------------------------------------------------------------------ files and index


def test_kinds_are_chosen_and_an_unknown_one_is_named(tmp_path):
    made = board.make([record()], kinds=["cost"])
    assert list(made[0].pages) == ["cost"]
    paths = board.write(made, tmp_path, plots=False, kinds=["cost"])
    assert [p.name for p in paths] == ["digits-cost.csv", "digits-cost.md", "README.md"]
    with pytest.raises(LookupError, match="no board 'costs'; nearest: cost"):
        board.make([record()], kinds=["costs"])
    assert board.KINDS == KINDS, "the command's"


def test_the_index_links_what_lies_in_the_folder_and_leaves_pages_of_others_alone(tmp_path):
    board.write(board.make([record(), record("dm"), record("full", ipc=0)]), tmp_path, plots=False)
    (tmp_path / "PROTOCOLS.md").write_text("# Protocols: the rules\n")
    text = board.index(tmp_path)
    assert "| **digits** | 2 " in text and "[by protocol](digits.md)" in text and "(digits-cost.md)" in text
    assert "(digits-cross-architecture.md)" not in text and "[PROTOCOLS.md](PROTOCOLS.md)" in text
    other = tmp_path / "other"
    other.mkdir()
    (other / "README.md").write_text("# My project\n")
    paths = board.write(board.make([record()]), other, plots=False)
    assert (other / "README.md").read_text() == "# My project\n" and other / "README.md" not in paths


def test_more_methods_than_colours_and_more_panels_than_fit_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "MOST", 2)
    records = [record(f"method{m:02}", ipc=i, values=(0.2 + m / 100,)) for m in range(22) for i in (1, 10)]
    records += [record(m, network=f"ConvNetW{16 * n}") for m in ("dm", "mtt") for n in (1, 2)]
    (made,) = board.make(records)
    paths = [p for p in board.write([made], tmp_path) if p.suffix == ".png"]
    assert len(paths) == 3 and all(p.read_bytes().startswith(b"\x89PNG") for p in paths)
    methods = [f"m{i:02}" for i in range(60)]
    colours, markers = plots._colours(methods), plots._markers(methods)
    assert len({(colours[m], markers[m]) for m in methods}) == 60


def test_a_cost_of_one_row_a_panel_has_no_plot(tmp_path):
    paths = board.write(board.make([record()]), tmp_path, kinds=["cost"])
    assert [p.name for p in paths] == ["digits-cost.csv", "digits-cost.md", "README.md"]
    assert "png" not in (tmp_path / "digits-cost.md").read_text()
