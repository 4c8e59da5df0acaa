"""What the README and the docs tell a reader to type, as it stands there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Results are generated from their files, each with the command that made it: hours, or a GPU.
_RESULTS = set(ROOT.glob("docs/results/**/*.md"))
PAGES = sorted(
    {ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")} - _RESULTS
)

_FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<text>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r'title="(?P<name>[^"]+)"')
_INLINE = re.compile(r"(?<!`)`(?P<code>[^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: what stands behind the fence: ``python``, ``sh``, ``text``.
        title: the file that the text says it is; empty where it says none.
        line: where it begins in its page.
    """

    language: str
    title: str
    text: str
    line: int

    @property
    def commands(self) -> list[str]:
        """Of a shell block, its commands without comments, lines that go on joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        without = (re.sub(r"\s+#.*$|^#.*$", "", line).strip() for line in lines)
        return [re.sub(r"\s+", " ", line) for line in without if line]


def name_of(page: Path) -> str:
    """How a page is called here: its path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        language, _, rest = match["info"].strip().partition(" ")
        title = _TITLE.search(rest)
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(language, title["name"] if title else "", match["text"], line))
    return found


def inline(page: Path) -> list[str]:
    """What stands in single backticks, outside of fenced blocks and headings."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return _INLINE.findall(re.sub(r"^#.*$", "", text, flags=re.MULTILINE))
