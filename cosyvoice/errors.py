"""The typed errors of the library: each names the cause and, in the same sentence, the cure.

Every error that a caller can provoke derives from `CosyVoiceError`, so one `except` catches them all. The command
line prints the message on one line and exits with code 2.
"""

from __future__ import annotations


class CosyVoiceError(Exception):
    """Base of every error that bad input or a bad file can provoke."""


class TextError(CosyVoiceError):
    """The text cannot be spoken: empty, only punctuation, or in a script that the model never saw."""


class AudioError(CosyVoiceError):
    """An audio file is missing, unreadable, or unusable (silent, clipped, too short, too long, bad rate)."""


class SeveralSpeakersError(AudioError):
    """A recording of one voice holds several."""


class VoiceError(CosyVoiceError):
    """A voice is unknown, malformed, or does not fit its transcript."""


class ModelError(CosyVoiceError):
    """A model directory is missing a file or a file does not fit the configuration."""


class ConfigError(CosyVoiceError):
    """A configuration has an unknown key or a value out of range."""


class OutputError(CosyVoiceError):
    """An output cannot be written where it was asked for."""


class GenerationError(CosyVoiceError):
    """The model produced no usable speech, even after retries with other seeds."""


class MissingDependencyError(CosyVoiceError):
    """A feature needs an extra that is not installed; the message names the command that installs it."""


class DownloadError(ModelError):
    """A model cannot be downloaded: there is no connection, no such model, or it does not arrive intact."""
