"""Our errors as a tree, and their HTTP faces as a table. Nothing of a request or a record is ever in a message."""

from __future__ import annotations

import json
from http import HTTPStatus

from cds_service.state.errors import StateUnavailable
from models.contract import EngineBusy, EngineTimeout


class ServiceError(Exception):
    """An error with an answer for the EHR.

    diagnostics  what was wrong and what would be right, in our words: field names and limits, never values
    expression   the field of the request it is about, e.g. `context.patientId`
    """

    status: HTTPStatus = HTTPStatus.INTERNAL_SERVER_ERROR
    issue: str = "exception"

    def __init__(self, diagnostics: str, *, expression: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(diagnostics)
        self.diagnostics = diagnostics
        self.expression = expression
        self.retry_after_s = retry_after_s


class BadRequest(ServiceError):
    """The call is malformed, or a member is missing or of the wrong type."""

    status = HTTPStatus.BAD_REQUEST
    issue = "invalid"


class Unauthorized(ServiceError):
    """The caller did not prove who it is. The answer gives no reason."""

    status = HTTPStatus.UNAUTHORIZED
    issue = "login"


class UnknownService(ServiceError):
    """No service of that id, or none of that id for this hook."""

    status = HTTPStatus.NOT_FOUND
    issue = "not-found"


class MethodNotAllowed(ServiceError):
    """The address is right and the method is not; `allow` lists the methods it has."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    issue = "not-supported"

    def __init__(self, allow: tuple[str, ...]) -> None:
        super().__init__(f"this address answers {', '.join(allow)} only")
        self.allow = allow


class TooLarge(ServiceError):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    issue = "too-long"


class UnsupportedMedia(ServiceError):
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    issue = "not-supported"


class MissingEvidence(ServiceError):
    """Data the service requires was neither sent nor reachable in time."""

    status = HTTPStatus.PRECONDITION_FAILED
    issue = "incomplete"


class Unavailable(ServiceError):
    """We have no room or no model in the time left; the EHR may ask again."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    issue = "transient"


class Throttled(ServiceError):
    """This client makes more calls than it may; others are answered."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    issue = "throttled"

    def __init__(self, diagnostics: str, retry_after_s: int) -> None:
        super().__init__(diagnostics, retry_after_s=retry_after_s)


def service_error(error: Exception) -> ServiceError:
    """The ServiceError behind any exception: errors of the packages below get their HTTP answer here."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, EngineBusy):
        return Unavailable("the model has no room for this call", retry_after_s=1)
    if isinstance(error, EngineTimeout):
        return Unavailable("the model did not answer in the time left", retry_after_s=1)
    if isinstance(error, StateUnavailable):
        return Unavailable("what must be kept cannot be kept at the moment", retry_after_s=5)
    return ServiceError("an internal error occurred; the log has it under this hook instance")


def operation_outcome(error: ServiceError) -> bytes:
    """The error as an OperationOutcome in JSON."""
    issue: dict[str, object] = {"severity": "error", "code": error.issue, "diagnostics": error.diagnostics}
    if error.expression:
        issue["expression"] = [error.expression]
    return json.dumps({"resourceType": "OperationOutcome", "issue": [issue]}).encode()
