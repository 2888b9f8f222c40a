"""Augmentation and corruption: what moves together, what must not change, what is drawn."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as transforms

from posegan import augment, metrics
from posegan.poses import JOINTS, UNKNOWN_PART

H, W = 128, 64
GEOMETRY = ("shrinking", "crop", "distortion", "flip")


def some_images(height: int, width: int, count: int = 2) -> torch.Tensor:
    """Smooth noise in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, height // 8, width // 8, generator=generator)
    return F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1) * 2 - 1


def some_pose(height: int, width: int, count: int = 2) -> torch.Tensor:
    """Joints well inside the frame, every seventh missing."""
    generator = torch.Generator().manual_seed(1)
    xy = torch.rand(count, 25, 2, generator=generator) * 0.6 + 0.2
    pose = torch.cat([xy * torch.tensor([width, height]), torch.ones(count, 25, 1)], dim=2)
    pose[:, ::7] = 0
    return pose


def some_batch(count: int = 16) -> dict[str, torch.Tensor]:
    images, poses = some_images(H, W, 2 * count), some_pose(H, W, 2 * count)
    sides = ("source", "target")
    batch = dict(zip(sides, images.split(count)))
    return batch | {f"{side}_pose": pose for side, pose in zip(sides, poses.split(count))}


def augmented(batch: dict, *names: str, step: int = 0, first: int = 0) -> dict:
    samples = torch.arange(first, first + len(batch["source"]))
    return augment.augment(batch | augment.draw(7, step, samples, (H, W)), names)


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_flow_of_zero_is_the_identity_and_a_whole_one_a_shift():
    for H, W in ((128, 64), (256, 256)):
        image = some_images(H, W)
        flow = torch.zeros(2, 2, H, W)
        assert torch.equal(augment.warp(image, flow), image)
        flow[:, 0], flow[:, 1] = 3, -2
        moved = augment.warp(image, flow)
        assert torch.equal(moved[:, :, 2:, :-3], image[:, :, :-2, 3:])
        assert torch.equal(moved[:, :, 0, :-3], image[:, :, 0, 3:])  # the border goes on


def test_warping_has_the_right_gradients():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 2, 5, 4, dtype=torch.float64, generator=generator)
    # Away from whole pixels, where a bilinear look-up has a corner.
    flow = 0.2 + 0.6 * torch.rand(1, 2, 5, 4, dtype=torch.float64, generator=generator)
    flow[..., -1, :] = flow[..., -1] = -0.4
    assert torch.autograd.gradcheck(
        augment.warp, (image.requires_grad_(), flow.requires_grad_()), fast_mode=False
    )


@pytest.mark.parametrize("mixed", [False, True])
def test_a_smooth_flow_is_bicubic_between_its_knots_in_full_precision(mixed):
    knots = torch.rand(3, 2, 5, 4, generator=torch.Generator().manual_seed(0)) - 0.5
    way = torch.tensor([W / 3, H / 4])[:, None, None]
    wanted = F.interpolate(knots * way, (H, W), mode="bicubic", align_corners=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        flow = augment.smooth_flow(knots, H, W)
    assert flow.dtype == torch.float32
    assert torch.allclose(flow, wanted, atol=1e-4)


@pytest.mark.parametrize("size", [(128, 64), (256, 256), (256, 176)])
@pytest.mark.parametrize("wildest", ["deformation", "distortion"])
def test_a_moved_pose_stays_on_its_pixels(size, wildest):
    """Of the wildest flows there are: what is looked up at a moved joint is the joint's place.

    They are random, and none of these folds; so wild, a rare one would.
    """
    torch.manual_seed(0)
    H, W = size
    places = augment.pixel_grid(H, W, torch.device("cpu"))
    if wildest == "deformation":
        flow = augment.smooth_flow((2 * torch.rand(40, 2, 4, 3) - 1) / 4, H, W)
    else:
        strength = augment.CORRUPTIONS["distortion"][-1]
        numbers = torch.rand(40, 2 * augment.KNOTS[0] * augment.KNOTS[1])
        flow = augment.smooth_flow(strength * augment.as_knots(numbers), H, W)
    at = places + flow
    across, down = at.diff(dim=3)[:, :, :-1], at.diff(dim=2)[..., :-1]  # (B, 2, H - 1, W - 1)
    assert (across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0] > 0).all()  # it does not fold
    pose = torch.rand(40, 25, 3) * torch.tensor([W - 1.0, H - 1.0, 1.0])
    moved = augment.Geometry(flow=flow).move_pose(pose, H, W)
    there = moved[..., 2] > 0
    assert torch.equal(moved[..., 2], pose[..., 2] * there)
    inside = (moved[..., :2] >= 0).all(2) & (moved[..., :2] <= torch.tensor([W - 1, H - 1])).all(2)
    inside &= there
    scale, origin = augment.sampling(H, W, at.device)
    points = (origin + moved[..., :2] * scale)[:, :, None]  # (B, 25, 1, 2)
    found = augment.sample(at, points).squeeze(3)  # (B, 2, 25)
    distance = (found.transpose(1, 2) - pose[..., :2]).norm(dim=2)
    assert distance[inside].max() < 0.1
    assert (moved - pose)[..., :2].norm(dim=2)[inside].mean() > 2  # it did move


def test_a_flip_twice_is_the_identity():
    pose = some_pose(H, W)
    assert torch.allclose(augment.flip_pose(augment.flip_pose(pose, W), W), pose, atol=1e-5)
    batch = some_batch()
    once = augmented(batch, "flip")
    twice = augmented(once, "flip")
    assert not same(batch, once)
    for name, value in batch.items():
        assert torch.allclose(twice[name], value, atol=1e-5), name


def test_a_flip_swaps_left_and_right_joints_of_source_and_target():
    batch = some_batch()
    once = augmented(batch, "flip")
    changed = (once["source"] != batch["source"]).flatten(1).any(1)
    assert 0 < changed.sum() < len(changed)
    left, right = (JOINTS.index(f"{side}_wrist") for side in ("left", "right"))
    for side in ("source", "target"):
        before, after = batch[f"{side}_pose"][changed], once[f"{side}_pose"][changed]
        assert torch.allclose(after[:, left, 0], W - 1 - before[:, right, 0])
        assert torch.equal(once[side][changed], batch[side][changed].flip(3))
        assert torch.equal(once[side][~changed], batch[side][~changed])


def test_parsing_maps_of_flipped_pictures_are_unknown():
    batch = some_batch()
    batch["target_parsing"] = torch.arange(W, dtype=torch.uint8).expand(16, H, W)
    once = augmented(batch, "flip")
    changed = (once["target"] != batch["target"]).flatten(1).any(1)
    assert (once["target_parsing"][changed] == UNKNOWN_PART).all()
    assert torch.equal(once["target_parsing"][~changed], batch["target_parsing"][~changed])


def some_dots(count: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Bright dots (B, 3, H, W), and poses with a wrist there."""
    generator = torch.Generator().manual_seed(4)
    pose = torch.zeros(count, 25, 3)
    pose[:, 4, :2] = torch.rand(count, 2, generator=generator) * torch.tensor([W - 20.0, H - 20])
    pose[:, 4, :2] = pose[:, 4, :2].round() + 10
    pose[:, 4, 2] = 1
    return augment.heatmaps(pose, H, W)[:, 4:5].expand(-1, 3, -1, -1) * 2 - 1, pose


def check_dots(dots: torch.Tensor, pose: torch.Tensor) -> None:
    """The brightest pixels are at the wrists, left or right, but for those close to the border."""
    wrist = pose[:, [JOINTS.index(f"{side}_wrist") for side in ("left", "right")]]
    assert (wrist[..., 2].sum(1) <= 1).all()
    wrist = wrist.sum(1)  # one of the two is there, or none
    inside = (wrist[:, :2] > 4).all(1) & (wrist[:, :2] < torch.tensor([W - 5, H - 5])).all(1)
    assert inside.sum() > len(pose) / 2
    brightest = dots.sum(1).flatten(1).argmax(1)
    found = torch.stack([brightest % W, brightest // W], dim=1)
    assert ((found - wrist[:, :2]).abs()[inside] <= 1).all()


@pytest.mark.parametrize("names", [*[(name,) for name in GEOMETRY], GEOMETRY])
def test_joints_stay_on_the_body(names):
    """Bright dots at the joints are found again where the poses say."""
    dots, pose = some_dots()
    batch = {"source": dots, "target": dots, "source_pose": pose, "target_pose": pose}
    moved = augmented(batch, *names)
    assert not torch.equal(moved["source_pose"], pose)
    for side in ("source", "target"):
        check_dots(moved[side], moved[f"{side}_pose"])


@pytest.mark.parametrize("kind", ["scale", "distortion"])
def test_joints_stay_on_a_spoilt_body(kind):
    dots, pose = some_dots()
    for severity in range(1, augment.SEVERITIES + 1):
        spoilt, moved = augment.corrupt(dots, pose, kind, severity, torch.arange(len(pose)))
        assert not torch.equal(moved, pose)
        check_dots(spoilt, moved)


@pytest.mark.parametrize("names", [GEOMETRY, augment.AUGMENTATIONS])
def test_missing_joints_stay_missing_and_joints_that_leave_become_so(names):
    batch = some_batch(64)
    moved = augmented(batch, *names)
    for side in ("source_pose", "target_pose"):
        pose = moved[side]
        gone = pose[..., 2] == 0
        assert (pose[gone] == 0).all()
        assert gone.sum() >= (batch[side][..., 2] == 0).sum()
        assert (pose[..., :2] >= -0.5).all()
        assert (pose[..., :2] <= torch.tensor([W - 0.5, H - 0.5])).all()
    left = (moved["source_pose"][..., 2] > 0).sum() < (batch["source_pose"][..., 2] > 0).sum()
    assert left  # a crop has cut some off


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
def test_the_target_stays_whole_but_for_what_no_generator_could_undo(name):
    batch = some_batch()
    after = augmented(batch, name)
    assert not torch.equal(after["source"], batch["source"])
    assert torch.equal(after["target"], batch["target"]) == (name != "flip")
    assert torch.equal(after["target_pose"], batch["target_pose"]) == (name != "flip")


def test_erased_pixels_are_one_box_of_the_source():
    batch = some_batch(64)
    after = augmented(batch, "erasing")
    changed = (after["source"] != batch["source"]).any(1)  # (B, H, W)
    erased = changed.flatten(1).any(1)
    assert 20 < erased.sum() < 44
    draws = augment.draw(7, 0, torch.arange(64), (H, W))["draws"]
    boxes = augment.boxes_of(augment.parameters(draws, ["erasing"]), H, W).long()
    for one, (top, left, bottom, right) in zip(changed, boxes):
        assert one[top:bottom, left:right].sum() == one.sum()
        area = (bottom - top) * (right - left)
        assert one.sum() >= 0.98 * area  # noise may equal the picture here and there
        assert area == 0 or 0.01 < area / (H * W) < 0.3
    assert len(boxes[erased].unique(dim=0)) == erased.sum()
    values = after["source"].permute(0, 2, 3, 1)[changed]
    assert values.std() == pytest.approx(2 / 12**0.5, abs=0.05)


def test_recolouring_is_torchvisions_and_hue_turns_red_to_green():
    images = some_images(H, W)
    pictures = (images + 1) / 2
    none = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}

    def ours(**change) -> torch.Tensor:
        factors = {name: torch.full((2,), value) for name, value in (none | change).items()}
        return (augment.recolour(images, factors) + 1) / 2

    assert torch.allclose(ours(), pictures, atol=1e-6)
    for factor in (0.6, 1.3):
        brighter = transforms.adjust_brightness(pictures, factor)
        assert torch.allclose(ours(brightness=factor), brighter, atol=1e-5)
        assert torch.allclose(
            ours(saturation=factor), transforms.adjust_saturation(pictures, factor), atol=2e-3
        )
        assert torch.allclose(
            ours(contrast=factor), transforms.adjust_contrast(pictures, factor), atol=2e-3
        )
    red = torch.zeros(1, 3, 4, 4)
    red[:, 0] = 1
    factors = {name: torch.tensor([value]) for name, value in (none | {"hue": 1 / 3}).items()}
    green = (augment.recolour(red * 2 - 1, factors) + 1) / 2
    assert torch.allclose(green[0, :, 0, 0], torch.tensor([0.0, 1, 0]), atol=1e-5)


def test_jitter_leaves_black_padding_black():
    batch = some_batch()
    batch["source"].clamp_(min=-0.5)  # so that only padding is black
    padded = augmented(batch, "jitter", "shrinking")["source"]
    alone = augmented(batch, "shrinking")["source"]
    assert (padded[alone == -1] == -1).all()


def test_what_is_drawn_keeps_to_its_bounds_and_to_those_who_take_part():
    draws = augment.draw(0, 0, torch.arange(500), (H, W))["draws"]
    drawn = augment.parameters(draws, augment.AUGMENTATIONS)
    named = augment.parameters(draws, ["jitter"])
    for whose, name, low, high, others in augment.PARAMETERS:
        values = drawn[name]
        part = values[values != others]
        assert part.min() >= low - 1e-6 and part.max() <= high + 1e-6
        assert part.max() - part.min() >= 0.95 * (high - low)
        assert len(part) / 500 == pytest.approx(augment.SHARES[whose], abs=0.07)
        assert torch.equal(named[name], values) == (whose == "jitter"), name


def test_draws_follow_from_seed_step_and_sample_whatever_the_batch():
    batch = some_batch(12)
    whole = augmented(batch, *augment.AUGMENTATIONS)
    for first in (0, 4, 8):
        part = {name: value[first : first + 4] for name, value in batch.items()}
        alone = augmented(part, *augment.AUGMENTATIONS, first=first)
        for name, value in alone.items():
            assert torch.allclose(value, whole[name][first : first + 4], atol=1e-5), name
    assert same(whole, augmented(batch, *augment.AUGMENTATIONS))
    assert not same(whole, augmented(batch, *augment.AUGMENTATIONS, step=1))
    for seed in (8, 7 + 2**32):  # augmented() has 7
        drawn = augment.draw(seed, 0, torch.arange(12), (H, W))
        other = augment.augment(batch | drawn, augment.AUGMENTATIONS)
        assert not same(whole, other)


def test_uniform_numbers_are_uniform_and_independent():
    numbers = augment.uniforms(3, 5, torch.arange(4000), 8)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert numbers.mean(0) == pytest.approx(0.5, abs=0.02)
    assert numbers.std(0) == pytest.approx(12**-0.5, abs=0.01)
    correlation = torch.corrcoef(numbers.T) - torch.eye(8)
    assert correlation.abs().max() < 0.06
    other = augment.uniforms(3, 6, torch.arange(4000), 8)
    assert torch.corrcoef(torch.stack([numbers.flatten(), other.flatten()]))[0, 1].abs() < 0.03


@pytest.mark.filterwarnings("ignore:Dynamo detected a call")  # it warns of a cached constant
def test_it_can_be_traced_for_compilation():
    """By a backend that needs no compiler: what is traced is the same."""
    batch = some_batch(4)
    plain = augmented(batch, *augment.AUGMENTATIONS, step=3)
    drawn = augment.draw(7, 3, torch.arange(4), (H, W))
    compiled = torch.compile(augment.augment, backend="eager")
    made = compiled(batch | drawn, augment.AUGMENTATIONS)
    for name, value in plain.items():
        assert torch.allclose(made[name], value, atol=1e-4), name


def test_all_geometry_of_the_pictures_is_one_look_up(monkeypatch):
    looked_up, look_up = [], F.grid_sample

    def count(images, *given, **options):
        looked_up.append(images.shape)
        return look_up(images, *given, **options)

    monkeypatch.setattr(augment.F, "grid_sample", count)
    augmented(some_batch(4), *augment.AUGMENTATIONS)
    assert looked_up.count((4, 3, H, W)) == 1
    assert all(C == 2 for _, C, *_ in looked_up[1:])  # joints find their way by the flow


def test_nothing_named_is_nothing_done():
    batch = some_batch(2)
    assert augment.augment(batch, ()) is batch


@pytest.mark.parametrize("kind", augment.CORRUPTIONS)
def test_each_severity_hurts_more(kind):
    images, pose = some_images(H, W, 24), some_pose(H, W, 24)
    samples = torch.arange(24)
    similar = []
    for severity in range(1, augment.SEVERITIES + 1):
        spoilt, _ = augment.corrupt(images, pose, kind, severity, samples)
        assert spoilt.min() >= -1.001 and spoilt.max() <= 1.001
        similar.append(metrics.scores(spoilt.clamp(-1, 1), images)["ssim_wang"].mean().item())
        again, _ = augment.corrupt(images[5:9], pose[5:9], kind, severity, samples[5:9])
        assert torch.allclose(again, spoilt[5:9], atol=1e-5)
    assert all(before > after for before, after in pairwise([1.0, *similar]))
    for severity in (0, 6):
        with pytest.raises(ValueError, match="no corruption"):
            augment.corrupt(images, pose, kind, severity, samples)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_the_cpu_and_cuda_agree():
    batch = some_batch(8)
    here = augmented(batch, *augment.AUGMENTATIONS)
    there = {name: value.cuda() for name, value in batch.items()}
    there |= augment.draw(7, 0, torch.arange(8).cuda(), (H, W))
    there = augment.augment(there, augment.AUGMENTATIONS)
    for name, value in here.items():
        assert torch.allclose(value, there[name].cpu(), atol=1e-3), name
    images, pose = some_images(H, W, 8), some_pose(H, W, 8)
    for kind in augment.CORRUPTIONS:
        given = kind, 3, torch.arange(8)
        here = augment.corrupt(images, pose, *given)
        there = augment.corrupt(images.cuda(), pose.cuda(), *given[:2], given[2].cuda())
        for one, other in zip(here, there):
            assert torch.allclose(one, other.cpu(), atol=1e-3), kind
