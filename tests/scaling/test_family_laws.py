"""Families compared: planted multipliers come back, the best at equal size has its noise, reports draw it."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from launch.scaling.fit.prepare import prepare
from launch.scaling.laws.groups import SharedExponents
from launch.scaling.other.equal_sizes import equal_sizes, seed_noise
from launch.scaling.other.family_laws import Needs, fit_families, needs_on_surface
from launch.scaling.report.families import headline, needs_grid
from launch.scaling.report.write import write
from launch.scaling.table.load import from_ledger
from launch.scaling.table.table import Table
from tests.scaling.runs import ledger_row

NEEDS = {"transformer": 1.0, "lstm": 1 / 0.6, "gated_conv": 1 / 1.3}  # times the parameters at equal loss
SHAPES = [(32, 1), (48, 2), (64, 4), (96, 5)]


def rows(noise: float = 0.002, seeds: tuple[int, ...] = (0, 1), **changes) -> list[dict]:
    """Return four sizes of each family, with several seeds at the two smallest."""
    random = np.random.default_rng(0)
    found = []
    for kind, times in NEEDS.items():
        for k, (d_model, n_layers) in enumerate(SHAPES):
            N = 12 * n_layers * d_model**2 + 2048 * d_model
            for seed in seeds if k < 2 else seeds[:1]:
                loss = (2.5 + 30 / (N / times) ** 0.3) * float(np.exp(noise * random.standard_normal()))
                fall = 0.02 if kind == "transformer" else 0.001
                places = [loss - fall * place for place in range(16)]
                name = f"{kind}-{k}-{seed}"
                more = {"kind": kind, "seed": seed, "loss_by_position": places, **changes}
                found.append(ledger_row(name, d_model, n_layers, 800_000, loss, **more))
    return found


def table(**how) -> Table:
    return from_ledger(rows(**how))


def test_planted_multipliers_come_back_with_intervals_that_hold_them():
    found = fit_families(table())
    assert found.reference == "transformer" and set(found.ladders) == set(NEEDS)
    for needs in found.needs:
        value, low, high = needs.parameters
        assert low * 0.98 < NEEDS[needs.family] < high * 1.02 and value == pytest.approx(NEEDS[needs.family], rel=0.1)
        assert needs.flops[0] == pytest.approx(value, rel=1e-6)  # these FLOPs are proportional to parameters
        assert needs.tokens is None
    assert found.cannot == ("tokens at equal loss: all runs have the same",)


def test_a_fit_compares_with_the_family_that_the_report_compares_with():
    law = prepare("shared-exponents", table()).law
    assert isinstance(law, SharedExponents) and set(law.groups) == set(fit_families(table()).families[1:])


def test_the_best_at_each_size_is_told_with_the_noise_of_seeds():
    compared = equal_sizes(table())
    assert [size.standings[0].family for size in compared.sizes] == ["gated_conv"] * 4
    assert len(compared.complete) == 4 and compared.freedom == 6
    pairs = {}
    for row in rows():
        pairs.setdefault(row["cell"][:-2], []).append(row["loss"])
    variance = np.mean([np.var(pair, ddof=1) for pair in pairs.values() if len(pair) == 2])
    assert compared.noise == pytest.approx(math.sqrt(variance))
    second = compared.sizes[0].standings[1]  # two seeds against two
    assert second.error == pytest.approx(compared.noise)
    text = headline(fit_families(table()))
    assert text[0].startswith("At 553K body parameters and 800K tokens gated_conv is best: perplexity ")
    assert "transformer" in text[0] and text[1] == "gated_conv is best at all 4 sizes."


def test_a_distance_within_the_noise_is_called_so_and_unmeasured_noise_too():
    found = fit_families(table(noise=0.05))
    assert "Seeds alone explain the distance of" in headline(found)[0]
    alone = fit_families(table(seeds=(0,)))
    assert any("No run has a second seed" in line for line in headline(alone))
    assert not any(s.clear for size in alone.at_equal_size.sizes for s in size.standings)


def test_seed_noise_is_pooled_over_settings():
    loss = np.array([1.0, 1.2, 3.0, 3.4, 9.0])
    noise, freedom = seed_noise(loss, np.array([0, 0, 1, 1, 2]))
    assert freedom == 2 and noise == pytest.approx(math.sqrt((0.02 + 0.08) / 2))


def test_a_report_of_families_shows_a_curve_each_and_no_pooled_law(tmp_path):
    paths = write(table(), tmp_path)
    text = paths.markdown.read_text()
    names = {path.stem for path in paths.figures}
    assert {"perplexity_against_parameters", "perplexity_against_compute", "loss_by_position"} <= names
    assert "One law for" not in text
    assert re.search(r"\| lstm \| 1\.\d+x \[", text)
    assert re.search(r"It is flat within 0.02 nats for lstm .*, gated_conv", text)


def test_a_family_of_too_few_sizes_is_compared_and_has_no_law():
    kept = [row for row in rows() if row["kind"] != "lstm" or row["d_model"] > 64]
    found = fit_families(from_ledger(kept))
    assert set(found.ladders) == {"transformer", "gated_conv"}
    assert any(line.startswith("lstm has no law of its own") for line in found.cannot)
    assert found.at_equal_size.sizes[-1].of("lstm") is not None and found.at_equal_size.sizes[0].of("lstm") is None


def test_families_of_many_sizes_and_lengths_need_tokens_and_flops_too(tmp_path):
    found = []
    for kind, times in (("transformer", 1.0), ("lstm", 2.0)):
        for k, (d_model, n_layers) in enumerate(SHAPES):
            for tokens in (400_000, 800_000, 1_600_000, 3_200_000):
                N = 12 * n_layers * d_model**2 + 2048 * d_model
                loss = 1.5 + 40 * (N / times) ** -0.35 + 120 * tokens**-0.35
                found.append(ledger_row(f"{kind}-{k}-{tokens}", d_model, n_layers, tokens, loss, kind=kind))
    ((lstm,), _) = needs_on_surface(from_ledger(found))
    assert lstm.parameters[0] == pytest.approx(2.0, rel=1e-3) and lstm.tokens[0] == pytest.approx(1.0, rel=1e-3)
    assert lstm.flops[0] == pytest.approx(2.0, rel=1e-3)
    paths = write(from_ledger(found), tmp_path)
    text = paths.markdown.read_text()
    assert "transformer is best at all 16 sizes and lengths." in text and "One law for 2 families" in text
    assert {"families_against_compute", "loss_by_position"} <= {path.stem for path in paths.figures}


@pytest.mark.parametrize(
    ("multiple", "text"),
    [
        ((0.6, 0.5, 0.9), "0.6x [0.5, 0.9]"), ((6e69, 1e-27, 1e248), "not told"), ((1.0, 0.0, 2.0), "not told"),
        ((2.0, None, None), "2x"), (None, "-"),
    ],
)  # fmt: skip
def test_a_multiple_whose_interval_tells_nothing_is_not_told(multiple, text: str):
    grid = needs_grid([Needs("lstm", multiple, None, None)], "transformer", "L")
    assert grid.rows == [["lstm", text, "-", "-"]]
