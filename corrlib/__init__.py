"""corrlib: learn from unlabelled video which pixel became which, and carry labels with it.

The order in which data flows is the order in which the modules are best read::

    video, datasets, synthetic, frames     where frames come from
    bottleneck                             g: what the encoder is allowed to see
    encoders                               Φ: frames to features
    affinity, tiles                        A: which reference pixel explains a target pixel
    colour, reconstruction                 copy colours through A, and the loss that trains Φ
    sampling, cycle                        copy from own copies; walk there and back
    corrflow; palindrome, crw              the method; the walk that copies no colour
    localisation, colour_autoencoder       where a patch went; colours as codes
    concentration, orthogonal, joint       what keeps A in order; the joint-task method
    recipes, training, data_parallel       what is trained for how long, and the loop that does it
    weights, adapt                         what was learnt, and learning on from there
    ablation                               training again without a part, or with another
    memory, propagation, presets           copy labels through A, along a whole video
    tracked                                the same inside a window that follows each object
    keypoints, parts, tracks, regions      tasks: thin readings of the same engine
    linking                                from a frame of one video to a frame of another
    baselines, optical_flow, sift_flow     what has to be beaten
    masks, metrics, pck, tapvid            the scores
    evaluation, jhmdb, protocol, sharding  the data sets, by one or many processes
    own_video, sound                       a user's own video
    views, widgets, attention_page         figures; with controls; in a page without Python
    checks, course                         of the exercises; lessons as handout, slides, site

The conventions they share (shapes, pixel centres, value ranges) are in :mod:`corrlib.geometry`.
"""

__version__ = "0.1.0"
