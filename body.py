"""The body in a picture: its parts from the skeleton, warping them from pose to pose, its outline,
and the background behind it.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from posegan import poses
from posegan.augment import pixel_grid, warp
from posegan.poses import metre

EDGE_ROWS = 512  # image height at which the person's outline is found
SURE, UNSURE = 0.2, 1.45  # of a part's radius: surely body within the first, not beyond the second
ROUNDS = 3  # of separating the person's colours from the background's
STILL = 0.25  # pixels of the model: what moves less keeps the photo's pixels


# ------------------------------------------------------------------------------ the body's parts


# Each part is a line with a radius: start and end joint, radius in metres, nearness; of two
# overlapping parts the nearer is seen. Head, hands and feet get lines of their own; their joints
# only tell whether they are present. Which of two crossing legs or arms is nearer is unknown: it is
# always the right one, so that nothing flickers.
PARTS = {
    "head": (1, 0, 0.15, 1),
    "torso": (1, 8, 0.2, 0),
    "left thigh": (12, 13, 0.105, 1),
    "left shin": (13, 14, 0.08, 1),
    "left foot": (14, 19, 0.08, 1),
    "right thigh": (9, 10, 0.105, 2),
    "right shin": (10, 11, 0.08, 2),
    "right foot": (11, 22, 0.08, 2),
    "left upper arm": (5, 6, 0.075, 3),
    "left forearm": (6, 7, 0.065, 3),
    "left hand": (6, 7, 0.1, 3),
    "right upper arm": (2, 3, 0.075, 4),
    "right forearm": (3, 4, 0.065, 4),
    "right hand": (3, 4, 0.1, 4),
}
STARTS, ENDS, RADII, NEARNESS = (list(column) for column in zip(*PARTS.values()))
HEAD, TORSO = (list(PARTS).index(name) for name in ("head", "torso"))
HANDS, FEET = ([i for i, name in enumerate(PARTS) if kind in name] for kind in ("hand", "foot"))
FACE = [0, 15, 16, 17, 18]


class Skeleton(NamedTuple):
    """The lines of the body parts in poses, in pixels."""

    lines: Tensor  # (B, P, 2, 2): start and end, x and y
    there: Tensor  # (B, P): 1 if present, else 0
    across: Tensor  # (B,): shoulder width across the torso; the sign tells the left shoulder's side
    unit: Tensor  # (B,): pixels per metre


def skeleton(pose: np.ndarray) -> Skeleton:
    """The lines of the body parts in poses (B, 25, 3)."""
    unit = torch.tensor([metre(one) for one in pose])  # (B,)
    pose = torch.from_numpy(np.asarray(pose, np.float64))
    points, known = pose[..., :2], pose[..., 2] > 0
    start, end = points[:, STARTS], points[:, ENDS]  # (B, P, 2)
    there = known[:, STARTS] & known[:, ENDS]
    there[:, HEAD] = known[:, 1] & known[:, FACE].any(1)
    there[:, FEET] = known[:, STARTS][:, FEET]
    # The head extends from between neck and face to beyond the face.
    seen = known[:, FACE, None].double()
    face = (points[:, FACE] * seen).sum(1) / seen.sum(1).clamp(min=1)
    up = face - start[:, HEAD]
    start[:, HEAD] += 0.35 * up
    end[:, HEAD] = face + 0.04 * unit[:, None] * F.normalize(up, dim=1, eps=1e-6)
    start[:, HANDS], end[:, HANDS] = end[:, HANDS], 1.3 * end[:, HANDS] - 0.3 * start[:, HANDS]
    # A foot without toes continues the shin.
    knees, toes, down = [13, 10], [19, 22], torch.tensor([0.0, 1.0])
    shin = torch.where(known[:, knees, None], start[:, FEET] - points[:, knees], down)
    toe = start[:, FEET] + 0.07 * unit[:, None, None] * F.normalize(shin, dim=2, eps=1e-6)
    end[:, FEET] = torch.where(known[:, toes, None], end[:, FEET], toe)
    spine = F.normalize(end[:, TORSO] - start[:, TORSO], dim=1, eps=1e-6)
    right, left = poses.SHOULDERS
    wide = points[:, left] - points[:, right]
    across = wide[:, 1] * spine[:, 0] - wide[:, 0] * spine[:, 1]
    across = across * (known[:, left] & known[:, right])
    lines = torch.stack([start, end], 2)
    return Skeleton(lines.float(), there.float(), across.float(), unit.float())


def distances(body: Skeleton, size: tuple[int, int]) -> Tensor:
    """Each pixel's distance from each part, in the part's radii: (B, P, H, W); 9 if missing."""
    H, W = size
    x, y = torch.arange(W).float(), torch.arange(H).float()
    start, end = body.lines[:, :, 0, :, None, None], body.lines[:, :, 1, :, None, None]
    along = end - start  # (B, P, 2, 1, 1)
    square = along.square().sum(2).clamp(min=1e-6)  # (B, P, 1, 1)
    # Along and across the line, each a sum of a column and a row term, without large temporaries.
    dx, dy = (along / square[:, :, None]).unbind(2)
    x, y = x - start[:, :, 0], y[:, None] - start[:, :, 1]  # (B, P, 1, W), (B, P, H, 1)
    place, across = x * dx + y * dy, y * dx - x * dy  # (B, P, H, W)
    beyond = place - place.clamp(0, 1)
    length = (across.square_() + beyond.square_()).mul_(square).sqrt_()
    radius = torch.tensor(RADII) * body.unit[:, None].clamp(min=1e-6)  # (B, P)
    return length.div_(radius[..., None, None]).masked_fill_(body.there[..., None, None] == 0, 9.0)


def shares(distance: Tensor) -> Tensor:
    """How much each pixel belongs to each part: (B, P, H, W), summing to 1."""
    inside = ((1.25 - distance) / 0.35).clamp_(0, 1)
    inside *= 4 * torch.tensor(NEARNESS)[:, None, None]
    return inside.sub_(6 * distance.square()).softmax(1)


def outline(distance: Tensor, inner: float = 0.95, outer: float = 1.35) -> Tensor:
    """The body as a soft mask (B, 1, H, W) in [0, 1]."""
    nearest = distance.amin(1, keepdim=True)
    ramp = ((outer - nearest) / (outer - inner)).clamp(0, 1)
    return ramp * ramp * (3 - 2 * ramp)


class Carried(NamedTuple):
    """How the skeleton warps the source into target poses, at the model's size."""

    flow: Tensor  # (B, 2, H, W) in pixels
    known: Tensor  # (B, 1, H, W) in [0, 1]: the source shows the same body part there
    body: Tensor  # (B, 1, H, W) in [0, 1]: the target's outline, generous
    core: Tensor  # (B, 1, H, W) in [0, 1]: the same, narrow
    still: Tensor  # (B, 1, H, W) in [0, 1]: nothing moves here


def carry(own: np.ndarray | None, moved: np.ndarray, size: tuple[int, int]) -> Carried:
    """Warp the body of a pose (25, 3) into poses (B, 25, 3): each part rotated, moved and scaled.

    Poses are in pixels of `size` (height, width). Without a pose, nothing is known and everything
    counts as body.
    """
    if own is None:
        nothing = torch.zeros(len(moved), 1, *size)
        return Carried(nothing.expand(-1, 2, -1, -1), nothing, nothing + 1, nothing + 1, nothing)
    source, target = skeleton(own[None]), skeleton(moved)
    from_source, to_target = distances(source, size), distances(target, size)
    both = (target.there * source.there)[..., None, None]  # (B, P, 1, 1)
    some = both.amax(1, keepdim=True)  # (B, 1, 1, 1)
    whose = shares(to_target)
    carried = whose if both.all() else shares(to_target.masked_fill(both == 0, 9.0))
    flow = _flow(carried, source, target, size) * some  # (B, 2, H, W)
    before, body = outline(from_source), outline(to_target)
    seen = torch.cat([shares(from_source), before], 1).expand(len(moved), -1, -1, -1)
    seen, inside = warp(seen, flow).split([len(PARTS), 1], 1)
    same = torch.minimum(whose, seen).sum(1, keepdim=True)
    length = flow.square().sum(1, keepdim=True)
    # What sticks out of the outlines, such as a shoe, moves with the nearest part.
    still = torch.maximum((1 - (body - before).abs()) * same, 1 - torch.maximum(body, before))
    still = still * (-length / STILL**2).exp()
    return Carried(flow, same * inside * some, body, outline(to_target, 0.6, 1.0), still)


def _flow(share: Tensor, source: Skeleton, target: Skeleton, size: tuple[int, int]) -> Tensor:
    """The flow (B, 2, H, W): each part's motion, weighted by its share (B, P, H, W)."""
    ratio = (source.unit / target.unit.clamp(min=1e-6))[:, None]  # (B, 1)
    before, after = (body.lines[:, :, 1] - body.lines[:, :, 0] for body in (source, target))
    long, short = before.norm(dim=2), after.norm(dim=2)  # (B, P)
    # Limits the stretching of foreshortened parts.
    along = long / torch.maximum(short, 0.35 * long / ratio.clamp(min=1e-6)).clamp(min=1e-3)
    # The torso turns: its width follows the shoulders', mirrored if they change sides.
    across = ratio.expand_as(short).clone()
    wide = target.across.sign() * target.across.abs().clamp(min=1e-6)  # (B,)
    turned = torch.where(wide == 0, wide, source.across / wide)
    turned = turned.sign() * turned.abs().clamp(0.6 * ratio[:, 0], 1.6 * ratio[:, 0])
    across[:, TORSO] = torch.where(turned == 0, ratio[:, 0], turned)
    # A part's affine map: points times turn (B, P, 2, 2) plus shift (B, P, 2).
    u, v = (F.normalize(line, dim=2, eps=1e-6) for line in (before, after))  # (B, P, 2)
    aside = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])  # a quarter turn
    turn = (along[..., None] * u)[..., None] * v[:, :, None]
    turn = turn + (across[..., None] * (u @ aside))[..., None] * (v @ aside)[:, :, None]
    shift = source.lines[:, :, 0] - (turn @ target.lines[:, :, 0, :, None])[..., 0]
    weights = torch.cat([turn.flatten(2), shift], 2)  # (B, P, 6)
    # A weighted sum of affine maps is affine: one per pixel (B, 6, H, W).
    sums = (weights.transpose(1, 2) @ share.flatten(2)).unflatten(2, size)
    x, y = pixel_grid(*size, share.device)
    came = sums[:, [0, 2]] * x + sums[:, [1, 3]] * y + sums[:, 4:]
    return came - torch.stack([x, y])


# ------------------------------------------------------------------------------ the person cut out


def matte(photo: np.ndarray, pose: np.ndarray) -> Tensor:
    """The person's alpha matte in a photo uint8 (H, W, 3): (1, 1, H, W) in [0, 1].

    The skeleton tells where the person surely is and is not; in between, colours decide, and a
    guided filter (He et al., ECCV 2010) aligns the edges with the photo's.
    """
    H, W = photo.shape[:2]
    size = (min(H, EDGE_ROWS), max(1, round(W * min(1, EDGE_ROWS / H))))
    small = np.asarray(Image.fromarray(photo).resize(size[::-1], Image.Resampling.BOX))
    scale = size[0] / H
    pose = np.column_stack([(pose[:, :2] + 0.5) * scale - 0.5, pose[:, 2]])
    distance = distances(skeleton(pose[None]), size)
    inside = outline(distance, SURE, UNSURE)  # (1, 1, h, w)
    colours = torch.from_numpy(small.copy()).permute(2, 0, 1)[None].float() / 255
    alpha = outline(distance, 0.4, 1.0)
    for _ in range(ROUNDS):
        likely = _likelihood(colours, alpha, (1 - alpha) * (distance.amin(1, keepdim=True) < 3))
        alpha = (torch.logit(likely, 0.02) + torch.logit(inside, 0.005)).sigmoid()
    alpha = guided(colours, alpha, max(2, size[0] // 100), 1e-3).clamp(0, 1)
    alpha = ((alpha - 0.1) / 0.8).clamp(0, 1)
    alpha = torch.where(inside > 0, alpha, 0)
    return F.interpolate(alpha, (H, W), mode="bilinear")


def surroundings(person: Tensor, pose: np.ndarray) -> tuple[Tensor, Tensor]:
    """From a person's matte (1, 1, H, W): the same with a margin, and the hole to fill, wide enough
    that no trace of the person's edge bleeds into the filled background.
    """
    H, W = person.shape[2:]
    spread = 2 * max(1, round(H / 100)) + 1
    around = person
    for pool in (F.max_pool2d, partial(F.avg_pool2d, count_include_pad=False)):
        for window in ((spread, 1), (1, spread)):  # one way, then the other: much less to add up
            around = pool(around, window, 1, (window[0] // 2, window[1] // 2))
    hole = outline(distances(skeleton(pose[None]), (H, W)), 0.9, 1.25)
    return around, torch.maximum(hole, (3 * around).clamp(0, 1))


def _likelihood(colours: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """Each pixel's probability of being the person, from its colour: (1, 1, H, W) in [0, 1]."""
    bins = 12
    place = (colours * (bins - 1e-3)).long()
    place = (place[:, 0] * bins + place[:, 1]) * bins + place[:, 2]  # (1, H, W)
    counts = []
    for weight in (inside, outside):
        count = torch.zeros(bins**3).index_add_(0, place.flatten(), weight.flatten())
        count = F.avg_pool3d(count.view(1, 1, bins, bins, bins), 3, 1, 1)
        counts.append(count.flatten() / count.sum().clamp(min=1) + 1e-6)
    share = counts[0] / (counts[0] + counts[1])
    return share[place][:, None]


def guided(guide: Tensor, values: Tensor, radius: int, smooth: float) -> Tensor:
    """He's guided filter: values (1, 1, H, W) take on the edges of the guide (1, 3, H, W)."""

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2 * radius + 1, 1, radius, count_include_pad=False)

    centre, average = mean(guide), mean(values)
    products = (guide[:, :, None] * guide[:, None]).flatten(1, 2)  # (1, 9, H, W)
    spread = mean(products) - (centre[:, :, None] * centre[:, None]).flatten(1, 2)
    spread = spread.unflatten(1, (3, 3)).permute(0, 3, 4, 1, 2) + smooth * torch.eye(3)
    together = mean(guide * values) - centre * average
    slope = torch.linalg.solve(spread, together.permute(0, 2, 3, 1)[..., None])[..., 0]
    slope = slope.permute(0, 3, 1, 2)  # (1, 3, H, W)
    offset = average - (slope * centre).sum(1, keepdim=True)
    return (mean(slope) * guide).sum(1, keepdim=True) + mean(offset)


def filled(image: Tensor, known: Tensor, level: int = 0) -> Tensor:
    """Images (B, C, H, W), filled in from around where `known` (B, 1, H, W) in [0, 1] is low.

    Push-pull: averages known pixels over ever larger blocks and uses the smallest block that has
    some. Blocks are wide, as the background of a standing person continues to the left and right.
    """
    H, W = image.shape[2:]
    if max(H, W) < 2:
        return image
    piece = (2 if H > 1 and (level % 3 == 2 or W == 1) else 1, 2 if W > 1 else 1)
    weight = F.avg_pool2d(known, piece, ceil_mode=True)
    coarse = F.avg_pool2d(image * known, piece, ceil_mode=True) / weight.clamp(min=1e-4)
    if (weight < 0.5).any():
        coarse = filled(coarse, (2 * weight).clamp(0, 1), level + 1)
    return torch.lerp(F.interpolate(coarse, (H, W), mode="bilinear"), image, known)
