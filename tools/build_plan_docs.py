"""Writes the answers to the wishes under recipes/plan into docs/plan.md. Run: python tools/build_plan_docs.py [--check]

Only the built-in prices count, so the page is the same on every machine.
"""

from __future__ import annotations

import sys
from pathlib import Path

from instil.core.config import parse
from instil.plan.answer import answer, lines
from instil.plan.prices import built_in
from instil.plan.wish import Wish
from instil.run.commands.plan_wish import read_wish_file

ROOT = Path(__file__).parent.parent
PLACE = ROOT / "docs" / "plan.md"
MARK = "<!-- What follows is written by tools/build_plan_docs.py from recipes/plan. -->\n"


def rendered() -> str:
    """The page: what stands before the mark, and an answer for each wish."""
    before = PLACE.read_text(encoding="utf8").partition(MARK)[0]
    offered = built_in()
    parts = [before + MARK]
    for path in sorted((ROOT / "recipes" / "plan").glob("*.yaml")):
        remark = path.read_text(encoding="utf8").splitlines()[0].removeprefix("# ")
        found = answer(parse(Wish, read_wish_file(path), name=path.name), offered)
        parts.append(f"### {path.stem}\n\n{remark}\n\n```\n" + "\n".join(lines(found)) + "\n```\n")
    return "\n".join(parts)


def main() -> int:
    """Writes the page; with --check only says whether it is up to date."""
    if "--check" in sys.argv:
        fresh = PLACE.read_text(encoding="utf8") == rendered()
        print("docs/plan.md is up to date" if fresh else "docs/plan.md is stale; run make docs", file=sys.stderr)
        return 0 if fresh else 1
    PLACE.write_text(rendered(), encoding="utf8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
