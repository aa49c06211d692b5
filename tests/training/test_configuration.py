from importlib import resources

import pytest

from cosyvoice.errors import ConfigError
from cosyvoice.training.configuration import SETTINGS, STAGES, differences, load_settings, sizes
from cosyvoice.training.settings import CorpusSettings, LLMSettings


@pytest.mark.parametrize("size", ["mini", "test"])
def test_every_stage_of_every_size_is_valid_and_sizes_of_networks_fit(size):
    settings = load_settings(size, list(SETTINGS))
    assert [type(settings[group]) for group in SETTINGS] == list(SETTINGS.values())
    tokenizer, llm, flow = settings["tokenizer"].model, settings["llm"].model, settings["flow"].model
    assert tokenizer.fsq_levels**tokenizer.fsq_channels == llm.speech_token_size == flow.vocab_size
    assert settings["speaker"].model.embedding_dim == flow.speaker_embedding_dim
    assert llm.speech_extra_tokens >= 4
    assert settings["llm"].guide_layer < llm.qwen.num_layers


def test_sizes_are_packaged_with_a_file_for_every_group():
    assert set(sizes()) == {"mini", "test"}
    for group in SETTINGS:
        names = {file.name for file in (resources.files("cosyvoice.conf") / group).iterdir()}
        assert {"mini.yaml", "test.yaml"} <= names


def test_mini_is_the_corpus_default():
    assert load_settings("mini", ["corpus"])["corpus"] == CorpusSettings()


def test_override_with_stage_changes_that_stage_only():
    settings = load_settings("test", STAGES, ["llm.loop.steps=7"])
    assert settings["llm"].loop.steps == 7
    assert settings["flow"].loop.steps == 20


def test_override_without_stage_changes_every_stage_asked_for():
    settings = load_settings("test", ["llm", "flow"], ["loop.rate=1e-4"])
    assert settings["llm"].loop.rate == settings["flow"].loop.rate == 1e-4


def test_override_reaches_fields_that_the_files_do_not_list():
    settings = load_settings("mini", ["llm"], ["model.qwen.rope_theta=10000", "model.mix_ratio=[3,9]"])
    assert isinstance(settings["llm"], LLMSettings)
    assert settings["llm"].model.qwen.rope_theta == 10000
    assert settings["llm"].model.mix_ratio == (3, 9)


def test_a_group_may_come_from_another_size():
    assert load_settings("mini", ["llm"], ["llm=test"]) == load_settings("test", ["llm"])


def test_a_deleted_override_falls_back_to_the_default():
    assert load_settings("mini", ["speaker"], ["~loop.steps"])["speaker"].loop.steps == 1000


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loop.rte=1", "unknown key 'loop.rte'; did you mean 'rate'"),
        ("model.qwen.hiden_size=3", "did you mean 'hidden_size'"),
        ("lop.rate=1", "did you mean 'loop'"),
        ("loop.rate=-1", "loop.rate: Input should be greater than 0"),
        ("loop.rate=fast", "loop.rate: Input should be a valid number"),
        ("foo", "write KEY=VALUE"),
        ("=3", "write KEY=VALUE"),
        ("loop.rate=[1", "write KEY=VALUE"),
        ("flow.loop.steps=1", "the stage flow takes no part in this run"),
        ("llm=huge", "llm/huge"),
        ("~llm", "no settings of llm"),
        ("loop=3", "loop: "),
    ],
)
def test_bad_overrides_name_cause_and_cure(override, message):
    with pytest.raises(ConfigError) as error:
        load_settings("mini", ["llm"], [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_size_and_stage_are_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="choose one of mini, test"):
        load_settings("huge", ["llm"])
    with pytest.raises(ConfigError, match="choose one of corpus, tokenizer"):
        load_settings("mini", ["lm"])


def test_differences_are_dotted_keys_with_both_values():
    old, new = (load_settings("test", ["llm"], [f"model.qwen.num_layers={n}"])["llm"] for n in (2, 3))
    assert differences(old, new) == {"model.qwen.num_layers": (2, 3)}
    assert differences(old, old) == {}
