"""Networks and losses: the descriptor, the generators and their discriminator.

Images are (B, 3, H, W) in [-1, 1]; poses are (B, 25, 3): x and y in pixels and a confidence, 0 for
a missing joint.
"""

import math
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, resnet50
from torchvision.models.resnet import Bottleneck

from poses import BadInput

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGENET_ROWS = 256  # the height at which the paper shows its images to ResNet-50
JOINTS = 25
POSE_GAIN = 3.0  # of the pose vector over the descriptor; found on demo people held out


class Descriptor(nn.Module):
    """ResNet-50 without its classifier: (B, 3, H, W) in [-1, 1] to (B, 2048).

    RPT-GAN, "image descriptor". Frozen, as in the paper, it passes no gradients and keeps its batch
    statistics. The image is normalised as for ImageNet and resized to `rows` rows.

    Ours: a narrow image keeps its aspect where the paper pads it with zeros to a square. Behind a
    global average pool zero columns only dilute the descriptor, and they double its cost.
    """

    def __init__(self, rows: int, frozen: bool):
        super().__init__()
        self.rows = rows
        self.frozen = frozen
        self.network = resnet50(weights=None)
        self.network.fc = nn.Identity()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        if not frozen:
            # Ours: fifty random layers tell colours apart badly. Blocks whose shortcut is the
            # identity begin as it, which leaves a dozen layers for the first steps.
            for block in self.network.modules():
                if isinstance(block, Bottleneck) and block.downsample is None:
                    nn.init.zeros_(block.bn3.weight)
        self.requires_grad_(not frozen)
        self.train()

    def train(self, mode: bool = True) -> "Descriptor":
        """Set training mode, except that frozen batch norm never follows the batches it sees."""
        return super().train(mode and not self.frozen)

    def forward(self, image: Tensor) -> Tensor:
        H, W = image.shape[-2:]
        if self.rows != H:
            size = (self.rows, round(self.rows * W / H))
            image = F.interpolate(image, size, mode="bilinear", antialias=self.rows < H)
        image = ((image + 1) / 2 - self.mean) / self.std  # (B, 3, rows, rows * W / H)
        return self.network(image)  # (B, 2048)


def load_descriptor_weights(descriptor: Descriptor, weights: str) -> None:
    """Fill the descriptor with torchvision's ImageNet weights ("imagenet") or those of a file.

    The file holds a state dict of torchvision's ResNet-50, with or without its classifier.
    Raises ClickException where the weights can't be fetched or don't fit.
    """
    if weights == "imagenet":
        try:
            state = ResNet50_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True)
        except Exception as error:  # urllib's, ssl's and hashing's errors share no base class
            problem = f"can't be fetched ({error})"
            remedy = (
                "give them with --descriptor-weights FILE, or train the descriptor along with "
                "--descriptor-weights none"
            )
            raise BadInput("ImageNet weights of ResNet-50", problem, remedy) from None
    else:
        state = read_state_dict(Path(weights))
    state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    try:
        descriptor.network.load_state_dict(state)
    except RuntimeError:
        remedy = "give a state dict of torchvision's resnet50"
        raise BadInput(weights, "holds no weights of ResNet-50", remedy) from None


def read_state_dict(path: Path) -> dict:
    """Read a dict that torch saved, without running any code a hostile file may hold.

    Raises ClickException where the file is missing, damaged or more than plain tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BadInput(path, "no such file", "check the path") from None
    except OSError as error:
        raise BadInput(path, f"can't be read ({error.strerror})", "check the file") from None
    except Exception:  # zip, pickle, EOF and runtime errors: whatever the bytes provoke
        problem = "damaged, or not a file of plain tensors saved by PyTorch"
        raise BadInput(path, problem, "get it anew") from None
    if not isinstance(state, dict):
        raise BadInput(path, "holds no weights by name", "give a state dict")
    return state


def pose_vector(pose: Tensor, height: int, width: int) -> Tensor:
    """Flatten poses (B, 25, 3) in pixels to (B, 75): x and y in [-1, 1] and a flag of presence.

    RPT-GAN gives its generator a pose vector and says no more. Ours: normalised, as raw pixels
    would drown the descriptor's features of order 1, and flagged, as a missing joint must not look
    like one in the corner.
    """
    present = (pose[..., 2:] > 0).to(pose.dtype)  # (B, 25, 1)
    xy = (pose[..., :2] + 0.5) / pose.new_tensor([width, height]) * 2 - 1  # (B, 25, 2)
    return torch.cat([xy * present, present], dim=-1).flatten(1)  # (B, 75)


def instance_norm(channels: int) -> nn.GroupNorm:
    # One group a channel is instance norm; PyTorch's own is up to five times slower on the CPU.
    return nn.GroupNorm(channels, channels, affine=False)


def down(channels: int, channels_out: int) -> nn.Sequential:
    """A convolution that halves the map, batch norm, leaky ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, channels_out, 3, stride=2, padding=1),
        nn.BatchNorm2d(channels_out),
        nn.LeakyReLU(0.1, inplace=True),
    )


def up(channels: int, channels_out: int) -> nn.Sequential:
    """A transposed convolution that doubles the map, and batch norm."""
    return nn.Sequential(
        # A kernel of 3 would paint a checkerboard: it reaches every other pixel more often.
        nn.ConvTranspose2d(channels, channels_out, 4, stride=2, padding=1),
        nn.BatchNorm2d(channels_out),
    )


class ResidualBlock(nn.Module):
    """RPT-GAN's block: a convolution halves the map, a transposed one doubles it, the input added.

    (B, C, H, W) to the same, H and W even.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.down = down(channels, channels)
        self.up = up(channels, channels)
        # Ours: a block begins as the identity, so that nine of them learn as soon as one.
        nn.init.zeros_(self.up[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.down(x))


class Join(nn.Module):
    """Concatenate the descriptor (B, N) and the pose vector (B, M) to (B, N + M).

    Ours: every entry is batch-normalised and the pose's raised to POSE_GAIN times the descriptor's
    total deviation. Descriptors of different people share most of their value, and 2,048 entries
    outweigh 75: joined as they are, the generator draws one mean person in one mean pose for a long
    time.
    """

    def __init__(self, entries: int, pose_entries: int):
        super().__init__()
        self.gain = POSE_GAIN * math.sqrt(entries / pose_entries)
        self.norm = nn.BatchNorm1d(entries, affine=False)
        self.pose_norm = nn.BatchNorm1d(pose_entries, affine=False)

    def forward(self, descriptor: Tensor, pose: Tensor) -> Tensor:
        return torch.cat([self.norm(descriptor), self.gain * self.pose_norm(pose)], dim=1)


class Opening(nn.Sequential):
    """Transposed convolutions that open a vector (B, N, 1, 1) to a map of `rows` rows."""

    def __init__(self, entries: int, channels: int, rows: int, aspect: float):
        # 512 channels at 4 rows ... 64 at 64 and 128 rows: the first author's widths. Ours: the
        # first kernel has the image's aspect where his is square and squeezed later.
        doublings = min(max(round(math.log2(rows / 4)), 0), 5)
        widths = [channels * times for times in (8, 6, 4, 2, 1, 1)[: doublings + 1]]
        layers = [nn.ConvTranspose2d(entries, widths[0], (4, max(round(4 * aspect), 1)))]
        for before, after in pairwise(widths):
            layers += [
                nn.BatchNorm2d(before),
                nn.LeakyReLU(0.1, inplace=True),
                nn.ConvTranspose2d(before, after, 4, stride=2, padding=1),
            ]
        super().__init__(*layers)
        self.channels = widths[-1]


class ResidualGenerator(nn.Module):
    """The generator of RPT-GAN: descriptor and pose vector in, the person in that pose out.

    source (B, 3, H, W) and target_pose (B, 25, 3) to (B, 3, H, W); the source pose is accepted and
    not used, as in the paper. Height and width are multiples of 16.

    The paper gives the parts (vector in, convolutions and transposed convolutions, 9 residual
    blocks, each down, up and add); the first author's snippets give widths and order: opening to
    half the image's rows, bilinear resize, 7x7 convolution, stride-2 convolutions to 256 channels,
    the blocks, transposed convolutions back, 7x7 convolution, tanh.

    Ours: batch norm where he has instance norm, which takes from every picture the colours it
    should tell from others'; the first 7x7 convolution stands before the resize (the same reach at
    a quarter of the cost); 256 rows get a third stride-2 convolution, of 32 channels, so that the
    blocks work at 32 rows as they do for 128; kernels of 3 and 4 in the blocks. A `frozen`
    descriptor sees the image at the paper's 256 rows; one that is trained along sees it at its own
    size, since nothing it learned asks for another. `channels` scales all widths; 64 are the first
    author's.
    """

    def __init__(self, height: int, width: int, channels: int = 64, frozen: bool = True):
        super().__init__()
        if height % 16 or width % 16:
            raise ValueError(f"height and width must be multiples of 16, not {height}x{width}")
        self.height, self.width = height, width
        self.descriptor = Descriptor(IMAGENET_ROWS if frozen else height, frozen)
        stages = min(max(round(math.log2(height / 32)), 2), 3)
        # At 128 rows: 64, 128, 256.
        widths = [4 * channels >> stage for stage in range(stages, -1, -1)]
        self.join = Join(2048, 3 * JOINTS)
        self.opening = Opening(2048 + 3 * JOINTS, channels, height // 2, width / height)
        self.spread = nn.Sequential(
            nn.Conv2d(self.opening.channels, widths[0], 7, padding=3, padding_mode="reflect"),
            nn.BatchNorm2d(widths[0]),
            nn.LeakyReLU(0.1, inplace=True),
        )
        self.down = nn.Sequential(*(down(a, b) for a, b in pairwise(widths)))
        self.blocks = nn.Sequential(*(ResidualBlock(4 * channels) for _ in range(9)))
        widths.reverse()
        self.up = nn.Sequential(
            *(nn.Sequential(up(a, b), nn.LeakyReLU(0.1, inplace=True)) for a, b in pairwise(widths))
        )
        self.image = nn.Conv2d(widths[-1], 3, 7, padding=3, padding_mode="reflect")

    def forward(
        self, source: Tensor, target_pose: Tensor, source_pose: Tensor | None = None
    ) -> Tensor:
        # For 128x64: H, W = 128, 64; the blocks work at H/4 x W/4.
        pose = pose_vector(target_pose, self.height, self.width)  # (B, 75)
        z = self.join(self.descriptor(source), pose)  # (B, 2123)
        x = self.spread(self.opening(z[:, :, None, None]))  # (B, 64, H/2, W/2)
        x = F.interpolate(x, (self.height, self.width), mode="bilinear")  # (B, 64, H, W)
        x = self.blocks(self.down(x))  # (B, 256, H/4, W/4)
        return torch.tanh(self.image(self.up(x)))  # (B, 3, H, W)


class Discriminator(nn.Module):
    """RPT-GAN's discriminator: Conv-ReLU-Pool, then real/fake (B,) and identity (B, identities).

    Both are logits. Widths, instance norm and the slope of the leaky ReLU are the first author's.
    Ours: kernels of 3, average pooling (max pooling hides most of the image from the gradient),
    and a last pool to at most 4 rows, so that the fully connected part fits every image size.
    """

    def __init__(self, height: int, width: int, identities: int, channels: int = 64):
        super().__init__()
        widths = (3, *(channels * times for times in (1, 2, 4, 8, 8)))
        layers = []
        for before, after in pairwise(widths):
            layers += [
                nn.Conv2d(before, after, 3, padding=1),
                instance_norm(after) if before > 3 else nn.Identity(),
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


def discriminator_loss(
    real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor], identity: Tensor, label: Tensor
) -> Tensor:
    """Binary cross-entropy of real/fake plus categorical cross-entropy of the identity (RPT-GAN).

    real and fake are the discriminator's outputs, identity (B,) class numbers, label (B,) what
    "real" is called: the first author draws it from U(0.8, 1.1); ours from U(0.8, 1), the part of
    it that cross-entropy allows. As in his snippets fakes are classified too.
    """
    adversarial = F.binary_cross_entropy_with_logits(real[0], label)
    adversarial = adversarial + F.binary_cross_entropy_with_logits(
        fake[0], torch.zeros_like(fake[0])
    )
    return adversarial + F.cross_entropy(real[1], identity) + F.cross_entropy(fake[1], identity)


def generator_loss(
    generated: Tensor, target: Tensor, fake: tuple[Tensor, Tensor], identity: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean squared error and the negative discriminator loss (RPT-GAN), for the caller to weigh.

    Ours: the second in its non-saturating form, real/fake and identity as the discriminator should
    see them, because the negated cross-entropy has no gradient where the generator is worst.
    """
    reconstruction = F.mse_loss(generated, target)
    adversarial = F.binary_cross_entropy_with_logits(fake[0], torch.ones_like(fake[0]))
    return reconstruction, adversarial + F.cross_entropy(fake[1], identity)


GENERATORS = {"residual": ResidualGenerator}
