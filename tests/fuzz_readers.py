"""Feeds damaged and hostile files to everything that reads other people's files: records, sets, suites, claims, published sets.

    python tests/fuzz_readers.py                           # 10,000 inputs a reader, with what it took
    python tests/fuzz_readers.py --reader set --count 500
    python tests/fuzz_readers.py --reader suite --atheris  # guided by coverage, until interrupted (pip install atheris)

A reader may refuse with its own error types and nothing else; while it reads nothing may be executed, connected to or
written outside its folder; the process may not grow by more than a bound.  ``tests/test_fuzz.py`` runs a part of it.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import io
import json
import os
import pickle
import random
import resource
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ddbench import claims, data, formats, plan, sets, store
from ddbench.contract import Card, DistilledSet, RealData, Space, Targets
from ddbench.records import Cell, DistilCell, Provenance, Record, Score

GROWTH_MIB = 400
"""How much a process may grow over all inputs of a reader."""
FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "socket.connect",
    "socket.getaddrinfo",
    "ctypes.dlopen",
    "shutil.rmtree",
)
"""Audit events of things that no reader does."""

_watching = False
_seen: list[str] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event in FORBIDDEN:
        _seen.append(f"{event} {arguments!r}"[:200])


_hooked = False


@contextmanager
def nothing_executed() -> Iterator[None]:
    """Raises AssertionError where what runs inside starts a program, opens a connection or the like."""
    global _watching, _hooked
    if not _hooked:
        sys.addaudithook(_hook)  # cannot be taken away again, hence the switch
        _hooked = True
    _seen.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
    if _seen:
        raise AssertionError(f"a reader executed something: {_seen}")


# ------------------------------------------------------------------------------------------------ what is read


@dataclass(frozen=True)
class Reader:
    """One reader: the file's name, what reads it, the errors that it may raise, and good files to damage."""

    file: str
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...]
    samples: Callable[[Path], list[bytes]]
    inside: Callable[[bytes, random.Random], bytes] | None = None
    """Damage below the container, which alone would be found out at once."""


def _record_samples(folder: Path) -> list[bytes]:
    cell = Cell(
        distil=DistilCell(method="random", dataset="digits", ipc=1, seed=0),
        protocol="quick",
        network="MLP",
        repeats=1,
    )
    record = Record(
        key="k",
        set_key="s",
        cell=cell,
        status="ok",
        scores=[Score(value=0.5, network="MLP", seed=1)],
        provenance=Provenance(ddbench="0", python="3.11"),
    )
    deep = b'{"cell": ' * 20_000
    huge = b'{"schema_version": ' + b"9" * 100_000 + b"}"
    return [record.model_dump_json(indent=1).encode(), deep, huge, b"[" * 100_000]


def _set_samples(folder: Path) -> list[bytes]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for stored in ("uint8", "input"):
        images = torch.rand(4, 1, 8, 8, generator=generator)
        pixels = (images * 255).to(torch.uint8) if stored == "uint8" else images
        distilled = DistilledSet(
            tensors={"images": pixels},
            targets=Targets(ids=torch.tensor([0, 1, 2, 3])),
            space=Space(stored, (0.3,), (0.4,)),
            card=Card(dataset="digits", ipc=1, classes=4, shape=(1, 8, 8)),
        )
        path = folder / f"{stored}.safetensors"
        sets.write(path, distilled)
        found.append(path.read_bytes())
    # a header that claims far more than there is
    found.append(struct.pack("<Q", 2**62) + b"{}")
    found.append(
        struct.pack("<Q", 80)
        + b'{"x":{"dtype":"F32","shape":[1000000000,1000],"data_offsets":[0,4000000000000]}}'.ljust(80)
    )
    return found


def _suite_samples(folder: Path) -> list[bytes]:
    # nine lists of nine times the one before: 3.5e8 entries if anything writes them out
    small = (
        "name: mine\ndatasets: [digits]\nmethods: [random, {name: dm, recipe: authors, settings: {iterations: 100}}]\n"
        "ipc: [1, 10]\nseeds: 3\nprotocols: [quick]\nnetworks: [ConvNet]\nrepeats: 5\n"
        "upper_bound: {method: full, protocol: quick-full}\nsnapshot_every: 100\n"
    )
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)
    )
    inside = bomb + "datasets: *i\nmethods: [random]\nipc: *i\nprotocols: [quick]\n"
    code = "datasets: !!python/object/apply:os.system ['true']\nmethods: [random]\nipc: [1]\nprotocols: [quick]\n"
    return [
        plan.suites()["embedded"].read_bytes(),
        small.encode(),
        bomb.encode(),
        inside.encode(),
        code.encode(),
        b"[" * 50_000,
        b"&a [*a]",
        b"datasets: &a [*a]\nmethods: *a\nipc: *a\nprotocols: *a\n",
    ]


def _claim_samples(folder: Path) -> list[bytes]:
    path = claims.published_root() / "dm.csv"
    head = path.read_bytes().splitlines(keepends=True)
    return [path.read_bytes(), b"".join(head[:3]), head[0] + b'"' + b"x" * 200_000, b"\xff\xfe" + head[0]]


def _published_samples(folder: Path) -> list[bytes]:
    """What authors publish, of digits, and what would run something if it were unpickled."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(10, 1, 8, 8, generator=generator), torch.arange(10)
    logits = torch.randn(10, 10, generator=generator)
    small = torch.rand(10, 1, 8, 8, generator=generator)
    values: list[object] = [
        {"data": [[images, labels]], "accs_all_exps": {"ConvNet": [np.float64(0.5)]}},
        {"data": [images, labels], "net_parameters": {}},
        [small, labels],
        images,
        [[images, labels], [images, labels, torch.tensor(0.01)]],
        {"data": [[images, logits]], "accs_all_exps": {}},
        {"a": [[[[[[[[images]]]]]]]]},
    ]
    found = []
    for value in values:
        for zipped in (True, False):
            into = io.BytesIO()
            torch.save(value, into, _use_new_zipfile_serialization=zipped)
            found.append(into.getvalue())
    for save in (np.savez, np.savez_compressed):
        into = io.BytesIO()
        save(into, images=small.permute(0, 2, 3, 1).numpy(), labels=torch.eye(10).numpy() - 0.1)
        found.append(into.getvalue())
    into = io.BytesIO()
    np.save(into, np.arange(20))
    found.append(into.getvalue())
    into = io.BytesIO()
    np.save(into, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    found.append(into.getvalue())
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w") as archive:
        for c in range(10):
            picture = io.BytesIO()
            Image.fromarray((small[c, 0].numpy() * 255).astype("uint8")).save(picture, "PNG")
            archive.writestr(f"new{c:03}/class{c:03}_id000.png", picture.getvalue())
        archive.writestr("../outside.png", b"x")
    found.append(into.getvalue())
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED) as archive:  # zeros: small here, large when read
        archive.writestr("data.pkl", b"\0" * (4 << 20))
    found.append(into.getvalue())

    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("true",)

    into = io.BytesIO()
    torch.save({"data": [[images, labels]], "x": Runs()}, into)
    found += [into.getvalue(), pickle.dumps(Runs()), pickle.dumps((images.numpy(), labels.numpy()))]
    for structure in (
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02}q\x00K\x01h\x00s.",
        b"\x80\x02" + 5_000 * b"](" + 5_000 * b"e" + b".",
    ):
        into = io.BytesIO()  # a list and a mapping that hold themselves; lists in lists
        with zipfile.ZipFile(into, "w") as archive:
            archive.writestr("x/data.pkl", structure)
        found.append(into.getvalue())
    return found


def _read_published(path: Path) -> None:
    formats.look(path)
    formats.read_published(path, _digits(), space="norm", stats="own")


@functools.cache
def _digits() -> RealData:
    return data.load("digits")


def _repacked(sample: bytes, chance: random.Random) -> bytes:
    """A zip whose members are damaged and whose checksums are right."""
    if sample[:2] != b"PK" or len(sample) > 1 << 20:
        return damaged(sample, chance)
    into = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(sample)) as archive, zipfile.ZipFile(into, "w") as other:
        names = archive.namelist()
        hit = chance.choice(names)
        for name in names:
            member = archive.read(name)
            other.writestr(name, damaged(member, chance) if name == hit else member)
    return into.getvalue()


def _card_damaged(sample: bytes, chance: random.Random) -> bytes:
    """A whole safetensors file whose card, or whose tensors' names, shapes and types, are damaged."""
    (length,) = struct.unpack("<Q", sample[:8])
    if length > len(sample):
        return damaged(sample, chance)
    header = json.loads(sample[8 : 8 + length])
    if chance.random() < 0.8:
        card = damaged(header.get("__metadata__", {}).get("ddbench", "{}").encode(), chance)
        header["__metadata__"] = {"ddbench": card.decode("utf-8", "replace")}
        text = json.dumps(header).encode()
    else:
        text = damaged(sample[8 : 8 + length], chance)
    return struct.pack("<Q", len(text)) + text + sample[8 + length :]


READERS: dict[str, Reader] = {
    "record": Reader("r.json", store.read_record, (store.DamagedError,), _record_samples),
    "set": Reader(
        "s.safetensors", sets.read, (store.DamagedError, FileNotFoundError), _set_samples, _card_damaged
    ),
    "claims": Reader("dm.csv", claims.read, (ValueError,), _claim_samples),
    "published": Reader(
        "p.bin", _read_published, (formats.FormatError, FileNotFoundError), _published_samples, _repacked
    ),
    "suite": Reader("s.yaml", plan.load, (plan.PlanError,), _suite_samples),
}


# ------------------------------------------------------------------------------------------------ damage


def damaged(sample: bytes, chance: random.Random) -> bytes:
    """A file like the sample: cut, flipped, spliced, with numbers made huge; now and then noise alone."""
    if chance.random() < 0.05 or not sample:
        return chance.randbytes(chance.randrange(200))
    data = bytearray(sample)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(7)
        if kind == 0:
            del data[at:]
        elif kind == 1 and data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        elif kind == 2 and data:
            data[at % len(data)] = chance.randrange(256)
        elif kind == 3:
            end = min(len(data), at + chance.randrange(1, 64))
            data[at:at] = data[at:end]
        elif kind == 4:
            del data[at : at + chance.randrange(1, 64)]
        elif kind == 5:
            data[at:at] = chance.choice(_WORDS)
        else:
            digits = [i for i, b in enumerate(data) if 48 <= b <= 57]
            if digits:
                place = chance.choice(digits)
                data[place : place + 1] = chance.choice((b"-1", b"99999999999999999999", b"0.5", b"1e400"))
    return bytes(data)


_WORDS = (
    b"null", b"NaN", b"Infinity", b"-1", b'"', b"{}", b"[]", b"../../../etc/passwd", b"\x00" * 9, b"\xff\xfe", b": ", b"\n- ",
    b"*a", b"&a ", b"!!python/name:os.system ", b"cos\nsystem\n(S'true'\ntR.", b"\x80\x04\x95", b"PK\x03\x04",
)  # fmt: skip


def attempt(reader: Reader, path: Path, data: bytes) -> bool:
    """Let a reader read some bytes: whether it took them.

    Raises:
        Exception: whatever is no refusal of its own.
        AssertionError: something was executed, or a refusal that says nothing, or far too much.
    """
    path.write_bytes(data)
    try:
        with nothing_executed():
            reader.read(path)
    except reader.errors as error:
        text = str(error)
        assert text and len(text) < 20_000, f"a refusal of {len(text)} characters"
        return False
    return True


def run(name: str, count: int, seed: int) -> dict[str, float]:
    """Feed ``count`` inputs to a reader: how many it took, seconds, and MiB that the process grew by."""
    reader, chance = READERS[name], random.Random(seed)
    taken, begun = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, reader.file)
        samples = reader.samples(Path(folder))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(count):
            sample = chance.choice(samples) if number >= len(samples) else samples[number]
            spoil = reader.inside if reader.inside and chance.random() < 0.7 else damaged
            data = spoil(sample, chance) if number >= len(samples) else sample
            try:
                taken += attempt(reader, path, data)
            except BaseException:
                kept = Path(tempfile.gettempdir(), f"fuzz-{name}-{seed}-{number}-{os.getpid()}")
                kept.write_bytes(data)
                print(f"{name}: input {number} of seed {seed} is kept as {kept}", file=sys.stderr)
                raise
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < GROWTH_MIB, f"{name}: the process grew by {grown:.0f} MiB over {count} inputs"
    return {
        "inputs": count,
        "taken": taken,
        "seconds": time.perf_counter() - begun,
        "grown_mib": grown,
    }


def guided(name: str) -> None:
    """Inputs guided by coverage, until interrupted or a fault is found."""
    import atheris

    reader = READERS[name]
    with tempfile.TemporaryDirectory() as folder:
        path, corpus = Path(folder, reader.file), Path(folder, "corpus")
        corpus.mkdir()
        for i, sample in enumerate(reader.samples(Path(folder))):
            (corpus / str(i)).write_bytes(sample)
        for module in [
            m for n, m in sys.modules.items() if n.startswith("ddbench.")
        ]:  # all of torch takes minutes
            for function in filter(inspect.isfunction, vars(module).values()):
                atheris.instrument_func(function)
        atheris.Setup([sys.argv[0], str(corpus), "-max_len=65536"], lambda data: attempt(reader, path, data))
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description="Damaged and hostile files for everything that reads files.")
    parser.add_argument("--reader", choices=[*READERS], action="append", help="repeatable; default: all")
    parser.add_argument("--count", type=int, default=10_000, help="inputs a reader (default: 10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atheris", action="store_true", help="guided by coverage, until interrupted")
    given = parser.parse_args()
    for name in given.reader or READERS:
        if given.atheris:
            guided(name)
        else:
            found = run(name, given.count, given.seed)
            print(
                f"{name}: {found['inputs']:,} inputs, {found['taken']:,} taken, no fault, {found['seconds']:.0f} s, "
                f"grown by {found['grown_mib']:.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
