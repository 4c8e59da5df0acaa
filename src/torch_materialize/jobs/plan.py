"""Plan files of a target: written, checked against what was claimed, and held against others."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.devices import HERE, find
from ..core.policy import DEFAULT_POLICY, Policy, parse
from ..errors import (
    CaptureError,
    MaterializeError,
    RecordError,
    UnknownPolicyError,
    brief,
)
from ..models.names import Size
from ..results.plan_claims import CLAIMS, Claims, Growth, claims_path, growths
from ..results.plan_file import PLAN_FILE, SUFFIX, PlanFile, PlannedNode, Plans, in_folder, save
from ..versions import implementation, installed_versions
from .explain import Step, build, check_words

if TYPE_CHECKING:
    from ..core.devices import Device
    from ..inductor.fx.post_grad import PostGrad
    from ..results.plan_claims import GraphClaim

__all__ = ["Changed", "Planned", "changes", "check_target", "plan_target", "the_policy", "write"]


@dataclass(frozen=True)
class Planned:
    """The plan files of one target, and what it claims with them."""

    plans: tuple[PlanFile, ...]
    claims: Claims


@dataclass(frozen=True)
class Changed:
    """One line of the model for which two plans decide otherwise.

    Attributes:
        graph: whose graph it is, as both sides call it.
        source: ``file:line`` on the side that has it, of the second where both do.
        value: operator, dtype and shape.
        before, after: what was decided, and how often: ``2 realized``; "inlined" for nothing.
    """

    graph: str
    source: str
    value: str
    before: str
    after: str


def the_policy(policies: Sequence[str]) -> Policy:
    """The policy whose plans are wanted: `plan`, unless one is named.

    Raises:
        UnknownPolicyError: it is misspelt, there are several, or it makes no plans.
    """
    chosen = [parse(policy) for policy in policies or (DEFAULT_POLICY,)]
    if len(chosen) > 1 or chosen[0].name != "plan":
        raise UnknownPolicyError(
            "plan files are of one policy: expected `plan`, with settings if any "
            f"(plan:numerics=eager); found {', '.join(map(str, chosen))}."
        )
    return chosen[0]


def plan_target(
    target: str,
    policy: Policy,
    device: str,
    *,
    tokens: int = 8192,
    batch: int = 1,
    layers: int | None = None,
    tracing: str = "dynamo",
    training: bool = False,
    known: Plans | None = None,
    step: Step = lambda _text, _done, _all: None,
) -> Planned:
    """Captures the graphs of a target and plans each for a device, which need not be there.

    What is ``known`` of a graph and comes to what it claims is not searched again.  The rest is as
    for :func:`.explain.explain_target`.

    Raises:
        TargetError: no such target or device.
        CaptureError: the target cannot be traced or lowered.
        UnsupportedTorchError: this torch cannot lower a graph on trial.
    """
    check_words(target, (policy,), device)
    if device not in HERE:
        find(device)
    from ..inductor.contract import seams
    from ..inductor.offline.capture import capture
    from ..inductor.read.at_hand import device_named

    place = device_named(device)
    seams.require("compare")
    size = Size(tokens, batch, layers)
    step(f"building {target}", 0, 2)
    built, mode = build(target, training, size)
    step("capturing its graphs", 1, 2)
    graphs = capture(
        built.model,
        built.args,
        built.kwargs,
        place,
        mode,
        tracing,
        training=training,
        policy=policy,
        compiler=built.compiler,
    )
    plans, claims = [], []
    counts: Counter[str] = Counter()
    for number, graph in enumerate(graphs):
        step(f"planning graph {number + 1} of {len(graphs)}", 2 + number, 2 + len(graphs))
        plan, claim = _planned(graph, policy, place, known, counts)
        plans.append(plan)
        claims.append(claim)
    sizes = vars(size) if built.unit_bytes else {}
    return Planned(
        tuple(plans),
        Claims(
            target=target,
            device=place.name,
            policy=str(policy),
            graphs=tuple(claims),
            size={**sizes, "tracing": tracing, "mode": "training" if training else "inference"},
            versions={**installed_versions(), "torch-materialize": implementation()},
        ),
    )


def _planned(
    graph: PostGrad, policy: Policy, device: Device, known: Plans | None, counts: Counter[str]
) -> tuple[PlanFile, GraphClaim]:
    from ..inductor.offline.plan_making import claimed, plan_of

    try:
        plan, kernels = plan_of(graph, policy, device, known)
    except MaterializeError:
        raise
    except Exception as error:
        raise CaptureError(
            f"Inductor could not lower a graph of {graph.nodes} nodes for {device.name} under "
            f"{policy}: {brief(error)}."
        ) from error
    index = counts[plan.kind]
    counts[plan.kind] += 1
    return plan, claimed(plan, kernels, index)


def write(planned: Planned, folder: Path) -> list[Path]:
    """Writes the plan files and the claims of a target; returns where.

    Raises:
        OSError: the folder cannot be made or written.
    """
    claims = planned.claims
    paths = [save(plan, folder) for plan in planned.plans]
    training = claims.size.get("mode") == "training"
    paths.append(claims_path(folder, claims.target, claims.device, training=training))
    CLAIMS.save(claims, paths[-1])
    return paths


def check_target(
    target: str, policy: Policy, device: str, folder: Path, **how: object
) -> list[Growth]:
    """Where a target moves more bytes than its claims in ``folder`` say.

    ``how`` is what :func:`plan_target` takes.

    Raises:
        RecordError: there are no such claims, they cannot be read, or are of other options.
        TargetError, CaptureError, UnsupportedTorchError: as for :func:`plan_target`.
    """
    check_words(target, (policy,), device)
    training = bool(how.get("training", False))
    path = claims_path(folder, target, _short(device), training=training)
    if not path.is_file():
        raise RecordError(
            f"{path}: there are no claims of {target} on {device}. Write them with the same "
            f"options: torch-materialize plan {target} --device {device} -o {folder}"
        )
    before = CLAIMS.load(path)
    now = plan_target(target, policy, device, known=in_folder(folder), **how)  # type: ignore[arg-type]
    return list(growths(before, now.claims))


def _short(device: str) -> str:
    if device not in HERE:
        return find(device).name
    from ..inductor.read.at_hand import device_named

    return device_named(device).name


# Differences.


def changes(a: Path, b: Path) -> list[Changed]:
    """What two plan files, or two folders of them, decide otherwise, by line of the model.

    Graphs of folders are the same where their keys are, or, where a target's claims are in both,
    by their place in the target.

    Raises:
        RecordError: a file cannot be read, or one side is a folder and the other a file.
    """
    return [change for name, one, other in _pairs(a, b) for change in _changed(name, one, other)]


def _pairs(a: Path, b: Path) -> Iterator[tuple[str, PlanFile | None, PlanFile | None]]:
    if a.is_dir() != b.is_dir():
        raise RecordError(
            f"{a} and {b}: expected two folders of plan files or two plan files; found one of each."
        )
    if not a.is_dir():
        one, other = PLAN_FILE.load(a), PLAN_FILE.load(b)
        yield other.kind, one, other
        return
    places = _places(a), _places(b)
    known = [
        {path.name.removesuffix(SUFFIX): path for path in sorted(side.glob(f"*{SUFFIX}"))}
        for side in (a, b)
    ]
    for side, folder in zip(known, (a, b), strict=True):
        if not side:
            raise RecordError(f"{folder}: expected plan files (*{SUFFIX}); found none.")
    read = functools.cache(PLAN_FILE.load)
    done: set[str] = set()
    for name in {**places[0], **places[1]}:
        keys = places[0].get(name, ""), places[1].get(name, "")
        done |= set(keys)
        sides = [
            read(side[key]) if key in side else None for side, key in zip(known, keys, strict=True)
        ]
        yield name, sides[0], sides[1]
    for key in sorted({**known[0], **known[1]}):
        if key not in done:
            sides = [read(side[key]) if key in side else None for side in known]
            yield next(one.kind for one in sides if one) + f" {key[:8]}", sides[0], sides[1]


def _places(folder: Path) -> dict[str, str]:
    """Target, kind and index of graphs -> their key."""
    found = {}
    for path in sorted(folder.glob("*.claims.json")):
        claims = CLAIMS.load(path)
        for graph in claims.graphs:
            name = f"{claims.target} on {claims.device}, {graph.kind}"
            found[f"{name} {graph.index + 1}" if graph.index else name] = graph.key
    return found


def _changed(name: str, one: PlanFile | None, other: PlanFile | None) -> Iterator[Changed]:
    if one is None or other is None:
        yield Changed(name, "", "", *("no plan" if x is None else "a plan" for x in (one, other)))
        return
    if one.planned != other.planned:
        words = ("planned" if x.planned else "left to stock" for x in (one, other))
        yield Changed(name, "", "", *words)
    before, after = _by_line(one), _by_line(other)
    for line in sorted({**before, **after}):
        texts = [_decided(side.get(line, [])) for side in (before, after)]
        if texts[0] != texts[1]:
            yield Changed(name, line[0], line[1], *texts)


def _by_line(plan: PlanFile) -> dict[tuple[str, str], list[PlannedNode]]:
    found: dict[tuple[str, str], list[PlannedNode]] = {}
    for one in plan.decisions:
        value = f"{one.operator} {one.value}"
        found.setdefault((one.source or one.module, value), []).append(one)
    return found


def _decided(nodes: Sequence[PlannedNode]) -> str:
    counts = Counter(word for one in nodes for word in one.decided if word != "written")
    counts["written"] = sum(one.decided == ("written",) for one in nodes)
    shown = [f"{count} {word}" for word, count in sorted(counts.items()) if count]
    return ", ".join(shown) or "inlined"
