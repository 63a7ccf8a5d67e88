"""Results in an object store: a local S3 server stands for it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from pyarrow.fs import FileSelector, FileType

from sweep.results import Results, TrialRows


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 server on this machine with the bucket `results`."""
    boto3 = pytest.importorskip("boto3")
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1").create_bucket(Bucket="results")
    yield server
    server.stop()


@pytest.fixture
def bucket(server: Any) -> Callable[[str], str]:
    """Makes s3:// URIs in the bucket."""
    host, port = server.get_host_and_port()
    return lambda path: f"s3://results/{path}?endpoint_override={host}:{port}&scheme=http&region=us-east-1"


def test_study_runs_into_a_bucket_and_is_found_there_again(
    bucket: Callable[[str], str], launch: Callable[..., Any], write_study: Any, document: dict[str, Any]
) -> None:
    document["methods"] = ["rtn", {"method": "wanda"}]
    study, root = write_study(document), bucket("tiny")
    first = launch(study, "--local", "--results", root)
    assert first.exit_code == 0, first.output
    local = launch(study, "--local", "--results", "here")
    assert local.exit_code == 0, local.output
    for table in ("metrics", "samples", "calibration"):
        assert Results(root).read(table).equals(Results("here").read(table))
    again = launch(study, "--local", "--results", root)
    assert again.exit_code == 0
    assert "4 already there, 0 to run" in again.output


def test_finished_trial_waits_until_the_store_is_back(server: Any, bucket: Callable[[str], str]) -> None:
    """The server stops while a trial is written, and is started again at the same address."""
    from moto.server import ThreadedMotoServer

    results = Results(bucket("away"), patience=60)
    host, port = server.get_host_and_port()
    again = ThreadedMotoServer(ip_address=host, port=port, verbose=False)
    put = results.put

    def put_into_a_store_that_went_away(relative: str, content: Any) -> None:
        if relative.startswith("samples/"):
            server.stop()
            threading.Timer(0.5, again.start).start()
        put(relative, content)

    results.put = put_into_a_store_that_went_away  # type: ignore[method-assign]
    metric = {"kind": "task", "task": "t", "metric": "acc", "value": 0.5}
    results.write_trial(TrialRows({"trial_id": "1f", "status": "ok", "study": "tiny"}, [metric]))
    assert results.status("1f") == "ok"
    assert results.read("metrics").height == 1
    again.stop()


SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"


class Between:
    """A way to a server that can be made to answer 503, or to stall: it takes requests and says nothing."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address, self.mode, self.refused = address, "open", 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def change(self, mode: str) -> None:
        """What is sent from now on is treated so; requests of before are cut off."""
        self.mode = mode
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        self.change("closed")
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                threading.Thread(target=self._serve, args=(client, self.mode), daemon=True).start()

    def _serve(self, client: socket.socket, mode: str) -> None:
        with client, suppress(OSError):
            self.refused += mode != "open"
            if mode == "open":
                with socket.create_connection(self.address) as server:
                    self._open.append(server)
                    back = threading.Thread(target=pour, args=(server, client))
                    back.start()
                    pour(client, server)
                    back.join()
            elif mode == "503":
                client.recv(1 << 20)
                head = f"HTTP/1.1 503 Slow Down\r\nContent-Length: {len(SLOW_DOWN)}\r\nConnection: close\r\n\r\n"
                client.sendall(head.encode() + SLOW_DOWN)
            else:
                while client.recv(1 << 20):
                    pass


def pour(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(1 << 16):
            target.sendall(content)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def between(server: Any) -> Iterator[Between]:
    found = Between(server.get_host_and_port())
    yield found
    found.close()


@pytest.mark.parametrize(("mode", "seconds"), [("503", 2.0), ("stalls", 4.0)])
def test_trial_is_committed_once_a_store_that_answers_503_or_stalls_is_itself_again(
    between: Between, mode: str, seconds: float
) -> None:
    root = f"s3://results/{mode}?endpoint_override=127.0.0.1:{between.port}&scheme=http&region=us-east-1"
    results, put = Results(root, patience=60), Results.put

    def put_into_a_store_in_trouble(relative: str, content: Any) -> None:
        if relative.startswith("samples/") and between.mode == "open":
            between.change(mode)
            threading.Timer(seconds, between.change, ["open"]).start()
        put(results, relative, content)

    results.put = put_into_a_store_in_trouble  # type: ignore[method-assign]
    metric = {"kind": "task", "task": "t", "metric": "acc", "value": 0.5}
    began = time.monotonic()
    results.write_trial(TrialRows({"trial_id": "1f", "status": "ok", "study": "tiny"}, [metric]))
    assert time.monotonic() - began >= seconds
    assert between.refused > 0
    assert results.status("1f") == "ok"
    assert results.read("metrics").height == 1


def test_bucket_that_does_not_exist_is_refused(
    bucket: Callable[[str], str], launch: Callable[..., Any], write_study: Any, document: dict[str, Any]
) -> None:
    result = launch(
        write_study(document), "--local", "--results", bucket("x").replace("s3://results/", "s3://missing/")
    )
    assert result.exit_code == 2, result.output
    assert "cannot be used" in result.stderr


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket that answers a put as S3 does when the key may only read."""

    def denied(_: Results, path: str, content: Any) -> None:
        raise OSError(f"When uploading '{path}': AWS Error ACCESS_DENIED during PutObject operation: Access Denied")

    monkeypatch.setattr(Results, "upload", denied)


def test_dry_run_says_in_one_line_that_a_bucket_is_missing(
    bucket: Callable[[str], str], launch: Callable[..., Any], write_study: Any, document: dict[str, Any]
) -> None:
    missing = bucket("x").replace("s3://results/", "s3://missing/")
    result = launch(write_study(document), "--dry-run", "--results", missing)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: --results s3://missing/x")
    assert "cannot be used" in result.stderr
    assert "estimate" not in result.output


@pytest.mark.usefixtures("read_only")
def test_dry_run_says_in_one_line_that_a_bucket_cannot_be_written(
    bucket: Callable[[str], str], launch: Callable[..., Any], write_study: Any, document: dict[str, Any]
) -> None:
    result = launch(write_study(document), "--dry-run", "--results", bucket("tiny"))
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert "cannot be used" in result.stderr
    assert "Access Denied" in result.stderr


def test_dry_run_into_a_bucket_leaves_nothing_there(
    bucket: Callable[[str], str], launch: Callable[..., Any], write_study: Any, document: dict[str, Any]
) -> None:
    result = launch(write_study(document), "--dry-run", "--results", bucket("new"))
    assert result.exit_code == 0, result.output
    there = Results(bucket("new")).filesystem.get_file_info(
        FileSelector("results/new", recursive=True, allow_not_found=True)
    )
    assert all(info.type == FileType.Directory for info in there)


def test_second_launch_into_a_bucket_is_refused(
    bucket: Callable[[str], str], launch: Callable[..., Any], write_study: Any, document: dict[str, Any]
) -> None:
    from sweep.storage.lease import FILE, Lease

    document["methods"] = ["rtn"]
    study, first = write_study(document), Lease(Results(bucket("tiny")))
    first.acquire()
    result = launch(study, "--local", "--results", first.results.root)
    assert result.exit_code == 2
    assert "another launch writes there" in result.stderr
    first.release()
    assert first.results.read_text(FILE) is None
    assert launch(study, "--local", "--results", first.results.root).exit_code == 0


def test_packed_files_in_a_bucket_read_as_before(bucket: Callable[[str], str]) -> None:
    from sweep.storage.compact import compact

    results = Results(bucket("packed"))
    for trial_id in ("1a", "1b", "1c", "1d"):
        metric = {"kind": "task", "task": "t", "metric": "acc", "value": 0.5}
        sample = {"task": "t", "doc_id": 0, "score": 1.0}
        status = "failed" if trial_id == "1d" else "ok"
        results.write_trial(TrialRows({"trial_id": trial_id, "status": status, "study": "tiny"}, [metric], [sample]))
    tables = ("trials", "metrics", "samples", "layers")
    before = [results.read(name).rows() for name in tables]
    assert compact(results, trials_a_file=2).trials == 3
    again = Results(bucket("packed"))
    assert [again.read(name).rows() for name in tables] == before
    assert again.scan("samples").collect().height == 3
    assert [len(again.own_files(name)) for name in tables] == [1, 1, 1, 1]
    again.remove_trials({"1a"})
    assert set(Results(bucket("packed")).read("metrics").get_column("trial_id")) == {"1b", "1c"}
    again.put_aside(again.packed_files("trials")[0])
    assert set(Results(bucket("packed")).read("trials").get_column("trial_id")) == {"1c", "1d"}
