import numpy as np
import pyarrow.parquet as pq
import pytest

from cosyvoice.errors import ConfigError
from cosyvoice.training import features
from cosyvoice.training.features import KINDS, FeatureStore, TokenStore


def test_features_have_the_rates_that_networks_expect(corpus):
    store = FeatureStore(corpus, KINDS)
    assert len(store) == 16
    for i, utterance in enumerate(store.utterances):
        wave = store.get("wave", i)
        assert wave.dtype == np.int16
        assert len(wave) / 24000 == pytest.approx(utterance.seconds)
        assert store.get("mel", i).shape == (len(wave) // 480, 80)
        assert store.get("f0", i).shape == (len(wave) // 480,)
        assert store.get("whisper", i).shape[1] == 128
        assert store.get("fbank", i).shape[1] == 80
        for kind in ("whisper", "fbank"):
            assert len(store.get(kind, i)) == pytest.approx(100 * utterance.seconds, abs=3)


def test_utterances_carry_what_was_said(corpus):
    utterance = FeatureStore(corpus, ()).utterances[0]
    assert utterance.symbols[-1] == "."
    assert utterance.phones[0] == "pau"
    assert len(utterance.phones) == len(utterance.phone_ends)
    assert utterance.phone_ends[-1] == pytest.approx(utterance.seconds, abs=1e-5)


def test_splits_partition_the_corpus(corpus):
    store = FeatureStore(corpus, ())
    splits = [store.split(name) for name in ("train", "validation", "test")]
    assert sorted(i for split in splits for i in split) == list(range(len(store)))
    speakers = [{store.utterances[i].speaker for i in split} for split in splits]
    assert speakers == [{"ann", "bob"}, {"cleo", "dan"}, {"eve", "fred"}]


def test_features_are_computed_once_and_missing_shards_only(tmp_path, monkeypatch, make_corpus):
    corpus = make_corpus(tmp_path)
    computed = []
    original = features._prepare_shard

    def prepare(shard, target):
        computed.append(shard.stem)
        original(shard, target)

    monkeypatch.setattr(features, "_prepare_shard", prepare)
    first = FeatureStore(corpus, ("mel",))
    assert computed == ["test", "train", "validation"]
    (corpus / "features" / "train.npz").unlink()
    computed.clear()
    second = FeatureStore(corpus, ("mel",))
    assert computed == ["train"]
    assert all(np.array_equal(first.get("mel", i), second.get("mel", i)) for i in range(len(first)))
    assert not list((corpus / "features").glob("*.partial"))


def test_an_empty_folder_is_no_corpus(tmp_path):
    with pytest.raises(ConfigError, match="cosyvoice corpus"):
        FeatureStore(tmp_path, ())


def test_token_store_round_trip(tmp_path):
    store = TokenStore({"a": np.arange(3, dtype=np.int16), "b": np.arange(5, dtype=np.int16)})
    store.save(tmp_path / "tokens.npz")
    loaded = TokenStore.load(tmp_path / "tokens.npz")
    assert loaded["a"].tolist() == [0, 1, 2]
    assert loaded["b"].tolist() == [0, 1, 2, 3, 4]
    assert "a" in loaded and "c" not in loaded
    with pytest.raises(ConfigError, match="train the tokenizer"):
        TokenStore.load(tmp_path / "none.npz")


def test_a_shard_without_rows_adds_nothing(tmp_path, make_corpus):
    corpus = make_corpus(tmp_path)
    table = pq.read_table(corpus / "train.parquet")
    pq.write_table(table.slice(0, 0), corpus / "empty.parquet")
    store = FeatureStore(corpus, KINDS)
    assert len(store) == 16
    for i, utterance in enumerate(store.utterances):
        assert len(store.get("mel", i)) / 50 == pytest.approx(utterance.seconds)
