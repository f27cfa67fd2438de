"""Files that others wrote, read without running anything in them and within limits of memory.

Torch files: members checked, the pickle inside read by a small interpreter of our own that knows tensors and plain values and
calls nothing; only what passes it is handed to ``torch.load(weights_only=True)``.  Numpy files: no pickles, sizes checked
before memory is taken.  Archives: every member inside of the archive, declared sizes added up and held to.  Pictures: four
formats, sizes from their headers.  Parquet: a few rows at a time.

Every fault is a :class:`FormatError` that says the file, what was found and what to do.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib
import io
import math
import pickletools
import stat
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ddbench.store import DamagedError

LIMIT_MIB = 4096.0
"""What a file may hold once unpacked, unless more is allowed."""
_MIB = 1 << 20
_PICKLE_MIB = 4  # the structure of a file beside its tensors; published ones take kilobytes
_OPCODES = 1_000_000
_DEPTH = 64  # of lists in lists; published ones have 3
_MEMBERS = 2_000_000  # ImageNet-1K has 1.28 million pictures
_READ = 1 << 20
_RATIO = 1100  # deflate shrinks by 1,032 at most
_DIMENSIONS = 16
_SMALL, _EXPANDED = 16 * _MIB, 4  # tensors may be expanded to so many bytes, or so many times the file
_VALUE_MIB = 64  # one encoded picture of a parquet file
_PICTURE_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")


class FormatError(ValueError):
    """A file that cannot be read, or not safely, or not without being told more; the message says what to do."""


class CutShortError(FormatError, DamagedError):
    """A file that is truncated or damaged."""


def _cut_short(path: Path, kind: str, error: BaseException) -> CutShortError:
    why = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CutShortError(f"{path} is truncated or no {kind} ({why}); copy it again")


def _too_large(path: Path, size: float, limit_mib: float, what: str) -> FormatError:
    return FormatError(
        f"{path} holds {size / _MIB:,.0f} MiB, more than the {limit_mib:,.0f} MiB of a {what}; it is refused: allow more "
        f"where that is right (--limit)"
    )


@contextlib.contextmanager
def guarded(path: Path, kind: str) -> Iterator[None]:
    """Readers of foreign bytes raise nearly anything on damaged ones: all mean the same."""
    try:
        yield
    except (FormatError, FileNotFoundError):
        raise
    except Image.DecompressionBombError as error:
        raise FormatError(f"{path} is a picture that is too large to read ({error})") from error
    except Exception as error:
        raise _cut_short(path, kind, error) from error


def checksum(paths: Sequence[Path], base: Path) -> str:
    """Hex sha256 of a file, or of the names (from ``base``) and the hashes of several."""
    if len(paths) == 1:
        return _sha256(paths[0])
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(base).as_posix()}:{_sha256(path)}\n".encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ):
            digest.update(block)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------ names and kinds of files

_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number, pickled; two bytes of protocol stand before it


def container(path: Path) -> str:
    """What a file is by its bytes, whatever its name.

    One of ``torch``, ``legacy torch``, ``npz``, ``zip``, ``npy``, ``parquet``, ``gzip``, ``tar``, ``safetensors``, ``picture``,
    ``pickle``, ``unknown``.

    Raises:
        FileNotFoundError: no such file.
        FormatError: it begins as a zip but cannot be listed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    with path.open("rb") as file:
        start = file.read(512)
        size = path.stat().st_size
    if start[:2] == b"PK":
        names = [m.filename for m in _members(path, math.inf, "file")]
        if any(n.count("/") == 1 and n.endswith("/data.pkl") for n in names):
            return "torch"
        return "npz" if names and all(n.endswith(".npy") and "/" not in n for n in names) else "zip"
    if start[:1] == b"\x80" and start[2 : 2 + len(_LEGACY)] == _LEGACY:
        return "legacy torch"
    for magic, kind in (
        (b"\x93NUMPY", "npy"),
        (b"PAR1", "parquet"),
        (b"\x1f\x8b", "gzip"),
        (b"\xff\xd8\xff", "picture"),
        (b"\x89PNG", "picture"),
        (b"\x80", "pickle"),
    ):
        if start.startswith(magic):
            return kind
    if start[257:262] == b"ustar":
        return "tar"
    if len(start) > 8 and start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= size - 8:
        return "safetensors"
    if start[:1] in b"(c]}IFVSl" and _text_pickle(start):
        return "pickle"
    return "unknown"


def _text_pickle(start: bytes) -> bool:
    """Whether the bytes begin as pickles of protocol 0 do: with opcodes that end in lines."""
    try:
        for number, _ in enumerate(pickletools.genops(io.BytesIO(start))):
            if number == 3:
                return True
    except Exception:  # whatever else it is, it is no pickle
        return False
    return True


def refuse_pickle(path: Path) -> FormatError:
    """Why a plain pickle is not read, and what its owner can do."""
    return FormatError(
        f"{path} is a plain pickle, which can run code when it is read, and is refused; where you trust it, convert "
        f'it: what = pickle.load(open(file, "rb")); torch.save(what, "converted.pt"), with tensors in the place of arrays'
    )


def _outside(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return name.startswith(("/", "\\")) or ".." in parts or "\0" in name or (len(name) > 1 and name[1] == ":")


def _members(path: Path, limit_mib: float, what: str, kind: str = "zip file") -> list[zipfile.ZipInfo]:
    """Members of a zip, none of them outside of it, not larger in sum than allowed, no more packed than deflate can."""
    with guarded(path, kind), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    for member in members:
        if _outside(member.filename):
            raise FormatError(
                f"{path} has a member named {member.filename!r}, outside of itself; it is refused"
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise FormatError(f"{path} has a link in it, {member.filename!r}; it is refused")
        if member.file_size > _RATIO * member.compress_size + 4096:
            raise FormatError(
                f"{path} says that {member.filename!r} unpacks {member.compress_size:,} to {member.file_size:,} bytes, more "
                f"than packing can; it is refused"
            )
    if len(members) > _MEMBERS:
        raise FormatError(f"{path} has {len(members):,} members; expected at most {_MEMBERS:,}")
    size = sum(m.file_size for m in members)
    if size > limit_mib * _MIB:
        raise _too_large(path, size, limit_mib, what)
    return members


# ------------------------------------------------------------------------------------------------ torch files

_STORAGES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
_SCALARS = ("f8", "f4", "i8", "<f8", "<f4", "<i8")
_CALLED = {
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "collections OrderedDict",
    "torch Size",
    "numpy dtype",
    "numpy.core.multiarray scalar",
    "numpy._core.multiarray scalar",
    "_codecs encode",
}
_NUMPY_TYPES = {
    f"{module} {kind}DType"
    for module in ("numpy.dtypes", "numpy")
    for kind in ("Float64", "Float32", "Int64")
}
_ALLOWED = _CALLED | _NUMPY_TYPES | {f"torch {name}" for name in _STORAGES}


def _allowed() -> list[Any]:
    """What such files may name besides tensors: numpy scalars of three types, under the old and the new name."""
    scalar = np.float64(0).__reduce__()[0]
    types = [type(np.dtype(t)) for t in (np.float64, np.float32, np.int64)]
    named = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*named, np.dtype, *types]


@dataclass(frozen=True)
class _Name:
    text: str


@dataclass(frozen=True)
class _Storage:
    key: str
    item: int
    numel: int


@dataclass(frozen=True)
class _Inert:
    """What a call would make: a tensor with its bytes, a numpy type, a scalar."""

    kind: str
    bytes: int = 0


class _Structure:
    """What a pickle would build, built of stand-ins: nothing is imported, called or allocated.

    ``storages``: key -> bytes; ``bytes``: of all tensors as they would be copied.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self.storages: dict[str, int] = {}
        self.bytes = 0

    def fault(self, what: str) -> FormatError:
        return FormatError(
            f"{self.path} {what}, which no {self.what} needs and which might run code; it is not read"
        )

    def large(self) -> FormatError:
        return FormatError(
            f"{self.path} has a structure of more than {_PICKLE_MIB} MiB or {_OPCODES:,} steps beside its tensors, which no "
            f"{self.what} needs; it is refused: save images and labels as two tensors"
        )

    def endless(self, what: str) -> FormatError:
        return FormatError(f"{self.path} {what}, which no {self.what} needs; it is refused")

    def finite(self, value: Any) -> Any:
        """The value, which holds itself nowhere and is not too deep."""
        depths: dict[int, int] = {}  # of containers that are done; 0: being walked
        path: list[tuple[Any, Iterator[Any], int]] = []

        def enter(container: Any) -> int:
            """Depth below it, where that is known."""
            if not isinstance(container, (list, tuple, dict)):
                return 0
            if (known := depths.get(id(container))) is not None:
                if not known:
                    raise self.endless("has a list that holds itself")
                return known
            if len(path) >= _DEPTH:
                raise self.endless(f"has lists more than {_DEPTH} deep")
            depths[id(container)] = 0
            inside = container.values() if isinstance(container, dict) else container
            path.append((container, iter(inside), 0))
            return 0

        enter(value)
        while path:
            container, rest, below = path[-1]
            for item in rest:
                before = len(path)
                below = max(below, enter(item))
                if len(path) > before:
                    path[before - 1] = (container, rest, below)
                    break
            else:
                path.pop()
                depths[id(container)] = below + 1
                if path:
                    outer, others, deepest = path[-1]
                    path[-1] = (outer, others, max(deepest, below + 1))
                if below + 1 + len(path) > _DEPTH:
                    raise self.endless(f"has lists more than {_DEPTH} deep")
        return value

    def read(self, file: BinaryIO) -> Any:
        """One pickle, from where the file stands to its end."""
        stack: list[Any] = []
        marks: list[list[Any]] = []
        memo: dict[int, Any] = {}
        constant = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
        empty: dict[str, Any] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
        plain = ("BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1")

        items: list[Any]

        def since_mark() -> list[Any]:
            nonlocal stack
            items, stack = stack, marks.pop()
            return items

        value: Any
        for number, (code, value, at) in enumerate(pickletools.genops(file)):
            name = code.name
            if number >= _OPCODES or (at or 0) > _PICKLE_MIB * _MIB:
                raise self.large()
            if name == "PROTO":
                continue
            if name == "STOP":
                return self.finite(stack.pop())
            if name in constant:
                stack.append(constant[name])
            elif name in empty:
                stack.append(empty[name]())
            elif name in plain:
                stack.append(value)
            elif name == "MARK":
                marks.append(stack)
                stack = []
            elif name == "TUPLE":
                items = since_mark()  # takes the stack that is appended to
                stack.append(tuple(items))
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                n = int(name[-1])
                if len(stack) < n:
                    raise ValueError("a tuple of too few values")
                stack[-n:] = [tuple(stack[-n:])]
            elif name in ("APPEND", "APPENDS"):
                items = [stack.pop()] if name == "APPEND" else since_mark()
                if not isinstance(stack[-1], list):
                    raise self.fault("appends to what is no list")
                stack[-1].extend(items)
            elif name in ("SETITEM", "SETITEMS"):
                items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else since_mark()
                if not isinstance(stack[-1], dict):
                    raise self.fault("sets items of what is no mapping")
                for key, item in zip(items[::2], items[1::2], strict=True):
                    if not isinstance(key, (str, int, float)):
                        raise self.fault(f"has a mapping with keys of type {type(key).__name__}")
                    stack[-1][key] = item
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[value] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[value])
            elif name == "GLOBAL":
                if value not in _ALLOWED:
                    raise self.fault(f"names {'.'.join(str(value).split())}")
                stack.append(_Name(value))
            elif name == "BINPERSID":
                stack.append(self.storage(stack.pop()))
            elif name == "REDUCE":
                arguments = stack.pop()
                stack.append(self.call(stack.pop(), arguments))
            elif name == "BUILD":
                self.build(stack[-2], stack.pop())
            else:
                raise self.fault(f"has the pickle opcode {name}")
        raise EOFError("a pickle without an end")

    def storage(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise self.fault("refers to something outside of it")
        _, kind, key, location, numel, *view = pid
        text = kind.text.partition(" ")[2] if isinstance(kind, _Name) else ""
        if text not in _STORAGES or not (
            isinstance(key, str) and isinstance(location, str) and _count(numel)
        ):
            raise self.fault("has a storage of an unknown kind")
        if view and view[0] is not None:
            raise self.fault("has a view of a storage")
        size = numel * _STORAGES[text]
        self.storages[key] = max(size, self.storages.get(key, 0))
        return _Storage(key, _STORAGES[text], numel)

    def call(self, function: Any, arguments: Any) -> Any:
        name = function.text if isinstance(function, _Name) else ""
        if name not in _CALLED and name not in _NUMPY_TYPES or not isinstance(arguments, tuple):
            raise self.fault(f"calls {name.replace(' ', '.') or type(function).__name__}")
        if name == "torch._utils _rebuild_tensor_v2":
            return self.tensor(arguments)
        if name == "torch._utils _rebuild_parameter" and isinstance(arguments[0], _Inert):
            return arguments[0]
        if name == "collections OrderedDict" and not arguments:
            return {}
        if name == "torch Size" and len(arguments) == 1 and _counts(arguments[0]):
            return tuple(arguments[0])
        if name == "numpy dtype" and arguments and arguments[0] in _SCALARS and set(arguments[1:]) <= {0, 1}:
            return _Inert("dtype")
        if name in _NUMPY_TYPES and not arguments:
            return _Inert("dtype")
        if name == "_codecs encode" and len(arguments) == 2 and arguments[1] == "latin1":
            return str(arguments[0]).encode("latin1")
        if name.endswith("multiarray scalar") and len(arguments) == 2:
            kind, value = arguments
            if isinstance(kind, _Inert) and kind.kind == "dtype" and isinstance(value, (bytes, str)):
                return _Inert("scalar")
        raise self.fault(f"calls {name.replace(' ', '.')} in an unusual way")

    def tensor(self, arguments: tuple[Any, ...]) -> _Inert:
        storage, offset, size, stride = arguments[:4]
        fits = isinstance(storage, _Storage) and _count(offset) and _counts(size) and _counts(stride)
        if not fits or len(size) != len(stride) or len(size) > _DIMENSIONS:
            raise self.fault("has a tensor of an unknown kind")
        numel = math.prod(size)
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if numel and last >= storage.numel:
            raise CutShortError(
                f"{self.path} declares a tensor of shape {tuple(size)} over {storage.numel} stored values; it is damaged"
            )
        self.bytes += numel * storage.item
        return _Inert("tensor", numel * storage.item)

    def build(self, target: Any, state: Any) -> None:
        """The state of a mapping (a state dict's metadata) or of a numpy type, which is always the same."""
        if isinstance(target, dict) and isinstance(state, dict):
            return
        plain = isinstance(state, tuple) and len(state) == 8 and state[1] in ("<", "|", "=")
        if not (
            isinstance(target, _Inert) and target.kind == "dtype" and plain and state[2:5] == (None,) * 3
        ):
            raise self.fault("sets the state of an object")


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48


def _counts(values: Any) -> bool:
    return isinstance(values, (tuple, list)) and all(_count(v) for v in values)


def _check_zip(path: Path, limit_mib: float, what: str) -> None:
    members = _members(path, limit_mib, what, "torch file")
    packed = [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise FormatError(
            f"{path} has a packed member {packed[0]!r}, which torch never writes; it is refused"
        )
    sizes = {m.filename: m.file_size for m in members}
    if len(sizes) != len(members) or sum(sizes.values()) > path.stat().st_size:
        raise FormatError(f"{path} has members that overlap; it is refused")
    root = members[0].filename.split("/")[0] if members else ""
    if f"{root}/data.pkl" not in sizes:
        raise CutShortError(f"{path} is truncated or no torch file (it has no data.pkl); copy it again")
    if f"{root}/constants.pkl" in sizes:
        raise FormatError(f"{path} is a TorchScript program, not tensors; it is refused")
    if sizes[f"{root}/data.pkl"] > _PICKLE_MIB * _MIB:
        raise _Structure(path, what).large()
    with zipfile.ZipFile(path) as archive:
        structure = _Structure(path, what)
        structure.read(io.BytesIO(archive.read(f"{root}/data.pkl")))
    for key, size in structure.storages.items():
        stored = sizes.get(f"{root}/data/{key}", -1)
        if stored < size:
            raise CutShortError(
                f"{path} has {max(stored, 0)} bytes of storage {key} and declares {size}; copy it again"
            )
    _check_size(path, structure.bytes, limit_mib, what)


def _check_size(path: Path, declared: int, limit_mib: float, what: str) -> None:
    """What tensors declare, within the limit and in proportion to the file: an expanded tensor is stored once."""
    if declared > limit_mib * _MIB:
        raise _too_large(path, declared, limit_mib, what)
    if declared > max(_SMALL, _EXPANDED * path.stat().st_size):
        raise FormatError(
            f"{path} declares {declared:,} bytes of tensors and stores {path.stat().st_size:,}; it is refused: save plain "
            f"copies (tensor.clone())"
        )


def _check_legacy(path: Path, limit_mib: float, what: str) -> None:
    size = path.stat().st_size
    if size > limit_mib * _MIB:
        raise _too_large(path, size, limit_mib, what)
    with path.open("rb") as opened:
        file = io.BytesIO(
            opened.read(_PICKLE_MIB * _MIB + 4096)
        )  # the pickles stand first, the storages after them
    structure = _Structure(path, what)
    for _ in range(5):  # magic number, protocol, system, the object, the keys of its storages
        structure.read(file)
    if sum(structure.storages.values()) > size - file.tell():
        raise CutShortError(
            f"{path} is truncated or no torch file ({size - file.tell():,} bytes of storages, "
            f"{sum(structure.storages.values()):,} declared); copy it again"
        )
    _check_size(path, structure.bytes, limit_mib, what)


def load_torch(path: Path, limit_mib: float = LIMIT_MIB, what: str = "distilled set") -> Any:
    """What a torch file holds, on the CPU; tensors of zip files are memory-mapped.  Nothing in it can run.

    Args:
        path: a file of ``torch.save`` in either of its forms, whatever its suffix.
        limit_mib: most that its tensors may take.
        what: such a file is, for messages.

    Raises:
        FileNotFoundError: no such file.
        FormatError: truncated or no torch file (:class:`CutShortError`); a plain pickle; one that names or does what no such
            file needs; too large; with members outside of itself.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    with path.open("rb") as file:
        start = file.read(2 + len(_LEGACY))
    zipped = start[:2] == b"PK"
    if not zipped and start[2:] != _LEGACY:
        if start[:1] == b"\x80":
            raise refuse_pickle(path)
        raise CutShortError(f"{path} is no torch file (it begins with {start[:4]!r}); copy it again")
    with guarded(path, "torch file"):
        (_check_zip if zipped else _check_legacy)(path, limit_mib, what)
        with torch.serialization.safe_globals(_allowed()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old names of numpy warn
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipped)


# ------------------------------------------------------------------------------------------------ numpy files


def _array(file: BinaryIO, size: int, path: Path, limit_mib: float) -> NDArray[Any]:
    """One .npy of ``size`` bytes; its header is believed only where it fits them."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise FormatError(
            f"{path} has numpy format {version}; expected 1.0 or 2.0: save it again with numpy.save"
        )
    shape, _, dtype = readers[version](file)
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise FormatError(
            f"{path} has values of type {dtype}, and objects are pickles, which can run code; expected plain numbers"
        )
    declared = math.prod(shape) * dtype.itemsize
    if any(n < 0 for n in shape) or len(shape) > _DIMENSIONS or declared != size - file.tell():
        raise CutShortError(
            f"{path} declares {shape} values of {dtype}, {declared:,} bytes, and has {size - file.tell():,}; copy it again"
        )
    if declared > limit_mib * _MIB:
        raise _too_large(path, declared, limit_mib, "distilled set")
    file.seek(0)
    found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return found.astype(found.dtype.newbyteorder("="), copy=False)


def load_npy(path: Path, limit_mib: float = LIMIT_MIB) -> NDArray[Any]:
    """The array of a .npy file.  Raises FormatError."""
    with guarded(path, "numpy file"), path.open("rb") as file:
        return _array(file, path.stat().st_size, path, limit_mib)


def load_npz(path: Path, limit_mib: float = LIMIT_MIB) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz file by name.  Raises FormatError."""
    found = {}
    with guarded(path, "numpy file"):
        for member in _members(path, limit_mib, "distilled set"):
            with zipfile.ZipFile(path) as archive, archive.open(member) as file:
                name = member.filename.removesuffix(".npy")
                found[name] = _array(file, member.file_size, path, limit_mib)  # type: ignore[arg-type]
    return found


# ------------------------------------------------------------------------------------------------ archives


class _Capped(io.RawIOBase):
    """An unpacked stream that ends in an error where it grows beyond a limit, or is asked for too much at once."""

    def __init__(self, file: Any, path: Path, limit_mib: float) -> None:
        self.file, self.path, self.limit_mib = file, path, limit_mib

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or size > 64 * _MIB:
            raise FormatError(f"{self.path} has a header of {size} bytes; it is refused")
        data: bytes = self.file.read(size)
        self._check(self.file.tell())
        return data

    def _check(self, position: int) -> None:
        if position > self.limit_mib * _MIB + 64 * _MIB:
            raise _too_large(self.path, position, self.limit_mib, "distilled set")

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence == 0:
            self._check(offset)
        return int(self.file.seek(offset, whence))

    def tell(self) -> int:
        return int(self.file.tell())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _copy(source: Any, target: Path, size: int, path: Path) -> None:
    left = size
    with contextlib.ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            out = stack.enter_context(target.open("xb"))
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise FormatError(
                f"{path} has a member {target.name!r} twice, or one name for a file and a folder; it is refused: pack it again"
            ) from error
        except OSError as error:
            raise FormatError(
                f"{path} has a member {target.name[:80]!r} that cannot be unpacked ({error.strerror or error})"
            ) from error
        while block := source.read(min(_READ, left + 1)):
            left -= len(block)
            if left < 0:
                raise FormatError(f"{path}: {target.name} is larger than the {size:,} bytes that it declares")
            out.write(block)
    if left:
        raise CutShortError(
            f"{path}: {target.name} has {size - left:,} of {size:,} bytes; copy the archive again"
        )


def unpack(path: Path, folder: Path, limit_mib: float = LIMIT_MIB) -> None:
    """Unpack a zip, tar or tar.gz of plain files and folders.

    Raises:
        FormatError: damaged; members outside of it, links or devices; more than ``limit_mib`` in sum.
    """
    kind = container(path)
    with guarded(path, "archive"):
        if kind in ("zip", "npz", "torch"):
            with zipfile.ZipFile(path) as archive:
                for member in _members(path, limit_mib, "distilled set"):
                    if not member.is_dir():
                        with archive.open(member) as source:
                            _copy(source, folder / member.filename, member.file_size, path)
            return
        with contextlib.ExitStack() as stack:
            raw: Any = stack.enter_context(path.open("rb"))
            if kind == "gzip":
                raw = stack.enter_context(gzip.GzipFile(fileobj=raw))
            capped: Any = _Capped(raw, path, limit_mib)
            tar = stack.enter_context(tarfile.open(fileobj=capped, mode="r:"))
            total, count = 0, 0
            for entry in tar:
                count += 1
                if _outside(entry.name):
                    raise FormatError(
                        f"{path} has a member named {entry.name!r}, outside of itself; it is refused"
                    )
                if entry.isdir():
                    continue
                if not entry.isreg() or entry.issparse():
                    raise FormatError(
                        f"{path} has a link, a device or a sparse file in it, {entry.name!r}; it is refused"
                    )
                total += entry.size
                if total > limit_mib * _MIB:
                    raise _too_large(path, total, limit_mib, "distilled set")
                if count > _MEMBERS:
                    raise FormatError(f"{path} has more than {_MEMBERS:,} members")
                source_file = tar.extractfile(entry)
                if source_file is not None:
                    _copy(source_file, folder / entry.name, entry.size, path)
            if not count:
                raise CutShortError(f"{path} is an empty archive, or no archive of files; copy it again")


# ------------------------------------------------------------------------------------------------ pictures


def picture(source: Path | bytes, where: str, limit_mib: float = 256.0) -> NDArray[np.uint8]:
    """One picture as uint8 (H, W) or (H, W, 3); JPEG, PNG, BMP or WebP.

    Args:
        source: its file or its bytes.
        where: names it in messages.
        limit_mib: most that it may take, decided by its header before it is decoded.

    Raises:
        FormatError: damaged, of another format or mode, or too large.
    """
    place = Path(where)
    with guarded(place, "picture"), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # on sizes, which are checked here; from twice as much on Pillow refuses itself
        opened = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(opened, formats=_PICTURE_FORMATS) as image:
            if image.width * image.height * 4 > limit_mib * _MIB:
                raise FormatError(
                    f"{where} is a picture of {image.width}x{image.height}; it is too large to read"
                )
            if image.mode not in ("1", "L", "RGB", "P", "RGBA", "CMYK"):
                raise FormatError(f"{where} has mode {image.mode}; expected 8 bits a channel, grey or colour")
            if image.mode == "RGBA":
                raise FormatError(f"{where} has transparency (RGBA); save it in colour (RGB) or grey")
            return np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"), dtype=np.uint8)


# ------------------------------------------------------------------------------------------------ parquet


def parquet_file(path: Path, limit_mib: float = LIMIT_MIB) -> Any:
    """An open pyarrow.parquet.ParquetFile whose declared size is within the limit.  Raises FormatError."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise FormatError(f"{path} is a parquet file; to read it: pip install 'ddbench[parquet]'") from None
    with guarded(path, "parquet file"):
        opened = parquet.ParquetFile(path)
        groups = range(opened.metadata.num_row_groups)
        if opened.metadata.num_rows > _MEMBERS:
            raise FormatError(f"{path} has {opened.metadata.num_rows:,} rows; expected at most {_MEMBERS:,}")
        size = sum(opened.metadata.row_group(g).total_byte_size for g in groups)
        if not 0 <= size <= limit_mib * _MIB:
            raise _too_large(path, size, limit_mib, "distilled set")
        return opened


def parquet_column(
    path: Path, names: Sequence[str], types: Sequence[str], limit_mib: float = LIMIT_MIB
) -> str:
    """The first of some columns ("image.bytes" is part of a struct) that is there, with one value a row, of a stored type.

    Raises:
        FormatError: none, or one that holds lists or values of another type.
    """
    with guarded(path, "parquet file"):
        schema = parquet_file(path, limit_mib).metadata.schema
        columns = [schema.column(i) for i in range(len(schema))]
        for name in names:
            inside = [c for c in columns if c.path == name or c.path.startswith(f"{name}.")]
            if not inside:
                continue
            plain = len(inside) == 1 and inside[0].path == name and not inside[0].max_repetition_level
            if plain and inside[0].physical_type in types:
                return name
            what = ", ".join(f"{c.path} of {c.physical_type}" for c in inside[:4])
            raise FormatError(
                f"{path} has {what[:200]} as column {name}; expected one value a row, of type {' or '.join(types)}"
            )
    raise FormatError(
        f"{path} has no column {' or '.join(names)}; expected pictures and class ids in columns of one value a row"
    )


def parquet_rows(
    path: Path, columns: Sequence[str], limit_mib: float = LIMIT_MIB, rows: int = 1
) -> Iterator[dict[str, Any]]:
    """Rows of some columns, so many in memory at a time: one where values have no fixed size.  Raises FormatError.

    What the file declares as its size is that of dictionaries, whose values may stand in any number of rows: what rows take
    once decoded is added up here, and no batch may take more than one picture.
    """
    opened = parquet_file(path, limit_mib)
    spent = 0
    with guarded(path, "parquet file"):
        for batch in opened.iter_batches(batch_size=rows, columns=list(columns), use_threads=False):
            if batch.nbytes > _VALUE_MIB * _MIB:
                raise FormatError(
                    f"{path} has a row of {batch.nbytes / _MIB:,.0f} MiB; expected pictures of at most {_VALUE_MIB} MiB each"
                )
            spent += batch.nbytes
            if spent > limit_mib * _MIB:
                raise _too_large(path, spent, limit_mib, "distilled set")
            yield from batch.to_pylist()
