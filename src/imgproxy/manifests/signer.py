"""
The process that holds the key. It gets bytes, and answers their signature; it knows nothing of pictures.

    edge -> signer    {"certificate_file", "key_file", "algorithm", "trust_anchors_file"}, once; then the bytes to be
                      signed, again and again
    signer -> edge    {"ready": …} or {"problem": text}, once; then signatures

Each is one frame. The key is read here, and leaves this process never: not to the edge, which reads requests of
strangers, and not to the builder, which reads pictures of strangers.
"""

from __future__ import annotations

import ctypes
import json
import resource
import signal
import socket
import sys
import time
from pathlib import Path

from imgproxy.workers.channel import frame, receive

PR_SET_DUMPABLE = 4
MISSING = 'the extra is not installed: pip install "imgproxy-edge[c2pa]"'


def hide_memory() -> None:
    """
    Let no other process of this user read the memory of this one, where the system can do that.

    It writes no core file either. Source: prctl(2), PR_SET_DUMPABLE; it does not bind root.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    set_option = getattr(ctypes.CDLL(None), "prctl", None)
    if set_option is not None:
        set_option(PR_SET_DUMPABLE, 0, 0, 0, 0)


def main() -> None:
    """Sign until the edge closes the channel."""
    hide_memory()
    # These reach the whole group; the edge ends this process when its requests are done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        asked = receive(channel)
        if asked is None:
            return
        try:
            from imgproxy.manifests.certificate import (  # noqa: PLC0415 the extra may be missing
                CertificateProblemError,
                check_anchors,
                load_credential,
            )
        except ImportError:
            channel.sendall(frame(json.dumps({"problem": MISSING}).encode()))
            return
        wanted = json.loads(asked)
        try:
            credential = load_credential(
                Path(wanted["certificate_file"]), Path(wanted["key_file"]), wanted["algorithm"], time.time()
            )
            if wanted["trust_anchors_file"]:
                check_anchors(Path(wanted["trust_anchors_file"]))
        except CertificateProblemError as problem:
            channel.sendall(frame(json.dumps({"problem": str(problem)}).encode()))
            return
        ready = {
            "chain": credential.chain_pem,
            "subject": credential.subject,
            "issuer": credential.issuer,
            "expires_at_s": credential.expires_at_s,
        }
        channel.sendall(frame(json.dumps({"ready": ready}).encode()))
        while (data := receive(channel)) is not None:
            channel.sendall(frame(credential.sign(data)))


if __name__ == "__main__":
    main()
