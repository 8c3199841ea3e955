"""The table of all settings in docs/configuration.md, from the code that reads them.

python scripts/settings_table.py          prints it
python scripts/settings_table.py --write  puts it into the page
"""

from __future__ import annotations

import ast
import itertools
import sys
from dataclasses import fields
from pathlib import Path

from osmo_ray import settings
from osmo_ray.settings import Settings

PAGE = Path(__file__).resolve().parents[1] / "docs/configuration.md"
BEGIN, END = "<!-- settings -->\n", "<!-- /settings -->"


def explained() -> dict[str, str]:
    """Key -> the text that stands below it in the code."""
    tree = ast.parse(Path(settings.__file__).read_text())
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings").body
    found = {}
    for before, after in itertools.pairwise(body):
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and isinstance(after, ast.Expr):
            assert isinstance(after.value, ast.Constant)
            found[before.target.id] = " ".join(str(after.value.value).split())
    return found


def table() -> str:
    """Markdown: key, variable, default, meaning."""
    told, base = explained(), Settings(home=Path("~/.osmo"))
    lines = ["| key | variable | default | meaning |", "| --- | --- | --- | --- |"]
    for field in fields(Settings):
        value = getattr(base, field.name)
        shown = f"`{value}`" if str(value) else ""
        lines.append(f"| `{field.name}` | `OSMO_{field.name.upper()}` | {shown} | {told.get(field.name, '')} |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page with the table of now."""
    head, _, rest = text.partition(BEGIN)
    return head + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page(PAGE.read_text()))
    else:
        sys.stdout.write(table())
