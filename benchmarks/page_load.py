"""The page under many visitors at once: how long a click takes, whether memory grows, what the next one is told.

    python benchmarks/page_load.py [--clients 20] [--seconds 60] [--warm-up 30] [--json] [--quick]

`depthlm app nano` as a process of its own, and so many visitors who speak to it as its script in a browser does. Each
opens a room and clicks; as soon as the answer is there and its picture fetched, it clicks elsewhere, clears after eight
points, and takes another room now and then. Nobody pauses to read: people who do, wait for less. Memory is the resident
set of the page's process, as the median of five seconds, at the end of the warm-up and at the end of the run. Then more
visitors than may wait click in one moment: those beyond are refused in words, all others answered. Headline: seconds
from a click to its drawn answer, median and 95th percentile, and clicks a second. Visitors and page share the machine.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import numpy as np

from depthlm.errors import InputError

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # the page's tests start it and ask it the same way
from app_page import app_python, serving
from page_client import RefusedError, Visitor

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

SHOWN = (1024, 768)  # pixels of a room as it is shown
ROOMS = 6
POINTS = 8  # of a picture; then they are cleared
TELLING = 5.0  # seconds over which memory is told
GROWTH = 0.10
BEYOND = 24  # clicks of the burst more than may wait; all together below the 64 visitors whose pictures are kept


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 1 for an error, memory that grew by more than a tenth, or a queue without an end."""
    options = common.parser(__doc__)
    options.add_argument("--clients", type=int, default=20, help="visitors at once")
    options.add_argument("--seconds", type=float, default=60.0, help="how long they click")
    options.add_argument("--warm-up", type=float, default=30.0, help="seconds of the same before that")
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The load, then the burst."""
    if arguments.clients < 1 or arguments.seconds <= 0 or arguments.warm_up < 0:
        raise InputError("--clients takes 1 or more, --seconds more than 0, --warm-up 0 or more")
    clients, seconds, warm_up, waiting = arguments.clients, arguments.seconds, arguments.warm_up, 32
    if arguments.quick:
        clients, seconds, warm_up, waiting = 4, 6.0, 6.0, 4
    with tempfile.TemporaryDirectory() as folder:
        python = app_python(Path(folder) / "env")
        limit = ("--max-waiting", str(waiting))
        with serving(python, Path(folder) / "page", "nano", *limit) as (url, pid):
            common.progress(f"{clients} visitors for {warm_up:g} + {seconds:g} s")
            busy = os.getloadavg()[0]
            load = Load(url, pid, clients)
            load.run(warm_up, seconds)
            common.progress("a burst")
            burst = all_at_once(url, waiting + BEYOND)
    took = np.array(load.took)
    before, after = load.memory
    return {
        "headline": {
            "median_s": float(np.median(took)), "p95_s": float(np.quantile(took, 0.95)),
            "clicks_per_s": len(took) / seconds,
        },
        "checks": {
            "no_error": not load.errors,
            "memory_grew_by_at_most_a_tenth": after <= (1 + GROWTH) * before,
            "beyond_the_queue_refused_in_words": burst["refused"] > 0 and set(burst["words"]) == {"Queue is full."},
            "all_others_answered": burst["answered"] == burst["clicks"] - burst["refused"],
            "answers_afterwards": burst["answers_afterwards"],
        },
        "config": {"clients": clients, "seconds": seconds, "warm_up_s": warm_up, "waiting": waiting, "model": "nano",
                   "quick": arguments.quick},
        "clicks": len(took), "slowest_s": float(took.max()), "errors": load.errors[:5],
        "memory_mb": {"after_warm_up": before, "at_the_end": after, "grew_by": after / before - 1},
        "burst": burst, "load_average_before": busy,
    }  # fmt: skip


class Load:
    """Visitors who click until told to stop. took: [N] seconds; memory: megabytes after the warm-up and at the end."""

    def __init__(self, url: str, pid: int, clients: int) -> None:
        self.url, self.pid, self.clients = url, pid, clients
        self.took: list[float] = []
        self.errors: list[str] = []
        self.memory = (0.0, 0.0)
        self._counts, self._over = threading.Event(), threading.Event()
        self._begun = threading.Semaphore(0)

    def run(self, warm_up: float, seconds: float) -> None:
        """Warm up from the moment at which every visitor has had a first answer, then count."""
        threads = [threading.Thread(target=self._visit, args=(number,)) for number in range(self.clients)]
        for thread in threads:
            thread.start()
        for _ in threads:
            self._begun.acquire()
        time.sleep(max(0.0, warm_up - TELLING))
        before = self._resident()
        self._counts.set()
        time.sleep(max(0.0, seconds - TELLING))
        self.memory = before, self._resident()
        self._over.set()
        for thread in threads:
            thread.join()

    def _resident(self) -> float:
        found = []
        for _ in range(20):
            status = Path(f"/proc/{self.pid}/status").read_text()
            found.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
            time.sleep(TELLING / 20)
        return float(np.median(found))

    def _visit(self, number: int) -> None:
        rng = np.random.default_rng(number)
        try:
            visitor = Visitor(self.url, timeout=120)
            visitor.call("first")
            for count in range(10**6):
                room = {"index": int(rng.integers(ROOMS)), "value": None}
                if count % POINTS == 0:
                    visitor.call("room" if rng.random() < 0.3 else "clear", event=room)
                start = time.monotonic()
                answer = visitor.click(*(rng.random(2) * np.subtract(SHOWN, 1)).tolist())
                visitor.http.get(answer["picture-0"]["url"]).raise_for_status()
                if answer["message"] or 'class="big' not in answer["results"]:
                    raise RefusedError(0, answer["message"] or "no figure")
                if count == 0:
                    self._begun.release()
                if self._over.is_set():
                    break
                if self._counts.is_set():
                    self.took.append(time.monotonic() - start)
            visitor.call("left")
            visitor.close()
        except Exception as error:
            self.errors.append(repr(error)[:300])
            self._begun.release()


def all_at_once(url: str, clicks: int) -> dict[str, Any]:
    """So many clicks of as many visitors in one moment."""
    visitors = [Visitor(url, timeout=120) for _ in range(clicks)]
    for visitor in visitors:
        visitor.call("first")
    together = threading.Barrier(clicks)

    def click(visitor: Visitor) -> str:
        together.wait()
        try:
            return "" if 'class="big' in visitor.click(300, 400)["results"] else "no figure"
        except RefusedError as refused:
            return f"{refused.status}: {refused.text}"

    with ThreadPoolExecutor(clicks) as pool:
        said = list(pool.map(click, visitors))
    refused = [text for text in said if text.startswith("503")]
    afterwards = 'class="big' in visitors[0].click(600, 400)["results"]
    return {
        "clicks": clicks, "answered": said.count(""), "refused": len(refused),
        "words": sorted({"Queue is full." if "Queue is full." in text else text for text in refused}),
        "answers_afterwards": afterwards,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
