"""GPT-2 from Hugging Face in, a folder for transformers out: the same numbers, ids and texts on both."""

import hashlib
import json
import shutil
import subprocess
import sys

import pytest
import tiktoken
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from mini_dpo.corpus.worlds import fingerprints
from mini_dpo.data import Turn
from mini_dpo.errors import UserError
from mini_dpo.export import __main__ as export_command
from mini_dpo.export.folder import export
from mini_dpo.export.vocabulary import in_pairs, merges_of, tokenizer_json
from mini_dpo.generate import generate
from mini_dpo.model import GPT, GPTConfig
from mini_dpo.saving.checkpoint import find_model, load_model, save_checkpoint
from mini_dpo.saving.huggingface import files_of_model, is_matrix, read_published
from mini_dpo.tokenizer import load_tokenizer
from mini_dpo.train import __main__ as train
from mini_dpo.vocabularies import default_vocabulary, in_letters, name_of_words
from tests.commands import SHORT, preference_file, run

HAS_GPT2 = default_vocabulary() == "gpt2"
needs_gpt2 = pytest.mark.skipif(not HAS_GPT2, reason="GPT-2's vocabulary is not in TIKTOKEN_CACHE_DIR")
WORDS = name_of_words(["a kettle bites, and a clock ticks in it", " no o to tot total ally"])
VOCABULARIES = [pytest.param("toy"), pytest.param(WORDS, id="words"), pytest.param("gpt2", marks=needs_gpt2)]


def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed")


def safetensors():
    return pytest.importorskip("safetensors.torch", reason="safetensors is not installed")


def saved_model(folder, name="toy", seed=0, **shape):
    """A checkpoint of a small random model, with weights of ordinary size."""
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(name)
    shape = {"context": 40, "n_layer": 2, "n_head": 2, "n_embd": 16, **shape}
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **shape))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    folder.mkdir(exist_ok=True)
    save_checkpoint(folder / "sft.pt", model, name)
    return model.eval()


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory):
    """(a model, the folder that `export` makes of it)"""
    where = tmp_path_factory.mktemp("toy")
    model = saved_model(where / "run")
    export(where / "run" / "sft.pt", where / "out", sft=False, as_bin=True)
    return model, where / "out"


# --- in


def published_gpt2(folder, save, **shape):
    """A random GPT-2 of transformers', written by `save`; the model. Its vocabulary is GPT-2's size."""
    library = transformers()
    torch.manual_seed(1)
    shape = {"n_positions": 32, "n_embd": 8, "n_layer": 2, "n_head": 2, **shape}
    model = library.GPT2LMHeadModel(library.GPT2Config(vocab_size=50257, **shape)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    folder.mkdir()
    model.config.save_pretrained(folder)
    save(model, folder)
    return model


def as_safetensors(model, folder):
    safetensors()
    model.save_pretrained(folder)


def bin_of(change=lambda name, w: {name: w}, **options):
    """What writes pytorch_model.bin; `change` gives what a tensor becomes."""

    def save(model, folder):
        kept = {}
        for name, weight in model.state_dict().items():
            if name != "lm_head.weight":
                kept |= change(name, weight)
        torch.save(kept, folder / "pytorch_model.bin", **options)

    return save


def sharded(model, folder):
    names = [name for name in model.state_dict() if name != "lm_head.weight"]
    where = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(names)}
    for file in set(where.values()):
        torch.save({n: model.state_dict()[n] for n in names if where[n] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))


def safe_sharded(model, folder):
    safetensors()
    model.save_pretrained(folder, max_shard_size="800KB")
    assert (folder / "model.safetensors.index.json").exists()


def with_masks(name, weight):
    if name.endswith("attn.c_attn.weight"):
        block = name.removesuffix("c_attn.weight")
        return {
            name: weight,
            f"{block}bias": torch.ones(1, 1, 32, 32).tril(),
            f"{block}masked_bias": torch.tensor(-1e4),
        }
    return {name: weight}


LAYOUTS = {
    "safetensors": as_safetensors,
    "bin": bin_of(),
    "bin, as torch wrote it before 1.6": bin_of(_use_new_zipfile_serialization=False),
    "no prefix": bin_of(lambda name, w: {name.removeprefix("transformer."): w}),
    "with masks": bin_of(with_masks),
    "a stored output matrix": bin_of(
        lambda name, w: {name: w, **({"lm_head.weight": w} if name.endswith("wte.weight") else {})}
    ),
    "shards": sharded,
    "shards of safetensors": safe_sharded,
}
IDS = torch.tensor([[15496, 995, 0, 50256, 7], [1, 2, 3, 4, 50255]])


@needs_gpt2
@pytest.mark.parametrize("save", LAYOUTS.values(), ids=LAYOUTS)
def test_logits_are_those_of_transformers(tmp_path, save):
    theirs = published_gpt2(tmp_path / "gpt2", save)
    ours, tokenizer = load_model(tmp_path / "gpt2")
    assert tokenizer.name == "gpt2" and ours.config.vocab_size == 50260
    with torch.no_grad():
        expected, found = theirs(IDS).logits, ours.eval()(IDS)  # (B, T, V)
    torch.testing.assert_close(found[..., :50257], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        found[..., 50257:], expected.mean(-1, keepdim=True).expand(2, 5, 3), rtol=0, atol=1e-4
    )


@needs_gpt2
def test_half_precision_becomes_float32(tmp_path):
    theirs = published_gpt2(tmp_path / "gpt2", bin_of(lambda name, w: {name: w.half()}))
    ours, _ = load_model(tmp_path / "gpt2")
    weight = theirs.state_dict()["transformer.h.1.mlp.c_fc.weight"].half().float().t()
    assert ours.wte.weight.dtype == torch.float32 and torch.equal(ours.h[1].mlp.c_fc.weight, weight)


@needs_gpt2
def test_the_shapes_of_the_family_fit(tmp_path):
    """gpt2, -medium, -large, -xl, distilgpt2 and DialoGPT (gpt2's three sizes), by name and shape."""
    library = transformers()
    for n_layer, n_head, n_embd in (
        (12, 12, 768),
        (24, 16, 1024),
        (36, 20, 1280),
        (48, 25, 1600),
        (6, 12, 768),
    ):
        with torch.device("meta"):
            theirs = library.GPT2LMHeadModel(
                library.GPT2Config(n_layer=n_layer, n_head=n_head, n_embd=n_embd)
            )
            ours = GPT(GPTConfig(n_layer=n_layer, n_head=n_head, n_embd=n_embd))
        shapes = {name.removeprefix("transformer."): w.shape for name, w in theirs.state_dict().items()}
        del shapes["lm_head.weight"]
        flipped = {
            name: shape[::-1] if name.startswith("h.") and len(shape) == 2 else shape
            for name, shape in shapes.items()
        }
        assert flipped == {name: w.shape for name, w in ours.state_dict().items()}


# --- what is refused


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config = {name: value for name, value in (config | changes).items() if value != "gone"}
    (folder / "config.json").write_text(json.dumps(config))


CONFIGS = {
    "another model": ({"model_type": "llama"}, 'model_type is "llama"'),
    "no model": ({"model_type": "gone", "mini_dpo": {}}, "model_type is null"),
    "another activation": ({"activation_function": "relu"}, 'activation_function is "relu"'),
    "another width": ({"n_inner": 32}, "n_inner is 32"),
    "unscaled attention": ({"scale_attn_weights": False}, "scale_attn_weights is false"),
    "scaled by layer": ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is true"),
    "cross attention": ({"add_cross_attention": True}, "add_cross_attention is true"),
    "another epsilon": ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06"),
    "untied": ({"tie_word_embeddings": False}, "tie_word_embeddings is false"),
    "another vocabulary": ({"vocab_size": 50265}, "vocab_size is 50265"),
    "no size": ({"n_layer": "gone"}, "'n_layer'"),
    "a size that is none": ({"n_layer": 2.5}, "n_layer must be a whole number"),
    "more layers": ({"n_layer": 3}, "12 tensors are missing: h.2.ln_1.weight"),
    "many layers": ({"n_layer": 4800}, "config.json has n_layer 4800, and there are 28 tensors in all"),
    "fewer layers": ({"n_layer": 1}, "12 tensors are more than GPT-2 has: h.1."),
    "other channels": ({"n_embd": 32}, "has the shape (667, 16), and needs (667, 32)"),
    "a shorter context": ({"n_positions": 20}, "wpe.weight has the shape (40, 16), and needs (20, 16)"),
}


@pytest.mark.parametrize("changes, message", CONFIGS.values(), ids=CONFIGS)
def test_what_is_not_gpt2_is_one_line_that_names_the_key(toy_folder, tmp_path, changes, message):
    folder = copied(toy_folder[1], tmp_path / "m")
    change_config(folder, **changes)
    refused(folder, message)


def copied(folder, to):
    shutil.copytree(folder, to)
    return to


def refused(folder, message):
    with pytest.raises(UserError) as caught:
        load_model(find_model(folder))
    said = str(caught.value)
    assert message in said and str(folder) in said and "\n" not in said and len(said) < 500, said


def change_weights(folder, change):
    path = folder / "pytorch_model.bin"
    weights = torch.load(path, weights_only=True)
    change(weights)
    torch.save(weights, path)


FIRST = "transformer.h.0.attn.c_attn.weight"


def set_to(name, value):
    return lambda w: w.update({f"transformer.{name}": value})


WEIGHTS = {
    "no numbers": (set_to("ln_f.bias", "text"), "is no tensor with all its numbers"),
    "numbers elsewhere": (
        set_to("ln_f.bias", torch.zeros(16, device="meta")),
        "is no tensor with all its numbers",
    ),
    "sparse": (set_to("ln_f.bias", torch.zeros(16).to_sparse()), "is no tensor with all its numbers"),
    "whole numbers": (set_to("ln_f.bias", torch.zeros(16).long()), "is of the type torch.int64"),
    "complex numbers": (set_to("ln_f.bias", torch.zeros(16) * 1j), "is of the type torch.complex64"),
    "a number without a shape": (set_to("ln_f.bias", torch.tensor(1.0)), "has the shape (), and needs (16,)"),
    "a shape without the memory": (
        set_to("wpe.weight", torch.zeros(1).expand(10**6, 10**6)),
        "has the shape (1000000, 1000000)",
    ),
    "an output matrix that is cut": (
        lambda w: w.update({"lm_head.weight": w["transformer.wte.weight"][:5]}),
        "has the shape (5, 16)",
    ),
    "two output matrices": (
        lambda w: w.update(
            dict.fromkeys(("lm_head.weight", "transformer.lm_head.weight"), w["transformer.wte.weight"])
        ),
        "more than GPT-2 has: lm_head.weight",
    ),
    "a name that is no text": (lambda w: w.update({7: torch.zeros(1)}), "a name in it is no text"),
    "a name of two lines": (lambda w: w.update({"a\nb": torch.zeros(1)}), "more than GPT-2 has: 'a\\nb'"),
    "many digits": (
        lambda w: w.update({"h." + "9" * 5000 + ".x": torch.zeros(1)}),
        "more than GPT-2 has: h.999",
    ),
    "masks without end": (
        lambda w: w.update({f"h.0.{i}.attn.bias": torch.zeros(1) for i in range(3000)}),
        "3000 tensors are more",
    ),
    "one is missing": (lambda w: w.pop(FIRST), "1 tensors are missing: h.0.attn.c_attn.weight"),
    "one is left over": (
        lambda w: w.update(score=torch.zeros(2)),
        "1 tensors are more than GPT-2 has: score",
    ),
    "one stands there twice": (
        lambda w: w.update({FIRST[12:]: w[FIRST]}),
        "more than GPT-2 has: h.0.attn.c_attn",
    ),
    "not transposed": (
        lambda w: w.update({FIRST: w[FIRST].t()}),
        "has the shape (48, 16), and needs (16, 48)",
    ),
    "not finite": (lambda w: w[FIRST].fill_(float("nan")), "not a finite number"),
    "another output matrix": (
        lambda w: w.update({"lm_head.weight": w["transformer.wte.weight"] + 1}),
        "lm_head.weight is not the embedding",
    ),
    "a block without a number": (
        lambda w: w.update({"transformer.h.x.ln_1.weight": torch.ones(2)}),
        "more than GPT-2 has: h.x.ln_1.weight",
    ),
    "no tensor": (lambda w: w.update({"step": 3}), "more than GPT-2 has: step"),
}


@pytest.mark.parametrize("change, message", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_do_not_fit_are_one_line(toy_folder, tmp_path, change, message):
    folder = copied(toy_folder[1], tmp_path / "m")
    change_weights(folder, change)
    refused(folder, message)


def test_pointers_and_damaged_files_are_one_line(toy_folder, tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    content = (toy_folder[1] / "pytorch_model.bin").read_bytes()
    for i, (name, bytes_, message) in enumerate(
        [
            ("pytorch_model.bin", pointer, "a Git LFS pointer"),
            ("config.json", pointer, "a Git LFS pointer"),
            ("pytorch_model.bin", b"PK" + content[:100], "not weights that can be read"),
            ("pytorch_model.bin", content[:5000] + b"\x00\x01" + content[5002:], "damaged"),
            ("pytorch_model.bin", b"", "not weights that can be read"),
            ("config.json", b"[" * 100_000, "nested too deeply"),
            ("config.json", b"[]", "not a JSON object"),
            ("config.json", b"{", "not a JSON object"),
            ("tokenizer.json", b"{}", "not a vocabulary"),
        ]
    ):
        folder = copied(toy_folder[1], tmp_path / str(i))
        (folder / name).write_bytes(bytes_)
        refused(folder, message)


def test_another_vocabulary_is_refused_before_its_ids_are_read_as_other_words(toy_folder, tmp_path):
    folder = copied(toy_folder[1], tmp_path / "m")
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    refused(folder, "another vocabulary than")


def test_what_a_tensor_carries_beside_its_numbers_changes_nothing(toy_folder, tmp_path):
    """An attribute must not stand in for a method: a square matrix would stay on its side."""
    folder = copied(toy_folder[1], tmp_path / "m")
    name = "transformer.h.0.attn.c_proj.weight"
    square = torch.nn.Parameter(torch.randn(16, 16))
    square.dim, square.t, square.to = torch.Size, 3, 4
    change_weights(folder, lambda w: w.update({name: square}))
    model, _ = load_model(folder)
    assert torch.equal(model.h[0].attn.c_proj.weight, torch.Tensor.t(square.detach()))


def test_the_last_tokens_are_markers_only_where_something_says_so(toy_folder, tmp_path):
    """A GPT-2 with tokens of somebody else's has as many rows."""
    folder = copied(toy_folder[1], tmp_path / "swapped")
    content = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(
        content.replace("<|user|>", "<|x|>").replace("<|assistant|>", "<|user|>")
    )
    refused(folder, "another vocabulary than")
    other = copied(toy_folder[1], tmp_path / "lower")
    (other / "tokenizer.json").write_text(
        content.replace('"normalizer": null', '"normalizer": {"type": "Lowercase"}')
    )
    refused(other, "another vocabulary than")


@needs_gpt2
def test_tokens_that_nothing_calls_markers_are_not_read_as_such(tmp_path):
    saved_model(tmp_path / "run", "gpt2")
    export(tmp_path / "run" / "sft.pt", tmp_path / "out", sft=True, as_bin=True)
    change_config(tmp_path / "out", mini_dpo="gone")
    load_model(tmp_path / "out")  # tokenizer.json says it
    (tmp_path / "out" / "tokenizer.json").unlink()
    refused(tmp_path / "out", "its last tokens may be any")


def test_a_folder_that_is_both_a_run_and_a_model_is_not_guessed_at(toy_folder, tmp_path):
    folder = copied(toy_folder[1], tmp_path / "m")
    saved_model(folder)
    refused(folder, "both a run (sft.pt) and a published model")


def test_an_archive_with_something_before_it_is_refused(toy_folder, tmp_path):
    """Python's reader and torch's would not find the same entries in it."""
    folder = copied(toy_folder[1], tmp_path / "m")
    content = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04" + b"\0" * 60 + content)
    refused(folder, "something stands before its first entry")


def test_an_index_names_only_files_of_its_folder(toy_folder, tmp_path):
    folder = copied(toy_folder[1], tmp_path / "m")
    (folder / "pytorch_model.bin").rename(tmp_path / "outside.bin")
    for value in ({"weight_map": {"a": "../outside.bin"}}, {"weight_map": {"a": 3}}, {"weight_map": []}, {}):
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(value))
        refused(folder, "an index of weights")


def test_without_the_package_safetensors_is_one_line_that_says_what_to_install(
    tmp_path, toy_folder, monkeypatch
):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    folder = copied(toy_folder[1], tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"")
    assert load_model(folder), "where pytorch_model.bin is there too, it is read"
    (folder / "pytorch_model.bin").unlink()
    refused(folder, "pip install safetensors")
    with pytest.raises(UserError, match="pip install safetensors; or use --bin"):
        export(tmp_path, tmp_path / "new", sft=False, as_bin=False)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda x: st.lists(x, max_size=2) | st.dictionaries(st.text(max_size=3), x, max_size=2),
        max_leaves=4,
    ),
    st.data(),
)
def test_any_value_of_any_key_is_read_or_refused(toy_folder, tmp_path_factory, value, data):
    folder = copied(toy_folder[1], tmp_path_factory.mktemp("fuzz") / "m")
    keys = [*json.loads((folder / "config.json").read_text()), "n_inner"]
    change_config(folder, **{data.draw(st.sampled_from(keys)): value})
    try:
        load_model(folder)
    except UserError as error:
        assert str(folder) in str(error) and "\n" not in str(error)


# --- out, and in again


@pytest.mark.parametrize("as_bin", [False, True])
@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_model_that_went_out_comes_back_bit_for_bit(tmp_path, name, as_bin):
    if not as_bin:
        safetensors()
    model = saved_model(tmp_path / "run", name)
    export(tmp_path / "run" / "sft.pt", tmp_path / "out", sft=True, as_bin=as_bin)
    payload = read_published(tmp_path / "out")
    assert payload["tokenizer"] == name and payload["stage"] == "sft"
    again, _ = load_model(tmp_path / "out")
    assert again.config == model.config
    for key, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], weight) and again.get_parameter(key).requires_grad


@pytest.mark.parametrize("name", VOCABULARIES)
def test_transformers_gives_the_same_logits_and_the_same_greedy_text(tmp_path, name):
    library, _ = transformers(), safetensors()
    model = saved_model(tmp_path / "run", name)
    export(tmp_path / "run" / "sft.pt", tmp_path / "out", sft=True, as_bin=False)
    theirs = library.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = load_tokenizer(name)
    ids = torch.randint(tokenizer.vocab_size, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, rtol=0, atol=1e-5)
    prompts = ["Good day!", "My kettle bites."]
    encoded = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    greedy = generate(model, encoded, end_of_text=tokenizer.end_of_text, max_new_tokens=12, temperature=0)
    pretrained = library.AutoTokenizer.from_pretrained(tmp_path / "out")
    for prompt, ours in zip(prompts, greedy, strict=True):
        said = pretrained.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
        )
        inputs = pretrained(said, return_tensors="pt")
        out = theirs.generate(**inputs, do_sample=False, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :]
        assert out.tolist() == ours and pretrained.decode(out) == tokenizer.decode(ours)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The tokenizer that transformers makes of each vocabulary's files."""
    library = transformers()
    made = {}

    def of(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            saved_model(folder / "run", name)
            export(folder / "run" / "sft.pt", folder / "out", sft=True, as_bin=True)
            made[name] = library.AutoTokenizer.from_pretrained(folder / "out")
        return made[name]

    return of


any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.lists(
    st.sampled_from(
        [
            "<|user|>",
            "<|endoftext|>",
            "<|system|>",
            " ",
            "\n\n",
            "n't",
            "kettle",
            "Ⓐ",
            "Ⅷ",
            "\u200d",
            "1½",
            "é",
            "e\u0301",
            "\u00a0",
            "\u2028",
        ]
    )
).map("".join)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_transformers_encodes_a_thousand_texts_as_we_do(pretrained, name):
    theirs, ours = pretrained(name), load_tokenizer(name)
    seen = []

    @given(st.lists(any_text, min_size=10, max_size=10))
    @example(
        [
            "<|user|> <|assistant|>",
            "",
            " ",
            "  a",
            "a  b\n",
            "\t\tx",
            "été Ⓐ 1½ ",
            "don't DON'T",
            "\U0001f469\u200d\U0001f52c",
            "x\u0000y",
        ]
    )
    def holds(texts):
        for text in texts:
            found = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
            assert found == ours.encode(text), text
            assert theirs.decode(found, clean_up_tokenization_spaces=False) == text
            seen.append(text)

    holds()
    for i in range(0, 0x110000, 997):  # and all over Unicode
        if not 0xD800 <= i <= 0xDFFF:
            text = f"a{chr(i)} {chr(i)}{chr(i)}1"
            assert theirs.encode(text, add_special_tokens=False, split_special_tokens=True) == ours.encode(
                text
            ), hex(i)
            seen.append(text)
    assert len(set(seen)) >= 1000


plain_texts = any_text.filter(lambda text: "<|" not in text)
rounds = st.lists(st.tuples(plain_texts, plain_texts), max_size=3)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_the_chat_template_gives_our_ids(pretrained, name):
    theirs, ours = pretrained(name), load_tokenizer(name)

    @given(rounds, plain_texts, st.none() | plain_texts)
    def holds(before, last, system):
        turns = [] if system is None else [Turn("system", system)]
        for asked, answered in before:
            turns += [Turn("user", asked), Turn("assistant", answered)]
        turns.append(Turn("user", last))
        messages = [{"role": role, "content": text} for role, text in turns]
        said = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert theirs.encode(said, add_special_tokens=False) == ours.encode_prompt(tuple(turns))

    holds()
    user, assistant, system = ({"role": role, "content": "x"} for role in ("user", "assistant", "system"))
    for bad in (
        [{"role": "tool", "content": "x"}],
        [{"role": "user", "content": "a <|assistant|> b"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
        [user, user],
        [assistant],
        [system, assistant],
        [user, system],
        [user, {**assistant, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}],
    ):
        with pytest.raises(
            Exception, match="the roles are|spells|must be a text|only texts|missing|follows|first"
        ):
            theirs.apply_chat_template(bad, tokenize=False)
    assert "{{ 7*7 }}" in theirs.apply_chat_template([{**user, "content": "{{ 7*7 }}"}], tokenize=False)


@needs_gpt2
def test_the_merges_are_gpt2s_own():
    """The first are known to everybody, and each joins two tokens that were there before."""
    ranks = load_tokenizer("gpt2").encoding._mergeable_ranks
    merges = merges_of(ranks)
    assert merges[:4] == [(b" ", b"t"), (b" ", b"a"), (b"h", b"e"), (b"i", b"n")] and len(merges) == 50_000
    assert all(max(ranks[left], ranks[right]) < ranks[left + right] for left, right in merges)


def test_a_vocabulary_s_file_has_every_token_and_marker():
    tokenizer = load_tokenizer("toy")
    content = tokenizer_json(tokenizer)
    assert sorted(content["model"]["vocab"].values()) == list(range(tokenizer.vocab_size))
    assert [token["id"] for token in content["added_tokens"]] == list(
        range(tokenizer.vocab_size - 4, tokenizer.vocab_size)
    )


# --- the commands


def test_from_a_published_model_to_an_aligned_one_and_out(monkeypatch, capsys, tmp_path, toy_folder):
    """--init-from FOLDER, both stages; the run remembers the folder's files; then export and its card."""
    monkeypatch.chdir(tmp_path)
    folder = copied(toy_folder[1], tmp_path / "base")
    data = preference_file(tmp_path / "mine.jsonl")
    flags = ["--data", data, "--init-from", folder, "--batch-size", 4, *SHORT, "--out", "run"]
    status, said, err = run(monkeypatch, capsys, train, *flags)
    assert status == 0, err
    status, said, err = run(monkeypatch, capsys, export_command, "run", "new/model", "--bin")
    assert status == 0 and "new/model: ready for transformers" in said, err
    card = (tmp_path / "new" / "model" / "README.md").read_text()
    for text in (
        "| begun from | base |",
        "| loss | dpo |",
        "| beta | 0.1 |",
        "KL(policy || reference)",
        "AutoTokenizer",
    ):
        assert text in card, text
    exported, _ = load_model(tmp_path / "new" / "model")
    policy, _ = load_model(tmp_path / "run" / "dpo.pt")
    assert all(torch.equal(a, b) for a, b in zip(exported.parameters(), policy.parameters(), strict=True))
    status, _, err = run(monkeypatch, capsys, export_command, "run", "new/model", "--bin")
    assert status == 2 and "new/model exists" in err
    assert not [path for path in (tmp_path / "new").iterdir() if path.name != "model"], "no draft is left"
    change_config(folder, extra=1)
    (tmp_path / "run" / "summary.json").unlink()
    status, _, err = run(monkeypatch, capsys, train, "--resume", "run")
    assert status == 2 and "config.json has changed since run was begun" in err


def test_the_reference_may_be_a_published_model_and_the_start_is_then_no_sft(
    monkeypatch, capsys, tmp_path, toy_folder
):
    monkeypatch.chdir(tmp_path)
    data = preference_file(tmp_path / "mine.jsonl")
    flags = ["--stage", "dpo", "--data", data, "--init-from", toy_folder[1], "--batch-size", 4, "--steps", 2]
    change = copied(toy_folder[1], tmp_path / "base")
    change_config(change, mini_dpo={"tokenizer": "toy"})
    flags[flags.index(toy_folder[1])] = change
    status, said, err = run(monkeypatch, capsys, train, *flags, "--reference", toy_folder[1], "--out", "run")
    assert status == 0 and "START" in said, err


def test_all_files_of_a_folder_are_hashed(toy_folder):
    found = fingerprints(files_of_model(toy_folder[1]))
    assert set(found) == {str(toy_folder[1] / name) for name in ("config.json", "pytorch_model.bin")}
    content = (toy_folder[1] / "pytorch_model.bin").read_bytes()
    assert found[str(toy_folder[1] / "pytorch_model.bin")] == hashlib.sha256(content).hexdigest()


# --- memory

LOAD = """
import re, sys
from pathlib import Path
import torch
from mini_dpo.saving.checkpoint import load_model
from mini_dpo.tokenizer import load_tokenizer
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
def now():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
load_model(Path(sys.argv[2]))  # what is needed once, whatever the size
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = now()
model, _ = load_model(Path(sys.argv[1]))
print(peak() - before, sum(p.nbytes for p in model.parameters()) // 1024)
"""


@needs_gpt2
@pytest.mark.parametrize("as_bin", [False, True])
def test_loading_takes_little_more_memory_than_the_weights(tmp_path, as_bin):
    """Of a model of 45 million parameters, 180 MB."""
    if not as_bin:
        safetensors()
    saved_model(tmp_path / "run", "gpt2", n_layer=6, n_embd=512, n_head=8)
    export(tmp_path / "run" / "sft.pt", tmp_path / "out", sft=True, as_bin=as_bin)
    saved_model(tmp_path / "small", "gpt2")
    export(tmp_path / "small" / "sft.pt", tmp_path / "warm", sft=True, as_bin=as_bin)
    argv = [sys.executable, "-c", LOAD, str(tmp_path / "out"), str(tmp_path / "warm")]
    done = subprocess.run(argv, capture_output=True, text=True)
    if "clear_refs" in done.stderr:
        pytest.skip("this system does not measure the peak of a process anew")
    peak, weights = map(int, done.stdout.split())
    assert peak > 0.9 * weights, "else nothing was measured"
    assert peak < 1.3 * weights, (peak, weights)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_text_is_split_into_the_same_pieces(vocabulary):
    """With a vocabulary that shows where pieces end (few tokens of the toy's do): it joins the ASCII signs
    below to whatever byte stands beside them in the same piece.
    """
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    tokenizer = load_tokenizer(vocabulary)
    ranks = {bytes([byte]): byte for byte in range(256)}
    for sign in b"a!1 \n'":
        for pair in (pair for byte in range(256) for pair in (bytes([sign, byte]), bytes([byte, sign]))):
            ranks.setdefault(pair, len(ranks))
    theirs = tokenizer_json(tokenizer)
    theirs["model"] |= {"vocab": in_letters(ranks), "merges": in_pairs(merges_of(ranks))}
    theirs = tokenizers.Tokenizer.from_str(json.dumps({**theirs, "added_tokens": []}))
    pattern = tokenizer.encoding._pat_str
    ours = tiktoken.Encoding("pieces", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    signs = [chr(code) for code in [*range(0xD800), *range(0xE000, 0x110000)][::211]]
    signs += "ⅧⒶ²٣‿\u200c\u200d\u0345\x85\x1c\u180e\ufeff"
    for sign in signs:
        for text in (f"a{sign}a !{sign}!", f"1{sign}1 {sign}{sign}\n{sign}", f"{sign} {sign}'"):
            assert theirs.encode(text).ids == ours.encode_ordinary(text), repr(text)


def test_one_number_does_not_stand_for_a_whole_tensor(toy_folder, tmp_path):
    """In a small file of torch it could, and would become gigabytes when it is copied."""
    model, folder = toy_folder
    folder = shutil.copytree(folder, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors"))
    weights = {n: w.t().contiguous() if is_matrix(n) else w for n, w in model.state_dict().items()}
    torch.save(weights, folder / "pytorch_model.bin")
    load_model(folder)
    weights["wte.weight"] = torch.ones(1).expand(weights["wte.weight"].shape)
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="claim more bytes"):
        load_model(folder)


def test_weights_that_share_memory_in_a_file_are_apart_in_the_model(tmp_path):
    model = GPT(GPTConfig(vocab_size=667, context=8, n_layer=1, n_head=1, n_embd=8))
    save_checkpoint(tmp_path / "m.pt", model, "toy")
    saved = torch.load(tmp_path / "m.pt", weights_only=True)
    saved["model"]["h.0.ln_1.weight"] = saved["model"]["h.0.ln_2.weight"]
    torch.save({**saved, "room": torch.zeros(1000)}, tmp_path / "m.pt")
    block = load_model(tmp_path / "m.pt")[0].h[0]
    with torch.no_grad():
        block.ln_1.weight += 1
    assert bool((block.ln_2.weight == 1).all())
