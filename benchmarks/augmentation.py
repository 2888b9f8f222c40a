"""Augmented images a second: ours on a batch, torchvision's transforms one image at a time.

    python benchmarks/augmentation.py [--batch 32] [--device cpu]

All six augmentations at 128x64, float32, both sides in one run, in turns; the best time of each
counts. Ours moves the poses as well, and every pair has two images: both are counted. Theirs are
transforms.v2 with like ranges, without poses, on as much: all six of a source, a target's flip.
"""

from itertools import count

import click
import torch
from race import race
from torchvision.transforms import v2

from posegan import augment

H, W = 128, 64


def chains_of_theirs() -> tuple[v2.Compose, v2.Compose]:
    """What happens to a source, and to a target."""
    flip = v2.RandomHorizontalFlip(0.5)
    source = [
        v2.RandomApply([v2.ColorJitter(0.3, 0.3, 0.3, 0.05)], 0.8),
        v2.RandomApply([v2.RandomResizedCrop((H, W), (0.36, 1.0), (W / H, W / H))], 0.3),
        v2.RandomApply([v2.RandomZoomOut(0.0, (1.0, 1.6), p=1.0), v2.Resize((H, W))], 0.3),
        v2.RandomApply([v2.ElasticTransform(alpha=50.0, sigma=5.0)], 0.5),
        v2.RandomErasing(0.5, (0.02, 0.25), (0.4, 2.5), value="random"),
    ]
    return v2.Compose([flip, *source]), v2.Compose([flip])


@click.command()
@click.option("--batch", default=32, show_default=True, metavar="PAIRS", help="At once.")
@click.option("--repeats", default=10, show_default=True, metavar="N", help="Of which the best.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
def main(batch: int, repeats: int, device: str) -> None:
    last = {"memory_format": torch.channels_last}
    images = [torch.rand(batch, 3, H, W).to(device).contiguous(**last) * 2 - 1 for _ in range(2)]
    pose = (torch.rand(batch, 25, 3) * torch.tensor([W, H, 1])).to(device)
    pairs = dict(zip(("source", "target"), images))
    pairs |= {"source_pose": pose, "target_pose": pose}
    samples = torch.arange(batch, device=device)

    steps = count()

    def ours(names: tuple[str, ...] = augment.AUGMENTATIONS) -> None:
        drawn = augment.draw(0, next(steps), samples, (H, W))
        augment.augment(pairs | drawn, names)
        if device == "cuda":
            torch.cuda.synchronize()

    chains, single = chains_of_theirs(), [(image.cpu() + 1) / 2 for image in images]

    def theirs() -> None:
        for chain, side in zip(chains, single):
            for image in side:
                chain(image)

    ours()  # makes the constants
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")  # waiting for the device is an error inside
    best = race({"ours": ours, "theirs": theirs}, repeats)
    rates = 2 * batch / best["ours"], 2 * batch / best["theirs"]
    print(f"{H}x{W}, {torch.get_num_threads()} threads, all six, images/s")
    print(f"posegan on {device} {rates[0]:.0f}, torchvision on the CPU {rates[1]:.0f}")
    print(f"ratio {rates[0] / rates[1]:.1f}")
    alone = {name: lambda name=name: ours((name,)) for name in augment.AUGMENTATIONS}
    for name, seconds in race(alone, repeats).items():
        print(f"  {name:12}{seconds * 1e3 / batch:7.3f} ms a pair")


if __name__ == "__main__":
    main()
