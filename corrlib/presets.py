"""How the papers carry labels: a :class:`~corrlib.propagation.PropagationConfig` for each, by name.

``corrflow`` (Lai & Xie, BMVC 2019, §4.2 and released test code)
    From the previous frame alone, within 6 cells (its features have stride 4), through the affinity
    as it was trained, all cells in reach; the arg-max is fed back.

``uvc`` (Li et al., NeurIPS 2019, §4 and released test code)
    From the first and the previous 7 frames, each searched whole. The affinity is as it was
    trained; the 5 largest of each reference are kept, as they stand, and what the references give
    is averaged. Each label map is stretched to [0, 1] before it is read. The authors cut the sides
    of frames to multiples of 64; here they are extended to multiples of the stride.

``crw`` (Jabri, Owens & Efros, NeurIPS 2020, §3 and appendix, released test code)
    From the first and the latest 20 frames, within 12 cells except on the first, which is searched
    whole. One top 10 over all references, softmax over these alone at τ = 0.05, unit features.

All read frames at 480p. "As it was trained" is the extractor's own temperature and unit features:
1 and none for the published CorrFlow and UVC.
"""

from __future__ import annotations

from corrlib.propagation import PropagationConfig

PRESETS = {
    "corrflow": PropagationConfig(
        references=1,
        first=False,
        radius=6,
        topk=None,
        temperature=None,
        unit_features=None,
        feedback="hard",
    ),
    "uvc": PropagationConfig(
        references=7,
        radius=None,
        topk=5,
        temperature=None,
        unit_features=None,
        per_reference=True,
        rescale=False,
        normalise_labels=True,
    ),
    "crw": PropagationConfig(
        references=20, radius=12, first_radius=None, topk=10, temperature=0.05
    ),
}
