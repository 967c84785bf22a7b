"""Upload the folder of datasets to the Hugging Face Hub.

IN   <results>/datasets/: the card over all datasets, and what it names
OUT  pushed.json: repository, commit, and the configs with their versions

Options: repo, private, samples (sample and license of each).

The token comes from HF_TOKEN or the Hugging Face login, the Hub's address from HF_ENDPOINT; neither
is an option, and neither is written anywhere. Only what load_dataset needs goes up: cards, their
pictures, tables and the shards that a config names.
"""

import os
from pathlib import Path

from pairscape.acquire.downloads import refuse_secret
from pairscape.core.errors import InputError
from pairscape.core.files import write_json
from pairscape.core.logs import log
from pairscape.dataset import card
from pairscape.dataset.splits import SPLITS, read_with_leaks
from pairscape.jobs import program

RESULT_VERSION = 2
TABLES = (
    "*.md",
    "*/genes.tsv",
    "*/splits.tsv",
    "*/leakage.tsv",
    "*/patch_leakage.tsv",
    f"*/{card.PREVIEW}",
)
REMEDIES = {
    401: "log in (`hf auth login`) or set HF_TOKEN",
    403: "use a token that may write to this repository",
    404: "check the repository's name and that your token may see it",
}
LAYOUT = tuple(f"*/data/*{card.LAYOUT_SUFFIX}/{split}.csv" for split in SPLITS)


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        card="README.md over all datasets",
        pushed=program.Output("pushed.json to write"),
    )
    repo, private = args.options.get("repo"), args.options.get("private", True)
    if not repo:
        remedy = "name the repository, `hub: {repo: <owner>/<name>}`"
        raise InputError("configuration", "hub.repo", "nothing", remedy)
    for sample in args.options.get("samples", ()):
        if not private and not sample["license"]:
            raise InputError(
                "sample table",
                f"sample {sample['sample']}, license",
                "nothing, and the repository is to be public",
                "state the licence under which it may be passed on, or set hub.private: true",
            )
    folder = Path(args.card).resolve().parent
    head = card.read_front_matter(args.card)
    configs = [entry["config"] for entry in card.move_configs(head, args.card, args.card)]
    parts = [part for config in configs for part in config["data_files"]]
    shards = sorted({path for part in parts for path in part["path"]})
    for path in shards:
        if path.startswith("..") or not (folder / path).is_file():
            raise InputError(args.card, f"data file {path}", "nothing there", "run index_datasets")
    for splits in sorted(folder.glob("*/splits.tsv")):
        read_with_leaks(splits, splits.with_name("leakage.tsv"))
    total = sum((folder / path).stat().st_size for path in shards)
    log.info("%s: %d shards, %.1f MB", repo, len(shards), total / 1e6)
    commit = _upload(folder, repo, private, [*TABLES, *LAYOUT, *shards])
    versions = {config["config_name"]: config["version"] for config in configs}
    write_json(args.pushed, {"repo": repo, "commit": commit, "configs": versions})
    log.info("%s: uploaded as commit %s", repo, commit)


def _upload(folder: Path, repo: str, private: bool, patterns: list[str]) -> str:
    """Make the repository where there is none, and commit the files; returns the commit."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    # Whichever library it talks through: an error of the Hub is one of that library's, too.
    transport = [base for base in HfHubHTTPError.__bases__ if base is not OSError]
    api = HfApi()
    refuse_secret(get_token() or "", f"{api.endpoint}/datasets/{repo}", "HF_TOKEN")
    try:
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=patterns,
            commit_message="Image-gene pairs built by Pairscape",
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, *transport) as error:
        # The message of the Hub may hold the request; its first line says what is wrong.
        status = getattr(getattr(error, "response", None), "status_code", None)
        fault = f"status {status}" if status else type(error).__name__
        remedy = "check the connection and run it again: what is up there already isn't sent twice"
        raise InputError(
            f"{api.endpoint}/datasets/{repo}", "upload", fault, REMEDIES.get(status, remedy)
        ) from None
    return commit.oid


if __name__ == "__main__":
    program.run(main)
