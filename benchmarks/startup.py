"""Seconds until `posegan` answers: its help and a usage error, beside an empty Python.

python benchmarks/startup.py [--repeats 10]
"""

import shutil
import subprocess
import sys
import time

import click


@click.command()
@click.option("--repeats", default=10, show_default=True, help="Runs of each; the median counts.")
def main(repeats: int) -> None:
    posegan = shutil.which("posegan")
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "posegan --help": [posegan, "--help"],
        "posegan train --steps 0": [posegan, "train", "--steps", "0"],
        "posegan generate": [posegan, "generate"],
        "posegan score --limit x": [posegan, "score", "--limit", "x"],
        "posegan prepare --size 5x5": [posegan, "prepare", "--size", "5x5"],
    }
    base = None
    for name, command in commands.items():
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=False)
            seconds.append(time.perf_counter() - start)
        median = sorted(seconds)[repeats // 2]
        base = base or median
        print(f"{name:30} {median:.3f} s  {median / base:.1f} x an empty Python")


if __name__ == "__main__":
    main()
