"""Joints, pictures and pose formats."""

import itertools
import json
import logging
import re

import numpy as np
import pytest
from conftest import (
    body,
    coco,
    csv_of,
    csv_row,
    csv_text,
    encoded,
    fails,
    openpose,
    picture,
    tree,
    write,
)
from PIL import ExifTags, Image, ImageCms

from posegan import demo, poses

# ------------------------------------------------------------------------------ joints


def test_a_flip_swaps_left_and_right_joints_and_twice_is_nothing():
    swaps = [(2, 5), (3, 6), (4, 7), (9, 12), (10, 13), (11, 14), (15, 16), (17, 18)]
    swaps += [(19, 22), (20, 23), (21, 24)]
    expected = list(range(25))
    for a, b in swaps:
        expected[a], expected[b] = b, a
    assert list(poses.FLIP) == expected
    assert np.array(poses.FLIP)[list(poses.FLIP)].tolist() == list(range(25))


def test_limbs_join_every_joint_to_one_body():
    reached = {8}
    for _ in poses.LIMBS:
        reached |= {j for limb in poses.LIMBS if reached & set(limb) for j in limb}
    assert reached == set(range(25))
    assert len(set(map(frozenset, poses.LIMBS))) == len(poses.LIMBS) == 24


def test_limbs_stay_limbs_when_left_and_right_are_swapped():
    limbs = set(map(frozenset, poses.LIMBS))
    assert {frozenset(poses.FLIP[j] for j in limb) for limb in limbs} == limbs


def test_coco18_keeps_its_joints_and_computes_the_mid_hip():
    joints = np.random.default_rng(0).uniform(1, 60, (18, 3)).astype(np.float32)
    pose = poses.from_coco18(joints)
    names = ["nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder"]
    names += ["left_elbow", "left_wrist", "right_hip", "right_knee", "right_ankle", "left_hip"]
    names += ["left_knee", "left_ankle", "right_eye", "left_eye", "right_ear", "left_ear"]
    assert np.array_equal(pose[[poses.JOINTS.index(name) for name in names]], joints)
    assert np.allclose(pose[8, :2], (joints[8, :2] + joints[11, :2]) / 2)
    assert not pose[19:].any()


def test_coco17_computes_neck_and_mid_hip_unless_a_part_is_missing():
    joints = np.random.default_rng(0).uniform(1, 60, (17, 3)).astype(np.float32)
    pose = poses.from_coco17(joints)
    assert np.array_equal(pose[[16, 15, 5, 2, 14, 11]], joints[[1, 2, 5, 6, 15, 16]])
    assert np.allclose(pose[1, :2], joints[5:7, :2].mean(0))
    assert np.allclose(pose[8, :2], joints[11:13, :2].mean(0))
    joints[5] = joints[12] = 0
    assert not poses.from_coco17(joints)[[1, 8]].any()


# ------------------------------------------------------------------------------ pictures


def test_a_picture_is_read_bit_for_bit_from_bytes_and_from_a_path(tmp_path):
    image = picture()
    path = write(tmp_path / "a.png", encoded(image))
    assert np.array_equal(poses.read_image(path, "a.png"), image)
    assert np.array_equal(poses.read_image(path.read_bytes(), "a.png"), image)


def test_exif_rotation_is_applied():
    image = picture()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter: the camera was held upright
    turned = encoded(Image.fromarray(image).rotate(90, expand=True), "png", exif=exif)
    assert np.array_equal(poses.read_image(turned, "a.png"), image)


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(kind):
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    image = poses.read_image(encoded(Image.fromarray(values), kind), "a")
    assert np.array_equal(
        image, np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None].repeat(3, 2)
    )


def test_a_photos_colours_become_srgb_and_a_datas_stay(tmp_path):
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = picture(size=(32, 32))
    for name, profile in (("damaged", b"no profile"), ("lab", wide), ("srgb", srgb)):
        path = tmp_path / f"{name}.png"
        Image.fromarray(pixels).save(path, icc_profile=profile)
        assert np.array_equal(poses.read_photo(path), pixels), name
    path = tmp_path / "turned.png"
    Image.fromarray(pixels).save(path, icc_profile=turned_profile(srgb))
    assert np.array_equal(poses.read_image(path, "turned"), pixels)
    assert np.abs(poses.read_photo(path).astype(int) - pixels[..., [1, 0, 2]]).max() <= 2
    Image.fromarray(pixels).convert("RGBA").save(path, icc_profile=turned_profile(srgb))
    assert np.abs(poses.read_photo(path).astype(int) - pixels[..., [1, 0, 2]]).max() <= 2


def turned_profile(srgb: bytes) -> bytes:
    """sRGB with red and green exchanged, under another name."""
    content = bytearray(srgb.replace(b"sRGB", b"sGRB").replace(b"s\0R\0G\0B", b"s\0G\0R\0B"))
    tags = {}
    for place in range(132, 132 + 12 * int.from_bytes(content[128:132], "big"), 12):
        tags[bytes(content[place : place + 4])] = place + 4
    red, green = (slice(tags[name], tags[name] + 8) for name in (b"rXYZ", b"gXYZ"))
    content[red], content[green] = content[green], content[red]
    return bytes(content)


def test_grey_palette_and_bilevel_pictures_become_rgb():
    grey = Image.fromarray(picture()[..., 0])
    for mode in ("L", "P", "1"):
        expected = np.asarray(grey.convert(mode).convert("RGB"))
        assert np.array_equal(poses.read_image(encoded(grey.convert(mode)), "a"), expected)


def test_cmyk_becomes_the_colour_it_prints():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(poses.read_image(encoded(red, "jpeg"), "a").mean((0, 1)) - (255, 0, 0)).max() < 6


def test_transparent_pixels_are_white():
    for mode, colour in (("RGBA", (200, 0, 0, 0)), ("LA", (90, 0))):
        assert (poses.read_image(encoded(Image.new(mode, (4, 4), colour)), "a") == 255).all()
    half = poses.read_image(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128))), "a")
    assert abs(int(half[0, 0, 0]) - 127) <= 1
    palette = encoded(Image.new("P", (4, 4), 0), transparency=0)
    assert (poses.read_image(palette, "a") == 255).all()


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_an_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black")]
    image = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert (poses.read_image(image, "a") == 255).all()


def test_pictures_that_cannot_be_read_say_so(tmp_path, monkeypatch):
    jpeg = encoded(picture(), "jpeg")
    with fails(r"^cut.jpg: damaged picture .*; download it again"):
        poses.read_image(jpeg[: len(jpeg) // 2], "cut.jpg")
    with fails("^empty.jpg: empty, or not a readable picture"):
        poses.read_image(b"", "empty.jpg")
    with fails("^text.jpg: empty, or not a readable picture; save it as JPEG or PNG"):
        poses.read_image(b"not a picture at all", "text.jpg")
    with fails("no such file; check the path"):
        poses.read_image(tmp_path / "none.jpg", "none.jpg")
    with fails("damaged picture"):
        poses.read_image(encoded(Image.new("F", (4, 4)), "tiff"), "float.tiff")
    with fails("more than 16 bits"):
        poses.read_image(encoded(Image.new("I", (4, 4), 70000), "tiff"), "deep.tiff")
    for limit in (5000, 3000):  # Pillow warns above its limit and refuses above twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with fails(f"^bomb.png: more than {limit:,} pixels; shrink it first"):
            poses.read_image(encoded(Image.new("L", (100, 80))), "bomb.png")


# ------------------------------------------------------------------------------ fitting


def test_a_picture_of_the_frames_size_stays_as_it_is():
    image, pose = picture(), body()
    assert np.array_equal(poses.fit_image(image, (128, 64)), image)
    assert np.array_equal(poses.fit_pose(pose, (128, 64), (128, 64)), pose)


def test_deepfashion_is_cropped_as_patn_crops_it():
    image = picture(size=(256, 256))
    assert np.array_equal(poses.fit_image(image, (256, 176)), image[:, 40:216])
    pose = body(200, 128, 20)
    assert np.allclose(poses.fit_pose(pose, (256, 256), (256, 176)), pose - (40, 0, 0))


@pytest.mark.parametrize("size", [(96, 40), (33, 90), (300, 300), (64, 500), (1000, 11)])
def test_a_spot_and_its_joint_stay_together(size):
    rng = np.random.default_rng(0)
    spread = np.linspace(0.25, 0.75, 3)
    for y, x in itertools.product(spread * size[0], spread * size[1]):
        yy, xx = np.mgrid[: size[0], : size[1]]
        spot = np.exp(-((yy - y) ** 2 + (xx - x) ** 2) / (2 * (size[0] / 20) ** 2))
        image = (spot * 255).round().astype(np.uint8)[..., None].repeat(3, 2)
        fitted = poses.fit_image(image, (128, 128))[..., 0].astype(float)
        joint = poses.fit_pose(np.array([[x, y, rng.uniform(0.1, 1)]]), size, (128, 128))[0]
        if not joint[2] or min(joint[0], 127 - joint[0]) < 24:
            continue
        yy, xx = np.mgrid[:128, :128]
        centre = (fitted * xx).sum() / fitted.sum(), (fitted * yy).sum() / fitted.sum()
        assert np.allclose(joint[:2], centre, atol=0.4)


def test_a_narrow_picture_gets_zeros_at_its_sides_and_a_wide_one_is_cropped():
    narrow = poses.fit_image(np.full((64, 16, 3), 200, np.uint8), (128, 64))
    assert narrow[:, 16:48].min() == 200 and not narrow[:, :16].any() and not narrow[:, 48:].any()
    assert poses.fit_image(picture(size=(10, 400)), (128, 64)).shape == (128, 64, 3)


def test_joints_outside_the_frame_become_missing():
    pose = np.array([[5, 50, 1], [100, 50, 0.5], [195, 50, 1], [0, 0, 0]], np.float32)
    fitted = poses.fit_pose(pose, (100, 200), (100, 100))
    assert np.array_equal(fitted, [[0, 0, 0], [50, 50, 0.5], [0, 0, 0], [0, 0, 0]])


# ------------------------------------------------------------------------------ pose formats


@pytest.mark.parametrize("key", ["pose_keypoints_2d", "pose_keypoints"])
def test_openpose_json_round_trips(tmp_path, key):
    pose = body()
    pose[[4, 20]] = 0
    path = write(tmp_path / "a_keypoints.json", openpose(pose, key=key))
    assert np.allclose(poses.read_poses(path)["a"].joints, pose)
    path = write(tmp_path / "b.json", openpose(pose[[*range(8), *range(9, 19)]], key=key))
    joints = poses.read_poses(path)["b"].joints
    assert np.allclose(joints[[*range(8), *range(9, 19)]], pose[[*range(8), *range(9, 19)]])


def test_coco_json_round_trips_and_knows_its_pictures_size(tmp_path):
    pose = body()
    read = poses.read_poses(write(tmp_path / "a.json", coco({"x/a.jpg": pose}, (128, 64))))
    assert read["x/a.jpg"].size == (128, 64)
    kept = [0, 2, 3, 4, 5, 6, 7, *range(9, 19)]
    assert np.allclose(read["x/a.jpg"].joints[kept], pose[kept])


def test_a_detectors_plain_list_of_results_is_read(tmp_path):
    annotations = json.loads(coco({"a": body()}, (9, 9)))["annotations"]
    annotations[0]["image_id"] = "a.jpg"
    annotations[0]["keypoints"][2] = 0
    read = poses.read_poses(write(tmp_path / "a.json", json.dumps(annotations)))
    assert read["a.jpg"].size is None
    assert not read["a.jpg"].joints[0].any()


def test_the_csv_has_y_before_x_and_minus_one_for_missing(tmp_path):
    points = np.arange(36).reshape(18, 2) + 3
    points[4] = -1
    row = csv_row("a.jpg", points)
    path = write(tmp_path / "a.csv", csv_text(row).replace("\n", "\r\n"))
    joints = poses.read_poses(path)["a.jpg"].joints
    assert np.array_equal(joints[3], [9, 10, 1])
    assert not joints[4].any()
    assert csv_row("a.jpg", points).startswith("a.jpg: [4, 6")


def test_a_folder_of_openpose_json_names_poses_by_file(tmp_path):
    files = {"al/1_keypoints.json": openpose(body()), "bo/2.JSON": openpose()}
    read = poses.read_poses(tree(tmp_path, files))
    assert list(read) == ["al/1", "bo/2"]
    assert not read["bo/2"].joints.any()


def test_of_several_people_the_largest_confident_one_is_read(tmp_path, caplog):
    unsure = body(120) * (1, 1, 0.1)
    people = [body(40), body(90), unsure]
    path = write(tmp_path / "a.json", openpose(*people))
    with caplog.at_level(logging.WARNING, "posegan"):
        assert np.allclose(poses.read_poses(path)["a"].joints, people[1])
    assert "several people; the largest confident one is used" in caplog.text


@pytest.mark.parametrize("low", [0, -1])
def test_keypoint_scale_fractions_are_scaled_to_the_picture(tmp_path, low):
    pose = body()
    pose[3] = 0
    scaled = pose.copy()
    scaled[:, :2] = scaled[:, :2] / (63, 127) * (1 - low) + low
    scaled[3] = 0
    path = write(tmp_path / "a.json", openpose(scaled, scaled))
    read = poses.read_pose(path, person=2)
    assert np.allclose(read.at((128, 64)), pose, atol=1e-4)
    assert np.allclose(read.at((255, 127))[:, :2], pose[:, :2] * 2, atol=1e-3)
    scaled[4, :2] = (-0.1, 1.2) if low == 0 else (-1.1, 1.1)  # outside the picture
    read = poses.read_pose(write(tmp_path / "b.json", openpose(scaled)))
    assert np.allclose(read.at((128, 64))[5:], pose[5:], atol=1e-4)


def test_a_person_in_a_corner_is_scaled_from_minus_one_too(tmp_path):
    pose = body(40, 45, 61)
    scaled = pose.copy()
    scaled[:, :2] = scaled[:, :2] / (63, 127) * 2 - 1
    assert 0 < (scaled[:, :2] < 0).any(1).mean() < 0.25
    read = poses.read_pose(write(tmp_path / "a.json", openpose(scaled)))
    assert np.allclose(read.at((128, 64)), pose, atol=1e-4)


def detected(pose: np.ndarray, kind: str) -> str:
    """One person's COCO-17 joints as programs of detectors write them."""
    joints = pose[list(poses.COCO17)].astype(float)
    flat, points, sure = joints.ravel().tolist(), joints[:, :2].tolist(), joints[:, 2].tolist()
    x, y = joints[:, 0].tolist(), joints[:, 1].tolist()
    result = {"image_id": 7, "category_id": 1, "score": 0.9, "keypoints": flat}
    instance = {"keypoints": points, "keypoint_scores": sure, "bbox_score": 0.9}
    ultralytics = {"name": "person", "keypoints": {"x": x, "y": y, "visible": sure}}
    written = {
        "MMPose, Detectron2": [result],
        "MMPose's inferencer": [instance],
        "MMPose's demo": {"meta_info": {}, "instance_info": [instance]},
        "MMPose of a video": [{"frame_id": 1, "instances": [instance]}],
        "ViTPose": [{"keypoints": points, "scores": sure, "bbox": [0, 0, 1, 1]}],
        "Ultralytics": [ultralytics],
        "points of three": [{"keypoints": joints.tolist()}],
        "COCO": json.loads(coco({"a": pose}, (128, 64))),
    }
    return json.dumps(written[kind])


@pytest.mark.parametrize(
    "kind",
    [
        "MMPose, Detectron2",
        "MMPose's inferencer",
        "MMPose's demo",
        "MMPose of a video",
        "ViTPose",
        "Ultralytics",
        "points of three",
        "COCO",
    ],
)
def test_what_detectors_write_gives_the_same_joints(tmp_path, kind):
    pose = poses.from_coco17(body()[list(poses.COCO17)])
    read = poses.read_pose(write(tmp_path / "a.json", detected(pose, kind)))
    assert np.allclose(read.at((128, 64)), pose, atol=1e-3)


def test_a_joint_that_a_detector_only_guessed_is_missing(tmp_path):
    joints = body()[list(poses.COCO17)].astype(float)
    scores = [0.9] * 11 + [0.03] * 6
    person = {"keypoints": joints[:, :2].tolist(), "keypoint_scores": scores}
    read = poses.read_pose(write(tmp_path / "a.json", json.dumps([person]))).joints
    assert not read[9:15].any()
    assert (read[[0, 2, 5], 2] > 0.8).all()
    person["keypoints"] = joints.tolist()
    with fails("b.json: its joints are 3-D; give the 2-D ones"):
        poses.read_pose(write(tmp_path / "b.json", json.dumps([person])))


@pytest.mark.parametrize("more", [0, 9, 116, 119])
def test_coco_joints_come_in_the_order_that_the_file_names(tmp_path, more):
    """As annotators write them: mirrored names, boxes of other things, joints of whole bodies."""
    content = json.loads(coco({"a": body()}, (128, 64)))
    place, names = list(poses.COCO17), [poses.JOINTS[joint] for joint in poses.COCO17]
    wanted = poses.read_pose(write(tmp_path / "a.json", json.dumps(content))).joints
    order = [place.index(poses.FLIP[joint]) for joint in place]
    person = content["annotations"][0]
    joints = np.reshape(person["keypoints"], (17, 3))
    person["keypoints"] = [*joints[order].ravel().tolist(), *[1] * 3 * more]
    content["annotations"].append({"image_id": 0, "bbox": [1, 2, 3, 4]})
    listed = [names[one].replace("_", " ").title() for one in order] + ["toe"] * more
    content["categories"] = [{"name": "bag"}, {"name": "person", "keypoints": listed}]
    read = poses.read_pose(write(tmp_path / "b.json", json.dumps(content))).joints
    assert np.array_equal(read, wanted)
    listed = {str(number): name for number, name in enumerate(listed)}
    other = {"meta_info": {"keypoint_id2name": listed}, "instance_info": [person]}
    read = poses.read_pose(write(tmp_path / "m.json", json.dumps(other, sort_keys=True))).joints
    assert np.array_equal(read, wanted)
    content["categories"][1]["keypoints"][4] = "thorax"
    with fails("c.json: its joints are not COCO's; export COCO's 17"):
        poses.read_pose(write(tmp_path / "c.json", json.dumps(content)))


@pytest.mark.parametrize("names", [poses.JOINTS, ("Nose", "Neck", "RShoulder", "RElbow")])
def test_openposes_own_names_change_nothing(tmp_path, names):
    content = json.loads(coco({"a": body()}, (128, 64)))
    content["annotations"][0]["keypoints"] = body().ravel().tolist()
    content["categories"] = [{"keypoints": names}]
    read = poses.read_pose(write(tmp_path / "a.json", json.dumps(content)))
    assert np.allclose(read.joints, body())


def test_openpose_files_of_other_programs_know_their_canvas(tmp_path):
    content = json.loads(openpose(body()))
    content["people"].append({"pose_keypoints_2d": []})  # of whom only hands were found
    for number, written in enumerate((content, [content])):
        content |= {"canvas_height": 256, "canvas_width": 128}
        path = write(tmp_path / f"{number}.json", json.dumps(written))
        pose = poses.read_pose(path)
        assert (pose.size, len(pose.people)) == ((256, 128), 1)
        assert np.allclose(pose.at((512, 256))[:, :2], body()[:, :2] * 2 + 0.5, atol=1e-3)


def test_openpose_of_18_and_25_joints_and_the_csv_agree(tmp_path):
    pose = poses.from_coco18(body().round()[list(poses.COCO18)])
    pose[:, 2] = pose[:, 2] > 0
    write(tmp_path / "a.csv", csv_of({"a": pose}))
    files = [tmp_path / "a.csv"]
    for name, joints in (("18", pose[list(poses.COCO18)]), ("25", pose)):
        files.append(write(tmp_path / f"{name}.json", openpose(joints)))
    for file in files:
        assert np.allclose(poses.read_pose(file).at((128, 64)), pose), file


def test_a_joint_that_ultralytics_did_not_find_is_missing(tmp_path):
    x, y = [0.0, *np.arange(5.0, 21)], [0.0, *np.arange(30.0, 46)]
    path = write(tmp_path / "a.json", json.dumps([{"keypoints": {"x": x, "y": y}}]))
    joints = poses.read_pose(path).joints
    assert joints[0].tolist() == [0, 0, 0]
    assert joints[16].tolist() == [5, 30, 1]
    points = {"x": x, "y": y, "visible": [0.9, 0.02, *[0.9] * 15]}  # it has guessed the left eye
    path = write(tmp_path / "a.json", json.dumps([{"keypoints": points}]))
    assert poses.read_pose(path).joints[16].tolist() == [0, 0, 0]


def test_one_of_several_people_is_chosen(tmp_path):
    path = write(tmp_path / "a.json", openpose(body(40), body(90)))
    assert np.allclose(poses.read_pose(path).joints, body(90))
    assert np.allclose(poses.read_pose(path, person=1).joints, body(40))
    with fails("a.json: 2 people in it, no person 3; choose another with --person"):
        poses.read_pose(path, person=3)


BAD_JSON = {
    "not valid JSON; give": "{people",
    "no people in it; give": json.dumps({"people": []}),
    "a person has 24 numbers, 75, 54 or 51 are needed; export": openpose(np.ones((8, 3))),
    "a joint is not finite, or beyond": openpose(np.full((25, 3), np.nan)),
    "all its joints are missing; give": openpose(np.zeros((25, 3))),
    "shows only a head; give": openpose(body() * (np.arange(25) < 2)[:, None]),
    "neither OpenPose nor COCO keypoints; export": json.dumps({"people": [[1, 2]]}),
    "neither OpenPose nor COCO keypoints;": json.dumps({"people": [{"pose_keypoints_2d": 3}]}),
    "neither OpenPose nor COCO key": openpose(body()).replace("[{", "[{}, {"),
    "neither OpenPose nor COCO": json.dumps({"people": [{"pose_keypoints": ["a"] * 75}]}),
    "neither OpenPose": json.dumps("text"),
    "neither": json.dumps({"shapes": []}),
    "a person has 3 numbers, 75, 54 or 51 are": json.dumps(
        [{"image_id": 1, "keypoints": [1, 2, 3]}]
    ),
    "no people in it; give the pose": json.dumps([]),
    "no poses in it; give": json.dumps({"annotations": []}),
    "not valid JSON": "[" * 100_000,
    "neither OpenPose nor": json.dumps({"people": [{"pose_keypoints": [10**400] * 75}]}),
}


@pytest.mark.parametrize("problem", BAD_JSON)
def test_bad_pose_json_is_one_clear_line(tmp_path, problem):
    path = write(tmp_path / "pose.json", BAD_JSON[problem])
    with fails(rf"^[^\n]*pose\.json: {re.escape(problem)}[^\n]*$"):
        poses.read_pose(path)


ROW = csv_row("a.jpg", np.arange(36).reshape(18, 2))
BAD_CSV = {
    r"line 3 has 17 joints, 18 are needed; write a missing one as -1": csv_text(
        ROW, csv_row("b.jpg", np.ones((17, 2)))
    ),
    "line 1 is not the header": "name,x,y\n" + ROW,
    "line 1 is not": "",
    "line 4 has a.jpg a second time; remove one": csv_text(ROW, "", ROW),
    "line 2 has 18 y and 17 x, 18 are needed": csv_text(ROW.replace("[0, ", "[")),
    r"line 2 is not name: \[18 y\]: \[18 x\]; follow": csv_text("a.jpg, 1, 2"),
    "line 2 is not name": csv_text(ROW.replace("[0,", "[zero,")),
    "line 2 has a joint that is not finite": csv_text(ROW.replace("[0,", "[NaN,")),
    "line 2 has a joint that is not": csv_text(ROW.replace("[0,", "[1e39,")),
    r"line 2 is not name: \[18 y\]": csv_text(ROW.replace("[0,", f"[{10**400},")),
    "no poses in it": csv_text(),
}


@pytest.mark.parametrize("problem", BAD_CSV)
def test_a_bad_csv_is_one_line_with_its_line(tmp_path, problem):
    with fails(rf"^[^\n]*poses\.csv: {problem}"):
        poses.read_poses(write(tmp_path / "poses.csv", BAD_CSV[problem]))


def test_a_pose_file_that_is_not_there_says_so(tmp_path):
    with fails(r"none\.json: no such file; check the path"):
        poses.read_pose(tmp_path / "none.json")


def test_one_pose_of_several_is_chosen_by_name(tmp_path):
    points = np.arange(36).reshape(18, 2) + 1
    path = write(tmp_path / "p.csv", csv_text(csv_row("a", points), csv_row("b", points + 20)))
    assert poses.read_pose(f"{path}:b").joints[0, 0] == 21
    with fails(r"p\.csv: 2 poses; choose one, such as .*p\.csv:a$"):
        poses.read_pose(path)
    with fails(r"p\.csv: no pose called c; choose one, such as"):
        poses.read_pose(f"{path}:c")
    # Rows of the field's keypoints are called like pictures.
    path = write(tmp_path / "q.csv", csv_text(ROW, csv_row("b.jpg", points)))
    assert poses.read_pose(f"{path}:b.jpg").joints[0, 0] == 1
    one = write(tmp_path / "one.csv", csv_text(csv_row("a", points)))
    assert poses.read_pose(one).joints[0, 0] == 1


def test_a_photos_pose_is_found(tmp_path):
    path = write(tmp_path / "a.png", encoded(picture()))
    pose = poses.read_pose(path, lambda images: np.stack([body(60, 10, 2)]))
    assert np.allclose(pose.joints, body(60, 10, 2))
    assert pose.size == (128, 64)
    with fails("a.png: no person found in it; give the pose as JSON"):
        poses.read_pose(path, lambda images: np.zeros((1, 25, 3)))
    with fails("a.png: not valid JSON"):  # without a finder a photo is no pose
        poses.read_pose(path)


def test_a_photo_of_a_few_pixels_shows_nobody(tmp_path):
    path = write(tmp_path / "a.png", encoded(picture(size=(1, 1))))
    with fails("a.png: 1x1 pixels are too few to show a person; give a larger photo"):
        poses.read_photo(path)


# ------------------------------------------------------------------------------ fitting


def moved(pose: np.ndarray, scale: float, x: float, y: float) -> np.ndarray:
    return pose * (scale, scale, 1) + np.array([x, y, 0]) * (pose[:, 2:] > 0)


def test_a_pose_of_the_persons_own_frame_stays():
    own = body(400, 120, 60)
    for pose in (own, moved(own, 1.1, -20, -10)):
        assert poses.fits(pose[None], own, (512, 256))
    for pose in (moved(own, 0.5, 60, 200), moved(own, 1, 500, 0), moved(own, 1.5, -50, -100)):
        assert not poses.fits(pose[None], own, (512, 256))


@pytest.mark.parametrize("missing", [(), (8, 9, 12), (11, 14), (0, 1, 15, 16, 17, 18)])
def test_a_shifted_and_scaled_pose_comes_back_to_the_person(missing):
    own = body(400, 120, 60)
    own[list(missing)] = 0
    placed = poses.place(moved(own, 0.3, 700, -40)[None], own)[0]
    assert np.abs(placed - own).max() < 0.01


def test_poses_are_placed_as_one():
    own = body(400, 120, 60)
    walk = np.stack([moved(body(90), 1, step, 0) for step in (0, 10, 20)])
    placed = poses.place(walk, own)
    units = [poses.metre(one) for one in placed]
    assert np.allclose(units, poses.metre(own), rtol=1e-4)
    steps = np.diff(placed[:, 8, 0])
    assert np.allclose(steps, 10 * poses.metre(own) / poses.metre(body(90)), rtol=1e-3)


def test_poses_without_a_person_fill_the_frame():
    centred = poses.centre(np.stack([body(1000, 600, 300), body(900, 600, 300)]), (128, 64))
    points = centred[..., :2].reshape(-1, 2)
    assert np.allclose((points.min(0) + points.max(0)) / 2, (31.5, 63.5), atol=1e-3)
    assert np.isclose(np.ptp(points[:, 1]), 128 * 0.8, atol=1e-2)
    wide = poses.centre(body(1000, 600, 300)[None, :, [1, 0, 2]], (128, 64))[0]
    assert np.isclose(np.ptp(wide[:, 0]), 64 * 0.9, atol=1e-2)


def test_a_metre_is_that_of_the_bones():
    rest = demo.motion("stretch")[0]
    assert poses.metre(rest * (70, 70, 1)) == pytest.approx(70, rel=0.02)
    assert poses.metre(np.zeros((25, 3))) == 0


@pytest.mark.parametrize("yaw", [-60, -20, 0, 30, 80])
def test_the_side_that_a_person_shows_is_found(yaw):
    assert poses.facing(demo.motion("stretch", yaw)[0]) == pytest.approx(yaw, abs=12)


def test_a_motion_gets_the_persons_limbs():
    rest, motion = demo.motion("stretch")[0], demo.motion("walk")
    own = rest.copy()
    own[[10, 11], 1] += (0.04, 0.04)  # a longer right thigh, in metres
    own[19:] = 0
    fitted = poses.proportioned(motion, rest, moved(own, 100, 300, 500))
    before, after = (np.linalg.norm(m[:, 13] - m[:, 12], axis=1) for m in (motion, fitted))
    assert (after / before > 1.05).all()  # both thighs
    assert not fitted[:, 19:].any()  # toes, which the person's format has not


def test_the_size_in_a_header_is_that_of_the_upright_picture(tmp_path):
    for ending in ("jpg", "png", "tiff", "webp"):
        for orientation in (1, 6, 9):  # there is no 9, and nothing is turned
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = orientation
            file = tmp_path / f"{orientation}.{ending}"
            Image.new("RGB", (96, 64)).save(file, exif=exif)
            assert poses.image_size(file) == poses.read_image(file, "it").shape[:2]


def test_a_drawn_pose_has_its_joints_white_and_nothing_for_missing_ones():
    pose = np.zeros((25, 3), np.float32)
    assert not poses.draw_pose(pose, (64, 32)).any()
    pose[0] = (10, 20, 1)
    picture = poses.draw_pose(pose, (64, 32))
    assert picture.shape == (64, 32, 3)
    assert (picture[20, 10] > 200).all()
    assert not picture[40:].any()


def test_a_sheet_holds_every_picture():
    one, two = np.full((4, 2, 3), 10, np.uint8), np.full((4, 2, 3), 20, np.uint8)
    grid = poses.sheet([[one, two], [two]], zoom=3)
    assert grid.shape == (3 * 14, 3 * 10, 3)
    assert (grid == 10).sum() == 9 * one.size
    assert (grid == 20).sum() == 2 * 9 * two.size


def test_two_files_of_one_picture_are_refused(tmp_path):
    endings = (".json", "_keypoints.json")
    folder = tree(tmp_path / "p", {f"a{ending}": openpose(body()) for ending in endings})
    with fails(r"a_keypoints\.json: a appears twice; remove one"):
        poses.read_poses(folder)
