"""Everything that a run finds, as `bench.json` holds it: raw values first, and what is derived from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pydantic import Field

from cosyvoice.benchmark.harness import Spread, paired_ratios
from cosyvoice.benchmark.machine import Machine
from cosyvoice.benchmark.measurements import DECODED_TOKENS
from cosyvoice.config.base import StrictModel
from cosyvoice.errors import ConfigError

STAGES = ("llm", "flow", "vocoder", "whole", "streaming", "concurrent", "memory", "cold", "quality")


class Settings(StrictModel):
    """What was asked for."""

    model: str
    random_weights: bool = False
    precisions: list[str]
    baseline: str = Field(description="the contender that ratios are formed with")
    stages: list[str]
    threads: int
    rounds: int
    seconds: float = Field(description="of audio in an utterance")
    prompt_seconds: float
    stream_seconds: float = Field(description="of audio in the long stream")
    requests: int = Field(description="that decode at the same time")


class Quantity(StrictModel):
    """A thing that is measured in seconds, and the unit that people know it in."""

    title: str
    unit: str
    higher_is_better: bool = False

    def value(self, seconds: float, audio: float) -> float:
        """`seconds` in `unit`, for an utterance of `audio` seconds."""
        return _CONVERSIONS[self.unit](seconds, audio)


_CONVERSIONS: Mapping[str, Callable[[float, float], float]] = {
    "tokens/s": lambda seconds, audio: DECODED_TOKENS / seconds,
    "ms": lambda seconds, audio: 1000 * seconds,
    "s per s of audio": lambda seconds, audio: seconds / audio,
}
QUANTITIES: Mapping[str, Quantity] = {
    "llm_decode": Quantity(title="LLM decoding", unit="tokens/s", higher_is_better=True),
    "llm_prefill": Quantity(title="LLM prompt", unit="ms"),
    "flow": Quantity(title="flow", unit="s per s of audio"),
    "vocoder": Quantity(title="vocoder", unit="s per s of audio"),
    "whole": Quantity(title="whole (RTF)", unit="s per s of audio"),
    "first_audio": Quantity(title="first audio, warm", unit="ms"),
    "cold": Quantity(title="first audio, cold start", unit="ms"),
}


class Measurement(StrictModel):
    """One quantity for all contenders."""

    quantity: Quantity
    seconds: dict[str, list[float]] = Field(description="of each round, by contender")
    values: dict[str, Spread] = Field(description="in the unit of the quantity")
    ratios: dict[str, Spread] = Field(description="times faster than the baseline, formed round by round")

    @classmethod
    def of(cls, name: str, seconds: dict[str, list[float]], baseline: str, audio: float) -> Measurement:
        """From the rounds of each contender; without the baseline there are no ratios.

        Raises `ConfigError` for a name that is no quantity.
        """
        if name not in QUANTITIES:
            raise ConfigError(f"{name!r} is no quantity; known are {', '.join(QUANTITIES)}")
        quantity, reference = QUANTITIES[name], seconds.get(baseline)
        values = {who: Spread.of([quantity.value(s, audio) for s in times]) for who, times in seconds.items()}
        others = {who: times for who, times in seconds.items() if reference is not None and who != baseline}
        ratios = {who: Spread.of(paired_ratios(reference or [], times)) for who, times in others.items()}
        return cls(quantity=quantity, seconds=seconds, values=values, ratios=ratios)


class Stream(StrictModel):
    """What each chunk of a long stream costs one contender."""

    rounds: list[list[float]] = Field(description="seconds of every chunk, by round")
    cost: list[float] = Field(description="seconds of every chunk, the least of all rounds")
    growth: float = Field(description="cost of the last chunk over that of the second")

    @classmethod
    def of(cls, rounds: Sequence[Sequence[float]]) -> Stream:
        """From rounds of equally many chunks, at least two; else `ConfigError`.

        What disturbs a chunk only ever adds to its time, so the least of the rounds is nearest to its cost.
        """
        cost = [min(chunk) for chunk in zip(*rounds, strict=True)]
        if len(cost) < 2:
            raise ConfigError("a stream of less than two chunks shows no growth; measure a longer one")
        return cls(rounds=[list(times) for times in rounds], cost=cost, growth=cost[-1] / cost[1])


class Memory(StrictModel):
    """MB of a process that runs one contender alone; None where the system does not tell."""

    loaded: float | None
    peak: float | None = Field(description="until an utterance was spoken")
    chunks: list[float | None] = Field(description="after each chunk of the long stream")
    stream_peak: float | None = Field(description="until the end of the long stream")

    @property
    def growth(self) -> float | None:
        """MB more after the last chunk than after the second."""
        if len(self.chunks) < 2 or self.chunks[-1] is None or self.chunks[1] is None:
            return None
        return self.chunks[-1] - self.chunks[1]


class Concurrency(StrictModel):
    """Decoding for several requests, one at a time and together."""

    one_at_a_time: Spread = Field(description="tokens/s of all requests")
    together: Spread
    gain: Spread = Field(description="times the throughput, round by round")
    difference: float = Field(description="greatest difference of a log-probability between the two ways")

    @classmethod
    def of(cls, tokens: int, alone: Sequence[float], together: Sequence[float], difference: float) -> Concurrency:
        """From the seconds that all `tokens` took in each round."""
        return cls(
            one_at_a_time=Spread.of([tokens / seconds for seconds in alone]),
            together=Spread.of([tokens / seconds for seconds in together]),
            gain=Spread.of(paired_ratios(alone, together)),
            difference=difference,
        )


class Results(StrictModel):
    """A whole run."""

    format_version: int = 1
    machine: Machine
    load_average: list[float | None] = Field(description="over a minute, before and after the run")
    settings: Settings
    measurements: dict[str, Measurement] = Field(default_factory=dict)
    streams: dict[str, Stream] = Field(default_factory=dict)
    memory: dict[str, Memory] = Field(default_factory=dict)
    concurrency: dict[str, Concurrency] = Field(default_factory=dict)
    quality: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="distances of each precision from the reference"
    )
    notes: list[str] = Field(default_factory=list)
