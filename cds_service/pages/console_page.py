"""What every page of the admin console shares: its templates, who is asking, the way back from a form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask import Response, g, redirect, request
from jinja2 import Environment, PackageLoader, StrictUndefined
from werkzeug.exceptions import BadRequest
from werkzeug.wrappers import Response as AnyResponse

from cds_service.advice.writing import day, moment
from cds_service.pages.console_accounts import Accounts, Session
from cds_service.state.desk import Desk

if TYPE_CHECKING:
    from cds_service.app import House

templates = Environment(
    loader=PackageLoader("cds_service.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.filters |= {"moment": moment, "day": day}


@dataclass(frozen=True, slots=True)
class Console:
    """What the console's pages share; `root` is the path of /admin as browsers see it."""

    house: House
    desk: Desk
    accounts: Accounts
    root: str

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        who: Session | None = g.get("admin")
        settings = self.house.settings
        shared = {"root": self.root, "who": who, "here": request.endpoint, "oidc": settings.oidc_host}
        html = templates.get_template(f"pages/console_{template}.html").render(
            unchecked=settings.jwt == "off", **shared, **values
        )
        return Response(html, status, content_type="text/html; charset=utf-8")

    def to(self, path: str) -> AnyResponse:
        """Away from a form that was taken, so that a reload does not send it again."""
        return redirect(f"{self.root}/{path}", 303)


def admin() -> Session:
    """Who sends the current request; every route but the open ones has one."""
    found: Session = g.admin
    return found


def reason() -> str:
    """Why the form was sent, as every change and every audit search must say. Raises BadRequest without one."""
    why = request.form.get("why", "").strip()
    if not why:
        raise BadRequest("Say why: the next person asks.")
    return why
