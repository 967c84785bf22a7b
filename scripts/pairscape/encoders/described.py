"""The file of an image encoder, written from what timm, the Hub or a weights file tells of it."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from pairscape.core.errors import InputError, allowed_words
from pairscape.core.options import load_yaml, read_schema, refuse_invalid

TOLERANCE = 0.005  # of a fingerprint, for other processors
NOT_STATED = "not stated"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_HUB = re.compile(r"(?:hf[-_]hub:)?([A-Za-z0-9][\w.-]*/[\w.-]+)")
_HEAD = """# Written by describe_encoder from {model}.
# See tf_efficientnet_lite0.yaml for what each key means.
"""


@dataclass(frozen=True)
class Source:
    """A model as its source tells of it: how timm builds it, its input, and where its weights are."""

    model: str  # as it was asked for
    architecture: str
    arguments: dict
    input: dict  # timm's words: input_size, mean, std, interpolation, num_classes, license
    weights: dict  # source, location, file, gated


def find_source(model: str, architecture: str | None, timm, ask_hub: Callable) -> Source:
    """What a timm name, ``owner/name`` of the Hub, or a weights file tells.

    ``ask_hub`` gives of a repository the path of its config.json, and what the Hub says of it
    (``acquire.hub.model_config``). A weights file has a ``config.json`` of timm beside it, or the
    ``architecture`` is given.
    """
    path = Path(model)
    if path.is_file():
        config = path.with_name("config.json")
        told = _read_config(config) if config.is_file() and not architecture else {}
        told.setdefault("architecture", architecture)
        weights = {"source": "path", "location": str(path.resolve()), "file": path.name}
    elif match := _HUB.fullmatch(model):
        told, weights = _hub_source(match[1], *ask_hub(match[1]))
    else:
        told = {"architecture": model}
        weights = {"source": "huggingface", "location": None, "file": _WEIGHTS[0]}
    name = told["architecture"]
    if not name:
        remedy = "give --architecture, the name by which timm builds it"
        raise InputError(path, "architecture", "no config.json beside it", remedy)
    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    plain = name.partition(".")[0]
    if not timm.is_model(plain):
        raise InputError(
            "--model", "timm model", repr(name), allowed_words(plain, timm.list_models())
        )
    told_input = {**(known.to_dict() if known else {}), **told.get("pretrained_cfg", {})}
    weights["location"] = weights["location"] or told_input.get("hf_hub_id")
    return Source(
        model, plain, told.get("model_args") or {}, told_input, {"gated": False, **weights}
    )


def _read_config(path: Path) -> dict:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return told if told["architecture"] else {}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(path, "architecture", f"no timm model ({error})", "correct it") from None


def _hub_source(repo: str, config, info) -> tuple[dict, dict]:
    """``config.json`` of a repository, and where its weights are."""
    told = _read_config(Path(config))
    files = {one.rfilename for one in info.siblings or ()}
    file = next((name for name in _WEIGHTS if name in files), _WEIGHTS[0])
    licence = (info.card_data or {}).get("license")
    told["pretrained_cfg"] = {"license": licence, **told.get("pretrained_cfg", {})}
    return told, {
        "source": "huggingface",
        "location": repo,
        "file": file,
        "gated": bool(info.gated),
    }


def describe(source: Source, title: str, timm) -> tuple[dict, str]:
    """The encoder's file as a dictionary, without checksum and fingerprint; and how it pools."""
    import torch

    told = source.input
    arguments = {"architecture": source.architecture, **source.arguments, "num_classes": 0}
    try:
        with torch.device("meta"):
            built = {key: value for key, value in arguments.items() if key != "architecture"}
            model = timm.create_model(source.architecture, pretrained=False, **built)
            told = {**model.pretrained_cfg, **{k: v for k, v in told.items() if v is not None}}
            side = int(told["input_size"][-1])
            shape = model.eval()(torch.zeros(1, 3, side, side)).shape
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        fault = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            source.model, "architecture", fault, "give another --architecture"
        ) from None
    if len(shape) not in (2, 3):
        fault = f"an output of shape {tuple(shape)}"
        raise InputError(source.model, "output", fault, "name a model that gives an embedding")
    tuned = any(name.endswith(".attn.qkv") for name, _ in model.named_modules())
    spec = {
        "kind": "image",
        "title": title,
        "built": True,
        "builder": "timm",
        "arguments": arguments,
        "output": "pooled" if len(shape) == 2 else "token_0",
        "width": int(shape[-1]),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "input": {
            # Photographs are cropped to crop_pct of their sides; of a patch all is seen.
            "resize_px": side,
            "crop_px": side,
            "interpolation": "bilinear" if told.get("interpolation") == "bilinear" else "bicubic",
            "mean": [round(float(value), 9) for value in told["mean"]],
            "std": [round(float(value), 9) for value in told["std"]],
        },
        "weights": {
            **{key: source.weights[key] for key in ("source", "location", "file")},
            "extra_files": [],
            "sha256": None,
            "layout": "without_classifier" if told.get("num_classes") else "same",
            "gated": source.weights["gated"],
            "licence": str(told.get("license") or NOT_STATED),
        },
        "fingerprint": None,
        "finetuning": {"lora_targets": ["qkv", "proj"] if tuned else []},
        "citation": str(told.get("origin_url") or told.get("paper_ids") or NOT_STATED),
    }
    pool = getattr(model, "global_pool", "")
    return spec, str(getattr(pool, "pool_type", pool) or "none")


def text_of(spec: dict, model: str, path) -> str:
    """The encoder's file, in the layout of the others, and checked by their schema."""

    class Dumper(yaml.SafeDumper):
        def increase_indent(self, flow=False, indentless=False):
            return super().increase_indent(flow, False)

    Dumper.add_representer(
        list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, True)
    )
    text = _HEAD.format(model=model) + yaml.dump(
        spec, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=104
    )
    refuse_invalid(load_yaml(text), read_schema("encoder"), path, "")
    return text
