"""One of the tests of ``test_fuzz.py`` under the coverage-guided fuzzer atheris, until it finds something.

::

    pip install atheris
    PYTHONPATH=tests python tests/attacks/guided.py test_stores CORPUS_FOLDER [options of libFuzzer]
"""

from __future__ import annotations

import os
import sys
import tempfile


def main() -> None:
    import atheris

    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["mcurl"]):
        from attacks import test_fuzz
    corpus = [word if word.startswith("-") else os.path.abspath(word) for word in sys.argv[1:]]
    for folder in corpus[:1]:
        os.makedirs(folder, exist_ok=True)
    os.chdir(tempfile.mkdtemp())
    atheris.Setup([sys.argv[0], *corpus], getattr(test_fuzz, name).hypothesis.fuzz_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
