"""Errors that a person can act on, shown as one sentence instead of a Python traceback.

The SDK's provider process answers every exception with ``traceback.format_exc()``. For an error of ours, the
frames and the library's own error behind it mean nothing to the operator and bury the remedy, so they are
cut; for a bug they are all there is. The last line of a traceback puts the error's class before its message,
`components.remote.ssh.SshError: ...`. That name means nothing to the operator either, so a refusal shows its
sentence alone.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from components.engine.server_words import plain
from pki import KeystoreError

P = ParamSpec("P")
R = TypeVar("R")


ERROR = "error: "
"""The prefix of a script's last sentence; the engine puts the same before every error."""

MESSAGE_LIMIT = 8000
"""Characters of a refusal: room for a dozen problems, one sentence each."""


class OperatorError(RuntimeError):
    """Something outside this program is wrong; the message is a full sentence with the remedy."""


def _alone(refusal: Exception) -> Exception:
    """Return the same error, changed so that a traceback prints its sentence and nothing before it.

    A traceback omits the module if it is ``builtins``, and the colon if the error's text is empty; so the
    sentence takes the place of the class name. The error is still caught by its own type, and its arguments
    still hold the sentence. Anything in it that came from a server or a foreign file reaches the terminal as
    plain text, notes included.
    """
    kind, sentence = type(refusal), plain(str(refusal), MESSAGE_LIMIT).removeprefix(ERROR)
    notes = getattr(refusal, "__notes__", [])
    notes[:] = [plain(note, MESSAGE_LIMIT) for note in notes]
    words = {"__module__": "builtins", "__qualname__": sentence, "__str__": lambda _self: ""}
    if sentence:  # and was not reported before
        refusal.__class__ = type(kind.__name__, (kind,), words)
    return refusal


def without_traceback(method: Callable[P, R]) -> Callable[P, R]:
    """Wrap a dynamic provider's method so that refusals are printed without a traceback, and bugs with one.

    The limit applies to the whole process, and the engine calls for several resources at once. So only
    failures set and lift it: a call that succeeds meanwhile cannot bring back the frames of a refusal.
    """

    @functools.wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except (OperatorError, KeystoreError) as refusal:
            sys.tracebacklimit = 0
            raise _alone(refusal) from None
        except BaseException:
            sys.__dict__.pop("tracebacklimit", None)
            raise

    return wrapper
