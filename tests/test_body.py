"""The body's parts, how they are carried, its outline and what is behind it."""

import numpy as np
import pytest
import torch
from conftest import body as standing

from posegan import body, demo, poses

SIZE = (128, 64)


def person(seed: int = 0, identity: int = 3, pose: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return demo.person(seed, identity, pose, SIZE)


def shifted(pose: np.ndarray, x: float, y: float) -> np.ndarray:
    return pose + np.array([x, y, 0], np.float32) * (pose[:, 2:] > 0)


def test_parts_cover_the_drawn_person():
    drawn, _, points = demo._scene(0, 3, 0, SIZE)
    pose = np.column_stack([points, np.ones(25)])
    outline = body.outline(body.distances(body.skeleton(pose[None]), SIZE))[0, 0].numpy()
    inside = drawn[..., 3] > 0.5
    assert (outline[inside] > 0.5).mean() > 0.95
    assert outline[~inside].mean() < 0.25


def test_shares_are_of_one_whole_and_the_nearer_part_wins():
    pose = standing()[None]
    distance = body.distances(body.skeleton(pose), SIZE)
    assert torch.allclose(body.shares(distance).sum(1), torch.ones(1, *SIZE))
    names = list(body.PARTS)
    covered = torch.full((1, len(names), 1, 1), 9.0)
    covered[:, [names.index("torso"), names.index("right forearm")]] = 0.2
    assert body.shares(covered)[0, names.index("right forearm"), 0, 0] > 0.99


def test_a_pose_without_joints_has_no_outline():
    nobody = np.zeros((1, 25, 3), np.float32)
    assert not body.outline(body.distances(body.skeleton(nobody), SIZE)).any()


def test_a_pose_carried_to_itself_stands_still():
    _, pose = person()
    carried = body.carry(pose, pose[None], SIZE)
    assert carried.flow.abs().max() < 1e-3
    assert (carried.still > 0.999).all()


def test_a_shifted_pose_is_carried_by_the_shift():
    pose = standing(80)
    carried = body.carry(pose, shifted(pose, 6, -3)[None], SIZE)
    core = carried.core[0, 0] > 0.9
    assert core.any()
    flow = carried.flow[0][:, core]
    assert torch.allclose(flow, torch.tensor([[-6.0], [3.0]]).expand_as(flow), atol=0.02)
    assert carried.known[0, 0][core].median() > 0.9


def test_a_pose_of_twice_the_size_is_carried_by_half():
    pose = standing(50, 30, 40)
    large = pose * (2, 2, 1) + np.array([-30, -40, 0], np.float32)
    carried = body.carry(pose, large[None].astype(np.float32), SIZE)
    y, x = np.argwhere(carried.core[0, 0].numpy() > 0.9).T
    came = np.stack([x, y]) + carried.flow[0].numpy()[:, y, x]
    expected = (np.stack([x, y]) + np.array([[30], [40]])) / 2
    assert np.abs(came - expected).max() < 0.1


def test_a_joint_that_the_source_lacks_is_not_known():
    source, target = standing(), standing()
    source[[3, 4]] = 0  # the right forearm is not in the source
    carried = body.carry(source, target[None], SIZE)
    x, y = ((target[3, :2] + target[4, :2]) / 2).round().astype(int)
    assert carried.body[0, 0, y, x] > 0.9
    assert carried.known[0, 0, y, x] < 0.5
    assert carried.still[0, 0, y, x] < 0.5


def test_poses_are_carried_alike_alone_and_together():
    source = standing()
    targets = np.stack([standing(80), shifted(source, 5, 0), source])
    together = body.carry(source, targets, SIZE)
    for place in range(3):
        alone = body.carry(source, targets[place : place + 1], SIZE)
        for one, other in zip(alone, together):
            assert torch.allclose(one[0], other[place], atol=1e-4)


def test_the_matte_is_the_drawn_person():
    size, errors = (256, 128), []
    for identity in range(6):
        drawn, background, points = demo._scene(0, identity, 0, size)
        image = (drawn[..., :3] + background * (1 - drawn[..., 3:])).clip(0, 1)
        pose = np.column_stack([points, np.ones(25)])
        matte = body.matte((image * 255).astype(np.uint8), pose)
        errors.append(np.abs(matte[0, 0].numpy() - drawn[..., 3]).mean())
        assert matte.min() >= 0
        assert matte.max() <= 1
    assert np.mean(errors) < 0.04


def test_a_guided_filter_keeps_the_guides_edges_and_leaves_constants():
    guide = torch.zeros(1, 3, 32, 32)
    guide[..., 16:] = 1
    noisy = guide[:, :1] + 0.2 * torch.randn(
        1, 1, 32, 32, generator=torch.Generator().manual_seed(0)
    )
    smooth = body.guided(guide, noisy, 4, 1e-4)
    assert (smooth - guide[:, :1]).abs().mean() < 0.5 * (noisy - guide[:, :1]).abs().mean()
    assert (smooth[..., 18:].mean() - smooth[..., :14].mean()) > 0.9
    same = body.guided(guide, torch.full((1, 1, 32, 32), 0.3), 4, 1e-3)
    assert torch.allclose(same, torch.full_like(same, 0.3), atol=1e-4)


@pytest.mark.parametrize("size", [(33, 17), (64, 48), (1, 40)])
def test_a_hole_in_a_plain_wall_is_filled_with_the_wall(size):
    image = torch.full((2, 3, *size), 0.5)
    hole = torch.zeros(2, 1, *size)
    hole[..., size[1] // 4 : size[1] // 2] = 1
    image = torch.where(hole > 0, -1.0, image)
    assert torch.allclose(body.filled(image, 1 - hole), torch.full_like(image, 0.5), atol=1e-3)


def test_what_is_known_is_not_filled():
    image = torch.rand(1, 3, 40, 20)
    hole = torch.zeros(1, 1, 40, 20)
    hole[..., 5:35, 6:14] = 1
    filled = body.filled(image, 1 - hole)
    assert torch.equal(filled[(hole == 0).expand_as(filled)], image[(hole == 0).expand_as(image)])
    assert filled.min() >= 0
    assert filled.max() <= 1


def test_what_the_person_covers_reaches_beyond_the_matte():
    image, pose = demo.person(0, 3, 0, (256, 128))
    matte = body.matte(image, pose)
    around, hole = body.surroundings(matte, pose)
    assert (around >= matte.clamp(max=0.5) - 0.5).all()
    assert hole[matte > 0.5].min() > 0.9
    assert 0.1 < hole.mean() < 0.8
    assert poses.metre(pose) > 0
