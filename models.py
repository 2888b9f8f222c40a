"""Networks: the generators and their discriminators.

Images are (B, 3, H, W) in [-1, 1]; poses are (B, 25, 3): x and y in pixels and a confidence, 0 for
a missing joint.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from posegan import augment
from posegan.augment import POSE_MAPS, warp
from posegan.features import features_of
from posegan.poses import JOINTS

IMAGENET_ROWS = 256  # the image height at which the paper runs ResNet-50
POSE_GAIN = 3.0  # of the pose vector over the descriptor; tuned on held-out demo people
PARTS = 16  # of clothing and body that GarmentNet distinguishes; about as many as parsers do


# ------------------------------------------------------------------------------ shared parts


def check_size(height: int, width: int) -> None:
    """Raise ValueError for sizes that can't be halved four times."""
    if height % 16 or width % 16:
        raise ValueError(f"height and width must be multiples of 16, not {height}x{width}")


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm without num_batches_tracked, which is not needed."""
    norm = nn.BatchNorm2d(channels)
    norm.num_batches_tracked = None
    return norm


def normed(layer: nn.Module) -> nn.Sequential:
    """A convolution, batch norm, leaky ReLU."""
    return nn.Sequential(layer, batch_norm(layer.out_channels), nn.LeakyReLU(0.1, inplace=True))


def convolution(before: int, after: int) -> nn.Sequential:
    """A convolution that keeps the size, normed."""
    return normed(nn.Conv2d(before, after, 3, padding=1, bias=False))


def down(before: int, after: int) -> nn.Sequential:
    """A convolution that halves the map, normed."""
    return normed(nn.Conv2d(before, after, 3, stride=2, padding=1))


def up(before: int, after: int) -> nn.Sequential:
    """A transposed convolution that doubles the map, and batch norm."""
    # A kernel of 3 would paint a checkerboard, as it covers every other pixel more often.
    layer = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
    return nn.Sequential(layer, batch_norm(after))


# ------------------------------------------------------------------------------ RPT-GAN


class Descriptor(nn.Module):
    """RPT-GAN's image descriptor: an ImageNet network's maps, or, if `pooled`, the last one's mean.

    (B, 3, H, W) in [-1, 1] to four maps (B, widths[i], h / 4 / 2**i, w / 4 / 2**i), where it sees
    the image at h x w, or to (B, widths[-1]). Frozen, as in the paper, it passes no gradients,
    keeps its batch statistics and sees 256 rows; pooled, it pads narrow images to a square. Ours:
    maps keep the image's aspect ratio, as black columns double the cost. If trained with the
    generator, it sees the image's own size.
    """

    def __init__(self, network: str, frozen: bool, pooled: bool = False):
        super().__init__()
        self.frozen, self.pooled = frozen, pooled
        self.features = features_of(network)()
        self.widths = self.features.widths
        for block in self.features.modules() if not frozen else ():
            # Ours: fifty random layers hardly distinguish colours. Blocks with an identity shortcut
            # start as the identity, which leaves a dozen layers for the first steps.
            if hasattr(block, "bn3") and block.downsample is None:
                nn.init.zeros_(block.bn3.weight)
        self.requires_grad_(not frozen)
        self.train()

    def train(self, mode: bool = True) -> "Descriptor":
        """Set training mode, except that frozen batch norm keeps its statistics."""
        return super().train(mode and not self.frozen)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        H, W = image.shape[-2:]
        if self.frozen and H != IMAGENET_ROWS:
            size = (IMAGENET_ROWS, round(IMAGENET_ROWS * W / H))
            image = F.interpolate(image, size, mode="bilinear", antialias=IMAGENET_ROWS < H)
        spare = image.shape[2] - image.shape[3]
        if self.frozen and self.pooled and spare > 0:
            image = F.pad(image, (spare // 2, spare - spare // 2), value=-1)  # black
        maps = self.features(image)
        return maps[-1].mean((2, 3)) if self.pooled else maps


class ResidualBlock(nn.Module):
    """RPT-GAN's block: a convolution halves the map, a transposed one doubles it, plus the input.

    (B, C, H, W) to the same, H and W even. Ours: it starts as the identity, so that nine blocks
    learn as fast as one.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.down = down(channels, channels)
        self.up = up(channels, channels)
        nn.init.zeros_(self.up[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.down(x))


class Join(nn.Module):
    """Concatenate the descriptor (B, N) and the pose vector (B, M) to (B, N + M).

    Ours: both batch-normalised, the pose scaled to POSE_GAIN times the descriptor's total
    deviation. Otherwise 2,048 entries outweigh 75, and for a long time the generator draws one mean
    person in one mean pose.
    """

    def __init__(self, entries: int, pose_entries: int):
        super().__init__()
        self.gain = POSE_GAIN * math.sqrt(entries / pose_entries)
        self.norm = nn.BatchNorm1d(entries, affine=False)
        self.pose_norm = nn.BatchNorm1d(pose_entries, affine=False)

    def forward(self, descriptor: Tensor, pose: Tensor) -> Tensor:
        return torch.cat([self.norm(descriptor), self.gain * self.pose_norm(pose)], dim=1)


def opening(entries: int, channels: int, rows: int, aspect: float) -> nn.Sequential:
    """Transposed convolutions that expand a vector (B, N, 1, 1) to a map with `rows` rows.

    The first author's widths, 512 at 4 rows ... 64 at 64 and 128. Ours: the first kernel has the
    image's aspect ratio; his is square and the map is squeezed later.
    """
    doublings = min(max(round(math.log2(rows / 4)), 0), 5)
    widths = [channels * times for times in (8, 6, 4, 2, 1, 1)[: doublings + 1]]
    layers = [nn.ConvTranspose2d(entries, widths[0], (4, max(round(4 * aspect), 1)))]
    layers += [nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths)]
    return nn.Sequential(*(part for one in layers[:-1] for part in normed(one)), layers[-1])


class OpenedVector(nn.Module):
    """RPT-GAN read literally: descriptor and pose, both vectors, expanded to a map.

    A descriptor (B, N) and poses (B, 25, 3) to (B, 4C, H / scale, W / scale), as in the author's
    snippets. Ours: the 7x7 convolution comes before the resize, for the same reach at a quarter of
    the cost.
    """

    def __init__(self, entries: int, height: int, width: int, widths: list[int]):
        super().__init__()
        self.height, self.width = height, width
        pose_entries = 3 * len(JOINTS)
        self.join = Join(entries, pose_entries)
        channels = widths[-1] // 4
        self.opening = opening(entries + pose_entries, channels, height // 2, width / height)
        opened = self.opening[-1].out_channels
        self.spread = normed(nn.Conv2d(opened, widths[0], 7, padding=3, padding_mode="reflect"))
        self.down = nn.Sequential(*(down(a, b) for a, b in pairwise(widths)))

    def forward(self, descriptor: Tensor, pose: Tensor) -> Tensor:
        pose = augment.pose_vector(pose, self.height, self.width)
        z = self.join(descriptor, pose)  # (B, N + 75)
        x = self.spread(self.opening(z[:, :, None, None]))  # (B, C, H/2, W/2)
        x = F.interpolate(x, (self.height, self.width), mode="bilinear")  # (B, C, H, W)
        return self.down(x)  # (B, 4C, H/4, W/4)


class JoinedMaps(nn.Module):
    """Ours: the descriptor's maps, joined with the pose at every position.

    Maps at four scales and poses (B, 25, 3) to (B, 4C, H / scale, W / scale). Each position gets
    the pose relative to itself: coordinates fused at the bottleneck give wrong poses (PG2).
    """

    def __init__(self, maps: tuple[int, ...], height: int, width: int, scale: int, channels: int):
        super().__init__()
        self.size = height, width, scale
        # Normalised, as an ImageNet network's maps differ in magnitude a hundredfold.
        self.maps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(entries, channels, 1, bias=False), batch_norm(channels))
            for entries in maps
        )
        hidden = channels // 2
        self.pose = nn.Sequential(
            nn.Conv2d(3 * len(JOINTS), hidden, 1),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(hidden, hidden, 1),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(hidden, channels, 1, bias=False),
            batch_norm(channels),
        )

    def forward(self, maps: list[Tensor], pose: Tensor) -> Tensor:
        x = self.pose(augment.pose_from_places(pose, *self.size))
        for layer, found in zip(self.maps, maps):
            mode = "area" if found.shape[2] > x.shape[2] else "bilinear"
            x = x + F.interpolate(layer(found), x.shape[2:], mode=mode)
        return F.leaky_relu(x, 0.1)  # (B, 4C, H/4, W/4)


class ResidualGenerator(nn.Module):
    """The generator of RPT-GAN: descriptor and pose vector in, the person in that pose out.

    source (B, 3, H, W) and target_pose (B, 25, 3) to (B, 3, H, W); the source pose is accepted but
    not used, as in the paper. Raises ValueError for sizes that are not multiples of 16.

    The paper gives the parts; the first author's snippets give widths (the narrowest is `channels`)
    and order. `descriptor` is "vector", the literal reading, or "map": the paper also says that the
    blocks pass on colour, texture and background, which no pooled vector holds. Ours: batch norm,
    as instance norm removes each picture's colours; a third stride-2 convolution at 256 rows, so
    that the blocks work at 32 rows, as for 128; kernels of 3 and 4 in the blocks.
    """

    def __init__(
        self,
        height: int,
        width: int,
        channels: int = 64,
        descriptor: str = "map",
        network: str = "resnet50",
        frozen: bool = True,
    ):
        super().__init__()
        check_size(height, width)
        self.height, self.width = height, width
        self.descriptor = Descriptor(network, frozen, pooled=descriptor == "vector")
        stages = min(max(round(math.log2(height / 32)), 2), 3)
        # At 128 rows: 64, 128, 256.
        widths = [4 * channels >> stage for stage in range(stages, -1, -1)]
        maps = self.descriptor.widths
        if self.descriptor.pooled:
            self.joined = OpenedVector(maps[-1], height, width, widths)
        else:
            self.joined = JoinedMaps(maps, height, width, 2**stages, 4 * channels)
        self.blocks = nn.Sequential(*(ResidualBlock(4 * channels) for _ in range(9)))
        widths.reverse()
        self.up = nn.Sequential(
            *(nn.Sequential(up(a, b), nn.LeakyReLU(0.1, inplace=True)) for a, b in pairwise(widths))
        )
        self.image = nn.Conv2d(widths[-1], 3, 7, padding=3, padding_mode="reflect")

    def draw(self, described: Tensor | list[Tensor], target_pose: Tensor) -> Tensor:
        """The picture (B, 3, H, W) in another pose, from the descriptor's output for a source."""
        x = self.blocks(self.joined(described, target_pose))  # (B, 256, H/4, W/4) at 128 rows
        return torch.tanh(self.image(self.up(x)))  # (B, 3, H, W)

    def forward(
        self, source: Tensor, target_pose: Tensor, source_pose: Tensor | None = None
    ) -> Tensor:
        return self.draw(self.descriptor(source), target_pose)


class InstanceNorm(nn.Module):
    """Instance norm as group norm in float32, the fastest way on a CPU.

    There group norm in bfloat16 takes ten times as long, and PyTorch's own instance norm in float32
    up to three times.
    """

    def forward(self, x: Tensor) -> Tensor:
        with augment.in_float32(x):
            return F.group_norm(x.float(), x.shape[1]).to(x.dtype)


class Discriminator(nn.Module):
    """RPT-GAN's discriminator: Conv-ReLU-Pool, then logits of real/fake (B,) and identity (B, N).

    Widths, instance norm and the slope of the leaky ReLU are the first author's. Ours: kernels of
    3, average pooling (max pooling hides most of the image from the gradient), and final pooling to
    4 rows, so that the fully connected part fits every size.
    """

    def __init__(self, height: int, width: int, identities: int, channels: int = 64):
        super().__init__()
        widths = (3, *(channels * times for times in (1, 2, 4, 8, 8)))
        layers = []
        for before, after in pairwise(widths):
            layers += [
                nn.Conv2d(before, after, 3, padding=1),
                InstanceNorm() if before > 3 else nn.Identity(),
                nn.LeakyReLU(0.2, inplace=True),
                nn.AvgPool2d(2, ceil_mode=True),
            ]
        columns = max(round(4 * width / height), 1)
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d((4, columns)), nn.Flatten())
        self.hidden = nn.Sequential(
            nn.Linear(8 * channels * 4 * columns, 16 * channels), nn.LeakyReLU(0.2, inplace=True)
        )
        self.real = nn.Linear(16 * channels, 1)
        self.identity = nn.Linear(16 * channels, identities)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.hidden(self.features(image))  # (B, 1024)
        return self.real(x).squeeze(1), self.identity(x)  # (B,), (B, identities)


# ------------------------------------------------------------------------------ pix2pix


class UNetGenerator(nn.Module):
    """pix2pix's generator (Isola et al., CVPR 2017): the first row of RPT-GAN's Table 1.

    source (B, 3, H, W), target_pose and source_pose (B, 25, 3) to (B, 3, H, W): a U-Net on the
    source and both poses' heat maps, which halves them until the smaller side is 1, at most eight
    times. Raises ValueError for sizes that are not multiples of 16. Ours: no dropout, for one
    picture per pose, and zero padding of sizes that can't be halved that often.
    """

    def __init__(self, height: int, width: int, channels: int = 64):
        super().__init__()
        check_size(height, width)
        self.height, self.width = height, width
        levels = min(int(math.log2(min(height, width))), 8)
        self.multiple = 2**levels
        widths = [channels * min(2**level, 8) for level in range(levels)]
        before = [3 + 2 * len(JOINTS), *widths]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (a, b) in enumerate(pairwise(before)):
            layers = [nn.LeakyReLU(0.2)] if level else []
            layers.append(nn.Conv2d(a, b, 4, stride=2, padding=1))
            # A one-pixel map has no variance to normalise by.
            norm = 0 < level < levels - 1
            self.down.append(nn.Sequential(*layers, batch_norm(b) if norm else nn.Identity()))
        for level in reversed(range(levels)):
            inner = widths[level] * (1 if level == levels - 1 else 2)
            outer = widths[level - 1] if level else 3
            layer = nn.ConvTranspose2d(inner, outer, 4, stride=2, padding=1)
            last = batch_norm(outer) if level else nn.Tanh()
            self.up.append(nn.Sequential(nn.ReLU(), layer, last))

    def forward(
        self, source: Tensor, target_pose: Tensor, source_pose: Tensor | None = None
    ) -> Tensor:
        H, W = self.height, self.width
        source_pose = torch.zeros_like(target_pose) if source_pose is None else source_pose
        maps = [augment.heatmaps(pose, H, W) for pose in (target_pose, source_pose)]
        x = torch.cat([source, *maps], dim=1)  # (B, 53, H, W)
        x = F.pad(x, (0, -W % self.multiple, 0, -H % self.multiple))
        skips = []
        for layer in self.down:
            x = layer(x)
            skips.append(x)  # (B, C, H / 2, W / 2), (B, 2 * C, H / 4, W / 4), …
        skips.pop()
        *layers, last = self.up
        for layer in layers:
            x = torch.cat([layer(x), skips.pop()], dim=1)
        return last(x)[:, :, :H, :W]  # (B, 3, H, W)


# ------------------------------------------------------------------------------ pose flow


def twice(maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) at twice the size, bilinear."""
    return F.interpolate(maps, scale_factor=2, mode="bilinear")


def joined(*maps: Tensor) -> Tensor:
    """Concatenate maps (B, C, H, W) in channels-last format, which sampled maps are not in."""
    if torch.is_grad_enabled():
        return torch.cat([x.contiguous(memory_format=torch.channels_last) for x in maps], dim=1)
    (B, _, H, W), count = maps[0].shape, sum(x.shape[1] for x in maps)
    kind = {"dtype": maps[0].dtype, "device": maps[0].device}
    out = torch.empty((B, count, H, W), memory_format=torch.channels_last, **kind)
    return torch.cat(maps, dim=1, out=out)  # one copy instead of two


class RefiningBlock(nn.Module):
    """A residual block of two convolutions, (B, C, H, W) to the same; starts as the identity."""

    def __init__(self, channels: int):
        super().__init__()
        first, (second, norm, _) = (convolution(channels, channels) for _ in range(2))
        self.layers = nn.Sequential(first, second, norm)
        nn.init.zeros_(norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu_(self.layers(x).add_(x), 0.1)


def halving(channels: int) -> nn.Sequential:
    """(B, C, H, W) to (B, 2C, H/2, W/2)."""
    refined = (RefiningBlock(2 * channels) for _ in range(2))
    return nn.Sequential(down(channels, 2 * channels), *refined)


class Features(NamedTuple):
    """Features of a picture or pose at three scales; a pose has none at 1/2."""

    half: Tensor | None  # (B, C/2, H/2, W/2)
    quarter: Tensor  # (B, C, H/4, W/4)
    eighth: Tensor  # (B, 2C, H/8, W/8)


class SourceEncoder(nn.Module):
    """The source and the maps of its pose to Features; the whole pose may be missing."""

    def __init__(self, channels: int):
        super().__init__()
        self.at_half = down(3, channels // 2)
        self.at_quarter = down(channels // 2, channels)
        self.pose = nn.Conv2d(POSE_MAPS, channels, 3, padding=1)
        self.refine = RefiningBlock(channels)
        self.at_eighth = halving(channels)

    def forward(self, source: Tensor, maps: Tensor) -> Features:
        half = self.at_half(source)
        quarter = self.refine(self.at_quarter(half) + self.pose(maps))
        return Features(half, quarter, self.at_eighth(quarter))


class PoseEncoder(nn.Module):
    """The maps of the target pose to Features."""

    def __init__(self, channels: int):
        super().__init__()
        self.at_quarter = nn.Sequential(convolution(POSE_MAPS, channels), RefiningBlock(channels))
        self.at_eighth = halving(channels)

    def forward(self, maps: Tensor) -> Features:
        quarter = self.at_quarter(maps)
        return Features(None, quarter, self.at_eighth(quarter))


class Correspondence(NamedTuple):
    """Where the target finds the source, at 1/8, 1/4 and 1/2 of the size; flows also at 1."""

    attention: Tensor  # (B, h * w, h * w): target positions' weights on source positions, at 1/8
    flows: tuple[Tensor, ...]  # (B, 2, H/s, W/s), in pixels of that scale
    visibilities: tuple[Tensor, ...]  # (B, 1, H/s, W/s) in [0, 1]: whether the source shows it


class PoseFlow(nn.Module):
    """PFL's pose flow, learned without correspondences, from Features of source and target pose.

    Ours: at 1/8 every target position attends to all source positions and to "nowhere". The mean
    attended position gives the flow, the attention not on "nowhere" the visibility; so gradients
    reach farther than the one pixel of bilinear sampling. At 1/4 and 1/2, convolutions on features
    warped by the flow so far refine both.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.scale = channels**-0.5
        self.query = nn.Conv2d(2 * channels, channels, 1)
        self.key = nn.Conv2d(2 * channels, channels, 1)
        self.nowhere = nn.Parameter(torch.zeros(1))
        self.at_quarter = nn.Sequential(
            convolution(2 * channels, channels), convolution(channels, channels // 2)
        )
        self.quarter_step = nn.Conv2d(channels // 2, 3, 3, padding=1)
        self.at_half = convolution(channels, channels // 2)
        self.half_step = nn.Conv2d(channels // 2, 3, 3, padding=1)
        for step in (self.quarter_step, self.half_step):
            nn.init.zeros_(step.weight)
            nn.init.zeros_(step.bias)

    def forward(self, source: Features, pose: Features) -> Correspondence:
        query, key = self.query(pose.eighth), self.key(source.eighth)
        # In bfloat16 a flow of 64 pixels would be coarser than half a pixel.
        with augment.in_float32(query):
            attention, flow, visibility = self.look(query.float(), key.float())
        flows, visibilities = [flow], [visibility]
        x, logit = None, torch.logit(visibility, eps=0.01)
        for features, layers, last in (
            (source.quarter, self.at_quarter, self.quarter_step),
            (source.half, self.at_half, self.half_step),
        ):
            flow = 2 * twice(flow)
            beside = pose.quarter if x is None else twice(x)
            x = layers(joined(warp(features, flow), beside))
            step = last(x).float()  # (B, 3, H/4, W/4), (B, 3, H/2, W/2)
            flow, logit = flow + step[:, :2], twice(logit) + step[:, 2:]
            flows.append(flow)
            visibilities.append(logit.sigmoid())
        flows.append(2 * twice(flow))
        return Correspondence(attention, tuple(flows), tuple(visibilities))

    def look(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attention, flow and visibility at 1/8 from queries and keys (B, C, h, w)."""
        B, _, h, w = query.shape
        affinity = self.scale * query.flatten(2).transpose(1, 2) @ key.flatten(2)  # (B, N, N)
        affinity = torch.cat([affinity, self.nowhere.expand(B, h * w, 1)], dim=2)
        attention = affinity.softmax(dim=2)[..., :-1]  # (B, N, N)
        visibility = attention.sum(2, keepdim=True)  # (B, N, 1)
        places = augment.pixel_grid(h, w, query.device).flatten(1).T  # (N, 2)
        flow = attention @ places / visibility.clamp(min=1e-6) - places  # (B, N, 2)
        flow, visibility = (x.transpose(1, 2).unflatten(2, (h, w)) for x in (flow, visibility))
        return attention, flow, visibility  # (B, 2, h, w), (B, 1, h, w)


class GarmentNet(nn.Module):
    """PFL's coarse network: where clothing and body parts go, and how they look there.

    Returns features (B, 3C/2, H/4, W/4), from which `draw` makes a coarse picture, and the logits
    of the target's part layout (B, PARTS, H/8, W/8); each part gets the mean of the source's
    features over it. Ours: without a parser, both layouts are learned from the images alone.
    """

    def __init__(self, channels: int):
        super().__init__()
        wide, half = 3 * channels, 3 * channels // 2
        self.source_layout = nn.Conv2d(2 * channels, PARTS, 1)
        self.target_layout = nn.Conv2d(2 * channels, PARTS, 1)
        self.at_eighth = nn.Sequential(
            convolution(8 * channels, wide),
            RefiningBlock(wide),
            RefiningBlock(wide),
            convolution(wide, half),
        )
        self.at_quarter = nn.Sequential(convolution(7 * channels // 2, half), RefiningBlock(half))
        self.picture = nn.Conv2d(half, 3, 3, padding=1)

    def forward(
        self, source: Features, pose: Features, found: Correspondence
    ) -> tuple[Tensor, Tensor]:
        places = source.eighth.flatten(2)  # (B, 2C, N)
        attended = places @ found.attention.transpose(1, 2).to(places.dtype)  # (B, 2C, N)
        shares = self.source_layout(source.eighth).flatten(2).softmax(2)  # (B, PARTS, N)
        looks = places @ shares.transpose(1, 2).to(places.dtype)  # (B, 2C, PARTS)
        layout = self.target_layout(pose.eighth)  # (B, PARTS, H/8, W/8)
        dressed = looks @ layout.flatten(2).softmax(1).to(looks.dtype)  # (B, 2C, N)
        moved = warp(source.eighth, found.flows[0]) * found.visibilities[0]
        attended, dressed = (x.view_as(source.eighth) for x in (attended, dressed))
        x = self.at_eighth(joined(pose.eighth, attended, moved, dressed))
        moved = warp(source.quarter, found.flows[1]) * found.visibilities[1]
        return self.at_quarter(joined(twice(x), pose.quarter, moved)), layout

    def draw(self, features: Tensor) -> Tensor:
        """The coarse picture (B, 3, H/4, W/4) of its features, needed in training only."""
        return torch.tanh(self.picture(features))


class SynthesisNet(nn.Module):
    """PFL's fine network: GarmentNet's features and the aligned source to the picture.

    Returns Synthesis's `painted`, `warped` and `trust`; no decoder can invent a source's texture.
    """

    def __init__(self, channels: int):
        super().__init__()
        wide, narrow = 3 * channels // 4, channels // 4
        self.grow = convolution(3 * channels // 2, wide)
        self.at_half = nn.Sequential(convolution(wide + channels // 2, wide), RefiningBlock(wide))
        self.grow_again = convolution(wide, narrow)
        self.full = convolution(narrow + 3, narrow)
        self.picture = nn.Conv2d(narrow, 4, 3, padding=1)

    def forward(
        self, garment: Tensor, source: Tensor, features: Features, found: Correspondence
    ) -> tuple[Tensor, Tensor, Tensor]:
        moved = warp(features.half, found.flows[2]) * found.visibilities[2]
        x = self.at_half(joined(twice(self.grow(garment)), moved))  # (B, 3C/4, H/2, W/2)
        warped = warp(source, found.flows[3])
        x = self.full(joined(twice(self.grow_again(x)), warped))  # (B, C/4, H, W)
        x = self.picture(x).float().contiguous()
        return torch.tanh(x[:, :3]), warped, x[:, 3:].sigmoid()


class Synthesis(NamedTuple):
    """The flow generator's output, with all intermediate results."""

    image: Tensor  # (B, 3, H, W) in [-1, 1]
    garment: Tensor  # (B, 3C/2, H/4, W/4), GarmentNet's features
    painted: Tensor  # (B, 3, H, W), SynthesisNet's own picture
    warped: Tensor  # (B, 3, H, W), the source warped by the flow
    trust: Tensor  # (B, 1, H, W) in [0, 1]: weight of the warped source against the painted image
    layout: Tensor  # (B, PARTS, H/8, W/8), logits
    found: Correspondence


def painting(image: Tensor) -> Synthesis:
    """The Synthesis of a picture (B, 3, H, W) that is wholly painted, without a flow."""
    still, nothing = torch.zeros_like(image[:, :2]), torch.zeros_like(image[:, :1])
    found = Correspondence(still, (still,) * 4, (nothing,) * 3)
    return Synthesis(image, image, image, image, nothing, nothing, found)


class FlowGenerator(nn.Module):
    """The generator of Pose Flow Learning: flow, GarmentNet, SynthesisNet.

    source (B, 3, H, W), target_pose and source_pose (B, 25, 3) to (B, 3, H, W); source_pose is
    optional. Raises ValueError for sizes that are not multiples of 16. The paper gives the parts;
    all sizes and widths are ours. `channels` is the width at a quarter of the size.
    """

    def __init__(self, height: int, width: int, channels: int = 64):
        super().__init__()
        check_size(height, width)
        self.height, self.width = height, width
        self.source_encoder, self.pose_encoder = SourceEncoder(channels), PoseEncoder(channels)
        self.pose_flow = PoseFlow(channels)
        self.garment_net, self.synthesis_net = GarmentNet(channels), SynthesisNet(channels)

    def maps(self, pose: Tensor) -> Tensor:
        """Poses (B, 25, 3) as the maps that this network reads: (B, POSE_MAPS, H/4, W/4)."""
        return augment.pose_maps(pose, self.height, self.width, 4)

    def correspondence(
        self, source: Tensor, target_maps: Tensor, source_maps: Tensor
    ) -> tuple[Features, Features, Correspondence]:
        """Features of source and target pose, and the flow; a shared source is encoded once."""
        features, pose = self.source_encoder(source, source_maps), self.pose_encoder(target_maps)
        features = Features(*(x.expand(len(target_maps), -1, -1, -1) for x in features))
        return features, pose, self.pose_flow(features, pose)

    def synthesise_from(
        self, source: Tensor, target_maps: Tensor, source_maps: Tensor
    ) -> Synthesis:
        """The picture, with the flow, the visibility and the other intermediate results."""
        features, pose, found = self.correspondence(source, target_maps, source_maps)
        source = source.expand(len(target_maps), -1, -1, -1)
        garment, layout = self.garment_net(features, pose, found)
        painted, warped, trust = self.synthesis_net(garment, source, features, found)
        image = torch.lerp(painted, warped, trust)
        return Synthesis(image, garment, painted, warped, trust, layout, found)

    def synthesise(
        self, source: Tensor, target_pose: Tensor, source_pose: Tensor | None = None
    ) -> Synthesis:
        """`synthesise_from` for poses; all target poses may share one source and source_pose."""
        if source_pose is None:
            source_pose = torch.zeros_like(target_pose[: len(source)])
        return self.synthesise_from(source, *map(self.maps, (target_pose, source_pose)))

    def forward(
        self, source: Tensor, target_pose: Tensor, source_pose: Tensor | None = None
    ) -> Tensor:
        return self.synthesise(source, target_pose, source_pose).image


class PatchDiscriminator(nn.Module):
    """Judges patches of an image, given its source and both poses: logits (B, 1, H/8, W/8).

    pix2pix's, with spectral normalisation. Ours: the poses join at a quarter of the size, where
    their maps (B, 2 * POSE_MAPS, H/4, W/4) are small. Also returns its features, for matching.
    """

    def __init__(self, channels: int = 64):
        super().__init__()
        self.at_half = spectral_norm(nn.Conv2d(6, channels // 2, 4, stride=2, padding=1))
        self.at_quarter = spectral_norm(nn.Conv2d(channels // 2, channels, 4, stride=2, padding=1))
        self.poses = spectral_norm(nn.Conv2d(2 * POSE_MAPS, channels, 3, padding=1))
        self.at_eighth = spectral_norm(nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1))
        self.wide = spectral_norm(nn.Conv2d(2 * channels, 4 * channels, 3, padding=1))
        self.real = spectral_norm(nn.Conv2d(4 * channels, 1, 3, padding=1))

    def forward(self, image: Tensor, source: Tensor, maps: Tensor) -> tuple[Tensor, list[Tensor]]:
        half = F.leaky_relu(self.at_half(torch.cat([image, source], 1)), 0.2)  # (B, C/2, H/2, W/2)
        quarter = F.leaky_relu(self.at_quarter(half) + self.poses(maps), 0.2)  # (B, C, H/4, W/4)
        eighth = F.leaky_relu(self.at_eighth(quarter), 0.2)  # (B, 2C, H/8, W/8)
        wide = F.leaky_relu(self.wide(eighth), 0.2)  # (B, 4C, H/8, W/8)
        return self.real(wide), [half, quarter, eighth, wide]


class ProjectedDiscriminator(nn.Module):
    """Judges an image by its frozen features, given those of its source and both poses' maps.

    Projected GANs (Sauer et al., NeurIPS 2021): fixed random convolutions mix features across
    channels and scales, and a small head judges each scale. Ours: the heads are conditioned on
    source and poses; features have unit length before mixing. Takes `mix`'s features of several
    images and of their common source, and maps (B, 2 * POSE_MAPS, H/4, W/4); returns logits
    (B, 1, h, w) per image and scale.
    """

    def __init__(self, widths: tuple[int, ...], channels: int = 64):
        super().__init__()
        self.across_channels, self.across_scales = nn.ModuleList(), nn.ModuleList()
        self.heads = nn.ModuleList()
        for place, width in enumerate(widths):
            mixing = nn.Conv2d(width, channels, 1, bias=False)
            spreading = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            for layer, kept in ((mixing, self.across_channels), (spreading, self.across_scales)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
                kept.append(layer.requires_grad_(False))
            # The coarsest maps are too small to halve.
            kernel, stride = (4, 2) if place < 2 else (3, 1)
            head = nn.Sequential(
                spectral_norm(nn.Conv2d(2 * channels + 2 * POSE_MAPS, channels, 3, padding=1)),
                nn.LeakyReLU(0.2, inplace=True),
                spectral_norm(nn.Conv2d(channels, 2 * channels, kernel, stride=stride, padding=1)),
                nn.LeakyReLU(0.2, inplace=True),
                spectral_norm(nn.Conv2d(2 * channels, 1, 3, padding=1)),
            )
            self.heads.append(head)

    def mix(self, features: list[Tensor]) -> list[Tensor]:
        """Mix unit features across channels, and from the coarsest scale to the finest."""
        mixed: list[Tensor] = []
        scales = zip(features, self.across_channels, self.across_scales)
        for found, across, spread in reversed(list(scales)):
            x = across(found * found.shape[1] ** 0.5)  # entries of order 1
            if mixed:
                x = x + F.interpolate(mixed[-1], x.shape[-2:], mode="bilinear")
            mixed.append(spread(x))
        return mixed[::-1]

    def forward(
        self, images: list[list[Tensor]], source: list[Tensor], maps: Tensor
    ) -> list[list[Tensor]]:
        logits = [[] for _ in images]
        for place, (head, beside) in enumerate(zip(self.heads, source)):
            if maps.shape[-2:] != beside.shape[-2:]:
                maps = F.adaptive_avg_pool2d(maps, beside.shape[-2:])
            # What all images share passes through the first convolution once.
            of_image, of_told = head[0].weight.tensor_split([beside.shape[1]], dim=1)
            told = torch.cat([beside, maps.to(beside.dtype)], dim=1)
            told = F.conv2d(told, of_told, head[0].bias, padding=1)
            for found, image in zip(logits, images):
                found.append(head[1:](F.conv2d(image[place], of_image, padding=1) + told))
        return logits


GENERATORS = {"flow": FlowGenerator, "residual": ResidualGenerator, "unet": UNetGenerator}
