"""The policies by name, their settings, and the fingerprint that enters the caches."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ..errors import UnknownPolicyError

__all__ = ["DEFAULT_POLICY", "POLICIES", "STOCK", "Policy", "parse"]

#: Name -> one line for `--help`, `doctor` and error messages.
POLICIES: Mapping[str, str] = MappingProxyType(
    {
        "stock": "Inductor as it is",
        "traffic": "the upstream cost model of 2026, per reused tensor",
        "plan": "one plan for the whole graph: fewest bytes over all fused kernels",
    }
)

DEFAULT_POLICY = "plan"


@dataclass(frozen=True)
class Policy:
    """A policy with its settings; equal policies give equal cache keys.

    Build one with :func:`parse`, which checks the names.
    """

    name: str
    settings: Mapping[str, str] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.canonical())

    @property
    def is_stock(self) -> bool:
        """Whether this policy leaves everything to Inductor."""
        return self.name == "stock"

    def canonical(self) -> str:
        """One line of JSON that is the same for equal policies in every process."""
        return json.dumps({"policy": self.name, "settings": dict(self.settings)}, sort_keys=True)

    def fingerprint(self, implementation: str) -> str:
        """The text that enters cache keys.

        ``implementation`` stands for the code that decides (version and source digest): a
        policy of the same name decided by other code must not be served from a cache.
        """
        digest = hashlib.sha256(f"{implementation}\n{self.canonical()}".encode()).hexdigest()
        return f"torch-materialize:{self.name}:{digest[:32]}"

    def __str__(self) -> str:
        if not self.settings:
            return self.name
        inner = ", ".join(f"{k}={v}" for k, v in sorted(self.settings.items()))
        return f"{self.name}({inner})"


STOCK = Policy("stock")


def parse(policy: str | Policy, settings: Mapping[str, object] | None = None) -> Policy:
    """Turns what a user wrote into a checked :class:`Policy`.

    Raises:
        UnknownPolicyError: the name is not one of :data:`POLICIES`, or the policy takes no
            such setting.
    """
    if isinstance(policy, Policy):
        return parse(policy.name, {**policy.settings, **(settings or {})})
    if not isinstance(policy, str) or policy not in POLICIES:
        close = difflib.get_close_matches(str(policy), POLICIES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UnknownPolicyError(
            f"unknown policy {policy!r}: expected one of {', '.join(map(repr, POLICIES))}.{hint}"
        )
    if settings:
        raise UnknownPolicyError(
            f"policy {policy!r} takes no settings; found {', '.join(sorted(settings))}. "
            "Remove them, or see `torch-materialize doctor` for what each policy takes."
        )
    return Policy(policy)
