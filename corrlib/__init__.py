"""corrlib: learn from unlabelled video which pixel became which, and carry labels with it.

The order in which data flows is the order in which the modules are best read::

    video, datasets, synthetic, frames     where frames come from
    bottleneck                             g: what the encoder is allowed to see
    encoders                               Φ: frames to features
    affinity, tiles                        A: which reference pixel explains a target pixel
    colour, reconstruction                 copy colours through A, and the loss that trains Φ
    corrflow, training                     the method, and the loop that fits it
    propagation, baselines                 copy masks through A, along a whole video
    masks, metrics                         the score

The conventions they share (shapes, pixel centres, value ranges) are in :mod:`corrlib.geometry`.
"""

__version__ = "0.1.0"
