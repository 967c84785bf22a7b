"""Print the broken inputs and what the programs say to them as a Markdown table.

python tests/broken/list_messages.py [PROGRAM ...]
"""

import contextlib
import io
import logging
import sys
import tempfile
from pathlib import Path

from broken_inputs import CASES
from good_inputs import GOOD, run

from pairscape.core.errors import InputError


def main() -> None:
    print("| program | what is wrong | message |\n|---|---|---|")
    programs = sys.argv[1:] or GOOD
    for case in (case for case in CASES if case.program in programs):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "x"
            folder.mkdir()
            (folder / "out").mkdir()
            call = GOOD[case.program](folder)
            case.spoil(folder / "in", call)
            logging.disable()
            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    run(case.program, call)
                message = "ACCEPTED"
            except InputError as error:
                message = str(error)
            for place in (folder / "in", folder / "out", folder):
                message = message.replace(f"{place}/", "")
            print(f"| `{case.program}` | {case.name} | {message.replace('|', '¦')} |", flush=True)


if __name__ == "__main__":
    main()
