"""Augmentation and corruption of batches: images and their poses, moved together, on any device.

Images are (B, 3, H, W) in [-1, 1]; poses are (B, 25, 3): x and y in pixels and a confidence, 0 for
a missing joint. What a sample draws follows from (seed, step, sample) alone, whatever the batch.
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

# RPT-GAN says of erasing that the target stays whole, and calls all six robustness; ours: so do the
# targets of the others, which lets the generator learn to undo them, but for a flip, which the
# input does not reveal: it changes source and target alike.
SHARES = {  # of the samples that an augmentation changes; the paper gives none
    "shrinking": 0.3,
    "erasing": 0.5,
    "crop": 0.3,
    "jitter": 0.8,
    "flip": 0.5,
    "distortion": 0.5,
}
# What the samples that take part draw, uniformly: the augmentation, a name, from and to, and what
# the others have. `shrunk` and `cropped` are parts of the frame in height and width, `area` one of
# the picture, `aspect` the logarithm of height over width, `hue` in turns, `bent` the way to the
# next knot that a knot moves at most; `x` and `y` share out the room that is left.
PARAMETERS = (
    *(("shrinking", "shrunk", 0.6, 1.0, 1.0), ("shrinking", "shrinking_x", 0.0, 1.0, 0.0)),
    *(("shrinking", "shrinking_y", 0.0, 1.0, 0.0), ("erasing", "area", 0.02, 0.25, 0.0)),
    *(("erasing", "aspect", log(0.4), log(2.5), 0.0), ("erasing", "erasing_x", 0.0, 1.0, 0.0)),
    *(("erasing", "erasing_y", 0.0, 1.0, 0.0), ("crop", "cropped", 0.6, 1.0, 1.0)),
    *(("crop", "crop_x", 0.0, 1.0, 0.0), ("crop", "crop_y", 0.0, 1.0, 0.0)),
    *(("jitter", "brightness", 0.7, 1.3, 1.0), ("jitter", "contrast", 0.7, 1.3, 1.0)),
    *(("jitter", "saturation", 0.7, 1.3, 1.0), ("jitter", "hue", -0.05, 0.05, 0.0)),
    *(("flip", "flipped", 1.0, 1.0, 0.0), ("distortion", "bent", 0.2, 0.2, 0.0)),
)
KNOTS = (5, 4)  # rows and columns of the coarse grid
GREY = (0.299, 0.587, 0.114)  # luma of red, green and blue
DRAWS = len(AUGMENTATIONS) + len(PARAMETERS)  # of a sample: who takes part, and how
SPARE = 26  # that losses take, behind those of the knots
POSE_MAPS = len(JOINTS) + len(LIMBS)
POSE_NEAR = 8  # heights⁻¹: how sharply a place tells the joints around it
# Of the pose maps: each joint, then each limb from joint to joint, and how wide it is.
STARTS = tuple(range(len(JOINTS))) + tuple(start for start, _ in LIMBS)
ENDS = tuple(range(len(JOINTS))) + tuple(end for _, end in LIMBS)
WIDTHS = (1.0,) * len(JOINTS) + (1.5,) * len(LIMBS)


@cache
def constant(values: tuple, device: torch.device) -> Tensor:
    """A tensor of these numbers, made once per device: recreating it would synchronise."""
    with torch.inference_mode(False):  # or training could not use it later
        return torch.tensor(values, device=device)


def in_float32(tensor: Tensor) -> torch.autocast:
    """Switches mixed precision off where the tensor is; it knows no meta device."""
    return torch.autocast("cpu" if tensor.is_meta else tensor.device.type, enabled=False)


# ------------------------------------------------------------------------------ geometry


@cache
def pixel_grid(height: int, width: int, device: torch.device) -> Tensor:
    """x and y of every pixel: (2, height, width)."""
    with torch.inference_mode(False):  # as constant()
        x, y = torch.arange(width, device=device), torch.arange(height, device=device)
        return torch.stack(torch.meshgrid(x, y, indexing="xy")).float()


def look_up(images: Tensor, at: Tensor, padding: str = "border") -> Tensor:
    """Images (B, C, H, W) at points (B, 2, h, w), x and y in their pixels: (B, C, h, w), bilinear.

    Beyond the border the border goes on, or `padding` "zeros" are found.
    """
    scale, origin = sampling(images)
    return sample(images, torch.addcmul(origin, at.permute(0, 2, 3, 1), scale), padding)


def sampling(images: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and origin (2,) that take pixels of images (B, C, H, W) to what `sample` wants."""
    H, W = images.shape[-2:]
    return (
        constant((2 / W, 2 / H), images.device),
        constant((1 / W - 1, 1 / H - 1), images.device),
    )


def sample(images: Tensor, at: Tensor, padding: str = "border") -> Tensor:
    """`look_up` at (B, h, w, 2), from -1 to 1 between the frame's edges."""
    found = F.grid_sample(images.to(at.dtype), at, padding_mode=padding, align_corners=False)
    return found.to(images.dtype)


@cache
def sampling_grid(height: int, width: int, device: torch.device) -> Tensor:
    """Every pixel as `sample` wants it: (height, width, 2)."""
    with torch.inference_mode(False):  # as constant()
        scale, origin = sampling(torch.empty(1, 1, height, width, device=device))
        return torch.addcmul(origin, pixel_grid(height, width, device).permute(1, 2, 0), scale)


def warp(images: Tensor, flow: Tensor) -> Tensor:
    """Look up images (B, C, H, W) where a flow (B, 2, H, W) points: dx, dy in pixels.

    Beyond the border the border goes on. A flow of (1, 0) shows each pixel's right neighbour.
    """
    grid = sampling_grid(*flow.shape[-2:], flow.device)
    return sample(images, torch.addcmul(grid, flow.permute(0, 2, 3, 1), sampling(images)[0]))


def smooth_flow(knots: Tensor, height: int, width: int) -> Tensor:
    """A flow (B, 2, height, width) through knots (B, 2, rows, columns), bicubic between them.

    Knots move by that share of the way to the next; up to a quarter of it, random knots hardly ever
    fold a picture.
    """
    rows, columns = knots.shape[-2:]
    way = constant((width / (columns - 1), height / (rows - 1)), knots.device)
    down, across = bicubic(rows, height, knots.device), bicubic(columns, width, knots.device)
    with in_float32(knots):  # places in bfloat16 would be coarse
        return down @ (knots * way[:, None, None]) @ across.T


@cache
def bicubic(count: int, size: int, device: torch.device) -> Tensor:
    """The matrix (size, count) that interpolates between points, the first and last included."""
    with torch.inference_mode(False):  # as constant()
        points = torch.eye(count, device=device)[None, :, :, None]
        lines = F.interpolate(points, (size, 1), mode="bicubic", align_corners=True)
        return lines[0, :, :, 0].T.contiguous()


def move_pose(pose: Tensor, flow: Tensor) -> Tensor:
    """Poses (B, 25, 3) in the pictures that `warp` makes by a smooth flow (B, 2, H, W).

    A joint at s comes to where t + flow(t) = s, found by iteration: to 0.1 pixels for the wildest
    flow that does not fold.
    """
    scale, origin = sampling(flow)
    place = torch.addcmul(origin, pose[..., :2], scale)[:, :, None]  # (B, 25, 1, 2)
    step, flow = 0, flow * scale[:, None, None]
    for _ in range(16):
        step = sample(flow, place - step).permute(0, 2, 3, 1)  # (B, 25, 1, 2)
    xy = torch.addcdiv(pose[..., :2], step.squeeze(2), scale, value=-1)
    return torch.cat([xy, pose[..., 2:]], dim=2)


def drop_outside(pose: Tensor, height: int, width: int) -> Tensor:
    """Poses (B, 25, 3) whose joints outside the frame are missing, all zeros."""
    extent = constant((width, height), pose.device)
    low, high = pose[..., :2] >= -0.5, pose[..., :2] <= extent - 0.5
    return pose * ((low & high).all(-1) & (pose[..., 2] > 0))[..., None]


def flip_pose(pose: Tensor, width: int) -> Tensor:
    """Poses (B, 25, 3) of the mirrored pictures: x mirrored, left and right joints swapped."""
    pose = pose.index_select(1, constant(FLIP, pose.device))
    x = (width - 1 - pose[..., :1]).where(pose[..., 2:] > 0, 0)
    return torch.cat([x, pose[..., 1:]], dim=2)


# ------------------------------------------------------------------------------ draws


def mix(x: "int | Tensor") -> "int | Tensor":
    """Scramble 32-bit numbers, in int64 or Python's: a bijection whose bits depend on all bits."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    return x ^ (x >> 16)


def uniforms(seed: int, step: int, samples: Tensor, count: int) -> Tensor:
    """Uniform numbers in [0, 1), (B, count) float32, that follow from seed, step and sample (B,).

    Computed where `samples` is, the same on every device.
    """
    state = mix(mix(mix(seed & 0xFFFFFFFF) ^ (seed >> 32)) ^ step)
    state = mix(mix(samples + 1) ^ state)[:, None]  # (B, 1)
    places = torch.arange(1, count + 1, device=samples.device)
    return (mix(state ^ mix(places * 0x9E3779B1 & 0xFFFFFFFF)) >> 8).float() / 2**24


def as_knots(numbers: Tensor) -> Tensor:
    """Uniform numbers (B, 2 * rows * columns) as KNOTS between -1 and 1: (B, 2, rows, columns)."""
    return (2 * numbers - 1).unflatten(1, (2, *KNOTS))


def draw(seed: int, step: int, samples: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """What a step's samples (B,) draw: `draws` (B, N) in [0, 1), for `augment` and for losses, and
    `noise` (1, 3, H, W) in [-1, 1), of which each erased box shows its part.
    """
    H, W = size
    numbers = uniforms(seed, step, samples, DRAWS + 2 * KNOTS[0] * KNOTS[1] + SPARE)
    rows = torch.arange(3 * H, device=samples.device) + 2**31  # no sample has these numbers
    noise = uniforms(seed, step, rows, W).view(1, 3, H, W) * 2 - 1
    return {"draws": numbers, "noise": noise}


def parameters(draws: Tensor, names: Collection[str]) -> dict[str, Tensor]:
    """What the samples draw of PARAMETERS, (B,) each, by name; the others' where they don't take
    part, or where the augmentation is not named.
    """
    whose, called, low, high, others = zip(*PARAMETERS)
    shares = tuple(SHARES[name] if name in names else 0.0 for name in whose)
    places = tuple(map(AUGMENTATIONS.index, whose))
    spans = tuple(end - start for start, end in zip(low, high))
    low, spans, others, shares, places = (
        constant(one, draws.device) for one in (low, spans, others, shares, places)
    )
    taking = draws.index_select(1, places) < shares  # (B, P)
    own = draws[:, len(AUGMENTATIONS) : DRAWS]
    values = torch.addcmul(low, own, spans).where(taking, others)
    return dict(zip(called, values.unbind(1)))


# ------------------------------------------------------------------------------ what is done


class Geometry(NamedTuple):
    """Where a picture's pixels are looked up: `scale` * (place + flow) + `shift`, (B, 2) each."""

    scale: Tensor
    shift: Tensor
    flow: Tensor | None = None  # (B, 2, H, W)

    def move(self, images: Tensor) -> Tensor:
        """The pictures (B, 3, H, W); what lies outside is black."""
        H, W = images.shape[-2:]
        at = pixel_grid(H, W, images.device)
        at = at if self.flow is None else at + self.flow
        at = self.scale[..., None, None] * at + self.shift[..., None, None]
        return look_up(images + 1, at, "zeros").sub_(1)

    def move_pose(self, pose: Tensor, height: int, width: int) -> Tensor:
        """Their poses (B, 25, 3); joints that leave the frame are missing."""
        xy = (pose[..., :2] - self.shift[:, None]) / self.scale[:, None]
        moved = torch.cat([xy, pose[..., 2:]], dim=2)
        moved = moved if self.flow is None else move_pose(moved, self.flow)
        return drop_outside(moved, height, width)


def unmoved(count: int, device: torch.device) -> Geometry:
    """The geometry that leaves everything where it is."""
    return Geometry(torch.ones(count, 2, device=device), torch.zeros(count, 2, device=device))


def zoomed(geometry: Geometry, factor: Tensor, place: Tensor, size: tuple[int, int]) -> Geometry:
    """Show a part `factor` (B,) of the frame as large as the frame, or for factors above 1 the
    frame as a part; `place` (B, 2) in [0, 1] says where the spare room goes.
    """
    extent, middle = (constant(x, factor.device) for x in ((size[1], size[0]), (-0.5, -0.5)))
    scale = factor[:, None]
    # A place p of the new frame shows scale * (p + 0.5) + place * (1 - scale) * extent - 0.5.
    shift = (1 - scale) * torch.addcmul(middle, place, extent)
    shift = torch.addcmul(geometry.shift, geometry.scale, shift)
    return geometry._replace(scale=geometry.scale * scale, shift=shift)


def erase(images: Tensor, boxes: Tensor, noise: Tensor) -> Tensor:
    """Fill boxes (B, 4) top, left, bottom, right in pixels of images with noise (1, 3, H, W)."""
    H, W = images.shape[-2:]
    y, x = (torch.arange(size, device=images.device) for size in (H, W))
    top, left, bottom, right = boxes.T[..., None]  # (B, 1)
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)  # (B, H), (B, W)
    return torch.where((rows[:, :, None] & columns[:, None])[:, None], noise, images)


def recolour(images: Tensor, factors: dict[str, Tensor]) -> Tensor:
    """Brightness, contrast, saturation (factors (B,), 1: none) and hue (turns, 0: none) at once.

    All four are linear in red, green and blue but for the mean grey that contrast turns about, so
    a picture needs one 3x3 matrix and one offset. Hue turns about the grey axis.
    """
    B = len(images)
    grey = constant(GREY, images.device)
    eye = torch.eye(3, device=images.device)
    to_grey = grey.expand(3, 3)
    column = lambda name: factors[name][:, None, None]  # noqa: E731
    angle = column("hue") * (2 * torch.pi)
    axis = torch.full_like(eye, 1 / 3)
    cross = constant(((0, -1, 1), (1, 0, -1), (-1, 1, 0)), images.device) / 3**0.5
    turn = axis + angle.cos() * (eye - axis) + angle.sin() * cross  # (B, 3, 3), Rodrigues
    saturate = column("saturation") * eye + (1 - column("saturation")) * to_grey
    linear = column("brightness") * (turn @ saturate)  # of pictures in [0, 1]
    mean = (linear @ (images.mean((2, 3)) + 1)[..., None]).squeeze(2) @ grey  # (B,), twice it
    offset = (1 - factors["contrast"]) * mean  # (B,)
    linear = column("contrast") * linear
    # In [0, 1] the result is linear @ (images + 1) / 2 + offset / 2; here it is taken to [-1, 1].
    offset = (offset - 1)[:, None] + linear.sum(2)  # (B, 3)
    changed = (linear @ images.flatten(2)).add_(offset[..., None]).clamp_(-1, 1)  # (B, 3, H * W)
    return changed.view(B, 3, *images.shape[2:])


# ------------------------------------------------------------------------------ augmentation


def augment(batch: dict[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """A batch (`source`, `target`, `source_pose`, `target_pose`) with the named AUGMENTATIONS.

    It holds what `draw` gives as well; every sample has its own draws. All geometry is one look-up,
    all colour one matrix product; what is not named costs nothing. A flip is a mirrored copy
    instead: exact, and all the target needs, which nothing else moves.
    """
    if not names:
        return batch
    batch, drawn = dict(batch), parameters(batch["draws"], names)
    source, target = batch["source"], batch["target"]
    H, W = source.shape[-2:]
    if "flip" in names:
        flipped = drawn["flipped"] > 0
        unflipped = (1 - drawn["flipped"])[:, None, None, None]
        for side in ("source", "target"):
            mirrored = batch[side].flip(3).lerp_(batch[side], unflipped)  # exact at 0 and 1
            pose = batch[f"{side}_pose"]
            batch[f"{side}_pose"] = flip_pose(pose, W).where(flipped[:, None, None], pose)
            batch[side] = mirrored
        if "target_parsing" in batch:  # which numbers are left and right parts, we can't know
            parsing = batch["target_parsing"]
            batch["target_parsing"] = parsing.masked_fill(flipped[:, None, None], UNKNOWN_PART)
        source, target = batch["source"], batch["target"]
    if "jitter" in names:
        source = recolour(source, drawn)
    if {"shrinking", "crop", "distortion"} & set(names):
        geometry = geometry_of(drawn, batch["draws"], names, (H, W))
        source = geometry.move(source)
        batch["source_pose"] = geometry.move_pose(batch["source_pose"], H, W)
    if "erasing" in names:
        source = erase(source, boxes_of(drawn, H, W), batch["noise"])
    # As they came: convolutions want channels last.
    keep = {"memory_format": torch.channels_last}
    return batch | {"source": source.contiguous(**keep), "target": target.contiguous(**keep)}


def geometry_of(
    drawn: dict[str, Tensor], draws: Tensor, names: Collection[str], size: tuple[int, int]
) -> Geometry:
    """The geometry of the named augmentations: cropped, then shrunk, then all of it distorted.

    One map of the whole source: around a crop, shrinking shows what the crop left out before it
    shows black.
    """
    geometry = unmoved(len(draws), draws.device)
    for name, factor in (("crop", drawn["cropped"]), ("shrinking", 1 / drawn["shrunk"])):
        if name in names:
            place = torch.stack([drawn[f"{name}_x"], drawn[f"{name}_y"]], 1)
            geometry = zoomed(geometry, factor, place, size)
    if "distortion" in names:
        knots = as_knots(draws[:, DRAWS : DRAWS + 2 * KNOTS[0] * KNOTS[1]])
        knots = knots * drawn["bent"][:, None, None, None]
        geometry = geometry._replace(flow=smooth_flow(knots, *size))
    return geometry


def boxes_of(drawn: dict[str, Tensor], height: int, width: int) -> Tensor:
    """The boxes that `erase` takes, inside the picture; empty for samples that stay whole."""
    area = drawn["area"] * (height * width)
    rows = (area * drawn["aspect"].exp()).sqrt()
    columns = (area / rows.clamp(min=1)).clamp(max=width).floor()
    rows = rows.clamp(max=height).floor()
    top = (drawn["erasing_y"] * (height - rows + 1)).floor()
    left = (drawn["erasing_x"] * (width - columns + 1)).floor()
    return torch.stack([top, left, top + rows, left + columns], dim=1)


# ------------------------------------------------------------------------------ corruption

# What happens to a source at severities 1 to 5; the target stays as it is. Ours throughout: the
# paper claims robustness against these four and measures none.
SEVERITIES = 5
CORRUPTIONS = {
    "occlusion": (0.05, 0.1, 0.2, 0.35, 0.5),  # of the picture, under one box of noise
    "scale": (0.9, 0.8, 0.7, 0.6, 0.5),  # of the picture is seen, by turns zoomed in and padded
    "illumination": (0.8, 0.65, 0.5, 0.38, 0.28),  # of the light, by turns less and more of it
    "distortion": (0.05, 0.1, 0.15, 0.2, 0.25),  # of the way to the next knot, at most
}


def every_corruption() -> list[tuple[str, int]]:
    """Each kind of corruption at each severity."""
    return [(kind, severity) for kind in CORRUPTIONS for severity in range(1, SEVERITIES + 1)]


def corrupt(
    source: Tensor, pose: Tensor, kind: str, severity: int, samples: Tensor
) -> tuple[Tensor, Tensor]:
    """Sources (B, 3, H, W) and their poses (B, 25, 3) under one of CORRUPTIONS.

    Severity 0 changes nothing; a sample's number alone decides what it draws, and a higher severity
    of the same sample is more of the same. Raises ValueError for other kinds and severities.
    """
    if kind not in CORRUPTIONS or severity not in range(SEVERITIES + 1):
        raise ValueError(f"there is no corruption {kind!r} of severity {severity}")
    if not severity:
        return source, pose
    H, W = source.shape[-2:]
    strength = CORRUPTIONS[kind][severity - 1]
    numbers = uniforms(0, list(CORRUPTIONS).index(kind), samples, 2 + 2 * KNOTS[0] * KNOTS[1])
    even = samples % 2 == 0
    if kind == "occlusion":
        rows, columns = (round(size * strength**0.5) for size in (H, W))
        # Near the middle, where the person is: a box in a corner hides nothing.
        spare = constant((H - rows, W - columns), source.device)
        corner = (spare * (numbers[:, :2] + 0.5) / 2).round()  # (B, 2)
        boxes = torch.cat([corner, corner + constant((rows, columns), source.device)], dim=1)
        return erase(source, boxes, draw(0, 0, samples, (H, W))["noise"]), pose
    factor = torch.full_like(numbers[:, 0], strength)
    if kind == "illumination":
        one = torch.ones_like(factor)
        factors = {"brightness": factor.where(even, 1 / factor), "contrast": one}
        factors |= {"saturation": factor.sqrt(), "hue": 0 * one}
        return recolour(source, factors), pose
    geometry = unmoved(len(source), source.device)
    if kind == "scale":
        place = (numbers[:, :2] + 0.5) / 2
        geometry = zoomed(geometry, factor.where(even, 1 / factor), place, (H, W))
    else:
        geometry = geometry._replace(flow=smooth_flow(strength * as_knots(numbers[:, 2:]), H, W))
    return geometry.move(source), geometry.move_pose(pose, H, W)


# ------------------------------------------------------------------------------ poses as maps


def heatmaps(pose: Tensor, height: int, width: int, scale: int = 1) -> Tensor:
    """A Gaussian around each joint of poses (B, 25, 3): (B, 25, height / scale, width / scale).

    In [0, 1]; the deviation is a 32nd of the height; a missing joint's map is empty.
    """
    xy = (pose[..., :2] + 0.5) / scale - 0.5  # (B, 25, 2), pixel centres at integers
    deviation = height / scale / 32
    x = torch.arange(width // scale, device=pose.device) - xy[..., :1]  # (B, 25, w)
    y = torch.arange(height // scale, device=pose.device) - xy[..., 1:]  # (B, 25, h)
    x, y = (torch.exp(d.square() * (-0.5 / deviation**2)) for d in (x, y))
    y = y * (pose[..., 2:] > 0)
    return y[..., None] * x[..., None, :]  # (B, 25, h, w)


def limb_maps(pose: Tensor, height: int, width: int, scale: int = 1) -> Tensor:
    """The same around each limb, half as wide again: (B, 24, height / scale, width / scale).

    Empty where one of its joints is missing.
    """
    return _segments(pose, height, width, scale, len(JOINTS))


def pose_maps(pose: Tensor, height: int, width: int, scale: int = 1) -> Tensor:
    """Joints and limbs of poses (B, 25, 3): (B, POSE_MAPS, height / scale, width / scale)."""
    return _segments(pose, height, width, scale, 0)


def _segments(pose: Tensor, height: int, width: int, scale: int, first: int) -> Tensor:
    # A joint is a limb from itself to itself.
    ends = constant(STARTS[first:] + ENDS[first:], pose.device)
    start, end = pose.index_select(1, ends).chunk(2, dim=1)  # (B, L, 3)
    there = (start[..., 2] > 0) & (end[..., 2] > 0)  # (B, L)
    along = (end - start)[..., :2] / scale  # (B, L, 2)
    start = (start[..., :2] + 0.5) / scale - 0.5
    places = pixel_grid(height // scale, width // scale, pose.device)
    x = places[0, 0] - start[..., :1]  # (B, L, w)
    y = places[1, :, 0] - start[..., 1:]  # (B, L, h)
    # How far along the limb its nearest point is, as a share: linear in x and y.
    share = along / along.square().sum(-1, keepdim=True).clamp(min=1e-6)  # (B, L, 2)
    place = (y * share[..., 1:])[..., None] + (x * share[..., :1])[..., None, :]
    place = place.clamp_(0, 1)  # (B, L, h, w)
    dx = x[..., None, :] - place * along[..., :1, None]
    dy = y[..., None] - place * along[..., 1:, None]
    distance = dx.square_().add_(dy.square_())
    wide = tuple(-0.5 / (w * height / scale / 32) ** 2 for w in WIDTHS[first:])
    sharpness = constant(wide, pose.device)[:, None, None]
    # Far from all, e^-30 in place of numbers so small that a CPU takes ten times as long over them.
    return distance.mul_(sharpness).clamp_(min=-30).exp_().mul_(there[..., None, None])


def pose_vector(pose: Tensor, height: int, width: int) -> Tensor:
    """Flatten poses (B, 25, 3) in pixels to (B, 75): x and y in [-1, 1] and a flag of presence.

    RPT-GAN gives its generator a pose vector and says no more. Ours: normalised, as raw pixels
    would drown the descriptor's features of order 1, and flagged, as a missing joint must not look
    like one in the corner.
    """
    present = (pose[..., 2:] > 0).to(pose.dtype)  # (B, 25, 1)
    xy = (pose[..., :2] + 0.5) / pose.new_tensor([width, height]) * 2 - 1  # (B, 25, 2)
    return torch.cat([xy * present, present], dim=-1).flatten(1)  # (B, 75)


def pose_from_places(pose: Tensor, height: int, width: int, scale: int) -> Tensor:
    """The pose vector as each place sees it: (B, 75, height / scale, width / scale).

    Each joint's x and y less the place's own, squeezed to [-1, 1], and a flag of presence.
    """
    present = (pose[..., 2:] > 0).to(pose.dtype)  # (B, 25, 1)
    xy = (pose[..., :2] + 0.5) / scale - 0.5  # (B, 25, 2)
    near = POSE_NEAR * scale / height
    x = torch.tanh(near * (xy[..., :1] - torch.arange(width // scale, device=pose.device)))
    y = torch.tanh(near * (xy[..., 1:] - torch.arange(height // scale, device=pose.device)))
    size = height // scale, width // scale
    x = (x * present)[:, :, None].expand(-1, -1, *size)  # (B, 25, h, w)
    y = (y * present)[..., None].expand(-1, -1, *size)
    return torch.cat([x, y, present[..., None].expand(-1, -1, *size)], dim=1)
