"""Reading files of other people: formats, encodings, separators, and what is broken in them."""

import gzip
import json
import sys

import numpy as np
import pytest

from launch.scaling.table.load import load
from trainer.contract.errors import UserError

ROWS = [{"N": 1e8 * (k + 1), "D": 2e9, "loss": 3.0 - k / 10} for k in range(4)]
CSV = "N,D,loss\n" + "".join(f"{r['N']},{r['D']},{r['loss']}\n" for r in ROWS)
LINES = "".join(json.dumps(r) + "\n" for r in ROWS)


def file_of(tmp_path, name: str, text: str | bytes):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", CSV),
        ("a.csv", "\ufeff" + CSV),
        ("a.csv", CSV.encode("utf-16")),
        ("a.jsonl", LINES.encode("utf-16")),
        ("a.csv", CSV.replace("\n", "\r\n")),
        ("a.csv", "\n" + CSV.replace("\n", "\n\n")),
        ("a.csv", CSV.replace(",", ",\t").replace("\t", " ")),
        ("a.csv", CSV.replace(",", ";")),
        ("a.csv", CSV.replace(",", ";").replace(".", ",")),  # a spreadsheet's decimal comma
        ("a.csv", '"a;b;c;d",' + CSV.replace("\n", "\n,").rstrip(",")),
        ("a.tsv", CSV.replace(",", "\t")),
        ("a.txt", CSV.replace(",", "\t")),
        ("a.CSV.gz", gzip.compress(CSV.encode())),
        ("a.json", json.dumps(ROWS)),
        ("a.json", "\ufeff" + json.dumps(ROWS, indent=1)),
        ("a.json", LINES),
        ("a.jsonl", json.dumps(ROWS)),
        ("a.jsonl", "\ufeff" + LINES.replace("\n", "\r\n")),
        ("a.jsonl", LINES.replace("}", ', "note": "a\u2028b"}')),  # a line separator that ends no line
        ("a.jsonl.gz", gzip.compress(LINES.encode())),
    ],
)
def test_formats_agree(tmp_path, name, text) -> None:
    table = load(file_of(tmp_path, name, text))
    assert table.N.tolist() == [r["N"] for r in ROWS] and table.loss.tolist() == [r["loss"] for r in ROWS]
    assert table.notes == ("C = 6 N D",) and not table.warnings and len(table.sha256) == 64


def test_parquet_agrees(tmp_path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "c.parquet")
    assert np.array_equal(load(tmp_path / "c.parquet").loss, load(file_of(tmp_path, "a.csv", CSV)).loss)


def test_a_torn_last_line_is_left_out_and_named(tmp_path) -> None:
    table = load(file_of(tmp_path, "a.jsonl", LINES + '{"N": 1'))
    assert len(table) == 4 and "line 5" in table.warnings[0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "has no rows"),
        ("a.csv", "N,D,loss\n", "has no rows"),
        ("a.csv", "N,D,loss,loss\n1e8,2e9,3,4\n", "columns 3, 4 are all named 'loss'"),
        ("a.csv", CSV + "100,000,000,2e9,3\n", "row 5 has 5 cells, the header 3"),
        ("a.csv", CSV + "1e9,2e9\n", r"loss is missing .* in row 5 \(row 5: empty\)"),
        ("a.csv", "N,D,loss\n1e8,2e9," + "3" * 200_000, "line 2: not CSV"),
        ("a.csv", CSV.encode("utf-16-be"), "no rows|no loss column|not UTF-8"),
        ("a.csv", CSV.replace("N", "\u00f1").encode("latin-1"), "not UTF-8"),
        ("a.csv.gz", CSV, "not a whole gzip file"),
        ("a.csv.gz", gzip.compress(CSV.encode())[:-9], "not a whole gzip file"),
        ("a.csv.gz", gzip.compress(CSV.encode())[:10] + b"\xff" * 40, "not a whole gzip file"),
        ("a.ods", b"PK", "cannot tell the format"),
        ("a.parquet", CSV, "not a parquet file"),
        ("a.json", "[1, 2]", "expected a list of objects"),
        ("a.json", "[{]", "line 1: not JSON"),
        ("a.jsonl", "{oops\n" + LINES, "line 1: not JSON"),
        ("a.jsonl", "7\n" + LINES, "line 1: expected an object, found int"),
        ("a.jsonl", LINES + '{"N": 1e8, "D": 2e9, "loss": true}\n', r"row 5: True"),
        ("a.jsonl", LINES + '{"N": 1' + "0" * 400 + ', "D": 2e9, "loss": 3}\n', r"N is missing .* in row 5"),
        ("a.jsonl", '{"N": 1e8, "D": 2e9}\n' + LINES, r"loss is missing .* in row 1 "),
    ],
)
def test_what_is_broken_is_said_with_its_place(tmp_path, name, text, message) -> None:
    with pytest.raises(UserError, match=message):
        load(file_of(tmp_path, name, text))


def test_lines_of_blanks_and_empty_cells_count_for_nothing(tmp_path) -> None:
    table = load(file_of(tmp_path, "a.csv", "  \nN,D,loss\n1e8,1e9,3\n \n,,\n2e8,1e9,2.9\n"))
    assert table.loss.tolist() == [3.0, 2.9] and table.row.tolist() == [1, 2]


def spreadsheet(path, *sheets) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets:
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)


RUNS = [("Name", "N", "D", "loss"), ("a", 1e8, 2e9, 3.1), ("b", "1.3B", "20 000 000 000", 2.7), ("c", 1e10, 2e11, 2.4)]


def test_a_spreadsheet_is_read_from_its_first_sheet_with_rows(tmp_path) -> None:
    path = tmp_path / "t.xlsx"
    spreadsheet(path, ("empty", []), ("runs", [(None,), *RUNS]), ("notes", [("what",), ("that",)]))
    table = load(path)
    assert table.N.tolist() == [1e8, 1.3e9, 1e10] and table.D.tolist() == [2e9, 2e10, 2e11]
    assert table.labels["name"].tolist() == ["a", "b", "c"]
    assert "sheet 'runs' is read; also there: notes" in table.warnings


def test_a_spreadsheet_with_two_columns_of_one_name_is_refused(tmp_path) -> None:
    path = tmp_path / "t.xlsx"
    spreadsheet(path, ("runs", [("N", "N", "loss"), (1e8, 2e9, 3.1)]))
    with pytest.raises(UserError, match="columns 1, 2 are all named 'N'"):
        load(path)


def test_what_is_no_spreadsheet_is_a_user_error(tmp_path) -> None:
    pytest.importorskip("openpyxl")
    (tmp_path / "t.xlsx").write_text("N,D,loss\n1,2,3\n")
    with pytest.raises(UserError, match=r"is not an \.xlsx file"):
        load(tmp_path / "t.xlsx")


def test_without_the_library_the_error_names_the_extra(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"pip install 'escala\[xlsx\]', or save the table as CSV"):
        load(tmp_path / "t.xlsx")
