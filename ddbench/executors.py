"""Where cells run: inline, or in worker processes.  Outcomes are told as they come; one failed cell stops nothing."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ddbench import curves, host, store
from ddbench.records import Cell, Record
from ddbench.runner import Context, Outcome, Session, check
from ddbench.task import TimeBudget

Told = Callable[[Outcome], None]


@dataclass
class Summary:
    """What became of all cells, in the order in which they ended."""

    outcomes: list[Outcome] = field(default_factory=list)
    interrupted: bool = False
    pruned_bytes: int = 0
    """Removed from the cache to keep its quota."""
    plots: list[Path] = field(default_factory=list)
    """Of loss and accuracy over time, where snapshots are on."""

    def count(self, status: str) -> int:
        return sum(o.status == status for o in self.outcomes)

    @property
    def records(self) -> list[Record]:
        return [o.record for o in self.outcomes if o.record is not None]

    @property
    def exit_status(self) -> int:
        """0: nothing failed (cells left for the next run are no failure); 1: a cell failed; 130: interrupted."""
        return 130 if self.interrupted else 1 if self.count("failed") else 0

    def __str__(self) -> str:
        said = []
        for status, words in (
            ("ok", "done"),
            ("cached", "done before"),
            ("partial", "partial"),
            ("skipped", "skipped"),
            ("failed", "failed"),
            ("left", "left for the next run"),
        ):
            if self.count(status):
                said.append(f"{self.count(status)} {words}")
        count = len(self.outcomes)
        text = f"{count} cell{'s' * (count != 1)}: {', '.join(said)}" if said else "no cells"
        return text + ("; interrupted" if self.interrupted else "")


# ------------------------------------------------------------------------------------------------ one after the other


def groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that share a distilled set, together, in the order of their first."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.distil.model_dump_json(), []).append(cell)
    return list(found.values())


def _inline(cells: Sequence[Cell], context: Context) -> Iterator[Outcome]:
    session = Session(context)
    busy = []
    for cell in cells:
        outcome = session.evaluate(cell, wait=False)
        if outcome.status == "busy":
            busy.append(cell)  # another process is at it: do something else first
        else:
            yield outcome
    for cell in busy:
        yield session.evaluate(cell)


# ------------------------------------------------------------------------------------------------ workers

_session: Session | None = None


class _Stoppable(TimeBudget):
    """A time budget that also ends when the parent says stop; inside a worker."""

    def __init__(self, seconds: float | None, stop: Any) -> None:
        super().__init__(seconds)
        self._stop = stop

    def used_up(self) -> bool:
        return bool(self._stop.is_set()) or super().used_up()


def _start_worker(context: Context, threads: int, stop: Any) -> None:
    import torch

    global _session
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent says when to stop
    torch.set_num_threads(threads)
    sys.stdout = sys.stderr  # what a method prints must not get between the results of the parent
    budget = _Stoppable(context.budget.left_s, stop)
    _session = Session(replace(context, budget=budget, quiet=True))


def _work(cells: Sequence[Cell], wait_for_others: bool) -> list[Outcome]:
    if _session is None:
        raise RuntimeError("a worker was not started by _start_worker")
    return [_session.evaluate(cell, wait=wait_for_others) for cell in cells]


def _processes(cells: Sequence[Cell], context: Context, jobs: int) -> Iterator[Outcome]:
    method = multiprocessing.get_context(
        "spawn"
    )  # forked processes can't use CUDA, and inherit locked mutexes
    stop = method.Event()
    threads = max(1, host.threads() // jobs)
    pool = ProcessPoolExecutor(jobs, method, _start_worker, (context, threads, stop))
    waiting: dict[Future[list[Outcome]], list[Cell]] = {}
    try:
        waiting = {pool.submit(_work, group, False): group for group in groups(cells)}
        while waiting:
            finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                group = waiting.pop(future)
                try:
                    outcomes = future.result()
                except BrokenProcessPool:
                    reason = "a worker process died, perhaps killed for lack of memory; use fewer --jobs"
                    yield from (Outcome(cell, "failed", reason) for cell in group)
                    continue
                busy = [o.cell for o in outcomes if o.status == "busy"]
                if busy:
                    waiting[pool.submit(_work, busy, True)] = busy
                yield from (o for o in outcomes if o.status != "busy")
    except (KeyboardInterrupt, GeneratorExit):
        stop.set()  # workers stop at their next checkpoint
        raise
    finally:
        pool.shutdown(cancel_futures=True)


# ------------------------------------------------------------------------------------------------ all cells


def run(cells: Sequence[Cell], context: Context, *, jobs: int = 1, told: Told | None = None) -> Summary:
    """Run every cell that is not done yet.

    Args:
        cells: see ``plan.cells``.
        context: where and how.  Its time budget covers the whole call: what does not fit is left for the next run.
        jobs: worker processes; 1: in this process.  Threads are shared out, and their count is in the record.
        told: called with each outcome as it comes.

    Raises:
        ddbench.store.WriteError: the run folder can't be written.
        ValueError: a wrong number of jobs, a device that is not there, an unknown precision or engine path.
        ImportError: event files are asked for without the package that writes them.
    """
    if jobs < 1:
        raise ValueError(f"--jobs is {jobs}; expected at least 1")
    check(context)  # here too: a worker that can't start looks like one that was killed
    folder = store.RunFolder(context.run)
    folder.check_writable()
    summary = Summary()
    if not cells:
        return summary
    source = _inline(cells, context) if jobs == 1 else _processes(cells, context, jobs)
    with tqdm(
        total=len(cells), desc="cells", unit="cell", disable=context.quiet or None, dynamic_ncols=True
    ) as bar:
        try:
            for outcome in source:
                summary.outcomes.append(outcome)
                d = outcome.cell.distil
                short = f"{d.method} {d.dataset} ipc {d.ipc or 'all'}: {_score(outcome) or outcome.status}"
                bar.set_postfix_str(short, refresh=False)
                bar.update()
                if told is not None:
                    told(outcome)
        except KeyboardInterrupt:
            summary.interrupted = True
            seen = {o.cell.model_dump_json() for o in summary.outcomes}
            summary.outcomes += [
                Outcome(c, "left", "interrupted; its checkpoint is kept")
                for c in cells
                if c.model_dump_json() not in seen
            ]
    folder.clear_locks()
    if context.snapshot_every:
        summary.plots = curves.write_all(folder, {r.set_key for r in summary.records})
    quota = store.quota_bytes()
    if quota is not None:
        summary.pruned_bytes = sum(e.size_bytes for e in store.prune(quota, spare_s=600))
    return summary


def brief(outcome: Outcome, reason: bool = True) -> str:
    """``dm digits ipc 1 seed 0 quick ConvNet: 43.1 %``: one line for people, with the reason where there is no score."""
    d, cell = outcome.cell.distil, outcome.cell
    name = f"{d.method} {d.dataset} ipc {d.ipc or 'all'} seed {d.seed} {cell.protocol} {cell.network}"
    shown = _score(outcome)
    if shown:
        return f"{name}: {shown}" + (f" ({outcome.status})" if outcome.status != "ok" else "")
    return f"{name}: {outcome.status}" + (f" ({outcome.reason})" if reason and outcome.reason else "")


def notes(outcome: Outcome) -> list[str]:
    """What a reader must know of the set of a cell, one line each; notes on recipes are said before cells run."""
    if outcome.record is None:
        return []
    d = outcome.cell.distil
    said = {k: v for k, v in outcome.record.notes.items() if k != "recipe"}
    return [f"{d.method} {d.dataset} ipc {d.ipc or 'all'}: {text}" for text in said.values()]


def _score(outcome: Outcome) -> str:
    record = outcome.record
    values = [s.value for s in record.scores if s.chosen_by == "last" and not s.task] if record else []
    if not record or not values:
        return ""
    mean, metric = sum(values) / len(values), record.scores[0].metric
    return f"{100 * mean:.1f} %" if metric == "top1" else f"{mean:.4g} {metric}"
