"""The spot preset of the configuration and the object that programs read are one."""

import dataclasses

from pairscape.core.options import read_schema
from pairscape.spots.preset import WORDS, SpotPreset


def test_a_preset_has_the_keys_and_words_of_the_schema():
    properties = read_schema("config")["$defs"]["spots"]["properties"]
    assert {field.name for field in dataclasses.fields(SpotPreset)} == set(properties)
    assert {key: set(part["enum"]) for key, part in properties.items() if "enum" in part} == {
        key: set(words) for key, words in WORDS.items()
    }
    for key, part in properties.items():
        if "default" in part:
            assert getattr(SpotPreset(), key) == part["default"]
