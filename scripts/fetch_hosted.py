"""Fetch one panel of the released data set from the Hugging Face Hub, for import_pairs.

IN   the Hub's list of files of one commit (repo, revision and panel, in the options)
OUT  the folder with its files, and the receipt: repository, commit, bytes and SHA-256 of each

A file that is there is verified and kept, a part of one is continued. The Hugging Face token comes
from HF_TOKEN or the Hugging Face login, the Hub's address from HF_ENDPOINT; neither is an option, and
neither is written anywhere.
"""

from pairscape.acquire import hosted_pairs
from pairscape.core import files
from pairscape.core.logs import log
from pairscape.jobs import program

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        folder="folder that takes the files",
        receipt=program.Output("JSON to write when all of them are there"),
    )
    asked = {key: args.options[key] for key in ("repo", "revision", "panel")}
    record = hosted_pairs.fetch(**asked, folder=args.folder)
    files.write_json(args.receipt, record)
    total = sum(file["bytes"] for file in record["files"].values())
    words = "%s: %d files, %.2f GB, of commit %s"
    log.info(words, args.folder, len(record["files"]), total / 1e9, record["commit"])


if __name__ == "__main__":
    program.run(main)
