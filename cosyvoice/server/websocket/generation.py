"""One text of a connection and what becomes of it."""

from __future__ import annotations

from typing import Literal

from cosyvoice.server.encoding import AudioFormat
from cosyvoice.server.feed import TextFeed
from cosyvoice.server.job import SpeechJob
from cosyvoice.server.requests import SpeechRequest

Outcome = Literal["ok", "cancelled", "failed"]
_SHOWN_CHARACTERS = 80


class Generation:
    """Text on its way in, or waiting to be spoken, or being spoken.

    Args:
        name: its id.
        index: its number on the connection.
        request: speaks `feed` as the configuration says that held when it began.
        feed: its text.
        audio_format: of what is sent.
    """

    def __init__(
        self, name: str, index: int, request: SpeechRequest, feed: TextFeed, audio_format: AudioFormat
    ) -> None:
        self.name, self.index, self.request, self.feed, self.audio_format = name, index, request, feed, audio_format
        self.job: SpeechJob | None = None
        self.begins = ""
        """The first characters of the text."""
        self.queued = False
        """Whether it has its place among those to be spoken."""
        self.complete = False
        """Whether all of its text is there."""
        self.cancelled = False
        self.ended = False
        """Whether its outcome has been told."""

    def push(self, text: str) -> None:
        """Append to the text. Raises `RequestError` where it becomes too long."""
        self.feed.push(text)
        self.begins = (self.begins + text[:_SHOWN_CHARACTERS])[:_SHOWN_CHARACTERS]

    @property
    def blank(self) -> bool:
        """Whether there is nothing to speak so far."""
        return not self.begins.strip()

    def finish(self) -> None:
        """The text is complete."""
        self.complete = True
        self.feed.finish()

    def cancel(self) -> None:
        """Stop within one step; further calls do nothing."""
        self.complete = self.cancelled = True
        self.feed.close()
        if self.job is not None and self.job.ended_at is None:
            self.job.cancel()

    def end(self) -> None:
        """It has been spoken, or will not be."""
        self.complete = self.ended = True
        self.feed.close()
