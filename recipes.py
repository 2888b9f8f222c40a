"""What a run is asked to do, and its defaults. Imports nothing, so that help answers at once.

Why the numbers are what they are: EXPERIMENTS.md.
"""

from dataclasses import dataclass

MODELS = ("flow", "residual", "unet")
DESCRIPTORS = ("map", "vector")
FEATURES = ("lite0", "resnet50", "none")  # or a file of ResNet-50's weights
# RPT-GAN's, but that its padding is a fixed one, which a pooled descriptor has; ours shrinks.
AUGMENTATIONS = ("shrinking", "erasing", "crop", "jitter", "flip", "distortion")
# What makes the best pictures; `residual` as far as two cores train it within the hour; RPT-GAN to
# the letter; and what shows something within a minute of a CPU's time.
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
PAPER_EPOCHS = 60  # ours: the paper says how the learning rate falls, not when it ends
START_RATE = 4e-4  # of a run that begins with a trained generator
DEMO = RECIPE | {"features": "none", "steps": 200, "augment": ()}
ADVERSARIAL_OF_FEATURES = {"adversarial": 0.3, "perceptual": 1.0}
LOSS_WEIGHTS = {
    "paper": {"reconstruction": 1.0, "adversarial": 1e-3},
    "flow": {"reconstruction": 10.0, "similarity": 8.0, "gradients": 25.0, "coarse": 2.0}
    | {"photometric": 1.0, "smoothness": 0.2, "deformation": 0.1, "layout": 0.5, "matching": 4.0}
    | ADVERSARIAL_OF_FEATURES,
    "residual": {"reconstruction": 10.0, "similarity": 4.0} | ADVERSARIAL_OF_FEATURES,
    "unet": {"reconstruction": 100.0, "adversarial": 1.0, "matching": 0.0, "perceptual": 0.0},
}


@dataclass(frozen=True)
class TrainConfig:
    """What `posegan train` was asked to do; ranges and help stand on its options."""

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
    start: str = ""  # file of a checkpoint whose generator it begins with
    device: str = "auto"
    precision: str = "auto"  # or "float32", "bfloat16"; auto: what the device is quick in

    @property
    def to_the_letter(self) -> bool:
        """Is it trained with RPT-GAN's own losses, discriminator and learning rate?"""
        return to_the_letter(self.model, self.descriptor, self.features)


def to_the_letter(model: str, descriptor: str, features: str) -> bool:
    """Are these the settings of RPT-GAN as the paper has it, or without features to judge by?"""
    return model == "residual" and (descriptor == "vector" or features == "none")


def shown(name: str) -> str:
    """What help shows as the default of an option; `vector` departs from `residual`."""
    default, residual, vector, demo = (one[name] for one in (RECIPE, RESIDUAL, PAPER, DEMO))
    text = str(default)
    if residual != default:
        text += f"; residual: {residual}"
    if vector != residual:
        text += f"; vector: {vector or f'{PAPER_EPOCHS} epochs'}"
    return text if demo == default else f"{text}; demo: {demo}"


def complete(given: dict) -> dict:
    """Settings with the defaults of their data and model; `steps` stays None for PAPER_EPOCHS."""
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
