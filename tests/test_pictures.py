"""The pictures of the README and the docs: true, legible, and as the program draws them."""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent


def _pictures():
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "dev" / "pictures.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["pictures"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


pictures = _pictures()
FILES = pictures.files()


def _name(path):
    return path.stem


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_file_is_what_the_program_draws(path):
    text = path.read_text(encoding="utf-8")
    assert text == FILES[path].svg(), "run python dev/pictures.py"
    ElementTree.fromstring(text)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_texts_stay_apart_and_inside(path):
    canvas = FILES[path]
    for text in canvas.texts:
        right, bottom = text.left + text.width, text.top + text.height
        assert text.left >= 0 and right <= canvas.width and bottom <= canvas.height, text.words
    for one, other in itertools.combinations(canvas.texts, 2):
        apart = (
            one.left + one.width <= other.left
            or other.left + other.width <= one.left
            or one.top + one.height <= other.top
            or other.top + other.height <= one.top
        )
        assert apart, f"{one.words!r} and {other.words!r} collide"


def test_what_is_summed_up_is_the_sum():
    sums = re.compile(r"((?:\d+ [+x] )+\d+) = (\d+)")
    canvas = FILES[pictures.IMAGES / "stored-or-inlined-light.svg"]
    found = [match for text in canvas.texts for match in sums.findall(text.words)]
    assert len(found) == 3
    for terms, total in found:
        assert eval(terms.replace("x", "*")) == int(total)
    assert len({total for _, total in found}) == 3, "the two ways must not move the same"


@pytest.mark.full
@pytest.mark.e2e
@pytest.mark.long
def test_llamas_norms_read_what_the_picture_shows():
    from torch_materialize.jobs.explain import compare
    from torch_materialize.results.headline import growth

    found = compare("llama-3.1-8b", ["stock", "plan"], "h200", layers=8)
    row = growth(found)
    for policy, shown in pictures.READS.items():
        counted = [round(size / row.unit) for size in row.reads[policy][: len(shown)]]
        assert counted == list(shown), policy
