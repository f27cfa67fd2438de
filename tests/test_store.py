"""The store: whole files or none, clear messages, state that comes back bit for bit."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddbench import store
from ddbench.records import SCHEMA, Cell, DistilCell, Provenance, Record


def record(key: str = "k1") -> Record:
    cell = Cell(
        distil=DistilCell(method="random", dataset="digits", ipc=1, seed=0),
        protocol="quick",
        network="MLP",
        repeats=1,
    )
    return Record(key=key, set_key="s1", cell=cell, status="ok", provenance=Provenance(ddbench="0"))


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "a.json"
    store.write_json(path, {"old": 1})
    with pytest.raises(ZeroDivisionError), store.writing(path) as temporary:
        temporary.write_text("half")
        1 / 0  # noqa: B018
    assert path.read_text() == '{\n "old": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_the_temporary_file_keeps_the_suffix_and_the_folder(tmp_path):
    with store.writing(tmp_path / "deep" / "plot.png") as temporary:
        assert temporary.suffix == ".png" and temporary.parent == tmp_path / "deep"
        temporary.write_bytes(b"x")
    assert (tmp_path / "deep" / "plot.png").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EROFS, "read-only for this user; choose a folder"),
    ],
)
def test_a_full_or_read_only_disk_is_said_with_the_path_and_what_to_do(tmp_path, code, text):
    with pytest.raises(
        store.WriteError, match=rf"cannot write .*x\.json: .*{text}.*nothing that was there before"
    ):
        with store.writing(tmp_path / "x.json"):
            raise OSError(code, os.strerror(code))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_inside_the_safetensors_writer_is_said_as_well(tmp_path):
    from safetensors import SafetensorError

    with pytest.raises(store.WriteError, match="the disk is full"), store.writing(tmp_path / "x.safetensors"):
        raise SafetensorError(
            'Error while serializing: I/O error: Os { code: 28, kind: StorageFull, message: "" }'
        )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_really_full_device_gives_the_clear_message(tmp_path, monkeypatch):
    def write(self, text, **_):
        with open("/dev/full", "w") as full:
            full.write(text)

    monkeypatch.setattr("pathlib.Path.write_text", write)
    with pytest.raises(store.WriteError, match="the disk is full"):
        store.write_json(tmp_path / "x.json", 1)


def test_a_file_where_a_folder_should_be_is_said(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(ValueError, match="run folder .*runs is a file; expected a folder"):
        store.RunFolder(tmp_path / "runs")
    with pytest.raises(store.WriteError, match="in each other's place"):
        store.write_json(tmp_path / "runs" / "x.json", 1)


def test_two_locks_on_one_path_exclude_each_other(tmp_path):
    with store.Lock(tmp_path / "a"):
        with (
            pytest.raises(TimeoutError, match=r"a\.lock is held by another process"),
            store.Lock(tmp_path / "a", wait_s=0),
        ):
            pass
    with store.Lock(tmp_path / "a", wait_s=0):
        pass


def test_lock_files_that_nobody_holds_are_cleared(tmp_path):
    run = store.RunFolder(tmp_path)
    with run.lock("held"):
        with run.lock("set-a.b"):
            pass
        run.clear_locks()
        assert [p.name for p in (tmp_path / "locks").iterdir()] == ["held.lock"]
    run.clear_locks()
    assert not list((tmp_path / "locks").iterdir())
    store.RunFolder(tmp_path / "new").clear_locks()


def test_nested_state_comes_back_bit_for_bit(tmp_path):
    shared = torch.arange(6.0)
    state = {
        "adam": {0: {"step": torch.tensor(3.0), "m": shared}, 1: {"m": shared.view(2, 3).t()}},
        "groups": [{"lr": 0.1, "betas": (0.9, 0.999), "fused": None, "big": float("inf")}],
        "empty": torch.zeros(0, 3),
        "rng": torch.Generator().manual_seed(1).get_state(),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    store.save_state(tmp_path / "s.safetensors", state)
    back = store.load_state(tmp_path / "s.safetensors")
    assert back["groups"] == state["groups"] and isinstance(back["groups"][0]["betas"], tuple)
    assert set(back["adam"]) == {0, 1}
    assert torch.equal(back["adam"][1]["m"], shared.view(2, 3).t())
    assert back["empty"].shape == (0, 3) and back["half"].dtype == torch.bfloat16
    assert torch.equal(back["rng"], state["rng"])


def test_state_of_another_kind_is_refused_by_its_place(tmp_path):
    with pytest.raises(TypeError, match=r"state\.a\[1\] is a set, which a checkpoint can't hold"):
        store.save_state(tmp_path / "s", {"a": [1, {2}]})


@pytest.mark.parametrize("cut", [0, 5, 100, -1])
def test_a_truncated_checkpoint_names_the_file_and_what_to_do(tmp_path, cut):
    path = tmp_path / "s.safetensors"
    store.save_state(path, {"x": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(
        store.DamagedError, match=r"checkpoint .*s\.safetensors is damaged or truncated .*remove it to start"
    ):
        store.load_state(path)


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "s.safetensors"
    store.save_state(path, {"x": torch.ones(100)})
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(store.DamagedError, match="its checksum differs"):
        store.load_state(path)


def test_records_come_back_and_temporary_files_are_not_read(tmp_path):
    folder = store.RunFolder(tmp_path)
    assert folder.records() == [] and folder.record("k1") is None
    folder.write_record(record("k2"))
    folder.write_record(record("k1"))
    (tmp_path / "records" / ".k3.0.tmp.json").write_text("{")
    assert [r.key for r in folder.records()] == ["k1", "k2"]
    assert folder.record("k2") == record("k2")


def test_a_truncated_record_is_named_and_may_be_listed_instead_of_raised(tmp_path):
    folder = store.RunFolder(tmp_path)
    folder.write_record(record("k1"))
    path = folder.write_record(record("k2"))
    path.write_text(path.read_text()[:50])
    with pytest.raises(
        store.DamagedError, match=r"record .*k2\.json can't be read .*remove it and run again"
    ):
        folder.records()
    skipped: list[str] = []
    assert [r.key for r in folder.records(skipped)] == ["k1"]
    assert len(skipped) == 1 and "k2.json" in skipped[0]


def test_a_record_with_a_wrong_field_says_which(tmp_path):
    folder = store.RunFolder(tmp_path)
    path = folder.write_record(record())
    path.write_text(path.read_text().replace('"status": "ok"', '"status": "good"'))
    with pytest.raises(store.DamagedError, match="field status"):
        folder.records()


def test_the_cache_lies_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path))
    assert store.cache_root() == tmp_path
    monkeypatch.delenv("DDBENCH_CACHE")
    assert store.cache_root().parts[-2:] == (".cache", "ddbench")


def test_prune_removes_the_least_recently_used_until_the_quota_holds(tmp_path):
    now = time.time()
    for age, name in enumerate(["new", "middle", "old"]):
        (tmp_path / "teachers" / name).mkdir(parents=True)
        file = tmp_path / "teachers" / name / "w.bin"
        file.write_bytes(b"x" * 100)
        for p in (file, file.parent):
            os.utime(p, (now - 100 * age, now - 100 * age))
    assert [(e.kind, e.path.name, e.size_bytes) for e in store.entries(tmp_path, now)] == [
        ("teachers", "middle", 100), ("teachers", "new", 100), ("teachers", "old", 100)
    ]  # fmt: skip
    assert [e.path.name for e in store.prune(150, root=tmp_path, dry_run=True, now=now)] == ["old", "middle"]
    assert [e.path.name for e in store.prune(250, root=tmp_path, now=now)] == ["old"]
    assert store.prune(0, root=tmp_path, spare_s=1000, now=now) == []
    assert [e.path.name for e in store.prune(older_than_s=50, root=tmp_path, now=now)] == ["middle"]
    assert [e.path.name for e in store.entries(tmp_path)] == ["new"]


def test_looking_at_a_cached_file_is_not_using_it(tmp_path):
    now = time.time()
    for age, name in enumerate(["new", "middle", "old"]):
        file = tmp_path / "zca" / f"{name}.bin"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
        os.utime(file, (now, now - 1000 * (age + 1)))  # read just now, written long ago
    assert [round(e.age_s) for e in store.entries(tmp_path, now)] == [2000, 1000, 3000]
    store.used(tmp_path / "zca" / "old.bin")
    store.used(tmp_path / "zca" / "gone.bin")  # no file, no matter
    assert [e.path.stem for e in store.prune(1, root=tmp_path)] == ["middle", "new"]


@pytest.mark.parametrize(
    ("text", "size"), [("10", 10), ("2K", 2048), ("1.5 MiB", 3 << 19), ("20gb", 20 << 30)]
)
def test_sizes_are_read_with_units_of_1024(text, size):
    assert store.parse_size(text) == size


def test_a_wrong_quota_says_where_it_came_from(monkeypatch):
    monkeypatch.setenv("DDBENCH_CACHE_QUOTA", "much")
    with pytest.raises(ValueError, match="DDBENCH_CACHE_QUOTA: size is 'much'; expected a number"):
        store.quota_bytes()
    monkeypatch.delenv("DDBENCH_CACHE_QUOTA")
    assert store.quota_bytes() is None


def test_the_store_does_not_import_torch():
    import subprocess
    import sys

    code = "import sys, ddbench.store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------------------------------------ versions of records


DATA = Path(__file__).parent / "data"


class TestVersions:
    @pytest.mark.parametrize("version", range(1, SCHEMA + 1))
    def test_a_frozen_record_of_every_version_is_read(self, version):
        found = store.read_record(DATA / f"record-v{version}.json")
        assert found.schema_version == version and found.status == "ok"
        assert found.scores and all(0 < s.value < 1 for s in found.scores)
        assert found.cell.distil.dataset == "digits" and found.bytes.total > 0 and found.provenance.torch

    def test_what_version_1_does_not_know_is_said_to_be_unknown(self):
        old, new = (store.read_record(DATA / f"record-v{v}.json") for v in (1, 2))
        assert (old.metric, old.ece, old.class_accuracy, old.whitened) == ("top1", [], [], None)
        assert (new.metric, len(new.ece), len(new.class_accuracy), new.whitened) == ("top1", 2, 10, False)
        assert old.labelled_by and old.labels == "committee of 5, stored"

    def test_an_older_record_that_is_written_again_is_of_this_version(self, tmp_path):
        old = store.read_record(DATA / "record-v1.json")
        path = store.RunFolder(tmp_path).write_record(old)
        assert store.read_record(path) == old.model_copy(update={"schema_version": SCHEMA})

    def test_a_newer_one_is_refused_with_what_to_do_even_where_its_fields_are_unknown(self, tmp_path):
        path = tmp_path / "new.json"
        plain = json.loads((DATA / "record-v2.json").read_text())
        for more in ({}, {"colour": "red"}, {"scores": "elsewhere"}):
            path.write_text(json.dumps({**plain, **more, "schema_version": SCHEMA + 1}))
            with pytest.raises(
                store.DamagedError,
                match=rf"new\.json has schema version {SCHEMA + 1}, this ddbench knows up to {SCHEMA}; update ddbench",
            ):
                store.read_record(path)
        path.write_text(json.dumps({**plain, "schema_version": 0}))
        with pytest.raises(
            store.DamagedError, match=rf"says schema version 0; expected 1 to {SCHEMA}; remove it"
        ):
            store.read_record(path)

    def test_an_unknown_field_of_this_version_is_named(self, tmp_path):
        path = tmp_path / "odd.json"
        path.write_text(json.dumps({**json.loads((DATA / "record-v2.json").read_text()), "colour": "red"}))
        with pytest.raises(store.DamagedError, match="field colour: Extra inputs are not permitted"):
            store.read_record(path)


class TestHostileRecords:
    def test_deep_nesting_length_and_folders_are_refused_in_words(self, tmp_path):
        path = tmp_path / "r.json"
        good = (DATA / "record-v2.json").read_text()
        deep = good.replace('"notes": {}', '"settings": ' + '{"a":' * 50_000 + "1" + "}" * 50_000)
        for text in ("[" * 100_000, deep, "", "null", "[]", "\udcff", "1e999999", '{"schema_version": 9e99}'):
            path.write_bytes(text.encode("utf-8", "surrogateescape"))
            with pytest.raises(store.DamagedError, match=r"record .*r\.json can't be read"):
                store.read_record(path)
        path.write_bytes(b" " * (store._RECORD_BYTES + 1))
        with pytest.raises(store.DamagedError, match=r"has 4,194,305 bytes, which no record has; remove it"):
            store.read_record(path)
        with pytest.raises(store.DamagedError, match=r"bytes, which no record has; ask for it again$"):
            store.read_record(path, "ask for it again")
        (tmp_path / "records" / "x.json").mkdir(parents=True)
        skipped: list[str] = []
        assert store.RunFolder(tmp_path).records(skipped) == [] and "is no file; move it away" in skipped[0]
        with pytest.raises(FileNotFoundError):
            store.read_record(tmp_path / "gone.json")

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_whatever_a_field_holds_it_is_read_or_refused(self, tmp_path, data):
        anything = st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
            max_leaves=6,
        )
        plain = json.loads((DATA / "record-v2.json").read_text())
        place = plain
        while isinstance(place, (dict, list)) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys))
            if not isinstance(place[key], (dict, list)) or data.draw(st.booleans()):
                place[key] = data.draw(anything)
                break
            place = place[key]
        path = tmp_path / "r.json"
        path.write_text(json.dumps(plain))
        with contextlib.suppress(store.DamagedError):
            assert store.read_record(path).schema_version in (1, 2)
