"""Sphinx: how the pages in this folder become a site. `sphinx-build -W -b html docs build/docs`."""

import re
import textwrap

import mpilayer

project, author, copyright = "mpilayer", "the mpilayer developers", "2026, the mpilayer developers"
release = mpilayer.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme, html_title = "furo", "mpilayer"
html_css_files, html_static_path = ["style.css"], ["_static"]
myst_heading_anchors = 3
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_mock_imports = ["torch", "jax"]

ENTRY = re.compile(r"(\w+(?:, \w+)*) {2,}(\S.*)")  # a name or several, and aligned behind it what it means


def _escaped(text):
    """Plain text as reStructuredText, in which only backquotes have a meaning."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(f"`{piece}`" if piece.startswith("`") else re.sub(r"([\\*|_])", r"\\\1", piece) for piece in pieces)


def _table(lines):
    """Aligned lines `name   meaning` as a definition list; what is indented goes on with the meaning."""
    for line in lines:
        entry = ENTRY.fullmatch(line)
        if entry:
            yield f"``{entry[1]}``"
        yield f"    {_escaped(entry[2] if entry else line.strip())}"


def _block(lines):
    """A paragraph of a docstring: a formula or program if it is indented, a table if it is aligned, else text."""
    if lines[0].startswith(" "):
        return ["::", "", *textwrap.indent(textwrap.dedent("\n".join(lines)), "    ").splitlines()]
    return [*_table(lines)] if ENTRY.fullmatch(lines[0]) else [*map(_escaped, lines)]


def _plain(app, what, name, obj, options, lines):
    """Docstrings here are plain text, read in the source most of the time; autodoc wants reStructuredText."""
    blocks = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    lines[:] = [line for block in blocks for line in (*_block(block.split("\n")), "")]


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _plain)
