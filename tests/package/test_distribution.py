"""The wheel and the sdist: what they are called, what is in them, and that the wheel alone is enough to run."""

from __future__ import annotations

import ast
import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from packaging.metadata import Metadata
from PIL import Image
from yarl import URL

import imgproxy
from tests.support.frontends import free_port
from tools.interpreters import SUPPORTED, find_interpreter

REPOSITORY = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
START_S = 60


@dataclass(frozen=True, slots=True)
class Built:
    """The two files of a build."""

    wheel: Path
    sdist: Path


def run(*command: str | Path, cwd: Path | None = None, environ: dict[str, str] | None = None) -> str:
    """Run a command to its end and return what it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environ,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build the sdist from the repository, and the wheel from the sdist, as package indexes get them."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=REPOSITORY)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=source)
    (wheel,) = folder.glob("*.whl")
    return Built(wheel, sdist)


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata_of(wheel: Path) -> Metadata:
    """Return the metadata, validated by the rules of package indexes."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        return Metadata.from_email(archive.read(name), validate=True)


def test_the_distribution_has_a_name_of_its_own_and_the_version_of_the_package(built: Built) -> None:
    """`imgproxy` on the index is another project. The version is written in one place."""
    metadata = metadata_of(built.wheel)

    assert metadata.name == "imgproxy-edge"
    assert str(metadata.version) == imgproxy.__version__
    assert built.wheel.name == f"imgproxy_edge-{imgproxy.__version__}-py3-none-any.whl"
    assert built.sdist.name == f"imgproxy_edge-{imgproxy.__version__}.tar.gz"
    assert "version" not in PROJECT


def test_the_licence_is_named_and_enclosed(built: Built) -> None:
    """Its name is an SPDX expression, and the text is in both files."""
    metadata = metadata_of(built.wheel)

    assert metadata.license_expression == "MIT"
    assert metadata.license_files == ["LICENSE"]
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names_in(built.wheel))
    with tarfile.open(built.sdist) as archive:
        assert f"imgproxy_edge-{imgproxy.__version__}/LICENSE" in archive.getnames()
    # An index refuses classifiers of a licence beside the expression (PEP 639).
    assert not [each for each in metadata.classifiers or [] if each.startswith("License ::")]


def test_the_description_is_the_readme_in_markdown(built: Built) -> None:
    """An index shows it."""
    metadata = metadata_of(built.wheel)

    assert metadata.description_content_type == "text/markdown"
    assert metadata.description == (REPOSITORY / "README.md").read_text("utf-8")


def test_the_supported_versions_of_python_are_the_same_everywhere(built: Built) -> None:
    """The classifiers, `requires-python`, and the list by which CI looks for interpreters."""
    metadata = metadata_of(built.wheel)
    named = [each.rpartition(" ")[2] for each in metadata.classifiers or [] if re.search(r"Python :: 3\.\d+$", each)]

    assert tuple(named) == SUPPORTED
    assert str(metadata.requires_python) == f">={SUPPORTED[0]}"


def test_the_extra_all_has_every_other_extra() -> None:
    """Whoever adds an extra adds it to `all`, too."""
    extras = PROJECT["optional-dependencies"]
    (every,) = extras["all"]

    found = re.fullmatch(r"imgproxy-edge\[([a-z0-9,-]+)\]", every)
    assert found is not None
    assert set(found[1].split(",")) == extras.keys() - {"all"}


def test_the_wheel_has_the_package_and_nothing_else(built: Built) -> None:
    """Code, photos and pages are there; tests and tools are not."""
    source = REPOSITORY / "src"
    files = {
        path.relative_to(source).as_posix()
        for path in (source / "imgproxy").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    found = {name for name in names_in(built.wheel) if ".dist-info/" not in name}

    assert found == files
    assert "imgproxy/edge/assets/landing.html" in found


def test_check_wheel_contents_finds_nothing(built: Built) -> None:
    """It knows the usual mistakes of wheels."""
    assert run(Path(sys.executable).with_name("check-wheel-contents"), built.wheel).rstrip().endswith("OK")


def test_every_file_of_the_documentation_is_in_the_sdist(built: Built) -> None:
    """So is what a user reads beside it."""
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    for path in (REPOSITORY / "docs").glob("*.md"):
        assert f"docs/{path.name}" in names
    assert {"README.md", "CHANGELOG.md", "config.example.toml", "pyproject.toml"} <= names


def test_the_version_is_a_constant() -> None:
    """The build reads it without importing the package, and so without its dependencies."""
    tree = ast.parse((REPOSITORY / "src/imgproxy/__init__.py").read_text("utf-8"))
    values = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    ]

    assert [ast.literal_eval(value) for value in values] == [imgproxy.__version__]


@pytest.mark.slow
@pytest.mark.parametrize("version", SUPPORTED)
async def test_the_installed_wheel_runs_its_demo(built: Built, tmp_path: Path, version: str) -> None:
    """In a fresh environment, without a file of the repository on the path, `imgproxy demo` answers with a picture."""
    interpreter = find_interpreter(version)
    if interpreter is None:
        pytest.skip(f"there is no Python {version} on this machine")
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV") and not name.startswith("IMGPROXY_")
    }
    venv = tmp_path / "venv"
    await asyncio.to_thread(install, built.wheel, venv, interpreter, clean)
    where = run(venv / "bin" / "python", "-c", "import imgproxy; print(imgproxy.__file__)", cwd=tmp_path, environ=clean)
    assert Path(where.strip()).is_relative_to(venv)
    command = venv / "bin" / "imgproxy"
    assert run(command, "--version", cwd=tmp_path, environ=clean) == f"imgproxy {imgproxy.__version__}\n"

    process = await asyncio.create_subprocess_exec(
        *(command, "demo", "--port", str(free_port()), "--library-port", "0"),
        cwd=tmp_path,
        env={**clean, "NO_COLOR": "1", "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        picture, page = await _visit(process)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        rest = (await process.communicate())[0]
    assert process.returncode == 0, rest.decode()
    assert picture.size[0] == 800
    assert imgproxy.__version__ in page


def install(wheel: Path, venv: Path, interpreter: Path, environ: dict[str, str]) -> None:
    """Install the wheel and what it needs, as the Makefile does, into a new environment."""
    # pyvips is not built against the headers of the system's libvips, nor was when it was cached.
    environ = environ | {"PKG_CONFIG_LIBDIR": "/nonexistent", "PKG_CONFIG_PATH": ""}
    run(interpreter, "-m", "venv", venv, environ=environ)
    pip = venv / "bin" / "pip"
    subprocess.run([pip, "cache", "remove", "pyvips-*"], check=False, env=environ, capture_output=True, timeout=60)
    install = (pip, "install", "--quiet", "--disable-pip-version-check")
    for lock in ("requirements-build.lock", "requirements.lock"):
        run(*install, "--require-hashes", "--no-build-isolation", "-r", REPOSITORY / lock, environ=environ)
    run(*install, "--no-deps", wheel, environ=environ)


async def _visit(process: asyncio.subprocess.Process) -> tuple[Image.Image, str]:
    """Return the first picture that the demo names, and the landing page."""
    assert process.stdout is not None
    seen = ""
    async with asyncio.timeout(START_S):
        while "Ctrl-C stops both" not in seen:
            line = await process.stdout.readline()
            assert line, f"ended early:\n{seen}"
            seen += line.decode()
    url = re.search(r"http://\S+\?w=800$", seen, re.MULTILINE)
    assert url is not None, seen
    async with aiohttp.ClientSession() as session:
        async with session.get(url[0]) as response:
            body = await response.read()
            assert response.status == 200, body
            picture = Image.open(io.BytesIO(body))
        async with session.get(URL(url[0]).origin(), headers={"Accept": "text/html"}) as response:
            return picture, await response.text()
