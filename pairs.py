"""People in pairs: data sets, pair lists, the prepared folder, batches, folders to score."""

import contextlib
import csv
import itertools
import json
import logging
import multiprocessing
import os
import re
import shlex
import signal
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from posegan import demo
from posegan.files import LONGEST, BadInput, Source, check_output, replaced
from posegan.poses import (
    HIPS,
    IMAGE_SUFFIXES,
    JOINTS,
    MISSING,
    SHOULDERS,
    UNKNOWN_PART,
    Pose,
    fit_image,
    fit_pose,
    image_size,
    merge,
    parse_json,
    read_image,
    read_labels,
    read_poses,
    warn_of_several,
)

if TYPE_CHECKING:
    from torch import Tensor, device

log = logging.getLogger("posegan")

FORMAT = 1  # of the prepared folder
TEST_PAIRS = 12_000  # at most: the published choice
DEMO_TEST_PAIRS = 1_000
TEST_SHARE = 0.1  # of the people, where no split is published
FEWEST_JOINTS = 4  # that make a pose worth a pair, where no rule is published
FINGERPRINTED = 500  # pictures, about: 12 MB of Market-1501's
CHUNK = 32  # pictures in memory at once, and pairs scored
RESIDENT_SHARE = 0.4  # of a device's free memory, at most, that pictures may take
MEAN_IMAGES = 4_000  # at most, of which the mean image is made: more don't change it
ARRAYS = ("images.npy", "poses.npy", "pairs_train.npy", "pairs_test.npy")
PARSING = "parsing.npy"  # only where the user has parsing maps
FILES = (*ARRAYS, "people.csv", "dataset.json")
COLUMNS = ("index", "file", "identity", "camera", "split")
# The data sets, and what prepares each behind `posegan prepare --data NAME`.
ARGUMENTS = {
    "demo": "",
    "market1501": "--source Market-1501-v15.09.15.zip --poses CSV_FOLDER",
    "deepfashion": "--source img.zip --poses CSV_FOLDER",
    "mvc": "--source FOLDER",
    "folder": "--source FOLDER",
}
# Height, width; the others 256x256. The demo's is the smallest at which people are recognised, and
# a CPU trains on it in minutes.
SIZES = {"demo": (64, 32), "market1501": (128, 64)}
# The official data sets: title, key-point files, names (of a picture without suffix, flattened).
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
    """What `posegan prepare` was asked to do; `size` (height, width), None: the data set's own, as
    is the folder's `name`.
    """

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
    """A picture of a data set; `file` None: named but absent, `pose` None: still to be found."""

    file: str | None
    identity: str
    camera: str
    split: str
    pose: Pose | None


@dataclass
class Listing:
    """A data set before its pictures are read: rows in the order of the pair rule, train first."""

    description: str
    rows: list[Row]
    pictures: Callable  # (rows, size) -> an iterator of (place in rows, picture, pose)
    published: bool = False  # whether the published rule says which pictures make pairs
    test_pairs: int = TEST_PAIRS
    skipped: int = 0


def stem(name: str) -> str:
    """A name without the suffixes of pictures, of which Market-1501 has names with two."""
    while name.lower().endswith(IMAGE_SUFFIXES):
        name = name.rpartition(".")[0]
    return name


def _parse_name(data: str, name: str) -> dict[str, str] | None:
    # img/WOMEN/Dresses/id_00000002/02_1_front.jpg is fashionWOMENDressesid0000000202_1front
    in_shop = r"^(?:.*/)?((?:WO)?MEN)/([^/]+)/id_(\d{8})/(\d\d_\d)_"
    name = re.sub(in_shop, r"fashion\1\2id\3\4", stem(name))
    found = re.fullmatch(OFFICIAL[data][2], name)
    return found.groupdict("") if found else None


def picture_key(file: str) -> str:
    """What a picture is called, however its data set is unpacked: by the official sets' own names,
    else with the folder it lies in.
    """
    parsed = (_parse_name(data, file) for data in OFFICIAL)
    known = next((one["key"] for one in parsed if one), None)
    return known or "/".join(PurePosixPath(stem(file)).parts[-2:])


def _official(config: PrepareConfig) -> Listing:
    title, source, pictures = OFFICIAL[config.data][0], Source(config.source), {}
    for name in source.names:
        parsed = _parse_name(config.data, name) if name.lower().endswith(IMAGE_SUFFIXES) else None
        if parsed and (parsed["split"] or config.data != "market1501"):
            pictures[parsed["key"]] = parsed | {"file": name}
    if not pictures:
        remedy = "give the archive as downloaded, or its folder"
        raise BadInput(source.path, f"no {title} pictures where they belong", remedy)
    named = _official_poses(config)
    # A person's pictures say the split; where they don't, the key points' file does.
    known = [*(parsed for parsed, _ in named.values()), *pictures.values()]
    splits = {parsed["identity"]: parsed["split"] for parsed in known if parsed["split"]}
    rows = []
    for key in [*named, *(key for key in pictures if key not in named)]:
        said, pose = named.get(key, (None, MISSING if named else None))
        parsed = pictures.get(key) or said | {"split": ""}
        identity = parsed["identity"]
        split = parsed["split"] or splits.get(identity, "")
        rows.append(Row(parsed.get("file"), identity, parsed["camera"], split, pose))
    _split_people(rows, config.seed)
    about = f"{title} from {source.path.name}; key points: {', '.join(config.poses) or 'found'}"
    decoded = partial(_decoded, source, config)
    skipped = len(source.names) + source.skipped - len(pictures)
    return Listing(about, rows, decoded, published=True, skipped=skipped)


def _official_poses(config: PrepareConfig) -> dict[str, tuple[dict[str, str], Pose]]:
    # What the names say, and the poses, of all files of --poses; the one for training first.
    title, csvs, _ = OFFICIAL[config.data]
    files = [file for given in config.poses for file in sorted(Path(given).glob(csvs)) or [given]]
    named: dict = {}
    for file in sorted(map(Path, files), key=lambda file: "train" not in file.name):
        said = {"split": "test" if "test" in file.name else "train"}
        for name, pose in read_poses(file).items():
            parsed = _parse_name(config.data, name)
            if not parsed or parsed["key"] in named:
                problem = "is there a second time" if parsed else f"is no {title} name"
                raise BadInput(file, f"{name} {problem}", "remove it")
            named[parsed["key"]] = parsed | said, pose
    return named


def _folder(config: PrepareConfig) -> Listing:
    source = Source(config.source)
    names = [name for name in source.names if name.lower().endswith(IMAGE_SUFFIXES)]
    names = [name for name in names if not re.search(r"(^|/)(\.|__MACOSX/)", name)]
    if not names:
        raise BadInput(source.path, "no pictures in it", "give one folder a person")
    poses: dict[str, Pose] = {}
    used = len(names)
    for given in config.poses:
        for name, pose in read_poses(given).items():
            merge(poses, {stem(name): pose}, given)
    if not config.poses:
        endings = ("_keypoints.json", ".json")
        beside = {stem(name) + ending: stem(name) for name in names for ending in endings}
        for file, data in source.items(beside):
            parsed = parse_json(data, f"{source.path}/{file}", file)
            if len(parsed) > 1:
                problem = f"{len(parsed)} poses, its picture has one"
                raise BadInput(f"{source.path}/{file}", problem, "give it by --poses")
            poses[beside[file]] = next(iter(parsed.values()), MISSING)
            used += 1
        warn_of_several(source.path, poses)
    bare = Counter(PurePosixPath(stem(name)).name for name in names)
    above = os.path.commonpath([PurePosixPath(name).parent for name in names])
    rows = []
    for name in names:
        parts = PurePosixPath(name).relative_to(above).parts
        identity = parts[0] if len(parts) > 1 else PurePosixPath(above).name or source.path.stem
        # Key points may leave out folders above the picture, unless several would be meant.
        parts = stem(name).split("/")
        calls = ["/".join(parts[i:]) for i in range(len(parts) - (bare[parts[-1]] > 1))]
        pose = next((poses[call] for call in calls if call in poses), MISSING if poses else None)
        view = re.split("[-_]", parts[-1])[-1] if config.data == "mvc" else ""
        rows.append(Row(name, identity, view, "", pose))
    _split_people(rows, config.seed)
    about = f"{source.path.name}, one folder a person"
    skipped = len(source.names) + source.skipped - used
    return Listing(about, rows, partial(_decoded, source, config), skipped=skipped)


def _split_people(rows: list[Row], seed: int) -> None:
    # Rows without a split get one by person, at random; then all training rows come first.
    people = sorted({row.identity for row in rows if not row.split})
    count = max(1, int(len(people) * TEST_SHARE)) if len(people) > 1 else 0
    order = np.random.default_rng(seed).permutation(len(people))
    held = {people[i] for i in order[len(people) - count :]}
    for row in rows:
        row.split = row.split or ("test" if row.identity in held else "train")
    rows.sort(key=lambda row: row.split == "test")


def _demo(config: PrepareConfig) -> Listing:
    rows, train = [], demo.IDENTITIES - int(demo.IDENTITIES * TEST_SHARE)
    for i, pose in itertools.product(range(demo.IDENTITIES), range(demo.POSES)):
        split = "train" if i < train else "test"
        rows.append(Row(f"{i:04d}_{pose:02d}", f"{i:04d}", str(pose), split, None))
    about = "people drawn by posegan"
    return Listing(about, rows, partial(_drawn, config.seed), test_pairs=DEMO_TEST_PAIRS)


def _decoded(
    source: Source, config: PrepareConfig, rows: list[Row], size: tuple[int, int]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    places = {row.file: place for place, row in enumerate(rows)}

    def decode(item: tuple[str, bytes]) -> tuple[int, np.ndarray, np.ndarray | None]:
        place = places[item[0]]
        image = read_image(item[1], f"{source.path}/{item[0]}")
        pose, picture = rows[place].pose, image.shape[:2]
        fitted = None if pose is None else fit_pose(pose.at(picture), picture, size)
        return place, fit_image(image, size), fitted

    items = source.items(places)
    with ThreadPoolExecutor(_cores()) as pool:
        while chunk := list(itertools.islice(items, CHUNK)):
            for place, image, pose in pool.map(decode, chunk):
                if pose is None:
                    from posegan import features  # imports torch, which few preparations need

                    pose = features.find_poses([image], config.pose_weights)[0]
                yield place, image, pose


def _drawn(
    seed: int, rows: list[Row], size: tuple[int, int]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    spawn = multiprocessing.get_context("spawn")  # a fork would copy the locks of torch's threads
    pool = ProcessPoolExecutor(_cores(), spawn, _follow_parent)
    tasks = [(seed, int(row.identity), int(row.camera), size) for row in rows]
    try:
        # In a thread, as no signal interrupts it between a process's start and its first word.
        with ThreadPoolExecutor(1) as starter:
            given = partial(pool.map, demo.person, *zip(*tasks), chunksize=demo.POSES)
            people = starter.submit(given).result()
        yield from ((place, *person) for place, person in enumerate(people))
    except BrokenProcessPool:
        remedy = "free some memory, and try again"
        raise BadInput("demo", "one of the processes that draw was killed", remedy) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    # Ctrl-C is for the first process, which ends the others; they end when it is killed, too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


# ------------------------------------------------------------------------------ pair lists


def ordered_pairs(groups: list[str]) -> np.ndarray:
    """All ordered pairs (P, 2) int32 of places with equal group: the published list's order.

    Groups come in the order of their first member, pairs as itertools.permutations gives them.
    """
    members: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    lists = [np.zeros((0, 2), np.int32)]
    for places in members.values():
        two = np.argwhere(~np.eye(len(places), dtype=bool))  # (k * (k - 1), 2)
        lists.append(np.array(places, np.int32)[two])
    return np.concatenate(lists)


def choose_pairs(pairs: np.ndarray, limit: int | None) -> np.ndarray:
    """The published choice of at most `limit` test pairs (P, 2), in its order; all without it."""
    if not len(pairs) or limit is None:
        return pairs
    return pairs[np.random.RandomState(0).choice(len(pairs), min(limit, len(pairs)), replace=False)]


def _pair_lists(listing: Listing, poses: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
    # Pairs of stored pictures by split, and how many were dropped for want of a picture. Absent
    # pictures take part until the choice is made, or they would shift the official order.
    rows = listing.rows
    stored = np.array([row.file is not None for row in rows])
    joints = np.zeros((len(rows), len(JOINTS), 3), np.float32)
    joints[stored] = poses
    for place, row in enumerate(rows):
        if row.pose:  # as its file has it, for a rule about the whole picture
            joints[place] = row.pose.joints
    present = joints[..., 2] > 0  # (R, 25)
    identities, splits = (np.array([getattr(r, of) for r in rows]) for of in ("identity", "split"))
    if listing.published:  # less Market-1501's junk and distractors
        paired = present[:, SHOULDERS + HIPS].all(1) & ~np.isin(identities, ("-1", "0000"))
    else:
        paired = present.sum(1) >= FEWEST_JOINTS
    places = np.where(stored, np.cumsum(stored) - 1, -1).astype(np.int32)
    lists, dropped = {}, 0
    for split, limit in (("train", None), ("test", listing.test_pairs)):
        members = np.flatnonzero(paired & (splits == split))
        pairs = ordered_pairs(identities[members].tolist())
        pairs = places[members[choose_pairs(pairs, limit or None)]]  # (P, 2)
        lists[split] = pairs[(pairs >= 0).all(1)]
        dropped += len(pairs) - len(lists[split])
    return lists, dropped


# ------------------------------------------------------------------------------ prepared folder


@dataclass(frozen=True)
class Prepared:
    """A prepared folder: N pictures of one size, their poses, people and pairs."""

    path: Path
    name: str
    height: int
    width: int
    images: np.ndarray  # uint8 (N, H, W, 3), a read-only memory map
    poses: np.ndarray  # float32 (N, 25, 3): x, y in pixels, confidence; 0 = missing
    pairs_train: np.ndarray  # int32 (P, 2): source, target
    pairs_test: np.ndarray
    files: np.ndarray  # (N,) str, as identity, camera and split
    identity: np.ndarray
    camera: np.ndarray
    split: np.ndarray
    labels: np.ndarray  # int64 (N,): class numbers of the training people, -1 for all others
    identities: int  # the number of those classes
    description: dict  # of dataset.json
    parsing: np.ndarray | None = None  # uint8 (N, H, W): part numbers, UNKNOWN_PART where unknown
    starts: tuple[int, ...] = (0,)  # of several sets, the first picture of each
    shares: tuple[float, ...] = (1.0,)  # and its part in training


def prepare(config: PrepareConfig, progress: Callable[[int, int], None] | None = None) -> Prepared:
    """Write the prepared folder ROOT/NAME and load it; `progress(done, total)` hears of pictures.

    It is written beside its place and renamed when whole; an old one stays until then. Raises
    ClickException for bad input, a full disk, or a folder that is there without `overwrite`.
    """
    if config.data not in ARGUMENTS:
        raise BadInput(config.data, "no data set", f"choose one of {', '.join(ARGUMENTS)}")
    command = _command(config.data, config.root)
    if config.data != "demo" and not config.source:
        raise BadInput(config.data, "no --source given", f"run {command}")
    name = config.data if config.name is None else config.name
    path = _folder_of(name, config.root)
    if name in ARGUMENTS and name != config.data:
        raise BadInput(name, "the name of another data set", "give another --name")
    used = dict.fromkeys((config.source, *config.poses, config.parsing, config.pose_weights), ())
    check_output(path, "--root or --name", config.overwrite, used, folder=True)
    _check_ours(path)
    listing = ADAPTERS[config.data](config)
    _check_listing(listing, config)
    with replaced(path, "--root", config.overwrite) as beside:
        beside.mkdir()
        counts = _write(beside, config, listing, progress)
        if not counts["pairs_train"] + counts["pairs_test"]:
            problem = "no two pictures of one person with poses, so no pairs"
            raise BadInput(config.source or config.data, problem, "give more pictures or poses")
        prepared = _open(beside)  # as whoever reads it will
        about = {"name": name} | prepared.description | {"digest": fingerprint(prepared)}
        (beside / "dataset.json").write_text(json.dumps(about, indent=2) + "\n")
        _check_ours(path)
    for what, count in counts.items():
        if count and what in NOTICES:
            log.warning("%s: %s", config.source or config.data, NOTICES[what].format(count))
    return load(name, config.root)


def _folder_of(name: str, root: str | Path) -> Path:
    # Where a data set is prepared; the name is a user's, and no path.
    if not name.strip() or name.startswith(".") or any(mark in name for mark in "/\\,:\0"):
        raise BadInput(f"--data or --name {name!r}", "no name of a folder", "give a plain word")
    return Path(root) / name


def _check_ours(path: Path) -> None:
    found = {file.name for file in path.iterdir()} if path.is_dir() else set()
    if found and not ({*ARRAYS[:2]} <= found <= {*FILES, PARSING}):
        raise BadInput(path, "holds more than a prepared data set", "choose another --root")


def _check_listing(listing: Listing, config: PrepareConfig) -> None:
    rows = [row for row in listing.rows if row.file is not None]
    if len({row.identity for row in listing.rows}) < 2:
        problem = f"one person alone, {rows[0].identity}"
        raise BadInput(config.source, problem, "give one folder a person, two people or more")
    if config.poses and all(row.pose is MISSING for row in rows):
        remedy = "call the poses like the pictures, with the folder before them"
        raise BadInput(config.poses[0], f"names none of the pictures of {config.source}", remedy)
    if config.pose_weights and not any(row.pose is None for row in rows):
        problem = "--pose-weights would do nothing, as the poses are given"
        raise BadInput(config.source or config.data, problem, "leave it out")


def _write(
    folder: Path, config: PrepareConfig, listing: Listing, progress: Callable | None
) -> dict[str, int]:
    height, width = size = config.size or SIZES.get(config.data, (256, 256))
    rows = [row for row in listing.rows if row.file is not None]
    poses = np.zeros((len(rows), len(JOINTS), 3), np.float32)
    with (
        _array(folder / "images.npy", (len(rows), *size, 3)) as write,
        contextlib.closing(listing.pictures(rows, size)) as pictures,
    ):
        for done, (place, image, pose) in enumerate(pictures, 1):
            write(place, image)
            poses[place] = pose
            if progress:
                progress(done, len(rows))
    if config.parsing:
        _write_parsing(folder / PARSING, Source(config.parsing), rows, size)
    pairs, dropped = _pair_lists(listing, poses)
    lists = {f"pairs_{split}": pairs[split] for split in pairs}
    for name, array in {"poses": poses, **lists}.items():
        np.save(folder / f"{name}.npy", array)
    with open(folder / "people.csv", "w", newline="", errors="surrogateescape") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        table.writerows((i, r.file, r.identity, r.camera, r.split) for i, r in enumerate(rows))
    counts = {"images": len(rows)} | {name: len(array) for name, array in lists.items()}
    counts["images_without_pose"] = int((~poses[..., 2].any(1)).sum())
    counts["images_absent"] = len(listing.rows) - len(rows)
    counts |= {"pairs_dropped": dropped, "files_skipped": listing.skipped}
    about = {"format": FORMAT, "height": height, "width": width}
    about |= {"joints": JOINTS, "counts": counts, "source": listing.description}
    (folder / "dataset.json").write_text(json.dumps(about, indent=2) + "\n")
    return counts


@contextlib.contextmanager
def _array(path: Path, shape: tuple[int, ...]) -> Iterator[Callable[[int, np.ndarray], None]]:
    # Gives write(place, picture) for an array on disk. No memory map: on a full disk that crashes.
    with open(path, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()

        def write(place: int, picture: np.ndarray) -> None:
            file.seek(start + place * picture.nbytes)
            file.write(np.ascontiguousarray(picture))

        yield write


def _calls(name: str) -> list[str]:
    """What a file may be called: its path without suffix, and the ends of that, longest first."""
    parts = stem(name).split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _write_parsing(path: Path, source: Source, rows: list[Row], size: tuple[int, int]) -> None:
    """Write the parsing maps as one array.

    A map has its picture's name, with as many of the folders above it as tell it from others'.
    """
    places: dict[str, int | None] = {}
    for place, row in enumerate(rows):
        for call in _calls(row.file):
            places[call] = None if call in places else place  # None: several would be meant
    maps = {}
    for name in source.names:
        known = [places[call] for call in _calls(name) if places.get(call) is not None]
        if known:
            maps[name] = known[0]
    if not maps:
        remedy = "call each PNG like its picture"
        raise BadInput(source.path, "no parsing maps of these pictures", remedy)
    with _array(path, (len(rows), *size)) as write:
        for place in range(len(rows)):
            write(place, np.full(size, UNKNOWN_PART, np.uint8))
        for name, data in source.items(maps):
            labels = read_labels(data, f"{source.path}/{name}")
            write(maps[name], fit_image(labels, size, Image.Resampling.NEAREST))
    lacking = len(rows) - len(set(maps.values()))
    if lacking:
        log.warning("%s: %d of %d pictures have no parsing map", source.path, lacking, len(rows))


def load(name: str, root: str | Path = "data") -> Prepared:
    """Open the prepared folder ROOT/NAME. Raises ClickException where it is not there or whole."""
    path, command = _folder_of(name, root), _command(name, root)
    if not path.exists():
        raise BadInput(path, "not prepared yet", f"run {command}")
    try:
        return _open(path)
    except Exception as error:  # NumPy, csv and json raise whatever the bytes provoke
        reason = f"no {error}" if isinstance(error, KeyError) else error
        remedy = f"run {command} --overwrite"
        raise BadInput(path, f"unfinished or damaged ({reason})", remedy) from None


def _check(good: object, problem: str) -> None:
    if not good:
        raise ValueError(problem)


def _open(path: Path) -> Prepared:
    # Everything that the rest believes is checked here, and in the two below.
    there = (PARSING,) if (path / PARSING).exists() else ()
    for name in (*FILES, *there):
        _check((path / name).is_file(), f"no file {name}")
    about = json.loads((path / "dataset.json").read_text())
    _check(about["format"] == FORMAT, f"format {about['format']}, this posegan reads {FORMAT}")
    files, identity, camera, split = _open_people(path / "people.csv")
    arrays = _open_arrays(path, (*ARRAYS, *there), about, len(files))
    images, poses, *lists = (arrays[name] for name in ARRAYS)
    training = split == "train"
    _check(training[lists[0]].all(), "training pairs of people for testing")
    labels = np.full(len(files), -1)
    people, labels[training] = np.unique(identity[training], return_inverse=True)
    kept = (images.view(np.ndarray), *map(np.array, (poses, *lists)), files, identity, camera)
    parsing = arrays[PARSING].view(np.ndarray) if there else None
    kept = (path, path.name, *images.shape[1:3], *kept)
    prepared = Prepared(*kept, split, labels, len(people), about, parsing)
    _check(about.get("digest") in (None, fingerprint(prepared)), "changed since it was prepared")
    return prepared


def _open_people(path: Path) -> list[np.ndarray]:
    # Of people.csv the columns without the index.
    with open(path, newline="", errors="surrogateescape") as file:
        head, *rows = csv.reader(file)
    _check((*head,) == COLUMNS and {len(row) for row in rows} == {5}, "columns of people.csv")
    index, *columns = zip(*rows)
    _check(index == (*map(str, range(len(rows))),), "index of people.csv")
    _check({*columns[-1]} <= {"train", "test"}, "split in people.csv")
    _check(max(map(len, itertools.chain(*rows))) <= LONGEST, "a name too long in people.csv")
    return list(map(np.array, columns))


def _open_arrays(path: Path, names: tuple, about: dict, count: int) -> dict[str, np.memmap]:
    counts, size = about["counts"], (about["height"], about["width"])
    _check(min(size) > 0 and not (size[0] % 16 or size[1] % 16), "no multiples of 16 as size")
    _check(counts["images"] == count, "its files don't match")
    lengths = [(counts[name.removesuffix(".npy")], 2) for name in ARRAYS[2:]]
    shapes = [(count, *size, 3), (count, len(JOINTS), 3), *lengths, (count, *size)]
    kinds = (np.uint8, np.float32, np.int32, np.int32, np.uint8)
    arrays = {}
    for name, shape, kind in zip(names, shapes, kinds):
        array = arrays[name] = np.load(path / name, mmap_mode="r")
        _check(isinstance(array, np.memmap), f"{name} is no array")
        found = f"{array.dtype} {array.shape}"
        _check((array.dtype, array.shape) == (kind, shape), f"{name}, {found}, doesn't match")
        if kind == np.int32 and len(array):
            _check(0 <= array.min() <= array.max() < count, "pairs of pictures that are not there")
    poses = arrays["poses.npy"]
    _check(np.isfinite(poses).all(), "poses that are not finite")
    _check((abs(poses) <= [2 * max(size)] * 2 + [1]).all(), "poses far outside their pictures")
    return arrays


class _Joined:
    """Several arrays of pictures as one, without copying them."""

    def __init__(self, arrays: list[np.ndarray]):
        self.arrays = arrays
        self.starts = np.cumsum([0, *map(len, arrays)])
        self.shape = (self.starts[-1], *arrays[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: "int | np.ndarray") -> np.ndarray:
        if np.ndim(at):
            return np.stack([self[one] for one in at])
        part = np.searchsorted(self.starts, at, side="right") - 1
        return self.arrays[part][at - self.starts[part]]


def load_mixture(names: str, root: str | Path = "data") -> Prepared:
    """Open the sets NAME,NAME,... or NAME:SHARE,... below ROOT as one; the first one is tested.

    Training takes from each by its share, or without shares by its number of training pictures.
    Raises ClickException for what is no such list, and for sets of different sizes.
    """
    parts = [part.partition(":") for part in names.split(",")]
    sets = [load(name, root) for name, _, _ in parts]
    if len(sets) == 1 and not parts[0][2]:
        return sets[0]
    try:
        shares = [float(share) for _, colon, share in parts if colon]
    except ValueError:
        shares = [0.0]
    if len(shares) not in (0, len(sets)) or not all(0 < share < np.inf for share in shares):
        remedy = "give each data set a share above 0, such as market1501:4,mine:1, or none"
        raise BadInput(f"--data {names}", "not every data set has a share", remedy)
    shares = shares or [len(np.unique(one.pairs_train)) for one in sets]
    return _mixed(names, sets, shares)


def _mixed(names: str, sets: list[Prepared], shares: list[float]) -> Prepared:
    first = sets[0]
    for other in sets[1:]:
        if (other.height, other.width) != (first.height, first.width):
            problem = f"is {other.height}x{other.width}, {first.name} {first.height}x{first.width}"
            remedy = f"prepare it with --size {first.height}x{first.width} --overwrite"
            raise BadInput(other.path, problem, remedy)
    starts = np.cumsum([0, *(len(one.images) for one in sets)])
    people = np.cumsum([0, *(one.identities for one in sets)])
    labels = [np.where(one.labels < 0, -1, one.labels + n) for one, n in zip(sets, people)]
    together = {
        name: np.concatenate([getattr(one, name) for one in sets])
        for name in ("poses", "files", "identity", "camera", "split")
    }
    pairs = np.concatenate([one.pairs_train + n for one, n in zip(sets, starts)])
    return replace(
        first,
        name=names,
        images=_Joined([one.images for one in sets]),
        pairs_train=pairs.astype(np.int32),
        labels=np.concatenate(labels),
        identities=int(people[-1]),
        parsing=None,
        starts=tuple(map(int, starts[:-1])),
        shares=tuple(share / sum(shares) for share in shares),
        **together,
    )


def _command(name: str, root: str | Path) -> str:
    kind = name if name in ARGUMENTS else "folder"
    command = f"posegan prepare --data {kind} {ARGUMENTS[kind]}".strip()
    command += "" if kind == name else f" --name {shlex.quote(name)}"
    return command if str(root) == "data" else f"{command} --root {shlex.quote(str(root))}"


def hold_out(
    prepared: Prepared, fraction: float, seed: int, limit: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split the training pairs by person, to validate without the test pairs.

    Gives the pairs (P, 2) to train on, and those of about `fraction` of the (first set's) people,
    or `limit` of these; of few people nobody is held out.
    """
    end = prepared.starts[1] if len(prepared.starts) > 1 else None
    people = prepared.labels[:end].max(initial=-1) + 1
    held = np.random.default_rng(seed).permutation(people)[: round(people * fraction)]
    mask = np.isin(prepared.labels[prepared.pairs_train[:, 0]], held)
    return prepared.pairs_train[~mask], choose_pairs(prepared.pairs_train[mask], limit)


def fingerprint(prepared: Prepared) -> int:
    """A checksum of what a run was trained on: poses, pairs, people, and one in many pictures."""
    parts = [prepared.poses, prepared.pairs_train, prepared.pairs_test, prepared.labels]
    parts += [prepared.files, prepared.identity, prepared.camera, prepared.split]
    step = max(1, len(prepared.images) // FINGERPRINTED)
    for array in filter(lambda one: one is not None, (prepared.images, prepared.parsing)):
        parts += [array[i] for i in range(0, len(array), step)]
    found = 0
    for part in parts:
        found = zlib.crc32(part.tobytes(), found)
    return found


ADAPTERS = {**dict.fromkeys(OFFICIAL, _official), "mvc": _folder, "folder": _folder, "demo": _demo}
NOTICES = {
    "images_absent": "lacks {:,} pictures that the key points name",
    "pairs_dropped": "{:,} pairs with a picture that is lacking are left out",
    "images_without_pose": "{:,} pictures show no known joint and are in no pair",
    "files_skipped": "other files, skipped: {:,}",
}

# ------------------------------------------------------------------------------ batches


class Batches:
    """Batches of pairs (P, 2) without end: what a step takes follows from (seed, step) alone.

    An epoch is a permutation of the pairs; of several sets, each one's share of it. Where they fit
    on a CUDA device, the pictures of the pairs lie there; otherwise a thread fetches a batch ahead.
    Raises ClickException where there are no pairs.
    """

    def __init__(
        self, prepared: Prepared, pairs: np.ndarray, batch_size: int, seed: int, device: "device"
    ):
        if not len(pairs):
            remedy = "prepare people with two poses each"
            raise BadInput(prepared.path, "no training pairs", remedy)
        self.prepared, self.pairs, self.batch_size = prepared, pairs, batch_size
        self.seed, self.device = seed, device
        self._epoch, self._order = -1, None
        self._resident = self._upload() if device.type == "cuda" else None
        self.described: Tensor | None = None  # (N, D): what a descriptor says of each picture

    def _upload(self) -> "tuple[Tensor, np.ndarray] | None":
        """The pictures of the pairs on the device, and each picture's place among them."""
        import torch

        used = np.unique(self.pairs)
        size = len(used) * self.prepared.images[0].nbytes
        if size > RESIDENT_SHARE * torch.cuda.mem_get_info(self.device)[0]:
            log.info("%s: %.1f GB of pictures, read as needed", self.prepared.path, size / 1e9)
            return None
        places = np.zeros(len(self.prepared.images), np.int64)
        places[used] = np.arange(len(used))
        log.info("%s: %.1f GB of pictures on %s", self.prepared.path, size / 1e9, self.device)
        return torch.from_numpy(self.prepared.images[used]).to(self.device), places

    def chosen(self, step: int) -> np.ndarray:
        """The pairs (batch_size, 2) of a step."""
        numbers = step * self.batch_size + np.arange(self.batch_size)
        chosen = np.empty((self.batch_size, 2), self.pairs.dtype)
        epochs, places = np.divmod(numbers, len(self.pairs))
        for epoch in np.unique(epochs):
            if epoch != self._epoch:
                self._epoch, self._order = epoch, self._permuted(epoch)
            here = epochs == epoch
            chosen[here] = self.pairs[self._order[places[here]]]
        return chosen

    def _permuted(self, epoch: int) -> np.ndarray:
        rng, count = np.random.default_rng([self.seed, epoch]), len(self.pairs)
        if len(self.prepared.shares) == 1:
            return rng.permutation(count)
        part = np.searchsorted(self.prepared.starts, self.pairs[:, 0], side="right") - 1
        order = [
            np.resize(rng.permutation(np.flatnonzero(part == number)), round(share * count))
            for number, share in enumerate(self.prepared.shares)
        ]
        return np.resize(rng.permutation(np.concatenate(order)), count)

    def fetch(self, step: int, rank: int = 0, world: int = 1) -> "dict[str, Tensor]":
        """A process's part of a step's batch, on the device, its pictures normalised.

        What `gather` gives, and what `augment.draw` does for its samples, which are numbered in the
        whole batch: drawn here, it costs the device nothing.
        """
        import torch

        from posegan import augment

        part = self.batch_size // world
        samples = torch.arange(rank * part, (rank + 1) * part)
        pairs = self.chosen(step)[samples.numpy()]
        batch = gather(self.prepared, pairs, self._resident is None)
        batch |= augment.draw(self.seed, step, samples, self.prepared.images.shape[1:3])
        if self.described is not None:
            batch["described"] = self.described[torch.from_numpy(pairs[:, 0]).long()]
        if self.device.type == "cuda":
            batch = {name: value.pin_memory() for name, value in batch.items()}
        batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        if self._resident:
            images, places = self._resident
            at = torch.from_numpy(places[pairs.T.ravel()]).pin_memory()
            found = images[at.to(self.device, non_blocking=True)].permute(0, 3, 1, 2)
            batch["source"], batch["target"] = found.chunk(2)  # (B, 3, H, W)
        return batch | {side: normalise(batch[side]) for side in ("source", "target")}

    def stream(
        self, first: int, end: int, rank: int = 0, world: int = 1
    ) -> "Iterator[dict[str, Tensor]]":
        """`fetch` of the steps from `first` to before `end`, one batch ahead."""
        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(self.fetch, first, rank, world)
            for step in range(first, end):
                batch = coming.result()
                if step + 1 < end:
                    coming = thread.submit(self.fetch, step + 1, rank, world)
                yield batch


def gather(prepared: Prepared, pairs: np.ndarray, pictures: bool = True) -> "dict[str, Tensor]":
    """The tensors of pairs (B, 2): `source`, `target` uint8 (B, 3, H, W), channels last (not
    without `pictures`); `source_pose`, `target_pose` (B, 25, 3); `identity`, class numbers int64
    (B,); where there are parsing maps `target_parsing` uint8 (B, H, W).
    """
    import torch

    places = pairs.T.ravel()  # (2 * B,): sources, then targets
    source_pose, target_pose = torch.from_numpy(prepared.poses[places]).chunk(2)  # (B, 25, 3)
    identity = torch.from_numpy(prepared.labels[pairs[:, 1]])  # (B,)
    poses = {"source_pose": source_pose, "target_pose": target_pose}
    batch = {**poses, "identity": identity}
    if pictures:
        images = np.empty((len(places), prepared.height, prepared.width, 3), np.uint8)
        for i in np.argsort(places):  # in the file's order, which a cold disk wants
            images[i] = prepared.images[places[i]]
        batch["source"], batch["target"] = torch.from_numpy(images).permute(0, 3, 1, 2).chunk(2)
    if prepared.parsing is not None:
        batch["target_parsing"] = torch.from_numpy(prepared.parsing[pairs[:, 1]])  # (B, H, W)
    return batch


def mean_image(prepared: Prepared) -> "Tensor":
    """The mean of the training images, rounded: uint8 (3, H, W); of at most MEAN_IMAGES of them.

    Where none is for training, it is made of all images, and a notice says so.
    """
    places = np.flatnonzero(prepared.labels >= 0)
    if not len(places):
        log.warning("%s: no training images; the mean image is that of all images", prepared.path)
        places = np.arange(len(prepared.images))
    count = min(len(places), MEAN_IMAGES)
    places = places[np.linspace(0, len(places) - 1, count).round().astype(int)]
    return _mean([prepared.images[place] for place in places])


def _mean(pictures: "Collection[Path | np.ndarray]") -> "Tensor":
    total = sum(part.long().sum(0) for part in in_batches(pictures))
    return (total.double() / len(pictures)).round().byte()  # (3, H, W)


def normalise(images: "Tensor") -> "Tensor":
    """Pictures uint8 as float32 in [-1, 1], in the same memory format."""
    return images.float().div(127.5).sub_(1)


# ------------------------------------------------------------------------------ folders to score


def matching_names(folders: list[Path]) -> dict[str, dict[Path, str]]:
    """Match the images of folders by name without suffix: to the file's name in each, sorted.

    Raises ClickException where a folder has no images, or one that has no match in another.
    """
    files = {folder: _images_by_stem(folder) for folder in folders}
    shared = set.intersection(*map(set, files.values()))
    lonely = sorted(set().union(*files.values()) - shared)
    if lonely:
        folder = next(folder for folder in folders if lonely[0] not in files[folder])
        problem = f"has no image called {lonely[0]} ({len(shared):,} names match)"
        raise BadInput(folder, problem, "give an image the same name in all folders")
    return {stem: {folder: files[folder][stem] for folder in folders} for stem in sorted(shared)}


def folder_batches(
    folders: dict[str, Path], names: dict[str, dict[Path, str]], poses: Collection[str | Path]
) -> "tuple[Iterator[dict], tuple[int, int]]":
    """Images of folders, batches as checkpoints.scored_batches gives them, and their size.

    `folders` has "generated", "target" and maybe "source"; `names` is what matching_names gives.
    Without `poses`, `target_pose` is None; a target that is not among them has one of zeros. Raises
    ClickException, before any batch, where sizes differ or there is no pose of any target.
    """
    paths = {part: {n: at / names[n][at] for n in names} for part, at in folders.items()}
    size = image_size(next(iter(paths["target"].values())))
    for part in paths.values():
        check_sizes(part.values(), size)
    moved = _poses_of_targets(poses, list(names), size) if poses else {}
    return _folder_batches(paths, moved), size


def check_sizes(paths: Iterable[Path], size: tuple[int, int]) -> None:
    """Raise ClickException where a picture's (height, width) is another."""
    for path in paths:
        if (found := image_size(path)) != size:
            sizes = "{}x{}, the first target {}x{} (height x width)".format(*found, *size)
            raise BadInput(path, f"is {sizes}", "make all images the same size")


def _poses_of_targets(
    files: Collection[str | Path], names: list[str], size: tuple[int, int]
) -> dict[str, np.ndarray]:
    known: dict[str, Pose] = {}
    for given in map(Path, files):
        tables = sorted(given.glob("*.csv")) if given.is_dir() else []
        for file in tables or [given]:
            known |= read_poses(file)
    found = {name: pose_by_name(known, name) for name in names}
    lacking = [name for name in names if found[name] is None]
    if len(lacking) == len(names):
        remedy = "name each pose after its image"
        raise BadInput(", ".join(map(str, files)), "no pose of any target image", remedy)
    if lacking:
        word = "%d of %d target images have no pose, such as %s; pose scores leave them out"
        log.warning(word, len(lacking), len(names), lacking[0])
    return {name: (found[name] or MISSING).fitted(size) for name in names}


def _folder_batches(
    paths: dict[str, dict[str, Path]], moved: dict[str, np.ndarray]
) -> "Iterator[dict]":
    import torch

    calls = list(paths["target"])
    mean = _mean(paths["target"].values())
    batches = zip(*(in_batches(part.values()) for part in paths.values()))
    for start, images in zip(range(0, len(calls), CHUNK), batches):
        batch, chunk = dict(zip(paths, images)), calls[start : start + CHUNK]
        batch["baselines"] = {"source": batch.pop("source")} if "source" in batch else {}
        batch["baselines"]["mean"] = mean.expand_as(batch["target"])
        poses = [moved[name] for name in chunk] if moved else None
        batch["target_pose"] = torch.from_numpy(np.stack(poses)) if moved else None
        sides = [paths.get(side, {}) for side in ("source", "target")]
        batch["names"] = np.array([[s[n].name if s else "" for s in sides] for n in chunk])
        yield batch


def in_batches(pictures: "Collection[Path | np.ndarray]") -> "Iterator[Tensor]":
    """Pictures of one size, (H, W, 3) or in files, as uint8 (B, 3, H, W), CHUNK at once."""
    import torch

    every = iter(pictures)
    while chunk := list(itertools.islice(every, CHUNK)):
        images = [read_image(one, str(one)) if isinstance(one, Path) else one for one in chunk]
        yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def _images_by_stem(folder: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for name in sorted(path.name for path in folder.iterdir()):
        if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
            first = names.setdefault(stem(name), name)
            if first != name:
                raise BadInput(folder, f"{first} and {name} have the same name", "remove one")
    if not names:
        raise BadInput(folder, "no images in it", f"put {', '.join(IMAGE_SUFFIXES)} files there")
    return names


def pose_by_name(known: dict[str, Pose], name: str) -> Pose | None:
    """The pose of the image called `name` without suffix, by the whole name or by what follows its
    last `__` (SOURCE__TARGET, PATN's SOURCE___TARGET_vis); None where it is not known.
    """
    for call in (name, stem(re.split("__+", name.removesuffix("_vis"))[-1])):
        for ending in ("", *IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES)):
            if call + ending in known:
                return known[call + ending]
    return None
