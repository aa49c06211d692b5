"""Training of the vocoder (spectral losses, then adversarial ones) and of its F0 predictor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cosyvoice.audio.mel import mel_filterbank
from cosyvoice.hifigan.discriminator import MultipleDiscriminator
from cosyvoice.hifigan.generator import CausalHiFTGenerator
from cosyvoice.hifigan.losses import (
    GANWeights,
    adversarial_generator_loss,
    discriminator_loss,
    feature_match_loss,
    tpr_loss,
)
from cosyvoice.training.batching import pad
from cosyvoice.training.features import FeatureStore
from cosyvoice.training.loop import Context, adam, autocast, load_averaged, optimise
from cosyvoice.training.plots import plot_mels
from cosyvoice.training.settings import VocoderSettings

STFT_SIZES = ((512, 128), (1024, 256), (2048, 512), (240, 60))
"""Transform length and hop (samples) of the spectral losses; the window is as long as the transform."""
VALIDATION_ITEMS = 12
F0_EDGE = 10.0
"""Hz; below is unvoiced."""


class SpectralLoss(nn.Module):
    """Distance of magnitudes on several time scales (Yamamoto et al., 2020), and of log-mel at 24 kHz."""

    mel_basis: Tensor

    def __init__(self) -> None:
        super().__init__()
        basis = mel_filterbank(24000, 1920, 80, 0.0, None)
        self.register_buffer("mel_basis", torch.from_numpy(np.ascontiguousarray(basis)).float(), persistent=False)
        for size, _ in STFT_SIZES:
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)
        self.register_buffer("window_1920", torch.hann_window(1920), persistent=False)

    def _magnitude(self, x: Tensor, size: int, hop: int) -> Tensor:
        spectrum = torch.stft(x, size, hop, window=getattr(self, f"window_{size}"), return_complex=True)
        return torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)

    def log_mel(self, x: Tensor) -> Tensor:
        """[batch, samples] -> [batch, 80, frames]."""
        return torch.log((self.mel_basis @ self._magnitude(x, 1920, 480)).clamp(min=1e-5))

    def forward(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Multi-scale STFT loss (spectral convergence and log magnitude) and log-mel L1, of [batch, samples]."""
        total = fake.new_zeros(())
        for size, hop in STFT_SIZES:
            a, b = self._magnitude(fake, size, hop), self._magnitude(real, size, hop)
            convergence = torch.linalg.norm(b - a) / (torch.linalg.norm(b) + 1e-6)
            # The floor keeps bins that hold nothing but rounding noise from ruling the loss.
            total = total + convergence + (torch.log(a + 1e-3) - torch.log(b + 1e-3)).abs().mean()
        return total / len(STFT_SIZES), (self.log_mel(fake) - self.log_mel(real)).abs().mean()


class VocoderTask:
    """Trains generator and F0 predictor at once; they share no weights and no gradient."""

    name = "vocoder"

    def __init__(self, settings: VocoderSettings, store: FeatureStore) -> None:
        self.settings, self.store = settings, store
        self.model = CausalHiFTGenerator(settings.model)
        with torch.no_grad():
            # F0 is in Hz: begin near the mean of speech, with steps of its size.
            self.model.f0_predictor.classifier.bias.fill_(100.0)
            self.model.f0_predictor.classifier.weight.mul_(30.0)
        self.loss = SpectralLoss()
        self.optimizer = adam([self.model], settings.loop.rate, settings.loop.decay, betas=(0.8, 0.99))
        self.adversary: MultipleDiscriminator | None = None
        self._optimizers = [self.optimizer]
        if settings.gan_start < 1:
            self.adversary = MultipleDiscriminator(
                period_channels=settings.gan_period_channels, spectrum_channels=settings.gan_spectrum_channels
            )
            self.adversary_optimizer = adam([self.adversary], settings.loop.rate / 2, 0.0, betas=(0.8, 0.99))
            self._optimizers.append(self.adversary_optimizer)
        shortest = settings.segment_frames + self.model.look_ahead + 2
        self.items = [i for i in store.split("train") if len(store.get("mel", i)) >= shortest]
        self.validation_items = store.split("validation")

    def modules(self) -> dict[str, nn.Module]:
        return {"vocoder": self.model} | ({"adversary": self.adversary} if self.adversary is not None else {})

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return list(self._optimizers)

    def _batch(self, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Random segments: mel [batch, 80, frames], F0 [batch, frames], samples [batch, frames * hop]."""
        rng = np.random.default_rng([self.settings.loop.seed, context.step])
        frames, hop = self.settings.segment_frames, self.model.hop
        mels: list[np.ndarray] = []
        f0s: list[np.ndarray] = []
        waves: list[np.ndarray] = []
        for item in rng.integers(0, len(self.items), self.settings.batch):
            index = self.items[item]
            mel = self.store.get("mel", index)
            start = int(rng.integers(0, len(mel) - frames + 1))
            mels.append(mel[start : start + frames])
            f0s.append(self.store.get("f0", index)[start : start + frames])
            waves.append(self.store.samples(index)[start * hop : (start + frames) * hop])
        batch = [pad(parts).float().to(context.device) for parts in (mels, f0s, waves)]
        return batch[0].transpose(1, 2), batch[1], batch[2]

    def step(self, context: Context) -> dict[str, float]:
        settings = self.settings
        self.loss.to(context.device)
        mel, f0, wave = self._batch(context)
        noise = self.model.training_noise(len(mel), mel.shape[2], context.generator).to(context.device)
        with autocast(context.device, settings.loop.bf16):
            fake = self.model(mel, f0, noise)
            predicted = self.model.predict_f0(mel)
        # The last frames lack their look-ahead within a segment: they are no fair target.
        usable = wave.shape[1] - self.model.config.conv_pre_look_right * self.model.hop
        stft, mel_loss = self.loss(fake[:, :usable].float(), wave[:, :usable])
        f0_loss = pitch_loss(predicted.float(), f0)
        total = settings.stft_weight * stft + settings.mel_weight * mel_loss + settings.f0_weight * f0_loss
        logged = {"stft": stft, "mel": mel_loss, "f0": f0_loss}
        if self.adversary is not None and context.progress >= settings.gan_start:
            judged_fake, judged_real = fake[:, :usable].float(), wave[:, :usable]
            logged["discriminator"] = self._teach_adversary(judged_fake.detach(), judged_real)
            logged["adversarial"] = self._persuade(judged_fake, judged_real)
            total = total + settings.gan_weight * logged["adversarial"]
        norm = optimise(total, self.optimizer, settings.loop.clip)
        return {"norm": norm, **{name: float(value.detach()) for name, value in logged.items()}}

    def _teach_adversary(self, fake: Tensor, real: Tensor) -> Tensor:
        """The discriminators' turn; returns their loss."""
        assert self.adversary is not None
        losses = discriminator_loss(self.adversary(real), self.adversary(fake), GANWeights())
        optimise(losses.total, self.adversary_optimizer, self.settings.loop.clip)
        return losses.total

    def _persuade(self, fake: Tensor, real: Tensor) -> Tensor:
        """What the generator is told by the discriminators; spectral and F0 terms are counted by `step`."""
        assert self.adversary is not None
        weights = GANWeights()
        with torch.no_grad():
            real_verdicts = self.adversary(real)
        fake_verdicts = self.adversary(fake)
        return (
            adversarial_generator_loss(fake_verdicts)
            + weights.feature_match * feature_match_loss(real_verdicts, fake_verdicts)
            + weights.tpr * tpr_loss(fake_verdicts, real_verdicts, weights.tpr_tau)
        )

    def validate(self, context: Context) -> dict[str, float]:
        self.loss.to(context.device)
        sums = {"stft": 0.0, "mel": 0.0, "f0_error": 0.0, "voicing_error": 0.0}
        shown: dict[str, np.ndarray] = {}
        items = self.validation_items[:: max(1, len(self.validation_items) // VALIDATION_ITEMS)]
        generator = torch.Generator().manual_seed(0)
        for index in items:
            mel = torch.from_numpy(self.store.get("mel", index).astype(np.float32)).T[None].to(context.device)
            f0 = torch.from_numpy(self.store.get("f0", index))[None].to(context.device)
            wave = torch.from_numpy(self.store.samples(index))[None].to(context.device)
            guess = self.model.predict_f0(mel).float()
            noise = self.model.training_noise(1, mel.shape[2], generator).to(context.device)
            fake = self.model(mel, guess, noise)
            stft, distance = self.loss(fake, wave)
            voiced, guessed = f0 > F0_EDGE, guess > F0_EDGE
            both = voiced & guessed
            error = ((guess - f0).abs() / f0.clamp(min=1))[both].median() if both.any() else torch.ones(())
            sums["stft"] += float(stft) / len(items)
            sums["mel"] += float(distance) / len(items)
            sums["f0_error"] += float(error) / len(items)
            sums["voicing_error"] += float((voiced != guessed).float().mean()) / len(items)
            if not shown:
                shown["recorded"] = self.loss.log_mel(wave)[0].T.cpu().numpy()
                shown["vocoder"] = self.loss.log_mel(fake)[0].T.cpu().numpy()
        plot_mels(shown, context.folder / "mel.png")
        return sums


def pitch_loss(predicted: Tensor, f0: Tensor) -> Tensor:
    """Relative error where voiced, a push below the threshold where not; both [batch, frames] in Hz."""
    voiced = f0 > F0_EDGE
    relative = (predicted - f0).abs() / f0.clamp(min=50.0)
    silent = predicted.abs() / 100.0
    return torch.where(voiced, relative, silent).mean()


def load_vocoder(run: Path, settings: VocoderSettings) -> CausalHiFTGenerator:
    """The trained vocoder of a run folder, in evaluation mode."""
    model = CausalHiFTGenerator(settings.model)
    model.load_state_dict(load_averaged(run, "vocoder"))
    return model.eval()
