from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

from cosyvoice.config.model import DiTConfig, FlowConfig
from cosyvoice.engine.stages import FlowInput
from cosyvoice.errors import ModelError
from cosyvoice.flow.flow import CausalMaskedDiffWithDiT
from cosyvoice.native.flow_encoder import FlowEncoder, modulations

CONFIG = FlowConfig(
    vocab_size=23,
    speaker_embedding_dim=7,
    mel_dim=5,
    pre_lookahead_len=2,
    pre_lookahead_channels=9,
    token_mel_ratio=3,
    mel_mean=-2.0,
    mel_std=4.0,
    dit=DiTConfig(
        dim=16, depth=2, heads=2, dim_head=8, mel_dim=5, mu_dim=6, spk_dim=4, out_channels=5, conv_pos_groups=4
    ),
)
PROMPT, SPOKEN = 4, 9


@pytest.fixture(scope="module")
def network() -> CausalMaskedDiffWithDiT:
    network = CausalMaskedDiffWithDiT(CONFIG)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return network.eval()


@pytest.fixture(scope="module")
def weights(network: CausalMaskedDiffWithDiT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flow") / "flow.safetensors"
    save_file({name: tensor.numpy() for name, tensor in network.state_dict().items()}, path)
    return path


def voice() -> FlowInput:
    random = np.random.default_rng(2)
    return FlowInput(
        random.integers(0, 23, PROMPT).astype(np.int32),
        random.standard_normal((3 * PROMPT, 5)).astype(np.float32),
        random.standard_normal(7).astype(np.float32),
    )


@pytest.mark.parametrize("finalize", [True, False])
def test_any_run_of_frames_gets_the_projection_of_the_reference(
    network: CausalMaskedDiffWithDiT, weights: Path, finalize: bool
) -> None:
    inputs, tokens = voice(), [-1, *range(3, 2 + SPOKEN)]
    with torch.inference_mode():
        known = network.inference_conditions(
            torch.tensor([tokens]),
            torch.from_numpy(inputs.prompt_token)[None],
            torch.from_numpy(inputs.prompt_mel)[None],
            torch.from_numpy(inputs.speaker_embedding)[None],
            finalize=finalize,
        ).with_unconditional()
        frames = known.mu.shape[2]
        parts = [torch.zeros(2, 5, frames), known.cond, known.mu, known.spks[..., None].expand(-1, -1, frames)]
        expected = network.decoder.estimator.input_embed.proj(torch.cat(parts, dim=1).transpose(1, 2)).numpy()
    encoder = FlowEncoder(weights, CONFIG)
    prepared = encoder.voice(inputs)
    ids = np.concatenate([prepared.tokens, encoder.checked(tokens)])
    assert frames == 3 * (PROMPT + SPOKEN - (0 if finalize else 2))
    for first, end in ((0, frames), (0, 7), (7, 19), (5, 6), (20, frames)):
        ours = encoder.projected(prepared, ids, first, end)
        np.testing.assert_allclose(ours, expected[:, first:end], atol=1e-5)


def test_modulation_and_angles_are_those_of_the_reference(network: CausalMaskedDiffWithDiT, weights: Path) -> None:
    times = [np.float32(0.0), np.float32(0.012), np.float32(0.8)]
    dit = network.decoder.estimator
    ours = modulations(weights, CONFIG, times)
    with torch.inference_mode():
        time = F.silu(dit.time_embed(torch.tensor(np.array(times))))
        for block in range(2):
            shift, scale, gate, ff_shift, ff_scale, ff_gate = (
                dit.transformer_blocks[block].attn_norm.linear(time).chunk(6, dim=1)
            )
            expected = torch.stack([1 + scale, shift, gate, 1 + ff_scale, ff_shift, ff_gate], dim=1).numpy()
            np.testing.assert_allclose(np.stack(ours)[:, 6 * block : 6 * block + 6], expected, atol=1e-4)
        scale, shift = dit.norm_out.linear(time).chunk(2, dim=1)
        np.testing.assert_allclose(np.stack(ours)[:, 12:], torch.stack([1 + scale, shift], dim=1).numpy(), atol=1e-4)
        expected_angles = dit.rotary_embed(700)
    for a, b in zip(FlowEncoder(weights, CONFIG).angles(300, 700), expected_angles, strict=True):
        np.testing.assert_allclose(a, b[300:].numpy(), atol=1e-6)


def test_bad_weights_and_tokens_are_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"speech token 23 is outside 0\.\.22"):
        FlowEncoder(weights, CONFIG).checked([4, 23])
    (tmp_path / "flow.safetensors").write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match="convert the model again"):
        FlowEncoder(tmp_path / "flow.safetensors", CONFIG)
