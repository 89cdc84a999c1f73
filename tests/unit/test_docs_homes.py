"""docs/homes.md lists the houses that there are, each with what it says of itself."""

from lab.house import house, houses
from toolchain.paths import PROJECT

TEXT = (PROJECT / "docs" / "homes.md").read_text(encoding="utf-8")


def test_every_house_is_in_the_table_and_no_other() -> None:
    listed = [line for line in TEXT.partition("| house |")[2].splitlines() if line.startswith("| `")]
    assert listed == [f"| `{name}` | {house(name).proves} |" for name in sorted(houses())]
