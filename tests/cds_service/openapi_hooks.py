"""What schemathesis needs to know of us besides the document: how a call is signed, and what a schema cannot say."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import schemathesis
from callers import Caller
from joserfc.jwk import ECKey

caller = Caller()
caller.key = ECKey.import_key(json.loads(Path(os.environ["CALLER_KEY"]).read_text()))
BASE = os.environ["CALLED"]


@schemathesis.auth(refresh_interval=None)
class Signed:
    """A token of its own for every call, for the address that is called."""

    def get(self, case: Any, context: Any) -> str:
        path = urlsplit(case.as_transport_kwargs(base_url=BASE)["url"]).path
        return caller.token(f"{BASE}{path}", time.time())

    def set(self, case: Any, data: str, context: Any) -> None:
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {data}"}


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """No integer of more than 19 digits, and a token for the patient of the context: both are beyond JSON Schema."""
    body = _counted(body)
    if isinstance(body, dict):
        authorization, about = body.get("fhirAuthorization"), body.get("context")
        if (
            isinstance(authorization, dict)
            and isinstance(authorization.get("patient"), str)
            and isinstance(about, dict)
        ):
            authorization["patient"] = about.get("patientId", "")
    return body


def _counted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _counted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_counted(inner) for inner in value]
    return value % 2**63 if type(value) is int and abs(value) >= 2**63 else value
