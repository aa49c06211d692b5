"""The model under its own name and its aliases, in the lists that OpenAI's and Open WebUI's clients read."""

from __future__ import annotations

from fastapi import APIRouter

from cosyvoice.server.routes.common import Service, errors
from cosyvoice.server.schemas import AudioModel, AudioModelList, Model, ModelList
from cosyvoice.server.service import SpeechService
from cosyvoice.server.translate import check_model

router = APIRouter(tags=["models"])


@router.get("/v1/models", responses=errors())
async def list_models(service: Service) -> ModelList:
    """All names that `model` may have."""
    return ModelList(data=[Model(id=name) for name in _names(service)])


@router.get("/v1/models/{model}", responses=errors(404))
async def get_model(model: str, service: Service) -> Model:
    """One model."""
    check_model(service, model)
    return Model(id=model)


@router.get("/v1/audio/models", responses=errors())
async def list_audio_models(service: Service) -> AudioModelList:
    """The same, as Open WebUI asks for it."""
    return AudioModelList(models=[AudioModel(id=name) for name in _names(service)])


def _names(service: SpeechService) -> list[str]:
    return list(dict.fromkeys([service.model_name, *service.settings.model_aliases]))
