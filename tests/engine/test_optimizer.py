"""Every form of the optimiser moves weights as plain AdamW does, and goes on bit for bit."""

from collections.abc import Callable

import pytest
import torch
from tests.tiny import tiny_model

from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.engine.engine import Engine
from tunesmith.engine.optimizer import AdamWOptions, Optimizer
from tunesmith.engine.updates import BLOCK, new_state, round_stochastically, state_bytes
from tunesmith.models.seeded import seeded
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.techniques.base import ParameterGroup

FORMS = {
    "plain": {},
    "8 bits": {"kind": "adamw_8bit"},
    "rounded": {"stochastic_rounding": True},
    "rounded, 8 bits": {"kind": "adamw_8bit", "stochastic_rounding": True},
    "per tensor": {"clip_per_tensor": True, "max_grad_norm": 0.01},
    "in backward": {"clip_per_tensor": True, "in_backward": True, "max_grad_norm": 0.01},
}
WIDE = {"hidden_size": 64, "intermediate_size": 160}  # several tensors of more than 4096 elements


def engine(dropout=0.0, **options) -> Engine:
    model = tiny_model("llama", head="causal_lm", dropout=dropout, **WIDE)
    learns = {n: p.requires_grad_() for n, p in model.module.named_parameters()}
    return Engine(model, [ParameterGroup(learns)], AdamWOptions(weight_decay=0.1, **options))


def step(engine: Engine, number: int, rate: float = 1e-3) -> float:
    generator = torch.Generator().manual_seed(number)
    ids = tuple(torch.randint(10, 90, (20,), generator=generator).tolist())
    batch = collate([Encoded({"text": EncodedStream(ids, (1.0,) * len(ids))})])
    objective = TokenLikelihood()
    engine.begin_step(rate)
    with seeded(number):
        engine.forward_backward(batch, objective, objective.counts(batch))
    return engine.optimizer_step(rate)


def weights(engine: Engine) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in engine.optimizer.parameters.items()}


def quadratic(options: AdamWOptions, steps: int = 300) -> float:
    """Distance from the minimum of a badly scaled quadratic, relative to the start."""
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(64, 128, generator=generator)
    scale = torch.logspace(-2, 1, 128)
    weight = torch.nn.Parameter(torch.zeros(64, 128))
    optimizer = Optimizer([ParameterGroup({"weight": weight})], options)
    for number in range(steps):
        optimizer.begin(0.05 * (1 - number / steps))
        ((weight.float() - target).square() * scale).mean().backward()
        optimizer.step(0.05 * (1 - number / steps))
    return float((weight.detach().float() - target).norm() / target.norm())


@pytest.mark.parametrize("form", FORMS)
def test_a_state_taken_up_again_goes_on_bit_for_bit(form: str) -> None:
    whole, first, second = (engine(dropout=0.2, **FORMS[form]) for _ in range(3))
    for number in range(5):
        step(whole, number)
    for number in range(3):
        step(first, number)
    second.load_state_dict({name: tensor.clone() for name, tensor in first.state_dict().items()})
    for number in range(3, 5):
        step(second, number)
    assert second.digest() == whole.digest()
    states = whole.state_dict()
    assert states.keys() == second.state_dict().keys()
    assert all(torch.equal(tensor, states[n]) for n, tensor in second.state_dict().items())


@pytest.mark.parametrize("form", FORMS)
def test_it_finds_the_minimum_that_plain_adamw_finds(form: str) -> None:
    options = FORMS[form] | {"max_grad_norm": 1.0}
    assert quadratic(AdamWOptions(**options)) < 0.06
    assert quadratic(AdamWOptions(**options), steps=10) > 0.5


def test_moments_in_8_bits_move_weights_nearly_as_those_in_32() -> None:
    plain, small, start = engine(), engine(kind="adamw_8bit"), weights(engine())
    for number in range(10):
        assert step(small, number) == pytest.approx(step(plain, number), rel=0.05)
    for name, expected in weights(plain).items():
        moved = expected - start[name]
        assert (weights(small)[name] - expected).norm() < 0.15 * moved.norm(), name


def test_moments_in_8_bits_take_a_quarter_of_the_memory() -> None:
    def held(**options: object) -> int:
        made = engine(**options)
        step(made, 0)
        return sum(t.nbytes for t in made.optimizer.state_dict().values())

    big = [p for p in engine().optimizer.parameters.values() if p.numel() >= 4096]
    saved = sum(8 * p.numel() - 2 * p.numel() - 2 * 4 * -(-p.numel() // BLOCK) for p in big)
    assert held() - held(kind="adamw_8bit") == saved > 0


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
@pytest.mark.parametrize("elements", [100, 5000, 8192])
def test_the_predicted_bytes_of_the_moments_are_those_they_take(kind, elements: int) -> None:
    state = new_state(torch.zeros(elements), kind)
    assert state_bytes(elements, kind) == sum(t.nbytes for n, t in state.items() if n != "step")


def test_clipping_each_tensor_equals_clipping_it_alone() -> None:
    made = engine(clip_per_tensor=True, max_grad_norm=0.01)
    reference = {n: p.clone().requires_grad_() for n, p in weights(made).items()}
    adamw = torch.optim.AdamW(reference.values(), lr=1e-3, weight_decay=0.1)
    seen: dict[str, torch.Tensor] = {}
    for name, parameter in made.optimizer.parameters.items():
        parameter.register_post_accumulate_grad_hook(_keep(seen, name))
    norm = step(made, 0)
    for name, gradient in seen.items():
        reference[name].grad = gradient
        torch.nn.utils.clip_grad_norm_([reference[name]], 0.01)
    total = torch.stack([gradient.norm() for gradient in seen.values()])
    adamw.step()
    assert norm > 0.01
    assert len(total) == len(reference)
    for name, parameter in weights(made).items():
        torch.testing.assert_close(parameter, reference[name].detach())


def _keep(seen: dict[str, torch.Tensor], name: str) -> Callable[[torch.Tensor], None]:
    def keep(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        seen[name] = parameter.grad.clone()

    return keep


@pytest.mark.parametrize("extra", [{}, {"kind": "adamw_8bit"}, {"stochastic_rounding": True}])
def test_an_update_in_the_backward_pass_equals_one_after_it_bit_for_bit(extra) -> None:
    options = {"clip_per_tensor": True, "max_grad_norm": 0.01, **extra}
    after, within = engine(dropout=0.2, **options), engine(dropout=0.2, in_backward=True, **options)
    for number in range(4):
        assert step(after, number) == pytest.approx(step(within, number))
    assert after.digest() == within.digest()


def test_an_update_in_the_backward_pass_leaves_no_gradients() -> None:
    made = engine(clip_per_tensor=True, in_backward=True)
    alive = []
    for parameter in made.optimizer.parameters.values():
        parameter.register_post_accumulate_grad_hook(
            lambda _: alive.append(
                sum(p.grad is not None for p in made.optimizer.parameters.values())
            )
        )
    step(made, 0)
    assert len(alive) == len(made.optimizer.parameters)
    assert max(alive) == 0


def test_an_update_in_the_backward_pass_allows_one_pass_a_step() -> None:
    made = engine(clip_per_tensor=True, in_backward=True)
    batch = collate([Encoded({"text": EncodedStream((10, 11, 12), (1.0,) * 3)})])
    counts = TokenLikelihood().counts(batch)
    made.begin_step(1e-3)
    made.forward_backward(batch, TokenLikelihood(), counts)
    with pytest.raises(RuntimeError, match="one pass a step"):
        made.forward_backward(batch, TokenLikelihood(), counts)


def test_an_update_in_the_backward_pass_needs_its_rate_beforehand() -> None:
    made = engine(clip_per_tensor=True, in_backward=True)
    with pytest.raises(RuntimeError, match="begin_step"):
        made.optimizer_step(1e-3)
    with pytest.raises(ValueError, match="clip each tensor"):
        engine(in_backward=True)


def test_a_gradient_that_is_not_finite_moves_nothing_and_shows_in_the_norm() -> None:
    for form in FORMS.values():
        weight = torch.nn.Parameter(torch.ones(64, 128))
        optimizer = Optimizer([ParameterGroup({"weight": weight})], AdamWOptions(**form))
        optimizer.begin(0.1)
        (weight.float().sum() * float("inf")).backward()
        assert not torch.isfinite(torch.tensor(optimizer.step(0.1)))
        assert torch.equal(weight.detach().float(), torch.ones(64, 128))


def test_rounding_at_random_is_right_on_average_and_exact_where_it_can_be() -> None:
    exact = torch.randn(1000).to(torch.bfloat16)
    assert torch.equal(round_stochastically(exact.float(), torch.Generator()), exact)
    wide = torch.full((100_000,), 1.0 + 2**-10)  # an eighth of the way to the next bfloat16
    found = round_stochastically(wide, torch.Generator().manual_seed(0)).float()
    assert set(found.tolist()) == {1.0, 1.0 + 2**-7}
    assert float((found > 1).float().mean()) == pytest.approx(0.125, abs=0.005)


def test_small_steps_are_not_lost_where_they_are_rounded_at_random() -> None:
    def moved(**options: object) -> float:
        weight = torch.nn.Parameter(torch.ones(64, 128, dtype=torch.bfloat16))
        optimizer = Optimizer([ParameterGroup({"w": weight})], AdamWOptions(**options))
        for _ in range(100):
            weight.grad = torch.ones_like(weight)
            optimizer.step(1e-4)
        return float(1 - weight.detach().float().mean())

    assert moved() == 0.0
    assert moved(stochastic_rounding=True) == pytest.approx(0.01, rel=0.05)


def test_vectors_stay_in_float32_where_matrices_are_rounded() -> None:
    made = engine(stochastic_rounding=True)
    kinds = {(p.ndim >= 2, p.dtype) for p in made.optimizer.parameters.values()}
    assert kinds == {(True, torch.bfloat16), (False, torch.float32)}
