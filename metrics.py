"""Scores of generated images against their targets: functions of tensors, and their running means.

Images are (B, 3, H, W), either uint8 or float in [-1, 1], scaled to 0 to 255 without rounding.
Scores of pairs are (B,) float64; FID keeps running sums, the Inception Score the logits.
Everything runs on the images' device. Images that can't be scored raise ValueError.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection
from copy import copy
from functools import cache, cached_property, partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posegan.features import find_poses, inception_2015, inception_imagenet, patience
from posegan.poses import COCO17, COCO18, JOINTS, MID_HIP, NECK

LEVELS = 255.0  # the range of an image, in grey levels
BLOCK = 24  # outputs per matrix product: few enough that little is multiplied by zero
CPU_PIXELS = 2**14  # pixels scored at once: what fits in the cache
ACCELERATOR_PIXELS = 2**20  # the same elsewhere: bounds the memory to about 1 GB
SMALLEST_RANGE = 1e-2  # grey levels; the data range assigned to a constant image
INCEPTION_SIZE = 299
PSNR_CEILING = 100.0  # dB; the score of identical images, so that means stay finite
MASK_RADIUS, MASK_CLOSING = 4, 5  # pixels: radius of joints and limbs; square that closes gaps
MASK_LIMBS = (  # PG2's, which later papers use too
    *((1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7), (2, 9), (5, 12), (9, 12)),
    *((1, 9), (9, 10), (10, 11), (1, 12), (12, 13), (13, 14)),
    *((0, 1), (0, 15), (15, 17), (0, 16), (16, 18), (1, 17), (1, 18), (17, 18)),
)
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang 2003, fine to coarse
REPLICATES = 1000  # of the bootstrap
SPLITS = 10  # of the Inception Score, in all papers
HEAD_SHARE = 0.5  # of the head size that a correct joint may be off: PCKh@0.5


class Recipe(NamedTuple):
    """What distinguishes the field's SSIMs from each other."""

    taps: int  # of the separable window, in pixels per side
    sigma: float | None  # of a Gaussian window, pixels; None: a uniform one
    data_range: float | None  # grey levels; None: max - min of the generated image, all channels
    sample_covariance: bool


RECIPES = {
    "dscf": Recipe(11, 1.5, None, False),
    "wang": Recipe(11, 1.5, LEVELS, False),
    "pg2": Recipe(7, None, LEVELS, True),
    "gfla": Recipe(51, None, LEVELS, True),
}
PIXEL_SCORES = (*map("ssim_{}".format, RECIPES), "mask_ssim", "ms_ssim", "psnr", "l1", "detail")
SMALLEST_SIDES = {  # pixels per side: the window must fit, for MS-SSIM at the fifth scale
    **{f"ssim_{name}": recipe.taps for name, recipe in RECIPES.items()},
    **{"mask_ssim": 11, "ms_ssim": 10 * 2**4 + 1, "lpips": 32},
}


# ------------------------------------------------------------------------------ SSIM


@cache
def _bands(
    window: tuple, length: int, block: int, dtype: torch.dtype, device: torch.device
) -> list[tuple[slice, Tensor]]:
    """A window (taps, sigma) slid along `length` pixels, as matrix products: for every `block`
    outputs, the inputs they read and the weights (outputs, inputs), 1 in a uniform window.
    """
    taps, sigma = window
    with torch.inference_mode(False):  # else training could not use them later
        places = torch.arange(length, dtype=torch.float64, device=device)
        count = length - taps + 1
        offsets = places - places[:count, None] - taps // 2  # (count, length)
        weights = torch.exp(-0.5 * (offsets / sigma) ** 2) if sigma else 1.0
        band = weights * (offsets.abs() <= taps // 2)
        band = (band / band[0].sum() if sigma else band).to(dtype)
        spans = [(start, min(start + block, count)) for start in range(0, count, block)]
        inputs = [slice(start, end + taps - 1) for start, end in spans]
        return [(read, band[slice(*span), read].contiguous()) for span, read in zip(spans, inputs)]


def _sums(x: Tensor, y: Tensor, recipe: Recipe) -> Tensor:
    """Window-weighted sums (H', 2, 2, B, 3, W') of x + y, x - y and their squares.

    For levels (H, B, 3, W): with rows first, both products read memory contiguously. Sum and
    difference need four planes where x and y need five, and make SSIM(x, x) exactly 1.
    """
    H, W = x.shape[0], x.shape[3]
    # One product on accelerators, and with gradients, which overlapping blocks slow down.
    whole = torch.is_grad_enabled() or x.device.type != "cpu"
    block = max(H, W) if whole else BLOCK
    rows, columns = (_bands(recipe[:2], size, block, x.dtype, x.device) for size in (H, W))
    total, difference = x + y, x - y
    planes = torch.stack([total, difference, total.square(), difference.square()], dim=1)
    lines = planes.reshape(-1, W)  # (H * 4 * B * 3, W)
    narrow = torch.cat([lines[:, inputs] @ band.T for inputs, band in columns], dim=1)
    heights = narrow.view(H, -1)  # (H, 4 * B * 3 * W')
    sums = torch.cat([band @ heights[inputs] for inputs, band in rows])
    return sums.view(len(sums), 2, 2, *x.shape[1:3], narrow.shape[1])


def _factors(sums: Tensor, recipe: Recipe, data_range: float | Tensor) -> tuple[Tensor, Tensor]:
    """SSIM's factors, luminance and contrast-structure, (H', B, 3, W') each, from `_sums`."""
    area = 1 if recipe.sigma else recipe.taps**2  # the sum of its weights
    c1, c2 = (2 * (share * data_range) ** 2 for share in (0.01, 0.03))
    if recipe.sample_covariance:  # scaling c2 instead of every variance gives the same ratio
        c2 = c2 * (area - 1) / area
    means, squares = sums.unbind(1)  # (H', 2, B, 3, W')
    means = means.square()
    mean, shared = means.unbind(1)  # 2 * (ux² + uy²) and 4 * ux * uy are their sum and difference
    variance, unshared = torch.sub(squares, means, alpha=1 / area).unbind(1)
    mean, variance = mean + c1 * area**2, variance + c2 * area
    return (mean - shared) / (mean + shared), (variance - unshared) / (variance + unshared)


def _ssim(sums: Tensor, recipe: Recipe, data_range: float | Tensor) -> Tensor:
    """SSIM (B,), averaged over positions and channels, from `_sums`."""
    luminance, structure = _factors(sums, recipe, data_range)
    return (luminance * structure).mean((0, 2, 3))


def similarity(x: Tensor, y: Tensor, recipe: Recipe, data_range: float) -> Tensor:
    """SSIM (B,) of levels (H, B, 3, W), in their own dtype, with gradients: for losses."""
    return _ssim(_sums(x, y, recipe), recipe, data_range)


def _similarities(x: Tensor, y: Tensor, names: Collection[str]) -> dict[str, Tensor]:
    """SSIMs (B,) of grey levels (H, B, 3, W) by name; recipes with equal windows share the sums."""
    extent = (x.amax((0, 2, 3)) - x.amin((0, 2, 3))).clamp(min=SMALLEST_RANGE)[:, None, None]
    result, sums = {}, {}
    for name in names:
        recipe = RECIPES[name.removeprefix("ssim_")]
        window = recipe[:2]
        if window not in sums:
            sums[window] = _sums(x, y, recipe)
        result[name] = _ssim(sums[window], recipe, recipe.data_range or extent)
    return result


def _levels(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) as grey levels (H, B, 3, W) float64."""
    levels = images.permute(2, 0, 1, 3).double().contiguous()
    return levels if images.dtype == torch.uint8 else (levels + 1) * (LEVELS / 2)


def _multiscale(x: Tensor, y: Tensor) -> Tensor:
    """MS-SSIM (B,) of grey levels (H, B, 3, W), mean over channels: the product of contrast and
    structure at five scales and luminance at the coarsest (Wang 2003). Negative factors count as 0.
    """
    wang, product = RECIPES["wang"], 1.0
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        luminance, factor = _factors(_sums(x, y, wang), wang, LEVELS)
        if scale == len(MS_SSIM_WEIGHTS) - 1:
            factor = factor * luminance
        product = product * factor.mean((0, 3)).clamp(min=0) ** weight  # (B, 3)
        # Means of 2x2 pixels, of fewer at an odd border.
        halve = partial(F.avg_pool2d, kernel_size=2, ceil_mode=True, count_include_pad=False)
        x, y = (halve(z.permute(1, 2, 0, 3)).permute(2, 0, 1, 3) for z in (x, y))
    return product.mean(1)


def _gradient(image: Tensor) -> Tensor:
    """Mean gradient magnitude (B,) of (H, B, 3, W), by forward differences of the grey image."""
    grey = image.sum(2)  # (H, B, W)
    down, right = grey.diff(dim=0)[:, :, :-1], grey.diff(dim=2)[:-1]
    return (down.square() + right.square()).sqrt().mean((0, 2)) / 3


def pose_mask(pose: Tensor, height: int, width: int) -> Tensor:
    """Where a pose (B, 25, 3) covers the image: (B, 1, height, width) bool, closed by a 5x5 square.

    The mask of DSCF's and PATN's programs, from COCO-18's joints and PG2's limbs: limbs 8 px wide
    including the rim, discs of radius 4 excluding it. Missing joints and their limbs are not drawn.
    """
    joint, seen = pose[..., :2, None, None].double(), pose[..., 2, None, None] > 0
    xs, ys = (torch.arange(size, device=pose.device) for size in (width, height))
    mask = torch.zeros(len(pose), height, width, dtype=torch.bool, device=pose.device)
    # The tolerances keep rounding from deciding which rim pixels belong.
    for a, b in MASK_LIMBS:
        way, middle = joint[:, b] - joint[:, a], (joint[:, b] + joint[:, a]) / 2  # (B, 2, 1, 1)
        length = way.norm(dim=1)  # (B, 1, 1)
        ux, uy = (way / length[:, None].clamp(min=1e-6)).unbind(1)
        x, y = xs - middle[:, 0], ys[:, None] - middle[:, 1]  # (B, 1, W), (B, H, 1)
        along, across = (ux * x + uy * y).abs(), (ux * y - uy * x).abs()  # (B, H, W)
        inside = (along <= length / 2 + 1e-4) & (across <= MASK_RADIUS + 1e-4)
        mask |= inside & seen[:, a] & seen[:, b] & (length > 0)
    for a in COCO18:
        x, y = xs - joint[:, a, 0], ys[:, None] - joint[:, a, 1]
        mask |= (x.square() + y.square() < MASK_RADIUS**2 - 1e-3) & seen[:, a]
    margin = MASK_CLOSING // 2
    dilated = F.max_pool2d(mask[:, None].float(), MASK_CLOSING, 1, margin)
    return F.max_pool2d(-dilated, MASK_CLOSING, 1, margin) < 0  # beyond the edges counts as mask


def _check(generated: Tensor, target: Tensor, pose: Tensor | None) -> None:
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
        if not -1.001 <= low <= high <= 1.001:  # also catches NaN
            span = f"the {name} images range from {low:g} to {high:g}"
            raise ValueError(f"float images must lie in [-1, 1]; {span}")
    shape = (len(target), len(JOINTS), 3)
    if pose is not None and pose.shape != shape:
        raise ValueError(f"the poses must be {shape}, not {tuple(pose.shape)}")
    if pose is not None and not pose.isfinite().all():
        raise ValueError("the poses contain NaN or infinite numbers")


def _score_chunk(
    names: Collection[str], x: Tensor, y: Tensor, pose: Tensor | None = None
) -> dict[str, Tensor]:
    """The named scores, each (B,), of images (B, 3, H, W) and poses (B, 25, 3)."""
    x, y = _levels(x), _levels(y)  # (H, B, 3, W)
    result = _similarities(x, y, [name for name in names if name.startswith("ssim_")])
    if "mask_ssim" in names:
        mask = pose_mask(pose, x.shape[0], x.shape[3]).permute(2, 0, 1, 3)  # (H, B, 1, W)
        (score,) = _similarities(x * mask, y * mask, ["ssim_dscf"]).values()
        result["mask_ssim"] = score.where(mask.any((0, 2, 3)), torch.nan)
    error = x - y
    if "ms_ssim" in names:
        result["ms_ssim"] = _multiscale(x, y)
    if "detail" in names:
        result["detail"] = _gradient(x) / _gradient(y)
    if "psnr" in names:
        ratio = LEVELS**2 / error.square().mean((0, 2, 3))
        result["psnr"] = (10 * torch.log10(ratio)).clamp(max=PSNR_CEILING)
    if "l1" in names:
        result["l1"] = error.abs().mean((0, 2, 3)) / LEVELS
    return result


@torch.no_grad()
def scores(
    generated: Tensor,
    target: Tensor,
    pose: Tensor | None = None,
    names: Collection[str] = PIXEL_SCORES,
) -> dict[str, Tensor]:
    """The named pixel scores that these images allow, each (B,), on the device of `generated`.

    `mask_ssim` needs the target pose (B, 25, 3), and is NaN if no joint lies in the image; every
    SSIM needs images at least as large as its window; unavailable scores are left out. `detail` is
    the mean gradient magnitude relative to the target's: it shows the blur that SSIM rewards. SSIM
    equals scikit-image's, except for a constant image under `dscf`, whose data range of 0 is
    replaced by SMALLEST_RANGE. Raises ValueError for unusable names, images and poses.
    """
    if unknown := set(names) - set(PIXEL_SCORES):
        known = ", ".join(PIXEL_SCORES)
        raise ValueError(f"there is no pixel score {min(unknown)!r}; choose from {known}")
    _check(generated, target, pose)
    side, posed = min(target.shape[2:]), pose is not None
    names = [n for n in names if SMALLEST_SIDES.get(n, 1) <= side and (posed or n != "mask_ssim")]
    device = generated.device
    pixels = CPU_PIXELS if device.type == "cpu" else ACCELERATOR_PIXELS
    size = max(1, pixels // generated[0, 0].numel())
    given = [generated, target.to(device)] + ([pose.to(device)] if posed else [])
    # Allocated first: small results among large temporary tensors would keep their memory in use.
    result = torch.empty(len(names), len(generated), dtype=torch.float64, device=device)
    for columns, *chunk in zip(result.split(size, 1), *(side.split(size) for side in given)):
        found = _score_chunk(names, *chunk)
        for row, name in zip(columns, names):
            row.copy_(found[name])
    return dict(zip(names, result))


class Means:
    """Running means of scores over batches, by name, with bootstrap intervals.

    NaNs (masks without joints) are left out. How often each pair counts in a replicate is drawn
    from a Poisson distribution of mean 1, which for many pairs approaches the bootstrap's
    multinomial: replicates are running means too, and no pairs are stored. Draws depend on the
    order of the pairs, not on the batches.
    """

    def __init__(self):
        self.counts: dict[str, int] = {}  # name to the number of images that have the score
        self._random = torch.Generator().manual_seed(0)
        self._sums: dict[str, Tensor] = {}  # (1 + REPLICATES, 2): weighted values, weights

    def add(self, scores: dict[str, Tensor], weights: dict[str, Tensor] | None = None) -> None:
        """Add a batch, scores (B,) by name, with `weights` of the pairs, 1 by default."""
        count = max(map(len, scores.values()), default=0)
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
        """The means by name, over all images that have the score."""
        sums = {name: one[0] for name, one in self._sums.items()}
        return {name: float(total / weight) for name, (total, weight) in sums.items() if weight}

    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % intervals of the means by name; a single pair has none."""
        ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
        means = {name: one[1:, 0] / one[1:, 1] for name, one in self._sums.items()}  # or NaN
        known = {name: one for name, one in means.items() if self.counts[name] > 1}
        return {name: tuple(one.nanquantile(ends).tolist()) for name, one in known.items()}


# ------------------------------------------------------------------------------ Inception


# Without TF32, whose three digits would make scores depend on the device.
full_float32 = partial(torch.backends.cudnn.flags, enabled=True, allow_tf32=False)


@torch.inference_mode()
def features(network: nn.Module, images: Tensor, resize: str) -> Tensor:
    """Pooled features (B, 2048) of images uint8 (B, 3, H, W), resized to 299x299.

    `resize` names the program to follow: "tensorflow" (Inception Score), "pytorch-fid" or "gfla".
    Raises ValueError for other images.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be uint8 (B, 3, H, W), not {tuple(images.shape)}")
    x = images.float()
    if resize == "tensorflow":
        rows, columns = (_resize_matrix(size, x.device) for size in x.shape[2:])
        x = (rows @ (x @ columns.T) - 128) / 128
    else:
        size = (INCEPTION_SIZE, INCEPTION_SIZE)
        x = F.interpolate(x / LEVELS, size, mode="bilinear", align_corners=False)
        x = 2 * x - 1 if resize == "pytorch-fid" else x
    with full_float32():
        return network(x.contiguous(memory_format=torch.channels_last))


def _resize_matrix(size: int, device: torch.device) -> Tensor:
    """TensorFlow 1's resize matrix (299, size): linear interpolation at i * size / 299."""
    at = torch.arange(INCEPTION_SIZE, device=device) * (size / INCEPTION_SIZE)
    distance = at.clamp(max=size - 1)[:, None] - torch.arange(size, device=device)
    return (1 - distance.abs()).clamp(min=0)


def inception_score(probabilities: Tensor, splits: int = SPLITS) -> tuple[float, float]:
    """Inception Score of class probabilities (N, classes): mean and population standard deviation.

    Salimans et al. 2016, as the papers compute it: exp of the mean KL divergence between the
    images' class probabilities and their mean, in each of `splits` contiguous parts. Raises
    ValueError for fewer images than splits.
    """
    count, entropy = len(probabilities), torch.special.entr  # 0 log 0 is 0
    if not 1 <= splits <= count:
        raise ValueError(f"{count} images can't be split into {splits} parts")
    ends = [count * i // splits for i in range(1, splits)]
    parts = probabilities.double().tensor_split(ends)
    divergences = [entropy(one.mean(0)).sum() - entropy(one).sum(1).mean() for one in parts]
    scores = torch.stack(divergences).exp()
    return scores.mean().item(), scores.std(correction=0).item()


class FeatureStatistics:
    """Running mean and covariance of features (B, D), in float64, in O(D x D) memory."""

    def __init__(self):
        self.count, self._sum, self._products = 0, 0.0, 0.0

    def add(self, features: Tensor) -> None:
        """Add the features of a batch."""
        features = features.double()
        self.count += len(features)
        self._sum = self._sum + features.sum(0)
        self._products = self._products + features.T @ features

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and sample covariance (D, D). Raises ValueError for fewer than two samples."""
        if self.count < 2:
            raise ValueError("a covariance needs at least two images")
        mean = self._sum / self.count
        scatter = self._products - self.count * torch.outer(mean, mean)
        return mean, scatter / (self.count - 1)


def fid(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
    """Frechet distance of two Gaussians, means (D,), covariances (D, D), in float64.

    |a - b|² + Tr(A + B - 2 (AB)^½), Heusel et al. 2017. The trace of the root is the sum of the
    square roots of the eigenvalues of the symmetric A^½ B A^½; values rounded below 0 count as 0.
    NaN if any input is not finite.
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


def head_length(pose: Tensor) -> Tensor:
    """The head size of poses (B, 25, 3) in pixels, (B,): the distance from nose to neck.

    BODY_25 has no top of the head. Without a nose, a third of the spine, which has that length in
    upright people; NaN if neither is known.
    """
    ends = pose[:, [0, NECK, MID_HIP]]  # (B, 3, 3)
    known = (ends[:, :2, 2] > 0) & (ends[:, 1:, 2] > 0)
    lengths = ends[..., :2].diff(dim=1).norm(dim=2).where(known, torch.nan)  # (B, 2)
    head, spine = lengths.unbind(1)
    return head.where(~head.isnan(), spine / 3)


def pose_scores(found: Tensor, target: Tensor) -> dict[str, Tensor]:
    """PCKh@0.5 and mean distance of poses detected in images from the targets', both (B, 25, 3).

    Over the target's joints that detectors know (COCO-17); a joint not found is wrong and has no
    distance. NaN if the target has none.
    """
    joints = list(COCO17)
    found, wanted = found[:, joints].double(), target[:, joints].double()
    there = wanted[..., 2] > 0  # (B, 17)
    both = there & (found[..., 2] > 0)
    distance = (found[..., :2] - wanted[..., :2]).norm(dim=2)
    head = head_length(target)
    right = both & (distance <= HEAD_SHARE * head[:, None])
    share = right.sum(1) / there.sum(1)  # 0 / 0 is NaN
    error = (distance * both).sum(1) / both.sum(1)
    return {"pck": share.where(~head.isnan(), torch.nan).double(), "pose_error": error}


NEEDS = {  # the network that a score needs
    **dict.fromkeys(("inception_score", "inception_score_std", "fid"), "inception"),
    **{"fid_gfla": "imagenet", "lpips": "lpips", "pck": "keypoints", "pose_error": "keypoints"},
}
PYTORCH_FID = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
RELEASED = "https://download.pytorch.org/models/"  # torchvision's
WEIGHTS = {  # each network's title and the URL of its weights
    "inception": ("Inception of 2015-12-05", f"{PYTORCH_FID}pt_inception-2015-12-05-6726825d.pth"),
    "imagenet": ("torchvision's Inception", f"{RELEASED}inception_v3_google-0cc3c7bd.pth"),
    "lpips": ("AlexNet", f"{RELEASED}alexnet-owt-7be5be79.pth"),
    "keypoints": ("Keypoint R-CNN", f"{RELEASED}keypointrcnn_resnet50_fpn_coco-fc266e95.pth"),
}


def load_networks(names: Collection[str], device: torch.device) -> tuple[dict, dict[str, str]]:
    """The networks that scores need, downloaded once, and the reasons for missing scores."""
    loaded, missing = {}, {}
    with patience():
        for network in {NEEDS[name] for name in names if name in NEEDS}:
            try:
                loaded[network] = _load(network, device)
            except Exception as error:  # urllib, ssl, pickle, hashing: no common base
                missing[network] = _in_one_line(error, *WEIGHTS[network])
    return loaded, {name: missing[NEEDS[name]] for name in names if NEEDS.get(name) in missing}


def _load(network: str, device: torch.device) -> nn.Module | Callable:
    if network == "lpips":
        import lpips

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it uses a deprecated torchvision call
            return lpips.LPIPS(net="alex", verbose=False).requires_grad_(False).to(device)
    how = {"check_hash": True, "progress": False, "map_location": "cpu", "weights_only": True}
    state = torch.hub.load_state_dict_from_url(WEIGHTS[network][1], **how)
    if network == "keypoints":  # find_poses reads the weights from the cache
        find_poses([], None, device)
        return _found_poses
    build = {"inception": inception_2015, "imagenet": inception_imagenet}[network]
    return build(state).to(device)


def _found_poses(images: Tensor) -> Tensor:
    pictures = list(images.permute(0, 2, 3, 1).cpu().numpy())
    with full_float32():
        return torch.from_numpy(find_poses(pictures, None, images.device)).to(images.device)


def _in_one_line(error: Exception, title: str, url: str) -> str:
    """Why weights can't be fetched, read or used, and what to do about it."""
    if isinstance(error, ImportError):
        return "lpips: the package is not installed; pip install 'posegan[lpips]'"
    file = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    line = (str(error).splitlines() or [type(error).__name__])[0]
    if file.exists():
        return f"{file}: not the weights of {title} ({line}); delete it to fetch it again"
    remedy = f"put {file.name} into {file.parent}"
    return f"the weights of {title}: can't be fetched ({line}); {remedy}"


# ------------------------------------------------------------------------------ all of them


class Scorer:
    """The named scores of one system, batch by batch.

    Expects `count` pairs of `size` (height, width); `networks` and `missing`, the reasons why
    scores are unavailable, are as `load_networks` returns them. `fid_gfla` compares with the
    training images of `add_reference`. Computed on `device`; the Inception Score keeps 4 kB per
    pair.
    """

    def __init__(
        self,
        count: int,
        size: tuple[int, int],
        names: Collection[str] = PIXEL_SCORES,
        device: torch.device | str = "cpu",
        networks: dict | None = None,
        missing: dict[str, str] | None = None,
    ):
        self.names, self.device = names, device
        self.networks, self.missing = networks or {}, dict(missing or {})
        for name in names:
            if min(size) < (pixels := SMALLEST_SIDES.get(name, 1)):
                self.missing[name] = f"needs images of at least {pixels} pixels a side"
            if name.startswith("inception_score") and count < SPLITS:
                self.missing[name] = f"needs at least {SPLITS} pairs, one per split"
            if name.startswith("fid") and count < 2:
                self.missing[name] = "needs at least 2 pairs"
        self.seen, self.means, self._logits = 0, Means(), []
        self._features, self._beside = defaultdict(FeatureStatistics), False

    def computes(self, *names: str) -> bool:
        """Whether one of these scores is requested and, as far as known, available."""
        return any(name in self.names and name not in self.missing for name in names)

    def baseline(self) -> "Scorer":
        """A scorer for the same targets, fed after this one, which shares its target features."""
        other = copy(self)
        other.seen, other.means, other._logits, other._beside = 0, Means(), [], True
        shared = {part: self._features[part] for part in ("target", "reference")}
        other._features = defaultdict(FeatureStatistics, shared)
        return other

    def add_reference(self, images: Tensor) -> None:
        """Add training images uint8 (B, 3, H, W), the reference of `fid_gfla`."""
        found = features(self.networks["imagenet"], images.to(self.device), "gfla")
        self._features["reference"].add(found)

    def add(
        self, generated: Tensor, target: Tensor, pose: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Add images uint8 (B, 3, H, W) and target poses (B, 25, 3); returns their scores (B,)."""
        generated, target = generated.to(self.device), target.to(self.device)
        pose = pose if pose is None else pose.to(self.device)
        once = generated[:1] if generated.stride(0) == 0 else generated  # the mean image, once
        names, weights = [name for name in PIXEL_SCORES if self.computes(name)], {}
        single = scores(generated, target, pose, names)
        if "detail" in single:  # makes its mean a ratio of means, which flat targets don't upset
            weights["detail"] = _gradient(_levels(target))
        if self.computes("lpips"):
            images = (x.float() / (LEVELS / 2) - 1 for x in (generated, target))
            with torch.inference_mode(), full_float32():
                single["lpips"] = self.networks["lpips"](*images).flatten()
        if self.computes("pck", "pose_error") and pose is not None:
            found = self.networks["keypoints"](once).expand_as(pose)
            found = pose_scores(found, pose)
            single |= {name: score for name, score in found.items() if name in self.names}
        self.means.add(single, weights)
        self._add_features(once, target)
        self.seen += len(target)
        return single

    def _add_features(self, generated: Tensor, target: Tensor) -> None:
        # Images are (B, 3, H, W), or a single one that stands for all.
        count = len(target)
        if self.computes("inception_score", "inception_score_std"):
            network = self.networks["inception"]
            logits = features(network, generated, "tensorflow") @ network.classifier.T  # (B, 1008)
            self._logits.append(logits.expand(count, -1).cpu())
        if self.computes("fid"):
            pool3 = partial(features, self.networks["inception"], resize="pytorch-fid")
            self._features["generated"].add(pool3(generated).expand(count, -1))
            if not self._beside:  # the main scorer has already added them
                self._features["target"].add(pool3(target))
        if self.computes("fid_gfla"):
            found = features(self.networks["imagenet"], generated, "gfla")
            self._features["generated_gfla"].add(found.expand(count, -1))

    @cached_property
    def values(self) -> dict[str, float]:
        """The available scores by name, once all pairs are added."""
        values = self.means.values()
        if self._logits:
            mean, deviation = inception_score(torch.cat(self._logits).double().softmax(1))
            values |= {"inception_score": mean, "inception_score_std": deviation}
        pairs = {"fid": ("generated", "target"), "fid_gfla": ("generated_gfla", "reference")}
        for name, parts in pairs.items():
            sides = [self._features[part] for part in parts]
            if min(side.count for side in sides) > 1:
                values[name] = fid(*sides[0].moments(), *sides[1].moments())
        known = (name for name in self.names if math.isfinite(values.get(name, math.nan)))
        return {name: values[name] for name in known}

    @property
    def reasons(self) -> dict[str, str]:
        """The reason for each requested score that is unavailable."""
        known = {
            "detail": "the targets are flat",
            "pose_error": "no target joint was found in the images",
            "pck": "no target pose shows nose and neck, or the spine, for the head's size",
            "mask_ssim": "no target pose lies inside its image",
        } | self.missing
        lacking = (name for name in self.names if name not in self.values)
        return {name: known.get(name, "the result is not finite") for name in lacking}
