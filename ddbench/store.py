"""What lies on disk: run folders, caches, checkpoints; atomic writes, locks, sizes and pruning.  No torch on import.

A file that this module wrote is either whole or not there: everything goes to a temporary file in the same folder, is
flushed to the disk, and only then takes its name.  Nothing here is pickled.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import time
import uuid
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
from pydantic import BaseModel, ValidationError

from ddbench.records import SCHEMA, Record

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class WriteError(OSError):
    """A file could not be written; the message names it and says what to do.  What was there before is untouched."""


class DamagedError(ValueError):
    """A file of ours is truncated or was changed; the message names it and says what to do."""


# ------------------------------------------------------------------------------------------------ writing


def _explained(path: Path, error: BaseException) -> WriteError | None:
    """The clear form of a failed write, or None where ``error`` is no matter of the disk."""
    if isinstance(error, WriteError):
        return None
    code = error.errno if isinstance(error, OSError) else None
    if type(error).__name__ == "SafetensorError":  # its writer hides the errno inside the text
        found = re.search(r"code: (\d+)", str(error))
        code = int(found.group(1)) if found else None
    if code in _FULL:
        why, do = "the disk is full", "free some space there (see: ddbench cache) or choose another folder"
    elif code in _READ_ONLY:
        why, do = "the folder is read-only for this user", "choose a folder that you may write to"
    elif code in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        why, do = "a file and a folder stand in each other's place", "move the one that is in the way"
    elif isinstance(error, OSError) and code is not None:
        why, do = os.strerror(code), "check the path and the disk"
    else:
        return None
    clear = WriteError(f"cannot write {path}: {why}; {do}; nothing that was there before is changed")
    clear.errno = code
    return clear


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        clear = _explained(path, error)
        if clear is None:
            raise
        raise clear from error


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path`` (made if missing) that replaces ``path`` when the body succeeds.

    The temporary path has the suffix of ``path``.  On any error it is removed and ``path`` stays as it was.

    Raises:
        WriteError: read-only folder, full disk, or a path that can't be a file; names the path and what to do.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:12]}.tmp{path.suffix}")
    with _clear_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(
                OSError
            ):  # gone after success; an error while clearing up must not hide the first one
                temporary.unlink()
    with suppress(
        OSError
    ):  # the entry in the folder, too, should outlive a power cut; not every file system can
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


class Lock:
    """One process at a time: ``with Lock(path):`` holds ``path`` + ``.lock``; set free when the process dies.

    ``wait_s``: how long to wait for another process (None: for ever); after it ``TimeoutError``.
    """

    def __init__(self, path: str | os.PathLike[str], wait_s: float | None = None) -> None:
        path = Path(path)
        self.path = path.with_name(path.name + ".lock")
        self._wait_s = -1.0 if wait_s is None else wait_s
        self._lock = filelock.FileLock(str(self.path))

    def __enter__(self) -> Lock:
        with _clear_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=self._wait_s)
            except filelock.Timeout:
                raise TimeoutError(f"{self.path} is held by another process; wait for it to finish") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()


# ------------------------------------------------------------------------------------------------ nested state


def _pack(value: Any, tensors: dict[str, Any], where: str) -> Any:
    import torch  # late: boards read records without torch

    if isinstance(value, torch.Tensor):
        name = f"t{len(tensors)}"
        # A copy each: safetensors refuses tensors that share memory, and the state goes on changing.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {
            "dict": [[_pack(k, tensors, where), _pack(v, tensors, f"{where}.{k}")] for k, v in value.items()]
        }
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_pack(v, tensors, f"{where}[{i}]") for i, v in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"{where} is a {type(value).__name__}, which a checkpoint can't hold; "
        f"expected tensors, numbers, text, None, or dicts, lists and tuples of them"
    )


def _unpack(value: Any, tensors: dict[str, Any]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "dict":
        return {_unpack(k, tensors): _unpack(v, tensors) for k, v in inner}
    parts = [_unpack(v, tensors) for v in inner]
    return tuple(parts) if kind == "tuple" else parts


def _checksum(tensors: dict[str, Any], text: str) -> str:
    import torch

    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        flat = tensors[name].reshape(-1)
        crc = zlib.crc32(flat.view(torch.uint8).numpy() if flat.numel() else b"", crc)
    return f"{crc:08x}"


def save_state(path: str | os.PathLike[str], state: Any) -> None:
    """Write nested dicts, lists and tuples of tensors, numbers, text and None as one safetensors file, atomically.

    Raises:
        TypeError: a value of another kind, named by its place.
        WriteError: see :func:`writing`.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    text = json.dumps(_pack(state, tensors, "state"))
    with writing(path) as temporary:
        save_file(tensors, temporary, metadata={"state": text, "crc32": _checksum(tensors, text)})


def load_state(path: str | os.PathLike[str], what: str = "checkpoint") -> Any:
    """Read what :func:`save_state` wrote; tensors are on the CPU.

    Raises:
        FileNotFoundError: no such file.
        DamagedError: the file is truncated, is of another kind, or its checksum differs.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # the file itself is not iterable
        text = header["state"]
        if _checksum(tensors, text) != header["crc32"]:
            raise DamagedError("its checksum differs")
        return _unpack(json.loads(text), tensors)
    except (SafetensorError, DamagedError, KeyError, json.JSONDecodeError) as error:
        raise DamagedError(
            f"{what} {path} is damaged or truncated ({error}); remove it to start this part again"
        ) from error


# ------------------------------------------------------------------------------------------------ run folders


@dataclass(frozen=True)
class Entry:
    """One stored thing.  ``size_bytes`` sums files below ``path``; ``age_s`` counts from when it was last written or
    :func:`used`."""

    kind: str
    path: Path
    size_bytes: int
    age_s: float


def _entry(kind: str, path: Path, now: float) -> Entry:
    size, last = 0, 0.0
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        with suppress(FileNotFoundError):  # another process may take it away meanwhile
            status = file.stat()
            last = max(last, status.st_mtime)
            size += 0 if file.is_dir() else status.st_size
    return Entry(kind, path, size, max(0.0, now - last))


def _entries(root: Path, now: float | None) -> list[Entry]:
    if not root.is_dir():
        return []
    now = time.time() if now is None else now
    found = []
    for kind in sorted(p for p in root.iterdir() if p.is_dir()):
        found += [_entry(kind.name, p, now) for p in sorted(kind.iterdir()) if p.suffix != ".lock"]
    return found


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a file of JSON lines; none where it is not there.  A last line that was cut off by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines atomically."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _visible(folder: Path, pattern: str) -> list[Path]:
    """Files without the temporary ones of a process that is writing or was killed."""
    return sorted(p for p in folder.glob(pattern) if not p.name.startswith("."))


_RECORD_BYTES = 4 << 20
"""Above that a file is no record: the longest have some tens of kB."""


def read_record(path: Path, advice: str = "remove it and run again to make it anew") -> Record:
    """Read and validate one record, of this schema version or an older one.

    Version 1 (before metric, ece, class_accuracy and whitened) needs nothing done: the defaults of these fields are what is
    known of it.  A version that renames or drops a field gets its old records changed here, after they were parsed and
    before they are validated; a frozen record of each version is in tests/data.

    Args:
        advice: what to do about one that can't be read, the end of the message; by default for one of a run folder.

    Raises:
        DamagedError: the file is no whole record, or one of a newer version; names the file and the first fault.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    if not path.is_file() and path.exists():
        raise DamagedError(f"record {path} is no file; move it away")
    if (size := path.stat().st_size) > _RECORD_BYTES:
        raise DamagedError(f"record {path} has {size:,} bytes, which no record has; {advice}")
    text = path.read_bytes()
    try:
        record = Record.model_validate_json(text)
    except ValidationError as error:
        _check_version(path, text)  # a newer one has fields that are unknown here: that is then the reason
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise DamagedError(
            f"record {path} can't be read ({f'field {field}: ' if field else ''}{first['msg']}); {advice}"
        ) from error
    if not 1 <= record.schema_version <= SCHEMA:
        _check_version(path, text)
        raise DamagedError(
            f"record {path} says schema version {record.schema_version}; expected 1 to {SCHEMA}; {advice}"
        )
    return record


class _Version(BaseModel):
    """The one field that says how to read the others."""

    schema_version: int = 0


def _check_version(path: Path, text: bytes) -> None:
    """Raises DamagedError for a record that a newer ddbench wrote."""
    try:
        version = _Version.model_validate_json(text).schema_version
    except ValidationError:
        return  # no JSON at all, say: what the reader of the whole said of it stands
    if version > SCHEMA:
        raise DamagedError(
            f"record {path} has schema version {version}, this ddbench knows up to {SCHEMA}; update ddbench to read it"
        )


class RunFolder:
    """The paths of a run folder, and its records.

    ``sets/<set key>.safetensors``, ``records/<key>.json``, ``checkpoints/<set key>/``, ``traces/<set key>.jsonl``,
    ``snapshots/<set key>/``, ``pictures/<set key>/``, ``curves/<set key>/<key>.jsonl``, ``tensorboard/<key>/``, ``locks/``.
    Folders are made when first written to.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"run folder {self.path} is a file; expected a folder: choose another one")

    def set_path(self, set_key: str) -> Path:
        return self.path / "sets" / f"{set_key}.safetensors"

    def record_path(self, key: str) -> Path:
        return self.path / "records" / f"{key}.json"

    def checkpoint_path(self, set_key: str) -> Path:
        """Folder of the checkpoint of one distillation."""
        return self.path / "checkpoints" / set_key

    def trace_path(self, set_key: str) -> Path:
        return self.path / "traces" / f"{set_key}.jsonl"

    def snapshot_path(self, set_key: str, iteration: int) -> Path:
        return self.path / "snapshots" / set_key / f"{iteration:07d}.safetensors"

    def snapshots(self, set_key: str) -> list[tuple[int, Path]]:
        """(iterations done, file) of the snapshots of a distillation, in their order."""
        found = _visible(self.path / "snapshots" / set_key, "*.safetensors")
        return sorted((int(p.stem), p) for p in found if p.stem.isdigit())

    def picture_path(self, set_key: str, name: str) -> Path:
        """Contact sheet of a set under way or finished."""
        return self.path / "pictures" / set_key / f"{name}.png"

    def curve_path(self, set_key: str, key: str) -> Path:
        """Accuracy over time of a distillation, as the cell of the record ``key`` scores it."""
        return self.path / "curves" / set_key / f"{key}.jsonl"

    def tensorboard_path(self, key: str) -> Path:
        """Folder of the event files of a set key (its trace) or a record key (its accuracy over time)."""
        return self.path / "tensorboard" / key

    def lock(self, key: str, wait_s: float | None = None) -> Lock:
        """Lock of one set or record key."""
        return Lock(self.path / "locks" / key, wait_s)

    def clear_locks(self) -> None:
        """Remove lock files that nobody holds.

        A process that opens such a file in the instant of its removal locks a file without a name, and another one may
        then be at the same key: work done twice, no harm, as every file here is written atomically.
        """
        for path in (self.path / "locks").glob("*.lock"):
            with suppress(TimeoutError, OSError), Lock(path.with_suffix(""), wait_s=0):
                path.unlink(missing_ok=True)

    def check_writable(self) -> None:
        """Raises WriteError before any work is done where nothing could be kept."""
        probe = self.path / ".writable"
        write_text(probe, "")
        probe.unlink(missing_ok=True)

    def record(self, key: str) -> Record | None:
        """The record of a key, or None.  Raises DamagedError."""
        path = self.record_path(key)
        return read_record(path) if path.exists() else None

    def write_record(self, record: Record) -> Path:
        path = self.record_path(record.key)
        # an older one may have got new fields since it was read
        now = record.model_copy(update={"schema_version": SCHEMA})
        write_text(path, now.model_dump_json(indent=1) + "\n")
        return path

    def records(self, unreadable: list[str] | None = None) -> list[Record]:
        """All records, in the order of their keys.

        Args:
            unreadable: takes the messages of records that can't be read, which are then left out.

        Raises:
            DamagedError: a record can't be read and ``unreadable`` is None.
        """
        found = []
        for path in _visible(self.path / "records", "*.json"):
            try:
                found.append(read_record(path))
            except DamagedError as error:
                if unreadable is None:
                    raise
                unreadable.append(str(error))
        return found

    def sets(self) -> list[Path]:
        return _visible(self.path / "sets", "*.safetensors")

    def entries(self, now: float | None = None) -> list[Entry]:
        """What the folder holds, with sizes and ages."""
        return _entries(self.path, now)


# ------------------------------------------------------------------------------------------------ the cache


WATCHED = ("snapshots", "pictures", "curves", "tensorboard")
"""Kinds of a run folder that only show how a distillation went: no set and no record needs them."""


def cache_root() -> Path:
    """Folder of everything that can be made again: ``DDBENCH_CACHE``, else ``~/.cache/ddbench``.  One sub-folder a kind."""
    named = os.environ.get("DDBENCH_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "ddbench"


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """``500M``, ``20GiB`` or a number of bytes -> bytes (units of 1024)."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if not found:
        raise ValueError(f"size is {text!r}; expected a number with an optional unit, such as 500M or 20G")
    return math.floor(float(found.group(1)) * _UNITS[found.group(2).upper()])


def quota_bytes() -> int | None:
    """Size that the cache may have, from ``DDBENCH_CACHE_QUOTA`` (such as ``20G``); None: no limit."""
    named = os.environ.get("DDBENCH_CACHE_QUOTA")
    if not named:
        return None
    try:
        return parse_size(named)
    except ValueError as error:
        raise ValueError(f"DDBENCH_CACHE_QUOTA: {error}") from None


def used(path: Path) -> None:
    """Say that a cached file or folder was used just now: a full cache loses last what was used last.

    Times of reading would not do: looking at what is there (``ddbench cache list``) reads too, and many file systems do
    not keep them.
    """
    with suppress(OSError):  # a read-only cache is never pruned
        os.utime(path)


def entries(root: Path | None = None, now: float | None = None) -> list[Entry]:
    """Everything cached, by kind and name."""
    return _entries(root or cache_root(), now)


def prune(
    quota: int | None = None,
    older_than_s: float | None = None,
    *,
    root: Path | None = None,
    kinds: Collection[str] | None = None,
    spare_s: float = 0.0,
    dry_run: bool = False,
    now: float | None = None,
) -> list[Entry]:
    """Remove cached things, least recently used first, and say which.

    Args:
        quota: bytes that may stay.
        older_than_s: remove whatever was not used for so long.
        root: another folder than the cache; of a run folder name ``kinds``, such as :data:`WATCHED`.
        kinds: look at these only; None: at all.
        spare_s: never remove what was used within so many seconds (another process may need it now).
        dry_run: only say what would go.
    """
    mine = (e for e in entries(root, now) if kinds is None or e.kind in kinds)
    everything = sorted(mine, key=lambda e: -e.age_s)
    left = sum(e.size_bytes for e in everything)
    gone = []
    for entry in everything:
        too_old = older_than_s is not None and entry.age_s > older_than_s
        too_much = quota is not None and left > quota
        if not (too_old or too_much) or entry.age_s < spare_s:
            continue
        if not dry_run:
            with _clear_errors(entry.path):
                if entry.path.is_dir():
                    shutil.rmtree(entry.path)
                else:
                    entry.path.unlink(missing_ok=True)
        left -= entry.size_bytes
        gone.append(entry)
    return gone
