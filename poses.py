"""Joints, pictures and pose formats: everything about one person in one picture."""

import json
import logging
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageDraw, ImageOps, UnidentifiedImageError

from posegan.files import BadInput, Source, check_file, replaced

log = logging.getLogger("posegan")

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
PNG_LEVEL = 3  # nearly three times as fast as Pillow's 6, for a tenth more bytes
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
IMAGE_SUFFIXES += (".ppm", ".jfif")
PICTURES = (*IMAGE_SUFFIXES, ".heic", ".heif", ".avif")  # Pillow can't read the last three
LOSSY = 95  # quality of JPEG and WebP, where Pillow's 75 shows
SMALLEST = 16  # pixels per side that a photo of a person needs
UNKNOWN_PART = 255  # in parsing maps: a pixel without a label
CSV_HEADER = "name:keypoints_y:keypoints_x"
SEEN = 0.3  # the score below which a detector has guessed a joint: MMPose's own threshold
FARTHEST = 1e6  # pixels, for joints and picture sides: larger numbers are no pose


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
NECK, SHOULDERS, MID_HIP, HIPS, ANKLES = 1, (2, 5), 8, (9, 12), (11, 14)
# Bone lengths in metres for a body of 1.76 m; foreshortened bones appear shorter.
BONES = {
    **{(1, 8): 0.505, (2, 3): 0.285, (5, 6): 0.285, (3, 4): 0.245, (6, 7): 0.245},
    **{(9, 10): 0.425, (12, 13): 0.425, (10, 11): 0.415, (13, 14): 0.415},
}
# pose[:, FLIP] swaps left and right joints, as a mirrored picture needs.
FLIP = (0, 1, 5, 6, 7, 2, 3, 4, 8, 12, 13, 14, 9, 10, 11, 16, 15, 18, 17, 22, 23, 24, 19, 20, 21)
# BODY_25's numbers of other formats' joints. COCO-17: nose, then left and right of each.
COCO18 = (*range(8), *range(9, 19))
COCO17 = (0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11)


def _from_coco(places: tuple[int, ...], joints: np.ndarray) -> np.ndarray:
    pose = np.zeros((*joints.shape[:-2], len(JOINTS), 3), np.float32)
    pose[..., places, :] = joints
    for middle, (a, b) in {NECK: SHOULDERS, MID_HIP: HIPS}.items():
        if middle not in places:
            # The lower confidence of the two; missing if either is.
            sure = np.minimum(pose[..., a, 2], pose[..., b, 2])
            pose[..., middle, :] = (pose[..., a, :] + pose[..., b, :]) / 2 * (sure > 0)[..., None]
            pose[..., middle, 2] = sure
    return pose


# Joints (..., 17 or 18, 3) as BODY_25 (..., 25, 3) float32; neck and mid-hip are computed.
from_coco17, from_coco18 = partial(_from_coco, COCO17), partial(_from_coco, COCO18)


def metre(joints: np.ndarray) -> float:
    """Pixels per metre in a pose (25, 3), from its longest quarter of bones; 0 without bones."""
    found = [
        np.hypot(*(joints[a, :2] - joints[b, :2])) / length
        for (a, b), length in BONES.items()
        if min(joints[a, 2], joints[b, 2]) > 0
    ]
    return float(np.quantile(found, 0.75)) if found else 0.0


def place(moved: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Fit poses (N, 25, 3) from another frame to the size and position of a person's pose `own`
    (25, 3), by one similarity. The person's own poses, moved and scaled, are recovered exactly.
    """
    # By the longest of several poses, as a bent body looks short.
    units = [unit for unit in map(metre, moved) if unit] or [1.0]
    scale = metre(own) / float(np.quantile(units, 0.75))
    here, anchors = _anchors(own), [_anchors(one) for one in moved]
    shift = np.zeros(2)
    # The last anchor that both show wins.
    for axis, name in ((0, "neck"), (0, "hips"), (1, "neck"), (1, "hips"), (1, "ground")):
        there = [one[name][axis] for one in anchors if name in one]
        if name in here and there:
            shift[axis] = here[name][axis] - scale * np.median(there)
    return similar(moved, scale, shift)


def similar(pose: np.ndarray, scale: float | np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Poses (..., 25, 3) scaled, then shifted (2,); missing joints stay zeros."""
    present = pose[..., 2:] > 0
    points = (pose[..., :2] * scale + shift) * present
    return np.concatenate([points, pose[..., 2:]], -1).astype(np.float32)


def _anchors(pose: np.ndarray) -> dict[str, np.ndarray]:
    # The points (2,) that poses are placed by: the hips, the neck, the lower ankle.
    def known(*joints: int) -> list[np.ndarray]:
        return [pose[joint, :2] for joint in joints if pose[joint, 2] > 0]

    found = {"hips": known(MID_HIP, *HIPS), "neck": known(NECK, *SHOULDERS, 0)}
    found["ground"] = sorted(known(*ANKLES), key=lambda point: -point[1])
    return {name: points[0] for name, points in found.items() if points}


def centre(moved: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Centre poses (N, 25, 3) in a frame (height, width), by one similarity: together they take up
    80 % of its height or 90 % of its width, whichever is less.
    """
    points = moved[moved[..., 2] > 0, :2].astype(np.float64)
    low, high, frame = points.min(0), points.max(0), np.array(size[::-1])
    scale = (frame * (0.9, 0.8) / np.maximum(high - low, 1e-6)).min()
    return similar(moved, scale, (frame - 1) / 2 - scale * (low + high) / 2)


def fits(moved: np.ndarray, own: np.ndarray | None, size: tuple[int, int]) -> bool:
    """Whether poses (N, 25, 3) already fit a picture (height, width).

    They do if most are inside it, within a quarter of the person's size, and near the person; or,
    if the person's pose is unknown, if most span at least a quarter of the picture's height.
    """
    shown = [one[one[:, 2] > 0, :2] for one in moved]
    within = np.array([inside(points, size).mean() > 0.8 for points in shown])
    if own is None:
        tall = [np.ptp(points[:, 1]) >= size[0] / 4 for points in shown]
        return within.mean() > 0.5 and np.mean(tall) > 0.5
    unit = max(metre(own), 1e-6)
    sizes = np.array([metre(one) for one in moved]) / unit
    anchors = map(_anchors, (own, *moved))
    here, *there = (one.get("hips", one.get("neck", (np.inf, np.inf))) for one in anchors)
    apart = np.array(there) - here
    near = (sizes > 1 / 1.25) & (sizes < 1.25) & (np.hypot(*apart.T) < 0.6 * unit)
    return (within & near).mean() > 0.5


def facing(pose: np.ndarray) -> float:
    """Roughly how many degrees a person is turned away from the viewer (90: to the right), from
    shoulder width and nose; 0 if these are missing.
    """
    right, left = SHOULDERS
    if not (pose[[right, left], 2] > 0).all() or not metre(pose):
        return 0.0
    wide = (pose[left, 0] - pose[right, 0]) / (0.336 * metre(pose))
    turned = float(np.degrees(np.arccos(np.clip(wide, -1, 1))))
    ahead = pose[0, 0] - pose[[right, left], 0].mean() if pose[0, 2] > 0 else 0.0
    return -turned if ahead < 0 else turned


def proportioned(motion: np.ndarray, rest: np.ndarray, own: np.ndarray) -> np.ndarray:
    """A motion (N, 25, 3) in metres, with the limb lengths of a person and the feet on the ground.

    `rest` (25, 3) is the motion's body, standing and seen from the front. Limb lengths come from
    the person's pose `own`, from the longer of both sides, as foreshortened limbs look short, and
    stay within 0.85 to 1.2 of the body's. Foot joints are dropped if `own` has none.
    """
    unit, moved = max(metre(own), 1e-6), motion.copy()
    length = lambda pose, a, b: np.hypot(*(pose[a, :2] - pose[b, :2]))  # noqa: E731
    for a, b in LIMBS:
        sides = [(a, b), (FLIP[a], FLIP[b])]
        seen = [length(own, *side) for side in sides if (own[list(side), 2] > 0).all()]
        ratio = max(seen, default=0) / unit / max(length(rest, a, b), 1e-6)
        ratio = float(np.clip(ratio, 0.85, 1.2)) if seen else 1.0
        moved[:, b, :2] = moved[:, a, :2] + ratio * (motion[:, b, :2] - motion[:, a, :2])
    low = list(ANKLES) + list(range(19, 25))
    moved[..., 1] += (motion[:, low, 1].max(1) - moved[:, low, 1].max(1))[:, None]
    moved[..., 0] -= moved[:, MID_HIP, None, 0]
    if not (own[19:, 2] > 0).any():
        moved[:, 19:] = 0
    return moved


# ------------------------------------------------------------------------------ pictures


composed = partial(unicodedata.normalize, "NFC")  # for names: macOS decomposes accents


def stem(name: str) -> str:
    """A name without its picture suffixes; some of Market-1501's names have two."""
    while name.lower().endswith(IMAGE_SUFFIXES):
        name = name.rpartition(".")[0]
    return composed(name)


def visible(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files of a folder with these suffixes, without hidden ones: 2.json before 10.json."""
    files = (file for file in folder.iterdir() if file.suffix.lower() in suffixes)
    return sorted((file for file in files if not file.name.startswith(".")), key=in_order)


def in_order(path: Path) -> list:
    """The key that sorts paths by the numbers in their names."""
    parts = re.split(r"([0-9]+)", str(path))
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def read_image(source: Path | bytes, name: str, convert: bool = False) -> np.ndarray:
    """Read a picture of any kind, upright, as uint8 (H, W, 3); RGBA is composed over white, colours
    are as stored, or with `convert` sRGB's.

    Raises ClickException, which calls the picture `name`, if it can't be read.
    """
    with _opened(source, name) as image:
        return upright(image, convert)


def upright(image: Image.Image, convert: bool = False) -> np.ndarray:
    """What `read_image` makes of an open picture. Raises ValueError or OSError."""
    image.load()
    with suppress(Exception):  # EXIF may be damaged while the pixels are intact
        image = ImageOps.exif_transpose(image)
    profile = image.info.get("icc_profile") if convert else None
    image = image if profile and image.mode == "CMYK" else _to_rgb(image)
    return np.asarray(_to_rgb(_in_srgb(image, profile) if profile else image))


def _in_srgb(image: Image.Image, content: bytes) -> Image.Image:
    # Phones save wider colours, which look pale without their profile.
    with suppress(ImageCms.PyCMSError, OSError):
        profile = ImageCms.ImageCmsProfile(BytesIO(content))
        if "sRGB" not in ImageCms.getProfileDescription(profile):
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
    return image


def read_photo(file: Path, convert: bool = True) -> np.ndarray:
    """A photo of a person by `read_image`. Raises ClickException, also if it is tiny."""
    return large_enough(read_image(file, str(file), convert), file)


def large_enough(picture: np.ndarray, name: object) -> np.ndarray:
    """The picture (H, W, 3) itself. Raises ClickException if it is too small to show a person."""
    if min(picture.shape[:2]) < SMALLEST:
        size = "{}x{}".format(*picture.shape)
        raise BadInput(name, f"{size} pixels are too few to show a person", "give a larger photo")
    return picture


def image_size(path: Path) -> tuple[int, int]:
    """The (height, width) of a picture, upright. Reads only the header, except for PNG, whose
    orientation may follow the pixels. Raises what `read_image` raises.
    """
    with _opened(path, str(path)) as image:
        # For TIFF, Pillow has already turned the size.
        turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        lying = turned and image.format != "TIFF"
        return image.size if lying else image.size[::-1]


@contextmanager
def _opened(source: Path | bytes, name: str) -> Iterator[Image.Image]:
    # Appended once per process: catch_warnings is not thread-safe.
    warnings.simplefilter("error", Image.DecompressionBombWarning, append=True)
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL", append=True)
    if isinstance(source, Path):
        check_file(source)
    try:
        file = BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            yield image
            return
    except UnidentifiedImageError:
        problem, remedy = "empty, or not a readable picture", "save it as JPEG or PNG"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        problem, remedy = f"more than {Image.MAX_IMAGE_PIXELS:,} pixels", "shrink it first"
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever the bytes provoke
        problem, remedy = f"damaged picture ({error})", "download it again, or save it as PNG"
        if getattr(error, "errno", None):
            problem, remedy = f"can't be read ({error.strerror})", "check its permissions"
    raise BadInput(name, problem, remedy)


def read_labels(source: bytes, name: str) -> np.ndarray:
    """Read a label map, uint8 (H, W): a PNG whose pixels, or palette indices, are part labels."""
    with _opened(source, name) as image:
        labels = np.asarray(image)
    if image.format != "PNG" or image.mode not in ("L", "P"):
        problem = f"not a label map, but {image.format} with {image.mode} pixels"
        raise BadInput(name, problem, "give a greyscale or palette PNG")
    return labels


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode.startswith("I"):  # 16 bits per pixel: scaled, as Pillow's convert would clip
        values = np.asarray(image).astype(np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("pixels of more than 16 bits")
        return Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _placed(size_from: tuple[int, int], size_to: tuple[int, int]) -> tuple[int, int]:
    # One rule for pictures and their poses: scale to the frame's height keeping the aspect ratio,
    # centre, and crop or zero-pad at the sides; 256x256 to 256x176 is x - 40.
    # Returns the scaled width, and where its left edge falls.
    width = max(1, round(size_from[1] * size_to[0] / size_from[0]))
    return width, (size_to[1] - width) // 2


def fit_image(
    image: np.ndarray, size: tuple[int, int], filter: int = Image.Resampling.BICUBIC
) -> np.ndarray:
    """Fit a picture uint8 (H, W, 3) or (H, W) to the height of a frame (height, width), cropping
    or padding its sides; exact if nothing is scaled. Label maps take the filter NEAREST.
    """
    (height, width), (H, W) = size, image.shape[:2]
    scaled, left = _placed((H, W), size)
    first, last = max(0, left), min(width, left + scaled)  # the columns of the frame it fills
    box = ((first - left) * W / scaled, 0, (last - left) * W / scaled, H)
    part = Image.fromarray(image).resize((last - first, height), filter, box)
    return np.asarray(part.crop((-first, 0, width - first, height)))


def fit_pose(pose: np.ndarray, size_from: tuple[int, int], size_to: tuple[int, int]) -> np.ndarray:
    """Fit a pose (25, 3) into a frame as its picture is; joints outside become missing."""
    width, left = _placed(size_from, size_to)
    scale = np.array([width / size_from[1], size_to[0] / size_from[0]])
    # Pixel centres are at integers: the corner of the picture is at (-0.5, -0.5).
    return within(similar(pose, scale, (scale - 1) / 2 + (left, 0)), size_to)


def inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which points (..., 2), x and y, are in a picture (height, width)."""
    return ((points >= -0.5) & (points <= (size[1] - 0.5, size[0] - 0.5))).all(-1)


def within(pose: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A pose (..., 25, 3) without the joints outside a picture (height, width)."""
    return np.where(inside(pose[..., :2], size)[..., None], pose, 0)


# ------------------------------------------------------------------------------ poses


@dataclass(frozen=True)
class Pose:
    """A pose as stored in its file: joints (25, 3) x, y, confidence; 0 = missing.

    `size` is its picture's (height, width), if the file gives it. With `fractions`, x and y are in
    [0, 1], from the centre of the first pixel to that of the last. `people` are all people in a
    JSON file, in its order; `joints` is the largest confident one.
    """

    joints: np.ndarray
    size: tuple[int, int] | None = None
    fractions: bool = False
    people: tuple[np.ndarray, ...] = ()

    def at(self, size: tuple[int, int]) -> np.ndarray:
        """The joints in pixels, if the pose's picture has this (height, width). Unscaled if the
        file gives a size of another aspect ratio, as scaling would distort the body.
        """
        points, frame = self.joints[:, :2], np.array(size[::-1])
        if self.fractions:
            points = points * (frame - 1)
        elif self.size and same_shape(self.size, size):
            points = (points + 0.5) * (frame / self.size[::-1]) - 0.5
        pose = np.column_stack([points, self.joints[:, 2]])
        return (pose * (self.joints[:, 2:] > 0)).astype(np.float32)

    def fitted(self, frame: tuple[int, int]) -> np.ndarray:
        """The joints as `fit_pose` fits them into a frame (height, width)."""
        picture = self.size or frame  # an unknown size is taken to be the frame's
        return fit_pose(self.at(picture), picture, frame)


def same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (height, width) have the same aspect ratio, within a tenth."""
    return 1 / 1.1 < one[0] * other[1] / (one[1] * other[0]) < 1.1


MISSING = Pose(np.zeros((len(JOINTS), 3), np.float32))  # the pose of a picture without people


def read_poses(path: str | Path, chosen: bool = False) -> dict[str, Pose]:
    """Read poses by picture name from a DSCF/PATN CSV, JSON as `parse_json` takes it, or a folder
    of these. Warns of several people in a picture, unless one is `chosen` later. Raises
    ClickException for any other file.
    """
    path, poses = Path(path), {}
    if path.is_dir():
        source = Source(path)
        names = [name for name in source.names if name.lower().endswith((".json", ".csv"))]
        items = sorted((path / name, name, data) for name, data in source.items(names))
    else:
        check_file(path)
        items = [(path, path.name, path.read_bytes())]
    for file, name, data in items:
        table = name.lower().endswith(".csv")
        merge(poses, _parse_csv(data, file) if table else parse_json(data, file, name), file)
    if not poses:
        raise BadInput(path, "no poses in it", "give a CSV, COCO or OpenPose keypoint file")
    if not chosen:
        warn_of_several(path, poses)
    return poses


def merge(poses: dict[str, Pose], more: dict[str, Pose], file: Path | str) -> None:
    """Add a file's poses to `poses`; raises if a picture has two."""
    more = {composed(name): pose for name, pose in more.items()}
    if twice := poses.keys() & more.keys():
        raise BadInput(file, f"{min(twice)} appears twice", "remove one")
    poses |= more


def warn_of_several(path: Path, poses: dict[str, Pose]) -> None:
    """Log how many of the pictures with poses in `path` show several people."""
    if several := sum(len(pose.people) > 1 for pose in poses.values()):
        word = "%s: %d of %d poses show several people; the largest confident one is used"
        log.warning(word, path, several, len(poses))


def read_pose(
    path: str | Path,
    find: Callable[[list[np.ndarray]], np.ndarray] | None = None,
    person: int | None = None,
    chosen: bool = False,
    called: str = "",
) -> Pose:
    """Read one pose, in the pixels of its own picture.

    FILE:NAME selects one of several poses, else `called`, the name of its picture; `person` (from
    1) one of several people; warns of several, unless one is `chosen` later. A photo's pose is
    detected by `find`, which takes pictures uint8 (H, W, 3) and returns poses (B, 25, 3), zeros for
    nobody. Raises ClickException unless there is exactly one pose, showing more than a head.
    """
    file, name = split_name(str(path))
    if find and not name and Path(file).suffix.lower() in PICTURES:
        picture = read_image(Path(file), file)
        pose = Pose(find([picture])[0], picture.shape[:2])
        if not pose.joints[:, 2].any():
            raise BadInput(path, "no person found in it", "give the pose as JSON")
    else:
        every = read_poses(file, chosen or bool(person))
        if called and not name and len(every) > 1:
            alike = [one for one in every if stem(Path(one).name) == stem(called)]
            name = alike[0] if len(alike) == 1 else "" if alike else called
        pose = _choose_pose(every, file, composed(name))
    if pose is MISSING:
        raise BadInput(path, "no people in it", "give the pose of a picture that shows a person")
    if person and len(pose.people) > 1:
        if person > len(pose.people):
            problem = f"{len(pose.people)} people in it, no person {person}"
            raise BadInput(path, problem, "choose another with --person")
        pose = replace(pose, joints=pose.people[person - 1])
    check_joints(pose.joints, path)
    return pose


def check_joints(joints: np.ndarray, name: object) -> None:
    """Raise ClickException for joints (25, 3) that show no more than a head."""
    known = joints[:, 2] > 0
    if not known.any():
        raise BadInput(name, "all its joints are missing", "give a pose that has some")
    if not np.delete(known, (0, NECK, 15, 16, 17, 18)).any():
        raise BadInput(name, "shows only a head", "give a pose with shoulders, hips or limbs")
    if in_one_place(joints):
        raise BadInput(name, "all its joints are in one place", "give a pose that shows a person")


def in_one_place(joints: np.ndarray) -> bool:
    """Whether a pose (25, 3) has two or more known joints, all at the same point."""
    points = joints[joints[:, 2] > 0, :2]
    return len(points) > 1 and not np.ptp(points, 0).any()


def split_name(path: str) -> tuple[str, str]:
    """Split FILE:NAME into file and name; the name is "" if the whole path exists."""
    parts = path.split(":")
    for count in range(1, len(parts)) if not Path(path).exists() else ():
        if Path(file := ":".join(parts[:count])).is_file():
            return file, ":".join(parts[count:])
    return path, ""


def _choose_pose(poses: dict[str, Pose], file: str, name: str) -> Pose:
    first = next(iter(poses))
    one = "give one of its files" if Path(file).is_dir() else f"choose one, such as {file}:{first}"
    if name and name not in poses:
        raise BadInput(file, f"no pose called {name}", one)
    if not name and len(poses) > 1:
        raise BadInput(file, f"{len(poses):,} poses", one)
    return poses[name or first]


def _parse_csv(data: bytes, file: Path) -> dict[str, Pose]:
    # DSCF/PATN keypoints: "name: [18 y]: [18 x]", y before x, -1 for missing.
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
            counts, points = (len(y), len(x)), _numbers([*x, *y]).reshape(len(y) + len(x))
        except (ValueError, TypeError, OverflowError, RecursionError):
            problem = f"line {number} is not name: [18 y]: [18 x]"
            raise BadInput(file, problem, "follow this format") from None
        problem, remedy = "", "write a missing one as -1"
        if counts != (18, 18):
            has = f"{len(y)} joints" if len(y) == len(x) else f"{len(y)} y and {len(x)} x"
            problem = f"has {has}, 18 are needed"
        elif not (abs(points) <= FARTHEST).all():
            problem = "has a joint that is not finite, or beyond a million"
        elif name in found:
            problem, remedy = f"has {name} a second time", "remove one"
        if problem:
            raise BadInput(file, f"line {number} {problem}", remedy)
        found[name] = points
    points = np.array(list(found.values())).reshape(-1, 2, 18).swapaxes(1, 2)  # (N, 18, 2)
    present = (points != -1).all(2, keepdims=True)
    poses = from_coco18(np.concatenate([points * present, present], 2))  # (N, 25, 3)
    return dict(zip(found, map(Pose, poses)))


def _numbers(values: list) -> np.ndarray:
    # JSON numbers in lists of equal length; raises for anything else.
    numbers = np.array(values, object)
    if not {*map(type, numbers.flat)} <= {int, float}:
        raise TypeError
    return numbers.astype(float)


def parse_json(data: bytes, file: Path | str, name: str) -> dict[str, Pose]:
    """Parse JSON for one picture, called `name`, or many, as OpenPose, COCO and detectors write it.
    Raises ClickException, which calls it `file`, for anything else.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise BadInput(file, "not valid JSON", "give OpenPose or COCO keypoints") from None
    poses: dict[str, Pose] = {}
    try:
        order = _order(content, file)
        for called, people, size in _pictures(content, name):
            people = [_joints(person, file, order) for person in people if _points(person) != []]
            merge(poses, {called: _of_picture(people, size)}, file)
    except (TypeError, LookupError, AttributeError, ValueError, OverflowError):  # not its structure
        remedy = "export OpenPose or COCO JSON, or what MMPose and Ultralytics write"
        raise BadInput(file, "neither OpenPose nor COCO keypoints", remedy) from None
    return poses


def _pictures(content: dict | list, name: str) -> Iterator[tuple[str, list[dict], tuple | None]]:
    # Each picture's name, its people as written, and its size if known.
    name, canvas = re.sub(r"(_keypoints)?\.json$", "", name, flags=re.IGNORECASE), {}
    if isinstance(content, list) and len(content) == 1 and "people" in content[0]:  # ComfyUI
        content = content[0]
    if isinstance(content, dict):  # OpenPose, or MMPose with its metadata
        canvas, content = content, content.get("people", content.get("instance_info", content))
    if isinstance(content, dict) or (content and "image_id" in content[0]):  # COCO, or its results
        whole = content if isinstance(content, dict) else {"annotations": content}
        images = {image["id"]: image for image in whole.get("images", ())}
        if not isinstance(whole["annotations"], list):
            raise TypeError
        if len(images) < len(whole.get("images", ())):
            raise ValueError
        people: dict = {}
        for person in whole["annotations"]:
            if "keypoints" in person:  # else a box of something else
                people.setdefault(person["image_id"], []).append(person)
        for number, found in people.items():
            image = images.get(number, found[0])  # where some detectors name it
            yield str(image.get("file_name", number)), found, _size(image, "")
    elif content and "instances" in content[0]:  # MMPose on a video
        for frame in content:
            yield str(frame["frame_id"]), frame["instances"], None
    else:
        yield name, content, _size(canvas, "canvas_")  # which ControlNet and DWPose write


def _size(content: dict, prefix: str) -> tuple[int, int] | None:
    size = tuple(int(content.get(prefix + side) or 0) for side in ("height", "width"))
    if not 0 <= min(size) <= max(size) <= FARTHEST:
        raise ValueError
    return size if all(size) else None


def _order(content: dict | list, file: Path | str) -> list[int] | None:
    # Where COCO's 17 joints are among those of a file that names them.
    if not isinstance(content, dict):
        return None
    kinds = content.get("categories") or [content.get("meta_info") or {}]
    lists = (one.get("keypoints") or one.get("keypoint_id2name") for one in kinds)
    names = next(filter(None, lists), [])
    names = [names[key] for key in sorted(names, key=int)] if isinstance(names, dict) else names
    names = [re.sub("[ -]", "_", str(name)).lower() for name in names]
    order = [names.index(JOINTS[place]) for place in COCO17 if JOINTS[place] in names]
    if names == [*JOINTS] or len(order) < 2:  # OpenPose's, or under unknown names
        return None
    if len(order) < len(COCO17):
        raise BadInput(file, "its joints are not COCO's", "export COCO's 17 or OpenPose's")
    return order


def _points(person: dict) -> list | dict:
    return person.get("pose_keypoints_2d", person.get("pose_keypoints", person.get("keypoints")))


def _joints(person: dict, file: Path | str, order: list[int] | None) -> np.ndarray:
    # A person's x, y and confidence, flat or joint by joint, as BODY_25.
    points, scores = _points(person), person.get("keypoint_scores") or person.get("scores")
    if isinstance(points, dict):  # Ultralytics: separate x, y and visible; missing is 0, 0
        sure = points.get("visible") or np.ones(len(points["x"]))
        found = np.any([points["x"], points["y"]], 0)
        points = np.column_stack([points["x"], points["y"], sure * found])
        points[points[:, 2] < SEEN] = 0
    elif points and np.shape(points[0]) == (2,):  # MMPose, ViTPose: guesses have a low score
        sure = _numbers(scores) if scores else np.ones(len(points))
        points = np.column_stack([points, sure * (sure >= SEEN)])
    elif points and scores and np.shape(points[0]) == (3,) and {p[2] for p in points} - {0, 1, 2}:
        raise BadInput(file, "its joints are 3-D", "give the 2-D ones")
    joints = _numbers(points)
    if joints.shape[1:] not in ((), (3,)):
        raise TypeError
    if joints.size not in (75, 54, 51, 78, 399, 408):  # Halpe, whole bodies: COCO's come first
        problem = f"a person has {joints.size} numbers, 75, 54 or 51 are needed"
        raise BadInput(file, problem, "export COCO's 17 joints or OpenPose's 18 or 25")
    joints = joints.reshape(-1, 3)
    if order or len(joints) > 25:
        joints = joints[order or slice(17)]
    if not (abs(joints) <= FARTHEST).all():
        problem = "a joint is not finite, or beyond a million pixels"
        raise BadInput(file, problem, "write a missing one as 0, 0, 0")
    joints = joints.astype(np.float32)
    joints[:, 2] = joints[:, 2].clip(0, 1)  # COCO's visibility: 1 hidden, 2 seen
    joints[joints[:, 2] == 0] = 0
    return {25: np.copy, 18: from_coco18, 17: from_coco17}[len(joints)](joints)


def _of_picture(people: list[np.ndarray], size: tuple[int, int] | None) -> Pose:
    # The largest confident person. Numbers around 1 are fractions of the picture.
    def weight(joints: np.ndarray) -> float:
        points = joints[joints[:, 2] > 0, :2]
        return np.hypot(*np.ptp(points, 0)) * joints[:, 2].mean() if len(points) else -1.0

    if not people:
        return MISSING
    joints = max(people, key=weight)
    points = joints[joints[:, 2] > 0, :2]
    # Some joints may lie outside the picture.
    reach = abs(points).max(1)
    fractions = bool(len(points) and reach.max() <= 2 and np.median(reach) <= 1)
    # OpenPose's --keypoint_scale 4 is [-1, 1], where no joint lies outside.
    outside = 0.25 if size or (fractions and reach.max() > 1) else 0.0
    if fractions and (points < 0).any(1).mean() > outside:
        for one in people:
            one[:, :2] = (one[:, :2] + 1) / 2 * (one[:, 2:] > 0)
    return Pose(joints, size, fractions, tuple(people))


# ------------------------------------------------------------------------------ sheets


def draw_pose(pose: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The skeleton of a pose (25, 3) in colours on black: uint8 (H, W, 3)."""
    H, W = size
    scale = 4  # drawn larger and reduced, for smooth lines
    picture = Image.new("RGB", (W * scale, H * scale))
    pen = ImageDraw.Draw(picture)
    stroke = max(1, round(H * scale / 48))
    points, known = (pose[:, :2] + 0.5) * scale, pose[:, 2] > 0
    for number, (a, b) in enumerate(LIMBS):
        if known[a] and known[b]:
            colour = f"hsv({360 * number // len(LIMBS)}, 86%, 100%)"
            pen.line([*points[a], *points[b]], colour, stroke)
    for point in points[known]:
        pen.ellipse([*(point - stroke), *(point + stroke)], "white")
    return np.asarray(picture.resize((W, H), Image.Resampling.BOX))


def sheet(rows: list[list[np.ndarray]], zoom: int = 1) -> np.ndarray:
    """Pictures of one size, uint8 (H, W, 3), as a grid; rows may differ in length."""
    H, W = rows[0][0].shape[:2]
    shape = len(rows), max(map(len, rows)), H + 2, W + 2, 3
    cells = np.full(shape, 255, np.uint8)  # each with a gap above and on the left
    for line, row in zip(cells, rows):
        line[: len(row), 2:, 2:] = row
    grid = cells.swapaxes(1, 2).reshape(shape[0] * (H + 2), -1, 3)
    grid = np.pad(grid, ((0, 2), (0, 2), (0, 0)), constant_values=255)
    return grid.repeat(zoom, 0).repeat(zoom, 1)


def caption(text: str, width: int) -> np.ndarray:
    """A line of black text on white, uint8 (16, width, 3), cut off at the width."""
    picture = Image.new("RGB", (width, 16), "white")
    known = text.encode("latin-1", "replace").decode("latin-1")  # Pillow's font may have no more
    ImageDraw.Draw(picture).text((2, 2), known, "black")
    return np.asarray(picture)


def comparison(source: np.ndarray, target_pose: np.ndarray, *others: np.ndarray) -> list:
    """A sheet's row: the source, the target pose drawn, then the other pictures."""
    return [source, draw_pose(target_pose, source.shape[:2]), *others]


def draw_curves(panels: list[dict[str, list[tuple[float, float]]]]) -> np.ndarray:
    """Plot named curves of (x, y) points, each with a caption and its own scale: (H, W, 3)."""
    width, height, strips = 640, 64, []
    end = max((x for panel in panels for line in panel.values() for x, _ in line), default=1)
    for panel in panels:
        strips.append(caption(f"{end:,.0f} samples", width))
        for name, line in panel.items():
            x, y = np.array(line).T
            low, high = y.min(), y.max()
            across, up = (width - 2) / end * x, (height - 3) / ((high - low) or 1) * (y - low)
            points = np.stack([across, height - 2 - up], 1).repeat(2, 0)  # so one point shows too
            picture = Image.new("RGB", (width, height), (240, 240, 240))
            ImageDraw.Draw(picture).line(points.ravel().tolist(), "blue", 2)
            strips += [caption(f"{name} {y[-1]:.3g} ({low:.3g} to {high:.3g})", width), picture]
    return np.concatenate(strips)


def write_pictures(
    pictures: np.ndarray, paths: list[Path], overwrite: bool, option: str = "--out", fps: int = 5
) -> None:
    """Write pictures (B, H, W, 3) to one file each, or all to one looping animation."""
    made = [Image.fromarray(picture) for picture in pictures]
    options = {"compress_level": PNG_LEVEL, "quality": LOSSY}
    if len(made) > len(paths):
        if paths[0].suffix.lower() == ".gif":
            # One palette for all frames, so that a still background does not flicker.
            shown = np.concatenate(made[:: max(1, len(made) // 8)])
            palette = Image.fromarray(shown).quantize(256, Image.Quantize.MEDIANCUT)
            made = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in made]
        # GIF's whole hundredths of a second, rounded so that they don't drift.
        ends = [10 * round(100 * place / fps) for place in range(len(made) + 1)]
        durations = np.diff(ends).tolist()
        options = {"save_all": True, "append_images": made[1:], "duration": durations, "loop": 0}
    for picture, path in zip(made, paths):
        with replaced(path, option, overwrite) as beside:
            try:
                picture.save(beside, **options)
            except (ValueError, OverflowError, RuntimeError, OSError) as error:  # too large
                if getattr(error, "errno", None):
                    raise
                raise BadInput(path, f"can't be written ({error})", "end it with .png") from None
