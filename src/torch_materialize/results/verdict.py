"""The verdict: what a person wants to know of a policy before anything else, in a few sentences."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from ..core.devices import named
from ..core.fits import FITS
from ..core.policy import parse
from .explanation import ExplainedGraph, Explanation
from .headline import place_text, plural, refusals, signed_text, size_text

__all__ = ["TimeState", "Verdict", "VerdictState", "rounding_changes", "seconds_text", "verdict_of"]

#: What no policy changes, said wherever bytes are.
SCOPE = "These are fused kernels only; matmuls and attention are as before."


class VerdictState(Enum):
    """What a policy comes to, in bytes against the first policy."""

    GAIN = "gain"
    NOTHING = "nothing"  # it moves as many bytes, and no better plan was found
    REFUSED = "refused"  # it moves as many bytes, for a rule refused what moves fewer
    MORE = "more"  # it moves more bytes
    ALONE = "alone"  # there is no other policy to hold it against


class TimeState(Enum):
    """What is known of the time of the fused kernels."""

    FASTER = "faster"  # predicted to take less, by more than the prediction's error
    SLOWER = "slower"  # predicted to take more, by more than the prediction's error
    WITHIN_ERROR = "within error"  # the prediction cannot distinguish the two
    SAME = "same"  # the same kernels
    UNKNOWN = "unknown"  # no rates were fitted to measurements on this device


@dataclass(frozen=True)
class Verdict:
    """A policy held against the first one of an explanation.  Bytes of the fused kernels alone.

    Attributes:
        state, time: the states that all words follow from.
        target: the model.
        place: where it runs, or is planned for, in words.
        first, policy: the two policies.
        bytes_before, bytes_after: moved in one call by the fused kernels.
        kernels_before, kernels_after: number of fused kernels.
        other_kernels: number of all other kernels (matmuls, attention); no policy changes them.
        seconds_before, seconds_after: predicted time of the fused kernels in one call; None where
            :attr:`time` is unknown.
        time_error: median distance of such predictions from measured times, as a share of the
            first policy's time; None where the time is unknown.
        rounding: number of tensors that some reader sees rounded otherwise than under the first
            policy; None where every cast rounds as in eager, whatever is stored.
        peak_before, peak_after: most bytes alive at once in one of the graphs.
        kept_before, kept_after: bytes that forwards keep for their backwards; None where there is
            no training, or no policy that plans.
        refused: why better plans were refused, a sentence each.
        left_out: FX nodes of repeated layers that are decided alike and not in these figures.
        training: whether a backward is among the graphs.
        is_compiled: a program's own compile under the policy, and no trial lowering.
        command: the words after ``torch-materialize compare`` that make it anew, or none.
    """

    state: VerdictState
    time: TimeState
    target: str
    place: str
    first: str
    policy: str
    bytes_before: int
    bytes_after: int
    kernels_before: int
    kernels_after: int
    other_kernels: int
    seconds_before: float | None
    seconds_after: float | None
    time_error: float | None
    rounding: int | None
    peak_before: int
    peak_after: int
    kept_before: int | None
    kept_after: int | None
    refused: tuple[str, ...]
    left_out: int
    training: bool
    is_compiled: bool
    command: tuple[str, ...]

    @property
    def saved_bytes(self) -> int:
        """Bytes that the policy moves less than the first one."""
        return self.bytes_before - self.bytes_after

    @property
    def saved_share(self) -> float:
        """The same as a share of the first policy's bytes."""
        return self.saved_bytes / self.bytes_before if self.bytes_before else 0.0

    @property
    def saved_seconds(self) -> float | None:
        """Seconds that the fused kernels should take less in one call."""
        if self.seconds_before is None or self.seconds_after is None:
            return None
        return self.seconds_before - self.seconds_after

    @property
    def peak_change(self) -> int:
        """Bytes that the peak memory is higher than under the first policy."""
        return self.peak_after - self.peak_before

    def sentences(self) -> list[str]:
        """The verdict in two to four sentences, without the commands of :meth:`steps`."""
        if self.state is VerdictState.ALONE:
            return [
                f"`{self.policy}` moves {size_text(self.bytes_after)} in "
                f"{plural(self.kernels_after, 'fused kernel')} on {self.place}; there is no other "
                "policy here to hold it against."
            ]
        first = {
            VerdictState.GAIN: self._moves,
            VerdictState.MORE: self._moves,
            VerdictState.NOTHING: self._nothing,
            VerdictState.REFUSED: self._nothing,
        }[self.state]()
        said = [first]
        if (
            self.state in (VerdictState.GAIN, VerdictState.MORE)
            or self.rounding
            or self.peak_change
        ):
            said.append(_sentence(f"{self._rounding()}; {self._peak()}"))
        if self.kept_before and self.kept_after is not None:
            said.append(self._kept(self.kept_before, self.kept_after))
        said += self.refused[:1]
        if self.left_out:
            said.append(
                f"{self.left_out} nodes of repeated layers are decided alike and not counted here."
            )
        return [*said, SCOPE]

    def steps(self) -> dict[str, str]:
        """What to do next: a word for each step -> what to type, in order."""
        found: dict[str, str] = {}
        if self.state is VerdictState.GAIN:
            if not self.is_compiled:
                found["Switch on"] = (
                    f'model = torch.compile(model, options=tm.options("{self.policy}"))'
                )
            found["Check"] = "TORCH_LOGS=torch_materialize python your_program.py"
            # Options do not read the variable; vLLM, `auto` and the backend do.
            found["Off"] = (
                "TORCH_MATERIALIZE=off for vLLM, auto and the backend; else leave out what "
                "put the policy on"
                if self.is_compiled
                else 'leave the options out, or tm.options("stock")'
            )
        if self.command:
            found["Next"] = shlex.join(["torch-materialize", *self._next()])
        return found

    def _next(self) -> list[str]:
        """A training step may gain where inference does not; else the report says where from."""
        if self.state is VerdictState.NOTHING and not self.training:
            return ["compare", *self.command, "--training"]
        return ["explain", *self.command, "--html", "report.html"]

    def text(self) -> str:
        """Sentences and steps, a line for each step."""
        lines = [" ".join(self.sentences())]
        return "\n".join([*lines, *(f"{word}: {what}" for word, what in self.steps().items())])

    def as_json(self) -> dict[str, Any]:
        """The fields as plain JSON values, with what is derived from them."""
        plain = {
            name: value.value if isinstance(value, Enum) else value
            for name, value in asdict(self).items()
        }
        return {
            **plain,
            "saved_bytes": self.saved_bytes,
            "saved_share": self.saved_share,
            "saved_seconds": self.saved_seconds,
            "peak_change": self.peak_change,
            "text": self.text(),
        }

    def _moves(self) -> str:
        change, way = abs(self.saved_share), "less" if self.saved_bytes > 0 else "more"
        sizes = f"{size_text(self.bytes_before)} to {size_text(self.bytes_after)}"
        return (
            f"`{self.policy}` moves {_percent(change)} {way} than {self.first} ({sizes}), "
            f"{self._kernels()}, {self._time()}."
        )

    def _nothing(self) -> str:
        if self.state is VerdictState.NOTHING:
            what = "Nothing to gain here"
        else:
            what = f"`{self.policy}` keeps to what {self.first} moves"
        return (
            f"{what}: both move {size_text(self.bytes_before)} in "
            f"{plural(self.kernels_before, 'fused kernel')} on {self.place}."
        )

    def _kernels(self) -> str:
        if self.kernels_before == self.kernels_after:
            return f"in as many fused kernels ({self.kernels_after})"
        return f"in {self.kernels_after} fused kernels instead of {self.kernels_before}"

    def _time(self) -> str:
        saved, error = self.saved_seconds, self.time_error
        if saved is None or error is None or self.seconds_before is None:
            return f"time unknown on {self.place}"
        step = "step" if self.training else "call"
        each = f"a {step} on {self.place}"
        points = f"predictions are off by {100 * error:.2g}% of that time in the median"
        times = f"{seconds_text(self.seconds_before)} {each}; {points}"
        if self.time is TimeState.SAME:
            return f"in the same time on {self.place}"
        if self.time is TimeState.WITHIN_ERROR:
            way = "less" if saved > 0 else "more"
            return (
                f"{seconds_text(abs(saved))} {way} predicted of {times}, within the error "
                "of the prediction"
            )
        way = "less" if self.time is TimeState.FASTER else "more"
        return f"about {seconds_text(abs(saved))} {way} of {times}"

    def _rounding(self) -> str:
        if self.rounding is None:
            return "every cast rounds as in eager"
        if self.rounding == 0:
            return "no tensor is rounded otherwise"
        return f"rounding changes in {plural(self.rounding, 'tensor')}"

    def _peak(self) -> str:
        change = self.peak_change
        if not change:
            return "peak memory as before"
        return f"peak memory {'+' if change > 0 else ''}{signed_text(change)}"

    @staticmethod
    def _kept(before: int, after: int) -> str:
        if before == after:
            return f"The forward keeps {size_text(before)} for its backward, as before."
        change, way = abs(1 - after / before), "less" if after < before else "more"
        sizes = f"{size_text(before)} to {size_text(after)}"
        return f"The forward keeps {_percent(change)} {way} for its backward ({sizes})."


def verdict_of(explanation: Explanation, policy: str = "") -> Verdict:
    """The verdict on ``policy``, or the priced one, against the explanation's first."""
    first, chosen = explanation.policies[0], policy or explanation.priced
    before, after = explanation.traffic(first), explanation.traffic(chosen)
    refused = tuple(refusals(explanation)) if chosen == explanation.priced else ()
    times = explanation.predicted_seconds(first), explanation.predicted_seconds(chosen)
    rates = FITS.get(named(explanation.device).fitted)
    error = rates.error if rates is not None and None not in times else None
    numerics = parse(chosen).numerics
    return Verdict(
        state=_state(first == chosen, before.bytes - after.bytes, bool(refused)),
        time=_time(times, error),
        target=explanation.target,
        place=_place(explanation),
        first=first,
        policy=chosen,
        bytes_before=before.bytes,
        bytes_after=after.bytes,
        kernels_before=before.kernels,
        kernels_after=after.kernels,
        other_kernels=after.other_kernels,
        seconds_before=times[0] if error is not None else None,
        seconds_after=times[1] if error is not None else None,
        time_error=error,
        rounding=None if numerics == "eager" else len(list(_rounded(explanation, chosen))),
        peak_before=explanation.peak_bytes(first),
        peak_after=explanation.peak_bytes(chosen),
        kept_before=explanation.kept_bytes(first),
        kept_after=explanation.kept_bytes(chosen),
        refused=refused,
        left_out=sum(graph.left_out for graph in explanation.graphs),
        training=any(graph.kind == "backward" for graph in explanation.graphs),
        is_compiled=explanation.origin == "compile",
        command=tuple(explanation.command),
    )


def rounding_changes(graph: ExplainedGraph, first: str, policy: str, is_priced: bool) -> set[str]:
    """FX nodes that some reader sees rounded otherwise under ``policy`` than under ``first``.

    Those that lose digits where they are stored, and are stored under one of the two alone; of the
    priced policy also what it rounds for the kernel that writes it, and the casts that it keeps
    where upstream would have folded them away: of other policies that is not in a record.
    """
    before, after = graph.sides[first].stored, graph.sides[policy].stored
    return {
        one.node
        for one in graph.decisions
        if one.rules.get(first) not in ("extern", "input")  # in memory in its own dtype already
        and (
            (one.rounding and (one.node in before) != (one.node in after))
            or (is_priced and (one.rounded or one.held))
        )
    }


def _rounded(explanation: Explanation, policy: str) -> Iterator[str]:
    first = explanation.policies[0]
    for graph in explanation.graphs:
        if {first, policy} <= set(graph.sides):
            priced = policy == explanation.priced and policy != first
            yield from rounding_changes(graph, first, policy, priced)


def _state(is_alone: bool, saved: int, is_refused: bool) -> VerdictState:
    if is_alone:
        return VerdictState.ALONE
    if saved:
        return VerdictState.GAIN if saved > 0 else VerdictState.MORE
    return VerdictState.REFUSED if is_refused else VerdictState.NOTHING


def _time(times: tuple[float | None, float | None], error: float | None) -> TimeState:
    before, after = times
    if before is None or after is None or error is None:
        return TimeState.UNKNOWN
    if before == after:
        return TimeState.SAME
    if abs(before - after) <= error * before:
        return TimeState.WITHIN_ERROR
    return TimeState.FASTER if after < before else TimeState.SLOWER


def _place(explanation: Explanation) -> str:
    """Where the model runs, as the end of a sentence."""
    device = named(explanation.device)
    if not device.is_gpu:
        return place_text(explanation)
    return f"{'an' if device.title[:1] in 'AEIN' else 'a'} {device.title}"


def seconds_text(seconds: float) -> str:
    """A time as people read it: three figures, in s, ms or us."""
    for unit, scale in (("us", 1e6), ("ms", 1e3)):
        if seconds * scale < 999.5:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.3g} s"


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _percent(share: float) -> str:
    return "less than 0.1%" if share < 0.0005 else f"{share:.1%}"
