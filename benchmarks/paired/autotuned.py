"""What Inductor's autotuner chooses for each kernel, and each one's time.

Cases are compiled side by side, and a choice that was timed while others used the GPU may be a bad
one: it is put off.  Nor is one that was timed alone always good: each kernel by itself, with an
empty cache, has configurations that seem equal and inside of a model are not (H200: 7 and 14 us
for one and the same kernel, 14 and 23 for another).  So that ways are compared and not draws, each
way has its kernels tuned where they run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
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


class Tuned:
    """The kernels that one step launches, each with the configuration that is fastest inside of it.

    Ways may share a kernel and take it differently, so that :meth:`apply` comes before a step.
    Kernels of one name, in several graphs, have their configurations in common, by place.
    """

    def __init__(self, step: Callable[[], Any]) -> None:
        choices = {t: getattr(t, _CHOICES, t.launchers) for t in _launched(step)}
        places = _fastest(choices, step)
        if not places:  # nobody told kernels apart: each is tuned by itself, as usual
            for tuner, own in choices.items():
                _launch_as(tuner, own)
            step()
        else:
            _take(choices, places)
        self._chosen = {tuner: tuner.launchers for tuner in choices}
        step()

    def apply(self) -> None:
        """Has the kernels run as they were fastest."""
        for tuner, chosen in self._chosen.items():
            _launch_as(tuner, chosen)

    @property
    def configurations(self) -> dict[str, str]:
        """Kernel -> its configuration."""
        return {t.fn.__name__: str(own[0].config) for t, own in self._chosen.items()}


Choices = Mapping[CachingAutotuner, Sequence[Any]]


def _fastest(choices: Choices, step: Callable[[], Any]) -> dict[str, int]:
    """Kernel -> the place of its configuration that takes the least time inside of a step."""
    seen: dict[str, tuple[float, int]] = {}
    for place in range(max(map(len, choices.values()), default=0)):
        _take(choices, {tuner.fn.__name__: place for tuner in choices})
        step()
        own = {tuner.fn.__name__ for tuner, all_of_it in choices.items() if place < len(all_of_it)}
        times: dict[str, float] = {}
        for name, seconds in kernel_times(step, repeats=3):
            times[name] = times.get(name, 0.0) + seconds
        for name, seconds in times.items():
            if name not in own:
                continue  # its last choice once more
            seen[name] = min(seen.get(name, (seconds, place)), (seconds, place))
    return {name: place for name, (_, place) in seen.items()}


def _take(choices: Choices, places: Mapping[str, int]) -> None:
    for tuner, own in choices.items():
        _launch_as(tuner, [own[min(places.get(tuner.fn.__name__, 0), len(own) - 1)]])


def _launch_as(tuner: CachingAutotuner, launchers: Sequence[Any]) -> None:
    tuner.launchers = list(launchers)
    if hasattr(tuner, "_cached_launcher"):  # from torch 2.13 on, and asked first
        tuner._cached_launcher = None


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
