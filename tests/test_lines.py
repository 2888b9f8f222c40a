"""Command lines: what is refused in one line, and that no output takes the place of anything."""

import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import COMMANDS, body, openpose, refused, state, write

from posegan import posegan

# ------------------------------------------------------------------------------ outputs


def linked(here: Path, name: str, target: str, hard: bool = False) -> None:
    (os.link if hard else os.symlink)(here / target, here / name)


GENERATE, FOLDERS, SCORE = (COMMANDS[name] for name in ("generate", "folders", "score"))
PREPARE = COMMANDS["prepare"]
# What already exists, the command line, a word of the answer.
OUTPUTS = [
    ("out.png", GENERATE, "out.png: already exists; replace it with --overwrite"),
    ("", GENERATE.replace("out.png", "photo.png --overwrite"), "photo.png: would overwrite"),
    ("", GENERATE.replace("out.png", "pose.json --overwrite"), "pose.json: would overwrite"),
    ("", GENERATE.replace("out.png", "model.pt --overwrite"), "model.pt: would overwrite"),
    ("", GENERATE.replace("out.png", "./made/../photo.png --overwrite"), "would overwrite"),
    ("", GENERATE.replace("out.png", "run/latest.pt --overwrite"), "latest.pt: belongs to a run"),
    ("", GENERATE.replace("out.png", "run/log.jsonl --overwrite"), "log.jsonl: belongs to a run"),
    ("", GENERATE.replace("out.png", "run/samples/x.png"), "x.png: belongs to a run"),
    ("", GENERATE.replace("out.png", "data/folder/x.png"), "x.png: lies in a prepared data set"),
    ("", GENERATE.replace("out.png", "data/folder/images.npy --overwrite"), "prepared data set"),
    ("", GENERATE.replace("out.png", "photo.png/x.png"), "x.png: can't be written"),
    ("", GENERATE.replace("out.png", "out.psd"), "out.psd: not a format that posegan writes"),
    ("", GENERATE.replace("out.png", "out.fits"), "out.fits: not a format that posegan writes"),
    ("", GENERATE.replace("out.png", "out.docx"), "out.docx: not a format that posegan writes"),
    ("", GENERATE.replace("out.png", "out.pdf"), "out.pdf: not a format that posegan writes"),
    (
        "",
        GENERATE.replace("photo.png", "made").replace("out.png", "made"),
        "would join the inputs in",
    ),
    ("photo.png=link.png", GENERATE.replace("out.png", "link.png --overwrite"), "link.png: would"),
    ("photo.png~hard.png", GENERATE.replace("out.png", "hard.png --overwrite"), "hard.png: would"),
    (
        "",
        f"{GENERATE} --source-pose poses.csv:0.png --overwrite".replace("out.png", "poses.csv"),
        "poses.csv: ",
    ),
    ("s.json", f"{FOLDERS} --json s.json", "s.json: already exists; replace it with --overw"),
    ("worst.png", f"{FOLDERS} --worst 1", "worst.png: already exists; replace it with --over"),
    ("", f"{FOLDERS} --json worst.png --worst 1", "worst.png: would overwrite worst.png"),
    ("", f"{FOLDERS} --json real/0.png --overwrite", "0.png: would join the inputs in real"),
    ("", f"{FOLDERS} --json made/new.png", "new.png: would join the inputs in made"),
    ("", f"{FOLDERS} --json poses.csv --overwrite", "poses.csv: would overwrite poses"),
    ("", f"{FOLDERS} --json data/folder/people.csv --overwrite", "lies in a prepared data set"),
    ("", f"{FOLDERS} --json data/folder/new.csv", "new.csv: lies in a prepared data set"),
    ("", f"{FOLDERS} --json run/latest.pt --overwrite", "latest.pt: belongs to a run"),
    ("", f"{FOLDERS} --json run/log.jsonl --overwrite", "log.jsonl: belongs to a run"),
    ("", f"{FOLDERS} --json photo.png/s.json", "s.json: can't be written"),
    ("", f"{SCORE} --json model.pt --overwrite", "model.pt: would overwrite model.pt"),
    ("model.pt~same", f"{SCORE} --json same --overwrite", "same: would overwrite model.pt"),
    (
        "model.pt=link",
        f"{SCORE} --json link --overwrite",
        "link: would overwrite model",
    ),
    ("", f"{SCORE} --json data/folder/pairs_test.npy --overwrite", "prepared data set"),
    ("", PREPARE.replace("new", "data"), "data/folder: already exists; replace it with --overw"),
    ("", PREPARE.replace("new", "photo.png/data"), "folder: can't be written"),
    (
        "",
        PREPARE.replace("new", ".") + " --name people --overwrite",
        "people: would overwrite",
    ),
    ("", PREPARE.replace("new", ".") + " --name made --overwrite", "made: holds other files"),
    (
        "",
        PREPARE.replace("new", ".") + " --name run --overwrite",
        "run: holds other files",
    ),
    ("new/x-preview.png", f"{PREPARE} --name x --preview", "x-preview.png: already exists"),
    (
        "",
        "generate --data folder --root data --checkpoint model.pt --out people",
        "people: not emp",
    ),
    (
        "",
        "generate --data folder --root data --checkpoint model.pt --out data/folder",
        "prepared da",
    ),
    ("", "generate --data folder --root data --checkpoint model.pt --out photo.png", "photo.png"),
    ("", "train --data folder --root data --run run --steps 1", "run: a run already exists"),
]


@pytest.mark.parametrize(("there", "line", "word"), OUTPUTS, ids=map(str, range(len(OUTPUTS))))
def test_no_output_takes_the_place_of_anything(here, there, line, word):
    if "=" in there or "~" in there:
        target, name = there.replace("~", "=").split("=")
        linked(here, name, target, hard="~" in there)
    elif there:
        write(here / there, "a user's own")
    refused(here, line.split(), word)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (GENERATE, "out.png"),
        (f"{FOLDERS} --json s.json", "s.json"),
        (f"{FOLDERS} --worst 1", "worst.png"),
    ],
)
def test_overwrite_replaces_a_file_and_keeps_a_link(here, line, name):
    write(here / "elsewhere" / "file", "old")
    linked(here, name, "elsewhere/file")
    before = {*state(here)}
    result = CliRunner().invoke(posegan.main, [*line.split(), "--overwrite"])
    assert result.exit_code == 0, result.output
    assert (here / name).is_symlink() and (here / "elsewhere/file").read_bytes() != b"old"
    assert {*state(here)} == before


# ------------------------------------------------------------------------------ command lines

BIG = "9" * 20
# The command line, the exit code, a word of the answer.
LINES = [
    ("prepare --source people", 2, "--source: the demo set needs none"),
    ("prepare --poses poses.csv", 2, "--poses: the demo set needs none"),
    ("prepare --parsing made", 2, "--parsing: the demo set needs none"),
    ("prepare --pose-weights model.pt", 2, "--pose-weights: the demo set needs none"),
    (
        "prepare --data market1501 --source people --seed 3",
        2,
        "--seed: Market-1501's split is fixed",
    ),
    ("prepare --data folder", 1, "no --source given"),
    ("prepare --data mvc --root new", 1, "no --source given"),
    ("prepare --data market1501 --source people", 1, "people: no Market-1501 pictures"),
    ("prepare --data deepfashion --source people", 1, "people: no DeepFashion In-shop pictures"),
    (
        "prepare --root new --data folder --source none.zip",
        1,
        "none.zip: can't be read (no such file",
    ),
    ("prepare --root new --data folder --source made", 1, "made: only one person, made"),
    ("prepare --root new --data folder --source people/al", 1, "people/al: only one person, al"),
    ("prepare --data other", 2, "'other' is not one of"),
    (f"{PREPARE} --poses poses.csv --pose-weights model.pt", 1, "--pose-weights has no effect"),
    (f"{PREPARE} --pose-weights model.pt", 1, "--pose-weights has no effect"),
    (f"{PREPARE} --parsing made", 1, "made: no parsing maps for these pictures"),
    (f"{PREPARE} --parsing none", 1, "none: can't be read (no such file"),
    (f"{PREPARE} --name a/b", 1, "not a folder name"),
    (f"{PREPARE} --name ..", 1, "not a folder name"),
    (f"{PREPARE} --name .x", 1, "not a folder name"),
    (f"{PREPARE} --name a,b", 1, "not a folder name"),
    (f"{PREPARE} --name a:2", 1, "not a folder name"),
    (f"{PREPARE} --name market1501", 1, "market1501: reserved for another"),
    (f"{PREPARE} --name {'x' * 300}", 1, "File name too long"),
    *((f"prepare --size {size}", 2, "'--size'") for size in ("0x0", "-16x16", f"{BIG}x16", "16")),
    *(
        (f"prepare --size {size}", 2, "size")
        for size in (BIG, "1e3x16", "٣x16", "2048x16", "20x16")
    ),
    (f"prepare --size {'9' * 5000}x16", 2, "--size"),
    *((f"prepare --seed {seed}", 2, "'--seed'") for seed in ("-1", BIG, "x", "1.5", "9" * 5000)),
    ("prepare --root model.pt/x", 1, "model.pt"),
    ("prepare --root model.pt", 2, "'model.pt' is a file"),
    ("score --data ../people", 1, "not a folder name"),
    ("score --data ..", 1, "not a folder name"),
    ("score --data market1501", 1, "not prepared yet; run posegan prepare --data market1501"),
    ("score --data friends", 1, "not prepared yet; run posegan prepare --data folder"),
    ("score --root data", 1, "data/demo: not prepared yet"),
    ("score --data folder --root data --checkpoint none.pt", 1, "none.pt: no such file"),
    ("score --data folder --root data --checkpoint photo.png", 1, "photo.png"),
    (f"{SCORE} --generated made", 2, "--generated and --target belong together"),
    (f"{SCORE} --target made", 2, "--generated and --target belong together"),
    (f"{SCORE} --poses poses.csv", 2, "--poses: only with --generated"),
    (f"{SCORE} --source real", 2, "--source: only with --generated"),
    (f"{SCORE} --reference real", 2, "--reference: only with --generated"),
    (f"{FOLDERS} --corruptions", 2, "--corruptions: no effect with --generated"),
    (f"{FOLDERS} --checkpoint model.pt", 2, "--checkpoint: no effect with --generated"),
    (f"{FOLDERS} --data folder", 2, "--data: no effect with --generated"),
    *((f"{FOLDERS} --limit {n}", 2, "'--limit'") for n in ("0", "-3", "x", "1.5")),
    *((f"{FOLDERS} --worst {n}", 2, "'--worst'") for n in ("0", "101", BIG)),
    (f"{FOLDERS} --scores beauty", 2, "beauty: choose from"),
    (f"{FOLDERS} --scores ssim_gfla", 1, "ssim_gfla is unavailable"),
    (f"{FOLDERS} --json made", 2, "'made' is a directory"),
    (f"{FOLDERS} --json worst.png --worst 2", 1, "would overwrite worst.png; choose another"),
    ("score --generated none --target real", 2, "'none' does not exist"),
    ("score --generated photo.png --target real", 2, "'photo.png' is a file"),
    ("score --generated people --target real", 1, "people: no images in it"),
    ("score --generated people/al --target real --poses none.csv", 1, "none.csv: no such file"),
    ("train --data nothing --root data", 1, "nothing: not prepared yet"),
    ("train --data folder,nothing --root data", 1, "nothing: not prepared yet"),
    ("train --data folder:0 --root data", 1, "not every data set has a share"),
    ("train --data folder:nan --root data", 1, "not every data set has a share"),
    ("score --data folder,demo --root data", 1, "not a folder name; use"),
    ("train --data ,folder --root data", 1, "not a folder name"),
    ("train --resume --run run --root data --steps 1", 2, "--steps 1: 2 are already done"),
    (
        "train --data folder --root data --run data/folder",
        1,
        "data/folder: lies in a prepared data set",
    ),
    ("train --batch-size 1000000000", 2, "'--batch-size'"),
    ("train --resume --run none", 1, "none: no checkpoint to resume"),
    ("train --run model.pt", 2, "'model.pt' is a file"),
    *((f"train --steps {n}", 2, "'--steps'") for n in ("0", "-1", "x", "nan")),
    *((f"train --batch-size {n}", 2, "'--batch-size'") for n in ("0", "-1", "x")),
    *((f"train --learning-rate {n}", 2, "--learning-rate") for n in ("0", "-1", "2", "x", "nan")),
    *((f"train --channels {n}", 2, "'--channels'") for n in ("0", "1", "257", BIG)),
    *((f"train --seed {n}", 2, "'--seed'") for n in ("-1", BIG)),
    ("train --model people", 2, "--model people: a folder; give its latest.pt"),
    ("train --model other", 2, "--model other: no such file; choose from flow"),
    ("train --augment other", 2, "other: choose from"),
    ("generate", 2, "give SOURCE and POSE"),
    ("generate photo.png", 2, "give SOURCE and POSE"),
    ("generate none.png walk", 1, "none.png: no such file"),
    ("generate photo.png fly", 1, "fly: no such file; check the path, or name a motion"),
    ("generate people walk", 1, "people: no photos in it"),
    ("generate photo.png people", 1, "people: no poses in it"),
    ("generate photo.png poses.csv:none.png", 1, "poses.csv: no pose called none.png"),
    ("generate photo.png poses.csv", 1, "poses.csv: 6 poses; choose one, such as"),
    ("generate photo.png pose.json --person 0", 2, "'--person'"),
    ("generate photo.png pose.json --crop 1,2,3", 2, "not a box"),
    ("generate photo.png pose.json --crop 9,9,1,1", 2, "must exceed"),
    (f"generate photo.png pose.json --crop 0,0,1,{BIG}", 2, "no photo is that large"),
    ("generate --data folder --out new --count 10001", 2, "'--count'"),
    ("generate photo.png pose.json --count 3", 2, "--count: only with --data"),
    ("generate photo.png pose.json --root data", 2, "--root: only with --data"),
    ("generate --data folder", 2, "--data needs --out DIR"),
    ("generate --data folder --out new --sheet", 2, "--sheet: no effect with --data"),
    ("generate --data folder --out new --fps 3", 2, "--fps: no effect with --data"),
    ("generate --data nothing --root data --out new", 1, "nothing: not prepared yet"),
    ("generate photo.png pose.json --checkpoint none.pt", 1, "none.pt: no such file"),
    ("generate photo.png walk walk --out x.png", 2, "need a folder"),
    ("generate made walk --source-pose pose.json", 2, "it holds one pose, and SOURCE has several"),
    ("generate photo.png walk wave --no-fit", 2, "--no-fit: motions are always fitted"),
    (f"generate {'x' * 300} walk", 1, "File name too long"),
    ("other", 2, "No such command 'other'"),
    ("--other", 2, "No such option"),
    ("score --other", 2, "No such option"),
]


@pytest.mark.parametrize(("line", "code", "word"), LINES, ids=[line[:70] for line, *_ in LINES])
def test_bad_command_lines_are_refused(here, line, code, word):
    refused(here, line.split(), word, code)


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE"])
@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_cluster_sets_in_the_environment_ends_in_no_traceback(
    here, monkeypatch, command, name
):
    monkeypatch.setenv(name, "x")
    result = CliRunner().invoke(posegan.main, COMMANDS[command].split())
    assert "POSEGAN_DEBUG" not in result.output and "Traceback" not in result.output
    assert result.exit_code == (command in ("train", "resume", "score"))


def test_a_persons_pose_outside_the_photo_is_refused(here):
    for far in (-500, 9 * 10**5):
        write(here / "far.json", openpose(body() + np.array([far, far, 0])))
        line = "generate photo.png walk --source-pose far.json --checkpoint model.pt"
        refused(here, line.split(), "far.json: no joint is inside photo.png")


EMPTY = ("--source", "--poses", "--parsing", "--root", "--pose-weights")


@pytest.mark.parametrize("option", EMPTY)
def test_an_empty_path_is_not_the_working_folder(here, option):
    refused(here, [*PREPARE.split(), option, ""], "is empty; give a path", 2)


NAMES = ("new\nline", "\x1b[31mred", "tab\there", "\r", "\x7f", "\u202eback", "\x9b31m", "é\udcff")


@pytest.mark.parametrize("name", NAMES, ids=map(repr, NAMES))
def test_names_are_printed_without_their_control_characters(here, name):
    word = repr(name)[1:-1].split("é")[-1]
    write(here / name, b"no picture")
    refused(here, ["generate", name, "walk"], word)
    refused(here, ["prepare", "--data", "folder", "--root", "new", "--source", name], word)
    refused(here, ["prepare", name], word, 2)
    refused(here, [name], word, 2)
    refused(here, [f"--{name}"], word, 2)
    write(here / "people" / name / "1.png", b"no picture") if "\udcff" not in name else None
    if "\udcff" not in name:
        (here / name).unlink() if (here / name).is_file() else None
        refused(here, PREPARE.split(), word)
        (here / "data/folder").rename(here / "data" / name)
        (here / "data" / name / "poses.npy").unlink()
        refused(here, ["score", "--data", name, "--root", "data"], word)
