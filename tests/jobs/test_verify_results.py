"""A job leaves a record of what it made; what isn't as it was made is found and named."""

import errno
import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

import verify_results
from pairscape.core import files, tsv
from pairscape.core.errors import InputError
from pairscape.jobs import comparison, program, records

VERSION = 3
OPTIONS = {"seed": 1, "sample": {"url": "https://me:hush@host.org/a/b.zip?token=secret&x=1#hidden"}}
PAGE = """<li>Commit of the code: <code>{c}</code></li><li>Versions (1 runs): numpy {s}</li>
<td>0.5</td><pre>&#34;versions&#34;: {{&#34;numpy&#34;: &#34;{s}&#34;}},
&#34;git_commit&#34;: &#34;{c}-dirty&#34;, &#34;json_sha256&#34;: &#34;{s}&#34;</pre>""".format(
    c="c0ffee" * 6 + "c0ff", s="c0ffee" * 10 + "c0ff"
)


def make(results, log="logs/make_things/s1.log", text="one", **more):
    """Run a program of all kinds of outputs as a job, in this process; gives its exit status."""
    results.mkdir(parents=True, exist_ok=True)
    (results / "input.txt").write_text("given")

    def main():
        args = program.parse(
            [
                *("--given", str(results / "input.txt"), "--mirrors", '{"http://a?t=secret": "b"}'),
                *("--table", str(results / "things.tsv"), "--spots", str(results / "s.zarr")),
                *("--forms", str(results / "f.md"), str(results / "f.tex")),
                *("--options", json.dumps(OPTIONS | more), "--log", str(results / log)),
            ],
            "Make things.",
            VERSION,
            given="a file",
            mirrors="what is no file",
            table=program.Output("TSV to write"),
            spots=program.Output("folder to write"),
            forms=program.OutputMany("optional: files to write"),
        )
        args.options["seed"] = "filled in by the program"
        tsv.write_tsv(args.table, [{"a": text}], ["a"])
        with files.atomic_path(args.spots) as folder:
            (folder / "tables" / "0").mkdir(parents=True)
            (folder / "tables" / "0" / "chunk").write_bytes(text.encode() * 100)
            (folder / f"{text}.json").write_text("{}")
        for path in args.forms:
            files.write_json(path, text)
        files.write_json(results / "beside.json", text)
        program.also_made(results / "beside.json", results / "absent.json")

    with pytest.raises(SystemExit) as end:
        program.run(main)
    return end.value.code


@pytest.fixture(autouse=True)
def as_a_program(monkeypatch):
    """The program that `make` runs is called make_things, and is of this version."""
    monkeypatch.setattr(sys, "argv", ["make_things.py"])
    monkeypatch.setattr(records, "program_version", {"make_things": VERSION}.get)


@pytest.fixture
def results(tmp_path):
    assert make(tmp_path / "results") == 0
    return tmp_path / "results"


def record_of(results, log="logs/make_things/s1.log"):
    return json.loads((results / log).with_suffix(".made.json").read_text())


def verify(capfd, *results, **options):
    """Exit status and what is said line by line, without the program's name."""
    more = ["--options", json.dumps(options)] if options else []
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        program.run(lambda: verify_results.main(["--results", *map(str, results), *more]))
    lines = capfd.readouterr().err.splitlines()
    return end.value.code, [line.split(": ", 2)[2] for line in lines]


def test_a_record_says_what_was_made_of_what_by_what(results):
    record = record_of(results)
    assert (record["program"], record["result_version"]) == ("make_things", VERSION)
    assert record["options"]["seed"] == 1
    assert record["options_sha256"] == files.sha256_json(record["options"])
    assert record["git_commit"] == records.git_commit()
    assert record["versions"]["python"].startswith("3.11")
    assert [(e["flag"], e["path"], e["sha256"]) for e in record["inputs"]] == [
        ("given", "../../input.txt", files.sha256_file(results / "input.txt"))
    ]
    outputs = {entry["path"]: entry for entry in record["outputs"]}
    assert list(outputs) == [
        f"../../{name}" for name in ("things.tsv", "s.zarr", "f.md", "f.tex", "beside.json")
    ]
    assert outputs["../../things.tsv"]["sha256"] == files.sha256_file(results / "things.tsv")
    assert outputs["../../things.tsv"]["bytes"] == 6
    inside = outputs["../../s.zarr"]["files"]
    assert inside["tables/0/chunk"] == [300, files.sha256_file(results / "s.zarr/tables/0/chunk")]
    assert outputs["../../s.zarr"]["bytes"] == 302
    assert not list(results.rglob(".part-*"))


def test_no_token_and_no_query_of_an_address_stands_in_a_record_or_log(results):
    for path in (results / "logs").rglob("*.*"):
        for secret in ("secret", "hush", "hidden"):
            assert secret not in path.read_text(), path
    assert record_of(results)["options"]["sample"] == {"url": "https://host.org/a/b.zip"}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("http://h/a?b", "http://h/a"),
        ("s3://user:word@h/a/b#c", "s3://h/a/b"),
        ('--options {"u": "https://h/a?t=1", "v": 2}', '--options {"u": "https://h/a", "v": 2}'),
        ("what? an@address", "what? an@address"),
        (["https://h?q", {"k": "ftp://u@h"}, 1, None], ["https://h", {"k": "ftp://h"}, 1, None]),
    ],
)
def test_addresses_lose_user_query_and_fragment(text, left):
    assert records.without_secrets(text) == left


def test_clean_results_verify(results, capfd):
    status, said = verify(capfd, results)
    assert status == 0
    told = "6 files of 1 jobs, 0 faults, 0 of old versions, 0.0 MB as they were made"
    assert said == [f"{results}: {told}"]


def test_results_that_were_moved_verify(results, capfd):
    moved = results.parent / "moved"
    results.rename(moved)
    assert verify(capfd, moved)[0] == 0


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def delete(path):
    files.remove(path)


def add(path):
    (path.parent / "more").write_text("x")


@pytest.mark.parametrize(
    ("harm", "file", "named", "words"),
    [
        (flip, "things.tsv", "things.tsv", "checksum: found other bytes than make_things made"),
        (cut, "f.tex", "f.tex", "size: found 5 bytes where make_things made 6"),
        (empty, "beside.json", "beside.json", "size: found 0 bytes where make_things made 6"),
        (delete, "f.md", "f.md", "file: found nothing where make_things made 6 bytes"),
        (flip, "s.zarr/tables/0/chunk", "s.zarr/tables/0/chunk", "checksum: found other bytes"),
        (delete, "s.zarr/tables/0/chunk", "s.zarr/tables/0/chunk", "file: found nothing"),
        (add, "s.zarr/one.json", "s.zarr/more", "file: found one that make_things didn't make"),
        (delete, "s.zarr", "s.zarr", "folder: found nothing where make_things made 2 files"),
    ],
)
def test_a_harmed_output_is_named_in_one_line(results, capfd, harm, file, named, words):
    harm(results / file)
    status, said = verify(capfd, results)
    assert status == 1
    assert len(said) == 2
    assert said[0].startswith(f"{results / named}: {words}")
    # What no flag names is made again by the name of what one does.
    target = results / ("things.tsv" if file == "beside.json" else file.split("/")[0])
    again = f"`snakemake --force {target}` with your other options makes it again"
    assert again in said[0] or "take it out of" in said[0]
    assert "6 files of 1 jobs, 1 faults" in said[1]


def test_what_snakemake_and_nfs_leave_in_a_folder_is_no_fault(results, capfd):
    for name in (".snakemake_timestamp", ".nfs0000a1"):
        (results / "s.zarr" / name).touch()
    assert verify(capfd, results)[0] == 0


def test_every_harmed_output_is_named(results, capfd):
    for name in ("things.tsv", "f.md", "s.zarr/one.json"):
        flip(results / name)
    status, said = verify(capfd, results)
    assert status == 1
    assert sorted(line.split(":")[0] for line in said[:-1]) == sorted(
        str(results / name) for name in ("things.tsv", "f.md", "s.zarr/one.json")
    )


@pytest.mark.parametrize(
    "harm",
    [
        cut,
        empty,
        lambda path: path.write_text(path.read_text().replace('"seed": 1', '"seed": 2')),
        lambda path: path.write_text(re.sub(r'"sha256": "\w', '"sha256": "', path.read_text())),
        lambda path: path.write_text(path.read_text().replace('"one.json"', '"two.json"')),
        lambda path: path.write_text("[]"),
    ],
)
def test_a_damaged_record_is_named_in_one_line(results, capfd, harm):
    make(results, "logs/other.log")
    record = results / "logs/other.made.json"
    record.write_text(record.read_text().rstrip())
    harm(record)
    status, said = verify(capfd, results)
    assert status == 1
    assert len(said) == 2
    assert said[0].startswith(f"{record}: ")


def test_records_of_another_version_are_listed_and_refused_when_asked(results, capfd, monkeypatch):
    monkeypatch.setattr(records, "program_version", {"make_things": VERSION + 1}.get)
    status, said = verify(capfd, results)
    assert status == 0
    record = results / "logs/make_things/s1.made.json"
    assert said[0].startswith(f"{record}: result_version: found 3, and make_things makes 4 now; ")
    assert "0 faults, 1 of old versions" in said[1]
    assert verify(capfd, results, old_versions="refuse")[0] == 1
    monkeypatch.setattr(records, "program_version", lambda name: None)
    assert "there is no such program now" in verify(capfd, results)[1][0]
    status, said = verify(capfd, results, old_versions="ignore")
    assert status == 1
    assert said == ["--options: old_versions: found 'ignore'; allowed: list, refuse"]


def test_versions_of_programs_are_read_without_import(monkeypatch):
    monkeypatch.undo()
    assert records.program_version("verify_results") == verify_results.RESULT_VERSION
    assert records.program_version("no_such_program") is None


def test_what_a_later_job_made_again_is_no_fault(results, capfd):
    """Neither with the same log nor with another, nor a file that a folder no longer holds."""
    for log in ("logs/make_things/s1.log", "logs/make_things/s2.log"):
        assert make(results, log, "two") == 0
        assert not (results / "s.zarr/one.json").exists()
        assert verify(capfd, results)[0] == 0
    assert make(results, text="three") == 0  # the first log again: its record is the newer one
    assert verify(capfd, results)[0] == 0
    flip(results / "s.zarr/three.json")
    assert verify(capfd, results)[0] == 1


def test_bundles_that_two_results_share_count_as_made_last(tmp_path, capfd):
    one, two = tmp_path / "one", tmp_path / "two"
    make(tmp_path, "one/logs/a.log")
    make(tmp_path, "two/logs/a.log", "two")
    assert verify(capfd, one)[0] == 1
    assert verify(capfd, one, two)[0] == 0


def test_a_run_that_failed_when_it_was_tried_again_is_no_fault(tmp_path, capfd):
    make(tmp_path, "runs/r/pretrain.log")
    make(tmp_path / "other")
    delete(tmp_path / "things.tsv")
    assert verify(capfd, tmp_path)[0] == 1
    files.write_json(tmp_path / "runs/r/failed.json", {})
    assert verify(capfd, tmp_path)[0] == 0


def test_a_folder_without_records_is_refused(tmp_path, capfd):
    status, said = verify(capfd, tmp_path)
    assert status == 1
    assert said[0].startswith(f"{tmp_path}: records (*.made.json): found none; ")


def test_only_the_first_process_writes_a_record_and_only_of_a_job_that_ended_well(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("RANK", "1")
    assert make(tmp_path / "second") == 0
    monkeypatch.delenv("RANK")

    def fail(*args):
        raise InputError("a", "b", "c", "d")

    monkeypatch.setattr(files, "write_json", fail)
    assert make(tmp_path / "failed") == 1
    assert not records.find(tmp_path)


def test_a_job_without_log_leaves_no_record(tmp_path):
    def main():
        args = program.parse(["--table", str(tmp_path / "t")], "", 1, table=program.Output("t"))
        files.write_json(args.table, 1)

    with pytest.raises(SystemExit):
        program.run(main)
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize(
    ("number", "status"), [(errno.ENOSPC, 1), (errno.EDQUOT, 1), (errno.EACCES, 0)]
)
def test_a_record_that_cant_be_written_fails_the_job_only_when_the_disk_is_full(
    results, monkeypatch, capfd, number, status
):
    def refuse(path, value, write=files.write_json):
        if str(path).endswith(".made.json"):
            raise OSError(number, os.strerror(number), str(path))
        write(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_json", refuse)
        assert make(results, text="two") == status
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert os.strerror(number) in said
    if status == 0:  # an old record must not speak of the new files
        assert not records.find(results)


def test_every_output_of_a_rule_is_a_flag_that_is_recorded():
    seen = 0
    for path in sorted((ROOT / "workflow").glob("*.smk")):
        for block in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            name = block.split(":", 1)[0]
            text = (ROOT / "scripts" / f"{name}.py").read_text()
            declared = set(
                re.findall(r"^        (\w+)=program\.Output(?:Many|Shared)?\(", text, re.M)
            )
            if "**program.SHOWN" in text:
                declared |= set(program.SHOWN)
            given = set(re.findall(r"--([a-z-]+) \{output", block))
            assert declared or not given, name
            assert {flag.replace("-", "_") for flag in given} <= declared, name
            seen += len(given)
    assert seen > 60


def test_a_real_program_leaves_a_record_that_verifies(tmp_path):
    rows = "".join(f"s{i}\tp{i}\tsite{i % 12}\ts{i}.svs\t0.5\t\t{i % 2}\n" for i in range(60))
    (tmp_path / "cohort.tsv").write_text(
        "slide\tpatient\tsite\tfile\tum_per_px\tnotes\tMSI\n" + rows
    )
    options = {"cohort": "c", "target": "MSI", "folds": 3, "leaking": False, "seed": 1}
    job = [
        *(sys.executable, str(ROOT / "scripts/split_sites.py"), "--cohort", "cohort.tsv"),
        *("--folds", "results/folds.tsv", "--balance", "results/balance.json"),
        *("--log", "results/logs/split_sites/c.log", "--options", json.dumps(options)),
    ]
    check = [sys.executable, str(ROOT / "scripts/verify_results.py"), "--results", "results"]
    subprocess.run(job, cwd=tmp_path, check=True)
    assert subprocess.run(check, cwd=tmp_path).returncode == 0
    record = record_of(tmp_path, "results/logs/split_sites/c.log")
    assert [entry["path"] for entry in record["inputs"]] == ["../../../cohort.tsv"]
    assert record["versions"]["numpy"]
    flip(tmp_path / "results/folds.tsv")
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "results/folds.tsv: checksum" in done.stderr.splitlines()[0]


def test_every_row_of_a_table_says_what_made_it(tmp_path):
    scores, table = tmp_path / "scores.tsv", tmp_path / "table.tsv"
    scores.write_text("a\n1\n")
    tsv.write_numbers(
        table, [{"name": "x", "value": 0.5}, {"name": "y", "value": None}], ["name", "value"]
    )
    options = {"experiment": "e", "from": "https://user:secret@host/path?token=1"}
    records.add_origin([table], options, [scores])
    first = tsv.read_tsv(table)
    assert [list(row) for row in first] == [["name", "value", *tsv.ORIGIN]] * 2
    assert first[0]["options_sha256"] == files.sha256_json(records.without_secrets(options))
    assert first[0]["git_commit"] == (records.git_commit() or "")
    assert tsv.read_numbers(table, ["name"], "", texts=["name"])[0]["value"] == 0.5
    scores.write_text("a\n2\n")
    records.add_origin([table], options, [scores])  # once more: the columns stand once
    second = tsv.read_tsv(table)
    assert list(second[0]) == list(first[0])
    assert second[0]["scores_sha256"] != first[0]["scores_sha256"]


def remake(results, place, content):
    """Put other content in the place of an output, and into the records as if it was made so."""
    path = results / place
    if path.suffix == ".json":
        files.write_json(path, content, sealed=True)
    else:
        path.write_text(content)
    record = record_of(results)
    entry = next(e for e in record["outputs"] if e["path"] == f"../../{place}")
    entry |= {"bytes": path.stat().st_size, "sha256": files.sha256_file(path)}
    files.write_json(results / "logs/make_things/s1.made.json", record)


@pytest.fixture
def against(results, tmp_path, capfd):
    """Compare the results with others of the same job; gives status and lines but the last two."""
    other = tmp_path / "elsewhere" / "others"

    def compare(**others):
        assert make(other, **others) == 0
        return other

    def told():
        status, said = verify(capfd, results, "--against", other)
        assert "faults" in said[-1] or "results: found" in said[-1]
        return status, said[:-1]

    return compare, told


def test_results_of_the_same_content_are_the_same(results, against):
    other_results, told = against
    other = other_results()
    record = record_of(other) | {"program": "renamed", "git_commit": "0" * 40}
    files.write_json(other / "logs/made_elsewhere.made.json", {**record, "outputs": []})
    status, said = told()
    assert status == 0
    assert "6 and 6 files 6 have the same bytes" in said[-1]
    assert "git_commit, versions, json_sha256" in said[-1]


def test_each_output_that_differs_or_one_side_lacks_is_told(results, against):
    other_results, told = against
    other = other_results(text="two")
    status, said = told()
    assert status == 1
    lines = "\n".join(said)
    for name in ("things.tsv", "s.zarr/tables/0/chunk", "f.md", "f.tex", "beside.json"):
        assert f"{results / name}: checksum: found other bytes than {other / name}" in lines
    assert f"{results / 's.zarr/one.json'}: file: found one that the other" in lines
    assert f"{other / 's.zarr/two.json'}: file: found it in the other" in lines
    assert "of 6 and 6 files 0 have the same bytes" in lines


@pytest.mark.parametrize(
    ("place", "ours", "theirs", "same"),
    [
        ("beside.json", {"a": 1, "git_commit": "x"}, {"a": 1, "versions": {"b": "1"}}, True),
        ("beside.json", {"a": [{"seconds": 1}]}, {"a": [{"seconds": 2}]}, True),
        ("beside.json", {"a": 1}, {"a": 1.0}, False),
        ("beside.json", {"a": 1}, {"a": 1, "b": 2}, False),
        ("things.tsv", "a\tgit_commit\n1\tx\n", "a\tgit_commit\n1\ty\n", True),
        ("things.tsv", "a\tscores_sha256\n1\tx\n", "a\n1\n", True),
        ("things.tsv", "a\tgit_commit\n1\tx\n", "a\tgit_commit\n2\tx\n", False),
        ("things.tsv", "a\tgit_commit\n", "b\tgit_commit\n", False),
        ("f.md", "of x", "of y", False),
    ],
)
def test_what_says_by_which_code_a_file_was_made_may_differ(
    results, against, place, ours, theirs, same
):
    other_results, told = against
    other = other_results()
    remake(results, place, ours)
    remake(other, place, theirs)
    status, said = told()
    assert status == (0 if same else 1)
    assert f"5 have the same bytes, and {int(same)} the same content but" in said[-1]
    assert same or f"{results / place}: checksum: found other bytes" in said[0]


@pytest.mark.parametrize(
    ("theirs", "same"),
    [(PAGE.replace("c0ffee", "dec0de"), True), (PAGE.replace("0.5", "0.6"), False)],
)
def test_pages_are_compared_without_commit_versions_and_seals(tmp_path, theirs, same):
    paths = [tmp_path / "a.html", tmp_path / "b.html"]
    for path, text in zip(paths, (PAGE, theirs), strict=True):
        path.write_text(text)
    sides = [{"report.html": (str(path), files.sha256_file(path))} for path in paths]
    ((_, fault),) = comparison.compare(*sides)
    assert (fault is None) == same


def test_only_one_results_folder_is_compared_and_a_file_that_cant_be_read_is_told(
    results, against, capfd
):
    other_results, told = against
    other = other_results()
    status, said = verify(capfd, results, other, "--against", other)
    assert status == 1
    assert "--results: found 2 folders" in said[-1]
    remake(other, "beside.json", {"a": 1})
    (other / "beside.json").unlink()
    status, said = told()
    assert status == 1
    assert "can't be compared" in said[0]
