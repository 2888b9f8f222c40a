"""Images a second of the generators and of a network of PATN's published form, side by side.

    python benchmarks/inference.py [--repeats 5]

Both run on the CPU in float32, channels last, in turns; the best time of each counts. Ours run as
`posegan generate` loads them, with batch norms folded into convolutions; PATN's form in evaluation
mode, as its authors run it. PATN (Zhu et al., CVPR 2019): two streams of a 7x7 convolution and two
stride-2 convolutions to 256 channels, nine pose-attentional blocks, transposed convolutions back;
41 M parameters. `flow` runs as it is trained by default. `residual` runs in its three forms: with a
descriptor that was trained along (it sees the image at its own size), with given weights (it sees
256 rows), and at half width.
"""

import click
import torch
from race import race
from torch import Tensor, nn

from posegan import features, models, terminal

CHANNELS = 256
CASES = (  # height, width, batch size, images/s of PATN where it was first measured
    (128, 64, 8, 4.1),
    (256, 256, 4, 0.57),
)


def convolution(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    padding = kernel // 2
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, padding), nn.BatchNorm2d(after), nn.ReLU(True)
    )


def encoder(channels: int) -> nn.Sequential:
    return nn.Sequential(
        convolution(channels, 64, 7), convolution(64, 128, 3, 2), convolution(128, CHANNELS, 3, 2)
    )


class AttentionBlock(nn.Module):
    def __init__(self, pose_channels: int):
        super().__init__()
        self.image = nn.Sequential(
            convolution(CHANNELS, CHANNELS),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            nn.BatchNorm2d(CHANNELS),
        )
        self.pose = nn.Sequential(
            convolution(pose_channels, pose_channels), nn.Conv2d(pose_channels, CHANNELS, 3, 1, 1)
        )

    def forward(self, image: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
        pose = self.pose(pose)
        image = image + self.image(image) * torch.sigmoid(pose)
        return image, torch.cat([pose, image], dim=1)


class AttentionGenerator(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.pose = encoder(3), encoder(36)
        self.blocks = nn.ModuleList(
            AttentionBlock(CHANNELS if first else 2 * CHANNELS) for first in (True, *[False] * 8)
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(CHANNELS, 128, 3, 2, 1, 1),
            nn.BatchNorm2d(128),
            nn.ReLU(True),
            nn.ConvTranspose2d(128, 64, 3, 2, 1, 1),
            nn.BatchNorm2d(64),
            nn.ReLU(True),
            nn.Conv2d(64, 3, 7, padding=3),
            nn.Tanh(),
        )

    def forward(self, image: Tensor, heatmaps: Tensor) -> Tensor:
        image, pose = self.image(image), self.pose(heatmaps)
        for block in self.blocks:
            image, pose = block(image, pose)
        return self.decoder(image)


def ready(network: nn.Module) -> nn.Module:
    return network.eval().to(memory_format=torch.channels_last)


def contestants(height: int, width: int, batch: int) -> dict:
    """Name to a call that makes `batch` images."""
    last = {"memory_format": torch.channels_last}
    source = torch.rand(batch, 3, height, width).mul(2).sub(1).contiguous(**last)
    heatmaps = torch.rand(batch, 36, height, width).contiguous(**last)
    pose = torch.rand(batch, 25, 3) * torch.tensor([width, height, 1])
    forms = {
        "residual, own rows": {"frozen": False},
        "residual, 256 rows": {"frozen": True},
        "residual, own rows, 32 channels": {"frozen": False, "channels": 32},
    }
    attention = ready(AttentionGenerator())
    calls = {"PATN's form": lambda: attention(source, heatmaps)}
    networks = {"flow": models.FlowGenerator(height, width)}
    for name, options in forms.items():
        networks[name] = models.ResidualGenerator(height, width, **options)
    for name, network in networks.items():
        calls[name] = lambda network=network: network(source, pose, pose)
        ready(features.fused(network))  # as `posegan generate` and `score` load it
    return calls


@click.command()
@click.option("--repeats", default=5, show_default=True, help="Timed calls of each.")
def main(repeats: int) -> None:
    terminal.keep_memory()  # as the commands do
    parameters = sum(p.numel() for p in AttentionGenerator().parameters())
    print(f"{torch.get_num_threads()} threads, PATN's form: {parameters / 1e6:.1f} M parameters")
    with torch.inference_mode():
        for height, width, batch, published in CASES:
            best = race(contestants(height, width, batch), repeats)
            base = batch / best["PATN's form"]
            for name, seconds in best.items():
                rate = batch / seconds
                print(
                    f"{height}x{width} {name:32} {rate:7.2f} images/s  {rate / base:5.1f} x here  "
                    f"{rate / published:5.1f} x of {published}"
                )


if __name__ == "__main__":
    main()
