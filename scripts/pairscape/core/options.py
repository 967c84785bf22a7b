"""Options by the schemas of ``workflow/schemas``: defaults filled in, unknown keys refused."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator

from pairscape.core.errors import InputError, allowed_words

CHECKOUT = Path(__file__).parents[3]
SCHEMAS = CHECKOUT / "workflow" / "schemas"
_OTHER_FILE = re.compile(r"\w+\.schema\.yaml#")

# The patterns of the schemas in words.
PATTERNS = {
    r"^[A-Za-z0-9_-]+$": "letters of English, digits, `_` and `-` alone: it stands in paths",
    r"^[^{}]+$": "a path without braces, which Snakemake reads as wildcards",
    r"^https?://.*/$": "an address that begins with http:// or https:// and ends with /",
    r"^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+$": "a repository, <owner>/<name>",
    r"^[0-9a-f]{64}$": "a SHA-256: 64 digits of 0 to 9 and a to f",
    r"^([0-9.]+)?$": "a number with a point, such as 0.2125, or nothing",
    r"^[0-9]*$": "a whole number, or nothing",
    r"^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})?$": "`sha256:` or `md5:` and the checksum, or nothing",
    r"^epoch$": "a whole number of steps, or `epoch`",
}

# As Python writes them, which is how Snakemake hands them on to the jobs of a cluster.
_WORDS = {"True": "true", "False": "false", "None": "null"}


def load_yaml(text: str):
    """What a YAML text says. The loader in C reads a configuration's files in a tenth of the time."""
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def typed(value):
    """A value of the command line as a configuration's file would have it.

    Inside mappings and lists Snakemake leaves what ``--config`` gives as text.
    """
    if isinstance(value, Mapping):
        return {key: typed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [typed(one) for one in value]
    try:
        # Not YAML: its `no` and `12:30` are a truth and a number.
        found = json.loads(_WORDS.get(value, value)) if isinstance(value, str) else value
    except ValueError:
        return value
    return found if found is None or isinstance(found, bool | int | float) else value


def read_schema(name: str) -> dict:
    """One of the JSON schemas of ``workflow/schemas``, with the ``$defs`` of those it refers to."""
    schema, definitions, waiting, read = {}, {}, [name], set()
    while waiting:
        part = waiting.pop()
        if part in read:
            continue
        read.add(part)
        text = (SCHEMAS / f"{part}.schema.yaml").read_text(encoding="utf-8")
        waiting += re.findall(r"(\w+)\.schema\.yaml#", text)
        content = load_yaml(_OTHER_FILE.sub("#", text))
        definitions |= content.pop("$defs", {})
        schema |= content
    return {**schema, "$defs": definitions} if definitions else schema


def resolve_part(part: str, values: Mapping, source="--options") -> dict:
    """One part of the configuration (``training``, ``simulation``, ...) with its defaults, checked.

    For programs that are run by hand: the schema is the only place of defaults and ranges.
    """
    if not isinstance(values, Mapping):
        raise InputError(source, part, repr(values), "give an object of keys and values")
    root = read_schema("config")
    schema = {**root["$defs"][part], "$defs": root["$defs"]}
    resolved = with_defaults(dict(values), schema, root)
    refuse_invalid(resolved, schema, source, part)
    return resolved


def require_options(options: Mapping, *names: str) -> None:
    """Refuse the options of a program that lack one of these."""
    for name in names:
        if name not in options:
            raise InputError("--options", name, "nothing", "give it")


def with_defaults(value, schema: Mapping, root: Mapping):
    """A copy of ``value`` in which every missing key has its schema's default."""
    schema = _follow(schema, root)
    for option in (_follow(option, root) for option in schema.get("oneOf", [])):
        if option.get("type") == "object" and isinstance(value, Mapping):
            schema = option
    if isinstance(value, Mapping):
        known = schema.get("properties", {})
        filled = {}
        for key, part in known.items():
            part = {**_follow(part, root), **{k: v for k, v in part.items() if k != "$ref"}}
            if key in value:
                filled[key] = with_defaults(value[key], part, root)
            elif "default" in part:
                filled[key] = with_defaults(part["default"], part, root)
        others = schema.get("additionalProperties")
        for key in value:
            if key not in known:
                filled[key] = (
                    with_defaults(value[key], others, root)
                    if isinstance(others, Mapping)
                    else value[key]
                )
        return filled
    if isinstance(value, list) and "items" in schema:
        return [with_defaults(item, schema["items"], root) for item in value]
    return value


def _follow(schema: Mapping, root: Mapping) -> Mapping:
    while "$ref" in schema:
        target = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**target, **rest}
    return schema


def refuse_invalid(value, schema: Mapping, source, place: str) -> None:
    errors = sorted(Draft202012Validator(schema).iter_errors(value), key=lambda e: list(e.path))
    if not errors:
        return
    error = errors[0]
    while error.context:  # inside an anyOf/oneOf: the branch that fits best
        error = max(error.context, key=lambda e: (len(e.path), e.validator != "type"))
    field = ".".join([place] if place else []) + _dotted(error.absolute_path, bool(place))
    described = error.schema.get("description", "")
    if error.validator == "additionalProperties":
        allowed = sorted(error.schema.get("properties", {}))
        extra = next(key for key in error.instance if key not in allowed)
        fault = f"the unknown key {extra!r}"
        raise InputError(source, field or "top level", fault, allowed_words(extra, allowed))
    if error.validator == "required":
        missing = re.match(r"'(.*?)' is a required", error.message).group(1)
        raise InputError(source, field or "top level", f"no key {missing!r}", f"add {missing}")
    if error.validator == "enum":
        allowed = ", ".join(str(item) for item in error.schema["enum"] if item != "")
        raise InputError(source, field, repr(error.instance), f"allowed: {allowed}")
    if error.validator == "pattern" and error.schema["pattern"] in PATTERNS:
        remedy = f"use {PATTERNS[error.schema['pattern']]}"
        raise InputError(source, field or "top level", repr(error.instance), remedy)
    remedy = f"give what the schema asks for: {described or error.validator}"
    raise InputError(source, field or "top level", f"{error.instance!r} ({error.message})", remedy)


def _dotted(path, after: bool) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text or after else ''}{part}"
    return text
