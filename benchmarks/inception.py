"""Inception features a second, ours beside torch-fidelity's, with the same weights.

    python benchmarks/inception.py [--batch 32]

Both in one run, in turns, on the same images and cores; the best time of each counts. The weights
are random: they change no speed, and both sides must give the same features for them.
"""

import tempfile
from pathlib import Path

import click
import torch
from race import race
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision.models import Inception3

from posegan import metrics


@click.command()
@click.option("--batch", default=32, show_default=True, metavar="IMAGES", help="At once.")
@click.option("--repeats", default=3, show_default=True, metavar="N", help="Of which the best.")
def main(batch: int, repeats: int) -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "inception.pth")
        torch.save(Inception3(1008, False, False, init_weights=False).state_dict(), path)
        ours = metrics.inception_2015(torch.load(path, weights_only=True))
        theirs = FeatureExtractorInceptionV3(
            "theirs", ["2048"], feature_extractor_weights_path=str(path)
        )
    images = torch.randint(0, 256, (batch, 3, 128, 64), dtype=torch.uint8)
    calls = {
        "posegan": lambda: metrics.features(ours, images, "tensorflow"),
        "torch-fidelity": lambda: theirs(images)[0],
    }
    with torch.inference_mode():
        found = {name: call() for name, call in calls.items()}
        best = race(calls, repeats)
    for name, seconds in best.items():
        print(f"{name:16}{batch / seconds:8.2f} images/s")
    print(f"ratio {best['torch-fidelity'] / best['posegan']:.2f}")
    a, b = found.values()
    print(f"relative difference {((a - b).norm() / b.norm()).item():.1e}")


if __name__ == "__main__":
    main()
