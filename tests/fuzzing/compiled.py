"""Compiles one program under every policy and says what is wrong with the results."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import torch
from torch._inductor import config
from torch._inductor.scheduler import Scheduler
from torch.utils import _pytree as pytree

import torch_materialize as tm
from torch_materialize.core.policy import Policy, parse
from torch_materialize.core.traffic import traffic
from torch_materialize.inductor.hooks import graph_lowering, partitioner
from torch_materialize.inductor.offline import dry_run as planned
from torch_materialize.inductor.plan import search
from torch_materialize.inductor.plan.drawn import Drawn
from torch_materialize.inductor.plan.outcome import Found
from torch_materialize.inductor.read.at_hand import device_named
from torch_materialize.inductor.read.kernels import read_scheduled

from .bounds import Bounded, bounded
from .hunt import Tally
from .programs import HERE, Program

__all__ = ["LIMITS", "POLICIES", "Report", "Skipped", "check", "program_fails"]

POLICIES = ("stock", "traffic", "plan:numerics=stock", "plan", "plan:numerics=eager")
#: When a plan acts.  ``usual``: as for users, which is next to never, since programs are small;
#: ``strong``: wherever it saves a byte; ``random``: what is stored is drawn; ``mixed``: drawn where
#: the program says so (:attr:`.Program.at_random`), else strong.
LIMITS = ("mixed", "strong", "random", "usual")


class Skipped(Exception):
    """A program that says nothing: eager refuses it, or it is not one that we can bound."""


@dataclass
class Report:
    """What was seen of one program.

    Attributes:
        failures: what broke a promise of ours, in words.
        upstream: what stock does as well: off by more than its roundings, or a crash.
        seen: counts by name, to be added up over programs.
    """

    failures: list[str] = field(default_factory=list)
    upstream: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)


@dataclass
class _Run:
    """One policy's results and, in order of compilation, its graphs' bytes and plans."""

    results: list[torch.Tensor]
    real: list[int] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    cuts: int = 0  # joint graphs that were cut otherwise than stock cuts them


def _joint(program: Program, function: Callable[..., Any]) -> Callable[..., Any]:
    """Results, arguments that may have been changed, and gradients of everything."""

    def run(*arguments: torch.Tensor) -> Any:
        outputs = function(*arguments)
        changed = [a for a, i in zip(arguments, program.inputs, strict=True) if not i.grad]
        ends = [o for o in outputs if o.requires_grad]
        starts = [a for a in arguments if a.requires_grad]
        if not ends or not starts:
            return outputs, changed, []
        ones = [torch.ones_like(o) for o in ends]
        gradients = torch.autograd.grad(ends, starts, ones, allow_unused=True)
        return outputs, changed, [g for g in gradients if g is not None]

    return run


def _tensors(result: Any) -> list[torch.Tensor]:
    leaves = pytree.tree_leaves(result)
    return [x.detach().clone().cpu() for x in leaves if isinstance(x, torch.Tensor)]


def check(
    program: Program,
    policies: Sequence[str] = POLICIES,
    device: str = "cpu",
    limits: str = "strong",
) -> Report:
    """Runs eager and every policy; what is exact is computed on a CPU.

    ``limits`` are those of every plan that names none itself.

    Raises:
        Skipped: eager does not run it, or nothing tells how far it may be off.
    """
    report = Report()
    try:
        eager = _tensors(_joint(program, program.function())(*program.arguments(_place(device))))
    except RuntimeError as error:
        raise Skipped(f"eager: {str(error)[:60]}") from error
    try:
        bounds = bounded(_joint(program, program.function()), program.arguments())
    except NotImplementedError as error:
        raise Skipped(str(error).partition("\n")[0]) from error
    except Exception as error:  # noqa: BLE001 - one program less, and a fault of the fuzz
        report.failures.append(f"no bound: {type(error).__name__}: {str(error)[:500]}")
        return report
    if len(bounds) != len(eager):
        raise Skipped("a result is no tensor")
    wrong = _outside(eager, bounds)
    if wrong:
        text = f"the bound is wrong: eager is outside of it: {next(iter(wrong.values()))}"
        # The bounds know how far a CPU's functions err.
        (report.upstream if device == "cuda" else report.failures).append(text)
        return report
    report.seen["results"] += len(eager)
    report.seen["results whose bound says nothing"] += sum(map(_says_nothing, bounds))
    try:
        stock = _compiled(program, "stock", device)
    except Exception as error:  # noqa: BLE001 - upstream's crash, whatever it is
        report.upstream.append(f"stock crashes: {type(error).__name__}: {str(error)[:200]}")
        return report
    known = _outside(stock.results, bounds)
    report.upstream += [f"stock: {text}" for text in known.values()]
    for name in policies:
        if name != "stock":
            policy = _with_limits(name, limits)
            _check_policy(program, policy, device, stock, eager, bounds, set(known), report)
    report.seen["stock equals eager bitwise"] += _equal(stock.results, eager)
    return report


def _with_limits(name: str, limits: str) -> Policy:
    """A policy as :func:`check` was given it, its plans under these limits."""
    policy = parse(name)
    own = policy.plans and "limits" not in policy.settings
    return parse(policy, {"limits": limits}) if own else policy


def _check_policy(
    program: Program,
    policy: Policy,
    device: str,
    stock: _Run,
    eager: list[torch.Tensor],
    bounds: list[Bounded],
    known: set[int],
    report: Report,
) -> None:
    try:
        ours = _compiled(program, policy, device)
    except Exception as error:  # noqa: BLE001 - to be reported with the program
        report.failures.append(f"{policy} crashes: {type(error).__name__}: {str(error)[:500]}")
        return
    report.seen[f"{policy} equals eager bitwise"] += _equal(ours.results, eager)
    for index, text in _outside(ours.results, bounds).items():
        where = report.upstream if index in known else report.failures
        where.append(f"{policy}: {text}")
    if policy.plans and policy.numerics == "stock":
        for index, (a, b) in enumerate(zip(ours.results, stock.results, strict=True)):
            if not _same_bits(a, b):
                far = (a.double() - b.double()).abs().max().item()
                report.failures.append(
                    f"{policy}: result {index} ({a.dtype}) is not stock's; off by up to {far:.3g}"
                )
    _check_bytes(policy, program, stock, ours, report)


def _check_bytes(policy: Policy, program: Program, stock: _Run, ours: _Run, report: Report) -> None:
    own = not program.at_random and policy.limits != "random"
    report.seen[f"{policy} graphs"] += len(ours.real)
    report.seen[f"{policy} joint graphs cut otherwise"] += ours.cuts
    for place, found in enumerate(ours.found):
        after, before = traffic(found.graph).bytes, traffic(found.stock).bytes
        how = "planned otherwise than stock" if own else "drawn"
        report.seen[f"{policy} graphs {how}"] += found.store is not None
        if own and after > before:
            report.failures.append(f"{policy}: graph {place} moves {after}, stock {before}")
        if found.bound is not None and found.bound > after + 1:
            report.failures.append(
                f"{policy}: graph {place} moves {after}, below its bound {found.bound}"
            )
    if policy.plans and len(ours.found) == len(ours.real):
        for place, (found, real) in enumerate(zip(ours.found, ours.real, strict=True)):
            told = traffic(found.graph).bytes
            if told != real:
                report.failures.append(
                    f"{policy}: graph {place} moves {real} bytes, its dry run said {told}"
                )
    comparable = policy.plans and policy.numerics != "eager"
    if own and comparable and len(ours.real) == len(stock.real):
        # With a cut of its own a forward may move more for a backward that moves less.
        runs = [[sum(run.real)] if ours.cuts else run.real for run in (ours, stock)]
        for place, (mine, theirs) in enumerate(zip(*runs, strict=True)):
            if mine > theirs:
                report.failures.append(f"{policy}: graph {place} moves {mine}, stock {theirs}")


def _compiled(program: Program, policy: str | Policy, device: str) -> _Run:
    torch._dynamo.reset()
    run = _Run([])
    how = {"dynamic": program.dynamic, "fullgraph": True}
    with contextlib.ExitStack() as stack:
        stack.enter_context(_watched(run, program))
        stack.enter_context(config.patch({"cpp.simdlen": None if program.vectors else 1}))
        if device in HERE:
            function = torch.compile(program.function(), options=tm.options(policy), **how)
        else:
            from torch_materialize.inductor.offline.planned_backend import planned_backend

            backend = planned_backend(parse(policy), device_named(device))
            function = torch.compile(program.function(), backend=backend, **how)
        run.results = _tensors(_joint(program, function)(*program.arguments(_place(device))))
    return run


def _place(device: str) -> str:
    """Where tensors are; those of a planned GPU are on a CPU (:mod:`.planned_backend`)."""
    return device if device in HERE else "cpu"


@contextlib.contextmanager
def _watched(run: _Run, program: Program) -> Iterator[None]:
    """Notes what the compiles inside move and plan."""
    generate, look, cut = Scheduler.codegen, graph_lowering.search, partitioner.search

    def codegen(self: Scheduler) -> Any:
        run.real.append(traffic(read_scheduled()).bytes)
        return generate(self)

    def with_bound(*args: Any, **_kwargs: Any) -> Found:
        found = look(*args, certify=True)
        run.found.append(found)
        return found

    def counted(*args: Any) -> Any:
        chosen = cut(*args)
        run.cuts += chosen is not None
        return chosen

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(Scheduler, "codegen", codegen))
        stack.enter_context(mock.patch.object(partitioner, "search", counted))
        for caller in (graph_lowering, planned):
            stack.enter_context(mock.patch.object(caller, "search", with_bound))
        if program.at_random:
            stack.enter_context(mock.patch.object(search, "Rounds", Drawn))
            stack.enter_context(mock.patch.object(Drawn, "run", lambda _search: None))
        yield


def _outside(results: list[torch.Tensor], limits: list[Bounded]) -> dict[int, str]:
    """The results that are farther from the exact ones than their roundings allow."""
    wrong = {}
    for index, (got, (value, error)) in enumerate(zip(results, limits, strict=True)):
        if got.shape != value.shape:
            wrong[index] = f"result {index} has shape {tuple(got.shape)}, not {tuple(value.shape)}"
            continue
        off = (got.double() - value.double()).abs()
        # No number where a number was promised is as wrong as it gets.
        bad = (off > error) | (torch.isnan(off) & torch.isfinite(error))
        if bad.any():
            most = torch.where(bad, off - error, 0).argmax()
            wrong[index] = (
                f"result {index} ({got.dtype}): {int(bad.sum())} of {bad.numel()} elements too far "
                f"from the exact ones; {got.flatten()[most].item()} for "
                f"{value.flatten()[most].item()}, allowed {error.flatten()[most].item():.3g}"
            )
    return wrong


def _says_nothing(limit: Bounded) -> bool:
    size = limit.value.double().abs().nan_to_num(0.0)
    return bool(size.numel()) and bool(limit.error.mean() > 0.5 * size.mean() + 1e-12)


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(
        a.nan_to_num(1.5) if a.is_floating_point() else a,
        b.nan_to_num(1.5) if b.is_floating_point() else b,
    )


def _equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(itertools.starmap(_same_bits, zip(one, other, strict=True)))


def program_fails(
    program: Program,
    tally: Tally,
    device: str = "cpu",
    limits: str = "mixed",
    policies: Sequence[str] = POLICIES,
) -> None:
    """Adds one program to a tally of a hunt; ``limits`` is one of :data:`LIMITS`."""
    drawn = program.at_random if limits == "mixed" else limits == "random"
    own = "usual" if limits == "usual" else "random" if drawn else "strong"
    try:
        report = check(replace(program, at_random=drawn), policies, device, own)
    except Skipped as reason:
        tally.seen[f"skipped: {reason}"] += 1
        return
    tally.seen["compiled"] += 1
    tally.seen.update(report.seen)
    if report.upstream:
        tally.seen["programs that stock compiles wrongly, too"] += 1
        tally.upstream += report.upstream
    if report.failures:
        tally.failures.append("\n".join([*report.failures, str(replace(program, at_random=drawn))]))
