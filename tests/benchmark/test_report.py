"""Tables."""

from __future__ import annotations

import io

from rich.console import Console

from cosyvoice.benchmark.report import markdown, number, print_results, sections


def test_every_part_of_the_results_has_its_table(results):
    titles = [section.title for section in sections(results)]
    assert len(titles) == 5 and titles[0] == "Speed"
    assert all(len(row) == len(section.heading) for section in sections(results) for row in section.rows)


def test_the_table_of_speed_holds_medians_and_ratios(results):
    rows = [row for row in sections(results)[0].rows if row[0] == "flow"]
    assert rows == [
        ("flow", "s per s of audio", "reference", "0.5", "0.4", "0.6", "1", "", ""),
        ("flow", "s per s of audio", "int8", "0.2", "0.2", "0.2", "2.50", "2.00", "3.00"),
    ]


def test_streams_and_memory_show_their_growth(results):
    stream, memory = sections(results)[1].rows, sections(results)[2].rows
    assert stream == [("int8", "4", "100", "200", "2")]
    assert memory == [("reference", "200", "300", "–", "–"), ("int8", "50", "90", "95", "2")]


def test_the_page_names_machine_model_and_notes(results):
    page = markdown(results)
    for text in ("Some CPU, 2 cores", "some|model", "note: the machine was busy", "0.1 before, unknown after"):
        assert text in page
    lines = page.splitlines()
    heading = lines.index("## Speed") + 2
    assert len({line.count("|") for line in lines[heading : heading + 6]}) == 1
    assert "| int8 | 0.0123 | 0.002 | 55 |" in page


def test_nothing_measured_gives_no_table(results):
    empty = results.model_copy(
        update={"measurements": {}, "streams": {}, "memory": {}, "concurrency": {}, "quality": {}}
    )
    assert sections(empty) == []


def test_the_terminal_gets_tables_and_notes(results):
    out = io.StringIO()
    print_results(results, Console(file=out, width=160))
    assert "LLM decoding" in out.getvalue() and "note: the machine was busy" in out.getvalue()


def test_numbers_keep_three_digits():
    assert [number(value) for value in (1234.5, 99.94, 0.01234)] == ["1234", "99.9", "0.0123"]
