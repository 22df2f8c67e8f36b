"""A test's score against greedy decoding by the engine, and against a plain loop over a model's logits."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from components.decoding.generate import generate
from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer
from components.synthetic import score as module
from components.synthetic.batches import TaskBatches
from components.synthetic.config import InductionConfig, PathStarConfig, PolynomialConfig, TaskConfig
from components.synthetic.examples import Scored
from components.synthetic.score import score
from components.synthetic.tasks import task_of
from components.training.config import TrainingConfig, TrainingExecution
from components.training.loop import TrainState, train_step
from components.training.worker import make_state

RING = PolynomialConfig(p=3, d=2, operations=1, test_operations=3, pauses=1, answer_only=True)
STAR = PathStarConfig(2, 2, 9, answer_only=False)
STORIES = InductionConfig(names=7, first_tokens=4, second_tokens=4, words=6, successors=2, sentences=6)


def model_of(task: TaskConfig) -> MultiTokenTransformer:
    config = ModelConfig(dim=32, layers=3, n_attention_heads=2, vocabulary_size=task.vocabulary_size, n_future_tokens=2)
    model = MultiTokenTransformer(config)
    model.init_weights(seed=3)
    return model


def briefly_trained(task: TaskConfig, steps: int) -> MultiTokenTransformer:
    """So that some of the test is right and some wrong."""
    length = task.longest + 20
    training = TrainingConfig(
        steps=steps, batch_tokens=16 * length, context_length=length, learning_rate=1e-2, warmup_steps=10
    )
    state = TrainState.fresh(model_of(task), training)
    data = TaskBatches(task_of(task), training, 2, torch.device("cpu"))
    for step in range(steps):
        train_step(state, data.batch(step), training, 16)
    return state.model.eval()


def decoded_right(model: MultiTokenTransformer, part: Scored, k: int) -> float:
    """The share of examples whose counted tokens greedy decoding gives after what stands before them."""
    prompts: list[list[int]] = []
    wanted: list[list[int]] = []
    for tokens, counted in zip(part.examples.tokens_EL, part.examples.counted_EL, strict=True):
        places = counted.nonzero()[0].tolist()
        assert places == list(range(places[0], places[-1] + 1))
        prompts.append(tokens[: places[0]].tolist())
        wanted.append(tokens[places].tolist())
    made = generate(model, prompts, [len(tokens) for tokens in wanted], k=k)
    return sum(each.tokens == tokens for each, tokens in zip(made, wanted, strict=True)) / len(wanted)


@torch.no_grad()
def tokens_right(model: MultiTokenTransformer, part: Scored) -> float:
    """The share of counted tokens that are the largest logit, an example at a time and nothing behind its end."""
    right: list[bool] = []
    of = part.examples
    for tokens, length, counted in zip(of.tokens_EL, of.length_E, of.counted_EL, strict=True):
        (logits, *_) = model(torch.from_numpy(tokens[:length])[None])
        right += [int(logits[0, place - 1].argmax()) == tokens[place] for place in counted.nonzero()[0] if place]
    return sum(right) / len(right)


@pytest.fixture(scope="module")
def trained() -> tuple[MultiTokenTransformer, Sequence[Scored]]:
    return briefly_trained(RING, 60), task_of(RING).test(80)


@pytest.mark.parametrize("k", [1, 2])
def test_whole_examples_are_right_as_often_as_greedy_decoding_gives_them(
    trained: tuple[MultiTokenTransformer, Sequence[Scored]], k: int
) -> None:
    model, test = trained
    shares = score(model, test, torch.float32)
    assert shares == {part.name: decoded_right(model, part, k) for part in test}
    assert all(0.05 < share < 0.95 for share in shares.values()), "some right, some wrong"


def test_tokens_are_right_as_often_as_they_are_the_largest_logit(
    trained: tuple[MultiTokenTransformer, Sequence[Scored]],
) -> None:
    model, test = trained
    single = [Scored(part.name, part.examples, whole=False) for part in test]
    shares = score(model, single, torch.float32)
    assert shares == {part.name: tokens_right(model, part) for part in single}
    assert all(0.05 < share < 0.95 for share in shares.values())


@pytest.mark.parametrize("config", [STORIES, STAR], ids=["induction", "path_star"])
def test_tokens_in_an_example_s_middle_are_scored_each_by_itself_and_the_first_never(config: TaskConfig) -> None:
    """By a model of noise, whose choices are whatever they are."""
    model = model_of(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    task = task_of(config)
    every = Scored("every token", task.examples(1, 0, 2000), whole=False)
    assert every.examples.counted_EL[:, 0].all(), "of which nothing can tell"
    test = [*(part for part in task.test(200) if not part.whole), every]
    shares = score(model, test, torch.float32)
    assert shares == {part.name: tokens_right(model, part) for part in test}
    assert 0 < shares["every token"] < 1


def test_the_score_does_not_depend_on_how_many_examples_go_through_at_a_time(
    trained: tuple[MultiTokenTransformer, Sequence[Scored]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, test = trained
    at_once = score(model, test, torch.float32)
    for tokens in (1, 200):
        monkeypatch.setattr(module, "PASS_TOKENS", tokens)
        assert score(model, test, torch.float32) == at_once


def test_taking_a_score_changes_neither_the_test_nor_the_model(
    trained: tuple[MultiTokenTransformer, Sequence[Scored]],
) -> None:
    model, test = trained
    before = [(part.examples.tokens_EL.copy(), part.examples.counted_EL.copy()) for part in test]
    weights = [parameter.clone() for parameter in model.parameters()]
    every = [Scored("whole", part.examples, whole) for part in test for whole in (True, False)]
    score(model, every, torch.float32)
    for part, (tokens_EL, counted_EL) in zip(test, before, strict=True):
        assert (part.examples.tokens_EL == tokens_EL).all()
        assert (part.examples.counted_EL == counted_EL).all()
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_one_wrong_token_of_an_answer_makes_it_wrong_as_a_whole(
    trained: tuple[MultiTokenTransformer, Sequence[Scored]],
) -> None:
    """Of all that an answer's last token could be, the model chooses one: with each put in its place in turn, the
    shares add up to that of answers right up to there."""
    model, test = trained
    of = test[-1].examples
    last_E = [int(counted.nonzero()[0][-1]) for counted in of.counted_EL]
    rows = range(len(of))
    total = 0.0
    for token in range(model.config.vocabulary_size):
        tokens_EL = of.tokens_EL.copy()
        tokens_EL[rows, last_E] = token
        changed = Scored("changed", type(of)(tokens_EL, of.length_E, of.counted_EL), whole=True)
        total += score(model, [changed], torch.float32)["changed"]
    counted_EL = of.counted_EL.copy()
    counted_EL[rows, last_E] = False
    up_to_there = score(model, [Scored("before", type(of)(of.tokens_EL, of.length_E, counted_EL), True)], torch.float32)
    assert total == pytest.approx(up_to_there["before"], abs=1e-12)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_scoring_compiles_nothing_for_the_shapes_of_a_test(
    trained: tuple[MultiTokenTransformer, Sequence[Scored]],
) -> None:
    model, test = trained
    plain = score(model, test, torch.float32)
    compiled = make_state(model.config, TrainingConfig(), TrainingExecution(compile=True), torch.device("cpu")).model
    compiled.load_state_dict(model.state_dict())
    torch._dynamo.utils.counters.clear()
    assert score(compiled, test, torch.float32) == plain
    assert not torch._dynamo.utils.counters["frames"]


def test_a_test_without_anything_to_score_is_an_error(trained: tuple[MultiTokenTransformer, Sequence[Scored]]) -> None:
    model, (part, *_) = trained
    nothing = replace(part.examples, counted_EL=np.zeros_like(part.examples.counted_EL))
    with pytest.raises(ValueError, match="nothing to score for names: give more test_items"):
        score(model, [part, Scored("names", nothing, whole=False)], torch.float32)
