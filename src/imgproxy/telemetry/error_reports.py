"""
Reports of unexpected errors to Sentry, by its SDK. It is imported only if `SENTRY_DSN` is set.

A report has the type and text of the error, the code that it came through, and the line of the log. It has no local
variables, no request, no URL's signature, and none of the configured secrets.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from imgproxy import __version__
from imgproxy.errors import ImgproxyError
from imgproxy.telemetry.redaction import REDACTED, redacted

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

# At the end of the process, reports may take this long to be sent.
FLUSH_S: Final = 2.0
# Loggers of what sends reports and traces: they complain if it cannot be reached.
_SENDERS: Final = ("sentry_sdk", "urllib3", "opentelemetry")


class ErrorReports(logging.Handler):
    """
    A handler of the log: it reports errors that have a traceback, and are none of ours.

    Ours are expected: a client or the origin is told of them. `secrets` are replaced wherever they stand.
    """

    def __init__(self, dsn: str, secrets: Collection[str]) -> None:
        import sentry_sdk  # noqa: PLC0415 only if it is wanted

        super().__init__(logging.ERROR)
        self._secrets = tuple(secret for secret in secrets if secret)
        self._sdk = sentry_sdk
        # Integrations would add requests, local variables, arguments of the command line, and errors that are expected.
        sentry_sdk.init(
            dsn,
            release=f"imgproxy@{__version__}",
            default_integrations=False,
            auto_enabling_integrations=False,
            include_local_variables=False,
            max_breadcrumbs=0,
            before_send=self._scrub,
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Report an error."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None or isinstance(error, ImgproxyError) or record.name.startswith(_SENDERS):
            return
        try:
            with self._sdk.new_scope() as scope:
                scope.set_tag("logger", record.name)
                scope.set_context("log", {"message": record.getMessage()})
                self._sdk.capture_exception(error)
        except Exception:  # as in every handler of the library: the caller must not fail because of its log line
            self.handleError(record)

    def close(self) -> None:
        """Report nothing more, and send what is left, for some seconds at most."""
        logging.getLogger().removeHandler(self)
        self._sdk.get_client().close(timeout=FLUSH_S)
        super().close()

    def _scrub(self, event: Any, _hint: Any) -> Any:
        return self._without_secrets(event)

    def _without_secrets(self, value: Any) -> Any:
        if isinstance(value, str):
            for secret in self._secrets:
                value = value.replace(secret, REDACTED)
            return redacted(value)
        if isinstance(value, dict):
            return {name: self._without_secrets(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._without_secrets(item) for item in value]
        return value


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether the environment names a place for reports."""
    return bool(environment.get("SENTRY_DSN", "").strip())


def open_reports(environment: Mapping[str, str], secrets: Collection[str]) -> ErrorReports:
    """
    Return the handler that reports to `SENTRY_DSN`. It is already at the root of the log.

    Raises:
        ImportError: the extra `telemetry` is not installed.
        ValueError: the DSN is none.
    """
    reports = ErrorReports(environment["SENTRY_DSN"].strip(), secrets)
    logging.getLogger().addHandler(reports)
    return reports
