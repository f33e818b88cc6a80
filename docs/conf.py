"""Sphinx makes the documentation site of these pages: make docs."""

import synpol

project = "synpol"
author = "the synpol developers"
copyright = "the synpol developers"
version = release = synpol.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "synpol"
# links to files of the repository beside docs/ are for those who read it there
suppress_warnings = ["myst.xref_missing"]
myst_heading_anchors = 3
autodoc_typehints = "none"
napoleon_numpy_docstring, napoleon_google_docstring = True, False
