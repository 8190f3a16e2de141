"""The four parties of the quickstarts, each in a shell of its own, in one throwaway folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

from tests.assets import chat_rows, tiny_model
from tests.docs.pages import Terminal, sections

CHECKOUT: Final = Path(__file__).parents[2]
ROWS: Final = 32


class Town:
    """Who stands in the quickstarts; what one tells another goes through here, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir(mode=0o700)
        model = tiny_model().write(folder / "model")
        rows = folder / "rows.jsonl"
        rows.write_bytes(chat_rows(ROWS))
        own = {"CHECKOUT": str(CHECKOUT), "WORK": str(self.work)}
        self.operator = self._terminal("operator", own)
        self.host = self._terminal("host", own)
        self.owner = self._terminal("owner", own | {"MODEL": str(model)})
        self.buyer = self._terminal("buyer", own | {"ROWS": str(rows)})

    def _terminal(self, role: str, own: dict[str, str]) -> Terminal:
        return Terminal(self.folder, f"quickstart/{role}.md", own)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self.buyer, self.owner, self.host, self.operator):
            each.close()

    def tell(self, teller: Terminal, *names: str, to: tuple[Terminal, ...]) -> None:
        """One party tells others values of its own."""
        values = {name: teller.value(name) for name in names}
        for each in to:
            each.tell(**values)

    def open(self) -> None:
        """Everybody is there, everything sealed and published, and money is there."""
        everybody = (self.host, self.owner, self.buyer)
        self.operator.section("1. Start")
        self.tell(self.operator, "MARKET_URL", "MARKET_IDENTITY", to=everybody)
        self.host.section("1. Make a simulated chip")
        self.tell(self.host, "ROOT", to=(self.operator, self.owner, self.buyer))
        self.host.section("2. Serve")
        self.owner.section("1. Seal")
        self.owner.section("2. Say for what, and on what machines")
        self.owner.section("3. Run the key broker")
        self.tell(self.owner, "ARTIFACT", to=(self.buyer,))
        self.buyer.section("1. Seal your rows")
        self.tell(self.buyer, "BUYER_IDENTITY", to=(self.operator,))
        self.operator.section("2. Say whose enclaves are metered")
        self.operator.section("3. Take a buyer's money in")

    def train_json(self) -> str:
        """The job of the buyer's quickstart, as its page writes it."""
        commands = sections(self.buyer.page)["2. Fine-tune"]
        written, mark, _ = commands.partition("\nEND\n")
        self.buyer.run(written + mark)
        return (self.work / "train.json").read_text(encoding="utf-8")
