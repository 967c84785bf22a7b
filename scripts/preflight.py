"""List everything that a configuration still lacks, a line each; nothing is fetched or started.

IN   what the plan found (options)
OUT  lines on the console

Options: lacks (lines that the plan found); here (whether jobs run on this machine, which then should
have a GPU driver); rules (by name the Slurm partition and, where it is a number, the minutes of each;
empty without Slurm).
"""

from pairscape.core import devices
from pairscape.core.logs import log
from pairscape.jobs import program, slurm_partitions

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(argv, __doc__, RESULT_VERSION)
    lines = [*args.options["lacks"]]
    if args.options.get("here"):
        lines += _of_driver()
    if args.options.get("rules"):
        lines += _of_slurm(args.options["rules"])
    for line in lines:
        log.warning("%s", line)
    count = f"{len(lines)} thing(s) are lacking" if lines else "nothing is lacking"
    log.info("%s", count)


def _of_driver() -> list[str]:
    from torch.version import cuda

    lack = devices.driver_lack(cuda)
    return [f"GPU: {lack}; without it jobs compute on the CPU"] if lack else []


def _of_slurm(rules) -> list[str]:
    said = slurm_partitions.ask()
    if said is None:
        return ["Slurm: sinfo gives no answer; run this on a login node"]
    return slurm_partitions.lacks(rules, said)


if __name__ == "__main__":
    program.run(main)
