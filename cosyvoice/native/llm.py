"""The language model stage on ONNX Runtime.

Embeddings are looked up in the memory-mapped weight file, outside the graph. Keys and values stay where they are: a
run is bound to the addresses of its sequences' buffers and writes its rows into them. Decoding steps of requests that
run at the same time go through the graph together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosyvoice.config.model import LLMConfig, Qwen2Config
from cosyvoice.engine.stages import FloatArray, LLMInput
from cosyvoice.errors import GenerationError, ModelError, TextError, VoiceError
from cosyvoice.llm.layout import Kind, Row, special_tokens, speech_rows
from cosyvoice.llm.prompt import PromptRules
from cosyvoice.native.batching import Batcher, Ticket
from cosyvoice.native.kv_pool import KVPool, Sequence
from cosyvoice.native.runtime import Runtime, run_error

WEIGHTS, GRAPH = "llm.safetensors", "llm.onnx"
TEXT_TABLE, SPEECH_TABLE = "llm.model.model.embed_tokens.weight", "speech_embedding.weight"
PREFILL_ROWS = 64
"""Rows of a prompt that are read in one run, so that a long prompt does not hold up the requests that speak."""
_TYPES = {"F16": np.float16, "F32": np.float32}


@dataclass
class NativeLLMState:
    """One sequence: rows that are not fed yet, and its place among the key-value buffers."""

    rows: list[Row]
    sequence: Sequence


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
        config: LLMConfig,
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
        self._embeddings = EmbeddingTables(directory / WEIGHTS, config)
        self._decoder = _Decoder(runtime.session(directory / GRAPH), config)
        self._pool = KVPool(config.qwen, slots, max_slots, capacity, max_capacity)
        self._batcher: Batcher[Sequence] = Batcher(self._run)

    def init_state(self, inputs: LLMInput) -> NativeLLMState:
        """See `LLMStage`."""
        return self.open(self.prompt_rows(inputs.text, inputs.prompt_text, inputs.prompt_speech_token))

    def open(self, rows: Rows[Row] = ()) -> NativeLLMState:
        """A sequence that will be fed `rows` before anything else; for arrangements other than `init_state`'s."""
        sequence = Sequence()
        self._batcher.add(sequence)
        return NativeLLMState(list(rows), sequence)

    def step(self, token: int | None, state: NativeLLMState) -> tuple[FloatArray, NativeLLMState]:
        """See `LLMStage`. Raises `GenerationError` for a sequence that is too long, and for NaN scores."""
        return self.feed([] if token is None else speech_rows([token]), state), state

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
        embedded = self._embeddings(pending)
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
        first = min(ticket.member.slot for ticket in ready)
        end = max(ticket.member.slot for ticket in ready) + 1
        # Sequences in between that have no step get a row that their next one writes over.
        sequences = self._pool.sequences[first:end]
        self._pool.reserve(max(sequence.length for sequence in sequences) + rows)
        embeddings = np.zeros((end - first, rows, ready[0].work.shape[1]), np.float32)
        for ticket in ready:
            embeddings[ticket.member.slot - first] = ticket.work
        lengths = [sequence.length for sequence in sequences]
        scores = self._decoder.run(self._pool, first, embeddings, lengths)
        for ticket in ready:
            own = scores[ticket.member.slot - first]
            if np.isfinite(own).all():
                ticket.member.length += rows
                ticket.result = own.copy()
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


class _Decoder:
    """Runs of the graph on buffers of a pool."""

    def __init__(self, session: Any, config: LLMConfig) -> None:
        self._session, self._config = session, config
        self._outputs = config.speech_token_size + config.speech_extra_tokens
        self._bindings: dict[tuple[int, int], _Binding] = {}
        self._bound: tuple[KVPool, int] | None = None
        self._rotary = _rotary_tables(config.qwen, 1)

    def run(self, pool: KVPool, first: int, embeddings: FloatArray, lengths: Rows[int]) -> FloatArray:
        """Log-probabilities [batch, outputs] after `embeddings` [batch, rows, channels].

        The rows follow `lengths` positions of the sequences from slot `first` on. What is returned is valid until
        the next run.
        """
        batch, rows, _ = embeddings.shape
        binding = self._binding(pool, first, batch, rows)
        binding.embeddings[:] = embeddings
        binding.seqlens_k[:] = np.asarray(lengths, np.int32) + np.int32(rows - 1)
        binding.total_sequence_length[...] = max(lengths) + rows
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
            self._rotary = _rotary_tables(self._config.qwen, pool.capacity)
        if rows == 1 and (first, batch) in self._bindings:
            return self._bindings[first, batch]
        binding = _Binding(self._session, pool, self._rotary, first, batch, rows, self._outputs)
        if rows == 1:
            self._bindings[first, batch] = binding
        return binding


class _Binding:
    """Inputs and outputs of a run at fixed addresses."""

    def __init__(
        self,
        session: Any,
        pool: KVPool,
        rotary: tuple[FloatArray, FloatArray],
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
        self.cos_cache, self.sin_cache = rotary
        for name in ("embeddings", "seqlens_k", "total_sequence_length", "last", "cos_cache", "sin_cache"):
            self._bind(self.io.bind_input, name, getattr(self, name))
        self._bind(self.io.bind_output, "log_probs", self.log_probs)
        shape = (batch, kv_heads, capacity, head_dim)
        for index, address in enumerate(pool.addresses(first)):
            name = f"{'value' if index % 2 else 'key'}_{index // 2}"
            self.io.bind_input(f"past_{name}", "cpu", 0, np.float32, shape, address)
            self.io.bind_output(f"present_{name}", "cpu", 0, np.float32, shape, address)

    @staticmethod
    def _bind(bind: Any, name: str, array: NDArray[Any]) -> None:
        bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


class EmbeddingTables:
    """Rows of the text and the speech table, read where they lie in the weight file."""

    def __init__(self, path: Path, config: LLMConfig) -> None:
        width = config.qwen.hidden_size
        self._text = map_tensor(path, TEXT_TABLE, (config.qwen.vocab_size, width))
        self._speech = map_tensor(path, SPEECH_TABLE, (config.speech_token_size + config.speech_extra_tokens, width))

    def __call__(self, rows: Rows[Row]) -> FloatArray:
        """Embeddings [rows, channels]; special rows are in the speech table.

        Raises `TextError` and `VoiceError` for ids that are not in their table.
        """
        embedded = np.empty((len(rows), self._text.shape[1]), np.float32)
        for index, (kind, i) in enumerate(rows):
            table = self._text if kind == Kind.TEXT else self._speech
            if not 0 <= i < len(table):
                error = TextError if kind == Kind.TEXT else VoiceError
                raise error(f"the id {i} is outside of the model's {len(table)}; use tokens of this model")
            embedded[index] = table[i]
        return embedded


def map_tensor(path: Path, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """A floating-point tensor of a safetensors file, mapped into memory.

    Raises `ModelError` where the file is damaged, or lacks a tensor of that name and shape.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        entry = header[name]
        dtype, found, begin = _TYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"][0]
        if found != shape:
            raise ModelError(
                f"{path}: {name!r} has the shape {found}, the configuration beside it asks for {shape}; copy the "
                "complete model directory"
            )
        return np.memmap(path, dtype, "r", 8 + size + begin, shape)
    except (OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise ModelError(f"{path} is no intact weight file ({error!r}); convert the model again") from None


def _rotary_tables(config: Qwen2Config, positions: int) -> tuple[FloatArray, FloatArray]:
    """Cosine and sine [positions, head_dim / 2] of the angles position * theta^(-2i / head_dim)."""
    head_dim = config.hidden_size // config.num_heads
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = np.float32(1) / np.float32(config.rope_theta) ** exponents
    angles = np.outer(np.arange(positions, dtype=np.float32), frequencies)
    return np.cos(angles), np.sin(angles)
