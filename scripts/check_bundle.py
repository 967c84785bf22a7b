"""Check a raw bundle, its H&E image and its alignment before anything long is made from them.

IN   a Xenium bundle; its H&E and alignment where it has them; the gene list of its panel, if any
OUT  a report (JSON): verdict, findings, facts. A bundle with an error has no report under that
     name, so that nothing goes on from it: its findings are said, and kept in <report>.failed.json
"""

from pathlib import Path

from pairscape.acquire import bundle_checks, findings, refusals, transcript_checks
from pairscape.core import files, logs
from pairscape.core.errors import InputError
from pairscape.jobs import program

RESULT_VERSION = 4


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        bundle="folder of the bundle",
        he_image="optional: H&E image",
        he_alignment="optional: matrix of H&E pixels to morphology pixels",
        panel="optional: genes that the panel should have (gene_symbol, ensembl_id)",
        report=program.Output("check.json to write"),
    )
    with refusals.kept(args.report, args.options.get("sample", {})):
        _check(args)


def _check(args) -> None:
    report = bundle_checks.check_bundle(
        args.bundle,
        args.options.get("sample", {}),
        he_image=args.he_image,
        he_alignment=args.he_alignment,
        panel_file=args.panel,
    )
    report["result_version"] = RESULT_VERSION
    failed = Path(args.report).with_suffix(".failed.json")
    files.remove(failed)
    errors = [finding for finding in report["findings"] if finding["level"] == "error"]
    for finding in report["findings"]:
        if finding not in errors[:1]:
            say = logs.log.info if finding["level"] == "note" else logs.log.warning
            say("%s", findings.describe(finding))
    if errors:
        files.remove(args.report)
        files.write_json(failed, report)
        first = errors[0]
        found = first["found"] + (f" (expected {first['expected']})" if first["expected"] else "")
        raise InputError(first["file"], first["field"], found, first["remedy"])
    files.write_json(args.report, report)
    facts = report["facts"]
    logs.log.info(
        "%s: %s, %d transcripts of %d genes, %d of quality %d or more",
        report["sample"] or args.bundle,
        report["verdict"],
        facts["gene_transcripts"],
        facts["panel_genes"],
        facts["gene_transcripts_q20"],
        transcript_checks.GOOD_QV,
    )


if __name__ == "__main__":
    program.run(main)
