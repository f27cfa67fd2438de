"""How numbers are computed, whoever computes them: precision, kept memory, compiled functions that fall back to plain ones."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import functools
import logging
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

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


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``; a copy from the host to a GPU is queued, so that the host never waits for earlier work."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


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


# ------------------------------------------------------------------------------------------------ what pays

STACK_BELOW = 100e6
"""On CPU, networks are stacked where one network's forward step has fewer multiply-adds: 5 students on 8x8 digits gain 2 to 4
times at 2e6 to 2e7; at 5e8 (32x32 colour, width 128) the arithmetic rules and stacking gains nothing."""
COMPILE_ABOVE_S = 10.0
"""Compiled where the plain loop would take longer than this by :func:`loop_s`: compiling costs 3 to 15 s."""
FLOPS = 60e9
"""Rate of arithmetic on two CPU cores, for estimates only."""
_STEP_S = 5e-4


def loop_s(steps: int, multiply_adds: float) -> float:
    """Estimated seconds of a plain training loop on two CPU cores: half a millisecond a step, and 6 operations for each
    multiply-add of its forward pass."""
    return steps * (_STEP_S + 6 * multiply_adds / FLOPS)


# ------------------------------------------------------------------------------------------------ compiling

_T = TypeVar("_T")
COMPILED: dict[Any, Program] = {}
TRACED: dict[Any, dict[Any, Callable[..., Any]]] = {}
"""Of each function, what was traced, by the shapes of its tensors."""
_KEPT = 8
_broken = False


@dataclass(eq=False)
class Program:
    """A compiled function with the module that it reads (or None: it gets all it reads), reused by every student."""

    call: Callable[..., Tensor]
    owner: Any
    warmed: set[Any] = field(default_factory=set)


def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
    import torch._dynamo.config as dynamo  # heavy, and only where something is compiled

    # counted over all networks: they share these few functions
    for limit in ("recompile_limit", "cache_size_limit"):
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
    return _recalled(COMPILED, key, make)


def _recalled(cache: dict[Any, _T], key: Any, make: Callable[[], _T]) -> _T:
    if key not in cache:
        if len(cache) >= _KEPT:
            del cache[next(iter(cache))]
        cache[key] = make()
    else:
        cache[key] = cache.pop(key)  # the last used is the last to go
    return cache[key]


class Compiled:
    """A function of a network and tensors, compiled for each shape of the tensors when it first comes; the plain function
    where compiling fails.

    The compiled code reads the weights where they are: other weights, or another network of the same layers, do not make it
    anew.

    Args:
        key: of all that decides what is compiled, beside shapes; equal keys share the compiled code.
        function: (network, tensors...) -> a tensor or a tuple of them.
    """

    def __init__(self, key: Any, function: Callable[..., Any]) -> None:
        self.function = function
        self.program = remember(key, lambda: Program(compile_(function), None))

    def __call__(self, net: nn.Module, *tensors: Tensor) -> Any:
        given = [t.contiguous() for t in tensors]
        wants = [torch.is_grad_enabled() and t.requires_grad for t in given]

        def trial() -> None:
            made = [torch.zeros_like(t, requires_grad=w) for t, w in zip(given, wants, strict=True)]
            twin = copy.deepcopy(net)  # whose gradients and running statistics may move
            outs: Any = self.program.call(twin, *made)
            ends = [out.sum() for out in ([outs] if isinstance(outs, Tensor) else outs) if out.requires_grad]
            if ends:
                torch.autograd.backward(ends)

        modes = tuple(module.training for module in net.modules())
        what = (modes, *((tuple(t.shape), t.dtype, w) for t, w in zip(given, wants, strict=True)))
        works = compiler_works() and warm(self.program, (torch.is_grad_enabled(), what), trial)[1]
        return (self.program.call if works else self.function)(net, *given)


def compiler_works() -> bool:
    """False once a compilation failed in this process."""
    return not _broken


class Traced:
    """A function of tensors that takes derivatives inside, as one list of plain operations a shape; compiled on request.

    ``torch.compile`` does not follow derivatives of derivatives, so the function is traced first.  Tracing alone made a
    second-order step on 8x8 images 1.3 times as fast (group norm's second derivative falls apart into few operations),
    compiling 2.3 times, and 1.4 times at 32x32 in batches of 100.  What comes back has no gradient.

    Args:
        key: of all that decides what the function does, beside shapes; equal keys share what was traced.
        function: tensors -> a tensor or a tuple of them; no value of a tensor may decide what it does.
        compiled: whether to compile what was traced (tens of seconds a shape, the first time).
    """

    def __init__(self, key: Any, function: Callable[..., Any], compiled: bool) -> None:
        self._function, self._compiled = function, compiled
        self._graphs = _recalled(TRACED, (compiled, key), dict)

    def __call__(self, *tensors: Tensor) -> Any:
        given = [t.detach().contiguous() for t in tensors]
        what = tuple((tuple(t.shape), t.dtype) for t in given)
        if what not in self._graphs:
            self._graphs[what] = self._traced(given)
        with torch.no_grad():
            return self._graphs[what](*given)

    def _traced(self, given: Sequence[Tensor]) -> Callable[..., Any]:
        from torch.fx.experimental.proxy_tensor import make_fx  # heavy, and only where something is traced

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # a function of its own: a bound method's self would be counted as a tensor
                graph: Callable[..., Any] = make_fx(lambda *tensors: self._function(*tensors))(*given)
        except (RuntimeError, ImportError) as error:
            with torch.no_grad():
                self._function(*given)  # if it is the function that fails, this does, too
            _log.warning(
                "a function could not be traced (%s); it runs as it is, only slower", str(error)[:200]
            )
            return self._function
        if not self._compiled or not compiler_works():
            return graph
        program = Program(compile_(graph), None)

        def trial() -> None:
            with torch.no_grad():
                program.call(*(torch.zeros_like(t) for t in given))

        return program.call if warm(program, "traced", trial)[1] else graph
