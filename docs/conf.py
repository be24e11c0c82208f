"""Sphinx settings. `make docs` first assembles the source in _build/source (see build.py); Sphinx reads that and reaches for no network."""
import sys
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_make"))

_settings = ConfigParser(delimiters=["="])
_settings.read(HERE.parent / "settings.ini", encoding="utf-8")
_about = _settings["DEFAULT"]

project = _about["lib_name"]
author = _about["author"]
project_copyright = _about["copyright"]
version = release = _about["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_house"]
root_doc = "index"
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
default_role = "code"

# Notebooks come with their outputs: build.py executes them, so that the key of its cache can hold the modules that a notebook uses.
nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "show"
nb_code_prompt_show = "Show the {type}"
nb_code_prompt_hide = "Hide the {type}"
nb_ipywidgets_js = {}  # myst-nb would load require.js from another host
myst_enable_extensions = ["attrs_inline", "attrs_block", "colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_dmath_double_inline = True
myst_heading_anchors = 4
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

# Warnings are errors, but for:
suppress_warnings = [
    "ref.python",               # a type's bare name (`Rule`, `Source`) that two modules have: the signature then stays without a link
    "misc.highlighting_failure",  # a code cell that is cut short on purpose, to show an error
]

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "gpt_trader"
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_js_files = [("search_offline.js", {"priority": 300})]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_permalinks_icon = "#"
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#1f5fd0", "color-brand-content": "#1f5fd0",
                            "font-stack": 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif'},
    "dark_css_variables": {"color-brand-primary": "#84adff", "color-brand-content": "#84adff"},
}
