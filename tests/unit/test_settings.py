"""The configuration: file, environment, defaults, and the messages about wrong values."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from imgproxy.config.example import example_toml
from imgproxy.config.load import load
from imgproxy.config.secrets import secret_lines, signing_tokens, webhook_secrets
from imgproxy.config.settings import Settings
from imgproxy.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]


def problems(text: str, tmp_path: Path, environ: dict[str, str] | None = None) -> tuple[str, ...]:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    return caught.value.problems


def test_defaults_need_neither_file_nor_environment() -> None:
    """Everything has a default that works."""
    assert load(None, {}) == Settings()


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """A variable replaces the value of the file; the other keys of the section stay."""
    path = tmp_path / "config.toml"
    path.write_text("[server]\nport = 1\nhost = '::1'\n")

    settings = load(path, {"IMGPROXY_SERVER__PORT": "2", "UNRELATED": "x"})

    assert (settings.server.port, settings.server.host) == (2, "::1")


def test_lists_in_the_environment_are_json() -> None:
    """Two tokens come as a JSON list."""
    settings = load(None, {"IMGPROXY_SIGNING__TOKENS": '["a", "b"]'})

    assert signing_tokens(settings.signing) == ("a", "b")


def environment_problems(environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(None, environ)
    return caught.value.problems


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("IMGPROXY_SIGNING__TOKENS", 'not JSON; expected list of text, written as JSON, e.g. ["a", "b"]'),
        ("IMGPROXY_URL__DEFAULTS", 'not JSON; expected table, written as JSON, e.g. {"name": "text"}'),
        ("IMGPROXY_DOWNSTREAM", 'not JSON; expected list of tables, written as JSON, e.g. [{"kind": "varnish", '),
        ("IMGPROXY_SIGNING", "not JSON; a whole section is written as a JSON object; one setting of it: IMGPROXY_SIG"),
    ],
)
def test_a_list_that_is_not_json_is_named(name: str, words: str) -> None:
    """The variable and the expected form are in the message; the value, which may be a secret, is not."""
    (line,) = environment_problems({name: "s3cr3t,b"})

    assert line.startswith(f"environment {name}: {words}")
    assert "s3cr3t" not in line


def test_a_list_that_is_not_json_hides_no_other_problem(tmp_path: Path) -> None:
    """Typos, wrong values and the other lists are named in the same run."""
    environ = {
        "IMGPROXY_SIGNING__TOKENS": "a,b",
        "IMGPROXY_WEBHOOK__SECRETS": "c",
        "IMGPROXY_CACHE__DRI": "x",
        "IMGPROXY_SERVER__PORT": "70000",
    }

    lines = problems("[limits]\nframes = 0\n", tmp_path, environ)

    for part in (
        "SIGNING__TOKENS: not JSON",
        "WEBHOOK__SECRETS: not JSON",
        "CACHE__DRI",
        "[server] port",
        "[limits] fr",
    ):
        assert [part in line for line in lines].count(True) == 1, part
    assert len(lines) == 5


def test_one_underscore_where_two_belong_is_an_error() -> None:
    """A variable that is a setting but for an underscore is an error, not silently ignored."""
    lines = environment_problems({"IMGPROXY_SERVER_PORT": "9", "IMGPROXY_CACHE_MAX_BYTES": "1"})

    assert lines == (
        "environment IMGPROXY_CACHE_MAX_BYTES: section and key need two underscores between them: IMGPROXY_CACHE__MAX_BYTES",
        "environment IMGPROXY_SERVER_PORT: section and key need two underscores between them: IMGPROXY_SERVER__PORT",
    )
    assert load(None, {"IMGPROXY_SERVER_NAME": "of another program", "IMGPROXY_SERVER": "{}"}) == Settings()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("server = 5\n", "[server]: expected a table: [server] and lines of key = value"),
        ("admin = 's3cr3t'\n", "[admin]: expected a table: [admin] and lines of key = value"),
        (
            "[downstream]\nkind = 'http'\n",
            "[downstream]: expected tables: [[downstream]] and lines of key = value, as many times as there are",
        ),
        (
            "downstream = [5]\n",
            "[[downstream]] number 1: expected tables: [[downstream]] and lines of key = value, as many times as there are",
        ),
    ],
)
def test_a_section_that_is_no_table_says_what_it_is_to_be(text: str, line: str, tmp_path: Path) -> None:
    """The message uses the words of a configuration file."""
    assert problems(text, tmp_path) == (line,)


def test_a_contradiction_is_listed_beside_a_wrong_value(tmp_path: Path) -> None:
    """Valid sections are checked against each other even if another section is wrong."""
    lines = problems("[signing]\nrequired = true\n[server]\nport = 'x'\n", tmp_path)

    assert [line.split(" = ")[0] for line in lines] == ["[server] port", "[signing] required"]
    assert len(problems("[signing]\nrequired = true\ntokens = 5\n", tmp_path)) == 1


def test_an_unknown_key_names_section_key_and_the_likely_one(tmp_path: Path) -> None:
    """The message for a typo names the known keys."""
    (line,) = problems("[cache]\nmax_byte = 4\n", tmp_path)

    assert line.startswith("[cache] max_byte: unknown key; did you mean max_bytes?")


def test_an_unknown_section_is_named(tmp_path: Path) -> None:
    """So is a section that does not exist."""
    (line,) = problems("[cash]\nx = 1\n", tmp_path)

    assert line.startswith("[cash]: unknown section; did you mean cache?")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[cache]\nmax_bytes = 'x'\n", ("[cache] max_bytes = 'x'", "integer ≥ 0")),
        ("[server]\nport = 70000\n", ("[server] port = 70000", "≤ 65_535")),
        ("[render]\nmetadata = 'zip'\n", ("[render] metadata = 'zip'", '"none", "credit", "all"')),
        ("[origin]\nurl = 'ftp://x'\n", ("[origin] url = 'ftp://x'", "^https?://")),
        ("[signing]\nrequired = true\n", ("[signing] required", "at least one token")),
        ("[url]\ndefaults = { w = 'wide' }\n", ("[url] defaults: w='wide': expected a whole number",)),
        ("[url.presets.'a b']\nw = 1\n", ("[url] presets: 'a b': expected text like ^[",)),
        ("[tags]\nheaders = ['Cache Tag']\n", ("[tags] headers: 'Cache Tag': expected text like ^[",)),
    ],
)
def test_a_wrong_value_says_what_is_allowed(text: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    """Section, key, what was found, what is allowed."""
    (line,) = problems(text, tmp_path)

    assert all(part in line for part in parts)


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    """Three wrong settings give three lines."""
    assert len(problems("[cache]\na = 1\nmax_bytes = -1\n[server]\nport = 'x'\n", tmp_path)) == 3


def test_a_secret_never_stands_in_a_message(tmp_path: Path) -> None:
    """A token of the wrong type is not repeated."""
    lines = problems("[admin]\ntoken = ['s3cr3t']\n", tmp_path)

    assert "s3cr3t" not in "".join(lines)
    assert "[admin] token" in lines[0]


def test_a_mistyped_variable_is_an_error() -> None:
    """IMGPROXY_ variables with a section are checked as the file is; others may belong to another program."""
    with pytest.raises(ConfigError, match="IMGPROXY_CACHE__DRI: unknown key; did you mean dir"):
        load(None, {"IMGPROXY_CACHE__DRI": "x"})
    assert load(None, {"IMGPROXY_KEY": "of another program"}) == Settings()


def test_secrets_come_from_files(tmp_path: Path) -> None:
    """The lines of the file are the secrets; the error for an empty or missing file names the setting."""
    path = tmp_path / "token"
    path.write_text("new\nold\n\n")

    assert secret_lines(None, path, name="x") == ("new", "old")
    assert secret_lines(SecretStr("literal"), None, name="x") == ("literal",)
    path.write_text("\n")
    with pytest.raises(ConfigError, match="empty"):
        secret_lines(None, path, name="[admin] token_file")
    with pytest.raises(ConfigError, match="cannot be read"):
        secret_lines(None, tmp_path / "nothing", name="[admin] token_file")


def test_a_list_of_secrets_comes_from_its_file_too(tmp_path: Path) -> None:
    """Tokens and webhook secrets of a file are added to those of the configuration."""
    path = tmp_path / "secrets"
    path.write_text("two\nthree\n")
    environ = {"IMGPROXY_WEBHOOK__SECRETS": '["one"]', "IMGPROXY_WEBHOOK__SECRETS_FILE": str(path)}

    assert webhook_secrets(load(None, environ).webhook) == ("one", "two", "three")
    assert signing_tokens(load(None, {"IMGPROXY_SIGNING__TOKENS_FILE": str(path)}).signing) == ("two", "three")


def test_secrets_do_not_show_when_settings_are_printed() -> None:
    """A settings object in a log shows stars."""
    settings = load(None, {"IMGPROXY_ADMIN__TOKEN": "s3cr3t", "IMGPROXY_ORIGIN__TOKEN": "s3cr3t"})

    assert "s3cr3t" not in repr(settings)
    assert "s3cr3t" not in str(settings)


def test_the_example_is_the_defaults() -> None:
    """config.example.toml is made from the declarations, is valid, and changes nothing."""
    text = (REPOSITORY / "config.example.toml").read_text("utf-8")

    assert text == example_toml(), "run: imgproxy check --example > config.example.toml"
    assert load(REPOSITORY / "config.example.toml", {}) == Settings()


def test_each_file_of_secrets_says_when_it_is_read() -> None:
    """The help of each `*_file` says whether a new secret needs a restart."""
    said = {
        f"{section}.{key}": setting.description or ""
        for section, value in Settings()
        for key, setting in getattr(type(value), "model_fields", {}).items()
        if key.endswith("_file")
    }

    assert len(said) >= 4
    for name, words in said.items():
        assert ("read again when it changes" if name == "origin.token_file" else "read once, at start") in words, name


def test_a_retired_setting_is_dropped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An old configuration file still starts; the log says which line can be removed."""
    file = tmp_path / "edge.toml"
    file.write_text("[cache]\nlanding_bytes = 10\nmax_bytes = 1000000000\n")

    assert load(file, {}).cache.max_bytes == 1_000_000_000
    assert "[cache] landing_bytes" in caplog.text
