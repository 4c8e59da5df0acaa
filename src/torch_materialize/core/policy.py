"""The policies by name, their settings, and the fingerprint that enters the caches."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Literal, TypeAlias, cast

from ..errors import UnknownPolicyError

__all__ = [
    "DEFAULT_POLICY",
    "FREE_SETTINGS",
    "LIMITS",
    "MEMORY",
    "NUMERICS",
    "POLICIES",
    "PREDICTED",
    "SETTINGS",
    "STOCK",
    "Numerics",
    "Policy",
    "PolicyLike",
    "PolicyName",
    "check_name",
    "parse",
    "size_from",
    "size_named",
]

PolicyName = Literal["stock", "traffic", "plan", "tune"]

#: What a plan promises about rounding: :data:`NUMERICS` says what each means.
Numerics = Literal["stored", "stock", "eager"]

#: Name -> one line for `--help`, `doctor` and error messages.
POLICIES: Mapping[PolicyName, str] = MappingProxyType(
    {
        "stock": "Inductor as it is",
        "traffic": "the upstream cost model of 2026, per reused tensor",
        "plan": "one plan for the whole graph: fewest bytes over all fused kernels",
        "tune": "plans, traffic and stock timed on the device at hand; the fastest is kept",
    }
)

DEFAULT_POLICY: PolicyName = "plan"

#: Those that differ in a trial lowering; without a device to time on, `tune` is `plan`.
PREDICTED: tuple[PolicyName, ...] = tuple(name for name in POLICIES if name != "tune")

#: What `numerics` may promise, the default first.
NUMERICS: Mapping[Numerics, str] = MappingProxyType(
    {
        "stored": "what is stored is what everyone uses, in the kernel that makes it, too",
        "stock": "only decisions that leave stock's result bitwise as it is",
        "eager": "every cast rounds where eager rounds",
    }
)

#: What must be gained before a plan is taken, the default first; the rest is for tests only.
LIMITS: Mapping[str, str] = MappingProxyType(
    {
        "usual": "what a trial lowering, a launch and an operation cost on the device at hand",
        "strong": "for tests: every byte saved is worth a plan, whatever its time and memory",
        "random": "for tests: strong, and where no plan acts a random choice is stored",
    }
)

#: The setting that is no word: a share, of the bytes that stock's forward saves for its backward
#: the most that this policy's may save; or a size, the most that may be alive at once in a graph.
MEMORY = "memory"

# As people write sizes; of equal sizes the smallest number is the name.
_UNITS: Mapping[str, int] = MappingProxyType(
    {
        "TiB": 1 << 40,
        "GiB": 1 << 30,
        "MiB": 1 << 20,
        "KiB": 1 << 10,
        "TB": 10**12,
        "GB": 10**9,
        "MB": 10**6,
        "kB": 10**3,
        "B": 1,
    }
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B|B)", re.IGNORECASE)

#: Policy -> setting -> its values, the default first.
SETTINGS: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "plan": MappingProxyType(
            {
                "numerics": tuple(NUMERICS),
                "limits": tuple(LIMITS),
                MEMORY: ("1",),
                "plans": ("",),
            }
        ),
        "tune": MappingProxyType({"numerics": tuple(NUMERICS), MEMORY: ("1",), "plans": ("",)}),
    }
)

#: Settings that take any text: ``plans`` names a folder of plan files.
FREE_SETTINGS = ("plans",)


@dataclass(frozen=True)
class Policy:
    """A policy with its settings; equal policies give equal cache keys.

    Build one with :func:`parse`, which checks the names and leaves out settings that have
    their default.
    """

    name: str
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def numerics(self) -> Numerics:
        """Which of :data:`NUMERICS` this policy promises."""
        return cast(Numerics, self.settings.get("numerics", next(iter(NUMERICS))))

    @property
    def limits(self) -> str:
        """Which of :data:`LIMITS` a plan of this policy respects."""
        return self.settings.get("limits", next(iter(LIMITS)))

    @property
    def plan_files(self) -> str:
        """The folder of plan files to go by, "" where this policy names none."""
        return self.settings.get("plans", "")

    @property
    def memory(self) -> float | None:
        """The most that a forward may save, as a share of what stock's saves; None: as much."""
        written = self.settings.get(MEMORY, "B")
        return None if written.endswith("B") else float(written)

    @property
    def peak(self) -> int | None:
        """The most bytes that may be alive at once while a graph runs; None: no such limit.

        As :func:`.memory.peak_bytes` counts them, inputs and outputs too.
        """
        written = self.settings.get(MEMORY, "")
        return _bytes_of(written) if written.endswith("B") else None

    def __hash__(self) -> int:
        return hash(self.canonical())

    @property
    def is_stock(self) -> bool:
        """Whether this policy leaves everything to Inductor."""
        return self.name == "stock"

    @property
    def plans(self) -> bool:
        """Whether graphs are planned: lowered on trial, with narrowing casts held for that."""
        return self.name in ("plan", "tune")

    @property
    def tracing(self) -> str:
        """Policies with the same are applied to the same post-grad graphs of inference."""
        return "eager" if self.numerics == "eager" else ""

    def canonical(self) -> str:
        """One line of JSON that is the same for equal policies in every process."""
        return json.dumps({"policy": self.name, "settings": dict(self.settings)}, sort_keys=True)

    def fingerprint(self, implementation: str) -> str:
        """The text that enters cache keys.

        ``implementation`` stands for the code that decides (version and source digest): a
        policy of the same name decided by other code must not be served from a cache.  Where plan
        files lie is no part of it: what they say is, and whoever reads them adds that.
        """
        settings = {name: value for name, value in self.settings.items() if name != "plans"}
        decides = Policy(self.name, settings).canonical()
        digest = hashlib.sha256(f"{implementation}\n{decides}".encode()).hexdigest()
        return f"torch-materialize:{self.name}:{digest[:32]}"

    def __str__(self) -> str:
        """The policy as :func:`parse` reads it: ``plan:numerics=eager``."""
        return ":".join([self.name, *(f"{k}={v}" for k, v in sorted(self.settings.items()))])


STOCK = Policy("stock")

#: What names a policy: one of the names, a name with settings (``plan:numerics=eager``), a policy.
PolicyLike: TypeAlias = PolicyName | str | Policy


def parse(policy: PolicyLike, settings: Mapping[str, object] | None = None) -> Policy:
    """Turns what a user wrote into a checked :class:`Policy`.

    A name may carry its settings, ``plan:numerics=eager``, so that whatever takes a name (an
    environment variable, a command) takes them, too; ``settings`` win over those.

    Raises:
        UnknownPolicyError: the name is not one of :data:`POLICIES`, or the policy takes no
            such setting or value.
    """
    if isinstance(policy, Policy):
        return parse(policy.name, {**policy.settings, **(settings or {})})
    name, *written = str(policy).split(":")
    check_name("policy", name, POLICIES)
    pairs = (one.partition("=") for one in written)
    chosen: dict[str, object] = {key.strip(): value.strip() for key, _, value in pairs}
    chosen.update(settings or {})
    known = SETTINGS.get(name, {})
    if chosen and not known:
        raise UnknownPolicyError(
            f"policy {name!r} takes no settings; found {', '.join(sorted(chosen))}. Remove them."
        )
    for setting, wanted in chosen.items():
        check_name(f"setting of policy {name!r}", setting, known)
        if setting == MEMORY:
            chosen[setting] = _memory(wanted)
        elif setting not in FREE_SETTINGS:
            check_name(f"value of {setting}", wanted, known[setting])
    if chosen.get("numerics") == "stock" and chosen.get(MEMORY, "1") != "1":
        raise UnknownPolicyError(
            f"{MEMORY}={chosen[MEMORY]} with numerics=stock: expected one of the two. What is "
            "recomputed for a budget is rounded where it is computed, and stock rounds what it "
            f"saves. Leave numerics out, or {MEMORY}."
        )
    policy = Policy(name, {k: str(v) for k, v in chosen.items() if v != known[k][0]})
    if name == "tune" and policy.peak:
        raise UnknownPolicyError(
            f"{MEMORY}={chosen[MEMORY]} with tune: expected a share of what stock saves, since "
            "what is the fastest need not fit. Use plan with it, or a share such as memory=0.7."
        )
    return policy


def _memory(found: object) -> str:
    """A share or a size as it is written in a policy's name: ``0.7``, of 0.7, "0.70" and "70%"
    alike, and ``8GiB``, of "8 GiB" and "8192MiB".

    Raises:
        UnknownPolicyError: it is no share over 0 and up to 1, and no size.
    """
    text = str(found).strip()
    if size := _bytes_of(text):
        return size_named(size)
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UnknownPolicyError(
            f"unknown value of {MEMORY} {found!r}: expected a share of the bytes that stock saves "
            "for the backward, over 0 and up to 1, or a size, the most that may be alive at once. "
            "Name one, such as memory=0.7 or memory=8GiB."
        )
    return f"{share:.6g}"


def _bytes_of(text: str) -> int:
    """The bytes of a size with its unit; 0 of what is none."""
    found = _SIZE.fullmatch(text)
    if not found:
        return 0
    unit = next(size for name, size in _UNITS.items() if name.lower() == found[2].lower())
    return int(Decimal(found[1]) * unit)


def size_named(size: int) -> str:
    """A size as ``memory=`` takes it, exactly: ``8GiB``."""
    exact = [(size // unit, name) for name, unit in _UNITS.items() if size % unit == 0]
    count, name = min(exact, key=lambda one: one[0])  # of equals the first
    return f"{count}{name}"


def size_from(size: int) -> str:
    """The size that an error names where ``size`` bytes are needed: the next whole KiB."""
    unit = _UNITS["KiB"]
    return size_named(-(-size // unit) * unit)


def check_name(what: str, found: object, expected: Collection[str]) -> None:
    """Sees that ``found`` is one of ``expected``.

    Raises:
        UnknownPolicyError: it is not; the message names what is expected, and what is close.
    """
    if found not in expected:
        close = difflib.get_close_matches(str(found), expected, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else " Name one of these."
        raise UnknownPolicyError(
            f"unknown {what} {found!r}: expected one of {', '.join(map(repr, expected))}.{hint}"
        )
