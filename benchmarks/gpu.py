"""Training on a GPU: images/s, how busy the card is, and what share of its matrix rate it reaches.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --steps 1 --batch 4 --small  # tries the script itself

Random pairs that lie on the device; bfloat16. Busy is the profiler's kernel time over the time of
the same steps. The matrix rate is that of one large bfloat16 product in the same run.
"""

import time

import click
import race  # noqa: F401, first: the modules are this checkout's
import torch
from torch.utils.flop_counter import FlopCounterMode

from posegan import augment, recipes, training


def random_batch(size: tuple[int, int], count: int, device: torch.device) -> dict:
    """What `Batches.fetch` gives, of noise."""
    H, W = size
    pose = torch.rand(count, 25, 3, device=device) * torch.tensor([W, H, 1.0], device=device)
    images = [torch.rand(count, 3, H, W, device=device) * 2 - 1 for _ in range(2)]
    batch = dict(zip(("source", "target"), images))
    batch |= {"source_pose": pose, "target_pose": pose.flip(0)}
    batch |= {"identity": torch.zeros(count, dtype=torch.long, device=device)}
    return batch | augment.draw(0, 0, torch.arange(count, device=device), size)


class Loop:
    """A model's training on one batch: `step()` is a step of it, `flops` what one computes."""

    def __init__(self, model: str, size: tuple[int, int], count: int, compiled: bool, device):
        given = {"data": "none", "root": "", "run": "", "model": model, "batch_size": count}
        given |= {"steps": 10**6, "save_every": 1, "seed": 0, "compile": compiled}
        given |= {"features": "none", "precision": "bfloat16", "device": device.type}
        self.config = recipes.TrainConfig(**recipes.complete(given))
        options = {"channels": 64} | ({"frozen": True} if model == "residual" else {})
        shape = {"model": model, "height": size[0], "width": size[1], "identities": 751}
        self.state = training.build(self.config, shape | {"options": options}, device)
        if self.config.compile:
            training.compile_networks(self.state)
        self.batch = random_batch(size, count, device)

    def step(self) -> None:
        training.train_step(self.config, self.state, self.batch)
        self.state.step += 1

    def flops(self) -> int:
        with FlopCounterMode(display=False) as counted:
            self.step()
        return counted.get_total_flops()


def waited(device: torch.device) -> float:
    """Seconds, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(call, count: int, device: torch.device) -> float:
    """Mean seconds of a call, after three to warm up."""
    for _ in range(3):
        call()
    start = waited(device)
    for _ in range(count):
        call()
    return (waited(device) - start) / count


def busy(loop: Loop, count: int, device: torch.device) -> float:
    """The share of the time in which the card computes."""
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        took = seconds_of(loop.step, count, device) * (count + 3)
    kernels = sum(one.self_device_time_total for one in profile.key_averages())  # microseconds
    return kernels / 1e6 / took


@click.command()
@click.option("--device", default="cuda", show_default=True)
@click.option("--steps", default=50, show_default=True)
@click.option("--batch", "batches", multiple=True, default=(32, 128, 512), show_default=True)
@click.option("--small", is_flag=True, help="Of the matrix: to try the script.")
def main(device: str, steps: int, batches: tuple[int, ...], small: bool) -> None:
    device = torch.device(device)
    for batch in batches:
        for compiled in (False, True) if device.type == "cuda" else (False,):
            loop = Loop("flow", (128, 64), batch, compiled, device)
            rate = batch / seconds_of(loop.step, steps, device)
            share = f"busy {busy(loop, steps, device):.0%}" if device.type == "cuda" else ""
            how = "--compile" if compiled else "plain"
            print(f"flow 128x64, batch {batch}, {how}: {rate:,.0f} images/s {share}", flush=True)

    side = 512 if small else 8192
    a, b = (torch.rand(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    peak = 2 * side**3 / seconds_of(lambda: a @ b, steps, device)
    loop = Loop("residual", (256, 256), batches[0], device.type == "cuda", device)
    flops = Loop("residual", (256, 256), batches[0], False, device).flops()
    reached = flops / seconds_of(loop.step, steps, device)
    print(f"residual 256x256: {reached / 1e12:.1f} of {peak / 1e12:.1f} TFLOP/s", flush=True)

    batch = random_batch((128, 64), batches[-1], device)
    took = seconds_of(lambda: augment.augment(batch, augment.AUGMENTATIONS), steps, device)
    print(f"augmentation 128x64: {batches[-1] / took:,.0f} images/s")


if __name__ == "__main__":
    main()
