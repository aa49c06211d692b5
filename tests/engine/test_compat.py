import pytest

from cosyvoice.config.model import LLMConfig, MelConfig, ModelConfig, TransformerLMConfig
from cosyvoice.engine.compat import apply_compat, check_compat
from cosyvoice.errors import ConfigError


def test_lengths_are_enforced_unless_the_release_is_asked_for():
    config = ModelConfig(llm=LLMConfig(enforce_min_len=False, released_stream_end=True))
    corrected = apply_compat(config, "corrected")
    assert corrected.llm.enforce_min_len
    assert not corrected.llm.released_stream_end
    released = apply_compat(config, "released")
    assert not released.llm.enforce_min_len
    assert released.llm.released_stream_end


def test_the_reference_has_the_rate_of_the_mel_unless_the_release_is_asked_for():
    config = ModelConfig(generation="v1", llm=TransformerLMConfig(), mel=MelConfig(sample_rate=22050))
    assert apply_compat(config, "corrected").prompt_mel_rate == 22050
    assert apply_compat(config, "released").prompt_mel_rate == 24000


def test_other_words_are_refused():
    with pytest.raises(ConfigError, match="'corrected' or 'released'"):
        check_compat("upstream")
