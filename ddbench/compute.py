"""How numbers are computed, whoever computes them: precision, kept memory, compiled functions that fall back to plain ones."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_log = logging.getLogger("ddbench")


@functools.lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Ask glibc to keep freed memory instead of returning it to the system; True where that was possible.

    Activations of tens of MiB are else mapped and unmapped at every step: keeping them gave 1.3 to 2.3 times the speed.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        libc = ctypes.CDLL(None)
        m_mmap_threshold, m_trim_threshold, m_top_pad = -3, -1, -2
        options = ((m_mmap_threshold, 1 << 30), (m_trim_threshold, (1 << 31) - 1), (m_top_pad, 64 << 20))
        return all([libc.mallopt(option, value) == 1 for option, value in options])
    except (OSError, AttributeError):  # another C library after all: only slower
        return False


@contextlib.contextmanager
def arithmetic(precision: str = "fp32") -> Iterator[None]:
    """fp32 means fp32, in distillation as in evaluation: cuDNN's TF32 is on by default."""
    tf32 = precision == "tf32"
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


# ------------------------------------------------------------------------------------------------ compiling

COMPILED: dict[Any, Program] = {}
_KEPT = 8
_broken = False


@dataclass(eq=False)
class Program:
    """A compiled function with the module (or stacked tensors) that it reads, reused by every student."""

    call: Callable[..., Tensor]
    owner: Any
    warmed: set[Any] = field(default_factory=set)


def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
    import torch._dynamo.config as dynamo  # heavy, and only where something is compiled

    for limit in (
        "recompile_limit",
        "cache_size_limit",
    ):  # counted over all networks: they share these few functions
        if hasattr(dynamo, limit):
            setattr(dynamo, limit, max(256, getattr(dynamo, limit)))
    made: Callable[..., Any] = torch.compile(function, dynamic=False)
    return made


def _tell_once(error: BaseException) -> None:
    global _broken
    if not _broken:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        _log.warning(
            "torch.compile does not work here (%s); training goes on uncompiled, only slower", reason[:200]
        )
    _broken = True


def warm(program: Program, what: Any, trial: Callable[[], None]) -> tuple[float, bool]:
    """Compile for one shape by a trial that touches no student: (seconds, whether it worked)."""
    if what in program.warmed:
        return 0.0, True
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # inductor's own, about what it did not fuse
            trial()
    except (RuntimeError, OSError, ImportError, AssertionError) as error:  # no compiler, or one that fails
        _tell_once(error)
        return time.perf_counter() - start, False
    program.warmed.add(what)
    return time.perf_counter() - start, True


def remember(key: Any, make: Callable[[], Program]) -> Program:
    if key not in COMPILED:
        if len(COMPILED) >= _KEPT:
            del COMPILED[next(iter(COMPILED))]
        COMPILED[key] = make()
    else:
        COMPILED[key] = COMPILED.pop(key)  # the last used is the last to go
    return COMPILED[key]


def compiler_works() -> bool:
    """False once a compilation failed in this process."""
    return not _broken
