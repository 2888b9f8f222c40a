"""Augmentation and corruption of batches: images together with their poses, on any device.

Images are (B, 3, H, W) in [-1, 1]; poses are (B, 25, 3): x and y in pixels and a confidence, 0 for
a missing joint. A sample's random draws depend on (seed, step, sample) alone, not on the batch.
"""

from collections.abc import Collection
from functools import cache
from math import log
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from posegan.poses import FLIP, JOINTS, LIMBS, UNKNOWN_PART
from posegan.recipes import AUGMENTATIONS

# RPT-GAN erases from the source only. Ours: the others also change the source only, so that the
# generator learns to undo them, except for a flip, which the input does not reveal: both change.
SHARES = {  # of the samples that each augmentation changes; the paper gives none
    "shrinking": 0.3,
    "erasing": 0.5,
    "crop": 0.3,
    "jitter": 0.8,
    "flip": 0.5,
    "distortion": 0.5,
}
# What augmented samples draw, uniformly: the augmentation, a name, the range, and the value of all
# other samples. `shrunk` and `cropped` are fractions of height and width, `area` of the picture;
# `aspect` is the logarithm of height over width; `hue` is in turns; `bent` is how far a knot moves
# at most, as a fraction of the distance to the next; `x` and `y` distribute the spare room.
PARAMETERS = (
    *(("shrinking", "shrunk", 0.6, 1.0, 1.0), ("shrinking", "shrinking_x", -1.0, 1.0, 0.0)),
    *(("shrinking", "shrinking_y", -1.0, 1.0, 0.0), ("erasing", "area", 0.02, 0.25, 0.0)),
    *(("erasing", "aspect", log(0.4), log(2.5), 0.0), ("erasing", "erasing_x", 0.0, 1.0, 0.0)),
    *(("erasing", "erasing_y", 0.0, 1.0, 0.0), ("crop", "cropped", 0.6, 1.0, 1.0)),
    *(("crop", "crop_x", -1.0, 1.0, 0.0), ("crop", "crop_y", -1.0, 1.0, 0.0)),
    *(("jitter", "brightness", 0.7, 1.3, 1.0), ("jitter", "contrast", 0.7, 1.3, 1.0)),
    *(("jitter", "saturation", 0.7, 1.3, 1.0), ("jitter", "hue", -0.05, 0.05, 0.0)),
    *(("flip", "flipped", 1.0, 1.0, 0.0), ("distortion", "bent", 0.2, 0.2, 0.0)),
)
KNOTS = (5, 4)  # rows and columns of the coarse grid
GREY = (0.299, 0.587, 0.114)  # luma of red, green and blue
DRAWS = len(AUGMENTATIONS) + len(PARAMETERS)  # per sample: which augmentations, and how
SPARE = 26  # draws for the losses, after those of the knots
POSE_MAPS = len(JOINTS) + len(LIMBS)
POSE_NEAR = 8  # heights⁻¹: how finely a position resolves the joints around it
# The pose maps: each joint, then each limb from joint to joint, with their relative widths.
STARTS, ENDS = zip(*((joint, joint) for joint in range(len(JOINTS))), *LIMBS)
WIDTHS = (1.0,) * len(JOINTS) + (1.5,) * len(LIMBS)


@cache
def constant(values: tuple, device: torch.device) -> Tensor:
    """A tensor of these numbers, cached per device: recreating it would synchronise."""
    with torch.inference_mode(False):  # else training could not use it later
        return torch.tensor(values, device=device)


def in_float32(tensor: Tensor) -> torch.autocast:
    """Switches mixed precision off on the tensor's device; autocast has no meta device."""
    return torch.autocast("cpu" if tensor.is_meta else tensor.device.type, enabled=False)


# ------------------------------------------------------------------------------ geometry


@cache
def pixel_grid(height: int, width: int, device: torch.device) -> Tensor:
    """x and y of every pixel: (2, height, width)."""
    with torch.inference_mode(False):  # as constant()
        x, y = torch.arange(width, device=device), torch.arange(height, device=device)
        return torch.stack(torch.meshgrid(x, y, indexing="xy")).float()


def sampling(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and origin (2,) that map pixels, x and y, to `sample`'s coordinates."""
    pairs = (2 / width, 2 / height), (1 / width - 1, 1 / height - 1)
    return tuple(constant(pair, device) for pair in pairs)


def sample(images: Tensor, at: Tensor, padding: str = "border") -> Tensor:
    """Sample images (B, C, H, W) bilinearly at points (B, h, w, 2), -1 to 1 from edge to edge."""
    found = F.grid_sample(images.to(at.dtype), at, padding_mode=padding, align_corners=False)
    return found.to(images.dtype)  # (B, C, h, w)


@cache
def sampling_grid(height: int, width: int, device: torch.device) -> Tensor:
    """Every pixel in `sample`'s coordinates: (height, width, 2)."""
    with torch.inference_mode(False):  # as constant()
        scale, origin = sampling(height, width, device)
        return torch.addcmul(origin, pixel_grid(height, width, device).permute(1, 2, 0), scale)


def pointed(flow: Tensor) -> Tensor:
    """Where a flow (B, 2, H, W) points, in `sample`'s coordinates: (B, H, W, 2)."""
    size = *flow.shape[-2:], flow.device
    return torch.addcmul(sampling_grid(*size), flow.permute(0, 2, 3, 1), sampling(*size)[0])


def warp(images: Tensor, flow: Tensor) -> Tensor:
    """Warp images (B, C, H, W) by a flow (B, 2, H, W) of dx, dy in pixels, replicating borders: a
    flow of (1, 0) shows each pixel's right neighbour.
    """
    return sample(images, pointed(flow))


def smooth_flow(knots: Tensor, height: int, width: int) -> Tensor:
    """A flow (B, 2, height, width) through knots (B, 2, rows, columns), bicubic between them.

    Knots are fractions of the distance to the next one; up to a quarter hardly ever folds a
    picture.
    """
    rows, columns = knots.shape[-2:]
    way = constant((width / (columns - 1), height / (rows - 1)), knots.device)
    down, across = bicubic(rows, height, knots.device), bicubic(columns, width, knots.device)
    with in_float32(knots):  # bfloat16 is too coarse for positions
        return down @ (knots * way[:, None, None]) @ across.T


@cache
def bicubic(count: int, size: int, device: torch.device) -> Tensor:
    """The matrix (size, count) that interpolates points bicubically, ends aligned."""
    with torch.inference_mode(False):  # as constant()
        points = torch.eye(count, device=device)[None, :, :, None]
        lines = F.interpolate(points, (size, 1), mode="bicubic", align_corners=True)
        return lines[0, :, :, 0].T.contiguous()


def flip_pose(pose: Tensor, width: int) -> Tensor:
    """Poses (B, 25, 3) of the mirrored pictures: x mirrored, left and right joints swapped."""
    pose = pose.index_select(1, constant(FLIP, pose.device))
    x = (width - 1 - pose[..., :1]).where(pose[..., 2:] > 0, 0)
    return torch.cat([x, pose[..., 1:]], dim=2)


# ------------------------------------------------------------------------------ draws


def mix(x: int | Tensor) -> int | Tensor:
    """Hash 32-bit numbers, int64 tensors or ints: a bijection whose bits depend on all bits."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    return x ^ (x >> 16)


def uniforms(seed: int, step: int, samples: Tensor, count: int) -> Tensor:
    """Random numbers in [0, 1), (B, count) float32, for seed, step and samples (B,)."""
    state = mix(mix(mix(seed & 0xFFFFFFFF) ^ (seed >> 32)) ^ step)
    state = mix(mix(samples + 1) ^ state)[:, None]  # (B, 1)
    places = torch.arange(1, count + 1, device=samples.device)
    return (mix(state ^ mix(places * 0x9E3779B1 & 0xFFFFFFFF)) >> 8).float() / 2**24


def as_knots(numbers: Tensor) -> Tensor:
    """Uniform numbers (B, 2 * rows * columns) as KNOTS in [-1, 1]: (B, 2, rows, columns)."""
    return (2 * numbers - 1).unflatten(1, (2, *KNOTS))


def draw(seed: int, step: int, samples: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """The random draws of a step's samples (B,): `draws` (B, N) in [0, 1), for `augment` and the
    losses, and `noise` (1, 3, H, W) in [-1, 1), which erased boxes show.
    """
    H, W = size
    numbers = uniforms(seed, step, samples, DRAWS + 2 * KNOTS[0] * KNOTS[1] + SPARE)
    rows = torch.arange(3 * H, device=samples.device) + 2**31  # beyond all sample numbers
    noise = uniforms(seed, step, rows, W).view(1, 3, H, W) * 2 - 1
    return {"draws": numbers, "noise": noise}


def parameters(draws: Tensor, names: Collection[str]) -> dict[str, Tensor]:
    """The samples' PARAMETERS, (B,) each, by name; the default if a sample is not augmented or the
    augmentation is not named.
    """
    whose, called, low, high, others = zip(*PARAMETERS)
    spans = tuple(end - start for start, end in zip(low, high))
    shares = tuple(SHARES[name] if name in names else 0.0 for name in whose)
    low, spans, others, shares = constant((low, spans, others, shares), draws.device)
    places = constant(tuple(map(AUGMENTATIONS.index, whose)), draws.device)
    taking = draws.index_select(1, places) < shares  # (B, P)
    values = torch.addcmul(low, draws[:, len(AUGMENTATIONS) : DRAWS], spans).where(taking, others)
    return dict(zip(called, values.unbind(1)))


# ------------------------------------------------------------------------------ transformations


class Geometry(NamedTuple):
    """Where pictures are sampled: at `scale` * (position + flow) + `shift`.

    Positions go from -1 to 1 from edge to edge; the flow (B, 2, H, W) is in pixels.
    """

    scale: Tensor | float = 1.0  # (B, 1, 1)
    shift: Tensor | float = 0.0  # (B, 1, 2)
    flow: Tensor | None = None

    def zoomed(self, factor: Tensor, place: Tensor) -> "Geometry":
        """Enlarge a fraction `factor` (B,) of the frame to the whole frame, or shrink the frame if
        it is above 1; `place` (B, 2) in [-1, 1] distributes the spare room.
        """
        factor = factor[:, None, None]
        shift = self.shift + self.scale * (1 - factor) * place[:, None]
        return self._replace(scale=self.scale * factor, shift=shift)

    def move(self, images: Tensor) -> Tensor:
        """Transform pictures (B, 3, H, W); black outside."""
        H, W = images.shape[-2:]
        at = sampling_grid(H, W, images.device) if self.flow is None else pointed(self.flow)
        at = self.scale * at.flatten(-3, -2) + self.shift  # (B, H * W, 2)
        return sample(images + 1, at.unflatten(1, (H, W)), "zeros").sub_(1)

    def move_pose(self, pose: Tensor, height: int, width: int) -> Tensor:
        """Transform poses (B, 25, 3) alike; joints that leave the frame become missing.

        A joint at s moves to t with t + flow(t) = s, found to 0.1 pixels unless the flow folds.
        """
        scale, origin = sampling(height, width, pose.device)
        place = (torch.addcmul(origin, pose[..., :2], scale) - self.shift) / self.scale
        if self.flow is not None:
            step, flow = 0, self.flow * scale[:, None, None]
            for _ in range(16):
                at = (place - step)[:, :, None]  # (B, 25, 1, 2)
                step = sample(flow, at).squeeze(3).transpose(1, 2)  # (B, 25, 2)
            place = place - step
        there = (place.abs() <= 1).all(-1) & (pose[..., 2] > 0)  # (B, 25)
        return torch.cat([(place - origin) / scale, pose[..., 2:]], dim=2) * there[..., None]


def erase(images: Tensor, boxes: Tensor, noise: Tensor) -> Tensor:
    """Fill boxes (B, 4) top, left, bottom, right in pixels of images with noise (1, 3, H, W)."""
    H, W = images.shape[-2:]
    y, x = (torch.arange(size, device=images.device) for size in (H, W))
    top, left, bottom, right = boxes.T[..., None]  # (B, 1)
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)  # (B, H), (B, W)
    return torch.where((rows[:, :, None] & columns[:, None])[:, None], noise, images)


def recolour(images: Tensor, factors: dict[str, Tensor]) -> Tensor:
    """Brightness, contrast, saturation (factors (B,), 1: none) and hue (turns, 0: none) at once.

    All are linear in red, green and blue, except for the mean grey that contrast scales about: one
    3x3 matrix and one offset per picture. Hue rotates about the grey axis.
    """
    names = ("brightness", "contrast", "saturation", "hue")
    brightness, contrast, saturation, hue = (factors[name][:, None, None] for name in names)
    grey, eye = constant(GREY, images.device), torch.eye(3, device=images.device)
    angle = hue * (2 * torch.pi)
    axis = torch.full_like(eye, 1 / 3)
    cross = constant(((0, -1, 1), (1, 0, -1), (-1, 1, 0)), images.device) / 3**0.5
    turn = axis + angle.cos() * (eye - axis) + angle.sin() * cross  # (B, 3, 3), Rodrigues
    linear = brightness * (turn @ (saturation * eye + (1 - saturation) * grey))
    mean = (linear @ (images.mean((2, 3)) + 1)[..., None]).squeeze(2) @ grey  # (B,), in [0, 2]
    linear = contrast * linear
    # For pictures in [0, 2]: linear @ picture + (1 - contrast) * mean.
    offset = linear.sum(2) + ((1 - factors["contrast"]) * mean - 1)[:, None]  # (B, 3)
    changed = (linear @ images.flatten(2)).add_(offset[..., None]).clamp_(-1, 1)  # (B, 3, H * W)
    return changed.view_as(images)


# ------------------------------------------------------------------------------ augmentation


def augment(batch: dict[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Apply the named AUGMENTATIONS to a batch (`source`, `target`, their poses, `draw`'s numbers).

    All geometry is one resampling, all colour one matrix product; what is not named costs nothing.
    A flip is a mirrored copy instead: exact, and the target needs nothing else.
    """
    if not names:
        return batch
    batch, drawn = dict(batch), parameters(batch["draws"], names)
    source, target = batch["source"], batch["target"]
    H, W = source.shape[-2:]
    if "flip" in names:
        flipped = (drawn["flipped"] > 0)[:, None, None]
        unflipped = (1 - drawn["flipped"])[:, None, None, None]
        source, target = (x.flip(3).lerp_(x, unflipped) for x in (source, target))  # exact
        for name in ("source_pose", "target_pose"):
            batch[name] = flip_pose(batch[name], W).where(flipped, batch[name])
        if "target_parsing" in batch:  # which labels are left and right parts is unknown
            batch["target_parsing"] = batch["target_parsing"].masked_fill(flipped, UNKNOWN_PART)
    if "jitter" in names:
        source = recolour(source, drawn)
    if {"shrinking", "crop", "distortion"} & set(names):
        geometry = geometry_of(batch, drawn, names)
        source = geometry.move(source)
        batch["source_pose"] = geometry.move_pose(batch["source_pose"], H, W)
    if "erasing" in names:
        source = erase(source, boxes_of(drawn, H, W), batch["noise"])
    # Channels last, as they came: faster for convolutions.
    keep = {"memory_format": torch.channels_last}
    return batch | {"source": source.contiguous(**keep), "target": target.contiguous(**keep)}


def geometry_of(batch: dict, drawn: dict[str, Tensor], names: Collection[str]) -> Geometry:
    """The geometry of the named augmentations: crop, then shrink, then distort.

    It samples the whole source: around a crop, shrinking shows what the crop left out before it
    shows black.
    """
    geometry = Geometry()
    for name, factor in (("crop", drawn["cropped"]), ("shrinking", 1 / drawn["shrunk"])):
        place = torch.stack([drawn[f"{name}_x"], drawn[f"{name}_y"]], 1)
        geometry = geometry.zoomed(factor, place)
    if "distortion" in names:
        knots = as_knots(batch["draws"][:, DRAWS : DRAWS + 2 * KNOTS[0] * KNOTS[1]])
        knots = knots * drawn["bent"][:, None, None, None]
        geometry = geometry._replace(flow=smooth_flow(knots, *batch["source"].shape[-2:]))
    return geometry


def boxes_of(drawn: dict[str, Tensor], height: int, width: int) -> Tensor:
    """The boxes for `erase`, inside the picture; empty for samples that are not erased."""
    area = drawn["area"] * (height * width)
    rows = (area * drawn["aspect"].exp()).sqrt()
    columns = (area / rows.clamp(min=1)).clamp(max=width).floor()
    rows = rows.clamp(max=height).floor()
    top = (drawn["erasing_y"] * (height - rows + 1)).floor()
    left = (drawn["erasing_x"] * (width - columns + 1)).floor()
    return torch.stack([top, left, top + rows, left + columns], dim=1)


# ------------------------------------------------------------------------------ corruption

# Corruptions of a source at severities 1 to 5. Ours: the paper claims robustness against these
# four but measures none.
SEVERITIES = 5
CORRUPTIONS = {
    "occlusion": (0.05, 0.1, 0.2, 0.35, 0.5),  # of the picture, under one box of noise
    "scale": (0.9, 0.8, 0.7, 0.6, 0.5),  # zoom; alternately in and, with padding, out
    "illumination": (0.8, 0.65, 0.5, 0.38, 0.28),  # brightness; alternately darker and brighter
    "distortion": (0.05, 0.1, 0.15, 0.2, 0.25),  # of the distance to the next knot, at most
}


def every_corruption() -> list[tuple[str, int]]:
    """Each kind of corruption at each severity."""
    return [(kind, severity) for kind in CORRUPTIONS for severity in range(1, SEVERITIES + 1)]


def corrupt(
    source: Tensor, pose: Tensor, kind: str, severity: int, samples: Tensor
) -> tuple[Tensor, Tensor]:
    """Sources (B, 3, H, W) and their poses (B, 25, 3) under one of CORRUPTIONS, drawn per sample.

    A higher severity is more of the same change. Raises ValueError for other kinds and severities.
    """
    if (kind, severity) not in every_corruption():
        raise ValueError(f"there is no corruption {kind!r} of severity {severity}")
    H, W = source.shape[-2:]
    strength = CORRUPTIONS[kind][severity - 1]
    numbers = uniforms(0, list(CORRUPTIONS).index(kind), samples, 2 + 2 * KNOTS[0] * KNOTS[1])
    even = samples % 2 == 0
    if kind == "occlusion":
        rows, columns = (round(size * strength**0.5) for size in (H, W))
        # Near the middle, where the person is: a box in a corner would hide nothing.
        spare = constant((H - rows, W - columns), source.device)
        corner = (spare * (numbers[:, :2] + 0.5) / 2).round()  # (B, 2)
        boxes = torch.cat([corner, corner + constant((rows, columns), source.device)], dim=1)
        return erase(source, boxes, draw(0, 0, samples, (H, W))["noise"]), pose
    strengths = torch.full_like(numbers[:, 0], strength)
    factor = strengths.where(even, 1 / strength)
    if kind == "illumination":
        one = torch.ones_like(factor)
        factors = {"contrast": one, "saturation": strengths.sqrt(), "hue": 0 * one}
        return recolour(source, factors | {"brightness": factor}), pose
    if kind == "scale":
        geometry = Geometry().zoomed(factor, numbers[:, :2] - 0.5)
    else:
        geometry = Geometry(flow=smooth_flow(strength * as_knots(numbers[:, 2:]), H, W))
    return geometry.move(source), geometry.move_pose(pose, H, W)


# ------------------------------------------------------------------------------ poses as maps


def offsets(points: Tensor, height: int, width: int, scale: int) -> tuple[Tensor, Tensor]:
    """Distances of columns (B, N, w) and rows (B, N, h) at 1/scale from points (B, N, 2)."""
    points = (points + 0.5) / scale - 0.5  # pixel centres are at integers
    x, y = pixel_grid(height // scale, width // scale, points.device)
    return x[0] - points[..., :1], y[:, 0] - points[..., 1:]


def heatmaps(pose: Tensor, height: int, width: int) -> Tensor:
    """Gaussians at joints (B, 25, 3), with σ height / 32: (B, 25, height, width)."""
    sharpness = -0.5 / (height / 32) ** 2
    x, y = (torch.exp(d.square() * sharpness) for d in offsets(pose[..., :2], height, width, 1))
    y = y * (pose[..., 2:] > 0)
    return y[..., None] * x[..., None, :]  # (B, 25, h, w)


def pose_maps(pose: Tensor, height: int, width: int, scale: int = 1) -> Tensor:
    """Gaussians around joints and limbs: (B, POSE_MAPS, height / scale, width / scale)."""
    # A joint is a limb from itself to itself.
    ends = constant(STARTS + ENDS, pose.device)
    start, end = pose.index_select(1, ends).chunk(2, dim=1)  # (B, L, 3)
    there = (start[..., 2] > 0) & (end[..., 2] > 0)  # (B, L)
    along = (end - start)[..., :2] / scale  # (B, L, 2)
    x, y = offsets(start[..., :2], height, width, scale)  # (B, L, w), (B, L, h)
    # The limb's nearest point, as a fraction of its length: linear in x and y.
    share = along / along.square().sum(-1, keepdim=True).clamp(min=1e-6)  # (B, L, 2)
    place = (y * share[..., 1:])[..., None] + (x * share[..., :1])[..., None, :]
    place = place.clamp_(0, 1)  # (B, L, h, w)
    dx = x[..., None, :] - place * along[..., :1, None]
    dy = y[..., None] - place * along[..., 1:, None]
    distance = dx.square_().add_(dy.square_())
    wide = tuple(-0.5 / (w * height / scale / 32) ** 2 for w in WIDTHS)
    sharpness = constant(wide, pose.device)[:, None, None]
    # Far away e^-30 instead of denormal numbers, which are ten times as slow on a CPU.
    return distance.mul_(sharpness).clamp_(min=-30).exp_().mul_(there[..., None, None])


def pose_vector(pose: Tensor, height: int, width: int) -> Tensor:
    """Flatten poses (B, 25, 3) in pixels to (B, 75): x and y in [-1, 1] and a presence flag.

    RPT-GAN only says "pose vector". Ours: normalised, as raw pixels would drown features of order
    1, and flagged, as a missing joint must not look like one in the corner.
    """
    present = (pose[..., 2:] > 0).to(pose.dtype)  # (B, 25, 1)
    scale, origin = sampling(height, width, pose.device)
    xy = torch.addcmul(origin, pose[..., :2], scale)  # (B, 25, 2)
    return torch.cat([xy * present, present], dim=-1).flatten(1)  # (B, 75)


def pose_from_places(pose: Tensor, height: int, width: int, scale: int) -> Tensor:
    """The pose vector relative to each position: (B, 75, height / scale, width / scale).

    Each joint's x and y minus the position's, squashed to [-1, 1], and a presence flag.
    """
    present = (pose[..., 2:] > 0).to(pose.dtype)  # (B, 25, 1)
    near = POSE_NEAR * scale / height
    x, y = (torch.tanh(-near * d) * present for d in offsets(pose[..., :2], height, width, scale))
    size = height // scale, width // scale
    parts = x[:, :, None], y[..., None], present[..., None]
    return torch.cat([part.expand(-1, -1, *size) for part in parts], dim=1)
