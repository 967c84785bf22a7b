"""What all stages share: the plan, the names that wildcards may take, and the options of a job.

Nothing in it touches data, so the plan needs no bundle. Functions that rules call for inputs are
Python in scripts/pairscape/plan/.
"""

import difflib
import functools
import json
import os
import re
import shlex
import sys

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from snakemake.exceptions import MissingRuleException
from snakemake.utils import update_config

from pairscape.core.errors import InputError
from pairscape.core.options import typed
from pairscape.jobs import console, scheduling
from pairscape.jobs.records import program_version
from pairscape.plan import (
    commands,
    costs,
    datasets,
    lacks,
    memory,
    missing,
    runs,
    samples,
    scores,
    slides,
    sources,
)
from pairscape.plan.reading import read_plan


def refused(error: InputError) -> SystemExit:
    """The end of Snakemake by a refusal alone: of other exceptions it tells the place in this file."""
    here = error.field == "file" and not Path(error.file).is_absolute()
    logger.error(f"Error: {error}{f' (looked for in {Path.cwd()})' if here else ''}")
    return SystemExit(1)


# All that has a say in the configuration, for messages.
config_source = [*map(str, workflow.overwrite_configfiles or ["config/config.yaml"])]
config_source += ["--config"] if workflow.config_settings.config else []
update_config(config, typed(workflow.config_settings.config))  # its numbers as numbers

try:
    plan = read_plan(config, " with ".join(config_source))
except InputError as error:
    raise refused(error) from None

if workflow.is_main_process:
    for warning in (*samples.absent_files(plan), *missing.warnings(plan)):
        logger.warning(warning)
    console.be_brief(logger, workflow.output_settings.quiet or (), workflow.dryrun)

# Jobs run the Python of this Snakemake, unless conda or a container brings its own.
if not workflow.deployment_settings.deployment_method:
    # exec: a signal of the scheduler reaches the program and leaves no shell between that dies of it.
    place = shlex.quote(str(Path(sys.executable).parent)).replace("{", "{{").replace("}", "}}")
    shell.prefix(f"export PATH={place}:$PATH; exec ")

if workflow.scheduling_settings:
    scheduling.lift_default_limit(workflow.scheduling_settings)

any_of = commands.any_of
grows = functools.partial(costs.grows, plan)
program_version = functools.cache(program_version)


def options(program: str, **values) -> str:
    """The resolved parameters of a job as one JSON, or where it is long ``@`` and a file of it.

    A change of them reruns the job.
    """
    values["result_version"] = program_version(program)
    text = commands.as_json(values)
    return commands.short(text, f"{plan.results}/.options/{program}")


def script(name: str) -> str:
    """Path of a program, relative where it can be: a moved checkout reruns nothing."""
    path = Path(workflow.basedir, "scripts", f"{name}.py")
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def shown(path: str, chapter: str):
    """An output that `snakemake --report` holds, in the chapter of that name and with its caption."""
    kinds = {".png": "figure", ".tsv": "table", ".html": "page"}
    names = re.findall(r"\{\w+\}", path.removeprefix(plan.results))
    return report(
        path,
        caption=f"report/{chapter}.rst",
        category=chapter.replace("_", " ").capitalize(),
        labels={"what": kinds[Path(path).suffix], "of": ", ".join(names) or "all"},
    )


def told_nearest(build):
    """``build``, of Snakemake's plan; a target that no rule makes is told with the nearest that one does."""

    def built(*arguments, **options):
        try:
            return build(*arguments, **options)
        except MissingRuleException:
            names = [rule.name for rule in workflow.rules if not rule.has_wildcards()]
            for target in workflow.dag_settings.targets:
                near = difflib.get_close_matches(target, [*names, *scores.targets(plan)], n=1)
                if near and near[0] != target and not Path(target).exists():
                    remedy = (
                        f"did you mean {near[0]}? Targets are rules, and files of results/README.md"
                    )
                    error = InputError(
                        "the command", "target", f"{target!r}, which no rule makes", remedy
                    )
                    raise refused(error) from None
            raise

    return built


def remembering(build):
    """``build``, of Snakemake's plan: where it has forgotten a job, the job's record tells of it."""

    def forgotten():
        for job in workflow.dag.jobs:
            if job.log and not workflow.persistence.has_metadata(job):
                if memory.is_of_another(job.log[0], job.input, job.params.get("options")):
                    workflow.dag.forcefiles.update(job.output)

    def built(*arguments, **options):
        update = workflow.dag.update_needrun

        async def updated(*arguments, **options):
            forgotten()
            await update(*arguments, **options)

        workflow.dag.update_needrun = updated
        return build(*arguments, **options)

    return built


if workflow.is_main_process:
    workflow._build_dag = remembering(workflow._build_dag)
workflow._build_dag = told_nearest(workflow._build_dag)
workflow._prepare_dag = told_nearest(workflow._prepare_dag)


def queued_rules() -> dict:
    """By rule the Slurm partition that the profile names and, where it is a number, its minutes."""
    found = {}
    for named in workflow.rules:
        raw = {name: one.raw for name, one in named.resources.items()}
        if named.name not in workflow._localrules and raw.get("slurm_partition"):
            minutes = raw.get("runtime")
            found[named.name] = (
                raw["slurm_partition"],
                minutes if isinstance(minutes, int) else None,
            )
    return found


def asked(function, *arguments):
    """What a function of the plan says; a wrong question is told without a traceback."""
    try:
        return function(plan, *arguments)
    except InputError as error:
        raise WorkflowError(str(error)) from None


wildcard_constraints:
    sample=any_of([*plan.samples, *plan.parts]),
    spots=any_of(plan.config["spots"]),
    dataset=any_of(plan.datasets),
    experiment=any_of(plan.experiments),
    image=any_of(plan.encoders["image"]),
    gene=any_of(plan.encoders["gene"]),
    kind="image|gene",
    seed=r"\d+",
    audit=any_of(plan.audits),
    cohort=any_of(plan.cohorts),
    mutation=any_of(plan.mutation),
    model=any_of(plan.models),
    target=any_of({target for entry in plan.mutation.values() for target in entry.targets}),
