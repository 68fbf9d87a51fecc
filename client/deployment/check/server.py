"""Checks of the way to the server: address, certificate, health, clock."""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from client.deployment.check.base import Failed, Warned, check
from mdmt.deployment.kits import SiteKit, split_address

TIMEOUT = 10.0
"""Seconds."""
SOON = 30
"""A certificate that ends within so many days gives a warning."""
SLOW_CLOCK, FAST_CLOCK = 30.0, 2.0
"""A clock that is more seconds behind or ahead of the server's gives a warning."""
_COORDINATOR = "tell the coordinator"
_OTHER_CA = (
    "is not of this federation's CA",
    "if this network opens TLS, have the server exempted; else ask the coordinator whether all kits"
    " were made again",
)
_OTHER_HOST = (
    "is for another name: {why}",
    f"{_COORDINATOR}: --server must be the name that sites use",
)
_CERTIFICATE = {
    9: ("is not valid yet: this machine's clock says {now}", "set the clock"),
    10: (
        "has expired (this machine's clock says {now})",
        f"{_COORDINATOR} to renew it, or set the clock",
    ),
    **dict.fromkeys((2, 18, 19, 20, 21), _OTHER_CA),
    **dict.fromkeys((62, 64), _OTHER_HOST),
}
"""OpenSSL's X509_V_ERR code → what is wrong with the certificate, and the remedy."""
_UNREACHABLE: dict[type[Exception], tuple[str, str]] = {
    socket.gaierror: ("no such host name", "correct DNS or /etc/hosts"),
    TimeoutError: (
        f"no answer within {TIMEOUT:.0f} s",
        "let the firewall pass outgoing TCP to it",
    ),
    ConnectionRefusedError: (
        "refused the connection: nothing listens there",
        "ask the coordinator whether the server is started",
    ),
}
"""The error of a connection → what is wrong, and the remedy."""


@dataclass(frozen=True)
class Answer:
    """What the server answered to the request for its health."""

    status: int
    certificate: dict[str, Any]
    """As `ssl.SSLSocket.getpeercert` gives it."""
    date: str | None
    """The header."""
    moment: float
    """Seconds since the epoch on this machine, halfway between request and answer."""


@check("address")
def check_address(kit: SiteKit) -> str:
    """Check that TCP reaches the server, or the proxy that the environment names."""
    where = kit.facts.server
    host, port = split_address(where)
    proxy = None if proxy_bypass(host) else getproxies().get("https")
    if proxy is not None:
        parts = urlsplit(proxy)
        host, port = parts.hostname or "", parts.port or 80
        where = f"the proxy {host}:{port} (HTTPS_PROXY), which has to let CONNECT to {where} pass"
    try:
        started = time.monotonic()
        socket.create_connection((host, port), TIMEOUT).close()
    except OSError as error:
        unknown = error.strerror, "correct this machine's network"
        found, remedy = _UNREACHABLE.get(type(error), unknown)
        raise Failed(f"{where}: {found}", remedy) from error
    return f"{where} in {1000 * (time.monotonic() - started):.0f} ms"


def ask_server(kit: SiteKit) -> Answer | Exception:
    """Ask for the server's health as Flower does: over TLS, and trust only the kit's CA.

    An error that prevented the answer is returned, not raised: other checks explain it.
    """
    import httpx

    try:
        context = ssl.create_default_context(cafile=kit.ca_certificate)
        sent = time.time()
        with (
            httpx.Client(verify=context, timeout=TIMEOUT) as client,
            client.stream("GET", f"https://{kit.facts.server}/health") as response,
        ):
            received = time.time()
            stream = response.extensions["network_stream"]
            certificate = stream.get_extra_info("ssl_object").getpeercert()
            date = response.headers.get("Date")
            return Answer(response.status_code, certificate, date, (sent + received) / 2)
    except (httpx.HTTPError, OSError) as error:
        return error


def answered(answer: Answer | Exception) -> Answer:
    """Return the answer; a check fails without one."""
    if isinstance(answer, Exception):
        raise Failed("not checked: no answer", "see the certificate's line")
    return answer


@check("certificate", f"{_COORDINATOR} to renew it")
def check_certificate(answer: Answer | Exception) -> str:
    """Check that the server's certificate descends from the kit's CA and names the server."""
    if isinstance(answer, Exception):
        raise Failed(*_explain(answer))
    ends = ssl.cert_time_to_seconds(answer.certificate["notAfter"])
    found = f"the server is who it says, until {time.strftime('%Y-%m-%d', time.gmtime(ends))}"
    if (ends - answer.moment) / 86400 < SOON:
        raise Warned(found)
    return found


def _explain(error: BaseException) -> tuple[str, str]:
    """Explain in plain words why there was no TLS connection, and what to do."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        found, remedy = _CERTIFICATE.get(cause.verify_code, ("is refused: {why}", _COORDINATOR))
        now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        return f"the server's certificate {found.format(now=now, why=cause.verify_message)}", remedy
    if isinstance(cause, ssl.SSLError):
        found = f"no TLS connection: {cause.reason or cause}"
        return found, "see that ca.crt is whole and that nothing else listens at the address"
    return f"no TLS connection: {error or type(error).__name__}", "make the address reachable first"


@check("server", f"{_COORDINATOR}: this may be another server")
def check_server(answer: Answer | Exception) -> str:
    """Check that the server is healthy."""
    status = answered(answer).status
    if status in (502, 503, 504):
        found = f"the proxy answers, the SuperLink behind it does not ({status})"
        raise Failed(found, "ask the coordinator to start the server")
    if status != 200:
        raise Failed(f"/health answers {status}, not 200")
    return "is up"


@check("clock", "set the clock, such as by timedatectl set-ntp true")
def check_clock(answer: Answer | Exception) -> str:
    """Compare the clock with the server's: Flower refuses signatures that are too old or too new.

    It accepts a clock that is up to 300 s behind, but only up to 5 s ahead.
    """
    from client.fleet import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

    answer = answered(answer)
    try:
        date = parsedate_to_datetime(answer.date or "").timestamp()
    except ValueError as error:
        raise Warned("not compared: the server sends no time", _COORDINATOR) from error
    # The header has whole seconds.
    ahead = answer.moment - (date + 0.5)
    found = f"{_duration(ahead)} {'ahead of' if ahead > 0 else 'behind'} the server's"
    if not -TIMESTAMP_TOLERANCE <= ahead <= SYSTEM_TIME_TOLERANCE:
        raise Failed(found)
    if not -SLOW_CLOCK <= ahead <= FAST_CLOCK:
        raise Warned(found)
    return f"within {max(1.0, abs(ahead)):.0f} s of the server's"


def _duration(seconds: float) -> str:
    size = abs(seconds)
    return f"{size:.0f} s" if size < 120 else f"{size / 60:.0f} min"
