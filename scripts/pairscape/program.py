"""What every program shares: its flags, its options, its log, its progress, its way to fail."""

import argparse
import faulthandler
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path

from pairscape.errors import InputError

log = logging.getLogger("pairscape")


class Many(str):
    """The help text of a flag that takes one value or more."""


def parse(argv, description: str, result_version: int, **flags: str) -> argparse.Namespace:
    """Read a program's command line.

    Parameters
    ----------
    argv
        The arguments without the program's name; ``None`` takes them from ``sys.argv``.
    description
        The program's docstring.
    result_version
        The program's ``RESULT_VERSION``. Options that carry another ``result_version`` are refused:
        they were resolved for other code.
    **flags
        One required flag each: its name with underscores, and its help text. A ``Many`` text makes
        the flag take several values. A text that starts with ``optional:`` makes it optional.

    Returns
    -------
    The flags as attributes, ``options`` (the JSON of ``--options`` as a dictionary), ``threads``,
    and ``log`` (path or None). Logging is set up as a side effect.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, text in flags.items():
        parser.add_argument(
            "--" + name.replace("_", "-"),
            required=not text.startswith("optional:"),
            nargs="+" if isinstance(text, Many) else None,
            help=str(text),
        )
    parser.add_argument("--options", default="{}", help="the resolved parameters, as one JSON")
    parser.add_argument("--threads", type=int, default=1, help="threads to use")
    parser.add_argument("--log", help="file that takes a copy of what is said on the terminal")
    args = parser.parse_args(argv)
    _start_log(args.log)
    try:
        args.options = json.loads(args.options)
    except json.JSONDecodeError as error:
        raise InputError("--options", "JSON", str(error), "quote the JSON for the shell") from None
    version = args.options.pop("result_version", result_version)
    if version != result_version:
        raise InputError(
            "--options",
            "result_version",
            str(version),
            f"this program makes version {result_version}: let snakemake resolve the options anew",
        )
    return args


def run(main) -> None:
    """Run ``main()`` and leave: one line for a bad input, a traceback only for our own defects."""
    name = Path(sys.argv[0]).stem
    try:
        main()
    except InputError as error:
        log.error("%s", error)
        code = 1
    except BrokenPipeError:
        code = 1
    except KeyboardInterrupt:
        log.error("interrupted")
        code = 130
    except OSError as error:
        place = error.filename or "the disk"
        log.error(
            "%s", InputError(place, "system", error.strerror or str(error), _os_remedy(error))
        )
        log.debug("%s", traceback.format_exc())
        code = 1
    except Exception:
        log.error("a defect in %s, not in your input; please report this:", name)
        log.error("%s", traceback.format_exc())
        code = 70
    else:
        code = 0
    logging.shutdown()
    sys.exit(code)


def is_first_process(environment: Mapping[str, str]) -> bool:
    """Whether this is the only process of its launch, or the first of several (one per device).

    Only that one speaks and writes files. Launched by torchrun, by srun with several tasks, or as a
    further process of a plain call (``processes.start``).
    """
    rank = environment.get("RANK")
    if rank is None and int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        rank = environment.get("SLURM_PROCID")
    return (rank or environment.get("LOCAL_RANK", "0")) == "0"


def progress(items: Iterable, what: str, total: int | None = None, unit: str = "it"):
    """Iterate over ``items`` with a progress bar; silent where stderr isn't a terminal."""
    from tqdm import tqdm

    return tqdm(
        items, desc=what, total=total, unit=unit, disable=None, leave=False, mininterval=0.5
    )


def _os_remedy(error: OSError) -> str:
    import errno

    return {
        errno.ENOSPC: "free space on that disk and run the same command again",
        errno.EDQUOT: "free some of your quota and run the same command again",
        errno.EACCES: "make it readable and writable for you, or choose another folder",
        errno.EPERM: "make it readable and writable for you, or choose another folder",
        errno.EROFS: "choose a folder on a disk that can be written",
        errno.ENOENT: "make the file or correct its path",
    }.get(error.errno, "mend that and run the same command again")


def _start_log(path) -> None:
    name = Path(sys.argv[0]).stem
    log.handlers.clear()
    log.propagate = False
    log.setLevel(logging.DEBUG)
    to_terminal = logging.StreamHandler()
    first = is_first_process(os.environ)
    to_terminal.setLevel(logging.INFO if first else logging.WARNING)
    to_terminal.setFormatter(logging.Formatter(f"{name}: %(levelname)s: %(message)s"))
    to_terminal.addFilter(_plain_info)
    log.addHandler(to_terminal)
    if path and first:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        to_file = logging.FileHandler(path, mode="w")
        to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(to_file)
        # The query of an address may hold a token or a signature.
        command = re.sub(r"(https?://[^\s\"'?]*)\?[^\s\"']*", r"\1", " ".join(sys.argv))
        log.debug("command: %s", command)
        faulthandler.enable(to_file.stream)
    logging.captureWarnings(True)
    warnings_log = logging.getLogger("py.warnings")
    warnings_log.propagate = False
    warnings_log.handlers = [h for h in log.handlers if isinstance(h, logging.FileHandler)]


def _plain_info(record: logging.LogRecord) -> bool:
    record.levelname = record.levelname.lower()
    return True
