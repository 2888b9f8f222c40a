"""One's own photograph: the person is framed, moved by a generator, and put back into the place."""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from click import ClickException
from PIL import Image
from torch import Tensor, nn

from posegan import checkpoints, demo, features, metrics, pairs, poses
from posegan.augment import look_up, pixel_grid, warp
from posegan.body import Carried, carry, filled, matte, surroundings
from posegan.poses import BadInput, metre

FILLED = 0.92  # of the frame's height or width the person takes, as in a detector's boxes
WIDENED = 1.5  # times its own size a frame grows at most, so that the new poses fit in it too
SNAPPED = 1.25  # a frame that differs less from the whole photo is the whole photo
BATCH = 32  # pictures for the model at once
FEW_PIXELS = 1 << 19  # of pictures that are put together at once: more leave the cache


# ------------------------------------------------------------------------------ framing


@dataclass(frozen=True)
class Frame:
    """The part of a photograph that a model sees: whole pixels, and it may reach beyond the edge.

    `height` and `width` are the photo's pixels that become the model's `size` (height, width).
    """

    left: int
    top: int
    height: int
    width: int
    size: tuple[int, int]

    @property
    def scale(self) -> float:
        """Pixels of the photograph for one of the model's."""
        return self.height / self.size[0]

    def to_model(self, pose: np.ndarray) -> np.ndarray:
        """A pose (..., 25, 3) of the photograph in the model's pixels; none is left out."""
        points = (pose[..., :2] + 0.5 - (self.left, self.top)) / self.scale - 0.5
        known = pose[..., 2:]
        return np.concatenate([points * (known > 0), known], -1).astype(np.float32)

    def window(self, photo_size: tuple[int, int]) -> tuple[slice, slice]:
        """The rows and columns of the photograph that are inside the frame."""
        H, W = photo_size
        rows = slice(max(0, self.top), min(H, self.top + self.height))
        return rows, slice(max(0, self.left), min(W, self.left + self.width))

    def cut(self, photo: np.ndarray) -> np.ndarray:
        """What the model sees of a photo uint8 (H, W, 3); beyond its edge the edge goes on."""
        rows, columns = self.window(photo.shape[:2])
        H, W = self.size
        # The model's pixels that the window covers, at least one; the rest repeats the edge.
        edges = np.array([rows.start, rows.stop, columns.start, columns.stop], float)
        edges = (edges - np.repeat([self.top, self.left], 2)) / self.scale
        top, left = (round(edge) for edge in edges[::2])
        height = max(1, min(H, round(edges[1])) - top)
        width = max(1, min(W, round(edges[3])) - left)
        part = Image.fromarray(np.ascontiguousarray(photo[rows, columns]))
        part = np.asarray(part.resize((width, height), Image.Resampling.BICUBIC))
        beyond = ((top, H - height - top), (left, W - width - left), (0, 0))
        return np.pad(part, beyond, mode="edge")


def body_box(pose: np.ndarray) -> np.ndarray:
    """The box (left, top, right, bottom) of the person whose pose (25, 3) it is, head and feet in.

    With no bone to tell the person's size the joints alone.
    """
    points, known = pose[:, :2], pose[:, 2] > 0
    low, high = points[known].min(0), points[known].max(0)
    unit = metre(pose)
    crown = [points[i, 1] - above * unit for i, above in _CROWN.items() if known[i]]
    sole = [points[i, 1] + 0.09 * unit for i in poses.ANKLES if known[i]]
    top, bottom = min([low[1], *crown]), max([high[1], *sole])
    return np.array([low[0] - 0.07 * unit, top, high[0] + 0.07 * unit, bottom])


_CROWN = {0: 0.17, 1: 0.33, 15: 0.14, 16: 0.14, 17: 0.15, 18: 0.15}  # metres above these joints


def whole(photo_size: tuple[int, int], size: tuple[int, int]) -> Frame:
    """The frame of a photograph of which nothing is known: its whole height, the middle."""
    height = photo_size[0]
    width = max(1, round(height * size[1] / size[0]))
    return Frame((photo_size[1] - width) // 2, 0, height, width, size)


def boxed(box: np.ndarray, photo_size: tuple[int, int], size: tuple[int, int]) -> Frame:
    """The frame about a box (left, top, right, bottom) that should be filled as training pictures
    are; moved into the photograph where that is easily done.
    """
    aspect = size[1] / size[0]
    height = max(box[3] - box[1], (box[2] - box[0]) / aspect) / FILLED
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


def frame_person(
    photo_size: tuple[int, int],
    size: tuple[int, int],
    own: np.ndarray | None,
    moved: list[np.ndarray],
    crop: tuple[int, int, int, int] | None = None,
) -> Frame:
    """Where a model of `size` looks for the person of a photograph; all in its pixels.

    `own` is the person's pose (25, 3), `moved` are those it is to take: the frame grows until they
    fit, to WIDENED times at most. A `crop` (left, top, right, bottom) is taken as it is, but moves
    where the person lies outside.
    """
    boxes = [body_box(pose) for pose in moved if (pose[:, 2] > 0).any()]
    person = None if own is None or not (own[:, 2] > 0).any() else body_box(own)
    if crop:
        box = np.array(crop, float)
        if person is not None:
            # Moved no farther than needed; a person larger than the crop is in its middle.
            room = [person[2:] - box[2:], person[:2] - box[:2]]
            shift = np.clip(0, np.minimum(*room), np.maximum(*room))
            box += np.tile(shift, 2)
        middle, extent = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        extent = extent * FILLED
        return boxed(np.concatenate([middle - extent / 2, middle + extent / 2]), photo_size, size)
    if person is None:
        return whole(photo_size, size)
    alone = boxed(person, photo_size, size)
    together = np.array([person, *boxes])
    together = np.concatenate([together[:, :2].min(0), together[:, 2:].max(0)])
    frame = boxed(together, photo_size, size)
    if frame.height <= WIDENED * alone.height:
        return frame
    # Too far: as large as allowed, about what is shown, with the person in it.
    extent = np.array([alone.width, alone.height]) * WIDENED * FILLED / 2
    middle = (together[:2] + together[2:]) / 2
    low, high = person[2:] - extent, person[:2] + extent
    middle = np.clip(middle, np.minimum(low, high), np.maximum(low, high))
    return boxed(np.concatenate([middle - extent, middle + extent]), photo_size, size)


# ------------------------------------------------------------------------------ putting together


class Scene(NamedTuple):
    """A photograph taken apart, as far as a frame shows it; tensors of its window, in [-1, 1]."""

    photo: Tensor  # (1, 3, h, w)
    person: Tensor  # (1, 1, h, w) in [0, 1]
    around: Tensor  # (1, 1, h, w): the same, generously
    background: Tensor  # (1, 3, h, w), filled where the person is
    rows: Tensor  # (h,): where each is at the model's size
    columns: Tensor  # (w,)


def take_apart(photo: np.ndarray, frame: Frame, own: np.ndarray | None) -> Scene:
    """Part the person of a photo uint8 (H, W, 3) from the background; `own` is the pose there."""
    rows, columns = frame.window(photo.shape[:2])
    part = np.ascontiguousarray(photo[rows, columns])
    image = pairs.normalise(torch.from_numpy(part.copy()).permute(2, 0, 1)[None])
    places = [
        (torch.arange(part.start - first, part.stop - first) + 0.5) / frame.scale - 0.5
        for part, first in ((rows, frame.top), (columns, frame.left))
    ]
    if own is None:
        nothing = torch.zeros_like(image[:, :1])
        return Scene(image, nothing, nothing, image, *places)
    here = own - np.array([columns.start, rows.start, 0], np.float32) * (own[:, 2:] > 0)
    person = matte(part, here)
    around, hole = surroundings(person, here)
    return Scene(image, person, around, filled(image, hole), *places)


def at_photo_size(maps: list[Tensor], rows: Tensor, columns: Tensor) -> Tensor:
    """Maps (B, C, H, W) of the model's size, one behind another, at rows (h,) and columns (w,) of
    it: (B, C, h, w), bilinear.
    """
    found = torch.cat(maps, 1)
    for dim, places in ((3, columns), (2, rows[:, None])):
        places = places.clamp(0, found.shape[dim] - 1)
        before = places.floor().long().flatten()
        after = (before + 1).clamp(max=found.shape[dim] - 1)
        sides = found.index_select(dim, before), found.index_select(dim, after)
        found = torch.lerp(*sides, places.frac())
    return found


def carry_pixels(images: Tensor, at: Tensor, flow: Tensor, scale: float) -> Tensor:
    """Images of a scene (1, C, h, w) where a flow in the model's pixels leads from places (2, ...)
    in the scene: (B, C, ...).
    """
    return look_up(images.expand(len(flow), -1, -1, -1), at + flow * scale)


def touched(scene: Scene, bodies: Tensor) -> tuple[slice, slice]:
    """The rows and columns of a scene in which something of the person, before or in the poses
    whose outlines (B, 1, H, W) these are, is seen.
    """
    somewhere = at_photo_size([bodies.amax(0, keepdim=True)], scene.rows, scene.columns)[0, 0] > 0
    somewhere |= scene.around[0, 0] > 0
    found = [torch.nonzero(somewhere.any(axis))[:, 0].tolist() or [0] for axis in (1, 0)]
    return tuple(slice(one[0], one[-1] + 1) for one in found)


class Made(NamedTuple):
    """What a model makes of a photograph, as far as it is put together from it."""

    image: Tensor  # (B, 3, H, W) in [-1, 1], as are the pictures below
    painted: Tensor  # (B, 3, H, W)
    flow: Tensor  # (B, 2, H, W) in pixels
    trust: Tensor  # (B, 1, H, W) in [0, 1]: the flow's, over what is painted


def compose(scene: Scene, source: Tensor, made: Made, carried: Carried, scale: float) -> Tensor:
    """The person moved, before the photograph's own background: uint8 (B, 3, h, w).

    Pixels of the photograph are shown where the skeleton or the model's flow finds them in it; the
    rest is the model's own painting, enlarged. Where nothing moves, the photograph itself. `source`
    (1, 3, H, W) is what the model saw.
    """
    # What is painted continues the colours of what is carried beside it, without a seam.
    seam = warp(source.expand(len(carried.flow), -1, -1, -1), carried.flow) - made.image
    shift = filled(seam, 1 - carried.known)
    rows, columns = touched(scene, carried.body)
    photo, _, around, background = (one[..., rows, columns] for one in scene[:4])
    maps = [*carried, made.painted + shift, made.flow, made.trust]
    maps = at_photo_size(maps, scene.rows[rows], scene.columns[columns])
    flow, known, body, core, still, painted, own_flow, trust = maps.split(
        [2, 1, 1, 1, 1, 3, 2, 1], 1
    )
    at = pixel_grid(*scene.photo.shape[2:], photo.device)[:, rows, columns]
    taken = carry_pixels(torch.cat([scene.photo, scene.person], 1), at, flow, scale)
    painted = torch.lerp(painted, carry_pixels(scene.photo, at, own_flow, scale), trust)
    person = torch.lerp(painted, taken[:, :3], known)
    edge = torch.lerp(core, body * taken[:, 3:], known)
    image = torch.lerp(background, person, edge)
    image = torch.lerp(image, photo, still)
    image = torch.where((body > 0) | (around > 0), image, photo)
    result = checkpoints.to_levels(scene.photo).repeat(len(image), 1, 1, 1)
    result[..., rows, columns] = checkpoints.to_levels(image)
    return result


# ------------------------------------------------------------------------------ a model on photos


def aim(
    moved: np.ndarray, own: np.ndarray | None, photo_size: tuple[int, int], frame: Frame
) -> np.ndarray:
    """Fit poses (N, 25, 3) of any frame to the person of a photograph, all by one similarity.

    Poses that belong there stay as they are; others get the person's size and place by torso,
    height and ground. Where nothing is known of the person, they fill the `frame`.
    """
    if poses.fits(moved, own, photo_size):
        return moved
    if own is not None and metre(own) and any(map(metre, moved)):
        return poses.place(moved, own)
    window = frame.window(photo_size)
    size = tuple(part.stop - part.start for part in window)
    placed = poses.centre(moved, size)
    corner = np.array([window[1].start, window[0].start, 0], np.float32)
    return placed + corner * (placed[..., 2:] > 0)


def perform(name: str, own: np.ndarray | None) -> np.ndarray:
    """A motion of `demo.MOTIONS` as poses (N, 25, 3) in metres, as the person would do it.

    It is turned as the person of the pose `own` stands; walking and running are shown at least a
    little from the side.
    """
    yaw = 0.0 if own is None else poses.facing(own)
    if name in ("walk", "run") and abs(yaw) < 25:
        yaw = math.copysign(25, yaw)
    motion = demo.motion(name, yaw)
    if own is None or not metre(own):
        return motion
    rest = demo.motion("stretch")[0]
    return poses.proportioned(motion, rest, own)


@dataclass
class Shot:
    """A photograph uint8 (H, W, 3), the frame a model sees of it, and the person's pose in it."""

    photo: np.ndarray
    frame: Frame
    own: np.ndarray | None

    def __post_init__(self):
        self.scene = take_apart(self.photo, self.frame, self.own)
        self.source = torch.from_numpy(self.frame.cut(self.photo)).permute(2, 0, 1)[None]

    def pictures(self, generator: nn.Module, moved: np.ndarray) -> Iterator[np.ndarray]:
        """The person in poses (N, 25, 3) of the photograph: uint8 (h, w, 3) of the frame's window.

        The poses go through the generator in batches, the pictures are put together a few at once.
        """
        h, w = self.scene.photo.shape[2:]
        few = max(1, min(BATCH, FEW_PIXELS // (h * w)))
        moved = self.frame.to_model(moved)
        for start in range(0, len(moved), BATCH):
            batch = moved[start : start + BATCH]
            made = self.make(generator, batch)
            for first in range(0, len(batch), few):
                part = slice(first, first + few)
                yield from checkpoints.to_pictures(
                    self.compose(Made(*(one[part] for one in made)), batch[part])
                )

    def make(self, generator: nn.Module, moved: np.ndarray) -> Made:
        """What a generator makes for poses (B, 25, 3) of its pixels."""
        size = generator.height, generator.width
        own = None
        if self.own is not None:
            own = torch.from_numpy(within(self.frame.to_model(self.own), size))[None]
        target = torch.from_numpy(within(moved, size))
        made = checkpoints.synthesise(generator, self.source, target, own)
        parts = made.image, made.painted, made.found.flows[3], made.trust
        return Made(*(one.float().cpu() for one in parts))

    @torch.inference_mode()
    def compose(self, made: Made, moved: np.ndarray) -> Tensor:
        """What a model made for poses (B, 25, 3), at the photograph's size: uint8 (B, 3, h, w)."""
        scene, scale = self.scene, self.frame.scale
        if self.own is not None:
            carried = carry(self.frame.to_model(self.own), moved, self.frame.size)
            return compose(scene, pairs.normalise(self.source), made, carried, scale)
        maps = [made.painted, made.flow, made.trust]
        maps = at_photo_size(maps, scene.rows, scene.columns)
        painted, flow, trust = maps.split([3, 2, 1], 1)
        at = pixel_grid(*scene.photo.shape[2:], flow.device)
        taken = carry_pixels(scene.photo, at, flow, scale)
        return checkpoints.to_levels(torch.lerp(painted, taken, trust))

    def paste(self, picture: np.ndarray) -> np.ndarray:
        """The photograph with a picture of the frame's window in its place, softly."""
        rows, columns = self.frame.window(self.photo.shape[:2])
        soft = max(1, round(0.08 * self.frame.width))
        sides = []
        for part, length in ((rows, self.photo.shape[0]), (columns, self.photo.shape[1])):
            place = np.arange(part.start, part.stop)
            # An edge of the photograph has nothing to be blended with.
            first = np.inf if part.start == 0 else place - part.start + 1
            last = np.inf if part.stop == length else part.stop - place
            sides.append(np.minimum(1, np.minimum(first, last) / (soft + 1)) * np.ones(len(place)))
        weight = sides[0][:, None, None] * sides[1][None, :, None]
        pasted = self.photo.copy()
        under = pasted[rows, columns]
        pasted[rows, columns] = (under + weight * (picture.astype(float) - under)).round()
        return pasted


def within(pose: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A pose (..., 25, 3) without the joints outside a picture (height, width)."""
    x, y = pose[..., 0], pose[..., 1]
    inside = (x >= -0.5) & (y >= -0.5) & (x <= size[1] - 0.5) & (y <= size[0] - 0.5)
    return pose * inside[..., None]


# ------------------------------------------------------------------------------ from Python


class Targets(NamedTuple):
    """Poses that are fitted together: a motion, a folder or one pose."""

    names: list[str]
    found: list[poses.Pose]  # none for a motion, which `names` calls once for each frame
    broken: list[ClickException]  # of a folder: what could not be read


def read_targets(
    pose: str | Path, find: Callable | None = None, person: int | None = None
) -> Targets:
    """Read what a user calls a pose: a motion's name, a pose file, a photo, or a folder of these.

    Of a folder the readable ones are read. Raises ClickException where there is nothing to use.
    """
    path = Path(pose)
    if str(pose) in demo.MOTIONS and not path.exists():
        return Targets([str(pose)] * demo.MOTION_FRAMES, [], [])
    if not path.is_dir():
        if not (path.exists() or poses.split_name(str(pose))[1]):
            remedy = f"check the path, or name a motion: {', '.join(demo.MOTIONS)}"
            raise BadInput(pose, "no such file", remedy)
        stem = Path(str(pose).replace(":", "_")).stem.removesuffix("_keypoints")
        return Targets([stem], [poses.read_pose(pose, find, person)], [])
    suffixes = (".json", ".csv", *poses.IMAGE_SUFFIXES)
    targets = Targets([], [], [])
    inside = [file for file in path.iterdir() if file.suffix.lower() in suffixes]
    for file in sorted(inside, key=lambda file: file.name):
        try:
            targets.found.append(poses.read_pose(file, find, person))
        except ClickException as error:
            targets.broken.append(error)
        else:
            targets.names.append(file.stem.removesuffix("_keypoints"))
    if len(targets.broken) == 1 and not targets.found:
        raise targets.broken[0]
    if not targets.found:
        raise BadInput(path, "no poses in it", "put JSON files or photos there")
    return targets


def own_pose(
    photo: Path | None,
    picture: np.ndarray,
    given: str | Path | None = None,
    find: Callable | None = None,
    person: int | None = None,
) -> tuple[np.ndarray | None, str]:
    """The pose (25, 3) of the person in a photo, or None, and in words where it is from.

    It is read from the file `given`, else from a NAME.json or NAME_keypoints.json beside the photo,
    else found by `find`, if that can be had.
    """
    beside = [photo.with_name(photo.stem + end) for end in _BESIDE] if photo else []
    if given is None:
        given = next((file for file in beside if file.is_file()), None)
    if given is not None:
        own = poses.read_pose(given, find, person).at(picture.shape[:2])
        if not within(own, picture.shape[:2])[:, 2].any():
            remedy = "check its coordinates, or whether it belongs to this photo"
            raise BadInput(given, f"no joint is inside {photo or 'the photo'}", remedy)
        return own, f"the person's pose: {given}"
    try:
        own = find([picture])[0] if find else np.zeros((1, 3))
    except ClickException as error:
        return None, error.message
    if not own[:, 2].any():
        return None, "nobody is found" if find else "no pose of the person is given"
    return own, "the person's pose: found by Keypoint R-CNN"


_BESIDE = ("_keypoints.json", ".json")


def shoot(
    picture: np.ndarray,
    own: np.ndarray | None,
    targets: list[Targets],
    size: tuple[int, int],
    crop: tuple[int, int, int, int] | None = None,
    fit: bool = True,
) -> tuple[Shot, np.ndarray]:
    """Frame a photo for a model of `size`, and bring all poses (N, 25, 3) into its pixels.

    Poses that belong together are fitted by `aim` as one, unless they are to stay (`fit` False).
    Raises ClickException where nothing of a pose is inside the photo.
    """
    photo_size = picture.shape[:2]
    beside = crop and (min(crop[2:]) <= 0 or crop[0] >= photo_size[1] or crop[1] >= photo_size[0])
    if beside and own is None:
        problem = f"outside the photo, which is {photo_size[1]} wide and {photo_size[0]} high"
        raise BadInput("--crop", problem, "give left, top, right and bottom in its pixels")
    frame, moved = frame_person(photo_size, size, own, [], crop), []
    for one in targets:
        if one.found:
            placed = np.array([pose.at(photo_size) for pose in one.found])
            moved.append(aim(placed, own, photo_size, frame) if fit else placed)
            if not within(moved[-1], photo_size)[..., 2].any():
                remedy = "check its coordinates, or leave out --no-fit"
                raise BadInput(one.names[0], "no joint is inside the photo", remedy)
        else:
            moved.append(aim(perform(one.names[0], own), own, photo_size, frame))
    moved = np.concatenate(moved)
    frame = frame_person(photo_size, size, own, list(moved), crop)
    return Shot(picture, frame, own), moved


def unused(targets: list[Targets], moved: np.ndarray, frame: Frame) -> Iterator[str]:
    """Which joints of poses (N, 25, 3), joint by joint, are missing or outside the frame."""
    inside, start = within(frame.to_model(moved), frame.size), 0
    for one in targets:
        part = slice(start, start + len(one.names))
        start, count = part.stop, len(one.names)
        name = one.names[0] if count == 1 or not one.found else f"{count} poses"
        known = moved[part, :, 2] > 0  # (n, 25)
        lost = known & (inside[part, :, 2] == 0)
        for problem, found in (("missing", ~known), ("outside the frame", lost)):
            often = found.sum(0)
            joints = [
                joint if often[place] == count else f"{joint} ({often[place]} of {count} poses)"
                for place, joint in enumerate(poses.JOINTS)
                # No format but BODY_25 has the feet.
                if often[place] and (place < 19 or known[:, 19:].any())
            ]
            if joints:
                yield f"{name}: {problem}: {', '.join(joints)}"


SHEET_CELL = 256, 128  # height and width of the pictures of a sheet
SHEET_POSES = 12  # of each photo, at most


def evenly(moved: np.ndarray) -> np.ndarray:
    """Of many poses (N, 25, 3) as many as a sheet shows of a photo, evenly spaced."""
    places = np.linspace(0, len(moved) - 1, min(len(moved), SHEET_POSES)).round()
    return moved[places.astype(int)]


def sheet_rows(shot: Shot, moved: np.ndarray, made: Iterator[np.ndarray]) -> list[list[np.ndarray]]:
    """Two rows of a sheet: the photo and the poses (N, 25, 3), below them the person."""
    rows, columns = shot.frame.window(shot.photo.shape[:2])
    corner = np.array([columns.start, rows.start, 0], np.float32)
    part = shot.photo[rows, columns]
    size = part.shape[:2]

    def drawn(pose: np.ndarray) -> np.ndarray:
        pose = poses.fit_pose(pose - corner * (pose[:, 2:] > 0), size, SHEET_CELL)
        return poses.draw_pose(pose, SHEET_CELL)

    source = poses.fit_image(part, SHEET_CELL)
    nobody = np.zeros((len(poses.JOINTS), 3), np.float32)
    pictures = [poses.fit_image(one, SHEET_CELL) for one in made]
    above = [source, *map(drawn, moved)]
    return [above, [drawn(nobody if shot.own is None else shot.own), *pictures]]


# ------------------------------------------------------------------------------ from Python, whole


class Model:
    """A generator that takes photographs: `model(photo, pose)` shows the person in that pose."""

    def __init__(self, generator: nn.Module, find: Callable | None = None):
        self.generator, self.find = generator, find
        self.size = generator.height, generator.width

    def __call__(
        self,
        photo: "Image.Image | Tensor | str | Path",
        pose: "str | Path | np.ndarray | Tensor",
        source_pose: "str | Path | np.ndarray | Tensor | None" = None,
        crop: tuple[int, int, int, int] | None = None,
        paste: bool = False,
        fit: bool = True,
    ) -> "Image.Image | Tensor | list":
        """The person of a photo in a pose: a PIL picture, or of a tensor a tensor.

        A photo is a file, a PIL picture or a uint8 tensor (3, H, W). A pose is what the command
        takes, or BODY_25 joints (25, 3) in the photo's pixels; a motion or a folder gives a list.
        `crop` (left, top, right, bottom) says where the person is if no `source_pose` does; `paste`
        gives the whole photo, `fit` False takes the pose as it is. Raises ClickException for what
        can't be used.
        """
        file = Path(photo) if isinstance(photo, str | Path) else None
        picture = read_photo(photo)
        if isinstance(source_pose, np.ndarray | Tensor):
            own = np.asarray(source_pose, np.float32)
        else:
            own, _ = own_pose(file, picture, source_pose, self.find)
        targets = as_targets(pose, self.find)
        shot, moved = shoot(picture, own, [targets], self.size, crop, fit)
        made = list(shot.pictures(self.generator, moved))
        made = [shot.paste(one) for one in made] if paste else made
        if isinstance(photo, Tensor):
            made = [torch.from_numpy(one).permute(2, 0, 1) for one in made]
        else:
            made = [Image.fromarray(one) for one in made]
        several = not targets.found or len(made) > 1
        return made if several else made[0]


def as_targets(pose: "str | Path | np.ndarray | Tensor", find: Callable) -> Targets:
    """Targets of a pose as `Model` takes it."""
    if isinstance(pose, str | Path):
        targets = read_targets(pose, find)
        if targets.broken:
            raise targets.broken[0]
        return targets
    joints = np.asarray(pose, np.float32)
    if joints.shape != (25, 3):
        raise BadInput("pose", f"an array of {joints.shape}", "give joints (25, 3)")
    return Targets(["pose"], [poses.Pose(joints)], [])


def read_photo(photo: "Image.Image | Tensor | str | Path") -> np.ndarray:
    """A photo as `Model` takes it, as uint8 (H, W, 3). Raises ClickException for what is none."""
    if isinstance(photo, Tensor):
        if photo.dtype != torch.uint8 or photo.ndim != 3 or len(photo) != 3:
            shape = f"{photo.dtype} {tuple(photo.shape)}"
            raise BadInput("photo", f"a tensor {shape}", "give uint8 (3, H, W)")
        return photo.permute(1, 2, 0).cpu().numpy()
    if isinstance(photo, Image.Image):
        return np.asarray(photo.convert("RGB"))
    return poses.read_photo(Path(photo))


def load(checkpoint: str | Path | None = None, device: str = "auto") -> Model:
    """The model of a checkpoint; without one that of the newest run, else the one that comes along.

    Raises ClickException where there is none, or for a device this machine lacks.
    """
    path = Path(checkpoint) if checkpoint else checkpoints.default_checkpoint()
    return Model(checkpoints.load_generator(path, checkpoints.pick_device(device)), finder(device))


def finder(device: str, weights: str | None = None) -> Callable:
    """What finds people in photos, by Keypoint R-CNN: its weights are fetched when it is asked.

    Raises ClickException where the file `weights` is given and holds none.
    """
    find = partial(features.find_poses, weights=weights, device=checkpoints.pick_device(device))
    if weights:
        find([])
    return find


def score(
    generated: "Image.Image | Tensor | list",
    target: "Image.Image | Tensor | list",
    pose: Tensor | None = None,
    names: Collection[str] = metrics.PIXEL_SCORES,
) -> dict[str, float]:
    """The mean scores of pictures against their targets, by the names `posegan score` prints.

    Pictures are PIL's, or uint8 tensors (3, H, W), one or a list of one size; `mask_ssim` needs the
    targets' poses (B, 25, 3). What the size forbids is left out.
    """
    sides = []
    for side in (generated, target):
        side = side if isinstance(side, list | tuple) else [side]
        arrays = [torch.from_numpy(read_photo(one).copy()).permute(2, 0, 1) for one in side]
        sides.append(torch.stack(arrays))
    found = metrics.scores(*sides, pose, names)
    return {name: float(values.mean()) for name, values in found.items()}
