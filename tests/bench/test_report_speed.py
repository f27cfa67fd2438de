"""How fast the report page is made, opens and sorts.

Run: ``OMP_NUM_THREADS=1 python -m pytest -s tests/bench/test_report_speed.py``.  The page measures itself (performance.now in a
headless Chromium).  ``load_ms``: from navigation to the first paint, which has the first rows; ``load_all_ms``: until every
row is drawn.
``sort_ms``: from a click on a column header to the frame that shows the new order; ``sort_all_ms``: until every row stands in
its place.  The figures are medians, told beside what we want, never asserted.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import browsing
import pytest

from ddbench import report

TARGET_MS = 1000
"""Loading, and sorting, of 500 rows."""
_SETTLED = """
const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
const settled = async () => { while (document.querySelector('table[aria-busy]')) await frame(); };
const done = arguments[arguments.length - 1];
"""
SORT = f"""{_SETTLED}
const button = [...document.querySelectorAll('#digits .box thead button')].find((b) => b.textContent === arguments[0]);
const start = performance.now();
button.click();
frame().then(() => {{
  const first = performance.now() - start;
  settled().then(frame).then(() => done([first, performance.now() - start]));
}});
"""
LOAD = f"""{_SETTLED}
settled().then(frame).then(() => done([
  performance.getEntriesByName('first-contentful-paint')[0].startTime, performance.now()]));
"""


@pytest.mark.parametrize("rows", [500, 2000])
def test_a_page_of_many_rows(rows: int, tmp_path: Path, benchmark: Any) -> None:
    run = browsing.keep(tmp_path / "runs", browsing.many(rows, seeds=3))
    made = benchmark.pedantic(lambda: report.make([run], images=False), rounds=1, iterations=1)
    page = report.write(made, tmp_path / "out")
    loads, sorts = [], []
    with browsing.chromium() as driver:
        browsing.window(driver, 1280)
        for _ in range(5):
            driver.get(page.as_uri())
            loads.append(driver.execute_async_script(LOAD))
        assert (
            driver.execute_script("return document.querySelectorAll('#digits .box tbody tr').length") == rows
        )
        for title in ("Top-1, %", "Method", "vs random", "IPC", "Recipe"):
            sorts.append(driver.execute_async_script(SORT, title))
    (load, load_all), (sort, sort_all) = (
        [round(median(v)) for v in zip(*found, strict=True)] for found in (loads, sorts)
    )
    benchmark.extra_info.update(
        rows=rows,
        load_ms=load,
        load_all_ms=load_all,
        sort_ms=sort,
        sort_all_ms=sort_all,
        page_mb=round(page.stat().st_size / 1e6, 2),
        target_ms=TARGET_MS,
    )
    print(f"\n{benchmark.extra_info}")
