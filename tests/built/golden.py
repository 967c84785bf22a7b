"""The weights and inputs of the golden references, which are formulas (golden/README.md there)."""

import hashlib
import json
import re
import zlib

import numpy as np
import pytest
import torch

ATOL = 2e-5  # float32 on a CPU
DEEP_ATOL = 1e-4  # the deepest models, and another order of summation
WEIGHT_SETS = ("a", "b")
# For what is large: the second set in `make test-slow` alone.
LARGE_SETS = ("a", pytest.param("b", marks=pytest.mark.slow))


def generator(seed: int) -> np.random.Generator:
    """The generator of all formulas."""
    return np.random.Generator(np.random.PCG64(seed))


def read(shared, name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """A golden reference: its facts, and its arrays, each checked against its sum."""
    facts = json.loads((shared / "golden" / f"{name}.json").read_text())
    with np.load(shared / "golden" / f"{name}.npz") as stored:
        arrays = {key: stored[key] for key in stored.files}
    for key, value in arrays.items():
        declared = facts.get("arrays", {}).get(key)
        if declared:
            found = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
            assert found == declared["sha256"], key
    return facts, arrays


def stated(facts: dict, name: str, pattern: str) -> tuple[str, ...]:
    """What the reference's own statement about its input ``name`` says: the groups of a pattern."""
    statement = facts["input"].get(name)
    assert statement, f"{facts['name']}.json, input: no {name}; it has {', '.join(facts['input'])}"
    match = re.search(pattern, statement)
    assert match, f"{facts['name']}.json, input, {name}: {pattern!r} isn't stated in {statement!r}"
    return match.groups()


def seed(facts: dict, name: str) -> int:
    """The seed of the input ``name``."""
    (number,) = stated(facts, name, r"PCG64\((\d+)\)")
    return int(number)


def inputs(facts: dict, name: str) -> torch.Tensor:
    """The input ``name`` where its statement is a whole formula: seed, distribution and shape."""
    pattern = r"PCG64\(\d+\)\)\.(random|standard_normal)\(\(([\d, ]+)\)\)\.astype\(float32\)"
    distribution, shape = stated(facts, name, pattern)
    draw = getattr(generator(seed(facts, name)), distribution)
    return torch.from_numpy(draw([int(side) for side in shape.split(",")]).astype(np.float32))


def retrieval_case(facts: dict, case: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and genes of a case of the reference for retrieval metrics."""
    numbers = stated(facts, "retrieval", rf"\b{case}: N=(\d+) seed (\d+) noise (\d+)")
    count, case_seed, noise = map(int, numbers)
    rng = generator(case_seed)
    images = rng.standard_normal((count, 128))
    genes = images + noise * rng.standard_normal((count, 128))
    return images.astype(np.float32), genes.astype(np.float32)


def entry(name: str, shape, rule: str, weight_set: str) -> torch.Tensor:
    """One entry of a state dict by its name, as a float32 tensor. The rule ``keep`` has none."""
    if weight_set not in WEIGHT_SETS:
        raise ValueError(weight_set)
    if weight_set == "a":
        scale = 0.02
    elif len(shape) < 2:
        scale = 0.1
    else:
        scale = 0.5 if len(shape) == 3 else 1 / np.sqrt(np.prod(shape[1:]))
    value = generator(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    value = np.asarray(np.multiply(value, scale)).astype(np.float32)
    if rule == "n1":
        value = np.float32(1) + value
    elif rule == "var":
        value = np.abs(value) * np.float32(10) + np.float32(0.5)
    elif rule != "n":
        raise ValueError(f"{name}: no formula for the rule {rule!r}")
    return torch.from_numpy(np.asarray(value))


def state(entries, weight_set: str, keep=None) -> dict[str, torch.Tensor]:
    """A state dict in the official layout.

    ``entries`` are lines ``[name, shape, dtype, rule]``; ``keep`` gives the values of entries with
    the rule ``keep`` (a mapping by name); without it these are left out.
    """
    found = {}
    for name, shape, dtype, rule in entries:
        if rule != "keep":
            assert dtype == "float32", name
            found[name] = entry(name, shape, rule, weight_set)
        elif keep is not None:
            assert list(keep[name].shape) == list(shape), name
            found[name] = keep[name]
    return found


def names_shapes_sha256(named_shapes) -> str:
    """The check sum of names and shapes: ``named_shapes`` are pairs (name, shape)."""
    lines = sorted(f"{name} {'x'.join(map(str, s)) or 'scalar'}" for name, s in named_shapes)
    return hashlib.sha256(("\n".join(lines) + "\n").encode()).hexdigest()


def weights_sha256(tensors: dict[str, torch.Tensor]) -> str:
    """The check sum of values: ``tensors`` without the entries of rule ``keep``."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def largest_difference(found, expected) -> float:
    """Largest absolute difference of two arrays of one shape; nan where one of them holds nan."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"{found.shape} instead of {expected.shape}"
    return float(np.abs(found.astype(np.float64) - expected).max())
