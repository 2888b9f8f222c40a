"""Draws the built-in demo people: bodies, clothes, light and background, with exact joints."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np
from PIL import Image, ImageFilter

IDENTITIES = 400
POSES = 12
MOTIONS = ("walk", "run", "turn", "wave", "stretch", "sit")
MOTION_FRAMES = 24  # of one round

_OVERSAMPLING = 2  # each way; the edges of the body are averaged from these samples

_SKIN = "f6d3bd edc0a0 e0ac86 c98f66 a9714b 8a5637 6b4129 4f2f20"
_HAIR = "17130f 2a1b12 3b2416 573620 7a4c29 a5713a d0a35c e2c48a 8e3b1f 8c8a88 d8d4cc"
_TOPS = (
    "d94b3d f2764f f2a541 f4cf57 8fb84e 3f9b63 1f7a74 35a7b5 3f7fc4 2b4f94 5a4aa3 8b4f9f c04f86 "
    "ee8fa8 f1ece0 fafafa b9c0c8 5c636e 2a2d36 7c2f38 9a6a3f c9b18a"
)
_BOTTOMS = "1f2a44 2f4a78 54779f 23252b 3d4149 6b6f74 8c7a5b b9a27c 5a4332 47523a 6d2f3c dcd6c8"
_SHOES = "1b1b1f f2f2ee 7a4a2b b5382f 2d4f8c 55585f e6b84c 3c2a20"
# Walls and grounds of near brightness: the person is what differs between two pictures.
_WALLS = "cacdcf cfccc7 c9cdc9 cfc9c7 c6ccd1 d1cfcb cdcecf cdc9cf c9cecc ced1d1 cfcbc8 cfcfc8"
_GROUNDS = "afaeab adaeb0 b3b0ab abafad b1ada9 b6b4b1 acadae adb1ab b3b1af"

# Angles in degrees. An arm: forwards, sideways, turned outwards, elbow. A leg: forwards,
# sideways, knee, toes down. The spine: forwards, turned, sideways. Right limb before left limb.
_RELAXED = ((2, 9, -15, 14), (2, 9, -15, 14), (0, 4, 3, 0), (0, 4, 3, 0), (1, 0, 0))
_STANCES = (
    _RELAXED,
    ((-4, 10, -20, 20), (4, 12, -20, 16), (0, 2, 0, 0), (14, 8, 22, 6), (0, -6, 4)),
    ((-30, 8, -10, 14), (30, 8, -25, 32), (26, 1, 6, -14), (-22, 1, 10, 26), (4, 10, 0)),
    ((-30, 8, -10, 20), (26, 8, -25, 38), (24, 1, 8, -10), (-20, 1, 14, 30), (5, 10, 0)),
    ((-12, 8, -10, 16), (14, 8, -20, 24), (2, 1, 3, 0), (24, 2, 52, 24), (4, 5, 0)),
    ((-48, 14, -15, 88), (34, 14, -30, 98), (56, 2, 74, 4), (-24, 2, 34, 48), (13, 14, 0)),
    ((-22, 40, -88, 96), (-22, 40, -88, 96), (0, 8, 2, 0), (0, 8, 2, 0), (-2, 0, 0)),
    ((-22, 40, -88, 96), (2, 10, -15, 14), (0, 4, 0, 0), (12, 9, 18, 4), (0, 6, -5)),
    ((0, 152, 20, 24), (0, 152, 20, 24), (0, 6, 2, 0), (0, 6, 2, 0), (-4, 0, 0)),
    ((6, 165, 0, 16), (2, 10, -15, 14), (0, 4, 2, 0), (0, 5, 2, 0), (-2, 0, 5)),
    ((0, 72, 88, 108), (0, 10, -15, 16), (0, 5, 2, 0), (0, 5, 2, 0), (0, 0, 3)),
    ((28, 22, -30, 138), (2, 9, -15, 14), (0, 4, 2, 0), (10, 6, 16, 4), (3, 0, 2)),
    ((34, 8, -12, 14), (40, 8, -12, 18), (16, 4, 18, 0), (16, 4, 18, 0), (38, 0, 0)),
    ((86, 8, 0, 8), (2, 9, -15, 14), (8, 3, 6, -2), (-6, 3, 4, 4), (2, 6, 0)),
    ((36, 8, -62, 98), (32, 8, -62, 104), (0, 5, 2, 0), (6, 6, 10, 2), (-2, 0, 0)),
    ((-8, 22, -40, 48), (-8, 22, -40, 48), (0, 4, 2, 0), (8, 7, 14, 2), (0, 0, -3)),
    ((42, 6, -45, 122), (24, 8, -70, 92), (0, 4, 2, 0), (8, 6, 12, 2), (4, 0, 0)),
    ((62, 14, -10, 30), (62, 14, -10, 30), (64, 12, 92, 2), (64, 12, 92, 2), (26, 0, 0)),
)


@dataclass(frozen=True)
class _Fabric:
    """A cloth: its pattern, two colours (3,) in [0, 1], and the pattern's period in metres."""

    kind: str
    base: np.ndarray
    accent: np.ndarray
    period: float

    def paint(self, u: np.ndarray, torso: bool = False) -> np.ndarray:
        """Colours (N, 3) at points (N, 3) of a body part, in its own frame: x left, y up."""
        if self.kind == "plain" or (self.kind == "print" and not torso):
            return self.base
        around = np.arctan2(u[:, 0], u[:, 2]) * (0.14 if torso else 0.06)
        column, row = around / self.period, u[:, 1] / self.period
        if self.kind == "horizontal":
            mark = row % 1 < 0.5
        elif self.kind == "vertical":
            mark = (column + 0.25) % 1 < 0.5
        elif self.kind == "check":
            mark = (column % 1 < 0.4) ^ (row % 1 < 0.4)
        elif self.kind == "dots":
            column = column + 0.5 * (np.floor(row) % 2)
            mark = (column % 1 - 0.5) ** 2 + (row % 1 - 0.5) ** 2 < 0.085
        elif self.kind == "block":
            mark = u[:, 1] < -0.13 if torso else np.ones(len(u), bool)
        else:
            mark = (np.hypot(u[:, 0], u[:, 1] + 0.06) < 0.066) & (u[:, 2] > 0)
        return np.where(mark[:, None], self.accent, self.base)


@dataclass(frozen=True)
class _Looks:
    """All that stays with a person from picture to picture; lengths in metres or as factors."""

    height: float
    shoulders: float
    hips: float
    girth: float
    skin: np.ndarray
    hair: np.ndarray
    hair_style: str
    beard: bool
    top: _Fabric
    jacket: np.ndarray | None  # the colour of the shirt under an open jacket
    sleeves: float  # 0 none, 0.6 short, 2 long; upper arms covered
    bottom: _Fabric
    cut: str
    shoes: np.ndarray
    sole: np.ndarray
    backpack: np.ndarray | None


@dataclass
class _Part:
    """Two spheres and the cone about them, in the part's frame, which may be flattened."""

    start: np.ndarray
    end: np.ndarray
    radii: tuple[float, float]
    frame: np.ndarray  # (3, 3), columns: the part's left, up and forward
    colour: np.ndarray | Callable  # (3,), or points (N, 3) of the frame -> (N, 3)
    flat: tuple[float, float] = (1.0, 1.0)  # factors of width and depth
    keep: Callable | None = None  # points (N, 3) of the frame -> bool (N,)


@dataclass
class _Body:
    """A posed skeleton: joints (25, 3) in metres, y up, z to the viewer, and limbs' frames."""

    joints: np.ndarray
    frames: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Camera:
    """Frame heights per metre, and where the world's origin falls, in frame heights."""

    scale: float
    x: float
    y: float


@cache
def _colours(hexadecimal: str) -> np.ndarray:
    values = [list(bytes.fromhex(code)) for code in hexadecimal.split()]
    return np.array(values, np.float32) / 255


def _rotation(axis: int, degrees: float) -> np.ndarray:
    angle = math.radians(degrees)
    matrix = np.eye(3)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[second, first], matrix[first, second] = math.sin(angle), -math.sin(angle)
    return matrix


def _fabric(rng: np.random.Generator, palette: str, kinds: str, weights: list) -> _Fabric:
    colours = _colours(palette)
    base = colours[rng.integers(len(colours))]
    luma = np.array([0.3, 0.59, 0.11], np.float32)
    contrast = np.abs((colours - base) @ luma)
    accent = colours[rng.choice(np.flatnonzero(contrast > min(0.25, contrast.max() * 0.9)))]
    kind = rng.choice(kinds.split(), p=np.array(weights) / sum(weights))
    return _Fabric(str(kind), base, accent, rng.uniform(0.075, 0.13))


@lru_cache(maxsize=64)
def _looks(seed: int, identity: int) -> _Looks:
    rng = np.random.default_rng([seed, identity, 0])
    feminine = rng.random() < 0.5
    styles = "long ponytail bun bob short" if feminine else "short crop bald afro cap fringe"
    kinds = "plain horizontal vertical dots block check print"
    top = _fabric(rng, _TOPS, kinds, [9, 3, 1.2, 1.8, 1.6, 1.0, 1.6])
    bottom = _fabric(rng, _BOTTOMS, "plain vertical check", [8, 0.6, 0.5])
    odds = [0.4, 0.18, 0.22, 0.2] if feminine else [0.68, 0.32, 0, 0]
    cut = str(rng.choice(["trousers", "shorts", "skirt", "dress"], p=odds))
    if cut == "dress":
        bottom = top
    skins, hairs, shoes = _colours(_SKIN), _colours(_HAIR), _colours(_SHOES)
    tone = rng.integers(len(skins))
    hair = hairs[rng.integers(len(hairs) if tone < 4 else 4)]
    bags, open_jacket = _colours(_TOPS), rng.random() < 0.22
    return _Looks(
        height=rng.normal(0.97 if feminine else 1.02, 0.025),
        shoulders=rng.normal(0.91 if feminine else 1.04, 0.035),
        hips=rng.normal(1.05 if feminine else 0.97, 0.035),
        girth=np.clip(rng.normal(0.95 if feminine else 1.02, 0.07), 0.82, 1.2),
        skin=skins[tone],
        hair=hair,
        hair_style=str(rng.choice(styles.split())),
        beard=bool(not feminine and rng.random() < 0.3),
        top=top,
        jacket=bags[rng.choice([3, 14, 15, 16, 18])] if open_jacket and cut != "dress" else None,
        sleeves=float(rng.choice([2.0, 0.62, 0.2], p=[0.45, 0.45, 0.1])),
        bottom=bottom,
        cut=cut,
        shoes=shoes[rng.integers(len(shoes))],
        sole=shoes[rng.choice([0, 1, 1, 1])],
        backpack=bags[rng.integers(len(bags))] if rng.random() < 0.2 else None,
    )


def _stance(rng: np.random.Generator, skirt: bool) -> list[np.ndarray]:
    """Draw the angles of two arms, two legs and a spine, as in `_STANCES`."""
    amount = rng.uniform(0.75, 1.08)
    stances = _STANCES[:5] + _STANCES[: -1 if skirt else None]  # standing, walking twice as often
    chosen = stances[rng.integers(len(stances))]
    angles = [
        np.array(rest) + amount * (np.array(aim) - rest) + rng.normal(0, 3, len(rest))
        for rest, aim in zip(_RELAXED, chosen, strict=True)
    ]
    if rng.random() < 0.5:
        angles = [angles[1], angles[0], angles[3], angles[2], angles[4] * (1, -1, -1)]
    for limb, hinge, least in ((0, 3, 4), (1, 3, 4), (2, 2, 0), (3, 2, 0)):
        angles[limb][hinge] = max(angles[limb][hinge], least)  # elbows and knees bend one way
    return angles


def _pose(looks: _Looks, rng: np.random.Generator, yaw: float) -> _Body:
    """Draw a posture for a person who is turned by about `yaw` degrees."""
    angles = _stance(rng, looks.cut in ("skirt", "dress"))
    yaw = yaw + rng.normal(0, 3)
    return _bend(looks, angles, yaw, rng.normal(0, 16), rng.normal(3, 5))


def _bend(looks: _Looks, angles: list, yaw: float, look: float, nod: float) -> _Body:
    """Bend the skeleton of a person, turned by `yaw` degrees, its feet on y = 0; the head turns by
    `look` and nods by `nod` degrees.
    """
    right_arm, left_arm, right_leg, left_leg, spine = angles
    pelvis = _rotation(1, yaw) @ _rotation(2, -0.3 * spine[2])
    chest = pelvis @ _rotation(0, spine[0]) @ _rotation(1, spine[1]) @ _rotation(2, spine[2])
    head = chest @ _rotation(1, look - 0.7 * spine[1])
    head = head @ _rotation(0, nod - 0.45 * spine[0])
    joints, height = np.zeros((25, 3)), looks.height
    joints[1] = height * (pelvis @ (0, 0.1, 0) + chest @ (0, 0.405, 0))
    center = joints[1] + height * (chest @ (0, 0.09, 0.005) + head @ (0, 0.115, 0.022))
    body = _Body(joints, {"pelvis": pelvis, "chest": chest, "head": head, "head_center": center})
    face = ((0, -0.016, 0.106), (-0.034, 0.02, 0.074), (0.034, 0.02, 0.074))
    face += ((-0.083, -0.002, -0.004), (0.083, -0.002, -0.004))
    joints[[0, 15, 16, 17, 18]] = center + np.array(face) @ head.T
    for side, first, arm in ((-1, 2, right_arm), (1, 5, left_arm)):
        _pose_arm(body, looks, side, first, arm)
    for side, first, leg in ((-1, 9, right_leg), (1, 12, left_leg)):
        _pose_leg(body, looks, side, first, leg)
    ground = joints[19:, 1].min() - 0.03
    joints[:, 1] -= ground
    center[1] -= ground
    return body


def _pose_arm(body: _Body, looks: _Looks, side: int, first: int, angles: np.ndarray) -> None:
    forwards, sideways, turn, elbow = angles
    joints, chest, height = body.joints, body.frames["chest"], looks.height
    upper = chest @ _rotation(0, -forwards) @ _rotation(2, side * sideways)
    upper = upper @ _rotation(1, side * turn)
    lower = upper @ _rotation(0, -elbow)
    lift = 0.035 * max(0, np.sin(np.radians(sideways - 60)))
    shoulder = (side * (0.168 * looks.shoulders - lift), -0.018 + lift, 0)
    joints[first] = joints[1] + height * (chest @ shoulder)
    joints[first + 1] = joints[first] + height * (upper @ (0, -0.285, 0))
    joints[first + 2] = joints[first + 1] + height * (lower @ (0, -0.245, 0))
    body.frames |= {f"arm{first}": upper, f"arm{first + 1}": lower}


def _pose_leg(body: _Body, looks: _Looks, side: int, first: int, angles: np.ndarray) -> None:
    forwards, sideways, knee, toes = angles
    joints, pelvis, height = body.joints, body.frames["pelvis"], looks.height
    thigh = pelvis @ _rotation(0, -forwards) @ _rotation(2, side * sideways)
    thigh = thigh @ _rotation(1, side * 6)
    shin = thigh @ _rotation(0, knee)
    # The foot keeps its own angle to the ground, whatever hip and knee do.
    foot = shin @ _rotation(0, toes + forwards - knee) @ _rotation(2, -side * sideways * 0.8)
    joints[first] = height * (pelvis @ (side * 0.08 * looks.hips, -0.01, 0))
    joints[first + 1] = joints[first] + height * (thigh @ (0, -0.425, 0))
    joints[first + 2] = joints[first + 1] + height * (shin @ (0, -0.415, 0))
    tips = ((-side * 0.022, -0.06, 0.158), (side * 0.03, -0.06, 0.135), (0, -0.055, -0.05))
    start = 19 if side > 0 else 22
    joints[start : start + 3] = joints[first + 2] + height * (np.array(tips) @ foot.T)
    body.frames |= {f"leg{first}": thigh, f"leg{first + 1}": shin, f"leg{first + 2}": foot}


def _torso(body: _Body, looks: _Looks) -> list[_Part]:
    joints, chest, pelvis = body.joints, body.frames["chest"], body.frames["pelvis"]
    size, girth = looks.height, looks.height * looks.girth
    wide, broad = 0.16 * looks.shoulders * girth, 0.156 * looks.hips * girth

    def cloth(drop):
        return lambda u: _front(looks, u + np.float32([0, drop, 0]))

    waist = pelvis @ (0, 0.1 * size, 0) + joints[8]
    ribs = joints[1] + chest @ (0, -0.13 * size, 0)
    collar = joints[1] + chest @ (0, 0.014, -0.006)
    seat = joints[8] + pelvis @ (0, 0.02 * size, 0)
    throat = joints[1] + chest @ (0, 0.02, 0.006)
    chin = joints[1] + 0.6 * (body.frames["head_center"] - joints[1])
    hem = (-0.04 if looks.cut == "skirt" else -0.115) * size
    yoke = (0.056 * girth, 0.052 * girth)
    parts = [
        _Part(ribs, waist, (wide, 0.13 * girth), chest, cloth(0), (1, 0.68)),
        _Part(waist, seat, (0.131 * girth, broad), pelvis, cloth(-0.26), (1.01, 0.66)),
        _Part(waist, seat, (0.12 * girth, broad - 0.006), pelvis, looks.bottom.paint, (1, 0.61)),
        _Part(collar, joints[2], yoke, chest, cloth(0.165), (1, 0.82)),
        _Part(collar, joints[5], yoke, chest, cloth(0.165), (1, 0.82)),
        _Part(throat, chin, (0.054, 0.052), chest, looks.skin),
    ]
    parts[1].keep = lambda u: u[:, 1] > hem
    if looks.backpack is not None:
        middle = joints[1] + chest @ (0, -0.12 * size, -0.14)
        base = middle + chest @ (0, -0.18 * size, -0.015)
        parts.append(_Part(middle, base, (0.115, 0.13), chest, looks.backpack, (1, 0.62)))
    return parts


def _front(looks: _Looks, u: np.ndarray) -> np.ndarray:
    """Paint the trunk: the top, an open jacket's inside, the straps of a backpack."""
    colour = looks.top.paint(u, torso=True)
    if looks.jacket is not None:
        inside = (np.abs(u[:, 0]) < 0.035 + 0.06 * (u[:, 1] + 0.1).clip(0)) & (u[:, 2] > 0)
        colour = np.where(inside[:, None], looks.jacket, colour)
    if looks.backpack is not None:
        strap = (np.abs(np.abs(u[:, 0]) - 0.095) < 0.016) & (u[:, 1] > -0.14)
        colour = np.where(strap[:, None], looks.backpack * 0.8, colour)
    return colour


def _arms(body: _Body, looks: _Looks) -> list[_Part]:
    parts, joints, girth = [], body.joints, looks.height * looks.girth
    long = looks.sleeves > 1
    cloth = looks.top.paint if long else looks.skin
    thick = 0.006 if long else 0.0
    for first in (2, 5):
        upper, lower = body.frames[f"arm{first}"], body.frames[f"arm{first + 1}"]
        shoulder, elbow, wrist = joints[first : first + 3]
        radii = (0.052 * girth + thick, 0.041 * girth + thick)
        parts.append(_Part(shoulder, elbow, radii, upper, cloth))
        radii = (0.0405 * girth + thick, 0.027 * girth + thick)
        parts.append(_Part(elbow, wrist, radii, lower, cloth))
        tip = wrist + lower @ (0, -0.085, 0.008)
        parts.append(_Part(wrist, tip, (0.029, 0.033), lower, looks.skin, (0.65, 1)))
        if not long:
            end = -0.285 * looks.height * looks.sleeves
            radii = (0.057 * girth, 0.056 * girth)
            parts.append(_Part(shoulder, elbow, radii, upper, looks.top.paint))
            parts[-1].keep = lambda u, end=end: u[:, 1] > end
    return parts


def _legs(body: _Body, looks: _Looks) -> list[_Part]:
    def leather(u):
        return np.where(u[:, 1:2] < -0.018, looks.sole, looks.shoes)

    parts, joints, girth = [], body.joints, looks.height * looks.girth
    covered = looks.cut == "trousers"
    cotton = looks.bottom.paint
    cloth = cotton if covered else looks.skin
    thick = 0.006 if covered else -0.004
    skirt = looks.cut in ("skirt", "dress")
    for first in (9, 12):
        thigh, shin, foot = (body.frames[f"leg{first + i}"] for i in range(3))
        hip, knee, ankle = joints[first : first + 3]
        radii = (0.073 * girth + thick, 0.057 * girth + thick)
        parts.append(_Part(hip, knee, radii, thigh, cloth))
        if skirt:
            parts[-1].keep = lambda u: u[:, 1] < -0.24
        radii = (0.0565 * girth + thick, (0.05 if covered else 0.036) * girth)
        parts.append(_Part(knee, ankle, radii, shin, cloth))
        heel = ankle + foot @ (0, -0.047, -0.03) * looks.height
        toes = ankle + foot @ (0.008 if first == 12 else -0.008, -0.058, 0.14) * looks.height
        shoe = _Part(heel, toes, (0.044, 0.038), foot, leather, (1.12, 1))
        parts += [shoe, _Part(ankle, heel, (0.041, 0.044), foot, looks.shoes)]
        if looks.cut == "shorts":
            parts.append(_Part(hip, knee, (0.079 * girth, 0.076 * girth), thigh, cotton))
            parts[-1].keep = lambda u: u[:, 1] > -0.36
    if skirt:
        parts.append(_skirt(body, looks))
    return parts


def _skirt(body: _Body, looks: _Looks) -> _Part:
    joints, girth = body.joints, looks.height * looks.girth
    knees, apart = (joints[10] + joints[13]) / 2, joints[10] - joints[13]
    length = np.linalg.norm(knees - joints[8])
    down = (joints[8] - knees) / length
    left = body.frames["pelvis"][:, 0]
    left = left - down * (left @ down)
    left /= np.linalg.norm(left)
    frame = np.stack([left, down, np.cross(left, down)], 1)
    wide = 0.158 * girth * looks.hips
    hem = wide + 0.045 + 0.18 * max(0, np.linalg.norm(apart) - 0.2)
    depth = min(0.74 + 0.5 * max(0, abs(apart @ frame[:, 2]) - 0.1), 1.2)
    end = -length * 0.86
    waist = joints[8] + 0.02 * down
    skirt = _Part(waist, knees, (wide, hem), frame, looks.bottom.paint, (1, depth))
    if looks.cut == "dress":
        skirt.colour = lambda u: looks.top.paint(u + np.float32([0, -0.35, 0]), True)
    skirt.keep = lambda u: u[:, 1] > end
    return skirt


def _head(body: _Body, looks: _Looks) -> list[_Part]:
    frame, center = body.frames["head"], body.frames["head_center"]

    def part(start, end, radii, colour, **options):
        return _Part(center + frame @ start, center + frame @ end, radii, frame, colour, **options)

    crown, chin = (0, 0.033, -0.004), (0, -0.046, 0.014)
    parts = [
        part(crown, chin, (0.091, 0.064), lambda u: _face(looks, u), flat=(0.9, 1.02)),
        part((0, 0.004, 0.088), (0, -0.016, 0.098), (0.007, 0.013), looks.skin),
    ]
    for x in (-0.08, 0.08):
        ends = (x, 0.01, -0.006), (x, -0.012, -0.004)
        parts.append(part(*ends, (0.019, 0.013), looks.skin * 0.95, flat=(0.5, 0.8)))
    return parts + _hair(looks, part)


def _face(looks: _Looks, u: np.ndarray) -> np.ndarray:
    """Paint the head: eyes, brows, mouth, cheeks and beard, at points (N, 3) below the crown."""
    x, y, front = np.abs(u[:, 0]), u[:, 1] + 0.033, u[:, 2] > 0
    colour = np.repeat(looks.skin[None], len(u), 0)
    dark = looks.hair * 0.7

    def spot(right, up, width, height):
        return front & (((x - right) / width) ** 2 + ((y - up) / height) ** 2 < 1)

    if looks.beard:
        colour[front & (y < -0.032 - 0.25 * (0.05 - x).clip(0)) | (y < -0.085) & front] = dark
    colour[spot(0.042, -0.022, 0.02, 0.016)] *= (1.0, 0.93, 0.92)
    colour[spot(0.0, 13 * x * x - 0.063, 0.024, 0.0065)] = looks.skin * (0.85, 0.55, 0.55)
    colour[spot(0.037, 0.043, 0.019, 0.006)] = dark
    colour[spot(0.037, 0.02, 0.018, 0.0115)] = (0.96, 0.96, 0.95)
    colour[spot(0.0375, 0.02, 0.0105, 0.0115)] = (0.13, 0.1, 0.09)
    return colour


def _hair(looks: _Looks, part: Callable) -> list[_Part]:
    style = looks.hair_style
    if style == "bald":
        return []
    line = -0.024 if style in ("fringe", "bob") else -0.002
    thick = {"crop": 0.097, "afro": 0.124}.get(style, 0.102)
    sweep = {"short": 0.3, "long": -0.25, "fringe": 0.2, "ponytail": 0.15}.get(style, 0.0)

    def strands(u):
        wave = np.sin(np.arctan2(u[:, 0], u[:, 2] + 0.01) * 23 + 60 * u[:, 1])
        return looks.hair * (1 + 0.1 * wave + 1.1 * u[:, 1])[:, None].astype(np.float32)

    def above(u):
        return u[:, 1] + 0.038 > 0.72 * (u[:, 2] - 0.016) + line + sweep * u[:, 0]

    colour = looks.top.accent if style == "cap" else strands
    crown, nape = (0, 0.038, -0.016), (0, -0.02, -0.012)
    parts = [part(crown, nape, (thick, thick - 0.018), colour, flat=(0.93, 1), keep=above)]
    if style == "cap":
        brim = part((0, 0.062, 0.075), (0, 0.05, 0.13), (0.06, 0.05), colour * 0.8, flat=(1.1, 1))
        brim.keep = lambda u: np.abs(u[:, 1]) < 0.012
        parts.append(brim)
    falls = {
        "long": ((0, 0.0, -0.028), (0, -0.2, -0.055), (0.097, 0.082)),
        "bob": ((0, 0.0, -0.028), (0, -0.075, -0.03), (0.097, 0.088)),
        "ponytail": ((0, 0.03, -0.125), (0, -0.15, -0.12), (0.036, 0.026)),
        "bun": ((0, 0.1, -0.075), (0, 0.105, -0.075), (0.05, 0.05)),
    }
    if style in falls:
        keep = {"keep": lambda u: u[:, 2] < 0.06}  # off the face
        parts.append(part(*falls[style], strands, flat=(1.0, 0.72), **keep))
    return parts


@dataclass
class _Solids:
    """The parts' geometry as arrays, one row a part, in metres."""

    start: np.ndarray  # (P, 3)
    low: np.ndarray  # (P, 3): the least coordinates of any point
    high: np.ndarray  # (P, 3)
    to_round: np.ndarray  # (P, 3, 3): where the flattened part is round and z is still the ray's
    to_own: np.ndarray  # (P, 3, 3): from there to the part's own frame
    axis: np.ndarray  # (P, 3), in round coordinates
    radii: np.ndarray  # (P, 2)


def _solids(parts: list[_Part]) -> _Solids:
    start = np.array([part.start for part in parts])
    end = np.array([part.end for part in parts])
    radii = np.array([part.radii for part in parts])
    frame = np.array([part.frame for part in parts])
    flat = np.array([(part.flat[0], 1.0, part.flat[1]) for part in parts])[:, None]  # (P, 1, 3)
    reach = radii.max(1)[:, None] * np.sqrt(((frame * flat) ** 2).sum(2))
    flatten = (frame / flat).transpose(0, 2, 1)
    ray = flatten[:, :, 2] / np.sqrt((flatten[:, :, 2] ** 2).sum(1, keepdims=True))
    aside = np.where(np.abs(ray[:, :1]) < 0.8, (1.0, 0, 0), (0, 1.0, 0))
    right = np.cross(ray, aside)
    right /= np.sqrt((right**2).sum(1, keepdims=True))
    basis = np.stack([right, np.cross(ray, right), ray], 1)  # (P, 3, 3), rows
    to_round = basis @ flatten
    axis = (to_round @ (end - start)[:, :, None])[:, :, 0]
    low, high = np.minimum(start, end) - reach, np.maximum(start, end) + reach
    return _Solids(start, low, high, to_round, basis.transpose(0, 2, 1), axis, radii)


def _samples(solids: _Solids, camera: _Camera, size: tuple[int, int]) -> tuple:
    """List the samples in each part's box: part, flat index, x, y in metres, (N,) each."""
    height, width = size
    unit = 1 / (height * camera.scale)
    x = (np.arange(width, dtype=np.float32) + 0.5) * unit - camera.x / camera.scale
    y = camera.y / camera.scale - (np.arange(height, dtype=np.float32) + 0.5) * unit
    left, right = np.searchsorted(x, solids.low[:, 0]), np.searchsorted(x, solids.high[:, 0])
    top, bottom = np.searchsorted(-y, -solids.high[:, 1]), np.searchsorted(-y, -solids.low[:, 1])
    count = (right - left) * (bottom - top)
    grid = np.arange(height * width).reshape(height, width)
    boxes = zip(top, bottom, left, right, strict=True)
    index = np.concatenate([grid[t:b, i:j].ravel() for t, b, i, j in boxes])
    row = index // width
    return np.repeat(np.arange(len(count)), count), index, x[index - row * width], y[row]


def _nearest(solids: _Solids, part, x, y) -> tuple:
    """Meet each ray with its part: z (N,), and where: across, along, depth, place, inside.

    Seen along z, a part is the union of the spheres about its axis. In round coordinates the one
    that reaches nearest to the viewer stands at a place (0 start, 1 end) that has a closed form;
    `inside` is the square of the half-chord through it, negative for a miss.
    """
    m, axis, radii = solids.to_round, solids.axis, solids.radii
    origin = -(m @ solids.start[:, :, None])[:, :, 0]
    flat = np.hypot(axis[:, 0], axis[:, 1])
    # An axis that points at the viewer within the cone's own slope would show one sphere only.
    grow = np.clip(radii[:, 1] - radii[:, 0], -0.95 * flat, 0.95 * flat)
    curve = np.minimum(grow**2 - flat**2, -1e-8)
    plane = np.stack([m[:, :, 0], m[:, :, 1], origin + m[:, :, 2] * solids.start[:, 2:]], 2)
    middle = -(plane[:, 0] * axis[:, :1] + plane[:, 1] * axis[:, 1:2])  # (P, 3)
    middle[:, 2] -= radii[:, 0] * grow
    middle /= curve[:, None]
    ahead = axis[:, 2] / np.sqrt(curve**2 - curve * axis[:, 2] ** 2)
    scale = 1 / m[:, 2, 2]
    scalars = [radii[:, 0] ** 2, curve, ahead, axis[:, 2], scale, solids.start[:, 2]]
    table = np.concatenate([plane.reshape(-1, 9).T, middle.T, scalars]).astype(np.float32)
    t = np.take(table, part, axis=1)  # (18, N)
    across, along, tilt = (t[i] * x + t[i + 1] * y + t[i + 2] for i in (0, 3, 6))
    middle = t[9] * x + t[10] * y + t[11]
    level = t[12] - across * across - along * along
    peak = level - t[13] * middle * middle
    place = np.clip(middle + np.sqrt(np.maximum(peak, 0)) * t[14], 0, 1)
    inside = level + t[13] * place * (place - 2 * middle)
    front = np.sqrt(np.maximum(inside, 0)) + place * t[15]
    return (front - tilt) * t[16] + t[17], across, along, front, place, inside


@dataclass
class _Surface:
    """The nearest surface at the N samples that show the person."""

    index: np.ndarray  # (N,) into the flattened samples
    depth: np.ndarray  # (H, W) in metres, -inf where nobody is
    normal: np.ndarray  # (N, 3)
    colour: np.ndarray  # (N, 3)


def _surface(parts: list[_Part], solids: _Solids, camera: _Camera, size: tuple) -> _Surface:
    """Draw the parts, each where it is nearer than all before it."""
    part, index, x, y = _samples(solids, camera, size)
    depth, across, along, front, place, inside = _nearest(solids, part, x, y)
    hits = np.flatnonzero(inside > 0)
    part, index, depth, place = part[hits], index[hits], depth[hits], place[hits]
    point = np.stack([across, along, front], 1)[hits]  # (M, 3)
    nearest = np.full(size[0] * size[1], -np.inf, np.float32)
    winner = np.full(size[0] * size[1], -1)
    ends = np.searchsorted(part, np.arange(len(parts) + 1))
    to_own = solids.to_own.astype(np.float32)
    for number, solid in enumerate(parts):
        mine = slice(ends[number], ends[number + 1])
        better = depth[mine] > nearest[index[mine]]
        if solid.keep is not None:
            better &= solid.keep(point[mine] @ to_own[number].T)
        better = np.flatnonzero(better) + ends[number]
        nearest[index[better]] = depth[better]
        winner[index[better]] = better
    won = np.sort(winner[winner >= 0])
    part, point = part[won], point[won]
    colour = np.empty((len(won), 3), np.float32)
    normal = point - place[won, None] * solids.axis.astype(np.float32)[part]
    ends = np.searchsorted(part, np.arange(len(parts) + 1))
    for number, solid in enumerate(parts):
        mine = slice(ends[number], ends[number + 1])
        paint = solid.colour
        colour[mine] = paint(point[mine] @ to_own[number].T) if callable(paint) else paint
        normal[mine] = normal[mine] @ solids.to_round[number].astype(np.float32)
    normal /= np.sqrt((normal * normal).sum(1, keepdims=True)) + np.float32(1e-9)
    return _Surface(index[won], nearest.reshape(size), normal, colour)


def _shade(surface: _Surface, camera: _Camera, rng: np.random.Generator) -> np.ndarray:
    """Light the person: RGBA (H, W, 4) in [0, 1] at the samples, colours times alpha."""
    side = rng.choice([-1, 1]) * rng.uniform(0.25, 0.8)
    light = np.array([side, rng.uniform(0.5, 0.9), rng.uniform(0.6, 1.0)], np.float32)
    light /= np.linalg.norm(light)
    normal = surface.normal
    lit = np.maximum(normal @ light * 0.7 + 0.3, 0)
    sky = 0.5 + 0.5 * normal[:, 1]
    rim = (1 - normal[:, 2]) ** 2
    bright = 0.42 + 0.17 * sky + 0.5 * lit - 0.16 * rim
    bright *= 1 - _occlusion(surface, camera)
    warm = np.float32([0.03, 0.0, -0.04]) * rng.uniform(0, 1)
    rgba = np.zeros((surface.depth.size, 4), np.float32)
    colour = surface.colour * bright[:, None] * (1 + (lit - 0.5)[:, None] * warm)
    colour += 0.05 * np.square(np.square(np.square(lit)))[:, None]  # a soft gloss
    rgba[surface.index] = np.concatenate([colour.clip(0, 1), np.ones_like(lit)[:, None]], 1)
    return rgba.reshape(*surface.depth.shape, 4)


def _occlusion(surface: _Surface, camera: _Camera) -> np.ndarray:
    """Darken what lies behind its surroundings, as the trunk beside an arm: (N,)."""
    levels = np.clip(surface.depth * 200 + 128, 0, 255).astype(np.uint8)
    radius = float(0.045 * camera.scale * len(levels))
    blurred = np.asarray(Image.fromarray(levels).filter(ImageFilter.BoxBlur(radius)))
    behind = blurred.ravel()[surface.index] - levels.ravel()[surface.index].astype(np.float32)
    return np.clip(behind * 0.015, 0, 0.35)


def _background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A wall with soft shapes above a ground: (H, W, 3) in [0, 1]."""
    height, width = size
    x = ((np.arange(width) + 0.5 - width / 2) / height).astype(np.float32)
    y = ((np.arange(height) + 0.5) / height).astype(np.float32)[:, None]
    walls, grounds = _colours(_WALLS)[..., None, None], _colours(_GROUNDS)[..., None, None]
    tone = rng.uniform(0.96, 1.04)
    wall, ground = walls[rng.integers(len(walls))] * tone, grounds[rng.integers(len(grounds))]
    lean = rng.uniform(-0.15, 0.15)
    picture = wall * (1.06 - 0.16 * y + lean * x)  # (3, H, W)
    horizon = rng.uniform(0.66, 0.78)
    for _ in range(rng.integers(2, 5)):
        left, top = rng.uniform(-0.4, 0.3), rng.uniform(-0.2, 0.45)
        right, bottom = left + rng.uniform(0.08, 0.3), min(top + rng.uniform(0.2, 0.8), horizon)
        soft = rng.uniform(0.006, 0.03)
        shape = _step(x, left, soft) * _step(-x, -right, soft)
        shape = shape * (_step(y, top, soft) * _step(-y, -bottom, soft))
        hue = 0.55 * wall + 0.45 * walls[rng.integers(len(walls))] * rng.uniform(0.8, 1.1)
        picture += shape * rng.uniform(0.5, 1.0) * (hue - picture)
    floor = _step(y + 0.04 * lean * x, horizon, rng.uniform(0.004, 0.02))
    near = ground * tone * (0.86 + 0.3 * (y - horizon) + 0.5 * lean * x)
    picture += floor * (near - picture)
    return picture.transpose(1, 2, 0)


def _step(value: np.ndarray, edge: float, soft: float) -> np.ndarray:
    ramp = ((value - edge) / np.float32(2 * soft) + 0.5).clip(0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _shadow(feet: np.ndarray, metre: float, size: tuple[int, int]) -> np.ndarray:
    """Shade of the feet (N, 2) on the ground, as a factor (H, W, 1); `metre` in pixels."""
    x, y = np.arange(size[1]), np.arange(size[0])
    light = np.ones(size, np.float32)
    spots = [(foot, 0.1, 0.035, 0.4) for foot in feet] + [(feet.mean(0), 0.26, 0.07, 0.28)]
    for (left, down), wide, high, strength in spots:
        across = np.exp(-(((x - left) / (wide * metre)) ** 2))
        along = np.exp(-(((y - down) / (high * metre)) ** 2))
        light *= 1 - (strength * along[:, None] * across).astype(np.float32)
    return light[..., None]


def _framed(solids: _Solids, looks: _Looks, rng: np.random.Generator, ratio: float) -> _Camera:
    """Choose scale and place so that the person fills the frame as a detector's box would."""
    low, high = solids.low.min(0)[:2], solids.high.max(0)[:2]
    extent = high - low
    scale = rng.uniform(0.88, 0.95) / (1.76 * looks.height)
    scale = min(scale, 0.98 / extent[1], 0.98 * ratio / extent[0])
    free = np.maximum((ratio, 1) - scale * extent, 0)
    x, y = scale * (low + high) / 2 * (-1, 1) + (ratio / 2, 0.5)
    x, y = (x, y) + rng.uniform(-1, 1, 2) * np.minimum((0.04, 0.03), free / 2)
    return _Camera(float(scale), float(x), float(y))


def _tilt(body: _Body, elevation: float) -> None:
    """Turn the world towards a camera that looks down by `elevation` degrees."""
    turn = _rotation(0, elevation)
    body.joints = body.joints @ turn.T
    body.frames = {name: turn @ frame for name, frame in body.frames.items()}


def _scene(seed: int, identity: int, pose: int, size: tuple[int, int]):
    """Draw a person apart from the place: RGBA, background (each (H, W, .)), joints (25, 2)."""
    looks = _looks(seed, identity)
    rng = np.random.default_rng([seed, identity, pose + 1])
    # Steps that spread over the circle: each picture of a person shows another side.
    yaw = 360 * (identity * 0.755 + pose * 0.57) + rng.uniform(-40, 40)
    body = _pose(looks, rng, yaw)
    _tilt(body, rng.uniform(2, 12))
    parts = _torso(body, looks) + _arms(body, looks) + _legs(body, looks) + _head(body, looks)
    solids = _solids(parts)
    camera = _framed(solids, looks, rng, size[1] / size[0])
    height, width = size
    surface = _surface(parts, solids, camera, (height * _OVERSAMPLING, width * _OVERSAMPLING))
    samples, steps = _shade(surface, camera, rng), range(_OVERSAMPLING)
    drawn = sum(samples[i::_OVERSAMPLING, j::_OVERSAMPLING] for i in steps for j in steps)
    points = body.joints[:, :2] * (1, -1) * camera.scale + (camera.x, camera.y)
    points = points * height - 0.5  # pixel centres are at integers
    shadow = _shadow(points[[19, 21, 22, 24]], camera.scale * height, size)
    return drawn / _OVERSAMPLING**2, _background(rng, size) * shadow, points


def person(seed: int, identity: int, pose: int, size=(128, 64)) -> tuple[np.ndarray, np.ndarray]:
    """Draw a person: image uint8 (H, W, 3) and BODY_25 joints float32 (25, 3) in its pixels.

    The looks follow from `seed` and `identity`; posture, view, light and place also from `pose`
    (all three are at least 0). `size` is (height, width); another size of the same shape is the
    same picture, larger. A joint outside the frame is (0, 0, 0), any other has confidence 1.
    """
    drawn, background, points = _scene(seed, identity, pose, size)
    image = drawn[..., :3] + background * (1 - drawn[..., 3:])
    within = ((points > -0.5) & (points < np.array(size[::-1]) - 0.5)).all(1)
    joints = np.concatenate([points, np.ones((25, 1))], 1) * within[:, None]
    return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8), joints.astype(np.float32)


# ------------------------------------------------------------------------------ motions


def motion(name: str, yaw: float = 0.0) -> np.ndarray:
    """A motion of MOTIONS as MOTION_FRAMES poses (N, 25, 3) of one round, in metres.

    x to the right, y downwards from the ground below the feet; x = 0 is between the hips, which
    stay in their place. The body is 1.76 m tall, turned by `yaw` degrees (90: to the right of the
    picture), and seen from far away. Raises KeyError for another name.
    """
    looks = _looks(0, 0)
    looks = replace(looks, height=1.0, shoulders=1.0, hips=1.0)
    poses = np.ones((MOTION_FRAMES, 25, 3))
    for frame, pose in enumerate(poses):
        angles, turned, lift = _MOTIONS[name](2 * math.pi * frame / MOTION_FRAMES)
        body = _bend(looks, angles, yaw + turned, 0.35 * turned, 3)
        pose[:, 0] = body.joints[:, 0] - body.joints[8, 0]
        pose[:, 1] = -body.joints[:, 1] - lift
    return poses.astype(np.float32)


# Each gives the angles (as in _STANCES), the turn in degrees and the height above the ground in
# metres at a phase in radians; they begin and end alike.


def _leg(phase: float, swing: float, lift: float, toes: float) -> tuple:
    """A leg that swings by so many degrees, its knee bent on the way forwards."""
    ahead, forwards = math.sin(phase), max(0.0, math.cos(phase))
    return swing * ahead, 1.5, 7 + lift * forwards**1.5, toes * max(0.0, -ahead) - 8


def _walk(phase: float) -> tuple:
    legs = _leg(phase, 24, 46, 24), _leg(phase + math.pi, 24, 46, 24)
    s = math.sin(phase)
    arms = (-22 * s, 8, -15, 18 - 9 * s), (22 * s, 8, -15, 18 + 9 * s)
    return [*arms, *legs, (3, 7 * s, 0)], 0.0, 0.0


def _run(phase: float) -> tuple:
    legs = _leg(phase, 42, 88, 34), _leg(phase + math.pi, 42, 88, 34)
    s = math.sin(phase)
    arms = (-40 * s, 14, -20, 94 - 12 * s), (40 * s, 14, -20, 94 + 12 * s)
    return [*arms, *legs, (10, 12 * s, 0)], 0.0, 0.03 - 0.03 * math.cos(2 * phase)


def _turn(phase: float) -> tuple:
    s = math.sin(phase)
    arm = (2, 9 + 3 * abs(s), -15, 16)
    return [arm, arm, (0, 4, 3, 0), (0, 4, 3, 0), (1, 10 * math.cos(phase), 0)], 50 * s, 0.0


def _wave(phase: float) -> tuple:
    arm = (0, 78, 88, 100 + 26 * math.sin(2 * phase))
    return [arm, (2, 9, -15, 14), (0, 4, 3, 0), (0, 4, 3, 0), (0, 0, 3 * math.sin(phase))], 0.0, 0.0


def _stretch(phase: float) -> tuple:
    up = (1 - math.cos(phase)) / 2
    # The elbows bend on the way, which keeps the hands near the body.
    out = math.sin(math.pi * min(0.5, up))
    arm = (2 - 2 * up, 9 + 155 * up, 100 * out - 15, 14 + 470 * up * (1 - up))
    leg = (0, 4 + 2 * up, 3, 0)
    return [arm, arm, leg, leg, (1 - 5 * up, 0, 0)], 0.0, 0.0


def _sit(phase: float) -> tuple:
    down = (1 - math.cos(phase)) / 2
    arm = (2 + 55 * down, 9 + 3 * down, -15, 14 + 14 * down)
    leg = (72 * down, 4 + 10 * down, 3 + 92 * down, 0)
    return [arm, arm, leg, leg, (1 + 28 * down, 0, 0)], 0.0, 0.0


_MOTIONS = dict(zip(MOTIONS, (_walk, _run, _turn, _wave, _stretch, _sit)))
