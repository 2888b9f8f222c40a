"""Scores of generated images against their targets: pure functions of tensors.

Images are (B, 3, H, W), either uint8 or float in [-1, 1], which is taken as 0 to 255 unrounded.
Every score comes as (B,) float64, one number a pair. Images that can't be scored (other shapes,
other types, NaN, values outside the range) raise ValueError.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from poses import JOINTS, LIMBS

LEVELS = 255.0  # the range of an image, in grey levels
BLOCK = 12  # outputs of a filter that one matrix product computes; a tile of the BLAS is as wide
CPU_PIXELS = 2**15  # of the images scored at once: what fits into the cache
ACCELERATOR_PIXELS = 2**20  # the same elsewhere: bounds the memory to about 1 GB
SMALLEST_RANGE = 1e-2  # grey levels; the data range that a constant image is given
PSNR_CEILING = 100.0  # dB; what identical images score, so that means stay finite
MASK_RADIUS = 4  # pixels; of the joints' discs, and half the width of a limb


class Window(NamedTuple):
    """A separable SSIM window: Gaussian, or uniform where sigma is None; sizes in pixels."""

    taps: int
    sigma: float | None = None


class Recipe(NamedTuple):
    """What tells one SSIM of the field from another."""

    window: Window
    data_range: float | None  # grey levels; None: max - min of the generated image, all channels
    sample_covariance: bool


GAUSSIAN = Window(11, 1.5)
CLOSING = Window(5)  # the square that closes the mask's gaps
RECIPES = {
    "dscf": Recipe(GAUSSIAN, None, False),
    "wang": Recipe(GAUSSIAN, LEVELS, False),
    "pg2": Recipe(Window(7), LEVELS, True),
    "gfla": Recipe(Window(51), LEVELS, True),
}


class Note(NamedTuple):
    """How a score was computed, in one line, and which way is better: "higher" or "lower"."""

    text: str
    better: str


RECIPE_NOTES = {
    "ssim_dscf": Note("Gaussian 11 taps, range of the generated image", "higher"),
    "ssim_wang": Note("Gaussian 11 taps, range 255", "higher"),
    "ssim_pg2": Note("uniform 7x7, sample covariance, range 255", "higher"),
    "ssim_gfla": Note("uniform 51x51, sample covariance, range 1", "higher"),
    "mask_ssim": Note("as dscf, both images times the target pose's mask", "higher"),
    "psnr": Note("dB at range 255, identical images count 100", "higher"),
    "l1": Note("mean absolute error, images in [0, 1]", "lower"),
}


class Published(NamedTuple):
    """A row of scores from a paper; None where it gives none, or does not say by what recipe."""

    model: str
    data: str
    ssim: float | None
    inception_score: float | None
    recipe: str | None
    source: str
    lpips: float | None = None
    fid: float | None = None


def _published() -> tuple[Published, ...]:
    market, fashion = "Market-1501", "DeepFashion"
    table = (  # DeepFashion SSIM and IS, Market-1501 SSIM and IS
        ("pix2pix", 0.692, 3.249, 0.183, 2.678),
        ("PG2", 0.762, 3.090, 0.253, 3.460),
        ("DSCF (Deformable GAN)", 0.761, 3.351, 0.290, 3.185),
        ("BodyROI7", 0.614, 3.228, 0.099, 3.483),
        ("Dong et al. (Soft-gated Warping-GAN)", 0.793, 3.314, 0.356, 3.409),
        ("RPT-GAN without augmentation", 0.713, 3.006, 0.268, 3.425),
        ("RPT-GAN, full", 0.781, 3.238, 0.302, 3.488),
    )
    later = (("PATN", 0.311, 3.323), ("XingGAN", 0.313, 3.506), ("BiGraphGAN", 0.325, 3.329))
    newer = (  # SSIM, LPIPS, FID
        *(("DSCF", 0.268, 0.299, 25.4), ("PATN", 0.282, 0.320, 22.7)),
        *(("GFLA", 0.288, 0.282, 19.8), ("DPTN", 0.285, 0.271, 19.0)),
        *(("PIDM", 0.305, 0.242, 14.5), ("PCDMs", 0.317, 0.224, 13.9)),
    )
    first, own, since = "RPT-GAN, Table 1", "the model's paper", "papers since GFLA"
    return (
        *(Published(m, market, ssim, score, "dscf", first) for m, _, _, ssim, score in table),
        *(Published(m, fashion, ssim, score, "dscf", first) for m, ssim, score, _, _ in table),
        *(Published(m, market, ssim, score, "dscf", own) for m, ssim, score in later),
        Published("real images", market, None, 3.890, None, own),
        *(Published(m, market, s, None, "gfla", since, lpips, fid) for m, s, lpips, fid in newer),
        Published("IMAGPose", market, 0.328, None, None, since, 0.210, 12.7),
    )


PUBLISHED = _published()


class _Scratch(dict):
    """Memory that one chunk after another fills anew, because fresh pages cost more than the sums.

    What is taken under a name is lost when the name is taken again.
    """

    def take(self, name: str, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        size = math.prod(shape)
        if name not in self or self[name].numel() < size:
            self[name] = like.new_empty(size)
        return self[name][:size].view(shape)


@cache
def _band(window: Window, device: torch.device) -> Tensor:
    """The matrix whose row i holds the Gaussian's weights from column i on."""
    offsets = torch.arange(window.taps, dtype=torch.float64) - window.taps // 2
    weights = torch.exp(-0.5 * (offsets / window.sigma) ** 2)
    weights /= weights.sum()
    band = torch.zeros(BLOCK, BLOCK + window.taps - 1, dtype=torch.float64)
    for row in range(BLOCK):
        band[row, row : row + window.taps] = weights
    return band.to(device)


def _blocks(length: int, window: Window) -> list[tuple[int, int, int]]:
    """Start, outputs and inputs of each block of `length` outputs."""
    starts = range(0, length, BLOCK)
    sizes = [min(BLOCK, length - start) for start in starts]
    return [(start, n, n + window.taps - 1) for start, n in zip(starts, sizes, strict=True)]


def _gaussian(planes: Tensor, window: Window, scratch: _Scratch) -> Tensor:
    """Gaussian means of (H, ..., W), wherever the window fits: (H', ..., W').

    Rows, then columns, as products with a banded matrix. Blocks keep the band's zeros few, and rows
    in front make every factor a plain matrix in memory, so that nothing is copied.
    """
    H, *middle, W = planes.shape
    band = _band(window, planes.device)  # (BLOCK, BLOCK + taps - 1)
    high, wide = H - window.taps + 1, W - window.taps + 1
    rows = planes.view(-1, W)  # (H * N, W)
    narrow = scratch.take("rows", planes, (len(rows), wide))  # (H * N, W')
    for start, size, reach in _blocks(wide, window):
        part = rows[:, start : start + reach]
        torch.mm(part, band[:size, :reach].T, out=narrow[:, start : start + size])
    columns = narrow.view(H, -1)  # (H, N * W')
    result = scratch.take("filtered", planes, (high, columns.shape[1]))  # (H', N * W')
    for start, size, reach in _blocks(high, window):
        part = columns[start : start + reach]
        torch.mm(band[:size, :reach], part, out=result[start : start + size])
    return result.view(high, *middle, wide)


def _sums(planes: Tensor, dim: int, taps: int, result: Tensor, scratch: _Scratch) -> Tensor:
    """Sums of `taps` neighbours, an odd number, along a dimension, into `result`.

    Runs of 2, 4, 8, … neighbours, each the sum of two runs half as long, make up the window.
    """
    length = result.shape[dim]
    total, offset = planes.narrow(dim, 0, length), 1
    runs, size = planes, 2
    while size <= taps:
        shape = list(runs.shape)
        shape[dim] -= size // 2
        halves = (runs.narrow(dim, start, shape[dim]) for start in (0, size // 2))
        name = f"runs {size.bit_length() % 2}"  # by turns, as the shorter runs are still read
        runs = torch.add(*halves, out=scratch.take(name, planes, shape))
        if taps & size:
            total = torch.add(total, runs.narrow(dim, offset, length), out=result)
            offset += size
        size *= 2
    return total


def _uniform(planes: Tensor, window: Window, scratch: _Scratch) -> Tensor:
    """Means of (H, ..., W) over squares, wherever they fit: (H', ..., W')."""
    H, *middle, W = planes.shape
    high, wide = H - window.taps + 1, W - window.taps + 1
    rows = scratch.take("rows", planes, (H, *middle, wide))
    _sums(planes, -1, window.taps, rows, scratch)
    result = scratch.take("filtered", planes, (high, *middle, wide))
    return _sums(rows, 0, window.taps, result, scratch).div_(window.taps**2)


def _filter(planes: Tensor, window: Window, scratch: _Scratch) -> Tensor:
    """Weighted means of (H, ..., W) under a window, wherever it fits: (H', ..., W')."""
    return (_gaussian if window.sigma else _uniform)(planes, window, scratch)


def _similarities(x: Tensor, y: Tensor, recipes: list[str], scratch: _Scratch) -> dict[str, Tensor]:
    """SSIM (B,) of grey levels (H, B, 3, W) by each recipe.

    Of s = x + y and d = x - y only means and variances are needed, four moments, not five:
    SSIM = (E[s]² - E[d]² + 2C1) (V[s] - V[d] + 2C2) / ((E[s]² + E[d]² + 2C1) (V[s] + V[d] + 2C2)).
    It is exactly 1 where d = 0, whatever the rounding.
    """
    H, B, _, W = x.shape
    planes = scratch.take("planes", x, (H, 4, B, 3, W))
    torch.add(x, y, out=planes[:, 0])
    torch.sub(x, y, out=planes[:, 1])
    torch.mul(planes[:, :2], planes[:, :2], out=planes[:, 2:])
    result = dict.fromkeys(recipes)
    for window in {RECIPES[name].window for name in result}:
        moments = _filter(planes, window, scratch)  # (H', 4, B, 3, W')
        moments[:, :2].square_()
        moments[:, 2:].sub_(moments[:, :2])
        for name in result:
            if RECIPES[name].window == window:
                result[name] = _compare(moments, RECIPES[name], x)
    return result


def _compare(moments: Tensor, recipe: Recipe, x: Tensor) -> Tensor:
    """SSIM (B,) from squared means and variances of sum and difference, (H', 4, B, 3, W')."""
    data_range = recipe.data_range
    if data_range is None:
        data_range = (x.amax((0, 2, 3)) - x.amin((0, 2, 3))).clamp(min=SMALLEST_RANGE)
        data_range = data_range[:, None, None]  # (B, 1, 1)
    samples = recipe.window.taps**2
    correction = samples / (samples - 1) if recipe.sample_covariance else 1.0
    mean_sum, mean_difference, sum_, difference = moments.unbind(1)  # (H', B, 3, W')
    denominator = mean_sum + 2 * (0.01 * data_range) ** 2
    score = denominator - mean_difference
    denominator += mean_difference
    # All variances take the same correction, so the constant takes its inverse instead.
    spread = sum_ + 2 * (0.03 * data_range) ** 2 / correction
    score *= spread - difference
    denominator *= spread.add_(difference)
    return score.div_(denominator).mean((0, 2, 3))


def _limb_distance(start: Tensor, end: Tensor, height: int, width: int) -> Tensor:
    """Squared distance (H, B, W) of each pixel to the nearest segment, given by ends (B, L, 2)."""
    along = end - start
    length = along.norm(dim=-1, keepdim=True)
    unit = torch.where(length > 0, along / length, along.new_tensor([1.0, 0.0]))  # (B, L, 2)
    half = length / 2  # (B, L, 1)
    middle = (start + end) / 2
    x = torch.arange(width, device=start.device) - middle[..., :1]  # (B, L, W)
    y = (torch.arange(height, device=start.device) - middle[..., 1:]).permute(2, 0, 1)  # (H, B, L)
    ux, uy = unit.unbind(-1)  # (B, L)
    along_x, across_x = ux[..., None] * x, uy[..., None] * x  # (B, L, W)
    along_y, across_y = uy * y, ux * y  # (H, B, L)
    nearest = start.new_full((height, len(start), width), torch.inf)
    for limb in range(start.shape[1]):  # one by one: all at once would need L times the memory
        beyond = along_x[:, limb] + along_y[:, :, limb, None]  # (H, B, W)
        beyond.abs_().sub_(half[:, limb]).clamp_(min=0)
        across = across_x[:, limb] - across_y[:, :, limb, None]  # (H, B, W)
        torch.minimum(nearest, beyond.square_().addcmul_(across, across), out=nearest)
    return nearest


def _cover(pose: Tensor, height: int, width: int, scratch: _Scratch) -> Tensor:
    """The mask of a pose with rows in front, (H, B, 1, W) float64, 1 where it covers."""
    start, end = (pose[:, list(joints)].float() for joints in zip(*LIMBS, strict=True))
    here, there = start[..., 2:] > 0, end[..., 2:] > 0  # (B, L, 1)
    start, end = start[..., :2], end[..., :2]  # (B, L, 2)
    # A limb that lacks one joint shrinks to the disc of the other; one that lacks both goes away.
    far = start.new_tensor(1e9)
    start, end = (
        torch.where(here, start, torch.where(there, end, far)),
        torch.where(there, end, torch.where(here, start, far)),
    )
    # The allowance keeps rounding from deciding which pixels of the rim belong.
    mask = _limb_distance(start, end, height, width) <= MASK_RADIUS**2 + 1e-3  # (H, B, W)
    margin, pixel = CLOSING.taps // 2, 1 / CLOSING.taps**2  # a window's mean counts its pixels
    around = (margin, margin, 0, 0, margin, margin)
    dilated = _filter(F.pad(mask.double(), around), CLOSING, scratch) > 0.5 * pixel
    eroded = _filter(F.pad(dilated.double(), around, value=1.0), CLOSING, scratch) > 1 - 0.5 * pixel
    return eroded[:, :, None].double()  # (H, B, 1, W)


def pose_mask(pose: Tensor, height: int, width: int) -> Tensor:
    """Where a pose (B, 25, 3) covers the image: (B, 1, height, width) bool, closed by a 5x5 square.

    Limbs are 8 px wide, joints discs of radius 4, rims included; a missing joint draws nothing.
    """
    return _cover(pose, height, width, _Scratch()).permute(1, 2, 0, 3).bool()


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
    return RECIPES[recipe].window.taps if recipe in RECIPES else 1


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


def _levels(images: Tensor) -> Tensor:
    """(B, 3, H, W) as float64 grey levels (H, B, 3, W): rows first, as _filter wants them."""
    images = images.permute(2, 0, 1, 3)  # (H, B, 3, W)
    levels = images.to(torch.float64, memory_format=torch.contiguous_format)
    return levels if images.dtype == torch.uint8 else levels.add_(1).mul_(LEVELS / 2)


def _score_chunk(
    names: list[str], x: Tensor, y: Tensor, pose: Tensor | None, scratch: _Scratch
) -> dict[str, Tensor]:
    """The named scores, each (B,), of grey levels (H, B, 3, W) and poses (B, 25, 3)."""
    recipes = [recipe for recipe in RECIPES if f"ssim_{recipe}" in names]
    similarities = _similarities(x, y, recipes, scratch) if recipes else {}
    result = {f"ssim_{recipe}": score for recipe, score in similarities.items()}
    if "mask_ssim" in names:
        mask = _cover(pose, x.shape[0], x.shape[3], scratch)  # (H, B, 1, W)
        score = _similarities(x * mask, y * mask, ["dscf"], scratch)["dscf"]
        result["mask_ssim"] = score.where(mask.amax((0, 2, 3)) > 0, torch.nan)
    if "psnr" in names:
        error = (x - y).square_().mean((0, 2, 3))  # (B,)
        result["psnr"] = (10 * torch.log10(LEVELS**2 / error)).clamp(max=PSNR_CEILING)
    if "l1" in names:
        result["l1"] = (x - y).abs_().mean((0, 2, 3)) / LEVELS
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
    scratch, parts = _Scratch(), []
    for start in range(0, len(generated), size):
        chunk = slice(start, start + size)
        x, y = _levels(generated[chunk]), _levels(target[chunk].to(device))
        shown = None if pose is None else pose[chunk].to(device)
        parts.append(_score_chunk(names, x, y, shown, scratch))
    return {name: torch.cat([part[name] for part in parts]) for name in names}


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


def scores(generated: Tensor, target: Tensor, pose: Tensor | None = None) -> dict[str, Tensor]:
    """Every score of RECIPE_NOTES that these images allow, each (B,).

    `mask_ssim` needs the target pose (B, 25, 3), and an SSIM images no smaller than its window;
    what can't be had is left out. Recipes with the same window share its moments, so this costs
    less than one score after another. Raises what the single scores raise.
    """
    side = min(target.shape[2:], default=0)
    names = [name for name in RECIPE_NOTES if _taps(name) <= side]
    if pose is None:
        names = [name for name in names if name != "mask_ssim"]
    return _score(names, generated, target, pose)


class Means:
    """Running means of scores over batches, by name; a NaN (a mask of no joints) is left out."""

    def __init__(self):
        self.count = 0  # of images
        self._sums: dict[str, list] = {}

    def add(self, scores: dict[str, Tensor]) -> None:
        """Add the scores of a batch: name to (B,)."""
        self.count += len(next(iter(scores.values())))
        for name, values in scores.items():
            known = values[~values.isnan()]
            total = self._sums.setdefault(name, [0.0, 0])
            total[0] += float(known.sum())
            total[1] += len(known)

    def values(self) -> dict[str, float]:
        """Name to mean over all images that have the score."""
        return {name: total / count for name, (total, count) in self._sums.items() if count}
