"""Values of the command line."""

from pairscape.core.options import typed


def test_values_of_the_command_line_are_what_a_file_would_hold():
    given = {"a": {"b": ["1", "2.5e-4", "no", "12:30", "TP53"]}, "c": "true", "d": "null", "e": 3}
    assert typed(given) == {
        "a": {"b": [1, 0.00025, "no", "12:30", "TP53"]},
        "c": True,
        "d": None,
        "e": 3,
    }


def test_what_jobs_of_a_cluster_are_handed_is_what_was_given():
    from snakemake.cli import parse_config
    from snakemake.common import dict_to_key_value_args

    given = {"spots": {"one": ["1", "x"]}, "gene": "null", "other": None, "score": True, "seed": 3}
    handed = parse_config(dict_to_key_value_args(given, repr_obj=True))
    assert typed(handed) == typed(given)
