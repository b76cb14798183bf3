"""How Sphinx builds the documentation: ``make docs``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import carrot

project = "carrot"
author = "The carrot developers"
copyright = "2026, The carrot developers"
version = release = carrot.__version__

extensions = ["sphinx.ext.autodoc", "capabilities"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"carrot {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
