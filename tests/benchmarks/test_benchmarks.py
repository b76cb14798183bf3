"""Every scenario and every peer, with a few messages, and what is made of the results."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import runner
from benchmarks.__main__ import main
from benchmarks.backends import ACTIVEMQ
from benchmarks.bodies import body
from benchmarks.bounds import check
from benchmarks.clock import Meter
from benchmarks.job import Job, Result
from benchmarks.peers import PEERS
from benchmarks.runner import Effort, Runner, run_worker
from benchmarks.scenarios import SCENARIOS, all_cases, scenario
from benchmarks.summary import Summary, summarize
from benchmarks.terminal import tables
from tests.brokers import ActiveMQ, RabbitMQ

LITTLE = Effort(rounds=1, share=0.001, seconds=0.1, warmup=5)


def escaped(url: str) -> str:
    return url.removesuffix("//") + "/%2F"


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_measures_carrot(
    name: str, rabbitmq: RabbitMQ, activemq: ActiveMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ACTIVEMQ, activemq.url)
    cases = scenario(name).CASES

    results = Runner(escaped(rabbitmq.url), LITTLE).run(cases, ["carrot"])

    for case in cases:
        for peer, rounds in results[case.name].items():
            assert [result.failed for result in rounds] == [None], f"{peer} in {case.name}"
            assert rounds[0].messages > 0
            assert rounds[0].wall > 0


@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer != "carrot"])
def test_every_peer_is_measured_or_not_installed(peer: str, rabbitmq: RabbitMQ) -> None:
    wanted = {"publish", "confirmed", "pipelined", "consume-100", "roundtrip", "threads-4",
              "memory-consume", "import-names"}  # fmt: skip
    cases = [case for case in all_cases() if case.name in wanted and peer in case.peers]

    results = Runner(escaped(rabbitmq.url), LITTLE).run(cases, [peer])

    for case in cases:
        (result,) = results[case.name][peer]
        assert result.failed is None, case.name
        assert result.messages > 0 or (result.skipped or "").startswith("not installed")


def test_a_worker_that_hangs_is_killed_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "GRACE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"amqp://127.0.0.1:{silent.getsockname()[1]}/%2F"

        result = run_worker(Job("publish", "carrot", url, "q", 1, 0.1, 1, {"size": 80}))

    assert result.failed == "no result within 1 s, killed"


def test_what_a_worker_raises_is_reported() -> None:
    result = run_worker(
        Job("publish", "carrot", "amqp://127.0.0.1:1/", "q", 1, 0.1, 1, {"size": 80})
    )

    assert result.failed is not None
    assert result.failed.startswith("ConnectionFailed: ")


def test_the_report_is_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_file, svg_file = tmp_path / "new" / "results.json", tmp_path / "plot.svg"
    options = ["--quick", "--messages", "20", "--peers", "carrot", "--cases", "memory"]

    code = main([*options, "--output", str(json_file), "--plot", str(svg_file)])

    printed = capsys.readouterr().out
    assert code == 0
    assert "in memory: publish, 80 B\n" in printed
    assert "not measured" in printed
    written = json.loads(json_file.read_text())
    assert written["cases"]["memory-publish"]["peers"]["carrot"]["messages"] == 20
    assert ElementTree.parse(svg_file).getroot().tag.endswith("svg")


def test_the_table_says_who_cannot_and_who_failed() -> None:
    case = next(case for case in all_cases() if case.name == "pipelined")
    results = {
        case.name: {
            "carrot": [Result(1.0, 2.0, 100), Result(3.0, 4.0, 100), Result(failed="too slow")],
            "node": [Result(skipped="not installed: node")],
        }
    }

    lines = list(tables([case], summarize(results), list(PEERS)))

    by_peer = {line.split()[0]: line for line in lines[3:]}
    assert "20 000.0" in by_peer["carrot"]
    assert by_peer["carrot"].endswith("1 of 3 rounds failed: too slow")
    assert by_peer["node"].endswith("not installed: node")
    assert by_peer["pika"].split() == ["pika", "-", "-", "-", "-", "-"]


def test_bounds_compare_medians_of_one_run() -> None:
    summaries = {
        "publish": {
            "carrot": Summary(cpu=6.0, rate=40_000.0),
            "kombu": Summary(cpu=60.0, rate=13_000.0),
            "pika": Summary(cpu=20.0, rate=19_000.0),
        }
    }

    ratios = {bound.title: ratio for bound, ratio in check(summaries)}

    assert ratios["publish, CPU, to the best Python peer"] == pytest.approx(0.3)
    assert ratios["publish, CPU, to kombu"] == pytest.approx(0.1)
    assert ratios["publish, CPU, to Node.js"] is None


def test_a_meter_measures_as_many_as_it_is_told_after_the_warm_up() -> None:
    meter = Meter(Job("consume", "carrot", "", "", messages=50, seconds=60, warmup=10))

    ticks = [meter.tick() for _ in range(70)]

    assert ticks.index(True) == 59
    assert all(ticks[59:])
    assert meter.result is not None
    assert meter.result.messages == 50


@pytest.mark.parametrize("size", [80, 4096])
def test_a_body_has_exactly_the_size_asked_for(size: int) -> None:
    assert len(json.dumps(body(size))) == size


def test_a_body_too_small_for_its_keys_is_an_error() -> None:
    with pytest.raises(ValueError, match="10 bytes"):
        body(10)
