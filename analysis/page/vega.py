"""Vega-Lite as SVG and PNG, in this process or in others that draw while the analysis goes on.

vl-convert renders a specification without a browser, but one after the other and with the interpreter's lock held: a
hundred figures of a large study take as long as its whole analysis. `Drawing` hands them to processes of their own, one
per core. They import nothing of the analysis, start in a tenth of a second and take one JSON line per figure. The hard
case is a worker that fails or dies: the error names the figure, and leaving the `with` block ends every worker.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Any

import vl_convert

MOST = 4  # workers: each holds a JavaScript engine of about 0.2 GiB
SNIPPET = "window.vegaEmbed = vegaEmbed;"  # what a page needs of Vega, Vega-Lite and vega-embed


def svg(spec: dict[str, Any]) -> str:
    """The specification, drawn."""
    return str(vl_convert.vegalite_to_svg(spec))


def png(drawing: str, scale: float) -> bytes:
    """An SVG as PNG, `scale` pixels per point."""
    return bytes(vl_convert.svg_to_png(drawing, scale=scale))


def pdf(drawing: str) -> bytes:
    """An SVG as PDF, its letters as letters."""
    return bytes(vl_convert.svg_to_pdf(drawing))


def write(spec: dict[str, Any], path: Path) -> list[Path]:
    """Write `path` as .svg and as .png (two pixels per point), from one drawing; gives (png, svg)."""
    targets = [Path(f"{path}.png"), Path(f"{path}.svg")]
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing = svg(spec)
    targets[0].write_bytes(png(drawing, scale=2))
    targets[1].write_text(drawing, encoding="utf-8")
    return targets


def bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script for a page that fetches nothing."""
    return str(vl_convert.javascript_bundle(SNIPPET))


class Drawing:
    """Processes that draw; `add` returns at once, and leaving the `with` block waits for every file."""

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers or min(_cores(), MOST)
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._started: list[_Worker] = []
        self._threads = ThreadPoolExecutor(self._workers)  # they only wait, one per worker
        self._files: list[Future[list[Path]]] = []

    def add(self, spec: dict[str, Any], path: Path) -> None:
        """Have `path`.png and `path`.svg written."""
        if len(self._started) < min(self._workers, len(self._files) + 1):
            self._started.append(_Worker())
            self._idle.put(self._started[-1])
        order = json.dumps({"path": str(path.absolute()), "spec": spec})
        self._files.append(self._threads.submit(self._draw, order, path))

    def _draw(self, order: str, path: Path) -> list[Path]:
        worker = self._idle.get()
        try:
            return worker.draw(order, path)
        finally:
            self._idle.put(worker)

    @property
    def processes(self) -> tuple[subprocess.Popen[str], ...]:
        """The processes that were started, as many as there were figures to draw at once."""
        return tuple(worker.process for worker in self._started)

    def wait(self) -> list[Path]:
        """Every file that was asked for, in that order. Raises RuntimeError when one could not be drawn."""
        return [path for file in self._files for path in file.result()]

    def __enter__(self) -> Drawing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            for file in self._files:
                file.cancel()
            for worker in self._started:
                worker.end()
            self._threads.shutdown()


class _Worker:
    """One process that draws what it is told, line by line."""

    def __init__(self) -> None:
        house = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([house, *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "analysis.page.vega"],
            cwd=house,  # which `-m` puts before everything: a folder `analysis/` of the user's is not taken
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path},
        )

    def draw(self, order: str, path: Path) -> list[Path]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(order + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"{path}: the process that draws figures ended with code {self.process.wait()}")
        told = json.loads(answer)
        if "error" in told:
            raise RuntimeError(f"{path}: {told['error']}")
        return [Path(written) for written in told["written"]]

    def end(self) -> None:
        """Stop the process, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve(orders: IO[str], answers: IO[str]) -> None:
    """Draw one order per line until they end; answer each with the files written, or with what went wrong."""
    for line in orders:
        order = json.loads(line)
        try:
            answer: dict[str, object] = {"written": [str(p) for p in write(order["spec"], Path(order["path"]))]}
        except (ValueError, OSError) as error:  # a specification that does not compile, a full disk
            answer = {"error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted parent ends its workers itself
    serve(sys.stdin, sys.stdout)
