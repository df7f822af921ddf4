"""A hook of MkDocs: `<!-- needs: a TPU -->` above a block is shown on the page."""

import re
from typing import Any

NEEDS = re.compile(r"^( *)<!-- needs: (.*) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Show what the next block needs."""
    return NEEDS.sub(r'\1<p class="needs">Needs \2</p>\n', markdown)
