"""The report as its reader meets it: one file, in a real browser, on a desk, in the dark and on a phone."""

from __future__ import annotations

import html
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import typer

from analysis.cells import source_table
from analysis.evidence import Evidence
from analysis.frames import load
from analysis.page.html import Figure, Section, unpacked
from analysis.report import build, follow, main, save_figures, slugs, write_report
from calib.settings import SettingsError
from sweep.results import ResultsError


@pytest.fixture(scope="module")
def sections(simulated: Path) -> list[Section]:
    return build(Evidence(load(str(simulated))), str(simulated))


@pytest.fixture(scope="module")
def report(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    path, _ = write_report(str(simulated), str(folder / "report.html"), save=False)
    return path


@pytest.mark.parametrize(("width", "dark"), [(1100, False), (1100, True), (390, False), (390, True)])
def test_report_draws_every_figure_without_a_complaint(browser, report: Path, width: int, dark: bool) -> None:  # type: ignore[no-untyped-def]
    browser.look(report, width, dark)
    assert browser.complaints() == []
    drawn = browser.value(
        "[...document.querySelectorAll('.chart svg')].filter(s=>s.getBoundingClientRect().width>100).length"
    )
    assert drawn == browser.value("document.querySelectorAll('figure').length") > 5
    assert browser.value("document.documentElement.dataset.errors") == "0"
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("[...document.querySelectorAll('.facts b')].every(b => b.scrollWidth <= b.clientWidth)")
    background = browser.value("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
    assert brightness < 60 if dark else brightness > 200


def test_text_stands_out_from_its_ground_in_both_schemes(browser, report: Path) -> None:  # type: ignore[no-untyped-def]
    for dark in (False, True):
        browser.look(report, 1100, dark)
        for target in ("p", "td", ".chart svg .role-axis-label text"):
            ink = browser.value(
                f"(e=>getComputedStyle(e)[e.closest('svg')?'fill':'color'])(document.querySelector('{target}'))"
            )
            ground = browser.value("getComputedStyle(document.querySelector('figure')).backgroundColor")
            assert contrast(ink, ground) > 4.5, (dark, target)


def contrast(one: str, other: str) -> float:
    """WCAG contrast ratio of two CSS colours."""

    def luminance(colour: str) -> float:
        parts = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_choosing_another_model_redraws_the_figure(browser, report: Path) -> None:  # type: ignore[no-untyped-def]
    browser.look(report)
    before = browser.value("document.querySelector('#figure-domains .chart').innerHTML.length")
    browser.value(
        "(s=>{s.value='3';s.dispatchEvent(new Event('change'))})(document.querySelector('#figure-domains select'))"
    )
    while browser.value("document.querySelector('#figure-domains .chart').innerHTML.length") == before:
        assert browser.complaints() == []
        time.sleep(0.05)
    assert browser.complaints() == []


def test_the_report_opens_with_the_answer(browser, report: Path) -> None:  # type: ignore[no-untyped-def]
    browser.look(report)
    assert browser.value("document.querySelector('main > section').id") == "answer"
    assert browser.value("document.querySelector('.answer').getBoundingClientRect().top") < 900
    assert browser.value("document.querySelectorAll('.answer').length") > 2
    assert browser.value("document.querySelector('figure').id") == "figure-answer"


def test_a_folded_table_has_its_rows_when_it_is_opened_or_linked_to(browser, report: Path) -> None:  # type: ignore[no-untyped-def]
    browser.look(report)
    rows = "document.querySelectorAll('details.table')[{}].querySelectorAll('tbody tr').length"
    assert browser.value(rows.format(0)) == browser.value(rows.format(1)) == 0
    browser.value("document.querySelectorAll('details.table')[0].open = true")
    browser.value("location.hash = document.querySelectorAll('details.table')[1].id")
    while not (browser.value(rows.format(0)) and browser.value(rows.format(1))):
        assert browser.complaints() == []
        time.sleep(0.05)


def test_a_download_is_the_whole_table(browser, report: Path) -> None:  # type: ignore[no-untyped-def]
    browser.look(report)
    name, wanted = next((name, files["csv"]) for name, files in unpacked(report.read_text())["files"].items())
    link = f"document.querySelector('[download=\"{name}.csv\"]')"
    browser.value(f"{link}.dispatchEvent(new Event('pointerdown'))")
    browser.value(f"fetch({link}.href).then(a => a.text()).then(text => {{ window.got = text }})")
    while (got := browser.value("window.got")) is None:
        assert browser.complaints() == []
        time.sleep(0.05)
    assert got == wanted


def test_contents_are_beside_a_wide_page_and_folded_on_a_phone(browser, report: Path) -> None:  # type: ignore[no-untyped-def]
    for width, open_ in ((1440, True), (390, False)):
        browser.look(report, width)
        assert browser.value("document.querySelector('nav details').open") is open_
        assert browser.value("document.querySelector('nav').getBoundingClientRect().height") < (900 if open_ else 60)
    browser.value("document.querySelector('nav details').open = true")
    browser.value("document.querySelectorAll('nav a')[3].click()")
    while browser.value("document.querySelector('nav details').open"):
        time.sleep(0.05)


def test_report_is_one_file_that_fetches_nothing(report: Path) -> None:
    text = report.read_text()
    markup = re.sub(r"<script[^>]*>.*?</script>", lambda match: match.group()[:60], text, flags=re.DOTALL)
    tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"([^\"]*)\"", markup)
    assert tags == ["data:,"]
    assert [path.name for path in report.parent.iterdir()] == ["report.html"]


def test_every_query_of_the_appendix_gives_the_table_that_the_page_offers(report: Path) -> None:
    """A reader pastes a query from the page and gets, digit for digit, what the page lets them download."""
    text = report.read_text()
    offered = {name: files["csv"] for name, files in unpacked(text)["files"].items()}
    assert re.findall(r'download="([^"]+)\.csv"', text) == list(offered)
    start, *_ = (html.unescape(code) for code in re.findall(r"<pre>(.*?)</pre>", text, re.DOTALL))
    queries = re.findall(r'id="query-([^"]+)">.*?<pre>(.*?)</pre>', text, re.DOTALL)
    assert len(queries) > 20
    assert [name for name, _ in queries] == list(offered)
    names: dict[str, object] = {}
    exec(start, names)  # the imports and `study = load(...)` that the appendix begins with
    for name, query in queries:
        *before, last = html.unescape(query).strip().split("\n")
        exec("\n".join(before), names)
        value = eval(last, names)
        assert isinstance(value, pl.DataFrame)
        assert value.write_csv() == offered[name], name


def test_rows_behind_a_mean_give_the_mean(report: Path) -> None:
    """The appendix's example of a filter, with the trials' own values, leads to the cell of the published table."""
    start, rows, *_ = (html.unescape(code) for code in re.findall(r"<pre>(.*?)</pre>", report.read_text(), re.DOTALL))
    names: dict[str, object] = {}
    exec(start, names)
    trials = eval(rows, names)
    assert isinstance(trials, pl.DataFrame)
    means = trials.group_by("model", "method_label").agg(pl.col("value").mean(), pl.len())
    table = source_table(names["study"], "accuracy").filter(source="books")  # type: ignore[arg-type]
    both = means.join(table, on=["model", "method_label"])
    assert both.height == table.height > 0
    assert (both["len"] == both["n"]).all()
    assert (both["value"] - both["mean"]).abs().max() < 1e-9  # type: ignore[operator]


def only(**kept: object) -> Callable[[dict[str, object]], bool]:
    """Trials with these factors, where they have them."""
    return lambda row: all(row[name] in (None, value) for name, value in kept.items())


UNFINISHED: dict[str, Callable[[dict[str, object]], bool]] = {
    "one set": only(set=0),
    "one source": only(source="code"),
    "one set of one source": only(source="code", set=1),
    "no dense trial": lambda row: row["method"] != "dense",
    "dense alone": lambda row: row["method"] == "dense",
    "data-free alone": lambda row: bool(row["data_free"]),
    "one trial": lambda row: (row["model"], row["method"], row["source"], row["set"]) == ("small", "wanda", "code", 0),
    "every other trial": lambda row: int(str(row["trial_id"]), 16) % 2 == 0,
}


@pytest.mark.parametrize("kind", UNFINISHED)
def test_a_report_is_written_for_every_unfinished_study(browser, simulated: Path, tmp_path: Path, kind: str) -> None:  # type: ignore[no-untyped-def]
    folder = Path(shutil.copytree(simulated, tmp_path / "results"))
    for path in (folder / "trials").iterdir():
        if not UNFINISHED[kind](pl.read_parquet(path).row(0, named=True)):
            path.unlink()
    study = load(str(folder))
    assert study.limitations
    path, _ = write_report(str(folder), save=False)
    text = html.unescape(path.read_text())
    for note in study.limitations:
        assert note.text in text
    browser.look(path)
    assert browser.complaints() == []
    assert browser.value("document.documentElement.dataset.charts") == str(text.count("<figure "))


@pytest.mark.parametrize("missing", ["samples", "layers", "metrics"])
def test_a_report_is_written_without_a_table_of_details(simulated: Path, tmp_path: Path, missing: str) -> None:
    folder = Path(shutil.copytree(simulated, tmp_path / "results"))
    shutil.rmtree(folder / missing)
    path, _ = write_report(str(folder), save=False)
    assert (missing == "metrics") == ("have no row in metrics/" in path.read_text())


def test_every_finding_points_to_a_table_of_the_page(report: Path) -> None:
    text = report.read_text()
    targets = re.findall(r'<li>[^<]*<a href="#([^"]+)">', text)
    assert targets
    for target in targets:
        assert f'id="{target}"' in text


def test_figures_state_n_and_are_saved_as_png_and_svg(sections: list[Section], tmp_path: Path) -> None:
    figures = [item for section in sections for item in section.items if isinstance(item, Figure)]
    for figure in figures:
        for _, chart in figure.variants:
            assert re.search(r"\d", chart.subtitle), figure.id
    one = Section("one", "One", items=[figures[0]])
    written = save_figures([one], tmp_path / "figures")
    assert len(written) == 2 * len(figures[0].variants)
    for path in written:
        start = path.read_bytes()[:8]
        assert start == b"\x89PNG\r\n\x1a\n" if path.suffix == ".png" else start.startswith(b"<svg")


def test_no_two_labels_share_a_file() -> None:
    labels = ["Llama 2, GPTQ 3-bit", "llama-2 · GPTQ 3 bit", "Süß", "模型一", "模型二", "---", "+"]
    assert slugs(labels) == ["llama-2-gptq-3-bit", "llama-2-gptq-3-bit-2", "suss", "模型一", "模型二", "", "2"]


def test_limitations_stand_on_the_page(simulated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(simulated, tmp_path / "results"))
    pl.DataFrame({"customer": [1]}).write_parquet(folder / "trials" / "customers.parquet")
    path, _ = write_report(str(folder), save=False)
    assert "trials/customers.parquet was set aside" in path.read_text()


def test_an_output_folder_that_is_not_there_is_refused(simulated: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--output: .* is no folder"):
        write_report(str(simulated), str(tmp_path / "nowhere" / "report.html"))


def test_a_live_report_reloads_until_it_is_interrupted(simulated: Path, tmp_path: Path) -> None:
    page, seen = tmp_path / "report.html", []

    def wait(seconds: float) -> None:
        seen.append((seconds, 'http-equiv="refresh" content="30"' in page.read_text()))
        if len(seen) == 2:
            raise KeyboardInterrupt

    follow(str(simulated), str(page), "", 30, wait)
    assert seen == [(30, True), (30, True)]
    assert 'http-equiv="refresh"' not in page.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_live_report_waits_for_the_first_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def wait(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(ResultsError):  # interrupted before there was any: nothing to leave behind
        follow(str(tmp_path), str(tmp_path / "report.html"), "", 30, wait)
    assert capsys.readouterr().err


def test_a_page_without_a_place_is_told_before_the_study_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        main("no/such/results", "no/such/folder/page.html")
    assert capsys.readouterr().err == "--output: no/such/folder is no folder; create it first\n"
