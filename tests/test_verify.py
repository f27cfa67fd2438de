"""A record's cell run again: equal to the last bit, or what is other, or why it cannot be repeated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ddbench import api, cli, runner, sets, store, sweep, verify
from ddbench.records import Cell, DistilCell, Record

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> store.RunFolder:
    """Two seeds of a random subset of digits, two MLPs each."""
    run = tmp_path_factory.mktemp("verify") / "runs"
    session = runner.Session(runner.Context(run=run, device="cpu"))
    for seed in (0, 1):
        distil = DistilCell(method="random", dataset="digits", ipc=5, seed=seed)
        assert (
            session.evaluate(Cell(distil=distil, protocol="quick", network="MLP", repeats=2)).status == "ok"
        )
    return store.RunFolder(run)


@pytest.fixture
def record(folder) -> Record:
    return folder.records()[0]


def again(record: Record, **what) -> verify.Verification:
    return verify.verify(record, quiet=True, **what)


def shifted(record: Record, points: float, **more) -> Record:
    """The record of somebody whose scores are so many points higher."""
    scores = [s.model_copy(update={"value": s.value + points / 100}) for s in record.scores]
    return record.model_copy(update={"scores": scores, **more})


class TestVerdicts:
    def test_the_whole_cell_comes_out_identical(self, record):
        done = again(record)
        assert (done.verdict, done.exit_status, done.repeated) == (
            "identical",
            0,
            "distillation and evaluation",
        )
        assert done.set_equal and done.scores_equal and done.gap == 0 and done.causes == ()
        assert done.record.set_key == record.set_key and done.record.key == record.key
        assert done.lines()["scores"].endswith("; equal to the last bit")

    def test_so_does_one_whose_settings_a_sweep_chose(self, tmp_path):
        distil = DistilCell(method="dm", dataset="digits", ipc=1, seed=0)
        settings = ({"iterations": "1"}, {"iterations": "2"})
        cell = Cell(
            distil=distil.model_copy(update={"settings": settings[1]}),
            protocol="quick",
            network="MLP",
            repeats=2,
        )
        made = runner.evaluate(cell, runner.Context(run=tmp_path, device="cpu")).record
        choice = sweep.Choice(settings, (0.5, 0.6), ("", ""), 0.1, 90, 10, "quick", "MLP", 1, 1.0)
        swept = sweep.marked(made, choice)
        assert {s.chosen_on for s in swept.scores} == {"holdout"}
        done = again(swept)
        assert (done.verdict, done.scores_equal) == ("identical", True)
        assert again(shifted(swept, 0.1)).verdict == "agrees", "the values still count"

    def test_so_does_its_evaluation_alone_from_the_run_folder_or_a_file(self, record, folder):
        path = folder.set_path(record.set_key)
        for what in ({"folder": folder, "only_evaluate": True}, {"set_file": path}):
            done = again(record, **what)
            assert (done.verdict, done.repeated) == ("identical", "evaluation")

    def test_scores_within_half_a_point_agree(self, record):
        done = again(shifted(record, 0.4))
        assert (done.verdict, done.exit_status, done.scores_equal) == ("agrees", 0, False)
        assert done.gap == pytest.approx(-0.4) and done.set_equal
        assert "agrees (within 0.5 points or 2 combined standard errors)" in done.lines()["verdict"]

    def test_scores_far_from_a_repeat_differ(self, record):
        done = again(shifted(record, 20))
        assert (done.verdict, done.exit_status) == ("differs", 1)
        assert done.reason == "the means are not within 0.5 points or 2 combined standard errors"
        assert done.gap == pytest.approx(-20) and done.gap_errors < -2
        assert "-20.00 points" in done.lines()["scores"]

    def test_a_single_student_has_no_standard_error_and_that_is_said(self, record):
        cell = record.cell.model_copy(update={"repeats": 1})
        one = record.model_copy(update={"cell": cell, "scores": record.scores[:1]})
        assert again(one).verdict == "identical"
        done = again(shifted(one, 1))
        assert done.verdict == "differs" and done.gap_errors is None
        assert done.reason.endswith("(one student has no standard error: more repeats say more)")

    def test_within_two_combined_errors_a_larger_gap_agrees(self, record):
        low, high = (
            s.model_copy(update={"value": v}) for s, v in zip(record.scores, (0.5, 1.0), strict=True)
        )
        done = again(record.model_copy(update={"scores": [low, high]}))
        assert done.verdict == "agrees" and abs(done.gap) > 0.5 and abs(done.gap_errors) < 2

    def test_bytes_that_the_set_does_not_have_differ(self, record):
        fewer = record.bytes.model_copy(update={"images": 10})
        done = again(record.model_copy(update={"bytes": fewer}))
        assert done.verdict == "differs"
        assert done.reason == f"the record says {fewer.total:,} bytes, the set has {record.bytes.total:,}"

    def test_students_that_are_not_those_of_the_seed_are_remarked(self, record):
        strangers = [s.model_copy(update={"seed": 5}) for s in record.scores]
        done = again(record.model_copy(update={"scores": strangers}))
        assert done.verdict == "agrees"
        assert done.remarks == ("the students of the record are not those of its seed",)


class TestNotRepeatable:
    def refused(self, record: Record, **what) -> str:
        done = again(record, **what)
        assert (done.verdict, done.exit_status, done.repeated) == ("not repeatable", 2, "nothing")
        return done.reason

    def test_other_data(self, record):
        reason = self.refused(record.model_copy(update={"data_fingerprint": "0123"}))
        assert reason.startswith("the data differ: digits has fingerprint ") and reason.endswith(
            "record 0123"
        )

    def test_another_version_of_the_protocol_or_an_unknown_one(self, record):
        reason = self.refused(record.model_copy(update={"protocol_version": "0.9"}))
        assert reason == "protocol quick is 1.0 here and 0.9 in the record: scores are not comparable"
        cell = record.cell.model_copy(update={"protocol": "quikc"})
        assert "no protocol 'quikc'; nearest: quick" in self.refused(record.model_copy(update={"cell": cell}))

    def test_a_method_that_is_not_here_unless_its_set_is(self, record, folder):
        cell = record.cell.model_copy(
            update={"distil": record.cell.distil.model_copy(update={"method": "mine"})}
        )
        mine = record.model_copy(update={"cell": cell})
        reason = self.refused(mine)
        assert "no method 'mine'" in reason and "with --set-file the evaluation can be repeated" in reason
        assert again(mine, set_file=folder.set_path(record.set_key)).verdict == "identical"

    def test_a_setting_that_the_method_does_not_have_any_more(self, record):
        gone = record.model_copy(update={"settings": {**record.settings, "old_field": 1}})
        assert "has no field 'old_field'" in self.refused(gone)

    def test_a_set_that_the_clock_cut_short_unless_the_set_is_there(self, record, folder):
        partial = record.model_copy(update={"status": "partial", "reason": "stopped after 3 of 9"})
        assert self.refused(partial).startswith("the set was cut short by the clock (stopped after 3 of 9)")
        assert again(partial, set_file=folder.set_path(record.set_key)).verdict == "identical"

    def test_another_set(self, record, folder):
        other = folder.set_path(folder.records()[1].set_key)
        reason = self.refused(record, set_file=other)
        assert reason.startswith(f"{other} is another set: its fingerprint is ")

    def test_code_that_changed_since_where_the_scores_differ_and_only_there(self, record):
        changed = {"set_key": "random-digits-5-0-0000"}
        done = again(record.model_copy(update=changed))
        assert done.verdict == "identical" and done.causes[0].startswith("code of the method")
        done = again(shifted(record, 20, **changed))
        assert (done.verdict, done.exit_status) == ("not repeatable", 2)
        assert done.reason.startswith("the code that made the set has changed since, and the means are not")

    def test_a_record_without_scores_is_an_error(self, record):
        failed = record.model_copy(update={"status": "failed", "scores": [], "reason": "out of memory"})
        with pytest.raises(
            ValueError, match=r"has no scores \(failed: out of memory\); expected one of a finished"
        ):
            again(failed)


class TestHow:
    def test_the_settings_are_those_of_the_record_whatever_its_recipe_says_by_now(self, tmp_path):
        distil = DistilCell(method="dm", dataset="digits", ipc=1, seed=0, settings={"iterations": "2"})
        cell = Cell(distil=distil, protocol="quick", network="MLP", repeats=1)
        made = runner.evaluate(cell, runner.Context(run=tmp_path, device="cpu")).record
        assert made.recipe == "digits" and made.settings["iterations"] == 2
        moved = distil.model_copy(update={"recipe": "a name that is gone", "settings": {}})
        done = again(made.model_copy(update={"cell": cell.model_copy(update={"distil": moved})}))
        assert done.verdict == "identical" and done.record.set_key == made.set_key

    def test_other_versions_threads_and_devices_are_listed_as_causes(self, record):
        before = record.provenance.model_copy(
            update={"torch": "2.6.0", "device": "cuda", "device_name": "A", "threads": 3, "engine": "plain"}
        )
        threads = torch.get_num_threads()
        done = again(record.model_copy(update={"provenance": before}))
        assert done.verdict in ("identical", "agrees") and torch.get_num_threads() == threads
        assert f"torch 2.6.0 -> {torch.__version__}" in done.causes
        assert done.record.provenance.threads == 3, "as recorded"
        assert done.record.provenance.engine == "plain", "as recorded"
        if not torch.cuda.is_available():
            assert "device cuda -> cpu" in done.causes
        assert done.lines()["other than recorded"].startswith("torch 2.6.0 -> ")

    def test_the_repeat_may_be_kept_but_not_in_the_folder_of_the_record(self, record, folder, tmp_path):
        assert again(record, folder=folder, keep=tmp_path / "again").verdict == "identical"
        assert [r.key for r in store.RunFolder(tmp_path / "again").records()] == [record.key]
        with pytest.raises(
            ValueError, match="holds the record itself, so nothing would run; expected another"
        ):
            again(record, folder=folder, keep=folder.path)

    def test_a_set_that_was_handed_to_evaluate_is_scored_by_the_students_of_that_seed(self, folder, record):
        path = folder.set_path(record.set_key)
        (given,) = api.evaluate(path, networks="MLP", repeats=2, seed=7, device="cpu", quiet=True)
        assert again(given, set_file=path).verdict == "identical"
        assert "was handed to ddbench evaluate, not made by this cell" in again(given).reason

    def test_a_test_image_in_the_set_is_remarked(self, folder, record, tmp_path):
        real = runner.Session(runner.Context(run=tmp_path, device="cpu")).real("digits")
        path = tmp_path / "leaky.safetensors"
        sets.write(path, api.as_set(real.test.images[:10], real.test.labels[:10], real))
        (given,) = api.evaluate(path, networks="MLP", repeats=1, device="cpu", quiet=True)
        done = again(given, set_file=path)
        assert done.verdict == "identical" and done.remarks[0].startswith(
            "10 copies of test images in the set"
        )

    def test_a_missing_set_says_where_it_was_looked_for(self, folder, record):
        elsewhere = record.model_copy(update={"set_key": "gone"})
        with pytest.raises(
            FileNotFoundError, match=r"is not in .*runs \(gone\.safetensors\); name its file with"
        ):
            again(elsewhere, folder=folder, only_evaluate=True)
        with pytest.raises(FileNotFoundError, match="is not in its run folder"):
            again(elsewhere, only_evaluate=True)


class TestFinding:
    def test_by_file_by_key_and_by_the_beginning_of_a_key(self, folder, record):
        path = folder.record_path(record.key)
        for name in (str(path), record.key, record.key[:17]):
            found, place = verify.find(name, [folder.path])
            assert found == record and place.path.resolve() == folder.path.resolve()

    def test_a_file_outside_a_run_folder_has_none(self, folder, record, tmp_path):
        copy = tmp_path / "theirs.json"
        copy.write_bytes(folder.record_path(record.key).read_bytes())
        assert verify.find(str(copy), [Path("runs")]) == (record, None)

    def test_what_is_not_there_or_not_clear_is_said(self, folder):
        with pytest.raises(
            LookupError, match="no record 'nope': neither a file nor the beginning of a key in .*runs"
        ):
            verify.find("nope", [folder.path])
        with pytest.raises(
            LookupError, match="2 records begin with 'random-digits' in .*; give more of the key"
        ):
            verify.find("random-digits", [folder.path])


class TestCommand:
    def said(self, capsys, *arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return end.value.code, out, err

    def test_says_what_was_repeated_and_the_verdict_and_ends_with_it(self, folder, record, tmp_path, capsys):
        status, out, _ = self.said(capsys, "verify", record.key, "--runs", folder.path, "--only-evaluate")
        lines = dict(line.split(None, 1) for line in out.splitlines())
        assert status == 0 and list(lines) == ["record", "repeated", "set", "scores", "verdict"]
        assert lines["verdict"] == "identical" and lines["repeated"].startswith("evaluation, in ")
        theirs = tmp_path / "theirs.json"
        theirs.write_text(shifted(record, 20).model_dump_json())
        set_file = folder.set_path(record.set_key)
        status, out, _ = self.said(capsys, "verify", theirs, "--set-file", set_file)
        assert status == 1 and out.splitlines()[-1].startswith("verdict   differs: the means are not within")

    def test_a_set_that_was_evaluated_into_a_run_folder_has_a_record_there(
        self, folder, record, tmp_path, capsys
    ):
        path, runs = folder.set_path(record.set_key), tmp_path / "kept"
        how = ("--network", "MLP", "--repeats", 1, "--seed", 3, "--device", "cpu", "--runs", runs)
        assert self.said(capsys, "evaluate", path, *how)[0] == 0
        (kept,) = store.RunFolder(runs).records()
        assert kept.key.startswith("given-") and store.RunFolder(runs).sets()[0].stem == kept.set_key
        status, out, _ = self.said(capsys, "verify", "given", "--runs", runs, "--only-evaluate")
        assert status == 0 and out.splitlines()[-1].split() == ["verdict", "identical"]

    def test_gives_everything_as_json_and_2_for_what_cannot_be_repeated(self, record, tmp_path, capsys):
        theirs = tmp_path / "theirs.json"
        theirs.write_text(record.model_copy(update={"data_fingerprint": "x"}).model_dump_json())
        status, out, _ = self.said(capsys, "verify", theirs, "--json")
        document = json.loads(out)
        assert status == 2 and document["verdict"] == "not repeatable" and document["record"] is None
        status, _, err = self.said(capsys, "verify", "nope", "--runs", tmp_path)
        assert status == 2 and err.startswith("error: no record 'nope'")

    @pytest.mark.parametrize("text", ["", "dear all, here is our record", "[]", "{}"])
    def test_what_is_no_record_is_not_to_be_removed_but_is_told_what_one_is(self, text, tmp_path, capsys):
        path = tmp_path / "theirs.json"
        path.write_text(text)
        status, _, err = self.said(capsys, "verify", path)
        assert status == 2 and err.startswith(f"error: record {path} can't be read (")
        assert (
            "; expected a record: the JSON file that ddbench run writes as RUNS/records/KEY.json; if it"
            in err
        )
        assert "remove" not in err

    def test_a_folder_is_told_as_such_unless_its_name_begins_a_key(
        self, folder, record, tmp_path, capsys, monkeypatch
    ):
        status, _, err = self.said(capsys, "verify", folder.path)
        example = folder.path / "records" / "KEY.json"
        assert status == 2 and err == (
            f"error: {folder.path} is a folder; expected the file of a record, such as {example}, or the beginning of a key "
            f"with --runs {folder.path}\n"
        )
        monkeypatch.chdir(tmp_path)
        Path(record.key).mkdir()
        assert verify.find(record.key, [folder.path])[0] == record

    def test_paths_that_are_not_there_are_told_with_what_was_expected(self, tmp_path, capsys):
        gone, file = tmp_path / "gone", tmp_path / "file"
        file.write_text("")
        a_set, a_run = "a distilled set (.safetensors)", "a run folder (see: ddbench run --runs DIR)"
        for arguments, said in (
            (("verify", "x", "--set-file", gone), f"{gone} is not there; expected {a_set}"),
            (("verify", "x", "--runs", gone), f"{gone} is not there; expected {a_run}"),
            (("compare", "dm", "random", "--runs", file), f"{file} is a file; expected {a_run}"),
            (("leaks", gone), f"{gone} is not there; expected {a_set}"),
            (("leaks", tmp_path), f"{tmp_path} is a folder; expected {a_set}"),
            (("board", "--runs", gone), f"{gone} is not there; expected {a_run}"),
            (("report", "--runs", gone), f"{gone} is not there; expected {a_run}"),
            (("export", gone, "--to", "mtt", "--out", "x"), f"{gone} is not there; expected {a_set}"),
            (("import", gone), f"{gone} is not there; expected what authors published: a file, a folder,"),
            (("claims", "--import", gone, "--out", "x"), f"{gone} is not there; expected a CSV file of"),
        ):
            status, _, err = self.said(capsys, *arguments)
            assert status == 2 and err.startswith(f"error: {said}"), arguments
        gone = tmp_path / "gone.safetensors"
        status, _, err = self.said(capsys, "compare", gone, gone)
        assert status == 2 and err == f"error: {gone} is not there; expected {a_set}\n"

    def test_a_record_of_a_newer_ddbench_is_told_as_such(self, record, tmp_path, capsys):
        newer = tmp_path / "newer.json"
        newer.write_text(json.dumps({**record.model_dump(), "schema_version": 99, "colour": "red"}))
        status, _, err = self.said(capsys, "verify", newer)
        assert status == 2 and "has schema version 99, this ddbench knows up to" in err
