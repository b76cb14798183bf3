"""A RabbitMQ that speaks TLS, and lets clients in by their certificate; and an ActiveMQ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.brokers.activemq import ActiveMQ
from tests.brokers.process import free_port
from tests.brokers.rabbitmq import RabbitMQ


class TlsBroker(NamedTuple):
    """Where it is, and the files that its clients need.

    :param certificate: the chain of the user guest's own certificate, as EXTERNAL asks for.
    """

    tls_port: int
    ca: str
    certificate: str
    key: str


@contextmanager
def running_tls_broker(folder: Path) -> Iterator[TlsBroker]:
    """A private node with a TLS listener for ``localhost``; its files are made in *folder*."""
    # Here, because some tests run where nothing but pytest is installed.
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, issued in (
        ("broker", authority.issue_cert("localhost")),
        ("guest", authority.issue_cert("guest@localhost", common_name="guest")),
    ):
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
    port = free_port()
    broker = RabbitMQ(
        config=[
            f"listeners.ssl.1 = 127.0.0.1:{port}",
            f"ssl_options.cacertfile = {folder / 'ca.pem'}",
            f"ssl_options.certfile = {folder / 'broker.pem'}",
            f"ssl_options.keyfile = {folder / 'broker.key'}",
            "ssl_options.verify = verify_peer",
            "ssl_options.fail_if_no_peer_cert = false",
            "auth_mechanisms.1 = PLAIN",
            "auth_mechanisms.2 = AMQPLAIN",
            "auth_mechanisms.3 = EXTERNAL",
            "ssl_cert_login_from = common_name",
        ],
        name="tls",
    )
    (broker.folder / "plugins").write_text("[rabbitmq_auth_mechanism_ssl].\n")
    with broker:
        yield TlsBroker(
            port, *(str(folder / name) for name in ("ca.pem", "guest.pem", "guest.key"))
        )


@contextmanager
def running_tls_activemq(folder: Path) -> Iterator[tuple[ActiveMQ, str]]:
    """A private ActiveMQ with a TLS listener for ``localhost``, and the file of its authority."""
    # Here, because some tests run where nothing but pytest is installed.
    import trustme
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.serialization import pkcs12

    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued = authority.issue_cert("localhost")
    keystore = pkcs12.serialize_key_and_certificates(
        b"broker",
        serialization.load_pem_private_key(issued.private_key_pem.bytes(), None),  # type: ignore[arg-type]
        x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()),
        None,
        serialization.BestAvailableEncryption(b"keystore"),
    )
    (folder / "broker.p12").write_bytes(keystore)
    with ActiveMQ(keystore=(str(folder / "broker.p12"), "keystore")) as broker:
        yield broker, str(folder / "ca.pem")
