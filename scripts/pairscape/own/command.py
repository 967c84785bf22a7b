"""The command `pairscape`: look at a bundle, write a configuration of it, run one, run any program."""

import argparse
import os
import runpy
import subprocess
import sys
from pathlib import Path

from pairscape.acquire.sources import ENDINGS
from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.core.options import CHECKOUT
from pairscape.jobs import program
from pairscape.own import template

PROGRAMS = sorted(path.stem for path in (CHECKOUT / "scripts").glob("*.py"))
DESCRIPTION = f"""Image-gene pairs of your own tissue.

pairscape check BUNDLE          what is wrong with a bundle, and a picture of it with its H&E
pairscape new FOLDER --bundle BUNDLE    that, and a configuration of it
pairscape run [FOLDER]          make all that the configuration asks for; further words go to Snakemake
pairscape PROGRAM ...           a program of scripts/: {", ".join(PROGRAMS[:4])}, ...
pairscape completion            lines for your shell: eval "$(pairscape completion)"
"""


def main() -> None:
    """Run the command, and leave as all programs do: a bad input is one line."""
    words = sys.argv[1:]
    if words and words[0] in PROGRAMS:
        _run_program(words)
    else:
        program.run(lambda: _dispatch(words))


def _dispatch(words: list[str]) -> None:
    commands = {"check": _check, "new": _new, "run": _run, "completion": _completion}
    parser = argparse.ArgumentParser(
        prog="pairscape",
        description=DESCRIPTION,
        usage=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=[*commands, *PROGRAMS], metavar="COMMAND")
    chosen = parser.parse_args(words[:1]).command
    commands[chosen](words[1:])


def _run_program(words: list[str]) -> None:
    folder = CHECKOUT / "scripts"
    sys.path.insert(0, str(folder))
    sys.argv = [str(folder / f"{words[0]}.py"), *words[1:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _sample_arguments(command: str, what: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"pairscape {command}", description=what)
    parser.add_argument(
        "--he", help=f"H&E image; the only *{ENDINGS['he_image']} of the bundle if left out"
    )
    parser.add_argument(
        "--alignment",
        help=f"alignment file, or {', '.join(template.ALIGNMENT_WORDS)}, register; the only"
        f" *{ENDINGS['he_alignment']} of the bundle if left out",
    )
    parser.add_argument(
        "--um-per-px", default="", help="pixel size of the H&E, if it doesn't say it"
    )
    return parser


def _check(words: list[str]) -> None:
    parser = _sample_arguments("check", "Check a bundle, and draw it with its H&E.")
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("--out", type=Path, help="folder of the report and the picture")
    args = parser.parse_args(words)
    _look(_row(args, args.bundle.resolve().name), args.out)


def _new(words: list[str]) -> None:
    parser = _sample_arguments("new", "Check a bundle, and write a configuration of it.")
    parser.add_argument("folder", type=Path, help="folder to write config.yaml and samples.tsv to")
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--donor", help="whose tissue it is, if it has a name")
    parser.add_argument("--organ", help="organ of the tissue")
    args = parser.parse_args(words)
    row = _row(args, args.folder.resolve().name, donor=args.donor, organ=args.organ)
    _look(row, args.folder / "check")
    path = template.write(args.folder, row)
    log.info("%s: written; next: pairscape run %s", path, args.folder)


def _run(words: list[str]) -> None:
    own = words[:1] if words and not words[0].startswith("-") and Path(words[0]).exists() else []
    path = Path(own[0] if own else CHECKOUT / "config" / "own")
    path = (path / "config.yaml" if path.is_dir() else path).resolve()
    if not path.is_file():
        raise InputError(path, "file", "nothing", "pairscape new makes one")
    asked = words[len(own) :]
    targets = [] if named_targets(asked) else ["all", "viewers"]
    command = [sys.executable, "-m", "snakemake", *targets, *asked]
    if not {"--cores", "-c", "-j", "--jobs", "--profile"} & {word.split("=")[0] for word in words}:
        command += ["--cores", str(len(os.sched_getaffinity(0)))]
    command += ["--workflow-profile", str(CHECKOUT / "profiles" / "local")]
    command += ["--directory", str(CHECKOUT), "--snakefile", str(CHECKOUT / "Snakefile")]
    done = subprocess.run([*command, "--configfile", str(path)], cwd=CHECKOUT)
    sys.exit(done.returncode)


def named_targets(words: list[str]) -> list[str]:
    """Those of the words for Snakemake that are targets, and no option or value of one."""
    if all(word.startswith("-") for word in words):
        return []  # without a second to import it
    from snakemake.cli import get_argument_parser

    return [*get_argument_parser().parse_known_args(words)[0].targets]


def _completion(words: list[str]) -> None:
    print(f'complete -W "check new run {" ".join(PROGRAMS)}" -o default pairscape')


def _row(args, name: str, **facts) -> dict:
    if not args.bundle.is_dir():
        remedy = "name the folder that holds experiment.xenium (unzip the published zip)"
        raise InputError(args.bundle, "folder", "nothing", remedy)
    he_image = template.find_beside(args.bundle, args.he, ENDINGS["he_image"])
    given = args.alignment
    ending = ENDINGS["he_alignment"]
    alignment = template.find_beside(args.bundle, given, ending) if he_image else ""
    return template.sample_row(
        name, args.bundle, he_image, alignment, um_per_px=args.um_per_px, **facts
    )


def _look(row: dict, out: Path | None) -> None:
    """Run the checks of a sample, and say where its picture is."""
    import json

    sys.path.insert(0, str(CHECKOUT / "scripts"))
    import check_alignment
    import check_bundle

    out = out or Path("results", "check", row["sample"])
    options = ["--options", json.dumps({"sample": row})]
    given = ["--bundle", row["bundle"]]
    if row["he_image"] != "none":
        given += ["--he-image", row["he_image"]]
    if row["he_alignment"] not in ("", *template.ALIGNMENT_WORDS):
        given += ["--he-alignment", row["he_alignment"]]
    check_bundle.main([*given, "--report", str(out / "check.json"), *options])
    if row["he_image"] == "none" or row["he_alignment"] == "register":
        log.info("%s: no alignment to look at yet", row["sample"])
        return
    overlay = out / "overlay.png"
    made = ["--report", str(out / "alignment.json"), "--overlay", str(overlay)]
    check_alignment.main([*given, *made, *options])
    log.info("%s: see %s", row["sample"], overlay)


if __name__ == "__main__":
    main()
