"""The settings of a run and their defaults. Imports nothing, so that help is instant.

The reasons for the numbers are in EXPERIMENTS.md.
"""

from dataclasses import dataclass

MODELS = ("flow", "residual", "unet")
DESCRIPTORS = ("map", "vector")
FEATURES = ("lite0", "resnet50", "none")  # or a file of ResNet-50's weights
# RPT-GAN's, except that its padding is fixed, as a pooled descriptor's is; ours is "shrinking".
AUGMENTATIONS = ("shrinking", "erasing", "crop", "jitter", "flip", "distortion")
# RECIPE makes the best pictures; RESIDUAL trains within the hour on two cores; PAPER is RPT-GAN to
# the letter; DEMO shows something within a minute on a CPU.
RECIPE = {
    "model": "flow",
    "descriptor": "map",
    "features": "lite0",
    "channels": 64,
    "steps": 5000,
    "batch_size": 32,
    "learning_rate": 1e-3,
    "augment": AUGMENTATIONS,
}
RESIDUAL = RECIPE | {"channels": 32, "steps": 2400}
PAPER = RECIPE | {"features": "resnet50", "steps": None, "learning_rate": 2e-4}
PAPER_EPOCHS = 60  # ours: the paper says how the learning rate falls, not when training ends
START_RATE = 4e-4  # learning rate of a run that starts from a trained generator
DEMO = RECIPE | {"features": "none", "steps": 200, "augment": ()}
ADVERSARIAL_OF_FEATURES = {"adversarial": 0.3, "perceptual": 1.0}
LOSS_WEIGHTS = {
    "paper": {"reconstruction": 1.0, "adversarial": 1e-3},
    "flow": {"reconstruction": 10.0, "similarity": 9.5, "person": 5.0, "gradients": 40.0}
    | {"contrast": 40.0, "coarse": 2.0, "photometric": 1.0, "smoothness": 0.2}
    | {"deformation": 0.1, "layout": 0.5, "matching": 4.0}
    | ADVERSARIAL_OF_FEATURES,
    "residual": {"reconstruction": 10.0, "similarity": 4.0} | ADVERSARIAL_OF_FEATURES,
    "unet": {"reconstruction": 100.0, "adversarial": 1.0, "matching": 0.0, "perceptual": 0.0},
}


@dataclass(frozen=True)
class TrainConfig:
    """The settings of `posegan train`; its options define their ranges and help."""

    data: str
    root: str
    run: str
    model: str
    descriptor: str  # of `residual`
    features: str  # "lite0", "resnet50", a file of ResNet-50's weights, or "none"
    channels: int
    steps: int
    batch_size: int  # over all processes
    learning_rate: float
    augment: tuple[str, ...]
    save_every: int
    compile: bool
    seed: int
    loss_weights: dict[str, float]
    start: str = ""  # checkpoint file whose generator the run starts from
    device: str = "auto"
    precision: str = "auto"  # or "float32", "bfloat16"; auto: whichever the device is fast in

    @property
    def to_the_letter(self) -> bool:
        """Whether it trains with RPT-GAN's own losses, discriminator and learning rate."""
        return to_the_letter(self.model, self.descriptor, self.features)


def to_the_letter(model: str, descriptor: str, features: str) -> bool:
    """Whether these settings mean RPT-GAN's own losses: the paper's vector, or no features."""
    return model == "residual" and (descriptor == "vector" or features == "none")


def shown(name: str) -> str:
    """An option's default as help shows it; `vector` is shown where it differs from `residual`."""
    default, residual, vector, demo = (one[name] for one in (RECIPE, RESIDUAL, PAPER, DEMO))
    text = str(default)
    if residual != default:
        text += f"; residual: {residual}"
    if vector != residual:
        text += f"; vector: {vector or f'{PAPER_EPOCHS} epochs'}"
    return text if demo == default else f"{text}; demo: {demo}"


def complete(given: dict) -> dict:
    """Settings, with the defaults for their data and model; `steps` None means PAPER_EPOCHS."""
    known = RECIPE
    if given.get("model") == "residual":
        known = PAPER if given.get("descriptor") == "vector" else RESIDUAL
    if given["data"] == "demo":
        known = DEMO
    if given.get("start"):
        known = known | {"learning_rate": START_RATE}
    settings = known | given
    names = settings["model"], settings["descriptor"], settings["features"]
    weights = LOSS_WEIGHTS["paper" if to_the_letter(*names) else settings["model"]]
    return {"loss_weights": weights} | settings
