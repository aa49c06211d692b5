import numpy as np
import pytest
import torch

from cosyvoice.config.model import SpeechTokenizerConfig
from cosyvoice.speech_tokenizer.model import SpeechTokenizer
from cosyvoice.training.features import Utterance
from cosyvoice.training.llm import recognise_tokens, spoken_positions


def utterance(symbols: str, phones: str, ends: list[float]) -> Utterance:
    return Utterance("u", "train", "s", "v", "", tuple(symbols.split()), tuple(phones.split()), tuple(ends), ends[-1])


def test_speech_tokens_belong_to_the_phone_in_their_middle():
    said = utterance("HH AH0 _ W ER1 .", "HH AH0 W ER1", [0.08, 0.13, 0.20, 0.32])
    # Middles of the tokens: 0.02, 0.06 | 0.10 | 0.14, 0.18 | 0.22, 0.26, 0.30
    assert spoken_positions(said, 8).tolist() == [0, 0, 1, 3, 3, 4, 4, 4]


def test_pauses_belong_to_the_boundary_where_they_are_heard():
    said = utterance("HH AH0 , W ER1 .", "pau HH AH0 pau W ER1 pau", [0.04, 0.08, 0.12, 0.16, 0.20, 0.24, 0.32])
    assert spoken_positions(said, 8).tolist() == [0, 0, 1, 2, 3, 4, 5, 5]


def test_tokens_behind_the_last_phone_stay_at_the_end():
    said = utterance("HH AH0 .", "HH AH0", [0.04, 0.08])
    assert spoken_positions(said, 5).tolist() == [0, 1, 1, 1, 1]


def test_positions_rise_through_a_whole_corpus_and_reach_its_symbols(corpus):
    from cosyvoice.training.features import FeatureStore

    for said in FeatureStore(corpus, ()).utterances:
        positions = spoken_positions(said, int(said.seconds / 0.04))
        assert (np.diff(positions) >= 0).all()
        spoken = {i for i, symbol in enumerate(said.symbols) if symbol in said.phones}
        assert spoken <= set(positions.tolist())


def test_the_recogniser_reads_tokens_as_it_reads_their_speech():
    config = SpeechTokenizerConfig(channels=16, encoder_blocks=1, decoder_blocks=1, fsq_channels=4)
    torch.manual_seed(0)
    model = SpeechTokenizer(config).eval()
    feats, lengths = torch.randn(1, 128, 80), torch.tensor([80])
    ids = model.encode(feats, lengths)[0].tolist()
    heard = recognise_tokens(model, ids, torch.device("cpu"))
    path = model.recognise(feats, lengths)[0]
    # `recognise` keeps pauses (class 1), which the tokens' reader leaves out.
    assert heard == [c for c in path if c != 1]
    assert recognise_tokens(model, [81, 82], torch.device("cpu")) == []


@pytest.mark.parametrize("extra", [81, 96])
def test_ids_that_are_no_speech_are_passed_over(extra):
    config = SpeechTokenizerConfig(channels=16, encoder_blocks=1, decoder_blocks=1, fsq_channels=4)
    model = SpeechTokenizer(config).eval()
    ids = [3, 5, 70, 12]
    expected = recognise_tokens(model, ids, torch.device("cpu"))
    assert recognise_tokens(model, [3, 5, extra, 70, 12], torch.device("cpu")) == expected
