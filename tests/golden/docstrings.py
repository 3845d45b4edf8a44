"""1,000 sentences from the docstrings of Python's standard library, one a line.

docstrings.txt: the English that tests of encoders run on. docstrings.LICENCE: the licence it is under.

Run by `cargo xtask golden`; another version of Python has other docstrings, so it is left out there.
"""

import ast
import random
import re
import sys
import sysconfig
from pathlib import Path

OUT = Path(__file__).parent
VERSION = (3, 11)
COUNT = 1000
LENGTH = range(30, 201)
LETTERS = 0.85


def sentences(text):
    for paragraph in re.split(r"\n\s*\n", text):
        paragraph = re.sub(r"\s+", " ", paragraph).strip()
        for sentence in re.split(r'(?<=[.!?])\s+(?=[A-Z"])', paragraph):
            letters = sum(c.isalpha() or c == " " for c in sentence)
            if len(sentence) in LENGTH and sentence.isascii() and letters > LETTERS * len(sentence):
                yield sentence


def docstrings(path):
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
            yield ast.get_docstring(node) or ""


def main():
    if sys.version_info[:2] != VERSION:
        print(f"docstrings.py: left out, since this is not Python {VERSION[0]}.{VERSION[1]}")
        return
    library = Path(sysconfig.get_path("stdlib"))
    paths = sorted(p for p in library.rglob("*.py") if not {"test", "tests", "dist-packages", "site-packages"} & set(p.parts))
    found = dict.fromkeys(s for p in paths for d in docstrings(p) for s in sentences(d))
    chosen = random.Random(0).sample(list(found), COUNT)
    (OUT / "docstrings.txt").write_text("".join(f"{s}\n" for s in chosen))


main()
