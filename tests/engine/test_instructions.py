import pytest

from cosyvoice.engine.instructions import DEFAULT_INSTRUCTION, KNOWN_INSTRUCTIONS, complete_instruction, is_known


def test_the_list_of_the_release_is_whole():
    assert len(KNOWN_INSTRUCTIONS) == len(set(KNOWN_INSTRUCTIONS)) == 26
    assert "请用广东话表达。" in KNOWN_INSTRUCTIONS


@pytest.mark.parametrize("instruct", KNOWN_INSTRUCTIONS)
def test_an_instruction_is_known_in_every_form(instruct):
    assert is_known(instruct)
    assert is_known(complete_instruction(instruct, DEFAULT_INSTRUCTION))


def test_others_are_not_known():
    assert not is_known("Speak like a pirate.")
    assert not is_known("")


def test_an_instruction_is_completed_once():
    assert complete_instruction(" Softly. ") == "Softly.<|endofprompt|>"
    completed = complete_instruction("Softly.", DEFAULT_INSTRUCTION)
    assert completed == "You are a helpful assistant. Softly.<|endofprompt|>"
    assert complete_instruction(completed, DEFAULT_INSTRUCTION) == completed
    assert complete_instruction("You are a helpful assistant. Softly.", DEFAULT_INSTRUCTION) == completed
    assert complete_instruction("Softly.<|endofprompt|>", DEFAULT_INSTRUCTION) == "Softly.<|endofprompt|>"
