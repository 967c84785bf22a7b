"""Image-gene pairs: one Arrow IPC stream per sample, which Hugging Face datasets can load.

The columns are those of the published data set (with its types) and ours. The schema carries the
Hugging Face features, without which images would load as structs and labels as integers, and under
the key ``pairscape`` a JSON with what made the shard.

Reading for training (``read_shard_table``, ``read_expression``, ``read_index``) needs pyarrow
alone; importing ``datasets`` takes seconds.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from pairscape.core.errors import InputError
from pairscape.core.files import (
    atomic_path,
    check_sums,
    read_tsv,
    require_end,
    sha256_file,
    sums_path,
    write_sums,
    write_tsv,
)

BATCH_ROWS = 256
GENE_COLUMNS = ("gene_symbol", "gene_id")
LABEL_COLUMNS = ("name", "source", "tissue")
PUBLISHED_TEXT = (
    "atlas",
    "age",
    "diagnosis",
    "oncotree_code",
    "tumor_grade",
    "gender",
    "race",
    "treatment_type",
    "therapeutic_agents",
    "tumor_tissue_type",
    "assay",
    "preservation_method",
    "stain",
    "spaceranger",
    "species",
    "cytassist",
)
METADATA_KEYS = ("sample", "dataset", "genes", "patches", "spots", "alignment", "result_version")
TISSUE_LUMA = 204  # of 255; see tissue_fraction
_METADATA = b"pairscape"
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # closes an Arrow IPC stream
_REMEDY = "delete it and run export_pairs again"


def pair_features(gene_count: int, labels: Mapping[str, Sequence[str]]):
    """The Hugging Face features of a shard.

    Parameters
    ----------
    gene_count
        G, the width of ``gexp``.
    labels
        Class names of ``name``, ``source`` and ``tissue``: those of the whole sample table, since
        shards whose names differ load silently wrong.

    Returns
    -------
    datasets.Features
    """
    from datasets import ClassLabel, Features, Image, List, Value

    return Features(
        {
            "name": ClassLabel(names=list(labels["name"])),
            "image": Image(),
            "gexp": List(List(Value("int32"), length=gene_count), length=1),
            "cell_coords": List(Value("float32"), length=2),
            "source": ClassLabel(names=list(labels["source"])),
            "tissue": ClassLabel(names=list(labels["tissue"])),
            **{column: Value("string") for column in PUBLISHED_TEXT},
            "cancer": Value("bool"),
            "sample": Value("string"),
            "donor": Value("string"),
            "spot": Value("string"),
            "array_row": Value("int32"),
            "array_col": Value("int32"),
            "x_um": Value("float64"),
            "y_um": Value("float64"),
            "um_per_px": Value("float32"),
            "tissue_fraction": Value("float32"),
        }
    )


def sample_columns(sample: Mapping[str, str]) -> dict:
    """The columns of a pair that are the same for a whole sample, from its row of the sample table.

    What the sample table doesn't hold is empty, as in the published data set.
    """
    state = sample.get("disease_state", "").casefold()
    human = sample.get("panel", "").startswith("human")
    known = {
        "diagnosis": state,
        "oncotree_code": sample.get("oncotree_code", ""),
        "assay": "Xenium",
        "preservation_method": sample.get("preservation", ""),
        "stain": "HnE",
        "species": "Homo sapiens" if human else "",
    }
    return {
        "name": sample["sample"],
        "source": sample["source"],
        "tissue": sample["organ"].lower(),  # as in the published data set
        **{column: known.get(column, "") for column in PUBLISHED_TEXT},
        "cancer": state == "cancer",
        "sample": sample["sample"],
        "donor": sample["donor"],
    }


def tissue_fraction(patch: np.ndarray) -> float:
    """The share of a patch's pixels that are tissue: those with a luma below 80 % of white.

    Luma (ITU-R 601), not saturation: the glass of a slide may be tinted by its scanner.

    Parameters
    ----------
    patch
        uint8 (height, width, 3).
    """
    from PIL import Image

    return float((np.asarray(Image.fromarray(patch).convert("L")) < TISSUE_LUMA).mean())


def encode_patch(patch: np.ndarray, encoding: str, quality: int = 95) -> bytes:
    """The bytes of a patch as JPEG (4:2:0) or PNG (lossless).

    Half the colour resolution saves 15 % of the bytes and a quarter of the decoding time, and moves
    a grey level by 0.2 on average more than 4:4:4 at quality 95; slides come as 4:2:0, too.
    """
    if encoding == "jpeg":
        import simplejpeg

        return simplejpeg.encode_jpeg(
            np.ascontiguousarray(patch), quality=quality, colorsubsampling="420"
        )
    if encoding == "png":
        import io

        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(patch).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
    raise InputError("--options", "patches.encoding", repr(encoding), "allowed: jpeg, png")


def write_shard(path, rows: Iterable[Mapping], features, metadata: Mapping) -> int:
    """Write a shard, atomically and streamed; the same rows make the same bytes.

    Its checksum goes beside it, to ``<name>.arrow.sha256``: Arrow's format has none.

    Parameters
    ----------
    rows
        Mappings with all columns of ``features``: ``image`` the encoded bytes, ``gexp`` int32 (G,),
        labels by their names.
    features
        See ``pair_features``.
    metadata
        JSON with at least ``METADATA_KEYS``.

    Returns
    -------
    The number of rows.

    Raises
    ------
    InputError
        A label is none of the class names.
    """
    missing = [key for key in METADATA_KEYS if key not in metadata]
    if missing:
        raise ValueError(f"metadata lacks {', '.join(missing)}")
    schema = features.arrow_schema
    schema = schema.with_metadata(
        {**schema.metadata, _METADATA: json.dumps(metadata, sort_keys=True).encode()}
    )
    codes = {
        column: {name: code for code, name in enumerate(features[column].names)}
        for column in LABEL_COLUMNS
    }
    written = 0
    rows = iter(rows)
    sums_path(path).unlink(missing_ok=True)
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_stream(sink, schema) as writer,
    ):
        while batch := list(itertools.islice(rows, BATCH_ROWS)):
            arrays = [_column(field, [row[field.name] for row in batch], codes) for field in schema]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
            written += len(batch)
    write_sums(path)
    return written


def shard_sha256(path) -> str:
    """The checksum of a shard's file, which is what was written.

    Raises
    ------
    InputError
        It is another than lies beside the shard.
    """
    return check_sums(path, _REMEDY) or sha256_file(path)


def open_shard(path):
    """Open a shard as a memory-mapped ``datasets.Dataset`` (images decode to PIL).

    Raises
    ------
    InputError
        The file is missing, cut off, or no shard.
    """
    _read_schema(path)
    from datasets import Dataset

    return Dataset.from_file(str(path))


def read_shard_table(path) -> pa.Table:
    """Map a shard into memory as a pyarrow table, without importing ``datasets``.

    Raises
    ------
    InputError
        The file is missing, cut off, or no shard.
    """
    _read_schema(path)
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_stream(source).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(path, "record batches", str(error), _REMEDY) from None


def read_schema(path) -> pa.Schema:
    """The Arrow schema of a shard, checked (see ``read_shard_table``)."""
    return _read_schema(path)


def shard_metadata(path) -> dict:
    """What made a shard: ``sample``, ``dataset``, ``genes``, ``patches``, ``spots``, ..."""
    try:
        return json.loads(_read_schema(path).metadata[_METADATA])
    except ValueError as error:
        raise InputError(path, "schema metadata", str(error), _REMEDY) from None


def map_expression(path) -> list[np.ndarray]:
    """The counts of a shard as its record batches, mapped from disk: int32 (rows, genes) each."""
    column = read_shard_table(path)["gexp"]
    width = column.type.value_type.list_size
    return [chunk.flatten().flatten().to_numpy().reshape(-1, width) for chunk in column.chunks]


def read_expression(path) -> np.ndarray:
    """The counts of a shard, int32 (rows, genes), genes in the order of its metadata."""
    parts = map_expression(path)
    width = len(shard_metadata(path)["genes"])
    return np.concatenate(parts) if parts else np.empty((0, width), np.int32)


def read_index(path) -> pa.Table:
    """All columns of a shard but ``image`` and ``gexp``."""
    return read_shard_table(path).drop_columns(["image", "gexp"])


def write_genes(path, genes: Iterable[Sequence[str]]) -> None:
    """Write genes.tsv from pairs of symbol and id."""
    write_tsv(path, (dict(zip(GENE_COLUMNS, gene, strict=True)) for gene in genes), GENE_COLUMNS)


def read_genes(path) -> list[dict[str, str]]:
    """Read genes.tsv.

    Raises
    ------
    InputError
        It is missing or cut off, has no genes, or names one twice.
    """
    require_end(path, "run select_genes again")
    genes = read_tsv(path, GENE_COLUMNS)
    symbols = [gene["gene_symbol"] for gene in genes]
    if not symbols:
        raise InputError(path, "gene_symbol", "no genes", "run select_genes again")
    if len(set(symbols)) < len(symbols):
        twice = next(symbol for symbol in symbols if symbols.count(symbol) > 1)
        raise InputError(path, "gene_symbol", f"{twice} twice", "run select_genes again")
    return genes


def select_genes(
    genes_of: Mapping[str, Mapping[str, str]],
    panel: Mapping[str, str] | None = None,
    min_share: float = 0.9,
    *,
    place: str,
    source: str = "--options",
) -> list[tuple[str, str]]:
    """The genes of a panel that all samples measured, as (symbol, id), sorted by symbol.

    Genes added to a sample's panel and controls are out: the panel's list doesn't hold them.

    Parameters
    ----------
    genes_of
        For each sample its genes, symbol to id.
    panel
        The panel's list, symbol to id. Without it a panel is what the samples share, controls and
        genes of some samples only out.
    min_share
        The share of the panel's genes that a sample must have measured.
    place, source
        Where the dataset's samples are chosen, for messages.

    Raises
    ------
    InputError
        A sample was measured with another panel: it lacks more of the list than ``min_share``
        allows or, without a list, it shares fewer than half of its genes with the others (the
        median of them). The message holds the line of configuration that drops it.
    """
    from pairscape.acquire.bundle import NON_GENE_PREFIXES

    genes_of = {
        sample: {
            symbol: gene_id
            for symbol, gene_id in genes.items()
            if not symbol.startswith(NON_GENE_PREFIXES)
        }
        for sample, genes in genes_of.items()
    }
    misfit = _misfit_of_list(genes_of, panel, min_share) if panel else _misfit(genes_of)
    if misfit:
        worst, told = misfit
        kept = ", ".join(sample for sample in genes_of if sample != worst)
        raise InputError(
            source,
            place,
            f"{worst}, whose panel of {len(genes_of[worst])} genes {told}",
            f"drop it with `{place}: [{kept}]`",
        )
    shared = set.intersection(*(set(genes) for genes in genes_of.values()))
    if panel:
        shared &= set(panel)
    ids = {
        symbol: next(
            (found for genes in (*genes_of.values(), panel or {}) if (found := genes.get(symbol))),
            "",
        )
        for symbol in shared
    }
    return sorted(ids.items())


def read_panel_list(path) -> dict[str, str]:
    """A panel's list (gene_symbol, ensembl_id), symbol to id.

    Raises
    ------
    InputError
        It is missing, has no genes, or names one twice.
    """
    rows = read_tsv(path, ["gene_symbol", "ensembl_id"])
    panel = {row["gene_symbol"]: row["ensembl_id"] for row in rows}
    if not panel or len(panel) < len(rows):
        found = "a symbol twice" if panel else "no genes"
        raise InputError(path, "gene_symbol", found, "give each gene of the panel one line")
    return panel


def _misfit_of_list(genes_of: Mapping, panel: Mapping, min_share: float):
    """The sample that lacks most of the panel's list, and what to say of it, or None."""
    held = {sample: len(genes.keys() & panel.keys()) for sample, genes in genes_of.items()}
    worst = min(reversed(list(held)), key=held.get)
    if held[worst] >= min_share * len(panel):
        return None
    return worst, f"holds {held[worst]} of the panel's {len(panel)}, below {min_share:.0%}"


def _misfit(genes_of: Mapping):
    """The sample that shares fewest genes with the others, and what to say of it, or None."""
    import statistics

    def overlap(one: str, other: str) -> float:
        smaller = min(len(genes_of[one]), len(genes_of[other])) or 1
        return len(genes_of[one].keys() & genes_of[other].keys()) / smaller

    # Of samples that fit equally badly, the last is named.
    fit = {
        one: statistics.median([overlap(one, other) for other in genes_of if other != one] or [1.0])
        for one in genes_of
    }
    worst = min(reversed(list(fit)), key=fit.get)
    if fit[worst] >= 0.5:
        return None
    return worst, f"shares only {fit[worst]:.0%} with the other samples"


def iter_pairs(
    slide,
    spots,
    gene_positions: Sequence[int],
    centres_px: np.ndarray,
    middles_px: np.ndarray,
    patches: Mapping,
    side_px: float,
    constant: Mapping,
    folder,
) -> Iterator[dict]:
    """Yield the pairs of a sample, in the order of its spots.

    Patches are cut in the order of the slide's tiles and wait, encoded, in an unnamed file in
    ``folder`` for their turn, so that memory holds neither the slide nor the sample.

    Parameters
    ----------
    slide
        See ``slide.Slide``.
    spots
        AnnData of N spots, see ``spots.read_spots``.
    gene_positions
        (G,) which columns of ``spots`` make ``gexp``, in order.
    centres_px
        (N, 2) spot centres in H&E pixels.
    middles_px
        (N, 2) middles of the patches: the same, or less than a pixel away (native pixels).
    patches
        ``um_per_px``, ``patch_px``, ``encoding``, ``quality``.
    side_px
        Side of a patch in H&E pixels.
    constant
        See ``sample_columns``.
    """
    import tempfile

    from pairscape.images.tiff import iter_patches
    from pairscape.jobs import program

    count = len(centres_px)
    extent = np.zeros((count, 2), np.int64)  # offset and size of each encoded patch
    tissue = np.zeros(count, np.float32)
    with tempfile.TemporaryFile(dir=folder) as spool:
        cut = iter_patches(slide, middles_px, side_px, patches["patch_px"])
        end = 0
        for index, patch in program.progress(cut, "patches", count, "patch"):
            encoded = encode_patch(patch, patches["encoding"], patches.get("quality", 95))
            spool.write(encoded)
            extent[index] = end, len(encoded)
            end += len(encoded)
            tissue[index] = tissue_fraction(patch)
        counts = spots.X[:, list(gene_positions)].tocsr()
        obs = spots.obs
        for start in range(0, count, BATCH_ROWS):
            block = slice(start, start + BATCH_ROWS)
            dense = counts[block].toarray().astype(np.int32, copy=False)
            for i, (spot, row) in enumerate(
                zip(obs.index[block], obs.iloc[block].to_dict("records"), strict=True), start
            ):
                spool.seek(extent[i, 0])
                yield {
                    **constant,
                    "image": spool.read(extent[i, 1]),
                    "gexp": dense[i - start],
                    "cell_coords": centres_px[i],
                    "spot": str(spot),
                    **{key: row[key] for key in ("array_row", "array_col", "x_um", "y_um")},
                    "um_per_px": patches["um_per_px"],
                    "tissue_fraction": tissue[i],
                }


def _column(field: pa.Field, values: list, codes: Mapping) -> pa.Array:
    if field.name in codes:
        known = codes[field.name]
        for value in values:
            if value not in known:
                raise InputError(
                    "--options",
                    f"labels.{field.name}",
                    f"no {value!r} among {', '.join(known) or 'nothing'}",
                    "make the labels of the whole sample table",
                )
        return pa.array([known[value] for value in values], field.type)
    if field.name == "image":
        data = pa.array(values, pa.binary())
        return pa.StructArray.from_arrays(
            [data, pa.nulls(len(values), pa.string())], fields=list(field.type)
        )
    if field.name == "gexp":
        width = field.type.value_type.list_size
        counts = np.stack(values)
        if counts.shape[1:] != (width,) or counts.dtype != np.int32:
            raise ValueError(f"gexp is {counts.dtype} {counts.shape[1:]}, not int32 ({width},)")
        inner = pa.FixedSizeListArray.from_arrays(pa.array(counts.reshape(-1)), width)
        return pa.FixedSizeListArray.from_arrays(inner, 1).cast(field.type)
    if field.name == "cell_coords":
        flat = pa.array(np.asarray(values, np.float32).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, 2).cast(field.type)
    return pa.array(values, field.type)


def _read_schema(path) -> pa.Schema:
    try:
        with open(path, "rb") as handle:
            try:
                schema = pa.ipc.open_stream(handle).schema
            except (pa.ArrowInvalid, OSError) as error:
                raise InputError(path, "Arrow stream", str(error), _REMEDY) from None
            handle.seek(-len(_END), 2)
            closed = handle.read() == _END
    except FileNotFoundError:
        raise InputError(path, "file", "nothing", "run export_pairs") from None
    # A stream cut off between two batches reads without an error, only with fewer rows.
    if not closed:
        raise InputError(path, "Arrow stream", "no end: the file is cut off", _REMEDY)
    if _METADATA not in (schema.metadata or {}) or b"huggingface" not in schema.metadata:
        raise InputError(path, "schema metadata", "no `pairscape` and `huggingface` keys", _REMEDY)
    return schema
