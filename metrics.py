"""Scores of generated images against their targets: functions of tensors, and their running means.

Images are (B, 3, H, W), either uint8 or float in [-1, 1], which is taken as 0 to 255 unrounded.
The scores of pairs come as (B,) float64; those of a whole set (Inception Score, FID) keep sums.
Images that can't be scored (other shapes, other types, NaN, values outside the range) raise
ValueError.
"""

import hashlib
import math
import warnings
from collections.abc import Callable, Collection
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import inception

from posegan.models import find_poses, fused, read_state_dict
from posegan.poses import COCO17, COCO18, JOINTS, MID_HIP, NECK, BadInput

LEVELS = 255.0  # the range of an image, in grey levels
BLOCK = 12  # outputs of a filter that one matrix product computes; a tile of the BLAS is as wide
CPU_PIXELS = 2**16  # of the images scored at once: what fits into the cache
ACCELERATOR_PIXELS = 2**20  # the same elsewhere: bounds the memory to about 1 GB
SMALLEST_RANGE = 1e-2  # grey levels; the data range that a constant image is given
PSNR_CEILING = 100.0  # dB; what identical images score, so that means stay finite
MASK_RADIUS = 4  # pixels; of the joints' discs, and half the width of a limb
MASK_LIMBS = (  # PG2's, which its followers use
    *((1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7), (2, 9), (5, 12), (9, 12)),
    *((1, 9), (9, 10), (10, 11), (1, 12), (12, 13), (13, 14)),
    *((0, 1), (0, 15), (15, 17), (0, 16), (16, 18), (1, 17), (1, 18), (17, 18)),
)
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang 2003, fine to coarse
REPLICATES = 1000  # of the bootstrap
SPLITS = 10  # of the Inception Score, in all papers
LPIPS_PIXELS = 32  # a side, below which AlexNet's layers shrink to nothing
HEAD_SHARE = 0.5  # of the head that a joint may be off to count as right: PCKh@0.5


class Window(NamedTuple):
    """A separable SSIM window: Gaussian, or uniform where sigma is None; sizes in pixels.

    It moves over the image and `overhang` pixels more on every side, where the border goes on.
    """

    taps: int
    sigma: float | None = None
    overhang: int = 0

    @property
    def reach(self) -> int:
        """By how much an image outgrows what the window makes of it."""
        return self.taps - 1 - 2 * self.overhang

    @property
    def area(self) -> int:
        """What the window's weights add up to; a uniform one counts its pixels."""
        return 1 if self.sigma else self.taps**2


class Recipe(NamedTuple):
    """What tells one SSIM of the field from another."""

    window: Window
    data_range: float | None  # grey levels; None: max - min of the generated image, all channels
    sample_covariance: bool


GAUSSIAN = Window(11, 1.5)
GAUSSIAN13 = Window(13, 1.5, 1)  # 13 taps where 5 border pixels are cut reach 1 beyond the image
CLOSING = Window(5)  # the square that closes the mask's gaps
RECIPES = {
    "dscf": Recipe(GAUSSIAN, None, False),
    "dscf13": Recipe(GAUSSIAN13, None, False),
    "wang": Recipe(GAUSSIAN, LEVELS, False),
    "pg2": Recipe(Window(7), LEVELS, True),
    "gfla": Recipe(Window(51), LEVELS, True),
}


class Note(NamedTuple):
    """How a score was computed, in one line, and what is better: "higher", "lower", nearer the
    "target", or nothing: "".
    """

    text: str
    better: str


RECIPE_NOTES = {
    "ssim_dscf": Note("Gaussian 11 taps, range of the generated image", "higher"),
    "ssim_dscf13": Note("the same, 13 taps: scikit-image before 0.15", "higher"),
    "ssim_wang": Note("Gaussian 11 taps, range 255", "higher"),
    "ssim_pg2": Note("uniform 7x7, sample covariance, range 255", "higher"),
    "ssim_gfla": Note("uniform 51x51, sample covariance, range 1", "higher"),
    "mask_ssim": Note("as dscf, both images times the target pose's mask", "higher"),
    "ms_ssim": Note("Wang 2003: 5 scales, Gaussian 11 taps, range 255", "higher"),
    "psnr": Note("dB at range 255, identical images count 100", "higher"),
    "l1": Note("mean absolute error, images in [0, 1]", "lower"),
    "detail": Note(
        "mean gradient magnitude over the targets': 1 is as sharp, 0.5 is fog", "target"
    ),
    "lpips": Note("AlexNet, v0.1, images in [-1, 1]", "lower"),
    "pck": Note("PCKh@0.5: joints found within half a head of the target pose", "higher"),
    "pose_error": Note("mean distance of the found joints in pixels", "lower"),
    "inception_score": Note("Inception of 2015-12-05, 1008 classes, 10 splits in order", "higher"),
    "inception_score_std": Note("population standard deviation over the splits", ""),
    "fid": Note("pool3 as in pytorch-fid, against these targets", "lower"),
}


OF_ALL_PAIRS = ("inception_score", "inception_score_std", "fid")  # that no single pair has


class Published(NamedTuple):
    """A row of scores from a paper; None where it gives none, or where the recipe is none of ours.

    "gfla or dscf" is one of the two that GFLA's program prints; the papers don't say which.
    """

    model: str
    data: str
    ssim: float | None
    inception_score: float | None
    recipe: str | None
    source: str
    lpips: float | None = None
    fid: float | None = None


_MARKET, _FASHION = "Market-1501", "DeepFashion"
_TABLE1, _OWN, _SINCE = "RPT-GAN, Table 1", "the model's paper", "papers since GFLA"
_EITHER = "gfla or dscf"
# In Table 1, PG2 and BodyROI7 stand with their own papers' figures; BodyROI7's recipe (grey images,
# the target's range) is none of ours.
PUBLISHED = (
    Published("pix2pix", _MARKET, 0.183, 2.678, "dscf", _TABLE1),
    Published("PG2", _MARKET, 0.253, 3.460, "pg2", _TABLE1),
    Published("DSCF (Deformable GAN)", _MARKET, 0.290, 3.185, "dscf", _TABLE1),
    Published("BodyROI7", _MARKET, 0.099, 3.483, None, _TABLE1),
    Published("Dong et al. (Soft-gated Warping-GAN)", _MARKET, 0.356, 3.409, "dscf", _TABLE1),
    Published("RPT-GAN without augmentation", _MARKET, 0.268, 3.425, "dscf", _TABLE1),
    Published("RPT-GAN, full", _MARKET, 0.302, 3.488, "dscf", _TABLE1),
    Published("pix2pix", _FASHION, 0.692, 3.249, "dscf", _TABLE1),
    Published("PG2", _FASHION, 0.762, 3.090, "pg2", _TABLE1),
    Published("DSCF (Deformable GAN)", _FASHION, 0.761, 3.351, "dscf", _TABLE1),
    Published("BodyROI7", _FASHION, 0.614, 3.228, None, _TABLE1),
    Published("Dong et al. (Soft-gated Warping-GAN)", _FASHION, 0.793, 3.314, "dscf", _TABLE1),
    Published("RPT-GAN without augmentation", _FASHION, 0.713, 3.006, "dscf", _TABLE1),
    Published("RPT-GAN, full", _FASHION, 0.781, 3.238, "dscf", _TABLE1),
    Published("PATN", _MARKET, 0.311, 3.323, "dscf", _OWN),
    Published("XingGAN", _MARKET, 0.313, 3.506, "dscf", _OWN),
    Published("BiGraphGAN", _MARKET, 0.325, 3.329, "dscf", _OWN),
    Published("real images", _MARKET, None, 3.890, None, _OWN),
    Published("DSCF", _MARKET, 0.268, None, _EITHER, _SINCE, 0.299, 25.4),
    Published("PATN", _MARKET, 0.282, None, _EITHER, _SINCE, 0.320, 22.7),
    Published("GFLA", _MARKET, 0.288, None, _EITHER, _SINCE, 0.282, 19.8),
    Published("DPTN", _MARKET, 0.285, None, _EITHER, _SINCE, 0.271, 19.0),
    Published("PIDM", _MARKET, 0.305, None, _EITHER, _SINCE, 0.242, 14.5),
    Published("PCDMs", _MARKET, 0.317, None, _EITHER, _SINCE, 0.224, 13.9),
    Published("IMAGPose", _MARKET, 0.328, None, None, _SINCE, 0.210, 12.7),
)


class _Scratch(dict):
    """Memory that one chunk after another fills anew, because fresh pages cost more than the sums.

    What is taken under a name is lost when the name is taken again.
    """

    def take(
        self, name: str, like: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None
    ) -> Tensor:
        size, key = math.prod(shape), (name, dtype or like.dtype)
        if key not in self or self[key].numel() < size:
            self[key] = like.new_empty(size, dtype=key[1])
        return self[key][:size].view(shape)


@cache
def _bands(window: Window, length: int, device: torch.device) -> list[tuple[slice, slice, Tensor]]:
    """Blocks of a Gaussian's outputs along `length` pixels: outputs, inputs, and the matrix
    (inputs, outputs) between them, as the BLAS likes it best on either side.

    Blocks keep a banded matrix' zeros few. Weights that overhang the image fall to its border.
    """
    offsets = torch.arange(window.taps, dtype=torch.float64) - window.taps // 2
    weights = torch.exp(-0.5 * (offsets / window.sigma) ** 2)
    weights /= weights.sum()
    blocks, count = [], length - window.reach
    for start in range(0, count, BLOCK):
        end = min(start + BLOCK, count)
        first = max(start - window.overhang, 0)
        last = min(end + window.reach + window.overhang, length)
        matrix = torch.zeros(last - first, end - start, dtype=torch.float64)
        for place in range(end - start):
            for tap, weight in enumerate(weights, start + place - window.overhang):
                matrix[min(max(tap, 0), length - 1) - first, place] += weight
        blocks.append((slice(start, end), slice(first, last), matrix.to(device)))
    return blocks


def _gaussian(planes: Tensor, window: Window, scratch: _Scratch) -> Tensor:
    """Gaussian means of (H, ..., W) float64, wherever the window fits: (H', ..., W').

    Rows, then columns, as products with banded matrices. Rows in front make every factor a plain
    matrix in memory, so that nothing is copied.
    """
    H, *middle, W = planes.shape
    high, wide = H - window.reach, W - window.reach
    rows = planes.view(-1, W)  # (H * N, W)
    narrow = scratch.take("rows", planes, (len(rows), wide))  # (H * N, W')
    for outputs, inputs, band in _bands(window, W, planes.device):
        torch.mm(rows[:, inputs], band, out=narrow[:, outputs])
    columns = narrow.view(H, -1)  # (H, N * W')
    result = scratch.take("filtered", planes, (high, columns.shape[1]))  # (H', N * W')
    for outputs, inputs, band in _bands(window, H, planes.device):
        torch.mm(band.T, columns[inputs], out=result[outputs])
    return result.view(high, *middle, wide)


def _addends(flat: Tensor, step: int, taps: int, scratch: _Scratch) -> tuple[Tensor, Tensor]:
    """Two tensors that add up to the sums of `taps` neighbours, an odd number, `step` apart.

    Runs of 2, 4, 8, … neighbours, each the sum of two runs half as long, make up the window.
    """
    length = len(flat) - (taps - 1) * step
    total, runs, size, offset = flat[:length], flat, 1, 1
    while True:
        ends = runs[: len(runs) - size * step], runs[size * step :]
        size *= 2
        name = f"runs {size.bit_length() % 2}"  # by turns, as the shorter runs are still read
        runs = torch.add(*ends, out=scratch.take(name, flat, ends[0].shape))
        if taps & size:
            addends = total, runs[offset * step :][:length]
            offset += size
            if offset == taps:
                return addends
            total = torch.add(*addends, out=scratch.take("total", flat, (length,)))


def _uniform(planes: Tensor, window: Window, scratch: _Scratch) -> Tensor:
    """Sums of (H, ..., W) over squares, wherever they fit: (H', ..., W'), integers as such.

    Adds long vectors: what runs over the end of a row is left out by the last addition.
    """
    H, *middle, W = planes.shape
    high, wide = H - window.taps + 1, W - window.taps + 1
    rows = scratch.take("rows", planes, (H, *middle, wide))
    addends = _addends(planes.view(-1), 1, window.taps, scratch)
    inside = (flat.as_strided((rows.numel() // wide, wide), (W, 1)) for flat in addends)
    torch.add(*inside, out=rows.view(-1, wide))
    sums = scratch.take("filtered", planes, (high, *middle, wide))
    addends = _addends(rows.view(-1), rows[0].numel(), window.taps, scratch)
    torch.add(*addends, out=sums.view(-1))
    return sums


def _filter(planes: Tensor, window: Window, scratch: _Scratch) -> Tensor:
    """Weighted sums of (H, ..., W) under a window, wherever it fits: (H', ..., W')."""
    return (_gaussian if window.sigma else _uniform)(planes, window, scratch)


def _planes(x: Tensor, y: Tensor, dtype: torch.dtype, scratch: _Scratch) -> Tensor:
    """Grey levels of images x and y (B, 3, H, W), the sum of their squares, their product:
    (H, 4, B, 3, W), rows first, as _filter wants them.
    """
    B, _, H, W = x.shape
    planes = scratch.take(f"planes {dtype}", x, (H, 4, B, 3, W), dtype)
    x, y = (_levels(image, planes[:, place]) for place, image in enumerate((x, y)))
    torch.mul(x, x, out=planes[:, 2]).addcmul_(y, y)
    torch.mul(x, y, out=planes[:, 3])
    return planes


def _similarities(x: Tensor, y: Tensor, recipes: list[str], scratch: _Scratch) -> dict[str, Tensor]:
    """SSIM (B,) of images (B, 3, H, W) by each recipe."""
    result = dict.fromkeys(recipes)
    data_range = (
        _data_range(x) if any(RECIPES[name].data_range is None for name in result) else None
    )
    planes = {}
    for window in {RECIPES[name].window for name in result}:
        dtype = torch.float64 if window.sigma else _exact(x, y)
        if dtype not in planes:
            planes[dtype] = _planes(x, y, dtype, scratch)
        moments = _moments(planes[dtype], window, scratch)
        for name in result:
            if RECIPES[name].window == window:
                result[name] = _compare(moments, RECIPES[name], data_range, scratch)
    return result


def _exact(*images: Tensor) -> torch.dtype:
    """int32 for whole grey levels, exact and half as wide, else float64.

    A 51x51 window's sum of two pixels' squares is still below 2^31.
    """
    whole = all(one.dtype == torch.uint8 for one in images)
    return torch.int32 if whole else torch.float64


def _data_range(images: Tensor) -> Tensor:
    """Highest minus lowest grey level of each image (B, 3, H, W), over its channels: (B,)."""
    extent = images.amax((1, 2, 3)).double() - images.amin((1, 2, 3))
    extent = extent if images.dtype == torch.uint8 else extent * (LEVELS / 2)
    return extent.clamp(min=SMALLEST_RANGE)


def _moments(planes: Tensor, window: Window, scratch: _Scratch) -> list[Tensor]:
    """The moments of SSIM from `_planes`, times the window's squared area: sum of the squared
    means, product of the means, sum of the variances, covariance; each (H', ..., W').

    Integers, and exact, where the planes are and the window is small; else float64.
    """
    sums, area = _filter(planes, window, scratch), window.area
    if 2 * (LEVELS * area) ** 2 >= 2**31:
        sums = scratch.take("sums", sums, sums.shape, torch.float64).copy_(sums)
    x, y, squares, product = sums.unbind(1)  # (H', ..., W')
    means = torch.mul(x, x, out=scratch.take("means", sums, x.shape)).addcmul_(y, y)
    y.mul_(x)
    if area > 1:
        sums[:, 2:].mul_(area)
    return [means, y, squares.sub_(means), product.sub_(y)]


def _compare(
    moments: list[Tensor], recipe: Recipe, data_range: Tensor | None, scratch: _Scratch
) -> Tensor:
    """SSIM (B,) from `_moments` (H', B, 3, W'). It is exactly 1 where x = y, whatever the rounding:
    there every factor above is half of the one below.
    """
    means, product, variances, covariance = moments
    if recipe.data_range is not None:
        data_range = recipe.data_range
    else:
        # In full, as a number that repeats along the last dimension only would slow every sum.
        data_range = data_range[:, None, None].expand_as(means[0]).contiguous()  # (B, 3, W')
    area = recipe.window.area
    c1, c2 = ((share * data_range * area) ** 2 for share in (0.01, 0.03))
    if recipe.sample_covariance:  # all variances take the same correction, so c2 takes its inverse
        c2 = c2 * (area - 1) / area

    def plus(name: str, moment: Tensor, constant: float | Tensor) -> Tensor:
        term = scratch.take(name, moment, moment.shape, torch.float64)
        if moment.dtype == torch.float64:
            return torch.add(moment, constant, out=term)
        return term.copy_(moment).add_(constant)

    above = plus("above", product, c1 / 2).mul_(plus("factor", covariance, c2 / 2))
    below = plus("below", means, c1).mul_(plus("factor", variances, c2))
    return 4 * above.div_(below).mean((0, 2, 3))


def _multiscale(x: Tensor, y: Tensor, scratch: _Scratch) -> Tensor:
    """MS-SSIM (B,) of grey levels (H, B, 3, W): contrast and structure of five scales, multiplied,
    with the luminance of the coarsest. A negative factor counts as 0.
    """
    product, x, y = 1.0, x.double(), y.double()
    c1, c2 = (0.01 * LEVELS) ** 2, (0.03 * LEVELS) ** 2
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        planes = torch.stack([x, y, x * x + y * y, x * y], dim=1)  # (H, 4, B, 3, W)
        means, mean_product, variances, covariance = _moments(planes, GAUSSIAN, scratch)
        factor = (2 * covariance + c2) / (variances + c2)  # (H', B, 3, W')
        if scale == len(MS_SSIM_WEIGHTS) - 1:
            factor *= (2 * mean_product + c1) / (means + c1)
        product = product * factor.mean((0, 3)).clamp(min=0) ** weight  # (B, 3)
        x, y = (_halved(image) for image in (x, y))
    return product.mean(1)


def _halved(image: Tensor) -> Tensor:
    """Means of 2x2 pixels of (H, B, 3, W); an odd border is its own neighbour."""
    image = image.permute(1, 2, 0, 3)
    return F.avg_pool2d(image, 2, ceil_mode=True, count_include_pad=False).permute(2, 0, 1, 3)


def _mean(levels: Tensor) -> Tensor:
    """The mean (B,) of (H, B, 3, W), float64; integers are summed as such."""
    return levels.sum((0, 2, 3)).double() / levels[:, 0].numel()


def _gradient(image: Tensor) -> Tensor:
    """Mean gradient magnitude (B,) of (H, B, 3, W), by forward differences of the grey image."""
    grey = image[:, :, 0] + image[:, :, 1] + image[:, :, 2]  # (H, B, W)
    down, right = grey[1:, :, :-1] - grey[:-1, :, :-1], grey[:-1, :, 1:] - grey[:-1, :, :-1]
    return (down.square_() + right.square_()).double().sqrt_().mean((0, 2)) / 3


def _painted(pose: Tensor, height: int, width: int) -> Tensor:
    """Limbs as rectangles and joints as discs of poses (B, 25, 3): (H, B, W) bool.

    As the published program paints them: rectangles with their rims, discs without. The allowance
    keeps rounding from deciding which pixels of a rim belong.
    """
    xs, ys = (torch.arange(size, device=pose.device) for size in (width, height))
    joint, seen = pose[..., :2].float(), pose[..., 2] > 0
    shape = (height, len(pose), width)
    limbs, discs = (joint.new_full(shape, torch.inf) for _ in range(2))  # how far outside
    along, across = (joint.new_empty(shape) for _ in range(2))
    for a, b in MASK_LIMBS:  # one by one: all at once would need 23 times the memory
        length = (joint[:, b] - joint[:, a]).norm(dim=1, keepdim=True)  # (B, 1)
        ux, uy = ((joint[:, b] - joint[:, a]) / length.clamp(min=1e-6)).T[..., None]  # (B, 1)
        middle = (joint[:, a] + joint[:, b]) / 2
        x, y = xs - middle[:, :1], (ys - middle[:, 1:]).T[..., None]  # (B, W), (H, B, 1)
        drawn = (seen[:, a] & seen[:, b])[:, None] & (length > 0)
        half = (length / 2).where(drawn, -torch.inf)
        torch.add(uy * y, ux * x, out=along).abs_().sub_(half)
        torch.sub(ux * y, uy * x, out=across).abs_().sub_(MASK_RADIUS)
        torch.minimum(limbs, torch.maximum(along, across, out=along), out=limbs)
    for a in COCO18:
        x, y = xs - joint[:, a, :1], (ys - joint[:, a, 1:]).T[..., None]
        x = (x * x).where(seen[:, a, None], torch.inf)
        torch.minimum(discs, torch.add(y * y, x, out=along), out=discs)
    return (limbs <= 1e-4) | (discs < MASK_RADIUS**2 - 1e-3)


def _cover(pose: Tensor, height: int, width: int, scratch: _Scratch) -> Tensor:
    """The mask of a pose (B, 1, H, W) bool."""
    mask, margin = _painted(pose, height, width), CLOSING.taps // 2
    around = (margin, margin, 0, 0, margin, margin)
    dilated = _filter(F.pad(mask.int(), around), CLOSING, scratch) > 0
    eroded = _filter(F.pad(dilated.int(), around, value=1), CLOSING, scratch) == CLOSING.area
    return eroded.permute(1, 0, 2)[:, None]


def pose_mask(pose: Tensor, height: int, width: int) -> Tensor:
    """Where a pose (B, 25, 3) covers the image: (B, 1, height, width) bool, closed by a 5x5 square.

    The mask of DSCF's and PATN's programs, of the joints of COCO-18 and PG2's limbs: limbs 8 px
    wide with their rims, discs of radius 4 without. (PG2's own program paints its limbs as rows of
    discs.) A missing joint draws nothing, nor do its limbs.
    """
    return _cover(pose, height, width, _Scratch())


def _check_images(generated: Tensor, target: Tensor) -> None:
    if generated.shape != target.shape:
        shapes = f"{tuple(generated.shape)} and {tuple(target.shape)}"
        raise ValueError(f"generated and target images differ in shape: {shapes}")
    if generated.ndim != 4 or generated.shape[1] != 3 or 0 in generated.shape:
        raise ValueError(f"images must be (B, 3, H, W) and not empty, not {tuple(target.shape)}")
    for name, images in (("generated", generated), ("target", target)):
        if images.dtype == torch.uint8:
            continue
        if not images.is_floating_point():
            raise ValueError(f"the {name} images must be uint8 or float, not {images.dtype}")
        low, high = (level.item() for level in images.aminmax())
        if math.isnan(low) or math.isnan(high):
            raise ValueError(f"the {name} images hold NaN")
        if low < -1.001 or high > 1.001:
            span = f"the {name} ones reach from {low:g} to {high:g}"
            raise ValueError(f"float images must lie in [-1, 1]; {span}")


def _taps(name: str) -> int:
    """Side of the window that a score moves over its images, 1 for scores without one."""
    recipe = "dscf" if name == "mask_ssim" else name.removeprefix("ssim_")
    if name == "ms_ssim":
        # The coarsest scale must hold a window.
        return (GAUSSIAN.taps - 1) * 2 ** (len(MS_SSIM_WEIGHTS) - 1) + 1
    return (RECIPES[recipe].window if recipe in RECIPES else Window(1)).reach + 1


def _check_windows(names: list[str], height: int, width: int) -> None:
    for name in names:
        if min(height, width) < (taps := _taps(name)):
            size = f"{height}x{width}"
            raise ValueError(f"images of {size} are smaller than {name}'s {taps}x{taps} window")


def _check_pose(pose: Tensor, count: int) -> None:
    joints = len(JOINTS)
    if pose.shape != (count, joints, 3):
        raise ValueError(f"the poses must be ({count}, {joints}, 3), not {tuple(pose.shape)}")
    if not pose.isfinite().all():
        raise ValueError("the poses hold NaN or infinite numbers")


def _levels(images: Tensor, out: Tensor | None = None) -> Tensor:
    """Images (B, 3, H, W) as grey levels (H, B, 3, W), int32 or float64 as `out` is.

    Without it as `_exact` has it.
    """
    rows_first = images.permute(2, 0, 1, 3)
    if out is None:
        out = images.new_empty(rows_first.shape, dtype=_exact(images))
    out.copy_(rows_first)
    return out if images.dtype == torch.uint8 else out.add_(1).mul_(LEVELS / 2)


def _score_chunk(
    names: list[str], x: Tensor, y: Tensor, pose: Tensor | None, scratch: _Scratch
) -> dict[str, Tensor]:
    """The named scores, each (B,), of images (B, 3, H, W) and poses (B, 25, 3)."""
    recipes = [recipe for recipe in RECIPES if f"ssim_{recipe}" in names]
    similarities = _similarities(x, y, recipes, scratch)
    result = {f"ssim_{recipe}": score for recipe, score in similarities.items()}
    if "mask_ssim" in names:
        mask = _cover(pose, *x.shape[2:], scratch)  # (B, 1, H, W)
        masked = (image.where(mask, 0 if image.dtype == torch.uint8 else -1) for image in (x, y))
        score = _similarities(*masked, ["dscf"], scratch)["dscf"]
        result["mask_ssim"] = score.where(mask.flatten(1).any(1), torch.nan)
    if result.keys() >= set(names):
        return result
    x, y = (_levels(image) for image in (x, y))  # (H, B, 3, W)
    if "ms_ssim" in names:
        result["ms_ssim"] = _multiscale(x, y, scratch)
    if "detail" in names:
        result["detail"] = _gradient(x) / _gradient(y)
    if "psnr" in names:
        error = _mean((x - y).square_())
        result["psnr"] = (10 * torch.log10(LEVELS**2 / error)).clamp(max=PSNR_CEILING)
    if "l1" in names:
        result["l1"] = _mean((x - y).abs_()) / LEVELS
    return result


@torch.no_grad()
def _score(
    names: list[str], generated: Tensor, target: Tensor, pose: Tensor | None = None
) -> dict[str, Tensor]:
    """The named scores, each (B,), computed a few images at a time."""
    _check_images(generated, target)
    _check_windows(names, *generated.shape[2:])
    if pose is not None:
        _check_pose(pose, len(target))
    device = generated.device
    pixels = CPU_PIXELS if device.type == "cpu" else ACCELERATOR_PIXELS
    size = max(1, pixels // generated[0, 0].numel())
    scratch = _Scratch()
    # Made once: small results kept between large passing tensors would keep their memory as well.
    like = {"dtype": torch.float64, "device": device}
    result = {name: torch.empty(len(generated), **like) for name in names}
    for start in range(0, len(generated), size):
        chunk = slice(start, start + size)
        x, y = generated[chunk], target[chunk].to(device)
        shown = None if pose is None else pose[chunk].to(device)
        for name, score in _score_chunk(names, x, y, shown, scratch).items():
            result[name][chunk] = score
    return result


def ssim(generated: Tensor, target: Tensor, recipe: str = "dscf") -> Tensor:
    """Structural similarity (B,) by one of RECIPES, equal to scikit-image's.

    A constant generated image has data range 0, for which scikit-image divides 0 by 0 where the
    target is flat too. Here its range is SMALLEST_RANGE: 1 against itself, about 0 against any
    texture. Raises ValueError for an unknown recipe and images smaller than its window as well.
    """
    if recipe not in RECIPES:
        raise ValueError(f"there is no SSIM recipe {recipe!r}; choose from {', '.join(RECIPES)}")
    return _score([f"ssim_{recipe}"], generated, target)[f"ssim_{recipe}"]


def mask_ssim(generated: Tensor, target: Tensor, pose: Tensor) -> Tensor:
    """SSIM (B,) by `dscf` of both images times the mask of the target pose (B, 25, 3).

    NaN where no joint lies in the image, since nothing is left to compare. Raises ValueError for
    other shapes of pose and for NaN in it as well.
    """
    return _score(["mask_ssim"], generated, target, pose)["mask_ssim"]


def psnr(generated: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB at range 255, at most PSNR_CEILING.

    Identical images, whose ratio is infinite, get the ceiling: means over pairs stay finite.
    """
    return _score(["psnr"], generated, target)["psnr"]


def l1(generated: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error (B,) of images in [0, 1]."""
    return _score(["l1"], generated, target)["l1"]


def ms_ssim(generated: Tensor, target: Tensor) -> Tensor:
    """Multi-scale SSIM (B,): Wang, Simoncelli and Bovik 2003, channel by channel, then the mean.

    Raises ValueError for images whose fifth scale is smaller than the window: below 161 pixels.
    """
    return _score(["ms_ssim"], generated, target)["ms_ssim"]


def detail(generated: Tensor, target: Tensor) -> Tensor:
    """Mean gradient magnitude of the generated images over that of their targets (B,).

    SSIM rewards blur, this shows it. Over many pairs it is the ratio of the means, so a flat
    target (NaN or infinity here) does not upset it.
    """
    return _score(["detail"], generated, target)["detail"]


PIXEL_SCORES = (*(f"ssim_{name}" for name in RECIPES), "mask_ssim", "ms_ssim", "psnr", "l1")
PIXEL_SCORES += ("detail",)


def scores(
    generated: Tensor,
    target: Tensor,
    pose: Tensor | None = None,
    names: Collection[str] = PIXEL_SCORES,
) -> dict[str, Tensor]:
    """The named scores of pixels that these images allow, each (B,).

    `mask_ssim` needs the target pose (B, 25, 3), and an SSIM images no smaller than its window;
    what can't be had is left out. Recipes with the same window share its moments, so this costs
    less than one score after another. Raises what the single scores raise.
    """
    if unknown := set(names) - set(PIXEL_SCORES):
        known = ", ".join(PIXEL_SCORES)
        raise ValueError(f"there is no score {min(unknown)!r} of pixels; choose from {known}")
    side = min(target.shape[2:], default=0)
    names = [name for name in names if _taps(name) <= side]
    if pose is None:
        names = [name for name in names if name != "mask_ssim"]
    return _score(names, generated, target, pose)


def weighted_scores(
    generated: Tensor, target: Tensor, pose: Tensor | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """`scores`, and what a pair weighs in their means where it is not 1, as Means wants them."""
    return scores(generated, target, pose), {"detail": _gradient(_levels(target))}


class Means:
    """Running means of scores over batches, by name, with bootstrap intervals.

    A NaN (a mask of no joints) is left out. The bootstrap draws how often each pair counts from a
    Poisson distribution of mean 1, which for many pairs is the bootstrap's multinomial; so the
    replicates are running means too, and no pair needs to be kept. What it draws depends on the
    pair's place, not on the batches.
    """

    def __init__(self):
        self.count = 0  # of images
        self.counts: dict[str, int] = {}  # of those that have a score
        self._random = torch.Generator().manual_seed(0)
        self._sums: dict[str, Tensor] = {}  # (1 + REPLICATES, 2): weighted values, weights

    def add(self, scores: dict[str, Tensor], weights: dict[str, Tensor] | None = None) -> None:
        """Add the scores of a batch: name to (B,); `weights` of pairs where they don't all count 1.

        A ratio weighted by its denominator has the ratio of the means as its mean.
        """
        count = len(next(iter(scores.values())))
        self.count += count
        rates = torch.ones(count, REPLICATES, dtype=torch.float64)
        draws = torch.poisson(rates, generator=self._random)  # (B, REPLICATES)
        draws = torch.cat([torch.ones(count, 1, dtype=torch.float64), draws], dim=1)
        for name, values in scores.items():
            values = values.double().cpu()
            weight = (weights or {}).get(name, torch.ones(count)).double().cpu()
            weight = weight.where(values.isfinite(), 0)
            values = values.where(values.isfinite(), 0)
            self.counts[name] = self.counts.get(name, 0) + int((weight > 0).sum())
            pair = torch.stack([values * weight, weight], dim=1)  # (B, 2)
            self._sums[name] = self._sums.get(name, 0) + draws.T @ pair

    def values(self) -> dict[str, float]:
        """Name to mean over all images that have the score."""
        sums = {name: one[0] for name, one in self._sums.items()}
        return {name: float(total / weight) for name, (total, weight) in sums.items() if weight}

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Name to the 95 % interval of the mean; a single pair has none."""
        found = {}
        for name, one in self._sums.items():
            replicates = one[1:][one[1:, 1] > 0]
            if self.counts[name] > 1 and len(replicates):
                ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
                low, high = (replicates[:, 0] / replicates[:, 1]).quantile(ends).tolist()
                found[name] = (low, high)
        return found


# ------------------------------------------------------------------------------ Inception


INCEPTION_URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_SIZE = 299
CLASSES = 1008


class _InsideOnly(nn.Module):
    """Turns torchvision's 3x3 means into TensorFlow's, which don't count the padding's zeros."""

    def forward(self, means: Tensor) -> Tensor:
        inside = F.avg_pool2d(torch.ones_like(means[:1, :1]), 3, 1, 1)
        return means / inside


class _MaxPooled(inception.InceptionE):
    """The last block, where TensorFlow's network of 2015-12-05 takes the maximum, not the mean."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        *branches, _ = super()._forward(x)
        return [*branches, self.branch_pool(F.max_pool2d(x, 3, 1, 1))]


class Inception(nn.Module):
    """The Inception network of 2015-12-05, with which the papers compute Inception Score and FID.

    `weights` is a file of its weights in the names of torchvision and pytorch-fid, otherwise they
    are fetched once into torch's cache. `official` says whether they are the published ones, by
    their SHA-256. Raises ClickException where they can't be had or don't fit.
    """

    def __init__(self, weights: Path | None = None):
        super().__init__()
        path = weights or _fetched_inception()
        state = read_state_dict(path)
        self.official = _sha256(path) == INCEPTION_SHA256
        network = inception.Inception3(CLASSES, False, False, init_weights=False)
        network.Mixed_7c = _MaxPooled(2048)
        # The published file knows nothing of the counters that batch norm got later.
        missing, _ = network.load_state_dict(_fitting(state, network, path), strict=False)
        lacking = [name for name in missing if not name.endswith("num_batches_tracked")]
        if lacking:
            problem = f"lacks {len(lacking)} tensors, the first {lacking[0]}"
            raise BadInput(path, problem, "give the weights that pytorch-fid uses")
        self.register_buffer("classifier", network.fc.weight.detach())  # (1008, 2048)
        network.fc = nn.Identity()
        self.network = _counting_inside(fused(network)).requires_grad_(False)
        self.network.to(memory_format=torch.channels_last)

    def features(self, images: Tensor, resize: str = "tensorflow") -> Tensor:
        """pool3 (B, 2048) of images uint8 (B, 3, H, W).

        Resized to 299x299 as TensorFlow 1 does it, which the Inception Score wants, or as "torch"
        does it, which pytorch-fid uses. Raises ValueError for other images.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be uint8 (B, 3, H, W), not {tuple(images.shape)}")
        images = images.to(self.classifier.device).float()
        if resize == "tensorflow":
            x = (_resized(images) - 128) / 128
        else:
            size = (INCEPTION_SIZE, INCEPTION_SIZE)
            x = 2 * F.interpolate(images / 255, size, mode="bilinear", align_corners=False) - 1
        x = x.contiguous(memory_format=torch.channels_last)  # (B, 3, 299, 299)
        with torch.inference_mode():
            return self.network(x)

    def logits_unbiased(self, images: Tensor) -> Tensor:
        """The classifier without its bias (B, 1008): what the papers' Inception Score is made of.

        Images as for `features`.
        """
        return self.features(images) @ self.classifier.T


def _fetched_inception() -> Path:
    path = Path(torch.hub.get_dir(), "checkpoints", INCEPTION_URL.rpartition("/")[2])
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(INCEPTION_URL, str(path), INCEPTION_SHA256, False)
        except Exception as error:  # urllib's, ssl's and hashing's errors share no base class
            problem, remedy = f"can't be fetched ({error})", "give them with --inception-weights"
            raise BadInput("Inception weights", problem, remedy) from None
    elif _sha256(path) != INCEPTION_SHA256:
        problem = "damaged: its SHA-256 is not the published one"
        raise BadInput(path, problem, "delete it, and it is fetched anew")
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _fitting(state: dict, network: nn.Module, path: Path) -> dict:
    """The tensors of a state dict that the network has; raises where one has another shape."""
    own = network.state_dict()
    for name, value in own.items():
        if name not in state:
            continue
        if not isinstance(state[name], Tensor) or state[name].shape != value.shape:
            found = tuple(getattr(state[name], "shape", "?"))
            problem = f"{name} is {found}, not {tuple(value.shape)}"
            raise BadInput(path, problem, "give the weights that pytorch-fid uses")
        if not state[name].isfinite().all():
            problem = f"{name} holds numbers that are not finite"
            raise BadInput(path, problem, "give the weights that pytorch-fid uses")
    return {name: value for name, value in state.items() if name in own}


def _counting_inside(network: nn.Module) -> nn.Module:
    """Let the mean pools count as TensorFlow's do."""
    mean_pooled = (inception.InceptionA, inception.InceptionC, inception.InceptionE)
    for block in network.children():
        if isinstance(block, mean_pooled) and not isinstance(block, _MaxPooled):
            block.branch_pool = nn.Sequential(_InsideOnly(), block.branch_pool)
    return network


def _resized(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) at 299x299, bilinear without half-pixel centres: TensorFlow 1's way."""
    rows, columns = (_resize_matrix(size, images.device) for size in images.shape[2:])
    return rows @ (images @ columns.T)


@cache
def _resize_matrix(size: int, device: torch.device) -> Tensor:
    """The matrix (299, size) that looks up between pixel i * size / 299 and the next."""
    at = torch.arange(INCEPTION_SIZE, dtype=torch.float32) * (size / INCEPTION_SIZE)
    low = at.floor().long()
    share = at - low
    matrix = torch.zeros(INCEPTION_SIZE, size)
    matrix.scatter_add_(1, low[:, None], 1 - share[:, None])
    matrix.scatter_add_(1, (low + 1).clamp(max=size - 1)[:, None], share[:, None])
    return matrix.to(device)


def inception_score(probabilities: Tensor, splits: int = SPLITS) -> tuple[float, float]:
    """Inception Score of class probabilities (N, classes): mean and population deviation.

    Salimans et al. 2016 as the papers compute it: exp of the mean KL divergence between an image's
    probabilities and their mean, for each of `splits` contiguous parts in the order of the pairs.
    Raises ValueError for fewer images than splits.
    """
    score = InceptionScore(len(probabilities), splits)
    score.add(probabilities)
    return score.value()


class InceptionScore:
    """The Inception Score of `count` images, batch after batch; keeps sums only."""

    def __init__(self, count: int, splits: int = SPLITS):
        if not 1 <= splits <= count:
            raise ValueError(f"{count} images can't be split into {splits} parts")
        self.ends = [count * (i + 1) // splits for i in range(splits)]
        self.seen = 0
        self.parts = [[0, 0.0, 0.0] for _ in self.ends]  # images, sums of p and of p log p

    def add(self, probabilities: Tensor) -> None:
        """Add the probabilities (B, classes) of the next images."""
        for row in probabilities.double().cpu().split(1):
            part = self.parts[sum(self.seen >= end for end in self.ends)]
            part[0] += 1
            part[1] = part[1] + row[0]
            part[2] += torch.special.xlogy(row, row).sum().item()  # 0 log 0 is 0
            self.seen += 1

    def value(self) -> tuple[float, float]:
        """Mean and population standard deviation over the splits."""
        divergences = []
        for images, total, negentropy in self.parts:
            mean = total / images
            divergences.append(negentropy / images - torch.special.xlogy(mean, mean).sum())
        scores = torch.stack(divergences).exp()
        return scores.mean().item(), scores.std(correction=0).item()


class FeatureStatistics:
    """Running mean and covariance of features (B, D), in float64: memory for D x D numbers."""

    def __init__(self):
        self.count = 0
        self._shift = self._sum = self._products = None

    def add(self, features: Tensor) -> None:
        """Add the features of a batch."""
        features = features.double().cpu()
        if self._shift is None:  # about the mean, so that nothing is lost when it is subtracted
            self._shift = features.mean(0)
            self._sum, self._products = 0, 0
        features = features - self._shift
        self.count += len(features)
        self._sum = self._sum + features.sum(0)
        self._products = self._products + features.T @ features

    def mean(self) -> Tensor:
        """The mean (D,)."""
        return self._shift + self._sum / self.count

    def covariance(self) -> Tensor:
        """The sample covariance (D, D). Raises ValueError for fewer than two samples."""
        if self.count < 2:
            raise ValueError("a covariance needs at least two images")
        mean = self._sum / self.count
        return (self._products - self.count * torch.outer(mean, mean)) / (self.count - 1)


def fid(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
    """Frechet distance of two Gaussians, means (D,), covariances (D, D), in float64.

    |a - b|² + Tr(A + B - 2 (AB)^½), Heusel et al. 2017. The trace of the root is the sum of the
    roots of the eigenvalues of A^½ B A^½, which is symmetric; rounding below 0 counts as 0.
    NaN where something is not finite.
    """
    if not all(x.isfinite().all() for x in (mean_a, covariance_a, mean_b, covariance_b)):
        return math.nan
    A, B = covariance_a.double(), covariance_b.double()
    values, vectors = torch.linalg.eigh(A)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T  # A^½
    inner = root @ B @ root
    common = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp(min=0).sqrt().sum()
    distance = (mean_a.double() - mean_b.double()).square().sum()
    return max(0.0, (distance + A.trace() + B.trace() - 2 * common).item())


# ------------------------------------------------------------------------------ pose, perception


def head_length(pose: Tensor) -> Tensor:
    """The head of poses (B, 25, 3) in pixels, (B,): from nose to neck.

    BODY_25 has no top of the head. Where the nose is missing too, a third of the spine, which is
    that length in people upright; NaN where nothing tells.
    """
    seen = pose[..., 2] > 0  # (B, 25)

    def distance(a: int, b: int) -> Tensor:
        length = (pose[:, a, :2] - pose[:, b, :2]).norm(dim=1)
        return length.where(seen[:, a] & seen[:, b], torch.nan)

    head, spine = distance(0, NECK), distance(NECK, MID_HIP)
    return head.where(~head.isnan(), spine / 3)


def pose_scores(found: Tensor, target: Tensor) -> dict[str, Tensor]:
    """PCKh@0.5 and mean distance of poses found in images against the target's, both (B, 25, 3).

    Of the joints that detectors know (COCO-17) those of the target count; one not found is wrong,
    and has no distance. NaN where the target has none.
    """
    joints = list(COCO17)
    found, wanted = found[:, joints].double(), target[:, joints].double()
    there = wanted[..., 2] > 0  # (B, 17)
    both = there & (found[..., 2] > 0)
    distance = (found[..., :2] - wanted[..., :2]).norm(dim=2)
    head = head_length(target)
    right = both & (distance <= HEAD_SHARE * head[:, None])
    share = right.sum(1) / there.sum(1)  # 0 / 0 is NaN
    return {
        "pck": share.where(~head.isnan(), torch.nan).double(),
        "pose_error": (distance * both).sum(1) / both.sum(1),
    }


class Networks(NamedTuple):
    """The networks that some scores need; None where they are not to be had."""

    inception: Inception | None = None
    lpips: nn.Module | None = None
    keypoints: Callable | None = None  # pictures uint8 (H, W, 3) to poses (B, 25, 3)


NEEDS = {  # score to the network it needs
    "inception_score": "inception",
    "inception_score_std": "inception",
    "fid": "inception",
    "lpips": "lpips",
    "pck": "keypoints",
    "pose_error": "keypoints",
}


def load_networks(
    inception_weights: Path | None,
    pose_weights: str | None,
    device: torch.device,
    skip: Collection[str],
) -> tuple[Networks, dict[str, str]]:
    """The networks that can be had, but for those to skip, and why the others can't be.

    Raises ClickException for weights that were given and are none.
    """
    given = {"inception": inception_weights, "keypoints": pose_weights}
    loaders = {
        "inception": lambda: Inception(inception_weights).to(device),
        "lpips": lambda: _lpips().to(device),
        "keypoints": lambda: _keypoints(pose_weights, device),
    }
    loaded, reasons = {}, dict.fromkeys(skip, "skipped")
    for name, load in loaders.items():
        if name in skip:
            continue
        try:
            loaded[name] = load()
        except BadInput as error:
            if given.get(name):
                raise
            reasons[name] = error.message
    return Networks(**loaded), reasons


def _lpips() -> nn.Module:
    try:
        import lpips
    except ImportError:
        problem, remedy = "the package is not installed", "pip install 'posegan[lpips]'"
        raise BadInput("lpips", problem, remedy) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks torchvision in an old way
            return lpips.LPIPS(net="alex", verbose=False).requires_grad_(False)
    except Exception as error:  # urllib's, ssl's and hashing's errors share no base class
        problem = f"AlexNet's weights can't be fetched ({error})"
        raise BadInput("lpips", problem, "put torchvision's file into torch's cache") from None


def _keypoints(weights: str | None, device: torch.device) -> Callable:
    find_poses([], weights, device)  # raises where the weights are not to be had
    return partial(find_poses, weights=weights, device=device)


# ------------------------------------------------------------------------------ all of them


def _of_each(compute: Callable, images: Tensor) -> Tensor:
    """What `compute` gives for images (B, ...); for one image B times, as the mean image, once."""
    if images.stride(0) == 0:
        found = compute(images[:1])
        return found.expand(len(images), *found.shape[1:])
    return compute(images)


class Scorer:
    """All scores of one system, batch after batch; memory does not grow with the pairs.

    `count` is the number of pairs to come, which the splits of the Inception Score want to know,
    `size` their height and width; `reasons` says why networks are missing, `posed` whether target
    poses will come.
    """

    def __init__(
        self,
        count: int,
        size: tuple[int, int],
        networks: Networks,
        reasons: dict[str, str],
        posed: bool = True,
        beside: "Scorer | None" = None,
    ):
        self.count, self.size, self.networks, self.means = count, size, networks, Means()
        least = {name: _taps(name) for name in RECIPE_NOTES} | {"lpips": LPIPS_PIXELS}
        self._missing = {
            name: f"needs images of at least {pixels} pixels a side"
            for name, pixels in least.items()
            if min(size) < pixels
        }
        self._missing |= {name: reasons[net] for name, net in NEEDS.items() if net in reasons}
        self._generated, self._beside = FeatureStatistics(), beside
        self._target = beside._target if beside else FeatureStatistics()
        self._inception_score = None
        if networks.inception and count >= SPLITS:
            self._inception_score = InceptionScore(count)
        if count < SPLITS:
            few = f"needs at least {SPLITS} pairs, one a split"
            names = ("inception_score", "inception_score_std")
            self._missing |= dict.fromkeys(names, few)
        if count < 2:
            self._missing["fid"] = "needs at least 2 pairs"
        if not posed:
            names = ("mask_ssim", "pck", "pose_error")
            self._missing |= dict.fromkeys(names, "needs the targets' poses: --poses")
        self._known = (-1, {})  # the values at a count of pairs, as a distance takes seconds

    def add(
        self, generated: Tensor, target: Tensor, pose: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Add images uint8 (B, 3, H, W) and target poses (B, 25, 3); gives the scores (B,)."""
        single, weights = weighted_scores(generated, target, pose)
        if self.networks.lpips is not None and "lpips" not in self._missing:
            device = next(self.networks.lpips.parameters()).device
            images = (x.to(device).float() / (LEVELS / 2) - 1 for x in (generated, target))
            with torch.inference_mode():
                single["lpips"] = self.networks.lpips(*images).flatten().cpu()
        if self.networks.keypoints is not None and pose is not None:
            single |= pose_scores(_of_each(self._poses, generated), pose)
        self.means.add(single, weights)
        if self.networks.inception is not None:
            self._add_features(generated, target)
        return single

    def baseline(self) -> "Scorer":
        """A scorer to be given the same targets, batch for batch after this one: it takes their
        features from here.
        """
        return Scorer(self.count, self.size, self.networks, {}, beside=self)

    def _poses(self, images: Tensor) -> Tensor:
        pictures = list(images.permute(0, 2, 3, 1).cpu().numpy())
        return torch.from_numpy(self.networks.keypoints(pictures))

    def _add_features(self, generated: Tensor, target: Tensor) -> None:
        network = self.networks.inception
        features = partial(network.features, resize="torch")
        if self._inception_score is not None:
            logits = _of_each(network.logits_unbiased, generated)
            self._inception_score.add(logits.double().softmax(1))
        self._generated.add(_of_each(features, generated))
        if self._beside is None:
            self._target.add(features(target))

    def values(self) -> dict[str, float]:
        """Name to score, of those that could be had."""
        if self._known[0] != self.means.count:
            self._known = (self.means.count, self._computed())
        return self._known[1]

    def _computed(self) -> dict[str, float]:
        values = self.means.values()
        if self._inception_score is not None:
            names = ("inception_score", "inception_score_std")
            values |= dict(zip(names, self._inception_score.value()))
        if self._generated.count > 1:
            sides = (self._generated, self._target)
            values["fid"] = fid(*(x for one in sides for x in (one.mean(), one.covariance())))
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def recipe(self, name: str) -> str:
        """How a score was computed, and of how many pairs where some have none."""
        text, count = RECIPE_NOTES[name].text, self.means.counts.get(name, 0)
        if 0 < count < self.means.count:
            text += f"; of {count:,} pairs, the others have none"
        if NEEDS.get(name) == "inception" and self.networks.inception is not None:
            text += "" if self.networks.inception.official else "; OTHER WEIGHTS than the published"
        return text

    def reasons(self, ahead: bool = False) -> dict[str, str]:
        """Name to why it could not be had; `ahead` of any images, as far as that is known."""
        if ahead:
            return self._missing
        have = self.values()
        known = dict.fromkeys(OF_ALL_PAIRS, "the network's features are not finite")
        known["detail"] = "the targets are flat"
        known["pose_error"] = "no target joint was found in the images"
        known["pck"] = "no target pose shows nose and neck, or the spine, for the head's size"
        known["mask_ssim"] = "no target pose lies inside its image"
        known |= self._missing
        return {name: reason for name, reason in known.items() if name not in have}
