"""Chat templates of our own for the model families, and which family a tokenizer belongs to.

A template renders a conversation the same way in training, in Transformers and in a serving engine: it puts the
placeholder of each panorama before the text of its turn, makes special tokens that a user typed harmless, and gives
Qwen3's assistant turns the empty thinking block that turns its reasoning off.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from cora.errors import ConfigError

__all__ = ["FAMILIES", "VISION_TOKEN", "ChatFamily", "build_chat_template", "detect_family", "harmless_spellings"]

VISION_TOKEN = "<|vision|>"
NUMBERED = re.compile(r"(<\D+)\d+>$")
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"


@dataclass(frozen=True)
class ChatFamily:
    """How a family of language models marks the turns of a conversation.

    Attributes:
        markers: Tokens that only this family has all of.
        turn_start: What precedes the role.
        turn_text: What stands between role and text.
        turn_end: The token that ends a turn; it is what an assistant learns to stop with.
        turn_gap: What follows it.
        assistant_role: What the assistant is called.
        has_system_turn: Whether there are system turns; if not, the system text opens the first user turn.
        has_bos: Whether a conversation starts with the tokenizer's BOS token.
    """

    markers: tuple[str, ...]
    turn_start: str
    turn_text: str
    turn_end: str
    turn_gap: str
    assistant_role: str = "assistant"
    has_system_turn: bool = True
    has_bos: bool = True


FAMILIES: dict[str, ChatFamily] = {
    "qwen": ChatFamily(("<|im_start|>", "<|im_end|>"), "<|im_start|>", "\n", "<|im_end|>", "\n", has_bos=False),
    "llama": ChatFamily(
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|start_header_id|>",
        "<|end_header_id|>\n\n",
        "<|eot_id|>",
        "",
    ),
    "gemma": ChatFamily(
        ("<start_of_turn>", "<end_of_turn>"),
        "<start_of_turn>",
        "\n",
        "<end_of_turn>",
        "\n",
        assistant_role="model",
        has_system_turn=False,
    ),
}


def detect_family(tokenizer: Any) -> str:
    """Return the family whose turn markers are in the tokenizer's vocabulary.

    Raises:
        ConfigError: No family's markers are, or those of several.
    """
    vocabulary = tokenizer.get_vocab()
    found = [name for name, family in FAMILIES.items() if all(token in vocabulary for token in family.markers)]
    if len(found) == 1:
        return found[0]
    reason = f"it has the turn markers of {' and '.join(found)}" if found else "it has no turn markers that CORA knows"
    wanted = "; ".join(f"{name}: {' '.join(family.markers)}" for name, family in FAMILIES.items())
    raise ConfigError(
        f"cannot tell the chat family of tokenizer '{tokenizer.name_or_path}': {reason} ({wanted}); "
        f"pass family={' | '.join(FAMILIES)}, with a tokenizer that has its markers"
    )


def harmless_spellings(tokenizer: Any, family: ChatFamily) -> list[tuple[str, str]]:
    """Return (special token, spelling that stays plain text) pairs; a space after the first character is enough.

    One pair for ``<|`` covers all tokens of that form, one pair each series of numbered tokens. No spelling contains a
    special token, since none of those contains a space, and so the replacements may be made one after the other.
    """
    specials = {str(token) for token in tokenizer.get_added_vocab().keys() & set(tokenizer.all_special_tokens)}
    specials |= {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    specials |= {*tokenizer.all_special_tokens, *family.markers, "<think>", "</think>", VISION_TOKEN}
    spelled = {token for token in specials if "<|" not in token and len(token) > 1 and " " not in token}
    prefixes = sorted({numbered[1] if (numbered := NUMBERED.match(token)) else token for token in spelled})
    return [("<|", "< |"), *((token, f"{token[0]} {token[1:]}") for token in prefixes)]


@lru_cache(maxsize=1)
def _skeleton() -> str:
    return files("cora.processors").joinpath("templates", "chat.jinja").read_text(encoding="utf-8")


def build_chat_template(tokenizer: Any, family_name: str, system_message: str | None) -> str:
    """Return the Jinja chat template of a family for this tokenizer, with `system_message` as default system text."""
    family = FAMILIES[family_name]
    vocabulary = tokenizer.get_vocab()
    has_thinking = family_name == "qwen" and "<think>" in vocabulary and "</think>" in vocabulary
    settings = {
        "bos": (tokenizer.bos_token or "") if family.has_bos else "",
        "vision": VISION_TOKEN,
        "turn_start": family.turn_start,
        "turn_text": family.turn_text,
        "turn_end": family.turn_end + family.turn_gap,
        "assistant": family.assistant_role,
        "thought": EMPTY_THOUGHT if has_thinking else "",
        "system": system_message or "",
        "has_system_turn": family.has_system_turn,
        "harmless": harmless_spellings(tokenizer, family),
    }
    # JSON of plain values is a Jinja expression; characters beyond the basic plane survive only unescaped.
    lines = [f"{{%- set cora_{name} = {json.dumps(value, ensure_ascii=False)} -%}}" for name, value in settings.items()]
    return "\n".join(lines) + "\n" + _skeleton()
