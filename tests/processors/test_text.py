from __future__ import annotations

import logging
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.exceptions import TemplateError
from tiny_models import LANGUAGE_FAMILIES, SPECIAL_TOKENS, make_tokenizer

from cora.errors import ConfigError
from cora.processors.text import IGNORE_INDEX, VISION_TOKEN, UniversalTextFormatter, add_vision_token


def make_formatter(family: str, *, thinking: bool = False, system: str | None = "Be brief.") -> UniversalTextFormatter:
    tokenizer = make_tokenizer(family, thinking=thinking)
    add_vision_token(tokenizer)
    return UniversalTextFormatter(tokenizer, system_message=system)


FORMATTERS = {family: make_formatter(family) for family in LANGUAGE_FAMILIES}

QWEN = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|vision|>\nWhat?<|im_end|>\n<|im_start|>assistant\n"
LLAMA = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n<|vision|>\nWhat?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
GEMMA = "<bos><start_of_turn>user\nBe brief.\n\n<|vision|>\nWhat?<end_of_turn>\n<start_of_turn>model\n"


@pytest.mark.parametrize(("family", "expected"), [("qwen", QWEN), ("llama", LLAMA), ("gemma", GEMMA)])
def test_prompt_of_each_family(family: str, expected: str) -> None:
    assert FORMATTERS[family].prompt(" What?\n") == expected


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("qwen", "<|im_start|>user\n<|vision|>\nWhat?<|im_end|>\n<|im_start|>assistant\n"),
        ("gemma", "<bos><start_of_turn>user\n<|vision|>\nWhat?<end_of_turn>\n<start_of_turn>model\n"),
    ],
)
def test_no_system_message_leaves_no_trace(family: str, expected: str) -> None:
    assert make_formatter(family, system=None).prompt("What?") == expected


@pytest.mark.parametrize("family", LANGUAGE_FAMILIES)
@pytest.mark.parametrize("query", ["", " What?\n", "<|im_end|> <eos> \ue000 {{ x }}", "<|vision|>\nTwo\n\nlines "])
@pytest.mark.parametrize("has_panorama", [True, False])
def test_prompt_is_what_the_template_renders(family: str, query: str, has_panorama: bool) -> None:
    formatter = FORMATTERS[family]
    rendered = formatter._render(query, has_panorama=has_panorama)
    assert formatter.prompt(query, has_panorama=has_panorama) == rendered
    other = UniversalTextFormatter(formatter.tokenizer, chat_template="{{ messages[0]['content'][-1]['text'] }}!")
    assert other.prompt(query) == query + "!"


def test_thinking_block_follows_the_vocabulary_in_training_and_generation() -> None:
    thinking = make_formatter("qwen", thinking=True)
    assert thinking.prompt("What?") == QWEN + "<think>\n\n</think>\n\n"
    assert thinking.conversation("What?", "Red.") == QWEN + "<think>\n\n</think>\n\nRed.<|im_end|>"
    assert "<think>" not in FORMATTERS["qwen"].conversation("What?", "Red.")


@pytest.mark.parametrize("family", LANGUAGE_FAMILIES)
def test_training_ids_are_the_prompt_then_the_answer_and_only_the_answer_is_predicted(family: str) -> None:
    formatter = FORMATTERS[family]
    token_ids, labels = formatter.encode_training("What?", " red cone\n")
    prompt_ids = formatter.prompt_ids("What?")
    assert token_ids[: len(prompt_ids)] == prompt_ids
    assert len(labels) == len(token_ids)
    assert set(labels[: len(prompt_ids)]) == {IGNORE_INDEX}
    predicted = labels[len(prompt_ids) :]
    assert predicted == token_ids[len(prompt_ids) :]
    assert predicted[-1] == formatter.end_of_turn_id
    assert formatter.tokenizer.decode(predicted[:-1]) == "red cone"
    assert formatter.tokenizer.decode(token_ids) == formatter.conversation("What?", "red cone")
    assert token_ids.count(add_vision_token(formatter.tokenizer)) == 1


def special_counts(formatter: UniversalTextFormatter, text: str) -> dict[int, int]:
    specials = set(formatter.tokenizer.all_special_ids) | {
        number for number, token in formatter.tokenizer.added_tokens_decoder.items() if token.special
    }
    ids = formatter.tokenizer(text, add_special_tokens=False).input_ids
    return {number: ids.count(number) for number in specials if number in ids}


TYPED = st.lists(
    st.sampled_from(
        [
            *chain.from_iterable(SPECIAL_TOKENS.values()),
            VISION_TOKEN,
            "<|",
            "|>",
            "<",
            ">",
            " ",
            "think",
            "\n",
            "im_end",
        ]
    ),
    max_size=8,
).map("".join)


@settings(max_examples=60, deadline=None)
@given(query=TYPED, answer=TYPED, family=st.sampled_from(LANGUAGE_FAMILIES))
def test_nothing_typed_becomes_a_special_token(query: str, answer: str, family: str) -> None:
    formatter = FORMATTERS[family]
    harmless = special_counts(formatter, formatter.conversation("What?", "Red."))
    assert special_counts(formatter, formatter.conversation(query, answer)) == harmless
    assert formatter.encode_training(query, answer)[1].count(formatter.end_of_turn_id) == 1


def test_thinking_tokens_typed_by_a_user_stay_text() -> None:
    formatter = make_formatter("qwen", thinking=True)
    think = formatter.tokenizer.convert_tokens_to_ids("<think>")
    assert formatter.prompt_ids("<think> hi </think>").count(think) == 1
    assert "< think> hi < /think>" in formatter.prompt("<think> hi </think>")


def test_system_message_is_text_whatever_it_contains() -> None:
    message = 'Say {{ x }} {% raw %} #} "ü" \\n 😀 <|im_end|>'
    prompt = make_formatter("qwen", system=message).prompt("What?")
    assert prompt.startswith('<|im_start|>system\nSay {{ x }} {% raw %} #} "ü" \\n 😀 < |im_end|><|im_end|>\n')


@pytest.mark.parametrize("family", LANGUAGE_FAMILIES)
@pytest.mark.parametrize("part", [{"type": "image"}, {"type": "image_url", "image_url": {"url": "data:..."}}])
def test_template_takes_parts_in_any_order(family: str, part: dict[str, object]) -> None:
    formatter = FORMATTERS[family]
    messages = [{"role": "user", "content": [{"type": "text", "text": "What?"}, part]}]
    rendered = formatter.tokenizer.apply_chat_template(
        messages, chat_template=formatter.chat_template, add_generation_prompt=True, tokenize=False
    )
    assert rendered == formatter.prompt("What?")


def render(formatter: UniversalTextFormatter, messages: list[dict[str, object]]) -> str:
    text: str = formatter.tokenizer.apply_chat_template(messages, chat_template=formatter.chat_template, tokenize=False)
    return text


def test_system_turn_of_a_conversation_replaces_the_default() -> None:
    messages: list[dict[str, object]] = [
        {"role": "system", "content": "Sing."},
        {"role": "user", "content": "What?"},
        {"role": "assistant", "content": "Red."},
    ]
    assert render(FORMATTERS["qwen"], messages) == (
        "<|im_start|>system\nSing.<|im_end|>\n<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nRed.<|im_end|>\n"
    )
    assert render(FORMATTERS["gemma"], messages) == (
        "<bos><start_of_turn>user\nSing.\n\nWhat?<end_of_turn>\n<start_of_turn>model\nRed.<end_of_turn>\n"
    )


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({"role": "tool", "content": "x"}, "unknown role 'tool'"),
        ({"role": "user", "content": [{"type": "video"}]}, "unknown part 'video'"),
    ],
)
def test_template_refuses_what_it_does_not_know(message: dict[str, object], complaint: str) -> None:
    with pytest.raises(TemplateError, match=complaint):
        render(FORMATTERS["qwen"], [message])


def test_family_comes_from_the_vocabulary_not_the_name() -> None:
    tokenizer = make_tokenizer("qwen")
    tokenizer.name_or_path = "meta-llama/Llama-3"
    add_vision_token(tokenizer)
    assert UniversalTextFormatter(tokenizer).family == "qwen"


def test_tokenizer_of_no_known_family_is_refused() -> None:
    tokenizer = make_tokenizer("none")
    add_vision_token(tokenizer)
    with pytest.raises(ConfigError, match=r"pass family=qwen \| llama \| gemma"):
        UniversalTextFormatter(tokenizer)
    with pytest.raises(ConfigError, match=r"no token <\|im_start\|>; chat family 'qwen'"):
        UniversalTextFormatter(tokenizer, family="qwen")


def test_unknown_family_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'llama'"):
        UniversalTextFormatter(make_tokenizer("qwen"), family="lama")  # type: ignore[arg-type]


def test_missing_placeholder_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no token <\|vision\|>"):
        UniversalTextFormatter(make_tokenizer("qwen"))


def test_family_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = make_tokenizer("gemma")
    tokenizer.name_or_path = "logged/once"
    add_vision_token(tokenizer)
    with caplog.at_level(logging.INFO, logger="cora.processors.text"):
        UniversalTextFormatter(tokenizer)
        UniversalTextFormatter(tokenizer)
    assert [record.getMessage() for record in caplog.records] == ["tokenizer logged/once: chat family gemma"]


def test_answers_stop_at_the_end_of_turn_and_of_text() -> None:
    formatter = FORMATTERS["llama"]
    names = formatter.tokenizer.convert_ids_to_tokens(formatter.stop_token_ids)
    assert set(names) == {"<|eot_id|>", "<|end_of_text|>"}
