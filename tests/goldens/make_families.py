"""Writes tests/fixtures/models/ and tests/goldens/families/ of all families, or of those that are named.

Each family has a script in tests/goldens/families/, which says what it makes.

    python tests/goldens/make_families.py [FAMILY ...]       # needs jobs/export/requirements.txt
"""

import pathlib
import subprocess
import sys

SCRIPTS = pathlib.Path(__file__).with_name("families")
# What scripts share is no script, and fastvlm.py needs transformers 5 and another environment beside it.
FAMILIES = sorted(path.stem for path in SCRIPTS.glob("*.py") if "\ndef main(" in path.read_text() and path.stem != "fastvlm")


def main():
    wanted = sys.argv[1:] or FAMILIES
    if unknown := set(wanted) - set(FAMILIES):
        raise SystemExit(f"error: expected families out of {', '.join(FAMILIES)}, found {', '.join(sorted(unknown))}")
    for family in wanted:
        print(f"{family}:", flush=True)
        subprocess.run([sys.executable, SCRIPTS / f"{family}.py"], check=True)


main()
