"""What the Helm chart says about its values, and what it lets into a ConfigMap."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml

import imgproxy
from imgproxy.config.settings import Settings
from imgproxy.config.wording import is_secret, section_class
from tests.support.kubernetes import CHART, VALUES
from tools.chart_texts import README, SCHEMA, schema_text, values, with_values

SECRETS = [
    (name, key)
    for name, info in Settings.model_fields.items()
    if (section := section_class(info)) is not None
    for key, setting in section.model_fields.items()
    if is_secret(setting)
]


def test_the_table_of_values_is_what_values_yaml_says() -> None:
    """After a change of values.yaml: python -m tools.chart_texts."""
    page = README.read_text("utf-8")

    assert with_values(page) == page, "run: python -m tools.chart_texts"


def test_the_schema_has_the_settings_as_they_are_declared() -> None:
    """After a change of a setting: python -m tools.chart_texts."""
    assert schema_text() == SCHEMA.read_text("utf-8"), "run: python -m tools.chart_texts"


def test_the_schema_knows_every_value() -> None:
    """The defaults are valid, but for what has none, and each value that the table names is a property."""
    schema = json.loads(SCHEMA.read_text("utf-8"))

    given = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    given["config"]["origin"]["url"] = "https://media.example.com"
    jsonschema.validate(given, schema)
    for name, _, _ in values():
        assert name.partition(".")[0] in schema["properties"]


@pytest.mark.parametrize(("section", "key"), SECRETS)
def test_a_secret_is_refused_in_the_values(section: str, key: str) -> None:
    """It would be in a ConfigMap."""
    schema = json.loads(SCHEMA.read_text("utf-8"))
    given = {key: "a secret"}

    with pytest.raises(jsonschema.ValidationError, match=f"'{key}' was unexpected"):
        jsonschema.validate({"config": {section: [given] if section == "downstream" else given}}, schema)


def test_the_chart_is_of_this_version() -> None:
    """The tag of the image is the version of the package."""
    assert yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))["appVersion"] == imgproxy.__version__


def test_there_are_several_examples_of_values() -> None:
    """The README of the chart links each of them."""
    page = README.read_text("utf-8")

    assert len(VALUES) >= 5
    for path in VALUES:
        assert f"(ci/{path.name})" in page
