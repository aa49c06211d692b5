"""A whole run: every contender loaded into one process, then one stage after the other in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cosyvoice.benchmark.contenders import REFERENCE, Contender, Field
from cosyvoice.benchmark.harness import CLOCK, Case, Clock, Say, interleave
from cosyvoice.benchmark.machine import BUSY_LOAD, describe_machine, load_average
from cosyvoice.benchmark.measurements import (
    Parts,
    measure_concurrency,
    measure_flow,
    measure_llm,
    measure_stream,
    measure_vocoder,
    measure_whole,
)
from cosyvoice.benchmark.probe import cold_start, measure_memory
from cosyvoice.benchmark.results import STAGES, Concurrency, Measurement, Memory, Results, Settings, Stream
from cosyvoice.benchmark.workload import PROMPT_SECONDS, Workload
from cosyvoice.engine.pipeline import TTS
from cosyvoice.errors import ConfigError

_PER_UTTERANCE: Mapping[str, Callable[[TTS, Workload], Parts]] = {
    "llm": measure_llm,
    "flow": measure_flow,
    "vocoder": measure_vocoder,
    "whole": measure_whole,
}
CONCURRENT_TOKENS = 50
"""Tokens that each of the concurrent requests decodes."""


@dataclass(frozen=True)
class Plan:
    """What is to be measured, and how thoroughly."""

    stages: tuple[str, ...] = STAGES
    threads: int = 1
    rounds: int = 5
    seconds: float = 10.0
    stream_seconds: float = 60.0
    requests: int = 8

    def __post_init__(self) -> None:
        unknown = [stage for stage in self.stages if stage not in STAGES]
        if unknown or not self.stages:
            raise ConfigError(f"no stage {(unknown or [''])[0]!r}; choose from {', '.join(STAGES)}")
        for name, least in (("threads", 1), ("rounds", 1), ("requests", 1), ("seconds", 1), ("stream_seconds", 5)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name):g}; use at least {least}")


class Bench:
    """Measures `field` according to `plan`.

    Args:
        field: the contenders.
        plan: what is measured.
        title: name of the model, for the results.
        random_weights: the model cannot speak, so neither its quality nor its start with a sentence is measured.
        say: told what is done now.
        clock: seconds.
    """

    def __init__(
        self,
        field: Field,
        plan: Plan,
        title: str,
        random_weights: bool = False,
        say: Say | None = None,
        clock: Clock = CLOCK,
    ) -> None:
        self._field, self._plan, self._title, self._random = field, plan, title, random_weights
        self._say = say or (lambda text: None)
        self._clock = clock
        self._notes = list(field.notes)
        self._models: dict[str, TTS] = {}

    def run(self) -> Results:
        """Everything; takes minutes for a large model. Raises what loading and running a model raise."""
        plan, machine, before = self._plan, describe_machine(), load_average()
        if before is not None and before > BUSY_LOAD:
            self._notes.append(f"the machine was busy (load average {before}): trust ratios only, and those with care")
        # Memory is looked at before this process takes any.
        memory = self._memory() if "memory" in plan.stages else {}
        measurements = self._cold() if "cold" in plan.stages else {}
        for contender in self._field.contenders:
            self._say(f"loading {contender.name}")
            self._models[contender.name] = contender.load(plan.threads)
        for stage in _PER_UTTERANCE:
            if stage in plan.stages:
                measurements |= self._per_utterance(stage)
        streams = self._streams() if "streaming" in plan.stages else {}
        concurrency = self._concurrency() if "concurrent" in plan.stages else {}
        quality = self._quality() if "quality" in plan.stages else {}
        return Results(
            machine=machine,
            load_average=[before, load_average()],
            settings=self._settings(),
            measurements=measurements,
            streams=streams,
            memory=memory,
            concurrency=concurrency,
            quality=quality,
            notes=self._notes,
        )

    def _settings(self) -> Settings:
        plan = self._plan
        return Settings(
            model=self._title,
            random_weights=self._random,
            precisions=[contender.name for contender in self._field.native],
            baseline=self._field.baseline,
            stages=list(plan.stages),
            threads=plan.threads,
            rounds=plan.rounds,
            seconds=plan.seconds,
            prompt_seconds=PROMPT_SECONDS,
            stream_seconds=plan.stream_seconds,
            requests=plan.requests,
        )

    def _work(self, seconds: float) -> Workload:
        return Workload(next(iter(self._models.values())).model.config, seconds)

    def _turns(self, stage: str, cases: Mapping[str, Case]) -> dict[str, dict[str, list[float]]]:
        return interleave(cases, self._plan.rounds, say=lambda text: self._say(f"{stage}: {text}"))

    def _timed(self, values: Mapping[str, dict[str, list[float]]]) -> dict[str, Measurement]:
        baseline, audio = self._field.baseline, self._plan.seconds
        return {name: Measurement.of(name, seconds, baseline, audio) for name, seconds in values.items()}

    def _per_utterance(self, stage: str) -> dict[str, Measurement]:
        work, measure = self._work(self._plan.seconds), _PER_UTTERANCE[stage]
        cases = {name: _case(measure, tts, work, self._clock) for name, tts in self._models.items()}
        return self._timed(self._turns(stage, cases))

    def _cold(self) -> dict[str, Measurement]:
        speaking = [c for c in self._field.contenders if not self._random and (c.directory / "voices").is_dir()]
        if not speaking:
            self._notes.append("no cold start was measured: the model has random weights or brings no voice")
            return {}

        def case(contender: Contender) -> Case:
            def run() -> Parts:
                start = self._clock()
                cold_start(contender, self._plan.threads)
                return {"cold": self._clock() - start}

            return run

        return self._timed(self._turns("cold start", {c.name: case(c) for c in speaking}))

    def _streams(self) -> dict[str, Stream]:
        work = self._work(self._plan.stream_seconds)
        cases = {c.name: _case(measure_stream, self._models[c.name], work, self._clock) for c in self._field.native}
        chunks = self._turns("streaming", cases)
        return {name: Stream.of(list(zip(*(part[name] for part in chunks.values()), strict=True))) for name in cases}

    def _memory(self) -> dict[str, Memory]:
        plan, found = self._plan, {}
        for contender in self._field.contenders:
            self._say(f"memory: {contender.name}")
            found[contender.name] = Memory(**measure_memory(contender, plan.threads, plan.seconds, plan.stream_seconds))
        return found

    def _concurrency(self) -> dict[str, Concurrency]:
        work, requests = self._work(self._plan.seconds), self._plan.requests
        arguments = requests, CONCURRENT_TOKENS, self._clock
        native = [contender.name for contender in self._field.native]
        cases = {name: _case(measure_concurrency, self._models[name], work, *arguments) for name in native}
        parts = self._turns("concurrent", cases)
        tokens = requests * CONCURRENT_TOKENS
        return {
            name: Concurrency.of(
                tokens, parts["one_at_a_time"][name], parts["together"][name], max(parts["difference"][name])
            )
            for name in native
        }

    def _quality(self) -> dict[str, dict[str, float]]:
        reference = self._models.get(REFERENCE)
        if self._random or reference is None:
            self._notes.append("no quality was measured: that needs trained weights, and the reference")
            return {}
        from cosyvoice.export.quality import compare_stages

        presets = reference.store.preset_names()
        voice, found = reference.store.get(presets[0]) if presets else None, {}
        for contender in self._field.native:
            self._say(f"quality: {contender.name}")
            stages = self._models[contender.name].model.stages
            found[contender.name] = compare_stages(reference.model.stages, stages, reference.model.config, voice)
        return found


def _case(measure: Callable[..., Parts], tts: TTS, work: Workload, *arguments: Any) -> Case:
    return lambda: measure(tts, work, *arguments)


def parse_stages(text: str) -> tuple[str, ...]:
    """Names separated by commas, each once, in the order in which they run."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    return tuple(_in_order(names))


def _in_order(names: Sequence[str]) -> Iterable[str]:
    known = [stage for stage in STAGES if stage in names]
    return [*known, *(name for name in dict.fromkeys(names) if name not in STAGES)]
