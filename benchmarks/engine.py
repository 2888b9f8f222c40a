"""Training steps beside those of an earlier commit, and what surrounds a step.

    python benchmarks/engine.py [--earlier 474cfbd] [--data NAME --root DIR] [--repeats 3]

In one run, each side in processes of its own, in turns, the best time of each:
images/s of `flow`, `unet` and `residual` at 128x64, batch 32, with the same losses and
augmentation, the earlier commit checked out in a temporary folder; the operations of a step; the
same with --compile; real data beside one repeated batch; two gloo processes of one thread each
beside one process of two; checkpoints, samples and validation as a share of the time.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]

# What each side runs: builds the model, takes steps on random pairs, prints seconds a step.
EARLIER = """
import sys; sys.path.insert(0, {root!r})
import contextlib, json, time, torch
import augment, posegan, training
from dataclasses import fields
given = dict(data="none", root="", model={model!r}, run="", steps=1000, batch_size=32,
             learning_rate=1e-4, device="cpu", precision={precision!r}, channels=64,
             descriptor_weights="none", loss_weights=posegan.LOSS_WEIGHTS[{model!r}],
             augment=posegan.AUGMENTATIONS, save_every=1000, seed=0)
config = training.TrainConfig(**given)
shape = dict(model={model!r}, height=128, width=64, identities=2, options={options})
state = training.build(config, shape, torch.device("cpu"))
"""
EARLIER_STEP = """
samples = torch.arange(32)
def step():
    mixed = training.autocast(torch.device("cpu"), {precision!r})
    augmented = augment.augment(batch, config.augment, 0, state.step, samples)
    training.train_step(config, state, augmented, mixed)
    state.step += 1
"""
OURS = """
import sys; sys.path.insert(0, {root!r})
import json, time, torch
from posegan import augment, recipes, terminal, training
terminal.keep_memory()  # as the command does
given = dict(data="none", root="", model={model!r}, run="", steps=1000, learning_rate=1e-4,
             device="cpu", precision={precision!r}, descriptor="vector", features="none",
             save_every=1000, compile={compiled}, seed=0)
config = recipes.TrainConfig(**recipes.complete(given))
shape = dict(model={model!r}, height=128, width=64, identities=2, options={options})
if {model!r} == "residual":
    shape["options"]["descriptor"] = "vector"
state = training.build(config, shape, torch.device("cpu"))
if config.compile:
    training.compile_networks(state)
"""
OURS_STEP = """
samples = torch.arange(32)
def step():
    drawn = augment.draw(0, state.step, samples, (128, 64))
    training.train_step(config, state, batch | drawn)
    state.step += 1
"""
BATCH = """
torch.manual_seed(0)
images = torch.rand(2, 32, 3, 128, 64).mul(2).sub(1)
source, target = (x.contiguous(memory_format=torch.channels_last) for x in images)
pose = torch.rand(32, 25, 3) * torch.tensor([64, 128, 1])
batch = dict(source=source, target=target, source_pose=pose, target_pose=pose.flip(0),
             identity=torch.zeros(32, dtype=torch.long))
"""
TIMED = """
from collections import Counter
from torch.utils._python_dispatch import TorchDispatchMode
class Operations(TorchDispatchMode):
    count = 0
    def __torch_dispatch__(self, operation, types, given=(), options=None):
        infos = [argument.alias_info for argument in operation._schema.arguments]
        view = any(info is not None and not info.is_write for info in infos)
        self.count += not view and "empty" not in str(operation) and "detach" not in str(operation)
        return operation(*given, **(options or {{}}))
for _ in range({warm}):
    step()
began = time.perf_counter()
for _ in range({steps}):
    step()
found = dict(seconds=(time.perf_counter() - began) / {steps})
if {count}:  # of ten, as ours deforms its sources in one of these
    with Operations() as operations:
        for _ in range(10):
            step()
    found["operations"] = operations.count / 10
print(json.dumps(found))
"""


def measured(template: str, **settings) -> dict:
    """What a program prints as its last line, run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", template.format(**settings)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def versus(earlier: str, repeats: int, steps: int) -> None:
    """Both sides' images/s and operations, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(["git", "archive", earlier], cwd=ROOT, capture_output=True)
        subprocess.run(["tar", "x", "-C", folder], input=packed.stdout, check=True)
        for model in ("flow", "unet", "residual"):
            options = {"channels": 64} | ({"frozen": False} if model == "residual" else {})
            for precision in ("float32", "bfloat16"):
                if model != "flow" and precision != "float32":
                    continue
                common = {"model": model, "precision": precision, "options": options}
                common |= {"warm": 2, "steps": steps, "count": True}
                here = {"root": str(ROOT), "compiled": False}
                sides = {
                    earlier: (EARLIER + BATCH + EARLIER_STEP + TIMED, {"root": folder}),
                    "ours": (OURS + BATCH + OURS_STEP + TIMED, here),
                }
                found = {name: {} for name in sides}
                for _ in range(repeats):
                    for name, (template, settings) in sides.items():
                        one = measured(template, **common, **settings)
                        best = min(found[name].get("seconds", 9e9), one["seconds"])
                        found[name] = one | {"seconds": best}
                ratio = found[earlier]["seconds"] / found["ours"]["seconds"]
                for name, one in found.items():
                    print(
                        f"{model:8} {precision:8} {name:8} {32 / one['seconds']:6.1f} images/s, "
                        f"{one['operations']:,.0f} operations"
                    )
                print(f"{model:8} {precision:8} {ratio:.2f} x", flush=True)


def compilation(repeats: int, steps: int) -> None:
    """Ours with --compile beside ours without."""
    common = {"model": "flow", "options": {"channels": 64}, "root": str(ROOT), "count": False}
    template = OURS + BATCH + OURS_STEP + TIMED
    for precision in ("float32", "bfloat16"):
        best = dict.fromkeys((False, True), 9e9)
        for _ in range(repeats):
            for compiled in best:
                settings = {"compiled": compiled, "precision": precision, "warm": 3, "steps": steps}
                one = measured(template, **common, **settings)
                best[compiled] = min(best[compiled], one["seconds"])
        print(f"flow {precision} --compile: {best[False] / best[True]:.2f} x", flush=True)


RUN = """
import sys; sys.path.insert(0, {root!r})
import json, logging, tempfile, time
from posegan import checkpoints, losses, pairs, recipes, terminal, training
import torch
terminal.keep_memory()
torch.set_num_threads({threads})
given = dict(data={data!r}, root={data_root!r}, model="flow", run="", steps={steps},
             device="cpu", features="none", save_every=100000, compile=False, seed=0)
config = recipes.TrainConfig(**recipes.complete(given))
prepared = pairs.load({data!r}, {data_root!r})
shape = training.describe(config, prepared)
with checkpoints.processes(torch.device("cpu")) as (rank, world):
    state = training.build(config, shape, torch.device("cpu"))
    batches = pairs.Batches(prepared, prepared.pairs_train, 32, 0, torch.device("cpu"))
    stream, times = batches.stream(0, 1000, rank, world), []
    batch = next(stream)
    for step in range({steps}):
        began = time.perf_counter()
        batch = next(stream) if {real} else batch
        training.train_step(config, state, batch)
        state.step += 1
        times.append(time.perf_counter() - began)
    extra = dict(seconds=sorted(times)[len(times) // 2])
    if rank == 0 and world == 1 and {real}:
        import dataclasses
        from pathlib import Path
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder); (run / "samples").mkdir()
            began = time.perf_counter()
            training.save(run, config, dict(shape=shape), state)
            training.write_samples(run, state, prepared); training.write_curves(run, config)
            extra["saving"] = time.perf_counter() - began
            held = pairs.hold_out(prepared, training.HELD_OUT, 0, training.VALIDATED)[1]
            began = time.perf_counter()
            training.validate(state, prepared, held)
            extra["validating"] = time.perf_counter() - began
    if rank == 0:
        print(json.dumps(extra))
"""


def surroundings(data: str, root: str, steps: int) -> None:
    """Real data beside a repeated batch, two processes beside one, and what is not a step."""
    common = {"root": str(ROOT), "data": data, "data_root": root, "steps": steps}
    repeated = measured(RUN, real=False, threads=2, **common)
    real = measured(RUN, real=True, threads=2, **common)
    print(f"real data: {repeated['seconds'] / real['seconds']:.3f} of one repeated batch")
    every = 500  # steps between checkpoints and between validations, by default
    share = (real["saving"] + real["validating"]) / (every * real["seconds"])
    print(
        f"checkpoint and samples {real['saving']:.2f} s, validation {real['validating']:.2f} s: "
        f"{100 * share:.2f} % of the time at their defaults"
    )
    program = RUN.format(real=True, threads=1, **common)
    workers, settings = [], {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29533"}
    for rank in range(2):
        environment = os.environ | settings | {"RANK": str(rank)}
        command = [sys.executable, "-W", "ignore", "-c", program]
        workers.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE))
    two = json.loads(workers[0].communicate()[0].splitlines()[-1])
    workers[1].wait()
    print(f"two processes of one thread: {real['seconds'] / two['seconds']:.2f} x one of two")


@click.command()
@click.option("--earlier", default="474cfbd", show_default=True, help="Commit of the other side.")
@click.option("--data", default="market1501", show_default=True, help="Prepared data set.")
@click.option("--root", default="data", show_default=True, help="Its folder.")
@click.option("--repeats", default=3, show_default=True, help="Turns of each side.")
@click.option("--steps", default=10, show_default=True, help="Timed steps a turn, in tens.")
@click.option("--compile/--no-compile", "compiled", default=True, help="Measure --compile too.")
def main(earlier: str, data: str, root: str, repeats: int, steps: int, compiled: bool) -> None:
    versus(earlier, repeats, steps)
    surroundings(data, root, 3 * steps)
    if compiled:
        compilation(repeats, steps)


if __name__ == "__main__":
    main()
