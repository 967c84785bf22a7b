"""Compare results with the records of the jobs that made them (see pairscape.jobs.records).

IN   results folders, with *.made.json beside the logs in them
OUT  on the terminal a line for each file that is changed, missing or too much, and for each job of
     another version than its program is now; status 1 if a file isn't as it was made

Files that several jobs made one after the other count as the last one made them. Give all results
folders that share bundles or weights, so that it is known which that was.

With `--against`, another results folder, one results folder is also compared with that: a line for
each output that differs, is missing or too much, and status 1 if there is one (see
pairscape.jobs.comparison). What says which code made a file (commit, versions, seal) may differ.
That other folder's files count as its records state them; give it as --results to verify them.

Options: old_versions, `list` or `refuse` (status 1 for those, too).
"""

from pairscape.core import logs
from pairscape.core.errors import InputError, one_of
from pairscape.core.logs import log
from pairscape.jobs import comparison, program, records
from pairscape.pretrain import failures

RESULT_VERSION = 1
OLD_VERSIONS = ("list", "refuse")


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        results=program.Many("optional: results folders; results/demo if none is given"),
        against="optional: another results folder, to compare a single one with",
    )
    policy = args.options.get("old_versions", OLD_VERSIONS[0])
    one_of(policy, OLD_VERSIONS, "--options", "old_versions")
    folders = args.results or ["results/demo"]
    if args.against and len(folders) > 1:
        raise InputError("--against", "--results", f"{len(folders)} folders", "name one of them")
    outputs, jobs, faults = read_outputs(folders)
    for fault in records.verify(outputs, args.threads, lambda sums: show(sums, outputs)):
        faults.append(tell(fault))
    old = old_versions(outputs)
    for fault in old:
        log.warning("%s", fault)
    if args.against:
        faults += compare(outputs, folders[0], args.against)
    number = count(outputs)
    told = f"{number} files of {jobs} jobs, {len(faults)} faults, {len(old)} of old versions"
    if faults or (old and policy == "refuse"):
        raise InputError(", ".join(folders), "results", told, "do what each line says")
    size = sum(entry["bytes"] for entry in outputs.values())
    log.info("%s: %s, %.1f MB as they were made", ", ".join(folders), told, size / 1e6)


def read_outputs(folders) -> tuple[dict[str, dict], int, list[InputError]]:
    """The newest outputs of the jobs below the folders (``records.newest_outputs``), the number of
    jobs, and one error, already told, for each damaged record.
    """
    jobs, faults = {}, []
    for folder in folders:
        paths = records.find(folder)
        if not paths:
            remedy = "name a results folder; its jobs leave a record beside each log"
            raise InputError(folder, f"records (*{records.ENDING})", "none", remedy)
        for path in paths:
            try:
                jobs[path] = records.read(path)
            except InputError as fault:
                faults.append(tell(fault))
    outputs = records.newest_outputs(jobs)
    outputs = {path: entry for path, entry in outputs.items() if not has_failed_since(entry)}
    return outputs, len(jobs), faults


def compare(outputs, folder: str, other: str) -> list[InputError]:
    """One error, already told, for each output that isn't the same in the other results folder."""
    theirs, _, faults = read_outputs([other])
    ours, theirs = comparison.by_place(outputs, folder), comparison.by_place(theirs, other)
    unlike = list(comparison.compare(ours, theirs))
    faults += [tell(fault) for _, fault in unlike if fault]
    log.info(
        "%s against %s: of %d and %d files %d have the same bytes, and %d the same content but for "
        "%s and a table's %s",
        *(folder, other, len(ours), len(theirs), len({*ours, *theirs}) - len(unlike)),
        sum(fault is None for _, fault in unlike),
        *(", ".join(comparison.PROVENANCE), ", ".join(comparison.tsv.ORIGIN)),
    )
    return faults


def tell(fault: InputError) -> InputError:
    log.error("%s", fault)
    return fault


def has_failed_since(entry) -> bool:
    """Whether an output belongs to a run that was tried again and told why it failed."""
    folder = entry["record"].parent
    return (folder / failures.FILE).is_file() and not (folder / "options.json").is_file()


def old_versions(outputs) -> list[InputError]:
    """One error for each job of another version than its program states now."""
    jobs = {
        entry["record"]: (entry["program"], entry["result_version"]) for entry in outputs.values()
    }
    faults = []
    for record, (name, version) in sorted(jobs.items()):
        now = records.program_version(name)
        if version != now:
            is_now = "there is no such program now" if now is None else f"{name} makes {now} now"
            remedy = "run the same snakemake command again"
            faults.append(InputError(record, "result_version", f"{version}, and {is_now}", remedy))
    return faults


def count(outputs) -> int:
    """The number of files of the outputs."""
    return sum(len(entry.get("files", [None])) for entry in outputs.values())


def show(sums, outputs):
    """A progress bar over the checksums."""
    return logs.progress(sums, "verify", count(outputs), "file")


if __name__ == "__main__":
    program.run(main)
