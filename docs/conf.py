"""The documentation site: ``make docs`` builds it, and every broken reference is an error."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.util.nodes import make_refnode

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
REPOSITORY = "https://github.com/purchase-stream/purchase-stream"

project = "Purchase Stream"
author = "The Purchase Stream authors"
release = metadata.version("purchase-stream")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"{project} {release}"
exclude_patterns = ["_build", "bench"]

# A reference that resolves to nothing is a mistake in the docstring that makes it.
nitpicky = True
# Types are mypy's to check; docstrings name what they refer to.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": False}
add_module_names = False
napoleon_use_ivar = True
napoleon_use_param = False
napoleon_use_rtype = False
myst_heading_anchors = 3

nitpick_ignore_regex = [
    # Private classes have no entry.
    (r"py:.*", r"(.*\.)?_\w+"),
    # Other projects' names: their own documentation is not built here.
    (
        r"py:.*",
        r"(cimpl|collections|concurrent|confluent_kafka|datetime|enum|np|numpy|pathlib|prometheus_client|pydantic|pydantic_settings|sklearn|starlette|typing|typer)\..*",
    ),
    (r"py:.*", r"(ArrayLike|BaseRoute|KafkaError|KafkaException|NDArray|OSError|TypeVar|ValueError|lambda)"),
    # Type variables, and aliases of annotated types.
    (r"py:.*", r"(.*\.)?(Bins|Item|Ratio|Request|Result|Sha256)"),
]


def resolve_by_last_name(app: Sphinx, _env: object, node: pending_xref, content: nodes.TextElement) -> object:
    """Resolve ``Unavailable`` to ``consumer.errors.Unavailable`` wherever only one thing has that name."""
    domain = app.env.get_domain("py")
    target = str(node.get("reftarget", ""))
    found = [name for name in domain.objects if name == target or name.endswith(f".{target}")]
    if node.get("refdomain") != "py" or len(found) != 1:
        return None
    entry = domain.objects[found[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, found[0])


def link_to_repository(_app: Sphinx, _path: Path, _parent: str, content: list[str]) -> None:
    """Let the README's links to files outside ``docs/`` lead to the repository. The file must exist."""

    def target(match: re.Match[str]) -> str:
        path = match[1]
        outside = (ROOT / path).is_file() and not path.startswith("docs/")
        return f"]({REPOSITORY}/blob/main/{path})" if outside else match[0]

    content[0] = re.sub(r"\]\(([^):#]+)\)", target, content[0])


def setup(app: Sphinx) -> None:
    """Connect what Sphinx cannot resolve by itself."""
    # In the docstring of an attribute, Napoleon takes the words before a colon for its type.
    GoogleDocstring._parse_attribute_docstring = lambda self: list(self._lines)  # type: ignore[assignment]
    app.connect("include-read", link_to_repository)
    app.connect("missing-reference", resolve_by_last_name)
