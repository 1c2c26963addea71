"""Reading tables: mapping, units, and bad rows by number. Formats are in test_reading.py."""

import numpy as np
import pytest

from launch.cli import main
from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.table.load import from_ledger, load
from launch.scaling.table.mapping import parse_map
from launch.scaling.trust.study import study
from tests.scaling.runs import isoflop_grid, ladder_rows, surface_loss
from trainer.contract.errors import UserError


def table_of(tmp_path, header: str, *rows: str, name: str = "t.csv"):
    path = tmp_path / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def grid(tmp_path, n_scale: float = 1.0, loss_scale: float = 1.0, loss_name: str = "loss"):
    N, D = isoflop_grid([1e19, 1e20, 1e21])
    columns = np.stack([N * n_scale, D, surface_loss(N, D) * loss_scale], axis=1)
    rows = [",".join(map(repr, row)) for row in columns.tolist()]
    return table_of(tmp_path, f"N,D,{loss_name}", *rows)


def test_columns_are_mapped_with_conversions(tmp_path) -> None:
    path = table_of(tmp_path, "Model Size,Training FLOP,ppl", "100,6e19,20.0855369", "200,6e19,10")
    table = load(path, parse_map('N="Model Size*1e6",C="Training FLOP",loss=ln(ppl)'))
    assert table.N.tolist() == [1e8, 2e8] and table.D.tolist() == pytest.approx([1e11, 5e10])
    assert table.loss[0] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("N=nonsense", "no column 'nonsense' for N"),
        ("X=N", "unknown target 'X'"),
        ("N", "target=column"),
        ("N=N,D=N", "N and D cannot both be the column 'N'"),
        ("N=N,N=D", "names N twice: 'N' and 'D'"),
        ("N=N*1e", "'1e' is not a positive number"),
        ("N=N/0", "'0' is not a positive number"),
    ],
)
def test_a_wrong_map_is_explained(tmp_path, mapping, message) -> None:
    with pytest.raises(UserError, match=message):
        load(grid(tmp_path), parse_map(mapping))


@pytest.mark.parametrize("bad", ["nan", "", "-1.5", "inf", "diverged", "3_2", "\u22123.2", "\uff13.2", "3.2%", "True"])
def test_bad_losses_are_listed_by_row(tmp_path, bad) -> None:
    path = table_of(tmp_path, "N,D,loss", "1e8,1e9,3.0", f"2e8,1e9,{bad}", "3e8,1e9,2.9")
    with pytest.raises(UserError, match=rf"loss .* in row 2 \(row 2: {repr(bad) if bad else 'empty'}\)"):
        load(path)
    kept = load(path, drop_bad=True)
    assert len(kept) == 2 and "row 2" in kept.warnings[0]


def test_sizes_in_millions_are_an_error(tmp_path) -> None:
    with pytest.raises(UserError, match=r"N lies between .* perhaps millions.*1e6"):
        load(grid(tmp_path, n_scale=1e-6))


def test_sizes_in_billions_are_an_error(tmp_path) -> None:
    with pytest.raises(UserError, match="perhaps billions"):
        load(grid(tmp_path, n_scale=1e-9))


def test_flops_in_petaflop_days_are_an_error_about_c(tmp_path) -> None:
    path = table_of(tmp_path, "N,C,loss", "1e8,0.02,3.0", "2e8,0.5,2.9")
    with pytest.raises(UserError, match=r"C lies between 0.02 and 0.5.*PF-days.*8.64e19"):
        load(path)
    with pytest.raises(UserError, match=r"D = C / \(6 N\) lies between 1 and 1 tokens: N or C"):
        load(table_of(tmp_path, "N,C,loss", "1e8,6e8,3.0", "2e8,1.2e9,2.9"))


def test_rows_in_another_unit_than_the_rest_are_listed(tmp_path) -> None:
    path = table_of(tmp_path, "N,D,loss", "1e8,2e9,3.0", "70,2e9,3.2", "2e8,2e9,2.9")
    with pytest.raises(UserError, match="N is at most 70 in row 2 and at least 1e"):
        load(path)


def test_tokens_counted_in_sequences_are_a_warning(tmp_path) -> None:
    N, D = isoflop_grid([1e20, 1e21])
    rows = (f"{n},{d / 2048},{loss}" for n, d, loss in zip(N, D, surface_loss(N, D), strict=True))
    assert any("sequences or steps" in w for w in load(table_of(tmp_path, "N,D,loss", *rows)).warnings)


def test_a_loss_in_bits_is_a_named_warning(tmp_path) -> None:
    assert any("bits" in w for w in load(grid(tmp_path, loss_scale=1 / np.log(2))).warnings)
    assert not load(grid(tmp_path)).warnings
    named = load(grid(tmp_path, loss_name="bpb"), {"loss": "bpb"})
    assert any("named like bits" in w for w in named.warnings)
    converted = load(grid(tmp_path, loss_scale=1 / np.log(2), loss_name="bits"), {"loss": "bits*ln2"})
    assert not converted.warnings


@pytest.mark.parametrize(("base", "message"), [(2, "in bits"), (10, "base 10")])
@pytest.mark.parametrize("name", ["perplexity", "ppl"])
def test_a_loss_that_is_no_natural_logarithm_of_its_perplexity_is_an_error(tmp_path, base, message, name) -> None:
    path = table_of(tmp_path, f"N,D,loss,{name}", f"1e8,1e9,3.0,{base**3.0}", f"2e8,1e9,2.5,{base**2.5}")
    with pytest.raises(UserError, match=message):
        load(path)


def test_perplexities_as_losses_are_found(tmp_path) -> None:
    with pytest.raises(UserError, match="perplexity, not nats"):
        load(table_of(tmp_path, "N,D,loss", "1e8,1e9,40", "2e8,1e9,35"))
    with pytest.raises(UserError, match=r"--map loss=ln\(ppl\)"):
        load(table_of(tmp_path, "N,D,ppl", "1e8,1e9,40", "2e8,1e9,35"))
    small = table_of(tmp_path, "N,D,loss", "7e9,1e12,7.6", "1.3e10,1e12,7.2")
    assert any("a perplexity looks so" in w for w in load(small).warnings)
    assert any(
        "worse than guessing, in row 2" in w
        for w in load(table_of(tmp_path, "N,loss", "1e8,3", "2e8,31", "3e8,3")).warnings
    )


def test_plausible_losses_raise_no_warning(tmp_path) -> None:
    characters = table_of(tmp_path, "N,D,loss", "1e5,1e7,1.6", "1e6,1e7,1.45", "1e7,1e8,0.9")
    code = table_of(tmp_path, "N,D,loss", "2e8,4e9,1.6", "1e9,2e10,1.2", "7e9,1e11,1.05", name="code.csv")
    assert not load(characters).warnings and not load(code).warnings


def test_flops_that_do_not_fit_are_a_warning(tmp_path) -> None:
    path = table_of(tmp_path, "N,D,C,loss", "1e8,1e9,6e11,3.0", "2e8,1e9,1.2e12,2.9")
    assert any("times 6 N D" in w for w in load(path).warnings)


def flops_warnings(tmp_path, *ratios: float) -> tuple[str, ...]:
    rows = (f"{(k + 1) * 1e8},2e9,{6 * (k + 1) * 1e8 * 2e9 * ratio},{3 - k / 10}" for k, ratio in enumerate(ratios))
    return load(table_of(tmp_path, "N,D,C,loss", *rows)).warnings


def test_a_constant_factor_between_c_and_6nd_is_a_warning(tmp_path) -> None:
    assert any("C is 2 times 6 N D" in w for w in flops_warnings(tmp_path, 2, 2, 2, 2))
    assert not flops_warnings(tmp_path, 1.7, 1.5, 1.3, 1.2)  # attention and head, which small models have more of
    (astray,) = flops_warnings(tmp_path, 1, 1, 100, 1)
    assert "far from 6 N D in row 3" in astray


def test_empty_flops_follow_from_size_and_tokens(tmp_path) -> None:
    table = load(table_of(tmp_path, "N,D,C,loss", "1e8,1e9,6.1e17,3.0", "2e8,1e9,,2.9"))
    assert table.C.tolist() == [6.1e17, 1.2e18] and table.notes == ("C = 6 N D in row 2",)


def test_duplicates_are_listed(tmp_path) -> None:
    path = table_of(tmp_path, "N,D,loss", "1e8,1e9,3.0", "2e8,1e9,2.9", "1e8,1e9,3.0")
    assert any("3 = 1" in w for w in load(path).warnings)


def test_a_cell_with_two_losses_is_named_unless_seeds_or_names_tell_them_apart(tmp_path) -> None:
    rows = ("1e8,1e9,3.0,{a}", "2e8,1e9,2.9,{a}", "1e8,1e9,3.1,{b}")
    for column, a, b, expected in (
        ("note", 1, 2, True),
        ("seed", 1, 1, True),
        ("seed", 0, 1, False),
        ("name", "x", "y", False),
        ("lr", 1, 2, False),
    ):
        path = table_of(tmp_path, f"N,D,loss,{column}", *(row.format(a=a, b=b) for row in rows))
        found = any("repeated cells: 1 row" in w and "3 and 1" in w for w in load(path).warnings)
        assert found is expected, (column, a, b)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("tokenizer", "mixes 2 tokenizers"),
        ("vocab_size", "mixes 2 vocabularies"),
        ("eval_set", "mixes 2 evaluation sets"),
        ("tok", "mixes 2 tokenizers"),
    ],
)
def test_losses_that_cannot_be_compared_are_refused(tmp_path, column, message) -> None:
    path = table_of(tmp_path, f"N,D,loss,{column}", "1e8,1e9,3.0,a", "2e8,1e9,2.9,b")
    mapping = {"tokenizer": "tok"} if column == "tok" else {}
    with pytest.raises(UserError, match=rf"{message} \(a, b\).*--where {column}=a"):
        load(path, mapping)
    assert len(load(path, mapping, where={column: "a"})) == 1


def test_several_training_sets_are_a_warning(tmp_path) -> None:
    path = table_of(tmp_path, "N,D,loss,dataset", "1e8,1e9,3.0,c4", "2e8,1e9,2.9,pile")
    assert any("2 of them (c4, pile)" in w for w in load(path).warnings)
    assert not load(path, {"group": "dataset"}).warnings


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


def test_a_curve_is_called_by_its_mixers_and_old_rows_by_their_family() -> None:
    """Rows of before had n_heads as a column, and no kind; both are read, from one ledger."""
    old, new = ladder_rows()[:3], ladder_rows()[3:]
    for row in new:
        del row["n_heads"]
        row |= {"kind": "gated_conv", "shape": {"d_model": row["d_model"], "n_layers": row["n_layers"]}}
    assert list(from_ledger([*old, *new]).labels["group"]) == ["transformer"] * 3 + ["gated_conv"] * 3


def test_only_the_last_point_of_a_cell_counts() -> None:
    rows = ladder_rows()
    early = rows[0] | {"step": 10, "loss": 9.0}
    assert len(from_ledger([early, *rows])) == 6


def test_numbers_as_people_write_them(tmp_path) -> None:
    path = table_of(tmp_path, "N,D,loss", '"100,000,000",2B,3.0', "200M,2.5e9,2.9")
    table = load(path)
    assert table.N.tolist() == [1e8, 2e8] and table.D.tolist() == [2e9, 2.5e9]


@pytest.mark.parametrize("columns", ["D,loss", "C,loss"])
def test_one_size_is_enough_for_a_law_of_it(tmp_path, columns) -> None:
    path = table_of(tmp_path, columns, *(f"{10.0**k},{3 - k / 10}" for k in range(18, 22)))
    table = load(path)
    assert columns[0] in table.columns and "N" not in table.columns


def test_what_a_law_has_no_place_for_is_a_warning(tmp_path) -> None:
    N, D = isoflop_grid([1e19, 1e20, 1e21])
    rows = [
        f"{n},{d},{d / (5 if k == 2 else 1)},{'ab'[k % 2]},{loss}"
        for k, (n, d, loss) in enumerate(zip(N, D, surface_loss(N, D), strict=True))
    ]
    found = study(load(table_of(tmp_path, "N,D,U,family,loss", *rows)), CHINCHILLA)
    families, repeated = found.to_json()["warnings"]
    assert "fitted to 2 of them (a, b)" in families and "row 3 saw their tokens up to 5 times" in repeated


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--delta", "0"], "delta"),
        (["--delta", "nan"], "delta"),
        (["--bootstrap", "1"], "no 95 % interval"),
        (["--bootstrap", "-1"], "--bootstrap"),
        (["--seed", "-1"], "seed -1"),
        (["--law", "isoflop-parabola", "--bootstrap", "3"], "no 95 % interval"),
        (["--law", "isoflop-akima", "--seed", "-1"], "seed -1"),
        (["--law", "lr", "--seed", "-1"], "seed -1"),
        (["--target", "nan"], "--target"),
        (["--cluster", "nope"], "--cluster nope"),
        (["--cluster", "group"], "in 1 groups"),
        (["--drop-highest-loss", "30"], "the table has 21 rows"),
        (["--drop-highest-loss", "-1"], "--drop-highest-loss"),
        (["--law", "chinchila"], "did you mean 'chinchilla'"),
    ],
)
def test_options_that_make_no_sense_are_user_errors(tmp_path, capsys, args, message) -> None:
    N, D = isoflop_grid([1e19, 1e20, 1e21])
    rows = (f"{n},{d},one,{loss}" for n, d, loss in zip(N, D, surface_loss(N, D), strict=True))
    with pytest.raises(SystemExit) as stop:
        main(["fit", str(table_of(tmp_path, "N,D,group,loss", *rows)), "--json", *args])
    printed = capsys.readouterr()
    assert stop.value.code == 2 and not printed.out and message in printed.err


def test_a_table_of_losses_alone_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="no column of N, D or C: its columns are loss, note"):
        load(table_of(tmp_path, "loss,note", "3.0,a", "2.9,b"))
