"""Bring the weights of an encoder; a login node can do it for compute nodes without a network.

IN   the encoder's declaration (kind, name and encoder, in the options)
OUT  the weights file
"""

from pairscape import encoders, program
from pairscape.errors import InputError

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(argv, __doc__, RESULT_VERSION, weights="the weights file to write")
    kind, name, spec = (args.options[key] for key in ("kind", "name", "encoder"))
    file = f"config/encoders/{kind}/{name}.yaml"
    encoders.require_built(spec, file)
    source = spec["weights"]["source"] if spec["weights"] else "none"
    if source in ("package", "none"):
        raise InputError(
            file,
            "weights.source",
            source,
            f"there is nothing to fetch for {name}: use it without this step",
        )
    raise InputError(
        file,
        "weights.source",
        f"{source}, which isn't fetched by this version",
        f"put {spec['weights']['file']} of {spec['weights']['location']} at {args.weights}",
    )


if __name__ == "__main__":
    program.run(main)
