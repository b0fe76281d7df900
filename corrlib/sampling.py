"""Scheduled sampling: let the model copy from its own copies, more and more often.

At test time every frame is copied from labels that were themselves copied. A model that only ever
copied true labels has never met its own errors, and they add up (Lai & Xie 2019, §3.3, after
Bengio et al. 2015). So a reference's labels are the true ones with probability ε, else what the
model has just reconstructed, and ε falls while it learns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from corrlib.errors import InputError


@dataclass(frozen=True)
class ScheduledSampling:
    """ε as a linear function of how much of the training is done.

    Attributes:
        start, end: probability of the true labels at the beginning and at the end (0.9 and 0.6
            in CorrFlow; 1 and 1 is training without scheduled sampling).
    """

    start: float = 0.9
    end: float = 0.6

    def __post_init__(self):
        for name, p in (("start", self.start), ("end", self.end)):
            if not 0 <= p <= 1:
                raise InputError(f"expected a {name} probability between 0 and 1, got {p}")

    def probability(self, share: float) -> float:
        """ε after a ``share`` of the training, 0 to 1."""
        return self.start + (self.end - self.start) * share

    def choose(
        self,
        truth: torch.Tensor,
        own: torch.Tensor,
        share: float,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """The labels to copy next: each clip's true ones with probability ε, else its own.

        Args:
            truth, own: ``(B, K, h, w)``.
            share: of the training that is done.
            generator: on the CPU.
        """
        draws = torch.rand(truth.shape[0], 1, 1, 1, generator=generator)
        chosen = (draws < self.probability(share)).to(truth.device, non_blocking=True)
        return torch.where(chosen, truth, own)
