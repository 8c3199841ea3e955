"""docs/configuration.md says what the code reads: every key, its variable, its default, its meaning."""

from __future__ import annotations

from dataclasses import fields

from osmo_ray.settings import Settings
from scripts.settings_table import PAGE, explained, page


def test_the_page_is_up_to_date():
    text = PAGE.read_text()
    assert page(text) == text, "python scripts/settings_table.py --write"


def test_every_key_is_explained():
    assert set(explained()) == {field.name for field in fields(Settings)}
