"""
A real S3 gateway for tests: versitygw, else moto's server.

versitygw checks signatures and rights, and keeps objects as files. `go install` puts it into ~/go/bin; `.ci/run` does so.
moto's server comes with the group `dev`. It accepts every key, so tests of rights need versitygw.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

import obstore
from obstore.store import S3Store
from pydantic import SecretStr

from imgproxy.config.shared_store import SharedStoreSettings
from tests.support.frontends import free_port
from tests.support.go_programs import find_go_program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

VERSITYGW = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
ACCESS, SECRET_KEY, BUCKET = "test-access", "test-secret-key", "pictures"
# A user whose rights `Gateway.allow` sets.
LIMITED = "limited-access"
START_S = 120


def find_versitygw() -> str | None:
    """Return the path of versitygw, from PATH or from where `go install` puts it."""
    return find_go_program("versitygw")


def missing_gateway() -> str | None:
    """Return why no gateway can be started, for a skip. None if there is one."""
    if find_versitygw() is not None or find_spec("moto") is not None:
        return None
    return f"no S3 gateway: neither `go install {VERSITYGW}` nor the Python package moto[server] was run or installed"


@dataclass
class Gateway:
    """A running gateway with one bucket. `stop` and `start` simulate an outage; its objects stay."""

    folder: Path
    port: int
    is_moto: bool
    _process: asyncio.subprocess.Process | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def settings(
        self, *, port: int | None = None, access: str = ACCESS, secret: str = SECRET_KEY, **more: object
    ) -> SharedStoreSettings:
        """Settings of an edge that uses it, directly or through a relay on `port`."""
        return SharedStoreSettings.model_validate(
            {
                "url": f"s3://{BUCKET}",
                "endpoint": f"http://127.0.0.1:{port or self.port}",
                "allow_http": True,
                "region": "us-east-1",
                "access_key_id": access,
                "secret_key": SecretStr(secret),
                "read_timeout_s": 20,
                **more,
            }
        )

    def allow(self, *actions: str) -> None:
        """Let LIMITED do no more than this. The gateway reads the bucket's policy from its file at each request."""
        bucket = f"arn:aws:s3:::{BUCKET}"
        allowed = {"Effect": "Allow", "Principal": {"AWS": [LIMITED]}}
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                allowed | {"Action": action, "Resource": bucket if action == "s3:ListBucket" else f"{bucket}/*"}
                for action in actions
            ],
        }
        file = self.folder / "meta" / BUCKET / "meta" / "policy"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(policy))

    def client(self) -> S3Store:
        """A client with all rights, beside the edge."""
        return S3Store(
            BUCKET,
            endpoint=self.url,
            region="us-east-1",
            access_key_id=ACCESS,
            secret_access_key=SECRET_KEY,
            client_options={"allow_http": True},
        )

    async def names(self, below: str = "") -> list[str]:
        """The names of all objects."""
        return [item["path"] for page in await _pages(self.client(), below) for item in page]

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        if self.is_moto:
            command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        else:
            program = find_versitygw()
            assert program is not None
            command = [program, "--port", f"127.0.0.1:{self.port}", "--access", ACCESS, "--secret", SECRET_KEY]
            command += [
                "--quiet",
                "--iam-dir",
                str(self.folder / "iam"),
                "posix",
                "--sidecar",
                str(self.folder / "meta"),
                str(self.folder / "root"),
            ]
        self._process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(START_S):
            while True:
                assert self._process.returncode is None, "the gateway ended as it started"
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Kill it."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()


async def _pages(store: S3Store, below: str) -> list[list[obstore.ObjectMeta]]:
    return [list(page) async for page in obstore.list(store, below or None)]


@asynccontextmanager
async def gateway(folder: Path) -> AsyncIterator[Gateway]:
    """Run a gateway over this folder."""
    is_moto = find_versitygw() is None
    (folder / "root" / BUCKET).mkdir(parents=True)
    (folder / "meta").mkdir()
    (folder / "iam").mkdir()
    user = {"access": LIMITED, "secret": SECRET_KEY, "role": "user", "userID": 0, "groupID": 0, "projectID": 0}
    (folder / "iam" / "users.json").write_text(json.dumps({"accessAccounts": {LIMITED: user}}))
    running = Gateway(folder, free_port(), is_moto)
    await running.start()
    try:
        if is_moto:
            await _make_bucket(running)
        yield running
    finally:
        await running.stop()


async def _make_bucket(running: Gateway) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.put(f"{running.url}/{BUCKET}") as response:
        assert response.status == 200
