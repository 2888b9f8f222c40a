"""People in pairs: joints, pose formats, data sets, pair lists, the prepared folder, batches."""

import contextlib
import csv
import itertools
import json
import logging
import lzma
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import tarfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from click import ClickException
from PIL import Image, ImageOps, UnidentifiedImageError

import demo

if TYPE_CHECKING:
    from torch import Tensor, device, nn

log = logging.getLogger("posegan")

FORMAT = 1  # of the prepared folder
TEST_PAIRS = 12_000  # at most: the published choice
DEMO_TEST_PAIRS = 1_000
TEST_SHARE = 0.1  # of the people, where no split is published
FEWEST_JOINTS = 4  # that make a pose worth a pair, where no rule is published
CHUNK = 32  # pictures in memory between reading and writing
ARRAYS = ("images.npy", "poses.npy", "pairs_train.npy", "pairs_test.npy")
FILES = (*ARRAYS, "people.csv", "dataset.json")
COLUMNS = ("index", "file", "identity", "camera", "split")
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
CSV_HEADER = "name:keypoints_y:keypoints_x"
# The data sets, and what prepares each behind `posegan prepare --data NAME`.
ARGUMENTS = {
    "demo": "",
    "market1501": "--source Market-1501-v15.09.15.zip --poses CSV_FOLDER",
    "deepfashion": "--source img.zip --poses CSV_FOLDER",
    "mvc": "--source FOLDER",
    "folder": "--source FOLDER",
}
SIZES = {"demo": (128, 64), "market1501": (128, 64)}  # height, width; the others 256x256
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


class BadInput(ClickException):
    """What a user can mend, as one line: file (and line), problem, remedy."""

    def __init__(self, file: object, problem: str, remedy: str):
        super().__init__(f"{file}: {problem}; {remedy}")


# ------------------------------------------------------------------------------ joints

JOINTS = (  # OpenPose's BODY_25, in its order
    *("nose", "neck", "right_shoulder", "right_elbow", "right_wrist"),
    *("left_shoulder", "left_elbow", "left_wrist", "mid_hip", "right_hip", "right_knee"),
    *("right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye"),
    *("right_ear", "left_ear", "left_big_toe", "left_small_toe", "left_heel"),
    *("right_big_toe", "right_small_toe", "right_heel"),
)
LIMBS = (  # bones as pairs of joints: spine and head, arms, legs, feet
    *((1, 8), (1, 0), (0, 15), (15, 17), (0, 16), (16, 18)),
    *((1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7)),
    *((8, 9), (9, 10), (10, 11), (8, 12), (12, 13), (13, 14)),
    *((11, 22), (22, 23), (11, 24), (14, 19), (19, 20), (14, 21)),
)
NECK, SHOULDERS, MID_HIP, HIPS = 1, (2, 5), 8, (9, 12)
_MIRRORED = {"left": "right", "right": "left"}
FLIP = tuple(  # pose[:, FLIP] swaps left and right joints, as a mirrored picture needs
    JOINTS.index("_".join(_MIRRORED.get(word, word) for word in name.split("_"))) for name in JOINTS
)
# Where the joints of other formats are in BODY_25. COCO-17: nose, then left and right of each.
COCO18 = (*range(8), *range(9, 19))
COCO17 = (0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11)


def from_coco18(joints: np.ndarray) -> np.ndarray:
    """COCO-18 joints (..., 18, 3) as BODY_25 (..., 25, 3) float32; the mid-hip is computed."""
    return _to_body25(joints, COCO18, {MID_HIP: HIPS})


def from_coco17(joints: np.ndarray) -> np.ndarray:
    """COCO-17 joints (..., 17, 3) as BODY_25 (..., 25, 3) float32; neck, mid-hip are computed."""
    return _to_body25(joints, COCO17, {NECK: SHOULDERS, MID_HIP: HIPS})


def _to_body25(joints: np.ndarray, places: tuple, middles: dict) -> np.ndarray:
    pose = np.zeros((*joints.shape[:-2], len(JOINTS), 3), np.float32)
    pose[..., places, :] = joints
    for middle, (a, b) in middles.items():
        # As sure as the less sure of the two; missing if either is.
        sure = np.minimum(pose[..., a, 2], pose[..., b, 2])
        pose[..., middle, :] = (pose[..., a, :] + pose[..., b, :]) / 2 * (sure > 0)[..., None]
        pose[..., middle, 2] = sure
    return pose


# ------------------------------------------------------------------------------ pictures


def read_image(source: Path | bytes, name: str) -> np.ndarray:
    """Read a picture, upright, as uint8 (H, W, 3): grey, palette, CMYK, 16-bit, RGBA over white.

    Of an animation the first frame. Raises ClickException, which calls the picture `name`, where
    it can't be read or has more pixels than Pillow holds to be safe.
    """
    # Appended once for the whole process: catch_warnings is not safe in threads.
    warnings.simplefilter("error", Image.DecompressionBombWarning, append=True)
    try:
        file = BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except FileNotFoundError:
        problem, remedy = "no such file", "check the path"
    except UnidentifiedImageError:
        problem, remedy = "empty, or no picture that can be read", "save it as JPEG or PNG"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        problem, remedy = f"more than {Image.MAX_IMAGE_PIXELS:,} pixels", "reduce it first"
    except Exception as error:  # Pillow's decoders raise whatever the bytes provoke
        problem, remedy = f"damaged picture ({error})", "get it anew, or save it as JPEG or PNG"
    raise BadInput(name, problem, remedy)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode.startswith("I"):  # 16 bits a pixel: scaled, as Pillow's convert would clip them
        values = np.asarray(image).astype(np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("pixels of more than 16 bits")
        return Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _placed(size_from: tuple[int, int], size_to: tuple[int, int]) -> tuple[int, int]:
    # The width of a picture scaled to the frame's height, and where its left edge falls.
    width = max(1, round(size_from[1] * size_to[0] / size_from[0]))
    return width, (size_to[1] - width) // 2


def fit_matrix(size_from: tuple[int, int], size_to: tuple[int, int]) -> np.ndarray:
    """The map (2, 3) of points x, y, 1 in a picture to those in a frame; sizes (height, width).

    One rule for pictures and their poses: the picture is scaled to the frame's height keeping its
    aspect, centred, and cropped or padded with zeros at the sides. 256x256 to 256x176 is x - 40.
    """
    width, left = _placed(size_from, size_to)
    x, y = width / size_from[1], size_to[0] / size_from[0]
    # Pixel centres are at integers: the corner of the picture is at (-0.5, -0.5).
    return np.array([[x, 0, (x - 1) / 2 + left], [0, y, (y - 1) / 2]])


def fit_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Fit a picture uint8 (H, W, 3) into a frame by `fit_matrix`; without scaling, bit for bit."""
    H, W = image.shape[:2]
    width, left = _placed((H, W), size)
    first, last = max(0, left), min(size[1], left + width)  # the frame's columns that it fills
    if (size[0], width) == (H, W):
        image = image[:, first - left : last - left]
    else:
        box = ((first - left) * W / width, 0, (last - left) * W / width, H)
        scaled = Image.fromarray(image)
        scaled = scaled.resize((last - first, size[0]), Image.Resampling.BICUBIC, box)
        image = np.asarray(scaled)
    return np.pad(image, ((0, 0), (first, size[1] - last), (0, 0)))


def fit_pose(pose: np.ndarray, size_from: tuple[int, int], size_to: tuple[int, int]) -> np.ndarray:
    """Fit a picture's pose (25, 3) into a frame by `fit_matrix`; joints outside become missing."""
    matrix = fit_matrix(size_from, size_to)
    fitted = pose[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    present = (pose[:, 2:] > 0) & _within(fitted, size_to)[:, None]
    return np.where(present, np.column_stack([fitted, pose[:, 2]]), 0).astype(np.float32)


def _within(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return ((points >= -0.5) & (points <= (size[1] - 0.5, size[0] - 0.5))).all(-1)


# ------------------------------------------------------------------------------ poses


@dataclass(frozen=True)
class Pose:
    """A pose as its file has it: joints (25, 3) x, y, confidence; 0 = missing.

    `size` is the (height, width) of its picture, where the file says. `fractions`: x and y are in
    [0, 1], from the first pixels' centres to the last. `people`: how many the file shows; this is
    the largest confident one.
    """

    joints: np.ndarray
    size: tuple[int, int] | None = None
    fractions: bool = False
    people: int = 1

    def at(self, size: tuple[int, int]) -> np.ndarray:
        """The joints in pixels of the pose's picture, when that has this (height, width)."""
        points, frame = self.joints[:, :2], np.array(size[::-1])
        if self.fractions:
            points = points * (frame - 1)
        elif self.size:
            points = (points + 0.5) * (frame / self.size[::-1]) - 0.5
        pose = np.column_stack([points, self.joints[:, 2]])
        return (pose * (self.joints[:, 2:] > 0)).astype(np.float32)


MISSING = Pose(np.zeros((len(JOINTS), 3), np.float32), people=0)


def read_poses(path: str | Path) -> dict[str, Pose]:
    """Read poses by picture name, in the file's order: DSCF/PATN CSV, COCO-17 or OpenPose JSON.

    A folder of OpenPose JSON gives names relative to it, without `_keypoints.json` or `.json`.
    Raises ClickException for whatever is no such file.
    """
    path = Path(path)
    poses: dict[str, Pose] = {}
    for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise BadInput(file, f"can't be read ({error.strerror})", "check the path") from None
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        is_csv = file.suffix.lower() == ".csv"
        poses |= _parse_csv(data, file) if is_csv else _parse_json(data, file, name)
    if not poses:
        raise BadInput(path, "no poses in it", "give a CSV, COCO or OpenPose key-point file")
    _warn_of_several(path, poses)
    return poses


def _warn_of_several(path: Path, poses: dict[str, Pose]) -> None:
    several = sum(pose.people > 1 for pose in poses.values())
    if several:
        word = "%s: %d of %d poses have several people; the largest confident one is used"
        log.warning(word, path, several, len(poses))


def read_pose(path: str | Path, size: tuple[int, int]) -> np.ndarray:
    """Read one target pose (25, 3), fitted into a frame of `size` (height, width).

    FILE:NAME chooses one of a file with several poses. Fractions are scaled to the frame; a pose
    whose picture's size is known goes where that picture would by `fit_matrix`. Any other stays as
    it is if all its joints are inside the frame and it spans at least a quarter of the height;
    else it is centred and scaled to 80 % of the height or 90 % of the width, whichever is less.
    Raises ClickException where there is not one pose with a joint inside the frame.
    """
    pose = _choose_pose(str(path))
    if not pose.people:
        raise BadInput(path, "no people in it", "give the pose of a picture that shows one")
    if not pose.joints[:, 2].any():
        raise BadInput(path, "all its joints are missing", "give a pose that has some")
    if pose.size or pose.fractions:
        picture = pose.size or size
        fitted = fit_pose(pose.at(picture), picture, size)
    else:
        fitted = _fit_unknown(pose.joints, size)
    if not fitted[:, 2].any():
        remedy = "check its coordinates (x, y in pixels, from the upper left)"
        raise BadInput(path, "nothing of it is inside the picture", remedy)
    return fitted


def _choose_pose(path: str) -> Pose:
    file, _, name = path.rpartition(":")
    if Path(path).exists() or not Path(file).is_file():
        file, name = path, ""
    poses = read_poses(file)
    first = next(iter(poses))
    if name and name not in poses:
        raise BadInput(file, f"no pose called {name}", f"choose one, such as {file}:{first}")
    if not name and len(poses) > 1:
        raise BadInput(file, f"{len(poses):,} poses", f"choose one, such as {file}:{first}")
    return poses[name or first]


def _fit_unknown(joints: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    # The pose's picture has an unknown size: see read_pose. Inside no picture at all: zeros.
    present = joints[:, 2] > 0
    points = joints[present, :2].astype(np.float64)
    fitted = np.zeros_like(joints)
    if not (points >= -0.5).all(1).any():
        return fitted
    low, high, frame = points.min(0), points.max(0), np.array(size[::-1])
    if not (_within(points, size).all() and high[1] - low[1] >= size[0] / 4):
        if (low == high).all():  # a single joint has no height to scale
            return joints * _within(joints[:, :2], size)[:, None]
        scale = (frame * (0.9, 0.8) / np.maximum(high - low, 1e-6)).min()
        points = (points - (low + high) / 2) * scale + (frame - 1) / 2
    fitted[present] = np.column_stack([points, joints[present, 2]])
    return fitted


def _parse_csv(data: bytes, file: Path) -> dict[str, Pose]:
    # The DSCF/PATN key points: "name: [18 y]: [18 x]", y before x, -1 missing.
    lines = data.decode("utf-8-sig", "replace").splitlines()
    if not lines or lines[0].strip() != CSV_HEADER:
        raise BadInput(file, f"line 1 is not the header {CSV_HEADER}", "add it, or give JSON")
    found: dict[str, np.ndarray] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        name, *lists = (part.strip() for part in line.rsplit(":", 2))
        try:
            y, x = json.loads(f"[{','.join(lists)}]")
            counts = len(y), len(x)
            points = np.array([x, y] if counts == (18, 18) else 0, np.float32)
        except (ValueError, TypeError, RecursionError):
            problem = f"line {number} is not name: [18 y]: [18 x]"
            raise BadInput(file, problem, "write the key points so") from None
        if counts != (18, 18):
            joints = f"{len(y)} joints" if len(y) == len(x) else f"{len(y)} y and {len(x)} x"
            problem = f"line {number} has {joints}, 18 are needed"
            raise BadInput(file, problem, "write a missing one as -1")
        if not np.isfinite(points).all():
            problem = f"line {number} has a joint that is not finite"
            raise BadInput(file, problem, "write a missing one as -1")
        if name in found:
            raise BadInput(file, f"line {number} has {name} a second time", "remove one")
        found[name] = points
    points = np.array(list(found.values())).reshape(-1, 2, 18).swapaxes(1, 2)  # (N, 18, 2)
    present = (points != -1).all(2, keepdims=True)
    poses = from_coco18(np.concatenate([points * present, present], 2))  # (N, 25, 3)
    return dict(zip(found, map(Pose, poses)))


def _parse_json(data: bytes, file: Path | str, name: str) -> dict[str, Pose]:
    # OpenPose's file of one picture, which is called `name`, or COCO's of many.
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise BadInput(file, "no JSON", "give OpenPose or COCO key points") from None
    try:
        if isinstance(content, dict) and "people" in content:
            name = re.sub(r"(_keypoints)?\.json$", "", name, flags=re.IGNORECASE)
            return {name: _openpose(content["people"], file)}
        if isinstance(content, list) or "annotations" in content:
            return _coco(content, file)
    except (TypeError, KeyError, AttributeError, ValueError):  # lists for dicts, and the like
        pass
    remedy = "give people with pose_keypoints_2d, or annotations with keypoints and image_id"
    raise BadInput(file, "neither OpenPose nor COCO key points", remedy)


def _openpose(people: list[dict], file: Path | str) -> Pose:
    keys = ("pose_keypoints_2d", "pose_keypoints")
    found = [_joints(person[keys[keys[0] not in person]], (75, 54), file) for person in people]
    if not found:
        return MISSING
    joints = _largest(found)
    points = joints[joints[:, 2] > 0, :2]
    fractions = bool(len(points)) and bool((abs(points) <= 1).all())
    if fractions and (points < 0).any():  # OpenPose's --keypoint_scale 4: [-1, 1]
        joints[:, :2] = (joints[:, :2] + 1) / 2 * (joints[:, 2:] > 0)
    return Pose(joints, None, fractions, len(found))


def _coco(content: dict | list, file: Path | str) -> dict[str, Pose]:
    # Annotations as COCO writes them, or the plain list of results detectors write.
    whole = isinstance(content, dict)
    images = {image["id"]: image for image in content.get("images", ())} if whole else {}
    found: dict = {}
    for annotation in content["annotations"] if whole else content:
        joints = _joints(annotation["keypoints"], (51,), file)
        found.setdefault(annotation["image_id"], []).append(joints)
    poses: dict[str, Pose] = {}
    for number, people in found.items():
        image = images.get(number, {})
        name = str(image.get("file_name", number))
        size = int(image.get("height", 0)), int(image.get("width", 0))
        if name in poses:
            raise BadInput(file, f"two images called {name}", "remove one")
        poses[name] = Pose(_largest(people), size if all(size) else None, people=len(people))
    return poses


def _joints(values: list, counts: tuple[int, ...], file: Path | str) -> np.ndarray:
    # A person's flat list of x, y, confidence, of one of the lengths given, as BODY_25.
    if len(values) not in counts:
        problem = f"a person has {len(values)} numbers, {' or '.join(map(str, counts))} are needed"
        raise BadInput(file, problem, "write a missing joint as 0, 0, 0")
    joints = np.array(values, np.float32).reshape(-1, 3)
    if not np.isfinite(joints).all():
        raise BadInput(file, "a joint is not finite", "write a missing one as 0, 0, 0")
    joints[:, 2] = joints[:, 2].clip(0, 1)  # COCO's visibility: 1 hidden, 2 seen
    joints[joints[:, 2] == 0] = 0
    return {25: np.copy, 18: from_coco18, 17: from_coco17}[len(joints)](joints)


def _largest(people: list[np.ndarray]) -> np.ndarray:
    def weight(joints: np.ndarray) -> float:
        points = joints[joints[:, 2] > 0, :2]
        return np.hypot(*np.ptp(points, 0)) * joints[:, 2].mean() if len(points) else -1.0

    return max(people, key=weight)


def find_poses(images: list[np.ndarray], weights: str | None = None) -> np.ndarray:
    """Find the clearest person in each picture uint8 (H, W, 3): poses (B, 25, 3), zeros if none.

    Runs torchvision's Keypoint R-CNN, its weights fetched by torchvision or from the file
    `weights`. Raises ClickException where they can't be had.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = _keypoint_network(weights).to(device)
    poses = np.zeros((len(images), len(JOINTS), 3), np.float32)
    for pose, image in zip(poses, images):
        picture = torch.tensor(image, device=device).permute(2, 0, 1).div(255)  # (3, H, W)
        with torch.inference_mode():
            found = network([picture])[0]
        if len(found["scores"]) and found["scores"][0] > 0.5:  # sorted, the surest first
            # A joint's score is a logit without a scale; ours: seen from 2 on.
            sure = torch.sigmoid(found["keypoints_scores"][0] - 2)[:, None]  # (17, 1)
            points = found["keypoints"][0, :, :2] - 0.5  # its pixel centres are at halves
            joints = torch.cat([points, sure], 1) * (sure >= 0.5)  # (17, 3)
            pose[:] = from_coco17(joints.cpu().numpy())
    return poses


@cache
def _keypoint_network(weights: str | None) -> "nn.Module":
    from torchvision.models import detection

    from models import read_state_dict

    official = detection.KeypointRCNN_ResNet50_FPN_Weights.COCO_V1
    try:
        state = read_state_dict(Path(weights)) if weights else official.get_state_dict(True)
    except ClickException:
        raise
    except Exception as error:  # urllib's, ssl's and hashing's errors share no base class
        remedy = "give the poses with --poses, or the weights with --pose-weights FILE"
        problem = f"can't be fetched ({error})"
        raise BadInput("weights of Keypoint R-CNN", problem, remedy) from None
    network = detection.keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    try:
        network.load_state_dict(state)
    except RuntimeError:
        remedy = "give the state dict of torchvision's keypointrcnn_resnet50_fpn"
        raise BadInput(weights, "no weights of Keypoint R-CNN", remedy) from None
    return network.eval()


# ------------------------------------------------------------------------------ data sets


class Source:
    """A folder, or a zip or tar archive read in place: its `names`, sorted, and their bytes.

    Raises ClickException for whatever is neither, or damaged.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with self._reading():
            self.names = sorted(name for name, _ in self._members())

    def items(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the names wanted and their bytes, in the order that is quick to read."""
        with self._reading():
            for name, read in self._members():
                if name in wanted:
                    yield name, read()

    def _members(self) -> Iterator[tuple[str, Callable[[], bytes]]]:
        if self.path.is_dir():
            for folder, _, files in os.walk(self.path, followlinks=True):
                for path in (Path(folder, file) for file in files):
                    yield path.relative_to(self.path).as_posix(), path.read_bytes
        elif zipfile.is_zipfile(self.path):
            with zipfile.ZipFile(self.path) as archive:
                for member in archive.infolist():
                    if not member.is_dir():
                        yield member.filename, partial(archive.read, member)
        elif tarfile.is_tarfile(self.path):
            with tarfile.open(self.path) as archive:
                for member in archive:
                    if member.isfile():
                        yield member.name.removeprefix("./"), archive.extractfile(member).read
        else:
            raise tarfile.ReadError("neither a folder nor a whole zip or tar archive")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        damage = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError)
        try:
            yield
        except RuntimeError:  # zipfile's word for a password, or for an unknown compression
            remedy = "unpack it, with the data set's password, and give the folder"
            raise BadInput(self.path, "encrypted or packed in a rare way", remedy) from None
        except (*damage, EOFError) as error:
            remedy = "check --source, or get it anew"
            raise BadInput(self.path, f"can't be read ({error})", remedy) from None


@dataclass(frozen=True)
class PrepareConfig:
    """What `posegan prepare` was asked to do; `size` (height, width), None: the data set's own."""

    data: str = "demo"
    source: str | None = None
    poses: tuple[str, ...] = ()
    root: str = "data"
    size: tuple[int, int] | None = None
    overwrite: bool = False
    pose_weights: str | None = None
    seed: int = 0


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


def _stem(name: str) -> str:
    # Without the suffixes of pictures, of which Market-1501 has names with two.
    while name.lower().endswith(IMAGE_SUFFIXES):
        name = name.rpartition(".")[0]
    return name


def _parse_name(data: str, name: str) -> dict[str, str] | None:
    # img/WOMEN/Dresses/id_00000002/02_1_front.jpg is fashionWOMENDressesid0000000202_1front
    in_shop = r"^(?:.*/)?((?:WO)?MEN)/([^/]+)/id_(\d{8})/(\d\d_\d)_"
    name = re.sub(in_shop, r"fashion\1\2id\3\4", _stem(name))
    found = re.fullmatch(OFFICIAL[data][2], name)
    return found.groupdict("") if found else None


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
    decoded, skipped = partial(_decoded, source, config), len(source.names) - len(pictures)
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
    for given in config.poses:
        poses |= {_stem(name): pose for name, pose in read_poses(given).items()}
    if not config.poses:
        endings = ("_keypoints.json", ".json")
        beside = {_stem(name) + ending: _stem(name) for name in names for ending in endings}
        for file, data in source.items(beside):
            parsed = _parse_json(data, f"{source.path}/{file}", file)
            poses[beside[file]] = next(iter(parsed.values()), MISSING)
        _warn_of_several(source.path, poses)
    bare = Counter(PurePosixPath(_stem(name)).name for name in names)
    above = os.path.commonpath([PurePosixPath(name).parent for name in names])
    rows = []
    for name in names:
        parts = PurePosixPath(name).relative_to(above).parts
        identity = parts[0] if len(parts) > 1 else PurePosixPath(above).name or source.path.stem
        # Key points may leave out folders above the picture, unless several would be meant.
        parts = _stem(name).split("/")
        calls = ["/".join(parts[i:]) for i in range(len(parts) - (bare[parts[-1]] > 1))]
        pose = next((poses[call] for call in calls if call in poses), MISSING if poses else None)
        view = re.split("[-_]", parts[-1])[-1] if config.data == "mvc" else ""
        rows.append(Row(name, identity, view, "", pose))
    _split_people(rows, config.seed)
    about = f"{source.path.name}, one folder a person"
    skipped = len(source.names) - len(names)
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
                found = find_poses([image], config.pose_weights)[0] if pose is None else pose
                yield place, image, found


def _drawn(
    seed: int, rows: list[Row], size: tuple[int, int]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    ignore = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for this process, which ends the others
    spawn = multiprocessing.get_context("spawn")  # a fork would copy the locks of torch's threads
    pool = ProcessPoolExecutor(_cores(), spawn, signal.signal, ignore)
    try:
        tasks = ((seed, int(row.identity), int(row.camera), size) for row in rows)
        people = pool.map(demo.person, *zip(*tasks), chunksize=demo.POSES)
        yield from ((place, *person) for place, person in enumerate(people))
    finally:
        pool.shutdown(cancel_futures=True)


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


def choose_pairs(pairs: np.ndarray, limit: int) -> np.ndarray:
    """The published choice of at most `limit` test pairs (P, 2), in its order."""
    if not len(pairs):
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
        pairs = places[members[choose_pairs(pairs, limit) if limit else pairs]]  # (P, 2)
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


def prepare(config: PrepareConfig, progress: Callable[[int, int], None] | None = None) -> Prepared:
    """Write the prepared folder ROOT/NAME and load it; `progress(done, total)` hears of pictures.

    It is written beside its place and renamed when whole; an old one stays until then. Raises
    ClickException for bad input, a full disk, or a folder that is there without `overwrite`.
    """
    command = _command(config.data, config.root)
    if config.data != "demo" and not config.source:
        raise BadInput(config.data, "no --source given", f"run {command}")
    path = Path(config.root) / config.data
    beside = path.with_name(f"{path.name}.partial")
    try:
        _check_place(path, config.overwrite)
        listing = ADAPTERS[config.data](config)
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        counts = _write(beside, config, listing, progress)
        _replace(path, beside)
    except OSError as error:
        remedy = "free some space, or choose another folder with --root"
        raise BadInput(path, f"can't be written ({error.strerror or error})", remedy) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    for what, count in counts.items():
        if count and what in NOTICES:
            log.warning("%s: %s", config.source or config.data, NOTICES[what].format(count))
    return load(config.data, config.root)


def _check_place(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise BadInput(path, "is there already", "replace it with --overwrite")
    if path.exists() and not (path.is_dir() and {file.name for file in path.iterdir()} <= {*FILES}):
        raise BadInput(path, "holds more than a prepared data set", "choose another --root")


def _replace(path: Path, beside: Path) -> None:
    old = path.with_name(f"{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    try:
        if path.exists():
            path.rename(old)
        beside.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _write(
    folder: Path, config: PrepareConfig, listing: Listing, progress: Callable | None
) -> dict[str, int]:
    height, width = size = config.size or SIZES.get(config.data, (256, 256))
    rows = [row for row in listing.rows if row.file is not None]
    poses = np.zeros((len(rows), len(JOINTS), 3), np.float32)
    with open(folder / "images.npy", "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), *size, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        with contextlib.closing(listing.pictures(rows, size)) as pictures:
            for done, (place, image, pose) in enumerate(pictures, 1):
                file.seek(start + place * image.nbytes)
                file.write(np.ascontiguousarray(image))
                poses[place] = pose
                if progress:
                    progress(done, len(rows))
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
    about = {"format": FORMAT, "name": config.data, "height": height, "width": width}
    about |= {"joints": JOINTS, "counts": counts, "source": listing.description}
    (folder / "dataset.partial").write_text(json.dumps(about, indent=2) + "\n")
    (folder / "dataset.partial").rename(folder / "dataset.json")
    return counts


def load(name: str, root: str | Path = "data") -> Prepared:
    """Open the prepared folder ROOT/NAME. Raises ClickException where it is not there or whole."""
    path, command = Path(root) / name, _command(name, root)
    if not path.exists():
        raise BadInput(path, "not prepared yet", f"run {command}")
    try:
        about = json.loads((path / "dataset.json").read_text())
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}, this posegan reads {FORMAT}")
        images, poses, *lists = (np.load(path / file, mmap_mode="r") for file in ARRAYS)
        with open(path / "people.csv", newline="", errors="surrogateescape") as file:
            rows = list(csv.reader(file))[1:]
        height, width, counts = about["height"], about["width"], about["counts"]
        count, lengths = counts["images"], [counts["pairs_train"], counts["pairs_test"]]
        if (images.shape, poses.shape) != ((count, height, width, 3), (count, len(JOINTS), 3)) or (
            [len(rows), *map(len, lists)] != [count, *lengths]
        ):
            raise ValueError("its files don't match")
        _, files, identity, camera, split = map(np.array, zip(*rows))
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        remedy = f"run {command} --overwrite"
        raise BadInput(path, f"unfinished or damaged ({error})", remedy) from None
    labels = np.full(count, -1)
    people, labels[split == "train"] = np.unique(identity[split == "train"], return_inverse=True)
    arrays = (images.view(np.ndarray), *map(np.array, (poses, *lists)), files, identity, camera)
    return Prepared(path, name, height, width, *arrays, split, labels, len(people), about)


def _command(name: str, root: str | Path) -> str:
    if name not in ARGUMENTS:
        raise BadInput(name, "no data set", f"choose one of {', '.join(ARGUMENTS)}")
    command = f"posegan prepare --data {name} {ARGUMENTS[name]}".strip()
    return command if str(root) == "data" else f"{command} --root {shlex.quote(str(root))}"


def hold_out(prepared: Prepared, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split the training pairs by person, to choose between variants without the test pairs.

    Gives the pairs (P, 2) to train on, and those of about `fraction` of the people, at least one.
    """
    count = max(1, round(prepared.identities * fraction))
    held = np.random.default_rng(seed).permutation(prepared.identities)[:count]
    mask = np.isin(prepared.labels[prepared.pairs_train[:, 0]], held)
    return prepared.pairs_train[~mask], prepared.pairs_train[mask]


ADAPTERS = {**dict.fromkeys(OFFICIAL, _official), "mvc": _folder, "folder": _folder, "demo": _demo}
NOTICES = {
    "images_absent": "lacks {:,} pictures that the key points name",
    "pairs_dropped": "{:,} pairs with a picture that is lacking are left out",
    "images_without_pose": "{:,} pictures show no known joint and are in no pair",
    "files_skipped": "other files, skipped: {:,}",
}

# ------------------------------------------------------------------------------ batches


class Batches:
    """Batches of pairs without end: `batches[step]` follows from (seed, step) alone.

    An epoch, `per_epoch` steps, is a permutation of the split's pairs; `world` processes take
    interleaved parts of the same `batch_size * world` pairs. Gives what `gather` gives. Raises
    ClickException where the split has no pairs.
    """

    def __init__(
        self,
        prepared: Prepared,
        split: str,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ):
        self.prepared, self.seed = prepared, seed
        self.pairs = {"train": prepared.pairs_train, "test": prepared.pairs_test}[split]
        if not len(self.pairs):
            remedy = "prepare people with two poses each"
            raise BadInput(prepared.path, f"no {split} pairs", remedy)
        self.together, self.part = batch_size * world, slice(rank, None, world)
        self.per_epoch = max(1, len(self.pairs) // self.together)
        self._epoch, self._order = -1, None

    def __getitem__(self, step: int) -> "dict[str, Tensor]":
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.pairs))
            # Fewer pairs than a batch needs: they are repeated.
            self._epoch, self._order = epoch, np.resize(order, max(len(order), self.together))
        chosen = self._order[place * self.together : (place + 1) * self.together][self.part]
        return gather(self.prepared, self.pairs[chosen])


def gather(prepared: Prepared, pairs: np.ndarray) -> "dict[str, Tensor]":
    """The tensors of pairs (B, 2): `source`, `target` uint8 (B, 3, H, W), channels last;
    `source_pose`, `target_pose` (B, 25, 3); `identity`, class numbers int64 (B,).
    """
    import torch

    places = pairs.T.ravel()  # (2 * B,): sources, then targets
    images = np.empty((len(places), prepared.height, prepared.width, 3), np.uint8)
    for i in np.argsort(places):  # in the file's order, which a cold disk wants
        images[i] = prepared.images[places[i]]
    source, target = torch.from_numpy(images).permute(0, 3, 1, 2).chunk(2)  # (B, 3, H, W)
    source_pose, target_pose = torch.from_numpy(prepared.poses[places]).chunk(2)  # (B, 25, 3)
    identity = torch.from_numpy(prepared.labels[pairs[:, 1]])  # (B,)
    poses = {"source_pose": source_pose, "target_pose": target_pose}
    return {"source": source, "target": target, **poses, "identity": identity}


def normalise(images: "Tensor") -> "Tensor":
    """Pictures uint8 as float32 in [-1, 1], in the same memory format."""
    return images.float().div(127.5).sub_(1)


def to_device(batch: "dict[str, Tensor]", device: "device") -> "dict[str, Tensor]":
    """A batch on a device, its pictures normalised there."""
    moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    return moved | {name: normalise(moved[name]) for name in ("source", "target")}
