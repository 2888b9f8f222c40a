"""What the benchmarks share. Imported before posegan's modules, it lets them be this checkout's,
whatever is installed.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def race(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The best time of each call in seconds: what other programs disturbed least.

    They are taken in turns, so that all see the same machine.
    """
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - began)
    return best
