"""``torch-materialize compare``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from .explain import explained
from .options import file_to_write, planned, policies_to, rows, saving

__all__ = ["compare_command"]


@click.command("compare")
@click.argument("target")
@policies_to("compare")
@planned
@click.option(
    "--tracing",
    type=click.Choice(["dynamo", "make_fx"]),
    default="dynamo",
    show_default=True,
    help="The whole torch.compile pipeline, or make_fx straight to a post-grad graph.",
)
@rows()
@file_to_write("--json", "Also write the record (docs/record.md) to this file.")
def compare_command(
    target: str,
    policies: tuple[str, ...],
    device: str,
    tokens: int,
    batch: int,
    layers: int | None,
    tracing: str,
    top: int,
    json_path: Path | None,
) -> None:
    """Compare policies on TARGET for a device, which need not be there.

    TARGET is a built-in model (llama-3.1-8b, qwen3-30b-a3b, gpt2, bert-base, t5-base,
    fused-add-rmsnorm, fused-add-rmsnorm-hf), vllm:MODEL, or FILE.py:FUNCTION, a function
    without parameters that returns a module or callable and its example inputs. It is called
    on fake tensors: no weights are allocated and nothing runs.

    vllm:MODEL is what an installed vLLM would compile: MODEL is llama-3.1-8b, qwen3-30b-a3b,
    qwen3-next-80b-a3b or a folder with a config.json; vllm:MODEL:piecewise cuts it at attention.
    """
    from ..models.targets import Size
    from ..report.comparison import print_comparison
    from ..results.record import EXPLANATION

    size = Size(tokens, batch, layers)
    result = explained(target, policies, device, size, tracing=tracing, prices=False)
    print_comparison(result, Console(), top)
    if json_path is not None:
        with saving(json_path):
            EXPLANATION.save(result, json_path)
