import math
import subprocess
import sys

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddbench import board
from ddbench.records import Bytes, Cell, DistilCell, Provenance, Record, Score, Spent


def record(method="random", seed=0, values=(0.5,), ipc=1, protocol="quick", status="ok", **what):
    distil = DistilCell(
        method=method, dataset="digits", ipc=ipc, seed=seed, settings=what.pop("settings", {})
    )
    fields = dict(
        key=f"{method}-{ipc}-{seed}-{protocol}-{status}",
        set_key="s",
        cell=Cell(distil=distil, protocol=protocol, network="ConvNet", repeats=max(len(values), 1)),
        status=status,
        protocol_version="1.0.3",
        recipe="defaults",
        family="coreset",
        data_fingerprint="d",
        scores=[Score(value=v, network="ConvNet", seed=i) for i, v in enumerate(values)],
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
    records = [record("a", values=(0.2,)), record("b", values=(0.4,)), record("a", values=(0.9,), ipc=10)]
    assert row(records, method="b", ipc=1)["rank"] == 1
    assert row(records, method="a", ipc=1)["rank"] == 2
    assert row(records, method="a", ipc=10)["rank"] == 1


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
    assert (r["top1_pct_mean"], r["n"], r["rank"]) == (pytest.approx(30), 2, 2)
    assert (r["best_epoch_pct_mean"], r["best_epoch_pct_std"]) == (pytest.approx(70), pytest.approx(20))
    assert row(records, method="idc")["rank"] == 1
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
    assert (r["top1_pct_mean"], r["n"], r["rank"]) == (pytest.approx(30), 2, 3)
    assert r["best_snapshot_pct_mean"] == pytest.approx(90)
    assert (r["best_snapshot_n"], r["best_snapshot_students"], r["best_snapshot_iteration"]) == (1, "5", 3400)
    several = row(records, method="datm")
    assert (several["n"], several["distillations"], several["rank"]) == (5, 3, 2)
    assert several["best_snapshot_pct_mean"] == pytest.approx(62.5)
    assert several["best_snapshot_n"] == 2 and pd.isna(several["best_snapshot_iteration"])
    without = row(records, method="random")
    assert pd.isna(without["best_snapshot_pct_mean"]) and pd.isna(without["best_snapshot_n"])
    assert without["rank"] == 1
    made = board.make(records)
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
    assert [p.name for p in paths] == ["digits.csv", "digits.md", "digits-ipc.png", "digits-bytes.png"]
    assert all(p.stat().st_size > 0 for p in paths)
    assert list(pd.read_csv(paths[0])["method"]) == ["random", "dm", "random", "dm"]
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_boards_are_the_same_whatever_the_order_of_the_records(tmp_path):
    records = [record(m, seed=s, values=(0.1 * s + 0.2,)) for m in ("dm", "random") for s in range(3)]
    texts = [board.markdown(board.make(order)[0]) for order in (records, records[::-1])]
    assert texts[0] == texts[1]


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
