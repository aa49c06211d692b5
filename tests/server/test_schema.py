"""A short version of `benchmarks/schema.py`: generated requests, valid and invalid, against the OpenAPI document."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from cosyvoice.server.app import create_app

schemathesis = pytest.importorskip("schemathesis")


@pytest.mark.parametrize("kind", ["positive", "negative"])
@pytest.mark.filterwarnings("ignore")
def test_answers_are_those_of_the_document(make_service: Any, kind: str) -> None:
    from hypothesis import HealthCheck, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis import GenerationMode
    from schemathesis.checks import load_all_checks
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    load_all_checks()
    fake = make_service()
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(fake.settings, fake.service))
    tested = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=2, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.as_strategy(generation_mode=GenerationMode(kind)))
        def check(case: Any) -> None:
            nonlocal tested
            response = case.call()
            # Well-formed requests may still be refused, for a text that cannot be spoken for example.
            case.validate_response(response, excluded_checks=[positive_data_acceptance])
            assert response.status_code < 500 or case.path in ("/readyz", "/health")
            tested += 1

        # Nothing can be invalid about an operation without parameters.
        with contextlib.suppress(Unsatisfiable) if kind == "negative" else contextlib.nullcontext():
            check()
    assert tested > 15
    assert fake.llm.held == 0 and fake.service.under_way == 0
