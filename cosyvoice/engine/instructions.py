"""Instructions on how to speak: the form that the models were trained on, and what the released V3 model knows.

The released models read an instruction before an end-of-prompt mark; V3 expects a fixed sentence before it. What lies
outside the list that the release names is often spoken instead of followed, so callers are told. The list is that of
the public source of the release (`cosyvoice/utils/common.py`, `instruct_list`).
"""

from __future__ import annotations

END_OF_PROMPT = "<|endofprompt|>"
DEFAULT_INSTRUCTION = "You are a helpful assistant."
"""What the released V3 models were trained to read before the end-of-prompt mark."""

_DIALECTS = (
    "广东", "东北", "甘肃", "贵州", "河南", "湖北", "湖南", "江西", "闽南",
    "宁夏", "山西", "陕西", "山东", "上海", "四川", "天津", "云南",
)  # fmt: skip

KNOWN_INSTRUCTIONS = (
    *(f"请用{dialect}话表达。" for dialect in _DIALECTS),
    "Please say a sentence as loudly as possible.",
    "Please say a sentence in a very soft voice.",
    "请用尽可能慢地语速说一句话。",
    "请用尽可能快地语速说一句话。",
    "请非常开心地说一句话。",
    "请非常伤心地说一句话。",
    "请非常生气地说一句话。",
    "我想体验一下小猪佩奇风格，可以吗？",
    "你可以尝试用机器人的方式解答吗？",
)
"""What the released V3 model can be told: dialects, loudness, pace, moods and two characters."""


def complete_instruction(instruct: str, opening: str = "") -> str:
    """`instruct` with the end-of-prompt mark, behind `opening`; one that has the mark stays as it is."""
    if END_OF_PROMPT in instruct:
        return instruct
    instruct = instruct.strip()
    if opening and not instruct.startswith(opening):
        instruct = f"{opening} {instruct}"
    return instruct + END_OF_PROMPT


def is_known(instruct: str) -> bool:
    """Whether the release names the instruction, with or without the words around it."""
    core = instruct.partition(END_OF_PROMPT)[0].removeprefix(DEFAULT_INSTRUCTION).strip()
    return core in KNOWN_INSTRUCTIONS
