"""Whatever is handed in: one line with the file's name, no traceback, nothing lost or left."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner
from conftest import (
    body,
    config_for,
    csv_row,
    csv_text,
    encoded,
    openpose,
    picture,
    tree,
    write,
)
from PIL import Image

from posegan import pairs, posegan, training

POINTS = body(50, 15, 4)[[*range(8), *range(9, 19)], :2]
COMMANDS = {
    "generate": "generate photo.png pose.json --checkpoint model.pt --out out.png --device cpu",
    "motion": "generate photo.png walk --checkpoint model.pt --out out.gif --device cpu",
    "own": "generate photo.png walk --source-pose pose.json --checkpoint model.pt --out out.gif",
    "score": "score --data folder --root data --checkpoint model.pt --scores pixels --device cpu",
    "folders": "score --generated made --target real --poses poses.csv --scores pixels",
    "prepare": "prepare --data folder --source people --root new --size 64x32",
    "posed": "prepare --data folder --source bare --poses poses.csv --root new --size 64x32",
    "train": "train --data folder --root data --run new --steps 1 --channels 4 --batch-size 2 "
    "--device cpu --model unet --no-augment",
    "resume": "train --run run --resume --steps 9 --root data --device cpu",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with all that the commands above need."""
    folder = tmp_path_factory.mktemp("world")
    people, bare = {}, {}
    for person in ("al", "bo"):
        for shot in range(2):
            people[f"{person}/{shot}.png"] = bare[f"{person}/{shot}.png"] = encoded(
                picture(shot, (64, 32))
            )
            people[f"{person}/{shot}.json"] = openpose(body(50, 15, 4))
    tree(folder / "people", people)
    tree(folder / "bare", bare)
    for side in ("made", "real"):
        tree(folder / side, {f"{i}.png": encoded(picture(i, (64, 32))) for i in range(2)})
    write(folder / "photo.png", encoded(picture(0, (96, 64))))
    write(folder / "photo.json", openpose(body(80, 30, 8)))
    write(folder / "pose.json", openpose(body(80, 30, 8)))
    names = [*bare, "0.png", "1.png"]
    write(folder / "poses.csv", csv_text(*(csv_row(name, POINTS) for name in names)))
    prepared = pairs.prepare(
        pairs.PrepareConfig(
            "folder", str(folder / "people"), root=str(folder / "data"), size=(64, 32)
        )
    )
    config = config_for(
        prepared, folder / "run", model="unet", steps=2, batch_size=2, data="folder"
    )
    training.train(config, prepared, False, lambda figures: None)
    shutil.copy(folder / "run" / "generator.pt", folder / "model.pt")
    return folder


@pytest.fixture
def here(world, tmp_path, monkeypatch) -> Path:
    """A copy of that folder of one's own, which is the working folder."""
    folder = tmp_path / "here"
    shutil.copytree(world, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("POSEGAN_DATA", raising=False)
    return folder


def state(folder: Path) -> dict[str, object]:
    """All that lies in a folder, by name: bytes, or what else it is."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        small = path.is_file() and not path.is_symlink() and status.st_size < 2**22
        found[str(path)] = path.read_bytes() if small else (status.st_mode, status.st_size)
    return found


def changed(line: str, changes: dict[str, str]) -> list[str]:
    """A command line with other values for its words."""
    words = [changes.get(word, word) for word in line.split()]
    return [part for word in words for part in word.split("|")]


def refuse(folder: Path, arguments: list[str], word: str, code: int = 1) -> None:
    """Run a command that must be refused in one line with that word, and change nothing."""
    before = state(folder)
    result = CliRunner().invoke(posegan.main, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    lines = result.output.splitlines()
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output and "POSEGAN_DEBUG" not in result.output
    assert lines[-1].startswith("Error: ") and word in lines[-1], result.output
    assert sum(line.startswith("Error") for line in lines) == 1
    assert all(line.isprintable() for line in lines)
    after = state(folder)
    assert after == before, {*after} ^ {*before}


class Case(NamedTuple):
    """A harm, and the command that must notice it with that word."""

    command: str
    harm: Callable[[Path], object] | None
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
    "fifo": fifo,
    "folder": of_folder,
    "link": to_nothing,
    "huge": huge,
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
    if case.harm:
        case.harm(here)
    refuse(here, changed(COMMANDS[case.command], case.changes), case.word, case.code)


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
    "text": "no JSON",
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
    "farthest": json.dumps({"people": [{"pose_keypoints_2d": [10**400] * 75}]})
    if hasattr(int, "bit_count")
    else "",
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
    "coco null": annotated(width=None),
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
    "fifo": fifo,
    "folder": of_folder,
    "link": to_nothing,
    "huge": huge,
}
JSON_PLACES = {
    "pose": ("generate", "pose.json", {}),
    "own": ("own", "pose.json", {}),
    "score": ("folders", "pose.json", {"poses.csv": "pose.json"}),
    "prepare": ("posed", "pose.json", {"poses.csv": "pose.json"}),
    "beside": ("prepare", "people/bo/1.json", {}),
}
JSON_CASES = {
    f"{place}-{way}": Case(command, harmed(file, harm), Path(file).name, changes)
    for place, (command, file, changes) in JSON_PLACES.items()
    for way, harm in BAD_JSON.items()
    if not (place == "beside" and way in ("fifo", "folder", "link", "coco nothing", "list"))
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
    "fifo": fifo,
    "folder": of_folder,
    "link": to_nothing,
    "huge": huge,
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
