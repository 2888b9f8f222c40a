"""Measures preparing a data set and drawing batches: python benchmarks/prepare.py --help."""

import logging
import resource
import tempfile
import time

import click
import race  # noqa: F401  this checkout's modules

from posegan import datasets, pairs

STEPS = 2000  # batches that are fetched


def timed(function):
    """The function, adding the seconds it takes to `timed.seconds`."""

    def wrapper(*arguments):
        began = time.perf_counter()
        result = function(*arguments)
        wrapper.seconds += time.perf_counter() - began
        return result

    wrapper.seconds = 0.0
    return wrapper


def report(name: str, value: float, unit: str) -> None:
    """Print one figure."""
    click.echo(f"{name:<24}{value:>12,.2f}  {unit}")


def measure_batches(prepared: pairs.Prepared, batch_size: int, threads: int) -> float:
    """Source and target images per second: gathered, and normalised on the CPU."""
    import torch

    torch.set_num_threads(threads)
    batches = pairs.Batches(prepared, prepared.pairs_train, batch_size, 0, torch.device("cpu"))
    batches.fetch(0)
    step, began = 0, time.perf_counter()
    for _ in batches.stream(0, STEPS):
        step += 1
    return step * batch_size * 2 / (time.perf_counter() - began)


@click.command()
@click.option("--data", default="market1501", show_default=True, help="Data set.")
@click.option("--source", required=True, metavar="PATH", help="Its archive or folder.")
@click.option("--poses", multiple=True, metavar="PATH", help="Its keypoints.")
@click.option("--batch-size", default=32, show_default=True, metavar="PAIRS")
@click.option("--threads", default=2, show_default=True, help="That torch may use for batches.")
def main(data: str, source: str, poses: tuple[str, ...], batch_size: int, threads: int) -> None:
    """Prepare a data set in a temporary folder and draw training batches from it.

    Example: python benchmarks/prepare.py --source Market-1501-v15.09.15.zip --poses CSV_FOLDER
    """
    logging.getLogger("posegan").setLevel(logging.ERROR)
    datasets._pair_lists = timed(datasets._pair_lists)
    with tempfile.TemporaryDirectory() as root:
        began = time.perf_counter()
        prepared = datasets.prepare(datasets.PrepareConfig(data, source, poses, root))
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        report("prepare", seconds, "s")
        report("images", len(prepared.images) / seconds, "images/s")
        report("peak memory", peak, "GiB")  # before torch is imported
        report("pair lists", datasets._pair_lists.seconds, "s")
        rate = measure_batches(prepared, batch_size, threads)
        report("batches", rate, f"images/s ({rate / 2:,.0f} pairs/s)")


if __name__ == "__main__":
    main()
