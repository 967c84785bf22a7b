"""Describe an image encoder that timm builds, and write its file to config/encoders/image/.

IN   --model: a timm name (resnet18.a1_in1k), a repository of the Hugging Face Hub with a config.json
     of timm (owner/name), or a file of weights
OUT  <encoders>/image/<name>.yaml, in which every key can be looked over and changed; it is never
     overwritten

`pairscape describe_encoder resnet18.a1_in1k` is the same as `--model resnet18.a1_in1k`. The weights
are fetched as fetch_weights would, to where a run looks for them, unless --weights gives a file of
them; `--weights none` writes the file without checksum and fingerprint. No rule runs this program.
"""

import re
import sys
from pathlib import Path

from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.core.options import CHECKOUT
from pairscape.jobs import program

RESULT_VERSION = 1


def main(argv=None):
    words = sys.argv[1:] if argv is None else list(argv)
    if words and not words[0].startswith("-"):
        words = ["--model", *words]
    args = program.parse(
        words,
        __doc__,
        RESULT_VERSION,
        model="timm name, owner/name on the Hub, or a file of weights",
        weights="optional: a file of its weights, or none",
        architecture="optional: timm's name of the architecture, for a file without config.json",
        name="optional: name of the encoder; by default from the model's",
        title="optional: name for tables and messages",
        encoders="optional: folder of image/ and gene/; config/encoders of the checkout",
        weights_folder="optional: folder for fetched weights; weights",
    )
    path_of_model = Path(args.model)
    shown = path_of_model.stem if path_of_model.is_file() else args.model.rpartition("/")[2]
    name = args.name or re.sub(r"[^a-z0-9]+", "_", shown.lower()).strip("_")
    if not re.fullmatch("[a-z0-9_]+", name):
        raise InputError("--name", "name", repr(name), "use letters a to z, digits and `_`")
    path = Path(args.encoders or CHECKOUT / "config" / "encoders") / "image" / f"{name}.yaml"
    if path.exists():
        raise InputError(path, "file", "an encoder of that name", "give another --name")

    import timm

    from pairscape.acquire import hub, weight_downloads
    from pairscape.encoders import described, image_encoders

    source = described.find_source(args.model, args.architecture, timm, hub.model_config)
    spec, pool = described.describe(source, args.title or shown, timm)
    log.info(
        "%s: width %d, %d parameters, input of %d px (%s), mean %s, std %s, pool %s",
        name,
        spec["width"],
        spec["parameters"],
        spec["input"]["crop_px"],
        spec["input"]["interpolation"],
        spec["input"]["mean"],
        spec["input"]["std"],
        pool,
    )
    weights = args.weights or (args.model if path_of_model.is_file() else None)
    if weights is None:
        folder = Path(args.weights_folder or "weights")
        weights = folder / "image" / name / Path(spec["weights"]["file"]).name
        weight_downloads.fetch(spec, path, weights, f"{weights}.source.json")
    if str(weights) != "none":
        tower = image_encoders.build(spec, weights)
        values = image_encoders.fingerprint(tower, spec)
        spec["weights"]["sha256"] = files.sha256_file(weights)
        spec["fingerprint"] = {"values": values, "tolerance": described.TOLERANCE}
        log.info("%s: fingerprint %s", name, values)
    text = described.text_of(spec, args.model, path)
    with files.atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    log.info("%s: written; name it under image_encoders of an experiment", path)


if __name__ == "__main__":
    program.run(main)
