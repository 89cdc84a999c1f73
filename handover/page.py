"""The pages that a device sees during a hand-over. They load nothing."""

from collections.abc import Iterable
from html import escape

from handover.files import OneTimeFile
from handover.markup import read_text, style_source, template

_STYLE = read_text("style.css") + read_text("page.css")
_TEMPLATE = template("page.html")

CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src '{style_source(_STYLE)}'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""The policy that the server sends with every page."""


def landing_page(device: str, base: str, waiting: Iterable[OneTimeFile], minutes: int) -> bytes:
    """Return the page with one button for each file that is still available below the path `base`.

    Each button sends a POST, so a messenger that fetches the link for a preview only ever gets this page.
    """
    forms = "".join(_form(base, file) for file in waiting)
    return _page(
        f"Certificate for {device}",
        '<p class="lead">It lets this device open all of Immich. Each file can be fetched once. The page '
        "closes by "
        f"itself, {minutes} minutes after it was opened at the latest.</p>{forms}"
        '<div class="card small"><p>Before you go on: your browser said that it does not know this page. '
        "Open the "
        "certificate's details there and compare its SHA-256 fingerprint with the one in the "
        "terminal.</p><p>The terminal shows the password, once the file has been fetched. The install sheet "
        "says where the file goes.</p></div>",
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
