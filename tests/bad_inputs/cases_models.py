"""Models that cannot be measured: folders, configurations, headers of safetensors, weights and tokenizers."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweep.models import MODELS
from tests.bad_inputs.common import Case, write_study

Spoil = Callable[[Path], object]
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
HEAD = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def model(spoil: Spoil, *, study: dict[str, Any] | None = None, **entry: Any) -> Callable[[Path], list[str]]:
    """A copy of the smallest bundled model as the folder `m`, spoiled, in a study of its own."""

    def build(folder: Path) -> list[str]:
        target = folder / "m"
        shutil.copytree(MODELS / "reference-2m", target)
        for file in target.rglob("*"):
            file.chmod(0o644 if file.is_file() else 0o755)
        spoil(target)
        sections = {"models": [{"model": "./m", **entry}], **(study or {})}
        return [write_study(folder, **sections), "--local"]

    return build


def config(**changes: Any) -> Spoil:
    """config.json with keys changed; None as a value takes a key out."""

    def spoil(folder: Path) -> None:
        file = folder / "config.json"
        values = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))

    return spoil


def text(name: str, content: str | bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def without(*names: str, **others: str) -> Spoil:
    """Files taken away; `others` are written (a name with `__` for its dot)."""

    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()
        for name, content in others.items():
            (folder / name.replace("__", ".")).write_text(content)

    return spoil


def header(content: Any, data: bytes = bytes(16)) -> Spoil:
    """Weights that are this header and these bytes."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return text(WEIGHTS, struct.pack("<Q", len(raw)) + raw + data)


def entry(**changes: Any) -> Spoil:
    """A file of one tensor, `t`, whose entry is changed; None takes a key out."""
    values = {**HEAD, **changes}
    return header({"t": {key: value for key, value in values.items() if value is not None}})


Tensors = dict[str, tuple[str, list[int], bytes]]  # by name: dtype, shape, data


def read_tensors(file: Path) -> Tensors:
    raw = file.read_bytes()
    begin = 8 + struct.unpack("<Q", raw[:8])[0]
    entries = {name: about for name, about in json.loads(raw[8:begin]).items() if name != "__metadata__"}
    places = {name: [begin + place for place in about["data_offsets"]] for name, about in entries.items()}
    return {n: (about["dtype"], about["shape"], raw[slice(*places[n])]) for n, about in entries.items()}


def write_tensors(file: Path, tensors: Tensors) -> None:
    about: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, data) in tensors.items():
        about[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    raw = json.dumps(about).encode()
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + b"".join(data for _, _, data in tensors.values()))


def weights(change: Callable[[Tensors], object]) -> Spoil:
    """The weights with tensors changed."""

    def spoil(folder: Path) -> None:
        tensors = read_tensors(folder / WEIGHTS)
        change(tensors)
        write_tensors(folder / WEIGHTS, tensors)

    return spoil


def shards(change: Callable[[dict[str, str], dict[str, Tensors]], object]) -> Spoil:
    """The weights in two files with an index; `change(weight_map, tensors by file)` comes before writing."""

    def spoil(folder: Path) -> None:
        tensors = read_tensors(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        names = sorted(tensors)
        parts = {f"part-{n}.safetensors": {name: tensors[name] for name in names[n::2]} for n in range(2)}
        named = {name: file for file, part in parts.items() for name in part}
        change(named, parts)
        for file, part in parts.items():
            write_tensors(folder / file, part)
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": named}))

    return spoil


def lose_a_tensor(_: dict[str, str], parts: dict[str, Tensors]) -> None:
    part = parts["part-0.safetensors"]
    del part[next(iter(part))]


def repeat_a_tensor(_: dict[str, str], parts: dict[str, Tensors]) -> None:
    for part in parts.values():
        part["t"] = part[next(iter(part))]


def without_a_row(tensors: Tensors) -> None:
    dtype, (rows, cols), data = tensors[Q_PROJ]
    tensors[Q_PROJ] = (dtype, [rows - 1, cols], data[: len(data) // rows * (rows - 1)])


def as_integers(tensors: Tensors) -> None:
    _, (rows, cols), _ = tensors[Q_PROJ]
    tensors[Q_PROJ] = ("I8", [rows, cols], bytes(rows * cols))


def numbers(name: str, bits: int, count: int = 3) -> Spoil:
    """The first numbers of a bfloat16 tensor replaced by these 16 bits."""

    def change(tensors: Tensors) -> None:
        dtype, shape, data = tensors[name]
        tensors[name] = (dtype, shape, struct.pack("<H", bits) * count + data[2 * count :])

    return weights(change)


def null_hidden_size(folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "hidden_size": None}))


def own_code(folder: Path) -> None:
    config(model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"})(folder)
    (folder / "mine.py").write_text("raise RuntimeError('this code must not run')\n")


def own_tokenizer(folder: Path) -> None:
    (folder / "mine.py").write_text("raise RuntimeError('this code must not run')\n")
    file = folder / "tokenizer_config.json"
    values = {**json.loads(file.read_text()), "auto_map": {"AutoTokenizer": ["mine.Tokenizer", None]}}
    file.write_text(json.dumps({**values, "tokenizer_class": "MineTokenizer"}))


def added_token(folder: Path) -> None:
    file = folder / "tokenizer.json"
    values = json.loads(file.read_text())
    number = 1 + max([*values["model"]["vocab"].values(), *(item["id"] for item in values["added_tokens"])])
    token = {"id": number, "content": "<extra>", "single_word": False, "lstrip": False, "rstrip": False}
    values["added_tokens"].append({**token, "normalized": False, "special": False})
    file.write_text(json.dumps(values))
    (folder.parent / "notes.txt").write_text("plain words <extra> here and there " * 300)


def larger_tokenizer(**study: Any) -> Callable[[Path], list[str]]:
    return model(added_token, study=study)


NOTES = {"source": "file", "path": "notes.txt"}
WINDOWS = {"sets": 1, "nsamples": 2, "seqlen": 64}
NESTED = "[" * 100_000 + "]" * 100_000

FOLDERS = {
    "adapter alone": Case(model(without("config.json", WEIGHTS, adapter_config__json="{}")), r"models\[0\]: .*adapter"),
    "adapter beside a model": Case(model(text("adapter_config.json", "{}")), r"models\[0\]: .*merge it into its base"),
    "rotation of another architecture": Case(
        model(
            config(model_type="gemma", architectures=["GemmaForCausalLM"]),
            study={"methods": [[{"method": "rotation"}, {"method": "rtn"}]]},
        ),
        r"methods: Rotation: is for LlamaForCausalLM, .*, and m is a GemmaForCausalLM; leave the method out, or the",
    ),
    "GGUF alone": Case(model(without("config.json", WEIGHTS, m__gguf="GGUF")), r"m\.gguf.*name the file itself"),
    "GGUF with a config": Case(model(without(WEIGHTS, m__gguf="GGUF")), r"models\[0\]: .*m\.gguf.*save_pretrained"),
    "bin alone": Case(model(without(WEIGHTS, pytorch_model__bin="x")), r"pytorch_model\.bin.*save_pretrained"),
    "no weights": Case(model(without(WEIGHTS)), r"models\[0\]: .*holds no \*\.safetensors"),
    "no config": Case(model(without("config.json")), r"models\[0\]: .*holds no config\.json"),
    "no tokenizer": Case(model(without("tokenizer.json")), r"models\[0\]: .*holds no tokenizer"),
    "weights of another name": Case(
        model(lambda folder: (folder / WEIGHTS).rename(folder / "weights.safetensors")), r"but weights\.safetensors"
    ),
    "weights are a folder": Case(
        model(lambda folder: ((folder / WEIGHTS).unlink(), (folder / WEIGHTS).mkdir())), r"is a folder, expected a file"
    ),
    "weights are a link to nothing": Case(
        model(lambda folder: ((folder / WEIGHTS).unlink(), (folder / WEIGHTS).symlink_to("blob"))), r"link to blob"
    ),
    "generation config that is cut off": Case(
        model(text("generation_config.json", "{")), r"generation_config\.json is not valid JSON"
    ),
    "generation config that is a list": Case(
        model(text("generation_config.json", "[]")), r"generation_config\.json is no mapping"
    ),
    "name that is too long": Case(
        lambda folder: [write_study(folder, models=["m" * 5000]), "--local"], r"models\[0\]: unknown model 'mmm"
    ),
    "dtype that is unknown": Case(model(config(dtype="int4")), r"dtype is 'int4'"),
}

CONFIGS = {
    "config that is cut off": Case(model(text("config.json", '{"model_type": ')), r"config\.json is not valid JSON"),
    "config that is a list": Case(model(text("config.json", "[]")), r"config\.json holds a list"),
    "config that is empty": Case(model(text("config.json", "")), r"config\.json is not valid JSON"),
    "config that is no text": Case(model(text("config.json", b"\xff\xfe\x00")), r"config\.json is not valid JSON"),
    "config that is nested": Case(model(text("config.json", NESTED)), r"config\.json is nested too deeply"),
    "text as hidden_size": Case(model(config(hidden_size="32")), r"hidden_size is '32', expected a whole number"),
    "words as layers": Case(model(config(num_hidden_layers="two")), r"num_hidden_layers is 'two', expected a whole"),
    "negative layers": Case(model(config(num_hidden_layers=-1)), r"num_hidden_layers is -1, expected a whole number"),
    "no layers": Case(model(config(num_hidden_layers=0)), r"num_hidden_layers is 0, expected a whole number"),
    "NaN as hidden_size": Case(model(config(hidden_size=float("nan"))), r"hidden_size is nan, expected a whole"),
    "a fraction as vocab_size": Case(model(config(vocab_size=8192.5)), r"vocab_size is 8192\.5, expected a whole"),
    "true as heads": Case(model(config(num_attention_heads=True)), r"num_attention_heads is True, expected a whole"),
    "null as hidden_size": Case(model(null_hidden_size), r"hidden_size is None, expected a whole number"),
    "text_config that is text": Case(model(config(text_config="llama")), r"text_config is 'llama', expected a mapping"),
    "architectures that is text": Case(model(config(architectures="LlamaForCausalLM")), r"architectures is 'LlamaFor"),
    "architectures of numbers": Case(model(config(architectures=[1])), r"architectures is \[1\], expected a list"),
    "unknown class": Case(
        model(config(architectures=["FooForCausalLM"])), r"no class FooForCausalLM.*would load Llama"
    ),
    "classifier": Case(model(config(architectures=["LlamaForSequenceClassification"])), r"no causal language model"),
    "no model_type": Case(model(config(model_type=None)), r"model_type is None, expected the name of an architecture"),
    "number as model_type": Case(model(config(model_type=7)), r"model_type is 7, expected the name"),
    "unknown model_type": Case(model(config(model_type="lama")), r"'lama' is not known.*did you mean 'llama'"),
    "encoder-decoder by its flag": Case(model(config(is_encoder_decoder=True)), r"'llama' is an encoder-decoder"),
    "T5": Case(model(config(model_type="t5", architectures=["T5ForConditionalGeneration"])), r"'t5' is an encoder-dec"),
    "BART": Case(model(config(model_type="bart", architectures=["BartModel"])), r"'bart' is an encoder-decoder"),
    "BERT": Case(model(config(model_type="bert", architectures=["BertForMaskedLM"])), r"'bert' is an encoder, which"),
    "RoBERTa": Case(model(config(model_type="roberta", architectures=None)), r"'roberta' is an encoder, which sees"),
    "vision": Case(model(config(model_type="vit", architectures=["ViTModel"])), r"'vit' is no language model"),
    "vision and language": Case(
        model(config(model_type="llava", architectures=["LlavaForConditionalGeneration"])), r"a vision-language model"
    ),
    "audio": Case(model(config(model_type="wav2vec2", architectures=None)), r"'wav2vec2' is no language model"),
    "GPTQ": Case(model(config(quantization_config={"quant_method": "gptq", "bits": 4})), r"already \(by GPTQModel"),
    "AWQ": Case(model(config(quantization_config={"quant_method": "awq"})), r"already \(by AutoAWQ"),
    "bitsandbytes": Case(model(config(quantization_config={"quant_method": "bitsandbytes"})), r"by bitsandbytes"),
    "compressed-tensors": Case(
        model(config(quantization_config={"quant_method": "compressed-tensors"})), r"by llm-compressor.*the dense model"
    ),
    "FP8": Case(model(config(quantization_config={"quant_method": "fp8"})), r"in FP8.*cannot be compressed again"),
    "MXFP4": Case(model(config(quantization_config={"quant_method": "mxfp4"})), r"in MXFP4.*cannot be compressed"),
    "quantized by nobody": Case(model(config(quantization_config="yes")), r"quantized already.*an unknown package"),
    "MLX": Case(model(config(quantization={"bits": 4})), r"quantized already \(by mlx"),
    "fewer layers than stored": Case(model(config(num_hidden_layers=1)), r"names 1 blocks.*has block \d+ as well"),
    "more layers than stored": Case(model(config(num_hidden_layers=6)), r"names 6 blocks.*lacks block"),
    "a thousand million layers": Case(
        model(config(num_hidden_layers=10**9)), r"names 1000000000 blocks.*tensors in all"
    ),
    "weights elsewhere": Case(model(config(transformers_weights="w.safetensors")), r"transformers_weights"),
    "code of its own": Case(model(own_code), r"'mine' runs code of its own \(mine\.Model\).*trust_remote_code: true"),
    "code in another repository": Case(
        model(
            config(model_type="mine", auto_map={"AutoModelForCausalLM": "org/name--mine.Model"}), trust_remote_code=True
        ),
        r"code is in another repository \(org/name--mine\.Model\)",
    ),
    "auto_map that is a list": Case(model(config(auto_map=["mine.Model"])), r"auto_map is \['mine\.Model'\], expected"),
    "trust in words": Case(
        model(config(), trust_remote_code="yes"), r"models\[0\]\.trust_remote_code: expected boolean"
    ),
    "text in a number that planning does not know": Case(
        model(config(rms_norm_eps="small")), r"models: m .*cannot be loaded: .*rms_norm_eps", torch=True
    ),
    "heads that do not divide": Case(model(config(num_attention_heads=7)), r"models: m.*", torch=True),
    "code that fails": Case(model(own_code, trust_remote_code=True), r"cannot be loaded.*must not run", torch=True),
}

HEADERS = {
    "empty file": Case(model(text(WEIGHTS, b"")), r"is no safetensors file, or cut off \(0 bytes\)"),
    "file of three bytes": Case(model(text(WEIGHTS, b"abc")), r"is no safetensors file, or cut off \(3 bytes\)"),
    "huge header": Case(model(text(WEIGHTS, struct.pack("<Q", 2**60) + b"{}")), r"is no safetensors file, or cut off"),
    "header that is no JSON": Case(model(header(b"{'t': 1}")), r"the header of .* is no JSON"),
    "header that is a list": Case(model(header([HEAD])), r"the header of .* is a list, not a mapping"),
    "header that is nested": Case(model(header(NESTED.encode())), r"the header of .* is no JSON"),
    "header with a name twice": Case(
        model(header(f'{{"t": {json.dumps(HEAD)}, "t": {json.dumps(HEAD)}}}'.encode())), r"has 't' twice"
    ),
    "no tensors": Case(model(header({}, b"")), r"hold no tensors"),
    "entry that is a number": Case(model(header({"t": 5})), r"t is 5, not a mapping"),
    "no data_offsets": Case(model(entry(data_offsets=None)), r"t has the data_offsets None, expected first and last"),
    "three offsets": Case(model(entry(data_offsets=[0, 8, 16])), r"t has the data_offsets \[0, 8, 16\]"),
    "offsets reversed": Case(model(entry(data_offsets=[16, 0])), r"t has -16 bytes .*16 to 0"),
    "negative offsets": Case(model(entry(data_offsets=[-16, 0])), r"t has the data_offsets \[-16, 0\]"),
    "offsets beyond the file": Case(model(entry(shape=[4, 4], data_offsets=[0, 64])), r"is cut off: .* and t ends at"),
    "offsets that overlap": Case(
        model(header({"s": HEAD, "t": {**HEAD, "data_offsets": [8, 24]}}, bytes(24))), r"t overlaps with s"
    ),
    "a hole between tensors": Case(
        model(header({"s": HEAD, "t": {**HEAD, "data_offsets": [20, 36]}}, bytes(36))), r"t leaves a hole after s"
    ),
    "bytes after the last": Case(model(header({"t": HEAD}, bytes(20))), r"has 4 bytes after its last tensor"),
    "negative shape": Case(model(entry(shape=[-2, -2])), r"t has the shape \[-2, -2\], expected a list of sizes"),
    "shape of text": Case(model(entry(shape=["2", "2"])), r"t has the shape \['2', '2'\]"),
    "shape of fractions": Case(model(entry(shape=[2.0, 2])), r"t has the shape \[2\.0, 2\]"),
    "shape of truth": Case(model(entry(shape=[True, 4])), r"t has the shape \[True, 4\]"),
    "shape that is a number": Case(model(entry(shape=4)), r"t has the shape 4, expected a list"),
    "shape that disagrees": Case(model(entry(shape=[2, 3])), r"t has 16 bytes .* but \[2, 3\] of F32 are 24"),
    "unknown dtype": Case(model(entry(dtype="Q4")), r"t has the dtype 'Q4', which is not known"),
    "no dtype": Case(model(entry(dtype=None)), r"t has the dtype None, which is not known"),
}

CHECKPOINTS = {
    "index that is cut off": Case(model(without(WEIGHTS, **{INDEX: "{"})), r"index\.json is not valid JSON"),
    "index without a map": Case(model(without(WEIGHTS, **{INDEX: "{}"})), r"has no weight_map"),
    "index of numbers": Case(
        model(without(WEIGHTS, **{INDEX: '{"weight_map": {"t": 1}}'})), r"gives 1 as the file of t"
    ),
    "index that leaves the folder": Case(
        model(without(WEIGHTS, **{INDEX: '{"weight_map": {"t": "../a.safetensors"}}'})), r"gives '\.\./a\.safetensors'"
    ),
    "shard that is absent": Case(
        model(shards(lambda named, parts: parts.pop("part-1.safetensors"))), r"names part-1\.safetensors, which"
    ),
    "index that names too much": Case(model(shards(lose_a_tensor)), r"has .* in part-0\.safetensors, which lacks it"),
    "index that names too little": Case(
        model(shards(lambda named, parts: named.pop(Q_PROJ))), rf"holds {Q_PROJ}, which .* does not name"
    ),
    "tensor in two shards": Case(
        model(shards(repeat_a_tensor)), r"t is in .*part-0\.safetensors and in .*part-1\.safetensors"
    ),
    "integers as weights": Case(model(weights(as_integers)), rf"{Q_PROJ} is I8, which cannot be computed with"),
    "missing tensor": Case(
        model(weights(lambda tensors: tensors.pop(Q_PROJ))), rf"models: m: the checkpoint lacks {Q_PROJ}", torch=True
    ),
    "missing tensor, streamed": Case(
        model(weights(lambda tensors: tensors.pop(Q_PROJ)), placement="streamed"),
        rf"models: m: the checkpoint lacks {Q_PROJ}, which LlamaForCausalLM needs",
        torch=True,
    ),
    "unexpected tensor": Case(
        model(weights(lambda tensors: tensors.update({"model.adapter.weight": tensors[Q_PROJ]}))),
        r"models: m: the checkpoint holds model\.adapter\.weight, which LlamaForCausalLM does not have",
        torch=True,
    ),
    "tensor of another shape": Case(
        model(weights(without_a_row)),
        rf"models: m: {Q_PROJ} is \[\d+, \d+\] in the checkpoint, and LlamaForCausalLM takes",
        torch=True,
    ),
    "config of a wider model": Case(model(config(intermediate_size=1000)), r"mlp.* by its config\.json", torch=True),
    "NaN in the weights": Case(
        model(numbers(Q_PROJ, 0x7FC0)), rf"models: m: {Q_PROJ} has 3 numbers .* NaN or infinite", torch=True
    ),
    "infinity in the weights, streamed": Case(
        model(numbers("model.norm.weight", 0x7F80, 1), placement="streamed"),
        r"model\.norm\.weight has 1 numbers .* NaN or infinite",
        torch=True,
    ),
    "numbers too large for float16": Case(
        model(numbers(Q_PROJ, 0x4974), dtype="float16"), r"in float16; .*`dtype: bfloat16`", torch=True
    ),
}

TOKENIZERS = {
    "tokenizer that is empty": Case(model(text("tokenizer.json", "")), r"tokenizer\.json is not valid JSON"),
    "tokenizer that is {}": Case(model(text("tokenizer.json", "{}")), r"tokenizer\.json holds no `model`"),
    "tokenizer that is a list": Case(model(text("tokenizer.json", "[]")), r"tokenizer\.json holds a list"),
    "tokenizer that is nested": Case(model(text("tokenizer.json", NESTED)), r"tokenizer\.json is not valid JSON"),
    "tokenizer_config that is cut off": Case(
        model(text("tokenizer_config.json", '{"a": ')), r"tokenizer_config\.json is not valid JSON"
    ),
    "tokenizer_config that is a list": Case(
        model(text("tokenizer_config.json", "[]")), r"tokenizer_config\.json holds a list"
    ),
    "tokenizer of an unknown kind": Case(
        model(text("tokenizer.json", '{"model": {"type": "Foo"}}')),
        r"models: m: the tokenizer of .*cannot be",
        torch=True,
    ),
    "tokenizer with code of its own": Case(
        model(own_tokenizer), r"the tokenizer of .* runs code of its own.*trust_remote_code: true", torch=True
    ),
    "calibration text with a token beyond the embedding": Case(
        larger_tokenizer(calibration={**WINDOWS, "source": NOTES}),
        r"calibration: source 'notes': .* makes the id \d+ \('<extra>'\)",
        torch=True,
    ),
    "held-out text with a token beyond the embedding": Case(
        larger_tokenizer(evaluation={"heldout": [NOTES], "heldout_windows": 2, "heldout_seqlen": 64}),
        r"evaluation\.heldout: 'notes': .* makes the id \d+ \('<extra>'\)",
        torch=True,
    ),
}

CASES: dict[str, Case] = {**FOLDERS, **CONFIGS, **HEADERS, **CHECKPOINTS, **TOKENIZERS}
