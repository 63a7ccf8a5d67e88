"""A streamed model is the whole model, held differently: the same bits everywhere, and few weights at a time."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from calib.settings import SettingsError
from methods.base import CompressionError, get_method, parse_method
from methods.blockwise import compress_model, decoder_blocks
from methods.walk import batches
from sweep import plan
from sweep.checkpoints.tensors import INDEX, stored_tensors
from sweep.config import parse_study
from sweep.evaluation.questions.requests import Requests
from sweep.evaluation.scorer import states
from sweep.evaluation.scorer.choice import choose_scorer
from sweep.evaluation.scorer.forward import TokenBudget, body, head_rule
from sweep.evaluation.scorer.scoring import PlainScorer
from sweep.evaluation.scorer.states import ModelCall, final_states
from sweep.models import DenseModel, resolve_model, weights_hash
from sweep.results import Results
from sweep.runs.local import LocalRunner
from sweep.runs.schedule import Job
from sweep.weights.blocks import StreamedBlocks
from sweep.weights.memory import host_memory
from sweep.weights.streaming import StreamedModel, load_dense
from sweep.weights.tensors import DataFile

IDS = {"vocab_size": 257, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
LLAMA = IDS | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
OPT = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "word_embed_proj_dim": 16}
SLIDING = {
    "head_dim": 8,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", LLAMA),
    "llama-tied": ("LlamaConfig", {**LLAMA, "tie_word_embeddings": True}),
    "llama-shards": ("LlamaConfig", LLAMA),
    "opt": ("OPTConfig", {**IDS, **OPT, "max_position_embeddings": 64}),
    "gpt2": ("GPT2Config", {**IDS, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}),
    "gemma2": ("Gemma2Config", {**LLAMA, **SLIDING}),
    "falcon": ("FalconConfig", {**IDS, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}),
    "mixtral": ("MixtralConfig", {**LLAMA, "num_local_experts": 4}),
    "dynamic": (
        "LlamaConfig",
        {
            **LLAMA,
            "max_position_embeddings": 16,
            "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
        },
    ),
}
STREAMABLE = [name for name in MODELS if name not in ("mixtral", "dynamic")]
METHODS: list[Any] = [
    {"method": "rtn", "bits": 3, "group_size": 16},
    {"method": "gptq", "bits": 3, "group_size": 16},
    {"method": "wanda", "sparsity": 0.5, "allocation": "owl"},
    {"method": "awq", "group_size": 16, "scale_steps": 3},
    {"method": "svd", "ratio": 0.6},
    [{"method": "joint_svd", "ratio": 0.6}, {"method": "rtn", "bits": 4}],
    [{"method": "sparsegpt", "sparsity": 0.5}, {"method": "gptq", "bits": 4, "group_size": 16}],
]

Save = Callable[..., Path]


@pytest.fixture(scope="module")
def save(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Saves a tiny random model of an architecture, with a tokenizer, and returns its folder."""
    import transformers

    root = tmp_path_factory.mktemp("streamed")

    def build(name: str) -> Path:
        folder = root / name
        if folder.exists():
            return folder
        config, settings = MODELS[name]
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, config)(**settings))
        with torch.no_grad():  # norms and biases that differ from their start, so that a wrong fold shows
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json", "gen*.json"))
        model.save_pretrained(folder, max_shard_size="20KB" if name.endswith("shards") else "1GB")
        return folder

    return build


@pytest.fixture(scope="module")
def llama(save: Save) -> Path:
    return save("llama")


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(3, 257, size=(4, 24), dtype=np.int32)


def pair(folder: Path, **entry: Any) -> tuple[DenseModel, StreamedModel]:
    ref = resolve_model({"model": str(folder), **entry}, "models[0]")
    return DenseModel(ref), StreamedModel(ref)


def present(model: Any) -> int:
    """Blocks that hold weights."""
    return sum(not parameter.is_meta for block in decoder_blocks(model) for parameter in [next(block.parameters())])


def run_study(document: dict[str, Any], root: Path) -> Results:
    from sweep.runs.provenance import provenance

    study = parse_study(document)
    plan.check(study)
    trials = plan.expand(study)
    runner = LocalRunner(str(root), provenance())
    runner.start()
    runner.prepare(plan.pools(trials), plan.request_sets(trials))
    outcomes = list(runner.run([Job(trial) for trial in trials]))
    assert [outcome.error for outcome in outcomes] == [None] * len(trials)
    return Results(root)


def numbers(results: Results) -> dict[str, pl.DataFrame]:
    """All tables but what differs from run to run: times, memory, the machine, and where the weights were."""
    machine = {"worker", "started", "device", "peak_memory", "placement", "files"}
    tables = {name: results.read(name) for name in ("trials", "metrics", "samples", "layers")}
    return {
        name: table.select(column for column in table.columns if column not in machine and "seconds" not in column)
        for name, table in tables.items()
    }


@pytest.mark.parametrize("name", STREAMABLE)
def test_a_study_gives_the_same_tables_streamed_and_whole(
    save: Save, document: dict[str, Any], tmp_path: Path, name: str
) -> None:
    folder = save(name)
    document["methods"] = METHODS if name in ("llama", "gemma2") else METHODS[1:2] + METHODS[4:5]
    document["calibration"]["source"] = document["calibration"]["source"][0]
    found = {}
    for placement in ("whole", "streamed"):
        document["models"] = [{"model": str(folder), "placement": placement}]
        results = run_study(document, tmp_path / placement)
        assert results.read("trials").get_column("placement").unique().to_list() == [placement]
        found[placement] = numbers(results)
    for table, whole in found["whole"].items():
        assert whole.height
        assert found["streamed"][table].equals(whole), table


def test_the_launcher_streams_the_bundled_model(
    document: dict[str, Any], launch: Any, write_study: Any, tmp_path: Path
) -> None:
    document["methods"] = [{"method": "gptq", "bits": 3}]
    document["calibration"]["source"] = document["calibration"]["source"][0]
    found = {}
    for placement in ("whole", "streamed"):
        document["models"] = [{"model": "reference-2m", "placement": placement}]
        result = launch(write_study(document), "--local", "--gpus-per-worker", "0", "--results", placement)
        assert result.exit_code == 0, result.output
        found[placement] = numbers(Results(tmp_path / placement))
    for table, whole in found["whole"].items():
        assert whole.height
        assert found["streamed"][table].equals(whole), table


@pytest.mark.parametrize("name", STREAMABLE)
def test_skeleton_has_the_tensors_of_the_whole_model(save: Save, name: str) -> None:
    dense, streamed = pair(save(name))
    assert streamed.parameters == dense.parameters
    assert weights_hash(streamed.model) == weights_hash(dense.model)
    whole = dict(dense.model.named_buffers())
    assert set(whole) == {name for name, _ in streamed.model.named_buffers()}
    for buffer, tensor in streamed.model.named_buffers():
        assert torch.equal(tensor, whole[buffer]), buffer
    head, embedding = streamed.model.get_output_embeddings(), streamed.model.get_input_embeddings()
    tied = dense.model.get_output_embeddings().weight is dense.model.get_input_embeddings().weight
    assert (head.weight is embedding.weight) == tied


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_cast_as_transformers_casts_them(llama: Path, dtype: str, tokens: np.ndarray) -> None:
    dense, streamed = pair(llama, dtype=dtype)
    assert streamed.dtype == dense.dtype == dtype
    assert weights_hash(streamed.model) == weights_hash(dense.model)
    for model in (dense.model, streamed.model):
        compress_model(model, get_method("wanda"), tokens)
    assert weights_hash(streamed.model) == weights_hash(dense.model)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_walk_holds_one_block_and_restore_gives_back_the_dense_model(
    llama: Path, tokens: np.ndarray, method: Any
) -> None:
    dense, streamed = pair(llama)
    before = weights_hash(streamed.model)
    names = [name for name, _ in streamed.model.named_modules()]
    seen = []
    for block in decoder_blocks(streamed.model):
        block.register_forward_pre_hook(lambda *_: seen.append(present(streamed.model)))
    chosen = parse_method(method, "m")
    report = compress_model(streamed.model, chosen, tokens)
    assert set(seen) <= {0, 1}  # 0: the forward that records and runs no block
    assert present(streamed.model) == 0
    expected = compress_model(dense.model, chosen, tokens)
    assert weights_hash(streamed.model) == weights_hash(dense.model) != before
    for layer in (*report.layers, *expected.layers):
        layer.seconds = 0.0
    assert report.layers == expected.layers
    streamed.restore()
    assert weights_hash(streamed.model) == before
    assert [name for name, _ in streamed.model.named_modules()] == names
    assert report.layers


def test_evaluation_reads_every_block_once_for_all_batches(llama: Path) -> None:
    dense, streamed = pair(llama)
    calls = [ModelCall(torch.arange(n, n + 20)[None] % 257) for n in range(5)]
    seen = []
    for block in decoder_blocks(streamed.model):
        block.register_forward_pre_hook(lambda *_: seen.append(present(streamed.model)))
    with torch.inference_mode():
        found = list(final_states(streamed.model, calls))
        expected = [body(dense.model, call.tokens) for call in calls]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    assert streamed.blocks.traffic.loads == 3
    assert max(seen) == 1
    assert present(streamed.model) == 0


def test_last_block_is_narrowed_like_that_of_a_whole_model(llama: Path) -> None:
    dense, streamed = pair(llama)
    requests = Requests.pack([([1, 2, 3], [4, 5]), ([1, 2, 3], [6]), ([9, 8], [7])], 64)
    budget = TokenBudget(torch.device("cpu"))
    expected = choose_scorer(dense.model, requests, budget, head_rule(dense.model))
    with streamed.blocks.sample() as small:
        found = choose_scorer(small, requests, budget, head_rule(small))
    assert set(found.placewise) == set(expected.placewise) == {"mlp", "self_attn.q_proj", "self_attn.o_proj"}
    seen: list[int] = []
    for held in (dense, streamed):
        last = decoder_blocks(held.model)[-1].mlp.down_proj
        last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][..., 0].numel()))
    scores = [scorer.score(held.model)[0] for scorer, held in ((expected, dense), (found, streamed))]
    assert np.array_equal(*scores)
    assert len(set(seen)) == 1
    assert seen[0] < expected.batches()[0].tokens.numel()


def test_frequencies_that_follow_the_length_are_the_same_whole_and_streamed_and_after_a_trial(save: Save) -> None:
    dense, streamed = pair(save("dynamic"))
    requests = Requests.pack([(list(range(3, 3 + length)), [4, 5]) for length in (5, 14, 15, 16, 30, 40)], 64)
    budget = TokenBudget(torch.device("cpu"))
    whole = choose_scorer(dense.model, requests, budget, head_rule(dense.model))
    with streamed.blocks.sample() as small:
        parts = choose_scorer(small, requests, budget, head_rule(small))
    assert whole.name == parts.name == "packed, explicit mask"
    before = whole.score(dense.model)[0]
    assert np.array_equal(parts.score(streamed.model)[0], before)
    windows = np.random.default_rng(0).integers(3, 90, (4, 24), np.int32)
    for held in (dense, streamed):
        compress_model(held.model, get_method("wanda", sparsity=0.5), windows)
    assert weights_hash(streamed.model) == weights_hash(dense.model)
    after = whole.score(dense.model)[0]
    assert np.array_equal(parts.score(streamed.model)[0], after)
    assert not np.array_equal(after, before)
    for scorer, held in ((whole, dense), (parts, streamed)):
        held.restore()
        assert np.array_equal(scorer.score(held.model)[0], before)


def test_batches_go_in_waves_when_memory_is_short(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense, streamed = pair(llama)
    calls = [ModelCall(torch.arange(n, n + 20)[None] % 257) for n in range(5)]
    room = 2.5 * 20 * 32 * 4  # bytes: two calls and a half
    monkeypatch.setattr(states, "host_memory", lambda: int(room / states.HOST_SHARE))
    with torch.inference_mode():
        found = list(final_states(streamed.model, calls))
        expected = [body(dense.model, call.tokens) for call in calls]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    assert streamed.blocks.traffic.loads == 3 * 3  # waves of 2, 2 and 1


def test_head_that_cannot_be_run_alone_is_scored_streamed(llama: Path) -> None:
    dense, streamed = pair(llama)
    requests = Requests.pack([([1, 2, 3], [4, 5]), ([1, 2, 3], [6]), ([9, 8], [7])], 64)
    budget = TokenBudget(torch.device("cpu"))
    found, expected = (PlainScorer(requests, budget, None).score(held.model) for held in (streamed, dense))
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])


@pytest.mark.parametrize(("name", "count"), [("llama", 1), ("gemma2", 2), ("gpt2", 1), ("opt", 1), ("falcon", 1)])
def test_sample_shows_every_kind_of_layer_and_is_given_back(save: Save, name: str, count: int) -> None:
    _, streamed = pair(save(name))
    blocks = decoder_blocks(streamed.model)
    with streamed.blocks.sample() as small:
        assert len(blocks) == count
        assert not any(parameter.is_meta for parameter in small.parameters())
        assert head_rule(small) is not None
        assert len(decoder_blocks(small)) == count
    assert len(decoder_blocks(streamed.model)) == len(blocks) == 3
    assert present(streamed.model) == 0


def test_decoder_that_works_between_its_blocks_is_refused(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, input_ids: Any, **_: Any) -> Any:
        start = hidden = self.embed_tokens(input_ids)
        positions = self.rotary_emb(hidden, position_ids=torch.arange(input_ids.shape[1])[None])
        for block in self.layers:
            hidden = block(hidden, position_embeddings=positions) + start
        return (self.norm(hidden),)

    _, streamed = pair(llama)
    monkeypatch.setattr(StreamedBlocks, "_kinds", lambda _: ["first", "second", "second"])
    with streamed.blocks.sample() as small:
        states.check_blocks_alone(small, streamed.blocks.blocks)
        monkeypatch.setattr(type(small.model), "forward", forward)
        with pytest.raises(SettingsError, match="hand more to each other than hidden states"):
            states.check_blocks_alone(small, streamed.blocks.blocks)


def test_failed_walk_leaves_no_weights_behind_and_restore_repairs_it(llama: Path, tokens: np.ndarray) -> None:
    _, streamed = pair(llama)
    before = weights_hash(streamed.model)
    broken = decoder_blocks(streamed.model)[1].mlp.down_proj
    broken.register_forward_pre_hook(lambda _, inputs: (inputs[0] * float("nan"),))
    with pytest.raises(CompressionError, match="block 1"):
        compress_model(streamed.model, get_method("gptq"), tokens)
    assert present(streamed.model) == 0
    streamed.restore()
    assert not broken._forward_pre_hooks
    assert weights_hash(streamed.model) == before


def test_changed_blocks_leave_no_file_in_the_scratch_folder(llama: Path, tokens: np.ndarray, tmp_path: Path) -> None:
    streamed = StreamedModel(resolve_model(str(llama), "m"), scratch=str(tmp_path))
    compress_model(streamed.model, get_method("rtn"), tokens)
    assert streamed.blocks.traffic.bytes_written > 0
    assert list(tmp_path.iterdir()) == []


def test_full_scratch_disk_is_one_clear_error(llama: Path, tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    _, streamed = pair(llama)
    monkeypatch.setattr(DataFile, "write", full)
    compress_model(streamed.model, get_method("rtn"), tokens)
    with pytest.raises(OSError, match=r"cannot be kept in .*No space left.*TMPDIR"), torch.inference_mode():
        list(final_states(streamed.model, [ModelCall(torch.arange(5)[None])]))
    streamed.restore()
    assert weights_hash(streamed.model) == weights_hash(DenseModel(streamed.ref).model)


def test_small_scratch_disk_is_refused_before_anything_runs(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(SettingsError, match="0.0 GiB free.*TMPDIR"):
        StreamedModel(resolve_model(str(llama), "m"))


@pytest.fixture
def edited(llama: Path, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(llama, tmp_path / "edited"))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    from safetensors.torch import load_file, save_file

    content = load_file(folder / "model.safetensors")
    change(content)
    save_file(content, folder / "model.safetensors", {"format": "pt"})


DIFFERENCES: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (
        lambda content: content.pop("model.layers.1.mlp.up_proj.weight"),
        "edited: the checkpoint lacks model.layers.1.mlp.up_proj.weight, which LlamaForCausalLM needs",
    ),
    "shape": (
        lambda content: content.update({"model.norm.weight": torch.ones(31)}),
        r"edited: model.norm.weight is \[31\] in the checkpoint, and LlamaForCausalLM takes \[32\]",
    ),
    "unexpected": (
        lambda content: content.update({"model.layers.1.mlp.gate.weight": torch.ones(3)}),
        "edited: the checkpoint holds model.layers.1.mlp.gate.weight, which LlamaForCausalLM does not have",
    ),
    "NaN inside": (
        lambda content: content["model.layers.2.mlp.up_proj.weight"][3].fill_(float("nan")),
        "edited: model.layers.2.mlp.up_proj.weight has 32 numbers of 2,048 that are NaN or infinite in float32",
    ),
    "infinite outside": (
        lambda content: content["lm_head.weight"][3, 3:5].fill_(float("inf")),
        "edited: lm_head.weight has 2 numbers of 8,224 that are NaN or infinite in float32",
    ),
}


@pytest.mark.parametrize("placement", ["whole", "streamed"])
@pytest.mark.parametrize("name", DIFFERENCES)
def test_checkpoint_that_is_not_the_model_is_refused_alike_in_both_placements(
    edited: Path, name: str, placement: str
) -> None:
    change, message = DIFFERENCES[name]
    rewrite(edited, change)
    ref = resolve_model({"model": str(edited), "placement": placement}, "m")
    with pytest.raises(SettingsError, match=message):
        weights_hash(load_dense(ref).model)  # which reads every block


def test_blocks_that_were_compressed_are_not_looked_at_again(llama: Path) -> None:
    streamed = StreamedModel(resolve_model(str(llama), "m"))
    weights_hash(streamed.model)
    with streamed.blocks.resident(1, changes=True):
        streamed.blocks.blocks[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    with streamed.blocks.resident(1):
        assert streamed.blocks.blocks[1].mlp.up_proj.weight[0, 0].isnan()


def test_keys_without_the_prefix_of_the_whole_model_are_found(edited: Path, llama: Path) -> None:
    def strip(content: dict[str, torch.Tensor]) -> None:
        for name in list(content):
            content[name.removeprefix("model.")] = content.pop(name)

    rewrite(edited, strip)
    _, streamed = pair(edited)
    assert weights_hash(streamed.model) == weights_hash(DenseModel(resolve_model(str(llama), "m")).model)


def test_file_that_was_cut_off_is_named(edited: Path) -> None:
    ref = resolve_model(str(edited), "m")
    weights = edited / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(SettingsError, match=r"model.safetensors is cut off: it has .* bytes"):
        StreamedModel(ref)


def test_file_that_shrinks_while_it_is_in_use_is_named(edited: Path) -> None:
    streamed = StreamedModel(resolve_model(str(edited), "m"))
    weights = edited / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size // 4)
    with pytest.raises(OSError, match=r"model.safetensors ended at byte"):
        weights_hash(streamed.model)


def test_missing_shard_is_named(save: Save, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(save("llama-shards"), tmp_path / "shards"))
    ref = resolve_model(str(folder), "m")
    shard = sorted(json.loads((folder / INDEX).read_text())["weight_map"].values())[-1]
    (folder / shard).unlink()
    with pytest.raises(SettingsError, match=f"names {shard}, which is not there"):
        StreamedModel(ref)


def test_weights_that_must_be_converted_are_refused(save: Save) -> None:
    with pytest.raises(SettingsError, match=r"experts.* is stored in parts that must be converted"):
        StreamedModel(resolve_model(str(save("mixtral")), "m"))


def test_shared_blocks_are_refused(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweep.weights import streaming

    def shared(model: Any) -> Any:
        blocks = decoder_blocks(model)
        blocks[2].mlp = blocks[0].mlp
        return blocks

    monkeypatch.setattr(streaming, "decoder_blocks", shared)
    with pytest.raises(SettingsError, match=r"mlp.* of block 2 belongs to block 0 as well"):
        StreamedModel(resolve_model(str(llama), "m"))


def test_gradients_of_the_whole_model_are_refused_before_any_work(llama: Path, tokens: np.ndarray) -> None:
    _, streamed = pair(llama)
    with pytest.raises(SettingsError, match=r"FWSVD 80 %: needs gradients of the whole model"):
        compress_model(streamed.model, get_method("fwsvd"), tokens)
    assert streamed.blocks.traffic.loads == 0


def test_plan_refuses_gradients_of_a_streamed_model(document: dict[str, Any]) -> None:
    document["models"] = [{"model": document["models"][0], "placement": "streamed"}]
    document["methods"] = [[{"method": "smoothquant"}, {"method": "fwsvd"}]]
    with pytest.raises(SettingsError, match=r"FWSVD 80 %: needs gradients .*is streamed"):
        plan.check(parse_study(document))


def test_text_generation_of_a_streamed_model_is_refused_while_preparing(
    document: dict[str, Any], tiny_tasks: Path, tmp_path: Path
) -> None:
    import yaml

    folder = Path(shutil.copytree(tiny_tasks, tmp_path / "tasks"))
    task = yaml.safe_load((folder / "tiny_a.yaml").read_text())
    del task["doc_to_choice"]
    task |= {"task": "tiny_write", "output_type": "generate_until", "doc_to_target": "house"}
    task["generation_kwargs"] = {"until": ["."], "max_gen_toks": 3}
    task["metric_list"] = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
    (folder / "tiny_write.yaml").write_text(yaml.safe_dump(task))
    document["evaluation"] |= {"tasks": ["tiny_write"], "task_path": str(folder)}
    document["models"] = [{"model": document["models"][0], "placement": "streamed"}]
    with pytest.raises(SettingsError, match=r"evaluation.tasks: tiny_write generate text, and tiny is streamed"):
        run_study(document, tmp_path / "results")


def test_placement_is_known_and_no_part_of_a_trials_identity(document: dict[str, Any]) -> None:
    ids = []
    for placement in ("auto", "whole", "streamed"):
        changed = copy.deepcopy(document)
        changed["models"] = [{"model": document["models"][0], "placement": placement}]
        ids.append([trial.id for trial in plan.expand(parse_study(changed))])
    assert ids[0] == ids[1] == ids[2]
    with pytest.raises(SettingsError, match="placement: unknown placement 'stream', did you mean 'streamed'"):
        resolve_model({"model": "reference-2m", "placement": "stream"}, "m")


def test_a_cpu_streams_only_when_asked_to(llama: Path) -> None:
    assert isinstance(load_dense(resolve_model(str(llama), "m")), DenseModel)
    asked = resolve_model({"model": str(llama), "placement": "streamed"}, "m")
    assert isinstance(load_dense(asked), StreamedModel)


@pytest.mark.parametrize(("free", "host", "placement"), [(9, 1, "whole"), (7, 1, "streamed"), (9, 0, "streamed")])
def test_auto_streams_what_gpu_or_host_cannot_hold(
    llama: Path, monkeypatch: pytest.MonkeyPatch, free: int, host: int, placement: str
) -> None:
    from sweep.weights import streaming

    monkeypatch.setattr(streaming, "device_memory", lambda _: free << 30)
    monkeypatch.setattr(streaming, "host_memory", lambda: host << 30)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(streaming, "DenseModel", lambda *_: "whole")
    monkeypatch.setattr(streaming, "StreamedModel", lambda *_: "streamed")
    assert load_dense(resolve_model(str(llama), "m"), "cuda") == placement


def test_model_of_the_hub_is_streamed_from_the_cache(llama: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import huggingface_hub

    asked = []

    def snapshot(name: str, revision: str, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(llama)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    root = tmp_path / "models--org--name"
    shutil.copytree(llama, root / "snapshots" / "c0ffee")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("c0ffee")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    from sweep.weights.streaming import local_folder

    assert local_folder(resolve_model("org/name", "m")) == llama
    assert [name for name, _, _ in asked] == ["org/name"] * 2
    assert asked[1][1:] == ("main", ["model.safetensors"])


def test_memory_of_a_container_counts_its_limit_and_not_its_page_cache(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert host_memory(tmp_path) == 8000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("5000\n")
    (group / "memory.stat").write_text("anon 3000\nactive_file 800\ninactive_file 1000\n")
    assert host_memory(tmp_path) == 8000 * 1024
    (group / "memory.max").write_text("6000\n")
    assert host_memory(tmp_path) == 6000 - 5000 + 1800


def test_headers_name_what_safetensors_reads(llama: Path) -> None:
    from safetensors.torch import load_file

    found = stored_tensors([llama / "model.safetensors"])
    content = load_file(llama / "model.safetensors")
    assert {name: list(tensor.shape) for name, tensor in content.items()} == {
        name: list(stored.shape) for name, stored in found.items()
    }
    with (llama / "model.safetensors").open("rb") as file:
        for name, stored in found.items():
            file.seek(stored.start)
            assert file.read(stored.size) == content[name].numpy().tobytes()


@pytest.mark.gpu
def test_a_study_gives_the_same_tables_streamed_and_whole_on_a_gpu(document: dict[str, Any], tmp_path: Path) -> None:
    document["methods"] = [{"method": "gptq", "bits": 3}, {"method": "wanda", "allocation": "owl"}, METHODS[4]]
    document["calibration"]["source"] = document["calibration"]["source"][0]
    found = {}
    for placement in ("whole", "streamed"):
        document["models"] = [{"model": "reference-2m", "placement": placement, "dtype": "bfloat16"}]
        found[placement] = numbers(run_study(document, tmp_path / placement))
    assert found["whole"]["trials"].get_column("scorer").str.starts_with("packed").all()
    for table, whole in found["whole"].items():
        assert found["streamed"][table].equals(whole), table


@pytest.mark.gpu
@pytest.mark.parametrize(
    "entry", [{"method": "gptq", "group_size": 32}, {"method": "awq", "group_size": 32}, {"method": "svd"}], ids=str
)
def test_hidden_states_that_wait_on_the_host_change_no_bit(
    entry: dict[str, Any], tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = parse_method(entry, "method")
    ref = resolve_model({"model": "reference-2m", "dtype": "bfloat16"}, "m")
    dense, streamed = DenseModel(ref, "cuda"), StreamedModel(ref, "cuda")
    compress_model(dense.model, method, tokens, batch_size=2)
    monkeypatch.setattr(batches, "HIDDEN_SHARE", 0.0)
    monkeypatch.setattr(states, "DEVICE_SHARE", 0.0)
    compress_model(streamed.model, method, tokens, batch_size=2)
    assert weights_hash(streamed.model) == weights_hash(dense.model)
    calls = [ModelCall(torch.as_tensor(part, device="cuda").long()) for part in np.split(tokens, 2)]
    with torch.inference_mode():
        found = list(final_states(streamed.model, calls))
        assert all(torch.equal(ours, body(dense.model, call.tokens)) for ours, call in zip(found, calls, strict=True))


@pytest.mark.gpu
def test_a_gpu_holds_two_blocks_at_most(tiny_model: Path, tmp_path: Path) -> None:
    import transformers

    settings = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 10, "num_attention_heads": 8}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**LLAMA, **settings})).to(torch.bfloat16)
    shutil.copytree(tiny_model, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    model.save_pretrained(tmp_path / "m")
    ref = resolve_model({"model": str(tmp_path / "m"), "dtype": "bfloat16"}, "m")
    streamed = StreamedModel(ref, "cuda")
    block = streamed.blocks.bytes / 10
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        list(final_states(streamed.model, [ModelCall(torch.arange(16, device="cuda")[None])]))
    assert 1.9 * block < torch.cuda.max_memory_allocated() - before < 2.4 * block
    expected = weights_hash(model.cuda())
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        assert weights_hash(streamed.model) == expected
        compress_model(
            streamed.model, get_method("svd", ratio=0.5), None
        )  # frees dense weights in the middle of a block
        streamed.restore()
