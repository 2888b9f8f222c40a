"""Turns data sets into prepared folders: names and splits, pair lists, pictures, keypoints."""

import contextlib
import csv
import itertools
import json
import logging
import math
import os
import posixpath
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from posegan import demo, pairs, poses
from posegan.files import BadInput, Source, check_output, replaced

log = logging.getLogger("posegan")

TEST_PAIRS = 12_000  # at most: the published choice
DEMO_TEST_PAIRS = 1_000
TEST_SHARE = 0.1  # of the people, if no split is published
PREVIEW_PAIRS = 16
# The folders of others' data sets, which are no people.
SPLITS = {"train", "val", "valid", "test", "query", "gallery"}
SPLITS |= {"bounding_box_train", "bounding_box_test"}
FEWEST_JOINTS = 4  # joints a pose needs to be paired, if no rule is published
# Height, width; all others are 256x256. The demo's is the smallest size at which people are
# recognisable, and a CPU trains on it in minutes.
SIZES = {"demo": (64, 32), "market1501": (128, 64)}
# The official data sets: title, keypoint files, pattern of picture names (flat, without suffix).
OFFICIAL = {
    "market1501": (
        "Market-1501",
        "market-annotation-*.csv",
        r"(?:(?:.*/)?bounding_box_(?P<split>train|test)/|.*/)?"
        r"(?P<key>(?P<identity>-1|\d{4})_c(?P<camera>\d)s\d_\d+_\d+)",
    ),
    "deepfashion": (
        "DeepFashion In-shop",
        "fas*ion-annotation-*.csv",
        r"(?P<split>)(?:.*/)?(?P<key>(?P<identity>fashion(?:WO)?MEN\w+id\d{10})_(?P<camera>\w+))",
    ),
}

# ------------------------------------------------------------------------------ data sets


@dataclass(frozen=True)
class PrepareConfig:
    """The settings of `posegan prepare`; `size` (height, width) and `name` default by data."""

    data: str = "demo"
    source: str | None = None
    poses: tuple[str, ...] = ()
    root: str = "data"
    size: tuple[int, int] | None = None
    overwrite: bool = False
    pose_weights: str | None = None
    seed: int = 0
    parsing: str | None = None
    name: str | None = None


@dataclass
class Row:
    """A picture of a data set; `file` None: listed but absent, `pose` None: to be detected."""

    file: str | None
    identity: str
    camera: str
    split: str
    pose: poses.Pose | None
    size: tuple[int, int] | None = None  # the picture's (height, width), once read


Pictures = Iterator[tuple[int, np.ndarray, np.ndarray]]  # index of the row, picture, pose


@dataclass
class Listing:
    """A data set before its pictures are read: rows in the pair rule's order, training first."""

    description: str
    rows: list[Row]
    pictures: Callable[[list[Row], tuple[int, int]], Pictures]
    published: bool = False  # whether a published rule decides which pictures make pairs
    test_pairs: int = TEST_PAIRS
    skipped: int = 0


def _parse_name(data: str, name: str) -> dict[str, str] | None:
    # img/WOMEN/Dresses/id_00000002/02_1_front.jpg becomes fashionWOMENDressesid0000000202_1front
    in_shop = r"^(?:.*/)?((?:WO)?MEN)/([^/]+)/id_(\d{8})/(\d\d_\d)_"
    name = re.sub(in_shop, r"fashion\1\2id\3\4", poses.stem(name))
    found = re.fullmatch(OFFICIAL[data][2], name)
    return found.groupdict("") if found else None


def picture_key(file: str) -> str:
    """A picture's name, however its data set is unpacked: the official sets' own, else the file
    name with its folder.
    """
    parsed = (_parse_name(data, file) for data in OFFICIAL)
    known = next((one["key"] for one in parsed if one), None)
    return known or "/".join(PurePosixPath(poses.stem(file)).parts[-2:])


def _official(config: PrepareConfig) -> Listing:
    title, source, pictures = OFFICIAL[config.data][0], Source(config.source), {}
    for name in _pictures(source):
        parsed = _parse_name(config.data, name)
        if parsed and (parsed["split"] or config.data != "market1501"):
            pictures[parsed["key"]] = parsed | {"file": name}
    if not pictures:
        remedy = "give the archive as downloaded, or its folder"
        raise BadInput(source.path, f"no {title} pictures where expected", remedy)
    named = _official_poses(config)
    # The split follows from a person's pictures, else from the keypoint file.
    known = [*named.values(), *pictures.values()]
    splits = {one["identity"]: one["split"] for one in known if one["split"]}
    rows = []
    for key in dict.fromkeys([*named, *pictures]):
        one = {"file": None, "pose": poses.MISSING if named else None}
        one |= named.get(key, {}) | pictures.get(key, {})
        split = splits.get(one["identity"], "")
        rows.append(Row(one["file"], one["identity"], one["camera"], split, one["pose"]))
    about = f"{title} from {source.path.name}; keypoints: {', '.join(config.poses) or 'found'}"
    return _listed(about, source, config, rows, len(pictures))


def _pictures(source: Source) -> list[str]:
    return [name for name in source.names if name.lower().endswith(poses.IMAGE_SUFFIXES)]


def _listed(
    about: str, source: Source, config: PrepareConfig, rows: list[Row], used: int
) -> Listing:
    # Rows without a split get a random one per person; training rows then come first.
    people = sorted({row.identity for row in rows if not row.split})
    count = max(1, int(len(people) * TEST_SHARE)) if len(people) > 1 else 0
    order = np.random.default_rng(config.seed).permutation(len(people))
    held = {people[place] for place in order[len(people) - count :]}
    for row in rows:
        row.split = row.split or ("test" if row.identity in held else "train")
    rows.sort(key=lambda row: row.split == "test")
    skipped = len(source.names) + source.skipped - used
    decoded = partial(_decoded, source, config.pose_weights)
    return Listing(about, rows, decoded, published=config.data in OFFICIAL, skipped=skipped)


def _official_poses(config: PrepareConfig) -> dict[str, dict]:
    # Parsed names and poses from all files of --poses, the training file first.
    title, csvs, _ = OFFICIAL[config.data]
    files = [file for given in config.poses for file in sorted(Path(given).glob(csvs)) or [given]]
    named: dict[str, dict] = {}
    for file in sorted(map(Path, files), key=lambda file: "train" not in file.name):
        split = "test" if "test" in file.name else "train"
        for name, pose in poses.read_poses(file).items():
            parsed = _parse_name(config.data, name)
            if not parsed or parsed["key"] in named:
                problem = "appears twice" if parsed else f"is not a {title} name"
                raise BadInput(file, f"{name} {problem}", "remove it")
            named[parsed["key"]] = parsed | {"split": split, "pose": pose}
    return named


def _folder(config: PrepareConfig) -> Listing:
    source = Source(config.source)
    names = [name for name in _pictures(source) if not re.search(r"(^|/)(\.|__MACOSX/)", name)]
    if not names:
        raise BadInput(source.path, "no pictures in it", "give one folder per person")
    above = os.path.commonpath([PurePosixPath(name).parent for name in names])
    people = [name for name in names if str(PurePosixPath(name).parent) != (above or ".")]
    if people and len(people) < len(names):
        word = "%s: ignoring %d pictures outside the folders of people"
        log.warning(word, source.path, len(names) - len(people))
    names, rows, taken = people or names, [], set()
    identities = _identities(source.path, names, above)
    known = {} if config.poses else _poses_beside(source, names)
    used = len(names) + len(known)
    whole = {poses.stem(name) for name in names}
    for given in config.poses:
        for name, pose in poses.read_poses(given).items():
            # Of another machine, its path may begin higher up.
            calls = _calls(posixpath.normpath(name.replace("\\", "/")))
            call = next((call for call in calls if call in whole), calls[0])
            poses.merge(known, {call: pose}, given)
    missing = poses.MISSING if known else None
    for name, identity, calls in zip(names, identities, _own_calls(names)):
        call = next((call for call in calls if call in known), None)
        pose = known.get(call, missing)
        taken.add(call)
        if pose and poses.in_one_place(pose.joints):
            pose = poses.MISSING
        view = re.split("[-_/]", calls[0])[-1] if config.data == "mvc" else ""
        rows.append(Row(name, identity, view, "", pose))
    if lost := known.keys() - taken:
        word = "%s: %d poses match no picture, or several of the same name, such as %s"
        log.warning(word, source.path, len(lost), min(lost))
    about = f"{source.path.name}, one folder per person"
    return _listed(about, source, config, rows, used)


def _identities(place: Path, names: list[str], above: str) -> list[str]:
    # The people of pictures, by the folder below `above` that each lies in.
    parts = [PurePosixPath(name).relative_to(above).parts for name in names]
    alone = PurePosixPath(above).name or place.resolve().stem
    found = [one[0] if len(one) > 1 else alone for one in parts]
    people = sorted({*found})
    deep = max(map(len, parts))  # folders in a split's are people: mask_train_v2/0001/1.jpg
    words = [{one.lower(), *(re.split("[-_]", one.lower()) if deep > 2 else ())} for one in people]
    if deep > 1 and all(map(SPLITS.intersection, words)):
        problem = f"{', '.join(people)}: folders of a split, not of people"
        remedy = f"give one of them, as {place / above / people[0]}"
        raise BadInput(place, problem, remedy if place.is_dir() else "unpack it; give one of them")
    if above or deep > 2:
        shown = ", ".join(people[:3]) + ", ..." * (len(people) > 3)
        log.warning("%s: the people are its folders %s", place / above, shown)
    return found


def _poses_beside(source: Source, names: list[str]) -> dict[str, poses.Pose]:
    # Poses in files next to the pictures, by the pictures' names without suffix.
    stems = {poses.stem(name) for name in names}
    files = {stem + ending: stem for stem in stems for ending in ("_keypoints.json", ".json")}
    files = {file: files[one] for file in source.names if (one := poses.composed(file)) in files}
    known = {}
    for file, data in source.items(files):
        parsed = poses.parse_json(data, f"{source.path}/{file}", file)
        if len(parsed) > 1:
            problem = f"holds {len(parsed)} poses for one picture"
            raise BadInput(f"{source.path}/{file}", problem, "pass it with --poses")
        known[files[file]] = next(iter(parsed.values()), poses.MISSING)
    poses.warn_of_several(source.path, known)
    return known


def _demo(config: PrepareConfig) -> Listing:
    rows, train = [], demo.IDENTITIES - int(demo.IDENTITIES * TEST_SHARE)
    for i, pose in itertools.product(range(demo.IDENTITIES), range(demo.POSES)):
        split = "train" if i < train else "test"
        rows.append(Row(f"{i:04d}_{pose:02d}", f"{i:04d}", str(pose), split, None))
    about = "people drawn by posegan"
    return Listing(about, rows, partial(_drawn, config.seed), test_pairs=DEMO_TEST_PAIRS)


def _decoded(source: Source, weights: str | None, rows: list[Row], size: tuple) -> Pictures:
    places = {row.file: place for place, row in enumerate(rows)}

    def decode(item: tuple[str, bytes]) -> tuple[int, np.ndarray, np.ndarray | None]:
        place = places[item[0]]
        image = poses.read_image(item[1], f"{source.path}/{item[0]}")
        pose, picture = rows[place].pose, image.shape[:2]
        rows[place].size = picture
        fitted = None if pose is None else poses.fit_pose(pose.at(picture), picture, size)
        return place, poses.fit_image(image, size), fitted

    items = source.items(places)
    with ThreadPoolExecutor(_cores()) as pool:
        while chunk := list(itertools.islice(items, pairs.CHUNK)):
            for place, image, pose in pool.map(decode, chunk):
                if pose is None:
                    from posegan import features  # imports torch, which is rarely needed here

                    pose = features.find_poses([image], weights)[0]
                yield place, image, pose


def _drawn(seed: int, rows: list[Row], size: tuple[int, int]) -> Pictures:
    # One program per core draws; each ends by itself once nobody reads its output.
    count, drawing = _cores(), []
    try:
        for first in range(count):
            given = map(str, (seed, *size, demo.POSES, first, len(rows), count))
            streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            drawing.append(subprocess.Popen([sys.executable, demo.__file__, *given], **streams))
        for place in range(len(rows)):
            said = drawing[place % count].stdout
            image = np.frombuffer(said.read(math.prod(size) * 3), np.uint8).reshape(*size, 3)
            joints = said.read(len(poses.JOINTS) * 3 * 4)
            yield place, image, np.frombuffer(joints, np.float32).reshape(len(poses.JOINTS), 3)
    except ValueError:  # less than a whole picture
        remedy = "free some memory, and try again"
        raise BadInput("demo", "a drawing process was killed", remedy) from None
    finally:
        for program in drawing:
            with program:  # waits for its end
                program.kill()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ------------------------------------------------------------------------------ pair lists


def ordered_pairs(groups: list[str]) -> np.ndarray:
    """All ordered pairs (P, 2) int32 of indices with equal group, in the published lists' order."""
    members: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    found = (pair for places in members.values() for pair in itertools.permutations(places, 2))
    return np.fromiter(itertools.chain.from_iterable(found), np.int32).reshape(-1, 2)


def _pair_lists(listing: Listing, stored: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
    # Pairs of stored pictures by split, and how many were dropped because a picture is missing.
    # Absent pictures take part until pairs are chosen; leaving them out would shift the official
    # order.
    rows = listing.rows
    there = np.array([row.file is not None for row in rows])
    joints = np.zeros((len(rows), len(poses.JOINTS), 3), np.float32)
    joints[there] = stored
    for place, row in enumerate(rows):
        if row.pose:  # as in its file: the rule is about the whole picture
            joints[place] = row.pose.joints
    present = joints[..., 2] > 0  # (R, 25)
    identities, splits = np.array([(row.identity, row.split) for row in rows]).T
    if listing.published:  # without Market-1501's junk and distractors
        paired = present[:, poses.SHOULDERS + poses.HIPS].all(1)
        paired &= ~np.isin(identities, ("-1", "0000"))
    else:
        paired = present.sum(1) >= FEWEST_JOINTS
    places = np.where(there, np.cumsum(there) - 1, -1).astype(np.int32)
    lists, dropped = {}, 0
    for split, limit in (("train", None), ("test", listing.test_pairs)):
        members = np.flatnonzero(paired & (splits == split))
        chosen = pairs.choose_pairs(ordered_pairs(identities[members].tolist()), limit)
        chosen = places[members[chosen]]  # (P, 2)
        lists[split] = chosen[(chosen >= 0).all(1)]
        dropped += len(chosen) - len(lists[split])
    return lists, dropped


# ------------------------------------------------------------------------------ writing


def _check_ours(path: Path) -> None:
    found = {file.name for file in path.iterdir()} if path.is_dir() else set()
    if found and not ({*pairs.ARRAYS[:2]} <= found <= {*pairs.FILES, pairs.PARSING}):
        raise BadInput(path, "holds other files", "choose another place with --root or --name")


def _check_listing(listing: Listing, config: PrepareConfig) -> None:
    rows = [row for row in listing.rows if row.file is not None]
    if len({row.identity for row in listing.rows}) < 2:
        problem = f"only one person, {rows[0].identity}"
        raise BadInput(config.source, problem, "give one folder per person, at least two")
    if config.poses and all(row.pose is poses.MISSING for row in rows):
        remedy = "name the poses after the pictures, folder included"
        raise BadInput(config.poses[0], f"matches none of the pictures in {config.source}", remedy)
    if config.pose_weights and not any(row.pose is None for row in rows):
        problem = "--pose-weights has no effect when poses are given"
        raise BadInput(config.source or config.data, problem, "leave it out")


def _write(folder: Path, config: PrepareConfig, listing: Listing, progress: Callable) -> dict:
    size = config.size or SIZES.get(config.data, (256, 256))
    rows = [row for row in listing.rows if row.file is not None]
    joints = np.zeros((len(rows), len(poses.JOINTS), 3), np.float32)
    with (
        _array(folder / "images.npy", (len(rows), *size, 3)) as write,
        contextlib.closing(listing.pictures(rows, size)) as pictures,
    ):
        for done, (place, image, pose) in enumerate(pictures, 1):
            write(place, image)
            joints[place] = pose
            progress(done, len(rows))
    if config.parsing:
        _write_parsing(folder / pairs.PARSING, Source(config.parsing), rows, size)
    lists, dropped = _pair_lists(listing, joints)
    np.save(folder / "poses.npy", joints)
    for split, chosen in lists.items():
        np.save(folder / f"pairs_{split}.npy", chosen)
    people = ((i, r.file, r.identity, r.camera, r.split) for i, r in enumerate(rows))
    with open(folder / "people.csv", "w", **pairs.TEXT) as file:
        csv.writer(file).writerows([pairs.COLUMNS, *people])
    counts = {"images": len(rows)} | {f"pairs_{one}": len(lists[one]) for one in lists}
    counts["images_without_pose"] = int((~joints[..., 2].any(1)).sum())
    counts["images_absent"] = len(listing.rows) - len(rows)
    sized = [row for row in rows if row.size and row.pose and row.pose.size]
    counts["poses_of_other_shapes"] = sum(not poses.same_shape(r.pose.size, r.size) for r in sized)
    counts |= {"pairs_dropped": dropped, "files_skipped": listing.skipped}
    about = {"format": pairs.FORMAT, "height": size[0], "width": size[1]}
    about |= {"joints": poses.JOINTS, "counts": counts, "source": listing.description}
    (folder / "dataset.json").write_text(json.dumps(about))
    return counts


@contextlib.contextmanager
def _array(path: Path, shape: tuple[int, ...]) -> Iterator[Callable[[int, np.ndarray], None]]:
    # Yields write(place, picture) for an array on disk. A memory map would crash on a full disk.
    with open(path, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()

        def write(place: int, picture: np.ndarray) -> None:
            file.seek(start + place * picture.nbytes)
            file.write(np.ascontiguousarray(picture))

        yield write


def _calls(name: str) -> list[str]:
    # The names a file may go by: its path without suffix, and the ends of that, longest first.
    parts = poses.stem(name).split("/")
    return ["/".join(parts[first:]) for first in range(len(parts))]


def _own_calls(names: list[str]) -> list[list[str]]:
    # The names unique to each picture: its whole path, and the ends no other picture shares.
    every = [_calls(name) for name in names]
    called = Counter(itertools.chain.from_iterable(every))
    return [[whole, *(end for end in ends if called[end] == 1)] for whole, *ends in every]


def _write_parsing(path: Path, source: Source, rows: list[Row], size: tuple[int, int]) -> None:
    every = enumerate(_own_calls([row.file for row in rows]))
    places = {call: place for place, calls in every for call in calls}
    ends = ((name, call) for name in source.names for call in reversed(_calls(name)))
    maps = {name: places[call] for name, call in ends if call in places}  # by the longest one
    if not maps:
        remedy = "name each PNG after its picture"
        raise BadInput(source.path, "no parsing maps for these pictures", remedy)
    with _array(path, (len(rows), *size)) as write:
        for place in range(len(rows)):
            write(place, np.full(size, poses.UNKNOWN_PART, np.uint8))
        for name, data in source.items(maps):
            labels = poses.read_labels(data, f"{source.path}/{name}")
            if not poses.same_shape(labels.shape, rows[maps[name]].size):
                sizes = *labels.shape, *rows[maps[name]].size
                problem = "is {}x{}, but its picture is {}x{}".format(*sizes)
                raise BadInput(f"{source.path}/{name}", problem, "give the map of this picture")
            write(maps[name], poses.fit_image(labels, size, Image.Resampling.NEAREST))
    lacking = len(rows) - len(set(maps.values()))
    if lacking:
        log.warning("%s: %d of %d pictures have no parsing map", source.path, lacking, len(rows))


ADAPTERS = {**dict.fromkeys(OFFICIAL, _official), "mvc": _folder, "folder": _folder, "demo": _demo}
NOTICES = {
    "images_absent": "{:,} pictures named by the keypoints are missing",
    "pairs_dropped": "{:,} pairs with a missing picture are left out",
    "images_without_pose": "{:,} pictures have no known joint and are in no pair",
    "poses_of_other_shapes": "{:,} poses are for pictures of another aspect ratio",
    "files_skipped": "other files, skipped: {:,}",
}


def prepare(config: PrepareConfig, progress: Callable = lambda done, total: None) -> pairs.Prepared:
    """Write the prepared folder ROOT/NAME and load it; `progress(done, total)` counts pictures.

    An old folder is kept until the new one is complete. Raises ClickException for user errors.
    """
    if config.data != "demo" and not config.source:
        remedy = f"run {pairs.how_to_prepare(config.data, config.root)}"
        raise BadInput(config.data, "no --source given", remedy)
    name = config.data if config.name is None else config.name
    path = pairs.folder_of(name, config.root)
    if name in pairs.ARGUMENTS and name != config.data:
        raise BadInput(name, "reserved for another data set", "choose another --name")
    used = dict.fromkeys((config.source, *config.poses, config.parsing, config.pose_weights), ())
    check_output(path, "--root or --name", config.overwrite, used, folder=True)
    _check_ours(path)
    listing = ADAPTERS[config.data](config)
    _check_listing(listing, config)
    with replaced(path, "--root", config.overwrite) as beside:
        beside.mkdir()
        counts = _write(beside, config, listing, progress)
        if not counts["pairs_train"] + counts["pairs_test"]:
            problem = "no pairs: nobody has two pictures with poses"
            raise BadInput(config.source or config.data, problem, "give more pictures or poses")
        prepared = pairs.open_folder(beside)  # as its readers will
        about = {"name": name} | prepared.description | {"digest": pairs.fingerprint(prepared)}
        (beside / "dataset.json").write_text(json.dumps(about, indent=2) + "\n")
        _check_ours(path)
    for what, count in counts.items():
        if count and what in NOTICES:
            log.warning("%s: %s", config.source or config.data, NOTICES[what].format(count))
    return pairs.load(name, config.root)


def write_preview(prepared: pairs.Prepared, seed: int, path: Path, overwrite: bool) -> None:
    """Draw random pairs with their poses, to reveal swapped left and right before training."""
    known = np.concatenate([prepared.pairs_train, prepared.pairs_test])
    chosen = np.random.default_rng(seed).permutation(len(known))[:PREVIEW_PAIRS]
    zoom = max(1, 256 // prepared.height)
    drawn = []
    for place in known[chosen].ravel():
        large = prepared.images[place].repeat(zoom, 0).repeat(zoom, 1)
        pose = poses.similar(prepared.poses[place], zoom, (zoom - 1) / 2)
        skeleton = poses.draw_pose(pose, large.shape[:2])
        drawn.append(np.where(skeleton.any(2, keepdims=True), skeleton, large))
    rows = [drawn[start : start + 8] for start in range(0, len(drawn), 8)]
    poses.write_pictures(poses.sheet(rows)[None], [path], overwrite, "--root")
