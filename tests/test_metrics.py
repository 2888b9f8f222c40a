"""Scores against scikit-image, closed forms and what must not change them."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.draw import disk
from skimage.metrics import structural_similarity
from skimage.morphology import dilation, erosion

import metrics
from poses import LIMBS

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
    ours = metrics.ssim(batch(*generated), batch(*target), recipe)
    expected = [reference(x, y, recipe) for x, y in zip(generated, target)]
    np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=1e-6)
    assert ours.dtype == torch.float64


@pytest.mark.parametrize("recipe", ["wang", "pg2", "gfla"])
@pytest.mark.parametrize("values", [(0, 0), (0, 255), (0, 40), (130, 130), (130, 131), (255, 9)])
def test_ssim_of_constant_images_equals_scikit_image(recipe, values):
    generated, target = (full(value) for value in values)
    ours = metrics.ssim(batch(generated), batch(target), recipe)
    assert ours.item() == pytest.approx(reference(generated, target, recipe), abs=1e-6)


@pytest.mark.parametrize("recipe", metrics.RECIPES)
def test_ssim_of_black_or_grey_against_texture_equals_scikit_image(recipe):
    target = noise(64, 64, 5)
    for value in (0, 77):
        ours = metrics.ssim(batch(full(value)), batch(target), recipe)
        assert ours.item() == pytest.approx(reference(full(value), target, recipe), abs=1e-6)
    ours = metrics.ssim(batch(target), batch(full(0)), recipe)
    assert ours.item() == pytest.approx(reference(target, full(0), recipe), abs=1e-6)


def test_ssim_by_dscf_of_constant_images_is_that_of_a_vanishing_range():
    a, b = 60.0, 120.0
    assert metrics.ssim(batch(full(0)), batch(full(0))).item() == 1
    assert metrics.ssim(batch(full(60)), batch(full(60))).item() == 1
    luminance = 2 * a * b / (a * a + b * b)
    ours = metrics.ssim(batch(full(60)), batch(full(120))).item()
    assert ours == pytest.approx(luminance, abs=1e-3)


@pytest.mark.parametrize("recipe", metrics.RECIPES)
def test_ssim_of_an_image_with_itself_is_one(recipe):
    images = batch(noise(64, 60, 0), scene(64, 60, 0.2), full(9, 64, 60))
    torch.testing.assert_close(metrics.ssim(images, images, recipe), torch.ones(3).double())


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
    assert metrics.psnr(generated, target).tolist() == pytest.approx(expected)
    assert metrics.l1(generated, target).tolist() == pytest.approx([5 / 255, 1.0, 0.0])
    half = full(0)
    half[:32] = 10  # half of the pixels off by 10: mean square 50, mean 5
    assert metrics.psnr(batch(half), batch(full(0))).item() == pytest.approx(
        10 * math.log10(255**2 / 50)
    )
    assert metrics.l1(batch(half), batch(full(0))).item() == pytest.approx(5 / 255)


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


def test_scores_are_the_single_scores():
    generated, target = batch(scene(64, 64, 0.3)), batch(noise(64, 64, 4))
    pose = random_poses(1, 64, 64)
    together = metrics.scores(generated, target, pose)
    assert list(together) == list(metrics.RECIPE_NOTES)
    alone = {f"ssim_{name}": metrics.ssim(generated, target, name) for name in metrics.RECIPES}
    alone["mask_ssim"] = metrics.mask_ssim(generated, target, pose)
    alone |= {"psnr": metrics.psnr(generated, target), "l1": metrics.l1(generated, target)}
    for name, values in together.items():
        torch.testing.assert_close(values, alone[name])
        assert values.shape == (1,) and values.dtype == torch.float64


def test_scores_leave_out_what_the_images_do_not_allow():
    names = set(metrics.scores(batch(full(0)), batch(full(0))))
    assert names == set(metrics.RECIPE_NOTES) - {"mask_ssim"}
    small = batch(full(0, 48, 32))
    names = set(metrics.scores(small, small, torch.zeros(1, 25, 3)))
    assert names == set(metrics.RECIPE_NOTES) - {"ssim_gfla"}


def test_scores_leave_the_images_and_their_gradients_alone():
    images = (batch(noise(64, 64, 0)) / 127.5 - 1).requires_grad_()
    before = images.detach().clone()
    assert not metrics.scores(images, images * 0.5)["ssim_dscf"].requires_grad
    assert torch.equal(images, before)


def test_the_mask_of_one_joint_is_a_disc():
    mask = metrics.pose_mask(one_joint(20, 30), 64, 48)
    rows, columns = disk((30, 20), 4.01)  # scikit-image's discs leave out their rims
    assert mask.shape == (1, 1, 64, 48) and mask.dtype == torch.bool
    assert mask.sum() == 49 == len(rows)
    assert mask[0, 0, rows, columns].all()


def test_the_mask_of_a_limb_is_nine_pixels_wide_with_round_ends():
    pose = one_joint(10, 30, joint=3)
    pose[0, 4] = torch.tensor([30.0, 30.0, 0.7])
    mask = metrics.pose_mask(pose, 64, 48)[0, 0]
    assert mask[:, 20].nonzero().flatten().tolist() == list(range(26, 35))
    assert mask.sum() == 21 * 9 + 49 - 9


def test_every_joint_is_drawn_and_missing_ones_are_not():
    assert {joint for limb in LIMBS for joint in limb} == set(range(25))
    for joint in range(25):
        assert metrics.pose_mask(one_joint(20, 20, joint), 40, 40).sum() == 49
    missing = one_joint(20, 20)
    missing[0, 3] = torch.tensor([5.0, 5.0, 0.0])  # coordinates without confidence
    assert metrics.pose_mask(missing, 40, 40).sum() == 49
    assert not metrics.pose_mask(torch.zeros(2, 25, 3), 40, 40).any()


def test_the_mask_equals_its_definition():
    height, width = 60, 41
    poses = random_poses(4, height, width)
    y, x = np.mgrid[:height, :width]
    for pose, ours in zip(poses.double().numpy(), metrics.pose_mask(poses, height, width)):
        mask = np.zeros((height, width), bool)
        for a, b in (*LIMBS, *((joint, joint) for joint in range(25))):
            if pose[a, 2] > 0 and pose[b, 2] > 0:
                (ax, ay), along = pose[a, :2], pose[b, :2] - pose[a, :2]
                length = max(along @ along, 1e-12)
                t = (((x - ax) * along[0] + (y - ay) * along[1]) / length).clip(0, 1)
                mask |= np.hypot(x - ax - t * along[0], y - ay - t * along[1]) <= 4
        closed = erosion(dilation(mask, np.ones((5, 5))), np.ones((5, 5)))
        np.testing.assert_array_equal(ours[0].numpy(), closed)


def test_mask_ssim_sees_only_what_lies_in_the_mask():
    target = batch(scene(64, 64, 0))
    pose = random_poses(1, 64, 64)
    mask = metrics.pose_mask(pose, 64, 64)
    assert 0 < mask.sum() < mask.numel()
    other = torch.where(mask, target, batch(noise(64, 64, 8)))
    assert metrics.mask_ssim(other, target, pose).item() == pytest.approx(1)
    spoilt = torch.where(mask, batch(noise(64, 64, 8)), target)
    masked = [(images * mask)[0].permute(1, 2, 0).numpy() for images in (spoilt, target)]
    ours = metrics.mask_ssim(spoilt, target, pose).item()
    assert ours < 0.95
    assert ours == pytest.approx(reference(*masked, "dscf"), abs=1e-6)


def test_mask_ssim_of_an_empty_mask_is_nan():
    images = batch(noise(32, 32, 0), noise(32, 32, 1))
    pose = torch.cat([torch.zeros(1, 25, 3), one_joint(9, 9)])
    assert metrics.mask_ssim(images, images, pose).isnan().tolist() == [True, False]


@pytest.mark.parametrize(
    ("generated", "target", "message"),
    [
        (torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 60), "differ in shape"),
        (torch.zeros(3, 64, 64), torch.zeros(3, 64, 64), r"must be \(B, 3, H, W\)"),
        (torch.zeros(0, 3, 64, 64), torch.zeros(0, 3, 64, 64), "not empty"),
        (torch.full((1, 3, 64, 64), math.nan), torch.zeros(1, 3, 64, 64), "generated.*NaN"),
        (torch.zeros(1, 3, 64, 64), torch.full((1, 3, 64, 64), math.nan), "target.*NaN"),
        (torch.full((1, 3, 64, 64), 255.0), torch.zeros(1, 3, 64, 64), "from 255 to 255"),
        (torch.full((1, 3, 64, 64), -math.inf), torch.zeros(1, 3, 64, 64), "from -inf"),
        (torch.zeros(1, 3, 64, 64).int(), torch.zeros(1, 3, 64, 64), "uint8 or float"),
    ],
)
def test_images_that_cannot_be_scored_are_refused(generated, target, message):
    for score in (metrics.scores, metrics.ssim, metrics.psnr, metrics.l1):
        with pytest.raises(ValueError, match=message):
            score(generated, target)


def test_unknown_recipes_and_small_images_are_refused():
    images = torch.zeros(1, 3, 64, 50)
    with pytest.raises(
        ValueError, match="no SSIM recipe 'wong'; choose from dscf, wang, pg2, gfla"
    ):
        metrics.ssim(images, images, "wong")
    with pytest.raises(ValueError, match="64x50 are smaller than ssim_gfla's 51x51 window"):
        metrics.ssim(images, images, "gfla")
    with pytest.raises(ValueError, match="mask_ssim's 11x11 window"):
        metrics.mask_ssim(images[..., :10], images[..., :10], torch.zeros(1, 25, 3))


def test_poses_that_do_not_fit_are_refused():
    images = torch.zeros(2, 3, 64, 64)
    with pytest.raises(ValueError, match=r"poses must be \(2, 25, 3\), not \(2, 18, 3\)"):
        metrics.mask_ssim(images, images, torch.zeros(2, 18, 3))
    with pytest.raises(ValueError, match="poses hold NaN"):
        metrics.scores(images, images, torch.full((2, 25, 3), math.nan))


def test_the_published_table_is_that_of_the_paper():
    rows = {(row.model, row.data): row for row in metrics.PUBLISHED if "Table 1" in row.source}
    assert len(rows) == 14
    full_model = rows["RPT-GAN, full", "Market-1501"]
    assert (full_model.ssim, full_model.inception_score, full_model.recipe) == (
        0.302,
        3.488,
        "dscf",
    )
    assert rows["RPT-GAN, full", "DeepFashion"].ssim == 0.781
    assert {note.better for note in metrics.RECIPE_NOTES.values()} == {"higher", "lower"}
    assert {row.recipe for row in metrics.PUBLISHED} <= {*metrics.RECIPES, None}


def test_means_run_over_batches_and_leave_out_nan():
    means = metrics.Means()
    means.add({"ssim_dscf": torch.tensor([1.0, 0.0]), "mask_ssim": torch.tensor([torch.nan, 0.5])})
    means.add({"ssim_dscf": torch.tensor([0.2]), "mask_ssim": torch.tensor([torch.nan])})
    assert means.count == 3
    assert means.values() == pytest.approx({"ssim_dscf": 0.4, "mask_ssim": 0.5})
