"""Reads a mapping of settings key by key and collects all problems instead of stopping at the first."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping

VALUE_LIMIT = 60
"""Characters of a wrong value that a message shows."""

Check = Callable[[str], "str | None"]
"""Examines a text and returns what is wrong with it, or None."""


class Problems:
    """The problems of a configuration, in the order in which they were found."""

    def __init__(self, hidden: Collection[str] = ()) -> None:
        """`hidden` names the keys whose values no message may show."""
        self._hidden = hidden
        self._lines: list[str] = []
        self._keys: set[str] = set()

    def add(self, key: str, value: object, reason: str, example: str | None) -> None:
        """Report that a key's value (None: it is not set) is wrong, why, and what a right one looks like.

        Without an `example` the remedy is to leave the key out.
        """
        shown = "is not set" if value is None else f"= {self._shown(key, value)}"
        remedy = f". Example: {example}" if example else "; leave it out"
        self._lines.append(f"{key} {shown}: {reason}{remedy}")
        self._keys.add(key)

    def add_unknown(self, key: str, hint: str) -> None:
        """Report an unknown key. Its value is not shown, because it may be a mistyped secret."""
        self._lines.append(f"{key} is not a known key: {hint}")

    def add_stray(self, key: str, said: str) -> None:
        """Report a key in a place where it has no effect. Its value is not shown either."""
        self._lines.append(f"{key} {said}")

    def has(self, *keys: str) -> bool:
        """Tell whether any of these keys already has a problem, so that comparing them would mislead."""
        return not self._keys.isdisjoint(keys)

    @property
    def lines(self) -> list[str]:
        """One sentence for each problem."""
        return list(self._lines)

    def _shown(self, key: str, value: object) -> str:
        text = repr(value)
        top_key = key.partition(".")[0].partition("[")[0]
        if top_key in self._hidden or "PRIVATE KEY" in text:
            return "[secret]"
        return text if len(text) <= VALUE_LIMIT else f"{text[:VALUE_LIMIT]}..."


class Section:
    """One mapping of a configuration.

    Each reading method returns the value, or the default if the key is not set or its value is wrong. An
    empty text and None mean "not set", because the config schema cannot express that otherwise.
    """

    def __init__(self, values: Mapping[str, object], problems: Problems, path: str = "") -> None:
        self._values = values
        self._path = path
        self._known: list[str] = []
        self.problems = problems

    def name(self, key: str) -> str:
        """The key with the path that leads to it, as messages name it."""
        return f"{self._path}{key}"

    def value(self, key: str) -> object | None:
        """The value as given; None if it is not set."""
        if key not in self._known:
            self._known.append(key)
        value = self._values.get(key)
        return None if value == "" else value

    def report(self, key: str, reason: str, example: str | None) -> None:
        """Report a problem with a key; without an `example` the remedy is to leave the key out."""
        shown = None if example is None else f"`{key}: {example}`"
        self.problems.add(self.name(key), self.value(key), reason, shown)

    def text(
        self, key: str, *, example: str, check: Check, default: str | None = None, missing: str = ""
    ) -> str:
        """Read a text that has a default or is required; `missing` says what it is needed for."""
        text = self.optional_text(key, example=example, check=check)
        if text is not None:
            return text
        if default is None and self.value(key) is None:
            self.report(key, missing, example)
        return default or ""

    def optional_text(self, key: str, *, example: str, check: Check) -> str | None:
        """Read an optional text; None if it is not set."""
        value = self.value(key)
        if value is None:
            return None
        reason = check(value) if isinstance(value, str) else "must be text; put it in quotes"
        if reason is None and isinstance(value, str):
            return value
        self.report(key, reason or "", example)
        return None

    def integer(self, key: str, *, default: int, least: int, most: int, example: int | None = None) -> int:
        """Read a whole number within bounds (both included). The example is the default unless given."""
        value = self.value(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.report(key, f"must be a whole number from {least} to {most}", str(example or default))
            return default
        return value

    def boolean(self, key: str, *, default: bool) -> bool:
        """Read true or false."""
        value = self.value(key)
        if isinstance(value, bool):
            return value
        if value is not None:
            self.report(key, "must be true or false", str(default).lower())
        return default

    def choice(
        self, key: str, *, choices: Collection[str], default: str | None = None, missing: str = ""
    ) -> str:
        """Read one of a few words; it has a default or is required."""
        example = next(iter(choices))
        return self.text(
            key,
            example=example,
            missing=missing,
            default=default,
            check=lambda text: _not_among(text, choices),
        )

    def section(self, key: str, *, example: str) -> Section:
        """Read a nested mapping; empty if it is not set."""
        value = self.value(key)
        if value is not None and not isinstance(value, Mapping):
            self.report(key, "must be a group of settings", example)
        return Section(value if isinstance(value, Mapping) else {}, self.problems, f"{self.name(key)}.")

    def sections(self, key: str, *, example: str) -> list[Section]:
        """Read a list of mappings; empty if it is not set."""
        value = self.value(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.report(key, "must be a list", example)
            return []
        for index, item in enumerate(value):
            if not isinstance(item, Mapping):
                self.problems.add(
                    f"{self.name(key)}[{index}]", item, "must be a group of settings", f"`{key}: {example}`"
                )
        return [
            Section(item, self.problems, f"{self.name(key)}[{index}].")
            for index, item in enumerate(value)
            if isinstance(item, Mapping)
        ]

    def refuse_unknown(self) -> None:
        """Report every key that was never read."""
        for key in self._values:
            if key not in self._known:
                near = difflib.get_close_matches(str(key), self._known, n=1, cutoff=0.6)
                known = ", ".join(sorted(self._known))
                hint = f"did you mean {near[0]!r}?" if near else f"known keys are {known}"
                self.problems.add_unknown(self.name(str(key)), hint)


def _not_among(text: str, choices: Collection[str]) -> str | None:
    if text in choices:
        return None
    near = difflib.get_close_matches(text.lower(), [str(choice) for choice in choices], n=1, cutoff=0.6)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"must be one of {', '.join(choices)}{hint}"
