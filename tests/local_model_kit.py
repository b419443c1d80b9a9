"""A tiny random language model with a tokenizer of its own, in a folder as any model is, and questions to it."""

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from clusterllm_oracles.transformers import TransformersOracle
from clusterllm_plugins.prompts import render
from clusterllm_plugins.questions import OracleError, choice_question, pair_question, triplet_question

THINGS = ("the kettle", "my lamp", "客厅的灯")
TEXTS = [f"{thing} {what}" for thing in THINGS for what in ("leaks", "is dark", "!")]
TRIPLETS = [triplet_question(TEXTS, *places) for places in [(0, 1, 3), (3, 4, 5), (6, 7, 8), (2, 8, 4), (5, 0, 7)]]
TRIPLET = TRIPLETS[0]
NONE_OF_THREE = choice_question(TEXTS, 8, [[1, 2, 3], [4, 5], [6, 7]], none=True)
ONE_OF_ELEVEN = choice_question(TEXTS * 2, 0, [[place] for place in range(1, 12)], none=True)
LONGER = triplet_question(TEXTS, 6, 5, 2, "in terms of what is broken, and of nothing else at all")
QUESTIONS = [TRIPLET, pair_question(TEXTS, 0, 8), NONE_OF_THREE, ONE_OF_ELEVEN, LONGER]

START = "<|start|>"  # which the tokenizer puts before a text by itself, and a chat template before a chat
MARKS = ("<|end|>", START, "<|system|>", "<|user|>", "<|assistant|>")
CHAT = (
    "{{ '<|start|><|system|>Be brief.<|end|>\n' }}"
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>\n{% endfor %}"
)


def chat_start(question):
    """Return what stands before the answer by that template."""
    return f"{START}<|system|>Be brief.<|end|>\n<|user|>{render(question)}<|end|>\n<|assistant|>"


def save_tokenizer(folder, template):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=list(MARKS), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["the text that the query belongs with", "yes and yes, 1 and 2"], trainer)
    start = [(START, tokenizer.token_to_id(START))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=start)
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=MARKS[0])
    wrapped.chat_template = template
    wrapped.save_pretrained(folder)
    return len(tokenizer.get_vocab())


def save_model(folder, *, template=CHAT, kind="llama", seed=0, longest=4096):
    """Write a model with weights large enough that its answers differ."""
    size = save_tokenizer(folder, template)
    torch.manual_seed(seed)
    shared = {"vocab_size": size, "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": 0}
    if kind == "llama":
        config = transformers.LlamaConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=longest,
            **shared,
        )
        model = transformers.LlamaForCausalLM(config)
    else:
        config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=longest, **shared)
        model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(folder)
    return folder


def local(folder, **settings):
    return TransformersOracle(folder, **{"precision": "fp32", "device": "cpu", **settings})


def failure(call):
    """Return the error of a call, which must be of one line."""
    with pytest.raises(OracleError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return caught.value
