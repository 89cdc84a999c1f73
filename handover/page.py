"""The pages that a device sees during a hand-over. They load nothing."""

from collections.abc import Collection, Iterable
from html import escape

from handover.files import Handover, OneTimeFile
from handover.guides import GUIDES
from handover.markup import breakable, read_text, style_source, template
from handover.sheet import steps_of

_STYLE = read_text("style.css") + read_text("sheet.css") + read_text("page.css")
_TEMPLATE = template("page.html")

CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src '{style_source(_STYLE)}'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""The policy that the server sends with every page."""


def landing_page(
    handover: Handover, base: str, waiting: Iterable[OneTimeFile], fetched: Collection[str], minutes: int
) -> bytes:
    """Return the page with one button for each file that is still available below the path `base`.

    Each button sends a POST, so a messenger that fetches the link for a preview only ever gets this page.
    """
    forms = "".join(_form(base, file) for file in waiting)
    return _page(
        f"Certificate for {handover.device}",
        '<p class="lead">It lets this device open all of Immich. Each file can be fetched once, and the page '
        f"closes after {minutes} minutes at the latest.</p>{_done(fetched)}"
        '<div class="card small"><p>Before you go on: your browser said that it does not know this page. '
        "Open the certificate's details there and compare its SHA-256 fingerprint with the one in the "
        f"terminal.</p></div>{forms}"
        '<p class="small after">The terminal shows the password once the file has been fetched.</p>'
        f"{_steps(handover)}",
    )


def fetched_page(handover: Handover, fetched: Collection[str]) -> bytes:
    """Return the page for a device that comes back after everything was fetched."""
    return _page(
        "Nothing is left to fetch",
        f'{_done(fetched)}<p class="lead">Each file is handed out once. If it was not you who fetched it, '
        f"tell the person who runs the server.</p>{_steps(handover)}",
    )


def _done(fetched: Collection[str]) -> str:
    if not fetched:
        return ""
    names = " and ".join(f'<b class="name">{escape(name)}</b>' for name in fetched)
    verb = "was" if len(fetched) == 1 else "were"
    return f'<div class="card done"><p>{names} {verb} fetched. The terminal shows the password.</p></div>'


def _steps(handover: Handover) -> str:
    """Return what to do with the file; without a sheet, the page knows neither platform nor address."""
    guidance = handover.guidance
    if guidance is None:
        return '<p class="small">The install sheet next to the bundle says where the file goes.</p>'
    return (
        f"<h2>Then, on this {escape(GUIDES[guidance.platform].noun)}</h2>"
        '<div class="card address"><div><p class="label">Server</p>'
        f'<p class="url">{breakable(guidance.url)}</p></div></div>'
        f"{steps_of(guidance.platform, handover.device)}"
    )


def message_page(title: str, text: str) -> bytes:
    """Return a page with one sentence."""
    return _page(title, f"<p>{escape(text)}</p>")


def _form(base: str, file: OneTimeFile) -> str:
    name = escape(file.file_name)
    return (
        f'<form method="post" action="{escape(base)}/{name}"><button>Get {name}</button>'
        f'<p class="small">{escape(file.purpose)}</p></form>'
    )


def _page(title: str, body: str) -> bytes:
    return _TEMPLATE.substitute(title=escape(title), style=_STYLE, body=body).encode()
