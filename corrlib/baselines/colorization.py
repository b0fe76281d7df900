"""Video colorization (Vondrick et al., ECCV 2018), as a setting of our own model.

What the lectures' tables call video colorization differs from CorrFlow in three things: frames
come in grey, nothing is hidden at random, and attention is over whole frames. So it is our model
without a bottleneck, restriction, scheduled sampling or cycle, trained on grey frames; inference
copies from the three latest frames through the softmax over all of their cells, at 256 pixels and
half of the temperature of training.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from corrlib.baselines.features import trained
from corrlib.errors import InputError
from corrlib.evaluation import Method
from corrlib.propagation import PropagationConfig, propagate_mask
from corrlib.weights import WEIGHTS, load_weights

COLORIZATION = PropagationConfig(
    references=3,
    first=False,
    radius=None,
    topk=None,
    temperature=None,
    unit_features=None,
    short_side=256,
)
"""Its inference, over the whole of the three latest frames; the temperature is the extractor's."""

SHARPENING = 0.5
"""Of the temperature, for tracking (the paper's is 1 in training and 0.5 after). A softmax over all
cells gives each of thousands of wrong ones a little, and that adds up from frame to frame."""

RELEASED = WEIGHTS / "video-colorization.safetensors"


def video_colorization(
    weights: str | Path = RELEASED,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
) -> Method:
    """The method, from a file of weights that were trained so.

    Raises:
        InputError: no such weights.
    """
    try:
        model = load_weights(weights)
    except InputError as error:
        raise InputError(f"video colorization needs weights of its own: {error}") from error
    extractor = trained(model.to(device), precision)
    extractor = replace(extractor, temperature=SHARPENING * extractor.temperature)
    return partial(propagate_mask, extractor=extractor, config=COLORIZATION, device=device)
