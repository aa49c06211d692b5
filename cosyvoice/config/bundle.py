"""What a bundle is: a model directory that the native engine can run, and the record of how it was made.

`bundle.json` says which precision each stage has, where the weights come from, what their conversion cost in
quality, and how long every file is, so that a truncated copy is found before it is loaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, cast

from pydantic import Field

from cosyvoice.config.base import StrictModel
from cosyvoice.errors import ConfigError, ModelError

BUNDLE_FILE = "bundle.json"
Precision = Literal["fp32", "int8", "int4", "mixed"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "int4", "mixed")


class Bundle(StrictModel):
    """The content of `bundle.json`."""

    format_version: Literal[1] = 1
    precision: Precision = "fp32"
    stages: dict[str, str] = Field(default_factory=dict, description="precision of each stage")
    source: str = Field("", description="name of the model directory that was converted")
    source_digest: dict[str, str] = Field(default_factory=dict, description="SHA-256 of each of its weight files")
    made_by: str = Field("", description="version of this package that made the bundle")
    quality: dict[str, float] = Field(
        default_factory=dict, description="measured distance of each stage from the source in single precision"
    )
    released: bool = Field(False, description="the weights are those of a released model, with its fixed noise")
    files: dict[str, int] = Field(default_factory=dict, description="bytes of every file that the engine reads")

    @property
    def float_weights(self) -> bool:
        """Whether the weights can be read as numbers, by the reference as well."""
        return self.precision == "fp32"


def is_bundle(directory: Path) -> bool:
    """Whether `directory` was converted for the native engine."""
    return (directory / BUNDLE_FILE).is_file()


def read_bundle(directory: Path) -> Bundle:
    """The record of a bundle whose files are all there and of the right length.

    Raises:
        ModelError: there is no record, it cannot be read, or a file is missing or truncated.
    """
    path = directory / BUNDLE_FILE
    if not path.is_file():
        raise ModelError(
            f"{directory} was not converted for the native engine; convert it with 'cosyvoice convert "
            f"{directory} OUT', or load it with backend='reference'"
        )
    try:
        bundle = cast(Bundle, Bundle.parse(json.loads(path.read_text(encoding="utf-8")), str(path)))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); copy the complete bundle") from None
    except ConfigError as error:
        raise ModelError(f"{error}; this version cannot run the bundle, convert the model again") from None
    for name, size in bundle.files.items():
        file = directory / name
        if not file.is_file():
            raise ModelError(f"{file} is missing; copy the complete bundle")
        if file.stat().st_size != size:
            raise ModelError(
                f"{file} has {file.stat().st_size} bytes instead of {size}; it is truncated or of another bundle, "
                "so copy the complete bundle"
            )
    return bundle
