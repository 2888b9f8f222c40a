"""Photos: framing the person, moving them with a generator, and pasting them back."""

import math
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from click import ClickException
from PIL import Image
from torch import Tensor, nn

from posegan import checkpoints, demo, features, metrics, pairs, poses
from posegan.augment import pixel_grid, sample, sampling, warp
from posegan.body import carry, filled, matte, surroundings
from posegan.poses import BadInput, metre, within

FILLED = 0.92  # share of the frame's height or width that the person fills, as in detector boxes
WIDENED = 1.5  # at most this many times its size does a frame grow to fit the new poses
SNAPPED = 1.25  # a frame whose size is within this factor of the photo's becomes the whole photo
BATCH = 32  # pictures per run of the model
FEW_PIXELS = 1 << 18  # pixels composed at once: more leave the cache
SMALLEST = 8  # pixels that a person's joints must span, vertically or horizontally
SHEET_CELL = 256, 128  # height and width of a sheet's pictures
SHEET_POSES = 12  # per photo, at most
# How far below these joints, in metres, the body ends (negative: above): crown and soles.
BEYOND = np.zeros((25, 2))
BEYOND[[0, 1, 15, 16, 17, 18, 11, 14], 1] = -0.17, -0.33, -0.14, -0.14, -0.15, -0.15, 0.09, 0.09

Size = tuple[int, int]  # height, width
Crop = tuple[int, int, int, int]  # left, top, right, bottom
Photo = Image.Image | Tensor | str | Path
Pose = np.ndarray | None  # the person's own (25, 3), if known


# ------------------------------------------------------------------------------ framing


class Frame(NamedTuple):
    """The part of a photo that is scaled to the model's `size`; may extend beyond the edges."""

    left: int
    top: int
    height: int
    width: int
    size: Size

    @property
    def scale(self) -> float:
        """Pixels of the photo per pixel of the model."""
        return self.height / self.size[0]

    def to_model(self, pose: np.ndarray) -> np.ndarray:
        """A pose (..., 25, 3) of the photo in the model's pixels; no joint is dropped."""
        corner = np.array([self.left, self.top])
        return poses.similar(pose, 1 / self.scale, (0.5 - corner) / self.scale - 0.5)

    def window(self, photo_size: Size) -> tuple[slice, slice]:
        """The rows and columns of the photo inside the frame."""
        H, W = photo_size
        rows = slice(max(0, self.top), min(H, self.top + self.height))
        return rows, slice(max(0, self.left), min(W, self.left + self.width))

    def cut(self, photo: np.ndarray) -> np.ndarray:
        """What the model sees of a photo uint8 (H, W, 3), with its edges replicated outwards."""
        rows, columns = self.window(photo.shape[:2])
        # How many of the model's pixels the window covers, at least one, and the rest as padding.
        sides = []
        for part, start, length in zip((rows, columns), (self.top, self.left), self.size):
            first, end = (round((at - start) / self.scale) for at in (part.start, part.stop))
            sides.append((first, length - max(first + 1, min(length, end))))
        (above, below), (left, right) = sides
        size = self.size[1] - left - right, self.size[0] - above - below
        part = Image.fromarray(photo[rows, columns]).resize(size, Image.Resampling.BICUBIC)
        return np.pad(part, (*sides, (0, 0)), mode="edge")


def body_box(pose: np.ndarray) -> np.ndarray:
    """The box (left, top, right, bottom) of a person from the pose (25, 3), with head and feet."""
    known = pose[:, 2] > 0
    points, unit = pose[known, :2], metre(pose)
    points = np.concatenate([points, points + BEYOND[known] * unit])
    aside = 0.07 * unit, 0
    return np.concatenate([points.min(0) - aside, points.max(0) + aside])


def boxed(box: np.ndarray, photo_size: Size, size: Size, share: float = FILLED) -> Frame:
    """A frame of whose height or width a box (left, top, right, bottom) fills this share, shifted
    into the photo as far as a small shift can.
    """
    aspect = size[1] / size[0]
    height = max(box[3] - box[1], (box[2] - box[0]) / aspect) / share
    H, W = photo_size
    if abs(math.log(W / H / aspect)) < 0.05 and 1 / SNAPPED < height / H < SNAPPED:
        return Frame(0, 0, H, W, size)
    extent = np.array([height * aspect, height])
    corner = (box[:2] + box[2:] - extent) / 2
    free = np.array([W, H]) - extent
    inside = np.clip(corner, np.minimum(free, 0), np.maximum(free, 0))
    corner += np.clip(inside - corner, -0.15 * extent, 0.15 * extent)
    left, top = (round(edge) for edge in corner)
    return Frame(left, top, max(1, round(height)), max(1, round(height * aspect)), size)


def holding(box: np.ndarray, person: np.ndarray) -> np.ndarray:
    """A box, moved just enough to contain the person's box, or to lie inside a larger one."""
    room = np.sort([person[2:] - box[2:], person[:2] - box[:2]], axis=0)
    return box + np.tile(np.clip(0, *room), 2)


def frame_person(
    photo_size: Size, size: Size, own: Pose, moved: Collection = (), crop: Crop | None = None
) -> Frame:
    """The part of a photo that a model of `size` sees.

    `own` is the person's pose (25, 3), `moved` the poses to take: the frame grows to fit them, at
    most WIDENED times. A `crop` is used as given, but shifted if the person lies outside. With
    neither pose nor crop the frame is the middle of the photo, at full height.
    """
    person = None if own is None or not (own[:, 2] > 0).any() else body_box(own)
    if crop:
        box = np.array(crop, float)
        box = box if person is None else holding(box, person)
        return boxed(box, photo_size, size, 1)
    if person is None:
        height = photo_size[0]
        width = max(1, round(height * size[1] / size[0]))
        return Frame((photo_size[1] - width) // 2, 0, height, width, size)
    alone = boxed(person, photo_size, size)
    boxes = np.array([person, *(body_box(pose) for pose in moved if (pose[:, 2] > 0).any())])
    together = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])
    frame = boxed(together, photo_size, size)
    if frame.height <= WIDENED * alone.height:
        return frame
    # Too far apart: the largest frame allowed, centred on all poses but containing the person.
    extent = np.array([alone.width, alone.height]) * WIDENED * FILLED / 2
    middle = (together[:2] + together[2:]) / 2
    box = np.concatenate([middle - extent, middle + extent])
    return boxed(holding(box, person), photo_size, size)


# ------------------------------------------------------------------------------ a model on photos


class Shot:
    """A photo uint8 (H, W, 3), the frame that a model sees of it, and the person's pose.

    Holds the window that the frame shows, split into person and background: tensors in [0, 255].
    """

    def __init__(self, photo: np.ndarray, frame: Frame, own: Pose):
        self.photo, self.frame, self.own = photo, frame, own
        self.rows, self.columns = frame.window(self.photo.shape[:2])
        self.source = torch.from_numpy(frame.cut(self.photo)).permute(2, 0, 1)[None]
        self.seen = None if self.own is None else frame.to_model(self.own)
        part = self.photo[self.rows, self.columns].copy()
        # The window's pixels in the model's picture, in `sample`'s coordinates: (1, h, w, 2).
        corner = torch.tensor([self.columns.start - frame.left, self.rows.start - frame.top])
        grid = pixel_grid(*part.shape[:2], corner.device).permute(1, 2, 0)[None]
        places = (grid + corner + 0.5) / frame.scale - 0.5
        scale, origin = sampling(*frame.size, corner.device)
        self.places = torch.addcmul(origin, places, scale)
        self.shown = torch.from_numpy(part).permute(2, 0, 1)[None].float()  # (1, 3, h, w)
        self.background = self.shown  # filled in behind the person
        self.person = torch.zeros_like(self.shown[:, :1])  # (1, 1, h, w) in [0, 1]
        self.around = self.person  # the same with a margin
        if self.own is not None:
            here = self.in_window(self.own)
            self.person = matte(part, here)
            self.around, hole = surroundings(self.person, here)
            self.background = filled(self.shown, 1 - hole)
        self.both = torch.cat([self.shown, self.person], 1)

    def in_window(self, pose: np.ndarray) -> np.ndarray:
        """Poses (..., 25, 3) of the photo in pixels of the frame's window."""
        return poses.similar(pose, 1, (-self.columns.start, -self.rows.start))

    def pictures(self, generator: nn.Module, moved: np.ndarray) -> Iterator[np.ndarray]:
        """The frame's window, uint8 (h, w, 3), with the person in poses (N, 25, 3) of the photo."""
        few = max(1, min(BATCH, FEW_PIXELS // self.person.numel()))
        moved = self.frame.to_model(moved)
        for start in range(0, len(moved), BATCH):
            maps = self.make(generator, moved[start : start + BATCH])
            for part in maps.split(few):
                yield from checkpoints.to_pictures(self.compose(part))

    @torch.inference_mode()
    def make(self, generator: nn.Module, moved: np.ndarray) -> Tensor:
        """The maps that pictures are composed of, for poses (B, 25, 3) in the model's pixels.

        (B, 12, H, W) at the model's size: those of `Carried`, the generator's painting, its flow
        in pixels, and its trust in the flow.
        """
        size = self.frame.size
        own = None if self.seen is None else torch.from_numpy(within(self.seen, size))[None]
        target = torch.from_numpy(within(moved, size))
        made = checkpoints.synthesise(generator, self.source, target, own)
        parts = made.image, made.painted, made.found.flows[3], made.trust
        image, painted, flow, trust = (one.float().cpu() for one in parts)
        carried = carry(self.seen, moved, size)
        # Adapts the painting's colours to the photo's next to it, so that no seam shows.
        source = pairs.normalise(self.source).expand_as(image)
        seam = warp(source, carried.flow) - image
        painted = (painted + filled(seam, carried.known) + 1) * 127.5
        return torch.cat([*carried, painted, flow, trust], 1)

    @torch.inference_mode()
    def compose(self, maps: Tensor) -> Tensor:
        """The person in the new pose on the photo's own background: uint8 (B, 3, h, w).

        Body pixels come from the photo where the skeleton or the model's flow finds them there; the
        rest is the model's painting, upscaled. Where nothing moves, the photo is kept.
        Without the person's pose all of it is the model's. For the maps see `make`.
        """
        every = len(maps), -1, -1, -1
        maps = sample(maps, self.places.expand(every))  # (B, 12, h, w)
        flow, known, body, core, still, painted, own_flow, trust = maps.split(
            [2, 1, 1, 1, 1, 3, 2, 1], 1
        )
        both = self.both.expand(every)
        taken, own = warp(both, flow * self.frame.scale).split([3, 1], 1)
        by_model = warp(both[:, :3], own_flow * self.frame.scale)
        person = painted.lerp_(by_model, trust).lerp_(taken, known)
        image = torch.lerp(self.background, person, core.lerp_(body * own, known))
        still = still.masked_fill_((body <= 0) & (self.around <= 0), 1)
        return image.lerp_(self.shown, still).round_().clamp_(0, 255).to(torch.uint8)

    def paste(self, picture: np.ndarray) -> np.ndarray:
        """The photo with a picture of the frame's window blended in."""
        soft = 1 + max(1, round(0.08 * self.frame.width))
        sides = []
        for part, length in zip((self.rows, self.columns), self.photo.shape):
            place = np.arange(part.start, part.stop)
            # Edges of the photo need no blending.
            first = (place - part.start + 1) / soft if part.start else np.ones(len(place))
            last = (part.stop - place) / soft if part.stop < length else 1
            sides.append(np.minimum(first, last).clip(max=1))
        weight = np.outer(*sides)[..., None]
        pasted = self.photo.copy()
        under = pasted[self.rows, self.columns]
        pasted[self.rows, self.columns] = (under + weight * (picture.astype(float) - under)).round()
        return pasted


# ------------------------------------------------------------------------------ poses to take


class Targets(NamedTuple):
    """Poses that are fitted together: a motion, a folder or one pose."""

    names: list[str]
    found: list[poses.Pose]  # empty for a motion, whose name `names` repeats for each frame
    broken: list[ClickException]  # for files of a folder that could not be read


def read_targets(
    pose: str | Path, find: Callable | None = None, person: int | None = None
) -> Targets:
    """Read a POSE argument: a motion's name, a pose file, a photo, or a folder of these.

    Raises ClickException if there is no usable pose.
    """
    path, files, targets = Path(pose), [pose], Targets([], [], [])
    if pose in demo.MOTIONS and not path.is_file():  # ./walk is a folder, and so is Path("walk")
        return Targets([pose] * demo.MOTION_FRAMES, [], [])
    if not (path.exists() or poses.split_name(str(pose))[1]):
        remedy = f"check the path, or name a motion: {', '.join(demo.MOTIONS)}"
        raise BadInput(pose, "no such file", remedy)
    if path.is_dir():
        files = poses.visible(path, (".json", ".csv"))
        known = {file.stem.removesuffix("_keypoints") for file in files}
        photos = poses.visible(path, poses.PICTURES)
        files += [file for file in photos if file.stem not in known]
        files.sort(key=poses.in_order)
    for file in files:
        try:
            targets.found.append(read_target(file, find, person))
        except ClickException as error:
            targets.broken.append(error)
        else:
            where, row = poses.split_name(str(file))
            name = Path(where).name + f":{row}" * bool(row)
            name = Path(re.sub("[:/]", "_", name)).stem
            targets.names.append(name.removesuffix("_keypoints"))
    if not targets.found:
        none = BadInput(path, "no poses in it", "put pose files or photos there")
        raise targets.broken[0] if len(targets.broken) == 1 else none
    return targets


def read_target(file: str | Path, find: Callable | None, person: int | None) -> poses.Pose:
    """Read one pose; a photo's from the pose file next to it, if there is one."""
    if not (stored := beside(Path(file))):
        return poses.read_pose(file, find, person)
    size = poses.image_size(Path(file))
    with found_for(Path(file)):
        return poses.Pose(poses.read_pose(stored, None, person, False, str(file)).at(size), size)


@contextmanager
def found_for(photo: Path | None) -> Iterator[None]:
    """Make errors say that a file was taken for the pose of a photo, unless there is none."""
    try:
        yield
    except ClickException as error:
        if photo:
            error.message += f" (taken for the pose of {photo}; rename it if it is not)"
        raise


def own_pose(
    photo: Path | None,
    picture: np.ndarray,
    given: str | Path | None = None,
    find: Callable | None = None,
    person: int | None = None,
    crop: Crop | None = None,
) -> tuple[np.ndarray | None, str]:
    """The pose (25, 3) of the person in a photo, or None, and a note on its origin: the file
    `given`, else NAME.json or NAME_keypoints.json next to the photo, else what `find` detects. Of
    several people in a file, number `person`, else the one that the `crop` shows most of.
    """
    found = None if given or not photo else beside(photo)
    if given or found:
        with found_for(photo if found else None):
            own, note = read_own(given or found, picture.shape[:2], find, person, crop, photo)
            check_own(own, picture.shape[:2], given or found, photo)
        return own, note
    if not find:
        return None, "no pose given for the person"
    try:
        own = find([picture])[0]
    except ClickException as error:
        return None, error.message
    if not own[:, 2].any():
        return None, "no person found"
    return own, "the person's pose: found by Keypoint R-CNN"


def beside(photo: Path) -> Path | None:
    """The pose file NAME_keypoints.json or NAME.json next to a photo, if there is one."""
    if photo.suffix.lower() not in poses.PICTURES:
        return None
    files = (photo.with_name(photo.stem + end) for end in ("_keypoints.json", ".json"))
    return next((file for file in files if file.is_file()), None)


def check_own(own: np.ndarray, size: Size, name: object, photo: Path | None) -> None:
    """Raise ClickException for a pose (25, 3) that shows nobody in a photo of this size."""
    if not within(own, size)[:, 2].any():
        remedy = "check its coordinates, or whether it belongs to this photo"
        raise BadInput(name, f"no joint is inside {photo or 'the photo'}", remedy)
    if np.ptp(own[own[:, 2] > 0, :2], 0).max() < SMALLEST:
        problem = f"all its joints lie within {SMALLEST} pixels"
        raise BadInput(name, problem, "give a pose with more joints, or a larger photo")


def read_own(
    file: str | Path,
    size: Size,
    find: Callable | None,
    person: int | None,
    crop: Crop | None,
    photo: Path | None,
) -> tuple[np.ndarray, str]:
    """A pose (25, 3) in pixels of a photo of this `size`, and `own_pose`'s note on it."""
    pose = poses.read_pose(file, find, person, crop is not None, photo.name if photo else "")
    own, note = pose.at(size), f"the person's pose: {file}"
    if crop and not person:
        left, top, right, bottom = crop
        people = [own, *(replace(pose, joints=one).at(size) for one in pose.people)]
        moved = poses.similar(np.stack(people), 1, (-left, -top))
        shown = within(moved, (bottom - top, right - left))[..., 2] > 0
        own = people[shown.sum(1).argmax()]
    if pose.size and not poses.same_shape(pose.size, size):
        note += ", for a picture of {}x{}, not {}x{} (height x width)".format(*pose.size, *size)
    return own, note


def perform(name: str, own: Pose) -> np.ndarray:
    """A motion of `demo.MOTIONS` as poses (N, 25, 3) in metres, with the proportions of `own`.

    It faces the way the person does; walking and running turn at least a little to the side.
    """
    yaw = 0.0 if own is None else poses.facing(own)
    if name in ("walk", "run"):
        yaw = math.copysign(max(25, abs(yaw)), yaw)
    motion = demo.motion(name, yaw)
    if own is None or not metre(own):
        return motion
    return poses.proportioned(motion, demo.motion("stretch")[0], own)


def aim(moved: np.ndarray, own: Pose, photo_size: Size, frame: Frame) -> np.ndarray:
    """Fit poses (N, 25, 3) from any frame to the person in a photo, by one similarity.

    Poses that already fit are kept. If the person's pose is unknown, they fill the `frame`.
    """
    if poses.fits(moved, own, photo_size):
        return moved
    if own is not None and metre(own) and any(map(metre, moved)):
        return poses.place(moved, own)
    rows, columns = frame.window(photo_size)
    size = rows.stop - rows.start, columns.stop - columns.start
    return poses.similar(poses.centre(moved, size), 1, (columns.start, rows.start))


def shoot(
    picture: np.ndarray,
    own: Pose,
    targets: list[Targets],
    size: Size,
    crop: Crop | None = None,
    fit: bool = True,
) -> tuple[Shot, np.ndarray]:
    """Frame a photo for a model of `size`, and bring all poses (N, 25, 3) into its pixels.

    `aim` fits them unless `fit` is False. Raises ClickException for poses outside the photo.
    """
    photo_size = H, W = picture.shape[:2]
    left, top, right, bottom = crop or (0, 0, W, H)
    outside = own is None and (min(right, bottom) <= 0 or left >= W or top >= H)
    if outside or right - left > 4 * W or bottom - top > 4 * H:
        problem = "outside" if outside else "much larger than"
        problem += f" the photo, which is {W} wide and {H} high"
        raise BadInput("--crop", problem, "give left, top, right and bottom in its pixels")
    frame, moved = frame_person(photo_size, size, own, [], crop), []
    for one in targets:
        placed = np.array([pose.at(photo_size) for pose in one.found])
        if not one.found:
            placed = perform(one.names[0], own)
        if fit or not one.found:
            placed = aim(placed, own, photo_size, frame)
        if one.found and not within(placed, photo_size)[..., 2].any():
            remedy = "check its coordinates, or leave out --no-fit"
            remedy = "check the person's own pose" if fit else remedy
            raise BadInput(one.names[0], "no joint is inside the photo", remedy)
        moved.append(placed)
    moved = np.concatenate(moved)
    return Shot(picture, frame_person(photo_size, size, own, moved, crop), own), moved


def unused(targets: list[Targets], moved: np.ndarray, frame: Frame) -> Iterator[str]:
    """Lines that name the joints of poses (N, 25, 3) that are missing or outside the frame."""
    ends = np.cumsum([len(one.names) for one in targets])
    for one, part in zip(targets, np.split(moved, ends)):
        count, known = len(part), part[..., 2] > 0  # (n, 25)
        name = one.names[0] if count == 1 or not one.found else f"{count} poses"
        outside = known & ~(within(frame.to_model(part), frame.size)[..., 2] > 0)
        # Only BODY_25 has feet.
        end = len(poses.JOINTS) if known[:, 19:].any() else 19
        for problem, found in (("missing", ~known), ("outside the frame", outside)):
            joints = [
                joint if often == count else f"{joint} ({often} of {count} poses)"
                for joint, often in zip(poses.JOINTS[:end], found.sum(0))
                if often
            ]
            if joints:
                yield f"{name}: {problem}: {', '.join(joints)}"


def evenly(moved: np.ndarray) -> np.ndarray:
    """Of poses (N, 25, 3), at most as many as a sheet shows, evenly spaced."""
    places = np.linspace(0, len(moved) - 1, min(len(moved), SHEET_POSES)).round()
    return moved[places.astype(int)]


def sheet_rows(shot: Shot, moved: np.ndarray, made: Iterator[np.ndarray]) -> list[list[np.ndarray]]:
    """Two rows of a sheet: the photo and the poses (N, 25, 3), and below them the results."""
    part = shot.photo[shot.rows, shot.columns]
    own = np.zeros_like(moved[0]) if shot.own is None else shot.own
    placed = shot.in_window(np.stack([own, *moved]))
    fitted = (poses.fit_pose(pose, part.shape[:2], SHEET_CELL) for pose in placed)
    drawn = [poses.draw_pose(pose, SHEET_CELL) for pose in fitted]
    source, *pictures = (poses.fit_image(one, SHEET_CELL) for one in (part, *made))
    return [[source, *drawn[1:]], [drawn[0], *pictures]]


# ------------------------------------------------------------------------------ from Python


class Model:
    """A generator for photos: `model(photo, pose)` shows the person in that pose."""

    def __init__(self, generator: nn.Module, find: Callable | None = None):
        self.generator, self.find = generator, find
        self.size = generator.height, generator.width

    def __call__(
        self,
        photo: Photo,
        pose: str | Path | np.ndarray | Tensor,
        source_pose: str | Path | np.ndarray | Tensor | None = None,
        crop: Crop | None = None,
        paste: bool = False,
        fit: bool = True,
    ) -> Image.Image | Tensor | list:
        """The person of a photo in a pose: a PIL picture, or a tensor if the photo is a tensor.

        A photo is a file, a PIL picture or a uint8 tensor (3, H, W). A pose is what the command
        takes, or BODY_25 joints (25, 3) in the photo's pixels; a motion or a folder gives a list.
        `crop` (left, top, right, bottom) locates the person if no `source_pose` does; `paste`
        returns the whole photo; `fit` False uses the pose unchanged. Raises ClickException for
        unusable input.
        """
        picture = read_photo(photo)
        crop = None if crop is None else as_crop(crop)
        if not isinstance(source_pose, str | Path | None):
            own = as_joints(source_pose, "source_pose")
            check_own(own, picture.shape[:2], "source_pose", None)
        else:
            file = Path(photo) if isinstance(photo, str | Path) else None
            own, _ = own_pose(file, picture, source_pose, self.find, None, crop)
        targets = as_targets(pose, self.find)
        with torch.autocast("cpu", enabled=False):  # in which the caller may be
            shot, moved = shoot(picture, own, [targets], self.size, crop, fit)
            pictures, made = list(shot.pictures(self.generator, moved)), []
        for one in pictures:
            one = shot.paste(one) if paste else one
            tensor = isinstance(photo, Tensor)
            made.append(torch.from_numpy(one).permute(2, 0, 1) if tensor else Image.fromarray(one))
        return made if len(made) > 1 or not targets.found else made[0]


def as_targets(pose: str | Path | np.ndarray | Tensor, find: Callable | None) -> Targets:
    """The Targets of a pose as `Model` takes it."""
    if isinstance(pose, str | Path):
        try:
            targets = read_targets(pose, find)
        except OSError as error:  # a text in a path's place
            raise BadInput(f"pose {str(pose)[:40]!r}", error.strerror, "give a file") from None
        if targets.broken:
            raise targets.broken[0]
        return targets
    return Targets(["pose"], [poses.Pose(as_joints(pose, "pose"))], [])


def as_crop(crop: Crop | np.ndarray | Tensor) -> Crop:
    """The four numbers of a box. Raises ClickException if it is not a box."""
    with suppress(TypeError, ValueError):
        left, top, right, bottom = map(float, crop)
        if right - left >= SMALLEST and bottom - top >= SMALLEST:  # False for NaN
            return left, top, right, bottom
    raise BadInput("crop", "not a box", "give left, top, right, bottom in pixels")


def as_joints(pose: np.ndarray | Tensor, name: str) -> np.ndarray:
    """The argument `name` as joints float32 (25, 3). Raises ClickException if it is none."""
    try:
        pose = pose.detach().cpu() if isinstance(pose, Tensor) else pose
        joints = np.asarray(pose, np.float32).copy()
        good = joints.shape == (25, 3) and (abs(joints) <= poses.FARTHEST).all()
    except (TypeError, ValueError, RuntimeError):
        good = False
    if not good or (abs(joints[:, :2]) <= 1).all():
        problem = "not BODY_25 joints (25, 3) in pixels"
        raise BadInput(name, problem, "give x and y in pixels, and confidence")
    poses.check_joints(joints, name)
    joints[:, 2] = joints[:, 2].clip(0, 1)
    return joints


def read_photo(photo: Photo, convert: bool = True) -> np.ndarray:
    """A photo as `Model` takes it, as uint8 (H, W, 3), `convert`ed to sRGB. Raises ClickException
    for anything else.
    """
    if isinstance(photo, str | Path):
        return poses.read_photo(Path(photo), convert)
    problem, remedy = type(photo).__name__, "give a file, a PIL picture or a uint8 tensor (3, H, W)"
    if isinstance(photo, Tensor):
        if photo.dtype == torch.uint8 and photo.ndim == 3 and len(photo) == 3:
            return poses.large_enough(photo.permute(1, 2, 0).cpu().numpy(), "photo")
        problem = f"a tensor {photo.dtype} {tuple(photo.shape)}"
    elif isinstance(photo, Image.Image):
        try:
            return poses.large_enough(poses.upright(photo, convert), "photo")
        except (ValueError, OSError) as error:
            problem = f"a picture that can't be used ({error})"
    raise BadInput("photo", problem, remedy)


def load(checkpoint: str | Path | None = None, device: str = "auto") -> Model:
    """The model of a checkpoint; by default of the newest run, else the built-in one.

    Raises ClickException if there is none, or for a device that this machine lacks.
    """
    path = checkpoints.default_checkpoint() if checkpoint is None else Path(checkpoint)
    device = checkpoints.pick_device(device)
    find = partial(features.find_poses, device=device)
    return Model(checkpoints.load_generator(path, device), find)


class Finder:
    """A person detector for photos, Keypoint R-CNN, whose weights are downloaded on first use.

    Raises ClickException if `weights` is given and does not hold its weights.
    """

    def __init__(self, device: str, weights: str | None = None):
        device = checkpoints.pick_device(device)
        self.find = partial(features.find_poses, weights=weights, device=device)
        self.failed: ClickException | None = None
        if weights:
            self.find([])

    def __call__(self, images: list[np.ndarray]) -> np.ndarray:
        if self.failed:  # try the download only once
            raise self.failed
        try:
            return self.find(images)
        except ClickException as error:
            self.failed = error
            raise


def score(
    generated: Image.Image | Tensor | list,
    target: Image.Image | Tensor | list,
    pose: np.ndarray | Tensor | None = None,
    names: str | Collection[str] = metrics.PIXEL_SCORES,
) -> dict[str, float]:
    """The mean scores of pictures against their targets, by the names that `posegan score` prints.

    Pictures are PIL pictures or uint8 tensors (3, H, W), one or a list of equal size; `mask_ssim`
    needs the targets' poses (B, 25, 3). Scores that need larger pictures are left out. Raises
    ClickException for what are no such pictures, ValueError for what can't be scored.
    """
    sides = []
    for side in (generated, target):
        side = side if isinstance(side, list | tuple) else [side]
        pictures = [read_photo(one, convert=False) for one in side]  # scores are of what is stored
        if len({one.shape for one in pictures}) != 1:
            raise BadInput("pictures", "none, or of several sizes", "give some of one size")
        sides.append(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))
    try:
        pose = None if pose is None else torch.as_tensor(pose)
    except (TypeError, ValueError, RuntimeError):
        raise BadInput("pose", "not joints (B, 25, 3)", "give the targets' poses") from None
    found = metrics.scores(*sides, pose, [names] if isinstance(names, str) else names)
    if not found:
        raise BadInput("names", "none can be computed", "give poses, or larger pictures")
    return {name: float(values.mean()) for name, values in found.items()}
