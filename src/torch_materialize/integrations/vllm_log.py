"""What we say in vLLM's log, when vLLM's log is there.

From vLLM 0.31 on logging is set up after plugins were loaded, so that what a plugin says at once is
lost.  Our lines go to a logger of vLLM's, and wait until it has handlers.  When an engine starts,
and when an artifact is saved or loaded, is heard from vLLM's own lines, by filters on the loggers
that write them.  So nothing of vLLM is replaced; where one of its lines has other words, ours is
not written.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RecordError, brief
from ..events import log, once, planned
from ..results.base import Schema
from ..results.headline import plural, size_text

__all__ = ["follow", "install", "nothing_compiled", "remove"]

_THEIRS = "vllm"
_OURS = "vllm.plugins.torch_materialize"
_ENGINE = "vllm.v1.engine.core"
_ARTIFACTS = "vllm.compilation.decorators"
# The ends of vLLM's lines, without what stands for a value.
_STARTING = "Initializing a V1 LLM engine"
_SAVED = "saved AOT compiled function to %s"
_LOADED = "Directly load AOT compilation from path %s"
_NOTE = "torch-materialize.json"
# Lines that wait for vLLM to set up its logging; more would be of no use.
_MOST_WAITING = 200


@dataclass(frozen=True)
class Moved:
    """What the fused kernels of the graphs in one artifact of vLLM's move, as planned.

    Attributes:
        policy: what planned them.
        graphs: how many.
        stock_bytes, stock_kernels: the same of stock.
    """

    policy: str
    graphs: int
    bytes: int
    kernels: int
    stock_bytes: int
    stock_kernels: int


_MOVED = Schema(Moved, "vllm-artifact", 1)


class _ToVllm(logging.Handler):
    """Hands records to vLLM's logger, once that writes them somewhere.

    The first one, which says what governs, waits for an engine or for the next line: an engine may
    compile nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[logging.LogRecord] = []
        self._is_first = True

    def emit(self, record: logging.LogRecord) -> None:
        first, self._is_first = self._is_first, False
        if not logging.getLogger(_THEIRS).hasHandlers():
            if record.levelno >= logging.WARNING and logging.lastResort is not None:
                logging.lastResort.handle(record)  # as Python does where nobody listens
            elif len(self._waiting) < _MOST_WAITING:
                self._waiting.append(record)
            return
        if first and record.levelno < logging.WARNING:
            self._waiting.append(record)
            return
        self.hand_on()
        _hand_on(record)

    def hand_on(self) -> None:
        """Writes what waited, if vLLM's logger is set up by now."""
        if logging.getLogger(_THEIRS).hasHandlers():
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                _hand_on(one)

    def forget(self) -> None:
        """Drops what waited."""
        self._waiting = []


def _hand_on(record: logging.LogRecord) -> None:
    # vLLM is there, and has set up its logging.
    from vllm.logger import init_logger

    logger: logging.Logger = init_logger(_OURS)
    if logger.isEnabledFor(record.levelno):
        # Made anew: vLLM's formats want what its own factory puts into a record, and one that
        # waited was made before that was set up.
        anew = logger.makeRecord(
            logger.name,
            record.levelno,
            record.pathname,
            record.lineno,
            record.msg,
            record.args or (),
            record.exc_info,
            record.funcName,
        )
        logger.handle(anew)


class _Hears(logging.Filter):
    """Calls something for vLLM's records, lets all of them pass, and never fails."""

    def __init__(self, heard: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._heard = heard

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            self._heard(record)
        except Exception as error:  # noqa: BLE001 - vLLM's line must be written
            once("vllm log", logging.WARNING, "vLLM's log could not be followed: %s", brief(error))
        return True


class _Followed:
    """The log of one process while it is followed."""

    def __init__(self, policy: str, handler: _ToVllm | None) -> None:
        self.policy = policy
        self._before = planned()
        self._handler = handler
        self._filters = {_ENGINE: _Hears(self._starts), _ARTIFACTS: _Hears(self._artifact)}

    def install(self) -> None:
        for name, one in self._filters.items():
            logging.getLogger(name).addFilter(one)

    def remove(self) -> None:
        for name, one in self._filters.items():
            logging.getLogger(name).removeFilter(one)

    def _starts(self, record: logging.LogRecord) -> None:
        """An engine starts: what governs, or that there is nothing to govern."""
        if _STARTING not in str(record.msg) or not isinstance(record.args, tuple):
            return
        configs = [one for one in record.args if hasattr(one, "compilation_config")]
        reason = nothing_compiled(configs[0]) if configs else ""
        if reason:
            if self._handler is not None:
                self._handler.forget()  # that a policy governs what is compiled
            once(
                "vllm compiles nothing",
                logging.INFO,
                "vLLM compiles nothing in this engine (%s), so that policy %s has nothing to "
                "decide",
                reason,
                self.policy,
            )
        elif self._handler is not None:
            self._handler.hand_on()

    def _artifact(self, record: logging.LogRecord) -> None:
        """An artifact is saved, with what its plans move; or loaded, with what was noted."""
        words = str(record.msg)
        if not isinstance(record.args, tuple) or not record.args:
            return
        note = Path(str(record.args[-1])).with_name(_NOTE)
        if words.endswith(_SAVED):
            self._note(note)
        elif words.endswith(_LOADED) and note.is_file():
            try:
                said = _MOVED.load(note)
            except RecordError:
                return  # damaged, or of another version: the artifact is as good without it
            log.info("loaded from vLLM's cache, as it was compiled: %s", _moved_text(said))

    def _note(self, path: Path) -> None:
        now = planned()
        since = [one - before for one, before in zip(now, self._before, strict=True)]
        self._before = now
        if since[0]:
            _MOVED.save(Moved(self.policy, *since), path)


def _moved_text(said: Moved) -> str:
    return (
        f"{plural(said.graphs, 'graph')} under policy {said.policy}, "
        f"{size_text(said.bytes)} in {plural(said.kernels, 'fused kernel')} "
        f"(stock: {size_text(said.stock_bytes)} in {said.stock_kernels})"
    )


def nothing_compiled(config: Any) -> str:
    """Why vLLM compiles nothing under a configuration that it has settled; "" where it does."""
    compilation = config.compilation_config
    if getattr(compilation.mode, "name", str(compilation.mode)) != "NONE":
        backend = getattr(compilation, "backend", "")
        return "" if backend in ("", "inductor") else f"its backend is {backend}, not inductor"
    invariant, breakable = map(_is_on, ("VLLM_BATCH_INVARIANT", "VLLM_USE_BREAKABLE_CUDAGRAPH"))
    because = ", for VLLM_BATCH_INVARIANT=1" if invariant else ""
    opt_out = "VLLM_USE_BREAKABLE_CUDAGRAPH=0 has it compile"
    is_eager = getattr(getattr(config, "model_config", None), "enforce_eager", False)
    reasons = {
        "enforce_eager is set": is_eager,
        "TORCH_COMPILE_DISABLE=1": os.environ.get("TORCH_COMPILE_DISABLE") == "1",
        f"it uses breakable CUDA graphs{because}; {opt_out}": breakable,
        "VLLM_BATCH_INVARIANT=1": invariant,
        "LoRA is on, with which this platform compiles nothing": getattr(
            config, "lora_config", None
        )
        is not None,
    }
    return next((one for one, holds in reasons.items() if holds), "its compilation mode is NONE")


def _is_on(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


_handler: _ToVllm | None = None
_followed: _Followed | None = None


def install() -> None:
    """Lets our lines into vLLM's log, unless the program has set up logging for us."""
    global _handler  # noqa: PLW0603 - one log of one process
    if _handler is None and not log.hasHandlers():
        _handler = _ToVllm()
        log.addHandler(_handler)
        log.propagate = False
        if log.level == logging.NOTSET:
            log.setLevel(logging.INFO)


def follow(policy: str) -> None:
    """Follows vLLM's log, for an engine under ``policy``."""
    global _followed  # noqa: PLW0603 - one log of one process
    if _followed is None:
        _followed = _Followed(policy, _handler)
        _followed.install()


def remove() -> None:
    """Takes :func:`install` and :func:`follow` back."""
    global _handler, _followed  # noqa: PLW0603 - one log of one process
    if _followed is not None:
        _followed.remove()
    if _handler is not None:
        log.removeHandler(_handler)
        log.propagate = True
    _handler = _followed = None
