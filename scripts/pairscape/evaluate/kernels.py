"""Loops that numba compiles on first use: importing numba takes longer than importing a module."""

import functools


def compiled(**options):
    """Decorate a loop to be compiled when it is first called; ``options`` are more of numba's."""

    def decorate(loop):
        @functools.cache
        def kernel():
            import numba

            return numba.njit(cache=True, nogil=True, **options)(loop)

        return functools.wraps(loop)(lambda *arguments: kernel()(*arguments))

    return decorate
