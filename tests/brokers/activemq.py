"""A private Apache ActiveMQ.

The jars of the system's package are run, with a configuration and a folder of this broker's own.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.brokers.process import BrokerProcess, free_port

HOME = Path("/usr/share/activemq")
USER, PASSWORD = "carrot", "s3cret"

CONFIG = """\
<beans xmlns="http://www.springframework.org/schema/beans"
       xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
       xsi:schemaLocation="http://www.springframework.org/schema/beans
         http://www.springframework.org/schema/beans/spring-beans.xsd
         http://activemq.apache.org/schema/core
         http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" brokerName="carrot" useJmx="false"
          persistent="true" dataDirectory="{folder}/data" schedulePeriodForDestinationPurge="0">
    <persistenceAdapter>
      <!-- 5.17.2 loses what it has confirmed when it is killed after a compaction. -->
      <kahaDB directory="{folder}/data/kahadb" journalMaxFileLength="16mb"
              enableAckCompaction="false"/>
    </persistenceAdapter>
    <plugins>
      <simpleAuthenticationPlugin anonymousAccessAllowed="false">
        <users>
          <authenticationUser username="{user}" password="{password}" groups="users"/>
        </users>
      </simpleAuthenticationPlugin>
    </plugins>
    {tls}
    <transportConnectors>
      <transportConnector name="stomp" uri="stomp://127.0.0.1:{port}?transport.tcpNoDelay=true"/>
      {tls_connector}
    </transportConnectors>
  </broker>
</beans>
"""

TLS = """\
<sslContext>
      <sslContext keyStore="file:{keystore}" keyStorePassword="{password}"
                  keyStoreType="PKCS12"/>
    </sslContext>"""


class ActiveMQ(BrokerProcess):
    """One broker.

    :param keystore: a PKCS#12 file with the certificate of a TLS listener, and its password; by
        default there is none.
    """

    name = "ActiveMQ"

    def __init__(self, keystore: tuple[str, str] | None = None) -> None:
        super().__init__()
        self.tls_port = free_port() if keystore else None
        self.version: str | None = None
        self._configure(keystore)

    @staticmethod
    def missing() -> str | None:
        """Why none can be started here; None when one can."""
        if not (HOME / "lib" / "activemq-stomp.jar").exists():
            return f"ActiveMQ is not installed (not in {HOME}): apt-get install activemq"
        if shutil.which("java") is None:
            return "ActiveMQ is installed, but no Java: apt-get install default-jre-headless"
        return None

    @property
    def url(self) -> str:
        """A stomp URL for the user that it knows."""
        return f"stomp://{USER}:{PASSWORD}@127.0.0.1:{self.port}"

    @property
    def command(self) -> Sequence[str | Path]:
        jars = ":".join(str(jar) for jar in sorted((HOME / "lib").glob("**/*.jar")))
        return [
            "java",
            "-Xmx256m",
            "-XX:+UseSerialGC",
            f"-Dactivemq.home={HOME}",
            f"-Dactivemq.base={self.folder}",
            f"-Djava.io.tmpdir={self.folder / 'tmp'}",
            *("-cp", jars, "org.apache.activemq.console.Main"),
            *("start", f"xbean:file:{self.folder / 'activemq.xml'}"),
        ]

    @property
    def environment(self) -> Mapping[str, str]:
        return os.environ

    def _configure(self, keystore: tuple[str, str] | None) -> None:
        tls = tls_connector = ""
        if keystore:
            tls = TLS.format(keystore=keystore[0], password=keystore[1])
            tls_connector = (
                f'<transportConnector name="tls" uri="stomp+ssl://127.0.0.1:{self.tls_port}"/>'
            )
        (self.folder / "tmp").mkdir()
        (self.folder / "activemq.xml").write_text(
            CONFIG.format(
                folder=self.folder,
                port=self.port,
                user=USER,
                password=PASSWORD,
                tls=tls,
                tls_connector=tls_connector,
            )
        )

    def _answers(self) -> bool:
        self.version = stomp_server("127.0.0.1", self.port, USER, PASSWORD)
        return self.version is not None and self._tls_is_there()

    def _tls_is_there(self) -> bool:
        """Whether the connector that is started last is."""
        if self.tls_port is None:
            return True
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(("127.0.0.1", self.tls_port)) == 0


def stomp_server(
    host: str, port: int, user: str, password: str, timeout: float = 5.0
) -> str | None:
    """What the broker there says it is, such as ``5.17.2``; None when no STOMP broker answers."""
    said = b""
    try:
        with socket.create_connection((host, port), timeout) as link:
            link.settimeout(timeout)
            link.sendall(
                f"CONNECT\naccept-version:1.2\nhost:{host}\nlogin:{user}\npasscode:{password}\n\n\0"
                "".encode()
            )
            while b"\0" not in said:
                piece = link.recv(65536)
                if not piece:
                    break
                said += piece
    except OSError:
        return None
    if not said.startswith(b"CONNECTED"):
        return None
    found = re.search(rb"\nserver:ActiveMQ/([0-9A-Za-z.+~-]+)", said)
    return found[1].decode() if found else "of unknown version"
