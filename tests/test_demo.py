"""The built-in demo people: exact joints, steady looks, right occlusion."""

import numpy as np
import pytest

from posegan import demo

LEFT = [5, 6, 7, 12, 13, 14, 16, 18, 19, 20, 21]
RIGHT = [2, 3, 4, 9, 10, 11, 15, 17, 22, 23, 24]
HIDDEN = (0.1, 0.1, 0.1)


def covered(seed, identity, pose, size=(128, 64)):
    """How much of each pixel the person covers: (H, W) in [0, 1]."""
    return demo._scene(seed, identity, pose, size)[0][..., 3]


def ball(x, depth, colour, radius=0.2):
    center = np.array([x, 0, depth])
    return demo._Part(center, center, (radius, radius), np.eye(3), np.float32(colour))


def drawn(*parts, size=(40, 40)):
    """Draw parts in a frame of one metre about the origin: depth and colour (H, W, .)."""
    return demo._draw(list(parts), (1.0, 0.5, 0.5), size)[:2]


def standing(yaw):
    looks = demo._Looks(0, 0)
    return demo._pose(looks, np.random.default_rng(3), yaw).joints


@pytest.mark.parametrize("size", [(128, 64), (256, 128), (96, 96), (64, 80), (33, 17)])
def test_a_person_has_an_image_and_25_joints_at_any_size(size):
    image, joints = demo.person(0, 1, 2, size)
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    assert joints.shape == (25, 3) and joints.dtype == np.float32


def test_the_same_arguments_draw_the_same_picture():
    first = demo.person(4, 5, 6)
    demo.person(4, 6, 6)
    again = demo.person(4, 5, 6)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_seed_identity_and_pose_each_change_the_picture(other):
    image, joints = demo.person(0, 0, 0)
    other_image, other_joints = demo.person(*other)
    assert np.abs(image.astype(int) - other_image).mean() > 10
    assert np.abs(joints - other_joints).max() > 3


def test_nearly_all_joints_are_inside_the_frame():
    joints = np.stack([demo.person(0, i, i % 12)[1] for i in range(80)])
    present = joints[..., 2] == 1
    assert present.mean() > 0.995
    assert (joints[~present] == 0).all()
    points = joints[present][:, :2]
    assert points.min() > -0.5 and (points < (63.5, 127.5)).all()


def test_a_joint_outside_the_frame_is_missing(monkeypatch):
    _, joints = demo.person(0, 0, 0)
    whole = demo._framed

    def beside(*arguments):
        scale, x, y = whole(*arguments)
        return scale, x + 0.25, y

    monkeypatch.setattr(demo, "_framed", beside)
    _, moved = demo.person(0, 0, 0)
    gone = joints[:, 0] + 32 > 63.5
    assert gone.any() and not gone.all()
    assert (moved[gone] == 0).all()
    assert np.allclose(moved[~gone], joints[~gone] + (32, 0, 0), atol=1e-4)


def test_every_joint_lies_on_the_drawn_person():
    for identity in range(40):
        cover = covered(0, identity, identity % 12, (256, 128))
        _, joints = demo.person(0, identity, identity % 12, (256, 128))
        x, y = joints[joints[:, 2] == 1, :2].round().astype(int).T
        assert (cover[y, x] >= 0.5).all(), identity


def test_the_person_fills_the_frame_but_does_not_hide_it():
    cover = np.stack([covered(0, i, i % 12) for i in range(40)])
    assert 0.1 < cover.mean() < 0.35
    rows = (cover > 0.5).any(2).sum(1)
    assert 0.72 * 128 < np.median(rows) < 0.95 * 128


def test_twice_the_size_is_the_same_picture():
    for pose in range(6):
        image, joints = demo.person(0, 7, pose)
        large, large_joints = demo.person(0, 7, pose, (256, 128))
        assert np.allclose(large_joints[:, :2] + 0.5, 2 * (joints[:, :2] + 0.5), atol=1e-3)
        small = large.reshape(128, 2, 64, 2, 3).mean((1, 3))
        assert np.abs(small - image).mean() < 2


def test_a_wider_frame_keeps_the_person_in_its_middle():
    _, narrow = demo.person(0, 0, 0, (128, 64))
    _, wide = demo.person(0, 0, 0, (128, 128))
    assert np.allclose(wide[:, 0] - narrow[:, 0], 32, atol=1e-3)
    assert np.allclose(wide[:, 1], narrow[:, 1], atol=1e-3)


def test_facing_the_camera_the_right_limbs_are_on_the_left_of_the_image():
    front, back = standing(0), standing(180)
    for right, left in ((2, 5), (9, 12), (15, 16), (17, 18)):
        assert front[right, 0] < front[left, 0]
        assert back[right, 0] > back[left, 0]
    assert front[0, 2] > front[[17, 18], 2].max() and back[0, 2] < back[[17, 18], 2].min()


def test_left_and_right_hold_the_same_lengths():
    joints = standing(30)
    for first, second in ((2, 3), (3, 4), (9, 10), (10, 11), (11, 24)):
        mirrored = LEFT[RIGHT.index(first)], LEFT[RIGHT.index(second)] if second != 24 else 21
        lengths = [np.linalg.norm(joints[a] - joints[b]) for a, b in ((first, second), mirrored)]
        assert lengths[0] == pytest.approx(lengths[1])


def test_bones_keep_their_lengths_in_every_pose():
    looks = demo._Looks(0, 3)
    bodies = [demo._pose(looks, np.random.default_rng(i), 50 * i).joints for i in range(20)]
    for first, second in ((2, 3), (3, 4), (5, 6), (6, 7), (9, 10), (10, 11), (12, 13), (13, 14)):
        lengths = [np.linalg.norm(joints[first] - joints[second]) for joints in bodies]
        assert np.ptp(lengths) < 1e-9


def test_feet_stand_on_the_ground():
    for yaw in range(0, 360, 60):
        assert standing(yaw)[19:, 1].min() == pytest.approx(0.03)


def test_knees_and_elbows_bend_one_way():
    for draw in range(50):
        right_arm, left_arm, right_leg, left_leg, _ = demo._stance(
            np.random.default_rng(draw), skirt=False
        )
        assert min(right_arm[3], left_arm[3], right_leg[2], left_leg[2]) >= 0


def test_a_person_keeps_clothes_hair_and_skin_from_pose_to_pose():
    def clothes(identity):
        """The hues about the hips in several pictures: (P, 3)."""
        hues = []
        for pose in range(6):
            drawn, _, points = demo._scene(0, identity, pose, (128, 64))
            x, y = (0.5 * points[8] + 0.5 * (points[9] + points[12]) / 2).round().astype(int)
            patch = drawn[y - 2 : y + 3, x - 2 : x + 3, :3].reshape(-1, 3).mean(0)
            hues.append(patch / patch.sum())
        return np.array(hues)

    within = np.mean([clothes(i).std(0).mean() for i in range(12)])
    between = np.array([clothes(i).mean(0) for i in range(12)]).std(0).mean()
    assert within < 0.7 * between


def test_identities_differ_in_every_respect():
    people = [demo._Looks(0, i) for i in range(200)]
    assert len({p.top.kind for p in people}) == 7
    assert len({p.cut for p in people}) == 4
    assert len({p.hair_style for p in people}) >= 9
    assert len({tuple(p.skin) for p in people}) == 8
    looks = {(tuple(p.top.base), tuple(p.bottom.base), p.cut, p.hair_style) for p in people}
    assert len(looks) > 180


@pytest.mark.parametrize("near", [0, 1])
def test_the_nearer_part_hides_the_farther_whatever_the_order(near):
    red, blue = (1, 0, 0), (0, 0, 1)
    parts = [ball(0, 0.5, red), ball(0.1, -0.5, blue)]
    _, colour = drawn(*parts[:: 1 if near else -1])
    assert (colour[20, 20] == red).all() and (colour[20, 31] == blue).all()


def test_a_balls_depth_is_that_of_a_ball():
    depth, _ = drawn(ball(0, 0.3, HIDDEN), size=(41, 41))
    offsets = (np.arange(41) + 0.5) / 41 - 0.5
    square = 0.2**2 - offsets[:, None] ** 2 - offsets**2
    assert ((depth > -np.inf) == (square > 0)).all()
    assert np.allclose(depth[square > 0], 0.3 + np.sqrt(square[square > 0]), atol=1e-4)


def test_a_tapered_flattened_part_is_the_union_of_its_balls():
    frame = demo._turned(np.eye(3), (1, 40), (0, 35))
    part = demo._Part(
        np.array([-0.1, 0.2, 0.1]), np.array([0.1, -0.2, -0.1]), (0.2, 0.1), frame, HIDDEN
    )
    part.flat = (0.9, 0.6)
    part.colour = np.float32(HIDDEN)
    depth, _ = drawn(part, size=(61, 61))
    balls = []
    for t in np.linspace(0, 1, 201):
        center = part.start + t * (part.end - part.start)
        balls.append(demo._Part(center, center, (0.2 - 0.1 * t,) * 2, frame, part.colour))
        balls[-1].flat = part.flat
    union, _ = drawn(*balls, size=(61, 61))
    assert ((depth > -np.inf) != (union > -np.inf)).mean() < 0.002
    both = (depth > -np.inf) & (union > -np.inf)
    assert both.mean() > 0.05
    assert np.quantile(np.abs(depth[both] - union[both]), 0.999) < 0.003


def test_a_part_shows_only_what_it_keeps():
    cut = ball(0, 0, (1, 1, 1))
    cut.keep = lambda u: u[:, 1] > 0
    depth, _ = drawn(cut)
    seen = depth > -np.inf
    assert seen[:20].any() and not seen[20:].any()


@pytest.mark.parametrize("kind", ["horizontal", "vertical", "dots", "check", "block", "print"])
def test_a_pattern_shows_both_colours_and_plain_cloth_one(kind):
    base, accent = np.float32([1, 0, 0]), np.float32([0, 0, 1])
    angle = np.linspace(-1.5, 1.5, 60)
    height = np.repeat(np.linspace(-0.3, 0.1, 60), 60)
    u = np.stack([0.15 * np.sin(np.tile(angle, 60)), height, 0.15 * np.cos(np.tile(angle, 60))], 1)
    painted = demo._Fabric(kind, base, accent, 0.1).paint(u, torso=True)
    assert 0.05 < (painted == accent).all(1).mean() < 0.95
    assert (demo._Fabric("plain", base, accent, 0.1).paint(u) == base).all()


def test_the_face_is_in_front_and_the_hair_behind():
    looks = demo._Looks(0, 2)
    front = demo._face(looks, np.float32([[0.0375, -0.013, 0.09]]))
    back = demo._face(looks, np.float32([[0.0375, -0.013, -0.09]]))
    assert front.max() < 0.2 and np.allclose(back, looks.skin)


def test_backgrounds_are_smooth_and_varied():
    feet = np.array([[28, 120], [36, 120]])
    places = [demo._background(np.random.default_rng(i), (128, 64), feet, 66) for i in range(20)]
    steps = [np.abs(np.diff(place, axis=1)).mean() for place in places]
    assert max(steps) < 0.02
    assert np.std([place.mean((0, 1)) for place in places], axis=0).min() > 0.015


# ------------------------------------------------------------------------------ motions


@pytest.mark.parametrize("name", demo.MOTIONS)
def test_a_motion_has_all_joints_and_is_a_closed_loop_without_jumps(name):
    motion = demo.motion(name, 20)
    assert motion.shape == (demo.MOTION_FRAMES, 25, 3)
    assert (motion[..., 2] == 1).all()
    steps = np.abs(np.diff(motion[[*range(len(motion)), 0], :, :2], axis=0))
    assert 0.01 < steps.max() < 0.25  # metres in a 24th of a round
    assert steps[-1].max() < 1.5 * steps[:-1].max()


@pytest.mark.parametrize("name", demo.MOTIONS)
def test_nobody_sinks_into_the_ground_or_leaves_the_place(name):
    motion = demo.motion(name, 20)
    assert motion[..., 1].max() == pytest.approx(-0.03, abs=1e-5)  # the soles are below the joints
    assert np.allclose(motion[:, 8, 0], 0)
    lowest = motion[..., 1].max(1)
    assert (lowest < -0.07).any() == (name == "run")


def test_a_turned_motion_looks_to_that_side():
    for yaw in (-60, 60):
        nose = demo.motion("walk", yaw)[:, 0, 0] - demo.motion("walk", yaw)[:, 1, 0]
        assert (np.sign(nose) == np.sign(yaw)).all()


def test_an_unknown_motion_is_refused():
    with pytest.raises(KeyError):
        demo.motion("fly")
