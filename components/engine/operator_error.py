"""Errors that a person can act on, shown as their sentence and not as a Python traceback.

The SDK's provider process answers every exception with ``traceback.format_exc()``. For an error of ours the
frames, and the library's own error behind it, say nothing to the operator and bury the remedy, so they are
cut; for a bug they are all there is. The last line of a traceback names the class of the error before its
message, `components.remote.ssh.SshError: ...`; that name means nothing to the operator either, so a refusal
shows its sentence alone.
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
"""How a script's last sentence begins; the engine puts the same before every error."""

MESSAGE_LIMIT = 8000
"""Characters of a refusal: room for a dozen problems, each a sentence of its own."""


class OperatorError(RuntimeError):
    """Something outside this program is not as it must be; the message is a full sentence with the remedy."""


def _alone(refusal: Exception) -> Exception:
    """Return the same error, of which a traceback prints the sentence and nothing before it.

    There the name stands without a module when that is ``builtins``, and without a colon when the error
    itself says nothing. It is still caught as what it was; its arguments still hold the sentence.
    What a server or a stranger's file has said in it reaches the terminal as words alone, notes included.
    """
    kind, sentence = type(refusal), plain(str(refusal), MESSAGE_LIMIT).removeprefix(ERROR)
    notes = getattr(refusal, "__notes__", [])
    notes[:] = [plain(note, MESSAGE_LIMIT) for note in notes]
    words = {"__module__": "builtins", "__qualname__": sentence, "__str__": lambda _self: ""}
    if sentence:  # and has not been told before
        refusal.__class__ = type(kind.__name__, (kind,), words)
    return refusal


def without_traceback(method: Callable[P, R]) -> Callable[P, R]:
    """Wrap a method of a dynamic provider so that its refusals are printed without, a bug with its frames.

    The limit holds for the process, and the engine asks for several resources at once. So it is set and
    lifted by failures alone: what succeeds meanwhile cannot bring the frames of a refusal back.
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
