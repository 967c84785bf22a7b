"""Ask every address that a run would fetch from, with a few bytes of each: what can be had from here.

IN   the files to ask for (options.files: samples' bundles, H&E and alignments, encoders' weights)
OUT  a table, a row for each file; a line on the console for each that isn't as it should be

Options: files (kind, name, part, url, bytes, place; encoder, its file, of weights), mirrors (as in the
configuration), timeout_s (of an address, 20). Meant for a login node: nothing is fetched. The Hugging
Face token comes from HF_TOKEN or the Hugging Face login.
"""

from concurrent.futures import ThreadPoolExecutor

from pairscape.acquire import probes, source_checks
from pairscape.core.logs import log, progress
from pairscape.jobs import program

RESULT_VERSION = 1
AT_ONCE = 8  # addresses; they wait more than they work


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        table=program.Output("sources.tsv to write"),
    )
    asked, mirrors = args.options["files"], args.options.get("mirrors", {})
    timeout_s = args.options.get("timeout_s", probes.TIMEOUT_S)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = pool.map(lambda one: source_checks.check(one, mirrors, timeout_s), asked)
        rows = list(progress(answers, "asking", len(asked), "file"))
    probes.SOURCES.write(args.table, rows)
    for line in source_checks.findings(rows):
        log.warning("%s", line)
    log.info("%s; %s has all of them", source_checks.in_short(rows), args.table)


if __name__ == "__main__":
    program.run(main)
