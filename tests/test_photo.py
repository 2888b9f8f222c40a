"""One's own photos: framing, fitting, moving, putting back, and the names for Python."""

import dataclasses
import json
import math
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import body, coco, csv_of, encoded, fails, openpose, picture, tree, write
from PIL import Image

import posegan
from posegan import body as shapes
from posegan import demo, features, metrics, models, photo, poses, reid
from posegan.posegan import EXAMPLE

SIZE = (64, 32)


@pytest.fixture(scope="module")
def model() -> photo.Model:
    """A small generator that has learned nothing; it finds nobody."""
    torch.manual_seed(0)
    return photo.Model(features.fused(models.FlowGenerator(*SIZE, channels=8)))


def someone(
    height: int = 256, width: int = 128, identity: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    return demo.person(0, identity, 0, (height, width))


def example() -> tuple[np.ndarray, np.ndarray]:
    return poses.read_photo(EXAMPLE), poses.read_pose(EXAMPLE.with_suffix(".json")).joints


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    sides = (torch.from_numpy(x.copy()).permute(2, 0, 1)[None] for x in (a, b))
    return float(metrics.scores(*sides, names=["ssim_dscf"])["ssim_dscf"])


# ------------------------------------------------------------------------------ framing


def test_a_person_fills_the_frame_as_in_training_pictures():
    own = body(100, 300, 120)
    frame = photo.frame_person((600, 800), SIZE, own, [])
    fitted = frame.to_model(own)
    top, bottom = fitted[:, 1].min(), fitted[:, 1].max()
    assert 0.75 * SIZE[0] < bottom - top < 0.95 * SIZE[0]
    assert abs(fitted[:, 0].mean() - (SIZE[1] - 1) / 2) < 3
    assert frame.width == round(frame.height / 2)


def test_a_photo_that_shows_a_person_as_a_whole_is_the_frame():
    image, own = someone()
    assert photo.frame_person(image.shape[:2], SIZE, own, []) == photo.Frame(0, 0, 256, 128, SIZE)


def test_a_person_at_the_edge_is_framed_inside_where_that_is_easy():
    own = body(100, 10, 120)
    frame = photo.frame_person((600, 800), SIZE, own, [])
    middle = frame.left + frame.width / 2
    box = photo.body_box(own)
    assert 5 < middle - (box[0] + box[2]) / 2 < 0.15 * frame.width + 1
    assert photo.within(frame.to_model(own), SIZE)[:, 2].all()


def test_the_frame_grows_for_wide_poses_but_not_without_end():
    own = body(100, 300, 120)
    alone = photo.frame_person((600, 800), SIZE, own, [])
    wide = own.copy()
    wide[4, 0] -= 30
    assert alone.height < photo.frame_person((600, 800), SIZE, own, [wide]).height
    far = own + np.float32([300, 0, 0])
    grown = photo.frame_person((600, 800), SIZE, own, [far])
    assert grown.height <= photo.WIDENED * alone.height + 1
    assert photo.within(grown.to_model(own), SIZE)[:, 2].all()


def test_a_crop_is_taken_and_moves_to_the_person():
    crop = (100, 50, 200, 250)
    frame = photo.frame_person((600, 800), SIZE, None, [], crop)
    assert (frame.left, frame.top, frame.width, frame.height) == (100, 50, 100, 200)
    own = body(100, 500, 300)
    moved = photo.frame_person((600, 800), SIZE, own, [], crop)
    assert photo.within(moved.to_model(own), SIZE)[:, 2].all()
    assert moved.height == frame.height


def test_without_person_and_crop_the_whole_height_is_the_frame():
    frame = photo.frame_person((225, 400), SIZE, None, [])
    assert (frame.top, frame.height, frame.width) == (0, 225, 112)
    assert frame.left == (400 - 112) // 2


@pytest.mark.parametrize("size", [(225, 400), (20, 300), (300, 20), (64, 32), (17, 17)])
def test_what_the_model_sees_has_its_size_and_no_black_edge(size):
    image = np.full((*size, 3), 200, np.uint8)
    seen = photo.frame_person(size, SIZE, None).cut(image)
    assert seen.shape == (*SIZE, 3)
    assert seen.min() == 200


def test_a_spot_and_its_joint_stay_together():
    image = np.zeros((300, 400, 3), np.uint8)
    image[149:152, 219:222] = 255
    spot = np.zeros((25, 3), np.float32)
    spot[0] = (220, 150, 1)
    frame = photo.frame_person((300, 400), (128, 64), body(150, 190, 80), [])
    seen = frame.cut(image)[..., 0].astype(float)
    y, x = np.mgrid[:128, :64]
    centre = [(seen * axis).sum() / seen.sum() for axis in (x, y)]
    assert np.allclose(centre, frame.to_model(spot)[0, :2], atol=0.3)


# ------------------------------------------------------------------------------ fitting


def test_a_pose_of_another_frame_gets_the_persons_size_and_place():
    image, own = someone()
    frame = photo.frame_person(image.shape[:2], SIZE, None)
    other = own * (0.2, 0.2, 1) + np.array([900, 40, 0])
    assert np.abs(photo.aim(other[None], own, image.shape[:2], frame)[0] - own).max() < 0.5
    assert np.array_equal(photo.aim(own[None], own, image.shape[:2], frame)[0], own)


def test_without_a_person_poses_fill_the_frame():
    frame = photo.frame_person((300, 400), SIZE, None, [], (200, 50, 300, 250))
    placed = photo.aim(body(900)[None], None, (300, 400), frame)[0]
    assert photo.within(frame.to_model(placed), SIZE)[:, 2].all()
    assert np.ptp(placed[:, 1]) == pytest.approx(0.8 * 200, rel=0.05)


@pytest.mark.parametrize("name", demo.MOTIONS)
def test_nobody_pulses_in_a_motion(name):
    image, own = someone()
    frame = photo.frame_person(image.shape[:2], SIZE, None)
    moved = photo.aim(photo.perform(name, own), own, image.shape[:2], frame)
    spine = np.linalg.norm(moved[:, 1, :2] - moved[:, 8, :2], axis=1)
    if name not in ("run", "sit"):  # where it leans, it is seen shorter
        assert np.ptp(spine) < 0.04 * spine.mean()
    assert np.ptp(moved[:, 8, 0]) < 1e-3
    assert poses.metre(moved[0]) == pytest.approx(poses.metre(own), rel=0.2)
    ground = max(own[joint, 1] for joint in poses.ANKLES)
    assert abs(np.median(moved[:, poses.ANKLES, 1].max(1)) - ground) < 0.02 * len(image)


# ------------------------------------------------------------------------------ moving


def test_outside_both_bodies_the_photo_is_untouched(model):
    image, own = example()
    moved = own + np.float32([12, 0, 0]) * (own[:, 2:] > 0)
    made = np.asarray(model(Image.fromarray(image), moved, own))
    assert made.shape == image.shape
    changed = (made != image).any(2)
    near = shapes.outline(
        shapes.distances(shapes.skeleton(np.stack([own, moved])), image.shape[:2]), 1.4, 2.0
    )
    assert not changed[near.amax(0)[0].numpy() == 0].any()
    assert changed.any()


def test_the_persons_own_pose_gives_the_photo_back(model):
    for image, own in (example(), someone()):
        made = np.asarray(model(Image.fromarray(image), own, own))
        assert ssim(made, image) > 0.95


def test_the_person_moves_with_the_pose_in_full_detail(model):
    image, own = someone(512, 256)
    shift = 20
    moved = own + np.float32([shift, 0, 0]) * (own[:, 2:] > 0)
    made = np.asarray(model(Image.fromarray(image), moved, own, fit=False)).astype(float)
    x, y = own[1, :2].astype(int)  # the chest, which nothing covers
    part, was = (
        made[y : y + 60, x + shift - 15 : x + shift + 15],
        image[y : y + 60, x - 15 : x + 15],
    )
    assert np.abs(part - was).mean() < 4


def test_a_shoe_that_sticks_out_of_its_line_does_not_stay_behind():
    size = 128, 64
    model = photo.Model(features.fused(models.FlowGenerator(*size, channels=8)))
    image, own = example()
    moved = own + np.float32([24, 0, 0]) * (own[:, 2:] > 0)
    shot = photo.Shot(image, photo.frame_person(image.shape[:2], size, own, [moved]), own)
    made = next(shot.pictures(model.generator, moved[None])).astype(float)
    both = shapes.skeleton(np.stack([own, moved]))
    beside = shapes.distances(both, image.shape[:2]).amin((0, 1)).numpy() > 1
    shoe = (shot.person[0, 0].numpy() > 0.5) & beside
    shoe[: round(own[11, 1]) - 16] = False  # above the ankle
    assert shoe.sum() > 200
    background = shot.background[0].permute(1, 2, 0).numpy()
    assert np.abs(made - background)[shoe].mean() < 4
    assert np.abs(made - image)[shoe].mean() > 40


def test_the_picture_does_not_depend_on_the_batch(model):
    image, own = someone()
    shot, moved = photo.shoot(image, own, [photo.read_targets("walk")], SIZE)
    together = list(shot.pictures(model.generator, moved[:5]))
    for place in range(5):
        alone = next(shot.pictures(model.generator, moved[place : place + 1])).astype(int)
        assert np.abs(alone - together[place]).max() <= 1


@pytest.mark.parametrize(
    "crop", [(900, 0, 990, 90), (0, 900, 90, 990), (-9, 0, 0, 9), (0, -9, 9, -1)]
)
def test_a_crop_beside_the_photo_is_refused_where_no_pose_moves_it(crop):
    image, own = someone()
    walk = [photo.read_targets("walk")]
    with fails("--crop: outside the photo, which is 128 wide and 256 high; give left, top, right"):
        photo.shoot(image, None, walk, SIZE, crop)
    assert len(photo.shoot(image, own, walk, SIZE, crop)[1]) == demo.MOTION_FRAMES


def test_the_same_pose_in_four_formats_gives_the_same_picture(model, tmp_path):
    image, own = someone()
    pose = poses.from_coco17(own.round()[list(poses.COCO17)])
    pose[:, 2] = pose[:, 2] > 0
    people = [{"keypoints": pose[list(poses.COCO17)].ravel().tolist(), "image_id": 1}]
    files = [
        write(tmp_path / "25.json", openpose(pose)),
        write(tmp_path / "18.json", openpose(pose[list(poses.COCO18)])),
        write(tmp_path / "17.json", json.dumps(people)),
        tmp_path / "a.csv",
    ]
    write(files[-1], csv_of({"a": pose}))
    made = [np.asarray(model(Image.fromarray(image), file, own)) for file in files]
    assert all(np.array_equal(one, made[0]) for one in made)


def test_a_model_without_flow_takes_photos_too():
    image, own = someone()
    plain = photo.Model(features.fused(models.UNetGenerator(*SIZE, channels=4)))
    made = plain(Image.fromarray(image), own, own)
    assert ssim(np.asarray(made), image) > 0.95


def test_without_a_source_pose_the_picture_is_the_models(model):
    image, own = someone()
    made = np.asarray(model(Image.fromarray(image), own, crop=(0, 0, 128, 256)))
    assert made.shape == image.shape
    assert (made != image).any()


def test_a_pasted_picture_is_the_photo_with_a_soft_edge(model):
    image, own = someone(128, 64)
    wide = np.pad(image, ((40, 30), (100, 90), (0, 0)), mode="edge")
    pose = own + np.float32([100, 40, 0]) * (own[:, 2:] > 0)
    alone = np.asarray(model(Image.fromarray(wide), "wave", pose)[0])
    pasted = np.asarray(model(Image.fromarray(wide), "wave", pose, paste=True)[0])
    assert alone.shape[0] < pasted.shape[0] == len(wide)
    assert np.array_equal(pasted[:, :40], wide[:, :40])
    shot = photo.Shot(wide, photo.frame_person(wide.shape[:2], SIZE, None), None)
    rows, columns = shot.frame.window(wide.shape[:2])
    white = np.full((rows.stop - rows.start, columns.stop - columns.start, 3), 255, np.uint8)
    row = shot.paste(white)[len(wide) // 2].astype(int)
    assert np.abs(np.diff(row[:, 0])).max() < 60  # no seam
    assert (row[wide.shape[1] // 2] == 255).all()


@pytest.mark.parametrize("size", [(20, 300), (300, 20), (16, 16), (225, 400)])
def test_photos_of_any_shape_are_taken(model, size):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    made = np.asarray(model(Image.fromarray(image), body()))
    assert made.shape[0] == size[0]
    assert made.shape[1] <= size[1]


def test_what_is_unused_is_said_joint_by_joint():
    pose = body(100)
    pose[4] = 0
    targets = [photo.Targets(["a"], [poses.Pose(pose)], [])]
    frame = photo.Frame(0, 0, 100, 50, SIZE)
    lines = list(photo.unused(targets, pose[None], frame))
    assert lines[0] == "a: missing: right_wrist"
    assert "outside the frame: " in lines[1]
    assert "right_ankle" in lines[1]
    nothing_lacks = body(90, 20, 5)
    targets = [photo.Targets(["a"], [poses.Pose(nothing_lacks)], [])]
    assert not list(photo.unused(targets, nothing_lacks[None], photo.Frame(0, 0, 200, 100, SIZE)))


def test_a_pose_outside_the_photo_is_one_line(model):
    image, own = someone()
    with fails("pose: no joint is inside the photo; check its coordinates, or leave out"):
        model(Image.fromarray(image), body(100, 9000), own, fit=False)


# ------------------------------------------------------------------------------ poses and photos


def test_a_pose_beside_the_photo_is_the_persons(tmp_path):
    file = write(tmp_path / "me.png", encoded(someone()[0]))
    picture = poses.read_photo(file)
    assert photo.own_pose(file, picture) == (None, "no pose given for the person")
    write(tmp_path / "me.json", openpose(body()))
    own, note = photo.own_pose(file, picture)
    assert np.allclose(own, body(), atol=1e-4)
    assert note == f"the person's pose: {tmp_path / 'me.json'}"
    given = write(tmp_path / "other.json", openpose(body(90)))
    assert np.allclose(photo.own_pose(file, picture, given)[0], body(90), atol=1e-4)


def test_a_crop_chooses_of_several_people(tmp_path, caplog):
    picture = someone()[0]
    given = write(tmp_path / "two.json", openpose(body(90, 30, 8), body(40, 50, 2)))
    assert np.allclose(
        photo.own_pose(None, picture, given, crop=(40, 0, 60, 45))[0], body(40, 50, 2)
    )
    assert not caplog.text
    for crop, person in (((40, 0, 60, 45), 1), ((0, 100, 9, 120), None), (None, None)):
        own, _ = photo.own_pose(None, picture, given, None, person, crop)
        assert bool(caplog.text) == (crop is None)
        assert np.allclose(own, body(90, 30, 8), atol=1e-4)


def test_a_photos_stored_pose_serves_it_as_a_target_too(tmp_path):
    for name, size in (("a.png", (90, 60)), ("b.png", (180, 120))):
        Image.fromarray(picture(size=size)).save(tmp_path / name)
    write(tmp_path / "b.json", openpose(body(150, 60, 20)))
    (found,) = photo.read_targets(tmp_path / "b.png").found
    assert np.allclose(found.at((180, 120)), body(150, 60, 20), atol=1e-3)
    assert np.allclose(found.at((90, 60))[:, :2], body(75, 29.75, 9.75)[:, :2], atol=1e-3)
    own, _ = photo.own_pose(tmp_path / "b.png", picture(size=(180, 120)))
    assert np.allclose(own, body(150, 60, 20), atol=1e-3)
    write(tmp_path / "b.json", "{}")
    with fails(r"b.json: neither .*taken for the pose of .*b.png; rename it if it is not"):
        photo.own_pose(tmp_path / "b.png", picture(size=(180, 120)))


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
    tree(tmp_path, {f"{number}.json": openpose(body()) for number in range(12)})
    assert photo.read_targets(tmp_path).names == [str(number) for number in range(12)]


def test_of_a_file_of_many_poses_each_photo_gets_its_own(tmp_path):
    given = write(tmp_path / "all.json", coco({"x/a.jpg": body(), "b.png": body(80)}, (128, 64)))
    for name, height in (("a.png", 100), ("b.jpg", 80)):
        own, _ = photo.own_pose(tmp_path / name, picture(size=(128, 64)), given)
        assert np.allclose(own[2], body(height)[2], atol=1e-3)
    with fails("all.json: no pose called c.png; choose one"):
        photo.own_pose(tmp_path / "c.png", picture(size=(128, 64)), given)


@pytest.mark.parametrize("harm", ["fractions", "far", "one place", "head"])
def test_joints_of_programs_are_checked_as_those_of_files(harm):
    joints = body().copy()
    if harm == "fractions":
        joints[:, :2] /= (64, 128)
    elif harm == "far":
        joints[:, :2] += 500
    elif harm == "one place":
        joints[:, :2] = 20 + joints[:, :2] * 1e-3
    else:
        joints[2:15] = joints[19:] = 0
    model = photo.Model(SimpleNamespace(height=128, width=64))
    with fails("^source_pose: "):
        model(torch.zeros(3, 128, 64, dtype=torch.uint8), "walk", source_pose=joints)


def test_the_margin_of_a_person_is_that_of_whole_windows():
    person = torch.rand(1, 1, 150, 60)
    around, _ = shapes.surroundings(person, body(120, 30, 10))
    whole = F.max_pool2d(person, 5, 1, 2)
    whole = F.avg_pool2d(whole, 5, 1, 2, count_include_pad=False)
    assert torch.allclose(around, whole, atol=1e-6)


def test_a_pose_of_a_picture_of_another_shape_is_told(tmp_path):
    picture = someone()[0]
    for size, told in ((picture.shape[:2], False), (picture.shape[1::-1], True)):
        given = write(tmp_path / "a.json", coco({"a": body()}, size))
        note = photo.own_pose(None, picture, given)[1]
        assert ("a picture of {}x{}, not {}x{} (".format(*size, *picture.shape) in note) == told


def test_a_pose_of_a_lying_picture_is_not_made_slim():
    image, own = someone()
    shots = []
    for size in (None, (300, 400)):
        targets = photo.Targets(["a"], [poses.Pose(body(280, 200), size)], [])
        shots.append(photo.shoot(image, own, [targets], (64, 32))[1])
    assert np.allclose(*shots)


def test_a_pose_is_looked_for_where_the_detector_is_at_hand(tmp_path):
    image = someone()[0]
    own, note = photo.own_pose(None, image, None, lambda images: body()[None])
    assert np.array_equal(own, body())
    assert "found by Keypoint R-CNN" in note
    nobody = photo.own_pose(None, image, None, lambda images: np.zeros((1, 25, 3)))
    assert nobody == (None, "no person found")

    def missing(images):
        raise poses.BadInput("weights of Keypoint R-CNN", "can't be fetched", "give them")

    assert photo.own_pose(None, image, None, missing) == (
        None,
        "weights of Keypoint R-CNN: can't be fetched; give them",
    )


def test_a_folder_is_read_but_for_its_broken_poses(tmp_path):
    for name, content in (("a", openpose(body())), ("b", "{"), ("c_keypoints", openpose(body(90)))):
        write(tmp_path / f"{name}.json", content)
    targets = photo.read_targets(tmp_path)
    assert targets.names == ["a", "c"]
    assert len(targets.found) == 2
    assert "b.json: not valid JSON" in targets.broken[0].message


def test_targets_that_are_none_say_so(tmp_path):
    with fails("fly: no such file; check the path, or name a motion: walk, run, turn, wave"):
        photo.read_targets("fly")
    with fails("no poses in it; put pose files or photos there"):
        photo.read_targets(tmp_path)
    write(tmp_path / "b.json", "{")
    with fails("b.json: not valid JSON"):
        photo.read_targets(tmp_path)
    write(tmp_path / "c.json", "{")
    with fails("no poses in it"):
        photo.read_targets(tmp_path)


def test_a_folder_called_like_a_motion_is_named_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not photo.read_targets("walk").found
    write(tmp_path / "walk" / "a.json", openpose(body()))
    assert not photo.read_targets("walk").found  # as the folder of the last run's results
    assert photo.read_targets("./walk").names == ["a"]


# ------------------------------------------------------------------------------ re-identification


def test_new_poses_of_people_are_planned_in_markets_naming(few_people):
    planned = reid.plan_people(few_people, 3)
    people = few_people.identities
    assert len(planned) == 3 * people
    assert len({one.file for one in planned}) == len(planned)
    for one in planned:
        assert re.fullmatch(r"\d{4}_c\ds\d_\d{6}_\d\d\.jpg", one.file)
        source, pose = one.pair
        assert few_people.files[source] == one.source
        assert few_people.files[pose] == one.pose
        assert few_people.split[source] == few_people.split[pose] == "train"
    more = reid.plan_people(few_people, 5)
    assert set(planned) < set(more)


def test_people_without_pairs_are_refused(few_people):
    alone = dataclasses.replace(few_people, pairs_train=few_people.pairs_train[:0])
    with fails("no training pairs; prepare people with two pictures each"):
        reid.plan_people(alone, 1)


# ------------------------------------------------------------------------------ from Python


def test_pictures_and_tensors_come_back_as_they_went_in(model):
    image, own = someone()
    picture = model(Image.fromarray(image), own, own)
    tensor = model(torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(own), own)
    assert isinstance(picture, Image.Image)
    assert torch.equal(tensor, torch.from_numpy(np.array(picture)).permute(2, 0, 1))
    walking = model(Image.fromarray(image), "walk", own)
    assert [one.size for one in walking] == [walking[0].size] * demo.MOTION_FRAMES


def test_arguments_that_are_no_photo_or_pose_say_so(model):
    image, own = someone()
    with fails(r"photo: a tensor torch.float32 \(3, 8, 8\); give a file, a PIL picture"):
        model(torch.zeros(3, 8, 8), own)
    with fails(r"pose: not BODY_25 joints \(25, 3\)"):
        model(Image.fromarray(image), np.zeros((18, 3)))


def test_a_folder_with_a_broken_pose_is_refused_as_a_whole_in_python(model, tmp_path):
    write(tmp_path / "a.json", openpose(body()))
    write(tmp_path / "b.json", "{")
    with fails("b.json: not valid JSON"):
        model(Image.fromarray(someone()[0]), tmp_path)


def test_pictures_are_scored_from_python():
    image = Image.fromarray(someone()[0])
    scores = posegan.score(image, [image])
    assert scores["ssim_dscf"] == pytest.approx(1)
    assert scores["l1"] == 0
    assert set(posegan.score(image, image, names=["l1"])) == {"l1"}


def test_the_names_for_python_are_there_wherever_posegan_is_imported(tmp_path):
    code = "import posegan, sys; print('torch' in sys.modules, posegan.load.__module__, "
    code += "posegan.score.__module__, posegan.Model.__module__)"
    for folder in (tmp_path, Path(photo.__file__).parent):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["False", *["posegan.photo"] * 3]
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        posegan.lode  # noqa: B018


def test_the_example_is_small_and_shows_a_person():
    files = list(EXAMPLE.parent.iterdir())
    assert sum(file.stat().st_size for file in files) < 100_000
    image, own = example()
    assert photo.within(own, image.shape[:2])[:, 2].sum() >= 18


def test_a_pose_of_a_table_has_its_whole_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    points = [10 + place for place in range(18)]
    rows = [f"{name}/0.png: {points}: {points}" for name in ("al", "bo")]
    write(tmp_path / "poses.csv", "\n".join([poses.CSV_HEADER, *rows]))
    names = [photo.read_targets(f"poses.csv:{name}/0.png").names[0] for name in ("al", "bo")]
    assert names == ["poses.csv_al_0", "poses.csv_bo_0"]


def test_a_picture_with_its_pose_beside_is_no_pose_of_a_folder(tmp_path):
    write(tmp_path / "a.png", encoded(picture()))
    write(tmp_path / "a_keypoints.json", openpose(body()))
    write(tmp_path / "c.json", openpose(body()))
    write(tmp_path / "b.png", encoded(picture()))
    found = photo.read_targets(tmp_path, lambda pictures: np.array([body()]))
    assert found.names == ["a", "b", "c"]


@pytest.mark.parametrize("mode", ["EXIF", "I;16", "RGBA"])
def test_an_open_picture_is_read_as_its_file_is(tmp_path, mode):
    exif = Image.Exif()
    exif[0x0112] = 6 if mode == "EXIF" else 1
    values = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30) * 100
    made = Image.fromarray(values) if mode == "I;16" else Image.fromarray(picture(0, (20, 30)))
    if mode == "RGBA":
        made.putalpha(99)
    made.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        assert np.array_equal(photo.read_photo(opened), photo.read_photo(tmp_path / "a.png"))


def closed() -> Image.Image:
    made = Image.new("RGB", (30, 30))
    made.close()
    return made


@pytest.mark.parametrize(
    "given", [None, b"x", np.zeros((30, 30, 3)), torch.zeros(3, 0, 0), closed()]
)
def test_what_is_no_photo_says_what_is_one(given):
    with fails("photo: .*give a file, a PIL picture or a uint8 tensor"):
        photo.read_photo(given)


JOINTS = np.ones((25, 3)) * np.arange(1, 26)[:, None]


@pytest.mark.parametrize(
    "given", [JOINTS[:17], JOINTS * np.nan, JOINTS * 0, JOINTS * 1e9, JOINTS * 0 + 9, "x", [1]]
)
def test_what_are_no_joints_is_one_line(given):
    with fails("pose: (not BODY_25 joints|all its joints are in one place)"):
        photo.as_joints(given, "pose")


def test_confidence_is_at_most_one():
    assert photo.as_joints(JOINTS, "pose")[:, 2].tolist() == [1.0] * 25


BOX = np.array([0, 0, 50, 80], np.uint8)


def test_a_box_may_be_an_array_or_a_tensor(model):
    image, own = someone()
    boxes = [tuple(BOX.tolist()), BOX, torch.from_numpy(BOX)]
    made = [np.asarray(model(Image.fromarray(image), own, own, crop=box)) for box in boxes]
    assert (made[0] == made[1]).all() and (made[0] == made[2]).all()


@pytest.mark.parametrize(
    "crop",
    [
        (1, 2, 3),
        (9, 9, 3, 40),
        (0, 0, 0, 0),
        "abcd",
        np.zeros((4, 2)),
        BOX[::-1],
        (0, math.nan, 50, 60),
    ],
)
def test_what_is_no_box_is_one_line(crop):
    with fails("crop: not a box; give left, top, right, bottom"):
        photo.as_crop(crop)


def test_a_model_can_be_sent_to_another_process(model):
    sent = pickle.loads(pickle.dumps(photo.Model(model.generator, photo.Finder("cpu"))))
    given = EXAMPLE, EXAMPLE.with_suffix(".json")
    assert np.array_equal(sent(*given), model(*given))


def test_weights_that_cant_be_fetched_are_asked_for_once(monkeypatch):
    asked = []

    def fetch(images, **_):
        asked.append(len(images))
        raise poses.BadInput("weights", "can't be fetched", "give them")

    monkeypatch.setattr(features, "find_poses", fetch)
    find = photo.Finder("cpu")
    for _ in range(3):
        with fails("weights: can't be fetched"):
            find([picture()])
    assert asked == [1]
