"""Text that others chose, made fit for a terminal: what `clean` returns moves no cursor.

- Hosts choose labels, models choose words, a market chooses the text of an error. A terminal obeys
  control characters and turns the order of words round at bidirectional controls.
- Each such character becomes U+FFFD, visibly: nothing is dropped in silence, and lengths stay.
- Text is cut at a named limit *before* it is looked at: a megabyte costs what its beginning costs.
"""

from __future__ import annotations

import re
from typing import Final

LABEL_CHARACTERS_MAX: Final = 64
WORDS_CHARACTERS_MAX: Final = 300
TEXT_CHARACTERS_MAX: Final = 4096  # of an error that a person reads whole
REPLACEMENT: Final = "\ufffd"
CUT: Final = "…"

# C0, DEL and C1; soft hyphen; Arabic letter mark; zero width space; direction marks, embeddings,
# overrides and isolates; line and paragraph separators; invisible operators; byte order mark;
# interlinear annotations; surrogates; tags. Joiners (U+200C, U+200D) stay: scripts need them.
_UNFIT: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def clean(text: str, *, limit: int = WORDS_CHARACTERS_MAX, keep: str = "") -> str:
    """Text of at most `limit` characters in which nothing acts on a terminal.

    `keep` names control characters that the place allows: a tab, a newline, or both.
    """
    assert set(keep) <= {"\t", "\n"}, "no other control character is ever kept"
    cut = text if len(text) <= limit else text[: max(0, limit - 1)] + CUT
    if cut.isprintable():
        return cut
    return _UNFIT.sub(lambda found: found[0] if found[0] in keep else REPLACEMENT, cut)
