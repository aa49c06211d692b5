import matplotlib.image
import numpy as np

from cosyvoice.training.plots import plot_attention, plot_losses, plot_mels


def test_losses_are_drawn_as_a_panel_for_each_quantity(tmp_path):
    history = {"train/loss": [(1, 2.0), (2, 1.0)], "validation/loss": [(2, 1.5)]}
    plot_losses(history, tmp_path / "one.png")
    plot_losses(history | {"train/norm": [(1, 1.0)]}, tmp_path / "two.png")
    one, two = (matplotlib.image.imread(tmp_path / name) for name in ("one.png", "two.png"))
    assert two.shape[1] > 1.5 * one.shape[1]
    assert len(np.unique(one[..., :3].reshape(-1, 3), axis=0)) > 10


def test_a_run_without_reports_has_no_picture(tmp_path):
    plot_losses({}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_spectrograms_share_a_scale_and_stand_above_each_other(tmp_path):
    mel = np.linspace(-10, 2, 50 * 80).reshape(50, 80)
    plot_mels({"recorded": mel}, tmp_path / "one.png")
    plot_mels({"recorded": mel, "flow": mel}, tmp_path / "two.png")
    one, two = (matplotlib.image.imread(tmp_path / name) for name in ("one.png", "two.png"))
    assert two.shape[0] > 1.5 * one.shape[0]


def test_attention_is_drawn_over_its_symbols(tmp_path):
    plot_attention(np.eye(6, 4), ["HH", "AH0", "L", "."], tmp_path / "attention.png")
    picture = matplotlib.image.imread(tmp_path / "attention.png")
    # Yellow where the head looks, violet where not.
    assert (np.abs(picture[..., :3] - (0.99, 0.91, 0.14)).max(-1) < 0.05).mean() > 0.02
