"""The panel before what can't be taken back."""

from __future__ import annotations

from textual.app import App

from tui.widgets.confirm import Confirm, ask_first


class Bench(App[None]):
    def __init__(self, panel: Confirm) -> None:
        super().__init__()
        self.panel, self.acted = panel, 0

    def on_mount(self) -> None:
        ask_first(self, self.panel, self.act)

    def act(self) -> None:
        self.acted += 1


async def test_enter_at_once_is_a_no_and_so_is_escape():
    for key in ("enter", "escape"):
        app = Bench(Confirm("Close job jobb_1."))
        async with app.run_test() as pilot:
            await pilot.press(key)
            assert app.screen is not app.panel
        assert app.acted == 0


async def test_no_letter_answers_it_and_the_yes_takes_two_keys():
    app = Bench(Confirm("Close job jobb_1."))
    async with app.run_test() as pilot:
        await pilot.press("y", "n", "Y", "a", "space", "1")
        assert app.acted == 0
    app = Bench(Confirm("Close job jobb_1."))
    async with app.run_test() as pilot:
        await pilot.press("right", "enter")
        assert app.acted == 1
    app = Bench(Confirm("Close job jobb_1."))
    async with app.run_test() as pilot:
        await pilot.click("#yes")
        assert app.acted == 1


async def test_an_amount_must_be_typed_to_the_last_digit():
    app = Bench(Confirm("Raise the cap.", typed="6.0000"))
    async with app.run_test() as pilot:
        await pilot.click("#yes")
        assert app.acted == 0
        await pilot.press(*"6.000", "enter", "enter")
        assert app.acted == 0
        strips = app.screen._compositor.render_strips()
        words = "\n".join("".join(segment.text for segment in strip) for strip in strips)
        assert "wanted 6.0000, got 6.000" in words
        await pilot.press("end", "0", "enter", "enter")
        assert app.acted == 1
