"""One row of the table of upstream objects (:mod:`.table`): how it is found and recognised."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ...errors import Mismatch
from .digest import body_digest, signature_digest

__all__ = ["OURS", "Seam", "Use"]

#: Attribute of our own wrappers that names the seam they stand at.
OURS = "__torch_materialize__"


class Use(str, Enum):
    """How we lean on an object; decides what is digested."""

    REPLACED = "replaced"  # the whole body: we stand in for it or build on its exact reasons
    CALLED = "called"  # the parameters
    SETTING = "setting"  # that it exists
    ANSWERED = "answered"  # that it exists; we answer in its place for a planned GPU


@dataclass(frozen=True)
class Seam:
    """One upstream object.

    Attributes:
        path: ``module:qualified.name``.
        use: how we lean on it.
        why: what for.
        until: the condition under which this row can be removed.
        features: ``policy`` (enable, options), ``compare``, ``tune``, ``pins`` (keep, inline)
            ``ranks`` (one decision for a process group), ``uncached`` (what was left to stock),
            ``handover`` (a trial lowering that ships),
            ``mode`` (options for a mode), ``backend`` (backend="materialize") and/or ``interpret``
            (a planned GPU's code on a CPU).
        digests: digest -> the torch versions in which it was seen and read.
        optional: whether its absence is fine (it came with a later torch).
    """

    path: str
    use: Use
    why: str
    until: str
    features: tuple[str, ...]
    digests: Mapping[str, str] = field(default_factory=dict)
    optional: bool = False

    def owner(self) -> tuple[Any, str]:
        """The object that holds the attribute, and the attribute's name.

        Raises:
            ImportError, AttributeError: some part of the path is missing.
        """
        module, _, qualified = self.path.partition(":")
        owner: Any = importlib.import_module(module)
        *parents, name = qualified.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        return owner, name

    def resolve(self) -> Any:
        """The object itself.

        Raises:
            ImportError, AttributeError: it is missing.
        """
        owner, name = self.owner()
        return getattr(owner, name)

    def upstream(self) -> Any:
        """The object without our own wrapper around it.

        Raises:
            ImportError, AttributeError: it is missing.
        """
        found = self.resolve()
        return found.__wrapped__ if getattr(found, OURS, None) == self.path else found

    def digest(self) -> str:
        """Digest of the installed object, "" where only its existence counts.

        Raises:
            ImportError, AttributeError: it is missing.
            OSError, TypeError: its source cannot be read.
        """
        found = self.upstream()
        if self.use is Use.REPLACED:
            return body_digest(found)
        if self.use is Use.CALLED:
            return signature_digest(found)
        return ""

    def replaced_by(self) -> str | None:
        """Somebody else's function that stands in upstream's place; None where nobody's does.

        Raises:
            ImportError, AttributeError: the object is missing.
        """
        found = self.upstream()
        code = getattr(found, "__code__", None)
        module = importlib.import_module(self.path.partition(":")[0])
        if code is None or code.co_filename == module.__file__:
            return None
        return f"{found.__module__}.{found.__qualname__} ({code.co_filename})"

    def replaced_by_module(self) -> str:
        """The module whose code stands in upstream's place, "" where none does.

        By the file of the code: a wrapper made with ``functools.wraps`` has upstream's names.  What
        upstream wraps itself (``contextlib.contextmanager``) or has from elsewhere is its own.

        Raises:
            ImportError, AttributeError: the object is missing.
        """
        if self.replaced_by() is None:
            return ""
        file = self.upstream().__code__.co_filename
        modules = list(sys.modules.items())
        names = [name for name, one in modules if getattr(one, "__file__", None) == file]
        owner = min(names, key=len) if names else file
        top = owner.partition(".")[0]
        return "" if top == "torch" or top in sys.stdlib_module_names else owner

    def check(self) -> Mismatch | None:
        """None when the installed object is one that was looked at."""
        try:
            other = self.replaced_by() if self.use is Use.REPLACED else None
            digest = self.digest()
        except (ImportError, AttributeError) as error:
            return None if self.optional else self._mismatch(f"nothing ({error})")
        except (OSError, TypeError) as error:
            return self._mismatch(f"{other or 'an object'} without readable source ({error})")
        if not self.digests or digest in self.digests:
            return None
        return self._mismatch(f"digest {digest}" + (f" of {other}" if other else ""))

    def _mismatch(self, found: str) -> Mismatch:
        known = ", ".join(f"{d} (torch {v})" for d, v in self.digests.items())
        required = f"digest {known}" if known else "this object"
        return Mismatch(self.path, required, found, self._owner())

    def _owner(self) -> str:
        try:
            return self.replaced_by_module()
        except (ImportError, AttributeError):
            return ""
