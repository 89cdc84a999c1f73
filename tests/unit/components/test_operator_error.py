"""A refusal is told as its sentence; a bug keeps its traceback."""

from __future__ import annotations

import traceback

import pytest

from components.engine.operator_error import OperatorError, without_traceback
from pki import KeystoreError


def printed(error: Exception, cause: Exception | None = None) -> str:
    """Return what the SDK would answer when a provider's method raises this, perhaps because of another."""

    @without_traceback
    def method() -> None:
        raise error from cause

    try:
        method()
    except type(error):
        return traceback.format_exc()
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("kind", [OperatorError, KeystoreError])
def test_a_refusal_has_no_frames(kind: type[Exception]) -> None:
    assert printed(kind("The server is off; switch it on.")) == "The server is off; switch it on.\n"


def test_a_refusal_of_several_lines_is_told_whole_and_keeps_its_kind() -> None:
    class OfItsOwnError(OperatorError):
        pass

    sentences = "The server is not ready:\n- It is off.\n- It is far."
    assert printed(OfItsOwnError(sentences)) == f"{sentences}\n"  # caught as what it was

    @without_traceback
    @without_traceback
    def twice() -> None:
        raise OfItsOwnError(sentences)

    with pytest.raises(OfItsOwnError) as refusal:
        twice()
    assert refusal.value.args == (sentences,)
    assert "".join(traceback.format_exception_only(refusal.value)) == f"{sentences}\n"


@pytest.mark.parametrize("kind", [OperatorError, KeystoreError])
def test_the_library_error_behind_a_refusal_is_not_shown(kind: type[Exception]) -> None:
    text = printed(kind("The file is damaged; restore it."), cause=ValueError("InvalidTag"))
    assert text == "The file is damaged; restore it.\n"


def test_a_success_beside_it_does_not_bring_the_frames_back() -> None:
    @without_traceback
    def refuses() -> None:
        raise OperatorError("The server is off; switch it on.")

    try:
        refuses()
    except OperatorError:
        without_traceback(lambda: None)()
        assert "File " not in traceback.format_exc()


def test_a_bug_keeps_its_frames_even_after_a_refusal() -> None:
    printed(OperatorError("The server is off; switch it on."))
    text = printed(KeyError("domain"), cause=ValueError("behind it"))
    assert "test_operator_error.py" in text
    assert "behind it" in text


def test_a_refusal_repeats_words_alone_and_not_without_end() -> None:
    hostile = "\x1b]52;c;cm0gLXJmIH4K\x07\x1b[2J"
    error = OperatorError(f"The server says {hostile}hello; look at it.")
    error.add_note(f"And {hostile}then.")
    assert printed(error) == "The server says hello; look at it.\nAnd then.\n"
    assert len(printed(KeystoreError("x" * 1_000_000))) < 10_000
