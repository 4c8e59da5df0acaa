"""One model run eagerly, under stock and under plans, whole and cut: what agrees, and where not."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..core.devices import HERE, find
from ..core.paired import interleaved, median_interval, noise, ratios
from ..core.policy import STOCK, PolicyLike
from ..core.ways import AGREEING, ANY, CUTS, PIECES, RUNS_ON, WHOLE
from ..errors import CaptureError, MaterializeError, TargetError, brief
from ..models.names import Size, check_runnable
from ..results.agreement import Agreement, Arises, Way
from ..versions import installed_versions
from .explain import Step, beside_stock

if TYPE_CHECKING:
    from ..agreement.compiled import Backend, Recorded
    from ..core.devices import Device

__all__ = ["agree_target", "check_agree_words"]

_EAGER, _AGAIN = "eager", "stock again"
# Versions of one function that Dynamo may keep: a version for each way.
_MOST_VERSIONS = 256


def agree_target(
    target: str,
    policies: Sequence[PolicyLike] = AGREEING,
    device: str = "cpu",
    *,
    training: bool = False,
    cut: str = ANY,
    tokens: int = 64,
    batch: int = 1,
    layers: int | None = None,
    rounds: int = 15,
    seconds: float = 20.0,
    where: bool = True,
    step: Step = lambda _text, _done, _all: None,
) -> Agreement:
    """Runs a target in every way and holds its answers against eager's, bit for bit.

    ``device`` is ``cpu`` or ``here``, this machine's GPU; or a planned GPU, whose generated code
    runs on the CPU in Triton's interpreter, and is not timed.  ``training`` runs backwards, too.
    ``cut`` says where pieces end (:data:`.core.ways.CUT_NAMES`).  A built-in model is run small:
    ``tokens``, ``batch`` and ``layers`` (2 if None) size it.  Timing takes ``rounds`` rounds, none
    for 0, and about ``seconds`` at most; ``where`` looks for the operator where a difference
    arises.

    Raises:
        TargetError: there is no such target or device, it does not build, or it does not run.
        UnknownPolicyError: a policy is misspelt.
        CaptureError: the model runs, but does not compile.
        UnsupportedTorchError: this torch is not one that we checked.
    """
    size = Size(tokens, batch, layers)
    check_agree_words(target, policies, device)
    chosen = tuple(map(str, beside_stock(policies)))
    planned = _planned(device)
    from ..inductor.contract import seams

    seams.require("policy")
    step(f"building {target}", 0, 0)
    agreeing = _Agreeing(target, chosen, device, planned, training, cut, where, step)
    found = agreeing.run(size, rounds, seconds)
    if ":" in target:
        return found
    return replace(found, size={"tokens": tokens, "batch": batch, "layers": layers or 2})


def check_agree_words(target: str, policies: Sequence[PolicyLike], device: str) -> None:
    """Checks that all that was named is there, as far as that is known without loading torch.

    Raises:
        TargetError: there is no such target or device, or the target cannot run.
        UnknownPolicyError: a policy is misspelt.
    """
    from ..sweep.registry import CORPUS

    check_runnable(target, [model.name for model in CORPUS])
    beside_stock(policies)
    if device not in RUNS_ON:
        find(device)


def _planned(name: str) -> Device | None:
    """The GPU whose code is to be interpreted; None where the model runs on what is here.

    Raises:
        TargetError: there is no such device, or nothing that interprets its code.
        UnsupportedTorchError: this torch is not one that we checked.
    """
    if name in RUNS_ON:
        return None
    from ..inductor.offline.interpreting import interpret_triton

    interpret_triton()
    from ..inductor.contract import seams

    seams.require("interpret")
    return find(name)


@dataclass
class _Agreeing:
    """One agreement in the making."""

    target: str
    policies: tuple[str, ...]
    device_name: str
    planned: Device | None
    training: bool
    cut: str
    where: bool
    report_step: Step
    models: dict[tuple[str, str], Callable[..., Any]] = field(default_factory=dict)
    pieces: dict[str, list[Any]] = field(default_factory=dict)

    def run(self, size: Size, rounds: int, seconds: float) -> Agreement:
        import torch
        import torch._dynamo

        from ..agreement.step import Step as ModelStep
        from ..inductor.read.at_hand import device_text
        from ..models.real import build

        device = self._device()
        built = build(self.target, size, device, training=self.training)
        self.step = ModelStep(built, training=self.training)
        self.model = built.model
        self._say("running it eagerly")
        eager = self._eager()
        limit = {"recompile_limit": _MOST_VERSIONS, "accumulated_recompile_limit": _MOST_VERSIONS}
        with torch._dynamo.config.patch(limit):
            graphs, traced = self._recorded()
            ways = tuple(self._ways(graphs, eager))
            timed = self._timed(rounds, seconds)
            if self.where:
                ways = tuple(self._with_first(way, graphs) for way in ways)
        again = self._eager()
        return Agreement(
            target=self.target,
            device=self._device_text(device_text((torch.empty(0, device=device),))),
            training=self.training,
            cut=self.cut,
            ways=tuple(replace(way, **timed.get((way.policy, way.how), {})) for way in ways),
            outputs=tuple(eager[0]),
            eager_repeats=_are_same(again, eager),
            graph_repeats=_are_same(traced, eager),
            graphs=len(graphs),
            rounds=timed["all"]["rounds"] if timed else 0,
            noise=timed["all"]["noise"] if timed else 0.0,
            load=timed["all"]["load"] if timed else 0.0,
            eager_seconds=timed[_EAGER, ""]["seconds"] if timed else 0.0,
            eager_of_stock=timed[_EAGER, ""]["of_stock"] if timed else (),
            versions=installed_versions(),
        )

    def _device(self) -> Any:
        import torch

        if self.device_name in HERE:
            from ..inductor.read.at_hand import device_named

            device_named(self.device_name)  # raises where there is none
            return torch.device("cuda")
        return torch.device("cpu")

    def _device_text(self, here: str) -> str:
        return f"{self.planned.title}, its code interpreted on {here}" if self.planned else here

    def _say(self, text: str) -> None:
        self.report_step(text, 0, 0)

    def _eager(self) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            return self.step.run(self.model)
        except MaterializeError:
            raise
        except Exception as error:
            raise TargetError(
                f"{self.target} was built but does not run eagerly: {brief(error)}. `agree` runs "
                "the model: its weights and inputs need values, and must fit each other."
            ) from error

    def _recorded(self) -> tuple[list[Recorded], tuple[dict[str, Any], dict[str, Any]]]:
        """Dynamo's graphs with what eager fed to them, and what they gave, run eagerly."""
        from ..agreement.compiled import Recorder
        from ..agreement.ranges import operators

        self._say("tracing it")
        recorder = Recorder()
        with self._named("trace"):
            traced = self.step.run(self._dynamo(backend=recorder))
        if not any(operators(graph.module) for graph in recorder.graphs):
            raise CaptureError(
                f"{self.target} runs, but torch.compile finds no graph in it: there is nothing to "
                "compare. Check that it computes with tensors, and is not disabled for Dynamo."
            )
        self.cut = self._cut_of(recorder.graphs)
        return recorder.graphs, traced

    def _cut_of(self, graphs: Sequence[Recorded]) -> str:
        """The first way to cut, of those that are asked for, that makes more than one piece."""
        from ..agreement.ranges import cut_places

        for how in CUTS if self.cut == ANY else (self.cut,):
            if any(len(cut_places(graph.module, how)) > 1 for graph in graphs):
                return how
        if self.cut != ANY:
            raise TargetError(
                f"--cut {self.cut}: {self.target} has no place to cut at. Leave --cut out."
            )
        return ""

    def _ways(self, graphs: Sequence[Recorded], eager: Any) -> Iterator[Way]:
        from ..agreement.values import compared

        for policy in self.policies:
            whole = None
            for how in (WHOLE, PIECES) if self.cut else (WHOLE,):
                self._say(f"compiling it under {policy}, {how}")
                start = time.perf_counter()
                with self._named(f"compile under {policy}, {how},"):
                    model = self._compiled(policy, how)
                    outputs, gradients = found = self.step.run(model)
                whole = found if how == WHOLE else whole
                self.models[policy, how] = model
                compiled = sum(one.compiled for one in self.pieces.get(policy, ()))
                yield Way(
                    policy,
                    how,
                    compiled if how == PIECES else len(graphs),
                    compared(outputs, eager[0]),
                    compared(gradients, eager[1]) if self.training else None,
                    _are_same(found, whole) if how == PIECES and whole else None,
                    compile_seconds=round(time.perf_counter() - start, 2),
                )

    def _compiled(self, policy: str, how: str) -> Callable[..., Any]:
        from ..agreement.compiled import Pieces, options_of

        if how == WHOLE and self.planned is None:
            return self._dynamo(options=options_of(policy))
        compiles = self._backend(policy)
        if how == WHOLE:
            return self._dynamo(backend=compiles)
        self.pieces[policy] = []

        def backend(module: Any, _inputs: Sequence[Any]) -> Callable[..., Any]:
            self.pieces[policy].append(Pieces(module, compiles, self.cut))
            one: Callable[..., Any] = self.pieces[policy][-1]
            return one

        return self._dynamo(backend=backend)

    def _backend(self, policy: str) -> Backend:
        from ..agreement.compiled import backend_of

        return backend_of(policy, self.planned)

    def _dynamo(self, **how: Any) -> Callable[..., Any]:
        import torch

        made: Callable[..., Any] = torch.compile(self.model, dynamic=False, **how)
        return made

    @contextlib.contextmanager
    def _named(self, what: str) -> Iterator[None]:
        """Inside the block, an error of upstream's says what could not be done."""
        try:
            yield
        except MaterializeError:
            raise
        except Exception as error:
            raise CaptureError(
                f"{self.target} runs eagerly, but torch could not {what} it: {brief(error)}. "
                "Check that `torch.compile(model)` accepts it."
            ) from error

    def _with_first(self, way: Way, graphs: Sequence[Recorded]) -> Way:
        from ..agreement.first import first_backward, first_forward

        found: list[Arises | None] = []
        backend, cut = self._backend(way.policy), self.cut if way.how == PIECES else ""
        if not way.outputs.is_same:
            self._say(f"looking for the first difference under {way.policy}, {way.how}")
            with self._named("compile a prefix of"):
                found.append(first_forward(graphs, backend, cut, training=self.training))
        if way.gradients is not None and not way.gradients.is_same:
            self._say(f"looking for the first gradient under {way.policy}, {way.how}")
            with self._named("compile a suffix of"):
                found.append(first_backward(graphs, backend, cut))
        return replace(way, arises=tuple(one for one in found if one is not None))

    def _timed(self, rounds: int, seconds: float) -> dict[Any, dict[str, Any]]:
        """What a step takes in every way, in turns; empty without rounds.

        What is interpreted takes no time that means anything.
        """
        if not rounds or self.planned is not None:
            return {}
        self._say("timing it")
        models = {(_EAGER, ""): self.model, **self.models}
        base = (str(STOCK), WHOLE)
        clocks = {way: self.step.clock(model) for way, model in models.items()}
        clocks[_AGAIN, WHOLE] = self.step.clock(self.models[base])
        for clock in clocks.values():
            clock()
        load = os.getloadavg()[0]
        start = time.perf_counter()
        took = list(
            interleaved(
                {str(way): clock for way, clock in clocks.items()},
                rounds,
                lambda done: done >= 5 and time.perf_counter() - start > seconds,
            )
        )
        times = {way: [one[str(way)] for one in took] for way in clocks}
        found: dict[Any, dict[str, Any]] = {
            way: {"seconds": statistics.median(own), "of_stock": _interval(own, times[base])}
            for way, own in times.items()
        }
        spread = noise(times[base], times[_AGAIN, WHOLE])
        return {**found, "all": {"rounds": len(took), "noise": round(spread, 4), "load": load}}


def _interval(times: Sequence[float], base: Sequence[float]) -> tuple[float, ...]:
    interval = median_interval(ratios(times, base))
    return tuple(round(x, 4) for x in (interval.low, interval.median, interval.high))


def _are_same(
    one: tuple[Mapping[str, Any], Mapping[str, Any]],
    other: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> bool:
    from ..agreement.values import compared

    return all(compared(a, b).is_same for a, b in zip(one, other, strict=True))
