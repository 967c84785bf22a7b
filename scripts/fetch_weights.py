"""Bring a file of an encoder's weights; a login node can do it for compute nodes without a network.

IN   the encoder's declaration (kind, name and encoder, in the options)
OUT  the file, and beside it <file>.source.json: where it comes from, revision, SHA-256, licence

The path's last part tells which file it is: the weights or one of the extra files. A file that lies
there is verified and taken. The Hugging Face token comes from HF_TOKEN or the Hugging Face login,
the Hub's address from HF_ENDPOINT; neither is an option, and neither is written anywhere.
"""

from pairscape.acquire import weight_downloads
from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.encoders import specs
from pairscape.jobs import program

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        weights=program.OutputShared("the file to write"),
        source=program.Output(
            "optional: the JSON to write; <weights>.source.json if it isn't given"
        ),
    )
    kind, name, spec = (args.options[key] for key in ("kind", "name", "encoder"))
    file = f"config/encoders/{kind}/{name}.yaml"
    specs.require_built(spec, file)
    source = spec["weights"]["source"] if spec["weights"] else "none"
    if source in ("package", "none"):
        remedy = f"there is nothing to fetch for {name}: use it without this step"
        raise InputError(file, "weights.source", source, remedy)
    told_in = args.source or f"{args.weights}.source.json"
    record = weight_downloads.fetch(spec, file, args.weights, told_in)
    program.also_made(told_in)
    log.info("%s: %.1f MB, SHA-256 %s", args.weights, record["bytes"] / 1e6, record["sha256"])


if __name__ == "__main__":
    program.run(main)
