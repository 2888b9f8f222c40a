"""Data sets, pair lists, the prepared folder, batches and folders to score."""

import csv
import dataclasses
import errno
import itertools
import json
import logging
import os
import re
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    archive,
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
from PIL import Image

from posegan import datasets, features, pairs, photo, poses
from posegan.files import BadInput

CPU = torch.device("cpu")

# ------------------------------------------------------------------------------ pair lists


def slow_pairs(rows: list[tuple[str, str, np.ndarray]]) -> list[tuple[str, str]]:
    """The published rule, one row (name, group, COCO-18 points) at a time."""
    groups: dict[str, list[str]] = {}
    for name, group, points in rows:
        if group not in ("-1", "0000") and all((points[j] != -1).all() for j in (2, 5, 8, 11)):
            groups.setdefault(group, []).append(name)
    return [pair for group in groups.values() for pair in itertools.permutations(group, 2)]


def chosen(candidates: list, limit: int = 12_000) -> list:
    count = len(candidates)
    choice = np.random.RandomState(0).choice(count, min(limit, count), replace=False)
    return [candidates[i] for i in choice]


def market(folder: Path, people: int = 6, poses: int = 4) -> tuple[Path, dict[str, list]]:
    """A made Market-1501 with its keypoints in `folder`, and the CSVs' rows by split."""
    rng = np.random.default_rng(0)
    rows: dict[str, list] = {"train": [], "test": []}
    for split, identity in itertools.product(rows, [*range(1, people), "junk", "distractor"]):
        number = identity if isinstance(identity, str) else identity + 100 * (split == "test")
        group = {"junk": "-1", "distractor": "0000"}.get(number, f"{number:0>4}")
        if group in ("-1", "0000") and split == "train":
            continue
        for pose in range(poses):
            name = f"{group}_c{pose + 1}s1_{rng.integers(10**6):06d}_01.jpg"
            points = rng.integers(2, 60, (18, 2))
            points[rng.random(18) < 0.06] = -1
            rows[split].append((name, group, points))
            write(folder / f"Market/bounding_box_{split}" / name, encoded(picture(pose), "jpeg"))
    write(folder / "Market/bounding_box_test/Thumbs.db", b"thumbs")
    write(folder / "Market/readme.txt", b"read me")
    write(folder / "Market/query/0001_c1s1_000001_01.jpg", encoded(picture(), "jpeg"))
    for split in rows:
        rng.shuffle(rows[split])
        text = csv_text(*(csv_row(name, points) for name, _, points in rows[split]))
        write(folder / f"market-annotation-{split}.csv", text)
    return folder / "Market", rows


def prepared_market(folder: Path, source: Path, **options) -> pairs.Prepared:
    config = datasets.PrepareConfig(
        "market1501", str(source), (str(folder),), str(folder / "out"), **options
    )
    return datasets.prepare(config)


def names_of(prepared: pairs.Prepared, indices: np.ndarray) -> list[tuple[str, str]]:
    names = [Path(file).name for file in prepared.files]
    return [(names[a], names[b]) for a, b in indices]


def test_a_made_market_gives_the_published_pairs(tmp_path):
    source, rows = market(tmp_path)
    prepared = prepared_market(tmp_path, source)
    assert names_of(prepared, prepared.pairs_train) == slow_pairs(rows["train"])
    assert names_of(prepared, prepared.pairs_test) == chosen(slow_pairs(rows["test"]))
    files = [Path(file).name for file in prepared.files]
    assert files == [name for split in rows for name, *_ in rows[split]]
    assert prepared.identities == 5
    assert set(prepared.labels[prepared.split == "test"]) == {-1}
    assert sorted(set(prepared.labels[prepared.split == "train"])) == list(range(5))
    assert set(prepared.camera) == set("1234")
    assert prepared.description["counts"]["files_skipped"] == 3


def test_absent_pictures_never_shift_the_official_order(tmp_path, caplog):
    source, rows = market(tmp_path)
    whole = prepared_market(tmp_path, source)
    pair = names_of(whole, whole.pairs_test)[3]
    (source / "bounding_box_test" / pair[0]).unlink()
    (source / "bounding_box_train" / rows["train"][2][0]).unlink()
    with caplog.at_level(logging.WARNING, "posegan"):
        part = prepared_market(tmp_path, source, overwrite=True)
    official = names_of(whole, whole.pairs_test)
    expected = [two for two in official if pair[0] not in two]
    assert names_of(part, part.pairs_test) == expected
    assert len(part.images) == len(whole.images) - 2
    assert "2 pictures named by the keypoints are missing" in caplog.text
    counts = part.description["counts"]
    lost = len(whole.pairs_train) + len(whole.pairs_test) - len(part.pairs_train) - len(expected)
    assert counts["images_absent"] == 2 and counts["pairs_dropped"] == lost


def test_a_picture_without_key_points_is_stored_without_a_pose(tmp_path):
    source, rows = market(tmp_path)
    write(source / "bounding_box_train/0001_c1s1_999999_01.jpg", encoded(picture(), "jpeg"))
    prepared = prepared_market(tmp_path, source)
    index = [Path(file).name for file in prepared.files].index("0001_c1s1_999999_01.jpg")
    assert prepared.split[index] == "train" and index == len(rows["train"])
    assert not prepared.poses[index].any()
    assert index not in prepared.pairs_train


def test_an_absent_picture_has_the_split_of_its_person_whatever_the_csv_is_called(tmp_path):
    source, rows = market(tmp_path)
    whole = prepared_market(tmp_path, source)
    merged = csv_text(*(csv_row(name, points) for split in rows for name, _, points in rows[split]))
    merged = write(tmp_path / "all.csv", merged)
    (source / "bounding_box_test" / rows["test"][0][0]).unlink()
    (source / "bounding_box_train" / rows["train"][0][0]).unlink()
    config = datasets.PrepareConfig("market1501", str(source), (str(merged),), str(tmp_path))
    part = datasets.prepare(config)
    gone = {rows[split][0][0] for split in rows}
    for split in ("pairs_train", "pairs_test"):
        official = names_of(whole, getattr(whole, split))
        assert names_of(part, getattr(part, split)) == [
            two for two in official if not gone & {*two}
        ]


def test_key_points_of_other_data_are_refused(tmp_path):
    source, _ = market(tmp_path)
    other = write(tmp_path / "other.csv", csv_text(csv_row("a.jpg", np.ones((18, 2)))))
    config = datasets.PrepareConfig("market1501", str(source), (str(other),), str(tmp_path / "out"))
    with fails(r"other\.csv: a\.jpg is not a Market-1501 name; remove it"):
        datasets.prepare(config)
    twice = (str(tmp_path), str(tmp_path / "market-annotation-test.csv"))
    config = datasets.PrepareConfig("market1501", str(source), twice, str(tmp_path / "out"))
    with fails("appears twice; remove it"):
        datasets.prepare(config)


def test_the_official_market_pairs_are_exact(shared_data):
    config = datasets.PrepareConfig(
        "market1501", str(shared_data / "Market-1501-v15.09.15.zip"), (str(shared_data),)
    )
    listing = datasets._official(config)
    stored = np.zeros((len(listing.rows), 25, 3), np.float32)
    lists, dropped = datasets._pair_lists(listing, stored)
    names = [Path(row.file).name for row in listing.rows]
    assert (len(names), len(lists["train"]), dropped) == (32_668, 263_632, 0)
    with open(shared_data / "market-pairs-test.csv") as file:
        official = list(map(tuple, csv.reader(file)))[1:]
    assert [(names[a], names[b]) for a, b in lists["test"]] == official
    groups: dict[str, list[str]] = {}
    known = poses.read_poses(shared_data / "market-annotation-train.csv")
    for name, pose in known.items():
        if pose.joints[[2, 5, 9, 12], 2].all():
            groups.setdefault(name.split("_")[0], []).append(name)
    train = [pair for group in groups.values() for pair in itertools.permutations(group, 2)]
    assert [(names[a], names[b]) for a, b in lists["train"]] == train


def test_the_official_deepfashion_pairs_are_exact(shared_data, tmp_path):
    config = datasets.PrepareConfig(
        "deepfashion",
        str(shared_data / "DeepFashion-inshop-sample.zip"),
        (str(shared_data / "fasion-annotation-test.csv"),),
        str(tmp_path),
    )
    with open(shared_data / "fashion-pairs-test.csv") as file:
        official = list(map(tuple, csv.reader(file)))[1:]
    prepared = datasets.prepare(config)
    flat = [f"{datasets._parse_name('deepfashion', file)['key']}.jpg" for file in prepared.files]
    there = [pair for pair in official if set(pair) <= set(flat)]
    assert [(flat[a], flat[b]) for a, b in prepared.pairs_test] == there and len(there) == 212
    assert set(prepared.split) == {"test"} and prepared.images.shape[1:3] == (256, 256)
    listing = datasets._official(config)
    names = list(poses.read_poses(shared_data / "fasion-annotation-test.csv"))
    for row in listing.rows:
        row.file = row.file or "absent"
    lists, _ = datasets._pair_lists(listing, np.zeros((len(names), 25, 3), np.float32))
    assert [(names[a], names[b]) for a, b in lists["test"]] == official


def test_in_shop_paths_and_flattened_names_are_the_same_pictures(tmp_path):
    files, rows = {}, []
    for item, view in itertools.product((1, 2), ("1_front", "2_side", "3_back")):
        path = f"img/WOMEN/Blouses_Shirts/id_0000000{item}/02_{view}.jpg"
        flat = f"fashionWOMENBlouses_Shirtsid0000000{item}02_{view.replace('_', '')}.jpg"
        files[path if item == 1 else flat] = encoded(picture(item, (256, 256)), "jpeg")
        rows.append(csv_row(flat, np.arange(36).reshape(18, 2) + 40))
    train = write(tmp_path / "fasion-annotation-train.csv", csv_text(*rows[:3]))
    test = write(tmp_path / "fasion-annotation-test.csv", csv_text(*rows[3:]))
    config = datasets.PrepareConfig(
        "deepfashion", str(tree(tmp_path / "in", files)), (str(test), str(train)), str(tmp_path)
    )
    prepared = datasets.prepare(config)
    assert prepared.split.tolist() == ["train"] * 3 + ["test"] * 3
    assert len(prepared.pairs_train) == len(prepared.pairs_test) == 6
    assert prepared.identity[0] == "fashionWOMENBlouses_Shirtsid0000000102"
    assert prepared.camera.tolist() == ["1front", "2side", "3back"] * 2


# ------------------------------------------------------------------------------ own folders


def own(folder: Path, people: tuple[str, ...] = ("al", "bo", "cy")) -> Path:
    """Own pictures, one folder per person, OpenPose JSON beside them in both ways of naming."""
    files: dict[str, bytes | str] = {}
    for seed, person in enumerate(people):
        for shot, ending in enumerate(("_keypoints.json", ".json", "")):
            files[f"{person}/{shot}.png"] = encoded(picture(seed * 3 + shot, (256, 200)))
            if ending:
                files[f"{person}/{shot}{ending}"] = openpose(body(200, 100, 20))
    return tree(folder, files)


def prepared_folder(source: Path, root: Path, **options) -> pairs.Prepared:
    return datasets.prepare(
        datasets.PrepareConfig(
            **{"data": "folder", "source": str(source), "root": str(root)} | options
        )
    )


def contents(prepared: pairs.Prepared) -> dict[str, bytes]:
    return {name: (prepared.path / name).read_bytes() for name in pairs.ARRAYS}


def test_own_folders_make_pairs_within_a_person_and_hold_out_people(tmp_path):
    prepared = prepared_folder(own(tmp_path / "in"), tmp_path)
    assert len(prepared.images) == 9 and prepared.images.shape[1:] == (256, 256, 3)
    assert sorted(set(prepared.identity)) == ["al", "bo", "cy"]
    for split, count in (("train", 2), ("test", 1)):
        both = {"train": prepared.pairs_train, "test": prepared.pairs_test}[split]
        assert len(both) == 2 * count
        assert (prepared.identity[both[:, 0]] == prepared.identity[both[:, 1]]).all()
        assert set(prepared.split[both.ravel()]) == {split}
    expected = poses.fit_pose(body(200, 100, 20), (256, 200), (256, 256))
    assert np.allclose(prepared.poses[prepared.pairs_train[0, 0]], expected, atol=1e-4)
    assert prepared.description["counts"]["images_without_pose"] == 3


def test_one_person_alone_is_refused(tmp_path):
    with fails("in: only one person, al; give one folder per person, at least two"):
        prepared_folder(own(tmp_path / "in", ("al",)), tmp_path)


def test_people_with_one_picture_each_make_no_pairs_and_are_refused(tmp_path):
    source = own(tmp_path / "in")
    for picture_file in source.glob("*/[12].*"):
        picture_file.unlink()
    with fails("in: no pairs: nobody has two pictures with poses; give more"):
        prepared_folder(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def with_poses(names: list[str]) -> dict:
    files = {f"{name}.png": encoded(picture()) for name in names}
    return files | {f"{name}.json": openpose(body()) for name in names}


def test_folders_of_a_split_are_not_people(tmp_path):
    files = [f"{part}/{p}/{i}" for part in ("train", "test") for p in "ab" for i in range(2)]
    source = tree(tmp_path / "in", with_poses(files))
    with fails(
        "in: test, train: folders of a split, not of people; give one of them, as .*in/test"
    ):
        prepared_folder(source, tmp_path / "out")
    prepared = prepared_folder(source / "test", tmp_path / "out")
    assert {*prepared.identity} == {"a", "b"}
    with fails("train: only one person, a"):
        shutil.rmtree(source / "train" / "b")
        prepared_folder(source / "train", tmp_path / "other")


def test_which_folders_are_taken_for_people_is_told_where_it_may_surprise(tmp_path, caplog):
    files = [f"{p}/{view}/{i}" for p in "ab" for view in ("front", "back") for i in range(2)]
    source = tree(tmp_path / "in", with_poses(files))
    prepared_folder(source, tmp_path / "out")
    assert "in: the people are its folders a, b" in caplog.text
    shutil.rmtree(source / "b")
    caplog.clear()
    prepared_folder(source, tmp_path / "other")
    assert "in/a: the people are its folders back, front" in caplog.text


@pytest.mark.parametrize("above", ["./", "/home/me/in/", "C:\\in\\", "https://host/in/"])
def test_poses_of_another_machine_find_their_pictures(tmp_path, above):
    names = [f"{person}/{shot}.png" for person in ("al", "bo") for shot in range(2)]
    source = tree(tmp_path / "in", {name: encoded(picture(size=(256, 256))) for name in names})
    called = [above + name.replace("/", "\\" if "\\" in above else "/") for name in names]
    given = write(tmp_path / "p.json", coco(dict.fromkeys(called, body(200, 100, 20)), (256, 256)))
    prepared = prepared_folder(source, tmp_path, poses=(str(given),))
    assert (prepared.poses[..., 2] > 0).any(1).all()


@pytest.mark.parametrize("form", ["coco", "csv", "folder"])
def test_own_folders_take_poses_from_one_file_or_another_folder(tmp_path, form, caplog):
    pose = np.rint(body(200, 100, 20))
    names = [f"{person}/{shot}.png" for person in ("al", "bo") for shot in range(2)]
    source = tree(tmp_path / "in", {name: encoded(picture(size=(256, 256))) for name in names})
    if form == "coco":
        given = write(tmp_path / "p.json", coco(dict.fromkeys(names, pose), (512, 512)))
    elif form == "csv":
        points = pose[[*range(8), *range(9, 19)], :2]
        given = write(tmp_path / "p.csv", csv_text(*(csv_row(name, points) for name in names)))
    else:
        files = {f"{name[:-4]}_keypoints.json": openpose(pose) for name in names}
        given = tree(tmp_path / "p", files)
    prepared = prepared_folder(source, tmp_path, poses=(str(given),))
    assert len(prepared.pairs_train) == len(prepared.pairs_test) == 2
    scale = 0.5 if form == "coco" else 1  # the JSON is of a picture twice as large
    assert np.allclose(prepared.poses[0, 4, :2], (pose[4, :2] + 0.5) * scale - 0.5, atol=1e-3)
    if form == "coco":
        assert not caplog.records
        write(given, coco(dict.fromkeys(names, pose), (512, 256)))
        prepared_folder(source, tmp_path / "other", poses=(str(given),))
        assert "4 poses are for pictures of another aspect ratio" in caplog.text


@pytest.mark.parametrize(
    "picture_form, pose_form", [("NFD", "NFD"), ("NFD", "NFC"), ("NFC", "NFD")]
)
@pytest.mark.parametrize("ending", [".csv", ".json"])
def test_accents_are_the_same_taken_apart_or_not(tmp_path, picture_form, pose_form, ending):
    form = unicodedata.normalize
    names = [f"zo\u00e9/{i}\u00e9" for i in range(2)] + ["bo/2", "bo/3"]
    source = tree(
        tmp_path / "in", {form(picture_form, f"{n}.png"): encoded(picture()) for n in names}
    )
    named = [form(pose_form, name) for name in names]
    points, given = body()[[*range(8), *range(9, 19)], :2], ()
    if ending == ".csv":
        given = (str(write(tmp_path / "p.csv", csv_text(*(csv_row(n, points) for n in named)))),)
        found = photo.read_targets(f"{given[0]}:{form(picture_form, names[0])}")
        assert len(found.names) == 1
    else:
        tree(source, {form(pose_form, f"{n}.json"): openpose(body()) for n in names})
    assert prepared_folder(source, tmp_path, poses=given).poses[..., 2].any(1).all()


def test_bare_names_are_not_mistaken_for_several_pictures(tmp_path):
    names = ("al/1.png", "al/2.png", "al/3.png", "bo/1.png")
    source = tree(tmp_path / "in", {name: encoded(picture()) for name in names})
    points = body()[[*range(8), *range(9, 19)], :2]
    rows = (csv_row(name, points) for name in ("1.png", "2.png", "3.png"))
    given = write(tmp_path / "p.csv", csv_text(*rows))
    prepared = prepared_folder(source, tmp_path, poses=(str(given),))
    known = {file for file, pose in zip(prepared.files, prepared.poses) if pose.any()}
    assert known == {"al/2.png", "al/3.png"}


def test_a_pose_in_one_place_is_none_and_one_of_no_picture_is_told(tmp_path, caplog):
    names = [f"{person}/{shot}.png" for person in ("al", "bo") for shot in range(3)]
    source = tree(tmp_path / "in", {name: encoded(picture()) for name in names})
    points = body()[[*range(8), *range(9, 19)], :2]
    rows = [csv_row(name, points) for name in [*names[1:], "cy/0.png"]]
    given = write(tmp_path / "p.csv", csv_text(csv_row(names[0], points * 0), *rows))
    prepared = prepared_folder(source, tmp_path, poses=(str(given),))
    assert prepared.poses.any((1, 2)).tolist() == [False] + [True] * 5
    assert "in: 1 poses match no picture, or several of the same name, such as cy/0" in caplog.text
    assert "1 pictures have no known joint" in caplog.text


def test_pictures_beside_the_folders_of_people_are_left_out(tmp_path, caplog):
    names = ("al/0.png", "al/1.png", "bo/0.png", "bo/1.png", "stray.png")
    source = tree(tmp_path / "in", {name: encoded(picture()) for name in names})
    tree(source, {name.replace("png", "json"): openpose(body()) for name in names})
    prepared = prepared_folder(source, tmp_path)
    assert sorted(prepared.files) == list(names[:4])
    assert "in: ignoring 1 pictures outside the folders of people" in caplog.text
    assert "match no picture" not in caplog.text


def test_poses_are_found_where_none_are_given(tmp_path, monkeypatch):
    files = {f"{person}/{shot}.png": encoded(picture()) for person in "ab" for shot in range(2)}
    monkeypatch.setattr(features, "find_poses", lambda images, weights: np.stack([body()]))
    prepared = prepared_folder(tree(tmp_path / "in", files), tmp_path, size=(128, 64))
    assert np.array_equal(prepared.poses[2], body())
    assert len(prepared.pairs_train) == 2


def test_mvc_names_the_view(tmp_path):
    items = ("a", "b")
    files = {f"{i}/B002_{view}.png": encoded(picture()) for i in items for view in range(3)}
    files |= {f"{i}/B002_{view}.json": openpose(body()) for i in items for view in range(3)}
    prepared = prepared_folder(tree(tmp_path / "in", files), tmp_path, data="mvc")
    assert prepared.camera.tolist() == ["0", "1", "2"] * 2


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_gives_the_same_bytes_as_its_folder(tmp_path, kind):
    source = own(tmp_path / "in")
    expected = contents(prepared_folder(source, tmp_path / "a"))
    assert contents(prepared_folder(archive(source, kind), tmp_path / "b")) == expected


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_a_damaged_archive_is_one_clear_line(tmp_path, kind):
    path = archive(own(tmp_path / "in"), kind)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with fails(rf"in\.{re.escape(kind)}: can't be read .*; check the path, or download it again"):
        prepared_folder(path, tmp_path)
    if kind == "zip":
        middle = len(data) // 4
        path.write_bytes(data[:middle] + b"\0" * 64 + data[middle + 64 :])
        with fails(r"in\.zip: can't be read"):
            prepared_folder(path, tmp_path)
    assert not (tmp_path / "folder.partial").exists() and not (tmp_path / "folder").exists()


def test_an_encrypted_archive_says_what_to_do(tmp_path):
    path = archive(own(tmp_path / "in"), "zip")
    data = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for found in re.finditer(re.escape(mark), bytes(data)):
            data[found.start() + at] |= 1
    path.write_bytes(data)
    with fails("encrypted.*; unpack it with the data set's password"):
        prepared_folder(path, tmp_path)


def test_a_wrong_source_is_one_clear_line(tmp_path):
    text = write(tmp_path / "a.zip", "no archive")
    with fails(r"a\.zip: can't be read \(neither a folder nor a complete zip or tar"):
        prepared_folder(text, tmp_path)
    with fails(r"none\.zip: can't be read \(no such file or folder\); check the path"):
        prepared_folder(tmp_path / "none.zip", tmp_path)
    (tmp_path / "empty").mkdir()
    with fails("empty: no pictures in it; give one folder per person"):
        prepared_folder(tmp_path / "empty", tmp_path)
    with fails("no Market-1501 pictures where expected; give the archive as downloaded"):
        prepared_folder(own(tmp_path / "in"), tmp_path, data="market1501")
    with fails("market1501: no --source given; run posegan prepare --data market1501 --source"):
        datasets.prepare(datasets.PrepareConfig("market1501"))


def test_skipped_files_of_a_source_are_counted_when_it_is_prepared(tmp_path, caplog):
    source = own(tmp_path / "in")
    os.mkfifo(source / "pipe.png")
    with caplog.at_level(logging.WARNING, "posegan"):
        prepared = prepared_folder(source, tmp_path)
    assert prepared.description["counts"]["files_skipped"] == 1
    assert "other files, skipped: 1" in caplog.text


def test_a_broken_picture_is_named_and_nothing_is_left(tmp_path):
    source = own(tmp_path / "in")
    write(source / "al/0.png", b"text")
    with fails(r"in/al/0\.png: empty, or not a readable picture"):
        prepared_folder(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_json_beside_a_picture_with_poses_of_several_pictures_is_refused(tmp_path):
    source = own(tmp_path / "in")
    write(source / "bo/1.json", coco(dict.fromkeys(("x", "y"), body()), (256, 200)))
    with fails(r"in/bo/1\.json: holds 2 poses for one picture; pass it with --poses"):
        prepared_folder(source, tmp_path / "out")


def test_poses_that_name_no_picture_are_an_error(tmp_path):
    points = body()[[*range(8), *range(9, 19)], :2]
    given = write(tmp_path / "p.csv", csv_text(csv_row("zoe/9.png", points)))
    with fails(r"p\.csv: matches none of the pictures in .*in; name the poses after the pictures"):
        prepared_folder(own(tmp_path / "in"), tmp_path, poses=(str(given),))


def test_weights_to_find_poses_are_refused_where_these_are_given(tmp_path):
    source = own(tmp_path / "in")
    with fails("in: --pose-weights has no effect when poses are given; leave it out"):
        prepared_folder(source, tmp_path, pose_weights="x.pth")


# ------------------------------------------------------------------------------ the demo


@pytest.fixture
def small_demo(monkeypatch):
    """A demo of 20 people in 3 poses, drawn in this process."""
    monkeypatch.setattr(datasets.demo, "IDENTITIES", 20)
    monkeypatch.setattr(datasets.demo, "POSES", 3)
    monkeypatch.setattr(datasets, "_drawn", drawn_here)


def drawn_here(seed, rows, size):
    for place, row in enumerate(rows):
        yield place, *datasets.demo.person(seed, int(row.identity), int(row.camera), size)


def test_the_demo_is_split_by_person_and_makes_pairs(small_demo, tmp_path):
    prepared = datasets.prepare(datasets.PrepareConfig(root=str(tmp_path)))
    assert prepared.images.shape == (60, 64, 32, 3)
    assert prepared.identities == 18 and (prepared.split == "test").sum() == 6
    assert (len(prepared.pairs_train), len(prepared.pairs_test)) == (18 * 6, 2 * 6)
    image, pose = datasets.demo.person(0, 7, 2, (64, 32))
    assert np.array_equal(prepared.images[23], image)
    assert np.array_equal(prepared.poses[23], pose)


def test_the_demo_is_drawn_by_several_processes(monkeypatch):
    monkeypatch.setattr(datasets.demo, "POSES", 5)
    rows = datasets._demo(datasets.PrepareConfig()).rows[:15]
    places, images, joints = zip(*datasets._drawn(3, rows, (64, 32)))
    assert places == (*range(15),)
    for place in (0, 13, 14):
        row = rows[place]
        expected = datasets.demo.person(3, int(row.identity), int(row.camera), (64, 32))
        assert np.array_equal(images[place], expected[0])
        assert np.array_equal(joints[place], expected[1])


# ------------------------------------------------------------------------------ preparing


def test_progress_counts_the_pictures(tmp_path):
    seen = []
    source = own(tmp_path / "in")
    config = datasets.PrepareConfig("folder", str(source), root=str(tmp_path))
    datasets.prepare(config, lambda done, total: seen.append((done, total)))
    assert seen == [(done, 9) for done in range(1, 10)]


def test_an_existing_folder_is_only_replaced_with_overwrite_and_by_a_whole_one(tmp_path):
    source = own(tmp_path / "in")
    before = contents(prepared_folder(source, tmp_path))
    with fails(r"folder: already exists; replace it with --overwrite"):
        prepared_folder(source, tmp_path)
    write(source / "cy/2.png", b"broken")
    with fails("not a readable picture"):
        prepared_folder(source, tmp_path, overwrite=True)
    assert contents(pairs.load("folder", tmp_path)) == before
    (source / "cy/2.png").unlink()
    assert len(prepared_folder(source, tmp_path, overwrite=True).images) == 8
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "in"]


def test_a_folder_with_other_files_is_never_replaced(tmp_path):
    own(tmp_path / "folder")
    with fails("holds other files; choose another place with --root"):
        prepared_folder(own(tmp_path / "in"), tmp_path, overwrite=True)
    with fails("folder: would overwrite .*folder; choose another place with --root"):
        prepared_folder(tmp_path / "folder", tmp_path, overwrite=True)
    assert (tmp_path / "folder/al/0.png").exists()
    people = write(tmp_path / "mine/people.csv", "a user's own")
    with fails("mine: holds other files"):
        prepared_folder(tmp_path / "in", tmp_path, name="mine", overwrite=True)
    assert people.read_text() == "a user's own"


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = own(tmp_path / "in")
    monkeypatch.setattr(pairs.np, "save", full)
    with fails("can't be written .No space left on device.; choose another place with --root"):
        prepared_folder(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_root_that_cannot_be_written_is_one_line(tmp_path):
    root = write(tmp_path / "file", "in the way")
    with fails("can't be written"):
        prepared_folder(own(tmp_path / "in"), root)


def test_ctrl_c_leaves_nothing_half_written(tmp_path):
    def interrupt(done, total):
        if done == 4:
            raise KeyboardInterrupt

    config = datasets.PrepareConfig("folder", str(own(tmp_path / "in")), root=str(tmp_path / "out"))
    with pytest.raises(KeyboardInterrupt):
        datasets.prepare(config, interrupt)
    assert not (tmp_path / "out").exists()


def test_folders_of_ones_own_stand_side_by_side_by_name(tmp_path):
    source = own(tmp_path / "in")
    for name in ("friends", "other people"):
        prepared = prepared_folder(source, tmp_path, name=name)
        assert prepared.path == tmp_path / name and prepared.name == name
        assert prepared.description["name"] == name
        assert contents(pairs.load(name, tmp_path)) == contents(prepared)
    with fails("market1501: reserved for another data set; choose another --name"):
        prepared_folder(source, tmp_path, name="market1501")
    for name in ("", " ", ".", "..", ".hidden", "a/b", "a\\b", "a,b", "a:2", "a\0b"):
        with fails("not a folder name; use letters, digits and dashes"):
            prepared_folder(source, tmp_path, name=name)
        with fails("not a folder name; use letters, digits and dashes"):
            pairs.load(name, tmp_path)


def test_what_a_user_has_beside_the_place_stays(tmp_path):
    mine = [write(tmp_path / f"folder.{kind}" / "a", "mine") for kind in ("old", "partial")]
    prepared_folder(own(tmp_path / "in"), tmp_path)
    prepared_folder(tmp_path / "in", tmp_path, overwrite=True)
    assert [file.read_text() for file in mine] == ["mine", "mine"]
    assert len(list(tmp_path.iterdir())) == 4


# ------------------------------------------------------------------------------ loading


def test_a_name_never_prepared_gets_the_command_that_prepares_it(tmp_path):
    with fails("demo: not prepared yet; run posegan prepare --data demo --root"):
        pairs.load("demo", tmp_path)
    with fails(
        r"data/market1501: not prepared yet; run posegan prepare --data market1501 --source"
    ):
        pairs.load("market1501")
    with fails("faces: not prepared yet; run posegan prepare --data folder .* --name faces --root"):
        pairs.load("faces", tmp_path)


def damage(folder: Path, way: str) -> None:
    about = json.loads((folder / "dataset.json").read_text())
    if way == "unknown format":
        write(folder / "dataset.json", json.dumps(about | {"format": 99}))
    elif way == "no counts":
        write(folder / "dataset.json", json.dumps({"format": 1}))
    elif way == "fewer people":
        lines = (folder / "people.csv").read_text().splitlines()
        write(folder / "people.csv", "\n".join(lines[:-1]))
    elif way == "pairs of nothing":
        np.save(folder / "pairs_test.npy", np.load(folder / "pairs_test.npy") + 10**6)
    elif way == "poses of NaN":
        np.save(folder / "poses.npy", np.load(folder / "poses.npy") * np.float32(np.nan))
    elif way.startswith("no "):
        (folder / way.removeprefix("no ")).unlink()
    else:
        name = way.removeprefix("half of ").removeprefix("empty ")
        data = (folder / name).read_bytes()
        write(folder / name, data[: len(data) // 2] if way.startswith("half") else b"")


def test_parsing_maps_are_stored_beside_their_pictures_and_fitted_like_them(tmp_path, caplog):
    labels = np.zeros((64, 48), np.uint8)
    labels[:, 24:] = 3
    palette = Image.fromarray(labels, "P")
    palette.putpalette([0, 0, 0, 9, 9, 9, 200, 0, 0, 0, 200, 0])
    person = {f"anna/{i}.png": encoded(picture(i, (64, 48))) for i in range(3)}
    person |= {f"anna/{i}.json": openpose(body(60, 20, 2)) for i in range(3)}
    source = tree(tmp_path / "people", person | {"bo/9.png": person["anna/0.png"]})
    maps = tree(tmp_path / "maps", {"0.png": encoded(palette), "1.png": encoded(labels)})
    config = datasets.PrepareConfig(
        "folder", str(source), root=str(tmp_path), size=(32, 32), parsing=str(maps)
    )
    prepared = datasets.prepare(config)
    assert "2 of 4 pictures have no parsing map" in caplog.text
    assert prepared.parsing.shape == (4, 32, 32)
    # 24 columns of the picture, 4 of padding on each side.
    assert prepared.parsing[0, 5].tolist() == [0] * 16 + [3] * 12 + [0] * 4
    assert (prepared.parsing[1] == prepared.parsing[0]).all()
    assert (prepared.parsing[2] == 255).all()
    batch = pairs.gather(prepared, prepared.pairs_train[:2])
    assert batch["target_parsing"].shape == (2, 32, 32)
    with fails("not a label map"):
        tree(maps, {"2.png": encoded(picture(0, (64, 48)))})
        datasets.prepare(dataclasses.replace(config, overwrite=True))
    with fails("2.png: is 20x64, but its picture is 64x48"):
        tree(maps, {"2.png": encoded(np.zeros((20, 64), np.uint8))})
        datasets.prepare(dataclasses.replace(config, overwrite=True))
    with fails("no parsing maps for these pictures"):
        other = tree(tmp_path / "other", {"x.png": encoded(labels)})
        datasets.prepare(dataclasses.replace(config, overwrite=True, parsing=str(other)))


CUT_OFF = itertools.product(("no", "half of", "empty"), pairs.FILES)
UNMATCHED = ("unknown format", "no counts", "fewer people", "pairs of nothing", "poses of NaN")


@pytest.mark.parametrize("way", [*map(" ".join, CUT_OFF), *UNMATCHED])
def test_a_folder_cut_off_half_way_or_with_files_that_do_not_match_is_one_line(
    whole_folder, tmp_path, way
):
    shutil.copytree(whole_folder, tmp_path / "folder")
    damage(tmp_path / "folder", way)
    remedy = "run posegan prepare --data folder .*--overwrite"
    with fails(rf"folder: unfinished or damaged \(.*; {remedy}"):
        pairs.load("folder", tmp_path)


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    return prepared_folder(own(folder / "in"), folder).path


def test_the_prepared_folder_is_plain_numpy_and_csv(whole_folder):
    images = np.load(whole_folder / "images.npy")
    assert images.dtype == np.uint8 and images.shape == (9, 256, 256, 3)
    assert np.load(whole_folder / "poses.npy").dtype == np.float32
    assert np.load(whole_folder / "pairs_train.npy").dtype == np.int32
    with open(whole_folder / "people.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(9))
    assert list(rows[0]) == ["index", "file", "identity", "camera", "split"]
    about = json.loads((whole_folder / "dataset.json").read_text())
    assert {"format", "name", "height", "width", "joints", "counts", "source"} <= about.keys()


# ------------------------------------------------------------------------------ batches


@pytest.fixture(scope="module")
def made_market(tmp_path_factory) -> pairs.Prepared:
    folder = tmp_path_factory.mktemp("market")
    source, _ = market(folder)
    return prepared_market(folder, source)


def test_a_batch_holds_its_pairs(made_market):
    chosen_pairs = made_market.pairs_train[[5, 0, 9]]
    batch = pairs.gather(made_market, chosen_pairs)
    assert batch["source"].dtype == torch.uint8 and batch["source"].shape == (3, 3, 128, 64)
    assert batch["source"].is_contiguous(memory_format=torch.channels_last)
    for row, (a, b) in enumerate(chosen_pairs):
        for part, index in (("source", a), ("target", b)):
            picture_there = batch[part][row].permute(1, 2, 0).numpy()
            assert np.array_equal(picture_there, made_market.images[index])
            assert np.array_equal(batch[f"{part}_pose"][row], made_market.poses[index])
        assert batch["identity"][row] == made_market.labels[a]
    assert batch["identity"].dtype == torch.int64


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


def batches_of(prepared, size: int, seed: int = 0) -> pairs.Batches:
    return pairs.Batches(prepared, prepared.pairs_train, size, seed, CPU)


def test_a_batch_follows_from_seed_and_step_alone(made_market):
    batches = batches_of(made_market, 4, seed=3)
    far = 2 + len(made_market.pairs_train) // 4  # in the next epoch
    wanted = batches.fetch(far)
    again = batches_of(made_market, 4, seed=3)
    for step in (0, 5, far + 3, 2):
        again.fetch(step)
    assert same(again.fetch(far), wanted)
    assert not same(batches_of(made_market, 4, seed=4).fetch(far), wanted)
    assert not same(batches.fetch(1), wanted)


def test_an_epoch_shows_each_pair_once_whatever_the_batch(made_market):
    count = len(made_market.pairs_train)
    flat = []
    for size in (3, 8):
        batches = batches_of(made_market, size)
        steps = [batches.chosen(step) for step in range(-(-2 * count // size))]
        flat.append(np.concatenate(steps)[: 2 * count])
        for epoch in (flat[-1][:count], flat[-1][count:]):
            assert len({tuple(pair) for pair in epoch.tolist()}) == count
    assert np.array_equal(*flat)


def test_processes_share_one_batch(made_market):
    batches = batches_of(made_market, 8, seed=1)
    for step in (0, 9):
        whole = batches.fetch(step)
        parts = [batches.fetch(step, rank, 4) for rank in range(4)]
        for name, value in whole.items():
            shared = (
                torch.cat([part[name] for part in parts]) if name != "noise" else parts[2][name]
            )
            assert torch.equal(shared, value), name


def test_batches_come_in_the_order_of_their_steps(made_market):
    batches = batches_of(made_market, 2)
    for step, batch in enumerate(batches.stream(3, 6), 3):
        assert same(batch, batches.fetch(step))
    assert step == 5


def test_fewer_pairs_than_a_batch_are_repeated(made_market):
    few = dataclasses.replace(made_market, pairs_train=made_market.pairs_train[:3])
    chosen = batches_of(few, 500).chosen(3)
    assert len(chosen) == 500
    assert len(np.unique(chosen, axis=0)) == 3


def test_a_mixture_takes_its_share_of_each_set(few_people, tmp_path):
    own_people = own(tmp_path / "in", ("al", "bo", "cy"))
    few = prepared_folder(own_people, tmp_path, size=(64, 32))
    (tmp_path / "demo").symlink_to(few_people.path)
    mixed = pairs.load_mixture("folder:1,demo:3", tmp_path)
    assert mixed.identities == few.identities + few_people.identities
    count = len(few.images)
    both = [mixed.images[i] for i in (0, count - 1, count, len(mixed.images) - 1)]
    ends = few.images[0], few.images[-1], few_people.images[0], few_people.images[-1]
    assert all(map(np.array_equal, both, ends))
    assert np.array_equal(mixed.poses, np.concatenate([few.poses, few_people.poses]))
    chosen = np.concatenate([batches_of(mixed, 50).chosen(step) for step in range(40)])
    assert (chosen[:, 0] < count).mean() == pytest.approx(0.25, abs=0.05)
    assert (mixed.labels[chosen[:, 0]] == mixed.labels[chosen[:, 1]]).all()
    assert (mixed.labels[chosen] >= 0).all()
    assert np.array_equal(mixed.pairs_test, few.pairs_test)  # the first one is tested
    for wrong in ("folder:1,demo", "folder:1,demo:x", "folder:0,demo:1", "folder:1,demo:1e-300"):
        with fails("not every data set has a share.*above 0"):
            pairs.load_mixture(wrong, tmp_path)
    prepared_folder(own_people, tmp_path, size=(128, 64), overwrite=True)
    with fails(r"is 128x64, demo 64x32; prepare it with --size 64x32"):
        pairs.load_mixture("demo,folder", tmp_path)


def test_pictures_are_normalised_to_minus_one_and_one():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    floats = pairs.normalise(images)
    assert floats.min() == -1 and floats.max() == 1 and floats.dtype == torch.float32
    back = floats.add(1).mul(127.5).round().to(torch.uint8)
    assert torch.equal(back, images)


def test_a_fetched_batch_has_normalised_pictures(made_market):
    batches = batches_of(made_market, 2)
    batch = pairs.gather(made_market, batches.chosen(0))
    fetched = batches.fetch(0)
    assert torch.equal(fetched["target"], pairs.normalise(batch["target"]))
    assert torch.equal(fetched["target_pose"], batch["target_pose"])


def test_a_fingerprint_tells_what_changed(made_market):
    known = pairs.fingerprint(made_market)
    assert pairs.fingerprint(made_market) == known
    for change in (
        {"images": 255 - made_market.images},
        {"poses": made_market.poses[::-1]},
        {"pairs_train": made_market.pairs_train[::-1]},
        {"pairs_test": made_market.pairs_test[1:]},
    ):
        assert pairs.fingerprint(dataclasses.replace(made_market, **change)) != known


def test_people_held_out_are_in_no_training_pair(made_market):
    train, held = pairs.hold_out(made_market, 0.4, seed=0)
    people = [set(made_market.identity[part.ravel()]) for part in (train, held)]
    assert not people[0] & people[1] and len(people[1]) == 2
    assert len(train) + len(held) == len(made_market.pairs_train)
    again = pairs.hold_out(made_market, 0.4, seed=0)
    assert np.array_equal(again[1], held)
    assert len(pairs.hold_out(made_market, 0.4, 0, limit=3)[1]) == 3
    assert len(pairs.hold_out(made_market, 0.01, 0)[1]) == 0  # of few people nobody


# ------------------------------------------------------------------------------ the mean image


def test_the_mean_image_is_that_of_the_training_images_rounded(made_market):
    training = made_market.images[made_market.split == "train"]
    mean = pairs.mean_image(made_market)
    assert mean.dtype == torch.uint8 and mean.shape == (3, 128, 64)
    assert np.array_equal(mean.permute(1, 2, 0), training.astype(float).mean(0).round())


def test_the_mean_image_is_made_of_evenly_spaced_images(made_market, monkeypatch):
    monkeypatch.setattr(pairs, "MEAN_IMAGES", 3)
    places = np.flatnonzero(made_market.split == "train")
    expected = made_market.images[places[[0, round((len(places) - 1) / 2), -1]]].mean(0).round()
    assert np.array_equal(pairs.mean_image(made_market).permute(1, 2, 0), expected)


def test_the_mean_image_without_training_images_is_that_of_all(made_market, caplog):
    testing = dataclasses.replace(made_market, labels=np.full_like(made_market.labels, -1))
    with caplog.at_level(logging.WARNING, "posegan"):
        mean = pairs.mean_image(testing)
    assert np.array_equal(mean.permute(1, 2, 0), made_market.images.astype(float).mean(0).round())
    assert "no training images; the mean is over all images" in caplog.text


# ------------------------------------------------------------------------------ folders to score


def test_images_of_folders_are_matched_by_name_without_suffix(tmp_path):
    made = tree(tmp_path / "made", {"b.png": b"", "a.jpg": b"", "._a.jpg": b"", "log.txt": b""})
    real = tree(tmp_path / "real", {"a.png": b"", "b.JPG": b""})
    names = pairs.matching_names([made, real])
    assert list(names) == ["a", "b"]
    assert names["b"] == [made / "b.png", real / "b.JPG"]


def test_images_that_do_not_match_one_to_one_are_refused(tmp_path):
    made = tree(tmp_path / "made", {"a.png": b"", "b.png": b"", "c.png": b""})
    real = tree(tmp_path / "real", {"a.png": b"", "c.png": b""})
    with fails(r"real: has no image called b \(2 names match\); name images alike in all"):
        pairs.matching_names([made, real])
    with fails(r"real: has no image called b"):
        pairs.matching_names([real, made])
    write(real / "a.jpg", b"")
    with fails(r"real: a\.jpg and a\.png have the same name; remove one"):
        pairs.matching_names([made, real])
    empty = tree(tmp_path / "empty", {"notes.txt": b""})
    with fails(r"empty: no images in it; put \.jpg, .* files there"):
        pairs.matching_names([made, empty])


@pytest.mark.parametrize("key", ["b", "b.jpg", "b.png", "a__b", "a__b.png"])
@pytest.mark.parametrize("name", ["a__b", "a___b", "a.jpg___b.jpg"])
def test_a_pose_is_found_by_the_images_name_or_its_last_part(key, name):
    known = {key.replace("a__b", name): poses.Pose(body()), "a": poses.MISSING}
    assert np.allclose(pairs.pose_by_name(known, name).joints, body())


def test_the_whole_name_of_an_image_goes_before_its_last_part():
    known = {"b": poses.MISSING, "a__b": poses.Pose(body())}
    assert pairs.pose_by_name(known, "a__b") is known["a__b"]


def test_poses_of_targets_go_where_their_pictures_go_and_missing_ones_are_zeros(tmp_path, caplog):
    for kind in ("made", "real"):
        tree(tmp_path / kind, {f"{n}.png": encoded(picture(0, (256, 176))) for n in "abc"})
    tree(tmp_path / "poses", {"a_keypoints.json": openpose(body(200, 30, 20))})
    write(tmp_path / "b.json", coco({"b.png": body(200, 120, 20)}, (256, 256)))
    folders = {"generated": tmp_path / "made", "target": tmp_path / "real"}
    names = pairs.matching_names(list(folders.values()))
    files = [tmp_path / "poses", tmp_path / "b.json"]
    with caplog.at_level(logging.WARNING, "posegan"):
        (batch,), size = pairs.folder_batches(folders, names, files)
    assert size == (256, 176)
    a, b, c = batch["target_pose"].numpy()
    assert np.allclose(a, body(200, 30, 20), atol=1e-4)
    moved = poses.fit_pose(body(200, 120, 20), (256, 256), (256, 176))
    assert np.allclose(b[list(poses.COCO17)][:, :2], moved[list(poses.COCO17)][:, :2], atol=1e-4)
    assert not c.any()
    assert "1 of 3 target images have no pose, such as c" in caplog.text
    with fails(r"b\.json: has no pose for any target image; name each pose after its image"):
        pairs.folder_batches(folders, {"c": names["c"]}, [tmp_path / "b.json"])


def test_poses_of_targets_are_read_from_several_tables_or_a_folder_of_them(tmp_path):
    for kind in ("made", "real"):
        tree(tmp_path / kind, {f"{n}.png": encoded(picture()) for n in "ab"})
    tables = {f"{n}.csv": csv_of({f"{n}.png": body().round()}) for n in "ab"}
    tree(tmp_path / "tables", tables)
    folders = {"generated": tmp_path / "made", "target": tmp_path / "real"}
    names = pairs.matching_names(list(folders.values()))
    found = []
    for files in ([tmp_path / "tables"], [tmp_path / "tables" / name for name in tables]):
        (batch,), _ = pairs.folder_batches(folders, names, files)
        found.append(batch["target_pose"].numpy())
    assert np.array_equal(*found)
    assert found[0][..., 2].any(1).all()
    with fails(r"a\.csv: a\.png appears twice; remove one"):
        pairs.folder_batches(folders, names, [tmp_path / "tables", tmp_path / "tables" / "a.csv"])


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "Permission denied"), MemoryError()]
)
def test_what_may_not_be_read_is_not_called_damaged(few_people, tmp_path, monkeypatch, error):
    file = write(tmp_path / "a.png", encoded(picture()))

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(pairs.json, "loads", refuse)
    monkeypatch.setattr(Image, "open", refuse)
    for read in (
        lambda: poses.read_photo(file),
        lambda: pairs.load(few_people.path.name, few_people.path.parent),
    ):
        with pytest.raises((BadInput, MemoryError)) as found:
            read()
        told = r"can't be read \(Permission denied\); check its permissions"
        assert re.search(told if error.args else "^$", str(found.value))


def test_a_picture_has_one_key_however_its_data_set_is_unpacked():
    market = "0001_c1s1_001051_00"
    for file in (f"a/bounding_box_test/{market}.jpg", f"{market}.jpg.jpg", market):
        assert datasets.picture_key(file) == market
    nested = "img/WOMEN/Dresses/id_00000002/02_1_front.jpg"
    assert datasets.picture_key(nested) == "fashionWOMENDressesid0000000202_1front"
    assert datasets.picture_key(
        "fashionWOMENDressesid0000000202_1front.jpg"
    ) == datasets.picture_key(nested)
    assert datasets.picture_key("people/anna/1.jpg") == "anna/1"
