"""The JSON schema of a recipe, which editors and the reference read, describes every key."""

from collections.abc import Iterator
from typing import Any

import pytest

from m2raap.core.tables import COLUMNS, Clip, Drop, Frames, Text
from m2raap.pipeline.recipe import Recipe


def undescribed(schema: dict[str, Any]) -> Iterator[str]:
    for name, model in {"Recipe": schema, **schema["$defs"]}.items():
        for key, value in model.get("properties", {}).items():
            if not value.get("description"):
                yield f"{name}.{key}"


def test_every_key_of_a_recipe_has_a_description():
    assert list(undescribed(Recipe.model_json_schema())) == []


@pytest.mark.parametrize(("table", "row"), [("clips", Clip), ("texts", Text), ("frames", Frames), ("dropped", Drop)])
def test_the_type_of_a_row_has_the_columns_of_its_table(table: str, row: type):
    assert list(row.__annotations__) == [column.name for column in COLUMNS[table]]
