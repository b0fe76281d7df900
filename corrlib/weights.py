"""Weights files: what a method learnt, with everything needed to use it and to train it again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from corrlib.colour_autoencoder import AutoencoderConfig, ColourAutoencoder
from corrlib.corrflow import CorrFlow, CorrFlowConfig
from corrlib.crw import CRW, CRWConfig
from corrlib.errors import InputError
from corrlib.files import atomic_path
from corrlib.joint import Joint, JointConfig

WEIGHTS = Path(__file__).resolve().parent.parent / "data" / "weights"

Method = CorrFlow | CRW | ColourAutoencoder | Joint
"""Anything that is trained: a module with ``Config``, ``Losses``, ``prepare``, ``features`` and
``loss``."""
MethodConfig = CorrFlowConfig | CRWConfig | AutoencoderConfig | JointConfig
METHODS: dict[str, type[Method]] = {
    "corrflow": CorrFlow,
    "crw": CRW,
    "colour-autoencoder": ColourAutoencoder,
    "joint": Joint,
}


def method_name(config: MethodConfig) -> str:
    """The name of the method that a configuration belongs to."""
    return next(name for name, method in METHODS.items() if isinstance(config, method.Config))


def save_weights(model: Method, path: str | Path, **about: object) -> None:
    """Write the model with its configuration, and whatever else should be known of it.

    Floating-point values are stored in fp16, which halves the file and changes features by about
    a thousandth; a checkpoint, not a weights file, continues a training run.
    """
    metadata = {"method": method_name(model.config), "config": json.dumps(asdict(model.config))}
    metadata |= {key: json.dumps(value) for key, value in about.items()}
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(
            {
                name: (value.half() if value.is_floating_point() else value).contiguous()
                for name, value in model.state_dict().items()
            },
            temporary,
            metadata=metadata,
        )


def load_weights(source: str | Path) -> Method:
    """A model in eval mode, from a file or by the name of released weights.

    Raises:
        InputError: no such file or name, a truncated or foreign file, or weights that do not fit.
    """
    path = Path(source)
    if not path.is_file():
        released = {weights.stem: weights for weights in sorted(WEIGHTS.glob("*.safetensors"))}
        if str(source) not in released:
            names = ", ".join(released) or "none here"
            raise InputError(
                f"expected a weights file or the name of released weights ({names}), got {source}"
            )
        path = released[str(source)]
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        state = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(
            f"expected a complete safetensors file, {path} is not one ({error}); "
            "train or fetch the weights again"
        ) from error
    method = METHODS.get(metadata.get("method"))
    if method is None:
        raise InputError(
            f"expected weights of {' or '.join(METHODS)}, {path} holds "
            f"{metadata.get('method', 'something else')}"
        )
    try:
        model = method(method.Config.of(json.loads(metadata["config"])), torch.Generator())
        model.load_state_dict(
            {
                name: value.float() if value.is_floating_point() else value
                for name, value in state.items()
            }
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the weights in {path} do not fit this version: {reason}") from error
    # On the CPU in bf16, and on tensor cores, convolutions are twice as fast in this layout.
    return model.to(memory_format=torch.channels_last).eval()
