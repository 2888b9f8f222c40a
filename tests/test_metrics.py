"""Scores against scikit-image, closed forms and what must not change them."""

import hashlib
import math
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.draw import disk, polygon
from skimage.metrics import structural_similarity
from skimage.morphology import dilation, erosion
from torchvision.models import AlexNet_Weights, Inception_V3_Weights, inception_v3
from torchvision.models.detection import KeypointRCNN_ResNet50_FPN_Weights

from posegan import metrics, scoring
from posegan.poses import COCO18, JOINTS

EXPERIMENTS = Path(__file__).parents[1] / "EXPERIMENTS.md"
SIZES = [(128, 64), (53, 75), (60, 51)]


def reference(generated: np.ndarray, target: np.ndarray, recipe: str) -> float:
    """scikit-image's SSIM of two uint8 (H, W, 3) images by the recipe."""
    options = {"channel_axis": 2, "data_range": 255.0}
    if recipe in ("dscf", "wang"):
        options |= {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    if recipe == "dscf":
        options["data_range"] = float(generated.max()) - float(generated.min())
    if recipe == "gfla":
        options |= {"win_size": 51, "data_range": 1.0}
        return structural_similarity(generated / 255, target / 255, **options)
    return structural_similarity(generated.astype(float), target.astype(float), **options)


def score(name: str, generated, target, pose: torch.Tensor | None = None) -> torch.Tensor:
    """One score of pixels (B,)."""
    return metrics.scores(generated, target, pose, [name])[name]


def noise(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def scene(height: int, width: int, shift: float) -> np.ndarray:
    """A smooth picture with edges, flat patches and a little grain, like a photograph."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (9 + c) + shift) * np.cos(y / (13 - c)) for c in range(3)]
    image = 120 + 70 * np.stack(waves, 2) + np.random.default_rng(1).normal(0, 4, (*x.shape, 3))
    image[(x - width / 2 - 3 * shift) ** 2 + (y - height / 2) ** 2 < 300] = (200, 40, 90)
    image[: height // 4] = 255  # as saturated as a white wall
    return image.clip(0, 255).astype(np.uint8)


def batch(*images: np.ndarray) -> torch.Tensor:
    """(H, W, 3) images as (B, 3, H, W)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def full(value: int, height: int = 64, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def one_joint(x: float, y: float, joint: int = 4) -> torch.Tensor:
    pose = torch.zeros(1, 25, 3)
    pose[0, joint] = torch.tensor([x, y, 1.0])
    return pose


def random_poses(count: int, height: int, width: int) -> torch.Tensor:
    """Joints in and a little outside the image, a third of them missing."""
    draw = torch.Generator().manual_seed(3)
    pose = torch.rand(count, 25, 3, generator=draw) * torch.tensor([width + 10.0, height + 10.0, 1])
    pose[..., :2] -= 5
    return pose * (torch.rand(count, 25, 1, generator=draw) > 1 / 3)


@pytest.mark.parametrize("recipe", metrics.RECIPES)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_ssim_equals_scikit_image(recipe, height, width):
    generated = [noise(height, width, 0), scene(height, width, 0.4), noise(height, width, 2)]
    target = [noise(height, width, 1), scene(height, width, 0.0), scene(height, width, 0.0)]
    generated[2] = generated[2] // 4 + 90  # a range well below 255
    ours = score(f"ssim_{recipe}", batch(*generated), batch(*target))
    expected = [reference(x, y, recipe) for x, y in zip(generated, target)]
    np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=1e-6)
    assert ours.dtype == torch.float64


@pytest.mark.parametrize("recipe", ["wang", "pg2", "gfla"])
@pytest.mark.parametrize("values", [(0, 0), (0, 255), (0, 40), (130, 130), (130, 131), (255, 9)])
def test_ssim_of_constant_images_equals_scikit_image(recipe, values):
    generated, target = (full(value) for value in values)
    ours = score(f"ssim_{recipe}", batch(generated), batch(target))
    assert ours.item() == pytest.approx(reference(generated, target, recipe), abs=1e-6)


@pytest.mark.parametrize("recipe", metrics.RECIPES)
def test_ssim_of_black_or_grey_against_texture_equals_scikit_image(recipe):
    target = noise(64, 64, 5)
    for value in (0, 77):
        ours = score(f"ssim_{recipe}", batch(full(value)), batch(target))
        assert ours.item() == pytest.approx(reference(full(value), target, recipe), abs=1e-6)
    ours = score(f"ssim_{recipe}", batch(target), batch(full(0)))
    assert ours.item() == pytest.approx(reference(target, full(0), recipe), abs=1e-6)


def test_ssim_by_dscf_of_constant_images_is_that_of_a_vanishing_range():
    a, b = 60.0, 120.0
    assert score("ssim_dscf", batch(full(0)), batch(full(0))).item() == 1
    assert score("ssim_dscf", batch(full(60)), batch(full(60))).item() == 1
    luminance = 2 * a * b / (a * a + b * b)
    ours = score("ssim_dscf", batch(full(60)), batch(full(120))).item()
    assert ours == pytest.approx(luminance, abs=1e-3)


@pytest.mark.parametrize("recipe", metrics.RECIPES)
def test_ssim_of_an_image_with_itself_is_one(recipe):
    images = batch(noise(64, 60, 0), scene(64, 60, 0.2), full(9, 64, 60))
    for same in (images, images / 127.5 - 1):
        assert score(f"ssim_{recipe}", same, same).tolist() == [1, 1, 1]


def test_the_published_outputs_score_as_scikit_image_says(shared_data):
    folder = shared_data / "dscf-market1501"
    names = sorted(path.name for path in (folder / "generated").iterdir())
    generated, target = (
        batch(*(np.array(Image.open(folder / kind / name)) for name in names))
        for kind in ("generated", "target")
    )
    means = {name: score.mean().item() for name, score in metrics.scores(generated, target).items()}
    expected = {"pg2": 0.395511, "dscf": 0.383964, "wang": 0.411494, "gfla": 0.636216}
    assert len(names) == 100
    for recipe, value in expected.items():
        assert means[f"ssim_{recipe}"] == pytest.approx(value, abs=1e-6)


def test_psnr_and_l1_have_their_closed_forms():
    generated, target = batch(full(100), full(0), full(8)), batch(full(105), full(255), full(8))
    expected = [20 * math.log10(255 / 5), 0.0, metrics.PSNR_CEILING]
    assert score("psnr", generated, target).tolist() == pytest.approx(expected)
    assert score("l1", generated, target).tolist() == pytest.approx([5 / 255, 1.0, 0.0])
    half = full(0)
    half[:32] = 10  # half of the pixels off by 10: mean square 50, mean 5
    assert score("psnr", batch(half), batch(full(0))).item() == pytest.approx(
        10 * math.log10(255**2 / 50)
    )
    assert score("l1", batch(half), batch(full(0))).item() == pytest.approx(5 / 255)


def test_float_and_uint8_images_score_the_same():
    generated, target = batch(scene(70, 64, 0.3), noise(70, 64, 1)), batch(*[scene(70, 64, 0)] * 2)
    pose = random_poses(2, 70, 64)
    expected = metrics.scores(generated, target, pose)
    as_float = metrics.scores(generated / 127.5 - 1, target / 127.5 - 1, pose)
    mixed = metrics.scores(generated / 127.5 - 1, target, pose)
    for name, values in expected.items():
        torch.testing.assert_close(as_float[name], values, rtol=0, atol=1e-5, msg=name)
        torch.testing.assert_close(mixed[name], values, rtol=0, atol=1e-5, msg=name)


def test_scores_do_not_depend_on_the_batch():
    count = 11  # more than are scored at once
    generated = batch(*(scene(128, 64, i / 9) for i in range(count)))
    target = batch(*(noise(128, 64, i) if i % 3 else scene(128, 64, 0) for i in range(count)))
    pose = random_poses(count, 128, 64)
    together = metrics.scores(generated, target, pose)
    for i in range(count):
        alone = metrics.scores(generated[i : i + 1], target[i : i + 1], pose[i : i + 1])
        for name, values in alone.items():
            torch.testing.assert_close(together[name][i : i + 1], values, rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_scores_do_not_depend_on_the_device():
    generated, target = batch(scene(176, 176, 0.3)), batch(noise(176, 176, 4))
    pose = random_poses(1, 176, 176)
    there = metrics.scores(generated.cuda(), target.cuda(), pose.cuda())
    for name, here in metrics.scores(generated, target, pose).items():
        assert torch.allclose(there[name].cpu(), here, atol=1e-9), name


def test_ms_ssim_is_that_of_wang_2003():
    x, y = scene(176, 193, 0.0).astype(float), scene(176, 193, 0.2).astype(float)
    factors = []
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        mean = lambda image: gaussian_filter(image, (1.5, 1.5, 0), truncate=3.5)  # noqa: E731
        ux, uy = mean(x), mean(y)
        vx, vy, vxy = mean(x * x) - ux * ux, mean(y * y) - uy * uy, mean(x * y) - ux * uy
        factor = (2 * vxy + 58.5225) / (vx + vy + 58.5225)
        if scale == 4:
            factor = factor * (2 * ux * uy + 6.5025) / (ux**2 + uy**2 + 6.5025)
        factors.append(factor[5:-5, 5:-5].mean((0, 1)).clip(0) ** weight)  # (3,)
        x, y = (
            np.pad(image, [(0, s % 2) for s in image.shape[:2]] + [(0, 0)], "edge")
            for image in (x, y)
        )
        x, y = (sum(image[i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4 for image in (x, y))
    images = batch(scene(176, 193, 0.0)), batch(scene(176, 193, 0.2))
    assert score("ms_ssim", *images).item() == pytest.approx(np.prod(factors, 0).mean(), abs=1e-9)
    assert score("ms_ssim", images[0], images[0]).item() == pytest.approx(1)
    assert "ms_ssim" in metrics.scores(*(image[:, :, :161] for image in images))
    assert "ms_ssim" not in metrics.scores(*(image[:, :, :160] for image in images))


def test_detail_is_the_ratio_of_gradients():
    sharp, soft = full(0), full(0)
    sharp[:, 32:], soft[:, 32:] = 200, 50  # the same edge, a quarter as high
    assert score("detail", batch(soft), batch(sharp)).item() == pytest.approx(0.25)
    assert score("detail", batch(sharp), batch(sharp)).item() == pytest.approx(1)
    scorer = metrics.Scorer(3, (64, 64))
    flat = full(7)
    for generated, target in ((soft, sharp), (flat, flat), (sharp, soft)):
        scorer.add(batch(generated), batch(target))
    # The ratio of the means: (50 + 0 + 200) / (200 + 0 + 50), a flat pair upsets nothing.
    assert scorer.values["detail"] == pytest.approx(1)


def test_the_detail_of_the_published_outputs(shared_data):
    folder = shared_data / "dscf-market1501"
    scorer = metrics.Scorer(100, (128, 64), ["detail"])
    for path in sorted((folder / "generated").iterdir()):
        pair = [np.array(Image.open(folder / kind / path.name)) for kind in ("generated", "target")]
        scorer.add(*map(batch, pair))
    assert scorer.values == {"detail": pytest.approx(0.74, abs=0.005)}


def test_scores_do_not_depend_on_what_else_is_asked():
    generated, target = batch(scene(64, 64, 0.3)), batch(noise(64, 64, 4))
    pose = random_poses(1, 64, 64)
    together = metrics.scores(generated, target, pose)
    assert set(together) == set(metrics.PIXEL_SCORES) - {"ms_ssim"}  # too small for it
    for name, values in together.items():
        assert torch.equal(values, score(name, generated, target, pose))
        assert values.shape == (1,) and values.dtype == torch.float64


def test_scores_leave_out_what_the_images_do_not_allow():
    names = set(metrics.scores(batch(full(0)), batch(full(0))))
    assert names == set(metrics.PIXEL_SCORES) - {"mask_ssim", "ms_ssim"}
    small = batch(full(0, 48, 32))
    names = set(metrics.scores(small, small, torch.zeros(1, 25, 3)))
    assert names == set(metrics.PIXEL_SCORES) - {"ssim_gfla", "ms_ssim"}


def test_scores_leave_the_images_and_their_gradients_alone():
    images = (batch(noise(64, 64, 0)) / 127.5 - 1).requires_grad_()
    before = images.detach().clone()
    assert not metrics.scores(images, images * 0.5)["ssim_dscf"].requires_grad
    assert torch.equal(images, before)


def test_the_mask_of_one_joint_is_a_disc():
    mask = metrics.pose_mask(one_joint(20, 30), 64, 48)
    rows, columns = disk((30, 20), 4)
    assert mask.shape == (1, 1, 64, 48) and mask.dtype == torch.bool
    assert mask.sum() == 45 == len(rows)
    assert mask[0, 0, rows, columns].all()


def test_the_mask_of_a_limb_is_nine_pixels_wide():
    pose = one_joint(10, 30, joint=3)
    pose[0, 4] = torch.tensor([30.0, 30.0, 0.7])
    mask = metrics.pose_mask(pose, 64, 48)[0, 0]
    assert mask[:, 20].nonzero().flatten().tolist() == list(range(26, 35))


def test_joints_of_coco_18_are_drawn_and_missing_ones_are_not():
    for joint in range(len(JOINTS)):
        drawn = metrics.pose_mask(one_joint(20, 20, joint), 40, 40).sum()
        assert drawn == (45 if joint in COCO18 else 0)
    missing = one_joint(20, 20)
    missing[0, 3] = torch.tensor([5.0, 5.0, 0.0])  # coordinates without confidence
    assert metrics.pose_mask(missing, 40, 40).sum() == 45
    assert not metrics.pose_mask(torch.zeros(2, 25, 3), 40, 40).any()


def test_the_mask_is_the_published_one():
    limbs = (  # PG2's, in COCO-18's order
        *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11)),
        *((11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (1, 16), (1, 17)),
        *((8, 11), (11, 5), (8, 2), (16, 17)),
    )
    height, width = 60, 41
    poses = random_poses(6, height, width).round()
    for pose, ours in zip(poses.double().numpy(), metrics.pose_mask(poses, height, width)):
        mask = np.zeros((height, width), bool)
        for a, b in ((COCO18[i], COCO18[j]) for i, j in limbs):
            along = pose[b, 1::-1] - pose[a, 1::-1]
            if pose[a, 2] > 0 and pose[b, 2] > 0 and along.any():
                side = 4 * np.array([-along[1], along[0]]) / np.hypot(*along)
                ends = pose[[a, a, b, b], 1::-1]
                corners = ends + np.outer([1, -1, -1, 1], side)
                mask[polygon(*corners.T, shape=mask.shape)] = True
        for a in COCO18:
            if pose[a, 2] > 0:
                mask[disk(pose[a, 1::-1], 4, shape=mask.shape)] = True
        closed = erosion(dilation(mask, np.ones((5, 5))), np.ones((5, 5)))
        # scikit-image's polygons leave out a rim that falls exactly on pixels, here and there.
        assert (ours[0].numpy() != closed).sum() <= 2


def test_mask_ssim_sees_only_what_lies_in_the_mask():
    target = batch(scene(64, 64, 0))
    pose = random_poses(1, 64, 64)
    mask = metrics.pose_mask(pose, 64, 64)
    assert 0 < mask.sum() < mask.numel()
    other = torch.where(mask, target, batch(noise(64, 64, 8)))
    assert score("mask_ssim", other, target, pose).item() == pytest.approx(1)
    spoilt = torch.where(mask, batch(noise(64, 64, 8)), target)
    masked = [(images * mask)[0].permute(1, 2, 0).numpy() for images in (spoilt, target)]
    ours = score("mask_ssim", spoilt, target, pose).item()
    assert ours < 0.95
    assert ours == pytest.approx(reference(*masked, "dscf"), abs=1e-6)


def test_mask_ssim_of_an_empty_mask_is_nan():
    images = batch(noise(32, 32, 0), noise(32, 32, 1))
    pose = torch.cat([torch.zeros(1, 25, 3), one_joint(9, 9)])
    assert score("mask_ssim", images, images, pose).isnan().tolist() == [True, False]


@pytest.mark.parametrize(
    ("generated", "target", "message"),
    [
        (torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 60), "differ in shape"),
        (torch.zeros(3, 64, 64), torch.zeros(3, 64, 64), r"must be \(B, 3, H, W\)"),
        (torch.zeros(0, 3, 64, 64), torch.zeros(0, 3, 64, 64), "not empty"),
        (
            torch.full((1, 3, 64, 64), math.nan),
            torch.zeros(1, 3, 64, 64),
            "generated.*from nan",
        ),
        (
            torch.zeros(1, 3, 64, 64),
            torch.full((1, 3, 64, 64), math.nan),
            "target.*from nan",
        ),
        (torch.full((1, 3, 64, 64), 255.0), torch.zeros(1, 3, 64, 64), "from 255 to 255"),
        (torch.full((1, 3, 64, 64), -math.inf), torch.zeros(1, 3, 64, 64), "from -inf"),
        (torch.zeros(1, 3, 64, 64).int(), torch.zeros(1, 3, 64, 64), "uint8 or float"),
    ],
)
def test_images_that_cannot_be_scored_are_refused(generated, target, message):
    with pytest.raises(ValueError, match=message):
        metrics.scores(generated, target)


def test_a_score_that_is_not_known_is_refused():
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(ValueError, match="no pixel score 'ssim_dsfc'; choose from ssim_dscf, "):
        metrics.scores(images, images, names=["ssim_dsfc"])


def test_poses_that_do_not_fit_are_refused():
    images = torch.zeros(2, 3, 64, 64)
    with pytest.raises(ValueError, match=r"poses must be \(2, 25, 3\), not \(2, 18, 3\)"):
        score("mask_ssim", images, images, torch.zeros(2, 18, 3))
    with pytest.raises(ValueError, match="poses contain NaN"):
        metrics.scores(images, images, torch.full((2, 25, 3), math.nan))


def test_the_published_table_is_that_of_the_paper():
    table = {  # Market-1501 SSIM and IS, DeepFashion SSIM and IS: the paper's lines
        "pix2pix": (0.183, 2.678, 0.692, 3.249),
        "PG2": (0.253, 3.460, 0.762, 3.090),
        "DSCF (Deformable GAN)": (0.290, 3.185, 0.761, 3.351),
        "BodyROI7": (0.099, 3.483, 0.614, 3.228),
        "Dong et al. (Soft-gated Warping-GAN)": (0.356, 3.409, 0.793, 3.314),
        "RPT-GAN without augmentation": (0.268, 3.425, 0.713, 3.006),
        "RPT-GAN, full": (0.302, 3.488, 0.781, 3.238),
    }
    text = EXPERIMENTS.read_text()
    text = text[text.index("### Table 1") :].split("\n\n")[2]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    found = {model: tuple(map(float, cells)) for model, _, *cells in rows[2:]}
    assert found == table
    recipes = {recipe.strip("`") for _, recipe, *_ in rows[2:]}
    assert recipes <= {"none of ours", *scoring.SCORES}


def test_means_run_over_batches_and_leave_out_nan():
    means = metrics.Means()
    means.add({"ssim_dscf": torch.tensor([1.0, 0.0]), "mask_ssim": torch.tensor([torch.nan, 0.5])})
    means.add({"ssim_dscf": torch.tensor([0.2]), "mask_ssim": torch.tensor([torch.nan])})
    assert means.values() == pytest.approx({"ssim_dscf": 0.4, "mask_ssim": 0.5})


def test_the_interval_covers_a_known_mean_about_95_times_in_100():
    random = torch.Generator().manual_seed(1)
    covered, widths = 0, []
    for _ in range(100):
        means = metrics.Means()
        for _ in range(4):
            means.add({"a": torch.randn(50, generator=random) + 3})
        low, high = means.intervals()["a"]
        covered += low <= 3 <= high
        widths.append(high - low)
    assert 88 <= covered <= 99
    assert np.mean(widths) == pytest.approx(2 * 1.96 / math.sqrt(200), rel=0.1)


def test_the_interval_does_not_depend_on_the_batches_and_a_single_pair_has_none():
    values = torch.rand(20, generator=torch.Generator().manual_seed(0))
    whole, parts = metrics.Means(), metrics.Means()
    whole.add({"a": values})
    for part in values.split(7):
        parts.add({"a": part})
    assert whole.intervals()["a"] == pytest.approx(parts.intervals()["a"])
    single = metrics.Means()
    single.add({"a": values[:1]})
    assert single.intervals() == {}


# ------------------------------------------------------------------------------ Inception


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """Random weights of the Inception network that keep activations in a sane range."""
    from torchvision.models import Inception3

    torch.manual_seed(0)
    network = Inception3(1008, aux_logits=False, transform_input=False, init_weights=False)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def network(inception_file):
    return metrics.inception_2015(torch.load(inception_file, weights_only=True))


@pytest.fixture(scope="module")
def peer(inception_file):
    """torch-fidelity's extractor with the same weights."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    return FeatureExtractorInceptionV3(
        "peer", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(inception_file)
    )


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("size", [(128, 64), (299, 299), (75, 310), (400, 333)])
def test_inception_agrees_with_torch_fidelity(network, peer, size):
    images = batch(scene(*size, 0.3), noise(*size, 2))
    features, logits = peer(images)
    found = metrics.features(network, images, "tensorflow")
    assert found.shape == (2, 2048)
    assert relative(found, features) < 1e-4
    ours = found @ network.classifier.T
    assert (ours.double().softmax(1) - logits.double().softmax(1)).abs().max() < 1e-4


def test_inception_features_for_fid_agree_with_pytorch_fid(network, inception_file, monkeypatch):
    from pytorch_fid import inception as theirs

    state = torch.load(inception_file, weights_only=True)
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda url, progress: state)
    peer = theirs.InceptionV3([3]).eval()
    images = batch(scene(128, 64, 0.3), noise(128, 64, 2))
    with torch.inference_mode():
        features = peer(images / 255)[0].flatten(1)
    assert relative(metrics.features(network, images, "pytorch-fid"), features) < 1e-4


def test_inception_does_not_depend_on_the_batch_size(network):
    images = batch(*(noise(64, 40, i) for i in range(3)))
    together = metrics.features(network, images, "tensorflow")
    for i in range(3):
        alone = metrics.features(network, images[i : i + 1], "tensorflow")
        assert relative(alone, together[i : i + 1]) < 1e-5


def test_inception_refuses_what_are_no_images(network):
    with pytest.raises(ValueError, match="must be uint8"):
        metrics.features(network, torch.zeros(1, 3, 8, 8), "tensorflow")


def test_gflas_features_are_those_of_its_formula():
    """torchvision's network as it stands, fed as GFLA's program feeds it, one random state."""
    torch.manual_seed(0)
    peer = inception_v3(weights=None, init_weights=False, transform_input=False).eval()
    for module in peer.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    network = metrics.inception_imagenet(peer.state_dict())
    images = batch(scene(128, 64, 0.3), noise(128, 64, 2))
    peer.fc = torch.nn.Identity()
    x = F.interpolate(images / 255, (299, 299), mode="bilinear", align_corners=False)
    channels = zip(x.unbind(1), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    x = torch.stack([c * (s / 0.5) + (m - 0.5) / 0.5 for c, m, s in channels], 1)
    with torch.inference_mode():
        wanted = peer(x)
    found = metrics.features(network, images, "gfla")
    assert found.shape == (2, 2048)
    assert relative(found, wanted) < 1e-5
    other = metrics.features(network, images, "pytorch-fid")
    assert relative(other, wanted) > 1e-2  # another input, another number


class Means3(torch.nn.Module):
    """A stand-in for a network: the mean red, green and blue."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def test_gflas_fid_is_that_to_the_reference_not_to_the_targets():
    """A picture's features are its means: FID has its closed form."""
    draw = torch.Generator().manual_seed(0)
    reference = torch.randint(60, 200, (40, 3, 1, 1), generator=draw).expand(-1, -1, 32, 32).byte()
    generated = reference + 51  # means in [0, 1] off by 0.2, the same covariance
    scorer = metrics.Scorer(40, (32, 32), ["fid_gfla"], networks={"imagenet": Means3()})
    for part in reference.split(16):
        scorer.add_reference(part)
    baselines = []
    for part in generated.split(16):
        scorer.add(part, part)
        baselines = baselines or [scorer.baseline()]
        baselines[0].add(part - 51, part)
    assert scorer.values == {"fid_gfla": pytest.approx(3 * 0.2**2, rel=1e-4)}
    assert baselines[0].values == {"fid_gfla": pytest.approx(0, abs=1e-9)}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of weights, and no network."""

    def unreachable(*given, **options):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


CPU = torch.device("cpu")


def test_missing_weights_say_which_file_to_put_where(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    names = ("fid", "fid_gfla", "lpips", "pck", "inception_score", "ssim_dscf")
    networks, reasons = metrics.load_networks(names, CPU)
    assert networks == {}
    assert set(reasons) == set(names) - {"ssim_dscf"}
    files = {
        "fid": "pt_inception-2015-12-05-6726825d.pth",
        "fid_gfla": "inception_v3_google-0cc3c7bd.pth",
        "pck": "keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
    }
    for name, file in files.items():
        assert re.search(r"can't be fetched \(no network\); put " + file, reasons[name]), name
        assert reasons[name].endswith(f"into {cache}")
    assert reasons["inception_score"] == reasons["fid"]
    assert "not installed; pip install 'posegan[lpips]'" in reasons["lpips"]


def test_only_the_networks_that_are_needed_are_loaded(cache, inception_file):
    shutil.copy(inception_file, cache / metrics.WEIGHTS["inception"][1].rpartition("/")[2])
    networks, reasons = metrics.load_networks(["fid", "ssim_dscf", "inception_score"], CPU)
    assert set(networks) == {"inception"}
    assert reasons == {}
    assert metrics.load_networks(["ssim_dscf", "detail"], CPU) == ({}, {})


def test_files_that_are_not_the_weights_say_so(cache, inception_file):
    file = cache / metrics.WEIGHTS["inception"][1].rpartition("/")[2]
    state = torch.load(inception_file, weights_only=True)
    whole = inception_file.read_bytes()
    wrong = {
        "Missing|loading": {n: x for n, x in state.items() if "Mixed_5c" not in n},
        "loading state_dict": state | {"fc.weight": torch.zeros(1000, 2048)},
        "": None,
    }
    for words, content in wrong.items():
        file.write_bytes(whole[:-100]) if content is None else torch.save(content, file)
        _, reasons = metrics.load_networks(["fid"], CPU)
        assert f"{file}: not the weights of Inception of 2015-12-05 (" in reasons["fid"]
        assert re.search(words, reasons["fid"])
        assert "; delete it to fetch it again" in reasons["fid"]
        assert "\n" not in reasons["fid"]


def test_weights_are_fetched_once_and_checked(inception_file, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    digest = hashlib.sha256(inception_file.read_bytes()).hexdigest()[:8]
    served = tmp_path / f"inception-{digest}.pth"
    shutil.copy(inception_file, served)
    damaged = tmp_path / "inception-01234567.pth"
    shutil.copy(inception_file, damaged)
    for file in (served, damaged):
        title, _ = metrics.WEIGHTS["inception"]
        monkeypatch.setitem(metrics.WEIGHTS, "inception", (title, file.as_uri()))
        networks, reasons = metrics.load_networks(["fid"], CPU)
        assert bool(networks) == (file is served)
    assert "can't be fetched (invalid hash value" in reasons["fid"]
    (kept,) = (tmp_path / "torch" / "hub" / "checkpoints").iterdir()
    assert kept.name == served.name
    served.unlink()
    monkeypatch.setitem(metrics.WEIGHTS, "inception", (title, served.as_uri()))
    assert metrics.load_networks(["fid"], CPU)[0]


def test_the_inception_score_has_its_closed_forms():
    certain = torch.eye(7).repeat(10, 1)  # every class once in each split
    assert metrics.inception_score(certain) == pytest.approx((7, 0))
    uniform = torch.full((40, 5), 0.2)
    assert metrics.inception_score(uniform) == pytest.approx((1, 0))
    # Two splits: one certain and balanced over 2 classes, one all of one class.
    two = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0]])
    assert metrics.inception_score(two, splits=2) == pytest.approx((1.5, 0.5))
    with pytest.raises(ValueError, match="9 images can't be split into 10 parts"):
        metrics.inception_score(torch.ones(9, 1))
    with pytest.raises(ValueError, match="3 images can't be split into 0 parts"):
        metrics.inception_score(torch.ones(3, 1), splits=0)


def test_the_inception_score_is_torch_fidelitys():
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 3 * torch.randn(103, 1008, generator=torch.Generator().manual_seed(0))
    theirs = isc_features_to_metric(logits, splits=10, shuffle=False)
    mean, deviation = metrics.inception_score(logits.double().softmax(1))
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert deviation == pytest.approx(theirs["inception_score_std"], rel=1e-6)
    other, _ = metrics.inception_score(logits.flip(0).double().softmax(1))
    assert other != pytest.approx(mean, rel=1e-9)  # the order matters: that is the recipe


@pytest.mark.parametrize("count", [30, 400])
def test_fid_is_pytorch_fids(count):
    from pytorch_fid.fid_score import calculate_frechet_distance

    random = torch.Generator().manual_seed(count)
    mix = torch.randn(64, 64, generator=random)
    a = torch.randn(count, 64, generator=random) @ mix
    b = torch.randn(count, 64, generator=random) @ mix * 1.1 + 0.3
    sides = []
    for features in (a, b):
        moments = metrics.FeatureStatistics()
        for part in features.split(13):
            moments.add(part)
        mean, covariance = moments.moments()
        np.testing.assert_allclose(covariance, np.cov(features.double(), rowvar=False), atol=1e-10)
        sides += [mean, covariance]
    theirs = calculate_frechet_distance(*(x.numpy() for x in sides))
    assert metrics.fid(*sides) == pytest.approx(theirs, rel=1e-6)


def test_fid_has_its_closed_forms():
    mean, covariance = torch.zeros(5), torch.diag(torch.tensor([1.0, 2, 3, 4, 5]))
    assert metrics.fid(mean, covariance, mean, covariance) == pytest.approx(0, abs=1e-9)
    assert metrics.fid(mean, covariance, mean + 2, covariance) == pytest.approx(5 * 4)
    assert metrics.fid(mean, covariance, mean, 4 * covariance) == pytest.approx(1 + 2 + 3 + 4 + 5)
    with pytest.raises(ValueError, match="at least two images"):
        moments = metrics.FeatureStatistics()
        moments.add(torch.zeros(1, 3))
        moments.moments()


# ------------------------------------------------------------------------------ pose error


def test_pose_scores_count_joints_within_half_a_head():
    target = torch.zeros(1, 25, 3)
    for joint, xy in {0: (30, 10), 1: (30, 30), 4: (50, 60), 7: (10, 60), 10: (0, 0)}.items():
        target[0, joint] = torch.tensor([*xy, 1.0])
    target[0, 10, 2] = 0  # not in the target: does not count
    found = target.clone()
    found[0, 0, 0] += 9.9  # within half of the 20 pixels from nose to neck
    found[0, 4, 1] += 10.1
    found[0, 7, 2] = 0  # not found: wrong, without a distance
    scores = metrics.pose_scores(found, target)
    assert scores["pck"].item() == pytest.approx(1 / 3)  # neck and mid-hip are no COCO joints
    assert scores["pose_error"].item() == pytest.approx((9.9 + 10.1) / 2, abs=1e-5)
    nothing = metrics.pose_scores(found, torch.zeros(1, 25, 3))
    assert nothing["pck"].isnan() and nothing["pose_error"].isnan()


def test_the_head_is_a_third_of_the_spine_where_the_nose_is_missing():
    pose = torch.zeros(1, 25, 3)
    pose[0, 1], pose[0, 8] = torch.tensor([5.0, 10, 1]), torch.tensor([5.0, 70, 1])
    assert metrics.head_length(pose).item() == 20
    pose[0, 0] = torch.tensor([5.0, -5, 1])
    assert metrics.head_length(pose).item() == 15


def test_fid_of_a_set_against_itself_is_not_below_0():
    features = torch.randn(20, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moments = metrics.FeatureStatistics()
    moments.add(features)
    own = moments.moments()
    assert 0 <= metrics.fid(*own, *own) < 1e-5


def test_weights_are_those_that_torchvision_names():
    known = {
        "imagenet": Inception_V3_Weights.IMAGENET1K_V1,
        "lpips": AlexNet_Weights.IMAGENET1K_V1,
        "keypoints": KeypointRCNN_ResNet50_FPN_Weights.COCO_V1,
    }
    assert {name: metrics.WEIGHTS[name][1] for name in known} == {
        n: w.url for n, w in known.items()
    }
