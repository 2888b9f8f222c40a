"""Draws the synthetic demo people: bodies, clothes, light and background, with exact joints."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

IDENTITIES = 400
POSES = 12
MOTION_FRAMES = 24  # of one cycle

_OVERSAMPLING = 2  # each way, to antialias the edges of the body

_SKIN = "f6d3bd edc0a0 e0ac86 c98f66 a9714b 8a5637 6b4129 4f2f20"
_HAIR = "17130f 2a1b12 3b2416 573620 7a4c29 a5713a d0a35c e2c48a 8e3b1f 8c8a88 d8d4cc"
_TOPS = (
    "d94b3d f2764f f2a541 f4cf57 8fb84e 3f9b63 1f7a74 35a7b5 3f7fc4 2b4f94 5a4aa3 8b4f9f c04f86 "
    "ee8fa8 f1ece0 fafafa b9c0c8 5c636e 2a2d36 7c2f38 9a6a3f c9b18a"
)
_BOTTOMS = "1f2a44 2f4a78 54779f 23252b 3d4149 6b6f74 8c7a5b b9a27c 5a4332 47523a 6d2f3c dcd6c8"
_SHOES = "1b1b1f f2f2ee 7a4a2b b5382f 2d4f8c 55585f e6b84c 3c2a20"
# Walls and grounds of similar brightness, so that two pictures differ mainly in the person.
_WALLS = "cacdcf cfccc7 c9cdc9 cfc9c7 c6ccd1 d1cfcb cdcecf cdc9cf c9cecc ced1d1 cfcbc8 cfcfc8"
_GROUNDS = "afaeab adaeb0 b3b0ab abafad b1ada9 b6b4b1 acadae adb1ab b3b1af"

# Where a fabric shows its second colour, by the position around and up the body, in periods.
_PATTERNS = {
    "plain": lambda around, up: np.zeros(len(up), bool),
    "horizontal": lambda around, up: up % 1 < 0.5,
    "vertical": lambda around, up: (around + 0.25) % 1 < 0.5,
    "check": lambda around, up: (around % 1 < 0.4) ^ (up % 1 < 0.4),
    "dots": lambda around, up: (around % 1 - 0.5) ** 2 + (up % 1 - 0.5) ** 2 < 0.085,
    "block": lambda around, up: up < -1.3,
    "print": lambda around, up: around**2 + (up + 0.7) ** 2 < 0.45,
}
_COVERED = {"trousers": 2.2, "shorts": 0.8, "skirt": 0.6, "dress": 0.6}  # cloth length in thighs

# Hair styles: radius, line above the brow, slant; and for falling hair its ends and radii.
_HAIR_STYLES = {
    "short": (0.102, -0.002, 0.3, None),
    "crop": (0.097, -0.002, 0, None),
    "afro": (0.124, -0.002, 0, None),
    "fringe": (0.102, -0.024, 0.2, None),
    "long": (0.102, -0.002, -0.25, ((0, 0, -0.028), (0, -0.2, -0.055), (0.097, 0.082))),
    "bob": (0.102, -0.024, 0, ((0, 0, -0.028), (0, -0.075, -0.03), (0.097, 0.088))),
    "ponytail": (0.102, -0.002, 0.15, ((0, 0.03, -0.125), (0, -0.15, -0.12), (0.036, 0.026))),
    "bun": (0.102, -0.002, 0, ((0, 0.1, -0.075), (0, 0.105, -0.075), (0.05, 0.05))),
}

# Angles in degrees. Arm: forwards, sideways, turned outwards, elbow. Leg: forwards, sideways, knee,
# toes down. Spine: forwards, turned, sideways. Right limbs come before left ones.
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
    """A fabric: its pattern, two colours (3,) in [0, 1], and the pattern's period in metres."""

    kind: str
    base: np.ndarray
    accent: np.ndarray
    period: float

    def paint(self, u: np.ndarray, torso: bool = False, drop: float = 0.0) -> np.ndarray:
        """Colours (N, 3) at points (N, 3) of a body part, `drop` metres higher in the fabric."""
        around = np.arctan2(u[:, 0], u[:, 2]) * (0.14 if torso else 0.06)
        mark = _PATTERNS[self.kind](around / self.period, (u[:, 1] + drop) / self.period)
        return np.where(mark[:, None], self.accent, self.base)


class _Looks:
    """What stays the same in all pictures of a person; lengths in metres or as factors."""

    def __init__(self, seed: int, identity: int):
        rng = np.random.default_rng([seed, identity, 0])
        feminine = rng.random() < 0.5
        styles = "long ponytail bun bob short" if feminine else "short crop bald afro fringe"
        odds = [0.4, 0.18, 0.22, 0.2] if feminine else [0.68, 0.32, 0, 0]
        skins, hairs, shoes = _colours(_SKIN), _colours(_HAIR), _colours(_SHOES)
        self.top = _fabric(rng, _TOPS, dict(zip(_PATTERNS, (9, 3, 1.2, 1, 1.8, 1.6, 1.6))))
        self.bottom = _fabric(rng, _BOTTOMS, {"plain": 8, "vertical": 0.6, "check": 0.5})
        self.cut = str(rng.choice(list(_COVERED), p=odds))
        if self.cut == "dress":
            self.bottom = self.top
        tone = rng.integers(len(skins))
        self.skin = skins[tone]
        self.height = rng.normal(0.97 if feminine else 1.02, 0.025)
        self.shoulders = rng.normal(0.91 if feminine else 1.04, 0.035)
        self.hips = rng.normal(1.05 if feminine else 0.97, 0.035)
        self.girth = np.clip(rng.normal(0.95 if feminine else 1.02, 0.07), 0.82, 1.2)
        self.hair = hairs[rng.integers(len(hairs) if tone < 4 else 4)]
        self.hair_style = str(rng.choice(styles.split()))
        self.beard = not feminine and rng.random() < 0.3
        self.sleeves = rng.choice([2.0, 0.62, 0.2], p=[0.45, 0.45, 0.1])  # length, in upper arms
        self.shoes = shoes[rng.integers(len(shoes))]


@dataclass
class _Part:
    """Two spheres and the cone around them, in the part's own frame, which may be flattened.

    Points `u` (N, 3) are in metres from the start along the frame's axes, before flattening.
    """

    start: np.ndarray
    end: np.ndarray
    radii: tuple[float, float]
    frame: np.ndarray  # (3, 3), columns: the part's left, up and forward
    colour: np.ndarray | Callable  # (3,), or points u -> (N, 3)
    flat: tuple[float, float] = (1.0, 1.0)  # factors of width and depth
    keep: Callable | None = None  # points u -> bool (N,)

    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and largest coordinates (3,) of the part's points."""
        scaled = self.frame * (self.flat[0], 1, self.flat[1])
        reach = max(self.radii) * np.linalg.norm(scaled, axis=1)
        return np.minimum(self.start, self.end) - reach, np.maximum(self.start, self.end) + reach

    def meet(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is visible at x, y (H, W): depth z (H, W), -inf for none, points u, normals (.., 3).

        Seen along z, a part is the union of the spheres along its axis. Unflattened, the position
        (0 start, 1 end) of the one nearest to the viewer has a closed form.
        """
        to_own = self.frame.T / np.array([[self.flat[0]], [1.0], [self.flat[1]]])
        to_own = to_own.astype(np.float32)
        axis, ray = to_own @ (self.end - self.start).astype(np.float32), to_own[:, 2]
        stretch = np.linalg.norm(ray)
        ray = ray / stretch
        ahead = axis @ ray
        aside = axis - ahead * ray
        # If the axis points at the viewer within the cone's slope, only one sphere would be seen.
        limit = 0.95 * np.linalg.norm(aside)
        grow = np.clip(self.radii[1] - self.radii[0], -limit, limit)
        curve = max(aside @ aside - grow**2, 1e-8)
        zero = np.stack([x, y, np.zeros_like(x)], -1) - self.start  # the rays' points at depth 0
        origin = zero.astype(np.float32) @ to_own.T  # (H, W, 3)
        along = origin @ ray
        level = self.radii[0] ** 2 - np.einsum("hwi,hwi->hw", origin, origin) + along * along
        middle = (origin @ aside + self.radii[0] * grow) / curve
        peak = np.sqrt(np.maximum(level + curve * middle * middle, 0))
        place = np.clip(middle + peak * ahead / math.sqrt(curve**2 + curve * ahead**2), 0, 1)
        inside = level + curve * place * (2 * middle - place)  # half the chord, squared
        depth = (np.sqrt(np.maximum(inside, 0)) + place * ahead - along) / stretch
        u = origin + (depth * stretch)[..., None] * ray
        return np.where(inside > 0, depth, -np.inf), u, (u - place[..., None] * axis) @ to_own


def _colours(hexadecimal: str) -> np.ndarray:
    values = np.frombuffer(bytes.fromhex(hexadecimal), np.uint8)
    return values.reshape(-1, 3).astype(np.float32) / 255


def _turned(frame: np.ndarray, *turns: tuple[int, float]) -> np.ndarray:
    """A frame (3, 3) after turns about its own axes, each (axis, degrees)."""
    for axis, degrees in turns:
        angle, first, second = math.radians(degrees), (axis + 1) % 3, (axis + 2) % 3
        cos, sin, turn = math.cos(angle), math.sin(angle), np.eye(3)
        turn[[first, second], [first, second]] = cos
        turn[[second, first], [first, second]] = sin, -sin
        frame = frame @ turn
    return frame


def _fabric(rng: np.random.Generator, palette: str, weights: dict[str, float]) -> _Fabric:
    colours = _colours(palette)
    base = colours[rng.integers(len(colours))]
    contrast = np.abs((colours - base) @ (0.3, 0.59, 0.11))
    accent = colours[rng.choice(np.argsort(contrast)[len(colours) // 2 :])]
    kind = rng.choice(list(weights), p=np.array([*weights.values()]) / sum(weights.values()))
    return _Fabric(str(kind), base, accent, rng.uniform(0.075, 0.13))


def _stance(rng: np.random.Generator, skirt: bool) -> list[np.ndarray]:
    """Draw the angles of two arms, two legs and a spine, as in `_STANCES`."""
    amount = rng.uniform(0.75, 1.08)
    stances = _STANCES[:5] + _STANCES[: -1 if skirt else None]  # standing and walking count twice
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


class _Body:
    """A person's skeleton, turned by `yaw` degrees; the head turns by `look` and nods by `nod`.

    Its `joints` (25, 3) are in metres, y up from the ground, z towards the viewer. `frames` holds
    the parts' frames (3, 3), limbs by the joint where they begin.
    """

    def __init__(self, looks: _Looks, angles: list, yaw: float, look: float, nod: float):
        self.height, self.joints = looks.height, np.zeros((25, 3))
        *limbs, spine = angles
        pelvis = _turned(np.eye(3), (1, yaw), (2, -0.3 * spine[2]))
        chest = _turned(pelvis, *enumerate(spine))
        head = _turned(chest, (1, look - 0.7 * spine[1]), (0, nod - 0.45 * spine[0]))
        neck = self.height * (pelvis @ (0, 0.1, 0) + chest @ (0, 0.405, 0))
        center = neck + self.height * (chest @ (0, 0.09, 0.005) + head @ (0, 0.115, 0.022))
        self.frames = {"pelvis": pelvis, "chest": chest, "head": head, "head_center": center}
        face = ((0, -0.016, 0.106), (-0.034, 0.02, 0.074), (0.034, 0.02, 0.074))
        face += ((-0.083, -0.002, -0.004), (0.083, -0.002, -0.004))
        self.joints[[0, 15, 16, 17, 18]] = center + np.array(face) @ head.T
        self.joints[1] = neck
        for side, arm, leg in zip((-1, 1), limbs[:2], limbs[2:]):
            self._arm(side, looks.shoulders, *arm)
            self._leg(side, looks.hips, *leg)
        ground = self.joints[19:, 1].min() - 0.03
        self.joints[:, 1] -= ground
        center[1] -= ground

    def _arm(self, side, broad, forwards, sideways, turn, elbow) -> None:
        chest = self.frames["chest"]
        upper = _turned(chest, (0, -forwards), (2, side * sideways), (1, side * turn))
        lift = 0.035 * max(0, np.sin(np.radians(sideways - 60)))
        shoulder = chest @ (side * (0.168 * broad - lift), -0.018 + lift, 0)
        bones = (upper, 0.285), (_turned(upper, (0, -elbow)), 0.245)
        self._hang(5 if side > 0 else 2, self.joints[1] + self.height * shoulder, bones)

    def _leg(self, side, broad, forwards, sideways, knee, toes) -> None:
        pelvis, first, start = self.frames["pelvis"], *((12, 19) if side > 0 else (9, 22))
        thigh = _turned(pelvis, (0, -forwards), (2, side * sideways), (1, side * 6))
        shin = _turned(thigh, (0, knee))
        # The foot's angle to the ground does not depend on hip and knee.
        foot = _turned(shin, (0, toes + forwards - knee), (2, -side * sideways * 0.8))
        hip = self.height * (pelvis @ (side * 0.08 * broad, -0.01, 0))
        ankle = self._hang(first, hip, ((thigh, 0.425), (shin, 0.415)))
        tips = ((-side * 0.022, -0.06, 0.158), (side * 0.03, -0.06, 0.135), (0, -0.055, -0.05))
        self.joints[start : start + 3] = ankle + self.height * (np.array(tips) @ foot.T)
        self.frames[first + 2] = foot

    def _hang(self, first: int, place: np.ndarray, bones: tuple) -> np.ndarray:
        # Sets a joint and the bones (frame, length) that hang from it; returns their end.
        for joint, (frame, length) in enumerate(bones, first):
            self.joints[joint], self.frames[joint] = place, frame
            place = place + self.height * (frame @ (0, -length, 0))
        self.joints[first + 2] = place
        return place


def _pose(looks: _Looks, rng: np.random.Generator, yaw: float) -> _Body:
    """Draw a random posture for a person turned by about `yaw` degrees."""
    angles = _stance(rng, looks.cut in ("skirt", "dress"))
    return _Body(looks, angles, yaw + rng.normal(0, 3), rng.normal(0, 16), rng.normal(3, 5))


# ------------------------------------------------------------------------------ clothed


def _painted(colour: np.ndarray | Callable, u: np.ndarray) -> np.ndarray:
    return colour(u) if callable(colour) else colour


def _to(end: float, cloth: Callable, below: np.ndarray | Callable) -> Callable:
    """A limb's colours: cloth down to the height `end` in its frame, then `below`."""
    return lambda u: np.where(u[:, 1:2] > end, cloth(u), _painted(below, u))


def _torso(body: _Body, looks: _Looks) -> list[_Part]:
    joints, chest, pelvis = body.joints, body.frames["chest"], body.frames["pelvis"]
    size, girth = looks.height, looks.height * looks.girth
    wide, broad = 0.16 * looks.shoulders * girth, 0.156 * looks.hips * girth
    cloth = partial(looks.top.paint, torso=True)
    waist = pelvis @ (0, 0.1 * size, 0) + joints[8]
    ribs = joints[1] + chest @ (0, -0.13 * size, 0)
    collar = joints[1] + chest @ (0, 0.014, -0.006)
    seat = joints[8] + pelvis @ (0, 0.02 * size, 0)
    throat = joints[1] + chest @ (0, 0.02, 0.006)
    chin = joints[1] + 0.6 * (body.frames["head_center"] - joints[1])
    hem = (-0.04 if looks.cut == "skirt" else -0.115) * size
    hips = _to(hem, partial(cloth, drop=-0.26), looks.bottom.paint)
    yoke, shoulders = (0.056 * girth, 0.052 * girth), partial(cloth, drop=0.165)
    return [
        _Part(ribs, waist, (wide, 0.13 * girth), chest, cloth, (1, 0.68)),
        _Part(waist, seat, (0.131 * girth, broad), pelvis, hips, (1.01, 0.66)),
        *(_Part(collar, joints[arm], yoke, chest, shoulders, (1, 0.82)) for arm in (2, 5)),
        _Part(throat, chin, (0.054, 0.052), chest, looks.skin),
    ]


def _limbs(body: _Body, looks: _Looks) -> list[_Part]:
    parts, joints, frames, girth = [], body.joints, body.frames, looks.height * looks.girth
    thick = 0.006 if looks.sleeves > 1 else 0.0
    knees, ankles = (0.063, 0.05) if looks.cut == "trousers" else (0.056, 0.036)
    radii = (0.056 * girth, 0.0405 * girth + thick, 0.027 * girth + thick)
    arm = 0.285 * looks.height, looks.sleeves, looks.top.paint, radii
    radii = (0.077 * girth, knees * girth, ankles * girth)
    leg = 0.425 * looks.height, _COVERED[looks.cut], looks.bottom.paint, radii
    for first, (length, covered, cloth, radii) in zip((2, 5, 9, 12), (arm, arm, leg, leg)):
        for i, end in enumerate((-length * covered, length * (1 - covered))):
            bone, colour = joints[first + i : first + i + 2], _to(end, cloth, looks.skin)
            parts.append(_Part(*bone, radii[i : i + 2], frames[first + i], colour))
    for wrist in (4, 7):
        lower = frames[wrist - 1]
        tip = joints[wrist] + lower @ (0, -0.085, 0.008)
        parts.append(_Part(joints[wrist], tip, (0.029, 0.033), lower, looks.skin, (0.65, 1)))
    for ankle, aside in ((11, -0.008), (14, 0.008)):
        foot = frames[ankle]
        heel = joints[ankle] + foot @ (0, -0.047, -0.03) * looks.height
        toes = joints[ankle] + foot @ (aside, -0.058, 0.14) * looks.height
        parts.append(_Part(heel, toes, (0.044, 0.038), foot, looks.shoes, (1.12, 1)))
        parts.append(_Part(joints[ankle], heel, (0.041, 0.044), foot, looks.shoes))
    return parts


def _skirt(body: _Body, looks: _Looks) -> list[_Part]:
    if looks.cut not in ("skirt", "dress"):
        return []
    joints, hips = body.joints, body.joints[8]
    knees, apart = (joints[10] + joints[13]) / 2, joints[10] - joints[13]
    length = np.linalg.norm(knees - hips)
    up = (hips - knees) / length
    forward = np.cross(body.frames["pelvis"][:, 0], up)
    forward /= np.linalg.norm(forward)
    frame = np.stack([np.cross(up, forward), up, forward], 1)
    wide = 0.158 * looks.height * looks.girth * looks.hips
    hem = wide + 0.045 + 0.18 * max(0, np.linalg.norm(apart) - 0.2)
    depth = min(0.74 + 0.5 * max(0, abs(apart @ forward) - 0.1), 1.2)
    cloth = partial(looks.bottom.paint, torso=True, drop=-0.35)
    skirt = _Part(hips + 0.02 * up, knees, (wide, hem), frame, cloth, (1, depth))
    skirt.keep = lambda u: u[:, 1] > -0.86 * length
    return [skirt]


def _head(body: _Body, looks: _Looks) -> list[_Part]:
    frame, center = body.frames["head"], body.frames["head_center"]

    def part(start, end, radii, colour, flat=(1.0, 1.0), keep=None):
        return _Part(center + frame @ start, center + frame @ end, radii, frame, colour, flat, keep)

    crown, chin = (0, 0.033, -0.004), (0, -0.046, 0.014)
    parts = [
        part(crown, chin, (0.091, 0.064), partial(_face, looks), (0.9, 1.02)),
        part((0, 0.004, 0.088), (0, -0.016, 0.098), (0.007, 0.013), looks.skin),
    ]
    for x in (-0.08, 0.08):
        ends = (x, 0.01, -0.006), (x, -0.012, -0.004)
        parts.append(part(*ends, (0.019, 0.013), looks.skin * 0.95, (0.5, 0.8)))
    if looks.hair_style == "bald":
        return parts

    def strands(u):
        wave = np.sin(np.arctan2(u[:, 0], u[:, 2] + 0.01) * 23 + 60 * u[:, 1])
        return looks.hair * (1 + 0.1 * wave + 1.1 * u[:, 1])[:, None]

    def above(u):
        return u[:, 1] + 0.038 > 0.72 * (u[:, 2] - 0.016) + line + slant * u[:, 0]

    radius, line, slant, falls = _HAIR_STYLES[looks.hair_style]
    crown, nape = (0, 0.038, -0.016), (0, -0.02, -0.012)
    parts.append(part(crown, nape, (radius, radius - 0.018), strands, (0.93, 1), above))
    if falls:
        parts.append(part(*falls, strands, (1, 0.72), lambda u: u[:, 2] < 0.06))  # off the face
    return parts


def _face(looks: _Looks, u: np.ndarray) -> np.ndarray:
    """Paint the head: eyes, brows, mouth, cheeks and beard, at points (N, 3) below the crown."""
    x, y, front = np.abs(u[:, 0]), u[:, 1] + 0.033, u[:, 2] > 0
    colour = np.repeat(looks.skin[None], len(u), 0)
    dark = looks.hair * 0.7

    def spot(right, up, width, height):
        return front & (((x - right) / width) ** 2 + ((y - up) / height) ** 2 < 1)

    if looks.beard:
        colour[front & (y < -0.032 - 0.25 * (0.05 - x).clip(0))] = dark
    colour[spot(0.042, -0.022, 0.02, 0.016)] *= (1.0, 0.93, 0.92)
    colour[spot(0.0, 13 * x * x - 0.063, 0.024, 0.0065)] = looks.skin * (0.85, 0.55, 0.55)
    colour[spot(0.037, 0.043, 0.019, 0.006)] = dark
    colour[spot(0.037, 0.02, 0.018, 0.0115)] = (0.96, 0.96, 0.95)
    colour[spot(0.0375, 0.02, 0.0105, 0.0115)] = (0.13, 0.1, 0.09)
    return colour


# ------------------------------------------------------------------------------ drawn


def _draw(parts: list[_Part], camera: tuple, size: tuple[int, int]) -> tuple:
    """Draw the parts: depth (H, W) in metres, -inf for none; colours and normals (H, W, 3)."""
    (scale, left, top), (height, width) = camera, size
    x = ((np.arange(width) + 0.5) / height - left) / scale
    y = (top - (np.arange(height) + 0.5) / height) / scale
    depth = np.full(size, -np.inf, np.float32)
    colour, normal = np.zeros((2, height, width, 3), np.float32)
    for part in parts:
        low, high = part.box()
        columns = slice(*np.searchsorted(x, (low[0], high[0])))
        rows = slice(*np.searchsorted(-y, (-high[1], -low[1])))
        z, u, toward = part.meet(*np.broadcast_arrays(x[columns], y[rows, None]))
        seen = z > depth[rows, columns]
        if part.keep is not None:
            seen[seen] = part.keep(u[seen])
        depth[rows, columns][seen] = z[seen]
        colour[rows, columns][seen] = _painted(part.colour, u[seen])
        normal[rows, columns][seen] = toward[seen]
    square = np.einsum("hwi,hwi->hw", normal, normal)
    return depth, colour, normal / np.sqrt(square + 1e-12)[..., None]


def _shade(depth, colour, normal, metre: float, rng: np.random.Generator) -> np.ndarray:
    """Light `_draw`'s output: RGBA (H, W, 4) in [0, 1], premultiplied by alpha."""
    side = rng.choice([-1, 1]) * rng.uniform(0.25, 0.8)
    light = np.array([side, rng.uniform(0.5, 0.9), rng.uniform(0.6, 1.0)])
    light /= np.linalg.norm(light)
    lit = np.maximum(normal @ light.astype(np.float32) * 0.7 + 0.3, 0)
    bright = 0.5 + 0.085 * normal[..., 1] + 0.5 * lit - 0.16 * (1 - normal[..., 2]) ** 2
    # What lies behind its surroundings, such as the trunk beside an arm, is darker.
    levels = np.clip(depth * 200 + 128, 0, 255).astype(np.uint8)
    blurred = Image.fromarray(levels).filter(ImageFilter.BoxBlur(0.045 * metre))
    bright *= 1 - np.clip((np.asarray(blurred, np.float32) - levels) * 0.015, 0, 0.35)
    alpha = (depth > -np.inf)[..., None]
    return np.concatenate([(colour * bright[..., None]).clip(0, 1) * alpha, alpha], -1)


def _background(rng: np.random.Generator, size: tuple, feet: np.ndarray, metre: float):
    """A wall with soft shapes, and ground with a shadow at the feet (N, 2): (H, W, 3) in [0, 1]."""
    height, width = size
    walls, grounds = (_colours(palette) * 255 for palette in (_WALLS, _GROUNDS))
    wall, ground = walls[rng.integers(len(walls))], grounds[rng.integers(len(grounds))]
    colour = lambda values: tuple(values.astype(int).tolist())  # noqa: E731
    picture = Image.new("RGB", (width, height), colour(wall))
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.integers(2, 5)):
        start = np.array([width / 2, 0]) + rng.uniform((-0.4, -0.2), (0.3, 0.45)) * height
        end = start + rng.uniform((0.08, 0.2), (0.3, 0.8)) * height
        shape = wall + rng.uniform(0.2, 0.45) * (walls[rng.integers(len(walls))] * 0.95 - wall)
        pen.rectangle([*start, *end], colour(shape))
    pen.rectangle([0, rng.uniform(0.66, 0.78) * height, width, height], colour(ground))
    left, right, low = feet[:, 0].min(), feet[:, 0].max(), feet[:, 1].max()
    reach = np.array([0.1, 0.05]) * metre
    pen.ellipse([*((left, low) - reach), *((right, low) + reach)], colour(ground * 0.7))
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.01 * height)), np.float32) / 255
    x, y = (np.arange(width) + 0.5 - width / 2) / height, (np.arange(height) + 0.5) / height
    light = rng.uniform(0.98, 1.1) - 0.16 * y[:, None] + rng.uniform(-0.15, 0.15) * x
    return soft * light[..., None]


def _framed(parts: list, looks: _Looks, rng: np.random.Generator, ratio: float) -> tuple:
    """A camera: frame heights per metre, and the image of the world's origin (x, y), in frame
    heights. The person fills the frame as in a detector's box.
    """
    lows, highs = zip(*(part.box() for part in parts))
    low, high = np.min(lows, 0)[:2], np.max(highs, 0)[:2]
    extent = high - low
    scale = rng.uniform(0.88, 0.95) / (1.76 * looks.height)
    scale = min(scale, 0.98 / extent[1], 0.98 * ratio / extent[0])
    free = np.maximum((ratio, 1) - scale * extent, 0)
    x, y = scale * (low + high) / 2 * (-1, 1) + (ratio / 2, 0.5)
    x, y = (x, y) + rng.uniform(-1, 1, 2) * np.minimum((0.04, 0.03), free / 2)
    return float(scale), float(x), float(y)


def _scene(seed: int, identity: int, pose: int, size: tuple[int, int]):
    """Draw person and background separately: RGBA, background (H, W, .) each, joints (25, 2)."""
    looks = _Looks(seed, identity)
    rng = np.random.default_rng([seed, identity, pose + 1])
    # Steps that spread over the circle, so that each picture of a person shows another side.
    yaw = 360 * (identity * 0.755 + pose * 0.57) + rng.uniform(-40, 40)
    body = _pose(looks, rng, yaw)
    tilt = _turned(np.eye(3), (0, rng.uniform(2, 12)))  # the camera looks down
    body.joints = body.joints @ tilt.T
    body.frames = {name: tilt @ frame for name, frame in body.frames.items()}
    parts = [part for make in (_torso, _limbs, _skirt, _head) for part in make(body, looks)]
    height, width = size
    scale, *origin = camera = _framed(parts, looks, rng, width / height)
    fine = height * _OVERSAMPLING, width * _OVERSAMPLING
    samples = _shade(*_draw(parts, camera, fine), scale * fine[0], rng)
    drawn = samples.reshape(height, _OVERSAMPLING, width, _OVERSAMPLING, 4).mean((1, 3))
    points = body.joints[:, :2] * (1, -1) * scale + origin
    points = points * height - 0.5  # pixel centres are at integers
    background = _background(rng, size, points[[19, 21, 22, 24]], scale * height)
    return drawn, background, points


def person(seed: int, identity: int, pose: int, size=(128, 64)) -> tuple[np.ndarray, np.ndarray]:
    """Draw a person: image uint8 (H, W, 3) and BODY_25 joints float32 (25, 3) in its pixels.

    `seed` and `identity` determine the looks; with `pose`, also posture, view, light and
    background (all three are at least 0). `size` is (height, width); another size of the same
    aspect ratio gives the same picture, scaled. A joint outside the frame is (0, 0, 0), all others
    have confidence 1.
    """
    drawn, background, points = _scene(seed, identity, pose, size)
    image = drawn[..., :3] + background * (1 - drawn[..., 3:])
    within = ((points > -0.5) & (points < np.array(size[::-1]) - 0.5)).all(1)
    joints = np.concatenate([points, np.ones((25, 1))], 1) * within[:, None]
    return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8), joints.astype(np.float32)


# ------------------------------------------------------------------------------ motions


def motion(name: str, yaw: float = 0.0) -> np.ndarray:
    """One cycle of a motion in MOTIONS as MOTION_FRAMES poses (N, 25, 3), in metres.

    x is 0 between the hips, y points down from the ground. The body is 1.76 m tall, turned by `yaw`
    degrees (90: to the right of the picture), and seen from far away.
    """
    looks = _Looks(0, 0)
    looks.height = looks.shoulders = looks.hips = 1.0
    poses = np.ones((MOTION_FRAMES, 25, 3))
    for frame, pose in enumerate(poses):
        *angles, turned, lift = _motions(2 * math.pi * frame / MOTION_FRAMES)[name]
        body = _Body(looks, angles, yaw + turned, 0.35 * turned, 3)
        pose[:, 0] = body.joints[:, 0] - body.joints[8, 0]
        pose[:, 1] = -body.joints[:, 1] - lift
    return poses.astype(np.float32)


def _motions(phase: float) -> dict[str, tuple]:
    """All motions at a phase in radians; they loop. Each gives the angles as in _STANCES, the turn
    in degrees, and the height above the ground in metres.
    """
    s, up = math.sin(phase), (1 - math.cos(phase)) / 2
    # The elbows bend on the way up, to keep the hands near the body.
    out = math.sin(math.pi * min(0.5, up))
    walking = [(22 * side, 8, -15, 18 + 9 * side) for side in (-s, s)]
    running = [(40 * side, 14, -20, 94 + 12 * side) for side in (-s, s)]
    turning = (2, 9 + 3 * abs(s), -15, 16)
    waving = (0, 78, 88, 100 + 26 * math.sin(2 * phase))
    raised = (2 - 2 * up, 9 + 155 * up, 100 * out - 15, 14 + 470 * up * (1 - up))
    resting = (2 + 55 * up, 9 + 3 * up, -15, 14 + 14 * up)
    apart, bent = (0, 4 + 2 * up, 3, 0), (72 * up, 4 + 10 * up, 3 + 92 * up, 0)
    hangs, _, stands, *_ = _RELAXED
    hop = 0.03 - 0.03 * math.cos(2 * phase)
    return {
        "walk": (*walking, *_strides(phase, 24, 46, 24), (3, 7 * s, 0), 0, 0),
        "run": (*running, *_strides(phase, 42, 88, 34), (10, 12 * s, 0), 0, hop),
        "turn": (turning, turning, stands, stands, (1, 10 * math.cos(phase), 0), 50 * s, 0),
        "wave": (waving, hangs, stands, stands, (0, 0, 3 * s), 0, 0),
        "stretch": (raised, raised, apart, apart, (1 - 5 * up, 0, 0), 0, 0),
        "sit": (resting, resting, bent, bent, (1 + 28 * up, 0, 0), 0, 0),
    }


def _strides(phase: float, swing: float, lift: float, toes: float) -> list[tuple]:
    # Two legs that swing by these degrees, with the knee bent on the way forwards.
    legs = [(math.sin(at), max(0.0, math.cos(at))) for at in (phase, phase + math.pi)]
    return [(swing * s, 1.5, 7 + lift * c**1.5, toes * max(0.0, -s) - 8) for s, c in legs]


MOTIONS = tuple(_motions(0.0))


if __name__ == "__main__":  # one of several processes that draw: writes its share to stdout
    seed, height, width, poses, *share = map(int, sys.argv[1:])
    for place in range(*share):
        for array in person(seed, *divmod(place, poses), (height, width)):
            sys.stdout.buffer.write(array.tobytes())
