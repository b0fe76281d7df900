"""LaTeX as MathML, which browsers draw by themselves; also the Sphinx extension that does so."""

from __future__ import annotations

import re

from docutils import nodes
from math_core import LatexError, LatexToMathML

from corrlib.errors import InputError

# Fonts with mathematics that systems come with; without any, brackets do not grow.
FONTS = '"Latin Modern Math", "STIX Two Math", "Cambria Math", "DejaVu Math TeX Gyre", math'

_CONVERTER = LatexToMathML(annotation=True, fancy_error=False)
# What notebooks draw and the converter does not know: a distance between rows, a bare percent sign.
_ALIASES = ((re.compile(r"\\\\\[[\d.]+\w\w\]"), r"\\\\"), (re.compile(r"(?<!\\)%"), r"\\%{}"))


def mathml(latex: str, block: bool) -> str:
    """A formula as ``<math>``, on its own or in a line of text; it holds the LaTeX as well.

    Raises:
        InputError: LaTeX that cannot be converted.
    """
    known = latex.strip()
    for pattern, alias in _ALIASES:
        known = pattern.sub(alias, known)
    try:
        return _CONVERTER.convert_with_local_state(known, displaystyle=block)
    except LatexError as error:
        shown = " ".join(latex.split())
        raise InputError(
            f"expected a formula in LaTeX, got {shown!r}: {error}; mend it in its lesson"
        ) from error


def setup(app) -> dict:
    """Called by Sphinx."""

    def visit_inline(writer, node):
        writer.body.append(mathml(node.astext(), block=False))
        raise nodes.SkipNode

    def visit_block(writer, node):
        writer.body.append(f'<div class="formula">{mathml(node.astext(), block=True)}</div>')
        raise nodes.SkipNode

    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
