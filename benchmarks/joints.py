"""Are joints where the pose wants them? As often as a detector finds them there in real targets?

    python benchmarks/joints.py [--data market1501] [--checkpoint FILE] [--limit 500]

The detector is trained here, on the real pictures of the training people, and kept in --detector:
it reads pictures of this size, which detectors of photographs don't. It is EfficientNet-Lite0 by
ImageNet's weights, whose maps are joined from coarse to fine, and gives each joint's places a
probability (after Xiao et al., ECCV 2018); nothing of ours is trained by it.
A joint counts as found within 5 % of the picture's height from where the target's pose has it:
shoulders, elbows, wrists, hips, knees and ankles that the pose knows. +- is half the 95 % interval
over pictures.
"""

from pathlib import Path

import click
import numpy as np
import race  # noqa: F401, first: the modules are this checkout's
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posegan import augment, checkpoints, features, pairs

LIMBS = [2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14]  # BODY_25's numbers
SHARE = 0.05
SCALE = 4  # a place is so many pixels wide
SPREAD = 0.7  # of the probability around a joint, in places
BATCH, RATE, SHIFT = 64, 1e-3, 6  # SHIFT: pixels, the most a training picture is moved


class Detector(nn.Module):
    """Images (B, 3, H, W) to logits of the limbs' joints (B, 12, H / 4, W / 4)."""

    def __init__(self, channels: int = 96):
        super().__init__()
        self.features = features.load_features("lite0").requires_grad_(True)
        widths = features.LiteFeatures.widths
        self.entries = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, 1, 1) for _ in widths)
        self.exit = nn.Conv2d(channels, len(LIMBS), 1)

    def forward(self, image: Tensor) -> Tensor:
        x = 0
        for maps, entry, smooth in reversed(
            [*zip(self.features(image), self.entries, self.smooth)]
        ):
            x = F.relu(smooth(F.relu(entry(maps) + x)))  # (B, C, h, w)
            if maps.shape[2] < image.shape[2] // SCALE:
                x = F.interpolate(x, scale_factor=2)
        return self.exit(x)

    @torch.inference_mode()
    def places(self, pictures: Tensor) -> Tensor:
        """Where the joints of uint8 pictures (N, 3, H, W) are: x and y in pixels, (N, 12, 2)."""
        logits = self(pairs.normalise(pictures))
        width = logits.shape[3]
        peak = logits.flatten(2).argmax(2)  # (N, 12)
        y, x = peak // width, peak % width
        rows, columns = (torch.arange(size) for size in logits.shape[2:])
        near = ((rows - y[..., None]).abs() <= 1)[..., None] & (
            (columns - x[..., None]).abs() <= 1
        )[..., None, :]
        around = (
            logits.masked_fill(~near, -torch.inf).flatten(2).softmax(2).unflatten(2, (-1, width))
        )
        x, y = (around.sum(2) * columns).sum(2), (around.sum(3) * rows).sum(2)
        return (torch.stack([x, y], 2) + 0.5) * SCALE - 0.5


def moved(images: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
    """Half of the images mirrored, all shifted by up to SHIFT pixels, with their poses."""
    flip = torch.rand(len(images)) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    pose = torch.where(flip[:, None, None], augment.flip_pose(pose, images.shape[3]), pose)
    shift = (2 * torch.rand(len(images), 2) - 1) * SHIFT
    flow = -shift[:, :, None, None].expand(-1, -1, *images.shape[2:])
    pose = pose + F.pad(shift, (0, 1))[:, None] * (pose[..., 2:] > 0)
    return augment.warp(images, flow), pose


def cross_entropy(logits: Tensor, pose: Tensor, size: tuple[int, int]) -> Tensor:
    """Between the places' probabilities and a Gaussian around each joint that the pose knows."""
    pose = pose[:, LIMBS]
    x, y = augment.offsets(pose[..., :2], *size, SCALE)  # (B, 12, w), (B, 12, h)
    x, y = (torch.softmax(-0.5 * (d / SPREAD).square(), 2) for d in (x, y))
    wanted = (y[..., None] * x[..., None, :]).flatten(2)
    inside = (pose[..., :2] >= 0) & (pose[..., :2] <= torch.tensor(size[::-1]) - 1)
    known = (pose[..., 2] > 0) & inside.all(2)  # (B, 12)
    return -(wanted * logits.flatten(2).log_softmax(2)).sum(2)[known].mean()


def train(prepared: pairs.Prepared, steps: int) -> Detector:
    torch.manual_seed(0)
    numbers, places = np.random.default_rng(0), np.flatnonzero(prepared.labels >= 0)
    detector = Detector()
    adam = torch.optim.AdamW(detector.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, RATE, steps, pct_start=0.1)
    for step in range(steps):
        chosen = np.sort(numbers.choice(places, BATCH, replace=False))
        batch = pairs.gather(prepared, np.stack([chosen, chosen], 1))
        images, pose = moved(pairs.normalise(batch["target"]), batch["target_pose"])
        loss = cross_entropy(detector(images), pose, images.shape[2:])
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1} of {steps}, cross-entropy {loss:.3f}", flush=True)
    return detector


@click.command()
@click.option("--data", default="market1501", show_default=True)
@click.option("--root", default="data", show_default=True)
@click.option("--checkpoint", type=Path, help="Default: the built-in model.")
@click.option("--limit", default=500, show_default=True, help="Test pairs.")
@click.option("--detector", "file", type=Path, default=Path("joints.pt"), show_default=True)
@click.option("--steps", default=1000, show_default=True, help="The detector's, if it isn't there.")
def main(data: str, root: str, checkpoint: Path | None, limit: int, file: Path, steps: int) -> None:
    prepared = pairs.load(data, root)
    if not file.exists():
        torch.save(train(prepared, steps).state_dict(), file)
    detector = Detector().eval()
    detector.load_state_dict(torch.load(file, weights_only=True))
    path = checkpoint or checkpoints.BUILT_IN
    generator = checkpoints.load_generator(path, torch.device("cpu"))
    shares = {"generated": [], "target": [], "source": []}
    for batch in checkpoints.scored_batches(prepared, generator, limit):
        pose = batch["target_pose"][:, LIMBS]
        known = pose[..., 2] > 0  # (B, 12)
        for name, each in shares.items():
            distance = (detector.places(batch[name]) - pose[..., :2]).norm(dim=2)
            found = (distance <= SHARE * prepared.height) & known
            each.append((found.sum(1) / known.sum(1))[known.any(1)])
    for name, each in shares.items():
        values = torch.cat(each)
        half = 1.96 * values.std() / len(values) ** 0.5
        print(f"{name:10} joints found {values.mean():.3f} +- {half:.3f}  N = {len(values):,}")


if __name__ == "__main__":
    main()
