"""Each check of a report's section finds its violation."""

import pytest

from autotl.page.base import Figure, ReportSection, Text


class Valid(ReportSection):
    name, title = "valid", "Valid"

    def build(self, search):
        return [Text(f"{len(search.complete)} trials")]


class Nameless(Valid):
    name = "two words"


class Numbers(Valid):
    def build(self, search):
        return [1, 2]


class NeedsAModel(Valid):
    def build(self, search):
        return [Text(search.result["study"])]


class Silent(Valid):
    def build(self, search):
        return [Figure("<svg></svg>", " ")]


class Online(Valid):
    def build(self, search):
        return [Figure('<svg><image href="https://example.org/logo.png"/></svg>', "a logo")]


@pytest.mark.parametrize(
    ("section", "check", "got"),
    [
        (Nameless(), "is_described", "name is 'two words'"),
        (Numbers(), "builds_elements_of_a_finished_search", "1 is among the elements"),
        (NeedsAModel(), "builds_elements_of_a_search_that_runs", "TypeError"),
        (Silent(), "says_in_words_what_its_pictures_show", "a figure has none"),
        (Online(), "asks_for_nothing_from_the_network", 'href="https:'),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_section_that_violates_its_contract(section, check, got, violation):
    assert got in violation("section", check, section)


def test_a_valid_section_has_no_violation(violations):
    assert violations("section", Valid()) == {}
