"""Generate: replies to many requests in one batch, a slot for each. Its Config is GenerateRecipe.

- A request is checked whole before it touches the batch; a bad one fails alone. What another
  request asks, and when it comes or goes, changes nothing in a reply but its time.
- Rows that decode stand at the front, without gaps; at most one more is being filled, behind them.
  Prompts are filled in pieces between decode steps. What is no request's is zeros: a mask hides a
  stale key, but zero times NaN is NaN.
- Each request draws from a generator of its own, once for each token. A prompt is cut into pieces
  by its own length alone; with `fixed_shapes` a decode step computes every slot over its whole
  length. Then each product has the same shape whatever else runs, and the same bits in bf16 too.
"""

from __future__ import annotations

import array
import dataclasses
import math
import sys
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import torch

from enclave_runtime.recipes.adapters import Adapters, linear_layers, read_adapter
from enclave_runtime.recipes.evaluate import Words
from enclave_runtime.recipes.sampling import sample_all, sample_nucleus
from enclave_runtime.recipes.scorer import Scorer
from enclave_runtime.recipes.slots import SlotCache
from trust.errors import RefusedError
from trust.jobs import GenerateRecipe, InputRole, JobManifest

if TYPE_CHECKING:
    from enclave_runtime.recipes.desk import Desk

PREFILL_TOKENS: Final = 256  # of prompts between two decode steps: others wait no longer
REPORT_SECONDS: Final = 0.02  # the shortest tick of a recipe (trust.jobs.GenerateRecipe)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request, as it comes."""

    handle: int
    """The caller's name for it; no two that run have the same."""
    ids: Sequence[int] | bytes
    """The prompt: token ids, or each as u32 in the machine's order."""
    adapter: int
    """0: the base; else the adapter's number."""
    tokens_max: int
    temperature: float
    """0: the most probable token, always."""
    top_p: float
    """Draw from the fewest tokens that together have this probability."""
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Emitted:
    """What one step made of a request."""

    handle: int
    ids: list[int]
    """Tokens since the last one."""
    finish: str = ""
    """Empty while it runs; then *stop*, *length* or *error*."""
    text: str = ""
    """Of an error: what was found and wanted."""


@dataclasses.dataclass(kw_only=True, slots=True)
class _Row:
    """A request that was accepted."""

    asked: Asked
    prompt: torch.Tensor
    """[1, tokens]"""
    generator: torch.Generator
    cached: int = 0
    """Tokens whose keys and values are in the slot."""
    written: int = 0
    """Tokens of the reply."""

    def draw(self) -> float:
        """From [0, 1): one for each token that is sampled."""
        return torch.rand((), generator=self.generator, dtype=torch.float64).item()


# --- engine --------------------------------------------------------------------------------------


class Engine:
    """The batch. `add` what is asked, `step` until idle; whoever is cancelled is heard no more."""

    def __init__(
        self,
        model: Any,
        words: Words,
        recipe: GenerateRecipe,
        *,
        length_max: int,
        adapters: Adapters,
    ) -> None:
        self._scorer, self._adapters, self._words = Scorer(model), adapters, words
        self._recipe, self._length_max = recipe, length_max
        self._vocabulary = model.config.vocab_size
        self._dtype, self._device = model.dtype, model.device
        self._waiting: dict[int, _Row] = {}
        self._filling: _Row | None = None
        self._rows: list[_Row] = []
        self._refused: list[Emitted] = []
        self._cache = SlotCache(
            model.config,
            slots=recipe.slots,
            length=length_max,
            dtype=self._dtype,
            device=self._device,
        )
        # By slot: the token to compute next, its position, its adapter.
        self._ids = torch.zeros(recipe.slots, dtype=torch.long, device=self._device)
        self._positions, self._numbers = torch.zeros_like(self._ids), torch.zeros_like(self._ids)
        self._lines = torch.arange(recipe.slots, device=self._device)
        self._columns = torch.arange(length_max, device=self._device)

    @property
    def idle(self) -> bool:
        """Nothing is left to do."""
        return not (self._rows or self._filling or self._waiting or self._refused)

    def add(self, request: Asked) -> None:
        """Take a request; one that is refused comes out of the next step as an error."""
        assert request.handle not in self._handles(), "a handle that runs already"
        try:
            self._waiting[request.handle] = self._accept(request)
        except RefusedError as error:
            self._refused.append(
                Emitted(handle=request.handle, ids=[], finish="error", text=str(error))
            )

    @torch.inference_mode()
    def cancel(self, handle: int) -> None:
        """Free its slot at once, and say nothing more of it. A handle that is gone is no error."""
        self._waiting.pop(handle, None)
        if self._filling is not None and self._filling.asked.handle == handle:
            self._drop_filling()
        for slot, row in enumerate(self._rows):
            if row.asked.handle == handle:
                self._leave(slot)
                break

    @torch.inference_mode()
    def step(self) -> list[Emitted]:
        """One token for every row that decodes, then a piece of the prompts that wait."""
        emitted, self._refused = self._refused, []
        if self._rows:
            emitted += self._decode()
        return emitted + self._prefill()

    def _handles(self) -> set[int]:
        filling = [] if self._filling is None else [self._filling]
        return {*self._waiting, *(row.asked.handle for row in (*self._rows, *filling))}

    # --- requests --------------------------------------------------------------------------------

    def _accept(self, request: Asked) -> _Row:
        """(1) Ids are tokens of the vocabulary. (2) Prompt and reply fit into a slot. (3) The
        adapter is there. (4) Temperature, top-p and seed are numbers that can be drawn with.

        Raises RefusedError.
        """
        ids = request.ids  # (1)
        count = len(ids) // 4 if isinstance(ids, bytes) else len(ids)
        if not 0 < count <= self._length_max or (isinstance(ids, bytes) and len(ids) % 4):
            raise RefusedError("length", f"{count} tokens; wanted 1 to {self._length_max}")
        if isinstance(ids, bytes):
            prompt = torch.frombuffer(bytearray(ids), dtype=torch.int32).long()
            known = bool(((prompt >= 0) & (prompt < self._vocabulary)).all())
        else:
            known = all(type(each) is int and 0 <= each < self._vocabulary for each in ids)
            prompt = torch.tensor(ids if known else [0], dtype=torch.long)
        if not known:
            raise RefusedError("token", f"an id that is none of {self._vocabulary} tokens")
        most = min(self._recipe.reply_tokens_max, self._length_max - count)  # (2)
        if type(request.tokens_max) is not int or not 0 < request.tokens_max <= most:
            raise RefusedError(
                "length", f"a reply of {request.tokens_max} tokens; wanted 1 to {most}"
            )
        adapters = self._adapters.count  # (3)
        if type(request.adapter) is not int or not 0 <= request.adapter <= adapters:
            raise RefusedError("adapter", f"number {request.adapter} of {adapters}")
        for name, value in (("temperature", request.temperature), ("top-p", request.top_p)):  # (4)
            # Compared, not converted: an integer may be greater than any float.
            if type(value) not in {int, float} or not abs(value) <= sys.float_info.max:
                raise RefusedError(name, "it is no finite number")
        if request.temperature < 0:
            raise RefusedError("temperature", f"{request.temperature}; wanted 0 or more")
        if not 0 < request.top_p <= 1:
            raise RefusedError("top-p", f"{request.top_p}; wanted above 0, at most 1")
        if type(request.seed) is not int or not 0 <= request.seed < 1 << 64:
            raise RefusedError("seed", "it is no u64")
        return _Row(
            asked=request,
            prompt=prompt.unsqueeze(0).to(self._device),
            generator=torch.Generator().manual_seed(request.seed),
        )

    # --- prompts ---------------------------------------------------------------------------------

    def _prefill(self) -> list[Emitted]:
        """Fill prompts, in the order they came, piece by piece."""
        emitted: list[Emitted] = []
        budget = PREFILL_TOKENS
        while budget > 0:
            if self._filling is None:
                if not self._waiting or len(self._rows) == self._recipe.slots:
                    break
                self._filling = self._waiting.pop(next(iter(self._waiting)))
            row = self._filling
            start = row.cached
            end = min(start + PREFILL_TOKENS, row.prompt.shape[1])
            budget -= end - start
            try:
                row.cached = end  # before anything is written: what is written is erased
                logits = self._prompt_logits(row, start, end)
            except Exception:  # noqa: BLE001 - this row's forward pass alone: the others go on
                self._drop_filling()
                emitted.append(_failed(row, "the prompt could not be computed"))
                continue
            if end < row.prompt.shape[1]:
                continue
            slot, self._filling = len(self._rows), None
            self._rows.append(row)
            (token,) = self._choose(logits, [row])
            self._ids[slot], self._positions[slot] = token, row.cached
            self._numbers[slot] = row.asked.adapter
            emitted.append(self._record(row, token))
            if emitted[-1].finish:
                self._leave(slot)
        return emitted

    def _prompt_logits(self, row: _Row, start: int, end: int) -> torch.Tensor:
        """[1, vocabulary]: what follows the prompt's first `end` tokens."""
        positions = self._columns[start:end]
        hidden = self._columns[:end] > positions[:, None]
        mask = torch.zeros(hidden.shape, dtype=self._dtype, device=self._device)
        mask.masked_fill_(hidden, -math.inf)
        self._cache.at_prompt(len(self._rows), start, end)
        self._adapters.choice.everywhere(row.asked.adapter)
        logits: torch.Tensor = self._scorer(
            row.prompt[:, start:end],
            places=self._lines[:1] + (end - start - 1),
            positions=positions[None],
            mask=mask[None, None],
            cache=self._cache,
        )
        return logits

    def _drop_filling(self) -> None:
        assert self._filling is not None
        self._cache.erase(len(self._rows), self._filling.cached)
        self._filling = None

    # --- replies ---------------------------------------------------------------------------------

    def _decode(self) -> list[Emitted]:
        """One token for every row."""
        rows = self._rows
        active, width = len(rows), len(rows)
        length = max(row.cached for row in rows) + 1
        if self._recipe.fixed_shapes:
            width, length = self._recipe.slots, self._length_max
        positions = self._positions[:width]
        mask = torch.zeros(width, 1, 1, length, dtype=self._dtype, device=self._device)
        mask.masked_fill_(self._columns[:length] > positions.view(width, 1, 1, 1), -math.inf)
        self._cache.at_tokens(self._positions[:active], width, length)
        if any(row.asked.adapter for row in rows):
            self._adapters.choice.by_row(self._numbers[:width])
        else:
            self._adapters.choice.everywhere(0)
        logits = self._scorer(
            self._ids[:width, None],
            places=self._lines[:width],
            positions=positions[:, None],
            mask=mask,
            cache=self._cache,
        )
        tokens = self._choose(logits[:active], rows)
        self._ids[:active] = torch.tensor(tokens, device=self._device)
        self._positions[:active] += 1
        for row in rows:
            row.cached += 1
        emitted = [self._record(row, token) for row, token in zip(rows, tokens, strict=True)]
        for slot in reversed(range(active)):
            if emitted[slot].finish:
                self._leave(slot)
        return emitted

    def _choose(self, logits: torch.Tensor, rows: list[_Row]) -> list[int]:
        """The next token of each row, or -1 where its logits are not finite."""
        chosen = logits.argmax(dim=1)
        drawn = [slot for slot, row in enumerate(rows) if row.asked.temperature]
        for sample, whole in ((sample_all, True), (sample_nucleus, False)):
            if slots := [slot for slot in drawn if (rows[slot].asked.top_p == 1) == whole]:
                numbers = torch.tensor(
                    [
                        (rows[slot].asked.temperature, rows[slot].asked.top_p, rows[slot].draw())
                        for slot in slots
                    ],
                    dtype=torch.float64,
                    device=self._device,
                )
                places = torch.tensor(slots, device=self._device)
                chosen[places] = sample(logits[places], *numbers.unbind(1))
        return chosen.where(logits.amax(dim=1).isfinite(), -1).tolist()

    def _record(self, row: _Row, token: int) -> Emitted:
        """Count a token."""
        handle = row.asked.handle
        if token < 0:
            return _failed(row, "the model's logits are not finite")
        if token in self._words.eos_ids:
            return Emitted(handle=handle, ids=[], finish="stop")
        row.written += 1
        finish = "length" if row.written == row.asked.tokens_max else ""
        return Emitted(handle=handle, ids=[token], finish=finish)

    def _leave(self, slot: int) -> None:
        """Free a slot; the last row takes its place, and the one being filled the last one's."""
        last = len(self._rows) - 1
        self._cache.erase(slot, self._rows[slot].cached)
        if slot != last:
            self._rows[slot] = self._rows[last]
            self._cache.move(last, slot, self._rows[slot].cached)
            for each in (self._ids, self._positions, self._numbers):
                each[slot] = each[last]
        for each in (self._ids, self._positions, self._numbers):
            each[last] = 0
        self._rows.pop()
        if self._filling is not None:
            self._cache.move(last + 1, last, self._filling.cached)


def _failed(row: _Row, text: str) -> Emitted:
    return Emitted(handle=row.asked.handle, ids=[], finish="error", text=text)


# --- rank ----------------------------------------------------------------------------------------


def run(desk: Desk, job: JobManifest, model: Any, words: Words) -> None:
    """Serve until the parent is gone. Adapters come before *begin*.

    Raises EncodingErrors for an adapter that does not fit the base.
    """
    recipe = job.recipe
    assert isinstance(recipe, GenerateRecipe)

    # --- load ------------------------------------------------------------------------------------
    desk.await_begin()
    layers, base_model = linear_layers(model), job.input(InputRole.MODEL).hex()
    adapters = Adapters(
        model,
        [
            read_adapter(content, layers, base_model=base_model, name=f"adapter {number}")
            for number, content in enumerate(desk.adapters(), start=1)
        ],
    )
    engine = Engine(model, words, recipe, length_max=job.length_max, adapters=adapters)
    desk.report("ready")

    # --- loop ------------------------------------------------------------------------------------
    made: dict[int, Emitted] = {}
    reported = monotonic()
    while True:
        try:
            orders = desk.orders(wait=engine.idle)
        except EOFError:
            return
        for frame in orders:
            if frame.kind == "cancel":
                engine.cancel(frame.fields["handle"])
                made.pop(frame.fields["handle"], None)
            else:
                engine.add(Asked(ids=frame.content, **frame.fields))
        for each in engine.step():
            before = made[each.handle].ids if each.handle in made else []
            made[each.handle] = dataclasses.replace(each, ids=before + each.ids)

        # --- report ------------------------------------------------------------------------------
        now = monotonic()
        if made and (engine.idle or now - reported >= REPORT_SECONDS):
            items = [[each.handle, len(each.ids), each.finish, each.text] for each in made.values()]
            ids = array.array("I", [token for each in made.values() for token in each.ids])
            desk.report("generated", ids.tobytes(), items=items)
            made, reported = {}, now
