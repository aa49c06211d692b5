"""Inputs that are the same for everybody, and scripts that are spoken to their end."""

from __future__ import annotations

import numpy as np
import pytest

from cosyvoice.benchmark.random_model import geometry
from cosyvoice.benchmark.workload import TEXT, UNGUARDED, ScriptedLLM, Workload
from cosyvoice.errors import ConfigError

CONFIG = geometry("tiny")


def test_inputs_are_the_same_in_every_call():
    one, other = Workload(CONFIG), Workload(CONFIG)
    assert one.llm_input(3).text == other.llm_input(3).text != one.llm_input(4).text
    assert np.array_equal(one.mel(), other.mel())
    assert np.array_equal(one.voice.speech_token, other.voice.speech_token)


def test_sizes_are_those_of_the_table():
    work = Workload(geometry("0.5b"), seconds=10.0)
    assert work.tokens == 250 and work.mel().shape == (500, 80)
    assert len(work.voice.speech_token) == 87 and work.voice.mel.shape == (174, 80)
    inputs = work.llm_input()
    assert 170 <= len(inputs.text) + len(inputs.prompt_text) + len(inputs.prompt_speech_token) <= 200


def test_a_script_repeats_nothing_soon_and_holds_no_silent_token():
    config = CONFIG.model_copy(update={"silent_tokens": (0, 1, 2)})
    script = Workload(config).script(200)
    assert len(script) == 200 and not set(script) & {0, 1, 2}
    assert all(len(set(script[i : i + 40])) == 40 for i in range(160))


def test_an_end_of_prompt_mark_is_given_where_it_is_needed():
    config = CONFIG.model_copy(update={"end_of_prompt_id": 50})
    inputs = Workload(config).llm_input()
    assert inputs.prompt_text[-1] == 50 and max(inputs.text) < 50


def test_too_little_audio_is_refused():
    with pytest.raises(ConfigError, match="no speech token"):
        Workload(CONFIG, seconds=0.01)


def test_the_script_is_said_whatever_the_scores_are(fake):
    work = Workload(CONFIG, seconds=2.0)
    speech = work.scripted(fake.tts).say(TEXT, work.voice, seed=0, guard=UNGUARDED)
    assert fake.flow.calls[0].tokens == work.script(50)
    assert speech.report.pieces[0].tokens == 50 and speech.report.retries == 0


def test_a_scripted_model_computes_every_step(fake):
    stage = ScriptedLLM(fake.llm, [5, 6], stop_id=66)
    state, chosen, token = stage.init_state(None), [], None  # type: ignore[arg-type]
    for _ in range(3):
        scores, state = stage.step(token, state)
        token = int(scores.argmax())
        chosen.append(token)
    stage.release(state)
    assert chosen == [5, 6, 66] and state[0] == [-1, 5, 6] and fake.llm.released == 1
