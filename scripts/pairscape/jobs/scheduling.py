"""How Snakemake looks for jobs to start."""

_DEFAULT = (100, 1.0)  # jobs, and the seconds in which it starts no more than these


def lift_default_limit(settings) -> None:
    """Let Snakemake start jobs at any rate, where nobody has asked for another one.

    With a limit it looks for jobs once more a second for every job that has ended, so that after 400
    of them the looking takes a third of a core; and no machine starts a hundred jobs in a second.
    """
    limit = settings.max_jobs_per_timespan
    if limit is not None and (limit.max_jobs, limit.timespan) == _DEFAULT:
        settings.max_jobs_per_timespan = None
