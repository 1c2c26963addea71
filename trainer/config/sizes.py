"""`size: 10M` -> width, depth and heads, by a stated rule.

The size is the number of parameters of the body: everything but embeddings, positions and head, the N of
Kaplan et al. 2020 (arXiv 2001.08361, section 2.1). The rule:

1. A layer of the standard shape (attention 4 d^2, MLP 8 d^2) has 12 d^2 parameters, so N = 12 L d^2.
2. The aspect ratio d/L grows slowly with the size, from 16 at 10^4 to 128 at 10^11, between the ratios of small
   published ladders (Porian et al. 2024, arXiv 2406.19146, table 4) and GPT-3 (12288/96 = 128). Kaplan et al.
   (figure 5) found the loss to be nearly flat in the ratio at fixed N.
3. Heads are 64 wide from d = 512 up to 2048 and 128 above; smaller models have at least two heads of 16 or 32,
   so that every model of the ladder can be split over two tensor ranks.
4. Among the shapes whose width is a multiple of two heads, take the one that is nearest in N and in ratio.

Another mixer than attention has other layers. Its shape has the body parameters of attention's shape within 2.5 %, and
among such shapes it is nearest to attention's ratio and to the usual width of the MLP, which may be changed to fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from trainer.config.span import parse_count

SMALLEST, LARGEST = 3_000, 2_000_000_000_000


@dataclass(frozen=True)
class Dimensions:
    """The shape that a size stands for."""

    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int | None = None  # where it is not what follows from d_model

    @property
    def body_params(self) -> int:
        """12 L d^2, without norms and biases."""
        return 12 * self.n_layers * self.d_model**2


def head_width(d_model: int) -> int:
    """Return the width of one head for a model of this width."""
    if d_model >= 2048:
        return 128
    if d_model >= 512:
        return 64
    return 32 if d_model >= 128 else 16


def aspect_ratio(size: int) -> float:
    """Return the wanted d_model / n_layers: 16 at 10^4, 128 at 10^11, log-linear between and clamped outside."""
    position = (math.log10(size) - 4) / (11 - 4)
    return float(16 * (128 / 16) ** min(max(position, 0.0), 1.0))


def dimensions(size: int | str) -> Dimensions:
    """Return the shape for a body size such as 10_000_000 or "10M". Raises ValueError outside the range."""
    wanted = parse_count(size)
    if not SMALLEST <= wanted <= LARGEST:
        raise ValueError(f"a size lies between {SMALLEST} and {LARGEST / 1e12:.0f}T parameters, {wanted} does not")
    ratio = aspect_ratio(wanted)
    centre = (wanted * ratio / 12) ** (1 / 3)
    return min(_candidates(wanted, centre), key=lambda d: _distance(d, wanted, ratio))


def _candidates(wanted: int, centre: float) -> list[Dimensions]:
    found = []
    for d_model in range(16, int(centre * 2) + 64, 16):
        width = head_width(d_model)
        if d_model < centre / 2.2 or d_model % (2 * width):
            continue
        for n_layers in {
            max(1, math.floor(wanted / (12 * d_model**2))),
            math.ceil(wanted / (12 * d_model**2)),
        }:
            found.append(Dimensions(d_model, n_layers, d_model // width))
    return found


def _distance(shape: Dimensions, wanted: int, ratio: float) -> float:
    """Weigh a relative error in N five times a relative error in the ratio, which hardly matters."""
    size_error = abs(math.log(shape.body_params / wanted))
    ratio_error = abs(math.log(shape.d_model / shape.n_layers / ratio))
    return 5 * size_error + ratio_error


# Widths of other mixers are searched in steps of two heads, then in finer ones, which must be worth their DEMERIT.
FINER, DEMERIT = (16, 8), 0.1
FINEST = 32  # steps are not finer than this share of the width, unless nothing else agrees
AGREES = 0.025  # so that any two mixers are within 5 % of each other
DEEP = 64  # layers that any pattern fits into, to count what a layer has
FF_STEP = 8  # of an MLP's width that is made to fit

Body = Callable[[Dimensions], int | None]


def fitted(like: Dimensions, body: Body, wanted: int | None, d_ff: Callable[[int], int] | None) -> Dimensions:
    """Return the shape nearest to `like` whose body, as `body` counts it, has `wanted` parameters within 2.5 %.

    `body` returns None for a shape that the model cannot have. `d_ff` gives the width of the MLP for a model's, where
    another one may be taken to fit: small models have too few widths and depths. Raises ValueError where no shape fits.
    """
    if wanted is None:
        raise ValueError("the settings beside the size do not fit the shape of that size: give d_model and n_layers")
    if body(like) == wanted:
        return like
    agreeing: list[tuple[float, Dimensions]] = []
    for number, step in enumerate((2 * head_width(like.d_model), *FINER)):
        if agreeing and step * FINEST < like.d_model:
            break
        for shape in _near(like, step, body, wanted, d_ff is not None):
            error = abs((body(shape) or 0) / wanted - 1)
            if error <= AGREES:
                stretched = math.log(shape.d_model / shape.n_layers * like.n_layers / like.d_model)
                widened = math.log(shape.d_ff / d_ff(shape.d_model)) if shape.d_ff and d_ff else 0.0
                distance = 5 * error + abs(stretched) + abs(widened) + DEMERIT * number
                agreeing.append((distance, shape))
    if not agreeing:
        raise ValueError(f"no shape has {wanted:,} parameters of the body within 2.5 %: give d_model and n_layers")
    return min(agreeing, key=lambda row: row[0])[1]


def _near(like: Dimensions, step: int, body: Body, wanted: int, may_widen: bool) -> Iterator[Dimensions]:
    """Yield shapes of half to twice the width, at the depths that come nearest, with an MLP that fits too."""
    for d_model in range(max(step, like.d_model // 2 // step * step), 2 * like.d_model + 1, step):
        heads = _heads(d_model)
        few, many = (body(Dimensions(d_model, n_layers, heads)) for n_layers in (DEEP, 2 * DEEP))
        if few is None or many is None:
            continue
        depth = math.floor(DEEP + (wanted - few) * DEEP / (many - few))
        for n_layers in range(max(1, depth), depth + 3):  # a pattern's layers are not all alike
            shape = Dimensions(d_model, n_layers, heads)
            yield shape
            if may_widen and (widened := _widened(shape, body, wanted)):
                yield widened


def _widened(shape: Dimensions, body: Body, wanted: int) -> Dimensions | None:
    """Return a shape with the width of the MLP that makes it fit; None where there is none."""
    least, more = (body(replace(shape, d_ff=width)) for width in (FF_STEP, 2 * FF_STEP))
    if least is None or more is None:
        return None
    steps = 1 + round((wanted - least) / (more - least))
    return replace(shape, d_ff=steps * FF_STEP) if steps > 0 else None


def _heads(d_model: int) -> int:
    """Return the number of heads that divides a width into even ones nearest to the rule's."""
    fits = [heads for heads in range(1, d_model // 2 + 1) if d_model % heads == 0 and d_model // heads % 2 == 0]
    return min(fits, key=lambda heads: abs(math.log(d_model / heads / head_width(d_model))) + heads % 2)


def usual_ff(d_model: int, mlp: str) -> int:
    """Return the MLP's width where it is not given; gated 8/3 d_model, in multiples of 16."""
    return -(-8 * d_model // 48) * 16 if mlp == "swiglu" else 4 * d_model
