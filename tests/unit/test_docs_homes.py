"""docs/homes.md lists the houses that there are, each with what it says of itself."""

from pathlib import Path

from lab.house import house, houses

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "homes.md").read_text(encoding="utf-8")


def test_every_house_is_in_the_table_and_no_other() -> None:
    listed = [line for line in TEXT.partition("| house |")[2].splitlines() if line.startswith("| `")]
    assert listed == [f"| `{name}` | {house(name).proves} |" for name in sorted(houses())]
