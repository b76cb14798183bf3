"""``python -m carrot.server``: serve a broker until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

try:
    import zmq.auth
except ModuleNotFoundError as exc:
    sys.exit(f"carrot.server needs pyzmq: pip install 'carrot[zeromq]' ({exc})")

from carrot.exceptions import CarrotError, ConfigurationError
from carrot.server.broker import Broker
from carrot.server.protocol import DEFAULT_ADDRESS


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m carrot.server",
        description="A message broker for carrot's zeromq driver.",
    )
    parser.add_argument(
        "--bind", action="append", metavar="ADDRESS",
        help=f"where to listen; may be given more than once (default: {DEFAULT_ADDRESS}, which "
        "only this machine reaches)",
    )  # fmt: skip
    parser.add_argument(
        "--store", metavar="PATH",
        help="the file that keeps durable queues and persistent messages over a restart",
    )  # fmt: skip
    parser.add_argument(
        "--curve-secret-key-file", metavar="PATH", type=Path,
        help="a certificate with the broker's secret key, as zmq.auth.create_certificates() makes "
        "it: encrypt, and refuse clients that don't know the public key",
    )  # fmt: skip
    parser.add_argument(
        "--curve-clients", metavar="FOLDER", type=Path,
        help="the certificates (*.key) of the clients that may connect (default: all that know "
        "the broker's public key)",
    )  # fmt: skip
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="warning",
        help="what to write to standard error; debug adds tracebacks (default: %(default)s)",
    )  # fmt: skip
    options = parser.parse_args(given)
    if options.curve_clients and not options.curve_secret_key_file:
        parser.error("--curve-clients needs --curve-secret-key-file")
    return options


def secret_key(path: Path) -> str:
    """The secret key in a certificate."""
    try:
        _, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"the certificate {path} can't be read: {exc}") from exc
    if secret is None:
        raise ConfigurationError(f"the certificate {path} has no secret key: give *.key_secret")
    return secret.decode()


def public_keys(folder: Path) -> list[str]:
    """The public keys in a folder of certificates."""
    try:
        return [key.decode() for key in zmq.auth.load_certificates(folder)]
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"the certificates in {folder} can't be read: {exc}") from exc


def warn_if_open(urls: Sequence[str]) -> None:
    """Warn of each unprotected address that other machines reach."""
    for url in urls:
        address = urlsplit(url)
        if address.scheme.endswith("+tcp") and not ip_address(address.hostname or "").is_loopback:
            print(
                f"carrot.server: anybody who reaches {url} can do anything there: use "
                "--curve-secret-key-file",
                file=sys.stderr,
            )


def main(given: Sequence[str] | None = None) -> int:
    """Serve; returns the process's exit status."""
    options = arguments(given)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        broker = Broker(
            options.bind or DEFAULT_ADDRESS,
            store=options.store,
            curve_secret_key=options.curve_secret_key_file
            and secret_key(options.curve_secret_key_file),
            curve_clients=options.curve_clients and public_keys(options.curve_clients),
        )
        broker.open()
        broker.stop_at(signal.SIGTERM, signal.SIGINT)
        print("ready:", *broker.urls, flush=True)
        if not options.curve_secret_key_file:
            warn_if_open(broker.urls)
        try:
            broker.serve()
        finally:
            signal.set_wakeup_fd(-1)
    except CarrotError as exc:
        print(f"carrot.server: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
