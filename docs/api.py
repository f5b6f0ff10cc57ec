"""Write one reference page per room: every module of the product, with its docstrings."""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = ("consumer", "model_store", "schemas")


def modules_of(package: str) -> Iterator[str]:
    """Yield the package and every module below it, in alphabetical order."""
    yield package
    found = import_module(package)
    for module in pkgutil.walk_packages(found.__path__, f"{package}."):
        if not module.name.endswith("__main__"):
            yield module.name


def rooms() -> dict[str, list[str]]:
    """Return the modules of each room; a room is a package, or a package of ``consumer``."""
    grouped: dict[str, list[str]] = {}
    for package in PACKAGES:
        for module in modules_of(package):
            depth = 2 if package == "consumer" else 1
            grouped.setdefault(".".join(module.split(".")[:depth]), []).append(module)
    return grouped


def main(target: Path) -> None:
    """Write the pages and their index."""
    target.mkdir(parents=True, exist_ok=True)
    for room, modules in rooms().items():
        blocks = [f"# {room}\n"]
        blocks += [f"```{{eval-rst}}\n.. automodule:: {module}\n```\n" for module in modules]
        (target / f"{room}.md").write_text("\n".join(blocks))
    listed = "\n".join(rooms())
    (target / "index.md").write_text(f"# Reference\n\n```{{toctree}}\n{listed}\n```\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
