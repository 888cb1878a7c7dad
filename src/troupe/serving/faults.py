"""What the server says when it refuses: OpenAI's form of an error, and MLflow's where /invocations is asked."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse

INVOCATIONS = "/invocations"
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
MLFLOW_CODES = {400: "INVALID_PARAMETER_VALUE", 429: "REQUEST_LIMIT_EXCEEDED", 500: "INTERNAL_ERROR"}


class Refusal(Exception):
    """An answer with an error's status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers

    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self, path: str) -> JSONResponse:
        body = self.body()
        if path == INVOCATIONS:
            body = {"error_code": MLFLOW_CODES.get(self.status, "BAD_REQUEST"), "message": self.message}
        return JSONResponse(body, self.status, dict(self.headers or {}))


def of_validation(errors: Sequence[Any]) -> Refusal:
    """The first thing that is wrong with a request's body: which field, and what it should be."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return Refusal(400, f"the body is no JSON: {first['ctx']['error']} at character {first['loc'][-1]}")
    field = [str(part) for part in first["loc"][1:]]
    if not field:
        return Refusal(400, "the body must be a JSON object, with Content-Type: application/json")
    shown = ".".join(field)
    if first["type"] == "extra_forbidden":
        return Refusal(400, f"{shown}: there is no such parameter here", param=shown, code="unknown_parameter")
    return Refusal(400, f"{shown}: {first['msg']}", param=shown, code=first["type"])
