"""The explorer of the course's own pair of frames, as a page of its own."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from string import Template

import torch
from PIL import Image

from corrlib import views
from corrlib.attention_page.fragment import Try, encode_pair, explorer, text
from corrlib.baselines import trained
from corrlib.clips import shipped_clip
from corrlib.video import read_video
from corrlib.weights import load_weights

FRAME = 36
"""The target; the reference is frame 0. Lessons 02 and 03 look at the same pair."""

TRIES = (
    Try(
        "Two places look alike",
        "The corner of a picture on the box. <em>Predict:</em> which map finds the same corner, "
        "and does it help to keep only the 10 best cells?",
        {"u": 10, "v": 14},
        "Only the restricted one does. Another corner of the box looks just as good to full "
        "attention, far to the right, and the best 10 of all cells still hold it. Few things move "
        "far from one frame to the next: M is what says so.",
    ),
    Try(
        "A window that is too small",
        "The right corner of the box, with M = 2. <em>Predict:</em> what does a softmax do when "
        "the right answer is not among the choices?",
        {"u": 30, "v": 10, "radius": 2},
        "It must still sum to 1, so it looks at something else, here at the same place of the "
        "picture, and quite surely. Raise M to 3: the corner came from three rows up, and as soon "
        "as the window holds it, it is found.",
    ),
    Try(
        "Too warm",
        "The yellow rim of the box, with τ = 0.3. <em>Predict:</em> how many bits of entropy has "
        "full attention over 1200 cells at most, and what colour is then copied?",
        {"u": 26, "v": 12, "temperature": 0.3},
        "log₂ 1200 = 10.2 bits, and it is nearly there: what is copied is close to the mean colour "
        "of the frame, a grey brown. The 10 best cells copy yellow even so. Now lower τ to 0.05, "
        "and see all three agree.",
    ),
)


def lesson_page() -> str:
    """The explorer as a complete page, computed from the shipped clip ``box`` and the released
    weights ``corrflow``; one file that needs nothing else."""
    clip = shipped_clip("box")
    reference, target = read_video(clip.path, stop=FRAME + 1, step=FRAME)
    *features, stride = encode_pair(reference, target, trained(load_weights("corrflow")))
    u, v = TRIES[0].settings["u"], TRIES[0].settings["v"]
    fragment = explorer(
        reference,
        target,
        *features,
        stride,
        cell=(u, v),
        target_alt=f"Target, frame {FRAME}: a hand holds a printed yellow box over a white cloth.",
        still=_still(reference, target, features, (u, v), stride),
        tries=TRIES,
    )
    return Template(text("page.html")).substitute(
        explorer=fragment, frame=FRAME, attribution=html.escape(clip.attribution)
    )


def _still(
    reference: torch.Tensor,
    target: torch.Tensor,
    features: Sequence[torch.Tensor],
    cell: tuple[int, int],
    stride: int,
) -> str:
    """A picture of what the explorer shows first."""
    options = {"full": {}, "restricted, M = 6": {"radius": 6}, "10 best": {"topk": 10}}
    maps = {
        title: views.attention_map(*features, cell, 0.05, **option)
        for title, option in options.items()
    }
    figure = views.attention(reference, target, maps, cell, stride, radius=6)
    buffer = io.BytesIO()
    Image.open(io.BytesIO(views.png(figure))).save(buffer, "webp", quality=70, method=6)
    picture = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<img src="data:image/webp;base64,{picture}" style="width: 100%" alt="A corner of the box '
        "in the target, and where it looks in the reference: with full and with top-k affinity at "
        'another corner far to the right, with restricted affinity at the same corner."><p>Scripts '
        "are off, or this browser is too old to compute: this is one cell of the explorer.</p>"
    )
