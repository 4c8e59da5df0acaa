"""The processes of one group, and what they can hand each other without waiting.

Not by a collective: a rank that compiles alone would wait for the rest for ever.
"""

from __future__ import annotations

import logging
import secrets

import torch

from ...errors import brief
from ...events import once

__all__ = ["Store", "cannot_agree", "group_key", "has_ranks"]

_PREFIX = "torch_materialize"


class Store:
    """The default group's store; what it raises says that it cannot be used."""

    def __init__(self) -> None:
        self.store = torch.distributed.distributed_c10d._get_default_store()

    def look(self, key: str) -> str:
        """What is published under a key, "" where nothing is; never waits for it."""
        name = f"{_PREFIX}/{key}"
        return _text(self.store.get(name)) if self.store.check([name]) else ""

    def publish(self, key: str, value: str) -> str:
        """What is published under a key: the first that anybody did."""
        return _text(self.store.compare_set(f"{_PREFIX}/{key}", "", value))


def has_ranks() -> bool:
    """Whether this process is one of several in a process group."""
    dist = torch.distributed
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def group_key() -> str:
    """What names this process group in cache keys, "" in a process alone.

    A measured decision that an earlier group left in one rank's cache is not what ranks agree on
    now.  The same in every rank; "planned" where they cannot agree, and nothing is measured.
    """
    if not has_ranks():
        return ""
    try:
        store = Store()
        return store.look("job") or store.publish("job", secrets.token_hex(16))
    except Exception as error:  # noqa: BLE001 - whatever a store is, a compile goes on
        cannot_agree(error)
        return "planned"


def cannot_agree(error: Exception) -> None:
    """Says once that the ranks of this process group decide each by itself, and what that means."""
    once(
        "ranks",
        logging.WARNING,
        "the ranks cannot agree by the store of their process group (%s): each plans "
        "by itself, with the same result, and `tune` plans instead of measuring",
        brief(error),
    )


def _text(found: bytes | str) -> str:
    return found.decode() if isinstance(found, bytes) else found
