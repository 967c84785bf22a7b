"""Compare results with the records of the jobs that made them (see pairscape.jobs.records).

IN   results folders, with *.made.json beside the logs in them
OUT  on the terminal a line for each file that is changed, missing or too much, and for each job of
     another version than its program is now; status 1 if a file isn't as it was made

Files that several jobs made one after the other count as the last one made them. Give all results
folders that share bundles or weights, so that it is known which that was.

Options: old_versions, `list` or `refuse` (status 1 for those, too).
"""

from pairscape.core import logs
from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.jobs import program, records
from pairscape.pretrain import failures

RESULT_VERSION = 1
OLD_VERSIONS = ("list", "refuse")


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        results=program.Many("optional: results folders; results/demo if none is given"),
    )
    policy = args.options.get("old_versions", OLD_VERSIONS[0])
    if policy not in OLD_VERSIONS:
        raise InputError(
            "--options", "old_versions", repr(policy), f"write {' or '.join(OLD_VERSIONS)}"
        )
    folders = args.results or ["results/demo"]
    found, faults = read_records(folders)
    outputs = records.newest_outputs(found)
    outputs = {path: entry for path, entry in outputs.items() if not has_failed_since(entry)}
    for fault in records.verify(outputs, args.threads, lambda sums: show(sums, outputs)):
        faults.append(fault)
        log.error("%s", fault)
    old = old_versions(outputs)
    for fault in old:
        log.warning("%s", fault)
    number = sum(len(entry.get("files", [None])) for entry in outputs.values())
    told = f"{number} files of {len(found)} jobs, {len(faults)} faults, {len(old)} of old versions"
    if faults or (old and policy == "refuse"):
        raise InputError(", ".join(folders), "results", told, "do what each line says")
    size = sum(entry["bytes"] for entry in outputs.values())
    log.info("%s: %s, %.1f MB as they were made", ", ".join(folders), told, size / 1e6)


def read_records(folders) -> tuple[dict, list[InputError]]:
    """The records below the folders by path, and one error, already told, for each damaged one."""
    found, faults = {}, []
    for folder in folders:
        paths = records.find(folder)
        if not paths:
            raise InputError(
                folder,
                f"records (*{records.ENDING})",
                "none",
                "name a results folder; its jobs leave a record beside each log",
            )
        for path in paths:
            try:
                found[path] = records.read(path)
            except InputError as fault:
                faults.append(fault)
                log.error("%s", fault)
    return found, faults


def has_failed_since(entry) -> bool:
    """Whether an output belongs to a run that was tried again and told why it failed."""
    folder = entry["record"].parent
    return (folder / failures.FILE).is_file() and not (folder / "options.json").is_file()


def old_versions(outputs) -> list[InputError]:
    """One error for each job of another version than its program states now."""
    jobs = {
        entry["record"]: (entry["program"], entry["result_version"]) for entry in outputs.values()
    }
    found = []
    for record, (name, version) in sorted(jobs.items()):
        now = records.program_version(name)
        if version != now:
            is_now = "there is no such program now" if now is None else f"{name} makes {now} now"
            found.append(
                InputError(
                    record,
                    "result_version",
                    f"{version}, and {is_now}",
                    "run the same snakemake command again",
                )
            )
    return found


def show(sums, outputs):
    """A progress bar over the checksums."""
    number = sum(len(entry.get("files", [None])) for entry in outputs.values())
    return logs.progress(sums, "verify", number, "file")


if __name__ == "__main__":
    program.run(main)
