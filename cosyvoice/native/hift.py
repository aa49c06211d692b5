"""The vocoder of the first two generations on ONNX Runtime, as the stage of joined chunks asks for it.

Long input is decoded in blocks, which keeps the working memory small. A block is given as many frames of its
surroundings as its samples depend on, so where the blocks lie makes no difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from cosyvoice.config.model import HiFTConfig
from cosyvoice.engine.compat import Compat
from cosyvoice.engine.joint_vocoder import JointVocoderStage, SourceDraws
from cosyvoice.engine.stages import FloatArray
from cosyvoice.errors import ModelError
from cosyvoice.native.blas import one_blas_thread
from cosyvoice.native.f0_predictor import ConvF0Predictor
from cosyvoice.native.overlap_add import OverlapAdd
from cosyvoice.native.runtime import Runtime, run
from cosyvoice.native.source import HarmonicMixture, SourceSpectrum
from cosyvoice.native.vocoder import GRAPH_NAME, WEIGHTS_NAME, read_source_weights
from cosyvoice.native.vocoder_reach import context_frames, stretches

BLOCK_FRAMES = 200
"""Mel frames that one run of the graph gives the samples of, at most."""


class NativeHiFT:
    """`VocoderNetworks` of a bundle: F0 and source in NumPy, the decoder as a graph."""

    def __init__(self, directory: Path, config: HiFTConfig, runtime: Runtime) -> None:
        directory = Path(directory)
        weights = read_source_weights(directory / WEIGHTS_NAME)
        self._limit = config.audio_limit
        self._rate = math.prod(config.upsample_rates)
        self._hop = self._rate * config.istft_hop
        self._context = context_frames(config)
        self._f0 = ConvF0Predictor(weights, config)
        self._source = HarmonicMixture(weights, config)
        self._spectrum = SourceSpectrum(config.istft_n_fft, config.istft_hop)
        self._overlap_add = OverlapAdd(config.istft_n_fft, config.istft_hop)
        self._runtime = runtime
        self._session = runtime.session(directory / GRAPH_NAME, threads=1)
        inputs = {value.name: value.shape[1:2] for value in self._session.get_inputs()}
        if inputs != {"mel": [config.in_channels], "spectrum": [config.istft_n_fft + 2]}:
            raise ModelError(f"{directory / GRAPH_NAME} is of another configuration; convert the model again")

    @one_blas_thread
    def predict_f0(self, mel: FloatArray) -> FloatArray:
        """See `VocoderNetworks`."""
        return self._f0.predict(mel).astype(np.float32, copy=False)

    @one_blas_thread
    def excite(self, f0: FloatArray, phases: FloatArray, noise: FloatArray) -> FloatArray:
        """See `VocoderNetworks`."""
        return self._source.excite(f0, phases, noise)

    @one_blas_thread
    def decode(self, mel: FloatArray, source: FloatArray) -> FloatArray:
        """See `VocoderNetworks`."""
        spectrum = self._spectrum.whole(source)
        lanes = stretches(0, len(mel), 2 * self._context, self._runtime.threads)
        parts = self._runtime.side_by_side([partial(self._stretch, mel, spectrum, *lane) for lane in lanes])
        return np.clip(np.concatenate(parts), -self._limit, self._limit)

    def _stretch(self, mel: FloatArray, spectrum: FloatArray, begin: int, end: int) -> FloatArray:
        """Samples of the frames `begin` to `end`, block by block."""
        bounds = np.linspace(begin, end, -(-(end - begin) // BLOCK_FRAMES) + 1).astype(int).tolist()
        parts = []
        for start, stop in pairwise(bounds):
            first, last = max(start - self._context, 0), min(stop + self._context, len(mel))
            samples = self._block(mel[first:last], spectrum[first * self._rate : last * self._rate + 1])
            parts.append(samples[(start - first) * self._hop : (stop - first) * self._hop])
        return np.concatenate(parts)

    def _block(self, mel: FloatArray, spectrum: FloatArray) -> FloatArray:
        """Samples [frames * hop] of `mel` [frames, n_mels], with nothing around it."""
        inputs = {"mel": np.ascontiguousarray(mel.T)[None], "spectrum": np.ascontiguousarray(spectrum.T)[None]}
        (overlapped,) = run(self._session, ["samples"], inputs)
        return self._overlap_add.whole(overlapped[0, 0], len(spectrum))


class NativeHiFTStage(JointVocoderStage):
    """The vocoder of V1 and V2."""

    def __init__(
        self,
        directory: Path,
        config: HiFTConfig,
        runtime: Runtime,
        compat: Compat = "corrected",
        draws: Callable[[], SourceDraws] | None = None,
    ) -> None:
        """Read the graph and the weights of the source from `directory`; `compat` and `draws`: see `JointVocoderStage`.

        Raises `ModelError` where a file is missing, damaged or of another configuration.
        """
        super().__init__(NativeHiFT(directory, config, runtime), config, compat, draws)
