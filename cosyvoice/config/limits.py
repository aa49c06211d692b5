"""Bounds of the sizes in a configuration, so that a hostile one is refused before a network is built from it.

They are far beyond every model there is. Within them the names and shapes of all weights can be listed, which are then
compared with those of the files before memory is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cosyvoice.config.model import ModelConfig
from cosyvoice.errors import ConfigError

MAX_SIZE = 10_000_000
"""Of any whole number in a configuration; the largest table has 151,936 rows."""
MAX_LAYERS = 512
_LAYERS = frozenset(
    {"num_layers", "num_blocks", "num_mid_blocks", "n_blocks", "depth", "up_blocks", "regulator_layers"}
)
_SIZES = (
    "hidden_size num_heads num_kv_heads intermediate_size vocab_size text_token_size speech_token_size input_size "
    "output_size attention_heads linear_units dim heads dim_head ff_mult mel_dim mu_dim spk_dim in_channels "
    "out_channels channels attention_head_dim base_channels sampling_rate sample_rate n_fft hop_size n_mels "
    "input_frame_rate token_mel_ratio istft_n_fft istft_hop upsample_rates upsample_kernel_sizes "
    "resblock_kernel_sizes resblock_dilation_sizes source_resblock_kernel_sizes source_resblock_dilation_sizes "
    "f0_channels nb_harmonics speaker_embedding_dim pre_lookahead_channels conv_pos_groups"
)
_MAX_LIST = 64
_LONG_LISTS = frozenset({"silent_tokens"})


def check_limits(config: ModelConfig, where: str) -> ModelConfig:
    """`config`, none of whose sizes is out of bounds. Raises `ConfigError`, naming the field."""
    at_least_one = _LAYERS | set(_SIZES.split())
    for path, name, value in _numbers(config.model_dump()):
        smallest = 1 if name in at_least_one else -1
        largest = MAX_LAYERS if name in _LAYERS else MAX_SIZE
        if not smallest <= value <= largest:
            raise ConfigError(f"{where}: {path} is {value}, it must be from {smallest} to {largest}")
    for path, name, length in _lengths(config.model_dump()):
        if length > _MAX_LIST and name not in _LONG_LISTS:
            raise ConfigError(f"{where}: {path} has {length} entries, at most {_MAX_LIST} make sense")
    return config


def _walk(value: Any, path: str, name: str) -> Iterator[tuple[str, str, Any]]:
    yield path, name, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, f"{path}.{key}" if path else str(key), str(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _walk(item, path, name)


def _numbers(data: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    return ((path, name, value) for path, name, value in _walk(data, "", "") if type(value) is int)


def _lengths(data: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    return ((path, name, len(value)) for path, name, value in _walk(data, "", "") if isinstance(value, (list, tuple)))
