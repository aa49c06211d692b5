import json

import numpy as np
import pytest

from cosyvoice.errors import ConfigError, MissingDependencyError
from cosyvoice.training.corpus import build, sentences
from cosyvoice.training.corpus.build import build_corpus, make_plan
from cosyvoice.training.corpus.sentences import SentenceMaker
from cosyvoice.training.corpus.synthesisers import BASE_VOICES, Spoken
from cosyvoice.training.features import KINDS, FeatureStore
from cosyvoice.training.settings import CorpusSettings

SMALL = CorpusSettings(
    sentences=400,
    base_sentences=3,
    speakers=5,
    speaker_sentences=4,
    validation_speakers=2,
    test_speakers=2,
    held_out_sentences=2,
    block=3,
)
PITCH = 150.0


@pytest.fixture(autouse=True)
def small_sources(monkeypatch):
    rng = np.random.default_rng(5)
    maker = SentenceMaker()
    pools = [[maker.sentence(rng) for _ in range(300)] for _ in range(2)]
    monkeypatch.setattr(sentences, "fortunes", lambda: pools[0])
    monkeypatch.setattr(sentences, "bible", lambda: pools[1])


class SerialPool:
    """Stands in for a pool of processes."""

    def __init__(self, workers, initializer):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    imap = staticmethod(map)


@pytest.fixture
def fake_synthesisers(monkeypatch):
    """A tone for every sentence; every third one says too little to be kept."""
    spoken = []

    def speak(block, flite, rng):
        pairs = []
        for text in block.texts:
            time = np.arange(9600) / 16000
            wave = sum(np.sin(2 * np.pi * PITCH * k * time) / k for k in range(1, 9))
            phones = ["HH", "AH0", "L", "OW1"][: 2 if len(spoken) % 3 == 2 else 4]
            segments = [("pau", 0.15), *((p, 0.2 + 0.1 * i) for i, p in enumerate(phones)), ("pau", 0.6)]
            spoken.append(text)
            pairs.append((text, Spoken((0.2 * wave).astype(np.float32), 16000, segments, [*phones, "."])))
        return pairs

    class Context:
        Pool = SerialPool

    monkeypatch.setattr(build, "_speak", speak)
    monkeypatch.setattr(build, "_flite", [None])
    monkeypatch.setattr(build, "require_synthesisers", lambda: None)
    monkeypatch.setattr(build.multiprocessing, "get_context", lambda method: Context)
    return spoken


def test_the_plan_is_drawn_from_its_seed():
    assert make_plan(SMALL) == make_plan(SMALL)
    other = SMALL.model_copy(update={"seed": 2})
    assert make_plan(SMALL) != make_plan(other)


def test_the_plan_holds_what_the_settings_ask_for():
    blocks = make_plan(SMALL)
    assert len({block.name for block in blocks}) == len(blocks)
    assert all(len(block.texts) <= SMALL.block for block in blocks)
    spoken: dict[tuple[str, str], int] = {}
    for block in blocks:
        key = (block.speaker.split, block.speaker.name)
        spoken[key] = spoken.get(key, 0) + len(block.texts)
    base = {voice.name: voice.share for voice in BASE_VOICES}
    warped = {key: count for key, count in spoken.items() if key[1] not in base}
    assert {split: sum(k[0] == split for k in warped) for split in ("train", "validation", "test")} == {
        "train": 5,
        "validation": 2,
        "test": 2,
    }
    assert all(count == (4 if split == "train" else 2) for (split, _), count in warped.items())
    assert all(spoken["train", name] == 3 * share and spoken["validation", name] == 2 for name, share in base.items())


def test_no_sentence_is_in_two_splits():
    texts: dict[str, set[str]] = {}
    for block in make_plan(SMALL):
        texts.setdefault(block.speaker.split, set()).update(block.texts)
    assert not texts["train"] & texts["validation"]
    assert not texts["train"] & texts["test"]
    assert not texts["validation"] & texts["test"]


def test_warped_speakers_are_unlike_each_other():
    warps = {block.speaker.name: block.speaker.warp for block in make_plan(SMALL)}
    made = [warp for name, warp in warps.items() if "-" in name]
    assert len({warp.f0 for warp in made}) == len(made) == 9
    assert all(0.9 <= warp.envelope <= 1.13 and 0.92 <= warp.rate <= 1.12 for warp in made)


def test_too_few_sentences_are_refused():
    with pytest.raises(ConfigError, match="ask for more than 4"):
        make_plan(SMALL.model_copy(update={"sentences": 4}))


@pytest.fixture
def tiny():
    return SMALL.model_copy(
        update={"speakers": 1, "base_sentences": 1, "speaker_sentences": 1, "held_out_sentences": 1}
    )


def test_shards_hold_speech_that_features_can_be_made_of(tmp_path, tiny, fake_synthesisers):
    hours = build_corpus(tmp_path, tiny)
    store = FeatureStore(tmp_path, KINDS)
    assert 0 < len(store) < len(fake_synthesisers)
    assert hours == pytest.approx(sum(u.seconds for u in store.utterances) / 3600)
    speakers = json.loads((tmp_path / "speakers.json").read_text())
    for i, utterance in enumerate(store.utterances):
        warp = speakers[utterance.speaker]
        f0 = store.get("f0", i)
        assert len(f0) == len(store.get("mel", i)) == round(utterance.seconds * 50)
        assert np.median(f0[f0 > 0]) == pytest.approx(PITCH * warp["f0"], rel=0.02)
        # The first pause is cut down to the edge that is kept.
        assert utterance.phone_ends[0] == pytest.approx(0.09, abs=0.01)
        assert 0.05 < np.abs(store.get("wave", i)).max() / 32768 < 0.8


def test_a_stopped_build_makes_only_what_is_missing(tmp_path, tiny, fake_synthesisers):
    build_corpus(tmp_path, tiny)
    shards = sorted(tmp_path.glob("*.parquet"))
    contents = [shard.read_bytes() for shard in shards]
    shards[0].unlink()
    fake_synthesisers.clear()
    build_corpus(tmp_path, tiny)
    assert len(fake_synthesisers) == 1
    assert build_corpus(tmp_path, tiny) == 0.0
    assert [shard.read_bytes() for shard in shards[1:]] == contents[1:]
    assert not list(tmp_path.glob("*.partial*"))


def test_a_folder_of_other_settings_is_refused(tmp_path, tiny, fake_synthesisers):
    build_corpus(tmp_path, tiny)
    with pytest.raises(ConfigError, match="other settings"):
        build_corpus(tmp_path, tiny.model_copy(update={"seed": 7}))


def test_missing_synthesisers_show_before_any_worker_starts(tmp_path, tiny, monkeypatch):
    def missing():
        raise MissingDependencyError("apt-get install flite")

    monkeypatch.setattr(build, "require_synthesisers", missing)
    with pytest.raises(MissingDependencyError, match="flite"):
        build_corpus(tmp_path, tiny)
