"""What every program shares: its flags, its options, its log, its progress, its way to fail."""

import argparse
import contextlib
import errno
import faulthandler
import json
import logging
import os
import signal
import sys
import traceback
from pathlib import Path

from pairscape.core import logs
from pairscape.core.errors import InputError
from pairscape.core.logs import is_first_process, log
from pairscape.jobs import job_lock, records

_jobs: list[records.Job] = []  # this process's job; none without a log


class Many(str):
    """The help text of a flag that takes one value or more."""


class Output(str):
    """The help text of a flag that names a file or folder which the program makes."""


class OutputMany(Output, Many):
    """The help text of a flag that names one or more files which the program makes."""


class OutputShared(Output):
    """The help text of a flag that names an output which several results folders may share.

    One process at a time makes it: the log, whose lock every program takes, is each results' own.
    """


# The flags of a program that shows a score: each is made where it is asked for.
SHOWN = {
    "table": Output("optional: TSV to write"),
    "markdown": Output("optional: Markdown to write"),
    "latex": Output("optional: LaTeX to write"),
    "png": Output("optional: PNG to write"),
    "svg": Output("optional: SVG to write"),
}


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
        ``Output`` and ``OutputMany`` texts mark what the program makes, for the record of the job.

    Returns
    -------
    The flags as attributes, ``options`` (the JSON of ``--options`` as a dictionary), ``threads``,
    ``log`` (path or None), and ``waited``: whether another process held a shared output meanwhile.
    As side effects logging is set up, and the job's lock ``<log>.lock`` is taken, and ``<path>.lock``
    of each ``OutputShared``: a second process waits here until the first has ended.
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
    parser.add_argument(
        "--options",
        default="{}",
        help="the resolved parameters, as one JSON, or @ and a file of it",
    )
    parser.add_argument("--threads", type=int, default=1, help="threads to use")
    parser.add_argument("--log", help="file that takes a copy of what is said on the terminal")
    args = parser.parse_args(argv)
    _start_log(args.log)
    if args.options.startswith("@"):
        args.options = _options_of(args.options[1:])
    _jobs.clear()
    args.waited = False
    if args.log:
        shared = [getattr(args, name) for name in flags if isinstance(flags[name], OutputShared)]
        waits = [job_lock.take(f"{path}.lock", log.info) for path in shared]
        args.waited = any(waits)
        _start_record(args, result_version, flags)
    args.options = read_json_flag("--options", args.options)
    version = args.options.pop("result_version", result_version)
    if version != result_version:
        raise InputError(
            "--options",
            "result_version",
            str(version),
            f"this program makes version {result_version}: let snakemake resolve the options anew",
        )
    return args


def read_json_flag(flag: str, text: str):
    """The value of a flag that takes JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(flag, "JSON", str(error), "quote the JSON for the shell") from None


def _options_of(path: str) -> str:
    """The JSON of a file of options: the record of the job holds it, not the file."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        remedy = "let snakemake plan again, which writes it"
        raise InputError(path, "options", error.strerror or "nothing", remedy) from None


def run(main) -> None:
    """Run ``main()`` and leave: one line for a bad input, a traceback only for our own defects."""
    name = Path(sys.argv[0]).stem
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, logs.leave)
    code = 0
    try:
        main()
        _write_record(name)
    except (Exception, KeyboardInterrupt) as error:
        code = _say_why(error, name)
    # logging.shutdown() would close libraries' handlers, and absl's closes streams of others.
    for handler in log.handlers:
        handler.close()
    job_lock.release_all()
    logs.sent_signals.clear()
    sys.exit(code)


def _say_why(error: BaseException, name: str) -> int:
    """Log why the program ends, and return its exit status."""
    if isinstance(error, logs.Stopped):
        # Of several processes the first tells; another that failed would have it killed.
        first = is_first_process(os.environ)
        log.log(logging.WARNING if first else logging.DEBUG, "%s", error)
        return 128 + signal.SIGTERM if first else 0
    if logs.sent_signals or isinstance(error, KeyboardInterrupt):
        log.debug("%s", traceback.format_exc())  # an interrupted import may say anything
        number = signal.Signals([*logs.sent_signals, signal.SIGINT][0])
        log.error("stopped by %s; the same command starts it anew", number.name)
        return 128 + number
    if isinstance(error, BrokenPipeError):
        return 1
    if isinstance(error, OSError):
        place = error.filename or "the disk"
        reason = error.strerror or str(error)
        log.debug("%s", traceback.format_exc())
        error = InputError(place, "system", reason, _os_remedy(error))
    if isinstance(error, InputError):
        log.error("%s", error)
        return 1
    log.error("a defect in %s, not in your input; please report this:", name)
    log.error("%s", traceback.format_exc())
    return 70


def also_made(*paths, sha256: str | None = None) -> None:
    """Tell of outputs that no flag names, for the record of the job; absent ones are left out.

    ``sha256`` saves reading a single large one once more, where its checksum is known.
    """
    for job in _jobs:
        job.also.update(dict.fromkeys(map(str, paths), sha256))


def _os_remedy(error: OSError) -> str:
    return {
        errno.ENOSPC: "free space on that disk and run the same command again",
        errno.EDQUOT: "free some of your quota and run the same command again",
        errno.EACCES: "make it readable and writable for you, or choose another folder",
        errno.EPERM: "make it readable and writable for you, or choose another folder",
        errno.EROFS: "choose a folder on a disk that can be written",
        errno.ENOENT: "make the file or correct its path",
    }.get(error.errno, "mend that and run the same command again")


def _start_record(args, result_version: int, flags) -> None:
    """Keep what the record of this job is written from."""
    paths = {name: getattr(args, name) for name in flags if getattr(args, name) is not None}
    paths = {name: [value] if isinstance(value, str) else value for name, value in paths.items()}
    is_output = {name: isinstance(flags[name], Output) for name in paths}
    job = records.Job(
        log=args.log,
        result_version=result_version,
        options=args.options,  # as given: programs fill in their defaults
        inputs={name: value for name, value in paths.items() if not is_output[name]},
        outputs={name: value for name, value in paths.items() if is_output[name]},
        threads=args.threads,
    )
    _jobs.append(job)


def _write_record(name: str) -> None:
    """Write the record of a job that has ended well; only a full disk (``OSError``) fails it."""
    if not _jobs or not os.path.isfile(_jobs[0].log) or not is_first_process(os.environ):
        return
    try:
        records.write(_jobs[0], name)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = records.path_beside(_jobs[0].log)
        log.warning("%s: no record of this job could be written: %s", place, error)
        log.debug("%s", traceback.format_exc())
        with contextlib.suppress(OSError):
            place.unlink()  # an older one would speak of other outputs


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
        said = []
        if os.path.isfile(path) or not os.path.exists(path):  # a device needs no lock
            job_lock.release_all()  # of an earlier main() of this process
            job_lock.take(f"{path}.lock", lambda line: said.append(line) or log.info("%s", line))
        to_file = logging.FileHandler(path, mode="w")
        # A disk that is full takes no log either; the terminal has what is said.
        logging.raiseExceptions = False
        to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(to_file)
        # The query of an address may hold a token or a signature.
        log.debug("command: %s", records.without_secrets(" ".join(sys.argv)))
        for line in said:
            log.debug("%s", line)
        faulthandler.enable(to_file.stream)
    logging.captureWarnings(True)
    warnings_log = logging.getLogger("py.warnings")
    warnings_log.propagate = False
    warnings_log.handlers = [h for h in log.handlers if isinstance(h, logging.FileHandler)]


def _plain_info(record: logging.LogRecord) -> bool:
    record.levelname = record.levelname.lower()
    return True
