"""The language model stage on ONNX Runtime.

Embeddings are looked up in the memory-mapped weight file, outside the graph. Keys and values stay where they are: a
run is bound to the addresses of its sequences' buffers and writes its rows into them. Decoding steps of requests that
run at the same time go through the graph together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosyvoice.config.model import LLMConfig, TransformerLMConfig
from cosyvoice.engine.stages import Choose, FloatArray, LLMInput
from cosyvoice.errors import CosyVoiceError, GenerationError
from cosyvoice.llm.bistream import BistreamSession, Sampler
from cosyvoice.llm.layout import Row, special_tokens, speech_rows
from cosyvoice.llm.prompt import PromptRules
from cosyvoice.native.batching import Batcher, Ticket
from cosyvoice.native.kv_pool import KVPool, Sequence
from cosyvoice.native.llm_inputs import Embedder, LLMParts, qwen_parts
from cosyvoice.native.runtime import Runtime, run_error
from cosyvoice.native.transformer_llm import transformer_parts

GRAPH = "llm.onnx"
PREFILL_ROWS = 64
"""Rows of a prompt that are read in one run, so that a long prompt does not hold up the requests that speak."""

SPIN = 10
"""Microseconds: a step has many short operations, and to wake a thread for each takes longer than to look out for it.
More would take the cores from other work."""


@dataclass
class NativeLLMState:
    """One sequence: rows that are not fed yet, its place among the key-value buffers, and the speaker for its row."""

    rows: list[Row]
    sequence: Sequence
    speaker: FloatArray | None = None


class NativeLLMStage(PromptRules):
    """`LLMStage` on ONNX Runtime, safe from many threads.

    Args:
        directory: holds the graph and the weights.
        config: of the language model.
        end_of_prompt_id: a text token that must stand before or in the text; None: no such mark.
        runtime: makes the session.
        slots: sequences for which memory is reserved at once; it grows up to `max_slots`.
        capacity: positions of a sequence for which memory is reserved at once; it grows up to `max_capacity`.

    Raises `ModelError` for files that are missing, damaged, or of another configuration.
    """

    def __init__(
        self,
        directory: Path,
        config: LLMConfig | TransformerLMConfig,
        end_of_prompt_id: int | None,
        runtime: Runtime,
        slots: int = 8,
        capacity: int = 1024,
        max_slots: int = 64,
        max_capacity: int = 16384,
    ) -> None:
        self.config, self.end_of_prompt_id = config, end_of_prompt_id
        self.special = special_tokens(config)
        directory = Path(directory)
        parts = _parts(directory, config, runtime)
        self.embed = parts.embed
        outputs = config.speech_token_size + config.speech_extra_tokens
        self._decoder = _Decoder(runtime.session(directory / GRAPH, spin=SPIN), parts.positions, outputs)
        self._pool = KVPool(parts.layers, parts.kv_heads, parts.head_dim, slots, max_slots, capacity, max_capacity)
        self._decoder.prepare(self._pool.capacity)
        self._batcher: Batcher[Sequence] = Batcher(self._run)

    def init_state(self, inputs: LLMInput) -> NativeLLMState:
        """See `LLMStage`."""
        speaker = self.used_speaker(inputs.speaker_embedding)
        rows = self.prompt_rows(inputs.text, inputs.prompt_text, inputs.prompt_speech_token, speaker)
        return self.open(rows, speaker)

    def open(self, rows: Rows[Row] = (), speaker: FloatArray | None = None) -> NativeLLMState:
        """A sequence that will be fed `rows` before anything else; for arrangements other than `init_state`'s."""
        sequence = Sequence()
        self._batcher.add(sequence)
        return NativeLLMState(list(rows), sequence, speaker)

    def text_stream(self, inputs: LLMInput, sampler: Sampler, limit: int | None = None) -> BistreamSession:
        """See `LLMStage`."""
        state = self.open()
        try:
            return self.open_stream(
                lambda rows: self.feed(rows, state),
                sampler,
                inputs.prompt_text,
                inputs.prompt_speech_token,
                limit,
                lambda: self.release(state),
            )
        except CosyVoiceError:
            self.release(state)
            raise

    def step(self, token: int | None, state: NativeLLMState) -> tuple[FloatArray, NativeLLMState]:
        """See `LLMStage`. Raises `GenerationError` for a sequence that is too long, and for NaN scores."""
        return self.feed([] if token is None else speech_rows([token]), state), state

    def tokens(self, state: NativeLLMState, choose: Choose, limit: int) -> Iterator[int]:
        """See `ChoosesTokens`. Raises as `step` does."""
        if limit < 1:
            return
        token = choose(self.feed([], state))
        if token is None:
            return
        yield token
        follow = _Continuation(self.embed, choose, limit - 1)
        first = follow.work(token)
        if first is None:
            return
        steps = self._batcher.begin(state.sequence, first, follow)
        while tokens := self._batcher.take(steps):
            yield from tokens

    def feed(self, rows: Rows[Row], state: NativeLLMState) -> FloatArray:
        """Append `rows`; return the log-probabilities [outputs] after the last one.

        Raises `TextError` and `VoiceError` for ids without an embedding, and `GenerationError` as `step` does; after
        that one, the state can only be released.
        """
        if state.sequence.released:
            raise GenerationError("the state of this request was released; begin a new one")
        pending = [*state.rows, *rows]
        if not pending:
            raise GenerationError("there is nothing to read; feed at least one row")
        embedded = self.embed(pending, state.speaker)
        state.rows = []
        for begin in range(0, len(embedded), PREFILL_ROWS):
            piece = embedded[begin : begin + PREFILL_ROWS]
            scores: FloatArray = self._batcher.step(state.sequence, piece, alone=len(embedded) > 1)
        return scores

    def release(self, state: NativeLLMState) -> None:
        """See `LLMStage`."""
        self._batcher.remove(state.sequence)

    def _run(self, tickets: Rows[Ticket[Sequence]]) -> None:
        """Called by one thread at a time: the pool belongs to it."""
        self._pool.compact()
        ready = [ticket for ticket in tickets if self._admit(ticket)]
        if not ready:
            return
        rows = len(ready[0].work)
        slots = [ticket.member.slot for ticket in ready]
        first, end = min(slots), max(slots) + 1
        # Sequences in between that have no step get a row that their next one writes over.
        lengths = [sequence.length for sequence in self._pool.sequences[first:end]]
        self._pool.reserve(max(lengths) + rows)
        works = {slot - first: ticket.work for slot, ticket in zip(slots, ready, strict=True)}
        scores = self._decoder.run(self._pool, first, works, rows, lengths)
        finite = np.asarray(np.isfinite(scores).all(axis=1))
        for slot, ticket in zip(slots, ready, strict=True):
            if finite[slot - first]:
                ticket.member.length += rows
                ticket.result = scores[slot - first].copy()
            else:
                ticket.error = GenerationError(
                    "the language model returned scores that are not finite; its weights are damaged or too coarse, "
                    "so convert the model again with a higher precision"
                )

    def _admit(self, ticket: Ticket[Sequence]) -> bool:
        """Give the sequence of `ticket` its place; False, and an error set, where it cannot have one."""
        try:
            self._pool.check(ticket.member.length + len(ticket.work))
            if ticket.member.slot < 0:
                self._pool.place(ticket.member)
        except GenerationError as error:
            ticket.error = error
            return False
        return True


class _Continuation:
    """From scores to the next token, up to `limit` of them, and to the embedding that it is read as."""

    def __init__(self, embed: Embedder, choose: Choose, limit: int) -> None:
        self._embed, self._choose, self._limit = embed, choose, limit

    def __call__(self, scores: FloatArray) -> tuple[Rows[int], FloatArray | None]:
        """The token, if any, and the work of the next run."""
        token = self._choose(scores)
        if token is None:
            return (), None
        self._limit -= 1
        return (token,), self.work(token)

    def work(self, token: int) -> FloatArray | None:
        """Embedding [1, channels] of `token`; None where it is the last one."""
        return self._embed(speech_rows([token])) if self._limit > 0 else None


def _parts(directory: Path, config: LLMConfig | TransformerLMConfig, runtime: Runtime) -> LLMParts:
    if isinstance(config, TransformerLMConfig):
        return transformer_parts(directory, config, runtime)
    return qwen_parts(directory, config)


class _Decoder:
    """Runs of the graph on buffers of a pool. `positions` makes the inputs that depend on their capacity."""

    def __init__(self, session: Any, positions: Callable[[int], dict[str, FloatArray]], outputs: int) -> None:
        self._session, self._positions, self._outputs = session, positions, outputs
        self._bindings: dict[tuple[int, int], _Binding] = {}
        self._bound: tuple[KVPool, int] | None = None
        self._capacity = 0
        self._tables: dict[str, FloatArray] = {}

    def prepare(self, capacity: int) -> None:
        """Make what sequences of up to `capacity` positions need."""
        if capacity != self._capacity:
            self._capacity, self._tables = capacity, self._positions(capacity)

    def run(
        self, pool: KVPool, first: int, works: Mapping[int, FloatArray], rows: int, lengths: Rows[int]
    ) -> FloatArray:
        """Log-probabilities [batch, outputs] after the embeddings `works` [rows, channels] of some of the sequences.

        `lengths` are the positions that the sequences from slot `first` on have, `works` are numbered as they are.
        What is returned is valid until the next run.
        """
        binding = self._binding(pool, first, len(lengths), rows)
        if len(works) < len(lengths):
            binding.embeddings[:] = 0
        for index, work in works.items():
            binding.embeddings[index] = work
        binding.seqlens_k[:] = [length + rows - 1 for length in lengths]
        binding.set_total(max(lengths) + rows)
        try:
            self._session.run_with_iobinding(binding.io)
        except Exception as error:
            raise run_error(error) from None
        return binding.log_probs

    def _binding(self, pool: KVPool, first: int, batch: int, rows: int) -> _Binding:
        """Bindings of decoding steps are kept as long as the buffers stay where they are."""
        if self._bound != (pool, pool.generation):
            self._bindings.clear()
            self._bound = pool, pool.generation
            self.prepare(pool.capacity)
        if rows == 1 and (first, batch) in self._bindings:
            return self._bindings[first, batch]
        binding = _Binding(self._session, pool, self._tables, first, batch, rows, self._outputs)
        if rows == 1:
            self._bindings[first, batch] = binding
        return binding


class _Binding:
    """Inputs and outputs of a run at fixed addresses."""

    def __init__(
        self,
        session: Any,
        pool: KVPool,
        tables: dict[str, FloatArray],
        first: int,
        batch: int,
        rows: int,
        outputs: int,
    ) -> None:
        _, _, kv_heads, capacity, head_dim = pool.buffers.shape
        self.io = session.io_binding()
        width = next(value.shape[2] for value in session.get_inputs() if value.name == "embeddings")
        self.embeddings = np.empty((batch, rows, width), np.float32)
        self.seqlens_k = np.empty(batch, np.int32)
        self.total_sequence_length = np.empty((), np.int32)
        self.last = np.full(batch, rows - 1, np.int64)
        self.log_probs = np.empty((batch, outputs), np.float32)
        # Addresses are asked for once: that alone takes as long as some of the graph's operations.
        self._tables = {
            name: (table.dtype.type, table.shape[1:], table.ctypes.data, table) for name, table in tables.items()
        }
        for name in ("embeddings", "seqlens_k", "total_sequence_length", "last"):
            self._bind(self.io.bind_input, name, getattr(self, name))
        self._bind(self.io.bind_output, "log_probs", self.log_probs)
        shape = (batch, kv_heads, capacity, head_dim)
        for index, address in enumerate(pool.addresses(first)):
            name = f"{'value' if index % 2 else 'key'}_{index // 2}"
            self.io.bind_input(f"past_{name}", "cpu", 0, np.float32, shape, address)
            self.io.bind_output(f"present_{name}", "cpu", 0, np.float32, shape, address)

    def set_total(self, positions: int) -> None:
        """Let the longest sequence have so many positions after the run: as many rows of the tables are read."""
        self.total_sequence_length[...] = positions
        for name, (dtype, width, address, _) in self._tables.items():
            self.io.bind_input(name, "cpu", 0, dtype, (positions, *width), address)

    @staticmethod
    def _bind(bind: Any, name: str, array: NDArray[Any]) -> None:
        bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
