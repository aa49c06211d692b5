"""Speech tokenizer and speaker encoder on ONNX Runtime, the form in which every model brings them.

Inputs and outputs are taken by position, since exporters name them differently. A session is made when the
first reference is encoded: who speaks with a finished voice never loads these networks.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosyvoice.audio.fbank import KaldiFbank
from cosyvoice.audio.mel import WhisperLogMel
from cosyvoice.engine.stages import FloatArray, IntArray
from cosyvoice.errors import MissingDependencyError, ModelError

PROMPT_SAMPLE_RATE = 16000
"""Hz, of the samples that both encoders take."""


class LazySession:
    """An inference session that is made once, when it is first run; safe from many threads.

    `purpose` is named where the file or ONNX Runtime is missing.
    """

    def __init__(self, path: Path, threads: int | None, purpose: str = "cloning a voice") -> None:
        self.path, self._threads, self._purpose = path, threads, purpose
        self._session: Any = None
        self._lock = threading.Lock()

    def run(self, *inputs: NDArray[Any]) -> NDArray[Any]:
        """The first output for `inputs`, in the order of the graph's inputs."""
        session = self._get()
        names = [item.name for item in session.get_inputs()]
        if len(names) != len(inputs):
            raise ModelError(
                f"{self.path} takes {len(names)} inputs instead of {len(inputs)}; it is not the file of this model"
            )
        try:
            output: NDArray[Any] = session.run(None, dict(zip(names, inputs, strict=True)))[0]
        except Exception as error:  # ONNX Runtime's exceptions have no common public base
            raise ModelError(f"{self.path} cannot be run ({_first_line(error)}); copy the model again") from None
        return output

    def _get(self) -> Any:
        with self._lock:
            if self._session is None:
                self._session = self._make()
            return self._session

    def _make(self) -> Any:
        if not self.path.is_file():
            raise ModelError(f"{self.path} is missing, which {self._purpose} needs; copy the complete model directory")
        try:
            import onnxruntime
        except ImportError:
            raise MissingDependencyError(
                f"{self._purpose} needs onnxruntime; install it with: pip install onnxruntime"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads or 0
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(f"{self.path} is no intact ONNX file ({_first_line(error)}); copy it again") from None


class OnnxSpeechTokenizer:
    """Samples at 16 kHz to token ids: Whisper's log-mel, then the graph (feats [1, 128, T], length [1])."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._session = LazySession(path, threads)
        self._features = WhisperLogMel()

    def __call__(self, samples: FloatArray) -> IntArray:
        """See `SpeechTokenizer`. Raises `AudioError` for too few samples, `ModelError` for a damaged file."""
        feats = self._features(samples).T[None].astype(np.float32)
        length = np.array([feats.shape[2]], dtype=np.int32)
        return self._session.run(feats, length).reshape(-1).astype(np.int32)


class OnnxSpeakerEncoder:
    """Samples [time] at 16 kHz to an embedding: Kaldi filterbank without its mean, then input [1, T, 80]."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._session = LazySession(path, threads)
        self._features = KaldiFbank()

    def __call__(self, samples: FloatArray) -> FloatArray:
        """See `SpeakerEncoder`. Raises `AudioError` for too few samples, `ModelError` for a damaged file."""
        return self._session.run(self._features(samples)[None].astype(np.float32)).reshape(-1).astype(np.float32)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
