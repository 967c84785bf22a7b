"""What the stages from bundles to datasets ask of each other: files, facts and options of samples and datasets.

Functions only; workflow/common.smk includes them.
"""


def is_packed(sample: str) -> bool:
    """Whether the user gave the published zip in place of the bundle's folder."""
    return SAMPLES[sample]["bundle"].lower().endswith(".zip")


def place(path: str) -> str:
    """A path of the sample table: from <bundles>, unless it is absolute."""
    return str(Path(BUNDLES, path))  # an absolute path replaces <bundles>


def bundle_folder(sample: str) -> str:
    """Where the bundle lies; a zip of the user's is unpacked to where a fetched one goes."""
    given = SAMPLES[sample]["bundle"]
    return place(given) if given and not is_packed(sample) else f"{BUNDLES}/{sample}"


def is_untiled(sample: str) -> bool:
    """Whether a sample's H&E has to be retiled; a fetched one is as it comes."""
    return SAMPLES[sample]["he_layout"] == "untiled"


def he_files(sample: str) -> dict[str, str]:
    """The H&E image, tiled, and its alignment matrix, where the sample has them."""
    files = he_as_given(sample)
    if "he_image" in files and is_untiled(sample):
        files["he_image"] = f"{RESULTS}/samples/{sample}/he_tiled.ome.tif"
    return files


def he_as_given(sample: str) -> dict[str, str]:
    """The H&E image and its alignment matrix as the sample table names them."""
    row = SAMPLES[sample]
    files = {}
    if row["he_image"] in NO_FILE:
        return files
    # What belongs to a zip lies beside it: the folder it is unpacked to is made anew.
    folder = Path(place(row["bundle"])).parent if is_packed(sample) else bundle_folder(sample)
    standard = f"{folder}/{sample}_he_image"
    files["he_image"] = place(row["he_image"]) if row["he_image"] else f"{standard}.ome.tif"
    if row["he_alignment"] not in ALIGNMENT_WORDS:
        files["he_alignment"] = (
            place(row["he_alignment"]) if row["he_alignment"] else f"{standard}alignment.csv"
        )
    return files


def archive_file(sample: str) -> dict[str, str]:
    """The zip that the user gave for the bundle, if it is one."""
    return {"archive": place(SAMPLES[sample]["bundle"])} if is_packed(sample) else {}


def simulated_transcripts(sample: str) -> str:
    """The file of transcripts that a sample's layout has."""
    layout = config["simulations"][SAMPLES[sample]["simulation"]]["layout"] or ""
    return TRANSCRIPTS[layout.endswith("csv")]


def bundle_files(sample: str) -> dict[str, str]:
    """The files of a sample that make its steps run again when they change."""
    folder = bundle_folder(sample)
    files = {"experiment": f"{folder}/experiment.xenium", **he_files(sample)}
    if is_packed(sample):
        return files  # which transcripts a zip holds is known when it is unpacked
    names = [name for name in TRANSCRIPTS if Path(folder, name).is_file()]
    if SAMPLES[sample]["source"] == "simulated":
        names = [simulated_transcripts(sample)]
    return files | {"transcripts": f"{folder}/{(names or TRANSCRIPTS)[0]}"}


def on_disk(sample: str, files: dict[str, str]) -> dict[str, str]:
    """Of the files of a sample that no rule makes, those that are there.

    What a user's own sample lacks is told by check_bundle, which names the row of the table and
    what to do; Snakemake would only name the file.
    """
    if sample in SIMULATED or sample in FETCHED:
        return files
    made = [f"{bundle_folder(sample)}/experiment.xenium"] if is_packed(sample) else []
    made += [f"{RESULTS}/samples/{sample}/he_tiled.ome.tif"]
    return {name: file for name, file in files.items() if file in made or Path(file).is_file()}


def panel_file(sample: str) -> dict[str, str]:
    """The gene list of a sample's panel; panels of samples in no dataset need none."""
    file = f"{config['panels']}/{SAMPLES[sample]['panel']}.tsv"
    return {"panel": file} if Path(file).exists() else {}


def overlay_gene(sample: str) -> str | None:
    """The gene of the QC figure, where the sample's panel holds it."""
    gene, panel = config["overlay_gene"], SAMPLES[sample]["panel"]
    known = gene and panel_file(sample) and gene in panel_genes(config, panel)
    return gene if known else None


def spots_folder(dataset: str, sample: str) -> str:
    return f"{RESULTS}/samples/{sample}/{DATASETS[dataset]['spots']}"


def of_samples(dataset: str, pattern: str) -> list[str]:
    """The pattern for each sample of a dataset; {spots} is the sample's folder of spots."""
    return [
        pattern.format(
            sample=sample, spots=spots_folder(dataset, sample), dataset=dataset, results=RESULTS
        )
        for sample in DATASET_SAMPLES[dataset]
    ]


def is_imported(dataset: str) -> bool:
    """Whether a dataset's pairs come from a copy of the published data set, not from bundles."""
    return DATASETS[dataset]["source"] == "published"


def shards_home(dataset: str) -> str:
    """The dataset whose genes and shards this one uses: itself, or its `shards_of`."""
    return DATASETS[dataset]["shards_of"] or dataset


def shards_of(dataset: str) -> list[str]:
    folder = f"{RESULTS}/datasets/{shards_home(dataset)}/shards"
    return [f"{folder}/{sample}.arrow" for sample in DATASET_SAMPLES[dataset]]


def genes_of(dataset: str) -> str:
    return f"{RESULTS}/datasets/{shards_home(dataset)}/genes.tsv"


def published_files(dataset: str) -> list[str]:
    """The files of a copy of the published data set; import_pairs says what is missing."""
    folder = Path(DATASETS[dataset]["published_data"])
    return sorted(map(str, [*folder.rglob("*.arrow"), *folder.rglob("*.parquet")]))


def spots_of(dataset: str) -> list[str]:
    return [] if is_imported(dataset) else of_samples(dataset, "{spots}/spots.zarr")


def counts_of(dataset: str) -> list[str]:
    """What tells how many spots each sample of a dataset has."""
    return shards_of(dataset) if is_imported(dataset) else of_samples(dataset, "{spots}/audit.json")


def experiments_of(dataset: str) -> list[str]:
    """The `experiment.xenium` of each sample, if all have one: it tells the slide."""
    if is_imported(dataset):
        return []
    files = [on_disk(name, bundle_files(name)) for name in DATASET_SAMPLES[dataset]]
    return [of["experiment"] for of in files] if all("experiment" in of for of in files) else []


def label_source(sample: str) -> str:
    """The `source` of a pair: that of the published data set for the samples it holds."""
    return "hest" if sample in PUBLISHED_SAMPLES else SAMPLES[sample]["source"]


def split_options(dataset: str) -> dict:
    split = DATASETS[dataset]["split"]
    kept = ["method", "shared_donors"]
    kept += {"listed": SPLITS, "donor": ["fractions"], "leave_one_donor_out": ["fold"]}.get(
        split["method"], []
    )
    return {**{key: split[key] for key in kept}, "seed": config["seed"]}


def reported_datasets() -> list[str]:
    """The datasets of a plain run: those that aren't on request, and those of its audits."""
    audited = {row["dataset"] for name in AUDITS_IN_ALL for row in audit_rows(name, AUDITS[name])}
    return [name for name in DATASETS if name in DATASETS_IN_ALL or name in audited]


def used_samples() -> list[tuple[str, str]]:
    """Each sample with each spot preset that something asks for."""
    pairs = {
        (sample, DATASETS[dataset]["spots"])
        for dataset in reported_datasets()
        if not is_imported(dataset)
        for sample in DATASET_SAMPLES[dataset]
    }
    return sorted(pairs | {(item["sample"], item["spots"]) for item in config["pool_also"]})


def of_aligned(file: str) -> list[str]:
    """A file of check_alignment for each used sample that has an H&E."""
    return [
        f"{RESULTS}/samples/{sample}/{file}"
        for sample in dict(used_samples())
        if "he_image" in he_files(sample)
    ]


def pooled_also(wildcards) -> list[str]:
    return [
        f"{RESULTS}/samples/{item['sample']}/{item['spots']}/audit.json"
        for item in config["pool_also"]
    ]


def source_facts(sample: str) -> dict[str, str]:
    return facts(
        sample,
        "source",
        "he_alignment",
        "landing_page",
        "bundle_name",
        "bundle_url",
        "bundle_bytes",
        "bundle_checksum",
        "he_image",
        "he_image_url",
        "he_image_bytes",
        "he_image_checksum",
        "he_alignment_url",
        "he_alignment_bytes",
        "he_alignment_checksum",
        "geo_accession",
    )


def preset_of(wildcards) -> dict:
    preset = dict(config["spots"][wildcards.spots])
    if preset["centres"]:
        file = preset["centres"]["file"].replace("{sample}", wildcards.sample)
        preset["centres"] = {**preset["centres"], "file": file}
    return preset


def centres_of(wildcards) -> list[str]:
    centres = preset_of(wildcards)["centres"]
    return [centres["file"]] if centres else []


def audited_splits() -> list[dict]:
    """Every split that audit_splits looks at: the datasets', and the published ones beside them."""
    found = [
        {
            "name": dataset,
            "panel": DATASETS[dataset]["panel"],
            "split": split_options(dataset),
            "samples": DATASET_SAMPLES[dataset],
            "rows": split_rows(config, dataset),
        }
        for dataset in DATASETS
    ]
    own = {of["panel"] for of in found if of["split"]["method"] == "published"}
    for panel in dict.fromkeys(row["panel"] for row in PUBLISHED):
        rows = [row for row in PUBLISHED if row["panel"] == panel]
        extra = sorted({row["split"] for row in rows} - set(SPLITS))
        wanted = [] if panel in own else [(panel, SPLITS)]
        wanted += [(f"{panel}-{split}", (*SPLITS, split)) for split in extra]
        for name, kept in wanted:
            kept_rows = [
                {"sample": row["sample"], "split": row["split"]}
                for row in rows
                if row["split"] in kept
            ]
            if name not in DATASETS and all(row["sample"] in SAMPLES for row in kept_rows):
                found.append(
                    {
                        "name": name,
                        "panel": panel,
                        "split": {"method": "published", "shared_donors": None},
                        "samples": sorted({row["sample"] for row in kept_rows}),
                        "rows": kept_rows,
                    }
                )
    return found
