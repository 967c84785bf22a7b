"""HDF5 files that hold all their data themselves."""

import contextlib
from collections.abc import Iterator

from pairscape.core.errors import InputError


@contextlib.contextmanager
def open_hdf5(path) -> Iterator:
    """Open a file to read it, and refuse one whose data lie in others.

    A link elsewhere escapes the checksum of the file, and may name any file of this machine.
    ``OSError``: it isn't there, or is no HDF5.
    """
    import h5py

    with h5py.File(path, "r") as file:
        elsewhere = next(_elsewhere(file), None)
        if elsewhere:
            name, found = elsewhere
            remedy = "write it anew with its data in it, e.g. by h5repack, or get the file itself"
            raise InputError(path, name, found, remedy)
        yield file


def _elsewhere(file) -> Iterator[tuple[str, str]]:
    import h5py

    groups, known = [file], {file["/"]}
    while groups:
        group = groups.pop()
        for name in group:
            kind = group.get(name, getlink=True)
            if isinstance(kind, h5py.ExternalLink):
                yield f"{group.name}/{name}".replace("//", "/"), "a link to another file"
            if not isinstance(kind, h5py.HardLink):
                continue
            part = group[name]
            if isinstance(part, h5py.Group) and part not in known:  # they may hold each other
                known.add(part)
                groups.append(part)
            elif isinstance(part, h5py.Dataset) and (part.is_virtual or part.external):
                yield part.name, "data that lie in another file"
