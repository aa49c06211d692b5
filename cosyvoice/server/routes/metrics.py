"""`GET /metrics` for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from cosyvoice.server.routes.common import Service, errors

router = APIRouter(tags=["metrics"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **errors(),
    },
)
async def metrics(service: Service) -> Response:
    """Counters, gauges and histograms; their names begin with `cosyvoice_`."""
    return Response(service.metrics.exposition(), headers={"content-type": CONTENT_TYPE_LATEST})
