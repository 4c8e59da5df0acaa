"""What MkDocs calls while it builds the site (``hooks`` in mkdocs.yml)."""

from __future__ import annotations

import re
from typing import Any

# Docstrings name other objects as Sphinx does, which Markdown knows nothing of.
_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):<code>[.~]*([^<]*)</code>")


def on_page_content(html: str, **_how: Any) -> str:
    """Leaves of a role the name that it shows."""
    return _ROLE.sub(r"<code>\1</code>", html)
