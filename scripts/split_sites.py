"""Deal the patients of a cohort to folds that keep sites whole and balance the label.

IN   the cohort table
OUT  the folds (patient, site, label, fold) and how balanced they are, as JSON

Options: cohort (its name), target (a column of the table), folds, seed, leaking (deal patients
whatever their site, to see what that does). Patients without a label are left out.
"""

from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.core.options import require_options
from pairscape.jobs import program
from pairscape.slides import cohorts, site_folds

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        cohort="cohort table",
        folds=program.Output("table of folds to write"),
        balance=program.Output("JSON to write"),
    )
    require_options(args.options, "cohort", "target", "folds", "seed")
    target, folds, seed = (args.options[name] for name in ("target", "folds", "seed"))
    leaking = bool(args.options.get("leaking", False))
    if not isinstance(folds, int) or folds < 3:
        remedy = "give 3 or more: one tests, one chooses"
        raise InputError("--options", "folds", repr(folds), remedy)
    cohort = cohorts.read_cohort(args.cohort)
    patients = cohorts.labelled_patients(cohort, target, args.cohort, sites=not leaking)
    rows, balance = site_folds.deal_folds(
        patients, folds, seed, leaking=leaking, source=args.cohort
    )
    balance |= {"cohort": args.options["cohort"], "target": target}
    balance |= {"unlabelled": len({r["patient"] for r in cohort}) - len(rows)}
    site_folds.FOLDS.write(args.folds, rows)
    files.write_json(args.balance, balance)
    words = f"{target}: {site_folds.balance_words(balance)}"
    if any(held["lacks"] for held in balance["by_fold"]):
        log.warning("%s; fit_mutation will refuse these folds: ask for fewer of them", words)
    else:
        log.info("%s", words)


if __name__ == "__main__":
    program.run(main)
