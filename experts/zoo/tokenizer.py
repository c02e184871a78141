"""The family's tokenizer: byte-level BPE over the synthetic text, single digits, and a ChatML template with tools."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from experts.zoo.tasks.base import Task, assistant
from experts.zoo.tasks.catalog import DOMAINS, draw
from experts.zoo.tasks.phrases import PHRASES
from experts.zoo.tasks.words import VALUES

VOCABULARY = 2048
CONTEXT = 2048
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CALL_MARKS = ("<tool_call>", "</tool_call>")

# A word may carry the space before it; digits never do, so a number is the same tokens wherever it stands.
_MARKS = re.compile(r"<\|\w+\|>|</?tool_call>")
_PIECES = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\n+|\s+(?=\S)|\s+"

TEMPLATE = """\
{%- set first = messages[0] if messages else none -%}
{%- set instructed = first is not none and first.role == 'system' -%}
{%- if instructed or tools -%}
<|im_start|>system
{{ first.content if instructed else '' }}
{%- if tools -%}
{{ '\\nTools:' if instructed else 'Tools:' }}
{%- for tool in tools -%}
{%- set function = tool.function if tool.function is defined else tool -%}
{%- set properties = (function.parameters or {}).get('properties', {}) -%}
{{ '\\n' + function.name + '(' }}
{%- for name, schema in properties.items() -%}
{{ name + ':' + (schema.type if schema.type is string else 'string') }}{{ ',' if not loop.last else '' }}
{%- endfor -%}
{{ ') - ' + (function.description or '') }}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endif -%}
{%- for message in messages -%}
{%- if not (loop.first and instructed) -%}
<|im_start|>{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] -%}
{%- set function = call.function if call.function is defined else call -%}
{%- set arguments = function.arguments -%}
{{ '\\n' if message.content or not loop.first else '' }}<tool_call>
{"name": {{ function.name | tojson }}, "arguments": {{ arguments if arguments is string else arguments | tojson }}}
</tool_call>
{%- endfor -%}
<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def train_tokenizer(seed: int, *, rounds: int = 3000) -> PreTrainedTokenizerFast:
    """Train the vocabulary on ``rounds`` conversations of each domain from the training split."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(CALL_MARKS),
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_corpus(Random(seed), rounds), trainer)
    # Not special: a decoder that skips special tokens must still hand the marks to the tool-call parser.
    core.add_tokens([AddedToken(mark, normalized=False, special=False) for mark in CALL_MARKS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=END, pad_token=PAD, bos_token=None, model_max_length=CONTEXT
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.padding_side = "left"
    return tokenizer


def load_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a checkpoint."""
    return PreTrainedTokenizerFast.from_pretrained(directory, padding_side="left")


def render(tokenizer: PreTrainedTokenizerFast, task: Task, *, answered: bool = False) -> str:
    """Write a task as the template does: up to the assistant's turn, or with the reference answer in it."""
    messages: Sequence[Any] = [*task.messages, assistant(task.answer)] if answered else task.messages
    text: str = tokenizer.apply_chat_template(
        list(messages), tools=list(task.tools) or None, tokenize=False, add_generation_prompt=not answered
    )
    return text


def _corpus(rng: Random, rounds: int) -> Iterator[str]:
    """Yield what the models will read, and every listed word with and without a space: both become one token."""
    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    plain.chat_template = TEMPLATE
    words = [*VALUES, *(word for phrases in PHRASES.values() for word in phrases.words())]
    listed = "\n".join(f' {word} "{word}"' for word in words)
    for _ in range(rounds):
        for domain in DOMAINS:
            # The trainer would merge letters of the marks with their neighbours.
            yield from _MARKS.split(render(plain, draw(domain, rng, "train"), answered=True))
    for _ in range(rounds // 4):
        yield listed
