"""Makes the checkpoints of this folder and what transformers computes with them.

    pip install torch transformers tokenizers safetensors
    python make.py

Made with transformers 5.23.0, torch 2.15.0 and tokenizers as that version pins it. Each folder is a small random model of one
architecture, saved by transformers in BF16, with golden.json: token ids, the logits after the last of them (float32, eager
attention, the BF16 weights), and the tokenizer's ids of a few texts.
"""
import json, os, shutil
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, LlamaConfig,
                          MistralConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config, SiglipVisionConfig)

TEXT = ["All happy families are alike; every unhappy family is unhappy in its own way.",
        "The theatre's 1999 programme wasn't cheap: it'd cost 12345 roubles, they'll say, and we've paid.",
        "def main():\n    print('hello')\n\n\n    return  0\n", "naïve café — 東京 \t tab\r\n end  "] * 4
PROBES = TEXT[:4] + ["", " ", "   x", "<s>hi</s>", "a<|end|>b <|end|>", "\U0001F600 ok", "\n\n\n", "IT'S they'LL 7 77 777 7777"]

SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL
QWEN2 = SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL


def byte_level(pre, bos=None, ignore_merges=False, nfc=False):
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    t.pre_tokenizer, t.decoder = pre, decoders.ByteLevel()
    if nfc:
        t.normalizer = normalizers.NFC()
    t.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    t.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    t.add_tokens([AddedToken("<|end|>", special=False), AddedToken("<tool>", special=False)])
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    if bos:
        t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
            single=bos + " $A", pair=bos + " $A " + bos + ":1 $B:1", special_tokens=[(bos, t.token_to_id(bos))])])
    return t


def split(expr):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(expr), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def pieces(prefix):
    """A vocabulary like one converted from sentencepiece: every pair of pieces that makes a piece is a merge, best piece first."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=110, show_progress=False))
    vocab = {s: i for i, s in enumerate(["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)])}
    for s in sorted(trained.get_vocab(), key=trained.get_vocab().get):
        vocab.setdefault(s, len(vocab))
    merges = []
    for joint in vocab:
        pairs = [(joint[:i], joint[i:]) for i in range(1, len(joint)) if joint[:i] in vocab and joint[i:] in vocab]
        merges += sorted(pairs, key=lambda p: (vocab[p[0]], vocab[p[1]]))
    t = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence(([normalizers.Prepend("▁")] if prefix else []) + [normalizers.Replace(" ", "▁")])
    if not prefix:
        t.normalizer = normalizers.Replace(" ", "▁")
        t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    t.add_special_tokens(["<unk>", "<s>", "</s>"])
    if not prefix:  # like Gemma's runs of blanks
        t.add_tokens([AddedToken("▁▁▁", special=False, normalized=True)])
    t.add_tokens([AddedToken("<|end|>", special=True)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    return t


def make(name, config, tok, cls=None, **special):
    shutil.rmtree(name, ignore_errors=True)
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="</s>", **special)
    fast.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<|end|>' }}{% endfor %}"
    text = getattr(config, "text_config", config)
    text.vocab_size = len(fast)
    torch.manual_seed(sum(name.encode()))
    model = cls(config) if cls else AutoModelForCausalLM.from_config(config)
    one_plus = "gemma3" in name
    for n, p in model.named_parameters():
        if "norm" in n and p.dim() == 1:
            p.data.normal_(0 if one_plus else 1, 0.2)
        else:
            p.data.normal_(0, 1 if "embed_tokens" in n and not one_plus else 0.2)
    model = model.to(torch.bfloat16)
    model.generation_config.eos_token_id = [tok.token_to_id("</s>"), tok.token_to_id("<|end|>")]
    model.generation_config.bos_token_id = None
    model.save_pretrained(name)
    fast.save_pretrained(name)
    # As transformers itself loads what it saved.
    model = type(model).from_pretrained(name, dtype=torch.float32, attn_implementation="eager")
    ids = [1 + 7 * i * i % 290 for i in range(40)]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1].tolist()
    texts = [{"text": s, "ids": tok.encode(s).ids} for s in PROBES]
    with open(name + "/golden.json", "w") as f:
        json.dump({"ids": ids, "logits": [float("%.7g" % x) for x in logits], "texts": texts}, f, ensure_ascii=False)


small = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
             bos_token_id=None, eos_token_id=None, pad_token_id=None)
gemma = dict(small, num_hidden_layers=7, head_dim=16, query_pre_attn_scalar=16, sliding_window=16)
gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
scaled = lambda **kw: dict(rope_theta=10000.0, **kw)

make("llama", LlamaConfig(**small, rope_parameters=scaled(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)),
     byte_level(split(LLAMA3), bos="<s>", ignore_merges=True), bos_token="<s>")
make("llama-linear", LlamaConfig(**small, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, rope_parameters=scaled(rope_type="linear", factor=4.0)),
     byte_level(digits), bos_token="<s>")
make("mistral", MistralConfig(**dict(small, head_dim=16), sliding_window=64), pieces(prefix=True), bos_token="<s>", unk_token="<unk>")
make("qwen2", Qwen2Config(**small, tie_word_embeddings=True, rope_parameters=scaled(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)),
     byte_level(split(QWEN2), nfc=True))
make("qwen3", Qwen3Config(**small, head_dim=24), byte_level(gpt2))
make("gemma3", Gemma3TextConfig(**gemma), pieces(prefix=False), bos_token="<s>", unk_token="<unk>")
make("gemma3-vision", Gemma3Config(text_config=Gemma3TextConfig(**dict(gemma, rope_parameters={
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}, "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}})),
    vision_config=SiglipVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4),
    mm_tokens_per_image=1, boi_token_index=1, eoi_token_index=2, image_token_index=3), pieces(prefix=False), cls=Gemma3ForConditionalGeneration,
    bos_token="<s>", unk_token="<unk>")
