"""Losses, and the objective that each generator descends.

Images are (B, 3, H, W) in [-1, 1]; poses are (B, 25, 3): x and y in pixels and a confidence, 0 for
a missing joint.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posegan import metrics
from posegan.augment import drop_outside, move_pose, smooth_flow, warp
from posegan.models import (
    PARTS,
    Correspondence,
    Descriptor,
    Discriminator,
    FlowGenerator,
    PatchDiscriminator,
    Synthesis,
    limb_maps,
)
from posegan.poses import UNKNOWN_PART

HIDDEN_PRICE = 0.35  # mean absolute error from which on a place counts as hidden; images span 2
UNTOLD_SHARE = 0.3  # of the sources whose pose `flow` is not told in training


# ------------------------------------------------------------------------------ losses


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


def similarity_loss(generated: Tensor, target: Tensor) -> Tensor:
    """One minus the mean SSIM of images (B, 3, H, W) in [-1, 1], by the recipe `wang`."""
    with torch.autocast(target.device.type, enabled=False):  # bfloat16 knows no variances
        # Rows first, and black is 0.
        x, y = (image.float().permute(2, 0, 1, 3) + 1 for image in (generated, target))
        return 1 - metrics.similarity(x, y, metrics.RECIPES["wang"], data_range=2.0).mean()


def photometric_loss(source: Tensor, target: Tensor, found: Correspondence) -> Tensor:
    """Does the flow bring source pixels to where the target has the same? With what is hidden.

    Brightness constancy as in UnFlow, at 1/8, 1/4 and 1/2: a visible place pays the absolute
    difference, a hidden one HIDDEN_PRICE, so that visibility learns to tell them apart.
    """
    loss = 0
    for scale, flow, visibility in zip((8, 4, 2), found.flows, found.visibilities):
        moved = warp(F.avg_pool2d(source, scale), flow)
        error = (moved - F.avg_pool2d(target, scale)).abs().mean(1, keepdim=True)
        loss = loss + (visibility * error + (1 - visibility) * HIDDEN_PRICE).mean()
    return loss / 3


def smoothness_loss(found: Correspondence) -> Tensor:
    """Mean absolute difference of neighbouring flows at 1/8, 1/4 and 1/2, in their pixels."""
    loss = 0
    for flow in found.flows[:3]:
        loss = loss + flow.diff(dim=2).abs().mean() + flow.diff(dim=3).abs().mean()
    return loss / 3


def random_deformation(count: int, height: int, width: int, device: torch.device) -> Tensor:
    """Smooth random flows (count, 2, height, width) in pixels, from the global generator.

    Through 4x3 knots that move by up to a quarter of the way to the next.
    """
    knots = (2 * torch.rand(count, 2, 4, 3, device=device) - 1) / 4
    return smooth_flow(knots, height, width)


def deformation_error(generator: FlowGenerator, source: Tensor, source_pose: Tensor) -> Tensor:
    """The flow's mean end-point error in pixels on the body, for a known deformation of the source.

    The estimator is asked how the source, in its own pose, comes into the deformed one. It can't
    know what the deformation did to the background, so only the body counts.
    """
    B, _, H, W = source.shape
    truth = random_deformation(B, H, W, source.device)
    moved = drop_outside(move_pose(source_pose, truth), H, W)
    found = generator.correspondence(source, moved, source_pose)[2]
    error = 0
    for scale, flow in zip((8, 4, 2), found.flows):
        body = limb_maps(moved, H, W, scale).amax(1)  # (B, H/s, W/s)
        distance = (scale * flow - F.avg_pool2d(truth, scale)).square().sum(1).add(1e-4).sqrt()
        error = error + (distance * body).sum() / body.sum().clamp(min=1)
    return error / 3


def layout_loss(layout: Tensor, parsing: Tensor) -> Tensor:
    """Cross-entropy of a part layout (B, PARTS, h, w) with parsing maps uint8 (B, H, W).

    Each place counts as the pixel in its middle; places of unknown part don't count. Parts beyond
    PARTS - 1 are taken for the last.
    """
    scale = parsing.shape[1] // layout.shape[2]
    wanted = parsing[:, scale // 2 :: scale, scale // 2 :: scale].long()  # (B, h, w)
    unknown = wanted == UNKNOWN_PART
    wanted = wanted.clamp(max=PARTS - 1).masked_fill(unknown, -1)
    loss = F.cross_entropy(layout.float(), wanted, ignore_index=-1, reduction="sum")
    return loss / (~unknown).sum().clamp(min=1)


def perceptual_loss(descriptor: Descriptor, generated: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of ResNet-50's features after its first two stages."""
    with torch.no_grad():
        wanted = descriptor.early(target)
    made = descriptor.early(generated)
    return sum(F.l1_loss(a.float(), b.float()) for a, b in zip(made, wanted))


# ------------------------------------------------------------------------------ objectives
# What a model descends. Every generator comes with three functions, which the loop calls:
# synthesise(generator, batch) gives the image and what else its losses want,
# discriminate(discriminator, batch, image) the discriminator's loss,
# criticise(generator, discriminator, batch, image, made) the generator's, by name, unweighted.


def synthesise_image(generator: nn.Module, batch: dict) -> tuple[Tensor, None]:
    """The image of a batch, float32, and nothing else."""
    poses = batch["target_pose"], batch["source_pose"]
    return generator(batch["source"], *poses).float(), None


def synthesise_all(generator: FlowGenerator, batch: dict) -> tuple[Tensor, Synthesis]:
    """The image of a batch and its Synthesis; of some sources the pose is not told.

    So the generator learns to do without, as its user may have no source pose.
    """
    told = torch.rand(len(batch["source"]), 1, 1, device=batch["source"].device) >= UNTOLD_SHARE
    made = generator.synthesise(batch["source"], batch["target_pose"], batch["source_pose"] * told)
    return made.image, made


def discriminate_identity(discriminator: nn.Module, batch: dict, image: Tensor) -> Tensor:
    """RPT-GAN: real or fake, and whose identity."""
    label = torch.empty(len(image), device=image.device).uniform_(0.8, 1.0)
    real, fake = (as_float(discriminator(x)) for x in (batch["target"], image))
    return discriminator_loss(real, fake, batch["identity"], label)


def discriminate_patches(discriminator: PatchDiscriminator, batch: dict, image: Tensor) -> Tensor:
    """The hinge loss on patches, given source and poses."""
    maps = discriminator.maps(batch["source_pose"], batch["target_pose"])
    real, fake = (
        discriminator(x, batch["source"], maps)[0].float() for x in (batch["target"], image)
    )
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def criticise_residual(
    generator: nn.Module, discriminator: nn.Module, batch: dict, image: Tensor, made: None
) -> dict[str, Tensor]:
    """RPT-GAN's losses: `reconstruction` and `adversarial`."""
    fake = as_float(discriminator(image))
    names = ("reconstruction", "adversarial")
    return dict(zip(names, generator_loss(image, batch["target"], fake, batch["identity"])))


def criticise_unet(
    generator: nn.Module, discriminator: nn.Module, batch: dict, image: Tensor, made: None
) -> dict[str, Tensor]:
    """pix2pix's losses: `reconstruction`, the absolute error, and `adversarial`."""
    maps = discriminator.maps(batch["source_pose"], batch["target_pose"])
    fake, _ = discriminator(image, batch["source"], maps)
    return {
        "reconstruction": F.l1_loss(image, batch["target"]),
        "adversarial": -fake.float().mean(),
    }


def criticise_flow(
    generator: FlowGenerator,
    discriminator: PatchDiscriminator,
    batch: dict,
    image: Tensor,
    made: Synthesis,
) -> dict[str, Tensor]:
    """The losses of `flow`, each described in the README's table of weights."""
    source, target = batch["source"], batch["target"]
    maps = discriminator.maps(batch["source_pose"], batch["target_pose"])
    fake, features = discriminator(image, source, maps)
    with torch.no_grad():
        _, wanted = discriminator(target, source, maps)
    parsed = "target_parsing" in batch
    few = slice(max(1, len(source) // 4))  # the deformed ones: enough, at a quarter of the cost
    losses = {"layout": layout_loss(made.layout, batch["target_parsing"])} if parsed else {}
    return losses | {
        "reconstruction": F.l1_loss(image, target),
        "similarity": similarity_loss(image, target),
        "coarse": F.l1_loss(made.coarse.float(), F.avg_pool2d(target, 4)),
        "adversarial": -fake.float().mean(),
        "matching": sum(F.l1_loss(a.float(), b.float()) for a, b in zip(features, wanted)) / 4,
        "photometric": photometric_loss(source, target, made.found),
        "smoothness": smoothness_loss(made.found),
        "deformation": deformation_error(generator, source[few], batch["source_pose"][few]),
    }


def as_float(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # Losses are computed in float32 whatever the networks compute in.
    return tuple(output.float() for output in outputs)


class Objective(NamedTuple):
    """How a generator is trained: its opponent and its losses."""

    discriminator: Callable[..., nn.Module]  # of height, width, identities, channels
    synthesise: Callable
    discriminate: Callable
    criticise: Callable
    discriminator_rate: float = 1.0  # times the generator's learning rate


def patches(height: int, width: int, identities: int, channels: int) -> PatchDiscriminator:
    # Identities are RPT-GAN's.
    return PatchDiscriminator(height, width, channels)


OBJECTIVES = {
    "residual": Objective(
        Discriminator, synthesise_image, discriminate_identity, criticise_residual
    ),
    "unet": Objective(patches, synthesise_image, discriminate_patches, criticise_unet),
    "flow": Objective(patches, synthesise_all, discriminate_patches, criticise_flow, 0.4),
}
