"""A timestamp authority (RFC 3161) for tests: the program openssl behind HTTP, with a certificate of the tests."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from aiohttp import web
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support.certificates import OPENSSL
from tests.support.credentials import authority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_CONFIG: Final = """
[tsa]
default_tsa = tests
[tests]
serial = serial
signer_cert = tsa.pem
certs = tsa.pem
signer_key = tsa.key
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256, sha384, sha512
accuracy = secs:1
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


@asynccontextmanager
async def timestamp_authority(folder: Path) -> AsyncIterator[str]:
    """Answer requests for timestamps. Yields the URL. `folder` gets its files."""
    assert OPENSSL is not None
    identity = authority().issue(name="Test Clock", purposes=(ExtendedKeyUsageOID.TIME_STAMPING,))
    identity.write(folder, "tsa")
    (folder / "serial").write_text("01\n")
    (folder / "tsa.cnf").write_text(_CONFIG)

    async def answer(request: web.Request) -> web.Response:
        (folder / "query").write_bytes(await request.read())
        process = await asyncio.create_subprocess_exec(
            *(str(OPENSSL), "ts", "-reply", "-config", "tsa.cnf", "-queryfile", "query"),
            *("-out", "reply"),
            cwd=folder,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
        assert process.returncode == 0, said.decode()
        return web.Response(body=(folder / "reply").read_bytes(), content_type="application/timestamp-reply")

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()
