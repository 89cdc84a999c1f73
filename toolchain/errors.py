"""The one error of the toolchain."""


class ToolchainError(Exception):
    """Something that is needed is missing or could not be built; the message says what to do."""
