import csv
import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import lpips
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import coco, config_for, csv_of
from PIL import Image
from torchvision.models import Inception3, alexnet

from posegan import (
    augment,
    checkpoints,
    datasets,
    demo,
    metrics,
    models,
    pairs,
    posegan,
    poses,
    recipes,
    scoring,
    training,
)

README = Path(__file__).parents[1] / "README.md"


def run(*arguments, code: int = 0) -> str:
    """What a command prints, stdout and stderr together."""
    result = CliRunner().invoke(posegan.main, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def trained(few_people, tmp_path_factory) -> Path:
    """The checkpoint of a run of two steps."""
    folder = tmp_path_factory.mktemp("run")
    config = config_for(few_people, folder, steps=2, augment=(), seed=0)
    return training.train(config, few_people, False, lambda figures: None)[0]


@pytest.fixture
def photo(tmp_path) -> Path:
    colours = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    Image.fromarray(colours).save(tmp_path / "src.png")
    return tmp_path / "src.png"


@pytest.fixture
def pose_file(tmp_path, few_people) -> Path:
    person = {"pose_keypoints_2d": few_people.poses[3].flatten().tolist()}
    path = tmp_path / "pose.json"
    path.write_text(json.dumps({"version": 1.3, "people": [person]}))
    return path


def test_every_command_and_option_has_help():
    assert set(posegan.main.commands) == {"prepare", "train", "generate", "score"}
    for name, command in posegan.main.commands.items():
        assert f"posegan {name}" in command.help, name
        options = [one for one in command.params if isinstance(one, click.Option)]
        assert len(options) <= {"score": 15, "train": 15}.get(name, 20)
        assert all(one.help for one in options), name
        assert "Usage" in run(name, "--help")


def test_the_settings_of_a_run_are_the_options_of_train():
    names = {one.name for one in posegan.main.commands["train"].params}
    fields = set(recipes.TrainConfig.__dataclass_fields__)
    assert names - {"resume"} == fields - {"loss_weights", "start", "device", "precision"}


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--steps", "0"], ["score", "--x"]])
def test_help_and_usage_errors_import_no_torch(arguments):
    code = "import sys, posegan\n"
    code += "try: posegan.main()\nfinally: print('torch' in sys.modules, 'rich' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "False False", done.stderr


def test_training_twice_asks_for_resume_and_resuming_goes_on(few_people, tmp_path):
    root = few_people.path.parent
    base = ["train", "--root", root, "--run", tmp_path / "run"]
    small = ["--channels", "4", "--batch-size", "4"]
    assert "next: posegan generate" in run(*base, *small, "--steps", "1")
    assert "--resume" in run(*base, *small, "--steps", "1", code=1)
    message = run(*base, "--channels", "8", "--steps", "2", "--resume", code=2)
    assert "--channels 8: the run uses 4" in message
    assert "ssim_dscf" in run(*base, "--steps", "2", "--resume")
    assert checkpoints.read_checkpoint(tmp_path / "run" / "latest.pt")["state"]["step"] == 2


def test_resuming_by_the_run_alone_takes_its_own_settings(few_people, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--channels", "8", "--batch-size", "4", "--model", "unet"]
    more = ["--save-every", "7", "--augment", "flip", "--steps", "1"]
    run("train", "--run", "run", "--root", few_people.path.parent, *small, *more)
    before = checkpoints.read_checkpoint(Path("run/latest.pt"))["config"]["train"]
    output = run("train", "--run", "run", "--steps", "2", "--resume", "--learning-rate", "1e-4")
    assert "demo, unet, step 2" in output
    after = checkpoints.read_checkpoint(Path("run/latest.pt"))["config"]["train"]
    assert after == before | {"steps": 2, "learning_rate": 1e-4}
    assert not Path("data").exists()
    for other in (["--augment", "none"], ["--augment", "crop"], ["--features", "lite0"]):
        assert "the run uses" in run("train", "--run", "run", "--resume", *other, code=2)


def test_a_run_begins_with_a_trained_model(few_people, tmp_path):
    base = ["train", "--root", few_people.path.parent, "--batch-size", "4", "--steps", "1"]
    run(*base, "--run", tmp_path / "first", "--channels", "4", "--model", "unet")
    model = tmp_path / "first" / "generator.pt"
    more = [*base, "--run", tmp_path / "second", "--model", model]
    assert "demo, unet, step 1" in run(*more)
    settings = checkpoints.read_checkpoint(tmp_path / "second" / "latest.pt")["config"]["train"]
    named = ("model", "channels", "start", "learning_rate")
    assert [settings[name] for name in named] == ["unet", 4, str(model), recipes.START_RATE]
    assert "unet, step 2" in run(*more[:-4], *more[-4:], "--steps", "2", "--resume")
    third = [*base, "--run", tmp_path / "third", "--model"]
    assert "fixed by --model" in run(*third, model, "--channels", "8", code=2)
    assert "no such file; choose from flow, residual, unet, pretrained" in run(
        *third, "mine.pt", code=2
    )
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint")
    assert "bad.pt" in run(*third, tmp_path / "bad.pt", code=1)


def test_options_a_model_has_no_use_for_are_refused(few_people, tmp_path):
    base = ["train", "--root", few_people.path.parent, "--run", tmp_path / "run", "--steps", "1"]
    assert "multiple of 4" in run(*base, "--model", "flow", "--channels", "9", code=2)
    assert "unet has none" in run(*base, "--model", "unet", "--descriptor", "map", code=2)
    one = ["--model", "residual", "--batch-size", "1"]
    assert "give 2 or more" in run(*base, *one, code=2)
    small = ["--batch-size", "4", "--channels", "4"]
    run(*base, "--model", "flow", *small)


def test_the_papers_epochs_are_passes_over_the_pairs_however_many_processes(
    few_people, monkeypatch
):
    asked = []

    def stop(config, prepared, resume, report):
        asked.append(config.steps)
        raise click.ClickException("enough")

    monkeypatch.setattr(training, "train", stop)
    monkeypatch.setitem(recipes.DEMO, "steps", None)
    base = ["train", "--root", few_people.path.parent, "--run", "nowhere", "--batch-size", "4"]
    run(*base, code=1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    run(*base, code=1)
    assert asked == 2 * [recipes.PAPER_EPOCHS * (len(few_people.pairs_train) // 4)]


def test_bad_requests_to_train_name_the_remedy(few_people, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = few_people.path.parent
    assert "no checkpoint to resume" in run("train", "--root", root, "--resume", code=1)
    few = ["--root", root, "--steps", "1"]
    message = run("train", "--data", "market1501", "--root", tmp_path, code=1)
    assert "posegan prepare --data market1501" in message
    assert "choose from shrinking" in run("train", "--augment", "blur", code=2)
    for missing in (tmp_path / "none.pth", "lite1"):
        message = run("train", *few, "--features", missing, code=2)
        assert f"--features {missing}: no such file; choose from lite0, resnet50" in message
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    for model in ("flow", "residual"):
        given = ["--features", tmp_path / "bad.pth", "--channels", "4", "--model", model]
        assert "bad.pth: damaged" in run("train", *few, *given, code=1)


def test_a_photo_of_any_size_and_a_pose_are_enough(trained, photo, pose_file, tmp_path):
    out = tmp_path / "result.png"
    base = ["generate", photo, pose_file, "--checkpoint", trained, "--device", "cpu"]
    output = run(*base, "--out", out)
    assert str(out) in output
    assert f"model: {trained}" in output
    assert "the middle, at full height, is used" in output
    assert "knows synthetic people only" in output
    assert Image.open(out).size == (45, 90)
    first = out.read_bytes()
    assert "--overwrite" in run(*base, "--out", out, code=1)
    run(*base, "--out", out, "--overwrite")
    assert out.read_bytes() == first
    run(*base, "--out", out, "--overwrite", "--paste")
    assert Image.open(out).size == (120, 90)
    run(*base, "--out", out, "--overwrite", "--crop", "10,10,40,70")
    assert Image.open(out).size == (30, 60)


def test_a_sheet_shows_photos_poses_and_results(trained, photo, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("one.png", "other.png"):
        shutil.copy(photo, tmp_path / "photos" / name)
    out = tmp_path / "sheet.png"
    base = ["--checkpoint", trained, "--device", "cpu", "--sheet", "--out", out]
    run("generate", tmp_path / "photos", "walk", *base)
    # Two photos, each with a row of 12 poses and one of results, and the photo before them.
    assert Image.open(out).size == (13 * 130 + 2, 4 * 258 + 2)


def test_the_example_walks_in_a_smooth_endless_loop(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = ["generate", "example", "walk", "--checkpoint", trained, "--device", "cpu"]
    assert "person_walk.gif" in run(*base)
    moving = Image.open("person_walk.gif")
    assert moving.size == (256, 512)
    assert moving.n_frames == demo.MOTION_FRAMES
    assert moving.info["loop"] == 0
    run(*base, "--fps", "30", "--out", "walk.webp")
    first = Path("person_walk.gif").read_bytes()
    run(*base, "--overwrite")
    assert Path("person_walk.gif").read_bytes() == first
    durations = []
    run(*base, "--fps", "30", "--out", "fast.gif")
    fast = Image.open("fast.gif")
    for frame in range(fast.n_frames):
        fast.seek(frame)
        durations.append(fast.info["duration"])
    assert sum(durations) == 800
    assert set(durations) == {30, 40}


def test_the_checkpoint_is_the_newest_runs_else_the_one_that_comes_along(
    trained, photo, pose_file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "BUILT_IN", tmp_path / "market1501.pt")
    message = run("generate", photo, pose_file, code=1)
    assert "market1501.pt: the model that comes with posegan is missing; install" in message
    checkpoints.BUILT_IN.write_bytes(trained.read_bytes()[:1000])
    message = run("generate", photo, pose_file, code=1)
    assert "market1501.pt: the model that comes with posegan is damaged; install" in message
    checkpoints.BUILT_IN.write_bytes(trained.read_bytes())
    assert f"model: {checkpoints.BUILT_IN}" in run("generate", photo, pose_file)
    assert (tmp_path / "src_pose.png").exists()
    (tmp_path / "runs" / "demo-residual").mkdir(parents=True)
    (tmp_path / "runs" / "demo-residual" / "latest.pt").write_bytes(trained.read_bytes())
    assert "model: runs/demo-residual" in run("generate", photo, pose_file, "--overwrite")


def test_several_poses_make_a_picture_each_or_an_animation(trained, photo, pose_file, tmp_path):
    folder = tmp_path / "poses"
    folder.mkdir()
    for name in ("a_keypoints.json", "b.json", "c.json"):
        (folder / name).write_text(pose_file.read_text())
    base = ["generate", photo, folder, "--checkpoint", trained, "--device", "cpu"]
    run(*base, "--out", tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["src_a.png", "src_b.png", "src_c.png"]
    run(*base, "--out", tmp_path / "moving.gif")
    assert Image.open(tmp_path / "moving.gif").format == "GIF"
    assert "need a folder" in run(*base, "--out", tmp_path / "one.png", code=2)
    run(*base, "--out", f"{tmp_path}/made.v2/")
    assert len([*(tmp_path / "made.v2").iterdir()]) == 3


def test_of_a_folder_with_broken_poses_the_others_are_made_and_these_listed(
    trained, photo, pose_file, tmp_path
):
    folder = tmp_path / "poses"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.json").write_text(pose_file.read_text() if name in "ad" else "{")
    base = ["--checkpoint", trained, "--device", "cpu", "--out", tmp_path / "out"]
    message = run("generate", photo, folder, *base, code=1)
    assert "photos or poses that can't be used: 2," in message
    assert "b.json: not valid JSON" in message
    assert "c.json: not valid JSON" in message
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["src_a.png", "src_d.png"]


def test_new_poses_for_re_identification_are_resumed_and_always_the_same(
    few_people, trained, tmp_path
):
    root = few_people.path.parent
    base = ["generate", "--data", "demo", "--root", root, "--checkpoint", trained]
    run(*base, "--out", tmp_path / "one", "--count", "2")
    with open(tmp_path / "one" / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    made = tmp_path / "one" / "bounding_box_train"
    assert {row["file"] for row in rows} == {path.name for path in made.iterdir()}
    assert len(rows) == 2 * few_people.identities
    assert Image.open(made / rows[0]["file"]).size == (32, 64)
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    (made / rows[3]["file"]).unlink()
    (made / rows[4]["file"]).write_bytes(b"")  # of a machine that lost its power
    (made / f".{rows[3]['file']}.partial-x" / "new").mkdir(parents=True)
    run(*base, "--out", tmp_path / "one", "--count", "3")
    after = {path.name: path.read_bytes() for path in made.iterdir()}
    assert len(after) == 3 * few_people.identities
    assert all(after[name] == content for name, content in before.items())
    (made / rows[3]["file"]).unlink()
    (made / rows[3]["file"]).mkdir()
    message = run(*base, "--out", tmp_path / "one", "--count", "3", code=1)
    assert f"{rows[3]['file']}: can't be written (Is a directory)" in message
    message = run(*base, "--out", tmp_path / "one", "--count", "1", code=1)
    assert "manifest.csv: lists other pictures; continue with" in message
    assert "--data needs --out" in run(*base, code=2)


def test_new_poses_want_a_model_of_the_datas_size(trained, few_people, tmp_path):
    large = dataclasses.replace(few_people, height=128, width=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "load", lambda name, root: large)
        asked = ["--data", "demo", "--checkpoint", trained, "--out", tmp_path / "x"]
        assert "128x64, but the model makes 64x32" in run("generate", *asked, code=1)


def test_bad_requests_to_generate_name_the_remedy(trained, photo, pose_file, tmp_path):
    base = ["--checkpoint", trained, "--device", "cpu"]
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    assert "text.jpg" in run("generate", text, pose_file, *base, code=1)
    empty = tmp_path / "empty.json"
    empty.write_text('{"people": []}')
    assert "no people" in run("generate", photo, empty, *base, code=1)
    assert "no such file" in run("generate", photo, tmp_path / "none.json", *base, code=1)
    assert "name a motion: walk, run" in run("generate", photo, "fly", *base, code=1)
    (tmp_path / "nothing").mkdir()
    assert "no poses in it" in run("generate", photo, tmp_path / "nothing", *base, code=1)
    assert "no photos in it" in run("generate", tmp_path / "nothing", pose_file, *base, code=1)
    assert "give SOURCE and POSE" in run("generate", photo, code=2)
    assert "is not a box; write it as" in run("generate", photo, "walk", "--crop", "1,2", code=2)
    assert "right and bottom must exceed" in run(
        "generate", photo, "walk", "--crop", "9,1,2,5", code=2
    )
    wrong = tmp_path / "wrong.pt"
    torch.save({"a": torch.zeros(1)}, wrong)
    assert "not a posegan checkpoint" in run(
        "generate", photo, pose_file, "--checkpoint", wrong, code=1
    )
    blocked = ["--out", text / "x.png"]
    message = run("generate", photo, pose_file, *base, *blocked, code=1)
    assert "x.png: can't be written; choose another place with --out" in message
    weights = ["--pose-weights", wrong]
    assert "not the weights of Keypoint" in run(
        "generate", photo, pose_file, *base, *weights, code=1
    )


def test_names_that_differ_only_in_case_are_refused(trained, photo, pose_file, tmp_path):
    other = tmp_path / "POSE.json"
    other.write_text(pose_file.read_text())
    if other.samefile(pose_file):
        pytest.skip("this file system takes both names for one")
    base = ["--checkpoint", trained, "--device", "cpu", "--out", tmp_path / "out"]
    assert "two results would have this name; rename" in run(
        "generate", photo, pose_file, other, *base, code=1
    )


def test_a_preview_shows_pairs_with_their_poses(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "IDENTITIES", 10)
    monkeypatch.setattr(demo, "POSES", 2)
    output = run("prepare", "--root", tmp_path, "--size", "64x32", "--preview")
    assert f"preview: {tmp_path / 'demo-preview.png'}" in output
    shown = Image.open(tmp_path / "demo-preview.png")
    assert shown.size == (8 * 130 + 2, 4 * 258 + 2)


def test_a_checkpoint_is_scored_with_both_baselines(trained, few_people, tmp_path):
    file = tmp_path / "scores.json"
    base = ["score", "--root", few_people.path.parent, "--checkpoint", trained, "--limit", "6"]
    quick = ["--scores", "pixels"]
    output = run(*base, *quick, "--json", file, "--device", "cpu")
    assert "N = 6 pairs" in output
    assert "RPT-GAN" not in output  # whose data is not the demo
    content = json.loads(file.read_text())
    assert content["pairs"] == 6
    assert (content["data"], content["step"], content["seed"]) == ("demo", 2, 0)
    assert content["versions"]["torch"] == torch.__version__
    assert content["versions"]["posegan"] in run("--version")
    for name in ("ssim_dscf", "ssim_wang", "ssim_pg2", "mask_ssim", "psnr", "l1"):
        for place in (content["scores"], *content["baselines"].values()):
            assert isinstance(place[name], float), name
        assert content["recipes"][name]
    assert content["scores"]["ssim_gfla"] is None  # 64x32 is smaller than its window
    assert "51 pixels" in content["reasons"]["ssim_gfla"]
    assert set(content["baselines"]) == {"source", "mean"}


def test_a_checkpoint_is_scored_on_corrupted_sources(few_people, tmp_path):
    config = config_for(few_people, tmp_path / "run", model="unet", steps=1, channels=8)
    checkpoint, _ = training.train(config, few_people, False, lambda figures: None)
    file = tmp_path / "scores.json"
    base = ["score", "--root", few_people.path.parent, "--checkpoint", checkpoint, "--limit", "5"]
    quick = ["--scores", "pixels", "--device", "cpu"]
    output = run(*base, *quick, "--corruptions", "--json", file)
    assert "ssim_dscf on corrupted sources" in output
    assert max(map(len, output.splitlines())) <= 80
    content = json.loads(file.read_text())
    assert set(content["corruptions"]) == {"occlusion", "scale", "illumination", "distortion"}
    for found in content["corruptions"].values():
        assert len(found["ssim_dscf"]) == len(found["intervals"]) == 5
        change = [value - content["scores"]["ssim_dscf"] for value in found["ssim_dscf"]]
        assert found["change"] == pytest.approx(change)
        assert any(change)  # the model did see other sources


def test_a_pictures_corruption_is_its_own_whatever_else_is_scored(few_people):
    """Whatever the order of the pairs and the other pictures."""
    generator = models.FlowGenerator(few_people.height, few_people.width, channels=8).eval()
    chosen = few_people.pairs_test[[5, 2, 9]]
    for kind in augment.CORRUPTIONS:
        found = []
        for order in (chosen, chosen[::-1], chosen[1:]):
            prepared = dataclasses.replace(few_people, pairs_test=order)
            (batch,) = checkpoints.scored_batches(prepared, generator, None, (kind, 3))
            found.append(batch["source"])
        assert torch.equal(found[0], found[1].flip(0))
        assert torch.equal(found[0][1:], found[2])


def test_published_figures_stand_under_scores_of_their_data_alone(trained, few_people, monkeypatch):
    """With a caution where not all pairs are scored."""
    base = ["score", "--checkpoint", trained, "--limit", "2", "--scores", "ssim_dscf"]
    output = run(*base, "--root", few_people.path.parent)
    assert "Compare" not in output and "Published" not in output
    monkeypatch.setattr(pairs, "load", lambda data, root: few_people)
    output = run(*base, "--data", "market1501")
    assert "Compare ssim_dscf" in output and "on Market-1501: ssim_dscf of RPT-GAN" in output
    assert "DeepFashion" not in output
    said = " ".join(output.split())
    assert "Caution: these are the first 2 pairs; published scores cover all 12,000" in said


def test_folders_of_images_are_scored_by_name(few_people, tmp_path):
    pictures = few_people.images[:4].repeat(2, 1).repeat(2, 2)  # 128x64
    folders = {"generated": pictures, "target": pictures, "source": pictures[::-1]}
    for folder, chosen in folders.items():
        (tmp_path / folder).mkdir()
        for i, picture in enumerate(chosen):
            Image.fromarray(picture).save(tmp_path / folder / f"{i}.png")
    file = tmp_path / "scores.json"
    base = ["score", "--generated", tmp_path / "generated", "--target", tmp_path / "target"]
    quick = ["--scores", "pixels"]
    run(*base, *quick, "--source", tmp_path / "source", "--json", file)
    content = json.loads(file.read_text())
    assert content["pairs"] == 4
    assert content["scores"]["ssim_dscf"] == pytest.approx(1)
    assert content["scores"]["ssim_gfla"] == pytest.approx(1)
    assert content["scores"]["mask_ssim"] is None
    assert "--poses" in content["reasons"]["mask_ssim"]
    assert content["baselines"]["source"]["ssim_dscf"] < 0.9
    assert content["intervals"]["l1"] == [0, 0]
    assert "both" in run("score", "--generated", tmp_path / "generated", code=2)


@pytest.fixture
def two_folders(few_people, tmp_path) -> list:
    """Arguments that score ten pictures against others; file names are numbers."""
    pictures = few_people.images[:20].repeat(2, 1).repeat(2, 2)  # 128x64
    for folder, chosen in {"generated": pictures[:10], "target": pictures[10:]}.items():
        (tmp_path / folder).mkdir()
        for i, picture in enumerate(chosen):
            Image.fromarray(picture).save(tmp_path / folder / f"{i}.png")
    return ["score", "--generated", tmp_path / "generated", "--target", tmp_path / "target"]


@pytest.fixture
def offline(tmp_path, monkeypatch) -> Path:
    """torch's cache of weights, empty, and no network."""

    def unreachable(*given, **options):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    return cache


def test_every_score_is_a_number_or_has_its_reason(two_folders, tmp_path, offline):
    file = tmp_path / "scores.json"
    output = run(*two_folders, "--json", file)
    assert "Compare ssim_dscf" in output and "Published" not in output
    content = json.loads(file.read_text())
    assert list(content["scores"]) == list(scoring.SCORES) == list(content["recipes"])
    for name, value in content["scores"].items():
        assert (value is None) == (name in content["reasons"]), name
    assert "can't be fetched (no network); put pt_inception" in content["reasons"]["fid"]
    assert "--reference" in content["reasons"]["fid_gfla"]
    low, high = content["intervals"]["ssim_dscf"]
    assert low < content["scores"]["ssim_dscf"] < high
    lines = [line for line in output.splitlines() if str(offline) not in line]  # paths stay whole
    assert max(map(len, lines)) <= 80
    message = run(*two_folders, "--scores", "ssim_dscf,fid", code=1)
    assert "fid is unavailable: the weights of Inception of 2015-12-05: can't" in message
    assert "choose from pixels, ssim_dscf" in run(*two_folders, "--scores", "inception", code=2)


def test_only_the_scores_asked_for_are_computed(two_folders, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "_load", lambda *given: pytest.fail("a network is loaded"))
    file = tmp_path / "scores.json"
    output = run(*two_folders, "--scores", "detail,l1", "--json", file)
    assert "l1 ↓" in output and "ssim" not in output.split("Compare")[0]
    content = json.loads(file.read_text())
    assert {name for name, value in content["scores"].items() if value is not None} == {
        "detail",
        "l1",
    }
    assert content["reasons"]["fid"] == content["reasons"]["psnr"] == "not among --scores"
    assert set(content["per_pair"]) == {"source", "target", "l1", "detail"}


def test_scores_of_networks_are_computed_where_their_weights_are(two_folders, tmp_path, offline):
    torch.manual_seed(0)
    torch.save(alexnet().state_dict(), offline / "alexnet-owt-7be5be79.pth")
    torch.save(
        Inception3(1008, False, False, init_weights=False).state_dict(),
        offline / "pt_inception-2015-12-05-6726825d.pth",
    )
    torch.save(
        Inception3(init_weights=False).state_dict(), offline / "inception_v3_google-0cc3c7bd.pth"
    )
    file, target = tmp_path / "scores.json", two_folders[4]
    networks = "inception_score,inception_score_std,fid,fid_gfla,lpips"
    extra = ["--scores", networks, "--reference", target, "--json", file]
    output = run(*two_folders, *extra)
    assert "inception_score ↑" in output and "inception_score_std" not in output
    content = json.loads(file.read_text())
    for name in networks.split(","):
        assert content["scores"][name] >= 0, name
    mean = content["baselines"]["mean"]
    assert mean["inception_score"] == pytest.approx(1)  # one picture, however often
    assert mean["fid"] > content["scores"]["fid"]
    assert mean["fid_gfla"] > content["scores"]["fid_gfla"]
    assert mean["lpips"] > 0 and mean["pck"] is None
    sides = []
    for folder in two_folders[2], target:
        pictures = [np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))]
        sides.append(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1)
    network = lpips.LPIPS(net="alex", verbose=False)
    with torch.no_grad():
        wanted = network(*sides).mean().item()
    assert content["scores"]["lpips"] == pytest.approx(wanted, rel=1e-4)
    again = [*two_folders[:4], two_folders[2], *extra[:3], two_folders[2], *extra[4:]]
    assert "are the same folder" in run(*again, "--overwrite")
    content = json.loads(file.read_text())
    assert content["scores"]["lpips"] == 0
    for name in ("fid", "fid_gfla"):
        assert content["scores"][name] == pytest.approx(0, abs=1e-4)


def test_fid_gfla_of_a_model_compares_with_all_training_images(
    trained, few_people, tmp_path, monkeypatch
):
    class Means(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    monkeypatch.setattr(metrics, "_load", lambda name, device: Means())
    file = tmp_path / "scores.json"
    base = ["score", "--root", few_people.path.parent, "--checkpoint", trained, "--limit", "4"]
    run(*base, "--scores", "fid_gfla", "--json", file)
    sides = [metrics.FeatureStatistics() for _ in range(2)]
    training_images = few_people.images[few_people.split == "train"]
    sources = few_people.images[few_people.pairs_test[:4, 0]]
    for side, images in zip(sides, (sources, training_images)):
        images = torch.from_numpy(images).permute(0, 3, 1, 2)
        side.add(metrics.features(Means(), images, "gfla"))
    wanted = metrics.fid(*sides[0].moments(), *sides[1].moments())
    content = json.loads(file.read_text())
    assert content["baselines"]["source"]["fid_gfla"] == pytest.approx(wanted, rel=1e-6)


def test_joints_are_looked_for_in_generated_images(two_folders, tmp_path, monkeypatch):
    pose = np.zeros((10, 25, 3), np.float32)
    pose[:, :6] = [[30, 20, 1], [30, 40, 1], [20, 40, 1], [15, 60, 1], [15, 80, 1], [40, 40, 1]]
    people = {f"{i}.png": one for i, one in enumerate(pose)}
    (tmp_path / "poses.json").write_text(coco(people, (128, 64)))
    asked = []

    def find(images, weights=None, device=None):
        asked.extend(images)
        return pose[: len(images)]

    monkeypatch.setattr(metrics, "find_poses", find)
    monkeypatch.setattr(metrics, "_load", lambda *given: metrics._found_poses)
    file = tmp_path / "scores.json"
    of_poses = ["--scores", "mask_ssim,pck,pose_error", "--poses", tmp_path / "poses.json"]
    run(*two_folders, *of_poses, "--json", file)
    content = json.loads(file.read_text())
    assert len(asked) == 11  # and once in the mean image
    assert content["scores"]["pck"] == 1
    assert content["scores"]["pose_error"] == 0
    assert content["scores"]["mask_ssim"] is not None


@pytest.mark.parametrize(
    "useless",
    [
        ["--root", "data"],
        ["--corruptions"],
        ["--checkpoint", "latest.pt"],
    ],
)
def test_options_that_would_do_nothing_are_refused(useless, two_folders):
    assert f"{useless[0]}: " in run(*two_folders, *useless, code=2)


def test_files_are_whole_or_as_they_were_and_no_input_is_replaced(
    two_folders, tmp_path, monkeypatch
):
    file = tmp_path / "scores.json"
    quick = ["--scores", "pixels", "--json", file, "--overwrite"]
    with monkeypatch.context() as nobody_reads:
        nobody_reads.setattr(scoring, "show_scores", lambda *given: sys.exit(3))
        run(*two_folders, *quick, code=3)
    before = file.read_text()
    assert json.loads(before)["scored"] == str(tmp_path / "generated")

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(posegan.os, "replace", full)
    message = run(*two_folders, *quick, code=1)
    assert "scores.json: can't be written (No space left on device); choose another" in message
    assert "ssim_dscf" in message  # the table is there at least
    assert file.read_text() == before
    assert {path.name for path in tmp_path.iterdir()} == {"generated", "target", "scores.json"}
    same = ["--poses", file, "--json", tmp_path / "target" / ".." / "scores.json"]
    assert "would overwrite" in run(*two_folders, *same, code=1)


def test_what_the_system_refuses_is_one_line(photo):
    message = run("generate", photo, "x" * 300, code=1)
    assert "File name too long" in message and "Traceback" not in message


@pytest.mark.parametrize("width", [20, 60])
def test_a_narrow_terminal_cuts_no_name_and_no_number(width, two_folders, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(posegan.os, "isatty", lambda stream: True)
    output = run(*two_folders, "--scores", "pixels")
    assert not any("…" in line for line in output.splitlines() if "│" in line)
    for name in ("ssim_dscf ↑", "l1 ↓", "detail, best 1"):
        assert name in output


def test_a_required_score_that_the_size_forbids_is_missed_before_any_is_computed(
    two_folders, monkeypatch
):
    monkeypatch.setattr(scoring, "score_batches", lambda *given: pytest.fail("scored"))
    assert "at least 161 pixels" in run(*two_folders, "--scores", "ms_ssim", code=1)


def test_every_pair_and_the_worst_ones_are_written(two_folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file, sheet = tmp_path / "scores.json", tmp_path / "worst.png"
    quick = ["--scores", "pixels"]
    run(*two_folders, *quick, "--json", file, "--worst", "2")
    content = json.loads(file.read_text())
    each = content["per_pair"]
    values = each["ssim_dscf"]
    order = sorted(range(10), key=values.__getitem__)
    assert each["target"] == [f"{i}.png" for i in range(10)]
    assert np.mean(values) == pytest.approx(content["scores"]["ssim_dscf"], abs=1e-6)
    assert all(0 < value < 1 for value in values)
    drawn = np.asarray(Image.open(sheet))
    row = 16 + 2 * 132  # a caption, and pictures twice as large
    assert drawn.shape[:2] == (4 * row + 4, 2 * (3 * 66 + 2))  # mean, target, generated
    assert (drawn[2 * row : 2 * row + 4] == 0).all()  # the line between worst and best
    for i, top in zip((*order[:2], *order[-2:]), (0, row, 2 * row + 4, 3 * row + 4)):
        caption = poses.caption(f"{values[i]:.4f}  {i}.png", drawn.shape[1])
        assert (drawn[top : top + 16] == caption).all()
        assert (drawn[top : top + 16] < 128).any()
    before = sheet.read_bytes()
    asked = run(*two_folders, *quick, "--worst", "1", code=1)
    assert "worst.png: already exists; replace it with --overwrite" in asked
    assert sheet.read_bytes() == before
    run(*two_folders, *quick, "--worst", "1", "--overwrite")
    assert sheet.read_bytes() != before
    blocked = ["--json", sheet / "scores.json"]
    assert "another place with --json" in run(*two_folders, *quick, *blocked, code=1)


def test_folders_that_cannot_be_scored_name_the_file(two_folders, tmp_path):
    quick = ["--scores", "pixels"]
    Image.new("RGB", (60, 128)).save(tmp_path / "generated" / "3.png")
    message = run(*two_folders, *quick, code=1)
    assert "3.png: is 128x60, the first target 128x64 (height x width); make all" in message
    reference = ["--scores", "fid_gfla", "--reference", tmp_path / "generated"]
    assert "3.png: is 128x60" in run(*two_folders[:4], tmp_path / "target", *reference, code=1)
    (tmp_path / "generated" / "5.png").unlink()
    message = run(*two_folders, *quick, code=1)
    assert "has no image called 5 (9 names match)" in message
    for file in (tmp_path / "generated").iterdir():
        file.unlink()
    assert "no images in it" in run(*two_folders, *quick, code=1)


def test_a_bad_picture_leaves_no_scores(two_folders, tmp_path):
    quick = ["--scores", "pixels"]
    scores = tmp_path / "scores.json"
    file = tmp_path / "generated" / "9.png"
    file.write_bytes(file.read_bytes()[:-200])
    assert "9.png: damaged" in run(*two_folders, *quick, "--json", scores, code=1)
    assert {path.name for path in tmp_path.iterdir()} == {"generated", "target"}


def test_scores_of_few_of_the_pairs_say_so(two_folders, tmp_path):
    """Some targets have no joints, and some no pose at all."""
    pose = np.zeros((25, 3))
    pose[1:9] = [[30 + i, 20 + 9 * i, 1] for i in range(8)]
    none = np.zeros((25, 3))
    known = {f"{i}.png": pose if i < 2 else none for i in range(8)}
    files = tmp_path / "poses.csv", tmp_path / "scores.json"
    files[0].write_text(csv_of(known))
    asked = [*two_folders, "--scores", "pixels", "--poses", files[0], "--json", files[1]]
    assert "only 2 pairs" in " ".join(run(*asked).split())
    content = json.loads(files[1].read_text())
    assert content["counts"]["mask_ssim"] == 2
    assert content["per_pair"]["mask_ssim"][2:] == [None] * 8
    assert content["counts"]["ssim_dscf"] == content["pairs"] == 10
    files[0].write_text(csv_of({"other.png": pose}))
    assert "poses.csv: has no pose for any target" in run(*asked, "--overwrite", code=1)


def test_a_single_pair_is_scored_without_interval(two_folders, tmp_path, offline):
    for folder in ("generated", "target"):
        for i in range(1, 10):
            (tmp_path / folder / f"{i}.png").unlink()
    file = tmp_path / "scores.json"
    run(*two_folders, "--json", file)
    content = json.loads(file.read_text())
    assert content["pairs"] == 1
    assert content["intervals"] == {}
    assert "one per split" in content["reasons"]["inception_score"]


def test_the_published_outputs_score_as_measured_with_scikit_image(shared_data, tmp_path):
    folder = shared_data / "dscf-market1501"
    file = tmp_path / "scores.json"
    base = ["score", "--generated", folder / "generated", "--target", folder / "target"]
    quick = ["--scores", "pixels"]
    run(*base, *quick, "--source", folder / "source", "--json", file)
    scores = json.loads(file.read_text())["scores"]
    assert scores["ssim_dscf"] == pytest.approx(0.383964, abs=1e-5)
    assert scores["ssim_pg2"] == pytest.approx(0.395511, abs=1e-5)


def test_scoring_a_model_on_data_of_another_size_is_refused(trained, few_people, tmp_path):
    from posegan import demo

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "IDENTITIES", 10)
        patch.setattr(demo, "POSES", 2)
        datasets.prepare(datasets.PrepareConfig(root=str(tmp_path), size=(32, 16)))
    message = run("score", "--root", tmp_path, "--checkpoint", trained, code=1)
    assert "32x16, but the model makes 64x32" in message


@pytest.mark.parametrize("size", ["100x64", "8x8", "big", "2048x16"])
def test_sizes_no_model_takes_are_refused(size):
    assert "size" in run("prepare", "--size", size, code=2).lower()


# ------------------------------------------------------------------------------ as installed


OURS = (
    "augment",
    "body",
    "demo",
    "losses",
    "metrics",
    "models",
    "pairs",
    "photo",
    "poses",
    "training",
)
PROGRAM = """
import sys
from importlib import import_module

for name in sys.argv[1:]:
    assert import_module(name).mine == name
    assert not hasattr(import_module(f"posegan.{name}"), "mine")

import models
import posegan
from posegan.models import GENERATORS

print(models.mine, posegan.main.name, GENERATORS["flow"](32, 16, channels=8).height)
"""


def answer(folder: Path, *arguments: str) -> str:
    """What a program says on stdout when it is run in a folder, and must end well."""
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_modules_of_a_users_own_live_beside_ours(tmp_path):
    for name in OURS:
        (tmp_path / f"{name}.py").write_text(f"mine = {name!r}\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    assert answer(tmp_path, sys.executable, "program.py", *OURS) == "models main 32\n"


def test_a_hostile_module_in_the_working_folder_is_not_imported(photo, pose_file, tmp_path):
    for name in OURS:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the wrong {name}.py')")
    command = Path(sys.executable).with_name("posegan")
    if not command.exists():
        pytest.skip("posegan is not installed")
    done = subprocess.run(
        [command, "generate", photo, pose_file],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "the wrong" not in done.stderr
    assert "checkpoint" in done.stderr or "model" in done.stderr


def test_the_checkout_runs_in_its_own_folder_too():
    folder = Path(posegan.__file__).parent
    code = "import posegan; from posegan import models; print(posegan.main.name, models.__name__)"
    assert answer(folder, sys.executable, "-c", code) == "main posegan.models\n"
    assert "Usage" in answer(folder, sys.executable, "posegan.py", "--help")
    assert "Usage" in answer(folder, sys.executable, "-m", "posegan", "--help")


def test_every_command_line_of_the_readme_is_understood():
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", README.read_text(), re.S)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    lines = [part for line in lines for part in re.split(r" && | -- ", line)]
    lines = [line for line in lines if line.startswith("posegan ")]
    assert len(lines) >= 4
    for line in lines:
        name, *arguments = shlex.split(line, comments=True)[1:]
        command = posegan.main.commands[name]
        taken = {option for one in command.params for option in one.opts}
        for argument in arguments:
            assert not argument.startswith("--") or argument in taken, line


def test_the_python_of_the_readme_runs(trained, photo, pose_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "BUILT_IN", trained)
    Image.open(photo).save("photo.jpg")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert len(blocks) == 1
    exec(compile(blocks[0], "README.md", "exec"), {})
    assert Image.open("moved.png").size == (45, 90)


def test_extremes_keep_the_lowest_and_the_highest():
    kept = []
    for scores in ([0.5, 0.1, float("nan")], [0.9, 0.3], [0.7, 0.2]):
        found = ((score, ["a", "b"], [np.array(score)]) for score in scores)
        kept = scoring.keep_extremes(kept, found, 2)
    assert [row[0].item() for _, _, row in kept] == [0.1, 0.2, 0.7, 0.9]
