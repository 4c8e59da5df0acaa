"""``torch-materialize compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from .explain import explained
from .options import file_to_write, rows, saving, target_options, verbose

__all__ = ["compare_command"]


@click.command("compare")
@click.argument("target")
@target_options
@rows()
@verbose("Also what the other policies change, the kernels, and how it was made.")
@file_to_write("--json", "Also write the record (docs/record.md) to this file.")
def compare_command(
    target: str, top: int, verbose: bool, json_path: Path | None, **how: Any
) -> None:
    """Compare policies on TARGET for a device, which need not be there.

    The verdict comes first: what plan saves against stock, what it changes, how to switch it on.

    TARGET is a built-in model (llama-3.1-8b, qwen3-30b-a3b, gpt2, bert-base, t5-base,
    fused-add-rmsnorm, fused-add-rmsnorm-hf), a model of the corpus (`sweep --list`), vllm:MODEL,
    or FILE.py:FUNCTION, a function without parameters that returns a module or callable and its
    example inputs. It is called on fake tensors: no weights are allocated and nothing runs.

    vllm:MODEL is what an installed vLLM would compile: MODEL is llama-3.1-8b, qwen3-30b-a3b,
    qwen3-next-80b-a3b or a folder with a config.json; vllm:MODEL:piecewise cuts it at attention.

    A quick look at a large model: compare llama-3.1-8b --layers 4.
    """
    from ..report.comparison import print_comparison
    from ..results.record import EXPLANATION

    result = explained(target, prices=False, **how)
    print_comparison(result, Console(), top, verbose)
    if json_path is not None:
        with saving(json_path):
            EXPLANATION.save(result, json_path)
