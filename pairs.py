"""Pairs of pictures: prepared folders, alone or mixed; batches; folders to score."""

import csv
import itertools
import json
import logging
import re
import shlex
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from posegan import poses
from posegan.files import BadInput

if TYPE_CHECKING:
    from torch import Tensor, device

log = logging.getLogger("posegan")

FORMAT = 1  # of the prepared folder
FINGERPRINTED = 500  # pictures, roughly: 12 MB of Market-1501's
CHUNK = 32  # pictures in memory at once, or pairs scored at once
MEAN_IMAGES = 4_000  # pictures averaged for the mean image, at most: more don't change it
ARRAYS = ("images.npy", "poses.npy", "pairs_train.npy", "pairs_test.npy")
PARSING = "parsing.npy"  # only if there are parsing maps
FILES = (*ARRAYS, "people.csv", "dataset.json")
COLUMNS = ("index", "file", "identity", "camera", "split")
TEXT = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}  # how tables are opened
# The data sets, and the arguments that prepare each, after `posegan prepare --data NAME`.
ARGUMENTS = {
    "demo": "",
    "market1501": "--source Market-1501-v15.09.15.zip --poses CSV_FOLDER",
    "deepfashion": "--source img.zip --poses CSV_FOLDER",
    "mvc": "--source FOLDER",
    "folder": "--source FOLDER",
}


# ------------------------------------------------------------------------------ prepared folder


@dataclass(frozen=True)
class Prepared:
    """A prepared folder: N pictures of equal size, their poses, people and pairs."""

    path: Path
    name: str
    height: int
    width: int
    images: Sequence[np.ndarray]  # N times uint8 (H, W, 3), from a read-only memory map
    poses: np.ndarray  # float32 (N, 25, 3): x, y in pixels, confidence; 0 = missing
    pairs_train: np.ndarray  # int32 (P, 2): source, target
    pairs_test: np.ndarray
    files: np.ndarray  # (N,) str, like identity, camera and split
    identity: np.ndarray
    camera: np.ndarray
    split: np.ndarray
    labels: np.ndarray  # int64 (N,): class numbers of the training people, -1 for all others
    identities: int  # the number of those classes
    description: dict  # the content of dataset.json
    parsing: np.ndarray | None = None  # uint8 (N, H, W): part labels, or UNKNOWN_PART
    starts: tuple[int, ...] = (0,)  # if several sets are mixed, the first picture of each
    shares: tuple[float, ...] = (1.0,)  # and its share in training


def folder_of(name: str, root: str | Path) -> Path:
    # A data set's folder; the name comes from the user and must not be a path.
    if not name.strip() or name.startswith(".") or any(mark in name for mark in "/\\,:\0"):
        given, remedy = f"--data or --name {name!r}", "use letters, digits and dashes"
        raise BadInput(given, "not a folder name", remedy)
    return Path(root) / name


def load(name: str, root: str | Path = "data") -> Prepared:
    """Open the prepared folder ROOT/NAME. Raises ClickException if it is missing or damaged."""
    path, command = folder_of(name, root), how_to_prepare(name, root)
    if not path.exists():
        raise BadInput(path, "not prepared yet", f"run {command}")
    try:
        prepared = open_folder(path)
        same = prepared.description["digest"] == fingerprint(prepared)
        _check(same, "changed since it was prepared")
        return prepared
    except OSError as error:
        problem = f"can't be read ({error.strerror or error})"
        raise BadInput(error.filename or path, problem, "check its permissions") from None
    except MemoryError:
        raise
    except Exception as error:  # NumPy, csv and json raise whatever the bytes provoke
        reason = f"no {error}" if isinstance(error, KeyError) else error
        remedy = f"run {command} --overwrite"
        raise BadInput(path, f"unfinished or damaged ({reason})", remedy) from None


def _check(good: object, problem: str) -> None:
    if not good:
        raise ValueError(problem)


def open_folder(path: Path) -> Prepared:
    # Checks that the files belong together; `load` checks by the digest that they are unchanged.
    names = (*ARRAYS, PARSING) if (path / PARSING).exists() else ARRAYS
    for name in (*FILES, *names):
        _check((path / name).is_file(), f"no file {name}")
    about = json.loads((path / "dataset.json").read_text())
    _check(about["format"] == FORMAT, f"format {about['format']}, this posegan reads {FORMAT}")
    counts, height, width = about["counts"], about["height"], about["width"]
    shapes = {
        "images.npy": (np.uint8, (counts["images"], height, width, 3)),
        "poses.npy": (np.float32, (counts["images"], len(poses.JOINTS), 3)),
        "pairs_train.npy": (np.int32, (counts["pairs_train"], 2)),
        "pairs_test.npy": (np.int32, (counts["pairs_test"], 2)),
        PARSING: (np.uint8, (counts["images"], height, width)),
    }
    arrays = {}
    for name in names:
        array, (kind, shape) = np.lib.format.open_memmap(path / name, "r"), shapes[name]
        same = (array.dtype, array.shape) == (kind, shape)
        _check(same, f"{name}, {array.dtype} {array.shape}, doesn't match")
        arrays[name] = array.view(np.ndarray)
    images, joints, *lists = (arrays[name] for name in ARRAYS)
    files, identity, camera, split = _open_people(path / "people.csv", len(images))
    labels, training = np.full(len(files), -1), split == "train"
    people, labels[training] = np.unique(identity[training], return_inverse=True)
    return Prepared(
        *(path, path.name, height, width, images, *map(np.array, (joints, *lists))),
        *(files, identity, camera, split, labels, len(people), about, arrays.get(PARSING)),
    )


def _open_people(path: Path, count: int) -> list[np.ndarray]:
    # The columns of people.csv, without the index.
    with open(path, **TEXT) as file:
        head, *rows = csv.reader(file)
    _check((*head,) == COLUMNS and {len(row) for row in rows} == {5}, "wrong columns in people.csv")
    index, *columns = zip(*rows)
    _check(index == (*map(str, range(count)),), "wrong index in people.csv")
    return list(map(np.array, columns))


def load_mixture(names: str, root: str | Path = "data") -> Prepared:
    """Open the sets NAME,NAME,... or NAME:SHARE,... in ROOT as one; testing uses the first.

    Without shares, training draws from each in proportion to its training pictures. Raises
    ClickException for any other list, and for sets of different image sizes.
    """
    parts = [part.partition(":") for part in names.split(",")]
    sets = [load(name, root) for name, _, _ in parts]
    if len({one.path for one in sets}) < len(sets):
        raise BadInput(f"--data {names}", "names a data set twice", "name each once")
    if len(sets) == 1 and not parts[0][2]:
        return sets[0]
    try:
        shares = [float(share) for _, colon, share in parts if colon]
    except ValueError:
        shares = [0.0]
    if lacking := [one for one in sets if not len(one.pairs_train)]:
        raise BadInput(lacking[0].path, "no training pairs", "leave it out, or add pictures to it")
    some = not shares or 0 < sum(shares) / 1e6 < min(shares) <= sum(shares) < np.inf
    if len(shares) not in (0, len(sets)) or not some:
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
        images=list(itertools.chain.from_iterable(one.images for one in sets)),
        pairs_train=pairs.astype(np.int32),
        labels=np.concatenate(labels),
        identities=int(people[-1]),
        parsing=None,
        starts=tuple(map(int, starts[:-1])),
        shares=tuple(share / sum(shares) for share in shares),
        **together,
    )


def how_to_prepare(name: str, root: str | Path) -> str:
    kind = name if name in ARGUMENTS else "folder"
    command = f"posegan prepare --data {kind} {ARGUMENTS[kind]}".strip()
    command += "" if kind == name else f" --name {shlex.quote(name)}"
    return command if str(root) == "data" else f"{command} --root {shlex.quote(str(root))}"


def choose_pairs(pairs: np.ndarray, limit: int | None) -> np.ndarray:
    """The published choice of at most `limit` test pairs (P, 2), in its order; None keeps all."""
    if not len(pairs) or limit is None:
        return pairs
    return pairs[np.random.RandomState(0).choice(len(pairs), min(limit, len(pairs)), replace=False)]


def hold_out(
    prepared: Prepared, fraction: float, seed: int, limit: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs (P, 2) to train on, and at most `limit` pairs to validate on, of about `fraction`
    of the (first set's) people; if there are few people, nobody is held out.
    """
    end = prepared.starts[1] if len(prepared.starts) > 1 else None
    people = prepared.labels[:end].max(initial=-1) + 1
    held = np.random.default_rng(seed).permutation(people)[: round(people * fraction)]
    mask = np.isin(prepared.labels[prepared.pairs_train[:, 0]], held)
    return prepared.pairs_train[~mask], choose_pairs(prepared.pairs_train[mask], limit)


def fingerprint(prepared: Prepared) -> int:
    """A checksum of a run's data: poses, pairs, people, and a sample of the pictures."""
    parts = [prepared.poses, prepared.pairs_train, prepared.pairs_test, prepared.labels]
    parts += [prepared.files, prepared.identity, prepared.camera, prepared.split]
    step = max(1, len(prepared.images) // FINGERPRINTED)
    for array in (prepared.images, prepared.parsing):
        parts += [] if array is None else [array[i] for i in range(0, len(array), step)]
    return zlib.crc32(b"".join(part.tobytes() for part in parts))


# ------------------------------------------------------------------------------ batches


class Batches:
    """Endless batches of pairs (P, 2): what a step gets depends on (seed, step) alone.

    An epoch is a permutation of the pairs, in which each of several sets has its share. Raises
    ClickException if there are no pairs.
    """

    def __init__(
        self, prepared: Prepared, pairs: np.ndarray, batch_size: int, seed: int, device: "device"
    ):
        if not len(pairs):
            raise BadInput(
                prepared.path, "no training pairs", "prepare people with two pictures each"
            )
        self.prepared, self.pairs, self.batch_size = prepared, pairs, batch_size
        self.seed, self.device = seed, device
        self._order = lru_cache(1)(self._permuted)  # an epoch lasts many steps
        self.described: Tensor | None = None  # (N, D): what a descriptor says of each picture

    def chosen(self, step: int) -> np.ndarray:
        """The pairs (batch_size, 2) of a step."""
        numbers = step * self.batch_size + np.arange(self.batch_size)
        epochs, places = np.divmod(numbers, len(self.pairs))
        order = [self._order(epoch)[places[epochs == epoch]] for epoch in np.unique(epochs)]
        return self.pairs[np.concatenate(order)]

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
        """A process's part of a step's batch, on the device, with normalised pictures: the results
        of `gather`, and of `augment.draw` for its samples, numbered within the whole batch.
        """
        import torch

        from posegan import augment

        part = self.batch_size // world
        samples = torch.arange(rank * part, (rank + 1) * part)
        pairs = self.chosen(step)[samples.numpy()]
        batch = gather(self.prepared, pairs)
        size = self.prepared.height, self.prepared.width
        batch |= augment.draw(self.seed, step, samples, size)
        if self.described is not None:
            batch["described"] = self.described[torch.from_numpy(pairs[:, 0]).long()]
        if self.device.type == "cuda":
            batch = {name: value.pin_memory() for name, value in batch.items()}
        batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        return batch | {side: normalise(batch[side]) for side in ("source", "target")}

    def stream(self, first: int, end: int, rank: int = 0, world: int = 1) -> "Iterator[dict]":
        """`fetch` for the steps from `first` to `end`, excluded, prefetching one batch."""
        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(self.fetch, first, rank, world)
            for step in range(first, end):
                batch = coming.result()
                if step + 1 < end:
                    coming = thread.submit(self.fetch, step + 1, rank, world)
                yield batch


def gather(prepared: Prepared, pairs: np.ndarray) -> "dict[str, Tensor]":
    """The tensors of pairs (B, 2): `source`, `target` uint8 (B, 3, H, W), channels last;
    `source_pose`, `target_pose` (B, 25, 3); `identity` int64 (B,); and, if available,
    `target_parsing` uint8 (B, H, W).
    """
    import torch

    places = pairs.T.ravel()  # (2 * B,): sources, then targets
    batch = {"identity": torch.from_numpy(prepared.labels[pairs[:, 1]])}
    batch["source_pose"], batch["target_pose"] = torch.from_numpy(prepared.poses[places]).chunk(2)
    images = np.stack([prepared.images[place] for place in places])
    batch["source"], batch["target"] = torch.from_numpy(images).permute(0, 3, 1, 2).chunk(2)
    if prepared.parsing is not None:
        batch["target_parsing"] = torch.from_numpy(prepared.parsing[pairs[:, 1]])  # (B, H, W)
    return batch


def mean_image(prepared: Prepared) -> "Tensor":
    """The mean, uint8 (3, H, W), of at most MEAN_IMAGES training images, or without any, of all."""
    places = np.flatnonzero(prepared.labels >= 0)
    if not len(places):
        log.warning("%s: no training images; the mean is over all images", prepared.path)
        places = np.arange(len(prepared.images))
    count = min(len(places), MEAN_IMAGES)
    places = places[np.linspace(0, len(places) - 1, count).round().astype(int)]
    return _mean([prepared.images[place] for place in places])


def _mean(pictures: "Collection[Path | np.ndarray]") -> "Tensor":
    total = sum(part.long().sum(0) for part in in_batches(pictures))
    return (total.double() / len(pictures)).round().byte()  # (3, H, W)


def normalise(images: "Tensor") -> "Tensor":
    """uint8 pictures as float32 in [-1, 1], in the same memory format."""
    return images.float().div(127.5).sub_(1)


# ------------------------------------------------------------------------------ folders to score


def matching_names(folders: list[Path]) -> dict[str, list[Path]]:
    """Sorted image names without suffix, each with its file in every folder.

    Raises ClickException if a folder has no images, or has one that another lacks.
    """
    files = [_images_by_stem(folder) for folder in folders]
    shared = set.intersection(*map(set, files))
    if lonely := sorted(set().union(*files) - shared):
        folder = next(folder for folder, known in zip(folders, files) if lonely[0] not in known)
        problem = f"has no image called {lonely[0]} ({len(shared):,} names match)"
        raise BadInput(folder, problem, "name images alike in all folders")
    return {name: [known[name] for known in files] for name in sorted(shared)}


def folder_batches(
    parts: Collection[str], names: dict[str, list[Path]], given: Collection[str | Path]
) -> "tuple[Iterator[dict], tuple[int, int]]":
    """Batches of the images in folders, as checkpoints.scored_batches yields them, and their size.

    `parts`, "generated", "target" and optionally "source", name the folders in matching_names'
    order. `target_pose` is None without `given` poses, and zeros for targets without one. Raises
    ClickException, before the first batch, if sizes differ or no target has a pose.
    """
    paths = dict(zip(parts, zip(*names.values())))
    size = poses.image_size(paths["target"][0])
    for part in paths.values():
        check_sizes(part, size)
    files = [path.name for path in paths["target"]]
    moved = _poses_of_targets(given, files, size) if given else None
    return _folder_batches(paths, moved), size


def _folder_batches(paths: dict[str, list[Path]], moved: np.ndarray | None) -> "Iterator[dict]":
    import torch

    targets = [path.name for path in paths["target"]]
    sources = [path.name for path in paths.get("source", ())] or [""] * len(targets)
    names, mean = np.column_stack([sources, targets]), _mean(paths["target"])  # (N, 2)
    batches = zip(*map(in_batches, paths.values()))
    for start, images in zip(range(0, len(names), CHUNK), batches):
        part, batch = slice(start, start + CHUNK), dict(zip(paths, images))
        batch["baselines"] = {"source": batch.pop("source")} if "source" in batch else {}
        batch["baselines"]["mean"] = mean.expand_as(batch["target"])
        batch["target_pose"] = None if moved is None else torch.from_numpy(moved[part])
        yield batch | {"names": names[part]}


def check_sizes(paths: Iterable[Path], size: tuple[int, int]) -> None:
    """Raise ClickException if a picture has another (height, width)."""
    for path in paths:
        if (found := poses.image_size(path)) != size:
            problem = "is {}x{}, the first target {}x{} (height x width)".format(*found, *size)
            raise BadInput(path, problem, "make all images the same size")


def _poses_of_targets(
    given: Collection[str | Path], names: list[str], size: tuple[int, int]
) -> np.ndarray:
    # (N, 25, 3), zeros for targets without a pose.
    known: dict[str, poses.Pose] = {}
    for path in given:
        poses.merge(known, poses.read_poses(path), path)
    ends = {name: name.rpartition("/")[2] for name in known}  # some formats name the folder too
    often = Counter(ends.values())
    known |= {end: known[name] for name, end in ends.items() if often[end] == 1}
    found = [pose_by_name(known, name) for name in names]
    lacking = [name for name, pose in zip(names, found) if pose is None]
    if len(lacking) == len(names):
        remedy = "name each pose after its image"
        raise BadInput(", ".join(map(str, given)), "has no pose for any target image", remedy)
    if lacking:
        word = "%d of %d target images have no pose, such as %s; pose scores ignore them"
        log.warning(word, len(lacking), len(names), lacking[0])
    return np.stack([(pose or poses.MISSING).fitted(size) for pose in found])


def in_batches(pictures: "Collection[Path | np.ndarray]") -> "Iterator[Tensor]":
    """Pictures of equal size, arrays (H, W, 3) or files, as uint8 (B, 3, H, W), CHUNK at a time."""
    import torch

    every = iter(pictures)
    while chunk := list(itertools.islice(every, CHUNK)):
        read = [poses.read_image(one, str(one)) if isinstance(one, Path) else one for one in chunk]
        yield torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2)


def _images_by_stem(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in poses.visible(folder, poses.IMAGE_SUFFIXES):
        first = files.setdefault(poses.stem(path.name), path)
        if first != path:
            problem = f"{first.name} and {path.name} have the same name"
            raise BadInput(folder, problem, "remove one")
    if not files:
        remedy = f"put {', '.join(poses.IMAGE_SUFFIXES)} files there"
        raise BadInput(folder, "no images in it", remedy)
    return files


def pose_by_name(known: dict[str, poses.Pose], name: str) -> poses.Pose | None:
    """The pose of the image file `name`, by the whole name, with any suffix, or the part after its
    last `__` (SOURCE__TARGET, PATN's SOURCE___TARGET_vis); None if there is none.
    """
    name, whole = poses.composed(name), poses.stem(name)
    for call in (name, whole, poses.stem(re.split("__+", whole.removesuffix("_vis"))[-1])):
        for ending in ("", *poses.IMAGE_SUFFIXES, *map(str.upper, poses.IMAGE_SUFFIXES)):
            if call + ending in known:
                return known[call + ending]
    return None
