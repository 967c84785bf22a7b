"""Snakemake's default rate of jobs, which costs more than it saves."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from pairscape.jobs import scheduling


def test_the_default_limit_is_lifted_and_another_one_stays():
    limit = SimpleNamespace(max_jobs=100, timespan=1)
    settings = SimpleNamespace(max_jobs_per_timespan=limit)
    scheduling.lift_default_limit(settings)
    assert settings.max_jobs_per_timespan is None
    scheduling.lift_default_limit(settings)
    settings.max_jobs_per_timespan = SimpleNamespace(max_jobs=5, timespan=1)
    scheduling.lift_default_limit(settings)
    assert settings.max_jobs_per_timespan.max_jobs == 5


@pytest.mark.parametrize(
    ("words", "limited"), [([], True), (["--max-jobs-per-timespan", "5/1s"], False)]
)
def test_snakemake_s_default_is_the_one_that_is_known(words, limited):
    """In a fresh interpreter: Snakemake, once imported, keeps a terminal that pytest takes away."""
    code = (
        "import sys; from snakemake.cli import get_argument_parser as p;"
        "limit = p().parse_args(sys.argv[1:]).max_jobs_per_timespan;"
        "print((limit.max_jobs, limit.timespan))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert (done.stdout.strip() == str(scheduling._DEFAULT)) == limited
