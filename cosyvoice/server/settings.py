"""Settings of the server: flags over `COSYVOICE_*` environment variables over a file.

Nested settings take two underscores in the environment: `COSYVOICE_LIMITS__QUEUE=16`. API keys are kept as SHA-256
digests only; a key may also be written as its digest, `sha256:…`, so that no file needs to hold the key itself.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from cosyvoice.errors import ConfigError
from cosyvoice.server.addresses import is_loopback

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
Names = Annotated[tuple[str, ...], NoDecode]
"""In the environment separated by commas."""


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Group):
    """What one client, one request and the whole server may use. Zero turns a limit off where that is said."""

    text_characters: int = Field(4096, ge=1)
    """Of one request; OpenAI's own limit."""
    batch_items: int = Field(32, ge=1)
    upload_bytes: int = Field(10 << 20, ge=1024)
    """Of one recording, before it is decoded."""
    reference_seconds: float = Field(30.0, gt=0, le=30)
    """Longest recording that is decoded."""
    decode_channels: int = Field(8, ge=1)
    decode_rate: int = Field(192_000, ge=16_000)
    """Highest sample rate of a recording, in Hz."""
    running: int = Field(8, ge=1, le=64)
    """Requests that speak at the same time."""
    queue: int = Field(64, ge=0)
    """Requests that wait for one of them to end."""
    paused: int = Field(16, ge=0, le=256)
    """Requests that have begun and wait for their client: for more text, or to read. They keep their memory, not their
    place among those that run."""
    audio_seconds: float = Field(1200.0, gt=0)
    """Expected speech of all requests that run or wait."""
    queue_seconds: float = Field(120.0, gt=0)
    """A request that has waited so long is refused."""
    request_seconds: float = Field(600.0, gt=0)
    """From admission to the last sample."""
    buffer_seconds: float = Field(30.0, gt=0)
    """Speech that is kept ahead of a reader who is slower than the model."""
    stall_seconds: float = Field(30.0, gt=0)
    """A reader who takes nothing for so long, with a full buffer, is given up."""
    drain_seconds: float = Field(30.0, ge=0)
    """After SIGTERM, what runs may take so long to end."""
    key_concurrency: int = Field(0, ge=0)
    """Requests of one key that run or wait; 0: no limit but that of all."""
    key_requests_per_minute: int = Field(0, ge=0)
    """0: no limit."""
    voices: int = Field(1000, ge=0)
    """Uploaded voices."""
    voices_bytes: int = Field(512 << 20, ge=0)
    """Space of all uploaded voices."""
    voice_cache: int = Field(64, ge=1)
    """Voices kept in memory, references of requests among them."""
    websocket_frame_bytes: int = Field(64 << 10, ge=1024)
    websocket_buffer_characters: int = Field(16_384, ge=1)
    """Text that waits to be spoken on one connection."""
    websocket_idle_seconds: float = Field(60.0, gt=0)
    text_seconds: float = Field(15.0, gt=0)
    """A text that is spoken while it is written is given up when nothing is added for so long."""
    websocket_generations: int = Field(1000, ge=1)
    """Generations of one connection."""


class RemoteAudio(_Group):
    """Recordings that requests name by URL."""

    hosts: Names = ()
    """Hosts that may be asked; none by default. `*.example.org` allows what lies under it."""
    seconds: float = Field(10.0, gt=0)

    _split = field_validator("hosts", mode="before")(lambda value: split_names(value))


class Settings(BaseSettings):
    """Everything that the server can be told. Raises pydantic's `ValidationError`; see `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix="COSYVOICE_", env_nested_delimiter="__", extra="forbid", frozen=True, protected_namespaces=()
    )

    model: Path | None = None
    """Model directory; None: the model of the package."""
    backend: Literal["auto", "native", "reference"] = "auto"
    threads: int | None = Field(None, ge=1)
    """Of one operation; None uses all cores."""
    steps: int | None = Field(None, ge=1)
    """Of the flow in the native engine; None: those of the model. Fewer are faster and less exact."""
    guided_until: float | None = Field(None, ge=0.0, le=1.0)
    """Flow time from which the steps of the flow go without guidance, at half the cost; None: all are guided."""
    engine: Literal["onnxruntime", "openvino"] | None = None
    """What runs flow and vocoder in the native engine; None: ONNX Runtime."""
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    api_keys: Names = Field((), repr=False)
    """Digests of the keys that are accepted; without any, no key is asked for."""
    allow_public: bool = False
    """Listen on an address other than loopback without a key."""
    cors_origins: Names = ()
    """Origins whose pages may call the server; none by default."""
    model_aliases: Names = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
    """Names besides its own that the model answers to."""
    voice_aliases: dict[str, str] = Field(default_factory=dict)
    """Further names of voices; those of OpenAI are given to the presets."""
    voices_directory: Path | None = None
    """Where uploaded voices lie; None: where the command keeps its own."""
    prompt_folder: Path | None = None
    """Folder of recordings that `/synthesize` may name by path; None: no path is accepted."""
    grpc_port: int | None = Field(None, ge=0, le=65535)
    wyoming_port: int | None = Field(None, ge=0, le=65535)
    wyoming_zeroconf: str | None = Field(None, min_length=1, max_length=63, pattern=r"^[^.\x00-\x1f]+$")
    """Name under which the Wyoming port is announced on the local network; None: it is not."""
    web: bool = False
    """Serve the page under `/ui`; where keys are set, it asks for one of them as the password."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = True
    tracing: bool = False
    """OpenTelemetry spans, exported as its own `OTEL_*` variables say."""
    limits: Limits = Limits()
    remote_audio: RemoteAudio = RemoteAudio()

    _split = field_validator("cors_origins", "model_aliases", mode="before")(lambda value: split_names(value))

    @field_validator("api_keys", mode="before")
    @classmethod
    def _hash_keys(cls, value: Any) -> Any:
        return tuple(digest_of(key) for key in split_names(value))

    @model_validator(mode="after")
    def _refuse_public(self) -> Settings:
        if not self.api_keys and not self.allow_public and not is_loopback(self.host):
            raise ValueError(
                f"{self.host} can be reached from other machines and no API key is set; give --api-key, listen on "
                "127.0.0.1, or say --allow-public"
            )
        return self


def load_settings(file: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Settings from `flags`, then the environment, then `file` (YAML or JSON), then the defaults.

    Raises `ConfigError` for unknown keys, values out of range, and a file that cannot be read.
    """
    from_file = _read(file) if file is not None else {}

    class _Layered(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=from_file)

    try:
        return _Layered(**dict(flags or {}))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"the server cannot be set up: {place + ': ' if place else ''}{message}") from None


def split_names(value: Any) -> Any:
    """Text with commas as a tuple of names; anything else as it is."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, list) else value


def digest_of(key: str) -> str:
    """`sha256:…` of an API key in the settings; a digest stays as it is."""
    return key if _DIGEST.fullmatch(key) else hash_key(key)


def hash_key(key: str) -> str:
    """`sha256:…` of what a client presents, whatever it looks like."""
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def _read(file: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}); check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no YAML or JSON ({error}); correct it") from None
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ConfigError(f"{file} holds no settings; write one 'name: value' a line")
    return data
