"""Join the cards of all datasets into one Hugging Face data set with a config per dataset.

IN   README.md of each dataset
OUT  README.md in the folder above them: load_dataset("<results>/datasets", "<dataset>")

Options: title; left_out, a line for each sample that a dataset has lost.
"""

from pathlib import Path

from pairscape.core.errors import InputError
from pairscape.core.files import atomic_path
from pairscape.core.logs import log
from pairscape.dataset import card, card_text
from pairscape.jobs import program

RESULT_VERSION = 3


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        cards=program.Many("README.md of each dataset"),
        card=program.Output("README.md to write"),
    )
    title = args.options.get("title", "Image-gene pairs")
    entries, licences, datasets, places, pairs = [], [], [], {}, 0
    for path in args.cards:
        head = card.read_front_matter(path)
        licences += card.licences_of(head)
        pairs += int(head.get("pairs", 0))
        for entry in card.move_configs(head, path, args.card):
            config = entry["config"]
            name, files = config["config_name"], config["data_files"]
            if name in places:
                twice = f"{name}, as in {places[name]}"
                raise InputError(path, "config_name", twice, "give each its own name")
            places[name] = path
            entries.append(entry)
            datasets.append(
                {
                    "name": name,
                    "version": config["version"],
                    "splits": {part["split"]: len(part["path"]) for part in files},
                    "card": card.relative(Path(path).resolve(), args.card),
                }
            )
    head = card.front_matter(title, licences, entries, pairs)
    with atomic_path(args.card) as temporary:
        text = card_text.index_text(title, datasets, args.options.get("left_out", ()))
        temporary.write_text(head + "\n" + text, encoding="utf-8")
    log.info("%d configs: %s", len(datasets), ", ".join(places))


if __name__ == "__main__":
    program.run(main)
