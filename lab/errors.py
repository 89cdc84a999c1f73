"""The lab's only error type: a full sentence with the remedy, meant for a person."""


class LabError(RuntimeError):
    """Something a person has to act on; the text is a whole sentence that says what to do."""
