"""A headless Chromium for the tests of the report page, and records without end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ddbench.records import Bytes, Cell, DistilCell, Provenance, Record, Score, Spent
from ddbench.store import RunFolder


@contextmanager
def chromium() -> Iterator[Any]:
    """A driver; skips, with the reason, where there is no Chromium.  Nothing is downloaded: the driver is the system's."""
    pytest.importorskip("selenium", reason="needs selenium (pip install 'ddbench[test]')")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip(f"needs {'chromedriver' if browser else 'chromium'} on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield made
    finally:
        made.quit()


def window(driver: Any, width: int, height: int = 900) -> None:
    """The size of the page itself: a headless window has a least width that is wider than a phone."""
    size = dict(width=width, height=height, deviceScaleFactor=1, mobile=False)
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def scheme(driver: Any, name: str) -> None:
    """What the system is set to: ``light`` or ``dark``."""
    features = [{"name": "prefers-color-scheme", "value": name}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def requests(driver: Any) -> list[str]:
    """Addresses that the page asked for since the last call."""
    found = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.append(message["params"]["request"]["url"])
    return found


def record(
    method: str = "random",
    *,
    ipc: int = 1,
    seed: int = 0,
    values: tuple[float, ...] = (0.5, 0.52),
    dataset: str = "digits",
    protocol: str = "quick",
    network: str = "ConvNet",
    settings: dict[str, Any] | None = None,
    **what: Any,
) -> Record:
    distil = DistilCell(method=method, dataset=dataset, ipc=ipc, seed=seed, settings=settings or {})
    fields: dict[str, Any] = dict(
        key=f"{abs(hash((method, str(settings))))}-{dataset}-{ipc}-{seed}-{protocol}-{network}",
        set_key=f"set-{dataset}-{ipc}-{seed}-{abs(hash((method, str(settings))))}",
        cell=Cell(distil=distil, protocol=protocol, network=network, repeats=max(len(values), 1)),
        status="ok",
        protocol_version="1.0",
        comparable=protocol != "quick",
        recipe="defaults",
        family="coreset",
        settings=settings or {},
        data_fingerprint="d" * 16,
        classes=10,
        scores=[Score(value=v, network=network, seed=i) for i, v in enumerate(values)],
        bytes=Bytes(images=640 * ipc, labels=10 * ipc),
        spent=Spent(distil_s=0.5 + ipc, evaluate_s=1.0),
        provenance=Provenance(ddbench="0.1.0", revision="a" * 40, device="cpu", threads=1, engine="plain"),
        created=f"2026-01-01T00:00:{seed:02d}+00:00",
    )
    return Record(**(fields | what))


def many(rows: int, seeds: int = 3) -> list[Record]:
    """Records of so many rows of one data set: methods x ipc x protocols."""
    found = []
    for i in range(rows):
        method, rest = f"method{i % 50:02d}", i // 50
        ipc, protocol = (1, 10, 50, 100, 200)[rest % 5], f"protocol-{rest // 5}"
        for seed in range(seeds):
            value = 0.2 + (i * 37 % 500) / 1000 + seed / 300
            score = (value, value + 0.01)
            found.append(record(method, ipc=ipc, seed=seed, protocol=protocol, values=score))
    return found


def keep(folder: Path, records: list[Record]) -> RunFolder:
    """A run folder with these records."""
    run = RunFolder(folder)
    for i, r in enumerate(records):
        path = folder / "records" / f"{i:06d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(r.model_dump_json(), encoding="utf-8")
    return run
