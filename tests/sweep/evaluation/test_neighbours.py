"""A request's scores are those of the request alone, in every architecture and on both sides of every switch.

The reference is transformers on a model that was never called before, with one sequence and nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from sweep.evaluation.questions.heldout import HeldOut
from sweep.evaluation.questions.requests import Generation, Requests
from sweep.evaluation.scorer.attention import ExplicitMask
from sweep.evaluation.scorer.choice import choose_scorer
from sweep.evaluation.scorer.forward import TokenBudget, head_rule
from sweep.evaluation.scorer.generation import generate, may_be_padded
from sweep.evaluation.scorer.scoring import PackedScorer, PlainScorer, any_lengths
from sweep.evaluation.suite import EvaluationData, Evaluator
from sweep.evaluation.windows import WindowScorer

VOCABULARY = 400
TURN = 40  # tokens: windows, chunks and original contexts of the models below
LONGEST = 90  # of the requests, as the model gets them
CPU = torch.device("cpu")

IDS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
HEADS = {**LLAMA, "head_dim": 8}
THETA = {"rope_theta": 1e4}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, **THETA}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TURN, **THETA}
LONGROPE = {
    "rope_type": "longrope",
    "original_max_position_embeddings": TURN,
    "short_factor": [1.0] * 4,
    "long_factor": [8.0] * 4,
    "factor": 4.0,
    **THETA,
}
TWO_KINDS = {"layer_types": ["sliding_attention", "full_attention"]}
SHORT = {"max_position_embeddings": TURN}

PACKED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, dynamic": ("llama", {**LLAMA, **SHORT, "rope_parameters": DYNAMIC}),
    "llama, longrope": ("llama", {**LLAMA, "rope_parameters": LONGROPE}),
    "llama, yarn": ("llama", {**LLAMA, "rope_parameters": YARN}),
    "phi3": ("phi3", {**LLAMA, "original_max_position_embeddings": TURN, "rope_parameters": LONGROPE}),
    "phimoe": (
        "phimoe",
        {**LLAMA, "num_local_experts": 4, "rope_parameters": {**LONGROPE, "short_mscale": 1.1, "long_mscale": 1.4}},
    ),
    "gemma3, dynamic in one kind of layer": (
        "gemma3_text",
        {
            **HEADS,
            **SHORT,
            **TWO_KINDS,
            "sliding_window": 16,
            "rope_parameters": {"full_attention": DYNAMIC, "sliding_attention": {"rope_type": "default", **THETA}},
        },
    ),
    "gpt_neox, dynamic": (
        "gpt_neox",
        {**LLAMA, **SHORT, "rope_parameters": {**DYNAMIC, "partial_rotary_factor": 0.5}},
    ),
    "falcon, dynamic": ("falcon", {**SMALL, **SHORT, "rope_parameters": DYNAMIC}),
    "mistral": ("mistral", {**LLAMA, "sliding_window": TURN}),
    "gemma2": ("gemma2", {**HEADS, "sliding_window": TURN}),
    "cohere2": ("cohere2", {**LLAMA, **TWO_KINDS, "sliding_window": TURN}),
    "gpt_oss": (
        "gpt_oss",
        {**HEADS, "sliding_window": TURN, "num_local_experts": 4, "num_experts_per_tok": 2, "rope_parameters": YARN},
    ),
    "ministral3": ("ministral3", {**HEADS, "rope_parameters": {**YARN, "llama_4_scaling_beta": 0.5}}),
    "gptj": ("gptj", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 128}),
}
PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon, alibi": ("falcon", {**SMALL, "alibi": True}),
    "mpt": ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128}),
    "gpt_neo": (
        "gpt_neo",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": TURN,
        },
    ),
    "llama4": (
        "llama4_text",
        {
            **HEADS,
            "attention_chunk_size": TURN,
            "floor_scale": TURN,
            "intermediate_size_mlp": 48,
            "num_local_experts": 2,
            "no_rope_layers": [1, 0],
            "moe_layers": [1],
        },
    ),
    "mamba2": (
        "mamba2",
        {**SMALL, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": TURN},
    ),
    "bamba": (
        "bamba",
        {
            **LLAMA,
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_chunk_size": TURN,
            "attn_layer_indices": [1],
        },
    ),
    "rwkv": ("rwkv", {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 128}),
}
EQUAL: dict[str, tuple[str, dict[str, Any]]] = {  # what they compute for a place depends on how many follow
    "xlnet": ("xlnet", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}),
    "doge": ("doge", {**LLAMA, "keep_window_size": TURN}),
}

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns about itself


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small wait longer for a second thread than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(name: str) -> Any:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    kind, settings = {**PACKED, **PLAIN, **EQUAL}[name]
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {kind}")
    config = CONFIG_MAPPING[kind](**{**IDS, **copy.deepcopy(settings)})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:  # large enough for scores to differ
                parameter.data.normal_(0, 0.25)
    return model


def drawn(rng: np.random.Generator, count: int) -> list[int]:
    return [int(token) for token in rng.integers(3, VOCABULARY, count)]


@pytest.fixture(scope="module")
def requests() -> Requests:
    """Inputs on both sides of the switch and right at it, which share contexts across it."""
    rng = np.random.default_rng(0)
    context = drawn(rng, TURN - 3)
    pairs = [(drawn(rng, length), drawn(rng, 4)) for length in (5, 20, LONGEST)]
    pairs += [(context, drawn(rng, count)) for count in (3, 4, 5, 30)]  # inputs of TURN - 1, TURN and TURN + 1 tokens
    pairs += [(context[:12], drawn(rng, 3))]
    return Requests.pack(pairs, LONGEST)


def logits_alone(fresh: Any, tokens: np.ndarray) -> torch.Tensor:
    """(length, vocabulary) of one sequence, in float64, by a copy of a model that was never called."""
    with torch.no_grad():
        found: torch.Tensor = copy.deepcopy(fresh)(
            input_ids=torch.as_tensor(tokens.astype(np.int64))[None], use_cache=False
        ).logits[0]
    return found.double()


def scores_alone(fresh: Any, requests: Requests) -> np.ndarray:
    found = []
    for number in range(len(requests)):
        tokens, count = requests.sequence(number), int(requests.continuation[number])
        target = torch.as_tensor(tokens[-count:].astype(np.int64))
        logs = logits_alone(fresh, tokens[:-1]).log_softmax(-1)[-count:]
        found.append(logs.gather(1, target[:, None]).sum().item())
    return np.asarray(found)


def check_scores(name: str, requests: Requests) -> str:
    """The scorer's name."""
    model = build(name)
    fresh = copy.deepcopy(model)
    scorer = choose_scorer(model, requests, TokenBudget(CPU), head_rule(model))
    wanted = scores_alone(fresh, requests)
    np.testing.assert_allclose(scorer.score(model)[0], wanted, atol=2e-4, rtol=0)
    longest = int(np.diff(requests.offsets).argmax())
    after = Requests.pack([([*requests.sequence(longest)[:-1]], [3])], LONGEST)
    np.testing.assert_array_equal(scores_alone(model, after), scores_alone(fresh, after))
    return scorer.name


@pytest.mark.parametrize("name", PACKED)
def test_packed_scores_are_those_of_each_request_alone(name: str, requests: Requests) -> None:
    assert check_scores(name, requests) == "packed, explicit mask"


@pytest.mark.parametrize("name", PLAIN)
def test_plain_scores_are_those_of_each_request_alone(name: str, requests: Requests) -> None:
    assert check_scores(name, requests) == "plain"


@pytest.mark.parametrize("name", EQUAL)
def test_sequences_that_padding_moves_share_a_batch_with_equal_lengths_alone(name: str, requests: Requests) -> None:
    assert check_scores(name, requests) == "plain, equal lengths"


@pytest.mark.parametrize("name", ["phi3", "llama, dynamic"])
def test_a_scorer_that_was_not_chosen_keeps_lengths_apart_as_well(name: str, requests: Requests) -> None:
    model = build(name)
    rule, wanted = head_rule(model), scores_alone(copy.deepcopy(model), requests)
    assert rule is not None
    for scorer in (
        PlainScorer(requests, TokenBudget(CPU), rule),
        PackedScorer(requests, TokenBudget(CPU), rule, ExplicitMask()),
    ):
        np.testing.assert_allclose(scorer.score(model)[0], wanted, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ["phi3", "llama, dynamic"])
def test_neighbours_move_scores_where_nothing_keeps_them_apart(name: str, requests: Requests) -> None:
    """What the tests above would see."""
    model = build(name)
    wanted = scores_alone(copy.deepcopy(model), requests)
    found, _ = PlainScorer(requests, TokenBudget(CPU), head_rule(model), any_lengths()).score(model)
    assert np.abs(found - wanted).max() > 0.1


@pytest.mark.parametrize("name", ["phi3", "llama, dynamic"])
def test_held_out_windows_are_scored_as_each_alone(name: str) -> None:
    model = build(name)
    fresh = copy.deepcopy(model)
    rng = np.random.default_rng(1)
    texts = [
        HeldOut(label, np.asarray([drawn(rng, length) for _ in range(3)], np.int32))
        for label, length in (("long", LONGEST), ("at the switch", TURN), ("beyond", TURN + 1))
    ]
    windows = WindowScorer(texts, model, TokenBudget(CPU), head_rule(model), divergence=True)
    for scores in (windows.score(model), windows.score_dense(model)):
        for text, found in zip(texts, scores, strict=True):
            for window, nll in zip(text.tokens, found.nll, strict=True):
                target = torch.as_tensor(window[1:].astype(np.int64))[:, None]
                wanted = -logits_alone(fresh, window).log_softmax(-1)[:-1].gather(1, target)[:, 0]
                np.testing.assert_allclose(nll, wanted, atol=1e-3, rtol=0)


class Mixing(torch.nn.Module):
    """Adds the mean of all rows of a call to each."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner(hidden)
        return found + found.mean((0, 1))


def test_rows_that_meet_each_other_run_one_by_one(
    make_model: Callable[..., Any], requests: Requests, tokenizer: Any
) -> None:
    model = make_model("llama")
    model.model.layers[0].mlp = Mixing(model.model.layers[0].mlp)
    requests = Requests.pack([(requests.sequence(number)[:30].tolist(), [7]) for number in (2, 3)], LONGEST)
    scorer = choose_scorer(model, requests, TokenBudget(CPU), head_rule(model))
    assert scorer.name == "plain, one by one"
    np.testing.assert_allclose(scorer.score(model)[0], scores_alone(model, requests), atol=1e-4, rtol=0)
    data = evaluation_of(
        requests, HeldOut("text", np.asarray([drawn(np.random.default_rng(number), 20) for number in (1, 2)]))
    )
    evaluator = Evaluator(data, model, tokenizer, "cpu")
    for window, nll in zip(data.heldout[0].tokens, evaluator.windows.score(model)[0].nll, strict=True):
        target = torch.as_tensor(window[1:])[:, None]
        wanted = -logits_alone(model, window).log_softmax(-1)[:-1].gather(1, target)[:, 0]
        np.testing.assert_allclose(nll, wanted, atol=1e-3, rtol=0)


def test_padding_token_without_an_embedding_is_never_fed(tokenizer: Any) -> None:
    model = build("llama, yarn")
    asked = [Generation(prompt, {"until": ["zzz"], "max_gen_toks": 5, "do_sample": False}) for prompt in ("a b", "a")]
    wanted = generate(model, tokenizer, asked, 120, TokenBudget(CPU))
    added = copy.deepcopy(tokenizer)
    added.add_special_tokens({"pad_token": "[PAD]"})
    assert added.pad_token_id >= model.config.vocab_size
    assert generate(model, added, asked, 120, TokenBudget(CPU)) == wanted


def evaluation_of(requests: Requests, text: HeldOut) -> EvaluationData:
    from sweep.evaluation.questions.requests import TaskRequests
    from sweep.evaluation.settings import EvaluationSettings

    return EvaluationData(EvaluationSettings(tasks=["tiny"]), LONGEST, TaskRequests(requests, [], [], []), [text])


@pytest.mark.parametrize("name", ["phi3", "llama, dynamic", "xlnet", "llama4"])  # Llama 4 scales queries by place
def test_prompts_that_padding_moves_are_continued_as_each_alone(name: str, tokenizer: Any) -> None:
    model = build(name)
    fresh = copy.deepcopy(model)
    rng = np.random.default_rng(2)
    prompts = [tokenizer.decode(drawn(rng, count)) for count in (4, 30, 36, 36, 50, 70)]
    asked = [Generation(prompt, {"until": ["\n\n\n"], "max_gen_toks": 10, "do_sample": False}) for prompt in prompts]
    lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    assert not may_be_padded(model, lengths, [10] * len(lengths))
    together = generate(model, tokenizer, asked, 120, TokenBudget(CPU))
    assert together == [generate(copy.deepcopy(fresh), tokenizer, [each], 120, TokenBudget(CPU))[0] for each in asked]


@pytest.mark.parametrize("name", ["llama, yarn", "mistral", "gpt_neo"])
def test_prompts_that_padding_leaves_alone_share_batches(name: str) -> None:
    model = build(name)
    assert may_be_padded(model, [4, 30, 70], [10, 10, 10])
    assert may_be_padded(model, [30, 30], [10, 10])
