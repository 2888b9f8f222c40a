"""Whatever is handed in: one line with the file's name, no traceback, nothing lost or left."""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import shlex
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from click import ClickException
from click.testing import CliRunner
from conftest import (
    COMMANDS,
    archive,
    body,
    csv_row,
    csv_text,
    encoded,
    openpose,
    picture,
    refused,
    write,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from posegan import checkpoints, datasets, files, pairs, photo, posegan, poses, reid, training
from posegan.files import BadInput

POINTS = body(50, 15, 4)[[*range(8), *range(9, 19)], :2]


class Case(NamedTuple):
    """A harm, and the command that must notice it with that word."""

    command: str
    harm: Callable[[Path], object]
    word: str
    changes: dict = {}  # noqa: RUF012
    code: int = 1


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_whole_is_taken(here, name):
    result = CliRunner().invoke(posegan.main, COMMANDS[name].split())
    assert result.exit_code == 0, result.output


# ------------------------------------------------------------------------------ pictures


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def huge(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(6 * 2**30)


def of_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def to_nothing(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("not there")


PNG = encoded(picture(0, (64, 32)))
LYING = PNG[:16] + b"\0\1\x86\xa0" * 2 + PNG[24:]  # a header of 100,000 x 100,000 pixels
# What is no regular file, or far too large.
SPECIAL = {"fifo": fifo, "folder": of_folder, "link": to_nothing, "huge": huge}
BAD_PICTURES = {
    "empty": b"",
    "text": b"no picture",
    "half": PNG[: len(PNG) // 2],
    "header": PNG[:33],
    "zeros": bytes(500),
    "spoilt": PNG[:60] + bytes(40) + PNG[100:],
    "bomb": LYING,
    "jpeg": encoded(picture(0, (64, 32)), "jpeg")[:300],
    "float": encoded(Image.new("F", (32, 64)), "tiff"),
    "pdf": b"%PDF-1.4\n1 0 obj",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "html": b"<!DOCTYPE html>" * 40,
    "webp": b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(30),
    "gif": b"GIF89a" + b"\xff" * 30,
    "pickle": b"\x80\x04\x95",
    **SPECIAL,
}
# Which file, and the command that reads it; folders and pipes are no pictures of a data set.
PICTURES = {
    "source": ("generate", "photo.png", {}),
    "pose": ("generate", "other.png", {"pose.json": "other.png"}),
    "made": ("folders", "made/1.png", {}),
    "real": ("folders", "real/0.png", {}),
    "prepare": ("prepare", "people/al/0.png", {}),
}


def harmed(file: str, harm: object) -> Callable[[Path], object]:
    """What puts bytes, or does something, in the place of a file."""
    return (
        (lambda here: harm(here / file))
        if callable(harm)
        else (lambda here: write(here / file, harm))
    )


def run(here: Path, case: Case) -> None:
    case.harm(here)
    words = COMMANDS[case.command].split()
    refused(here, [case.changes.get(word, word) for word in words], case.word, case.code)


PICTURE_CASES = {
    f"{place}-{way}": Case(command, harmed(file, harm), Path(file).name, changes)
    for place, (command, file, changes) in PICTURES.items()
    for way, harm in BAD_PICTURES.items()
    if not (place == "prepare" and way in ("fifo", "folder", "link"))
}


@pytest.mark.parametrize("case", PICTURE_CASES.values(), ids=PICTURE_CASES)
def test_bad_pictures_are_refused(here, case):
    run(here, case)


# ------------------------------------------------------------------------------ poses

FLAT = body(80, 30, 8).ravel().tolist()


def person(values: object) -> str:
    return json.dumps({"people": [{"pose_keypoints_2d": values}]})


def annotated(**changes: object) -> str:
    good = {"image_id": 0, "keypoints": [9, 9, 1] * 17}
    image = {"id": 0, "file_name": "0.png", "height": 64, "width": 32}
    image |= {key: value for key, value in changes.items() if key in image and key != "id"}
    good |= {key: value for key, value in changes.items() if key in good}
    return json.dumps({"images": [image], "annotations": [good]})


BAD_JSON = {
    "empty": "",
    "text": "not valid JSON",
    "null": "null",
    "number": "5",
    "word": '"people"',
    "true": "true",
    "list": "[]",
    "lists": "[[]]",
    "numbers": "[1, 2]",
    "nothing": "{}",
    "deep": "[" * 100_000,
    "binary": b"\xff\xfe\x00\xd8",
    "zeros": bytes(100),
    "digits": "1" * 10_000,
    "people null": '{"people": null}',
    "people word": '{"people": "x"}',
    "people dict": '{"people": {}}',
    "people number": '{"people": 3}',
    "no person": '{"people": [null]}',
    "empty person": '{"people": [{}]}',
    "no points": person([]),
    "null points": person(None),
    "word points": person("1" * 75),
    "dict points": person({str(i): 1 for i in range(75)}),
    "few": person(FLAT[:74]),
    "many": person([*FLAT, 1]),
    "nan": person([float("nan"), *FLAT[1:]]),
    "infinite": person([float("inf"), *FLAT[1:]]),
    "far": person([1e30, *FLAT[1:]]),
    "farther": person([1e300, *FLAT[1:]]),
    "farthest": json.dumps({"people": [{"pose_keypoints_2d": [10**400] * 75}]}),
    "null point": person([None, *FLAT[1:]]),
    "word point": person(["9", *FLAT[1:]]),
    "true point": person([True, *FLAT[1:]]),
    "list point": person([[9], *FLAT[1:]]),
    "nested": person([[value] for value in FLAT]),
    "pairs": person([[1, 2]] * 75),
    "coco word": annotated(keypoints="x"),
    "coco few": annotated(keypoints=[1] * 50),
    "coco nested": annotated(keypoints=[[1]] * 51),
    "coco nan": annotated(keypoints=[float("nan")] * 51),
    "coco list id": annotated(image_id=[]),
    "coco dict id": annotated(image_id={}),
    "coco height": annotated(height=-64),
    "coco tall": annotated(height=10**30),
    "coco infinite": annotated(height=float("inf")),
    "coco word size": annotated(width="wide"),
    "coco images": '{"images": [1], "annotations": []}',
    "coco nothing": '{"annotations": []}',
    "coco dict": '{"annotations": {}}',
    "detected": '[{"keypoints": []}]',
    "detected null": '[{"keypoints": null}]',
    "detected words": '[{"keypoints": [["a", "b", "c"]]}]',
    "detected scores": '[{"keypoints": [[1, 2]], "keypoint_scores": []}]',
    "detected dict": '[{"keypoints": {"x": [1], "y": []}}]',
    "instances": '[{"instances": 5, "frame_id": 0}]',
    "instance info": '{"instance_info": [5]}',
    **SPECIAL,
}
JSON_PLACES = {
    "pose": ("generate", "pose.json", {}),
    "own": ("own", "pose.json", {}),
    "score": ("folders", "pose.json", {"poses.csv": "pose.json"}),
    "prepare": ("posed", "pose.json", {"poses.csv": "pose.json"}),
    "beside": ("prepare", "people/bo/1.json", {}),
}
# What is no pose file, or shows nobody, as pictures of a data set may.
NOBODY = ("fifo", "folder", "link", "coco nothing", "list", "no points", "detected")
JSON_CASES = {
    f"{place}-{way}": Case(command, harmed(file, harm), Path(file).name, changes)
    for place, (command, file, changes) in JSON_PLACES.items()
    for way, harm in BAD_JSON.items()
    if not (place == "beside" and way in NOBODY)
}


@pytest.mark.parametrize("case", JSON_CASES.values(), ids=JSON_CASES)
def test_bad_json_is_refused(here, case):
    run(here, case)


ROW = csv_row("0.png", POINTS)
BAD_CSV = {
    "empty": "",
    "no header": ROW,
    "other header": "name,x,y\n" + ROW,
    "header only": csv_text(),
    "binary": b"\xff\xfe\x00\xd8" * 50,
    "no lists": csv_text("0.png"),
    "one list": csv_text(f"0.png: {[1] * 18}"),
    "few": csv_text(f"0.png: {[1] * 17}: {[1] * 17}"),
    "uneven": csv_text(f"0.png: {[1] * 18}: {[1] * 17}"),
    "pairs": csv_text(ROW, f"1.png: {[[1, 2]] * 18}: {[[1, 2]] * 18}"),
    "only pairs": csv_text(f"0.png: {[[1, 2]] * 18}: {[[1, 2]] * 18}"),
    "words": csv_text(f"0.png: {json.dumps(['1'] * 18)}: {[1] * 18}"),
    "nulls": csv_text(f"0.png: {json.dumps([None] * 18)}: {[1] * 18}"),
    "truths": csv_text(f"0.png: {json.dumps([True] * 18)}: {[1] * 18}"),
    "dicts": csv_text(f"0.png: {json.dumps({str(i): i for i in range(18)})}: {[1] * 18}"),
    "a word": csv_text(f'0.png: "{"1" * 18}": {[1] * 18}'),
    "nan": csv_text(ROW.replace("[", "[NaN, ", 1).replace("]", "", 1)),
    "infinite": csv_text(f"0.png: {[1] * 18}: {json.dumps([float('inf')] * 18)}"),
    "far": csv_text(f"0.png: {[1] * 18}: {[10**9] * 18}"),
    "farther": csv_text(f"0.png: {[1] * 18}: {[10**400] * 18}"),
    "deep": csv_text(f"0.png: {'[' * 50_000}: {[1] * 18}"),
    "twice": csv_text(ROW, ROW),
    "other names": csv_text(csv_row("z/9.png", POINTS)),
    **SPECIAL,
}
CSV_PLACES = {
    "pose": ("generate", "poses.csv", {"pose.json": "poses.csv"}),
    "score": ("folders", "poses.csv", {}),
    "prepare": ("posed", "poses.csv", {}),
}
CSV_CASES = {
    f"{place}-{way}": Case(command, harmed(file, harm), Path(file).name, changes)
    for place, (command, file, changes) in CSV_PLACES.items()
    for way, harm in BAD_CSV.items()
    if (place, way) != ("pose", "other names")
}


@pytest.mark.parametrize("case", CSV_CASES.values(), ids=CSV_CASES)
def test_bad_key_point_tables_are_refused(here, case):
    run(here, case)


# ------------------------------------------------------------------------------ archives


def packed(here: Path, kind: str = "tar") -> bytes:
    """The people as an archive."""
    return archive(here / "people", kind).read_bytes()


def tar_of(*members: tuple, **options) -> bytes:
    """A tar of members (name, bytes, changes of the header)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as made:
        for name, data, changes in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in changes.items():
                setattr(info, key, value)
            made.addfile(info, io.BytesIO(data) if data else None)
    return file.getvalue()


def zip_of(names: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as made:
        for name, data in names.items():
            made.writestr(name, data)
    return file.getvalue()


def spoil(data: bytes, at: float, new: bytes = b"\xff" * 40) -> bytes:
    """Bytes with some of them replaced from that part of their length on."""
    place = int(len(data) * at)
    return data[:place] + new + data[place + len(new) :]


def spoilt_header(data: bytes) -> bytes:
    place = data.index(b"people/bo")  # of the second person's first picture
    return data[: place + 150] + b"9" + data[place + 151 :]


def between_members(data: bytes) -> bytes:
    return data[: data.index(b"people/bo")]


def zeros_of(size: int) -> bytes:
    """A compressed tar of a picture of zeros, whose header says how many."""
    return gzip.compress(tar_of(("al/0.png", bytes(size), {})))


PEOPLE = {f"{person}/{shot}.png": PNG for person in ("al", "bo") for shot in range(2)}
BAD_ARCHIVES = {
    "no archive": lambda here: b"no archive",
    "empty": lambda here: b"",
    "zeros": lambda here: bytes(10240),
    "many zeros": lambda here: bytes(2**22),
    "picture": lambda here: PNG,
    "half tar": lambda here: packed(here)[: len(packed(here)) // 2],
    "tar cut between members": lambda here: between_members(packed(here)),
    "tar without its end": lambda here: packed(here).rstrip(b"\0") + bytes(300),
    "joined tars": lambda here: packed(here) * 2,
    "tar and more": lambda here: packed(here) + b"more",
    "spoilt header": lambda here: spoilt_header(packed(here)),
    "spoilt first header": lambda here: b"x" * 200 + packed(here)[200:],
    "half tar.gz": lambda here: packed(here, "tar.gz")[:-2000],
    "tar.gz less 4": lambda here: packed(here, "tar.gz")[:-4],
    "spoilt tar.gz": lambda here: spoil(packed(here, "tar.gz"), 0.5),
    "tar.gz and more": lambda here: packed(here, "tar.gz") + b"more",
    "gz of nothing": lambda here: gzip.compress(b""),
    "gz of text": lambda here: gzip.compress(b"text" * 500),
    "xz cut": lambda here: lzma.compress(packed(here))[:-50],
    "bz2 cut": lambda here: bz2.compress(packed(here))[:-50],
    "half zip": lambda here: packed(here, "zip")[: len(packed(here, "zip")) // 2],
    "zip's second half": lambda here: packed(here, "zip")[len(packed(here, "zip")) // 2 :],
    "spoilt zip": lambda here: spoil(packed(here, "zip"), 0.3),
    "joined zips": lambda here: packed(here, "zip") * 2,
    "zip of nothing": lambda here: zip_of({}),
    "zip of texts": lambda here: zip_of({"a/b.txt": b"text"}),
    "bomb in gz": lambda here: zeros_of(2**27),
    "bomb in zip": lambda here: zip_of(PEOPLE | {"al/2.png": bytes(2**27)}),
    "bomb of lzma": lambda here: zip_of({"al/2.png": bytes(2**27)}, zipfile.ZIP_LZMA),
    "a lie of size": lambda here: tar_of(("al/0.png", b"", {"size": 2**40})),
    "only devices": lambda here: tar_of(("al/0.png", b"", {"type": tarfile.CHRTYPE})),
    "only a fifo": lambda here: tar_of(("al/0.png", b"", {"type": tarfile.FIFOTYPE})),
    "links to nothing": lambda here: tar_of(
        ("al/0.png", b"", {"type": tarfile.SYMTYPE, "linkname": "x.png"}),
        ("bo/0.png", b"", {"type": tarfile.LNKTYPE, "linkname": "x.png"}),
    ),
    "links in a circle": lambda here: tar_of(
        ("al/0.png", b"", {"type": tarfile.SYMTYPE, "linkname": "1.png"}),
        ("al/1.png", b"", {"type": tarfile.SYMTYPE, "linkname": "0.png"}),
        ("bo/0.png", b"", {"type": tarfile.LNKTYPE, "linkname": "bo/0.png"}),
    ),
}
ARCHIVE_CASES = [
    *((way, "people.x", make) for way, make in BAD_ARCHIVES.items()),
    *((f"parsing {way}", "people.x", BAD_ARCHIVES[way]) for way in ("empty", "joined tars")),
]


@pytest.mark.parametrize(("way", "name", "make"), ARCHIVE_CASES, ids=[w for w, *_ in ARCHIVE_CASES])
def test_bad_archives_are_refused(here, way, name, make):
    data = make(here)
    for made in here.glob("people.t*"):
        made.unlink()
    write(here / name, data)
    line = COMMANDS["prepare"].replace("people", name if "parsing" not in way else "people")
    refused(here, (line + (f" --parsing {name}" if "parsing" in way else "")).split(), name)


# ------------------------------------------------------------------------------ prepared folders


def array(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """What changes an array of the prepared folder."""

    def harm(here: Path) -> None:
        path = here / "data/folder" / f"{name}.npy"
        np.save(path, change(np.load(path)))

    return harm


def about(**changes: object) -> Callable[[Path], None]:
    """What changes dataset.json."""

    def harm(here: Path) -> None:
        path = here / "data/folder/dataset.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return harm


def table(change: Callable[[str], str]) -> Callable[[Path], None]:
    """What changes people.csv."""

    def harm(here: Path) -> None:
        path = here / "data/folder/people.csv"
        path.write_text(change(path.read_text()))

    return harm


def counted(**counts: object) -> Callable[[Path], None]:
    return lambda here: about(
        counts=json.loads((here / "data/folder/dataset.json").read_text())["counts"] | counts
    )(here)


def as_npz(name: str) -> Callable[[Path], None]:
    def harm(here: Path) -> None:
        path = here / "data/folder" / f"{name}.npy"
        with open(path, "rb") as file:
            content = np.load(file)
        with open(path, "wb") as file:
            np.savez(file, content)

    return harm


KINDS = {
    "images": ("float32", "bool", "int8", "complex64", "uint16", "object", "U1", "M8[s]"),
    "poses": ("float64", ">f4", "int32", "complex64", "bool", "object"),
    "pairs_train": ("int64", "float32", "bool", "uint32", ">i4", "object"),
}
FOLDER_HARMS = {
    **{
        f"{name} {kind}": array(name, lambda a, kind=kind: a.astype(kind))
        for name, kinds in KINDS.items()
        for kind in kinds
    },
    **{
        f"{way} {file}": harmed(f"data/folder/{file}", harm)
        for file in pairs.FILES
        for way, harm in {
            "no": Path.unlink,
            "empty": b"",
            "text": b"some text",
            "zeros": bytes(3000),
            "fifo": fifo,
            "folder": of_folder,
            "link to nothing": to_nothing,
        }.items()
    },
    **{f"npz {name}": as_npz(name) for name in ("images", "poses", "pairs_test")},
    "three columns": array("pairs_train", lambda a: np.repeat(a, 2, 1)[:, :3]),
    "three dimensions": array("pairs_train", lambda a: a[None]),
    "one dimension": array("pairs_train", lambda a: a.ravel()),
    "fewer pairs": array("pairs_train", lambda a: a[:1]),
    "negative": array("pairs_train", lambda a: -a - 1),
    "absent": array("pairs_test", lambda a: a + 10**6),
    "tested in training": array("pairs_train", lambda a: a + 2),
    "fewer images": array("images", lambda a: a[:-1]),
    "wider images": array("images", lambda a: np.repeat(a, 2, 2)),
    "grey images": array("images", lambda a: a[..., 0]),
    "nan": array("poses", lambda a: a * np.float32("nan")),
    "far": array("poses", lambda a: a + np.float32(1e30)),
    "sure": array("poses", lambda a: a * np.float32(7)),
    "fewer joints": array("poses", lambda a: a[:, :18]),
    "inverted": array("images", lambda a: 255 - a),
    "shuffled": array("poses", lambda a: a[:, ::-1]),
    "reversed": array("pairs_train", lambda a: a[::-1]),
    "other names": table(lambda text: text.replace("al/0", "al/7")),
    "format": about(format=2),
    "no format": about(format=None),
    "word format": about(format="1"),
    "height 0": about(height=0),
    "height -16": about(height=-16),
    "height 1e9": about(height=10**9),
    "word height": about(height="64"),
    "null height": about(height=None),
    "list height": about(height=[64]),
    "no counts": about(counts=None),
    "list counts": about(counts=[4]),
    "more images": counted(images=5),
    "null images": counted(images=None),
    "huge pairs": counted(pairs_train=10**30),
    "not json": harmed("data/folder/dataset.json", "{"),
    "deep json": harmed("data/folder/dataset.json", "[" * 100_000),
    "list json": harmed("data/folder/dataset.json", "[]"),
    "null json": harmed("data/folder/dataset.json", "null"),
    "no head": table(lambda text: text.split("\n", 1)[1]),
    "head only": table(lambda text: text.split("\n", 1)[0]),
    "fewer people": table(lambda text: text.rsplit("\n", 2)[0]),
    "six columns": table(lambda text: text.replace("train", "train,x")),
    "other split": table(lambda text: text.replace("train", "both")),
    "other order": table(lambda text: text.replace("\n0,", "\n7,")),
    "long name": table(lambda text: text.replace("al/0", "x" * 10_000)),
    "longer name": table(lambda text: text.replace("al/0", "x" * 200_000)),
    "quote": table(lambda text: text.replace("al/0", '"al/0')),
    "nul": table(lambda text: text.replace("al/0", "\0")),
}
FOLDER_CASES = {
    f"{c}-{w}": (c, harm) for c in ("score", "train") for w, harm in FOLDER_HARMS.items()
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::numpy.exceptions.ComplexWarning")
@pytest.mark.parametrize(("command", "harm"), FOLDER_CASES.values(), ids=FOLDER_CASES)
def test_damaged_data_sets_are_refused(here, command, harm):
    run(here, Case(command, harm, "data/folder: "))


# ------------------------------------------------------------------------------ checkpoints


def content(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """What changes the content of a checkpoint."""

    def harm(path: Path) -> None:
        found = torch.load(path, weights_only=True)
        torch.save(change(found), path)

    return harm


def put(*keys: str, to: object) -> Callable[[Path], None]:
    """What puts a value into a checkpoint."""

    def change(found: dict) -> dict:
        inner = found
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to
        return found

    return content(change)


def scaled(factor: float) -> Callable[[Path], None]:
    def change(found: dict) -> dict:
        found["state"]["average"] = {
            name: value * factor for name, value in found["state"]["average"].items()
        }
        return found

    return content(change)


SHAPE = ("config", "shape")
CHECKPOINT_HARMS = {
    "empty": lambda path: write(path, b""),
    "text": lambda path: write(path, "text"),
    "zip": lambda path: write(path, zip_of({"a": b"b"})),
    "pickle": lambda path: write(path, b"cos\nsystem\n(S'touch owned'\ntR."),
    "fifo": fifo,
    "folder": of_folder,
    "link": to_nothing,
    **{
        f"cut at {at}": lambda p, at=at: write(p, p.read_bytes()[:at]) for at in (10, 999, -1, -500)
    },
    **{
        f"spoilt at {a}": lambda p, a=a: write(p, spoil(p.read_bytes(), a)) for a in (0.3, 0.5, 0.7)
    },
    **{
        f"a bit at {a}": lambda p, a=a: write(p, spoil(p.read_bytes(), a, b"\x5a"))
        for a in (0.4, 0.6)
    },
    "zero block": lambda path: write(path, spoil(path.read_bytes(), 0.5, bytes(4096))),
    "list": content(lambda found: [found]),
    "nothing": content(lambda found: {}),
    "tensor": content(lambda found: torch.zeros(3)),
    "other state dict": content(lambda found: found["state"]["average"]),
    "no state": content(lambda found: {k: v for k, v in found.items() if k != "state"}),
    "null state": put("state", to=None),
    "list state": put("state", to=[]),
    "null config": put("config", to=None),
    "format": put("format", to=99),
    "word format": put("format", to="x"),
    "model": put(*SHAPE, "model", to="other"),
    "list model": put(*SHAPE, "model", to=[]),
    "height 0": put(*SHAPE, "height", to=0),
    "height -16": put(*SHAPE, "height", to=-16),
    "height 1e9": put(*SHAPE, "height", to=10**9),
    "word height": put(*SHAPE, "height", to="64"),
    "float height": put(*SHAPE, "height", to=64.5),
    "no width": put(*SHAPE, "width", to=None),
    "no shape": put(*SHAPE, to=None),
    "channels 0": put(*SHAPE, "options", to={"channels": 0}),
    "channels -4": put(*SHAPE, "options", to={"channels": -4}),
    "channels 1e9": put(*SHAPE, "options", to={"channels": 10**9}),
    "other channels": put(*SHAPE, "options", to={"channels": 8}),
    "options": put(*SHAPE, "options", to=[1]),
    "unknown option": put(*SHAPE, "options", to={"rooms": 3}),
    "no weights": put("state", "average", to={}),
    "null weights": put("state", "average", to=None),
    "weights of numbers": put("state", "average", to={"a": 3}),
    "nan": scaled(float("nan")),
    "infinite": scaled(float("inf")),
    "step -1": put("state", "step", to=-1),
    "step 1.5": put("state", "step", to=1.5),
    "word step": put("state", "step", to="2"),
}
CHECKPOINT_CASES = {
    f"{command}-{way}": Case(
        command,
        lambda here, f=file, h=harm: h(here / f),
        word,
        code=2 if way == "folder" and command != "resume" else 1,
    )
    for command, file, word in (
        ("generate", "model.pt", "model.pt"),
        ("score", "model.pt", "model.pt"),
        ("resume", "run/latest.pt", "run"),
    )
    for way, harm in CHECKPOINT_HARMS.items()
}


@pytest.mark.parametrize("case", CHECKPOINT_CASES.values(), ids=CHECKPOINT_CASES)
def test_damaged_checkpoints_are_refused(here, case):
    run(here, case)
    assert not (here / "owned").exists()


# ------------------------------------------------------------------------------ mutated at random

quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
CUTS = st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=0, max_size=9)), max_size=4)


def mutated(data: bytes, cuts: list[tuple[float, bytes]]) -> bytes:
    """Bytes with parts replaced; by nothing: cut off there."""
    for at, new in cuts:
        place = int(at * len(data))
        data = data[:place] + new + data[place + len(new) :] if new else data[:place]
    return data


KEYS = (
    *("people", "pose_keypoints_2d", "annotations", "images", "keypoints", "image_id", "id"),
    *("height", "width", "file_name", "instances", "frame_id", "instance_info", "x", "y"),
    *("visible", "keypoint_scores"),
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
anything = st.recursive(
    leaves | st.lists(st.integers(0, 99), min_size=51, max_size=75),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@quick
@given(content=anything)
def test_any_json_is_poses_or_refused(content):
    with contextlib.suppress(BadInput):
        for pose in poses.parse_json(json.dumps(content).encode(), "file.json", "a").values():
            assert pose.joints.shape == (25, 3) and np.isfinite(pose.fitted((64, 32))).all()


@quick
@given(cuts=CUTS)
def test_mutated_poses_are_poses_or_refused(cuts):
    for data, read in (
        (openpose(body()), lambda data: poses.parse_json(data, "file.json", "a")),
        (csv_text(ROW, csv_row("1.png", POINTS)), lambda data: poses._parse_csv(data, "file.csv")),
    ):
        with contextlib.suppress(BadInput):
            for pose in read(mutated(data.encode(), cuts)).values():
                assert pose.joints.shape == (25, 3) and np.isfinite(pose.joints).all()


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_mutated_archives_are_read_or_refused(world, tmp_path, kind):
    shutil.copytree(world / "people", tmp_path / "people")
    whole = archive(tmp_path / "people", kind).read_bytes()

    @quick
    @given(cuts=CUTS)
    def read(cuts):
        path = write(tmp_path / f"x.{kind}", mutated(whole, cuts))
        with contextlib.suppress(BadInput):
            source = files.Source(path)
            assert dict(source.items(source.names)).keys() == set(source.names)

    read()


def test_mutated_data_sets_are_opened_or_refused(world, tmp_path):
    root = shutil.copytree(world / "data", tmp_path / "data")

    @quick
    @given(name=st.sampled_from(pairs.FILES), cuts=CUTS)
    def load(name, cuts):
        whole = (root / "folder" / name).read_bytes()
        head = whole[:200] if name.endswith(".npy") else whole
        write(root / "folder" / name, mutated(head, cuts) + whole[len(head) :])
        try:
            with contextlib.suppress(BadInput):
                same = pairs.load("folder", root)
                assert pairs.fingerprint(same) == same.description["digest"]
        finally:
            write(root / "folder" / name, whole)

    load()


def test_mutated_checkpoints_are_whole_or_refused(world, tmp_path):
    whole = (world / "model.pt").read_bytes()
    good = checkpoints.load_generator(world / "model.pt", torch.device("cpu")).state_dict()

    @quick
    @given(cuts=CUTS)
    def load(cuts):
        path = write(tmp_path / "model.pt", mutated(whole, cuts))
        with contextlib.suppress(ClickException):
            found = checkpoints.load_generator(path, torch.device("cpu")).state_dict()
            assert all(torch.equal(found[name], good[name]) for name in good)

    load()


# ------------------------------------------------------------------------------ what users did


def run_harmed(here: Path, change: Callable[[dict], object]) -> None:
    content = torch.load(here / "run" / "latest.pt", weights_only=True)
    change(content)
    torch.save(content, here / "run" / "latest.pt")
    (here / "run" / "previous.pt").unlink(missing_ok=True)


def of_settings(**changes: object) -> Callable[[Path], None]:
    return lambda here: run_harmed(here, lambda content: content["config"]["train"].update(changes))


def harm_log(here: Path) -> None:
    write(here / "new" / "log.jsonl", b'{"my": "own"}\n')


def only_the_models(here: Path) -> None:
    for name in ("latest.pt", "previous.pt"):
        (here / "run" / name).unlink(missing_ok=True)


def without_pairs(here: Path) -> None:
    for person, count in (("al", 1), ("bo", 1), ("cy", 2)):
        for shot in range(count):
            write(here / "few" / person / f"{shot}.png", encoded(picture(shot, (64, 32))))
            write(here / "few" / person / f"{shot}.json", openpose(body(50, 15, 4)))
    config = datasets.PrepareConfig("folder", "few", root="data", name="few", size=(64, 32), seed=1)
    assert not len(datasets.prepare(config).pairs_train)


SPOT = {"people": [{"pose_keypoints_2d": [40, 40, 1] * 25}]}
TWICE = {"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": []}
TRAIN, RESUME, OWN = (COMMANDS[name] for name in ("train", "resume", "own"))
OWN_DATA = COMMANDS["prepare"].replace("--root new", "--root people")
DONE = [
    ("kept models", only_the_models, TRAIN.replace("new", "run"), "run: a run already exists"),
    ("no pairs", without_pairs, TRAIN.replace("folder", "folder:1,few:9", 1), "no training pairs"),
    ("shares", None, TRAIN.replace("folder", "folder:1e308x", 1), "has a share"),
    ("same set", None, TRAIN.replace("folder", "folder:1,folder:2", 1), "names a data set twice"),
    ("pace", None, f"{COMMANDS['generate']} --fps 3", "--fps: there is no animation"),
    ("few pixels", "pose.json", OWN, "pose.json: all its joints lie within 8"),
    ("one place", json.dumps(SPOT), COMMANDS["generate"], "all its joints are in one place"),
    ("vast crop", None, f"{COMMANDS['generate']} --crop 0,0,99999,99999", "much larger than the"),
    ("preview", None, f"{OWN_DATA} --preview", "would join the inputs in people"),
    ("tiny crop", None, f"{COMMANDS['generate']} --crop 9,9,12,60", "too small to show a person"),
    ("rate", None, f"{RESUME} --learning-rate nan", "--learning-rate nan: give a number"),
    ("start", None, f"{RESUME} --model model.pt", "model.pt: the run did not start from it"),
    ("steps", None, TRAIN.replace("--steps 1", f"--steps {10**400}"), "--steps"),
    ("batch", of_settings(batch_size=0), RESUME, "latest.pt: a checkpoint with missing or imp"),
    ("rain", of_settings(augment=("rain",)), RESUME, "latest.pt: a checkpoint with missing or"),
    ("minus", of_settings(learning_rate=-1.0), RESUME, "latest.pt: a checkpoint with missing"),
    ("weights", of_settings(loss_weights={}), RESUME, "latest.pt: a checkpoint with missing or"),
    ("weight", of_settings(loss_weights={"reconstruction": -1}), RESUME, "latest.pt: a checkpoint"),
    ("huge", of_settings(loss_weights={"adversarial": 10**400}), RESUME, "latest.pt: a checkpoint"),
    ("kind", of_settings(precision="half"), RESUME, "latest.pt: a checkpoint with missing or imp"),
    ("device", of_settings(device="tpu"), RESUME, "device tpu: unknown device"),
    ("log", harm_log, TRAIN, "log.jsonl: not the log of a run; choose another folder"),
    ("inside", None, TRAIN.replace("--run new", "--run data/folder/new"), "in a prepared data set"),
    ("no pose", None, COMMANDS["generate"].replace("pose.json", "''"), "is empty; give a path"),
    ("no model", None, f"{TRAIN} --model=", "is empty; give a path"),
    ("commas", None, f"{COMMANDS['score']} --scores ,", "choose from pixels, ssim_dscf"),
    (
        "pasted sheet",
        None,
        f"{COMMANDS['generate']} --sheet --paste",
        "--paste: no effect with --sheet",
    ),
    ("twice", json.dumps(TWICE), COMMANDS["generate"], "pose.json: neither OpenPose nor COCO"),
]


@pytest.mark.parametrize("what, harm, command, word", DONE, ids=[one[0] for one in DONE])
def test_what_would_succeed_wrongly_is_refused(here, what, harm, command, word):
    if callable(harm):
        harm(here)
    elif harm:
        points = np.array([[40 + place / 9, 40.0, 1.0] for place in range(25)])
        write(here / "pose.json", openpose(points) if harm == "pose.json" else harm.encode())
    usage = (
        "pace",
        "tiny crop",
        "rate",
        "start",
        "steps",
        "no pose",
        "no model",
        "commas",
        "pasted sheet",
    )
    refused(here, shlex.split(command), word, 2 if what in usage else 1)


def test_moments_of_another_layout_are_taken_as_they_should_lie(here):
    def stretch(content: dict) -> None:
        for moments in content["state"]["generator_optimizer"]["state"].values():
            moments["exp_avg"] = torch.zeros(1).expand(moments["exp_avg"].shape)

    run_harmed(here, stretch)
    result = CliRunner().invoke(posegan.main, RESUME.split())
    assert result.exit_code == 0, result.output


def test_what_is_none_of_the_logs_lines_is_left_out(here):
    (here / "run" / "log.jsonl").unlink()
    os.mkfifo(here / "run" / "log.jsonl")  # nobody writes to it
    result = CliRunner().invoke(posegan.main, RESUME.replace("9", "3").split())
    assert result.exit_code == 0, result.output
    lines = (here / "run" / "log.jsonl").read_text()
    (here / "run" / "log.jsonl").write_text(lines + '{"step": 1, "validation": "x"}\n' + "[" * 9999)
    result = CliRunner().invoke(posegan.main, RESUME.replace("9", "4").split())
    assert result.exit_code == 0, result.output


def test_a_folders_photos_that_can_be_used_are(here):
    for name in ("a", "c"):
        shutil.copy(here / "photo.png", here / "made" / f"{name}.png")
        shutil.copy(here / "photo.json", here / "made" / f"{name}.json")
    for name in ("0.png", "1.png"):
        (here / "made" / name).unlink()
    write(here / "made" / "b.png", b"bad")
    write(here / "made" / "._a.png", b"macOS writes such files")
    command = COMMANDS["generate"].replace("photo.png", "made").replace("out.png", "out")
    result = CliRunner().invoke(posegan.main, command.split())
    assert result.exit_code == 1
    assert "made/b.png: empty, or not a readable picture" in result.output
    assert "photos or poses that can't be used: 1" in result.output
    assert {file.name for file in (here / "out").iterdir()} == {"a_pose.png", "c_pose.png"}


def test_a_picture_with_damaged_exif_is_read_and_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    Image.fromarray(picture(0, (20, 30))).save(data, "PNG", exif=exif.tobytes())
    assert poses.read_image(data.getvalue(), "x").shape == (30, 20, 3)
    broken = exif.tobytes().replace(b"II*\x00", b"??*\x00").replace(b"MM\x00*", b"??\x00*")
    data = io.BytesIO()
    Image.fromarray(picture(0, (20, 30))).save(data, "PNG", exif=broken)
    assert poses.read_image(data.getvalue(), "x").shape == (20, 30, 3)


def test_names_with_colons_are_found(here):
    images = [{"id": i, "file_name": f"http://images.org/{i}.jpg"} for i in range(2)]
    people = [{"image_id": i, "keypoints": [20, 20 + 9 * i, 2] * 16 + [40, 60, 2]} for i in (0, 1)]
    write(here / "coco.json", json.dumps({"images": images, "annotations": people}).encode())
    found = poses.read_pose("coco.json:http://images.org/1.jpg")
    assert found.joints[0, 1] == 29


def test_a_folder_of_key_points_may_hold_csv(here):
    (here / "points").mkdir()
    shutil.copy(here / "poses.csv", here / "points")
    command = COMMANDS["posed"].replace("poses.csv", "points")
    result = CliRunner().invoke(posegan.main, command.split())
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name, value", (("RANK", "2"), ("MASTER_PORT", "abc")))
def test_what_torchrun_never_sets_is_one_line(here, monkeypatch, name, value):
    given = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for one, said in (given | {name: value}).items():
        monkeypatch.setenv(one, said)
    refused(here, COMMANDS["score"].split(), "set, but not by torchrun")


def test_a_variable_of_torchrun_alone_takes_no_words_away(here, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    result = CliRunner().invoke(posegan.main, COMMANDS["generate"].split())
    assert result.exit_code == 0 and "out.png" in result.output


@pytest.mark.parametrize("count, ending", [(1, "webp"), (2, "webp"), (1, "jpg"), (1, "gif")])
def test_a_picture_that_its_format_cant_hold_is_one_line(here, count, ending):
    wide = np.zeros((count, 1, 65_536, 3), np.uint8)
    with pytest.raises(poses.BadInput, match=r"wide.*: can't be written .*; end it with .png"):
        poses.write_pictures(wide, [Path(f"wide.{ending}")], False)
    assert not list(here.glob("*wide*"))


def test_key_points_of_other_encodings_keep_their_names(here):
    lines = (here / "poses.csv").read_text()
    command = [*COMMANDS["posed"].split(), "--overwrite"]
    for text in (lines.encode("utf-8-sig"), lines.replace("\n", "\r\n").encode()):
        write(here / "poses.csv", text)
        result = CliRunner().invoke(posegan.main, command)
        assert result.exit_code == 0, result.output
    write(here / "poses.csv", lines.encode("utf-16"))
    refused(here, command, "poses.csv: ")


def test_every_person_keeps_a_number_of_its_own(here):
    for number, person in enumerate(("0002", "al", "bo", "cy", "di")):
        for shot in range(2):
            write(here / "five" / person / f"{shot}.png", encoded(picture(number, (64, 32))))
            write(here / "five" / person / f"{shot}.json", openpose(body(50, 15, 4)))
    config = datasets.PrepareConfig("folder", "five", root="data", name="five", size=(64, 32))
    prepared = datasets.prepare(config)
    names = [one.file for one in reid.plan_people(prepared, 3)]
    assert len(set(names)) == len(names) == 3 * prepared.identities
    command = "generate --data five --root data --checkpoint model.pt --out more --count 1"
    assert CliRunner().invoke(posegan.main, command.split()).exit_code == 0
    content = torch.load("model.pt", weights_only=True)
    for value in content["state"]["average"].values():
        value.mul_(0.5)
    torch.save(content, "model.pt")
    refused(here, command.split(), "manifest.csv: lists other pictures")


def test_a_disk_without_locks_and_leftovers_that_stay_stop_no_run(here, monkeypatch, caplog):
    def unsupported(*given: object) -> None:
        raise OSError(38, "Function not implemented")

    write(here / "new" / ".latest.pt.partial-x", b"cannot be removed as a folder")
    assert CliRunner().invoke(posegan.main, TRAIN.split()).exit_code == 0
    monkeypatch.setattr(training.fcntl, "flock", unsupported)
    result = CliRunner().invoke(posegan.main, TRAIN.replace("new", "other").split())
    assert result.exit_code == 0, result.output
    assert "can't be locked (Function not implemented)" in caplog.text


def test_a_linked_checkpoint_stays_a_link_and_no_backup_is_lost(here):
    (here / "store").mkdir()
    (here / "run" / "latest.pt").rename(here / "store" / "latest.pt")
    (here / "run" / "latest.pt").symlink_to(here / "store" / "latest.pt")
    result = CliRunner().invoke(posegan.main, RESUME.split())
    assert result.exit_code == 0, result.output
    assert (here / "run" / "latest.pt").is_symlink()
    assert not (here / "run" / "previous.pt").is_symlink()
    assert checkpoints.read_checkpoint(here / "store" / "latest.pt")["state"]["step"] == 9


def test_a_moved_run_goes_on_where_its_data_are_now(here):
    run_harmed(here, lambda content: content["config"]["train"].update(root="/gone/data"))
    command = RESUME.replace("--root data", "").split()
    result = CliRunner().invoke(posegan.main, command, env={"POSEGAN_DATA": "data"})
    assert result.exit_code == 0, result.output


def test_a_tilde_is_the_home_folder(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here / "run"))
    command = COMMANDS["generate"].replace("--out out.png", "--out=~/out.png")
    result = CliRunner().invoke(posegan.main, command.split())
    assert result.exit_code == 0, result.output
    assert (here / "run" / "out.png").is_file() and not (here / "~").exists()


def test_redirected_output_is_no_file_to_replace(here):
    if not Path("/dev/fd").exists():
        pytest.skip("there is no /dev/fd here")
    with open("log.txt", "w+") as log:
        log.write("precious")
        log.flush()
        command = f"{COMMANDS['folders']} --overwrite --json /dev/fd/{log.fileno()}"
        refused(here, command.split(), "leads to")
    assert Path("log.txt").read_text() == "precious"


def test_folders_of_splits_are_no_people_whatever_they_are_called(here):
    for split in ("mask_train_v2", "mask_test_v2"):
        for shot in range(2):
            write(here / "msmt" / split / "0001" / f"{shot}.png", encoded(picture(shot, (64, 32))))
    command = OWN_DATA.replace("--source people", "--source msmt")
    refused(here, command.split(), "mask_test_v2, mask_train_v2: folders of a split, not of people")


def test_a_targets_pose_is_the_one_of_its_own_name_in_any_folder(here):
    size, own, other = (64, 32), poses.Pose(body(50, 15, 4)), poses.Pose(body(40, 15, 9))
    known = {"0.jpg": other, "0.png": own, "val/1.png": own}
    assert pairs.pose_by_name(known, "0.png") is own
    people = [{"image_id": i, "keypoints": [20, 20 + 9 * i, 2] * 16 + [22, 60, 2]} for i in (0, 1)]
    images = [{"id": 0, "file_name": "val/0.png"}, {"id": 1, "file_name": "val/1.png"}]
    write(here / "coco.json", json.dumps({"images": images, "annotations": people}).encode())
    found = pairs._poses_of_targets(["coco.json"], ["1.png", "0.png"], size)
    assert found[0, 0, 1] > found[1, 0, 1]


def test_results_that_name_their_pictures_themselves_are_found(here):
    people = [{"image_id": 1, "file_name": "0001.png", "keypoints": [9, 9, 2] * 16 + [20, 60, 2]}]
    write(here / "predictions.json", json.dumps(people).encode())
    assert [*poses.read_poses("predictions.json")] == ["0001.png"]


def test_pictures_do_not_depend_on_the_callers_precision(here):
    model = photo.load("model.pt", "cpu")
    pose, source = body(50, 15, 4), body(50, 15, 4)
    plain = np.asarray(model("photo.png", pose, source))
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(np.asarray(model("photo.png", pose, source)), plain)
