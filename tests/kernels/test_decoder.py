"""The compiled layers give what their formulas say, and the same whichever rows are beside."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from tunesmith.kernels.decoder import (
    Layer,
    Linear,
    Seen,
    Stack,
    compact,
    is_copy,
    library,
    linear_product,
)

MODEL, WIDE, HEADS, KEY_HEADS, SIZE, PLACES = 37, 45, 6, 2, 10, 40
GENERATOR = torch.Generator()


def drawn(*shape):
    return torch.randn(shape, generator=GENERATOR) * 0.4


def linear(inputs, outputs, *, bias=False, rank=0, dtype=torch.float32):
    weight = drawn(outputs, inputs).to(dtype)
    adapter = (drawn(rank, inputs), drawn(outputs, rank), 0.7) if rank else ()
    return Linear(weight, drawn(outputs) if bias else None, *adapter)


def layer(*, rank=0, bias=False, sandwich=False, normed=False, gelu=False, dtype=torch.float32):
    GENERATOR.manual_seed(1)
    options = {"bias": bias, "rank": rank, "dtype": dtype}
    heads, keys = HEADS * SIZE, KEY_HEADS * SIZE
    return Layer(
        norm_in_D=drawn(MODEL) + 1,
        norm_after_attention_D=drawn(MODEL) + 1 if sandwich else None,
        norm_mlp_D=drawn(MODEL) + 1,
        norm_after_mlp_D=drawn(MODEL) + 1 if sandwich else None,
        norm_q_K=drawn(SIZE) + 1 if normed else None,
        norm_k_K=drawn(SIZE) + 1 if normed else None,
        q=linear(MODEL, heads, **options),
        k=linear(MODEL, keys, **options),
        v=linear(MODEL, keys, **options),
        o=linear(heads, MODEL, **options),
        gate=linear(MODEL, WIDE, **options),
        up=linear(MODEL, WIDE, **options),
        down=linear(WIDE, MODEL, **options),
        keys_PJK=drawn(PLACES, KEY_HEADS, SIZE),
        values_PJK=drawn(PLACES, KEY_HEADS, SIZE),
        gelu=gelu,
        epsilon=1e-5,
        scale=0.3,
    )


def step(rows):
    GENERATOR.manual_seed(2)
    angles = drawn(rows, SIZE // 2).repeat(1, 2)
    ends = torch.arange(1, rows + 1) * (PLACES // rows)
    begins = ends - torch.arange(rows) % (PLACES // rows) - 1
    ranges = torch.stack([begins, ends], 1)
    hidden = drawn(rows, MODEL)
    return hidden, ends - 1, Seen(angles.cos(), angles.sin(), ranges, int((ends - begins).max()))


def expected(layer, hidden, places, seen):
    """The formulas, in float64."""

    def norm(x, weight):
        if weight is None:
            return x
        scaled = x / (x.pow(2).mean(-1, keepdim=True) + layer.epsilon).sqrt()
        return scaled * weight.double()

    def product(x, linear):
        bias = None if linear.bias_O is None else linear.bias_O.double()
        y = functional.linear(x, linear.weight_OD.double(), bias)
        if linear.a_RD is not None:
            y = y + linear.scale * (x @ linear.a_RD.double().T) @ linear.b_OR.double().T
        return y

    def turn(x):
        first, second = x.chunk(2, -1)
        cos, sin = seen.cos_NK.double()[:, None], seen.sin_NK.double()[:, None]
        return x * cos + torch.cat([-second, first], -1) * sin

    x = hidden.double()
    inner = norm(x, layer.norm_in_D)
    q, k, v = (
        product(inner, part).unflatten(-1, (-1, SIZE)) for part in (layer.q, layer.k, layer.v)
    )
    q, k = turn(norm(q, layer.norm_q_K)), turn(norm(k, layer.norm_k_K))
    keys, values = layer.keys_PJK.double(), layer.values_PJK.double()
    keys[places], values[places] = k, v
    rows = []
    for row, (begin, end) in enumerate(seen.ranges_N2.tolist()):
        group = HEADS // KEY_HEADS
        mine = (part[begin:end].repeat_interleave(group, 1) for part in (keys, values))
        theirs, carried = mine
        weights = torch.einsum("hk,phk->hp", q[row] * layer.scale, theirs).softmax(-1)
        rows.append(torch.einsum("hp,phk->hk", weights, carried).flatten())
    x = x + norm(product(torch.stack(rows), layer.o), layer.norm_after_attention_D)
    inner = norm(x, layer.norm_mlp_D)
    gate = product(inner, layer.gate)
    gate = functional.gelu(gate, approximate="tanh") if layer.gelu else functional.silu(gate)
    y = product(gate * product(inner, layer.up), layer.down)
    return x + norm(y, layer.norm_after_mlp_D), keys, values


FORMS = [
    {},
    {"bias": True, "rank": 3},
    {"sandwich": True, "normed": True, "gelu": True},
    {"dtype": torch.bfloat16, "rank": 17},
    {"dtype": torch.float16},
]


@pytest.fixture(autouse=True)
def _built():
    assert library() is not None, "these tests need a C compiler"


@pytest.mark.parametrize("rows", [1, 5, 6, 7, 13])
@pytest.mark.parametrize("form", FORMS)
def test_a_layer_gives_what_its_formulas_say(form, rows):
    made = layer(**form)
    hidden, places, seen = step(rows)
    wanted, keys, values = expected(made, hidden, places, seen)
    Stack([made]).run(hidden, places, [seen])
    torch.testing.assert_close(hidden.double(), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made.keys_PJK.double(), keys, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.values_PJK.double(), values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_row_gets_the_same_bits_alone_and_beside_others(form):
    hidden, places, seen = step(13)
    together = hidden.clone()
    Stack([layer(**form)]).run(together, places, [seen])
    for row in (0, 5, 6, 12):
        one = slice(row, row + 1)
        alone = Seen(seen.cos_NK[one], seen.sin_NK[one], seen.ranges_N2[one], seen.longest)
        mine = hidden[one].clone()
        Stack([layer(**form)]).run(mine, places[one], [alone])
        assert torch.equal(mine, together[one])


def test_layers_follow_one_another():
    hidden, places, seen = step(4)
    first, second = layer(), layer(rank=2)
    one = hidden.clone()
    for part in (layer(), layer(rank=2)):
        Stack([part]).run(one, places, [seen])
    Stack([first, second]).run(hidden, places, [seen, replace(seen)])
    assert torch.equal(hidden, one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 7])
def test_a_product_is_that_of_the_weight(dtype, rows):
    GENERATOR.manual_seed(3)
    made = linear(MODEL, 23, bias=True, dtype=dtype)
    x = drawn(rows, MODEL)
    wanted = functional.linear(x, made.weight_OD.float(), made.bias_O)
    torch.testing.assert_close(linear_product(x, made), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_copy_in_16_bits_is_made_where_it_loses_nothing(dtype):
    weight = drawn(9, 8)
    assert compact(weight) is weight
    exact = weight.to(dtype).float()
    assert compact(exact).dtype in (torch.bfloat16, torch.float16)
    assert is_copy(compact(exact), exact)
    exact[8, 7] = 0.1  # the last row alone decides
    assert compact(exact) is exact
