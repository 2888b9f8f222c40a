"""Training and running a generator: settings, state, checkpoints, the loop, sample sheets."""

import contextlib
import dataclasses
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
import torch.distributed as dist
from click import ClickException
from PIL import Image
from torch import Tensor, nn

from posegan import augment, losses, models, pairs, poses

FORMAT = 2
ADAM_BETAS = (0.5, 0.999)  # the first author's
DECAY_EPOCHS = 20  # the learning rate is divided by 10 every so many epochs (RPT-GAN)
AVERAGE_DECAY = 0.999  # of the moving average of the generator's weights
LOG_EVERY_STEPS = 10
SHEET_PAIRS = 8


@dataclass(frozen=True)
class TrainConfig:
    """What `posegan train` was asked to do; defaults, ranges and help stand on its options."""

    data: str
    root: str
    model: str
    run: str
    steps: int
    batch_size: int
    learning_rate: float
    device: str
    precision: str
    channels: int
    descriptor_weights: str
    loss_weights: dict[str, float]
    augment: tuple[str, ...]
    save_every: int
    seed: int


@dataclass
class State:
    """Everything that changes during a run."""

    generator: nn.Module
    average: nn.Module  # exponential moving average of the generator: for samples and generation
    discriminator: nn.Module
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    perceptual: models.Descriptor | None = None  # frozen, so that no checkpoint holds it
    step: int = 0

    def parts(self) -> dict:
        """The parts that a checkpoint holds, by name."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("perceptual", "step")
        }


# ------------------------------------------------------------------------------ devices, processes


def pick_device(name: str) -> torch.device:
    """The device of that name ("auto": CUDA where there is one, else the CPU).

    Raises ClickException for a device this machine lacks.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ClickException(
            "--device cuda: PyTorch finds no CUDA device here; check the driver with nvidia-smi, "
            "or use --device cpu"
        )
    return (
        torch.device(name, int(os.environ.get("LOCAL_RANK", 0)))
        if name == "cuda"
        else (torch.device(name))
    )


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision as a switch: "auto" is bfloat16 on CUDA devices that compute in it."""
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bfloat16" if fast else "float32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@contextlib.contextmanager
def processes(device: torch.device):
    """Join the other processes torchrun started (RANK says whether it did); gives rank, world."""
    if "RANK" not in os.environ:
        yield 0, 1
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def average_gradients(network: nn.Module) -> None:
    """Replace gradients by their mean over all processes (nothing to do for one)."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients])):
        gradient.copy_(mean.view_as(gradient))


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any of the processes, which all hear the same."""
    if not dist.is_initialized():
        return flag
    together = torch.tensor(float(flag), device=device)
    dist.all_reduce(together, dist.ReduceOp.MAX)
    return bool(together)


def mean_of_processes(values: Tensor) -> Tensor:
    """Values by their mean over all processes."""
    if dist.is_initialized():
        dist.all_reduce(values)
        values = values / dist.get_world_size()
    return values


@contextlib.contextmanager
def interruptible():
    """Turn Ctrl-C and SIGTERM into a flag, so that a run stops between steps; gives the flag.

    A second signal stops at once, as without us; but not of several processes, as torchrun follows
    every Ctrl-C by a SIGTERM.
    """
    flag = []

    def stop(number, frame):
        flag.append(number)
        for one in previous if "RANK" not in os.environ else ():
            signal.signal(one, previous[one])

    previous = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    for one in previous:
        signal.signal(one, stop)
    try:
        yield flag
    finally:
        for one in previous:
            signal.signal(one, previous[one])


# ----------------------------------------------------------------------------- state, checkpoints


def build(config: TrainConfig, shape: dict, device: torch.device) -> State:
    """A fresh state: networks initialised from the seed, optimisers of the papers."""
    torch.manual_seed(config.seed)
    generator = build_generator(shape)
    discriminator = losses.OBJECTIVES[config.model].discriminator(
        shape["height"], shape["width"], shape["identities"], config.channels
    )
    for network in (generator, discriminator):
        network.to(device, memory_format=torch.channels_last)
    average = build_generator(shape).to(device, memory_format=torch.channels_last)
    average.eval().requires_grad_(False)

    def adam(network: nn.Module) -> torch.optim.Adam:
        trained = [p for p in network.parameters() if p.requires_grad]
        return torch.optim.Adam(trained, config.learning_rate, ADAM_BETAS, fused=True)

    return State(generator, average, discriminator, adam(generator), adam(discriminator))


def describe(config: TrainConfig, prepared: "pairs.Prepared") -> dict:
    """What a checkpoint must say of its networks so that they can be built again."""
    options = {"channels": config.channels}
    if config.model == "residual":
        options["frozen"] = config.descriptor_weights != "none"
    return {
        "model": config.model,
        "height": prepared.height,
        "width": prepared.width,
        "identities": prepared.identities,
        "options": options,
    }


def load_imagenet(config: TrainConfig, state: State, device: torch.device, resume: bool) -> None:
    """Fill in ResNet-50's weights, where the run has them: as descriptor, or for a loss."""
    if config.descriptor_weights == "none":
        return
    if config.model == "residual":
        if not resume:  # a checkpoint holds them
            models.load_descriptor_weights(state.generator.descriptor, config.descriptor_weights)
        return
    state.perceptual = models.Descriptor(state.generator.height, frozen=True)
    models.load_descriptor_weights(state.perceptual, config.descriptor_weights)
    state.perceptual.to(device, memory_format=torch.channels_last)


def build_generator(shape: dict) -> nn.Module:
    """The generator a checkpoint's `shape` describes, without its weights."""
    return models.GENERATORS[shape["model"]](shape["height"], shape["width"], **shape["options"])


def save(path: Path, config: TrainConfig, shape: dict, state: State) -> None:
    """Write a checkpoint beside `path` and rename it, so that a whole one is always there."""
    content = {
        "format": FORMAT,
        "config": {"train": dataclasses.asdict(config), "shape": shape},
        "state": {name: part.state_dict() for name, part in state.parts().items()}
        | {"step": state.step},
    }
    write_checkpoint(path, content)


def save_generator(path: Path, config: TrainConfig, shape: dict, state: State) -> None:
    """Write the averaged generator alone, in half precision: a small checkpoint to pass on.

    `generate` and `score` take it; training can't go on from it.
    """
    halves = {
        name: value.half() if value.is_floating_point() else value
        for name, value in state.average.state_dict().items()
    }
    content = {
        "format": FORMAT,
        "config": {"train": dataclasses.asdict(config), "shape": shape},
        "state": {"average": halves, "step": state.step},
    }
    write_checkpoint(path, content)


def write_checkpoint(path: Path, content: dict) -> None:
    """Write a file of tensors whole or not at all. Raises ClickException where it can't be."""
    beside = path.with_suffix(".partial")
    try:
        torch.save(content, beside)
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        beside.unlink(missing_ok=True)
        raise ClickException(
            f"{path}: the checkpoint can't be written ({str(error).splitlines()[0]}); free some "
            "space or choose another folder with --run"
        ) from None


def read_checkpoint(path: Path) -> dict:
    """Read a checkpoint: {"format", "config", "state"}. Raises ClickException if it is none."""
    content = models.read_state_dict(path)
    if not {"format", "config", "state"} <= content.keys():
        raise ClickException(
            f"{path}: a file of another kind, not a posegan checkpoint; train one with "
            "posegan train"
        )
    if content["format"] != FORMAT:
        raise ClickException(
            f"{path}: checkpoint format {content['format']}, this posegan reads {FORMAT}; use the "
            "posegan that wrote it"
        )
    return content


def restore(state: State, content: dict) -> None:
    """Put a checkpoint's values into a freshly built state."""
    for name, part in state.parts().items():
        part.load_state_dict(content["state"][name])
    state.step = content["state"]["step"]


def newest_checkpoint(runs: Path = Path("runs")) -> Path:
    """The checkpoint written last below `runs`. Raises ClickException where there is none."""
    found = sorted(runs.glob("*/latest.pt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ClickException(
            f"{runs}/: no checkpoint here yet; train one with posegan train, or name one with "
            "--checkpoint FILE"
        )
    return found[-1]


# ------------------------------------------------------------------------------ the loop


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step: divided by 10 every 20 epochs (RPT-GAN)."""
    return config.learning_rate * 0.1 ** (step // (DECAY_EPOCHS * steps_per_epoch))


def train(
    config: TrainConfig,
    prepared: "pairs.Prepared",
    resume: bool,
    report: Callable[[dict], None],
) -> tuple[Path, bool]:
    """Train a model until `config.steps`; gives its checkpoint and whether it came to the end.

    `report` gets each step's figures: step, images/s, losses. Raises ClickException where
    something the user can mend is in the way, and when a loss is not finite any more.
    """
    # Settings and devices.
    device = pick_device(config.device)
    run = Path(config.run)
    checkpoint = run / "latest.pt"
    shape = describe(config, prepared)
    with processes(device) as (rank, world), interruptible() as stopped:
        # Data: a step's batch follows from (seed, step, rank).
        batches = pairs.Batches(prepared, "train", config.batch_size, config.seed, rank, world)

        samples = rank + world * torch.arange(config.batch_size, device=device)

        # Model.
        state = build(config, shape, device)
        load_imagenet(config, state, device, resume)
        if resume:
            content = read_checkpoint(checkpoint)
            if content["config"]["shape"] != shape:
                raise ClickException(
                    f"{checkpoint}: trained on other data than {prepared.path} holds now; prepare "
                    "that again, or start another run with --run"
                )
            restore(state, content)
        else:
            state.average.load_state_dict(state.generator.state_dict())
        if rank == 0:
            open_log(run, state.step)

        # Loop.
        first = state.step
        since, began = first, time.perf_counter()  # of the last line in the log
        while state.step < config.steps and not any_process(bool(stopped), device):
            rate = learning_rate(config, state.step, batches.per_epoch)
            set_rates(config, state, rate)
            batch = pairs.to_device(batches[state.step], device)
            batch = augment.augment(batch, config.augment, config.seed, state.step, samples)
            torch.manual_seed(step_seed(config.seed, state.step, rank))
            terms = train_step(config, state, batch, autocast(device, config.precision))
            state.step += 1
            figures = {"step": state.step, "learning_rate": rate}
            values = mean_of_processes(torch.stack(list(terms.values()))).tolist()
            figures |= {name: round(value, 5) for name, value in zip(terms, values)}
            check_finite(figures, config)
            done = (state.step - since) * config.batch_size * world
            figures["images_per_second"] = round(done / (time.perf_counter() - began), 2)
            if rank == 0:
                report(figures)
            if state.step % LOG_EVERY_STEPS == 0 or state.step == config.steps:
                since, began = state.step, time.perf_counter()
                if rank == 0:
                    with writing(run), open(run / "log.jsonl", "a") as log:
                        log.write(json.dumps(figures) + "\n")
            if rank == 0 and state.step % config.save_every == 0 and state.step < config.steps:
                save(checkpoint, config, shape, state)
                write_samples(run, state, prepared)

        # End, or an interruption: both leave a run that can be resumed.
        if rank == 0 and state.step > first:
            save(checkpoint, config, shape, state)
            save_generator(run / "generator.pt", config, shape, state)
            write_samples(run, state, prepared)
    return checkpoint, state.step >= config.steps


def train_step(
    config: TrainConfig, state: State, batch: dict, mixed: contextlib.AbstractContextManager
) -> dict[str, Tensor]:
    """One step of both networks on a batch of images in [-1, 1]; gives the losses by name.

    Networks run forward in the context `mixed`. Draws come from torch's global generator, which the
    caller seeds.
    """
    objective = losses.OBJECTIVES[config.model]
    state.generator.train()
    with mixed:
        image, made = objective.synthesise(state.generator, batch)

    with mixed:
        judgement = objective.discriminate(state.discriminator, batch, image.detach())
    descend(state.discriminator, state.discriminator_optimizer, judgement)

    # The generator's gradient passes through the discriminator but must not be stored in it.
    state.discriminator.requires_grad_(False)
    with mixed:
        terms = objective.criticise(state.generator, state.discriminator, batch, image, made)
        if state.perceptual is not None:
            terms["perceptual"] = losses.perceptual_loss(state.perceptual, image, batch["target"])
    total = sum(config.loss_weights[name] * loss for name, loss in terms.items())
    descend(state.generator, state.generator_optimizer, total)
    state.discriminator.requires_grad_(True)

    update_average(state)
    return {name: loss.detach() for name, loss in terms.items()} | {
        "discriminator": judgement.detach()
    }


def descend(network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    average_gradients(network)
    optimizer.step()


@torch.no_grad()
def update_average(state: State) -> None:
    """Move the averaged generator towards the trained one; quicker in the first steps."""
    weight = 1 - min(AVERAGE_DECAY, (1 + state.step) / (10 + state.step))
    trained = [p for p in state.generator.parameters() if p.requires_grad]
    averaged = [
        a
        for a, p in zip(state.average.parameters(), state.generator.parameters())
        if p.requires_grad
    ]
    torch._foreach_lerp_(averaged, trained, weight)
    for a, b in zip(state.average.buffers(), state.generator.buffers()):
        a.copy_(b)


def step_seed(seed: int, step: int, rank: int) -> int:
    """A seed that follows from (seed, step, rank) alone, well spread."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def set_rates(config: TrainConfig, state: State, rate: float) -> None:
    """Set the learning rates of a step."""
    factor = losses.OBJECTIVES[config.model].discriminator_rate
    optimizers = (state.generator_optimizer, rate), (state.discriminator_optimizer, factor * rate)
    for optimizer, one in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = one


def check_finite(figures: dict, config: TrainConfig) -> None:
    bad = [name for name, value in figures.items() if not math.isfinite(value)]
    if bad:
        raise ClickException(
            f"step {figures['step']}: the {bad[0]} loss is not finite; --resume from the last "
            f"checkpoint with a lower --learning-rate than {config.learning_rate:g}, or with "
            "--precision float32"
        )


@contextlib.contextmanager
def writing(run: Path):
    """Turn what keeps a run from being written into one line."""
    try:
        yield
    except OSError as error:
        raise ClickException(
            f"{run}: can't be written ({error.strerror or error}); free some space, or choose "
            "another folder with --run"
        ) from None


def open_log(run: Path, step: int) -> None:
    """Make the run's folder and cut its log behind `step`, where a resumed run goes on."""
    log = run / "log.jsonl"
    with writing(run):
        (run / "samples").mkdir(parents=True, exist_ok=True)
        lines = log.read_text().splitlines() if log.exists() else []
        kept = []
        for line in lines:
            with contextlib.suppress(ValueError):  # a line that a crash cut off
                if json.loads(line)["step"] <= step:
                    kept.append(line)
        log.write_text("".join(line + "\n" for line in kept))


# ------------------------------------------------------------------------------ running a generator


def load_generator(path: Path, device: torch.device) -> nn.Module:
    """The averaged generator of a checkpoint, ready to run (only); it knows its height and width.

    Raises ClickException for a file that is no checkpoint of ours.
    """
    content = read_checkpoint(path)
    try:
        generator = build_generator(content["config"]["shape"])
        generator.load_state_dict(content["state"]["average"])
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise ClickException(
            f"{path}: its model can't be rebuilt by this posegan; use the posegan that wrote it, "
            "or train anew"
        ) from None
    return models.fused(generator).to(device, memory_format=torch.channels_last)


@torch.inference_mode()
def generate(
    generator: nn.Module, source: Tensor, target_pose: Tensor, source_pose: Tensor | None = None
) -> Tensor:
    """Run a generator on pictures: source uint8 (B, 3, H, W) to uint8 (B, 3, H, W) on its device.

    Computes in bfloat16 on CUDA, in float32 on the CPU. Raises ClickException where NaN comes out.
    """
    device = next(generator.parameters()).device
    move = [pairs.normalise(source.to(device)), target_pose.to(device)]
    move.append(source_pose if source_pose is None else source_pose.to(device))
    with autocast(device, "auto"):
        generated = generator(*move)  # (B, 3, H, W) in [-1, 1]
    if not generated.isfinite().all():
        raise ClickException(
            "the model makes pictures of NaN: its training went astray; name an earlier checkpoint "
            "with --checkpoint, or train anew with a lower --learning-rate"
        )
    return to_levels(generated)


def to_levels(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def scored_batches(
    prepared: "pairs.Prepared",
    generator: nn.Module,
    limit: int | None,
    corruption: tuple[str, int] | None = None,
) -> Iterator[dict]:
    """The first `limit` test pairs in batches, with `generated`, `baselines` and `names` (B, 2).

    The baselines are images by name, the names the files of source and target; sources are spoilt
    by a corruption (kind and severity). Raises ClickException for pictures of another size than the
    generator's, and where there are no pairs.
    """
    if (prepared.height, prepared.width) != (generator.height, generator.width):
        raise ClickException(
            f"{prepared.path}: images of {prepared.height}x{prepared.width}, the model makes "
            f"{generator.height}x{generator.width}; name a checkpoint trained on this data with "
            "--checkpoint"
        )
    chosen = prepared.pairs_test[:limit]
    if not len(chosen):
        raise ClickException(f"{prepared.path}: no test pairs; prepare more people")
    mean = pairs.mean_image(prepared)  # (3, H, W)
    for start in range(0, len(chosen), pairs.CHUNK):
        part = chosen[start : start + pairs.CHUNK]
        batch = pairs.gather(prepared, part)
        if corruption:
            sides = ("source", "source_pose")
            names = prepared.files[part[:, 0]]
            spoilt = corrupt_pictures(*(batch[side] for side in sides), corruption, names)
            batch |= dict(zip(sides, spoilt))
        source, pose = batch["source"], batch["target_pose"]
        batch["generated"] = generate(generator, source, pose, batch["source_pose"]).cpu()
        batch["baselines"] = {"source": source, "mean": mean.expand_as(source)}
        batch["names"] = prepared.files[part]  # (B, 2)
        yield batch


def corrupt_pictures(
    pictures: Tensor, pose: Tensor, corruption: tuple[str, int], names: Iterable[str]
) -> tuple[Tensor, Tensor]:
    """uint8 pictures (B, 3, H, W) and their poses under a corruption (kind and severity).

    A picture's key, by `pairs.picture_key` of its file name, decides what it draws: in however many
    pairs it is, it is spoilt in the same way.
    """
    keys = (os.fsencode(pairs.picture_key(name)) for name in names)
    samples = torch.tensor([crc32(key) >> 1 for key in keys])
    spoilt, pose = augment.corrupt(pairs.normalise(pictures), pose, *corruption, samples)
    return to_levels(spoilt), pose


# ------------------------------------------------------------------------------ sheets


@torch.inference_mode()
def explain(
    generator: nn.Module, source: Tensor, target_pose: Tensor, source_pose: Tensor | None = None
) -> list[list[np.ndarray]]:
    """Of each picture the flow in colours, the visibility and the warped source, (H, W, 3).

    Arguments as for `generate`. Raises ClickException for a model without a flow.
    """
    if not isinstance(generator, models.FlowGenerator):
        raise ClickException(
            "--show-flow: this checkpoint's model has no flow; train one with posegan train "
            "--model flow, or name one with --checkpoint"
        )
    device = next(generator.parameters()).device
    source, target_pose = pairs.normalise(source.to(device)), target_pose.to(device)
    source_pose = source_pose if source_pose is None else source_pose.to(device)
    with autocast(device, "auto"):  # as `generate`
        made = generator.synthesise(source, target_pose, source_pose)
    flows = [poses.draw_flow(flow) for flow in made.found.flows[3].float().cpu().numpy()]
    visibility = to_pictures(to_levels(2 * made.found.visibilities[3] - 1).expand_as(made.image))
    warped = to_pictures(to_levels(made.warped))
    return [list(row) for row in zip(flows, visibility, warped)]


class Extremes:
    """Keeps the rows of pictures with the lowest and the highest score, `count` of each."""

    def __init__(self, count: int):
        self.count = count
        self._kept: list[tuple[float, int, list[np.ndarray]]] = []  # score, place, row
        self._seen = 0

    def add(self, scores: Tensor, rows: Iterable[list[np.ndarray]]) -> None:
        """Add a batch: scores (B,) and as many rows; NaN is left out."""
        for score, row in zip(scores.tolist(), rows, strict=True):
            self._seen += 1
            if not math.isnan(score):
                row = [picture.copy() for picture in row]  # a view would keep its whole batch
                self._kept.append((score, self._seen, row))
        self._kept.sort(key=lambda one: one[:2])
        if len(self._kept) > 2 * self.count:
            self._kept[self.count : -self.count] = []

    def rows(self) -> list[list[np.ndarray]]:
        """The kept rows, lowest score first."""
        return [row for _, _, row in self._kept]


def write_samples(run: Path, state: State, prepared: "pairs.Prepared") -> None:
    """Write `samples/STEP.png`: source, target pose, target and generated for a few test pairs.

    Of training pairs where there are none for testing.
    """
    known = prepared.pairs_test if len(prepared.pairs_test) else prepared.pairs_train
    chosen = np.linspace(0, len(known) - 1, SHEET_PAIRS).astype(int)
    batch = pairs.gather(prepared, known[np.unique(chosen)])
    made = generate(state.average, batch["source"], batch["target_pose"], batch["source_pose"])
    made, pose = to_pictures(made), batch["target_pose"].numpy()
    source, target = to_pictures(batch["source"]), to_pictures(batch["target"])
    quads = [poses.comparison(*four) for four in zip(source, pose, target, made)]
    rows = [list(chain(*quads[i : i + 2])) for i in range(0, len(quads), 2)]
    zoom = max(1, 128 // prepared.height)
    with writing(run):
        Image.fromarray(poses.sheet(rows, zoom)).save(run / "samples" / f"{state.step:06d}.png")


def to_pictures(images: Tensor) -> np.ndarray:
    """uint8 tensors (B, 3, H, W) on any device as arrays (B, H, W, 3)."""
    return images.permute(0, 2, 3, 1).cpu().numpy()
