"""Join the cards of all datasets into one Hugging Face data set with a config per dataset.

IN   README.md of each dataset
OUT  README.md in the folder above them: load_dataset("<results>/datasets", "<dataset>")

Options: title.
"""

import os
from pathlib import Path

from pairscape.core.errors import InputError
from pairscape.core.files import atomic_path
from pairscape.core.logs import log
from pairscape.dataset import card
from pairscape.jobs import program

RESULT_VERSION = 2


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        cards=program.Many("README.md of each dataset"),
        card=program.Output("README.md to write"),
    )
    title = args.options.get("title", "Image-gene pairs")
    folder = Path(args.card).resolve().parent
    entries, licences, told, places = [], [], [], {}
    for path in args.cards:
        head = card.read_front_matter(path)
        licences += str(head.get("license_name", "")).split("; ")
        for entry in card.move_configs(head, path, args.card):
            config = entry["config"]
            name = config["config_name"]
            if name in places:
                raise InputError(
                    path, "config_name", f"{name}, as in {places[name]}", "give each its own name"
                )
            places[name] = path
            entries.append(entry)
            told.append(
                {
                    "name": name,
                    "version": config["version"],
                    "splits": {
                        files["split"]: len(files["path"]) for files in config["data_files"]
                    },
                    "card": Path(os.path.relpath(Path(path).resolve(), folder)).as_posix(),
                }
            )
    head = card.front_matter(title, licences, entries)
    with atomic_path(args.card) as temporary:
        temporary.write_text(head + "\n" + card.index_text(title, told))
    log.info("%d configs: %s", len(told), ", ".join(dataset["name"] for dataset in told))


if __name__ == "__main__":
    program.run(main)
