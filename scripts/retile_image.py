"""Write an H&E image without tiles anew: tiled, with a pyramid, every pixel kept.

IN   the H&E image of a sample whose row says `untiled` in the column he_layout
OUT  a BigTIFF of 512 px tiles, deflated, which all later steps read

The image is streamed, so that it never stands in memory. One that can be read as it is only gets
a second name.
"""

import os
from pathlib import Path

from pairscape.core import files
from pairscape.core.logs import log
from pairscape.jobs import program

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        he_image="H&E image of the sample",
        tiled=program.Output("image to write"),
    )
    from pairscape.images.retiling import retile
    from pairscape.images.tiff import TiffImage

    source, target = Path(args.he_image), Path(args.tiled)
    with TiffImage(source, any_layout=True) as slide:
        tiled, size = slide.is_tiled, f"{slide.width} x {slide.height} pixels"
    if tiled:
        with files.atomic_path(target) as temporary:
            os.symlink(os.path.relpath(source.resolve(), target.parent.resolve()), temporary)
        log.info("%s: %s, tiled already: linked", source, size)
        return
    retile(source, target)
    log.info("%s: %s, retiled to %s", source, size, target)


if __name__ == "__main__":
    program.run(main)
