"""Chat while two replies stream, fifty words a second each: what `benchmarks.tui` types into."""

from __future__ import annotations

import asyncio
from typing import Final

from tests.tui.rig import NOW, USUAL, ScriptedHub
from tests.tui.scenes.chat import BASE, TUNED, head
from tui.app import BlindhostApp
from tui.commands import Ask, Command
from tui.facts import Delta
from tui.screens.chat import Prompt

WORD_SECONDS: Final = 0.02
BEGIN_SECONDS: Final = 0.5


class Streaming(ScriptedHub):
    """Two replies, from the first prompt on."""

    def post(self, command: Command) -> None:
        """A prompt is answered; of a second one nothing comes."""
        super().post(command)
        if isinstance(command, Ask):
            asyncio.get_running_loop().create_task(self.stream(command))

    async def stream(self, command: Ask) -> None:
        """Words, for as long as the measurement lasts."""
        for number in range(100_000):
            await asyncio.sleep(WORD_SECONDS)
            text = f"word {number} "
            self.tell(Delta(as_of=NOW, turn=command.turn, model=command.model, text=text))


async def main() -> None:
    """Open the chat, and ask."""
    hub = Streaming((*USUAL, head(BASE), head(TUNED)))
    app = BlindhostApp(hub, clock=lambda: NOW, link=("chat",), quiet=True)
    asyncio.get_running_loop().call_later(
        BEGIN_SECONDS, lambda: app.screen.post_message(Prompt.Sent("hello"))
    )
    await app.run_async()


if __name__ == "__main__":
    asyncio.run(main())
