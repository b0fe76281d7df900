"""DINO ViT-S/8 (Caron et al., ICCV 2021): a transformer's patch tokens as features.

The transformer is torchvision's; the weights' names are those of the authors and of timm, whose
safetensors conversion is what is downloaded. Position embeddings are stretched to the frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from corrlib.baselines.features import Normalisation, network
from corrlib.encoders import IMAGENET_MEAN, IMAGENET_STD
from corrlib.errors import InputError
from corrlib.fetch import DINO, download, one_line
from corrlib.propagation import FeatureExtractor

_NAMES = {  # ours: theirs; entries of a block follow its number
    "class_token": "cls_token",
    "encoder.pos_embedding": "pos_embed",
    "conv_proj": "patch_embed.proj",
    "encoder.ln": "norm",
    "ln_1": "norm1",
    "self_attention.in_proj_": "attn.qkv.",
    "self_attention.out_proj": "attn.proj",
    "ln_2": "norm2",
    "mlp.0": "mlp.fc1",
    "mlp.3": "mlp.fc2",
}


class DinoViT(nn.Module):
    """Frames ``(B, 3, H, W)`` in [0, 1] to the last layer's patch tokens ``(B, 384, H/8, W/8)``.

    As in the authors' evaluation on DAVIS: after the final layer norm, without the class token.
    """

    stride, channels = 8, 384

    def __init__(self):
        super().__init__()
        self.normalise = Normalisation(IMAGENET_MEAN, IMAGENET_STD)
        self.vit = VisionTransformer(
            image_size=224,
            patch_size=self.stride,
            num_layers=12,
            num_heads=6,
            hidden_dim=self.channels,
            mlp_dim=4 * self.channels,
        )
        self.vit.heads = nn.Identity()

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        patches = self.vit.conv_proj(self.normalise(frames))  # (B, 384, h, w)
        height, width = patches.shape[2:]
        tokens = patches.flatten(2).transpose(1, 2)
        first = self.vit.class_token.expand(len(tokens), -1, -1)
        x = torch.cat([first, tokens], dim=1) + self._positions(height, width)
        x = self.vit.encoder.ln(self.vit.encoder.layers(x))
        return x[:, 1:].transpose(1, 2).unflatten(2, (height, width))

    def _positions(self, height: int, width: int) -> torch.Tensor:
        """``(1, 1 + h·w, 384)``; the trained ones are on a 28x28 grid."""
        first, grid = self.vit.encoder.pos_embedding.split([1, 28 * 28], dim=1)
        grid = grid.transpose(1, 2).unflatten(2, (28, 28))
        if (height, width) != (28, 28):
            grid = F.interpolate(grid, (height, width), mode="bicubic")
        return torch.cat([first, grid.flatten(2).transpose(1, 2)], dim=1)


def load_dino(model: DinoViT, state: Mapping[str, torch.Tensor]) -> None:
    """Load a state dict with the authors' (and timm's) names.

    Raises:
        InputError: an entry that is absent or of another shape.
    """
    renamed = {}
    for name, own in model.vit.state_dict().items():
        theirs = name.replace("encoder.layers.encoder_layer_", "blocks.")
        for ours, other in _NAMES.items():
            theirs = theirs.replace(ours, other)
        if theirs not in state or state[theirs].shape != own.shape:
            raise InputError(
                f"expected the weights of DINO's ViT-S/8, {theirs} is absent or not of shape "
                f"{tuple(own.shape)}"
            )
        renamed[name] = state[theirs]
    model.vit.load_state_dict(renamed)


def dino_features(
    path: str | Path | None = None,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
) -> FeatureExtractor:
    """DINO ViT-S/8's last layer, 384 channels at stride 8.

    Every token attends to every other: at 480p a frame takes some 10 seconds on a CPU core.

    Args:
        path: a safetensors file, or a state dict of the authors (``.pth``); ``None`` downloads
            87 MB once, to where torchvision keeps its weights, and verifies them.
        device, precision: of the transformer.

    Raises:
        InputError: no such file, other weights, or no network.
    """
    if path is None:
        path = download(DINO, Path(torch.hub.get_dir()) / "checkpoints")
    path = Path(path)
    if not path.is_file():
        raise InputError(f"expected a file with DINO's ViT-S/8 weights, {path} is none")
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises all sorts for what is no state dict
        raise InputError(
            f"expected a complete file with DINO's ViT-S/8 weights, {path} is not one "
            f"({one_line(error)[:200]})"
        ) from error
    model = DinoViT()
    load_dino(model, state)
    return network("dino", model.to(device).eval(), model.channels, precision)
