"""A private Apache ActiveMQ: started, stopped, killed and frozen by the tests that own it.

The jars of the system's package are run, with a configuration and a folder of this broker's own.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.brokers.freezing import wait_until_stopped
from tests.brokers.rabbitmq import BrokerError, free_port
from tests.waiting import eventually

START_TIMEOUT = 90.0  # seconds; it takes about 5 on an idle machine
STOP_TIMEOUT = 30.0
LOG_TAIL = 40  # lines

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


class ActiveMQ:
    """One broker, with everything it needs in a folder of its own.

    `with ActiveMQ() as broker:` starts it, and kills and removes it at the end.

    :param keystore: a PKCS#12 file with the certificate of a TLS listener, and its password; by
        default there is none.
    """

    def __init__(self, keystore: tuple[str, str] | None = None) -> None:
        self.port = free_port()
        self.tls_port = free_port() if keystore else None
        self.version: str | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="carrot-activemq-"))
        self.log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
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
    def is_running(self) -> bool:
        """Whether its process is there; it may be starting, or frozen."""
        return self._process is not None and self._process.poll() is None

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

    # -- life

    def start(self) -> None:
        """Start the broker and wait until it lets clients in.

        :raises BrokerError: it didn't in time; with the end of its log.
        """
        if reason := self.missing():
            raise BrokerError(reason)
        jars = ":".join(str(jar) for jar in sorted((HOME / "lib").glob("**/*.jar")))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "java",
                    "-Xmx256m",
                    "-XX:+UseSerialGC",
                    f"-Dactivemq.home={HOME}",
                    f"-Dactivemq.base={self.folder}",
                    f"-Djava.io.tmpdir={self.folder / 'tmp'}",
                    *("-cp", jars, "org.apache.activemq.console.Main"),
                    *("start", f"xbean:file:{self.folder / 'activemq.xml'}"),
                ],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            eventually(self._answered_or_ended, START_TIMEOUT)
            if not self.is_running:
                raise BrokerError(f"it ended with code {self._process.returncode}")
        except (AssertionError, BrokerError) as exc:
            self.kill()
            raise BrokerError(f"ActiveMQ did not start: {exc}\n{self.log_tail()}") from exc

    def _answered_or_ended(self) -> bool:
        self.version = stomp_server("127.0.0.1", self.port, USER, PASSWORD)
        return not self.is_running or (self.version is not None and self._tls_is_there())

    def _tls_is_there(self) -> bool:
        """Whether the connector that is started last is."""
        if self.tls_port is None:
            return True
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(("127.0.0.1", self.tls_port)) == 0

    def stop(self) -> None:
        """Shut the broker down as its service manager would, keeping its data."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise BrokerError(f"ActiveMQ did not stop\n{self.log_tail()}") from None
        self._process = self.version = None

    def kill(self) -> None:
        """End the broker at once, as a power cut would, keeping its data."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait(STOP_TIMEOUT)
        self._process = self.version = None

    def restart(self) -> None:
        """Stop and start; the ports stay the same."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Let the broker do nothing, with its sockets open, until :meth:`thaw`."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        wait_until_stopped(self._process.pid)

    def thaw(self) -> None:
        """Let a frozen broker go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is None:
            raise BrokerError("ActiveMQ does not run")
        os.kill(self._process.pid, number)

    def remove(self) -> None:
        """Kill the broker and remove all that it had."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.remove()

    def log_tail(self) -> str:
        """The last lines of its log."""
        if not self.log.exists():
            return "(it wrote no log)"
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL:]
        return "\n".join(["the end of its log:", *lines])


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
