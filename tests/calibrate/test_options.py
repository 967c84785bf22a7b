"""Options of programs as frozen dataclasses: they hold what the schema of the configuration names."""

import dataclasses

import pytest

from pairscape.calibrate.calibration import CalibrationGrid
from pairscape.core.errors import InputError
from pairscape.core.options import read_schema, require_options, resolve_part
from pairscape.evaluate.clustering import BatchEffectOptions
from pairscape.evaluate.retrieval import RetrievalOptions
from pairscape.evaluate.targets import ExpressionOptions
from pairscape.slides.mutation_fitting import MutationTraining
from pairscape.slides.slide_embedding import SlideEmbedding


@pytest.mark.parametrize(
    ("part", "options", "beside"),
    [
        ("retrieval", RetrievalOptions, {"split", "seed"}),
        ("batch_effect", BatchEffectOptions, set()),
        ("expression", ExpressionOptions, set()),
        ("mutation_training", MutationTraining, set()),
        ("slide_embedding", SlideEmbedding, set()),
        ("calibration", CalibrationGrid, set()),
    ],
)
def test_options_have_the_fields_of_their_part_of_the_schema(part, options, beside):
    fields = {field.name for field in dataclasses.fields(options)}
    assert fields - beside == set(read_schema("config")["$defs"][part]["properties"])
    assert beside <= fields
    resolved = resolve_part(part, {})
    made = options(**resolved)
    assert {name: getattr(made, name) for name in resolved} == resolved
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, next(iter(resolved)), None)


def test_a_program_says_which_option_it_lacks():
    require_options({"a": None, "b": 1}, "a", "b")
    with pytest.raises(InputError, match="--options: c: found nothing; give it"):
        require_options({"a": None}, "a", "c")
