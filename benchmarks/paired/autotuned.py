"""What Inductor's autotuner chooses for each kernel, and each one's time.

Cases are compiled side by side, and a choice that was timed while others used the GPU may be a bad
one: it is put off.  Nor is one that was timed alone always good: it finds configurations equal
that are not inside of a model (H200: 7 and 14 us for one and the same kernel).  So that ways are
compared and not draws, equal kernels of a case get equal configurations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch._inductor.runtime.triton_heuristics import CachingAutotuner
from torch.autograd import DeviceType

# Once one is chosen, an autotuner forgets the others, and their files are gone.
_CHOICES = "torch_materialize_choices"


@contextlib.contextmanager
def choices_put_off() -> Iterator[None]:
    """Kernels that are launched for the first time inside the block run as any of their
    configurations says, and are tuned later."""

    def take_any(self: CachingAutotuner, *args: Any, **kwargs: Any) -> None:
        setattr(self, _CHOICES, list(self.launchers))
        self.launchers = self.launchers[:1]

    with mock.patch.object(CachingAutotuner, "autotune_to_one_config", take_any):
        yield


class Configurations:
    """Configurations of the kernels of one case, by what they compute."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def tune(self, step: Callable[[], Any]) -> dict[str, str]:
        """Kernel -> its configuration, as known or chosen anew, of those that ``step`` launches."""
        tuners = _launched(step)
        for tuner in tuners:
            choices = getattr(tuner, _CHOICES, tuner.launchers)
            known = self._known.get(_computes(tuner))
            tuner.launchers = [one for one in choices if str(one.config) == known] or choices
        step()
        found = {tuner.fn.__name__: str(tuner.launchers[0].config) for tuner in tuners}
        for tuner in tuners:
            self._known.setdefault(_computes(tuner), found[tuner.fn.__name__])
        return found


def _computes(tuner: CachingAutotuner) -> str:
    """A kernel's source without its name, which counts the kernels of a graph."""
    source = getattr(tuner.fn, "src", None)
    return source.replace(tuner.fn.__name__, "kernel") if source else str(id(tuner))


def _launched(step: Callable[[], Any]) -> list[CachingAutotuner]:
    found = []
    launch = CachingAutotuner.run

    def run(self: CachingAutotuner, *args: Any, **kwargs: Any) -> Any:
        found.append(self)
        return launch(self, *args, **kwargs)

    with mock.patch.object(CachingAutotuner, "run", run):
        step()
    return list(dict.fromkeys(found))


def kernel_times(step: Callable[[], Any], repeats: int = 5) -> list[tuple[str, float]]:
    """Every kernel on the GPU that one step launches, in order, and its mean seconds.

    Empty where the profiler did not see the same kernels in each step.
    """
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as seen:
        for _ in range(repeats):
            step()
        torch.cuda.synchronize()
    events = [event for event in seen.events() if event.device_type == DeviceType.CUDA]
    events.sort(key=lambda event: event.time_range.start)
    count, rest = divmod(len(events), repeats)
    turns = [events[i * count : (i + 1) * count] for i in range(repeats)]
    if rest or any([e.name for e in turn] != [e.name for e in turns[0]] for turn in turns):
        return []
    return [
        (each[0].name, 1e-6 * sum(e.time_range.elapsed_us() for e in each) / repeats)
        for each in zip(*turns, strict=True)
    ]
