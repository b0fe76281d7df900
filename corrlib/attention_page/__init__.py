"""The attention explorer without Python: a page that computes affinities in the browser itself.

A pair of frames and their features, rounded to 8 bits, lie in the page as text; ``attention.js``
computes on them what :mod:`corrlib.affinity` defines, and ``explorer.js`` draws it. The page asks
for nothing from anywhere. Where scripts do not run, a still picture stands in its place.

Rounding moves a dot product by less than 0.03 for the features of the course (the bound is in
:func:`quantise`), in fact by about 0.001.
"""

from corrlib.attention_page.fragment import SHORT_SIDE, Try, encode_pair, explorer, quantise
from corrlib.attention_page.lesson import lesson_page

__all__ = ["SHORT_SIDE", "Try", "encode_pair", "explorer", "lesson_page", "quantise"]
