"""Measures SSIM against scikit-image, and all scores: python benchmarks/ssim.py --help."""

import resource

import click
import numpy as np
import torch
from race import race
from skimage.metrics import structural_similarity

from posegan import metrics

GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
OPTIONS = {
    "dscf": GAUSSIAN,
    "wang": GAUSSIAN,
    "pg2": {"win_size": 7},
    "gfla": {"win_size": 51},
}


def reference(generated: np.ndarray, target: np.ndarray, recipe: str) -> float:
    """scikit-image's SSIM of two (H, W, 3) images in grey levels."""
    data_range = np.ptp(generated) if recipe == "dscf" else 255.0
    return structural_similarity(
        generated, target, channel_axis=2, data_range=data_range, **OPTIONS[recipe]
    )


def pictures(count: int, height: int, width: int, seed: int) -> torch.Tensor:
    """Smooth noise, uint8 (B, 3, H, W)."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, height // 8, width // 8, generator=draw)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (smooth.clamp(0, 1) * 255).to(torch.uint8)


def peak() -> float:
    """The most memory this process has held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


@click.command()
@click.option("--count", default=100, show_default=True, metavar="N", help="Pairs of ours.")
@click.option("--peer-count", default=20, show_default=True, metavar="N", help="Of scikit-image.")
@click.option("--pairs", default=12000, show_default=True, metavar="N", help="Of the long run.")
@click.option("--height", default=128, show_default=True, metavar="PIXELS", help="Of the images.")
@click.option("--width", default=64, show_default=True, metavar="PIXELS", help="Of the images.")
@click.option("--threads", default=2, show_default=True, metavar="N", help="That torch may use.")
@click.option("--repeats", default=40, show_default=True, metavar="N", help="Of which the best.")
def main(
    count: int, peer_count: int, pairs: int, height: int, width: int, threads: int, repeats: int
) -> None:
    """Images/s of both sides in one run, their ratio, and the largest difference of values.

    scikit-image has no threads of its own and runs on one core, as its users run it. Before that
    the time of all recipes of many pairs in one call, and its memory beyond theirs.
    """
    torch.set_num_threads(threads)
    generated, target = (pictures(count, height, width, seed) for seed in (0, 1))
    recipes = [f"ssim_{recipe}" for recipe in metrics.RECIPES]
    many = [images.repeat(-(-pairs // count), 1, 1, 1)[:pairs] for images in (generated, target)]
    metrics.scores(generated[:1], target[:1])  # what the first use loads is no score's memory
    before = peak()
    elapsed = race({"all": lambda: metrics.scores(*many, names=recipes)}, 3)["all"]
    click.echo(f"{height}x{width}, {threads} threads")
    click.echo(f"all recipes of {pairs:,} pairs: {elapsed:.1f} s, {peak() - before:.0f} MB")
    arrays = [
        images[:peer_count].permute(0, 2, 3, 1).double().numpy() for images in (generated, target)
    ]
    click.echo(f"{'images/s':<8}{'posegan':>10}{'skimage':>10}{'ratio':>8}{'max difference':>18}")
    for recipe in OPTIONS:
        name = f"ssim_{recipe}"
        theirs = [reference(x, y, recipe) for x, y in zip(*arrays)]
        ours = metrics.scores(generated, target, names=[name])[name][:peer_count].numpy()
        sides = {
            "skimage": lambda r=recipe: [reference(x, y, r) for x, y in zip(*arrays)],
            "posegan": lambda n=name: metrics.scores(generated, target, names=[n]),
        }
        best = race(sides, repeats)
        rates = count / best["posegan"], len(theirs) / best["skimage"]
        difference = np.abs(ours - theirs).max()
        line = f"{recipe:<8}{rates[0]:>10.0f}{rates[1]:>10.0f}{rates[0] / rates[1]:>8.1f}"
        click.echo(f"{line}{difference:>18.1e}")
    pose = torch.rand(count, 25, 3) * torch.tensor([width, height, 1.0])
    calls = {
        "all recipes": lambda: metrics.scores(generated, target, names=recipes),
        "all scores": lambda: metrics.scores(generated, target),
        "all scores, with the mask": lambda: metrics.scores(generated, target, pose),
    }
    for name, seconds in race(calls, repeats).items():
        click.echo(f"{name}: {count / seconds:.0f} images/s")


if __name__ == "__main__":
    main()
