"""Whether torch-materialize can work here: what `doctor` found, as values with what mends them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from importlib import metadata
from typing import TYPE_CHECKING

from ..core.policy import DEFAULT_POLICY, STOCK, parse
from ..environment import POLICY_VARIABLE, read_setting
from ..errors import UnknownPolicyError, brief
from ..results import tuned
from ..results.headline import plural
from ..versions import installed_versions, triton_to_install, vllm_version

if TYPE_CHECKING:
    from ..inductor.hooks.diagnose import Diagnosis, Finding

__all__ = ["FEATURES", "Checkup", "CheckupState", "Problem", "checkup"]

#: What has to work for torch-materialize to be of use.
FEATURES = ("policy", "compare", "pins", "tune")

# Our entry point among vLLM's plugins.
_PLUGIN = "torch-materialize"
# What built-in models are written for; pyproject.toml says the same.
_TRANSFORMERS = (5, 6)


class CheckupState(Enum):
    """What an installation comes to."""

    READY = "ready"  # it works, and no policy is on in this process
    ACTIVE = "active"  # it works, and a policy is on
    BROKEN = "broken"  # some of it does not work


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be.

    Attributes:
        what: a sentence.
        mend: what to do, as a sentence or a command.
        is_serious: whether something of ours does not work because of it; else it is a hint.
    """

    what: str
    mend: str
    is_serious: bool


@dataclass(frozen=True)
class Checkup:
    """The state of this process and installation.

    ``diagnosis`` is None where this torch has not even the names that we import.  ``facts`` are
    lines for people: what -> how it is.
    """

    state: CheckupState
    versions: dict[str, str]
    diagnosis: Diagnosis | None
    problems: tuple[Problem, ...]
    facts: dict[str, str] = field(default_factory=dict)

    def works(self, feature: str) -> bool:
        """Whether everything of upstream that a feature needs is as it was checked."""
        return self.diagnosis is not None and self.diagnosis.works(feature)

    def sentence(self) -> str:
        """The verdict."""
        torch = f"torch {self.versions['torch']}"
        if self.state is CheckupState.BROKEN:
            broken = [feature for feature in FEATURES if not self.works(feature)]
            if not broken:
                return f"torch-materialize can work with this {torch}, but not as it is set here."
            what = f"{', '.join(broken)} cannot work"
            return f"torch-materialize does not work with this {torch} as it is here: {what}."
        on = self.facts["active policy"]
        policy = f"active policy: {on}" if self.state is CheckupState.ACTIVE else "no policy is on"
        vllm = ""
        if "a vLLM process" in self.facts:
            vllm = f" vLLM {self.versions['vllm']} runs {self.facts['a vLLM process']}."
        return (
            f"torch-materialize works here: {torch} is as it was checked, device: "
            f"{self.facts['device']}, {policy}.{vllm}"
        )


def _diagnose() -> Diagnosis:
    from ..inductor.hooks.diagnose import diagnose

    return diagnose()


def checkup(find: Callable[[], Diagnosis] = _diagnose) -> Checkup:
    """Looks at everything once; changes nothing.  ``find`` is for tests."""
    versions = {**installed_versions(), "vllm": vllm_version()}
    problems: list[Problem] = []
    diagnosis: Diagnosis | None = None
    try:
        diagnosis = find()
    except (ImportError, AttributeError) as error:
        mend = "Install a torch from 2.11 to 2.15, or a newer torch-materialize."
        problems.append(Problem(f"This torch has not what we import: {brief(error)}.", mend, True))
    else:
        problems += _upstream(diagnosis)
    active = diagnosis.active if diagnosis is not None else ()
    problems += [*_environment(bool(active)), *_packages(versions), *_caches()]
    serious = any(problem.is_serious for problem in problems)
    state = CheckupState.BROKEN if serious else CheckupState.READY
    if active and not serious:
        state = CheckupState.ACTIVE
    return Checkup(
        state=state,
        versions=versions,
        diagnosis=diagnosis,
        problems=tuple(sorted(problems, key=lambda one: not one.is_serious)),
        facts=_facts(diagnosis),
    )


def _upstream(found: Diagnosis) -> Iterator[Problem]:
    """One problem for each module that replaced something, and one for what is not known."""
    wrong = [f for f in found.findings if f.problem and set(f.seam.features) & set(FEATURES)]
    by_owner: dict[str, list[Finding]] = {}
    for one in wrong:
        by_owner.setdefault(one.owner, []).append(one)
    for owner, ones in by_owner.items():
        paths = ", ".join(one.seam.path for one in ones[:3])
        more = f" and {plural(len(ones) - 3, 'more object')}" if len(ones) > 3 else ""
        if owner:
            yield Problem(
                f"Something in this process replaced {paths}{more}: module {owner} owns the "
                f"replacement ({ones[0].replaced_by}).",
                f"Start without {owner}, or leave such a program to stock.",
                True,
            )
        else:
            version = found.versions["torch"]
            yield Problem(
                f"torch {version} is not as it was checked: {paths}{more}.",
                "Install a torch from 2.11 to 2.15, or a newer torch-materialize.",
                True,
            )


def _environment(is_active: bool) -> Iterator[Problem]:
    name = read_setting(STOCK.name).name
    if name == STOCK.name or is_active:
        return
    try:
        chosen = parse(name)
    except UnknownPolicyError as error:
        yield Problem(
            f"{POLICY_VARIABLE} is ignored: {error}",
            f"Set {POLICY_VARIABLE}=plan, or unset it.",
            True,
        )
        return
    yield Problem(
        f"{POLICY_VARIABLE} names policy {chosen}, which is not on in this process.",
        "It is in a program that says `import torch_materialize.auto` at its start, in vLLM, and "
        'for torch.compile(backend="materialize").',
        False,
    )


def _packages(versions: dict[str, str]) -> Iterator[Problem]:
    command = triton_to_install()
    if command:
        yield Problem(
            "Triton is not installed: bytes can be compared for any GPU, but no generated code can "
            "be shown (`explain --code`), and nothing compiles for a GPU.",
            command,
            False,
        )
    transformers = versions["transformers"]
    least, below = _TRANSFORMERS
    major = transformers.partition(".")[0]
    if major.isdigit() and not least <= int(major) < below:
        yield Problem(
            f"transformers {transformers} is not what the built-in models are written for.",
            f"pip install 'transformers>={least},<{below}'",
            False,
        )
    elif not major.isdigit():
        yield Problem(
            "transformers is not installed, which the built-in models come from.",
            "pip install 'torch-materialize[models]'",
            False,
        )
    plugins = os.environ.get("VLLM_PLUGINS")
    names = [name.strip() for name in plugins.split(",")] if plugins is not None else []
    if _has_vllm(versions["vllm"]) and plugins is not None and _PLUGIN not in names:
        yield Problem(
            f"VLLM_PLUGINS={plugins} keeps vLLM from loading our plugin.",
            "Add torch-materialize to it, or unset it.",
            False,
        )


def _caches() -> Iterator[Problem]:
    folder = tuned.folder()
    damaged = list(tuned.damaged())
    if damaged:
        yield Problem(
            f"{plural(len(damaged), 'file')} in {folder} cannot be read as choices of `tune`.",
            "They are made anew when they are needed; torch-materialize tuned clear removes them.",
            False,
        )
    if folder.exists() and not os.access(folder, os.W_OK):
        yield Problem(
            f"{folder} cannot be written, so that `tune` chooses anew in every process.",
            f"Make it writable, or name another folder with {tuned.FOLDER_VARIABLE}.",
            False,
        )


def _facts(found: Diagnosis | None) -> dict[str, str]:
    wanted = read_setting(STOCK.name)
    if wanted.written is None:
        written = "not set"
    else:
        off = wanted.name == STOCK.name
        written = f"{wanted.written!r}: off" if off else wanted.written
    facts = {POLICY_VARIABLE: written}
    facts["tuned choices"] = f"{sum(1 for _ in tuned.entries())} in {tuned.folder()}"
    facts["vLLM"] = vllm_version()
    if _has_vllm(facts["vLLM"]):
        facts["a vLLM process"] = _of_vllm(found)
    if found is not None:
        active = [f"{policy}, set by {origin}" for policy, origin in found.active]
        facts["device"] = found.device
        facts["active policy"] = active[-1] if active else STOCK.name
        facts["hooks"] = "installed" if found.hooks_installed else "not installed"
        facts["Inductor's cache"] = found.inductor_cache
        foreign = sorted({one.owner for one in found.findings if one.owner})
        facts["replaced by others"] = ", ".join(foreign) or "nothing that we know of"
    return facts


def _has_vllm(version: str) -> bool:
    return version != "not installed"


def _is_plugin_installed() -> bool:
    return bool(metadata.entry_points(group="vllm.general_plugins", name=_PLUGIN))


def _of_vllm(found: Diagnosis | None) -> str:
    """What a process of vLLM that starts in this environment would be governed by."""
    if not _is_plugin_installed():
        return "stock: our entry point is not installed (pip install torch-materialize)"
    plugins = os.environ.get("VLLM_PLUGINS")
    if plugins is not None and _PLUGIN not in [name.strip() for name in plugins.split(",")]:
        return "stock: VLLM_PLUGINS names other plugins"
    wanted = read_setting(DEFAULT_POLICY)
    try:
        chosen = parse(wanted.name)
    except UnknownPolicyError:
        return f"stock: {POLICY_VARIABLE} is misspelt"
    if found is None or not found.works("policy"):
        return "stock: this torch cannot be governed"
    why = f"{POLICY_VARIABLE} is not set" if wanted.written is None else wanted.origin
    return f"policy {chosen} ({why})"
