"""Losses, and the objective of each generator.

Images are (B, 3, H, W) in [-1, 1]; poses are (B, 25, 3): x and y in pixels and a confidence, 0 for
a missing joint.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posegan import augment, metrics, models
from posegan.augment import POSE_MAPS, pose_maps, warp
from posegan.models import Correspondence, Synthesis
from posegan.poses import JOINTS, UNKNOWN_PART

TOLD, LABEL, KNOTS = -26, -25, -24  # indices of the losses' random draws
DEFORMED_EVERY = 10  # one step in so many deforms its sources, to teach the flow
DOWN_AND_ACROSS = (-1.0, 0.0, 1.0, 0.0, -1.0, 1.0, 0.0, 0.0)  # two kernels of 2x2
HIDDEN_PRICE = 0.35  # mean absolute error above which a position counts as hidden; images span 2
NEAR = 0.65  # value of a limb's map that a pixel of the person has at least: about mask-SSIM's
UNTOLD_SHARE = 0.3  # of the training sources whose pose is withheld from `flow`


# ------------------------------------------------------------------------------ losses


def similarity_loss(generated: Tensor, target: Tensor) -> Tensor:
    """One minus the SSIM (B,) of images (B, 3, H, W) in [-1, 1], by the recipe `wang`."""
    with augment.in_float32(target):  # bfloat16 is too coarse for variances
        # Rows first, with black at 0.
        x, y = (image.float().permute(2, 0, 1, 3) + 1 for image in (generated, target))
        return 1 - metrics.similarity(x, y, metrics.RECIPES["wang"], data_range=2.0)


def similarity_losses(generated: Tensor, target: Tensor, person: Tensor) -> tuple[Tensor, Tensor]:
    """The mean `similarity_loss` of whole images, and of the `person` (B, 1, H, W) on black."""
    both = (torch.cat([x, x.masked_fill(~person, -1)]) for x in (generated, target))
    return similarity_loss(*both).view(2, -1).mean(1).unbind()


def gradients(maps: Tensor) -> Tensor:
    """Differences to the next row and the next column: (B, C, H, W) to (B, 2C, H - 1, W - 1)."""
    count = maps.shape[1]
    kernels = augment.constant(DOWN_AND_ACROSS * count, maps.device).view(2 * count, 1, 2, 2)
    with augment.in_float32(maps):
        return F.conv2d(maps.float(), kernels, groups=count)


def gradient_loss(generated: Tensor, target: Tensor) -> Tensor:
    """How much images (B, 3, H, W) differ from their targets in local detail.

    The difference of absolute gradients, down and across, averaged over 8x8 windows: a slightly
    shifted edge costs nothing, but blur does, which SSIM and absolute error reward.
    """
    sizes = gradients(torch.cat([generated.float(), target])).abs()
    found, wanted = F.avg_pool2d(sizes, 8, 4).chunk(2)
    return 2 * F.l1_loss(found, wanted)


def contrast_loss(generated: Tensor, target: Tensor, person: Tensor) -> Tensor:
    """How much the contrast of images (B, 3, H, W) differs from their targets', but for the person
    (B, 1, H, W).

    The absolute difference of standard deviations, by channel, in windows of up to 32x32. Nobody
    can know the background; absolute error and SSIM reward a paler one than any real.
    """
    generated = target.where(person, generated)
    side = min(32, *target.shape[2:])
    with augment.in_float32(target):
        images = torch.cat([generated.float(), target])
        windows = images.unfold(2, side, side // 2).unfold(3, side, side // 2)
        found, wanted = windows.std((4, 5), correction=0).chunk(2)
        return F.l1_loss(found, wanted)


def photometric_loss(source: Tensor, target: Tensor, found: Correspondence) -> Tensor:
    """How well the source, warped by the flow, matches the target.

    As in UnFlow, at 1/8, 1/4 and 1/2; a visible position pays the absolute difference, a hidden
    one HIDDEN_PRICE, so that the visibility is learned.
    """
    losses = []
    for scale, flow, visibility in zip((8, 4, 2), found.flows, found.visibilities):
        moved = warp(F.avg_pool2d(source, scale), flow)
        error = (moved - F.avg_pool2d(target, scale)).abs().mean(1, keepdim=True)
        losses.append((visibility * (error - HIDDEN_PRICE)).mean())
    return torch.stack(losses).mean() + HIDDEN_PRICE


def smoothness_loss(found: Correspondence) -> Tensor:
    """Mean absolute difference of neighbouring flows at 1/8, 1/4 and 1/2, in pixels of each."""
    sizes = [gradients(flow).abs().mean() for flow in found.flows[:3]]
    return 2 * torch.stack(sizes).mean()


def deformation_error(generator: models.FlowGenerator, batch: dict) -> Tensor:
    """The flow's mean end-point error in pixels on the body, for a known deformation of the source.

    The flow from the source's own pose to the deformed one is estimated; the deformation has 4x3
    knots that move up to a quarter of the way to the next. The background's flow does not follow
    from the poses, so only the body counts.
    """
    H, W = batch["source"].shape[-2:]
    knots = batch["draws"][:, KNOTS:].unflatten(1, (2, 4, 3))
    truth = augment.smooth_flow((2 * knots - 1) / 4, H, W)  # (B, 2, H, W)
    moved = augment.Geometry(flow=truth).move_pose(batch["source_pose"], H, W)
    known = batch["maps"][:, :POSE_MAPS]  # of the source's pose
    found = generator.correspondence(batch["source"], generator.maps(moved), known)[2]
    errors = []
    for scale, flow in zip((8, 4, 2), found.flows):
        body = pose_maps(moved, H, W, scale)[:, len(JOINTS) :].amax(1)  # (B, H/s, W/s)
        distance = (scale * flow - F.avg_pool2d(truth, scale)).square().sum(1).add(1e-4).sqrt()
        errors.append((distance * body).sum((1, 2)) / body.sum((1, 2)).clamp(min=1))
    return torch.stack(errors).mean()


def layout_loss(layout: Tensor, parsing: Tensor) -> Tensor:
    """Cross-entropy of a part layout (B, PARTS, h, w) with parsing maps uint8 (B, H, W).

    Each position is compared with its central pixel; unknown pixels don't count, and labels beyond
    PARTS count as the last.
    """
    scale = parsing.shape[1] // layout.shape[2]
    wanted = parsing[:, scale // 2 :: scale, scale // 2 :: scale].long()  # (B, h, w)
    unknown = wanted == UNKNOWN_PART
    wanted = wanted.clamp(max=models.PARTS - 1).masked_fill(unknown, -1)
    loss = F.cross_entropy(layout.float(), wanted, ignore_index=-1, reduction="sum")
    return loss / (~unknown).sum().clamp(min=1)


def perceptual_loss(generated: list[Tensor], target: list[Tensor]) -> Tensor:
    """The mean squared distance of unit features (B, C, h, w), summed over the scales.

    LPIPS without its learned weights (Zhang et al., CVPR 2018).
    """
    return sum((a - b).square().sum(1).mean() for a, b in zip(generated, target))


def hinge(real: list[Tensor], fake: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The hinge losses of a discriminator and a generator, averaged over the lists of logits."""
    right = [F.relu(1 - a.float()).mean() for a in real]
    wrong = [F.relu(1 + b.float()).mean() for b in fake]
    of_discriminator = torch.stack(right + wrong).sum() / len(real)
    return of_discriminator, -torch.stack([b.float().mean() for b in fake]).mean()


# ------------------------------------------------------------------------------ objectives
# Each generator has two functions, which the loop calls: synthesise(generator, batch) returns the
# image, float32, and whatever else its losses need, and judge(networks, batch, image, made) the
# discriminator's loss and the generator's losses, by name, unweighted.

Judged = tuple[Tensor | None, dict[str, Tensor]]


class Networks(NamedTuple):
    """The networks whose losses are computed."""

    generator: nn.Module
    discriminator: nn.Module | None  # None: not used yet
    features: nn.Module | None  # frozen


def complete(batch: dict, step: int) -> dict:
    """A batch with its `step`, and the `maps` of both poses, (B, 2 * POSE_MAPS, H/4, W/4)."""
    H, W = batch["source"].shape[2:]
    poses = torch.cat([batch["source_pose"], batch["target_pose"]])
    maps = torch.cat(pose_maps(poses, H, W, 4).chunk(2), dim=1)
    return batch | {"maps": maps, "step": step}


def synthesise_image(generator: nn.Module, batch: dict) -> tuple[Tensor, None]:
    """The image of a batch and nothing else; made from the `described` sources if there are any."""
    if "described" in batch:
        return generator.draw(batch["described"], batch["target_pose"]).float(), None
    poses = batch["target_pose"], batch["source_pose"]
    return generator(batch["source"], *poses).float(), None


def synthesise_all(generator: models.FlowGenerator, batch: dict) -> tuple[Tensor, Synthesis]:
    """The image of a batch and its Synthesis; some source poses are withheld, as users may."""
    told = (batch["draws"][:, TOLD] >= UNTOLD_SHARE)[:, None, None, None]
    of_source, of_target = batch["maps"].chunk(2, dim=1)  # (B, POSE_MAPS, H/4, W/4)
    made = generator.synthesise_from(batch["source"], of_target, of_source * told)
    return made.image, made


def judge_identity(networks: Networks, batch: dict, image: Tensor, made: None) -> Judged:
    """RPT-GAN's losses: `reconstruction`, squared, and `adversarial`: real or fake, and identity.

    The first author draws the label of real images from U(0.8, 1.1); ours from U(0.8, 1), which
    cross-entropy allows. As in his snippets, fakes are classified too. Ours: the generator's loss
    is non-saturating, with real/fake and identity as the discriminator should see them, because
    the negated cross-entropy has no gradient where the generator is worst.
    """
    binary, target = F.binary_cross_entropy_with_logits, batch["target"]
    (real, person), (fake, who) = (networks.discriminator(x) for x in (target, image))
    real, fake = real.float(), fake.float()
    label = 0.8 + 0.2 * batch["draws"][:, LABEL]
    of_real = binary(real, label) + F.cross_entropy(person.float(), batch["identity"])
    recognised = F.cross_entropy(who.float(), batch["identity"])
    terms = {
        "reconstruction": F.mse_loss(image, target),
        "adversarial": binary(fake, torch.ones_like(fake)) + recognised,
    }
    return of_real + binary(fake, torch.zeros_like(fake)) + recognised, terms


def judge_patches(networks: Networks, batch: dict, image: Tensor, made: object) -> Judged:
    """pix2pix's losses: `reconstruction`, the absolute error, and `adversarial`, on patches."""
    source, target, maps = batch["source"], batch["target"], batch["maps"]
    terms = {"reconstruction": F.l1_loss(image, target)}
    if networks.features is not None:
        of_discriminator, others = judge_features(networks, batch, image)
        return of_discriminator, terms | others
    real, wanted = networks.discriminator(target, source, maps)
    fake, features = networks.discriminator(image, source, maps)
    of_discriminator, terms["adversarial"] = hinge([real], [fake])
    both = zip(features, wanted)
    matching = [F.l1_loss(a.float(), b.detach().float()) for a, b in both]
    terms["matching"] = torch.stack(matching).mean()
    return of_discriminator, terms


def judge_features(networks: Networks, batch: dict, image: Tensor) -> Judged:
    """Losses on frozen features: `perceptual`, and `adversarial` by a projected discriminator."""
    # In float32: bfloat16 is too coarse for unit features, and the network is small.
    with augment.in_float32(image):
        with torch.no_grad():
            known = networks.features(torch.cat([batch["source"], batch["target"]]))
        source, target = zip(*(F.normalize(x, dim=1).chunk(2) for x in known))
        generated = [F.normalize(x, dim=1) for x in networks.features(image)]
    terms = {"perceptual": perceptual_loss(generated, target)}
    if networks.discriminator is None:
        return None, terms
    beside, real, fake = map(networks.discriminator.mix, (source, target, generated))
    real, fake = networks.discriminator([real, fake], beside, batch["maps"])
    of_discriminator, terms["adversarial"] = hinge(real, fake)
    return of_discriminator, terms


def judge_residual(networks: Networks, batch: dict, image: Tensor, made: None) -> Judged:
    """RPT-GAN's losses, or losses on frozen features if there are any."""
    if networks.features is None:
        return judge_identity(networks, batch, image, made)
    of_discriminator, terms = judge_patches(networks, batch, image, made)
    similarity = similarity_loss(image, batch["target"]).mean()
    return of_discriminator, terms | {"similarity": similarity}


def judge_flow(networks: Networks, batch: dict, image: Tensor, made: Synthesis) -> Judged:
    """The losses of `flow`, which EXPERIMENTS.md's table of weights describes."""
    source, target = batch["source"], batch["target"]
    of_discriminator, terms = judge_patches(networks, batch, image, made)
    if "target_parsing" in batch:
        terms["layout"] = layout_loss(made.layout, batch["target_parsing"])
    if batch["step"] % DEFORMED_EVERY == 0:  # an extra flow estimate: rare, but weighted up
        terms["deformation"] = DEFORMED_EVERY * deformation_error(networks.generator, batch)
    coarse = networks.generator.garment_net.draw(made.garment).float()
    limbs = batch["maps"][:, POSE_MAPS + len(JOINTS) :].amax(1, keepdim=True)  # (B, 1, H/4, W/4)
    near = F.interpolate(limbs, image.shape[2:]) > NEAR
    similarity, person = similarity_losses(image, target, near)
    return of_discriminator, terms | {
        "similarity": similarity,
        "person": person,
        "gradients": gradient_loss(image, target),
        "contrast": contrast_loss(image, target, near),
        "coarse": F.l1_loss(coarse, F.avg_pool2d(target, 4)),
        "photometric": photometric_loss(source, target, made.found),
        "smoothness": smoothness_loss(made.found),
    }


class Objective(NamedTuple):
    """How a generator is trained: what it makes, its losses, its discriminator's learning rate."""

    synthesise: Callable
    judge: Callable
    discriminator_rate: float = 1.0  # times the generator's


OBJECTIVES = {
    "flow": Objective(synthesise_all, judge_flow, 0.4),
    "residual": Objective(synthesise_image, judge_residual),
    "unet": Objective(synthesise_image, judge_patches),
}
