"""What is mounted where, as the kernel says it (proc(5), mountinfo)."""

from pathlib import Path


def under(folder: Path) -> list[Path]:
    """Mount points at or below ``folder``, in the order they were mounted; stacked ones all."""
    points = (
        Path(_unescape(line.split()[4])) for line in Path("/proc/self/mountinfo").read_text().splitlines()
    )
    return [point for point in points if point == folder or folder in point.parents]


def _unescape(text: str) -> str:
    """Undo mountinfo's octal escapes (proc(5)): a blank in the path reads ``\\040``."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def is_mounted(point: Path) -> bool:
    """Whether something is mounted there. os.path.ismount does not see a folder that is bound on itself."""
    return point in under(point)
