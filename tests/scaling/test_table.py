"""Reading tables: formats, mapping, units, and bad rows by number."""

import json

import numpy as np
import pytest

from launch.scaling.mapping import parse_map
from launch.scaling.table import from_ledger, load
from tests.scaling.runs import isoflop_grid, ladder_rows, surface_loss
from trainer.errors import UserError


def table_of(tmp_path, header: str, *rows: str, name: str = "t.csv"):
    path = tmp_path / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def grid(tmp_path, n_scale: float = 1.0, loss_scale: float = 1.0, loss_name: str = "loss"):
    N, D = isoflop_grid([1e19, 1e20, 1e21])
    columns = np.stack([N * n_scale, D, surface_loss(N, D) * loss_scale], axis=1)
    rows = [",".join(map(repr, row)) for row in columns.tolist()]
    return table_of(tmp_path, f"N,D,{loss_name}", *rows)


def test_formats_agree(tmp_path) -> None:
    rows = [{"N": 1e8 * (k + 1), "D": 2e9, "loss": 3.0 - k / 10} for k in range(4)]
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"N": 1')  # a torn last line
    (tmp_path / "b.json").write_text(json.dumps(rows))
    csv = table_of(tmp_path, "N,D,loss", *(f"{r['N']},{r['D']},{r['loss']}" for r in rows))
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet")
    tables = [load(p) for p in (lines, tmp_path / "b.json", csv, tmp_path / "c.parquet")]
    for table in tables:
        assert np.array_equal(table.loss, tables[0].loss) and np.array_equal(table.N, tables[0].N)
        assert table.notes == ("C = 6 N D",) and len(table.sha256) == 64


def test_columns_are_mapped_with_conversions(tmp_path) -> None:
    path = table_of(tmp_path, "Model Size,Training FLOP,ppl", "100,6e19,20.0855369", "200,6e19,10")
    table = load(path, parse_map('N="Model Size*1e6",C="Training FLOP",loss=ln(ppl)'))
    assert table.N.tolist() == [1e8, 2e8] and table.D.tolist() == pytest.approx([1e11, 5e10])
    assert table.loss[0] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [("N=nonsense", "no column 'nonsense' for N"), ("X=N", "unknown target 'X'"), ("N", "target=column")],
)
def test_a_wrong_map_is_explained(tmp_path, mapping, message) -> None:
    with pytest.raises(UserError, match=message):
        load(grid(tmp_path), parse_map(mapping))


@pytest.mark.parametrize("bad", ["nan", "", "-1.5", "inf", "diverged"])
def test_bad_losses_are_listed_by_row(tmp_path, bad) -> None:
    path = table_of(tmp_path, "N,D,loss", "1e8,1e9,3.0", f"2e8,1e9,{bad}", "3e8,1e9,2.9")
    with pytest.raises(UserError, match=r"loss .* in row 2"):
        load(path)
    kept = load(path, drop_bad=True)
    assert len(kept) == 2 and "row 2" in kept.warnings[0]


def test_sizes_in_millions_are_an_error(tmp_path) -> None:
    with pytest.raises(UserError, match=r"N lies between .* perhaps millions.*1e6"):
        load(grid(tmp_path, n_scale=1e-6))


def test_sizes_in_billions_are_an_error(tmp_path) -> None:
    with pytest.raises(UserError, match="perhaps billions"):
        load(grid(tmp_path, n_scale=1e-9))


def test_a_loss_in_bits_is_a_named_warning(tmp_path) -> None:
    assert any("bits" in w for w in load(grid(tmp_path, loss_scale=1 / np.log(2))).warnings)
    assert not load(grid(tmp_path)).warnings
    named = load(grid(tmp_path, loss_name="bpb"), {"loss": "bpb"})
    assert any("named like bits" in w for w in named.warnings)


def test_a_loss_in_bits_beside_its_perplexity_is_an_error(tmp_path) -> None:
    path = table_of(tmp_path, "N,D,loss,perplexity", "1e8,1e9,4.0,16", "2e8,1e9,3.0,8")
    with pytest.raises(UserError, match="in bits"):
        load(path)


def test_a_perplexity_as_loss_is_an_error(tmp_path) -> None:
    with pytest.raises(UserError, match="perplexity, not nats"):
        load(table_of(tmp_path, "N,D,loss", "1e8,1e9,40", "2e8,1e9,35"))


def test_flops_that_do_not_fit_are_a_warning(tmp_path) -> None:
    path = table_of(tmp_path, "N,D,C,loss", "1e8,1e9,6e11,3.0", "2e8,1e9,1.2e12,2.9")
    assert any("times 6 N D" in w for w in load(path).warnings)


def test_duplicates_are_listed(tmp_path) -> None:
    path = table_of(tmp_path, "N,D,loss", "1e8,1e9,3.0", "2e8,1e9,2.9", "1e8,1e9,3.0")
    assert any("3 = 1" in w for w in load(path).warnings)


def test_mixed_tokenizers_are_refused(tmp_path) -> None:
    path = table_of(tmp_path, "N,D,loss,tokenizer", "1e8,1e9,3.0,a", "2e8,1e9,2.9,b")
    with pytest.raises(UserError, match="mixes 2 tokenizers"):
        load(path)
    assert len(load(path, where={"tokenizer": "a"})) == 1


def test_a_missing_file_column_and_value_are_explained(tmp_path) -> None:
    with pytest.raises(UserError, match="no such table"):
        load(tmp_path / "nothing.csv")
    with pytest.raises(UserError, match="no loss column"):
        load(table_of(tmp_path, "N,D", "1,2"))
    with pytest.raises(UserError, match=r"seen: 2\.9, 3\.0"):
        load(table_of(tmp_path, "N,D,loss", "1e8,1e9,3.0", "2e8,1e9,2.9"), where={"loss": "7"})


def test_the_ledger_keeps_every_convention_and_leaves_diverged_runs_out() -> None:
    rows = ladder_rows()
    rows[2] = rows[2] | {"status": "diverged", "loss": 1.0}
    table = from_ledger(rows)
    assert len(table) == 5 and "diverged" in table.warnings[0]
    assert (table.conventions["body"] < table.N).all() and table.n_convention == "head"
    assert table.counted("body").N[0] == rows[0]["params_body"]


def test_only_the_last_point_of_a_cell_counts() -> None:
    rows = ladder_rows()
    early = rows[0] | {"step": 10, "loss": 9.0}
    assert len(from_ledger([early, *rows])) == 6


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ";"), ("b.csv", "\t"), ("c.txt", "\t"), ("d.csv", ",")])
def test_separators_are_found(tmp_path, name, mark) -> None:
    rows = [["N", "D", "loss"], ["1e8", "2e9", "3.0"], ["2e8", "2e9", "2.9"]]
    path = table_of(tmp_path, *(mark.join(row) for row in rows), name=name)
    assert load(path).N.tolist() == [1e8, 2e8]


def test_numbers_as_people_write_them(tmp_path) -> None:
    path = table_of(tmp_path, "N,D,loss", '"100,000,000",2B,3.0', "200M,2.5e9,2.9")
    table = load(path)
    assert table.N.tolist() == [1e8, 2e8] and table.D.tolist() == [2e9, 2.5e9]


@pytest.mark.parametrize("columns", ["D,loss", "C,loss"])
def test_one_size_is_enough_for_a_law_of_it(tmp_path, columns) -> None:
    path = table_of(tmp_path, columns, *(f"{10.0**k},{3 - k / 10}" for k in range(18, 22)))
    table = load(path)
    assert columns[0] in table.columns and "N" not in table.columns
