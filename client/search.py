"""The search language: ``gpu=H100 vram>=80GiB tee in (snp,tdx) price<=2.00 left>=12h``.

- A query is clauses with blanks between them; an offer fits all. docs/spec/search.md has the
  grammar. It is read here, on the buyer's side, and travels as typed clauses (marketplace/wire.py),
  so that command line, REST and window speak one language.
- Numbers say their unit where there is a choice (``80GiB``, ``12h``). Money is credits for an hour,
  a decimal of at most six places; nothing here is a float.
- What can't be read is refused with the column where it stands and what was perhaps meant. Fields
  that this market has no data of are named as such: they are not made up.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Final

from marketplace.wire import (
    CLAUSES_MAX,
    WORDS_MAX,
    Clause,
    Comparison,
    NearestMiss,
    NumberClause,
    OfferNumber,
    OfferOrder,
    OfferView,
    OfferWord,
    WordClause,
)
from trust.encoding import INTEGER_MAX
from trust.errors import EncodingError

QUERY_CHARACTERS_MAX: Final = 2048
WORD_BYTES_MAX: Final = 512
MICROCREDITS: Final = 1_000_000

_NUMBERS: Final[Mapping[str, OfferNumber]] = {
    "gpus": OfferNumber.GPUS,
    "memory": OfferNumber.MEMORY,
    "vram": OfferNumber.MEMORY,
    "price": OfferNumber.PRICE,
    "ask": OfferNumber.PRICE,
    "floor": OfferNumber.FLOOR,
    "total": OfferNumber.TOTAL,
    "left": OfferNumber.LEFT,
}
_WORDS: Final[Mapping[str, OfferWord]] = {
    "gpu": OfferWord.GPU,
    "platform": OfferWord.PLATFORM,
    "tee": OfferWord.PLATFORM,
    "class": OfferWord.CLASS,
    "host": OfferWord.HOST,
    "offer": OfferWord.OFFER,
}
FIELDS: Final = (*_WORDS, *_NUMBERS)
"""Every name of a field, other names for one included."""
_NO_DATA: Final = frozenset({"region", "country", "reliability", "tokens", "bandwidth", "disk"})
"""What buyers ask for and this market knows of no offer."""
_TEES: Final = {"snp": "sev-snp"}
"""Short names of platforms."""
_MEBIBYTES: Final = {"mib": 1, "gib": 1024, "tib": 1024 * 1024}
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_MONEY: Final = frozenset({OfferNumber.PRICE, OfferNumber.FLOOR, OfferNumber.TOTAL})

_BLANK: Final = re.compile(r"[ \t]*")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_SIGN: Final = re.compile(r"<=|>=|!=|==|=|<|>")
_BARE: Final = re.compile(r'[^\s,()"]+')
_QUOTED: Final = re.compile(r'"([^"]*)"')
_NUMBER: Final = re.compile(r"([0-9]{1,16})(?:\.([0-9]{1,12}))?([A-Za-z]*)")


class QueryError(EncodingError):
    """A query that can't be read: why, at which column (from 0), and what was perhaps meant."""

    def __init__(self, text: str, at: int, suggestion: str = "") -> None:
        super().__init__(text + (f"; did you mean {suggestion}?" if suggestion else ""))
        self.text, self.at, self.suggestion = text, at, suggestion


def parse_query(text: str) -> tuple[Clause, ...]:
    """Read a query. Raises QueryError."""
    if len(text) > QUERY_CHARACTERS_MAX:
        raise QueryError(f"a query has at most {QUERY_CHARACTERS_MAX} characters", 0)
    clauses: list[Clause] = []
    reader = _Reader(text)
    while not reader.at_end():
        if len(clauses) == CLAUSES_MAX:
            raise QueryError(f"a query has at most {CLAUSES_MAX} clauses", reader.at)
        clauses.append(reader.clause())
    return tuple(clauses)


def parse_order(text: str) -> tuple[OfferOrder, bool]:
    """Read what to sort by: a name; ``-`` before it: the highest first. Raises QueryError."""
    descending = text.startswith("-")
    name = text.removeprefix("-").lower()
    found = _NUMBERS.get(name)
    if found is None or found is OfferNumber.FLOOR:
        names = [each.value for each in OfferOrder]
        close = difflib.get_close_matches(name[:32], names, n=1)
        raise QueryError(
            f"nothing to sort by in {name[:32]!r}: {', '.join(names)}",
            int(descending),
            close[0] if close else "",
        )
    return OfferOrder(found.value), descending


@dataclasses.dataclass(slots=True)
class _Reader:
    """Reads one query from left to right."""

    text: str
    at: int = 0

    def at_end(self) -> bool:
        """Only blanks are left."""
        self._blanks()
        return self.at == len(self.text)

    def clause(self) -> Clause:
        """The next clause."""
        start = self.at
        found = _NAME.match(self.text, self.at)
        if found is None:
            raise QueryError(f"a field's name is wanted, not {self.text[self.at]!r}", self.at)
        name, self.at = found[0].lower(), found.end()
        number, word = _NUMBERS.get(name), _WORDS.get(name)
        if number is None and word is None:
            raise _unknown(name, start)
        self._blanks()
        sign = _SIGN.match(self.text, self.at)
        if sign is not None:
            signed_at, self.at = self.at, sign.end()
            comparison = Comparison(sign[0].replace("==", "="))
            if number is not None:
                return self._number_clause(number, comparison)
            assert word is not None
            return self._one_word(name, word, comparison, signed_at)
        return self._listed_words(name, word)

    def _number_clause(self, field: OfferNumber, comparison: Comparison) -> NumberClause:
        self._blanks()
        at = self.at
        return NumberClause(
            field=field, comparison=comparison, value=_number(field, self._value(), at)
        )

    def _one_word(self, name: str, field: OfferWord, sign: Comparison, at: int) -> WordClause:
        if sign not in {Comparison.EQUAL, Comparison.UNEQUAL}:
            raise QueryError(f"{name} is a word: it has no order", at, f"{name}=…")
        self._blanks()
        return WordClause(
            field=field, values=(self._word(field),), excludes=sign is Comparison.UNEQUAL
        )

    def _listed_words(self, name: str, field: OfferWord | None) -> WordClause:
        at = self.at
        first = self._keyword()
        excludes = first == "notin" or (first == "not" and self._keyword() == "in")
        if not excludes and first != "in":
            raise QueryError(
                f"after {name} one of = != < <= > >= in notin is wanted", at, f"{name}=…"
            )
        if field is None:
            raise QueryError(f"{name} is a number: it stands in no list", at, f"{name}<=…")
        self._blanks()
        self._mark("(")
        values = [self._word(field)]
        while self._is_next(","):
            self.at += 1
            self._blanks()
            if len(values) == WORDS_MAX:
                raise QueryError(f"a list has at most {WORDS_MAX} values", self.at)
            values.append(self._word(field))
        self._mark(")")
        return WordClause(field=field, values=tuple(values), excludes=excludes)

    def _keyword(self) -> str:
        self._blanks()
        found = _NAME.match(self.text, self.at)
        if found is None:
            return ""
        self.at = found.end()
        return found[0].lower()

    def _word(self, field: OfferWord) -> str:
        self._blanks()
        at = self.at
        value = self._value()
        if field is OfferWord.PLATFORM:
            value = _TEES.get(value.lower(), value)
        if not 1 <= len(value.encode("utf-8", "replace")) <= WORD_BYTES_MAX:
            raise QueryError(f"a word has 1 to {WORD_BYTES_MAX} bytes", at)
        if not value.isprintable():
            raise QueryError("a word is made of characters that one can see", at)
        return value

    def _value(self) -> str:
        quoted = _QUOTED.match(self.text, self.at)
        if quoted is not None:
            self.at = quoted.end()
            return quoted[1]
        bare = _BARE.match(self.text, self.at)
        if bare is None:
            text = "a quote is not closed" if self._is_next('"') else "a value is wanted here"
            raise QueryError(text, self.at)
        self.at = bare.end()
        return bare[0]

    def _mark(self, mark: str) -> None:
        if not self._is_next(mark):
            raise QueryError(f"{mark!r} is wanted here", self.at)
        self.at += 1

    def _is_next(self, mark: str) -> bool:
        self._blanks()
        return self.text.startswith(mark, self.at)

    def _blanks(self) -> None:
        found = _BLANK.match(self.text, self.at)
        assert found is not None
        self.at = found.end()


def _unknown(name: str, at: int) -> QueryError:
    if name in _NO_DATA:
        return QueryError(
            f"this market knows no {name} of an offer; it knows {', '.join(FIELDS)}", at
        )
    close = difflib.get_close_matches(name[:64], (*FIELDS, *_NO_DATA), n=1)
    suggestion = close[0] if close else ""
    return QueryError(f"no field {name[:64]!r}; there are {', '.join(FIELDS)}", at, suggestion)


# --- numbers and their units ---------------------------------------------------------------------


def _number(field: OfferNumber, text: str, at: int) -> int:
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise QueryError(f"a number is wanted, not {text[:32]!r}", at)
    whole, places, unit = found[1], found[2] or "", found[3].lower()
    if field in _MONEY:
        value = _money(whole, places, unit, at)
    elif field is OfferNumber.MEMORY:
        value = _measured(whole, places, unit, _MEBIBYTES, ("GiB", "MiB, GiB or TiB"), at)
    elif field is OfferNumber.LEFT:
        value = _measured(whole, places, unit, _SECONDS, ("h", "s, m, h or d"), at)
    else:
        if unit or places:
            raise QueryError(f"{field.value} are counted: a whole number is wanted", at, whole)
        value = int(whole)
    if value > INTEGER_MAX:
        raise QueryError("a number of that size is no offer's", at)
    return value


def _money(whole: str, places: str, unit: str, at: int) -> int:
    if unit not in {"", "cr"}:
        raise QueryError(f"money is in credits: {unit[:16]!r} is no unit of it", at, whole)
    if len(places) > 6:
        raise QueryError("a credit has six decimal places", at, f"{whole}.{places[:6]}")
    return int(whole) * MICROCREDITS + int(places.ljust(6, "0") or "0")


def _measured(
    whole: str, places: str, unit: str, units: Mapping[str, int], named: tuple[str, str], at: int
) -> int:
    """A number with a unit, exact in the smallest one."""
    factor = units.get(unit)
    if factor is None:
        shown = f"{whole}{'.' if places else ''}{places}{named[0]}"
        found = f"{unit[:16]!r} is none" if unit else "it has none"
        raise QueryError(f"a unit is wanted, one of {named[1]}; {found}", at, shown)
    scaled = int(whole + places) * factor
    value, rest = divmod(scaled, int("1" + "0" * len(places)))
    if rest:
        raise QueryError("that is no whole number of the smallest unit", at)
    return value


# --- and back ------------------------------------------------------------------------------------


def format_clause(clause: Clause) -> str:
    """A clause as one writes it; reading it gives the same clause."""
    if isinstance(clause, NumberClause):
        value = format_number(clause.field, clause.value)
        return f"{clause.field.value}{clause.comparison.value}{value}"
    values = [_format_word(each) for each in clause.values]
    if len(values) == 1:
        return f"{clause.field.value}{'!=' if clause.excludes else '='}{values[0]}"
    how = "notin" if clause.excludes else "in"
    return f"{clause.field.value} {how} ({','.join(values)})"


def format_query(clauses: tuple[Clause, ...]) -> str:
    """A query as one writes it."""
    return " ".join(map(format_clause, clauses))


def format_number(field: OfferNumber, value: int) -> str:
    """A number with its unit, the largest in which it is whole."""
    if field in _MONEY:
        whole, places = divmod(value, MICROCREDITS)
        return f"{whole}.{places:06d}".rstrip("0").removesuffix(".")
    if field is OfferNumber.MEMORY:
        return _largest(value, {"TiB": 1024 * 1024, "GiB": 1024, "MiB": 1})
    if field is OfferNumber.LEFT:
        return _largest(value, {"d": 86_400, "h": 3600, "m": 60, "s": 1})
    return str(value)


def _largest(value: int, units: Mapping[str, int]) -> str:
    unit = next(name for name, size in units.items() if size == 1 or (value and not value % size))
    return f"{value // units[unit]}{unit}"


def _format_word(word: str) -> str:
    return word if _BARE.fullmatch(word) else f'"{word}"'


def miss_in_words(miss: NearestMiss, clauses: tuple[Clause, ...], now: int) -> str:
    """The nearest miss: which offer, and what stands in the way. Not cleaned for a terminal."""
    parts = [
        f"{found_in(miss.offer, clauses[at], now)}, wanted {format_clause(clauses[at])}"
        for at in miss.misses
        if at < len(clauses)
    ]
    return f"{miss.offer.draft.offer}: {'; '.join(parts)}"


def found_in(offer: OfferView, clause: Clause, now: int) -> str:
    """What an offer has where a clause looks, with its unit."""
    draft = offer.draft
    if isinstance(clause, WordClause):
        words = {
            OfferWord.PLATFORM: draft.platform,
            OfferWord.GPU: draft.gpu_model,
            OfferWord.CLASS: draft.compute_class,
            OfferWord.HOST: offer.host.hex(),
            OfferWord.OFFER: draft.offer,
        }
        return f"{clause.field.value} {words[clause.field]}"
    numbers = {
        OfferNumber.GPUS: draft.gpus,
        OfferNumber.MEMORY: draft.memory_mib,
        OfferNumber.PRICE: draft.ask_microcredits_per_gpu_hour,
        OfferNumber.FLOOR: draft.floor_microcredits_per_gpu_hour,
        OfferNumber.TOTAL: draft.ask_microcredits_per_gpu_hour * draft.gpus,
        OfferNumber.LEFT: max(0, draft.ends_at - now) // 1000,
    }
    value = numbers[clause.field]
    if value is None:
        return f"no {clause.field.value}"
    return f"{clause.field.value} {format_number(clause.field, value)}"
